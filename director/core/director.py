"""The director: one facade over everything that decides. `handle(event, now)` returns what is to be done.

Order within one call (ring-rules 5): records leave first, then tokens, then answers to logins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from director.core import checks, exchange
from director.core.addresses import host_id
from director.core.assign import Assigner, Gate
from director.core.barrier import Barrier
from director.core.effects import Effect, Level, Log, Send, StoreHosts
from director.core.events import (
    Claimed,
    ClaimFailed,
    Congested,
    DialFailed,
    Dropped,
    Event,
    HostChange,
    Leases,
    LinkClosed,
    LinkOpened,
    Lookup,
    Received,
    Seen,
    Started,
    Stopping,
    StoredHosts,
    StoredUsers,
    TableChanged,
    Thawed,
    TimerFired,
)
from director.core.hostchanges import HostChanges
from director.core.hosts import HostTable
from director.core.housekeeping import Housekeeping
from director.core.logins import Counters, Logins
from director.core.member import Identity, Neighbour, State
from director.core.messages import (
    Digests,
    ExchangeDone,
    HostRow,
    Hosts,
    Linked,
    Names,
    Redirect,
    RingMessage,
    Token,
    Users,
)
from director.core.names import NameTable
from director.core.pending import Pending
from director.core.ring import Ring, log_neighbours
from director.core.standing import MAY_HASH, Stand, Standing
from director.core.trust import Trust
from director.core.users import BY_HAND, User, UserTable, unpack
from director.types import MemberId, Now, UserKey

FROZEN = 1.0
"""Seconds an event may be late behind the deadline that was asked for; beyond that the process was frozen."""


class Director:
    def __init__(
        self,
        identity: Identity,
        servers: Sequence[MemberId],
        hosts: HostTable,
        assigner: Assigner,
        names: NameTable,
        isolation_wait: float,
    ) -> None:
        self.identity = identity
        self.me = identity.member
        self.hosts = hosts
        self.assigner = assigner
        self.users: UserTable = assigner.users
        self.names = names
        self.ring = Ring(identity, servers)
        self.barrier = Barrier(identity.member, (identity.incarnation & 0xFFFFFFFF) << 24)
        self.pending = Pending()
        self.changes = HostChanges(hosts)
        self.counters = Counters()
        self._logins = Logins(assigner, hosts, self.pending, self.counters)
        self._stand = Stand(self.ring.servers, isolation_wait)
        self._trust = Trust()
        self._housekeeping = Housekeeping(self.users, names)
        self._digest = b""
        self._started = False
        self._store_was_read = False
        self._expected: float | None = None
        """When the next event was due at the latest; None: nothing was."""
        self._now = 0.0
        self._thawed_at = float("-inf")
        self.settled = True
        """Whether the last event may have moved `next_deadline()`."""
        self._reconfigure()

    # ---- what happened

    def handle(self, event: Event, now: Now) -> list[Effect]:
        self.assigner.unix = int(now.unix)
        self._now = now.mono
        self.settled = True
        effects = self.announce()
        gap = 0.0 if self._expected is None else now.mono - self._expected
        self._expected = None
        if gap > FROZEN:
            effects += self._thawed(gap, now)
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
                effects += self._merge_users(records, None)
                answers = self._logins.claimed(key, now)
                return [*effects, *self.announce(), *answers, *self._settle(now)]
            case Thawed():
                if now.mono >= self._thawed_at + FROZEN:
                    effects += self._thawed(event.gap, now)
            case Received():
                effects += self._received(event, now)
                if self._only_users(event):
                    self.settled = False
                    return effects
            case Seen(names):
                self._seen(names)
            case LinkOpened(link, nonce, remote, dialled):
                effects += self.ring.opened(link, remote, dialled, nonce, now)
            case LinkClosed(link, reason):
                effects += self.ring.closed(link, reason, now)
            case _:
                effects += self._happened(event, now)
        return [*effects, *self.announce(), *self._settle(now)]

    def _happened(self, event: Event, now: Now) -> list[Effect]:
        """What comes less often."""
        match event:
            case Started():
                self._started = True
                self.barrier.wait(now, at_once=True)
                self.ring.start()
                self._housekeeping.start(now)
            case DialFailed(member):
                self.ring.dial_failed(member, now)
            case Congested(link, clear):
                if link in self.ring.links:
                    self.ring.links[link].congested = not clear
            case HostChange():
                self.changes.add(event, now)
            case StoredUsers(records):
                return self._merge_users(records, None)
            case StoredHosts(rows):
                changed = self.hosts.merge(rows) if self._store_was_read else self.hosts.merge_stored(rows)
                self._store_was_read = True
                return self._hosts_changed(changed, None, now)
            case ClaimFailed(key):
                self._logins.claim_failed(key, now)
            case Leases(alive):
                self._stand.leases = alive
            case Stopping():
                return self.ring.stop("the director stops")
            case _:
                assert isinstance(event, TimerFired)
        return []

    def next_deadline(self) -> float | None:
        """Monotonic time at which `TimerFired` is due; 0 where work is left over for the next turn."""
        if self._has_work():
            return 0.0
        deadlines = (
            self.ring.next_deadline(),
            self.barrier.next_deadline() if self.ring.right else None,
            self._logins.next_deadline(),
            self.changes.next_deadline(),
            self._housekeeping.next_deadline(),
            self._stand.next_deadline(self.barrier),
            self._trust.next_deadline(),
        )
        self._expected = min((d for d in deadlines if d is not None), default=None)
        return self._expected

    def _has_work(self) -> bool:
        if self.pending.awake or self._housekeeping.has_work:
            return True
        return any(map(exchange.has_work, self.ring.links.values()))

    @property
    def synced(self) -> bool:
        return self.barrier.synced

    @property
    def standing(self) -> Standing:
        return self._stand.standing

    @property
    def hint(self) -> bool:
        """What is in memory has not been compared with anybody yet: a hint, no more (ring-rules 28)."""
        return self._trust.hint

    @property
    def partial(self) -> bool:
        """Somebody who lives is outside the ring: the store is kept an eye on (ring-rules 12)."""
        return self.standing is Standing.CLAIM

    def binds(self, key: UserKey) -> bool:
        """Whether what memory holds of a user is to be kept by a claim, rather than replaced by its
        candidate."""
        return self._logins.binds(key, self._now)

    # ---- users

    def _seen(self, names: Iterable[bytes]) -> None:
        tags = {row.tag.encode() for row in self.hosts.present()} | {b""}
        for name in names:
            for tag in tags:
                self.users.touch(self.assigner.user_hash.key(name, tag), self.assigner.unix)

    def announce(self) -> list[Effect]:
        """What the table has changed by itself goes to all neighbours, one message each.

        The hot path calls it at the end of each turn of the loop; everything else that happens does it too.
        """
        names = self.assigner.take_names()
        if names:
            self.names.add(names)
        if not self.users.has_changes:
            return []
        records = self.users.take_changes()
        effects: list[Effect] = []
        for neighbour in self.ring.live_links():
            batch: list[RingMessage] = [Users(records)]
            if names and neighbour is self.ring.right:
                batch.append(Names(names, len(self.ring.servers) - 1))
            effects.append(Send(neighbour.link, batch))
        return effects

    def _merge_users(self, records: bytes, source: Neighbour | None) -> list[Effect]:
        """Take in what a neighbour, or the store (None), knows; what was new goes on to all others."""
        effects: list[Effect] = []
        if self._started and (source is None or source.state is not State.FULL):
            effects += self._conflicts(records)  # over a full link flows what was decided in agreement
        changed = self.users.merge(records)
        if not changed:
            return effects
        if self.pending:
            self.pending.wake_users(user.key for user in unpack(changed))
        return effects + [Send(n.link, [Users(changed)]) for n in self.ring.live_links() if n is not source]

    def _conflicts(self, records: bytes) -> list[Effect]:
        """Count and name the users who live on two hosts by these records and ours (ring-rules 20)."""
        effects: list[Effect] = []
        for theirs in unpack(records):
            mine = self.users.get(theirs.key)
            if mine is None or mine.host == theirs.host or self.hosts.gone(mine):
                continue
            first, later = sorted((mine, theirs), key=lambda user: (user.decided, -user.host))
            if first.seen + self.users.expire > later.decided and not later.flags & BY_HAND:
                self.counters.conflicts += 1
                fields = {"hash": theirs.key >> 32, "from": self._address(first), "to": self._address(later)}
                effects.append(Log(Level.WARNING, "user_on_two_hosts", fields))
        return effects

    def _address(self, user: User) -> str:
        row = self.hosts.by_id(user.host)
        return f"id {user.host:08x}" if row is None else row.address

    # ---- the ring

    def _received(self, event: Received, now: Now) -> list[Effect]:
        neighbour = self.ring.links.get(event.link)
        if neighbour is None:
            return []
        effects: list[Effect] = []
        neighbour.heard = now.mono
        for message in event.messages:
            kind = type(message).__name__
            self.counters.messages_in[kind] = self.counters.messages_in.get(kind, 0) + 1
            before = neighbour.state
            own = neighbour.handle(message, now)
            effects += self._from_neighbour(neighbour, message, now) if own is None else own
            if neighbour.state is not before and neighbour.state is not State.CLOSED:
                effects += self.ring.greeted(neighbour, now)
                if neighbour.state is State.EXCHANGING:
                    effects.append(Send(neighbour.link, [Hosts(list(self.hosts.rows.values()))]))
            if neighbour.state is State.CLOSED:
                break
        return effects

    def _only_users(self, event: Received) -> bool:
        """Whether a frame was what most are, and concerns neither the ring nor anybody who waits."""
        neighbour = self.ring.links.get(event.link)
        if neighbour is None or neighbour.state is State.CLOSED or self._has_work():
            return False
        return all(isinstance(m, Users | Names) for m in event.messages)

    def _from_neighbour(self, neighbour: Neighbour, message: RingMessage, now: Now) -> list[Effect]:
        problem: str | None = None
        match message:
            case Users(records):
                problem = checks.wrong_records(records)
                if problem is None:
                    return self._merge_users(records, neighbour)
            case Hosts(rows):
                problem = checks.wrong_rows(rows)
                if problem is None:
                    return self._hosts_changed(self.hosts.merge(rows), neighbour, now)
            case Token():
                problem = checks.wrong_token(message)
                if problem is None:
                    return self._token(message, now)
            case Names():
                return self._names(neighbour, message)
            case Digests():
                problem = exchange.compare_later(neighbour, message)
            case ExchangeDone(settled):
                neighbour.got_done = True
                neighbour.settled = settled
            case Linked():
                neighbour.linked = True
            case Redirect(member):
                self.ring.redirected(neighbour, MemberId(member), now)
        return [] if problem is None else neighbour.close(problem)

    def _names(self, neighbour: Neighbour, names: Names) -> list[Effect]:
        try:
            if names.hops:
                self.names.add(names.entries)  # fresh from a login: nearly always new
            else:
                self.names.merge(names.entries)
        except ValueError as exc:
            return neighbour.close(str(exc))
        if names.hops > 1 and self.ring.right is not None:
            return [Send(self.ring.right.link, [Names(names.entries, names.hops - 1)])]
        return []

    def _hosts_changed(self, rows: Sequence[HostRow], source: Neighbour | None, now: Now) -> list[Effect]:
        """Rows of the host table are new here: pass them on, and let new users wait if the effective table
        differs."""
        if not rows:
            return []
        self.counters.host_changes += len(rows)
        effects: list[Effect] = [
            Send(n.link, [Hosts(list(rows))]) for n in self.ring.live_links() if n is not source
        ]
        effects.append(StoreHosts())
        for row in rows:
            if not row.present:
                self._housekeeping.forget_host(host_id(row.address), row.present_at, now)
        effects += [_log_row(row) for row in rows] if self._started else []
        before = self._digest
        self._reconfigure()
        if self._started and self._digest != before:
            self.barrier.wait(now, at_once=source is None)
        return effects

    def _token(self, token: Token, now: Now) -> list[Effect]:
        onward = self.barrier.pass_on(token, now, self._digest)
        if onward is None or self.ring.right is None:
            return []
        return [Send(self.ring.right.link, [onward])]

    def _reconfigure(self) -> None:
        self._digest = self.hosts.digest()
        self.assigner.set_backends(self.hosts.backends())
        self.pending.wake()

    def _thawed(self, gap: float, now: Now) -> list[Effect]:
        """We were frozen: suspect ourselves before others, and ask them before we answer anybody."""
        fields = {"seconds": round(gap, 1), "note": "comparing with the neighbours first"}
        self._thawed_at = now.mono
        self._stand.leases = None
        self.ring.thawed(now)
        effects = [Log(Level.WARNING, "frozen", fields), *self._trust.thawed(self.ring, now)]
        if self._started and self.hint:
            self.barrier.wait(now, at_once=True)
        return effects + self._gate(now)

    # ---- after every event

    def _settle(self, now: Now) -> list[Effect]:
        """Bring neighbours, barrier, standing, gate and waiting logins in line with what has happened."""
        effects = self._tick(now)
        effects += self._review_links(now)
        if self._started:
            self._take_stand(now)
        effects += self._change_hosts(now)
        effects += self._send_token(now)
        effects += self._gate(now)
        answers = self._logins.turn(now)
        return [*effects, *self.announce(), *answers]

    def _tick(self, now: Now) -> list[Effect]:
        """Time-outs of links, and one turn's share of what takes long."""
        effects: list[Effect] = []
        for neighbour in list(self.ring.links.values()):
            was_live = neighbour.live
            effects += neighbour.tick(now)
            if was_live and not neighbour.live:
                self.barrier.hold(now.mono + self.identity.ping_timeout + 1)
            if exchange.has_work(neighbour):
                effects += exchange.work(neighbour, self.users, self.names, not self.hint, now)
            exchange.finish(neighbour)
        self._housekeeping.turn(now)
        return effects

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

    def _take_stand(self, now: Now) -> None:
        """Alone, whole, partial?"""
        if not self.barrier.synced and self._known_alone() and not self.barrier.held(now, self._digest):
            self.barrier.release((self.me,), now, self._digest)
        self._stand.review(self.barrier, now)

    def _known_alone(self) -> bool:
        """Nobody is linked with us, and nobody else lives (by the leases) or none can be reached."""
        if not self.ring.unlinked:
            return False
        leases = self._stand.leases
        if leases is not None and leases.isdisjoint(self.ring.rightwards):
            return True
        return self.ring.alone

    def _change_hosts(self, now: Now) -> list[Effect]:
        effects = self.changes.confirm() if self.barrier.synced else []
        while self.barrier.synced and self.changes.can_begin and self.standing is not Standing.WAIT:
            done, row = self.changes.begin(now)
            effects += done
            if row is not None:
                effects += self._hosts_changed([row], None, now)
                self._take_stand(now)
                effects += self.changes.confirm() if self.barrier.synced else []
        return effects + self.changes.overdue(now)

    def _send_token(self, now: Now) -> list[Effect]:
        if self.ring.right is None:
            return []
        token = self.barrier.due(now, self._digest)
        return [] if token is None else [Send(self.ring.right.link, [token])]

    def _gate(self, now: Now) -> list[Effect]:
        """Who may be answered from memory now; wakes the waiting logins when it opens further."""
        effects: list[Effect] = []
        was_hint = self.hint
        settled = self.barrier.synced and self.standing is not Standing.WAIT
        trusted = self._trust.review(self.ring, now, alone=self._known_alone(), settled=settled)
        if was_hint and not self.hint:
            effects.append(Log(Level.INFO, "memory_checked", {"users": len(self.users)}))
        may_hash = self.barrier.synced and self.standing in MAY_HASH
        gate = Gate.CLOSED if not trusted else Gate.OPEN if may_hash else Gate.KNOWN
        before = self.assigner.gate
        if gate is not before:
            self.assigner.gate = gate
            effects.append(Log(Level.INFO, "gate", self._gate_fields(gate)))
            if gate is Gate.OPEN and self.standing is Standing.ISOLATED:
                self.counters.isolated += 1
        claiming = self._stand.claiming and gate is Gate.KNOWN
        if gate > before or (claiming and not self._logins.claiming):
            self.pending.wake()
        self._logins.claiming = claiming
        return effects

    def _gate_fields(self, gate: Gate) -> dict[str, object]:
        return {
            "answers": {Gate.CLOSED: "nobody", Gate.KNOWN: "known users", Gate.OPEN: "everybody"}[gate],
            "standing": self.standing.value,
            "synced": self.barrier.synced,
            "ring": ",".join(self.barrier.ring),
            "waiting": len(self.pending),
        }


def _log_row(row: HostRow) -> Log:
    fields: dict[str, object] = {"host": row.address, "tag": row.tag, "weight": row.weight}
    fields["state"] = ("up" if row.up else "down") if row.present else "removed"
    return Log(Level.INFO, "host_changed", fields)
