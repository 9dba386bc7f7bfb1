"""Access over TCP, with and without a token."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from director.web.access import access_guard
from tests.unit.web.servers import Caller
from tests.unit.web.service import Service

CHANGE = json.dumps({"weight": 7}).encode()


def test_without_a_token_tcp_is_read_only(ask_open: Caller, service: Service) -> None:
    assert ask_open("GET", "/v1/hosts").status == 200
    refused = ask_open("PATCH", "/v1/hosts/127.0.1.1", CHANGE)
    assert (refused.status, refused.json["exit_code"]) == (403, 77)
    assert "read-only: no http.token_file is configured" in refused.detail
    assert service.hosts["127.0.1.1"].weight == 100


def test_without_a_configured_token_every_token_is_wrong(ask_open: Caller) -> None:
    assert ask_open("PATCH", "/v1/hosts/127.0.1.1", CHANGE, Authorization="Bearer ").status == 403


def test_with_the_token_tcp_changes_hosts(ask_token: Caller, service: Service) -> None:
    answer = ask_token("PATCH", "/v1/hosts/127.0.1.1", CHANGE, Authorization="Bearer right-token")
    assert answer.status == 200
    assert service.hosts["127.0.1.1"].weight == 7


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic right-token"},
        {"Authorization": "Bearer"},
    ],
)
def test_a_change_without_the_right_token_is_refused(
    ask_token: Caller, service: Service, header: dict[str, str]
) -> None:
    refused = ask_token("DELETE", "/v1/hosts/127.0.1.1", None, **header)
    assert (refused.status, refused.json["exit_code"]) == (401, 77)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "right-token" not in refused.detail
    assert "127.0.1.1" in service.hosts


def test_a_wrong_token_is_refused_before_the_body_is_read(ask_token: Caller) -> None:
    assert ask_token("POST", "/v1/hosts", b"garbage", Authorization="Bearer wrong").status == 401


def test_reading_from_this_machine_needs_no_token(ask_token: Caller) -> None:
    assert ask_token("GET", "/v1/users").status == 200


def remote(method: str, **headers: str) -> Any:
    client = SimpleNamespace(host="192.0.2.7", port=1)
    return cast(Any, SimpleNamespace(client=client, scope={"method": method}, headers=headers))


def handler(**opt: object) -> Any:
    return cast(Any, SimpleNamespace(opt=opt))


def test_reading_from_another_machine_needs_the_token() -> None:
    guard = access_guard(lambda: "right-token", trusted=False)
    with pytest.raises(NotAuthorizedException):
        guard(remote("GET"), handler())
    assert guard(remote("GET", authorization="bearer right-token"), handler()) is None


def test_without_a_token_another_machine_reads_nothing() -> None:
    with pytest.raises(PermissionDeniedException):
        access_guard(lambda: None, trusted=False)(remote("GET"), handler())


def test_probes_answer_without_a_token() -> None:
    assert access_guard(lambda: "right-token", trusted=False)(remote("GET"), handler(open=True)) is None
