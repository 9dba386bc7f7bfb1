"""`director serve`: the process of a director, from its configuration file to its exit code."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext

import anyio
import anyio.abc

from director import web
from director.core.protocol.clock import cannot_start, doubt
from director.errors import EX_CONFIG, EX_UNAVAILABLE, DirectorError, ListenError
from director.service.app import App
from director.service.configuration.config import Config
from director.service.configuration.configfile import load
from director.service.lifecycle import descriptors, reexec
from director.service.lifecycle.handover import Inherited, cannot_read
from director.service.lifecycle.keeper import KeeperClient
from director.service.lifecycle.sockets import Sockets
from director.service.lifecycle.startattempt import StartAttempt
from director.service.log import Log, capture_logging, everything_logged
from director.service.logwriter import LogWriter
from director.stored.storeidentity import OtherCluster
from director.version import VERSION
from state.base import SchemaTooNew, StoreBusy, StoreError
from state.urls import open_store

EX_SOFTWARE = 70
"""Exit code of an internal error, as in sysexits."""
OWN_NAME_WITHIN = 10.0
"""Seconds that the own name may take to be resolved at the start."""
GIL_SWITCH = 0.0005
"""Seconds that a thread of the store may keep the interpreter from the loop that answers logins."""
STDERR = 2
"""The descriptor of the log."""


def run(config_path: str, *, check: bool = False) -> int:
    """Run `director serve`. Returns the exit code.

    The program may be the successor of a program in this process, which has left its state, and may be
    replaced itself.
    """
    reexec.ignore_until_served()
    descriptors.raise_limit()
    attempt = StartAttempt({} if check else os.environ)
    with closing(LogWriter(STDERR)) as log_writer:
        try:
            inherited = None if check else reexec.handed_over(os.environ)
        except DirectorError as exc:
            log_writer.start(f"{exc}\n".encode())
            return exc.exit_code
        if inherited is not None:
            attempt = StartAttempt({})  # the service manager's descriptors have other numbers by now
        log_writer.start(inherited.handover.log_unwritten if inherited else b"")
        code = _run(config_path, check, inherited, log_writer, attempt)
    return attempt.ended(code)


def _run(
    config_path: str, check: bool, inherited: Inherited | None, log_writer: LogWriter, attempt: StartAttempt
) -> int:
    def own_awaited(missing: str) -> None:
        if attempt.first:
            text = f"{missing}; retrying for {OWN_NAME_WITHIN:g} s"
            log_writer.write(f"{config_path}: {text}\n")

    try:
        own_within = 0.0 if check else OWN_NAME_WITHIN
        config = load(config_path, os.environ, own_within=own_within, own_awaited=own_awaited)
        descriptors.check(len(config.ring.servers))
    except DirectorError as exc:
        if attempt.fails(str(exc)):
            log_writer.write(f"{exc}\n" + (f"cannot start, {attempt.note}\n" if attempt.note else ""))
        return exc.exit_code
    log = Log(log_writer.write, format=config.log.format, level=config.log.level, hide_user=_hidden(config))
    capture_logging(log)
    with nullcontext() if check else everything_logged(log, log_writer):
        return _run_loop(config, log, check, inherited, log_writer, attempt)


def _warn(config: Config, log: Log) -> None:
    """Log the problems of the configuration that do not keep the director from starting."""
    for warning in config.warnings:
        log.warning("configuration_warning", file=config.file, problem=warning)
    if config.ring.readable:
        note = "the network can read what directors send, but not change it; set ring.tls to encrypt it"
        log.warning("ring_without_tls", directors=config.ring.readable, note=note)
    for problem in config.unresolved:
        note = "starting without it; retrying every 5 s"
        log.warning("name_unresolved", name=problem.name, reason=problem.reason, note=note)


def _run_loop(
    config: Config,
    log: Log,
    check: bool,
    inherited: Inherited | None,
    log_writer: LogWriter,
    attempt: StartAttempt,
) -> int:
    def fails(reason: str) -> None:
        if attempt.fails(reason):
            log.error("cannot_start", reason=reason, note=attempt.note)

    if attempt.first:
        _warn(config, log)
    problem = doubt(time.time())
    if problem and inherited is None and cannot_start(time.time()):
        fails(problem)
        return EX_CONFIG
    if problem and attempt.first:
        log.warning("clock_wrong", problem=problem)
    try:
        sys.setswitchinterval(GIL_SWITCH)
        while True:
            outcome = anyio.run(
                _main, config, log, check, inherited, log_writer, backend_options={"use_uvloop": True}
            )
            if isinstance(outcome, int):
                return outcome
            inherited = outcome  # the successor could not be started: this program takes over its own state
            log_writer.start()
    except DirectorError as exc:
        fails(str(exc))
        return exc.exit_code
    except (SchemaTooNew, StoreBusy, OtherCluster) as exc:
        fails(str(exc))
        return EX_CONFIG
    except Exception as exc:
        # The service manager starts the director again, with what was stored.
        if attempt.crashes(f"{type(exc).__name__}: {exc}"):
            log.error("program_crashed", error="".join(traceback.format_exception(exc)), note=attempt.note)
        return EX_SOFTWARE


def can_take_over(config_path: str, format: int) -> int:
    """Run `serve --can-take-over`: check whether this program can take over a document of this format.

    Prints the version of the program. Returns the exit code.
    """
    problem = cannot_read(format)
    if problem:
        print(f"the hand-over document cannot be read: {problem}", file=sys.stderr)
        return EX_CONFIG
    try:
        config = load(config_path, os.environ)
        open_store(config.state, base_dir=config.folder)
        web.load()
    except DirectorError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    print(VERSION)
    return 0


def _hidden(config: Config) -> Callable[[str], object] | None:
    """Return the function that hides user names in the log; None if they are not hidden."""
    if config.log.user_names == "plain":
        return None
    return lambda name: hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]


async def _main(
    config: Config, log: Log, check: bool, inherited: Inherited | None, log_writer: LogWriter
) -> int | Inherited:
    with ExitStack() as stack:
        handed_over = (inherited.handover.keeper, inherited.handover.children) if inherited else (None, ())
        keeper = stack.enter_context(KeeperClient(config, log, *handed_over))
        before = inherited.handover.listening if inherited else None
        kept = () if inherited else keeper.copies() if check else keeper.take()
        try:
            sockets = Sockets(config, log, os.environ, before, kept)
        except ListenError:
            # A `director keep` that is starting may have opened the sockets a moment earlier.
            if inherited or check or kept or not (kept := keeper.take()):
                raise
            sockets = Sockets(config, log, os.environ, before, kept)
        stack.enter_context(sockets)
        if check:
            return await _check(App(config, log, sockets, None, log_writer))
        stack.enter_context(keeper.holding(sockets))
        app = App(config, log, sockets, inherited, log_writer, keeper)
        app.prepare()
        return await app.serve() or 0


async def _check(app: App) -> int:
    """Run `serve --check`: the configuration has been read; check that sockets and store can be opened."""
    try:
        await app.store.open()
        health = await app.store.health()
    except StoreError as exc:
        print(f"store: {exc}", file=sys.stderr)
        return EX_UNAVAILABLE
    finally:
        await app.store.close()
    for problem in app.config.unresolved:
        print(f"{app.config.file}: warning: {problem}; starting without it", file=sys.stderr)
    print(f"{app.config.file}: good; {app.store.url}: {health.server}; all sockets can be opened")
    return 0
