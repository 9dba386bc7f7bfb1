"""Directors and mail servers as the configuration lists them. Names come from a table, no server is asked."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.core.tables.hosts import BackendSetting
from director.service.configuration.servers import (
    Endpoint,
    backend_name,
    is_local,
    own_endpoint,
    read_backends,
    read_directors,
    read_endpoint,
)
from director.types import Address
from tests.descriptors import without_descriptors

SAME_ID = ["10.6.36.5", "10.14.173.0"]  # the first 32 bits of their MD5 are equal

NAMES = {
    "d1.example.com": ["10.0.0.1"],
    "six.example.com": ["2001:db8::1"],
    "imap.example.com": ["10.2.0.2", "10.2.0.1"],
    "mail-1.example.com": ["10.3.0.1"],
}


def resolve(name: str) -> list[str]:
    return NAMES[name]


def unknown(name: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Report(list[tuple[int, str]]):
    """Collects what the list readers complain about."""

    def __call__(self, index: int, expected: str) -> None:
        self.append((index, expected))

    @property
    def text(self) -> str:
        return "\n".join(f"{index}: {expected}" for index, expected in self)


def directors(*entries: str) -> tuple[list[str], Report]:
    report = Report()
    return [str(e) for e in read_directors(list(entries), resolve, report, report)], report


def backends(*entries: str) -> tuple[list[BackendSetting], Report]:
    report = Report()
    return list(read_backends(list(entries), 100, resolve, report, report)), report


def addresses(*entries: str) -> list[str]:
    settings, report = backends(*entries)
    assert report == []
    return [setting.address for setting in settings]


@pytest.mark.parametrize(
    ("entry", "endpoint"),
    [
        ("10.0.0.1", "10.0.0.1:9090"),
        ("10.0.0.1:9191", "10.0.0.1:9191"),
        ("d1.example.com", "10.0.0.1:9090"),
        ("d1.example.com:1", "10.0.0.1:1"),
        ("[2001:DB8:0::1]", "[2001:db8::1]:9090"),
        ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ("2001:db8::1", "[2001:db8::1]:9090"),
        ("six.example.com:9191", "[2001:db8::1]:9191"),
    ],
)
def test_a_director_is_an_address_or_a_name_with_or_without_a_port(entry: str, endpoint: str) -> None:
    assert directors(entry) == ([endpoint], [])


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_that_was_written_is_read_as_the_same(ip: ipaddress.IPv4Address, port: int) -> None:
    endpoint = Endpoint(Address(str(ip)), port)
    assert str(read_endpoint(str(endpoint), 9090, resolve)) == str(endpoint)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("", "expected an address or a name"),
        ("10.0.0.1:", "port"),
        ("10.0.0.1:0", "1 to 65535"),
        ("10.0.0.1:65536", "1 to 65535"),
        ("10.0.0.1:http", "1 to 65535"),
        ("10.0.0.300", "not an address"),
        ("10.1", "not an address"),
        ("[10.0.0.1]", "brackets"),
        ("[::1", "brackets"),
        ("d 1", "expected an address or a name"),
        ("-d1", "expected an address or a name"),
        ("fe80::1%eth0", "zone"),
        ("0.0.0.0", "one machine"),
        ("[::]", "one machine"),
        ("224.0.0.1", "one machine"),
        ("10.0.0.1-10.0.0.3", "not an address"),
    ],
)
def test_a_director_that_cannot_be_read_is_named_with_what_is_expected(entry: str, complaint: str) -> None:
    found, report = directors("10.9.9.9", entry)
    assert [index for index, _ in report] == [1]
    assert complaint in report.text
    assert found == ["10.9.9.9:9090"]


def test_a_name_with_several_addresses_is_no_director_and_its_addresses_are_told() -> None:
    _, report = directors("imap.example.com")
    assert "imap.example.com has 2 addresses" in report.text
    assert "10.2.0.2, 10.2.0.1" in report.text


def test_a_name_that_cannot_be_resolved_is_refused_with_the_reason() -> None:
    report = Report()
    read_directors(["nowhere.example.com"], unknown, report, report)
    assert "Name or service not known" in report.text


def test_directors_of_two_address_families_are_refused() -> None:
    _, report = directors("10.0.0.1", "[2001:db8::1]")
    assert report[0][0] == 1
    assert "IPv6" in report.text
    assert "10.0.0.1" in report.text


@pytest.mark.shows("R-58")
def test_one_director_listed_twice_is_refused_even_under_another_name() -> None:
    _, report = directors("10.0.0.1:9090", "10.0.0.2", "d1.example.com")
    assert report[0][0] == 2
    assert 'the same director as "10.0.0.1:9090"' in report.text


def test_two_directors_on_one_address_are_told_apart_by_port() -> None:
    assert directors("10.0.0.1:9090", "10.0.0.1:9091") == (["10.0.0.1:9090", "10.0.0.1:9091"], [])


def test_the_own_address_must_be_one_of_the_servers() -> None:
    ring = (Endpoint(Address("10.0.0.1"), 9090),)
    with pytest.raises(ValueError, match=r"10\.0\.0\.1:9191 is not in ring\.servers"):
        own_endpoint(ring, Endpoint(Address("10.0.0.1"), 9191), lambda _: True)


def test_the_one_server_that_is_an_address_of_this_machine_is_the_own_one() -> None:
    ring = tuple(Endpoint(Address(f"10.0.0.{n}"), 9090) for n in (1, 2, 3))
    assert own_endpoint(ring, None, lambda address: address == "10.0.0.2") == ring[1]


@pytest.mark.parametrize(
    ("local", "complaint"), [(False, "none of"), (True, "10.0.0.1:9090 and 10.0.0.2:9090")]
)
def test_without_exactly_one_own_address_ring_listen_must_say_which(local: bool, complaint: str) -> None:
    ring = tuple(Endpoint(Address(f"10.0.0.{n}"), 9090) for n in (1, 2))
    with pytest.raises(ValueError, match=complaint):
        own_endpoint(ring, None, lambda _: local)


def test_an_address_of_this_machine_is_found_by_binding_to_it() -> None:
    assert is_local(Address("127.0.0.13"))
    assert is_local(Address("::1"))
    assert not is_local(Address("203.0.113.7"))


def test_without_descriptors_no_address_is_found_to_be_of_this_machine() -> None:
    with without_descriptors():
        assert not is_local(Address("127.0.0.13"))


def test_a_mail_server_is_an_address_with_or_without_a_tag() -> None:
    settings, _ = backends("10.1.0.1", "2001:DB8::0:1@gold")
    assert settings == [
        BackendSetting(Address("10.1.0.1"), "", "", 100),
        BackendSetting(Address("2001:db8::1"), "", "gold", 100),
    ]


def test_a_name_stands_for_all_its_addresses_and_they_remember_it() -> None:
    settings, _ = backends("imap.example.com@gold")
    assert settings == [
        BackendSetting(Address("10.2.0.2"), "imap.example.com", "gold", 100),
        BackendSetting(Address("10.2.0.1"), "imap.example.com", "gold", 100),
    ]


def test_a_name_may_contain_a_hyphen() -> None:
    assert addresses("mail-1.example.com") == ["10.3.0.1"]


def test_a_range_holds_both_ends_and_carries_its_tag() -> None:
    settings, _ = backends("10.1.0.254-10.1.0.255@x")
    assert [(s.address, s.tag) for s in settings] == [("10.1.0.254", "x"), ("10.1.0.255", "x")]


def test_addresses_and_ranges_of_both_families_are_no_names() -> None:
    # a range of version six was taken for an address that cannot be read, and the director did not start
    entries = (
        "10.1.0.1",
        "10.1.0.1-10.1.0.4@gold",
        "2001:db8::1",
        "2001:db8::1-2001:db8::4",
        "2001:db8::1@x",
    )
    assert [backend_name(entry, 100) for entry in entries] == [None] * 5
    assert backend_name("imap-1.example.com@gold", 7) == BackendSetting(
        Address(""), "imap-1.example.com", "gold", 7
    )


def test_a_range_of_one_address_is_that_address() -> None:
    assert addresses("10.1.0.7-10.1.0.7") == ["10.1.0.7"]


def test_a_range_of_version_six_addresses_may_differ_in_the_last_sixteen_bits() -> None:
    assert addresses("2001:db8::fffe-2001:db8::ffff") == ["2001:db8::fffe", "2001:db8::ffff"]


@given(st.integers(0, 255), st.integers(0, 255))
def test_an_ascending_range_has_every_address_once(first: int, last: int) -> None:
    first, last = sorted((first, last))
    found = addresses(f"10.1.0.{first}-10.1.0.{last}")
    assert found == [f"10.1.0.{n}" for n in range(first, last + 1)]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("10.1.0.1-2001:db8::1", "address family"),
        ("10.1.0.9-10.1.0.1", "reversed"),
        ("10.1.0.9-10.1.1.1", "too large"),
        ("2001:db8::1-2001:db8::1:0", "too large"),
        ("10.1.0.1-10", "not an address"),
        ("10.1.0.1-", "not an address"),
        ("10.1.0.1@", "tag"),
        ("10.1.0.1@a b", "tag"),
        ("@gold", "expected an address"),
        ("", "expected an address"),
        ("10.1.0.1:143", "without port"),
        ("10.1.0.1 10.1.0.2", "expected an address"),
        ("0.0.0.0", "one machine"),
        ("10.1.0.999", "not an address"),
    ],
)
def test_a_mail_server_that_cannot_be_read_is_named_with_what_is_expected(entry: str, complaint: str) -> None:
    settings, report = backends("10.9.9.9", entry)
    assert [index for index, _ in report] == [1]
    assert complaint in report.text
    assert [s.address for s in settings] == ["10.9.9.9"]


@pytest.mark.shows("I-23")
@pytest.mark.parametrize(
    ("entries", "first"),
    [
        (["10.1.0.1", "10.1.0.1"], "10.1.0.1"),
        (["10.1.0.1@gold", "10.1.0.1"], "10.1.0.1@gold"),
        (["10.1.0.1-10.1.0.9", "10.1.0.5"], "10.1.0.1-10.1.0.9"),
        (["imap.example.com", "10.2.0.1"], "imap.example.com"),
        (["2001:db8::1", "2001:0db8::0001"], "2001:db8::1"),
    ],
)
def test_an_address_given_twice_is_refused_and_both_entries_are_named(entries: list[str], first: str) -> None:
    _, report = backends(*entries)
    assert report[0][0] == 1
    assert f'also comes from "{first}"' in report.text


def test_two_addresses_that_records_cannot_tell_apart_are_refused() -> None:
    _, report = backends(*SAME_ID)
    assert report[0][0] == 1
    assert SAME_ID[0] in report.text


@given(st.text())
def test_no_text_makes_the_readers_fail_otherwise_than_by_a_complaint(entry: str) -> None:
    report = Report()
    found = read_backends([entry], 100, unknown, report, report)
    found_directors = read_directors([entry], unknown, report, report)
    assert bool(found) + bool(found_directors) + len(report) == 2
