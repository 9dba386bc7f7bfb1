"""Findings about a running director, and about look-ups."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from director.doctor.daemon import answer, check
from director.doctor.facts import Backend, Facts, Keeper, ProcessUser, Settings
from director.doctor.findings import FAULT, HINT, OK, UNSEEN, WARNING, Finding, worst
from director.doctor.gatherer import lookup_answer
from director.records import HostInfo, RingInfo, SnapshotInfo, StatusInfo, StoreInfo

ME, OTHER = "10.0.0.1:9090", "10.0.0.2:9090"
RING = RingInfo(me=ME, synced=True, ring=[ME, OTHER], missing=[], waiting_logins=0, members=[])
STORE = StoreInfo(url="redis://10.0.0.9/0", shared=True, up=True, loaded=True)
HOSTS = [HostInfo(address="10.1.0.1", weight=100, up=True)]
STATUS = StatusInfo(
    version="1.0",
    me=ME,
    started=0,
    hosts=HOSTS,
    users=7,
    ring=RING,
    store=STORE,
    sockets_kept_by="systemd",
)
POOL = HostInfo(address="10.1.0.9", tag="gold", weight=100, up=False)
GOOD = Facts(
    settings=Settings(),
    director_as=ProcessUser(uid=0, gids=(0,), name="root"),
    running=True,
    status=STATUS,
    version="1.0",
    open_files=65536,
    used_files=200,
    needed_files=80,
    skew={OTHER: 0.01},
    backends=(Backend(address="10.1.0.1", open=("imap",), local=False),),
)


NO_LISTENER = Settings(login="", userdb="", notify="")
LOST = SnapshotInfo(url="sqlite:////s.db", up=False, queued_buckets=1, written=None, error="disk full")


def but(facts: Facts = GOOD, **changes: Any) -> Facts:
    return msgspec.structs.replace(facts, **changes)


def status(**changes: Any) -> Facts:
    return but(status=msgspec.structs.replace(STATUS, **changes))


def told(facts: Facts) -> list[Finding]:
    return [one for one in check(facts) if one.level != OK]


def test_a_correct_machine_has_no_findings() -> None:
    assert told(GOOD) == []
    assert worst(check(GOOD)) == OK


@pytest.mark.parametrize(
    ("facts", "level", "check", "words"),
    [
        (
            but(status=None, running=False, status_problem="no director answers"),
            FAULT,
            "answers",
            "no director",
        ),
        (but(status=None, status_problem="late"), UNSEEN, "answers", "late"),
        (but(status=None, running=None, status_problem="permission denied"), UNSEEN, "answers", "denied"),
        (but(version="1.1"), WARNING, "version", "1.0 runs, 1.1 is installed"),
        (status(ring=msgspec.structs.replace(RING, removed=True)), FAULT, "ring", "is removed"),
        (status(ring=msgspec.structs.replace(RING, missing=[OTHER])), WARNING, "ring", OTHER),
        (status(ring=msgspec.structs.replace(RING, synced=False)), WARNING, "ring", "not in sync"),
        (
            status(store=msgspec.structs.replace(STORE, up=False, error="refused")),
            WARNING,
            "store",
            "refused",
        ),
        (status(store=msgspec.structs.replace(STORE, url="memory:")), WARNING, "memory", "keeps nothing"),
        (status(store=msgspec.structs.replace(STORE, snapshot=LOST)), WARNING, "snapshot", "disk full"),
        (status(store=msgspec.structs.replace(STORE, lag=60.0)), WARNING, "store", "60 s behind"),
        (status(store=msgspec.structs.replace(STORE, shared=False)), HINT, "shared_store", "is not shared"),
        (status(hosts=[HostInfo(address="10.1.0.1", weight=0, up=True)]), FAULT, "hosts", "no host is up"),
        (but(skew={OTHER: -1.5}), WARNING, "clock", "1.5 s behind"),
        (but(open_files=1024), WARNING, "open_files", "1024"),
        (but(open_files=1024, used_files=1000), FAULT, "open_files", "1000 of at most 1024"),
        (but(used_files=65000), FAULT, "open_files", "65000 of at most 65536"),
        (status(hosts=[*HOSTS, POOL]), FAULT, "hosts", "pool gold: no host is up"),
        (
            but(backends=(Backend(address="10.1.0.1", open=(), local=False),)),
            WARNING,
            "reachable",
            "no listener",
        ),
        (
            but(backends=(Backend(address="10.1.0.1", open=("lmtp",), local=True),)),
            HINT,
            "own_address",
            "10.1",
        ),
    ],
)
def test_a_problem_has_exactly_one_finding(facts: Facts, level: str, check: str, words: str) -> None:
    (finding,) = told(facts)
    assert (finding.level, finding.check) == (level, check)
    assert any(word in finding.found for word in words.split("|"))


def test_a_stopped_director_is_not_reported_as_missing() -> None:
    assert told(status(ring=msgspec.structs.replace(RING, missing=[OTHER], stopped=[OTHER]))) == []


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("PASS\t1\tuser=ann\tproxy=y\thost=10.1.0.1\tuser_dirkey=1@10.1.0.1", OK),
        ("PASS\t1\tuser=ann\tproxy=y\thost=10.1.0.1", WARNING),
        ("PASS\t1\tuser=ann", WARNING),
        ("NOTFOUND\t1", WARNING),
        ("FAIL\t1", FAULT),
        ("/run/dovecot/director-userdb: Connection refused", FAULT),
    ],
)
def test_each_answer_to_a_look_up_has_its_finding(line: str, level: str) -> None:
    assert worst(answer("ann", line)) == level


def test_a_look_up_is_made_as_lmtp_makes_it_and_shows_no_password(tmp_path: Path) -> None:
    path, heard = str(tmp_path / "userdb"), []

    def director(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"VERSION\t1\t1\nSPID\t1\n")
            heard.append(connection.recv(4096))
            connection.sendall(b"PASS\t1\tuser=ann\tpass=hunter2\tmaster_pass=hunter2\thost=10.1.0.1\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=director, args=(listener,))
        thread.start()
        told = lookup_answer(path, "ann")
        thread.join()
    assert told == "PASS\t1\tuser=ann\thost=10.1.0.1"
    assert heard[0].startswith(b"VERSION\t1\t1\nPASS\t1\tann\tservice=doveadm")


def test_an_answer_in_pieces_is_read_completely_and_a_name_cannot_add_fields(tmp_path: Path) -> None:
    path, heard = str(tmp_path / "userdb"), []

    def director(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            heard.extend([lines.readline(), lines.readline()])
            connection.sendall(b"VERSION\t1\t1\nPASS\t1\tuser=ann")
            assert not select.select([connection], [], [], 0.2)[0], "it hung up in the middle of the line"
            connection.sendall(b"\thost=10.1.0.1\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=director, args=(listener,))
        thread.start()
        told = lookup_answer(path, "ann\thost=10.9.9.9")
        thread.join()
    assert told == "PASS\t1\tuser=ann\thost=10.1.0.1"
    assert heard[1] == b"PASS\t1\tann\x01thost=10.9.9.9\tservice=doveadm\tprotocol=doveadm\n"


def test_a_look_up_at_a_socket_without_a_listener_says_so(tmp_path: Path) -> None:
    assert lookup_answer(str(tmp_path / "none"), "ann") == f"{tmp_path}/none: No such file or directory"


def test_failed_requests_to_end_sessions_are_a_finding() -> None:
    (finding,) = told(but(kicks={"done": 9.0, "failed": 1.0, "timed_out": 2.0}))
    assert (finding.level, finding.check) == (WARNING, "kicks")
    assert finding.found.startswith("3 of 12 requests")
    assert told(but(kicks={"done": 9.0, "failed": 0.0})) == []


def kept_sockets(facts: Facts) -> Finding:
    (finding,) = (one for one in check(facts) if one.check == "kept_sockets")
    return finding


def test_the_keeper_of_the_sockets_is_named_with_its_process() -> None:
    keeper = Keeper(path="/run/dovecot/director-keeper", process=4711, standalone=False, listeners=("login",))
    finding = kept_sockets(msgspec.structs.replace(status(sockets_kept_by="keeper"), keeper=keeper))
    assert finding.level == OK
    assert finding.found == "keeper, process 4711, holds login (/run/dovecot/director-keeper)"
    assert kept_sockets(status(sockets_kept_by="keeper")).level == UNSEEN
    assert kept_sockets(GOOD).found.startswith("systemd")
    elsewhere = kept_sockets(msgspec.structs.replace(status(sockets_kept_by="keeper"), here=False))
    assert (elsewhere.level, elsewhere.found) == (OK, "keeper holds the sockets while no director runs")


def test_a_director_without_a_keeper_has_a_warning_that_names_the_effect() -> None:
    finding = kept_sockets(status(sockets_kept_by=""))
    assert (finding.level, finding.area) == (WARNING, "sockets")
    assert "stall" in finding.why
    off = but(status=msgspec.structs.replace(STATUS, sockets_kept_by=""), settings=NO_LISTENER)
    assert [one for one in check(off) if one.check == "kept_sockets"] == []


def test_unencrypted_links_between_directors_are_named_whether_or_not_the_director_runs() -> None:
    settings = Settings(ring_readable=(ME, OTHER))
    for facts in (but(settings=settings), but(settings=settings, status=None)):
        (finding,) = [one for one in told(facts) if one.check == "ring_tls"]
        assert (finding.level, finding.found) == (HINT, f"no ring.tls for the links with {ME}, {OTHER}")
        assert "TLS between the directors" in finding.fix[0]
