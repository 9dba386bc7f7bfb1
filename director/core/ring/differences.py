"""The directors of the ring that differ from this one in what should be the same everywhere.

A director can compare itself with its neighbours, and with the directors whose links it refuses. That is
enough: if any directors differ, then two neighbours do.
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
    """Return the directors that differ.

    Args:
        refused: directors whose links are refused, each with the settings that differ and their values there.

    Returns:
        For each of ALL, the directors that differ in it, with their values; empty if the value is not known.
    """
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
