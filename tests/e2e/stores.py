"""The content of a store that directors use."""

from __future__ import annotations

from pathlib import Path

from director.core.placement.addresses import host_id
from director.core.placement.users import unpack
from director.core.tables.hosts import decode_rows
from director.types import Address, UserKey
from state.urls import open_store


async def stored(url: str) -> tuple[dict[UserKey, str], dict[str, int]]:
    """Return the content of a store: the host of each key, the weight of each host."""
    store = open_store(url, base_dir=Path("/"))
    await store.open()
    blobs = [bucket.blob async for batch in store.load_buckets("users") for bucket in batch]
    document = await store.read_document("hosts")
    await store.close()
    assert document is not None
    rows = decode_rows(document.data)
    address = {host_id(Address(row.address)): row.address for row in rows}
    users = {user.key: address[user.host] for blob in blobs for user in unpack(blob)}
    return users, {row.address: row.weight for row in rows}
