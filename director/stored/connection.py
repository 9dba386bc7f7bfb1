"""The director's connection with its store: its states, and the log lines about its loss."""

from __future__ import annotations

from enum import Enum

from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.transitions import check
from state.base import StoreError, StoreRefused


class ConnectionState(Enum):
    CLOSED = "closed"
    """It was not opened yet, or is closed again."""
    LOADING = "loading"
    """The store answers, and its documents are in memory. Its users are being read while logins are
    answered."""
    CONNECTED = "connected"
    """Memory has everything that the store had. Changes are written write-behind."""
    DISCONNECTED = "disconnected"
    """The store is unreachable, or is another store than before: it has to be read before it is written."""


UNREACHABLE_NOTE = "retrying; running directors answer logins from memory: do not stop all of them"

TRANSITIONS = {
    # CONNECTED: the director stops while it opens the store.
    ConnectionState.CLOSED: frozenset(
        {ConnectionState.LOADING, ConnectionState.CONNECTED, ConnectionState.DISCONNECTED}
    ),
    ConnectionState.LOADING: frozenset(
        {ConnectionState.CONNECTED, ConnectionState.DISCONNECTED, ConnectionState.CLOSED}
    ),
    ConnectionState.CONNECTED: frozenset({ConnectionState.DISCONNECTED, ConnectionState.CLOSED}),
    ConnectionState.DISCONNECTED: frozenset({ConnectionState.CONNECTED, ConnectionState.CLOSED}),
}
"""The states that may follow each state."""


class StoreConnection:
    def __init__(self, url: str) -> None:
        self.state = ConnectionState.CLOSED
        self.run_id = ""
        """The run id of the store that memory was last compared with; empty: there was none."""
        self.error: str | None = None
        """Why the store is unreachable."""
        self.errors: dict[str, int] = {}
        """How often each operation has failed, for the metrics."""
        self._url = url
        self._reported: tuple[type[StoreError], str] | None = None
        """The kind of error that was last logged; None: none since the store was reachable."""

    @property
    def is_up(self) -> bool:
        """Whether the store is reachable and may be relied on."""
        return self.state in (ConnectionState.LOADING, ConnectionState.CONNECTED)

    def enter(self, state: ConnectionState) -> None:
        """Change the state. Raises WrongTransition if TRANSITIONS does not permit it."""
        check(TRANSITIONS, self.state, state)
        self.state = state

    def established(self, state: ConnectionState, run_id: str) -> None:
        """Note that memory has been compared with the store of this run id."""
        self.enter(state)
        self.run_id = run_id
        self.error = self._reported = None

    def lost(self) -> None:
        if self.state is not ConnectionState.DISCONNECTED:
            self.enter(ConnectionState.DISCONNECTED)

    def failed(self, operation: str, error: StoreError) -> list[LogEvent]:
        """Note that the store did not carry out an operation.

        Returns:
            The log event, once for each kind of error.
        """
        self.errors[operation] = self.errors.get(operation, 0) + 1
        self.error = str(error)
        kind = type(error), error.code if isinstance(error, StoreRefused) else ""
        if kind == self._reported:
            return []
        self._reported = kind
        fields = {"store": self._url, "operation": operation, "reason": str(error), "note": UNREACHABLE_NOTE}
        return [LogEvent(Level.ERROR, "store_unreachable", fields)]
