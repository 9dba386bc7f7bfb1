"""Watches the files with secrets and certificates: certificates that end soon, files that every user can
read, files with which a restart would fail, and changed files that are not in force."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from director.errors import TlsFileError
from director.net.tls import RingTls
from director.records import Alarm
from director.service.configuration.config import Config
from director.service.configuration.secretfiles import problem_with, secret_lines
from director.service.lifecycle.reload import raise_if_refused
from director.service.log import Log

LOOK_EVERY = 60.0
"""Seconds between two checks."""
ENDS_SOON = 14 * 86400.0
"""Seconds before the end of a certificate at which the alarm begins."""
DAY = 86400.0
EVENTS = {
    "certificate": "certificate_expires",
    "secret": "secret_readable",
    "unusable": "file_unusable",
    "changed": "file_changed",
}
"""Kind of an alarm -> event in the log."""


class FileFindings(msgspec.Struct, frozen=True):
    """The result of a check of the files."""

    ends: dict[str, float] = {}
    """Path -> Unix seconds when the first certificate in force from this file ends."""
    readable: tuple[tuple[str, str], ...] = ()
    """Key and path of each file with a secret that every user can read."""
    unusable: dict[str, str] = {}
    """Path -> why a restart would fail with the file, or would leave the ring."""
    changed: tuple[str, ...] = ()
    """Files whose content differs from the content in force."""


def look_at(config: Config, tls: RingTls | None) -> FileFindings:
    """Check the files as they are now. Reads files: call it in a thread.

    Args:
        config: the configuration in force.
        tls: the certificates in force.
    """
    unusable: dict[str, str] = {}
    changed: list[str] = []
    in_force = {"ring.secret_file": config.ring.secret, "http.token_file": config.http.token}
    for key, path in (*config.secret_files, *([("", config.file)] if config.file else [])):
        try:
            content = Path(path).read_bytes()
        except OSError as exc:
            unusable[path] = f"{_named(key)}{path} cannot be read by uid {os.geteuid()} ({exc.strerror})"
            continue
        secrets = secret_lines(content)
        if not secrets:
            unusable[path] = f"{_named(key)}{path} is empty"
        elif key in in_force and (problem := problem_with(content)):
            unusable[path] = f"{_named(key)}{path} {problem}"
        elif key in in_force and secrets != secret_lines(in_force[key]):
            changed.append(path)
    if tls is not None:
        _look_at_certificates(config, tls, unusable, changed)
    return FileFindings(
        tls.ends if tls is not None else {},
        tuple(entry for entry in config.secret_files if _is_readable(entry[1])),
        unusable,
        tuple(changed),
    )


def _look_at_certificates(config: Config, tls: RingTls, unusable: dict[str, str], changed: list[str]) -> None:
    files = config.ring.tls
    try:
        found = RingTls(files.cert, files.key, files.ca)
        if found.content != tls.content:
            raise_if_refused(found, files, config)
            changed.append(files.cert)
    except TlsFileError as exc:
        unusable.setdefault(getattr(files, exc.part), str(exc))
    except OSError as exc:  # the file was removed during the check
        unusable.setdefault(files.cert, f"ring.tls: {exc.strerror}")


def _named(key: str) -> str:
    return f"{key}: " if key else ""


def _is_readable(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


class Credentials:
    """The files with secrets and certificates of one director."""

    def __init__(
        self,
        config: Callable[[], Config],
        log: Log,
        *,
        tls: Callable[[], RingTls | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """config, tls: return the configuration and the certificates in force."""
        self.seen = FileFindings()
        self._config, self._tls, self._log, self._clock = config, tls, log, clock
        self._logged: set[tuple[str, str]] = set()
        self._wake = anyio.Event()

    def look_soon(self) -> None:
        """Check the files soon, because the configuration was read again."""
        self._wake.set()

    async def run(self) -> None:
        """Check the files every `LOOK_EVERY` seconds until cancelled."""
        while True:
            self.take(await anyio.to_thread.run_sync(look_at, self._config(), self._tls()))
            with anyio.move_on_after(LOOK_EVERY):
                await self._wake.wait()
            self._wake = anyio.Event()

    def take(self, seen: FileFindings) -> None:
        """Take the result of a check. Each alarm is logged once."""
        self.seen = seen
        alarms = {(alarm.kind, alarm.about): alarm for alarm in self.alarms()}
        for kind, about in alarms.keys() - self._logged:
            alarm = alarms[kind, about]
            self._log.warning(EVENTS[kind], file=about, problem=alarm.text)
        self._logged = set(alarms)

    def alarms(self) -> list[Alarm]:
        now = self._clock()
        found = []
        for path, end in sorted(self.seen.ends.items()):
            if end < now + ENDS_SOON:
                days = (end - now) / DAY
                if days >= 0:
                    when = f"expires in {days:.1f} days; then directors cannot connect to each other"
                else:
                    when = f"expired {-days:.1f} days ago: directors cannot connect to each other"
                text = f"a certificate in {path} {when}; replace it, then run director reload"
                found.append(Alarm(kind="certificate", about=path, text=text))
        for key, path in self.seen.readable:
            text = f"{key}: every user of this machine can read {path}; run chmod o-r {path}"
            found.append(Alarm(kind="secret", about=path, text=text))
        for path, problem in sorted(self.seen.unusable.items()):
            text = (
                f"{problem}; the director uses the former content until it is restarted; correct the file,"
                " then run director reload"
            )
            found.append(Alarm(kind="unusable", about=path, text=text))
        for path in self.seen.changed:
            text = f"{path} was changed, but the director uses the former content; run director reload"
            found.append(Alarm(kind="changed", about=path, text=text))
        return found
