"""The HTTP client of the command line: one director, one connection, no dependencies.

It uses the standard library, which takes 0.05 s to import. A complete client takes 0.25 s, more than the rest
of a command.
"""

from __future__ import annotations

import http.client
import re
import socket
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from director.cli.permission import refusal_reason
from director.errors import EX_REFUSED, EX_TRY_AGAIN, EX_UNAVAILABLE, EX_USAGE, DirectorError
from director.records import Problem

EX_INTERRUPTED = 130
"""The exit code that a shell reports for a process that SIGINT ended."""

CONNECT_TIMEOUT = 5.0
"""Seconds."""

READ_TIMEOUT = 15.0
"""Seconds. A reading request never waits for the ring: a director that does not answer in time is not up."""

ANSWER_TIMEOUT = 70.0
"""Seconds. A change may wait for the ring twice, 30 s each, and then for the store."""

T = TypeVar("T")


class Failure(DirectorError):
    """A command that cannot be carried out. The text is the line that the operator reads."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Denied(Failure):
    """A request that the director refused. The director answers, so other requests may succeed."""


class Client:
    """Sends requests to one director."""

    def __init__(self, where: str, *, token: str | None = None, config: str = "") -> None:
        """Open no connection yet.

        Args:
            where: the path of a unix socket, or `http://HOST:PORT`.
            token: sent over TCP only.
            config: path of the configuration file. If the socket is refused, the error names the listener
                that this file puts there. Empty: there is no file.

        Raises:
            Failure: `where` is a URL of another form.
        """
        self.where, self._config = where, config
        self._headers: dict[str, str] = {}
        self._connection: http.client.HTTPConnection
        if "://" not in where:
            self._connection = _UnixConnection(where)
            return
        self._connection = _tcp_connection(where)
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> bytes:
        """The JSON document at `path`."""
        return self.page(path)[0]

    def page(self, path: str) -> tuple[bytes, str | None]:
        """The JSON document at `path`, and the path of the next page, or None on the last page."""
        body, link = self._exchange("GET", path, None)
        following = re.fullmatch(r'<([^>]*)>; rel="next"', link or "")
        return body, following[1] if following else None

    def change(self, method: str, path: str, body: msgspec.Struct | None = None) -> bytes:
        """Make a change and return the answer, which comes when every director has the change.

        Raises:
            Denied: the director refuses the change.
            Failure: there is no answer, or not that of a director; or Ctrl-C interrupted the request.
        """
        # Use a new connection. The director may close an idle connection while the request is on its way, and
        # then it would not be known whether the change was made.
        self.close()
        try:
            return self._exchange(method, path, msgspec.json.encode(body) if body is not None else None)[0]
        except KeyboardInterrupt:
            raise Failure(
                f"{self.where}: interrupted before the director answered; the change may still be made, "
                "`director status` shows it",
                EX_INTERRUPTED,
            ) from None

    def decode(self, body: bytes, kind: type[T]) -> T:
        """Decode an answer.

        Raises:
            Failure: the answer is not a record of this kind.
        """
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Failure(
                f"{self.where}: unexpected answer ({error}); check that a director of this release listens "
                "there",
                EX_UNAVAILABLE,
            ) from None

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[bytes, str | None]:
        kept = self._connection.sock is not None
        try:
            return self._send(method, path, body)
        except ConnectionError as error:
            # The director closes idle connections. A pager can keep a command waiting for longer than that.
            if not kept:
                raise self._unreachable(error.strerror or "connection closed") from None
            self.close()
            return self._exchange(method, path, body)
        except TimeoutError:
            raise self._timed_out(method) from None
        except PermissionError as error:
            raise self._forbidden(error) from None
        except OSError as error:
            raise self._unreachable(error.strerror or str(error)) from None
        except http.client.HTTPException as error:
            raise Failure(
                f"{self.where}: the program that listens there is not a director ({type(error).__name__}); "
                "-S names another socket",
                EX_UNAVAILABLE,
            ) from None

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[bytes, str | None]:
        connection = self._connection
        fresh = connection.sock is None
        if fresh:
            connection.timeout = CONNECT_TIMEOUT
            connection.connect()
        connection.sock.settimeout(READ_TIMEOUT if method == "GET" else ANSWER_TIMEOUT)
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise self._denied(response.status, answer)
        return answer, response.headers.get("Link")

    def _denied(self, status: int, answer: bytes) -> Failure:
        try:
            problem = msgspec.json.decode(answer, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError):
            code = EX_TRY_AGAIN if status == 503 else EX_UNAVAILABLE
            return Failure(f"{self.where}: refused with HTTP status {status} and no reason", code)
        if status == 401:
            return Failure(f"{self.where}: {problem.detail}; set DIRECTOR_TOKEN to that token", EX_REFUSED)
        if status == 403:
            return Failure(f"{self.where}: {problem.detail}", EX_REFUSED)
        return Denied(problem.detail or problem.title, problem.exit_code)

    def _forbidden(self, error: PermissionError) -> Failure:
        if "://" in self.where:  # TCP has no file whose mode could refuse us, so a firewall rule does
            return self._unreachable(f"{error.strerror}: a firewall of this machine forbids it")
        return Failure(f"{self.where}: {refusal_reason(self.where, self._config)}", EX_UNAVAILABLE)

    def _timed_out(self, method: str) -> Failure:
        if self._connection.sock is None:
            return self._unreachable("no answer in time")
        if method == "GET":
            return Failure(
                f"{self.where}: no answer within {READ_TIMEOUT:.0f} s: the director is starting, cannot "
                "start, or hangs; its log says which",
                EX_UNAVAILABLE,
            )
        return Failure(
            f"{self.where}: no answer within {ANSWER_TIMEOUT:.0f} s; the change may still be made, "
            "`director status` shows it",
            EX_TRY_AGAIN,
        )

    def _unreachable(self, why: str) -> Failure:
        return Failure(
            f"{self.where}: no director answers there ({why}); start it, or name another director with -S",
            EX_UNAVAILABLE,
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


def _tcp_connection(url: str) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.username:
        raise Failure(f"-S {url}: write it as http://HOST:PORT, or as the path of a unix socket", EX_USAGE)
    return http.client.HTTPConnection(host, port)
