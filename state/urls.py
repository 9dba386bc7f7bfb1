"""Reads the URL of a store. Whatever is wrong with it, no password gets into the message."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from state.base import StateStore, StoreUrlError
from state.memory import MemoryStore
from state.sqlite import SqliteStore

FORMS = (
    "write memory:, sqlite:///RELATIVE, sqlite:////ABSOLUTE, redis://[USER:PASSWORD@]HOST[:PORT][/DB],"
    " rediss://… (TLS) or unix:///SOCKET, the last three with"
    " ?prefix=dd:&username=USER&password_file=FILE (unix also &db=N) as needed"
)
REDIS_PORT = 6379
REDIS_QUERY = ("prefix", "username", "password_file")
DEFAULT_PREFIX = "dd:"

_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]{0,64}")


def open_store(url: str, *, base_dir: Path, timeout: float) -> StateStore:
    """See `state.base.open_store`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreUrlError(
            without_secrets(url), "not a URL", FORMS
        ) from None  # its text may quote the password
    match parts.scheme:
        case "memory":
            return _memory(url)
        case "sqlite":
            return _sqlite(url, parts, base_dir, timeout)
        case "redis" | "rediss" | "unix":
            return _redis(url, parts, base_dir, timeout)
        case "redis+sentinel" | "redis+cluster":
            problem = f"this release does not offer {parts.scheme}:// yet"
            raise StoreUrlError(
                without_secrets(url), problem, "name one server with redis://HOST[:PORT][/DB]"
            )
    raise StoreUrlError(without_secrets(url), "not the URL of a store", FORMS)


def without_secrets(url: str) -> str:
    """`url` for people: nothing of what stands before an @ or after a ? that could be a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "…" if "@" in url else url
    _, at, rest = rest.rpartition("@")
    place, question, query = rest.partition("?")
    host, slash, path = place.partition("/")
    if "[" not in host and not (port := host.partition(":")[2]).isdigit() and port:
        host = host.partition(":")[0] + ":…"  # more likely a password than a port
    keys = [pair.partition("=")[0] for pair in query.split("&")] if query else []
    secret = "…@" if at else ""
    return f"{scheme}://{secret}{host}{slash}{path}{question}{'&'.join(f'{key}=…' for key in keys)}"


def _memory(url: str) -> StateStore:
    if url != "memory:":
        raise StoreUrlError(without_secrets(url), "memory: takes nothing after the colon", "write memory:")
    return MemoryStore()


def _sqlite(url: str, parts: SplitResult, base_dir: Path, timeout: float) -> StateStore:
    def problem(text: str) -> StoreUrlError:
        return StoreUrlError(without_secrets(url), text, "write sqlite:///RELATIVE or sqlite:////ABSOLUTE")

    if parts.netloc:
        raise problem("there is a host name where a third slash belongs")
    if parts.query or parts.fragment:
        raise problem("a SQLite file takes no options; write ? as %3F and # as %23 in its name")
    path = unquote(parts.path)
    if not url.startswith("sqlite:///") or not path.strip("/") or path.endswith("/"):
        raise problem("no file is named")
    if "\0" in path:
        raise problem("a file name cannot contain a zero byte")
    return SqliteStore(base_dir / path[1:], url, timeout)


def _redis(url: str, parts: SplitResult, base_dir: Path, timeout: float) -> StateStore:
    shown = without_secrets(url)
    try:
        from state.redis import RedisStore
        from state.redis_link import RedisAddress
    except ImportError as exc:
        raise StoreUrlError(shown, f"{exc.name} is not installed", "install the extra `redis`") from exc

    if "@" in parts.path + parts.query + parts.fragment:
        problem = "there is an @ after the host; a password cannot contain / ? # @ as they are"
        raise StoreUrlError(shown, problem, "write these as %2F %3F %23 %40")
    query = _query(shown, parts)
    prefix = query.get("prefix", DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise StoreUrlError(shown, f"prefix = {prefix!r}", "a prefix is up to 64 of A-Z, a-z, 0-9, '_.:/-'")
    username, password = _credentials(shown, parts, query, base_dir)
    path, host, port = _place(shown, parts)
    db = _db(shown, query.get("db", "") if path else parts.path.strip("/"))
    user = f"{username}@" if username else ""
    if path:
        plain = f"unix://{user}{path}?db={db}&prefix={prefix}"
    else:
        literal = f"[{host}]" if ":" in host else host
        plain = f"{parts.scheme}://{user}{literal}:{port}/{db}?prefix={prefix}"
    address = RedisAddress(
        url=plain,
        host=host,
        port=port,
        path=path,
        db=db,
        username=username or None,
        password=password or None,
        tls=parts.scheme == "rediss",
        prefix=prefix,
    )
    return RedisStore(address, timeout)


def _place(shown: str, parts: SplitResult) -> tuple[str, str, int]:
    """Socket path, host, port: the first or the other two."""
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if parts.hostname or not path.strip("/"):
            raise StoreUrlError(shown, "no socket is named", "write unix:///PATH/OF/SOCKET")
        return path, "", 0
    try:
        port = REDIS_PORT if parts.port is None else parts.port
    except ValueError:
        problem = "the port is no number from 1 to 65535"  # the library's text quotes what stands there
        raise StoreUrlError(shown, problem, f"write {parts.scheme}://HOST[:PORT][/DB]") from None
    if not parts.hostname or not port:
        raise StoreUrlError(shown, "no host is named", f"write {parts.scheme}://HOST[:PORT][/DB]")
    return "", parts.hostname, port


def _query(shown: str, parts: SplitResult) -> dict[str, str]:
    allowed = REDIS_QUERY + (("db",) if parts.scheme == "unix" else ())
    query: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in allowed:
            raise StoreUrlError(shown, f"no option {key!r}", f"there are {', '.join(allowed)}")
        if key in query:
            raise StoreUrlError(shown, f"{key} is given twice", "give it once")
        query[key] = value
    if parts.fragment:
        raise StoreUrlError(shown, "there is a # in it", "write # in a password as %23")
    return query


def _credentials(shown: str, parts: SplitResult, query: dict[str, str], base_dir: Path) -> tuple[str, str]:
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if username and "username" in query:
        raise StoreUrlError(shown, "the user is named twice", "name it before the @ or with username=")
    username = username or query.get("username", "")
    if "password_file" not in query:
        return username, password
    if password:
        raise StoreUrlError(shown, "the password is given twice", "give it before the @ or in password_file=")
    file = base_dir / query["password_file"]
    try:
        password = file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        problem = f"password_file = {str(file)!r}: {reason}"
        raise StoreUrlError(shown, problem, "name a readable file with the password in it") from None
    if not password:
        problem = f"password_file = {str(file)!r}: it is empty"
        raise StoreUrlError(shown, problem, "write the password into it")
    return username, password


def _db(shown: str, text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise StoreUrlError(shown, f"database {text!r}", "a Redis database is a number from 0")
    return int(text)
