"""Routes for programs that ask where a user is, to send him there. Each is served only where switched on."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_to_bytes

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery

from director.errors import BadRequest, TryAgain
from director.records import LookupAnswer
from director.web.offer import Offer
from director.web.params import AnyRequest, errors

NOT_OFFERED = "This login method is not offered, use PLAIN or LOGIN"
"""nginx itself would need the password of the others from us."""
UNAVAILABLE = "Temporary failure, try again later"


def lookup_handlers(offer: Offer) -> list[HTTPRouteHandler]:
    """The routes of what is offered."""
    handlers = []
    if offer.http:
        handlers.append(_lookup(offer))
    if offer.nginx:
        handlers.append(_auth_http(offer))
    return handlers


def _lookup(offer: Offer) -> HTTPRouteHandler:
    @get(
        "/v1/lookup",
        opt={"query": ("user", "tag")},
        responses=errors(400, 503),
        summary="Where a user's connection is to go",
    )
    async def lookup(request: AnyRequest, tag: FromQuery[str] = "") -> LookupAnswer:
        """Decides and refreshes as a login does: passdb fields for the proxy that asks. 503: ask again."""
        return await offer.lookups.find(_user(request), tag.encode(), "http")

    return lookup


def _auth_http(offer: Offer) -> HTTPRouteHandler:
    @get(
        "/v1/auth_http",
        opt={"query": ("tag",)},
        responses=errors(400),
        summary="The same for the mail proxy of nginx (auth_http)",
    )
    async def auth_http(request: AnyRequest, tag: FromQuery[str] = "") -> Response[bytes]:
        """What nginx needs is in the headers, it looks at nothing else; we do not look at the password."""
        protocol = request.headers.get("auth-protocol", "")
        user = unquote_to_bytes(request.headers.get("auth-user", "").encode("latin-1"))
        if not user or protocol not in offer.ports:
            return _explained({"Auth-Status": "There is nobody to look up"})
        if request.headers.get("auth-method", "plain") != "plain":
            return _explained({"Auth-Status": NOT_OFFERED})
        try:
            answer = await offer.lookups.find(user, tag.encode(), "nginx")
        except TryAgain:
            return _explained(_unavailable(protocol))
        port = offer.ports[protocol]
        return _explained({"Auth-Status": "OK", "Auth-Server": answer.address, "Auth-Port": str(port)})

    return auth_http


def _explained(headers: dict[str, str]) -> Response[bytes]:
    return Response(b"", headers=headers, media_type="text/plain")


def _unavailable(protocol: str) -> dict[str, str]:
    """What a mail program takes for a failure of the server, not for a wrong password."""
    if protocol == "smtp":
        return {"Auth-Status": UNAVAILABLE, "Auth-Error-Code": "454 4.3.0"}
    code = "UNAVAILABLE" if protocol == "imap" else "SYS/TEMP"
    return {"Auth-Status": f"[{code}] {UNAVAILABLE}"}


def _user(request: AnyRequest) -> bytes:
    """The name in the query as the bytes it was, which need not be UTF-8. Raises BadRequest."""
    query = request.scope["query_string"].decode("latin-1")
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    user = dict(pairs).get("user", "").encode("utf-8", "surrogateescape")
    if not user:
        raise BadRequest("user=NAME is needed")
    return user
