"""All targets, and how many seeds of each `make test` runs: about 30 s in all."""

from __future__ import annotations

from tests.fuzz import codecs, documents, ring, sockets, twins
from tests.fuzz.engine import Target

TARGETS: dict[str, Target] = {
    target.name: target for module in (twins, codecs, documents, ring, sockets) for target in module.TARGETS
}
FEW = {"twins": 250, "ring": 60, "config": 200, "socket-kick": 20}
IN_PROCESS, ON_SOCKETS = 1000, 50


def count(name: str) -> int:
    """Return how many seeds of a target `make test` runs."""
    return FEW.get(name, ON_SOCKETS if name.startswith("socket-") else IN_PROCESS)
