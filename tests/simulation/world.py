"""Whole rings of real cores on a virtual network and a virtual clock. A seed is one run, exactly repeatable.

No part of the core is replaced: only sockets, timers and the store are simulated.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from director.core.director import Director
from director.core.moves.jobs import Flush, Forget, KickSessions, MoveUser, UnpinUser
from director.core.moves.kicks import AGAIN_AFTER, KICK_TIMEOUT
from director.core.placement.assign import Gate
from director.core.placement.hashing import UserHash
from director.core.placement.names import NameTable
from director.core.placement.users import User, has_long_expired, is_unexpired, unpack
from director.core.protocol.clock import within_records
from director.core.protocol.effects import (
    Answer,
    Claim,
    Close,
    Departed,
    Dial,
    Effect,
    FetchBuckets,
    Kick,
    ListSessions,
    LogEvent,
    OperationDone,
    OperationFailed,
    Persist,
    Refuse,
    RunFlush,
    Seal,
    Send,
    SetReading,
    StopFlush,
    StoreHosts,
    StoreMembers,
    Unseal,
    UsersDone,
)
from director.core.protocol.events import (
    DialFailed,
    Dropped,
    Event,
    FlushEnded,
    HostChange,
    InterruptFlush,
    Kicked,
    KicksEnded,
    LinkClosed,
    LinkOpened,
    Lookup,
    MemberChange,
    MembersListed,
    ProcessStalled,
    Received,
    Seen,
    SessionsListed,
    Started,
    Stopping,
    StoredHosts,
    StoredMembers,
    StoredUsers,
    TimerFired,
)
from director.core.protocol.kicktypes import KickWhat, ProxiedSession
from director.core.protocol.messages import (
    Hello,
    Hosts,
    KickRound,
    MoveRound,
    NearRound,
    Proof,
    RingMessage,
    Token,
    Users,
)
from director.core.protocol.order import join_member, split_member
from director.core.protocol.stamps import AHEAD
from director.core.ring.link import Identity
from director.core.ring.presence import next_incarnation
from director.core.settings import Settings
from director.core.tables.hosts import BackendSetting, HostTable
from director.stored.storeevents import ClaimAsked, HostsChanged, MembersChanged, PersistAsked, ReadAsked
from director.types import Address, LinkId, MemberId, Now, RequestId, UserKey
from director.wire import ring_native
from director.wire.hotpath import Assigner, UserTable
from tests.simulation.parts import EARLIEST_DROP, EXPIRE, Outcome, Reply, Session, ends
from tests.simulation.persistence import AFTER_STOP, Persistence
from tests.simulation.store import Store

UNIX = 1_700_000_000.0
LEASE_TTL = 3.0
BUSY_TURNS = 3000
"""Turns of the loop in a row without a pause; more are a busy loop."""
LATE_TURNS = 3
"""Timers in a row after which a deadline in the past is an error."""
SECOND_KICK = Settings().kick_delay - AGAIN_AFTER
"""Seconds that a second kick has before the logins of a moved user continue."""
HASH = UserHash()


class Table(UserTable):
    """A table that reports users who are dropped early."""

    report: Callable[[User], None]

    def shed(self, number: int, unix: int) -> int:
        before = list(unpack(self.bucket(number)))
        dropped = super().shed(number, unix)
        for user in before:
            if self.get(user.key) is None and not has_long_expired(user, unix, EXPIRE):
                self.report(user)
        return dropped


class Node:
    """A director process."""

    def __init__(self, world: World, member: MemberId, store: Store) -> None:
        self.world, self.member, self.store = world, member, store
        self.up = self.suspended = False
        self.suspended_at = self.resumed_at = 0.0
        self.skew = 0.0
        """Seconds by which the clock is always off."""
        self.stepped = 0.0
        """Seconds by which it has stepped in addition, for a while."""
        self.last_number = 0
        """The highest incarnation that the predecessor has left to its successor."""
        self.last_unix = self.written = 0.0
        """Its clock at its last event; and at the last write of its files."""
        self.incarnation = 0
        self.identity: dict[str, Any] = {}
        """The fields of its `Identity` that differ from the usual ones."""
        self.replies: dict[RequestId, Reply] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.sessions: list[Session] = []
        """The sessions of the login processes of this machine. They outlive the director."""
        self.kicks: list[KickWhat] = []
        """The kicks that the login processes got, in order."""
        self.kick_channel: Callable[[], float | None] = lambda: self.world.chance(self, self).uniform(
            0.0005, 0.003
        )
        """Seconds that a kick takes; None: it is never answered."""
        self.flushes: list[RunFlush] = []
        """The flush programs that were run."""
        self.flush_program: tuple[float, bool] | None = (0.1, True)
        """How long a flush program takes, and whether it succeeds; None: it never ends."""
        self.when_left: Callable[[], None] = lambda: None
        self.links: dict[LinkId, Wire] = {}
        self.inbox: list[Event] = []
        self._events: deque[Event] = deque()
        self._busy = False
        self.timer: float | None = None
        self.busy_turns = self.late_turns = 0
        self.overheard: deque[Token] = deque(maxlen=20)
        """The latest tokens that arrived here."""
        self.swallows_until = 0.0
        """The time until which it swallows all tokens: it passes on none, and sends none."""

    @property
    def unix(self) -> float:
        return within_records(UNIX + self.world.now + self.skew + self.stepped)

    def start(self, memory: Sequence[Event] = ()) -> None:
        """Start the director. `memory`: the records of the predecessor that it replaces in place."""
        world = self.world
        self.incarnation = world.next_number()
        self.written = max(self.written, self.last_unix)
        self.up, self.suspended, self.inbox, self.timer = True, False, [], None
        self.resumed_at = world.now
        fields: dict[str, Any] = {
            "member": self.member,
            "incarnation": next_incarnation(self.unix, self.last_number),
            "username_hash": "%Lu",
            "expire": EXPIRE,
            "secret": b"the secret of the ring",
            "ping_interval": 1.0,
            "ping_timeout": 5.0,
            "max_clock_skew": 2.0,
        }
        self.users = Table(EXPIRE, EARLIEST_DROP)
        self.users.report = lambda user: world.on_drop(self, user)
        self.core = Director(
            Identity(**(fields | self.identity)),
            world.servers.get(self.member, world.members),
            HostTable(world.settings),
            Assigner(self.users, HASH),
            NameTable(),
            world.settings_of_core,
        )
        world.log(self, "started", {})
        if self.unix + AHEAD < self.written:
            self.core.clock.doubt(Now(world.now, self.unix), before_start=True)
        self.persistence = Persistence(self, LEASE_TTL)
        for event in memory:
            self.handle(event)
        self.persistence.begin(memory or None)
        self.handle(Started())
        self.persistence.run()

    def crash(self, *, silently: bool = False) -> None:
        """End without warning. `silently`: the whole machine fails, and its peers get no word from TCP."""
        self.world.log(self, "crashed", {})
        self.up = self.suspended = False
        self._events.clear()
        for wire in list(self.links.values()):
            if silently:
                wire.silent = True
            else:
                wire.close(self)
        self.links, self.replies, self.outcomes = {}, {}, {}

    def replace(self) -> None:
        """Replace the program in place: memory and incarnation are kept, links are made again."""
        core, users = self.core, self.users
        memory: list[Event] = [
            StoredHosts(tuple(core.hosts.rows.values())),
            StoredMembers(tuple(core.members.rows.values()), met=frozenset(core.members.met)),
            StoredUsers(b"".join(users.bucket(number) for number in occupied(users))),
        ]
        minority_since = core.minority_since
        self.last_number = core.ring.presence.number
        self.crash()
        self.start(memory)
        self.last_number = 0
        self.core.take_over(minority_since)

    def stop(self) -> None:
        """Stop in an orderly way: leave the ring, write everything, release the lease."""
        life = self.incarnation
        self.world.log(self, "stopping", {})

        def end() -> None:
            if self.up and self.incarnation == life:
                self.persistence.stop()

        self.when_left = end
        self.handle(Stopping())

    def handle(self, event: Event) -> None:
        if self.suspended:
            self.inbox.append(event)
            return
        if self.persistence.stopping:
            if isinstance(event, AFTER_STOP):
                self.core.handle(event, Now(self.world.now, self.unix))
            return
        self._events.append(event)
        if self._busy:
            return  # an effect of the present event has caused this event, which has to wait
        self._busy = True
        try:
            while self._events and not self.suspended:
                self._handle(self._events.popleft())
        finally:
            self._busy = False
            self._events.clear()
        if self.up:
            self.persistence.buckets_changed()

    def _handle(self, event: Event) -> None:
        now = Now(self.world.now, self.unix)
        self.last_unix = now.unix
        if isinstance(event, Received):
            self.overheard.extend(message for message in event.messages if isinstance(message, Token))
        self.run(self.core.handle(event, now))
        deadline = self.core.next_deadline()
        self.busy_turns = self.busy_turns + 1 if deadline == 0.0 else 0
        assert self.busy_turns < BUSY_TURNS, "busy loop: work is left over without end"
        if isinstance(event, TimerFired):
            self.late_turns = self.late_turns + 1 if deadline and deadline <= now.mono else 0
            assert self.late_turns < LATE_TURNS, "busy loop: an overdue deadline is not handled"
        self.arm(deadline)

    def arm(self, deadline: float | None) -> None:
        if deadline is None:
            return
        at = max(deadline, self.world.now + 0.0005)
        if self.timer is not None and self.world.now < self.timer <= at:
            return
        self.timer = at
        life = self.incarnation

        def fire() -> None:
            if self.up and self.incarnation == life and not self.suspended and self.timer == at:
                self.timer = None
                self.handle(TimerFired())

        self.world.after(at - self.world.now, fire)

    def run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, messages):
                    if link in self.links:
                        self.links[link].send(self, self.not_swallowed(messages))
                case Close(link):
                    if link in self.links:
                        self.links.pop(link).close(self)
                case Dial():
                    self.world.dial(self, effect)
                case Seal() | Unseal():
                    pass  # no frame is changed on the way here
                case Answer(request, _, backend):
                    self.replied(request, host=backend.address)
                case Refuse(request, reason):
                    self.replied(request, refused=reason)
                case Claim(key, record):
                    if not self.core.barrier.synced:
                        self.world.impatient[key] = self.world.now
                    self.persistence.feed(ClaimAsked(key, record))
                case OperationDone(operation, row):
                    self.outcomes.pop(operation).done = row
                case OperationFailed(operation, _, reason):
                    self.outcomes.pop(operation).failed = reason
                case StoreHosts():
                    self.persistence.feed(HostsChanged())
                case LogEvent(_, event, fields):
                    self.world.log(self, event, fields)
                case _:
                    self.run_more(effect)

    def not_swallowed(self, messages: Iterable[RingMessage]) -> list[RingMessage]:
        """Return the messages of a frame that a director which swallows tokens sends."""
        if self.world.now >= self.swallows_until:
            return list(messages)
        return [m for m in messages if not isinstance(m, Token | MoveRound | NearRound | KickRound)]

    def run_more(self, effect: Effect) -> None:
        match effect:
            case SetReading():
                pass
            case UsersDone(operation, counts):
                self.outcomes.pop(operation).users = counts
            case StoreMembers():
                self.persistence.feed(MembersChanged())
            case FetchBuckets(buckets):
                self.persistence.feed(ReadAsked(buckets))
            case Persist(number, buckets):
                self.persistence.feed(PersistAsked(number, buckets))
            case Kick(number, what):
                self.kicks.append(what)
                takes = self.kick_channel()
                if takes is None or takes >= KICK_TIMEOUT:
                    for session in self.sessions:
                        session.kick_failed = session.kick_failed or ends(what, session)
                elif takes >= SECOND_KICK:
                    for session in self.sessions:
                        session.late = session.late or (session.missed and ends(what, session))
                if takes is not None:
                    self.later(takes, lambda: self.kicked(number, what))
            case ListSessions():
                arrived = [s for s in self.sessions if s.arrived]
                self.world.listed_users |= {session.user for session in arrived}
                listed = [ProxiedSession(s.user.encode(), s.host, s.hash32) for s in arrived]
                self.later(0.002, lambda: self.handle(SessionsListed(listed)))
            case RunFlush(number):
                self.flushes.append(effect)
                if self.flush_program is not None:
                    takes, ok = self.flush_program
                    self.later(takes, lambda: self.handle(FlushEnded(number, ok)))
            case StopFlush():
                pass
            case Departed():
                self.world.after(0.0, self.when_left)
            case _:
                raise AssertionError(f"no part of the world carries out {effect}")

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` later, unless this run of the director has ended by then."""
        life = self.incarnation

        def due() -> None:
            if self.up and self.incarnation == life:
                call()

        self.world.after(seconds, due)

    def kicked(self, number: int, what: KickWhat) -> None:
        for session in self.sessions:
            session.missed = session.missed or (not session.arrived and ends(what, session))
        kept = [session for session in self.sessions if not (session.arrived and ends(what, session))]
        ended = len(self.sessions) - len(kept)
        self.sessions = kept
        self.handle(KicksEnded([Kicked(number, ended)]))

    def replied(self, request: RequestId, *, host: str | None = None, refused: str | None = None) -> None:
        reply = self.replies.pop(request, None)
        if reply is None:
            return  # the connection of the login has closed
        reply.host, reply.refused, reply.answered = host, refused, self.world.now
        self.world.replied(self, reply)
        if host is not None and self.world.proxying:
            session = Session(reply.user, reply.tag, Address(host), self.world.now, self.world.now)
            key = HASH.key(reply.user.encode(), reply.tag.encode())
            session.remembered = self.users.get(key) is not None
            self.proxy(session)

    def proxy(self, session: Session) -> None:
        """Connect the login process with the backend. From then on it announces the session now and then."""
        takes = self.world.on_the_way()
        session.arrived = takes == 0.0
        self.sessions.append(session)

        def arrive() -> None:
            session.arrived = True

        def announce() -> None:
            if any(one is session for one in self.sessions):
                if self.up:
                    self.handle(Seen((session.user.encode(),)))
                    session.heard = session.heard if self.suspended else self.world.now
                self.world.after(EXPIRE / 3, announce)

        if takes:
            self.world.after(takes, arrive)
        if self.world.refreshing:
            self.world.after(EXPIRE / 3, announce)

    def list_members(self, members: list[MemberId]) -> None:
        """Give the director the present addresses of the configuration's names."""
        self.handle(MembersListed(members, {}))

    def suspend(self) -> None:
        self.world.log(self, "suspended", {})
        self.suspended, self.suspended_at = True, self.world.now

    def resume(self) -> None:
        """Deliver all that waited in sockets and timers at once, after the director has noticed the jump
        of the clock."""
        self.suspended, self.resumed_at = False, self.world.now
        inbox, self.inbox = self.inbox, []
        self.timer = None
        self.handle(ProcessStalled(self.world.now - self.suspended_at))
        for event in inbox:
            self.handle(event)
        if self.up:
            self.persistence.resume()


@dataclass
class Wire:
    """A TCP connection between two nodes: in order, with delay, silent across a partition."""

    world: World
    dialler: Node
    acceptor: Node
    dialled_link: LinkId
    accepted_link: LinkId
    open: bool = True
    silent: bool = False
    busy: dict[int, float] = field(default_factory=dict)

    def ends(self, sender: Node) -> tuple[Node, LinkId]:
        if sender is self.dialler:
            return self.acceptor, self.accepted_link
        return self.dialler, self.dialled_link

    def deliver(self, sender: Node, event: Callable[[LinkId], Event], *, closes: bool = False) -> None:
        to, link = self.ends(sender)
        life = to.incarnation
        delay = self.world.slow.get((sender.member, to.member)) or self.world.delay(sender, to)
        when = max(self.busy.get(id(to), 0.0) + 1e-6, self.world.now + delay)
        self.busy[id(to)] = when

        def arrive() -> None:
            if self.silent or not to.up or to.incarnation != life or link not in to.links:
                return
            if closes:
                del to.links[link]
            to.handle(event(link))

        self.world.after(when - self.world.now, arrive)

    def send(self, sender: Node, messages: list[RingMessage]) -> None:
        if self.open and not self.silent:
            messages = self.world.kept(messages)
            greets = any(isinstance(message, Hello | Proof) for message in messages)
            plain = ring_native.encode(messages)[4:] if greets else b""
            self.deliver(sender, lambda link: Received(link, messages, plain))
            again = [m for m in messages if isinstance(m, Users | Hosts | Token)]
            if again and self.world.chance(sender, self.ends(sender)[0]).random() < self.world.duplicates:
                self.deliver(sender, lambda link: Received(link, again))

    def close(self, sender: Node) -> None:
        if self.open:
            self.open = False
            self.deliver(sender, lambda link: LinkClosed(link, "connection closed"), closes=True)


class World:
    def __init__(
        self, directors: int = 3, hosts: int = 4, store: str = "own", seed: int = 1, weight: int = 100
    ) -> None:
        """Make a world.

        `store`: `own` (one for each director, as with SQLite) or `shared` (as with Redis).
        """
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 100.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.lines: list[str] = []
        self.settings_of_core = Settings()
        self.proxying = False
        """Whether answered logins become sessions of the machine of the director."""
        self.refreshing = False
        """Whether these sessions are announced every third of the expiry."""
        self.on_the_way: Callable[[], float] = lambda: 0.0
        """Seconds from an answer until the session is connected and can be ended."""
        self.store_takes = 1.0
        """How many times longer than usual each call to a store takes."""
        self.load_takes = 0.0
        """Seconds until a director that starts has read all users from its store."""
        self.impatient: dict[UserKey, float] = {}
        """The time when a user was claimed because the ring was not in sync for five seconds
        (docs/ring.md, rule 37)."""
        self.busiest: int | None = None
        """The most events in one second; more are a storm of messages. None: any number."""
        self._second = self._in_this_second = 0
        self._chances: dict[tuple[MemberId, MemberId], random.Random] = {}
        self.blocked: set[tuple[MemberId, MemberId]] = set()
        """Pairs (dialler, dialled) whose connections time out in this direction only."""
        self.groups: dict[MemberId, int] = {}
        self.servers: dict[MemberId, list[MemberId]] = {}
        """`ring.servers` of members whose list differs from the others'."""
        self.duplicates = 0.0
        """How often a frame of records, rows or tokens arrives twice."""
        self.tokens_lost = 0
        self._tokens_pass_at = self._rounds_pass_at = 0.0
        self.delays = (0.0002, 0.001, 0.005)
        self.slow: dict[tuple[MemberId, MemberId], float] = {}
        """Seconds from one member to another, if fixed."""
        self.listed_users: set[str] = set()
        """Users of all sessions that were ever listed."""
        self.on_reply: Callable[[Node, Reply], None] | None = None
        self.on_drop: Callable[[Node, User], None] = lambda node, user: None
        """Called when a director has dropped a user early because its table was full."""
        self._numbers = 0
        self.members = [join_member(f"127.0.0.{10 + i}", 9090) for i in range(1, directors + 1)]
        self.settings = [BackendSetting(Address(f"127.0.1.{i}"), "", "", weight) for i in range(1, hosts + 1)]
        common = Store(shared=True)
        self.nodes = {
            m: Node(self, m, common if store == "shared" else Store(shared=False)) for m in self.members
        }

    def node(self, name: str) -> Node:
        """Return the director `d1` … `dN`."""
        return self.nodes[self.members[int(name[1:]) - 1]]

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def log(self, node: Node, event: str, fields: object) -> None:
        self.lines.append(f"{self.now - 100:9.4f} d{self.members.index(node.member) + 1} {event} {fields}")

    def replied(self, node: Node, reply: Reply) -> None:
        self.log(node, "reply", f"{reply.user} {reply.host or reply.refused}")
        if self.on_reply is not None:
            self.on_reply(node, reply)

    def chance(self, one: Node, other: Node) -> random.Random:
        """Return the random generator of a pair, so that it does not depend on other pairs."""
        pair = one.member, other.member
        if pair not in self._chances:
            self._chances[pair] = random.Random(f"{self.seed} {pair}")
        return self._chances[pair]

    def delay(self, one: Node, other: Node) -> float:
        chance = self.chance(one, other)
        return chance.choice(self.delays) * chance.uniform(0.5, 2)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + seconds, self.next_number(), call))

    def start(self, *names: str) -> World:
        for node in [self.node(n) for n in names] or list(self.nodes.values()):
            node.start()
        return self

    def run(self, seconds: float) -> World:
        until = self.now + seconds
        while self.queue and self.queue[0][0] <= until:
            self._next()
        self.now = until
        return self

    def run_until_in_sync(self, within: float) -> World:
        return self.run_until(self.in_sync, within)

    def lose_tokens(self, for_seconds: float) -> World:
        self._tokens_pass_at = self.now + for_seconds
        return self

    def lose_rounds(self, for_seconds: float) -> World:
        """Lose the tokens of moves, kicks and users near expiry for a while."""
        self._rounds_pass_at = self.now + for_seconds
        return self

    def kept(self, messages: list[RingMessage]) -> list[RingMessage]:
        """Return the messages of a frame that are not lost."""
        kept = messages
        if self.now < self._tokens_pass_at:
            kept = [message for message in messages if not isinstance(message, Token)]
        if self.now < self._rounds_pass_at:
            kept = [message for message in kept if not isinstance(message, MoveRound | NearRound | KickRound)]
        self.tokens_lost += len(messages) - len(kept)
        return kept

    def run_until(self, true: Callable[[], bool], within: float) -> World:
        """Run until a condition holds. Fails if it does not hold in time."""
        until = self.now + within
        while not true():
            assert self.queue, "nothing is left to happen"
            assert self.queue[0][0] <= until, f"not within {within} s:\n{self.trace()}"
            self._next()
        return self

    def _next(self) -> None:
        self.now, _, call = heapq.heappop(self.queue)
        if self.busiest is not None:
            second = int(self.now)
            self._in_this_second = self._in_this_second + 1 if second == self._second else 0
            self._second = second
            assert self._in_this_second < self.busiest, "a storm: messages pass round without end"
        call()

    def reachable(self, one: Node, other: Node) -> bool:
        return self.groups.get(one.member, 0) == self.groups.get(other.member, 0)

    def dial(self, node: Node, dial: Dial) -> None:
        target = self.nodes.get(dial.member)
        life = node.incarnation

        def fail(reason: str) -> None:
            if node.up and node.incarnation == life:
                node.handle(DialFailed(dial.member, reason, dial.leftwards))

        def connect() -> None:
            if not node.up or node.incarnation != life:
                return
            blocked = (node.member, dial.member) in self.blocked
            if target is None or not self.reachable(node, target) or blocked:
                self.after(2.0, lambda: fail("timed out"))
                return
            if not target.up:
                fail("refused")
                return
            self.connect(node, target, dial.leftwards)

        self.after(self.delay(node, target or node), connect)

    def connect(self, node: Node, target: Node, leftwards: bool = False) -> None:
        dialled, accepted = LinkId(self.next_number()), LinkId(self.next_number())
        wire = Wire(self, node, target, dialled, accepted)
        node.links[dialled] = target.links[accepted] = wire
        nonces = self.random.randbytes(16), self.random.randbytes(16)
        target.handle(LinkOpened(accepted, nonces[0], split_member(node.member)[0]))
        if dialled in node.links:
            remote = split_member(target.member)[0]
            node.handle(LinkOpened(dialled, nonces[1], remote, target.member, leftwards))

    def slow_down(self, sender: str, receiver: str, seconds: float) -> World:
        self.slow[self.node(sender).member, self.node(receiver).member] = seconds
        return self

    def partition_off(self, *names: str) -> World:
        """Partition these directors off: connections become silent, new connections time out."""
        inside = {self.node(n).member for n in names}
        self.groups = {m: int(m in inside) for m in self.members}
        for node in self.nodes.values():
            for wire in node.links.values():
                if not self.reachable(wire.dialler, wire.acceptor):
                    wire.silent = True
        return self

    def heal(self) -> World:
        self.groups = {}
        return self

    def login(self, user: str, at: str, tag: str = "") -> Reply:
        node = self.node(at)
        reply = Reply(user, node.member, self.now, tag=tag)
        request = RequestId(self.next_number())
        node.replies[request] = reply
        node.handle(Lookup(request, HASH.key(user.encode(), tag.encode()), tag.encode(), user.encode()))
        return reply

    def logins(self, users: Iterable[str], at: str) -> list[Reply]:
        return [self.login(user, at) for user in users]

    def hang_up(self, reply: Reply) -> None:
        """Close the connection of a waiting login."""
        node = self.nodes[reply.at]
        (request,) = [number for number, one in node.replies.items() if one is reply]
        del node.replies[request]
        node.handle(Dropped([request]))

    def seen(self, user: str, at: str) -> None:
        self.node(at).handle(Seen((user.encode(),)))

    def change(self, at: str, address: str, **what: Any) -> Outcome:
        node = self.node(at)
        number = self.next_number()
        outcome = node.outcomes[number] = Outcome()
        node.handle(HostChange(number, Address(address), **what))
        return outcome

    def change_member(self, at: str, member: str, *, remove: bool = False) -> Outcome:
        return self.operate(at, MemberChange(0, self.node(member).member, remove))

    def move(self, at: str, user: str, address: str, tag: str = "", **how: Any) -> Outcome:
        key = HASH.key(user.encode(), tag.encode())
        return self.operate(at, MoveUser(0, key, Address(address), user.encode(), **how))

    def unpin(self, at: str, user: str, tag: str = "") -> Outcome:
        return self.operate(at, UnpinUser(0, HASH.key(user.encode(), tag.encode())))

    def flush(self, at: str, address: str | None = None, **how: Any) -> Outcome:
        return self.operate(at, Flush(0, None if address is None else Address(address), **how))

    def forget(self, at: str, address: str | None = None) -> Outcome:
        return self.operate(at, Forget(0, None if address is None else Address(address)))

    def kick(self, at: str, what: KickWhat, *, wait: bool = True) -> Outcome:
        return self.operate(at, KickSessions(0, what, wait))

    def operate(self, at: str, event: Any) -> Outcome:
        """Give an operator's command to one director."""
        node = self.node(at)
        number = self.next_number()
        outcome = node.outcomes[number] = Outcome(number=number)
        node.handle(msgspec.structs.replace(event, operation=number))
        return outcome

    def interrupt(self, at: str, outcome: Outcome) -> None:
        self.node(at).handle(InterruptFlush(outcome.number))

    def sessions(self, user: str) -> list[str]:
        """Return the hosts of all live sessions of a user, on all machines."""
        return [s.host for node in self.nodes.values() for s in node.sessions if s.user == user]

    def ups(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.up]

    def in_sync(self) -> bool:
        """Whether all directors that are up form one ring and answer all users."""
        up = tuple(n.member for n in self.ups())
        return all(n.core.barrier.ring == up and n.core.assigner.gate is Gate.OPEN for n in self.ups())

    def where(self, user: str) -> set[str | None]:
        """Return the hosts that the running directors have for a user; None for those that have none."""
        return {self.host_at(user, f"d{self.members.index(n.member) + 1}") for n in self.ups()}

    def host_at(self, user: str, at: str) -> str | None:
        return self.host_of(self.node(at), user)

    def host_of(self, node: Node, user: str, tag: str = "") -> str | None:
        """Return the host that a director has for a user."""
        record = node.users.get(HASH.key(user.encode(), tag.encode()))
        lost = record is None or node.core.hosts.host_removed(record)
        row = None if record is None or lost else node.core.hosts.by_id(record.host)
        return None if row is None else row.address

    def differences(self) -> list[str]:
        """Return the differences between the running directors at rest: hosts and users, with their
        stamps."""
        found = []
        first, *others = self.ups()
        for other in others:
            if first.core.hosts.rows != other.core.hosts.rows:
                found.append(f"hosts of {first.member} and {other.member}")
            for one, two in ((first, other), (other, first)):
                for key, record in unexpired_users(one).items():
                    user = two.users.get(key)
                    if user is None or (user.host, user.decided, user.flags) != record:
                        found.append(f"user {key:x}: {record} at {one.member}, {user} at {two.member}")
        return found

    def unstored(self) -> list[str]:
        """Return the users and hosts that a store does not hold as memory does, at rest."""
        found = []
        for node in self.ups():
            users = node.store.users
            for key, record in unexpired_users(node).items():
                stored = users.get(key)
                if stored is None or (stored.host, stored.decided, stored.flags) != record:
                    found.append(f"user {key:x} of {node.member}: {record} stored as {stored}")
            if node.store.rows != node.core.hosts.rows:
                found.append(f"hosts of {node.member}")
        return found

    def trace(self) -> str:
        return "\n".join(self.lines)


def unexpired_users(node: Node) -> dict[UserKey, tuple[int, int, int]]:
    """Return the users that a director can answer from memory for a while, except those that may be
    dropped early: (host, decided, flags) by key."""
    soon = int(node.unix) + EXPIRE // 3 + 5
    return {
        user.key: (user.host, user.decided, user.flags)
        for number in occupied(node.users)
        for user in unpack(node.users.missing(number, b"", int(node.unix)))
        if is_unexpired(user, soon, EXPIRE) and not node.core.hosts.host_removed(user)
    }


def occupied(users: UserTable) -> list[int]:
    """Return the buckets that are not empty."""
    digests = users.digests(0)
    return [number for number in range(4096) if digests[8 * number : 8 * number + 8] != bytes(8)]
