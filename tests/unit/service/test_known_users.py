"""Unassigned users in commands: refused, or assigned if the operator says that they are new."""

from __future__ import annotations

import time

import anyio
import pytest

from director.errors import OperationError, Refused, TryAgain, UnknownName
from director.records import UsersChange
from tests.unit.service.parts import EXPIRE, HOSTS, ME, OTHER, Node, key_of

pytestmark = pytest.mark.anyio


async def refusal(node: Node, user: str, *, new: bool = False, dry_run: bool = False) -> OperationError:
    with anyio.fail_after(5), pytest.raises(OperationError) as caught:
        await node.operations.users.move(user, HOSTS[1], new=new, reason="", dry_run=dry_run)
    return caught.value


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_mistyped_user_is_not_placed(node: Node, dry_run: bool) -> None:
    node.put("alice", HOSTS[0])
    refused = await refusal(node, "alcie", dry_run=dry_run)
    assert isinstance(refused, UnknownName)
    assert "alcie: no such user is assigned; check the name, or give --new" in str(refused)
    assert node.host("alcie") is None


async def test_a_user_whose_assignment_has_expired_is_not_assigned(node: Node) -> None:
    node.put("alice", HOSTS[0], seen=int(time.time()) - EXPIRE - 1)
    assert isinstance(await refusal(node, "alice"), UnknownName)


async def test_a_user_of_a_removed_host_is_not_assigned(node: Node) -> None:
    node.put("alice", HOSTS[0])
    await node.operations.hosts.remove(HOSTS[0], reason="")
    assert isinstance(await refusal(node, "alice"), UnknownName)


async def test_a_host_given_as_a_user_is_named_as_a_host(node: Node) -> None:
    assert str(await refusal(node, HOSTS[0])) == f"{HOSTS[0]}: no such user: it is a backend host"


async def test_a_user_may_be_known_to_a_store_that_is_still_being_read() -> None:
    node = Node()
    node.start()
    node.director._startup.begin()
    assert node.director.loading
    refused = await refusal(node, "alice")
    assert isinstance(refused, TryAgain)
    assert "the store is still being read" in str(refused)


@pytest.mark.parametrize(("new", "kind"), [(False, UnknownName), (True, Refused)])
async def test_an_unassigned_hash_is_refused_with_the_reason(
    node: Node, new: bool, kind: type[OperationError]
) -> None:
    refused = await refusal(node, "12345", new=new)
    assert type(refused) is kind
    assert "a new assignment needs the name, not the hash" in str(refused)
    assert "with --name if 12345 is one" in str(refused)


async def test_the_hash_of_an_assigned_user_moves_that_user(node: Node) -> None:
    node.put("alice", HOSTS[0])
    done = await node.operations.users.move(str(key_of("alice") >> 32), HOSTS[1], new=False, reason="")
    assert (done.moved, node.host("alice")) == (1, HOSTS[1])


async def test_unpinning_an_unassigned_hash_is_refused_like_unpinning_a_user_without_a_pin(
    node: Node,
) -> None:
    with pytest.raises(UnknownName, match="12345: not pinned"):
        await node.operations.users.unpin("12345", reason="")


# ---- kicks


async def kicked(node: Node, user: str, *, dry_run: bool = False, name: bool = False) -> UsersChange:
    with anyio.fail_after(5):
        return await node.operations.users.kick(
            user=user, numeric_is_hash=not name, reason="", dry_run=dry_run
        )


async def test_a_kick_of_an_unassigned_user_says_that_the_user_is_unassigned(node: Node) -> None:
    node.sessions.users = ()
    node.put("alice", HOSTS[0])
    assert [(await kicked(node, user)).known for user in ("alice", "Alice", "alcie")] == [True, True, False]
    assert not (await kicked(node, "12345")).known


async def test_sessions_of_a_user_who_is_not_remembered_are_ended_and_the_user_is_known(node: Node) -> None:
    node.sessions.users = ["alice", "alice"]
    done = await kicked(node, "alice")
    assert (done.kicked, done.known) == (2, True)


async def test_a_number_to_kick_is_the_hash_of_a_user_or_with_a_word_a_name(node: Node) -> None:
    node.sessions.users = ["alice", "1234"]
    node.put("alice", HOSTS[0])
    assert (await kicked(node, str(key_of("alice") >> 32))).kicked == 1
    assert (await kicked(node, "1234")).kicked == 0
    assert (await kicked(node, "1234", name=True)).kicked == 1


async def test_a_dry_kick_of_a_director_alone_counts_what_it_would_end(node: Node) -> None:
    node.sessions.users = ["alice", "alice", "bob"]
    node.put("alice", HOSTS[0])
    would = await kicked(node, "alice", dry_run=True)
    assert (would.kicked, would.counted, would.not_counted, would.dry_run) == (2, 2, [], True)


async def test_a_dry_kick_without_a_kick_channel_counts_nothing_and_says_where(node: Node) -> None:
    node.put("alice", HOSTS[0])
    would = await kicked(node, "alice", dry_run=True)
    assert (would.kicked, would.counted, would.not_counted) == (None, 0, [ME])


# ---- dry runs


async def test_dry_runs_of_a_tag_and_a_removal_count_the_users_of_the_host(node: Node) -> None:
    for number in range(3):
        node.put(f"user{number}", HOSTS[0])
    node.put("other", HOSTS[1])
    tagged = await node.operations.hosts.set_tag(HOSTS[0], "gold", reason="", dry_run=True)
    removed = await node.operations.hosts.remove(HOSTS[0], reason="", dry_run=True)
    for change in (tagged, removed):
        assert change.users is not None
        assert (change.users.moved, change.users.kicked, change.users.dry_run) == (3, None, True)
    assert (await node.operations.hosts.set_tag(HOSTS[0], "", reason="", dry_run=True)).users is None
    assert [host.users for host in await node.operations.queries.hosts()] == [3, 1, 0]


async def test_a_dry_run_of_a_flush_counts_pinned_users_apart(node: Node) -> None:
    away = next(host for host in HOSTS if host != node.operations.queries.user_status("alice").hashed)
    await node.operations.users.move("alice", away, pin=True, reason="")
    would = await node.operations.users.flush(away, reason="", dry_run=True)
    assert (would.moved, would.unchanged, would.pinned, would.kicked) == (0, 0, 1, None)
    assert (await node.operations.users.forget(away, reason="", dry_run=True)).moved == 1


async def test_a_dry_run_of_ring_changes_lists_the_ring_as_it_would_be() -> None:
    node = Node(members=[ME, OTHER])
    would = await node.operations.ring.remove("127.0.2.32", None, reason="", dry_run=True)
    assert (would.ring, would.missing) == ([ME], [])
    assert [member.address for member in would.members] == ["127.0.2.31"]
    with_third = await node.operations.ring.add("127.0.2.33", None, reason="", dry_run=True)
    assert with_third.missing == [OTHER, "127.0.2.33:9090"]
    assert (await node.operations.ring.add("127.0.2.32", None, reason="", dry_run=True)).missing == [OTHER]
    assert node.operations.queries.ring().missing == [OTHER]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_only_director_is_not_removed_because_logins_would_be_refused(
    node: Node, dry_run: bool
) -> None:
    address = node.director.me.partition(":")[0]
    with pytest.raises(Refused, match="the only director of the ring: it would refuse all logins"):
        await node.operations.ring.remove(address, None, reason="", dry_run=dry_run)
    assert node.director.members.listed() == [node.director.me]


async def test_a_pinned_user_is_shown_as_pinned(node: Node) -> None:
    await node.operations.users.move("alice", HOSTS[0], pin=True, reason="")
    node.put("bob", HOSTS[0])
    pinned = [user for user in ("alice", "bob", "eve") if node.operations.queries.user_status(user).pinned]
    assert pinned == ["alice"]
