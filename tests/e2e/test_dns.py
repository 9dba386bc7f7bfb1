"""Backends whose addresses come from a real name server, asked by the resolver of the machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from director.core.backendnames import DROPPED_AFTER
from tests.e2e.network import Network
from tests.e2e.processes import Directors, until

FIXED, ONE, TWO, THREE = (f"10.78.1.{number}" for number in (9, 1, 2, 3))
NAME = "imap.example.test"
WITHIN = DROPPED_AFTER + 20
"""Seconds within which an address that is missing from the answers is removed, on a slow machine."""


class Zone:
    """The answers of the name server."""

    def __init__(self, folder: Path) -> None:
        self.path, self._next = folder / "zone.json", folder / "zone.next"

    def say(self, *addresses: str) -> None:
        self._next.write_text(json.dumps({NAME: addresses}))
        self._next.replace(self.path)


@contextmanager
def name_server(network: Network, folder: Path) -> Iterator[Zone]:
    zone, resolver = Zone(folder), folder / "resolv.conf"
    zone.say(ONE, TWO)
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
    network.run("mount", "--bind", str(resolver), "/etc/resolv.conf")
    command = [network.python, "-m", "tests.e2e.dns_server", str(zone.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            yield zone
        finally:
            server.kill()


def test_a_pool_that_loses_its_last_usable_host_by_dns_is_changed_with_an_alarm(
    folder: Path, tmp_path: Path
) -> None:
    """The same command of an operator is refused. A change by DNS is made, and an alarm tells operators."""
    with Network(tmp_path / "network") as network, name_server(network, tmp_path) as zone:
        network.add("10.78.0.1")
        each = [{"python": network.python, "backends": [FIXED, f"{NAME}@gold"]}]
        with Directors(folder, first="10.78.0.1", count=1, state="memory:", each=each) as directors:
            directors.wait_whole()
            director = directors[0]
            assert [host[:2] for host in director.hosts()] == [(ONE, "gold"), (TWO, "gold"), (FIXED, "")]
            assert director.command("pin", "--new", "-t", "gold", "alice", TWO).returncode == 0
            assert director.command("down", ONE).stderr == ""
            refused = director.command("remove", TWO)
            assert (refused.returncode, "1 user would be left without a host" in refused.stderr) == (77, True)
            zone.say(ONE)
            until(lambda: len(director.hosts()) == 2, within=WITHIN, what=director.log)
            assert [host[0] for host in director.hosts()] == [ONE, FIXED]
            (line,) = director.wait_logged("pool_unusable", "tag=gold")
            assert "its new users wait" in line or "note=" in line
            metrics = director.request("GET", "/metrics")[1].decode()
            assert f'director_host_up{{host="{ONE}",tag="gold"}} 0.0' in metrics
            assert director.all_logged("pool_usable") == []
            zone.say(ONE, THREE)
            until(lambda: director.logged("pool_usable", "tag=gold"), within=20, what=director.log)
