"""The reader of the notify FIFO."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from director.net.listen import open_fifo
from director.net.notify import LINE_LIMIT, NotifyReader
from tests.waiting import until


class Heard:
    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.skipped: list[int] = []
        self.reader = NotifyReader(self.names.extend, self.skipped.append)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_come_out_whole_however_they_are_cut(size: int) -> None:
    heard = Heard()
    data = b"alice\n\nb\x01tob\ncarl\xff\n"
    for at in range(0, len(data), size):
        heard.reader.data_received(data[at : at + size])
    assert heard.names == [b"alice", b"b\x01tob", b"carl\xff"]
    assert heard.skipped == []


@pytest.mark.parametrize("size", [7, 500, 4096, 100_000])
def test_a_line_that_is_too_long_is_skipped_and_told_once(size: int) -> None:
    heard = Heard()
    data = b"alice\n" + b"x" * 20_000 + b"\nbob\n" + b"y" * LINE_LIMIT + b"\n"
    for at in range(0, len(data), size):
        heard.reader.data_received(data[at : at + size])
    assert heard.names == [b"alice", b"bob", b"y" * LINE_LIMIT]
    assert len(heard.skipped) == 1
    assert heard.skipped[0] > LINE_LIMIT


@pytest.mark.anyio
async def test_it_goes_on_reading_a_fifo_after_its_writers_have_gone(tmp_path: Path) -> None:
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
