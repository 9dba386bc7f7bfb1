"""A dry run of a kick counts the sessions on all directors. Real directors, with stand-ins for the ipc of
their Dovecot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.to_thread
import pytest

from tests.e2e.processes import DirectorProcess, Directors
from tests.ipc import HEADER, FakeIpc, session

pytestmark = pytest.mark.anyio
HOST = b"127.0.3.1"
DRY = "(dry run: nothing is changed)\n"


def proxying(sessions: int) -> Callable[[bytes], bytes]:
    """Return the ipc's answers of a Dovecot that proxies `sessions` sessions of alice, and one of bob."""
    listing = HEADER + session(b"alice", HOST) * sessions + session(b"bob", HOST, 2) + b"+\n"
    return lambda request: listing if request == b"LIST-FULL" else b"+1\n"


async def kick(director: DirectorProcess, *arguments: str) -> str:
    result = await anyio.to_thread.run_sync(director.command, "kick", *arguments)
    assert result.returncode == 0, result
    return result.stdout


async def test_a_dry_run_of_a_kick_counts_the_sessions_of_all_directors(folder: Path) -> None:
    with Directors(folder, first="127.0.89.31") as ring:
        async with AsyncExitStack() as stack:
            ipcs = [FakeIpc(proxying(number)) for number in (1, 2, 3)]
            for director, ipc in zip(ring.all[:2], ipcs, strict=False):
                await stack.enter_async_context(ipc.listening(director.run / "ipc"))
            async with ipcs[2].listening(ring[2].run / "ipc"):
                await anyio.to_thread.run_sync(ring.wait_whole)
                for director in ring.all:
                    assert await kick(director, "alice", "--dry-run") == f"alice: would end 6 sessions {DRY}"
                assert await kick(ring[0], "bob", "--dry-run") == f"bob: would end 3 sessions {DRY}"
            (ring[2].run / "ipc").unlink(missing_ok=True)
            for director in ring.all:
                assert await kick(director, "alice", "--dry-run") == (
                    f"alice: would end - sessions, at least 3: not counted at {ring[2].member} {DRY}"
                )
            assert {request for ipc in ipcs for request in ipc.requests} == {b"LIST-FULL"}
            assert (await kick(ring[0], "alice")).endswith(" ended\n")
            assert [ipc.requests.count(b"KICK\talice") for ipc in ipcs] == [1, 1, 0]
