"""Which directors belong to the ring: those of the configuration, and what operators changed at run time.

A lattice like the hosts: a row for each member an operator has ever added or removed, the later word wins.
Rows are never dropped, so nobody can come back by the memory of a director that was away; they are small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from director.core.messages import MemberRow
from director.core.order import member_order
from director.types import MemberId


def merge_member_rows(mine: MemberRow, theirs: MemberRow) -> MemberRow:
    """The later word; of two in one second the removal, so that the order never matters."""
    return max(mine, theirs, key=lambda row: (row.at, not row.present))


class MemberTable:
    def __init__(self, configured: Iterable[MemberId]) -> None:
        self.configured: tuple[MemberId, ...] = tuple(configured)
        self.rows: dict[MemberId, MemberRow] = {}

    def merge(self, rows: Iterable[MemberRow]) -> list[MemberRow]:
        """Take rows from elsewhere. Returns those that changed something here, as they are now."""
        changed = []
        for row in rows:
            member = MemberId(row.member)
            mine = self.rows.get(member)
            merged = row if mine is None else merge_member_rows(mine, row)
            if merged != mine:
                self.rows[member] = merged
                changed.append(merged)
        return changed

    def change(self, member: MemberId, stamp: int, *, present: bool) -> MemberRow | None:
        """An operator's word at `stamp`. Returns the new row; None: it is so already."""
        old = self.rows.get(member)
        if (member in self.listed()) is present:
            return None
        row = MemberRow(member, present, max(stamp, old.at + 1 if old else 0))
        self.rows[member] = row
        return row

    def listed(self) -> list[MemberId]:
        """The directors of the ring, in their order."""
        known = set(self.configured) | self.rows.keys()
        return sorted((m for m in known if self._present(m)), key=member_order)

    def removed(self) -> list[MemberId]:
        """The members that operators have taken out of the ring."""
        return [member for member, row in self.rows.items() if not row.present]

    def digest(self) -> bytes:
        """Bytes over what was changed at run time; empty where nothing was. What the configuration says is
        not in it: a directors' list that is being rolled out must not keep the ring from agreeing."""
        rows = sorted((r.member, r.present) for r in self.rows.values())
        text = "\n".join(f"{member}\t{present:d}" for member, present in rows)
        return hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8] if rows else b""

    def _present(self, member: MemberId) -> bool:
        row = self.rows.get(member)
        return row.present if row is not None else member in self.configured


_decoder = msgspec.msgpack.Decoder(list[MemberRow])


def encode_member_rows(rows: Sequence[MemberRow]) -> bytes:
    """The members' document of the state store: msgpack, in order, so that equal tables are equal bytes."""
    return msgspec.msgpack.encode(sorted(rows, key=lambda row: row.member))


def decode_member_rows(data: bytes) -> list[MemberRow]:
    """Raises ValueError where `data` is no such document."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise ValueError(f"members' document of {len(data)} bytes cannot be read: {exc}") from exc
