"""The files in deploy/ agree with the code."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from director.service.configuration.config import ListenConfig, ListenerConfig

SYSTEMD = Path(__file__).parents[2] / "deploy/systemd"
SERVICE = SYSTEMD / "director.service"
SOCKETS = {path.stem.removeprefix("director-"): path for path in SYSTEMD.glob("*.socket")}
BASE_DIR = "/run/dovecot"


def section(path: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return dict(parser[name])


def test_every_listener_has_a_socket_unit_that_the_service_names() -> None:
    assert set(SOCKETS) == set(ListenConfig.__struct_fields__) - {"socketmap"}
    listed = " ".join(re.findall(r"^Sockets=(.*)$", SERVICE.read_text(), flags=re.MULTILINE)).split()
    assert sorted(listed) == sorted(path.name for path in SOCKETS.values())


@pytest.mark.parametrize("name", sorted(SOCKETS))
def test_a_socket_unit_opens_the_listener_that_the_director_would_open_itself(name: str) -> None:
    listener: ListenerConfig = getattr(ListenConfig(), name)
    unit = section(SOCKETS[name], "Socket")
    kind = "ListenFIFO" if name == "notify" else "ListenStream"
    assert unit[kind] == str(Path(BASE_DIR) / listener.path)
    assert int(unit["SocketMode"], 8) == listener.mode
    assert unit["FileDescriptorName"] == name
    assert unit["Service"] == SERVICE.name


@pytest.mark.parametrize("path", [SERVICE, *SOCKETS.values()], ids=lambda path: path.name)
def test_no_limit_of_a_unit_closes_a_socket_with_waiting_clients(path: Path) -> None:
    # a unit whose limit is reached fails, and systemd closes its socket: login processes stall at the FIFO
    limits = {"StartLimitIntervalSec"} if path == SERVICE else {"TriggerLimitIntervalSec"}
    found = section(path, "Unit") | section(path, "Service" if path == SERVICE else "Socket")
    assert {found[limit] for limit in limits} == {"0"}


def test_the_service_runs_only_the_director_and_no_missing_program() -> None:
    """A minimal Debian has no /bin/kill, so a unit that called it could not reload."""
    commands = re.findall(r"^Exec\w+=\+?(\S+)", SERVICE.read_text(), flags=re.MULTILINE)
    assert set(commands) == {"/opt/director/bin/director"}
    assert len(commands) == 2
