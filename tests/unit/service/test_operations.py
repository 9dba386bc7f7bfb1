"""Asking a director, and changing it: one that stands alone, with its state in memory."""

from __future__ import annotations

import re
import time
from typing import Any

import anyio.lowlevel
import msgspec
import pytest

from director.cli.ring import WAITING_FOR
from director.core.placement.addresses import host_id
from director.core.placement.assign import Gate, Wait
from director.core.placement.names import entry
from director.core.placement.users import BUCKET_SHIFT, MOVING, User
from director.core.protocol.events import Lookup, MembersListed, TimerFired
from director.core.protocol.messages import Leaving
from director.core.ring.link import Neighbour
from director.core.ring.partition import Standing
from director.errors import BadRequest, Refused, UnknownName
from director.records import UserInfo, UsersChange
from director.service.operations import queries
from director.types import Address, LinkId, Now, RequestId, Stamp
from tests.unit.service.parts import EXPIRE, HOSTS, ME, OTHER, Node, key_of

pytestmark = pytest.mark.anyio


async def listed(node: Node, host: str | None = None, after: str = "") -> list[UserInfo]:
    return [user async for batch in node.operations.queries.users(host, after) for user in batch]


# ---- reading


async def test_the_status_shows_hosts_by_address_with_their_users(node: Node) -> None:
    for number in range(10):
        node.put(f"user{number}", HOSTS[0])
    node.put("other", HOSTS[2])
    node.put("expired", HOSTS[1], seen=int(time.time()) - EXPIRE - 1)
    status = await node.operations.queries.status()
    assert [(host.address, host.users) for host in status.hosts] == list(zip(HOSTS, [10, 0, 1], strict=True))
    assert status.users == 11
    assert status.me == ME
    assert status.store.up


async def test_the_status_of_a_user_names_the_present_the_hashed_and_the_configured_host(node: Node) -> None:
    node.put("alice", HOSTS[2], seen=1000 + int(time.time()) - EXPIRE)
    hashed = node.director.assigner.place(key_of("alice") >> 32, b"")
    status = node.operations.queries.user_status("Alice")
    assert status.current == HOSTS[2]
    assert status.expires is not None
    assert 999 <= status.expires - time.time() <= 1000
    assert hashed is not None
    assert status.hashed == status.configured == hashed.address


async def test_an_unassigned_user_has_no_present_host(node: Node) -> None:
    status = node.operations.queries.user_status("nobody")
    assert (status.current, status.expires) == (None, None)


async def test_a_number_means_the_hash_unless_it_is_to_be_a_name(node: Node) -> None:
    node.put("alice", HOSTS[2])
    number = str(key_of("alice") >> 32)
    assert node.operations.queries.user_status(number).current == HOSTS[2]
    assert node.operations.queries.user_status(number, numeric_is_hash=False).current is None


async def test_a_number_of_many_digits_is_a_name(node: Node) -> None:
    node.put("9" * 5000, HOSTS[2])
    assert node.operations.queries.user_status("9" * 5000).current == HOSTS[2]


async def test_the_configured_host_of_a_user_does_not_follow_operators(node: Node) -> None:
    before = node.operations.queries.user_status("alice")
    await node.operations.hosts.update(before.hashed or "", 0, reason="test")
    after = node.operations.queries.user_status("alice")
    assert after.configured == before.configured
    assert after.hashed != before.hashed


async def test_users_are_listed_in_order_in_batches_and_can_be_continued(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "BATCH", 10)
    for number in range(100):
        node.put(f"user{number}", HOSTS[number % 2])
    batches = [batch async for batch in node.operations.queries.users()]
    users = [user for batch in batches for user in batch]
    assert len(users) == 100
    assert len(batches) > 5
    assert [user.key for user in users] == sorted(user.key for user in users)
    assert await listed(node, after=users[40].key) == users[41:]
    assert len(await listed(node, HOSTS[1])) == 50
    assert await listed(node, "192.0.2.1") == []


async def test_an_address_that_is_none_is_refused_by_name(node: Node) -> None:
    with pytest.raises(BadRequest, match="'imap1' is not an IP address"):
        await listed(node, "imap1")


async def test_the_dump_rebuilds_what_operators_did(node: Node) -> None:
    await node.operations.hosts.update(HOSTS[0], 7, reason="test")
    await node.operations.hosts.set_up(HOSTS[1], up=False, reason="test")
    await node.operations.hosts.remove(HOSTS[2], reason="test")
    await node.operations.hosts.set("127.0.3.9", "gold", 5, reason="test")
    await node.operations.hosts.set_tag(HOSTS[1], "silver", reason="test")
    pins = (("o'brien", HOSTS[0], ""), ("12345", HOSTS[1], "silver"), ("-v", "127.0.3.9", "gold"))
    for name, host, tag in pins:
        await pinned(node, name, host, tag)
    commands = (await node.operations.queries.dump()).commands
    assert commands[:6] == [
        f"director add {HOSTS[0]} 7",
        f"director add {HOSTS[1]} 100",
        f"director tag {HOSTS[1]} silver",
        f"director down {HOSTS[1]}",
        "director add 127.0.3.9@gold 5",
        f"director remove {HOSTS[2]}",
    ]
    assert sorted(commands[6:]) == [
        f"""director pin --new 'o'"'"'brien' {HOSTS[0]}""",
        "director pin -t gold --new -- -v 127.0.3.9",
        f"director pin -t silver --new --name 12345 {HOSTS[1]}",
    ]
    assert node.operations.queries.removed_hosts() == [HOSTS[2]]


async def pinned(node: Node, user: str, host: str, tag: str = "") -> None:
    await node.operations.users.move(user, host, tag, numeric_is_hash=False, pin=True, reason="test")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, "the name is unknown"),
        (b"\xff", "no command can hold this name"),
        (b"a\nb", "no command can hold this name"),
    ],
)
async def test_a_pinned_user_that_no_command_can_name_is_a_comment_in_the_dump(
    node: Node, name: bytes | None, why: str
) -> None:
    await pinned(node, "alice", HOSTS[0])
    key = key_of("alice")
    node.director.names.sweep(key >> BUCKET_SHIFT, b"")
    if name is not None:
        node.director.names.add(entry(key, name))
    dump = await node.operations.queries.dump()
    assert dump.commands[3:] == [f"# pinned: user with hash {key >> 32} on {HOSTS[0]}, {why}"]


async def test_the_dump_leaves_out_pins_to_hosts_that_are_gone_and_users_who_are_only_placed(
    node: Node,
) -> None:
    await pinned(node, "alice", HOSTS[0])
    node.put("bob", HOSTS[1])
    await node.operations.hosts.remove(HOSTS[0], reason="test")
    assert [line for line in (await node.operations.queries.dump()).commands if "pin" in line] == []


async def test_the_ring_lists_every_configured_director_and_the_missing_directors() -> None:
    node = Node(members=[ME, OTHER])
    ring = node.operations.queries.ring()
    assert next((m.address, m.port, m.kind) for m in ring.members) == ("127.0.2.31", 9090, "self")
    assert (ring.ring, ring.missing, ring.synced) == ([ME], [OTHER], False)


async def test_a_director_that_said_good_bye_and_is_out_of_the_ring_is_shown_as_stopped() -> None:
    node = Node(members=[ME, OTHER])
    ring = node.director.ring
    other = Neighbour(LinkId(1), ring.identity, Address("127.0.2.32"), OTHER, b"", Now(0.0, 0.0))
    ring.presence.hear(Leaving(OTHER, 1), other, Now(0.0, 0.0))
    answer = node.operations.queries.ring()
    assert (answer.missing, answer.stopped) == ([OTHER], [OTHER])
    assert [member.status for member in answer.members][1:] == ["stopped"]


async def test_a_removed_director_says_so_and_is_not_ready() -> None:
    node = Node(members=[ME, OTHER])
    node.mailbox.handle(MembersListed((OTHER,), {}))
    assert node.operations.queries.ring().removed
    ready, why = node.operations.queries.ready()
    assert (ready, why.partition(":")[0]) == (False, "removed from the ring")
    assert f"`director ring add {ME}`" in why
    with (
        anyio.fail_after(5),
        pytest.raises(Refused, match="removed from the ring; run the command on a ring member"),
    ):
        await node.operations.users.move("alice", HOSTS[0], reason="test")


# ---- changing


async def test_a_change_is_made_stored_and_audited(node: Node) -> None:
    change = await node.operations.hosts.update(HOSTS[0], 7, reason="maintenance")
    assert change.host is not None
    assert (change.host.weight, change.stored, change.dry_run) == (7, True, False)
    with anyio.fail_after(5):
        while not (entries := await node.store.audit(10)):
            await anyio.lowlevel.checkpoint()
    assert [(e.what, e.target, e.reason) for e in entries] == [("update", HOSTS[0], "maintenance")]


async def test_a_dry_run_shows_what_would_be_and_changes_nothing(node: Node) -> None:
    change = await node.operations.hosts.set(HOSTS[0], None, 7, reason="", dry_run=True)
    assert change.host is not None
    assert (change.host.weight, change.dry_run) == (7, True)
    assert (await node.operations.queries.hosts())[0].weight == 100
    removed = await node.operations.hosts.remove(HOSTS[0], reason="", dry_run=True)
    assert removed.host is None
    assert len(await node.operations.queries.hosts()) == 3


async def test_a_change_that_takes_the_last_usable_host_of_a_pool_warns_and_is_made(node: Node) -> None:
    for host in HOSTS[:2]:
        assert (await node.operations.hosts.set_up(host, False, reason="")).warning == ""
    warning = "the pool without a tag has no usable host left: its new users wait 30 s and fail temporarily"
    for dry_run in (True, False):
        assert (
            await node.operations.hosts.set_up(HOSTS[2], False, reason="", dry_run=dry_run)
        ).warning == warning
    assert [host.up for host in await node.operations.queries.hosts()] == [False] * 3
    assert node.logged("pool_unusable")
    assert (await node.operations.hosts.remove(HOSTS[2], reason="")).warning == ""  # it was none before


async def test_without_a_usable_host_a_director_stays_ready(node: Node) -> None:
    """Assigned users are answered, and no other director could do better."""
    for host in HOSTS:
        await node.operations.hosts.set_up(host, False, reason="")
    assert node.operations.queries.ready() == (True, "ready")


@pytest.mark.parametrize(("host", "moved"), [(HOSTS[0], 0), (HOSTS[1], 1)])
async def test_a_dry_move_is_told_in_numbers_as_every_change_of_users(
    node: Node, host: str, moved: int
) -> None:
    node.put("alice", HOSTS[0])
    change = await node.operations.users.move("alice", host, reason="", dry_run=True)
    told = msgspec.json.decode(msgspec.json.encode(change), type=UsersChange)
    assert (told.moved, told.unchanged, told.dry_run, told.host) == (moved, 1 - moved, True, host)
    assert node.host("alice") == HOSTS[0]


async def test_users_of_a_host_that_is_down_stay_and_those_of_a_removed_one_are_placed_anew(
    node: Node,
) -> None:
    node.put("alice", HOSTS[0])
    await node.operations.hosts.set_up(HOSTS[0], up=False, reason="test")
    assert node.operations.queries.user_status("alice").current == HOSTS[0]
    await node.operations.hosts.remove(HOSTS[0], reason="test")
    assert node.operations.queries.user_status("alice").current is None


@pytest.mark.parametrize("dry_run", [False, True])
async def test_what_cannot_be_done_is_refused_the_same_way_in_a_dry_run(node: Node, dry_run: bool) -> None:
    ask = node.operations
    with pytest.raises(UnknownName):
        await ask.hosts.update("192.0.2.1", 7, reason="", dry_run=dry_run)
    with pytest.raises(BadRequest):
        await ask.hosts.set(HOSTS[0], None, 2**32, reason="", dry_run=dry_run)
    with pytest.raises(BadRequest):
        await ask.hosts.set_up("imap1", up=True, reason="", dry_run=dry_run)
    with pytest.raises(Refused):
        await ask.hosts.set(HOSTS[0], "gold", 7, reason="", dry_run=dry_run)


async def test_logins_without_a_usable_host_are_not_said_to_wait_for_the_ring(node: Node) -> None:
    for host in HOSTS:
        await node.operations.hosts.set_up(host, up=False, reason="")
    for number in range(3):
        node.mailbox.handle(Lookup(RequestId(number + 1), key_of(f"new{number}"), b"", b"new%d" % number))
    info = node.operations.queries.ring()
    assert (info.waiting_logins, info.waiting_for) == (3, {"host": 3})


async def test_a_login_that_goes_on_waiting_for_something_else_is_told_with_that(node: Node) -> None:
    for host in HOSTS:
        await node.operations.hosts.set_up(host, up=False, reason="")
    key = key_of("alice")
    node.mailbox.handle(Lookup(RequestId(1), key, b"", b"alice"))
    now = int(time.time())
    node.director.users.put(User(key, host_id(Address(HOSTS[0])), Stamp(now), now, MOVING))
    node.director.pending.wake_users([key])
    node.mailbox.handle(TimerFired())
    assert node.operations.queries.ring().waiting_for == {"move": 1}


async def test_every_reason_to_wait_has_a_word(node: Node) -> None:
    for number, wait in enumerate(Wait):
        login = Lookup(RequestId(number + 1), key_of("waits"), b"", b"waits")
        node.director.pending.add(login, 0.0, wait)
    info = node.operations.queries.ring()
    assert sum(info.waiting_for.values()) == info.waiting_logins == len(Wait)
    assert set(info.waiting_for) == set(WAITING_FOR) - {"majority"}


# ---- health and metrics


async def test_a_host_that_takes_no_new_users_is_not_up_in_the_metrics(node: Node) -> None:
    """The help of `director_host_up` says: gets new users."""
    await node.operations.hosts.update(HOSTS[0], 0, reason="")
    await node.operations.hosts.set_up(HOSTS[1], up=False, reason="")
    text = (await node.operations.metrics.page()).decode()
    assert "# HELP director_host_up 1 while a host gets new users: it is up and has a weight over 0\n" in text
    up = [re.search(rf'director_host_up{{host="{host}",tag=""}} (\S+)', text) for host in HOSTS]
    assert [match and match[1] for match in up] == ["0.0", "0.0", "1.0"]


async def test_it_is_ready_when_logins_are_answered_and_says_why_not(node: Node) -> None:
    assert node.operations.queries.alive()
    assert node.operations.queries.ready() == (True, "ready")
    node.director.assigner.gate = Gate.CLOSED
    assert node.operations.queries.ready()[0] is False
    node.director.assigner.gate = Gate.KNOWN
    node.director._partition.standing = Standing.WAIT
    assert node.operations.queries.ready() == (False, "on the minority side of a partition: new users wait")


async def test_a_ring_out_of_sync_for_a_moment_is_no_reason_to_be_taken_out_of_service(node: Node) -> None:
    node.director.barrier.synced = False
    node.director.barrier.waiting_since = time.monotonic() - 1
    assert node.operations.queries.ready()[0] is True
    node.director.barrier.waiting_since = time.monotonic() - 6
    assert node.operations.queries.ready()[0] is False


async def test_the_metrics_count_what_happened(node: Node) -> None:
    node.put("alice", HOSTS[0])
    node.counts.counts[("answered", "login")] = 3
    text = (await node.operations.metrics.page()).decode()
    found = dict(re.findall(r"^(director_\S+) (\S+)$", text, re.MULTILINE))
    assert found['director_lookups_total{protocol="login",result="answered"}'] == "3.0"
    assert found[f'director_host_users{{host="{HOSTS[0]}",tag=""}}'] == "1.0"
    assert found["director_store_up"] == "1.0"


@pytest.mark.shows("A-60")
@pytest.mark.parametrize(
    ("kick", "says"),
    [
        ({"hash": 1 << 32}, "a kick of the hash 4294967296"),
        ({"hash": -1}, "a kick of the hash -1"),
        ({"user": "x" * 70_000}, "a kick of a name of 70000 bytes"),
        ({"field": "f" * 256, "value": ""}, "a kick by a field of 256 characters, 0 bytes"),
        ({"field": "user_x", "value": "v" * 70_000}, "a kick by a field of 6 characters, 70000 bytes"),
    ],
)
async def test_a_kick_that_no_neighbour_takes_is_refused(node: Node, kick: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        await node.operations.users.kick(**kick, reason="test")


async def test_the_metrics_count_moves_kicks_and_how_long_those_took(node: Node) -> None:
    counters = node.director.counters
    counters.moves_done, counters.moves_superseded, counters.moves_timed_out = 5, 2, 1
    counters.kicks_done, counters.kicks_failed, counters.kicks_timed_out = 9, 4, 3
    counters.sessions_kicked, counters.near_rounds, counters.false_departures = 11, 6, 7
    node.director.kicks.durations.append(0.5)
    await node.operations.metrics.page()
    node.director.kicks.durations.append(0.25)
    text = (await node.operations.metrics.page()).decode()
    found = dict(re.findall(r"^(director_\S+) (\S+)$", text, re.MULTILINE))
    moves = [found[f'director_moves_total{{result="{one}"}}'] for one in ("moved", "superseded", "timed_out")]
    kicks = [found[f'director_kicks_total{{result="{one}"}}'] for one in ("done", "failed", "timed_out")]
    assert (moves, kicks) == (["5.0", "2.0", "1.0"], ["9.0", "4.0", "3.0"])
    assert found["director_sessions_kicked_total"] == "11.0"
    assert found["director_near_expiry_rounds_total"] == "6.0"
    assert found["director_ring_false_departures_total"] == "7.0"
    assert found["director_moves_in_progress"] == "0.0"
    assert found["director_kick_duration_seconds_count"] == "2.0"
    assert found["director_kick_duration_seconds_sum"] == "0.75"
