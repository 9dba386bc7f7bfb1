"""Users stay in their pool: what would change the record of another pool is refused, and the tag is named."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from director.core.placement.hashing import UserHash
from director.core.placement.users import PINNED
from director.core.protocol.events import HostChange
from director.errors import OperationError, Refused, UnknownName
from director.service.endpoints.admin import AdminHandler
from director.service.log import Log
from director.types import Address
from director.wire.admin import (
    Command,
    HostDown,
    HostFlush,
    HostRemove,
    HostResetUsers,
    HostSet,
    HostUpdate,
    UserMove,
    parse,
)
from tests.unit.service.parts import HOSTS, Node, key_of, running
from tests.waiting import until

pytestmark = pytest.mark.anyio

GOLD = "127.0.3.9"
GIVE_GOLD = f"{GOLD} is in the pool gold, the user in the pool without a tag: users stay in their pool; "


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """With the user alice on an untagged host, and a host tagged gold."""
    async with running(Node()) as node:
        await node.operations.hosts.set(GOLD, "gold", 100, reason="")
        node.put("alice", HOSTS[0])
        yield node


def records(node: Node) -> int:
    return len(node.director.users)


async def refusal(node: Node, user: str, host: str, tag: str | None = "", **options: bool) -> OperationError:
    before = records(node)
    with anyio.fail_after(5), pytest.raises(OperationError) as caught:
        await node.operations.users.move(user, host, tag, reason="", **options)
    assert (records(node), node.host("alice")) == (before, HOSTS[0])
    return caught.value


@pytest.mark.parametrize("options", [{}, {"pin": True}, {"new": False}, {"dry_run": True}])
async def test_a_user_without_a_tag_is_not_moved_to_a_host_of_another_pool(
    node: Node, options: dict[str, bool]
) -> None:
    refused = await refusal(node, "alice", GOLD, **options)
    assert isinstance(refused, Refused)
    assert str(refused) == f"{GIVE_GOLD}to move the user of the pool gold, give --tag gold"


async def test_a_move_that_is_only_started_is_refused_too(node: Node) -> None:
    with pytest.raises(Refused, match="give --tag gold"):
        await node.operations.users.move("alice", GOLD, pin=True, reason="", follow=True)


async def test_a_user_with_a_tag_is_not_moved_to_a_host_without_one(node: Node) -> None:
    refused = await refusal(node, "alice", HOSTS[1], "gold")
    assert str(refused).endswith("to move the user of the pool without a tag, give no tag")


async def test_a_hash_that_is_known_in_another_pool_only_is_not_moved(node: Node) -> None:
    hash32 = str(key_of("alice") >> 32)
    for tag in ("gold", None):
        assert "in the pool gold, the user in the pool without a tag" in str(
            await refusal(node, hash32, GOLD, tag)
        )


async def test_with_the_tag_the_user_of_that_pool_is_moved(node: Node) -> None:
    await node.operations.users.move("alice", GOLD, "gold", pin=True, reason="")
    with pytest.raises(
        UnknownName,
        match="alice: not pinned in the pool without a tag, but in the pool gold: give --tag gold",
    ):
        await node.operations.users.unpin("alice", reason="")
    await node.operations.users.unpin("alice", "gold", reason="")
    assert node.host("alice") == HOSTS[0]


async def test_a_hash_pinned_in_another_pool_is_not_unpinned(node: Node) -> None:
    await node.operations.users.move("bob", GOLD, "gold", pin=True, reason="")
    bob = UserHash().key(b"bob", b"gold")
    with pytest.raises(UnknownName, match="give --tag gold"):
        await node.operations.users.unpin(str(bob >> 32), reason="")
    record = node.director.users.get(bob)
    assert record is not None
    assert record.flags & PINNED


@pytest.mark.parametrize("user", ["alice", str(key_of("alice") >> 32)])
async def test_the_admin_protocol_which_has_no_tags_moves_no_user_of_another_pool(
    node: Node, user: str
) -> None:
    handler = AdminHandler(node.operations, Log(write=lambda line: None))
    before = records(node)
    reply = [piece async for piece in handler(UserMove(user, GOLD))]
    assert b"give --tag gold" in b"".join(reply)
    assert (records(node), node.host("alice")) == (before, HOSTS[0])


async def test_the_admin_protocol_moves_a_user_that_is_known_in_the_pool_of_the_host(node: Node) -> None:
    handler = AdminHandler(node.operations, Log(write=lambda line: None))
    await node.operations.hosts.set("127.0.3.10", "gold", 100, reason="")
    await node.operations.users.move("alice", GOLD, "gold", reason="")
    await until(lambda: not len(node.director.moves))
    assert [piece async for piece in handler(UserMove("alice", "127.0.3.10"))] == [b"OK\n"]
    assert node.host("alice") == HOSTS[0]


# ---- no host to move to

GOLD_USERS = ("gina", "gus", "guy")
REFUSED = "3 users would be left without a host: the pool gold has no other usable host"


@pytest.fixture
async def gold(node: Node) -> Node:
    """The same with three users on the only host of the pool gold."""
    for name in GOLD_USERS:
        await node.operations.users.move(name, GOLD, "gold", reason="")
    await until(lambda: not len(node.director.moves))
    return node


def hosts_of_gold(node: Node) -> list[str]:
    keys = [UserHash().key(name.encode(), b"gold") for name in GOLD_USERS]
    rows = [node.director.hosts.by_id(user.host) for user in map(node.director.users.get, keys) if user]
    return [row.address for row in rows if row is not None]


async def change(node: Node, what: str, **options: bool) -> object:
    operations = node.operations
    match what:
        case "remove":
            return await operations.hosts.remove(GOLD, reason="", **options)
        case "weight 0":
            return await operations.hosts.update(GOLD, 0, reason="", **options)
        case "add with weight 0":
            return await operations.hosts.set(GOLD, None, 0, reason="", **options)
        case "tag":
            return await operations.hosts.set_tag(GOLD, "silver", reason="", **options)
        case "tag, started":
            return await operations.hosts.set_tag(GOLD, "silver", reason="", **options, follow=True)
    await operations.hosts.set_up(GOLD, up=False, reason="")
    match what:
        case "flush":
            return await operations.users.flush(GOLD, reason="", **options)
        case "flush, started":
            return await operations.users.flush(GOLD, reason="", **options, follow=True)
        case "flush of all":
            return await operations.users.flush(None, reason="", **options)
    return await operations.users.rebalance("gold", None, reason="", **options)


CHANGES = [
    *("remove", "weight 0", "add with weight 0", "tag", "tag, started", "flush", "flush, started"),
    *("flush of all", "rebalance"),
]


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_that_leaves_users_without_a_host_is_refused_with_their_number(
    gold: Node, what: str
) -> None:
    with anyio.fail_after(5), pytest.raises(Refused, match=REFUSED):
        await change(gold, what)
    row = gold.director.hosts.get(Address(GOLD))
    assert row is not None
    assert (row.tag, row.weight) == ("gold", 100)
    assert hosts_of_gold(gold) == [GOLD] * 3


@pytest.mark.parametrize("what", ["remove", "weight 0", "tag", "flush"])
async def test_a_dry_run_is_refused_as_the_change_would_be(gold: Node, what: str) -> None:
    with pytest.raises(Refused, match=REFUSED):
        await change(gold, what, dry_run=True)


@pytest.mark.parametrize("what", [one for one in CHANGES if one != "rebalance"])
async def test_with_force_it_is_carried_out(gold: Node, what: str) -> None:
    with anyio.fail_after(10):
        await change(gold, what, force=True)


@pytest.mark.parametrize("what", CHANGES)
async def test_with_another_usable_host_in_the_pool_it_is_carried_out(gold: Node, what: str) -> None:
    await gold.operations.hosts.set("127.0.3.10", "gold", 100, reason="")
    with anyio.fail_after(10):
        await change(gold, what)


@pytest.mark.parametrize("what", CHANGES)
async def test_without_users_it_is_carried_out(node: Node, what: str) -> None:
    with anyio.fail_after(10):
        await change(node, what)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (HostRemove(Address(GOLD)), b"removal of 127.0.3.9: 3 users would be left"),
        (HostUpdate(Address(GOLD), 0), b"weight 0 of 127.0.3.9: 3 users would be left"),
        (HostSet(Address(GOLD), None, 0), b"weight 0 of 127.0.3.9: 3 users would be left"),
        (HostDown(Address(GOLD)), b"OK\n"),
        (HostFlush(Address(GOLD)), b"OK\n"),
    ],
)
async def test_the_admin_protocol_refuses_it_with_a_text_but_for_down_and_flush(
    gold: Node, command: Command, reply: bytes
) -> None:
    handler = AdminHandler(gold.operations, Log(write=lambda line: None))
    with anyio.fail_after(10):
        assert b"".join([piece async for piece in handler(command)]).startswith(reply)


@pytest.mark.parametrize("command", [HostRemove(Address(GOLD)), UserMove("alice", GOLD)])
async def test_doveadm_is_told_whose_options_a_refusal_advises(gold: Node, command: Command) -> None:
    handler = AdminHandler(gold.operations, Log(write=lambda line: None))
    reply = b"".join([piece async for piece in handler(command)])
    assert b" --" in reply
    assert reply.endswith(b": doveadm has no such option; use the command `director`\n")


@pytest.mark.parametrize("drained", [False, True])
async def test_a_dry_run_says_that_a_forced_removal_leaves_users_without_a_host(
    gold: Node, drained: bool
) -> None:
    if drained:
        await gold.operations.hosts.update(GOLD, 0, reason="", force=True)
    change = await gold.operations.hosts.remove(GOLD, reason="", dry_run=True, force=True)
    assert change.without_host
    await gold.operations.hosts.set("127.0.3.10", "gold", 100, reason="")
    assert not (await gold.operations.hosts.remove(GOLD, reason="", dry_run=True)).without_host


async def test_users_of_a_pool_without_hosts_are_not_reset_over_the_admin_protocol(gold: Node) -> None:
    handler = AdminHandler(gold.operations, Log(write=lambda line: None))
    await gold.operations.hosts.set_up(GOLD, up=False, reason="")
    reply = b"".join([piece async for piece in handler(HostResetUsers(Address(GOLD)))])
    assert reply.startswith(b"flush of 127.0.3.9: 3 users would be left without a host")


async def test_a_change_of_the_configuration_file_is_made_all_the_same(gold: Node) -> None:
    await gold.operations.hosts.apply(HostChange(0, Address(GOLD), remove=True), "configuration", "")
    assert gold.director.hosts.get(Address(GOLD)) is None
    assert gold.logged("pool_unusable")


# ---- an empty tag


@pytest.mark.parametrize("dry_run", [False, True])
async def test_an_empty_tag_given_for_a_host_that_has_a_tag_is_refused_as_any_other_tag(
    node: Node, dry_run: bool
) -> None:
    for tag in ("", "silver"):
        with pytest.raises(Refused, match="host tag can't be changed"):
            await node.operations.hosts.set(GOLD, tag, 50, reason="", dry_run=dry_run)
    row = node.director.hosts.get(Address(GOLD))
    assert row is not None
    assert (row.tag, row.weight) == ("gold", 100)
    for tag in (None, "gold"):
        await node.operations.hosts.set(GOLD, tag, 50, reason="", dry_run=dry_run)
    await node.operations.hosts.set(HOSTS[0], "", 50, reason="", dry_run=dry_run)


@pytest.mark.parametrize("command", [b"HOST-SET", b"HOST-UPDATE"])
async def test_an_empty_tag_over_the_admin_protocol_counts_as_not_given_as_in_dovecots_director(
    node: Node, command: bytes
) -> None:
    handler = AdminHandler(node.operations, Log(write=lambda line: None))
    line = parse(b"%b\t%b@\t50" % (command, GOLD.encode()))
    assert [piece async for piece in handler(line)] == [b"OK\n"]
    row = node.director.hosts.get(Address(GOLD))
    assert row is not None
    assert (row.tag, row.weight) == ("gold", 50)


async def test_another_tag_that_is_only_started_warns_of_the_pool_that_has_lost_its_last_host(
    node: Node,
) -> None:
    begun = await node.operations.hosts.set_tag(GOLD, "silver", reason="", follow=True)
    assert begun.change is not None
    assert begun.change.warning.startswith("the pool gold has no usable host left: ")


async def test_the_audit_counts_the_pins_that_a_removal_by_the_configuration_file_drops(gold: Node) -> None:
    await gold.operations.users.move("gina", GOLD, "gold", pin=True, reason="")
    await gold.operations.hosts.apply(HostChange(0, Address(GOLD), remove=True), "remove", "the file")
    await until(lambda: not gold.persistence.core.steps.audit)
    (entry,) = [one for one in await gold.store.audit(50) if (one.what, one.reason) == ("remove", "the file")]
    assert entry.detail.endswith(" unpinned=1")
