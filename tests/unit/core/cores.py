"""Cores for unit tests: one director whose peers the test plays. Whole rings are in `tests/simulation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from director.core.director import Director
from director.core.placement.addresses import host_id
from director.core.placement.assign import Assigner, Gate
from director.core.placement.hashing import UserHash
from director.core.placement.names import NameTable
from director.core.placement.users import User, UserTable
from director.core.protocol.effects import Effect, Send
from director.core.protocol.events import Event, LinkOpened, Received, SessionsListed, Started, TimerFired
from director.core.protocol.messages import Digests, ExchangeDone, Ping, RingMessage, Summaries, Token
from director.core.protocol.order import split_member
from director.core.ring.link import Identity, LinkState, Neighbour
from director.core.settings import Settings
from director.core.tables.hosts import BackendSetting, HostTable
from director.types import Address, LinkId, MemberId, Now, Stamp
from director.wire import ring_native

D1, D2, D3 = (MemberId(f"10.0.0.{number}:9090") for number in (1, 2, 3))
BACKENDS = [Address(f"10.1.0.{number}") for number in (1, 2, 3, 4)]
EXPIRE = 900
START = 1_000_000
SECRET = b"the secret of the ring"

Kind = TypeVar("Kind")
Core = TypeVar("Core", bound="Played")


def at(mono: float) -> Now:
    return Now(mono, START + mono)


def identity(member: MemberId, **fields: Any) -> Identity:
    usual: dict[str, Any] = {
        "member": member,
        "incarnation": 7,
        "username_hash": "%Lu",
        "expire": EXPIRE,
        "secret": SECRET,
        "ping_interval": 1.0,
        "ping_timeout": 5.0,
        "max_clock_skew": 2.0,
    }
    return Identity(**(usual | fields))


class Played:
    """One real core, and its effects so far."""

    made_of: ClassVar[tuple[type[UserTable], type[Assigner]]] = UserTable, Assigner
    names_of: ClassVar[type[NameTable]] = NameTable

    def __init__(self, *others: MemberId, me: MemberId = D1, started: bool = True, **settings: Any) -> None:
        table, assigner = self.made_of
        self.users = table(EXPIRE)
        self.core = Director(
            identity(me),
            [me, *others],
            HostTable(BackendSetting(address, "", "", 100) for address in BACKENDS),
            assigner(self.users, UserHash()),
            self.names_of(),
            Settings(**settings),
        )
        self.peers: dict[LinkId, Neighbour] = {}
        self.mono = 0.0
        if started:
            self.handle(Started(), 0)

    def handle(self, event: Event, mono: float) -> list[Effect]:
        self.mono = mono
        return self.core.handle(event, at(mono))

    def until(self, mono: float) -> list[Effect]:
        """Let time pass, in steps, while the neighbours send pings. Returns all effects."""
        effects: list[Effect] = []
        while self.mono < mono or self.core.next_deadline() == 0.0:
            if self.core.next_deadline() != 0.0:  # else some work is left for the next turn of the loop
                self.mono = min(mono, self.mono + 0.25)
            for link in list(self.core.ring.links):
                effects += self.hear(link, Ping(0), mono=self.mono)
            effects += self.handle(TimerFired(), self.mono)
        return effects

    def hear(self, link: int, *messages: RingMessage, mono: float = 1.0) -> list[Effect]:
        return self.handle(Received(LinkId(link), messages), mono)

    def link(
        self, number: int, peer: MemberId, *, dialled: bool, mono: float = 0.0, compared: bool = True
    ) -> None:
        """Play the other end of a link from the greeting to the end of the exchange."""
        link, address = LinkId(number), split_member(peer)[0]
        other = Neighbour(
            link,
            identity(peer),
            split_member(self.core.me)[0],
            None if dialled else self.core.me,
            b"theirs %d" % number,
            at(mono),
        )
        theirs = messages(other.open())
        opened = LinkOpened(link, b"ours %d" % number, address, peer if dialled else None)
        ours = messages(self.handle(opened, mono))
        while ours or theirs:
            answers = [m for one in ours for m in messages(other.handle(one, at(mono), plain(one)) or [])]
            ours = []
            if theirs:
                ours = messages(self.handle(Received(link, theirs, plain(*theirs)), mono))
            theirs = answers
            ours = [m for m in ours if type(m).__name__ in ("Hello", "Proof")]
        self.peers[link] = other
        nothing = Digests(0, bytes(8 * 4096)), Summaries([], [], True)
        self.hear(number, *nothing, ExchangeDone(compared), mono=mono)
        while self.core.next_deadline() == 0.0:
            self.handle(TimerFired(), mono)

    def state(self, link: int) -> LinkState:
        return self.core.ring.links[LinkId(link)].state


def in_ring(**settings: Any) -> Played:
    """Return d1 between d3 (left, link 2) and d2 (right, link 1), in sync."""
    return put_in_ring(Played(D2, D3, **settings))


def put_in_ring(played: Core) -> Core:
    """Put a core that knows D2 and D3 into the same ring."""
    played.link(1, D2, dialled=True)
    played.link(2, D3, dialled=False)
    digest = played.core.hosts.digest()
    for lap, passed in ((1, [D2, D3]), (2, [D2, D3, D1])):
        played.hear(2, Token(D2, 1, lap, digest, list(passed)), mono=0.5)
    assert played.core.assigner.gate is Gate.OPEN
    played.handle(SessionsListed(()), 0.6)
    return played


def user(name: bytes, host: Address, *, decided: int = START, seen: int = START, flags: int = 0) -> User:
    return User(UserHash().key(name), host_id(host), Stamp(decided), seen, flags)


def plain(*frame: RingMessage) -> bytes:
    """Return the bytes of a frame that is not sealed."""
    return ring_native.encode(frame)[4:]


def messages(effects: Sequence[Effect], link: int | None = None) -> list[RingMessage]:
    """Return the messages that are sent (over one link), in order."""
    sends = [effect for effect in effects if isinstance(effect, Send)]
    return [message for send in sends if link in (None, send.link) for message in send.messages]


def of(kind: type[Kind], effects: Sequence[object]) -> list[Kind]:
    return [effect for effect in effects if isinstance(effect, kind)]
