"""A director that answers while its store is being read."""

from __future__ import annotations

from director.core.moves.jobs import Flush, Forget, UnpinUser
from director.core.placement.users import BUCKET_SHIFT, pack
from director.core.protocol.effects import Answer, Effect, FetchBuckets, ListSessions, OperationFailed
from director.core.protocol.events import BucketsRead, Lookup, Started, StoredUsers, StoreOpened
from director.errors import TryAgain
from director.types import RequestId
from tests.unit.core.cores import BACKENDS, START, Played, of, user

ALICE, BOB = user(b"alice", BACKENDS[3]), user(b"bob", BACKENDS[2])
BUCKET = ALICE.key >> BUCKET_SHIFT


def reading() -> tuple[Played, list[Effect]]:
    """A director alone that has begun to read its store, and what it wanted at its start."""
    played = Played(started=False)
    played.handle(StoreOpened(), 0)
    return played, played.handle(Started(), 0) + played.until(0.5)


def log_in(played: Played, *requests: int) -> list[Effect]:
    effects = []
    for request in requests:
        effects += played.handle(Lookup(RequestId(request), ALICE.key, b"", b"alice"), played.mono)
    return effects + played.until(played.mono + 0.1)


def hosts(effects: list[Effect]) -> list[str]:
    return [answer.backend.address for answer in of(Answer, effects)]


def test_a_login_of_a_user_without_a_record_requests_the_bucket_once_and_gets_the_stored_host() -> None:
    played, _ = reading()
    waiting = log_in(played, 1, 2)
    assert (hosts(waiting), of(FetchBuckets, waiting)) == ([], [FetchBuckets((BUCKET,))])
    answered = played.handle(StoredUsers(pack([ALICE])), 1)
    answered += played.handle(BucketsRead((BUCKET,)), 1) + played.until(1.1)
    assert hosts(answered) == [BACKENDS[3], BACKENDS[3]]


def test_a_user_without_a_stored_record_is_assigned_when_the_bucket_has_been_read() -> None:
    played, _ = reading()
    log_in(played, 1)
    answered = played.handle(BucketsRead((BUCKET,)), 1) + played.until(1.1)
    placed = played.core.assigner.place(ALICE.key >> 32, b"")
    assert placed is not None
    assert hosts(answered) == [placed.address]


def test_users_of_buckets_that_have_been_read_do_not_wait_for_the_others() -> None:
    played, _ = reading()
    played.handle(StoredUsers(pack([ALICE])), 1)
    played.handle(BucketsRead((BUCKET,)), 1)
    assert hosts(log_in(played, 1)) == [BACKENDS[3]]
    assert played.core.loading


def test_when_the_store_stops_answering_no_login_waits_for_it() -> None:
    played, _ = reading()
    log_in(played, 1)
    assert len(hosts(played.handle(BucketsRead(None), 1) + played.until(1.1))) == 1
    assert not played.core.loading


def test_sessions_are_reviewed_when_all_users_are_known() -> None:
    played, effects = reading()
    assert of(ListSessions, effects) == []
    assert of(ListSessions, played.handle(BucketsRead(None), 1)) == [ListSessions()]


def test_what_walks_through_all_users_is_refused_until_they_are_known() -> None:
    played, _ = reading()
    played.handle(StoredUsers(pack([BOB])), 1)
    orders = [Flush(1), Forget(2), UnpinUser(3, BOB.key)]
    failed = [f for order in orders for f in of(OperationFailed, played.handle(order, 1))]
    assert [(f.operation, f.error) for f in failed] == [(1, TryAgain), (2, TryAgain), (3, TryAgain)]
    played.handle(BucketsRead(None), 2)
    assert of(OperationFailed, played.handle(Flush(4), START)) == []
