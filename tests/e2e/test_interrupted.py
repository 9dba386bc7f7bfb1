"""All directors are killed during a command of an operator: the restart completes the command."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT, MOVING, PINNED, User, unpack
from state.urls import open_store
from tests.e2e.processes import DirectorProcess, Directors, log_in, until
from tests.servers import RedisServer

FIRST = "127.0.58.11"
USER = "wanderer"
KEY = UserHash().key(USER.encode())


class Ring:
    """Directors, and the store of their users."""

    def __init__(self, directors: Directors, url: str | None) -> None:
        self.directors, self._url = directors, url

    def stored(self, director: DirectorProcess) -> User | None:
        """Return the user's record from the store of a running director."""
        blob = self._sqlite(director) if self._url is None else anyio.run(self._redis)
        return next((user for user in unpack(blob) if user.key == KEY), None)

    def _sqlite(self, director: DirectorProcess) -> bytes:
        db = sqlite3.connect(f"file:{director.folder}/state.db?mode=ro", uri=True)
        try:
            query = "SELECT data FROM bucket WHERE space = 'users' AND id = ?"
            row = db.execute(query, (KEY >> BUCKET_SHIFT,)).fetchone()
        finally:
            db.close()
        return row[0] if row else b""

    async def _redis(self) -> bytes:
        assert self._url is not None
        store = open_store(self._url, base_dir=Path("/"))
        await store.open()
        try:
            (bucket,) = await store.read_buckets("users", [KEY >> BUCKET_SHIFT])
        finally:
            await store.close()
        return bucket.blob


@pytest.fixture(params=["one with sqlite", "three with sqlite", "three with redis"])
def ring(request: pytest.FixtureRequest, folder: Path) -> Iterator[Ring]:
    count = 1 if request.param.startswith("one") else 3
    if request.param.endswith("redis"):
        with RedisServer(appendonly=True) as redis:
            with Directors(folder, first=FIRST, count=count, state=redis.url) as directors:
                yield Ring(directors, redis.url)
    else:
        with Directors(folder, first=FIRST, count=count) as directors:
            yield Ring(directors, None)


def record(director: DirectorProcess) -> Any:
    return director.get(f"/v1/users/{USER}")["current"]


def placed(ring: Ring) -> tuple[str, str]:
    """Log the user in. Returns the user's host, once all directors know it, and another host."""
    ring.directors.wait_whole()
    host = log_in(ring.directors[0], [USER])[USER]
    until(lambda: {record(d) for d in ring.directors.all} == {host}, what="all directors know the user")
    return host, next(address for address, *_ in ring.directors[0].hosts() if address != host)


def die_in_the_middle(ring: Ring, path: str, body: dict[str, Any]) -> None:
    """Send a command to the last director, kill all directors as soon as it is stored, and start them again.

    No kick channel answers meanwhile, so the command cannot end before."""
    origin = ring.directors[-1]
    with ExitStack() as mute:
        for director in ring.directors.all:
            channel = mute.enter_context(socket.socket(socket.AF_UNIX))
            channel.bind(str(director.run / "ipc"))
            mute.callback((director.run / "ipc").unlink)
            channel.listen()
        status, _ = origin.request("POST", f"{path}?wait=false", body)
        assert status == 202
        until(partial(is_moving, ring, origin), what="its record is stored as moving")
        for director in ring.directors.all:
            director.kill()
        assert is_moving(ring, origin)
    ring.directors.start()
    ring.directors.wait_whole()


def is_moving(ring: Ring, director: DirectorProcess) -> bool:
    """Whether the user is being moved, according to the director's store."""
    stored = ring.stored(director)
    return stored is not None and bool(stored.flags & MOVING)


def wait_until_no_move_is_in_progress(ring: Ring) -> None:
    until(
        lambda: all(d.get("/v1/ring")["moves_in_progress"] == 0 for d in ring.directors.all),
        within=40,
        what="no move is in progress",
    )
    assert [d.all_logged("move_timed_out") for d in ring.directors.all] == [[] for _ in ring.directors.all]


@pytest.mark.shows("S-22")
@pytest.mark.parametrize("pin", [False, True], ids=["move", "pin"])
def test_a_move_during_which_all_directors_died_ends_on_its_host_after_the_restart(
    ring: Ring, pin: bool
) -> None:
    _, target = placed(ring)
    move = {"user": USER, "host": target, "pin": pin}
    die_in_the_middle(ring, "/v1/moves", move)
    assert [log_in(director, [USER])[USER] for director in ring.directors.all] == [target] * len(
        ring.directors.all
    )
    wait_until_no_move_is_in_progress(ring)
    until(lambda: not stored_wrongly(ring, pin), what="the end of the move is stored")


def stored_wrongly(ring: Ring, pin: bool) -> bool:
    """Whether a store has the user as moving, unassigned, or wrongly pinned or unpinned."""
    records = [ring.stored(director) for director in ring.directors.all]
    return any(
        user is None or user.flags & MOVING or bool(user.flags & PINNED) is not pin for user in records
    )


@pytest.mark.shows("S-22")
def test_a_forgetting_flush_during_which_all_directors_died_is_completed_after_the_restart(
    ring: Ring,
) -> None:
    host, _ = placed(ring)
    body = {"host": host, "forget": True}
    die_in_the_middle(ring, "/v1/flushes", body)
    wait_until_no_move_is_in_progress(ring)
    assert {record(director) for director in ring.directors.all} == {None}
    assert (
        log_in(ring.directors[0], [USER])[USER] == host
    )  # the host that the hash selects, as for a new user
