"""`director reload`: read the configuration file again, or replace the program in place."""

from __future__ import annotations

import time

import click

from director.cli.client import Client, Denied, Failure
from director.cli.output import print_error, print_json, print_line
from director.cli.sections import RUN
from director.cli.target import Target, change_options, json_option
from director.errors import EX_CONFIG, EX_UNAVAILABLE
from director.records import NewReload, ReloadInfo

POLL = 0.1
"""Seconds between two requests for the outcome."""
REPLACED_WITHIN = 60.0
"""Seconds after which a replacement in place must have succeeded or failed."""


@RUN.command()
@click.option("--exec", "exec_", is_flag=True, help="Replace the program in place; no login fails.")
@json_option
@change_options
@click.pass_obj
def reload(target: Target, exec_: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Read the configuration file again.

    Settings that can change at run time apply immediately; the others are listed. With --exec the program is
    replaced in place: all settings apply, and a new release runs. Connections and requests continue. If the
    new program cannot start, the reason is printed and the old program continues.
    """
    client = target.client()
    body = client.change("POST", "/v1/reload", NewReload(exec=exec_, reason=reason, dry_run=dry_run))
    info = client.decode(body, ReloadInfo)
    if info.state == "under_way":
        body, info = _outcome(client)
    if as_json:
        print_json(body)
    else:
        for line in lines(info, dry_run=dry_run):
            print_line(line)
    for warning in info.warnings:
        print_error(f"warning: {warning}")
    return EX_CONFIG if info.state == "failed" else 0


def _outcome(client: Client) -> tuple[bytes, ReloadInfo]:
    until = time.monotonic() + REPLACED_WITHIN
    while time.monotonic() < until:
        time.sleep(POLL)
        client.close()
        try:
            body = client.get("/v1/reload")
        except Denied:
            raise
        except Failure:
            continue  # no program accepts connections during the replacement
        info = client.decode(body, ReloadInfo)
        if info.state not in ("under_way", "never"):
            return body, info
    raise Failure(
        f"{client.where}: no outcome after {REPLACED_WITHIN:.0f} s; see the log of the director",
        EX_UNAVAILABLE,
    )


def lines(info: ReloadInfo, *, dry_run: bool = False) -> list[str]:
    """The outcome of a reload as lines of text."""
    if info.state == "failed":
        return f"nothing has changed, director {info.version} continues: {info.problem}".splitlines()
    if info.exec and dry_run:
        return ["the program could be replaced"]
    if info.exec:
        return [
            f"director {info.before} has been replaced by {info.version} in {info.seconds:.2f} s; "
            f"logins paused for {info.paused:.2f} s"
        ]
    would = "would apply immediately" if dry_run else "applied"
    found = [f"{name}: {would}" for name in info.applied]
    found += [f"{name}: needs `director reload --exec`" for name in info.needs_exec]
    return found or ["nothing would change" if dry_run else "nothing has changed"]
