"""`director state info`: what a store is and what is in it."""

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
    """What is in a store that this program can serve."""

    server: str
    run_id: str
    users: int
    """Records, those of expired users included."""
    user_buckets: int
    names: int
    name_buckets: int
    bytes: int
    """Of all buckets and documents; what the server needs besides is not in it."""
    documents: list[DocumentInfo]
    leases: list[Lease] | None
    """None: they cannot be read, or nobody else could see them."""
    audit_entries: int | None
    audit_newest: float | None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """Without secrets."""
    shared: bool
    schema: int
    """0: there is nothing yet."""
    schema_known: int
    """The newest that this program knows."""
    held_by: list[str]
    """Directors alive that know no newer schema than that of the store: it stays as it is while they live."""
    contents: Contents | None
    """None: there is nothing, or it is of an older schema that nobody holds."""


async def info(place: StorePlace, progress: Progress) -> Info:
    """Raises StoreProblem."""
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
        if exc.code != "unreadable":  # `verify` says what to do about that
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
