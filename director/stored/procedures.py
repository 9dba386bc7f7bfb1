"""The procedures of the store, each written once: open, load, rejoin, read after the lease has expired,
write, stop.

Their order is that of docs/ring.md, rule 31: read and merge, then write.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from director.core.director import Director
from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.events import BucketsRead, Event, Leases, StoreOpened
from director.stored.bucketreader import BucketReader
from director.stored.bucketwriter import BucketWriter
from director.stored.connection import ConnectionState, StoreConnection
from director.stored.ownlease import OwnLease
from director.stored.pace import Clock
from director.stored.runner import Limit, Runner
from director.stored.snapshotuse import SnapshotUse
from director.stored.storecalls import (
    AppendAudit,
    CloseStore,
    Connected,
    Note,
    NoteForSnapshot,
    OpenStore,
    Procedure,
    ReadDocument,
    ReadRunId,
    ReadVersions,
    ReleaseLease,
    Signal,
    StoreEffect,
    StoreFacts,
    Tell,
    Wait,
    WriteSnapshot,
)
from director.stored.storeidentity import OtherCluster, Ours, claim
from director.stored.tabledocuments import HOSTS, Documents
from director.stored.usualwriter import UsualWriter
from director.types import MemberId
from state.base import (
    SCHEMA,
    SPLIT_SCHEMA,
    AuditEntry,
    SchemaTooNew,
    Space,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)

OPEN_WITHIN = 5.0
"""Seconds that the start may take to find out whose the store is, and again to read hosts and directors.
After that the director starts without the store."""
STOP_WITHIN = 5.0
"""Seconds that the last write may take."""
AUDIT_QUEUE = 1000
"""Audit entries that are kept while the store is unreachable."""


class StoreSetup(NamedTuple):
    """The fixed facts about the store and its director."""

    url: str
    """The store's URL, without passwords."""
    shared: bool
    """Whether other directors use the same store."""
    has_snapshot: bool
    lease_ttl: float
    incarnation: int
    ping_timeout: float
    place: str
    """As in `storeidentity.cluster_of`."""


class Procedures:
    def __init__(
        self, director: Director, setup: StoreSetup, clock: Clock, runner: Runner, effects: list[StoreEffect]
    ) -> None:
        """Begin with a closed store.

        Args:
            runner: runs these procedures.
            effects: takes the effects.
        """
        self.director, self.setup, self.clock = director, setup, clock
        self._runner, self._effects = runner, effects
        self.connection = StoreConnection(setup.url)
        self.loaded = False
        """Whether everything that the store had at the start, or on its return, is in memory."""
        self.loaded_users = 0
        self.begun = 0.0
        self.work, self.urgent = Signal(), Signal()
        self.audit: deque[AuditEntry] = deque(maxlen=AUDIT_QUEUE)
        self.claim_due = False
        """Whether the document that names the store's cluster has to be written again."""
        self._loading: Limit | None = None
        """The time-out of reading the store, from its opening until reading has ended; None: the store is not
        being read."""
        self._facts = StoreFacts("", 0, (), "")
        self.ours = Ours(director.identity, setup.place)
        self.lease = OwnLease(
            director, clock, self.ours, setup.lease_ttl, setup.incarnation, shared=setup.shared
        )
        self.snapshot = SnapshotUse(setup.url, lambda: self.loaded, exists=setup.has_snapshot)
        self.documents = Documents(director, self.snapshot.copies)
        self.usual = UsualWriter(director, clock, shared=setup.shared, deferred_kept=3 * setup.ping_timeout)
        self.reader = BucketReader(director.names, fill=self.snapshot.fill)
        self.writer = BucketWriter(
            director,
            clock,
            self.reader,
            self.usual,
            shared=setup.shared,
            may_split=lambda: self._facts.schema >= SPLIT_SCHEMA,
            between=self._between,
            noted=self._noted,
        )

    def tell(self, event: Event) -> None:
        self._effects.append(Tell(event))

    def log(self, level: Level, event: str, **fields: object) -> None:
        self._effects.append(Note(LogEvent(level, event, {"store": self.setup.url, **fields})))

    # ---- start

    def open(self) -> Procedure[None]:
        """Open the store and read everything except users and names, which `load` reads.

        If the store is unreachable, that is logged, the snapshot is read, and the store is joined later. If
        the store is empty, the snapshot is read too.

        Raises:
            SchemaTooNew, StoreBusy, OtherCluster: the director must not start.
        """
        self.begun = self.clock.mono
        try:
            try:
                empty = yield from self._open_store()
            except OtherCluster as exc:
                if not exc.lapses:
                    raise
                # directors of the other cluster may have been killed a moment ago, and still hold leases
                yield Wait(self.clock.mono + exc.lapses)
                empty = yield from self._open_store()
            if empty:
                yield from self._load_snapshot("the store is empty")
            yield from self._in_time("load", OPEN_WITHIN, self._read_documents())
        except (SchemaTooNew, StoreBusy, OtherCluster):
            raise
        except StoreError as exc:
            self.failed("load", exc)
            yield from self._load_snapshot("the store is unreachable")

    def _in_time(self, operation: str, seconds: float, procedure: Procedure[bool]) -> Procedure[bool]:
        """Return the result of a procedure. Raises StoreUnavailable if it takes longer than these seconds."""
        with self._runner.within(self._runner.after(seconds)):
            return (yield from procedure)
        raise StoreUnavailable(self.setup.url, operation, after=seconds)

    def _open_store(self) -> Procedure[bool]:
        """Open the store. Returns whether it is empty."""
        facts: StoreFacts = yield OpenStore()
        self._take_facts(facts)
        return (yield from self._in_time("load", OPEN_WITHIN, self._claim_and_look()))

    def _claim_and_look(self) -> Procedure[bool]:
        yield from self.claim_store()
        return (yield ReadDocument(HOSTS)) is None and not (yield ReadVersions("users"))

    def claim_store(self) -> Procedure[None]:
        """Check that a shared store belongs to this cluster, and take it for this cluster if it is free.

        Raises:
            OtherCluster: it belongs to another cluster. The connections are closed, because the store's name
                may lead to another store the next time.
        """
        if not self.setup.shared:
            return
        self.claim_due = False  # first: secrets that change meanwhile are to be written, too
        try:
            yield from claim(self.setup.url, self.ours, running=bool(self.connection.run_id))
        except OtherCluster:
            yield CloseStore()
            raise
        except BaseException:
            self.claim_due = True
            raise

    def _load_snapshot(self, reason: str) -> Procedure[None]:
        if (yield from self.snapshot.load(reason)):
            self.loaded_users = len(self.director.users)

    def _read_documents(self) -> Procedure[bool]:
        run_id = yield from self.ask_run_id()
        holders = yield from self.lease.renew()
        yield from self.claim_store()  # again, holding a lease: another cluster may have come just now
        yield from self.documents.read()
        self.documents_changed()
        self.tell(StoreOpened())
        self._loading = Limit(None)
        self.lease.caught_up(self.lease.lapses)  # `load` reads everything after this
        self._established(ConnectionState.LOADING, run_id, holders)
        return True

    def load(self) -> Procedure[None]:
        """Read users and names while logins are answered already."""
        problem: StoreError | None = None
        assert self._loading is not None, "the store has been opened"
        with self._runner.within(self._loading) as limit:
            try:
                yield from self.reader.load()
            except StoreError as exc:
                problem = exc
        if problem is not None or limit.at is not None:
            yield from self._load_snapshot("the store stopped answering while it was read")
            self._loading = None
            if problem is not None:
                self.failed("load", problem)
            self.tell(BucketsRead(None))
            return
        self._loading = None
        self.connection.enter(ConnectionState.CONNECTED)
        self.loaded, self.loaded_users = True, len(self.director.users)
        self.work.set()
        self.log(
            Level.INFO,
            "store_loaded",
            users=self.loaded_users,
            hosts=len(self.director.hosts.present()),
            seconds=round(self.clock.mono - self.begun, 3),
        )

    def load_wanted(self) -> Procedure[None]:
        try:
            yield from self.reader.load_wanted()
        except StoreError as exc:
            self.failed("load", exc)

    def _established(self, state: ConnectionState, run_id: str, holders: frozenset[MemberId] | None) -> None:
        """Note that memory has everything of the store, or waits for it.

        Only now may the ring rely on the store.
        """
        self.connection.established(state, run_id)
        self._effects.append(Connected())
        self.tell(Leases(holders, self.lease.until))

    # ---- the store itself

    def _take_facts(self, facts: StoreFacts) -> None:
        if facts.set_aside != self._facts.set_aside:
            note = (
                "a new file was begun with the readable rows; the rest comes from memory and the ring;"
                " check the disk, then remove the damaged file"
            )
            self.log(Level.ERROR, "store_damaged", kept_as=facts.set_aside, note=note)
        if facts.run_id:
            fields = {"schema": facts.schema, "known": SCHEMA}
            if facts.held_by and facts.held_by != self._facts.held_by:
                note = (
                    "these directors know no newer schema; the store is migrated"
                    " when they are upgraded or hold no lease"
                )
                directors = ",".join(facts.held_by)
                self.log(Level.WARNING, "store_migration_postponed", **fields, directors=directors, note=note)
            elif facts.schema > self._facts.schema > 0:
                self.log(Level.INFO, "store_migrated", **fields)
            self._facts = facts
        else:
            self._facts = self._facts._replace(set_aside=facts.set_aside)

    def ask_run_id(self) -> Procedure[str]:
        """Return the store's run id.

        Logs if the question has migrated the store to this schema, or could not.
        """
        facts: StoreFacts = yield ReadRunId()
        self._take_facts(facts._replace(set_aside=self._facts.set_aside))
        return facts.run_id

    def is_replaced(self) -> Procedure[bool]:
        """Whether another store answers than the one that memory was compared with.

        It may belong to another cluster, so this is asked before a write.
        """
        if not self.setup.shared or (yield from self.ask_run_id()) == self.connection.run_id:
            return False
        if self.connection.is_up:
            self.log(
                Level.WARNING,
                "store_replaced",
                note="another store, or a restarted one, answers; comparing all buckets with memory",
            )
            self._disconnect()
        return True

    def rejoin(self) -> Procedure[None]:
        """Join the store when it is reachable again, or for the first time: read and merge, then write."""
        facts: StoreFacts = yield OpenStore()
        self._take_facts(facts)
        yield from self.claim_store()
        run_id = yield from self.ask_run_id()
        yield from self.lease.renew()
        lapses = self.lease.lapses
        yield from self.documents.read()
        self.documents_changed()
        yield from self.writer.catch_up()
        behind = self.writer.queued
        yield from self.write(names=False)
        if not self.loaded:
            self.loaded, self.loaded_users = True, len(self.director.users)
        holders = yield from self.lease.renew()  # anew: to read may have taken longer than a lease
        self.lease.caught_up(lapses)
        self._established(ConnectionState.CONNECTED, run_id, holders)
        self.log(Level.INFO, "store_reachable", buckets_written=behind)

    def read_if_lapsed(self) -> Procedure[None]:
        """Read and merge before the next write if the lease has expired: others may have continued without
        this director."""
        if not self.lease.has_lapsed or self.director.loading:
            return
        self.log(
            Level.WARNING,
            "lease_lapsed",
            note="this director did not renew its lease in time; others may have continued without it;"
            " reading what they wrote before the next write",
        )
        self.assume_all_hold_leases()
        holders = yield from self.lease.renew()
        lapses = self.lease.lapses
        yield from self.documents.read_changes()
        yield from self.writer.catch_up()
        self.lease.caught_up(lapses)
        if self.lease.has_lapsed:  # again: what was read first may be old by now
            self.assume_all_hold_leases()
        else:
            self.tell(Leases(holders, self.lease.until))

    def assume_all_hold_leases(self) -> None:
        """Treat all directors as if they held leases: others may have continued without this one.

        While the store is reachable, claims are safe whichever directors run. No user may be assigned by
        leases that were read before this director's own lease expired.
        """
        self.tell(Leases(frozenset(self.director.ring.servers), 0.0))
        self.work.set()
        self.urgent.set()  # logins may wait for what is read now

    # ---- writing

    def write(self, *, names: bool) -> Procedure[bool]:
        """Write changes. Returns whether names are left for the next time."""
        yield from self._write_first()
        yield from self.writer.write_users()
        return names and not (yield from self.writer.write_names())

    def _write_first(self) -> Procedure[None]:
        """Write what operators wait for, or did, and find out which director writes which bucket now."""
        if self.claim_due:
            yield from self.lease.renew()
            yield from self.claim_store()
        yield from self.documents.write()
        yield from self.writer.new_ring()
        yield from self._write_audit()

    def _write_audit(self) -> Procedure[None]:
        entries = list(self.audit)
        if not entries:
            return
        yield AppendAudit(entries)
        written = set(map(id, entries))
        while self.audit and id(self.audit[0]) in written:  # a full queue may have dropped entries meanwhile
            self.audit.popleft()

    def _between(self) -> Procedure[None]:
        """Do what may not wait for the end of a long write: after each few buckets."""
        if self.connection.is_up:
            yield from self.read_if_lapsed()
        yield from self.documents.write()

    def documents_changed(self) -> None:
        self.work.set()
        self.urgent.set()
        self._effects.append(WriteSnapshot())

    def _noted(self, space: Space, numbers: list[int]) -> None:
        if self.setup.has_snapshot and numbers:
            self._effects.append(NoteForSnapshot(space, numbers))

    def stop(self) -> Procedure[None]:
        """Write what is left and release the lease, within STOP_WITHIN seconds."""
        try:
            yield from self._in_time("stop", STOP_WITHIN, self._write_the_rest())
        except StoreError as exc:
            self.failed("stop", exc)

    def _write_the_rest(self) -> Procedure[bool]:
        if not self.connection.is_up:
            yield from self.rejoin()
        yield from self._write_first()
        yield from self.writer.write_the_rest()
        if self.setup.shared:
            yield ReleaseLease(self.director.me)
        return True

    # ---- errors

    def failed(self, operation: str, error: StoreError) -> None:
        """Continue from memory: the store did not carry out an operation."""
        self._effects.extend(map(Note, self.connection.failed(operation, error)))
        self._disconnect()

    def _disconnect(self) -> None:
        self.connection.lost()
        if self._loading is not None:
            # no login may wait for such a store; the snapshot is read first
            self._loading.at = self.clock.mono
        else:
            self.tell(BucketsRead(None))
        self.writer.questions.drop()
        self.work.set()
        self.urgent.set()
        self.tell(Leases(None))
