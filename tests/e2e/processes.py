"""Directors as processes, an auth service for them, and clients that behave like login processes.

No Dovecot is needed. The auth service decides by the user's name: `bad…` fails, `local…` is not proxied,
`fixed…` has a host already, all other users are to be proxied.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from director.demo.process import ServeProcess
from director.net import keeperlink
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
SECRET = "a secret of the ring, 32 bytes long"
BACKENDS = ("127.0.3.1-127.0.3.4",)
ANSWER_WITHIN = 30.0
"""Seconds that a client waits for an answer."""
LOG_WITHIN = 30
"""Seconds in which a director writes what it has logged."""
GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t4711\nCUID\t1\nCOOKIE\t0123456789abcdef\nDONE\n"


def until(condition: Callable[[], Any], *, within: float = 30.0, what: str = "") -> Any:
    """Return the result of `condition` as soon as it is true.

    It is called every 10 ms; fails after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s: {what or condition}"
        time.sleep(0.01)


def auth_line(number: int, user: str) -> bytes:
    """Return a request as imap-login sends it."""
    resp = base64.b64encode(b"\0" + user.encode() + b"\0secret").decode()
    return f"AUTH\t{number}\tPLAIN\tservice=imap\tresp={resp}\n".encode()


def pass_line(number: int, user: str) -> bytes:
    """Return a request as LMTP sends it."""
    return f"PASS\t{number}\t{user}\tservice=lmtp\n".encode()


def auth_answer(line: bytes) -> bytes:
    """Return the auth service's reply to a line (without LF); empty if the line is no request."""
    command, *fields = line.split(b"\t")
    if command == b"AUTH":
        resp = next(field for field in fields if field.startswith(b"resp="))
        user, reply = base64.b64decode(resp[5:]).split(b"\0")[1], b"OK"
    elif command == b"PASS":
        user, reply = fields[1], b"PASS"
    else:
        return b""
    number = fields[0]
    if user.startswith(b"bad"):
        return b"FAIL\t%s\tuser=%s\n" % (number, user)
    extra = b"" if user.startswith(b"local") else b"\tproxy"
    extra += b"\thost=192.0.2.9" if user.startswith(b"fixed") else b""
    return b"%s\t%s\tuser=%s%s\n" % (reply, number, user, extra)


class Auth:
    """An auth service on a unix socket. Use it as a context manager, or call start() and stop()."""

    def __init__(
        self,
        path: Path,
        *,
        answer: Callable[[bytes], bytes] = auth_answer,
        delay: float = 0.0,
        gather: int = 1,
        greeting: bytes = GREETING,
    ) -> None:
        """Prepare the service; it does not listen yet.

        Args:
            path: the path of the socket.
            answer: returns the reply to a line.
            delay: seconds before an answer.
            gather: answer so many requests together, in any order.
            greeting: sent first; empty: nothing is sent.
        """
        self.path, self.answer, self.delay, self.gather, self.greeting = path, answer, delay, gather, greeting
        self.accepted = 0
        self.received = b""
        """All bytes received, of all connections."""
        self.connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def start(self) -> Auth:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(100)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """End as in a crash: close the listener and all connections, and remove the socket."""
        if self._listener is not None:
            self.path.unlink(missing_ok=True)
            listener, self._listener = self._listener, None
            _end(listener)
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            _end(connection)

    def send(self, data: bytes) -> None:
        """Send data unasked on every connection."""
        for connection in list(self.connections):
            connection.sendall(data)

    def __enter__(self) -> Auth:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.accepted += 1
                self.connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        rest, answers = b"", []
        with suppress(OSError):
            connection.sendall(self.greeting)
            while data := connection.recv(1 << 18):
                self.received += data
                *lines, rest = (rest + data).split(b"\n")
                answers += [answer for line in lines if (answer := self.answer(line))]
                if self.greeting and len(answers) >= self.gather:
                    if self.gather > 1:
                        random.Random().shuffle(answers)
                    time.sleep(self.delay)
                    connection.sendall(b"".join(answers))
                    answers = []
        self.connections.discard(connection)
        connection.close()


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class Refused(Exception):
    """The answer to a login is not a host."""


class Client:
    """A login process, or LMTP with `passlines`. It retries until it can connect, as they do."""

    def __init__(self, path: Path, *, passlines: bool = False, within: float = ANSWER_WITHIN) -> None:
        self._line = pass_line if passlines else auth_line
        self.socket = connect(path, within)
        self.socket.sendall(b"VERSION\t1\t2\nCPID\t77\n")
        self.stream = self.socket.makefile("rb")
        self.greeting = b""
        while not self.greeting.endswith(b"DONE\n"):
            line = self.stream.readline()
            assert line, "closed before it was greeted"
            self.greeting += line

    def ask(self, users: Sequence[str], *, at_once: int = 500) -> dict[str, str]:
        """Return the host of each user. Raises Refused for any other answer."""
        hosts: dict[str, str] = {}
        for begin in range(0, len(users), at_once):
            waiting = dict(enumerate(users[begin : begin + at_once], begin + 1))
            self.socket.sendall(b"".join(self._line(number, user) for number, user in waiting.items()))
            while waiting:
                line = self.stream.readline()
                number = line.split(b"\t")[1] if line else b""
                host = host_in(line)
                hosts[waiting.pop(int(number))] = host
        return hosts

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def host_in(line: bytes) -> str:
    """Return the host that a reply names. Raises Refused."""
    for field in line.rstrip(b"\n").split(b"\t"):
        if field.startswith(b"host="):
            return field[5:].decode()
    raise Refused(line.decode(errors="replace") or "the connection was closed")


def connect(path: Path, within: float = ANSWER_WITHIN) -> socket.socket:
    """Return a connection to a unix socket, as soon as a process listens there."""

    def attempt() -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(within)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # the last: its queue is full
            sock.close()
            return None
        return sock

    found: socket.socket = until(attempt, within=within, what=f"a process listens on {path}")
    return found


def log_in(director: DirectorProcess, users: Sequence[str], *, at_once: int = 500) -> dict[str, str]:
    """Log in all users over a new connection, and return their hosts. Raises Refused."""
    with Client(director.login) as client:
        return client.ask(users, at_once=at_once)


def run_command(director: ServeProcess, *arguments: str, code: int = 0) -> CompletedProcess[str]:
    """Return the result of the director's command line. The command must end with `code`."""
    result = director.command(*arguments)
    assert result.returncode == code, (arguments, result)
    return result


def read_to_end(sock: socket.socket) -> bytes:
    """Return what is received until the other end closes, which is a reset if it has unread bytes."""
    data = b""
    with suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


def lines_of(log: str, event: str, text: str = "") -> list[str]:
    """Return the lines of an event that contain `text`."""
    return [line for line in log.splitlines() if f" event={event} " in f"{line} " and text in line]


class Login(NamedTuple):
    """One login of a `Load`."""

    at: str
    user: str
    host: str
    began: float
    seconds: float


class Load:
    """Logins in threads, one connection each, until the end of the `with` block. Failures are recorded."""

    def __init__(self, ports: dict[str, Path], users: Sequence[str], *, pause: float = 0.002) -> None:
        """Prepare the logins.

        Args:
            ports: the login socket of each director, by its name.
            users: the names of the users.
            pause: seconds between two logins of a thread.
        """
        self.users, self.pause = users, pause
        self.logins: list[Login] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=port) for port in ports.items()]

    def _run(self, name: str, path: Path) -> None:
        # Its own generator: Hypothesis fails a test during which another thread uses the global one.
        chance = random.Random()
        try:
            with Client(path) as client:
                while not self._over.is_set():
                    user, began = chance.choice(self.users), time.monotonic()
                    host = client.ask([user])[user]
                    self.logins.append(Login(name, user, host, began, time.monotonic() - began))
                    time.sleep(self.pause)
        except (Refused, OSError, AssertionError) as exc:
            self.failures.append(f"{name}: {exc!r}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def slowest(self) -> float:
        """The longest time of a login in seconds."""
        return max(login.seconds for login in self.logins)

    def on_two_hosts(self) -> dict[str, set[str]]:
        hosts: dict[str, set[str]] = {}
        for login in self.logins:
            hosts.setdefault(login.user, set()).add(login.host)
        return {user: found for user, found in hosts.items() if len(found) > 1}


class DirectorProcess(ServeProcess):
    """A director without Dovecot. The folder that would be Dovecot's `base_dir` is in its own folder."""

    def __init__(
        self,
        folder: Path,
        address: str,
        port: int,
        servers: Iterable[str],
        *,
        state: str = "sqlite:///state.db",
        secret: str = SECRET,
        backends: Sequence[str] = BACKENDS,
        settings: Mapping[str, str] | None = None,
        program: Sequence[str] = ("director",),
        python: str = sys.executable,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the director. The other arguments are those of ServeProcess.

        Args:
            servers: the members of the ring; empty: the director runs alone.
            secret: the secret of the ring.
        """
        super().__init__(
            folder, f"{address}:{port}", folder / "run", program=program, python=python, environ=environ
        )
        self.auth_path = self.run / "auth-login"
        self.userdb_path = self.run / "auth-userdb"
        self.login = self.run / "login/director/login"
        self.userdb = self.run / "director-userdb"
        self.fifo = self.run / "login/director/proxy-notify"
        self.admin = self.run / "director-admin"
        self.run.mkdir(parents=True)
        secret_file = folder / "secret"
        secret_file.touch(0o600)
        secret_file.write_text(secret)
        self.write(
            state=state,
            servers=list(servers) or [self.member],
            secret=Path(secret_file.name),
            backends=backends,
            settings=settings,
        )

    def wait(self, within: float = 30.0) -> int:
        """Wait until it ends by itself. Returns the exit code."""
        assert self.process is not None
        return self.process.wait(within)

    def ended(self) -> bool:
        return self.process is not None and not self.running

    def close(self) -> None:
        """Kill the director and its keeper."""
        self.kill()
        path = self.run / "director-keeper"
        with suppress(
            keeperlink.KeeperError, FileNotFoundError
        ):  # its folder may stay, and the keeper with it
            os.kill(keeperlink.status(str(path), path.stat().st_uid).process, signal.SIGKILL)

    def logged(self, event: str, text: str = "") -> list[str]:
        """Return the lines of an event that contain `text`, as far as they are written: for `until`."""
        return lines_of(self.log, event, text)

    def wait_logged(self, event: str, text: str = "", *, times: int = 1) -> list[str]:
        """Return all lines of an event that contain `text`, once there are at least `times`."""
        until(lambda: len(self.logged(event, text)) >= times, what=f"{event} {text}:\n{self.log[-2000:]}")
        return self.all_logged(event, text)

    def all_logged(self, event: str, text: str = "") -> list[str]:
        """Return all lines of an event that contain `text` and were logged before this call."""
        return lines_of(self.complete_log(), event, text)

    def complete_log(self) -> str:
        """Return the log with all that was logged before this call: a thread writes the log, and may be late.

        A greeting that is refused marks the end. One is sent each second, because a flood of refused
        greetings is not logged in full.
        """
        mark, marks = f"mark-{secrets.token_hex(8)}", 0
        while not self.ended() and mark not in self.log:
            assert marks < LOG_WITHIN, f"the log is not written:\n{self.log[-2000:]}"
            marks += 1
            with connect(self.admin) as sock:
                sock.sendall(f"{mark}\n".encode())
                read_to_end(sock)
            with suppress(AssertionError):
                until(lambda: mark in self.log, within=1.0)
        return self.log

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return an answer of its API, as soon as that is served."""
        connect(self.api_path).close()
        return super().request(method, path, body)

    def change(self, method: str, path: str, body: Any = None) -> Any:
        """Make a change, and return the answer, which comes when every director has the change."""
        status, answer = self.request(method, path, body)
        assert status == 200, answer
        return json.loads(answer)

    def hosts(self) -> list[tuple[str, str, int, bool]]:
        """Return address, tag, weight and whether it is up, of each backend."""
        return [(h["address"], h["tag"], h["weight"], h["up"]) for h in self.get("/v1/hosts")]

    def users(self) -> int:
        count: int = self.get("/v1/status")["users"]
        return count

    def wait_whole(self, members: int, within: float = 30.0) -> None:
        """Wait until `members` directors are in the ring."""
        self.wait_ready(within)
        until(lambda: len(self.get("/v1/ring")["ring"]) == members, within=within, what=self.log[-2000:])


class Directors:
    """Directors in one ring, each with an auth service. The context manager starts them all."""

    def __init__(
        self,
        folder: Path,
        *,
        first: str = "127.0.2.11",
        count: int = 3,
        each: Sequence[Mapping[str, Any]] = (),
        auths: bool = True,
        **common: Any,
    ) -> None:
        """Prepare the directors.

        Args:
            first: the first address; the other addresses follow it.
            common: arguments of each DirectorProcess.
            each: further arguments of the first, second, … director.
            auths: whether there are auth services; else the caller starts some.
        """
        head, _, last = first.rpartition(".")
        addresses = [f"{head}.{int(last) + number}" for number in range(count)]
        port = free_port()
        servers = [f"{address}:{port}" for address in addresses]
        self.auths: list[Auth] = []
        self.all: list[DirectorProcess] = []
        for number, address in enumerate(addresses):
            options = dict(each[number]) if number < len(each) else {}
            director = DirectorProcess(folder / f"d{number + 1}", address, port, servers, **common | options)
            self.all.append(director)
            if auths:
                self.auths += [Auth(director.auth_path), Auth(director.userdb_path)]
        self._stack = ExitStack()

    def __getitem__(self, number: int) -> DirectorProcess:
        return self.all[number]

    def __enter__(self) -> Directors:
        with ExitStack() as stack:
            for auth in self.auths:
                stack.enter_context(auth)
            for director in self.all:
                stack.callback(director.close)
                director.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> Directors:
        for director in self.all:
            director.start()
        return self

    def stop(self) -> None:
        """Stop all at once, as when all machines are shut down."""
        for director in self.all:
            director.send(signal.SIGTERM)
        for director in self.all:
            director.wait()

    def wait_whole(self) -> None:
        for director in self.all:
            director.wait_whole(len(self.all))

    @property
    def logins(self) -> dict[str, Path]:
        return {director.member: director.login for director in self.all}
