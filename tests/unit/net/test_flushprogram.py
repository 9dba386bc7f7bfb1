"""The flush program against real sockets and real programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from director.net.flushprogram import run_flush
from director.wire.flushprogram import FlushRequest, FlushResult, script_request
from state.resolver import Resolver
from tests.servers import free_port
from tests.waiting import until

pytestmark = pytest.mark.anyio
REQUEST = FlushRequest(2677887420, "127.0.1.1", "127.0.0.1", True, 100, "localhost")
TIMEOUT = 10.0
RESOLVE = Resolver().addresses


class Service:
    """A script service on a unix socket and a TCP port. `answer`: its bytes; None: it sends nothing."""

    def __init__(self, folder: Path, answer: bytes | None) -> None:
        self.path, self.port, self.answer = folder / "flush", free_port(), answer
        self.request = b""
        self.open = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Service]:
        async with (
            await asyncio.start_unix_server(self._serve, self.path),
            await asyncio.start_server(self._serve, "127.0.0.1", self.port),
        ):
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.request += await reader.read()  # to its end: the director closes this direction
        if self.answer is not None:
            writer.write(self.answer)
        else:
            while not writer.is_closing():
                writer.write(b".")
                await asyncio.sleep(0.01)
        self.open -= 1
        writer.close()


def program(folder: Path, text: str) -> Path:
    file = folder / "flush.sh"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


async def test_a_service_on_a_unix_socket_is_asked(tmp_path: Path) -> None:
    async with Service(tmp_path, b"done\n+\n").listening() as service:
        result = await run_flush(f"unix:{service.path}", REQUEST, TIMEOUT, RESOLVE)
    assert result == FlushResult(True, ["done"], "")
    assert service.request == script_request(REQUEST)


@pytest.mark.parametrize("host", ["127.0.0.1", "%i", "%{host}"])
async def test_a_service_on_a_port_is_asked(tmp_path: Path, host: str) -> None:
    async with Service(tmp_path, b"one\ntwo\n-\n").listening() as service:
        result = await run_flush(f"tcp:{host}:{service.port}", REQUEST, TIMEOUT, RESOLVE)
    assert result == FlushResult(False, ["one", "two"], "the program failed")
    assert service.request == script_request(REQUEST)


async def test_a_service_is_asked_at_the_first_address_of_its_name_that_accepts(tmp_path: Path) -> None:
    async def resolve(name: str) -> list[str]:
        return {"flush.example": ["127.0.0.9", "127.0.0.1"]}[name]

    async with Service(tmp_path, b"+\n").listening() as service:
        result = await run_flush(f"tcp:flush.example:{service.port}", REQUEST, TIMEOUT, resolve)
    assert result == FlushResult(True, [], "")


async def test_a_service_that_closes_without_a_word_has_failed(tmp_path: Path) -> None:
    async with Service(tmp_path, b"").listening() as service:
        result = await run_flush(f"unix:{service.path}", REQUEST, TIMEOUT, RESOLVE)
    assert result == FlushResult(False, [], "no result code came")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("tcp:no-such-name.invalid:24", "cannot connect to no-such-name.invalid:24: "),
        ("unix:/nowhere/flush", "cannot connect to /nowhere/flush: No such file or directory"),
        ("exec:/nowhere/flush", "cannot run /nowhere/flush: No such file or directory"),
        ("tcp:127.0.0.1:{port}", "cannot connect to 127.0.0.1:{port}: "),
        ("flush", "'flush': expected"),
    ],
)
async def test_an_unreachable_service_is_a_failure_that_names_the_service(setting: str, problem: str) -> None:
    port = free_port()
    result = await run_flush(setting.format(port=port), REQUEST, TIMEOUT, RESOLVE)
    assert not result.ok
    assert result.problem.startswith(problem.format(port=port))


async def test_a_service_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    async with Service(tmp_path, None).listening() as service:
        result = await run_flush(f"unix:{service.path}", REQUEST, 0.1, RESOLVE)
        assert result == FlushResult(False, [], "no result within 0.1 s")
        await until(lambda: service.open == 0)


async def test_cancelling_closes_the_connection(tmp_path: Path) -> None:
    async with Service(tmp_path, None).listening() as service, anyio.create_task_group() as tasks:
        tasks.start_soon(run_flush, f"unix:{service.path}", REQUEST, TIMEOUT, RESOLVE)
        await until(lambda: service.open == 1)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await until(lambda: service.open == 0)


async def test_a_program_is_run_with_its_own_arguments_and_those_of_the_move(tmp_path: Path) -> None:
    file = program(tmp_path, 'for word; do echo "$word"; done; echo oops >&2')
    result = await run_flush(f"exec:{file} -h %h", REQUEST, TIMEOUT, RESOLVE)
    words = ["-h", "localhost", "FLUSH", "2677887420", "127.0.1.1", "127.0.0.1", "up", "100"]
    assert result == FlushResult(True, [*words, "oops"], "")


async def test_a_failing_program_is_reported_with_its_exit_status(tmp_path: Path) -> None:
    result = await run_flush(f"exec:{program(tmp_path, 'echo no; exit 3')}", REQUEST, TIMEOUT, RESOLVE)
    assert result == FlushResult(False, ["no"], "the program failed with exit status 3")


async def test_a_program_does_not_see_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "secret")
    result = await run_flush(f"exec:{program(tmp_path, '/usr/bin/env')}", REQUEST, TIMEOUT, RESOLVE)
    assert result.ok
    assert any(line.startswith("PATH=") for line in result.output)
    assert not any("STORE_PASSWORD" in line for line in result.output)


async def test_a_program_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    file = program(tmp_path, f"echo $$ > {tmp_path}/parent; sleep 60 & echo $! > {tmp_path}/child; wait")
    result = await run_flush(f"exec:{file}", REQUEST, 1.0, RESOLVE)
    assert result == FlushResult(False, [], "no result within 1 s")
    for name in ("parent", "child"):
        pid = int((tmp_path / name).read_text())
        await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        # a zombie that no process collects, as in a container without an init, does not run
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_cancelling_kills_the_program(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    file = program(tmp_path, f"echo $$ > {pid_file}; exec sleep 60")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_flush, f"exec:{file}", REQUEST, TIMEOUT, RESOLVE)
        await until(lambda: pid_file.exists() and pid_file.read_text())
        tasks.cancel_scope.cancel()
    assert not alive(int(pid_file.read_text()))


async def test_a_program_is_killed_although_it_was_only_being_started(tmp_path: Path) -> None:
    file = program(tmp_path, "sleep 60; true")
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.004):
        result = await run_flush(f"exec:{file}", REQUEST, delay, RESOLVE)
        assert not result.ok
        await until(
            lambda: running(file) == []
        )  # the program that it started has no parent any more, and ends a moment later


def running(file: Path) -> list[Path]:
    """The processes whose command line names `file`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(file).encode() in (process / "cmdline").read_bytes():
                found.append(process)
    return found
