"""Every command of the stock doveadm on a ring of the original and on one of ours: the same is printed.

How much was compared, and what differs on purpose: `pytest -s tests/conformance/test_side_by_side.py`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest

from director.records import HostInfo, MemberInfo
from tests.conformance import commands
from tests.conformance.commands import ADDRESSES, DIFFERENT, NAMES, NOT_COMPARED
from tests.conformance.doveadm import Doveadm, Run
from tests.conformance.fake_operations import FakeOperations
from tests.conformance.original import Original, originals
from tests.conformance.serving import admin_socket
from tests.e2e.processes import Client, DirectorProcess, Directors
from tests.needs import needs
from tests.servers import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

OURS = "127.0.70."
WHEN = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
NUMBER = re.compile(r"(?<=[ \t=])[0-9]+(?=[ \t]|$)")
HOSTS = [HostInfo(address=address, weight=100, up=True) for address in ADDRESSES]


class Side(msgspec.Struct):
    """A ring to send commands to, at its first director."""

    run: Path
    """Its base_dir."""
    tcp: str
    member: str
    log_in: Callable[[], object]

    @property
    def admin(self) -> str:
        return str(self.run / "director-admin")

    @property
    def port(self) -> str:
        return self.member.rpartition(":")[2]

    @property
    def network(self) -> str:
        return self.member.rpartition(".")[0] + "."

    def plain(self, text: str) -> str:
        """Without what is only this ring's."""
        for own, common in [
            (self.admin, "<socket>"),
            (self.tcp, "<socket>"),
            (str(self.run), "<base_dir>"),
            (self.network, "<ring>"),
            (self.port, "<port>"),
        ]:
            text = text.replace(own, common)
        return text


class Sides(msgspec.Struct):
    original: Side
    ours: Side
    doveadm: Doveadm

    async def differing(self, commands: Sequence[str], way: str) -> list[str]:
        """Run them on both, `way` is unix, tcp or base_dir; the commands that differ, each with how."""
        found = []
        for command in commands:
            theirs, mine = [await self._run(side, command, way) for side in (self.original, self.ours)]
            if (theirs == mine) is (command in DIFFERENT):
                found.append(f"{command} ({way}): expected {theirs}, got {mine}")
        return found

    async def _run(self, side: Side, command: str, way: str) -> Run:
        words = shlex.split(command.replace("<ring>", side.network).replace("<port>", side.port))
        if way == "base_dir":
            run = await self.doveadm.run(words, base_dir=str(side.run))
        else:
            run = await self.doveadm.run(words, side.tcp if way == "tcp" else side.admin)
        return _comparable(words, run, side.plain)


@asynccontextmanager
async def _sides(folder: Path, directors: int) -> AsyncIterator[Sides]:
    """A ring of the original and one of ours, with the same backends."""
    port = free_port()
    admins = [f"{OURS}{number}:{port}" for number in range(1, directors + 1)]
    each = [
        {"settings": {"listen.admin": f'tcp = "{admin}"'}, "backends": f"{ADDRESSES[0]}-{ADDRESSES[-1]}"}
        for admin in admins
    ]
    with Directors(folder / "o", first=f"{OURS}1", count=directors, state="memory:", each=each) as ours:
        async with originals(folder, ADDRESSES, directors) as theirs:
            await anyio.to_thread.run_sync(ours.wait_whole)
            yield Sides(
                original=_original_side(theirs[0]),
                ours=Side(ours[0].run, admins[0], ours[0].member, partial(_log_in, ours[0])),
                # doveadm reads the user hash format and asks for all user names there
                doveadm=Doveadm(folder, NAMES, theirs[0].configuration),
            )


def _original_side(original: Original) -> Side:
    # 0: there is no ring, and none of its commands
    member = f"{original.address}:{original.port or '<none>'}"
    return Side(original.run, original.tcp, member, partial(_log_in_there, original))


def _log_in(director: DirectorProcess) -> None:
    with Client(director.login) as client:
        client.ask(NAMES)


def _log_in_there(original: Original) -> None:
    async def each() -> None:
        for name in NAMES:
            await original.log_in(name)

    anyio.run(each)


async def test_every_command_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    listed = commands.lines(commands.ALL)
    asked = [
        command for command in commands.lines(commands.LOOKING) if "map" not in command or "-f" in command
    ]
    found, compared = [], {}
    async with _sides(folder, 3) as sides:
        for way, some in {"unix": listed, "tcp": listed, "base_dir": asked}.items():
            for side in (sides.original, sides.ours):
                await anyio.to_thread.run_sync(side.log_in)
            found += await sides.differing(some, way)
            compared[way] = len(some)
    print(f"\ndoveadm director: {len(listed)} commands; compared with the original:", compared)
    print("different on purpose:", *(f"{command}: {why}" for command, why in DIFFERENT.items()), sep="\n- ")
    print("not compared:", *NOT_COMPARED, sep="\n- ")
    assert found == []


async def test_a_director_that_stands_alone_prints_the_same_too(folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with _sides(folder, 1) as sides:
        for side in (sides.original, sides.ours):
            await anyio.to_thread.run_sync(side.log_in)
        found = await sides.differing(commands.lines(commands.LOOKING + commands.FORMATS), "unix")
    assert found == []


@pytest.mark.parametrize("directors", [1, 2, 3])
async def test_the_same_ring_is_printed_in_the_same_way_on_both(directors: int, folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with AsyncExitStack() as stack:
        ring = await stack.enter_async_context(originals(folder, ADDRESSES, directors))
        members = [_member(row) for row in await ring[0].ask("DIRECTOR-LIST")]
        path = await stack.enter_async_context(
            admin_socket(FakeOperations(HOSTS, members=members), folder / "admin")
        )
        doveadm, words = Doveadm(folder, NAMES, ring[0].configuration), ["director", "ring", "status"]
        expected, got = [
            _comparable(words, await doveadm.run(words, socket), str) for socket in (ring[0].admin, path)
        ]
    assert got == expected


def _comparable(command: Sequence[str], run: Run, plain: Callable[[str], str]) -> Run:
    """Without what differs from run to run (`NOT_COMPARED`), and from ring to ring."""
    out = [WHEN.sub("<when>", plain(line)).rstrip(" ") for line in run.out]
    if "ring" in command:
        # who was not there yet for the first attempt has failed once
        out = [NUMBER.sub("<n>", re.sub(" +", " ", line.replace("never", "<when>"))) for line in out]
    if "map" in command and "json" in command:
        out = [json.dumps(row) for line in out for row in json.loads(line)]
    if "map" in command:
        out.sort()
    return Run(run.exit_code, out, [plain(line) for line in run.err])


def _member(row: str) -> MemberInfo:
    """A row of the original's DIRECTOR-LIST."""
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
