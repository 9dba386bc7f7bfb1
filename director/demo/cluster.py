"""A whole cluster on loopback: directors in a ring, a Dovecot proxy before each, Dovecot backends behind.

Everything is below one folder: d1/ (director.toml, log, state), p1/ (Dovecot of the same proxy host), b1/ ...
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from director.demo.clients import Login, login_many
from director.demo.dovecot import Backend, Dovecot, Programs, Proxy
from director.demo.ports import USUAL, DemoError, Ports, addresses, in_the_way, is_free
from director.demo.settings import ANYBODY, PROTOCOLS, Rule

T = TypeVar("T")

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
COMMAND_TIMEOUT = 60.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL = 0.02

CONFIG = """# written by director demo; changes are lost when it ends
state = "{state}"
{snapshot}
[ring]
servers = [{servers}]
listen = "{address}:{ring}"
secret_file = "{secret}"

[backends]
mail_servers = [{mail_servers}]

[users]
expire = "{expire}"

[dovecot]
base_dir = "{base}"

[listen.api]
path = "{api}"
"""


class Director:
    """One `director serve` process, with its configuration, log and state in a folder of its own."""

    def __init__(self, folder: Path, name: str, address: str, ports: Ports) -> None:
        self.folder, self.name, self.address, self.ports = folder, name, address, ports
        self.config = folder / "director.toml"
        self.api = folder / "api.sock"
        self.log_file = folder / "director.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(
        self, *, servers: Sequence[str], mail_servers: str, base: Path, secret: Path, state: str, expire: str
    ) -> None:
        """Write director.toml; `servers` are the addresses of the whole ring."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = CONFIG.format(
            state="memory:" if state == "memory" else "sqlite:///state.db" if state == "sqlite" else state,
            snapshot="" if state in ("memory", "sqlite") else 'snapshot = "sqlite:///snapshot.db"\n',
            servers=", ".join(f'"{server}:{self.ports.ring}"' for server in servers),
            address=self.address,
            ring=self.ports.ring,
            secret=secret,
            mail_servers=f'"{mail_servers}"',
            expire=expire,
            base=base,
            api=self.api,
        )
        self.config.write_text(text)

    def start(self) -> None:
        """Start the process and return; wait_ready() follows. Raises DemoError where its port is taken."""
        if not is_free(self.address, self.ports.ring):
            raise DemoError(f"{self.name} cannot start: {in_the_way(self.address, self.ports.ring)}")
        with self.log_file.open("ab") as output:
            # a session of its own: Ctrl-C must reach only the demo, which then ends everything in order
            self.process = subprocess.Popen(
                [sys.executable, "-m", "director", "serve", "-c", self.config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when it answers logins. Raises DemoError with the end of its log where it does not."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if self.process is None or self.process.poll() is not None:
                raise DemoError(
                    f"{self.name} ended instead of starting. The end of its log:\n{self.last_words()}"
                )
            if time.monotonic() > deadline:
                late = f"{self.name} is not ready after {timeout:.0f} s"
                raise DemoError(f"{late}. The end of its log:\n{self.last_words()}")
            time.sleep(POLL)

    def ready(self) -> bool:
        try:
            return get(self.api, "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """SIGTERM, and wait; what does not end within 10 s is killed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def restart(self) -> None:
        """Stop, start, wait until it answers logins again."""
        self.stop()
        self.start()
        self.wait_ready()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `director ARGUMENTS` against this director; exit code and output are the caller's to judge."""
        return subprocess.run(
            [sys.executable, "-m", "director", *arguments],
            env=os.environ | {"DIRECTOR_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, *arguments: str) -> Any:
        """The document a reading command prints with --json. Raises DemoError where the command fails."""
        result = self.command(*arguments, "--json")
        if result.returncode != 0:
            raise DemoError(
                f"director {' '.join(arguments)} at {self.name}: {(result.stderr or result.stdout).strip()}"
            )
        return msgspec.json.decode(result.stdout)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def last_words(self) -> str:
        return "\n".join(self.log().splitlines()[-8:]) or "(empty)"


class Cluster:
    """Directors, proxies and backends as one thing. Its `with` block leaves no process and no file."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        directors: int = 3,
        backends: int = 4,
        state: str = "sqlite",
        ports: Ports = USUAL,
        first_proxy: str = "127.0.0.11",
        first_backend: str = "127.0.1.1",
        passdb: Sequence[Rule] = ANYBODY,
        expire: str = "15 min",
        programs: Programs | None = None,
        protocols: Sequence[str] = PROTOCOLS,
    ) -> None:
        """state: `sqlite` (a file for each director), `memory`, or a URL that all share (`redis://…`).

        folder: must not exist yet; removed at the end. None: a new one among the system's temporary files.
        programs: whose Dovecot; where it lies in a root of its own, so must `folder`.
        """
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="director-demo-"))
        else:
            folder.mkdir(parents=True)
        folder.chmod(0o755)  # Dovecot's users have to get in
        self.folder, self.ports = folder, ports
        directors_at, backends_at = addresses(first_proxy, directors), addresses(first_backend, backends)
        self.directors = [
            Director(folder / f"d{n}", f"d{n}", address, ports) for n, address in enumerate(directors_at, 1)
        ]
        self.proxies = [
            Proxy(
                folder / f"p{n}",
                f"p{n}",
                address,
                ports,
                passdb=passdb,
                programs=programs,
                protocols=protocols,
            )
            for n, address in enumerate(directors_at, 1)
        ]
        self.backends = [
            Backend(folder / f"b{n}", f"b{n}", address, ports, programs=programs, protocols=protocols)
            for n, address in enumerate(backends_at, 1)
        ]
        secret = folder / "ring.secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
        for director, proxy in zip(self.directors, self.proxies, strict=True):
            director.write(
                servers=directors_at,
                mail_servers=f"{backends_at[0]}-{backends_at[-1]}"
                if len(backends_at) > 1
                else backends_at[0],
                base=proxy.run,
                secret=secret,
                state=state,
                expire=expire,
            )

    @property
    def proxy_addresses(self) -> list[str]:
        return [proxy.address for proxy in self.proxies]

    def start(self, said: Callable[[str], None] = lambda text: None) -> None:
        """Start everything, backends first, and return when all answer. said: called at each step."""
        said(f"starting {len(self.backends)} Dovecot backends")
        self._each(self.backends, Dovecot.start)
        said(f"starting {len(self.directors)} directors")
        for proxy in self.proxies:
            proxy.write()
        self.start_directors()
        # After the directors: a login process that found none comes back only with its next client.
        said(f"starting {len(self.proxies)} Dovecot proxies")
        self._each(self.proxies, Dovecot.start)

    def start_directors(self) -> None:
        """Start all directors at once and wait until each answers logins."""
        for director in self.directors:
            director.start()
        for director in self.directors:
            director.wait_ready()

    def stop_directors(self) -> None:
        """Stop all directors at once; proxies and backends stay."""
        self._each(self.directors, Director.stop)

    def stop(self) -> None:
        """End every process. Safe to call twice."""
        with ignoring_interrupts():
            self._each(self.proxies, Dovecot.stop)
            self.stop_directors()
            self._each(self.backends, Dovecot.stop)

    def close(self) -> None:
        """End every process and remove the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_in(
        self,
        users: Sequence[str],
        *,
        rate: float | None = None,
        parallel: int = 30,
        done: Callable[[Login], None] = lambda login: None,
    ) -> list[Login]:
        """Log all users in over IMAP, in turn at each proxy."""
        return login_many(
            users, self.proxy_addresses, self.ports.imap, rate=rate, parallel=parallel, done=done
        )

    def backend(self, name: str) -> Backend:
        """The backend called `name`, or at address `name`."""
        return next(backend for backend in self.backends if name in (backend.name, backend.address))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _each(things: Iterable[T], action: Callable[[T], None]) -> None:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(action, things):
                pass


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the processes behind."""
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in INTERRUPTS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket_path: Path, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body of GET `path` from the API socket at `socket_path`. Raises OSError or HTTPException."""
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
