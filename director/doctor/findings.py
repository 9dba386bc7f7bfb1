"""Findings of `director doctor`, one for each check."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

OK, HINT, UNSEEN, WARNING, FAULT = "ok", "hint", "unseen", "warning", "fault"
"""Levels. `unseen`: the check was not possible. `warning`: it may fail. `fault`: it does not work."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    area: str
    """`dovecot`, `sockets`, `kicks`, `director` or `backends`."""
    level: str
    check: str
    """Name of the check, which does not change, such as `login_socket`."""
    found: str
    why: str = ""
    """The effect; empty if there is no problem."""
    fix: tuple[str, ...] = ()
    """Lines to write into a file, or to run."""


def worst(findings: Iterable[Finding]) -> str:
    """The worst level of the findings; `ok` if there are none."""
    order = (OK, HINT, UNSEEN, WARNING, FAULT)
    return max((finding.level for finding in findings), key=order.index, default=OK)


def block(kind: str, name: str, *lines: str) -> tuple[str, ...]:
    """A block of dovecot.conf with these lines between its braces."""
    return (f"{kind} {name} {{", *(f"  {line}" for line in lines), "}")
