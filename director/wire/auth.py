"""Lines from auth on their way to login processes: which pass, which get a host, which have to wait.

This is the readable reference; `wire/_fast.pyx` holds the same in C. Both pass the same tests.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from director.core.assign import Assigner, Backend, Wait
from director.types import UserKey
from director.wire.tabs import split


class Held(NamedTuple):
    """A line that is not answered at once."""

    line: bytes
    """Without its LF."""
    id: bytes
    """Of the request, as it is in the line."""
    key: UserKey
    tag: bytes
    name: bytes
    """Unescaped, without a master user's part."""
    wait: Wait


def rewrite(assigner: Assigner, data: bytes, passlines: bool) -> tuple[bytes, list[Held]]:
    """Add a host to each line that asks for one.

    data: complete lines. passlines: whether it is the userdb socket, where `PASS` lines count.
    Gives the lines to send on, in their order, and those held back. All other bytes go through as they are.
    """
    prefix = b"PASS\t" if passlines else b"OK\t"
    output, held = [], []
    for line in data.split(b"\n")[:-1]:
        asked = _asked(line, prefix) if line.startswith(prefix) else None
        if asked is None:
            output.append(line + b"\n")
            continue
        tag, name = asked.tag, assigner.user_hash.cut(asked.name)
        key = assigner.user_hash.key(name, tag)
        answer = assigner.assign_named(key, tag, name)
        if isinstance(answer, Wait):
            held.append(Held(line, asked.id, key, tag, name, answer))
        else:
            output.append(finish(assigner, line, answer, key))
    return b"".join(output), held


def finish(assigner: Assigner, line: bytes, backend: Backend, key: UserKey) -> bytes:
    """The line (without LF) of a user who goes to `backend`, as it is sent on, with its LF."""
    if b"director_proxy_maybe" in line and is_self(line, backend.address):
        return line + b"\n"
    return line + assigner.suffix(backend, key) + b"\n"


def refusal(id: bytes) -> bytes:
    """The line that tells a login process to have its client try again later."""
    return b"FAIL\t" + id + b"\tcode=temp_fail\n"


def is_self(line: bytes, address: str) -> bool:
    """Whether a line says `director_proxy_maybe` and the client is connected to `address` already."""
    maybe, lip, ports = False, b"", {b"lport": 0, b"port": 0}
    for field in split(line)[2:]:
        name, _, value = field.partition(b"=")
        if name == b"director_proxy_maybe":
            maybe = True
        elif name == b"lip":
            lip = value
        elif name in ports:
            ports[name] = _port(value) or ports[name]
    if not maybe or not _same_address(lip, address):
        return False
    return 0 in ports.values() or ports[b"lport"] == ports[b"port"]


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
        if name in (b"proxy", b"director_proxy_maybe"):
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
    return int(text) if text.isdigit() and 0 < int(text) < 65536 else 0
