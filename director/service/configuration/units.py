"""How values are written in `director.toml`: a kind for each sort of value, with a reader and a writer.

A reader raises ValueError with what is expected. The caller adds file, key and value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from state.urls import without_secrets

MILLISECOND, SECOND, MINUTE, HOUR, DAY = 0.001, 1.0, 60.0, 3600.0, 86400.0

_SECONDS_IN = {
    **dict.fromkeys(("ms", "msec", "msecs"), Fraction(1, 1000)),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Fraction(1)),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), Fraction(60)),
    **dict.fromkeys(("h", "hour", "hours"), Fraction(3600)),
    **dict.fromkeys(("d", "day", "days"), Fraction(86400)),
}
_AMOUNT = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")


class StateUrl(str):
    """Where the state is kept. `shown` and `repr` leave out the password."""

    __slots__ = ()

    @property
    def shown(self) -> str:
        return without_secrets(str(self))

    def __repr__(self) -> str:
        return repr(self.shown)


def parse_duration(value: object) -> float:
    """Return the seconds of `"15 min"`, `"2 s"`, `"500 ms"`, `"1 h"`, `"2 days"`. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        raise ValueError(f'a unit is missing, write "{value:.15g} s"')
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[2] and match[2].lower() not in _SECONDS_IN):
        raise ValueError(f'expected a number and a unit, such as "15 min" ({", ".join(_SECONDS_IN)})')
    if not match[2]:
        raise ValueError(f'a unit is missing, write "{match[1]} s"')
    return float(Fraction(match[1]) * _SECONDS_IN[match[2].lower()])


def duration_text(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads as `seconds` (>= 0)."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE), ("s", SECOND)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)} {unit}"
    return f"{float(seconds * 1000):.9f}".rstrip("0").rstrip(".") + " ms" if seconds else "0 s"


def toml_text(text: str) -> str:
    """Return `text` as a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?`, or the empty text if no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


class Kind(Protocol):
    """A way to write a value. It stands in the `Annotated` type of a field of the configuration."""

    def read(self, value: object) -> Any:
        """Return the value that the TOML `value` means. Raises ValueError with what is expected."""

    def write(self, value: Any) -> str:
        """Return the TOML for a value that `read` returned."""


@dataclass(frozen=True)
class Text:
    needed: bool = False

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("expected text in quotes")
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
            raise ValueError("expected UTF-8 text without control characters")
        if self.needed and not value:
            raise ValueError("must not be empty")
        return value

    def write(self, value: Any) -> str:
        return toml_text("" if value is None else str(value))


@dataclass(frozen=True)
class Texts:
    def read(self, value: object) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError('expected a list of texts, such as ["10.0.0.1", "10.0.0.2"]')
        return value

    def write(self, value: Any) -> str:
        return "[" + ", ".join(toml_text(str(item)) for item in value) + "]"


class Choice:
    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def read(self, value: object) -> str:
        if value not in self.choices or not isinstance(value, str):
            names = [f'"{choice}"' for choice in self.choices]
            raise ValueError(
                f"expected {', '.join(names[:-1])} or {names[-1]}{nearest(str(value), self.choices)}"
            )
        return value

    def write(self, value: Any) -> str:
        return toml_text(value)


@dataclass(frozen=True)
class Flag:
    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("expected true or false, without quotes")
        return value

    def write(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class Count:
    at_least: int
    at_most: int

    def read(self, value: object) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not self.at_least <= value <= self.at_most
        ):
            raise ValueError(
                f"expected a whole number from {self.at_least} to {self.at_most}, without quotes"
            )
        return value

    def write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Duration:
    """A duration in seconds, as are its limits. whole: whole seconds only."""

    at_least: float = 0.0
    at_most: float = 365 * DAY
    whole: bool = False

    def read(self, value: object) -> float:
        seconds = parse_duration(value)
        if seconds < self.at_least:
            raise ValueError(f"must be at least {duration_text(self.at_least)}")
        if seconds > self.at_most:
            raise ValueError(f"must be at most {duration_text(self.at_most)}")
        if self.whole and seconds % 1:
            raise ValueError("must be whole seconds")
        return seconds

    def write(self, value: Any) -> str:
        return toml_text(duration_text(value))


@dataclass(frozen=True)
class Mode:
    """Permissions of a socket, in octal."""

    def read(self, value: object) -> int:
        if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
            raise ValueError('expected an octal mode in quotes, such as "0600" or "0666"')
        return int(value, 8)

    def write(self, value: Any) -> str:
        return toml_text(f"{value:04o}")


@dataclass(frozen=True)
class SecretFile:
    """The path of a file with secrets. Field `x` is written `x_file`.

    Args:
        at_least: bytes that each secret must have.
        lines: number of secrets that the file may hold, one a line.
    """

    at_least: int = 1
    lines: int = 1

    def read(self, value: object) -> str:
        return Text().read(value)

    def write(self, value: Any) -> str:
        return toml_text(value.file)
