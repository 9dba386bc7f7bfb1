"""Problems of documents, and the documents after a repair. Pure."""

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
    """The result of checking a document."""

    findings: list[Finding]
    data: bytes
    """The document after the repair; empty: nothing of it can be read."""
    lost: bool
    """Whether the repair drops anything. Then the damaged document is kept under another name."""


def check_hosts(document: Document, limits: TimeLimits, copy: bytes) -> CheckedTable:
    """Check the document of hosts.

    Args:
        copy: the second copy of the document, for rows that cannot be read; empty: the store has none.
    """

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
    """Check the document of directors. Args as in check_hosts."""

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
    """Check the document of the configurations that directors have applied. Args as in check_hosts."""
    where = "document applied"
    checked = CheckedTable(findings=[], data=document.data, lost=False)
    if document.version != version_of(document.data):
        checked.findings.append(_other_version(where))
    applied, problem = read_applied(document.data)
    if problem:
        from_copy = read_applied(copy)[0] if copy else {}
        meaning = "it is not known which changes of the other directors' files have been applied"
        kept = f"the parts of {len(applied)} directors are kept, {len(from_copy.keys() - applied.keys())}"
        remedy = f"{kept} are taken from the second copy; the damaged document is kept under another name"
        checked.findings.append(Finding(where=where, problem=problem, meaning=meaning, remedy=remedy))
        checked.data = encode_applied(from_copy | applied)
        checked.lost = True
    return checked


def check_other(name: str, document: Document) -> CheckedTable:
    """Check the version of a document whose content has no check."""
    checked = CheckedTable(findings=[], data=document.data, lost=False)
    if document.version != version_of(document.data):
        checked.findings.append(_other_version(f"document {name}"))
    return checked


def _other_version(where: str) -> Finding:
    return Finding(
        where=where,
        problem="the version is not that of the content",
        meaning="another program than a director changed it, or the disk is faulty",
        remedy="the content is kept as far as it can be read, and gets its version",
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
            "a director that starts takes the other rows from its snapshot or the ring, if they have them",
            f"{len(whole)} complete rows are kept, {len(from_copy)} are taken from the second copy;"
            " the damaged document is kept under another name",
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
                "directors ignore the row",
                "the row is dropped; the damaged document is kept under another name",
            )
            checked.lost = True
            continue
        key = name(clipped)
        if key in kept:
            add(f"two rows of {key}", "it depends on the reader which row is used", "they are merged")
        kept[key] = merge(kept[key], clipped) if key in kept else clipped
    if late:
        add(
            f"{late} rows with a time in the far future",
            "directors use the current time instead when they read it, and write it again and again",
            "the time is set to now; the rest of the rows stays",
        )
    data = encode(list(kept.values())) if kept else b""
    if not checked.findings and data != document.data and kept:
        add("the rows are not in order", "directors write the document again", "it is written in order")
    if checked.findings:
        checked.data = data
    return checked
