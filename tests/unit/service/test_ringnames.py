"""Directors of the ring whose names have other addresses while a director runs."""

from __future__ import annotations

import pytest

from director.core.protocol.events import Event, MembersListed
from director.service.configuration.servers import Endpoint, director_name
from director.service.log import Log
from director.service.resolution.namewatch import Answer
from director.service.resolution.ringnames import RingNames
from director.types import Address

ME = Endpoint(Address("10.0.0.1"), 9090)
GONE = "Name or service not known"


class Names:
    """The names of one director, who is `10.0.0.1` or, with `own`, the name d1; and what was told."""

    def __init__(self, *fixed: str, own: bool = False, **table: str | None) -> None:
        self.table: dict[str, Answer] = {}
        self.added: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.moved: list[str] = []
        self.local = {ME.address}
        self.lines: list[str] = []
        named = [(name, Endpoint(Address(at), 9090) if at else None) for name, at in table.items()]
        named += [("d1", ME)] if own else []
        self.table = {name: (end.address,) if end else GONE for name, end in named}
        servers = [ME, *(Endpoint(Address(address), 9090) for address in fixed)]
        servers += [endpoint for _, endpoint in named if endpoint and endpoint != ME]
        self.names = RingNames(
            servers,
            named,
            ME,
            self._handle,
            lambda now: self.moved.append(str(now)),
            Log(write=self.lines.append),
            lambda address: address in self.local,
        )

    def _handle(self, event: Event) -> None:
        assert isinstance(event, MembersListed)
        assert event == MembersListed(self.names.members, self.names.names)
        self.told.append(tuple(member.removesuffix(":9090") for member in event.members))

    def look(self, **table: str) -> None:
        for name, answer in table.items():
            self.table[name] = tuple(map(Address, answer.split())) if answer[0].isdigit() else answer
        self.names.answered({name: self.table.get(name, GONE) for name in self.names.hosts(self.added)})

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f" event={event} " in line]


def test_a_name_with_another_address_changes_the_members() -> None:
    names = Names("10.0.0.3", d2="10.0.0.2")
    names.look(d2="10.0.0.22")
    assert names.told == [("10.0.0.1", "10.0.0.3", "10.0.0.22")]
    assert names.names.names == {"d2:9090": "10.0.0.22:9090"}


def test_nothing_is_told_while_every_name_keeps_its_address() -> None:
    names = Names(d2="10.0.0.2", d3="10.0.0.3")
    names.look()
    names.look()
    assert (names.told, names.lines) == ([], [])


def test_a_name_that_is_gone_keeps_its_address_and_is_logged_once_and_once_when_it_is_back() -> None:
    names = Names(d2="10.0.0.2")
    names.look(d2=GONE)
    names.look()
    assert names.told == []
    (line,) = names.logged("name_unresolved")
    assert "name=d2:9090" in line
    assert "its address stays 10.0.0.2:9090" in line
    names.look(d2="10.0.0.2")
    names.look()
    assert len(names.logged("name_resolved")) == 1
    assert names.told == []


def test_a_name_that_could_not_be_resolved_at_the_start_comes_in_when_it_can() -> None:
    names = Names(d2=None, d3="10.0.0.3")
    names.look()
    assert (names.told, names.lines) == ([], [])  # that was said at the start
    names.look(d2="10.0.0.2")
    assert names.told == [("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    assert len(names.logged("name_resolved")) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("10.0.0.4 10.0.0.5", "has 2 addresses"),
        ("2001:db8::2", "another address family"),
        ("10.0.0.3", "also the address of another entry"),
        ("10.0.0.1", "also the address of another entry"),
    ],
)
def test_an_address_that_cannot_be_right_is_not_taken(answer: str, reason: str) -> None:
    names = Names("10.0.0.3", d2="10.0.0.2")
    names.look(d2=answer)
    assert reason in names.logged("name_unresolved")[0]
    assert names.told == []


def test_two_names_may_change_places() -> None:
    names = Names(d2="10.0.0.2", d3="10.0.0.3")
    names.look(d2="10.0.0.3", d3="10.0.0.2")
    assert names.told == [("10.0.0.1", "10.0.0.3", "10.0.0.2")]
    assert names.names.names == {"d2:9090": "10.0.0.3:9090", "d3:9090": "10.0.0.2:9090"}


def test_two_names_that_become_one_address_both_keep_what_they_had() -> None:
    names = Names(d2="10.0.0.2", d3="10.0.0.3")
    names.look(d2="10.0.0.9", d3="10.0.0.9")
    assert names.told == []
    assert len(names.logged("name_unresolved")) == 2


def test_a_name_may_have_the_address_of_one_that_is_down_and_the_other_is_out_until_it_is_back() -> None:
    names = Names(d2="10.0.0.2", d3="10.0.0.3")
    names.look(d2=GONE, d3="10.0.0.2")
    assert names.told == [("10.0.0.1", "10.0.0.2")]
    names.look(d2="10.0.0.3")
    assert names.told[-1] == ("10.0.0.1", "10.0.0.3", "10.0.0.2")


class OneAnswer(set[Address]):
    """Has what it holds when it is asked first, and nothing afterwards."""

    def __contains__(self, address: object) -> bool:
        found = super().__contains__(address)
        self.clear()
        return found


def test_the_own_name_with_another_address_is_told_once_the_old_one_is_gone() -> None:
    names = Names(own=True)
    assert names.names.own_name == "d1:9090"
    names.look(d1="10.0.0.7")
    assert names.moved == []  # not ours
    names.local = {Address("10.0.0.1"), Address("10.0.0.7")}
    names.look()
    assert names.moved == []  # we still have the old one
    names.local = OneAnswer([Address("10.0.0.7")])
    names.look()
    assert names.moved == []  # there was no descriptor to look with
    names.local = {Address("10.0.0.7")}
    names.look()
    assert names.moved == ["10.0.0.7:9090"]
    assert names.told == []


def test_a_director_that_was_added_by_name_is_looked_up_too_and_is_none_of_the_file() -> None:
    names = Names(d2="10.0.0.2")
    names.added.append("d4:9191")
    names.look(d4="10.0.0.4")
    assert names.told == [("10.0.0.1", "10.0.0.2")]
    assert names.names.names == {"d2:9090": "10.0.0.2:9090", "d4:9191": "10.0.0.4:9191"}


@pytest.mark.parametrize(
    ("entry", "name"),
    [("D2.Ring.", ("d2.ring", 9090)), ("d2:9191", ("d2", 9191)), ("10.0.0.1:9191", None), ("::1", None)],
)
def test_an_entry_is_known_by_name_and_port(entry: str, name: tuple[str, int] | None) -> None:
    assert director_name(entry) == name
