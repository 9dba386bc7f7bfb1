"""The places of a listener: which connection is closed when the listener is full and another client comes.

The client that the director has been waiting for longest loses its place: a client that has not said what it
wants, that wants nothing at the moment, or that has stopped reading an answer. A client that waits for the
director keeps its place, however long that takes. While there are free places, a client loses its own only
where it does not send a first whole line or request within FIRST_WITHIN seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

import anyio
from anyio.abc import ByteStream

FIRST_WITHIN = 10.0
"""Seconds from the beginning of a connection until its first whole line or request."""
TAKE_WITHIN = 10.0
"""Seconds in which a client takes a part of an answer: afterwards it counts as one that is waited for."""


class Place:
    """What one client is doing."""

    def __init__(self, address: str, close: Callable[[], object], now: float) -> None:
        """
        Args:
            address: of the client; empty where it has none.
            close: closes the connection.
            now: of time.monotonic(), as all times here. The loop's own clock may have steps of 1 ms, in which
                many clients can come.
        """
        self.address, self.close = address, close
        self._idle_since = now
        """Since when it has been waited for; infinity: it is not."""
        self._sending_since = math.inf
        """Since when it has not taken what it was sent."""

    def set_idle(self, now: float) -> None:
        """The client is waited for, and has been since `now`, or since before."""
        self._idle_since = min(self._idle_since, now)

    def set_busy(self) -> None:
        """The client waits for the director."""
        self._idle_since = math.inf

    def set_sending(self, now: float) -> None:
        """The client is to take something."""
        self._sending_since = now

    def set_taken(self) -> None:
        """The client has taken everything."""
        self._sending_since = math.inf

    def waited_for_since(self, now: float) -> float:
        """Since when the client has been waited for; infinity: it is not."""
        stopped_reading = self._sending_since if now >= self._sending_since + TAKE_WITHIN else math.inf
        return min(self._idle_since, stopped_reading)


class Places:
    """Those of one listener."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: set[Place] = set()

    def add(self, place: Place) -> None:
        self._places.add(place)

    def remove(self, place: Place) -> None:
        self._places.discard(place)

    def make_room(self, address: str) -> bool:
        """Close the connection that has been waited for longest, of this address or of any (""). False: there
        is none that can be spared."""
        now = self._clock()
        found = (one for one in self._places if address in ("", one.address))
        place = min(found, key=lambda one: one.waited_for_since(now), default=None)
        if place is None or place.waited_for_since(now) == math.inf:
            return False
        self.remove(place)
        place.close()
        return True


class StreamPlace(Place):
    """That of a client whose handler is a coroutine. `with` it inside the block that closes the stream."""

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
        """A whole line or request is to be carried out. False: no longer, the connection is being closed."""
        self._scope.deadline = math.inf
        self.set_busy()
        return not self._scope.cancel_called

    def end(self) -> None:
        """It has been carried out."""
        self.set_idle(time.monotonic())

    async def send(self, stream: ByteStream, data: bytes) -> None:
        """Send a part of an answer."""
        self.set_sending(time.monotonic())
        try:
            await stream.send(data)
        finally:
            self.set_taken()
