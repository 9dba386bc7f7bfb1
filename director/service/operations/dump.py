"""The commands of `director dump`, which repeat operators' changes on directors with the same file."""

from __future__ import annotations

import shlex

from director.core.protocol.messages import HostRow
from director.core.tables.hosts import HostTable
from director.service.operations.arguments import is_hash
from director.types import Address, UserKey


def host_commands(hosts: HostTable) -> list[str]:
    """Return the commands that restore hosts, tags, weights and down states."""
    commands: list[str] = []
    for row in hosts.present():
        commands += _added(hosts, row)
        if not row.up:
            commands.append(f"director down {row.address}")
    return commands + [f"director remove {address}" for address in hosts.removed()]


def _added(hosts: HostTable, row: HostRow) -> list[str]:
    """Return the commands that add a host.

    If the configuration gives the host another tag, a second command sets the tag: `add` does not change the
    tag of a host that exists.
    """
    configured = hosts.configured.get(Address(row.address))
    if configured is not None and configured.tag != row.tag:
        return [
            f"director add {row.address} {row.weight}",
            f"director tag {row.address} {shlex.quote(row.tag)}",
        ]
    at = shlex.quote(f"{row.address}@{row.tag}") if row.tag else row.address
    return [f"director add {at} {row.weight}"]


def pin_command(key: UserKey, name: bytes | None, host: str, tag: str) -> str:
    """Return the command that pins the user, or a comment if no command can name the user."""
    try:
        text = name.decode() if name is not None else ""
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        why = "the name is unknown" if name is None else "no command can hold this name"
        return f"# pinned: user with hash {key >> 32} on {host}, {why}"
    options = (f" -t {shlex.quote(tag)}" if tag else "") + " --new" + (" --name" if is_hash(text) else "")
    options += " --" if text.startswith("-") else ""
    return f"director pin{options} {shlex.quote(text)} {host}"
