"""The order of the directors in the ring."""

from __future__ import annotations

import pytest

from director.core.protocol.order import join_member, member_order, rightwards, split_member
from director.types import MemberId


def members(*names: str) -> list[MemberId]:
    return [MemberId(name) for name in names]


@pytest.mark.parametrize(
    ("member", "parts"),
    [
        ("10.0.0.1:9090", ("10.0.0.1", 9090)),
        ("[2001:db8::1]:9090", ("2001:db8::1", 9090)),
        ("[2001:DB8:0::1]:1", ("2001:db8::1", 1)),
    ],
)
def test_a_member_is_an_address_and_a_port(member: str, parts: tuple[str, int]) -> None:
    assert split_member(MemberId(member)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:x",
        "10.0.0.1:\u0663",
        "10.0.0.1:" + "9" * 5000,
        "host:9090",
        "[::1:9090",
    ],
)
def test_anything_else_is_no_member(text: str) -> None:
    with pytest.raises(ValueError, match=r"ADDRESS:PORT|does not appear"):
        split_member(MemberId(text))


@pytest.mark.parametrize("parts", [("10.0.0.1", 9090), ("2001:db8::1", 9090)])
def test_joining_is_the_reverse_of_splitting(parts: tuple[str, int]) -> None:
    assert split_member(join_member(*parts)) == parts


def test_members_stand_by_address_bytes_then_port_and_ipv4_before_ipv6() -> None:
    ordered = members("9.0.0.1:9", "10.0.0.1:80", "10.0.0.1:9090", "[::1]:1", "[2001:db8::1]:1")
    assert sorted(reversed(ordered), key=member_order) == ordered


def test_right_is_upwards_and_wraps() -> None:
    ring = members("10.0.0.11:1", "10.0.0.12:1", "10.0.0.13:1", "10.0.0.14:1")
    assert rightwards(ring[2], ring) == [ring[3], ring[0], ring[1]]


def test_a_director_that_is_not_listed_has_its_place_too() -> None:
    ring = members("10.0.0.11:1", "10.0.0.13:1")
    assert rightwards(MemberId("10.0.0.12:1"), ring) == [ring[1], ring[0]]


def test_a_director_alone_has_no_right_neighbour() -> None:
    assert rightwards(MemberId("10.0.0.1:1"), members("10.0.0.1:1")) == []
