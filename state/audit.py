"""How much of an audit is kept: by number (`AUDIT_KEPT`), by age, and by the size of an entry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from state.base import AuditEntry

AUDIT_AGE: Final = 90 * 86400.0
"""Seconds after which an entry is given to nobody any more, and dropped."""
AUDIT_TEXT: Final = 500
"""Bytes of one text of an entry at most; a longer one is cut. So AUDIT_KEPT entries are 25 MB at most."""


def bounded(entries: Sequence[AuditEntry]) -> list[AuditEntry]:
    """The entries as they are kept."""
    return [
        msgspec.structs.replace(
            entry,
            who=bounded_text(entry.who),
            what=bounded_text(entry.what),
            target=bounded_text(entry.target),
            detail=bounded_text(entry.detail),
            reason=bounded_text(entry.reason),
        )
        for entry in entries
    ]


def bounded_text(text: str) -> str:
    """At most AUDIT_TEXT bytes of UTF-8, `…` at the end where something was cut.

    What is not UTF-8, in the name of a user, is written as `\\udcff`."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= AUDIT_TEXT:
        return data.decode()
    end = "…"
    return data[: AUDIT_TEXT - len(end.encode())].decode(errors="ignore") + end


def dropped_for(added: int) -> int:
    """How many entries that are too old are dropped at most when so many are added.

    Not all at once: a clock that is years ahead for a moment would drop the whole audit."""
    return 2 * added + 8


def oldest_kept() -> float:
    """The Unix time before which entries are too old, by this machine's clock."""
    return time.time() - AUDIT_AGE
