"""Small tables that are one document each in the store: the hosts, the changed list of directors, and the
configuration that each director last applied.

They are written write-through, because an operator waits for them, and by compare-and-swap. A director that
loses a race merges the rows of the other and writes the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from director.core.director import Director
from director.core.filechanges import Applied, AppliedHost, encode_applied
from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.events import STORE, StoredHosts, StoredMembers
from director.core.protocol.messages import MemberRow
from director.core.protocol.steps import Steps
from director.core.tables.hosts import encode_rows
from director.core.tables.members import decode_met, encode_member_rows
from director.stored.damage import (
    MISSING,
    Copies,
    Table,
    examine,
    filled_from,
    in_pauses,
    tell_director,
    with_its_version,
)
from director.stored.documents import (
    Sound,
    SoundApplied,
    applied_documents_in_steps,
    hosts_in_steps,
    members_in_steps,
)
from director.stored.storecalls import Copy, Note, Procedure, ReadDocument, SwapDocument, Tell
from director.types import MemberId
from state.base import EMPTY_VERSION, Document, Lost, version_of

HOSTS, MEMBERS, APPLIED = "hosts", "members", "applied"
"""Names of the documents."""
AGAIN = "the document is written again from memory; check the disk, and which other program writes there"


class _SoundMembers(NamedTuple):
    """The readable rows of the changed list of directors, and the text of an error."""

    rows: Sequence[MemberRow]
    met: frozenset[MemberId]
    problem: str


def _read_members(data: bytes, others: Sequence[bytes]) -> Steps[_SoundMembers]:
    found = yield from members_in_steps(data, others)
    met = frozenset[MemberId]().union(*map(decode_met, (data, *others)))
    return _SoundMembers(found.members, met, found.problem)


class TableDocument:
    """One table and its document."""

    def __init__(self, table: Table, copies: Copies) -> None:
        """Begin with nothing read.

        Args:
            table: the table.
            copies: returns copies of a document that is damaged or missing, while they may fill gaps.
        """
        self._table, self._copies = table, copies
        self._name = table.name
        self._version = EMPTY_VERSION
        self.wanted = self.written = 0
        """How many changes of the table there were, and how many of these the store has."""

    @property
    def stored(self) -> bool:
        return self.written == self.wanted

    def changed(self) -> None:
        """Have the table written (again)."""
        self.wanted += 1

    def read(self, *, anyway: bool = True) -> Procedure[bool]:
        """Merge the stored document into memory. Returns whether there was anything.

        Args:
            anyway: whether the document is merged even if its version is known.
        """
        document: Document | None = yield ReadDocument(self._name)
        if document is None:
            self._version = EMPTY_VERSION
            return (yield from self._take_copies())
        if anyway or document.version != self._version or document.version != version_of(document.data):
            yield from self._take(document)
        return True

    def _take(self, document: Document) -> Procedure[None]:
        """Merge a stored document. A damaged document is kept elsewhere, and is written again from memory."""
        found, problem, kept = yield from examine(self._table, document)
        if problem:
            copies = yield from self._copies(self._name)
            yield self._note(problem, **kept, gaps_filled_from=filled_from(copies))
            self.changed()
            now = yield from with_its_version(self._name, document)
            if now.data != document.data:
                yield from self._take(now)  # another director was faster
                return
            document = now
            found = yield from in_pauses(self._table.read(document.data, [copy.data for copy in copies]))
        self._version = document.version
        yield from tell_director(self._table.merge(found, STORE))

    def _take_copies(self) -> Procedure[bool]:
        """Merge copies in place of a missing document. Returns whether there were any."""
        copies = yield from self._copies(self._name)
        if not copies:
            return False
        yield self._note(MISSING, gaps_filled_from=filled_from(copies))
        self.changed()
        data, *others = (copy.data for copy in copies)
        yield from self._table.take(data, STORE, others)
        return True

    def _note(self, reason: str, **fields: str) -> Note:
        what = {"document": self._name, "reason": reason, **fields, "note": AGAIN}
        return Note(LogEvent(Level.ERROR, "store_document_damaged", what))

    def write(self) -> Procedure[None]:
        """Write the table until the store has all its changes."""
        while self.wanted > self.written:
            wanted = self.wanted
            result = yield SwapDocument(self._name, self._version, self._table.encode())
            if isinstance(result, Lost):
                yield from self._take(Document(result.version, result.blob))
                continue
            self._version = result.version
            self.written = wanted


class Documents:
    """The documents of all tables."""

    def __init__(self, director: Director, copies: Copies) -> None:
        """Begin with nothing read.

        Args:
            copies: returns copies of a document that is damaged or missing.
        """
        self.were_read = False
        """Whether the store has answered, so that hosts, directors and applied configurations are known."""
        self.applied_here = False
        """Whether this director has applied its configuration since its start."""
        self._director = director
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
        """In the order in which they have to be read."""

        def missing(name: str) -> Procedure[Sequence[Copy]]:
            """Once the documents have been read, memory has everything that a copy could have."""
            return [] if self.were_read else (yield from copies(name))

        self._applied, self.hosts, self.members = (TableDocument(table, missing) for table in self.tables)

    @property
    def operators_stored(self) -> bool:
        """Whether everything that operators change is stored: hosts and directors."""
        return self.hosts.stored and self.members.stored

    @property
    def stored(self) -> bool:
        return self.operators_stored and self._applied.stored

    @property
    def applied(self) -> list[AppliedHost] | None:
        """Return the configuration that this director last applied; None: unknown."""
        known = self._all_applied.get(self._director.name)
        # An older release has kept it under the address.
        return self._all_applied.get(self._director.me) if known is None else known

    def set_applied(self, applied: list[AppliedHost]) -> bool:
        """Set what of the configuration is in the stored host table. Returns whether it is new."""
        self.applied_here = True
        if applied == self.applied:
            return False
        self._all_applied[self._director.name] = applied
        self._applied.changed()
        return True

    def read(self) -> Procedure[None]:
        """Read all documents, at the start or after an absence, and have them written, because memory may
        have more."""
        was_stored = yield from self._applied.read()
        if not (yield from self.hosts.read()):
            yield Tell(StoredHosts(()))  # tells that the store has been read and has no hosts
        self.hosts.changed()
        yield from self.members.read()
        self.members.changed()
        if self.applied_here or (self._all_applied and not was_stored):
            self._applied.changed()
        self.were_read = True

    def read_changes(self) -> Procedure[None]:
        """Read the changes that other directors have made to hosts and directors."""
        yield from self.hosts.read(anyway=False)
        yield from self.members.read(anyway=False)

    def write(self) -> Procedure[None]:
        """Write all changes."""
        yield from self.hosts.write()
        yield from self.members.write()
        yield from self._applied.write()

    def _take_hosts(self, found: Sound, source: str) -> StoredHosts:
        return StoredHosts(tuple(found.hosts), self.applied is not None, source)

    def _take_members(self, found: _SoundMembers, source: str) -> StoredMembers:
        return StoredMembers(tuple(found.rows), source, found.met)

    def _take_applied(self, found: SoundApplied, source: str) -> None:
        theirs = found.applied
        if self.applied_here:
            theirs[self._director.name] = self._all_applied[self._director.name]
        self._all_applied = theirs
