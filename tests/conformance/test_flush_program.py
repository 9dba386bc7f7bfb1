"""Flush programs: Dovecot 2.3's director and this project's ask for the same users, in the same bytes."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import pytest

from tests.conformance.sides import Side, Sides, both_sides
from tests.needs import needs
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

COMMANDS = [
    ("director move alice 127.0.1.3", 1),
    ("director move bob 127.0.1.4", 1),
    ("director move DAVE 127.0.1.1", 1),
    ("director move DAVE 127.0.1.1", 0),
    ("director update 127.0.1.3 55", 0),
    ("director down 127.0.1.4", 0),
    ("director move alice 127.0.1.1", 1),
    ("director move bob 127.0.1.2", 1),
    ("director update 127.0.1.1 0", 0),
    ("director flush 127.0.1.1", 3),
    ("director kick carol@example.com", 0),
    ("director flush -F 127.0.1.2", 0),
    ("director status", 0),
]
"""Each command, and how often the program is asked."""
TRY_AGAIN = 75


class Recorder:
    """A flush program that keeps each request and reports success."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def _answer(self, stream: anyio.abc.ByteStream) -> None:
        request = b""
        async with stream:
            # the end of the request comes before the answer
            async for data in stream:
                request += data
            self.requests.append(request)
            await stream.send(b"moved\n+\n")

    def has(self, count: int) -> bool:
        return len(self.requests) >= count

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[Recorder]:
        async with await anyio.create_unix_listener(path, mode=0o666) as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._answer)
                yield self
                tasks.cancel_scope.cancel()


async def _requests(sides: Sides, side: Side, recorder: Recorder) -> list[list[bytes]]:
    """Run the commands, and return the requests to the program for each."""
    await anyio.to_thread.run_sync(side.log_in)
    found = []
    for command, count in COMMANDS:
        before = len(recorder.requests)
        for _ in range(100):
            run = await sides.doveadm.run(shlex.split(command), side.admin)
            if run.exit_code != TRY_AGAIN:  # the move before has been confirmed a moment ago
                break
        assert run.exit_code == 0, (command, run)
        # Dovecot 2.3's director answers when the move has begun
        await until(partial(recorder.has, before + count))
        found.append(sorted(recorder.requests[before:]))
    return found


async def test_the_flush_program_is_asked_in_the_same_bytes_for_the_same_users(folder: Path) -> None:
    needs("dovecot", "doveadm")
    dovecots_path, own_path = folder / "dovecots", folder / "own"
    async with (
        Recorder().at(dovecots_path) as dovecots,
        Recorder().at(own_path) as own,
        both_sides(folder, 3, (f"unix:{dovecots_path}", f"unix:{own_path}")) as sides,
    ):
        expected = await _requests(sides, sides.dovecot, dovecots)
        got = await _requests(sides, sides.project, own)
    assert got == expected
    assert [len(requests) for requests in got] == [count for _, count in COMMANDS]
    assert got[0] == [b"VERSION\tscript\t4\t0\n-\nFLUSH\n1669653170\n127.0.1.1\n127.0.1.3\nup\n100\n\n"]
    assert any(b"\ndown\n" in request for request in got[7])
