"""Directors of Dovecot 2.3 on loopback addresses, for running the same commands on both.

All their files are in one folder, whose path must be short enough for sockets. Nothing outside is changed.
"""

from __future__ import annotations

import getpass
import grp
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from director.wire.admin import GREETING
from tests.needs import SEARCH

NETWORK = "127.11.0."
START_WITHIN = 50.0
"""Seconds in which a ring of Dovecot 2.3 forms. A director that misses one attempt to connect waits long
for the next."""
POLL = 0.05

CONFIGURATION = """\
base_dir = {run}
state_dir = {run}/state
instance_name = {name}
log_path = {log}
listen = {address}
protocols =
ssl = no
auth_mechanisms = plain
default_vsz_limit = 0
stats_writer_socket_path =
director_servers = {servers}
director_mail_servers = {mail_servers}
director_user_expire = {expire} s
director_username_hash = %Lu
director_flush_socket = {flush_socket}
passdb {{
  driver = static
  args = proxy=y nopassword=y
}}
service director {{
  chroot =
  unix_listener director-userdb {{
    mode = 0600
  }}
  unix_listener director-authreply {{
    mode = 0600
  }}
  {listeners}
}}
service ipc {{
  unix_listener ipc {{
    user = {user}
  }}
}}
{rootless}
"""

ROOTLESS = """\
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
service anvil {{
  chroot =
}}
"""


class Dovecot23Director(msgspec.Struct):
    """A running director of Dovecot 2.3."""

    address: str
    port: int
    """The port of the ring; 0: it runs alone."""
    doveadm_port: int
    run: Path
    configuration: Path

    @property
    def tcp(self) -> str:
        """The admin socket over TCP."""
        return f"{self.address}:{self.doveadm_port}"

    @property
    def admin(self) -> str:
        """The admin socket."""
        return str(self.run / "director-admin")

    @property
    def authreply(self) -> str:
        """The socket for auth replies made by hand, which stock Dovecot does not open by itself."""
        return str(self.run / "director-authreply")

    async def ask(self, command: str) -> list[str]:
        """Return the reply to an admin command: its lines up to an empty line, or to the end."""
        async with await anyio.connect_unix(self.admin) as stream:
            return await _conversation(stream, GREETING, f"{command}\n".encode(), skip=1)

    async def log_in(self, name: str) -> None:
        """Assign a user to a host, as an LMTP delivery does."""
        async with await anyio.connect_unix(self.run / "director-userdb") as stream:
            request = f"PASS\t1\t{name}\tservice=lmtp\n".encode()
            lines = await _conversation(stream, b"VERSION\t1\t0\n", request, until="(PASS|FAIL|NOTFOUND)\t1")
        assert "\thost=" in lines[-1], lines

    async def synced(self) -> bool:
        """Whether it answers and its ring is in sync. Asking also starts the director process."""
        try:
            rows = await self.ask("DIRECTOR-LIST")
        except OSError:
            return False
        return any("\tring synced\t" in row for row in rows)


@asynccontextmanager
async def dovecot23_directors(
    folder: Path,
    mail_servers: Sequence[str],
    directors: int = 1,
    expire: int = 900,
    flush_socket: str = "",
) -> AsyncIterator[list[Dovecot23Director]]:
    """Run directors of Dovecot 2.3 in one ring while the block runs. A single director has no ring."""
    addresses = [f"{NETWORK}{number}" for number in range(1, directors + 1)]
    port = _free_port(addresses[0]) if directors > 1 else 0
    servers = " ".join(f"{address}:{port}" for address in addresses) if port else ""
    ring = [
        Dovecot23Director(address, port, _free_port(address), folder / address, folder / f"{address}.conf")
        for address in addresses
    ]
    for director in ring:
        director.configuration.write_text(
            _configuration(director, servers, mail_servers, expire, flush_socket)
        )
    processes: list[anyio.abc.Process] = []
    try:
        for director in ring:
            processes.append(await _start(director))
        await _formed(ring)
        yield ring
    finally:
        with anyio.CancelScope(shield=True):
            for process in processes:
                process.terminate()
            for process in processes:
                await process.wait()


def _configuration(
    director: Dovecot23Director, servers: str, mail_servers: Sequence[str], expire: int, flush_socket: str
) -> str:
    root = os.geteuid() == 0
    user, group = getpass.getuser(), grp.getgrgid(os.getegid()).gr_name
    ports = {"director-doveadm": director.doveadm_port} | ({"ring": director.port} if servers else {})
    listeners = [
        f"inet_listener {name} {{\n address = {director.address}\n port = {port}\n }}"
        for name, port in ports.items()
    ]
    return CONFIGURATION.format(
        run=director.run,
        name=director.address,
        log=f"{director.run}.log",
        address=director.address,
        servers=servers,
        mail_servers=" ".join(mail_servers),
        expire=expire,
        flush_socket=flush_socket,
        listeners="\n  ".join(listeners),
        user="dovecot" if root else user,
        rootless="" if root else ROOTLESS.format(user=user, group=group),
    )


async def _start(director: Dovecot23Director) -> anyio.abc.Process:
    # A file and no pipe: Dovecot's processes keep stderr open, and the reader of a pipe would wait for them.
    output = os.open(f"{director.run}.start", os.O_WRONLY | os.O_CREAT)
    try:
        return await anyio.open_process(
            ["dovecot", "-F", "-c", str(director.configuration)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": SEARCH},
        )
    finally:
        os.close(output)


async def _formed(ring: Sequence[Dovecot23Director]) -> None:
    with anyio.fail_after(START_WITHIN):
        while True:
            if all([await director.synced() for director in ring]):
                return
            await anyio.sleep(POLL)


async def _conversation(
    stream: anyio.abc.ByteStream, greeting: bytes, request: bytes, skip: int = 0, until: str | None = None
) -> list[str]:
    """Return the lines after the first `skip` lines, up to an empty line or a line that matches `until`
    (included)."""
    await stream.send(greeting + request)
    read = b""
    with anyio.fail_after(5):
        while True:
            *lines, _ = read.decode().split("\n")
            for number, line in enumerate(lines[skip:], start=skip):
                if line == "":
                    return lines[skip:number]
                if until is not None and re.match(until, line):
                    return lines[skip : number + 1]
            try:
                read += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return lines[skip:]


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
