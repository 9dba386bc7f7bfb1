"""Connections to Dovecot 2.4's anvil socket, and to the sockets of its login processes."""

from __future__ import annotations

from director.net.kickline import KickConnection
from director.wire import anvil


class AnvilConnection(KickConnection):
    """A connection to anvil.

    A kick is answered with a number, a listing with rows, which `ask` passes to its `row`.
    """

    _hello = anvil.HELLO
    _greeting = anvil.GREETING

    def __init__(self, path: str) -> None:
        super().__init__(path, anvil.REPLY_LIMIT)
        self._greeted = False
        self._within = False
        """Whether the first line of a listing has come, which may be empty. The next empty line ends the
        listing."""

    def _line(self, line: bytes) -> None:
        if not self._greeted:
            if not line.startswith(self._greeting):
                raise ValueError(f"{line[:40]!r} is no greeting of Dovecot 2.4")
            self._greeted = True
        elif not self._missing:
            raise ValueError("an answer without a request")
        elif self._row is None:
            self._answered(anvil.read_count(line))
        elif line or not self._within:
            self._within = True
            self._row(line)
        else:
            self._within = False
            self._answered(0)


class ProcessConnection(AnvilConnection):
    """A connection to a login process."""

    _hello = anvil.PROCESS_HELLO
    _greeting = anvil.PROCESS_GREETING
