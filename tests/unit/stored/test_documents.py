"""Stored documents: what is wrong with one row costs no other row, and no stamp is damage."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from director.core.placement.users import LATEST
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.hosts import encode_rows
from director.core.tables.members import encode_member_rows
from director.stored.documents import read_hosts, read_members

ROW = HostRow("10.1.0.1", "", True, 5, "gold", 6, 50, 7, False, 8)
OTHER = HostRow("10.1.0.2", "", False, 9, "", 0, 100, 0, True, 0)
MEMBER = MemberRow("10.0.0.1:9090", False, 9)


def test_documents_are_read_as_they_were_written() -> None:
    assert read_hosts(encode_rows([ROW, OTHER])) == ([ROW, OTHER], [], "")
    assert read_members(encode_member_rows([MEMBER])) == ([], [MEMBER], "")


@pytest.mark.shows("A-54")
@pytest.mark.parametrize(("stamp", "fits"), [(-1, 0), (LATEST + 1, LATEST), ((1 << 64) - 1, LATEST)])
@pytest.mark.parametrize("field", ["present_at", "tag_at", "weight_at", "up_at"])
def test_a_stamp_out_of_range_is_no_damage(field: str, stamp: int, fits: int) -> None:
    row = msgspec.structs.replace(ROW, **{field: stamp})
    expected = msgspec.structs.replace(ROW, **{field: fits})
    assert read_hosts(encode_rows([row, OTHER])) == ([expected, OTHER], [], "")
    member = msgspec.structs.replace(MEMBER, at=stamp)
    assert read_members(encode_member_rows([member])).members == [msgspec.structs.replace(MEMBER, at=fits)]


@pytest.mark.shows("A-55")
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"weight": 5000}, "weight 5000 is not in 0..1000"),
        ({"address": "mail.example"}, "not an address"),
        ({"tag": "a\tb"}, "tag 'a\\tb'"),
        ({"tag": "x" * 300}, "(300 characters)"),
    ],
)
def test_a_row_that_cannot_be_right_is_left_out_and_named_and_the_others_count(
    fields: dict[str, Any], problem: str
) -> None:
    found = read_hosts(encode_rows([OTHER, msgspec.structs.replace(ROW, address="10.1.0.9")]))
    assert found.problem == ""
    found = read_hosts(msgspec.msgpack.encode([OTHER, msgspec.structs.replace(ROW, **fields)]))
    assert found.hosts == [OTHER]
    assert found.problem.startswith("1 of 2 rows left out: ")
    assert problem in found.problem


@pytest.mark.shows("A-55")
@pytest.mark.parametrize("odd", [None, 7, ["10.1.0.3"], ["10.1.0.3", "", True, 1.5, "", 0, 1, 0, True, 0]])
def test_a_row_that_cannot_be_read_is_left_out_and_the_others_count(odd: object) -> None:
    found = read_hosts(msgspec.msgpack.encode([ROW, odd]))
    assert found.hosts == [ROW]
    assert found.problem.startswith("1 of 2 rows left out: a row cannot be read: Expected")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"nonsense", encode_rows([ROW])[:-1]])
def test_what_holds_no_rows_at_all_is_damaged(data: bytes) -> None:
    for found in (read_hosts(data), read_members(data)):
        assert (found.hosts, found.members) == ([], [])
        assert found.problem == "1 of 1 rows left out: the document is truncated or overwritten"


def test_an_empty_document_is_sound() -> None:
    assert read_hosts(encode_rows([])) == read_members(encode_member_rows([])) == ([], [], "")
