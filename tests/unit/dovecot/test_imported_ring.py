"""director_servers and the TCP listeners: what they come to."""

from __future__ import annotations

import pytest

from tests.unit.dovecot.imports import minimal, noted, values

RING = "service director {\n  inet_listener {\n    port = 9090\n  }\n"
ADMIN = "  inet_listener director-doveadm {\n    port = 9091\n  }\n"


def test_an_admin_port_stays_bound_to_the_address_of_listen() -> None:
    text = f"listen = 10.1.0.1, ::1\ndirector_servers = 10.1.0.1 10.1.0.2\n{RING}{ADMIN}}}\n"
    result = minimal(text)
    assert values(result)["listen"]["admin"]["tcp"] == "10.1.0.1:9091"
    assert values(result)["ring"]["listen"] == "10.1.0.1:9090"
    assert noted(result.not_carried_over, "director-doveadm", "one address, 10.1.0.1", "::1")
    assert not noted(result.notes, "open to every network")


@pytest.mark.parametrize(
    ("listen", "address", "admin"),
    [
        ("listen = *, ::", "", "0.0.0.0:9091"),
        ("listen = [::]", "", "[::]:9091"),
        ("listen = ::", "", "[::]:9091"),
        ("listen = *", "address = 10.1.0.1, 10.1.0.3", "10.1.0.1:9091"),
        ("", "address = 10.1.0.1 ::1", "10.1.0.1:9091"),
        ("", "address = [::1]", "[::1]:9091"),
        ("listen = 10.1.0.1", "address = *", "0.0.0.0:9091"),
        ("listen = 10.1.0.1", "address =", "10.1.0.1:9091"),
    ],
)
def test_the_admin_port_is_as_open_as_it_was(listen: str, address: str, admin: str) -> None:
    text = f"{listen}\nservice director {{\n inet_listener x-admin {{\n  {address}\n  port = 9091\n }}\n}}\n"
    result = minimal(text)
    assert values(result)["listen"]["admin"]["tcp"] == admin
    assert noted(result.notes, "open to every network") == admin.startswith(("0.0.0.0", "[::]"))


def test_the_own_address_is_the_first_of_the_listener_that_is_a_director() -> None:
    text = f"listen = 127.0.0.1, 10.1.0.2\ndirector_servers = 10.1.0.1 10.1.0.2\n{RING}}}\n"
    result = minimal(text)
    assert values(result)["ring"]["listen"] == "10.1.0.2:9090"
    assert noted(result.not_carried_over, "ring.listen takes one address", "127.0.0.1")


def test_the_ring_has_the_port_of_the_first_of_two_listeners_without_a_name() -> None:
    text = f"director_servers = 10.0.0.1 10.0.0.2:9090\n{RING.replace('9090', '9099')}"
    result = minimal(f"{text}  inet_listener {{\n    port = 9090\n  }}\n}}\n")
    assert values(result)["ring"]["servers"] == ["10.0.0.1:9099", "10.0.0.2:9090"]
    assert noted(result.not_carried_over, "port 9090: the ring has one port", "9099")


def test_a_listener_that_is_opened_twice_by_name_is_one() -> None:
    text = (
        "director_servers = 10.0.0.1\nservice director {\n inet_listener ring {\n  port = 9090\n }\n}\n"
        "service director {\n inet_listener ring {\n  port = 9099\n }\n}\n"
    )
    assert values(minimal(text))["ring"]["servers"] == ["10.0.0.1:9099"]


@pytest.mark.parametrize(
    "servers",
    ["10.0.0.1 10.0.0.2 10.0.0.1", "10.0.0.1:9090 10.0.0.2 10.0.0.1", "10.0.0.1 10.0.0.2:9090 10.0.0.2"],
)
def test_a_director_that_is_listed_twice_is_one_director(servers: str) -> None:
    result = minimal(f"director_servers = {servers}\n{RING}}}\n")
    listed = {entry.removesuffix(":9090") for entry in values(result)["ring"]["servers"]}
    assert listed == {"10.0.0.1", "10.0.0.2"}
    assert len(values(result)["ring"]["servers"]) == 2
    assert noted(result.not_carried_over, "director_servers", "more than once")


def test_a_director_that_is_written_in_two_ways_is_one_director() -> None:
    result = minimal(f"director_servers = [2001:db8::1] [2001:DB8:0::1]:9090 2001:db8::2\n{RING}}}\n")
    assert values(result)["ring"]["servers"] == ["2001:db8::1", "2001:db8::2"]


def test_one_name_for_all_directors_becomes_all_its_addresses() -> None:
    names = {"directors.example.com": ["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.1"]}
    result = minimal(f"director_servers = directors.example.com:9090\n{RING}}}\n", names=names)
    ring = values(result)["ring"]
    assert ring["servers"] == ["10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.3:9090"]
    assert ring["secret_file"] == "ring.secret"
    assert noted(result.notes, "directors.example.com", "10.0.0.1, 10.0.0.2, 10.0.0.3", "list all of them")


@pytest.mark.parametrize("addresses", [[], ["10.0.0.1"]])
def test_one_name_that_may_stand_for_all_directors_is_named(addresses: list[str]) -> None:
    names = {"directors.example.com": addresses} if addresses else {}
    result = minimal(f"director_servers = directors.example.com:9090\n{RING}}}\n", names=names)
    ring = values(result)["ring"]
    assert (ring["servers"], ring["secret_file"]) == (["directors.example.com:9090"], "ring.secret")
    assert noted(result.notes, "directors.example.com is the only entry", "list all of them", *addresses)


def test_a_name_with_addresses_of_two_families_is_not_two_directors() -> None:
    names = {"dir1": ["2001:db8::1", "10.0.0.1"], "dir2": ["10.0.0.2"]}
    result = minimal(f"director_servers = dir1 dir2\n{RING}}}\n", names=names)
    assert values(result)["ring"]["servers"] == ["10.0.0.1", "dir2"]
    fixed = minimal(f"director_servers = dir1 2001:db8::2\n{RING}}}\n", names=names)
    assert values(fixed)["ring"]["servers"] == ["2001:db8::1", "2001:db8::2"]


def test_names_with_one_address_each_stay() -> None:
    names = {"dir1": ["10.0.0.1"], "dir2": ["10.0.0.2"]}
    result = minimal(f"director_servers = dir1 dir2:9191\n{RING}}}\n", names=names)
    assert values(result)["ring"]["servers"] == ["dir1", "dir2:9191"]
    assert not noted(result.notes, "list all of them")


def test_a_ring_without_a_listener_is_named() -> None:
    result = minimal("director_servers = 10.0.0.1 10.0.0.2\n")
    assert noted(result.notes, "no inet_listener for the ring")


def test_the_systemd_units_of_another_base_dir_and_of_other_sockets_are_named() -> None:
    plain = minimal("service director {\n unix_listener director-userdb {\n  mode = 0600\n }\n}\n")
    assert not noted(plain.notes, "systemd")
    named = minimal("service director {\n unix_listener my-userdb {\n  mode = 0600\n }\n}\n")
    assert noted(named.notes, "director-userdb.socket: ListenStream=/run/dovecot/my-userdb")
    moved = minimal(
        "base_dir = /var/run/dovecot-front/\nservice director {\n fifo_listener login/proxy-notify {\n"
        "  mode = 0666\n }\n unix_listener login/director {\n  mode = 0666\n }\n}\n"
    )
    assert values(moved)["dovecot"]["base_dir"] == "/run/dovecot-front"
    assert noted(moved.notes, "base_dir = /run/dovecot-front", "tmpfiles.conf")
    assert noted(moved.notes, "director-login.socket: ListenStream=/run/dovecot-front/login/director/login")
    assert noted(
        moved.notes, "director-notify.socket: ListenFIFO=/run/dovecot-front/login/director/proxy-notify"
    )
    assert noted(moved.notes, "director-admin.socket: ListenStream=/run/dovecot-front/director-admin")
