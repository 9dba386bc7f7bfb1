"""Postfix's socketmap protocol: netstrings; a request is `NAME KEY`, a reply a status and a text.

A netstring is its length in decimal digits, a colon, so many bytes and a comma.
"""

from __future__ import annotations

from typing import NamedTuple

from director.errors import PeerError

LIMIT = 100_000
"""Bytes of the longest request and reply: what Postfix takes."""
_DIGITS = len(str(LIMIT))

NOT_FOUND = b"NOTFOUND "
"""What is asked for is not in the map."""


class SocketmapError(PeerError):
    """What came is no netstring, or too long, or no request: close the connection."""


class Request(NamedTuple):
    """A question to one of the maps behind the socket."""

    map: bytes
    key: bytes


class Netstrings:
    """Takes a stream of bytes apart. Never holds more than one of LIMIT bytes that is not complete."""

    def __init__(self) -> None:
        self._data = b""

    @property
    def unfinished(self) -> bool:
        """Whether the stream has come to a stop in the middle of one."""
        return bool(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they come.

        Returns:
            The contents of the netstrings that are complete now.

        Raises:
            SocketmapError: the bytes cannot be a netstring. Raised by the call after the one that returned
                all before it.
        """
        self._data += data
        found: list[bytes] = []
        while True:
            try:
                content = self._next()
            except SocketmapError:
                if found:
                    break  # it comes again with the next bytes, or at the end
                raise
            if content is None:
                break
            found.append(content)
        return found

    def _next(self) -> bytes | None:
        head = self._data[: _DIGITS + 1]
        digits, colon, _ = head.partition(b":")
        if not (digits.isdigit() or (not digits and not colon)) or len(digits) > _DIGITS:
            raise SocketmapError(f"{digits[:16]!r} is not the length of a netstring")
        if not colon:
            return None
        size, start = int(digits), len(digits) + 1
        if size > LIMIT:
            raise SocketmapError(f"a request of {size} bytes; at most {LIMIT} are possible")
        if len(self._data) <= start + size:
            return None
        if self._data[start + size] != ord(","):
            raise SocketmapError(f"no comma behind the {size} bytes of a netstring")
        content, self._data = self._data[start : start + size], self._data[start + size + 1 :]
        return content


def netstring(content: bytes) -> bytes:
    return b"%d:%b," % (len(content), content)


def parse(content: bytes) -> Request:
    """Parse the content of a netstring.

    Raises:
        SocketmapError: it is no request.
    """
    map, space, key = content.partition(b" ")
    if not space or not map:
        raise SocketmapError("a request without a map's name and a key")
    return Request(map, key)


def found(value: bytes) -> bytes:
    """The reply that gives what the map has for the key."""
    return b"OK " + value


def try_again(reason: str) -> bytes:
    """The reply that has Postfix keep the mail and ask later. reason: for its log."""
    return b"TEMP " + _one_line(reason)


def never(reason: str) -> bytes:
    """The reply to what cannot be asked here. reason: for the log of Postfix."""
    return b"PERM " + _one_line(reason)


def next_hop(address: str, port: int) -> bytes:
    """What a transport map says of mail that goes to a backend by LMTP."""
    # an IPv6 address has this prefix everywhere in Postfix
    host = f"ipv6:{address}" if ":" in address else address
    return f"lmtp:inet:[{host}]:{port}".encode()


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode("utf-8", "backslashreplace")[: LIMIT - 100]
