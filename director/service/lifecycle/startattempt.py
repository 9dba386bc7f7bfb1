"""Repeats a start that fails, where a service manager has started the director.

The manager would start it again at once, for ever, and log each time; with a limit it would give up, and
close the sockets under Dovecot's login processes. So the process stays. It tries again every `RETRY_EVERY`
seconds, in a new program each time, and ends after `GIVE_UP_AFTER`, so that `systemctl start` fails. The
manager starts it again then, and the reason is logged again: once a minute.
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
"""Seconds between two tries."""
GIVE_UP_AFTER = 60.0
"""Seconds of failing tries after which the process ends."""
VARIABLE = "DIRECTOR_STARTING"
"""What earlier tries of this process leave: when the first one began (monotonic), and what failed."""
SAVED_FROM = 200
"""Descriptors of the manager's sockets are kept under numbers from here on: a try closes what it gets."""


class StartAttempt:
    """The start of a director, which may fail."""

    def __init__(
        self,
        environ: MutableMapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        begin_again: Callable[[MutableMapping[str, str]], None] | None = None,
    ) -> None:
        """Takes `VARIABLE` out of `environ`."""
        self._environ, self._clock, self._sleep = environ, clock, sleep
        self._begin_again = begin_again or _begin_again
        self._repeats = bool(environ.get("NOTIFY_SOCKET"))
        self._tried_at = clock()
        began, _, self._logged_reason = environ.pop(VARIABLE, "").partition(" ")
        self.first = not began
        """No earlier try of this process has failed."""
        self._began = float(began) if began else self._tried_at
        self._reason = ""
        self._saved: dict[int, int] = _saved(environ) if self._repeats else {}

    @property
    def note(self) -> str | None:
        """What happens next, for the log; None: the process ends."""
        return f"retrying every {RETRY_EVERY:g} s" if self._repeats else None

    def fails(self, reason: str) -> bool:
        """The start fails. Returns whether to log it: not where the try before has failed for this reason."""
        self._reason = reason
        return not self._repeats or self._logged_reason != _digest(reason)

    def crashes(self, reason: str) -> bool:
        """The same for a bug, which is no failing start where the director has run for a while."""
        early = self._clock() < self._tried_at + RETRY_EVERY
        return self.fails(reason) if early else True

    def ended(self, code: int) -> int:
        """The director has ended with this exit code. Returns the code with which the process is to end. Does
        not return where the start has failed and is to be tried again."""
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
    """Become this program anew; all descriptors but those of the manager are closed by it."""
    arguments = reexec.command()
    os.execve(arguments[0], arguments, environ)


def _saved(environ: MutableMapping[str, str]) -> dict[int, int]:
    """A second descriptor for each of the manager's sockets."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environ.get("LISTEN_FDS", "")
    numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + (int(count) if count.isdecimal() else 0))
    return {number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, SAVED_FROM) for number in numbers}


def _digest(reason: str) -> str:
    return hashlib.sha256(reason.encode(errors="replace")).hexdigest()[:16]
