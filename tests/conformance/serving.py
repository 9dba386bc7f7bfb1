"""An admin socket of this project, served as the director serves it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from director.net.admin import AdminClients
from director.service.endpoints.admin import AdminHandler
from director.service.log import Log
from director.service.operations.operations import Operations
from tests.listening import acceptor


@asynccontextmanager
async def admin_port(
    operations: Operations, address: str, lines: list[str] | None = None
) -> AsyncIterator[int]:
    """Serve `operations` on a free TCP port of `address` while the block runs. Log lines go to `lines`."""
    sock = socket.create_server((address, 0))
    port: int = sock.getsockname()[1]
    async with _served(sock, operations, lines):
        yield port


@asynccontextmanager
async def admin_socket(
    operations: Operations, path: Path, lines: list[str] | None = None
) -> AsyncIterator[str]:
    """Serve `operations` on the unix socket `path` while the block runs. Log lines go to `lines`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    async with _served(sock, operations, lines):
        yield str(path)


@asynccontextmanager
async def _served(
    sock: socket.socket, operations: Operations, lines: list[str] | None
) -> AsyncIterator[None]:
    log = Log(write=(lines if lines is not None else []).append)
    clients = AdminClients(AdminHandler(operations, log), log)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clients.serve, acceptor(sock))
        yield
        tasks.cancel_scope.cancel()
