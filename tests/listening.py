"""Listeners for tests of the programs that serve them."""

from __future__ import annotations

import socket

from director.net.accept import Acceptor, Limits, Report
from director.net.descriptors import Descriptors


class Reports(Report):
    """Records what listeners report."""

    def __init__(self) -> None:
        self.pauses: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str, str]] = []
        self.failures: list[Exception] = []
        self.fatal = False
        """Whether all failures are fatal."""

    def accept_paused(self, listener: str, reason: str) -> None:
        self.pauses.append((listener, reason))

    def connection_refused(self, listener: str, limit: str, peer: str) -> None:
        self.refused.append((listener, limit, peer))

    def client_failed(self, listener: str, error: Exception) -> None:
        self.failures.append(error)

    def is_fatal(self, error: Exception) -> bool:
        return self.fatal


def acceptor(
    sock: socket.socket, limits: Limits | None = None, *, reports: Reports | None = None
) -> Acceptor:
    """Return an acceptor for a listening socket, which it closes."""
    sock.setblocking(False)
    return Acceptor("listener", sock, Descriptors(), reports or Reports(), limits)
