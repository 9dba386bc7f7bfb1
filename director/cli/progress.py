"""Changes of many users: start a change, show its progress, interrupt it, print its result."""

from __future__ import annotations

import sys
import time

import msgspec

from director.cli.client import EX_INTERRUPTED, Client, Denied, Failure
from director.cli.output import moment, print_error, printable
from director.errors import EX_UNAVAILABLE
from director.records import Change, MoveInfo, UsersChange

POLL = 0.2
"""Seconds between two requests for the progress."""

NOT_STORED = (
    "the directors have the change, but it is not stored yet: it is lost if all directors stop before it is;"
    " `director status` shows the reason, and lists the change until it is stored"
)

DRY = " (dry run: nothing is changed)"


class Done(msgspec.Struct, frozen=True):
    change: UsersChange
    interrupted: bool = False


def carry_out(client: Client, name: str, method: str, path: str, body: msgspec.Struct) -> Done:
    """Start a change of users and wait until it has ended.

    Ctrl-C interrupts the change: moves that have begun are finished, no other is started. A second Ctrl-C
    ends this command only.

    Args:
        name: of the change in messages, such as `flush all`.

    Raises:
        Denied: the director refused the change, or the change failed.
        Failure: the director does not answer any more.
    """
    begun = client.decode(client.change(method, f"{path}?wait=false", body), MoveInfo)
    if begun.change is not None:
        print_host_warnings(name, begun.change)
    if begun.joined:
        print_error(f"{name}: already running since {moment(begun.started)}; waiting for its result")
    try:
        move, interrupted = _followed(client, name, begun)
    except Denied:
        raise
    except Failure as error:
        if error.exit_code == EX_INTERRUPTED:
            raise
        raise Failure(f"{error}; {name} may still be running there", EX_UNAVAILABLE) from None
    if move.problem is not None:
        raise Denied(move.problem.detail or move.problem.title, move.problem.exit_code)
    if move.result is None:
        raise Failure(f"{client.where}: {name} ended, but the director sent no result", EX_UNAVAILABLE)
    return Done(move.result, interrupted)


def _followed(client: Client, name: str, move: MoveInfo) -> tuple[MoveInfo, bool]:
    path, begun, progress = f"/v1/moves/{move.id}", time.monotonic(), Progress()
    try:
        while move.ended is None:
            move = msgspec.structs.replace(client.decode(client.get(path), MoveInfo), joined=move.joined)
            if move.ended is None:
                progress.show(f"{name}: {progress_text(move, time.monotonic() - begun)}")
                time.sleep(POLL)
    except KeyboardInterrupt:
        if move.joined:
            raise Failure(
                f"{name}: interrupted; the {name.split()[0]} that another operator started continues",
                EX_INTERRUPTED,
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
    """A line on stderr that is overwritten each time. If stderr is not a terminal, nothing is written."""

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


def progress_text(move: MoveInfo, seconds: float) -> str:
    """The progress of a change, such as `1200 / 4000 users moved, 310/s, 9 s left`.

    Args:
        seconds: since the change began.
    """
    if move.total is None:
        return "counting users"
    text = f"{move.moved} / {counted(move.total, 'user')} {PAST.get(move.kind, 'moved')}"
    rate = move.moved / seconds if seconds > 0 else 0.0
    if rate > 0:
        text += f", {rate:.0f}/s, {max(0, move.total - move.moved) / rate:.0f} s left"
    return text


PAST = {"forget": "forgotten"}
"""The verb for users by kind of change; `moved` for all other kinds."""


WOULD = {"moved": "move", "forgotten": "forget"}
"""The verb of a dry run, by the verb of a change."""


def counts_text(change: UsersChange, verb: str = "moved") -> str:
    """The counts of a change, such as `1200 users moved, 3410 sessions ended, 0 timed out`.

    For a dry run: `would move 1200 users, end - sessions`.
    """
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
    """`, 3 users no longer pinned`, or an empty text for 0 users."""
    would = "would no longer be pinned" if dry_run else "no longer pinned"
    return f", {counted(users, 'user')} {would}" if users else ""


def print_host_warnings(name: str, change: Change) -> None:
    """Print the warnings about a changed host on stderr, a line each."""
    if change.warning:
        print_error(f"{name}: {change.warning}")
    if not change.stored and not change.dry_run:
        print_error(f"{name}: {NOT_STORED}")


def print_unfinished(name: str, change: UsersChange) -> None:
    """Print what a change has left unfinished on stderr, a line each."""
    if change.dry_run:
        return
    if change.timed_out:
        users = counted(change.timed_out, "user")
        print_error(
            f"{name}: old sessions of {users} may still run: no confirmation in time; end them with `kick`"
        )
    if change.not_flushed:
        users = counted(change.not_flushed, "user")
        print_error(f"{name}: the flush program failed for {users}; see the log of the director")
    if change.not_reached:
        directors = ", ".join(change.not_reached)
        print_error(
            f"{name}: not confirmed by {directors}; the sessions there end when these directors are reachable"
        )
    if not change.stored:
        print_error(f"{name}: {NOT_STORED}")


def counted(number: int | None, thing: str) -> str:
    """`3 users`, or `- users` if the number is not known."""
    return f"{'-' if number is None else number} {thing}{'' if number == 1 else 's'}"
