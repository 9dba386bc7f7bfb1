"""Socketmap connections between real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

from director.net.places import StreamPlace
from director.net.socketmap import serve_client
from director.wire.socketmap import Request, found, netstring
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Log:
    def __init__(self) -> None:
        self.told: list[str] = []

    def debug(self, event: str, **fields: object) -> None:
        self.told.append(event)

    def error(self, event: str, **fields: object) -> None:
        self.told.append(f"{event}: {fields['reason']}")


async def echo(request: Request) -> bytes:
    return found(request.map + b"/" + request.key)


@asynccontextmanager
async def client(log: Log) -> AsyncIterator[SocketStream]:
    listener = await anyio.create_tcp_listener(local_host="127.0.80.9")
    host, port = listener.extra(anyio.abc.SocketAttribute.local_address)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, lambda stream: serve_client(stream, echo, log, StreamPlace()))
        async with await anyio.connect_tcp(host, port) as stream:
            yield stream
        tasks.cancel_scope.cancel()


async def read(stream: SocketStream, size: int) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < size:
            data += await stream.receive(size - len(data))
    return data


async def test_requests_are_answered_in_order_however_they_come() -> None:
    async with client(Log()) as stream:
        first, second = netstring(b"lmtp alice"), netstring(b"lmtp@gold bob")
        await stream.send(first + second[:5])
        assert await read(stream, 17) == b"13:OK lmtp/alice,"
        await stream.send(second[5:])
        assert await read(stream, 20) == b"16:OK lmtp@gold/bob,"


async def test_a_client_that_is_no_postfix_is_closed_after_the_answers_before_and_logged() -> None:
    log = Log()
    async with client(log) as stream:
        await stream.send(netstring(b"lmtp alice") + b"GET / HTTP/1.0\r\n\r\n")
        assert await read(stream, 17) == b"13:OK lmtp/alice,"
        with pytest.raises(anyio.EndOfStream):
            await read(stream, 1)
    assert log.told == ["socketmap_client_refused: b'GET / H' is not the length of a netstring"]


async def test_half_a_request_is_reported_and_the_complete_request_before_it_is_answered() -> None:
    log = Log()
    async with client(log) as stream:
        await stream.send(netstring(b"lmtp alice") + b"10:lmt")
        await stream.send_eof()
        assert await read(stream, 17) == b"13:OK lmtp/alice,"
        with pytest.raises(anyio.EndOfStream):
            await read(stream, 1)
    assert log.told == ["socketmap_client_refused: the client hung up in the middle of a request"]


async def test_a_client_that_hangs_up_is_not_reported() -> None:
    log = Log()
    async with client(log) as stream:
        await stream.send(netstring(b"lmtp alice"))
        await read(stream, 17)
    await until(lambda: log.told == [])
