"""A whole cluster on loopback: directors in a ring, a Dovecot proxy before each, Dovecot backends behind.

Everything is below one folder: d1/ (director.toml, log, state), p1/ (Dovecot of the same proxy host), b1/ ...
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from director.demo.clients import Login, login_many
from director.demo.dovecot import Backend, Dovecot, Programs, Proxy
from director.demo.ports import USUAL, Ports, addresses
from director.demo.process import ServeProcess
from director.demo.settings import ANYBODY, PROTOCOLS, Rule

T = TypeVar("T")

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Cluster:
    """Directors, proxies and backends. After the `with` block no process and no file is left."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        directors: int = 3,
        backends: int = 4,
        state: str = "sqlite:///state.db",
        ports: Ports = USUAL,
        first_proxy: str = "127.0.0.11",
        first_backend: str = "127.0.1.1",
        passdb: Sequence[Rule] = ANYBODY,
        settings: Mapping[str, str] | None = None,
        programs: Programs | None = None,
        protocols: Sequence[str] = PROTOCOLS,
    ) -> None:
        """state: URL of the store; of a file, each director has its own. settings: more lines of each
        director.toml, by section.

        folder: must not exist yet; removed at the end. None: a new one among the system's temporary files.
        programs: whose Dovecot; where it lies in a root of its own, so must `folder`.
        """
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="director-demo-"))
        else:
            folder.mkdir(parents=True)
        folder.chmod(0o755)  # Dovecot's users must be able to enter it
        self.folder, self.ports = folder, ports
        directors_at, backends_at = addresses(first_proxy, directors), addresses(first_backend, backends)
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
        servers = [f"{address}:{ports.ring}" for address in directors_at]
        self.directors = [
            ServeProcess(folder / f"d{n}", member, proxy.run)
            for n, (member, proxy) in enumerate(zip(servers, self.proxies, strict=True), 1)
        ]
        for director in self.directors:
            director.write(
                state=state,
                servers=servers,
                secret=secret,
                backends=[f"{backends_at[0]}-{backends_at[-1]}" if len(backends_at) > 1 else backends_at[0]],
                settings=settings,
            )

    @property
    def proxy_addresses(self) -> list[str]:
        return [proxy.address for proxy in self.proxies]

    def start(self, report: Callable[[str], None] = lambda text: None) -> None:
        """Start everything, backends first, and return when all answer. report: called at each step."""
        report(f"starting {len(self.backends)} Dovecot backends")
        self._each(self.backends, Dovecot.start)
        report(f"starting {len(self.directors)} directors")
        for proxy in self.proxies:
            proxy.write()
        self.start_directors()
        # After the directors: a login process that finds no director tries again only with its next client.
        report(f"starting {len(self.proxies)} Dovecot proxies")
        self._each(self.proxies, Dovecot.start)

    def start_directors(self) -> None:
        """Start all directors at once and wait until each answers logins."""
        for director in self.directors:
            director.start()
        for director in self.directors:
            director.wait_ready()

    def stop_directors(self) -> None:
        """Stop all directors at once; proxies and backends stay."""
        self._each(self.directors, ServeProcess.stop)

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
    def _each(things: Iterable[T], action: Callable[[T], object]) -> None:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(action, things):
                pass


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in the block, so that a second Ctrl-C leaves no process behind."""
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in INTERRUPTS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
