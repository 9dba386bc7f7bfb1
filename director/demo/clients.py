"""IMAP clients that log in and report which backend served them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

TIMEOUT = 30.0
SERVED_BY = re.compile(rb'^\* ID \("name" "([^"]+)"')


class Refused(Exception):
    """The server refused a command. `reply` is its answer."""

    def __init__(self, reply: str) -> None:
        self.reply = reply
        super().__init__(reply)


class Login(NamedTuple):
    """The result of a login attempt."""

    user: str
    via: str
    """Address of the proxy."""
    backend: str | None
    """Name of the backend; None if the login failed."""
    error: str | None
    began: float
    """Monotonic seconds."""
    seconds: float


class Connection:
    """A line-based connection; closed at the end of its `with` block."""

    def __init__(self, address: str, port: int, timeout: float = TIMEOUT) -> None:
        self._socket = socket.create_connection((address, port), timeout=timeout)
        self._stream = self._socket.makefile("rwb")

    def send(self, line: str) -> None:
        self._stream.write(line.encode() + b"\r\n")
        self._stream.flush()

    def read(self) -> bytes:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        return line.rstrip(b"\r\n")

    def close(self) -> None:
        with suppress(OSError):  # the server has closed the connection before everything was sent
            self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Imap(Connection):
    """An IMAP session: greeting read, not yet logged in."""

    def __init__(self, address: str, port: int, timeout: float = TIMEOUT) -> None:
        super().__init__(address, port, timeout)
        try:
            self.greeting = self.read().decode()
        except BaseException:
            self.close()
            raise

    def command(self, text: str) -> list[bytes]:
        """Send a command and return its untagged replies.

        Raises:
            Refused: the tagged reply is not OK.
        """
        self.send(f"a {text}")
        replies = []
        while not (line := self.read()).startswith(b"a "):
            replies.append(line)
        if not line.startswith(b"a OK"):
            raise Refused(line.decode())
        return replies

    def login(self, user: str, password: str) -> None:
        self.command(f'LOGIN "{user}" "{password}"')

    def served_by(self) -> str:
        """The name of the server; after a login through a proxy, the name of the backend host."""
        for reply in self.command("ID NIL"):
            if match := SERVED_BY.match(reply):
                return match.group(1).decode()
        raise Refused("the server does not give its name in reply to ID")


def login_imap(address: str, port: int, user: str, password: str = "any", timeout: float = TIMEOUT) -> str:
    """Log in and out, and return the name of the backend.

    Raises:
        Refused: the server refused the login.
        OSError: the connection failed.
    """
    with Imap(address, port, timeout) as session:
        session.login(user, password)
        backend = session.served_by()
        session.command("LOGOUT")
        return backend


def attempt(address: str, port: int, user: str, password: str = "any", timeout: float = TIMEOUT) -> Login:
    """Try an IMAP login, and return its result, also if it fails."""
    began = time.monotonic()
    try:
        backend = login_imap(address, port, user, password, timeout)
    except (Refused, OSError) as error:
        return Login(user, address, None, str(error) or type(error).__name__, began, time.monotonic() - began)
    return Login(user, address, backend, None, began, time.monotonic() - began)


def login_many(
    users: Sequence[str],
    proxies: Sequence[str],
    port: int,
    *,
    rate: float | None = None,
    parallel: int = 30,
    timeout: float = TIMEOUT,
    done: Callable[[Login], None] = lambda login: None,
) -> list[Login]:
    """Log all users in over IMAP, each at the next proxy in turn.

    Args:
        rate: logins to start a second; None: as many as `parallel` allows.
        done: called after each login, in any thread.

    Returns:
        The results in the order of users.
    """
    begin = time.monotonic()

    def one(number: int) -> Login:
        if rate is not None:
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        login = attempt(proxies[number % len(proxies)], port, users[number], timeout=timeout)
        done(login)
        return login

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(one, range(len(users))))


def failures(logins: Iterable[Login]) -> list[Login]:
    """The logins that failed."""
    return [login for login in logins if login.error is not None]
