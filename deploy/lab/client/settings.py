"""The client's settings, from environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

N = TypeVar("N", int, float)

PORTS = {"imap": 143, "pop3": 110, "lmtp": 24, "sieve": 4190}


class Settings(NamedTuple):
    host: str
    """The load balancer: all connections go there."""
    ports: Mapping[str, int]
    users: int
    """Number of users; their names are user001, user002, ..."""
    logins: float
    """Logins per second, all protocols together."""
    deliveries: float
    """Deliveries per second."""
    sessions: int
    """Number of users with a long IMAP session: the first ones."""
    events: Path

    @property
    def names(self) -> list[str]:
        return [f"user{number:03}" for number in range(1, self.users + 1)]


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings.

    Raises:
        SystemExit: a variable is not a number or out of range; the message has its name and value.
    """
    settings = Settings(
        host=environ.get("LB_HOST", "lb"),
        ports={
            protocol: _number(environ, f"{protocol.upper()}_PORT", port, 1)
            for protocol, port in PORTS.items()
        },
        users=_number(environ, "CLIENT_USERS", 200, 1),
        logins=_number(environ, "CLIENT_LOGINS", 20.0, 0.1),
        deliveries=_number(environ, "CLIENT_DELIVERIES", 2.0, 0.1),
        sessions=_number(environ, "CLIENT_SESSIONS", 30, 0),
        events=Path(environ.get("CLIENT_RESULTS", "/results")) / "events.jsonl",
    )
    if settings.sessions > settings.users:
        raise SystemExit(f"CLIENT_SESSIONS = {settings.sessions}: more than CLIENT_USERS = {settings.users}")
    return settings


def _number(environ: Mapping[str, str], name: str, default: N, least: float) -> N:
    kind = type(default)
    text = environ.get(name) or str(default)
    what = "a whole number" if kind is int else "a number"
    wrong = SystemExit(f"{name} = {text}: write {what} of at least {least:g}")
    try:
        value = kind(text)
    except ValueError:
        raise wrong from None
    if not value >= least:
        raise wrong
    return value
