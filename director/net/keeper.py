"""The keeper: holds the login and userdb sockets and the notify FIFO open while no director serves them.

A login process of Dovecot that is refused once stalls (docs/dovecot.md, "While no director runs"), so these
three outlive the director. This file is a program of its own, with the standard library only:

    python -I -S keeper.py CONTROL_PATH [standalone]

with the listening control socket as descriptor 3 and one end of a connection to a director as descriptor 4.
Messages are JSON objects, one a packet (SOCK_SEQPACKET):

    to the keeper     {"ask": "status"}        what it holds; the connection is closed behind the reply
                      {"ask": "copies"}        the same with descriptors
                      {"ask": "serve"}         the same; the connection is the director's, unless one has it
    from a director   {"keep": [...]}          with descriptors: hold these instead of those before
                      {"stopping": true}       its end, which follows, is an orderly one
                      {"bye": true}            hold nothing any more, and leave the files alone
    from the keeper   {"format", "process", "standalone", "busy", "kept": [...]}

An entry of `keep` and `kept` has the fields of `Kept`, but for the descriptor, which comes beside it.
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
"""Of the messages. To be raised only where an older director would be misled: unknown fields are skipped."""
CONTROL, CONNECTION = 3, 4
"""Descriptors at the start."""
AFTER_DEATH, AFTER_STOP = 600.0, 60.0
"""Seconds without a director after which the sockets are closed and their files removed: a director that was
killed, and one that was stopped in order."""
CHECK_EVERY = 1.0
"""Seconds between two checks of files and deadlines."""
MISSING_FOR = 2.0
"""Seconds after which a control socket whose file was deleted is made anew."""
ASK_WITHIN = 2.0
"""Seconds in which a peer must say what it wants, and be answered."""
PAUSE = 0.1
"""Seconds until a peer is accepted again after descriptors or memory have run out."""
MOST_BYTES, MOST_DESCRIPTORS, MOST_PEERS = 65536, 16, 16
NAMES = ("login", "userdb", "notify")
"""Listeners that are kept, and no others: a client of the ring, the API or `doveadm director` is to be
refused at once while no director runs."""
COMMAND_NAME = "director-keeper"
"""At most 15 bytes: what `ps` and `top` show."""

Identity = tuple[int, int]
"""Device and inode number of a file. It stays unique while the socket or FIFO is open."""


class Kept(NamedTuple):
    """A listening socket or the FIFO."""

    name: str
    path: str
    owns_file: bool
    """Whether the file is removed with it."""
    identity: Identity
    """Of its file."""
    descriptor: int


class Bad(Exception):
    """A message that cannot be understood; its connection is closed."""


def identity_of(path: str) -> Identity | None:
    """Of the file at `path`; None: there is none, or it cannot be seen."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send(connection: socket.socket, message: dict[str, Any], kept: Sequence[Kept] = ()) -> None:
    """Send one message, with the descriptors of `kept`. Raises OSError."""
    data = json.dumps(message).encode()
    socket.send_fds(connection, [data], [entry.descriptor for entry in kept])


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which the caller closes; None at the end. Raises Bad and OSError."""
    data, descriptors, flags, _ = socket.recv_fds(
        connection, MOST_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not data and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Bad("a message is cut off")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise Bad("a message is not an object")
    except (Bad, ValueError) as exc:
        close_all(descriptors)
        raise Bad(str(exc)) from exc
    return message, descriptors


def described(kept: Sequence[Kept]) -> list[dict[str, Any]]:
    """Entries of a message; the descriptors go beside it."""
    return [
        {"name": entry.name, "path": entry.path, "owns_file": entry.owns_file, "identity": entry.identity}
        for entry in kept
    ]


def read_kept(entries: Any, descriptors: Sequence[int]) -> list[Kept]:
    """The reverse of `described`. Raises Bad; the descriptors are still the caller's then."""
    try:
        if len(entries) != len(descriptors):
            raise Bad(f"{len(entries)} entries with {len(descriptors)} descriptors")
        if any(entry["name"] not in NAMES for entry in entries):
            raise Bad("it is of a listener that is not kept")
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
    """User id of the process at the other end of a unix socket."""
    size = struct.calcsize("3i")
    uid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
    return uid


def control_socket(path: str) -> socket.socket:
    """A control socket that listens at `path`, in place of what is there. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    # Under another name first: at every moment one whole control socket is at the path.
    new = f"{path}.{os.urandom(4).hex()}"
    try:
        os.fchmod(sock.fileno(), 0o600)  # bind() creates the file with it
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
    """SIGTERM or SIGINT."""


class Keeper:
    """Everything it holds, and its peers."""

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
            path: of the control socket.
            control: the control socket.
            director: the connection to the director.
            standalone: started by itself; it goes on with nothing to hold.
            clock: monotonic seconds.
        """
        self._path, self._control, self._standalone, self._clock = path, control, standalone, clock
        self._identity = identity_of(path)
        self._director: socket.socket | None = director
        self._kept: list[Kept] = []
        self._patience = AFTER_DEATH
        self._deadline = 0.0
        """When all is given up, while there is no director."""
        self._peers: dict[socket.socket, float] = {}
        """Connections that have not said yet what they want, and until when they may."""
        self._accept_at = 0.0
        """When peers are accepted again."""
        self._missing_since: float | None = None
        """Since when the file of the control socket has been gone."""
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
        """Close everything; files stay."""
        close_all([entry.descriptor for entry in self._kept])
        self._kept = []
        for end in (self._control, *self._peers, *([self._director] if self._director is not None else [])):
            end.close()

    def turn(self, wait: float | None = None) -> None:
        """Deal with messages and with what is due. wait: seconds for a message; None: until there is work."""
        # While a director serves it looks after the control socket itself: no reason to wake up.
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
        # The director first, up to its end: its successor may be among the peers already.
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
        """Whether the peer is the director now."""
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
                close_all(descriptors)  # what it holds already is better than nothing
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
        """Hold these instead of those before, whose files are removed unless they belong to these."""
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
            self._give_up(files=False)  # another keeper is in charge
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
        """Make it anew where it has been missing for a while: not in a folder that is just being removed."""
        if self._missing_since is None:
            self._missing_since = now
        elif now > self._missing_since + MISSING_FOR:
            with suppress(OSError):
                control = control_socket(self._path)
                self._control.close()
                self._control, self._identity = control, identity_of(self._path)

    def _give_up(self, *, files: bool) -> None:
        """Close everything that is held. files: remove them, too."""
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
    """Close what was inherited by accident: the log of a director, its store, its clients."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > CONNECTION:
            with suppress(OSError):
                os.close(int(name))


def main(arguments: Sequence[str]) -> None:
    """Run as a program; see above."""

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
