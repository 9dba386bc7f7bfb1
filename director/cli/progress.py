"""Changes of users that take long: begin one, show how far it is, interrupt it, say what came of it."""

from __future__ import annotations

import sys
import time

import msgspec

from director.cli.client import EX_INTERRUPTED, Client, Denied, Failure
from director.cli.output import complain, moment, printable
from director.errors import EX_UNAVAILABLE
from director.records import Change, MoveInfo, UsersChange

POLL = 0.2
"""Seconds between two questions how far it is."""

NOT_STORED = (
    "the directors have it, but it is not stored yet: it is lost if they all stop before the store takes it;"
    " `director status` shows the reason, and lists it until it is stored"
)

DRY = " (dry run: nothing is changed)"


class Done(msgspec.Struct, frozen=True):
    change: UsersChange
    interrupted: bool = False


def carry_out(client: Client, name: str, method: str, path: str, body: msgspec.Struct) -> Done:
    """Ask for a change of users and stay until it has ended. name: what it is called meanwhile.

    Ctrl-C interrupts it: moves that have begun are finished, no other is started. A second one only ends us.
    """
    begun = client.decode(client.change(method, f"{path}?wait=false", body), MoveInfo)
    if begun.change is not None:
        tell_of_host(name, begun.change)
    if begun.joined:
        complain(f"{name}: already under way since {moment(begun.started)}; joining it")
    try:
        move, interrupted = _followed(client, name, begun)
    except Denied:
        raise
    except Failure as error:
        if error.exit_code == EX_INTERRUPTED:
            raise
        raise Failure(f"{error}; {name} may go on there without us", EX_UNAVAILABLE) from None
    if move.problem is not None:
        raise Denied(move.problem.detail or move.problem.title, move.problem.exit_code)
    if move.result is None:
        raise Failure(f"{client.where}: {name} ended, but what came of it is not said", EX_UNAVAILABLE)
    return Done(move.result, interrupted)


def _followed(client: Client, name: str, move: MoveInfo) -> tuple[MoveInfo, bool]:
    path, begun, progress = f"/v1/moves/{move.id}", time.monotonic(), Progress()
    try:
        while move.ended is None:
            move = msgspec.structs.replace(client.decode(client.get(path), MoveInfo), joined=move.joined)
            if move.ended is None:
                progress.show(f"{name}: {how_far(move, time.monotonic() - begun)}")
                time.sleep(POLL)
    except KeyboardInterrupt:
        if move.joined:
            raise Failure(
                f"{name}: interrupted; the {name.split()[0]} that it had joined goes on", EX_INTERRUPTED
            ) from None
        progress.show(f"{name}: interrupted; moves that have begun are finished")
        move = client.decode(client.change("DELETE", path), MoveInfo)
        while move.ended is None:
            time.sleep(POLL)
            move = client.decode(client.get(path), MoveInfo)
        return move, True
    finally:
        progress.clear()
    return move, False


class Progress:
    """One line on stderr that is written over and over; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        self._write(f"\r\x1b[K{printable(text)}")

    def clear(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._terminal:
            sys.stderr.write(text)
            sys.stderr.flush()


def how_far(move: MoveInfo, seconds: float) -> str:
    """`1200 / 4000 users moved, 310/s, 9 s left`, as far as it is known after `seconds`."""
    if move.total is None:
        return "users are counted"
    text = f"{move.moved} / {counted(move.total, 'user')} {PAST.get(move.kind, 'moved')}"
    rate = move.moved / seconds if seconds > 0 else 0.0
    if rate > 0:
        text += f", {rate:.0f}/s, {max(0, move.total - move.moved) / rate:.0f} s left"
    return text


PAST = {"forget": "forgotten"}
"""What has become of users, by kind of move; `moved` by all others."""


WOULD = {"moved": "move", "forgotten": "forget"}
"""What a dry run says in place of what has become of users."""


def in_words(change: UsersChange, verb: str = "moved") -> str:
    """`1200 users moved, 3410 sessions ended, 0 timed out`, and what else there is to say; of a dry run
    `would move 1200 users, end - sessions`."""
    if change.dry_run:
        text = f"would {WOULD[verb]} {counted(change.moved, 'user')}, end {counted(change.kicked, 'session')}"
        text += f", leave {counted(change.pinned, 'pinned user')}" if change.pinned else ""
        return text + unpinned(change.unpinned, dry_run=True)
    text = f"{counted(change.moved, 'user')} {verb}"
    text += f", {counted(change.kicked, 'session')} ended, {change.timed_out} timed out"
    if change.superseded:
        text += f", {change.superseded} moved elsewhere by another operator"
    if change.pinned:
        text += f", {counted(change.pinned, 'pinned user')} left"
    return text + unpinned(change.unpinned, dry_run=False)


def unpinned(users: int, *, dry_run: bool) -> str:
    """`, 3 users no longer pinned`; empty where there are none."""
    would = "would no longer be pinned" if dry_run else "no longer pinned"
    return f", {counted(users, 'user')} {would}" if users else ""


def tell_of_host(name: str, change: Change) -> None:
    """What an operator must know of a host that has changed: a line on stderr for each thing."""
    if change.warning:
        complain(f"{name}: {change.warning}")
    if not change.stored and not change.dry_run:
        complain(f"{name}: {NOT_STORED}")


def tell_what_is_open(name: str, change: UsersChange) -> None:
    """What an operator must know of a change that is made: a line on stderr for each thing."""
    if change.dry_run:
        return
    if change.timed_out:
        users = counted(change.timed_out, "user")
        complain(f"{name}: old sessions of {users} were not confirmed to be gone in time; `kick` ends them")
    if change.not_flushed:
        users = counted(change.not_flushed, "user")
        complain(f"{name}: the flush program failed for {users}; the log of the director says why")
    if change.not_reached:
        directors = ", ".join(change.not_reached)
        complain(f"{name}: not confirmed by {directors}; the sessions they proxy end when they are back")
    if not change.stored:
        complain(f"{name}: {NOT_STORED}")


def counted(number: int | None, thing: str) -> str:
    """`3 users`; `- users` where the number is not known."""
    return f"{'-' if number is None else number} {thing}{'' if number == 1 else 's'}"
