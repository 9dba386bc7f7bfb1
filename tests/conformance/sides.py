"""A ring of Dovecot 2.3's directors and a ring of this project, for the same commands on both."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec

from tests.conformance.commands import ADDRESSES, DIFFERENT, NAMES
from tests.conformance.doveadm import Doveadm, Run
from tests.conformance.dovecot23 import Dovecot23Director, dovecot23_directors
from tests.e2e.processes import Client, DirectorProcess, Directors
from tests.servers import free_port

OURS = "127.0.70."
WHEN = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
NUMBER = re.compile(r"(?<=[ \t=])[0-9]+(?=[ \t]|$)")


class Side(msgspec.Struct):
    """A ring that gets commands at its first director."""

    run: Path
    """The base_dir of the ring."""
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
        """Return a text without the parts that only this ring has."""
        for text_here, common in [
            (self.admin, "<socket>"),
            (self.tcp, "<socket>"),
            (str(self.run), "<base_dir>"),
            (self.network, "<ring>"),
            (self.port, "<port>"),
        ]:
            text = text.replace(text_here, common)
        return text


class Sides(msgspec.Struct):
    dovecot: Side
    project: Side
    doveadm: Doveadm

    async def differing(self, commands: Sequence[str], way: str) -> list[str]:
        """Run commands on both rings. Returns the commands that differ, each with how.

        Args:
            commands: the commands, after `doveadm`.
            way: unix, tcp or base_dir.
        """
        found = []
        for command in commands:
            dovecots, got = [await self._run(side, command, way) for side in (self.dovecot, self.project)]
            if (dovecots == got) is (command in DIFFERENT):
                found.append(f"{command} ({way}): expected {dovecots}, got {got}")
        return found

    async def _run(self, side: Side, command: str, way: str) -> Run:
        words = shlex.split(command.replace("<ring>", side.network).replace("<port>", side.port))
        if way == "base_dir":
            run = await self.doveadm.run(words, base_dir=str(side.run))
        else:
            run = await self.doveadm.run(words, side.tcp if way == "tcp" else side.admin)
        return comparable(words, run, side.plain)


@asynccontextmanager
async def both_sides(
    folder: Path, directors: int, flush_sockets: tuple[str, str] = ("", "")
) -> AsyncIterator[Sides]:
    """Run a ring of each kind with the same backends. `flush_sockets`: the setting of each."""
    dovecots_socket, own_socket = flush_sockets
    port = free_port()
    admins = [f"{OURS}{number}:{port}" for number in range(1, directors + 1)]
    each = [
        {
            "settings": {"listen.admin": f'tcp = "{admin}"', "users": f'flush_socket = "{own_socket}"'},
            "backends": [f"{ADDRESSES[0]}-{ADDRESSES[-1]}"],
        }
        for admin in admins
    ]
    with Directors(folder / "o", first=f"{OURS}1", count=directors, state="memory:", each=each) as ring:
        async with dovecot23_directors(
            folder, ADDRESSES, directors, flush_socket=dovecots_socket
        ) as dovecots:
            await anyio.to_thread.run_sync(ring.wait_whole)
            yield Sides(
                dovecot=_dovecot_side(dovecots[0]),
                project=Side(ring[0].run, admins[0], ring[0].member, partial(_log_in, ring[0])),
                # doveadm reads the user hash format there, and asks for all user names there
                doveadm=Doveadm(folder, NAMES, dovecots[0].configuration),
            )


def _dovecot_side(director: Dovecot23Director) -> Side:
    # 0: there is no ring, and none of its commands
    member = f"{director.address}:{director.port or '<none>'}"
    return Side(director.run, director.tcp, member, partial(_log_in_there, director))


def _log_in(director: DirectorProcess) -> None:
    with Client(director.login) as client:
        client.ask(NAMES)


def _log_in_there(director: Dovecot23Director) -> None:
    async def each() -> None:
        for name in NAMES:
            await director.log_in(name)

    anyio.run(each)


def comparable(command: Sequence[str], run: Run, plain: Callable[[str], str]) -> Run:
    """Return a run without what differs from run to run (`NOT_COMPARED`), and from ring to ring."""
    out = [WHEN.sub("<when>", plain(line)).rstrip(" ") for line in run.out]
    if "ring" in command:
        # a director that was not running at the first attempt has one failure
        out = [NUMBER.sub("<n>", re.sub(" +", " ", line.replace("never", "<when>"))) for line in out]
    if "map" in command and "json" in command:
        out = [json.dumps(row) for line in out for row in json.loads(line)]
    if "map" in command:
        out.sort()
    return Run(run.exit_code, out, [plain(line) for line in run.err])
