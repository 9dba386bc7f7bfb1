"""Every command of Dovecot's own doveadm prints the same on a ring of Dovecot 2.3's directors and on a ring
of this project.

The number of compared commands, and the intended differences: `pytest -s
tests/conformance/test_side_by_side.py`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest

from director.records import HostInfo, MemberInfo
from director.wire.admin import GREETING
from tests.conformance import commands
from tests.conformance.commands import ADDRESSES, DIFFERENT, IMPROVED, NAMES, NOT_COMPARED
from tests.conformance.doveadm import Doveadm
from tests.conformance.dovecot23 import dovecot23_directors
from tests.conformance.real_operations import played_node
from tests.conformance.recording import Recording
from tests.conformance.serving import admin_socket
from tests.conformance.sides import both_sides, comparable
from tests.needs import needs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

HOSTS = [HostInfo(address=address, weight=100, up=True) for address in ADDRESSES]


async def test_every_command_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    listed = commands.lines(commands.ALL)
    looking = [
        command for command in commands.lines(commands.LOOKING) if "map" not in command or "-f" in command
    ]
    found, compared = [], {}
    async with both_sides(folder, 3) as sides:
        for way, some in {"unix": listed, "tcp": listed, "base_dir": looking}.items():
            for side in (sides.dovecot, sides.project):
                await anyio.to_thread.run_sync(side.log_in)
            found += await sides.differing(some, way)
            compared[way] = len(some)
    print(f"\ndoveadm director: {len(listed)} commands; compared with Dovecot 2.3's director:", compared)
    print("different on purpose:", *(f"{command}: {why}" for command, why in DIFFERENT.items()), sep="\n- ")
    print("not compared:", *NOT_COMPARED, sep="\n- ")
    assert found == []


async def test_scripts_on_the_socket_get_replies_that_dovecots_director_does_not_give(folder: Path) -> None:
    needs("dovecot", "doveadm")
    found = {}
    async with both_sides(folder, 3) as sides:
        for title, (sent, _) in IMPROVED.items():
            found[title] = [await _answered(side.admin, sent) for side in (sides.dovecot, sides.project)]
    changes = [f"{title}: {dovecots!r} became {answer!r}" for title, (dovecots, answer) in found.items()]
    print("\nbetter on purpose:", *changes, sep="\n- ")
    assert {title: answer for title, (_, answer) in found.items()} == {
        title: expected for title, (_, expected) in IMPROVED.items()
    }
    assert [title for title, (dovecots, answer) in found.items() if dovecots == answer] == []


SAME = {
    "lines that end with CRLF": (
        GREETING.replace(b"\n", b"\r\n"),
        [b"HOST-DOWN\t127.0.1.1\r\n", b"HOST-UP\t127.0.1.1\r\n", b"USER-LIST\t127.0.1.1\r\n"],
    ),
    "an empty tag of a host that has one": (
        GREETING,
        [b"HOST-SET\t127.0.1.9@gold\t50\n", b"HOST-SET\t127.0.1.9@\t40\n", b"HOST-UPDATE\t127.0.1.9@\t30\n"],
    ),
}
"""The lines of a script, which waits for the answer to each: title -> (greeting, lines)."""


@pytest.mark.parametrize("title", SAME)
async def test_scripts_on_the_socket_get_the_replies_of_dovecots_director(folder: Path, title: str) -> None:
    needs("dovecot", "doveadm")
    greeting, lines = SAME[title]
    async with both_sides(folder, 1) as sides:
        answers = []
        for side in (sides.dovecot, sides.project):
            found = [await _answered(side.admin, line, greeting) for line in lines]
            hosts = await _answered(side.admin, b"HOST-LIST\n")
            answers.append((found, [row.split(b"\t")[:5] for row in hosts.splitlines()]))
        dovecots, got = answers
    assert got == dovecots
    assert dovecots[0][:2] == [b"OK\n", b"OK\n"]


async def _answered(path: str, sent: bytes, greeting: bytes = GREETING) -> bytes:
    """Return the reply of a second and a half, without the greeting."""
    got = b""
    async with await anyio.connect_unix(path) as stream:
        await stream.send(greeting + sent)
        with anyio.move_on_after(1.5), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                got += await stream.receive()
    return got.removeprefix(GREETING)


async def test_a_director_without_a_ring_prints_the_same_too(folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with both_sides(folder, 1) as sides:
        for side in (sides.dovecot, sides.project):
            await anyio.to_thread.run_sync(side.log_in)
        found = await sides.differing(commands.lines(commands.LOOKING + commands.FORMATS), "unix")
    assert found == []


@pytest.mark.parametrize("directors", [1, 2, 3])
async def test_the_same_ring_is_printed_in_the_same_way_on_both(directors: int, folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with AsyncExitStack() as stack:
        ring = await stack.enter_async_context(dovecot23_directors(folder, ADDRESSES, directors))
        members = [_member(row) for row in await ring[0].ask("DIRECTOR-LIST")]
        node = await stack.enter_async_context(played_node(Recording(HOSTS, members=members)))
        path = await stack.enter_async_context(admin_socket(node.operations, folder / "admin"))
        doveadm, words = Doveadm(folder, NAMES, ring[0].configuration), ["director", "ring", "status"]
        expected, got = [
            comparable(words, await doveadm.run(words, socket), str) for socket in (ring[0].admin, path)
        ]
    assert got == expected


def _member(row: str) -> MemberInfo:
    """Return a row of the DIRECTOR-LIST of Dovecot 2.3's director."""
    address, port, kind, failed, status, *numbers = row.split("\t")
    counters = ["sync_ms", "bytes_in", "bytes_out", "buffered", "buffered_peak", "last_read", "last_write"]
    return MemberInfo(
        address=address,
        port=int(port),
        kind=kind,
        last_failed=int(failed),
        status=status,
        **dict(zip(counters, map(int, numbers), strict=False)),
    )
