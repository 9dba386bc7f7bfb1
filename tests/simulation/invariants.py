"""The invariants of every run, checked while it runs and at its end.

1. A user with a live session on a host is not sent to another host. If sessions are on two hosts all the same
(if the rules allow it, which is excused by name and counted), the kick ends them within KICK_BOUND.
2. Every login is answered or refused within LATEST_REPLY, every command within its own limit.
3. After a move to X was confirmed, the user is on X until the next command about the user.
4. At rest no operation is in progress, all directors and their stores hold the same, and each attribute of a
host has the value of the last confirmed change.
5. A store never goes back: no write drops a user whose assignment holds, or replaces a decision by an earlier
decision. No answer to a login contradicts a record that a shared store has held for a while. Once all
directors agree, the store holds their hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from director.core.moves.kicks import AGAIN_AFTER, KICK_TIMEOUT
from director.core.placement.assign import Gate
from director.core.placement.users import MOVING, ONE_LOGIN, User, has_long_expired, is_unexpired, unpack
from director.core.protocol.messages import HostRow
from director.core.ring.partition import Standing
from director.core.settings import Settings
from director.core.tables.hosts import decode_rows
from director.types import Address, UserKey
from tests.simulation.parts import EXPIRE, Outcome, Reply, Session
from tests.simulation.schedule import Plan
from tests.simulation.world import HASH, LEASE_TTL, UNIX, Node, World

LATEST_REPLY = 31.0
"""Seconds, by the clock of the director that was asked, while it is not suspended."""
KICK_BOUND = KICK_TIMEOUT + AGAIN_AFTER + 1.0
"""Seconds for which a user may have sessions on two hosts: the kick, its second try, and a second for the
ring. Longer links add their delay. Time in which the director of a session is down, suspended,
partitioned off or removed does not count."""
REMEMBERED = EXPIRE * 2 / 3 - 4
"""Seconds after the last sign of a user in which all directors must have the assignment: `seen` is announced
once in a third of the expiry, and clocks are off by up to 0.9 s."""
NOT_REACHED = 45.0
"""Seconds after a director was unreachable in which a move may not have waited for its sessions
(docs/ring.md, rule 27): the move's time-out, and the time until the director is in the ring again."""
KICK_DELAY = Settings().kick_delay
IMPATIENT = 2.0
"""Seconds that a claim may take until all directors know of it."""
PROBE_EVERY = 0.5
LIAR_DELAYS = 12.0
"""The most seconds by which a liar delays a login."""
APART = 12.0
"""Seconds for which a liar can keep the other directors from being in one ring."""
DIFFERED = 15.0
"""Seconds after differing clocks agree again in which directors find each other, and merge their
decisions."""
BEHIND = 9.0
"""Seconds after which a director knows what is in a store it shares: it notices a silent loss of the
others within ring.ping_timeout, and then reads the store every half second."""
STORED = 6.0
"""Seconds without a change of hosts after which the store holds them, if all directors agree."""
SECOND = 1.0
"""The unit of stamps."""
NOT_REMEMBERED = "not remembered, or dropped early: the table was full"
"""The excuse for two hosts of a user (docs/ring.md, rules 48, 49)."""


STAMPS = ("present_at", "tag_at", "weight_at", "up_at")
"""The stamps of a host's row."""


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {text}")


@dataclass
class Command:
    """A command of an operator."""

    kind: str
    at: Node
    life: int
    outcome: Outcome
    begun: float
    within: float
    what: Mapping[str, Any] = field(default_factory=dict)
    ended: float | None = None
    lost: bool = False
    """Whether its director ended before it could answer."""
    stored: bool = False
    """Whether a store has received the change of a host. If not, the change is lost with the last director
    that knows it."""

    @property
    def done(self) -> bool:
        return self.outcome.done is not None or self.outcome.users is not None


@dataclass
class ConfirmedMove:
    """The answer to an operator that a user is on this host now."""

    host: str
    at: float
    by: Node


class Watch:
    def __init__(self, world: World, plan: Plan) -> None:
        self.world, self.plan = world, plan
        self.counts: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.replies: list[Reply] = []
        self.commands: list[Command] = []
        self.host_changes: list[Command] = []
        self._unstored: list[Command] = []
        """Confirmed changes of hosts that are being written."""
        self.command_at: dict[tuple[str, str], float] = {}
        """The time when an operator's command last concerned a user."""
        self.command_for_all_at = -1e9
        """The time when a command last concerned all users, including the newest."""
        self.named: set[tuple[str, str]] = set()
        """Users that a lie has named. Nothing is promised for them."""
        self.hostless_at = 0.0
        """The time when a pool was last without a usable host."""
        self.swallowed_at = 0.0
        """The time when a liar last swallowed tokens. New users wait then, and made-up rings last longer."""
        self.apart_since: float | None = None
        """The time since when honest members are not in one ring because one of them lies."""
        self.growing = False
        """Whether an operator is adding directors, one after the other. Until then the others refuse them."""
        self.confirmed_moves: dict[tuple[str, str], ConfirmedMove] = {}
        self.out_of_reach_at: dict[Node, float] = {}
        """The time when a director was last out of reach of the others."""
        self.store_reachable_at = self.partitioned_until = 0.0
        self.all_memory_lost = False
        """Whether there was a moment without a director that remembered, and with a store that could not
        answer."""
        self.stepped_at = -1e9
        """The time when clocks last stepped. Expiry, and which record is newer, may then be judged
        wrongly."""
        self.differed_at = -1e9
        """The time when clocks were last found to differ."""
        self.retag_at = -1e9
        """The time when a host was last given another tag, which moves its users."""
        self._lap = plan.directors * max([*plan.delays, *plan.slow])
        """Seconds that a message may take round the ring."""
        self._two_since: dict[tuple[str, str], float] = {}
        self._keys = [(user, HASH.key(user.encode(), tag.encode())) for user, tag in plan.users]
        self._dropped: set[UserKey] = set()
        """Users who were dropped early by a director."""
        self._answered_at: dict[UserKey, float] = {}
        self._stored_at: dict[UserKey, float] = {}
        """The time when the store's record of a user was written."""
        self._hosts_changed_at = 0.0
        self._agreed: dict[Address, HostRow] = {}
        """The hosts on which all directors agree, and since when."""
        self._agreed_since: float | None = None
        for node in world.nodes.values():
            node.store.on_bucket, node.store.on_document = self.bucket_written, self.document_written
        world.on_reply = self.answered
        world.on_drop = self.dropped
        world.after(PROBE_EVERY, self._probe)

    # ---- circumstances

    @property
    def clocks_differ(self) -> bool:
        """Whether directors have clocks that stepped by different amounts."""
        return len({node.stepped for node in self.world.nodes.values()}) > 1

    def clocks_stepped(self) -> None:
        """Note that clocks have just stepped, or were corrected."""
        now = self.world.now
        self.stepped_at = now
        if self.clocks_differ:
            self.differed_at = now

    def listed(self) -> list[Node]:
        """Return the directors that are up and were not removed."""
        return [node for node in self.world.ups() if not node.core.ring.removed]

    def in_sync(self) -> bool:
        """Whether these directors form one ring and answer all users."""
        nodes = self.listed()
        ring = tuple(node.member for node in nodes)
        return all(
            n.core.barrier.ring == ring and n.core.assigner.gate is Gate.OPEN and not n.suspended
            for n in nodes
        )

    def out_of_reach(self, node: Node) -> bool:
        if not node.up or node.suspended or node.core.ring.removed or node.core.assigner.gate is Gate.CLOSED:
            return True
        if self.world.now < self.partitioned_until + 8 or node.core.standing in (
            Standing.WAIT,
            Standing.ISOLATED,
        ):
            return True
        others = [other for other in self.listed() if other is not node and not other.suspended]
        return sum(node.member not in other.core.barrier.ring for other in others) * 2 > len(others)

    def protected(self, node: Node) -> bool:
        """Whether the answer of this director must not lead to two hosts now (docs/ring.md, rules 12, 13
        and 37)."""
        if self.world.now < self.differed_at + DIFFERED:
            return False
        if self.plan.family != "everything":
            return True
        nodes = self.world.nodes.values()
        complete = all(
            n.up and not n.suspended and n.core.barrier.ring == tuple(self.world.members) for n in nodes
        )
        if complete and not self.world.groups:
            return True
        return (
            node.store.shared and node.store.up and self.world.now > self.store_reachable_at + 2 * LEASE_TTL
        )

    def forget(self, why: str, before: float = 0.0, by: Node | None = None) -> None:
        """Promise nothing more for sessions since `before`: the directors that knew of them are gone."""
        for node, session in self._sessions():
            if session.since >= before and by in (None, node):
                session.excused = session.excused or why
        self.confirmed_moves.clear()

    def _sessions(self) -> Iterator[tuple[Node, Session]]:
        return ((node, session) for node in self.world.nodes.values() for session in node.sessions)

    # ---- answers

    def answered(self, node: Node, reply: Reply) -> None:
        if reply.host is None:
            self.counts["refused"] += 1
            return
        self.counts["answers"] += 1
        user = reply.user, reply.tag
        self._answered_at[key_of(reply)] = self.world.now
        for machine, session in self._sessions():
            if (session.user, session.tag) != user or session.host == reply.host:
                continue
            why = self._excuse(node, Address(reply.host), machine, session)
            if not why:
                since = f"{self.world.now - session.heard:.3f} s ago"
                text = f"{reply.user}: session on {session.host} {since}, now sent to {reply.host}"
                raise Violation("two hosts", text)
            session.excused = why
            self.excused[why] += 1
        self._check_confirmed_move(user, node, reply.host)
        self._check_behind(node, reply)

    def _excuse(self, node: Node, host: Address, machine: Node, session: Session) -> str:
        """Return why a user may be answered with another host than that of this session.

        The removal of a host makes no user wait: it ends sessions, including a session to a host whose
        removal the director had not heard of.
        """
        now, user = self.world.now, (session.user, session.tag)
        out_of_reach_at = now if self.out_of_reach(machine) else self.out_of_reach_at.get(machine, 0.0)
        rows = node.core.hosts.rows.get(Address(session.host)), machine.core.hosts.rows.get(host)
        by_hand = max(self.command_at.get(user, 0.0), self.command_for_all_at) > session.since - 1
        if user in self.named:
            return "named by a liar"
        if session.excused:
            return session.excused
        if session.kick_failed:
            return "kick failed"
        if session.late:
            return "in flight at the first kick, and the second kick was slow"
        if out_of_reach_at > now - KICK_BOUND:
            return "director out of reach"
        if any(r is None or not r.present or r.present_at >= UNIX + session.since - 2 for r in rows):
            return "host removed"
        if now >= session.heard + REMEMBERED:
            return "expired"
        if self.stepped_at > session.heard - 1:
            return "clocks have stepped"
        if self._unremembered(session) or node.users.get(key_of(session)) is None:
            return NOT_REMEMBERED
        if by_hand and out_of_reach_at > now - NOT_REACHED:
            return "move did not reach it"
        if by_hand and self.forgotten(user, now):
            return "forgotten"
        if (
            self.world.impatient.get(HASH.key(session.user.encode(), session.tag.encode()), 0.0)
            > session.since - IMPATIENT
        ):
            return "claimed after five seconds, while the ring answered another login"
        moved = by_hand or self.retag_at > session.since - 1
        if moved and self.plan.flush_program and session.since > now - KICK_DELAY:
            return "in flight while the flush program ran"
        if not self.protected(node):
            return "store unreachable and ring incomplete"
        return ""

    def dropped(self, node: Node, user: User) -> None:
        """Check that a director was allowed to drop a user early."""
        self.counts["dropped early"] += 1
        self._dropped.add(user.key)
        backend = node.core.hosts.by_id(user.host)
        home = None if backend is None else node.core.assigner.place(user.key >> 32, backend.tag.encode())
        if user.flags != ONE_LOGIN or home is None or home.id != user.host:
            raise Violation("dropped early", f"{user} at {node.member}, the hash puts it on {home}")
        if node not in self.listed():
            return  # it answers no login, and compares records when it is in the ring again
        for other in self.listed():
            theirs = other.users.get(user.key)
            refreshed = theirs is not None and theirs.decided == user.decided and theirs.flags != user.flags
            if refreshed and self.in_sync() and self.world.now > self._last_seen(user.key) + self._lap + 1:
                raise Violation("dropped early", f"{user} at {node.member}, {theirs} at {other.member}")

    def _unremembered(self, session: Session) -> bool:
        """Whether possibly no director knows this session's user."""
        return not session.remembered or key_of(session) in self._dropped

    def _last_seen(self, key: UserKey) -> float:
        """Return when a user last logged in, or a session was last announced."""
        heard = [session.heard for _, session in self._sessions() if key_of(session) == key]
        return max([self._answered_at.get(key, 0.0), *heard])

    def forgotten(self, user: tuple[str, str], now: float) -> bool:
        """Whether a `forget` is in progress: it kicks, but makes no user wait."""
        return any(c.kind == "forget" and (c.ended is None or now < c.ended + 1) for c in self.commands)

    def _check_confirmed_move(self, user: tuple[str, str], node: Node, host: str) -> None:
        confirmed = self.confirmed_moves.get(user)
        if confirmed is None or user in self.named:
            return
        row = node.core.hosts.rows.get(Address(confirmed.host))
        if row is None or not row.present or row.present_at >= UNIX + confirmed.at - 2:
            del self.confirmed_moves[user]
        elif (
            self.world.now > confirmed.at + REMEMBERED
            or self.out_of_reach(node)
            or self.stepped_at > confirmed.at - 1
        ):
            return
        elif host != confirmed.host and self.protected(node):
            raise Violation(
                "confirmed otherwise", f"{user[0]} was moved to {confirmed.host}, and is sent to {host}"
            )

    # ---- stores

    @property
    def _stamps_grow(self) -> bool:
        """Whether a later stamp is a later decision: not if clocks step, or a director lies."""
        return self.plan.family not in ("clocks", "liar")

    def bucket_written(self, before: bytes, after: bytes) -> None:
        """Check a new content of a bucket of users in a store."""
        old = {user.key: user for user in unpack(before)}
        new = {user.key: user for user in unpack(after)}
        for key, user in new.items():
            if key not in old or old[key].decided != user.decided or old[key].host != user.host:
                self._stored_at[key] = self.world.now
        if not self._stamps_grow:
            return
        unix = int(UNIX + self.world.now) + 2
        for key, user in old.items():
            now = new.get(key)
            if now is not None and now.decided < user.decided:
                raise Violation("store went back", f"{user} was replaced by {now}")
            may_go = has_long_expired(user, unix, EXPIRE) or (self.plan.max_users and user.flags == ONE_LOGIN)
            if now is None and not may_go:
                raise Violation("store went back", f"{user} was dropped")

    def document_written(self, name: str, before: bytes, after: bytes) -> None:
        """Check a new content of a document in a store."""
        if name != "hosts":
            return
        self._hosts_changed_at = self.world.now
        if not before or not self._stamps_grow:
            return
        rows = {row.address: row for row in decode_rows(after)}
        for row in decode_rows(before):
            now = rows.get(row.address)
            if now is None or any(getattr(now, at) < getattr(row, at) for at in STAMPS):
                raise Violation("store went back", f"{row} was replaced by {now}")

    def _check_behind(self, node: Node, reply: Reply) -> None:
        store, now, key = node.store, self.world.now, key_of(reply)
        if not (store.shared and store.up and self._stamps_grow) or self.plan.max_users:
            return
        stored, mine = store.user(key), node.users.get(key)
        if stored is None or stored.flags & MOVING or now < self.store_reachable_at + BEHIND:
            return
        if mine is not None and mine.decided >= stored.decided:
            return
        host = node.core.hosts.by_id(stored.host)
        if host is None or host.address == reply.host or node.core.hosts.host_removed(stored):
            return
        since = self._stored_at.get(key, now)
        if self.retag_at > since - 1 or not is_unexpired(stored, int(node.unix), EXPIRE):
            return
        if now > since + BEHIND:
            text = f"{reply.user} was sent to {reply.host}, the store has {stored} for {now - since:.1f} s"
            raise Violation("behind the store", text)

    def _check_stored(self) -> None:
        """Check that the hosts are in the store once all directors agree."""
        nodes = self.listed()
        stored_by = (
            max(self._hosts_changed_at, self.store_reachable_at, self.stepped_at, self.differed_at) + STORED
        )
        rows = nodes[0].core.hosts.rows if nodes else {}
        if not (rows and self.in_sync() and all(n.store.up and n.core.hosts.rows == rows for n in nodes)):
            self._agreed_since = None
            return
        if self._agreed != rows or self._agreed_since is None:
            self._agreed, self._agreed_since = rows.copy(), self.world.now
        if self.world.now < max(stored_by, self._agreed_since + STORED):
            return
        for node in nodes:
            if node.store.rows != node.core.hosts.rows:
                raise Violation("not stored", f"hosts of {node.member} for {STORED} s")

    # ---- commands

    def begin(self, command: Command, users: list[tuple[str, str]]) -> None:
        """Begin a command about `users`."""
        self.counts[command.kind] += 1
        self.commands.append(command)
        if command.kind == "host":
            self.host_changes.append(command)
            if "tag" in command.what["sets"]:
                self.retag_at = self.world.now
        if command.kind in ("flush", "forget"):
            self.command_for_all_at = self.world.now
        for user in users:
            self.command_at[user] = self.world.now
            self.confirmed_moves.pop(user, None)

    def _end(self, command: Command) -> None:
        command.ended = self.world.now
        if command.kind == "host" and command.at.store.up:
            self._unstored.append(command)
        if command.kind != "move" or command.outcome.users is None or command.what.get("early"):
            return
        users, user = command.outcome.users, command.what["user"]
        if (
            user in self.named
            or users.superseded
            or self.command_at[user] > command.begun
            or self._others_about(command)
        ):
            return
        if not self.protected(command.at) or self.all_memory_lost or self.stepped_at > command.begun - 1:
            return
        self.counts["moves confirmed"] += 1
        host = command.what["host"]
        where = self.world.host_of(command.at, *user)
        if where != host:
            raise Violation("confirmed otherwise", f"{user[0]} was moved to {host}, and is on {where}")
        self.confirmed_moves[user] = ConfirmedMove(host, self.world.now, command.at)

    def _others_about(self, command: Command) -> bool:
        """Whether another command that may concern the same user ran at the same time."""
        meanwhile = [c for c in self.commands if c.ended is None or c.ended >= command.begun - 2]
        return any(c is not command and self._concerns(c, command.what) for c in meanwhile)

    @staticmethod
    def _concerns(command: Command, move: Mapping[str, Any]) -> bool:
        if command.kind == "host":
            return "present" in command.what["sets"] and command.what["address"] == move["host"]
        return command.kind in ("flush", "forget") or command.what.get("user") == move["user"]

    # ---- all the time

    def _probe(self) -> None:
        self.check()
        self.world.after(PROBE_EVERY, self._probe)

    def check(self) -> None:
        now = self.world.now
        if self.clocks_differ:
            self.differed_at = now
        for node in self.world.nodes.values():
            if self.out_of_reach(node):
                self.out_of_reach_at[node] = now
        if self.plan.liar:
            self._check_honest()
        self._check_replies()
        for command in self.commands:
            if command.ended is not None:
                continue
            if command.at.incarnation != command.life or not command.at.up:
                command.lost, command.ended = True, now
            elif not command.outcome.pending:
                self._end(command)
            elif (
                not command.at.suspended and now > max(command.begun, command.at.resumed_at) + command.within
            ):
                raise Violation("command hangs", f"{command.kind} {command.what} since {command.begun:.1f}")
        self._note_stored()
        self._check_sessions()
        self._check_moving()
        self._check_size()
        self._check_stored()

    def _note_stored(self) -> None:
        """Note which changes of hosts have been written. A director that ends writes nothing more."""
        running = [c for c in self._unstored if c.at.up and c.at.incarnation == c.life]
        for command in running:
            command.stored = command.at.persistence.core.documents.hosts.stored
        self._unstored = [command for command in running if not command.stored]

    def _check_replies(self) -> None:
        waiting = []
        for reply in self.replies:
            node = self.world.nodes[reply.at]
            if not reply.pending or reply not in node.replies.values():
                continue
            waiting.append(reply)
            waited = self.world.now - max(reply.asked, node.resumed_at)
            named = (reply.user, reply.tag) in self.named
            late = self.plan.liar and not named
            since = max(reply.asked, self.hostless_at, self.swallowed_at)
            if late and self.world.now > since + LIAR_DELAYS:
                raise Violation("liar delays", f"{reply.user} at {reply.at} waits for {waited:.1f} s")
            if not node.suspended and waited > LATEST_REPLY:
                raise Violation("login hangs", f"{reply.user} at {reply.at} waits for {waited:.1f} s")
        self.replies = waiting

    def _check_sessions(self) -> None:
        now = self.world.now
        hosts: dict[tuple[str, str], set[str]] = {}
        machines: dict[tuple[str, str], set[Node]] = {}
        for node, session in self._sessions():
            if not session.kick_failed and not self._unremembered(session):
                user = session.user, session.tag
                hosts.setdefault(user, set()).add(session.host)
                machines.setdefault(user, set()).add(node)
        two = {user for user, of_user in hosts.items() if len(of_user) > 1}
        self._two_since = {user: self._two_since.get(user, now) for user in sorted(two)}
        bound = KICK_BOUND + 2 * self._lap
        for user, since in self._two_since.items():
            counts_from = max(
                [since, self.stepped_at, *(self.out_of_reach_at.get(node, 0.0) for node in machines[user])]
            )
            if now > counts_from + bound and user not in self.named:
                text = f"{user} on {sorted(hosts[user])} for {now - since:.1f} s"
                raise Violation("kick bound", text)

    def _check_honest(self) -> None:
        """Check that honest members stay in one ring, and that each knows this of all others."""
        for node in self.world.ups():
            usable = {
                row.tag for row in node.core.hosts.rows.values() if row.present and row.up and row.weight
            }
            if not usable.issuperset(tag for _, tag in self.plan.users):
                self.hostless_at = self.world.now
        liar = self.world.node(self.plan.liar)
        self.swallowed_at = max(self.swallowed_at, min(liar.swallows_until, self.world.now))
        honest = [node for node in self.world.nodes.values() if node is not liar]
        members = {node.member for node in honest}
        together = all(n.up and members <= set(n.core.barrier.ring) for n in honest)
        together = together or self.growing
        self.apart_since = None if together else (self.apart_since or self.world.now)
        if self.apart_since is not None and self.world.now > max(self.apart_since, self.swallowed_at) + APART:
            rings = {node.member: node.core.barrier.ring for node in honest}
            raise Violation("apart", f"for {self.world.now - self.apart_since:.1f} s: {rings}")

    def _check_moving(self) -> None:
        for node in self.world.ups():
            for user, key in self._keys:
                record = node.users.get(key)
                if record is None or not record.flags & MOVING or key in node.core.moves.moving.by_key:
                    continue
                if node.core.next_deadline() != 0.0:  # else the work is left for the next turn
                    raise Violation(
                        "move without end", f"{user} is being moved on {node.member}, and no director ends it"
                    )

    def _check_size(self) -> None:
        """Check the size of tables.

        Each side of a partition holds as many users as the limit. Operators and listed sessions add users
        beyond it. Some users that a side has dropped early may return from the other side, or from a store.
        """
        most = 2 * self.plan.max_users * self.plan.directors + len(self.command_at)
        most += len(self.world.listed_users)
        for node in self.world.ups() if self.plan.max_users else ():
            if len(node.users) > most:
                raise Violation("too many users", f"{len(node.users)} at {node.member}, {most} at most")

    # ---- at rest

    def check_rest(self) -> None:
        world = self.world
        removed = all(node.core.ring.removed for node in world.nodes.values())
        problems = [] if removed else world.differences() + world.unstored()
        for node in world.nodes.values():
            core = node.core
            if node.store.members != core.members.rows:
                problems.append(f"members of {node.member}")
            if core.ring.removed:
                # Two directors may remove each other at the same time. Then no director is left, and none
                # serves.
                if core.assigner.gate is not Gate.CLOSED:
                    problems.append(f"{node.member}: was removed and serves")
                continue
            if core.assigner.gate is not Gate.OPEN or core.barrier.ring != tuple(world.members):
                problems.append(f"{node.member}: gate {core.assigner.gate.name}, ring {core.barrier.ring}")
            unfinished = {name: number for name, number in in_progress(node).items() if number}
            if unfinished:
                problems.append(f"{node.member}: {unfinished} in progress")
        problems += self._lost_changes()
        if problems:
            raise Violation("at rest", "; ".join(problems[:4]))

    def _lost_changes(self) -> list[str]:
        """Return the attributes of hosts whose value is not that of the last confirmed change, or of a
        later unconfirmed one."""
        if self.all_memory_lost or all(node.core.ring.removed for node in self.world.nodes.values()):
            return []
        lost = []
        rows = self.world.ups()[0].core.hosts.rows
        for address, name in sorted(
            {(c.what["address"], a) for c in self.host_changes for a in c.what["sets"]}
        ):
            changes = [c for c in self.host_changes if c.what["address"] == address]
            about = [c for c in changes if name in c.what["sets"]]
            appearances = [c for c in changes if "present" in c.what["sets"]]
            confirmed = [c for c in about if c.done and c.stored]
            if not confirmed:
                continue
            if any(c.begun < self.differed_at + DIFFERED for c in confirmed):
                continue  # stamps do not show which was later
            last = max(c.begun for c in confirmed)
            if name != "present" and any(c.ended is None or c.ended >= last - 3 for c in appearances):
                continue
            may_hold = [c for c in about if c.done or c.lost or "made here" in (c.outcome.failed or "")]
            # A change that was not stored may be lost with the directors that knew it. Then the value before
            # it holds. A change that was confirmed only just before may be unknown at the director of the
            # last change. So may the stamp of a value that held already, which is confirmed at once: it wins
            # over a change of the same second.
            values = [
                c.what["sets"][name]
                for c in may_hold
                if c.ended is None
                or c.ended + self._lap + 3 * c.lost >= last
                or (c.ended == c.begun and c.ended + SECOND > last)
            ]
            row = rows.get(address)
            holds = getattr(row, name) if row is not None else False
            self.counts["changes checked"] += 1
            if holds not in values:
                lost.append(f"{name} of {address} is {holds}, the last change made it {values}")
        return lost


def key_of(one: Session | Reply) -> UserKey:
    return HASH.key(one.user.encode(), one.tag.encode())


def in_progress(node: Node) -> dict[str, int]:
    """Return the numbers that must be 0 at rest."""
    core = node.core
    return {
        "logins": len(core.pending),
        "kicks": len(core.kicks),
        "moves": len(core.moves),
        "moves led": core.moves.led,
        "flushes": len(core.jobs),
        "near": len(core.near),
        "held": core.assigner.users_held,
        "kick rounds": len(core.kick_rounds),
        "changes": int(core.changes.next_deadline(without_sync=False) is not None),
        "work": int(core.next_deadline() == 0.0),
        "barrier": int(core.barrier.waiting_since is not None),
    }
