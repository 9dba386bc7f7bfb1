"""Rows of stored documents: whatever happens to some bytes costs the rows they are in, and no other."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from director.core.filechanges import AppliedHost, decode_applied, encode_applied, read_applied
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.documentrows import read_rows, with_checksum
from director.core.tables.hosts import decode_rows, encode_rows
from director.core.tables.members import StoredRow, decode_member_rows, encode_member_rows
from director.stored.documents import read_applied_documents, read_hosts, read_members

HOSTS = [
    HostRow(f"10.1.0.{n}", f"mail{n}.example" if n % 2 else "", n % 5 > 0, n, "gold", n, n, 7, n % 3 > 0, 8)
    for n in range(1, 25)
]
FEW = HOSTS[:6]
MEMBERS = [MemberRow(f"10.0.0.{n}:9090", n % 2 > 0, n) for n in range(1, 9)]
APPLIED = {
    f"10.0.0.{n}:9090": [AppliedHost(row.address, True, 0, row.tag, 0, row.weight) for row in HOSTS[:4]]
    for n in range(1, 6)
}
JUNK = 40


def overwritten(data: bytes, at: int, junk: bytes) -> bytes:
    return data[:at] + junk + data[at + len(junk) :]


def inserted(data: bytes, at: int, junk: bytes) -> bytes:
    return data[:at] + junk + data[at:]


def cut_out(data: bytes, at: int, junk: bytes) -> bytes:
    return data[:at] + data[at + len(junk) :]


DAMAGES = [overwritten, inserted, cut_out]


def places(data: bytes, rows: list[bytes]) -> list[tuple[int, int]]:
    """From where to where each row is."""
    found = []
    end = 0
    for row in rows:
        begin = data.index(row, end)
        end = begin + len(row)
        found.append((begin, end))
    return found


@pytest.mark.shows("S-26")
@pytest.mark.parametrize("damage", DAMAGES)
def test_forty_bytes_of_junk_anywhere_cost_the_rows_they_are_in_only(
    damage: Callable[[bytes, int, bytes], bytes],
) -> None:
    ordered = decode_rows(encode_rows(HOSTS))
    data = encode_rows(ordered)
    where = places(data, [bytes(with_checksum(row)) for row in ordered])
    for at in range(len(data) - JUNK):
        junk = random.Random(at).randbytes(JUNK)
        reach = at if damage is inserted else at + JUNK
        whole = [row for row, (begin, end) in zip(ordered, where, strict=True) if reach <= begin or end <= at]
        found = read_hosts(damage(data, at, junk))
        assert found.hosts == whole, at
        assert found.problem


@pytest.mark.shows("S-26")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_member_whose_applied_hosts_are_damaged_costs_no_other_member(
    damage: Callable[[bytes, int, bytes], bytes],
) -> None:
    data = encode_applied(APPLIED)
    for at in range(len(data) - JUNK):
        applied, problem = read_applied(damage(data, at, random.Random(at).randbytes(JUNK)))
        assert problem
        assert len(applied) >= len(APPLIED) - 2, at
        assert all(APPLIED[member] == rows for member, rows in applied.items())


@pytest.mark.shows("S-26")
def test_a_bit_that_flips_in_a_row_is_noticed() -> None:
    data = encode_rows(FEW)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = read_hosts(bytes(damaged))
        assert found.problem, bit
        assert len(found.hosts) >= len(FEW) - 1
        assert all(row in FEW for row in found.hosts)


@pytest.mark.shows("S-26")
def test_documents_of_older_directors_without_checksums_are_read() -> None:
    assert decode_rows(msgspec.msgpack.encode(HOSTS)) == HOSTS
    assert decode_member_rows(msgspec.msgpack.encode(MEMBERS)) == MEMBERS
    assert decode_applied(msgspec.msgpack.encode(APPLIED)) == APPLIED
    assert read_hosts(msgspec.msgpack.encode(HOSTS)) == (HOSTS, [], "")


@pytest.mark.shows("S-26")
def test_older_directors_read_documents_with_checksums() -> None:
    """They know these types only, and take no rows with something else in them."""
    ordered = decode_rows(encode_rows(HOSTS))
    assert msgspec.msgpack.decode(encode_rows(HOSTS), type=list[HostRow]) == ordered
    met = StoredRow(*msgspec.structs.astuple(MEMBERS[0]), met=True)
    data = encode_member_rows([met, *MEMBERS[1:]])
    assert msgspec.msgpack.decode(data, type=list[MemberRow]) == MEMBERS
    assert [row.met for row in msgspec.msgpack.decode(data, type=list[StoredRow])] == [True] + [False] * 7
    assert msgspec.msgpack.decode(encode_applied(APPLIED), type=dict[str, list[AppliedHost]]) == APPLIED


def test_a_document_without_checksums_that_is_damaged_gives_the_rows_that_can_be_read() -> None:
    data = msgspec.msgpack.encode(HOSTS)
    found = read_hosts(overwritten(data, len(data) // 2, b"\xc1" * JUNK))
    assert len(HOSTS) - 3 <= len(found.hosts) < len(HOSTS)
    assert all(row in HOSTS for row in found.hosts)
    assert found.problem


def test_a_row_without_a_checksum_among_others_is_not_believed() -> None:
    data = msgspec.msgpack.encode([with_checksum(HOSTS[0]), HOSTS[1]])
    assert read_hosts(data).hosts == [HOSTS[0]]


def test_the_applied_hosts_of_another_member_are_not_taken_for_its_own() -> None:
    data = encode_applied({"10.0.0.1:9090": APPLIED["10.0.0.1:9090"]})
    assert read_applied(data.replace(b"10.0.0.1:9090", b"10.0.0.2:9090"))[0] == {}


def test_a_row_of_a_newer_release_that_has_more_values_is_read() -> None:
    class Newer(HostRow, frozen=True, array_like=True):
        more: str = "more"

    rows = [Newer(*msgspec.structs.astuple(row), more="x") for row in HOSTS]
    assert read_rows(msgspec.msgpack.encode([with_checksum(row) for row in rows]), HostRow).rows == HOSTS


def test_copies_fill_the_gaps_and_nothing_else() -> None:
    """A row that is whole counts, whatever a copy says of it."""
    lost, kept = HOSTS[3], HOSTS[5]
    rows = [row for row in HOSTS if row != lost]
    old = msgspec.structs.replace(kept, weight=1)
    found = read_hosts(encode_rows(rows)[:-1] + b"\xc1", encode_rows([lost, old]), encode_rows(HOSTS[:1]))
    assert lost in found.hosts
    assert kept in found.hosts
    assert old not in found.hosts
    assert found.problem
    members = read_members(b"junk", encode_member_rows(MEMBERS[:2]), encode_member_rows(MEMBERS))
    assert members.members == MEMBERS
    applied, problem = read_applied_documents(b"junk", encode_applied(APPLIED))
    assert applied == APPLIED
    assert problem


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xdf\xff\xff\xff\xff"]
)
def test_what_is_no_document_at_all_has_no_rows_and_a_problem(data: bytes) -> None:
    assert read_hosts(data).hosts == []
    assert read_hosts(data).problem
    assert read_applied(data)[0] == {}
    assert read_applied(data)[1]
