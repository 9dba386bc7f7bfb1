"""The lab's client with a real Dovecot that is backend and proxy in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.lab.client.events import IDLE, SESSION, Event, read
from director.demo.dovecot import Backend
from tests.folders import let_everybody_in
from tests.needs import needs

ROOT = Path(__file__).parents[2]
ADDRESS = "127.30.1.1"
PROTOCOLS = ("imap", "pop3", "lmtp", "sieve")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    needs("dovecot")
    let_everybody_in(tmp_path)
    with Backend(tmp_path / "b7", "backend7", ADDRESS, protocols=PROTOCOLS) as server:
        yield server


class Client:
    """A running client with few users."""

    def __init__(self, results: Path, backend: Backend) -> None:
        self.events_file = results / "events.jsonl"
        results.mkdir()
        self.environment = os.environ | {
            "LB_HOST": backend.address,
            "CLIENT_USERS": "9",
            "CLIENT_SESSIONS": "2",
            "CLIENT_LOGINS": "30",
            "CLIENT_DELIVERIES": "5",
            "CLIENT_RESULTS": str(results),
            **{
                f"{name.upper()}_PORT": str(backend.ports.of(name))
                for name in ("imap", "pop3", "lmtp", "sieve")
            },
        }
        self.process = self.start()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deploy.lab.client", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)

    def events(self) -> list[Event]:
        return list(read(self.events_file))

    def until(self, condition: Callable[[list[Event]], bool]) -> list[Event]:
        """Return the events, as soon as `condition` holds for them. Raises TimeoutError."""
        deadline = time.monotonic() + 15
        while not condition(found := self.events()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} events, the last ones {found[-3:]}")
            time.sleep(0.05)
        return found

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=10)
        return printed


@pytest.fixture
def client(tmp_path: Path, backend: Backend) -> Iterator[Client]:
    running = Client(tmp_path / "results", backend)
    yield running
    running.process.kill()
    running.process.communicate()


def test_logins_of_all_protocols_are_noted_with_the_backend_that_served(client: Client) -> None:
    events = client.until(lambda found: {*PROTOCOLS, IDLE} <= {e.protocol for e in found})
    assert [event for event in events if event.result != "ok"] == []
    assert {event.backend for event in events if event.protocol in ("imap", IDLE)} == {"backend7"}
    assert {event.proxy for event in events if event.protocol in ("imap", "pop3", "sieve")} == {"backend7"}
    assert all(event.began < event.served <= event.ended for event in events)


def test_a_session_that_the_server_closes_is_noted_and_opened_again(client: Client, backend: Backend) -> None:
    before = client.until(lambda found: [e.protocol for e in found].count(IDLE) >= 2)
    ended = [event for event in before if event.protocol == SESSION]
    opened = [event.protocol for event in before].count(IDLE)
    backend.doveadm("kick", "user001")
    events = client.until(lambda found: [e.protocol for e in found].count(IDLE) > opened)
    lost = [event for event in events if event.protocol == SESSION][len(ended) :]
    assert [event.user for event in lost] == ["user001"]
    assert lost[0].result in ("broken", "refused")
    client.stop()
    ends = [event.result for event in client.events() if event.protocol == SESSION]
    assert ends.count("ok") == 2


def test_an_unreachable_server_is_a_failed_login_and_does_not_end_the_client(
    client: Client, backend: Backend
) -> None:
    client.until(lambda found: len(found) > 5)
    backend.kill()
    client.until(lambda found: [e.result for e in found if not e.served].count("broken") > 5)
    backend.start()
    now = time.time()
    client.until(lambda found: any(e.result == "ok" and e.protocol == IDLE and e.began > now for e in found))


def test_the_report_says_what_was_done(client: Client) -> None:
    client.until(lambda found: len(found) > 20)
    printed, _ = client.start("report", "--since", "60").communicate(timeout=10)
    assert "imap, long" in printed
    assert "users on two backends at once: 0" in printed
    assert max(map(len, printed.splitlines())) <= 80
