"""Random runs of whole rings: `python -m tests.simulation.simulate --seeds N [--seed S] [--trace]`.

A seed decides everything: how many directors, which store, which faults, when. After every step the
invariants are checked; at the end everything is healed and all directors, and the store, must agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from director.core.assign import Gate
from director.types import Address
from tests.simulation.parts import EXPIRE, Outcome, Reply
from tests.simulation.world import LEASE_TTL, UNIX, Node, World

FAMILIES = ("calm", "races", "crashes", "freezes", "cuts", "everything")
"""calm: logins, refreshes, host changes. races: the same on slow links, many in one moment. crashes,
freezes: of one
director at a time. cuts: with a shared store that stays up. In these no user may ever be on two hosts; in
`everything` he may where ring-rules allow it."""
SLOW = (0.002, 0.02, 0.2)
"""Delays of the links in `races`, seconds."""
LATEST_REPLY = 31.0
REMEMBERED = EXPIRE * 2 / 3 - 4
"""Seconds after the last sign of life in which everybody must know a user: `seen` is announced once in a
third of
the expiry, and clocks are off by up to 0.9 s."""
TAIL = 1.0
"""Seconds of choices that a director may take with it when it dies and nobody else is left to remember."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Life:
    """What the outside knows of one user: the last sign of life on a host."""

    host: str
    at: float
    by: Node
    protected: bool


@dataclass
class Run:
    """One seed."""

    seed: int
    world: World = field(init=False)
    family: str = field(init=False)

    def __post_init__(self) -> None:
        self.family = FAMILIES[self.seed % len(FAMILIES)]
        store = "shared" if self.family == "cuts" or self.seed // len(FAMILIES) % 2 else "own"
        directors = 2 + self.seed // (2 * len(FAMILIES)) % 4
        self.world = World(directors, hosts=3, store=store, seed=self.seed, weight=8)
        self.world.on_reply = self.replied
        self.random = self.world.random
        self.names = [f"d{i + 1}" for i in range(directors)]
        self.users = [f"user{i}" for i in range(14)]
        self.replies: list[Reply] = []
        self.outcomes: list[Outcome] = []
        self.lives: dict[str, dict[str, Life]] = {}
        self.newcomers = 0
        self.healed = False
        self.excused = 0
        self.counts: Counter[str] = Counter()
        self.until = 0.0
        """When the fault under way ends."""
        self.store_back = 0.0

    # ---- the schedule

    def run(self) -> None:
        world = self.world
        for node in world.nodes.values():
            node.skew = self.random.choice([0.0, self.random.uniform(-0.9, 0.9)])
        world.duplicates = self.random.choice([0.0, 0.1])
        if self.family == "races" or self.random.random() < 0.2:
            world.delays = SLOW
        if self.family == "races" and self.random.random() < 0.5:
            world.slow = {
                (one, other): self.random.choice(SLOW) * self.random.uniform(0.5, 2)
                for one in world.members
                for other in world.members
            }
        for name in self.random.sample(self.names, len(self.names)):
            world.node(name).start()
            world.run(self.random.choice([0.0, 0.0, 0.5]))
        for _ in range(self.random.randrange(40, 160)):
            self.step()
            world.run(self.random.choice([0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 2.0]))
            self.check_waiting()
        self.rest()

    def step(self) -> None:
        draw = self.random.random()
        if draw < (0.3 if self.family == "races" else 0.05):
            self.race()
        elif draw < 0.55:
            self.login()
        elif draw < 0.72:
            self.refresh()
        elif draw < 0.85:
            self.change_host()
        elif self.family != "calm":
            self.fault()

    def race(self) -> None:
        """A host changes while users whom nobody knows log in everywhere."""
        if self.healed:
            return
        self.change_host()
        for _ in range(self.random.randrange(2, 6)):
            self.newcomers += 1
            for name in self.names:
                wait = self.random.uniform(0, 2) * max(self.world.delays)
                self.world.after(wait, partial(self.ask, f"new{self.newcomers}", name))

    def login(self) -> None:
        user = self.random.choice(self.users)
        for name in self.random.sample(self.names, self.random.choice([1, 1, 1, len(self.names)])):
            self.ask(user, name)

    def ask(self, user: str, name: str) -> None:
        if self.world.node(name).up:
            self.counts["logins"] += 1
            self.replies.append(self.world.login(user, name))

    def refresh(self) -> None:
        """A live session says that it lives, to the director of the machine that proxies it."""
        lives = [(user, life) for user, hosts in self.lives.items() for life in hosts.values()]
        if not lives:
            return
        user, life = self.random.choice(lives)
        node = life.by
        if node.up and not node.frozen and self.world.now < life.at + REMEMBERED:
            self.world.seen(user, self.name(node))
            if self.world.host_at(user, self.name(node)) == life.host:
                life.at = self.world.now
                life.protected = life.protected and self.protected(node)

    def change_host(self) -> None:
        name = self.random.choice(self.names)
        if not self.world.node(name).up or self.world.node(name).frozen:
            return
        address = f"127.0.1.{self.random.randrange(1, 5)}"
        draw = self.random.random()
        if draw < 0.55:
            what: dict[str, object] = {"weight": self.random.choice([0, 2, 8, 20])}
        elif draw < 0.75:
            what = {"up": self.random.random() < 0.6}
        elif draw < 0.9:
            what = {"add": True, "weight": 8}
        else:
            what = {"remove": True}
        self.counts["changes"] += 1
        self.world.log(self.world.node(name), "change", f"{address} {what}")
        self.outcomes.append(self.world.change(name, address, **what))

    def fault(self) -> None:
        """One fault at a time, except in `everything`."""
        world = self.world
        if self.family != "everything" and (world.now < self.until or not world.in_sync()):
            return
        node = world.node(self.random.choice(self.names))
        lasts = self.random.choice([0.2, 1.5, 3.0, 7.0, 12.0, 25.0])
        kind = self.family
        if kind == "everything":
            kind = self.random.choice(["crashes", "freezes", "cuts", "store"])
        self.until = max(self.until, world.now + lasts)
        if kind == "crashes" and node.up:
            self.crash(node)
            world.after(lasts, lambda: None if node.up else self.restart(node))
        elif kind == "freezes" and node.up and not node.frozen:
            life = node.incarnation
            node.freeze()
            world.after(lasts, lambda: node.thaw() if node.frozen and node.incarnation == life else None)
        elif kind == "cuts" and not world.groups:
            world.log(node, "cut", lasts)
            world.cut(*self.random.sample(self.names, self.random.randrange(1, len(self.names))))
            world.after(lasts, world.heal)
            for _ in range(3):  # about when the silence is noticed
                world.after(self.random.uniform(4, 6.5), self.race)
        elif kind == "store":
            world.log(node, "store_away", lasts)
            if node.store.up:
                node.store.up = False
                self.store_back = max(self.store_back, world.now + lasts)
                world.after(lasts, lambda: setattr(node.store, "up", True))

    def restart(self, node: Node) -> None:
        if not node.store.up and self.nobody_else(node):
            self.forget_lives()
        node.start()

    def nobody_else(self, node: Node) -> bool:
        return not any(other.up for other in self.world.nodes.values() if other is not node)

    def forget_lives(self) -> None:
        """Nobody is left who remembers, and the store does not answer: nothing is promised any more."""
        for hosts in self.lives.values():
            for life in hosts.values():
                life.protected = False

    def crash(self, node: Node) -> None:
        if not node.store.up and self.nobody_else(node):
            self.forget_lives()
        for hosts in self.lives.values():
            for life in hosts.values():
                if self.family == "everything" and life.by is node and life.at > self.world.now - TAIL:
                    life.protected = False
        for reply in node.replies.values():
            self.replies.remove(reply)
        self.outcomes = [outcome for outcome in self.outcomes if outcome not in node.outcomes.values()]
        node.crash(silently=self.random.random() < 0.2)

    # ---- the invariants

    def protected(self, node: Node) -> bool:
        """Whether no two hosts are promised for what this director answers now."""
        if self.family != "everything":
            return True
        nodes = self.world.nodes.values()
        if (
            all(n.core.barrier.ring == tuple(self.world.members) for n in nodes if n.up)
            and not self.world.groups
        ):
            return all(n.up and not n.frozen for n in nodes)
        return node.store.shared and node.store.up and self.world.now > self.store_back + 2 * LEASE_TTL

    def replied(self, node: Node, reply: Reply) -> None:
        if reply.host is None:
            self.counts["refused"] += 1
            return
        self.counts["answers"] += 1
        now = self.world.now
        lives = self.lives.setdefault(reply.user, {})
        mine = Life(reply.host, now, node, self.protected(node))
        for other in list(lives.values()):
            if other.host == reply.host:
                continue
            if now >= other.at + REMEMBERED:
                del lives[other.host]
            elif not mine.protected or not other.protected or removed_since(node, other):
                self.excused += 1
                del lives[other.host]
            else:
                raise Violation(f"{reply.user}: {other.host} {now - other.at:.3f} s ago, now {reply.host}")
        lives[reply.host] = mine

    def check_waiting(self) -> None:
        now = self.world.now
        waiting = []
        for reply in self.replies:
            if reply.pending:
                node = self.world.nodes[reply.at]
                waiting.append(reply)
                if not node.frozen and now > max(reply.asked, node.thawed_at) + LATEST_REPLY:
                    raise Violation(f"{reply.user} at {reply.at} waits for {now - reply.asked:.1f} s")
        self.replies = waiting

    def rest(self) -> None:
        """Everything heals; then all must agree, nobody waits, and all that is remembered is stored."""
        world = self.world
        self.healed = True
        world.heal()
        for node in world.nodes.values():
            node.store.up = True
            if node.frozen:
                node.thaw()
            if not node.up:
                node.start()
        world.log(node, "healed", {})
        for second in range(34):
            world.run(1.0)
            self.check_waiting()
            waiting = self.replies or any(outcome.pending for outcome in self.outcomes)
            if second > 7 and not waiting and world.in_sync():
                break
        problems = world.differences() + world.unstored()
        for node in world.nodes.values():
            core = node.core
            if core.assigner.gate is not Gate.OPEN or core.barrier.ring != tuple(world.members):
                problems.append(f"{node.member}: gate {core.assigner.gate.name}, ring {core.barrier.ring}")
            if len(core.pending) or core.next_deadline() == 0.0 or core.barrier.waiting_since is not None:
                problems.append(f"{node.member}: {len(core.pending)} logins wait")
        problems += [f"an operator waits: {outcome}" for outcome in self.outcomes if outcome.pending]
        if problems:
            raise Violation("at rest: " + "; ".join(problems[:4]))

    def name(self, node: Node) -> str:
        return self.names[self.world.members.index(node.member)]


def removed_since(node: Node, life: Life) -> bool:
    """Whether, for this director, the host of a user was removed after his last sign of life there."""
    row = node.core.hosts.rows.get(Address(life.host))
    return row is None or not row.present or row.present_at >= UNIX + life.at - 2


def failure(seed: int, *, trace: bool = False) -> str | None:
    """Run one seed. Returns what went wrong, with the trace of the run, or None."""
    run = Run(seed)
    try:
        run.run()
    except AssertionError as exc:
        return f"seed {seed} ({run.family}): {exc}\n{run.world.trace()}"
    if trace:
        print(run.world.trace())
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seed", type=int, help="the first seed; alone: only this one")
    parser.add_argument(
        "--trace", action="store_true", help="print what happened, also where nothing is wrong"
    )
    options = parser.parse_args()
    first = options.seed or 0
    count = 1 if options.seed is not None and "--seeds" not in sys.argv else options.seeds
    begun = time.perf_counter()
    failed = []
    for seed in range(first, first + count):
        text = failure(seed, trace=options.trace)
        if text is not None:
            failed.append(seed)
            print(text if options.trace or len(failed) == 1 else text.splitlines()[0])
    print(f"{count} seeds, {len(failed)} failed, {count / (time.perf_counter() - begun):.1f} seeds/s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
