"""Stored documents that are damaged: what was stored is set aside before it is written over, and further
copies of the document fill its gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from director.core.protocol.events import Event
from director.core.protocol.steps import Steps, finished
from director.stored.storecalls import Copy, Pause, Procedure, ReadSecondCopy, SetAside, SwapDocument, Tell
from state.base import Document, Lost, version_of

NOT_ITS_VERSION = "the version is not that of the content"
MISSING = "it is missing, and the store holds other data"

Result = TypeVar("Result")
Copies = Callable[[str], Procedure[Sequence[Copy]]]
"""Further copies of the document of this name, the best first."""


class Table(NamedTuple):
    """What a document is made from, and read into."""

    name: str
    encode: Callable[[], bytes]
    """The table as it is in memory."""
    read: Callable[[bytes, Sequence[bytes]], Steps[Any]]
    """Read a document in steps, as far as it can be right. What it lacks is taken from the first of its
    further copies that has it. `problem` of what comes of it: what is wrong with the document; empty:
    nothing."""
    merge: Callable[[Any, str], Event | None]
    """What the director is to be told of what was read from the source that is named; None: nothing, it is
    merged."""

    def take(self, data: bytes, source: str, others: Sequence[bytes] = ()) -> Procedure[None]:
        """Read a document, with its further copies, and merge it."""
        yield from tell_director(self.merge((yield from in_pauses(self.read(data, others))), source))

    def take_at_once(self, data: bytes, source: str) -> Event | None:
        """The same in one turn of the loop: nobody is served yet. Returns what the director is to be told."""
        return self.merge(finished(self.read(data, ())), source)


def tell_director(event: Event | None) -> Procedure[None]:
    """Hand an event to the director, if there is one."""
    if event is not None:
        yield Tell(event)


def in_pauses(steps: Steps[Result]) -> Procedure[Result]:
    """What comes of all steps, each done in a turn of the loop of its own."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield Pause()


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


def examine(table: Table, document: Document) -> Procedure[Examined]:
    """Read a document, and set it aside where something is wrong with it.

    Raises StoreError: then it must not be written over."""
    found = yield from in_pauses(table.read(document.data, ()))
    problem: str = found.problem
    if not is_sound(document):
        problem = f"{NOT_ITS_VERSION}; {problem}" if problem else NOT_ITS_VERSION
    if not problem:
        return Examined(found, "", {})
    return Examined(found, problem, {"kept_as": (yield SetAside(table.name, document.data))})


def with_its_version(name: str, document: Document) -> Procedure[Document]:
    """The document with the version of its content, or what another director has written since.

    Something else than a director has changed the content and left the version. Until that is the version of
    the content, what should be there has the stored version: it would not be written again."""
    if is_sound(document):
        return document
    outcome = yield SwapDocument(name, document.version, document.data)
    return Document(outcome.version, outcome.blob if isinstance(outcome, Lost) else document.data)


def own_copy(url: str, name: str) -> Procedure[list[Copy]]:
    """The second copy that the store at this URL keeps of a document itself, where it does, and where that is
    sound."""
    copy: Document | None = yield ReadSecondCopy(name)
    return [] if copy is None else [Copy(copy.data, f"second copy in {url}")]


def filled_from(copies: Sequence[Copy]) -> str:
    """For the log."""
    return ", ".join(copy.place for copy in copies) or "memory"
