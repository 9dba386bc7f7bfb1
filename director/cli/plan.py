"""`director plan`: the changes that a configuration file would make in the cluster."""

from __future__ import annotations

import os

import click

from director.cli.output import Column, moment, or_dash, print_error, print_json, print_line, print_table
from director.cli.sections import CONFIGURATION
from director.cli.target import Target, json_option, target_options
from director.records import ConfiguredHost, NewPlan, Plan, PlannedChange

COLUMNS = (Column("host"), Column("what"), Column("now"), Column("file"), Column("outcome"))


@CONFIGURATION.command()
@json_option
@target_options
@click.pass_obj
def plan(target: Target, as_json: bool) -> None:
    """Print what the configuration file would change in the cluster.

    The running director compares the file with the configuration that it last applied, and with the changes
    made at run time since then. Nothing is changed.
    """
    from director.service.configuration.configfile import load

    config = load(target.config_path, os.environ)
    for text in config.unresolved:
        print_error(f"warning: {text}: hosts with this name stay as they are")
    hosts, unresolved = (
        [
            ConfiguredHost(
                address=setting.address, hostname=setting.hostname, tag=setting.tag, weight=setting.weight
            )
            for setting in settings
        ]
        for settings in (config.backends.mail_servers, config.backends.unresolved)
    )
    client = target.client()
    document = client.change("POST", "/v1/plan", NewPlan(hosts=hosts, unresolved=unresolved))
    if as_json:
        print_json(document)
        return
    found = client.decode(document, Plan)
    if found.changes:
        print_table(COLUMNS, map(_row, found.changes))
        print_line()
    for line in _summary(found):
        print_line(line)
    for warning in found.warnings:
        print_error(f"warning: {warning}")


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
    return "stays: another director's file has it"


def _summary(found: Plan) -> list[str]:
    made = sum(change.outcome == "made" for change in found.changes)
    lines = []
    if not found.known:
        lines.append(
            f"{found.me} does not know which configuration it last applied: its store keeps nothing, or is "
            "unreachable. The file would decide everything that no operator has changed at run time."
        )
    if not made:
        return [*lines, "Nothing to do."]
    changes = "1 change" if made == 1 else f"{made} changes"
    return [
        *lines,
        f"{changes} in the whole cluster when the first director reloads or restarts with this file. Copy it "
        "to all directors, then reload one after the other.",
    ]
