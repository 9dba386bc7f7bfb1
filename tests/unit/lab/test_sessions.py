"""The judge finds users on two backends, in logs of real backends and in changed logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.sessions import Session, overlaps, sessions

DATA = Path(__file__).parent / "data"
BOTH = pytest.mark.parametrize("release", ["2.3", "2.4"])
NEVER: tuple[float, ...] = ()
LONG_AFTER = 1795676100.0
STOPPED = {"2.3": 1795676010.7, "2.4": 1795676012.8}


def log(release: str) -> list[str]:
    """Return the log of a backend of that release, as the engine printed it: sessions of all kinds, with all
    kinds of ends."""
    return (DATA / f"backend-{release}.log").read_text().splitlines()


def of(release: str, user: str, *, stopped: tuple[float, ...] = NEVER) -> list[tuple[str, float]]:
    """Return protocol and length of a user's sessions, in the order of their beginning."""
    found = [
        session for session in sessions("backend1", log(release), stopped, LONG_AFTER) if session.user == user
    ]
    return [
        (session.protocol, round(session.ended - session.began, 2))
        for session in sorted(found, key=lambda session: session.began)
    ]


@BOTH
def test_sessions_that_end_by_logout_are_as_long_as_they_were(release: str) -> None:
    assert of(release, "user001") == [("imap", 0.0)]
    assert of(release, "user002") == [("pop3", 0.0)]
    assert of(release, "user004") == [("managesieve", 0.0)]


@BOTH
def test_sessions_end_when_their_connection_is_closed(release: str) -> None:
    assert of(release, "user005") == [("imap", 0.0)]
    assert of(release, "user006") == [("pop3", 0.0)]
    assert of(release, "user007") == [("imap", 0.2)]


@BOTH
def test_sessions_end_when_they_are_kicked(release: str) -> None:
    assert [protocol for protocol, length in of(release, "user008") if 0.05 <= length < 0.1] == [
        "imap",
        "imap",
    ]


@BOTH
def test_a_delivery_is_a_short_session(release: str) -> None:
    assert of(release, "user003") == [("lmtp", 0.0)]
    delivery = next(one for one in sessions("b", log(release), NEVER, LONG_AFTER) if one.user == "user003")
    assert delivery.ended > delivery.began


@BOTH
def test_sessions_end_with_their_container(release: str) -> None:
    killed = of(release, "user009", stopped=(STOPPED[release],))
    assert [protocol for protocol, _ in killed] == ["imap", "pop3"]
    assert all(length < 0.3 for _, length in killed)


@BOTH
def test_a_session_without_an_end_is_open_until_the_log_was_read(release: str) -> None:
    assert all(length > 60 for _, length in of(release, "user009"))


def test_a_session_that_ends_before_its_login_is_written_has_ended() -> None:
    lines = log("2.4")
    ended = next(n for n, line in enumerate(lines) if "imap(user005)" in line)
    began = next(n for n, line in enumerate(lines) if "Logged in: user=<user005>" in line)
    assert ended < began
    assert of("2.4", "user005") == [("imap", 0.0)]


def test_a_backend_that_starts_again_has_none_of_its_former_sessions() -> None:
    lines = log("2.4")
    again = lines[0].replace("06:53:11", "06:54:00", 1)
    found = [one for one in sessions("b", [*lines, again], NEVER, LONG_AFTER) if one.user == "user009"]
    assert [27 < one.ended - one.began < 28 for one in found] == [True, True]


def test_lines_that_are_no_log_are_skipped() -> None:
    lines = ["", "no time stamp", "2026-11-26T06:53:10.824609533Z", *log("2.3")]
    assert len(sessions("b", lines, NEVER, LONG_AFTER)) == len(sessions("b", log("2.3"), NEVER, LONG_AFTER))


def test_lines_without_dovecots_own_time_are_read_too() -> None:
    line = (
        "2026-11-26T06:53:29.697414728Z imap-login: Info: Logged in: user=<user001>, method=PLAIN, "
        "rip=172.17.0.1, lip=172.17.0.2, mpid=14, session=<uIawZihh5r+sEQAB>"
    )
    assert len(sessions("b", [line], NEVER, LONG_AFTER)) == 1


def session(backend: str, began: float, ended: float, user: str = "alice", protocol: str = "imap") -> Session:
    return Session(user, backend, protocol, f"{backend}-{began}", began, ended)


def test_a_user_on_two_backends_at_once_is_found() -> None:
    first, second = session("backend1", 1, 10), session("backend2", 7, 20)
    assert [(one.user, one.began, one.ended, one.sessions) for one in overlaps([second, first])] == [
        ("alice", 7, 10, (first, second))
    ]


def test_sessions_that_follow_each_other_do_not_overlap() -> None:
    assert overlaps([session("backend1", 1, 10), session("backend2", 10, 20)]) == []


def test_sessions_of_one_backend_do_not_overlap() -> None:
    assert overlaps([session("backend1", 1, 10), session("backend1", 2, 12)]) == []


def test_sessions_of_two_users_do_not_overlap() -> None:
    assert overlaps([session("backend1", 1, 10), session("backend2", 1, 10, user="bob")]) == []


def test_a_delivery_to_another_backend_than_the_sessions_counts() -> None:
    delivery = session("backend2", 4.999, 5, protocol="lmtp")
    assert [overlap.sessions[1] for overlap in overlaps([session("backend1", 1, 10), delivery])] == [delivery]


def test_a_user_on_three_backends_is_one_overlap_until_only_one_backend_is_left() -> None:
    three = [session("backend1", 1, 10), session("backend2", 5, 20), session("backend3", 8, 15)]
    assert [(overlap.began, overlap.ended) for overlap in overlaps(three)] == [(5, 15)]


def test_two_overlaps_of_a_user_are_two() -> None:
    found = overlaps([session("backend1", 1, 30), session("backend2", 5, 7), session("backend2", 9, 10)])
    assert [(overlap.began, overlap.ended) for overlap in found] == [(5, 7), (9, 10)]


def test_the_text_of_an_overlap_names_user_length_and_backends() -> None:
    text = str(overlaps([session("backend1", 1, 10), session("backend2", 7, 20)])[0])
    assert text == "alice for 3.000 s: imap <backend1-1> on backend1; imap <backend2-7> on backend2"


@BOTH
def test_a_user_on_two_backends_is_found_in_a_changed_log(release: str) -> None:
    """The same sessions in the log of another backend, a little later: every user who stayed was on two."""
    first = sessions("backend1", log(release), NEVER, LONG_AFTER)
    second = sessions(
        "backend2", [line.replace("06:53", "06:54") for line in log(release)], NEVER, LONG_AFTER
    )
    assert {overlap.user for overlap in overlaps([*first, *second])} == {"user009"}
