"""The state that a director leaves to its successor in the same process: a document, and memory.

The process stays the same, so sockets stay open and are named by their descriptors. A program reads documents
of all formats up to its own. Before it is replaced, a program asks its successor whether it can read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from director.core.moves.jobs import Flush, Forget
from director.errors import DirectorError
from director.net.login import Connection
from director.records import MoveInfo, UnstoredChange
from director.service.metrics import Counted
from state.base import AuditEntry

FORMAT = 1
"""Format of the documents that this program writes. Raise it only if an older program would misunderstand a
document: unknown fields are skipped, and missing fields have defaults."""

_LENGTH = 8
"""Bytes at the beginning that hold the length of the document."""


class HandoverError(DirectorError):
    """A hand-over document cannot be used. The process ends; the service manager starts it again."""


class HandedListener(msgspec.Struct, kw_only=True):
    """A listener or the FIFO."""

    name: str
    where: str
    """Path, or address and port."""
    descriptor: int
    owns_file: bool = False
    from_unit: bool = False
    """Whether the service manager has opened it."""


class UnfinishedJob(msgspec.Struct, kw_only=True):
    """A flush or forget that has not ended. The successor starts it again for the remaining users."""

    number: int
    kind: str
    target: str
    started: int
    """Unix seconds."""
    total: int | None
    reason: str
    flush: Flush | None = None
    """The operation: either `flush` ..."""
    forget: Forget | None = None
    """... or `forget` is set."""
    moved: int = 0
    """Users moved so far."""
    timed_out: int = 0
    kicked: int = 0
    """Sessions ended so far."""


class ReplacementRecord(msgspec.Struct, kw_only=True):
    """A replacement of the program in place."""

    version: str
    """Version of the predecessor."""
    begun: float
    """Monotonic seconds when the replacement was asked for."""
    paused_at: float = msgspec.field(name="frozen")
    """Monotonic seconds since when no login has been answered."""
    number: int = 1
    """Number of replacements in this process, with this one."""
    problem: str = ""
    """Why the program could not be replaced; then the predecessor continues."""
    warnings: list[str] = []
    """As in `ReloadInfo`."""


class KeeperLink(msgspec.Struct, kw_only=True):
    """The connection to the keeper."""

    descriptor: int
    path: str
    """Path of its control socket."""
    identity: tuple[int, int] | None
    """Device and inode number of its control socket."""


class Handover(msgspec.Struct, kw_only=True):
    """The document. `Memory` goes with it."""

    format: int = FORMAT
    version: str
    replacement: ReplacementRecord
    username_hash: str
    """The settings that make keys from names. With other settings the records are useless."""
    listening: list[HandedListener] = msgspec.field(default_factory=list)
    keeper: KeeperLink | None = None
    children: list[int] = msgspec.field(default_factory=list)
    """Process ids of keepers that this process has started."""
    notify_rest: bytes = b""
    """The unfinished line that was read from the FIFO."""
    connections: list[Connection] = msgspec.field(default_factory=list)
    incarnation: int = 0
    """The highest incarnation that the ring knows of this director. The successor takes a higher one."""
    minority_since: float | None = None
    """As in `Director.take_over`."""
    clock_doubted: bool = False
    tables: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Hosts, directors and the applied configuration, encoded as in the store."""
    under_way: list[UnfinishedJob] = msgspec.field(default_factory=list)
    ended: list[MoveInfo] = msgspec.field(default_factory=list)
    """Operations that have ended recently: an operator who follows one may not know its result yet."""
    operations: int = 0
    """The highest number of an operators' operation."""
    audit: list[AuditEntry] = msgspec.field(default_factory=list)
    """Entries of the audit that are not stored yet."""
    unstored: list[UnstoredChange] = msgspec.field(default_factory=list)
    """Operators' changes that are not stored yet."""
    counted: Counted = msgspec.field(default_factory=Counted)
    log_unwritten: bytes = b""
    """Unwritten lines of the log. The first may be the rest of a line."""
    user_bytes: int = 0
    name_bytes: list[int] = msgspec.field(default_factory=list)
    """Bytes of the names of each bucket."""


class _Head(msgspec.Struct):
    """The fields that documents of all formats have."""

    format: int
    version: str = "unknown"


class Memory(msgspec.Struct):
    """Users in memory: the records and the names of all buckets in a row. Each of the two is freed as soon as
    it has been taken over."""

    users: bytes = b""
    names: bytes = b""


class Inherited(NamedTuple):
    """The state that the predecessor in this process has left."""

    handover: Handover
    memory: Memory


def encode(handover: Handover, memory: Memory) -> list[bytes]:
    """Return the pieces to be written one after the other."""
    handover.user_bytes = len(memory.users)
    document = msgspec.msgpack.encode(handover)
    return [len(document).to_bytes(_LENGTH), document, memory.users, memory.names]


def decode(data: bytes | memoryview) -> Inherited:
    """Return what `encode` has encoded. Raises HandoverError."""
    view = memoryview(data)
    end = _LENGTH + int.from_bytes(view[:_LENGTH])
    document = view[_LENGTH:end]
    try:
        head = msgspec.msgpack.decode(document, type=_Head)
        problem = cannot_read(head.format)
        if problem:
            raise HandoverError(
                f"the hand-over document of director {head.version} cannot be read: {problem}"
            )
        handover = msgspec.msgpack.decode(document, type=Handover)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise HandoverError(f"the hand-over document is damaged: {exc}") from exc
    users_end = end + handover.user_bytes
    missing = users_end + sum(handover.name_bytes) - len(view)
    if missing:
        raise HandoverError(f"the hand-over document is damaged: {missing} bytes are missing")
    return Inherited(handover, Memory(bytes(view[end:users_end]), bytes(view[users_end:])))


def cannot_read(format: int) -> str:
    """Return why this program cannot read documents of this format; empty if it can."""
    if 1 <= format <= FORMAT:
        return ""
    return (
        f"it has format {format}, this program reads formats up to {FORMAT}; stop and start the director"
        " instead"
    )


def split(
    listening: Iterable[HandedListener], wanted: Iterable[tuple[str, str]]
) -> tuple[dict[tuple[str, str], HandedListener], list[HandedListener]]:
    """Return the listeners that stay in use, by name and place, and the listeners to close.

    Args:
        listening: the listeners of the predecessor.
        wanted: name and place of each listener of the present configuration. Listeners of units are always
            wanted.
    """
    places = set(wanted)
    kept: dict[tuple[str, str], HandedListener] = {}
    unwanted = []
    for listener in listening:
        if listener.from_unit or (listener.name, listener.where) in places:
            kept[listener.name, listener.where] = listener
        else:
            unwanted.append(listener)
    return kept, unwanted
