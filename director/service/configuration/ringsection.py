"""The section [ring] of the configuration file: directors, the own entry among them, secret, certificates."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from director.core.checks import MOST_PASSED
from director.errors import TlsFileError
from director.net.tls import RingTls
from director.service.configuration.config import RingConfig, TlsConfig
from director.service.configuration.servers import (
    RING_PORT,
    Endpoint,
    Unresolved,
    is_named,
    own_endpoint,
    read_directors,
    read_endpoint,
)
from director.service.configuration.tomlfile import LET_DIRECTOR_READ, Reader, UnresolvedName
from director.types import Address
from state.resolver import Resolve

OWN_NAME_AGAIN = 0.25
"""Seconds between two attempts to resolve this director's own name."""


def read_ring(
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
