"""`take_over` on texts, for its tests."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from director.dovecot.doveconf import read
from director.dovecot.takeover import TakenOver, take_over


def taken(
    text: str,
    dovecot: str = "2.3",
    *,
    environ: Mapping[str, str] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> TakenOver:
    """Return the result of importing a text. `names`: the names that can be resolved."""

    def resolve(name: str) -> Sequence[str]:
        if names is None or name not in names:
            raise OSError(f"{name} is not known")
        return names[name]

    return take_over(read(text, "given"), "given", dovecot=dovecot, environ=environ, resolve=resolve)


def minimal(
    more: str = "",
    *,
    mail_servers: str = "10.1.0.1",
    version: str = "2.3.21",
    names: Mapping[str, Sequence[str]] | None = None,
    dovecot: str = "2.3",
) -> TakenOver:
    """Return the result of importing a director with one mail server and `more`."""
    text = f"# {version} (0123abc): /etc/dovecot/dovecot.conf\ndirector_mail_servers = {mail_servers}\n{more}"
    return taken(text, dovecot, names=names)


def values(result: TakenOver) -> dict[str, Any]:
    return tomllib.loads(result.toml)


def noted(notes: Sequence[str], *words: str) -> bool:
    """Whether one of the notes contains all these words."""
    return any(all(word in note for word in words) for note in notes)
