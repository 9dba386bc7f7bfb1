"""Stamps far in the future, from a neighbour or a store: links stay up, and operators can change records."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKETS, BY_HAND, LATEST, MOVING, User, pack, unpack
from director.core.protocol.events import Received, StoredUsers
from director.core.protocol.messages import HostRow, Hosts, MemberRow, Members, RingMessage, Users
from director.core.protocol.stamps import AHEAD, latest_of
from director.types import Address, MemberId, Stamp, UserKey
from tests.simulation.parts import EXPIRE
from tests.simulation.world import HASH, Node, World

HOST = Address("127.0.1.1")
D9 = MemberId("127.0.0.99:9090")
YEAR = 365.25 * 86400
USERS = [f"user{i}" for i in range(40)]
ROW = HostRow(HOST, "", True, 0, "", 0, 100, 0, True, 0)


def ring(directors: int = 2, store: str = "own") -> World:
    return World(directors, store=store).start().run_until_in_sync(1.0)


def forge(world: World, sender: str, receiver: str, *messages: RingMessage) -> None:
    """Send messages from one director to another, past the core of the sender."""
    to, liar = world.node(receiver), world.node(sender)
    link = next(link for link, wire in to.links.items() if liar in (wire.dialler, wire.acceptor))
    to.handle(Received(link, list(messages)))


def forged(**fields: Any) -> Hosts:
    return Hosts([msgspec.structs.replace(ROW, **fields)])


def row(node: Node) -> HostRow:
    return node.core.hosts.rows[HOST]


STAMPS = ("present_at", "tag_at", "weight_at", "up_at")


@pytest.mark.shows("rule 45", "A-51")
@pytest.mark.parametrize("stamp", STAMPS)
def test_a_host_with_a_stamp_at_the_maximum_can_be_changed(stamp: str) -> None:
    world = ring(3)
    links = {node: set(node.links) for node in world.nodes.values()}
    forge(world, "d3", "d1", forged(**{stamp: LATEST}))
    world.run(0.5).run_until_in_sync(2.0)
    changed = world.change("d2", HOST, weight=7, up=False, tag="gold", retag=True)
    world.run(0.5).run_until_in_sync(2.0)
    assert changed.done is not None
    assert {node: set(node.links) for node in world.nodes.values()} == links
    assert [(row(n).weight, row(n).up, row(n).tag) for n in world.nodes.values()] == [(7, False, "gold")] * 3
    assert world.differences() == []


@pytest.mark.shows("rule 45", "A-51")
def test_a_host_removed_with_a_stamp_at_the_maximum_can_be_added_again() -> None:
    world = ring()
    forge(world, "d2", "d1", forged(present=False, present_at=LATEST))
    world.run(0.5).run_until_in_sync(2.0)
    added = world.change("d1", HOST, add=True, weight=50)
    world.run(0.5).run_until_in_sync(2.0)
    assert added.done is not None
    assert all(row(node).present and row(node).weight == 50 for node in world.nodes.values())
    replies = world.logins(USERS, "d1")
    assert HOST in {reply.host for reply in replies}


@pytest.mark.shows("A-51")
def test_a_director_added_with_a_stamp_at_the_maximum_can_be_removed() -> None:
    world = ring(3)
    d3 = world.node("d3").member
    forge(world, "d2", "d1", Members([MemberRow(d3, True, LATEST)]))
    world.run(1.0)
    removed = world.change_member("d1", "d3", remove=True)
    world.run(2.0)
    assert removed.done is not None
    assert all(d3 not in world.node(name).core.members.listed() for name in ("d1", "d2"))


@pytest.mark.shows("A-52")
def test_a_forged_row_is_counted_and_its_source_is_logged_once_a_minute() -> None:
    world = ring(3)
    for weight in (1, 2, 3):
        forge(world, "d3", "d1", forged(weight=weight, weight_at=LATEST))
        world.run(1.0)
    d1, d3 = world.node("d1"), world.node("d3")
    logged = [line for line in world.lines if "d1 stamps_clipped" in line]
    assert len(logged) == 1
    assert f"'source': 'ring', 'peer': '{d3.member}', 'hosts': 1" in logged[0]
    assert d1.core.counters.stamps_clipped == {"ring": 3}
    world.run(60.0)
    forge(world, "d3", "d1", forged(weight=4, weight_at=LATEST))
    logged = [line for line in world.lines if "d1 stamps_clipped" in line]
    assert len(logged) == 2
    assert "'since_last_line': 2" in logged[1]


@pytest.mark.shows("rule 45", "A-52")
def test_an_unchanged_row_with_a_forged_stamp_moves_no_user_and_delays_no_new_user() -> None:
    world = ring(3)
    hosts = {reply.user: reply.host for reply in world.logins(USERS, "d1")}
    for _ in range(10):
        world.run(1.0)
        forge(world, "d3", "d1", forged(present_at=LATEST, tag_at=LATEST))
        assert world.in_sync()
    assert world.differences() == []
    assert {reply.user: reply.host for reply in world.logins(USERS, "d2")} == hosts
    assert [node.kicks for node in world.nodes.values()] == [[], [], []]


@pytest.mark.shows("rule 45", "A-53")
@pytest.mark.parametrize("skews", [(0.9, -0.9, 0.0), (-0.9, 0.9, 0.5), (0.0, 0.9, -0.9)])
@pytest.mark.parametrize("stamp", [LATEST, 0, 1, 2, 3, 4, 5])
def test_directors_whose_clocks_differ_agree_on_clipped_stamps(skews: tuple[float, ...], stamp: int) -> None:
    """Also if the stamp is within the bound by one clock and beyond it by another."""
    world = World(3)
    for node, skew in zip(world.nodes.values(), skews, strict=True):
        node.skew = skew
    world.start().run_until_in_sync(1.0)
    limit = int(world.node("d1").unix) + AHEAD + 12
    at = stamp if stamp == LATEST else limit - 2 + stamp
    key = HASH.key(b"alice")
    record = pack([User(key, host_id(HOST), Stamp(at), min(at + EXPIRE // 3, LATEST), 0)])
    messages = [forged(present=False, present_at=at), Users(record), Members([MemberRow(D9, False, at)])]
    forge(world, "d2", "d1", *messages)
    world.run(0.3)
    forge(world, "d1", "d3", *messages)
    world.run(7.0).run_until_in_sync(2.0)
    nodes = list(world.nodes.values())
    assert all(node.core.hosts.rows == nodes[0].core.hosts.rows for node in nodes)
    assert all(node.core.members.rows == nodes[0].core.members.rows for node in nodes)
    assert {node.users.get(key) for node in nodes} == {nodes[0].users.get(key)}
    assert not row(nodes[0]).present
    assert row(nodes[0]).present_at <= limit + 7
    assert world.differences() == []


@pytest.mark.shows("I-13", "A-51")
def test_a_user_with_a_stamp_at_the_maximum_can_be_moved_and_the_assignment_expires() -> None:
    world = ring(3)
    world.login("alice", "d1")
    world.run(0.1)
    key = HASH.key(b"alice")
    there = world.node("d1").users.get(key)
    assert there is not None
    other = next(one.address for one in world.settings if host_id(one.address) != there.host)
    forge(world, "d3", "d1", Users(pack([there._replace(decided=Stamp(LATEST), seen=LATEST)])))
    world.run(0.1)
    moved = world.move("d2", "alice", other)
    world.run(10.0)
    assert moved.users is not None
    assert world.where("alice") == {other}
    step(world, AHEAD, "d1", "d2", "d3")  # an hour passes
    world.run(4 * EXPIRE)
    assert [node.users.get(key) for node in world.nodes.values()] == [None] * 3


def step(world: World, seconds: float, *names: str) -> None:
    """Set the clocks of these directors."""
    for name in names:
        world.node(name).skew += seconds


@pytest.mark.shows("rule 46")
@pytest.mark.parametrize("seconds", [3700.0, 86400.0, 10 * YEAR])
def test_a_director_whose_clock_was_ahead_agrees_with_the_others_once_it_is_correct(seconds: float) -> None:
    world = ring(3)
    world.logins(USERS, "d1")
    step(world, seconds, "d3")
    world.run(8.0)
    world.change("d3", HOST, weight=7)
    world.logins([f"other{i}" for i in range(40)], "d3")
    world.run(30.0)
    step(world, -seconds, "d3")
    world.run(10.0).run_until_in_sync(10.0)
    world.run(EXPIRE / 3)
    assert world.differences() == []
    assert_within_bound(world)
    changed = world.change("d1", HOST, weight=8)
    world.run(1.0)
    assert changed.done is not None
    assert {row(node).weight for node in world.nodes.values()} == {8}


@pytest.mark.shows("rule 46")
@pytest.mark.parametrize("seconds", [3700.0, 86400.0, 10 * YEAR])
@pytest.mark.parametrize("apart", [0.0, 0.7, 5.0])
def test_directors_whose_clocks_were_all_ahead_agree_once_the_clocks_are_correct(
    seconds: float, apart: float
) -> None:
    world, more = ring(3), [f"other{i}" for i in range(40)]
    step(world, seconds, "d1", "d2", "d3")
    world.run(3.0).run_until_in_sync(10.0)
    world.logins(USERS, "d1")
    world.change("d2", HOST, weight=7, up=False)
    world.run(3.0)
    removed = world.change("d2", "127.0.1.2", remove=True)
    world.run(3.0)
    world.change("d2", "127.0.1.2", add=True)
    world.run(10.0)
    world.logins(more, "d1")
    world.run(1.0)
    assert removed.done is not None
    before = {user: world.where(user) for user in more}
    for node in world.nodes.values():
        node.kicks.clear()
    for name in ("d1", "d2", "d3"):
        step(world, -seconds, name)
        world.run(apart)
    world.run(20.0).run_until_in_sync(10.0)
    world.run(EXPIRE / 3)
    assert world.differences() == []
    assert_within_bound(world)
    world.logins(more, "d3")
    assert {user: world.where(user) for user in more} == before  # no user is moved, no session is ended
    assert [node.kicks for node in world.nodes.values()] == [[], [], []]
    assert {(row(node).weight, row(node).up) for node in world.nodes.values()} == {(7, False)}
    changed = world.change("d3", HOST, weight=8)
    world.run(1.0)
    assert changed.done is not None
    assert {row(node).weight for node in world.nodes.values()} == {8}


@pytest.mark.shows("rule 46", "A-57")
def test_operators_changes_survive_a_director_whose_clock_is_years_behind() -> None:
    """It alone has the last change; another director has an earlier change, by a correct clock."""
    world = ring(2)
    world.change("d1", HOST, weight=7)
    world.run(5.0)
    world.node("d2").crash()
    world.run(10.0)
    last = world.change("d1", HOST, weight=8)
    world.run(5.0)
    assert last.done is not None
    step(world, -10 * YEAR, "d1")
    world.run(30.0)
    again = world.change("d1", HOST, up=False)
    world.run(5.0)
    assert again.done is not None
    step(world, 10 * YEAR, "d1")
    world.node("d2").start()
    world.run(30.0).run_until_in_sync(10.0)
    assert {(row(node).weight, row(node).up) for node in world.nodes.values()} == {(8, False)}
    assert world.differences() == []


@pytest.mark.shows("rule 46")
def test_a_director_that_was_down_undoes_no_change_after_all_clocks_were_years_behind() -> None:
    world = ring(3)
    world.change("d1", HOST, weight=7)
    world.change("d1", "127.0.1.2", weight=5)
    world.change_member("d1", "d3")
    world.run(5.0)
    world.node("d3").stop()
    world.run(5.0)
    world.change("d1", HOST, weight=8, up=False)
    world.run(3.0)
    step(world, -10 * YEAR, "d1", "d2")
    world.run(30.0)
    assert world.node("d1").core.counters.stamps_clipped.keys() == {"memory"}
    world.change("d2", "127.0.1.2", weight=6)
    world.run(3.0)
    step(world, 10 * YEAR, "d1", "d2")
    world.run(30.0)
    world.node("d3").start()
    world.run(20.0).run_until_in_sync(10.0)
    assert world.differences() == []
    for node in world.nodes.values():
        assert (row(node).weight, row(node).up) == (8, False)
        assert node.core.hosts.rows[Address("127.0.1.2")].weight == 6


@pytest.mark.shows("rule 46")
@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_director_that_was_down_while_all_clocks_were_corrected_undoes_no_change(store: str) -> None:
    """It has an earlier change in its files, by a clock that was ahead, and gets a correct clock last."""
    world = World(3, store=store)
    step(world, 10 * YEAR, "d1", "d2", "d3")
    world.start().run_until_in_sync(10.0)
    world.logins(USERS, "d1")
    world.change("d2", HOST, weight=7)
    world.change_member("d1", "d3")
    world.run(5.0)
    before = {user: world.where(user) for user in USERS}
    world.node("d3").crash()
    world.run(5.0)
    world.change("d1", HOST, weight=8, up=False)
    moved = next(user for user, host in before.items() if host != {"127.0.1.2"})
    world.move("d1", moved, "127.0.1.2")
    world.run(10.0)
    step(world, -10 * YEAR, "d1", "d2", "d3")
    world.run(20.0)
    world.node("d3").start()
    world.run(20.0).run_until_in_sync(10.0)
    assert {(row(node).weight, row(node).up) for node in world.nodes.values()} == {(8, False)}
    world.logins(USERS, "d3")
    assert {user: world.where(user) for user in USERS} == before | {moved: {"127.0.1.2"}}
    assert_within_bound(world)
    assert world.differences() == []


def test_stamps_of_users_are_clipped_before_the_exchange_with_a_neighbour() -> None:
    world = ring(2)
    d1, d2 = world.node("d1"), world.node("d2")
    d1.crash()
    world.partition_off("d1").run(10.0)
    d1.written = d1.unix + 2 * AHEAD  # so it starts in doubt
    d1.start()
    world.run(3.0)
    far = int(d1.unix) + 86400
    keys = [UserKey((0xFFF << 52) + (number << 36)) for number in range(5000)]  # the last to be clipped
    many = [User(key, host_id(HOST), Stamp(far), far, 0) for key in keys]
    d1.handle(StoredUsers(pack(many)))
    world.heal()
    world.run(10.0).run_until_in_sync(10.0)
    assert d1.core.counters.stamps_clipped == {"memory": 5000}
    assert d2.core.counters.stamps_clipped == {}
    # the link is young
    assert not any("connecting again to compare all records" in line for line in world.lines)
    assert len(d2.users) == 5000
    assert world.differences() == []


def test_a_director_whose_clock_is_behind_its_files_clips_no_stamp_before_another_agrees() -> None:
    world = ring(2)
    world.login("alice", "d1")
    world.change("d1", HOST, weight=7)
    world.run(5.0)
    world.node("d1").crash()
    step(world, -10 * YEAR, "d1")
    world.node("d1").start()
    world.run(5.0)
    d1 = world.node("d1")
    assert d1.core.clock.doubted
    assert d1.core.counters.stamps_clipped == {}
    step(world, 10 * YEAR, "d1")
    world.run(10.0).run_until_in_sync(5.0)
    assert not d1.core.clock.doubted
    assert d1.core.counters.stamps_clipped == {}
    assert row(d1).weight == 7
    assert world.differences() == []


def assert_within_bound(world: World) -> None:
    for node in world.nodes.values():
        limit = int(node.unix) + AHEAD + 12
        rows = [*node.core.hosts.rows.values(), *node.core.members.rows.values()]
        assert all(latest_of(one) <= limit for one in rows)
        users = [user for number in range(BUCKETS) for user in unpack(node.users.bucket(number))]
        assert all(one.decided <= limit and one.seen <= limit + EXPIRE // 3 for one in users)


class Liar:
    """A member that sends present rows, or records of users, with times far ahead."""

    def __init__(self, world: World, chance: random.Random, named: list[str]) -> None:
        self.world, self.chance, self.named = world, chance, named

    def time(self) -> int:
        """Return a time near the bound, a day ahead, or the last possible time."""
        unix = int(self.world.node("d3").unix)
        return self.chance.choice([unix + AHEAD + 12 + self.chance.randrange(-3, 6), unix + 86_400, LATEST])

    def lie(self) -> RingMessage:
        kind = self.chance.choice(["user", "user", "host", "member"])
        if kind == "member":
            return Members([MemberRow(self.chance.choice(self.world.members), True, self.time())])
        if kind == "host":
            # A presence or tag with a time within the bound would count as an operator's change.
            known = self.chance.choice(list(self.world.node("d3").core.hosts.rows.values()))
            far = {stamp: self.chance.choice([self.time() + 86_400, LATEST]) for stamp in STAMPS[:2]}
            far |= {stamp: self.time() for stamp in STAMPS[2:]}
            names = self.chance.sample(STAMPS, self.chance.randrange(1, 5))
            return Hosts([msgspec.structs.replace(known, **{name: min(far[name], LATEST) for name in names})])
        key = HASH.key(self.chance.choice(self.named).encode())
        host = host_id(self.chance.choice(self.world.settings).address)
        flags = self.chance.choice([0, BY_HAND, BY_HAND | MOVING])
        return Users(pack([User(key, host, Stamp(self.time()), self.time(), flags)]))


@pytest.mark.parametrize("seed", range(12))
def test_all_directors_agree_on_forged_times_and_users_that_are_not_named_stay(
    seed: int,
) -> None:
    chance = random.Random(seed)
    world = World(3, store=chance.choice(["own", "shared"]), seed=seed)
    for node in world.nodes.values():
        node.skew = chance.choice([0.0, 0.9, -0.9])
    world.start().run_until_in_sync(2.0)
    liar = Liar(world, chance, [f"named{i}" for i in range(5)])
    replies = world.logins(USERS, "d1")
    weights = []
    for number in range(40):
        forge(world, "d3", chance.choice(["d1", "d2"]), *[liar.lie() for _ in range(chance.randrange(1, 4))])
        if number % 10 == 5:
            weights.append(world.change(chance.choice(["d1", "d2"]), HOST, weight=number))
        replies.append(world.login(f"new{number}", chance.choice(["d1", "d2"])))
        world.run(chance.choice([0.01, 0.3, 1.0]))
    world.run(10.0).run_until_in_sync(5.0)
    assert all(change.done is not None for change in weights)
    last = world.change("d1", HOST, weight=77)
    world.run(3.0)
    assert last.done is not None
    assert {row(node).weight for node in world.nodes.values()} == {77}
    assert None not in {reply.host for reply in replies}
    assert max(reply.answered - reply.asked for reply in replies if reply.answered) < 6.0
    for reply in replies:
        assert world.login(reply.user, "d2").host == reply.host
    world.run(30.0)  # moves without a leader end
    assert world.differences() == world.unstored() == []
    assert not any("ring_link_closed" in line for line in world.lines)
    assert_within_bound(world)
