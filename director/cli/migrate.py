"""`director migrate`: bring the layout of the store up to date, or print what that would change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from director.cli.output import print_error, print_json, print_line, size
from director.cli.progress import counted
from director.cli.sections import STORE
from director.cli.stores import Chosen, Meter, entry, run_work, store_options
from director.cli.target import Target, json_option

if TYPE_CHECKING:
    from state.base import Layout, StateStore


@STORE.command()
@click.option("--dry-run", is_flag=True, help="Print what would change; change nothing.")
@click.option("--reason", metavar="TEXT", default="", help="Write this reason to the audit.")
@json_option
@store_options
@click.pass_obj
def migrate(target: Target, store: str | None, dry_run: bool, reason: str, as_json: bool) -> None:
    """Bring the layout of the store up to date.

    Also splits buckets that are too large. A director does both, when it starts and when it writes. If
    this command is interrupted, run it again.
    """
    from director.statetools.places import layout_of, migrated, problems, readable, store_at
    from director.statetools.splits import SplitResult, split_large

    chosen, meter = Chosen(target, store), Meter("migrate")

    async def read_layout() -> tuple[StateStore, Layout]:
        if dry_run:
            return await readable(chosen.place)
        store = store_at(chosen.place)
        return store, await layout_of(store)

    place, layout = run_work(read_layout, meter)
    if not as_json:
        whole = "" if layout.size is None else f", {size(layout.size)} bytes"
        print_line(f"{place.url}: schema {layout.found or 'none'}{whole}; this program knows {layout.known}")
        for step in layout.steps if dry_run or not layout.held_by else ():
            print_line(f"{'would run' if dry_run else 'runs'} {step.number:04}: {step.title}")

    async def bring_up() -> SplitResult:
        try:
            await migrated(place, layout, lambda detail: entry("migrate", detail, reason), meter.show_text)
            with problems():
                done = await split_large(place, meter, dry_run=dry_run)
                if not dry_run and (done.users or done.names):
                    detail = f"split {done.users} buckets of users and {done.names} of names"
                    await place.append_audit([entry("migrate", detail, reason)])
            return done
        finally:
            await place.close()

    split = SplitResult()
    if not dry_run or not layout.steps:
        split = run_work(bring_up, meter)
    if as_json:
        document = {"store": place.url, "dry_run": dry_run, "layout": layout, "split": split}
        print_json(msgspec.json.encode(document))
        return
    for space, number in (("users", split.users), ("names", split.names)):
        if number:
            print_line(f"{'would split' if dry_run else 'split'} {counted(number, 'bucket')} of {space}")
    for damaged in split.damaged:
        print_error(
            f"{damaged} is too large, but damaged and not split: run `director state verify --fix`, then "
            "`director migrate` again"
        )
    if dry_run:
        if layout.held_by:
            print_line(
                f"would run only after these directors are upgraded or stopped: {', '.join(layout.held_by)}"
            )
        print_line("dry run: nothing is changed")
    elif layout.steps or split.users or split.names:
        print_line("done")
    else:
        print_line("nothing to do")
