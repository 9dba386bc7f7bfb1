"""What every store promises: the value types, the `StateStore` protocol and the ways a store can fail.

A store keeps *buckets* (opaque blobs, numbered, in two spaces), *documents* (named blobs), *leases* and an
audit. The one way to write a bucket or a document is compare-and-swap: "no, somebody else was here" is a
value (`Lost`), "I do not know" is an exception (`StoreError`). Nothing here looks into a blob, but for one:
a bucket that holds SPLIT has been split, and what belongs into it is in the two buckets below it.
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
"""The newest layout that this program knows."""
SPLIT_SCHEMA: Final = 2
"""Buckets may be split in a store of this schema or later."""
KNOWN_SCHEMA: Final = "schema"
"""Where a lease says, in its `info`, the newest schema that its member knows. Not there: 1."""

VERSION_SIZE: Final = 8
EMPTY_VERSION: Final = bytes(VERSION_SIZE)
"""The version of a bucket or document that is not there."""

AUDIT_KEPT: Final = 10_000
"""At least this many of the newest audit entries are kept, until they are too old."""

_DOCUMENT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def version_of(blob: bytes) -> bytes:
    """The version of a bucket or document that holds `blob`: 8 bytes of its digest."""
    return hashlib.md5(blob, usedforsecurity=False).digest()[:VERSION_SIZE] if blob else EMPTY_VERSION


SPLIT: Final = b"split"
"""The blob of a bucket that has been split; too short to be a record or a name."""
SPLIT_VERSION: Final = version_of(SPLIT)


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What a store holds under `number`. Not there: EMPTY_VERSION and an empty blob."""

    space: Space
    number: int
    version: bytes
    blob: bytes


class Swap(msgspec.Struct, frozen=True, gc=False):
    """The wish to replace what is stored under `number` by `blob`; an empty blob removes the bucket."""

    space: Space
    number: int
    version: bytes
    """The version the writer believes is stored."""
    blob: bytes
    becomes: bytes = b""
    """The version of `blob`. Not to be given: it is computed here, once, for large blobs take their time."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "becomes", version_of(self.blob))


class Swapped(msgspec.Struct, frozen=True, gc=False):
    """The blob is stored and has this version now."""

    version: bytes


class Lost(msgspec.Struct, frozen=True, gc=False):
    """Somebody else's blob is stored; nothing was written. Merge, and swap again with this version."""

    version: bytes
    blob: bytes


class Document(msgspec.Struct, frozen=True):
    """A named blob as it is stored."""

    version: bytes
    data: bytes


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A member's statement that it is alive."""

    member: str
    ring_address: str
    incarnation: int
    """Which start of the member this is; different for each."""
    synced: bool
    info: dict[str, str] = {}
    """What else the others should know, as text."""
    remaining: float = 0.0
    """Seconds until it lapses by the store's clock, when it was read. Ignored when written."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to whom. `at`: Unix seconds by the clock of whoever appended it."""

    at: float
    who: str
    what: str
    target: str
    detail: str = ""
    reason: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A store that answers and takes writes."""

    server: str
    """The program that keeps the data and its version."""
    took: float
    """Seconds the check took."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One migration: it takes a layout from schema `number - 1` to `number`."""

    number: int
    title: str


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of a store as it was found, and what `open` would do to it."""

    found: int
    """Its schema; 0: there is nothing yet."""
    known: int
    """The newest schema of this program. A `found` beyond it is refused by `open`."""
    steps: tuple[Step, ...]
    """What `open` would run, in order, if nobody is in `held_by`."""
    size: int | None
    """Bytes of the file; None where the store cannot say."""
    held_by: tuple[str, ...] = ()
    """Members alive that know no newer schema than `found`: while they live, no step is run."""


class StoreError(Exception):
    """Root of everything a store raises on purpose. Callers keep serving from memory."""


class StoreUnavailable(StoreError):
    """The store did not answer: what it holds, and whether it wrote, is unknown. Callers retry later."""

    def __init__(self, store: str, operation: str, *, after: float | None = None, reason: str = "") -> None:
        self.store, self.operation, self.after, self.reason = store, operation, after, reason
        if after is not None:
            reason = f"no answer within {after:.1f} s"
        super().__init__(f"{store}: {operation}: {reason}; what it holds is unknown until it answers")


class StoreRefused(StoreError):
    """The store answered and said no. It will go on saying so until somebody does what `advice` says."""

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
    """Another process uses the file, and it cannot be shared: callers stop, or wait for the other to end."""

    def __init__(self, store: str, file: Path, holder: str) -> None:
        self.store, self.file, self.holder = store, file, holder
        super().__init__(
            f"{store}: {file} is in use by {holder or 'another process'}:"
            " stop that one, or give each director a file of its own"
        )


class LockLost(StoreError):
    """Somebody else may hold the lock by now. Callers stop what it was for, and ask for it again later."""

    def __init__(self, store: str, task: str) -> None:
        self.store, self.task = store, task
        super().__init__(f"{store}: the lock for {task!r} was lost; whoever gets it next goes on")


class StoreUrlError(StoreError):
    """The URL names no store. `url` has its secrets taken out."""

    def __init__(self, url: str, problem: str, expected: str) -> None:
        self.url, self.problem, self.expected = url, problem, expected
        super().__init__(f"{url}: {problem}; {expected}")


class HeldLock(Protocol):
    """A task that nobody else does now."""

    @property
    def generation(self) -> int:
        """Higher than that of every earlier holding of this task."""

    @property
    def lost(self) -> bool:
        """Whether somebody else may be at it by now."""


class StateStore(Protocol):
    """Where users, hosts and members survive a restart.

    Every method but `close` may raise a StoreError; before `open` has returned once all but `layout` raise
    StoreUnavailable. Nothing is retried inside. A cancelled or failed write may still have happened;
    repeating a swap is harmless, since a blob that is stored already counts as swapped. Methods may be
    called concurrently; one object belongs to one event loop.
    """

    url: str
    """The store as people may see it: without passwords."""
    shared: bool
    """Whether other directors see the same data, so that leases and claims mean something."""
    set_aside: Path | None
    """Where `open` (or a later operation) put a damaged file; None: there was none."""
    schema: int
    """Of what is stored, as `open` or `run_id` last found or made it; 0: not open yet."""
    held_by: tuple[str, ...]
    """Members alive, as `open` or `run_id` last found them, that know no newer schema than this one."""

    @property
    def step(self) -> Step | None:
        """The migration that `open` is running now."""

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
        """Name this run of the store with this set of data.

        A store found without its layout gets it again. A store of an older schema is brought up to date as
        soon as all members with a lease know how.

        Returns:
            The name. Another name than before (restart, failover, flush, damaged file set aside) means that
            anything written may be lost: compare all versions, and write what differs.
        """

    def load_buckets(self, space: Space) -> AsyncIterator[list[Bucket]]:
        """Yield every bucket that is there once, in batches, in no order.

        A split bucket comes first in its batch, followed by all buckets below it. Buckets below a bucket that
        is not split count as not there. What is written meanwhile may or may not be included.

        Args:
            space: "users" or "names".
        """

    async def read_buckets(self, space: Space, numbers: Sequence[int]) -> list[Bucket]:
        """Read buckets by number.

        Args:
            space: "users" or "names".
            numbers: each 0 to `NUMBERS - 1`.

        Returns:
            One bucket for each number, in this order. A bucket that is not there is empty.
        """

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        """Write each blob if its stored version is still the stated one, atomically for each bucket.

        Returns:
            One answer for each swap, in order. A blob that is stored already is Swapped, whatever version was
            stated.

        Raises:
            StoreError: which of the swaps were written is unknown.
        """

    async def versions(self, space: Space) -> dict[int, bytes]:
        """Return the version of every bucket that `load_buckets` would yield, by number. Much cheaper."""

    async def read_document(self, name: str) -> Document | None:
        """Read a document.

        Args:
            name: 1 to 64 of a-z, 0-9, `_`, `.`, `-`.

        Returns:
            The document as stored; None: there is none.
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
        """Read the second copy of a document, which helps where the document is damaged or missing.

        Returns:
            The copy as last written; None: the store has no whole copy.
        """

    async def documents(self) -> list[str]:
        """The names of the documents there are, in order. For tools: it may look at all keys there are."""

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """State that `lease.member` is alive.

        Args:
            lease: the member and what others should know of it.
            ttl: seconds until the lease lapses, by the store's own clock; above 0.

        Returns:
            Whether the member held a lease until now. If not, others may have gone on without it meanwhile.
        """

    async def release(self, member: str) -> None:
        """End this member's lease now. No lease: nothing happens."""

    async def members(self) -> list[Lease]:
        """Return the leases that have not lapsed, in the order of their members.

        A store that is not shared knows only the leases written through it.
        """

    def hold(self, task: str) -> AbstractAsyncContextManager[HeldLock | None]:
        """Hold the lock for a task while the block runs; of all processes that share the store one holds it.

        The lock is renewed in the background. A holder that dies holds it for some seconds more.

        Args:
            task: named like a document.

        Returns:
            A context manager that gives the lock; None: another process holds it.

        Raises:
            LockLost: the lock was taken away, or not renewed in time, or this process was suspended for too
                long. The block is cancelled first.
        """

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries to the audit. Repeating a call adds them twice.

        The oldest entries are dropped: those beyond about AUDIT_KEPT, and those older than AUDIT_AGE.

        Args:
            entries: each text is cut to AUDIT_TEXT bytes (`state/audit.py`).
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
        """Let go of connections, files and locks. Never raises; a lease is not released."""


def check_space(space: str) -> None:
    """Raise ValueError unless `space` is one of SPACES."""
    if space not in SPACES:
        raise ValueError(f"no space {space!r}: there are {', '.join(SPACES)}")


def check_numbers(numbers: Iterable[int]) -> None:
    """Raise ValueError if one is not the number of a bucket."""
    for number in numbers:
        if not 0 <= number < NUMBERS:
            raise ValueError(f"bucket {number}: must be 0 to {NUMBERS - 1}")


def check_swaps(swaps: Iterable[Swap]) -> None:
    """Raise ValueError if one of them names no bucket or states no version."""
    for swap in swaps:
        check_space(swap.space)
        check_numbers([swap.number])
        check_version(swap.version)


def check_version(version: bytes) -> None:
    """Raise ValueError unless `version` can be one."""
    if len(version) != VERSION_SIZE:
        raise ValueError(f"version {version!r}: must be {VERSION_SIZE} bytes")


def check_document(name: str) -> None:
    """Raise ValueError unless `name` can name a document."""
    if not _DOCUMENT_NAME.fullmatch(name):
        raise ValueError(f"document {name!r}: a name is 1 to 64 of a-z, 0-9, '_', '.', '-'")


def check_task(task: str) -> None:
    """Raise ValueError unless `task` can name one."""
    if not _DOCUMENT_NAME.fullmatch(task):
        raise ValueError(f"task {task!r}: a name is 1 to 64 of a-z, 0-9, '_', '.', '-'")
