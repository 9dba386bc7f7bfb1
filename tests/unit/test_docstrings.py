"""Blocks in docstrings are correct: a documented argument exists, a block is not empty."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.unit.test_calls import ROOT, sources

BLOCKS = ("Args", "Returns", "Raises")


def problems(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        signature = node.args
        given = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        names = {arg.arg for arg in given} | {a.arg for a in (signature.vararg, signature.kwarg) if a}
        for block in BLOCKS:
            match = re.search(rf"^{block}:\n((?:    .*\n|\n)*)", (ast.get_docstring(node) or "") + "\n", re.M)
            if match is None:
                continue
            if not match[1].strip():
                yield f"{node.name}: {block} says nothing"
            if block == "Args":
                documented = re.findall(r"^    (\w+(?:, \w+)*): ", match[1], re.M)
                unknown = {name for entry in documented for name in entry.split(", ")} - names
                yield from (f"{node.name} has no argument {name}" for name in sorted(unknown))


def test_documented_arguments_exist() -> None:
    found = [f"{path.relative_to(ROOT)}: {what}" for path in sources() for what in problems(path.read_text())]
    assert found == []


def test_an_argument_that_was_renamed_is_found() -> None:
    text = 'def f(new):\n    """Do.\n\n    Args:\n        old: seconds.\n\n    Returns:\n    """\n'
    assert list(problems(text)) == ["f has no argument old", "f: Returns says nothing"]
