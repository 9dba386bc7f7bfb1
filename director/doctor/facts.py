"""Facts about a machine, before the checks judge them."""

from __future__ import annotations

import stat

import msgspec

from director.dovecot.doveconf import Doveconf
from director.records import StatusInfo

ROOT = 0


class ProcessUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user of a process, as the kernel checks it."""

    uid: int
    gids: tuple[int, ...]
    """The first is the primary one."""
    name: str

    @property
    def is_root(self) -> bool:
        return self.uid == ROOT


class File(msgspec.Struct, frozen=True, kw_only=True):
    """The file at a path, or the fact that there is none."""

    path: str
    kind: str = "none"
    """`socket`, `fifo`, `folder`, `file`, `none`, or `hidden`: this process may not look."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    used: bool | None = None
    """Whether a process listens at the socket, or reads the FIFO; None: not known."""

    def writable_by(self, user: ProcessUser) -> bool:
        """Whether this user may connect, or write, by the mode of the file alone."""
        if user.is_root:
            return True
        if self.uid == user.uid:
            return bool(self.mode & stat.S_IWUSR)
        if self.gid in user.gids:
            return bool(self.mode & stat.S_IWGRP)
        return bool(self.mode & stat.S_IWOTH)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of director.toml to compare with Dovecot. Paths are absolute; empty: the listener is off."""

    base_dir: str = "/run/dovecot"
    login: str = "/run/dovecot/login/director/login"
    notify: str = "/run/dovecot/login/director/proxy-notify"
    userdb: str = "/run/dovecot/director-userdb"
    admin: str = "/run/dovecot/director-admin"
    auth: str = "/run/dovecot/auth-login"
    auth_userdb: str = "/run/dovecot/auth-userdb"
    kick: str = "auto"
    ipc: str = "/run/dovecot/ipc"
    anvil: str = "/run/dovecot/anvil"
    ring_readable: tuple[str, ...] = ()
    """The directors whose links leave the machine without TLS."""
    username_hash: str = "%Lu"
    separator: str = ""


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    open: tuple[str, ...]
    """Protocols of the ports that accepted a connection."""
    local: bool
    """Whether it is an address of this machine."""


class Keeper(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds the sockets while no director serves them."""

    path: str
    """Of its control socket."""
    process: int
    standalone: bool
    """Whether it was started by `director keep`."""
    listeners: tuple[str, ...]


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service or a socket of systemd."""

    name: str
    settings: dict[str, str]
    """As `systemctl show` prints them."""

    def words(self, setting: str) -> list[str]:
        return self.settings.get(setting, "").split()


class UnitUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user of the director's service, and the problems of this user with the configuration."""

    unit: str
    name: str
    problems: tuple[str, ...] = ()
    unseen: str = ""
    """Why this was not checked; empty: it was."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    settings: Settings
    director_as: ProcessUser
    """The director's user. If it does not run: the user of its service, else the user of this process."""
    running: bool | None
    """None: this process may not ask."""
    conf: Doveconf | None = None
    conf_problem: str = ""
    here: bool = True
    """Whether the configuration is that of this machine; then its files were examined."""
    files: dict[str, File] = {}
    """By path."""
    status: StatusInfo | None = None
    status_problem: str = ""
    version: str = ""
    """Version of this program."""
    open_files: int = 0
    """Limit of the director's process; 0: unknown."""
    used_files: int = 0
    """Descriptors it has open; 0: unknown."""
    needed_files: int = 0
    """Descriptors that it needs by its configuration, without clients."""
    skew: dict[str, float] = {}
    """Seconds that the clocks of other directors are ahead."""
    kicks: dict[str, float] = {}
    """Requests to end sessions since the director started, by result: `done`, `failed` or `timed_out`."""
    backends: tuple[Backend, ...] = ()
    keeper: Keeper | None = None
    unit_user: UnitUser | None = None
    """Whether the service's user can read the configuration; None: the user is not known."""
    units: tuple[Unit, ...] = ()
    """The director's service and the socket units that start it; empty: systemd does not run it."""

    def file(self, path: str) -> File:
        return self.files.get(path) or File(path=path, kind="hidden")
