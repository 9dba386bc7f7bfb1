"""Small tables that are one document each in the store: the hosts, the changed list of directors, what each
member last applied of its configuration.

Written through: an operator waits for it. Compare-and-swap as ever: who loses takes the other's rows in, and
writes what both come to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio

from director.core.director import Director
from director.core.filechanges import Applied, AppliedHost, encode_applied
from director.core.protocol.events import STORE, Event, StoredHosts, StoredMembers
from director.core.protocol.messages import MemberRow
from director.core.protocol.steps import Steps
from director.core.tables.hosts import encode_rows
from director.core.tables.members import decode_met, encode_member_rows
from director.service.log import Log
from director.service.persistence.damage import (
    MISSING,
    Copies,
    Copy,
    Table,
    examine,
    filled_from,
    with_its_version,
)
from director.service.turns import in_turns
from director.stored.documents import (
    Sound,
    SoundApplied,
    applied_documents_in_steps,
    hosts_in_steps,
    members_in_steps,
)
from director.types import MemberId
from state.base import EMPTY_VERSION, Document, Lost, StateStore, version_of

HOSTS, MEMBERS, APPLIED = "hosts", "members", "applied"
"""Names of the documents."""
AGAIN = "written again from memory"


class _SoundMembers(NamedTuple):
    """What could be read of the changed list of directors, and what is wrong with it."""

    rows: Sequence[MemberRow]
    met: frozenset[MemberId]
    problem: str


def _read_members(data: bytes, others: Sequence[bytes]) -> Steps[_SoundMembers]:
    found = yield from members_in_steps(data, others)
    met = frozenset[MemberId]().union(*map(decode_met, (data, *others)))
    return _SoundMembers(found.members, met, found.problem)


class TableDocument:
    """One table and its document."""

    def __init__(self, store: StateStore, table: Table, log: Log, copies: Copies) -> None:
        """copies: where else a damaged document may be whole, at the first reading."""
        self._store, self._log, self._table, self._copies = store, log, table, copies
        self._name = table.name
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
            return await self._take_copies()
        if anyway or document.version != self._version or document.version != version_of(document.data):
            await self._take(document)
        return True

    async def _take(self, document: Document) -> None:
        """Merge a document as it is stored. A damaged one is set aside, and written again from memory."""
        found, problem, kept = await examine(self._store, self._table, document)
        if problem:
            copies = await self._copies(self._name)
            self._say(problem, **kept, gaps_filled_from=filled_from(copies))
            self.changed()
            now = await with_its_version(self._store, self._name, document)
            if now.data != document.data:
                await self._take(now)  # another director was faster
                return
            document = now
            found = await in_turns(self._table.read(document.data, [copy.data for copy in copies]))
        self._version = document.version
        self._table.merge(found, STORE)

    async def _take_copies(self) -> bool:
        """Where the document is missing: merge its copies, if there are any. Whether there were."""
        copies = await self._copies(self._name)
        if not copies:
            return False
        self._say(MISSING, gaps_filled_from=filled_from(copies))
        self.changed()
        data, *others = (copy.data for copy in copies)
        await self._table.take(data, STORE, others)
        return True

    def _say(self, reason: str, **fields: str) -> None:
        self._log.error("store_document_damaged", document=self._name, reason=reason, **fields, note=AGAIN)

    async def write(self) -> None:
        """Until what is wanted is stored."""
        while self._wanted > self._written:
            wanted = self._wanted
            result = await self._store.swap_document(self._name, self._version, self._table.encode())
            if isinstance(result, Lost):
                await self._take(Document(result.version, result.blob))
                continue
            self._version = result.version
            self._written = wanted
            self._done.set()
            self._done = anyio.Event()


class Documents:
    """All of them."""

    def __init__(
        self,
        store: StateStore,
        director: Director,
        handle: Callable[[Event], None],
        log: Log,
        copies: Copies,
    ) -> None:
        """copies: where else a document that is damaged or missing may be whole."""
        self.were_read = anyio.Event()
        """Set once the store has answered: hosts, directors and what was applied are known."""
        self.applied_here = False
        """Whether this director has applied its configuration since its start."""
        self._director, self._handle = director, handle
        self._all_applied: Applied = {}
        applied = Table(
            APPLIED,
            lambda: encode_applied(self._all_applied),
            applied_documents_in_steps,
            self._take_applied,
        )
        hosts = Table(
            HOSTS,
            lambda: encode_rows(list(director.hosts.rows.values())),
            hosts_in_steps,
            self._take_hosts,
        )
        members = Table(
            MEMBERS,
            lambda: encode_member_rows(director.members.stored_rows()),
            _read_members,
            self._take_members,
        )
        self.tables = (applied, hosts, members)
        """In the order in which they are to be read."""

        async def missing(name: str) -> Sequence[Copy]:
            """Once the documents were read memory lacks nothing that a copy could have."""
            return [] if self.were_read.is_set() else await copies(name)

        self._applied, self.hosts, self.members = (
            TableDocument(store, table, log, missing) for table in self.tables
        )

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

    def _take_hosts(self, found: Sound, source: str) -> None:
        self._handle(StoredHosts(tuple(found.hosts), self.applied is not None, source))

    def _take_members(self, found: _SoundMembers, source: str) -> None:
        self._handle(StoredMembers(tuple(found.rows), source, found.met))

    def _take_applied(self, found: SoundApplied, source: str) -> None:
        theirs = found.applied
        if self.applied_here:
            theirs[self._director.name] = self._all_applied[self._director.name]
        self._all_applied = theirs
