"""Reading of stored documents: a wrong row costs no other row, and copies of the document fill the gaps.

A stamp out of range is no damage: its row still says what an operator did. It is brought within the range
here, and within the bound of the clock when it is merged (`admission.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from director.core.checks import wrong_members, wrong_rows
from director.core.filechanges import Applied, applied_in_steps
from director.core.placement.users import LATEST
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.steps import Steps, finished
from director.core.tables.documentrows import STEP, DocumentRows, rows_in_steps
from director.core.tables.members import about

Row = TypeVar("Row", HostRow, MemberRow)


class Sound(NamedTuple):
    """The rows that can be right, and the text of an error about the others; empty: none."""

    hosts: list[HostRow]
    members: list[MemberRow]
    problem: str


class SoundApplied(NamedTuple):
    """The applied configurations that can be right, and the text of an error; empty: none."""

    applied: Applied
    problem: str


def read_hosts(data: bytes, *others: bytes) -> Sound:
    """Read a document of hosts. Never raises: if nothing can be read, there are no rows, and an error.

    Args:
        data: the document.
        others: its copies. A missing row is taken from the first copy that has it.
    """
    return finished(hosts_in_steps(data, others))


def read_members(data: bytes, *others: bytes) -> Sound:
    """Read a document of directors, as `read_hosts` does."""
    return finished(members_in_steps(data, others))


def read_applied_documents(data: bytes, *others: bytes) -> SoundApplied:
    """Read a document of applied configurations, as `read_hosts` does."""
    return finished(applied_documents_in_steps(data, others))


def hosts_in_steps(data: bytes, others: Sequence[bytes] = ()) -> Steps[Sound]:
    """Return what `read_hosts` returns, some rows in each step."""
    steps = _read(data, others, HostRow, lambda row: wrong_rows([row]), lambda row: row.address)
    rows, problem = yield from steps
    return Sound(rows, [], problem)


def members_in_steps(data: bytes, others: Sequence[bytes] = ()) -> Steps[Sound]:
    """Return what `read_members` returns, some rows in each step."""
    rows, problem = yield from _read(data, others, MemberRow, lambda row: wrong_members([row]), about)
    return Sound([], rows, problem)


def applied_documents_in_steps(data: bytes, others: Sequence[bytes] = ()) -> Steps[SoundApplied]:
    """Return what `read_applied_documents` returns, some rows in each step."""
    applied, problem = yield from applied_in_steps(data)
    for copy in others:
        more, _ = yield from applied_in_steps(copy)
        applied = more | applied
    return SoundApplied(applied, problem)


def _read(
    data: bytes,
    others: Sequence[bytes],
    kind: type[Row],
    wrong: Callable[[Row], str | None],
    name: Callable[[Row], str],
) -> Steps[tuple[list[Row], str]]:
    rows, number, problems = yield from _sound(data, kind, wrong)
    known = {name(row) for row in rows}
    for other in others:
        copy = yield from _sound(other, kind, wrong)
        missing = [row for row in copy.rows if name(row) not in known]
        rows += missing
        known.update(map(name, missing))
    return rows, f"{len(problems)} of {number} rows left out: {problems[0]}" if problems else ""


def _sound(data: bytes, kind: type[Row], wrong: Callable[[Row], str | None]) -> Steps[DocumentRows[Row]]:
    found = yield from rows_in_steps(data, kind)
    problems = list(found.problems)
    sound = []
    for number, row in enumerate(map(_fitting, found.rows), 1):
        problem = wrong(row)
        if problem is None:
            sound.append(row)
        else:
            problems.append(problem)
        if number % STEP == 0:
            yield
    return DocumentRows(sound, found.number, problems)


def _fitting(row: Row) -> Row:
    stamps = ("at",) if isinstance(row, MemberRow) else ("present_at", "tag_at", "weight_at", "up_at")
    odd = {name: min(max(getattr(row, name), 0), LATEST) for name in stamps}
    return row if all(getattr(row, name) == stamp for name, stamp in odd.items()) else _replaced(row, odd)


def _replaced(row: Row, stamps: dict[str, int]) -> Row:
    return msgspec.structs.replace(row, **stamps)
