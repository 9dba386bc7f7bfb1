"""The limits of the audit: the number of entries (`AUDIT_KEPT`), their age and the size of an entry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from state.base import AuditEntry

AUDIT_AGE: Final = 90 * 86400.0
"""Seconds. An older entry is no longer read, and is deleted."""
AUDIT_TEXT: Final = 500
"""The longest text of an entry, in bytes. A longer text is shortened. AUDIT_KEPT entries are 25 MB at
most."""


def bounded(entries: Sequence[AuditEntry]) -> list[AuditEntry]:
    """Return the entries with their texts shortened to AUDIT_TEXT bytes."""
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
    """Return `text` shortened to AUDIT_TEXT bytes of UTF-8, with `…` at the end if it was longer.

    Bytes of a user's name that are not UTF-8 are written as `\\udcff`.
    """
    data = text.encode(errors="backslashreplace")
    if len(data) <= AUDIT_TEXT:
        return data.decode()
    end = "…"
    return data[: AUDIT_TEXT - len(end.encode())].decode(errors="ignore") + end


def dropped_for(added: int) -> int:
    """The number of entries that may be deleted for their age when `added` entries are added.

    The number is limited because a clock that is years ahead for a moment would delete the whole audit.
    """
    return 2 * added + 8


def oldest_kept() -> float:
    """The Unix time before which entries are too old, by the clock of this machine."""
    return time.time() - AUDIT_AGE
