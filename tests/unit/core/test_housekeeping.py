"""Walks through all buckets, in slices: who is dropped, and when."""

from __future__ import annotations

import pytest

from director.core import housekeeping
from director.core.housekeeping import DROP_EVERY, LOG_EVERY, Housekeeping
from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Backend, Gate
from director.core.placement.hashing import UserHash
from director.core.placement.names import entry
from director.core.placement.users import BUCKETS, EARLIEST_DROP, ONE_LOGIN
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, LogEvent
from director.types import Now, UserKey
from tests.twins import NAMES, hot_path

START = 1_000_000
EXPIRE = 900


class Kept:
    """A table with a limit, and what keeps it small."""

    def __init__(self, twin: str, limit: int) -> None:
        hot = hot_path(twin)
        self.assigner: Assigner = hot.Assigner(hot.UserTable(EXPIRE), UserHash())
        self.hosts = [
            Backend(host_id(f"127.0.1.{n}"), f"127.0.1.{n}", None, "", 100, True, since=0) for n in (1, 2, 3)
        ]
        self.assigner.set_backends(self.hosts[:2])
        self.assigner.gate, self.assigner.limit, self.assigner.remember_names = Gate.OPEN, limit, True
        self.names = hot.NameTable()
        self.counters = Counters()
        self.housekeeping = Housekeeping(self.assigner, self.names, self.counters)
        self.digest = b"hosts"
        self.housekeeping.start(Now(0, START))
        self.turns = 0

    def log_in(self, first: int, after: int, mono: float) -> None:
        self.assigner.unix = int(START + mono)
        for number in range(first, after):
            name = b"user%d" % number
            self.assigner.assign_named(UserHash().key(name), b"", name)
        self.names.add(self.assigner.take_names())

    def until(self, begin: float, mono: float) -> list[Effect]:
        """All turns that are due in that time."""
        effects: list[Effect] = []
        now = begin
        while now <= mono:
            effects += self.housekeeping.turn(Now(now, START + now), self.digest)
            self.turns += 1
            due = self.housekeeping.next_deadline()
            assert due is not None
            now = now if self.housekeeping.has_work else max(now, due)
        return effects

    @property
    def users(self) -> int:
        return len(self.assigner.users)


@pytest.fixture(params=NAMES)
def twin(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.shows("rule 49")
def test_a_full_table_makes_room_among_users_of_one_login_until_a_tenth_is_free(twin: str) -> None:
    kept = Kept(twin, 100)
    kept.log_in(0, 120, 0)
    kept.until(0, EARLIEST_DROP - 1)
    assert kept.users == 100
    kept.until(EARLIEST_DROP - 1, EARLIEST_DROP + DROP_EVERY)
    assert kept.users <= 90
    assert kept.counters.dropped_early == 100 - kept.users < 50
    kept.log_in(100, 110, 80)
    assert kept.users == 110 - kept.counters.dropped_early, "there is room for new users again"


def test_a_table_that_is_not_full_drops_no_record_early(twin: str) -> None:
    kept = Kept(twin, 100)
    kept.log_in(0, 99, 0)
    kept.until(0, 300)
    assert (kept.users, kept.counters.dropped_early) == (99, 0)


def test_the_names_of_users_who_are_dropped_go_with_them(twin: str) -> None:
    kept = Kept(twin, 100)
    kept.log_in(0, 100, 0)
    kept.until(0, EARLIEST_DROP + DROP_EVERY)
    named = [key for number in range(BUCKETS) for key in kept.names.names(number)]
    assert len(named) == kept.users < 100
    assert all(kept.assigner.users.get(key) is not None for key in named)


def test_a_full_table_is_walked_through_in_slices_every_ten_seconds(
    twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "RECORDS", 2)
    kept = Kept(twin, 100)
    kept.log_in(0, 100, 0)
    for number in range(100):
        kept.assigner.assign(UserHash().key(b"user%d" % number), b"")
    walk = BUCKETS // (2 * BUCKETS // 100)
    turns = []
    for begin, end in ((0, 3), (3, 11), (11, 14)):
        kept.turns = 0
        kept.until(begin, end)
        turns.append(kept.turns)
    assert turns[0] > walk, "a share of the buckets in each turn"
    assert turns[1] < walk, "then a pause"
    assert turns[2] > walk, "then the next walk, since the table is full still"
    assert kept.users == 100


def test_after_a_host_change_users_of_one_login_are_confirmed_in_slices(
    twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(twin, 100)
    kept.log_in(0, 90, 0)
    kept.until(0, 0.5)
    monkeypatch.setattr(housekeeping, "RECORDS", 2)
    kept.assigner.users.take_changes()
    kept.assigner.set_backends(kept.hosts)
    kept.digest = b"other hosts"
    assert kept.housekeeping.is_behind(kept.digest)
    kept.housekeeping.turn(Now(0.6, START + 0.6), kept.digest)
    assert not kept.housekeeping.is_behind(kept.digest)
    assert kept.housekeeping.has_work, "not all in one turn"
    kept.until(0.6, 0.6)
    assert kept.assigner.users.has_changes
    for number in range(90):
        user = kept.assigner.users.get(UserKey(UserHash().key(b"user%d" % number)))
        assert user is not None
        if user.flags == ONE_LOGIN:
            home = kept.assigner.place(user.key >> 32, b"")
            assert home is not None
            assert home.id == user.host


@pytest.mark.shows("A-31")
def test_users_who_are_not_remembered_are_reported_once_a_minute(twin: str) -> None:
    kept = Kept(twin, 10)
    logged = []
    for second in range(150):
        kept.log_in(0, 12, second)
        logged += [(second, log) for log in kept.until(second, second + 0.5) if isinstance(log, LogEvent)]
    assert [second for second, _ in logged] == [1, 1 + LOG_EVERY, 1 + 2 * LOG_EVERY]
    (_, first), (_, second_line), _ = logged
    assert (first.event, first.fields["limit"], first.fields["not_remembered"]) == (
        "users_limit_reached",
        10,
        4,
    )
    assert second_line.fields["not_remembered"] == 2 * LOG_EVERY


def test_names_of_users_who_are_gone_go_with_the_expiry_sweep(twin: str) -> None:
    kept = Kept(twin, 100)
    kept.log_in(0, 20, 0)
    kept.names.add(entry(UserHash().key(b"user1"), b"User1"))
    kept.until(0, 3 * EXPIRE + 70)
    assert (kept.users, len(kept.names)) == (0, 0)
