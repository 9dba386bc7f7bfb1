"""The configuration file: `director.toml` -> `Config`, whole or in part.

All problems of a file are raised together. The values are final: durations in seconds, absolute paths,
resolved names, secrets read from their files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec

from director.core.placement.hashing import HashFormatError, UserHash
from director.core.tables.hosts import BackendSetting
from director.errors import ConfigErrors
from director.net.keeper import NAMES
from director.service.configuration.config import (
    DEFAULT_SNAPSHOT,
    DEFAULT_STATE,
    BackendsConfig,
    Config,
    DovecotConfig,
    HttpConfig,
    LimitsConfig,
    ListenConfig,
    ListenerConfig,
    LogConfig,
    LookupPorts,
    LookupsConfig,
    UsersConfig,
)
from director.service.configuration.ringsection import read_ring
from director.service.configuration.servers import (
    ADMIN_PORT,
    HTTP_PORT,
    SOCKETMAP_PORT,
    backend_name,
    is_local,
    is_loopback,
    read_backends,
)
from director.service.configuration.tomlfile import Reader, UnresolvedName
from director.service.configuration.units import StateUrl
from director.types import Address
from director.wire.flushprogram import UnixSocket, read_setting
from state.base import StoreUrlError
from state.resolver import Resolve, addresses_of
from state.urls import open_store


def load(
    path: str | Path,
    environ: Mapping[str, str],
    *,
    resolve: Resolve = addresses_of,
    local: Callable[[Address], bool] = is_local,
    own_within: float = 0.0,
    own_awaited: Callable[[str], None] | None = None,
) -> Config:
    """Read and check the file at `path`. Asks the name service, and binds a socket to find the own address.

    Args:
        environ: the values of `${VAR}`.
        resolve: resolves a name.
        local: returns whether an address belongs to this machine.
        own_within: seconds to wait until this director's own name can be resolved. Other names are not waited
            for.
        own_awaited: called once with the problem, when this wait begins.

    Raises ConfigErrors with all problems of the file.
    """
    reader = Reader(str(path), Path(path).absolute().parent, environ)
    raw = reader.section(Config, reader.document(), "")
    config = Config(
        file=str(path),
        folder=reader.folder,
        state=(state := _state(reader, raw)),
        snapshot=_snapshot(reader, raw, state),
        ring=read_ring(reader, raw.get("ring"), resolve, local, own_within, own_awaited),
        backends=_backends(reader, raw.get("backends"), resolve),
        dovecot=(dovecot := _dovecot(reader, raw.get("dovecot"))),
        users=_users(reader, raw.get("users"), dovecot),
        listen=_listen(reader, raw.get("listen"), dovecot, resolve),
        http=_http(reader, raw.get("http"), resolve),
        lookups=_lookups(reader, raw.get("lookups")),
        limits=LimitsConfig(**reader.section(LimitsConfig, raw.get("limits"), "limits")),
        log=LogConfig(**reader.section(LogConfig, raw.get("log"), "log")),
        warnings=tuple(reader.warnings),
        secret_files=tuple(reader.secret_files),
        unresolved=tuple(reader.unresolved),
    )
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return config


def load_for_tools(path: str | Path, environ: Mapping[str, str]) -> Config:
    """Return `state`, [users] and [dovecot] of the file, and defaults for everything else.

    An operator who repairs a store must reach it even if the rest of the file is wrong or names cannot be
    resolved. Raises ConfigErrors.
    """
    reader = Reader(str(path), Path(path).absolute().parent, environ)
    wanted = {key: value for key, value in reader.document().items() if key in ("state", "users", "dovecot")}
    raw = reader.section(Config, wanted, "")
    dovecot = _dovecot(reader, raw.get("dovecot"))
    config = Config(
        file=str(path),
        folder=reader.folder,
        state=_state(reader, raw),
        dovecot=dovecot,
        users=_users(reader, raw.get("users"), dovecot),
    )
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return config


def load_for_keeper(path: str | Path, environ: Mapping[str, str]) -> Config:
    """Return [dovecot] and the listeners that a keeper holds, and defaults for everything else.

    A keeper may run in another container than its director, without the secrets and with other addresses.
    Raises ConfigErrors.
    """
    reader = Reader(str(path), Path(path).absolute().parent, environ)
    document = reader.document()
    wanted = {"dovecot": document["dovecot"]} if "dovecot" in document else {}
    if isinstance(tables := document.get("listen"), dict):
        wanted["listen"] = {name: tables[name] for name in NAMES if name in tables}
    raw = reader.section(Config, wanted, "")
    dovecot = _dovecot(reader, raw.get("dovecot"))
    listen = _listen(reader, raw.get("listen"), dovecot, addresses_of)
    if reader.problems:
        raise ConfigErrors(reader.problems)
    return Config(file=str(path), folder=reader.folder, dovecot=dovecot, listen=listen)


def _state(reader: Reader, raw: Mapping[str, Any]) -> StateUrl:
    url = raw.get("state", DEFAULT_STATE)
    try:
        open_store(url, base_dir=reader.folder)
    except StoreUrlError as exc:
        reader.problem("state", f"{exc.problem}; {exc.expected}")
    else:
        query = parse_qs(url.partition("?")[2])
        for option in ("password_file", "sentinel_password_file"):
            for file in query.get(option, []):
                reader.warn_if_public("state", reader.folder / file)
        if re.match(r"[a-z+]+://[^/?#@]*:[^/?#@]+@", url):
            reader.warn_if_public("state", Path(reader.file))
    return StateUrl(url)


def _snapshot(reader: Reader, raw: Mapping[str, Any], state: StateUrl) -> StateUrl:
    url = raw.get("snapshot")
    if reader.reported("state") or reader.reported("snapshot"):
        return StateUrl("")
    shared = open_store(state, base_dir=reader.folder).shared
    if not shared:
        if url:  # a warning only: an operator who tries another `state` then has one line to change, not two
            text = f"snapshot = {StateUrl(url)!r} is ignored: state = {state.shown!r} is local already"
            reader.warnings.append(f"{reader.file}: {text}")
        return StateUrl("")
    url = DEFAULT_SNAPSHOT if url is None else url
    if url and not url.startswith("sqlite:"):
        reader.problem("snapshot", 'expected sqlite:////PATH, a file of this director alone, or "" for none')
        return StateUrl("")
    try:
        if url:
            open_store(url, base_dir=reader.folder)
    except StoreUrlError as exc:
        reader.problem("snapshot", f"{exc.problem}; {exc.expected}")
    return StateUrl(url)


def _backends(reader: Reader, raw: object, resolve: Resolve) -> BackendsConfig:
    given = reader.section(BackendsConfig, raw, "backends")
    entries: list[str] = given.pop("mail_servers", [])
    settings = read_backends(
        entries,
        given.get("weight", BackendsConfig().weight),
        resolve,
        lambda i, text: reader.problem(f"backends.mail_servers[{i}]", text, value=entries[i]),
        lambda i, text: reader.unresolved.append(
            UnresolvedName(f"backends.mail_servers[{i}]", entries[i], text)
        ),
    )
    if not entries and not reader.reported("backends.mail_servers"):
        reader.problem(
            "backends.mail_servers", 'list at least one mail server, such as ["10.1.0.1"]', value=entries
        )
    names: tuple[BackendSetting, ...] = ()
    if not reader.reported("backends.mail_servers"):
        named = (backend_name(entry, given.get("weight", BackendsConfig().weight)) for entry in entries)
        names = tuple(name for name in named if name is not None)
    return BackendsConfig(**given, mail_servers=settings, names=names)


def _users(reader: Reader, raw: object, dovecot: DovecotConfig) -> UsersConfig:
    users = UsersConfig(**reader.section(UsersConfig, raw, "users"))
    try:
        UserHash(users.username_hash, users.master_user_separator)
    except HashFormatError as exc:
        reader.problem("users.username_hash", f"{exc}; there are %u, %n and %d, as in %Lu")
    return msgspec.structs.replace(users, flush_socket=_flush_socket(reader, users.flush_socket, dovecot))


def _flush_socket(reader: Reader, setting: str, dovecot: DovecotConfig) -> str:
    """Return the setting with an absolute path; empty stays empty."""
    key = "users.flush_socket"
    try:
        program = read_setting(setting) if setting else None
    except ValueError as exc:
        reader.problem(key, str(exc))
        return ""
    if isinstance(program, UnixSocket):
        return f"unix:{reader.socket(key, program.path, dovecot.base_dir)}"
    return setting


def _dovecot(reader: Reader, raw: object) -> DovecotConfig:
    dovecot = DovecotConfig(**reader.section(DovecotConfig, raw, "dovecot"))
    base = os.path.normpath(reader.folder / dovecot.base_dir)
    sockets = {
        name: reader.socket(f"dovecot.{name}", getattr(dovecot, name), base)
        for name in ("auth_socket", "userdb_socket", "ipc_socket", "anvil_socket")
    }
    return msgspec.structs.replace(dovecot, base_dir=base, **sockets)


def _listen(reader: Reader, raw: object, dovecot: DovecotConfig, resolve: Resolve) -> ListenConfig:
    tables = reader.section(ListenConfig, raw, "listen")
    listeners: dict[str, ListenerConfig] = {}
    for field in msgspec.structs.fields(ListenConfig):
        key, default = f"listen.{field.name}", field.default
        given = reader.section(type(default), tables.get(field.name), key)
        if "tcp" in given:
            port = SOCKETMAP_PORT if field.name == "socketmap" else ADMIN_PORT
            given["tcp"] = reader.endpoint(f"{key}.tcp", given["tcp"], port, resolve)
        given["path"] = reader.socket(f"{key}.path", given.get("path", default.path), dovecot.base_dir)
        listeners[field.name] = msgspec.structs.replace(default, **given)
    listen = ListenConfig(**listeners)  # type: ignore[arg-type]
    _check_paths(reader, listeners, dovecot)
    if listen.socketmap.tcp is not None and not is_loopback(listen.socketmap.tcp):
        reader.problem(
            "listen.socketmap.tcp",
            f"the protocol has no password: write a loopback address, such as 127.0.0.1:{SOCKETMAP_PORT},"
            " and a tunnel for Postfix on another machine",
        )
    return listen


def _check_paths(reader: Reader, listeners: Mapping[str, ListenerConfig], dovecot: DovecotConfig) -> None:
    taken = {dovecot.auth_socket: "dovecot.auth_socket", dovecot.userdb_socket: "dovecot.userdb_socket"}
    login_folder = os.path.join(dovecot.base_dir, "login")
    for name, listener in listeners.items():
        key, path = f"listen.{name}.path", listener.path
        if path and path in taken:
            reader.problem(key, f"{path} is {taken[path]} already; every socket needs a path of its own")
        elif name != "notify" and os.path.dirname(path) == login_folder:
            reader.problem(
                key,
                "Dovecot's master removes sockets directly in login/, or refuses to start;"
                f" write login/director/{os.path.basename(path)}",
            )
        taken[path] = key


def _http(reader: Reader, raw: object, resolve: Resolve) -> HttpConfig:
    given = reader.section(HttpConfig, raw, "http")
    listen = reader.endpoint("http.listen", given.pop("listen", ""), HTTP_PORT, resolve)
    http = HttpConfig(**given, listen=listen)
    key = "http.token_file"
    exposed = listen is not None and not is_loopback(listen)
    if not re.fullmatch(rb"[!-~]*", http.token):
        reader.problem(key, "a token is ASCII without spaces; make one with: openssl rand -hex 32")
    elif exposed and not http.token and not reader.reported(key):
        reader.problem(key, f"needed, because http.listen = {listen} is not a loopback address")
    return http


def _lookups(reader: Reader, raw: object) -> LookupsConfig:
    given = reader.section(LookupsConfig, raw, "lookups")
    ports = LookupPorts(**reader.section(LookupPorts, given.pop("ports", None), "lookups.ports"))
    return LookupsConfig(**given, ports=ports)
