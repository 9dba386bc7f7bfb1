"""Ring messages as frames: 4 bytes length, big endian, then a msgpack array of messages.

All changes of one turn of the loop go into one frame. After the greeting and the proof each frame is sealed:
it is followed by 16 bytes that only the other end of this link can make, for the frame with this number in
this direction. The length does not count them. If a frame was changed, left out, repeated, reordered or
added, the seal does not match.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Annotated

import msgspec

from director.core.protocol.messages import RingMessage
from director.core.shares import halves
from director.errors import PeerError

LIMIT = 1024 * 1024
"""The largest frame accepted from a neighbour, in bytes. More messages are sent in several frames."""
GREETING_LIMIT = 4096
"""The largest frame accepted before the other end has proved its identity, in bytes."""
MESSAGES = 1000
"""The most messages in one frame: the receiver decodes a frame in one turn of the loop."""
SEAL = 16
"""Bytes after a sealed frame: keyed BLAKE2b of its number, its length and its body."""
AHEAD = 64 * 1024
"""The seal of an incomplete frame is begun when more than so many of its bytes have arrived."""
_LENGTH = Struct(">I")
_NUMBERED = Struct(">QI")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Annotated[list[RingMessage], msgspec.Meta(max_length=MESSAGES)])


class FrameError(PeerError):
    """The received bytes are no frame. The connection is closed with this text as the reason."""


class ForgedFrameError(FrameError):
    """The seal of a frame does not match: it is not the next frame that the other end has sent."""


def encode(messages: Sequence[RingMessage]) -> bytes:
    """Return a frame without a seal."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


def _divided(messages: Sequence[RingMessage]) -> Sequence[Sequence[RingMessage]]:
    """Return the messages of a frame that is too large as two lists for two frames."""
    if len(messages) > 1:
        middle = len(messages) // 2
        return messages[:middle], messages[middle:]
    parts = halves(messages[0])
    assert parts is not None, f"a {type(messages[0]).__name__} that fits into no frame"
    return [[part] for part in parts]


class _Seals:
    """The seals of one direction of a link, in the order of its frames."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=key, digest_size=SEAL)
        self._number = 0

    def next(self, length: int) -> blake2b:
        """Return the seal of the next frame. The caller adds the frame's body to it."""
        seal = self._keyed.copy()
        seal.update(_NUMBERED.pack(self._number, length))
        self._number += 1
        return seal


class FrameWriter:
    """Makes the frames of one link, in the order in which they are sent."""

    def __init__(self) -> None:
        self._seals: _Seals | None = None

    def encode(self, messages: Sequence[RingMessage]) -> bytes:
        """Return the next frame; several frames if one would be too large."""
        if len(messages) > MESSAGES:
            starts = range(0, len(messages), MESSAGES)
            return b"".join(self.encode(messages[start : start + MESSAGES]) for start in starts)
        body = _encoder.encode(messages)
        if len(body) > LIMIT:
            return b"".join(self.encode(part) for part in _divided(messages))
        if self._seals is None:
            return _LENGTH.pack(len(body)) + body
        seal = self._seals.next(len(body))
        seal.update(body)
        return _LENGTH.pack(len(body)) + body + seal.digest()

    def seal(self, key: bytes) -> None:
        """Seal all frames from now on."""
        self._seals = _Seals(key)


class FrameReader:
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self.limit = GREETING_LIMIT
        """The largest accepted frame in bytes. It may be changed between two frames, even if both are
        received already."""
        self.plain = b""
        """The body of the frame that was yielded last; empty: it was sealed."""
        self._buffer = bytearray()
        self._seals: _Seals | None = None
        self._proof_is_due = False
        self._begun: blake2b | None = None
        """The seal of a large frame of which a part has arrived."""
        self._sealed_to = 0
        """How many bytes of the body that seal covers."""

    def unseal(self, key: bytes) -> None:
        """Accept one more frame without a seal, the other end's proof. All later frames must be sealed."""
        self._seals, self._proof_is_due = _Seals(key), True

    def change_key(self, key: bytes) -> None:
        """Use another key for the sealed frames after the proof.

        Call it when the proof was the last frame yielded.
        """
        self._seals = _Seals(key)

    def feed(self, data: bytes) -> Iterator[list[RingMessage]]:
        """Take received bytes, and yield the messages of each frame that they complete.

        Raises:
            FrameError: the bytes cannot be a frame. Raised in the turn of that frame, after all frames before
                it.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if length > self.limit:
                    raise FrameError(f"frame of {length} bytes, at most {self.limit} are accepted")
                start, end = at + _LENGTH.size, at + _LENGTH.size + length
                seals = None if self._proof_is_due else self._seals
                after = end if seals is None else end + SEAL
                if len(self._buffer) < after:
                    break
                at = after
                body = self._buffer[start:end]
                if seals is None:
                    self.plain = bytes(body)
                    self._proof_is_due = False
                else:
                    self.plain = b""
                    if not hmac.compare_digest(self._seal_of(seals, body), self._buffer[end:after]):
                        raise ForgedFrameError("a frame was changed, left out, repeated or added on the way")
                yield self._decode(body)
        finally:
            del self._buffer[:at]
        if self._seals is not None and not self._proof_is_due and len(self._buffer) > AHEAD:
            self._seal_ahead(self._seals)

    def _seal_of(self, seals: _Seals, body: bytearray) -> bytes:
        """Return the seal of a complete frame."""
        if self._begun is None:
            seal = seals.next(len(body))
            seal.update(body)
        else:
            seal, self._begun = self._begun, None
            seal.update(body[self._sealed_to :])
        return seal.digest()

    def _seal_ahead(self, seals: _Seals) -> None:
        """Add the bytes of a large frame that are here to its seal.

        Doing it all at its end would take too long for one turn.
        """
        (length,) = _LENGTH.unpack_from(self._buffer)
        if self._begun is None:
            self._begun, self._sealed_to = seals.next(length), 0
        available = min(length, len(self._buffer) - _LENGTH.size)
        self._begun.update(self._buffer[_LENGTH.size + self._sealed_to : _LENGTH.size + available])
        self._sealed_to = available

    @staticmethod
    def _decode(body: bytearray) -> list[RingMessage]:
        try:
            messages: list[RingMessage] = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise FrameError(f"frame of {len(body)} bytes cannot be read: {exc}") from exc
        return messages
