"""Routes that change users and the members of the ring."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from director.core.moves.jobs import Flush, Forget
from director.core.protocol.kicktypes import ByName
from tests.e2e.processes import until
from tests.unit.service.parts import key_of
from tests.unit.web.servers import Answer, Caller
from tests.unit.web.service import GOLD, ONE, TWO, Service


def post(ask: Caller, path: str, **fields: object) -> Answer:
    return ask("POST", path, json.dumps(fields).encode())


def test_digits_are_moved_as_a_hash_or_as_a_name(ask: Caller, service: Service) -> None:
    number = str(key_of("dave") >> 32)
    post(ask, "/v1/moves", user=number, host=TWO)
    post(ask, "/v1/moves", user=number, host=GOLD, tag="gold", numeric="name", pin=True)
    by_hash, by_name = service.asked
    assert (by_hash.key, by_hash.host, by_hash.pin) == (key_of("dave"), TWO, False)
    assert (by_name.name, by_name.host, by_name.pin) == (number.encode(), GOLD, True)


def test_a_dry_move_changes_nothing_and_is_answered_at_once(ask: Caller, service: Service) -> None:
    answer = post(ask, "/v1/moves?wait=false", user="dave", host="127.0.1.2", dry_run=True)
    assert (answer.status, answer.json["dry_run"], answer.json["moved"]) == (200, True, 1)
    assert service.host_of("dave") == "127.0.1.1"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/moves", {"user": "dave", "host": "127.0.1.2"}, "move"),
        ("/v1/moves", {"user": "dave", "host": "127.0.1.2", "pin": True}, "pin"),
        ("/v1/flushes", {"host": "127.0.1.1"}, "flush"),
        ("/v1/flushes", {"host": None, "forget": True}, "forget"),
        ("/v1/flushes", {"host": None, "rebalance": True}, "rebalance"),
    ],
)
def test_a_request_that_does_not_wait_gets_the_path_of_the_move(
    ask: Caller, path: str, body: dict[str, object], kind: str
) -> None:
    begun = post(ask, f"{path}?wait=false", **body)
    assert (begun.status, begun.json["kind"], begun.json["ended"]) == (202, kind, None)
    assert begun.headers["location"] == f"/v1/moves/{begun.json['id']}"
    assert [one["id"] for one in ask("GET", "/v1/moves").json] == [begun.json["id"]]
    assert ask("GET", begun.headers["location"]).json["kind"] == kind


def test_the_progress_of_a_move_is_requested_until_it_has_ended(ask: Caller, service: Service) -> None:
    service.node.sessions.ends = False
    path = post(ask, "/v1/flushes?wait=false", host="127.0.1.1", max_parallel=1).headers["location"]
    until(lambda: ask("GET", path).json["in_progress"] == 1)
    under_way = ask("GET", path).json
    assert (under_way["moved"], under_way["total"], under_way["result"]) == (0, 2, None)
    service.end_sessions()
    until(lambda: ask("GET", path).json["ended"])
    assert ask("GET", path).json["result"]["moved"] == 2


def test_an_interrupted_move_says_what_was_done(ask: Caller, service: Service) -> None:
    service.node.sessions.ends = False
    path = post(ask, "/v1/flushes?wait=false", host="127.0.1.1", max_parallel=1).headers["location"]
    until(lambda: ask("GET", path).json["in_progress"] == 1)
    assert ask("DELETE", path).status == 200
    service.end_sessions()
    until(lambda: ask("GET", path).json["ended"])
    assert ask("GET", path).json["result"]["moved"] == 1


def test_an_unknown_move_is_a_404(ask: Caller) -> None:
    assert ask("GET", "/v1/moves/77").status == ask("DELETE", "/v1/moves/77").status == 404


def test_a_flush_is_passed_to_the_service_with_all_its_parameters(ask: Caller, service: Service) -> None:
    post(ask, "/v1/flushes", host="127.0.1.1", max_parallel=7)
    post(ask, "/v1/flushes", host=None, tag="gold")
    post(ask, "/v1/flushes", host="127.0.1.1", forget=True)
    post(ask, "/v1/flushes", host=None, rebalance=True, tag="gold", max_parallel=3)
    assert service.asked == [
        Flush(0, ONE, None, 7),
        Flush(0, None, "gold"),
        Forget(0, ONE),
        Flush(0, None, "gold", 3),
    ]
    assert [entry.what for entry in service.node.audited] == ["flush", "flush", "forget", "rebalance"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "missing required field `host`"),
        ({"host": None, "max_parallel": 0}, "max_parallel is 0"),
        ({"host": "127.0.1.1", "tag": "gold"}, "host must be null"),
        ({"host": "127.0.1.1", "rebalance": True}, "host must be null"),
        (
            {"host": None, "forget": True, "rebalance": True},
            "forget excludes rebalance, tag and max_parallel",
        ),
        (
            {"host": None, "forget": True, "max_parallel": 5},
            "forget excludes rebalance, tag and max_parallel",
        ),
        ({"host": "imap.example.com"}, "is neither an IP address nor the name of a host"),
    ],
)
def test_a_flush_with_contradicting_parameters_moves_no_user(
    ask: Caller, service: Service, body: dict[str, object], says: str
) -> None:
    answer = post(ask, "/v1/flushes", **body)
    assert (answer.status, answer.json["exit_code"]) == (400, 65)
    assert says in answer.detail
    assert service.asked == []


def test_an_unassigned_user_is_moved_unless_the_request_excludes_new_users(
    ask: Caller, service: Service
) -> None:
    answer = post(ask, "/v1/moves", user="newuser", host="127.0.1.2", new=False)
    assert (answer.status, answer.json["exit_code"]) == (404, 68)
    assert post(ask, "/v1/moves?wait=false", user="newuser", host="127.0.1.2", new=False).status == 404
    assert service.asked == []
    assert post(ask, "/v1/moves", user="newuser", host="127.0.1.2").json["moved"] == 1


def test_kick_reads_a_number_as_a_hash_unless_the_option_name_is_given(ask: Caller, service: Service) -> None:
    post(ask, "/v1/kicks", user="12345")
    post(ask, "/v1/kicks", user="12345", numeric="name")
    by_hash, by_name = (event.what for event in service.asked)
    assert (by_hash.hash32, by_name) == (12345, ByName(b"12345"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "dave", "hash": 5},
        {"field": "user"},
        {"user": "dave", "value": "x"},
        {"user": ""},
        {"field": "", "value": ""},
    ],
)
def test_a_kick_without_exactly_one_way_to_name_the_user_ends_no_session(
    ask: Caller, service: Service, body: dict[str, object]
) -> None:
    answer = post(ask, "/v1/kicks", **body)
    assert (answer.status, answer.json["exit_code"]) == (400, 65)
    assert service.asked == []


@pytest.mark.parametrize("name", ["dave", "a/b", "a/pin", "ünï@example.com"])
def test_any_user_can_be_unpinned(ask: Caller, service: Service, name: str) -> None:
    service.call(service.node.operations.users.move, name, GOLD, "gold", pin=True, reason="")
    path = f"/v1/users/{quote(name, safe='')}/pin?tag=gold&numeric=name"
    assert ask("DELETE", path).status == 200
    assert [user.pinned for user in service.users if user.host == GOLD] == [False]


@pytest.mark.parametrize("path", ["/v1/users/dave", "/v1/users/dave%2Fpin"])
def test_a_user_cannot_be_deleted(ask: Caller, service: Service, path: str) -> None:
    service.assign("dave", pinned=True)
    assert ask("DELETE", path).status == 404
    assert service.asked == []


def test_a_new_tag_answers_with_the_counts_of_the_moved_users(ask: Caller, service: Service) -> None:
    answer = ask("PATCH", "/v1/hosts/127.0.1.1", b'{"tag": "gold"}')
    assert (answer.status, answer.json["host"]["tag"], answer.json["users"]["moved"]) == (200, "gold", 2)


def test_a_new_tag_can_be_given_without_waiting(ask: Caller, service: Service) -> None:
    answer = ask("PATCH", "/v1/hosts/127.0.1.1?wait=false", b'{"tag": "gold"}')
    assert (answer.status, answer.json["kind"]) == (202, "tag")


def test_other_changes_of_a_host_are_always_waited_for(ask: Caller, service: Service) -> None:
    answer = ask("PATCH", "/v1/hosts/127.0.1.1?wait=false", b'{"weight": 7}')
    assert (answer.status, answer.detail) == (400, "wait=false is for a change of the tag only")
    assert service.hosts["127.0.1.1"].weight == 100


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"address": "127.0.0.14"}, "127.0.0.14:9090"),
        ({"address": "127.0.0.14", "port": 9999}, "127.0.0.14:9999"),
        ({"address": "127.0.0.14:9999"}, "127.0.0.14:9999"),
        ({"address": "[2001:DB8::1]:9999"}, "[2001:db8::1]:9999"),
        ({"address": "2001:db8::1"}, "[2001:db8::1]:9090"),
    ],
)
def test_a_director_is_listed_under_its_address_and_port(
    ask: Caller, body: dict[str, object], member: str
) -> None:
    answer = post(ask, "/v1/ring/members", **body)
    assert answer.status == 200
    assert answer.json["missing"] == [member]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"address": "bo gus"}, "'bo gus' is neither an IP address nor a name"),
        ({"address": "127.0.0.14:"}, "'' is not a port"),
        ({"address": "127.0.0.14:00655351"}, "'00655351' is not a port"),
        ({"address": "127.0.0.14", "port": 0}, "'0' is not a port"),
        ({"address": "127.0.0.14:65536"}, "'65536' is not a port"),
        ({"address": "127.0.0.14:9090", "port": 9090}, "two ports"),
    ],
)
def test_a_text_that_is_not_an_address_of_a_director_is_not_listed(
    ask: Caller, service: Service, body: dict[str, object], says: str
) -> None:
    answer = post(ask, "/v1/ring/members", **body)
    assert (answer.status, answer.json["exit_code"]) == (400, 65)
    assert says in answer.detail
    assert service.asked == []


def test_a_director_is_removed_by_address_or_endpoint(ask: Caller, service: Service) -> None:
    for address in ("127.0.0.12", "127.0.0.13"):
        post(ask, "/v1/ring/members", address=address)
    assert ask("DELETE", "/v1/ring/members/127.0.0.12:9090").status == 200
    assert ask("DELETE", "/v1/ring/members/127.0.0.13").status == 200
    gone = ask("DELETE", "/v1/ring/members/127.0.0.12:9090")
    assert (gone.status, gone.detail) == (404, "127.0.0.12:9090: no such director")
    assert ask("GET", "/v1/ring").json["missing"] == []


def test_the_schema_has_the_answers_of_requests_that_do_not_wait(ask: Caller) -> None:
    paths = ask("GET", "/schema").json["paths"]
    accepted = paths["/v1/flushes"]["post"]["responses"]["202"]["content"]["application/json"]["schema"]
    assert accepted == {"$ref": "#/components/schemas/MoveInfo"}
