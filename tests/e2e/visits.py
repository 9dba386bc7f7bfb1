"""Visits of a user by each protocol, with the same methods: begin, stay, be served by a backend."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Protocol

from director.demo.clients import Refused
from tests.e2e import mail
from tests.e2e.site import KINDS, Entrance

PROTOCOLS = (*KINDS, "lmtp", "doveadm")
SESSIONS = tuple(KINDS)
"""Protocols whose users stay connected. A delivery or a command has ended before any program could end it."""


class Visit(Protocol):
    """One use of a mail service: a session that stays open, a delivery, a command."""

    backend: str
    """The name of the backend that serves it."""

    def goes_on(self) -> bool:
        """Whether it is still served. This completes a delivery, and repeats a command."""

    def close(self) -> None: ...


def visit(entrance: Entrance, protocol: str, user: str, password: str = "any") -> Visit:
    """Begin a visit. Raises Refused or OSError if the user does not get in."""
    if protocol == "lmtp":
        return Delivery(entrance, user)
    if protocol == "doveadm":
        return Command(entrance, user, password)
    return Session(entrance, protocol, user, password)


def landed(entrance: Entrance, protocol: str, user: str) -> str:
    """Return the name of the backend of a visit that ends at once."""
    with closing(visit(entrance, protocol, user)) as guest:
        return guest.backend


def returned(entrance: Entrance, protocol: str, user: str) -> str:
    """Return the name of the backend of a visit after director or auth were unreachable for a while.

    A login process that was waiting for an answer tells that client, and none after it, to try again.
    """
    with suppress(Refused, ConnectionError):
        return landed(entrance, protocol, user)
    return landed(entrance, protocol, user)


class Session:
    """A session of IMAP, POP3, submission or ManageSieve, logged in."""

    def __init__(self, entrance: Entrance, protocol: str, user: str, password: str) -> None:
        self._link = entrance.connect(protocol)
        try:
            self.backend = entrance.site.landed(protocol, user, lambda: self._link.log_in(user, password))
        except BaseException:
            self._link.close()
            raise

    def goes_on(self) -> bool:
        try:
            self._link.noop()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._link.close()


class Delivery:
    """A mail whose recipient has been accepted. goes_on() sends its text."""

    def __init__(self, entrance: Entrance, user: str) -> None:
        self._entrance, self._user = entrance, user
        self._backend = ""
        self._link = self._accepted()

    @property
    def backend(self) -> str:
        """Complete the delivery, and return its backend: only then the delivery is in a backend's log."""
        if not self._backend:
            self._backend = self._entrance.site.landed("lmtp", self._user, self._link.data)
        return self._backend

    def goes_on(self) -> bool:
        return bool(self.backend)

    def _accepted(self) -> mail.Lmtp:
        # An idle lmtp of 2.3 notices only at its next request that auth or director have ended, and refuses
        # this mail temporarily.
        for _ in self._entrance.proxy.processes("lmtp"):
            with suppress(Refused):
                return self._offered()
        return self._offered()

    def _offered(self) -> mail.Lmtp:
        link = mail.Lmtp(self._entrance.address, self._entrance.site.ports.lmtp)
        try:
            link.recipient(self._user)
        except BaseException:
            link.close()
            raise
        return link

    def close(self) -> None:
        self._link.close()


class Command:
    """`doveadm mailbox list`, which shows the backend by its mailbox.

    If a password is given it uses the port of the proxy's doveadm, else it runs on the proxy itself.
    """

    def __init__(self, entrance: Entrance, user: str, password: str) -> None:
        self._entrance, self._user = entrance, user
        self._options: list[str] = []
        self._where: list[str] = []
        if password != "any":
            self._options = ["-o", f"doveadm_password={password}"]
            self._where = ["-S", f"{entrance.address}:{entrance.site.ports.doveadm}"]
        self.backend = self._run()

    def goes_on(self) -> bool:
        self.backend = self._run()
        return True

    def close(self) -> None: ...

    def _run(self) -> str:
        command = [*self._options, "mailbox", "list", *self._where, "-u", self._user]
        ran = self._entrance.proxy.doveadm(*command)
        if ran.returncode != 0:
            raise Refused(f"{ran.returncode}: {ran.stderr.strip()}")
        (name,) = [
            line.removeprefix("served by ") for line in ran.stdout.splitlines() if line.startswith("served")
        ]
        return name
