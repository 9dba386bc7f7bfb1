"""The REST API: routes that change users and ring members. The service makes all decisions."""

from __future__ import annotations

import re
from typing import Annotated, Any

from litestar import Response, delete, get, post
from litestar.exceptions import NotFoundException
from litestar.params import JSONBody, PathParameter

from director.errors import BadRequest
from director.records import MoveInfo, NewFlush, NewKick, NewMember, NewMove, RingInfo, UsersChange
from director.web.params import (
    STARTED,
    AnyRequest,
    DryRun,
    Numeric,
    Reason,
    Service,
    Tag,
    Wait,
    answered,
    canonical,
    errors,
    host_address,
    is_address,
    user_name,
)

MoveId = Annotated[str, PathParameter(description="The `id` of the move")]
Member = Annotated[str, PathParameter(description="ADDRESS:PORT or NAME:PORT, or the ADDRESS or NAME alone")]
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")

PIN = "/pin"


@post(
    "/v1/moves",
    status_code=200,
    responses=errors(400, 404, 409, 503) | STARTED,
    summary="Move a user to a host, or pin the user to it",
)
async def move(operations: Service, data: JSONBody[NewMove], wait: Wait = True) -> Response[UsersChange]:
    """Answers when every director has ended the user's old sessions; names directors that did not confirm."""
    if not data.user:
        raise BadRequest("the user name is empty")
    done = await operations.users.move(
        data.user,
        await host_address(operations, data.host),
        data.tag,
        numeric_is_hash=data.numeric == "hash",
        pin=data.pin,
        new=data.new,
        reason=data.reason,
        dry_run=data.dry_run,
        follow=not wait,
    )
    return answered(done)


@get(
    "/v1/moves",
    responses=errors(400),
    summary="List changes of users that run or ended recently, newest first",
)
async def moves(operations: Service) -> list[MoveInfo]:
    return operations.jobs.all()


@get(
    "/v1/moves/{id:str}",
    responses=errors(400, 404),
    summary="Show the progress or result of a change of users",
)
async def show_move(operations: Service, id: MoveId) -> MoveInfo:
    return operations.jobs.info(id)


@delete(
    "/v1/moves/{id:str}",
    status_code=200,
    responses=errors(400, 404),
    summary="Interrupt a change of users",
)
async def interrupt(operations: Service, id: MoveId) -> MoveInfo:
    """Moves that have begun are finished, no other is started; then `ended` is set."""
    await operations.jobs.interrupt(id)
    return operations.jobs.info(id)


@post(
    "/v1/flushes",
    status_code=200,
    responses=errors(400, 404, 409, 503) | STARTED,
    summary="Move the users of a host, or of all hosts, to the hosts that the hash selects",
)
async def flush(operations: Service, data: JSONBody[NewFlush], wait: Wait = True) -> Response[UsersChange]:
    """`forget` removes the assignments instead and ends the sessions; `rebalance` needs `host` null."""
    check_flush(data)
    host = None if data.host is None else await host_address(operations, data.host)
    how: Any = {"reason": data.reason, "dry_run": data.dry_run, "follow": not wait}
    users, tag, parallel = operations.users, data.tag, data.max_parallel
    if data.forget:
        return answered(await users.forget(host, **how))
    if data.rebalance:
        return answered(await users.rebalance(tag, parallel, **how))
    return answered(await users.flush(host, tag=tag, max_parallel=parallel, force=data.force, **how))


def check_flush(wanted: NewFlush) -> None:
    """Refuse parameters that exclude each other, instead of ignoring one.

    Raises:
        BadRequest: they exclude each other, or one is out of range.
    """
    if wanted.max_parallel is not None and wanted.max_parallel < 1:
        raise BadRequest(f"max_parallel is {wanted.max_parallel}; at least 1 is possible")
    if wanted.host is not None and (wanted.tag is not None or wanted.rebalance):
        raise BadRequest("tag and rebalance are about all hosts: host must be null")
    if wanted.forget and (wanted.rebalance or wanted.tag is not None or wanted.max_parallel is not None):
        raise BadRequest("forget excludes rebalance, tag and max_parallel")


@post(
    "/v1/kicks",
    status_code=200,
    responses=errors(400, 409, 503),
    summary="End the sessions of a user, who stays on the host",
)
async def kick(operations: Service, data: JSONBody[NewKick]) -> UsersChange:
    """Values are compared literally: `*` is not a wildcard."""
    ways = [data.user is not None, data.field is not None, data.hash is not None]
    if sum(ways) != 1 or (data.field is None) != (data.value is None):
        raise BadRequest("give exactly one of: user, or field and value, or hash")
    if "" in (data.user, data.field, data.value):
        raise BadRequest("the user name, field or value is empty")
    return await operations.users.kick(
        user=data.user,
        numeric_is_hash=data.numeric == "hash",
        field=data.field,
        value=data.value,
        hash=data.hash,
        reason=data.reason,
        dry_run=data.dry_run,
    )


@delete(
    "/v1/users/{name:path}",
    status_code=200,
    responses=errors(400, 404, 409, 503),
    summary="End the pin of a user",
)
async def unpin(
    operations: Service,
    request: AnyRequest,
    tag: Tag = "",
    numeric: Numeric = "hash",
    reason: Reason = "",
    dry_run: DryRun = False,
) -> UsersChange:
    """The user stays on the host until the assignment expires, and no session ends."""
    # This shares the route of `GET /v1/users/NAME`: with its own route, `GET /v1/users/a%2Fpin`, the user
    # `a/pin`, would be taken for it.
    if not request.scope["raw_path"].partition(b"?")[0].endswith(PIN.encode()):
        raise NotFoundException
    return await operations.users.unpin(
        user_name(request, PIN), tag, numeric_is_hash=numeric == "hash", reason=reason, dry_run=dry_run
    )


@post(
    "/v1/ring/members",
    status_code=200,
    responses=errors(400, 409, 503),
    summary="Add a director to the list of ring members",
)
async def add_member(operations: Service, data: JSONBody[NewMember]) -> RingInfo:
    address, port = endpoint(data.address)
    if data.port is not None:
        if port is not None:
            raise BadRequest(f"two ports: {data.port}, and the port in {data.address!r}; give one")
        port = known_port(str(data.port))
    return await operations.ring.add(address, port, reason=data.reason, dry_run=data.dry_run)


@delete(
    "/v1/ring/members/{member:str}",
    status_code=200,
    responses=errors(400, 404, 409, 503),
    summary="Remove a director from the list of ring members",
)
async def remove_member(
    operations: Service, member: Member, reason: Reason = "", dry_run: DryRun = False
) -> RingInfo:
    address, port = endpoint(member)
    return await operations.ring.remove(address, port, reason=reason, dry_run=dry_run)


def endpoint(member: str) -> tuple[str, int | None]:
    """Address or name, and port, of texts such as `10.0.0.1:9090`, `[2001:db8::1]:9090`, `director4`.

    Returns:
        The address or name, and the port; None if the text has no port.

    Raises:
        BadRequest: the text is of another form.
    """
    if is_address(_bare(member)):
        return canonical(_bare(member)), None
    address, colon, port = member.rpartition(":")
    host = _bare(address) if colon else member
    if not is_address(host) and not (_NAME.fullmatch(host) and host.rpartition(".")[2][:1].isalpha()):
        raise BadRequest(f"{host!r} is neither an IP address nor a name")
    return canonical(host) if is_address(host) else host, known_port(port) if colon else None


def known_port(port: str) -> int:
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise BadRequest(f"{port!r} is not a port; 1 to 65535 are possible")
    return int(port)


def _bare(address: str) -> str:
    """The address without the brackets of IPv6."""
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


MOVE_HANDLERS = [
    *(move, moves, show_move, interrupt, flush, kick, unpin),
    *(add_member, remove_member),
]
