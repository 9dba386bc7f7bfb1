"""`director state info`: the kind and the contents of a store."""

from __future__ import annotations

import msgspec

from director.core.placement.users import RECORD
from director.statetools.buckets import Progress, names_in, read_all
from director.statetools.places import StorePlace, opened, readable
from state.base import AUDIT_KEPT, Lease, StateStore, StoreRefused


class DocumentInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    bytes: int
    version: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a store that this program can use."""

    server: str
    run_id: str
    users: int
    """Number of records, including expired assignments."""
    user_buckets: int
    names: int
    name_buckets: int
    bytes: int
    """Size of all buckets and documents, without the overhead of the server."""
    documents: list[DocumentInfo]
    leases: list[Lease] | None
    """None: they cannot be read, or the store is not shared."""
    audit_entries: int | None
    audit_newest: float | None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """Without secrets."""
    shared: bool
    schema: int
    """0: the store is empty."""
    schema_known: int
    """The newest schema that this program knows."""
    held_by: list[str]
    """Running directors that know no newer schema. While they run, the store cannot be upgraded."""
    contents: Contents | None
    """None: the store is empty, or must be migrated first."""


async def info(place: StorePlace, progress: Progress) -> Info:
    """Read the whole store.

    Raises:
        StoreProblem: the store is unreachable, damaged, or newer than this program.
    """
    store, layout = await readable(place)
    contents = None
    if layout.found == layout.known or layout.held_by:
        async with opened(place, reading=True) as (opened_store, _):
            contents = await _contents(opened_store, progress)
    return Info(
        url=store.url,
        shared=store.shared,
        schema=layout.found,
        schema_known=layout.known,
        held_by=list(layout.held_by),
        contents=contents,
    )


async def _contents(store: StateStore, progress: Progress) -> Contents:
    documents = []
    for name in await store.documents():
        if (document := await store.read_document(name)) is not None:
            size, version = len(document.data), document.version.hex()
            documents.append(DocumentInfo(name=name, bytes=size, version=version))
    users = user_buckets = names = name_buckets = 0
    size = sum(document.bytes for document in documents)
    async for batch in read_all(store, "users", progress):
        for bucket in batch:
            size += len(bucket.blob)
            users += len(bucket.blob) // RECORD.size
            user_buckets += bool(bucket.blob)
    async for batch in read_all(store, "names", progress):
        for bucket in batch:
            size += len(bucket.blob)
            names += len(names_in(bucket))
            name_buckets += bool(bucket.blob)
    entries = None
    leases = None
    try:
        entries = await store.audit(AUDIT_KEPT)
        leases = await store.members() if store.shared else None
    except StoreRefused as exc:
        if exc.code != "unreadable":  # `director state verify` says what to do about an unreadable entry
            raise
    return Contents(
        server=(await store.health()).server,
        run_id=await store.run_id(),
        users=users,
        user_buckets=user_buckets,
        names=names,
        name_buckets=name_buckets,
        bytes=size,
        documents=documents,
        leases=leases,
        audit_entries=None if entries is None else len(entries),
        audit_newest=entries[0].at if entries else None,
    )
