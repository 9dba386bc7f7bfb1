"""Folders of tests that other users have to get into."""

from __future__ import annotations

import stat
from pathlib import Path


def let_everybody_in(folder: Path) -> None:
    """Any user may enter `folder` from now on: pytest keeps its folders to itself."""
    for one in (folder, *folder.parents):
        if not one.stat().st_mode & stat.S_IXOTH:
            one.chmod(0o755)
