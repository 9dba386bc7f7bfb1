"""Directors as processes, as login processes, neighbours, operators and stores see them."""

from __future__ import annotations

import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from director.core.placement.hashing import UserHash
from tests.e2e.peers import Stranger, hello
from tests.e2e.processes import (
    GREETING,
    Auth,
    Client,
    DirectorProcess,
    Directors,
    Load,
    auth_line,
    connect,
    host_in,
    log_in,
    read_to_end,
    until,
)
from tests.e2e.stores import stored
from tests.servers import RedisServer, free_port

USERS = [f"user{number}" for number in range(300)]
MANY = [f"user{number}" for number in range(20_000)]
SHORT = {"users": 'expire = "10 s"'}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directors]:
    """One director without a ring, for tests that leave it as it was."""
    with Directors(short(tmp_path_factory), first="127.0.2.9", count=1, state="memory:") as directors:
        directors[0].wait_ready()
        yield directors


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directors]:
    """Three directors, for tests that leave the ring whole."""
    with Directors(short(tmp_path_factory)) as directors:
        directors.wait_whole()
        yield directors


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short(tmp_path_factory)


def short(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a short path: paths of sockets have 107 bytes at most."""
    return factory.mktemp("d")


def lines_of(client: Client, count: int) -> list[bytes]:
    return [client.stream.readline() for _ in range(count)]


# ---- the relay


def test_everything_but_proxied_replies_passes_byte_for_byte_both_ways(alone: Directors) -> None:
    random.seed(1)
    noise = [bytes(random.choices([b for b in range(256) if b != 10], k=n)) for n in range(1, 400, 7)]
    replies = [
        b"OK\t7\tuser=a\tproxy\thost=192.0.2.1",
        b"OK\t8\tuser=b\tproxy\thost=",
        b"OK\t9\tuser=c",
        b"FAIL\t10\tuser=d\ttemp\tproxy",
        b"CONT\t11\tproxy\tuser=e",
        b"PASS\t12\tuser=f\tproxy",
        b"OK",
        b"",
    ]
    data = b"".join(line + b"\n" for line in [*noise, *replies])
    requests = bytes(random.choices(range(256), k=100_000)) + b"\n"
    auth = alone.auths[0]
    with Client(alone[0].login) as client:
        auth.send(data)
        assert client.stream.read(len(data)) == data
        client.socket.sendall(requests)
        until(lambda: auth.received.endswith(requests), what="requests reach auth unchanged")


def test_the_userdb_socket_passes_ok_lines_and_answers_pass_lines(alone: Directors) -> None:
    line = b"OK\t1\tuser=a\tproxy\n"
    with Client(alone[0].userdb, passlines=True) as client:
        alone.auths[1].send(line)
        assert client.stream.readline() == line
        assert client.ask(["lena"]) == log_in(alone[0], ["lena"])


def test_each_connection_has_one_connection_to_auth_and_they_end_together(alone: Directors) -> None:
    auth = alone.auths[0]
    until(lambda: not auth.connections, what="connections of other tests end")
    before = auth.accepted
    clients = [Client(alone[0].login) for _ in range(5)]
    assert auth.accepted - before == len(auth.connections) == 5
    clients.pop().close()
    until(lambda: len(auth.connections) == 4, what="auth sees the end of its client")
    auth.hang_up()
    assert [client.stream.read() for client in clients] == [b""] * 4
    for client in clients:
        client.close()
    assert auth.accepted - before == 5


def test_200_requests_in_flight_are_answered_in_any_order(folder: Path) -> None:
    director = DirectorProcess(folder / "d", "127.0.2.9", free_port(), [], state="memory:")
    with Auth(director.auth_path, gather=200, delay=0.1):
        try:
            with Client(director.start().login) as client:
                client.socket.sendall(b"".join(auth_line(n, f"user{n}") for n in range(200)))
                replies = lines_of(client, 200)
        finally:
            director.close()
    order = [int(reply.split(b"\t")[1]) for reply in replies]
    assert sorted(order) == list(range(200))
    assert order != list(range(200))
    assert {host_in(reply) for reply in replies} <= {f"127.0.3.{n}" for n in range(1, 5)}


def test_a_connection_waits_while_no_auth_runs_and_is_served_when_it_starts(folder: Path) -> None:
    director = DirectorProcess(folder / "d", "127.0.2.9", free_port(), [], state="memory:").start()
    auth = Auth(director.auth_path)
    try:
        with connect(director.login) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"VERSION\t1\t2\nCPID\t77\n" + auth_line(1, "early"))
            until(lambda: director.logged("auth_unreachable"), what=director.log)
            with auth:
                assert stream.read(len(GREETING)) == GREETING
                assert host_in(stream.readline()).startswith("127.0.3.")
            assert stream.read() == b""
        with auth, Client(director.login) as client:
            assert client.ask(["early"])
        assert director.wait_logged("auth_reachable")
        assert len(director.wait_logged("auth_unreachable")) <= 2
    finally:
        director.close()


def test_requests_to_an_auth_that_died_before_its_greeting_are_sent_to_its_successor(
    folder: Path,
) -> None:
    director = DirectorProcess(folder / "d", "127.0.2.9", free_port(), [], state="memory:")
    silent = Auth(director.auth_path, greeting=b"")
    try:
        director.start()
        with connect(director.login) as sock, sock.makefile("rb") as stream:
            with silent:
                sock.sendall(b"VERSION\t1\t2\nCPID\t77\n" + auth_line(1, "patient"))
                until(lambda: b"AUTH" in silent.received, what="the request reaches auth")
            with Auth(director.auth_path):
                assert stream.read(len(GREETING)) == GREETING
                assert host_in(stream.readline()).startswith("127.0.3.")
    finally:
        director.close()


def test_a_line_of_16_kib_passes_and_a_longer_one_ends_its_connection_alone(alone: Directors) -> None:
    longest = b"x" * 16384 + b"\n"
    with Client(alone[0].login) as bystander:
        alone.auths[0].send(longest)
        assert bystander.stream.readline() == longest
        (other,) = alone.auths[0].connections
        with Client(alone[0].login) as client:
            (own,) = alone.auths[0].connections - {other}
            own.sendall(b"FAIL\t1\n" + b"x" * 16385 + b"\nOK\t2\tuser=never\n")
            assert client.stream.read() == b"FAIL\t1\n"
        assert bystander.ask(["unharmed"])
    until(lambda: len(alone[0].logged("auth_line_too_long", str(alone[0].auth_path))) == 1)


# ---- the notify FIFO


def test_writers_of_the_fifo_never_wait(alone: Directors) -> None:
    begun = time.monotonic()
    for _ in range(20):
        with alone[0].fifo.open("wb", buffering=0) as fifo:
            fifo.write(b"any-user\n" * 2000)
    assert time.monotonic() - begun < 5
    assert alone[0].ready()


def test_a_notify_line_keeps_an_assignment_alive_and_garbage_does_no_harm(folder: Path) -> None:
    with Directors(folder, count=1, state="memory:", settings=SHORT) as directors:
        director = directors[0]
        with Client(director.login) as client:
            before = client.ask(["kept", "forgotten"])["kept"]
        begun = time.time()
        with director.fifo.open("wb", buffering=0) as fifo:
            fifo.write(b"\xff\0\n" + b"x" * 70_000 + b"\n\n")

            def forgotten() -> bool:
                fifo.write(b"KEPT\n")
                return director.users() == 1

            until(forgotten, within=20, what="the assignment without notify lines expires")
        assert time.time() - begun > 9
        status = director.get("/v1/users/kept")
        assert status["current"] == before
        assert status["expires"] > begun + 15
        assert len(director.wait_logged("notify_line_too_long")) == 1


# ---- the ring


def test_an_assignment_on_one_director_is_known_to_the_others(ring: Directors) -> None:
    host = log_in(ring[0], ["ulla"])["ulla"]
    for other in ring.all[1:]:
        until(partial(lambda other: other.get("/v1/users/ulla")["current"] == host, other))


def test_a_changed_weight_is_in_sync_when_the_command_returns(ring: Directors) -> None:
    for number, weight in enumerate([30, 70, 100]):
        answer = ring[number].change("PATCH", "/v1/hosts/127.0.3.2", {"weight": weight})
        assert answer["stored"]
        assert [director.hosts()[1][2] for director in ring.all] == [weight] * 3


def test_new_users_get_one_backend_everywhere_while_weights_change(ring: Directors) -> None:
    fresh = [f"fresh{number}" for number in range(3000)]
    with Load(ring.logins, fresh, pause=0) as load:
        for weight in (10, 200, 100):
            ring[1].change("PATCH", "/v1/hosts/127.0.3.3", {"weight": weight})
    assert load.failures == []
    assert load.on_two_hosts() == {}
    assert load.slowest < 1


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_logins_continue_while_a_director_is_killed_and_started_again(ring: Directors, victim: int) -> None:
    others = {d.member: d.login for d in ring.all if d is not ring[victim]}
    with Load(others, [f"{user}-{victim}" for user in USERS]) as load:
        until(lambda: len(load.logins) > 300, what="logins run")
        ring[victim].kill()
        seen = len(load.logins)
        until(lambda: len(load.logins) > seen + 300, what="logins continue")
        ring[victim].start().wait_whole(3)
    back = log_in(ring[victim], [f"{user}-{victim}" for user in USERS])
    print(f"{len(load.logins)} logins, {len(load.failures)} failed, slowest {load.slowest * 1000:.0f} ms")
    assert load.failures == []
    assert load.on_two_hosts() == {}
    assert {login.user: login.host for login in load.logins}.items() <= back.items()
    assert load.slowest < 2


def test_a_director_that_says_good_bye_cannot_be_dialled_any_more(folder: Path) -> None:
    with Directors(folder, count=2, state="memory:") as directors:
        directors[1].kill()
        directors[0].wait_ready()
        address, _, port = directors[0].member.rpartition(":")
        source = directors[1].member.rpartition(":")[0]
        with Stranger(directors[0].member, source=source) as neighbour:
            neighbour.greet(directors[1].member)
            directors[0].send(signal.SIGTERM)
            assert "stops" in neighbour.good_bye()
            # reset: the kernel had taken the connection when the port was closed
            with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
                with socket.create_connection((address, int(port)), timeout=5) as late:
                    late.recv(1)


# ---- restarts


def test_all_records_are_loaded_before_the_first_login_after_a_stop_of_all_directors(
    folder: Path, state: str
) -> None:
    with Directors(folder, state=state) as ring:
        ring.wait_whole()
        ring[2].change("POST", "/v1/hosts", {"address": "127.0.3.9", "tag": "gold", "weight": 70})
        ring[0].change("PATCH", "/v1/hosts/127.0.3.1", {"weight": 30})
        assigned: dict[str, str] = {}
        for number in range(3):
            assigned |= log_in(ring[number], MANY[number::3])
        ring[1].change("PATCH", "/v1/hosts/127.0.3.4", {"up": False})
        hosts = ring[0].hosts()
        ring.stop()

        again: dict[str, str] = {}
        asking = [
            threading.Thread(target=lambda n=n: again.update(log_in(ring[n], MANY[(n + 1) % 3 :: 3])))
            for n in range(3)
        ]
        for thread in asking:
            thread.start()
        begun = time.monotonic()
        ring.start()
        for thread in asking:
            thread.join()
        print(f"20000 logins answered {time.monotonic() - begun:.1f} s after the start")
        assert [user for user in MANY if assigned[user] != again.get(user)] == []
        assert [director.hosts() for director in ring.all] == [hosts] * 3
        assert ("127.0.3.9", "gold", 70, True) in hosts
        assert ("127.0.3.1", "", 30, True) in hosts
        assert ("127.0.3.4", "", 100, False) in hosts


# ---- Redis


@pytest.mark.parametrize(("stop", "restart"), [("kill", "start"), ("freeze", "thaw")])
def test_logins_do_not_wait_for_an_unreachable_redis_which_gets_all_changes_afterwards(
    folder: Path, stop: str, restart: str
) -> None:
    with RedisServer(appendonly=True) as redis, Directors(folder, state=redis.url) as ring:
        ring.wait_whole()
        with Load(ring.logins, [f"outage{number}" for number in range(5000)]) as load:
            until(lambda: len(load.logins) > 100, what="logins run")
            getattr(redis, stop)()
            until(lambda: all(d.logged("store_unreachable") for d in ring.all), what="all notice")
            answer = ring[0].change("PATCH", "/v1/hosts/127.0.3.1", {"weight": 77})
            seen = len(load.logins)
            until(lambda: len(load.logins) > seen + 300, what="logins continue")
            getattr(redis, restart)()
            until(lambda: all(d.logged("store_reachable") for d in ring.all), what="all are back")
            seen = len(load.logins)
            until(lambda: len(load.logins) > seen + 100, what="logins continue")
        until(lambda: all(d.get("/v1/status")["store"]["queued_buckets"] == 0 for d in ring.all))
        keys = {UserHash().key(login.user.encode()): login.host for login in load.logins}

        def all_stored() -> bool:
            users, weights = anyio.run(stored, redis.url)
            return keys.items() <= users.items() and weights["127.0.3.1"] == 77

        until(all_stored, what="all changes are in Redis")
        print(f"{len(load.logins)} logins, {len(load.failures)} failed, slowest {load.slowest * 1000:.0f} ms")
        assert not answer["stored"]
        assert load.failures == []
        assert load.on_two_hosts() == {}
        assert load.slowest < 1
        assert [len(d.all_logged("store_unreachable")) for d in ring.all] == [1, 1, 1]


def test_a_director_that_starts_alone_answers_when_the_leases_of_the_others_have_lapsed(folder: Path) -> None:
    settings = {"ring": 'lease_ttl = "2 s"\nisolation_wait = "10 min"'}
    with RedisServer() as redis, Directors(folder, state=redis.url, settings=settings) as ring:
        ring.wait_whole()
        before = log_in(ring[0], USERS)
        until(lambda: all(d.get("/v1/status")["store"]["queued_buckets"] == 0 for d in ring.all))
        until(lambda: len(anyio.run(stored, redis.url)[0]) == len(USERS))
        for director in ring.all:
            director.kill()
        gates = len(ring[0].logged("login_gate_changed"))
        ring[0].start()
        with Client(ring[0].login) as client:
            assert client.ask(USERS) == before
            client.ask(["newcomer"])
        until(
            lambda: any("standing=complete" in line for line in ring[0].logged("login_gate_changed")[gates:])
        )


def test_a_director_that_starts_alone_with_a_store_of_its_own_answers_after_isolation_wait(
    folder: Path,
) -> None:
    settings = {"ring": 'isolation_wait = "3 s"'}
    with Directors(folder, settings=settings) as ring:
        ring.wait_whole()
        before = log_in(ring[0], USERS)
        ring.stop()
        started = time.monotonic()
        ring[0].start()
        with Client(ring[0].login) as client:
            assert client.ask(USERS) == before
            answered = time.monotonic()
            client.ask(["newcomer"])
        assert ring[0].wait_logged("login_gate_changed", "standing=isolated")
        assert answered - started > 3
        assert time.monotonic() - answered < 1


def test_directors_that_cannot_reach_each_other_assign_new_users_through_redis(
    folder: Path,
) -> None:
    each: list[dict[str, Any]] = [
        {"backends": ["127.0.3.1-127.0.3.4"]},
        {"backends": ["127.0.3.3-127.0.3.6"], "settings": {"users": 'expire = "20 min"'}},
    ]
    with RedisServer() as redis, Directors(folder, count=2, state=redis.url, each=each) as ring:
        for director in ring.all:
            director.wait_ready()
            until(partial(director.logged, "login_gate_changed", "standing=claim"), what=director.log)
        answers: list[dict[str, str]] = []
        users = [f"claimed{number}" for number in range(2000)]
        asking = [
            threading.Thread(target=lambda d=director, o=order: answers.append(log_in(d, o, at_once=100)))
            for director, order in zip(ring.all, (users, users[::-1]), strict=True)
        ]
        begun = time.monotonic()
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        print(f"2 x 2000 claims took {time.monotonic() - begun:.1f} s")
        assert answers[0] == answers[1]
        assert len(answers[0]) == 2000
        for director in ring.all:
            assert director.wait_logged("ring_link_closed", "expire")


def test_a_director_starts_without_redis_logs_it_and_connects_later(folder: Path) -> None:
    with RedisServer() as redis:
        redis.stop()
        with Directors(folder, count=1, state=redis.url) as directors:
            with Client(directors[0].login) as client:
                host = client.ask(["early"])["early"]
            assert directors[0].wait_logged("store_unreachable")
            redis.start()
            until(lambda: directors[0].logged("store_reachable"), what=directors[0].log)
            key = UserHash().key(b"early")
            until(lambda: anyio.run(stored, redis.url)[0].get(key) == host)


def test_a_damaged_sqlite_file_is_set_aside_named_and_filled_from_the_ring(folder: Path) -> None:
    with Directors(folder) as ring:
        ring.wait_whole()
        before = log_in(ring[0], USERS)
        ring[1].stop()
        file = ring[1].folder / "state.db"
        damaged = b"not a database at all" * 1000
        file.write_bytes(damaged)
        ring[1].start().wait_whole(3)
        with Client(ring[1].login) as client:
            assert client.ask(USERS) == before
        (line,) = ring[1].wait_logged("store_damaged")
        kept = next(path for path in ring[1].folder.iterdir() if str(path) in line and path != file)
        assert kept.read_bytes() == damaged

        def refilled() -> bool:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                blobs = database.execute("SELECT data FROM bucket WHERE space = 'users'").fetchall()
            return sum(len(blob) for (blob,) in blobs) == 22 * len(USERS)

        until(refilled, what="the new file holds all users of the ring")


# ---- bad input


GARBAGE = {
    "random bytes": (random.Random(3).randbytes(2000), "at most 4096"),
    "half a frame": (b"\0\0\1\0half", "the handshake did not get beyond GREETING within 2 s"),
    "an oversized frame": (b"\xff\xff\xff\xff", "frame of 4294967295 bytes, at most 4096"),
    "nested without end": (b"\0\0\x0f\xa0" + b"\x91" * 4000, "cannot be read"),
    "no greeting": (b"\0\0\0\4\x91\x92\x09\x01", "Ping is not expected"),
    "a foreign protocol": (b"GET / HTTP/1.1\r\n\r\n", "frame of"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_at_the_ring_port_is_refused_with_a_reason_and_disturbs_no_link(
    ring: Directors, name: str
) -> None:
    data, reason = GARBAGE[name]
    target = ring[list(GARBAGE).index(name) % 3]  # entries about each client are limited
    with Load(ring.logins, USERS) as load:
        with Stranger(target.member, source="127.0.2.13") as stranger:
            stranger.send(data)
            told = stranger.good_bye()
        until(partial(target.logged, "ring_link_closed", reason), what=target.log)
    assert reason in told
    assert load.failures == []
    assert target.get("/v1/ring")["synced"]
    assert len(target.get("/v1/ring")["ring"]) == 3


@pytest.mark.parametrize(
    ("source", "changes", "reason"),
    [
        ("127.0.2.13", {"version": 9, "oldest_version": 9}, "ring version 9 to 9 offered"),
        ("127.0.2.99", {}, "127.0.2.99 is not in ring.servers"),
        ("127.0.2.13", {"member": "127.0.2.12:9090"}, "it must connect from its address in ring.servers"),
        ("127.0.2.13", {"username_hash": "%u"}, "users.username_hash differs"),
        ("127.0.2.13", {"unix": 0.0}, "synchronize both (NTP)"),
    ],
)
def test_a_director_with_a_wrong_greeting_is_refused_with_the_reason(
    ring: Directors, source: str, changes: dict[str, object], reason: str
) -> None:
    target = ring[len(reason) % 2]
    member = f"{source}:{ring[2].member.rpartition(':')[2]}"
    with Stranger(target.member, source=source) as stranger:
        stranger.say([hello({"member": member} | changes)])
        assert reason in stranger.good_bye()
    until(partial(target.logged, "ring_link_closed", reason), what=target.log)


def test_a_second_director_with_an_address_that_is_taken_is_refused_and_both_are_named(
    ring: Directors,
) -> None:
    reason = f"two directors use the address {ring[1].member}"
    with Load(ring.logins, USERS) as load:
        with Stranger(ring[0].member, source="127.0.2.12") as stranger:
            stranger.greet(ring[1].member)
            told = stranger.good_bye()
    assert reason in told
    until(partial(ring[0].logged, "ring_link_closed", reason), what=ring[0].log)
    assert load.failures == []
    assert len(ring[0].get("/v1/ring")["ring"]) == 3


@pytest.mark.shows("I-39")
def test_different_secrets_are_reported_on_both_ends(folder: Path) -> None:
    with Directors(folder, count=2, each=[{}, {"secret": "another secret, 32 bytes long..."}]) as ring:
        for director in ring.all:
            until(partial(director.logged, "ring_link_closed", "wrong ring secret"), what=director.log)
            assert "32 bytes" not in director.complete_log()


def test_a_director_that_is_not_listed_is_named_on_both_ends(folder: Path) -> None:
    port = free_port()
    listed = [f"127.0.2.11:{port}", f"127.0.2.12:{port}"]
    own = DirectorProcess(folder / "a", "127.0.2.11", port, listed)
    other = DirectorProcess(folder / "b", "127.0.2.14", port, [*listed, f"127.0.2.14:{port}"])
    try:
        for director in (own.start(), other.start()):
            reason = "is not in ring.servers of 127.0.2.11"
            until(partial(director.logged, "ring_link_closed", reason), what=director.log)
    finally:
        own.close()
        other.close()


@pytest.mark.parametrize("where", ["admin", "api_path", "login", "userdb"])
def test_garbage_on_a_socket_ends_at_most_that_connection(alone: Directors, where: str) -> None:
    random.seed(where)
    path = getattr(alone[0], where)
    with Client(alone[0].login) as bystander:
        for data in (random.randbytes(5000), b"\n" * 5000, b"x" * 200_000, b"VERSION\t99\t1\n", b""):
            with connect(path) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)
        assert bystander.ask(["unharmed"])
    assert alone[0].ready()
    assert alone[0].all_logged("internal_error") == []


def test_a_wrong_configuration_ends_with_78_and_names_file_key_value_and_what_is_expected(
    folder: Path,
) -> None:
    director = DirectorProcess(
        folder / "d", "127.0.2.9", free_port(), [], settings={"users": 'expire = "4 s"\nexpires = 1'}
    )
    assert director.start().wait() == 78
    assert f"{director.config}: users.expire = '4 s'" in director.log
    assert "at least 10 s" in director.log
    assert "did you mean" in director.log
    assert not director.login.exists()
    assert not (director.folder / "state.db").exists()


def test_a_second_director_on_the_same_sockets_ends_with_78_and_leaves_the_first_alone(
    alone: Directors, folder: Path
) -> None:
    second = DirectorProcess(folder / "d", "127.0.2.9", free_port(), [], state="memory:")
    text = second.config.read_text().replace(str(second.run), str(alone[0].run))
    second.config.write_text(text)
    assert second.start().wait() == 78
    assert "another process listens there" in second.log
    with Client(alone[0].login) as client:
        assert client.ask(["unharmed"])


def test_a_stop_leaves_only_the_sockets_that_are_kept_and_ends_with_0(folder: Path) -> None:
    with Directors(folder, count=1) as directors:
        directors[0].wait_ready()
        assert directors[0].stop() == 0
        assert not directors[0].admin.exists()
        assert not directors[0].api_path.exists()
        assert directors[0].login.exists()
        assert directors[0].fifo.exists()
        assert directors[0].logged("stopped")


def test_a_suspended_director_compares_records_before_it_answers(ring: Directors) -> None:
    with Client(ring[0].login) as client, Client(ring[1].login) as other:
        before = client.ask(USERS)
        ring[0].send(signal.SIGSTOP)
        client.socket.sendall(auth_line(1, "asked while suspended"))
        time.sleep(2)  # the suspension itself
        ring[0].send(signal.SIGCONT)
        (host,) = other.ask(["asked while suspended"]).values()
        assert host_in(client.stream.readline()) == host
        assert client.ask(USERS) == before
    assert ring[0].wait_logged("process_stalled")
    ring[0].wait_whole(3)


def test_a_director_that_was_suspended_does_not_report_its_neighbours_clocks_as_wrong(
    ring: Directors,
) -> None:
    ring[0].wait_whole(3)
    before = len(ring[0].complete_log())
    ring[0].send(signal.SIGSTOP)
    try:
        # The suspension itself: longer than ring.ping_timeout, so that others dial it meanwhile.
        time.sleep(8)
    finally:
        ring[0].send(signal.SIGCONT)
    ring[0].wait_whole(3)
    until(lambda: " event=process_stalled " in ring[0].log[before:])
    since = ring[0].complete_log()[before:].splitlines()
    assert [line for line in since if "the clock of" in line] == []
