"""One link with another director: its state machine, from the first byte to the last.

It uses no socket and no clock.

    GREETING --Hello fits--> PROVING --Proof fits--> EXCHANGING --both ends sent all that differs--> FULL
        \\________________________\\________________________\\____ anything else, or silence ____> CLOSED

Both ends begin immediately with Hello. Each sends its Proof as soon as it has the other's Hello. Each end
seals all frames that follow its Proof, with a key of this link and direction. After the other's Hello, an end
accepts exactly one plain frame: Proof or Bye. Live changes flow from EXCHANGING on. Tokens need a FULL link
(docs/ring.md, rule 6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from math import isfinite

import msgspec

from director.core.protocol.effects import Close, Effect, Level, LogEvent, Seal, Send, Unseal
from director.core.protocol.linkkeys import Handshake
from director.core.protocol.messages import (
    OLDEST_RING_VERSION,
    RING_VERSION,
    Bye,
    Hello,
    Names,
    Ping,
    Pong,
    Proof,
    RingMessage,
    Users,
)
from director.core.protocol.order import split_member
from director.core.protocol.skew import skew_of
from director.core.protocol.transitions import check
from director.core.ring.exchange import QUIET, SMALL, Exchange
from director.types import Address, LinkId, MemberId, Now

NUMBER_LIMIT = 1 << 62
"""Every incarnation is below this number, so that it can still rise."""
REASON_LIMIT = 300
"""Characters that are logged of the reason that the other end gives."""
RELEASE_LIMIT = 64
"""Characters that are kept of the release and of the settings that the other end names."""
HANDSHAKE_TIMEOUT = 2.0
"""Seconds from the TCP connection to the accepted Proof."""


class LinkState(Enum):
    GREETING = "greeting"
    PROVING = "proving"
    EXCHANGING = "exchanging"
    FULL = "full"
    CLOSED = "closed"


TRANSITIONS: Mapping[LinkState, frozenset[LinkState]] = {
    LinkState.GREETING: frozenset({LinkState.PROVING, LinkState.CLOSED}),
    LinkState.PROVING: frozenset({LinkState.EXCHANGING, LinkState.CLOSED}),
    LinkState.EXCHANGING: frozenset({LinkState.FULL, LinkState.CLOSED}),
    LinkState.FULL: frozenset({LinkState.CLOSED}),
    LinkState.CLOSED: frozenset(),
}


def hash_setting(theirs: str, mine: str) -> tuple[str, str, str]:
    """Compare two different values of `Identity.username_hash`.

    Returns:
        The name of the setting that differs, its value on the other director, and its value here.
    """
    (their_format, their_separator), (my_format, my_separator) = _apart(theirs), _apart(mine)
    if their_format == my_format:
        return "users.master_user_separator", their_separator or "none", my_separator or "none"
    if their_separator == my_separator:
        return "users.username_hash", their_format, my_format
    return "users.username_hash with users.master_user_separator", theirs, mine


def _apart(setting: str) -> tuple[str, str]:
    return (setting[:-2], setting[-1]) if setting[-2:-1] == " " else (setting, "")


class Identity(msgspec.Struct, frozen=True):
    """The values that this director tells other directors, and its demands on theirs."""

    member: MemberId
    incarnation: int
    username_hash: str
    """`users.username_hash`; if there is a separator of master users, a blank and the separator follow."""
    expire: int
    secret: bytes
    ping_interval: float
    ping_timeout: float
    max_clock_skew: float
    name: str = ""
    """`name:port` if the director is listed by its name. It is not sent."""
    release: str = ""
    """The program's release."""
    backends: int = 0
    """A digest of the backends in the configuration, which should be the same on all directors; 0: there are
    none."""
    second_secret: bytes = b""
    """The other accepted secret while the secret is being changed; only `secret` is offered; empty: none."""

    def __repr__(self) -> str:
        return f"Identity({self.member}, {self.incarnation})"  # without the secrets

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The accepted secrets. The first is offered."""
        return (self.secret, self.second_secret) if self.second_secret else (self.secret,)


class Neighbour:
    """The state machine of one link. `handle` answers the link's own messages; the ring takes all others."""

    def __init__(
        self,
        link: LinkId,
        me: Identity,
        remote: Address,
        dialled: MemberId | None,
        nonce: bytes,
        now: Now,
        *,
        leftwards: bool = False,
        certificates: bytes = b"",
        suspended: float = 0.0,
    ) -> None:
        """Begin with a link that has just been opened.

        Args:
            link: number of the link.
            me: the identity of this director.
            remote: address of the other end.
            dialled: the director that was dialled; None: the other end has dialled.
            nonce: random bytes of this link.
            now: when it was opened.
            leftwards: whether this director has dialled to its left, because no director there could reach
                it.
            certificates: as in `LinkOpened`.
            suspended: seconds that this process may have been suspended since the other end sent its Hello.
        """
        self.link, self.me, self.remote, self.dialled = link, me, remote, dialled
        self.leftwards = leftwards
        self._certificates = certificates
        self.state = LinkState.GREETING
        self.peer: MemberId | None = dialled
        self.peer_incarnation = 0
        self.version = RING_VERSION
        self.skew = 0.0
        self.opened, self._suspended = now, suspended
        self.heard = now.mono
        self.deadline = now.mono + HANDSHAKE_TIMEOUT
        self.ping_ms: int | None = None
        self.inbox: deque[RingMessage] = deque()
        """Messages that were not handled yet, because too many came in one turn."""
        self.read_at = now.mono
        """Monotonic time at which messages of the inbox were last handled."""
        self.reading = True
        """Whether more is read from the socket."""
        self.congested = False
        self.was_live = False
        self.leaves = False
        """Whether the other end has announced that it is about to stop."""
        self.linked = False
        """Whether the other end can carry tokens."""
        self.silent = False
        """Whether the link was closed because nothing came any more."""
        self.routine = False
        """Whether the link was closed because it was not needed. Nothing was wrong with the other end."""
        self.disproved = False
        """Whether the link was closed because the other end's proof was wrong."""
        self.release = ""
        """Release of the other end's program; empty: unknown."""
        self.backends = 0
        """The digest of the other end's backends; 0: unknown."""
        self.refused: tuple[MemberId, dict[str, str]] | None = None
        """The director that the other end claims to be, with the settings that keep it from linking and their
        values there."""
        self._secrets: tuple[bytes, ...] = ()
        """The secrets that were accepted when the other end greeted."""
        self._made_with: frozenset[bytes] = frozenset()
        """The secrets that the two ends used in their proofs."""
        self.exchange = Exchange(link)
        self.agreed_since: float | None = None
        """Monotonic time at which the other end was asked, if both clocks have just been found to agree. The
        reader of the value clears it."""
        self._ping_serial = 0
        self._ping_sent = now
        self._ping_open = False
        self._agreed = False
        """Whether the last comparison showed that both clocks agree. A greeting that may be old shows
        nothing."""
        self.pong_serial = 0
        self._hello = Hello(
            version=RING_VERSION,
            oldest_version=OLDEST_RING_VERSION,
            member=me.member,
            incarnation=me.incarnation,
            nonce=nonce,
            unix=now.unix,
            username_hash=me.username_hash,
            expire=me.expire,
            leftwards=leftwards,
            release=me.release,
        )

        self._greeting = msgspec.msgpack.encode([self._hello])

    def open(self) -> list[Effect]:
        return [Send(self.link, [self._hello])]

    @property
    def rightward(self) -> bool:
        """Whether the other end is to the right.

        A director dials to the right. Only a director that no director to its left can reach dials to the
        left.
        """
        return (self.dialled is not None) != self.leftwards

    @property
    def live(self) -> bool:
        """Whether changes flow over the link."""
        return self.state is LinkState.FULL or self.state is LinkState.EXCHANGING

    @property
    def exchange_has_work(self) -> bool:
        """Whether the exchange has something to send and the link can take it now."""
        return self.live and not self.congested and self.exchange.has_work

    def finish_exchange(self) -> None:
        """Make the link FULL if both ends have sent all that differs."""
        if self.state is LinkState.EXCHANGING and self.exchange.has_ended:
            self.enter(LinkState.FULL)

    def enter(self, state: LinkState) -> None:
        """Change the state. Raises WrongTransition if TRANSITIONS does not permit it."""
        check(TRANSITIONS, self.state, state)
        self.state = state

    def handle(self, message: RingMessage, now: Now, plain: bytes = b"") -> list[Effect] | None:
        """Handle a message.

        Args:
            message: from the other end.
            plain: as in `Received`.

        Returns:
            The effects; None: the link is live, and the message is for the ring.
        """
        if isinstance(message, Users | Names) and self.live:
            return None  # first, because nearly every message is of these kinds
        match self.state, message:
            case LinkState.CLOSED, _:
                return []
            case _, Bye(reason, routine):
                level = Level.INFO if routine else Level.WARNING
                return self.close(f"closed by the other end: {reason[:REASON_LIMIT]}", bye=False, level=level)
            case LinkState.GREETING, Hello():
                return self._greeted(message, now, plain)
            case LinkState.PROVING, Proof(mac):
                return self._proved(mac, now)
            case ((LinkState.EXCHANGING | LinkState.FULL), Ping(serial)):
                return [Send(self.link, [Pong(serial, now.unix, self.me.backends)])]
            case ((LinkState.EXCHANGING | LinkState.FULL), Pong(serial, unix, backends)):
                self.backends = backends
                if self._ping_open and serial == self._ping_serial:
                    self._ping_open = False
                    self.pong_serial = serial
                    self.ping_ms = round((now.mono - self._ping_sent.mono) * 1000)
                    return self._compare_clocks(unix, now)
                return []
            case ((LinkState.EXCHANGING | LinkState.FULL), (Hello() | Proof())):
                return self.close(f"{type(message).__name__} came a second time, in {self.state.name}")
            case ((LinkState.EXCHANGING | LinkState.FULL), _):
                return None
        return self.close(f"{type(message).__name__} is not expected in {self.state.name}")

    def tick(self, now: Now) -> list[Effect]:
        """Close the link after a time-out, or send a ping if one is due."""
        if self.state is LinkState.CLOSED:
            return []
        if not self.live:
            if now.mono >= self.deadline:
                return self.close(
                    f"the handshake did not get beyond {self.state.name} within {HANDSHAKE_TIMEOUT:.0f} s"
                )
            return []
        if now.mono >= self.heard + self.me.ping_timeout:
            self.silent = True
            return self.close(
                f"nothing was received for {now.mono - self.heard:.1f} s (ring.ping_timeout)", bye=False
            )
        if now.mono >= self._ping_sent.mono + self.me.ping_interval:
            return self.ping(now)
        return []

    def ping(self, now: Now) -> list[Effect]:
        """Send a ping. The Pong of an earlier Ping no longer counts."""
        self._ping_serial += 1
        self._ping_sent = now
        self._ping_open = True
        return [Send(self.link, [Ping(self._ping_serial)])]

    def _compare_clocks(self, unix: float, now: Now) -> list[Effect]:
        """Compare the clocks again: a clock may have jumped since the greeting.

        Args:
            unix: the other end's clock at some moment since the ping was sent; 0: unknown.
        """
        if not unix:
            return []
        if not isfinite(unix):
            return self.close(f"the clock of {self.name()} gives {unix}, which is no time")
        problem = self._clock_problem(self.name(), unix, self._ping_sent, now)
        if problem is not None:
            return self.close(problem)
        if self._agreed:
            self.agreed_since = self._ping_sent.mono
        return []

    def _clock_problem(self, peer: str, unix: float, since: Now, now: Now, older: float = 0.0) -> str | None:
        """Return the text of the error if the clocks certainly differ too much; None: they do not, or it is
        not certain."""
        skew, unsure = skew_of(unix, since, now, older)
        if abs(skew) - unsure > self.me.max_clock_skew:
            self.skew = skew
            return _clock_differs(peer, skew, self.me.member)
        self._agreed = unsure <= self.me.max_clock_skew
        if self._agreed:
            self.skew = skew
        return None

    @property
    def last_ping(self) -> int:
        return self._ping_serial

    def next_deadline(self) -> float:
        if not self.live:
            return self.deadline
        return min(self.heard + self.me.ping_timeout, self._ping_sent.mono + self.me.ping_interval)

    def close(self, reason: str, *, bye: bool = True, level: Level = Level.WARNING) -> list[Effect]:
        """Close the link, and tell the reason to the log and, with `bye`, to the other end."""
        if self.state is LinkState.CLOSED:
            return []
        effects: list[Effect] = [Send(self.link, [Bye(reason, level is Level.INFO)])] if bye else []
        fields = {"peer": self.name(), "state": self.state.value, "reason": reason}
        self.enter(LinkState.CLOSED)
        self.routine = level is Level.INFO
        return [*effects, Close(self.link), LogEvent(level, "ring_link_closed", fields)]

    def name(self) -> str:
        return self.peer or str(self.remote)

    def _greeted(self, hello: Hello, now: Now, plain: bytes) -> list[Effect]:
        problem = self._problem_with(hello, now)
        if problem is not None:
            return self.close(problem)
        self.peer = MemberId(hello.member)
        self.peer_incarnation = hello.incarnation
        self.version = min(hello.version, RING_VERSION)
        self.release = hello.release[:RELEASE_LIMIT]
        if self.dialled is None:
            self.leftwards = hello.leftwards
        self.enter(LinkState.PROVING)
        dialled = self.dialled is not None
        greetings = (self._greeting, plain) if dialled else (plain, self._greeting)
        self._secrets = self.me.secrets
        self._handshake = Handshake(self._secrets, *greetings, self._certificates, dialled=dialled)
        return [Send(self.link, [Proof(self._handshake.proof())]), Seal(self.link, self._handshake.keys())]

    def _differing_users(self, hello: Hello) -> str:
        """Return the text of the error if settings of [users] differ; empty: none differs."""
        mine, found, texts = self.me, {}, []
        if hello.username_hash != mine.username_hash:
            found["users.username_hash"] = hello.username_hash[:RELEASE_LIMIT]
            name, theirs, ours = hash_setting(hello.username_hash, mine.username_hash)
            texts.append(f"{name} differs: {hello.member} has {theirs!r}, {mine.member} has {ours!r}")
        if hello.expire != mine.expire:
            found["users.expire"] = f"{hello.expire} s"
            texts.append(
                f"users.expire differs: {hello.member} has {hello.expire} s, {mine.member} has"
                f" {mine.expire} s"
            )
        if found:
            self.refused = MemberId(hello.member), found
        return "; ".join(texts)

    def _problem_with(self, hello: Hello, now: Now) -> str | None:
        if max(hello.oldest_version, OLDEST_RING_VERSION) > min(hello.version, RING_VERSION):
            return (
                f"ring version {hello.oldest_version} to {hello.version} offered, "
                f"{self.me.member} supports {OLDEST_RING_VERSION} to {RING_VERSION}:"
                " upgrade the director with the older one"
            )
        try:
            address, _ = split_member(MemberId(hello.member))
        except ValueError:
            return f"member name {hello.member[:REASON_LIMIT]!r} is not ADDRESS:PORT"
        if hello.member == self.me.member:
            return f"two directors use the address {hello.member}: give each its own in ring.listen"
        if self.dialled is not None and hello.member != self.dialled:
            return f"{self.dialled} was dialled, but the director there is {hello.member}"
        if address != self.remote:
            return (
                f"{hello.member} connects from {self.remote}: it must"
                " connect from its address in ring.servers"
            )
        if problem := self._differing_users(hello):
            return problem
        if not 0 <= hello.incarnation < NUMBER_LIMIT:
            return f"{hello.member} has the incarnation {hello.incarnation}"
        if not isfinite(hello.unix):
            return f"the clock of {hello.member} gives {hello.unix}, which is no time"
        return self._clock_problem(hello.member, hello.unix, self.opened, now, self._suspended)

    def _proved(self, mac: bytes, now: Now) -> list[Effect]:
        number = self._handshake.secret_of(mac)
        if number is None or self._secrets[number] not in self.me.secrets:
            self.disproved = True
            return self.close(
                "wrong ring secret: ring.secret_file must have the same content on every director"
                " (or a device between them changes their messages or terminates their TLS)"
            )
        self.enter(LinkState.EXCHANGING)
        self.was_live = True
        self.agreed_since = self.opened.mono if self._agreed else None
        self.heard = now.mono
        self._ping_sent = now
        self._made_with = frozenset((self._secrets[0], self._secrets[number]))
        return [Unseal(self.link, self._handshake.receiving(number))] if number else []

    def set_identity(self, me: Identity) -> list[Effect]:
        """Take over changed secrets and backends.

        A link that was made with a secret that is no longer accepted is closed and made anew, because its
        keys can be derived from that secret.
        """
        self.me = me
        if not self.live or self._made_with <= set(me.secrets):
            return []
        return self.close(
            "ring.secret_file has changed; connecting again with the new secret", level=Level.INFO
        )


def _clock_differs(peer: str, skew: float, me: str) -> str:
    side = "ahead of" if skew > 0 else "behind"
    return f"the clock of {peer} is {abs(skew):.1f} s {side} that of {me}: synchronize both (NTP)"


def postpone_exchanges(
    links: Iterable[Neighbour], users: int, now: Now, *, joining: bool, loading: bool
) -> None:
    """Postpone exchanges that should wait for other exchanges or for the store.

    A joining director with many users first compares them with one neighbour. After that, little differs from
    the others. While it reads its store it compares nothing: it would be sent all that it is about to read.

    Args:
        users: how many users this director has.
        joining: whether this director's memory has not been compared with the ring yet.
        loading: whether it is reading its store.
    """
    busy = [n for n in links if n.live and n.state is LinkState.EXCHANGING]
    one_by_one = joining and users > SMALL
    for number, neighbour in enumerate(busy):
        put_off = one_by_one and number > 0 and now.mono < busy[0].heard + QUIET
        neighbour.exchange.postponed = loading or put_off
