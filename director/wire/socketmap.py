"""Postfix's socketmap protocol: netstrings. A request is `NAME KEY`, a reply a status and a text.

A netstring is the number of its bytes in decimal digits, a colon, the bytes and a comma.
"""

from __future__ import annotations

from typing import NamedTuple

from director.errors import PeerError

LIMIT = 100_000
"""Bytes of the longest request and reply: the limit of Postfix."""
_DIGITS = len(str(LIMIT))

NOT_FOUND = b"NOTFOUND "
"""The reply for a key that is not in the map."""


class SocketmapError(PeerError):
    """The received bytes are no netstring, too long or no request. Close the connection."""


class Request(NamedTuple):
    """A request to one of the maps behind the socket."""

    map: bytes
    key: bytes


class Netstrings:
    """Splits a stream of bytes into netstrings.

    It holds at most one incomplete netstring, of at most LIMIT bytes.
    """

    def __init__(self) -> None:
        self._data = b""

    @property
    def unfinished(self) -> bool:
        """Whether the stream so far ends within a netstring."""
        return bool(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes.

        Returns:
            The contents of the netstrings that are complete now.

        Raises:
            SocketmapError: the bytes cannot be a netstring. The call before has returned all complete ones.
        """
        self._data += data
        found: list[bytes] = []
        while True:
            try:
                content = self._next()
            except SocketmapError:
                if found:
                    break  # it is raised again with the next bytes, or at the end
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
    """Return the request in a netstring.

    Raises:
        SocketmapError: it is no request.
    """
    map, space, key = content.partition(b" ")
    if not space or not map:
        raise SocketmapError("a request without a map's name and a key")
    return Request(map, key)


def found(value: bytes) -> bytes:
    """Return the reply with the map's value for the key."""
    return b"OK " + value


def try_again(reason: str) -> bytes:
    """Return the reply that makes Postfix keep the mail and ask later. `reason` is for its log."""
    return b"TEMP " + _one_line(reason)


def never(reason: str) -> bytes:
    """Return the reply to an impossible request. `reason` is for the log of Postfix."""
    return b"PERM " + _one_line(reason)


def next_hop(address: str, port: int) -> bytes:
    """Return the entry of a transport map for mail that goes to a backend host by LMTP."""
    # Postfix writes IPv6 addresses with this prefix
    host = f"ipv6:{address}" if ":" in address else address
    return f"lmtp:inet:[{host}]:{port}".encode()


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode("utf-8", "backslashreplace")[: LIMIT - 100]
