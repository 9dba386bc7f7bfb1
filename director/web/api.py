"""The REST API: routes, parameters and bodies. Every decision is the service's.

Bodies and answers are the records of `director.records`; errors are problem documents (`problems.py`).
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from litestar import Litestar, Response, delete, get, patch, post
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPI, PathItem
from litestar.params import JSONBody, QueryParameter

from director.errors import EX_TRY_AGAIN, BadRequest, OperationError
from director.records import (
    Change,
    Dump,
    HostInfo,
    HostPatch,
    NewHost,
    NewPlan,
    NewReload,
    Plan,
    ReloadInfo,
    RingInfo,
    StatusInfo,
    UserInfo,
    UserStatus,
)
from director.service.operations.operations import Operations
from director.web.access import Token, access_guard, has_body, known_parameters
from director.web.lookups import lookup_handlers
from director.web.moves import MOVE_HANDLERS
from director.web.offer import Offer
from director.web.params import (
    STARTED,
    Address,
    AnyRequest,
    DryRun,
    Force,
    Host,
    Numeric,
    Reason,
    Service,
    Tag,
    Wait,
    answered,
    canonical,
    errors,
    host_address,
    known_host,
    user_name,
)
from director.web.problems import Bug, operation_failed, problem, request_failed, unexpected, unreadable

MAX_BODY = 64 * 1024
"""Bytes of a request body. A longer body is answered with 413."""

MAX_PLAN = 4 * 1024 * 1024
"""Bytes of the body of `POST /v1/plan`, which has all hosts of a configuration."""

PAGE = 1000
"""The most users in an answer of `/v1/users`."""

METRICS_TYPE = "text/plain; version=0.0.4"

Cursor = Annotated[
    str | None,
    QueryParameter(pattern="^[0-9a-f]{16}$", description="From the `Link` header of the previous page"),
]


@get("/v1/status", responses=errors(400), summary="Show this director, its hosts, ring and store")
async def status(operations: Service) -> StatusInfo:
    return await operations.queries.status()


@get("/v1/hosts", responses=errors(400), summary="List the backend hosts in the order of addresses")
async def hosts(operations: Service) -> list[HostInfo]:
    return await operations.queries.hosts()


@get("/v1/hosts/{address:str}", responses=errors(400, 404), summary="Show a backend host")
async def show_host(operations: Service, address: Address) -> HostInfo:
    return await known_host(operations, address)


@post(
    "/v1/hosts",
    status_code=200,
    responses=errors(400, 409, 503),
    summary="Add a host, or set the given values of a host that exists",
)
async def set_host(operations: Service, data: JSONBody[NewHost]) -> Change:
    address = canonical(data.address)
    return await operations.hosts.set(
        address, data.tag, data.weight, reason=data.reason, dry_run=data.dry_run, force=data.force
    )


@patch(
    "/v1/hosts/{address:str}",
    responses=errors(400, 404, 409, 503) | STARTED,
    summary="Change the weight, the tag or the state (up or down) of a host",
)
async def change_host(
    operations: Service, address: Address, data: JSONBody[HostPatch], wait: Wait = True
) -> Response[Change]:
    """A new tag moves the users of the old tag to other hosts; only then `?wait=false` is possible."""
    where, hosts = await host_address(operations, address), operations.hosts
    why, dry, force = data.reason, data.dry_run, data.force
    match data.weight, data.up, data.tag:
        case int(weight), None, None if wait:
            return Response(await hosts.update(where, weight, reason=why, dry_run=dry, force=force))
        case None, bool(up), None if wait:
            return Response(await hosts.set_up(where, up, reason=why, dry_run=dry))
        case None, None, str(tag):
            made = await hosts.set_tag(where, tag, reason=why, dry_run=dry, force=force, follow=not wait)
            return answered(made)
    if not wait:
        raise BadRequest("wait=false is for a change of the tag only")
    raise BadRequest("give exactly one of weight, up and tag: each change is confirmed separately")


@delete(
    "/v1/hosts/{address:str}",
    status_code=200,
    responses=errors(400, 404, 409, 503),
    summary="Remove a host",
)
async def remove_host(
    operations: Service,
    address: Address,
    reason: Reason = "",
    dry_run: DryRun = False,
    force: Force = False,
) -> Change:
    """Refused if no other host can take its users, unless `force` is true."""
    wanted = await host_address(operations, address)
    return await operations.hosts.remove(wanted, reason=reason, dry_run=dry_run, force=force)


@get(
    "/v1/users",
    responses=errors(400, 404),
    summary="List assignments, a page at a time",
)
async def users(operations: Service, host: Host = None, cursor: Cursor = None) -> Response[list[UserInfo]]:
    """At most 1000 users, in the order of their keys. The header `Link` has the next page, if any."""
    wanted = None if host is None else (await known_host(operations, host)).address
    page: list[UserInfo] = []
    async for batch in operations.queries.users(wanted, cursor or ""):
        page += batch
        if len(page) > PAGE:
            del page[PAGE:]
            following = f"/v1/users?cursor={page[-1].key}" + (f"&host={quote(wanted)}" if wanted else "")
            return Response(page, headers={"Link": f'<{following}>; rel="next"'})
    return Response(page)


@get(
    "/v1/users/{name:path}",
    responses=errors(400, 503),
    summary="Show a user's host, and the host that the hash selects",
)
async def user(
    operations: Service,
    request: AnyRequest,
    tag: Tag = "",
    numeric: Numeric = "hash",
) -> UserStatus:
    """A name of digits only is read as a hash, as in Dovecot 2.3; with `?numeric=name` as a name."""
    return operations.queries.user_status(user_name(request), tag, numeric_is_hash=numeric == "hash")


@get("/v1/ring", responses=errors(400), summary="Show the directors and the connections with them")
async def ring(operations: Service) -> RingInfo:
    return operations.queries.ring()


@get(
    "/v1/dump",
    responses=errors(400),
    summary="List the commands that rebuild hosts, tags, weights, down states and pins",
)
async def dump(operations: Service) -> Dump:
    return await operations.queries.dump()


@post(
    "/v1/plan",
    status_code=200,
    request_max_body_size=MAX_PLAN,
    responses=errors(400),
    summary="List the changes that a configuration file would make",
)
async def plan(operations: Service, data: JSONBody[NewPlan]) -> Plan:
    """Changes nothing. The result is what a start of this director with these hosts would change."""
    return operations.queries.plan(data.hosts, data.unresolved)


@get("/v1/reload", responses=errors(400), summary="Show the result of the last reload of this director")
async def reload_info(operations: Service) -> ReloadInfo:
    return operations.reload_info()


@post(
    "/v1/reload",
    status_code=200,
    responses=errors(400, 503),
    summary="Read the configuration file again, or replace the program in place",
)
async def reload(operations: Service, data: JSONBody[NewReload]) -> ReloadInfo:
    """With `exec` it returns immediately; `GET /v1/reload` has the result, from the new program."""
    return await operations.reload(exec=data.exec, reason=data.reason, dry_run=data.dry_run)


@get("/metrics", media_type=METRICS_TYPE, responses=errors(400), summary="Show the metrics for Prometheus")
async def metrics(operations: Service) -> bytes:
    return await operations.metrics.page()


@get(
    "/livez",
    opt={"open": True},
    responses=errors(400, 503),
    summary="Check whether the process works: 200 if it does",
)
async def livez(operations: Service) -> Response[bytes]:
    if operations.queries.alive():
        return Response(b"alive\n", media_type="text/plain")
    return problem(503, "not alive", EX_TRY_AGAIN)


@get(
    "/readyz",
    opt={"open": True},
    responses=errors(400, 503),
    summary="Check whether logins are answered: 200 if they are",
)
async def readyz(operations: Service) -> Response[bytes]:
    ready, reason = operations.queries.ready()
    if ready:
        return Response(b"ready\n", media_type="text/plain")
    return problem(503, reason, EX_TRY_AGAIN)


HANDLERS = [
    *(status, hosts, show_host, set_host, change_host, remove_host, users, user, ring, dump, plan),
    *(reload_info, reload, metrics, livez, readyz),
    *MOVE_HANDLERS,
]


def create_app(
    operations: Operations, *, token: Token, trusted: bool, bug: Bug, offer: Offer | None = None
) -> Litestar:
    """The application of one listener.

    Args:
        token: returns the token that a TCP client must send, see `access.py`.
        trusted: the listener is a unix socket.
        bug: called with each unexpected error.
        offer: look-ups for other programs; None: there are none.
    """
    app = Litestar(
        [*HANDLERS, *(lookup_handlers(offer) if offer is not None else ())],
        dependencies={"operations": Provide(lambda: operations, sync_to_thread=False)},
        guards=[access_guard(token, trusted=trusted), known_parameters, has_body],
        exception_handlers={
            OperationError: operation_failed,
            HTTPException: request_failed,
            UnicodeDecodeError: unreadable,
            RecursionError: unreadable,
            Exception: unexpected,
        },
        state=State({"bug": bug}),
        request_max_body_size=MAX_BODY,
        openapi_config=OpenAPIConfig(
            title="Mail director",
            version="1",
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
        # The service has configured logging already.
        logging_config=None,
    )
    _name_path_of_pins(app.openapi_schema)
    return app


def _name_path_of_pins(schema: OpenAPI) -> None:
    """Give `/v1/users/NAME/pin` its own path: one route serves it and `/v1/users/NAME`."""
    assert schema.paths is not None
    users = schema.paths["/v1/users/{name}"]
    schema.paths["/v1/users/{name}/pin"] = PathItem(delete=users.delete)
    users.delete = None
