"""The lab with the other kinds of Redis, and with Prometheus: `python -m tests.lab.profiles`.

For each kind a new lab is started; users log in; an operator makes a change; all directors are killed and
started; nothing may be lost. If Prometheus runs, it must see every director. At the end the lab of .env is
started again, empty. Exit code 1 if anything was wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import NamedTuple

from tests.lab.changes import Changes
from tests.lab.compose import CommandFailed, Compose
from tests.lab.lab import EVENTS, HEALTHY_WITHIN, POLL, Lab, NotAsItShould

EVERY = "single,sentinel,cluster,metrics,fourth"
DIRECTORS = ("director1", "director2", "director3")


class Profile(NamedTuple):
    name: str
    store: str
    """The beginning of the URL of the directors' store."""

    @property
    def metrics(self) -> bool:
        return "metrics" in self.name.split(",")


PROFILES = (Profile("single,metrics", "redis://"), Profile("cluster", "redis+cluster://"))


def main() -> int:
    before = os.environ.get("COMPOSE_PROFILES")
    wrong = 0
    try:
        for profile in PROFILES:
            began = time.monotonic()
            try:
                done = attempt(profile)
            except (CommandFailed, NotAsItShould) as error:
                wrong += 1
                print(f"{profile.name}: WRONG: {error}", flush=True)
            else:
                print(f"{profile.name}: right, {done} logins, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        os.environ["COMPOSE_PROFILES"] = EVERY
        Compose().run("down", "--volumes", "--remove-orphans")
        os.environ.pop("COMPOSE_PROFILES")
        if before is not None:
            os.environ["COMPOSE_PROFILES"] = before
        Compose().run("up", "-d", "--no-build")
    return 1 if wrong else 0


def attempt(profile: Profile) -> int:
    """Try a profile, and return how many logins were made. Raises CommandFailed, NotAsItShould."""
    os.environ["COMPOSE_PROFILES"] = EVERY
    Compose().run("down", "--volumes", "--remove-orphans")
    os.environ["COMPOSE_PROFILES"] = profile.name
    compose = Compose()
    compose.run("up", "-d", "--build")
    _wait_for_events(compose)
    lab = Lab(compose, lambda text: print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True))
    lab.until_well()
    url = lab.ask(1, "/v1/status")["store"]["url"]
    if not url.startswith(profile.store):
        raise NotAsItShould(f"the directors' store is {url}")
    changes = Changes(lab)
    changes.make()
    lab.until("what was changed is stored", lambda: _stored(lab))
    compose.kill(*DIRECTORS)
    compose.start(*DIRECTORS)
    lab.until_well()
    if lost := changes.lost():
        raise NotAsItShould(f"lost: {'; '.join(lost)}")
    if profile.metrics:
        lab.until("Prometheus sees all directors", lambda: _seen(compose))
    return sum(event.result == "ok" for event in lab.events())


def _wait_for_events(compose: Compose) -> None:
    deadline = time.monotonic() + HEALTHY_WITHIN
    while True:
        try:
            compose.exec("client", "test", "-s", EVENTS)
        except CommandFailed:
            if time.monotonic() > deadline:
                raise NotAsItShould(f"no client has logged in within {HEALTHY_WITHIN:.0f} s") from None
            time.sleep(POLL)
        else:
            return


def _stored(lab: Lab) -> bool:
    return all(lab.ask(number, "/v1/status")["store"]["queued_buckets"] == 0 for number in (1, 2, 3))


def _seen(compose: Compose) -> bool:
    port = os.environ.get("LAB_PROMETHEUS", "9095")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=10) as answer:
        targets = json.load(answer)["data"]["activeTargets"]
    health = {target["labels"]["instance"].partition(":")[0]: target["health"] for target in targets}
    return {name for name, state in health.items() if state == "up"} >= set(DIRECTORS)


if __name__ == "__main__":
    sys.exit(main())
