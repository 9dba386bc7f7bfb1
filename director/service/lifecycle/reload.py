"""Reads the configuration file again, and separates the settings that can change at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from director.core.settings import Settings
from director.errors import TlsFileError
from director.net.tls import RingTls
from director.service.configuration.config import Config, TlsConfig
from director.service.configuration.configfile import load

LIVE = frozenset(
    {
        "backends.mail_servers",
        "backends.names",
        "backends.weight",
        "http.token",
        "limits.connections",
        "limits.connections_per_address",
        "log.level",
        "ring.isolation_wait",
        "ring.secret",
        "ring.tls",
        "users.kick_delay",
        "users.max",
        "users.max_parallel_kicks",
        "users.max_parallel_moves",
    }
)
"""Settings that apply at once. All others apply from the next start of a program."""
_FOUND = frozenset({"file", "folder", "warnings", "unresolved", "secret_files"})
"""Fields that are not settings: they were found out while the file was read."""
_WRITTEN_AS = {
    "ring.names": "ring.servers",
    "backends.names": "backends.mail_servers",
    "ring.secret": "ring.secret_file",
    "http.token": "http.token_file",
}
"""The setting of each field that holds a part of it, or the content of the file that it names."""


def read_again(running: Config, in_force: RingTls | None) -> tuple[Config, RingTls | None]:
    """Return the configuration in the file now, and the certificates of the ring if there are any.

    Reads files: call it in a thread. A new certificate that other directors would refuse is refused here,
    because the certificate in force may be good.

    Args:
        running: the configuration in force.
        in_force: the certificates in force.

    Raises:
        ConfigErrors: a problem with the file.
        TlsFileError: a problem with a file that it names.
    """
    new = load(running.file, os.environ)
    tls = live(running, new).ring.tls
    if not tls:
        return new, None
    found = RingTls(tls.cert, tls.key, tls.ca)
    if in_force is None or found.content != in_force.content:
        raise_if_refused(found, tls, new)
    return new, found


def raise_if_refused(found: RingTls, tls: TlsConfig, config: Config) -> None:
    """Raise TlsFileError if other directors would refuse these certificates."""
    me = config.ring.listen
    problem = found.problem_with_own(me.address) if me is not None else None
    if problem is not None:
        raise TlsFileError("cert", f"other directors would refuse {tls.cert}: {problem}")


class Reload(NamedTuple):
    """The changes of a file that was read again."""

    applied: list[str]
    needs_exec: list[str]


def compare(old: Config, new: Config) -> Reload:
    """Return the settings that differ, by their names in the file."""
    found = set(_differing(_as_written(old), _as_written(new)))
    live_now = _live_between(old, new)
    at_once = {name for name in found if name in live_now or name.rpartition(".")[0] in live_now}
    return Reload(_as_in_file(at_once), _as_in_file(found - at_once))


def _as_in_file(names: Iterable[str]) -> list[str]:
    return sorted({_WRITTEN_AS.get(name, name) for name in names})


def _live_between(old: Config, new: Config) -> frozenset[str]:
    """Return the settings that apply at once. Only a new program begins or ends a ring, or TLS in it."""
    rings = bool(old.ring.secret and new.ring.secret)
    secured = bool(old.ring.tls and new.ring.tls)
    return LIVE - ({"ring.secret"} if not rings else set()) - ({"ring.tls"} if not secured else set())


def _as_written(config: Config) -> Config:
    """Return the configuration without the addresses of its names, which are resolved again all the time."""
    ring, backends = config.ring, config.backends
    named = {endpoint for _, endpoint in ring.names}
    ring = msgspec.structs.replace(
        ring,
        servers=tuple(server for server in ring.servers if server not in named),
        names=tuple(sorted((entry, None) for entry, _ in ring.names)),
    )
    fixed = tuple(setting for setting in backends.mail_servers if not setting.hostname)
    backends = msgspec.structs.replace(backends, mail_servers=fixed)
    return msgspec.structs.replace(config, ring=ring, backends=backends)


def backends_digest(config: Config) -> int:
    """Return a digest of the backends in the file, for comparison with other directors: 63 bits, never 0."""
    backends = _as_written(config).backends
    listed = sorted([*map(repr, backends.mail_servers), *map(repr, backends.names)])
    digest = hashlib.sha256("\n".join(listed).encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) >> 1 or 1


def limits(config: Config) -> Settings:
    """Return the settings of the core."""
    return Settings(
        isolation_wait=config.ring.isolation_wait,
        kick_delay=config.users.kick_delay,
        max_users=config.users.max,
        max_parallel_moves=config.users.max_parallel_moves,
        max_parallel_kicks=config.users.max_parallel_kicks,
        flush_program=bool(config.users.flush_socket),
        remember_names=config.users.remember_names,
    )


def live(old: Config, new: Config) -> Config:
    """Return the configuration in force: `old` with the settings of `new` that apply at once."""
    sections: dict[str, msgspec.Struct] = {}
    for name in _live_between(old, new):
        section, _, field = name.partition(".")
        part = sections.get(section, getattr(old, section))
        sections[section] = msgspec.structs.replace(part, **{field: getattr(getattr(new, section), field)})
    return msgspec.structs.replace(old, **sections)


def _differing(old: object, new: object, prefix: str = "") -> Iterator[str]:
    assert isinstance(old, msgspec.Struct)
    for field in old.__struct_fields__:
        name, before, after = prefix + field, getattr(old, field), getattr(new, field)
        if name in _FOUND or before == after:
            continue
        if isinstance(before, msgspec.Struct) and type(before) is type(after):
            yield from _differing(before, after, f"{name}.")
        else:
            yield name
