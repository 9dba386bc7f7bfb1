from __future__ import annotations

import threading

import anyio
import pytest

from state.lookups import NameLookups, has_address

pytestmark = pytest.mark.anyio


class NameServer:
    """Says nothing of the name `gone` until it is told to; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = threading.Event()

    def __call__(self, host: str) -> None:
        self.asked.append(host)
        if host == "gone":
            self.answer.wait()
            raise OSError("no such name")


@pytest.fixture
def server() -> NameServer:
    return NameServer()


async def given_up(lookups: NameLookups, host: str) -> bool:
    with anyio.move_on_after(0) as scope:
        await lookups.resolved(host)
    return scope.cancelled_caught


async def test_names_are_answered_while_any_number_of_tries_wait_for_one_that_is_not(
    server: NameServer,
) -> None:
    lookups = NameLookups(server)
    tries = [await given_up(lookups, "gone") for _ in range(20)]
    await lookups.resolved("here")
    server.answer.set()
    assert all(tries)
    assert server.asked == ["gone", "here"]


async def test_the_answer_to_a_look_up_that_was_given_up_is_for_the_next_who_asks(server: NameServer) -> None:
    lookups = NameLookups(server)
    await given_up(lookups, "gone")
    server.answer.set()
    with pytest.raises(OSError, match="no such name"):
        await lookups.resolved("gone")
    assert server.asked == ["gone"]


async def test_a_name_is_asked_for_anew_after_each_answer(server: NameServer) -> None:
    lookups = NameLookups(server)
    await lookups.resolved("here")
    await lookups.resolved("here")
    assert server.asked == ["here", "here"]


async def test_what_is_no_name_at_all_is_an_error_of_the_system_not_of_the_program() -> None:
    with pytest.raises(OSError, match="label"):
        await NameLookups(has_address).resolved("x" * 70)
