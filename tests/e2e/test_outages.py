"""Faults of Redis while three directors answer logins: no login waits for Redis, no login fails, no change of
an operator is lost, and in the end the store holds the same records as the directors. Then all directors and
Redis stop at once and Redis comes back empty: the snapshots make the start warm.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import anyio
import pytest

from director.core.placement.hashing import UserHash
from tests.e2e.processes import Client, DirectorProcess, Directors, Load, until
from tests.e2e.stores import stored
from tests.proxy import Proxy
from tests.servers import RedisServer

USERS = [f"user{number}" for number in range(3000)]
STORE_TIMEOUT = 2.0
"""Seconds after which a call to the store times out. A login that waited for the store would wait as long."""
PINNED_TO = "127.0.3.2"


class Place(NamedTuple):
    redis: RedisServer
    proxy: Proxy
    ring: Directors


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Three directors on one Redis behind a proxy. Each test leaves the ring complete and the store
    reachable."""
    with RedisServer() as redis, Proxy(redis.socket) as proxy:
        state = f"redis://127.0.0.1:{proxy.port}"
        with Directors(tmp_path_factory.mktemp("d"), first="127.0.2.51", state=state) as ring:
            ring.wait_whole()
            yield Place(redis, proxy, ring)


def killed_and_back(place: Place) -> None:
    place.redis.command("SAVE")
    place.redis.kill()


def start(place: Place) -> None:
    place.redis.start()


def flap(place: Place) -> None:
    """Make Redis unreachable for 0.3 s, again and again."""
    for _ in range(5):
        place.redis.command("SAVE")
        place.redis.kill()
        time.sleep(0.3)
        place.redis.start()
        time.sleep(0.3)
    place.redis.kill()


def slow(place: Place) -> None:
    place.proxy.delay = STORE_TIMEOUT


def quick(place: Place) -> None:
    place.proxy.delay = 0.0


def memory_full(place: Place) -> None:
    place.redis.command("CONFIG", "SET", "maxmemory", "1")


def memory_free(place: Place) -> None:
    place.redis.command("CONFIG", "SET", "maxmemory", "0")


def disk_full(place: Place) -> None:
    """Make Redis refuse writes, as it does when it cannot save to its disk."""
    saved = place.redis.folder / "dump.rdb"
    saved.unlink(missing_ok=True)
    saved.mkdir()
    place.redis.command("CONFIG", "SET", "save", "3600 1")
    place.redis.command("BGSAVE")


def disk_free(place: Place) -> None:
    (place.redis.folder / "dump.rdb").rmdir()
    place.redis.command("CONFIG", "SET", "save", "")
    place.redis.command("BGSAVE")


def replica(place: Place) -> None:
    """Make Redis a replica of a primary that does not exist: it keeps its data and refuses writes."""
    place.redis.command("REPLICAOF", "127.0.0.1", "1")


def primary(place: Place) -> None:
    place.redis.command("REPLICAOF", "NO", "ONE")


def older(place: Place) -> None:
    """Put back the data that were saved a while ago, as after a failover that lost the last writes, or a
    restored backup."""
    place.redis.command("SAVE")
    saved = place.redis.folder / "dump.rdb"
    shutil.copy(saved, saved.with_name("old"))
    begun = {director.member: director.users() for director in place.ring.all}
    with Client(place.ring[0].login) as client:
        client.ask([f"later{number}-{time.monotonic()}" for number in range(500)])
    until(lambda: all(d.users() >= begun[d.member] + 500 for d in place.ring.all))
    until(lambda: queued(place.ring[0]) == 0)
    place.redis.kill()
    shutil.move(saved.with_name("old"), saved)


def flush(place: Place) -> None:
    place.redis.command("FLUSHALL")


def nothing(place: Place) -> None:
    pass


def queued(director: DirectorProcess) -> int:
    count: int = director.get("/v1/status")["store"]["queued_buckets"]
    return count


Step = Callable[[Place], None]
OUTAGES: dict[str, tuple[Step, Step, str]] = {
    "killed": (killed_and_back, start, "store_unreachable"),
    "flapping": (flap, start, "store_unreachable"),
    "slow": (slow, quick, "store_unreachable"),
    "memory full": (memory_full, memory_free, "OOM"),
    "disk full": (disk_full, disk_free, "MISCONF"),
    "read-only replica": (replica, primary, "READONLY"),
    "failed over, or restored, to older data": (older, start, "store_unreachable"),
    "wiped": (flush, nothing, "store_replaced"),
}
"""By name: the begin of the fault, its end, and the signs of both in every director's log."""


@pytest.mark.shows("S-1")
@pytest.mark.parametrize("name", OUTAGES)
def test_no_login_waits_for_a_failing_redis_and_no_change_is_lost(place: Place, name: str) -> None:
    begin, end, sign = OUTAGES[name]
    ring = place.ring
    weight = 10 + list(OUTAGES).index(name)
    before = {director.member: len(signs(director, sign)) for director in ring.all}
    with Load(ring.logins, USERS) as load:
        until(lambda: len(load.logins) > 200, what="logins run")
        begun = time.monotonic()
        begin(place)
        ring[0].change("PATCH", "/v1/hosts/127.0.3.1", {"weight": weight})
        pinned = f"pinned-{name.split()[0]}"
        result = ring[1].command("pin", "--new", pinned, PINNED_TO)
        until(
            lambda: all(len(signs(d, sign)) > before[d.member] for d in ring.all),
            what=f"all log {sign}:\n{ring[0].log[-2000:]}",
        )
        seen = len(load.logins)
        until(lambda: len(load.logins) > seen + 300, what="logins go on")
        end(place)
        lasted = time.monotonic() - begun
        until(lambda: all(is_up(d) for d in ring.all), what=ring[0].log[-2000:])
        back = time.monotonic() - begun - lasted
        seen = len(load.logins)
        until(lambda: len(load.logins) > seen + 100, what="logins go on")
    print(
        f"{name}: lasted {lasted:.1f} s, all records loaded after {back:.1f} s; {len(load.logins)} logins,"
        f" {len(load.failures)} failed, slowest {load.slowest * 1000:.0f} ms"
    )
    assert result.returncode == 0, result
    assert load.failures == []
    assert load.on_two_hosts() == {}
    assert load.slowest < STORE_TIMEOUT
    until(lambda: is_stored(place), within=20, what="the store holds all assignments")
    hosts, rows = anyio.run(stored, place.redis.url)
    assert in_memory(ring[2]) == hosts
    assert hosts[UserHash().key(pinned.encode())] == PINNED_TO
    assert rows["127.0.3.1"] == weight
    verified = ring[2].command("state", "verify")
    assert verified.returncode == 0, verified.stdout


def signs(director: DirectorProcess, sign: str) -> list[str]:
    return [line for line in director.log.splitlines() if " event=store_" in line and sign in line]


def is_up(director: DirectorProcess) -> bool:
    return bool(director.get("/v1/status")["store"]["up"])


def in_memory(director: DirectorProcess) -> dict[int, str]:
    """Return the host of each key, from a director's listing."""
    ran = director.command("map", "--json")
    assert ran.returncode == 0, ran.stderr
    return {int(user["key"], 16): user["host"] for user in json.loads(ran.stdout)}


def is_stored(place: Place) -> bool:
    """Whether every director has the same assignments as the store."""
    users, _ = anyio.run(stored, place.redis.url)
    return all(director.users() == len(users) for director in place.ring.all)


# ---- all at once


@pytest.mark.shows("S-2")
def test_all_users_keep_their_hosts_when_all_directors_restart_and_redis_is_empty(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisServer() as redis:
        with Directors(tmp_path_factory.mktemp("d"), first="127.0.2.55", state=redis.url) as ring:
            ring.wait_whole()
            with Client(ring[0].login) as client:
                before = client.ask(USERS)
            ring[0].change("PATCH", "/v1/hosts/127.0.3.1", {"weight": 30})
            assert ring[1].command("pin", "--new", "pinned", PINNED_TO).returncode == 0
            assert ring[2].command("ring", "add", "127.0.2.58").returncode == 0
            hosts = ring[0].hosts()
            until(lambda: all(d.users() == len(USERS) + 1 for d in ring.all))
            ring.stop()
            redis.kill()
            redis.start()
            begun = time.monotonic()
            ring.start()
            with Client(ring[0].login) as client:
                client.ask(USERS[:1])
                print(f"first login answered {time.monotonic() - begun:.1f} s after the start")
                assert client.ask(USERS) == before
            ring.wait_whole()
            assert [director.hosts() for director in ring.all] == [hosts] * 3
            until(lambda: any(d.logged("snapshot_loaded", 'reason="the store is empty"') for d in ring.all))
            until(lambda: len(anyio.run(stored, redis.url)[0]) == len(USERS) + 1)
            assert anyio.run(stored, redis.url)[0][UserHash().key(b"pinned")] == PINNED_TO
            assert all("127.0.2.58" in json.dumps(d.get("/v1/ring")) for d in ring.all)


@pytest.mark.shows("S-3")
def test_directors_that_start_without_redis_use_snapshots_and_a_joining_director_gets_newer_records(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisServer() as redis:
        with Directors(tmp_path_factory.mktemp("d"), first="127.0.2.61", state=redis.url) as ring:
            ring.wait_whole()
            with Client(ring[0].login) as client:
                before = client.ask(USERS)
            until(lambda: all(d.users() == len(USERS) for d in ring.all))
            ring[2].stop()  # its snapshot is older than the others'
            ring[0].change("PATCH", "/v1/hosts/127.0.3.1", {"weight": 30})
            with Client(ring[0].login) as client:
                before |= client.ask(["newer"])
            redis.kill()
            ring[2].start().wait_whole(3)
            with Client(ring[2].login) as client:
                assert client.ask([*USERS, "newer"]) == before
            assert ring[2].wait_logged("snapshot_loaded", 'reason="the store is unreachable"')
            assert [director.hosts() for director in ring.all] == [ring[0].hosts()] * 3
            ring.stop()
            ring.start()
            with Client(ring[1].login) as client:
                assert client.ask([*USERS, "newer"]) == before
            redis.start()
            until(lambda: all(is_up(d) for d in ring.all), what=ring[0].log[-2000:])
            until(lambda: len(anyio.run(stored, redis.url)[0]) == len(USERS) + 1)


@pytest.mark.shows("S-12")
def test_a_second_cluster_on_the_same_prefix_ends_with_78_and_says_what_to_do(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisServer() as redis:
        folder = tmp_path_factory.mktemp("d")
        with Directors(folder, first="127.0.2.65", count=1, state=redis.url) as ring:
            ring.wait_whole()
            address, _, port = ring[0].member.rpartition(":")
            other = DirectorProcess(
                folder / "other", "127.0.2.66", int(port), [], state=redis.url, secret="x" * 32
            )
            try:
                assert other.start().wait(30) == 78
            finally:
                other.close()
            (line,) = other.logged("cannot_start")
            assert f"{address}:{port} holds a lease" in line
            assert "?prefix=NAME:" in line
            ring.stop()
            try:
                # no director of the former cluster holds a lease, so the secret may have
                # changed
                other.start().wait_ready()
            finally:
                other.close()
