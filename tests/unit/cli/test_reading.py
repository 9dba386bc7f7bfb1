"""The output of commands that only read: in 80 columns, and as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from director.cli.output import printable
from director.cli.ring import waiting_lines
from director.records import MemberInfo, RingInfo, SnapshotInfo, UnstoredChange
from tests.unit.cli.conftest import Director
from tests.unit.service.parts import key_of
from tests.unit.web.service import DOWN_SINCE, EXPIRES, ONE, SEEN, TWO

ADDED = {"stopped", "removed", "moves_in_progress", "waiting_for", "stored"}
URL = "sqlite:////var/lib/director/state.db"
MEMBERS = [
    MemberInfo(address="127.0.0.11", port=9090, kind="self", status="ring synced", sync_ms=3),
    MemberInfo(
        address="127.0.0.12", port=9090, kind="right", status="synced", sync_ms=0, bytes_in=382,
        bytes_out=1_576_000, buffered=0, buffered_peak=225, last_read=SEEN, last_write=SEEN,
    ),
]  # fmt: skip
READING = [("status",), ("status", "dave"), ("map",), ("dump",), ("ring", "status")]


def test_status_prints_a_line_about_the_director_and_a_table_of_hosts(director: Director) -> None:
    assert director("status").stdout.splitlines() == [
        "director 127.0.0.11:9090, alone, in sync, store memory up, 3 users",
        "",
        "address    tag   weight  state  since                users",
        "127.0.1.1  -        100  up     -                        2",
        f"127.0.1.2  -         50  down   {DOWN_SINCE}      1",
        "127.0.1.3  gold     100  up     -                        0",
        "127.0.1.4  -        100  up     -                        0",
    ]


def test_status_prints_a_line_for_each_problem(director: Director) -> None:
    director.service.alter(
        "ring", synced=False, ring=["127.0.0.11:9090", "127.0.0.12:9090"], missing=["127.0.0.13:9090"]
    )
    director.service.alter_store(url=URL, up=False, error="disk I/O error", queued_buckets=0)
    assert director("status").stdout.splitlines()[:3] == [
        "director 127.0.0.11:9090, ring of 2, NOT in sync, store sqlite UNREACHABLE, 3 users",
        "not in the ring: 127.0.0.13:9090",
        f"store {URL}: disk I/O error; 0 buckets will be written when it is reachable",
    ]


def test_status_names_an_unreachable_store_once(director: Director) -> None:
    director.service.alter_store(url=URL, up=False, error=f"{URL}: load: disk I/O error")
    assert director("status").stdout.splitlines()[1].startswith(f"store {URL}: load: disk I/O error; ")


def test_status_names_changes_that_are_not_stored_yet(director: Director) -> None:
    changes = [UnstoredChange(what="pin", target=f"user{number}", since=1) for number in range(7)]
    director.service.alter_store(unstored=changes)
    (line,) = [line for line in director("status").stdout.splitlines() if "NOT STORED" in line]
    assert "pin user0, pin user1, pin user2, pin user3, pin user4 and 2 more" in line


def test_status_names_a_snapshot_that_cannot_be_written(director: Director) -> None:
    snapshot = SnapshotInfo(
        url="sqlite:////var/lib/director/snapshot.db",
        up=False,
        queued_buckets=9,
        written=None,
        error="disk full",
    )
    director.service.alter_store(snapshot=snapshot)
    assert director("status").stdout.splitlines()[1:3] == [
        "snapshot sqlite:////var/lib/director/snapshot.db: disk full; last written: never",
        "",
    ]
    director.service.alter_store(snapshot=msgspec.structs.replace(snapshot, up=True, error=None))
    assert director("status").stdout.splitlines()[1:2] == [""]


@pytest.mark.parametrize("command", [("status",), ("ring", "status")])
def test_stopped_directors_are_not_listed_as_missing(director: Director, command: tuple[str, ...]) -> None:
    missing = ["127.0.0.13:9090", "127.0.0.14:9090"]
    director.service.alter("ring", missing=missing, stopped=missing[1:])
    assert director(*command).stdout.splitlines()[1:3] == [
        "not in the ring: 127.0.0.13:9090",
        "stopped: 127.0.0.14:9090",
    ]


@pytest.mark.parametrize("command", [("status",), ("ring", "status")])
def test_users_being_moved_are_counted_while_there_are_any(
    director: Director, command: tuple[str, ...]
) -> None:
    director.service.alter("ring", moves_in_progress=2)
    assert director(*command).stdout.splitlines()[1:3] == ["2 users being moved", ""]


@pytest.mark.parametrize("command", [("status",), ("ring", "status")])
def test_a_removed_director_says_so_and_how_to_add_it_again(
    director: Director, command: tuple[str, ...]
) -> None:
    director.service.alter("ring", removed=True)
    assert director(*command).stdout.splitlines()[1:3] == [
        "REMOVED from the ring: logins are refused; run `director ring add 127.0.0.11:9090` on another "
        "director to add it again",
        "",
    ]


def test_status_of_a_user_prints_three_lines_as_doveadm_does(director: Director) -> None:
    assert director("status", "dave").stdout == (
        f"Current: 127.0.1.1 (expires {EXPIRES})\nHashed: 127.0.1.4\nInitial config: 127.0.1.2\n"
    )


def test_an_unassigned_user_is_shown_with_the_host_that_the_hash_selects(director: Director) -> None:
    result = director("status", "newuser")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "Current: unassigned, would be assigned to 127.0.1.1"
    assert "-1" not in result.stdout


def test_an_unassigned_user_of_a_pool_without_a_usable_host_is_shown_without_a_host(
    director: Director,
) -> None:
    assert director("status", "dave", "-t", "silver").stdout == (
        "Current: unassigned, and the pool silver has no usable host\nHashed: \nInitial config: \n"
    )


def test_a_pinned_user_is_shown_without_an_expiry(director: Director) -> None:
    director.service.assign("dave", pinned=True)
    assert director("status", "dave").stdout.splitlines()[0] == "Current: 127.0.1.1 (pinned)"


@pytest.mark.parametrize("host", ["127.0.1.2", "imap2.example.com"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_host_given_as_a_user_is_reported_as_a_host(
    director: Director, host: str, options: list[str]
) -> None:
    director.service.alter_host(TWO, hostname="imap2.example.com")
    result = director("status", host, *options)
    assert (result.exit_code, result.stdout) == (68, "")
    assert result.stderr == (
        f"director: {host}: this is a backend host, not a user; `director map {host}` lists its users\n"
    )


def test_a_user_with_the_name_of_a_host_is_shown(director: Director) -> None:
    director.service.assign("127.0.1.2", ONE)
    assert director("status", "127.0.1.2").stdout.startswith("Current: 127.0.1.1 (expires ")


def test_status_reads_a_number_as_a_hash_unless_the_option_name_is_given(director: Director) -> None:
    hash32 = key_of("dave") >> 32
    assert director("status", str(hash32)).stdout.startswith("Current: 127.0.1.1 (expires ")
    assert director("status", str(hash32), "--name").stdout.startswith("Current: unassigned, ")
    assert director("status", "--name").exit_code == 64


@pytest.mark.parametrize("name", ["a/b", "-", "ünï@example.com", "a b&c=d?e#f", "%2e"])
def test_any_user_name_reaches_the_director_as_it_is(director: Director, name: str) -> None:
    assert json.loads(director("status", "--json", "--", name).stdout)["user"] == name


def test_map_lists_users_by_name_where_the_name_is_known(director: Director) -> None:
    zoe = key_of("zoe") >> 32
    assert director("map").stdout.splitlines() == [
        "user             hash  host       expires",
        f"dave        370180999  127.0.1.1  {EXPIRES}",
        f"bob        2677887420  127.0.1.2  {EXPIRES}",
        f"<unknown>  {zoe:10}  127.0.1.1  {EXPIRES}",
    ]


def test_map_shows_no_expiry_of_a_pinned_user(director: Director) -> None:
    director.service.assign("dave", pinned=True)
    assert director("map").stdout.splitlines()[1].split() == ["dave", "370180999", "127.0.1.1", "pinned"]


def test_map_of_a_host_lists_its_users_only(director: Director) -> None:
    assert [line.split()[0] for line in director("map", "127.0.1.2").stdout.splitlines()] == ["user", "bob"]


@pytest.mark.shows("I-35")
def test_map_of_an_unknown_host_is_exit_code_68(director: Director) -> None:
    result = director("map", "127.0.1.99")
    assert (result.exit_code, result.stderr) == (68, "director: 127.0.1.99: no such host\n")


def test_map_names_users_from_a_file(director: Director, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("zoe\nZOE\nno-such-user\ndave\n\n")
    users = [line.split()[0] for line in director("map", "-f", str(names), "127.0.1.1").stdout.splitlines()]
    assert users == ["user", "dave", "zoe", "ZOE"]


@pytest.mark.shows("I-35")
def test_map_names_users_from_stdin(director: Director) -> None:
    assert "zoe  " in director("map", "-f", "-", stdin="zoe\n").stdout


@pytest.mark.shows("I-40")
def test_map_requests_every_page(director: Director) -> None:
    for number in range(4998):  # and the three that are there
        director.service.node.put(f"user{number}", ONE)
    assert len(director("map").stdout.splitlines()) == 5002
    assert len(json.loads(director("map", "--json").stdout)) == 5001


def test_map_without_users_is_an_empty_table_and_an_empty_list(director: Director) -> None:
    director.service.forget_all()
    assert director("map").stdout == "user  hash  host  expires\n"
    assert json.loads(director("map", "--json").stdout) == []


def test_ring_status_shows_the_directors(director: Director) -> None:
    director.service.alter("ring", members=[MEMBERS[0]])
    assert director("ring", "status").stdout.splitlines() == [
        "director 127.0.0.11:9090, alone, in sync",
        "",
        "director         type  ms  in  out  idle  status",
        "127.0.0.11:9090  self   3   -    -     -  ring synced",
    ]


def test_a_director_without_a_connection_shows_when_it_failed(director: Director) -> None:
    members = [
        MemberInfo(address="fd00::12", port=9090, last_failed=int(time.time()) - 300),
        MemberInfo(address="fd00::13", port=9090),
    ]
    director.service.alter("ring", members=members)
    assert [line.split(None, 6)[0::6] for line in director("ring", "status").stdout.splitlines()[3:]] == [
        ["[fd00::12]:9090", "failed 5 min ago"],
        ["[fd00::13]:9090", "-"],
    ]


@pytest.mark.shows("I-8")
def test_dump_prints_commands(director: Director) -> None:
    assert director("dump").stdout == (
        "director add 127.0.1.1 100\ndirector add 127.0.1.2 50\ndirector down 127.0.1.2\n"
        "director add 127.0.1.3@gold 100\ndirector add 127.0.1.4 100\n"
    )


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (
            ("status",),
            {"version", "me", "started", "hosts", "users", "ring", "store", "alarms", "sockets_kept_by"},
        ),
        (
            ("status", "dave"),
            {"user", "tag", "hash", "current", "expires", "hashed", "configured", "pinned"},
        ),
        (("ring", "status"), {"me", "synced", "ring", "missing", "waiting_logins", "members"} | ADDED),
        (("dump",), {"commands"}),
    ],
)
def test_json_is_one_document_with_the_keys_of_the_record(
    director: Director, command: tuple[str, ...], keys: set[str]
) -> None:
    result = director(*command, "--json")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)) == keys


def test_json_of_users_is_a_list_of_records(director: Director) -> None:
    users = json.loads(director("map", "--json").stdout)
    assert set(users[0]) == {"hash", "key", "host", "expires", "name", "pinned"}


@pytest.mark.parametrize("command", READING)
def test_everything_fits_in_80_columns(director: Director, command: tuple[str, ...]) -> None:
    host = "2001:db8:10::25"
    director("add", f"{host}@archive", "1000")
    director("down", host)
    director.service.alter_host(host, users=1_234_567)
    far = MemberInfo(
        address="100.100.100.100", port=19090, kind="right", status="handshaking - 12345 USERs",
        sync_ms=12, bytes_in=123_456_789, bytes_out=9_999, last_read=int(time.time()) - 100,
    )  # fmt: skip
    director.service.alter("ring", members=[*MEMBERS, far])
    director.service.assign("a.long.name@mail.example.com", host)
    lines = director(*command).stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_control_characters_in_names_are_escaped(director: Director) -> None:
    director.service.assign("evil\x1b[2J\n")
    assert "evil\\x1b[2J\\n" in director("map").stdout
    assert printable("ünï") == "ünï"


def test_names_of_hosts_are_shown_if_any_host_has_a_name(director: Director) -> None:
    director.service.alter_host(TWO, hostname="backend2")
    lines = director("status").stdout.splitlines()[2:]
    assert [line.split()[:2] for line in lines[:3]] == [
        ["address", "name"],
        ["127.0.1.1", "-"],
        ["127.0.1.2", "backend2"],
    ]
    assert max(map(len, lines)) <= 80
    assert director("map", "backend2").stdout.splitlines()[1].split()[2:4] == ["127.0.1.2", "backend2"]


def test_a_name_of_a_host_is_preferred_to_the_answer_of_the_resolver(director: Director) -> None:
    director.service.alter_host(TWO, hostname="localhost")
    assert director("map", "localhost").stdout.splitlines()[1].split()[2] == "127.0.1.2"


def test_names_of_directors_are_shown_if_any_director_has_a_name(director: Director) -> None:
    second = msgspec.structs.replace(MEMBERS[1], name="director2.ring")
    director.service.alter("ring", members=[MEMBERS[0], second])
    lines = director("ring", "status").stdout.splitlines()[2:]
    assert lines[0].split()[:2] == ["director", "name"]
    assert "director2.ring" in lines[2]
    assert max(map(len, lines)) <= 80


def test_waiting_logins_are_counted_for_each_reason(director: Director) -> None:
    director.service.alter("ring", waiting_logins=16, waiting_for={"host": 12, "ring": 1, "majority": 3})
    lines = director("ring", "status").stdout.splitlines()
    assert lines[1:4] == [
        "12 logins wait for a usable host of their pool",
        "1 login waits for the ring to be in sync",
        "3 logins wait for missing directors: this is the minority side",
    ]
    assert lines[1:4] == director("status").stdout.splitlines()[1:4]


def test_waiting_logins_without_a_known_reason_are_shown_without_a_reason() -> None:
    info = RingInfo(me="127.0.0.11:9090", synced=True, ring=[], missing=[], waiting_logins=2, members=[])
    assert waiting_lines(info) == ["2 logins wait"]
