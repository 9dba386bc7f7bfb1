"""Folders of tests that other system users have to enter."""

from __future__ import annotations

import stat
from pathlib import Path


def let_everybody_in(folder: Path) -> None:
    """Let any system user enter `folder`: pytest makes its folders private."""
    for place in (folder, *folder.parents):
        if not place.stat().st_mode & stat.S_IXOTH:
            place.chmod(0o755)
