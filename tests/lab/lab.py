"""The running lab as an operator sees it: directors, load balancer, clients, and whether all is well."""

from __future__ import annotations

import csv
import http.client
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec

from deploy.lab.client.events import Event
from deploy.lab.client.report import still_open
from tests.lab.compose import CommandFailed, Compose
from tests.lab.judge import CUT, LOGIN, Allowed, failures
from tests.lab.sessions import Session, sessions

BACKENDS = ("backend1", "backend2", "backend3", "backend4")
EVENTS = "/results/events.jsonl"
CALM = 3.0
"""Seconds without a failure of any client after which the lab counts as well."""
HEALTHY_WITHIN = 90.0
SEEN_WITHIN = 40.0
ANSWER_WITHIN = 5.0
POLL = 0.5
TOKEN = "/run/secrets-of-lab/api.token"


class NotAsItShould(Exception):
    """A scenario failed: the fault did not happen, or the lab did not recover from it."""


class Lab:
    """The lab, with what has been seen of it so far."""

    def __init__(self, compose: Compose, say: Callable[[str], None]) -> None:
        """Begin. `say` is called with a line for each step."""
        self.compose, self.say = compose, say
        self.proxies = 4 if "proxy4" in compose.services() else 3
        """The number of proxies with directors. They are numbered 1, 2, ..."""
        self.allowed: list[Allowed] = []
        self._events: list[Event] = []
        self._logs: dict[str, list[str]] = {}
        self._token = compose.exec("director1", "cat", TOKEN).strip()
        self._read = 0
        self._sessions = int(os.environ.get("CLIENT_SESSIONS") or 30)

    def allow(
        self,
        why: str,
        began: float,
        *,
        what: str = LOGIN,
        proxy: str = "",
        users: Iterable[str] | None = None,
        protocol: str = "",
        longer: float = 0.0,
    ) -> None:
        """Allow such failures from `began` until now, and `longer` seconds more."""
        who = None if users is None else frozenset(users)
        self.allowed.append(Allowed(why, what, began, time.time() + longer, proxy, who, protocol))

    def director(self, number: int, *arguments: str) -> str:
        """Return the output of `director ARGUMENTS` in that director's container. Raises CommandFailed."""
        return self.compose.exec(f"director{number}", "director", *arguments)

    def ask(self, number: int, path: str) -> Any:
        """Return the answer to GET `path` of that director's API. Raises CommandFailed if there is none.

        The command line is not used: a call every half second would be half of the machine's work.
        """
        place = self.compose.published(f"director{number}", 9092)
        request = urllib.request.Request(
            f"http://{place}{path}", headers={"Authorization": f"Bearer {self._token}"}
        )
        return json.loads(_fetch(request))

    def hosts(self, number: int = 1) -> dict[str, Any]:
        """Return what director `number` says of each host, by name."""
        return {host["hostname"]: host for host in self.ask(number, "/v1/status")["hosts"]}

    def home(self, number: int, user: str) -> str:
        """Return the name of the user's host on that director; empty: the user is unassigned."""
        address = self.ask(number, f"/v1/users/{user}")["current"]
        return next((name for name, host in self.hosts(number).items() if host["address"] == address), "")

    def homes(self) -> dict[str, str]:
        """Return the host's address of each user who has logged in, from director 1; empty: unassigned.

        Each user is looked up alone: a listing lacks the names of users who have not logged in since the
        directors lost them.
        """
        users = sorted({event.user for event in self.events()})
        return {user: self.ask(1, f"/v1/users/{user}")["current"] or "" for user in users}

    def users_of(self, backend: str) -> frozenset[str]:
        """Return the users that director 1 has on this host."""
        address = self.hosts()[backend]["address"]
        return frozenset(user for user, home in self.homes().items() if home == address)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Allow failures of users whose host after the block is another than before it.

        Their sessions are ended; with Dovecot 2.3 also a session that is just being accepted.
        """
        began, before = time.time() - 1.0, self.homes()
        yield
        moved = [user for user, home in self.homes().items() if before.get(user) != home]
        for what in (LOGIN, CUT):
            self.allow("an operator moved them", began, what=what, users=moved)

    def balancer(self, *command: str) -> str:
        """Return the load balancer's answer to one of its commands."""
        return self.compose.exec("lb", "/lab/ctl", " ".join(command))

    def balanced(self, number: int) -> bool:
        """Whether the load balancer gives connections to that proxy."""
        # a server in state "UP 1/2", after one failed check of two, still gets some
        return any(
            (service, server) == ("imap", f"proxy{number}") and state.startswith("UP")
            for service, server, state in self._servers()
        )

    def through(self, number: int) -> list[Event]:
        """Return the logins, the newest last, whose session through that proxy is open."""
        return [event for event in still_open(self.events()) if event.proxy == f"proxy{number}"]

    def events(self) -> list[Event]:
        """Return all events of the clients, also those from before the start of this program."""
        text = self.compose.exec("client", "tail", "-c", f"+{self._read + 1}", EVENTS)
        complete = text[: text.rfind("\n") + 1]
        self._read += len(complete.encode())
        decoder = msgspec.json.Decoder(Event)
        self._events += [decoder.decode(line) for line in complete.splitlines()]
        return self._events

    def held(self) -> int:
        """Return how many long sessions are open."""
        return len(still_open(self.events()))

    def sessions(self, until: float) -> list[Session]:
        """Return every session in the backends' logs, also those from before the start of this program."""
        found = []
        for backend in BACKENDS:
            log = self._logs.setdefault(backend, [])
            last = log[-1].split(" ", 1)[0] if log else "0"
            log += (line for line in self.compose.logs(backend, since=last) if line.split(" ", 1)[0] > last)
            found += sessions(backend, log, self.compose.stops.get(backend, ()), until)
        return found

    def repair(self) -> None:
        """Start everything that is missing, and let all hosts be used again, after a scenario that failed."""
        self.say("repairing the lab")
        if self.proxies == 3:
            self.compose.remove(*self.compose.services().keys() & {"proxy4", "director4"})
        self.compose.run("up", "-d", "--no-build", "--no-recreate")
        for number in range(1, self.proxies + 1):
            self.balancer("set", "server", f"directors/director{number}", "state", "ready")
        self.director(1, "update", "backend3", "100")
        self.director(1, "up", "backend3")

    def until(self, what: str, condition: Callable[[], object], within: float = SEEN_WITHIN) -> None:
        """Return as soon as `condition` holds. A command in it that fails is retried.

        Raises:
            NotAsItShould: the condition did not hold in time. The message names `what`.
        """
        deadline, why = time.monotonic() + within, ""
        while True:
            try:
                if condition():
                    break
            except CommandFailed as error:
                why = f" ({error})"
            if time.monotonic() > deadline:
                raise NotAsItShould(f"not within {within:.0f} s: {what}{why}")
            time.sleep(POLL)
        self.say(what)

    def until_well(self) -> None:
        """Return as soon as the lab is well. Raises NotAsItShould, which says what is wrong."""
        deadline = time.monotonic() + HEALTHY_WITHIN
        while wrong := self.what_is_wrong():
            if time.monotonic() > deadline:
                raise NotAsItShould(f"not well within {HEALTHY_WITHIN:.0f} s: {'; '.join(wrong)}")
            time.sleep(POLL)
        self.say("all is well")

    def what_is_wrong(self) -> list[str]:
        """Return every reason why the lab is not well; empty: it is."""
        states = self.compose.services()
        wrong = [
            f"{service}: {state}"
            for service, state in sorted(states.items())
            if not (state.startswith("Up") and "(healthy)" in state) and service != "secrets"
        ]
        if wrong:
            return wrong
        numbers = range(1, self.proxies + 1)
        with ThreadPoolExecutor() as pool:
            wrong = [reason for reasons in pool.map(self._wrong_with_director, numbers) for reason in reasons]
        wrong += [
            f"the load balancer does not use proxy{number}" for number in numbers if not self.balanced(number)
        ]
        return wrong or self._wrong_with_clients()

    def _wrong_with_director(self, number: int) -> list[str]:
        try:
            status = self.ask(number, "/v1/status")
        except CommandFailed as error:
            return [str(error)]
        ring, store = status["ring"], status["store"]
        checks = {
            "is not in sync": not ring["synced"],
            f"has a ring of {len(ring['ring'])}": len(ring["ring"]) != self.proxies,
            f"misses {ring['missing']}": ring["missing"],
            "is without its store": not (store["up"] and store["loaded"]),
            "moves users": ring["moves_in_progress"],
        }
        return [f"director{number} {what}" for what, wrong in checks.items() if wrong]

    def _wrong_with_clients(self) -> list[str]:
        events = self.events()
        since = time.time() - CALM
        recent = [event for event in events if event.ended > since]
        _, bad = failures(recent, [rule for rule in self.allowed if rule.what == CUT])
        # A login that hung in an allowed time shows nothing about the present.
        late = [event for event in bad if event.began > since]
        if late:
            return [f"clients fail: {late[-1].protocol} {late[-1].text}"]
        if not recent:
            return ["no client logs in"]
        held = self.held()
        return [] if held == self._sessions else [f"{held} of {self._sessions} long sessions are open"]

    def _servers(self) -> Iterator[tuple[str, str, str]]:
        """Yield group, server and state from the load balancer's page."""
        page = _fetch(urllib.request.Request(f"http://{self.compose.published('lb', 8404)}/;csv"))
        for row in csv.DictReader(page.lstrip("# ").splitlines()):
            yield row["pxname"], row["svname"], row["status"]


def _fetch(request: urllib.request.Request) -> str:
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise CommandFailed(["GET", request.full_url], str(error)) from None
    assert isinstance(text, str)
    return text
