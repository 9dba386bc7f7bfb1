"""Admin connections (unix or TCP): reads a client's commands, runs them and writes the replies.

Every complete line that has arrived is run, one at a time and in order, even if the client is gone: monitors
send their commands and hang up without reading an answer. Two tasks serve a connection, so that reading never
waits for a command.

Dovecot 2.3's director drops the line after a command that waited, and the replies that are not yet written
when the client shuts down its sending side.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

import anyio

from director.errors import PeerError
from director.net import places
from director.net.accept import Acceptor, SocketHandler
from director.net.clientsocket import ClientGone, ClientSocket
from director.net.eventlog import EventLog
from director.net.places import Place, Places
from director.wire.admin import (
    GREETING,
    LINE_LIMIT,
    AdminSyntaxError,
    Command,
    Query,
    check_version,
    parse,
)
from director.wire.tabs import LineBuffer, LineTooLong

Handler = Callable[[Command], AsyncGenerator[bytes, None]]
"""Runs a command and yields its reply in pieces, which are sent one by one."""

READ_SIZE = 4096
READ_AHEAD = 64 * 1024
"""Bytes of lines that wait to be run. More lines wait in the kernel, and then at the client."""


class AdminClients:
    """The connections of all admin listeners."""

    def __init__(self, handle: Handler, log: EventLog) -> None:
        """Begin without connections.

        Args:
            handle: runs a command. Any exception but PeerError is a bug and ends the connection.
            log: receives what goes wrong.
        """
        self._handle, self._log = handle, log
        self._acceptors: list[Acceptor] = []
        self._open: set[_Conversation] = set()
        self._one_closed = anyio.Event()

    @property
    def busy(self) -> bool:
        """Whether commands are running or waiting."""
        return any(conversation.busy for conversation in self._open)

    async def serve(self, acceptor: Acceptor) -> None:
        """Serve the clients of a listener until cancelled."""
        self._acceptors.append(acceptor)
        its_places = Places()

        def begin(sock: socket.socket, address: str, peer: str) -> SocketHandler:
            conversation = _Conversation(ClientSocket(sock), address, peer, self._handle, self._log)
            its_places.add(conversation.place)
            self._open.add(conversation)
            return partial(self._serve_client, conversation, its_places)

        await acceptor.serve_sockets(begin, its_places.make_room)

    async def finish_commands(self) -> None:
        """Stop accepting, run all lines that have arrived, and close the connections.

        Connections that are not accepted yet stay in the kernel, for a successor.
        """
        for acceptor in self._acceptors:
            await acceptor.finish_accepting()
        for conversation in self._open:
            conversation.wait_no_more()
        while self._open:
            await self._one_closed.wait()

    async def _serve_client(self, conversation: _Conversation, its_places: Places) -> None:
        try:
            await conversation.run()
        finally:
            its_places.remove(conversation.place)
            self._open.discard(conversation)
            self._one_closed.set()
            self._one_closed = anyio.Event()


class _Conversation:
    """A client, and the lines that it has sent, in the order in which they are run."""

    def __init__(self, client: ClientSocket, address: str, peer: str, handle: Handler, log: EventLog) -> None:
        """Begin a conversation.

        Args:
            client: the connection.
            address: the address of the client; empty: it has none.
            peer: the name of the client for the log.
            handle: runs a command.
            log: receives what goes wrong.
        """
        self._client, self._peer, self._handle, self._log = client, peer, handle, log
        self.place = Place(address, self._lose_place, time.monotonic())
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of `_lines`, including a LF for each."""
        self._ended = False
        """Whether no more lines come."""
        self._refused: AdminSyntaxError | None = None
        """The problem with the bytes after the last line; None: there is none."""
        self._changed = anyio.Event()
        """Set when there are new lines to run, or room to read more."""
        self._carrying_out = False
        self._reading_stopped = False
        """Whether this director itself stopped reading lines."""

    @property
    def busy(self) -> bool:
        return self._carrying_out or bool(self._lines)

    def wait_no_more(self) -> None:
        """Read no more lines. The lines that have arrived are still run."""
        self._reading_stopped = True
        self._client.wait_no_more()

    def _lose_place(self) -> None:
        """Close the connection after running what has arrived: another client gets its place."""
        self._reading_stopped = True
        self._client.give_up()

    async def run(self) -> None:
        """Run what the client sends, until it hangs up or sends an invalid line."""
        failure: Exception | None = None
        try:
            with self._client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    try:
                        await self._carry_out_all()
                    except Exception as exc:  # the exception itself, not an exception group
                        failure = exc
                    tasks.cancel_scope.cancel()
        finally:
            if failure is None and self.busy:
                unanswered = len(self._lines) + self._carrying_out
                note = "the director stopped before it carried out these commands; send them again"
                self._log.warning("admin_commands_dropped", peer=self._peer, commands=unanswered, note=note)
        if isinstance(failure, PeerError):
            note = "the connection is closed; commands before this line are done, later ones are not"
            self._log.error("admin_client_refused", peer=self._peer, reason=str(failure), note=note)
        elif failure is not None:
            raise failure

    # ---- reading

    async def _read(self) -> None:
        """Read lines until there are no more."""
        buffer = LineBuffer(LINE_LIMIT - len(b"\n"))
        room = READ_AHEAD
        while data := await self._client.receive(min(READ_SIZE, room)):
            try:
                self._take(buffer.feed(data))
            except LineTooLong as exc:
                self._take(exc.before.split(b"\n")[:-1])
                self._end(f"doveadm sent a line of more than {LINE_LIMIT} bytes")
                return
            while (room := READ_AHEAD - self._waiting - len(buffer.rest)) <= 0:
                await self._changed.wait()
        unfinished = buffer.rest and not self._reading_stopped
        self._end(
            "doveadm hung up in the middle of a line; that line was not carried out" if unfinished else ""
        )

    def _take(self, lines: list[bytes]) -> None:
        # As Dovecot 2.3's director, for clients that end their lines with CRLF. A CR in a value is escaped.
        lines = [line.removesuffix(b"\r") for line in lines]
        self._lines += lines
        self._waiting += sum(len(line) + len(b"\n") for line in lines)
        self._tell()

    def _end(self, problem: str) -> None:
        """Note that no more lines come.

        `problem`: what is wrong with the bytes after the last line; empty: nothing.
        """
        self._ended = True
        self._refused = AdminSyntaxError(problem) if problem else None
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _next(self) -> bytes | None:
        """Return the next line; None: there are no more. Raises AdminSyntaxError."""
        while not self._lines and not self._ended:
            self.place.set_idle(time.monotonic())
            await self._changed.wait()
        self.place.set_busy()
        if self._lines:
            line = self._lines.popleft()
            self._waiting -= len(line) + len(b"\n")
            self._tell()
            return line
        if self._refused is not None:
            raise self._refused
        return None

    # ---- carrying out

    async def _carry_out_all(self) -> None:
        """Run all lines. Raises AdminSyntaxError for an invalid line: no line after it is run."""
        await self._send(GREETING)
        with anyio.move_on_after(places.FIRST_WITHIN) as first:
            line = await self._next()
        if first.cancelled_caught or line is None:
            return
        check_version(line)
        while (line := await self._next()) is not None:
            self._carrying_out = True
            await self._carry_out(line)
            self._carrying_out = False

    async def _carry_out(self, line: bytes) -> None:
        try:
            command = parse(line)
        except AdminSyntaxError as exc:
            if exc.reply:
                await self._send(exc.reply)
            raise
        if isinstance(command, Query) and self._client.is_gone:
            return
        async with aclosing(self._handle(command)) as reply:
            async for piece in reply:
                if not await self._send(piece):
                    return  # only the reply to a query, which changes nothing, has several pieces

    async def _send(self, data: bytes) -> bool:
        """Send data. Returns whether the client can still be reached."""
        if self._client.is_gone:
            return False
        self.place.set_sending(time.monotonic())
        try:
            await self._client.send(data)
        except ClientGone:
            self._log.debug("admin_client_disconnected", peer=self._peer)
            return False
        finally:
            self.place.set_taken()
        return True
