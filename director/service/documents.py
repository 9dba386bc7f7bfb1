"""Small tables that are one document each in the store: the hosts, the changed list of directors, what each
member last applied of its configuration.

Written through: an operator waits for it. Compare-and-swap as ever: who loses takes the other's rows in, and
writes what both come to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import anyio

from director.core.configured import Applied, AppliedHost, decode_applied, encode_applied
from director.core.director import Director
from director.core.events import STORE, Event, StoredHosts, StoredMembers
from director.core.hosts import encode_rows
from director.core.members import decode_met, encode_member_rows
from director.core.stored import read_hosts, read_members
from director.service.log import Log
from state.base import EMPTY_VERSION, Document, Lost, StateStore, version_of

HOSTS, MEMBERS, APPLIED = "hosts", "members", "applied"
"""Names of the documents."""
AGAIN = "written again from memory"


class Table(NamedTuple):
    """What a document is made from, and read into."""

    name: str
    encode: Callable[[], bytes]
    """The table as it is in memory."""
    take: Callable[[bytes, str], None]
    """Merge one into memory, from the source that is named. Raises ValueError where it is none, or where rows
    of it were left out."""


class TableDocument:
    """One table and its document."""

    def __init__(self, store: StateStore, table: Table, log: Log) -> None:
        self._store, self._log = store, log
        self._name, self._encode, self._take = table
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
            self._take(data, STORE)
        except (ValueError, RecursionError) as exc:
            self._log.error("store_document_damaged", document=self._name, reason=str(exc), note=AGAIN)
            self.changed()


class Documents:
    """All of them."""

    def __init__(
        self, store: StateStore, director: Director, handle: Callable[[Event], None], log: Log
    ) -> None:
        self.were_read = anyio.Event()
        """Set once the store has answered: hosts, directors and what was applied are known."""
        self.applied_here = False
        """Whether this director has applied its configuration since its start."""
        self._director, self._handle = director, handle
        self._all_applied: Applied = {}
        applied = Table(APPLIED, lambda: encode_applied(self._all_applied), self._take_applied)
        hosts = Table(HOSTS, lambda: encode_rows(list(director.hosts.rows.values())), self._take_hosts)
        members = Table(
            MEMBERS, lambda: encode_member_rows(director.members.stored_rows()), self._take_members
        )
        self.tables = (applied, hosts, members)
        """In the order in which they are to be read."""
        self._applied, self.hosts, self.members = (TableDocument(store, table, log) for table in self.tables)

    @property
    def operators_stored(self) -> bool:
        """Whether all that operators change is stored: hosts and directors."""
        return self.hosts.stored and self.members.stored

    @property
    def stored(self) -> bool:
        return self.operators_stored and self._applied.stored

    async def wait_operators_stored(self, seconds: float) -> bool:
        """Whether hosts and directors, as they are now, are in the store within this time."""
        begun = time.monotonic()
        hosts = await self.hosts.wait_stored(seconds)
        return hosts and await self.members.wait_stored(max(0.0, begun + seconds - time.monotonic()))

    @property
    def applied(self) -> list[AppliedHost] | None:
        """What this member last applied of its configuration; None: it is not known."""
        known = self._all_applied.get(self._director.name)
        # An older release has kept it by the address.
        return self._all_applied.get(self._director.me) if known is None else known

    def set_applied(self, applied: list[AppliedHost]) -> bool:
        """Remember what of the configuration is in the host table, which is stored. Whether it is new."""
        self.applied_here = True
        if applied == self.applied:
            return False
        self._all_applied[self._director.name] = applied
        self._applied.changed()
        return True

    async def read(self) -> None:
        """Everything, at the start or after an absence. It is written, too: memory may know more."""
        was_stored = await self._applied.read()
        if not await self.hosts.read():
            self._handle(StoredHosts(()))  # the store has been read: it knows nothing
        self.hosts.changed()
        await self.members.read()
        self.members.changed()
        if self.applied_here or (self._all_applied and not was_stored):
            self._applied.changed()
        self.were_read.set()

    async def read_changes(self) -> None:
        """What others have changed of hosts and directors."""
        await self.hosts.read(anyway=False)
        await self.members.read(anyway=False)

    async def write(self) -> None:
        """What has changed."""
        await self.hosts.write()
        await self.members.write()
        await self._applied.write()

    def _take_hosts(self, data: bytes, source: str) -> None:
        found = read_hosts(data)
        self._handle(StoredHosts(tuple(found.hosts), self.applied is not None, source))
        if found.problem:
            raise ValueError(found.problem)

    def _take_members(self, data: bytes, source: str) -> None:
        found = read_members(data)
        met = frozenset() if found.problem else decode_met(data)
        self._handle(StoredMembers(tuple(found.members), source, met))
        if found.problem:
            raise ValueError(found.problem)

    def _take_applied(self, data: bytes, source: str) -> None:
        theirs = decode_applied(data)
        if self.applied_here:
            theirs[self._director.name] = self._all_applied[self._director.name]
        self._all_applied = theirs
