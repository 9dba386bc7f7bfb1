"""The same commands on the original director and on ours: the same output and the same exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from director.records import HostInfo, MemberInfo
from director.service.admin import AdminOperations
from tests.conformance.doveadm import Doveadm, Run
from tests.conformance.fake_operations import FakeOperations, placed
from tests.conformance.original import Original, originals
from tests.conformance.real_operations import real_operations
from tests.conformance.serving import admin_socket
from tests.needs import needs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

WHEN = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
COUNTERS = re.compile("(?<=synced)( [0-9]+)+")

ADDRESSES = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"]
HOSTS = [HostInfo(address=address, weight=100, up=True) for address in ADDRESSES]
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
director status j\udcfcrgen
director status jürgen
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
director update 127.0.1.77 1001
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
director down 127.0.1.10
director remove 127.0.1.10
director add 127.0.1.10
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

MOVING = """
director move alice 127.0.1.3
director status alice
director move alice 127.0.1.4
director move nobody-yet 127.0.1.2
director status nobody-yet
director move 4242 127.0.1.2
director status 4242
director move bob 127.0.1.77
director move bob
director move
-v director move bob 127.0.1.1
director kick bob
director kick no-such-user
director kick 'b*'
director kick -f class beta
-v director kick DAVE
director kick
director flush 127.0.1.77
director flush -F 127.0.1.77
director flush 127.0.1.4
director flush --max-parallel 3 127.0.1.4
director flush --max-parallel x 127.0.1.4
director flush
-v director flush -F 127.0.1.3
director map
director flush -F all
director map
director ring add 127.11.0.99
director ring add 127.11.0.99
director ring add bogus
director ring add
director ring status
director ring remove 127.11.0.99 1
director ring remove 127.11.0.99
director ring remove 127.11.0.99
director ring remove
director ring status
"""


@pytest.mark.parametrize("directors", [1, 3])
async def test_looking_around_prints_the_same_on_both(directors: int, folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with (
        originals(folder, ADDRESSES, directors) as ring,
        real_operations(HOSTS, placed(NAMES, HOSTS)) as ours,
    ):
        found = await _compare(LOOKING, ring[0], ours, folder)
    assert found == []


async def test_changing_hosts_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with (
        originals(folder, ADDRESSES, directors=3) as ring,
        real_operations(HOSTS, placed(NAMES, HOSTS)) as ours,
    ):
        found = await _compare(CHANGING, ring[0], ours, folder)
    assert found == []


async def test_moving_users_and_changing_the_ring_prints_the_same_on_both(folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with originals(folder, ADDRESSES, directors=2) as ring:
        members = [_member(row) for row in await ring[0].ask("DIRECTOR-LIST")]
        ours = FakeOperations(HOSTS, placed(NAMES, HOSTS), members)
        found = await _compare(MOVING, ring[0], ours, folder)
    assert found == []


@pytest.mark.parametrize("directors", [1, 2, 3])
async def test_the_same_ring_is_printed_in_the_same_way_on_both(directors: int, folder: Path) -> None:
    needs("dovecot", "doveadm")
    async with originals(folder, ADDRESSES, directors) as ring:
        members = [_member(row) for row in await ring[0].ask("DIRECTOR-LIST")]
        ours = FakeOperations(HOSTS, members=members)
        found = await _compare("director ring status", ring[0], ours, folder)
    assert found == []


async def _compare(commands: str, original: Original, ours: AdminOperations, folder: Path) -> list[str]:
    """What differs, command by command, after the users logged in at the original too."""
    found = []
    for name in NAMES:
        await original.log_in(name)
    async with admin_socket(ours, folder / "admin") as path:
        # doveadm reads the user hash format and asks for all user names there
        doveadm = Doveadm(folder, NAMES, original.configuration)
        for command in commands.strip().splitlines():
            words = shlex.split(command)
            theirs, mine = await doveadm.run(words, original.admin), await doveadm.run(words, path)
            expected, got = _comparable(words, theirs, original.admin), _comparable(words, mine, path)
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
