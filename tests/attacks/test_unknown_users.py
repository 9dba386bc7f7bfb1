"""Logins of invented users at a real director: memory stays bounded, all other users are answered."""

from __future__ import annotations

import json
import select

import pytest

from director.core.placement.hashing import UserHash
from tests.attacks.unknown_users import LONG_NAME, attacked, log_in, resident
from tests.e2e.processes import Client, auth_line, until

USERS = 3000


@pytest.mark.shows("A-30")
def test_a_name_of_4000_bytes_costs_no_more_memory_than_a_short_one() -> None:
    with attacked({}) as director:
        log_in(director, [f"{n:0{LONG_NAME}}" for n in range(200)])
        before = resident(director.pid)
        log_in(director, [f"{n:0{LONG_NAME}}" for n in range(1000, 1000 + USERS)])
        assert director.users() == USERS + 200
        assert (resident(director.pid) - before) / USERS < 1000


@pytest.mark.shows("A-30")
def test_a_user_whose_name_is_not_kept_is_listed_by_the_hash_and_found_by_the_name() -> None:
    name = "x" * LONG_NAME
    with attacked({}) as director:
        log_in(director, [name, "alice"])
        listed = json.loads(director.command("map", "--json").stdout)
        assert {user.get("name") for user in listed} == {"alice", None}
        hash32 = UserHash().key(name.encode()) >> 32
        assert [user["hash"] for user in listed if user.get("name") is None] == [hash32]
        status = json.loads(director.command("status", "--json", name).stdout)
        other = next(host for host, *_ in director.hosts() if host != status["current"])
        moved = director.command("move", name, other)
        assert moved.returncode == 0, moved.stderr
        kicked = director.command("kick", name)
        assert kicked.returncode == 0, kicked.stderr
        with Client(director.login) as client:
            assert client.ask([name]) == {name: other}
        listed = json.loads(director.command("map", "--json").stdout)
        assert {user.get("name") for user in listed} == {"alice", None}


@pytest.mark.shows("A-35")
def test_waiting_logins_of_a_connection_are_bounded_and_other_connections_continue() -> None:
    with attacked({}) as director:
        log_in(director, ["alice"])
        for host, *_ in director.hosts():
            director.change("PATCH", f"/v1/hosts/{host}", {"up": False})
        with Client(director.login) as crowd, Client(director.login) as other:
            refused = b""
            for first in range(0, 10_400, 400):
                lines = [auth_line(n + 1, f"w{n}") for n in range(first, first + 400)]
                crowd.socket.sendall(b"".join(lines))
            while select.select([crowd.socket], [], [], 1.0)[0]:
                refused += crowd.socket.recv(1 << 20)
            assert refused.count(b"FAIL\t") == 400
            assert b"director_waiting_refused_total 400.0" in director.request("GET", "/metrics")[1]
            assert director.get("/v1/ring")["waiting_logins"] == 10_000
            assert "alice" in other.ask(["alice"])
        until(lambda: director.get("/v1/ring")["waiting_logins"] == 0)


@pytest.mark.shows("A-31")
def test_users_over_the_limit_cost_no_memory_and_an_assigned_user_keeps_the_host() -> None:
    with attacked({"users": "max = 2000"}) as director:
        log_in(director, [f"warm{n}" for n in range(3000)])
        host = director.get("/v1/users/warm0")["current"]
        before = resident(director.pid)
        log_in(director, [f"unknown{n}@example.com" for n in range(20_000)])
        assert resident(director.pid) - before < 2_000_000, "records and names of all users would take more"
        assert director.users() == 2000
        page = director.request("GET", "/metrics")[1]
        assert b"director_users_limit 2000.0" in page
        assert b"director_users_not_remembered_total 21000.0" in page
        with Client(director.login) as client:
            assert client.ask(["warm0"]) == {"warm0": host}
            again = [client.ask(["stranger"])["stranger"] for _ in range(3)]
        assert len(set(again)) == 1, "the hash selects the same host every time"
        assert len(director.wait_logged("users_limit_reached")) == 1
