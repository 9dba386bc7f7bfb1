"""Directors and backends that are listed by name, and come back at other addresses. Real processes, in a
network of their own, with Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.network import Network
from tests.e2e.processes import DirectorProcess, Directors, Load, log_in, run_command, until
from tests.servers import RedisServer

USERS = [f"user{number}" for number in range(300)]
QUICK = {"users": 'kick_delay = "100 ms"'}
LOOKS = 20.0
"""Seconds within which a director has looked up all names twice, on a slow machine."""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path / "network") as network:
        network.add(*(f"10.77.0.{number}" for number in range(1, 10)))
        network.say(**{f"backend{number}": f"10.77.1.{number}" for number in (1, 2, 3)})
        network.say(**{f"director{number}_ring": f"10.77.0.{number}" for number in (1, 2, 3)})
        yield network


@pytest.fixture
def ring(folder: Path, network: Network) -> Iterator[Directors]:
    """Three directors that know each other, and three backends, by name; not started."""
    with RedisServer(appendonly=True) as redis:
        each = [{"python": network.python}] * 3
        ring = Directors(folder, first="10.77.0.1", state=redis.url, settings=QUICK, each=each)
        for director in ring.all:
            by_name(director)
        with ring:
            ring.wait_whole()
            yield ring


def by_name(director: DirectorProcess) -> None:
    port = director.member.rpartition(":")[2]
    lines = director.config.read_text().splitlines()
    servers = json.dumps([f"director{number}.ring:{port}" for number in (1, 2, 3)])
    names = json.dumps(["backend1", "backend2", "backend3"])
    kept = [line for line in lines if not line.startswith(("servers", "listen = ", "mail_servers"))]
    # All directors run on one machine, so each needs its own address in the file.
    listen = f"director{director.member.rpartition(':')[0][-1]}.ring:{port}"
    kept.insert(kept.index("[ring]") + 1, f'servers = {servers}\nlisten = "{listen}"')
    kept.insert(kept.index("[backends]") + 1, f"mail_servers = {names}")
    director.config.write_text("\n".join(kept) + "\n")


def table(director: DirectorProcess) -> dict[str, tuple[str, int, bool]]:
    """Return address, weight and whether it is up, of each backend by name."""
    return {h["hostname"]: (h["address"], h["weight"], h["up"]) for h in director.get("/v1/hosts")}


def addresses(director: DirectorProcess) -> dict[str, str]:
    return {name: address for name, (address, *_) in table(director).items()}


def agree(ring: Directors, expected: dict[str, str]) -> None:
    """Wait until all directors have the backends at these addresses."""
    for director in ring.all:
        until(
            lambda d=director: addresses(d) == expected,
            within=LOOKS,
            what=f"{expected}, not {addresses(director)}",
        )


def everywhere(ring: Directors, hosts: Any) -> None:
    for director in ring.all:
        assert log_in(director, USERS) == hosts


def test_a_backend_with_another_address_keeps_weight_state_pins_and_users(
    network: Network, ring: Directors
) -> None:
    first, second, third = ring.all
    run_command(first, "update", "backend2", "30")
    run_command(second, "down", "backend2")
    before = log_in(first, USERS)
    assert set(before.values()) == {"backend1", "backend2", "backend3"} - {"backend2"}
    run_command(third, "pin", "user1", "backend2")
    run_command(third, "move", "user2", "backend2")
    before |= {"user1": "backend2", "user2": "backend2"}
    with Load(ring.logins, USERS) as load:
        network.say(backend2="10.77.1.9", backend1="10.77.1.8")
        agree(ring, {"backend1": "10.77.1.8", "backend2": "10.77.1.9", "backend3": "10.77.1.3"})
    assert (load.failures, load.on_two_hosts()) == ([], {})
    everywhere(ring, before)
    assert table(first)["backend2"] == ("10.77.1.9", 30, False)
    for director in ring.all:
        moved = director.wait_logged("host_address_changed", "name=backend2 before=10.77.1.2 after=10.77.1.9")
        assert len(moved) == 1
    # By the next change every director has looked up all names again, and has changed nothing more.
    network.say(backend3="10.77.1.7")
    agree(ring, {"backend1": "10.77.1.8", "backend2": "10.77.1.9", "backend3": "10.77.1.7"})
    assert [len(director.wait_logged("host_address_changed", times=3)) for director in ring.all] == [3, 3, 3]
    assert run_command(first, "unpin", "user1").stdout.startswith("user1: no longer pinned")
    assert "10.77.1.9  backend2  -        30  down" in run_command(first, "status").stdout
    assert run_command(first, "map", "backend2").stdout.split("\n")[0].split() == [
        "user",
        "hash",
        "host",
        "name",
        "expires",
    ]
    assert "10.77.1.8  0 users" not in run_command(first, "drain", "backend1", "--dry-run").stdout


def test_a_director_is_removed_by_name_and_added_by_name_with_another_address(
    network: Network, ring: Directors
) -> None:
    first, second, third = ring.all
    assert "director3.ring" in run_command(first, "ring", "status").stdout
    assert (
        run_command(first, "ring", "remove", "director3.ring").stdout
        == "director3.ring removed: 2 directors listed\n"
    )
    until(lambda: not third.ready(), what="it was told")
    third.stop()
    # Another machine has the director's former address, and the director has another address.
    network.say(director2_ring="10.77.0.3", director3_ring="10.77.0.7")
    second.stop()
    second.start()
    second.wait_whole(2, within=LOOKS)
    assert second.get("/v1/ring")["removed"] is False
    third.start()
    until(lambda: third.logged("removed_from_ring"), within=LOOKS, what=third.log[-3000:])
    assert run_command(second, "ring", "add", "director3.ring").stdout.startswith(
        "director3.ring added: 3 directors listed"
    )
    for director in ring.all:
        director.wait_whole(3, within=LOOKS)


def test_all_containers_come_back_with_shuffled_addresses(network: Network, ring: Directors) -> None:
    first, second, third = ring.all
    before = log_in(second, USERS)
    run_command(first, "update", "10.77.1.1", "40")
    target = next(name for name in ("backend2", "backend3") if name != before["user1"])
    run_command(third, "pin", "user1", addresses(third)[target])
    before["user1"] = target
    ring.stop()
    network.say(backend1="10.77.1.2", backend2="10.77.1.3", backend3="10.77.1.1")
    network.say(director1_ring="10.77.0.3", director2_ring="10.77.0.1", director3_ring="10.77.0.2")
    ring.start()
    ring.wait_whole()
    agree(ring, {"backend1": "10.77.1.2", "backend2": "10.77.1.3", "backend3": "10.77.1.1"})
    everywhere(ring, before)
    assert table(second)["backend1"][1] == 40
    for director in ring.all:
        assert director.get("/v1/ring")["missing"] == []


def test_a_director_whose_own_address_changes_continues_with_the_new_address(
    network: Network, ring: Directors
) -> None:
    first, second, _ = ring.all
    before = log_in(second, USERS)
    pid, port = second.pid, second.member.rpartition(":")[2]
    new = f"10.77.0.22:{port}"
    network.drop("10.77.0.2")
    network.add("10.77.0.22")
    network.say(director2_ring="10.77.0.22")
    until(lambda: second.logged("program_replaced"), within=LOOKS, what=second.log[-3000:])
    assert f"before=10.77.0.2:{port} after={new}" in second.wait_logged("own_address_changed")[0]
    members = {f"10.77.0.1:{port}", f"10.77.0.3:{port}", new}
    for director in ring.all:
        until(
            lambda d=director: set(d.get("/v1/ring")["ring"]) == members,
            within=LOOKS,
            what=director.log[-3000:],
        )
        assert director.get("/v1/ring")["missing"] == []
    assert (second.pid, log_in(second, USERS)) == (pid, before)
    assert new in run_command(first, "ring", "status").stdout


def test_a_director_starts_while_neighbours_and_backends_have_no_address(
    network: Network, ring: Directors
) -> None:
    first, second, third = ring.all
    before = log_in(first, USERS)
    second.stop()
    third.stop()
    first.stop()
    network.say(director2_ring=None, director3_ring=None, backend2=None)
    first.start()
    first.wait_ready()
    assert log_in(first, USERS) == before
    assert len(first.wait_logged("name_unresolved", times=3)) == 3
    result = network.run(network.python, "-m", "director", "config", "check", "-c", str(first.config))
    assert result.count("cannot be resolved (") == 3
    assert result.endswith("good\n") or ": good\n" in result
    network.say(director2_ring="10.77.0.3", backend2="10.77.1.8")  # formerly the address of another director
    second.start()
    for director in (first, second):
        director.wait_whole(2, within=LOOKS)
        until(
            lambda d=director: addresses(d).get("backend2") == "10.77.1.8",
            within=LOOKS,
            what=director.log[-3000:],
        )
        assert log_in(director, USERS) == before


def test_a_directors_own_name_may_become_resolvable_after_its_start(
    network: Network, ring: Directors
) -> None:
    second = ring[1]
    second.stop()
    network.say(director2_ring=None)
    second.start()
    until(lambda: "retrying for 10 s" in second.log, what=second.log[-3000:])
    network.say(director2_ring="10.77.0.2")
    second.wait_whole(3)
    assert second.get("/v1/ring")["missing"] == []
