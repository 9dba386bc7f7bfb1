"""Summaries of events: a table for operators, a document for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from .events import IDLE, OK, SESSION, Event

PROTOCOLS = ("imap", "pop3", "sieve", "lmtp", IDLE)
MOST_FAILURES = 3
WIDTH = 80


class Row(msgspec.Struct):
    """The logins of one protocol. slowest: seconds of the slowest login, successful or failed."""

    done: int = 0
    failed: int = 0
    slowest: float = 0.0


class Twice(msgspec.Struct):
    """A user that had sessions on two backends at the same moment, as the clients saw it."""

    user: str
    at: float
    backends: list[str]


class Report(msgspec.Struct):
    since: float
    until: float
    protocols: dict[str, Row]
    sessions: int
    """Long sessions open at the end."""
    reopened: int
    """Long sessions that ended although the client did not end them."""
    on_two_backends: list[Twice]
    failures: dict[str, int]
    """`protocol result text` -> how often."""


def report(events: Sequence[Event], since: float, until: float) -> Report:
    """The report about the time between two Unix times.

    Args:
        events: in any order; also older events, of sessions that may still be open.
    """
    rows = {protocol: Row() for protocol in PROTOCOLS}
    failures: dict[str, int] = {}
    reopened = 0
    for event in events:
        if not since < event.ended <= until:
            continue
        if event.protocol == SESSION:
            reopened += event.result != OK
            continue
        row = rows[event.protocol]
        row.slowest = max(row.slowest, event.ended - event.began)
        if event.result == OK:
            row.done += 1
        else:
            row.failed += 1
            what = f"{event.protocol} {event.result}: {event.text}"
            failures[what] = failures.get(what, 0) + 1
    return Report(
        since, until, rows, len(still_open(events)), reopened, twice(events, since, until), failures
    )


def still_open(events: Iterable[Event]) -> list[Event]:
    """The logins of long sessions that have not ended."""
    found: dict[tuple[str, float], Event] = {}
    ended = set()
    for event in events:
        if event.protocol == IDLE and event.result == OK:
            found[event.user, event.served] = event
        elif event.protocol == SESSION:
            ended.add((event.user, event.served))
    return [event for key, event in found.items() if key not in ended]


def twice(events: Sequence[Event], since: float, until: float) -> list[Twice]:
    """Users that were on two backends at once. A session counts from the server's acceptance to its end."""
    stays: dict[str, list[tuple[float, float, str]]] = {}
    open_now = [(event.served, until, event) for event in still_open(events)]
    closed = [(event.served, event.ended, event) for event in events if event.protocol != IDLE]
    for began, ended, event in (*open_now, *closed):
        if event.backend and began and ended > since and began < until:
            stays.setdefault(event.user, []).append((began, ended, event.backend))
    found = []
    for user, of_user in sorted(stays.items()):
        of_user.sort()
        latest: dict[str, float] = {}
        for began, ended, backend in of_user:
            others = [other for other, end in latest.items() if other != backend and end > began]
            if others:
                found.append(Twice(user, began, sorted([backend, *others])))
                break
            latest[backend] = max(ended, latest.get(backend, 0.0))
    return found


def table(of: Report) -> str:
    """The report as a table of at most 80 columns."""
    at = time.strftime("%H:%M:%S", time.localtime(of.until))
    lines = [f"{at}  {'last ' + _span(of.until - of.since):<16}{'done':>8}{'failed':>8}{'slowest':>12}"]
    for protocol, row in of.protocols.items():
        name = "imap, long" if protocol == IDLE else protocol
        slowest = f"{row.slowest:.2f} s" if row.done or row.failed else "-"
        lines.append(f"{'':10}{name:<16}{row.done:>8}{row.failed:>8}{slowest:>12}")
    users = ", ".join(f"{one.user} ({' '.join(one.backends)})" for one in of.on_two_backends)
    lines.append(f"{'':10}{of.sessions} long sessions open, {of.reopened} were closed by the server")
    lines.append(f"{'':10}users on two backends at once: {len(of.on_two_backends)}{users and ': ' + users}")
    often = sorted(of.failures.items(), key=lambda item: -item[1])
    lines += [f"{'':10}{count} x {what}" for what, count in often[:MOST_FAILURES]]
    return "".join(line[:WIDTH] + "\n" for line in lines)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
