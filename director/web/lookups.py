"""Routes for other proxies that ask for a user's host. Each is served only if it is configured."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_to_bytes

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from director.errors import BadRequest, TryAgain
from director.records import LookupAnswer
from director.web.offer import Offer
from director.web.params import AnyRequest, Tag, errors

NOT_OFFERED = "This login method is not offered, use PLAIN or LOGIN"
"""For login methods other than PLAIN and LOGIN nginx would need the user's password from the director."""
UNAVAILABLE = "Temporary failure, try again later"


def lookup_handlers(offer: Offer) -> list[HTTPRouteHandler]:
    """The routes of the look-ups that are configured."""
    handlers = []
    if offer.http:
        handlers.append(_lookup(offer))
    if offer.nginx:
        handlers.append(_auth_http(offer))
    return handlers


def _lookup(offer: Offer) -> HTTPRouteHandler:
    @get(
        "/v1/lookup",
        opt={"query": ("user",)},  # in bytes that need not be UTF-8
        responses=errors(400, 503),
        summary="Look up a user's host, as a login does",
    )
    async def lookup(request: AnyRequest, tag: Tag = "") -> LookupAnswer:
        """Assigns the user, or renews the assignment, and returns passdb fields. 503: ask again."""
        return await offer.lookups.find(_user(request), tag.encode(), "http")

    return lookup


def _auth_http(offer: Offer) -> HTTPRouteHandler:
    @get(
        "/v1/auth_http",
        responses=errors(400),
        summary="Look up a user's host for the mail proxy of nginx (auth_http)",
    )
    async def auth_http(request: AnyRequest, tag: Tag = "") -> Response[bytes]:
        """The answer for nginx is in the headers. The password is not checked."""
        protocol = request.headers.get("auth-protocol", "")
        user = unquote_to_bytes(request.headers.get("auth-user", "").encode("latin-1"))
        if not user or protocol not in offer.ports:
            return _answered({"Auth-Status": "No user, or no such protocol"})
        if request.headers.get("auth-method", "plain") != "plain":
            return _answered({"Auth-Status": NOT_OFFERED})
        try:
            answer = await offer.lookups.find(user, tag.encode(), "nginx")
        except TryAgain:
            return _answered(_unavailable(protocol))
        port = offer.ports[protocol]
        return _answered({"Auth-Status": "OK", "Auth-Server": answer.address, "Auth-Port": str(port)})

    return auth_http


def _answered(headers: dict[str, str]) -> Response[bytes]:
    return Response(b"", headers=headers, media_type="text/plain")


def _unavailable(protocol: str) -> dict[str, str]:
    """An answer that mail programs read as a failure of the server, not as a wrong password."""
    if protocol == "smtp":
        return {"Auth-Status": UNAVAILABLE, "Auth-Error-Code": "454 4.3.0"}
    code = "UNAVAILABLE" if protocol == "imap" else "SYS/TEMP"
    return {"Auth-Status": f"[{code}] {UNAVAILABLE}"}


def _user(request: AnyRequest) -> bytes:
    """The user name of the query, in bytes that need not be UTF-8.

    Raises:
        BadRequest: there is none.
    """
    query = request.scope["query_string"].decode("latin-1")
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    user = dict(pairs).get("user", "").encode("utf-8", "surrogateescape")
    if not user:
        raise BadRequest("user=NAME is needed")
    return user
