"""Neighbouring releases in one ring, as during a rolling upgrade."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from director.core.protocol.messages import OLDEST_RING_VERSION, RING_VERSION
from tests.e2e.processes import Directors, log_in, until

FIRST = "127.0.54.11"
NEXT = RING_VERSION + 1
NEWER = {"program": ("tests.e2e.newer_release", str(NEXT), str(OLDEST_RING_VERSION))}
ONLY_NEWER = {"program": ("tests.e2e.newer_release", str(NEXT), str(NEXT))}
USERS = [f"user{number}" for number in range(300)]
QUICK = {"users": 'kick_delay = "100 ms"'}


@pytest.mark.parametrize("each", [[{}, {}, NEWER], [{}, NEWER, NEWER]], ids=["first", "last"])
def test_a_ring_of_neighbouring_releases_works_as_one(folder: Path, each: list[dict[str, object]]) -> None:
    with Directors(folder, first=FIRST, settings=QUICK, each=each) as ring:
        ring.wait_whole()
        hosts = {}
        for number in range(3):
            hosts |= log_in(ring[number], USERS[number::3])
        assert [log_in(ring[number], USERS) for number in range(3)] == [hosts] * 3
        for number in range(3):
            ring[number].change("PATCH", "/v1/hosts/127.0.3.2", {"weight": 50 + number})
            assert [director.hosts() for director in ring.all] == [ring[number].hosts()] * 3
            user = f"user{number}"
            target = next(host for host, *_ in ring[0].hosts() if host != hosts[user])
            moved = ring[number].change("POST", "/v1/moves", {"user": user, "host": target})
            assert (moved["moved"], moved["not_reached"]) == (1, [])
            hosts[user] = target
            kicked = ring[number].change("POST", "/v1/kicks", {"user": user})
            assert kicked["not_reached"] == []
        assert [log_in(ring[number], USERS) for number in range(3)] == [hosts] * 3
        for director in ring.all:
            listed = director.get("/v1/users")
            assert {user["name"]: user["host"] for user in listed} == hosts
        ring[2].kill()
        hosts |= log_in(ring[0], ["while it does not run"])
        ring[2].start().wait_whole(3)
        assert log_in(ring[2], list(hosts)) == hosts
        assert not [line for director in ring.all for line in director.all_logged("internal_error")]


def test_a_changed_member_list_is_understood_by_both_releases(folder: Path) -> None:
    with Directors(folder, first=FIRST, each=[{}, {}, NEWER]) as ring:
        ring.wait_whole()
        spare = "127.0.54.99"
        for number in (0, 2):
            ring[number].change("POST", "/v1/ring/members", {"address": spare})
            listed = [[*d.get("/v1/ring")["ring"], *d.get("/v1/ring")["missing"]] for d in ring.all]
            assert [len(members) for members in listed] == [4, 4, 4]
            ring[2 - number].change("DELETE", f"/v1/ring/members/{spare}")
            assert [d.get("/v1/ring")["missing"] for d in ring.all] == [[], [], []]


def test_a_director_that_speaks_only_newer_versions_is_refused_with_a_reason_on_both_ends(
    folder: Path,
) -> None:
    with Directors(folder, first=FIRST, each=[{}, {}, ONLY_NEWER]) as ring:
        old, newest = f"{OLDEST_RING_VERSION} to {RING_VERSION}", f"{NEXT} to {NEXT}"
        reason = f"ring version {newest} offered, {ring[0].member} supports {old}"
        until(partial(ring[0].logged, "ring_link_closed", reason), what=ring[0].log)
        until(partial(ring[2].logged, "ring_link_closed", "ring version "), what=ring[2].log)
        other_reason = f"ring version {old} offered, {ring[2].member} supports {newest}"
        until(
            lambda: (
                ring[2].logged("ring_link_closed", other_reason) or ring[2].logged("ring_link_closed", reason)
            ),
            what=ring[2].log,
        )
        for director in ring.all[:2]:
            director.wait_whole(2)
        assert log_in(ring[0], USERS) == log_in(ring[1], USERS)
        assert ring[2].get("/v1/ring")["ring"] == [ring[2].member]


@pytest.mark.shows("A-24")
def test_a_director_of_ring_version_1_is_refused_and_both_ends_say_why(folder: Path) -> None:
    with Directors(folder, first=FIRST, each=[{}, {}, {"program": ("tests.e2e.ring_version_1",)}]) as ring:
        old = f"{OLDEST_RING_VERSION} to {RING_VERSION}"
        reason = f"ring version 1 to 1 offered, {ring[0].member} supports {old}"
        until(partial(ring[0].logged, "ring_link_closed", reason), what=ring[0].log)
        assert "upgrade the director with the older one" in ring[0].logged("ring_link_closed", reason)[0]
        other_reason = f"ring version {old} offered, {ring[2].member} supports 1 to 1"
        until(
            lambda: (
                ring[2].logged("ring_link_closed", reason) or ring[2].logged("ring_link_closed", other_reason)
            ),
            what=ring[2].log,
        )
        for director in ring.all[:2]:
            director.wait_whole(2)
        assert log_in(ring[0], USERS) == log_in(ring[1], USERS)
        assert ring[2].get("/v1/ring")["ring"] == [ring[2].member]
