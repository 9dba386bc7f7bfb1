"""The listeners of a director: their limits, counters and warnings."""

from __future__ import annotations

import time
from collections.abc import Callable

from director.core.director import Director
from director.net.accept import ADDRESS, Acceptor, Limits, Report
from director.net.descriptors import Descriptors
from director.service.configuration.config import LimitsConfig
from director.service.internalerrors import InternalErrors
from director.service.lifecycle.sockets import ADMIN_TCP, SOCKETMAP_TCP, Sockets
from director.service.log import LimitedLog, Log
from director.service.mailbox import Mailbox
from director.types import Address

SHARE = 16
"""A limited listener gets at most 1/`SHARE` of the descriptors."""
FEWEST = 4
"""Connections that a limited listener gets, even if there are few descriptors."""
MINUTE = 60.0
LIMITED = ("authreply", "admin", ADMIN_TCP, "socketmap", SOCKETMAP_TCP, "api", "http", "ring")
"""Listeners with a limit. login and userdb have none."""
FOR_OPERATORS = ("admin", ADMIN_TCP, "api", "http")


class Listeners(Report):
    def __init__(
        self,
        sockets: Sockets,
        director: Director,
        mailbox: Mailbox,
        internal_errors: InternalErrors,
        log: Log,
        config: LimitsConfig,
    ) -> None:
        """mailbox: holds the core's last error, which ends the program."""
        self.pauses: dict[str, int] = {}
        """listener -> number of pauses for want of descriptors or memory."""
        self.refused: dict[tuple[str, str], int] = {}
        """(listener, limit) -> number of connections closed because of the limit."""
        self.counted_elsewhere: dict[str, Callable[[], int]] = {}
        """Counters of the listeners that also have connections of a predecessor."""
        self._sockets, self._director, self._mailbox, self._internal_errors = (
            sockets,
            director,
            mailbox,
            internal_errors,
        )
        self._limited = LimitedLog(log, burst=1, every=MINUTE)
        self._descriptors = Descriptors()
        self._limits = Limits(0)
        self._ring_limits = Limits(0)
        self._acceptors: list[Acceptor] = []
        self.set_limits(config)

    def set_limits(self, config: LimitsConfig) -> None:
        """Set the limits for new connections."""
        most = max(FEWEST, self._descriptors.most // SHARE)
        self._limits.set(min(config.connections, most), config.connections_per_address)

    def acceptor(self, name: str) -> Acceptor | None:
        """Return an acceptor for the listener of this name; None if the listener is off."""
        sock = self._sockets.get(name)
        if sock is None:
            return None
        made = Acceptor(
            name,
            sock,
            self._descriptors,
            self,
            self._limits if name in LIMITED else None,
            exempt=self._is_member if name == "ring" else lambda address: False,
            for_operators=name in FOR_OPERATORS,
        )
        self._acceptors.append(made)
        return made

    def _is_member(self, address: str) -> bool:
        return self._director.ring.knows(Address(address))

    def close(self) -> None:
        """Release the spare descriptor."""
        self._descriptors.close()

    def connections(self) -> dict[str, int]:
        """Return the number of open connections by listener."""
        return {acceptor.name: acceptor.connections for acceptor in self._acceptors} | {
            name: count() for name, count in self.counted_elsewhere.items()
        }

    # ---- reports of acceptors

    def accept_paused(self, listener: str, reason: str) -> None:
        self.pauses[listener] = self.pauses.get(listener, 0) + 1
        self._limited.warning(
            time.monotonic(),
            "accept_paused",
            listener,
            listener=listener,
            reason=reason,
            descriptors=self._descriptors.most,
            note="connections wait in the kernel, retrying every 0.1 s; raise LimitNOFILE=",
        )

    def connection_refused(self, listener: str, limit: str, peer: str) -> None:
        self.refused[listener, limit] = self.refused.get((listener, limit), 0) + 1
        per_address = limit == ADDRESS
        key = "limits.connections_per_address" if per_address else "limits.connections"
        most = self._limits.per_address if per_address else self._limits.in_all
        self._limited.warning(
            time.monotonic(),
            "connection_limit_reached",
            f"{listener} {limit}",
            listener=listener,
            peer=peer,
            limit=most,
            key=key,
            note="a connection is closed: the longest idle or this one; raise the limit if it is no attack",
        )

    def client_failed(self, listener: str, error: Exception) -> None:
        self._internal_errors.record(
            "serving a client failed; its connection is closed", error, listener=listener
        )

    def is_fatal(self, error: Exception) -> bool:
        return error is self._mailbox.failure
