"""All that others connect to: opened here, by the service manager, or by the program that was here before."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from director.errors import ListenError
from director.net import listen
from director.service.config import Config, ListenerConfig
from director.service.handover import Listening, split
from director.service.log import Log
from director.service.servers import Endpoint
from director.service.sysd import inherited_descriptors

ADMIN_TCP, SOCKETMAP_TCP = "admin-tcp", "socketmap-tcp"
"""Names, for socket units too, of listeners that have a unix socket beside them."""


class Sockets:
    """Everything is open when it has been made. `with` it, or call `close`."""

    def __init__(
        self, config: Config, log: Log, environ: Mapping[str, str], before: Sequence[Listening] | None = None
    ) -> None:
        """before: what a predecessor has left; None: there was none. Raises ListenError.

        Behind a predecessor nothing is raised: what cannot be opened at its new place is served on at the
        former one, and said.
        """
        self._log = log
        self._listeners: dict[str, listen.Listener] = {}
        self._fifo: listen.Fifo | None = None
        self._from_units: set[str] = set()
        self._stack = ExitStack()
        units = inherited_descriptors(environ, os.getpid()) if before is None else {}
        self._units = {name: descriptors[0] for name, descriptors in units.items()}
        self._before = before
        places = list(_places(config))
        self._kept, self._left = split(before or (), ((name, where) for name, where, _ in places))
        try:
            self._open_all(config, places)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Files go with the sockets, where they were made here."""
        self._stack.close()

    def hand_over(self) -> list[Listening]:
        """Everything, for a successor: it stays open."""
        return [
            Listening(
                name=name,
                where=one.where,
                owns_file=one.owns_file,
                descriptor=one.hand_over(),
                from_unit=name in self._from_units,
            )
            for name, one in (*self._listeners.items(), *((("notify", self._fifo),) if self._fifo else ()))
        ]

    def get(self, name: str) -> socket.socket | None:
        """A second descriptor for the loop, which closes what it has served; None: that listener is off."""
        listener = self._listeners.get(name)
        if listener is None:
            return None
        second = listener.socket.dup()
        self._stack.callback(second.close)
        return second

    @property
    def fifo(self) -> listen.Fifo | None:
        """The FIFO; None: it is off."""
        return self._fifo

    # ---- opening

    def _open_all(self, config: Config, places: Sequence[tuple[str, str, ListenerConfig | Endpoint]]) -> None:
        for name, _, how in places:
            if name not in self._units and not any(one.from_unit for one in self._former(name)):
                self._open(name, how)
        for name in [*self._units, *(one.name for one in self._kept.values() if one.from_unit)]:
            self._from_units.add(name)
            if name in self._units:
                self._keep(_adopted(Listening(name=name, where="", descriptor=self._units[name])))
            else:
                self._keep(_adopted(self._former(name)[0]))
        for one in self._left:
            open_now = self._fifo is not None if one.name == "notify" else one.name in self._listeners
            if not open_now and one.name in {name for name, *_ in places}:
                self._keep(_adopted(one))  # the new one could not be opened
            else:
                _adopted(one).close()

    def _former(self, name: str) -> list[Listening]:
        return [one for one in self._kept.values() if one.name == name]

    def _open(self, name: str, how: ListenerConfig | Endpoint) -> None:
        former = self._former(name)
        if former:
            self._keep(_adopted(former[0]))
            return
        try:
            if isinstance(how, Endpoint):
                self._keep(listen.tcp_listener(name, how.address, how.port))
                return
            make = listen.open_fifo if name == "notify" else listen.unix_listener
            self._keep(make(name, how.path, mode=how.mode, user=how.user, group=how.group))
        except ListenError as exc:
            if self._before is None:
                raise
            self._log.error(
                "listener_failed", listener=name, reason=str(exc), note="as before, if it was open"
            )

    def _keep(self, opened: listen.Listener | listen.Fifo) -> None:
        self._stack.callback(opened.close)
        if isinstance(opened, listen.Fifo):
            self._fifo = opened
        else:
            self._listeners[opened.name] = opened


def _adopted(one: Listening) -> listen.Listener | listen.Fifo:
    adopt = listen.adopt_fifo if one.name == "notify" else listen.adopt_listener
    adopted = adopt(one.name, one.descriptor, owns_file=one.owns_file)
    adopted.where = one.where or adopted.where  # as it was written: the next successor looks for that
    return adopted


def _places(config: Config) -> list[tuple[str, str, ListenerConfig | Endpoint]]:
    """Name, place, and how it is opened, of each listener that is on."""
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
    # With a secret others may be added later, by `director ring add`.
    ports = {
        ADMIN_TCP: ears.admin.tcp,
        SOCKETMAP_TCP: ears.socketmap.tcp,
        "ring": config.ring.listen if config.ring.secret else None,
        "http": config.http.listen,
    }
    found: list[tuple[str, str, ListenerConfig | Endpoint]] = []
    found += [(name, file.path, file) for name, file in files.items() if file.path]
    found += [(name, str(port), port) for name, port in ports.items() if port is not None]
    return found
