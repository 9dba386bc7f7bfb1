"""Redis (6 or later) or Valkey, shared by all directors: one server, a primary named by sentinels, or a
Cluster.

`migrations/redis/0001_layout.py` describes the keys. Names carry hash tags, 64 of the first buckets to a tag,
so that a single script call swaps up to 64 buckets on a Cluster too. Every command here that has several keys
gives the same result as one command for each key with the replies joined (`state.cluster` relies on it).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
from anyio import to_thread
from redis.exceptions import RedisClusterException, RedisError

from state.base import (
    EMPTY_VERSION,
    KNOWN_SCHEMA,
    SPLIT_VERSION,
    VERSION_SIZE,
    AuditEntry,
    Bucket,
    Document,
    Health,
    HeldLock,
    Layout,
    Lease,
    Lost,
    SchemaTooNew,
    Space,
    Step,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    check_document,
    check_numbers,
    check_space,
    check_swaps,
    check_task,
    check_version,
    version_of,
)
from state.bucketnumbers import BUCKETS, below, root_of
from state.cluster import ClusterLink
from state.locks import RedisLock, let_go, take, while_held
from state.migrate import RedisStep, layout, redis_schema, redis_steps
from state.migrate_redis import migrate_redis
from state.redis_audit import RedisAudit
from state.redis_clients import Client, ClusterAddress, RedisAddress, SentinelAddress
from state.redis_errors import unreadable
from state.redis_link import Command, Link, RedisLink
from state.redis_scripts import MEMBERS, MEMBERS_SHA, RENEW_SHA, SCRIPTS, SWAP_SHA, VERSIONS_SHA
from state.resolver import Resolver
from state.sentinel import SentinelLink

OLDEST_SERVER = 6
TAG_BITS = 6
"""Buckets whose root numbers differ only in these lower bits share a hash tag. A root number is the number
of one of the first buckets; the buckets below it have its tag."""
LOAD_TAGS = 2
"""The number of hash tags in a batch of `load_buckets`: 128 root buckets and all buckets below them, which
are 7 MB in a store of ten million users."""
WRITE_BYTES = 4 << 20
"""Bytes of blobs in one round trip, so that a large flush over a slow link does not exceed the time-out."""
HOLD = 10.0
"""Seconds for which a store that was wiped keeps its older schema: the wipe removed the leases that held
it."""

_decode_lease = msgspec.msgpack.Decoder(Lease).decode


class RedisStore:
    """A store in Redis: one key for each bucket, small keys for the rest, all under one prefix."""

    def __init__(
        self, address: RedisAddress, timeout: float, steps: Sequence[RedisStep] | None = None
    ) -> None:
        self.url = address.url
        self.shared = True
        self.step: Step | None = None
        self.set_aside: Path | None = None
        self.schema = 0
        self.held_by: tuple[str, ...] = ()
        self._held_until = 0.0
        """The monotonic time before which no migration runs: a member that knows only this schema may be
        about to renew its lease."""
        self._address, self._timeout, self._prefix = address, timeout, address.prefix
        self._steps = redis_steps() if steps is None else steps
        self._link: Link | None = None
        self._resolver = Resolver()
        self._audit = RedisAudit(address.url, address.prefix)

    async def layout(self) -> Layout:
        link = link_to(self._address, self._timeout, (MEMBERS,), self._resolver)
        try:
            (schema,) = await link.call("layout", [("HGET", f"{self._prefix}meta", "schema")])
            found = redis_schema(schema)
            held_by = self._holding(await self._members(link), found)
        finally:
            await link.close()
        return layout(found, self._steps, held_by=held_by)

    async def open(self) -> None:
        if self._link is not None:
            return
        link = link_to(self._address, self._timeout, SCRIPTS, self._resolver)
        try:
            for name, version in map(_server, await link.servers("open")):
                if int(version.partition(".")[0]) < OLDEST_SERVER:
                    advice = f"upgrade the server to Redis {OLDEST_SERVER} or later, or Valkey"
                    raise StoreRefused(self.url, "open", f"{name} {version}", advice)
            await self._run_id(link)
        except BaseException:
            await link.close()
            raise
        self._link = link

    async def read_passwords_again(self) -> list[str]:
        changed = [password.option for password in self._address.passwords() if password.read_again()]
        if changed and self._link is not None:
            await self._link.log_in_again()
        return changed

    async def run_id(self) -> str:
        return await self._run_id(self._required("run_id"))

    async def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        check_space(space)
        step = LOAD_TAGS << TAG_BITS
        for first in range(0, BUCKETS, step):
            found: list[Bucket] = []
            level: Sequence[int] = range(first, first + step)
            while level:
                buckets = await self._read("load_buckets", space, level)
                found += [bucket for bucket in buckets if bucket.blob]
                level = _below([bucket.number for bucket in buckets if bucket.version == SPLIT_VERSION])
            if found:
                yield found

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        check_space(space)
        check_numbers(numbers)
        return await self._read("read_buckets", space, numbers)

    async def _read(self, operation: str, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        link = self._required(operation)
        if not numbers:
            return []
        tags = _by_tag((space, number) for number in numbers)
        commands = [("MGET", *(self._key(space, numbers[i]) for i in places)) for places in tags]
        buckets: list[Bucket | None] = [None] * len(numbers)
        for places, values in zip(tags, await link.call(operation, commands), strict=True):
            for i, value in zip(places, values, strict=True):
                buckets[i] = Bucket(space, numbers[i], *_split(value))
        return cast("list[Bucket]", buckets)

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        check_swaps(swaps)
        link = self._required("swap_buckets")
        results: list[Swapped | Lost | None] = [None] * len(swaps)
        for trip in _trips(swaps):
            commands = [self._swap_command([swaps[i] for i in places]) for places in trip]
            for places, answers in zip(trip, await link.call("swap_buckets", commands), strict=True):
                for i, answer in zip(places, answers, strict=True):
                    results[i] = _outcome(answer, swaps[i].becomes)
        return cast("list[Swapped | Lost]", results)

    def _swap_command(self, swaps: Sequence[Swap]) -> Command:
        keys = [self._key(swap.space, swap.number) for swap in swaps]
        arguments = [
            part for swap in swaps for part in (swap.version, swap.becomes + swap.blob if swap.blob else b"")
        ]
        return ("EVALSHA", SWAP_SHA, len(keys), *keys, *arguments)

    async def versions(self, space: Space) -> dict[int, bytes]:
        check_space(space)
        link = self._required("versions")
        found: dict[int, bytes] = {}
        level: Sequence[int] = range(BUCKETS)
        while level:
            versions: dict[int, bytes] = {}
            for at in range(0, len(level), BUCKETS):
                versions |= await self._versions(link, space, level[at : at + BUCKETS])
            found |= versions
            level = _below([number for number, version in versions.items() if version == SPLIT_VERSION])
        return found

    async def _versions(self, link: Link, space: Space, numbers: Sequence[int]) -> dict[int, bytes]:
        tags = _by_tag((space, number) for number in numbers)
        commands = [
            ("EVALSHA", VERSIONS_SHA, len(places), *(self._key(space, numbers[i]) for i in places))
            for places in tags
        ]
        joined = b"".join(await link.call("versions", commands))
        versions = (joined[i : i + VERSION_SIZE] for i in range(0, len(joined), VERSION_SIZE))
        in_order = (numbers[place] for places in tags for place in places)
        pairs = zip(in_order, versions, strict=True)
        return {number: version for number, version in pairs if version != EMPTY_VERSION}

    async def read_document(self, name: str) -> Document | None:
        check_document(name)
        commands = [("GET", f"{self._prefix}doc:{name}")]
        (value,) = await self._required("read_document").call("read_document", commands)
        version, data = _split(value)
        return Document(version, data) if data else None

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        check_document(name)
        check_version(version)
        becomes = version_of(data)
        value = becomes + data if data else b""
        command = ("EVALSHA", SWAP_SHA, 1, f"{self._prefix}doc:{name}", version, value)
        ((answer,),) = await self._required("swap_document").call("swap_document", [command])
        return _outcome(answer, becomes)

    async def renew(self, lease: Lease, ttl: float) -> bool:
        stored = msgspec.msgpack.encode(lease)
        command = (
            "EVALSHA",
            RENEW_SHA,
            1,
            f"{self._prefix}lease",
            lease.member,
            max(1, round(ttl * 1000)),
            stored,
        )
        (was_held,) = await self._required("renew").call("renew", [command])
        return bool(was_held)

    async def release(self, member: str) -> None:
        await self._required("release").call("release", [("HDEL", f"{self._prefix}lease", member)])

    async def members(self) -> list[Lease]:
        return await self._members(self._required("members"))

    async def _members(self, link: Link) -> list[Lease]:
        command = ("EVALSHA", MEMBERS_SHA, 1, f"{self._prefix}lease")
        (((seconds, micros), held),) = await link.call("members", [command])
        now = int(seconds) + int(micros) / 1e6
        leases = []
        for member, value in zip(held[::2], held[1::2], strict=True):
            deadline, _, stored = value.partition(b" ")
            try:
                lease, remaining = _decode_lease(stored), int(deadline) / 1000 - now
            # The member may hold a lease: to skip it could make this director believe it is alone.
            except ValueError as exc:
                raise unreadable(self.url, "members", f"HDEL {self._prefix}lease {member.decode()}") from exc
            if remaining > 0:
                leases.append(msgspec.structs.replace(lease, remaining=remaining))
        return sorted(leases, key=lambda lease: lease.member)

    async def second_copy(self, name: str) -> Document | None:
        check_document(name)
        return None  # the copies are the replicas and the directors' snapshots

    async def documents(self) -> list[str]:
        prefix = f"{self._prefix}doc:"  # no character of a prefix has a special meaning in a pattern
        keys = await self._required("documents").keys("documents", f"{prefix}*")
        return sorted(key.decode().removeprefix(prefix) for key in keys)

    @asynccontextmanager
    async def hold(self, task: str) -> AsyncIterator[HeldLock | None]:
        check_task(task)
        link = self._required("hold")
        async with self._client(link, "hold") as client:
            lock = RedisLock(client, self._prefix, task, self.url)
            try:
                taken = await take(lock, 0.0)
            except (RedisError, RedisClusterException, OSError) as exc:
                raise link.translated(exc, "hold") from exc
            if not taken:
                yield None
                return
            try:
                async with while_held(lock):
                    yield lock
            finally:
                await let_go(lock)

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        await self._audit.append(self._required("append_audit"), entries)

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        return await self._audit.latest(self._required("audit"), limit, since=since, target=target)

    async def health(self) -> Health:
        start = time.monotonic()
        link = self._required("health")
        info, *_ = await link.servers("health")
        # the server refuses this command whenever it refuses writes
        await link.call("health", [("SET", f"{self._prefix}probe", b"1", "PX", 1000)])
        return Health(server=" ".join(_server(info)), took=time.monotonic() - start)

    async def close(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    def _required(self, operation: str) -> Link:
        if self._link is None:
            raise StoreUnavailable(self.url, operation, reason="the store is not open")
        return self._link

    def _key(self, space: Space, number: int) -> str:
        return f"{self._prefix}{{{space[0]}{root_of(number) >> TAG_BITS:02x}}}{number:03x}"

    async def _run_id(self, link: Link) -> str:
        """Return the runs of the servers and the identity of the data, after bringing the layout up to
        date."""
        commands: list[Command] = [("HMGET", f"{self._prefix}meta", "schema", "identity")]
        ((schema, identity),) = await link.call("run_id", commands)
        if (found := redis_schema(schema)) > len(self._steps):
            raise SchemaTooNew(self.url, found, len(self._steps))
        if found < len(self._steps):
            if not found and 0 < self.schema < len(self._steps):
                self._held_until = time.monotonic() + HOLD
            if await self._wanted(link, found) > found:
                await self._migrate(link, found)
                ((schema, identity),) = await link.call("run_id", commands)
        else:
            self.held_by = ()
        self.schema = redis_schema(schema)
        runs = sorted(map(_run, await link.servers("run_id")))
        return f"{'+'.join(runs)}:{(identity or b'').decode()}"

    async def _wanted(self, link: Link, found: int) -> int:
        """Return the newest schema that all members with a lease know.

        A member that does not know the schema of the store could no longer use the store.
        """
        leases = await self._members(link)
        known = min(map(_known_schema, leases), default=len(self._steps))
        if time.monotonic() < self._held_until:
            known = min(known, self.schema)
        newest = max(found, min(known, len(self._steps)))
        self.held_by = self._holding(leases, newest)
        return newest

    def _holding(self, leases: Iterable[Lease], schema: int) -> tuple[str, ...]:
        """Return the members that know no later schema than this one; empty if this program knows none
        either."""
        if schema >= len(self._steps):
            return ()
        return tuple(lease.member for lease in leases if _known_schema(lease) <= schema)

    async def _migrate(self, link: Link, found: int) -> None:
        try:
            wanted = partial(self._wanted, link, found)
            async with self._client(link, "migrate") as client:
                await migrate_redis(client, self._prefix, self.url, self._steps, wanted, begun=self._begun)
        except (RedisError, RedisClusterException, OSError) as exc:
            raise link.translated(exc, "migrate") from exc
        finally:
            self.step = None

    @asynccontextmanager
    async def _client(self, link: Link, operation: str) -> AsyncIterator[Client]:
        """Give a client for worker threads, and close it when the block ends."""
        try:
            client = await to_thread.run_sync(self._address.client, self._timeout)
        except (RedisError, RedisClusterException, OSError) as exc:
            raise link.translated(exc, operation) from exc
        try:
            yield client
        finally:
            client.close()

    def _begun(self, step: Step) -> None:
        self.step = step


def link_to(address: RedisAddress, timeout: float, scripts: Sequence[bytes], resolver: Resolver) -> Link:
    """Return a link for this kind of address.

    Args:
        address: the address of the store.
        timeout: seconds that a call may take.
        scripts: the scripts that the calls use.
        resolver: looks up the names of servers.
    """
    match address:
        case SentinelAddress():
            return SentinelLink(address, timeout, scripts, resolver)
        case ClusterAddress():
            return ClusterLink(address, timeout, scripts, resolver)
    return RedisLink(address, timeout, scripts, resolver)


def _split(value: bytes | None) -> tuple[bytes, bytes]:
    """Return the version and the blob of a stored value."""
    if value is None or len(value) <= VERSION_SIZE:
        return EMPTY_VERSION, b""
    return value[:VERSION_SIZE], value[VERSION_SIZE:]


def _outcome(answer: int | bytes, becomes: bytes) -> Swapped | Lost:
    return Lost(*_split(answer)) if isinstance(answer, bytes) else Swapped(becomes)


def _below(numbers: Iterable[int]) -> list[int]:
    """Return all buckets that these buckets are split into."""
    return [number for parent in numbers for number in below(parent)]


def _by_tag(buckets: Iterable[tuple[Space, int]]) -> list[list[int]]:
    """Return the indexes of `buckets` in lists: each list has one hash tag and at most 64 indexes."""
    full = 1 << TAG_BITS
    lists: list[list[int]] = []
    current: dict[tuple[Space, int], list[int]] = {}
    for place, (space, number) in enumerate(buckets):
        tag = (space, root_of(number) >> TAG_BITS)
        if len(current.get(tag, ())) % full == 0:
            current[tag] = []
            lists.append(current[tag])
        current[tag].append(place)
    return lists


def _trips(swaps: Sequence[Swap]) -> list[list[list[int]]]:
    """Return the lists of `_by_tag` in groups; each group is a round trip and writes about WRITE_BYTES."""
    trips: list[list[list[int]]] = []
    size = WRITE_BYTES
    for places in _by_tag((swap.space, swap.number) for swap in swaps):
        if size >= WRITE_BYTES:
            trips.append([])
            size = 0
        trips[-1].append(places)
        size += sum(len(swaps[i].blob) for i in places)
    return trips


DIGITS = 9
"""The most digits of a schema's number."""


def _known_schema(lease: Lease) -> int:
    """Return the newest schema that a member knows. The first release does not state it."""
    stated = lease.info.get(KNOWN_SCHEMA, "")
    return int(stated) if stated.isdecimal() and len(stated) <= DIGITS else 1


def _server(info: bytes) -> tuple[str, str]:
    """Return name and version of the server."""
    valkey = _field(info, "valkey_version")
    return ("Valkey", valkey) if valkey else ("Redis", _field(info, "redis_version"))


def _run(info: bytes) -> str:
    """Return a text that changes with each start of the server, and with a failover even if the primary is
    the same as before."""
    return f"{_field(info, 'run_id')}.{_field(info, 'master_replid')}"


def _field(info: bytes, name: str) -> str:
    """Return a field of an INFO reply; empty if it is missing."""
    fields: dict[str, Any] = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return cast(str, fields.get(name, ""))
