"""The composition root: builds everything from the configuration, runs it in one task group, ends it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.abc

from director import web
from director.core.director import Director, Settings
from director.core.events import MembersListed, Started
from director.core.hashing import UserHash
from director.core.hosts import HostTable
from director.core.member import Identity
from director.core.order import split_member
from director.errors import EX_CONFIG, EX_UNAVAILABLE, DirectorError
from director.net import listen
from director.net.admin import serve_client
from director.net.login import Relay
from director.net.notify import NotifyReader
from director.net.socketmap import serve_client as serve_socketmap_client
from director.net.tls import RingTls
from director.service.admin import AdminHandler
from director.service.cluster import OtherCluster
from director.service.config import Config, ListenerConfig, load
from director.service.configuring import Configuring
from director.service.driver import Driver
from director.service.flushing import FlushPrograms
from director.service.kicking import Kicker
from director.service.log import Log, capture_logging
from director.service.lookups import Lookups
from director.service.operations import Operations
from director.service.persist import Persistence
from director.service.resolving import Resolving
from director.service.servers import Endpoint
from director.service.socketmap import Socketmap
from director.service.sysd import Notifier, inherited_descriptors, machine_id
from director.types import MemberId
from director.version import VERSION
from director.wire import hotpath
from state.base import SchemaTooNew, StoreBusy, StoreError, open_store

Opened = TypeVar("Opened", listen.Listener, listen.Fifo)

EX_SOFTWARE = 70
"""Exit code of a bug, as in sysexits."""
STANDALONE = MemberId("127.0.0.1:9090")
"""What a director without a ring calls itself."""
SNAPSHOT_TIMEOUT = 10.0
"""Seconds that one job of the snapshot may take: nobody waits for it."""
GIL_SWITCH = 0.0005
"""Seconds the store's thread may keep the interpreter from the loop that answers logins."""
STATUS_EVERY = 5.0
"""Seconds between two status lines for the service manager."""
BUGS_LOGGED, BUGS_EVERY = 5, 10.0
"""At most so many bugs in callbacks are logged in so many seconds; all are counted."""


def run(config_path: str, *, check: bool = False) -> int:
    """`director serve`. Returns the exit code."""
    try:
        config = load(config_path, os.environ)
    except DirectorError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    log = Log(format=config.log.format, level=config.log.level, hide_user=_hidden(config))
    capture_logging(log)
    for warning in config.warnings:
        log.warning("configuration", file=config.file, problem=warning)
    try:
        sys.setswitchinterval(GIL_SWITCH)
        return anyio.run(_main, config, log, check, backend_options={"use_uvloop": True})
    except DirectorError as exc:
        log.error("cannot_start", reason=str(exc))
        return exc.exit_code
    except (SchemaTooNew, StoreBusy, OtherCluster) as exc:
        log.error("cannot_start", reason=str(exc))
        return EX_CONFIG
    except Exception as exc:
        # not to be survived: whoever supervises us starts us again, with what was stored
        log.error("crashed", error="".join(traceback.format_exception(exc)))
        return EX_SOFTWARE


def _hidden(config: Config) -> Callable[[str], object] | None:
    """How user names are written to the log."""
    if config.log.user_names == "plain":
        return None
    return lambda name: hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]


class App:
    """One running director."""

    def __init__(self, config: Config, log: Log, sockets: ExitStack) -> None:
        self.config, self.log, self._sockets = config, log, sockets
        self.started = time.time()
        self.begun = time.monotonic()
        self.warm_seconds = 0.0
        me = config.ring.listen.member if config.ring.listen else STANDALONE
        incarnation = time.time_ns() // 1000
        user_hash = UserHash(config.users.username_hash, config.users.master_user_separator)
        assigner = hotpath.Assigner(hotpath.UserTable(int(config.users.expire)), user_hash)
        assigner.remember_names = config.users.remember_names
        identity = Identity(
            member=me,
            incarnation=incarnation,
            username_hash=f"{config.users.username_hash} {config.users.master_user_separator[:1]}".strip(),
            expire=int(config.users.expire),
            secret=bytes(config.ring.secret),
            ping_interval=config.ring.ping_interval,
            ping_timeout=config.ring.ping_timeout,
            max_clock_skew=config.ring.max_clock_skew,
        )
        self.director = Director(
            identity,
            [server.member for server in config.ring.servers] or [me],
            HostTable(config.backends.mail_servers),
            assigner,
            hotpath.NameTable(),
            Settings(
                isolation_wait=config.ring.isolation_wait,
                kick_delay=config.users.kick_delay,
                max_parallel_moves=config.users.max_parallel_moves,
                max_parallel_kicks=config.users.max_parallel_kicks,
                flush_program=bool(config.users.flush_socket),
            ),
        )
        tls = config.ring.tls
        self.driver = Driver(self.director, log, RingTls(tls.cert, tls.key, tls.ca) if tls else None)
        self.kicker = Kicker(config.dovecot, log, self.driver.kick_ended, self.driver.stragglers)
        self.driver.sessions = self.kicker
        self.programs = FlushPrograms(config.users.flush_socket, self.driver.handle, log)
        self.driver.programs = self.programs
        self.lookups = Lookups(self.driver, config.lookups.timeout, log)
        self.resolving = Resolving(
            config.ring.servers,
            config.ring.names,
            config.ring.listen or Endpoint(*split_member(STANDALONE)),
            self._members_listed,
            log,
        )
        self.store = open_store(config.state, base_dir=config.folder)
        self.persistence = Persistence(
            self.store,
            self.director,
            self.driver.handle,
            log,
            lease_ttl=config.ring.lease_ttl,
            incarnation=incarnation,
            ping_timeout=config.ring.ping_timeout,
            snapshot=(
                open_store(config.snapshot, base_dir=config.folder, timeout=SNAPSHOT_TIMEOUT)
                if config.snapshot
                else None
            ),
            place=f"{machine_id()} {socket.gethostname()} {os.path.abspath(config.file)}",
        )
        self.operations = Operations(
            self.driver, self.persistence, user_hash, self.started, lambda: self.warm_seconds
        )
        self.configuring = Configuring(self.director, self.persistence, self.operations.apply, log)
        self.notifier = Notifier(os.environ)
        self._listening: list[tuple[Callable[[socket.socket], Coroutine[Any, Any, None]], socket.socket]] = []
        self._relays: list[Relay] = []
        self._bugs_logged: deque[float] = deque(maxlen=BUGS_LOGGED)
        self._inherited = inherited_descriptors(os.environ, os.getpid())

    # ---- sockets

    def bind(self) -> None:
        """Open every listener; connections wait in the kernel until `serve`. Raises ListenError."""
        config = self.config
        relays = (
            ("login", config.listen.login, config.dovecot.auth_socket, False),
            ("userdb", config.listen.userdb, config.dovecot.userdb_socket, True),
        )
        for name, listener, upstream, passlines in relays:
            sock = self._unix(name, listener)
            if sock is not None:
                relay = Relay(name, upstream, passlines, self.driver)
                self._relays.append(relay)
                self._listening.append((relay.serve, sock))
        self._fifo = self._open_fifo(config.listen.notify)
        for sock in (self._unix("admin", config.listen.admin), self._tcp("admin", config.listen.admin.tcp)):
            if sock is not None:
                self._listening.append((self._serve_admin, sock))
        socketmap = config.listen.socketmap
        for sock in (self._unix("socketmap", socketmap), self._tcp("socketmap", socketmap.tcp)):
            if sock is not None:
                self._listening.append((self._serve_socketmap, sock))
        # With a secret others may be added later, by `director ring add`.
        self._ring = self._tcp("ring", config.ring.listen if config.ring.secret else None)
        if self._ring is not None:
            self._listening.append((self._serve_ring, self._ring))
        self._api = self._unix("api", config.listen.api)
        self._http = self._tcp("http", config.http.listen)

    def _unix(self, name: str, listener: ListenerConfig) -> socket.socket | None:
        if name in self._inherited:
            return self._second(listen.adopt_listener(name, self._inherited[name][0]))
        if not listener.path:
            return None
        opened = listen.unix_listener(
            name, listener.path, mode=listener.mode, user=listener.user, group=listener.group
        )
        return self._second(opened)

    def _tcp(self, name: str, endpoint: Endpoint | None) -> socket.socket | None:
        if endpoint is None:
            return None
        return self._second(listen.tcp_listener(name, endpoint.address, endpoint.port))

    def _second(self, opened: listen.Listener) -> socket.socket:
        """A second descriptor for the loop, which closes what it has served; the file goes with the first."""
        second = self._keep(opened).socket.dup()
        self._sockets.callback(second.close)
        return second

    def _open_fifo(self, listener: ListenerConfig) -> int | None:
        if "notify" in self._inherited:
            return self._keep(listen.adopt_fifo("notify", self._inherited["notify"][0])).fd
        if not listener.path:
            return None
        opened = listen.open_fifo(
            "notify", listener.path, mode=listener.mode, user=listener.user, group=listener.group
        )
        return self._keep(opened).fd

    def _keep(self, opened: Opened) -> Opened:
        self._sockets.callback(opened.close)
        return opened

    def _members_listed(self, members: tuple[MemberId, ...]) -> None:
        """The names of the configuration's directors have other addresses."""
        self.driver.handle(MembersListed(members))

    # ---- running

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT. However it ends, what is left to write is written."""
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)
        await self.persistence.open()
        gc.collect()
        gc.freeze()
        try:
            await self._serve()
        finally:
            await self.persistence.stop()
        self.log.info("stopped")

    async def _serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.driver.run)
            await tasks.start(self.programs.run)
            await tasks.start(self.operations.run)
            tasks.start_soon(self.kicker.run)
            tasks.start_soon(self.resolving.run)
            for serve, sock in self._listening:
                tasks.start_soon(serve, sock)
            if self._fifo is not None:
                tasks.start_soon(self._read_notify, self._fifo)
            self.driver.store = self.persistence
            tasks.start_soon(self.persistence.run)
            self.driver.handle(Started())
            tasks.start_soon(self.configuring.run)
            tasks.start_soon(self._serve_api)
            tasks.start_soon(self._tell_manager)
            self.log.info(
                "started",
                version=VERSION,
                me=self.director.me,
                compiled=hotpath.COMPILED,
                ring=len(self.director.ring.servers),
            )
            name = await self._wait_for_signal()
            self.log.info("stopping", signal=name)
            self.notifier.stopping()
            await self.driver.leave()
            self._refuse_links()
            self.driver.stop()
            for relay in self._relays:
                relay.stop()
            tasks.cancel_scope.cancel()

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What went wrong where no task could catch it. The connection concerned is closed by the loop."""
        exc = context.get("exception")
        if isinstance(exc, OSError):
            self.log.warning("connection_failed", reason=exc.strerror or str(exc), note=context["message"])
            return
        self.driver.counts.bugs += 1
        now = time.monotonic()
        if len(self._bugs_logged) == BUGS_LOGGED and now < self._bugs_logged[0] + BUGS_EVERY:
            return
        self._bugs_logged.append(now)
        error = None if exc is None else "".join(traceback.format_exception(exc))
        self.log.error("bug", text=context["message"], bugs=self.driver.counts.bugs, error=error)

    @staticmethod
    async def _wait_for_signal() -> str:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                return signal.Signals(number).name
        raise AssertionError("the signal receiver ended by itself")

    async def _read_notify(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(os.dup(descriptor), "rb", buffering=0, closefd=False)
        reader = NotifyReader(self.driver.names_seen, self.driver.notify_skipped)
        transport, _ = await loop.connect_read_pipe(lambda: reader, pipe)
        try:
            await anyio.sleep_forever()
        finally:
            transport.close()

    async def _serve_ring(self, sock: socket.socket) -> None:
        server = await asyncio.get_running_loop().create_server(self.driver.sockets.new_link, sock=sock)
        try:
            await anyio.sleep_forever()
        finally:
            server.close()

    def _refuse_links(self) -> None:
        """Whoever dials us from now on is refused at once.

        Before the good-bye: a neighbour dials whom it has lost. While we still listened he would wait in
        vain until our end, and new users with him, as with the original (1.1 s).
        """
        if self._ring is not None:
            self._ring.shutdown(socket.SHUT_RDWR)  # whatever descriptors the listener has

    async def _serve_admin(self, sock: socket.socket) -> None:
        handler = AdminHandler(self.operations, self.log)
        listener = await anyio.abc.SocketListener.from_socket(sock)
        await listener.serve(lambda stream: serve_client(stream, handler, self.log))

    async def _serve_socketmap(self, sock: socket.socket) -> None:
        handler = Socketmap(self.lookups, self.config.lookups.ports.lmtp)
        listener = await anyio.abc.SocketListener.from_socket(sock)
        await listener.serve(lambda stream: serve_socketmap_client(stream, handler, self.log))

    async def _serve_api(self) -> None:
        lookups = self.config.lookups
        ports = {"imap": lookups.ports.imap, "pop3": lookups.ports.pop3, "smtp": lookups.ports.smtp}
        offer = web.Offer(self.lookups, http=lookups.http, nginx=lookups.nginx, ports=ports)
        run_api = partial(web.run_api, self.operations, offer=offer)
        token = bytes(self.config.http.token).decode() or None
        async with anyio.create_task_group() as tasks:
            if self._api is not None:
                tasks.start_soon(partial(run_api, [self._api], token=None, trusted=True))
            if self._http is not None:
                tasks.start_soon(partial(run_api, [self._http], token=token, trusted=False))

    async def _tell_manager(self) -> None:
        """READY once logins are answered, then a status line and a sign of life now and then."""
        told = False
        while True:
            ready, reason = self.operations.ready()
            if ready and not told:
                told = True
                self.warm_seconds = time.monotonic() - self.begun
                self.log.info(
                    "ready", seconds=round(self.warm_seconds, 3), users=self.persistence.loaded_users
                )
                self.notifier.ready(self._status_line())
            elif not told:
                self.notifier.status(f"starting: {reason}")
                await anyio.sleep(0.02)
                continue
            else:
                self.notifier.status(self._status_line())
            self.notifier.watchdog()
            await anyio.sleep(min(STATUS_EVERY, self.notifier.watchdog_interval or STATUS_EVERY))

    def _status_line(self) -> str:
        ring = self.director.barrier.ring
        store = "store up" if self.persistence.up else "STORE AWAY"
        if self.director.loading:
            store = f"store read to {100 * self.persistence.loaded_part:.0f} %"
        return (
            f"{len(self.director.users)} users on {len(self.director.hosts.present())} hosts, "
            f"{len(ring)} of {len(self.director.ring.servers)} directors in the ring, {store}"
        )


async def _main(config: Config, log: Log, check: bool) -> int:
    with ExitStack() as sockets:
        app = App(config, log, sockets)
        if check:
            return await _check(app)
        app.bind()
        await app.serve()
    return 0


async def _check(app: App) -> int:
    """`serve --check`: the configuration has been read; are sockets and store to be had?"""
    app.bind()
    try:
        await app.store.open()
        health = await app.store.health()
    except StoreError as exc:
        print(f"store: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE
    finally:
        await app.store.close()
    print(f"{app.config.file}: good; {app.store.url}: {health.server}; all sockets can be opened")
    return 0
