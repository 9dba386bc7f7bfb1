"""Lines from auth to login processes: which pass unchanged, which get a host, and which have to wait.

This is the readable reference; `wire/_fast.pyx` does the same in C. Both pass the same tests.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

import msgspec

from director.core.placement.assign import Assigner, Backend, Wait
from director.types import UserKey
from director.wire.tabs import DIGITS, split

PERHAPS = b"director_proxy_maybe"
"""The field of a user who is to be logged in locally if their backend host is this machine."""
_PROXIED = re.compile(rb"^OK\t([^\t\n]+)\t[^\n]*\tproxy\tproxy_refresh=[^\n]*", re.MULTILINE)
"""A rewritten line of a proxied user whose field `proxy` has no value."""


class HeldRequest(msgspec.Struct, frozen=True, gc=False):
    """A line that cannot be answered at once. 100,000 may wait, so the garbage collector does not track
    them."""

    line: bytes
    """The line without its LF."""
    id: bytes
    """The id of the request, as it is in the line."""
    key: UserKey
    tag: bytes
    name: bytes
    """The user's name, unescaped and without a master user's part."""
    wait: Wait


def rewrite(assigner: Assigner, data: bytes, passlines: bool) -> tuple[bytes, list[HeldRequest]]:
    """Add a host to each line that asks for one. All other bytes are passed on unchanged.

    Args:
        assigner: assigns the users.
        data: complete lines.
        passlines: whether it is the userdb socket, where `PASS` lines get a host.

    Returns:
        The lines to send on, in order, and the requests that have to wait.
    """
    prefix = b"PASS\t" if passlines else b"OK\t"
    output, held_requests = [], []
    for line in data.split(b"\n")[:-1]:
        asked = _asked(line, prefix) if line.startswith(prefix) else None
        if asked is None:
            output.append(line + b"\n")
            continue
        tag, name = asked.tag, assigner.user_hash.without_master_user(asked.name)
        key = assigner.user_hash.key(name, tag)
        answer = assigner.assign_named(key, tag, name)
        if isinstance(answer, Wait):
            held_requests.append(HeldRequest(line, asked.id, key, tag, name, answer))
        else:
            output.append(finish(assigner, line, answer, key))
    return b"".join(output), held_requests


def finish(assigner: Assigner, line: bytes, backend: Backend, key: UserKey) -> bytes:
    """Return the line for a user who goes to `backend`, with its LF. `line` has none."""
    asked = perhaps(line, backend.address) if may_say_perhaps(line) else b""
    return line + b"\n" if asked is None else line + asked + assigner.suffix(backend, key) + b"\n"


def refusal(id: bytes) -> bytes:
    """Return the line that makes a login process tell its client to try again later."""
    return b"FAIL\t" + id + b"\tcode=temp_fail\n"


def cancels(lines: bytes) -> bytes:
    """Return a line for auth, as `cancel` does, for each request that has ended with the rewritten `lines`
    although auth takes it for a local login.

    Auth keeps such a request until the service of the protocol asks for it, and for proxied users no service
    does.
    """
    proxied = _PROXIED.finditer(lines)
    return b"".join([cancel(match[1]) for match in proxied if says_perhaps(match[0])])


def cancel(id: bytes) -> bytes:
    """Return the line that tells auth that a request has ended."""
    return b"CANCEL\t" + id + b"\n"


def may_say_perhaps(lines: bytes) -> bool:
    """Whether a line may have the field `director_proxy_maybe`.

    It is a quick test; the field's name may contain escapes.
    """
    return PERHAPS in lines or b"\x01" in lines


def says_perhaps(line: bytes) -> bool:
    """Whether a line has the field `director_proxy_maybe`."""
    return may_say_perhaps(line) and any(field.partition(b"=")[0] == PERHAPS for field in split(line)[2:])


def perhaps(line: bytes, address: str) -> bytes | None:
    """Return the field that a line with `director_proxy_maybe` lacks besides its host.

    The field `lip` shows whether a client is connected to its backend host. auth does not send `lip` by
    itself for a user that it does not take for proxied: the passdb has to add it.

    Args:
        line: without its LF.
        address: the address of the backend host.

    Returns:
        The field `proxy`, preceded by a TAB and without a value, as login processes of 2.3 expect it; empty:
        the line has it already or has no `director_proxy_maybe`; None: the client is connected to `address`
        already, and is to be logged in there.
    """
    maybe, proxy, lip, ports = False, False, b"", {b"lport": 0, b"port": 0}
    for field in split(line)[2:]:
        name, _, value = field.partition(b"=")
        if name == PERHAPS:
            maybe = True
        elif name == b"proxy":
            proxy = True
        elif name == b"lip":
            lip = value
        elif name in ports:
            ports[name] = _port(value) or ports[name]
    if maybe and _same_address(lip, address) and (0 in ports.values() or ports[b"lport"] == ports[b"port"]):
        return None
    return b"" if proxy or not maybe else b"\tproxy"


class _Asked(NamedTuple):
    id: bytes
    name: bytes
    tag: bytes


def _asked(line: bytes, prefix: bytes) -> _Asked | None:
    """Return the user to be proxied; None: the line stays unchanged."""
    proxy, user, destuser, tag = False, None, None, b""
    id, _, fields = line[len(prefix) :].partition(b"\t")
    for field in split(fields):
        name, equals, value = field.partition(b"=")
        if name in (b"proxy", PERHAPS):
            proxy = True
        elif not equals:
            continue
        elif name == b"host":
            return None
        elif name == b"destuser":
            destuser = value
        elif name == b"user" and user is None:
            user = value
        elif name == b"director_tag":
            tag = value
    named = user if destuser is None else destuser
    return _Asked(id, named, tag) if proxy and named is not None else None


def _same_address(text: bytes, address: str) -> bool:
    try:
        return ipaddress.ip_address(text.decode()) == ipaddress.ip_address(address)
    except ValueError:  # Dovecot 2.3's director ignores an invalid address
        return False


def _port(text: bytes) -> int:
    """Return a port; 0: the text is none."""
    return int(text) if text.isdigit() and len(text) <= DIGITS and 0 < int(text) < 65536 else 0
