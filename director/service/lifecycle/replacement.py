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
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from director.core.admission import MEMORY
from director.core.director import Director
from director.core.placement.names import NameTable
from director.core.protocol.events import Event, StoredUsers
from director.errors import DirectorError, TryAgain
from director.net.tls import RingTls
from director.records import ReloadInfo
from director.service.configuration.config import Config
from director.service.lifecycle import reexec
from director.service.lifecycle.handover import Inherited, Memory, ReplacementRecord
from director.service.lifecycle.reload import compare, live
from director.service.lifecycle.sysd import Notifier
from director.service.log import Log
from director.version import VERSION

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


class Replaceable(Protocol):
    """What is reloaded and replaced."""

    @property
    def config(self) -> Config: ...

    async def read_again(self) -> tuple[Config, RingTls | None]:
        """The configuration as its file says now, and the certificates of the ring where it has TLS. Raises
        DirectorError."""
        ...

    async def apply(self, new: Config, tls: RingTls | None) -> list[str]:
        """The live keys of another configuration count from now on. Returns what else was read again: names
        of settings whose files have changed."""
        ...

    def warnings_of(self, new: Config) -> list[str]:
        """What another configuration leads to that may not be wanted."""
        ...

    def loading(self) -> float | None:
        """While the store is being read: how much of it has been, 0.0 to 1.0."""
        ...

    async def close_endpoints(self, within: float) -> None:
        """Let operators' commands end, for `within` seconds at most; then accept no more of them."""
        ...

    async def settle(self, within: float) -> None:
        """Write to the store what has changed, for `within` seconds at most."""
        ...

    async def leave(self) -> None:
        """Leave the ring, unless the process ends anyway."""
        ...

    def end(self, name: str) -> None:
        """name: of the signal; empty: freeze, and go on as another program."""
        ...

    def freeze(self, replacement: ReplacementRecord) -> Inherited:
        """Stop. Returns all that is kept."""
        ...

    def status_line(self) -> str: ...


class Replacement:
    """Reloads and replacements of one director, one after the other."""

    def __init__(
        self, target: Replaceable, log: Log, notifier: Notifier, inherited: Inherited | None
    ) -> None:
        """inherited: from the program that was here before."""
        self.inherited: Inherited | None = None
        """What is to be taken over from ourselves, since the other program could not be started."""
        self._target, self._log, self._notifier = target, log, notifier
        self._before = inherited.handover.replacement if inherited else None
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
        target, begun = self._target, time.monotonic()
        self._notifier.reloading(begun)
        try:
            new, tls = await target.read_again()
        except DirectorError as exc:
            self._log.error("reload_failed", reason=str(exc), note="all is as before")
            info = ReloadInfo(state="failed", version=VERSION, problem=str(exc), number=self._number)
        else:
            changes, warnings = compare(target.config, new), target.warnings_of(new)
            if not dry_run:
                changes.applied.extend(await target.apply(live(target.config, new), tls))
                self._log.info("reloaded", applied=changes.applied, needs_exec=changes.needs_exec)
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
        self._notifier.ready(target.status_line())
        return info

    async def _probe(self) -> str:
        """The version of a program that can take over. A start with a certificate that other directors refuse
        is only warned of; here it would cost a good one. Raises CannotReplace."""
        version = await reexec.probe()
        try:
            await self._target.read_again()
        except DirectorError as exc:
            raise reexec.CannotReplace(str(exc)) from exc
        return version

    async def _warnings(self) -> list[str]:
        """What the file as it is now leads to; of one that cannot be read there are none."""
        with suppress(DirectorError):
            new, _ = await self._target.read_again()
            return self._target.warnings_of(new)
        return []

    # ---- the program

    async def replace(self) -> None:
        """Have another program take over, if it can. Once at a time."""
        target = self._target
        if self._busy:
            self._log.info("replacing_already")
            return
        self._busy, self._begun = True, time.monotonic()
        self._info = ReloadInfo(state="under_way", exec=True, version=VERSION, number=self._number)
        self._notifier.reloading(self._begun)
        try:
            await self._wait_for_store()
            version = await self._probe()
        except reexec.CannotReplace as exc:
            self._refused(str(exc))
            self._notifier.ready(target.status_line())
            self._busy = False
            return
        self._backends_warnings = await self._warnings()
        self._log.info("replacing", version=VERSION, by=version)
        await target.close_endpoints(FINISH_WITHIN)
        await target.settle(SETTLE_WITHIN)
        reexec.defer_signals()
        await anyio.sleep(SIGNALS_WITHIN)
        await target.leave()
        target.end("")

    async def _wait_for_store(self) -> None:
        """While it is read, who is not in memory may be in it: a successor would place that user anew."""
        until = time.monotonic() + READ_WITHIN
        while (part := self._target.loading()) is not None:
            if time.monotonic() > until:
                raise reexec.CannotReplace(f"the store is read to {100 * part:.0f} % only; try again later")
            await anyio.sleep(STORE_LOOK)

    def go(self) -> None:
        """Become the other program. Returns only where it cannot be started: see `inherited`."""
        replacement = ReplacementRecord(
            version=VERSION,
            begun=self._begun,
            frozen=time.monotonic(),
            number=self._number + 1,
            warnings=self._backends_warnings,
        )
        inherited = self._target.freeze(replacement)
        try:
            reexec.replace(inherited.handover, inherited.memory, os.environ)
        except reexec.CannotReplace as exc:
            replacement.problem = str(exc)
            replacement.number -= 1
            self.inherited = inherited

    def served(self) -> None:
        """Logins are answered."""
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
            paused=round(now - before.frozen, 3),
            warnings=before.warnings,
        )
        self._log.info(
            "replaced",
            version=VERSION,
            before=before.version,
            seconds=self._info.seconds,
            paused=self._info.paused,
            number=before.number,
        )

    def _refused(self, problem: str) -> None:
        self._log.error("not_replaced", reason=problem, note="this program serves on")
        self._info = ReloadInfo(
            state="failed", exec=True, version=VERSION, number=self._number, problem=problem
        )

    @property
    def _number(self) -> int:
        return self._before.number if self._before else 0
