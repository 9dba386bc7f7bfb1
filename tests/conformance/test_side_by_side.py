"""The same commands on the original director and on ours: the same output and the same exit codes."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from director.records import HostInfo, MemberInfo
from tests.conformance.doveadm import Doveadm, Run
from tests.conformance.fake_operations import FakeOperations
from tests.conformance.original import originals
from tests.conformance.serving import admin_socket
from tests.needs import needs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

WHEN = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
COUNTERS = re.compile("(?<=synced)( [0-9]+)+")

HOSTS = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"]
NAMES = ["alice", "bob", "carol@example.com", "DAVE", "4242x"]

LOOKING = """
director status
director status alice
director status Alice
director status 2677887420
director status 0
director status 4294967295
director status 4294967296
director status -- -1
director status nobody-yet
director status nobody-yet notag
director status ''
director map
director map 127.0.1.2
director map 127.0.9.9
director map -f <names>
director map -f <names> 127.0.1.2
director map -f <names> -h 1669653170
director map -f <names> -h 12345
director map -h 127.0.1.1
director map -h 1669653170
director map -h
director dump
director ring status
"""

CHANGING = """
director add 127.0.1.5
director add 127.0.1.5
director add -t t1 127.0.1.6 50
director add -t t2 127.0.1.6 50
director add -t t1 127.0.1.6 55
director add 127.0.1.6 60
director add 127.0.1.7@t2 0
director add 127.0.1.8 1000
director add 127.0.1.8 1001
director add 127.0.1.9 4294967295
director add 127.0.1.9 4294967296
director add 127.0.1.9 abc
director add 127.0.1.9 -1
director add
director add 17
director add ::1
director add 0:0:0:0:0:0:0:2 7
-v director add 127.0.1.10
director status
director status alice t1
director status alice t2
director update 127.0.1.5 20
director update 127.0.1.5 20
director update 127.0.1.77 20
director update 127.0.1.5
director update 127.0.1.5 1001
director update 127.0.1.5 x
director update 127.0.1.6@t2 10
director down 127.0.1.5
director down 127.0.1.5
director down 127.0.1.77
director down
director status
director up 127.0.1.5
director up 127.0.1.5
director up 127.0.1.77
director update 127.0.1.5 0
director down 127.0.1.1
director status alice
director status erin
director dump
director remove 127.0.1.5
director remove 127.0.1.5
director remove 127.0.1.6
director remove 127.0.1.1
director remove ::1
director remove
director status alice
director status
director dump
director add 127.0.1.1
director dump
director status alice
director map -f <names>
"""


async def test_looking_around_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    assert await _compare(folder, LOOKING) == []


async def test_changing_hosts_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    assert await _compare(folder, CHANGING) == []


async def test_looking_around_in_a_ring_of_three_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    assert await _compare(folder, LOOKING, directors=3) == []


async def test_changing_hosts_in_a_ring_of_three_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    assert await _compare(folder, CHANGING, directors=3) == []


async def _compare(folder: Path, commands: str, directors: int = 1) -> list[str]:
    """What differs, command by command, after the same users logged in on both."""
    found = []
    async with originals(folder, HOSTS, directors) as ring:
        hosts = [HostInfo(address=address, weight=100, up=True) for address in HOSTS]
        members = [_member(row) for row in await ring[0].ask("DIRECTOR-LIST")]
        ours = FakeOperations(hosts, members=members, clock=lambda: int(time.time()))
        for name in NAMES:
            await ring[0].log_in(name)
            ours.log_in(name)
        async with admin_socket(ours, folder / "admin") as path:
            # doveadm reads the user hash format and asks for all user names there
            doveadm = Doveadm(folder, NAMES, ring[0].configuration)
            for command in commands.strip().splitlines():
                words = shlex.split(command)
                theirs = await doveadm.run(words, ring[0].admin)
                mine = await doveadm.run(words, path)
                expected, got = _comparable(words, theirs, ring[0].admin), _comparable(words, mine, path)
                if expected != got:
                    found.append(f"{command}: expected {expected}, got {got}")
    return found


def _comparable(command: Sequence[str], run: Run, socket: str) -> Run:
    """Without what differs from run to run: times, the path, counters of connections, the order of users."""
    out = [WHEN.sub("<when>", line).replace(socket, "<socket>").rstrip(" ") for line in run.out]
    if "ring" in command:
        out = [COUNTERS.sub("<counters>", re.sub(" +", " ", line)) for line in out]
    if "map" in command:
        out.sort()
    return Run(run.exit_code, out, run.err)


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
