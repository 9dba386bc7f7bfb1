"""The changes that the hosts of a configuration file make to the cluster, for `director plan` and for the
answer to a reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from director.core.backendnames import carried, plan_moves
from director.core.filechanges import AppliedHost, Difference, Outcome, compare
from director.core.protocol.events import HostMove
from director.core.tables.hosts import BackendSetting, HostTable
from director.core.tables.movedhosts import ends_without_address, moved_rows
from director.records import Plan, PlannedChange
from director.service.operations.pools import NO_HOST_LEFT, pool_name
from director.types import MemberId


def planned(
    me: MemberId,
    hosts: HostTable,
    applied: Sequence[AppliedHost] | None,
    settings: Sequence[BackendSetting],
    unresolved: Sequence[BackendSetting],
    unix: int,
) -> Plan:
    """Return the changes that the file makes to the host table.

    Args:
        applied: the hosts that this director applied last; None: unknown.
        settings: the hosts of the file.
        unresolved: names in the file that have no address now.
        unix: Unix seconds.
    """
    found = plan_moves(applied, settings, unresolved, hosts.rows, unix)
    after = HostTable()
    after.put(hosts.rows.values())
    if found.moves:
        after.put(moved_rows(hosts.rows, found.moves, unix))
    known = None if applied is None else carried(applied, found.settings, after.rows)
    differences = compare(known, found.settings, after.rows)
    changes = [_planned_move(move) for move in found.moves if not ends_without_address(move)]
    changes += [_planned(difference) for difference in differences]
    _make(after, differences, unix)
    return Plan(me=me, known=applied is not None, changes=changes, warnings=_lost_pools(hosts, after))


def _make(table: HostTable, differences: Iterable[Difference], unix: int) -> None:
    """Make the changes of the file in `table`."""
    for difference in differences:
        if difference.outcome is Outcome.MADE:
            change = difference.change()
            table.change(
                change.address, unix, remove=change.remove, tag=change.tag, weight=change.weight, up=change.up
            )


def _lost_pools(before: HostTable, after: HostTable) -> list[str]:
    """Return a warning for each pool that loses its last usable host."""
    remaining = after.usable()
    lost = sorted(tag for tag, usable in before.usable().items() if usable and not remaining.get(tag))
    return [f"the {pool_name(tag)} loses its last usable host: {NO_HOST_LEFT}" for tag in lost]


def _planned_move(move: HostMove) -> PlannedChange:
    return PlannedChange(
        address=move.before, what="address", now=move.before, file=move.after, outcome="made", decided=0
    )


def _planned(difference: Difference) -> PlannedChange:
    now, file = difference.values()
    return PlannedChange(
        address=difference.address,
        what=difference.attribute,
        now=now,
        file=file,
        outcome=difference.outcome.value,
        decided=difference.decided,
    )
