"""Reads the URL of a store. No error message contains a password, whatever is wrong with the URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from state.base import StateStore, StoreUrlError
from state.memory import MemoryStore
from state.passwords import Password, PasswordFileError, read_password
from state.sqlite import SqliteStore
from state.sqlite_beside import SqliteReader

FORMS = (
    "write memory:, sqlite:///RELATIVE, sqlite:////ABSOLUTE, redis://[USER:PASSWORD@]HOST[:PORT][/DB],"
    " unix:///SOCKET, redis+sentinel://HOST[:PORT],HOST[:PORT]/SERVICE[/DB] or redis+cluster://HOST[:PORT],…,"
    " with rediss for redis where TLS is spoken, and ?prefix=dd:&username=USER&password_file=FILE as needed"
)
REDIS_PORT = 6379
SENTINEL_PORT = 26379
REDIS_QUERY = ("prefix", "username", "password_file")
MORE_QUERY = {"unix": ("db",), "sentinel": ("sentinel_username", "sentinel_password_file")}
DEFAULT_PREFIX = "dd:"
HOSTS = {
    "sentinel": "HOST[:PORT],HOST[:PORT],…/SERVICE[/DB]",
    "cluster": "HOST[:PORT],HOST[:PORT],…",
}
"""The part after the scheme, for URLs with several hosts."""

DB_DIGITS = 9
"""The most digits of the number of a Redis database."""

_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]{0,64}")


def open_store(url: str, *, base_dir: Path, timeout: float = 2.0, beside: bool = False) -> StateStore:
    """Return the store that a URL names, not opened yet.

    Args:
        url: as in `state.url`.
        base_dir: the folder in which relative paths begin.
        timeout: seconds after which an exchange with the store counts as unanswered, above 0.
        beside: open a SQLite store for reading only, while another process has it open.

    Raises:
        StoreUrlError: the URL names no store.
    """
    try:
        parts, *others = (urlsplit(part) for part in _hosts_apart(url))
    except ValueError:
        raise StoreUrlError(
            without_secrets(url), "not a URL", FORMS
        ) from None  # the text of the ValueError may quote the password
    match parts.scheme:
        case "memory":
            return _memory(url)
        case "sqlite":
            return _sqlite(url, parts, base_dir, timeout, beside=beside)
        case (
            "redis"
            | "rediss"
            | "unix"
            | "redis+sentinel"
            | "rediss+sentinel"
            | "redis+cluster"
            | "rediss+cluster"
        ):
            return _redis(url, parts, others, base_dir, timeout)
    raise StoreUrlError(without_secrets(url), "not the URL of a store", FORMS)


def _hosts_apart(url: str) -> list[str]:
    """Return the URL with only the first of its hosts, and `//HOST` for each other host: `urlsplit` knows
    no lists."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.endswith(("+sentinel", "+cluster")):
        return [url]
    end = next((i for i, letter in enumerate(rest) if letter in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    return [f"{scheme}://{user}{at}{first}{rest[end:]}", *(f"//{other}" for other in others)]


def without_secrets(url: str) -> str:
    """Return `url` for display: on one line, without any part before an @ or after a ? that could be a
    password."""
    url = "".join(letter if letter.isprintable() else "\ufffd" for letter in url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "…" if "@" in url else url
    _, at, rest = rest.rpartition("@")
    place, question, query = rest.partition("?")
    host, slash, path = place.partition("/")
    host = ",".join(map(_without_password, host.split(",")))
    keys = [pair.partition("=")[0] for pair in query.split("&")] if query else []
    secret = "…@" if at else ""
    return f"{scheme}://{secret}{host}{slash}{path}{question}{'&'.join(f'{key}=…' for key in keys)}"


def _without_password(host: str) -> str:
    if "[" not in host and not (port := host.partition(":")[2]).isdigit() and port:
        return host.partition(":")[0] + ":…"  # more likely a password than a port
    return host


def _memory(url: str) -> StateStore:
    if url != "memory:":
        raise StoreUrlError(without_secrets(url), "memory: takes nothing after the colon", "write memory:")
    return MemoryStore()


def _sqlite(url: str, parts: SplitResult, base_dir: Path, timeout: float, *, beside: bool) -> StateStore:
    def problem(text: str) -> StoreUrlError:
        return StoreUrlError(without_secrets(url), text, "write sqlite:///RELATIVE or sqlite:////ABSOLUTE")

    if parts.netloc:
        raise problem("a host name stands where a third slash belongs")
    if parts.query or parts.fragment:
        raise problem("a SQLite file takes no options; write ? as %3F and # as %23 in its name")
    path = unquote(parts.path)
    if not url.startswith("sqlite:///") or not path.strip("/") or path.endswith("/"):
        raise problem("no file is named")
    if "\0" in path:
        raise problem("a file name cannot contain a zero byte")
    return (SqliteReader if beside else SqliteStore)(base_dir / path[1:], url, timeout)


def _redis(
    url: str, parts: SplitResult, others: list[SplitResult], base_dir: Path, timeout: float
) -> StateStore:
    shown = without_secrets(url)
    try:
        from state.redis import RedisStore
        from state.redis_clients import ClusterAddress, RedisAddress, SentinelAddress
    except ImportError as exc:
        raise StoreUrlError(shown, f"{exc.name} is not installed", "install the extra `redis`") from exc

    if "@" in parts.path + parts.query + parts.fragment:
        problem = "there is an @ after the host; a password cannot contain / ? # @ as they are"
        raise StoreUrlError(shown, problem, "write these as %2F %3F %23 %40")
    kind = parts.scheme.partition("+")[2] or parts.scheme
    query = _query(shown, parts, kind)
    prefix = query.get("prefix", DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise StoreUrlError(shown, f"prefix = {prefix!r}", "a prefix is up to 64 of A-Z, a-z, 0-9, '_.:/-'")
    username, password = _credentials(shown, parts, query, base_dir)
    user = f"{username}@" if username else ""
    common: dict[str, Any] = {
        "username": username or None,
        "password": password,
        "tls": parts.scheme.startswith("rediss"),
        "prefix": prefix,
    }
    path = unquote(parts.path)
    if kind == "unix":
        if parts.hostname or not path.strip("/"):
            raise StoreUrlError(shown, "no socket is named", "write unix:///PATH/OF/SOCKET")
        db = _db(shown, query.get("db", ""))
        plain = f"unix://{user}{path}?db={db}&prefix={prefix}"
        return RedisStore(RedisAddress(url=plain, path=path, db=db, **common), timeout)

    nodes = _nodes(shown, parts, others, kind)
    begin = f"{parts.scheme}://{user}{','.join(f'[{h}]:{p}' if ':' in h else f'{h}:{p}' for h, p in nodes)}"
    service, number = _within(shown, path, kind)
    db = _db(shown, number)
    address: RedisAddress
    if kind == "cluster":
        address = ClusterAddress(url=f"{begin}?prefix={prefix}", nodes=nodes, **common)
    elif kind == "sentinel":
        address = SentinelAddress(
            url=f"{begin}/{service}/{db}?prefix={prefix}",
            sentinels=nodes,
            service=service,
            db=db,
            sentinel_username=query.get("sentinel_username") or None,
            sentinel_password=_password(shown, query, "sentinel_password_file", base_dir),
            **common,
        )
    else:
        ((host, port),) = nodes
        address = RedisAddress(url=f"{begin}/{db}?prefix={prefix}", host=host, port=port, db=db, **common)
    return RedisStore(address, timeout)


def _within(shown: str, path: str, kind: str) -> tuple[str, str]:
    """Return the service, empty unless there are sentinels, and the database, as written after the hosts."""
    path = path.strip("/")
    if kind == "cluster" and path:
        raise StoreUrlError(
            shown, f"database {path!r}", "a Cluster has only database 0: leave the number out"
        )
    if kind != "sentinel":
        return "", path
    service, _, number = path.partition("/")
    if not service:
        raise StoreUrlError(shown, "no service is named", f"write redis+sentinel://{HOSTS[kind]}")
    return service, number


def _nodes(
    shown: str, parts: SplitResult, others: list[SplitResult], kind: str
) -> tuple[tuple[str, int], ...]:
    """Return host and port of each node."""
    form = f"write {parts.scheme}://{HOSTS.get(kind, 'HOST[:PORT][/DB]')}"
    port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    return tuple(_node(shown, node, port, form) for node in (parts, *others))


def _node(shown: str, parts: SplitResult, default_port: int, form: str) -> tuple[str, int]:
    """Return host and port of a node."""
    try:
        port = default_port if parts.port is None else parts.port
    except ValueError:
        # Not the library's text, which quotes the port as written.
        problem = "the port is no number from 1 to 65535"
        raise StoreUrlError(shown, problem, form) from None
    if not parts.hostname or not port:
        raise StoreUrlError(shown, "no host is named", form)
    return parts.hostname, port


def _query(shown: str, parts: SplitResult, kind: str) -> dict[str, str]:
    allowed = REDIS_QUERY + MORE_QUERY.get(kind, ())
    query: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in allowed:
            raise StoreUrlError(shown, f"no option {key!r}", f"there are {', '.join(allowed)}")
        if key in query:
            raise StoreUrlError(shown, f"{key} is given twice", "give it once")
        query[key] = value
    if parts.fragment:
        raise StoreUrlError(shown, "it contains a #", "write # in a password as %23")
    return query


def _credentials(
    shown: str, parts: SplitResult, query: dict[str, str], base_dir: Path
) -> tuple[str, Password | None]:
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if username and "username" in query:
        raise StoreUrlError(shown, "the user is named twice", "name it before the @ or with username=")
    username = username or query.get("username", "")
    if "password_file" not in query:
        return username, Password(password) if password else None
    if password:
        raise StoreUrlError(shown, "the password is given twice", "give it before the @ or in password_file=")
    return username, _password(shown, query, "password_file", base_dir)


def _password(shown: str, query: dict[str, str], key: str, base_dir: Path) -> Password | None:
    """Return the password in the file that `key` names; None: it names no file."""
    if key not in query:
        return None
    file = base_dir / query[key]
    try:
        return Password(read_password(file), file, key)
    except PasswordFileError as exc:
        problem = f"{key} = {str(file)!r}: {exc}"
        advice = "write the password into a file that the director's user can read"
        raise StoreUrlError(shown, problem, advice) from None


def _db(shown: str, text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > DB_DIGITS:
        raise StoreUrlError(shown, f"database {text!r}", "a Redis database is a number from 0")
    return int(text)
