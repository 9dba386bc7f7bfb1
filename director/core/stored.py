"""Stored documents, read so that one row that is wrong costs no other row, and that further copies of the
document fill the gaps.

A stamp that is out of the range of stamps is no damage: its row says what an operator did. It is brought
within the range here, and within the bound of the clock when it is merged (`admission.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from director.core.checks import wrong_members, wrong_rows
from director.core.configured import Applied, read_applied
from director.core.documentrows import Rows, read_rows
from director.core.members import about
from director.core.messages import HostRow, MemberRow
from director.core.users import LATEST

Row = TypeVar("Row", HostRow, MemberRow)


class Sound(NamedTuple):
    """The rows that can be right, and what is wrong with the others; empty: nothing."""

    hosts: list[HostRow]
    members: list[MemberRow]
    problem: str


def read_hosts(data: bytes, *others: bytes) -> Sound:
    """others: further copies of the document; a host whose row is missing is taken from the first with it.

    Never raises: where nothing can be read there are no rows, and a problem."""
    rows, problem = _read(data, others, HostRow, lambda row: wrong_rows([row]), lambda row: row.address)
    return Sound(rows, [], problem)


def read_members(data: bytes, *others: bytes) -> Sound:
    """The same for directors."""
    rows, problem = _read(data, others, MemberRow, lambda row: wrong_members([row]), about)
    return Sound([], rows, problem)


def read_applied_documents(data: bytes, *others: bytes) -> tuple[Applied, str]:
    """The same for what members have applied of their configurations."""
    applied, problem = read_applied(data)
    for other in others:
        applied = read_applied(other)[0] | applied
    return applied, problem


def _read(
    data: bytes,
    others: Sequence[bytes],
    kind: type[Row],
    wrong: Callable[[Row], str | None],
    name: Callable[[Row], str],
) -> tuple[list[Row], str]:
    rows, number, problems = _sound(data, kind, wrong)
    known = {name(row) for row in rows}
    for other in others:
        missing = [row for row in _sound(other, kind, wrong).rows if name(row) not in known]
        rows += missing
        known.update(map(name, missing))
    return rows, f"{len(problems)} of {number} rows left out: {problems[0]}" if problems else ""


def _sound(data: bytes, kind: type[Row], wrong: Callable[[Row], str | None]) -> Rows[Row]:
    found = read_rows(data, kind)
    problems = list(found.problems)
    sound = []
    for row in map(_fitting, found.rows):
        problem = wrong(row)
        if problem is None:
            sound.append(row)
        else:
            problems.append(problem)
    return Rows(sound, found.number, problems)


def _fitting(row: Row) -> Row:
    stamps = ("at",) if isinstance(row, MemberRow) else ("present_at", "tag_at", "weight_at", "up_at")
    odd = {one: min(max(getattr(row, one), 0), LATEST) for one in stamps}
    return row if all(getattr(row, one) == stamp for one, stamp in odd.items()) else _replaced(row, odd)


def _replaced(row: Row, stamps: dict[str, int]) -> Row:
    return msgspec.structs.replace(row, **stamps)
