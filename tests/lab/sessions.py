"""The sessions on each backend, from the backends' own logs, and the users who had two at the same time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

DELIVERY = "lmtp"
INSTANT = 0.001
"""Seconds that a delivery is assumed to last: the log shows only its end."""

STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)Z ")
LOGGED_IN = re.compile(
    r"\b(imap|pop3|managesieve|submission)-login: Info: (?:Login|Logged in): "
    r"user=<([^>]*)>.*, session=<([^>]+)>"
)
ENDED = re.compile(
    r"\b(?:imap|pop3|managesieve|sieve|submission)\([^)]*\)<\d+><([^>]+)>: Info: "
    r"(?:Disconnected|Logged out|Connection closed)"
)
DELIVERED = re.compile(r"\blmtp\(([^)]*)\)<\d+><([^>]+)>: Info: .*\bsaved mail to ")
STARTED = re.compile(r"\bmaster: Info: Dovecot v\S+ \(\w+\) starting up")


class Session(NamedTuple):
    """A session or delivery. Times are Unix seconds."""

    user: str
    backend: str
    protocol: str
    """`imap`, `pop3`, `managesieve`, `submission`, or `lmtp` for a delivery."""
    session: str
    """Dovecot's id of the session."""
    began: float
    ended: float


class Overlap(NamedTuple):
    """A time during which a user had sessions on more than one backend."""

    user: str
    began: float
    ended: float
    sessions: tuple[Session, ...]
    """The sessions that were open then, in the order in which they began."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def __str__(self) -> str:
        places = "; ".join(
            f"{session.protocol} <{session.session}> on {session.backend}" for session in self.sessions
        )
        return f"{self.user} for {self.seconds:.3f} s: {places}"


class _Start(NamedTuple):
    at: float
    user: str
    protocol: str


def sessions(backend: str, log: Iterable[str], stopped: Sequence[float], until: float) -> list[Session]:
    """Return every session of one backend, in no order. Lines without a session are skipped.

    Args:
        backend: the name of the backend.
        log: its lines, of Dovecot 2.3 or 2.4, each after the engine's time stamp (`docker logs
            --timestamps`).
        stopped: Unix times at which its container ended, and with it every session.
        until: when the log was read. A session without an end is open until then.
    """
    starts: dict[str, _Start] = {}
    ends: dict[str, float] = {}
    deliveries = []
    resets = list(stopped)
    for line in log:
        stamp = STAMPED.match(line)
        if stamp is None:
            continue
        at = datetime.fromisoformat(stamp.group(1)[:26] + "+00:00").timestamp()
        if match := LOGGED_IN.search(line):
            protocol, user, session = match.groups()
            starts[session] = _Start(at, user, protocol)
        elif match := ENDED.search(line):
            # may come before the line of its login: two processes write them
            ends[match.group(1)] = at
        elif match := DELIVERED.search(line):
            user, session = match.groups()
            deliveries.append(Session(user, backend, DELIVERY, session, at - INSTANT, at))
        elif STARTED.search(line):
            resets.append(at)
    resets.sort()
    found = deliveries
    for session, (began, user, protocol) in starts.items():
        stop = next((at for at in resets if at >= began), until)
        ended = max(min(ends.get(session, until), stop), began)
        found.append(Session(user, backend, protocol, session, began, ended))
    return found


def overlaps(found: Iterable[Session]) -> list[Overlap]:
    """Return every time during which a user had sessions on more than one backend, sorted by the beginning.

    A session that ends at the moment when another begins does not overlap it.
    """
    by_user: dict[str, list[Session]] = {}
    for session in found:
        by_user.setdefault(session.user, []).append(session)
    return sorted(
        (overlap for of_user in by_user.values() for overlap in _of_user(of_user)),
        key=lambda session: session.began,
    )


def _of_user(of_user: Sequence[Session]) -> Iterable[Overlap]:
    # Ends come before beginnings of the same moment. A session without length overlaps nothing.
    moments = sorted(
        (at, begins, session)
        for session in of_user
        if session.ended > session.began
        for at, begins in ((session.began, True), (session.ended, False))
    )
    here: Counter[str] = Counter()
    since: float | None = None
    for at, begins, session in moments:
        here[session.backend] += 1 if begins else -1
        backends = sum(count > 0 for count in here.values())
        if since is None and backends > 1:
            since = at
        elif since is not None and backends < 2:
            yield Overlap(session.user, since, at, _during(of_user, since, at))
            since = None


def _during(of_user: Iterable[Session], began: float, ended: float) -> tuple[Session, ...]:
    return tuple(
        sorted(
            (session for session in of_user if session.began < ended and session.ended > began),
            key=lambda session: session.began,
        )
    )
