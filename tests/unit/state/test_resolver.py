from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from state import resolver as module
from state.resolver import Resolver, addresses_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


class NameServer:
    """A name server that answers about the name `gone` only after `answer` is set. It records the
    requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answer = threading.Event()

    def __call__(self, name: str) -> Sequence[str]:
        self.requests.append(name)
        if name == "gone":
            self.answer.wait()
            raise OSError("no such name")
        return ["10.0.0.1"]


@pytest.fixture
def server() -> NameServer:
    return NameServer()


async def given_up(resolver: Resolver, name: str) -> bool:
    with anyio.move_on_after(0) as scope:
        await resolver.addresses(name)
    return scope.cancelled_caught


def threads(name: str) -> int:
    return sum(thread.name == f"look up {name}" for thread in threading.enumerate())


async def test_names_are_answered_while_any_number_of_look_ups_wait_for_a_silent_name_server(
    server: NameServer,
) -> None:
    resolver = Resolver(server)
    tries = [await given_up(resolver, "gone") for _ in range(20)]
    assert await resolver.addresses("here") == ["10.0.0.1"]
    server.answer.set()
    assert all(tries)
    assert server.requests == ["gone", "here"]


async def test_a_look_up_without_a_free_thread_fails_and_the_next_look_up_is_made(
    server: NameServer,
) -> None:
    resolver = Resolver(server)
    threading.stack_size(1 << 47)  # more than a process can have
    try:
        with pytest.raises(OSError, match="here: can't start new thread"):
            await resolver.addresses("here")
    finally:
        threading.stack_size(0)
    assert not resolver.is_asking("here")
    assert await resolver.addresses("here") == ["10.0.0.1"]


async def test_all_tasks_that_wait_for_a_name_get_the_answer_of_one_look_up(server: NameServer) -> None:
    resolver = Resolver(server)
    failures: list[str] = []

    async def ask() -> None:
        try:
            await resolver.addresses("gone")
        except OSError as exc:
            failures.append(str(exc))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        server.answer.set()
    assert failures == ["no such name"] * 3
    assert server.requests == ["gone"]


async def test_the_answer_of_an_abandoned_look_up_goes_to_the_next_task_that_asks(server: NameServer) -> None:
    resolver = Resolver(server)
    await given_up(resolver, "gone")
    server.answer.set()
    with pytest.raises(OSError, match="no such name"):
        await resolver.addresses("gone")
    assert server.requests == ["gone"]


async def test_an_answer_that_came_when_no_task_waited_goes_to_the_next_task_that_asks(
    server: NameServer,
) -> None:
    resolver = Resolver(server)
    await given_up(resolver, "gone")
    server.answer.set()
    await until(lambda: not threads("gone"))
    with pytest.raises(OSError, match="no such name"):
        await resolver.addresses("gone")
    assert server.requests == ["gone"]


async def test_an_old_answer_that_no_task_waited_for_is_not_used(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", -1.0)
    resolver = Resolver(server)
    await given_up(resolver, "gone")
    server.answer.set()
    await until(lambda: not threads("gone"))
    await anyio.lowlevel.checkpoint()  # the thread's result is in the loop's queue
    await resolver.addresses("here")
    assert not resolver.is_asking("gone")
    with pytest.raises(OSError, match="no such name"):
        await resolver.addresses("gone")
    assert server.requests == ["gone", "here", "gone"]


async def test_a_name_is_looked_up_again_after_each_answer(server: NameServer) -> None:
    resolver = Resolver(server)
    await resolver.addresses("here")
    await resolver.addresses("here")
    assert server.requests == ["here", "here"]


async def test_an_address_needs_no_name_server(server: NameServer) -> None:
    assert await Resolver(server).addresses("2001:DB8::1") == ["2001:db8::1"]
    assert server.requests == []


async def test_the_system_resolver_gives_each_address_once() -> None:
    assert addresses_of("127.0.0.1") == ["127.0.0.1"]


async def test_an_impossible_name_is_an_os_error() -> None:
    with pytest.raises(OSError, match="label"):
        await Resolver(addresses_of).addresses("x" * 70)
