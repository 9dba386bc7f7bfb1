"""Finds out whether the clock is behind: a file was written later than the clock says now.

Then the clock is doubted (`core/ownclock.py`). A machine without a battery-backed clock starts in 1970, and
its director must not take all stamps in the store for false.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from director.core.protocol.stamps import AHEAD
from director.service.configuration.config import Config
from director.service.log import Log


class Younger(NamedTuple):
    """A file whose time is later than the clock, and by how many seconds."""

    path: Path
    seconds: int


def clock_is_behind(config: Config, unix: float, log: Log) -> bool:
    """Return whether a file of configuration or store was written after `unix` (Unix seconds); logs it."""
    paths = [Path(config.file), *files_of((config.state, config.snapshot), config.folder)]
    younger = younger_file(paths, unix)
    if younger is None:
        return False
    note = "the clock is not trusted until another director's clock agrees, or for an hour; set it (NTP)"
    log.warning("clock_is_behind", file=str(younger.path), written_later_by=f"{younger.seconds} s", note=note)
    return True


def younger_file(paths: Iterable[Path], unix: float) -> Younger | None:
    """Return the youngest file that was written more than an hour after `unix` (Unix seconds), or None."""
    ages = ((path, _written(path) - unix) for path in paths)
    younger = [Younger(path, int(ahead)) for path, ahead in ages if ahead > AHEAD]
    return max(younger, key=lambda file: file.seconds, default=None)


def files_of(urls: Iterable[str], folder: Path) -> list[Path]:
    """Return the files of the SQLite stores among `urls`, with the write-ahead logs beside them."""
    paths = [folder / unquote(urlsplit(url).path)[1:] for url in urls if url.startswith("sqlite:")]
    return [path.with_name(path.name + suffix) for path in paths for suffix in ("", "-wal")]


def _written(path: Path) -> float:
    """Return when the file was last written, in Unix seconds; -inf if that cannot be found out."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return float("-inf")
