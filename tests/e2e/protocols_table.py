"""Runs test_protocols.py and prints its table: `python -m tests.e2e.protocols_table [pytest options]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.visits import PROTOCOLS

TESTS = Path(__file__).with_name("test_protocols.py")
COLUMNS = {
    "test_login": "login",
    "test_wrong_password": "wrong password",
    "test_kick": "kick",
    "test_move": "move",
    "test_expiry": "expiry",
    "test_director_replaced": "director replaced in place",
    "test_director_restart": "restart of director",
    "test_director_crash": "crash of director",
    "test_auth_restart": "restart of auth",
}
RELEASES = ("2.3", "2.4")
Cell = tuple[str, str, str]
"""Protocol, release, test."""


class Table:
    """A pytest plug-in that records the result of each cell."""

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}
        self._outcomes: dict[Cell, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            assert isinstance(item, pytest.Function)
            given = item.callspec.params
            self._cells[item.nodeid] = given["protocol"], given["programs"], item.originalname

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._outcomes.setdefault(self._cells[report.nodeid], []).append(report.outcome)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the table in Markdown."""
        yield f"| protocol | Dovecot | {' | '.join(COLUMNS.values())} |"
        yield "| --- " * (len(COLUMNS) + 2) + "|"
        for protocol in PROTOCOLS:
            for release in RELEASES:
                cells = [self._text((protocol, release, test)) for test in COLUMNS]
                yield f"| {protocol} | {release} | {' | '.join(cells)} |"

    def _text(self, cell: Cell) -> str:
        outcomes = set(self._outcomes.get(cell, ["not run"]))
        return "ok" if outcomes == {"passed"} else ", ".join(sorted(outcomes - {"passed"}))


def main(options: list[str]) -> int:
    """Run the tests, print the table, and return pytest's exit code."""
    table = Table()
    code = pytest.main([str(TESTS), "-q", *options], plugins=[table])
    print("\n".join(table.lines()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
