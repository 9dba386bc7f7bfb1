"""Commands about all users of a host, or of all hosts: flush, drain, rebalance, tag."""

from __future__ import annotations

import time

import click
import msgspec

from director.cli.client import EX_INTERRUPTED, Client, Failure
from director.cli.hosts import each_address, host_path
from director.cli.output import complain, say, say_json
from director.cli.progress import (
    DRY,
    PAST,
    POLL,
    Done,
    Progress,
    carry_out,
    counted,
    in_words,
    tell_of_host,
    tell_what_is_open,
)
from director.cli.target import Target, change_options, force_option, json_option
from director.errors import EX_TRY_AGAIN
from director.records import Change, HostInfo, HostPatch, NewFlush, UsersChange

ALL = "all"

REBALANCED_AT_ONCE = 10
"""Users `rebalance` moves at a time unless it is told: it is meant to go unnoticed."""

STUCK = 30.0
"""Seconds without any progress after which `drain` reports the users that are left and ends."""

parallel_option = click.option(
    "--max-parallel",
    metavar="N",
    type=click.IntRange(min=1),
    help="Users on the move at a time (as configured: users.max_parallel_moves).",
)


@click.command()
@click.argument("host", metavar="HOST|all")
@click.option(
    "-F", "--forget", is_flag=True, help="Forget the users instead, pinned ones too, and end their sessions."
)
@parallel_option
@force_option
@json_option
@change_options
@click.pass_obj
def flush(
    target: Target,
    host: str,
    forget: bool,
    max_parallel: int | None,
    force: bool,
    as_json: bool,
    dry_run: bool,
    reason: str,
) -> int:
    """Move the users of HOST to where the hash puts them now.

    Users who are on the right host already stay; pinned users stay. To empty a host use `drain`. Ctrl-C
    starts no more moves; those that have begun are finished.

    With -F users are forgotten, pinned ones too: their sessions end, and their next login is placed anew
    without the kick delay. For a HOST that is dead.
    """
    if forget and max_parallel is not None:
        raise click.UsageError("--max-parallel is not for -F: nobody is moved")
    outcomes = Outcomes(as_json)

    def one(client: Client, address: str | None) -> int:
        body = NewFlush(
            host=address,
            forget=forget,
            max_parallel=max_parallel,
            reason=reason,
            dry_run=dry_run,
            force=force,
        )
        name = address or ALL
        done = flushed(client, f"flush {name}", body)
        return outcomes.tell(f"flush {name}", name, done, PAST["forget"] if forget else "moved")

    code = one(target.client(), None) if host == ALL else each_address(target, host, one)
    outcomes.end()
    return code


@click.command()
@click.argument("host")
@force_option
@json_option
@change_options
@click.pass_obj
def drain(target: Target, host: str, force: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Empty HOST: no new users, and the others are moved.

    Sets its weight to 0, flushes it and returns when it has no user left. Then it can be taken away. A drain
    of HOST that is under way is joined. Ctrl-C starts no more moves, leaves the weight at 0 and prints the
    command that sets it back. Exit code 75: users are left, pinned ones, or others that did not leave.
    """
    outcomes = Outcomes(as_json)

    def one(client: Client, address: str) -> int:
        name = f"drain {address}"
        before = client.decode(client.get(host_path(address)), HostInfo)
        empty = HostPatch(weight=0, reason=reason, dry_run=dry_run, force=force)
        if before.weight:
            document = client.change("PATCH", host_path(address), empty)
            tell_of_host(name, client.decode(document, Change))
        if dry_run:
            change = _would_empty(client, address)
            if not outcomes.kept(address, change):
                say(f"{name}: weight {before.weight} -> 0, {in_words(change)}{DRY}")
            return 0
        try:
            done, remaining = _emptied(client, name, address, reason, force)
        except Failure:
            _tell_weight(name, before)
            raise
        code = outcomes.tell(name, address, done)
        if done.interrupted:
            _tell_weight(name, before)
        elif remaining:
            complain(
                f"{name}: {_who_is_left(remaining, done.change.pinned)}; `director map {address}` names them"
            )
            code = EX_TRY_AGAIN
        elif not as_json:
            say(f"{name}: done, no user left")
        return code

    code = each_address(target, host, one)
    outcomes.end()
    return code


@click.command()
@click.option("-t", "--tag", metavar="TAG", help="Only users with this tag.")
@click.option(
    "--max-parallel",
    metavar="N",
    type=click.IntRange(min=1),
    default=REBALANCED_AT_ONCE,
    show_default=True,
    help="Users on the move at a time.",
)
@json_option
@change_options
@click.pass_obj
def rebalance(
    target: Target, tag: str | None, max_parallel: int, as_json: bool, dry_run: bool, reason: str
) -> int:
    """Move users back to where the hash puts them, a few at a time.

    For a host that is back, or weights that have changed. Pinned users stay. Each move ends the sessions of
    one user; Ctrl-C starts no more moves.
    """
    outcomes = Outcomes(as_json)
    body = NewFlush(
        host=None, rebalance=True, tag=tag, max_parallel=max_parallel, reason=reason, dry_run=dry_run
    )
    name = "rebalance" if tag is None else f"rebalance {tag or 'without a tag'}"
    code = outcomes.tell(name, ALL, flushed(target.client(), name, body))
    outcomes.end()
    return code


@click.command()
@click.argument("host")
@click.argument("tag")
@force_option
@json_option
@change_options
@click.pass_obj
def tag(target: Target, host: str, tag: str, force: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Put HOST into the pool TAG; '' is the pool without a tag.

    Its users keep the old tag: they are moved to other hosts with that tag, as by `flush`, and their sessions
    on HOST end.
    """
    outcomes = Outcomes(as_json)

    def one(client: Client, address: str) -> int:
        name = f"tag {address} {tag}".rstrip()
        path, body = host_path(address), HostPatch(tag=tag, reason=reason, dry_run=dry_run, force=force)
        if dry_run:
            change = client.decode(client.change("PATCH", path, body), Change)
            tell_of_host(name, change)
            done = Done(change.users or UsersChange(kicked=None, timed_out=None, dry_run=True))
        else:
            done = carry_out(client, name, "PATCH", path, body)
        return outcomes.tell(name, address, done)

    code = each_address(target, host, one)
    outcomes.end()
    return code


def flushed(client: Client, name: str, body: NewFlush) -> Done:
    if body.dry_run:
        return Done(client.decode(client.change("POST", "/v1/flushes", body), UsersChange))
    return carry_out(client, name, "POST", "/v1/flushes", body)


def _would_empty(client: Client, address: str) -> UsersChange:
    """What a drain would come to: with weight 0 the hash puts nobody on the host."""
    document = client.change("POST", "/v1/flushes", NewFlush(host=address, dry_run=True))
    change = client.decode(document, UsersChange)
    return msgspec.structs.replace(change, moved=change.moved + change.unchanged, unchanged=0)


def _emptied(client: Client, name: str, address: str, reason: str, force: bool) -> tuple[Done, int]:
    """Flush the host and wait until only pinned users are on it: what came of it, and how many are left."""
    done = flushed(client, name, NewFlush(host=address, reason=reason, force=force))
    progress, remaining = Progress(), 0
    fewest, since = None, time.monotonic()
    try:
        while not done.interrupted:
            host = client.decode(client.get(host_path(address)), HostInfo)
            remaining = host.users + host.leaving
            if fewest is None or remaining < fewest:
                fewest, since = remaining, time.monotonic()
            if remaining <= done.change.pinned or time.monotonic() - since > STUCK:
                break
            progress.show(f"{name}: waiting for {counted(remaining - done.change.pinned, 'user')} to be gone")
            time.sleep(POLL)
    except KeyboardInterrupt:
        done = Done(done.change, interrupted=True)
    finally:
        progress.clear()
    return done, remaining


def _who_is_left(users: int, pinned: int) -> str:
    if users <= pinned:
        return f"{counted(users, 'pinned user')} left, for `unpin` or `move`"
    return f"{counted(users, 'user')} left" + (f", {pinned} pinned" if pinned else "")


def _tell_weight(name: str, before: HostInfo) -> None:
    if before.weight:
        command = f"director update {before.address} {before.weight}"
        complain(f"{name}: the weight stays 0; `{command}` takes it back")


class Outcomes:
    """Says what came of each host; with --json one document of all, by address or `all`."""

    def __init__(self, as_json: bool) -> None:
        self._json: dict[str, UsersChange] | None = {} if as_json else None

    def tell(self, name: str, key: str, done: Done, verb: str = "moved") -> int:
        """Returns the exit code."""
        change = done.change
        if not self.kept(key, change):
            interrupted = "interrupted, " if done.interrupted else ""
            say(f"{name}: {interrupted}{in_words(change, verb)}{DRY if change.dry_run else ''}")
        tell_what_is_open(name, change)
        return EX_INTERRUPTED if done.interrupted else 0

    def kept(self, key: str, change: UsersChange) -> bool:
        """Whether it goes into the document, and so is not to be said."""
        if self._json is None:
            return False
        self._json[key] = change
        return True

    def end(self) -> None:
        if self._json:
            say_json(msgspec.json.encode(self._json))
