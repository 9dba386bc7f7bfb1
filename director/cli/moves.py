"""Commands about one user: move, pin, unpin, kick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar
from urllib.parse import urlencode

import click
import msgspec

from director.cli.client import Client
from director.cli.following import DRY, counted, tell_what_is_open
from director.cli.hosts import host_path, hosts_of
from director.cli.output import complain, say, say_json
from director.cli.target import Target, change_options, json_option
from director.cli.users import user_path
from director.errors import EX_TRY_AGAIN
from director.records import HostInfo, NewKick, NewMove, UsersChange, UserStatus

F = TypeVar("F", bound=Callable[..., object])


def user_options(command: F) -> F:
    """Which user is meant."""
    tag = click.option("-t", "--tag", metavar="TAG", default="", help="The user with this tag.")
    name = click.option(
        "--name", "is_name", is_flag=True, help="USER is a name, even one of digits only; not a hash."
    )
    return tag(name(command))


@click.command()
@click.argument("user")
@click.argument("host")
@user_options
@json_option
@change_options
@click.pass_obj
def move(
    target: Target,
    user: str,
    host: str,
    tag: str,
    is_name: bool,
    as_json: bool,
    dry_run: bool,
    reason: str,
) -> int:
    """Move USER to HOST and end his sessions on the old one.

    Returns when every director has confirmed it. He can log in again a moment later (users.kick_delay). He
    stays on HOST until he expires; `pin` keeps him there for good. A USER of digits only is taken as the
    hash of a user. Exit code 75: he is being moved already, or another operator's move won.
    """
    wanted = NewMove(user=user, host="", tag=tag, numeric=_numeric(is_name), reason=reason, dry_run=dry_run)
    return _move(target, wanted, host, as_json)


@click.command()
@click.argument("user")
@click.argument("host")
@user_options
@json_option
@change_options
@click.pass_obj
def pin(
    target: Target,
    user: str,
    host: str,
    tag: str,
    is_name: bool,
    as_json: bool,
    dry_run: bool,
    reason: str,
) -> int:
    """Keep USER on HOST for good, through expiry, flush and drain.

    He is moved there if he is elsewhere, as by `move`. `unpin` ends it.
    """
    wanted = NewMove(
        user=user, host="", tag=tag, numeric=_numeric(is_name), pin=True, reason=reason, dry_run=dry_run
    )
    return _move(target, wanted, host, as_json)


@click.command()
@click.argument("user")
@user_options
@json_option
@change_options
@click.pass_obj
def unpin(
    target: Target, user: str, tag: str, is_name: bool, as_json: bool, dry_run: bool, reason: str
) -> None:
    """Let a pinned USER expire and be moved again.

    He stays where he is for now, and no session ends. Exit code 68: he is not pinned.
    """
    query = {"tag": tag, "numeric": _numeric(is_name), "reason": reason, "dry_run": str(dry_run).lower()}
    client = target.client()
    document = client.change("DELETE", f"{user_path(user)}/pin?{urlencode(query)}")
    change = client.decode(document, UsersChange)
    if as_json:
        say_json(document)
    else:
        stays = f", stays on {change.host} until he expires" if change.host else ""
        say(f"{user}: no longer pinned{stays}{DRY if dry_run else ''}")
    tell_what_is_open(user, change)


@click.command()
@click.argument("user", metavar="[USER|VALUE]", required=False)
@click.option("-f", "--field", metavar="FIELD", help="End the sessions whose passdb FIELD is VALUE.")
@click.option("--hash", "hash32", metavar="HASH", type=int, help="The user with this hash, as in `map`.")
@json_option
@change_options
@click.pass_obj
def kick(
    target: Target,
    user: str | None,
    field: str | None,
    hash32: int | None,
    as_json: bool,
    dry_run: bool,
    reason: str,
) -> None:
    """End the sessions of USER on all directors.

    He stays on his host and may log in again at once. Names and values are compared as they are: * is no
    mask. `kick USER`, `kick -f FIELD VALUE` or `kick --hash HASH`.
    """
    if (user is None) == (hash32 is None) or (field is not None and user is None):
        raise click.UsageError("say whom: USER, or -f FIELD VALUE, or --hash HASH")
    whom = {"user": user} if field is None else {"field": field, "value": user}
    name = f"hash {hash32}" if user is None else user if field is None else f"{field}={user}"
    client = target.client()
    body = NewKick(**whom, hash=hash32, reason=reason, dry_run=dry_run)
    document = client.change("POST", "/v1/kicks", body)
    change = client.decode(document, UsersChange)
    if as_json:
        say_json(document)
    else:
        say(f"{name}: {counted(change.kicked, 'session')} ended{DRY if dry_run else ''}")
    tell_what_is_open(name, change)


def _numeric(is_name: bool) -> Literal["hash", "name"]:
    return "name" if is_name else "hash"


def _move(target: Target, wanted: NewMove, host: str, as_json: bool) -> int:
    client = target.client()
    # As in the original: a user can only be on one host.
    wanted = msgspec.structs.replace(wanted, host=hosts_of(client, host)[0])
    before = _where(client, wanted)
    document = client.change("POST", "/v1/moves", wanted)
    change = client.decode(document, UsersChange)
    if as_json:
        say_json(document)
    if change.superseded:
        now = f"he is on {change.host} now" if change.host else "`director status` says where he is now"
        complain(f"{wanted.user}: another operator's move won; {now}")
        return EX_TRY_AGAIN
    if not as_json:
        say(f"{wanted.user}: {_outcome(change, before, wanted)}{DRY if change.dry_run else ''}")
    tell_what_is_open(wanted.user, change)
    return 0


def _where(client: Client, wanted: NewMove) -> str | None:
    """Where the user is now. Raises Denied where the host he is to go to does not exist."""
    host = client.decode(client.get(host_path(wanted.host)), HostInfo)
    query = urlencode({"tag": wanted.tag or host.tag, "numeric": wanted.numeric})
    return client.decode(client.get(f"{user_path(wanted.user)}?{query}"), UserStatus).current


def _outcome(change: UsersChange, before: str | None, wanted: NewMove) -> str:
    pinned = ", pinned" if wanted.pin else ""
    if not change.moved or before == wanted.host:
        return f"already on {wanted.host}{pinned}"
    way = f"{before} -> {wanted.host}" if before else f"placed on {wanted.host}"
    return f"{way}{pinned}, {counted(change.kicked, 'session')} ended"
