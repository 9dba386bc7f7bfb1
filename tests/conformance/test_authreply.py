"""The same bytes to the authreply sockets of Dovecot 2.3's director and of this project: the same replies."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from director.net.authreply import AuthreplySocket
from director.net.listen import unix_listener
from director.records import HostInfo
from director.wire.authreply import GREETING, LINE_LIMIT
from tests.conformance.dovecot23 import dovecot23_directors
from tests.conformance.real_operations import real_node
from tests.listening import acceptor
from tests.needs import needs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

HOSTS = [HostInfo(address=address, weight=100, up=True) for address in ("127.0.1.1", "127.0.1.2")]
HOSTS += [HostInfo(address="127.0.1.3", tag="t1", weight=100, up=True)]
HELLO = b"VERSION\tdirector-authreply-client\t1\t0\n"
ASKS = b"OK\t1\tuser=alice\tproxy\n"

HANDSHAKES = [
    b"",
    HELLO,
    HELLO.replace(b"1\t0", b"1\t7"),
    HELLO.replace(b"1\t0", b"01\t0"),
    HELLO.replace(b"\n", b"\r\n"),
    HELLO.replace(b"1\t0", b"2\t0"),
    HELLO.replace(b"1\t0", b"1\tx"),
    HELLO.replace(b"1\t0", b"1\t"),
    HELLO.replace(b"\t0\n", b"\n"),
    HELLO.replace(b"\n", b"\tmore\n"),
    HELLO.replace(b"client", b"server"),
    b"HELLO\n",
    b"\n",
    ASKS,
]
REPLIES = [
    ASKS,
    ASKS * 3,
    b"OK\t1\tuser=bob\tproxy=y\n",
    b"OK\t1\tuser=Bob\tproxy\tpass=secret\tlip=10.0.0.1\tlport=143\n",
    b"OK\t1\tuser=alice\n",
    b"OK\t1\tproxy\n",
    b"OK\t1\tuser=alice\tproxy_maybe\n",
    b"OK\t1\tuser=alice\tproxy\thost=1.2.3.4\n",
    b"OK\t1\tuser=alice\tproxy\thost=\n",
    b"OK\t1\tdestuser=bob\tuser=alice\tproxy\n",
    b"OK\t1\tuser=alice\tdestuser=bob\tproxy\n",
    b"OK\t1\tuser=\tproxy\n",
    b"OK\t1\tuser=alice\tproxy\tdirector_tag=t1\n",
    b"OK\t1\tuser=a\x01tb\tproxy\n",
    b"OK\t1\tuser=j\xfcrgen\tproxy\n",
    b"OK\t\tuser=alice\tproxy\n",
    b"OK\t1\tuser=alice\tproxy\r\n",
    b"OK\t1\tuser=alice\tdirector_proxy_maybe\tlip=127.0.1.1\n",
    b"OK\t1\tuser=alice\tdirector_proxy_maybe\tlip=127.0.1.2\n",
    b"OK\nOK\t\nOK\t5\n",
    b"PASS\t1\tuser=alice\tproxy\nFAIL\t2\tuser=alice\nCONT\t3\nNOTFOUND\t4\nUSER\t5\n",
    b"\n\nfoo\n" + HELLO,
    b"OK\t1\tuser=alice\tproxy",
    b"OK\t1\t" + b"x" * (LINE_LIMIT - 6) + b"\n",
]
TOO_LONG = [b"x" * LINE_LIMIT + b"\n", ASKS + b"x" * (LINE_LIMIT + 1), b"x" * LINE_LIMIT]

NUL = b"OK\t1\tuser=a\0b\tproxy\n"

DIFFERENT = [
    "user_dirkey is added too, by which exactly the sessions of one user with one host can be ended",
    "proxy_refresh is a third of the expiry, not half: one refresh may be lost",
    "proxy is added to a line that says director_proxy_maybe, which login processes do not know",
    "a NUL is a byte like any other; Dovecot 2.3's director ends the line there",
    "a client that shuts down its sending side still gets the waiting replies; Dovecot 2.3's director drops"
    " them",
    "a refused first line is not logged: it may be a reply with a password",
]


async def _talk(path: str, sent: bytes) -> bytes:
    """Send bytes, shut down the sending side, and return the reply. A reset at the end counts as an end."""
    got = b""
    async with await anyio.connect_unix(path) as stream:
        with anyio.fail_after(10):
            try:
                await stream.send(sent)
                await stream.send_eof()
                while True:
                    got += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return got


@asynccontextmanager
async def _authreply_socket(folder: Path) -> AsyncIterator[str]:
    listener = unix_listener("authreply", str(folder / "authreply"), mode=0o600)
    async with real_node(HOSTS) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(AuthreplySocket(node.logins).serve, acceptor(listener.socket))
        yield listener.where
        tasks.cancel_scope.cancel()


def _comparable(got: bytes) -> bytes:
    """Return a reply without the known differences of a line with a host."""
    got = re.sub(rb"(\tdirector_proxy_maybe\b[^\n]*)\tproxy(?=\tproxy_refresh=)", rb"\1", got)
    return re.sub(rb"\tuser_dirkey=[^\t\n]*", b"", re.sub(rb"(?<=\tproxy_refresh=)(450|300)", b"<n>", got))


async def test_every_line_is_answered_as_by_dovecots_director(folder: Path) -> None:
    needs("dovecot")
    mail_servers = [f"{host.address}@{host.tag}".rstrip("@") for host in HOSTS]
    sent = HANDSHAKES + [HELLO + replies for replies in REPLIES + TOO_LONG]
    async with dovecot23_directors(folder, mail_servers) as (director,), _authreply_socket(folder) as path:
        expected = [_comparable(await _talk(director.authreply, data)) for data in sent]
        got = [_comparable(await _talk(path, data)) for data in sent]
    assert got == expected
    print(
        f"authreply: {len(sent)} dialogues are the same on both. Known differences:", *DIFFERENT, sep="\n- "
    )


async def test_a_name_with_a_nul_is_not_shortened_as_by_dovecots_director(folder: Path) -> None:
    async with _authreply_socket(folder) as path:
        got = await _talk(path, HELLO + NUL)
    assert got.startswith(GREETING + NUL[:-1] + b"\tproxy_refresh=300\thost=")
