"""Damaged documents of the store: the damaged form is kept before it is overwritten, and copies fill the
gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from director.core.protocol.events import Event
from director.core.protocol.steps import Steps, finished
from director.stored.storecalls import Copy, Pause, Procedure, ReadSecondCopy, SetAside, SwapDocument, Tell
from state.base import Document, Lost, version_of

NOT_ITS_VERSION = "the content does not fit the version: a program other than a director has changed it"
MISSING = "it is missing, and the store holds other data"

Result = TypeVar("Result")
Copies = Callable[[str], Procedure[Sequence[Copy]]]
"""Returns copies of the document of this name, the best first."""


class Table(NamedTuple):
    """A table that is stored as one document."""

    name: str
    encode: Callable[[], bytes]
    """Returns the document for the table in memory."""
    read: Callable[[bytes, Sequence[bytes]], Steps[Any]]
    """Reads a document in steps, as far as it can be right. The first of its copies that has a missing row
    fills the gap. `problem` of the result is the text of an error; empty: none."""
    merge: Callable[[Any, str], Event | None]
    """Merges what was read from a source. Returns an event for the director; None: there is nothing to
    tell."""

    def take(self, data: bytes, source: str, others: Sequence[bytes] = ()) -> Procedure[None]:
        """Read a document with its copies, and merge it."""
        yield from tell_director(self.merge((yield from in_pauses(self.read(data, others))), source))

    def take_at_once(self, data: bytes, source: str) -> Event | None:
        """Read and merge a document in one turn of the loop, while no logins are answered yet.

        Returns:
            An event for the director; None: there is nothing to tell.
        """
        return self.merge(finished(self.read(data, ())), source)


def tell_director(event: Event | None) -> Procedure[None]:
    """Tell the director of an event, if there is one."""
    if event is not None:
        yield Tell(event)


def in_pauses(steps: Steps[Result]) -> Procedure[Result]:
    """Do all steps, one in each turn of the loop, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield Pause()


def is_sound(document: Document) -> bool:
    """Whether the content fits the version."""
    return document.version == version_of(document.data)


class Examined(NamedTuple):
    """A document that was read."""

    found: Any
    """The part that can be merged."""
    problem: str
    """The text of an error; empty: none."""
    kept: dict[str, str]
    """For the log: where the damaged document is kept; empty: it is not damaged."""


def examine(table: Table, document: Document) -> Procedure[Examined]:
    """Read a document, and keep it elsewhere if it is damaged.

    Raises:
        StoreError: the document must not be overwritten.
    """
    found = yield from in_pauses(table.read(document.data, ()))
    problem: str = found.problem
    if not is_sound(document):
        problem = f"{NOT_ITS_VERSION}; {problem}" if problem else NOT_ITS_VERSION
    if not problem:
        return Examined(found, "", {})
    return Examined(found, problem, {"kept_as": (yield SetAside(table.name, document.data))})


def with_its_version(name: str, document: Document) -> Procedure[Document]:
    """Return the document with the version of its content, or what another director has written since.

    A program other than a director has changed the content and left the version. As long as the version does
    not fit the content, the right content has the stored version, and would not be written again.
    """
    if is_sound(document):
        return document
    outcome = yield SwapDocument(name, document.version, document.data)
    return Document(outcome.version, outcome.blob if isinstance(outcome, Lost) else document.data)


def own_copy(url: str, name: str) -> Procedure[list[Copy]]:
    """Return the second copy of a document that the store at this URL keeps itself; empty: there is none, or
    it is damaged."""
    copy: Document | None = yield ReadSecondCopy(name)
    return [] if copy is None else [Copy(copy.data, f"second copy in {url}")]


def filled_from(copies: Sequence[Copy]) -> str:
    """Return the sources of the copies that filled the gaps, as a text for the log."""
    return ", ".join(copy.place for copy in copies) or "memory"
