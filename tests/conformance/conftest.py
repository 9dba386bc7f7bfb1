"""Folders and files of the conformance tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for sockets; everybody may enter it."""
    with tempfile.TemporaryDirectory(prefix="director-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
