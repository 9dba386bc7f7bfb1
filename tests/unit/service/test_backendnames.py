"""Which hosts the names of `backends.mail_servers` stand for, as time goes by."""

from __future__ import annotations

from director.core.tables.hosts import BackendSetting
from director.service.configuration.config import BackendsConfig
from director.service.log import Log
from director.service.resolution.backendnames import BackendNames
from director.service.resolution.namewatch import Answer
from director.types import Address

GONE = "Name or service not known"


class Names:
    """The names of a file with the host 10.1.0.1, and what was told."""

    def __init__(self, **table: str | None) -> None:
        self.told: list[list[str]] = []
        self.lines: list[str] = []
        self.names = BackendNames(config(**table), Log(write=self.lines.append))
        self.table: dict[str, Answer] = {name: (Address(at),) if at else GONE for name, at in table.items()}

    def hosts(self) -> list[str]:
        """Name and address of each, `?` for one that is not known."""
        settings, unresolved = self.names.hosts()
        found = [f"{one.hostname}{'=' if one.hostname else ''}{one.address}" for one in settings]
        return sorted(found) + [f"{one.hostname}=?" for one in unresolved]

    def look(self, **table: str) -> None:
        for name, answer in table.items():
            self.table[name] = tuple(map(Address, answer.split())) if answer[0].isdigit() else answer
        changed = self.names.changed
        self.names.answered(self.table)
        if changed.is_set():
            assert not self.names.changed.is_set()
            self.told.append(self.hosts())

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f" event={event} " in line]


def config(**table: str | None) -> BackendsConfig:
    fixed = BackendSetting(Address("10.1.0.1"), "", "", 100)
    found = [BackendSetting(Address(at), name, "", 100) for name, at in table.items() if at]
    names = tuple(BackendSetting(Address(""), name, "", 100) for name in table)
    return BackendsConfig(mail_servers=(fixed, *found), names=names)


def test_nothing_is_told_while_all_is_as_it_was() -> None:
    names = Names(imap="10.1.0.2", pool=None)
    names.look()
    assert (names.told, names.lines) == ([], [])
    assert names.hosts() == ["10.1.0.1", "imap=10.1.0.2", "pool=?"]


def test_another_address_is_reported() -> None:
    names = Names(imap="10.1.0.2")
    names.look(imap="10.1.0.9")
    assert names.told == [["10.1.0.1", "imap=10.1.0.9"]]


def test_a_name_that_is_gone_keeps_what_it_had_and_is_logged_once_and_once_when_it_is_back() -> None:
    names = Names(imap="10.1.0.2")
    names.look(imap=GONE)
    names.look()
    assert names.told == []
    (line,) = names.logged("name_unresolved")
    assert "name=imap" in line
    assert "its address stays 10.1.0.2" in line
    names.look(imap="10.1.0.2")
    names.look()
    assert len(names.logged("name_resolved")) == 1


def test_a_name_that_could_not_be_resolved_at_the_start_comes_in_when_it_can() -> None:
    names = Names(imap=None)
    names.look(imap="10.1.0.2 10.1.0.3")
    assert names.told == [["10.1.0.1", "imap=10.1.0.2", "imap=10.1.0.3"]]


def test_a_name_that_can_be_resolved_has_the_address_that_an_unresolved_name_had() -> None:
    names = Names(one="10.1.0.2", two="10.1.0.3")
    names.look(one=GONE, two="10.1.0.2")
    assert names.hosts() == ["10.1.0.1", "two=10.1.0.2", "one=?"]
    names.look(one="10.1.0.3")
    assert names.hosts() == ["10.1.0.1", "one=10.1.0.3", "two=10.1.0.2"]


def test_a_file_that_is_read_while_a_name_cannot_be_resolved_keeps_what_was_known() -> None:
    names = Names(imap="10.1.0.2")
    names.names.set_config(config(imap=None, new="10.1.0.4"))
    assert names.hosts() == ["10.1.0.1", "imap=10.1.0.2", "new=10.1.0.4"]
    names.names.set_config(config(new="10.1.0.4"))
    assert names.hosts() == ["10.1.0.1", "new=10.1.0.4"]
