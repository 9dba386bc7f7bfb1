"""Output of commands: tables, times, JSON. Plain aligned text; on a terminal with colour."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from director.errors import DirectorError

GAP = "  "
COLOURS = {"up": "green", "down": "red"}


class Column(msgspec.Struct, frozen=True):
    title: str
    number: bool = False
    """Numbers are aligned to the right."""


class PlainTable:
    """Aligned lines for any number of rows, batch by batch. Columns get wider when a later batch needs it."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._titled = False

    def lines(self, rows: Iterable[Sequence[object]]) -> Iterator[str]:
        """The lines of one batch. The first batch begins with the titles."""
        batch = [[printable(str(cell)) for cell in row] for row in rows]
        if not self._titled:
            batch.insert(0, [column.title for column in self._columns])
            self._titled = True
        if batch:
            longest = [max(map(len, cells)) for cells in zip(*batch, strict=True)]
            self._widths = [max(pair) for pair in zip(self._widths, longest, strict=True)]
        for cells in batch:
            yield GAP.join(
                cell.rjust(width) if column.number else cell.ljust(width)
                for cell, width, column in zip(cells, self._widths, self._columns, strict=True)
            ).rstrip()


class OutputError(DirectorError):
    """Standard output cannot be written. The text is empty if the reader closed the pipe, as `head` does."""

    def __init__(self, error: OSError) -> None:
        enough = isinstance(error, BrokenPipeError)
        super().__init__("" if enough else f"standard output: {error.strerror}")


def write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except OSError as error:
        raise OutputError(error) from None


def print_line(text: str = "") -> None:
    write(printable(text) + "\n")


def print_error(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(f"director: {printable(' '.join(text.split()))}\n")


def print_json(document: bytes) -> None:
    """Print one JSON document with the keys of the API."""
    write(msgspec.json.format(document, indent=2).decode() + "\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: coloured and folded on a terminal, plain elsewhere."""
    if not sys.stdout.isatty():
        write("".join(f"{line}\n" for line in PlainTable(*columns).lines(rows)))
        return
    # Imported here because rich takes longer to import than the rest of the command takes.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for row in rows:
        cells = [printable(str(cell)) for cell in row]
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in cells))
    Console().print(table)


def printable(text: str) -> str:
    """The text with control characters escaped. User names come from clients and could steer a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def moment(unix: int) -> str:
    """Local time in the form of Dovecot 2.3's director; `-` for 0.

    Args:
        unix: Unix seconds; 0 means never.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix)) if unix else "-"


def since(unix: int | None, now: float) -> str:
    """The time from `unix` to `now` in one unit, such as `3 h`; `-` if `unix` is not known.

    Args:
        unix: Unix seconds.
        now: Unix seconds.
    """
    if not unix:
        return "-"
    seconds = max(0, round(now - unix))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def size(count: int | None) -> str:
    """A number of bytes in at most four digits and a unit; `-` if it is not known."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("", "k", "M", "G"):
        if value < 10000:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def or_dash(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
