"""Ring messages as length-prefixed msgpack frames: 4 bytes length, big endian, then an array of messages.

All changes of one turn of the loop go into one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

import msgspec

from director.core.messages import RingMessage
from director.errors import PeerError

LIMIT = 16 * 1024 * 1024
"""Largest frame accepted from a neighbour, in bytes."""
GREETING_LIMIT = 4096
"""Largest frame accepted before the other end has proved who it is."""
_LENGTH = Struct(">I")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[RingMessage])


class FrameError(PeerError):
    """What came is not a frame: the connection is closed with this text as the reason."""


def encode(messages: Sequence[RingMessage]) -> bytes:
    """One frame."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self.limit = GREETING_LIMIT
        """May be raised between two frames, also between two that came together."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[list[RingMessage]]:
        """Take bytes as they come; give the frames they complete, one by one.

        Raises FrameError for what cannot be one, when its turn comes; what is in front of it has been given.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if length > self.limit:
                    raise FrameError(f"frame of {length} bytes, at most {self.limit} are accepted")
                start = at + _LENGTH.size
                if len(self._buffer) - start < length:
                    break
                at = start + length
                yield self._decode(self._buffer[start:at])
        finally:
            del self._buffer[:at]

    @staticmethod
    def _decode(body: bytearray) -> list[RingMessage]:
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise FrameError(f"frame of {len(body)} bytes cannot be read: {exc}") from exc
