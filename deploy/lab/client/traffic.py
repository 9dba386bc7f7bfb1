"""The traffic: logins and deliveries at a steady rate, and users that keep a session open."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from . import protocols
from .events import BROKEN, IDLE, OK, REFUSED, SESSION, TIMEOUT, Event
from .protocols import Connection, Refused
from .settings import Settings

LOGIN_TIMEOUT = 30.0
NOOP_EVERY = (20.0, 40.0)
"""Range of the random seconds for which a session idles before it checks that the server answers."""
REOPEN_AFTER, REOPEN_AT_MOST = 0.5, 5.0
"""Seconds before a session is opened again, doubled with each failure; the longest such pause."""
SHARES = {"imap": 60, "pop3": 20, "sieve": 20}
"""Percent of the logins."""
DIALOGUES = {
    "imap": protocols.imap,
    "pop3": protocols.pop3,
    "sieve": protocols.sieve,
    "lmtp": protocols.lmtp,
}
CLOSED = (
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
)

Write = Callable[[Event], None]


async def run(settings: Settings, write: Write) -> None:
    """Run all traffic until cancelled.

    Args:
        write: is called with each event.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_logins, settings, write)
        tasks.start_soon(_deliveries, settings, write)
        for user in settings.names[: settings.sessions]:
            tasks.start_soon(hold, settings, user, write)


async def log_in(settings: Settings, protocol: str, user: str, write: Write) -> None:
    """One login or delivery, from connect to log-out."""
    began = time.time()
    async with Connection() as server:
        result, text = await _attempt(settings, protocol, DIALOGUES[protocol], user, server)
    write(_event(began, protocol, user, result, text, server))


async def hold(settings: Settings, user: str, write: Write) -> None:
    """Keep an IMAP session of `user` open, until cancelled."""
    # sessions must not all start at the same moment
    pause = random.uniform(0.0, 2.0)
    while True:
        await anyio.sleep(pause)
        if await _session(settings, user, write):
            pause = REOPEN_AFTER
        else:
            pause = min(max(2 * pause, REOPEN_AFTER), REOPEN_AT_MOST)


async def _session(settings: Settings, user: str, write: Write) -> bool:
    """One long session, from login to end. Returns whether the login succeeded."""
    began = time.time()
    async with Connection() as server:
        result, text = await _attempt(settings, "imap", protocols.imap_login, user, server)
        write(_event(began, IDLE, user, result, text, server))
        if result != OK:
            return False
        try:
            result, text = await _watched(protocols.idle(server, lambda: random.uniform(*NOOP_EVERY)), server)
        finally:  # also if cancelled: then the session ended as intended
            write(_event(server.served, SESSION, user, result, text, server))
    return True


async def _attempt(
    settings: Settings,
    protocol: str,
    dialogue: Callable[[Connection, str], Awaitable[None]],
    user: str,
    server: Connection,
) -> tuple[str, str]:
    async def all_of_it() -> None:
        with anyio.fail_after(LOGIN_TIMEOUT):
            await server.connect(settings.host, settings.ports[protocol])
            await dialogue(server, user)

    return await _watched(all_of_it(), server)


async def _watched(dialogue: Awaitable[None], server: Connection) -> tuple[str, str]:
    """The result of a dialogue with the server, and its text."""
    try:
        await dialogue
    except Refused as error:
        return REFUSED, error.reply
    except TimeoutError:
        return TIMEOUT, f"waited for {server.waiting}"
    except CLOSED as error:
        return BROKEN, f"waited for {server.waiting}: {error or type(error).__name__}"
    return OK, ""


def _event(began: float, protocol: str, user: str, result: str, text: str, server: Connection) -> Event:
    return Event(
        began, time.time(), protocol, user, result, server.served, server.proxy, server.backend, text
    )


async def _logins(settings: Settings, write: Write) -> None:
    async with anyio.create_task_group() as tasks:
        async for _ in _steadily(settings.logins):
            protocol = random.choices(list(SHARES), list(SHARES.values()))[0]
            tasks.start_soon(log_in, settings, protocol, random.choice(settings.names), write)


async def _deliveries(settings: Settings, write: Write) -> None:
    async with anyio.create_task_group() as tasks:
        async for _ in _steadily(settings.deliveries):
            tasks.start_soon(log_in, settings, "lmtp", random.choice(settings.names), write)


async def _steadily(rate: float) -> AsyncIterator[None]:
    """Yields `rate` times a second. Late turns are made up for, but at most those of one second."""
    due = time.monotonic()
    while True:
        due = max(due + 1 / rate, time.monotonic() - 1.0)
        await anyio.sleep(max(0.0, due - time.monotonic()))
        yield
