"""The places of a listener: which connection is closed when the listener is full and another client connects.

The client for which the director has waited longest loses its place: a client that has not sent a request,
that has none at the moment, or that has stopped reading an answer. A client that waits for the director keeps
its place, however long that takes. While there are free places, a client loses its place only if it does not
send a first complete line or request within FIRST_WITHIN seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

import anyio
from anyio.abc import ByteStream

FIRST_WITHIN = 10.0
"""Seconds from the beginning of a connection until its first complete line or request."""
TAKE_WITHIN = 10.0
"""Seconds in which a client must read a part of an answer. After that, the director counts as waiting for
it."""


class Place:
    """The state of one client."""

    def __init__(self, address: str, close: Callable[[], object], now: float) -> None:
        """Begin as a client that the director waits for.

        Args:
            address: the address of the client; empty: it has none.
            close: closes the connection.
            now: time.monotonic(), as all times here. The loop's own clock may have steps of 1 ms, in which
                many clients can connect.
        """
        self.address, self.close = address, close
        self._idle_since = now
        """The time since when the director waits for the client; infinity: it does not."""
        self._sending_since = math.inf
        """The time since when the client has not read what was sent to it."""

    def set_idle(self, now: float) -> None:
        """Note that the director waits for the client, since `now` or, if it did already, since before."""
        self._idle_since = min(self._idle_since, now)

    def set_busy(self) -> None:
        """Note that the client waits for the director."""
        self._idle_since = math.inf

    def set_sending(self, now: float) -> None:
        """Note that data is being sent to the client."""
        self._sending_since = now

    def set_taken(self) -> None:
        """Note that the client has taken all data that was sent to it."""
        self._sending_since = math.inf

    def waited_for_since(self, now: float) -> float:
        """Return the time since when the director waits for the client; infinity: it does not."""
        stopped_reading = self._sending_since if now >= self._sending_since + TAKE_WITHIN else math.inf
        return min(self._idle_since, stopped_reading)


class Places:
    """The places of one listener."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: set[Place] = set()

    def add(self, place: Place) -> None:
        self._places.add(place)

    def remove(self, place: Place) -> None:
        self._places.discard(place)

    def make_room(self, address: str) -> bool:
        """Close the connection that the director has waited for longest, from this address or from any ("").

        Returns:
            Whether there was a connection that can be spared.
        """
        now = self._clock()
        found = (one for one in self._places if address in ("", one.address))
        place = min(found, key=lambda one: one.waited_for_since(now), default=None)
        if place is None or place.waited_for_since(now) == math.inf:
            return False
        self.remove(place)
        place.close()
        return True


class StreamPlace(Place):
    """The place of a client whose handler is a coroutine.

    Enter it inside the block that closes the stream.
    """

    def __init__(self, address: str = "") -> None:
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + FIRST_WITHIN)
        super().__init__(address, self._scope.cancel, time.monotonic())

    def __enter__(self) -> StreamPlace:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._scope.__exit__(kind, error, traceback)

    def begin(self) -> bool:
        """Note that a complete line or request is about to be run.

        False: do not run it, the connection is being closed.
        """
        self._scope.deadline = math.inf
        self.set_busy()
        return not self._scope.cancel_called

    def end(self) -> None:
        """Note that the line or request has been run."""
        self.set_idle(time.monotonic())

    async def send(self, stream: ByteStream, data: bytes) -> None:
        """Send a part of an answer."""
        self.set_sending(time.monotonic())
        try:
            await stream.send(data)
        finally:
            self.set_taken()
