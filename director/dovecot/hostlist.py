"""director_mail_servers: hosts, ranges and tags, each host once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from director.dovecot.notes import Notes

Range = tuple[int, int, int]
"""IP version, first and last address as numbers."""


def unique_entries(words: Sequence[str], setting: str, notes: Notes) -> list[str]:
    """The entries without brackets. An entry whose hosts are all listed before is omitted, with a note.

    Dovecot 2.3's director makes two hosts of an address that is listed twice.
    """
    entries = [re.sub(r"\[([^\[\]]*:[^\[\]]*)\]", r"\1", word) for word in words]
    found: dict[str, Range | None] = {}
    for entry in entries:
        span = _range(entry)
        before = entry if entry in found else _covering(span, found)
        if before is None:
            found[entry] = span
        elif before == entry:
            notes.not_carried_over.append(f"{setting}: {entry} is listed {entries.count(entry)} times")
        else:
            notes.not_carried_over.append(
                f"{setting}: {entry} is a host of {before}, which is listed before it"
            )
    return list(found)


def _covering(span: Range | None, found: dict[str, Range | None]) -> str | None:
    """The earlier entry that contains all addresses of this span."""
    if span is None:
        return None
    version, first, last = span
    return next(
        (
            entry
            for entry, range in found.items()
            if range is not None and range[0] == version and range[1] <= first and last <= range[2]
        ),
        None,
    )


def _range(entry: str) -> Range | None:
    """The addresses of an entry; None if it is a name, or not a range."""
    first, hyphen, last = entry.partition("@")[0].partition("-")
    try:
        low = ipaddress.ip_address(first)
        high = ipaddress.ip_address(last) if hyphen else low
    except ValueError:
        return None
    return (low.version, int(low), int(high)) if low.version == high.version else None
