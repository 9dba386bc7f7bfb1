"""docs/operating.md has a row for every event of the log, every metric and every exit code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from director import errors
from tests.unit.test_metrics_files import given

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
METHODS = {"debug", "info", "warning", "error", "line", "LogEvent"}
EVENT = re.compile(r"[a-z]+(_[a-z]+)*")
LEVELS = {"debug", "info", "warning", "error"}
INTERRUPTED = 130


def rows(heading: str) -> Iterator[str]:
    """The first cells of the tables under a heading."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    yield from re.findall(r"^\| (.*?) \| ", part, flags=re.MULTILINE)


def listed_events() -> set[str]:
    return {event for cell in rows("Log") for event in re.findall(r"`([a-z_]+)`", cell)}


def logged_events() -> set[str]:
    """The names of events that the sources pass to a log, or put into a LogEvent."""
    calls = [
        node
        for path in (ROOT / "director").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node) in METHODS
    ]
    # the event is the first string, behind a time or a level
    names = [next((found for one in call.args[:3] if (found := strings(one))), []) for call in calls]
    return {name for found in names for name in found if EVENT.fullmatch(name)}


def called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def strings(argument: ast.expr) -> list[str]:
    """The strings that an argument can be."""
    match argument:
        case ast.Constant(value=str(text)):
            return [text] if text not in LEVELS else []
        case ast.IfExp(body=body, orelse=other):
            return strings(body) + strings(other)
    return []


def test_every_event_of_the_log_has_a_row() -> None:
    assert logged_events() - listed_events() == set()


def test_every_row_is_an_event_of_the_log() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "director").rglob("*.py"))
    assert [event for event in sorted(listed_events()) if f'"{event}"' not in sources] == []


def test_every_metric_has_a_row_and_every_row_is_a_metric() -> None:
    listed = {
        name for cell in rows("Health and metrics") for name in re.findall(r"`(director_[a-z_]+)", cell)
    }
    suffixes = re.compile(r"_(bucket|sum|count|created)$")
    metrics = {name for name in given() if not suffixes.search(name)}
    histograms = {suffixes.sub("", name) for name in given() if name.endswith("_bucket")}
    assert listed == metrics | histograms


def test_every_exit_code_has_a_row() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EX_")}
    assert {int(cell) for cell in rows("Exit codes") if cell.isdigit()} >= codes | {INTERRUPTED}
