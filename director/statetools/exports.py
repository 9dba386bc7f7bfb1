"""`director state export`: the lasting content of a store, line by line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterable

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.protocol.messages import HostRow
from director.core.tables.hosts import decode_rows
from director.core.tables.members import decode_member_rows
from director.errors import EX_DATA, StoreProblem
from director.statetools.buckets import Names, Progress, Records, names_in, read_all, read_leaves, records_in
from director.statetools.lines import (
    FORMAT,
    DocumentLine,
    End,
    Header,
    NameLine,
    UserLine,
    encode,
    flag_names,
    host_line,
    member_line,
    written_name,
)
from director.stored.buckettree import names_tree
from director.types import Address, UserKey
from director.version import VERSION
from state.base import StateStore
from state.bucketnumbers import root_of

HOSTS, MEMBERS = "hosts", "members"
"""The documents that are written row by row."""
APPLIED = "applied"


async def export(
    store: StateStore, schema: int, user_hash: UserHash, now: float, progress: Progress
) -> AsyncIterator[bytes]:
    """The lines of an export, many in a piece. Needs memory for a few buckets, however large the store is.

    Changes that are written during the export may or may not be in it.

    Args:
        user_hash: the hash of the directors, to find out the tags of users.
        now: Unix seconds.

    Raises:
        StoreProblem: the store holds damaged data.
        StoreError: the store is unreachable, or refuses.
    """
    server = (await store.health()).server
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    yield encode(
        Header(
            format=FORMAT, exported=moment, store=store.url, server=server, schema=schema, director=VERSION
        )
    )
    rows: list[HostRow] = []
    members = documents = users = names = 0
    for name in await store.documents():
        document = await store.read_document(name)
        if document is None:
            continue  # removed since the list was read
        try:
            if name == HOSTS:
                rows = decode_rows(document.data)
                yield b"".join(encode(host_line(row)) for row in rows)
            elif name == MEMBERS:
                member_rows = decode_member_rows(document.data)
                members = len(member_rows)
                yield b"".join(encode(member_line(row)) for row in member_rows)
            else:
                documents += 1
                yield encode(DocumentLine(name=name, data=document.data))
        except ValueError as exc:
            text = f"{store.url}: {exc}; `director state verify --fix` repairs it"
            raise StoreProblem(text, EX_DATA) from exc
    writer = _UserLines(rows, user_hash)
    async for batch in read_all(store, "users", progress):
        numbers = sorted({root_of(bucket.number) for bucket in batch})
        records: dict[int, Records] = {number: {} for number in numbers}
        known: dict[int, Names] = {number: {} for number in numbers}
        for bucket in batch:
            records[root_of(bucket.number)] |= records_in(bucket)
        for bucket in await read_leaves(store, "names", numbers, names_tree()):
            known[root_of(bucket.number)] |= names_in(bucket)
        for number in numbers:
            if records[number] or known[number]:
                users += len(records[number])
                names += len(known[number])
                yield writer.lines(records[number], known[number])
    yield encode(End(hosts=len(rows), members=members, documents=documents, users=users, names=names))


class _UserLines:
    """Writes the lines of users, with addresses, names and tags as far as they are known."""

    def __init__(self, rows: Iterable[HostRow], user_hash: UserHash) -> None:
        rows = list(rows)
        self._addresses = {host_id(Address(row.address)): row.address for row in rows}
        self._tags = {_mixed_in(tag): tag for tag in {"", *(row.tag for row in rows)}}
        self._hash = user_hash

    def lines(self, records: Records, names: Names) -> bytes:
        """The lines of a bucket, in the order of keys."""
        lines = bytearray()
        for key in sorted(records.keys() | names.keys()):
            user, known = records.get(key), names.get(key)
            name, name_base64 = written_name(known)
            if user is None:
                line: UserLine | NameLine = NameLine(key=f"{key:016x}", name=name, name_base64=name_base64)
            else:
                line = UserLine(
                    key=f"{key:016x}",
                    hash=key >> 32,
                    host=self._addresses.get(user.host),
                    host_id=user.host,
                    tag=None if known is None else self._tag(key, known),
                    decided=user.decided,
                    seen=user.seen,
                    flags=flag_names(user.flags),
                    name=name,
                    name_base64=name_base64,
                )
            lines += encode(line)
        return bytes(lines)

    def _tag(self, key: UserKey, name: bytes) -> str | None:
        """The tag that together with this name gives this key; None if no host has such a tag."""
        difference = self._hash.key(name) ^ key
        return None if difference >> 32 else self._tags.get(difference)


def _mixed_in(tag: str) -> int:
    """The bits that a tag changes in a key (docs/ring.md, rule 1)."""
    return int.from_bytes(hashlib.md5(tag.encode(), usedforsecurity=False).digest()[:4]) if tag else 0
