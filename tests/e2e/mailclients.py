"""Mail clients besides those of the demo, for POP3 and LMTP, and checks of many logins."""

from __future__ import annotations

from collections.abc import Iterable

from director.demo.clients import TIMEOUT, Connection, Login, Refused
from director.demo.dovecot import Backend
from tests.e2e.processes import until


class Pop3(Connection):
    """A POP3 session: the greeting is read, the client is not logged in yet."""

    def __init__(self, address: str, port: int, timeout: float = TIMEOUT) -> None:
        super().__init__(address, port, timeout)
        try:
            self.greeting = self.reply()
        except BaseException:
            self.close()
            raise

    def reply(self) -> str:
        line = self.read().decode()
        if not line.startswith("+OK"):
            raise Refused(line)
        return line

    def login(self, user: str, password: str) -> str:
        """Log in, and return the server's reply to the password."""
        self.send(f"USER {user}")
        self.reply()
        self.send(f"PASS {password}")
        return self.reply()


def login_pop3(address: str, port: int, user: str, password: str = "any", timeout: float = TIMEOUT) -> None:
    """Log in and out. The backend's log shows that it served the login. Raises Refused or OSError."""
    with Pop3(address, port, timeout) as session:
        session.login(user, password)
        session.send("QUIT")
        session.reply()


class Delivery(Connection):
    """An LMTP delivery of a short mail that has been sent up to the middle of its text."""

    def __init__(
        self, address: str, port: int, user: str, subject: str = "", timeout: float = TIMEOUT
    ) -> None:
        """Send the first half. Raises Refused or OSError."""
        super().__init__(address, port, timeout)
        try:
            self._expect("220")
            for text, expected in (
                ("LHLO client.example", "250"),
                ("MAIL FROM:<sender@example.com>", "250"),
                (f"RCPT TO:<{user}>", "250"),
                ("DATA", "354"),
            ):
                self.send(text)
                self._expect(expected)
            self.send(f"Subject: {subject}\r\n\r\nHello.")
        except BaseException:
            self.close()
            raise

    def finish(self) -> str:
        """Send the rest, and return the server's reply for the recipient."""
        self.send(".")
        reply = self._expect("250")
        self.send("QUIT")
        self._expect("221")
        return reply

    def _expect(self, code: str) -> str:
        while (line := self.read().decode())[3:4] == "-":
            continue
        if not line.startswith(code):
            raise Refused(line)
        return line


def deliver_lmtp(address: str, port: int, user: str, subject: str, timeout: float = TIMEOUT) -> str:
    """Deliver a short mail, and return the server's reply for the recipient. Raises Refused or OSError."""
    with Delivery(address, port, user, subject, timeout) as delivery:
        return delivery.finish()


def on_two_backends(logins: Iterable[Login]) -> dict[str, set[str]]:
    """Return the users that more than one backend served, with the backends' names."""
    seen: dict[str, set[str]] = {}
    for login in logins:
        if login.backend is not None:
            seen.setdefault(login.user, set()).add(login.backend)
    return {user: backends for user, backends in seen.items() if len(backends) > 1}


def backends_of(backends: Iterable[Backend], protocol: str, user: str) -> list[str]:
    """Return the names of the backends that have logged `user`, as soon as one has."""
    found: list[str] = until(
        lambda: [backend.name for backend in backends if user in backend.users(protocol)],
        what=f"a backend has logged {user}",
    )
    return found
