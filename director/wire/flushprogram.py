"""The flush program: its setting in the configuration, its arguments, and its answer.

A socket uses Dovecot's script protocol (the stock `script` service answers it); `exec:` runs the program on
this machine.
"""

from __future__ import annotations

import re

import msgspec

from director.wire.tabs import escape

OUTPUT_LIMIT = 16384
"""Bytes of a program's output that are kept. The rest is read and dropped."""
FORMS = '"unix:PATH", "tcp:HOST:PORT" or "exec:/PATH ARGUMENTS"'

_VARIABLE = re.compile(r"%(?:\{([^}]*)\}?|(.?))", re.DOTALL)
_NAMES = {"i": "ip", "ip": "ip", "h": "host", "host": "host"}


class UnixSocket(msgspec.Struct, frozen=True):
    path: str


class TcpSocket(msgspec.Struct, frozen=True):
    host: str
    port: int


class Command(msgspec.Struct, frozen=True):
    """A program of this machine and its first arguments. The arguments of the request follow."""

    words: list[str]


FlushProgram = UnixSocket | TcpSocket | Command


class FlushRequest(msgspec.Struct, frozen=True):
    """The arguments of a move: the user with this hash moves from one host to another."""

    hash32: int
    old_host: str
    new_host: str
    old_up: bool
    """The state of the old host at the time of the move, as is its weight."""
    old_weight: int
    hostname: str
    """The name of the new host; empty: it has none."""


class FlushResult(msgspec.Struct, frozen=True):
    ok: bool
    output: list[str]
    """The lines that the program printed."""
    problem: str
    """Why the program failed; empty if `ok`."""


def read_setting(setting: str) -> FlushProgram:
    """Return the program that a setting names, with its variables unchanged.

    Raises:
        ValueError: the setting names no program. The message says what is expected.
    """
    kind, _, rest = setting.partition(":")
    for match in _VARIABLE.finditer(rest):
        _value(match, "", "")
    match kind:
        case "unix" if rest:
            return UnixSocket(rest)
        case "tcp":
            host, _, port = rest.rpartition(":")
            if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
                raise ValueError('expected "tcp:HOST:PORT", such as "tcp:%i:4155"')
            return TcpSocket(host.removeprefix("[").removesuffix("]"), int(port))
        case "exec":
            if not rest.startswith("/"):
                raise ValueError(
                    'expected the absolute path of a program, such as "exec:/usr/local/bin/flush"'
                )
            return Command(rest.split())
    raise ValueError(f"expected {FORMS}")


def program_for(setting: str, request: FlushRequest) -> FlushProgram:
    """Return the program for a request.

    `%i` and `%{ip}` are the new host's address, `%h` and `%{host}` its name.
    """

    def filled(text: str) -> str:
        return _VARIABLE.sub(lambda match: _value(match, request.new_host, request.hostname), text)

    match read_setting(setting):
        case UnixSocket(path=path):
            return UnixSocket(filled(path))
        case TcpSocket(host=host, port=port):
            return TcpSocket(filled(host), port)
        case Command(words=words):
            return Command([filled(word) for word in words])


def _value(match: re.Match[str], ip: str, host: str) -> str:
    name = match[1] if match[1] is not None else match[2]
    if match[0] == "%%":
        return "%"
    if name not in _NAMES or match[0] == "%{" + name:
        shown = match[0] if match[0].isprintable() else repr(match[0])
        raise ValueError(
            f'{shown} is no variable; there are %i or %{{ip}}, %h or %{{host}}, and %% for a "%"'
        )
    return ip if _NAMES[name] == "ip" else host


def arguments(request: FlushRequest) -> list[str]:
    """Return the program's arguments, in the order of Dovecot 2.3's director."""
    up = "up" if request.old_up else "down"
    words = [request.hash32, request.old_host, request.new_host, up, request.old_weight]
    return ["FLUSH", *map(str, words)]


def script_request(request: FlushRequest) -> bytes:
    """Return the arguments as a request of the script protocol.

    The sender shuts down its sending side after it.
    """
    lines = [b"VERSION\tscript\t4\t0", b"-", *(escape(word.encode()) for word in arguments(request)), b""]
    return b"".join(line + b"\n" for line in lines)


class Output:
    """The output of a program. The first `OUTPUT_LIMIT` bytes are kept, and always the last two."""

    def __init__(self) -> None:
        self._kept = b""
        self._last = b""

    def feed(self, data: bytes) -> None:
        data = self._last + data
        self._last = data[-2:]
        self._kept += data[:-2][: OUTPUT_LIMIT - len(self._kept)]

    def of_script(self) -> FlushResult:
        """Return the result of a script service that sent this output and closed the connection."""
        output = _lines(self._kept)
        if self._last == b"+\n":
            return FlushResult(True, output, "")
        if self._last == b"-\n":
            return FlushResult(False, output, "the program failed")
        if len(self._last) < 2:
            return FlushResult(False, _lines(self._kept + self._last), "no result code came")
        code = self._last.decode("utf-8", "backslashreplace")
        return FlushResult(False, output, f"unexpected result code {code!r}")

    def of_command(self, exit_status: int) -> FlushResult:
        """Return the result of a program that printed this output and ended.

        A negative status is a signal.
        """
        output = _lines(self._kept + self._last)
        if exit_status == 0:
            return FlushResult(True, output, "")
        how = f"signal {-exit_status}" if exit_status < 0 else f"exit status {exit_status}"
        return FlushResult(False, output, f"the program failed with {how}")


def _lines(output: bytes) -> list[str]:
    return output.decode("utf-8", "backslashreplace").splitlines()
