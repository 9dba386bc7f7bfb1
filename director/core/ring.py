"""Who is connected with whom: the right neighbour is dialled, the left one dials us.

Members stand in address order; right is upwards, wrapping (director-behaviour C.1). Everybody dials the
nearest member to the right who answers, and keeps trying nearer ones. A nearer neighbour takes over from a
farther one only when tokens can pass through it, so that a join makes nobody wait but the joiner
(ring-rules 7).
"""

from __future__ import annotations

from collections.abc import Sequence

from director.core.effects import Close, Dial, Effect, Level, Log, Send
from director.core.member import Identity, Neighbour, State
from director.core.messages import Linked, Redirect
from director.core.order import rightwards, split_member
from director.types import Address, LinkId, MemberId, Now

RETRY_FIRST = 0.1
RETRY_UNREACHABLE = 1.0
"""Longest pause, in seconds, between two dials of a member that cannot be reached."""
RETRY_REFUSED = 5.0
"""The same for one that was reached, but did not want us."""
SHORT_LIVED = 1.0
"""A link that ends sooner, in seconds, was not wanted."""
PATIENCE = 0.3
"""Without any right neighbour: seconds a dial may take before the next member is tried as well."""


class Ring:
    def __init__(self, identity: Identity, servers: Sequence[MemberId]) -> None:
        self.me = identity.member
        self.identity = identity
        self.servers = list(servers)
        self.links: dict[LinkId, Neighbour] = {}
        self.right: Neighbour | None = None
        self.left: Neighbour | None = None
        self.rightwards = rightwards(self.me, self.servers)
        self._addresses = {split_member(member)[0] for member in self.servers}
        self.failed_at: dict[MemberId, float] = {}
        """Unix time a dial or a link last failed."""
        self.tried: set[MemberId] = set()
        """Members found unreachable since somebody was last reached."""
        self._dialling: dict[MemberId, float] = {}
        self._old_dials: set[MemberId] = set()
        """Dials begun before we were frozen."""
        self._next_try: dict[MemberId, float] = dict.fromkeys(self.rightwards, 0.0)
        self._failures: dict[MemberId, int] = dict.fromkeys(self.rightwards, 0)
        self._told: dict[LinkId, MemberId] = {}
        self._linked: set[LinkId] = set()
        self._running = False
        self._asked = 0.0

    def start(self) -> None:
        self._running = True

    def stop(self, reason: str) -> list[Effect]:
        """Say good-bye to everybody, and dial nobody any more."""
        self._running = False
        return [e for n in self.links.values() for e in n.close(reason, level=Level.INFO)]

    def thawed(self, now: Now) -> None:
        """What we knew of who can be reached is old."""
        self.tried.clear()
        self._old_dials = set(self._dialling)
        self._next_try = dict.fromkeys(self.rightwards, now.mono)
        for neighbour in self.links.values():
            neighbour.heard = now.mono

    def live_links(self) -> list[Neighbour]:
        return [n for n in self.links.values() if n.live]

    @property
    def alone(self) -> bool:
        """Nobody is linked with us, and nobody could be reached."""
        if any(n.live or n.dialled is None for n in self.links.values()):
            return False
        return self.tried.issuperset(self.rightwards)

    @property
    def unlinked(self) -> bool:
        return not any(n.live for n in self.links.values())

    def opened(
        self, link: LinkId, remote: Address, dialled: MemberId | None, nonce: bytes, now: Now
    ) -> list[Effect]:
        """A TCP connection stands."""
        if dialled is not None:
            self._dialling.pop(dialled, None)
            self._old_dials.discard(dialled)
        neighbour = Neighbour(link, self.identity, remote, dialled, nonce, now)
        self.links[link] = neighbour
        if dialled is None and remote not in self._addresses:
            reason = f"{remote} is not in ring.servers of {self.me}: all directors need the same list"
            return [*neighbour.open(), *neighbour.close(reason)]
        return neighbour.open()

    def greeted(self, neighbour: Neighbour, now: Now) -> list[Effect]:
        """The other end has said who it is, or has just proved it: may it be that?"""
        if neighbour.peer is None or neighbour.peer not in self._next_try:
            return neighbour.close(
                f"{neighbour.peer} is not in ring.servers of {self.me}: all directors need the same list"
            )
        if not neighbour.live:
            return []
        effects: list[Effect] = []
        for other in list(self.links.values()):
            if other is neighbour or other.peer != neighbour.peer or not other.live:
                continue
            if other.peer_incarnation == neighbour.peer_incarnation:
                if (other.dialled is None) == (neighbour.dialled is None):
                    effects += other.close("a newer connection of the same two directors", level=Level.INFO)
            elif now.mono - other.heard < 2 * self.identity.ping_interval:
                return neighbour.close(
                    f"two directors say they are {neighbour.peer}: give each its own address"
                )
            else:
                effects += other.close(f"{neighbour.peer} has been started anew")
        self.tried.clear()
        return effects

    def dial_failed(self, member: MemberId, now: Now) -> None:
        self._dialling.pop(member, None)
        if member in self._old_dials:
            self._old_dials.discard(member)  # its time ran out while we were frozen: that says nothing
        else:
            self._failed(member, RETRY_UNREACHABLE, now)

    def closed(self, link: LinkId, reason: str, now: Now) -> list[Effect]:
        """The socket of a link is gone."""
        neighbour = self.links.get(link)
        if neighbour is None:
            return []
        return [e for e in neighbour.close(reason, bye=False) if not isinstance(e, Close)]

    def review(self, now: Now) -> list[Effect]:
        """Choose neighbours anew after anything has happened to a link."""
        effects: list[Effect] = []
        for neighbour in [n for n in self.links.values() if n.state is State.CLOSED]:
            self._forget(neighbour, now)
        effects += self._review_right()
        effects += self._review_left()
        return effects

    def dials(self, now: Now) -> list[Effect]:
        """Dial whoever is nearer to the right than the present right neighbour."""
        self._asked = now.mono
        if not self._running:
            return []
        effects: list[Effect] = []
        for member in self.rightwards:
            if self.right is not None and member == self.right.peer:
                break
            begun = self._begun(member)
            if begun is None and now.mono >= self._next_try[member]:
                self._dialling[member] = begun = now.mono
                effects.append(Dial(member))
            if begun is not None and (self.right is not None or now.mono < begun + PATIENCE):
                break
        return effects

    def next_deadline(self) -> float | None:
        deadlines = [n.next_deadline() for n in self.links.values() if n.state is not State.CLOSED]
        if self._running:
            for member in self.rightwards:
                if self.right is not None and member == self.right.peer:
                    break
                begun = self._begun(member)
                if begun is None:
                    deadlines.append(self._next_try[member])
                elif self.right is not None:
                    break
                elif begun + PATIENCE > self._asked:
                    deadlines.append(begun + PATIENCE)
                    break
        return min(deadlines, default=None)

    def redirected(self, neighbour: Neighbour, member: MemberId, now: Now) -> None:
        """Our right neighbour says that `member` stands between us."""
        if neighbour is self.right and member in self._next_try and self._begun(member) is None:
            self._next_try[member] = now.mono

    def _begun(self, member: MemberId) -> float | None:
        """Since when a connection with this member, dialled by us, is being made or stands."""
        if member in self._dialling:
            return self._dialling[member]
        for neighbour in self.links.values():
            if neighbour.dialled == member and neighbour.state is not State.CLOSED:
                return neighbour.opened.mono
        return None

    def _forget(self, neighbour: Neighbour, now: Now) -> None:
        del self.links[neighbour.link]
        self._told.pop(neighbour.link, None)
        self._linked.discard(neighbour.link)
        if neighbour is self.right:
            self.right = None
        if neighbour is self.left:
            self.left = None
        if neighbour.dialled is None:
            return
        if neighbour.was_live and now.mono >= neighbour.opened.mono + SHORT_LIVED:
            self._failures[neighbour.dialled] = 0
            self._next_try[neighbour.dialled] = now.mono
            self.failed_at[neighbour.dialled] = now.unix
        else:
            self._failed(neighbour.dialled, RETRY_REFUSED, now)

    def _failed(self, member: MemberId, longest: float, now: Now) -> None:
        self.failed_at[member] = now.unix
        self.tried.add(member)
        self._failures[member] += 1
        pause = RETRY_FIRST * 2 ** min(10, self._failures[member] - 1)
        self._next_try[member] = now.mono + min(longest, pause)

    def _review_right(self) -> list[Effect]:
        """The nearest member who can carry tokens is the right neighbour; links beyond him are not needed."""
        for nearer, member in enumerate(self.rightwards, 1):
            neighbour = self._dialled_full(member)
            if neighbour is None:
                continue
            if neighbour is not self.right and (self.right is None or neighbour.linked):
                self.right = neighbour
                self._linked.clear()
            if neighbour is self.right:
                return self._close_beyond(self.rightwards[nearer:], member)
        return []

    def _close_beyond(self, beyond: Sequence[MemberId], right: MemberId) -> list[Effect]:
        unneeded = [n for n in self.links.values() if n.dialled in beyond]
        return [e for n in unneeded for e in n.close(f"{right} is nearer", level=Level.INFO)]

    def _dialled_full(self, member: MemberId) -> Neighbour | None:
        for neighbour in self.links.values():
            if neighbour.dialled == member and neighbour.state is State.FULL:
                return neighbour
        return None

    def _review_left(self) -> list[Effect]:
        """The nearest member who has dialled us is the left neighbour; the others are told of him."""
        accepted = [
            (self.rightwards.index(n.peer), n)
            for n in self.links.values()
            if n.dialled is None and n.peer is not None and n.state is State.FULL
        ]
        at, self.left = max(accepted, key=lambda one: one[0], default=(0, None))
        effects: list[Effect] = []
        for other, neighbour in accepted:
            nearest = self.rightwards[at]
            if other != at and self._told.get(neighbour.link) != nearest:
                self._told[neighbour.link] = nearest
                effects.append(Send(neighbour.link, [Redirect(nearest)]))
        if self.right is not None:
            for _, neighbour in accepted:
                if neighbour.link not in self._linked:
                    self._linked.add(neighbour.link)
                    effects.append(Send(neighbour.link, [Linked()]))
        return effects


def log_neighbours(ring: Ring) -> Log:
    """Who is left and right now."""
    return Log(
        Level.INFO,
        "ring_neighbours",
        {
            "left": ring.left.name() if ring.left else "none",
            "right": ring.right.name() if ring.right else "none",
        },
    )
