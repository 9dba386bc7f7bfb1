"""`director status`: the hosts, or one user."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from director.cli.client import Client
from director.cli.output import Column, moment, or_dash, say, say_json, say_table
from director.cli.ring import ring_lines
from director.cli.target import Target, json_option, target_options
from director.cli.users import user_path
from director.records import HostInfo, StatusInfo, UserStatus

UNSTORED_NAMED = 5
"""Changes that are not stored yet of which the names are shown."""
HOST_COLUMNS = (
    Column("address"),
    Column("tag"),
    Column("weight", number=True),
    Column("state"),
    Column("since"),
    Column("users", number=True),
)


@click.command()
@click.argument("user", required=False)
@click.option("-t", "--tag", metavar="TAG", default="", help="The user with this tag.")
@json_option
@target_options
@click.pass_obj
def status(target: Target, user: str | None, tag: str, as_json: bool) -> None:
    """Hosts and their users; or where USER is.

    A USER of digits only is taken as the hash of a user.
    """
    if user is None and tag:
        raise click.UsageError("-t belongs to a USER")
    client = target.client()
    if user is not None:
        _user(client, user, tag, as_json)
        return
    document = client.get("/v1/status")
    if as_json:
        say_json(document)
        return
    info = client.decode(document, StatusInfo)
    for line in head(info):
        say(line)
    say()
    if any(host.hostname for host in info.hosts):
        say_table((*HOST_COLUMNS[:1], Column("name"), *HOST_COLUMNS[1:]), map(named_host_row, info.hosts))
    else:
        say_table(HOST_COLUMNS, map(host_row, info.hosts))


def _user(client: Client, user: str, tag: str, as_json: bool) -> None:
    document = client.get(user_path(user) + (f"?{urlencode({'tag': tag})}" if tag else ""))
    if as_json:
        say_json(document)
        return
    info = client.decode(document, UserStatus)
    # The original's three lines, down to the -1.
    expires = moment(info.expires) if info.current and info.expires else "-1"
    say(f"Current: {info.current or 'n/a'} (expires {expires})")
    say(f"Hashed: {info.hashed or ''}")
    say(f"Initial config: {info.configured or ''}")


def host_row(host: HostInfo) -> tuple[object, ...]:
    state = "up" if host.up else "down"
    return host.address, or_dash(host.tag), host.weight, state, moment(host.changed), host.users


def named_host_row(host: HostInfo) -> tuple[object, ...]:
    address, *others = host_row(host)
    return address, or_dash(host.hostname), *others


def head(info: StatusInfo) -> list[str]:
    """Who answers and how it is; a line more for each thing that is not as it should be."""
    ring, store = info.ring, info.store
    first, *troubles = ring_lines(ring)
    kept = f"store {store.url.partition(':')[0]} {'up' if store.up else 'AWAY'}"
    lines = [f"{first}, {kept}, {info.users} users", *troubles]
    if not store.up:
        why = (store.error or "no answer").removeprefix(f"{store.url}: ")
        lines.append(f"store {store.url}: {why}; {store.queued_buckets} buckets are written when it returns")
    elif not store.loaded:
        lines.append(
            f"store {store.url} is being read: {100 * store.loaded_part:.0f} %, "
            f"{store.loaded_users} users so far"
        )
    if store.unstored:
        shown, others = store.unstored[:UNSTORED_NAMED], len(store.unstored) - UNSTORED_NAMED
        named = ", ".join(f"{one.what} {one.target}" for one in shown)
        more = f" and {others} more" if others > 0 else ""
        since = moment(store.unstored[0].since)
        lines.append(f"NOT STORED yet, since {since}: {named}{more}; lost if all directors end before")
    if store.snapshot is not None and not store.snapshot.up:
        since = moment(store.snapshot.written) if store.snapshot.written else "never"
        lines.append(
            f"snapshot {store.snapshot.url}: {store.snapshot.error or 'not open yet'}; last written: {since}"
        )
    return lines
