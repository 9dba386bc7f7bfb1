"""The real `doveadm director` of Dovecot 2.3 prints the same at this project's admin socket as at Dovecot
2.3's director."""

from __future__ import annotations

from pathlib import Path

import pytest

from director.core.protocol.events import HostChange
from director.errors import TryAgain
from director.records import HostInfo
from tests.conformance.doveadm import Doveadm, Run
from tests.conformance.real_operations import played_node, real_node
from tests.conformance.recording import Recording, differences, read
from tests.conformance.serving import admin_port, admin_socket
from tests.conformance.test_recorded import unexpected
from tests.needs import needs
from tests.unit.service.parts import Node

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.mark.parametrize("name", ["status-and-map", "hosts", "ring", "users", "members"])
async def test_doveadm_prints_the_same_as_with_dovecots_director(name: str, folder: Path) -> None:
    needs("doveadm")
    recording = read(name)
    async with played_node(recording) as node:
        found = await _printed(recording, node, folder)
    assert unexpected(recording, found) == []


async def _printed(recording: Recording, node: Node, folder: Path) -> list[tuple[str, str]]:
    """Run all recorded commands in order, and return the differences."""
    found = []
    doveadm = Doveadm(folder, recording.names)
    async with admin_socket(node.operations, folder / "admin") as path:
        for section in recording.sections:
            if section.command:
                got = await doveadm.run(section.command, path)
                wrong = differences(section.out, got.out, any_order="map" in section.command)
                wrong += differences(section.err, got.err)
                wrong += differences([f"exit {section.exit_code}"], [f"exit {got.exit_code}"])
                found += [(section.title, what) for what in wrong]
    return found


HOSTS = [HostInfo(address="127.0.1.1", weight=100, up=True)]


@pytest.mark.parametrize(
    ("command", "err"),
    [
        ("director update 127.0.1.1 5", "Error: 127.0.1.1: Ring sync timed out"),
        ("director down 127.0.1.1", "Error: 127.0.1.1: Ring sync timed out"),
    ],
)
async def test_a_change_that_times_out_fails_with_the_reason(command: str, err: str, folder: Path) -> None:
    needs("doveadm")
    async with real_node(HOSTS) as node, admin_socket(node.operations, folder / "admin") as path:
        node.faults.errors[HostChange] = TryAgain("Ring sync timed out")
        run = await Doveadm(folder).run(command.split(), path)
    assert run == Run(75, [], [err])


async def test_a_change_of_a_host_that_another_operator_is_changing_fails_with_the_reason(
    folder: Path,
) -> None:
    needs("doveadm")
    async with real_node(HOSTS) as node, admin_socket(node.operations, folder / "admin") as path:
        node.faults.errors[HostChange] = TryAgain("host is already being updated - try again later")
        run = await Doveadm(folder).run(["director", "add", "127.0.1.1", "5"], path)
    assert run == Run(75, [], ["Error: 127.0.1.1: host is already being updated - try again later"])


async def test_a_move_that_another_operator_has_won_fails_with_the_advice_to_retry(folder: Path) -> None:
    needs("doveadm")
    async with real_node(HOSTS) as node, admin_socket(node.operations, folder / "admin") as path:
        node.put("alice", "127.0.1.1")
        node.faults.counts = {"superseded": 1}
        run = await Doveadm(folder).run(["director", "move", "alice", "127.0.1.1"], path)
    being_moved = "Error: User is already being moved, wait a while for it to be finished"
    assert run == Run(75, [], [being_moved])


async def test_doveadm_reaches_a_director_over_tcp(folder: Path) -> None:
    needs("doveadm")
    async with real_node(HOSTS) as node, admin_port(node.operations, "127.0.0.1") as port:
        run = await Doveadm(folder).run(["director", "status"], f"127.0.0.1:{port}")
    assert (run.exit_code, len(run.out), run.err) == (0, 2, [])
