"""The thread that writes the log: to real pipes, whose readers stop, go on, and go away."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from director.service.logwriter import PIECE, LineStream, LogWriter

WITHIN = 10.0
"""Seconds in which what is waited for must happen."""


class Pipe:
    """A pipe whose reader reads only when it is asked to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.read_bytes = b""

    def read(self, end: str) -> str:
        """All text up to and including `end`."""
        while not self.read_bytes.decode(errors="replace").endswith(end):
            assert select.select([self.reader], [], [], WITHIN)[0], self.read_bytes[-200:]
            self.read_bytes += os.read(self.reader, 65536)
        text, self.read_bytes = self.read_bytes.decode(), b""
        return text

    def fill(self) -> int:
        """Fill it as another process does that shares it. Returns how many bytes that took."""
        filled = 0
        while select.select([], [self.writer], [], 0)[1]:
            filled += os.write(self.writer, b"." * PIECE)
        return filled

    def empty(self, size: int) -> None:
        while size:
            size -= len(os.read(self.reader, size))

    @property
    def flags(self) -> int:
        return fcntl.fcntl(self.writer, fcntl.F_GETFL)

    def close(self) -> None:
        for end in (self.reader, self.writer):
            with suppress(OSError):
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def writing(pipe: Pipe, limit: int = 1_000_000) -> LogWriter:
    writer = LogWriter(pipe.writer, limit=limit)
    writer.report = "dropped {}\n".format
    writer.start()
    return writer


def until_dropped(writer: LogWriter, count: int) -> None:
    deadline = time.monotonic() + WITHIN
    while writer.dropped < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = writing(pipe)
    lines = [f"line {number} {'x' * (number % 300)}\n" for number in range(2000)]
    for line in lines[:1000]:
        writer.write(line)
    assert pipe.read("\n" + lines[999]) == "".join(lines[:1000])
    for line in lines[1000:]:
        writer.write(line)
    assert pipe.read("\n" + lines[1999]) == "".join(lines[1000:])
    writer.close()


def test_a_log_reader_that_stops_reading_does_not_stop_the_program(pipe: Pipe) -> None:
    writer = writing(pipe)
    line = "x" * 999 + "\n"
    done = threading.Event()

    def log_much() -> None:
        for _ in range(1000):
            writer.write(line)
        done.set()

    threading.Thread(target=log_much, daemon=True).start()
    assert done.wait(WITHIN), "a write to the log waits for its reader"
    writer.close(within=0.0)


@pytest.mark.shows("A-10")
def test_lines_that_do_not_fit_are_counted_and_reported_in_their_place(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = writing(pipe, limit=10_000)
    for number in range(500):
        writer.write(f"{number:04}{'x' * 95}\n")
    # The queue holds 10,000 bytes; the thread has a piece in hand, or not yet.
    assert 500 - 100 - PIECE // 100 <= writer.dropped <= 500 - 100
    kept = 500 - writer.dropped
    pipe.empty(filled)
    report = f"dropped {writer.dropped}\n"
    text = pipe.read(report)
    assert text == "".join(f"{number:04}{'x' * 95}\n" for number in range(kept)) + report
    writer.write("after\n")
    assert pipe.read("after\n") == "after\n"
    writer.close()


def test_dropped_lines_are_reported_once_while_more_and_more_are_dropped(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = writing(pipe, limit=10_000)
    for _ in range(3):
        for _ in range(200):
            writer.write("x" * 99 + "\n")
        assert writer.dropped >= 50
    pipe.empty(filled)
    text = pipe.read(f"dropped {writer.dropped}\n")
    assert text.count("dropped") == 1
    writer.close()


def test_after_an_overflow_no_line_is_taken_until_half_of_the_queue_is_free(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = writing(pipe, limit=40_000)
    for _ in range(500):
        writer.write("x" * 99 + "\n")
    dropped = writer.dropped
    pipe.empty(PIECE)  # one piece goes out
    time.sleep(0.05)
    writer.write("too early\n")
    assert writer.dropped == dropped + 1
    pipe.empty(filled - PIECE)
    pipe.read(f"dropped {dropped + 1}\n")
    writer.write("in time\n")
    assert pipe.read("in time\n") == "in time\n"
    writer.close()


def test_the_descriptor_is_never_made_non_blocking(pipe: Pipe) -> None:
    before = pipe.flags
    filled = pipe.fill()
    writer = writing(pipe)
    writer.write("waits\n")
    time.sleep(0.02)
    assert pipe.flags == before
    pipe.empty(filled)
    pipe.read("waits\n")
    writer.close()
    assert pipe.flags == before
    assert not before & os.O_NONBLOCK


def test_a_descriptor_that_another_process_made_non_blocking_loses_no_line(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = writing(pipe, limit=10_000_000)
    lines = [f"{number} {'y' * (number * 7 % 9000)}\n" for number in range(300)]
    for line in lines:
        writer.write(line)
    time.sleep(0.02)
    assert pipe.read("\n" + lines[-1]) == "".join(lines)
    writer.close()


@pytest.mark.shows("A-14")
def test_lines_for_a_reader_that_is_gone_are_dropped_and_counted(pipe: Pipe) -> None:
    os.close(pipe.reader)
    writer = writing(pipe)
    for number in range(3):
        writer.write("x\n")
        until_dropped(writer, number + 1)
    assert writer.dropped == 3, "the report about dropped lines is not dropped itself, again and again"
    writer.close()


@pytest.mark.shows("A-14")
def test_lines_that_a_full_disk_does_not_take_are_reported_when_it_takes_lines_again(
    monkeypatch: pytest.MonkeyPatch, pipe: Pipe
) -> None:
    full = threading.Event()
    full.set()
    write = os.write

    def disk(descriptor: int, data: bytes) -> int:
        if full.is_set() and descriptor == pipe.writer:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", disk)
    writer = writing(pipe)
    for number in range(3):
        writer.write("lost\n")
        until_dropped(writer, number + 1)
    full.clear()
    writer.write("written\n")
    assert pipe.read("dropped 3\n") == "written\ndropped 3\n"
    writer.close()


def test_the_end_of_the_program_writes_what_waits(pipe: Pipe) -> None:
    writer = writing(pipe)
    for number in range(300):
        writer.write(f"{number}\n")
    writer.close()
    os.close(pipe.writer)
    assert os.read(pipe.reader, 65536).decode() == "".join(f"{number}\n" for number in range(300))


def test_the_end_of_the_program_waits_for_the_reader_for_a_limited_time(pipe: Pipe) -> None:
    pipe.fill()
    writer = writing(pipe)
    writer.write("never read\n")
    began = time.monotonic()
    writer.close(within=0.05)
    assert 0.05 <= time.monotonic() - began < 5.0


@pytest.mark.parametrize("seed", range(20))
def test_a_successor_continues_with_the_first_byte_that_was_not_written(pipe: Pipe, seed: int) -> None:
    rng = random.Random(seed)
    lines = [f"{number} {'z' * rng.choice((5, 80, 4000, 9000))}\n" for number in range(60)]
    filled = pipe.fill() if seed % 2 else 0
    first = writing(pipe, limit=10_000_000)
    for line in lines[:30]:
        first.write(line)
    time.sleep(rng.random() * 0.005)
    rest = first.hand_over()
    successor = LogWriter(pipe.writer, limit=10_000_000)
    successor.start(rest)
    for line in lines[30:]:
        successor.write(line)
    pipe.empty(filled)
    assert pipe.read("\n" + lines[-1]) == "".join(lines)
    successor.close()


def test_a_successor_reports_what_its_predecessor_has_dropped(pipe: Pipe) -> None:
    filled = pipe.fill()
    first = writing(pipe, limit=1000)
    for _ in range(100):
        first.write("x" * 99 + "\n")
    successor = LogWriter(pipe.writer)
    successor.start(first.hand_over())
    pipe.empty(filled)
    assert pipe.read(f"dropped {first.dropped}\n").count("dropped") == 1
    successor.close()


def test_a_program_that_could_not_be_replaced_goes_on_writing_without_a_line_lost_or_doubled(
    pipe: Pipe,
) -> None:
    filled = pipe.fill()
    writer = writing(pipe)
    lines = [f"{number}\n" for number in range(200)]
    for number, line in enumerate(lines):
        writer.write(line)
        if number % 50 == 49:
            writer.hand_over()
            writer.start()
    pipe.empty(filled)
    assert pipe.read("\n199\n") == "".join(lines)
    writer.close()


def test_a_finalizer_may_log_while_a_line_is_being_queued(pipe: Pipe) -> None:
    writer = writing(pipe)

    class Line(str):
        def encode(self, *args: str) -> bytes:
            return Encoded(super().encode(*args))

    class Encoded(bytes):
        def __len__(self) -> int:  # asked for while the queue is locked
            nested.set()
            writer.write("inner\n")
            return super().__len__()

    nested = threading.Event()
    thread = threading.Thread(target=writer.write, args=[Line("outer\n")], daemon=True)
    thread.start()
    thread.join(WITHIN)
    assert nested.is_set()
    assert thread not in threading.enumerate()
    writer.close()


def test_a_line_stream_gives_complete_lines() -> None:
    lines: list[str] = []
    stream = LineStream(lines.append)
    print("a", "b", file=stream, flush=True)
    stream.write("c")
    stream.write("d\ne\n")
    assert lines == ["a b", "cd", "e"]
