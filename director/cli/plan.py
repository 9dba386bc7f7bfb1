"""`director plan`: what the configuration file would change in the cluster, before it happens."""

from __future__ import annotations

import os

import click

from director.cli.output import Column, complain, moment, or_dash, say, say_json, say_table
from director.cli.target import Target, json_option, target_options
from director.records import ConfiguredHost, NewPlan, Plan, PlannedChange

COLUMNS = (Column("host"), Column("what"), Column("now"), Column("file"), Column("outcome"))


@click.command()
@json_option
@target_options
@click.pass_obj
def plan(target: Target, as_json: bool) -> None:
    """Say what the configuration file would change in the cluster.

    The file is read as it is now; the running director compares it with what it last applied, and with what
    was changed at run time since. Nothing is changed.
    """
    from director.service.configuration.config import load

    config = load(target.config_path, os.environ)
    for text in config.unresolved:
        complain(f"warning: {text}: what is known of it stays")
    hosts, unresolved = (
        [
            ConfiguredHost(address=one.address, hostname=one.hostname, tag=one.tag, weight=one.weight)
            for one in settings
        ]
        for settings in (config.backends.mail_servers, config.backends.unresolved)
    )
    client = target.client()
    document = client.change("POST", "/v1/plan", NewPlan(hosts=hosts, unresolved=unresolved))
    if as_json:
        say_json(document)
        return
    found = client.decode(document, Plan)
    if found.changes:
        say_table(COLUMNS, map(_row, found.changes))
        say()
    for line in _summary(found):
        say(line)
    for warning in found.warnings:
        complain(f"warning: {warning}")


def _row(change: PlannedChange) -> tuple[object, ...]:
    return change.address, change.what, or_dash(change.now), or_dash(change.file), _outcome(change)


def _outcome(change: PlannedChange) -> str:
    if change.outcome == "made":
        if change.what == "address":
            return "moved"
        if change.what != "host":
            return "changed"
        return "added" if change.file else "removed"
    if change.decided:
        return f"stays: changed at run time, {moment(change.decided)}"
    return "stays: another director's file says so"


def _summary(found: Plan) -> list[str]:
    made = sum(change.outcome == "made" for change in found.changes)
    lines = []
    if not found.known:
        lines.append(
            f"What {found.me} last applied is not known: its store keeps nothing, or is away. "
            "The file decides everything that no operator has changed at run time."
        )
    if not made:
        return [*lines, "Nothing to do."]
    changes = "1 change" if made == 1 else f"{made} changes"
    return [
        *lines,
        f"{changes} in the whole cluster as soon as a director reloads or restarts with this file; give it "
        "to all directors, then reload one after the other.",
    ]
