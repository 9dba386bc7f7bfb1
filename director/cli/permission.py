"""The reason why a socket may not be used, and what to change."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec


def refusal_reason(path: str, config: str) -> str:
    """The reason why the unix socket at `path` is refused, and what to change.

    Args:
        path: of the socket.
        config: path of the configuration file, which need not exist. It says which listener has the socket.
    """
    me = _user(os.geteuid())
    folder = _closed_folder(path)
    if folder is not None:
        return (
            f"permission denied: {me} may not enter {folder} ({_rights(folder)}); run this as its owner, "
            "or as a member of its group"
        )
    table = _table_of(path, config)
    where = f"in [{table}] of {config}" if table else "in the configuration of its director"
    return (
        f"permission denied: {me} may not connect ({_rights(path)}); run this as its owner, or set group "
        f'and mode = "0660" {where}, and add {me} to that group'
    )


def _table_of(path: str, config: str) -> str:
    """The listener whose socket is at `path`, such as `listen.api`, or an empty text."""
    # Imported here: at the top of the file they would slow down every command.
    import tomllib

    from director.service.configuration.config import DovecotConfig, ListenConfig

    tables: Any = {}
    with suppress(OSError, ValueError):  # if the file is missing or not readable, assume the defaults
        tables = tomllib.loads(Path(config).read_text())
    base = _value(tables, "dovecot", "base_dir") or DovecotConfig().base_dir
    folder = os.path.join(os.path.dirname(os.path.abspath(config)), base)
    for field in msgspec.structs.fields(ListenConfig):
        socket = _value(tables, "listen", field.name, "path") or field.default.path
        if socket and os.path.normpath(os.path.join(folder, socket)) == os.path.abspath(path):
            return f"listen.{field.name}"
    return ""


def _value(tables: Any, *keys: str) -> str:
    for key in keys:
        tables = tables.get(key) if isinstance(tables, dict) else None
    return tables if isinstance(tables, str) else ""


def _closed_folder(path: str) -> str | None:
    """The first folder of the path, from the root, that may not be entered; None if all may be."""
    folder = os.path.dirname(os.path.abspath(path))
    closed = None
    while True:
        try:
            entered = os.access(folder, os.X_OK, effective_ids=True)
        except OSError:
            entered = False
        if not entered:
            closed = folder
        if folder == os.path.dirname(folder):
            return closed
        folder = os.path.dirname(folder)


def _rights(path: str) -> str:
    """`mode 0600, owner root:root`."""
    try:
        status = os.stat(path)
    except OSError:
        return "its mode and owner cannot be seen"
    return f"mode {stat.S_IMODE(status.st_mode):04o}, owner {_user(status.st_uid)}:{_group(status.st_gid)}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"group {number}"
