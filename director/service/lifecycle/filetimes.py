"""Whether the clock is earlier than a moment that has been: a file was written after it.

Then it is doubted (`core/ownclock.py`): a machine without a clock of its own begins in 1970, and a director
must not take all it finds in its store for a forgery.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from director.core.protocol.stamps import AHEAD


class Younger(NamedTuple):
    """A file that is younger than the clock says it can be."""

    path: Path
    seconds: int


def younger_file(paths: Iterable[Path], unix: float) -> Younger | None:
    """The youngest of these files, where it was written more than an hour after `unix` (Unix seconds)."""
    ages = ((path, _written(path) - unix) for path in paths)
    younger = [Younger(path, int(ahead)) for path, ahead in ages if ahead > AHEAD]
    return max(younger, key=lambda file: file.seconds, default=None)


def files_of(urls: Iterable[str], folder: Path) -> list[Path]:
    """The files of those stores that are files, with what SQLite keeps beside them."""
    paths = [folder / unquote(urlsplit(url).path)[1:] for url in urls if url.startswith("sqlite:")]
    return [path.with_name(path.name + suffix) for path in paths for suffix in ("", "-wal")]


def _written(path: Path) -> float:
    """When it was last written, in Unix seconds; -inf: it is not there, or not to be seen."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return float("-inf")
