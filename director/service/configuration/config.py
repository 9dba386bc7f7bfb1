"""The configuration: `director.toml` -> immutable Structs. All defaults and their units are here.

The `Annotated` kind of a field (units.py) says how its value is written in the file. All problems of a file
are raised together. `load` returns final values: durations in seconds, absolute paths, resolved names,
secrets read from their files.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

import msgspec

from director.core.checks import MOST_PASSED
from director.core.logins.pending import PENDING_TIMEOUT
from director.core.placement.hashing import HashFormatError, UserHash
from director.core.placement.users import MOST_USERS
from director.core.tables.hosts import MAX_WEIGHT, BackendSetting
from director.errors import ConfigErrors, TlsFileError
from director.net.keeper import NAMES
from director.net.tls import RingTls
from director.service.configuration.secretfiles import secret_lines
from director.service.configuration.servers import (
    ADMIN_PORT,
    HTTP_PORT,
    RING_PORT,
    SOCKETMAP_PORT,
    Endpoint,
    Unresolved,
    backend_name,
    is_local,
    is_named,
    own_endpoint,
    read_backends,
    read_directors,
    read_endpoint,
)
from director.service.configuration.tomlfile import LET_DIRECTOR_READ, Reader, UnresolvedName, written
from director.service.configuration.units import (
    DAY,
    MINUTE,
    Choice,
    Count,
    Duration,
    Flag,
    Mode,
    SecretFile,
    StateUrl,
    Text,
    Texts,
    toml_text,
)
from director.service.secret import Secret
from director.types import Address
from director.wire.flushprogram import UnixSocket, read_setting
from state.base import StoreUrlError
from state.resolver import Resolve, addresses_of
from state.urls import open_store

PORT_MAX = 65535
OWN_NAME_AGAIN = 0.25
"""Seconds between two attempts to resolve this director's own name."""
DEFAULT_STATE = StateUrl("sqlite:////var/lib/director/state.db")
DEFAULT_SNAPSHOT = StateUrl("sqlite:////var/lib/director/snapshot.db")


class MailServers(Texts):
    """Writes each host on a line of its own, with the name that its address comes from."""

    def write(self, value: Any) -> str:
        lines = ["["]
        for setting in value:
            entry = f"{setting.address}@{setting.tag}" if setting.tag else setting.address
            lines.append(f"    {toml_text(entry)}," + (f"  # {setting.hostname}" if setting.hostname else ""))
        return "\n".join([*lines, "]"])


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[ring.tls]: PEM files, absolute paths once loaded. All three are set, or none."""

    cert: Annotated[str, Text()] = ""
    """This director's certificate; it must contain the address of `ring.listen`."""
    key: Annotated[str, Text()] = ""
    ca: Annotated[str, Text()] = ""
    """The certificate authority whose certificates the directors accept from each other."""

    def __bool__(self) -> bool:
        return bool(self.ca)


class RingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[ring]: the directors that share their assignments."""

    servers: Annotated[tuple[Endpoint, ...], Texts()] = ()
    """Empty: this director runs without a ring."""
    names: tuple[tuple[str, Endpoint | None], ...] = ()
    """The entries of `servers` that are names, as written, with the directors that they named when the file
    was read; None: the name had no address."""
    listen: Annotated[Endpoint | None, Text()] = None
    """This director's entry among `servers`. None only without a ring."""
    secret: Annotated[Secret, SecretFile(at_least=16, lines=2)] = Secret()
    tls: TlsConfig = TlsConfig()
    ping_interval: Annotated[float, Duration(at_least=0.01)] = 1.0
    ping_timeout: Annotated[float, Duration(at_least=0.01)] = 5.0
    """Seconds without a message after which a neighbour counts as unreachable."""
    isolation_wait: Annotated[float, Duration()] = 20.0
    """Seconds for which new users wait on the minority side of a partition without a store."""
    lease_ttl: Annotated[float, Duration(at_least=1.0)] = 3.0
    """Seconds for which a director's lease in the store is valid after each renewal."""
    max_clock_skew: Annotated[float, Duration(at_least=0.1)] = 2.0
    """Seconds. A director whose clock differs by more is refused as a neighbour."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The lines of `secret`. The first is offered to the other directors; all are accepted."""
        return tuple(secret_lines(self.secret))

    @property
    def readable(self) -> tuple[str, ...]:
        """The directors whose messages leave the machine without TLS; empty if there are none."""
        if self.tls or len(self.servers) < 2 or all(map(_is_loopback, self.servers)):
            return ()
        return tuple(server.member for server in self.servers)


class BackendsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[backends]: the mail servers behind this proxy."""

    mail_servers: Annotated[tuple[BackendSetting, ...], MailServers()] = ()
    names: tuple[BackendSetting, ...] = ()
    """The entries of `mail_servers` that are names, each without an address."""
    weight: Annotated[int, Count(0, MAX_WEIGHT)] = 100
    """Vhosts of a host whose entry gives no weight."""

    @property
    def unresolved(self) -> tuple[BackendSetting, ...]:
        """The names that had no address when the file was read."""
        resolved = {setting.hostname for setting in self.mail_servers}
        return tuple(name for name in self.names if name.hostname not in resolved)


class UsersConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[users]: what identifies a user, and how long an assignment lasts."""

    expire: Annotated[float, Duration(at_least=10.0, at_most=365 * DAY, whole=True)] = 15 * MINUTE
    username_hash: Annotated[str, Text(needed=True)] = "%Lu"
    master_user_separator: Annotated[str, Text()] = ""
    """The first character counts; empty: names have no master user's part."""
    kick_delay: Annotated[float, Duration()] = 2.0
    max_parallel_moves: Annotated[int, Count(1, 10_000)] = 100
    max_parallel_kicks: Annotated[int, Count(1, 10_000)] = 100
    flush_socket: Annotated[str, Text()] = ""
    """The flush program, in the form that `director.wire.flushprogram` reads; empty: none."""
    remember_names: Annotated[bool, Flag()] = True
    max: Annotated[int, Count(1, MOST_USERS)] = 10_000_000
    """Number of assignments from which on unassigned users get the host that the hash selects, and no
    assignment. The lowest limit of all directors in the ring applies."""


class DovecotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[dovecot]: the Dovecot of this machine. Sockets are absolute paths once loaded."""

    base_dir: Annotated[str, Text(needed=True)] = "/run/dovecot"
    auth_socket: Annotated[str, Text(needed=True)] = "auth-login"
    userdb_socket: Annotated[str, Text(needed=True)] = "auth-userdb"
    kick: Annotated[str, Choice("auto", "ipc", "anvil", "none")] = "auto"
    ipc_socket: Annotated[str, Text(needed=True)] = "ipc"
    anvil_socket: Annotated[str, Text(needed=True)] = "anvil"


class ListenerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A unix socket or FIFO that the director creates."""

    path: Annotated[str, Text()]
    """Absolute once loaded; empty: off."""
    mode: Annotated[int, Mode()]
    user: Annotated[str, Text()] = ""
    """Name or number, looked up when the socket is opened; empty: the user that runs the director."""
    group: Annotated[str, Text()] = ""


class AdminListenerConfig(ListenerConfig, frozen=True, kw_only=True):
    """The admin socket. It may also be served over TCP."""

    tcp: Annotated[Endpoint | None, Text()] = None


class SocketmapListenerConfig(ListenerConfig, frozen=True, kw_only=True):
    """Look-ups by Postfix. They may also be served over TCP, on a loopback address only."""

    tcp: Annotated[Endpoint | None, Text()] = None


class ListenConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[listen.*]: the listeners and the permissions of their sockets."""

    login: ListenerConfig = ListenerConfig(path="login/director/login", mode=0o666)
    notify: ListenerConfig = ListenerConfig(path="login/director/proxy-notify", mode=0o666)
    userdb: ListenerConfig = ListenerConfig(path="director-userdb", mode=0o600)
    admin: AdminListenerConfig = AdminListenerConfig(path="director-admin", mode=0o600)
    authreply: ListenerConfig = ListenerConfig(path="director-authreply", mode=0o600)
    api: ListenerConfig = ListenerConfig(path="/run/director/api.sock", mode=0o600)
    socketmap: SocketmapListenerConfig = SocketmapListenerConfig(path="", mode=0o600)


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[http]: the API over TCP."""

    listen: Annotated[Endpoint | None, Text()] = None
    token: Annotated[Secret, SecretFile()] = Secret()
    """ASCII. Empty: over TCP the API changes nothing."""


class LookupPorts(msgspec.Struct, frozen=True, kw_only=True):
    """[lookups.ports]: ports of the backends, for answers that must contain a port."""

    imap: Annotated[int, Count(1, PORT_MAX)] = 143
    pop3: Annotated[int, Count(1, PORT_MAX)] = 110
    smtp: Annotated[int, Count(1, PORT_MAX)] = 587
    """Submission; nginx calls it smtp."""
    lmtp: Annotated[int, Count(1, PORT_MAX)] = 24


class LookupsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[lookups]: answers for programs that are not login processes."""

    http: Annotated[bool, Flag()] = False
    """`GET /v1/lookup`, for the Lua passdb of Dovecot 2.4 and for other clients."""
    nginx: Annotated[bool, Flag()] = False
    """`GET /v1/auth_http`, for the mail proxy of nginx."""
    timeout: Annotated[float, Duration(at_least=0.1, at_most=PENDING_TIMEOUT)] = 10.0
    """Seconds that a look-up waits for the user's move or for the ring, before it fails temporarily."""
    ports: LookupPorts = LookupPorts()


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[limits]: concurrent connections. Login processes, LMTP and doveadm are not limited."""

    connections: Annotated[int, Count(4, 100_000)] = 256
    """Limit of each listener except `login` and `userdb`."""
    connections_per_address: Annotated[int, Count(1, 100_000)] = 64
    """Limit for each client address, at each of these listeners over TCP."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """[log]: each event is one line on stderr."""

    format: Annotated[str, Choice("logfmt", "json")] = "logfmt"
    user_names: Annotated[str, Choice("plain", "hash")] = "plain"
    level: Annotated[str, Choice("debug", "info", "warning", "error")] = "info"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `director.toml`, with the defaults filled in."""

    file: str
    folder: Path
    """Absolute; the start of relative paths, also in the state URL."""
    warnings: tuple[str, ...] = ()
    """Problems that do not keep the director from starting."""
    unresolved: tuple[UnresolvedName, ...] = ()
    """Names that had no address when the file was read."""
    secret_files: tuple[tuple[str, str], ...] = ()
    """Key and path of each file that holds a secret."""
    state: Annotated[StateUrl, Text(needed=True)] = DEFAULT_STATE
    snapshot: Annotated[StateUrl, Text()] = StateUrl("")
    """The snapshot beside a shared `state`; empty: none."""
    ring: RingConfig = RingConfig()
    backends: BackendsConfig = BackendsConfig()
    users: UsersConfig = UsersConfig()
    dovecot: DovecotConfig = DovecotConfig()
    listen: ListenConfig = ListenConfig()
    http: HttpConfig = HttpConfig()
    lookups: LookupsConfig = LookupsConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()


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
        ring=_ring(reader, raw.get("ring"), resolve, local, own_within, own_awaited),
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


def show(config: Config) -> str:
    """Return the configuration in force as TOML, with the paths of secrets but not their content."""
    urls = {key: _shown(getattr(config, key), config.folder) for key in ("state", "snapshot")}
    return "\n".join(written(msgspec.structs.replace(config, **urls))).strip() + "\n"


def _shown(url: StateUrl, folder: Path) -> str:
    """Return the URL without its password, with its other query values and with absolute paths."""

    def named(match: re.Match[str]) -> str:
        found = re.search(rf"[?&]{match[2]}=([^&#]*)", url)
        return f"{match[1]}{match[2]}={found[1] if found else ''}"

    start = f"{quote(str(folder))}/"
    text = re.sub(r"([?&])(prefix|username|password_file)=…", named, StateUrl(url).shown)
    text = re.sub(r"^(sqlite:///)(?=[^/?])", lambda match: match[1] + start, text)
    return re.sub(r"([?&]password_file=)(?=[^/%&])", lambda match: match[1] + start, text)


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


def _ring(
    reader: Reader,
    raw: object,
    resolve: Resolve,
    local: Callable[[Address], bool],
    own_within: float,
    own_awaited: Callable[[str], None] | None,
) -> RingConfig:
    given = reader.section(RingConfig, raw, "ring")
    entries: list[str] = given.pop("servers", [])
    written_listen = given.pop("listen", "")
    until = time.monotonic() + own_within
    while True:
        found = _directors(entries, written_listen, resolve, local)
        if not found.own_unresolved or time.monotonic() >= until:
            break
        if own_awaited is not None:
            own_awaited(found.problems[-1][1])
            own_awaited = None
        time.sleep(OWN_NAME_AGAIN)  # a container may start a moment before its name can be resolved
    if not reader.reported("ring.servers") and not reader.reported("ring.listen"):
        for key, text, value in found.problems:
            reader.problem(key, text, value=value)
    for index, text in found.unresolved:
        reader.unresolved.append(UnresolvedName(f"ring.servers[{index}]", entries[index], text))
    if len(found.listed) > MOST_PASSED:
        text = f"a ring has at most {MOST_PASSED} directors"
        reader.problem("ring.servers", text, value=f"{len(found.listed)} directors")
    tls = _tls(reader, given.pop("tls", None), found.listen)
    ring = RingConfig(
        **given,
        servers=tuple(found.listed),
        names=found.names,
        listen=found.listen,
        tls=tls,
    )
    if len(entries) > 1 and not ring.secret and not reader.reported("ring.secret_file"):
        reader.problem(
            "ring.secret_file",
            "several directors need a secret that all of them know; make one with:"
            " openssl rand -hex 32 > ring.secret; chmod 600 ring.secret; chown it to the director's user",
        )
    if ring.ping_timeout <= ring.ping_interval:
        reader.problem("ring.ping_timeout", "must be longer than ring.ping_interval")
    return ring


class _Directors(msgspec.Struct):
    """The directors that `ring.servers` and `ring.listen` name."""

    listed: dict[Endpoint, str]
    names: tuple[tuple[str, Endpoint | None], ...]
    listen: Endpoint | None
    problems: list[tuple[str, str, str]]
    """Key, what is expected, value."""
    unresolved: list[tuple[int, str]]
    own_unresolved: bool = False
    """Whether this director's own entry is unknown because a name without an address may be it."""


def _directors(
    entries: list[str], listen: str, resolve: Resolve, local: Callable[[Address], bool]
) -> _Directors:
    problems: list[tuple[str, str, str]] = []
    unresolved: list[tuple[int, str]] = []
    listed = read_directors(
        entries,
        resolve,
        lambda i, text: problems.append((f"ring.servers[{i}]", text, entries[i])),
        lambda i, text: unresolved.append((i, text)),
    )
    endpoints: dict[str, Endpoint | None] = {
        entry: endpoint for endpoint, entry in listed.items() if is_named(entry)
    }
    endpoints |= {entries[index]: None for index, _ in unresolved}
    found = _Directors(listed, tuple(endpoints.items()), None, problems, unresolved)
    try:
        found.listen = read_endpoint(listen, RING_PORT, resolve) if listen else None
    except Unresolved as exc:
        found.own_unresolved = True
        problems.append(("ring.listen", str(exc), listen))
    except ValueError as exc:
        problems.append(("ring.listen", str(exc), listen))
    if (not entries and found.listen is None) or problems:
        return found
    try:
        found.listen = own_endpoint(tuple(listed), found.listen, local)
    except ValueError as exc:
        text = str(exc)
        if unresolved and not any(local(server.address) for server in listed):
            found.own_unresolved = True
            names = ", ".join(entries[index] for index, _ in unresolved)
            text = f"{text}; not resolved: {names}"
        problems.append(("ring.listen", text, listen))
    return found


def _tls(reader: Reader, raw: object, me: Endpoint | None) -> TlsConfig:
    given: dict[str, str] = reader.section(TlsConfig, raw, "ring.tls")
    paths = {part: str(reader.folder / path) for part, path in given.items() if path}
    if not paths or reader.reported("ring.tls"):
        return TlsConfig()
    missing = [part for part in ("cert", "key", "ca") if part not in paths]
    if missing:
        reader.problem("ring.tls", f"{' and '.join(missing)} missing; give cert, key and ca, or none of them")
        return TlsConfig()
    tls = TlsConfig(**paths)
    try:
        loaded = RingTls(tls.cert, tls.key, tls.ca)
    except TlsFileError as exc:
        advice = LET_DIRECTOR_READ if isinstance(exc.__cause__, PermissionError) else ""
        reader.problem(f"ring.tls.{exc.part}", f"{exc.problem}{advice}")
        return tls
    reader.warn_if_public("ring.tls.key", Path(tls.key))
    problem = loaded.problem_with_own(me.address) if me is not None else None
    if problem is not None:
        reader.warnings.append(
            f"{reader.file}: ring.tls.cert: other directors will refuse {tls.cert}: {problem}; make a new one"
        )
    return tls


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
    if listen.socketmap.tcp is not None and not _is_loopback(listen.socketmap.tcp):
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
    exposed = listen is not None and not _is_loopback(listen)
    if not re.fullmatch(rb"[!-~]*", http.token):
        reader.problem(key, "a token is ASCII without spaces; make one with: openssl rand -hex 32")
    elif exposed and not http.token and not reader.reported(key):
        reader.problem(key, f"needed, because http.listen = {listen} is not a loopback address")
    return http


def _is_loopback(endpoint: Endpoint) -> bool:
    return ipaddress.ip_address(endpoint.address).is_loopback


def _lookups(reader: Reader, raw: object) -> LookupsConfig:
    given = reader.section(LookupsConfig, raw, "lookups")
    ports = LookupPorts(**reader.section(LookupPorts, given.pop("ports", None), "lookups.ports"))
    return LookupsConfig(**given, ports=ports)
