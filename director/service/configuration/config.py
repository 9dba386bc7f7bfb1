"""The configuration: what `director.toml` may hold, as immutable Structs, with all defaults and their units.

The `Annotated` kind of a field (units.py) says how its value is written. `configfile.py` reads the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from director.core.logins.pending import PENDING_TIMEOUT
from director.core.placement.users import MOST_USERS
from director.core.tables.hosts import MAX_WEIGHT, BackendSetting
from director.service.configuration.secretfiles import secret_lines
from director.service.configuration.servers import Endpoint, is_loopback
from director.service.configuration.tomlfile import UnresolvedName, written
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

PORT_MAX = 65535
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
        if self.tls or len(self.servers) < 2 or all(map(is_loopback, self.servers)):
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
