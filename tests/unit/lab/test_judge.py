"""The judge's verdict: allowed failures, other failures, and scenarios that count as wrong because nothing
was tested."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deploy.lab.client.events import BROKEN, IDLE, OK, REFUSED, SESSION, TIMEOUT, Event
from tests.lab.changes import differences
from tests.lab.judge import CUT, LOGIN, Allowed, Verdict, failures, judge, table
from tests.lab.sessions import Session

PERIOD = (100.0, 200.0)
PROTOCOLS = ("imap", "pop3", "sieve", "lmtp")


def ok(protocol: str = "imap", at: float = 150.0, user: str = "user001") -> Event:
    return Event(at, at + 0.2, protocol, user, OK, served=at + 0.1, proxy="proxy1", backend="backend1")


def failed(at: float, *, until: float | None = None, proxy: str = "", user: str = "user001") -> Event:
    return Event(at, until or at + 0.1, "imap", user, REFUSED, proxy=proxy, text="NO [UNAVAILABLE]")


def cut(ended: float, *, proxy: str = "proxy1") -> Event:
    return Event(50, ended, SESSION, "user001", BROKEN, served=50, proxy=proxy, backend="backend1")


def logged(event: Event) -> Session:
    """Return the session of a login, as in the backend's log."""
    return Session(
        event.user, "backend1", event.protocol, f"{event.served}", event.served - 0.01, event.ended
    )


EVERYTHING = [ok(protocol) for protocol in PROTOCOLS]


def verdict(
    events: Sequence[Event],
    *,
    found: Sequence[Session] = (),
    allowed: Sequence[Allowed] = (),
    bound: float = 0.0,
    held: int = 30,
    lost: Sequence[str] = (),
    logs: bool = True,
) -> Verdict:
    of_clients = (
        [logged(event) for event in events if event.served and event.protocol != SESSION] if logs else []
    )
    return judge(
        "one", PERIOD, events, [*of_clients, *found], allowed=allowed, bound=bound, held=held, lost=lost
    )


def test_a_scenario_in_which_everything_worked_is_right() -> None:
    seen = verdict(EVERYTHING)
    assert (seen.right, seen.done, seen.failed, seen.problems) == (True, 4, 0, [])


def test_a_scenario_in_which_no_user_logged_in_is_wrong() -> None:
    assert not verdict([]).right


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_scenario_in_which_a_protocol_was_not_tried_is_wrong(protocol: str) -> None:
    events = [event for event in EVERYTHING if event.protocol != protocol]
    assert verdict(events).problems == [f"nothing was done by {protocol}"]


def test_a_scenario_without_long_sessions_is_wrong() -> None:
    assert verdict(EVERYTHING, held=0).problems == ["no long session was open: nothing was tested"]


def test_a_scenario_whose_sessions_are_not_in_the_logs_is_wrong() -> None:
    assert verdict(EVERYTHING, logs=False).problems == [
        "the backends' logs lack 3 sessions that the clients had"
    ]


def test_a_scenario_in_which_a_change_was_lost_is_wrong() -> None:
    seen = verdict(EVERYTHING, lost=["director2: backend2 has weight 100, not 51"])
    assert (seen.right, seen.lost) == (False, 1)


def test_a_failed_login_makes_a_scenario_wrong_and_is_shown_with_the_servers_answer() -> None:
    seen = verdict([*EVERYTHING, failed(150, proxy="proxy2")])
    assert (seen.right, seen.failed, seen.allowed) == (False, 1, 0)
    assert "imap of user001 through proxy2" in seen.problems[0]
    assert "NO [UNAVAILABLE]" in seen.problems[0]


def test_a_closed_session_makes_a_scenario_wrong() -> None:
    seen = verdict([*EVERYTHING, cut(150)])
    assert (seen.right, seen.failed, seen.reopened) == (False, 1, 1)


def test_allowed_failures_are_counted_as_allowed() -> None:
    rules = [Allowed("", LOGIN, 140, 160), Allowed("", CUT, 140, 160)]
    seen = verdict([*EVERYTHING, failed(150), cut(150)], allowed=rules)
    assert (seen.right, seen.failed, seen.allowed, seen.reopened) == (True, 0, 2, 1)


def test_events_before_or_after_a_scenario_do_not_count() -> None:
    seen = verdict([*EVERYTHING, failed(99), failed(201), cut(99)])
    assert (seen.right, seen.failed) == (True, 0)


def test_a_login_counts_in_the_scenario_in_which_it_began() -> None:
    """A login that ends after its scenario, 30 s later, counts in it, and not in the next scenario."""
    seen = verdict([*EVERYTHING, failed(199, until=229), failed(70, until=101)])
    assert (seen.failed, seen.slowest) == (1, 30)
    assert "begun at 199.0" in seen.problems[0]


def test_the_slowest_login_may_be_a_failed_login() -> None:
    assert verdict([*EVERYTHING, failed(110, until=140)]).slowest == 30


LATER = Session("user009", "backend2", "imap", "b", 160, 170)


def test_a_user_on_two_backends_makes_a_scenario_wrong() -> None:
    seen = verdict(EVERYTHING, found=[Session("user009", "backend1", "imap", "a", 50, 161.5), LATER])
    assert (seen.right, seen.on_two_backends, seen.longest) == (False, 1, 1.5)
    assert "imap <a> on backend1; imap <b> on backend2" in seen.problems[0]


def test_a_user_on_two_backends_for_no_longer_than_the_bound_is_shown_but_allowed() -> None:
    seen = verdict(
        EVERYTHING, found=[Session("user009", "backend1", "imap", "a", 50, 161.5), LATER], bound=1.5
    )
    assert (seen.right, seen.on_two_backends, seen.longest) == (True, 1, 1.5)


def test_of_many_failures_the_first_are_shown_and_the_others_counted() -> None:
    seen = verdict([*EVERYTHING, *(failed(150 + n / 10) for n in range(20))])
    assert len(seen.problems) == 6
    assert seen.problems[-1] == "and 15 more like that"


def covered(event: Event, **rule: object) -> bool:
    allowed = Allowed(**({"why": "", "what": LOGIN, "began": 140.0, "ended": 160.0} | rule))  # type: ignore[arg-type]
    return failures([event], [allowed]) == ([event], [])


def test_a_login_in_progress_during_the_allowed_time_may_fail() -> None:
    assert covered(failed(135, until=141))
    assert covered(failed(159, until=189))
    assert not covered(failed(161))
    assert not covered(failed(135, until=139))


def test_a_session_may_be_cut_in_the_allowed_time_and_not_after_it() -> None:
    assert covered(cut(150), what=CUT)
    assert not covered(cut(161), what=CUT)
    assert not covered(cut(150))
    assert not covered(failed(150), what=CUT)


def test_failures_allowed_for_one_proxy_include_connections_that_were_not_greeted() -> None:
    assert covered(failed(150, proxy="proxy2"), proxy="proxy2")
    assert covered(failed(150), proxy="proxy2")
    assert not covered(failed(150, proxy="proxy1"), proxy="proxy2")


def test_failures_allowed_for_some_users_are_not_allowed_for_others() -> None:
    assert covered(failed(150, user="user007"), users=frozenset({"user007"}))
    assert not covered(failed(150, user="user008"), users=frozenset({"user007"}))


def test_failures_allowed_for_one_protocol_are_not_allowed_for_others() -> None:
    assert covered(failed(150), protocol="imap")
    assert not covered(failed(150), protocol="lmtp")


def test_a_successful_login_needs_no_permission() -> None:
    assert (
        failures([ok(), Event(1, 2, IDLE, "u", TIMEOUT)], [Allowed("", LOGIN, 0, 5)])[0][0].protocol == IDLE
    )


def test_the_last_line_of_the_table_says_how_many_scenarios_went_wrong() -> None:
    good, bad = verdict(EVERYTHING), verdict([])
    assert table([good]).splitlines()[-1] == "all 1 right"
    assert table([good, bad]).splitlines()[-1] == "1 of 2 scenarios went wrong"
    assert max(map(len, table([good, bad]).splitlines())) <= 80


def test_a_change_that_a_director_does_not_have_is_lost() -> None:
    expected = {"backend2": {"weight": 51}, "backend4": {"tag": "spare", "up": False}}
    kept = {"backend2": {"weight": 51, "up": True}, "backend4": {"tag": "spare", "up": False}}
    assert differences(expected, kept) == []
    assert differences(expected, kept | {"backend2": {"weight": 100}}) == ["backend2 has weight 100, not 51"]
    assert len(differences(expected, {})) == 3
