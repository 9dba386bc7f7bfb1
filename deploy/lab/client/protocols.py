"""Dialogues of mail clients, one function for each protocol: log in, ask for the backend's name, log out."""

from __future__ import annotations

import base64
import itertools
import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

PASSWORD = "lab"
"""The lab accepts any password."""
LONGEST = 65536
ANSWER_TIMEOUT = 30.0
GREETED = re.compile(r"([\w.-]+) ready\.\"?$")
"""`login_greeting = NAME ready.` of the lab's proxies, within the greeting of any protocol."""
IMAP_NAME = re.compile(r'^\* ID \(.*?"name" "([^"]+)"')
SIEVE_NAME = re.compile(r'^"IMPLEMENTATION" "(\S+)"$')
POP3_NAME = re.compile(r"^\d+ ([a-z]+\d+)-")
MOST_DELETED = 20
"""Mails that a POP3 session deletes at most: mailboxes do not grow, and no session takes long."""


class Refused(Exception):
    """The server refused. `reply` is the line of its answer."""

    def __init__(self, reply: str) -> None:
        self.reply = reply
        super().__init__(reply)


class Connection:
    """A connection that sends and reads lines, and keeps the names of proxy and backend.

    An `async with` block closes it.
    """

    def __init__(self) -> None:
        self._stream: SocketStream | None = None
        self.waiting = "the connection"
        """The answer that the server must send next; it is reported if it does not arrive."""
        self.proxy = self.backend = ""
        self.served = 0.0
        """Unix time at which the server accepted the login."""

    async def connect(self, host: str, port: int) -> None:
        """Raises OSError."""
        self._stream = await anyio.connect_tcp(host, port)
        self._lines = BufferedByteReceiveStream(self._stream)
        self.waiting = "the greeting"

    async def send(self, *lines: str) -> None:
        assert self._stream is not None
        await self._stream.send("".join(f"{line}\r\n" for line in lines).encode())

    async def read(self) -> str:
        """The next line, without its line end.

        Raises:
            OSError, anyio.EndOfStream, ...: the connection ended.
        """
        return (await self._lines.receive_until(b"\r\n", LONGEST)).decode(errors="replace")

    async def read_to(self, *prefixes: str) -> list[str]:
        """Lines up to and including the first line that starts with one of `prefixes`."""
        lines = [await self.read()]
        while not lines[-1].startswith(prefixes):
            lines.append(await self.read())
        return lines

    def greeted(self, line: str) -> None:
        if match := GREETED.search(line):
            self.proxy = match.group(1)
        self.waiting = "the login"

    def is_in(self) -> None:
        self.served = time.time()
        self.waiting = "an answer after the login"

    def named(self, lines: list[str], pattern: re.Pattern[str]) -> None:
        """Store the name of the backend, if the pattern finds it in a line."""
        names = [match.group(1) for match in map(pattern.search, lines) if match]
        self.backend = names[0] if names else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await anyio.aclose_forcefully(self._stream)


async def imap(server: Connection, user: str) -> None:
    """Log in, ask for the backend's name, log out.

    Raises:
        Refused: so do all functions here; also the errors of read().
    """
    await imap_login(server, user)
    await server.send("c LOGOUT")
    await server.read_to("c ")


async def imap_login(server: Connection, user: str) -> None:
    """Log in and ask for the backend's name. The session stays open."""
    greeting = await server.read()
    if not greeting.startswith("* OK"):
        raise Refused(greeting)
    server.greeted(greeting)
    await server.send(f'a LOGIN "{user}" "{PASSWORD}"')
    _expect((await server.read_to("a ", "* BYE"))[-1], "a OK")
    server.is_in()
    await server.send('b ID ("name" "client")')
    server.named(await server.read_to("b "), IMAP_NAME)


async def idle(server: Connection, pause: Callable[[], float]) -> None:
    """Send IDLE, after pause() seconds NOOP, and repeat this until the session ends.

    Raises:
        Refused: the server sent BYE.
        TimeoutError: an answer did not arrive within 30 s.
    """
    commands = (f"s{number}" for number in itertools.count(1))

    async def command(text: str) -> str:
        tag = next(commands)
        server.waiting = f"the answer to {text}"
        with anyio.fail_after(ANSWER_TIMEOUT):
            await server.send(f"{tag} {text}")
            _expect((await server.read_to(f"{tag} ", "+", "* BYE"))[-1], f"{tag} OK", "+")
        return tag

    await command("SELECT INBOX")
    while True:
        tag = await command("IDLE")
        server.waiting = "news"
        with anyio.move_on_after(pause()):
            raise Refused((await server.read_to("* BYE"))[-1])
        server.waiting = "the end of IDLE"
        with anyio.fail_after(ANSWER_TIMEOUT):
            await server.send("DONE")
            await server.read_to(f"{tag} ")
        await command("NOOP")


async def pop3(server: Connection, user: str) -> None:
    """Log in, list and delete the mails, log out. The lab's backends have their name in each UIDL."""
    greeting = await server.read()
    _expect(greeting, "+OK")
    server.greeted(greeting)
    await server.send(f"USER {user}")
    _expect(await server.read(), "+OK")
    await server.send(f"PASS {PASSWORD}")
    _expect(await server.read(), "+OK")
    server.is_in()
    await server.send("UIDL")
    _expect(await server.read(), "+OK")
    mails = (await server.read_to("."))[:-1]
    server.named(mails, POP3_NAME)
    here = mails[:MOST_DELETED]
    await server.send(*(f"DELE {mail.split()[0]}" for mail in here), "QUIT")
    # The answers do not matter: another session of the user may have deleted these mails already.
    for _ in range(len(here) + 1):
        await server.read()


async def sieve(server: Connection, user: str) -> None:
    """Log in to ManageSieve, ask for the backend's capabilities, log out."""
    greeting = (await server.read_to("OK", "NO", "BYE"))[-1]
    _expect(greeting, "OK")
    server.greeted(greeting)
    credentials = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
    await server.send(f'AUTHENTICATE "PLAIN" "{credentials}"')
    _expect((await server.read_to("OK", "NO", "BYE"))[-1], "OK")
    server.is_in()
    await server.send("CAPABILITY")
    server.named(await server.read_to("OK", "NO", "BYE"), SIEVE_NAME)
    await server.send("LOGOUT")
    await server.read_to("OK", "NO", "BYE")


async def lmtp(server: Connection, user: str) -> None:
    """Deliver a short mail. `served` is the time at which the server accepted recipient and DATA."""
    greeting = await server.read()
    _expect(greeting, "220")
    server.greeted(greeting)
    for command, code in (
        ("LHLO client.lab", "250"),
        ("MAIL FROM:<sender@client.lab>", "250"),
        (f"RCPT TO:<{user}>", "250"),
        ("DATA", "354"),
    ):
        await server.send(command)
        await _reply(server, code)
    server.is_in()
    await server.send("Subject: lab", "", "Hello.", ".")
    await _reply(server, "250")
    await server.send("QUIT")
    await _reply(server, "221")


async def _reply(server: Connection, code: str) -> None:
    """Read an LMTP reply. Lines with `-` as fourth character are followed by another line."""
    while (line := await server.read())[3:4] == "-":
        continue
    _expect(line, code)


def _expect(line: str, *starts: str) -> None:
    if not line.startswith(starts):
        raise Refused(line)
