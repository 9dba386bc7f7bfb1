"""Mail clients with features that the demo's clients lack: TLS, SASL, submission, ManageSieve, and a line
before the greeting. The backends' logs show which backend served them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from director.demo.clients import TIMEOUT, Connection, Refused

Step = Callable[[bytes], bytes]
"""Returns a client's response to a challenge, both decoded."""
CANCEL = b"*"
"""The response that cancels the exchange. It is sent as it is."""
LITERAL = re.compile(rb"\{(\d+)\+?\}$")


class Sasl(NamedTuple):
    """A mechanism, and the client's responses that log in by it."""

    mechanism: str
    steps: list[Step]


def plain(user: str, password: str = "any", authzid: str = "") -> Sasl:
    return Sasl("PLAIN", [lambda _: f"{authzid}\0{user}\0{password}".encode()])


def login(user: str, password: str = "any") -> Sasl:
    return Sasl("LOGIN", [lambda _: user.encode(), lambda _: password.encode()])


def cram_md5(user: str, password: str) -> Sasl:
    def respond(challenge: bytes) -> bytes:
        return f"{user} {hmac.new(password.encode(), challenge, hashlib.md5).hexdigest()}".encode()

    return Sasl("CRAM-MD5", [respond])


def scram_sha_256(user: str, password: str) -> Sasl:
    """Return the responses of RFC 7677, without channel binding. The server's own proof is checked."""
    bare = f"n={user},r=a-nonce-of-the-client"
    proof: dict[str, bytes] = {}

    def final(challenge: bytes) -> bytes:
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"])
        )
        without = f"c=biws,r={fields['r']}"
        message = f"{bare},{challenge.decode()},{without}".encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        signed = bytes(left_byte ^ right_byte for left_byte, right_byte in zip(key, signature, strict=True))
        proof["server"] = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return f"{without},p={base64.b64encode(signed).decode()}".encode()

    def convinced(challenge: bytes) -> bytes:
        assert base64.b64decode(challenge.removeprefix(b"v=")) == proof["server"]
        return b""

    return Sasl("SCRAM-SHA-256", [lambda _: f"n,,{bare}".encode(), final, convinced])


def given_up(sasl: Sasl) -> Sasl:
    """Return an exchange that is cancelled at its last step."""
    return Sasl(sasl.mechanism, [*sasl.steps[:-1], lambda _: CANCEL])


class Session(Connection):
    """A client that is connected and greeted, but not logged in."""

    COMMAND = "AUTH {}"
    INITIAL = "AUTH {} {}"
    RESPONSE = "{}"
    STARTTLS = "STARTTLS"

    def __init__(
        self,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        first: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        """Connect and read the greeting.

        Args:
            address: the address of the server.
            port: the port of the server.
            tls: use TLS from the first byte on.
            first: a line sent before everything else, such as one of the PROXY protocol.
            timeout: seconds to wait for each answer.
        """
        super().__init__(address, port, timeout)
        self.address = address
        try:
            if first:
                self.send(first)
            if tls is not None:
                self._secure(tls)
            self.greeting = self.greet()
        except BaseException:
            self.close()
            raise

    def greet(self) -> str:
        """Return the server's greeting."""
        return self.answer()

    def answer(self) -> str:
        """Return the last line of the server's reply. Raises Refused if the server refuses."""
        raise NotImplementedError

    def command(self, text: str) -> str:
        self.send(text)
        return self.answer()

    def log_in(self, user: str, password: str = "any") -> str:
        """Log in by the protocol's own command, or by PLAIN if it has none."""
        return self.authenticate(plain(user, password))

    def authenticate(self, sasl: Sasl, *, initial: bool = False) -> str:
        """Log in, and return the server's last line. Raises Refused.

        Args:
            sasl: the mechanism and the responses.
            initial: send the first response with the command.
        """
        steps = iter(sasl.steps)
        first = encoded(next(steps)(b"")) if initial else None
        text = (self.COMMAND if first is None else self.INITIAL).format(sasl.mechanism, first)
        self.send(text)
        while (challenge := self.challenge()) is not None:
            response = next(steps)(challenge)
            self.send(self.RESPONSE.format("*" if response == CANCEL else encoded(response)))
        return self.answer()

    def challenge(self) -> bytes | None:
        """Return the server's challenge; None: the server sends its final answer."""
        raise NotImplementedError

    def start_tls(self, tls: ssl.SSLContext) -> None:
        self.command(self.STARTTLS)
        self._secure(tls)

    def noop(self) -> None:
        """Send a command that does nothing. Raises OSError if the session has ended."""
        self.command("NOOP")

    def read(self) -> bytes:
        line, self._kept = self._kept or super().read(), b""
        return line

    def unread(self) -> int:
        """Return how many bytes the server has not read yet."""
        ends = f"{packed(self._socket.getpeername())} {packed(self._socket.getsockname())}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            if f"{local} {remote}" == ends:
                return int(queues.split(":")[1], 16)
        return 0

    _kept = b""

    def _keep(self, line: bytes) -> None:
        """Return this line again at the next read."""
        self._kept = line

    def _secure(self, tls: ssl.SSLContext) -> None:
        self._stream.close()
        self._socket = tls.wrap_socket(self._socket, server_hostname=self.address)
        self._stream = self._socket.makefile("rwb")


class Imap(Session):
    COMMAND = "a AUTHENTICATE {}"
    INITIAL = "a AUTHENTICATE {} {}"
    STARTTLS = "a STARTTLS"

    def greet(self) -> str:
        return self.read().decode()

    def answer(self) -> str:
        while not (line := self.read()).startswith(b"a "):
            continue
        if not line.startswith(b"a OK"):
            raise Refused(line.decode())
        return line.decode()

    def log_in(self, user: str, password: str = "any") -> str:
        return self.command(f'a LOGIN "{user}" "{password}"')

    def challenge(self) -> bytes | None:
        line = self.read()
        if line.startswith(b"+ "):
            return base64.b64decode(line[2:])
        self._keep(line)
        return None

    def noop(self) -> None:
        self.command("a NOOP")


class Pop3(Session):
    STARTTLS = "STLS"

    def answer(self) -> str:
        line = self.read().decode()
        if not line.startswith("+OK"):
            raise Refused(line)
        return line

    def log_in(self, user: str, password: str = "any") -> str:
        self.command(f"USER {user}")
        return self.command(f"PASS {password}")

    def challenge(self) -> bytes | None:
        line = self.read()
        if line.startswith(b"+ "):
            return base64.b64decode(line[2:])
        self._keep(line)
        return None


class Submission(Session):
    def __init__(
        self,
        address: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        first: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(address, port, tls=tls, first=first, timeout=timeout)
        self.command("EHLO client.example")

    def answer(self) -> str:
        while (line := self.read())[3:4] == b"-":
            continue
        if not line.startswith((b"2", b"3")):
            raise Refused(line.decode())
        return line.decode()

    def challenge(self) -> bytes | None:
        line = self.read()
        if line.startswith(b"334"):
            return base64.b64decode(line[4:])
        self._keep(line)
        return None

    def start_tls(self, tls: ssl.SSLContext) -> None:
        super().start_tls(tls)
        self.command("EHLO client.example")


class Sieve(Session):
    COMMAND = 'AUTHENTICATE "{}"'
    INITIAL = 'AUTHENTICATE "{}" "{}"'
    RESPONSE = '"{}"'

    def answer(self) -> str:
        while not (line := self.read()).startswith((b"OK", b"NO", b"BYE")):
            continue
        if not line.startswith(b"OK"):
            raise Refused(line.decode())
        return line.decode()

    def challenge(self) -> bytes | None:
        line = self.read()
        if literal := LITERAL.match(line):
            return base64.b64decode(self.read()[: int(literal.group(1))])
        if line.startswith(b'"'):
            return base64.b64decode(line.strip(b'"'))
        self._keep(line)
        return None

    def start_tls(self, tls: ssl.SSLContext) -> None:
        super().start_tls(tls)
        self.answer()  # the server's capabilities, once more


class Lmtp(Session):
    """A client that has sent LHLO. LMTP has no login."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)
        self.command("LHLO client.example")

    def answer(self) -> str:
        while (line := self.read())[3:4] == b"-":
            continue
        if not line.startswith((b"2", b"3")):
            raise Refused(line.decode())
        return line.decode()

    def recipient(self, user: str) -> str:
        self.command("MAIL FROM:<sender@example.com>")
        return self.command(f"RCPT TO:<{user}>")

    def data(self) -> str:
        """Send a mail. Returns the server's reply about the recipient."""
        self.command("DATA")
        return self.command("Subject: Hello\r\n\r\nHello.\r\n.")


def encoded(response: bytes) -> str:
    """Return a response as it is sent."""
    return base64.b64encode(response).decode()


def packed(end: tuple[str, int]) -> str:
    """Return address and port as /proc/net writes them."""
    address, port = end
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"


class _Relay(socketserver.StreamRequestHandler):
    """Accepts every mail."""

    timeout = 300

    def handle(self) -> None:
        self._say("220 relay.example ESMTP")
        in_data = False
        while line := self.rfile.readline():
            word = line[:4].upper().rstrip()
            if in_data:
                in_data = line != b".\r\n"
                if not in_data:
                    self._say("250 taken")
            elif word == b"DATA":
                in_data = True
                self._say("354 go on")
            elif word == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 fine")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Ignore clients that hang up."""


@contextmanager
def relay(address: str) -> Iterator[tuple[str, int]]:
    """Give address and port of a server that accepts mail of a backend's submission service."""
    with _Server((address, 0), _Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address, server.server_address[1]
        server.shutdown()
