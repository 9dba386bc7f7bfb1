"""All listeners of a director: opened here, by the service manager, or by a predecessor in this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from director.errors import ListenError
from director.net import listen
from director.net.keeper import NAMES, Kept
from director.service.configuration.config import Config, ListenerConfig
from director.service.configuration.servers import Endpoint
from director.service.lifecycle.handover import HandedListener, split
from director.service.lifecycle.sysd import inherited_descriptors
from director.service.log import Log

ADMIN_TCP, SOCKETMAP_TCP = "admin-tcp", "socketmap-tcp"
"""Names of TCP listeners that have a unix socket beside them; also used in socket units."""

Place = tuple[str, str, ListenerConfig | Endpoint]
"""Name of a listener, its place, and how it is opened."""


class Sockets:
    """All listeners, which are open once it is created. Use it in a `with` block, or call `close`."""

    def __init__(
        self,
        config: Config,
        log: Log,
        environ: Mapping[str, str],
        before: Sequence[HandedListener] | None = None,
        kept: Sequence[HandedListener] = (),
    ) -> None:
        """
        Args:
            before: the listeners of a predecessor; None if there was none.
            kept: the listeners that a keeper holds for a director that has ended. If this director cannot
                start, the keeper continues to hold them.

        Raises ListenError, but not after a predecessor: then a listener that cannot be opened at its new
        place stays at its former place, and the error is logged.
        """
        self._log, self._may_fail = log, before is not None
        self._listeners: dict[str, listen.Listener] = {}
        self._fifo: listen.Fifo | None = None
        self._from_units: set[str] = set()
        self._stack = ExitStack()
        try:
            given = [*_from_units(environ), *kept] if before is None else before
            self._open_all(given, _places(config))
        except BaseException:
            self.leave_files({entry.name for entry in kept})
            self.close()
            raise

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets, and remove the files that were made here."""
        self._stack.close()

    def hand_over(self) -> list[HandedListener]:
        """Return all listeners for a successor. They stay open."""
        return [
            HandedListener(
                name=name,
                where=opened.where,
                owns_file=opened.owns_file,
                descriptor=opened.hand_over(),
                from_unit=name in self._from_units,
            )
            for name, opened in (*self._listeners.items(), *((("notify", self._fifo),) if self._fifo else ()))
        ]

    def to_keep(self) -> list[Kept]:
        """Return the sockets for a keeper: those not held by the service manager. They stay open here."""
        opened = [self._opened(name) for name in NAMES if name not in self._from_units]
        return [
            kept
            for listener in opened
            if listener is not None and (kept := listen.to_keep(listener)) is not None
        ]

    def all_from_units(self) -> bool:
        """Return whether the service manager holds every listener that a keeper would hold."""
        opened = [name for name in NAMES if self._has(name)]
        return bool(opened) and self._from_units.issuperset(opened)

    def leave_files(self, names: Iterable[str]) -> None:
        """Do not remove the files of these listeners at the end, because a keeper continues with them."""
        for name in names:
            opened = self._opened(name)
            if opened is not None:
                opened.leave_file()

    def get(self, name: str) -> socket.socket | None:
        """Return a second descriptor of a listener for the loop, which closes it; None if it is off."""
        listener = self._listeners.get(name)
        if listener is None:
            return None
        second = listener.socket.dup()
        self._stack.callback(second.close)
        return second

    @property
    def fifo(self) -> listen.Fifo | None:
        """The FIFO; None if it is off."""
        return self._fifo

    # ---- opening

    def _open_all(self, given: Iterable[HandedListener], places: Sequence[Place]) -> None:
        kept, unwanted = split(given, ((name, where) for name, where, _ in places))
        for listener in kept.values():
            if self._has(listener.name):  # a unit has opened the listener at another place than the keeper
                _adopted(listener).close()
                continue
            self._keep(_adopted(listener))
            if listener.from_unit:
                self._from_units.add(listener.name)
        for name, where, how in places:
            if not self._has(name):
                self._try(name, partial(self._open, name, how))
            elif isinstance(how, ListenerConfig) and (name, where) in kept and kept[name, where].owns_file:
                rights = partial(
                    listen.set_rights, name, where, mode=how.mode, user=how.user, group=how.group
                )
                self._try(name, rights)
        for listener in unwanted:
            if self._has(listener.name) or listener.name not in {name for name, *_ in places}:
                _adopted(listener).close()
            else:
                self._keep(_adopted(listener))  # the listener could not be opened at its new place

    def _has(self, name: str) -> bool:
        return self._opened(name) is not None

    def _opened(self, name: str) -> listen.Listener | listen.Fifo | None:
        return self._fifo if name == "notify" else self._listeners.get(name)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except ListenError as exc:
            if not self._may_fail:
                raise
            note = "the former socket of this listener, if any, stays in use"
            self._log.error("listener_failed", listener=name, reason=str(exc), note=note)

    def _open(self, name: str, how: ListenerConfig | Endpoint) -> None:
        if isinstance(how, Endpoint):
            self._keep(listen.tcp_listener(name, how.address, how.port))
            return
        make = listen.open_fifo if name == "notify" else listen.unix_listener
        self._keep(make(name, how.path, mode=how.mode, user=how.user, group=how.group))

    def _keep(self, opened: listen.Listener | listen.Fifo) -> None:
        self._stack.callback(opened.close)
        if isinstance(opened, listen.Fifo):
            self._fifo = opened
        else:
            self._listeners[opened.name] = opened


def _adopted(listener: HandedListener) -> listen.Listener | listen.Fifo:
    adopt = listen.adopt_fifo if listener.name == "notify" else listen.adopt_listener
    return adopt(listener.name, listener.descriptor, listener.where, owns_file=listener.owns_file)


def _from_units(environ: Mapping[str, str]) -> list[HandedListener]:
    """Return the listeners that the service manager has opened; the first, if several have the same name."""
    found = inherited_descriptors(environ, os.getpid())
    return [
        HandedListener(name=name, where="", descriptor=descriptors[0], from_unit=True)
        for name, descriptors in found.items()
    ]


def _places(config: Config) -> list[Place]:
    """Return the place of each listener that is on."""
    ears = config.listen
    files = {
        "login": ears.login,
        "userdb": ears.userdb,
        "notify": ears.notify,
        "admin": ears.admin,
        "authreply": ears.authreply,
        "socketmap": ears.socketmap,
        "api": ears.api,
    }
    # With a secret the ring listener is open, because `director ring add` may add directors later.
    ports = {
        ADMIN_TCP: ears.admin.tcp,
        SOCKETMAP_TCP: ears.socketmap.tcp,
        "ring": config.ring.listen if config.ring.secret else None,
        "http": config.http.listen,
    }
    found: list[Place] = []
    found += [(name, file.path, file) for name, file in files.items() if file.path]
    found += [(name, str(port), port) for name, port in ports.items() if port is not None]
    return found
