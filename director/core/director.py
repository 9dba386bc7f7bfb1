"""The core of a director: one facade for everything that decides. `handle(event, now)` returns the effects.

Theory of operation
-------------------

The driver hands over one event at a time and carries out the effects in their order. It calls again at
`next_deadline()`, and immediately while work is left. Nothing here waits, reads a clock or opens a socket.

Each event takes these steps. Their order is what keeps the promises of docs/ring.md.

1. `announce`: the users that the hot path has written to the user table since the last event go to all
   neighbours. This comes first, so that no message of this event overtakes the record of an earlier login.
2. This director checks itself: how late the event is (`Interruptions`), and what time it is (`OwnClock`). A
   director that was suspended or has a wrong clock must doubt itself before it judges its neighbours, so this
   comes before the event.
3. The event goes to the part that it concerns: `Logins`, `Reception` for neighbours, `Ring` for links,
   `Dispatcher` for operators, the tables for what the store holds.
4. `_follow_up`: all other parts react to what has happened.

   a. The rest of what neighbours have sent, then one turn's share of long work: exchanges, housekeeping.
   b. Links: which directors are neighbours now, which are dialled (`Neighbours`). Before the gate, because a
      lost neighbour closes it.
   c. The partition: whether this director is on the majority side and may assign users
      (`Gatekeeper.judge_partition`). Only if it may, operators' changes begin or are confirmed; after each
      change the partition is judged again.
   d. The token of the barrier, if one is due. It carries the digest of the tables after c.
   e. The gate: whether all users, assigned users or none are answered. Then waiting logins are tried again.
   f. Rounds and moves (`Rounds`): they may use what e has assigned, and see the tables as c has left them.
   g. The departure, once the ring continues without this director.

5. The effects leave in this order: records and tables, tokens, answers to logins (rule 5). So a record is on
   its way to all neighbours before its user's login is answered. Since a link keeps the order, a token
   follows every record that it vouches for.

A turn of the loop must not take more than 5 ms, however much neighbours have sent. So each part does a
bounded share in a turn, says in `has_work` that something is left, and is listed in `_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from director.core.admission import Admission
from director.core.agreement import Agreement
from director.core.dispatcher import STOPS, Dispatcher
from director.core.gatekeeper import Gatekeeper
from director.core.housekeeping import Housekeeping
from director.core.intake import Intake
from director.core.interruptions import Interruptions
from director.core.logins.logins import Logins
from director.core.logins.pending import Pending
from director.core.logins.startup import Startup
from director.core.moves.jobs import UserJobs
from director.core.moves.kickrounds import KickRounds
from director.core.moves.kicks import Kicks
from director.core.moves.moves import Moves
from director.core.moves.nearexpiry import NearExpiry
from director.core.moves.sessions import SessionReview
from director.core.neighbours import Neighbours
from director.core.ownclock import OwnClock
from director.core.placement.assign import Assigner
from director.core.placement.names import NameTable
from director.core.placement.users import UserTable
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect
from director.core.protocol.events import (
    STORE,
    BucketsRead,
    Claimed,
    ClaimFailed,
    Congested,
    DialFailed,
    Dropped,
    Event,
    FlushEnded,
    IdentityChanged,
    KicksEnded,
    Leases,
    LinkClosed,
    LinkOpened,
    Lookup,
    MembersListed,
    Order,
    Persisted,
    ProcessStalled,
    Received,
    Seen,
    SessionsListed,
    Started,
    Stopping,
    StoredHosts,
    StoredMembers,
    StoredUsers,
    StoreOpened,
    TableChanged,
    TimerFired,
)
from director.core.protocol.messages import Names, Users
from director.core.protocol.part import Part
from director.core.protocol.view import RingView
from director.core.protocol.writers import Writers
from director.core.reception import Reception
from director.core.ring.barrier import Barrier
from director.core.ring.link import Identity, LinkState
from director.core.ring.partition import Partition, Standing
from director.core.ring.ring import Ring
from director.core.ring.trust import Trust
from director.core.rounds import Rounds
from director.core.run import Run
from director.core.settings import Settings
from director.core.tables.changes import Changes
from director.core.tables.hosts import HostTable
from director.core.tables.members import MemberTable
from director.core.tables.movedhosts import MovedHosts
from director.types import MemberId, Now, UserKey


class Director:
    def __init__(
        self,
        identity: Identity,
        servers: Sequence[MemberId],
        hosts: HostTable,
        assigner: Assigner,
        names: NameTable,
        settings: Settings,
        member_names: Mapping[str, MemberId] | None = None,
    ) -> None:
        """Build the core of one director.

        Args:
            identity: what this director says of itself to its neighbours.
            servers: the directors of the configuration, including this one.
            assigner: assigns users; its user table is the one that logins are answered from.
            names: names of users.
            settings: the settings of an operator.
            member_names: as in `MembersListed`.
        """
        self.identity = identity
        self.me = identity.member
        self.name = identity.name or identity.member
        """The name under which this director is listed, whatever its address is; else the address."""
        self.hosts = hosts
        self.assigner = assigner
        assigner.remember_names = settings.remember_names
        self.users: UserTable = assigner.users
        self.names = names
        self.members = MemberTable(servers, member_names)
        self.counters = Counters()
        self._run = Run()
        self.ring = Ring(identity, self.members.listed(), self.counters)
        first_serial = (identity.incarnation & 0xFFFFFFFF) << 24
        self.barrier = Barrier(identity.member, first_serial)
        self.barrier.set_limit(settings.max_users)
        self.pending = Pending()
        self.changes = Changes(hosts, self.members)
        self.kicks = Kicks(hosts, self.users, self.counters)
        self.moves = Moves(
            self.me,
            first_serial,
            hosts,
            assigner,
            self.kicks,
            self.pending,
            self.counters,
            kick_delay=settings.kick_delay,
            flush_program=settings.flush_program,
        )
        self.near = NearExpiry(self.me, first_serial, assigner, self.pending, self.counters)
        self.kick_rounds = KickRounds(self.me, first_serial, self.kicks, settings.max_parallel_kicks)
        self.jobs = UserJobs(
            hosts, assigner, names, self.moves, self.kick_rounds, settings.max_parallel_moves
        )
        self._startup = Startup(assigner, self.pending)
        self._sessions = SessionReview(hosts, assigner, self.kicks)
        self._admission = Admission(hosts, self.members, self.users, self.counters, identity.max_clock_skew)
        self._intake = Intake(
            assigner=assigner,
            names=names,
            hosts=hosts,
            ring=self.ring,
            pending=self.pending,
            moves=self.moves,
            admission=self._admission,
            counters=self.counters,
            run=self._run,
        )
        self._moved_hosts = MovedHosts(hosts, self.users)
        self._logins = Logins(assigner, hosts, self.pending, self._moved_hosts, self.counters)
        self._partition = Partition(self.ring.counted, settings.isolation_wait)
        self._trust = Trust()
        self._gatekeeper = Gatekeeper(
            ring=self.ring,
            barrier=self.barrier,
            partition=self._partition,
            trust=self._trust,
            assigner=assigner,
            logins=self._logins,
            pending=self.pending,
            counters=self.counters,
            run=self._run,
        )
        self._housekeeping = Housekeeping(assigner, names, self.counters)
        self._agreement = Agreement(
            hosts=hosts,
            members=self.members,
            ring=self.ring,
            barrier=self.barrier,
            assigner=assigner,
            pending=self.pending,
            logins=self._logins,
            kicks=self.kicks,
            moved_hosts=self._moved_hosts,
            admission=self._admission,
            counters=self.counters,
            run=self._run,
        )
        self._dispatcher = Dispatcher(
            ring=self.ring,
            barrier=self.barrier,
            partition=self._partition,
            gatekeeper=self._gatekeeper,
            agreement=self._agreement,
            startup=self._startup,
            changes=self.changes,
            jobs=self.jobs,
        )
        self.clock = OwnClock(
            admission=self._admission,
            agreement=self._agreement,
            intake=self._intake,
            hosts=hosts,
            members=self.members,
            users=self.users,
            ring=self.ring,
            moves=self.moves,
        )
        self._reception = Reception(
            ring=self.ring,
            barrier=self.barrier,
            agreement=self._agreement,
            intake=self._intake,
            moves=self.moves,
            near=self.near,
            kick_rounds=self.kick_rounds,
            clock=self.clock,
            counters=self.counters,
            view=self._view,
        )
        self._interruptions = Interruptions(
            run=self._run,
            clock=self.clock,
            ring=self.ring,
            barrier=self.barrier,
            partition=self._partition,
            trust=self._trust,
            gatekeeper=self._gatekeeper,
            housekeeping=self._housekeeping,
            kicks=self.kicks,
            users=self.users,
        )
        self._neighbours = Neighbours(
            ring=self.ring,
            barrier=self.barrier,
            trust=self._trust,
            agreement=self._agreement,
            users=self.users,
            names=names,
        )
        self._rounds = Rounds(
            assigner=assigner,
            agreement=self._agreement,
            intake=self._intake,
            logins=self._logins,
            startup=self._startup,
            sessions=self._sessions,
            kicks=self.kicks,
            moves=self.moves,
            near=self.near,
            kick_rounds=self.kick_rounds,
            jobs=self.jobs,
            view=self._view,
        )
        self._parts: tuple[Part, ...] = (
            self._logins,
            self.kicks,
            self.moves,
            self.near,
            self.kick_rounds,
            self.jobs,
            self.clock,
            self._sessions,
            self._moved_hosts,
            self._intake,
            self._housekeeping,
        )
        """All parts that may have work left or wait for a time."""
        self._writers = Writers()
        self._now = 0.0
        self.deadline_changed = True
        """Whether the last event may have changed `next_deadline()`."""

    @property
    def minority_since(self) -> float | None:
        """Monotonic time at which this director found itself on the minority side; None: it is not there."""
        return self._partition.minority_since

    def take_over(self, minority_since: float | None) -> None:
        """Continue where a predecessor in this process has stopped.

        Args:
            minority_since: as in the predecessor, so that this director need not wait for `isolation_wait`
                from the beginning.
        """
        self._partition.minority_since = minority_since

    def set_limits(self, settings: Settings) -> None:
        """Take over changed settings, except `flush_program` and `remember_names`.

        Work under way may still end by the former settings.
        """
        self._partition.isolation_wait = settings.isolation_wait
        self.moves.kick_delay = settings.kick_delay
        self.barrier.set_limit(settings.max_users)
        self.jobs.max_parallel = settings.max_parallel_moves
        self.kick_rounds.max_parallel = settings.max_parallel_kicks

    # ---- events

    def handle(self, event: Event, now: Now, *, same_turn: bool = False) -> list[Effect]:
        """Handle one event.

        Args:
            event: what has happened.
            now: the time, monotonic and by the clock.
            same_turn: whether another event came in this turn of the loop. A turn does only its share of long
                work.

        Returns:
            The effects, in the order in which they are to be carried out.
        """
        if not same_turn:
            self._intake.new_turn()
            self.kicks.new_turn()
        self.assigner.unix = int(now.unix)
        self._now = now.mono
        self.deadline_changed = True
        effects = self.announce()
        effects += self._interruptions.check(now)
        match event:
            case TableChanged():
                return effects
            case Lookup():
                answers = self._logins.lookup(event, now)
                return [*effects, *self.announce(), *answers]
            case Dropped(requests):
                self.pending.drop(requests)
                return effects
            case Claimed(key, records):
                effects += self._intake.merge(records, STORE, now)
                waiting = self.pending.of(key)
                answers = self._logins.claimed(key, now)
                if answers:
                    self._intake.placed_by_store(key, waiting[0].name)
                return [*effects, *self.announce(), *answers, *self._follow_up(now)]
            case Received():
                effects += self._reception.received(event, now)
                if self._only_users(event):
                    self.deadline_changed = False
                    return effects
            case Seen(names):
                self._intake.seen(names)
            case LinkOpened():
                effects += self.ring.opened(event, now)
            case LinkClosed(link, reason):
                effects += self._reception.read_rest(link, now)
                effects += self.ring.closed(link, reason, now)
            case KicksEnded(ends):
                effects += self._rounds.kicks_ended(ends, now)
            case _ if isinstance(event, Order):
                effects += self._dispatcher.handle(event, now)
            case _:
                effects += self._happened(event, now)
        return [*effects, *self.announce(), *self._follow_up(now)]

    def clock_is_sure(self, mono: float) -> bool:
        """Whether the clock may decide that a record has long expired.

        It may if it has not stepped recently, and no director outside the ring, whose clock may be the right
        one, holds a lease.
        """
        return not self.partial and self._interruptions.clock_was_steady(mono)

    def _happened(self, event: Event, now: Now) -> list[Effect]:
        """Handle the less frequent events."""
        match event:
            case Started():
                self._run.started = True
                self.barrier.wait(now, at_once=True)
                self.ring.start()
                self._housekeeping.start(now)
                return self._agreement.pools_changed()
            case DialFailed(member, _, leftwards):
                self.ring.dial_failed(member, now, leftwards=leftwards)
            case Congested(link, clear):
                if link in self.ring.links:
                    self.ring.links[link].congested = not clear
            case StoreOpened():
                self._startup.begin()
            case BucketsRead(buckets):
                self._startup.have_read(buckets)
            case StoredUsers(records, source):
                return self._intake.merge(records, source, now)
            case StoredHosts(rows, applied, source):
                return self._agreement.stored_hosts(rows, source, now, applied=applied)
            case StoredMembers():
                return self._agreement.stored_members(event, now)
            case MembersListed(members, names):
                return self._agreement.list_members(members, names, now)
            case IdentityChanged(secret, second, backends):
                effects = self.ring.set_identity(secret, second, backends)
                self.identity = self.ring.identity
                return effects
            case ClaimFailed(key):
                self._logins.claim_failed(key, now)
            case Leases(holders, until):
                self._partition.leases = holders
                self._interruptions.lease_until = until
                if holders is None or until > now.mono:
                    self._trust.caught_up()
            case ProcessStalled(gap):
                return self._interruptions.stalled(gap, now)
            case Persisted(number):
                self.moves.stored(number, now)
                self.jobs.stored(number, now)
            case FlushEnded(number, ok):
                self.moves.flush_ended(number, ok, now)
            case SessionsListed(sessions, late):
                self._sessions.begin(sessions, late=late)
            case Stopping():
                return [*self.changes.give_up(STOPS), *self.ring.leave(now)]
            case TimerFired():
                pass
            case _:
                raise AssertionError(event)
        return []

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which `TimerFired` is due.

        Returns:
            Seconds; 0.0: work is left for the next turn of the loop; None: nothing waits for a time.
        """
        if self._has_work():
            return 0.0
        deadlines = [part.next_deadline() for part in self._parts]
        deadlines += [
            self.ring.next_deadline(),
            self.barrier.next_deadline() if self.ring.right else None,
            self._dispatcher.next_deadline(),
            self._partition.next_deadline(self.barrier),
            self._trust.next_deadline(),
        ]
        deadline = min((d for d in deadlines if d is not None), default=None)
        self._interruptions.expected = deadline
        return deadline

    def _has_work(self) -> bool:
        if self.pending.awake or any(part.has_work for part in self._parts):
            return True
        if self._housekeeping.is_behind(self._agreement.digest):
            return True
        return any(n.inbox or n.exchange_has_work for n in self.ring.links.values())

    @property
    def synced(self) -> bool:
        return self.barrier.synced

    @property
    def standing(self) -> Standing:
        return self._partition.standing

    @property
    def unverified(self) -> bool:
        """Whether memory was not compared with any other director yet (docs/ring.md, rule 28)."""
        return self._trust.unverified

    @property
    def loading(self) -> bool:
        """Whether the store is being read, so that not all of its users are in memory yet."""
        return self._startup.under_way

    @property
    def joining(self) -> bool:
        """Whether this director is comparing its memory with its neighbours, to join the ring."""
        return not self.synced and any(n.state is LinkState.EXCHANGING for n in self.ring.links.values())

    @property
    def partial(self) -> bool:
        """Whether a director outside the ring holds a lease, so that the store is watched (docs/ring.md, rule
        12)."""
        return self.standing is Standing.CLAIM

    def binds(self, key: UserKey) -> bool:
        """Whether a claim must keep the record of a user that is in memory, instead of the claim's
        candidate."""
        return self._logins.binds(key, self._now)

    # ---- users

    def announce(self) -> list[Effect]:
        """Announce to all neighbours the users that the hot path has written to the user table.

        The hot path calls it at the end of each turn of the loop; `handle` calls it too.

        Returns:
            One message for each neighbour; none if no user was written.
        """
        return self._intake.announce()

    # ---- the ring

    def _only_users(self, event: Received) -> bool:
        """Whether a frame holds only users and names, as most do, and neither the ring nor a waiting login is
        concerned."""
        neighbour = self.ring.links.get(event.link)
        if neighbour is None or neighbour.state is LinkState.CLOSED or self._has_work():
            return False
        if len(self.near) or len(self.moves) or self.moves.led:
            return False
        return all(isinstance(m, Users | Names) for m in event.messages)

    # ---- after every event

    def _follow_up(self, now: Now) -> list[Effect]:
        """Bring neighbours, barrier, standing, gate and everything that waits in line with what has
        happened."""
        effects = self._reception.turn(now)
        effects += self._neighbours.turn(now, loading=self.loading or self.clock.walking)
        effects += self._housekeeping.turn(now, self._agreement.digest)
        self._moved_hosts.turn(now)
        effects += self.clock.turn(now)
        effects += self._neighbours.review(now)
        if self._run.started:
            self._gatekeeper.judge_partition(now, self._agreement.digest)
        effects += self._dispatcher.turn(now)
        tokens = self._neighbours.send_token(now)
        effects += self._gatekeeper.review(now)
        answers = self._logins.turn(now)
        tokens += self._rounds.turn(now)
        effects += self._neighbours.leave(now)
        return [*effects, *self.announce(), *tokens, *answers]

    def _view(self) -> RingView:
        right = self.ring.right
        return RingView(
            right=right.link if right is not None else None,
            alone=self._gatekeeper.known_alone,
            ring=self.barrier.ring,
            listed=self.ring.counted,
            held_until=self.barrier.held_until,
            writers=self._writers,
        )
