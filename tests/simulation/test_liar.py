"""A member that has the secret and does not tell the truth."""

from __future__ import annotations

from director.core.effects import Send
from director.core.messages import Leaving, RingMessage
from tests.simulation.world import Node, World


def say(world: World, liar: Node, to: str, *messages: RingMessage) -> None:
    """Have one member send messages to a neighbour of its own, whatever its core thinks."""
    member = world.node(to).member
    link = next(n.link for n in liar.core.ring.live_links() if n.peer == member)
    liar.run([Send(link, list(messages))])


def hosts_given(world: World, names: list[str], users: list[str]) -> list[set[str | None]]:
    replies = [[world.login(user, name) for name in names] for user in users]
    world.run(3)
    return [{reply.host for reply in of_user} for of_user in replies]


def test_a_departure_that_another_member_made_up_splits_no_ring() -> None:
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
