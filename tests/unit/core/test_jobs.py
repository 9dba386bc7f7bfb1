"""Operations on many users, on one director: which users, how many at a time, and the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from director.core.moves.jobs import Flush, Forget, MoveUser, UnpinUser
from director.core.placement.addresses import host_id
from director.core.placement.users import BY_HAND, MOVING, PINNED, User, pack
from director.core.protocol.effects import Effect, Kick, OperationFailed, Persist, UsersDone
from director.core.protocol.events import HostChange, InterruptFlush, Kicked, KicksEnded, Persisted
from director.core.ring.partition import Standing
from director.errors import Refused, TryAgain, UnknownName
from director.records import MoveCounts
from director.types import Address, HostId, UserKey
from tests.unit.core.cores import BACKENDS, D2, D3, START, Played, of, user

NAMES = [b"user%d" % number for number in range(40)]


class Operator:
    """One director alone whose kicks and writings are answered at once; users are on the first host."""

    def __init__(self, names: Sequence[bytes] = NAMES, **settings: Any) -> None:
        self.played = Played(**(settings | {"kick_delay": 0.0}))
        self.users = [user(name, BACKENDS[0], seen=START - 60) for name in names]
        self.played.users.merge(pack(self.users))
        self.ended: list[int] = []
        self.done: list[MoveCounts] = []
        self.failed: list[OperationFailed] = []
        self.most = 0
        self.kicked: list[Kick] = []

    def do(self, event: Any, mono: float = 1.0, *, answers: bool = True) -> None:
        self._take(self.played.handle(event, mono), mono, answers=answers)
        for _ in range(500):
            if self.played.core.next_deadline() != 0.0:
                break
            self._take(self.played.until(mono), mono, answers=answers)

    def _take(self, effects: list[Effect], mono: float, *, answers: bool) -> None:
        self.most = max(self.most, len(self.played.core.moves))
        self.ended += [end.operation for end in of(UsersDone, effects)]
        self.done += [end.counts for end in of(UsersDone, effects)]
        self.failed += of(OperationFailed, effects)
        self.kicked += of(Kick, effects)
        if not answers:
            return
        for persist in of(Persist, effects):
            self._take(self.played.handle(Persisted(persist.number), mono), mono, answers=True)
        for kick in of(Kick, effects):
            self._take(self.played.handle(KicksEnded([Kicked(kick.kick, 1)]), mono), mono, answers=True)

    def hosts(self) -> list[HostId]:
        found = [self.played.users.get(one.key) for one in self.users]
        return [one.host for one in found if one is not None]


def test_a_flush_moves_users_to_where_the_hash_puts_them_and_leaves_those_who_are_there() -> None:
    one = Operator()
    one.do(Flush(1))
    placed = [one.played.core.assigner.place(u.key >> 32, b"") for u in one.users]
    assert one.hosts() == [backend.id for backend in placed if backend is not None]
    stayed = one.hosts().count(host_id(BACKENDS[0]))
    assert [(d.moved, d.unchanged) for d in one.done] == [(40 - stayed, stayed)]


def test_never_more_than_so_many_are_under_way() -> None:
    one = Operator(max_parallel_moves=3)
    one.do(Flush(1))
    assert one.most == 3
    assert one.done[0].moved > 20


def test_an_operator_may_ask_for_fewer_at_a_time_but_not_for_more() -> None:
    few, many = Operator(max_parallel_moves=5), Operator(max_parallel_moves=5)
    few.do(Flush(1, max_parallel=2))
    many.do(Flush(1, max_parallel=50))
    assert (few.most, many.most) == (2, 5)


def test_a_flush_of_another_host_or_tag_moves_no_user_and_of_an_unknown_host_is_refused() -> None:
    one = Operator()
    one.do(Flush(1, BACKENDS[1]))
    one.do(Flush(2, tag="gold"))
    one.do(Flush(3, Address("10.9.9.9")))
    assert [(d.moved, d.unchanged) for d in one.done] == [(0, 0), (0, 0)]
    assert one.ended == [1, 2]
    assert [(f.operation, f.error) for f in one.failed] == [(3, UnknownName)]


def test_pinned_users_stay_where_they_are() -> None:
    one = Operator()
    pinned = one.users[0]._replace(flags=PINNED, decided=one.users[0].decided)
    one.played.users.put(pinned)
    one.do(HostChange(9, BACKENDS[0], weight=0))
    one.do(Flush(1))
    assert one.played.users.get(pinned.key) == pinned
    assert (one.done[0].moved, one.done[0].unchanged, one.done[0].pinned) == (39, 0, 1)


def test_without_a_usable_host_a_flush_deletes_the_assignments() -> None:
    one = Operator()
    for address in BACKENDS:
        one.do(HostChange(9, address, up=False))
    one.do(Flush(1))
    assert set(one.hosts()) == {0}
    assert one.done[0].moved == 40


def test_an_interrupted_flush_begins_with_no_more_users() -> None:
    one = Operator(max_parallel_moves=2)
    one.do(HostChange(9, BACKENDS[0], weight=0))
    one.do(Flush(1), answers=False)
    one.do(InterruptFlush(1), answers=False)
    assert one.done == []
    assert (one.played.core.moves.led, len(one.played.core.jobs)) == (2, 1)
    for kick in list(one.kicked):
        one.do(KicksEnded([Kicked(kick.kick, 1)]), 1.2)
    one._take(one.played.until(4.0), 4.0, answers=True)
    assert [d.moved for d in one.done] == [2]


def test_progress_can_be_watched_until_the_flush_has_ended() -> None:
    one = Operator(max_parallel_moves=2)
    one.do(HostChange(9, BACKENDS[0], weight=0))
    one.do(Flush(1), answers=False)
    job = one.played.core.jobs.progress(1)
    assert job is not None
    assert (len(job.under_way), job.complete) == (2, False)
    assert one.played.core.jobs.progress(2) is None


@pytest.mark.shows("rule 24")
def test_forget_deletes_all_assignments_and_ends_with_the_last_session_without_the_delay() -> None:
    one = Operator()
    one.do(Forget(1, BACKENDS[0]), answers=False)
    records = [one.played.users.get(u.key) for u in one.users]
    moving = BY_HAND | MOVING
    assert {(r.host, r.flags, r.decided > START) for r in records if r is not None} == {(0, moving, True)}
    one._take(one.played.until(2.1), 2.1, answers=False)
    assert one.done == []
    for kick in list(one.kicked)[:40]:
        one.do(KicksEnded([Kicked(kick.kick, 1)]), 2.2)
    one._take(one.played.until(2.3), 2.3, answers=True)
    assert [(d.moved, d.kicked) for d in one.done] == [(40, 40)]
    assert {r.flags for u in one.users if (r := one.played.users.get(u.key)) is not None} == {BY_HAND}


@pytest.mark.parametrize(("flags", "moved", "unchanged"), [(PINNED, 1, 0), (0, 0, 1)])
def test_unpinning_leaves_the_user_on_the_host(flags: int, moved: int, unchanged: int) -> None:
    one = Operator([])
    alice = user(b"alice", BACKENDS[2], flags=flags)
    one.played.users.put(alice)
    one.do(UnpinUser(1, alice.key))
    assert [(d.moved, d.unchanged) for d in one.done] == [(moved, unchanged)]
    record = one.played.users.get(alice.key)
    assert record is not None
    assert (record.host, record.flags & PINNED) == (alice.host, 0)


def test_a_user_who_is_being_pinned_is_not_unpinned() -> None:
    one = Operator([])
    alice = user(b"alice", BACKENDS[2], flags=PINNED)
    one.played.users.put(alice)
    one.do(MoveUser(1, alice.key, BACKENDS[1], b"alice", pin=True), answers=False)
    under_way = one.played.users.get(alice.key)
    one.do(UnpinUser(2, alice.key), answers=False)
    assert [(f.operation, f.error) for f in one.failed] == [(2, TryAgain)]
    assert one.played.users.get(alice.key) == under_way


def test_a_move_remembers_the_name_for_listings_where_names_are_remembered() -> None:
    one = Operator([])
    one.played.core.assigner.remember_names = True
    alice = user(b"alice", BACKENDS[2])
    one.do(MoveUser(1, alice.key, BACKENDS[1], b"alice"))
    assert b"alice" in one.played.core.names.bucket(alice.key >> 52)


def test_users_that_have_expired_are_not_moved() -> None:
    one = Operator([])
    old = user(b"alice", BACKENDS[0], seen=START - 5000)
    one.played.users.put(old)
    one.do(HostChange(9, BACKENDS[0], weight=0))
    one.do(Flush(1))
    assert one.done[0].moved == 0
    assert one.played.users.get(old.key) == User(*old)


@pytest.mark.shows("rule 38")
def test_the_minority_side_refuses_operations_on_users() -> None:
    played = Played(D2, D3)
    assert played.core.standing is Standing.WAIT
    for number, event in enumerate((Flush(0), Forget(1), MoveUser(2, UserKey(1), BACKENDS[0]))):
        (failed,) = of(OperationFailed, played.handle(event, 1.0))
        assert (failed.operation, failed.error) == (number, Refused)
        assert "minority side" in failed.reason
