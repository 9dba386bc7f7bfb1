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
from director.service.configuration.config import Config
from director.service.log import Log


class Younger(NamedTuple):
    """A file that is younger than the clock says it can be."""

    path: Path
    seconds: int


def clock_is_behind(config: Config, unix: float, log: Log) -> bool:
    """Whether a file of the configuration or a store is younger than `unix` (Unix seconds); logs which."""
    paths = [Path(config.file), *files_of((config.state, config.snapshot), config.folder)]
    younger = younger_file(paths, unix)
    if younger is None:
        return False
    note = "set it (NTP); no time is judged by it until another director's agrees, or for an hour"
    log.warning("clock_is_behind", file=str(younger.path), written_in=f"{younger.seconds} s", note=note)
    return True


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
