"""Uvicorn inside the daemon's own event loop and task group, behind a listener of the daemon: no signal
handlers of its own, no access log.

A client has HEAD_WITHIN seconds for the head of a request, and PART_WITHIN seconds for each part of its body
and for taking what is sent to it. A listener that has as many connections as it may closes the one that has
been waiting longest for its client: slow clients keep no other client out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import h11
import uvicorn
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from litestar import Litestar

STOP_TIMEOUT = 0.8
"""Seconds in which running requests must finish when the server stops."""

MAX_HEAD = 16 * 1024
"""The most bytes of request line and headers."""

HEAD_WITHIN = 10.0
PART_WITHIN = 10.0
"""Seconds."""

PROBES = ("/livez", "/readyz")
"""Paths that are answered however many other requests run."""


class WebListener(Protocol):
    """A listener (`director.net.accept.Acceptor`)."""

    @property
    def most(self) -> int: ...

    async def serve_protocols(
        self, factory: Callable[[], asyncio.BaseProtocol], *, make_room: Callable[[str], bool]
    ) -> None: ...


class _WaitingClients:
    """Connections that wait for their clients, the longest wait first."""

    def __init__(self) -> None:
        self._clients: dict[_Client, None] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: _Client) -> None:
        self._clients.setdefault(client)

    def remove(self, client: _Client) -> None:
        self._clients.pop(client, None)

    def end_one(self, address: str) -> bool:
        """Close the connection that has waited longest, of this address or of any ("").

        Returns:
            False if there is none.
        """
        for client in self._clients:
            if address in ("", client.address):
                self.remove(client)
                client.transport.abort()
                return True
        return False


class _Client(H11Protocol):
    """A connection that limits the time in which its client must send and receive."""

    def __init__(self, waiting: _WaitingClients, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._waiting = waiting
        self._state: object = None
        """State of the client in h11 for which `_deadline` was set."""
        self._deadline: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_client()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_client()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._waiting.remove(self)
        self._unset_keepalive_if_required()
        self._cancel_deadline()
        if self._sending is not None:
            self._sending.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self._waiting.add(self)
        else:
            self._watch_client()
        if self.transport.get_write_buffer_size():
            self._watch_sending()

    def _watch_client(self) -> None:
        """Set the deadline for the next part that the client must send."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._set_deadline(PART_WITHIN)
        elif state is not h11.IDLE:
            self._cancel_deadline()
            self._waiting.remove(self)
            self._state = state
            return
        elif self._state is not h11.IDLE:
            self._set_deadline(HEAD_WITHIN)
        self._state = state
        self._waiting.add(self)

    def _set_deadline(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # the server is busy, the client does not have to send
            self._set_deadline(PART_WITHIN)
        else:
            self.transport.abort()

    def _watch_sending(self) -> None:
        """Close the connection if its client receives nothing for PART_WITHIN seconds."""
        if self._sending is None:
            unsent = self.transport.get_write_buffer_size()
            self._sending = self.loop.call_later(PART_WITHIN, self._check_sending, unsent)

    def _check_sending(self, before: int) -> None:
        self._sending = None
        unsent = self.transport.get_write_buffer_size()
        if unsent >= before > 0:
            self.transport.abort()
        elif unsent:
            self._watch_sending()


class _Server(uvicorn.Server):
    """A server that an event stops, not a signal, and that gets connections from the director's listener."""

    def __init__(self, config: uvicorn.Config, listener: WebListener, started: anyio.Event | None) -> None:
        super().__init__(config)
        self._listening, self._started = listener, started
        self._waiting = _WaitingClients()
        self.stop = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # The service handles signals.
        yield

    @property
    def under_way(self) -> int:
        """Requests that were received completely and are not answered yet."""
        return len(self.server_state.connections) - len(self._waiting)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = []
        self.started = True

    async def main_loop(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._accept)
            if self._started is not None:
                self._started.set()
            await self.stop.wait()
            tasks.cancel_scope.cancel()

    async def _accept(self) -> None:
        await self._listening.serve_protocols(self._client, make_room=self._waiting.end_one)

    def _client(self) -> _Client:
        return _Client(
            self._waiting, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _whole(receive: Any) -> Callable[[], Awaitable[Any]]:
    """The `receive` of a request, which gives a complete body even if its client has disconnected since.

    uvicorn would report the disconnection instead, and the command would be lost.
    """
    cycle, ended = receive.__self__, False

    async def give() -> Any:
        nonlocal ended
        message = await receive()
        if message["type"] == "http.disconnect" and not ended and not cycle.more_body:
            message = {"type": "http.request", "body": bytes(cycle.body), "more_body": False}
        ended = ended or not message.get("more_body", False)
        return message

    return give


async def serve(app: Litestar, listener: WebListener, *, started: anyio.Event | None = None) -> None:
    """Answer on a listener until cancelled.

    started: set as soon as connections are accepted. Cancelled, it stops listening at once, lets requests
    under way finish for STOP_TIMEOUT seconds, then cancels them and returns.
    """

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        """Keep a quarter of the connections for probes and for requests that are refused immediately."""
        full = server.under_way > max(1, listener.most * 3 // 4) and scope["path"] not in PROBES
        await (service_unavailable if full else app)(scope, _whole(receive), send)

    server = _Server(
        uvicorn.Config(
            limited,
            interface="asgi3",
            http=H11Protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=STOP_TIMEOUT,  # type: ignore[arg-type]  # it goes to wait_for as it is
            h11_max_incomplete_event_size=MAX_HEAD,
        ),
        listener,
        started,
    )

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await server.serve()
            # Wait until cancelled requests have ended.
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            server.stop.set()
