"""Links between two ends on loopback, plain and over TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from hashlib import sha256

import pytest
import uvloop

from director.core.protocol.messages import Bye, Ping, Users
from director.errors import PeerError
from director.net import ringlink
from director.net.ringlink import TURN, RingLink, Secure
from director.net.tls import TlsSession
from director.types import LinkId
from director.wire import ring_native
from director.wire.ring_native import encode
from tests.certificates import Authority
from tests.waiting import until

pytestmark = pytest.mark.anyio
FRAME = encode([Users(bytes(22 * 100))])
LARGE = encode([Users(bytes(22 * 40_000))])


class End:
    """One end: notes what it is told."""

    def __init__(self, secure: Secure | None = None) -> None:
        self.secure = secure
        self.link: RingLink | None = None
        self.refused: list[str] = []
        self.received: list[object] = []
        self.closed: list[str] = []
        self.unreadable: list[str] = []
        self.problems: list[PeerError] = []
        self.congested: list[bool] = []
        self.on_message: Callable[[object], None] = lambda message: None

    def new(self) -> RingLink:
        return RingLink(LinkId(1), self, self.secure)

    def link_securing(self, link: RingLink) -> None: ...

    def link_opened(self, link: RingLink) -> None:
        self.link = link

    def link_refused(self, link: RingLink, reason: str) -> None:
        self.refused.append(reason)
        link.send(encode([Bye(reason)]))
        link.close()

    def link_received(self, link: LinkId, messages: Sequence[object], plain: bytes) -> None:
        for message in messages:
            self.received.append(message)
            self.on_message(message)

    def link_congested(self, link: LinkId, clear: bool) -> None:
        self.congested.append(not clear)

    def link_unreadable(self, link: LinkId, problem: PeerError) -> None:
        self.unreadable.append(str(problem))
        self.problems.append(problem)
        assert self.link is not None
        self.link.send(encode([Bye(str(problem))]))
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


Linked = Callable[[], AbstractAsyncContextManager[tuple[End, End]]]


@pytest.fixture(params=["plain", "tls"])
def linked(request: pytest.FixtureRequest, authority: Authority) -> Linked:
    """Gives the end that dialled and the end that accepted."""
    tls = authority.tls("127.0.0.1") if request.param == "tls" else None

    @asynccontextmanager
    async def link() -> AsyncIterator[tuple[End, End]]:
        near, far = (End(tls.dialling), End(tls.accepting)) if tls else (End(), End())
        async with listening(far) as address:
            await asyncio.get_running_loop().create_connection(near.new, *address)
            await until(lambda: near.link and far.link)
            try:
                yield near, far
            finally:
                near.own.close()
                far.own.close()

    return link


def test_a_flood_on_one_link_is_read_in_several_turns_of_the_loop() -> None:
    async def most_in_a_turn() -> int:
        end, turns = End(), [0]
        loop = asyncio.get_running_loop()

        def turn() -> None:
            turns.append(0)
            if not end.closed:
                loop.call_soon(turn)

        def count(message: object) -> None:
            turns[-1] += 1

        end.on_message = count
        async with listening(end) as address:
            with socket.create_connection(address) as flood:
                await until(lambda: end.link)
                flood.setblocking(False)
                with suppress(BlockingIOError):  # as much as the kernel takes
                    while True:
                        flood.send(FRAME * 100)
                turn()
                await until(lambda: sum(turns) * len(FRAME) > 1_000_000)
            await until(lambda: end.closed)
        return max(turns) * len(FRAME)

    assert uvloop.run(most_in_a_turn()) <= 2 * TURN + len(FRAME)


@pytest.mark.shows("A-26")
@pytest.mark.parametrize("messages", [1, ring_native.MESSAGES], ids=["frames", "messages"])
def test_very_many_tiny_messages_are_handled_in_several_turns_of_the_loop(messages: int) -> None:
    async def turns() -> list[int]:
        end, turns = End(), [0]
        loop = asyncio.get_running_loop()

        def turn() -> None:
            turns.append(0)
            if not end.closed:
                loop.call_soon(turn)

        def count(message: object) -> None:
            turns[-1] += 1

        end.on_message = count
        tiny = encode([Ping(1)] * messages)
        async with listening(end) as address:
            with socket.create_connection(address) as flood:
                await until(lambda: end.link)
                turn()
                await loop.run_in_executor(None, flood.sendall, tiny * (20_000 // messages))
                await until(lambda: sum(turns) == 20_000 // messages * messages)
            await until(lambda: end.closed)
        return turns

    busy = [count for count in uvloop.run(turns()) if count]
    assert max(busy) <= 2 * ringlink.MESSAGES
    assert len(busy) >= 10


async def test_messages_arrive_and_the_other_ends_address_is_known(linked: Linked) -> None:
    async with linked() as (near, far):
        near.own.send(encode([Ping(1), Ping(2)]))
        await until(lambda: len(far.received) == 2)
        assert far.received == [Ping(1), Ping(2)]
        assert far.own.remote == "127.0.0.1"
        assert near.own.bytes_out == far.own.bytes_in >= len(encode([Ping(1), Ping(2)]))


async def test_a_large_frame_right_behind_the_proof_is_accepted(linked: Linked) -> None:
    async with linked() as (near, far):
        far.on_message = lambda message: far.own.trust(ring_native.LIMIT)
        near.own.send(encode([Ping(1)]) + LARGE)
        await until(lambda: len(far.received) == 2)
        assert far.unreadable == []


async def test_frames_that_came_together_are_given_together_once_the_other_end_is_trusted(
    linked: Linked,
) -> None:
    async with linked() as (one, other):
        given: list[int] = []
        other.on_message = lambda message: given.append(len(other.received))
        one.own.send(encode([Ping(1)]) + encode([Ping(2)]))
        await until(lambda: len(other.received) == 2)
        other.own.trust(ring_native.LIMIT)
        calls: list[tuple[int, bytes]] = []
        receive = other.link_received

        def counting(link: LinkId, messages: Sequence[object], plain: bytes) -> None:
            calls.append((len(messages), plain))
            receive(link, messages, plain)

        other.link_received = counting  # type: ignore[method-assign]
        one.own.send(encode([Ping(3)]) + encode([Ping(4), Ping(5)]))
        await until(lambda: len(other.received) == 5)
        assert calls == [(3, encode([Ping(4), Ping(5)])[4:])]  # that it was not sealed is told too
        assert [message.serial for message in other.received] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]


async def test_a_link_that_is_not_to_be_read_is_left_alone_until_it_is_and_nothing_is_lost(
    linked: Linked,
) -> None:
    async with linked() as (one, other):
        other.own.trust(ring_native.LIMIT)
        other.own.read(on=False)
        one.own.send(FRAME)
        await asyncio.sleep(0.05)
        assert other.received == []
        for _ in range(30):
            one.own.send(LARGE)
        other.own.read(on=True)
        await until(lambda: other.received)
        other.own.read(on=False)
        await asyncio.sleep(0.05)
        assert len(other.received) < 30
        other.own.read(on=True)
        await until(lambda: len(other.received) == 31)


async def test_bytes_that_are_no_frame_are_reported_to_both_ends(linked: Linked) -> None:
    async with linked() as (near, far):
        near.own.send(LARGE)
        await until(lambda: near.closed)
        assert far.unreadable == ["frame of 880008 bytes, at most 4096 are accepted"]
        assert near.received == [Bye(far.unreadable[0])]
        assert far.closed == []


async def test_nothing_is_received_after_close(linked: Linked) -> None:
    async with linked() as (near, far):
        far.on_message = lambda message: far.own.close()
        near.own.send(encode([Ping(1)]) + encode([Ping(2)]))
        await until(lambda: near.closed)
        assert far.received == [Ping(1)]
        assert far.closed == []


async def test_the_last_message_arrives_although_unread_bytes_remain(linked: Linked) -> None:
    async with linked() as (near, far):

        def send_away(message: object) -> None:
            far.own.send(encode([Bye("enough")]))
            far.own.close()

        far.on_message = send_away
        for serial in range(200):
            near.own.send(encode([Ping(serial)]) * 20)
        await until(lambda: near.closed)
        assert near.received == [Bye("enough")]


async def test_the_owner_is_told_once_when_the_other_end_disconnects(linked: Linked) -> None:
    async with linked() as (near, far):
        near.own.close()
        await until(lambda: far.closed)
        assert far.closed == ["connection closed"]
        assert near.closed == []


async def test_a_neighbour_that_does_not_read_is_reported_and_then_disconnected(
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
            assert end.closed[0].endswith("bytes wait")


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


# ---- seals


@asynccontextmanager
async def sealed(linked: Linked) -> AsyncIterator[tuple[End, End]]:
    """Both ends behind their proofs."""
    async with linked() as (near, far):
        for end, keys in ((near, (b"near" * 8, b"far!" * 8)), (far, (b"far!" * 8, b"near" * 8))):
            end.own.seal(*keys)
            end.own.trust(ring_native.LIMIT)
        for end in (near, far):
            end.own.send(encode([Ping(0)]))  # it stands for the proof
        await until(lambda: near.received and far.received)
        yield near, far


async def test_sealed_frames_arrive_in_both_directions_large_ones_too(linked: Linked) -> None:
    async with sealed(linked) as (near, far):
        for end in (near, far):
            for messages in ([Ping(1)], [Users(bytes(22 * 40_000))], [Ping(2), Ping(3)]):
                end.own.send(end.own.writer.encode(messages))
        await until(lambda: len(near.received) == len(far.received) == 5)
        assert (
            near.received == far.received == [Ping(0), Ping(1), Users(bytes(22 * 40_000)), Ping(2), Ping(3)]
        )
        assert near.unreadable == far.unreadable == []


async def test_a_plain_frame_among_sealed_ones_is_refused_and_ends_the_link(linked: Linked) -> None:
    async with sealed(linked) as (near, far):
        sealed_one, sealed_two = (near.own.writer.encode([Ping(serial)]) for serial in (1, 3))
        near.own.send(sealed_one + encode([Ping(2)]) + sealed_two)
        await until(lambda: far.unreadable)
        assert far.received == [Ping(0), Ping(1)]
        assert isinstance(far.problems[0], ring_native.ForgedFrameError)


async def test_both_ends_have_seen_the_same_certificates(linked: Linked) -> None:
    async with linked() as (near, far):
        assert near.own.certificates == far.own.certificates
        assert len(near.own.certificates) in (0, 64)
        assert bool(near.own.certificates) is (near.secure is not None)


async def test_the_certificates_are_the_diallers_and_the_acceptors(authority: Authority) -> None:
    pems = [authority.pems("127.0.0.1", days=days) for days in (1, 2)]
    near = End(authority.tls("127.0.0.1").dialling)
    far = End(authority.tls("127.0.0.1", days=2).accepting)
    async with listening(far) as address:
        await asyncio.get_running_loop().create_connection(near.new, *address)
        await until(lambda: near.link and far.link)
        shown = [sha256(ssl.PEM_cert_to_DER_cert(one.cert.read_text())).digest() for one in pems]
        assert near.own.certificates == far.own.certificates == b"".join(shown)
        assert shown[0] != shown[1]
        near.own.close()
        far.own.close()


# ---- TLS that does not come about


async def meet(dialler: Secure | None, acceptor: Secure | None) -> tuple[End, End]:
    """Two ends that cannot agree, when both have noticed."""
    near, far = End(dialler), End(acceptor)
    async with listening(far) as address:
        await asyncio.get_running_loop().create_connection(near.new, *address)
        if dialler is None:
            near.own.send(encode([Ping(1)]))
        try:
            await until(lambda: trouble(near) and trouble(far))
        finally:
            for end in (near, far):
                if end.link is not None:
                    end.link.close()
    return near, far


def trouble(end: End) -> list[str]:
    """Why this end gave up, or was told to."""
    told = [message.reason for message in end.received if isinstance(message, Bye)]
    return [*end.refused, *end.unreadable, *told, *end.closed]


async def test_a_dialler_without_tls_is_told_that_it_is_needed(authority: Authority) -> None:
    near, far = await meet(None, authority.tls("127.0.0.1").accepting)
    (reason,) = far.refused
    assert reason.startswith("127.0.0.1 does not use TLS")
    assert "set ring.tls on all directors" in reason
    assert near.received == [Bye(reason)]
    assert far.link is None


async def test_a_dialling_director_with_tls_is_told_that_this_director_does_not_use_it(
    authority: Authority,
) -> None:
    near, far = await meet(authority.tls("127.0.0.1").dialling, None)
    await until(lambda: near.refused)
    assert far.unreadable[0].startswith("127.0.0.1 uses TLS, this director does not")
    assert near.link is None


async def test_a_dialling_director_with_tls_recognises_a_plain_greeting(authority: Authority) -> None:
    near, far = End(authority.tls("127.0.0.1").dialling), End()
    async with listening(far) as address:
        await asyncio.get_running_loop().create_connection(near.new, *address)
        await until(lambda: far.link)
        far.own.send(encode([Ping(1)]))
        await until(lambda: near.refused)
    assert near.refused[0].startswith("127.0.0.1 does not use TLS")


@pytest.mark.parametrize("side", ["dialler", "acceptor"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other CA", "is refused: ring.tls.ca has not signed it"),
        ("expired", "is refused: certificate has expired"),
        ("other address", "is not for its address: expected subjectAltName IP:127.0.0.1"),
    ],
)
async def test_a_bad_certificate_is_named_and_its_owner_is_told(
    authority: Authority, other_authority: Authority, side: str, fault: str, reason: str
) -> None:
    bad = {
        "other CA": lambda: other_authority.tls("127.0.0.1", believes=authority),
        "expired": lambda: authority.tls("127.0.0.1", days=-1),
        "other address": lambda: authority.tls("127.0.0.9"),
    }[fault]()
    good = authority.tls("127.0.0.1")
    dialler, acceptor = (bad, good) if side == "dialler" else (good, bad)
    near, far = await meet(dialler.dialling, acceptor.accepting)
    judge, owner = (far, near) if side == "dialler" else (near, far)
    assert reason in judge.refused[0]
    assert judge.refused[0].startswith("the certificate of 127.0.0.1")
    assert judge.link is None
    assert any("refuses the certificate" in text or reason in text for text in trouble(owner))


async def test_a_director_without_a_certificate_is_refused(authority: Authority) -> None:
    anybody = ssl.create_default_context(cafile=authority.ca)
    near, far = await meet(
        lambda peer: TlsSession(anybody, peer, dialled=True, own_digest=b""),
        authority.tls("127.0.0.1").accepting,
    )
    assert far.refused == ["127.0.0.1 sends no certificate"]
    assert far.link is None
    assert "certificate required" in trouble(near)[0]


async def test_a_peer_that_sends_nothing_in_the_handshake_is_disconnected(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringlink, "TLS_TIMEOUT", 0.05)
    end = End(authority.tls("127.0.0.1").accepting)
    async with listening(end) as address:
        with socket.create_connection(address) as neighbour:
            await until(lambda: end.refused)
            neighbour.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(neighbour, 100) == b""
    assert end.refused[0].startswith("no TLS handshake with 127.0.0.1")
    assert end.closed == []


async def test_a_peer_that_hangs_up_in_the_handshake_is_reported_once(authority: Authority) -> None:
    end = End(authority.tls("127.0.0.1").accepting)
    async with listening(end) as address:
        socket.create_connection(address).close()
        await until(lambda: end.refused)
    assert end.refused == ["connection closed in the TLS handshake"]
    assert end.closed == []


async def test_garbage_inside_an_established_link_ends_it_as_any_broken_link(authority: Authority) -> None:
    tls = authority.tls("127.0.0.1")
    near, far = End(tls.dialling), End(tls.accepting)
    async with listening(far) as address:
        await asyncio.get_running_loop().create_connection(near.new, *address)
        await until(lambda: near.link and far.link)
        far.own.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: near.closed)
    assert far.refused == []
    assert far.closed[0].startswith("TLS with 127.0.0.1 failed")
