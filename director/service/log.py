"""The log on stderr: each event is a line in logfmt or JSON with `time`, `level`, `event` and its fields.

Event names do not change; README and dashboards refer to them. Secrets are removed here from all fields.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime

from director.service.logwriter import LineStream, LogWriter
from director.service.secret import Secret

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
HIDDEN = "***"
REPEATED, REPEATED_EVERY = 200, 10.0
"""At most `REPEATED` lines of one event are written in `REPEATED_EVERY` seconds, except on level debug. Some
events happen once for each user, message or connection, and could be very many."""
NOTE = "the director continues; report this line with its traceback"
PRINTED = "a library printed this instead of logging it; the director continues"
NOT_READ = "stderr was not read fast enough, or could not be written"

_SECRET_NAME = re.compile("(?:^|_)(?:pass|resp|password|token|secret)(?:$|_(?!file$))", re.IGNORECASE)
# Inside a text: up to the next TAB (auth lines), & (URLs) or line end. A password may contain spaces.
_SECRET_TEXT = re.compile(r"(?<![A-Za-z0-9])(pass|resp|password|token|secret)=[^\t&\r\n]*", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BARE = re.compile(r'[^\s"=\\]+')


class Log:
    """Writes events as lines."""

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        format: str = "logfmt",
        level: str = "info",
        hide_user: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            write: takes a line with its end; must not block.
            format: "logfmt" or "json".
            level: the lowest level that is written.
            hide_user: returns what is written for a user's name; None: the name is written.
            clock: returns Unix seconds.
            monotonic: returns seconds since any moment.
        """
        self._render = _as_json if format == "json" else _as_logfmt
        self._least = LEVELS[level]
        self._hide_user = hide_user
        self._write = write
        self._clock, self._monotonic = clock, monotonic
        self._repeated: dict[tuple[str, object], tuple[float, int]] = {}
        """(event, logger) -> monotonic seconds when its count began, and the count."""

    def set_level(self, level: str) -> None:
        """Set the lowest level that is written."""
        self._least = LEVELS[level]

    def debug(self, event: str, **fields: object) -> None:
        self._event("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._event("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._event("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._event("error", event, fields)

    def writes(self, level: str) -> bool:
        """Return whether lines of `level` are written, for callers whose fields are expensive to make."""
        return LEVELS[level] >= self._least

    def _event(self, level: str, event: str, fields: dict[str, object]) -> None:
        if self.writes(level) and (level == "debug" or self._admits(event, fields.get("logger"))):
            self._write(self.line(level, event, fields))

    def _admits(self, event: str, logger: object) -> bool:
        """Return whether another line of this event may be written now."""
        now, key = self._monotonic(), (event, logger)
        began, count = self._repeated.get(key, (now, 0))
        if now >= began + REPEATED_EVERY:
            self._report_left_out(key, count)
            began, count = now, 0
        self._repeated[key] = began, count + 1
        return count < REPEATED

    def report_left_out(self) -> None:
        """Write how many lines of each event were left out, for each period that has ended."""
        now = self._monotonic()
        over = [key for key, (began, _) in self._repeated.items() if now >= began + REPEATED_EVERY]
        for key in over:
            self._report_left_out(key, self._repeated.pop(key)[1])

    def _report_left_out(self, key: tuple[str, object], count: int) -> None:
        if count > REPEATED and self.writes("warning"):
            fields = {"of": key[0], "logger": key[1], "lines": count - REPEATED}
            self._write(self.line("warning", "repeated_lines_left_out", fields))

    def line(self, level: str, event: str, fields: Mapping[str, object]) -> str:
        """Return the line of an event with its end, whatever the level."""
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": at.removesuffix("+00:00") + "Z", "level": level, "event": event}
        for name, value in fields.items():
            assert name not in line, f"{name} is no name for a field of {event}"
            if value is not None:
                line[name] = self._safe(name, value)
        return self._render(line) + "\n"

    def _safe(self, name: str, value: object) -> object:
        if _SECRET_NAME.search(name) or isinstance(value, Secret):
            return HIDDEN
        if isinstance(value, int | float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, list | tuple):
            return [self._safe(name, item) for item in value]
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        if self._hide_user is not None and (name == "user" or name.endswith("_user")):
            return self._hide_user(text)
        return _SECRET_TEXT.sub(rf"\1={HIDDEN}", text) if "=" in text else text


def _as_logfmt(line: dict[str, object]) -> str:
    return " ".join(f"{name}={_logfmt(value)}" for name, value in line.items())


def _logfmt(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    text = str(value)
    if _BARE.fullmatch(text) and not _UNSAFE.search(text):
        return text
    return _escaped(json.dumps(text, ensure_ascii=False))


def _as_json(line: dict[str, object]) -> str:
    return _escaped(json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str))


def _escaped(quoted: str) -> str:
    """Return a JSON text in which characters that end or disturb a line are escaped."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


class LimitedLog:
    """Limits warnings that a broken client can repeat without end: `burst` lines of a key in `every` seconds.

    The first line after that says how many were left out.
    """

    def __init__(self, log: Log, *, burst: int = 5, every: float = 10.0, keys: int = 1000) -> None:
        """
        Args:
            every: seconds.
            keys: number of keys that are kept; the key that was opened first is dropped first.
        """
        self._log, self._burst, self._every, self._keys = log, burst, every, keys
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def __len__(self) -> int:
        """Return the number of keys that are kept."""
        return len(self._windows)

    def warning(self, now: float, event: str, key: str = "", /, **fields: object) -> None:
        """Log a warning, unless the limit is reached.

        Args:
            now: monotonic seconds.
            key: the part of the event that is counted separately, such as the peer's address.
        """
        start, count = self._windows.get((event, key), (now, 0))
        left_out = 0
        if now >= start + self._every:
            left_out = max(0, count - self._burst)
            start, count = now, 0
            del self._windows[event, key]
        self._windows[event, key] = (start, count + 1)
        if len(self._windows) > self._keys:
            del self._windows[next(iter(self._windows))]
        if count < self._burst:
            self._log.warning(event, **fields, left_out=left_out or None)


class LibraryHandler(logging.Handler):
    """Turns records of the standard `logging` into events `library_logged`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (LookupError, TypeError, ValueError):
            text = str(record.msg)
        error = _traceback(record.exc_info[1]) if record.exc_info else None
        write = {"DEBUG": self._log.debug, "INFO": self._log.info, "WARNING": self._log.warning}
        write.get(record.levelname, self._log.error)(
            "library_logged", logger=record.name, text=text, error=error
        )


def capture_logging(log: Log) -> None:
    """Send everything that is logged with the standard `logging` to `log`, and nowhere else."""
    level = next(number for name, number in LEVELS.items() if log.writes(name))
    logging.basicConfig(handlers=[LibraryHandler(log)], level=level, force=True)
    logging.getLogger("redis_lock").setLevel(logging.WARNING)  # it logs each acquisition of its lock


@contextmanager
def everything_logged(log: Log, writer: LogWriter) -> Iterator[None]:
    """Send printed text, warnings and exceptions without a caller to `log` while the block runs.

    Code that writes to stdout or stderr itself would block while their reader is slow.
    """
    logging.captureWarnings(True)
    writer.report = lambda lines: log.line("error", "log_lines_dropped", {"lines": lines, "reason": NOT_READ})
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda args: log.error(
        "library_logged",
        text=args.err_msg or "exception ignored",
        error=_traceback(args.exc_value),
        note=NOTE,
    )
    threading.excepthook = lambda args: log.error(
        "library_logged", text="an exception ended a thread", error=_traceback(args.exc_value), note=NOTE
    )
    printed = LineStream(lambda text: log.warning("text_printed", text=text, note=PRINTED))
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            yield
    finally:
        sys.unraisablehook, threading.excepthook = before
        logging.captureWarnings(False)


def _traceback(exc: BaseException | None) -> str | None:
    return "".join(traceback.format_exception(exc)) if exc is not None else None
