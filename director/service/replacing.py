"""`director reload`, SIGHUP: the file is read again. `reload --exec`, SIGUSR2: the program is replaced.

    asked --the other program can--> doors closed --operators have their answers, store written--> out of the
    ring --> frozen: all that is open goes into one document --> the other program, in the same process

Until the last step everything can be called off; from there on the other program goes on, or, where it cannot
be started at all, this one takes over from itself. Logins are answered until the moment of the freeze.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from director.core.admission import MEMORY
from director.core.director import Director
from director.core.events import Event, StoredUsers
from director.core.names import NameTable
from director.core.users import BUCKETS
from director.errors import DirectorError, TryAgain
from director.net.tls import RingTls
from director.records import ReloadInfo
from director.service import reexec
from director.service.config import Config
from director.service.handover import Handover, Left, Memory, Replacement
from director.service.reloading import compare, live, read_again
from director.version import VERSION

if TYPE_CHECKING:
    from director.service.app import App

READ_WITHIN = 30.0
"""Seconds that are waited for a store that is being read at the start."""
STORE_LOOK = 0.05
"""Seconds between two looks at that."""
FINISH_WITHIN = 5.0
"""Seconds that operators' commands under way have to end."""
SETTLE_WITHIN = 1.0
"""Seconds that the store has to take what has changed. What it does not, it gets from the successor."""
NAMES_AT_ONCE = 16
"""Buckets of names that are taken in in one turn of the loop: of a million users, 4,000 in 1 ms."""
SIGNALS_WITHIN = 0.01
"""Seconds in which the loop hears of a signal that has come already."""


def load_users(director: Director, memory: Memory, handle: Callable[[Event], None]) -> None:
    """Users as a predecessor knew them. Who is not stored is found when all is compared with the store."""
    if memory.users:
        handle(StoredUsers(memory.users, MEMORY))
        director.users.take_dirty()
    memory.users = b""


async def load_names(names: NameTable, memory: Memory, sizes: Sequence[int]) -> None:
    """The same for names, a few at a time, while logins are answered: they take several times as long."""
    for entries in name_parts(memory, sizes):
        take_names(names, entries)
        await anyio.lowlevel.checkpoint()


def name_parts(memory: Memory, sizes: Sequence[int]) -> Iterator[bytes]:
    """What of the names is taken in in one turn of the loop each. sizes: of the buckets, in bytes."""
    start = 0
    for first in range(0, len(sizes), NAMES_AT_ONCE):
        end = start + sum(sizes[first : first + NAMES_AT_ONCE])
        yield memory.names[start:end]
        start = end
    memory.names = b""


def take_names(names: NameTable, entries: bytes) -> None:
    """Take in some names. They are stored already, or found when all is compared with the store."""
    dirty = names.take_dirty()
    names.merge(entries)
    names.take_dirty()
    for number in dirty:
        names.mark_dirty(number)


class Replacing:
    def __init__(self, app: App, left: Left | None) -> None:
        self.left: Left | None = None
        """What is to be taken over from ourselves, since the other program could not be started."""
        self._app = app
        self._before = left.handover.replacement if left else None
        self._busy = False
        self._begun = 0.0
        self._backends_warnings: list[str] = []
        """What the successor's file leads to."""
        self._info = ReloadInfo(state="never", version=VERSION)

    # ---- what operators ask

    def info(self) -> ReloadInfo:
        return self._info

    async def ask(self, *, exec: bool, dry_run: bool) -> ReloadInfo:
        """exec: returns at once, `info` says what becomes of it. Raises TryAgain while one is under way."""
        if self._busy:
            raise TryAgain("the program is being replaced already")
        if not exec:
            return await self.reload(dry_run=dry_run)
        if dry_run:
            return await self._try()
        self._info = ReloadInfo(state="under_way", exec=True, version=VERSION, number=self._number)
        os.kill(os.getpid(), signal.SIGUSR2)
        return self._info

    async def _try(self) -> ReloadInfo:
        try:
            await self._probe()
        except reexec.CannotReplace as exc:
            return ReloadInfo(state="failed", exec=True, version=VERSION, problem=str(exc))
        return ReloadInfo(state="done", exec=True, version=VERSION, warnings=await self._warnings())

    # ---- the file

    async def reload(self, *, dry_run: bool = False) -> ReloadInfo:
        """Read it again, and apply what can be applied. Where it is bad nothing is."""
        app, begun = self._app, time.monotonic()
        app.notifier.reloading(begun)
        try:
            new, tls = await self._read_again()
        except DirectorError as exc:
            app.log.error("reload_failed", reason=str(exc), note="all is as before")
            app.credentials.look_soon()
            info = ReloadInfo(state="failed", version=VERSION, problem=str(exc), number=self._number)
        else:
            changes, warnings = compare(app.config, new), self._warnings_of(new)
            if not dry_run:
                app.apply(live(app.config, new))
                if tls is not None and app.driver.sockets.set_tls(tls):
                    changes.applied.append("ring.tls (certificates)")
                changes.applied.extend(
                    f"state ({name})" for name in await app.persistence.read_passwords_again()
                )
                app.log.info("reloaded", applied=changes.applied, needs_exec=changes.needs_exec)
            took = round(time.monotonic() - begun, 3)
            info = ReloadInfo(
                state="done",
                version=VERSION,
                number=self._number,
                seconds=took,
                applied=changes.applied,
                needs_exec=changes.needs_exec,
                warnings=warnings,
            )
        if not dry_run:
            self._info = info
        app.notifier.ready(app.status_line())
        return info

    async def _read_again(self) -> tuple[Config, RingTls | None]:
        app = self._app
        return await anyio.to_thread.run_sync(read_again, app.config, app.driver.sockets.tls)

    async def _probe(self) -> str:
        """The version of a program that can take over. A start with a certificate that other directors refuse
        is only warned of; here it would cost a good one. Raises CannotReplace."""
        version = await reexec.probe()
        try:
            await self._read_again()
        except DirectorError as exc:
            raise reexec.CannotReplace(str(exc)) from exc
        return version

    def _warnings_of(self, new: Config) -> list[str]:
        """What the backends of another file lead to that may not be wanted."""
        app, backends = self._app, new.backends
        if backends == app.config.backends:
            return []
        return app.operations.plan_settings(backends.mail_servers, backends.unresolved).warnings

    async def _warnings(self) -> list[str]:
        """The same of the file as it is now; of one that cannot be read there are none."""
        with suppress(DirectorError):
            new, _ = await self._read_again()
            return self._warnings_of(new)
        return []

    # ---- the program

    async def replace(self) -> None:
        """Have another program take over, if it can. Once at a time."""
        app = self._app
        if self._busy:
            app.log.info("replacing_already")
            return
        self._busy, self._begun = True, time.monotonic()
        self._info = ReloadInfo(state="under_way", exec=True, version=VERSION, number=self._number)
        app.notifier.reloading(self._begun)
        try:
            await self._wait_for_store()
            version = await self._probe()
        except reexec.CannotReplace as exc:
            self._refused(str(exc))
            app.notifier.ready(app.status_line())
            self._busy = False
            return
        self._backends_warnings = await self._warnings()
        app.log.info("replacing", version=VERSION, by=version)
        await app.close_doors(FINISH_WITHIN)
        await app.persistence.settle(SETTLE_WITHIN)
        reexec.defer_signals()
        await anyio.sleep(SIGNALS_WITHIN)
        if not app.ending:
            await app.driver.leave()
        app.end("")

    async def _wait_for_store(self) -> None:
        """While it is read, who is not in memory may be in it: a successor would place him anew."""
        until = time.monotonic() + READ_WITHIN
        while self._app.director.loading:
            if time.monotonic() > until:
                part = round(100 * self._app.persistence.loaded_part)
                raise reexec.CannotReplace(f"the store is read to {part} % only; try again later")
            await anyio.sleep(STORE_LOOK)

    def go(self) -> None:
        """Become the other program. Returns only where it cannot be started: see `left`."""
        app = self._app
        app.driver.stop()
        frozen = time.monotonic()
        held = app.driver.held_lines()
        given = [one for relay in app.relays for one in relay.hand_over(lambda client: held.get(client, []))]
        tables, audit = app.persistence.hand_over()
        handover = Handover(
            version=VERSION,
            replacement=Replacement(
                version=VERSION,
                begun=self._begun,
                frozen=frozen,
                number=self._number + 1,
                warnings=self._backends_warnings,
            ),
            username_hash=app.director.identity.username_hash,
            listening=app.sockets.hand_over(),
            keeper=app.keeper.hand_over() if app.keeper else None,
            children=app.keeper.children if app.keeper else [],
            notify_rest=app.notify.rest,
            connections=given,
            incarnation=app.director.ring.presence.number,
            smaller_since=app.director.smaller_since,
            clock_doubted=app.director.clock.doubted,
            tables=tables,
            under_way=app.operations.hand_over(),
            operations=app.driver.operators.last,
            audit=audit,
            unstored=app.persistence.unstored.changes(),
            counted=app.operations.counted(),
            log_unwritten=app.log_writer.hand_over() if app.log_writer else b"",
        )
        users, names = app.director.users, app.director.names
        entries = [names.raw(number) for number in range(BUCKETS)]
        handover.name_bytes = list(map(len, entries))
        memory = Memory(b"".join([users.bucket(number) for number in range(BUCKETS)]), b"".join(entries))
        del entries
        try:
            reexec.replace(handover, memory, os.environ)
        except reexec.CannotReplace as exc:
            handover.replacement.problem = str(exc)
            handover.replacement.number -= 1
            self.left = Left(handover, memory)

    def served(self) -> None:
        """Logins are answered."""
        self._app.operations.go_on()
        before = self._before
        if before is None:
            return
        if before.problem:
            self._refused(before.problem)
            return
        now = time.monotonic()
        self._info = ReloadInfo(
            state="done",
            exec=True,
            version=VERSION,
            before=before.version,
            number=before.number,
            seconds=round(now - before.begun, 3),
            frozen=round(now - before.frozen, 3),
            warnings=before.warnings,
        )
        self._app.log.info(
            "replaced",
            version=VERSION,
            before=before.version,
            seconds=self._info.seconds,
            frozen=self._info.frozen,
            number=before.number,
        )

    def _refused(self, problem: str) -> None:
        self._app.log.error("not_replaced", reason=problem, note="this program serves on")
        self._info = ReloadInfo(
            state="failed", exec=True, version=VERSION, number=self._number, problem=problem
        )

    @property
    def _number(self) -> int:
        return self._before.number if self._before else 0
