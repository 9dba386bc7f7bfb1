"""What a dry run says of users: nothing is changed, and what is not known is None."""

from __future__ import annotations

import time

import anyio.lowlevel

from director.core.addresses import host_id
from director.core.director import Director
from director.core.users import BUCKETS, PINNED, is_alive, unpack
from director.records import UsersChange
from director.types import Address

SLICE = 500
"""Users looked at in one turn of the loop: 1.5 ms."""


def preview(*, moved: int, unchanged: int = 0, pinned: int = 0, host: str | None = None) -> UsersChange:
    """What a dry run says of users; how many sessions they have is not known."""
    return UsersChange(
        moved=moved,
        unchanged=unchanged,
        pinned=pinned,
        kicked=None,
        timed_out=None,
        dry_run=True,
        host=host,
    )


async def previewed(
    director: Director, host: Address | None, tag: str | None, *, everybody: bool
) -> UsersChange:
    """How many users a flush would move (everybody: a forgetting), counted in slices."""
    hosts, users = director.hosts, director.users
    rows = [r for r in hosts.present() if host in (None, r.address) and tag in (None, r.tag)]
    concerned = {host_id(Address(row.address)): row for row in rows}
    moved = unchanged = pinned = 0
    unix = int(time.time())
    looked = 0
    for number in range(BUCKETS):
        for user in unpack(users.bucket(number)):
            looked += 1
            if looked >= SLICE:
                looked = 0
                await anyio.lowlevel.checkpoint()
            row = concerned.get(user.host)
            if row is None or not is_alive(user, unix, users.expire) or hosts.gone(user):
                continue
            fresh = director.assigner.place(user.key >> 32, row.tag.encode())
            if everybody:
                moved += 1
            elif user.flags & PINNED:
                pinned += 1
            elif fresh is not None and fresh.id == user.host:
                unchanged += 1
            else:
                moved += 1
    return preview(moved=moved, unchanged=unchanged, pinned=pinned)
