"""Translates errors of Redis servers into exceptions of a store."""

from __future__ import annotations

import re
from collections.abc import Iterable

from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError

from state.base import StoreError, StoreRefused, StoreUnavailable

TRANSIENT = {
    "LOADING": "the server reads its data from disk after a start: wait until it has them",
    "BUSY": "a script of another program runs on the server: end it with SCRIPT KILL",
    "UNKILLABLE": "a script of another program runs on the server and has"
    " written: wait, or restart the server",
    "MASTERDOWN": "the server is a replica that lost its primary: restart the primary, or promote a replica",
    "CLUSTERDOWN": "slots have no primary: wait for the failover; if there is none,"
    " restart one of their nodes, and check with redis-cli --cluster check",
    "TRYAGAIN": "a slot is being moved to another node: finish that with redis-cli --cluster fix",
}
"""Error codes that usually pass without an operator, with advice for when they do not."""

_CLUSTER = "the server is part of a Redis Cluster: name it with redis+cluster://HOST:PORT"

ADVICE = {
    "NOAUTH": "the server requires a password: write USER:PASSWORD@ into the URL, or use password_file=",
    "WRONGPASS": "the server does not accept this user and password: correct the password file, which is read"
    " again with each attempt, or the URL, which applies from the next start or director reload --exec on",
    "NOPERM": "the ACL does not give this user a right to the command or its keys: add it with ACL SETUSER",
    "OOM": "the server's memory is full: raise maxmemory, and keep maxmemory-policy at noeviction",
    "READONLY": "the server is a read-only replica: name the primary in the URL",
    "MISCONF": "the server cannot save its data (see its log): free its disk, or repair its permissions",
    "NOREPLICAS": "too few replicas are connected to the server: start them, or lower min-replicas-to-write",
    "WRONGTYPE": "another program keeps data under this prefix: choose another one with ?prefix=",
    "DENIED": "the server is in protected mode: give it a password, or set bind and protected-mode",
    "MOVED": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "NOCLUSTER": "the server is not part of a Redis Cluster: name it with redis://HOST:PORT",
    "NOSERVICE": "no sentinel knows the service that the URL names: redis-cli -p 26379 SENTINEL MASTERS"
    " lists the services",
    "SENTINELAUTH": "the sentinels refuse the login: use sentinel_password_file= (and sentinel_username=);"
    " the file is read again with each attempt",
}
_LOGIN = ("NOAUTH", "WRONGPASS", "SENTINELAUTH")

_NESTED = re.compile(r"(?:: -|user_script: ?\d+: -?)([A-Z]{3,}) ")
"""How Redis 6 reports the error of a command that a script ran."""
_NOT_ALLOWED = re.compile(r"The user executing the script can't|ACL failure in script")
"""How Redis and Valkey report a command or key that the ACL does not allow to a script: as ERR."""

Failure = RedisError | RedisClusterException | OSError
"""All exceptions that the library raises."""


def is_login_refused(reply: object) -> bool:
    """Whether a reply, or an exception of the library, says that the server wants a password or another
    one."""
    if isinstance(reply, OSError | RedisError) and isinstance(reply.__cause__, RedisError):
        reply = reply.__cause__
    return isinstance(reply, AuthenticationError) or (
        isinstance(reply, ResponseError) and code_of(reply) in _LOGIN
    )


def translated(
    exc: Failure, url: str, operation: str, *, secrets: Iterable[str] = (), notes: Iterable[str] = ()
) -> StoreError:
    """Return the StoreError for an exception of the client library.

    Args:
        exc: the exception.
        url: the URL of the store, for display.
        operation: the operation that failed.
        secrets: texts that are removed from the message, whatever the server says.
        notes: problems with the password files, added if a login is refused.

    Returns:
        StoreRefused if an operator has to act; else StoreUnavailable.
    """
    if isinstance(exc.__cause__, RedisError):
        exc = exc.__cause__  # redis-py wraps an error in the greeting of a Unix socket
    text = str(exc)
    for secret in secrets:
        text = text.replace(secret, "…")
    if isinstance(exc, RedisError) and (code := code_of(exc)) in TRANSIENT:
        return StoreUnavailable(url, operation, reason=f"the server says {code}: {TRANSIENT[code]}")
    if isinstance(exc, ResponseError | AuthenticationError):
        code = code_of(exc)
        if code in ADVICE:
            problems = notes if code in _LOGIN else ()
            return StoreRefused(url, operation, code, "; ".join([ADVICE[code], *problems]))
        return StoreRefused(url, operation, code, f"see the server's log; its answer: {text[:200]}")
    return StoreUnavailable(url, operation, reason=text)


def code_of(exc: RedisError) -> str:
    """Return the code of an error reply, also of an error inside a script; else the first word of the
    text."""
    if isinstance(exc, AuthenticationError) and exc.status_code not in ("NOAUTH", "SENTINELAUTH"):
        return "WRONGPASS"
    if _NOT_ALLOWED.search(str(exc)):
        return "NOPERM"
    code = exc.status_code or str(exc).partition(" ")[0]
    nested = _NESTED.search(str(exc))
    return nested[1] if code == "ERR" and nested else code


def unreadable(url: str, operation: str, remedy: str) -> StoreRefused:
    """Return the error about a stored value that no director has written.

    Args:
        url: of the store.
        operation: the operation that has read the value.
        remedy: the command that removes it.
    """
    advice = f"another program than a director wrote this entry; to remove it: {remedy}"
    return StoreRefused(url, operation, "unreadable", advice)
