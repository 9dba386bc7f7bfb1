"""Backends whose address has changed: their rows, and their users.

Everything known of a backend goes with its *name* to the new address: tag, weight and state with their
stamps, and its users with their pins. The row of the old address names the backend (`HostRow.moved`). So
every director makes the same of every record, whenever it gets the record. Nothing has to be announced, and a
director that was unreachable does the same later. A user who logs in is followed immediately, all other users
by a walk through the table.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from director.core.placement.users import BUCKETS, MOVING, RECORD, UserTable, pack, unpack
from director.core.protocol.events import HostMove
from director.core.protocol.messages import HostRow
from director.core.protocol.stamps import after
from director.core.tables.hosts import REAPPEARS, TAG_AHEAD, HostTable
from director.types import Address, HostId, Now, UserKey

T = TypeVar("T")

SLICE = 2000
"""Users looked at in one turn of the loop."""
FOLLOWED = 300
"""Users with another address of their host that fill a turn of the loop."""
SCANNED = 64
"""Buckets looked at in one turn of the loop, however empty they are."""
WALKS = (0.0, 5.0, 60.0)
"""Seconds from a change of the hosts to each walk through all users. Another director may come in later with
an old record."""


def placeholder_address(name: str) -> Address:
    """Return the address of the row of a backend that has lost its address to another backend and has none
    now.

    No host can have this address (RFC 6666), so no other row is there.
    """
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()[:8]
    return Address(str(ipaddress.IPv6Address(bytes.fromhex("0100000000000000") + digest)))


def has_no_address(row: HostRow) -> bool:
    """Whether the backend of this row has no address now."""
    return (
        bool(row.hostname)
        and not row.present
        and not row.moved
        and row.address == placeholder_address(row.hostname)
    )


def ends_without_address(move: HostMove) -> bool:
    """Whether the backend has no address after this move."""
    return move.after == placeholder_address(move.name)


def moved_rows(rows: Mapping[Address, HostRow], moves: Sequence[HostMove], stamp: int) -> list[HostRow]:
    """Return the rows that these moves change. The moves are made together.

    Args:
        rows: the host table.
        moves: the moves.
        stamp: Unix seconds of the moves.
    """
    comes = {move.after: move for move in moves}
    goes = {move.before: move for move in moves}
    made = []
    for move in moves:
        origin = rows[move.before]
        if move.before not in comes:
            made.append(
                msgspec.structs.replace(
                    origin,
                    hostname=move.name,
                    present=False,
                    present_at=after(stamp, origin.present_at),
                    moved=move.name,
                )
            )
        leaving = goes.get(move.after)
        made.append(_arrived(rows.get(move.after), origin, move, leaving.name if leaving else "", stamp))
    return made


def _arrived(
    occupant: HostRow | None, origin: HostRow, move: HostMove, leaving_name: str, stamp: int
) -> HostRow:
    """Return the row of the new address after a move.

    Args:
        occupant: the row of the new address before; None: there was none.
        origin: the row of the old address.
        move: the move.
        leaving_name: the name that leaves the new address at the same time; empty: none.
        stamp: Unix seconds of the move.
    """
    before = occupant or origin
    tag, tag_at = _inherited((before.tag, before.tag_at), (origin.tag, origin.tag_at))
    weight, weight_at = _inherited((before.weight, before.weight_at), (origin.weight, origin.weight_at))
    up, up_at = _inherited((before.up, before.up_at), (origin.up, origin.up_at))
    present_at, former = stamp, leaving_name
    if occupant is not None and occupant.present and not leaving_name:
        # The host was there before, from the file or under another name. Its users stay.
        present_at, former = occupant.present_at, occupant.moved
        if occupant.hostname != move.name:
            present_at = after(0, present_at)
            former = move.name
    elif occupant is not None:
        # The stamp is later than those of all users who were assigned there under its former name, even by a
        # clock that is ahead.
        ahead = TAG_AHEAD if occupant.present else 0
        present_at = after(stamp + ahead, occupant.present_at, REAPPEARS)
        former = leaving_name or occupant.moved
    return HostRow(
        address=move.after,
        hostname=move.name,
        present=not ends_without_address(move),
        present_at=present_at,
        tag=tag,
        tag_at=tag_at,
        weight=weight,
        weight_at=weight_at,
        up=up,
        up_at=up_at,
        moved="" if ends_without_address(move) else former,
    )


def _inherited(present: tuple[T, int], former: tuple[T, int]) -> tuple[T, int]:
    """Return an attribute with its stamp as it goes with the name.

    If both values come from a file, that of the new address counts, because it is from the file as it is now.
    """
    if present[1] < former[1]:
        return former
    if present == former or present[1] == former[1] == 0:
        return present
    return former[0], after(0, present[1])


class MovedHosts:
    """Moves the records of users to the new addresses of their hosts."""

    def __init__(self, hosts: HostTable, users: UserTable) -> None:
        self._hosts, self._users = hosts, users
        self._vacated: frozenset[tuple[HostId, int]] = frozenset()
        self._ids: frozenset[HostId] = frozenset()
        """Hosts whose users may have to be followed."""
        self._due: list[float] = []
        """Monotonic times at which the next walks begin."""
        self._bucket = BUCKETS
        self._found: list[UserKey] = []
        """Users of the last bucket whose hosts may have another address."""

    def hosts_changed(self, now: Now) -> None:
        """Plan the walks if a host has another address now."""
        vacated = self._hosts.vacated()
        if vacated != self._vacated:
            self._vacated, self._ids = vacated, frozenset(host for host, _ in vacated)
            self._due = [now.mono + seconds for seconds in WALKS]

    def follow(self, key: UserKey) -> bool:
        """Follow a user who logs in to the new address of the host.

        Returns:
            Whether the record has changed.
        """
        old = self._users.get(key)
        new = self._hosts.moved_record(old) if old is not None else None
        if new is None:
            return False
        self._users.put(new)
        return True

    @property
    def has_work(self) -> bool:
        return self._bucket < BUCKETS or bool(self._found)

    def next_deadline(self) -> float | None:
        return min(self._due, default=None)

    def turn(self, now: Now) -> None:
        """Do one slice of the walk. Nothing is announced, because every director does the same."""
        if self._due and self._due[0] <= now.mono:
            self._due.pop(0)
            self._bucket = 0
            self._found.clear()
        room, scanned = SLICE, 0
        while room > 0 and scanned < SCANNED and self.has_work:
            if self._found:
                part, self._found = self._found[:FOLLOWED], self._found[FOLLOWED:]
                self._follow(part)
                room -= len(part) * SLICE // FOLLOWED
                continue
            records = self._users.bucket(self._bucket)
            self._bucket += 1
            scanned += 1
            room -= len(records) // RECORD.size
            self._found = [user.key for user in unpack(records) if user.host in self._ids]

    def _follow(self, keys: Sequence[UserKey]) -> None:
        """Write the new addresses of the hosts into these users' records."""
        users = (self._users.get(key) for key in keys)
        not_moving = (
            user for user in users if user and not user.flags & MOVING
        )  # `moves.py` does the others
        found = [new for user in not_moving if (new := self._hosts.moved_record(user)) is not None]
        if found:
            self._users.merge(pack(found))
            self._users.take_displaced()  # no session is ended for it: the sessions went to the same backend
