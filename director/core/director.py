"""The director: one facade over everything that decides. `handle(event, now)` returns what is to be done.

Theory of operation
-------------------

The driver feeds one event at a time and carries the effects out in list order. It calls back at
`next_deadline()`, and at once while work is left over. Nothing here waits, reads a clock or opens a socket.

An event takes these steps. The order of the steps is what makes the promises of docs/ring.md hold.

1. `announce`: what the hot path has put into the user table since the last event goes to all neighbours. It
   goes first, so that no message of this event overtakes a record that an earlier login rests on.
2. Am I right? How late this event is (`_late`), what time it is (`OwnClock`, `ClockWatch`). A director that
   was frozen or has a wrong clock suspects itself before it judges neighbours: this comes before the event.
3. The event itself, to the part that it concerns: `Logins`, `Reception` for neighbours, `Ring` for links,
   `Dispatcher` for operators, the tables for what the store holds.
4. `_settle`: everything else is brought in line with what has happened.

   a. The rest of what neighbours have sent, then one turn's share of long work: exchanges, housekeeping.
   b. Links: who is neighbour now, who is dialled. Before the gate, because a lost neighbour closes it.
   c. The partition: does this director have the majority, may it answer (`Gatekeeper.judge_partition`)?
      Operators' changes begin or are confirmed only by it, and each change is judged again.
   d. The token of the barrier, if one is due. It carries the digest of the tables after c.
   e. The gate: everybody, known users, or nobody is answered. Then logins that wait are tried again.
   f. Rounds and moves (`_go_round`): they may use what e has placed, and see the tables as c has left them.
   g. Good-bye, once the ring goes on without this director.

5. The effects leave in this order: records and tables, tokens, answers to logins (rule 5). A record is on its
   way to all neighbours before its user's login is answered, and a token follows every record that it vouches
   for, because a link keeps the order.

A turn of the loop must not take more than 5 ms, however much neighbours have sent. So each part does a
bounded share a turn, says in `has_work` that something is left, and stands in `_parts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from director.core.admission import Admission
from director.core.agreement import Agreement
from director.core.dispatcher import STOPS, Dispatcher
from director.core.gatekeeper import Gatekeeper
from director.core.housekeeping import Housekeeping
from director.core.intake import Intake
from director.core.logins.logins import Logins
from director.core.logins.pending import Pending
from director.core.logins.startup import Startup
from director.core.moves.jobs import UserJobs
from director.core.moves.kickrounds import KickRounds
from director.core.moves.kicks import Kicks
from director.core.moves.moves import Moves
from director.core.moves.nearexpiry import NearExpiry
from director.core.moves.sessions import SessionReview
from director.core.ownclock import OwnClock
from director.core.placement.assign import Assigner, Gate
from director.core.placement.names import NameTable
from director.core.placement.users import UserTable
from director.core.protocol.clock import ClockWatch
from director.core.protocol.counters import Counters
from director.core.protocol.effects import (
    Departed,
    Effect,
    Level,
    LogEvent,
    Send,
)
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
    Thawed,
    TimerFired,
)
from director.core.protocol.messages import (
    HostRow,
    MemberRow,
    Names,
    Users,
)
from director.core.protocol.part import Part
from director.core.protocol.view import RingView
from director.core.protocol.writers import Writers
from director.core.reception import Reception
from director.core.ring.barrier import Barrier
from director.core.ring.link import Identity, Neighbour, State, postpone_exchanges
from director.core.ring.partition import Partition, Standing
from director.core.ring.ring import Ring, log_neighbours
from director.core.ring.trust import Trust
from director.core.tables.changes import Changes
from director.core.tables.hosts import HostTable
from director.core.tables.members import MemberTable
from director.core.tables.movedhosts import MovedHosts
from director.types import HostId, MemberId, Now, UserKey

FROZEN = 1.0
"""Seconds an event may be late behind the deadline that was asked for; beyond that the process was frozen."""
TELL_AGAIN = 2.0
"""Seconds without agreement on the tables after which neighbours are told them once more."""
LATE = 0.05
"""Seconds late from which on nobody else is taken for silent because of it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has set; seconds where it is a time."""

    isolation_wait: float = 20.0
    kick_delay: float = 2.0
    max_parallel_moves: int = 100
    max_parallel_kicks: int = 100
    max_users: int = 0
    """Records in the table from which on unknown users are not remembered; 0: no limit."""
    flush_program: bool = False
    """There is one to run for each user who is moved."""
    remember_names: bool = False
    """Names of users are kept with their assignments."""


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
            servers: the directors of the configuration, this one included.
            hosts: the host table.
            assigner: places users; its user table is the one that is served from.
            names: names of users.
            settings: what an operator may set.
            member_names: as in `MembersListed`.
        """
        self.identity = identity
        self.me = identity.member
        self.name = identity.name or identity.member
        """By what this director is known, whatever its address is."""
        self.hosts = hosts
        self.assigner = assigner
        assigner.remember_names = settings.remember_names
        self.users: UserTable = assigner.users
        self.names = names
        self.members = MemberTable(servers, member_names)
        self.counters = Counters()
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
        )
        self._moved_hosts = MovedHosts(hosts, self.users)
        self._logins = Logins(assigner, hosts, self.pending, self._moved_hosts, self.counters)
        self._partition = Partition(self.ring.counted, settings.isolation_wait)
        self._dispatcher = Dispatcher(self.ring, self._partition, self._startup, self.changes, self.jobs)
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
        """All that may have work left over, or wait for a time."""
        self._writers = Writers()
        self._tables_told_at = float("-inf")
        self._clock_watch = ClockWatch()
        self._seen_by_moves = self._agreement.digest
        self._started = self._announced_departure = False
        self._expected: float | None = None
        """When the next event was due at the latest; None: nothing was."""
        self._now = 0.0
        self._thawed_at = float("-inf")
        self._lease_until = math.inf
        """As the last `Leases` said."""
        self.settled = True
        """Whether the last event may have moved `next_deadline()`."""

    @property
    def smaller_since(self) -> float | None:
        """Since when this is the smaller part of a cut ring, in monotonic seconds; None: it is not."""
        return self._partition.smaller_since

    def take_over(self, smaller_since: float | None) -> None:
        """Go on where a predecessor in this process has stopped.

        Args:
            smaller_since: as of the predecessor: this director need not wait for `isolation_wait` from the
                start.
        """
        self._partition.smaller_since = smaller_since

    def set_limits(self, settings: Settings) -> None:
        """Take over changed settings, except `flush_program` and `remember_names`.

        What is under way may end by the former settings.
        """
        self._partition.isolation_wait = settings.isolation_wait
        self.moves.kick_delay = settings.kick_delay
        self.barrier.set_limit(settings.max_users)
        self.jobs.max_parallel = settings.max_parallel_moves
        self.kick_rounds.max_parallel = settings.max_parallel_kicks

    # ---- what happened

    def handle(self, event: Event, now: Now, *, same_turn: bool = False) -> list[Effect]:
        """Take one event.

        Args:
            event: what has happened.
            now: the time, monotonic and by the clock.
            same_turn: there was another event in this turn of the loop; of long work a turn does only its
                share.

        Returns:
            What is to be done, in the order in which it is to be done.
        """
        if not same_turn:
            self._intake.new_turn()
            self.kicks.new_turn()
        self.assigner.unix = int(now.unix)
        self._now = now.mono
        self.settled = True
        effects = self.announce()
        effects += self._late(now)
        effects += self.clock.check(now)
        step = self._clock_watch.step(now)
        if step:
            effects += self._clock_stepped(step, now)
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
                effects += self._merge_users(records, STORE, now)
                answers = self._logins.claimed(key, now)
                return [*effects, *self.announce(), *answers, *self._settle(now)]
            case Received():
                effects += self._reception.received(event, now)
                if self._only_users(event):
                    self.settled = False
                    return effects
            case Seen(names):
                self._intake.seen(names)
            case LinkOpened():
                effects += self.ring.opened(event, now)
            case LinkClosed(link, reason):
                effects += self._reception.read_rest(link, now)
                effects += self.ring.closed(link, reason, now)
            case KicksEnded(ends):
                effects += self.kicks.ended(ends, now)
                self.moves.wake(now)
                self.kick_rounds.kicked(now)
            case _:
                effects += self._happened(event, now)
        return [*effects, *self.announce(), *self._settle(now)]

    def _clock_stepped(self, seconds: float, now: Now) -> list[Effect]:
        """The clock no longer says when users were last seen. What it would drop is kept for a while, and the
        sessions of this machine say who is there."""
        self._housekeeping.wait(now.mono + self.users.expire)
        self.kicks.clock_stepped(now)
        if seconds > 0:
            self.ring.suspended(seconds, now)
        self._gatekeeper.review_sessions()
        note = "users count as seen earlier, or later, by that; sessions are listed again"
        return [LogEvent(Level.WARNING, "clock_stepped", {"seconds": round(seconds, 1), "note": note})]

    def clock_is_sure(self, mono: float) -> bool:
        """Whether the clock may say who is long gone: it has not stepped lately, and no living director is
        outside the ring, whose clock may be the right one."""
        return not self.partial and mono >= self._clock_watch.stepped_at + self.users.expire

    def _late(self, now: Now) -> list[Effect]:
        """How late we are ourselves; nobody else is blamed for it."""
        late = 0.0 if self._expected is None else now.mono - self._expected
        self._expected = None
        if late > FROZEN:
            return self._thawed(late, now)
        if late > LATE:
            self.ring.forgive(late, now)
        return []

    def _happened(self, event: Event, now: Now) -> list[Effect]:
        """What comes less often."""
        match event:
            case Started():
                self._started = self._agreement.started = self._reception.started = True
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
                return self._merge_users(records, source, now)
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
            case Leases(alive, until):
                self._partition.leases = alive
                self._lease_until = until
                if alive is None or until > now.mono:
                    self._trust.caught_up()
            case Thawed(gap):
                if now.mono >= self._thawed_at + FROZEN:
                    return self._thawed(gap, now)
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
                assert isinstance(event, Order), event
                return self._dispatcher.handle(event, now)
        return []

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which `TimerFired` is due.

        Returns:
            Seconds; 0.0: work is left over for the next turn of the loop; None: nothing waits for a time.
        """
        if self._has_work():
            return 0.0
        deadlines = [part.next_deadline() for part in self._parts]
        deadlines += [
            self.ring.next_deadline(),
            self.barrier.next_deadline() if self.ring.right else None,
            self.changes.next_deadline(without_sync=self._removes_without_sync),
            self._partition.next_deadline(self.barrier),
            self._trust.next_deadline(),
        ]
        self._expected = min((d for d in deadlines if d is not None), default=None)
        return self._expected

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
        """What is in memory has not been compared with anybody yet: a hint, no more (docs/ring.md, rule
        28)."""
        return self._trust.unverified

    @property
    def loading(self) -> bool:
        """The store is being read: what it knows of users is not all in memory yet."""
        return self._startup.under_way

    @property
    def joining(self) -> bool:
        """It is comparing what it remembers with its neighbours, to be one of the ring."""
        return not self.synced and any(n.state is State.EXCHANGING for n in self.ring.links.values())

    @property
    def partial(self) -> bool:
        """Somebody who lives is outside the ring: the store is kept an eye on (docs/ring.md, rule 12)."""
        return self.standing is Standing.CLAIM

    def binds(self, key: UserKey) -> bool:
        """Whether what memory holds of a user is to be kept by a claim, rather than replaced by its
        candidate."""
        return self._logins.binds(key, self._now)

    # ---- users

    def announce(self) -> list[Effect]:
        """Announce to all neighbours what the hot path has put into the user table.

        The hot path calls it at the end of each turn of the loop; `handle` calls it too.

        Returns:
            One message for each neighbour; none where nothing was put into the table.
        """
        return self._intake.announce()

    def _merge_users(self, records: bytes, source: Neighbour | str, now: Now) -> list[Effect]:
        """Take in what a neighbour, or another source, knows; what was new goes on to all others."""
        return self._intake.merge(records, source, now, started=self._started)

    # ---- the ring

    def _only_users(self, event: Received) -> bool:
        """Whether a frame was what most are, and concerns neither the ring nor anybody who waits."""
        neighbour = self.ring.links.get(event.link)
        if neighbour is None or neighbour.state is State.CLOSED or self._has_work():
            return False
        if len(self.near) or len(self.moves) or self.moves.in_hand:
            return False
        return all(isinstance(m, Users | Names) for m in event.messages)

    def _thawed(self, gap: float, now: Now) -> list[Effect]:
        """We were frozen: suspect ourselves before others, and ask them before we answer anybody."""
        fields = {"seconds": round(gap, 1), "note": "comparing with the neighbours first"}
        self._thawed_at = now.mono
        if self._partition.leases is not None and now.mono >= self._lease_until:
            self._trust.lapsed(now)
        self._partition.doubt_leases()
        self.ring.thawed(now)
        self.ring.suspended(gap + FROZEN, now)
        effects = [LogEvent(Level.WARNING, "frozen", fields), *self._trust.thawed(self.ring, now)]
        if self._started and self.unverified:
            self.barrier.wait(now, at_once=True)
        return effects + self._gatekeeper.review(now, started=self._started)

    # ---- after every event

    def _settle(self, now: Now) -> list[Effect]:
        """Bring neighbours, barrier, standing, gate and all that waits in line with what has happened."""
        effects = self._reception.turn(now)
        effects += self._tick(now)
        if self.ring.unmet:
            self.ring.named = self.barrier.ring
            effects += self._agreement.meet()  # before links that were made for this alone are closed
        effects += self._review_links(now)
        if self._started:
            self._gatekeeper.judge_partition(now, self._agreement.digest)
        effects += self._change_tables(now)
        tokens = self._send_token(now)
        effects += self._gatekeeper.review(now, started=self._started)
        answers = self._logins.turn(now)
        tokens += self._go_round(now)
        effects += self._leave(now)
        return [*effects, *self.announce(), *tokens, *answers]

    def _go_round(self, now: Now) -> list[Effect]:
        """Everything that needs the word of the whole ring, and the kicks that come with it."""
        overdue: list[Effect] = self.kicks.overdue(now)
        if overdue:  # whoever waits for them goes on at once
            self.moves.wake(now)
            self.kick_rounds.kicked(now)
        wanted = self._startup.want(self._logins.unread)
        self._logins.unread = []
        listing = self._sessions.turn(now)
        self._ask_for_logins(now)
        if not self._intake.has_work:  # else users may be moving whose moves are not known yet
            self.jobs.turn(now)
        view = self._view()
        if self._agreement.digest != self._seen_by_moves:
            self._seen_by_moves = self._agreement.digest
            self.moves.wake(now)  # their hosts may be gone
        effects = [*overdue, *wanted, *listing, *self.near.turn(now, view)]
        effects += self.moves.turn(now, view)
        effects += self.moves.start_programs()
        effects += self.kick_rounds.turn(now, view)
        return effects + self.kicks.turn(now) + self.jobs.ends()

    def _ask_for_logins(self, now: Now) -> None:
        """Users who cannot be answered before the ring was asked, or they were moved."""
        near, self._logins.near = self._logins.near, {}
        for key, tag in near.items():
            self.near.ask(key, tag, now)
        retagged, self._logins.retagged = self._logins.retagged, {}
        if self.assigner.gate is not Gate.OPEN and not self._logins.claiming:
            return  # they are tried again when it opens
        for key, tag in retagged.items():
            if not self.moves.is_moving(key):
                backend = self.assigner.place(key >> 32, tag)
                self.moves.begin(key, backend.id if backend else HostId(0), None, now)

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

    def _leave(self, now: Now) -> list[Effect]:
        """Once the ring goes on without us: good-bye."""
        if self._announced_departure or not self.ring.has_left(now):
            return []
        self._announced_departure = True
        return [*self.ring.stop("the director stops"), Departed()]

    def _tick(self, now: Now) -> list[Effect]:
        """Time-outs of links, and one turn's share of what takes long."""
        effects: list[Effect] = []
        busy = self.loading or self.clock.walking
        postpone_exchanges(
            self.ring.links.values(), len(self.users), now, joining=self.unverified, loading=busy
        )
        for neighbour in list(self.ring.links.values()):
            was_live = neighbour.live
            effects += neighbour.tick(now)
            if was_live and not neighbour.live and neighbour.silent:
                self.barrier.hold(now.mono + self.identity.ping_timeout + 1)
            if neighbour.exchange_has_work:
                effects += neighbour.exchange.work(self.users, self.names, not self.unverified, now)
            neighbour.finish_exchange()
        effects += self._housekeeping.turn(now, self._agreement.digest)
        self._moved_hosts.turn(now)
        return effects + self.clock.turn(now)

    def _review_links(self, now: Now) -> list[Effect]:
        had_right, had_left = self.ring.right, self.ring.left
        lost = any(n is not None and n.state is State.CLOSED for n in (had_right, had_left))
        effects = self.ring.review(now)
        right_is_new = self.ring.right is not None and self.ring.right is not had_right
        if right_is_new or self.ring.left is not had_left or self.ring.right is not had_right:
            effects.append(log_neighbours(self.ring))
        if lost and self.ring.unlinked:
            self._trust.lost_everybody(now)
        if lost or (right_is_new and not self.barrier.synced):
            self.barrier.wait(now, at_once=True)
        elif right_is_new:
            self.barrier.probe(now)
        return effects + self.ring.dials(now)

    def _change_tables(self, now: Now) -> list[Effect]:
        # Who has removed itself is in no ring that could agree, and has told the others.
        effects = self.changes.confirm() if self.barrier.synced or self.ring.removed else []
        while self.barrier.synced and self.changes.can_begin and self.standing is not Standing.WAIT:
            effects += self._carried_out(*self.changes.begin(now), now)
        if self._removes_without_sync:
            effects += self._carried_out(*self.changes.begin_removal(now), now)
        return effects + self.changes.overdue(now)

    @property
    def _removes_without_sync(self) -> bool:
        """Whether a removal of a director may be carried out although the ring is not in sync."""
        return not self.barrier.synced and self.standing is not Standing.WAIT

    def _carried_out(self, done: list[Effect], rows: Sequence[HostRow | MemberRow], now: Now) -> list[Effect]:
        """What follows from a change of an operator, which has changed these rows."""
        if not rows:
            return done
        effects = done + self._agreement.changed_here(rows, now)
        self._gatekeeper.judge_partition(now, self._agreement.digest)
        return effects + (self.changes.confirm() if self.barrier.synced else [])

    def _send_token(self, now: Now) -> list[Effect]:
        if self.ring.right is None:
            return []
        self.barrier.right = self.ring.right.peer
        token = self.barrier.due(now, self._agreement.digest)
        if token is None:
            return []
        return [*self._tell_tables_again(now), Send(self.ring.right.link, [token])]

    def _tell_tables_again(self, now: Now) -> list[Effect]:
        """Tokens do not come back: a member may lack a row, although it is linked with one that has it."""
        since = self.barrier.waiting_since
        if since is None or now.mono < max(since, self._tables_told_at) + TELL_AGAIN:
            return []
        self._tables_told_at = now.mono
        return [Send(neighbour.link, self._agreement.all_rows()) for neighbour in self.ring.live_links()]
