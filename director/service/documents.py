"""Small tables that are one document each in the store: the hosts, and the changed list of directors.

Written through: an operator waits for it. Compare-and-swap as ever: who loses takes the other's rows in, and
writes what both come to.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from director.service.log import Log
from state.base import EMPTY_VERSION, Document, Lost, StateStore, version_of

AGAIN = "written again from memory"


class TableDocument:
    """One table and its document."""

    def __init__(
        self,
        store: StateStore,
        name: str,
        encode: Callable[[], bytes],
        take: Callable[[bytes], None],
        log: Log,
    ) -> None:
        """encode: the table as it is. take: merge a stored one into memory; ValueError where it is none."""
        self._store, self._name, self._encode, self._take, self._log = store, name, encode, take, log
        self._version = EMPTY_VERSION
        self._wanted = self._written = 0
        self._done = anyio.Event()

    @property
    def stored(self) -> bool:
        return self._written == self._wanted

    def changed(self) -> None:
        """It is to be written (again)."""
        self._wanted += 1

    async def wait_stored(self, seconds: float) -> bool:
        """Whether the table, as it is now, is in the store within this time."""
        wanted = self._wanted
        with anyio.move_on_after(seconds):
            while self._written < wanted:
                await self._done.wait()
        return self._written >= wanted

    async def read(self, *, anyway: bool = True) -> bool:
        """Merge what is stored into memory; whether there was anything. anyway: also where the version is
        known."""
        document = await self._store.read_document(self._name)
        if document is None:
            self._version = EMPTY_VERSION
            return False
        if document.version != version_of(document.data):
            document = await self._with_its_version(document)
        if anyway or document.version != self._version:
            self._version = document.version
            self._merge(document.data)
        return True

    async def _with_its_version(self, document: Document) -> Document:
        """Something else than a director has changed the content and left the version. Until that is the one
        of the content, the undamaged table has the stored version: it would not be written again."""
        while document.version != version_of(document.data):
            reason = "the version is not that of the content"
            self._log.error("store_document_damaged", document=self._name, reason=reason, note=AGAIN)
            outcome = await self._store.swap_document(self._name, document.version, document.data)
            data = outcome.blob if isinstance(outcome, Lost) else document.data
            document = Document(outcome.version, data)
            self.changed()
        return document

    async def write(self) -> None:
        """Until what is wanted is stored."""
        while self._wanted > self._written:
            wanted = self._wanted
            result = await self._store.swap_document(self._name, self._version, self._encode())
            self._version = result.version
            if isinstance(result, Lost):
                document = await self._with_its_version(Document(result.version, result.blob))
                self._version = document.version
                self._merge(document.data)
                continue
            self._written = wanted
            self._done.set()
            self._done = anyio.Event()

    def _merge(self, data: bytes) -> None:
        try:
            self._take(data)
        except (ValueError, RecursionError) as exc:
            self._log.error("store_document_damaged", document=self._name, reason=str(exc), note=AGAIN)
            self.changed()
