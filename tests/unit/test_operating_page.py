"""docs/operating.md names every command, log event, metric and exit code; the pages name every option."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from director import errors
from director.cli.main import program
from tests.unit.test_metrics_files import given

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
METHODS = {"debug", "info", "warning", "error", "line", "LogEvent"}
EVENT = re.compile(r"[a-z]+(_[a-z]+)*")
LEVELS = {"debug", "info", "warning", "error"}
INTERRUPTED = 130


def rows(heading: str) -> Iterator[str]:
    """Return the first cells of the tables under a heading."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    yield from re.findall(r"^\| (.*?) \| ", part, flags=re.MULTILINE)


def listed_events() -> set[str]:
    return {event for cell in rows("Log") for event in re.findall(r"`([a-z_]+)`", cell)}


def logged_events() -> set[str]:
    """Yield the names of events that the sources pass to a log, or put into a LogEvent."""
    calls = [
        node
        for path in (ROOT / "director").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node) in METHODS
    ]
    # the event is the first string, behind a time or a level
    names = [
        next((found for argument in call.args[:3] if (found := strings(argument))), []) for call in calls
    ]
    return {name for found in names for name in found if EVENT.fullmatch(name)}


def called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def strings(argument: ast.expr) -> list[str]:
    """Yield the strings that an argument can be."""
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


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and its subcommands, each with its words."""
    yield " ".join(names), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *names, name)


def test_every_command_is_on_the_page() -> None:
    names = [name for name, _ in commands(program, "director")]
    assert len(names) > 30
    assert [name for name in names if name not in PAGE] == []


def test_every_option_is_on_a_page() -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    options = {
        text
        for _, command in commands(program)
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
        for text in option.opts
    }
    assert len(options) > 20
    assert [text for text in sorted(options) if not re.search(rf"(?<!\S)`?{text}\b", pages)] == []
