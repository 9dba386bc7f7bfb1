"""Tables of thousands of hosts: where one of them changes, nothing is made anew of the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from director.core.protocol.effects import Effect
from director.core.protocol.events import HostChange
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable
from director.types import Address
from director.wire import hotpath
from tests.steps import FIVE_MS, counted
from tests.turns import Busy

HOSTS = 2000
ROWS = [HostRow(f"10.9.{n >> 8}.{n & 255}", "", True, 5, "", 5, 100, 5, True, 5) for n in range(HOSTS)]
CHANGED = Address(ROWS[7].address)


@pytest.mark.shows("A-44")
@pytest.mark.skipif(not hotpath.COMPILED, reason="the readable twin takes longer for each host")
def test_no_turn_in_which_one_of_two_thousand_hosts_changes_is_long() -> None:
    steps: list[int] = []

    def measure(turn: Callable[[], list[Effect]]) -> list[Effect]:
        effects, took = counted(turn)
        steps.append(took)
        return effects

    busy = Busy(measure).start()
    busy.core.hosts.put(ROWS)
    busy.feed(HostChange(1, CHANGED, weight=50))
    busy.run(3.0)
    steps.clear()
    busy.feed(HostChange(2, CHANGED, weight=60))
    busy.run(3.0)
    assert busy.core.hosts.rows[CHANGED].weight == 60
    assert max(steps) < FIVE_MS


def test_what_was_made_of_rows_is_that_of_a_table_that_has_always_been_so() -> None:
    table = HostTable()
    for stamp, row in enumerate(ROWS[:50] + ROWS[20:30], 10):
        table.merge([row])
        table.change(Address(row.address), stamp, weight=stamp, up=stamp % 3 > 0)
        assert len(table.backends()) == len(table.present())
        assert table.digest()
    table.change(Address(ROWS[40].address), 100, remove=True)
    table.adopt_stored(ROWS[60:70])
    other = HostTable()
    other.put(reversed(table.rows.values()))
    assert (table.present(), table.backends()) == (other.present(), other.backends())
    assert table.digest() == other.digest()
