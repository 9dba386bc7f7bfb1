"""Sessions of mail clients that stay open, to see which of them a director ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from director.demo.clients import Imap
from director.demo.cluster import Cluster
from tests.e2e.mailclients import Pop3


class Session(NamedTuple):
    user: str
    protocol: str
    proxy: str
    """The address of the proxy that it uses."""


class Sessions:
    """Logged-in clients. The open ones are closed at the end of the `with` block."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._open: dict[Session, Imap | Pop3] = {}

    def imap(self, user: str, proxies: Iterable[str] | None = None) -> list[Session]:
        """Open an IMAP session of a user through each of these proxies; None: through every proxy."""
        return [self._log_in(Session(user, "imap", proxy)) for proxy in self._through(proxies)]

    def pop3(self, user: str, proxies: Iterable[str] | None = None) -> list[Session]:
        return [self._log_in(Session(user, "pop3", proxy)) for proxy in self._through(proxies)]

    def both(self, user: str, proxies: Iterable[str] | None = None) -> list[Session]:
        """Open an IMAP and a POP3 session of a user through each proxy."""
        proxies = list(self._through(proxies))
        return self.imap(user, proxies) + self.pop3(user, proxies)

    def ended(self) -> list[Session]:
        """Return the sessions whose connection is closed; all others have answered."""
        return sorted(session for session, connection in self._open.items() if not answers(connection))

    def of(self, *users: str) -> list[Session]:
        return sorted(session for session in self._open if session.user in users)

    def served_by(self, session: Session) -> str:
        """Return the name of the backend that serves an IMAP session."""
        connection = self._open[session]
        assert isinstance(connection, Imap)
        return connection.served_by()

    def _log_in(self, session: Session) -> Session:
        kind, port = (
            (Imap, self._cluster.ports.imap)
            if session.protocol == "imap"
            else (Pop3, self._cluster.ports.pop3)
        )
        connection = kind(session.proxy, port)
        self._open[session] = connection
        connection.login(session.user, "any")
        return session

    def _through(self, proxies: Iterable[str] | None) -> Iterable[str]:
        return self._cluster.proxy_addresses if proxies is None else proxies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open.values():
            connection.close()


def answers(connection: Imap | Pop3) -> bool:
    """Whether the session is still served."""
    try:
        if isinstance(connection, Imap):
            connection.command("NOOP")
        else:
            connection.send("NOOP")
            connection.reply()
    except OSError:
        return False
    return True
