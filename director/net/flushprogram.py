"""Runs the flush program for one move: over its socket, or as a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import anyio

from director.wire.flushprogram import (
    Command,
    FlushRequest,
    FlushResult,
    Output,
    TcpSocket,
    UnixSocket,
    arguments,
    program_for,
    script_request,
)

CONNECT_TIMEOUT = 10.0
"""Seconds, as in Dovecot 2.3's director."""
READ_SIZE = 16384

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a name, at least one. Raises OSError."""


async def run_flush(setting: str, request: FlushRequest, timeout: float, resolve: Resolve) -> FlushResult:
    """Run the program that `setting` names, for at most `timeout` seconds, and return its result.

    Raises nothing.

    Cancelling it closes the connection, or kills the program and all processes that it started.
    """
    output = Output()
    try:
        with anyio.fail_after(timeout):
            match program_for(setting, request):
                case Command(words=words):
                    return output.of_command(await _run([*words, *arguments(request)], output))
                case UnixSocket(path=path):
                    await _ask(path, asyncio.open_unix_connection(path), request, output)
                case TcpSocket(host=host, port=port):
                    await _ask(f"{host}:{port}", _open_connection(host, port, resolve), request, output)
            return output.of_script()
    except TimeoutError:
        return FlushResult(False, [], f"no result within {timeout:g} s")
    except OSError as exc:
        return FlushResult(False, [], exc.strerror or str(exc) or "the connection was lost")
    except ValueError as exc:
        return FlushResult(False, [], f"{setting!r}: {exc}")


async def _ask(
    name: str, connecting: Coroutine[Any, Any, Connection], request: FlushRequest, output: Output
) -> None:
    """Send the request to a script service.

    Raises OSError; raises TimeoutError only if the time of the whole run is up.
    """
    connection = None
    with anyio.move_on_after(CONNECT_TIMEOUT):
        try:
            connection = await connecting
        except OSError as exc:
            raise OSError(f"cannot connect to {name}: {exc.strerror or exc}") from exc
    if connection is None:
        raise OSError(f"cannot connect to {name} within {CONNECT_TIMEOUT:.0f} s")
    reader, writer = connection
    try:
        writer.write(script_request(request))
        writer.write_eof()
        while data := await reader.read(READ_SIZE):
            output.feed(data)
    finally:
        writer.transport.abort()


async def _open_connection(host: str, port: int, resolve: Resolve) -> Connection:
    """Return a connection to the first address of the host that accepts one. Raises OSError."""
    failure = OSError("the name has no address")
    for address in await resolve(host):
        try:
            return await asyncio.open_connection(address, port)
        except OSError as exc:
            failure = exc
    raise failure


async def _run(words: list[str], output: Output) -> int:
    """Run the program to its end, with both its outputs as one.

    Returns its exit status as subprocess gives it.
    """
    try:
        with anyio.CancelScope(shield=True):  # a program that has only half started could not be killed
            process = await anyio.open_process(
                words,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath},  # the director's environment may hold secrets of the configuration
                start_new_session=True,
            )
    except OSError as exc:
        raise OSError(f"cannot run {words[0]}: {exc.strerror or exc}") from exc
    try:
        assert process.stdout is not None
        async for data in process.stdout:
            output.feed(data)
        return await process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()
