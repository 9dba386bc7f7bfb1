"""[ring] of director.toml, from director_servers and the listeners of the built-in director."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

import msgspec

from director.dovecot import tomltext, values
from director.dovecot.doveconf import Block
from director.dovecot.listeners import Listener, first_ring
from director.dovecot.notes import Notes

RING_PORT = 9090
SERVERS = "director_servers"
Resolve = Callable[[str], Sequence[str]]
"""The addresses of a name. Raises OSError."""


class Server(msgspec.Struct, frozen=True):
    """One entry of director_servers."""

    host: str
    """An address without brackets, or a name."""
    port: int
    """0: the port of the ring's listener."""


def ring_section(root: Block, listeners: Sequence[Listener], resolve: Resolve, notes: Notes) -> list[str]:
    """Lines of [ring]; none if the director is alone.

    Args:
        root: the configuration, with variables replaced.
        resolve: returns the addresses of a name; raises OSError if there are none.
    """
    words = notes.words(SERVERS, root.get(SERVERS))
    if not words:
        return []
    ring = first_ring(listeners)
    if ring is None:
        notes.general.append(
            "service director has no inet_listener for the ring, so Dovecot's director does not start; here"
            f" the ring gets port {RING_PORT}"
        )
    port = ring.port if ring else RING_PORT
    written = _unique_servers([_server(word) for word in words], port, notes)
    servers = _unique_servers(_resolve_names(written, listeners, resolve, notes), port, Notes())
    lines = tomltext.array("servers", [_entry(server, port) for server in servers])
    own_address = _own_address(ring, servers)
    if ring is not None and own_address:
        lines.append(f"listen = {tomltext.text(tomltext.endpoint(own_address, port))}")
    _name_others(ring, own_address, listeners, notes)
    if len(servers) > 1 or not is_address(servers[0].host):
        lines.append('secret_file = "ring.secret"')
        notes.general.append(
            "all directors need the same secret: openssl rand -hex 32 > ring.secret; chmod 600 ring.secret;"
            " chown it to the director's user, and copy it to all proxies"
        )
        notes.general.append(
            "replace all directors at the same time: Dovecot's directors cannot be in one ring with these"
        )
    return lines


def is_address(host: str) -> bool:
    """Whether the server is an IP address, not a name."""
    return _canonical(host) is not None


def _server(word: str) -> Server:
    match = re.fullmatch(r"\[(.*)\]:([0-9]+)|([^:\[\]]+):([0-9]+)", word)
    if match is None:
        return Server(word.removeprefix("[").removesuffix("]"), 0)
    return Server(match[1] or match[3], int((match[2] or match[4])[:9]))


def _unique_servers(servers: Sequence[Server], port: int, notes: Notes) -> list[Server]:
    """Each director once, as Dovecot 2.3's director reads the list."""
    found: dict[tuple[object, int], Server] = {}
    for server in servers:
        key = (_canonical(server.host) or server.host.lower().rstrip("."), server.port or port)
        if key in found:
            notes.not_carried_over.append(
                f"{SERVERS}: {server.host} is listed more than once; one entry is kept, as in Dovecot"
            )
        found.setdefault(key, server)
    return list(found.values())


def _resolve_names(
    servers: Sequence[Server], listeners: Sequence[Listener], resolve: Resolve, notes: Notes
) -> list[Server]:
    """The directors. A name with several addresses is replaced by them: each address is a director."""
    found: list[Server] = []
    for server in servers:
        if is_address(server.host):
            found.append(server)
            continue
        try:
            # sorted, so that the order is the same on every proxy
            addresses = sorted(set(resolve(server.host)), key=_by_number)
        except (OSError, UnicodeError):
            addresses = []
        alone = len(servers) == 1
        if len(addresses) > 1:
            kept = _of_one_family(addresses, servers, listeners)
            found += [Server(address, server.port) for address in kept]
            notes.general.append(
                f"{SERVERS}: {server.host} has the addresses {', '.join(addresses)} on this machine, and each"
                " is a director: list all of them in ring.servers, the same on every proxy (now listed:"
                f" {', '.join(kept)})"
            )
            continue
        found.append(server)
        if alone:
            where = f"has the address {addresses[0]}" if addresses else "cannot be resolved on this machine"
            notes.general.append(
                f"{SERVERS}: {server.host} is the only entry, and {where}: if it stands for several"
                " directors, list all of them in ring.servers"
            )
    return found


def _of_one_family(
    addresses: Sequence[str], servers: Sequence[Server], listeners: Sequence[Listener]
) -> list[str]:
    """The addresses of the ring's family: a machine with an address of each family is one director."""
    ring = first_ring(listeners)
    fixed = [server.host for server in servers if is_address(server.host)]
    fixed += [address for address in (ring.addresses if ring else ()) if address not in values.EVERY]
    version6 = ":" in fixed[0] if fixed else all(":" in address for address in addresses)
    return [address for address in addresses if (":" in address) == version6] or list(addresses)


def _own_address(ring: Listener | None, servers: Sequence[Server]) -> str:
    """The address for `ring.listen`; empty: the entry of `servers` that is an address of this machine."""
    if ring is None or ring.addresses[0] in values.EVERY:
        return ""
    listed = {_canonical(server.host) for server in servers}
    return next((address for address in ring.addresses if _canonical(address) in listed), ring.addresses[0])


def _name_others(
    ring: Listener | None, own_address: str, listeners: Sequence[Listener], notes: Notes
) -> None:
    for listener in listeners:
        if listener.kind != "ring" or not listener.on:
            continue
        notes.not_carried_over += [f"{listener.where} {{ {extra} }}" for extra in listener.extra]
        if ring is not None and listener is not ring:
            notes.not_carried_over.append(
                f"{listener.where}, port {listener.port}: the ring has one port, {ring.port}, from the first"
                " listener; doveconf sorts listeners by name: look in dovecot.conf which listener is first"
            )
    others = [
        address for address in (ring.addresses if ring and own_address else ()) if address != own_address
    ]
    if ring is not None and others:
        notes.not_carried_over.append(
            f"{ring.where}: ring.listen takes one address, {own_address}; not used: {', '.join(others)}"
        )


def _entry(server: Server, port: int) -> str:
    """The entry, with its port unless that is the default. Without one, it has the port of the listener."""
    if server.port or port != RING_PORT:
        return tomltext.endpoint(server.host, server.port or port)
    return server.host


def _by_number(address: str) -> tuple[int, int]:
    ip = ipaddress.ip_address(address)
    return ip.version, int(ip)


def _canonical(host: str) -> object:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
