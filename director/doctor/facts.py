"""What was found on a machine, before anybody judges it."""

from __future__ import annotations

import stat

import msgspec

from director.dovecot.doveconf import Doveconf
from director.records import StatusInfo

ROOT = 0


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """A process' user, as the kernel asks for it."""

    uid: int
    gids: tuple[int, ...]
    """The first is the primary one."""
    name: str

    @property
    def is_root(self) -> bool:
        return self.uid == ROOT


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or that there is none."""

    path: str
    kind: str = "none"
    """`socket`, `fifo`, `folder`, `file`, `none`, or `hidden`: we may not look."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    used: bool | None = None
    """Whether somebody listens, or for a FIFO reads; None: we could not find out."""

    def writable_by(self, who: Who) -> bool:
        """Whether this user may connect, or write, by the mode of the file alone."""
        if who.is_root:
            return True
        if self.uid == who.uid:
            return bool(self.mode & stat.S_IWUSR)
        if self.gid in who.gids:
            return bool(self.mode & stat.S_IWGRP)
        return bool(self.mode & stat.S_IWOTH)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What of director.toml is compared with Dovecot. Paths are absolute; empty: that listener is off."""

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
    """The directors, where their links leave the machine without TLS."""
    username_hash: str = "%Lu"
    separator: str = ""


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    open: tuple[str, ...]
    """The protocols it was reached by."""
    local: bool
    """Whether it is an address of this machine."""


class Keeper(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds the sockets while no director serves them."""

    path: str
    """Of its control socket."""
    process: int
    standalone: bool
    """It was started by `director keep`."""
    listeners: tuple[str, ...]


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service or a socket of systemd."""

    name: str
    settings: dict[str, str]
    """As `systemctl show` prints them."""

    def words(self, setting: str) -> list[str]:
        return self.settings.get(setting, "").split()


class UnitUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user of the director's service, and what it cannot do with the configuration."""

    unit: str
    name: str
    problems: tuple[str, ...] = ()
    unseen: str = ""
    """Why that was not looked at; empty: it was."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    settings: Settings
    director_as: Who
    """Who the director is. Where it does not run: the user of its service, else whoever looks."""
    running: bool | None
    """None: we may not ask."""
    conf: Doveconf | None = None
    conf_problem: str = ""
    here: bool = True
    """Whether the configuration is that of this machine: then its files were looked at."""
    files: dict[str, File] = {}
    """By path."""
    status: StatusInfo | None = None
    status_problem: str = ""
    version: str = ""
    """Of the program that looks."""
    open_files: int = 0
    """Limit of the director's process; 0: unknown."""
    used_files: int = 0
    """Descriptors it has open; 0: unknown."""
    needed_files: int = 0
    """What it needs by its configuration, without clients."""
    skew: dict[str, float] = {}
    """Seconds that the clocks of other directors are ahead."""
    kicks: dict[str, float] = {}
    """What requests to end sessions came to since the director started: `done`, `failed` or `timed_out`."""
    backends: tuple[Backend, ...] = ()
    keeper: Keeper | None = None
    unit_user: UnitUser | None = None
    """Whether the service's user can read the configuration; None: it is not known which one that is."""
    units: tuple[Unit, ...] = ()
    """The director's service, and the sockets that start it; empty: systemd does not run it."""

    def file(self, path: str) -> File:
        return self.files.get(path) or File(path=path, kind="hidden")
