"""Runs the actions of a plan on a world. An action that is impossible at its time is skipped."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from director.core.protocol.effects import Send
from director.core.protocol.kicktypes import ByField, ByName, HashOnHosts, KickWhat, OnHost
from director.core.protocol.messages import HostRow
from director.core.settings import Settings
from director.core.tables.hosts import BackendSetting
from director.stored.pace import FLUSH_WITHIN
from director.types import Address
from tests.simulation.invariants import Command, Watch
from tests.simulation.lies import LIES, Liar
from tests.simulation.parts import EXPIRE, Outcome, hash32
from tests.simulation.schedule import HOSTS, TAG, Plan
from tests.simulation.store import Content
from tests.simulation.world import HASH, LEASE_TTL, UNIX, Node, World

TAIL = 0.3
"""Seconds beyond the turn of the write-behind queue for which an assignment may be unstored."""
SNAPSHOT = 0.1
"""Seconds between two copies of the store to which a failover may return."""
LOADS = (0.0, 0.05, 0.7, 3.0)
"""Seconds that a director may take to read its store, chosen by the seed."""
BUSIEST = 6000
"""The most events in one second of a ring of seven directors."""
ALONE = (
    "crash",
    "suspend",
    "partition",
    "stop",
    "member",
    "one_way",
    "failover",
    "late_change",
    "lapse",
    "store",
    "replace",
)
"""Faults that come one at a time, except in `everything`."""


def built(plan: Plan) -> World:
    """Return the world of a plan. No director is started."""
    world = World(plan.directors, hosts=3, store=plan.store, seed=plan.seed, weight=8)
    if plan.tagged:
        world.settings += [
            BackendSetting(Address(f"127.0.1.{number}"), "", TAG, 8) for number in range(HOSTS, HOSTS + 2)
        ]
    world.settings_of_core = Settings(
        max_parallel_moves=plan.parallel, flush_program=plan.flush_program, max_users=plan.max_users
    )
    world.proxying = world.refreshing = True
    world.busiest = BUSIEST
    world.load_takes = LOADS[plan.seed % len(LOADS)]
    world.duplicates, world.delays, world.store_takes = plan.duplicates, tuple(plan.delays), plan.store_takes
    for node, skew in zip(world.nodes.values(), plan.skews, strict=True):
        node.skew = skew
    pairs = [(one, other) for one in world.members for other in world.members]
    world.slow = dict(zip(pairs, plan.slow, strict=False))
    remove_added(world, plan)
    if plan.on_the_way:
        chance = world.chance(*[next(iter(world.nodes.values()))] * 2)
        world.on_the_way = lambda: chance.choice([0.0, chance.uniform(0, plan.on_the_way)])
    return world


def remove_added(world: World, plan: Plan) -> None:
    """Remove the directors that will be added from the configurations of all others."""
    added = [world.node(name).member for name in plan.added]
    configured = [member for member in world.members if member not in added]
    for member in world.members if added else []:
        world.servers[member] = [one for one in world.members if one in configured or one == member]


class Player:
    def __init__(self, world: World, plan: Plan, watch: Watch) -> None:
        self.world, self.plan, self.watch = world, plan, watch
        self.until = 0.0
        """The time when the present fault ends."""
        self.healed = False
        self._newcomers = 0
        self._snapshots: list[tuple[float, Content]] = []
        if any(action.what in ("failover", "late_change") for action in plan.actions):
            world.after(SNAPSHOT, self._snapshot)

    def do(self, what: str, args: Sequence[Any]) -> None:
        """Run an action, if it is possible now."""
        alone = what in ALONE and self.plan.family != "everything"
        sound = self.watch.in_sync() or self.watch.clocks_differ
        if alone and (self.world.now < self.until or not sound):
            return
        self.world.log(self.world.node("d1"), "action", f"{what} {' '.join(map(str, args))}")
        getattr(self, what)(*args)

    def add(self) -> None:
        """Add the directors that are in no other director's configuration, as an operator does."""
        at = next(name for name in self.plan.names if name not in self.plan.added)
        self.watch.growing = bool(self.plan.added)
        for name in self.plan.added:
            self.watch.counts["added"] += 1
            self.world.change_member(at, name)
            self.world.run(1)
        self.world.run_until_in_sync(30)
        self.watch.growing = False

    def _node(self, name: str) -> Node | None:
        """Return a director if it can be asked."""
        node = self.world.node(name)
        return node if node.up and not node.suspended else None

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Schedule the end of a fault, unless all faults are healed before."""
        self.until = max(self.until, self.world.now + seconds)
        self.world.after(seconds, lambda: None if self.healed else call())

    # ---- users

    def login(self, user: str, tag: str, names: Sequence[str]) -> None:
        for name in names:
            self._ask(user, tag, name)

    def _ask(self, user: str, tag: str, name: str) -> None:
        if self.world.node(name).up:
            self.watch.counts["logins"] += 1
            self.watch.replies.append(self.world.login(user, name, tag))

    def logout(self, user: str, tag: str) -> None:
        for node in self.world.nodes.values():
            for session in node.sessions:
                if (session.user, session.tag) == (user, tag) and session.arrived:
                    node.sessions = [one for one in node.sessions if one is not session]
                    self.watch.counts["logouts"] += 1
                    return

    def hang_up(self, number: int) -> None:
        waiting = [reply for reply in self.watch.replies if reply.pending]
        waiting = [reply for reply in waiting if reply in self.world.nodes[reply.at].replies.values()]
        if waiting:
            self.watch.counts["hang-ups"] += 1
            reply = waiting[number % len(waiting)]
            self.watch.replies.remove(reply)
            self.world.hang_up(reply)

    def race(self, name: str, address: str, what: dict[str, Any], waits: Sequence[Sequence[float]]) -> None:
        if self.healed:
            return
        self.host(name, address, what)
        for user_waits in waits:
            self._newcomers += 1
            for wait, at in zip(user_waits, self.plan.names, strict=True):
                self.world.after(wait, partial(self._ask, f"new{self._newcomers}", "", at))

    def near(self, user: str, tag: str, offset: float, waits: Sequence[float], elsewhere: str | None) -> None:
        """End a user's sessions, and log the user in at all directors about when the assignment expires."""
        key = HASH.key(user.encode(), tag.encode())
        records = [record for node in self.world.ups() if (record := node.users.get(key)) is not None]
        if not records:
            return
        at = max(record.seen for record in records) + EXPIRE - UNIX + offset
        if not 0 < at - self.world.now < EXPIRE + 7:
            return
        for node in self.world.nodes.values():
            node.sessions = [s for s in node.sessions if (s.user, s.tag) != (user, tag)]
        self.watch.counts["near expiry"] += 1
        row = self.world.ups()[0].core.hosts.by_id(max(records, key=lambda r: r.decided).host)
        if elsewhere is not None and row is not None:
            drain = partial(self.host, elsewhere, row.address, {"weight": 0})
            self.world.after(max(0.0, at - self.world.now - 2.0), drain)
        for wait, name in zip(waits, self.plan.names, strict=True):
            self.world.after(at + wait - self.world.now, partial(self._ask, user, tag, name))

    # ---- operators

    def host(self, name: str, address: str, what: dict[str, Any]) -> None:
        node = self._node(name)
        if node is None:
            return
        before = node.core.hosts.get(Address(address))
        if before is not None and before.tag and "add" in what:
            return  # with another tag than the host has
        sets: dict[str, Any] = {k: v for k, v in what.items() if k in ("weight", "up", "tag")}
        if "remove" in what:
            sets = {"present": False}
        elif "add" in what:
            sets["present"] = True
        outcome = self.world.change(name, address, **what)
        self._begin("host", node, outcome, 61.0, [], address=Address(address), sets=sets)

    def retag(self, name: str, address: str, tag: str) -> None:
        """Change the pool of a host. When all directors know it, the users of its old pool are moved."""
        node = self._node(name)
        before = None if node is None else node.core.hosts.get(Address(address))
        if node is None or before is None or before.tag == tag:
            return
        life, old_tag = node.incarnation, before.tag.encode()
        outcome = self.world.change(name, address, tag=tag, retag=True)
        users = self.plan.users
        self._begin("host", node, outcome, 61.0, users, address=Address(address), sets={"tag": tag})
        self.watch.counts["retags"] += 1

        def follow() -> None:
            if outcome.pending and node.up and node.incarnation == life:
                self.world.after(0.1, follow)
            elif isinstance(outcome.done, HostRow) and self._node(name) and node.incarnation == life:
                moving = self.world.flush(name, address, old_tag=old_tag, before=outcome.done.tag_at)
                self._begin("flush", node, moving, self._flush_bound, self.plan.users)

        follow()

    @property
    def _flush_bound(self) -> float:
        return 62.0 + 31.0 * len(self.plan.users) / self.plan.parallel

    def _begin(
        self,
        kind: str,
        node: Node,
        outcome: Outcome,
        within: float,
        users: list[tuple[str, str]],
        **what: Any,
    ) -> None:
        command = Command(kind, node, node.incarnation, outcome, self.world.now, within, what)
        self.watch.begin(command, users)

    def move(
        self,
        name: str,
        user: str,
        tag: str,
        address: str,
        how: dict[str, Any],
        before: Sequence[str] = (),
        after: Sequence[Sequence[Any]] = (),
    ) -> None:
        self.login(user, tag, before)
        node = self._node(name)
        row = None if node is None else node.core.hosts.get(Address(address))
        if node is None or (row is not None and row.tag != tag):
            return
        outcome = self.world.move(name, user, address, tag, **how)
        self._begin("move", node, outcome, 62.0, [(user, tag)], user=(user, tag), host=address, **how)
        for at, wait in after:
            self.world.after(wait, partial(self._ask, user, tag, at))

    def pin(self, name: str, user: str, tag: str, address: str, *around: Any) -> None:
        self.watch.counts["pins"] += 1
        self.move(name, user, tag, address, {"pin": True}, *around)

    def unpin(self, name: str, user: str, tag: str) -> None:
        node = self._node(name)
        if node is not None:
            outcome = self.world.unpin(name, user, tag)
            self._begin("unpin", node, outcome, 62.0, [(user, tag)], user=(user, tag))

    def contest(
        self, user: str, tag: str, one: list[str], other: list[str], wait: float, *around: Any
    ) -> None:
        self.move(one[0], user, tag, one[1], {}, *around)
        self.world.after(wait, lambda: self.move(other[0], user, tag, other[1], {}))

    def flush(self, name: str, address: str | None) -> None:
        node = self._node(name)
        if node is not None:
            outcome = self.world.flush(name, address)
            self._begin("flush", node, outcome, self._flush_bound, self.plan.users)

    def forget(self, name: str, address: str | None) -> None:
        node = self._node(name)
        if node is not None:
            self._begin("forget", node, self.world.forget(name, address), 62.0, self.plan.users)

    def interrupt(self) -> None:
        for command in self.watch.commands:
            if command.kind == "flush" and command.ended is None and self._is_asked(command):
                self.world.interrupt(self.name(command.at), command.outcome)

    @staticmethod
    def _is_asked(command: Command) -> bool:
        return command.at.up and not command.at.suspended and command.at.incarnation == command.life

    def kick(self, name: str, how: str, user: str, address: str) -> None:
        node = self._node(name)
        if node is None:
            return
        kinds: dict[str, KickWhat] = {
            "name": ByName(user.encode()),
            "field": ByField("user_session", user.encode()),
            "host": OnHost(address),
            "hash": HashOnHosts(hash32(user), [address]),
        }
        self._begin("kick", node, self.world.kick(name, kinds[how]), 62.0, [])

    def member(self, name: str, removed: str, back_at: str, lasts: float) -> None:
        node = self._node(name)
        if node is None or len(self.watch.listed()) < 2:
            return
        outcome = self.world.change_member(name, removed, remove=True)
        self._begin("member", node, outcome, 62.0, [])

        def back() -> None:
            others = [n for n in (back_at, *self.plan.names) if n != removed]
            at = next((n for n in others if self._node(n) and not self._removed(n)), None)
            if at is not None:
                outcome = self.world.change_member(at, removed)
                self._begin("member", self.world.node(at), outcome, 62.0, [])

        self._later(lasts, back)

    def _removed(self, name: str) -> bool:
        return self.world.node(name).core.ring.removed

    # ---- faults

    def lose(self, what: str, seconds: float) -> None:
        self.watch.counts["lost tokens"] += 1
        lose = self.world.lose_tokens if what == "tokens" else self.world.lose_rounds
        lose(seconds)

    def channel(self, name: str, takes: float | None, lasts: float) -> None:
        """Make the kicks of a machine slow, or leave them unanswered."""
        node = self.world.node(name)
        usual = Node(self.world, node.member, node.store).kick_channel
        node.kick_channel = lambda: takes
        self.watch.counts["slow kicks"] += 1
        self.world.after(lasts, lambda: setattr(node, "kick_channel", usual))

    def crash(self, name: str, lasts: float, silently: bool, cold: bool) -> None:
        node = self.world.node(name)
        if not node.up:
            return
        self.watch.counts["crashes"] += 1
        self._before_end(node)
        node.crash(silently=silently)
        cold = cold and not node.store.shared and not self._is_last(node) and not self.plan.added

        def restart() -> None:
            if not node.up:
                self._start(node, cold=cold and not self._is_last(node) and self.watch.in_sync())

        self._later(lasts, restart)

    def _is_last(self, node: Node) -> bool:
        return not any(other.up for other in self.world.nodes.values() if other is not node)

    def _before_end(self, node: Node) -> None:
        """Excuse the loss of records that only this director has: they may be lost with it."""
        now, alone = self.world.now, self._is_last(node)
        unstored = now - FLUSH_WITHIN - TAIL
        if alone and not node.store.up:
            self.watch.all_memory_lost = True
            self.watch.forget("no director remembers")
        elif alone or self.plan.family == "everything":
            since = min(unstored, self.watch.store_reachable_at - FLUSH_WITHIN - 2)
            self.watch.forget(
                "lost before it was stored", unstored if now > self.watch.store_reachable_at + 3 else since
            )

    def _start(self, node: Node, *, cold: bool = False) -> None:
        if cold:
            self.watch.counts["cold starts"] += 1
            node.store.clear()
        if not node.store.up and self._is_last(node):
            self.watch.all_memory_lost = True
            self.watch.forget("no director remembers")
        node.start()

    def stop(self, name: str, lasts: float) -> None:
        """Stop a director in an orderly way, and start it some time later."""
        node = self._node(name)
        if node is None:
            return
        self.watch.counts["stops"] += 1
        life = node.incarnation
        if self._is_last(node) and not node.store.up:
            self._before_end(node)
        node.stop()

        def check() -> None:
            assert not node.up or node.incarnation != life or node.suspended, f"{name} does not stop"

        self.world.after(3.0, check)
        self._later(lasts + 3.0, lambda: None if node.up else self._start(node))

    def suspend(self, name: str, lasts: float) -> None:
        node = self._node(name)
        if node is None:
            return
        self.watch.counts["suspensions"] += 1
        life = node.incarnation
        node.suspend()
        self._later(lasts, lambda: node.resume() if node.suspended and node.incarnation == life else None)

    def partition(self, names: Sequence[str], lasts: float, races: Sequence[Sequence[Any]]) -> None:
        if self.world.groups or len(self.plan.names) < 2:
            return
        self.watch.counts["partitions"] += 1
        self.world.partition_off(*names)
        self.watch.partitioned_until = self.world.now + lasts
        self._later(lasts, lambda: setattr(self.world, "groups", {}))
        for wait, *race in races:
            self.world.after(wait, partial(self.race, *race))

    def one_way(self, name: str, lasts: float) -> None:
        """Make a director unreachable for dialling from its next start on. It can dial the others."""
        node = self.world.node(name)
        if not node.up or len(self.plan.names) < 2:
            return
        self.watch.counts["one way"] += 1
        self.world.blocked = {(m, node.member) for m in self.world.members if m != node.member}
        self.crash(name, 0.5, silently=False, cold=False)
        self._later(lasts + 10, lambda: setattr(self.world, "blocked", set()))

    def store(self, name: str, lasts: float) -> None:
        store = self.world.node(name).store
        if not store.up:
            return
        self.watch.counts["store outages"] += 1
        store.up = False
        self.watch.store_reachable_at = max(self.watch.store_reachable_at, self.world.now + lasts)
        self._later(lasts, lambda: setattr(store, "up", True))

    def failover(self, seconds: float) -> None:
        """Replace the content of the shared store by an earlier copy. All directors notice the new run id."""
        old = [held for at, held in self._snapshots if at <= self.world.now - seconds]
        store = next(iter(self.world.nodes.values())).store
        if not old or not store.shared or not store.up:
            return
        self.watch.counts["failovers"] += 1
        store.restore(old[-1])
        self.watch.store_reachable_at = max(self.watch.store_reachable_at, self.world.now)
        self.until = max(self.until, self.world.now + 3.0)

    def late_change(self, name: str, address: str, what: dict[str, Any], wait: float) -> None:
        """Change a host just before a failover of the store, which loses the change."""
        self.host(name, address, what)
        self._later(wait, lambda: self.failover(wait))

    def lapse(
        self, first: str, second: str, users: Sequence[Sequence[str]], address: str, change: Sequence[Any]
    ) -> None:
        """Suspend the last director beyond its lease.

        Another director starts, moves users or changes a host, and stops; then the first director continues.
        """
        node, other = self.world.node(first), self.world.node(second)
        if not node.up or node.suspended or not node.store.shared or not node.store.up:
            return
        self.watch.counts["lapses"] += 1
        for name in self.plan.names:
            if name != first and self._node(name):
                self.world.node(name).stop()

        def begin() -> None:
            if not other.up and node.up and not self.world.ups()[1:]:
                node.suspend()
                self._later(LEASE_TTL + 1, lambda: None if other.up else self._start(other))

        def act() -> None:
            if self._node(second) is None or not node.suspended:
                return
            for user, tag in users:
                self.move(second, user, tag, address, {}, [second], [])
            if change:
                self.host(second, *change)

        def leave() -> None:
            if self._node(second) is not None and node.suspended:
                other.stop()

        def continue_first() -> None:
            for user, tag in users:
                if node.suspended:
                    self._ask(user, tag, first)
            if node.suspended:
                node.resume()

        def restart() -> None:
            for name in self.plan.names:
                if not self.world.node(name).up:
                    self._start(self.world.node(name))

        for seconds, step in (
            (4.0, begin),
            (11.0, act),
            (21.0, leave),
            (25.0, continue_first),
            (28.0, restart),
        ):
            self._later(seconds, step)

    def _snapshot(self) -> None:
        store = next(iter(self.world.nodes.values())).store
        self._snapshots = [*self._snapshots[-15:], (self.world.now, store.copy())]
        self.world.after(SNAPSHOT, self._snapshot)

    def skew(self, name: str, seconds: float) -> None:
        self.watch.counts["clock jumps"] += 1
        self.world.node(name).skew = seconds

    def clocks(self, names: Sequence[str], step: float, lasts: float) -> None:
        """Step the clocks of these directors, and correct them later."""
        self.watch.counts["clock steps"] += 1
        nodes = [self.world.node(name) for name in names]
        for node in nodes:
            node.stepped = step
        self.watch.clocks_stepped()

        def correct() -> None:
            if not self.healed:
                for node in nodes:
                    node.stepped = 0.0
                self.watch.clocks_stepped()

        self.world.after(lasts, correct)

    def replace(self, name: str) -> None:
        """Replace a director in place."""
        node = self._node(name)
        if node is not None:
            self.watch.counts["replacements"] += 1
            self._before_end(node)
            node.replace()

    def lie(self, kind: str, seed: int, all_neighbours: bool) -> None:
        """Have the liar send a lie to one of its neighbours, or to all."""
        node = self._node(self.plan.liar)
        links = [] if node is None else node.core.ring.live_links()
        if node is None or not links or self.healed:
            return
        chance = random.Random(seed)
        liar = Liar(self.world, node, self.plan.users, chance)
        messages = LIES[kind](liar)
        self.watch.named |= liar.named
        self.watch.counts["lies"] += len(messages)
        for link in links if all_neighbours else [chance.choice(links)]:
            if messages:
                node.run([Send(link.link, messages)])

    def heal(self) -> None:
        """End all faults, and start all directors."""
        world = self.world
        self.healed = True
        world.groups, world.blocked = {}, set()
        self.watch.partitioned_until = min(self.watch.partitioned_until, world.now)
        if self.plan.liar:  # start an honest program instead of the liar
            world.node(self.plan.liar).crash()
            world.node(self.plan.liar).swallows_until = 0.0
        for node in world.nodes.values():
            node.stepped = 0.0
        self.watch.clocks_stepped()
        for node in world.nodes.values():
            node.kick_channel = Node(world, node.member, node.store).kick_channel
            node.store.up = True
            if node.suspended:
                node.resume()
        for node in world.nodes.values():
            if not node.up:
                self._start(node)
        world.log(node, "healed", {})

    def restore(self) -> None:
        """Start all directors that were stopping when all was healed, and add all removed directors again."""
        for name in self.plan.names:
            node = self.world.node(name)
            if not node.up:
                self._start(node)
            other = next((n for n in self.plan.names if n != name and self._in_the_ring(n)), None)
            if other is not None and node.member not in self.world.node(other).core.ring.servers:
                self.world.change_member(other, name)

    def _in_the_ring(self, name: str) -> bool:
        return self._node(name) is not None and not self._removed(name)

    def name(self, node: Node) -> str:
        return self.plan.names[self.world.members.index(node.member)]
