"""Folders and files of the conformance tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder that any user may enter, and whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="director-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
