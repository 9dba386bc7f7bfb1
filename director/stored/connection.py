"""The connection of the director with its store: its states, and what is logged of its loss."""

from __future__ import annotations

from enum import Enum

from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.transitions import check
from state.base import StoreError, StoreRefused


class State(Enum):
    CLOSED = "closed"
    """Not opened yet, or closed again."""
    LOADING = "loading"
    """It answers and its documents are in memory; its users are being read, and logins are answered."""
    CONNECTED = "connected"
    """Memory holds all that the store held, and changes are written behind."""
    DISCONNECTED = "disconnected"
    """It does not answer, or it is another store than before: it has to be read before it is written."""


TRANSITIONS = {
    # CONNECTED: the director is stopped while it opens the store.
    State.CLOSED: frozenset({State.LOADING, State.CONNECTED, State.DISCONNECTED}),
    State.LOADING: frozenset({State.CONNECTED, State.DISCONNECTED, State.CLOSED}),
    State.CONNECTED: frozenset({State.DISCONNECTED, State.CLOSED}),
    State.DISCONNECTED: frozenset({State.CONNECTED, State.CLOSED}),
}
"""Where a connection may go from each state."""


class Connection:
    def __init__(self, url: str) -> None:
        self.state = State.CLOSED
        self.run_id = ""
        """Of the store that memory was last compared with; empty: of none."""
        self.error: str | None = None
        """Why the store is unreachable."""
        self.errors: dict[str, int] = {}
        """How often an operation has failed, for the metrics."""
        self._url = url
        self._reported: tuple[type[StoreError], str] | None = None
        """The kind of error that was logged; None: there is none."""

    @property
    def is_up(self) -> bool:
        """Whether the store can be relied on."""
        return self.state in (State.LOADING, State.CONNECTED)

    def enter(self, state: State) -> None:
        """Raises WrongTransition."""
        check(TRANSITIONS, self.state, state)
        self.state = state

    def established(self, state: State, run_id: str) -> None:
        """The store of this run id has been compared with memory."""
        self.enter(state)
        self.run_id = run_id
        self.error = self._reported = None

    def lost(self) -> None:
        if self.state is not State.DISCONNECTED:
            self.enter(State.DISCONNECTED)

    def failed(self, operation: str, error: StoreError) -> list[LogEvent]:
        """The store did not carry out an operation. What is to be logged: each kind of error once."""
        self.errors[operation] = self.errors.get(operation, 0) + 1
        self.error = str(error)
        kind = type(error), error.code if isinstance(error, StoreRefused) else ""
        if kind == self._reported:
            return []
        self._reported = kind
        fields = {"store": self._url, "operation": operation, "reason": str(error)}
        return [LogEvent(Level.ERROR, "store_away", fields)]
