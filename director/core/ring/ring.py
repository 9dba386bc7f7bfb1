"""The ring's links: this director dials its right neighbour, and its left neighbour dials this director.

Directors stand in the order of their addresses. Right is upwards, and the first follows the last, as in
Dovecot 2.3's director. Every director dials the nearest director to the right that answers, and keeps trying
nearer ones. A nearer neighbour replaces a farther one only when tokens can pass through it, so that a join
delays only the joining director (docs/ring.md, rule 7). A director that leaves announces it first. Its left
neighbour then links with its right neighbour before it closes the link. A director that no director to its
left can reach dials leftwards. The director that it dials takes it for the right neighbour over that link.
(In Dovecot 2.3 the ring was split: docs/ring.md, defect I-36.)

A director that was added at run time has been met as soon as a link with it is proved. Its neighbours meet it
in that way. All other directors dial it only for the proof, after a token has named it. The word of a third
director does not make it count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from director.core.protocol.counters import Counters
from director.core.protocol.effects import Close, Effect, Level, LogEvent, Send
from director.core.protocol.events import LinkOpened
from director.core.protocol.messages import Linked, Redirect
from director.core.protocol.order import rightwards, split_member
from director.core.ring.dials import Dials
from director.core.ring.link import Identity, LinkState, Neighbour
from director.core.ring.presence import Presence
from director.types import Address, LinkId, MemberId, Now

SUSPENDED_UNTIL = 5.0
"""Seconds after a suspension of this process during which a connection that is new to it may be as old as the
suspension."""
UNPROVED = 16
"""Connections from one address that may be in their handshake at the same time."""
LEAVE_WITHIN = 1.0
"""Seconds that the other directors have to close the ring without this one."""


class Ring:
    def __init__(
        self, identity: Identity, servers: Sequence[MemberId], counters: Counters | None = None
    ) -> None:
        self.me = identity.member
        self.identity = identity
        self.servers: list[MemberId] = []
        self.counted: list[MemberId] = []
        """The directors of `servers` that are missing if they are not in the ring: all but the unmet ones."""
        self.unmet: set[MemberId] = set()
        """Directors that an operator has added, or another director has invented, and that have never proved
        themselves over a link with this director."""
        self.named: Collection[MemberId] = ()
        """The directors that the last token named. The unmet ones among them are dialled to meet them."""
        self.links: dict[LinkId, Neighbour] = {}
        self.right: Neighbour | None = None
        self.left: Neighbour | None = None
        self.rightwards: list[MemberId] = []
        self.refused: dict[MemberId, dict[str, str]] = {}
        """Directors whose links are refused because settings differ, with those settings and their values
        there."""
        self.presence = Presence(
            self.me, identity.incarnation, self.servers, self.links, counters or Counters()
        )
        """The directors' words about themselves."""
        self.removed = False
        """Whether an operator has removed this director from the ring. It then dials no director."""
        self._removed: frozenset[MemberId] = frozenset()
        """Directors that operators have removed. They get the list of directors, and nothing else."""
        self._addresses: set[Address] = set()
        self._dials = Dials(self.links, self.unmet)
        self._suspended, self._suspended_until = 0.0, float("-inf")
        self._redirected: dict[LinkId, MemberId] = {}
        self._linked: set[LinkId] = set()
        self._running = False
        self._leaving_until: float | None = None
        self.set_servers(servers)

    def set_servers(
        self,
        servers: Sequence[MemberId],
        removed: Iterable[MemberId] = (),
        unmet: Iterable[MemberId] = (),
    ) -> list[Effect]:
        """Set the directors of the ring, and close the links with all others.

        Args:
            servers: the directors of the ring.
            removed: the directors that operators have removed from it.
            unmet: those of `servers` that this director has never met.
        """
        self.servers[:] = servers
        unmet = set(unmet) - {self.me}
        self.unmet.clear()
        self.unmet.update(unmet)
        self.counted[:] = [member for member in servers if member not in self.unmet]
        self.rightwards = rightwards(self.me, servers)
        self._removed = frozenset(removed)
        self._addresses = {split_member(member)[0] for member in (*servers, *self._removed)}
        self.removed = self.me not in servers
        self.presence.forget_others((*servers, *self._removed))
        self.refused = {member: why for member, why in self.refused.items() if member in servers}
        self._dials.expect(self.rightwards)
        effects: list[Effect] = []
        for neighbour in self.links.values():
            if neighbour.peer is not None and neighbour.live and neighbour.peer not in servers:
                reason = f"{neighbour.peer} is no longer a member of the ring"
                effects += neighbour.close(reason, level=Level.INFO)
        return effects

    def set_identity(self, secret: bytes, second: bytes, backends: int) -> list[Effect]:
        """Set the accepted secrets and the digest of the backends.

        Args:
            secret: the secret that is offered.
            second: another secret that is accepted; empty: none.
            backends: as in `Identity`.
        """
        self.identity = msgspec.structs.replace(
            self.identity, secret=secret, second_secret=second, backends=backends
        )
        return [e for neighbour in self.links.values() for e in neighbour.set_identity(self.identity)]

    def meet(self, stored: Iterable[MemberId] = ()) -> set[MemberId]:
        """Note which directors have been met.

        Args:
            stored: directors that were met earlier, as the store says.

        Returns:
            The directors that were unmet until now and have been met.
        """
        linked = (n.peer for n in self.links.values() if n.live and n.peer is not None)
        met = self.unmet.intersection((*stored, *linked))
        if met:
            self.unmet -= met
            self.counted[:] = [member for member in self.servers if member not in self.unmet]
        return met

    def start(self) -> None:
        self._running = True

    def stop(self, reason: str) -> list[Effect]:
        """Close all links with a Bye, and dial no director any more."""
        self._running = False
        return [e for n in self.links.values() for e in n.close(reason, level=Level.INFO)]

    def leave(self, now: Now) -> list[Effect]:
        """Tell the neighbours that this director leaves, so that they link with each other.

        `has_left` says when they have.
        """
        self._running = False
        self._leaving_until = now.mono + LEAVE_WITHIN
        return self.presence.leave()

    @property
    def leaving(self) -> bool:
        return self._leaving_until is not None

    def has_left(self, now: Now) -> bool:
        """Whether no director to the left needs this one any more, or the time for leaving has passed."""
        if self._leaving_until is None:
            return False
        lefts = [n for n in self.links.values() if n.live and not n.rightward]
        departed = self.departed
        needed = any(n.peer not in departed for n in lefts)  # a director that leaves too needs no other
        return not needed or now.mono >= self._leaving_until

    @property
    def departed(self) -> set[MemberId]:
        """The directors that have announced their departure."""
        return self.presence.departed()

    def suspended(self, seconds: float, now: Now) -> None:
        """Note that this process, or the machine, was suspended: messages that arrive now may be as old
        as that."""
        self._suspended, self._suspended_until = seconds, now.mono + SUSPENDED_UNTIL

    def resumed(self, now: Now) -> None:
        """Forget, after a suspension, which directors could not be reached and which links were silent."""
        self._dials.resumed(self.rightwards, now)
        for neighbour in self.links.values():
            neighbour.heard = now.mono

    def forgive(self, late: float, now: Now) -> None:
        """Move the time-outs of all links by a delay of this process: no neighbour is silent because of it.

        Args:
            late: seconds of the delay.
        """
        for neighbour in self.links.values():
            neighbour.heard = min(now.mono, neighbour.heard + late)

    @property
    def failed_at(self) -> Mapping[MemberId, float]:
        """Unix time at which a dial or a link last failed, by director."""
        return self._dials.failed_at

    def live_links(self) -> list[Neighbour]:
        return [n for n in self.links.values() if n.live]

    @property
    def alone(self) -> bool:
        """Whether no director is linked with this one, and none could be reached."""
        if any(n.live or n.dialled is None for n in self.links.values()):
            return False
        return self._dials.tried.issuperset(self._counted(self.expected()))

    def _counted(self, members: Iterable[MemberId]) -> list[MemberId]:
        return [member for member in members if member not in self.unmet]

    def _unmet_last(self, members: Sequence[MemberId]) -> list[MemberId]:
        """Return these directors in their order, but the unmet ones behind all others: they may not exist."""
        return sorted(members, key=self.unmet.__contains__) if self.unmet else list(members)

    def expected(self) -> list[MemberId]:
        """Return the directors to the right, the nearest first, that have not announced their departure."""
        departed = self.departed
        return [member for member in self.rightwards if member not in departed]

    @property
    def unlinked(self) -> bool:
        return not any(n.live for n in self.links.values())

    def knows(self, remote: Address) -> bool:
        """Whether a director of the ring, or a removed one, has this address."""
        return remote in self._addresses

    def opened(self, event: LinkOpened, now: Now) -> list[Effect]:
        """Begin the handshake on a new TCP connection."""
        link, remote, dialled = event.link, event.remote, event.dialled
        if dialled is not None:
            self._dials.opened(dialled, leftwards=event.leftwards)
        neighbour = Neighbour(
            link,
            self.identity,
            remote,
            dialled,
            event.nonce,
            now,
            leftwards=event.leftwards,
            certificates=event.certificates,
            suspended=self._suspended if now.mono < self._suspended_until else 0.0,
        )
        self.links[link] = neighbour
        if dialled is None and not self.knows(remote):
            reason = f"{remote} is not in ring.servers of {self.me}: all directors need the same list"
            return [*neighbour.open(), *neighbour.close(reason)]
        return [*self._make_room_for(neighbour), *neighbour.open()]

    def _make_room_for(self, newest: Neighbour) -> list[Effect]:
        """Close the oldest of too many unproved connections from one address.

        A director proves itself within milliseconds.
        """
        unproved = [
            n
            for n in self.links.values()
            if n.dialled is None
            and n.remote == newest.remote
            and not n.live
            and n.state is not LinkState.CLOSED
        ]
        too_many = unproved[:-UNPROVED]
        reason = f"{newest.remote} has more than {UNPROVED} unproved connections; the oldest is closed"
        return [effect for neighbour in too_many for effect in neighbour.close(reason)]

    def greeted(self, neighbour: Neighbour, now: Now) -> list[Effect]:
        """Check the director that the other end says it is, or has just proved to be.

        Closes the link if it does not fit.
        """
        if neighbour.peer in self._removed:
            # The director was down when it was removed. Both ends exchange their rows first, then `dismiss`
            # closes the link.
            return []
        if neighbour.peer is None or neighbour.peer not in self.servers:
            return neighbour.close(
                f"{neighbour.peer} is not in ring.servers of {self.me}: all directors need the same list"
            )
        if not neighbour.live:
            return []
        effects: list[Effect] = []
        for former in list(self.links.values()):
            if former is neighbour or former.peer != neighbour.peer or not former.live:
                continue
            if former.peer_incarnation == neighbour.peer_incarnation:
                if former.rightward is neighbour.rightward:
                    effects += former.close(
                        "there is a newer connection between the same two directors", level=Level.INFO
                    )
            elif now.mono - former.heard < 2 * self.identity.ping_interval:
                return neighbour.close(
                    f"two directors use the address {neighbour.peer}: give each its own in ring.listen"
                )
            else:
                effects += former.close(f"{neighbour.peer} was restarted")
        self._dials.reached()
        self.refused.pop(neighbour.peer, None)
        return effects

    def dismiss(self, neighbour: Neighbour, now: Now) -> list[Effect]:
        """Close the link if operators have removed the director at the other end.

        Both ends have the list of directors now.
        """
        if neighbour.peer in self._removed:
            return neighbour.close(f"{neighbour.peer} was removed from the ring", level=Level.INFO)
        return self.greeted(neighbour, now)

    def dial_failed(self, member: MemberId, now: Now, *, leftwards: bool = False) -> None:
        self._dials.failed(member, now, leftwards=leftwards)

    def closed(self, link: LinkId, reason: str, now: Now) -> list[Effect]:
        """Close a link whose socket was closed."""
        neighbour = self.links.get(link)
        if neighbour is None:
            return []
        return [e for e in neighbour.close(reason, bye=False) if not isinstance(e, Close)]

    def review(self, now: Now) -> list[Effect]:
        """Choose the neighbours again. Called after anything has happened to a link."""
        effects: list[Effect] = []
        for neighbour in [n for n in self.links.values() if n.state is LinkState.CLOSED]:
            self._forget(neighbour, now)
        effects += self.presence.turn(now)
        effects += self._review_right()
        effects += self._review_left()
        self._dials.left_reviewed(now, leftless=self.left is None)
        return effects

    def dials(self, now: Now) -> list[Effect]:
        """Dial the directors to the right that are nearer than the right neighbour; dial leftwards if there
        is no left neighbour."""
        self._dials.asked(now)
        if not self._running or self.removed:
            return []
        has_right = self.right is not None
        effects: list[Effect] = [*self._dials.rightwards(self._nearer(), now, has_right=has_right)]
        if has_right and self._dials.is_leftwards_due(now):
            effects += self._dials.leftwards(self._unmet_last(self.expected()[::-1]), now)
        return effects + self._dials.to_meet(self._to_meet(), now)

    def _nearer(self) -> list[MemberId]:
        """Return the directors nearer than the right neighbour, in the order in which they are dialled.

        Without a right neighbour these are all directors to the right.
        """
        expected = self.expected()
        if self.right is None:
            return self._unmet_last(expected)
        return expected[: expected.index(self.right.peer)] if self.right.peer in expected else expected

    def _to_meet(self) -> Collection[MemberId]:
        """Return the directors beyond the right neighbour that may be dialled only to meet them.

        Nearer directors are dialled in any case.
        """
        if not self.unmet or self.right is None or self.right.peer not in self.rightwards:
            return []
        beyond = self.rightwards[self.rightwards.index(self.right.peer) + 1 :]
        return self.unmet.intersection(self.named, beyond) - self.departed

    def next_deadline(self) -> float | None:
        deadlines = [n.next_deadline() for n in self.links.values() if n.state is not LinkState.CLOSED]
        if self._leaving_until is not None:
            deadlines.append(self._leaving_until)
        announce_at = self.presence.next_deadline()
        if announce_at is not None:
            deadlines.append(announce_at)
        if self._running and not self.removed:
            has_right = self.right is not None
            deadlines += self._dials.rightwards_deadlines(self._nearer(), has_right=has_right)
            deadlines += self._dials.meeting_deadlines(self._to_meet())
            if has_right:
                deadlines += self._dials.leftwards_deadlines()
        return min(deadlines, default=None)

    def redirected(self, neighbour: Neighbour, member: MemberId, now: Now) -> None:
        """Dial a director soon: the right neighbour says that it stands between the two."""
        if (
            neighbour is not self.right
            or member not in self.rightwards
            or self._dials.begun(member) is not None
        ):
            return
        self._dials.redirected(member, now)

    def _forget(self, neighbour: Neighbour, now: Now) -> None:
        del self.links[neighbour.link]
        if neighbour.refused is not None and neighbour.refused[0] in self.servers:
            member, settings = neighbour.refused
            self.refused[member] = settings
        self._redirected.pop(neighbour.link, None)
        self._linked.discard(neighbour.link)
        if neighbour is self.right:
            self.right = None
        if neighbour is self.left:
            self.left = None
        self._dials.link_ended(neighbour, now)

    def _review_right(self) -> list[Effect]:
        """Take the nearest director that can carry tokens for the right neighbour, and close the links with
        directors beyond it."""
        departed = self.departed
        if self.right is not None and self.right.peer in departed:
            return self._let_go(self.right)
        for nearer, member in enumerate(self.rightwards, 1):
            neighbour = self._rightward_full(member)
            if neighbour is None or (member in departed and neighbour is not self.right):
                continue
            if neighbour is not self.right and (self.right is None or neighbour.linked):
                self._take_right(neighbour)
            if neighbour is self.right:
                return self._close_beyond(self.rightwards[nearer:], member)
        return []

    def _let_go(self, leaving: Neighbour) -> list[Effect]:
        """Replace the right neighbour, which is about to stop.

        The link with the next one comes first, if there is one.
        """
        expected = self.expected()
        for member in expected:
            neighbour = self._rightward_full(member)
            if neighbour is not None and neighbour.linked:
                self._take_right(neighbour)
                return leaving.close(f"{self.me} is linked with {member} now", level=Level.INFO)
        if self._dials.tried.issuperset(self._counted(expected)):
            return leaving.close(f"{self.me} can reach no other director", level=Level.INFO)
        return []

    def _take_right(self, neighbour: Neighbour) -> None:
        self.right = neighbour
        self._linked.clear()

    def _close_beyond(self, beyond: Sequence[MemberId], right: MemberId) -> list[Effect]:
        unneeded = [
            n
            for n in self.links.values()
            if n.dialled in beyond and n.rightward and n.dialled not in self.unmet
        ]
        return [e for n in unneeded for e in n.close(f"{right} is nearer", level=Level.INFO)]

    def _rightward_full(self, member: MemberId) -> Neighbour | None:
        for neighbour in self.links.values():
            if neighbour.peer == member and neighbour.rightward and neighbour.state is LinkState.FULL:
                return neighbour
        return None

    def _review_left(self) -> list[Effect]:
        """Take the nearest director to the left for the left neighbour, and tell the others to the left which
        it is."""
        lefts = [
            (self.rightwards.index(n.peer), n)
            for n in self.links.values()
            if not n.rightward and n.peer in self.rightwards and n.state is LinkState.FULL
        ]
        at, self.left = max(lefts, key=lambda place: place[0], default=(0, None))
        effects: list[Effect] = []
        departed = self.departed
        for index, neighbour in lefts:
            nearest = self.rightwards[at]
            if index != at and self._redirected.get(neighbour.link) != nearest and nearest not in departed:
                self._redirected[neighbour.link] = nearest
                effects.append(Send(neighbour.link, [Redirect(nearest)]))
        if self.right is not None and not self.leaving:
            for _, neighbour in lefts:
                if neighbour.link not in self._linked:
                    self._linked.add(neighbour.link)
                    effects.append(Send(neighbour.link, [Linked()]))
        return effects


def log_neighbours(ring: Ring) -> LogEvent:
    """Return the log event that names the left and the right neighbour."""
    return LogEvent(
        Level.INFO,
        "ring_neighbours_changed",
        {
            "left": ring.left.name() if ring.left else "none",
            "right": ring.right.name() if ring.right else "none",
        },
    )
