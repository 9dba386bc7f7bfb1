"""Stored documents of hosts and directors, read so that one row that is wrong costs no other row.

A stamp that is out of the range of stamps is no damage: its row says what an operator did. It is brought
within the range here, and within the bound of the clock when it is merged (`admission.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from director.core.checks import wrong_members, wrong_rows
from director.core.hosts import decode_rows
from director.core.members import decode_member_rows
from director.core.messages import HostRow, MemberRow
from director.core.users import LATEST

Row = TypeVar("Row", HostRow, MemberRow)


class Sound(NamedTuple):
    """The rows that can be right, and what is wrong with the others; empty: nothing."""

    hosts: list[HostRow]
    members: list[MemberRow]
    problem: str


def read_hosts(data: bytes) -> Sound:
    """Raises ValueError where `data` holds no rows at all."""
    rows, problem = _read(data, HostRow, decode_rows, lambda row: wrong_rows([row]))
    return Sound(rows, [], problem)


def read_members(data: bytes) -> Sound:
    """Raises ValueError where `data` holds no rows at all."""
    rows, problem = _read(data, MemberRow, decode_member_rows, lambda row: wrong_members([row]))
    return Sound([], rows, problem)


def salvaged(data: bytes, kind: type[Row]) -> list[Row]:
    """The rows of a document that can be read, whatever else is in it."""
    rows: list[Row] = []
    for value in _values(data):
        with contextlib.suppress(msgspec.ValidationError):
            rows.append(msgspec.convert(value, kind))
    return rows


def _read(
    data: bytes, kind: type[Row], decode: Callable[[bytes], list[Row]], wrong: Callable[[Row], str | None]
) -> tuple[list[Row], str]:
    number, problems = 0, []
    try:
        rows = decode(data)
        number = len(rows)
    except ValueError as exc:
        rows, number = salvaged(data, kind), len(_values(data))
        if not rows:
            raise
        problems = [str(exc)] * (number - len(rows))
    sound = []
    for row in map(_fitting, rows):
        problem = wrong(row)
        if problem is None:
            sound.append(row)
        else:
            problems.append(problem)
    return sound, f"{len(problems)} of {number} rows left out: {problems[0]}" if problems else ""


def _values(data: bytes) -> Sequence[Any]:
    try:
        values: Any = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return values if isinstance(values, list) else []


def _fitting(row: Row) -> Row:
    stamps = ("at",) if isinstance(row, MemberRow) else ("present_at", "tag_at", "weight_at", "up_at")
    odd = {one: min(max(getattr(row, one), 0), LATEST) for one in stamps}
    return row if all(getattr(row, one) == stamp for one, stamp in odd.items()) else _replaced(row, odd)


def _replaced(row: Row, stamps: dict[str, int]) -> Row:
    return msgspec.structs.replace(row, **stamps)
