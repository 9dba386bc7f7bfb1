"""The login relay by itself: a core that is asked nothing, and a mailbox whose reader is the test."""

from __future__ import annotations

import pytest

from director.core.director import Director
from director.core.placement.assign import Gate
from director.core.protocol.events import Dropped, Event, Lookup, ProcessStalled, Seen
from director.core.ring.link import Identity
from director.core.tables.hosts import BackendSetting, HostTable
from director.net.login import Relay
from director.net.ringlink import RingLink
from director.service import loopwatch
from director.service.log import Log
from director.service.loginrelay import LoginRelay
from director.service.loopwatch import LoopWatch
from director.service.mailbox import Mailbox
from director.service.metrics import LookupCounts
from director.service.ringsockets import RingSockets
from director.types import Address, LinkId, RequestId
from director.wire import hotpath
from tests.twins import NAMES, hot_path
from tests.unit.service.parts import DEFAULTS, EXPIRE, HASH, HOSTS, ME, Node, bucket_of, key_of
from tests.unit.service.test_driver import Recorder, ok, perhaps, turn
from tests.unit.service.test_loopwatch import Clock
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Setting:
    """A login relay with two clients, which reads its own mailbox."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.turns = 0
        """Turns of the loop that were to be ended."""
        self.lines: list[str] = []
        log = Log(write=self.lines.append)
        assigner = hotpath.Assigner(hotpath.UserTable(EXPIRE), HASH)
        table = HostTable([BackendSetting(Address(host), "", "", 100) for host in HOSTS])
        identity = Identity(ME, 1, "%Lu", EXPIRE, b"", 1.0, 5.0, 2.0)
        self.director = Director(identity, [ME], table, assigner, hotpath.NameTable(), DEFAULTS)
        assigner.gate = Gate.OPEN
        self.mailbox = mailbox = Mailbox()
        self.ring = RingSockets(self.director, mailbox.handle, log, None, lambda: None)
        self.watch, self.counts = LoopWatch(assigner, mailbox.handle), LookupCounts()
        self.relay = LoginRelay(self.director, mailbox, self.watch, self.ring, self.counts, log)
        mailbox.read_by(self)
        self.written: list[tuple[str, bytes]] = []
        relay = Relay("login", "/nowhere", False, self.relay)
        self.one, self.two = Recorder(relay, "one", self.written), Recorder(relay, "two", self.written)

    def read(self) -> None:
        self.events.extend(self.mailbox.events)
        self.mailbox.events.clear()

    def end_turn(self) -> None:
        self.turns += 1
        self.relay.write_late()

    def close_gate(self) -> None:
        self.director.assigner.gate = Gate.CLOSED

    def add_link(self) -> None:
        self.ring.links[LinkId(7)] = RingLink(LinkId(7), self.ring)

    def requests(self) -> list[RequestId]:
        return [event.request for event in self.events if isinstance(event, Lookup)]

    def logged(self, event: str) -> list[str]:
        return [line for line in self.lines if f"event={event} " in line]


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_without_neighbours_a_login_is_answered_before_the_turn_ends(setting: Setting) -> None:
    setting.relay.lines(setting.one, b"FAIL\t1\n" + ok(2, "alice"))
    (name, data), *others = setting.written
    assert (name, others) == ("one", [])
    assert data.startswith(b"FAIL\t1\n" + ok(2, "alice")[:-1] + b"\tproxy_refresh=")
    assert (setting.turns, setting.events) == (0, [])
    assert setting.counts.counts == {("answered", "login"): 1}


async def test_without_neighbours_one_turn_ends_for_the_new_users_of_some_time(setting: Setting) -> None:
    for number in range(10):
        setting.relay.lines(setting.one, ok(number, f"user{number}"))
    await turn()
    assert setting.turns == 0
    await until(lambda: setting.turns)
    assert setting.turns == 1


async def test_with_neighbours_a_new_user_is_answered_when_the_turn_has_ended(setting: Setting) -> None:
    setting.add_link()
    setting.relay.lines(setting.one, ok(1, "alice"))
    setting.relay.lines(setting.two, b"NOTE\n")
    assert setting.written == []
    await turn()
    assert [name for name, _ in setting.written] == ["one", "two"]
    assert setting.turns == 1


async def test_with_neighbours_lines_without_new_users_are_answered_at_once(setting: Setting) -> None:
    setting.add_link()
    setting.relay.lines(setting.one, b"FAIL\t1\n")
    assert setting.written == [("one", b"FAIL\t1\n")]
    await turn()
    assert setting.turns == 0


async def test_an_undecided_login_becomes_an_event_and_is_answered_by_its_number(setting: Setting) -> None:
    setting.close_gate()
    first = setting.mailbox.new_request()
    setting.relay.lines(setting.one, ok(1, "alice") + ok(2, "bob"))
    assert setting.events == [
        Lookup(RequestId(first + 1), key_of("alice"), b"", b"alice"),
        Lookup(RequestId(first + 2), key_of("bob"), b"", b"bob"),
    ]
    assert setting.relay.held_lines() == {setting.one: [ok(1, "alice")[:-1], ok(2, "bob")[:-1]]}
    backend = setting.director.assigner.place(key_of("bob") >> 32, b"")
    assert backend is not None
    setting.relay.answered(RequestId(first + 2), key_of("bob"), backend)
    ((name, line),) = setting.written
    assert name == "one"
    assert line.startswith(ok(2, "bob")[:-1])
    assert b"\thost=%b" % backend.address.encode() in line
    setting.relay.answered(RequestId(first + 2), key_of("bob"), backend)
    setting.relay.answered(first, key_of("bob"), backend)
    assert len(setting.written) == 1, "answered already, and asked by another part"
    assert setting.counts.counts == {("waited", "login"): 2, ("answered_later", "login"): 1}


@pytest.mark.parametrize("twin", NAMES)
async def test_the_name_of_a_login_that_waited_for_the_gate_is_known_once_it_is_answered(
    twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, made_of in hot_path(twin)._asdict().items():
        monkeypatch.setattr(hotpath, name, made_of)
    node, written = Node(), list[tuple[str, bytes]]()
    client = Recorder(Relay("login", "/nowhere", False, node.logins), "one", written)
    node.logins.lines(client, ok(1, "alice"))
    assert (written, node.director.names.names(bucket_of("alice"))) == ([], {})
    node.start()
    ((_, line),) = written
    assert line.startswith(ok(1, "alice")[:-1] + b"\tproxy_refresh=")
    assert node.director.names.names(bucket_of("alice")) == {key_of("alice"): "alice"}
    node.driver.stop()


async def test_the_requests_of_a_client_that_has_gone_are_dropped_with_its_answers(setting: Setting) -> None:
    setting.close_gate()
    setting.relay.lines(setting.one, ok(1, "alice"))
    setting.relay.lines(setting.two, ok(1, "bob"))
    alice, bob = setting.requests()
    setting.relay.client_gone(setting.one)
    dropped = [event for event in setting.events if isinstance(event, Dropped)]
    assert [list(event.requests) for event in dropped] == [[alice]]
    setting.relay.refused(alice, "no hosts")
    setting.relay.refused(bob, "no hosts")
    assert [name for name, _ in setting.written] == ["two"]
    events = len(setting.events)
    setting.relay.client_gone(setting.two)
    assert len(setting.events) == events, "it waited for nothing any more"


async def test_a_refused_login_fails_temporarily_and_auth_forgets_a_user_it_took_for_local(
    setting: Setting,
) -> None:
    setting.close_gate()
    setting.relay.lines(setting.one, perhaps(1, "alice"))
    setting.relay.refused(setting.requests()[0], "no hosts")
    assert setting.written == [("one", b"FAIL\t1\tcode=temp_fail\n"), ("auth of one", b"CANCEL\t1\n")]
    assert setting.counts.counts == {("waited", "login"): 1, ("refused", "login"): 1}
    assert "user=alice" in setting.logged("login_refused")[0]


async def test_a_login_too_many_is_refused_without_the_core(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.service.heldlogins.CONNECTION_LIMIT", 1)
    setting.close_gate()
    setting.relay.lines(setting.one, ok(1, "alice") + ok(2, "bob"))
    assert len(setting.events) == 1
    assert setting.written == [("one", b"FAIL\t2\tcode=temp_fail\n")]
    assert setting.director.counters.waiting_refused == 1


async def test_a_stall_is_told_to_the_core_before_the_login_that_found_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(loopwatch, "time", clock)
    setting.watch.check()
    setting.events.clear()
    setting.close_gate()
    clock.now += 3
    setting.relay.lines(setting.one, ok(1, "alice"))
    assert [type(event) for event in setting.events] == [ProcessStalled, Lookup]


async def test_users_that_login_processes_report_are_unescaped_and_told_to_the_core(setting: Setting) -> None:
    setting.relay.names_seen([b"a\x01tb", b"carl"])
    assert setting.events == [Seen([b"a\tb", b"carl"])]
    await turn()
    assert setting.turns == 0, "the table has not changed"


async def test_auth_that_comes_and_goes_is_logged_at_each_change(setting: Setting) -> None:
    for _ in range(3):
        setting.relay.auth_unreachable("/auth", "gone")
    for _ in range(3):
        setting.relay.auth_reached("/auth")
    assert len(setting.logged("auth_unreachable")) == 1
    assert len(setting.logged("auth_reachable")) == 1


async def test_what_a_broken_writer_can_repeat_is_logged_a_few_times_only(setting: Setting) -> None:
    for _ in range(100):
        setting.relay.notify_skipped(2000)
        setting.relay.line_too_long("/auth", 16384)
    assert len(setting.logged("notify_line_too_long")) == 5
    assert len(setting.logged("auth_line_too_long")) == 5
