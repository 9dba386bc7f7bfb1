"""`director ring …`: the directors."""

from __future__ import annotations

import time

import click

from director.cli.groups import Commands
from director.cli.output import Column, or_dash, say, say_json, say_table, since, size
from director.cli.target import Target, json_option, target_options
from director.records import MemberInfo, RingInfo

MEMBER_COLUMNS = (
    Column("director"),
    Column("type"),
    Column("ms", number=True),
    Column("in", number=True),
    Column("out", number=True),
    Column("idle", number=True),
    Column("status"),
)


@click.group(cls=Commands)
def ring() -> None:
    """The directors of the ring."""


@ring.command()
@json_option
@target_options
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """The directors and the connections with them.

    ms: the last ping, of the asked director its last sync. in, out: bytes on the connection. idle: since it
    was last read from.
    """
    client = target.client()
    document = client.get("/v1/ring")
    if as_json:
        say_json(document)
        return
    info = client.decode(document, RingInfo)
    for line in ring_lines(info):
        say(line)
    say()
    now = time.time()
    say_table(MEMBER_COLUMNS, (member_row(member, now) for member in info.members))


def ring_lines(info: RingInfo) -> list[str]:
    """Who answers and how its ring is; a line more for each thing that is not as it should be."""
    together = f"ring of {len(info.ring)}" if len(info.ring) > 1 else "alone"
    lines = [f"director {info.me}, {together}, {'in sync' if info.synced else 'NOT in sync'}"]
    if info.missing:
        lines.append(f"not in the ring: {', '.join(info.missing)}")
    if info.waiting_logins:
        lines.append(f"{info.waiting_logins} logins wait for the ring")
    return lines


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
