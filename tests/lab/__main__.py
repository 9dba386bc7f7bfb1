"""Break the running lab scenario by scenario, with its clients at work, and judge the results: `python -m
tests.lab`.

Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from deploy.lab.client.traffic import LOGIN_TIMEOUT
from tests.lab.changes import Changes
from tests.lab.compose import CommandFailed, Compose
from tests.lab.judge import Verdict, judge, table
from tests.lab.lab import Lab, NotAsItShould
from tests.lab.scenarios import ALL, Scenario

AFTER = 2.0
"""Seconds for which the clients continue after a scenario."""
LOGINS_ENDED = LOGIN_TIMEOUT + 2.0
"""Seconds after the last scenario by which the logins that began in it have ended."""


class Run(NamedTuple):
    """A scenario that was run. It is judged when all its logins have ended."""

    scenario: Scenario
    period: tuple[float, float]
    held: int
    lost: list[str]
    problems: list[str]


def main() -> int:
    names = [scenario.name for scenario in ALL]
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="the scenarios to run, in this order; all by default")
    parser.add_argument("--list", action="store_true", help="print the names of all scenarios, and run none")
    parser.add_argument(
        "--dovecot", choices=("2.3", "2.4"), help="the Dovecot of proxies and backends; default: .env"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE too")
    given = parser.parse_args()
    if given.list:
        print("".join(f"{scenario.name:<18}{scenario.about}\n" for scenario in ALL), end="")
        return 0
    if unknown := set(given.scenario) - set(names):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    chosen = [scenario for scenario in ALL if scenario.name in given.scenario or not given.scenario]
    runs: list[Run] = []
    verdicts: list[Verdict] = []
    broken = False
    try:
        compose = Compose(given.dovecot)
        compose.run("up", "-d", "--no-build")
        lab = Lab(compose, say)
        lab.until_well()
        changes = Changes(lab)
        for scenario in chosen:
            runs.append(attempt(lab, changes, scenario))
        verdicts = judged(lab, runs)
        changes.undo()
    except (CommandFailed, NotAsItShould) as error:
        print(f"the lab does not run as it should: {error}", file=sys.stderr)
        broken = True
    if verdicts:
        print("\n" + table(verdicts), end="")
        print(f"images: {', '.join(compose.image_sizes())}")
    if given.json:
        given.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    return 1 if broken or not all(verdict.right for verdict in verdicts) else 0


def attempt(lab: Lab, changes: Changes, scenario: Scenario) -> Run:
    """Run one scenario."""
    print(f"{scenario.name}: {scenario.about}", flush=True)
    began, held, lost, problems = time.time(), 0, [], []
    try:
        lab.until_well()
        began, held = time.time(), lab.held()
        with lab.moving():
            changes.make()
        lab.until_well()
        scenario.run(lab)
        lab.until_well()
        lost = changes.lost()
        for command in scenario.tidy:
            with lab.moving():
                lab.director(1, *command)
            changes.rebalanced()
    except (CommandFailed, NotAsItShould) as error:
        problems.append(str(error))
    time.sleep(AFTER)
    ended = time.time()
    for problem in problems:
        say(f"WRONG: {problem}")
    if problems:
        lab.repair()
    return Run(scenario, (began, ended), held, lost, problems)


def judged(lab: Lab, runs: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts. A login counts for the scenario in which it began, so all logins must have
    ended."""
    now = time.time()
    if runs:
        time.sleep(max(0.0, runs[-1].period[1] + LOGINS_ENDED - now))
    now, verdicts = time.time(), []
    events, found = lab.events(), lab.sessions(now)
    for run in runs:
        verdict = judge(
            run.scenario.name,
            run.period,
            events,
            found,
            allowed=lab.allowed,
            bound=run.scenario.bound,
            held=run.held,
            lost=run.lost,
        )
        verdict.problems[:0] = run.problems
        for problem in verdict.problems:
            say(f"WRONG: {run.scenario.name}: {problem}")
        verdicts.append(verdict)
    return verdicts


def say(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
