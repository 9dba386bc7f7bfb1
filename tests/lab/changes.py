"""Changes of an operator before a fault, and the search for them after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.lab.lab import Lab

SPARE = "backend4"
"""A host that is tagged, and marked down and up. It has no users of the other hosts."""
WEIGHED = "backend2"
HOMES = ("backend1", "backend2")
"""Hosts to which users are pinned and moved."""


class Changes:
    """The changes of an operator, different in each round. `lost` searches all directors for them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._round = 0
        self._hosts: dict[str, dict[str, object]] = {}
        """The expected attributes of each host."""
        self._users: dict[str, str] = {}
        """The host to which each user was pinned or moved."""

    def make(self) -> None:
        """Change weight, tag and state of hosts, pin a user and move a user, at director 1.

        Raises CommandFailed.
        """
        self._round += 1
        number, lab = self._round, self._lab
        weight, tag, up = 50 + number, f"spare{number}", number % 2 == 0
        lab.director(1, "update", WEIGHED, str(weight))
        lab.director(1, "tag", SPARE, tag)
        lab.director(1, "up" if up else "down", SPARE)
        self._hosts = {WEIGHED: {"weight": weight}, SPARE: {"tag": tag, "up": up}}
        for command, user in (("pin", f"user{150 + number:03}"), ("move", f"user{100 + number:03}")):
            home = HOMES[lab.home(1, user) == HOMES[0]]
            lab.director(1, command, "--new", user, home)
            self._users[user] = home

    def lost(self) -> list[str]:
        """Return all changes that a director does not have, in words."""
        return [reason for number in range(1, self._lab.proxies + 1) for reason in self._lost_at(number)]

    def rebalanced(self) -> None:
        """Note that users were moved to the hosts that the hash selects, also users who were moved by
        hand."""
        self._users = {user: home for user, home in self._users.items() if user.startswith("user15")}

    def undo(self) -> None:
        """Restore the lab, except the assignments."""
        lab = self._lab
        lab.director(1, "update", WEIGHED, "100")
        lab.director(1, "tag", SPARE, "")
        lab.director(1, "up", SPARE)
        for user in self._users:
            if user.startswith("user15"):
                lab.director(1, "unpin", user)

    def _lost_at(self, number: int) -> list[str]:
        found = differences(self._hosts, self._lab.hosts(number))
        for user, home in self._users.items():
            if (current := self._lab.home(number, user)) != home:
                found.append(f"{user} is on {current or 'no backend'}, not on {home}")
        return [f"director{number}: {text}" for text in found]


def differences(expected: Mapping[str, Mapping[str, object]], hosts: Mapping[str, Any]) -> list[str]:
    """Return the differences of the hosts in words.

    Args:
        wanted: the expected attributes of each host, by its name.
        hosts: the attributes of each host, by its name.
    """
    return [
        f"{name} has {key} {hosts.get(name, {}).get(key)!r}, not {value!r}"
        for name, attributes in expected.items()
        for key, value in attributes.items()
        if hosts.get(name, {}).get(key) != value
    ]
