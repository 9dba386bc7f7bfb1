"""Opens what others connect to: unix sockets, TCP sockets, the notify FIFO; and takes over inherited ones.

Errors name the listener, its path or address, and what to do. At the end a file is removed only if it is
still the one that was made here: a successor may have replaced it.
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
"""Connections that wait to be accepted: login processes all reconnect at once."""


class _OwnFile:
    """A file that belongs to an open descriptor, so that its inode number cannot be given to another one."""

    def __init__(self, path: str) -> None:
        status = os.lstat(path)
        self._path, self.identity = path, (status.st_dev, status.st_ino)

    def remove(self) -> None:
        with suppress(OSError):  # gone already, or in a folder we may not change any more
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self.identity:
                os.unlink(self._path)


class Listener:
    """A listening socket, non-blocking."""

    def __init__(self, name: str, where: str, sock: socket.socket, file: _OwnFile | None = None) -> None:
        self.name, self.where, self.socket, self._file = name, where, sock, file

    @property
    def owns_file(self) -> bool:
        """Whether its file is removed at the end."""
        return self._file is not None

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode number of the file that is removed at the end; None: no file is."""
        return self._file.identity if self._file else None

    def leave_file(self) -> None:
        """Do not remove the file at the end: another process goes on with it."""
        self._file = None

    def hand_over(self) -> int:
        """Its descriptor, for a successor: `close` does nothing any more."""
        return self.socket.detach()

    def close(self) -> None:
        if self._file is not None and self.socket.fileno() >= 0:
            self._file.remove()
        self.socket.close()


class Fifo:
    """A FIFO opened for both ends, non-blocking: its reader meets no end, its writers never wait.

    A login process that opens a FIFO nobody reads freezes with all its sessions.
    """

    def __init__(self, name: str, where: str, fd: int, file: _OwnFile | None = None) -> None:
        self.name, self.where, self.fd, self._file = name, where, fd, file

    @property
    def owns_file(self) -> bool:
        """Whether its file is removed at the end."""
        return self._file is not None

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number of the FIFO."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def leave_file(self) -> None:
        """Do not remove the file at the end: another process goes on with it."""
        self._file = None

    def hand_over(self) -> int:
        """Its descriptor, for a successor: `close` does nothing any more."""
        fd, self.fd = self.fd, -1
        return fd

    def is_lost(self) -> bool:
        """Whether at its path there is another file by now, or none."""
        try:
            at_path, opened = os.stat(self.where), os.fstat(self.fd)
        except PermissionError:
            # User dovecot may not look into login/, where systemd has made it.
            return os.fstat(self.fd).st_nlink == 0
        except OSError:
            return True
        return (at_path.st_dev, at_path.st_ino) != (opened.st_dev, opened.st_ino)

    def become(self, other: Fifo) -> None:
        """Take the place of another one, which is over by that; the descriptor keeps its number."""
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
    """Listen on a unix socket. Missing folders are made; a file that no process serves is replaced.

    Args:
        name: of the listener, as in the configuration.
        path: of the socket.
        mode: of the file.
        user: name or number; empty: that of this process.
        group: name or number; empty: that of this process.
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
        os.fchmod(sock.fileno(), mode)  # bind() creates the file with it: at no time may more people connect
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
    """Listen on an IP address; port 0: any. Raises ListenError."""
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
    """Open the FIFO `path`, made where it is missing. Raises ListenError.

    One that is there is never replaced: a login process may be waiting in it for a reader. If another process
    reads it (Dovecot's master can hold it), mode and owner stay and it is not removed at the end.
    """
    fd = -1
    try:
        owner = _owner(name, path, user, group)
        make_folder(name, path)
        with suppress(FileExistsError):
            os.mkfifo(path, mode)
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise ListenError(name, path, "there is something else; remove it, or configure another path")
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
    """Serve a socket that was opened elsewhere.

    Args:
        name: of the listener, as in the configuration.
        fd: descriptor of the socket.
        where: as it was written; empty: as the kernel writes it.
        owns_file: its file is removed at the end; else another process keeps it, and the file stays.

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
    """Read a FIFO that was opened elsewhere.

    Args:
        name: of the FIFO, as in the configuration.
        fd: its descriptor.
        where: as for `adopt_listener`.
        owns_file: as for `adopt_listener`.

    Raises:
        ListenError: it is no FIFO.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise ListenError(name, f"descriptor {fd}", "it is not a FIFO; its socket unit needs ListenFIFO=")
        # It is made anew there. Of another container's FIFO the kernel knows no path that is right here.
        path = where or os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
        # Opened again for both ends: how the other one opened it is not ours to know.
        descriptor = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        reason = f"it is not a FIFO that can be opened ({exc.strerror}); see its socket unit"
        raise ListenError(name, f"descriptor {fd}", reason) from exc
    os.close(fd)
    return Fifo(name, path, descriptor, _file_of(path) if owns_file else None)


def to_keep(opened: Listener | Fifo) -> Kept | None:
    """What a keeper is given of it; the descriptor stays that of `opened`. None: it has no file of ours."""
    if opened.identity is None:
        return None
    descriptor = opened.fd if isinstance(opened, Fifo) else opened.socket.fileno()
    return Kept(opened.name, opened.where, opened.owns_file, opened.identity, descriptor)


def set_rights(name: str, path: str, *, mode: int, user: str = "", group: str = "") -> None:
    """Give the file of an open socket, or of a FIFO, another mode and owner. Raises ListenError."""
    owner = _owner(name, path, user, group)
    try:
        os.chown(path, *owner)
        os.chmod(path, mode)
    except OSError as exc:
        raise _file_error(name, path, exc) from exc


def _file_of(path: str) -> _OwnFile | None:
    """The file that is there; None where somebody has removed it."""
    with suppress(OSError):
        return _OwnFile(path)
    return None


def _is_id(text: str) -> bool:
    """Whether this is a number that the kernel knows a user or a group by."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def _owner(name: str, path: str, user: str, group: str) -> tuple[int, int]:
    """Numbers for chown; -1 leaves as it is."""
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
    """Make the folder of `path` where it is missing. Raises OSError and ListenError."""
    folder = os.path.dirname(path)
    if not folder or os.path.isdir(folder):
        return
    make_folder(name, folder)
    # Dovecot's own director leaves its socket login/director where ours needs a folder of that name.
    if os.path.exists(folder) and stat.S_ISSOCK(os.lstat(folder).st_mode):
        _clear_way(name, folder)
    os.mkdir(folder)
    os.chmod(folder, 0o755)


def _clear_way(name: str, path: str) -> None:
    """Remove a socket file nobody serves. Raises ListenError for anything else that is there."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ListenError(name, path, "there is something else; remove it, or configure another path")
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
            if exc.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # its queue is full; it is of another kind
                raise
    raise ListenError(
        name,
        path,
        "already served by another process; stop that one (is a director running?), or configure"
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
            reason = "another process has just opened it; is a second director being started?"
        case errno.EEXIST | errno.ENOTDIR:
            reason = "a part of the path is a file, not a folder; configure another path"
        case _:
            reason = exc.strerror or str(exc)
    return ListenError(name, path, reason)


def _tcp_reason(exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "in use by another process; stop that one, or configure another port"
        case errno.EADDRNOTAVAIL:
            return "not an address of this machine; configure one of its own"
        case errno.EACCES:
            return f"uid {os.getuid()} may not use this port; configure one from 1024 on"
    return exc.strerror or str(exc)
