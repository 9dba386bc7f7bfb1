"""Stored documents that are damaged: what was stored is set aside before it is written over, and further
copies of the document fill its gaps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from director.core.protocol.steps import Steps, finished
from director.service.turns import in_turns
from state.aside import set_aside
from state.base import Document, Lost, StateStore, version_of

NOT_ITS_VERSION = "the version is not that of the content"
MISSING = "it is missing, and the store holds other data"

Copies = Callable[[str], Awaitable[Sequence["Copy"]]]
"""Further copies of the document of this name, the best first."""


class Copy(NamedTuple):
    """A further copy of a document."""

    data: bytes
    place: str
    """Where it is, for the log."""


class Table(NamedTuple):
    """What a document is made from, and read into."""

    name: str
    encode: Callable[[], bytes]
    """The table as it is in memory."""
    read: Callable[[bytes, Sequence[bytes]], Steps[Any]]
    """Read a document in steps, as far as it can be right. What it lacks is taken from the first of its
    further copies that has it. `problem` of what comes of it: what is wrong with the document; empty:
    nothing."""
    merge: Callable[[Any, str], None]
    """Merge what was read into memory, from the source that is named."""

    async def take(self, data: bytes, source: str, others: Sequence[bytes] = ()) -> None:
        """Read a document, with its further copies, and merge it."""
        self.merge(await in_turns(self.read(data, others)), source)

    def take_at_once(self, data: bytes, source: str) -> None:
        """The same in one turn of the loop: nobody is served yet."""
        self.merge(finished(self.read(data, ())), source)


def is_sound(document: Document) -> bool:
    """Whether the content is what was written."""
    return document.version == version_of(document.data)


class Examined(NamedTuple):
    """A document that was read."""

    found: Any
    """What is to be merged."""
    problem: str
    """What is wrong with it; empty: nothing."""
    kept: dict[str, str]
    """For the log: where its bytes are kept by now, if something is wrong."""


async def examine(store: StateStore, table: Table, document: Document) -> Examined:
    """Read a document, and set it aside where something is wrong with it.

    Raises StoreError: then it must not be written over."""
    found = await in_turns(table.read(document.data, ()))
    problem: str = found.problem
    if not is_sound(document):
        problem = f"{NOT_ITS_VERSION}; {problem}" if problem else NOT_ITS_VERSION
    if not problem:
        return Examined(found, "", {})
    return Examined(found, problem, {"kept_as": await set_aside(store, table.name, document.data)})


async def with_its_version(store: StateStore, name: str, document: Document) -> Document:
    """The document with the version of its content, or what another director has written since.

    Something else than a director has changed the content and left the version. Until that is the one of the
    content, what should be there has the stored version: it would not be written again."""
    if is_sound(document):
        return document
    outcome = await store.swap_document(name, document.version, document.data)
    return Document(outcome.version, outcome.blob if isinstance(outcome, Lost) else document.data)


async def own_copy(store: StateStore, name: str) -> list[Copy]:
    """The second copy that the store keeps of a document itself, where it does, and where that is sound."""
    copy = await store.second_copy(name)
    return [] if copy is None else [Copy(copy.data, f"second copy in {store.url}")]


def filled_from(copies: Sequence[Copy]) -> str:
    """For the log."""
    return ", ".join(copy.place for copy in copies) or "memory"
