"""Admin commands and their replies, without sockets."""

from __future__ import annotations

import anyio
import pytest

from director.records import HostInfo, MemberInfo
from director.service.endpoints.admin import AdminHandler
from director.service.log import Log
from director.wire.admin import parse
from tests.conformance.fake_operations import FakeOperations

pytestmark = pytest.mark.anyio

HOSTS = [
    HostInfo(address="127.0.1.1", weight=100, up=True),
    HostInfo(address="127.0.1.2", weight=100, up=True),
]
USERS = [("alice", "127.0.1.1"), ("bob", "127.0.1.2")]


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations(
        HOSTS, USERS, [MemberInfo(address="127.0.0.1", port=0, kind="self", status="ring synced")]
    )


async def _replies(operations: FakeOperations, *lines: bytes) -> list[bytes]:
    handler = AdminHandler(operations, Log(write=lambda line: None))
    return [b"".join([piece async for piece in handler(parse(line))]) for line in lines]


async def test_lists_end_with_an_empty_line(operations: FakeOperations) -> None:
    assert await _replies(operations, b"HOST-LIST", b"HOST-LIST-REMOVED", b"USER-LIST", b"DIRECTOR-LIST") == [
        b"127.0.1.1\t100\t1\t\tU\t0\n127.0.1.2\t100\t1\t\tU\t0\n\n",
        b"\n",
        b"1669653170\t1795453314\t127.0.1.1\n2677887420\t1795453314\t127.0.1.2\n\n",
        b"127.0.0.1\t0\tself\t0\tring synced\t0\n\n",
    ]


async def test_users_are_listed_by_host_and_an_unknown_host_has_none(operations: FakeOperations) -> None:
    assert await _replies(operations, b"USER-LIST\t127.0.1.2", b"USER-LIST\t127.0.9.9") == [
        b"2677887420\t1795453314\t127.0.1.2\n\n",
        b"\n",
    ]


async def test_many_users_come_in_pieces() -> None:
    users = [(str(number), "127.0.1.1") for number in range(12_000)]
    handler = AdminHandler(FakeOperations(HOSTS, users), Log(write=lambda line: None))
    pieces = [piece async for piece in handler(parse(b"USER-LIST"))]
    assert [piece.count(b"\n") for piece in pieces] == [5000, 5000, 2000, 1]


async def test_a_user_is_looked_up_by_name_and_by_hash(operations: FakeOperations) -> None:
    assert await _replies(
        operations, b"USER-LOOKUP\tALICE\t", b"USER-LOOKUP\t1669653170\t", b"USER-LOOKUP\talice\tx"
    ) == [
        b"127.0.1.1\t1795453314\t127.0.1.1\t127.0.1.1\n",
        b"127.0.1.1\t1795453314\t127.0.1.1\t127.0.1.1\n",
        b"\t0\t\t\n",
    ]


async def test_a_name_that_cannot_be_hashed_is_answered_with_try_again(operations: FakeOperations) -> None:
    operations.hashable = False
    assert await _replies(operations, b"USER-LOOKUP\talice") == [b"TRYAGAIN\n"]


async def test_changes_are_made_and_answered_with_ok(operations: FakeOperations) -> None:
    assert (
        await _replies(
            operations,
            b"HOST-SET\t127.0.1.3@t1\t50",
            b"HOST-SET\t127.0.1.3",
            b"HOST-UPDATE\t127.0.1.1\t0",
            b"HOST-DOWN\t127.0.1.1",
            b"HOST-DOWN\t127.0.1.2",
            b"HOST-UP\t127.0.1.2",
            b"HOST-REMOVE\t127.0.1.2",
        )
        == [b"OK\n"] * 7
    )
    assert await _replies(operations, b"HOST-LIST", b"HOST-LIST-REMOVED") == [
        b"127.0.1.1\t0\t1\t\tD\t1795452414\n127.0.1.3\t50\t0\tt1\tU\t0\n\n",
        b"127.0.1.2\n\n",
    ]


@pytest.mark.parametrize(
    "line",
    [b"HOST-UPDATE\t127.0.9.9\t1", b"HOST-UP\t127.0.9.9", b"HOST-DOWN\t127.0.9.9", b"HOST-REMOVE\t127.0.9.9"],
)
async def test_an_unknown_host_is_answered_with_notfound(operations: FakeOperations, line: bytes) -> None:
    assert await _replies(operations, line) == [b"NOTFOUND\n"]


async def test_what_is_refused_is_answered_with_the_words_of_the_original(operations: FakeOperations) -> None:
    operations.busy.add("127.0.1.2")
    assert await _replies(
        operations,
        b"HOST-SET\t127.0.1.1\t1001",
        b"HOST-UPDATE\t127.0.9.9\t1001",
        b"HOST-SET\t127.0.1.1@t1",
        b"HOST-UPDATE\t127.0.1.1@t1\t5",
        b"HOST-SET\t127.0.1.2\t5",
    ) == [
        b"vhost count too large\n",
        b"vhost count too large\n",
        b"host tag can't be changed\n",
        b"host tag can't be changed\n",
        b"host is already being updated - try again later\n",
    ]


async def test_a_change_that_does_not_get_round_the_ring_is_answered_as_timed_out(
    operations: FakeOperations,
) -> None:
    operations.synced = False
    assert await _replies(operations, b"HOST-SET\t127.0.1.1\t5", b"HOST-LIST") == [
        b"Ring sync timed out\n",
        b"127.0.1.1\t100\t1\t\tU\t0\n127.0.1.2\t100\t1\t\tU\t0\n\n",
    ]


async def test_a_change_is_answered_only_when_every_director_has_it(operations: FakeOperations) -> None:
    operations.hold = anyio.Event()
    replies: list[bytes] = []

    async def change() -> None:
        replies.extend(await _replies(operations, b"HOST-SET\t127.0.1.1\t5"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change)
        await anyio.wait_all_tasks_blocked()
        before = list(replies)
        operations.hold.set()
    assert (before, replies) == ([], [b"OK\n"])


async def test_users_are_moved_by_name_and_by_hash(operations: FakeOperations) -> None:
    assert await _replies(
        operations, b"USER-MOVE\talice\t127.0.1.2", b"USER-MOVE\t2677887420\t127.0.1.1", b"USER-LIST"
    ) == [
        b"OK\n",
        b"OK\n",
        b"1669653170\t1795453314\t127.0.1.2\n2677887420\t1795453314\t127.0.1.1\n\n",
    ]


async def test_a_name_that_is_moved_is_hashed_without_what_follows_it(operations: FakeOperations) -> None:
    await _replies(operations, b"USER-MOVE\tnewuser\t127.0.1.2\textra")
    assert await _replies(operations, b"USER-LOOKUP\tnewuser") == [
        b"127.0.1.2\t1795453314\t127.0.1.1\t127.0.1.1\n"
    ]


async def test_a_user_who_is_being_moved_or_was_moved_by_another_is_answered_with_try_again(
    operations: FakeOperations,
) -> None:
    twice = await _replies(operations, b"USER-MOVE\talice\t127.0.1.2", b"USER-MOVE\talice\t127.0.1.1")
    operations.overtaken = True
    assert [*twice, *await _replies(operations, b"USER-MOVE\tbob\t127.0.1.1")] == [
        b"OK\n",
        b"TRYAGAIN\n",
        b"TRYAGAIN\n",
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"USER-MOVE\talice\t127.0.9.9",
        b"HOST-FLUSH\t127.0.9.9",
        b"HOST-RESET-USERS\t127.0.9.9",
        b"DIRECTOR-REMOVE\t127.0.0.77",
        b"DIRECTOR-REMOVE\t127.0.0.1\t9999",
    ],
)
async def test_what_is_not_there_is_answered_with_notfound(operations: FakeOperations, line: bytes) -> None:
    assert await _replies(operations, line) == [b"NOTFOUND\n"]


async def test_a_flush_moves_users_and_a_forced_one_forgets_them(operations: FakeOperations) -> None:
    await _replies(operations, b"HOST-UPDATE\t127.0.1.1\t0", b"HOST-RESET-USERS\t127.0.1.1")
    moved = await _replies(operations, b"USER-LIST\t127.0.1.2")
    assert await _replies(operations, b"HOST-FLUSH\t127.0.1.1", b"HOST-FLUSH", b"USER-LIST") == [
        b"OK\n",
        b"OK\n",
        b"\n",
    ]
    assert moved[0].count(b"\n") == 3


async def test_kicks_say_whose_sessions_as_the_client_did(operations: FakeOperations) -> None:
    assert (
        await _replies(operations, b"USER-KICK\talice", b"USER-KICK-ALT\tclass\tbeta\tnowait")
        == [b"OK\n"] * 2
    )
    assert operations.kicked == [("alice", None, None), (None, "class", "beta")]


async def test_only_a_kick_that_does_not_wait_is_answered_with_try_again(operations: FakeOperations) -> None:
    operations.kicking = True
    assert await _replies(
        operations,
        b"USER-KICK\talice\tnowait",
        b"USER-KICK-ALT\tclass\tbeta\tnowait",
        b"USER-KICK\talice",
    ) == [b"TRYAGAIN\n", b"TRYAGAIN\n", b"OK\n"]


async def test_a_director_is_added_any_number_of_times_and_removed_once(operations: FakeOperations) -> None:
    add, remove = b"DIRECTOR-ADD\t127.0.0.2\t9090", b"DIRECTOR-REMOVE\t127.0.0.2"
    assert await _replies(operations, add, add, remove, remove, add, b"DIRECTOR-LIST") == [
        b"OK\n",
        b"OK\n",
        b"OK\n",
        b"NOTFOUND\n",
        b"OK\n",
        b"127.0.0.1\t0\tself\t0\tring synced\t0\n127.0.0.2\t9090\t\t0\t\n\n",
    ]


async def test_directors_that_did_not_confirm_are_logged(operations: FakeOperations) -> None:
    operations.not_reached = ["127.0.0.2:9090", "127.0.0.3:9090"]
    assert await _logged(operations, b"USER-MOVE\talice\t127.0.1.2") == [
        "time=1970-01-01T00:00:00.000Z level=warning event=admin_command_not_everywhere command=UserMove "
        "not_reached=127.0.0.2:9090,127.0.0.3:9090\n"
    ]


async def test_what_an_operator_did_not_get_is_logged_without_the_user_name(
    operations: FakeOperations,
) -> None:
    operations.overtaken = True
    assert await _logged(operations, b"USER-MOVE\talice\t127.0.1.2") == [
        "time=1970-01-01T00:00:00.000Z level=warning event=admin_command_failed command=UserMove "
        'reason="another operator has moved the user to 127.0.1.4"\n'
    ]


async def _logged(operations: FakeOperations, line: bytes) -> list[str]:
    lines: list[str] = []
    handler = AdminHandler(operations, Log(write=lines.append, clock=lambda: 0.0))
    async for _ in handler(parse(line)):
        pass
    return lines
