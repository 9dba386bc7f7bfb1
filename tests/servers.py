"""Servers that tests start for real, each in its own folder, on loopback only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.needs import SEARCH, needs

START_WITHIN = 30.0
"""Seconds that a server may take until it answers."""


class RedisServer:
    """A redis-server on a Unix socket, and on a port of 127.0.0.1 if `port` is given.

    Use it as a context manager, or call start() and close(). `password` is that of the default user.
    `tls_port` is a port for TLS, with the server's own `certificate` or that of another server
    (`certificate_of`). With `appendonly` the data survive stop and kill. `options` are lines of the
    configuration. With `sentinel` it is a sentinel.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        password: str = "",
        tls_port: int = 0,
        appendonly: bool = False,
        certificate_of: RedisServer | None = None,
        options: dict[str, str] | None = None,
        sentinel: bool = False,
    ) -> None:
        needs("redis-server")
        self.folder = Path(
            tempfile.mkdtemp(prefix="redis-")
        )  # short: the path of a socket has 107 bytes at most
        self.socket = self.folder / "s"
        self.port = port
        self.password = password
        self.tls_port = tls_port
        self.certificate = self.folder / "certificate.pem"
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        lines = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes" if appendonly else "no",
            "logfile": str(self.folder / "log"),
        }
        if password:
            lines["requirepass"] = password
        if tls_port:
            if certificate_of:
                self.certificate = certificate_of.certificate
                key = certificate_of.folder / "key.pem"
            else:
                key = self._certify()
            lines |= {
                "tls-port": str(tls_port),
                "tls-cert-file": str(self.certificate),
                "tls-key-file": str(key),
            }
            lines |= {"tls-ca-cert-file": str(self.certificate), "tls-auth-clients": "no"}
        lines.update(options or {})
        if sentinel:
            del lines["save"], lines["appendonly"]  # a sentinel keeps its state in its configuration
        config = "".join(f"{key} {value}\n" for key, value in lines.items())
        (self.folder / "redis.conf").write_text(config)

    @property
    def url(self) -> str:
        """The URL of its socket, with the password if it has one."""
        return f"unix://{f':{self.password}@' if self.password else ''}{self.socket}"

    @property
    def tcp_url(self) -> str:
        """The URL of its port, with the password if it has one."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the Redis server is not running"
        return self._process.pid

    def start(self) -> RedisServer:
        """Start the server, and wait until it answers."""
        self.begin()
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until the server answers."""
        self._wait_for(b"+PONG")

    @property
    def running(self) -> bool:
        """Whether the server was started and not ended."""
        return self._process is not None

    def start_loading(self) -> None:
        """Start the server, and wait until it says that it is loading its data."""
        self.begin()
        self._wait_for(b"-LOADING")

    def begin(self) -> None:
        """Start the server without waiting."""
        program = shutil.which("redis-server", path=SEARCH)
        assert program is not None
        command = [program, str(self.folder / "redis.conf"), *(["--sentinel"] if self._sentinel else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """End the server as an init system does. Nothing happens if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server. Nothing happens if it does not run."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Suspend the server, with its connections left open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the suspended server."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one command over the socket, as the default user. Returns the raw answer."""
        login = [("AUTH", self.password)] if self.password else []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_WITHIN)
            connection.connect(str(self.socket))
            end = [] if self._sentinel else [("QUIT",)]  # sentinels do not know QUIT
            connection.sendall(b"".join(_packed(*command) for command in (*login, words, *end)))
            if self._sentinel:
                connection.shutdown(socket.SHUT_WR)
            answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        answers = answers.removeprefix(b"+OK\r\n" if login else b"")
        return answers if self._sentinel else answers.removesuffix(b"+OK\r\n")

    def close(self) -> None:
        """Kill the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _certify(self) -> Path:
        """Make `certificate` for 127.0.0.1. Returns the file of its key."""
        needs("openssl")
        key = self.folder / "key.pem"
        request = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        )
        command = [*request.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*command, *files], check=True, capture_output=True)
        return key

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_WITHIN)
            self._process = None

    def _wait_for(self, answer: bytes) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_WITHIN
        while not self._ping().startswith(answer):
            assert self._process.poll() is None, f"redis-server ended: {self._log()}"
            assert time.monotonic() < deadline, f"redis-server does not answer {answer!r}: {self._log()}"
            time.sleep(0.01)

    def _ping(self) -> bytes:
        try:
            return self.command("PING")
        except OSError:
            return b""

    def _log(self) -> str:
        log = self.folder / "log"
        return log.read_text()[-2000:] if log.exists() else "it wrote no log"


def _packed(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that no program used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
