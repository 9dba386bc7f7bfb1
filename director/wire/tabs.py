"""Dovecot's tab-separated lines: escaping, and splitting a stream of bytes into lines."""

from __future__ import annotations

import re

from director.errors import PeerError

_ESCAPES = {b"\0": b"\x010", b"\x01": b"\x011", b"\t": b"\x01t", b"\r": b"\x01r", b"\n": b"\x01n"}
_UNESCAPES = {escaped[1:]: raw for raw, escaped in _ESCAPES.items()}
_RAW = re.compile(rb"[\0\x01\t\r\n]")
_ESCAPED = re.compile(rb"\x01(.?)", re.DOTALL)


def escape(value: bytes) -> bytes:
    """Return `value` as one field of a line."""
    return _RAW.sub(lambda match: _ESCAPES[match[0]], value)


def unescape(field: bytes) -> bytes:
    """Return the value of a field.

    As in Dovecot 2.3, an unknown escape is its second byte, and an escape at the end is nothing.
    """
    if b"\x01" not in field:
        return field
    return _ESCAPED.sub(lambda match: _UNESCAPES.get(match[1], match[1]), field)


def split(line: bytes) -> list[bytes]:
    """Return the values of all fields of a line (without its LF)."""
    fields = line.split(b"\t")
    return [unescape(field) for field in fields] if b"\x01" in line else fields


DIGITS = 10
"""The most digits of a number that is compared with a small number."""


def is_version(line: bytes, name: bytes, major: int) -> bool:
    """Whether a line (without its LF) begins the protocol `name` in this major version and any minor
    version."""
    match line.split(b"\t"):
        case [b"VERSION", protocol, version, minor]:
            digits = version.isdigit() and minor.isdigit() and len(version) <= DIGITS
            return digits and protocol == name and int(version) == major
    return False


class LineTooLong(PeerError):
    """A peer sent a line over the limit. Close the connection after handling `before`."""

    def __init__(self, limit: int, before: bytes) -> None:
        self.limit = limit
        self.before = before
        """The complete lines before it."""
        super().__init__(f"the peer sent a line of more than {limit} bytes")


class LineBuffer:
    """Keeps an incomplete line until its end arrives. Never holds more than `limit` bytes."""

    def __init__(self, limit: int, rest: bytes = b"") -> None:
        """Begin with an empty line, or within a line.

        Args:
            limit: the longest line, in bytes without its LF.
            rest: the beginning of a line that was received earlier.
        """
        self.limit = limit
        self.rest = rest

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes.

        Returns:
            The lines that are complete now, without their LF.

        Raises:
            LineTooLong: a line is longer than the limit.
        """
        return self.complete(data).split(b"\n")[:-1]

    def complete(self, data: bytes) -> bytes:
        """Take received bytes.

        Returns:
            The lines that are complete now in one piece, each with its LF.

        Raises:
            LineTooLong: a line is longer than the limit.
        """
        if self.rest:
            data = self.rest + data
        end = data.rfind(b"\n") + 1
        start = 0
        # In steps of about `limit` bytes, which is faster than line by line.
        while len(data) - start > self.limit:
            found = data.rfind(b"\n", start, start + self.limit + 1) + 1
            if not found:
                self.rest = b""
                raise LineTooLong(self.limit, data[:start])
            start = found
        self.rest = data[end:]
        return data[:end]
