"""The cost of one change to a ring: messages and bytes on all links, and the time until all directors know
it.

`python -m tests.bench.traffic`. Real cores on the simulator's network: every link takes 1 ms each way, bytes
are those of the frames on the wire. Pings and other messages of a ring at rest do not count.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from director.core.protocol.kicktypes import ByName
from director.core.protocol.messages import RingMessage
from director.wire import ring_native
from tests.simulation.world import Node, World

LINK = 0.001
"""Seconds that a message takes."""
QUIET = frozenset({"Ping", "Pong", "Hello", "Proof", "Linked", "Redirect"})
"""Messages that are sent whether or not anything changes."""
START = 60.0
WITHIN = 30.0
AFTERMATH = 2.0
"""Seconds in which all messages that a change causes have been sent."""


class Change(NamedTuple):
    """A change to a ring."""

    name: str
    begin: Callable[[World], Callable[[], bool]]
    """Begins the change at `d1`. The returned function tells whether all directors know it."""


@dataclass
class Cost:
    """The cost of one change."""

    messages: Counter[str]
    frames: int
    size: int
    """Bytes of all frames."""
    seconds: float
    """Seconds until all directors know the change."""


class CountingWorld(World):
    """A ring on equal links that records what is sent."""

    def __init__(self, directors: int) -> None:
        super().__init__(directors)
        self.sent: list[list[RingMessage]] = []

    def delay(self, source: Node, target: Node) -> float:
        return LINK

    def kept(self, messages: list[RingMessage]) -> list[RingMessage]:
        self.sent.append(messages)
        return messages


def a_new_user(world: World) -> Callable[[], bool]:
    reply = world.login("ulla", at="d1")
    return lambda: world.where("ulla") == {reply.host}


def a_weight(world: World) -> Callable[[], bool]:
    outcome = world.change("d1", world.settings[0].address, weight=30)
    return lambda: outcome.done is not None and world.in_sync()


def a_move(world: World) -> Callable[[], bool]:
    """Move an unassigned user: without kick and delay only the messages of the ring remain."""
    outcome = world.move("d1", "ulla", world.settings[0].address)
    return lambda: not outcome.pending


def a_kick(world: World) -> Callable[[], bool]:
    outcome = world.kick("d1", ByName(b"ulla"))
    return lambda: not outcome.pending


CHANGES = (
    Change("a new user", a_new_user),
    Change("a host's weight", a_weight),
    Change("a move", a_move),
    Change("a kick", a_kick),
)


def ring_at_rest(directors: int) -> CountingWorld:
    world = CountingWorld(directors)
    world.start()
    world.run_until_in_sync(within=START)
    world.run(AFTERMATH)
    return world


def cost_of(change: Change, directors: int) -> Cost:
    world = ring_at_rest(directors)
    world.sent.clear()
    begun = world.now
    world.run_until(change.begin(world), WITHIN)
    seconds = world.now - begun
    world.run(AFTERMATH)
    return count(world.sent, seconds)


def count(frames: Iterable[list[RingMessage]], seconds: float) -> Cost:
    """Return the cost of frames. Frames that hold only messages sent at rest do not count."""
    cost = Cost(Counter(), 0, 0, seconds)
    for messages in frames:
        messages = [message for message in messages if type(message).__name__ not in QUIET]
        if messages:
            cost.messages.update(type(message).__name__ for message in messages)
            cost.frames += 1
            cost.size += len(ring_native.encode(messages))
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ring", type=int, action="append", help="3, 10 and 50 if not given")
    options = parser.parse_args()
    head = f"{'':18}{'directors':>10}{'messages':>10}{'frames':>8}{'bytes':>9}{'each':>8}{'ms':>8}"
    print(f"{head}   which")
    for change in CHANGES:
        for directors in options.ring or [3, 10, 50]:
            cost = cost_of(change, directors)
            kinds = ", ".join(f"{number} {kind}" for kind, number in cost.messages.most_common())
            print(
                f"{change.name:18}{directors:>10}{cost.messages.total():>10}{cost.frames:>8}"
                f"{cost.size:>9}{cost.size / directors:>8.0f}{1000 * cost.seconds:>8.1f}   {kinds}"
            )


if __name__ == "__main__":
    main()
