"""Settings of a demo's Dovecot, for any release. `settings23` and `settings24` write them for one release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from director.demo.ports import Ports

DOVEADM_PASSWORD = "loopback"
PROTOCOLS = ("imap", "pop3", "lmtp")
ALL_PROTOCOLS = (*PROTOCOLS, "sieve", "submission")


class Rule(NamedTuple):
    """One passdb of a proxy: the users it accepts, and its answer."""

    users: str = ""
    """Patterns such as `guest*`, with `!` before excluded users; empty: all users."""
    password: str = ""
    """Empty: any password is accepted."""
    proxy: bool = True
    host: str = ""
    fields: Mapping[str, str] = {}
    """Further fields of the answer."""


ANYBODY = (Rule(),)


class Users(NamedTuple):
    """The users and groups of the processes of Dovecot."""

    internal: str
    internal_group: str
    login: str
    mail: int
    mail_group: int
    root: bool
    """Whether the master runs as root, so that its children may run as other users."""


class Facts(NamedTuple):
    """The facts about one Dovecot instance that its configuration needs. Paths are as Dovecot sees them."""

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


# Settings that are the same in both releases.

NO_LISTENER = """  inet_listener {name} {{
    port = 0
  }}
"""
LMTP = """service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
}}
"""
RELAY = """submission_relay_host = {0}
submission_relay_port = {1}
"""
PROXYING = """
lmtp_proxy = yes
"""
UNUSED_LISTENERS = {"imap": ("imaps",), "pop3": ("pop3s",), "submission": ("submissions",), "sieve": ()}
OPTIONAL = {"managesieve-login": "sieve", "submission-login": "submission"}
"""Services of programs that may not be installed: such a service may not be named."""


def services(facts: Facts, login: str, *, argument: str = "") -> str:
    """Return the sections of the services that listen. login: a login service; argument: the argument of its
    program."""
    text = ""
    for protocol in facts.protocols:
        if protocol == "lmtp":
            text += LMTP.format(port=facts.ports.lmtp)
            continue
        text += login.format(
            service="managesieve" if protocol == "sieve" else protocol,
            argument=argument,
            listener=protocol,
            port=facts.ports.of(protocol),
            others="".join(NO_LISTENER.format(name=name) for name in UNUSED_LISTENERS[protocol]),
        )
    return text


def unchrooted(facts: Facts, names: Sequence[str]) -> str:
    """Return settings that start these services without a chroot, for a master that may not use one."""
    if facts.users.root:
        return ""
    used = [name for name in names if OPTIONAL.get(name, "imap") in facts.protocols]
    return "".join(f"service {name} {{\n  chroot =\n}}\n" for name in used)
