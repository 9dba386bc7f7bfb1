"""The director's end of the connection to its keeper (keeper.py). No call waits for more than 2 s."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from director.net import keeper
from director.net.keeper import Bad, Kept

_ABOVE = 16
"""Descriptors are moved to this number or higher before they get the numbers that the keeper expects."""
_STANDARD = (0, 1, 2)


class KeeperError(Exception):
    """A keeper cannot be asked or started. The message says why."""


class KeeperAnswer(NamedTuple):
    """A keeper's answer about itself."""

    process: int
    """The process id, in the keeper's own PID namespace: it may be in another container."""
    standalone: bool
    """Whether it was started by `director keep`."""
    busy: bool
    """Whether a director serves what it holds."""
    names: tuple[str, ...]
    """The names of the listeners that it holds."""
    kept: list[Kept]
    """Copies of the sockets, if they were asked for. The caller closes the descriptors."""


class KeeperConnection:
    """An open connection to the keeper."""

    def __init__(self, connection: socket.socket, path: str, identity: keeper.Identity | None) -> None:
        """Keep the connection, and make it non-blocking.

        Args:
            connection: the connection to the keeper.
            path: the path of the control socket of the keeper.
            identity: device and inode number of that socket.
        """
        self.connection, self.path, self.identity = connection, path, identity
        connection.setblocking(False)

    @property
    def is_current(self) -> bool:
        """Whether the file at the path is still the keeper's control socket."""
        return self.identity is not None and keeper.identity_of(self.path) == self.identity

    @property
    def is_open(self) -> bool:
        """Whether the keeper is connected. It never sends anything unasked."""
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def keep(self, kept: Sequence[Kept]) -> None:
        """Have the keeper hold `kept` instead of what it holds. Raises KeeperError."""
        self._send({"keep": keeper.described(kept)}, kept)

    def stopping(self) -> None:
        """Announce that this director ends in an orderly way. Raises KeeperError."""
        self._send({"stopping": True})

    def bye(self) -> None:
        """Have the keeper end and leave all files, and close the connection."""
        with suppress(KeeperError):
            self._send({"bye": True})
        self.connection.close()

    def _send(self, message: dict[str, object], kept: Sequence[Kept] = ()) -> None:
        try:
            keeper.send(self.connection, message, kept)
        except OSError as exc:
            raise KeeperError(f"the keeper does not accept a message: {exc.strerror or exc}") from exc


def ask(path: str, what: str, user: int | None = None) -> tuple[KeeperAnswer, socket.socket] | None:
    """Ask the keeper of a control socket.

    The caller closes the connection. After `serve` the connection is that of the director, unless the keeper
    is busy.

    Args:
        path: the path of the control socket.
        what: `status`, `copies` or `serve`.
        user: id of a user whose keeper is trusted, besides root's and that of this process' user.

    Returns:
        The answer and the connection; None: there is no keeper.

    Raises:
        KeeperError: the keeper belongs to another user, or its answer is invalid.
    """
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as exc:
        raise KeeperError(f"{path}: {exc.strerror}") from exc
    connection.settimeout(keeper.ASK_WITHIN)
    try:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
            return None
        except PermissionError:
            if _is_visible(path):
                raise
            # This user cannot examine the folder, so no director of this user can have started a keeper in
            # it.
            connection.close()
            return None
        if (uid := keeper.peer_uid(connection)) not in (0, os.geteuid(), user):
            raise KeeperError(
                f"{path}: a process of uid {uid} listens there, which is neither root nor this user"
            )
        keeper.send(connection, {"ask": what})
        heard = keeper.receive(connection)
        if heard is None:
            raise KeeperError(
                f"{path}: the keeper closed the connection; it serves only its own user and root"
            )
        return read_answer(*heard), connection
    except KeeperError:
        connection.close()
        raise
    except (OSError, Bad) as exc:
        connection.close()
        raise KeeperError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _is_visible(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def read_answer(message: dict[str, object], descriptors: list[int]) -> KeeperAnswer:
    """Return a keeper's answer. Raises Bad after closing the descriptors."""
    try:
        entries = message.get("kept")
        if not isinstance(entries, list) or message.get("format") != keeper.FORMAT:
            raise Bad(f"the keeper speaks format {message.get('format')!r}, not {keeper.FORMAT}")
        return KeeperAnswer(
            process=int(str(message.get("process", 0))),
            standalone=message.get("standalone") is True,
            busy=message.get("busy") is True,
            names=tuple(str(entry.get("name")) for entry in entries),
            kept=keeper.read_kept(entries, descriptors) if descriptors else [],
        )
    except (AttributeError, ValueError) as exc:
        keeper.close_all(descriptors)
        raise Bad(f"an answer is damaged: {exc!r}") from exc
    except Bad:
        keeper.close_all(descriptors)
        raise


def status(path: str, user: int | None = None) -> KeeperAnswer:
    """Return what the keeper of a control socket says of itself.

    Args:
        path: the path of the control socket.
        user: as for `ask`.

    Raises:
        KeeperError: as for `ask`; or there is no keeper.
    """
    reply = ask(path, "status", user)
    if reply is None:
        raise KeeperError(f"{path}: no keeper listens there")
    answer, connection = reply
    connection.close()
    keeper.close_all([entry.descriptor for entry in answer.kept])  # none were asked for
    return answer


def start(path: str, kept: Sequence[Kept]) -> tuple[KeeperConnection, int]:
    """Start a keeper, which replaces an existing keeper.

    Args:
        path: the path of the control socket.
        kept: the sockets that it holds.

    Returns:
        The connection, and the process id of the child.

    Raises:
        KeeperError: the keeper does not start, or does not answer.
    """
    try:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as exc:
        raise KeeperError(f"cannot connect to a keeper: {exc.strerror}") from exc
    try:
        control = keeper.control_socket(path)
    except OSError as exc:
        near.close()
        far.close()
        raise KeeperError(f"{path}: {exc.strerror or exc}") from exc
    identity = keeper.identity_of(path)
    link = KeeperConnection(near, path, identity)
    try:
        with control, far:
            link.keep(kept)  # the message waits in the connection until the keeper reads it
            child = _spawn(command(path), control, far)
    except (OSError, KeeperError) as exc:
        near.close()
        if keeper.identity_of(path) == identity:
            with suppress(OSError):
                os.unlink(path)
        raise KeeperError(
            f"{sys.executable} cannot be started: {getattr(exc, 'strerror', None) or exc}"
        ) from exc
    return link, child


def has_ended(child: int) -> bool:
    """Whether a keeper that was started here has ended. Then its exit status is collected."""
    try:
        return os.waitpid(child, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def become(path: str, control: socket.socket, kept: Sequence[Kept]) -> None:
    """Turn this process into the standalone keeper of `kept`. Returns only by raising OSError."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper.send(near, {"keep": keeper.described(kept)}, kept)
    near.close()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for end in (control.fileno(), far.fileno())]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in _STANDARD:
        os.dup2(null, number)
    os.dup2(high[0], keeper.CONTROL)
    os.dup2(high[1], keeper.CONNECTION)
    os.execve(sys.executable, [*command(path), "standalone"], _environment())


def command(path: str) -> list[str]:
    """Return the command line of a keeper."""
    return [sys.executable, "-I", "-S", keeper.__file__, path]


def _environment() -> dict[str, str]:
    """Return the variables that the interpreter itself may need.

    The others may hold secrets of the configuration.
    """
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _spawn(arguments: list[str], control: socket.socket, connection: socket.socket) -> int:
    """Start a program in its own session without the open files of this process. Returns its process id."""
    high: list[int] = []
    try:
        for end in (control.fileno(), connection.fileno()):
            high.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
        actions = [
            *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in _STANDARD),
            (os.POSIX_SPAWN_DUP2, high[0], keeper.CONTROL),
            (os.POSIX_SPAWN_DUP2, high[1], keeper.CONNECTION),
        ]
        environment = _environment()
        return os.posix_spawn(
            arguments[0], arguments, environment, file_actions=actions, setsid=True, setsigmask=()
        )
    finally:
        keeper.close_all(high)
