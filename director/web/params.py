"""What routes share: their parameters, how a path is read, and the problems in the schema."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter, SkipValidation

from director.errors import BadRequest, UnknownName
from director.records import Change, HostInfo, MoveInfo, Problem, UsersChange
from director.service.operations.operations import Operations
from director.web.problems import PROBLEM_JSON

AnyRequest = Request[Any, Any, Any]
Service = NamedDependency[SkipValidation[Operations]]
Address = Annotated[str, PathParameter(description="IP address of the backend host, or its name")]
Wait = Annotated[
    bool, QueryParameter(description="false: answer 202 at once, with the move to ask for at `/v1/moves`")
]

STARTED = {202: ResponseSpec(MoveInfo, generate_examples=False, description="`wait=false`: it has begun")}
"""For the schema of what can be started without waiting for its end."""


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """For the schema: the statuses besides 200, each with a problem document."""
    spec = {400: "A parameter or the body is wrong", 404: "No such host, user, director or move"}
    spec |= {409: "Refused as things stand", 503: "Not now; `detail` says why"}
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=spec[status], media_type=PROBLEM_JSON
        )
        for status in statuses
    }


def answered(done: UsersChange | Change | MoveInfo) -> Response[Any]:
    """The answer to a request: 202 with the move to ask for where it is only started."""
    if isinstance(done, MoveInfo):
        return Response(done, status_code=202, headers={"Location": f"/v1/moves/{done.id}"})
    return Response(done)


async def host_address(operations: Operations, host: str) -> str:
    """The address of a backend, given as such or by the name of one that is there."""
    if is_address(host):
        return canonical(host)
    found = [info.address for info in await operations.queries.hosts() if info.hostname == host]
    if len(found) > 1:
        raise BadRequest(f"{host} has {len(found)} hosts; give the address of one: {', '.join(found)}")
    if not found:
        raise BadRequest(f"{host!r} is neither an IP address nor the name of a host")
    return found[0]


async def known_host(operations: Operations, address: str) -> HostInfo:
    wanted = await host_address(operations, address)
    for host in await operations.queries.hosts():
        if host.address == wanted:
            return host
    raise UnknownName(f"{wanted}: no such host")


def canonical(address: str) -> str:
    """The address in the one form all directors use; BadRequest if it is none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise BadRequest(f"{address!r} is not an IP address") from None


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def user_name(request: AnyRequest, suffix: str = "") -> str:
    """The user name of `/v1/users/NAME` and what follows it, with whatever slashes are in it.

    Taken from the path as it was sent: the router has unquoted `%2F` and folded `//` already.
    """
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    try:
        return unquote_to_bytes(raw.removeprefix(b"/v1/users/").removesuffix(suffix.encode())).decode()
    except UnicodeDecodeError:
        raise BadRequest("the user name is not UTF-8") from None
