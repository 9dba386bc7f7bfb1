"""The hot path in plain Python and in C: both must give the same results, or refuse in the same way."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

from director.core.placement.addresses import host_id
from director.core.placement.assign import Backend, Gate
from director.core.placement.hashing import UserHash
from director.core.placement.names import entry
from director.core.placement.users import BUCKETS, LATEST, RECORD, SUMMARY_ENTRY, User
from director.wire.auth import cancels, finish, says_perhaps
from tests.fuzz.engine import Case, Target
from tests.fuzz.inputs import changed, noise, word
from tests.twins import PURE, HotPath, compiled

NOW = 1_700_000_000
EXPIRE = 900
FORMATS = ["%Lu", "%u", "%n", "%Ln@%d", "%.3Xu", "%2.256Nu", "%Mu"]
FIELDS = [
    *(
        b"user=alice",
        b"user=bob@example.com",
        b"user=",
        b"user",
        b"destuser=carol",
        b"destuser=",
        b"user=a*m",
    ),
    *(b"proxy", b"proxy=y", b"proxy_maybe", b"host=1.2.3.4", b"host=", b"host", b"hostip=1.2.3.4"),
    *(b"director_tag=blue", b"director_tag=", b"director_tag", b"pass=secret", b"nologin", b"temp"),
    *(b"director_proxy_maybe", b"director_proxy_maybe=y", b"x=director_proxy_maybe", b"proxy_refresh=1"),
    *(b"lip=127.0.1.1", b"lip=127.0.1.2", b"lip=::1", b"lport=143", b"port=143", b"port=993", b"lport=x"),
    *(b"user=al\x01tice", b"us\x01er=dan", b"ho\x01st=", b"director_proxy_\x01maybe", b"user_dirkey=1@x"),
]

SINCE = {host_id(f"127.0.1.{last}"): NOW - 5 for last in range(1, 7)}
"""The times when hosts have appeared, for the counting of users."""


@cache
def backends(number: int) -> list[Backend]:
    """Return a table of hosts: with tags, down, without weight, with names, and some that appeared
    recently."""
    rng = random.Random(number)
    found = []
    for last in range(1, rng.randrange(1, 7)):
        address = rng.choice([f"127.0.1.{last}", f"::{last}"])
        found.append(
            Backend(
                host_id(address),
                address,
                hostname=rng.choice([None, None, f"mail{last}.example.com"]),
                tag=rng.choice(["", "", "blue"]),
                weight=rng.choice([0, 1, 7, 100]),
                up=rng.random() < 0.8,
                since=rng.choice([0, NOW - 5, NOW + 5]),
                retagged=rng.choice([0, 0, NOW - 5]),
                readdressed=rng.random() < 0.2,
            )
        )
    return found


class Twin:
    """One of the two implementations, with all its state."""

    def __init__(self, hot: HotPath) -> None:
        self.hot = hot
        self.users = hot.UserTable(EXPIRE)
        self.names = hot.NameTable()
        self.assigner = hot.Assigner(self.users, UserHash())
        self.assigner.unix = NOW

    def do(self, step: tuple[Any, ...]) -> Any:
        """Run one step of a case."""
        kind, *values = step
        found = getattr(self, kind)(*values)
        return list(found) if isinstance(found, tuple) and not hasattr(found, "_fields") else found

    # ---- steps

    def hash(self, format: int, separator: str) -> None:
        self.assigner = self.hot.Assigner(self.users, UserHash(FORMATS[format % len(FORMATS)], separator))
        self.assigner.unix, self.assigner.remember_names = NOW, True
        self.assigner.set_backends(backends(format))
        self.assigner.gate = Gate.OPEN

    def lines(self, data: bytes, passlines: bool) -> Any:
        return self.hot.rewrite(self.assigner, data, passlines)

    def table(self, number: int) -> None:
        self.assigner.set_backends(backends(number))

    def gate(self, number: int) -> None:
        self.assigner.gate = Gate(number % 3)

    def wait(self, seconds: int) -> None:
        self.assigner.unix += seconds

    def hold(self, key: int) -> Any:
        self.assigner.hold(key)  # type: ignore[arg-type]
        return self.assigner.users_held

    def release(self, key: int) -> Any:
        self.assigner.release(key)  # type: ignore[arg-type]
        return self.assigner.users_held

    def unread(self, number: int) -> Any:
        self.assigner.await_store([number % BUCKETS, (number + 1) % BUCKETS])
        return self.assigner.unread

    def read(self, number: int) -> Any:
        self.assigner.have_read([number % BUCKETS])
        return self.assigner.unread

    def place(self, hash32: int, tag: bytes) -> Any:
        return self.assigner.place(hash32, tag)

    def assign(self, key: int, tag: bytes, name: bytes) -> Any:
        return self.assigner.assign_named(key, tag, name)  # type: ignore[arg-type]

    def choose(self, key: int, tag: bytes) -> Any:
        return self.assigner.choose(key, tag)  # type: ignore[arg-type]

    def put(self, record: bytes) -> None:
        self.users.put(User(*RECORD.unpack(record)))

    def touch(self, key: int, seen: int) -> Any:
        return self.users.touch(key, seen)  # type: ignore[arg-type]

    def merge(self, records: bytes) -> Any:
        return self.users.merge(records)

    def missing(self, number: int, summary: bytes) -> Any:
        return self.users.missing(number, summary, self.assigner.unix)

    def sweep(self, number: int) -> Any:
        return self.users.sweep(number, self.assigner.unix)

    def add_names(self, entries: bytes) -> None:
        self.names.add(entries)

    def merge_names(self, entries: bytes) -> Any:
        return self.names.merge(entries)

    def missing_names(self, entries: bytes, most: int) -> Any:
        return self.names.missing(entries, most)

    def sweep_names(self, number: int, odd: int) -> Any:
        keys = sorted(key for key in self.names.names(number % BUCKETS) if key % 2 == odd % 2)
        return self.names.sweep(number % BUCKETS, b"".join(RECORD.pack(key, 0, 0, 0, 0) for key in keys))

    def limit(self, number: int) -> Any:
        self.assigner.limit = number
        return self.assigner.full

    def shed(self, number: int) -> Any:
        return self.users.shed(number, self.assigner.unix)

    def confirm(self, number: int) -> Any:
        return self.users.confirm(number, number + 1)

    def mark(self, number: int) -> Any:
        self.users.mark_dirty(number % BUCKETS)
        self.names.mark_dirty(number % BUCKETS)
        return self.users.dirty_count, self.names.dirty_count

    def look(self, number: int) -> Any:
        """Return everything that can be seen of a bucket, and what can be taken once."""
        number %= BUCKETS
        users, names, unix = self.users, self.names, self.assigner.unix
        users_of = users.bucket(number)
        return [
            *(len(users), users_of, users.stored_bucket(number), users.digest(number, unix)),
            *(users.summary(number, unix), users.counts(0, BUCKETS, unix, SINCE), users.has_changes),
            *(users.take_changes(), users.has_displaced, users.take_displaced(), users.take_dirty()),
            *(names.bucket(number), names.names(number), sorted(names.entries_of(number, users_of))),
            *(names.dirty_count, names.take_dirty(), self.assigner.take_names()),
            *(self.assigner.take_refreshed(), self.assigner.gate, self.assigner.users_held),
            *(self.assigner.full, self.assigner.not_remembered),
        ]


def outcome(twin: Twin, step: tuple[Any, ...]) -> Any:
    """Return the result of a step, or the type of the exception with which it is refused."""
    try:
        return twin.do(step)
    except (ValueError, IndexError) as exc:
        return type(exc)


def check_twins(case: Case) -> None:
    plain, fast = Twin(PURE), Twin(compiled())
    for step in case:
        expected, got = outcome(plain, step), outcome(fast, step)
        assert expected == got, f"{step!r}: plain {expected!r}, compiled {got!r}"
        if step[0] == "lines" and isinstance(expected, list):
            _check_rewritten(fast, *expected)
    for number in {0, 1, BUCKETS - 1, *(key >> 52 for key in KEYS)}:
        expected, got = plain.do(("look", number)), fast.do(("look", number))
        assert expected == got, f"bucket {number}: plain {expected!r}, compiled {got!r}"
    assert plain.users.digests(NOW) == fast.users.digests(NOW)


def _check_rewritten(twin: Twin, output: bytes, held_lines: list[Any]) -> None:
    """Check what may follow from rewritten lines: requests that auth is told to drop, and lines that
    waited."""
    proxied = [line for line in output.split(b"\n") if b"\tproxy\tproxy_refresh=" in line]
    assert cancels(output).count(b"\n") <= len(proxied)
    for waiting in held_lines:
        backend = backends(1)[0]
        line = finish(twin.assigner, waiting.line, backend, waiting.key)
        assert line.startswith(waiting.line)
        assert line.endswith(b"\n")
        assert line == waiting.line + b"\n" or twin.assigner.suffix(backend, waiting.key) in line
        added = line.startswith(waiting.line + b"\tproxy\tproxy_refresh=")
        assert says_perhaps(waiting.line) or not added


# ---- cases

KEYS = [
    *(0, 1, 1 << 32, (1 << 52) - 1, 1 << 52, (1 << 52) + 1, (1 << 64) - 1, (1 << 64) - 2),
    *(UserHash().key(name) for name in (b"alice", b"bob@example.com", b"carol", b"dan", b"")),
    UserHash().key(b"alice", b"blue"),
]
TIMES = [0, 1, NOW - 2 * EXPIRE, NOW - EXPIRE, NOW - EXPIRE + 1, NOW - 30, NOW - 1, NOW, NOW + 3, LATEST]
HOSTS = [0, *(backend.id for number in range(8) for backend in backends(number))]


def record(rng: random.Random) -> bytes:
    times = [rng.choice(TIMES) for _ in range(2)]
    return RECORD.pack(
        rng.choice(KEYS), rng.choice(HOSTS), *times, rng.choice((0, 0, 1, 2, 3, 4, 7, 8, 8, 65535))
    )


def auth_lines(rng: random.Random) -> bytes:
    found = b""
    for number in range(rng.randrange(1, 5)):
        start = rng.choice((b"OK", b"OK", b"OK", b"PASS", b"PASS", b"FAIL", b"CONT", word(rng)))
        id = b"%d" % number if rng.random() < 0.8 else word(rng)
        fields = [word(rng, FIELDS) for _ in range(rng.randrange(6))]
        made = b"\t".join([start, id, *fields]).replace(b"\n", b"")
        found += (changed(rng, made) if rng.random() < 0.1 else made) + b"\n"
    return found + (noise(rng, 8) if rng.random() < 0.1 else b"")


def some_records(rng: random.Random) -> bytes:
    data = b"".join(record(rng) for _ in range(rng.randrange(4)))
    return data[:-1] if rng.random() < 0.05 else data


def some_names(rng: random.Random) -> bytes:
    data = b"".join(
        entry(rng.choice(KEYS), rng.choice((b"", b"alice", b"ALICE", b"\xff", b"x" * 700)))  # type: ignore[arg-type]
        for _ in range(rng.randrange(4))
    )
    return data[:-1] if rng.random() < 0.05 else data


STEPS: dict[str, Callable[[random.Random], tuple[Any, ...]]] = {
    "hash": lambda rng: (rng.randrange(8), rng.choice(("", "", "*"))),
    "lines": lambda rng: (auth_lines(rng), rng.random() < 0.3),
    "table": lambda rng: (rng.randrange(8),),
    "gate": lambda rng: (rng.choice((0, 1, 2, 2, 2)),),
    "wait": lambda rng: (rng.choice((0, 1, 29, 30, 299, 301, 899, 900, 2000)),),
    "hold": lambda rng: (rng.choice(KEYS),),
    "release": lambda rng: (rng.choice(KEYS),),
    "unread": lambda rng: (rng.choice(KEYS) >> 52,),
    "read": lambda rng: (rng.choice(KEYS) >> 52,),
    "place": lambda rng: (rng.choice((0, 1, (1 << 32) - 1, rng.getrandbits(32))), rng.choice((b"", b"blue"))),
    "assign": lambda rng: (rng.choice(KEYS), rng.choice((b"", b"blue", b"x")), noise(rng, 4)),
    "choose": lambda rng: (rng.choice(KEYS), rng.choice((b"", b"blue", b"x"))),
    "put": lambda rng: (record(rng),),
    "touch": lambda rng: (rng.choice(KEYS), rng.choice(TIMES)),
    "merge": lambda rng: (some_records(rng),),
    "missing": lambda rng: (rng.choice(KEYS) >> 52, rng.randbytes(rng.choice((0, SUMMARY_ENTRY, 7)))),
    "sweep": lambda rng: (rng.choice((rng.choice(KEYS) >> 52, BUCKETS)),),
    "add_names": lambda rng: (some_names(rng),),
    "merge_names": lambda rng: (some_names(rng),),
    "missing_names": lambda rng: (some_names(rng), rng.randrange(4)),
    "sweep_names": lambda rng: (rng.choice(KEYS) >> 52, rng.randrange(2)),
    "limit": lambda rng: (rng.choice((0, 1, 2, 3, 5, 8)),),
    "shed": lambda rng: (rng.choice((rng.choice(KEYS) >> 52, BUCKETS)),),
    "confirm": lambda rng: (rng.choice((rng.choice(KEYS) >> 52, BUCKETS)),),
    "mark": lambda rng: (rng.choice(KEYS) >> 52,),
    "look": lambda rng: (rng.choice(KEYS) >> 52,),
}


def make_twins(rng: random.Random) -> Case:
    kinds = [*STEPS, *(["lines"] * 12), *(["assign", "merge", "look"] * 2)]
    case: Case = [("hash", *STEPS["hash"](rng))]
    for _ in range(rng.randrange(1, 25)):
        kind = rng.choice(kinds)
        case.append((kind, *STEPS[kind](rng)))
    return case


TARGETS = [Target("twins", make_twins, check_twins)]
