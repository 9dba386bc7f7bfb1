"""Commands that change hosts."""

from __future__ import annotations

import pytest

from director.cli.hosts import addresses_of
from director.core.protocol.events import HostChange
from director.errors import TryAgain
from tests.faulty import Fault
from tests.unit.cli.conftest import Director
from tests.unit.web.service import ONE, TWO


def test_add_prints_the_host_as_it_is_now(director: Director) -> None:
    result = director("add", "127.0.1.7@gold", "20", "--reason", "more disks")
    assert (result.exit_code, result.stdout) == (0, "127.0.1.7@gold: weight 20, up\n")
    assert director.service.reasons == ["more disks"]


def test_a_tag_can_be_given_in_both_ways(director: Director) -> None:
    director("add", "127.0.1.7", "-t", "gold")
    director("add", "127.0.1.8@gold", "-t", "gold")
    assert [director.service.hosts[f"127.0.1.{n}"].tag for n in (7, 8)] == ["gold", "gold"]


def test_two_different_tags_are_a_usage_error(director: Director) -> None:
    result = director("add", "127.0.1.7@gold", "-t", "silver")
    assert result.exit_code == 64
    assert "two tags: 'gold' in '127.0.1.7@gold', and -t 'silver'" in result.stderr


def test_add_without_a_weight_leaves_it_to_the_director(director: Director) -> None:
    assert director("add", "127.0.1.2").stdout == "127.0.1.2: weight 50, down\n"


def test_update_up_down_and_remove(director: Director) -> None:
    assert director("update", "127.0.1.1", "0").stdout == "127.0.1.1: weight 0, up\n"
    assert director("down", "127.0.1.1").stdout == "127.0.1.1: weight 0, down\n"
    assert director("up", "127.0.1.1").stdout == "127.0.1.1: weight 0, up\n"
    assert director("remove", "127.0.1.1", "--reason", "sold").stdout == "127.0.1.1: removed\n"
    assert director.service.reasons == ["", "", "", "sold"]


@pytest.mark.parametrize(
    "command",
    [
        ("add", "127.0.1.1", "7"),
        ("update", "127.0.1.1", "7"),
        ("up", "127.0.1.2"),
        ("down", "127.0.1.1"),
        ("remove", "127.0.1.1"),
    ],
)
def test_a_dry_run_about_a_host_prints_what_would_change_and_changes_nothing(
    director: Director, command: tuple[str, ...]
) -> None:
    before = director.service.hosts
    result = director(*command, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.endswith(" (dry run: nothing is changed)\n")
    assert director.service.hosts == before


def test_a_removal_prints_how_many_users_are_no_longer_pinned(director: Director) -> None:
    for name, host in (("dave", ONE), ("zoe", ONE), ("bob", TWO)):
        director.service.assign(name, host, pinned=True)
    would = director("remove", "127.0.1.1", "--dry-run").stdout
    assert "2 users would no longer be pinned (dry run: nothing is changed)\n" in would
    assert director("remove", "127.0.1.1").stdout == "127.0.1.1: removed, 2 users no longer pinned\n"
    assert director("remove", "127.0.1.2").stdout == "127.0.1.2: removed, 1 user no longer pinned\n"


def test_a_change_with_unwanted_effects_prints_a_warning_and_is_made(director: Director) -> None:
    result = director("down", "127.0.1.3")
    assert result.exit_code == 0
    assert result.stderr == (
        "director: 127.0.1.3: the pool gold has no usable host left: "
        "its new users wait 30 s and fail temporarily\n"
    )


def test_a_change_that_is_not_stored_yet_says_so_and_is_made(director: Director) -> None:
    director.service.node.store_fault = Fault.BEFORE
    result = director("down", "127.0.1.1")
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "director: 127.0.1.1: the directors have the change, but it is not stored yet: "
    )


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (("down", "127.0.1.99"), 68, "127.0.1.99: no such backend host"),
        (
            ("update", "127.0.1.1", "1001"),
            65,
            "127.0.1.1: vhost count too large: 1001; 0 to 1000 are possible",
        ),
        (("add", "127.0.1.1@gold"), 77, "127.0.1.1: host tag can't be changed"),
    ],
)
def test_a_refusal_is_one_line_and_its_exit_code(
    director: Director, command: tuple[str, ...], code: int, line: str
) -> None:
    result = director(*command)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"director: {line}\n")


@pytest.mark.parametrize("command", [("127.0.1.3@",), ("-t", "", "127.0.1.3")])
def test_an_empty_tag_is_not_the_same_as_no_tag(director: Director, command: tuple[str, ...]) -> None:
    result = director("add", *command)
    assert (result.exit_code, result.stderr) == (77, "director: 127.0.1.3: host tag can't be changed\n")
    assert director("add", "127.0.1.3", "7").stdout == "127.0.1.3@gold: weight 7, up\n"


def test_a_ring_that_is_not_in_sync_is_exit_code_75(director: Director) -> None:
    director.service.node.faults.errors[HostChange] = TryAgain("Ring sync timed out")
    result = director("up", "127.0.1.1")
    assert (result.exit_code, result.stderr) == (75, "director: 127.0.1.1: Ring sync timed out\n")


def test_every_address_of_a_name_is_changed(director: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.1.1", "127.0.1.99", "127.0.1.2", "127.0.1.2")
    result = director("update", "imap.example.com", "7")
    assert result.stdout == "127.0.1.1: weight 7, up\n127.0.1.2: weight 7, down\n"
    assert (result.exit_code, result.stderr) == (68, "director: 127.0.1.99: no such backend host\n")


def test_map_of_a_name_lists_the_users_of_all_its_addresses(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.1.2", "127.0.1.1")
    assert len(director("map", "imap.example.com").stdout.splitlines()) == 4


def test_localhost_is_resolved_for_real() -> None:
    assert {"127.0.0.1", "::1"} & set(addresses_of("localhost"))


def test_an_address_is_sent_in_canonical_form() -> None:
    assert addresses_of("2001:DB8:0:0::1") == ["2001:db8::1"]


def test_a_host_name_that_does_not_resolve_is_exit_code_68(director: Director) -> None:
    result = director("up", "no-such-name.invalid")
    assert result.exit_code == 68
    assert result.stderr.startswith("director: no-such-name.invalid: cannot be resolved (")


@pytest.mark.parametrize(
    "host", ["100", "10.0.0", "", "@gold", "x y", "imap1 ", "a:b", "[::1", "10.0.0.1/24"]
)
def test_a_text_that_is_neither_an_address_nor_a_name_is_not_resolved(director: Director, host: str) -> None:
    result = director("add", host)
    assert result.exit_code == 64
    assert "is neither an address nor a host name" in result.stderr


@pytest.mark.parametrize("command", ["up", "down", "remove", "drain", "flush", "map"])
def test_every_command_that_takes_a_host_says_that_x_y_is_neither_address_nor_name(
    director: Director, command: str
) -> None:
    result = director(command, "x y")
    assert (result.exit_code, result.stdout) == (64, "")
    assert "'x y' is neither an address nor a host name" in result.stderr


def test_a_tag_behind_the_host_is_refused_where_only_add_takes_one(director: Director) -> None:
    result = director("up", "127.0.1.1@gold")
    assert result.exit_code == 64
    assert "only `add` takes HOST@TAG; give '127.0.1.1'" in result.stderr


def test_an_ipv6_address_may_stand_in_brackets() -> None:
    assert addresses_of("[2001:DB8::1]") == ["2001:db8::1"]


@pytest.mark.parametrize(
    "command",
    [
        ("update", "127.0.1.1", "-5"),
        ("update", "127.0.1.1", "-15", "--dry-run"),
        ("add", "127.0.1.1", "-5"),
        ("add", "127.0.1.7@gold", "-5", "--reason", "-3"),
    ],
)
def test_a_negative_weight_is_reported_as_a_weight_and_not_as_an_unknown_option(
    director: Director, command: tuple[str, ...]
) -> None:
    result = director(*command)
    assert (result.exit_code, result.stdout) == (65, "")
    assert result.stderr == f"director: vhost count too small: {command[2]}; 0 to 1000 are possible\n"
    assert director.service.reasons == []


def test_a_negative_port_is_reported_as_a_port_and_not_as_an_unknown_option(director: Director) -> None:
    result = director("ring", "add", "127.0.0.14", "-1")
    assert result.exit_code == 64
    assert "-1 is not in the range 1<=x<=65535" in result.stderr


def test_an_option_that_does_not_exist_is_still_named(director: Director) -> None:
    assert "No such option '--wieght'" in director("update", "127.0.1.1", "--wieght", "-5").stderr
    assert "No such option '-x'" in director("update", "-x", "127.0.1.1", "-5").stderr


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """The name service is not ours to start: it answers with `addresses`."""
    found = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr("director.cli.hosts.socket.getaddrinfo", lambda *_, **__: found)
