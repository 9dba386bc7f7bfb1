"""`director status`: show the hosts, or one user."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from director.cli.client import Client
from director.cli.hosts import is_host
from director.cli.output import Column, moment, or_dash, print_error, print_json, print_line, print_table
from director.cli.progress import counted
from director.cli.ring import ring_lines
from director.cli.sections import SHOW
from director.cli.target import Target, json_option, target_options
from director.cli.users import name_option, numeric, user_path
from director.errors import EX_NOT_FOUND
from director.records import HostInfo, StatusInfo, UserStatus

UNSTORED_NAMED = 5
"""Number of changes that are listed of those that are not stored yet."""
HOST_COLUMNS = (
    Column("address"),
    Column("tag"),
    Column("weight", number=True),
    Column("state"),
    Column("since"),
    Column("users", number=True),
)


@SHOW.command()
@click.argument("user", required=False)
@click.option("-t", "--tag", metavar="TAG", default="", help="USER belongs to the pool TAG.")
@name_option
@json_option
@target_options
@click.pass_obj
def status(target: Target, user: str | None, tag: str, is_name: bool, as_json: bool) -> int:
    """Show the hosts, or the host of USER.

    For a USER: Current is the host of the assignment, Hashed the host that the hash selects now, Initial
    config the host that the hash would select with the configuration file alone. A USER of digits only is
    the hash of a user. Exit code 68: USER is a backend host.
    """
    if user is None and (tag or is_name):
        raise click.UsageError("-t and --name need a USER")
    client = target.client()
    if user is not None:
        return _user(client, user, tag, is_name, as_json)
    document = client.get("/v1/status")
    if as_json:
        print_json(document)
        return 0
    info = client.decode(document, StatusInfo)
    for line in head_lines(info):
        print_line(line)
    print_line()
    if any(host.hostname for host in info.hosts):
        print_table((*HOST_COLUMNS[:1], Column("name"), *HOST_COLUMNS[1:]), map(named_host_row, info.hosts))
    else:
        print_table(HOST_COLUMNS, map(host_row, info.hosts))
    return 0


def _user(client: Client, user: str, tag: str, is_name: bool, as_json: bool) -> int:
    query = urlencode({"tag": tag, "numeric": numeric(is_name)})
    document = client.get(f"{user_path(user)}?{query}")
    info = client.decode(document, UserStatus)
    if info.current is None and is_host(client, user):
        print_error(f"{user}: this is a backend host, not a user; `director map {user}` lists its users")
        return EX_NOT_FOUND
    if as_json:
        print_json(document)
        return 0
    # The three lines of `doveadm director status USER`.
    print_line(f"Current: {_current(info)}")
    print_line(f"Hashed: {info.hashed or ''}")
    print_line(f"Initial config: {info.configured or ''}")
    return 0


def _current(info: UserStatus) -> str:
    if info.current is not None:
        return f"{info.current} ({'pinned' if info.pinned else f'expires {moment(info.expires or 0)}'})"
    if info.hashed is not None:
        return f"unassigned, would be assigned to {info.hashed}"
    return f"unassigned, and the pool {info.tag or 'without a tag'} has no usable host"


def host_row(host: HostInfo) -> tuple[object, ...]:
    state = "up" if host.up else "down"
    return host.address, or_dash(host.tag), host.weight, state, moment(host.changed), host.users


def named_host_row(host: HostInfo) -> tuple[object, ...]:
    address, *others = host_row(host)
    return address, or_dash(host.hostname), *others


def head_lines(info: StatusInfo) -> list[str]:
    """A line about the director that answers, then a line for each problem."""
    ring, store = info.ring, info.store
    first, *problems = ring_lines(ring)
    reached = f"store {store.url.partition(':')[0]} {'up' if store.up else 'UNREACHABLE'}"
    lines = [f"{first}, {reached}, {counted(info.users, 'user')}", *problems]
    if not store.up:
        why = (store.error or "no answer").removeprefix(f"{store.url}: ")
        lines.append(
            f"store {store.url}: {why}; {store.queued_buckets} buckets will be written when it is reachable"
        )
    elif not store.loaded:
        lines.append(
            f"reading the store {store.url}: {100 * store.loaded_part:.0f} %, "
            f"{store.loaded_users} users so far"
        )
    lines += [f"ALARM {alarm.text}" for alarm in info.alarms]
    if store.unstored:
        shown, others = store.unstored[:UNSTORED_NAMED], len(store.unstored) - UNSTORED_NAMED
        named = ", ".join(f"{change.what} {change.target}" for change in shown)
        more = f" and {others} more" if others > 0 else ""
        since = moment(store.unstored[0].since)
        lines.append(
            f"NOT STORED yet, since {since}: {named}{more}; lost if all directors stop before it is stored"
        )
    if store.snapshot is not None and not store.snapshot.up:
        since = moment(store.snapshot.written) if store.snapshot.written else "never"
        lines.append(
            f"snapshot {store.snapshot.url}: {store.snapshot.error or 'not open yet'}; last written: {since}"
        )
    return lines
