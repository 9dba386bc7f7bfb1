"""Lines of an export: a written line is read again, and a wrong line is refused with a message."""

from __future__ import annotations

import pytest

from director.core.placement.addresses import host_id
from director.core.placement.users import BY_HAND, PINNED, User
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import Bound
from director.statetools.lines import (
    NameLine,
    UserLine,
    decode,
    encode,
    flag_names,
    host_line,
    host_row,
    is_ahead,
    key_of,
    member_line,
    member_row,
    name_in,
    user_record,
    written_name,
)
from director.types import Address, HostId, Stamp, UserKey

LATEST = 2_000_000_000
BOUND = Bound(LATEST - 10, LATEST - 14, LATEST, LATEST + 300)
ALICE = UserLine(
    key="0000000700000001",
    hash=7,
    host="10.1.0.1",
    host_id=host_id(Address("10.1.0.1")),
    decided=1_795_000_000,
    seen=1_795_000_900,
    flags=["by_hand", "pinned"],
    name="alice",
)


def changed(**fields: object) -> UserLine:
    values = {name: getattr(ALICE, name) for name in ALICE.__struct_fields__}
    return UserLine(**(values | fields))


def test_the_line_of_a_user_has_words_for_flags_and_no_keys_for_unknown_values() -> None:
    assert encode(changed(flags=[], name=None, host=None)) == (
        b'{"type":"user","key":"0000000700000001","hash":7,"host_id":%d,"decided":1795000000,'
        b'"seen":1795000900}\n' % ALICE.host_id
    )


def test_a_user_is_read_as_written() -> None:
    line = decode(encode(ALICE))
    assert line == ALICE
    assert user_record(ALICE, BOUND) == User(
        UserKey(7 << 32 | 1), HostId(ALICE.host_id), Stamp(ALICE.decided), ALICE.seen, BY_HAND | PINNED
    )
    assert flag_names(BY_HAND | PINNED) == ALICE.flags


def test_rows_of_hosts_and_members_are_read_as_written() -> None:
    host = HostRow("10.1.0.1", "imap", False, 5, "gold", 6, 50, 7, False, 8)
    member = MemberRow("10.0.0.1:9090", False, 9)
    assert host_row(host_line(host), BOUND) == host
    assert member_row(member_line(member), BOUND) == member


def test_a_name_that_is_no_utf8_survives_as_base64() -> None:
    text, raw = written_name(b"\xff\xfe")
    line = NameLine(key=ALICE.key, name=text, name_base64=raw)
    assert encode(line) == b'{"type":"name","key":"0000000700000001","name_base64":"//4="}\n'
    again = decode(encode(line))
    assert isinstance(again, NameLine)
    assert name_in(again) == b"\xff\xfe"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"key": "7"}, "key '7' is not 16 hex digits"),
        ({"key": "00000000000000ff"}, "that begin with a hash, which is never 0"),
        ({"hash": 8}, "hash 8 is not that of key 0000000700000001, which is 7"),
        ({"host": "10.1.0.2"}, "is not that of host 10.1.0.2"),
        ({"host": None, "host_id": 1 << 32}, "is not in 0..4294967295"),
        ({"decided": -1}, "decided -1, seen 1795000900: a time must not be below 0"),
        ({"seen": -1}, "seen -1: a time must not be below 0"),
        ({"flags": ["nailed"]}, "flag 'nailed' is not one of moving, by_hand, pinned, one_login"),
    ],
)
def test_a_user_that_cannot_be_right_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        user_record(changed(**fields), BOUND)


@pytest.mark.shows("A-56")
@pytest.mark.parametrize("far", [LATEST + 301, 1 << 32, 1 << 63])
def test_times_far_ahead_are_clipped_and_the_rest_of_the_line_is_kept(far: int) -> None:
    line = changed(decided=far, seen=far)
    user = user_record(line, BOUND)
    assert is_ahead(line, BOUND)
    assert user == user_record(ALICE, BOUND)._replace(decided=Stamp(LATEST - 10), seen=LATEST - 10)
    host = HostRow("10.1.0.1", "imap", False, 5, "gold", far, 50, 7, False, far)
    assert is_ahead(host_line(host), BOUND)
    clipped = host_row(host_line(host), BOUND)
    assert clipped == HostRow("10.1.0.1", "imap", False, 5, "gold", LATEST - 14, 50, 7, False, LATEST - 14)
    member = member_line(MemberRow("10.0.0.1:9090", False, far))
    assert is_ahead(member, BOUND)
    assert member_row(member, BOUND) == MemberRow("10.0.0.1:9090", False, LATEST - 14)


def test_times_within_the_bound_stay() -> None:
    line = changed(decided=LATEST, seen=LATEST + 300)
    assert not is_ahead(line, BOUND)
    assert (user_record(line, BOUND).decided, user_record(line, BOUND).seen) == (LATEST, LATEST + 300)


@pytest.mark.parametrize("name", ["", "x" * 65536])
def test_a_name_that_no_store_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        name_in(NameLine(key=ALICE.key, name=name))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"type":"host"}', b'{"type":"moon"}', b"\xff", b"[" * 9999]
)
def test_a_text_that_is_not_a_line_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a line of an export"):
        decode(text)


def test_a_host_that_cannot_be_right_is_refused() -> None:
    row = HostRow("10.1.0.1", "", True, 0, "", 0, 2000, 0, True, 0)
    with pytest.raises(ValueError, match="weight 2000 is not in"):
        host_row(host_line(row), BOUND)


def test_a_key_is_sixteen_hex_digits() -> None:
    assert key_of("00000007000000ff") == 7 << 32 | 255
