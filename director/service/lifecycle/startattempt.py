"""Repeats a failing start of a director that a service manager has started.

The manager would start the director again at once and without end, and log each time; with a limit it would
give up and close the sockets of Dovecot's login processes. So the process stays. It retries every
`RETRY_EVERY` seconds, in a new program each time, and ends after `GIVE_UP_AFTER`, so that `systemctl start`
fails. Then the manager starts it again, and the reason is logged again: once a minute.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, MutableMapping

from director.service.lifecycle import reexec
from director.service.lifecycle.sysd import FIRST_DESCRIPTOR, Notifier

RETRY_EVERY = 10.0
"""Seconds between two attempts."""
GIVE_UP_AFTER = 60.0
"""Seconds of failing attempts after which the process ends."""
VARIABLE = "DIRECTOR_STARTING"
"""Environment variable with the monotonic start of the first attempt and a digest of the failure."""
SAVED_FROM = 200
"""Lowest number for copies of the manager's sockets, because an attempt closes the sockets that it gets."""


class StartAttempt:
    """An attempt to start a director."""

    def __init__(
        self,
        environ: MutableMapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        begin_again: Callable[[MutableMapping[str, str]], None] | None = None,
    ) -> None:
        """Removes `VARIABLE` from `environ`."""
        self._environ, self._clock, self._sleep = environ, clock, sleep
        self._begin_again = begin_again or _begin_again
        self._repeats = bool(environ.get("NOTIFY_SOCKET"))
        self._tried_at = clock()
        began, _, self._logged_reason = environ.pop(VARIABLE, "").partition(" ")
        self.first = not began
        """Whether no earlier attempt of this process has failed."""
        self._began = float(began) if began else self._tried_at
        self._reason = ""
        self._saved: dict[int, int] = _saved(environ) if self._repeats else {}

    @property
    def note(self) -> str | None:
        """The next step, for the log; None if the process ends."""
        return f"retrying every {RETRY_EVERY:g} s" if self._repeats else None

    def fails(self, reason: str) -> bool:
        """Record that the start fails. Returns whether to log it: the attempt before may have logged it."""
        self._reason = reason
        return not self._repeats or self._logged_reason != _digest(reason)

    def crashes(self, reason: str) -> bool:
        """Record a crash, as a failing start if it is an early one. Returns whether to log it."""
        early = self._clock() < self._tried_at + RETRY_EVERY
        return self.fails(reason) if early else True

    def ended(self, code: int) -> int:
        """Return the exit code of the process, for a director that has ended with `code`.

        Does not return if the start has failed and is retried.
        """
        too_late = self._clock() >= self._began + GIVE_UP_AFTER
        if not (self._repeats and self._reason) or too_late:
            return code
        notifier = Notifier(self._environ)
        notifier.status(f"cannot start, {self.note}: {self._reason}")
        notifier.close()
        self._sleep(max(0.0, self._tried_at + RETRY_EVERY - self._clock()))
        self._environ[VARIABLE] = f"{self._began} {_digest(self._reason)}"
        for number, saved in self._saved.items():
            os.dup2(saved, number, inheritable=True)
        self._begin_again(self._environ)
        return code


def _begin_again(environ: MutableMapping[str, str]) -> None:
    """Start this program again in this process. All descriptors are closed, except the manager's sockets."""
    arguments = reexec.command()
    os.execve(arguments[0], arguments, environ)


def _saved(environ: MutableMapping[str, str]) -> dict[int, int]:
    """Return a copy of each of the manager's sockets, by number."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environ.get("LISTEN_FDS", "")
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + (int(count) if count.isdecimal() else 0))
    return {number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, SAVED_FROM) for number in numbers}


def _digest(reason: str) -> str:
    return hashlib.sha256(reason.encode(errors="replace")).hexdigest()[:16]
