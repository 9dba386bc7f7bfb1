"""`director reload`: the configuration file read again, or the program replaced in place."""

from __future__ import annotations

import time

import click

from director.cli.client import Client, Denied, Failure
from director.cli.output import complain, say, say_json
from director.cli.target import Target, change_options, json_option
from director.errors import EX_CONFIG, EX_UNAVAILABLE
from director.records import NewReload, ReloadInfo

LOOK = 0.1
"""Seconds between two looks what has become of it."""
REPLACED_WITHIN = 60.0
"""Seconds in which one program has given way to the other, or has not."""


@click.command()
@click.option("--exec", "exec_", is_flag=True, help="Replace the program in place; nobody is cut off.")
@json_option
@change_options
@click.pass_obj
def reload(target: Target, exec_: bool, as_json: bool, dry_run: bool, reason: str) -> int:
    """Read the configuration file again.

    What can change live counts at once; the rest is named. With --exec the program takes its own place, so
    that everything counts, and a new release runs: connections and requests under way go on. Whatever keeps
    the new program from starting is said, and the old one serves on.
    """
    client = target.client()
    body = client.change("POST", "/v1/reload", NewReload(exec=exec_, reason=reason, dry_run=dry_run))
    info = client.decode(body, ReloadInfo)
    if info.state == "under_way":
        body, info = _outcome(client)
    if as_json:
        say_json(body)
    else:
        for line in lines(info, dry_run=dry_run):
            say(line)
    for warning in info.warnings:
        complain(f"warning: {warning}")
    return EX_CONFIG if info.state == "failed" else 0


def _outcome(client: Client) -> tuple[bytes, ReloadInfo]:
    until = time.monotonic() + REPLACED_WITHIN
    while time.monotonic() < until:
        time.sleep(LOOK)
        client.close()
        try:
            body = client.get("/v1/reload")
        except Denied:
            raise
        except Failure:
            continue  # between the two programs
        info = client.decode(body, ReloadInfo)
        if info.state not in ("under_way", "never"):
            return body, info
    raise Failure(
        f"{client.where}: not known after {REPLACED_WITHIN:.0f} s what has become of it; see the log of the "
        "director",
        EX_UNAVAILABLE,
    )


def lines(info: ReloadInfo, *, dry_run: bool = False) -> list[str]:
    """For people."""
    if info.state == "failed":
        return f"nothing has changed, director {info.version} serves on: {info.problem}".splitlines()
    if info.exec and dry_run:
        return ["the program could be replaced"]
    if info.exec:
        return [
            f"director {info.before} has been replaced by {info.version} in {info.seconds:.2f} s; "
            f"logins paused for {info.frozen:.2f} s"
        ]
    would = "would count at once" if dry_run else "counts now"
    found = [f"{name}: {would}" for name in info.applied]
    found += [f"{name}: needs `director reload --exec`" for name in info.needs_exec]
    return found or ["nothing would change" if dry_run else "nothing has changed"]
