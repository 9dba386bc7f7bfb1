"""Opens listening sockets (unix and TCP) and the notify FIFO, and takes over inherited ones.

Errors name the listener, its path or address, and what to do. At the end a file is removed only if it is
still the file that was made here: a successor may have replaced it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
from contextlib import suppress

from director.errors import ListenError
from director.net.keeper import Kept

BACKLOG = 1024
"""Connections that may wait to be accepted: all login processes reconnect at the same time."""


class _OwnFile:
    """A file that belongs to an open descriptor, so that no other file can get its inode number."""

    def __init__(self, path: str) -> None:
        status = os.lstat(path)
        self._path, self.identity = path, (status.st_dev, status.st_ino)

    def remove(self) -> None:
        with suppress(OSError):  # removed already, or in a folder that this process may no longer change
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self.identity:
                os.unlink(self._path)


class Listener:
    """A listening socket, non-blocking."""

    def __init__(self, name: str, where: str, sock: socket.socket, file: _OwnFile | None = None) -> None:
        self.name, self.where, self.socket, self._file = name, where, sock, file

    @property
    def owns_file(self) -> bool:
        """Whether the socket's file is removed at the end."""
        return self._file is not None

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode number of the file that is removed at the end; None: none is."""
        return self._file.identity if self._file else None

    def leave_file(self) -> None:
        """Leave the file at the end, because another process continues with it."""
        self._file = None

    def hand_over(self) -> int:
        """Give away the descriptor, for a successor. After this `close` does nothing."""
        return self.socket.detach()

    def close(self) -> None:
        if self._file is not None and self.socket.fileno() >= 0:
            self._file.remove()
        self.socket.close()


class Fifo:
    """A FIFO that is open for reading and writing, non-blocking: reading it meets no end, and its writers
    never wait.

    A login process that opens a FIFO without a reader stalls with all its sessions.
    """

    def __init__(self, name: str, where: str, fd: int, file: _OwnFile | None = None) -> None:
        self.name, self.where, self.fd, self._file = name, where, fd, file

    @property
    def owns_file(self) -> bool:
        """Whether the file is removed at the end."""
        return self._file is not None

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number of the FIFO."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def leave_file(self) -> None:
        """Leave the file at the end, because another process continues with it."""
        self._file = None

    def hand_over(self) -> int:
        """Give away the descriptor, for a successor. After this `close` does nothing."""
        fd, self.fd = self.fd, -1
        return fd

    def is_lost(self) -> bool:
        """Whether there is another file at the path by now, or none."""
        try:
            at_path, opened = os.stat(self.where), os.fstat(self.fd)
        except PermissionError:
            # user `dovecot` may not examine the folder login/ that systemd has made
            return os.fstat(self.fd).st_nlink == 0
        except OSError:
            return True
        return (at_path.st_dev, at_path.st_ino) != (opened.st_dev, opened.st_ino)

    def become(self, other: Fifo) -> None:
        """Replace this FIFO by another one, whose object is closed. The descriptor keeps its number."""
        os.dup2(other.fd, self.fd, inheritable=False)
        os.close(other.fd)
        other.fd = -1
        self._file = other._file

    def close(self) -> None:
        if self.fd < 0:
            return
        if self._file is not None:
            self._file.remove()
        os.close(self.fd)
        self.fd = -1


def unix_listener(
    name: str, path: str, *, mode: int, user: str = "", group: str = "", backlog: int = BACKLOG
) -> Listener:
    """Listen on a unix socket. Missing folders are made; a socket file that no process serves is replaced.

    Args:
        name: the name of the listener in the configuration.
        path: the path of the socket.
        mode: the mode of the file.
        user: name or number; empty: the user of this process.
        group: name or number; empty: the group of this process.
        backlog: connections that may wait to be accepted.

    Raises:
        ListenError: the socket cannot be opened.
    """
    owner = _owner(name, path, user, group)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    file = None
    try:
        make_folder(name, path)
        _clear_way(name, path)
        os.fchmod(sock.fileno(), mode)  # bind() creates the file with this mode: never a wider one
        sock.bind(path)
        file = _OwnFile(path)
        os.chown(path, *owner)
        os.chmod(path, mode)
        sock.listen(backlog)
    except BaseException as exc:
        if file is not None:
            file.remove()
        sock.close()
        if isinstance(exc, OSError):
            raise _file_error(name, path, exc) from exc
        raise
    return Listener(name, path, sock, file)


def tcp_listener(name: str, address: str, port: int, *, backlog: int = BACKLOG) -> Listener:
    """Listen on an IP address; port 0: any free port. Raises ListenError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise ListenError(name, _endpoint(address, port), _tcp_reason(exc)) from exc
    return Listener(name, _endpoint(*sock.getsockname()[:2]), sock)


def open_fifo(name: str, path: str, *, mode: int, user: str = "", group: str = "") -> Fifo:
    """Open the FIFO `path`, and make it if it is missing. Raises ListenError.

    An existing FIFO is never replaced: a login process may be waiting for it to get a reader. If another
    process reads it (Dovecot's master may hold it open), mode and owner stay, and it is not removed at the
    end.
    """
    fd = -1
    try:
        owner = _owner(name, path, user, group)
        make_folder(name, path)
        with suppress(FileExistsError):
            os.mkfifo(path, mode)
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise ListenError(
                name, path, "the file there is of another kind; remove it, or configure another path"
            )
        shared = _has_reader(path)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not shared:
            os.chown(path, *owner)
            os.chmod(path, mode)
        return Fifo(name, path, fd, None if shared else _OwnFile(path))
    except OSError as exc:
        if fd >= 0:
            os.close(fd)
        raise _file_error(name, path, exc) from exc


def adopt_listener(name: str, fd: int, where: str = "", *, owns_file: bool = False) -> Listener:
    """Return a listener for a socket that was opened elsewhere.

    Args:
        name: the name of the listener in the configuration.
        fd: the descriptor of the socket.
        where: its address as configured; empty: as the kernel writes it.
        owns_file: whether its file is removed at the end. If not, another process keeps the socket, and the
            file stays.

    Raises:
        ListenError: it is no listening socket.
    """
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        )
    except OSError as exc:
        raise ListenError(
            name, f"descriptor {fd}", "it is not a listening socket; see its socket unit"
        ) from exc
    if not listening:
        sock.close()
        raise ListenError(name, f"descriptor {fd}", "it is not a listening socket; see its socket unit")
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    address = sock.getsockname()
    where = where or (address if isinstance(address, str) else _endpoint(*address[:2]))
    return Listener(name, where, sock, _file_of(where) if owns_file else None)


def adopt_fifo(name: str, fd: int, where: str = "", *, owns_file: bool = False) -> Fifo:
    """Return a FIFO that was opened elsewhere.

    Args:
        name: the name of the FIFO in the configuration.
        fd: its descriptor.
        where: as for `adopt_listener`.
        owns_file: as for `adopt_listener`.

    Raises:
        ListenError: it is no FIFO.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise ListenError(name, f"descriptor {fd}", "it is not a FIFO; its socket unit needs ListenFIFO=")
        # The FIFO is made again at this path if it gets lost. For a FIFO of another container the kernel's
        # path is wrong here.
        path = where or os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
        # Opened again for reading and writing: the mode of the inherited descriptor is unknown.
        descriptor = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        reason = f"it is not a FIFO that can be opened ({exc.strerror}); see its socket unit"
        raise ListenError(name, f"descriptor {fd}", reason) from exc
    os.close(fd)
    return Fifo(name, path, descriptor, _file_of(path) if owns_file else None)


def to_keep(opened: Listener | Fifo) -> Kept | None:
    """Return the entry of an open listener for the keeper; None: the director has made no file for it.

    The descriptor is not duplicated: it still belongs to `opened`.
    """
    if opened.identity is None:
        return None
    descriptor = opened.fd if isinstance(opened, Fifo) else opened.socket.fileno()
    return Kept(opened.name, opened.where, opened.owns_file, opened.identity, descriptor)


def set_rights(name: str, path: str, *, mode: int, user: str = "", group: str = "") -> None:
    """Change mode and owner of the file of an open socket or FIFO. Raises ListenError."""
    owner = _owner(name, path, user, group)
    try:
        os.chown(path, *owner)
        os.chmod(path, mode)
    except OSError as exc:
        raise _file_error(name, path, exc) from exc


def _file_of(path: str) -> _OwnFile | None:
    """Return the file at the path; None: it was removed."""
    with suppress(OSError):
        return _OwnFile(path)
    return None


def _is_id(text: str) -> bool:
    """Whether the text is a number that the kernel accepts as a user or group id."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def _owner(name: str, path: str, user: str, group: str) -> tuple[int, int]:
    """Return user and group id for chown; -1: leave as it is."""
    try:
        uid = int(user) if _is_id(user) else pwd.getpwnam(user).pw_uid if user else -1
    except (KeyError, ValueError):
        raise ListenError(name, path, f"there is no user {user!r}; create it, or correct `user`") from None
    try:
        gid = int(group) if _is_id(group) else grp.getgrnam(group).gr_gid if group else -1
    except (KeyError, ValueError):
        raise ListenError(name, path, f"there is no group {group!r}; create it, or correct `group`") from None
    return uid, gid


def make_folder(name: str, path: str) -> None:
    """Make the folder of `path` if it is missing. Raises OSError and ListenError."""
    folder = os.path.dirname(path)
    if not folder or os.path.isdir(folder):
        return
    make_folder(name, folder)
    # Dovecot 2.3's director leaves its socket login/director, and this director needs a folder of that name.
    if os.path.exists(folder) and stat.S_ISSOCK(os.lstat(folder).st_mode):
        _clear_way(name, folder)
    os.mkdir(folder)
    os.chmod(folder, 0o755)


def _clear_way(name: str, path: str) -> None:
    """Remove a socket file that no process serves. Raises ListenError if anything else is there."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ListenError(
            name, path, "the file there is of another kind; remove it, or configure another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            # Its queue is full, or it is a socket of another type.
            if exc.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise ListenError(
        name,
        path,
        "another process listens there; stop that process (is a director running?), or configure"
        " another path",
    )


def _has_reader(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return False
    return True


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _file_error(name: str, path: str, exc: OSError) -> ListenError:
    match exc.errno:
        case errno.EACCES | errno.EPERM:
            reason = (
                f"uid {os.getuid()} may not create it, or give it the configured mode and owner;"
                f" run the director as a user who may, or create {os.path.dirname(path)} for it"
            )
        case errno.EADDRINUSE:
            reason = "another process has just opened it; check whether a second director is being started"
        case errno.EEXIST | errno.ENOTDIR:
            reason = "a part of the path is a file, not a folder; configure another path"
        case _:
            reason = exc.strerror or str(exc)
    return ListenError(name, path, reason)


def _tcp_reason(exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "another process uses this port; stop that process, or configure another port"
        case errno.EADDRNOTAVAIL:
            return "not an address of this machine; configure an address of this machine"
        case errno.EACCES:
            return f"uid {os.getuid()} may not use this port; configure a port from 1024 on"
    return exc.strerror or str(exc)
