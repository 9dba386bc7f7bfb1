"""The backend hosts: stamped attributes that merge in any order, so that every director ends with the same
table.

A removed host stays as a row with `present=False` (a tombstone). Otherwise a director that was unreachable
would add the host again. Attributes from a configuration file have stamp 0, so that every change by an
operator wins over them (docs/ring.md, rule 4).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from director.core.placement.addresses import address_order, host_id
from director.core.placement.assign import Backend
from director.core.placement.users import BY_HAND_AHEAD, LATEST, User
from director.core.protocol.messages import HostRow
from director.core.protocol.stamps import after
from director.core.tables.documentrows import read_rows, with_checksum
from director.types import Address, HostId, Stamp

MAX_WEIGHT = 1000
OTHERS_KEPT = 256
"""Pairs of hosts whose `other_addresses` are kept."""
REAPPEARS = BY_HAND_AHEAD + 4
"""Least seconds between the stamps of a host's removal and its return. Until then a director whose clock is
ahead, and that has not heard of the removal, may have assigned users to the host. Those assignments must not
count."""

TAG_AHEAD = BY_HAND_AHEAD + 3
"""Seconds by which the stamp of a new tag is ahead. It must be later than the stamps of all users who were
assigned or moved under the old tag, even in the same second and by a clock that is ahead (docs/ring.md, rule
3)."""


class BackendSetting(msgspec.Struct, frozen=True):
    """One host of `backends.mail_servers`."""

    address: Address
    hostname: str
    tag: str
    weight: int


class _Made(msgspec.Struct, frozen=True, gc=False):
    """A row, and what is derived from it."""

    row: HostRow
    backend: Backend
    text: str
    """The row's part of the digest."""
    usable: bool


def _made_of(row: HostRow) -> _Made:
    text = f"{row.address}\t{row.tag}\t{row.weight}\t{row.up:d}\t{row.present_at}"
    return _Made(row, backend_of(row), text, is_usable(row))


def merge_rows(mine: HostRow, theirs: HostRow) -> HostRow:
    """Merge two rows of one host: each attribute by its later stamp.

    At equal stamps the more careful value wins, so that the order of merges does not matter: absent before
    present, down before up, the lower weight, the lower tag. The host name and `moved` belong to the
    presence.
    """
    present_at, absent, hostname, moved = max(
        (mine.present_at, not mine.present, mine.hostname, mine.moved),
        (theirs.present_at, not theirs.present, theirs.hostname, theirs.moved),
    )
    tag_at, tag = _later_tag(mine, theirs)
    weight_at, weight_low = max((mine.weight_at, -mine.weight), (theirs.weight_at, -theirs.weight))
    up_at, down = max((mine.up_at, not mine.up), (theirs.up_at, not theirs.up))
    return HostRow(
        address=mine.address,
        hostname=hostname,
        present=not absent,
        present_at=present_at,
        tag=tag,
        tag_at=tag_at,
        weight=-weight_low,
        weight_at=weight_at,
        up=not down,
        up_at=up_at,
        moved=moved,
    )


def _later_tag(mine: HostRow, theirs: HostRow) -> tuple[int, str]:
    if mine.tag_at != theirs.tag_at:
        later = mine if mine.tag_at > theirs.tag_at else theirs
        return later.tag_at, later.tag
    return mine.tag_at, min(mine.tag, theirs.tag)


def is_usable(row: HostRow) -> bool:
    """Whether the host of a row takes new users."""
    return row.present and row.up and row.weight > 0


class HostTable:
    """All rows, and the effective table that is derived from them.

    It uses no clock: stamps come with the changes.
    """

    def __init__(self, configured: Iterable[BackendSetting] = (), unresolved: Iterable[str] = ()) -> None:
        """Make the table of the configuration file.

        Args:
            configured: the hosts of the file.
            unresolved: names in the file whose addresses are unknown now.
        """
        self.configured: Mapping[Address, BackendSetting] = {s.address: s for s in configured}
        self.rows: dict[Address, HostRow] = {
            s.address: HostRow(
                address=s.address,
                hostname=s.hostname,
                present=True,
                present_at=0,
                tag=s.tag,
                tag_at=0,
                weight=s.weight,
                weight_at=0,
                up=True,
                up_at=0,
            )
            for s in self.configured.values()
        }
        self.seeded: frozenset[Address] = frozenset()
        """Hosts that come only from the file: the store was read and did not have them."""
        self._names = frozenset(unresolved) | {s.hostname for s in self.configured.values() if s.hostname}
        """All host names in the file."""
        self._ids: dict[HostId, Address] = {host_id(a): a for a in self.rows}
        self._moved: dict[Address, HostRow] = {}
        """The rows of hosts that have another address now."""
        self._at: dict[str, HostRow | None] | None = None
        """For each name that has left an address: the row where it is now; None: it has none, or more than
        one. The dict is None until it is needed."""
        self._other_addresses: dict[tuple[HostId, HostId], list[str]] = {}
        self._present: list[_Made] | None = None
        """Derived when it is asked for; None: the rows have changed since."""
        self._order: list[Address] = []
        """The addresses of all rows in order. It is sorted again when rows are added."""
        self._made = {address: _made_of(row) for address, row in self.rows.items()}
        """Kept for each row, so that of thousands of hosts only the changed ones are derived again."""

    def merge(self, rows: Iterable[HostRow]) -> list[HostRow]:
        """Merge rows from another director. Returns the rows that this changed, as they are now."""
        changed = []
        for row in rows:
            address = Address(row.address)
            mine = self.rows.get(address)
            merged = row if mine is None else merge_rows(mine, row)
            if merged != mine:
                self._set(merged)
                changed.append(merged)
        return changed

    def merge_stored(self, rows: Iterable[HostRow]) -> list[HostRow]:
        """Merge rows from the store, the first time that it is read.

        An attribute with stamp 0 came from a configuration file: the file as it is now decides instead. A
        host whose name is in the file stays. Where that name is now is found out later (`backendnames.py`).
        """
        fresh = []
        for row in rows:
            now = self.configured.get(Address(row.address))
            untouched = row.present_at == row.tag_at == row.weight_at == row.up_at == 0
            if now is None:
                if not untouched or row.hostname in self._names:
                    fresh.append(row)
                continue
            fresh.append(
                msgspec.structs.replace(
                    row,
                    hostname=self._name_of(row, now),
                    tag=row.tag if row.tag_at else now.tag,
                    weight=row.weight if row.weight_at else now.weight,
                )
            )
        return self.merge(fresh)

    def adopt_stored(self, rows: Iterable[HostRow]) -> list[HostRow]:
        """Take over rows from the store before this director has heard anything else.

        The rows count as they are, even where the file differs. A host name that came from a file is replaced
        with the name that the file has now. It is kept if the file still has it, perhaps at another address.
        """
        fresh = []
        for row in rows:
            now = self.configured.get(Address(row.address))
            if now is not None:
                self.rows.pop(now.address, None)
                self._order = []
                self._forget_lists()
                if not row.present_at:
                    row = msgspec.structs.replace(row, hostname=self._name_of(row, now))
            fresh.append(row)
        self.seeded = frozenset(self.configured.keys() - {Address(row.address) for row in fresh})
        return self.merge(fresh)

    def set_configured(self, settings: Iterable[BackendSetting]) -> None:
        """Set the hosts that the file lists. The rows do not change."""
        self.configured = {setting.address: setting for setting in settings}

    def _name_of(self, row: HostRow, now: BackendSetting) -> str:
        return row.hostname if row.hostname in self._names else now.hostname

    def change(
        self,
        address: Address,
        stamp: int,
        *,
        remove: bool = False,
        hostname: str = "",
        tag: str | None = None,
        weight: int | None = None,
        up: bool | None = None,
    ) -> HostRow | None:
        """Carry out an operator's change of a host.

        A weight or state that is already as wanted gets a new stamp all the same: the operator may be
        answering a change by another director that is not known here yet. Stamps grow even if this clock is
        behind that of an earlier change. The caller has checked that the host exists, or that it may be added
        (`taken_by`).

        Args:
            address: of the host.
            stamp: Unix seconds of the change.
            remove: remove the host from the table.
            hostname: name of a host that is added.
            tag: the pool; None: as it is.
            weight: 0 to `MAX_WEIGHT`; None: as it is, 100 for a host that is added.
            up: whether the host is up; None: as it is.

        Returns:
            The new row; None: nothing changed.
        """
        old = self.rows.get(address)
        row = old or HostRow(
            address=address,
            hostname=hostname,
            present=False,
            present_at=0,
            tag=tag or "",
            tag_at=0,
            weight=weight or 0,
            weight_at=0,
            up=True,
            up_at=0,
        )
        if remove:
            removed_at = after(stamp, row.present_at)
            row = msgspec.structs.replace(row, present=False, present_at=removed_at, moved="")
        elif not row.present:
            as_new = 100 if weight is None else weight
            row = self._appear(row, stamp, hostname or row.hostname, tag or "", as_new)
        row = self._with(row, stamp, tag=tag, weight=weight, up=up)
        if row == old:
            return None
        self._set(row)
        return row

    @staticmethod
    def _appear(row: HostRow, stamp: int, hostname: str, tag: str, weight: int) -> HostRow:
        """Return the row of a host that is added again.

        It counts as a new host: its former attributes do not count.

        Every attribute gets a stamp, even if it is as before: the file of another director (stamp 0) must not
        win over it.
        """
        return HostRow(
            address=row.address,
            hostname=hostname,
            present=True,
            present_at=after(stamp, row.present_at, REAPPEARS),
            tag=tag,
            tag_at=after(stamp, row.tag_at),
            weight=weight,
            weight_at=after(stamp, row.weight_at),
            up=True,
            up_at=after(stamp, row.up_at),
        )

    @staticmethod
    def _with(row: HostRow, stamp: int, *, tag: str | None, weight: int | None, up: bool | None) -> HostRow:
        if tag is not None and tag != row.tag:
            row = msgspec.structs.replace(row, tag=tag, tag_at=after(stamp + TAG_AHEAD, row.tag_at))
        if weight is not None:
            row = msgspec.structs.replace(row, weight=weight, weight_at=after(stamp, row.weight_at))
        if up is not None:
            row = msgspec.structs.replace(row, up=up, up_at=after(stamp, row.up_at))
        return row

    def get(self, address: Address) -> HostRow | None:
        """Return the row of a host that is present; None: it is not."""
        row = self.rows.get(address)
        return row if row is not None and row.present else None

    def by_id(self, id: HostId) -> HostRow | None:
        """Return the row of the host with this id if it is present; None: it is not."""
        address = self._ids.get(id)
        return None if address is None else self.get(address)

    def row(self, id: HostId) -> HostRow | None:
        """Return the row of the host with this id, even if it was removed; None: there is none."""
        address = self._ids.get(id)
        return None if address is None else self.rows[address]

    @staticmethod
    def id_of(address: str) -> HostId:
        return host_id(address)

    def taken_by(self, address: Address) -> Address | None:
        """Return the other host that has the same 32-bit id as this address; None: none.

        Records could not distinguish the two (docs/ring.md, rule 1).
        """
        owner = self._ids.get(host_id(address))
        return owner if owner is not None and owner != address else None

    def knows(self, host: HostId) -> bool:
        """Whether this host is, or was, in the table."""
        return host in self._ids

    def host_removed(self, user: User) -> bool:
        """Whether the user's host was removed after the assignment."""
        address = self._ids.get(user.host)
        if address is None:
            return False
        row = self.rows[address]
        return not row.present or user.decided < row.present_at

    def other_addresses(self, old: HostId, new: HostId) -> list[str]:
        """Return the addresses of all hosts in the pools of both hosts, except that of the new one."""
        addresses = self._other_addresses.get((old, new))
        if addresses is None:
            if len(self._other_addresses) >= OTHERS_KEPT:
                self._other_addresses.clear()
            tags = {row.tag for row in (self.row(old), self.row(new)) if row is not None}
            address = self._ids.get(new)
            addresses = [
                row.address for row in self.rows.values() if row.tag in tags and row.address != address
            ]
            self._other_addresses[old, new] = addresses
        return addresses

    def put(self, rows: Iterable[HostRow]) -> None:
        """Replace rows by these rows, which this director has made and which are later."""
        for row in rows:
            self._set(row)

    def named(self, name: str) -> list[HostRow]:
        """Return the rows of the present hosts with this name, by address."""
        return [row for row in self.present() if row.hostname == name]

    def moved_record(self, user: User) -> User | None:
        """Return the record of a user whose host has another address now; None: it has not, or has no address
        now.

        All attributes of the record go to the new address. Every director makes the same record of the same
        record.
        """
        row = self.row(user.host)
        if row is None or not self._has_left(row, user):
            return None
        if self._at is None:
            self._at = {}
        if row.moved not in self._at:
            found = self.named(row.moved)
            self._at[row.moved] = found[0] if len(found) == 1 else None
        now = self._at[row.moved]
        if now is None:
            return None
        decided = Stamp(min(max(user.decided + 1, now.present_at), LATEST))
        return user._replace(host=host_id(now.address), decided=decided)

    @staticmethod
    def _has_left(row: HostRow, user: User) -> bool:
        if not row.moved:
            return False
        if row.present:
            return user.decided < row.present_at
        # else the user belonged to another pool, and had to leave the host anyway
        return user.decided >= row.tag_at

    def vacated(self) -> frozenset[tuple[HostId, int]]:
        """Return the former addresses of hosts that have another address now, as ids, each with the stamp."""
        return frozenset((host_id(row.address), row.present_at) for row in self._moved.values())

    def present(self) -> list[HostRow]:
        """Return the rows of the present hosts, by address."""
        return [made.row for made in self._made_present()]

    def _made_present(self) -> list[_Made]:
        if self._present is None:
            if len(self._order) != len(self.rows):
                self._order = sorted(self.rows, key=address_order)
            every = map(self._made.__getitem__, self._order)
            self._present = [made for made in every if made.row.present]
        return self._present

    def removed(self) -> list[Address]:
        """Return the hosts that the configuration lists and an operator has removed."""
        return sorted((a for a in self.configured if self.get(a) is None), key=address_order)

    def backends(self) -> list[Backend]:
        former = (_former(row) for row in self._moved.values() if not row.present)
        return [*[made.backend for made in self._made_present()], *former]

    def in_pool(self, tag: str) -> list[HostRow]:
        return [row for row in self.present() if row.tag == tag]

    def usable(self) -> dict[str, int]:
        """Return how many hosts of each pool take new users, by tag.

        Without any host there is the pool "".
        """
        present = self._made_present()
        usable = Counter([made.row.tag for made in present if made.usable])
        return {tag: usable[tag] for tag in dict.fromkeys([made.row.tag for made in present])} or {"": 0}

    def digest(self) -> bytes:
        """Return a digest of the effective table, 8 bytes (docs/ring.md, rule 8).

        It covers address, tag, weight, state and the stamp of the host's appearance, because assignments from
        before do not count. It covers no other stamps and no tombstones.
        """
        text = "\n".join([made.text for made in self._made_present()])
        return hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8]

    def _forget_lists(self) -> None:
        """Drop everything that was derived from the rows: they change."""
        self._at = self._present = None
        self._other_addresses.clear()

    def _set(self, row: HostRow) -> None:
        self._forget_lists()
        address = Address(row.address)
        self.rows[address], self._made[address] = row, _made_of(row)
        if row.moved:
            self._moved[address] = row
        else:
            self._moved.pop(address, None)
        self._ids.setdefault(host_id(address), address)


def backend_of(row: HostRow) -> Backend:
    """Return what the assigner needs of a row. Assignments from before the host (re)appeared do not count."""
    return Backend(
        id=host_id(Address(row.address)),
        address=row.address,
        hostname=row.hostname or None,
        tag=row.tag,
        weight=row.weight,
        up=row.up,
        since=row.present_at,
        retagged=row.tag_at if row.tag_at > row.present_at else 0,
        readdressed=bool(row.moved),
    )


def _former(row: HostRow) -> Backend:
    """Return the backend for an address that a host has left: no user is assigned there, and none stays."""
    return Backend(
        id=host_id(Address(row.address)),
        address=row.address,
        hostname=None,
        tag=row.tag,
        weight=0,
        up=False,
        since=LATEST,
        readdressed=True,
    )


def encode_rows(rows: Sequence[HostRow]) -> bytes:
    """Return the host document of the state store.

    It is msgpack: rows with checksums in address order, so that equal tables are equal bytes.
    """
    ordered = sorted(rows, key=lambda row: address_order(Address(row.address)))
    return msgspec.msgpack.encode([with_checksum(row) for row in ordered])


def decode_rows(data: bytes) -> list[HostRow]:
    """Return the rows of a host document. Raises ValueError if any part of `data` cannot be read."""
    found = read_rows(data, HostRow)
    if found.problems:
        raise ValueError(f"host document of {len(data)} bytes cannot be read: {found.problems[0]}")
    return found.rows
