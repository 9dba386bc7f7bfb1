"""Commands about all users of a host, or of all hosts: flush, drain, rebalance, tag."""

from __future__ import annotations

import time

import click
import msgspec

from director.cli.client import EX_INTERRUPTED, Client, Failure
from director.cli.hosts import each_address, host_path
from director.cli.output import print_error, print_json, print_line
from director.cli.progress import (
    DRY,
    PAST,
    POLL,
    Done,
    Progress,
    carry_out,
    counted,
    counts_text,
    print_host_warnings,
    print_unfinished,
)
from director.cli.sections import HOSTS, USERS
from director.cli.target import Target, change_options, force_option, json_option
from director.errors import EX_TRY_AGAIN
from director.records import Change, HostInfo, HostPatch, NewFlush, UsersChange

ALL = "all"

REBALANCED_AT_ONCE = 10
"""Users that `rebalance` moves at a time by default: few, so that users do not notice it."""

STUCK = 30.0
"""Seconds without progress after which `drain` ends and reports the remaining users."""

parallel_option = click.option(
    "--max-parallel",
    metavar="N",
    type=click.IntRange(min=1),
    help="Move at most N users at a time; default: users.max_parallel_moves.",
)


@USERS.command()
@click.argument("host", metavar="HOST|all")
@click.option(
    "-F", "--forget", is_flag=True, help="Remove the assignments instead, pins too, and end the sessions."
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
    """Move the users of HOST to the hosts that the hash selects now.

    `all` means the users of all hosts. Users whose host is the selected one stay, and so do pinned users.
    To move all users away, use `drain`. After Ctrl-C moves that have begun are finished, and no other is
    started.

    With -F the users lose their assignments and pins, and their sessions end. Their next login is assigned
    again, without the kick delay. Use it for a HOST that is dead.
    """
    if forget and max_parallel is not None:
        raise click.UsageError("--max-parallel is not for -F, which moves no users")
    outcomes = Outcomes(as_json)

    def flush_host(client: Client, address: str | None) -> int:
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
        return outcomes.add(f"flush {name}", name, done, PAST["forget"] if forget else "moved")

    code = flush_host(target.client(), None) if host == ALL else each_address(target, host, flush_host)
    outcomes.end()
    return code


@HOSTS.command()
@click.argument("host")
@force_option
@json_option
@change_options
@click.pass_obj
def drain(target: Target, host: str, force: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Move all users off HOST and stop assigning new users.

    Sets the weight to 0, moves the users and returns when none is left. Then HOST can be stopped. If HOST is
    already being drained, waits for that drain. After Ctrl-C moves that have begun are finished, the weight
    stays 0, and the command that restores it is printed. Exit code 75: pinned or other users are left.
    """
    outcomes = Outcomes(as_json)

    def drain_host(client: Client, address: str) -> int:
        name = f"drain {address}"
        before = client.decode(client.get(host_path(address)), HostInfo)
        empty = HostPatch(weight=0, reason=reason, dry_run=dry_run, force=force)
        if before.weight:
            document = client.change("PATCH", host_path(address), empty)
            print_host_warnings(name, client.decode(document, Change))
        if dry_run:
            change = _preview_drain(client, address)
            if not outcomes.keep(address, change):
                print_line(f"{name}: weight {before.weight} -> 0, {counts_text(change)}{DRY}")
            return 0
        try:
            done, remaining = _move_users_off(client, name, address, reason, force)
        except Failure:
            _print_weight_command(name, before)
            raise
        code = outcomes.add(name, address, done)
        if done.interrupted:
            _print_weight_command(name, before)
        elif remaining:
            print_error(
                f"{name}: {_users_left(remaining, done.change.pinned)}; `director map {address}` lists them"
            )
            code = EX_TRY_AGAIN
        elif not as_json:
            print_line(f"{name}: done, no user left")
        return code

    code = each_address(target, host, drain_host)
    outcomes.end()
    return code


@USERS.command()
@click.option("-t", "--tag", metavar="TAG", help="Move only users with this tag.")
@click.option(
    "--max-parallel",
    metavar="N",
    type=click.IntRange(min=1),
    default=REBALANCED_AT_ONCE,
    show_default=True,
    help="Move at most N users at a time.",
)
@json_option
@change_options
@click.pass_obj
def rebalance(
    target: Target, tag: str | None, max_parallel: int, as_json: bool, dry_run: bool, reason: str
) -> int:
    """Move users back to the hosts that the hash selects.

    A few users are moved at a time. Use it after a host has come up again, or after weights have changed.
    Pinned users stay. Each move ends the sessions of one user. After Ctrl-C no other move is started.
    """
    outcomes = Outcomes(as_json)
    body = NewFlush(
        host=None, rebalance=True, tag=tag, max_parallel=max_parallel, reason=reason, dry_run=dry_run
    )
    name = "rebalance" if tag is None else f"rebalance {tag or 'without a tag'}"
    code = outcomes.add(name, ALL, flushed(target.client(), name, body))
    outcomes.end()
    return code


@HOSTS.command()
@click.argument("host")
@click.argument("tag")
@force_option
@json_option
@change_options
@click.pass_obj
def tag(target: Target, host: str, tag: str, force: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Put HOST into the pool TAG; '' is the pool without a tag.

    The users of HOST keep the old tag: they are moved to other hosts of the old pool, as by `flush`, and
    their sessions on HOST end.
    """
    outcomes = Outcomes(as_json)

    def tag_host(client: Client, address: str) -> int:
        name = f"tag {address} {tag}".rstrip()
        path, body = host_path(address), HostPatch(tag=tag, reason=reason, dry_run=dry_run, force=force)
        if dry_run:
            change = client.decode(client.change("PATCH", path, body), Change)
            print_host_warnings(name, change)
            done = Done(change.users or UsersChange(kicked=None, timed_out=None, dry_run=True))
        else:
            done = carry_out(client, name, "PATCH", path, body)
        return outcomes.add(name, address, done)

    code = each_address(target, host, tag_host)
    outcomes.end()
    return code


def flushed(client: Client, name: str, body: NewFlush) -> Done:
    if body.dry_run:
        return Done(client.decode(client.change("POST", "/v1/flushes", body), UsersChange))
    return carry_out(client, name, "POST", "/v1/flushes", body)


def _preview_drain(client: Client, address: str) -> UsersChange:
    """The result that a drain would have. With weight 0 the hash selects the host for no user."""
    document = client.change("POST", "/v1/flushes", NewFlush(host=address, dry_run=True))
    change = client.decode(document, UsersChange)
    return msgspec.structs.replace(change, moved=change.moved + change.unchanged, unchanged=0)


def _move_users_off(client: Client, name: str, address: str, reason: str, force: bool) -> tuple[Done, int]:
    """Flush the host and wait until only pinned users are left, or for STUCK seconds without progress.

    Returns:
        The outcome of the flush, and the number of users that are left.
    """
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
            progress.show(f"{name}: waiting for {counted(remaining - done.change.pinned, 'user')} to leave")
            time.sleep(POLL)
    except KeyboardInterrupt:
        done = Done(done.change, interrupted=True)
    finally:
        progress.clear()
    return done, remaining


def _users_left(users: int, pinned: int) -> str:
    if users <= pinned:
        return f"{counted(users, 'pinned user')} left: use `unpin` or `move`"
    return f"{counted(users, 'user')} left" + (f", {pinned} pinned" if pinned else "")


def _print_weight_command(name: str, before: HostInfo) -> None:
    if before.weight:
        command = f"director update {before.address} {before.weight}"
        print_error(f"{name}: the weight stays 0; `{command}` restores it")


class Outcomes:
    """Prints the outcome for each host; with --json, one document of all outcomes by address or `all`."""

    def __init__(self, as_json: bool) -> None:
        self._json: dict[str, UsersChange] | None = {} if as_json else None

    def add(self, name: str, key: str, done: Done, verb: str = "moved") -> int:
        """Print an outcome, or keep it for the JSON document, and return the exit code."""
        change = done.change
        if not self.keep(key, change):
            interrupted = "interrupted, " if done.interrupted else ""
            print_line(f"{name}: {interrupted}{counts_text(change, verb)}{DRY if change.dry_run else ''}")
        print_unfinished(name, change)
        return EX_INTERRUPTED if done.interrupted else 0

    def keep(self, key: str, change: UsersChange) -> bool:
        """Keep an outcome for the JSON document. Returns False without --json: print it instead."""
        if self._json is None:
            return False
        self._json[key] = change
        return True

    def end(self) -> None:
        if self._json:
            print_json(msgspec.json.encode(self._json))
