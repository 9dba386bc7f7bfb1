"""The directors of the ring: those of the configuration, and the operators' changes at run time.

There is a row for each director that an operator has ever added or removed. Rows merge in any order; the
later row wins. No row is dropped, so that an older row from a director that was unreachable cannot add a
removed director again. There is one exception: rows beyond `MOST_ROWS` are dropped, the same rows on every
director, so that no director can fill the memory of all with an invented list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from director.core.protocol.messages import MemberRow
from director.core.protocol.order import member_order
from director.core.protocol.stamps import after
from director.core.tables.documentrows import read_rows, with_checksum
from director.types import MemberId

MOST_ROWS = 256
"""Run-time changes of the list of directors that are kept."""
FULL = b"\xff" * 8
"""The digest of a table that has MOST_ROWS rows."""


def merge_member_rows(mine: MemberRow, theirs: MemberRow) -> MemberRow:
    """Return the later row; in the same second the removal, so that the order of merges does not matter."""
    return max(mine, theirs, key=lambda row: (row.at, not row.present, row.member))


def about(row: MemberRow) -> str:
    """Return what a row is about: a name, or else an address."""
    return row.name or row.member


class MemberTable:
    def __init__(self, configured: Iterable[MemberId], names: Mapping[str, MemberId] | None = None) -> None:
        """Make the list of the configuration.

        Args:
            configured: the directors of the configuration.
            names: the director that each name (`name:port`) has now, also for names that are not in the
                configuration.
        """
        self.configured: tuple[MemberId, ...] = tuple(configured)
        self.names: Mapping[str, MemberId] = names or {}
        self.rows: dict[str, MemberRow] = {}
        self.met: set[MemberId] = set()
        """Directors with which this director, or another that shares its store, has had a proved link. A
        director that was added at run time and was never met may not exist: no new user waits for it."""

    def merge(self, rows: Iterable[MemberRow]) -> list[MemberRow]:
        """Merge rows from elsewhere. Returns the rows that this changed, as they are now."""
        changed = []
        for row in rows:
            mine = self.rows.get(about(row))
            merged = row if mine is None else merge_member_rows(mine, row)
            if merged != mine:
                self.rows[about(row)] = merged
                changed.append(merged)
        self._drop_surplus()
        return [row for row in changed if about(row) in self.rows]

    def put(self, rows: Iterable[MemberRow]) -> None:
        """Set these rows, whatever was there."""
        for row in rows:
            self.rows[about(row)] = row

    def change(self, member: MemberId, stamp: int, *, present: bool, name: str = "") -> MemberRow | None:
        """Carry out an operator's change of the list of directors.

        Args:
            member: the address of the director.
            stamp: Unix seconds of the change.
            present: whether the director is added; else it is removed.
            name: the name that the operator gives it.

        Returns:
            The new row; None: nothing changed.
        """
        name = name or self.name_of(member)
        old = self.rows.get(name or member)
        if (member in self.listed()) is present:
            return None
        row = MemberRow(member, present, after(stamp, old.at if old else 0), name)
        self.rows[about(row)] = row
        return row

    @property
    def full(self) -> bool:
        return len(self.rows) >= MOST_ROWS

    def _drop_surplus(self) -> None:
        """Drop the rows beyond MOST_ROWS: first those of directors that are not configured and were never
        met, in an order that is the same on every director."""
        if len(self.rows) > MOST_ROWS:
            kept = sorted(self.rows.items(), key=lambda item: self._rank(*item))[:MOST_ROWS]
            self.rows = dict(sorted(kept))

    def _rank(self, key: str, row: MemberRow) -> tuple[bool, bytes]:
        member = self._now(row)
        digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
        return member not in self.configured and member not in self.met, digest

    def _now(self, row: MemberRow) -> MemberId:
        """Return the director that a row is about, by the addresses that the names have now."""
        return self.names.get(row.name, MemberId(row.member))

    def unmet(self) -> set[MemberId]:
        """Return the directors that were added at run time and that this director has never met."""
        return set(self.listed()).difference(self.configured, self.met)

    def stored_rows(self) -> list[MemberRow]:
        """Return the rows as they are stored."""
        met = {about(row) for row in self.rows.values() if self._now(row) in self.met}
        return [
            StoredRow(row.member, row.present, row.at, row.name, met=True) if key in met else row
            for key, row in self.rows.items()
        ]

    def name_of(self, member: MemberId) -> str:
        """Return the name by which a director is listed; empty: it is listed by its address."""
        return next((name for name, named in self.names.items() if named == member), "")

    def listed(self) -> list[MemberId]:
        """Return the directors of the ring, in ring order."""
        last_words = self._last_words()
        known = set(self.configured) | last_words.keys()
        return sorted((m for m in known if m not in last_words or last_words[m].present), key=member_order)

    def removed(self) -> list[MemberId]:
        """Return the directors that operators have removed from the ring."""
        return [member for member, row in self._last_words().items() if not row.present]

    def added_names(self) -> list[str]:
        """Return the names that operators have added or removed."""
        return [row.name for row in self.rows.values() if row.name]

    def digest(self) -> bytes:
        """Return a digest of the run-time changes, 8 bytes; empty if there are none.

        The configuration is not part of it: a list of directors that is being rolled out must not keep the
        ring from agreeing. Nor are the rows of a full table: directors that have met different directors keep
        different rows.
        """
        if self.full:
            return FULL
        rows = sorted((about(r), r.present) for r in self.rows.values())
        text = "\n".join(f"{member}\t{present:d}" for member, present in rows)
        return hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8] if rows else b""

    def _last_words(self) -> dict[MemberId, MemberRow]:
        """Return the latest row about each director, by the addresses that the names have now."""
        last_words: dict[MemberId, MemberRow] = {}
        for row in self.rows.values():
            member = self._now(row)
            if row.name and self.name_of(member) not in ("", row.name):
                continue  # another name has that address now
            last_words[member] = merge_member_rows(last_words[member], row) if member in last_words else row
        return last_words


class StoredRow(MemberRow, frozen=True, array_like=True):
    """A row of the members' document."""

    met: bool = False
    """Whether the director has been met."""


def encode_member_rows(rows: Sequence[MemberRow]) -> bytes:
    """Return the members' document of the state store.

    It is msgpack: rows with checksums in order, so that equal tables are equal bytes. All rows have `met`, so
    that the checksum is always in the same place.
    """
    stored = (
        row if isinstance(row, StoredRow) else StoredRow(*_values(row)) for row in sorted(rows, key=about)
    )
    return msgspec.msgpack.encode([with_checksum(row) for row in stored])


def _values(row: MemberRow) -> tuple[str, bool, int, str]:
    return row.member, row.present, row.at, row.name


def decode_met(data: bytes) -> frozenset[MemberId]:
    """Return the directors that have been met, as far as the document can be read."""
    return frozenset(MemberId(row.member) for row in read_rows(data, StoredRow).rows if row.met)


def decode_member_rows(data: bytes) -> list[MemberRow]:
    """Return the rows of a members' document. Raises ValueError if any part of `data` cannot be read."""
    found = read_rows(data, MemberRow)
    if found.problems:
        raise ValueError(f"members' document of {len(data)} bytes cannot be read: {found.problems[0]}")
    return found.rows
