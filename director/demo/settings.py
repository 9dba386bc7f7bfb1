"""What a demo's Dovecot is told, in no version's words. `settings23` and `settings24` say it in theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from director.demo.ports import Ports

DOVEADM_PASSWORD = "loopback"
PROTOCOLS = ("imap", "pop3", "lmtp")
ALL_PROTOCOLS = (*PROTOCOLS, "sieve", "submission")


class Rule(NamedTuple):
    """Whom a proxy's auth lets in, and what it answers: one passdb."""

    users: str = ""
    """A pattern as `guest*`, or several, with `!` before those who are not meant; empty: everybody."""
    password: str = ""
    """Empty: any password will do."""
    proxy: bool = True
    host: str = ""
    fields: Mapping[str, str] = {}
    """Further fields of the answer."""


ANYBODY = (Rule(),)


class Users(NamedTuple):
    """Names and numbers that processes run as."""

    internal: str
    internal_group: str
    login: str
    mail: int
    mail_group: int
    root: bool
    """Whether the master runs as root, so that its children may change who they are."""


class Facts(NamedTuple):
    """One instance. Paths are as Dovecot itself sees them."""

    name: str
    address: str
    ports: Ports
    protocols: tuple[str, ...]
    run: Path
    mail: Path
    log: Path
    users: Users
    relay: tuple[str, int]
    """Address and port of the server that a backend's submission service hands mail to."""
