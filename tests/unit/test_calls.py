"""Calls can be read without their signatures: many arguments are passed by keyword."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 7
"""Positional arguments of one call."""


def sources() -> Iterator[Path]:
    for room in ("director", "state"):
        yield from sorted((ROOT / room).rglob("*.py"))


def crowded(text: str) -> Iterator[tuple[int, int]]:
    """Return line and number of positional arguments of each call that passes more than `MOST`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and len(node.args) > MOST:
            yield node.lineno, len(node.args)


def test_no_call_passes_more_than_seven_positional_arguments() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {count} positional arguments"
        for path in sources()
        for line, count in crowded(path.read_text())
    ]
    assert found == []


def test_a_call_with_eight_positional_arguments_is_found() -> None:
    assert list(crowded("f(1, 2, 3, 4, 5, 6, 7, key=8)")) == []
    assert list(crowded("x = 1\nf(1, 2, 3, 4, 5, 6, 7, 8)")) == [(2, 8)]
