"""Moves, kicks and flushes as an operator asks for them, and their effect on real sessions.

A ring of three with one Redis, a Dovecot proxy before each director, four backends. Each test leaves the ring
complete and the hosts as they were.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from director.cli.client import Client
from director.core.placement.hashing import UserHash
from director.demo.clients import Imap, login_imap
from director.demo.cluster import Cluster
from director.demo.dovecot import Backend, Programs
from director.demo.ports import addresses, free_ports
from director.demo.process import ServeProcess
from director.demo.settings import Rule
from director.records import MoveInfo, NewMove
from tests.e2e.conftest import new_folder
from tests.e2e.lookups import hosts_of
from tests.e2e.mail import packed
from tests.e2e.mailclients import Delivery, login_pop3
from tests.e2e.processes import run_command, until
from tests.e2e.sessions import Session, Sessions, answers
from tests.e2e.stock import doveadm_director
from tests.servers import RedisServer

PROXIES, BACKENDS = "127.0.50.11", "127.0.51.1"
ESTABLISHED = "01"
"""A state in /proc/net/tcp."""
GUESTS = [Rule("guest*", fields={"user_guest": "yes"}), Rule("!guest*")]
QUICK = {
    "ring": 'ping_interval = "500 ms"\nping_timeout = "2 s"',
    "users": 'kick_delay = "1 s"',
}


@pytest.fixture(scope="module")
def cluster(programs: Programs) -> Iterator[Cluster]:
    proxies = addresses(PROXIES, 3)
    ports = free_ports([*proxies, *addresses(BACKENDS, 4)], proxies)
    with RedisServer(appendonly=True) as redis, new_folder(programs) as folder:
        mail = Cluster(
            folder / "c",
            ports=ports,
            first_proxy=PROXIES,
            first_backend=BACKENDS,
            passdb=GUESTS,
            state=redis.url,
            settings=QUICK,
            programs=programs,
        )
        with mail:
            wait_until_complete(mail)
            yield mail


def wait_until_complete(cluster: Cluster) -> None:
    """Wait until all three are in sync in one ring, and have read their stores."""

    def is_complete() -> bool:
        found = [director.get("/v1/status") for director in cluster.directors]
        return all(
            status["ring"]["synced"] and len(status["ring"]["ring"]) == 3 and status["store"]["loaded"]
            for status in found
        )

    for director in cluster.directors:
        director.wait_ready()
    until(is_complete, within=15, what="the ring is complete")


def stored(director: ServeProcess) -> bool:
    """Whether all changes of this director are stored."""
    queued: int = director.get("/v1/status")["store"]["queued_buckets"]
    return queued == 0


def kicks_done(director: ServeProcess) -> int:
    metrics = director.request("GET", "/metrics")[1].decode()
    found = re.search(r'^director_kicks_total\{result="done"\} ([0-9]+)', metrics, re.M)
    assert found is not None
    return int(found[1])


def connected(address: str, port: int) -> bool:
    """Whether a connection to this address is open, served or not."""
    there = [packed((address, port)), ESTABLISHED]
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[2:4] == there for line in lines)


def start_move(director: ServeProcess, user: str, host: str) -> str:
    """Begin a move and do not wait for it. Returns its id."""
    with closing(Client(str(director.api_path))) as client:
        begun = client.change("POST", "/v1/moves?wait=false", NewMove(user=user, host=host))
        return client.decode(begun, MoveInfo).id


def host_of(director: ServeProcess, user: str) -> str:
    host: str = director.get(f"/v1/users/{user}")["current"]
    return host


def elsewhere(cluster: Cluster, host: str) -> Backend:
    """Return a backend with another address than `host`."""
    return next(backend for backend in cluster.backends if backend.address != host)


def seen_at(cluster: Cluster, user: str) -> list[str]:
    """Return the backend of a new login through each proxy."""
    return [login_imap(address, cluster.ports.imap, user) for address in cluster.proxy_addresses]


def users_on(cluster: Cluster, host: str, prefix: str, count: int) -> list[str]:
    """Return `count` users who are assigned to `host`. Other users are assigned to other hosts meanwhile."""
    names = [f"{prefix}{number}" for number in range(count * 8)]
    hosts = hosts_of(cluster.proxies[0].run / "director-userdb", names)
    found = [name for name in names if hosts[name] == host][:count]
    assert len(found) == count
    return found


def counts(cluster: Cluster, host: str) -> list[int]:
    """Return the number of a host's users, as each director counts them."""
    return [director.get(f"/v1/hosts/{host}")["users"] for director in cluster.directors]


@contextmanager
def weight_restored(cluster: Cluster, host: str) -> Iterator[None]:
    try:
        yield
    finally:
        run_command(cluster.directors[0], "update", host, "100")


# ---- one user


def test_a_move_ends_exactly_the_sessions_of_its_user_and_the_next_login_lands_on_the_new_backend(
    cluster: Cluster,
) -> None:
    with Sessions(cluster) as sessions:
        moved, others = sessions.both("mia"), sessions.both("noa")
        old = host_of(cluster.directors[0], "mia")
        new = elsewhere(cluster, old)
        result = run_command(cluster.directors[1], "move", "mia", new.address)
        assert (result.stdout, result.stderr) == (f"mia: {old} -> {new.address}, 6 sessions ended\n", "")
        assert sessions.ended() == sorted(moved)
        assert seen_at(cluster, "mia") == [new.name] * 3
        for address in cluster.proxy_addresses:
            login_pop3(address, cluster.ports.pop3, "mia")
        until(lambda: new.users("pop3").count("mia") == 3, what="all three are in the log of the new backend")
        assert set(sessions.ended()).isdisjoint(others)


def test_a_move_to_the_users_present_host_ends_no_session(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        sessions.both("olga")
        host = host_of(cluster.directors[0], "olga")
        assert run_command(cluster.directors[2], "move", "olga", host).stdout == f"olga: already on {host}\n"
        assert sessions.ended() == []


def test_a_login_in_the_middle_of_a_move_waits_and_lands_on_the_new_backend(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        sessions.imap("pia")
        new = elsewhere(cluster, host_of(cluster.directors[0], "pia"))
        start_move(cluster.directors[0], "pia", new.address)
        until(lambda: len(sessions.ended()) == 3, what="the user's sessions have ended")
        assert seen_at(cluster, "pia") == [new.name] * 3


@pytest.mark.parametrize("how", [["rita"], ["--hash", str(UserHash().hash(b"rita"))]])
def test_a_kick_ends_all_sessions_of_its_user_who_may_log_in_again_at_once(
    cluster: Cluster, how: list[str]
) -> None:
    with Sessions(cluster) as sessions:
        kicked = sessions.both("rita")
        sessions.both("rit")
        before = sessions.served_by(kicked[0])
        result = run_command(cluster.directors[2], "kick", *how)
        name = f"hash {how[1]}" if len(how) > 1 else how[0]
        assert (result.stdout, result.stderr) == (f"{name}: 6 sessions ended\n", "")
        assert sessions.ended() == sorted(kicked)
        assert seen_at(cluster, "rita") == [before] * 3


def test_a_kick_by_a_field_ends_the_sessions_of_all_users_with_that_field(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        guests = sessions.imap("guest1") + sessions.pop3("guest2")
        sessions.imap("sara")
        assert run_command(cluster.directors[0], "kick", "-f", "user_guest", "no").stdout.endswith(
            " 0 sessions ended\n"
        )
        assert sessions.ended() == []
        result = run_command(cluster.directors[0], "kick", "-f", "user_guest", "yes").stdout
        assert result == "user_guest=yes: 6 sessions ended\n"
        assert sessions.ended() == sorted(guests)


# ---- many users


def test_a_flush_behind_weight_0_moves_50_users_and_ends_their_sessions_only(cluster: Cluster) -> None:
    host = cluster.backends[0].address
    users = users_on(cluster, host, "flushed", 50)
    stays = users_on(cluster, cluster.backends[1].address, "stays", 3)
    with Sessions(cluster) as sessions, weight_restored(cluster, host):
        for number, user in enumerate(users + stays):
            sessions.imap(user, [cluster.proxy_addresses[number % 3]])
        run_command(cluster.directors[1], "update", host, "0")
        assert sessions.ended() == []
        (count,) = set(counts(cluster, host))
        result = run_command(cluster.directors[2], "flush", host)
        expected = f"flush {host}: {count} users moved, 50 sessions ended, 0 timed out\n"
        assert (result.stdout, result.stderr) == (expected, "")
        assert sessions.ended() == sessions.of(*users)
        assert counts(cluster, host) == [0, 0, 0]
        assert cluster.backends[0].name not in seen_at(cluster, users[0]) + seen_at(cluster, users[-1])


def test_a_forgetting_flush_deletes_the_assignments_to_a_host_on_all_directors(cluster: Cluster) -> None:
    host = cluster.backends[2].address
    users = users_on(cluster, host, "forgotten", 5)
    with Sessions(cluster) as sessions:
        for user in users:
            sessions.imap(user)
        (count,) = set(counts(cluster, host))
        result = run_command(cluster.directors[0], "flush", "-F", host).stdout
        assert result == f"flush {host}: {count} users forgotten, 15 sessions ended, 0 timed out\n"
        assert sessions.ended() == sessions.of(*users)
        assert counts(cluster, host) == [0, 0, 0]
        assert seen_at(cluster, users[0]) == [cluster.backends[2].name] * 3


def test_a_drain_moves_all_users_of_a_host_except_pinned_users(cluster: Cluster) -> None:
    host = cluster.backends[3].address
    users = users_on(cluster, host, "drained", 10)
    pinned, *others = users
    with Sessions(cluster) as sessions, weight_restored(cluster, host):
        for user in users:
            sessions.imap(user)
        assert (
            run_command(cluster.directors[0], "pin", pinned, host).stdout
            == f"{pinned}: already on {host}, pinned\n"
        )
        result = run_command(cluster.directors[1], "drain", host, code=75)
        assert re.fullmatch(
            rf"drain {host}: \d+ users moved, 27 sessions ended, 0 timed out, 1 pinned user left\n",
            result.stdout,
        )
        assert "1 pinned user left" in result.stderr
        assert sessions.ended() == sessions.of(*others)
        assert counts(cluster, host) == [1, 1, 1]
        assert run_command(cluster.directors[2], "unpin", pinned).stdout.startswith(
            f"{pinned}: no longer pinned"
        )
        assert run_command(cluster.directors[1], "drain", host).stdout.endswith("done, no user left\n")
        assert sessions.ended() == sessions.of(*users)


def test_a_rebalance_moves_users_back_to_the_hosts_that_the_hash_selects(cluster: Cluster) -> None:
    host = cluster.backends[0].address
    users = users_on(cluster, host, "back", 4)
    run_command(cluster.directors[0], "rebalance", "--max-parallel", "100")
    with weight_restored(cluster, host):
        run_command(cluster.directors[0], "drain", host)
    with Sessions(cluster) as sessions:
        for user in users:
            sessions.imap(user)
        result = run_command(cluster.directors[1], "rebalance", "--max-parallel", "100").stdout
        assert re.fullmatch(r"rebalance: \d+ users moved, 12 sessions ended, 0 timed out\n", result)
        assert sessions.ended() == sessions.of(*users)
    assert {host_of(cluster.directors[2], user) for user in users} == {host}
    assert run_command(cluster.directors[1], "rebalance").stdout.startswith(
        "rebalance: 0 users moved, 0 sessions"
    )


def test_a_tag_takes_a_host_out_of_its_pool_and_moves_its_users(cluster: Cluster) -> None:
    host = cluster.backends[1].address
    users = users_on(cluster, host, "tagged", 5)
    with Sessions(cluster) as sessions:
        for user in users:
            sessions.imap(user)
        result = run_command(cluster.directors[2], "tag", host, "gold").stdout
        try:
            assert re.fullmatch(
                rf"tag {re.escape(host)} gold: \d+ users moved, 15 sessions ended, 0 timed out\n", result
            )
            assert sessions.ended() == sessions.of(*users)
            assert cluster.backends[1].name not in seen_at(cluster, users[0])
            assert counts(cluster, host) == [0, 0, 0]
        finally:
            run_command(cluster.directors[0], "tag", host, "")


def test_a_login_in_flight_to_a_removed_host_is_ended_when_it_arrives(cluster: Cluster) -> None:
    director, host = cluster.directors[0], cluster.backends[3]
    [user] = users_on(cluster, host.address, "late", 1)
    processes = host.processes()
    with Imap(cluster.proxies[0].address, cluster.ports.imap) as client:
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            client.send(f'a LOGIN "{user}" "any"')
            until(lambda: connected(host.address, cluster.ports.imap), what="the proxy waits for the backend")
            before = kicks_done(director)
            run_command(director, "remove", host.address)
            # The first kick comes after the users were moved, the second a second later.
            until(lambda: kicks_done(director) >= before + 2, what="the sessions there are ended")
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        try:
            if host.programs.release != "2.3":  # its ipc may list the session, and end it before it arrives
                until(lambda: user in host.users("imap"), what="the login has arrived at the backend")
            until(lambda: not answers(client), within=15, what="the session at the backend has ended")
            assert host.name not in seen_at(cluster, user)
        finally:
            run_command(director, "add", host.address)


# ---- deliveries


@pytest.mark.parametrize("order", ["move", "kick"])
def test_a_delivery_in_progress_is_completed_during_a_move_or_kick(cluster: Cluster, order: str) -> None:
    proxy, user = cluster.proxies[0], f"parcel{order}"
    with Delivery(proxy.address, cluster.ports.lmtp, user) as delivery:
        before = host_of(cluster.directors[0], user)
        new = elsewhere(cluster, before)
        run_command(cluster.directors[0], *([order, user, new.address] if order == "move" else [order, user]))
        assert delivery.finish().startswith("250 2.0.0")
    until(
        lambda: cluster.backend(before).users("lmtp").count(user) == 1,
        what="the backend has logged the delivery",
    )


# ---- the stock doveadm


def doveadm(cluster: Cluster, *arguments: str) -> CompletedProcess[str]:
    """Run `doveadm director ARGUMENTS` at the second proxy."""
    return doveadm_director(cluster.proxies[1], *arguments)


def test_stock_doveadm_moves_a_user(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        moved = sessions.both("tina")
        sessions.both("ute")
        new = elsewhere(cluster, host_of(cluster.directors[0], "tina"))
        result = doveadm(cluster, "move", "tina", new.address)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert sessions.ended() == sorted(moved)
        assert seen_at(cluster, "tina") == [new.name] * 3


def test_stock_doveadm_is_told_that_a_host_or_user_does_not_exist(cluster: Cluster) -> None:
    results = [doveadm(cluster, "move", "tina", "127.0.51.99"), doveadm(cluster, "flush", "127.0.51.99")]
    assert [result.returncode for result in results] == [68, 68]
    assert all("127.0.51.99" in result.stderr for result in results)


def test_stock_doveadm_kicks_a_user(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        kicked = sessions.both("vera")
        sessions.both("wilma")
        result = doveadm(cluster, "kick", "vera")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        until(lambda: sessions.ended() == sorted(kicked), what="the user's sessions have ended")


def test_stock_doveadm_flushes_a_host(cluster: Cluster) -> None:
    host = cluster.backends[2].address
    users = users_on(cluster, host, "stock", 5)
    with Sessions(cluster) as sessions, weight_restored(cluster, host):
        for user in users:
            sessions.imap(user)
        assert doveadm(cluster, "update", host, "0").returncode == 0
        result = doveadm(cluster, "flush", host)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        until(lambda: sessions.ended() == sessions.of(*users), what="their sessions are ended")
        until(lambda: counts(cluster, host) == [0, 0, 0], what="no user is left")


def test_stock_doveadm_takes_a_director_off_the_ring_and_adds_it_again(cluster: Cluster) -> None:
    third = cluster.directors[2]
    port = str(cluster.ports.ring)
    removed = doveadm(cluster, "ring", "remove", third.address, port)
    try:
        until(lambda: not third.ready(), what="the third director answers no logins")
        listed = cluster.directors[0].get("/v1/ring")["ring"]
        again = doveadm(cluster, "ring", "remove", third.address, port)
    finally:
        added = doveadm(cluster, "ring", "add", third.address, port)
    assert (removed.returncode, removed.stdout, removed.stderr) == (0, "", "")
    assert len(listed) == 2
    assert (again.returncode, again.stderr) == (68, "Error: Not found\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "")
    wait_until_complete(cluster)


# ---- moves while directors fail


def moving(cluster: Cluster, sessions: Sessions, user: str) -> tuple[str, Backend]:
    """Open sessions of a user through all proxies. Returns the user's host, and the backend for a move."""
    sessions.both(user)
    old = host_of(cluster.directors[0], user)
    return old, elsewhere(cluster, old)


def through(sessions: Sequence[Session], proxies: Sequence[str]) -> list[Session]:
    return [session for session in sessions if session.proxy in proxies]


def test_a_suspended_director_is_named_and_its_sessions_end_when_it_continues(cluster: Cluster) -> None:
    suspended = cluster.directors[2]
    with Sessions(cluster) as sessions:
        _, new = moving(cluster, sessions, "xenia")
        first, second, _ = cluster.proxy_addresses
        suspended.send(signal.SIGSTOP)
        try:
            result = run_command(cluster.directors[0], "move", "xenia", new.address)
            reached = sessions.ended()
        finally:
            suspended.send(signal.SIGCONT)
        assert "4 sessions ended" in result.stdout
        assert f"not confirmed by {suspended.address}:{cluster.ports.ring}" in result.stderr
        assert reached == through(sessions.of("xenia"), [first, second])
        until(
            lambda: sessions.ended() == sessions.of("xenia"),
            what="the sessions of the suspended director end too",
        )
        wait_until_complete(cluster)
        assert seen_at(cluster, "xenia") == [new.name] * 3


def test_the_sessions_of_a_killed_director_stay_open_and_end_when_it_is_back(cluster: Cluster) -> None:
    dead = cluster.directors[1]
    with Sessions(cluster) as sessions:
        _, new = moving(cluster, sessions, "yara")
        first, _, third = cluster.proxy_addresses
        dead.kill()
        result = run_command(cluster.directors[0], "move", "yara", new.address)
        reached = sessions.ended()
        dead.start()
        assert "4 sessions ended" in result.stdout
        assert f"not confirmed by {dead.address}:{cluster.ports.ring}" in result.stderr
        assert reached == through(sessions.of("yara"), [first, third])
        until(
            lambda: sessions.ended() == sessions.of("yara"),
            what="the sessions of the killed director end too",
        )
        wait_until_complete(cluster)
        assert seen_at(cluster, "yara") == [new.name] * 3


def test_a_move_whose_origin_is_killed_is_finished_by_the_others(cluster: Cluster) -> None:
    origin, *others = cluster.directors
    with Sessions(cluster) as sessions:
        _, new = moving(cluster, sessions, "zoe")
        _, second, third = cluster.proxy_addresses
        start_move(origin, "zoe", new.address)
        time.sleep(0.05)  # the moment under test
        origin.kill()
        try:
            logins = [login_imap(address, cluster.ports.imap, "zoe") for address in (second, third)]
            hosts = {host_of(director, "zoe") for director in others}
        finally:
            origin.start()
        assert logins == [new.name] * 2
        assert hosts == {new.address}
        wait_until_complete(cluster)
        until(lambda: sessions.ended() == sessions.of("zoe"), what="no old session is left anywhere")
        assert seen_at(cluster, "zoe") == [new.name] * 3


def test_a_move_is_finished_after_all_directors_died_in_the_middle_of_it(cluster: Cluster) -> None:
    with Sessions(cluster) as sessions:
        _, new = moving(cluster, sessions, "abby")
        move = start_move(cluster.directors[1], "abby", new.address)
        until(lambda: len(sessions.ended()) == 6, what="the move has begun everywhere")
        # Sessions are ended while the record is written: no other director has got the move yet.
        until(lambda: stored(cluster.directors[1]), what="it is stored")
        assert cluster.directors[1].get(f"/v1/moves/{move}")["ended"] is None
        for director in cluster.directors:
            director.kill()
        cluster.start_directors()
        wait_until_complete(cluster)
        assert seen_at(cluster, "abby") == [new.name] * 3
        assert {host_of(director, "abby") for director in cluster.directors} == {new.address}
