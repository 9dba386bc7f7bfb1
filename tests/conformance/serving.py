"""An admin socket of ours, as the daemon serves it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute

from director.net.admin import serve_client
from director.service.admin import AdminHandler, AdminOperations

LOG = logging.getLogger("tests.admin")


@asynccontextmanager
async def admin_port(operations: AdminOperations, address: str) -> AsyncIterator[int]:
    """Serve `operations` on a free TCP port of `address` while the block runs."""
    listener = await anyio.create_tcp_listener(local_host=address)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _client_server(operations))
        port: int = listener.extra(SocketAttribute.local_port)
        yield port
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def admin_socket(operations: AdminOperations, path: Path) -> AsyncIterator[str]:
    """Serve `operations` on the unix socket `path` while the block runs."""
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _client_server(operations))
        yield str(path)
        tasks.cancel_scope.cancel()


def _client_server(operations: AdminOperations) -> Callable[[ByteStream], Awaitable[None]]:
    return partial(serve_client, handle=AdminHandler(operations, LOG), log=LOG)
