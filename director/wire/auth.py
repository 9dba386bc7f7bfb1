"""Lines from auth on their way to login processes: which pass, which get a host, which have to wait.

This is the readable reference; `wire/_fast.pyx` holds the same in C. Both pass the same tests.
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
"""The field of a user who is logged in locally where his backend is this machine."""
_PROXIED = re.compile(rb"^OK\t([^\t\n]+)\t[^\n]*\tproxy\tproxy_refresh=[^\n]*", re.MULTILINE)
"""A rewritten line of a user who is proxied, and by a field without a value."""


class HeldRequest(msgspec.Struct, frozen=True, gc=False):
    """A line that is not answered at once. 100,000 may wait, and no collection of garbage looks at them."""

    line: bytes
    """Without its LF."""
    id: bytes
    """Of the request, as it is in the line."""
    key: UserKey
    tag: bytes
    name: bytes
    """Unescaped, without a master user's part."""
    wait: Wait


def rewrite(assigner: Assigner, data: bytes, passlines: bool) -> tuple[bytes, list[HeldRequest]]:
    """Add a host to each line that asks for one. All other bytes are passed on as they are.

    Args:
        assigner: places the users.
        data: complete lines.
        passlines: whether it is the userdb socket, where `PASS` lines count.

    Returns:
        The lines to send on, in their order, and the requests that are held back.
    """
    prefix = b"PASS\t" if passlines else b"OK\t"
    output, held_requests = [], []
    for line in data.split(b"\n")[:-1]:
        asked = _asked(line, prefix) if line.startswith(prefix) else None
        if asked is None:
            output.append(line + b"\n")
            continue
        tag, name = asked.tag, assigner.user_hash.cut(asked.name)
        key = assigner.user_hash.key(name, tag)
        answer = assigner.assign_named(key, tag, name)
        if isinstance(answer, Wait):
            held_requests.append(HeldRequest(line, asked.id, key, tag, name, answer))
        else:
            output.append(finish(assigner, line, answer, key))
    return b"".join(output), held_requests


def finish(assigner: Assigner, line: bytes, backend: Backend, key: UserKey) -> bytes:
    """The line (without LF) of a user who goes to `backend`, as it is sent on, with its LF."""
    asked = perhaps(line, backend.address) if may_say_perhaps(line) else b""
    return line + b"\n" if asked is None else line + asked + assigner.suffix(backend, key) + b"\n"


def refusal(id: bytes) -> bytes:
    """The line that tells a login process to have its client try again later."""
    return b"FAIL\t" + id + b"\tcode=temp_fail\n"


def cancels(lines: bytes) -> bytes:
    """What auth is to be told of the rewritten `lines`: requests that it takes to be local are over.

    It keeps each until the service of the protocol asks for it, which for users who are proxied none does.
    """
    proxied = _PROXIED.finditer(lines)
    return b"".join([cancel(match[1]) for match in proxied if says_perhaps(match[0])])


def cancel(id: bytes) -> bytes:
    """The line that tells auth that a request is over."""
    return b"CANCEL\t" + id + b"\n"


def may_say_perhaps(lines: bytes) -> bool:
    """Whether it is worth a look if a line says `director_proxy_maybe`: its name may have escapes in it."""
    return PERHAPS in lines or b"\x01" in lines


def says_perhaps(line: bytes) -> bool:
    """Whether a line has the field `director_proxy_maybe`."""
    return may_say_perhaps(line) and any(field.partition(b"=")[0] == PERHAPS for field in split(line)[2:])


def perhaps(line: bytes, address: str) -> bytes | None:
    """Return what a line lacks besides its host, if it says `director_proxy_maybe`.

    What says that a client is connected to its backend is `lip`. auth does not send `lip` by itself for a
    user that it does not take to be proxied: the passdb has to.

    Args:
        line: without its LF.
        address: of the backend.

    Returns:
        The field `proxy` with the TAB before it, bare as login processes of 2.3 want it; empty where the line
        asks for it already or does not say `director_proxy_maybe`; None: the client is connected to `address`
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
    """Who is to be proxied, or None for a line that stays as it is."""
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
    except ValueError:  # 2.3 ignores an address that it cannot read
        return False


def _port(text: bytes) -> int:
    """A port, or 0 for what is none."""
    return int(text) if text.isdigit() and len(text) <= DIGITS and 0 < int(text) < 65536 else 0
