"""The interface of all stores: the value types, the `StateStore` protocol and the exceptions.

A store keeps *buckets* (opaque blobs with a number, in two spaces), *documents* (blobs with a name), *leases*
and an audit. Buckets and documents are written by compare-and-swap only. If another process wrote first, the
result is a value (`Lost`); if the result is unknown, it is an exception (`StoreError`). This package does not
look into a blob, with one exception: a bucket that holds SPLIT has been split, and its content is in the two
buckets below it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from state.bucketnumbers import NUMBERS

Space = Literal["users", "names"]
SPACES: Final[tuple[Space, ...]] = ("users", "names")

SCHEMA: Final = 2
"""The newest schema that this program knows."""
SPLIT_SCHEMA: Final = 2
"""The first schema with split buckets."""
KNOWN_SCHEMA: Final = "schema"
"""The key in the `info` of a lease whose value is the newest schema that the member knows. No key means 1."""

VERSION_SIZE: Final = 8
EMPTY_VERSION: Final = bytes(VERSION_SIZE)
"""The version of a bucket or document that does not exist."""

AUDIT_KEPT: Final = 10_000
"""The number of newest audit entries that are kept, unless they are too old."""

_DOCUMENT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def version_of(blob: bytes) -> bytes:
    """The version of a bucket or document that holds `blob`: 8 bytes of its digest."""
    return hashlib.md5(blob, usedforsecurity=False).digest()[:VERSION_SIZE] if blob else EMPTY_VERSION


SPLIT: Final = b"split"
"""The blob of a bucket that has been split. It is too short to be a record or a name."""
SPLIT_VERSION: Final = version_of(SPLIT)


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """The bucket that a store holds under `number`. If it does not exist: EMPTY_VERSION and an empty blob."""

    space: Space
    number: int
    version: bytes
    blob: bytes


class Swap(msgspec.Struct, frozen=True, gc=False):
    """The request to replace the bucket `number` by `blob`. An empty blob removes the bucket."""

    space: Space
    number: int
    version: bytes
    """The version that the writer expects in the store."""
    blob: bytes
    becomes: bytes = b""
    """The version of `blob`. It is computed here, and only once because a large blob takes time; callers
    leave it out."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "becomes", version_of(self.blob))


class Swapped(msgspec.Struct, frozen=True, gc=False):
    """The blob is stored and has this version."""

    version: bytes


class Lost(msgspec.Struct, frozen=True, gc=False):
    """Another process's blob is stored; nothing was written.

    Merge the two and swap again with this version.
    """

    version: bytes
    blob: bytes


class Document(msgspec.Struct, frozen=True):
    """A document as the store has it, with its version."""

    version: bytes
    data: bytes


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The lease of a director, its member of the ring."""

    member: str
    ring_address: str
    incarnation: int
    """The number of this run of the member; each run has another."""
    synced: bool
    info: dict[str, str] = {}
    """More about the member, for the other members."""
    remaining: float = 0.0
    """Seconds from the time of reading until the lease expires, by the clock of the store. Ignored in a
    write."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's change. `at`: Unix seconds, by the clock of the director that appended the entry."""

    at: float
    who: str
    what: str
    target: str
    detail: str = ""
    reason: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a successful check: the store answers and takes writes."""

    server: str
    """The name and version of the program that keeps the data."""
    took: float
    """The duration of the check in seconds."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A migration from schema `number - 1` to `number`."""

    number: int
    title: str


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of a store as found, and the migrations that `open` would run."""

    found: int
    """The schema of the store; 0: the store is empty."""
    known: int
    """The newest schema of this program. `open` refuses a store whose schema is later."""
    steps: tuple[Step, ...]
    """The migrations that `open` would run, in this order, unless `held_by` has members."""
    size: int | None
    """The size of the file in bytes; None: the store has no file."""
    held_by: tuple[str, ...] = ()
    """The members that hold a lease and know no schema after `found`. As long as there are any, no
    migration runs."""


class StoreError(Exception):
    """The base of all exceptions that a store raises on purpose. Callers continue to serve from memory."""


class StoreUnavailable(StoreError):
    """The store did not answer. Its content, and whether it wrote, is unknown. Callers retry later."""

    def __init__(self, store: str, operation: str, *, after: float | None = None, reason: str = "") -> None:
        self.store, self.operation, self.after, self.reason = store, operation, after, reason
        if after is not None:
            reason = f"no answer within {after:.1f} s"
        super().__init__(f"{store}: {operation}: {reason}; its content is unknown until it answers")


class StoreRefused(StoreError):
    """The store answered and refused. It continues to refuse until an operator follows `advice`."""

    def __init__(self, store: str, operation: str, code: str, advice: str) -> None:
        self.store, self.operation, self.code, self.advice = store, operation, code, advice
        super().__init__(f"{store} refused {operation} ({code}): {advice}")


class SchemaTooNew(StoreError):
    """A newer program wrote this store. Callers must not write to it; the program has to be upgraded."""

    def __init__(self, store: str, found: int, known: int) -> None:
        self.store, self.found, self.known = store, found, known
        super().__init__(
            f"{store} has schema {found}, this program knows up to {known}:"
            " upgrade the program, or name another store"
        )


class StoreBusy(StoreError):
    """Another process uses the file, which cannot be shared.

    Callers stop, or wait for that process to end.
    """

    def __init__(self, store: str, file: Path, holder: str) -> None:
        self.store, self.file, self.holder = store, file, holder
        super().__init__(
            f"{store}: {file} is in use by {holder or 'another process'}:"
            " stop that process, or give each director its own file"
        )


class LockLost(StoreError):
    """Another process may hold the lock by now. Callers stop the task and ask for the lock again later."""

    def __init__(self, store: str, task: str) -> None:
        self.store, self.task = store, task
        super().__init__(f"{store}: the lock for {task!r} was lost; its next holder continues the task")


class StoreUrlError(StoreError):
    """The URL names no store. `url` contains no secrets."""

    def __init__(self, url: str, problem: str, expected: str) -> None:
        self.url, self.problem, self.expected = url, problem, expected
        super().__init__(f"{url}: {problem}; {expected}")


class HeldLock(Protocol):
    """A lock for a task: no other process does this task meanwhile."""

    @property
    def generation(self) -> int:
        """A number higher than that of every earlier holding of this lock."""

    @property
    def lost(self) -> bool:
        """Whether another process may hold the lock by now."""


class StateStore(Protocol):
    """Where users, hosts and members survive a restart.

    Every method but `close` may raise a StoreError. Before `open` has returned for the first time, all
    methods but `layout` raise StoreUnavailable. A store retries nothing itself. A write that was cancelled or
    failed may still have happened. Repeating a swap is harmless, because a blob that is stored already counts
    as swapped. Methods may be called concurrently; an object belongs to one event loop.
    """

    url: str
    """The URL of the store for display, without passwords."""
    shared: bool
    """Whether other directors use the same data. Only then leases and claims have a meaning."""
    set_aside: Path | None
    """The path under which `open`, or a later operation, kept a damaged file; None: no file was damaged."""
    schema: int
    """The schema of the stored data, as `open` or `run_id` last found or made it; 0: not open yet."""
    held_by: tuple[str, ...]
    """The members with a lease, as `open` or `run_id` last found them, that know no later schema than this
    one."""

    @property
    def step(self) -> Step | None:
        """The migration that `open` is running; None: no migration is running."""

    async def layout(self) -> Layout:
        """Read the layout of a store that is not open, and change nothing.

        Returns:
            The layout as found, and the migrations that `open` would run.

        Raises:
            StoreBusy: another process uses the file.
            StoreUnavailable: the store did not answer.
            StoreRefused: the store refuses, or its file is damaged.
        """

    async def open(self) -> None:
        """Connect, and bring the layout up to the newest schema that all members with a lease know.

        May be called again until it succeeds.

        Raises:
            SchemaTooNew: a newer program wrote the store.
            StoreBusy: another process uses the file.
            StoreRefused: the store refuses.
            StoreUnavailable: the store did not answer.
        """

    async def read_passwords_again(self) -> list[str]:
        """Read the password files that the URL names again.

        A file that is missing or empty changes nothing. The next calls log in with what was read.

        Returns:
            The options of the URL whose files hold another password than before.
        """

    async def run_id(self) -> str:
        """Return the name of this run of the store with this set of data.

        If the store has lost its layout, the layout is made again. A store of an older schema is migrated as
        soon as all members with a lease know the newer schema.

        Returns:
            The name. If it differs from the name before (restart, failover, flush, damaged file set aside),
            anything written may be lost: compare all versions, and write what differs.
        """

    def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        """Yield every bucket that exists once, in batches, in no order.

        A split bucket comes first in its batch, followed by all buckets below it. Buckets below a bucket that
        is not split count as missing. Changes that are written meanwhile may or may not be included.

        Args:
            space: "users" or "names".
        """

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        """Read buckets by number.

        Args:
            space: "users" or "names".
            numbers: each 0 to `NUMBERS - 1`.

        Returns:
            One bucket for each number, in this order. A bucket that does not exist is empty.
        """

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        """Write each blob if its stored version is still the stated one, atomically for each bucket.

        Returns:
            One result for each swap, in order. A blob that is stored already is Swapped, whatever version was
            stated.

        Raises:
            StoreError: it is unknown which of the swaps were written.
        """

    async def versions(self, space: Space) -> dict[int, bytes]:
        """Return the version of every bucket that `load_buckets` would yield, by number.

        Much cheaper than that.
        """

    async def read_document(self, name: str) -> Document | None:
        """Read a document.

        Args:
            name: 1 to 64 of a-z, 0-9, `_`, `.`, `-`.

        Returns:
            The document as stored; None: it does not exist.
        """

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        """Write a document if its stored version is still the stated one.

        Args:
            name: as in `read_document`.
            version: 8 bytes, the version that the writer believes is stored.
            data: what to store; empty: remove the document.

        Returns:
            As in `swap_buckets`. Once Swapped, the document is as durable as the store's settings make it.
        """

    async def second_copy(self, name: str) -> Document | None:
        """Read the second copy of a document, for when the document itself is damaged or missing.

        Returns:
            The copy as last written; None: the store has no undamaged copy.
        """

    async def documents(self) -> list[str]:
        """Return the names of all documents, sorted. For tools: it may read all keys of the store."""

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Renew the lease of `lease.member`, or begin it.

        Args:
            lease: the member and what the other members should know of it.
            ttl: seconds until the lease expires, by the store's own clock; above 0.

        Returns:
            Whether the member held a lease until now. If not, others may have continued without it meanwhile.
        """

    async def release(self, member: str) -> None:
        """End the lease of this member now, if it holds one."""

    async def members(self) -> list[Lease]:
        """Return the leases that have not expired, in the order of their members.

        A store that is not shared knows only the leases written through it.
        """

    def hold(self, task: str) -> AbstractAsyncContextManager[HeldLock | None]:
        """Hold the lock for a task while the block runs.

        Of all processes that share the store only one holds it.

        The lock is renewed in the background. If its holder dies, the lock stays held for some seconds more.

        Args:
            task: named like a document.

        Returns:
            A context manager that gives the lock; None: another process holds it.

        Raises:
            LockLost: another process took the lock, or it was not renewed in time, or this process was
                suspended for too long. The block is cancelled first.
        """

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries to the audit. Repeating a call adds them twice.

        The oldest entries are deleted: those beyond about AUDIT_KEPT, and those older than AUDIT_AGE.

        Args:
            entries: each text is shortened to AUDIT_TEXT bytes (`state/audit.py`).
        """

    async def audit(self, limit: int, *, since: float = 0.0, target: str | None = None) -> list[AuditEntry]:
        """Read entries of the audit that are not older than AUDIT_AGE.

        Args:
            limit: how many at most.
            since: Unix seconds; entries before are left out.
            target: only entries about this target; None: about all.

        Returns:
            The entries, newest first.
        """

    async def health(self) -> Health:
        """Check that the store answers and takes writes.

        Returns:
            The server and the seconds that the check took.

        Raises:
            StoreRefused: the store answers and takes no writes.
            StoreUnavailable: the store did not answer.
        """

    async def close(self) -> None:
        """Close connections and files and release the locks. Never raises. Leases stay until they expire."""


def check_space(space: str) -> None:
    """Raise ValueError unless `space` is one of SPACES."""
    if space not in SPACES:
        raise ValueError(f"no space {space!r}: there are {', '.join(SPACES)}")


def check_numbers(numbers: Iterable[int]) -> None:
    """Raise ValueError unless every number is the number of a bucket."""
    for number in numbers:
        if not 0 <= number < NUMBERS:
            raise ValueError(f"bucket {number}: must be 0 to {NUMBERS - 1}")


def check_swaps(swaps: Iterable[Swap]) -> None:
    """Raise ValueError unless every swap names a bucket and states a version."""
    for swap in swaps:
        check_space(swap.space)
        check_numbers([swap.number])
        check_version(swap.version)


def check_version(version: bytes) -> None:
    """Raise ValueError unless `version` has the size of a version."""
    if len(version) != VERSION_SIZE:
        raise ValueError(f"version {version!r}: must be {VERSION_SIZE} bytes")


def check_document(name: str) -> None:
    """Raise ValueError unless `name` is a valid name of a document."""
    if not _DOCUMENT_NAME.fullmatch(name):
        raise ValueError(f"document {name!r}: a name is 1 to 64 of a-z, 0-9, '_', '.', '-'")


def check_task(task: str) -> None:
    """Raise ValueError unless `task` is a valid name of a task."""
    if not _DOCUMENT_NAME.fullmatch(task):
        raise ValueError(f"task {task!r}: a name is 1 to 64 of a-z, 0-9, '_', '.', '-'")
