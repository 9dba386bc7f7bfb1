"""The reader of the notify FIFO."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from director.net import notify
from director.net.listen import Fifo, adopt_fifo, open_fifo
from director.net.notify import LINE_LIMIT, NotifyReader, read_fifo
from tests.descriptors import without_descriptors
from tests.waiting import until


class Heard:
    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.skipped: list[int] = []
        self.reader = NotifyReader(self.names.extend, self.skipped.append)


@pytest.mark.shows("R-62")
@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_complete_however_the_bytes_are_split(size: int) -> None:
    heard = Heard()
    data = b"alice\n\nb\x01tob\ncarl\xff\n"
    for at in range(0, len(data), size):
        heard.reader.data_received(data[at : at + size])
    assert heard.names == [b"alice", b"b\x01tob", b"carl\xff"]
    assert heard.skipped == []


@pytest.mark.parametrize("size", [1, 100])
def test_lines_that_end_with_crlf_name_the_same_users(size: int) -> None:
    heard = Heard()
    data = b"alice\r\n\r\nbo\x01rb\x01r\r\n"
    for at in range(0, len(data), size):
        heard.reader.data_received(data[at : at + size])
    assert heard.names == [b"alice", b"bo\x01rb\x01r"]


@pytest.mark.shows("I-53", "K15")
@pytest.mark.parametrize("size", [7, 500, 4096, 100_000])
def test_a_line_that_is_too_long_is_skipped_and_reported_once(size: int) -> None:
    heard = Heard()
    data = b"alice\n" + b"x" * 20_000 + b"\nbob\n" + b"y" * LINE_LIMIT + b"\n"
    for at in range(0, len(data), size):
        heard.reader.data_received(data[at : at + size])
    assert heard.names == [b"alice", b"bob", b"y" * LINE_LIMIT]
    assert len(heard.skipped) == 1
    assert heard.skipped[0] > LINE_LIMIT


@pytest.mark.shows("I-53", "R-62")
@pytest.mark.anyio
async def test_a_fifo_is_read_further_after_its_writers_have_closed_it(tmp_path: Path) -> None:
    fifo = open_fifo("notify", str(tmp_path / "fifo"), mode=0o600)
    heard = Heard()
    pipe = os.fdopen(fifo.fd, "rb", buffering=0, closefd=False)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: heard.reader, pipe)
    for number, name in enumerate([b"first", b"second"], 1):
        (tmp_path / "fifo").write_bytes(name + b"\n")
        await until(partial(lambda count: len(heard.names) == count, number))
    transport.close()
    pipe.close()
    fifo.close()
    assert heard.names == [b"first", b"second"]


class Told:
    """The log."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_fields: object) -> None:
        self.events.append(event)

    def error(self, event: str, **_fields: object) -> None:
        self.events.append(event)


class Reading:
    """A FIFO that is read, looked at every few milliseconds."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard, self.told = path, Heard(), Told()
        self.fifo = self._open()

    def _open(self) -> Fifo:
        return open_fifo("notify", str(self.path), mode=0o622)

    async def run(self) -> None:
        await read_fifo(self.fifo, self.heard.reader, self._open, self.told)

    async def hears(self, *names: bytes) -> None:
        await until(lambda: self.heard.names == list(names))


@pytest.fixture
async def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reading]:
    monkeypatch.setattr(notify, "LOOK_EVERY", 0.005)
    monkeypatch.setattr(notify, "DRAIN", 0.02)
    found = Reading(tmp_path / "fifo")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.run)
        yield found
        tasks.cancel_scope.cancel()
    found.fifo.close()


@pytest.mark.anyio
async def test_without_descriptors_a_fifo_that_is_replaced_is_read_as_soon_as_there_are_some(
    reading: Reading,
) -> None:
    await until(lambda: reading.path.exists())
    with without_descriptors():
        reading.path.unlink()
        os.mkfifo(reading.path)
        await until(lambda: "notify_fifo_lost" in reading.told.events)
    await until(lambda: "notify_fifo_replaced" in reading.told.events)
    await anyio.to_thread.run_sync(reading.path.write_bytes, b"alice\n")
    await reading.hears(b"alice")


@pytest.mark.anyio
async def test_without_descriptors_the_fifo_waits_to_be_read(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "fifo")
    writer = os.open(reading.path, os.O_WRONLY)
    async with anyio.create_task_group() as tasks:
        with without_descriptors():
            tasks.start_soon(reading.run)
            await anyio.lowlevel.checkpoint()
            os.write(writer, b"alice\n")
            await anyio.sleep(0.01)
            assert reading.heard.names == []
        await reading.hears(b"alice")
        tasks.cancel_scope.cancel()
    os.close(writer)
    reading.fifo.close()


@pytest.mark.anyio
async def test_a_fifo_that_is_removed_is_made_again_and_its_writers_come_to_the_new_one(
    reading: Reading,
) -> None:
    writer = os.open(reading.path, os.O_WRONLY)
    os.write(writer, b"first\n")
    await reading.hears(b"first")
    reading.path.unlink()
    os.write(writer, b"second\n")
    await reading.hears(b"first", b"second")
    await until(reading.path.exists)
    # so a login process learns of it: the former one has no reader any more
    await until(lambda: not _can_write(writer))
    reading.path.write_bytes(b"third\n")
    await reading.hears(b"first", b"second", b"third")
    os.close(writer)
    assert reading.told.events == ["notify_fifo_replaced"]
    assert stat.S_IMODE(reading.path.stat().st_mode) == 0o622


@pytest.mark.anyio
async def test_a_fifo_put_into_the_place_of_ours_does_not_leave_its_writers_waiting(reading: Reading) -> None:
    other = reading.path.with_name("other")
    os.mkfifo(other)
    other.rename(reading.path)
    await until(lambda: not reading.fifo.is_lost())
    writer = os.open(reading.path, os.O_WRONLY | os.O_NONBLOCK)  # ENXIO if no process reads
    os.write(writer, b"name\n")
    os.close(writer)
    await reading.hears(b"name")


@pytest.mark.anyio
async def test_a_file_that_is_no_fifo_is_logged_once_and_the_fifo_is_made_when_the_file_is_gone(
    reading: Reading,
) -> None:
    reading.path.unlink()
    reading.path.write_text("no FIFO")
    await until(lambda: reading.told.events == ["notify_fifo_lost"])
    await anyio.sleep(0.05)
    assert reading.told.events == ["notify_fifo_lost"]
    reading.path.unlink()
    await until(lambda: len(reading.told.events) == 2)
    reading.path.write_bytes(b"name\n")
    await reading.hears(b"name")


@pytest.mark.anyio
async def test_a_writer_that_dies_within_a_line_costs_one_line_at_most(reading: Reading) -> None:
    reading.path.write_bytes(b"first\nsec")
    reading.path.write_bytes(b"third\nfourth\n")
    await reading.hears(b"first", b"secthird", b"fourth")


@pytest.mark.anyio
async def test_two_writers_at_once_lose_no_line(reading: Reading) -> None:
    def write(name: bytes) -> None:
        with reading.path.open("wb", buffering=0) as fifo:
            for number in range(300):
                fifo.write(b"%s%d" % (name, number) + b"x" * 900 + b"\n")

    async with anyio.create_task_group() as tasks:
        for name in (b"a", b"b"):
            tasks.start_soon(anyio.to_thread.run_sync, write, name)
    await until(lambda: len(reading.heard.names) == 600)
    expected = {b"%s%d" % (name, number) + b"x" * 900 for name in (b"a", b"b") for number in range(300)}
    assert set(reading.heard.names) == expected


@pytest.mark.anyio
async def test_a_fifo_handed_over_is_read_and_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    adopted = adopt_fifo("notify", os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_fifo, adopted, heard.reader, lambda: adopted, Told())
        for _ in range(2):
            path.write_bytes(b"\0\n\x01\n\x01x\n")
        await until(lambda: len(heard.names) == 6)
        tasks.cancel_scope.cancel()
    adopted.close()
    assert heard.names == [b"\0", b"\x01", b"\x01x"] * 2
    assert path.exists()


@pytest.mark.anyio
async def test_the_removed_file_of_a_fifo_that_was_handed_over_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.unlink()
    adopted = adopt_fifo("notify", descriptor)
    lost = adopted.is_lost()
    adopted.close()
    assert (adopted.where, lost) == (str(path), True)


def _can_write(descriptor: int) -> bool:
    try:
        os.write(descriptor, b"\n")
    except BrokenPipeError:
        return False
    return True
