"""Monitors of backends, poolmon and others that keep an admin connection: at Dovecot 2.3's director and at
this project's."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from director.wire.admin import GREETING
from tests.conformance.commands import ADDRESSES
from tests.conformance.sides import Side, both_sides
from tests.needs import needs
from tests.poolmon import Poolmon, over_tcp, over_unix
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

ROUNDS = 10
WITHIN = 30.0
"""Seconds for one answer, as long as the ring may take."""


class Monitor:
    """A connection over which hosts are marked down and up again."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.answers: Counter[str] = Counter()
        self._stream, self._read = stream, b""

    async def greet(self) -> None:
        await self._stream.send(GREETING)
        assert await self._line() + "\n" == GREETING.decode()

    async def hosts(self) -> list[str]:
        """Return address, weight, tag and state of each host."""
        await self._stream.send(b"HOST-LIST\n")
        found = []
        while line := await self._line():
            address, weight, _, tag, state, _ = line.split("\t")
            found.append(f"{address} {weight} {tag} {state}")
        return found

    async def send(self, command: str, host: str) -> None:
        await self._stream.send(f"{command}\t{host}\n".encode())
        self.answers[f"{command} {await self._line()}"] += 1

    async def watch(self, host: str, rounds: int) -> None:
        """Mark a host down, flush it and mark it up, repeatedly, and list all hosts after each change."""
        for _ in range(rounds):
            for command in ("HOST-DOWN", "HOST-FLUSH", "HOST-UP"):
                await self.send(command, host)
                await self.hosts()

    async def _line(self) -> str:
        with anyio.fail_after(WITHIN):
            while b"\n" not in self._read:
                self._read += await self._stream.receive()
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def monitor(side: Side) -> AsyncIterator[Monitor]:
    async with await anyio.connect_unix(side.admin) as stream:
        found = Monitor(stream)
        await found.greet()
        yield found


async def _watched(side: Side, hosts: tuple[str, str]) -> tuple[Counter[str], list[str]]:
    """Run two monitors at once, one for each of `hosts`. Returns all answers, and the hosts afterwards."""
    async with monitor(side) as one, monitor(side) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.watch, hosts[0], ROUNDS)
            tasks.start_soon(other.watch, hosts[1], ROUNDS)
        seen = [await each.hosts() for each in (one, other)]
    assert seen[0] == seen[1]
    return one.answers + other.answers, seen[0]


async def test_two_monitors_that_keep_their_connections_are_answered_as_by_dovecots_director(
    folder: Path,
) -> None:
    needs("dovecot", "doveadm")
    for_each = Counter(dict.fromkeys(["HOST-DOWN OK", "HOST-FLUSH OK", "HOST-UP OK"], 2 * ROUNDS))
    up = [f"{address} 100  U" for address in ADDRESSES]
    found = []
    async with both_sides(folder, 3) as sides:
        for side in (sides.dovecot, sides.project):
            await anyio.to_thread.run_sync(side.log_in)
            found.append(await _watched(side, (ADDRESSES[0], ADDRESSES[1])))
            found.append(await _watched(side, (ADDRESSES[2], ADDRESSES[2])))
    assert found == [(for_each, up)] * 4


async def test_a_monitor_sees_the_change_of_another_monitor_that_has_its_answer(folder: Path) -> None:
    needs("dovecot", "doveadm")
    found = []
    async with both_sides(folder, 3) as sides:
        for side in (sides.dovecot, sides.project):
            async with monitor(side) as one, monitor(side) as other:
                await one.send("HOST-DOWN", ADDRESSES[0])
                await other.send("HOST-DOWN", ADDRESSES[0])
                await other.send("HOST-FLUSH", "127.0.1.99")
                await one.send("HOST-UP", "127.0.1.99")
                seen = [(await each.hosts())[0] for each in (one, other)]
                found.append((one.answers, other.answers, seen))
    assert found[0] == found[1]
    assert found[0][2] == [f"{ADDRESSES[0]} 100  D"] * 2


@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_the_commands_of_a_monitor_that_hangs_up_are_carried_out_as_by_dovecots_director(
    way: str, folder: Path
) -> None:
    # A single director: in a ring Dovecot 2.3's director loses the line after a line that waits for the ring
    needs("dovecot", "doveadm")
    async with both_sides(folder, 1) as sides:
        for side in (sides.dovecot, sides.project):
            await anyio.to_thread.run_sync(side.log_in)
            watching = over_unix(side.admin) if way == "unix" else over_tcp(side.tcp)
            await _obeyed(watching, {ADDRESSES[0], ADDRESSES[2]})


async def _obeyed(watching: Poolmon, dead: set[str]) -> None:
    assert dead & watching.hosts_with_users()
    await anyio.to_thread.run_sync(watching.scan, dead)
    await until(lambda: watching.hosts_down() == dead, within=WITHIN)
    await until(lambda: not dead & watching.hosts_with_users(), within=WITHIN)
    await anyio.to_thread.run_sync(watching.scan, set[str]())
    await until(lambda: not watching.hosts_down(), within=WITHIN)
