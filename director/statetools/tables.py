"""What can be wrong with documents, and what can be saved of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from director.core.checks import wrong_members, wrong_rows
from director.core.filechanges import encode_applied, read_applied
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.documentrows import read_rows
from director.core.tables.hosts import decode_rows, encode_rows, merge_rows
from director.core.tables.members import about, decode_member_rows, encode_member_rows, merge_member_rows
from director.statetools.findings import Finding, TimeLimits
from state.base import Document, version_of

Row = TypeVar("Row", HostRow, MemberRow)


class CheckedTable(msgspec.Struct, kw_only=True):
    """A document that was looked at."""

    findings: list[Finding]
    data: bytes
    """What it would be after the repair; empty: nothing can be saved of it."""
    lost: bool
    """Whether the repair leaves something out: then the document is kept as it is under another name."""


def check_hosts(document: Document, limits: TimeLimits, copy: bytes) -> CheckedTable:
    """copy: the second copy of the document, where the store keeps one; for rows that it lacks."""

    def clip(row: HostRow) -> HostRow:
        names = ("present_at", "tag_at", "weight_at", "up_at")
        late = {name: limits.now for name in names if getattr(row, name) > limits.decided}
        return msgspec.structs.replace(row, **late) if late else row

    return _check(
        where="document hosts",
        document=document,
        copy=copy,
        decode=decode_rows,
        encode=encode_rows,
        wrong=lambda row: wrong_rows([row]),
        name=lambda row: row.address,
        merge=merge_rows,
        clip=clip,
        kind=HostRow,
    )


def check_members(document: Document, limits: TimeLimits, copy: bytes) -> CheckedTable:
    """The same for directors."""

    def clip(row: MemberRow) -> MemberRow:
        return row if row.at <= limits.decided else msgspec.structs.replace(row, at=limits.now)

    return _check(
        where="document members",
        document=document,
        copy=copy,
        decode=decode_member_rows,
        encode=encode_member_rows,
        wrong=lambda row: wrong_members([row]),
        name=about,
        merge=merge_member_rows,
        clip=clip,
        kind=MemberRow,
    )


def check_applied(document: Document, limits: TimeLimits, copy: bytes) -> CheckedTable:
    """What members have applied of their configurations."""
    where = "document applied"
    checked = CheckedTable(findings=[], data=document.data, lost=False)
    if document.version != version_of(document.data):
        checked.findings.append(_other_version(where))
    applied, problem = read_applied(document.data)
    if problem:
        from_copy = read_applied(copy)[0] if copy else {}
        meaning = "which changes of the other directors' files have been made already is not known"
        kept = f"{len(applied)} directors' parts are whole and kept, {len(from_copy.keys() - applied.keys())}"
        remedy = f"{kept} are taken from the second copy; the document as it is stays under another name"
        checked.findings.append(Finding(where=where, problem=problem, meaning=meaning, remedy=remedy))
        checked.data = encode_applied(from_copy | applied)
        checked.lost = True
    return checked


def check_other(name: str, document: Document) -> CheckedTable:
    """A document of which nothing is known but its version."""
    checked = CheckedTable(findings=[], data=document.data, lost=False)
    if document.version != version_of(document.data):
        checked.findings.append(_other_version(f"document {name}"))
    return checked


def _other_version(where: str) -> Finding:
    return Finding(
        where=where,
        problem="the version is not that of the content",
        meaning="it was changed by something else than a director, or the disk is faulty",
        remedy="the content is kept, as far as it can be right, and gets its version",
    )


def _check(
    *,
    where: str,
    document: Document,
    copy: bytes,
    decode: Callable[[bytes], list[Row]],
    encode: Callable[[Sequence[Row]], bytes],
    wrong: Callable[[Row], str | None],
    name: Callable[[Row], str],
    merge: Callable[[Row, Row], Row],
    clip: Callable[[Row], Row],
    kind: type[Row],
) -> CheckedTable:
    checked = CheckedTable(findings=[], data=document.data, lost=False)

    def add(problem: str, meaning: str, remedy: str) -> None:
        checked.findings.append(Finding(where=where, problem=problem, meaning=meaning, remedy=remedy))

    if document.version != version_of(document.data):
        checked.findings.append(_other_version(where))
    try:
        rows = decode(document.data)
    except ValueError as exc:
        rows = read_rows(document.data, kind).rows
        whole = {name(row) for row in rows}
        from_copy = [row for row in read_rows(copy, kind).rows if name(row) not in whole] if copy else []
        rows += from_copy
        add(
            str(exc),
            "a director that starts takes the others from its snapshot or from the ring, if they know them",
            f"{len(whole)} rows are whole and kept, {len(from_copy)} are taken from the second copy;"
            " the document as it is stays under another name",
        )
        checked.lost = True
    kept: dict[str, Row] = {}
    late = 0
    for row in rows:
        clipped = clip(row)
        late += clipped != row
        if (problem := wrong(clipped)) is not None:
            add(
                problem,
                "directors leave it out",
                "the row is left out; the document as it is stays under another name",
            )
            checked.lost = True
            continue
        key = name(clipped)
        if key in kept:
            add(
                f"two rows of {key}", "which of them counts would depend on who reads them", "they are merged"
            )
        kept[key] = merge(kept[key], clipped) if key in kept else clipped
    if late:
        add(
            f"{late} rows with a time in the far future",
            "directors use the current time instead when they read it, and write it again",
            "the time becomes now; what they say stays",
        )
    data = encode(list(kept.values())) if kept else b""
    if not checked.findings and data != document.data and kept:
        add("the rows are not in order", "directors would write it again", "it is written in order")
    if checked.findings:
        checked.data = data
    return checked
