"""`director state verify`: read and check every document, bucket, lease and audit entry.

Repairs are compare-and-swap, so directors may run meanwhile: a bucket that a director writes between reading
and repairing is checked again. A record in the wrong bucket is written to the right bucket before it is
removed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKET_SHIFT, pack
from director.core.tables.hosts import decode_rows
from director.statetools.buckets import (
    Names,
    Progress,
    Records,
    merge_names,
    merge_users,
    pack_names,
    read_all,
)
from director.statetools.exports import APPLIED, HOSTS, MEMBERS
from director.statetools.findings import (
    CheckedStore,
    Finding,
    TimeLimits,
    check_names,
    check_users,
    unknown_hosts,
)
from director.statetools.tables import (
    CheckedTable,
    check_applied,
    check_hosts,
    check_members,
    check_other,
)
from director.stored.buckettree import belongs
from director.types import Address, HostId
from state.aside import set_aside
from state.base import (
    AUDIT_KEPT,
    EMPTY_VERSION,
    SPACES,
    SPLIT,
    Bucket,
    Document,
    Lost,
    Space,
    StateStore,
    StoreRefused,
    Swap,
    version_of,
)

TABLES: dict[str, Callable[[Document, TimeLimits, bytes], CheckedTable]] = {
    HOSTS: check_hosts,
    MEMBERS: check_members,
    APPLIED: check_applied,
}


class Verification:
    """One check of a whole store."""

    def __init__(self, store: StateStore, limits: TimeLimits, *, fix: bool) -> None:
        self._store, self._limits, self._fix = store, limits, fix
        self._unknown: Counter[HostId] = Counter()
        self._kept: Counter[HostId] = Counter()
        self._hosts_lost = False
        """Whether the hosts' document lacks rows. Then no record is reported because of its host."""
        self.buckets = self.users = self.names = 0
        """Numbers of buckets, users and names that were checked."""

    async def findings(self, progress: Progress) -> AsyncIterator[Finding]:
        """All problems, as they are found. With `fix` each is repaired before it is given.

        Raises:
            StoreError: the store is unreachable, or refuses.
        """
        for name in await self._store.documents():
            for finding in await self._table(name):
                yield finding
        async for finding in self._unreadable():
            yield finding
        hosts: frozenset[HostId] | None = None
        strays: list[tuple[Bucket, Finding]] = []
        for space in SPACES:
            async for batch in read_all(self._store, space, progress):
                hosts = await self._hosts()  # after the users: a new host is stored before users get it
                for bucket in batch:
                    if bucket.version != EMPTY_VERSION or bucket.blob:
                        checked = await self._bucket(bucket, hosts)
                        for finding in checked.findings:
                            yield finding
                        if checked.strays is not None:
                            strays.append((bucket, checked.strays))
        for bucket, finding in strays:
            if self._fix:
                await self._take_home(bucket.space, bucket.number, hosts)
                finding.fixed, finding.outcome = True, "merged there, and removed here"
            yield finding
        dropped = self._unknown - self._kept if self._fix else None
        for finding in unknown_hosts(self._unknown, self._kept, dropped):
            yield finding

    async def _table(self, name: str) -> list[Finding]:
        while (document := await self._store.read_document(name)) is not None:
            copy = await self._store.second_copy(name)
            if name in TABLES:
                checked = TABLES[name](document, self._limits, b"" if copy is None else copy.data)
            else:
                checked = check_other(name, document)
            self._hosts_lost |= checked.lost and name == HOSTS
            if not checked.findings or not self._fix:
                return checked.findings
            aside = ""
            if checked.lost:
                aside = await set_aside(self._store, name, document.data)
            if (version := version_of(document.data)) != document.version:
                await self._store.swap_document(name, document.version, document.data)
            outcome = await self._store.swap_document(name, version, checked.data)
            if isinstance(outcome, Lost):
                continue  # a director has written it meanwhile
            for finding in checked.findings:
                finding.fixed = True
                finding.outcome = f"the damaged document is kept as {aside}" if aside else "written again"
            return checked.findings
        return []

    async def _unreadable(self) -> AsyncIterator[Finding]:
        """Leases and audit entries that the store itself cannot read."""
        for place, read in (("leases", self._store.members), ("audit", self._read_audit)):
            try:
                await read()
            except StoreRefused as exc:
                if exc.code != "unreadable":
                    raise
                yield Finding(
                    where=place,
                    problem="an entry cannot be read",
                    meaning=f"because of it, none of the {place} can be read",
                    remedy=exc.advice,
                )

    async def _read_audit(self) -> None:
        await self._store.audit(AUDIT_KEPT)

    async def _hosts(self) -> frozenset[HostId] | None:
        """Ids of all present and removed hosts; None: they are not known, so each host is accepted."""
        document = await self._store.read_document(HOSTS)
        if document is None or self._hosts_lost:
            return None
        try:
            return frozenset(host_id(Address(row.address)) for row in decode_rows(document.data))
        except ValueError:
            return None

    async def _bucket(self, bucket: Bucket, hosts: frozenset[HostId] | None) -> CheckedStore:
        """Check a bucket and repair it. Records of other buckets stay until all buckets are repaired."""
        while True:
            checked = self._checked(bucket, hosts)
            if not self._fix or not (checked.findings or checked.unknown):
                break
            swaps = [Swap(bucket.space, bucket.number, bucket.version, checked.blob)]
            if (true := version_of(bucket.blob)) != bucket.version:
                # The damaged bucket may have the version of the repaired bucket: the store would take the
                # repair for done. So the damaged content gets its own version first.
                as_it_is = Swap(bucket.space, bucket.number, bucket.version, bucket.blob)
                swaps = [as_it_is, msgspec.structs.replace(swaps[0], version=true)]
            outcome = (await self._store.swap_buckets(swaps))[-1]
            if isinstance(outcome, Lost):
                if outcome.blob == SPLIT:
                    return CheckedStore(findings=[], blob=SPLIT)  # a director wrote it from memory: correct
                bucket = Bucket(bucket.space, bucket.number, outcome.version, outcome.blob)
                continue
            before, after = len(bucket.blob), len(checked.blob)
            for finding in checked.findings:
                finding.fixed = True
                finding.outcome = f"the bucket had {before} bytes and has {after}"
            break
        self._unknown += checked.unknown
        self._kept += checked.kept
        self.users += len(checked.records)
        self.names += len(checked.names)
        self.buckets += 1
        return checked

    def _checked(self, bucket: Bucket, hosts: frozenset[HostId] | None) -> CheckedStore:
        return check_users(bucket, hosts, self._limits) if bucket.space == "users" else check_names(bucket)

    async def _take_home(self, space: Space, number: int, hosts: frozenset[HostId] | None) -> None:
        """Move records to the buckets where they belong.

        They are written there before they are removed here: after an interruption they are in both buckets,
        and the next check finds them again.
        """
        while True:
            (bucket,) = await self._store.read_buckets(space, [number])
            if bucket.blob == SPLIT:
                return  # a director has split the bucket, and put all records where they belong
            checked = self._checked(bucket, hosts)
            records: dict[int, Records] = {}
            local: Records = {}
            for key, user in checked.records.items():
                place = local if belongs(key, number) else records.setdefault(key >> BUCKET_SHIFT, {})
                place[key] = user
            names: dict[int, Names] = {}
            names_here: Names = {}
            for key, name in checked.names.items():
                home = names_here if belongs(key, number) else names.setdefault(key >> BUCKET_SHIFT, {})
                home[key] = name
            await merge_users(self._store, records)
            await merge_names(self._store, names)
            blob = pack(sorted(local.values())) if space == "users" else pack_names(names_here)
            (outcome,) = await self._store.swap_buckets([Swap(space, number, bucket.version, blob)])
            if not isinstance(outcome, Lost):
                return
