"""`director doctor`: print the problems of this proxy, and how to fix them."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING

import click
import msgspec

from director.cli.client import Failure
from director.cli.output import print_json, print_line
from director.cli.sections import CONFIGURATION
from director.cli.target import Target, json_option, target_options
from director.errors import EX_CONFIG
from director.records import StatusInfo
from director.version import VERSION

if TYPE_CHECKING:
    from director.doctor.findings import Finding

WIDTH = 80
SKEW = re.compile(r'^director_clock_skew_seconds\{member="([^"]*)"\} (\S+)$', re.MULTILINE)
KICKS = re.compile(r'^director_kicks_total\{result="([^"]*)"\} (\S+)$', re.MULTILINE)
MARKS = {"ok": "ok     ", "hint": "hint   ", "unseen": "unseen ", "warning": "WARNING", "fault": "FAULT  "}


@CONFIGURATION.command()
@click.option(
    "--doveconf",
    "file",
    metavar="FILE",
    help="Check this output of `doveconf -n` from another machine (- is stdin).",
)
@click.option("--conf", metavar="FILE", help="Read Dovecot's configuration from FILE.")
@click.option("--user", metavar="USER", help="Look up USER too, as lmtp does; this assigns USER.")
@click.option("-a", "--all", "everything", is_flag=True, help="Show the checks that passed too.")
@json_option
@target_options
@click.pass_obj
def doctor(
    target: Target, file: str | None, conf: str | None, user: str | None, everything: bool, as_json: bool
) -> int:
    """Check this proxy: Dovecot, sockets, rights, kicks, ring, store.

    Prints each problem, its effect, and how to fix it. Nothing is changed. Run it as root: other users cannot
    read the folder login/. Exit code 78: there is a fault.
    """
    from director.doctor import configuration, daemon, sockets, units
    from director.doctor.findings import FAULT, worst
    from director.doctor.gatherer import gather_facts, lookup_answer, read_doveconf, run_doveconf
    from director.service.configuration.configfile import load

    config = load(target.config_path, os.environ)
    status, problem, metrics = _status(target)
    dovecot = (read_doveconf(file), "") if file is not None else run_doveconf(conf)
    facts = gather_facts(
        config,
        dovecot,
        here=file is None,
        status=status,
        problem=problem,
        version=VERSION,
        skew=_by_label(SKEW, metrics),
        kicks=_by_label(KICKS, metrics),
    )
    findings = [
        *configuration.check(facts),
        *sockets.check(facts),
        *units.check(facts),
        *daemon.check(facts),
    ]
    if user is not None:
        findings += daemon.answer(user, lookup_answer(facts.settings.userdb, user))
    if as_json:
        print_json(msgspec.json.encode({"worst": worst(findings), "findings": findings}))
    else:
        _print(findings, everything)
    return EX_CONFIG if worst(findings) == FAULT else 0


def _status(target: Target) -> tuple[StatusInfo | None, str, str]:
    """The director's status, why there is none, and the director's metrics. Without an answer, no metrics."""
    try:
        client = target.client()
        status = client.decode(client.get("/v1/status"), StatusInfo)
        return status, "", client.get("/metrics").decode()
    except Failure as error:
        return None, str(error), ""


def _by_label(pattern: re.Pattern[str], metrics: str) -> dict[str, float]:
    return {label: float(value) for label, value in pattern.findall(metrics)}


def _print(findings: list[Finding], everything: bool) -> None:
    area = ""
    order = list(dict.fromkeys(finding.area for finding in findings))
    for finding in sorted(findings, key=lambda finding: order.index(finding.area)):
        if finding.level == "ok" and not everything:
            continue
        if finding.area != area:
            if area:
                print_line()
            area = finding.area
            print_line(area)
        for line in _lines(finding):
            print_line(line)
    counts = {level: sum(finding.level == level for finding in findings) for level in MARKS}
    totals = ", ".join(f"{counts[level]} {word}" for level, word in _words(counts) if counts[level])
    if area:
        print_line()
    print_line(f"{totals}.")
    if counts["ok"] and not everything:
        print_line("`director doctor --all` shows the checks that passed.")


def _words(counts: dict[str, int]) -> list[tuple[str, str]]:
    def plural(level: str, word: str) -> tuple[str, str]:
        return level, word if counts[level] == 1 else f"{word}s"

    return [
        plural("fault", "fault"),
        plural("warning", "warning"),
        ("unseen", "unseen"),
        plural("hint", "hint"),
        ("ok", "passed"),
    ]


def _lines(finding: Finding) -> list[str]:
    mark, indent = MARKS[finding.level], " " * 10
    lines = _wrapped(finding.found, first=f"  {mark} ", indent=indent)
    if finding.why:
        lines += _wrapped(f"{finding.why}.", first=indent, indent=indent)
    return lines + [f"{indent}    {line}" for line in finding.fix]


def _wrapped(text: str, *, first: str, indent: str) -> list[str]:
    # A path is not broken at hyphens: operators copy it.
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
