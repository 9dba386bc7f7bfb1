"""The sockets of a running director: the process continues to answer, whatever is sent to one of them.

A case is one connection: the data, in pieces, and how it ends. After each case the process must run, must
have logged no error of its own, and must answer a login. No HTTP request may be answered "internal error".
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from director import records
from tests.e2e.processes import Auth, Client, DirectorProcess, Directors, auth_answer, auth_line, connect
from tests.fuzz import codecs
from tests.fuzz.engine import Case, Target
from tests.fuzz.inputs import changed, noise, pieces, word
from tests.fuzz.twins import auth_lines
from tests.servers import free_port

BROKEN = (
    "event=internal_error ",
    "event=program_crashed ",
    "level=error event=library_logged ",
    "event=text_printed ",
    "Traceback",
)
"""Texts that the log of a director without a bug never contains."""
ENDS = ("close", "half", "reset", "wait")
CHECK_AFTER = 0.004
"""Seconds after the end of a connection until the director is checked."""
QUIET = 0.03
"""Seconds without a byte after which no more answer is expected."""
HOST = "127.0.2.60"


def forgiving(line: bytes) -> bytes:
    """Return auth's answer; empty: the line is no request."""
    try:
        return auth_answer(line)
    except (ValueError, LookupError, StopIteration):
        return b""


class Live:
    """A director with all listeners, and an auth service behind it.

    It is started again if a case ended it.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        self._begun = 0
        self.start()

    def start(self) -> None:
        self._begun += 1
        self.http, self.admin_tcp, self.socketmap_tcp = free_port(), free_port(), free_port()
        settings = {
            "http": f'listen = "{HOST}:{self.http}"',
            "lookups": "http = true\nnginx = true\ntimeout = '500 ms'",
            "listen.admin": f'path = "director-admin"\ntcp = "{HOST}:{self.admin_tcp}"',
            "listen.socketmap": f'path = "socketmap"\ntcp = "{HOST}:{self.socketmap_tcp}"',
        }
        folder = self.folder / str(self._begun)
        self.directors = Directors(folder, first=HOST, count=1, state="memory:", settings=settings)
        self.director: DirectorProcess = self.directors[0]
        self.auth: Auth = self.directors.auths[0]
        for auth in self.directors.auths:
            auth.answer = forgiving
        self.directors.__enter__()
        self.director.wait_ready()
        self._read = 0

    def close(self) -> None:
        self.directors.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, place: str) -> socket.socket:
        """Return a connection. `place`: one of `PLACES`."""
        director = self.director
        tcp = {"admin-tcp": self.admin_tcp, "socketmap-tcp": self.socketmap_tcp, "http": self.http}
        tcp["ring"] = int(director.member.rpartition(":")[2])
        if place in tcp:
            return socket.create_connection((HOST, tcp[place]), timeout=5.0)
        paths = {
            "login": director.login,
            "userdb": director.userdb,
            "admin": director.admin,
            "authreply": director.run / "director-authreply",
            "socketmap": director.run / "socketmap",
            "api": director.api_path,
        }
        return connect(paths[place], 5.0)

    def talk(self, place: str, data: list[bytes], end: str) -> bytes:
        """Send everything and end the connection. Returns what was answered before `QUIET`."""
        with self.connect(place) as sock:
            answer = b""
            sock.settimeout(QUIET)
            with suppress(OSError):
                for piece in data:
                    sock.sendall(piece)
                if end == "half":
                    sock.shutdown(socket.SHUT_WR)
            if end == "reset" and sock.family == socket.AF_INET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif end != "close":
                with suppress(OSError):
                    while part := sock.recv(65536):
                        answer += part
        time.sleep(CHECK_AFTER)
        return answer

    def check(self) -> None:
        """Check the director. If it fails the check, another director is started. Raises AssertionError."""
        try:
            self._check()
        except (AssertionError, OSError):
            self.directors.__exit__(None, None, None)
            self.start()
            raise

    def _check(self) -> None:
        with self.director.log_path.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        complete = text[: text.rfind(b"\n") + 1]  # a long line is written in pieces
        self._read += len(complete)
        lines = complete.decode("utf-8", "replace").splitlines()
        found = [line for line in lines if any(mark in f"{line} " for mark in BROKEN)]
        assert not found, found[0]
        with Client(self.director.login, within=5.0) as client:
            client.socket.sendall(auth_line(1, "local"))
            assert client.stream.readline() == b"OK\t1\tuser=local\n"

    def bugs(self) -> float:
        page = self.director.request("GET", "/metrics")[1].decode()
        return next(
            float(line.split()[1])
            for line in page.splitlines()
            if line.startswith("director_internal_errors_total")
        )


_live: list[Live] = []


def live() -> Live:
    """Return the one director, started when first needed; `stop` ends it."""
    if not _live:
        _live.append(Live())
    return _live[0]


def stop() -> None:
    while _live:
        _live.pop().close()


# ---- cases


def requests(rng: random.Random) -> bytes:
    """Return data that login processes send."""
    found = [b"VERSION\t1\t2\n", b"CPID\t77\n"] if rng.random() < 0.8 else []
    users = ("alice", "bad", "local", "fixed", "\t", "x" * 300)
    for number in range(rng.randrange(5)):
        made = auth_line(number, rng.choice(users)) if rng.random() < 0.6 else b"%b\n" % word(rng)
        found.append(changed(rng, made) if rng.random() < 0.2 else made)
    return b"".join(found)


def replies(rng: random.Random) -> bytes:
    """Return data for authreply."""
    version = b"VERSION\tdirector-authreply-client\t1\t0\n" if rng.random() < 0.85 else word(rng) + b"\n"
    return version + auth_lines(rng) + (noise(rng) if rng.random() < 0.1 else b"")


def commands(rng: random.Random) -> bytes:
    version = b"VERSION\tdirector-doveadm\t1\t0" if rng.random() < 0.9 else word(rng)
    return b"\n".join([version, *codecs.make_admin(rng)]) + (b"\n" if rng.random() < 0.9 else b"")


def frames(rng: random.Random) -> bytes:
    """Return data that a peer without the secret sends to the ring's port."""
    body = rng.choice((b"\x90", b"\x91\x92\x09\x01", b"\x91\xc0", b"[" * 50, b"\x91" * 2000, noise(rng, 60)))
    size = len(body) if rng.random() < 0.7 else rng.choice((0, 1, 5000, 1 << 24, (1 << 32) - 1))
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    return rng.choice((struct.pack(">I", size) + body, tls + noise(rng, 60), noise(rng, 60)))


METHODS = ("GET", "GET", "POST", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "FOO")
PATHS = [
    *(
        "/livez",
        "/readyz",
        "/metrics",
        "/schema",
        "/v1/status",
        "/v1/hosts",
        "/v1/hosts/10.1.0.1",
        "/v1/users",
    ),
    *(
        "/v1/users/alice",
        "/v1/users/alice/pin",
        "/v1/ring",
        "/v1/ring/members",
        "/v1/ring/members/10.0.0.9:9090",
    ),
    *(
        "/v1/dump",
        "/v1/plan",
        "/v1/moves",
        "/v1/moves/1",
        "/v1/flushes",
        "/v1/kicks",
        "/v1/lookup",
        "/v1/auth_http",
    ),
]
QUERY = [
    *(
        "user",
        "tag",
        "wait",
        "host",
        "after",
        "limit",
        "dry_run",
        "numeric_is_hash",
        "reason",
        "protocol",
        "force",
    ),
    *("all", "weight", "x", "%00", "%ff"),
]
BODY = [
    *(
        "user",
        "host",
        "address",
        "weight",
        "tag",
        "up",
        "hash",
        "reason",
        "dry_run",
        "wait",
        "field",
        "value",
    ),
    *("member", "to", "max_parallel", "name", "hostname", "users"),
]
JSON: list[Any] = [
    *("alice", "10.1.0.1", "127.0.3.1", "", "\0", "\ud800", "9" * 5000, "x" * 300, "::1", "host", "²"),
    *(0, 1, -1, 100, 1001, 1 << 32, 1 << 70, 1.5, True, False, None, [], {}, [1], {"a": 1}),
]
BODIES = {
    path: record.__struct_fields__
    for path, record in {
        "/v1/hosts": records.NewHost,
        "/v1/hosts/127.0.3.1": records.HostPatch,
        "/v1/plan": records.NewPlan,
        "/v1/moves": records.NewMove,
        "/v1/flushes": records.NewFlush,
        "/v1/kicks": records.NewKick,
        "/v1/ring/members": records.NewMember,
    }.items()
}
"""The type of the body of each request."""


def likely(rng: random.Random, key: str) -> Any:
    """Return a value that usually fits."""
    usual = {
        "user": "alice",
        "host": "127.0.3.1",
        "address": "127.0.3.2",
        "weight": 50,
        "tag": "blue",
        "numeric": "hash",
        "member": "127.0.2.99:9090",
    }
    return usual[key] if key in usual and rng.random() < 0.6 else rng.choice(JSON)


HEADERS = [
    *("Host: x", "Content-Type: application/json", "Content-Type: text/xml", "Authorization: Bearer x"),
    *(
        "Auth-User: alice",
        "Auth-Protocol: imap",
        "Auth-User: %ff",
        "Transfer-Encoding: chunked",
        "X: " + "y" * 9000,
    ),
    *(
        "Content-Length: 9" * 1,
        "Content-Length: -1",
        "Expect: 100-continue",
        "Connection: close",
        "Upgrade: websocket",
    ),
    *("Accept: */*", "Accept-Encoding: gzip", "Range: bytes=0-1", "Cookie: a=b", "X-Forwarded-For: 1.2.3.4"),
]


def http(rng: random.Random) -> bytes:
    method, path = rng.choice(METHODS), rng.choice(PATHS)
    if rng.random() < 0.3:
        path = changed(rng, path.encode()).decode("latin-1").replace(" ", "")
    if rng.random() < 0.4:
        values = [word(rng, [b"alice", b"1", b"true", b"10.1.0.1"]) for _ in range(2)]
        pairs = [f"{rng.choice(QUERY)}={each[:300].decode('latin-1')}" for each in values]
        path += "?" + "&".join(pairs).replace(" ", "+")
    body = b""
    if method in ("POST", "PATCH", "PUT") and rng.random() < 0.9:
        document = {rng.choice(BODY): rng.choice(JSON) for _ in range(rng.randrange(4))}
        if rng.random() < 0.7:
            path, keys = rng.choice(list(BODIES.items()))
            document = {key: likely(rng, key) for key in rng.sample(keys, rng.randrange(len(keys) + 1))}
        body = json.dumps(document if rng.random() < 0.9 else rng.choice(JSON)).encode()
        body = changed(rng, body) if rng.random() < 0.2 else body
        body = rng.choice((b"[" * 9000, b"{" * 50, b"\xff", body)) if rng.random() < 0.1 else body
    headers = rng.sample(HEADERS, rng.randrange(4))
    length = len(body) if rng.random() < 0.9 else rng.choice((0, 1, 9, 1 << 40))
    head = [f"{method} {path} HTTP/1.1", "Host: d", *headers, f"Content-Length: {length}", "", ""]
    if body and rng.random() < 0.9:
        head.insert(2, "Content-Type: application/json")
    data = "\r\n".join(head).encode("latin-1", "replace") + body
    return changed(rng, data) if rng.random() < 0.1 else data


KICK = b'POST /v1/kicks HTTP/1.1\r\nHost: d\r\nContent-Length: 16\r\n\r\n{"user":"alice"}'

PLACES: dict[str, Callable[[random.Random], bytes]] = {
    "login": requests,
    "userdb": requests,
    "admin": commands,
    "admin-tcp": commands,
    "authreply": replies,
    "socketmap": lambda rng: b"".join(codecs.make_socketmap(rng)),
    "socketmap-tcp": lambda rng: b"".join(codecs.make_socketmap(rng)),
    "ring": frames,
    "api": http,
    "http": http,
}


def _connection(place: str) -> Target:
    def make(rng: random.Random) -> Case:
        data = PLACES[place](rng)
        return [*(pieces(rng, data) if rng.random() < 0.5 else [data]), rng.choice(ENDS)]

    def check(case: Case) -> None:
        director = live()
        data = [part for part in case if isinstance(part, bytes)]
        if any(b"reload" in part for part in [b"".join(data)]):
            return
        end = next((part for part in case if isinstance(part, str)), "wait")
        answer = director.talk(place, data, end)
        assert b" 500 " not in answer.split(b"\r\n", 1)[0], answer[:500]
        director.check()

    return Target(f"socket-{place}", make, check)


def make_auth(rng: random.Random) -> Case:
    data = auth_lines(rng) if rng.random() < 0.8 else b"%b\n" % b"x".join([word(rng)] * 300)
    return pieces(rng, data if rng.random() < 0.7 else changed(rng, data))


def check_auth(case: Case) -> None:
    """Check an auth service that answers anything."""
    director = live()
    with Client(director.director.login, within=5.0) as client:
        connections = list(director.auth.connections)
        with suppress(OSError):
            for piece in case:
                connections[-1].sendall(piece)
            client.socket.settimeout(QUIET)
            while client.socket.recv(65536):
                pass
    director.check()


def make_fifo(rng: random.Random) -> Case:
    return pieces(rng, b"\n".join(word(rng, [b"alice", b"bob"]) for _ in range(5)) + b"\n")


def check_fifo(case: Case) -> None:
    director = live()
    with director.director.fifo.open("wb", buffering=0) as fifo:
        for piece in case:
            fifo.write(piece)
    time.sleep(0.005)
    director.check()


def make_kick(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        place, lines, end = "ipc", codecs.make_ipc(rng), b"+1\n"
    else:
        place, lines, end = "anvil", [b"VERSION\tanvil-server\t2\t0", *codecs.make_anvil(rng)], b"\n1\n"
    data = b"\n".join(lines) + b"\n" + (end if rng.random() < 0.7 else b"")
    return [place, *pieces(rng, noise(rng, 200) if rng.random() < 0.1 else data)]


def check_kick(case: Case) -> None:
    """Check a kick channel of Dovecot that answers anything."""
    director = live()
    path = director.director.run / next((part for part in case if isinstance(part, str)), "ipc")
    answers = [part for part in case if isinstance(part, bytes)]
    with socket.socket(socket.AF_UNIX) as listener, director.connect("api") as operator:
        listener.bind(str(path))
        listener.listen(5)
        listener.settimeout(0.5)
        operator.sendall(KICK)
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(0.2)
                connection.recv(65536)
                for piece in answers:
                    connection.sendall(piece)
                operator.settimeout(0.1)
                operator.recv(65536)
    path.unlink()
    director.check()


TARGETS = [
    *map(_connection, PLACES),
    Target("socket-auth", make_auth, check_auth),
    Target("socket-kick", make_kick, check_kick),
    Target("socket-notify", make_fifo, check_fifo),
]
