"""A director of real parts in this process: core, driver, store.

It has only the sockets that a test opens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from director.core.director import Director
from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, User, pack, unpack
from director.core.protocol.events import Event, SessionsListed, Started
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat
from director.core.ring.link import Identity
from director.core.settings import Settings
from director.core.tables.hosts import BackendSetting, HostTable
from director.net.tls import RingTls
from director.records import HostInfo, ReloadInfo
from director.service.driver import Driver
from director.service.endpoints.lookups import Lookups
from director.service.internalerrors import InternalErrors
from director.service.kicks.flushprograms import FlushPrograms
from director.service.kicks.kickends import KickEnds
from director.service.log import Log
from director.service.loginrelay import LoginRelay
from director.service.loopwatch import LoopWatch
from director.service.mailbox import Mailbox
from director.service.metrics import LookupCounts
from director.service.operations.operations import Operations
from director.service.persistence.persist import Persistence
from director.service.ringsockets import RingSockets
from director.stored.storecalls import Procedure
from director.stored.storeevents import Abort, TimeReached
from director.types import Address, HostId, MemberId, Stamp, UserKey
from director.version import VERSION
from director.wire import hotpath
from state.base import AuditEntry, Lost, StateStore, Swap, Swapped
from state.resolver import Resolver
from state.urls import open_store
from tests.faulty import Fault
from tests.unit.service.faults import Faults
from tests.waiting import until

ME, OTHER = MemberId("127.0.2.31:9090"), MemberId("127.0.2.32:9090")
HOSTS = ["127.0.3.1", "127.0.3.2", "127.0.3.3"]
EXPIRE = 86_400
"""Far longer than a run of all tests: the test files take their NOW when they are collected."""
HASH = UserHash()
DEFAULTS = Settings(remember_names=True)


class Reloads:
    """Stands in for the part that reads the file again and replaces the program, which a test must not do."""

    def __init__(self) -> None:
        self.last = ReloadInfo(state="never", version=VERSION)
        self.asked: list[tuple[bool, bool]] = []

    def info(self) -> ReloadInfo:
        return self.last

    async def ask(self, *, exec: bool, dry_run: bool) -> ReloadInfo:
        self.asked.append((exec, dry_run))
        return self.last


class Node:
    """A director. Nothing runs until a test runs it."""

    def __init__(
        self,
        state: str = "memory:",
        folder: Path = Path("/"),
        *,
        me: MemberId = ME,
        members: Sequence[MemberId] = (),
        hosts: Sequence[str | HostInfo] = HOSTS,
        lease_ttl: float = 3.0,
        tls: RingTls | None = None,
        between: Callable[[StateStore], StateStore] = lambda store: store,
        snapshot: str = "",
        secret: bytes = b"secret" * 4,
        username_hash: str = "%Lu",
        expire: int = EXPIRE,
        settings: Settings = DEFAULTS,
        proxied: Sequence[str] | None = None,
        lookup_timeout: float = 20.0,
    ) -> None:
        """Prepare a director.

        Args:
            between: makes the object between the director and its store.
            proxied: users with a session here; None: there is no kick channel.
        """
        self.lines: list[str] = []
        self.log = Log(write=self.lines.append, level="debug")
        assigner = hotpath.Assigner(hotpath.UserTable(expire), HASH)
        identity = Identity(me, time.time_ns(), username_hash, expire, secret, 1.0, 5.0, 2.0)
        infos = [
            host if isinstance(host, HostInfo) else HostInfo(address=host, weight=100, up=True)
            for host in hosts
        ]
        table = HostTable([BackendSetting(Address(h.address), "", h.tag, h.weight) for h in infos])
        rows = [(table.rows[Address(info.address)], info) for info in infos]
        table.merge([msgspec.structs.replace(row, up=h.up, up_at=h.changed) for row, h in rows if h.changed])
        self.director = Director(identity, members or [me], table, assigner, hotpath.NameTable(), settings)
        self.mailbox = mailbox = Mailbox()
        self.ring = RingSockets(self.director, mailbox.handle, self.log, tls, lambda: None)
        self.watch = LoopWatch(assigner, mailbox.handle)
        self.counts, self.internal_errors = LookupCounts(), InternalErrors(self.log)
        self.logins = LoginRelay(self.director, mailbox, self.watch, self.ring, self.counts, self.log)
        self.lookups = Lookups(
            self.director, mailbox, self.watch, self.counts, self.log, timeout=lookup_timeout
        )
        self.faults = Faults(mailbox.handle)
        self.sessions = Proxied(mailbox.handle, proxied)
        self.store: StateStore = between(open_store(state, base_dir=folder))
        self.events: list[Event] = []
        self.persistence = Persistence(
            self.store,
            self.director,
            self.handle,
            self.log,
            lease_ttl=lease_ttl,
            incarnation=identity.incarnation,
            ping_timeout=5.0,
            snapshot=open_store(snapshot, base_dir=folder) if snapshot else None,
            place="here",
        )
        self.driver = Driver(
            self.director,
            mailbox,
            self.log,
            ring=self.ring,
            logins=self.logins,
            lookups=self.lookups,
            kicker=self.sessions,  # type: ignore[arg-type]
            programs=FlushPrograms("", mailbox.handle, self.log, Resolver()),
            pending_operations=self.faults,
            store=self.persistence,
        )
        self.store_fault = Fault.NONE
        """The fault of a FaultyStore in between."""
        self.audited: list[AuditEntry] = []
        audit = self.persistence.audit
        self.persistence.audit = lambda entry: (self.audited.append(entry), audit(entry))  # type: ignore
        self.reloads = Reloads()
        self.operations = Operations(
            self.director,
            self.faults,
            self.ring,
            self.persistence,
            HASH,
            lookups=self.counts,
            watch=self.watch,
            internal_errors=self.internal_errors,
            reloads=self.reloads,
            resolver=Resolver(),
            started=0.0,
            warm_seconds=lambda: 0.5,
        )

    def handle(self, event: Event) -> None:
        self.events.append(event)
        self.mailbox.handle(event)

    def start(self) -> Node:
        self.mailbox.handle(Started())
        return self

    def put(
        self, name: str, host: str = HOSTS[0], *, decided: int = 0, seen: int = 0, flags: int = 0
    ) -> UserKey:
        """Enter a decision of this director about a user, as of now."""
        now = int(time.time())
        record = user(name, host, decided=decided or now, seen=seen or now)
        self.director.users.put(record._replace(flags=flags))
        self.persistence.buckets_changed()
        return key_of(name)

    def host(self, name: str) -> str | None:
        record = self.director.users.get(key_of(name))
        return None if record is None else address_of(record.host)

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f" event={event} " in line]


class Proxied:
    """The kick channel of a Dovecot with sessions of these users. Kicks return their numbers."""

    def __init__(self, handle: Callable[[Event], None], users: Sequence[str] | None) -> None:
        self.users = users
        """The users, once for each session; None: there is no channel."""
        self._handle, self._ends = handle, KickEnds(handle)
        self._waiting: list[tuple[int, KickWhat]] = []
        self.ends = True
        """Whether kicks are answered. If not, they wait for `end_all`."""

    def kick(self, number: int, what: KickWhat) -> None:
        if self.ends:
            self._ends.add(number, self._counted(what), "")
        else:
            self._waiting.append((number, what))

    def end_all(self) -> None:
        self.ends = True
        waiting, self._waiting = self._waiting, []
        for number, what in waiting:
            self.kick(number, what)

    def tell_sessions(self) -> None:
        self._handle(SessionsListed(()))

    def count(self, number: int, what: KickWhat) -> None:
        if self.users is None:
            self._ends.add(number, 0, "no kick channel")
        else:
            self.kick(number, what)

    def _counted(self, what: KickWhat) -> int:
        users = list(self.users or ())
        if isinstance(what, HashOnHosts):
            return sum(key_of(user) >> 32 == what.hash32 for user in users)
        if isinstance(what, ByField):
            return users.count(what.value.decode())
        return users.count(what.name.decode()) if isinstance(what, ByName) else 0


def key_of(name: str) -> UserKey:
    return HASH.key(name.encode())


def bucket_of(name: str) -> int:
    return key_of(name) >> BUCKET_SHIFT


def user(name: str, host: str, *, decided: int, seen: int) -> User:
    return User(key_of(name), host_id(Address(host)), Stamp(decided), seen, 0)


def address_of(host: HostId) -> str | None:
    return next((address for address in HOSTS if host_id(Address(address)) == host), None)


async def carried_out(node: Node, procedure: Procedure[Any]) -> Any:
    """Run a procedure of the persistence core beside everything else, and return its result."""
    return await node.persistence._driver._caller.carried_out(procedure)


@asynccontextmanager
async def in_background(*running: tuple[Node, Procedure[None]]) -> AsyncIterator[None]:
    """Run these procedures of persistence cores in the block, and nothing else of these cores."""
    async with AsyncExitStack() as stack:
        for node, procedure in running:
            await stack.enter_async_context(node.persistence._driver.carrying_out())
            stack.callback(node.persistence._driver.feed, Abort())
            node.persistence.core._runner.start(procedure)
            node.persistence._driver.feed(TimeReached())
        yield


async def stored_users(store: StateStore) -> dict[UserKey, User]:
    """Return all users in an open store."""
    blobs = [bucket.blob async for batch in store.load_buckets("users") for bucket in batch]
    return {record.key: record for blob in blobs for record in unpack(blob)}


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    """Run a node that loads, stores its changes and runs commands. It is stopped at the end."""
    await node.persistence.open()
    node.start()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.persistence.run)
            await tasks.start(node.operations.jobs.run)
            await until(lambda: not node.director.loading)
            yield node
            tasks.cancel_scope.cancel()
    finally:
        node.driver.stop()
        await node.persistence.stop()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[StateStore]:
    """Open the store a second time; with SQLite only while no other process uses it."""
    store = open_store(url, base_dir=Path("/"))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def swap(store: StateStore, number: int, blob: bytes) -> None:
    """Write a bucket, whatever it contained."""
    result: Swapped | Lost | None = None
    while not isinstance(result, Swapped):  # a director may write it at the same moment
        (bucket,) = await store.read_buckets("users", [number])
        (result,) = await store.swap_buckets([Swap("users", number, bucket.version, blob)])


async def clean(node: Node) -> None:
    await until(lambda: node.persistence.queued == 0 and node.persistence.documents.operators_stored)


def packed(*users: User) -> bytes:
    return pack(sorted(users))
