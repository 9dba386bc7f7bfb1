"""Links between two ends on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from director.core.messages import Bye, Ping, Users
from director.net import ringlink
from director.net.ringlink import RingLink
from director.types import LinkId
from director.wire import ring_native
from director.wire.ring_native import FrameError, FrameReader, encode
from tests.waiting import until

pytestmark = pytest.mark.anyio
LARGE = encode([Users(bytes(22 * 40_000))])


class End:
    """One end: notes what it is told."""

    def __init__(self) -> None:
        self.link: RingLink | None = None
        self.received: list[object] = []
        self.closed: list[str] = []
        self.unreadable: list[str] = []
        self.congested: list[bool] = []
        self.on_message: Callable[[object], None] = lambda message: None

    def new(self) -> RingLink:
        return RingLink(LinkId(1), self, FrameReader(), FrameError)

    def link_opened(self, link: RingLink) -> None:
        self.link = link

    def link_received(self, link: LinkId, messages: Sequence[object]) -> None:
        for message in messages:
            self.received.append(message)
            self.on_message(message)

    def link_congested(self, link: LinkId, clear: bool) -> None:
        self.congested.append(not clear)

    def link_unreadable(self, link: LinkId, reason: str) -> None:
        self.unreadable.append(reason)
        assert self.link is not None
        self.link.send(encode([Bye(reason)]))
        self.link.close()

    def link_closed(self, link: LinkId, reason: str) -> None:
        self.closed.append(reason)

    @property
    def own(self) -> RingLink:
        assert self.link is not None
        return self.link


@asynccontextmanager
async def listening(end: End) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(end.new, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[End, End]]:
    """The end that dialled, the end that accepted."""
    near, far = End(), End()
    async with listening(far) as address:
        await asyncio.get_running_loop().create_connection(near.new, *address)
        await until(lambda: far.link)
        try:
            yield near, far
        finally:
            near.own.close()
            far.own.close()


async def test_messages_arrive_and_the_other_ends_address_is_known() -> None:
    async with linked() as (near, far):
        near.own.send(encode([Ping(1), Ping(2)]))
        await until(lambda: len(far.received) == 2)
        assert far.received == [Ping(1), Ping(2)]
        assert far.own.remote == "127.0.0.1"
        assert near.own.bytes_out == far.own.bytes_in == len(encode([Ping(1), Ping(2)]))


async def test_a_large_frame_right_behind_the_proof_is_accepted() -> None:
    async with linked() as (near, far):
        far.on_message = lambda message: far.own.trust(ring_native.LIMIT)
        near.own.send(encode([Ping(1)]) + LARGE)
        await until(lambda: len(far.received) == 2)
        assert far.unreadable == []


async def test_what_is_no_frame_is_told_to_both_ends() -> None:
    async with linked() as (near, far):
        near.own.send(LARGE)
        await until(lambda: near.closed)
        assert far.unreadable == ["frame of 880008 bytes, at most 4096 are accepted"]
        assert near.received == [Bye(far.unreadable[0])]
        assert far.closed == []


async def test_after_close_nothing_more_is_taken_in() -> None:
    async with linked() as (near, far):
        far.on_message = lambda message: far.own.close()
        near.own.send(encode([Ping(1)]) + encode([Ping(2)]))
        await until(lambda: near.closed)
        assert far.received == [Ping(1)]
        assert far.closed == []


async def test_the_last_words_arrive_though_the_other_end_was_not_read_to_the_end() -> None:
    async with linked() as (near, far):

        def send_away(message: object) -> None:
            far.own.send(encode([Bye("enough")]))
            far.own.close()

        far.on_message = send_away
        for serial in range(200):
            near.own.send(encode([Ping(serial)]) * 20)
        await until(lambda: near.closed)
        assert near.received == [Bye("enough")]


async def test_the_owner_is_told_once_when_the_other_end_goes_away() -> None:
    async with linked() as (near, far):
        near.own.close()
        await until(lambda: far.closed)
        assert far.closed == ["connection closed"]
        assert near.closed == []


async def test_a_neighbour_who_does_not_read_is_told_of_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ringlink, "QUEUE_LIMIT", 8_000_000)
    end = End()
    async with listening(end) as address:
        with socket.create_connection(address):
            await until(lambda: end.link)
            for _ in range(40):
                end.own.send(LARGE)
            assert end.congested == [True]
            assert end.own.peak > 8_000_000
            assert end.own.buffered == 0
            assert len(end.closed) == 1
            assert end.closed[0].endswith("bytes wait for it to read")


async def test_congestion_ends_when_the_neighbour_reads_again() -> None:
    end = End()
    async with listening(end) as address:
        with socket.create_connection(address) as neighbour:
            await until(lambda: end.link)
            while not end.congested:
                end.own.send(LARGE)
            neighbour.setblocking(False)
            loop = asyncio.get_running_loop()
            while end.congested != [True, False]:
                await loop.sock_recv(neighbour, 1 << 20)
            end.own.close()
