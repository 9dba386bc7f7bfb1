"""The REST API: routes, parameters and bodies. Every decision is the service's.

Bodies and answers are the records of `director.records`; errors are problem documents (`problems.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from litestar import Litestar, Response, delete, get, patch, post
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPI, PathItem
from litestar.params import FromQuery, JSONBody, QueryParameter

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
    Service,
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
"""Bytes of a request body; a longer one is answered 413."""

MAX_PLAN = 4 * 1024 * 1024
"""The same for all hosts of a configuration."""

PAGE = 1000
"""Users an answer of `/v1/users` holds at most."""

METRICS_TYPE = "text/plain; version=0.0.4"

Cursor = Annotated[
    str | None,
    QueryParameter(pattern="^[0-9a-f]{16}$", description="As in the `Link` header of the page before"),
]


class HostToSet(NewHost, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/hosts`: add a host, or set what is given of one that exists."""


class HostsToPlan(NewPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/plan`: the hosts of a configuration file."""


class ReloadToDo(NewReload, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/reload`."""


class HostChange(HostPatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PATCH /v1/hosts/{address}`: `weight`, `up` or `tag`."""


@get("/v1/status", responses=errors(400), summary="This director, its hosts, its ring and its store")
async def status(operations: Service) -> StatusInfo:
    return await operations.queries.status()


@get("/v1/hosts", responses=errors(400), summary="Backend hosts, in order of their addresses")
async def hosts(operations: Service) -> list[HostInfo]:
    return await operations.queries.hosts()


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
    return await operations.hosts.set(
        address, data.tag, data.weight, reason=data.reason, dry_run=data.dry_run, force=data.force
    )


@patch(
    "/v1/hosts/{address:str}",
    guards=[has_body],
    opt={"query": ("wait",)},
    responses=errors(400, 404, 409, 503) | STARTED,
    summary="Change the weight or the tag of a host, or take it up or down",
)
async def change_host(
    operations: Service, address: Address, data: JSONBody[HostChange], wait: Wait = True
) -> Response[Change]:
    """A new tag moves the users of the old one; only for that there is `?wait=false`."""
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
    raise BadRequest("give weight or up or tag, one of them: each change is confirmed by itself")


@delete(
    "/v1/hosts/{address:str}",
    status_code=200,
    opt={"query": ("reason", "dry_run", "force")},
    responses=errors(400, 404, 409, 503),
    summary="Remove a host",
)
async def remove_host(
    operations: Service,
    address: Address,
    reason: FromQuery[str] = "",
    dry_run: FromQuery[bool] = False,
    force: FromQuery[bool] = False,
) -> Change:
    """Refused where its users are left without a host, unless `force`."""
    wanted = await host_address(operations, address)
    return await operations.hosts.remove(wanted, reason=reason, dry_run=dry_run, force=force)


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
    async for batch in operations.queries.users(wanted, cursor or ""):
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
    summary="Where a user is, and would be placed",
)
async def user(
    operations: Service,
    request: AnyRequest,
    tag: FromQuery[str] = "",
    numeric: FromQuery[Literal["hash", "name"]] = "hash",
) -> UserStatus:
    """A name of digits only is the user's hash, as in the original; `?numeric=name` takes it as a name."""
    return operations.queries.user_status(user_name(request), tag, numeric_is_hash=numeric == "hash")


@get("/v1/ring", responses=errors(400), summary="The directors and the connections with them")
async def ring(operations: Service) -> RingInfo:
    return operations.queries.ring()


@get(
    "/v1/dump",
    responses=errors(400),
    summary="The commands that rebuild hosts, tags, weights, down states and pins",
)
async def dump(operations: Service) -> Dump:
    return await operations.queries.dump()


@post(
    "/v1/plan",
    status_code=200,
    guards=[has_body],
    request_max_body_size=MAX_PLAN,
    responses=errors(400),
    summary="What a configuration file would change",
)
async def plan(operations: Service, data: JSONBody[HostsToPlan]) -> Plan:
    """Changes nothing: what a start of this director with these hosts in its file would come to."""
    return operations.queries.plan(data.hosts, data.unresolved)


@get("/v1/reload", responses=errors(400), summary="What became of the last reload of this director")
async def reload_info(operations: Service) -> ReloadInfo:
    return operations.reload_info()


@post(
    "/v1/reload",
    status_code=200,
    guards=[has_body],
    responses=errors(400, 503),
    summary="Read the configuration file again, or have the program replaced in place",
)
async def reload(operations: Service, data: JSONBody[ReloadToDo]) -> ReloadInfo:
    """`exec` returns at once: `GET /v1/reload` says what becomes of it, from the new program in the end."""
    return await operations.reload(exec=data.exec, reason=data.reason, dry_run=data.dry_run)


@get("/metrics", media_type=METRICS_TYPE, responses=errors(400), summary="Prometheus metrics")
async def metrics(operations: Service) -> bytes:
    return await operations.metrics.page()


@get("/livez", opt={"open": True}, responses=errors(400, 503), summary="200 while the process does its work")
async def livez(operations: Service) -> Response[bytes]:
    if operations.queries.alive():
        return Response(b"alive\n", media_type="text/plain")
    return problem(503, "not alive", EX_TRY_AGAIN)


@get("/readyz", opt={"open": True}, responses=errors(400, 503), summary="200 while logins are answered")
async def readyz(operations: Service) -> Response[bytes]:
    ready, reason = operations.queries.ready()
    if ready:
        return Response(b"ready\n", media_type="text/plain")
    return problem(503, reason, EX_TRY_AGAIN)


HANDLERS = [
    *(status, hosts, one_host, set_host, change_host, remove_host, users, user, ring, dump, plan),
    *(reload_info, reload, metrics, livez, readyz),
    *MOVE_HANDLERS,
]


def create_app(
    operations: Operations, *, token: Token, trusted: bool, bug: Bug, offer: Offer | None = None
) -> Litestar:
    """The application of one listener.

    token: gives what a TCP client must show, see `access.py`. trusted: the listener is a unix socket.
    bug: is told of errors that nothing else expects.
    offer: look-ups for other programs; None: there are none.
    """
    app = Litestar(
        [*HANDLERS, *(lookup_handlers(offer) if offer is not None else ())],
        dependencies={"operations": Provide(lambda: operations, sync_to_thread=False)},
        guards=[access_guard(token, trusted=trusted), known_parameters],
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
        # The daemon has set up logging already.
        logging_config=None,
    )
    _name_path_of_pins(app.openapi_schema)
    return app


def _name_path_of_pins(schema: OpenAPI) -> None:
    """One route serves `/v1/users/NAME` and `/v1/users/NAME/pin`, since a name may have slashes."""
    assert schema.paths is not None
    users = schema.paths["/v1/users/{name}"]
    schema.paths["/v1/users/{name}/pin"] = PathItem(delete=users.delete)
    users.delete = None
