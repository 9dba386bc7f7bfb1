"""Addresses of the names in `backends.mail_servers` while the director runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import anyio
import msgspec

from director.core.backendnames import NameAddresses
from director.core.tables.hosts import BackendSetting
from director.service.configuration.config import BackendsConfig
from director.service.log import Log
from director.service.resolution.namewatch import Answer
from director.types import Address

Hosts = tuple[tuple[BackendSetting, ...], tuple[BackendSetting, ...]]
"""The hosts of the file with known addresses; the names of the file without a known address."""


class BackendNames:
    """The hosts of the file at any time. A name that cannot be resolved keeps its last addresses."""

    def __init__(self, config: BackendsConfig, log: Log) -> None:
        self.changed = anyio.Event()
        """Set when the hosts change, and then replaced by a new event."""
        self._log = log
        self._known: dict[str, NameAddresses] = {}
        self._config = config
        self._unresolved: set[str] = set()
        self.set_config(config)
        self._unresolved = {setting.hostname for setting in self.hosts()[1]}

    def set_config(self, config: BackendsConfig) -> None:
        """Take over a changed file. Names that it still has keep their addresses."""
        self._config = config
        known = {name.hostname: self._known.get(name.hostname, NameAddresses()) for name in config.names}
        self._known = known
        for name in config.names:
            found = [setting.address for setting in config.mail_servers if setting.hostname == name.hostname]
            known[name.hostname].answered(found, time.monotonic())
        self._tell_changed()

    @property
    def names(self) -> Sequence[str]:
        return list(self._known)

    def hosts(self) -> Hosts:
        """Return the hosts as of now.

        If two names have the same address, the host is the name that was resolved, else the first name.
        """
        fixed = [setting for setting in self._config.mail_servers if not setting.hostname]
        found: dict[Address, BackendSetting] = {setting.address: setting for setting in fixed}
        names = sorted(self._config.names, key=lambda name: name.hostname in self._unresolved)
        for name in names:
            for address in self._known[name.hostname].addresses:
                found.setdefault(address, msgspec.structs.replace(name, address=address))
        known = {setting.hostname for setting in found.values()}
        return tuple(found.values()), tuple(name for name in self._config.names if name.hostname not in known)

    def answered(self, answers: Mapping[str, Answer]) -> None:
        """Take the answers of the name service."""
        before, now = self.hosts(), time.monotonic()
        problems: dict[str, str] = {}
        for name, known in self._known.items():
            answer = answers.get(name, "it was not resolved in this round")
            if isinstance(answer, str):
                problems[name] = answer
            else:
                known.answered(answer, now)
        self._tell(problems)
        after = self.hosts()
        if set(after[0]) != set(before[0]) or after[1] != before[1]:
            self._tell_changed()

    def _tell_changed(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def _tell(self, problems: Mapping[str, str]) -> None:
        """Log a name when it cannot be resolved any more, and when it can be again."""
        for name, known in self._known.items():
            where = " ".join(known.addresses)
            if name in problems and name not in self._unresolved:
                note = (
                    f"its address stays {where}; retrying every 5 s"
                    if where
                    else "its host stays as it is; retrying every 5 s"
                )
                self._log.warning("name_unresolved", name=name, reason=problems[name], note=note)
            elif name not in problems and name in self._unresolved:
                self._log.info("name_resolved", name=name, address=where)
        self._unresolved = set(problems)
