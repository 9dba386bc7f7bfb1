"""`director ring …`: show and change the directors of the ring."""

from __future__ import annotations

import time
from urllib.parse import quote, urlencode

import click

from director.cli.client import Client
from director.cli.groups import CommandGroup
from director.cli.numbers import NumberCommand
from director.cli.output import Column, or_dash, print_error, print_json, print_line, print_table, since, size
from director.cli.progress import DRY, NOT_STORED, counted
from director.cli.sections import SHOW
from director.cli.target import Target, change_options, json_option, target_options
from director.records import MemberInfo, NewMember, RingInfo

MEMBER_COLUMNS = (
    Column("director"),
    Column("type"),
    Column("ms", number=True),
    Column("in", number=True),
    Column("out", number=True),
    Column("idle", number=True),
    Column("status"),
)


@SHOW.group(cls=CommandGroup)
def ring() -> None:
    """Show, add or remove directors."""


@ring.command()
@json_option
@target_options
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """Show the directors and the connections with them.

    ms: duration of the last ping; for the director that answers, of the last sync. in, out: bytes on the
    connection. idle: time since something was received.
    """
    client = target.client()
    document = client.get("/v1/ring")
    if as_json:
        print_json(document)
        return
    info = client.decode(document, RingInfo)
    for line in ring_lines(info):
        print_line(line)
    print_line()
    now = time.time()
    if any(member.name for member in info.members):
        columns = (*MEMBER_COLUMNS[:1], Column("name"), *MEMBER_COLUMNS[1:])
        print_table(columns, (named_member_row(member, now) for member in info.members))
    else:
        print_table(MEMBER_COLUMNS, (member_row(member, now) for member in info.members))


@ring.command(cls=NumberCommand)
@click.argument("address", metavar="ADDR|NAME[:PORT]")
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@json_option
@change_options
@click.pass_obj
def add(target: Target, address: str, port: int | None, as_json: bool, dry_run: bool, reason: str) -> None:
    """Add the director at ADDR to the list of ring members.

    It joins the ring when it runs and has the ring's secret. Without PORT, the port of the director that
    answers is taken. A NAME is stored as a name: its address may change later.
    """
    client = target.client()
    body = NewMember(address=address, port=port, reason=reason, dry_run=dry_run)
    document = client.change("POST", "/v1/ring/members", body)
    _print_ring(client, document, _joined(address, port), "added", as_json, dry_run)


@ring.command(cls=NumberCommand)
@click.argument("address", metavar="ADDR|NAME[:PORT]")
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@json_option
@change_options
@click.pass_obj
def remove(target: Target, address: str, port: int | None, as_json: bool, dry_run: bool, reason: str) -> None:
    """Remove the director at ADDR from the list of ring members.

    If it still runs, it learns of this and refuses all logins: stop its proxy first. Without PORT, the first
    director with that address is removed. Exit code 68: it is not listed.
    """
    client = target.client()
    query = urlencode({"reason": reason, "dry_run": str(dry_run).lower()})
    path = f"/v1/ring/members/{quote(_joined(address, port), safe='')}?{query}"
    _print_ring(client, client.change("DELETE", path), _joined(address, port), "removed", as_json, dry_run)


def _joined(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _print_ring(
    client: Client, document: bytes, member: str, done: str, as_json: bool, dry_run: bool
) -> None:
    if as_json:
        print_json(document)
        return
    info = client.decode(document, RingInfo)
    missing = f", not in the ring: {', '.join(info.missing)}" if info.missing else ""
    listed = counted(len(info.ring) + len(info.missing), "director")
    print_line(
        f"{member} {'would be ' if dry_run else ''}{done}: {listed} listed{missing}{DRY if dry_run else ''}"
    )
    if not info.stored:
        print_error(f"{member} {done}: {NOT_STORED}")


def ring_lines(info: RingInfo) -> list[str]:
    """A line about the director that answers and its ring, then a line for each problem."""
    if info.removed:
        fix = f"run `director ring add {info.me}` on another director to add it again"
        return [f"director {info.me}", f"REMOVED from the ring: logins are refused; {fix}"]
    together = f"ring of {len(info.ring)}" if len(info.ring) > 1 else "alone"
    lines = [f"director {info.me}, {together}, {'in sync' if info.synced else 'NOT in sync'}"]
    lost = [member for member in info.missing if member not in info.stopped]
    if lost:
        lines.append(f"not in the ring: {', '.join(lost)}")
    if info.stopped:
        lines.append(f"stopped: {', '.join(info.stopped)}")
    lines += waiting_lines(info)
    if info.moves_in_progress:
        lines.append(f"{counted(info.moves_in_progress, 'user')} being moved")
    return lines


WAITING_FOR = {
    "ring": "the ring to be in sync",
    "majority": "missing directors: this is the minority side",
    "host": "a usable host of their pool",
    "move": "the move of their user to end",
    "tag": "the move of their user: its host has another tag now",
    "address": "the address of their host",
    "store": "the store to be read",
    "memory": "the comparison with a neighbour or the store",
    "expiry": "the other directors: the assignment of their user is about to expire",
}
"""The text for each reason of the API."""


def waiting_lines(info: RingInfo) -> list[str]:
    """Lines such as `12 logins wait for the ring to be in sync`, one for each reason."""
    known = info.waiting_for or {"": info.waiting_logins}
    return [
        f"{counted(number, 'login')} {'waits' if number == 1 else 'wait'}"
        f"{f' for {WAITING_FOR.get(word, word)}' if word else ''}"
        for word, number in known.items()
        if number
    ]


def named_member_row(member: MemberInfo, now: float) -> tuple[object, ...]:
    address, *others = member_row(member, now)
    return address, or_dash(member.name), *others


def member_row(member: MemberInfo, now: float) -> tuple[object, ...]:
    host = f"[{member.address}]" if ":" in member.address else member.address
    return (
        f"{host}:{member.port}",
        or_dash(member.kind),
        or_dash(member.sync_ms),
        size(member.bytes_in),
        size(member.bytes_out),
        since(member.last_read, now),
        member.status or (f"failed {since(member.last_failed, now)} ago" if member.last_failed else "-"),
    )
