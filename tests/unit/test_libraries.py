"""One library for one thing: checked in the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.joinpath("director").rglob("*.py"), *ROOT.joinpath("state").rglob("*.py")])

RESOLVERS = {
    "state/resolver.py",
    "cli/hosts.py",  # a command ends with its look-up: it has no loop, and nothing else to do
}
LOOK_UPS = {"getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"}


def name_of(file: Path) -> str:
    """`net/accept.py`; `state/redis.py`."""
    return str(file.relative_to(ROOT)).removeprefix("director/")


def attributes(file: Path) -> Iterator[ast.Attribute]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute))


def test_the_system_resolver_is_asked_in_one_place_and_by_the_command_line() -> None:
    asking = {name_of(file) for file in FILES for node in attributes(file) if node.attr in LOOK_UPS}
    assert asking == RESOLVERS
