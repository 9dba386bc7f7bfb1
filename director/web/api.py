"""The REST API: routes, parameters and bodies. Every decision is the service's.

Bodies and answers are the records of `director.records`; errors are problem documents (`problems.py`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote_to_bytes

from litestar import Litestar, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromQuery, JSONBody, PathParameter, QueryParameter, SkipValidation

from director.errors import EX_TRY_AGAIN, BadRequest, OperationError, UnknownName
from director.records import (
    Change,
    Dump,
    HostInfo,
    HostPatch,
    NewHost,
    Problem,
    RingInfo,
    StatusInfo,
    UserInfo,
    UserStatus,
)
from director.web.access import access_guard, has_body, known_parameters
from director.web.operations import Operations
from director.web.problems import (
    PROBLEM_JSON,
    operation_failed,
    problem,
    request_failed,
    unexpected,
    unreadable,
)

MAX_BODY = 64 * 1024
"""Bytes of a request body; a longer one is answered 413."""

PAGE = 1000
"""Users an answer of `/v1/users` holds at most."""

METRICS_TYPE = "text/plain; version=0.0.4"

AnyRequest = Request[Any, Any, Any]
Service = NamedDependency[SkipValidation[Operations]]
Address = Annotated[str, PathParameter(description="IP address of the backend host")]
Cursor = Annotated[
    str | None,
    QueryParameter(pattern="^[0-9a-f]{16}$", description="As in the `Link` header of the page before"),
]


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """For the schema: the statuses besides 200, each with a problem document."""
    spec = {400: "A parameter or the body is wrong", 404: "No such host or user"}
    spec |= {409: "Refused as things stand", 503: "Not now; `detail` says why"}
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=spec[status], media_type=PROBLEM_JSON
        )
        for status in statuses
    }


class HostToSet(NewHost, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/hosts`: add a host, or set what is given of one that exists."""


class HostChange(HostPatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PATCH /v1/hosts/{address}`: `weight` or `up`."""


@get("/v1/status", responses=errors(400), summary="This director, its hosts, its ring and its store")
async def status(operations: Service) -> StatusInfo:
    return await operations.status()


@get("/v1/hosts", responses=errors(400), summary="Backend hosts, in order of their addresses")
async def hosts(operations: Service) -> list[HostInfo]:
    return await operations.hosts()


@get("/v1/hosts/{address:str}", responses=errors(400, 404), summary="One backend host")
async def one_host(operations: Service, address: Address) -> HostInfo:
    return await known_host(operations, address)


@post(
    "/v1/hosts",
    status_code=200,
    guards=[has_body],
    responses=errors(400, 409, 503),
    summary="Add a host, or set what is given of one that exists",
)
async def set_host(operations: Service, data: JSONBody[HostToSet]) -> Change:
    address = canonical(data.address)
    return await operations.set_host(address, data.tag, data.weight, reason=data.reason, dry_run=data.dry_run)


@patch(
    "/v1/hosts/{address:str}",
    guards=[has_body],
    responses=errors(400, 404, 409, 503),
    summary="Change the weight of a host, or take it up or down",
)
async def change_host(operations: Service, address: Address, data: JSONBody[HostChange]) -> Change:
    wanted = canonical(address)
    if data.weight is not None and data.up is None:
        return await operations.update_host(wanted, data.weight, reason=data.reason, dry_run=data.dry_run)
    if data.up is not None and data.weight is None:
        return await operations.set_up(wanted, data.up, reason=data.reason, dry_run=data.dry_run)
    raise BadRequest("give weight or up, one of them: each change is confirmed by itself")


@delete(
    "/v1/hosts/{address:str}",
    status_code=200,
    opt={"query": ("reason", "dry_run")},
    responses=errors(400, 404, 409, 503),
    summary="Remove a host",
)
async def remove_host(
    operations: Service, address: Address, reason: FromQuery[str] = "", dry_run: FromQuery[bool] = False
) -> Change:
    return await operations.remove_host(canonical(address), reason=reason, dry_run=dry_run)


@get(
    "/v1/users",
    opt={"query": ("host", "cursor")},
    responses=errors(400, 404),
    summary="Assignments, a page at a time",
)
async def users(
    operations: Service, host: FromQuery[str | None] = None, cursor: Cursor = None
) -> Response[list[UserInfo]]:
    """At most 1000 users, in order of their key. The header `Link` names the next page while there is one."""
    wanted = None if host is None else (await known_host(operations, host)).address
    page: list[UserInfo] = []
    async for batch in operations.users(wanted, cursor or ""):
        page += batch
        if len(page) > PAGE:
            del page[PAGE:]
            following = f"/v1/users?cursor={page[-1].key}" + (f"&host={quote(wanted)}" if wanted else "")
            return Response(page, headers={"Link": f'<{following}>; rel="next"'})
    return Response(page)


@get(
    "/v1/users/{name:path}",
    opt={"query": ("tag", "numeric")},
    responses=errors(400, 503),
    summary="Where a user is, and where he would be placed",
)
async def user(
    operations: Service,
    request: AnyRequest,
    tag: FromQuery[str] = "",
    numeric: FromQuery[Literal["hash", "name"]] = "hash",
) -> UserStatus:
    """A name of digits only is the user's hash, as in the original; `?numeric=name` takes it as a name."""
    return operations.user_status(user_name(request), tag, numeric_is_hash=numeric == "hash")


@get("/v1/ring", responses=errors(400), summary="The directors and the connections with them")
async def ring(operations: Service) -> RingInfo:
    return operations.ring()


@get(
    "/v1/dump",
    responses=errors(400),
    summary="The commands that rebuild hosts, tags, weights and down states",
)
async def dump(operations: Service) -> Dump:
    return operations.dump()


@get("/metrics", media_type=METRICS_TYPE, responses=errors(400), summary="Prometheus metrics")
async def metrics(operations: Service) -> bytes:
    return await operations.metrics()


@get("/livez", opt={"open": True}, responses=errors(400, 503), summary="200 while the process does its work")
async def livez(operations: Service) -> Response[bytes]:
    if operations.alive():
        return Response(b"alive\n", media_type="text/plain")
    return problem(503, "not alive", EX_TRY_AGAIN)


@get("/readyz", opt={"open": True}, responses=errors(400, 503), summary="200 while logins are answered")
async def readyz(operations: Service) -> Response[bytes]:
    ready, reason = operations.ready()
    if ready:
        return Response(b"ready\n", media_type="text/plain")
    return problem(503, reason, EX_TRY_AGAIN)


HANDLERS = [
    *(status, hosts, one_host, set_host, change_host, remove_host, users, user, ring, dump),
    *(metrics, livez, readyz),
]


def create_app(operations: Operations, *, token: str | None, trusted: bool) -> Litestar:
    """The application of one listener.

    token: what a TCP client must show, see `access.py`. trusted: the listener is a unix socket.
    """
    return Litestar(
        HANDLERS,
        dependencies={"operations": Provide(lambda: operations, sync_to_thread=False)},
        guards=[access_guard(token, trusted=trusted), known_parameters],
        exception_handlers={
            OperationError: operation_failed,
            HTTPException: request_failed,
            UnicodeDecodeError: unreadable,
            RecursionError: unreadable,
            Exception: unexpected,
        },
        request_max_body_size=MAX_BODY,
        openapi_config=OpenAPIConfig(
            title="Mail director",
            version="1",
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
        # The daemon has set up logging already.
        logging_config=None,
    )


async def known_host(operations: Operations, address: str) -> HostInfo:
    wanted = canonical(address)
    for host in await operations.hosts():
        if host.address == wanted:
            return host
    raise UnknownName(f"{wanted}: no such host")


def canonical(address: str) -> str:
    """The address in the one form all directors use; BadRequest if it is none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise BadRequest(f"{address!r} is not an IP address") from None


def user_name(request: AnyRequest) -> str:
    """The user name of `/v1/users/NAME`, with whatever slashes are in it.

    Taken from the path as it was sent: the router has unquoted `%2F` and folded `//` already.
    """
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    try:
        return unquote_to_bytes(raw.removeprefix(b"/v1/users/")).decode()
    except UnicodeDecodeError:
        raise BadRequest("the user name is not UTF-8") from None
