"""A director with all listeners, and hostile clients."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.e2e.processes import GREETING, DirectorProcess, auth_answer, connect
from tests.servers import free_port

ADDRESS = "127.0.7.1"
UNIX = ("login", "userdb", "admin", "authreply", "socketmap", "api")
TCP = ("admin-tcp", "socketmap-tcp", "http", "ring")
HOST_LIST = b"VERSION\tdirector-doveadm\t1\t0\nHOST-LIST\n"


class ManyAuths:
    """An auth service for thousands of connections in a single thread. Use it as a context manager."""

    def __init__(self, *paths: Path) -> None:
        self._selector = selectors.DefaultSelector()
        self._rests: dict[socket.socket, bytes] = {}
        self._over = False
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1024)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over:
            for key, _ in self._selector.select():
                if key.data is not None:
                    key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._rests[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, self._answer)
        with suppress(OSError):
            connection.sendall(GREETING)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = connection.recv(1 << 18)
        if not data:
            self._selector.unregister(connection)
            del self._rests[connection]
            connection.close()
            return
        *lines, self._rests[connection] = (self._rests[connection] + data).split(b"\n")
        answers = b"".join(auth_answer(line) for line in lines)
        with suppress(OSError):
            connection.sendall(answers)

    def __enter__(self) -> ManyAuths:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._wake.close()


class Target:
    """A director that is attacked."""

    def __init__(self, director: DirectorProcess, places: dict[str, Any]) -> None:
        self.director, self.places = director, places

    def connect(self, name: str, *, source: str = "") -> socket.socket:
        """Return a connection to a listener. `source`: the address to connect from."""
        place = self.places[name]
        if isinstance(place, Path):
            return connect(place)
        return socket.create_connection(place, timeout=20, source_address=(source, 0) if source else None)

    def reset(self, name: str, data: bytes = b"") -> None:
        """Connect, and reset the connection at once."""
        with self.connect(name) as sock:
            if data:
                sock.sendall(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def host_list(self, name: str = "admin", within: float = 20.0) -> bytes:
        """Return the admin socket's answer; empty: the connection was closed."""
        with self.connect(name) as sock:
            sock.settimeout(within)
            with suppress(ConnectionError):
                sock.sendall(HOST_LIST)
                answer = b""
                while not answer.endswith(b"\n\n"):
                    data = sock.recv(65536)
                    if not data:
                        return b""
                    answer += data
                return answer
        return b""

    def get(self, name: str, path: str, within: float = 20.0) -> int:
        """Return the status of an HTTP answer; 0: the connection was closed."""
        with self.connect(name) as sock:
            sock.settimeout(within)
            answer = b""
            with suppress(ConnectionError):
                sock.sendall(b"GET %s HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n" % path.encode())
                while data := sock.recv(65536):
                    answer += data
        return int(answer.split()[1]) if answer else 0

    def metric(self, name: str) -> float:
        """Return a sample of `/metrics` by its name there; 0: there is none."""
        _, page = self.director.request("GET", "/metrics")
        found = [line for line in page.decode().splitlines() if line.startswith(f"{name} ")]
        return float(found[0].split()[1]) if found else 0.0

    @property
    def memory(self) -> int:
        """Bytes of memory in use."""
        pages = Path(f"/proc/{self.director.pid}/statm").read_text().split()[1]
        return int(pages) * 4096


@contextmanager
def target(
    folder: Path, *, program: Sequence[str] = ("director",), settings: dict[str, str] | None = None
) -> Iterator[Target]:
    """Run a director with all kinds of sockets, with an auth service."""
    ports = {name: (ADDRESS, free_port()) for name in TCP}
    # loopback only: the director refuses other addresses here
    lines = {
        "listen.admin": f'tcp = "{ADDRESS}:{ports["admin-tcp"][1]}"\n',
        "listen.socketmap": f'path = "socketmap"\ntcp = "{ADDRESS}:{ports["socketmap-tcp"][1]}"\n',
        "http": f'listen = "{ADDRESS}:{ports["http"][1]}"\n',
        **(settings or {}),
    }
    director = DirectorProcess(
        folder, ADDRESS, ports["ring"][1], [], state="memory:", settings=lines, program=program
    )
    places: dict[str, Any] = {
        **ports,
        "login": director.login,
        "userdb": director.userdb,
        "admin": director.admin,
        "authreply": director.run / "director-authreply",
        "socketmap": director.run / "socketmap",
        "api": director.api_path,
    }
    with ExitStack() as stack:
        stack.enter_context(ManyAuths(director.auth_path, director.userdb_path))
        stack.callback(director.close)
        director.start()
        director.wait_ready()
        yield Target(director, places)
