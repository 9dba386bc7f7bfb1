"""Drives the persistence core (`stored/persistence.py`) on a state store.

The core's calls are carried out here, and answers and errors go back to the core, which decides everything
else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import anyio
import anyio.abc

from director.core.director import Director
from director.core.filechanges import AppliedHost
from director.core.protocol.events import Event, Persisted
from director.records import StoreInfo
from director.service.log import Log
from director.service.persistence.coredriver import CoreDriver, now
from director.service.persistence.snapshot import SnapshotFile
from director.service.persistence.storecaller import StoreCaller
from director.service.persistence.storeddocuments import StoredDocuments
from director.service.persistence.sweeper import Sweeper
from director.service.persistence.unstored import Unstored, UserWaits
from director.stored.persistence import PersistenceCore
from director.stored.procedures import StoreSetup
from director.stored.storeevents import (
    Abort,
    AuditAdded,
    BucketsChanged,
    ClaimAsked,
    HostsApplied,
    HostsChanged,
    MembersChanged,
    Open,
    PersistAsked,
    ReadAsked,
    Run,
    SecretsChanged,
    SnapshotDue,
    Stop,
    TakeOver,
    WriteSoon,
)
from director.types import UserKey
from state.base import AuditEntry, StateStore


class Persistence:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        handle: Callable[[Event], None],
        log: Log,
        *,
        lease_ttl: float,
        incarnation: int,
        ping_timeout: float,
        snapshot: StateStore | None = None,
        place: str = "",
    ) -> None:
        """
        Args:
            snapshot: the file of the snapshot beside a shared store.
            place: see `storeidentity.cluster_of`.
        """
        self.store = store
        self._director, self._handle = director, handle
        setup = StoreSetup(
            url=store.url,
            shared=store.shared,
            has_snapshot=snapshot is not None,
            lease_ttl=lease_ttl,
            incarnation=incarnation,
            ping_timeout=ping_timeout,
            place=place,
        )
        self.core = PersistenceCore(director, setup, random.uniform)
        self._snapshot: SnapshotFile | None = None
        if snapshot is not None:
            self._snapshot = SnapshotFile(
                snapshot,
                director,
                handle,
                log,
                self.core.documents.tables,
                self.core.steps.ours,
                self._collect_for_snapshot,
            )
        caller = StoreCaller(store, self._tell, log)
        self._driver = CoreDriver(self.core, caller, self._snapshot, self._tell, self._connected)
        self.documents = StoredDocuments(self.core.documents, self._driver.until)
        self._waits = UserWaits(self.persist)
        self.unstored = Unstored(self.documents, self._waits, log, self._until_up)
        self.sweeping = Sweeper(store, director, self.core.reader, self._may_sweep, log)

    # ---- state

    @property
    def up(self) -> bool:
        return self.core.is_up

    @property
    def loaded(self) -> bool:
        """Whether memory has received everything that the store held at the start, or at its return."""
        return self.core.loaded

    @property
    def loaded_users(self) -> int:
        return self.core.steps.loaded_users

    @property
    def loaded_part(self) -> float:
        """The part of the store's content at the start that is in memory, 0 to 1."""
        return self.core.loaded_part

    @property
    def errors(self) -> Mapping[str, int]:
        """Number of failures by operation."""
        return self.core.connection.errors

    @property
    def queued(self) -> int:
        """Number of changed buckets that are not known to be stored."""
        return self.core.writer.queued

    @property
    def lag(self) -> float:
        """Seconds since the oldest change of a user that is not known to be stored; 0 if there is none."""
        return self.core.lag(now())

    def info(self) -> StoreInfo:
        return StoreInfo(
            url=self.store.url,
            shared=self.store.shared,
            up=self.up,
            loaded=self.loaded,
            loaded_part=self.loaded_part,
            loaded_users=self.loaded_users if self.loaded else len(self._director.users),
            queued_buckets=self.queued,
            lag=round(self.lag, 3),
            error=self.core.connection.error,
            unstored=self.unstored.changes(),
            snapshot=None if self._snapshot is None else self._snapshot.info(),
        )

    # ---- requests

    def buckets_changed(self) -> None:
        """Tell the core that there may be something to write. Called after each event of the director."""
        if self.core.awaits_changes:
            self._driver.feed(BucketsChanged())

    def hosts_changed(self) -> None:
        self._driver.feed(HostsChanged())

    def members_changed(self) -> None:
        self._driver.feed(MembersChanged())

    def set_applied(self, applied: list[AppliedHost]) -> None:
        """Store the hosts of the configuration that are in the host table now."""
        self._driver.feed(HostsApplied(applied))

    def secrets_changed(self) -> None:
        """Have the next writes to store and snapshot identify the ring by its new secret."""
        self._driver.feed(SecretsChanged())

    async def read_passwords_again(self) -> list[str]:
        """Read the store's password files again. Returns the options whose password has changed."""
        return await self.store.read_passwords_again()

    def persist(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users at once; `Persisted` follows.

        Args:
            buckets: None: all changed buckets.

        `Persisted` does not follow while the store is unreachable. The caller sets a time-out.
        """
        self._driver.feed(PersistAsked(number, buckets))

    def read_first(self, buckets: Sequence[int]) -> None:
        """Read these buckets of users first, because logins wait for them. `BucketsRead` follows. Called
        while the store is being read."""
        self._driver.feed(ReadAsked(buckets))

    def audit(self, entry: AuditEntry) -> None:
        """Add an entry to the audit, with the next write. While the store is unreachable, entries over a
        limit are dropped, the oldest first."""
        self._driver.feed(AuditAdded(entry))

    def claim(self, key: UserKey, record: bytes) -> None:
        """Claim a user through the store; `Claimed` or `ClaimFailed` follows."""
        self._driver.feed(ClaimAsked(key, record))

    # ---- start and end

    async def open(self) -> None:
        """Open the store and read everything except users and names, which `run` reads.

        Raises SchemaTooNew, StoreBusy and OtherCluster; the director must not start then.
        """
        error = await self._driver.ends(Open())
        if error is not None:
            raise error

    def take_over(self, tables: Mapping[str, bytes], audit: Iterable[AuditEntry]) -> None:
        """Join the store in place of `open`, with the memory of a predecessor in this process.

        Args:
            tables: the predecessor's tables. Users and names are in memory already.
            audit: the entries that are not stored yet.

        The store is compared with memory as after an outage, while logins are answered.
        """
        self._driver.feed(TakeOver(tables, list(audit)))

    async def run(self) -> None:
        """Write changes to the store until cancelled. Afterwards `stop` writes the rest."""
        try:
            async with self._driver.carrying_out() as tasks:
                self._driver.feed(Run())
                tasks.start_soon(self.unstored.run)
                tasks.start_soon(self.sweeping.run)
                if self._snapshot is not None:
                    tasks.start_soon(self._snapshot.run)
                await anyio.sleep_forever()
        finally:
            self._driver.feed(Abort())

    async def stop(self) -> None:
        """Write the rest, release the lease and close the store. Takes a few seconds at most."""
        with anyio.CancelScope(shield=True):
            await self._driver.ends(Stop())
        if self._snapshot is not None:
            await self._snapshot.stop()
        with anyio.CancelScope(shield=True):
            await self.store.close()

    async def write_changes(self, seconds: float) -> None:
        """Write what has changed so far, for `seconds` at most."""
        self._driver.feed(WriteSoon())
        await self._driver.until(lambda: not self.up or self.core.has_written_all, seconds)

    def hand_over(self) -> tuple[dict[str, bytes], list[AuditEntry]]:
        """Return the arguments of `take_over`, which finds changes that are not stored by its comparison."""
        return {table.name: table.encode() for table in self.core.documents.tables}, list(
            self.core.steps.audit
        )

    async def abandon(self) -> None:
        """Close store and snapshot without a last write, for a successor. It has memory and the lease."""
        with anyio.CancelScope(shield=True):
            await self.store.close()
            if self._snapshot is not None:
                await self._snapshot.abandon()

    # ---- callbacks

    def _tell(self, event: Event) -> None:
        if isinstance(event, Persisted) and event.number < 0:
            self._waits.stored(event.number)
        else:
            self._handle(event)

    def _connected(self) -> None:
        self._waits.ask_again()

    def _collect_for_snapshot(self) -> None:
        self._driver.feed(SnapshotDue())

    async def _until_up(self) -> None:
        await self._driver.until(lambda: self.up, math.inf)

    def _may_sweep(self) -> bool:
        return self.up and self.loaded
