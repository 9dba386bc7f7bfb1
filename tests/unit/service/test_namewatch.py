"""Names that are looked up again and again. The resolver is a table."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence

import anyio
import pytest

from director.service.resolution import namewatch
from director.service.resolution.namewatch import Answer, NameWatch
from state.resolver import Resolver
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Names:
    """A resolver whose table may be changed, a watch that asks it, and what the watch told."""

    def __init__(self, **table: str) -> None:
        self.table = {name: [address] for name, address in table.items()}
        self.hanging: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.told: list[Mapping[str, Answer]] = []
        self.watch = NameWatch(lambda: list(table), self.told.append, Resolver(self.resolve))

    def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name in self.hanging:
            assert self.hanging[name].wait(10)
        if name not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.table[name]

    async def resolve_all(self) -> Mapping[str, Answer]:
        await self.watch.resolve_all()
        return self.told[-1]


def look_ups() -> int:
    return sum(thread.name.startswith("look up ") for thread in threading.enumerate())


async def test_every_name_is_told_with_its_addresses_or_the_reason() -> None:
    names = Names(d1="10.0.0.1", d2="2001:DB8::1", d3="10.0.0.3", d4="nonsense", d5="0.0.0.0")
    names.table["d1"] = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
    del names.table["d3"]
    assert await names.resolve_all() == {
        "d1": ("10.0.0.1", "10.0.0.2"),
        "d2": ("2001:db8::1",),
        "d3": "Name or service not known",
        "d5": "0.0.0.0 is not the address of one machine",
        "d4": "'nonsense' does not appear to be an IPv4 or IPv6 address",
    }


async def test_an_empty_answer_is_none() -> None:
    names = Names(d1="10.0.0.1")
    names.table["d1"] = []
    assert await names.resolve_all() == {"d1": "it has no address"}


async def test_nothing_is_resolved_if_there_is_no_name() -> None:
    names = Names()
    await names.watch.resolve_all()
    assert (names.asked, names.told) == ([], [])


async def test_a_name_that_hangs_delays_no_other_and_is_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(namewatch, "TIMEOUT", 0.05)
    names = Names(d2="10.0.0.2", d3="10.0.0.3")
    names.hanging["d2"] = threading.Event()
    for _ in range(3):
        assert await names.resolve_all() == {"d2": "no answer within 0 s", "d3": ("10.0.0.3",)}
    assert sorted(names.asked) == ["d2", "d3", "d3", "d3"]
    assert look_ups() == 1
    names.hanging["d2"].set()
    await until(lambda: not look_ups())
    assert await names.resolve_all() == {"d2": ("10.0.0.2",), "d3": ("10.0.0.3",)}
    assert names.asked.count("d2") == 1  # its late answer was good enough


async def test_names_behind_many_that_hang_are_asked_for_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(namewatch, "TIMEOUT", 0.05)
    names = Names(**{f"d{i}": "10.0.0.2" for i in range(12)})
    names.hanging = {f"d{i}": threading.Event() for i in range(namewatch.AT_A_TIME)}
    late = "no answer within 0 s"
    assert set((await names.resolve_all()).values()) == {late}
    assert look_ups() == namewatch.AT_A_TIME
    told = await names.resolve_all()
    assert [name for name in told if told[name] == late] == list(names.hanging)
    for hanging in names.hanging.values():
        hanging.set()
    await until(lambda: not look_ups())


async def test_it_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namewatch, "EVERY", 0.02)
    monkeypatch.setattr(namewatch, "AT_MOST_EVERY", 0.01)
    names = Names(d2="10.0.0.2")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names.watch.run)
        await until(lambda: len(names.told) >= 3)
        tasks.cancel_scope.cancel()


async def test_it_looks_sooner_where_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namewatch, "EVERY", 3600.0)
    monkeypatch.setattr(namewatch, "AT_MOST_EVERY", 0.01)
    names = Names(d2="10.0.0.2")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names.watch.run)
        names.watch.soon()
        await until(lambda: len(names.told) == 1)
        names.watch.soon()
        await until(lambda: len(names.told) == 2)
        tasks.cancel_scope.cancel()
