"""Backend addresses: canonical form, order and ids."""

from __future__ import annotations

import hashlib

import pytest

from director.core.placement.addresses import address_order, canonical, host_id


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("127.0.1.1", "127.0.1.1"),
        ("2001:DB8:0:0:0::1", "2001:db8::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::", "::"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("::FFFF:c000:0201", "::ffff:192.0.2.1"),
        ("::1:2", "::0.1.0.2"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
    ],
)
def test_an_address_has_one_form_that_of_the_c_library(written: str, form: str) -> None:
    assert canonical(written) == form


@pytest.mark.parametrize(
    "text", ["", "mail1", "127.0.1", "127.0.0.256", "10.0.0.1:143", "fe80::1%eth0", "[::1]"]
)
def test_what_is_no_plain_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        canonical(text)


def test_addresses_sort_by_family_and_then_by_their_bytes() -> None:
    ordered = ["9.0.0.1", "10.0.0.1", "10.0.0.2", "100.0.0.1", "::1", "2001:db8::1"]
    assert sorted(reversed(ordered), key=address_order) == ordered


def test_a_host_id_is_the_beginning_of_the_md5_of_the_address() -> None:
    assert host_id("127.0.1.1") == int(hashlib.md5(b"127.0.1.1").hexdigest()[:8], 16)
