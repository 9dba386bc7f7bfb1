"""[listen.*] of director.toml, and the lines that systemd's units need for them."""

from __future__ import annotations

from collections.abc import Sequence

from director.dovecot import paths, tomltext, values
from director.dovecot.listeners import PATHS, Listener, opened_listener
from director.dovecot.notes import Notes

_MODES = {"login": 0o666, "notify": 0o666, "userdb": 0o600, "admin": 0o600, "authreply": 0o600}
"""Modes of the director's defaults, which the socket units have."""
_NEVER_DIRECTLY_IN_LOGIN = {"login", "notify"}


def listen_section(kind: str, listeners: Sequence[Listener], base_dir: str, notes: Notes) -> list[str]:
    """Lines of [listen.KIND].

    Args:
        kind: one of KINDS but `ring`.
        base_dir: Dovecot's base_dir, as written.
    """
    mine = [listener for listener in listeners if listener.kind == kind and listener.on]
    files = [listener for listener in mine if listener.sort != "inet_listener"]
    addresses = [listener for listener in mine if listener.sort == "inet_listener"]
    first = opened_listener(listeners, kind)
    lines = []
    if first is not None:
        lines = _file(first, paths.folder(base_dir), notes)
        notes.not_carried_over += [
            f"{listener.where}: the director opens one socket of this kind, {first.name}; change the"
            " clients to it"
            for listener in files
            if listener is not first
        ]
    elif kind == "notify":
        notes.general.append(
            "login/proxy-notify was off and is on now: the assignment of a user does not expire during"
            " a session"
        )
        lines = []
    else:
        lines = ['path = ""']
    if kind == "admin":
        lines += _admin_tcp(addresses, notes)
    else:
        notes.not_carried_over += [
            f"{listener.where}: the listener {kind} has no TCP" for listener in addresses
        ]
    return lines


def _file(listener: Listener, base_dir: str, notes: Notes) -> list[str]:
    kind = listener.kind
    lines, path = [], PATHS[kind]
    if kind not in _NEVER_DIRECTLY_IN_LOGIN and listener.name != path:
        path = listener.name
        lines.append(f"path = {tomltext.text(path)}")
    lines.append(f'mode = "{listener.mode:04o}"')
    owner = [(key, value) for key, value in (("user", listener.user), ("group", listener.group)) if value]
    lines += [f"{key} = {tomltext.text(value)}" for key, value in owner]
    unit = []
    absolute = paths.socket(path, base_dir)
    if absolute != f"{paths.BASE_DIR}/{PATHS[kind]}":
        sort = "ListenFIFO" if kind == "notify" else "ListenStream"
        unit.append(f"{sort}={absolute}")
    if owner or listener.mode != _MODES[kind]:
        unit.append(f"SocketMode={listener.mode:04o}")
        unit += [f"Socket{key.title()}={value}" for key, value in owner]
    if unit:
        notes.general.append(
            f"if systemd opens the sockets, write into director-{kind}.socket: {' '.join(unit)}"
        )
    notes.not_carried_over += [f"{listener.where} {{ {extra} }}" for extra in listener.extra]
    return lines


def _admin_tcp(listeners: Sequence[Listener], notes: Notes) -> list[str]:
    if not listeners:
        return []
    first = listeners[0]
    notes.not_carried_over += [
        f"{listener.where}: listen.admin.tcp takes one address, that of {first.where}"
        for listener in listeners[1:]
    ]
    notes.not_carried_over += [f"{first.where} {{ {extra} }}" for extra in first.extra]
    address, *others = first.addresses
    endpoint = tomltext.endpoint(address, first.port)
    if address in values.EVERY:
        notes.general.append(
            f"listen.admin.tcp = {endpoint} is open to every network, as before, and every client that"
            f" connects can change everything: write a single address instead{_only(address, others)}"
        )
    elif others:
        notes.not_carried_over.append(
            f"{first.where}: listen.admin.tcp takes one address, {address}; not used: {', '.join(others)}"
        )
    return [f"tcp = {tomltext.text(endpoint)}"]


def _only(address: str, others: Sequence[str]) -> str:
    if not any((":" in address) != (":" in other) for other in others):
        return ""
    return f" (the setting takes one address, and {address} is {'IPv6' if ':' in address else 'IPv4'} only)"
