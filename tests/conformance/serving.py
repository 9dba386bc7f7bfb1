"""An admin socket of ours, as the daemon serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute

from director.net.admin import serve_client
from director.service.admin import AdminHandler, AdminOperations
from director.service.log import Log


@asynccontextmanager
async def admin_port(
    operations: AdminOperations, address: str, lines: list[str] | None = None
) -> AsyncIterator[int]:
    """Serve `operations` on a free TCP port of `address` while the block runs; its log goes to `lines`."""
    listener = await anyio.create_tcp_listener(local_host=address)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _server(operations, lines))
        port: int = listener.extra(SocketAttribute.local_port)
        yield port
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def admin_socket(
    operations: AdminOperations, path: Path, lines: list[str] | None = None
) -> AsyncIterator[str]:
    """Serve `operations` on the unix socket `path` while the block runs; its log goes to `lines`."""
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _server(operations, lines))
        yield str(path)
        tasks.cancel_scope.cancel()


def _server(operations: AdminOperations, lines: list[str] | None) -> Callable[[ByteStream], Awaitable[None]]:
    log = Log(write=(lines if lines is not None else []).append)
    return partial(serve_client, handle=AdminHandler(operations, log), log=log)
