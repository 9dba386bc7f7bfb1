"""Names of directors that get other addresses while the director runs. The resolver is a table."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

import anyio
import pytest

from director.service import resolving
from director.service.log import Log
from director.service.resolving import Resolving
from director.service.servers import is_named, read_directors
from tests.waiting import until

pytestmark = pytest.mark.anyio
ME = "10.0.0.1"


class Names:
    """A resolver whose table may be changed, a `Resolving` that asks it, and what that one told."""

    def __init__(self, *entries: str, **table: str) -> None:
        self.table = {name: [address] for name, address in table.items()}
        self.hanging: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.lines: list[str] = []
        listed = read_directors([ME, *entries], self.resolve, self._complain)
        self.asked.clear()
        me = next(endpoint for endpoint in listed if endpoint.address == ME)
        named = [(entry, endpoint) for endpoint, entry in listed.items() if is_named(entry)]
        log = Log(write=self.lines.append)
        self.resolving = Resolving(tuple(listed), named, me, self.told.append, log, self.resolve)

    @staticmethod
    def _complain(index: int, text: str) -> None:
        raise AssertionError(text)

    def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name in self.hanging:
            assert self.hanging[name].wait(10)
        if name not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.table[name]

    async def look(self) -> None:
        await self.resolving.look()

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f" event={event} " in line]


async def test_a_name_with_another_address_changes_the_members() -> None:
    names = Names("d2", "10.0.0.3:9191", d2="10.0.0.2")
    names.table["d2"] = ["10.0.0.22"]
    await names.look()
    assert names.told == [("10.0.0.1:9090", "10.0.0.22:9090", "10.0.0.3:9191")]
    assert names.resolving.members == names.told[0]


async def test_nothing_is_told_while_every_name_keeps_its_address() -> None:
    names = Names("d2", "d3:9191", d2="10.0.0.2", d3="10.0.0.3")
    await names.look()
    await names.look()
    assert names.asked == ["d2", "d3", "d2", "d3"]
    assert names.told == []
    assert names.lines == []


async def test_the_port_of_an_entry_stays() -> None:
    names = Names("d2:9191", d2="10.0.0.2")
    names.table["d2"] = ["10.0.0.5"]
    await names.look()
    assert names.told == [("10.0.0.1:9090", "10.0.0.5:9191")]


async def test_a_name_that_is_gone_keeps_its_address_and_is_logged_once_and_once_when_it_is_back() -> None:
    names = Names("d2", d2="10.0.0.2")
    before = names.table.pop("d2")
    await names.look()
    await names.look()
    assert names.told == []
    (line,) = names.logged("name_unresolved")
    assert "name=d2" in line
    assert "Name or service not known" in line
    assert "it stays 10.0.0.2:9090" in line
    names.table["d2"] = before
    await names.look()
    await names.look()
    assert len(names.logged("name_resolved")) == 1
    assert names.told == []


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["10.0.0.4", "10.0.0.5"], "has 2 addresses"),
        (["2001:db8::2"], "another address family"),
        (["0.0.0.0"], "not the address of one machine"),
        (["10.0.0.3"], "another entry's address"),
        (["10.0.0.1"], "another entry's address"),
        ([], "has no address"),
    ],
)
async def test_an_address_that_cannot_be_right_is_not_taken(addresses: list[str], reason: str) -> None:
    names = Names("d2", "10.0.0.3", d2="10.0.0.2")
    names.table["d2"] = addresses
    await names.look()
    assert reason in names.logged("name_unresolved")[0]
    assert names.told == []


async def test_two_names_may_change_places_and_that_is_no_change_of_the_ring() -> None:
    names = Names("d2", "d3", d2="10.0.0.2", d3="10.0.0.3")
    names.table |= {"d2": ["10.0.0.3"], "d3": ["10.0.0.2"]}
    await names.look()
    assert names.told == []
    assert names.resolving.members == ("10.0.0.1:9090", "10.0.0.3:9090", "10.0.0.2:9090")


async def test_two_names_that_become_one_address_both_keep_what_they_had() -> None:
    names = Names("d2", "d3", d2="10.0.0.2", d3="10.0.0.3")
    names.table |= {"d2": ["10.0.0.9"], "d3": ["10.0.0.9"]}
    await names.look()
    assert names.told == []
    assert len(names.logged("name_unresolved")) == 2


async def test_the_own_name_is_never_looked_up_again() -> None:
    table = {"d1": ["10.0.0.1"], "d2": ["10.0.0.2"]}
    listed = list(read_directors(table, table.__getitem__, Names._complain))
    told: list[tuple[str, ...]] = []
    named = list(zip(table, listed, strict=True))
    names = Resolving(listed, named, listed[0], told.append, Log(write=lambda line: None), table.__getitem__)
    table |= {"d1": ["10.0.0.7"], "d2": ["10.0.0.8"]}
    await names.look()
    assert told == [("10.0.0.1:9090", "10.0.0.8:9090")]


async def test_a_list_of_addresses_is_never_looked_up() -> None:
    names = Names("10.0.0.2")
    assert not names.resolving.needed
    with anyio.fail_after(5):
        await names.resolving.run()
    assert names.asked == []


async def test_a_resolver_that_hangs_is_given_up_and_no_second_thread_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "TIMEOUT", 0.05)
    names = Names("d2", "d3", d2="10.0.0.2", d3="10.0.0.3")
    names.table |= {"d2": ["10.0.0.22"], "d3": ["10.0.0.33"]}
    names.hanging["d3"] = threading.Event()
    for _ in range(5):
        await names.look()
    assert names.asked == ["d2", "d3"]
    assert sum(thread.name == "resolving" for thread in threading.enumerate()) == 1
    assert names.told == [("10.0.0.1:9090", "10.0.0.22:9090", "10.0.0.3:9090")]
    assert "no answer within" in names.logged("name_unresolved")[0]
    names.hanging["d3"].set()
    await until(lambda: not any(thread.name == "resolving" for thread in threading.enumerate()))
    await names.look()
    assert names.told[-1] == ("10.0.0.1:9090", "10.0.0.22:9090", "10.0.0.33:9090")
    assert names.logged("name_resolved")


async def test_it_looks_again_and_again_but_not_more_often_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "EVERY", 0.02)
    names = Names("d2", d2="10.0.0.2")
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names.resolving.run)
        await until(lambda: len(names.asked) >= 3)
        assert time.monotonic() >= began + 3 * 0.02
        tasks.cancel_scope.cancel()
