"""The messages that two neighbours exchange when they connect."""

from __future__ import annotations

import pytest

from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS, User, UserTable, pack
from director.core.protocol.effects import Effect, Send
from director.core.protocol.messages import Digests, ExchangeDone, Names, RingMessage, Summaries, Users
from director.core.ring import link as linking
from director.core.ring.exchange import RANGE, SMALL
from director.core.ring.link import LinkState, Neighbour, postpone_exchanges
from director.types import Address, HostId, LinkId, MemberId, Stamp, UserKey
from tests.unit.core.cores import EXPIRE, START, at, identity, messages

D1, D2 = MemberId("10.0.0.1:9090"), MemberId("10.0.0.2:9090")


def user(number: int, *, seen: int = START, decided: int = START) -> User:
    return User(UserKey((number * 2654435761 % 2**32) << 32 | number), HostId(5), Stamp(decided), seen, 0)


class End:
    """One end of an exchange."""

    def __init__(self, *users: User, names: bytes = b"") -> None:
        self.users, self.names = UserTable(EXPIRE), NameTable()
        for one in users:
            self.users.put(one)
        if names:
            self.names.add(names)
        self.link = Neighbour(LinkId(1), identity(D1), Address("10.0.0.2"), D2, b"", at(0))
        self.link.state = LinkState.EXCHANGING
        self.sent: list[RingMessage] = []

    def turn(self) -> list[Effect]:
        if not self.link.exchange_has_work:
            return []
        return self.link.exchange.work(self.users, self.names, True, at(0))

    @property
    def is_full(self) -> bool:
        self.link.finish_exchange()
        return self.link.state is LinkState.FULL

    def send_digests(self) -> None:
        while self.turn():
            pass

    def hear(self, message: RingMessage) -> None:
        match message:
            case Users(records):
                self.users.merge(records)
            case Names(entries):
                self.names.merge(entries)
            case Digests():
                assert self.link.exchange.compare_later(message) is None
            case Summaries():
                assert self.link.exchange.answer_later(message) is None
            case ExchangeDone():
                self.link.exchange.other_end_is_done(compared=True)


def exchange(one: End, other: End) -> int:
    """Let both ends take turns until they have done. Returns the turns."""
    turns = 0
    while not one.is_full or not other.is_full:
        turns += 1
        assert turns < 1000
        for end, peer in ((one, other), (other, one)):
            for message in messages(end.turn()):
                end.sent.append(message)
                peer.hear(message)
    return turns


def sent_users(end: End) -> int:
    return sum(len(message.records) // 22 for message in end.sent if isinstance(message, Users))


def test_after_an_exchange_both_know_what_either_knew() -> None:
    one, other = End(*map(user, range(50))), End(*map(user, range(30, 90)))
    exchange(one, other)
    assert one.users.digests(START) == other.users.digests(START)
    assert len(one.users) == 90


def test_only_what_differs_is_sent() -> None:
    same = [user(number) for number in range(500)]
    one, other = End(*same, user(1000)), End(*same)
    exchange(one, other)
    assert sent_users(one) + sent_users(other) < 10


@pytest.mark.shows("rule 34")
def test_nothing_but_digests_is_sent_where_nothing_differs() -> None:
    one, other = End(user(1)), End(user(1, seen=START - 1))
    exchange(one, other)
    assert sent_users(one) + sent_users(other) == 0


def test_the_later_decision_holds_on_both_sides() -> None:
    old, new = user(1, decided=START - 5), user(1, decided=START)._replace(host=HostId(9))
    one, other = End(old), End(new)
    exchange(one, other)
    assert one.users.get(new.key) == other.users.get(new.key) == new


def test_names_of_what_was_sent_come_when_all_else_is_done() -> None:
    entry = user(1).key.to_bytes(8) + (5).to_bytes(2) + b"alice"
    one, other = End(user(1), names=entry), End()
    exchange(one, other)
    assert other.names.bucket(user(1).key >> 52) == b""
    for message in messages(one.turn()):
        other.hear(message)
    assert other.names.bucket(user(1).key >> 52) == entry


@pytest.mark.shows("rule 6")
def test_the_link_is_full_only_when_both_ends_have_sent_all() -> None:
    end = End()
    end.send_digests()
    end.hear(Summaries([], [], True))
    assert messages(end.turn()) == [ExchangeDone(True)]
    assert not end.is_full
    end.hear(ExchangeDone(True))
    assert end.is_full
    assert end.is_full  # and stays so


def test_done_comes_behind_everything_that_differs() -> None:
    one, other = End(*map(user, range(3000))), End()
    exchange(one, other)
    assert isinstance(one.sent[-1], ExchangeDone)
    assert [type(message) for message in one.sent].count(ExchangeDone) == 1


def test_one_frame_does_not_hold_a_whole_table() -> None:
    one, other = End(*map(user, range(SMALL + 1))), End()
    one.send_digests()
    one.link.exchange.answer_later(Summaries(list(range(BUCKETS)), [b""] * BUCKETS, True))
    frames = [effect for _ in range(BUCKETS // RANGE) for effect in one.turn() if isinstance(effect, Send)]
    sizes = [sum(len(m.records) for m in frame.messages if isinstance(m, Users)) for frame in frames]
    assert max(sizes) < 300 * 1024
    assert sum(sizes) == (SMALL + 1) * 22
    assert len(other.users) == 0


def test_ranges_of_another_size_than_ours_are_compared_all_the_same() -> None:
    one = End(user(1))
    one.send_digests()
    for first in range(0, BUCKETS, 256):
        assert one.link.exchange.compare_later(Digests(first, bytes(8 * 256))) is None
    said = [message for _ in range(20) for message in messages(one.turn())]
    assert [message.last for message in said if isinstance(message, Summaries)] == [False] * 15 + [True]


def test_of_a_bucket_that_differs_only_the_records_that_the_other_lacks_are_sent() -> None:
    bucket = [User(UserKey(7 << 52 | n), HostId(5), Stamp(START), START, 0) for n in range(100)]
    one, other = End(*bucket), End(*bucket[:-1])
    exchange(one, other)
    assert (sent_users(one), sent_users(other)) == (1, 0)


def test_no_summary_is_sent_of_buckets_in_which_the_other_end_has_no_users() -> None:
    end = End(user(1))
    end.send_digests()
    end.link.exchange.compare_later(Digests(0, bytes(8 * BUCKETS)))
    assert messages(end.turn()) == [Summaries([], [], True)]


@pytest.mark.parametrize(
    ("summaries", "wrong"),
    [
        (Summaries([1], [], True), "do not fit"),
        (Summaries([1], [b"1234567"], True), "do not fit"),
        (Summaries([BUCKETS], [b""], True), "do not exist"),
        (Summaries([-1], [b""], True), "do not exist"),
        (Summaries([3, 3], [b"", b""], True), "came before: 3"),
    ],
)
def test_summaries_that_cannot_be_right_are_named(summaries: Summaries, wrong: str) -> None:
    assert wrong in (End().link.exchange.answer_later(summaries) or "")


def test_records_of_a_bucket_are_asked_for_once_on_each_link() -> None:
    link = End().link
    assert link.exchange.answer_later(Summaries([3, 4], [b"", b""], False)) is None
    assert link.exchange.answer_later(Summaries([5], [b""], False)) is None
    wrong = "summaries of a bucket that came before: 4"
    assert link.exchange.answer_later(Summaries([6, 4], [b"", b""], True)) == wrong


def test_a_congested_link_is_given_a_rest() -> None:
    end = End(user(1))
    assert end.link.exchange_has_work
    end.link.congested = True
    assert not end.link.exchange_has_work


@pytest.mark.parametrize(
    "digests",
    [
        Digests(0, b""),
        Digests(0, bytes(7)),
        Digests(128, bytes(8)),
        Digests(-1, bytes(8)),
        Digests(0, bytes(8 * (BUCKETS + 1))),
    ],
)
def test_digests_that_do_not_follow_are_named(digests: Digests) -> None:
    assert "digests of buckets" in (End().link.exchange.compare_later(digests) or "")


def test_digests_after_the_last_are_named() -> None:
    end = End()
    assert end.link.exchange.compare_later(Digests(0, bytes(8 * BUCKETS))) is None
    assert "where 4096.. were due" in (end.link.exchange.compare_later(Digests(4096, bytes(8))) or "")


def test_a_record_that_expired_long_ago_is_in_no_digest() -> None:
    old = user(1, seen=START - 3 * EXPIRE)
    one, other = End(old), End()
    assert one.users.digest(old.key >> 52, START) == other.users.digest(old.key >> 52, START)
    assert pack([old]) == one.users.bucket(old.key >> 52)


def test_a_joiner_with_many_users_compares_them_with_one_neighbour_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linking, "SMALL", 10)
    one, other = End(*map(user, range(20))), End(*map(user, range(20)))
    postpone_exchanges([one.link, other.link], len(one.users), at(0.1), joining=True, loading=False)
    assert (one.link.exchange_has_work, other.link.exchange_has_work) == (True, False)


def test_a_postponed_exchange_continues_when_memory_has_been_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linking, "SMALL", 10)
    one, other = End(*map(user, range(20))), End(*map(user, range(20)))
    postpone_exchanges([one.link, other.link], len(one.users), at(0.1), joining=True, loading=False)
    postpone_exchanges([one.link, other.link], len(one.users), at(0.1), joining=False, loading=False)
    assert (one.link.exchange_has_work, other.link.exchange_has_work) == (True, True)


def test_a_director_that_reads_its_store_exchanges_no_records() -> None:
    one = End(*map(user, range(20)))
    postpone_exchanges([one.link], len(one.users), at(0.1), joining=True, loading=True)
    assert not one.link.exchange_has_work
    postpone_exchanges([one.link], len(one.users), at(0.1), joining=True, loading=False)
    assert one.link.exchange_has_work
