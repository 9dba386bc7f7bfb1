"""Answers that no director gives, and the messages of the command line about them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from director.cli import client as client_module
from director.cli.client import Client, Failure
from director.records import Dump
from tests.unit.cli.conftest import alone
from tests.unit.web.servers import unix_socket

DUMP = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"commands":[]}'


@contextmanager
def answering(path: Path, *answers: bytes, wait: bool = False) -> Iterator[str]:
    """A server that sends each connection one of `answers` after the first request, and closes it."""
    listener = unix_socket(path)
    done = threading.Event()

    def run() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                done.wait(10 if wait else 0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield str(path)
    finally:
        done.set()
        thread.join()
        listener.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "no director answers there (connection closed)"),
        (
            b"220 mail.example.com ESMTP\r\n",
            "the program that listens there is not a director (BadStatusLine)",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
            "the program that listens there is not a director (IncompleteRead)",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "unexpected answer ("),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "unexpected answer ("),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff", "unexpected answer ("),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nsorry",
            "refused with HTTP status 404 and no reason",
        ),
    ],
)
def test_an_answer_that_is_not_that_of_a_director_is_exit_code_69(
    tmp_path: Path, answer: bytes, says: str
) -> None:
    with answering(tmp_path / "api.sock", answer) as where:
        result = alone("-S", where, "dump")
    assert result.exit_code == 69
    assert result.stderr.startswith(f"director: {where}: {says}")
    assert result.stderr.count("\n") == 1


def test_a_director_with_too_many_connections_is_exit_code_75(tmp_path: Path) -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
    with answering(tmp_path / "api.sock", busy) as where:
        assert alone("-S", where, "dump").exit_code == 75


def test_a_connection_that_the_director_closed_as_idle_is_opened_again(tmp_path: Path) -> None:
    with answering(tmp_path / "api.sock", DUMP, DUMP) as where:
        with closing(Client(where)) as client:
            assert client.decode(client.get("/v1/dump"), Dump).commands == []
            assert client.decode(client.get("/v1/dump"), Dump).commands == []


@pytest.mark.parametrize(
    ("ask", "code", "says"),
    [
        (lambda client: client.get("/v1/dump"), 69, "the director is starting, cannot start, or hangs"),
        (lambda client: client.change("DELETE", "/v1/hosts/127.0.1.1"), 75, "the change may still be made"),
    ],
)
def test_no_answer_in_time_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Client], bytes], code: int, says: str
) -> None:
    for name in ("READ_TIMEOUT", "ANSWER_TIMEOUT"):
        monkeypatch.setattr(client_module, name, 0.05)
    with answering(tmp_path / "api.sock", b"", wait=True) as where:
        with closing(Client(where)) as client, pytest.raises(Failure) as caught:
            ask(client)
    assert caught.value.exit_code == code
    assert says in str(caught.value)


def test_a_reading_command_stops_waiting_for_a_director_that_cannot_start_long_before_a_changing_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If systemd holds the socket, the command connects and gets no answer. `doctor` took 70 s to say so."""
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.05)
    began = time.monotonic()
    with answering(tmp_path / "api.sock", b"", wait=True) as where:
        with closing(Client(where)) as client, pytest.raises(Failure, match="no answer within"):
            client.get("/v1/status")
    assert time.monotonic() - began < client_module.ANSWER_TIMEOUT / 2


def test_a_refused_connection_to_a_socket_is_exit_code_69(tmp_path: Path) -> None:
    unix_socket(tmp_path / "api.sock").close()
    result = alone("-S", str(tmp_path / "api.sock"), "dump")
    assert (result.exit_code, "Connection refused" in result.stderr) == (69, True)


def test_a_path_too_long_for_a_socket_is_exit_code_69(tmp_path: Path) -> None:
    result = alone("-S", str(tmp_path / ("x" * 200)), "dump")
    assert (result.exit_code, "path too long" in result.stderr) == (69, True)


def test_a_port_without_a_listener_is_exit_code_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = alone("-S", f"http://127.0.0.1:{port}", "dump")
    assert (result.exit_code, "Connection refused" in result.stderr) == (69, True)


def test_an_unknown_name_of_a_director_is_exit_code_69() -> None:
    assert alone("-S", "http://no-such-host.invalid:9092", "dump").exit_code == 69


def test_stdin_and_files_of_names_must_be_readable(tmp_path: Path) -> None:
    latin = tmp_path / "names"
    latin.write_bytes(b"m\xfcller\n")
    missing = alone("-S", os.devnull, "map", "-f", str(tmp_path / "none"))
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (65, True)
    wrong = alone("-S", os.devnull, "map", "-f", str(latin))
    assert (wrong.exit_code, "not UTF-8; one user name a line is expected" in wrong.stderr) == (65, True)


def test_a_message_after_ctrl_c_says_that_the_change_may_still_be_made(tmp_path: Path) -> None:
    listener, done = unix_socket(tmp_path / "api.sock"), threading.Event()

    def press_ctrl_c() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            os.kill(os.getpid(), signal.SIGINT)
            done.wait(10)

    thread = threading.Thread(target=press_ctrl_c)
    thread.start()
    result = alone("-S", str(tmp_path / "api.sock"), "update", "127.0.1.1", "5")
    done.set()
    thread.join()
    listener.close()
    assert result.exit_code == 130
    assert result.stderr.endswith(
        "interrupted before the director answered; the change may still be made, `director status` shows it\n"
    )
