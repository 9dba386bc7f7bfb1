"""What the doctor says: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

OK, HINT, UNSEEN, WARNING, FAULT = "ok", "hint", "unseen", "warning", "fault"
"""`unseen`: could not be looked at. With a fault something does not work, with a warning not always."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    area: str
    """`dovecot`, `sockets`, `kicks`, `director` or `backends`."""
    level: str
    check: str
    """What was looked at: a stable word, as `login_socket`."""
    found: str
    why: str = ""
    """What comes of it; empty where all is well."""
    fix: tuple[str, ...] = ()
    """Lines to write into a file, or to run."""


def worst(findings: Iterable[Finding]) -> str:
    """The worst level there is."""
    order = (OK, HINT, UNSEEN, WARNING, FAULT)
    return max((finding.level for finding in findings), key=order.index, default=OK)


def block(kind: str, name: str, *lines: str) -> tuple[str, ...]:
    """Lines between the braces of a block of dovecot.conf."""
    return (f"{kind} {name} {{", *(f"  {line}" for line in lines), "}")
