"""A TCP proxy on loopback that counts bytes, and delays, cuts or stalls what passes.

    with Proxy(redis.socket) as proxy:                  # or a port of 127.0.0.1
        store = open_store(f"redis://127.0.0.1:{proxy.port}", base_dir=Path("/"))
        ...
        proxy.delay = 2.0                               # slow: every reply comes 2 s later
        proxy.strike(How.CUT, Way.REPLIES, after=17)    # closes the connection when 17 bytes have passed
        ...
        proxy.passed[Way.REPLIES]                       # what has passed since `strike` or `listen`

It runs in its own thread, so it continues while a test blocks, and serves other processes too.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from pathlib import Path
from typing import TypeAlias

Queue: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"


class Way(enum.Enum):
    REQUESTS = "from the client to the server"
    REPLIES = "from the server to the client"


class How(enum.Enum):
    CUT = "both ends see the connection closed"
    STALL = "the connection stays open and nothing more passes this way"


class Proxy:
    """A proxy between one server and its clients, used as a context manager.

    A fault happens to one connection; all others pass. `target` is the server's Unix socket, or its port on
    127.0.0.1.
    """

    def __init__(self, target: Path | int) -> None:
        self.port = 0
        self.delay = 0.0
        """Seconds by which replies are delayed. Bytes that follow each other closely stay close."""
        self.passed: dict[Way, bytearray] = {}
        self.struck = threading.Event()
        """Set when the fault of the last `strike` has happened: both ends are closed, or nothing more
        passes."""
        self._target = target
        self._how: How | None = None
        self._way = Way.REPLIES
        self._after = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._ending = asyncio.Event()
        self.listen()

    @property
    def reached(self) -> bool:
        """Whether as many bytes have passed as `strike` lets pass: `struck` is set, or about to be."""
        return self._how is None or len(self.passed[self._way]) >= self._after

    def listen(self) -> None:
        """Let everything pass from now on, and count from zero."""
        self._how = None
        self.passed = {way: bytearray() for way in Way}

    def strike(self, how: How, way: Way, *, after: int) -> None:
        """After `after` more bytes in this direction (0: before the next byte), do this to their
        connection."""
        self.listen()
        self.struck.clear()
        self._way, self._after = way, after
        self._how = how  # last: from here on bytes count

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        self._ending.set()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, Path):
                server_reader, server_writer = await asyncio.open_unix_connection(self._target)
            else:
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()  # the server is unreachable, so the proxy refuses too
            return
        cut = asyncio.Event()
        queues: dict[Way, Queue] = {way: asyncio.Queue() for way in Way}
        reading = [
            asyncio.create_task(self._read(Way.REQUESTS, reader, queues[Way.REQUESTS])),
            asyncio.create_task(self._read(Way.REPLIES, server_reader, queues[Way.REPLIES])),
        ]
        passing = [
            asyncio.create_task(self._pass(Way.REQUESTS, queues[Way.REQUESTS], server_writer, cut)),
            asyncio.create_task(self._pass(Way.REPLIES, queues[Way.REPLIES], writer, cut)),
        ]
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([*passing, ending], return_when=asyncio.FIRST_COMPLETED)
        tasks = (*reading, *passing, ending)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, server_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()
        if cut.is_set():
            self.struck.set()

    async def _read(self, way: Way, reader: asyncio.StreamReader, queue: Queue) -> None:
        """Put received data into the queue with the time when it is due, and empty data for the end."""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                queue.put_nowait((self._loop.time() + self.delay * (way is Way.REPLIES), data))
        queue.put_nowait((0.0, b""))

    async def _pass(self, way: Way, queue: Queue, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        """Pass data on until the end, or until a fault cuts the connection."""
        while True:
            due, data = await queue.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            how = self._how if way is self._way else None
            if how is not None:
                data = data[: self._after - len(self.passed[way])]
            self.passed[way] += data
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                return
            if how is None or len(self.passed[way]) < self._after:
                continue
            self._how = None
            if how is How.CUT:
                cut.set()
                return
            self.struck.set()
            while (await queue.get())[1]:
                pass  # stalled, until the end
            return
