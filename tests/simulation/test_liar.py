"""A member that has the secret and lies."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from director.core.protocol.effects import Dial, Send
from director.core.protocol.events import MemberChange, Received
from director.core.protocol.messages import Leaving, MemberRow, Members, RingMessage, Token
from director.core.ring.meetings import AT_ONCE
from director.core.tables.changes import REMOVE_AFTER
from director.core.tables.members import MOST_ROWS
from director.types import MemberId
from tests.simulation.world import Node, World


def say(world: World, liar: Node, to: str, *messages: RingMessage) -> None:
    """Send messages from a member to one of its neighbours, past its core."""
    member = world.node(to).member
    link = next(n.link for n in liar.core.ring.live_links() if n.peer == member)
    liar.run([Send(link, list(messages))])


def hosts_given(world: World, names: list[str], users: list[str]) -> list[set[str | None]]:
    replies = [[world.login(user, name) for name in names] for user in users]
    world.run(3)
    return [{reply.host for reply in of_user} for of_user in replies]


@pytest.mark.shows("rule 43")
def test_a_departure_made_up_by_another_member_does_not_split_the_ring() -> None:
    world = World(3).start().run_until_in_sync(10)
    d1, d2, liar = world.nodes.values()
    for number in range(20):
        say(world, liar, "d1", Leaving(d2.member, 10**17 + number))
        say(world, liar, "d2", Leaving(d1.member, 10**17 + number))
        world.run(0.1)
    world.run(3)
    assert d1.core.barrier.ring == d2.core.barrier.ring == tuple(world.members)
    world.change("d1", "127.0.1.1", weight=0)
    given = hosts_given(world, ["d1", "d2"], [f"new{number}" for number in range(200)])
    assert [hosts for hosts in given if len(hosts) != 1 or None in hosts] == []


@pytest.mark.shows("rule 47")
@pytest.mark.parametrize("store", ["own", "shared"])
def test_three_thousand_directors_made_up_by_one_member_do_not_delay_new_users(store: str) -> None:
    world = World(3, store=store).start().run_until_in_sync(10)
    liar = world.node("d3")
    unix = int(liar.unix)
    rows = [
        MemberRow(MemberId(f"127.{1 + number // 250}.{number % 250}.9:9090"), True, unix)
        for number in range(3000)
    ]
    for first in range(0, len(rows), MOST_ROWS):
        say(world, liar, "d1", Members(rows[first : first + MOST_ROWS]))
    slowest = 0.0
    for number in range(50):
        replies = [world.login(f"new{number}", name) for name in ("d1", "d2")]
        world.run(1)
        slowest = max(slowest, *(r.answered - r.asked if r.answered else 99.0 for r in replies))
    assert slowest <= 2.0
    tables = [node.core.members.rows for node in world.nodes.values()]
    assert [len(table) for table in tables] == [MOST_ROWS] * 3
    assert tables[0] == tables[1] == tables[2]


def laps(world: World, liar: Node, to: str, serial: int) -> list[RingMessage]:
    """Return a token of the liar and its second lap: both name all members that the receiver expects."""
    node = world.node(to)
    behind = [member for member in node.core.ring.rightwards if member != liar.member]
    first = Token(liar.member, serial, 1, node.core._agreement.digest, [liar.member])
    return [first, replace(first, lap=2, passed=[liar.member, node.member, *behind])]


@pytest.mark.shows("rule 47")
@pytest.mark.parametrize("made_up", [5, 200])
def test_new_users_do_not_wait_for_directors_made_up_by_a_member_whose_token_names_them(made_up: int) -> None:
    world = World(3).start().run_until_in_sync(10)
    d1, _, liar = world.nodes.values()
    dials = count_dials(world)
    rows = [MemberRow(MemberId(f"127.7.7.{number}:9090"), True, 1) for number in range(1, made_up + 1)]
    say(world, liar, "d1", Members(rows))
    world.run(3)
    for number in range(20):
        say(world, liar, "d1", *laps(world, liar, "d1", (1 << 50) + number))
        world.run_until(lambda: len(d1.core.barrier.ring) == 3 + made_up, 0.1)  # d1 takes them for its ring
        world.change("d2", "127.0.1.1", weight=number)
        world.run(1)
        assert d1.core.barrier.ring == tuple(world.members)
        of_d1 = world.login(f"new{number}", "d1")
        of_both = [world.login(f"newer{number}", name) for name in ("d1", "d2")]
        world.run(1)
        assert of_d1.host is not None
        assert {reply.host for reply in of_both} == {of_both[0].host}
        assert of_both[0].host is not None
    assert d1.core.ring.counted == world.members
    looked_for = [member for _, by, member in dials if by == d1.member and member not in world.members]
    assert len(set(looked_for)) >= min(made_up, 50)
    assert len(looked_for) <= AT_ONCE * (1 + 45 / 2)


def count_dials(world: World) -> list[tuple[float, MemberId, MemberId]]:
    """Return a list that records each later dial: the time, the dialler, the dialled member."""
    dials: list[tuple[float, MemberId, MemberId]] = []
    dial = world.dial

    def counted(node: Node, effect: Dial) -> None:
        dials.append((world.now, node.member, effect.member))
        dial(node, effect)

    world.dial = counted  # type: ignore[method-assign]
    return dials


def test_rows_that_a_member_sends_but_does_not_hold_delay_new_users_for_three_seconds_at_most() -> None:
    world = World(3).start().run_until_in_sync(10)
    liar = world.node("d3")
    row = MemberRow(MemberId("127.1.1.1:9090"), True, int(liar.unix))
    say(world, liar, "d1", Members([row]))
    say(world, liar, "d2", Members([row]))
    world.run(0.1)
    assert not world.node("d1").core.synced
    replies = [world.login("newcomer", name) for name in ("d1", "d2")]
    world.run(3)
    assert None not in {reply.host for reply in replies}
    assert len({reply.host for reply in replies}) == 1


@pytest.mark.parametrize("store", ["own", "shared"])
def test_a_member_that_swallows_tokens_moves_no_user_and_can_be_removed(store: str) -> None:
    """New users wait until it is removed. With a shared store they are claimed after some seconds."""
    world = World(3, store=store).start().run_until_in_sync(10)
    d1, d2, liar = world.nodes.values()
    known = world.login("known", "d1")
    world.run(1)
    liar.swallows_until = world.now + 1000
    assert known.host is not None
    change = world.change(
        "d1", next(f"127.0.1.{n}" for n in (1, 2, 3) if f"127.0.1.{n}" != known.host), weight=0
    )
    world.run(1)
    new = [world.login("new", name) for name in ("d1", "d2")]
    world.run(20)
    assert [world.host_at("known", name) for name in ("d1", "d2")] == [known.host] * 2
    assert len({reply.host for reply in new}) == 1
    assert (new[0].host is None) is (store == "own")
    assert d1.core.barrier.ring == d2.core.barrier.ring == tuple(world.members)
    removal = world.operate("d2", MemberChange(0, liar.member, remove=True))
    world.run(REMOVE_AFTER + 1)
    assert removal.done is not None
    assert d1.core.barrier.ring == d2.core.barrier.ring == (d1.member, d2.member)
    given = hosts_given(world, ["d1", "d2"], ["newest"])
    assert None not in given[0]
    assert len(given[0]) == 1
    assert change.done is not None


def test_a_forged_second_lap_answers_no_waiting_user_and_changes_no_ring() -> None:
    world = World(3).start().run_until_in_sync(10)
    d1, d2, liar = world.nodes.values()
    world.lose_tokens(3)
    world.change("d1", "127.0.1.1", weight=0)
    world.run(0.5)
    assert not d1.core.synced
    assert not d2.core.synced
    digest = d1.core._agreement.digest
    forged = [
        Token(origin, serial, 2, digest, list(members))
        for origin in (*world.members, "127.9.9.9:9090")
        for serial in (1, d1.core.barrier._serial, d2.core.barrier._serial, 1 << 50)
        for members in (world.members, [d1.member, liar.member], [d2.member, liar.member])
    ]
    for to in (d1, d2):
        link = next(n.link for n in liar.core.ring.live_links() if n.peer == to.member)
        for token in forged:
            to_link = liar.links[link].ends(liar)[1]
            to.handle(Received(to_link, [token]))
    assert not d1.core.synced
    assert not d2.core.synced
    assert d1.core.barrier.ring == d2.core.barrier.ring == tuple(world.members)
    world.run(4)
    assert d1.core.synced
    assert d2.core.synced


@pytest.mark.shows("rule 8")
def test_a_token_sent_back_by_the_right_neighbour_is_ignored() -> None:
    """Otherwise the right neighbour could end a first lap that has not passed all members."""
    world = World(3).start().run_until_in_sync(10)
    d1, d2, _ = world.nodes.values()
    world.lose_tokens(0.5)
    world.change("d1", "127.0.1.1", weight=0)
    world.run(0.2)
    assert d1.core.barrier._first_laps
    _, serial = next(reversed(d1.core.barrier._first_laps))
    assert d1.core.ring.right is not None
    assert d1.core.ring.right.peer == d2.member
    back = [Token(d1.member, serial, lap, d1.core._agreement.digest, list(world.members)) for lap in (1, 2)]
    d1.handle(Received(d1.core.ring.right.link, back))
    assert not d1.core.synced
    left = d1.core.ring.left
    assert left is not None
    d1.handle(Received(left.link, back))  # from the left
    assert d1.core.synced


def test_adding_a_director_to_a_full_list_is_refused_with_the_reason() -> None:
    world = World(3).start().run_until_in_sync(10)
    liar = world.node("d3")
    rows = [MemberRow(MemberId(f"127.1.1.{number}:9090"), True, 1) for number in range(1, 255)]
    say(world, liar, "d1", Members([*rows, MemberRow(MemberId("127.1.2.1:9090"), True, 1)]))
    world.run(1)
    last = world.operate("d1", MemberChange(0, MemberId("127.1.2.2:9090")))
    world.run(1)
    more = world.operate("d1", MemberChange(0, MemberId("127.1.2.3:9090")))
    known = world.operate("d1", MemberChange(0, MemberId("127.1.1.1:9090"), remove=True))
    world.run(1)
    assert last.done is not None
    assert (more.failed or "").startswith("the list of directors has 256 run-time changes")
    assert known.done is not None


def test_full_lists_of_directors_that_differ_do_not_delay_new_users() -> None:
    """A director that has met made-up directors keeps other rows than the others do."""
    world = World(3).start().run_until_in_sync(10)
    rows = [MemberRow(MemberId(f"127.1.1.{number}:9090"), True, 1) for number in range(1, 255)]
    more = [MemberRow(MemberId(f"127.1.2.{number}:9090"), True, 1) for number in range(1, 255)]
    world.node("d2").core.members.met.update(MemberId(row.member) for row in more[:100])
    for name in ("d1", "d2"):
        say(world, world.node("d3"), name, Members(rows))
        say(world, world.node("d3"), name, Members(more))
    world.run(1)
    tables = [set(node.core.members.rows) for node in world.nodes.values()]
    assert tables[0] != tables[1]
    changed = world.change("d1", "127.0.1.1", weight=5)
    world.run(5)
    assert changed.done is not None
    replies = [world.login("newcomer", name) for name in ("d1", "d2", "d3")]
    world.run(1)
    assert len({reply.host for reply in replies}) == 1
    assert replies[0].host is not None
    lines = [line for line in world.lines if "directors_left_out" in line]
    world.run(30)
    assert 0 < len([line for line in world.lines if "directors_left_out" in line]) == len(lines) <= 6
