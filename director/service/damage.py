"""Stored documents that are damaged: what was stored is set aside before it is written over, and further
copies of the document fill its gaps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

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
    check: Callable[[bytes], str]
    """What is wrong with a document; empty: nothing."""
    take: Callable[[bytes, str, Sequence[bytes]], None]
    """Merge a document into memory, from the source that is named, as far as it can be right. What it lacks
    is taken from the first of its further copies that has it."""


def is_sound(document: Document) -> bool:
    """Whether the content is what was written."""
    return document.version == version_of(document.data)


async def examine(store: StateStore, table: Table, document: Document) -> tuple[str, dict[str, str]]:
    """What is wrong with a document, and for the log where its bytes are kept by now; empty: nothing.

    Raises StoreError: then it must not be written over."""
    problem = table.check(document.data)
    if not is_sound(document):
        problem = f"{NOT_ITS_VERSION}; {problem}" if problem else NOT_ITS_VERSION
    if not problem:
        return "", {}
    return problem, {"kept_as": await set_aside(store, table.name, document.data)}


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
