"""Texts that people chose: tags and host names. What cannot be right about one, and how messages show it."""

from __future__ import annotations

TEXT_LIMIT = 255
"""Characters of a tag, a host name, a field's name."""


def wrong_text(name: str, text: str) -> str | None:
    """What cannot be right about a tag or a host name, of a neighbour or an operator."""
    if text.isprintable() and len(text) <= TEXT_LIMIT:
        return None
    return f"{name} {shown(text)}: at most {TEXT_LIMIT} printable characters are possible"


def shown(text: str) -> str:
    """A text of the other end for a message, cut where it is long."""
    return repr(text) if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]!r}... ({len(text)} characters)"
