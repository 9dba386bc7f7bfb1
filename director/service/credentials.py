"""Looks after the files with secrets and certificates: which end soon, which every user can read."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

import anyio
import anyio.to_thread
import msgspec

from director.net.certificates import first_end
from director.records import Alarm
from director.service.config import Config
from director.service.log import Log

LOOK_EVERY = 60.0
"""Seconds between two looks."""
ENDS_SOON = 14 * 86400.0
"""Seconds before the end of a certificate from which on it is an alarm."""
DAY = 86400.0


class Seen(msgspec.Struct, frozen=True):
    """What was found in the files."""

    ends: dict[str, float] = {}
    """Path of a file with certificates -> unix seconds when the first of them ends."""
    readable: tuple[tuple[str, str], ...] = ()
    """Key and path of each file with a secret that every user can read."""


def look_at(config: Config) -> Seen:
    """What is in the files now; one that cannot be read is left out. Takes a while: call it in a thread."""
    ends = {}
    for path in filter(None, (config.ring.tls.cert, config.ring.tls.ca)):
        try:
            end = first_end(path)
        except (OSError, ValueError):
            continue
        if end is not None:
            ends[path] = end
    return Seen(ends, tuple(one for one in config.secret_files if _is_readable(one[1])))


def _is_readable(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


class Credentials:
    """The files of one director."""

    def __init__(
        self, config: Callable[[], Config], log: Log, *, clock: Callable[[], float] = time.time
    ) -> None:
        """config: gives what counts at the moment."""
        self.seen = Seen()
        self._config, self._log, self._clock = config, log, clock
        self._told: set[str] = set()
        self._wake = anyio.Event()

    def look_soon(self) -> None:
        """The configuration was read again."""
        self._wake.set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self.take(await anyio.to_thread.run_sync(look_at, self._config()))
            with anyio.move_on_after(LOOK_EVERY):
                await self._wake.wait()
            self._wake = anyio.Event()

    def take(self, seen: Seen) -> None:
        """What was found. Each alarm is logged once."""
        self.seen = seen
        alarms = {alarm.about: alarm for alarm in self.alarms()}
        for about in alarms.keys() - self._told:
            alarm = alarms[about]
            event = "certificate_ends" if alarm.kind == "certificate" else "secret_readable"
            self._log.warning(event, file=about, problem=alarm.text)
        self._told = set(alarms)

    def alarms(self) -> list[Alarm]:
        now = self._clock()
        found = []
        for path, end in sorted(self.seen.ends.items()):
            if end < now + ENDS_SOON:
                days = (end - now) / DAY
                if days >= 0:
                    when = f"ends in {days:.1f} days: after that no link between directors can be made"
                else:
                    when = f"ended {-days:.1f} days ago: no link between directors can be made"
                text = f"a certificate in {path} {when}; replace it, then director reload"
                found.append(Alarm(kind="certificate", about=path, text=text))
        for key, path in self.seen.readable:
            text = f"{key}: every user of this machine can read {path}: chmod o-r {path}"
            found.append(Alarm(kind="secret", about=path, text=text))
        return found
