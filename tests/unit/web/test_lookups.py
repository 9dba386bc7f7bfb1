"""Look-ups over HTTP for programs that are not login processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from director.errors import TryAgain
from director.records import LookupAnswer
from director.web import Offer
from tests.unit.web.servers import Caller, serving, tcp_socket
from tests.unit.web.service import Service

PORTS = {"imap": 143, "pop3": 1110, "smtp": 587}
ANSWER = LookupAnswer(
    address="10.1.0.3",
    host="mail3.example.com",
    hostip="10.1.0.3",
    proxy_refresh=300,
    user_dirkey="17@10.1.0.3",
)


class FakeLookups:
    """Records its calls. Users whose names begin with `busy` get no answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes, str]] = []

    async def find(self, user: bytes, tag: bytes, protocol: str) -> LookupAnswer:
        self.asked.append((user, tag, protocol))
        if user.startswith(b"busy"):
            raise TryAgain("kill waiting; no host within 10 s")
        return ANSWER


@pytest.fixture(scope="module")
def served(shared_service: Service) -> Iterator[tuple[FakeLookups, Caller]]:
    lookups, sock = FakeLookups(), tcp_socket()
    caller = Caller(sock.getsockname())
    offer = Offer(lookups, http=True, nginx=True, ports=PORTS)
    with serving(shared_service, sock, token="right-token", trusted=False, offer=offer):
        yield lookups, caller


@pytest.fixture
def lookups(served: tuple[FakeLookups, Caller]) -> FakeLookups:
    served[0].asked.clear()
    return served[0]


@pytest.fixture
def ask(served: tuple[FakeLookups, Caller], lookups: FakeLookups) -> Caller:
    return served[1]


def nginx(ask: Caller, path: str = "/v1/auth_http", **headers: str) -> dict[str, str]:
    """The headers of an answer that nginx looks at."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = ask("GET", path, None, **given)
    assert (answer.status, answer.body) == (200, b"")
    return {name: value for name, value in answer.headers.items() if name.startswith("auth-")}


# ---- the look-up itself


def test_the_answer_is_the_fields_that_a_passdb_returns(ask: Caller, lookups: FakeLookups) -> None:
    answer = ask("GET", "/v1/lookup?user=alice%40example.com&tag=gold")
    assert answer.status == 200
    assert answer.json == {
        "address": "10.1.0.3",
        "host": "mail3.example.com",
        "hostip": "10.1.0.3",
        "proxy_refresh": 300,
        "user_dirkey": "17@10.1.0.3",
    }
    assert lookups.asked == [(b"alice@example.com", b"gold", "http")]


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("a%2Fb%20c", b"a/b c"),
        ("a%2Bb", b"a+b"),
        ("%FF%fe", b"\xff\xfe"),
        ("%C3%A4", "ä".encode()),
        ("a%25", b"a%"),
    ],
)
def test_a_user_name_may_have_any_bytes(ask: Caller, lookups: FakeLookups, written: str, user: bytes) -> None:
    assert ask("GET", f"/v1/lookup?user={written}").status == 200
    assert lookups.asked == [(user, b"", "http")]


def test_a_user_who_cannot_be_assigned_in_time_is_a_temporary_failure(ask: Caller) -> None:
    answer = ask("GET", "/v1/lookup?user=busy")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.detail == "kill waiting; no host within 10 s"


@pytest.mark.parametrize("query", ["", "?user=", "?tag=x", "?user=a&user=b", "?name=a"])
def test_a_look_up_without_exactly_one_user_is_refused(ask: Caller, lookups: FakeLookups, query: str) -> None:
    assert ask("GET", f"/v1/lookup{query}").status == 400
    assert lookups.asked == []


# ---- nginx


def test_nginx_gets_the_host_and_the_port_of_the_protocol(ask: Caller, lookups: FakeLookups) -> None:
    assert nginx(ask, Auth_Method="plain", Auth_User="alice", Auth_Protocol="pop3", Auth_Pass="secret") == {
        "auth-status": "OK",
        "auth-server": "10.1.0.3",
        "auth-port": "1110",
    }
    assert lookups.asked == [(b"alice", b"", "nginx")]


def test_nginx_may_give_a_tag_and_escapes_user_names(ask: Caller, lookups: FakeLookups) -> None:
    nginx(ask, "/v1/auth_http?tag=gold", Auth_User="a%20b%25c%FF", Auth_Protocol="imap")
    assert lookups.asked == [(b"a b%c\xff", b"gold", "nginx")]


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ("imap", {"auth-status": "[UNAVAILABLE] Temporary failure, try again later"}),
        ("pop3", {"auth-status": "[SYS/TEMP] Temporary failure, try again later"}),
        (
            "smtp",
            {"auth-status": "Temporary failure, try again later", "auth-error-code": "454 4.3.0"},
        ),
    ],
)
def test_a_mail_program_gets_a_failure_of_the_server_and_not_of_the_password(
    ask: Caller, protocol: str, told: dict[str, str]
) -> None:
    assert nginx(ask, Auth_User="busy", Auth_Protocol=protocol) == told


@pytest.mark.parametrize(
    "headers",
    [
        {"Auth_User": "alice"},
        {"Auth_User": "alice", "Auth_Protocol": "gopher"},
        {"Auth_Protocol": "smtp", "Auth_Method": "none"},
        {"Auth_User": "alice", "Auth_Protocol": "imap", "Auth_Method": "cram-md5"},
    ],
)
def test_a_look_up_without_a_user_or_with_another_protocol_is_refused_with_the_reason(
    ask: Caller, lookups: FakeLookups, headers: dict[str, str]
) -> None:
    told = nginx(ask, **headers)
    assert list(told) == ["auth-status"]
    assert told["auth-status"] != "OK"
    assert lookups.asked == []


# ---- who may ask


@pytest.mark.parametrize("path", ["/v1/lookup?user=alice", "/v1/auth_http"])
def test_look_ups_are_served_only_if_they_are_configured(ask_open: Caller, path: str) -> None:
    assert ask_open("GET", path).status == 404


def test_each_kind_of_look_up_can_be_configured_alone(shared_service: Service) -> None:
    sock = tcp_socket()
    ask = Caller(sock.getsockname())
    with serving(shared_service, sock, offer=Offer(FakeLookups(), http=False, nginx=True, ports=PORTS)):
        assert ask("GET", "/v1/lookup?user=alice").status == 404
        assert nginx(ask, Auth_User="alice", Auth_Protocol="imap")["auth-status"] == "OK"


def test_only_reading_methods_are_offered(ask: Caller, lookups: FakeLookups) -> None:
    assert ask("POST", "/v1/auth_http", Authorization="Bearer right-token").status == 405
    assert lookups.asked == []
