"""The circle, against the vectors recorded from Dovecot 2.3's director."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from director.core.placement.hashing import UserHash
from director.core.placement.vhosts import Circle, point
from director.types import Address

VECTORS = json.loads(Path(__file__).parents[2].joinpath("data/hash-vectors.json").read_text())
HOST_SETS = {vector["name"]: vector["hosts"] for vector in VECTORS["hosts_hash"]["sets"]}
EDGES = VECTORS["ring_edges"]


def circle(hosts: list[dict[str, Any]], tag: str = "") -> Circle:
    return Circle((host["ip"], host["vhosts"]) for host in hosts if not host["down"] and host["tag"] == tag)


@pytest.mark.parametrize("vector", VECTORS["vhost_hash"]["hosts"], ids=lambda vector: vector["ip"])
def test_the_points_of_a_host_are_the_originals(vector: dict[str, Any]) -> None:
    points = [point(vector["ip"], number) for number in range(100)]
    assert points[:5] == vector["first5"]
    assert points[99] == vector["vhost_99"]
    assert sorted(points)[:5] == vector["sorted_first5_of_100"]


@pytest.mark.parametrize(
    "vector", VECTORS["lookups"], ids=lambda vector: f"{vector['host_set']}-{vector['tag']}"
)
def test_every_user_gets_the_host_that_dovecot_2_3_selects(vector: dict[str, Any]) -> None:
    hosts = circle(HOST_SETS[vector["host_set"]], vector["tag"])
    placed = {user: hosts.host(UserHash().hash(user.encode())) for user in vector["map"]}
    assert placed == vector["map"]


@pytest.mark.parametrize(
    "vector", VECTORS["transcript_lookups"], ids=lambda vector: f"{vector['host_set']}-{vector['user']}"
)
def test_what_was_seen_on_the_originals_wire_comes_out_again(vector: dict[str, Any]) -> None:
    hosts = circle(HOST_SETS[vector["host_set"]], vector["tag"])
    assert hosts.host(UserHash().hash(vector["user"].encode())) == vector["host"]


@pytest.mark.parametrize("case", EDGES["cases"], ids=lambda case: str(case["hash"]))
def test_a_hash_on_a_point_belongs_to_it_and_one_behind_the_last_wraps(case: dict[str, Any]) -> None:
    assert circle(EDGES["hosts"]).host(case["hash"]) == case["host"]


def test_a_circle_without_points_has_no_host() -> None:
    assert circle([]).host(1) is None
    assert Circle([(Address("127.0.1.1"), 0)]).host(1) is None


def test_of_two_equal_points_the_lowest_address_counts() -> None:
    shared = 1932360320
    assert point("10.0.0.42", 71) == point("10.0.0.184", 658) == shared
    assert Circle([(Address("10.0.0.184"), 659), (Address("10.0.0.42"), 72)]).host(shared) == "10.0.0.42"
