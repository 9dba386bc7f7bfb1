"""Routes, parameters, bodies and errors of the API, asked over a unix socket as the command line does."""

from __future__ import annotations

import json
from typing import NoReturn
from urllib.parse import quote

import pytest

from director.core.protocol.events import HostChange
from director.errors import TryAgain
from director.records import ReloadInfo
from director.web.api import MAX_BODY, PAGE
from tests.unit.service.parts import key_of
from tests.unit.web.servers import Caller
from tests.unit.web.service import ME, ONE, TWO, Service


def encoded(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_status_has_the_keys_of_its_record(ask: Caller) -> None:
    answer = ask("GET", "/v1/status")
    assert answer.status == 200
    assert answer.type == "application/json"
    assert set(answer.json) == {
        "version",
        "me",
        "started",
        "hosts",
        "users",
        "ring",
        "store",
        "alarms",
        "sockets_kept_by",
    }


def test_hosts_are_listed_and_shown_one_by_one(ask: Caller) -> None:
    listed = ask("GET", "/v1/hosts").json
    assert [host["address"] for host in listed] == ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"]
    assert ask("GET", "/v1/hosts/127.0.1.2").json == listed[1]


def test_an_address_is_found_in_any_of_its_spellings(ask: Caller) -> None:
    ask("POST", "/v1/hosts", encoded(address="2001:DB8:0::1"))
    found = ask("GET", f"/v1/hosts/{quote('2001:db8:0:0::1', safe='')}")
    assert found.json["address"] == "2001:db8::1"


def test_an_unknown_host_is_a_404_problem_with_the_exit_code_of_the_command_line(ask: Caller) -> None:
    answer = ask("GET", "/v1/hosts/127.0.1.99")
    assert answer.status == 404
    assert answer.detail == "127.0.1.99: no such host"
    assert answer.json["exit_code"] == 68
    assert answer.json["title"] == "Not Found"


def test_a_text_that_is_not_an_address_is_a_400_problem(ask: Caller) -> None:
    answer = ask("GET", "/v1/hosts/imap.example.com")
    assert (answer.status, answer.detail) == (
        400,
        "'imap.example.com' is neither an IP address nor the name of a host",
    )


def test_a_host_is_taken_down_and_removed(ask: Caller, service: Service) -> None:
    assert ask("PATCH", "/v1/hosts/127.0.1.1", encoded(up=False)).json["host"]["up"] is False
    removed = ask("DELETE", "/v1/hosts/127.0.1.1?reason=broken&dry_run=false")
    assert removed.json == {
        "host": None,
        "stored": True,
        "dry_run": False,
        "users": None,
        "warning": "",
        "without_host": False,
        "unpinned": 0,
    }
    assert "127.0.1.1" not in service.hosts
    assert service.reasons == ["", "broken"]


@pytest.mark.parametrize("body", [encoded(weight=5, up=True), encoded(up=True, tag="t"), encoded()])
def test_a_patch_is_exactly_one_change(ask: Caller, service: Service, body: bytes) -> None:
    answer = ask("PATCH", "/v1/hosts/127.0.1.1", body)
    assert (answer.status, answer.json["exit_code"]) == (400, 65)
    assert "exactly one of weight, up and tag" in answer.detail
    assert service.hosts["127.0.1.1"].weight == 100


def test_each_refusal_has_its_status_and_exit_code(ask: Caller, service: Service) -> None:
    answers = [
        ask("PATCH", "/v1/hosts/127.0.1.99", encoded(weight=1)),
        ask("PATCH", "/v1/hosts/127.0.1.1", encoded(weight=1001)),
        ask("POST", "/v1/hosts", encoded(address="127.0.1.1", tag="silver")),
    ]
    service.node.faults.errors[HostChange] = TryAgain("Ring sync timed out")
    answers.append(ask("PATCH", "/v1/hosts/127.0.1.1", encoded(up=True)))
    found = [(answer.status, answer.json["exit_code"]) for answer in answers]
    assert found == [(404, 68), (400, 65), (409, 77), (503, 75)]
    assert answers[3].headers["retry-after"] == "1"


def test_a_user_is_found_by_name_and_by_hash(ask: Caller, service: Service) -> None:
    by_name = ask("GET", "/v1/users/dave").json
    by_hash = ask("GET", f"/v1/users/{key_of('dave') >> 32}").json
    assert by_name["current"] == by_hash["current"] == "127.0.1.1"


def test_digits_can_be_a_name_too(ask: Caller, service: Service) -> None:
    assert ask("GET", "/v1/users/12345").json["hash"] == 12345
    assert ask("GET", "/v1/users/12345?numeric=name").json["hash"] == key_of("12345") >> 32


@pytest.mark.parametrize("name", ["a/b", "a//b", "a?b", "a%2Fb", "ünï@example.com", "a b", "..", "a/", "#"])
def test_a_user_with_any_name_can_be_requested(ask: Caller, name: str) -> None:
    assert ask("GET", f"/v1/users/{quote(name, safe='')}").json["user"] == name


def test_a_user_name_that_is_not_utf8_is_refused(ask: Caller) -> None:
    answer = ask("GET", "/v1/users/a%ff")
    assert (answer.status, answer.detail) == (400, "the user name is not UTF-8")


def test_a_user_is_found_in_the_pool_of_a_tag(ask: Caller) -> None:
    assert ask("GET", "/v1/users/dave?tag=gold").json["current"] is None


def test_users_come_in_pages_that_together_are_all_of_them(ask: Caller, service: Service) -> None:
    for number in range(2 * PAGE + 5):  # besides dave and zoe
        service.node.put(f"user{number}", ONE)
    pages = []
    path = "/v1/users?host=127.0.1.1"
    while path:
        answer = ask("GET", path)
        pages.append(answer.json)
        path = answer.headers.get("link", "").partition(">")[0].lstrip("<")
    assert [len(page) for page in pages] == [PAGE, PAGE, 7]
    found = [user["key"] for page in pages for user in page]
    assert found == sorted(user.key for user in service.users if user.host == ONE)


def test_users_of_one_host_only(ask: Caller) -> None:
    assert [user["name"] for user in ask("GET", "/v1/users?host=127.0.1.2").json] == ["bob"]


def test_users_of_an_unknown_host_are_a_404(ask: Caller) -> None:
    assert ask("GET", "/v1/users?host=127.0.1.99").status == 404


def test_an_invented_cursor_is_refused(ask: Caller) -> None:
    answer = ask("GET", "/v1/users?cursor=5")
    assert answer.status == 400
    assert answer.detail.startswith("cursor: ")


def test_ring_and_dump_have_the_keys_of_their_records(ask: Caller) -> None:
    assert ask("GET", "/v1/ring").json["members"][0]["kind"] == "self"
    assert ask("GET", "/v1/dump").json["commands"][0] == "director add 127.0.1.1 100"


def test_a_plan_takes_the_hosts_of_a_file_and_has_the_keys_of_its_record(ask: Caller) -> None:
    host = {"address": "127.0.1.1", "hostname": "", "tag": "", "weight": 7}
    many = [host | {"address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"} for n in range(2000)]
    answer = ask("POST", "/v1/plan", encoded(hosts=many))
    assert (answer.status, answer.json["me"], answer.json["known"]) == (200, ME, False)
    assert [change["what"] for change in answer.json["changes"]] == ["host"] * 2004
    assert answer.json["warnings"] == [
        "the pool gold loses its last usable host: its new users wait 30 s and fail temporarily"
    ]
    assert ask("POST", "/v1/plan", encoded(host=host)).status == 400


def test_metrics_are_the_prometheus_text_format(ask: Caller) -> None:
    answer = ask("GET", "/metrics")
    assert answer.type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"director_ring_synced 1.0" in answer.body


def test_probes_answer_200_while_logins_are_answered(ask: Caller) -> None:
    assert ask("GET", "/livez").body == b"alive\n"
    assert ask("GET", "/readyz").body == b"ready\n"


def test_probes_answer_503_with_the_reason(ask: Caller, service: Service) -> None:
    queries = service.node.operations.queries
    queries.alive, queries.ready = lambda: False, lambda: (False, "users are being read from the store")
    assert ask("GET", "/livez").status == 503
    ready = ask("GET", "/readyz")
    assert (ready.status, ready.detail) == (503, "users are being read from the store")


@pytest.mark.parametrize(
    ("path", "parameter"),
    [("/v1/status?wait=false", "wait"), ("/v1/users?hots=127.0.1.1", "hots"), ("/livez?verbose", "verbose")],
)
def test_an_unknown_query_parameter_is_refused(ask: Caller, path: str, parameter: str) -> None:
    answer = ask("GET", path)
    assert answer.status == 400
    assert answer.detail.startswith(f"unknown query parameter '{parameter}'; known here: ")


def test_a_repeated_query_parameter_is_refused(ask: Caller) -> None:
    answer = ask("GET", "/v1/users/dave?tag=a&tag=b")
    assert answer.status == 400
    assert answer.detail == "query parameter 'tag' is given 2 times; give it once"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b'{"address": ', "the body is not JSON"),
        (b"\x00\x01garbage", "the body is not JSON"),
        (b'{"address": "\xff"}', "the body is not UTF-8"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `address`"),
        (b'{"address": "127.0.1.7", "wieght": 5}', "unknown field `wieght`"),
        (b'{"address": "127.0.1.7", "weight": "much"}', "weight: Expected `int | null`, got `str`"),
        (b'{"address": "127.0.1.7", "dry_run": "perhaps"}', "dry_run: Expected `bool`, got `str`"),
        (b'{"address": "localhost"}', "'localhost' is not an IP address"),
        (b"[" * 60_000, "the body is nested too deeply"),
    ],
)
def test_a_malformed_body_is_a_400_that_names_the_problem(
    ask: Caller, service: Service, body: bytes, says: str
) -> None:
    answer = ask("POST", "/v1/hosts", body)
    assert (answer.status, answer.json["exit_code"]) == (400, 65)
    assert says in answer.detail
    assert service.reasons == []


def test_a_body_over_64_kib_is_refused(ask: Caller, service: Service) -> None:
    body = encoded(address="127.0.1.7", reason="x" * MAX_BODY)
    answer = ask("POST", "/v1/hosts", body)
    assert (answer.status, answer.json["exit_code"]) == (413, 65)
    assert answer.detail == "the body is too large; 64 KiB are possible"
    assert "127.0.1.7" not in service.hosts


def test_a_body_over_64_kib_is_refused_also_without_a_length(ask: Caller) -> None:
    with ask.connect() as sock:
        sock.sendall(b"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"11000\r\n" + b"x" * 0x11000 + b"\r\n0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 413 ")


def test_unknown_paths_and_methods_are_problems_too(ask: Caller) -> None:
    path, method = ask("GET", "/v1/nothing"), ask("POST", "/v1/status", b"{}")
    assert (path.status, path.detail) == (404, "there is no /v1/nothing; /schema lists all paths")
    assert (method.status, method.detail) == (
        405,
        "POST is not possible on /v1/status; /schema lists the methods",
    )


def test_an_internal_error_is_logged_and_ends_the_connection_and_the_answer_shows_no_details(
    ask: Caller, service: Service, bugs: list[Exception]
) -> None:
    def bug(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a secret of the inside")

    service.node.operations.queries.user_status = bug
    answer = ask("GET", "/v1/users/dave")
    assert answer.status == 500
    assert answer.detail == "internal error of the director; its log has the details"
    assert answer.headers["connection"] == "close"
    assert "a secret of the inside" in str(bugs.pop())
    assert bugs == []


def test_the_schema_names_every_route_and_its_problems(ask: Caller) -> None:
    schema = ask("GET", "/schema").json
    assert "/v1/hosts/{address}" in schema["paths"]
    refused = schema["paths"]["/v1/hosts/{address}"]["patch"]["responses"]["409"]["content"]
    assert refused == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_the_schema_has_unpinning_under_its_path(ask: Caller) -> None:
    paths = ask("GET", "/schema").json["paths"]
    assert (set(paths["/v1/users/{name}"]), set(paths["/v1/users/{name}/pin"])) == ({"get"}, {"delete"})
    assert paths["/v1/users/{name}/pin"]["delete"]["parameters"][-1]["name"] == "name"


def test_the_schema_describes_every_query_parameter(ask: Caller) -> None:
    operations = [
        operation for path in ask("GET", "/schema").json["paths"].values() for operation in path.values()
    ]
    queries = [
        parameter
        for operation in operations
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    ]
    assert {parameter["name"] for parameter in queries} >= {"reason", "dry_run", "force", "tag", "numeric"}
    assert [parameter["name"] for parameter in queries if not parameter.get("description")] == []


def test_the_schema_says_that_a_flush_with_forget_ends_sessions(ask: Caller) -> None:
    flush = ask("GET", "/schema").json["paths"]["/v1/flushes"]["post"]
    assert "`forget` removes the assignments instead and ends the sessions" in flush["description"]


def test_a_reload_is_started_and_its_result_requested(ask: Caller, service: Service) -> None:
    service.node.reloads.last = ReloadInfo(state="done", version="0.1.0", applied=["log.level"])
    answer = ask("POST", "/v1/reload", encoded(exec=True, reason="upgrade"))
    assert answer.json["applied"] == ["log.level"]
    assert (service.node.reloads.asked, service.reasons) == ([(True, False)], ["upgrade"])
    assert ask("GET", "/v1/reload").json == answer.json
    assert ask("POST", "/v1/reload", encoded(execute=True)).status == 400


def test_a_host_is_found_by_its_name_too(ask: Caller, service: Service) -> None:
    for address in (ONE, TWO):
        service.alter_host(address, hostname="backend2")
    assert "give one address of 127.0.1.1, 127.0.1.2" in ask("GET", "/v1/hosts/backend2").detail
    service.alter_host(ONE, hostname=None)
    assert ask("GET", "/v1/hosts/backend2").json["address"] == "127.0.1.2"
    assert ask("PATCH", "/v1/hosts/backend2", encoded(up=False)).json["host"]["address"] == "127.0.1.2"
