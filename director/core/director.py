"""The director: one facade over everything that decides. `handle(event, now)` returns what is to be done.

Order within one call (ring-rules 5): records leave first, then tokens, then answers to logins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from director.core import exchange
from director.core.addresses import host_id
from director.core.assign import Assigner, Backend, Gate, Wait
from director.core.barrier import Barrier
from director.core.effects import (
    Answer,
    Claim,
    Effect,
    Level,
    Log,
    Refuse,
    Send,
    StoreHosts,
)
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
from director.core.pending import PENDING_TIMEOUT, Pending, Waiting
from director.core.ring import Ring, log_neighbours
from director.core.standing import MAY_HASH, Standing, judge
from director.core.users import BUCKETS, User, UserTable, pack
from director.types import Address, HostId, LinkId, MemberId, Now, Stamp, UserKey

SLICE = 1000
"""Waiting logins tried again in one turn of the loop."""
SWEEP_SECONDS = 60
"""In this time every bucket is looked through for expired records once."""
CLAIM_AFTER = 5.0
"""Seconds without sync after which new users are settled in the shared store (ring-rules 37)."""
SWEEP_SLICE = 128
"""Buckets of one turn where many are walked."""


class Counters(msgspec.Struct):
    """Plain numbers for the metrics; never reset."""

    answered_later: int = 0
    conflicts: int = 0
    """Users whom a merge took from a host where they were still alive, and nobody had moved by hand."""
    refused: int = 0
    claims: int = 0
    isolated: int = 0
    host_changes: int = 0
    messages_in: dict[str, int] = msgspec.field(default_factory=dict)


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
        self.barrier = Barrier(identity.member)
        self.pending = Pending()
        self.changes = HostChanges(hosts)
        self.counters = Counters()
        self.standing = Standing.WAIT
        self.hint = True
        """What is in memory has not been compared with anybody yet: a hint, no more (ring-rules 28)."""
        self.isolation_wait = isolation_wait
        self._leases: frozenset[MemberId] | None = None
        self._smaller_since: float | None = None
        self._claiming: set[UserKey] = set()
        self._digest = b""
        self._asked_after_thaw: dict[LinkId, int] = {}
        """Pings whose answers show that what the neighbours sent while we were frozen has been read."""
        self._forgetting: deque[_Forgetting] = deque()
        self._was_claiming = False
        self._sweep_at = 0.0
        self._sweep_bucket = 0
        self._started = False
        self._stopping = False
        self._reconfigure()

    # ---- what happened

    def handle(self, event: Event, now: Now) -> list[Effect]:
        self.assigner.unix = int(now.unix)
        effects = self._announce()
        match event:
            case TableChanged():
                return effects
            case Lookup():
                return effects + self._lookup(event, now)
            case Received():
                effects += self._received(event, now)
            case Seen(names):
                self._seen(names)
            case TimerFired():
                pass
            case Dropped(requests):
                self.pending.drop(requests)
                return effects
            case Started():
                self._started = True
                self.barrier.wait(now, at_once=True)
                self.ring.start()
                self._sweep_at = now.mono + 1
            case LinkOpened(link, nonce, remote, dialled):
                effects += self.ring.opened(link, remote, dialled, nonce, now)
            case DialFailed(member):
                self.ring.dial_failed(member, now)
            case LinkClosed(link, reason):
                effects += self.ring.closed(link, reason, now)
            case Congested(link, clear):
                if link in self.ring.links:
                    self.ring.links[link].congested = not clear
            case HostChange():
                self.changes.add(event, now)
            case StoredUsers(records):
                effects += self._merge_users(records, None)
            case StoredHosts(rows):
                rows = self.hosts.merge(rows) if self._started else self.hosts.merge_stored(rows)
                effects += self._hosts_changed(rows, None, now)
            case Claimed(key, records):
                self._claiming.discard(key)
                effects += self._merge_users(records, None)
                effects += self._announce()
                effects += self._try(self.pending.of(key), now)
            case ClaimFailed(key):
                self._claiming.discard(key)
            case Leases(alive):
                self._leases = alive
            case Thawed(gap):
                effects += self._thawed(gap, now)
            case Stopping():
                self._stopping = True
                for neighbour in list(self.ring.links.values()):
                    effects += neighbour.close("the director stops", level=Level.INFO)
                return effects
        return effects + self._settle(now)

    def next_deadline(self) -> float | None:
        """Monotonic time at which `TimerFired` is due; in the past where work is left over for the next turn."""
        busy = self.pending.awake or self._forgetting or any(map(exchange.has_work, self.ring.links.values()))
        if busy:
            return 0.0
        deadlines = [
            self.ring.next_deadline(),
            self.barrier.next_deadline() if self.ring.right else None,
            self.pending.next_deadline(),
            self.changes.next_deadline(),
            self._sweep_at if self._started else None,
        ]
        if self.standing is Standing.WAIT and self._smaller_since is not None:
            deadlines.append(self._smaller_since + self.isolation_wait)
        if not self.barrier.synced and self.barrier.waiting_since is not None and self._leases is not None:
            claim_at = self.barrier.waiting_since + CLAIM_AFTER
            deadlines.append(claim_at if self.standing is not Standing.CLAIM else None)
        return min((d for d in deadlines if d is not None), default=None)

    @property
    def synced(self) -> bool:
        return self.barrier.synced

    @property
    def partial(self) -> bool:
        """Somebody who lives is outside the ring: the store is kept an eye on (ring-rules 12)."""
        return self.standing is Standing.CLAIM

    # ---- logins

    def _lookup(self, event: Lookup, now: Now) -> list[Effect]:
        """A login the hot path could not answer: try once more with the state as it is, else let it wait."""
        answer = self.assigner.assign(event.key, event.tag)
        if isinstance(answer, Backend):
            return [*self._announce(), Answer(event.request, event.key, answer)]
        self.pending.add(event.request, event.key, event.tag, now.mono, answer)
        return self._claim([(event.key, event.tag, answer)])

    def _try(self, waiting: Iterable[Waiting], now: Now) -> list[Effect]:
        answers: list[Effect] = []
        claims: list[tuple[UserKey, bytes, Wait]] = []
        for one in waiting:
            answer = self.assigner.assign(one.key, one.tag)
            if isinstance(answer, Backend):
                self.pending.remove(one.request)
                self.counters.answered_later += 1
                answers.append(Answer(one.request, one.key, answer))
            else:
                one.wait = answer
                claims.append((one.key, one.tag, answer))
        return [*self._announce(), *self._claim(claims), *answers]

    def _claim(self, waiting: Iterable[tuple[UserKey, bytes, Wait]]) -> list[Effect]:
        """New users in a partial ring: ask the store, once for each user."""
        if self.standing is not Standing.CLAIM or self.hint:
            return []
        effects: list[Effect] = []
        for key, tag, wait in waiting:
            backend = self.assigner.place(key >> 32, tag) if wait is Wait.RING else None
            if backend is None or key in self._claiming:
                continue
            self._claiming.add(key)
            old = self.users.get(key)
            unix = self.assigner.unix
            decided = Stamp(max(unix, old.decided + 1) if old else unix)
            effects.append(Claim(key, pack([User(key, backend.id, decided, unix, 0)])))
            self.counters.claims += 1
        return effects

    def _refuse(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for one in self.pending.overdue(now.mono):
            self.counters.refused += 1
            reason = f"{one.wait.value}, waited {PENDING_TIMEOUT:.0f} s"
            effects.append(Refuse(one.request, reason))
            effects.append(
                Log(
                    Level.ERROR,
                    "lookup_timed_out",
                    {"hash": one.key >> 32, "tag": one.tag.decode(errors="replace"), "reason": reason},
                )
            )
        return effects

    def _seen(self, names: Iterable[bytes]) -> None:
        tags = {row.tag.encode() for row in self.hosts.present()} | {b""}
        for name in names:
            for tag in tags:
                self.users.touch(self.assigner.user_hash.key(name, tag), self.assigner.unix)

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

    def _from_neighbour(self, neighbour: Neighbour, message: RingMessage, now: Now) -> list[Effect]:
        match message:
            case Users(records):
                if len(records) % 22:
                    return neighbour.close(f"user records of {len(records)} bytes are not a multiple of 22")
                return self._merge_users(records, neighbour)
            case Hosts(rows):
                problem = _bad_row(rows)
                if problem is not None:
                    return neighbour.close(problem)
                return self._hosts_changed(self.hosts.merge(rows), neighbour, now)
            case Token():
                return self._token(message, now)
            case Digests():
                problem = exchange.compare_later(neighbour, message)
                return [] if problem is None else neighbour.close(problem)
            case ExchangeDone(settled):
                neighbour.got_done = True
                neighbour.settled = settled
            case Linked():
                neighbour.linked = True
            case Redirect(member):
                self.ring.redirected(neighbour, MemberId(member), now)
            case Names(entries, hops):
                self.names.add(entries)
                if hops > 1 and self.ring.right is not None:
                    return [Send(self.ring.right.link, [Names(entries, hops - 1)])]
        return []

    def _announce(self) -> list[Effect]:
        """What the table has changed by itself goes to all neighbours, one message each."""
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
        changed = self.users.merge(records)
        if not changed:
            return []
        if self.pending:
            self.pending.wake()
        return [Send(n.link, [Users(changed)]) for n in self.ring.live_links() if n is not source]

    def _hosts_changed(self, rows: Sequence[HostRow], source: Neighbour | None, now: Now) -> list[Effect]:
        """Rows of the host table are new here: pass them on, and let new users wait if the effective table differs."""
        if not rows:
            return []
        self.counters.host_changes += len(rows)
        effects: list[Effect] = [
            Send(n.link, [Hosts(list(rows))]) for n in self.ring.live_links() if n is not source
        ]
        effects.append(StoreHosts())
        for row in rows:
            if not row.present:
                self._forgetting.append(_Forgetting(host_id(Address(row.address)), row.present_at + 1))
        effects += [_log_row(row) for row in rows] if self._started else []
        if self.hosts.digest() != self._digest:
            self._reconfigure()
            if self._started:
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
        effects: list[Effect] = [
            Log(Level.WARNING, "frozen", {"seconds": round(gap, 1), "note": "comparing with the neighbours first"})
        ]
        self._asked_after_thaw = {}
        for neighbour in self.ring.live_links():
            neighbour.heard = now.mono
            effects += neighbour.ping(now)
            self._asked_after_thaw[neighbour.link] = neighbour.last_ping
        return effects

    # ---- after every event

    def _settle(self, now: Now) -> list[Effect]:
        """Bring neighbours, barrier, standing, gate and waiting logins in line with what has happened."""
        effects = self._tick(now)
        effects += self._work(now)
        effects += self._review_links(now)
        self._stand(now)
        effects += self._change_hosts(now)
        effects += self._send_token(now)
        effects += self._gate(now)
        if self.pending.awake:
            effects += self._try(self.pending.to_try(SLICE), now)
        return effects + self._refuse(now)

    def _tick(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for neighbour in list(self.ring.links.values()):
            was_live = neighbour.live
            effects += neighbour.tick(now)
            if was_live and not neighbour.live:
                self.barrier.hold(now.mono + self.identity.ping_timeout + 1)
        if self._started and now.mono >= self._sweep_at:
            self._sweep_at = now.mono + 1
            for _ in range(-(-BUCKETS // SWEEP_SECONDS)):
                self._sweep(self._sweep_bucket, int(now.unix))
                self._sweep_bucket = (self._sweep_bucket + 1) % BUCKETS
        return effects

    def _sweep(self, number: int, unix: int) -> None:
        if self.users.sweep(number, unix):
            self.names.sweep(number, lambda key: self.users.get(UserKey(key)) is not None)

    def _review_links(self, now: Now) -> list[Effect]:
        had_right, had_left = self.ring.right, self.ring.left
        lost = any(n is not None and n.state is State.CLOSED for n in (had_right, had_left))
        effects = self.ring.review(now)
        right_is_new = self.ring.right is not None and self.ring.right is not had_right
        if self.ring.right is not had_right or self.ring.left is not had_left:
            effects.append(log_neighbours(self.ring))
        if lost or (right_is_new and not self.barrier.synced):
            self.barrier.wait(now, at_once=True)
        elif right_is_new:
            self.barrier.probe(now)
        return effects + self.ring.dials(now)

    def _work(self, now: Now) -> list[Effect]:
        """One turn's share of what takes long: exchanges under way, users of removed hosts."""
        effects: list[Effect] = []
        for neighbour in self.ring.live_links():
            if exchange.has_work(neighbour):
                effects += exchange.work(neighbour, self.users, self.names, not self.hint, now)
            exchange.finish(neighbour)
        if self._forgetting:
            job = self._forgetting[0]
            for number in range(job.bucket, job.bucket + SWEEP_SLICE):
                self.users.forget_host(number, job.host, job.before)
            job.bucket += SWEEP_SLICE
            if job.bucket >= BUCKETS:
                self._forgetting.popleft()
        return effects

    def _stand(self, now: Now) -> None:
        """Alone, whole, partial?"""
        if self.ring.unlinked and self._started and not self.barrier.synced and self._known_alone():
            self.barrier.release((self.me,), now, self._digest)
        waited = 0.0 if self._smaller_since is None else now.mono - self._smaller_since
        standing = judge(self.ring.servers, self.barrier.ring, self._leases, waited, self.isolation_wait)
        stuck = (
            not self.barrier.synced
            and self.barrier.waiting_since is not None
            and now.mono - self.barrier.waiting_since >= CLAIM_AFTER
        )
        if stuck and self._leases is not None and standing in MAY_HASH:
            standing = Standing.CLAIM
        if standing not in (Standing.WAIT, Standing.ISOLATED):
            self._smaller_since = None
        elif self._smaller_since is None and self._started:
            self._smaller_since = now.mono
        self.standing = standing

    def _known_alone(self) -> bool:
        others = set(self.ring.servers) - {self.me}
        if self._leases is not None and not (self._leases & others):
            return True
        return self.ring.alone

    def _change_hosts(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        if self.barrier.synced:
            effects += self.changes.confirm()
        while self.barrier.synced and self.changes.can_begin and self.standing is not Standing.WAIT:
            done, row = self.changes.begin(now)
            effects += done
            if row is not None:
                effects += self._hosts_changed([row], None, now)
                if self.barrier.synced:
                    effects += self.changes.confirm()
                elif self.ring.unlinked:
                    self._stand(now)
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
        if self.hint and self._memory_checked():
            self.hint = False
            effects.append(Log(Level.INFO, "memory_checked", {"users": len(self.users)}))
        may_hash = self.barrier.synced and self.standing in MAY_HASH
        gate = Gate.CLOSED if self.hint or self._just_thawed() else Gate.OPEN if may_hash else Gate.KNOWN
        before = self.assigner.gate
        if gate is not before:
            self.assigner.gate = gate
            effects.append(Log(Level.INFO, "gate", self._gate_fields(gate)))
            if gate is Gate.OPEN and self.standing is Standing.ISOLATED:
                self.counters.isolated += 1
            if gate > before:
                self.pending.wake()
        if self.partial and not self._was_claiming:
            self.pending.wake()
        self._was_claiming = self.partial
        return effects

    def _gate_fields(self, gate: Gate) -> dict[str, object]:
        return {
            "answers": {Gate.CLOSED: "nobody", Gate.KNOWN: "known users", Gate.OPEN: "everybody"}[gate],
            "standing": self.standing.value,
            "synced": self.barrier.synced,
            "ring": ",".join(self.barrier.ring),
            "waiting": len(self.pending),
        }

    def _memory_checked(self) -> bool:
        if not self._started:
            return False
        if any(n.state is State.FULL and n.settled for n in self.ring.links.values()):
            return True
        return self.barrier.synced and self.standing is not Standing.WAIT

    def _just_thawed(self) -> bool:
        for link, serial in list(self._asked_after_thaw.items()):
            neighbour = self.ring.links.get(link)
            if neighbour is None or not neighbour.live or neighbour.pong_serial >= serial:
                del self._asked_after_thaw[link]
        return bool(self._asked_after_thaw)


class _Forgetting(msgspec.Struct):
    """Dropping the users of a removed host, bucket by bucket."""

    host: HostId
    before: int
    bucket: int = 0


def _bad_row(rows: Iterable[HostRow]) -> str | None:
    for row in rows:
        if not 0 <= row.weight <= 0xFFFFFFFF or "\t" in row.tag or "\n" in row.tag:
            return f"host row of {row.address!r} with weight {row.weight} and tag {row.tag!r} cannot be right"
    return None


def _log_row(row: HostRow) -> Log:
    fields: dict[str, object] = {"host": row.address, "tag": row.tag, "weight": row.weight}
    fields["state"] = ("up" if row.up else "down") if row.present else "removed"
    return Log(Level.INFO, "host_changed", fields)
