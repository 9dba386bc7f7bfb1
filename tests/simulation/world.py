"""Whole rings of real cores on a virtual network and a virtual clock. One seed is one run, exactly repeatable.

Nothing of the core is replaced: only sockets, timers and the store are simulated here.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from director.core.addresses import host_id
from director.core.assign import Assigner
from director.core.director import Director
from director.core.effects import (
    Answer,
    Claim,
    Close,
    Dial,
    Effect,
    Log,
    OperationDone,
    OperationFailed,
    Refuse,
    Send,
    StoreHosts,
)
from director.core.events import (
    Claimed,
    ClaimFailed,
    DialFailed,
    Event,
    HostChange,
    Leases,
    LinkClosed,
    LinkOpened,
    Lookup,
    Received,
    Seen,
    Started,
    StoredHosts,
    StoredUsers,
    Thawed,
    TimerFired,
)
from director.core.hashing import UserHash
from director.core.hosts import BackendSetting, HostTable
from director.core.member import Identity
from director.core.messages import HostRow
from director.core.names import NameTable
from director.core.order import join_member, split_member
from director.core.standing import MAY_HASH
from director.core.users import User, UserTable, is_alive, pack, unpack
from director.types import Address, LinkId, MemberId, Now, RequestId, UserKey

EXPIRE = 60
UNIX = 1_700_000_000.0
LEASE_TTL = 3.0
FLUSH = 0.2


@dataclass
class Reply:
    """What became of a login."""

    user: str
    at: MemberId
    asked: float
    host: str | None = None
    refused: str | None = None
    answered: float | None = None

    @property
    def pending(self) -> bool:
        return self.answered is None


@dataclass
class Outcome:
    done: HostRow | None = None
    failed: str | None = None


@dataclass
class Store:
    """What survives a crash: of one director, or shared by all."""

    shared: bool
    up: bool = True
    users: dict[UserKey, User] = field(default_factory=dict)
    rows: list[HostRow] = field(default_factory=list)
    leases: dict[MemberId, float] = field(default_factory=dict)

    def merge(self, records: bytes) -> None:
        table = UserTable(EXPIRE)
        for record in unpack(records):
            if record.key in self.users:
                table.put(self.users[record.key])
            table.merge(pack([record]))
            kept = table.get(record.key)
            assert kept is not None
            self.users[record.key] = kept


class Node:
    """One director process."""

    def __init__(self, world: World, member: MemberId, store: Store) -> None:
        self.world, self.member, self.store = world, member, store
        self.up = False
        self.frozen = False
        self.skew = 0.0
        self.incarnation = 0
        self.replies: dict[RequestId, Reply] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.links: dict[LinkId, Wire] = {}
        self.inbox: list[Event] = []
        self.timer: float | None = None

    def start(self) -> None:
        world = self.world
        self.incarnation += 1
        self.up, self.frozen, self.inbox = True, False, []
        identity = Identity(
            self.member, self.incarnation * 1000 + world.incarnations(), "%Lu", EXPIRE, world.secret(self.member), 1.0, 5.0, 2.0
        )
        self.users = UserTable(EXPIRE)
        hosts = HostTable(world.settings)
        self.core = Director(
            identity, world.members, hosts, Assigner(self.users, UserHash()), NameTable(), isolation_wait=20.0
        )
        if self.store.up:
            if self.store.shared:
                self.store.leases[self.member] = world.now + LEASE_TTL
            self.handle(StoredHosts(tuple(self.store.rows)))
            self.handle(StoredUsers(pack(self.store.users.values())))
            self.lease()
        self.handle(Started())
        life = self.incarnation
        world.after(world.random.uniform(0, FLUSH), lambda: self.flush(life))
        if self.store.shared:
            world.after(1.0, lambda: self.renew(life))

    def crash(self) -> None:
        self.up = False
        for wire in list(self.links.values()):
            wire.close(self)
        self.links = {}
        self.replies = {}

    def handle(self, event: Event) -> None:
        if self.frozen:
            self.inbox.append(event)
            return
        now = Now(self.world.now, UNIX + self.world.now + self.skew)
        self.run(self.core.handle(event, now))
        self.arm()

    def arm(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is None:
            return
        at = max(deadline, self.world.now + 0.0005)
        if self.timer is not None and self.world.now < self.timer <= at:
            return
        self.timer = at
        life = self.incarnation

        def fire() -> None:
            if self.up and self.incarnation == life and not self.frozen and self.timer == at:
                self.timer = None
                self.handle(TimerFired())

        self.world.after(at - self.world.now, fire)

    def run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, messages):
                    if link in self.links:
                        self.links[link].send(self, list(messages))
                case Close(link):
                    if link in self.links:
                        self.links.pop(link).close(self)
                case Dial(member):
                    self.world.dial(self, member)
                case Answer(request, _, backend):
                    reply = self.replies.pop(request, None)
                    if reply is not None:
                        reply.host, reply.answered = backend.address, self.world.now
                case Refuse(request, reason):
                    reply = self.replies.pop(request, None)
                    if reply is not None:
                        reply.refused, reply.answered = reason, self.world.now
                case Claim(key, record):
                    self.world.after(self.world.random.uniform(0.0005, 0.02), lambda e=effect: self.claim(e))
                case OperationDone(operation, row):
                    self.outcomes.pop(operation).done = row
                case OperationFailed(operation, _, reason):
                    self.outcomes.pop(operation).failed = reason
                case StoreHosts():
                    if self.store.up:
                        table = HostTable()
                        table.merge(self.store.rows)
                        table.merge(self.core.hosts.rows.values())
                        self.store.rows = list(table.rows.values())
                case Log(_, event, fields):
                    self.world.log(self, event, fields)

    def claim(self, effect: Claim) -> None:
        if not self.up:
            return
        if not self.store.up:
            self.handle(ClaimFailed(effect.key))
            return
        unix = int(UNIX + self.world.now + self.skew)
        stored = self.store.users.get(effect.key)
        if stored is None or not is_alive(stored, unix, EXPIRE):
            self.store.merge(effect.record)
        self.handle(Claimed(effect.key, pack([self.store.users[effect.key]])))

    def flush(self, life: int) -> None:
        if not self.up or self.incarnation != life:
            return
        self.world.after(FLUSH, lambda: self.flush(life))
        if self.store.up and not self.frozen:
            for number in self.users.take_dirty():
                self.store.merge(self.users.stored_bucket(number))
            if self.core.partial:
                self.handle(StoredUsers(pack(self.store.users.values())))
                self.handle(StoredHosts(tuple(self.store.rows)))

    def renew(self, life: int) -> None:
        if self.up and self.incarnation == life:
            self.world.after(1.0, lambda: self.renew(life))
            if not self.frozen:
                if self.store.up:
                    self.store.leases[self.member] = self.world.now + LEASE_TTL
                self.lease()

    def lease(self) -> None:
        if self.store.shared:
            alive = frozenset(m for m, until in self.store.leases.items() if until > self.world.now)
            self.handle(Leases(alive if self.store.up else None))

    def freeze(self) -> None:
        self.frozen, self.frozen_at = True, self.world.now

    def thaw(self) -> None:
        self.frozen = False
        inbox, self.inbox = self.inbox, []
        self.handle(Thawed(self.world.now - self.frozen_at))
        for event in inbox:
            self.handle(event)
        self.timer = None
        self.arm()


@dataclass
class Wire:
    """A TCP connection between two nodes: in order, with delay; silent where it is cut."""

    world: World
    dialler: Node
    acceptor: Node
    dialled_link: LinkId
    accepted_link: LinkId
    open: bool = True
    cut: bool = False
    busy: dict[int, float] = field(default_factory=dict)

    def ends(self, sender: Node) -> tuple[Node, LinkId]:
        if sender is self.dialler:
            return self.acceptor, self.accepted_link
        return self.dialler, self.dialled_link

    def deliver(self, sender: Node, event: Callable[[LinkId], Event], *, closes: bool = False) -> None:
        to, link = self.ends(sender)
        life = to.incarnation
        when = max(self.busy.get(id(to), 0.0) + 1e-6, self.world.now + self.world.delay())
        self.busy[id(to)] = when

        def arrive() -> None:
            if self.cut or not to.up or to.incarnation != life or link not in to.links:
                return
            if closes:
                del to.links[link]
            to.handle(event(link))

        self.world.after(when - self.world.now, arrive)

    def send(self, sender: Node, messages: list) -> None:
        if self.open and not self.cut:
            self.deliver(sender, lambda link: Received(link, messages))

    def close(self, sender: Node) -> None:
        if self.open:
            self.open = False
            self.deliver(sender, lambda link: LinkClosed(link, "connection closed"), closes=True)


class World:
    def __init__(self, directors: int = 3, hosts: int = 4, store: str = "own", seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.lines: list[str] = []
        self.groups: dict[MemberId, int] = {}
        self.secrets: dict[MemberId, bytes] = {}
        self._link = 0
        self._request = 0
        self._incarnation = 0
        self.members = [join_member(f"127.0.0.{10 + i}", 9090) for i in range(1, directors + 1)]
        self.settings = [BackendSetting(Address(f"127.0.1.{i}"), "", "", 100) for i in range(1, hosts + 1)]
        common = Store(shared=True)
        self.nodes = {
            m: Node(self, m, common if store == "shared" else Store(shared=False)) for m in self.members
        }

    def node(self, name: str) -> Node:
        """`d1` … `dN`."""
        return self.nodes[self.members[int(name[1:]) - 1]]

    def incarnations(self) -> int:
        self._incarnation += 1
        return self._incarnation

    def secret(self, member: MemberId) -> bytes:
        return self.secrets.get(member, b"the secret of the ring")

    def log(self, node: Node, event: str, fields: object) -> None:
        self.lines.append(f"{self.now - 100:9.4f} {node.member} {event} {fields}")

    def delay(self) -> float:
        return self.random.choice([0.0002, 0.001, 0.005]) * self.random.uniform(0.5, 2)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + seconds, self.count, call))

    def start(self, *names: str) -> World:
        for node in [self.node(n) for n in names] or list(self.nodes.values()):
            node.start()
        return self

    def run(self, seconds: float) -> World:
        until = self.now + seconds
        while self.queue and self.queue[0][0] <= until:
            self.now, _, call = heapq.heappop(self.queue)
            call()
        self.now = until
        return self

    def reachable(self, one: Node, other: Node) -> bool:
        return self.groups.get(one.member, 0) == self.groups.get(other.member, 0)

    def dial(self, node: Node, member: MemberId) -> None:
        target = self.nodes[member]
        life = node.incarnation

        def connect() -> None:
            if not node.up or node.incarnation != life:
                return
            if not self.reachable(node, target):
                self.after(2.0, lambda: node.up and node.incarnation == life and node.handle(DialFailed(member, "timed out")))
                return
            if not target.up:
                node.handle(DialFailed(member, "refused"))
                return
            self._link += 2
            wire = Wire(self, node, target, LinkId(self._link), LinkId(self._link + 1))
            node.links[wire.dialled_link] = wire
            target.links[wire.accepted_link] = wire
            target.handle(
                LinkOpened(wire.accepted_link, self.random.randbytes(16), split_member(node.member)[0])
            )
            if wire.dialled_link in node.links:
                node.handle(
                    LinkOpened(wire.dialled_link, self.random.randbytes(16), split_member(member)[0], member)
                )

        self.after(self.delay(), connect)

    def cut(self, *names: str) -> World:
        """Separate these from the others: connections go silent, new ones time out."""
        inside = {self.node(n).member for n in names}
        self.groups = {m: int(m in inside) for m in self.members}
        for node in self.nodes.values():
            for wire in node.links.values():
                if not self.reachable(wire.dialler, wire.acceptor):
                    wire.cut = True
        return self

    def heal(self) -> World:
        self.groups = {}
        return self

    def login(self, user: str, at: str, tag: str = "") -> Reply:
        node = self.node(at)
        self._request += 1
        reply = Reply(user, node.member, self.now)
        node.replies[RequestId(self._request)] = reply
        key = UserHash().key(user.encode(), tag.encode())
        node.handle(Lookup(RequestId(self._request), key, tag.encode()))
        return reply

    def seen(self, user: str, at: str) -> None:
        self.node(at).handle(Seen((user.encode(),)))

    def change(self, at: str, address: str, **what: object) -> Outcome:
        node = self.node(at)
        self._request += 1
        outcome = Outcome()
        node.outcomes[self._request] = outcome
        node.handle(HostChange(self._request, Address(address), **what))  # type: ignore[arg-type]
        return outcome

    def ups(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.up]

    def in_sync(self) -> bool:
        """All that are up form one ring and may answer everybody."""
        up = tuple(n.member for n in self.ups())
        return all(
            n.core.synced and sorted(n.core.barrier.ring) == sorted(up) and n.core.standing in MAY_HASH and not n.core.hint
            for n in self.ups()
        )

    def differences(self) -> list[str]:
        """What the directors that are up do not agree on, at rest."""
        found = []
        first, *others = self.ups()
        for other in others:
            if first.core.hosts.rows != other.core.hosts.rows:
                found.append(f"hosts of {first.member} and {other.member}")
            mine, theirs = (
                {u.key: (u.host, u.decided, u.flags) for b in range(4096) for u in unpack(n.users.bucket(b))}
                for n in (first, other)
            )
            found += [f"user {k:x}: {mine.get(k)} {theirs.get(k)}" for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)]
        return found

    def trace(self) -> str:
        return "\n".join(self.lines)


__all__ = ["Outcome", "Reply", "World", "host_id"]
