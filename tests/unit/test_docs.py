"""The documentation names tests that exist, leaves nothing out, and has the diagrams of the code as it is."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/ring.md"
STATE = ROOT / "docs/state.md"
SECURITY = ROOT / "docs/security.md"
SCRIPTS = {path.stem for path in (ROOT / "tests/simulation/scripts").glob("*.txt")}


def all_tests() -> set[str]:
    """Return the names of all test functions."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(
    ("page", "least"), [(PAGE, 100), (STATE, 100), (SECURITY, 20)], ids=["ring", "state", "security"]
)
def test_every_test_that_the_page_names_exists(page: Path, least: int) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert len(named) > least
    assert named - all_tests() == set()


def test_every_script_that_the_page_names_exists_and_every_script_is_named() -> None:
    named = set(re.findall(r"`((?:R|I|K|rule)-\d\d-[\w-]+)`", PAGE.read_text()))
    assert named == SCRIPTS


@pytest.mark.parametrize(("form", "last"), [("{}", 49), ("I-{}", 54), ("K{}", 16), ("R-{}", 63)])
def test_every_rule_defect_and_regression_has_a_row(form: str, last: int) -> None:
    rows = re.findall(r"^\| (\S+) \|", PAGE.read_text(), flags=re.MULTILINE)
    numbers = [form.format(number) for number in range(1, last + 1)]
    assert [row for row in rows if row in numbers] == numbers


def test_the_diagrams_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert script("diagrams").up_to_date(page) == page, "run python docs/diagrams.py"


def test_the_columns_of_tests_name_the_tests_that_are_marked_with_their_rows() -> None:
    texts, unknown = script("testindex").pages()
    assert unknown == {}, "no page has these rows"
    for page, text in texts.items():
        assert page.read_text() == text, "run python docs/testindex.py"


def script(name: str) -> ModuleType:
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_map_of_the_sources_names_every_package_and_only_existing_files() -> None:
    text = (ROOT / "docs/internals.md").read_text()
    homes = [ROOT, *(ROOT / "director" / part for part in ("", "core", "service"))]
    named = set(re.findall(r"`([\w./-]*/[\w./-]*)`", text)) - {""}
    assert len(named) > 30
    assert [name for name in sorted(named) if not any((home / name).exists() for home in homes)] == []
    packages = {f"{path.parent.name}/" for room in ("core", "service") for path in packages_in(room)}
    assert packages - named == set()


def packages_in(room: str) -> list[Path]:
    return list((ROOT / "director" / room).glob("*/__init__.py"))


def test_the_map_of_the_sources_fits_on_two_screens() -> None:
    assert len((ROOT / "docs/internals.md").read_text().splitlines()) <= 100
