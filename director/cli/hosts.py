"""Commands that change backend hosts, and `director dump` that writes such commands."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import quote, urlencode

import click

from director.cli.client import EX_INTERRUPTED, Client, Denied, Failure
from director.cli.numbers import NumberCommand, Weight
from director.cli.output import print_error, print_json, print_line
from director.cli.progress import DRY, counted, print_host_warnings, unpinned
from director.cli.sections import HOSTS, SHOW
from director.cli.target import Target, change_options, force_option, json_option, target_options
from director.errors import EX_NOT_FOUND
from director.records import Change, Dump, HostInfo, HostPatch, NewHost, UsersChange

HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""Host names that a resolver accepts."""


@HOSTS.command(cls=NumberCommand)
@click.argument("host", metavar="HOST[@TAG]")
@click.argument("weight", type=Weight(), required=False)
@click.option("-t", "--tag", metavar="TAG", help="Give a new host this tag; the same as HOST@TAG.")
@change_options
@click.pass_obj
def add(target: Target, host: str, weight: int | None, tag: str | None, dry_run: bool, reason: str) -> int:
    """Add HOST, or set the WEIGHT of a HOST that exists.

    WEIGHT is the number of vhosts, 0 to 1000: the share of new users. Without it a new host gets the
    configured weight.
    """
    name, at, suffix = host.partition("@")
    if at and tag is not None and tag != suffix:
        raise click.UsageError(f"two tags: {suffix!r} in {host!r}, and -t {tag!r}")
    wanted = suffix if at else tag

    def add_host(client: Client, address: str) -> bytes:
        body = NewHost(address=address, tag=wanted, weight=weight, reason=reason, dry_run=dry_run)
        return client.change("POST", "/v1/hosts", body)

    return _each(target, name, add_host)


@HOSTS.command(cls=NumberCommand)
@click.argument("host")
@click.argument("weight", type=Weight())
@force_option
@change_options
@click.pass_obj
def update(target: Target, host: str, weight: int, force: bool, dry_run: bool, reason: str) -> int:
    """Set the WEIGHT of HOST, 0 to 1000.

    WEIGHT is the number of vhosts: the share of new users. A host of weight 0 keeps its users and gets no
    new users.
    """
    return _patch(target, host, HostPatch(weight=weight, reason=reason, dry_run=dry_run, force=force))


@HOSTS.command()
@click.argument("host")
@change_options
@click.pass_obj
def up(target: Target, host: str, dry_run: bool, reason: str) -> int:
    """Assign new users to HOST again."""
    return _patch(target, host, HostPatch(up=True, reason=reason, dry_run=dry_run))


@HOSTS.command()
@click.argument("host")
@change_options
@click.pass_obj
def down(target: Target, host: str, dry_run: bool, reason: str) -> int:
    """Stop assigning new users to HOST.

    Assigned users stay: `flush` moves them to other hosts.
    """
    return _patch(target, host, HostPatch(up=False, reason=reason, dry_run=dry_run))


@HOSTS.command()
@click.argument("host")
@force_option
@change_options
@click.pass_obj
def remove(target: Target, host: str, force: bool, dry_run: bool, reason: str) -> int:
    """Remove HOST, and end the sessions of its users.

    The assignments of these users are removed. Pins on HOST are removed too; their number is printed. The
    next login of each user is assigned to another host.
    """
    query = {"reason": reason, "dry_run": str(dry_run).lower()} | ({"force": "true"} if force else {})

    def remove_host(client: Client, address: str) -> bytes:
        return client.change("DELETE", f"{host_path(address)}?{urlencode(query)}")

    return _each(target, host, remove_host)


@SHOW.command()
@json_option
@target_options
@click.pass_obj
def dump(target: Target, as_json: bool) -> None:
    """Print the commands that rebuild the present hosts and pins.

    Run the commands on a director with the same configuration. A line that begins with # is a comment about a
    pinned user whose name is not known.
    """
    client = target.client()
    document = client.get("/v1/dump")
    if as_json:
        print_json(document)
        return
    for command in client.decode(document, Dump).commands:
        print_line(command)


def addresses_of(host: str) -> list[str]:
    """The addresses of a host name in the resolver's order; for an address, the address.

    Raises:
        click.UsageError: the text is neither an address nor a host name.
        Failure: the name cannot be resolved.
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    if host.startswith("[") and host.endswith("]"):
        return addresses_of(host[1:-1])
    if "@" in host:
        raise click.UsageError(f"{host!r}: only `add` takes HOST@TAG; give {host.partition('@')[0]!r}")
    # The resolver would read "100" as 0.0.0.100.
    if not HOST_NAME.fullmatch(host) or re.fullmatch(r"[\d.]*", host):
        raise click.UsageError(f"{host!r} is neither an address nor a host name")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a possible name"
        raise Failure(f"{host}: cannot be resolved ({why}); give an address", EX_NOT_FOUND) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def hosts_of(client: Client, host: str) -> list[str]:
    """The addresses of the director's hosts with this name; if there are none, those from the resolver."""
    if not re.search(r"[A-Za-z]", host) or ":" in host:
        return addresses_of(host)
    hosts = client.decode(client.get("/v1/hosts"), list[HostInfo])
    return [info.address for info in hosts if info.hostname == host] or addresses_of(host)


def is_host(client: Client, text: str) -> bool:
    """Whether the director has a host with this address or name."""
    hosts = client.decode(client.get("/v1/hosts"), list[HostInfo])
    return any(text in (info.address, info.hostname) for info in hosts)


def host_path(address: str) -> str:
    return f"/v1/hosts/{quote(address, safe='')}"


def _patch(target: Target, host: str, body: HostPatch) -> int:
    return _each(target, host, lambda client, address: client.change("PATCH", host_path(address), body))


def _each(target: Target, host: str, change: Callable[[Client, str], bytes]) -> int:
    def change_host(client: Client, address: str) -> int:
        _print_change(address, client.decode(change(client, address), Change))
        return 0

    return each_address(target, host, change_host)


def each_address(target: Target, host: str, act: Callable[[Client, str], int]) -> int:
    """Call `act` for each address of `host`, in order, until a call is interrupted.

    Args:
        act: gets the client and an address, and returns an exit code.

    Returns:
        The exit code of the first call that failed, or 0. EX_INTERRUPTED if a call was interrupted.
    """
    client = target.client()
    code = 0
    for address in hosts_of(client, host):
        try:
            ended = act(client, address)
        except Denied as error:
            text = str(error)
            print_error(text if address in text else f"{address}: {text}")
            ended = error.exit_code
        if ended == EX_INTERRUPTED:
            return ended
        code = code or ended
    return code


def _print_change(address: str, change: Change) -> None:
    host = change.host
    if host is not None:
        tag = f"@{host.tag}" if host.tag else ""
        have = "would have weight" if change.dry_run else "weight"
        text = f"{host.address}{tag}: {have} {host.weight}, {'up' if host.up else 'down'}"
    elif change.dry_run:
        users = change.users or UsersChange(dry_run=True, kicked=None)
        become = "have no host" if change.without_host else "get another host"
        text = f"{address}: would be removed, {counted(users.moved, 'user')} would {become}"
        text += f", ending {counted(users.kicked, 'session')}{unpinned(change.unpinned, dry_run=True)}"
    else:
        text = f"{address}: removed{unpinned(change.unpinned, dry_run=False)}"
    print_line(f"{text}{DRY}" if change.dry_run else text)
    print_host_warnings(address, change)
