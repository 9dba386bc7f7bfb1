"""Endpoints of operators and of programs that look up users: admin protocol, API, socketmap, authreply."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from director import web
from director.net.accept import Acceptor
from director.net.admin import AdminClients
from director.net.authreply import AuthreplySocket
from director.net.socketmap import serve_client as serve_socketmap_client
from director.service.configuration.config import Config
from director.service.endpoints.admin import AdminHandler
from director.service.endpoints.lookups import Lookups
from director.service.endpoints.socketmap import Socketmap
from director.service.internalerrors import InternalErrors
from director.service.lifecycle.listeners import Listeners
from director.service.lifecycle.sockets import ADMIN_TCP, SOCKETMAP_TCP
from director.service.log import Log
from director.service.loginrelay import LoginRelay
from director.service.operations.operations import Operations
from director.service.pendingoperations import PendingOperations

COMMANDS_WITHIN = 1.0
"""Seconds for admin commands that have arrived to be carried out."""
CHECK_EVERY = 0.02
"""Seconds between two checks whether operators' commands have ended."""


class OperatorEndpoints:
    """All listeners except logins and ring. They are closed before the program is replaced."""

    def __init__(
        self,
        config: Callable[[], Config],
        listeners: Listeners,
        logins: LoginRelay,
        lookups: Lookups,
        operations: Operations,
        pending_operations: PendingOperations,
        *,
        internal_errors: InternalErrors,
        log: Log,
    ) -> None:
        """config: returns the configuration in force."""
        self._config, self._listeners, self._log = config, listeners, log
        self._lookups, self._operations, self._internal_errors = lookups, operations, internal_errors
        self._pending_operations = pending_operations
        self._authreply = AuthreplySocket(logins)
        self._admin = AdminClients(AdminHandler(operations, log), log)
        self._to_serve: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()

    def prepare(self) -> None:
        """Assign a handler to each listener that is on. Connections wait in the kernel until `run`."""
        for names, serve in (
            (("authreply",), self._authreply.serve),
            (("admin", ADMIN_TCP), self._admin.serve),
            (("socketmap", SOCKETMAP_TCP), self._serve_socketmap),
        ):
            for name in names:
                acceptor = self._listeners.acceptor(name)
                if acceptor is not None:
                    self._to_serve.append(partial(serve, acceptor))
        lookups = self._config().lookups
        ports = {"imap": lookups.ports.imap, "pop3": lookups.ports.pop3, "smtp": lookups.ports.smtp}
        offer = web.Offer(self._lookups, http=lookups.http, nginx=lookups.nginx, ports=ports)
        run_api = partial(web.run_api, self._operations, offer=offer, bug=self._internal_errors.record)
        api, http = self._listeners.acceptor("api"), self._listeners.acceptor("http")
        if api is not None:
            self._to_serve.append(partial(run_api, api, token=lambda: None, trusted=True))
        if http is not None:
            self._to_serve.append(partial(run_api, http, token=self._api_token, trusted=False))

    async def run(self) -> None:
        """Serve the listeners until `close`."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                for serve in self._to_serve:
                    tasks.start_soon(serve)
        self._closed.set()

    async def finish_commands(self) -> None:
        """Carry out the commands that admin clients have sent so far."""
        with anyio.move_on_after(COMMANDS_WITHIN):
            await self._admin.finish_commands()

    async def close(self, within: float) -> None:
        """Let operators' commands end, for `within` seconds at most; then accept no more commands."""
        until = time.monotonic() + within
        while True:
            if not (self._pending_operations.busy or self._admin.busy) or time.monotonic() > until:
                break
            await anyio.sleep(CHECK_EVERY)
        await self.finish_commands()
        self._scope.cancel()
        await self._closed.wait()

    async def _serve_socketmap(self, acceptor: Acceptor) -> None:
        handler = Socketmap(self._lookups, self._config().lookups.ports.lmtp)

        await acceptor.serve_streams(
            lambda stream, _, place: serve_socketmap_client(stream, handler, self._log, place)
        )

    def _api_token(self) -> str | None:
        """Return the token of the configuration in force; None if there is none."""
        return bytes(self._config().http.token).decode() or None
