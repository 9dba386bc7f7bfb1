"""The verdict on a scenario: the clients' events and the backends' sessions, compared with what it allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deploy.lab.client.events import OK, SESSION, Event
from tests.lab.sessions import DELIVERY, Session, overlaps

EDGE = 2.0
"""Seconds at both ends of a scenario in which the log of a login may lie outside of it."""
MOST_TOLD = 5
COLUMNS = (
    ("s", 3),
    ("done", 5),
    ("allowed", 7),
    ("failed", 6),
    ("slowest", 7),
    ("closed", 6),
    ("two", 3),
    ("longest", 7),
    ("lost", 4),
    ("", 5),
)
LEGEND = """s: duration; slowest: login; longest: user on two backends: all in seconds
closed: long sessions, by the server; two: users on two backends at once
lost: changes of the operator
"""
LOGIN, CUT = "login", "cut"
"""The failures that can be allowed: a failed login or delivery; an accepted session that is closed by the
server."""


class Allowed(NamedTuple):
    """Failures that are allowed. Times are Unix seconds."""

    why: str
    what: str
    """LOGIN or CUT."""
    began: float
    ended: float
    proxy: str = ""
    """Only events through this proxy, or whose proxy the client did not learn; empty: all."""
    users: frozenset[str] | None = None
    """Only events of these users; None: all."""
    protocol: str = ""
    """Only events of this protocol; empty: all."""

    def covers(self, event: Event) -> bool:
        """Whether an event is of this kind and in progress (a closed session: ended) between the two
        times."""
        what = CUT if event.served else LOGIN
        began = event.ended if what == CUT else event.began
        return (
            what == self.what
            and began <= self.ended
            and event.ended >= self.began
            and (not self.proxy or event.proxy in ("", self.proxy))
            and (self.users is None or event.user in self.users)
            and self.protocol in ("", event.protocol)
        )


@dataclass
class Verdict:
    """The numbers of one scenario, and everything that was wrong."""

    scenario: str
    seconds: float = 0.0
    done: int = 0
    allowed: int = 0
    """Logins and deliveries that failed, or sessions that were cut, as the scenario allows."""
    failed: int = 0
    """Logins, deliveries and sessions that failed without being allowed."""
    slowest: float = 0.0
    reopened: int = 0
    on_two_backends: int = 0
    longest: float = 0.0
    lost: int = 0
    """Changes of the operator."""
    problems: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.problems


def failures(events: Iterable[Event], allowed: Sequence[Allowed]) -> tuple[list[Event], list[Event]]:
    """Return the failed logins and deliveries, and the cut sessions: the allowed ones, and the others."""
    bad = [event for event in events if event.result != OK]
    right = [event for event in bad if any(rule.covers(event) for rule in allowed)]
    return right, [event for event in bad if event not in right]


def judge(
    scenario: str,
    period: tuple[float, float],
    events: Sequence[Event],
    found: Sequence[Session],
    *,
    allowed: Sequence[Allowed],
    bound: float,
    held: int,
    lost: Sequence[str],
) -> Verdict:
    """Return the verdict on a period: on logins that began in it, and sessions that ended in it.

    Args:
        events: events up to at least 30 s after the period, so that all its logins have ended.
        found: every session in the backends' logs, also earlier ones.
        bound: seconds for which a user may be on two backends.
        held: the number of long sessions open when the period began.
        lost: the operator's changes that are lost.
    """
    began, ended = period
    here = [event for event in events if began < moment(event) <= ended]
    logins = [event for event in here if event.protocol != SESSION]
    right, wrong = failures(here, allowed)
    twice = [overlap for overlap in overlaps(found) if overlap.ended > began and overlap.began < ended]
    verdict = Verdict(
        scenario,
        seconds=ended - began,
        done=sum(event.result == OK for event in logins),
        allowed=len(right),
        failed=len(wrong),
        slowest=max((event.ended - event.began for event in logins), default=0.0),
        reopened=sum(event.result != OK for event in here if event.protocol == SESSION),
        on_two_backends=len({overlap.user for overlap in twice}),
        longest=max((overlap.seconds for overlap in twice), default=0.0),
        lost=len(lost),
    )
    problems = verdict.problems
    if not verdict.done:
        problems.append("no login was made: nothing was tested")
    if not held:
        problems.append("no long session was open: nothing was tested")
    missing = {"imap", "pop3", "sieve", "lmtp"} - {event.protocol for event in logins if event.result == OK}
    problems += [f"nothing was done by {protocol}" for protocol in sorted(missing)]
    if (unseen := _unseen(here, found, period)) > 0:
        problems.append(f"the backends' logs lack {unseen} sessions that the clients had")
    problems += _some([f"failed: {_described(event)}" for event in wrong])
    problems += _some([f"on two backends: {overlap}" for overlap in twice if overlap.seconds > bound])
    problems += [f"lost: {change}" for change in lost]
    return verdict


def moment(event: Event) -> float:
    """Return the time of an event that counts.

    A login belongs to the scenario in which it began; it may end in the next.
    """
    return event.ended if event.protocol == SESSION else event.began


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each verdict, and the total verdict."""
    widest = max(len("scenario"), *(len(verdict.scenario) for verdict in verdicts))
    lines = [f"{'scenario':<{widest}} " + " ".join(f"{title:>{width}}" for title, width in COLUMNS)]
    for verdict in verdicts:
        cells = (
            f"{verdict.seconds:.0f}",
            verdict.done,
            verdict.allowed,
            verdict.failed,
            f"{verdict.slowest:.2f}",
            verdict.reopened,
            verdict.on_two_backends,
            f"{verdict.longest:.3f}",
            verdict.lost,
            "right" if verdict.right else "WRONG",
        )
        row = " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
        lines.append(f"{verdict.scenario:<{widest}} {row}")
    wrong = sum(not verdict.right for verdict in verdicts)
    lines += ["", *LEGEND.splitlines()]
    lines.append(
        f"{wrong} of {len(verdicts)} scenarios went wrong" if wrong else f"all {len(verdicts)} right"
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _unseen(here: Iterable[Event], found: Iterable[Session], period: tuple[float, float]) -> int:
    """Return how many more sessions the clients know of than the logs.

    If there are any, the logs are incomplete.
    """
    began, ended = period
    served = sum(
        began + EDGE < event.served < ended - EDGE
        for event in here
        if event.protocol not in (SESSION, "lmtp") and event.served
    )
    return served - sum(began <= session.began <= ended for session in found if session.protocol != DELIVERY)


def _described(event: Event) -> str:
    through = f" through {event.proxy}" if event.proxy else ""
    what = "cut after" if event.served else "after"
    return (
        f"{event.protocol} of {event.user}{through}, begun at {event.began:.1f}, {event.result} {what} "
        f"{event.ended - event.began:.1f} s: {event.text}"
    )


def _some(lines: Sequence[str]) -> list[str]:
    """Return the first few lines, and how many more there are."""
    more = len(lines) - MOST_TOLD
    return [*lines[:MOST_TOLD], *([f"and {more} more like that"] if more > 0 else [])]
