"""The keeper: holds the login and userdb sockets and the notify FIFO open while no director serves them.

A login process of Dovecot that is refused once stalls (docs/dovecot.md, "While no director runs"), so these
three outlive the director. This file is a program of its own, with the standard library only:

    python -I -S keeper.py CONTROL_PATH [standalone]

with the listening control socket as descriptor 3 and one end of a connection to a director as descriptor 4.
Messages are JSON objects, one to a packet (SOCK_SEQPACKET):

    to the keeper     {"ask": "status"}        what it holds; it closes the connection after the reply
                      {"ask": "copies"}        the same with descriptors
                      {"ask": "serve"}         the same; the connection becomes that of the director, unless
                                               there is one already
    from a director   {"keep": [...]}          with descriptors: hold these instead of the present ones
                      {"stopping": true}       the director is about to end in an orderly way
                      {"bye": true}            hold nothing any more, and leave the files
    from the keeper   {"format", "process", "standalone", "busy", "kept": [...]}

An entry of `keep` and `kept` has the fields of `Kept` except the descriptor, which is sent beside it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

FORMAT = 1
"""The version of the messages. Raise it only if an older director would be misled: unknown fields are
skipped."""
CONTROL, CONNECTION = 3, 4
"""The descriptors at the start."""
AFTER_DEATH, AFTER_STOP = 600.0, 60.0
"""Seconds without a director after which the sockets are closed and their files removed: after a director
that was killed, and after one that was stopped in an orderly way."""
CHECK_EVERY = 1.0
"""Seconds between two checks of files and deadlines."""
MISSING_FOR = 2.0
"""Seconds after which a control socket whose file was deleted is made again."""
ASK_WITHIN = 2.0
"""Seconds in which a peer must send its request and take the answer."""
PAUSE = 0.1
"""Seconds until a peer is accepted again after descriptors or memory have run out."""
MOST_BYTES, MOST_DESCRIPTORS, MOST_PEERS = 65536, 16, 16
NAMES = ("login", "userdb", "notify")
"""The listeners that are kept. Clients of the ring, of the API and of `doveadm director` are to be refused
at once while no director runs."""
COMMAND_NAME = "director-keeper"
"""The name that `ps` and `top` show: at most 15 bytes."""

Identity = tuple[int, int]
"""The device and inode number of a file. They stay unique while the socket or FIFO is open."""


class Kept(NamedTuple):
    """A listening socket or the FIFO."""

    name: str
    path: str
    owns_file: bool
    """Whether the file is removed with the socket."""
    identity: Identity
    """The identity of its file."""
    descriptor: int


class Bad(Exception):
    """A message is invalid. Its connection is closed."""


def identity_of(path: str) -> Identity | None:
    """Return the identity of the file at `path`; None: it does not exist or cannot be examined."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send(connection: socket.socket, message: dict[str, Any], kept: Sequence[Kept] = ()) -> None:
    """Send a message with the descriptors of `kept`. Raises OSError."""
    data = json.dumps(message).encode()
    socket.send_fds(connection, [data], [entry.descriptor for entry in kept])


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive a message and its descriptors, which the caller closes; None: the connection has ended.

    Raises:
        Bad: the message is invalid.
        OSError: the connection failed.
    """
    data, descriptors, flags, _ = socket.recv_fds(
        connection, MOST_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not data and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Bad("a message is incomplete")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise Bad("a message is not an object")
    except (Bad, ValueError) as exc:
        close_all(descriptors)
        raise Bad(str(exc)) from exc
    return message, descriptors


def described(kept: Sequence[Kept]) -> list[dict[str, Any]]:
    """Return the entries of a message; the descriptors are sent beside it."""
    return [
        {"name": entry.name, "path": entry.path, "owns_file": entry.owns_file, "identity": entry.identity}
        for entry in kept
    ]


def read_kept(entries: Any, descriptors: Sequence[int]) -> list[Kept]:
    """Return what `described` was given. Raises Bad, and then the caller has to close the descriptors."""
    try:
        if len(entries) != len(descriptors):
            raise Bad(f"{len(entries)} entries with {len(descriptors)} descriptors")
        if any(entry["name"] not in NAMES for entry in entries):
            raise Bad("its listener is none that a keeper holds")
        return [
            Kept(
                str(entry["name"]),
                str(entry["path"]),
                entry["owns_file"] is True,
                (int(entry["identity"][0]), int(entry["identity"][1])),
                descriptor,
            )
            for entry, descriptor in zip(entries, descriptors, strict=True)
        ]
    except (TypeError, KeyError, IndexError, ValueError) as exc:
        raise Bad(f"an entry is damaged: {exc!r}") from exc


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a unix socket."""
    size = struct.calcsize("3i")
    uid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
    return uid


def control_socket(path: str) -> socket.socket:
    """Return a control socket that listens at `path` and replaces the file that is there. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    # Under another name first, so that there is a complete control socket at the path at every moment.
    new = f"{path}.{os.urandom(4).hex()}"
    try:
        os.fchmod(sock.fileno(), 0o600)  # bind() creates the file with this mode
        sock.bind(new)
        try:
            sock.listen(MOST_PEERS)
            os.rename(new, path)
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise
    except OSError:
        sock.close()
        raise
    return sock


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


class _Terminated(Exception):
    """SIGTERM or SIGINT arrived."""


class Keeper:
    """The sockets that are kept, the connection to the director, and the peers."""

    def __init__(
        self,
        path: str,
        control: socket.socket,
        director: socket.socket,
        *,
        standalone: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to keep.

        Args:
            path: the path of the control socket.
            control: the control socket.
            director: the connection to the director.
            standalone: whether the keeper was started on its own; then it continues even if it holds nothing.
            clock: monotonic seconds.
        """
        self._path, self._control, self._standalone, self._clock = path, control, standalone, clock
        self._identity = identity_of(path)
        self._director: socket.socket | None = director
        self._kept: list[Kept] = []
        self._patience = AFTER_DEATH
        self._deadline = 0.0
        """The time at which all sockets are given up, if there is no director until then."""
        self._peers: dict[socket.socket, float] = {}
        """Connections that have not sent a request yet, with their deadlines."""
        self._accept_at = 0.0
        """The time from which peers are accepted again."""
        self._missing_since: float | None = None
        """The time since when the file of the control socket has been missing."""
        self.ended = False

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        try:
            while not self.ended:
                self.turn()
        except _Terminated:
            self._give_up(files=self._director is None)
        if identity_of(self._path) == self._identity:
            with suppress(OSError):
                os.unlink(self._path)
        self.close()

    def close(self) -> None:
        """Close everything. The files stay."""
        close_all([entry.descriptor for entry in self._kept])
        self._kept = []
        for end in (self._control, *self._peers, *([self._director] if self._director is not None else [])):
            end.close()

    def turn(self, wait: float | None = None) -> None:
        """Handle messages, and whatever is due.

        `wait`: seconds to wait for a message; None: until there is work.
        """
        # While a director serves, it checks the control socket itself, and the keeper need not wake up.
        if wait is None and (self._director is None or self._peers or self._standalone):
            wait = CHECK_EVERY
        waiting = list(self._peers)
        if self._clock() >= self._accept_at:
            waiting.append(self._control)
        else:
            wait = PAUSE if wait is None else min(wait, PAUSE)
        if self._director is not None:
            waiting.append(self._director)
        ready, _, _ = select.select(waiting, [], [], wait)
        # All messages of the director before those of peers: its successor may be among the peers already.
        while self._director is not None and select.select([self._director], [], [], 0)[0]:
            self._hear_director()
        for peer in [candidate for candidate in self._peers if candidate in ready]:
            self._hear_peer(peer)
        if self._control in ready:
            self._accept()
        self._check()

    # ---- peers

    def _accept(self) -> None:
        try:
            peer, _ = self._control.accept()
        except BlockingIOError:
            return
        except OSError:
            self._accept_at = self._clock() + PAUSE
            return
        if len(self._peers) >= MOST_PEERS or peer_uid(peer) not in (0, os.geteuid()):
            peer.close()
            return
        peer.settimeout(ASK_WITHIN)
        self._peers[peer] = self._clock() + ASK_WITHIN

    def _hear_peer(self, peer: socket.socket) -> None:
        del self._peers[peer]
        stays = False
        try:
            heard = receive(peer)
            if heard is not None:
                message, descriptors = heard
                close_all(descriptors)
                stays = self._answer(peer, message.get("ask"))
        except (OSError, Bad):
            stays = False
        finally:
            if not stays:
                peer.close()

    def _answer(self, peer: socket.socket, ask: object) -> bool:
        """Answer a request. Returns whether the peer has become the director."""
        if ask not in ("status", "copies", "serve"):
            raise Bad(f"cannot {ask!r}")
        busy = self._director is not None
        shared = self._kept if ask == "copies" or (ask == "serve" and not busy) else []
        reply = {
            "format": FORMAT,
            "process": os.getpid(),
            "standalone": self._standalone,
            "busy": busy,
            "kept": described(self._kept),
        }
        send(peer, reply, shared)
        if ask != "serve" or busy:
            return False
        self._director, self._patience = peer, AFTER_DEATH
        return True

    # ---- the director

    def _hear_director(self) -> None:
        assert self._director is not None
        try:
            heard = receive(self._director)
        except (OSError, Bad):
            heard = None
        if heard is None:
            self._director.close()
            self._director, self._deadline = None, self._clock() + self._patience
            return
        message, descriptors = heard
        if "keep" in message:
            try:
                kept = read_kept(message["keep"], descriptors)
            except Bad:
                close_all(descriptors)  # the sockets that are held already are better than none
            else:
                self._replace(kept)
            return
        close_all(descriptors)
        if "stopping" in message:
            self._patience = AFTER_STOP
        elif "bye" in message:
            self._give_up(files=False)
            if self._standalone:
                self._director.close()
                self._director = None

    def _replace(self, kept: list[Kept]) -> None:
        """Hold `kept` instead of the present sockets, whose files are removed unless they belong to `kept`
        too."""
        before, self._kept = self._kept, kept
        identities = {entry.identity for entry in kept}
        for entry in before:
            if entry.owns_file and entry.identity not in identities:
                _remove(entry)
        close_all([entry.descriptor for entry in before])

    # ---- alone

    def _check(self) -> None:
        now = self._clock()
        for peer in [peer for peer, until in self._peers.items() if now > until]:
            del self._peers[peer]
            peer.close()
        if self._director is not None and not self._standalone:
            return
        found = identity_of(self._path)
        if found not in (None, self._identity):
            self._give_up(files=False)  # another keeper has taken over
            self.ended = True
            return
        alone = self._director is None and bool(self._kept or not self._standalone)
        reachable = any(identity_of(entry.path) == entry.identity for entry in self._kept)
        if alone and (now > self._deadline or not reachable):
            self._give_up(files=True)
        elif found is None:
            self._replace_control_socket(now)
        else:
            self._missing_since = None

    def _replace_control_socket(self, now: float) -> None:
        """Make the control socket again after it was missing for MISSING_FOR seconds.

        Its folder may be about to be removed.
        """
        if self._missing_since is None:
            self._missing_since = now
        elif now > self._missing_since + MISSING_FOR:
            with suppress(OSError):
                control = control_socket(self._path)
                self._control.close()
                self._control, self._identity = control, identity_of(self._path)

    def _give_up(self, *, files: bool) -> None:
        """Close all sockets that are held, and remove their files if `files` says so."""
        for entry in self._kept:
            if files and entry.owns_file:
                _remove(entry)
        close_all([entry.descriptor for entry in self._kept])
        self._kept = []
        self.ended = not self._standalone


def _remove(kept: Kept) -> None:
    if identity_of(kept.path) == kept.identity:
        with suppress(OSError):
            os.unlink(kept.path)


def _close_others() -> None:
    """Close descriptors that were inherited by accident: a director's log, store or clients."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > CONNECTION:
            with suppress(OSError):
                os.close(int(name))


def main(arguments: Sequence[str]) -> None:
    """Run as a program; see the module's docstring."""

    def terminate(*_: object) -> NoReturn:
        raise _Terminated

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, terminate)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    _close_others()
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(COMMAND_NAME)
    control, director = socket.socket(fileno=CONTROL), socket.socket(fileno=CONNECTION)
    control.setblocking(False)
    director.setblocking(True)
    Keeper(arguments[0], control, director, standalone="standalone" in arguments[1:]).run()


if __name__ == "__main__":
    main(sys.argv[1:])
