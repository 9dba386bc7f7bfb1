"""Attacks take longer than other tests. `make test` runs them, `make check` does not."""

from __future__ import annotations

from pathlib import Path

import pytest

SECONDS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS, method="signal"))
