"""Directors taken off the ring and added again at run time, and pins, over restarts and with each store."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import Client, DirectorProcess, Directors, Load, Refused, log_in, run_command, until
from tests.servers import RedisServer

FIRST = "127.0.56.11"
USERS = [f"user{number}" for number in range(200)]
QUICK = {"users": 'kick_delay = "100 ms"'}
SHORT = {"users": 'kick_delay = "100 ms"\nexpire = "10 s"'}
ISOLATED = ("login_gate_changed", "standing=isolated")
"""The log event of a director that assigns users again, after it has waited on the minority side."""


def output_of(director: DirectorProcess, *arguments: str) -> str:
    """Return what a command prints. It must succeed without a warning."""
    result = run_command(director, *arguments)
    assert result.stderr == "", arguments
    return result.stdout


def refusal(director: DirectorProcess, user: str) -> str:
    """Return the director's refusal of a login."""
    with Client(director.login) as client, pytest.raises(Refused) as refused:
        client.ask([user])
    return str(refused.value)


def test_a_removed_director_refuses_logins_also_after_a_restart_until_it_is_added_again(
    folder: Path, state: str
) -> None:
    with Directors(folder, first=FIRST, state=state, settings=QUICK) as ring:
        first, second, third = ring.all
        ring.wait_whole()
        before = log_in(third, USERS)
        address = third.member.rpartition(":")[0]
        with Load({first.member: first.login, second.member: second.login}, USERS) as load:
            assert output_of(first, "ring", "remove", address) == f"{address} removed: 2 directors listed\n"
            assert "temp" in refusal(third, "user1")
            assert "temp" in refusal(third, "newcomer")
            assert not third.ready()
            for director in (first, second):
                assert director.get("/v1/ring")["ring"] == [first.member, second.member]
                assert director.get("/v1/ring")["missing"] == []
            third.kill()
            third.start()
            assert "temp" in refusal(third, "user1")
            assert "temp" in refusal(third, "newcomer")
            assert output_of(second, "ring", "add", address).startswith(
                f"{address} added: 3 directors listed"
            )
            ring.wait_whole()
        assert load.failures == []
        assert load.on_two_hosts() == {}
        assert log_in(third, USERS) == before
        assert [len(director.get("/v1/ring")["ring"]) for director in ring.all] == [3, 3, 3]


def test_a_director_that_was_removed_while_it_was_down_refuses_logins_when_it_comes_back(
    folder: Path, state: str
) -> None:
    with Directors(folder, first=FIRST, state=state, settings=QUICK) as ring:
        first, _, third = ring.all
        ring.wait_whole()
        log_in(third, USERS)
        third.kill()
        output_of(first, "ring", "remove", third.member)
        third.start()
        assert "temp" in refusal(third, "user1")
        assert not third.ready()
        output_of(first, "ring", "add", third.member)
        ring.wait_whole()


@pytest.mark.shows("S-23")
def test_a_removal_survives_a_restart_of_all_directors(folder: Path, state: str) -> None:
    with Directors(folder, first=FIRST, state=state, settings=QUICK) as ring:
        ring.wait_whole()
        output_of(ring[1], "ring", "remove", ring[2].member)
        until(lambda: not ring[2].ready(), what="it was told")
        for director in ring.all:
            director.kill()
        ring.start()
        for director in ring.all[:2]:
            director.wait_whole(2)
        assert "temp" in refusal(ring[2], "user1")


@pytest.mark.shows("S-23")
def test_an_added_director_and_a_pin_survive_a_restart_of_all_directors(folder: Path, state: str) -> None:
    ring = Directors(folder, first=FIRST, state=state, settings=QUICK)
    first, second, third = ring.all
    for director in (first, second):  # none of their files names the third
        director.config.write_text(director.config.read_text().replace(f', "{third.member}"]', "]"))
    with ring:
        for director in (first, second):
            director.wait_whole(2)
        assert output_of(first, "ring", "add", third.member).startswith(f"{third.member} added")
        ring.wait_whole()
        (hashed,) = log_in(second, ["pinned"]).values()
        target = next(host for host, *_ in first.hosts() if host != hashed)
        output_of(third, "pin", "pinned", target)
        for director in ring.all:
            director.kill()
        ring.start()
        ring.wait_whole()
        assert [log_in(director, ["pinned"]) for director in ring.all] == [{"pinned": target}] * 3
        assert output_of(first, "unpin", "pinned").startswith("pinned: no longer pinned")


@pytest.mark.shows("rule 47")
def test_an_added_director_is_missed_also_by_a_director_that_is_not_its_neighbour(folder: Path) -> None:
    """Two of four directors without the lowest address are the minority side; of the three directors in their
    files they would be the majority side."""
    settings = QUICK | {"ring": 'isolation_wait = "2 s"'}
    ring = Directors(folder, first=FIRST, count=4, settings=settings)
    first, second, third, fourth = ring.all
    for director in (first, second, third):  # none of their files names the fourth
        director.config.write_text(director.config.read_text().replace(f', "{fourth.member}"]', "]"))
    with ring:
        for director in (first, second, third):
            director.wait_whole(3)
        assert output_of(first, "ring", "add", fourth.member).startswith(f"{fourth.member} added")
        ring.wait_whole()
        met = ("ring_link_closed", f"peer={fourth.member}")
        assert len(second.wait_logged(*met)) == 1
        second.kill()
        second.start()  # its store knows that it was linked with the added director
        second.wait_whole(4)
        assert len(second.all_logged(*met)) == 1
        before = [len(director.all_logged(*ISOLATED)) for director in (second, third)]
        first.kill()
        fourth.kill()
        until(lambda: len(second.logged(*ISOLATED)) > before[0], what="the second is on the minority side")
        until(lambda: len(third.logged(*ISOLATED)) > before[1], what="the third is on the minority side")


def test_a_pinned_user_keeps_the_host_over_expiry_and_a_restart_of_all_until_unpinned(folder: Path) -> None:
    with (
        RedisServer(appendonly=True) as redis,
        Directors(folder, first=FIRST, state=redis.url, settings=SHORT) as ring,
    ):
        ring.wait_whole()
        hashed = log_in(ring[0], ["pinned", "moved"])
        target = {user: next(h for h, *_ in ring[0].hosts() if h != host) for user, host in hashed.items()}
        output = output_of(ring[1], "pin", "pinned", target["pinned"])
        assert output == f"pinned: {hashed['pinned']} -> {target['pinned']}, pinned, 0 sessions ended\n"
        output_of(ring[1], "move", "moved", target["moved"])
        begun = time.monotonic()
        for director in ring.all:
            director.kill()
        ring.start()
        ring.wait_whole()
        assert log_in(ring[2], ["pinned", "moved"]) == target
        until(partial(is_nowhere, ring, "moved"), within=25, what="an assignment without a pin expires")
        assert time.monotonic() - begun > 10
        assert log_in(ring[0], ["pinned", "moved"]) == {"pinned": target["pinned"], "moved": hashed["moved"]}
        assert output_of(ring[2], "unpin", "pinned").startswith("pinned: no longer pinned")
        until(partial(is_nowhere, ring, "pinned"), within=25, what="the assignment expires like all others")
        assert log_in(ring[1], ["pinned"]) == {"pinned": hashed["pinned"]}


def is_nowhere(ring: Directors, user: str) -> bool:
    """Whether all directors say that the user is unassigned. A record that was read from the store may be
    seconds fresher on one director (docs/ring.md, rule 16)."""
    return all(director.get(f"/v1/users/{user}")["current"] is None for director in ring.all)
