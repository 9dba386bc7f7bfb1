"""Access to the API, checked before a handler runs."""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from director.errors import BadRequest

Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], None]
Token = Callable[[], str | None]
"""Returns the present token; None: no token is configured."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})
BODY = "data"
PROVIDED = {"operations", "request", BODY}
"""Arguments of handlers that are no parameters of the path or the query."""


def access_guard(token: Token, *, trusted: bool) -> Guard:
    """The guard of one listener.

    A change, and any request from another machine, needs `Authorization: Bearer TOKEN`. If no token is
    configured, only reading from this machine is possible. Handlers with `opt={"open": True}` need no token.

    Args:
        token: returns the present token.
        trusted: the listener is a unix socket, whose file mode decides who may connect: all is allowed.
    """

    def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        if trusted or handler.opt.get("open"):
            return
        if connection.scope["method"] in READING and _is_local(connection):  # type: ignore[typeddict-item]
            return
        expected = token()
        if expected is None:
            raise PermissionDeniedException(
                "read-only: no http.token_file is configured; make changes over the socket of listen.api"
            )
        if not _carries(connection, expected):
            raise NotAuthorizedException(
                "`Authorization: Bearer TOKEN` is missing, or TOKEN is not that of http.token_file",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return guard


def known_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """Refuse query parameters that the handler does not have, and repeated ones.

    A handler that reads the query itself names its parameters in `opt={"query": …}`.
    """
    others = PROVIDED | connection.path_params.keys()
    known = [*handler.opt.get("query", ()), *(name for name in _arguments(handler) if name not in others)]
    for name, times in Counter(name for name, _ in connection.query_params.multi_items()).items():
        if name not in known:
            raise BadRequest(f"unknown query parameter {name!r}; known here: {', '.join(known) or 'none'}")
        if times > 1:
            raise BadRequest(f"query parameter {name!r} is given {times} times; give it once")


def has_body(connection: Connection, handler: BaseRouteHandler) -> None:
    """Refuse an empty body where the handler takes one."""
    headers = connection.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    if empty and BODY in _arguments(handler):
        raise BadRequest("the body is empty; a JSON object is needed")


def _arguments(handler: BaseRouteHandler) -> Collection[str]:
    return handler.parsed_fn_signature.parameters


def _is_local(connection: Connection) -> bool:
    client = connection.client
    return client is not None and ipaddress.ip_address(client.host).is_loopback


def _carries(connection: Connection, token: str) -> bool:
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
