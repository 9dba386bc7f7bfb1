"""Common parts of routes: parameters, reading of paths, and problems in the schema."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
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
    bool, QueryParameter(description="false: answer 202 immediately; `/v1/moves/{id}` has the result")
]
Reason = Annotated[str, QueryParameter(description="Reason for the change, for the audit")]
DryRun = Annotated[
    bool, QueryParameter(description="true: change nothing; the answer says what would change")
]
Force = Annotated[
    bool, QueryParameter(description="true: even if the pool has no other usable host for the users")
]
Tag = Annotated[str, QueryParameter(description="Pool of the user; empty: the pool without a tag")]
Numeric = Annotated[
    Literal["hash", "name"], QueryParameter(description="Meaning of a name of digits only: a hash or a name")
]
Host = Annotated[
    str | None, QueryParameter(description="Only the users of this host, given by address or name")
]

STARTED = {
    202: ResponseSpec(MoveInfo, generate_examples=False, description="`wait=false`: the change has begun")
}
"""For the schema of changes that can be started without waiting for their end."""


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """For the schema: the HTTP statuses of errors, each with a problem document."""
    spec = {400: "A parameter or the body is wrong", 404: "No such host, user, director or move"}
    spec |= {409: "Refused in the present state", 503: "Not possible now; `detail` says why"}
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=spec[status], media_type=PROBLEM_JSON
        )
        for status in statuses
    }


def answered(done: UsersChange | Change | MoveInfo) -> Response[Any]:
    """The answer to a request: 200 with the result, or 202 with the path of a change that has begun."""
    if isinstance(done, MoveInfo):
        return Response(done, status_code=202, headers={"Location": f"/v1/moves/{done.id}"})
    return Response(done)


async def host_address(operations: Operations, host: str) -> str:
    """The address of a backend host.

    Args:
        host: an address, or the name of a host that exists.

    Raises:
        BadRequest: it is neither, or several hosts have this name.
    """
    if is_address(host):
        return canonical(host)
    found = [info.address for info in await operations.queries.hosts() if info.hostname == host]
    if len(found) > 1:
        raise BadRequest(f"{len(found)} hosts have the name {host}; give one address of {', '.join(found)}")
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
    """The address in the form that all directors use.

    Raises:
        BadRequest: it is not an IP address.
    """
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
    """The user name in a path such as `/v1/users/NAME`, which may have slashes.

    It is read from the path as it was sent, because the router replaces `%2F` and `//` in its copy.

    Args:
        suffix: follows the name in the path.

    Raises:
        BadRequest: the name is not UTF-8.
    """
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    try:
        return unquote_to_bytes(raw.split(b"/", 3)[3].removesuffix(suffix.encode())).decode()
    except UnicodeDecodeError:
        raise BadRequest("the user name is not UTF-8") from None
