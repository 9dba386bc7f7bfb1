"""What a director leaves to the program that replaces it in place: one document, and what memory holds.

The process is the same before and after, so sockets are left open and named by their descriptors. A program
reads the documents of all formats up to its own; whether the successor can is asked before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from director.core.protocol.events import Flush, Forget
from director.errors import DirectorError
from director.net.login import Connection
from director.records import MoveInfo, UnstoredChange
from director.service.metrics import Counted
from state.base import AuditEntry

FORMAT = 1
"""Of the documents that are written here. To be raised only where an older program would be misled by what it
does not know: unknown fields are skipped, missing ones have their defaults."""

_LENGTH = 8
"""Bytes that say how long the document is, and how long what follows it."""


class HandoverError(DirectorError):
    """What was handed over cannot be used; the director starts without it."""


class HandedListener(msgspec.Struct, kw_only=True):
    """A listener, or the FIFO."""

    name: str
    where: str
    """Path, or address and port."""
    descriptor: int
    owns_file: bool = False
    from_unit: bool = False
    """The service manager has opened it."""


class UnfinishedJob(msgspec.Struct, kw_only=True):
    """Users being moved or forgotten by the thousand: the successor begins again with those who are left."""

    number: int
    kind: str
    target: str
    started: int
    """Unix seconds."""
    total: int | None
    reason: str
    flush: Flush | None = None
    """What is carried out: this..."""
    forget: Forget | None = None
    """...or this."""
    moved: int = 0
    """Users so far..."""
    timed_out: int = 0
    kicked: int = 0
    """...and sessions."""


class ReplacementRecord(msgspec.Struct, kw_only=True):
    """One replacement of the program in place."""

    version: str
    """Of the program before."""
    begun: float
    """Monotonic seconds: when it was asked for..."""
    frozen: float
    """...and since when nobody has been answered."""
    number: int = 1
    """So many of them has this process seen, this one included."""
    problem: str = ""
    """Why the program could not be replaced: the old one goes on."""
    warnings: list[str] = []
    """As in `ReloadInfo`."""


class KeeperLink(msgspec.Struct, kw_only=True):
    """The connection to the keeper."""

    descriptor: int
    path: str
    """Of its control socket..."""
    identity: tuple[int, int] | None
    """...and device and inode number of that."""


class Handover(msgspec.Struct, kw_only=True):
    """All that is kept; `Memory` goes with it."""

    format: int = FORMAT
    version: str
    replacement: ReplacementRecord
    username_hash: str
    """How keys are made of names. With another one the records mean nothing."""
    listening: list[HandedListener] = msgspec.field(default_factory=list)
    keeper: KeeperLink | None = None
    children: list[int] = msgspec.field(default_factory=list)
    """Process ids of keepers that this process has started."""
    notify_rest: bytes = b""
    """The beginning of a line of the FIFO."""
    connections: list[Connection] = msgspec.field(default_factory=list)
    incarnation: int = 0
    """The highest that the ring knows of this director: the successor takes a higher one."""
    smaller_since: float | None = None
    """Of `Director.take_over`."""
    clock_doubted: bool = False
    tables: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Hosts, directors and what was applied, as in the store."""
    under_way: list[UnfinishedJob] = msgspec.field(default_factory=list)
    ended: list[MoveInfo] = msgspec.field(default_factory=list)
    """Those that have ended lately: whoever follows one may not have heard of it."""
    operations: int = 0
    """The last number that an operation of operators has been given."""
    audit: list[AuditEntry] = msgspec.field(default_factory=list)
    """What is not in the store yet of who did what."""
    unstored: list[UnstoredChange] = msgspec.field(default_factory=list)
    """Operators' changes that are not in the store yet."""
    counted: Counted = msgspec.field(default_factory=Counted)
    log_unwritten: bytes = b""
    """Lines of the log that nobody has read yet; the first one may be the rest of a line."""
    user_bytes: int = 0
    name_bytes: list[int] = msgspec.field(default_factory=list)
    """Of the names of each bucket."""


class _Head(msgspec.Struct):
    """What documents of all formats have."""

    format: int
    version: str = "unknown"


class Memory(msgspec.Struct):
    """What memory holds of users: records and names of all buckets in a row, each in one piece, that is given
    back to the system as soon as it was taken in."""

    users: bytes = b""
    names: bytes = b""


class Inherited(NamedTuple):
    """What the program that was in this process before has left."""

    handover: Handover
    memory: Memory


def encode(handover: Handover, memory: Memory) -> list[bytes]:
    """Pieces to be written one after the other."""
    handover.user_bytes = len(memory.users)
    document = msgspec.msgpack.encode(handover)
    return [len(document).to_bytes(_LENGTH), document, memory.users, memory.names]


def decode(data: bytes | memoryview) -> Inherited:
    """What `encode` has made of it. Raises HandoverError."""
    view = memoryview(data)
    end = _LENGTH + int.from_bytes(view[:_LENGTH])
    document = view[_LENGTH:end]
    try:
        head = msgspec.msgpack.decode(document, type=_Head)
        problem = cannot_read(head.format)
        if problem:
            raise HandoverError(f"director {head.version} hands over what cannot be read: {problem}")
        handover = msgspec.msgpack.decode(document, type=Handover)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise HandoverError(f"what was handed over is damaged: {exc}") from exc
    users_end = end + handover.user_bytes
    missing = users_end + sum(handover.name_bytes) - len(view)
    if missing:
        raise HandoverError(f"what was handed over is damaged: {missing} bytes are missing")
    return Inherited(handover, Memory(bytes(view[end:users_end]), bytes(view[users_end:])))


def cannot_read(format: int) -> str:
    """Why a document of this format cannot be taken over by this program; empty: it can."""
    if 1 <= format <= FORMAT:
        return ""
    return f"it is of format {format}, and this program knows formats up to {FORMAT}; stop and start instead"


def split(
    listening: Iterable[HandedListener], wanted: Iterable[tuple[str, str]]
) -> tuple[dict[tuple[str, str], HandedListener], list[HandedListener]]:
    """Listeners that go on being served, by name and place, and those nobody wants any more.

    wanted: name and place of each listener of the configuration as it is now. What units have opened is
    wanted wherever it is.
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
