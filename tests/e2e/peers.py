"""A peer at a director's ring port that is no ring member: it sends anything, and reads why it is refused."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from director.core.protocol.effects import Seal, Send
from director.core.protocol.messages import RING_VERSION, Bye, Hello, RingMessage
from director.core.ring.link import Identity, Neighbour
from director.types import Address, LinkId, MemberId, Now
from director.wire import ring_native
from tests.e2e.processes import SECRET

FITTING: dict[str, Any] = {
    "version": RING_VERSION,
    "oldest_version": RING_VERSION,
    "incarnation": 1,
    "nonce": bytes(32),
    "username_hash": "%Lu",
    "expire": 900,
}


def hello(fields: dict[str, Any]) -> Hello:
    """Return a greeting that would be accepted except for these fields."""
    return Hello(**{**FITTING, "unix": time.time(), **fields})


class Stranger:
    """A TCP connection to a director, from any address."""

    def __init__(self, member: str, *, source: str) -> None:
        address, _, port = member.rpartition(":")
        self.source, self.member = source, MemberId(member)
        self.socket = socket.create_connection((address, int(port)), timeout=10, source_address=(source, 0))
        self._reader, self._writer = ring_native.FrameReader(), ring_native.FrameWriter()
        self._reader.limit = ring_native.LIMIT
        self._frames = self._read()
        self._byes: list[str] = []
        self.sent = b""
        """All bytes sent so far."""

    def send(self, data: bytes) -> None:
        self.sent += data
        self.socket.sendall(data)

    def say(self, messages: Sequence[RingMessage]) -> None:
        self.send(self._writer.encode(messages))

    def greet(self, member: str) -> None:
        """Greet as `member` and prove it, as far as the director continues the exchange."""
        me = Identity(MemberId(member), 1, "%Lu", 900, SECRET.encode(), 1.0, 5.0, 2.0)
        now = Now(time.monotonic(), time.time())
        neighbour = Neighbour(
            LinkId(1), me, Address(self.member.rpartition(":")[0]), self.member, bytes(32), now
        )
        effects = neighbour.open()
        while True:
            for effect in effects:
                match effect:
                    case Send(_, messages):
                        self.say(messages)
                    case Seal(_, keys):
                        self._writer.seal(keys.sending)
                        self._reader.unseal(keys.receiving)
            messages = [] if neighbour.live else next(self._frames, [])
            if not messages:
                return
            plain = self._reader.plain
            effects = [
                e for m in messages if not isinstance(m, Bye) for e in neighbour.handle(m, now, plain) or []
            ]

    def good_bye(self) -> str:
        """Return the reason that the director gives before it closes the connection."""
        for _ in self._frames:
            pass
        return self._byes[-1] if self._byes else ""

    def wait_closed(self) -> None:
        """Wait until the other end closes, whatever it sends before."""
        while self.socket.recv(65536):
            pass

    def _read(self) -> Iterator[list[RingMessage]]:
        """Yield the received frames until the connection ends."""
        while data := self.socket.recv(65536):
            for frame in self._reader.feed(data):
                self._byes += [message.reason for message in frame if isinstance(message, Bye)]
                yield frame

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
