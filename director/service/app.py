"""The composition root: builds all parts from the configuration, and runs them in one task group."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from director.core.director import Director
from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKETS
from director.core.protocol.events import IdentityChanged, Started
from director.core.protocol.order import split_member
from director.core.ring.presence import next_incarnation
from director.core.tables.hosts import HostTable
from director.errors import DirectorError
from director.net.accept import Acceptor
from director.net.listen import Fifo, open_fifo
from director.net.login import Relay
from director.net.notify import NotifyReader, read_fifo
from director.net.tls import RingTls
from director.service.clock import unix_time
from director.service.configuration.config import Config
from director.service.configuration.servers import Endpoint
from director.service.driver import Driver
from director.service.endpoints.lookups import Lookups
from director.service.internalerrors import InternalErrors
from director.service.kicks.flushprograms import FlushPrograms
from director.service.kicks.kicker import Kicker
from director.service.lifecycle import garbage, reexec
from director.service.lifecycle.credentials import Credentials
from director.service.lifecycle.filetimes import clock_is_behind
from director.service.lifecycle.handover import Handover, Inherited, Memory, ReplacementRecord
from director.service.lifecycle.keeper import KeeperClient
from director.service.lifecycle.listeners import Listeners
from director.service.lifecycle.ownidentity import STANDALONE, own_identity, ring_secrets
from director.service.lifecycle.reload import backends_digest, limits, read_again
from director.service.lifecycle.replacement import Replacement, load_names, load_users
from director.service.lifecycle.sockets import Sockets
from director.service.lifecycle.sysd import Notifier, machine_id
from director.service.log import Log
from director.service.loginrelay import LoginRelay
from director.service.logwriter import LogWriter
from director.service.loopwatch import LoopWatch
from director.service.mailbox import Mailbox
from director.service.managerreports import ManagerReports
from director.service.metrics import LookupCounts
from director.service.operations.fileapplier import FileApplier
from director.service.operations.operations import Operations
from director.service.operatorendpoints import OperatorEndpoints
from director.service.pendingoperations import PendingOperations
from director.service.persistence.persist import Persistence
from director.service.resolution.backendnames import BackendNames
from director.service.resolution.namewatch import Answer, NameWatch
from director.service.resolution.ringnames import RingNames
from director.service.ringsockets import RingSockets
from director.types import Now
from director.version import VERSION
from director.wire import hotpath
from state.resolver import Resolver
from state.urls import open_store

Serve = Callable[[Acceptor], Coroutine[Any, Any, None]]
"""Serves a listener until cancelled."""

MOVES_AGAIN = 30.0
"""Seconds between two replacements of the program because the own address has changed, at least."""
SNAPSHOT_TIMEOUT = 10.0
"""Seconds for one operation of the snapshot. No login waits for it."""


class App:
    """A running director: its parts in the order of their construction, its start, changes and end."""

    def __init__(
        self,
        config: Config,
        log: Log,
        sockets: Sockets,
        inherited: Inherited | None = None,
        log_writer: LogWriter | None = None,
        keeper: KeeperClient | None = None,
    ) -> None:
        """
        Args:
            inherited: the state that a predecessor in this process has left.
            log_writer: the writer behind `log`, handed over to a successor.
            keeper: None: the sockets end with this process.
        """
        self.log_writer, self.keeper = log_writer, keeper
        self.config, self.log, self.sockets, self._inherited = config, log, sockets, inherited
        self.started = time.time()
        begun = time.monotonic()
        incarnation = next_incarnation(time.time(), inherited.handover.incarnation if inherited else 0)
        user_hash = UserHash(config.users.username_hash, config.users.master_user_separator)
        assigner = hotpath.Assigner(hotpath.UserTable(int(config.users.expire)), user_hash)
        # The mailbox comes first: all other parts hand their events to it.
        mailbox = self.mailbox = Mailbox()
        # Names of directors and backends, and the core.
        self.ring_names = RingNames(
            config.ring.servers,
            config.ring.names,
            config.ring.listen or Endpoint(*split_member(STANDALONE)),
            mailbox.handle,
            self._moved,
            log,
        )
        self.backend_names = BackendNames(config.backends, log)
        self._moved_at = float("-inf")
        """Monotonic seconds when the own address was last found changed."""
        settings, unresolved = self.backend_names.hosts()
        identity = own_identity(config, incarnation, self.ring_names.own_name or "")
        self.director = Director(
            identity,
            [server.member for server in config.ring.servers] or [identity.member],
            HostTable(settings, (name.hostname for name in unresolved)),
            assigner,
            hotpath.NameTable(),
            limits(config),
            self.ring_names.names,
        )
        resolver = Resolver()
        self.name_watch = NameWatch(
            lambda: [
                *self.ring_names.hosts(self.director.members.added_names()),
                *self.backend_names.names,
            ],
            self._names_answered,
            resolver,
        )
        # The parts that carry out the effects of the core.
        tls = config.ring.tls
        self.ring = RingSockets(
            self.director,
            mailbox.handle,
            log,
            RingTls(tls.cert, tls.key, tls.ca) if tls else None,
            stranger=self.name_watch.soon,  # it may be a neighbour whose address has changed
        )
        self.watch = LoopWatch(assigner, mailbox.handle)
        counts = LookupCounts()
        self.logins = LoginRelay(self.director, mailbox, self.watch, self.ring, counts, log)
        self.lookups = Lookups(self.director, mailbox, self.watch, counts, log, config.lookups.timeout)
        self.kicker = Kicker(config.dovecot, log, mailbox.handle)
        self.programs = FlushPrograms(config.users.flush_socket, mailbox.handle, log, resolver)
        self.pending_operations = PendingOperations(mailbox.handle)
        self.store = open_store(config.state, base_dir=config.folder)
        self.persistence = Persistence(
            self.store,
            self.director,
            mailbox.handle,
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
        # The driver feeds the core with the events, and passes its effects to these parts.
        self.driver = Driver(
            self.director,
            mailbox,
            log,
            ring=self.ring,
            logins=self.logins,
            lookups=self.lookups,
            kicker=self.kicker,
            programs=self.programs,
            pending_operations=self.pending_operations,
            store=self.persistence,
        )
        # The program: its replacement, its files, its listeners.
        self.notifier = Notifier(os.environ)
        self.replacement = Replacement(self, log, self.notifier, inherited)
        self.credentials = Credentials(lambda: self.config, log, tls=lambda: self.ring.tls)
        self.internal_errors = InternalErrors(log)
        self.listeners = Listeners(sockets, self.director, mailbox, self.internal_errors, log, config.limits)
        # Operators, and changes of the configuration file, which are made like an operator's.
        self.operations = Operations(
            self.director,
            self.pending_operations,
            self.ring,
            self.persistence,
            user_hash,
            lookups=counts,
            watch=self.watch,
            internal_errors=self.internal_errors,
            reloads=self.replacement,
            resolver=resolver,
            started=self.started,
            warm_seconds=lambda: self.manager_reports.warm_seconds,
            credentials=self.credentials,
            listeners=self.listeners,
            sockets_kept_by=lambda: keeper.kept_by if keeper is not None else "",
            before=inherited.handover.counted if inherited else None,
            log_writer=log_writer,
        )
        self.manager_reports = ManagerReports(
            self.director,
            self.persistence,
            self.operations,
            self.replacement,
            self.notifier,
            log,
            begun=begun,
        )
        self.file_applier = FileApplier(
            self.director, self.persistence, self.operations.hosts, self.backend_names, log
        )
        self.notify = NotifyReader(
            self.logins.names_seen,
            self.logins.notify_skipped,
            inherited.handover.notify_rest if inherited else b"",
        )
        self._listening: list[tuple[Serve, Acceptor]] = []
        self.relays: list[Relay] = []
        self.endpoints = OperatorEndpoints(
            lambda: self.config,
            self.listeners,
            self.logins,
            self.lookups,
            self.operations,
            self.pending_operations,
            internal_errors=self.internal_errors,
            log=log,
        )
        self._ended = anyio.Event()
        self._end = ""
        """Name of the signal that ended the director; empty: the program is to be replaced."""

    # ---- sockets

    def prepare(self) -> None:
        """Assign a handler to each socket. Connections wait in the kernel until `serve`."""
        config, listeners = self.config, self.listeners
        relays = (
            ("login", config.dovecot.auth_socket, False),
            ("userdb", config.dovecot.userdb_socket, True),
        )
        for name, upstream, passlines in relays:
            acceptor = listeners.acceptor(name)
            if acceptor is not None:
                relay = Relay(name, upstream, passlines, self.logins)
                self.relays.append(relay)
                self._listening.append((relay.serve, acceptor))
                listeners.counted_elsewhere[name] = partial(len, relay.clients)
        self._ring_acceptor = listeners.acceptor("ring")
        if self._ring_acceptor is not None:
            self._listening.append((self._serve_ring, self._ring_acceptor))
        self.endpoints.prepare()

    def _names_answered(self, answers: Mapping[str, Answer]) -> None:
        self.ring_names.answered(answers)
        self.backend_names.answered(answers)

    def _moved(self, now: Endpoint) -> None:
        """Replace the program because this director has another address: all its parts know the old one."""
        if time.monotonic() < self._moved_at + MOVES_AGAIN:
            return
        self._moved_at = time.monotonic()
        self.log.warning(
            "own_address_changed",
            before=self.director.me,
            after=str(now),
            note="this director replaces itself in place, with the new address",
        )
        os.kill(os.getpid(), signal.SIGUSR2)

    # ---- running

    async def serve(self) -> Inherited | None:
        """Run until SIGTERM or SIGINT, then write the rest; or run until a successor takes over.

        Returns the state for the successor if the successor could not be started, so that this program takes
        over again; else None.
        """
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)
        doubted = self._inherited is not None and self._inherited.handover.clock_doubted
        now = Now(time.monotonic(), unix_time())
        if clock_is_behind(self.config, now.unix, self.log) or doubted:
            self.director.clock.doubt(now, before_start=self._inherited is None)
        if self._inherited is None:
            await self.persistence.open()
        else:
            self._take_over(self._inherited)
        garbage.begin()
        try:
            await self._serve()
        finally:
            self.listeners.close()
            self.notifier.close()
            if self.replacement.inherited is None:
                await self.persistence.stop()
            else:
                await self.persistence.abandon()
        if self.replacement.inherited is None:
            self.log.info("stopped")
        return self.replacement.inherited

    async def _serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._hear_signals)
            await tasks.start(self.driver.run)
            tasks.start_soon(self.watch.run)
            await tasks.start(self.programs.run)
            tasks.start_soon(garbage.run)
            await tasks.start(self.operations.jobs.run)
            tasks.start_soon(self.kicker.run)
            tasks.start_soon(self.name_watch.run)
            tasks.start_soon(self.credentials.run)
            for serve, acceptor in self._listening:
                tasks.start_soon(serve, acceptor)
            if self.sockets.fifo is not None:
                tasks.start_soon(self._read_notify, self.sockets.fifo)
            if self.keeper is not None:
                tasks.start_soon(self.keeper.run, self.sockets)
            tasks.start_soon(self.persistence.run)
            self.mailbox.handle(Started())
            if self._inherited is not None:
                await self._adopt(self._inherited.handover)
                sizes = self._inherited.handover.name_bytes
                tasks.start_soon(load_names, self.director.names, self._inherited.memory, sizes)
            tasks.start_soon(self.file_applier.run)
            tasks.start_soon(self.endpoints.run)
            tasks.start_soon(self.manager_reports.run)
            self.log.info(
                "started",
                version=VERSION,
                member=self.director.me,
                compiled=hotpath.COMPILED,
                ring_members=len(self.director.ring.servers),
                predecessor=self._inherited.handover.version if self._inherited else None,
                connections_kept=len(self._inherited.handover.connections) if self._inherited else None,
            )
            await self._ended.wait()
            if self._end:
                self.log.info("stopping", signal=self._end)
                self.notifier.stopping()
                await self.endpoints.finish_commands()
                await self.driver.leave()
                self._refuse_links()
                self.driver.stop()
                for relay in self.relays:
                    relay.stop()
            else:
                for relay in self.relays:
                    await relay.finish_accepting()
                self.replacement.go()
            tasks.cancel_scope.cancel()

    async def read_again(self) -> tuple[Config, RingTls | None]:
        """Return the configuration in the file now, and the certificates if the ring has TLS.

        Raises DirectorError.
        """
        try:
            return await anyio.to_thread.run_sync(read_again, self.config, self.ring.tls)
        except DirectorError:
            self.credentials.look_soon()
            raise

    async def apply(self, new: Config, tls: RingTls | None) -> list[str]:
        """Apply the settings of `new` that can change while the director runs.

        Args:
            new: the configuration in force from now on; other settings are as before.
            tls: the certificates, read again.

        Returns the settings whose files have changed.
        """
        before, self.config = self.config, new
        if new.backends != before.backends:
            self.backend_names.set_config(new.backends)
        first, second = ring_secrets(new)
        self.mailbox.handle(IdentityChanged(first, second, backends_digest(new)))
        if new.ring.secret != before.ring.secret:
            self.persistence.secrets_changed()
        self.credentials.look_soon()
        self.log.set_level(new.log.level)
        self.director.set_limits(limits(new))
        self.listeners.set_limits(new.limits)
        changed = []
        if tls is not None and self.ring.set_tls(tls):
            changed.append("ring.tls (certificates)")
        return changed + [f"state ({name})" for name in await self.persistence.read_passwords_again()]

    def warnings_of(self, new: Config) -> list[str]:
        """Return warnings about the changed backends of another configuration."""
        if new.backends == self.config.backends:
            return []
        return self.operations.queries.plan_settings(
            new.backends.mail_servers, new.backends.unresolved
        ).warnings

    def loading(self) -> float | None:
        """Return how much of the store has been read, 0.0 to 1.0; None if it is not being read."""
        return self.persistence.loaded_part if self.director.loading else None

    async def close_endpoints(self, within: float) -> None:
        """Let operators' commands end, for `within` seconds at most; then accept no more commands."""
        await self.endpoints.close(within)

    async def write_changes(self, within: float) -> None:
        """Write changes to the store, for `within` seconds at most."""
        await self.persistence.write_changes(within)

    async def leave(self) -> None:
        """Leave the ring, unless the director ends anyway."""
        if not self._ended.is_set():
            await self.driver.leave()

    def end(self, name: str) -> None:
        """End the director. name: the signal; empty: stop, and be replaced by another program."""
        if not self._ended.is_set():
            self._end = name
            self._ended.set()

    def hand_over(self, replacement: ReplacementRecord) -> Inherited:
        """Stop. Returns the state for a successor; see `_take_over` and `_adopt`."""
        self.driver.stop()
        held_lines = self.logins.held_lines()
        given = [
            connection
            for relay in self.relays
            for connection in relay.hand_over(lambda client: held_lines.get(client, []))
        ]
        tables, audit = self.persistence.hand_over()
        users, names = self.director.users, self.director.names
        entries = [names.raw(number) for number in range(BUCKETS)]
        handover = Handover(
            version=VERSION,
            replacement=replacement,
            username_hash=self.director.identity.username_hash,
            listening=self.sockets.hand_over(),
            keeper=self.keeper.hand_over() if self.keeper else None,
            children=self.keeper.children if self.keeper else [],
            notify_rest=self.notify.rest,
            connections=given,
            incarnation=self.director.ring.presence.number,
            minority_since=self.director.minority_since,
            clock_doubted=self.director.clock.doubted,
            tables=tables,
            under_way=self.operations.jobs.hand_over(),
            ended=self.operations.jobs.ended(),
            operations=self.pending_operations.last,
            audit=audit,
            unstored=self.persistence.unstored.changes(),
            counted=self.operations.metrics.counted(),
            log_unwritten=self.log_writer.hand_over() if self.log_writer else b"",
            name_bytes=list(map(len, entries)),
        )
        records = b"".join([users.bucket(number) for number in range(BUCKETS)])
        return Inherited(handover, Memory(records, b"".join(entries)))

    def _take_over(self, inherited: Inherited) -> None:
        """Take over the state of a predecessor, before anything is served."""
        handover, memory = inherited
        self.persistence.take_over(handover.tables, handover.audit)
        if handover.username_hash != self.director.identity.username_hash:
            memory.users = memory.names = b""  # their keys were made with another hash
        self.persistence.unstored.take_over(handover.unstored)
        self.operations.jobs.take_over(handover.ended, handover.under_way, handover.operations)
        self.director.take_over(handover.minority_since)
        load_users(self.director, memory, self.mailbox.handle)

    async def _adopt(self, handover: Handover) -> None:
        """Take over the connections of a predecessor. The relays must run."""
        for relay in self.relays:
            await relay.take_over(
                [connection for connection in handover.connections if connection.relay == relay.name]
            )
        names = {relay.name for relay in self.relays}
        for connection in handover.connections:
            if connection.relay not in names:  # the new configuration has this listener off
                for descriptor in (connection.client, connection.auth):
                    if descriptor >= 0:
                        os.close(descriptor)

    # ---- ends, signals, sockets

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Record an error in a callback of the loop, where no task catches it."""
        exc = context.get("exception")
        if isinstance(exc, OSError):
            self.log.warning("connection_failed", reason=exc.strerror or str(exc), note=context["message"])
            return
        self.internal_errors.record(context["message"], exc)

    async def _hear_signals(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(*reexec.DEFERRED) as signals:
                reexec.listen_to_signals()
                task_status.started()
                async for number in signals:
                    if number == signal.SIGHUP:
                        tasks.start_soon(self.replacement.reload)
                    elif number == signal.SIGUSR2:
                        tasks.start_soon(self.replacement.replace)
                    else:
                        self.end(signal.Signals(number).name)

    async def _read_notify(self, fifo: Fifo) -> None:
        ear = self.config.listen.notify
        reopen = partial(open_fifo, "notify", fifo.where, mode=ear.mode, user=ear.user, group=ear.group)
        await read_fifo(fifo, self.notify, reopen, self.log)

    async def _serve_ring(self, acceptor: Acceptor) -> None:
        await acceptor.serve_protocols(self.ring.new_link)

    def _refuse_links(self) -> None:
        """Refuse new ring connections from now on.

        This comes before the good-bye. A neighbour that loses its link connects again at once. If it were
        accepted, it would wait until this process ends, and new users with it: 1.1 s with Dovecot 2.3's
        director.
        """
        if self._ring_acceptor is not None:
            self._ring_acceptor.refuse()

    def status_line(self) -> str:
        return self.manager_reports.status_line()
