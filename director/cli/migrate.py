"""`director migrate`: bring the layout of the store up to date, or say what that would do."""

from __future__ import annotations

import click
import msgspec

from director.cli.output import say, say_json, size
from director.cli.stores import Chosen, Meter, carried_out, entry, store_options
from director.cli.target import Target, json_option


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--reason", metavar="TEXT", default="", help="Why; kept in the audit.")
@json_option
@store_options
@click.pass_obj
def migrate(target: Target, store: str | None, dry_run: bool, reason: str, as_json: bool) -> None:
    """Bring the layout of the store up to date.

    A director does the same when it starts. Interrupted: run it again.
    """
    from director.statetools.opening import layout_of, migrated, store_at

    chosen, meter = Chosen(target, store), Meter("migrate")
    there = store_at(chosen.place)
    layout = carried_out(lambda: layout_of(there), meter)
    if not as_json:
        whole = "" if layout.size is None else f", {size(layout.size)} bytes"
        say(f"{there.url}: schema {layout.found or 'none'}{whole}; this program knows {layout.known}")
        for step in layout.steps:
            say(f"{'would run' if dry_run else 'runs'} {step.number:04}: {step.title}")
    if layout.steps and not dry_run:
        detail = f"from schema {layout.found} to {layout.known}"
        carried_out(lambda: migrated(there, entry("migrate", detail, reason), meter.say), meter)
    if as_json:
        say_json(msgspec.json.encode({"store": there.url, "dry_run": dry_run, "layout": layout}))
    elif not layout.steps:
        say("nothing to do")
    elif dry_run:
        say("dry run: nothing is changed")
    else:
        say("done")
