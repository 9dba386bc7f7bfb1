"""Results of dry runs of changes of users. Nothing is changed; a number that is not known is None."""

from __future__ import annotations

import time

import anyio.lowlevel

from director.core.director import Director
from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKETS, PINNED, RECORD, is_unexpired, unpack
from director.records import UsersChange
from director.types import Address

SLICE = 500
"""Users examined in one turn of the loop; this takes 1.5 ms."""
SCANNED = 64
"""Buckets searched for pins in one turn of the loop."""
FLAGS_AT = RECORD.size - 1
"""Offset of the byte with the flags in a record."""
UNPINNED = bytes(flags for flags in range(256) if not flags & PINNED)


def preview(
    *, moved: int, unchanged: int = 0, pinned: int = 0, unpinned: int = 0, host: str | None = None
) -> UsersChange:
    """Return the result of a dry run. The number of the users' sessions is not known."""
    return UsersChange(
        moved=moved,
        unchanged=unchanged,
        pinned=pinned,
        unpinned=unpinned,
        kicked=None,
        timed_out=None,
        dry_run=True,
        host=host,
    )


async def previewed(
    director: Director, host: Address | None, tag: str | None, *, everybody: bool
) -> UsersChange:
    """Return how many users a flush would move, counted in slices. everybody: count for `forget`, which also
    takes pinned users and users on the host that the hash selects."""
    hosts, users = director.hosts, director.users
    rows = [r for r in hosts.present() if host in (None, r.address) and tag in (None, r.tag)]
    concerned = {host_id(Address(row.address)): row for row in rows}
    moved = unchanged = pinned = unpinned = 0
    unix = int(time.time())
    looked = 0
    for number in range(BUCKETS):
        for user in unpack(users.bucket(number)):
            looked += 1
            if looked >= SLICE:
                looked = 0
                await anyio.lowlevel.checkpoint()
            row = concerned.get(user.host)
            if row is None or not is_unexpired(user, unix, users.expire) or hosts.host_removed(user):
                continue
            fresh = director.assigner.place(user.key >> 32, row.tag.encode())
            if everybody:
                moved += 1
                unpinned += bool(user.flags & PINNED)
            elif user.flags & PINNED:
                pinned += 1
            elif fresh is not None and fresh.id == user.host:
                unchanged += 1
            else:
                moved += 1
    return preview(moved=moved, unchanged=unchanged, pinned=pinned, unpinned=unpinned)


async def pinned_on(director: Director, host: Address) -> int:
    """Return how many users are pinned on a host. A bucket without a pin takes almost no time."""
    hosts, users, id = director.hosts, director.users, host_id(host)
    found = 0
    for number in range(BUCKETS):
        records = users.bucket(number)
        if records[FLAGS_AT :: RECORD.size].translate(None, UNPINNED):
            pins = (user for user in unpack(records) if user.flags & PINNED and user.host == id)
            found += sum(not hosts.host_removed(user) for user in pins)
        if number % SCANNED == 0:
            await anyio.lowlevel.checkpoint()
    return found
