"""User hashes and keys: the expansion of `username_hash`, and the arithmetic of Dovecot 2.3's director.

The arithmetic is the same bit for bit (tests/data/hash-vectors.json), so that an upgrade moves no user. User
names are bytes and stay bytes. Upper and lower case is ASCII only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from director.core.placement.addresses import elf
from director.types import UserKey

FORMAT_LOWER = "%Lu"
FORMAT_PLAIN = "%u"

_VARIABLES = {b"u": "user", b"n": "username", b"d": "domain", b"%": "percent"}
_LONG_VARIABLES = {b"{user}": "user", b"{username}": "username", b"{domain}": "domain"}

# %[-][0][offset or width][.[0][-]width][modifiers]variable; at most ten modifiers, as in Dovecot 2.3
_PIECE = re.compile(
    rb"%(?P<sign>-?)(?P<zero>0?)(?P<first>[0-9]*)"
    rb"(?P<dot>\.(?P<dot_zero>0?)(?P<dot_sign>-?)(?P<width>[0-9]*))?"
    rb"(?P<modifiers>[LUEXRNHMDT]{0,10})(?P<variable>\{[^}]*\}|.|\Z)",
    re.DOTALL,
)


class HashFormatError(ValueError):
    """`username_hash` names a variable that does not exist, so no name can be hashed with it."""

    def __init__(self, variable: str) -> None:
        self.variable = variable
        super().__init__(f"Unknown variable '%{variable}'")


class UserHash:
    """The compiled setting `username_hash`, with the separator behind which the master user's name is
    removed."""

    def __init__(self, format: str = FORMAT_LOWER, separator: str = "") -> None:
        """Compile the setting.

        Args:
            format: a string with %u, %n, %d.
            separator: its first byte separates the user's name from the master user's; empty: names are not
                split.

        Raises:
            HashFormatError: `format` has any other variable.
        """
        self.format = format
        self.separator = separator.encode()[:1]
        self.fast_mode = {FORMAT_LOWER: 1, FORMAT_PLAIN: 2}.get(format, 0)
        self._pieces = list(_compiled(format.encode()))

    def without_master_user(self, name: bytes) -> bytes:
        """Return the name without the master user's part."""
        return name.split(self.separator, 1)[0] if self.separator else name

    def expand(self, name: bytes) -> bytes:
        """Return the bytes that are hashed for `name`, which has no master user's part any more."""
        return b"".join(piece.expand(name) for piece in self._pieces)

    def hash(self, name: bytes) -> int:
        """Return the 32-bit hash of Dovecot 2.3's director, 1 to 4294967295."""
        return self.key(name) >> 32

    def key(self, name: bytes, tag: bytes = b"") -> UserKey:
        """Return the user's key: 64 bits.

        The upper 32 bits are the hash. The lower 32 bits distinguish users with the same hash, and users of
        two tags.

        Args:
            name: as it came, with the master user's part.
            tag: of the pool that the user logs in to; empty: the pool without a tag.
        """
        digest = _md5(self.expand(self.without_master_user(name)))
        upper = int.from_bytes(digest[:4]) or 1
        lower = int.from_bytes(digest[4:8])
        if tag:
            lower ^= int.from_bytes(_md5(tag)[:4])
        return UserKey(upper << 32 | lower)


class _Piece(NamedTuple):
    """A literal, or a variable with the changes to be made to its value."""

    literal: bytes
    variable: str = ""
    modifiers: bytes = b""
    offset: int = 0
    width: int = 0
    zero: bool = False

    def expand(self, name: bytes) -> bytes:
        if not self.variable:
            return self.literal
        value = _value(self.variable, name)
        offset, width = self.offset, self.width
        for modifier in self.modifiers.decode():
            if modifier in "HN":
                # Dovecot 2.3 takes the width as modulus and the offset as number of digits, and uses both up
                # here.
                value = _hashed(modifier, value, width).rjust(offset, b"0")
                offset = width = 0
            else:
                value = _MODIFIERS[modifier](value)
        return _substring(value, offset, width, self.zero)


def _compiled(format: bytes) -> Iterable[_Piece]:
    end = 0
    for match in _PIECE.finditer(format):
        if match.start() > end:
            yield _Piece(format[end : match.start()])
        end = match.end()
        shown = match["variable"]
        if not shown:  # the format ends within a variable: Dovecot 2.3 ignores that
            return
        variable = _VARIABLES.get(shown) or _LONG_VARIABLES.get(shown)
        if variable is None:
            raise HashFormatError(shown.strip(b"{}").decode(errors="replace") or shown.decode())
        first = int(match["first"] or 0)
        if match["dot"] is None:
            yield _Piece(b"", variable, match["modifiers"], 0, first, bool(match["zero"]))
        else:
            offset = -first if match["sign"] else first
            width = int(match["width"] or 0)
            width = -width if match["dot_sign"] else width
            yield _Piece(b"", variable, match["modifiers"], offset, width, bool(match["dot_zero"]))
    if end < len(format):
        yield _Piece(format[end:])


def _value(variable: str, name: bytes) -> bytes:
    user, _, domain = name.partition(b"@")
    return {"user": name, "username": user, "domain": domain, "percent": b"%"}[variable]


def _substring(value: bytes, offset: int, width: int, zero: bool) -> bytes:
    """Return a part of a value.

    Args:
        value: the bytes.
        offset: where the part begins; negative: counted from the end.
        width: its length; 0: all; negative: so many bytes fewer at the end.
        zero: whether a shorter value is filled with zeros from the left.
    """
    if offset >= 0 or len(value) > -offset:
        value = value[offset:]
    if width == 0:
        return value
    if zero:
        return value.rjust(width, b"0")
    if width < 0:
        return value[: len(value) + width] if len(value) >= -width else value
    return value[:width]


def _hashed(modifier: str, value: bytes, modulus: int) -> bytes:
    if modifier == "H":
        number, bits = elf(value), 32
    else:
        number, bits = int.from_bytes(_md5(value)[:8]), 64
    if modulus:
        number %= modulus % (1 << bits)
    return b"%x" % (number & 0xFFFFFFFF)


DIGITS_64 = 20
"""Digits of the largest 64-bit number."""


def _hex_of_number(value: bytes) -> bytes:
    digits = value.lstrip(b"0")
    number = int(digits) if digits.isdigit() and len(digits) <= DIGITS_64 else 0
    return b"%x" % (number if number < 1 << 64 else 0)


_MODIFIERS: dict[str, Callable[[bytes], bytes]] = {
    "L": bytes.lower,
    "U": bytes.upper,
    "R": lambda value: value[::-1],
    "T": lambda value: value.rstrip(b" \t\n\v\f\r"),
    "M": lambda value: _md5(value).hex().encode(),
    "X": _hex_of_number,
    "E": lambda value: re.sub(rb"([\"'\\])", rb"\\\1", value),
    "D": lambda value: value.replace(b".", b",dc="),
}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
