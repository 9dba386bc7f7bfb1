"""The events of a random run. All of them are drawn from the seed up front, as data.

So a run can be written to a file, replayed, and shortened. An action names its object. An action that is
impossible at its time (a login at a director that is down) is skipped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.simulation.lies import LIES
from tests.simulation.parts import bucket_mates

FAMILIES = (
    "calm",
    "races",
    "moves",
    "crashes",
    "near",
    "kicks",
    "suspensions",
    "tags",
    "partitions",
    "members",
    "failovers",
    "stores",
    "clocks",
    "liar",
    "everything",
)
"""calm: logins and host changes. races: the same on slow links, many at the same moment. moves: operators
move, flush, forget, pin, kick. near: assignments about to expire. kicks: moves over slow and silent
kick channels. crashes, suspensions (directors suspended), partitions (partitions), members (added, removed,
stopped, reachable one way), failovers (of a store that loses its last second), stores (shared; the last
director is suspended beyond its lease while another one starts, moves users and stops; hosts change
just before a failover), clocks (of some or all directors step, with starts, stops and replacements
between): one fault at a time, with some of all other events. liar: a member lies (`lies.py`). In
`everything` faults coincide."""
FAST = [0.0002, 0.001, 0.005]
SLOW = [0.002, 0.02, 0.2]
"""Delays of links in seconds."""
STEPS = [1.0, 3600.0, 86400.0, 10 * 365.25 * 86400]
"""Seconds by which clocks step."""
HOSTS = 5
"""The most backend hosts; three are configured."""
TAG = "gold"
FEW = 10
"""`users.max` if it is less than the number of users."""
FAULTS = ("crash", "suspend", "partition", "stop", "member", "one_way", "store", "failover", "skew")

GROWS = ("members", "partitions", "crashes", "suspensions", "liar")
"""Families in whose runs directors may be added at run time."""

USUAL = {"login": 50, "logout": 6, "host": 9, "hang_up": 1, "race": 3}
BY_HAND = {"move": 5, "pin": 1, "unpin": 1, "flush": 2, "forget": 1, "kick": 2, "contest": 2, "interrupt": 1}
MIX: Mapping[str, Mapping[str, int]] = {
    "calm": USUAL,
    "races": USUAL | {"race": 35},
    "moves": USUAL | {name: 4 * often for name, often in BY_HAND.items()} | {"lose": 4},
    "near": USUAL | {"near": 25, "move": 2, "lose": 2},
    "kicks": USUAL | {name: 3 * often for name, often in BY_HAND.items()} | {"channel": 10},
    "tags": USUAL | BY_HAND | {"retag": 10},
    "crashes": USUAL | BY_HAND | {"crash": 10, "near": 2},
    "suspensions": USUAL | BY_HAND | {"suspend": 10, "near": 2},
    "partitions": USUAL | BY_HAND | {"partition": 10, "near": 2},
    "members": USUAL | BY_HAND | {"stop": 6, "member": 6, "one_way": 3},
    "failovers": USUAL | BY_HAND | {"store": 5, "failover": 8, "crash": 3},
    "stores": USUAL | BY_HAND | {"lapse": 8, "late_change": 8, "store": 3, "partition": 3, "crash": 2},
    "liar": USUAL | {"move": 2, "flush": 1, "lie": 60},
    "clocks": USUAL | BY_HAND | {"clocks": 6, "crash": 4, "stop": 4, "replace": 4},
    "everything": USUAL
    | BY_HAND
    | dict.fromkeys(FAULTS, 3)
    | {"near": 3, "lose": 2, "channel": 2, "retag": 2},
}
"""How frequent each event is in each family."""


class Action(msgspec.Struct, array_like=True, frozen=True):
    at: float
    what: str
    args: list[Any]

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.what} {' '.join(map(str, self.args))}"


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """One run. Times are seconds from its beginning."""

    seed: int
    family: str
    directors: int
    store: str
    skews: list[float]
    delays: list[float]
    slow: list[float]
    """The delays from each director to each other in turn; empty: all links are alike."""
    duplicates: float
    store_takes: float = 1.0
    """How many times longer than usual each call to a store takes."""
    on_the_way: float
    """The most seconds that a login process takes to connect with a backend."""
    parallel: int
    flush_program: bool
    tagged: bool
    starts: list[tuple[str, float]]
    """Directors in the order in which they are started, with the pause after each."""
    actions: list[Action]
    liar: str = ""
    """The director that lies until all is healed; empty: there is none."""
    max_users: int = 0
    """`users.max` of all directors, less than the number of users; 0: none."""
    added: list[str] = []
    """Directors that are in no other director's configuration. An operator adds them before the first
    action."""
    found: str = ""
    """The violation that this run once had."""

    @property
    def names(self) -> list[str]:
        return [f"d{number + 1}" for number in range(self.directors)]

    @property
    def users(self) -> list[tuple[str, str]]:
        """Names of users and their tags."""
        plain = [(name, "") for name in bucket_mates(14)]
        return plain + [(name, TAG) for name, _ in plain[:5]] if self.tagged else plain

    def __str__(self) -> str:
        setting = (
            f"{self.directors} directors, {self.store} store, clocks {self.skews}, delays {self.delays}"
            f"{f', links {self.slow}' if self.slow else ''}, duplicates {self.duplicates}"
        )
        lines = [f"seed {self.seed}, family {self.family}: {setting}", f"starts {self.starts}"]
        return "\n".join([*lines, *map(str, self.actions)])

    def write(self, path: Path) -> None:
        path.write_bytes(
            msgspec.json.format(msgspec.json.encode(self), indent=0).replace(b"\n", b" ") + b"\n"
        )

    @classmethod
    def read(cls, path: Path) -> Plan:
        return msgspec.json.decode(path.read_bytes(), type=cls)


def drawn(seed: int) -> Plan:
    """Return the run of a seed."""
    chance = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    directors = chance.choice([1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 7])
    if family in ("partitions", "members", "stores"):
        directors = max(2, directors)
    if family == "liar":
        directors = max(3, directors)
    shared = family in ("partitions", "failovers", "stores") or chance.random() < 0.5
    names = [f"d{number + 1}" for number in range(directors)]
    slow = family == "races" or chance.random() < 0.2
    uneven = slow and chance.random() < 0.5
    # Over a slow link a greeting arrives late, which uses up a part of the 2 s by which clocks may differ.
    share = 0.7 if slow else 1.0
    plan = Plan(
        seed=seed,
        family=family,
        directors=directors,
        store="shared" if shared else "own",
        skews=[chance.choice([0.0, _skew(chance) * share]) for _ in names],
        delays=SLOW if slow else FAST,
        slow=[round(chance.choice(SLOW) * chance.uniform(0.5, 2), 4) for _ in range(directors**2)]
        if uneven
        else [],
        duplicates=chance.choice([0.0, 0.1]),
        store_takes=chance.choice([1.0, 1.0, 5.0]),
        on_the_way=chance.choice([0.0, 0.1, 0.9]),
        parallel=chance.choice([2, 5, 100]),
        flush_program=chance.random() < 0.2,
        tagged=family == "tags" or chance.random() < 0.15,
        starts=[(name, chance.choice([0.0, 0.0, 0.5])) for name in chance.sample(names, directors)],
        actions=[],
        liar=chance.choice(names) if family == "liar" else "",
        # With its own random generator, so that the rest of the run is the same as without it.
        max_users=FEW if family not in ("clocks", "liar") and _is_full(seed) else 0,
        added=_added(seed, names) if family in GROWS else [],
    )
    draw = _Draw(chance, plan)
    return msgspec.structs.replace(plan, actions=draw.actions())


def _is_full(seed: int) -> bool:
    return random.Random(f"{seed} users.max").random() < 1 / 8


def _added(seed: int, names: list[str]) -> list[str]:
    """Return some of the directors in half of the runs, never all."""
    chance = random.Random(f"{seed} added")
    many = chance.randrange(1, len(names)) if len(names) > 1 and chance.random() < 1 / 2 else 0
    return sorted(chance.sample(names, many))


def _skew(chance: random.Random) -> float:
    return round(chance.uniform(-0.9, 0.9), 3)


class _Draw:
    def __init__(self, chance: random.Random, plan: Plan) -> None:
        self.chance, self.plan, self.names = chance, plan, plan.names

    def actions(self) -> list[Action]:
        mix = MIX[self.plan.family]
        kinds = self.chance.choices(list(mix), list(mix.values()), k=self.chance.randrange(30, 130))
        pauses = [0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 2.0]
        if self.plan.family == "near":
            pauses += [5.0, 20.0]
        if self.plan.family == "stores":
            pauses += [5.0, 10.0]  # the events of this family take half a minute
        at = sum(pause for _, pause in self.plan.starts) + 0.2
        actions = []
        for kind in kinds:
            at = round(at + self.chance.choice(pauses), 4)
            how: Callable[[], list[Any]] = getattr(self, f"_{kind}", list)
            actions.append(Action(at, kind, how()))
        return actions

    def _director(self) -> str:
        return self.chance.choice(self.names)

    def _user(self) -> list[str]:
        return list(self.chance.choice(self.plan.users))

    def _address(self, many: int = 3) -> str:
        return f"127.0.1.{self.chance.randrange(1, 1 + many)}"

    def _lasts(self) -> float:
        return self.chance.choice([0.2, 1.5, 3.0, 7.0, 12.0, 25.0])

    def _login(self) -> list[Any]:
        many = self.chance.choice([1, 1, 1, len(self.names)])
        return [*self._user(), self.chance.sample(self.names, many)]

    def _logout(self) -> list[Any]:
        return self._user()

    def _hang_up(self) -> list[Any]:
        return [self.chance.randrange(100)]

    def _host(self) -> list[Any]:
        draw = self.chance.random()
        if draw < 0.55:
            what: dict[str, object] = {"weight": self.chance.choice([0, 2, 8, 20])}
        elif draw < 0.75:
            what = {"up": self.chance.random() < 0.6}
        elif draw < 0.9:
            what = {"add": True, "weight": 8}
        else:
            what = {"remove": True}
        return [self._director(), self._address(4), what]

    def _race(self) -> list[Any]:
        """A host changes while unassigned users log in everywhere."""
        waits = [
            [round(self.chance.uniform(0, 2) * max(self.plan.delays), 4) for _ in self.names]
            for _ in range(self.chance.randrange(2, 6))
        ]
        return [*self._host(), waits]

    def _retag(self) -> list[Any]:
        return [self._director(), self._address(4), self.chance.choice(["", TAG])]

    def _move(self) -> list[Any]:
        how = {"early": self.chance.random() < 0.3}
        return [self._director(), *self._user(), self._address(), how, *self._around()]

    def _around(self) -> list[Any]:
        """Where the user logs in just before a move, and where and when while it is in progress."""
        before = self.chance.sample(self.names, self.chance.choice([0, 1, len(self.names)]))
        waits = [0.0, 0.001, 0.01, 0.3, 1.1, 2.0, 2.5]
        after = [[self._director(), self.chance.choice(waits)] for _ in range(self.chance.choice([0, 1, 3]))]
        return [before, after]

    def _pin(self) -> list[Any]:
        return [self._director(), *self._user(), self._address(), *self._around()]

    def _unpin(self) -> list[Any]:
        return [self._director(), *self._user()]

    def _contest(self) -> list[Any]:
        """Two operators move one user at the same time."""
        wait = self.chance.choice([0.0, 0.001, 0.05, 1.0])
        contestants = [[self._director(), self._address()] for _ in range(2)]
        return [*self._user(), *contestants, wait, *self._around()]

    def _flush(self) -> list[Any]:
        return [self._director(), self.chance.choice([None, self._address()])]

    def _forget(self) -> list[Any]:
        return [self._director(), self.chance.choice([None, self._address()])]

    def _kick(self) -> list[Any]:
        what = self.chance.choice(["name", "field", "host", "hash"])
        return [self._director(), what, self._user()[0], self._address()]

    def _near(self) -> list[Any]:
        """A login a little before or after the assignment expires, at all directors.

        Perhaps a director has set the weight of the user's host to 0 just before, so that the hash would
        select another host.
        """
        offset = self.chance.choice([-6.5, -5.9, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 5.9])
        waits = [round(self.chance.choice([0.0, 0.0, 0.001, 0.02, 0.7]), 4) for _ in self.names]
        elsewhere = self._director() if self.chance.random() < 0.7 else None
        return [*self._user(), offset, waits, elsewhere]

    def _lose(self) -> list[Any]:
        return [self.chance.choice(["tokens", "rounds"]), self.chance.choice([0.1, 0.5, 2.0])]

    def _channel(self) -> list[Any]:
        return [self._director(), self.chance.choice([None, 0.5, 2.0, 3.5, 6.0]), self._lasts()]

    def _crash(self) -> list[Any]:
        silently, cold = self.chance.random() < 0.2, self.chance.random() < 0.15
        return [self._director(), self._lasts(), silently, cold]

    def _suspend(self) -> list[Any]:
        return [self._director(), self._lasts()]

    def _stop(self) -> list[Any]:
        return [self._director(), self._lasts()]

    def _partition(self) -> list[Any]:
        many = self.chance.randrange(1, max(2, len(self.names)))
        waits = [round(self.chance.uniform(4, 6.5), 3) for _ in range(3)]
        races = [[wait, *self._race()] for wait in waits]
        """Host changes and logins at about the time when the silence is noticed."""
        return [self.chance.sample(self.names, many), self._lasts(), races]

    def _member(self) -> list[Any]:
        """A director is removed by one director, and added again by perhaps another."""
        return [self._director(), self._director(), self._director(), self._lasts()]

    def _one_way(self) -> list[Any]:
        return [self._director(), self._lasts()]

    def _store(self) -> list[Any]:
        return [self._director(), self._lasts()]

    def _failover(self) -> list[Any]:
        return [self.chance.choice([0.3, 1.0])]

    def _lapse(self) -> list[Any]:
        """The suspended director, the director that runs meanwhile, and its actions."""
        first, second = self.chance.sample(self.names, 2)
        users = [self._user() for _ in range(self.chance.randrange(1, 4))]
        changes = self._host()[1:] if self.chance.random() < 0.5 else []
        return [first, second, users, self._address(), changes]

    def _late_change(self) -> list[Any]:
        """A host changes, and a moment later the store fails over to an earlier state."""
        return [*self._host(), self.chance.choice([0.3, 0.5, 0.8])]

    def _lie(self) -> list[Any]:
        """The lie, the seed of its random choices, and whether all neighbours get it."""
        return [self.chance.choice(list(LIES)), self.chance.randrange(1 << 32), self.chance.random() < 0.3]

    def _replace(self) -> list[Any]:
        return [self._director()]

    def _clocks(self) -> list[Any]:
        """The directors whose clocks step, by how much, and the time until the clocks are corrected."""
        many = self.chance.choice([len(self.names), len(self.names), 1, max(1, len(self.names) // 2)])
        step = self.chance.choice(STEPS) * self.chance.choice([1, -1])
        return [self.chance.sample(self.names, many), step, self.chance.choice([0.5, 3.0, 12.0, 40.0])]

    def _skew(self) -> list[Any]:
        return [self._director(), _skew(self.chance)]
