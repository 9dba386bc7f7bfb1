"""Writes the log to a descriptor from a thread, so that a stopped log reader does not block the director.

A line waits in a limited queue until the descriptor takes it. A line that does not fit is dropped and
counted. When there is room again, one line says how many were dropped. The descriptor stays in blocking mode,
because other processes share it: the thread calls `poll` first, and writes pieces that a pipe takes
completely or not at all.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes of waiting lines, at most."""
CLOSE_WITHIN = 1.0
"""Seconds that the end of the program waits for the log, at most."""
STOP_WITHIN = 0.1
"""Seconds in which the thread stops for a hand-over, unless a write to the descriptor blocks it."""
PIECE = select.PIPE_BUF
"""Bytes of one write. A pipe that `poll` reports writable takes all of them or none."""


class LogWriter:
    """A limited queue of lines, and the thread that writes them. Any thread may call its methods."""

    def __init__(self, descriptor: int, *, limit: int = QUEUE_BYTES) -> None:
        """limit: bytes that may wait."""
        self.dropped = 0
        """Number of lines that did not fit, or that the descriptor did not take."""
        self.report: Callable[[int], str] = "{} log lines were dropped\n".format
        """Makes the line that reports a number of dropped lines; called by the thread."""
        self._descriptor, self._limit = descriptor, limit
        # Reentrant, because a finalizer may log while a line is being put into the queue.
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        """Bytes in `_lines`."""
        self._piece = b""
        """The unwritten part of the piece that the thread is writing."""
        self._piece_lines = 0
        """Number of lines in the piece."""
        self._unreported = 0
        self._full = False
        """Whether lines are dropped until half of the queue is free, because reports would fill it again."""
        self._failing = False
        """Whether the last write failed."""
        self._running = self._closing = self._stopping = False
        self._wake = -1
        """Event descriptor that ends the wait for the log's descriptor."""

    def start(self, unwritten: bytes = b"") -> None:
        """Start to write. unwritten: the lines that a predecessor has handed over."""
        with self._changed:
            if self._wake < 0:
                self._wake = os.eventfd(0)
            elif self._stopping:
                os.eventfd_read(self._wake)
            self._stopping = False
            self._lines.extendleft(reversed(unwritten.splitlines(keepends=True)))
            self._waiting += len(unwritten)
            if not self._running:
                self._running = True
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def write(self, line: str) -> None:
        """Queue a line with its end, or drop it. Does not wait for the descriptor."""
        data = line.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._full or self._waiting + len(data) > self._limit:
                self._full = True
                self._drop(1)
                return
            self._lines.append(data)
            self._waiting += len(data)
            self._changed.notify_all()

    def close(self, within: float = CLOSE_WITHIN) -> None:
        """Write the waiting lines, for `within` seconds at most. The rest is lost."""
        with self._changed:
            if not self._running:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join(within)
        self.hand_over()
        if not self._running:
            os.close(self._wake)
            self._wake = -1

    def hand_over(self) -> bytes:
        """Stop writing. Returns what is not written; `start` continues with it in this process."""
        with self._changed:
            if not self._running:
                return b""
            self._stopping = True
            os.eventfd_write(self._wake, 1)
            self._changed.notify_all()
        self._thread.join(STOP_WITHIN)
        with self._changed:
            if self._unreported:
                self._put_report()
            return self._piece + b"".join(self._lines)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unreported += lines

    def _put_report(self) -> None:
        data = self.report(self._unreported).encode("utf-8", "backslashreplace")
        self._unreported = 0
        self._lines.append(data)
        self._waiting += len(data)

    # ---- the thread

    def _run(self) -> None:
        while self._take():
            self._write_out()

    def _take(self) -> bool:
        """Wait for lines and take as many as fit into one piece. Returns False when the thread has to end."""
        with self._changed:
            while True:
                if self._stopping:
                    self._running = False
                    return False
                if self._waiting <= self._limit // 2:
                    self._full = False
                    if self._unreported and not self._failing:
                        self._put_report()
                if self._piece or self._lines:
                    break
                if self._closing:
                    self._running = False
                    return False
                self._changed.wait()
            taken: list[bytes] = []
            room = PIECE - len(self._piece)
            while self._lines and (len(self._lines[0]) <= room or not (taken or self._piece)):
                taken.append(self._lines.popleft())
                room -= len(taken[-1])
            self._piece += b"".join(taken)
            self._piece_lines += len(taken)
            self._waiting -= sum(map(len, taken))
            return True

    def _write_out(self) -> None:
        """Write the piece as soon as the descriptor takes it. At a stop the rest stays for a hand-over."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        ready.register(self._wake, select.POLLIN)
        while self._piece:
            ready.poll()
            if self._stopping:
                return
            try:
                written = os.write(self._descriptor, self._piece[:PIECE])
            except BlockingIOError:
                continue  # another process has filled the pipe, and has made the descriptor non-blocking
            except OSError:
                # The reader has ended, or the disk is full. The lines are dropped: logins are more important.
                with self._changed:
                    self._drop(self._piece_lines)
                    self._piece, self._piece_lines, self._failing = b"", 0, True
                return
            self._piece, self._failing = self._piece[written:], False
        self._piece_lines = 0


class LineStream(io.TextIOBase):
    """A text stream that passes each complete line to a function, for text that is printed and not logged."""

    def __init__(self, take: Callable[[str], object]) -> None:
        """take: called with a line without its end."""
        super().__init__()
        self._take = take
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)
