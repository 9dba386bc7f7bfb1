"""The persistence core, event by event, on a store in memory that fails when it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest

from director.core.director import Director
from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.names import entry as name_entry
from director.core.placement.users import BUCKET_SHIFT, User, pack
from director.core.protocol.events import (
    BucketsRead,
    ClaimFailed,
    Event,
    IdentityChanged,
    Leases,
    Persisted,
    Started,
    StoreOpened,
)
from director.core.protocol.transitions import WrongTransition
from director.core.ring.link import Identity
from director.core.settings import Settings
from director.core.tables.hosts import BackendSetting, HostTable
from director.stored.bucketwriter import NAMES_AT_ONCE
from director.stored.connection import TRANSITIONS, ConnectionState, StoreConnection
from director.stored.pace import PREPARED_BYTES, RETRY_LONGEST, BackOff, Clock
from director.stored.persistence import PersistenceCore
from director.stored.procedures import AUDIT_QUEUE, OPEN_WITHIN, StoreSetup
from director.stored.runner import Runner
from director.stored.storecalls import (
    AppendAudit,
    Ask,
    Call,
    Drop,
    LoadBuckets,
    Note,
    Opened,
    OpenStore,
    Pause,
    Procedure,
    ReadBuckets,
    ReadDocument,
    ReadLeases,
    ReadRunId,
    ReadVersions,
    ReleaseLease,
    RenewLease,
    Signal,
    Stopped,
    StoreEffect,
    SwapBuckets,
    SwapDocument,
    Tell,
    Wait,
)
from director.stored.storeevents import (
    Abort,
    AuditAdded,
    BucketsChanged,
    ClaimAsked,
    Open,
    PersistAsked,
    Run,
    SecretsChanged,
    Stop,
    StoreAnswered,
    StoreEvent,
    StoreFailed,
    TimeReached,
)
from director.stored.storeidentity import CLUSTER, cluster_of, decode
from director.types import Address, MemberId, Now, Stamp, UserKey
from director.wire.hotpath import Assigner, NameTable, UserTable
from state.base import AuditEntry, StoreUnavailable
from tests.simulation.store import Store

ME, OTHER = MemberId("127.0.0.1:9090"), MemberId("127.0.0.2:9090")
HOSTS = [Address("127.0.1.1"), Address("127.0.1.2")]
EXPIRE = 60
UNIX = 1_700_000_000
LEASE_TTL = 3.0
WRITES = (SwapBuckets, SwapDocument)


class Life:
    """One director with its core, on a store. Calls are answered at once, unless they are held."""

    def __init__(self, store: Store, me: MemberId = ME, *, members: Sequence[MemberId] = (ME, OTHER)) -> None:
        self.store, self.now = store, 100.0
        self.calls: list[Call] = []
        self.told: list[Event] = []
        self.logged: list[str] = []
        self.ended: list[Opened | Stopped] = []
        self.hold: tuple[type[Call], ...] = ()
        """Kinds of calls that are not answered."""
        self.held: list[Ask] = []
        self.dropped: list[int] = []
        self.users = UserTable(EXPIRE)
        identity = Identity(me, 1, "%Lu", EXPIRE, b"secret", 1.0, 5.0, 2.0)
        hosts = HostTable([BackendSetting(host, "", "", 100) for host in HOSTS])
        assigner = Assigner(self.users, UserHash())
        self.director = Director(identity, members, hosts, assigner, NameTable(), Settings())
        setup = StoreSetup(
            url="memory:",
            shared=store.shared,
            has_snapshot=False,
            lease_ttl=LEASE_TTL,
            incarnation=1,
            ping_timeout=5.0,
            place="",
        )
        self.core = PersistenceCore(self.director, setup, lambda low, high: high)

    def feed(self, *events: StoreEvent) -> Life:
        """Events in a row, with all that follows at once."""
        todo: list[StoreEvent] = list(events)
        turns = 0
        while todo:
            for effect in self.core.handle(todo.pop(0), Now(self.now, UNIX + self.now)):
                todo += self._carried_out(effect)
            turns += 1
            assert turns < 10_000, "an endless loop in one moment"
        return self

    def _carried_out(self, effect: StoreEffect) -> Iterable[StoreEvent]:
        match effect:
            case Ask(number, Tell(event)):
                self._tell(event)
                return [StoreAnswered(number, None)]
            case Ask(_, call):
                if isinstance(call, Note):
                    self.logged.append(call.log.event)
                elif not isinstance(call, Pause):
                    self.calls.append(call)
                if not isinstance(call, self.hold):
                    return [self._answer(effect)]
                self.held.append(effect)
            case Tell(event):
                self._tell(event)
            case Note(line):
                self.logged.append(line.event)
            case Drop(number):
                self.dropped.append(number)
            case Opened() | Stopped():
                self.ended.append(effect)
        return []

    def _answer(self, ask: Ask) -> StoreAnswered | StoreFailed:
        if isinstance(ask.call, Note | Pause):
            return StoreAnswered(ask.number, None)
        try:
            return StoreAnswered(ask.number, self.store.carry_out(ask.call, self.now))
        except StoreUnavailable as exc:
            return StoreFailed(ask.number, exc)

    def answer_held(self) -> Life:
        """Answer the calls that were held; others like them are held."""
        held, self.held = self.held, []
        return self.feed(*map(self._answer, held))

    def _tell(self, event: Event) -> None:
        self.told.append(event)
        self.director.handle(event, Now(self.now, UNIX + self.now))

    def run(self, seconds: float) -> Life:
        until = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.feed(TimeReached())
        self.now = until
        return self

    def open(self) -> Life:
        self.feed(Open()).run(0)
        self.director.handle(Started(), Now(self.now, UNIX + self.now))
        return self

    def start(self) -> Life:
        """Opened, loaded, and at rest."""
        return self.open().feed(Run()).run(2)

    def put(self, name: str, host: Address = HOSTS[0], decided: int = UNIX) -> UserKey:
        key = key_of(name)
        self.users.put(User(key, host_id(host), Stamp(decided), decided, 0))
        self.feed(BucketsChanged())
        return key

    def kinds(self) -> list[type[Call]]:
        return [type(call) for call in self.calls]

    @property
    def state(self) -> ConnectionState:
        return self.core.connection.state


def key_of(name: str) -> UserKey:
    return UserHash().key(name.encode())


def write_elsewhere(store: Store, name: str, host: Address, decided: int = UNIX) -> UserKey:
    """Another director has written a user into a bucket that holds no other user."""
    key = key_of(name)
    store.buckets["users"][key >> BUCKET_SHIFT] = pack([User(key, host_id(host), Stamp(decided), decided, 0)])
    return key


def of(kind: type[Call] | tuple[type[Call], ...], calls: Iterable[Call]) -> list[Call]:
    return [call for call in calls if isinstance(call, kind)]


# ---- the states


def test_a_connection_changes_only_as_its_table_allows() -> None:
    for before in ConnectionState:
        for after in ConnectionState:
            connection = StoreConnection("memory:")
            connection.state = before
            if after in TRANSITIONS[before]:
                connection.enter(after)
            else:
                with pytest.raises(WrongTransition):
                    connection.enter(after)


def test_a_store_that_answers_is_loading_then_connected_and_closed_at_the_end() -> None:
    life = Life(Store(shared=True))
    assert life.state is ConnectionState.CLOSED
    assert life.open().state is ConnectionState.LOADING
    assert life.core.is_up
    assert not life.core.loaded
    assert life.feed(Run()).run(1).state is ConnectionState.CONNECTED
    assert life.core.loaded
    assert life.feed(Abort(), Stop()).run(0).state is ConnectionState.CLOSED
    assert life.ended == [Opened(None), Stopped()]


def test_each_kind_of_error_is_logged_once_until_the_store_is_back() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    store.up = False
    life.put("alice")
    life.run(30)
    assert life.state is ConnectionState.DISCONNECTED
    assert life.logged.count("store_unreachable") == 1
    assert life.core.connection.errors["write"] > 5
    store.up = True
    life.run(5)
    assert life.state is ConnectionState.CONNECTED
    assert life.logged.count("store_reachable") == 1
    store.up = False
    life.put("bob")
    life.run(5)
    assert life.logged.count("store_unreachable") == 2


# ---- the start


def test_the_own_lease_is_written_before_the_leases_of_the_others_are_read() -> None:
    life = Life(Store(shared=True)).open()
    kinds = life.kinds()
    first = kinds.index(RenewLease)
    assert ReadLeases in kinds[first:]
    assert [e.holders for e in life.told if isinstance(e, Leases)] == [frozenset({ME})]


def test_the_director_is_told_that_loading_begins_before_it_may_rely_on_the_store() -> None:
    life = Life(Store(shared=True)).open()
    kinds = [type(event) for event in life.told]
    assert kinds.index(StoreOpened) < kinds.index(Leases)
    assert life.director.loading


def test_a_store_that_is_unreachable_at_the_start_is_joined_later() -> None:
    store = Store(shared=True)
    theirs = write_elsewhere(store, "alice", HOSTS[1])
    store.up = False
    life = Life(store).open()
    assert life.state is ConnectionState.DISCONNECTED
    assert life.ended == [Opened(None)]
    assert Leases(None) in life.told
    life.put("bob")
    store.up = True
    life.feed(Run()).run(3)
    assert life.users.get(theirs) is not None
    assert {key_of("alice"), key_of("bob")} <= set(store.users)


def test_a_store_that_does_not_answer_at_the_start_is_given_up_after_five_seconds() -> None:
    life = Life(Store(shared=True))
    life.hold = (ReadDocument,)
    life.feed(Open()).run(OPEN_WITHIN - 0.1)
    assert life.ended == []
    life.run(0.2)
    assert life.ended == [Opened(None)]
    assert life.state is ConnectionState.DISCONNECTED
    assert len(life.dropped) == 1


def test_an_answer_to_a_call_that_was_dropped_is_ignored() -> None:
    life = Life(Store(shared=True))
    life.hold = (ReadDocument,)
    life.feed(Open()).run(OPEN_WITHIN + 0.1)
    before = list(life.calls)
    life.feed(StoreAnswered(life.dropped[0], None), StoreFailed(life.dropped[0], StoreUnavailable("", "")))
    assert life.calls == before


def test_logins_do_not_wait_for_a_store_that_ends_while_it_is_loaded() -> None:
    store = Store(shared=True)
    life = Life(store).open()
    life.hold = (LoadBuckets,)
    life.feed(Run()).run(0.1)
    assert life.director.loading
    store.up = False
    life.run(2)
    assert BucketsRead(None) in life.told
    assert not life.director.loading
    assert life.state is ConnectionState.DISCONNECTED
    assert not life.core.loaded


def test_the_store_is_asked_a_few_times_a_second_while_it_is_loaded_though_a_move_waits() -> None:
    """Symptom: an endless loop, in which only documents were written and the move stayed due."""
    life = Life(Store(shared=True)).open()
    life.hold = (LoadBuckets,)
    life.feed(Run()).run(0.5)
    life.feed(PersistAsked(1, [0]))
    before = len(life.calls)
    life.run(1)
    assert len(life.calls) - before < 50


# ---- read, merge, then write


def test_on_the_return_of_the_store_everything_is_read_before_anything_is_written() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    store.up = False
    life.put("bob")
    life.run(1)
    theirs = write_elsewhere(store, "alice", HOSTS[1])
    store.up = True
    del life.calls[:]
    life.run(4)
    kinds = life.kinds()
    opened = kinds.index(OpenStore, kinds.index(ReadRunId) - 1 if kinds[0] is not OpenStore else 0)
    first_write = next(n for n, kind in enumerate(kinds) if n > opened and kind in WRITES)
    last_read = max(n for n, kind in enumerate(kinds[: kinds.index(SwapBuckets)]) if kind is ReadBuckets)
    assert ReadVersions in kinds[opened:first_write]
    assert last_read < first_write
    assert life.users.get(theirs) is not None
    assert {theirs, key_of("bob")} <= set(store.users)


def test_a_director_whose_lease_has_lapsed_reads_what_others_wrote_before_it_writes() -> None:
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()  # else it reads because a lost member may live
    theirs = write_elsewhere(store, "alice", HOSTS[1])
    life.put("bob")
    life.now += 2 * LEASE_TTL  # suspended: no event came
    del life.calls[:]
    life.run(1)
    kinds = life.kinds()
    assert "lease_lapsed" in life.logged
    assert kinds.index(ReadBuckets) < kinds.index(SwapBuckets)
    assert life.users.get(theirs) is not None


@pytest.mark.shows("rule 31")
@pytest.mark.parametrize("store_was", ["unreachable", "reachable"])
def test_a_director_that_is_suspended_while_it_reads_the_store_reads_again(store_was: str) -> None:
    """Symptom: it answered from memory that was older than what others had written during the suspension."""
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    if store_was == "unreachable":
        store.up = False
        life.put("bob")
        life.run(1)
        store.up = True
    else:
        life.now += 2 * LEASE_TTL
    life.hold = (ReadVersions,)
    life.run(3).answer_held()
    assert [ask.call for ask in life.held] == [ReadVersions("names")]
    theirs = write_elsewhere(store, "alice", HOSTS[1])
    life.now += 2 * LEASE_TTL
    life.run(0)  # the lease is renewed before the reading goes on
    life.answer_held().run(0)
    assert [event.until for event in life.told if isinstance(event, Leases)][-1] == 0.0
    life.hold = ()
    life.answer_held().run(1)
    assert life.users.get(theirs) is not None
    assert not life.core.steps.lease.has_lapsed


def test_what_another_director_wrote_into_a_bucket_meanwhile_is_merged_and_swapped_again() -> None:
    store = Store(shared=False)
    life = Life(store).start()
    mine = life.put("bob")
    other = UserKey(mine ^ 1)
    record = User(other, host_id(HOSTS[1]), Stamp(UNIX), UNIX, 0)
    store.buckets["users"][mine >> BUCKET_SHIFT] = pack([record])
    life.run(2)
    assert life.users.get(other) is not None
    assert {mine, other} == set(store.users)


def test_what_is_read_beside_a_damaged_bucket_is_not_written_over_before_it_is_in_memory() -> None:
    """Symptom: another director's user was lost from the store. A write began while the damage was logged."""
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    theirs = write_elsewhere(store, "alice", HOSTS[1])
    damaged = UserKey((theirs >> BUCKET_SHIFT) + 1 << BUCKET_SHIFT)
    store.buckets["users"][damaged >> BUCKET_SHIFT] = b"no record"
    life.hold = (Note,)
    life.feed(ClaimAsked(theirs, b""), ClaimAsked(damaged, b"")).run(0)
    assert "store_bucket_damaged" in life.logged
    mine = UserKey(theirs ^ 1)
    life.users.put(User(mine, host_id(HOSTS[0]), Stamp(UNIX), UNIX, 0))
    life.feed(BucketsChanged()).run(2)
    assert store.user(mine) is not None
    assert store.user(theirs) is not None


def test_what_another_director_changed_of_hosts_is_merged_and_written_with_the_own_changes() -> None:
    store = Store(shared=True)
    one, other = Life(store).start(), Life(store, OTHER).start()
    for life, host, weight in ((one, HOSTS[0], 7), (other, HOSTS[1], 9)):
        changed = life.director.hosts.rows[host]
        life.director.hosts.merge([type(changed)(*_with(changed, weight=weight, weight_at=UNIX))])
        life.core.documents.hosts.changed()
        life.feed(BucketsChanged())
    one.core.steps.documents_changed()
    other.core.steps.documents_changed()
    one.run(1)
    other.run(1)
    one.run(1)
    assert [store.rows[host].weight for host in HOSTS] == [7, 9]


def _with(row: object, **what: object) -> list[object]:
    return [what.get(name, getattr(row, name)) for name in row.__struct_fields__]  # type: ignore[attr-defined]


def test_another_store_under_the_same_name_is_compared_before_it_is_written() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    mine = life.put("alice")
    life.run(1)
    store.clear()
    life.run(3)
    assert "store_replaced" in life.logged
    assert mine in store.users


# ---- what is asked


def test_what_a_move_waits_for_is_written_without_a_rest() -> None:
    life = Life(Store(shared=True)).start()
    key = life.put("alice")
    life.feed(PersistAsked(7, [key >> BUCKET_SHIFT])).run(0)
    life.run(0)
    assert Persisted(7) in life.told
    assert key in life.store.users


def test_a_record_is_not_reported_as_stored_before_its_write_has_succeeded() -> None:
    """Symptom: an operator was told "stored", and another director had written the bucket first."""
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    key = life.put("alice")
    life.hold = (SwapBuckets,)
    life.run(1)
    assert len(life.held) == 1
    other = User(UserKey(key ^ 1), host_id(HOSTS[1]), Stamp(UNIX), UNIX, 0)
    store.buckets["users"][key >> BUCKET_SHIFT] = pack([other])
    life.feed(PersistAsked(-1, None)).answer_held()
    assert key not in store.users
    assert Persisted(-1) not in life.told
    life.hold = ()
    life.answer_held().run(1)
    assert Persisted(-1) in life.told
    assert {key, other.key} == set(store.users)


def test_all_names_are_written_once_the_first_ones_are_due() -> None:
    """Symptom: the name of a pinned user was written 30 s later if those of many new users were due, too."""
    life = Life(Store(shared=True)).start()
    keys = [UserKey(number << BUCKET_SHIFT) for number in range(NAMES_AT_ONCE + 1)]
    for key in keys:
        life.director.names.add(name_entry(key, b"alice"))
    life.feed(PersistAsked(-1, [])).run(5)
    assert set(life.store.buckets["names"]) == {key >> BUCKET_SHIFT for key in keys}


def test_a_claim_fails_at_once_while_the_store_is_unreachable() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    store.up = False
    life.put("bob")
    life.run(2)
    life.feed(ClaimAsked(key_of("alice"), b""))
    assert life.told[-1] == ClaimFailed(key_of("alice"))


def test_many_claims_at_once_do_not_hold_up_the_loop() -> None:
    """Symptom: a turn of the loop of 50 ms as 512 of a million users were claimed."""
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    records = {
        number: [user_of(UserKey((number << BUCKET_SHIFT) + key)) for key in range(50)]
        for number in range(200)
    }
    store.buckets["users"].update((number, pack(users)) for number, users in records.items())
    claimed = [user_of(UserKey((number << BUCKET_SHIFT) + 50)) for number in records]
    life.hold = (Pause, SwapBuckets)
    life.feed(*(ClaimAsked(user.key, pack([user])) for user in claimed)).run(0)
    turns = 0
    while SwapBuckets not in life.kinds():
        del life.told[:]
        life.answer_held()
        turns = 0 if life.told else turns + 1  # since all that was read is in memory
    assert turns > sum(map(len, store.buckets["users"].values())) // PREPARED_BYTES
    life.hold = ()
    life.answer_held()
    assert {user.key for user in claimed} <= set(store.users)


def test_a_bucket_that_is_split_while_claims_are_made_ready_is_read_again() -> None:
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    for number in range(100):
        store.buckets["users"][number] = pack(
            [user_of(UserKey((number << BUCKET_SHIFT) + key)) for key in range(50)]
        )
    claimed = [user_of(UserKey((number << BUCKET_SHIFT) + 50)) for number in range(100)]
    life.hold = (Pause, SwapBuckets)
    life.feed(*(ClaimAsked(user.key, pack([user])) for user in claimed)).run(0)
    while life.users.get(UserKey(99 << BUCKET_SHIFT)) is None:
        life.answer_held()
    life.answer_held()  # the first ones are ready
    assert SwapBuckets not in life.kinds()
    life.core.reader.trees["users"].learn(99, split=True)
    life.hold = ()
    life.answer_held()
    assert {user.key for user in claimed} <= set(store.users)


def user_of(key: UserKey) -> User:
    return User(key, host_id(HOSTS[0]), Stamp(UNIX), UNIX, 0)


def test_many_claims_that_fail_at_once_do_not_hold_up_the_loop() -> None:
    """Symptom: a turn of the loop of 40 ms for each thousand logins that waited for a store that failed."""
    store = Store(shared=True)
    life = Life(store, members=[ME]).start()
    store.up = False
    life.hold = (Pause,)
    keys = [UserKey(number << BUCKET_SHIFT) for number in range(1000)]
    del life.told[:]
    life.feed(*(ClaimAsked(key, b"") for key in keys)).run(0)
    turns = [life.told[:]]
    while life.held:
        del life.told[:]
        life.answer_held()
        turns.append(life.told[:])
    failed = [[event.key for event in turn if isinstance(event, ClaimFailed)] for turn in turns]
    assert max(map(len, failed)) <= 64
    assert [key for turn in failed for key in turn] == keys


def entry(target: str) -> AuditEntry:
    return AuditEntry(at=UNIX, who="admin", what="move", target=target)


def test_an_audit_entry_that_equals_one_on_its_way_into_the_store_is_written_too() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    life.hold = (AppendAudit,)
    life.feed(AuditAdded(entry("alice"))).run(1)
    life.feed(AuditAdded(entry("alice"))).answer_held().run(1)
    life.answer_held()
    assert store.audit == [entry("alice"), entry("alice")]


def test_of_audit_entries_that_come_while_a_full_queue_is_written_each_is_written_once() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    entries = [entry(f"user{number}") for number in range(AUDIT_QUEUE + 5)]
    life.hold = (AppendAudit,)
    life.feed(*map(AuditAdded, entries[:AUDIT_QUEUE])).run(1)
    life.feed(*map(AuditAdded, entries[AUDIT_QUEUE:])).answer_held().run(1)
    life.answer_held()
    assert store.audit == entries
    assert life.core.has_written_all


def test_the_name_of_a_user_who_is_pinned_while_the_store_is_loaded_is_written_with_the_user() -> None:
    """Symptom: it was written up to 30 s later, as names are that no operator waits for."""
    life = Life(Store(shared=True)).open()
    life.hold = (LoadBuckets,)
    life.feed(Run()).run(0.5)
    key = life.put("alice")
    life.director.names.add(name_entry(key, b"alice"))
    life.feed(PersistAsked(-1, [key >> BUCKET_SHIFT])).run(1)
    life.hold = ()
    life.answer_held().run(2)
    assert Persisted(-1) in life.told
    assert key >> BUCKET_SHIFT in life.store.buckets["names"]


def test_a_secret_that_changes_while_the_former_one_is_written_is_written_too() -> None:
    """Symptom: the store said the former secret until the next start of a director."""
    store = Store(shared=True)
    life = Life(store).start()

    def change(secret: bytes) -> None:
        event = IdentityChanged(secret, b"", life.director.identity.backends)
        life.director.handle(event, Now(life.now, UNIX + life.now))
        life.feed(SecretsChanged())

    life.hold = (SwapDocument,)
    change(b"second secret")
    life.run(1)
    assert next(ask.call for ask in life.held if isinstance(ask.call, SwapDocument)).name == CLUSTER
    change(b"third secret")
    life.hold = ()
    life.answer_held().run(2)
    assert decode(store.documents[CLUSTER]) == cluster_of(life.director.identity, "")


def test_a_stop_writes_the_rest_and_gives_up_the_lease() -> None:
    store = Store(shared=True)
    life = Life(store).start()
    key = life.put("alice")
    life.feed(Abort(), Stop()).run(0)
    assert key in store.users
    assert store.leases == {}
    assert type(life.calls[-1]) is ReleaseLease


def test_the_lag_grows_until_all_is_stored() -> None:
    life = Life(Store(shared=True)).start()
    life.put("alice")
    life.hold = (SwapBuckets,)
    life.run(2)
    assert life.core.lag(Now(life.now, UNIX)) == pytest.approx(2, abs=0.01)


def test_attempts_to_reach_a_store_are_made_at_growing_pauses() -> None:
    back_off = BackOff(lambda low, high: 1.0)
    pauses = [back_off.pause() for _ in range(8)]
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == RETRY_LONGEST
    back_off.succeeded()
    assert back_off.pause() == pauses[0]


# ---- procedures


class Running:
    """A runner by itself."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.effects: list[StoreEffect] = []
        self.runner = Runner(self.clock, self.effects)

    def at(self, mono: float) -> None:
        self.clock.now = Now(mono, UNIX)
        self.runner.advance()


def test_a_procedure_is_interrupted_at_its_time_limit_and_goes_on_behind_it() -> None:
    running = Running()
    came: list[object] = []

    def procedure() -> Procedure[None]:
        with running.runner.within(running.runner.after(5.0)) as limit:
            yield ReadRunId()
        came.append(limit.reached)
        came.append((yield ReadRunId()))

    running.runner.start(procedure())
    running.at(0.0)
    assert running.runner.next_deadline() == 5.0
    running.at(5.0)
    assert came == [True]
    assert running.effects == [Ask(1, ReadRunId()), Drop(1), Ask(2, ReadRunId())]
    running.runner.answered(1, "too late")
    running.runner.answered(2, "in time")
    assert came == [True, "in time"]


def test_the_outer_of_two_time_limits_ends_both() -> None:
    running = Running()
    came: list[str] = []

    def procedure() -> Procedure[None]:
        with running.runner.within(running.runner.after(1.0)):
            with running.runner.within(running.runner.after(1.0)):
                yield ReadRunId()
            came.append("inner")
        came.append("outer")
        yield Wait()

    running.runner.start(procedure())
    running.at(0.0)
    running.at(1.0)
    assert came == ["outer"]


def test_a_procedure_waits_for_a_signal_or_a_time() -> None:
    running = Running()
    signal = Signal()
    came: list[bool] = []

    def procedure() -> Procedure[None]:
        for _ in range(2):
            came.append((yield Wait(running.clock.mono + 10.0, (signal,))))
            signal.clear()

    running.runner.start(procedure())
    running.at(0.0)
    assert running.runner.next_deadline() == 10.0
    signal.set()
    assert running.runner.next_deadline() == 0.0
    running.at(1.0)
    running.at(11.0)
    assert came == [True, False]


def test_a_call_that_fails_raises_its_error_in_the_procedure() -> None:
    running = Running()
    error = StoreUnavailable("memory:", "read", reason="down")
    came: list[object] = []

    def procedure() -> Procedure[None]:
        try:
            yield ReadRunId()
        except StoreUnavailable as exc:
            came.append(exc)

    running.runner.start(procedure())
    running.at(0.0)
    running.runner.failed(1, error)
    assert came == [error]
    assert running.runner.next_deadline() is None


def test_whatever_is_interrupted_ends_where_it_is_and_its_call_is_dropped() -> None:
    running = Running()
    came: list[str] = []

    def procedure() -> Procedure[None]:
        try:
            yield ReadRunId()
        finally:
            came.append("cleaned up")

    running.runner.start(procedure())
    running.at(0.0)
    running.runner.interrupt()
    assert came == ["cleaned up"]
    assert running.effects[-1] == Drop(1)
