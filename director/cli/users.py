"""`director map`: users and their hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote, urlencode

import click
import msgspec

from director.cli.client import Client, Failure
from director.cli.hosts import hosts_of
from director.cli.output import Column, PlainTable, moment, or_dash, write
from director.cli.sections import SHOW
from director.cli.target import Target, json_option, target_options
from director.errors import EX_DATA
from director.records import HostInfo, UserInfo, UserStatus

Names = dict[int, list[str]]
"""User names by hash."""


@SHOW.command("map")
@click.argument("host", required=False)
@click.option(
    "-f", "--file", "file", metavar="FILE", help="Read user names from FILE, one a line; - is stdin."
)
@json_option
@target_options
@click.pass_obj
def map_users(target: Target, host: str | None, file: str | None, as_json: bool) -> None:
    """List users and their hosts, or the users of HOST.

    Names are kept with the assignments, unless users.remember_names is off; -f adds names that are not kept.
    """
    client = target.client()
    hosts = [None] if host is None else hosts_of(client, host)
    names = _hashed(client, _read_names(file)) if file is not None else {}
    pages = (page for address in hosts for page in _pages(client, address))
    named = ([info for user in page for info in with_names(user, names)] for page in pages)
    if as_json:
        _write_json(named)
        return
    known_hosts = client.decode(client.get("/v1/hosts"), list[HostInfo])
    backends = {info.address: info.hostname for info in known_hosts if info.hostname}
    columns = [Column("user"), Column("hash", number=True), Column("host"), Column("expires")]
    if backends:
        columns.insert(3, Column("name"))
    table = PlainTable(*columns)
    for page in named:
        rows = (_row(user, backends) for user in page)
        write("".join(f"{line}\n" for line in table.lines(rows)))


def _row(user: UserInfo, backends: dict[str, str]) -> list[object]:
    """The cells of one user.

    Args:
        backends: names of hosts by address. If it is empty, the table has no column of names.
    """
    expires = "pinned" if user.pinned else moment(user.expires)
    row: list[object] = [user.name or "<unknown>", user.hash, user.host, expires]
    if backends:
        row.insert(3, or_dash(backends.get(user.host)))
    return row


def with_names(user: UserInfo, names: Names) -> list[UserInfo]:
    """The user with the name that the director has, else a copy for each of `names` with the user's hash."""
    if user.name is not None or user.hash not in names:
        return [user]
    return [msgspec.structs.replace(user, name=name) for name in names[user.hash]]


name_option = click.option(
    "--name", "is_name", is_flag=True, help="USER is a name, not a hash, even if it has digits only."
)


def numeric(is_name: bool) -> Literal["hash", "name"]:
    """How the API reads a USER of digits only."""
    return "name" if is_name else "hash"


def user_path(name: str) -> str:
    """The path of a user in the API.

    Raises:
        click.UsageError: the name is empty.
    """
    if not name:
        raise click.UsageError("the user name is empty")
    # Bytes from the shell need not be UTF-8. They are sent as they are; the director refuses them.
    return f"/v1/users/{quote(name, safe='', errors='surrogateescape')}"


def _pages(client: Client, host: str | None) -> Iterator[list[UserInfo]]:
    path: str | None = "/v1/users" + (f"?{urlencode({'host': host})}" if host else "")
    while path is not None:
        document, path = client.page(path)
        yield client.decode(document, list[UserInfo])


def _read_names(file: str) -> list[str]:
    try:
        with click.open_file(file, encoding="utf-8") as lines:
            return [name for line in lines if (name := line.rstrip("\r\n"))]
    except OSError as error:
        raise Failure(f"-f {file}: cannot be read ({error.strerror})", EX_DATA) from None
    except UnicodeDecodeError:
        raise Failure(f"-f {file}: not UTF-8; one user name a line is expected", EX_DATA) from None


def _hashed(client: Client, names: list[str]) -> Names:
    """The names by hash. Only the director knows how it hashes names, so it is asked for each name."""
    by_hash: Names = defaultdict(list)
    for name in dict.fromkeys(names):
        user = client.decode(client.get(f"{user_path(name)}?numeric=name"), UserStatus)
        by_hash[user.hash].append(name)
    return by_hash


def _write_json(pages: Iterator[list[UserInfo]]) -> None:
    """Write one list, page by page: a million users need not fit in memory."""
    separator = "[\n"
    for page in pages:
        for user in page:
            write(separator + msgspec.json.encode(user).decode())
            separator = ",\n"
    write("[]\n" if separator == "[\n" else "\n]\n")
