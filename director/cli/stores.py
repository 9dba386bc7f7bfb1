"""Common parts of the commands that open a store: which store, progress, the entry in the audit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from director.cli.progress import Progress
from director.cli.target import Target, config_option

if TYPE_CHECKING:
    from director.core.placement.hashing import UserHash
    from director.statetools.findings import TimeLimits
    from director.statetools.places import StorePlace
    from state.base import AuditEntry

SHOW_EVERY = 0.2
"""Seconds between two updates of the progress."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def store_options(command: F) -> F:
    """Add `-c` and `--store`."""
    store = click.option(
        "--store",
        metavar="URL",
        help="Open this store instead of the configured one; relative paths start here.",
    )
    return config_option(store(command))


class Chosen:
    """The store that the command line names, and the configuration of users."""

    def __init__(self, target: Target, store: str | None) -> None:
        """Read the configuration. With a store and no `-c` the configuration file need not exist.

        Args:
            store: value of --store, or None.

        Raises:
            ConfigErrors: the configuration file is wrong.
        """
        from director.service.configuration.config import Config
        from director.service.configuration.configfile import load_for_tools

        if store is None or target.config is not None:
            config = load_for_tools(target.config_path, os.environ)
        else:
            config = Config(file="", folder=Path.cwd())
        self._config = config
        self._url = store or str(config.state)
        self._folder = Path.cwd() if store else config.folder

    @property
    def place(self) -> StorePlace:
        from director.statetools.places import StorePlace

        return StorePlace(self._url, self._folder)

    def user_hash(self) -> UserHash:
        from director.core.placement.hashing import UserHash

        return UserHash(self._config.users.username_hash, self._config.users.master_user_separator)

    def limits(self) -> TimeLimits:
        from director.statetools.findings import TimeLimits

        return TimeLimits.at(time.time(), int(self._config.users.expire))


class Meter:
    """Shows the progress on a terminal; elsewhere nothing."""

    def __init__(self, name: str) -> None:
        self._name, self._line, self._due = name, Progress(), 0.0
        self.begun = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + SHOW_EVERY
        text = f"{self._name}: {100 * done // max(of, 1)} %"
        if done and now - self.begun > 1:
            text += f", {(now - self.begun) * (of - done) / done:.0f} s left"
        self._line.show(text)

    def show_text(self, text: str) -> None:
        self._line.show(f"{self._name}: {text}")

    def clear(self) -> None:
        self._line.clear()


def run_work(work: Callable[[], Coroutine[Any, Any, T]], meter: Meter) -> T:
    """Run the work and return its result. Ctrl-C interrupts it."""
    import anyio

    try:
        return anyio.run(work)
    finally:
        meter.clear()


def entry(what: str, detail: str, reason: str) -> AuditEntry:
    """The audit entry of what this command did to the store, with the user who runs it."""
    import getpass
    import socket

    from state.base import AuditEntry

    operator = f"{getpass.getuser()}@{socket.gethostname()}"
    return AuditEntry(at=time.time(), who=operator, what=what, target="state", detail=detail, reason=reason)
