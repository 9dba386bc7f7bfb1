"""Admin commands and their replies, without sockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import anyio
import pytest

from director.core.protocol.events import HostChange
from director.core.protocol.kicktypes import ByField, ByName
from director.core.settings import Settings
from director.errors import TryAgain
from director.service.endpoints.admin import AdminHandler
from director.service.log import Log
from director.types import MemberId
from director.wire.admin import parse
from tests.unit.service.parts import Node, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

ONE, TWO = "127.0.1.1", "127.0.1.2"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """alice is on ONE, bob on TWO."""
    settings = Settings(kick_delay=0.0, max_parallel_kicks=1, remember_names=True)
    node = Node(me=MemberId("127.0.0.1:9090"), hosts=[ONE, TWO], settings=settings, proxied=())
    async with running(node):
        node.put("alice", ONE)
        node.put("bob", TWO)
        yield node


async def _replies(node: Node, *lines: bytes) -> list[bytes]:
    """Times are T."""
    handler = AdminHandler(node.operations, Log(write=lambda line: None))
    replies = [b"".join([piece async for piece in handler(parse(line))]) for line in lines]
    return [re.sub(rb"\t1[0-9]{9}(?=[\t\n])", b"\tT", reply) for reply in replies]


async def test_lists_end_with_an_empty_line(node: Node) -> None:
    assert await _replies(node, b"HOST-LIST", b"HOST-LIST-REMOVED", b"USER-LIST", b"DIRECTOR-LIST") == [
        b"127.0.1.1\t100\t1\t\tU\t0\n127.0.1.2\t100\t1\t\tU\t0\n\n",
        b"\n",
        b"1669653170\tT\t127.0.1.1\n2677887420\tT\t127.0.1.2\n\n",
        b"127.0.0.1\t9090\tself\t0\tring synced\t0\n\n",
    ]


async def test_users_are_listed_by_host_and_an_unknown_host_has_none(node: Node) -> None:
    assert await _replies(node, b"USER-LIST\t127.0.1.2", b"USER-LIST\t127.0.9.9") == [
        b"2677887420\tT\t127.0.1.2\n\n",
        b"\n",
    ]


async def test_many_users_come_in_pieces(node: Node) -> None:
    for number in range(5998):
        node.put(f"user{number}", ONE)
    handler = AdminHandler(node.operations, Log(write=lambda line: None))
    rows = [piece.count(b"\n") async for piece in handler(parse(b"USER-LIST"))]
    assert (sum(rows), rows[-1]) == (6001, 1)
    assert 5 <= len(rows) <= 7


async def test_a_user_is_looked_up_by_name_and_by_hash(node: Node) -> None:
    assert await _replies(
        node, b"USER-LOOKUP\tALICE\t", b"USER-LOOKUP\t1669653170\t", b"USER-LOOKUP\talice\tx"
    ) == [
        b"127.0.1.1\tT\t127.0.1.1\t127.0.1.1\n",
        b"127.0.1.1\tT\t127.0.1.1\t127.0.1.1\n",
        b"\t0\t\t\n",
    ]


async def test_a_name_that_cannot_be_hashed_is_answered_with_try_again(node: Node) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise TryAgain("username_hash has an unknown variable")

    node.operations.queries.user_status = unknown
    assert await _replies(node, b"USER-LOOKUP\talice") == [b"TRYAGAIN\n"]


async def test_changes_are_made_and_answered_with_ok(node: Node) -> None:
    assert (
        await _replies(
            node,
            b"HOST-SET\t127.0.1.3@t1\t50",
            b"HOST-SET\t127.0.1.3",
            b"HOST-UPDATE\t127.0.1.1\t0",
            b"HOST-DOWN\t127.0.1.1",
            b"HOST-DOWN\t127.0.1.2",
            b"HOST-UP\t127.0.1.2",
            b"HOST-FLUSH\t127.0.1.2",
            b"HOST-REMOVE\t127.0.1.2",
        )
        == [b"OK\n"] * 8
    )
    assert await _replies(node, b"HOST-LIST", b"HOST-LIST-REMOVED") == [
        b"127.0.1.1\t0\t1\t\tD\tT\n127.0.1.3\t50\t0\tt1\tU\t0\n\n",
        b"127.0.1.2\n\n",
    ]


@pytest.mark.parametrize(
    "line",
    [b"HOST-UPDATE\t127.0.9.9\t1", b"HOST-UP\t127.0.9.9", b"HOST-DOWN\t127.0.9.9", b"HOST-REMOVE\t127.0.9.9"],
)
async def test_an_unknown_host_is_answered_with_notfound(node: Node, line: bytes) -> None:
    assert await _replies(node, line) == [b"NOTFOUND\n"]


async def test_refusals_have_the_texts_of_dovecots_director(node: Node) -> None:
    refused = await _replies(
        node,
        b"HOST-SET\t127.0.1.1\t1001",
        b"HOST-UPDATE\t127.0.9.9\t1001",
        b"HOST-SET\t127.0.1.1@t1",
        b"HOST-UPDATE\t127.0.1.1@t1\t5",
        b"HOST-LIST",
    )
    node.faults.errors[HostChange] = TryAgain("host is already being updated - try again later")
    assert [*refused, *await _replies(node, b"HOST-SET\t127.0.1.2\t5")] == [
        b"vhost count too large\n",
        b"vhost count too large\n",
        b"host tag can't be changed\n",
        b"host tag can't be changed\n",
        b"127.0.1.1\t100\t1\t\tU\t0\n127.0.1.2\t100\t1\t\tU\t0\n\n",
        b"host is already being updated - try again later\n",
    ]


async def test_a_change_that_does_not_get_round_the_ring_is_answered_as_timed_out(
    node: Node,
) -> None:
    node.faults.errors[HostChange] = TryAgain("Ring sync timed out")
    assert await _replies(node, b"HOST-SET\t127.0.1.1\t5", b"HOST-LIST") == [
        b"Ring sync timed out\n",
        b"127.0.1.1\t100\t1\t\tU\t0\n127.0.1.2\t100\t1\t\tU\t0\n\n",
    ]


async def test_a_change_is_answered_only_when_every_director_has_it(node: Node) -> None:
    node.faults.hold = anyio.Event()
    replies: list[bytes] = []

    async def change() -> None:
        replies.extend(await _replies(node, b"HOST-SET\t127.0.1.1\t5"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change)
        await anyio.wait_all_tasks_blocked()
        before = list(replies)
        node.faults.hold.set()
    assert (before, replies) == ([], [b"OK\n"])


async def test_users_are_moved_by_name_and_by_hash(node: Node) -> None:
    assert await _replies(
        node, b"USER-MOVE\talice\t127.0.1.2", b"USER-MOVE\t2677887420\t127.0.1.1", b"USER-LIST"
    ) == [
        b"OK\n",
        b"OK\n",
        b"1669653170\tT\t127.0.1.2\n2677887420\tT\t127.0.1.1\n\n",
    ]


async def test_a_name_that_is_moved_is_hashed_without_what_follows_it(node: Node) -> None:
    await _replies(node, b"USER-MOVE\tnewuser\t127.0.1.2\textra")
    assert await _replies(node, b"USER-LOOKUP\tnewuser") == [b"127.0.1.2\tT\t127.0.1.1\t127.0.1.1\n"]


async def test_a_user_who_is_being_moved_or_was_moved_by_another_is_answered_with_try_again(
    node: Node,
) -> None:
    node.director.set_limits(Settings(kick_delay=60.0))
    twice = await _replies(node, b"USER-MOVE\talice\t127.0.1.2", b"USER-MOVE\talice\t127.0.1.1")
    node.faults.counts = {"superseded": 1}
    assert [*twice, *await _replies(node, b"USER-MOVE\tbob\t127.0.1.1")] == [
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
async def test_what_is_not_there_is_answered_with_notfound(node: Node, line: bytes) -> None:
    assert await _replies(node, line) == [b"NOTFOUND\n"]


async def test_a_flush_moves_users_and_a_forced_one_forgets_them(node: Node) -> None:
    await _replies(node, b"HOST-UPDATE\t127.0.1.1\t0", b"HOST-RESET-USERS\t127.0.1.1")
    moved = await _replies(node, b"USER-LIST\t127.0.1.2")
    assert await _replies(node, b"HOST-FLUSH\t127.0.1.1", b"HOST-FLUSH", b"USER-LIST") == [
        b"OK\n",
        b"OK\n",
        b"\n",
    ]
    assert moved[0].count(b"\n") == 3


async def test_kicks_say_whose_sessions_as_the_client_did(node: Node) -> None:
    assert await _replies(node, b"USER-KICK\talice", b"USER-KICK-ALT\tclass\tbeta\tnowait") == [b"OK\n"] * 2
    assert [kick.what for kick in node.faults.asked] == [ByName(b"alice"), ByField("class", b"beta")]
    assert [kick.wait for kick in node.faults.asked] == [True, False]


async def test_only_a_kick_that_does_not_wait_is_answered_with_try_again(node: Node) -> None:
    waiting: list[bytes] = []

    async def wait() -> None:
        waiting.extend(await _replies(node, b"USER-KICK\tbob"))

    node.sessions.ends = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: node.faults.asked)
        refused = await _replies(node, b"USER-KICK\talice\tnowait", b"USER-KICK-ALT\tclass\tbeta\tnowait")
        node.sessions.end_all()
    assert (refused, waiting) == ([b"TRYAGAIN\n"] * 2, [b"OK\n"])


async def test_a_director_is_added_any_number_of_times_and_removed_once(node: Node) -> None:
    add, remove = b"DIRECTOR-ADD\t127.0.0.2\t9090", b"DIRECTOR-REMOVE\t127.0.0.2"
    assert await _replies(node, add, add, remove, remove, add, b"DIRECTOR-LIST") == [
        b"OK\n",
        b"OK\n",
        b"OK\n",
        b"NOTFOUND\n",
        b"OK\n",
        b"127.0.0.1\t9090\tself\t0\tring synced\t0\n127.0.0.2\t9090\t\t0\t\n\n",
    ]


async def test_directors_that_did_not_confirm_are_logged(node: Node) -> None:
    node.faults.counts = {"not_reached": ["127.0.0.2:9090", "127.0.0.3:9090"]}
    assert await _logged(node, b"USER-MOVE\talice\t127.0.1.2") == [
        "time=1970-01-01T00:00:00.000Z level=warning event=admin_command_unconfirmed command=UserMove "
        "not_reached=127.0.0.2:9090,127.0.0.3:9090 "
        'note="sessions there end when these directors are back; run director ring status"\n'
    ]


async def test_what_an_operator_did_not_get_is_logged_without_the_user_name(
    node: Node,
) -> None:
    node.faults.counts = {"superseded": 1}
    assert await _logged(node, b"USER-MOVE\talice\t127.0.1.2") == [
        "time=1970-01-01T00:00:00.000Z level=warning event=admin_command_failed command=UserMove "
        'reason="another operator has moved the user to 127.0.1.2"\n'
    ]


async def _logged(node: Node, line: bytes) -> list[str]:
    lines: list[str] = []
    handler = AdminHandler(node.operations, Log(write=lines.append, clock=lambda: 0.0))
    async for _ in handler(parse(line)):
        pass
    return lines
