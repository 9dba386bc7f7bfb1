"""Talking to systemd: a real datagram socket stands in for its end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from director.errors import ListenError
from director.service.lifecycle.sysd import Notifier, inherited_descriptors
from tests.descriptors import without_descriptors


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def notifier(manager: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname(), **environ})


def heard(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def test_ready_carries_the_status_with_it(manager: socket.socket) -> None:
    notifier(manager).ready("3 directors, 20 hosts")
    assert heard(manager) == "READY=1\nSTATUS=3 directors, 20 hosts"


def test_every_other_message_is_what_systemd_documents(manager: socket.socket) -> None:
    notify = notifier(manager)
    notify.status("ring in sync")
    notify.watchdog()
    notify.reloading(12.5)
    notify.stopping()
    assert [heard(manager) for _ in range(4)] == [
        "STATUS=ring in sync",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "STOPPING=1",
    ]


def test_a_status_cannot_smuggle_in_another_message(manager: socket.socket) -> None:
    notifier(manager).status("bad\nSTOPPING=1")
    assert heard(manager) == "STATUS=bad STOPPING=1"


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0director-test-{os.getpid()}")
        end.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@director-test-{os.getpid()}"}).watchdog()
        assert heard(end) == "WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_is_sent(environ: dict[str, str]) -> None:
    notify = Notifier(environ)
    assert not notify.ready("up")
    assert notify.watchdog_interval is None


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog()


def test_a_director_without_descriptors_gives_signs_of_life(manager: socket.socket) -> None:
    notify = notifier(manager)
    with without_descriptors():
        assert notify.watchdog()
    notify.close()
    assert heard(manager) == "WATCHDOG=1"
    assert not notify.watchdog()


def test_a_sign_of_life_is_due_in_half_the_time_the_watchdog_waits(manager: socket.socket) -> None:
    assert notifier(manager, WATCHDOG_USEC="30000000").watchdog_interval == 15.0
    assert (
        notifier(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())).watchdog_interval == 15.0
    )


@pytest.mark.parametrize(
    "environ", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}]
)
def test_a_watchdog_of_another_process_or_none_needs_no_sign_of_life(
    manager: socket.socket, environ: dict[str, str]
) -> None:
    assert notifier(manager, **{"WATCHDOG_USEC": "30000000", **environ}).watchdog_interval is None


def test_descriptors_are_inherited_by_name() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "login:notify:login"}
    assert inherited_descriptors(environ, pid=7) == {"login": [3, 5], "notify": [4]}


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7", "LISTEN_FDS": "0"}],
)
def test_descriptors_of_another_process_are_not_taken(environ: dict[str, str]) -> None:
    assert inherited_descriptors(environ, pid=7) == {}


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS"),
        ({"LISTEN_FDS": "9" * 5000}, "LISTEN_FDS"),
        ({"LISTEN_FDS": "1"}, "FileDescriptorName"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "login"}, "FileDescriptorName"),
    ],
)
def test_descriptors_without_names_are_refused_with_what_to_write(
    environ: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ListenError, match=complaint):
        inherited_descriptors({"LISTEN_PID": "7", **environ}, pid=7)
