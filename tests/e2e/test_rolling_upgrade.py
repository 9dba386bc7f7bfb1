"""One Redis, and directors of two releases: the older one knows only schema 1 of the store."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import anyio
import pytest

from state.base import SPLIT_VERSION
from state.urls import open_store
from tests.e2e.processes import Client, Directors, until
from tests.logins import Login, Logins
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio

FIRST = "127.0.55.11"
OLD = ("tests.e2e.older_release",)
NEW = ("tests.e2e.small_buckets", "4")
USERS = [f"user{number}" for number in range(15_000)]
RATE = 200.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the logins need it


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def schema(server: RedisServer) -> int:
    return int(server.command("HGET", "dd:meta", "schema").split(b"\r\n")[1])


async def buckets(server: RedisServer) -> tuple[int, int]:
    """Return the number of buckets, and how many of them are split."""
    store = open_store(server.url, base_dir=Path("/"))
    await store.open()
    versions = await store.versions("users")
    await store.close()
    return len(versions), sum(version == SPLIT_VERSION for version in versions.values())


def hosts_of(ring: Directors, users: list[str], number: int = 0) -> dict[str, str]:
    with Client(ring[number].login) as client:
        return client.ask(users)


def restarted(ring: Directors, number: int, program: tuple[str, ...]) -> None:
    assert ring[number].stop() == 0
    ring[number].program = program
    ring[number].start()
    ring.wait_whole()


def under_way(logins: list[Login], at: str) -> int:
    """Return how many of these logins waited for an answer at a time."""
    changes = [
        (moment, step)
        for login in logins
        if login.at == at
        for moment, step in ((login.began, 1), (login.ended, -1))
    ]
    return max(accumulate(step for _, step in sorted(changes)))


async def soon(condition: Callable[[], Any], what: str = "") -> None:
    await to_thread(partial(until, condition, what=what))


@pytest.mark.shows("S-61")
async def test_a_rolling_upgrade_moves_no_user_and_splits_buckets_after_the_last_director(
    folder: Path, server: RedisServer
) -> None:
    with Directors(folder, first=FIRST, state=server.url, each=[{"program": OLD}] * 3) as ring:
        await to_thread(ring.wait_whole)
        before: dict[str, str] = {}
        for number in range(3):
            before |= await to_thread(hosts_of, ring, USERS[number::3], number)
        # Every second login is of an unassigned user.
        names = lambda number: USERS[number % 5000] if number % 2 else f"new{number}"  # noqa: E731
        async with Logins(ring.logins, RATE, names) as logins:
            for number in range(3):
                assert (schema(server), server.command("KEYS", "dd:{u??}????")) == (1, b"*0\r\n")
                await to_thread(restarted, ring, number, NEW)
                if number < 2:
                    lines = await to_thread(ring[number].wait_logged, "store_migration_postponed")
                    assert len(lines) == 1
                    assert ring[2].member in lines[0]
                    shown = await to_thread(ring[number].command, "state", "info")
                    assert "this program knows 2, these directors do not:" in shown.stdout
                    refused = await to_thread(ring[number].command, "migrate")
                    assert (refused.returncode, ring[2].member in refused.stderr) == (75, True)
            await soon(lambda: schema(server) == 2)
            await soon(lambda: any(director.logged("store_migrated") for director in ring.all[:2]))
            while (await buckets(server))[1] < 100:  # noqa: ASYNC110 - as users come, however fast they do
                await anyio.sleep(0.1)
            # An older program is told why it cannot start.
            assert await to_thread(ring[0].stop) == 0
            ring[0].program = OLD
            assert await to_thread(ring[0].start().wait) == 78
            assert "has schema 2, this program knows up to 1: upgrade the program" in ring[0].log
            ring[0].program = NEW
            await to_thread(ring[0].start().wait_whole, 3)
        assert logins.turned_away == 0
        assert [login for login in logins.all if login.failed and not login.lost] == []
        lost = [login for login in logins.all if login.lost]  # its director was being stopped
        answered = [login for login in logins.all if login.host]
        # At each of the four stops, no more than the logins in progress: on a slow machine these are many.
        assert len(lost) <= 4 * max(5, max(under_way(answered, director.member) for director in ring.all))
        for login in logins.all:
            if login.host:
                assert before.setdefault(login.user, login.host) == login.host
        # A user whose only login was lost may have been assigned all the same.
        possible = range(len(before), len(before.keys() | {login.user for login in lost}) + 1)
        await soon(
            lambda: len({director.users() for director in ring.all}) == 1 and ring[0].users() in possible
        )
        counted = ring[0].users()
        await to_thread(ring.stop)
        verified = await to_thread(ring[0].command, "state", "verify")
        assert (verified.returncode, verified.stderr) == (0, "")
        ring.start()
        await to_thread(ring.wait_whole)
        for number, director in enumerate(ring.all):
            assert director.users() == counted
            assert await to_thread(hosts_of, ring, list(before), number) == before
            assert await to_thread(director.all_logged, "internal_error") == []


@pytest.mark.shows("S-61")
async def test_directors_that_start_together_after_the_upgrade_find_all_users_in_split_buckets(
    folder: Path, server: RedisServer
) -> None:
    with Directors(folder, first="127.0.55.21", state=server.url, each=[{"program": NEW}] * 3) as ring:
        await to_thread(ring.wait_whole)
        before = await to_thread(hosts_of, ring, USERS)
        await to_thread(ring.stop)
        number, split = await buckets(server)
        assert split > 1000
        assert number > 4096 + split
        ring.start()
        await to_thread(ring.wait_whole)
        assert [director.users() for director in ring.all] == [len(USERS)] * 3
        assert await to_thread(hosts_of, ring, USERS, 2) == before
