"""Writes the columns of the documentation that name tests: `python docs/testindex.py` does it anew.

A test says which rows it stands in by `@pytest.mark.shows("rule 12", "I-5")`, a script of the simulator by a
comment `# shows: rule 12, I-5`. `tests/unit/test_docs.py` fails where a page is not up to date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
PAGES = [DOCS / name for name in ("ring.md", "state.md", "security.md")]
COLUMN = {"test", "test or script", "fails without it"}
"""Titles of the columns."""


def marked() -> Iterator[tuple[str, str]]:
    """Each row that a test or a script shows, with its name, in the order of the files."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.shows":
                        yield from ((ast.literal_eval(row), node.name) for row in mark.args)
    for path in sorted((TESTS / "simulation/scripts").glob("*.txt")):
        for rows in re.findall(r"^# shows: (.*)$", path.read_text(), flags=re.MULTILINE):
            yield from ((row, path.stem) for row in rows.split(", "))


def index() -> dict[str, list[str]]:
    """Names of tests and scripts by row, each once."""
    found: dict[str, list[str]] = {}
    for row, name in marked():
        if name not in found.setdefault(row, []):
            found[row].append(name)
    return found


def up_to_date(page: str, names: dict[str, list[str]]) -> str:
    """The page with the names of `names` in its columns. Takes from `names` each row that it has."""
    lines, column = [], -1
    for line in page.split("\n"):
        cells = line.split(" | ") if line.startswith("|") else []
        titles = [cell.strip("| ") for cell in cells]
        if not cells:
            column = -1
        elif COLUMN.intersection(titles):
            column = next(number for number, title in enumerate(titles) if title in COLUMN)
        elif column >= 0 and not titles[0].startswith("---"):
            row = f"rule {titles[0]}" if titles[0].isdecimal() else titles[0]
            shown = ", ".join(f"`{name}`" for name in names.pop(row, []))
            cells[column] = f"{shown} |" if column == len(cells) - 1 else shown
            line = " | ".join(cells)
        lines.append(line)
    return "\n".join(lines)


def pages() -> tuple[dict[Path, str], dict[str, list[str]]]:
    """Return each page with its columns rewritten, and the names of rows that no page has."""
    names = index()
    return {page: up_to_date(page.read_text(), names) for page in PAGES}, names


if __name__ == "__main__":
    texts, left = pages()
    if left:
        raise SystemExit(f"no page has these rows: {', '.join(left)}")
    for page, text in texts.items():
        page.write_text(text)
