"""Uvicorn inside the daemon's own event loop and task group: no signal handlers of its own, no access log."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from litestar import Litestar

STOP_TIMEOUT = 0.8
"""Seconds that requests under way have to finish when the server is stopped."""

MAX_CONNECTIONS = 256
"""Further ones are answered 503."""

MAX_HEAD = 16 * 1024
"""Bytes of request line and headers."""


class _Server(uvicorn.Server):
    """A server whose end is an event, not a signal."""

    def __init__(self, config: uvicorn.Config, started: anyio.Event | None) -> None:
        super().__init__(config)
        self._started = started
        self.stop = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # Signals are the daemon's.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._started is not None:
            self._started.set()

    async def main_loop(self) -> None:
        # The inherited one wakes up ten times a second to look at a flag and the clock.
        await self.stop.wait()


async def serve(app: Litestar, sockets: list[socket.socket], *, started: anyio.Event | None = None) -> None:
    """Answer on the listening `sockets` (unix or TCP) until cancelled.

    started: set as soon as connections are accepted. Cancelled, it stops listening at once (and closes the
    sockets), lets requests under way finish for STOP_TIMEOUT seconds, then cancels them and returns.
    """
    server = _Server(
        uvicorn.Config(
            app,
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
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_TIMEOUT,  # type: ignore[arg-type]  # it goes to wait_for as it is
            h11_max_incomplete_event_size=MAX_HEAD,
        ),
        started,
    )

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await server.serve(sockets)
            # Requests that were cancelled end here, not somewhere behind our back.
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            server.stop.set()
