"""Services of Dovecot that take logins: which socket each asks. Its name may be any."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

import msgspec

from director.dovecot import paths
from director.dovecot.doveconf import Block

LOGIN_SERVICES = {
    "imap-login": ("imap", ("imap", "imaps")),
    "pop3-login": ("pop3", ("pop3", "pop3s")),
    "managesieve-login": ("sieve", ("sieve",)),
    "submission-login": ("submission", ("submission",)),
}
"""Dovecot's own: the protocol, and the TCP listeners that are on by default."""
_WITH_ARGUMENT = ("-c", "-i", "-o", "-R")
"""Options of a login process whose next word is not the socket."""


class LoginService(msgspec.Struct, frozen=True, kw_only=True):
    """One service with the command it runs."""

    name: str
    command: tuple[str, ...]
    at: int
    """Index of the socket in the command; 0: there is none, and the service asks auth."""
    chrooted: bool
    """Whether it cannot open files outside of login/."""

    @property
    def program(self) -> str:
        return posixpath.basename(self.command[0])

    @property
    def protocol(self) -> str:
        """`imap`, `sieve`, …; empty if the program is not one of Dovecot's login processes."""
        return LOGIN_SERVICES[self.program][0] if self.program in LOGIN_SERVICES else ""

    def socket(self, base_dir: str) -> str:
        """Return the absolute path of the socket that the service asks; empty: the socket of auth."""
        if not self.at:
            return ""
        return paths.login_socket(self.command[self.at], base_dir, chrooted=self.chrooted)

    def names(self, sockets: Sequence[str], base_dir: str) -> bool:
        """Whether the service asks one of these sockets (absolute paths), even if
        its chroot hides the socket."""
        if not self.at:
            return False
        as_written = paths.login_socket(self.command[self.at], base_dir, chrooted=False)
        return self.socket(base_dir) in sockets or as_written in sockets

    def asking(self, socket: str) -> tuple[str, ...]:
        """Return the command of the service, with another socket."""
        if self.at:
            return (*self.command[: self.at], socket, *self.command[self.at + 1 :])
        return (*self.command, socket)


def login_services(root: Block) -> list[LoginService]:
    """Dovecot's own services, which may be off, then others that run a login process or name a socket."""
    names = dict.fromkeys([*LOGIN_SERVICES, *(block.name for block in root.all("service"))])
    found = [_service(root, name) for name in names]
    return [service for service in found if service is not None]


def is_open(root: Block, name: str) -> bool:
    """Whether a service listens at a TCP port."""
    default_on = dict.fromkeys(LOGIN_SERVICES[name][1] if name in LOGIN_SERVICES else (), "1")
    ports = default_on | {
        listener.name or str(number): port
        for number, listener in enumerate(_listeners(root, name))
        if (port := listener.settings.get("port")) is not None
    }
    return any(port.strip("0") for port in ports.values())


def _listeners(root: Block, name: str) -> Iterator[Block]:
    for service in root.all("service", name):
        yield from service.all("inet_listener")


def _service(root: Block, name: str) -> LoginService | None:
    is_standard = name in LOGIN_SERVICES
    command = tuple(root.get("service", name, "executable", default=name if is_standard else "").split())
    if not command:
        return None
    at = _socket_at(command)
    if not is_standard and not at and posixpath.basename(command[0]) not in LOGIN_SERVICES:
        return None
    chroot = root.get("service", name, "chroot", default="login" if is_standard else "")
    return LoginService(name=name, command=command, at=at, chrooted=bool(chroot))


def _socket_at(command: Sequence[str]) -> int:
    """Index of the first word that is neither an option nor its argument; 0: there is none."""
    at = 1
    while at < len(command):
        word = command[at]
        if not word.startswith("-"):
            return at
        at += 2 if word in _WITH_ARGUMENT else 1
    return 0
