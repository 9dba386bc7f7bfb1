"""Commands about one user: move, pin, unpin, kick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import click
import msgspec

from director.cli.client import Client
from director.cli.hosts import host_path, hosts_of, is_host
from director.cli.output import print_error, print_json, print_line
from director.cli.progress import DRY, counted, print_unfinished
from director.cli.sections import USERS
from director.cli.target import Target, change_options, json_option
from director.cli.users import name_option, numeric, user_path
from director.errors import EX_NOT_FOUND, EX_TRY_AGAIN
from director.records import HostInfo, NewKick, NewMove, UsersChange, UserStatus

F = TypeVar("F", bound=Callable[..., object])


def user_options(command: F) -> F:
    """Add the options that say which user is meant."""
    tag = click.option("-t", "--tag", metavar="TAG", default="", help="USER belongs to the pool TAG.")
    return tag(name_option(command))


def move_options(command: F) -> F:
    """Add the arguments and options of a command that moves a user."""
    new = click.option("--new", is_flag=True, help="Assign an unassigned USER too; without it: exit code 68.")
    options = user_options(new(json_option(change_options(command))))
    return click.argument("user")(click.argument("host")(options))


@USERS.command()
@move_options
@click.pass_obj
def move(target: Target, /, host: str, is_name: bool, as_json: bool, **wanted: Any) -> int:
    """Move USER to HOST and end the sessions on the old host.

    Returns when every director has confirmed the move. USER can log in again after users.kick_delay. USER
    stays on HOST until the assignment expires, even if USER was pinned; `pin` assigns permanently. A USER of
    digits only is the hash of a user. Exit code 68: USER is not assigned. 75: another move of USER is in
    progress, or has won.
    """
    return _move(target, NewMove(host="", numeric=numeric(is_name), **wanted), host, as_json)


@USERS.command()
@move_options
@click.pass_obj
def pin(target: Target, /, host: str, is_name: bool, as_json: bool, **wanted: Any) -> int:
    """Assign USER to HOST permanently.

    The assignment does not expire, and flush, drain and rebalance leave it. A USER on
    another host is moved first, as by `move`. `unpin` ends the pin.
    """
    return _move(target, NewMove(host="", numeric=numeric(is_name), pin=True, **wanted), host, as_json)


@USERS.command()
@click.argument("user")
@user_options
@json_option
@change_options
@click.pass_obj
def unpin(
    target: Target, user: str, tag: str, is_name: bool, as_json: bool, dry_run: bool, reason: str
) -> None:
    """End the pin of USER.

    USER stays on the host until the assignment expires, or until a flush, drain or rebalance moves USER. No
    session ends. Exit code 68: USER is not pinned.
    """
    query = {"tag": tag, "numeric": numeric(is_name), "reason": reason, "dry_run": str(dry_run).lower()}
    client = target.client()
    document = client.change("DELETE", f"{user_path(user)}/pin?{urlencode(query)}")
    change = client.decode(document, UsersChange)
    if as_json:
        print_json(document)
    else:
        stays = f", stays on {change.host} until the assignment expires" if change.host else ""
        ends = "would no longer be pinned" if dry_run else "no longer pinned"
        print_line(f"{user}: {ends}{stays}{DRY if dry_run else ''}")
    print_unfinished(user, change)


@USERS.command()
@click.argument("user", metavar="[USER|VALUE]", required=False)
@click.option("-f", "--field", metavar="FIELD", help="End sessions whose passdb FIELD is VALUE.")
@click.option("--hash", "hash32", metavar="HASH", type=int, help="The user with this hash, as in `map`.")
@name_option
@json_option
@change_options
@click.pass_obj
def kick(
    target: Target,
    user: str | None,
    field: str | None,
    hash32: int | None,
    is_name: bool,
    as_json: bool,
    dry_run: bool,
    reason: str,
) -> int:
    """End the sessions of USER on all directors.

    Write `kick USER`, `kick -f FIELD VALUE` or `kick --hash HASH`. USER stays on the host and can log in
    again immediately. A USER of digits only is the hash of a user. Names and values are compared literally: *
    is not a wildcard. Exit code 68: USER is not assigned and has no session. A dry run counts the sessions at
    all directors and names the directors that could not count theirs.
    """
    if (user is None) == (hash32 is None) or (field is not None and user is None):
        raise click.UsageError("give USER, or -f FIELD VALUE, or --hash HASH")
    if is_name and (field is not None or hash32 is not None):
        raise click.UsageError("--name is for a USER, not for -f or --hash")
    name = f"hash {hash32}" if user is None else user if field is None else f"{field}={user}"
    client = target.client()
    body = NewKick(
        user=user if field is None else None,
        numeric=numeric(is_name),
        field=field,
        value=user if field is not None else None,
        hash=hash32,
        reason=reason,
        dry_run=dry_run,
    )
    document = client.change("POST", "/v1/kicks", body)
    change = client.decode(document, UsersChange)
    if as_json:
        print_json(document)
    if not change.known:
        why = "this is a backend host" if is_host(client, name) else "not assigned, and no session found"
        print_error(f"{name}: no such user: {why}")
        return EX_NOT_FOUND
    if not as_json:
        print_line(f"{name}: {_kicked(change)}")
    print_unfinished(name, change)
    return 0


def _kicked(change: UsersChange) -> str:
    if not change.dry_run:
        return f"{counted(change.kicked, 'session')} ended"
    text = f"would end {counted(change.kicked, 'session')}"
    if change.not_counted:
        text += f", at least {change.counted}: not counted at {', '.join(change.not_counted)}"
    return f"{text}{DRY}"


def _move(target: Target, wanted: NewMove, host: str, as_json: bool) -> int:
    client = target.client()
    # A user can be on one host only. If a name has several addresses, the first is taken, as in Dovecot 2.3.
    wanted = msgspec.structs.replace(wanted, host=hosts_of(client, host)[0])
    before = _where(client, wanted)
    document = client.change("POST", "/v1/moves", wanted)
    change = client.decode(document, UsersChange)
    if as_json:
        print_json(document)
    if change.superseded:
        now = f"the user is on {change.host} now" if change.host else "`director status USER` says where"
        print_error(f"{wanted.user}: another operator's move won; {now}")
        return EX_TRY_AGAIN
    if not as_json:
        print_line(f"{wanted.user}: {_outcome(change, before, wanted)}{DRY if change.dry_run else ''}")
    print_unfinished(wanted.user, change)
    return 0


def _where(client: Client, wanted: NewMove) -> UserStatus:
    """The user's assignment before the move.

    Raises:
        Denied: the new host does not exist.
    """
    host = client.decode(client.get(host_path(wanted.host)), HostInfo)
    query = urlencode({"tag": wanted.tag or host.tag, "numeric": wanted.numeric})
    return client.decode(client.get(f"{user_path(wanted.user)}?{query}"), UserStatus)


def _outcome(change: UsersChange, was: UserStatus, wanted: NewMove) -> str:
    before, unpinned = was.current, was.pinned and not wanted.pin
    pinned = ", pinned" if wanted.pin else ", no longer pinned" if unpinned else ""
    if not change.moved or before == wanted.host:
        changes = change.dry_run and was.pinned != wanted.pin
        return f"{'would stay' if changes else 'already'} on {wanted.host}{pinned}"
    if change.dry_run:
        way = f"move {before} -> {wanted.host}" if before else f"be assigned to {wanted.host}"
        return f"would {way}{pinned}, ending {counted(change.kicked, 'session')}"
    way = f"{before} -> {wanted.host}" if before else f"assigned to {wanted.host}"
    return f"{way}{pinned}, {counted(change.kicked, 'session')} ended"
