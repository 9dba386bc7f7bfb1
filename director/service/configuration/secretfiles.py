"""The content of a file with secrets: text with one secret a line, or a single binary secret."""

from __future__ import annotations

import codecs
import re

MARK = "\ufeff"
"""A byte order mark, which Windows editors write. If files are appended, it stands before a later line."""

_CONTROL = re.compile(r"[^\t\r\n -~\u0080-\U0010ffff]")
_LOOKS_LIKE_ONE = re.compile(rb"[!-~]{16,}")


def secret_lines(content: bytes) -> list[bytes]:
    """Return the secrets in a file, without duplicates, byte order marks and surrounding blanks.

    Content that is not UTF-8 text is one secret.
    """
    text = _text(content)
    if text is None:
        binary = content.removeprefix(codecs.BOM_UTF8).strip()
        return [binary] if binary else []
    lines = [line.strip().strip(MARK).strip() for line in text.splitlines()]
    return [line.encode() for line in dict.fromkeys(filter(None, lines))]


def problem_with(content: bytes) -> str:
    """Return why the content would be read as another secret than the operator meant; else empty."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_half_zero(content):
        return "is UTF-16 text: other directors would read another secret; save it as UTF-8"
    if _text(content) is None:
        lines = [line.strip() for line in content.splitlines()]
        for number, line in enumerate(lines, 1):
            if len(lines) > 1 and _LOOKS_LIKE_ONE.fullmatch(line):
                return (
                    f"is no text, so all of it would be one secret, though line {number} looks like one by"
                    " itself: write two secrets as text; one that is no text can only be replaced while all"
                    " directors are stopped"
                )
    return ""


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _is_half_zero(content: bytes) -> bool:
    """Return whether every second byte is 0, as in UTF-16 of ASCII without a byte order mark."""
    return len(content) > 1 and (not any(content[1::2]) or not any(content[::2]))
