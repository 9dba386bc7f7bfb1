"""Texts that people choose: tags and host names. Which are impossible, and how messages show them."""

from __future__ import annotations

TEXT_LIMIT = 255
"""Most characters of a tag, a host name or the name of a field."""


def wrong_text(name: str, text: str) -> str | None:
    """Return what is wrong with a tag or host name from a neighbour or an operator; None: nothing."""
    if text.isprintable() and len(text) <= TEXT_LIMIT:
        return None
    return f"{name} {shown(text)}: at most {TEXT_LIMIT} printable characters are possible"


def shown(text: str) -> str:
    """Return a text from outside as a message shows it: a long text is shortened."""
    return repr(text) if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]!r}... ({len(text)} characters)"
