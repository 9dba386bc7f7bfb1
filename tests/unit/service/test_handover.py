"""The document that a program leaves to its successor in the same process."""

from __future__ import annotations

import msgspec
import pytest

from director.net.login import Connection
from director.service.lifecycle.handover import (
    FORMAT,
    HandedListener,
    Handover,
    HandoverError,
    Memory,
    ReplacementRecord,
    cannot_read,
    decode,
    encode,
    split,
)
from director.service.metrics import Counted, Durations, MetricsSample, carry_on, counted


def handover(**fields: object) -> Handover:
    replacement = ReplacementRecord(version="0.1.0", begun=1.0, paused_at=2.0)
    return Handover(version="0.1.0", replacement=replacement, username_hash="%Lu", **fields)  # type: ignore[arg-type]


def test_everything_comes_back_as_it_was() -> None:
    connection = Connection(
        relay="login", client=7, auth=8, heard=True, rest=b"OK\t1", held_lines=[b"OK\t2\tproxy"]
    )
    left = handover(connections=[connection], tables={"hosts": b"\x00\xff"}, name_bytes=[5, 0, 6])
    memory = Memory(b"u" * 44, b"first" + b"second")
    assert decode(b"".join(encode(left, memory))) == (left, memory)


def test_lines_of_a_connection_keep_their_names_in_the_document() -> None:
    """A predecessor or successor of another release knows them by these."""
    document = msgspec.to_builtins(Connection(relay="login", client=7, own_lines=b"a", held_lines=[b"b"]))
    assert (document["own"], document["held"]) == ("YQ==", ["Yg=="])


def test_a_document_of_a_later_format_is_refused_with_both_formats_and_what_to_do() -> None:
    document = msgspec.msgpack.encode({"format": FORMAT + 1, "version": "9.9", "all": "else is unknown"})
    with pytest.raises(HandoverError) as refusal:
        decode(len(document).to_bytes(8) + document)
    text = str(refusal.value)
    assert "director 9.9" in text
    assert f"format {FORMAT + 1}" in text
    assert "stop and start" in text


def test_whether_a_format_can_be_read_is_told_before_anything_is_handed_over() -> None:
    assert [bool(cannot_read(number)) for number in (0, FORMAT, FORMAT + 1)] == [True, False, True]


def test_fields_a_later_program_adds_do_not_keep_an_older_one_from_reading() -> None:
    document = msgspec.to_builtins(handover(), builtin_types=(bytes,)) | {"added": 1}
    packed = msgspec.msgpack.encode(document)
    assert decode(len(packed).to_bytes(8) + packed).handover == handover()


@pytest.mark.parametrize("cut", [4, 60, -1])
def test_a_shortened_document_is_reported_as_damaged(cut: int) -> None:
    data = b"".join(encode(handover(name_bytes=[4]), Memory(b"u" * 22, b"name")))
    with pytest.raises(HandoverError, match="damaged"):
        decode(data[:cut])


def test_a_document_with_bytes_that_are_no_text_is_named_as_damaged() -> None:
    document = b"\x82\xa6format\x01\xa7version\xa1\xaa"
    with pytest.raises(HandoverError, match="damaged"):
        decode(len(document).to_bytes(8) + document)


def test_listeners_at_places_that_are_no_longer_configured_are_closed_except_those_of_units() -> None:
    stays = HandedListener(name="login", where="/run/login", descriptor=3)
    moved = HandedListener(name="admin", where="/run/old-admin", descriptor=4)
    units = HandedListener(name="userdb", where="/run/from-unit", descriptor=5, from_unit=True)
    kept, left = split([stays, moved, units], [("login", "/run/login"), ("admin", "/run/admin")])
    assert list(kept.values()) == [stays, units]
    assert left == [moved]


def test_counters_go_on_where_the_predecessors_have_stopped() -> None:
    before = MetricsSample(
        version="1", python="3", compiled=True, conflicts=2, lookups={("answered", "login"): 5}
    )
    before.kick_durations.add(0.2)
    after = MetricsSample(version="2", python="3", compiled=True, conflicts=1)
    after.lookups = {("answered", "login"): 1, ("waited", "login"): 3}
    after.kick_durations.add(0.2)
    carry_on(after, counted(before))
    assert after.conflicts == 3
    assert after.lookups == {("answered", "login"): 6, ("waited", "login"): 3}
    assert sum(after.kick_durations.counts) == 2


def test_durations_counted_in_other_bounds_begin_anew() -> None:
    after = MetricsSample(version="2", python="3", compiled=True)
    carry_on(after, Counted(timed={"ring_syncs": Durations((1.0,), [4, 0], 2.0)}))
    assert sum(after.ring_syncs.counts) == 0
