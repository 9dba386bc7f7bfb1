"""Which directors of the ring differ from this one in what should be the same everywhere.

Each director sees its neighbours and those that it refuses. Where directors differ, two neighbours do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from director.core.ring.link import Identity, Neighbour
from director.types import MemberId

VERSION, BACKENDS, EXPIRE, HASH = "version", "backends", "users.expire", "users.username_hash"
ALL = (VERSION, BACKENDS, EXPIRE, HASH)


def differences(
    me: Identity, neighbours: Iterable[Neighbour], refused: Mapping[MemberId, Mapping[str, str]]
) -> dict[str, dict[MemberId, str]]:
    """By what differs: the directors, and what they have; empty where that is not told.

    refused: directors that may not link, with the settings that differ and their values there."""
    found: dict[str, dict[MemberId, str]] = {what: {} for what in ALL}
    for neighbour in neighbours:
        if not neighbour.live or neighbour.peer is None:
            continue
        if neighbour.release and me.release and neighbour.release != me.release:
            found[VERSION][neighbour.peer] = neighbour.release
        if neighbour.backends and me.backends and neighbour.backends != me.backends:
            found[BACKENDS][neighbour.peer] = ""
    for member, settings in refused.items():
        for setting, value in settings.items():
            found[setting][member] = value
    return found
