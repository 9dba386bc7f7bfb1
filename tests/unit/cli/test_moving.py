"""Commands that change users, and the members of the ring."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from director.cli.progress import counts_text, progress_text
from director.core.moves.jobs import Flush, Forget
from director.errors import TryAgain
from director.records import MoveInfo, UsersChange
from tests.e2e.processes import until
from tests.faulty import Fault
from tests.unit.cli.conftest import Director
from tests.unit.service.parts import key_of
from tests.unit.web.service import GOLD, ONE, TWO

PROGRAM = [sys.executable, "-m", "director"]


def test_move_says_where_the_user_was_and_is(director: Director) -> None:
    result = director("move", "dave", "127.0.1.2", "--reason", "bigger disk")
    assert (result.exit_code, result.stdout) == (0, "dave: 127.0.1.1 -> 127.0.1.2, 2 sessions ended\n")
    assert director.service.reasons == ["bigger disk"]


def test_an_unassigned_user_is_assigned_if_the_operator_gives_the_option_new(
    director: Director,
) -> None:
    assert director("move", "--new", "newuser", "127.0.1.2").stdout == (
        "newuser: assigned to 127.0.1.2, 0 sessions ended\n"
    )
    assert director("pin", "other", "127.0.1.2", "--new").stdout == (
        "other: assigned to 127.0.1.2, pinned, 0 sessions ended\n"
    )


@pytest.mark.parametrize("command", ["move", "pin"])
@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]])
def test_a_mistyped_user_is_exit_code_68_and_no_user_is_moved(
    director: Director, command: str, options: list[str]
) -> None:
    result = director(command, "alcie", "127.0.1.2", *options)
    assert (result.exit_code, result.stdout) == (68, "")
    assert result.stderr == (
        "director: alcie: no such user is assigned; check the name, or give --new to assign a new user\n"
    )
    assert director.service.asked == []


def test_a_user_who_is_already_on_the_host_stays(director: Director) -> None:
    assert director("move", "dave", "127.0.1.1").stdout == "dave: already on 127.0.1.1\n"


def test_a_move_that_another_operator_won_is_exit_code_75(director: Director) -> None:
    director.service.node.faults.counts = {"moved": 0, "superseded": 1}
    result = director("move", "dave", "127.0.1.2")
    assert (result.exit_code, result.stdout, result.stderr) == (
        75,
        "",
        "director: dave: another operator's move won; the user is on 127.0.1.2 now\n",
    )


def test_directors_that_did_not_confirm_are_named(director: Director) -> None:
    director.service.node.faults.counts = {"not_reached": ["127.0.0.12:9090", "127.0.0.13:9090"]}
    result = director("move", "dave", "127.0.1.2")
    assert result.exit_code == 0
    assert result.stderr == (
        "director: dave: not confirmed by 127.0.0.12:9090, 127.0.0.13:9090; "
        "the sessions there end when these directors are reachable\n"
    )


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (("move", "dave", "127.0.1.99"), 68, "127.0.1.99: no such host"),
        (("unpin", "dave"), 68, "dave: not pinned"),
        (("flush", "127.0.1.99"), 68, "127.0.1.99: no such backend host"),
        (("drain", "127.0.1.99"), 68, "127.0.1.99: no such host"),
        (("tag", "127.0.1.99", "gold"), 68, "127.0.1.99: no such backend host"),
        (("ring", "remove", "127.0.0.77"), 68, "127.0.0.77:9090: no such director"),
        (("ring", "add", "bo gus"), 65, "'bo gus' is neither an IP address nor a name"),
    ],
)
def test_a_command_that_fails_prints_one_line_and_its_exit_code(
    director: Director, command: tuple[str, ...], code: int, line: str
) -> None:
    result = director(*command)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"director: {line}\n")


def test_a_user_who_is_being_moved_cannot_be_moved_to_another_host(director: Director) -> None:
    director.service.hold_sessions()
    director.service.call(director.service.node.operations.users.move, "zoe", TWO, reason="", follow=True)
    result = director("move", "zoe", "127.0.1.4")
    assert (result.exit_code, result.stderr) == (
        75,
        "director: the user is being moved already; retry when the move has ended\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("move", "dave"),
        ("move", "", "127.0.1.1"),
        ("kick",),
        ("kick", "dave", "--hash", "5"),
        ("kick", "-f", "field"),
        ("kick", "-f", "field", "--hash", "5"),
        ("kick", "--name", "--hash", "5"),
        ("kick", "-f", "class", "beta", "--name"),
        ("flush",),
        ("flush", "all", "--max-parallel", "0"),
        ("flush", "-F", "all", "--max-parallel", "3"),
        ("rebalance", "127.0.1.1"),
        ("tag", "127.0.1.1"),
        ("ring", "add", "127.0.0.14", "0"),
    ],
)
def test_unclear_arguments_are_a_usage_error_and_change_nothing(
    director: Director, arguments: tuple[str, ...]
) -> None:
    assert director(*arguments).exit_code == 64
    assert director.service.asked == []


def test_move_reads_digits_as_a_hash_unless_the_option_name_is_given(director: Director) -> None:
    number = str(key_of("dave") >> 32)
    director("move", number, "127.0.1.2")
    director("move", number, "127.0.1.3", "--new", "--name", "-t", "gold")
    by_hash, by_name = director.service.asked
    assert (by_hash.key, by_hash.host) == (key_of("dave"), TWO)
    assert (by_name.name, by_name.host) == (number.encode(), GOLD)


def test_a_pinned_user_is_moved_first(director: Director) -> None:
    assert director("pin", "dave", "127.0.1.2").stdout == (
        "dave: 127.0.1.1 -> 127.0.1.2, pinned, 2 sessions ended\n"
    )
    assert director("pin", "dave", "127.0.1.2").stdout == "dave: already on 127.0.1.2, pinned\n"


def test_an_unpinned_user_stays_for_now(director: Director) -> None:
    director("pin", "dave", "127.0.1.3", "-t", "gold", "--new")
    assert director("unpin", "dave", "-t", "gold", "--name").stdout == (
        "dave: no longer pinned, stays on 127.0.1.3 until the assignment expires\n"
    )


def test_kick_prints_the_user_and_the_number_of_ended_sessions(director: Director) -> None:
    hash32 = str(key_of("dave") >> 32)
    users = (["dave"], ["-f", "class", "bob"], ["--hash", hash32])
    assert [director("kick", *user).stdout for user in users] == [
        "dave: 2 sessions ended\n",
        "class=bob: 2 sessions ended\n",
        f"hash {hash32}: 2 sessions ended\n",
    ]


def test_kick_reads_a_number_as_a_hash_unless_the_option_name_is_given(director: Director) -> None:
    hash32 = str(key_of("dave") >> 32)
    assert director("kick", hash32).stdout == f"{hash32}: 2 sessions ended\n"
    assert director("kick", hash32, "--name").exit_code == 68


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]])
def test_a_kick_of_an_unassigned_user_without_sessions_is_exit_code_68(
    director: Director, options: list[str]
) -> None:
    result = director("kick", "alcie", *options)
    assert result.exit_code == 68
    assert result.stderr == "director: alcie: no such user: not assigned, and no session found\n"
    assert (result.stdout == "") is (options != ["--json"])


def test_a_host_given_as_a_user_to_kick_is_reported_as_a_host(director: Director) -> None:
    assert director("kick", "127.0.1.2").stderr == (
        "director: 127.0.1.2: no such user: this is a backend host\n"
    )


def test_a_dry_run_of_a_kick_counts_sessions_and_names_the_directors_that_did_not_count(
    director: Director,
) -> None:
    would = "dave: would end 2 sessions (dry run: nothing is changed)\n"
    assert director("kick", "dave", "--dry-run").stdout == would
    director.service.node.faults.counts = {"not_counted": ["127.0.0.12:9090"]}
    assert director("kick", "dave", "--dry-run").stdout == (
        "dave: would end - sessions, at least 2: not counted at 127.0.0.12:9090 "
        "(dry run: nothing is changed)\n"
    )


def test_flush_prints_its_counts(director: Director) -> None:
    result = director("flush", "127.0.1.1", "--max-parallel", "5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "flush 127.0.1.1: 2 users moved, 4 sessions ended, 0 timed out\n"
    assert director("flush", "all").stdout == "flush all: 1 user moved, 2 sessions ended, 0 timed out\n"
    assert director.service.asked == [Flush(0, ONE, None, 5), Flush(0, None)]


def test_flush_with_the_option_forget_forgets_users(director: Director) -> None:
    assert director("flush", "-F", "127.0.1.1").stdout == (
        "flush 127.0.1.1: 2 users forgotten, 4 sessions ended, 0 timed out\n"
    )
    assert director.service.asked == [Forget(0, ONE)]


def test_every_address_of_a_name_is_flushed(director: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in ("127.0.1.1", "127.0.1.99", "127.0.1.2")]
    monkeypatch.setattr("director.cli.hosts.socket.getaddrinfo", lambda *_, **__: found)
    result = director("flush", "imap.example.com", "--json")
    assert list(json.loads(result.stdout)) == ["127.0.1.1", "127.0.1.2"]
    assert (result.exit_code, result.stderr) == (68, "director: 127.0.1.99: no such backend host\n")


def test_rebalance_moves_ten_users_at_a_time_unless_told_otherwise(director: Director) -> None:
    result = director("rebalance")
    director("rebalance", "--tag", "gold", "--max-parallel", "50")
    assert result.stdout == "rebalance: 3 users moved, 6 sessions ended, 0 timed out\n"
    assert director.service.asked == [Flush(0, None, None, 10), Flush(0, None, "gold", 50)]


def test_a_new_tag_moves_the_users(director: Director) -> None:
    result = director("tag", "127.0.1.1", "gold")
    assert result.stdout == "tag 127.0.1.1 gold: 2 users moved, 4 sessions ended, 0 timed out\n"
    assert director.service.hosts["127.0.1.1"].tag == "gold"


def test_drain_empties_a_host(director: Director) -> None:
    result = director("drain", "127.0.1.1", "--reason", "new kernel")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "drain 127.0.1.1: 2 users moved, 4 sessions ended, 0 timed out\ndrain 127.0.1.1: done, no user left\n"
    )
    host = director.service.hosts["127.0.1.1"]
    assert (host.weight, host.users) == (0, 0)
    assert director.service.reasons == ["new kernel", "new kernel"]


def test_a_drain_that_leaves_pinned_users_is_exit_code_75_and_counts_them(director: Director) -> None:
    director.service.assign("dave", pinned=True)
    result = director("drain", "127.0.1.1")
    assert (result.exit_code, result.stdout) == (
        75,
        "drain 127.0.1.1: 1 user moved, 2 sessions ended, 0 timed out, 1 pinned user left\n",
    )
    assert result.stderr == (
        "director: drain 127.0.1.1: 1 pinned user left: use `unpin` or `move`; "
        "`director map 127.0.1.1` lists them\n"
    )


@pytest.mark.parametrize("command", ["drain 127.0.1.1", "flush 127.0.1.1", "tag 127.0.1.1 gold"])
def test_a_second_command_for_a_host_joins_the_first_and_prints_its_counts(
    director: Director, command: str
) -> None:
    service, operations = director.service, director.service.node.operations
    service.hold_sessions(until="info")
    if command.startswith("tag"):
        service.call(operations.hosts.set_tag, ONE, "gold", reason="", follow=True)
    else:
        service.call(operations.users.flush, ONE, reason="", follow=True)
    result = director(*command.split())
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{command}: 2 users moved, 4 sessions ended, 0 timed out\n")
    assert f"director: {command}: already running since " in result.stderr
    assert len(service.call(operations.jobs.all)) == 1


def test_a_drain_is_not_done_while_another_director_moves_users_of_the_host_away(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such users are no longer assigned to the host, but still have sessions there."""
    leaving = iter([2, 1, 0])
    director.service.forget_all()
    director.service.alter_host(ONE, leaving=lambda: next(leaving, 0))
    monkeypatch.setattr("director.cli.flushes.POLL", 0.001)
    result = director("drain", "127.0.1.1")
    assert (result.exit_code, list(leaving)) == (0, [])
    assert result.stdout.endswith("drain 127.0.1.1: done, no user left\n")


def test_users_who_are_still_being_moved_are_reported_as_left_when_a_drain_ends(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.cli.flushes.STUCK", 0.0)
    director.service.alter_host(ONE, leaving=2)
    result = director("drain", "127.0.1.1")
    assert result.exit_code == 75
    assert "2 users left" in result.stderr


def test_ctrl_c_in_a_command_that_has_joined_another_does_not_end_the_other_command(
    director: Director,
) -> None:
    director.service.hold_sessions()
    operations = director.service.node.operations
    director.service.call(operations.users.flush, ONE, reason="", follow=True)
    code, said, errors = interrupted(director, "flush", "127.0.1.1")
    assert (code, said) == (130, "")
    assert "flush 127.0.1.1: interrupted; the flush that another operator started continues" in errors
    assert [job.ended for job in director.service.call(operations.jobs.all)] == [None]


def test_drain_does_not_wait_without_end_for_users_who_return(
    director: Director, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.cli.flushes.STUCK", 0.0)
    director.service.alter_host(ONE, users=3)
    result = director("drain", "127.0.1.1")
    assert result.exit_code == 75
    assert result.stdout == "drain 127.0.1.1: 2 users moved, 4 sessions ended, 0 timed out\n"
    assert result.stderr == ("director: drain 127.0.1.1: 3 users left; `director map 127.0.1.1` lists them\n")


def test_a_failure_during_a_flush_is_reported_with_its_exit_code(director: Director) -> None:
    director.service.node.faults.errors[Flush] = TryAgain("Ring sync timed out")
    result = director("flush", "127.0.1.1")
    assert (result.exit_code, result.stdout, result.stderr) == (
        75,
        "",
        "director: 127.0.1.1: Ring sync timed out\n",
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("move dave 127.0.1.1", "dave: already on 127.0.1.1, no longer pinned"),
        ("move dave 127.0.1.1 --dry-run", "dave: would stay on 127.0.1.1, no longer pinned (dry run: "),
        ("move dave 127.0.1.2", "dave: 127.0.1.1 -> 127.0.1.2, no longer pinned, "),
        ("pin dave 127.0.1.1 --dry-run", "dave: already on 127.0.1.1, pinned (dry run: "),
        ("pin bob 127.0.1.2 --dry-run", "bob: would stay on 127.0.1.2, pinned (dry run: "),
        ("pin bob 127.0.1.2", "bob: already on 127.0.1.2, pinned"),
        ("move bob 127.0.1.2 --dry-run", "bob: already on 127.0.1.2 (dry run: "),
    ],
)
def test_a_move_says_that_it_ends_a_pin_and_a_dry_run_says_that_it_would_pin(
    director: Director, command: str, said: str
) -> None:
    director.service.assign("dave", pinned=True)
    assert director(*command.split()).stdout.startswith(said)


def test_a_dry_run_of_a_forced_removal_says_that_users_would_have_no_host(director: Director) -> None:
    for name in ("gina", "gus"):
        director("move", "--new", name, "127.0.1.3", "-t", "gold")
    assert director("remove", "--force", "--dry-run", "127.0.1.3").stdout == (
        "127.0.1.3: would be removed, 2 users would have no host, ending - sessions "
        "(dry run: nothing is changed)\n"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("move dave 127.0.1.2", "dave: would move 127.0.1.1 -> 127.0.1.2, ending - sessions"),
        ("move --new eve 127.0.1.2", "eve: would be assigned to 127.0.1.2, ending - sessions"),
        ("pin dave 127.0.1.2", "dave: would move 127.0.1.1 -> 127.0.1.2, pinned, ending - sessions"),
        ("flush 127.0.1.1", "flush 127.0.1.1: would move 2 users, end - sessions"),
        ("flush -F all", "flush all: would forget 3 users, end - sessions"),
        ("rebalance", "rebalance: would move 3 users, end - sessions"),
        ("tag 127.0.1.1 gold", "tag 127.0.1.1 gold: would move 2 users, end - sessions"),
        ("drain 127.0.1.1", "drain 127.0.1.1: weight 100 -> 0, would move 2 users, end - sessions"),
        ("update 127.0.1.1 7", "127.0.1.1: would have weight 7, up"),
        ("down 127.0.1.1", "127.0.1.1: would have weight 100, down"),
        (
            "remove 127.0.1.1",
            "127.0.1.1: would be removed, 2 users would get another host, ending - sessions",
        ),
    ],
)
def test_a_dry_run_about_users_prints_what_would_change_and_changes_nothing(
    director: Director, command: str, said: str
) -> None:
    service = director.service
    before = (service.hosts, service.users)
    result = director(*command.split(), "--dry-run")
    assert (result.exit_code, result.stdout) == (0, f"{said} (dry run: nothing is changed)\n")
    assert (service.hosts, service.users, service.asked) == (*before, [])


def test_a_dry_run_leaves_pinned_users_out_of_those_that_would_move(director: Director) -> None:
    director.service.assign("dave", pinned=True)
    assert director("flush", "127.0.1.1", "--dry-run").stdout == (
        "flush 127.0.1.1: would move 1 user, end - sessions, leave 1 pinned user"
        " (dry run: nothing is changed)\n"
    )


@pytest.mark.parametrize(
    "command", ["move dave 127.0.1.2", "flush all", "drain 127.0.1.1", "tag 127.0.1.1 a"]
)
def test_a_number_that_a_dry_run_does_not_know_is_null_in_json(director: Director, command: str) -> None:
    found = json.loads(director(*command.split(), "--dry-run", "--json").stdout)
    (change,) = [found] if "moved" in found else found.values()
    assert (change["dry_run"], change["kicked"], change["timed_out"]) == (True, None, None)


@pytest.mark.parametrize("command", ["move dave 127.0.1.2", "kick dave", "pin dave 127.0.1.2"])
def test_json_is_the_answer_of_the_director(director: Director, command: str) -> None:
    result = director(*command.split(), "--json")
    assert "not_reached" in json.loads(result.stdout)


@pytest.mark.parametrize("command", ["drain 127.0.1.1", "drain 127.0.1.1 --dry-run", "tag 127.0.1.1 gold"])
def test_json_of_hosts_is_one_document_by_address(director: Director, command: str) -> None:
    assert json.loads(director(*command.split(), "--json").stdout)["127.0.1.1"]["moved"] == 2


def test_a_director_is_listed_and_taken_off_the_list(director: Director) -> None:
    added = director("ring", "add", "127.0.0.14", "9999")
    assert added.stdout == ("127.0.0.14:9999 added: 2 directors listed, not in the ring: 127.0.0.14:9999\n")
    removed = director("ring", "remove", "127.0.0.14:9999", "--dry-run")
    assert removed.stdout == (
        "127.0.0.14:9999 would be removed: 1 director listed (dry run: nothing is changed)\n"
    )
    would = director("ring", "add", "127.0.0.15", "--dry-run").stdout
    assert would.startswith("127.0.0.15 would be added: 3 directors listed, not in the ring: ")
    assert director("ring", "add", "[::1]:9999").stdout.startswith("[::1]:9999 added: ")
    assert director("ring", "remove", "::1", "9999").stdout.startswith("[::1]:9999 removed: ")


def test_after_ctrl_c_no_more_users_are_moved_and_the_counts_are_printed(director: Director) -> None:
    director.service.hold_sessions(until="interrupt")
    done = interrupted(director, "flush", "127.0.1.1", "--max-parallel", "1")
    assert done == (130, "flush 127.0.1.1: interrupted, 1 user moved, 2 sessions ended, 0 timed out\n", "")
    assert director.service.hosts["127.0.1.1"].users == 1


def test_an_interrupted_drain_prints_the_command_that_restores_the_weight(director: Director) -> None:
    director.service.hold_sessions(until="interrupt")
    code, _, errors = interrupted(director, "drain", "127.0.1.1")
    assert code == 130
    assert errors == (
        "director: drain 127.0.1.1: the weight stays 0; `director update 127.0.1.1 100` restores it\n"
    )


def test_a_failed_drain_prints_the_command_that_restores_the_weight(director: Director) -> None:
    director.service.node.faults.errors[Flush] = TryAgain("Ring sync timed out")
    result = director("drain", "127.0.1.1")
    assert (result.exit_code, result.stdout) == (75, "")
    assert result.stderr == (
        "director: drain 127.0.1.1: the weight stays 0; `director update 127.0.1.1 100` restores it\n"
        "director: 127.0.1.1: Ring sync timed out\n"
    )


def test_progress_is_shown_on_a_terminal(director: Director) -> None:
    director.service.hold_sessions(until="info")
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, "-S", director.where, "flush", "all"], stderr=terminal, stdout=subprocess.PIPE, check=True
    )
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert "flush all: 0 / 3 users moved" in shown
    assert shown.endswith("\r\x1b[K")
    assert done.stdout == b"flush all: 3 users moved, 6 sessions ended, 0 timed out\n"


def test_progress_has_only_the_numbers_that_are_known() -> None:
    counting = MoveInfo(id="1", kind="flush", target="all", started=0)
    begun = MoveInfo(id="1", kind="forget", target="all", started=0, total=1)
    going = MoveInfo(id="1", kind="flush", target="all", started=0, total=4000, moved=1200)
    assert [progress_text(move, seconds=4.0) for move in (counting, begun, going)] == [
        "counting users",
        "0 / 1 user forgotten",
        "1200 / 4000 users moved, 300/s, 9 s left",
    ]


def test_an_outcome_names_everything_unusual() -> None:
    change = UsersChange(moved=1, kicked=0, timed_out=2, superseded=3, pinned=4, unpinned=5)
    assert counts_text(change) == (
        "1 user moved, 0 sessions ended, 2 timed out, "
        "3 moved elsewhere by another operator, 4 pinned users left, 5 users no longer pinned"
    )


def interrupted(director: Director, *arguments: str) -> tuple[int, str, str]:
    """Run a command and press Ctrl-C once the director has begun with it: exit code, output, errors."""
    command = subprocess.Popen(
        [*PROGRAM, "-S", director.where, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    jobs, polled = director.service.node.operations.jobs, list[str]()
    info = jobs.info
    jobs.info = lambda id: (polled.append(id), info(id))[1]
    until(lambda: polled and info(polled[0]).in_progress)
    command.send_signal(signal.SIGINT)
    output, errors = command.communicate(timeout=10)
    return command.returncode, output, errors


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("command", [("drain", "127.0.1.3"), ("tag", "127.0.1.3", "silver")])
def test_a_drain_or_another_tag_that_takes_the_last_usable_host_of_a_pool_warns(
    director: Director, command: tuple[str, ...], dry_run: tuple[str, ...]
) -> None:
    result = director(*command, *dry_run)
    name = " ".join(command)
    assert f"director: {name}: the pool gold has no usable host left: " in result.stderr


@pytest.mark.parametrize("command", [("drain", "127.0.1.1"), ("tag", "127.0.1.1", "gold")])
def test_a_drain_or_another_tag_of_a_host_that_is_not_stored_yet_says_so(
    director: Director, command: tuple[str, ...]
) -> None:
    director.service.node.store_fault = Fault.BEFORE
    assert "it is not stored yet" in director(*command).stderr
