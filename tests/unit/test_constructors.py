"""Parts of a director get all they need in their constructors; no other part sets their attributes later."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "director"
PACKAGES = ("service", "net", "web")

EXCEPTIONS = {
    # records that the module itself makes, and fills step by step
    "net/login.py": {"client", "given", "self.relay"},  # clients and their relay, which share this module
    "net/listen.py": {"other"},  # the second of two FIFOs, when the first takes its place
    "service/configuration/ringsection.py": {"found"},
    "service/configuration/tomlfile.py": {"secret"},
    "service/endpoints/lookups.py": {"waiting"},
    "service/kicks/channels.py": {"request"},
    "service/operations/trackedjobs.py": {"job"},
    "service/pendingoperations.py": {"operation"},
    # the handover to a successor: filled in the last moment, released part by part to free its memory
    "service/app.py": {"memory"},
    "service/lifecycle/handover.py": {"handover"},
    "service/lifecycle/replacement.py": {"memory", "replacement"},
    # state of the core that changes with each login: a call would cost more than the rest of the line
    "service/loginrelay.py": {"self._counters"},
    "service/loopwatch.py": {"self._assigner"},
    # objects of libraries, which offer attributes only
    "net/places.py": {"self._scope"},
    "net/ringlink.py": {"self._frames"},
    "net/tls.py": {"context", "near", "self._acceptor"},
    "service/log.py": {"sys", "threading", "writer"},  # hooks for exceptions without a caller
    "web/api.py": {"users"},
}
"""By module: the objects, besides itself, whose attributes it assigns."""


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the targets of an assignment, the elements of tuples one by one."""
    match node:
        case ast.Assign(targets=found):
            pass
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            found = [target]
        case _:
            return
    while found:
        target, *found = found
        match target:
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                found = [*elements, *found]
            case ast.Starred(value=value):
                found = [value, *found]
            case _:
                yield target


def assigned(source: str) -> set[str]:
    """Return the objects whose attributes the source assigns, without `self`."""
    found = (target for node in ast.walk(ast.parse(source)) for target in targets(node))
    owners = {ast.unparse(target.value) for target in found if isinstance(target, ast.Attribute)}
    return owners - {"self"}


def test_no_part_of_a_director_gets_anything_after_its_construction() -> None:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if owners := assigned(path.read_text()):
                found[str(path.relative_to(ROOT))] = owners
    assert found == EXCEPTIONS


def test_assignments_to_other_objects_are_found_in_all_forms() -> None:
    source = "self.a = b.c = 1\nd.e += 1\nf.g: int = 1\n(h.i, [j.k, *l.m]), self.n.o = x\np = q[0].r"
    assert assigned(source) == {"b", "d", "f", "h", "j", "l", "self.n"}
