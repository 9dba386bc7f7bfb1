"""The metrics page in Prometheus format. Counters are plain integers until the page is read.

`prometheus_client` is imported by the first `render`: the import takes time, and this module is loaded before
the first login after a restart is answered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import HistogramMetricFamily, Metric

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms, in seconds."""


class Durations(msgspec.Struct):
    """A histogram. `counts[i]` is for at most `bounds[i]` seconds, the last count for more."""

    bounds: tuple[float, ...] = BOUNDS
    counts: list[int] = msgspec.field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class LookupCounts:
    """Numbers of answers to logins and to look-ups of other programs."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        """(result, protocol) -> count. protocol: the listener of a login, or the name of another program."""

    def add(self, result: str, protocol: str, number: int = 1) -> None:
        key = (result, protocol)
        self.counts[key] = self.counts.get(key, 0) + number


class HostSample(msgspec.Struct, frozen=True):
    """A backend host."""

    host: str
    tag: str
    up: bool
    weight: int
    users: int


class MetricsSample(msgspec.Struct, kw_only=True):
    """All measured values at one moment. Counters count from the start of the process."""

    version: str
    python: str
    compiled: bool
    """Whether the compiled hot path is in use."""
    lookups: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    """(result, protocol) -> answers; protocol as in `LookupCounts`."""
    not_remembered: int = 0
    """Unassigned users who got the host of the hash and no assignment, because the table was full."""
    dropped_early: int = 0
    """Assignments of users with a single login that were dropped because the table was full."""
    users_limit: int = 0
    """The lowest `users.max` of the directors in the ring."""
    waiting_refused: int = 0
    """Logins refused at once because too many waited."""
    users: dict[str, int] = msgspec.field(default_factory=dict)
    """tag -> unexpired assignments."""
    hosts: list[HostSample] = msgspec.field(default_factory=list)
    conflicts: int = 0
    """Users who were found on two hosts at once."""
    moves: dict[str, int] = msgspec.field(default_factory=dict)
    """result -> users: `moved`, `superseded` of moves led by this director, `timed_out` of all moves."""
    moves_in_progress: int = 0
    """Users who are being moved now, by any director."""
    flush_programs: dict[str, int] = msgspec.field(default_factory=dict)
    """result -> flush programs of this director: done, failed, stopped (not needed any more)."""
    kicks: dict[str, int] = msgspec.field(default_factory=dict)
    """result -> kicks on this machine: done, failed, timed_out."""
    sessions_kicked: int = 0
    """Sessions ended on this machine."""
    kick_durations: Durations = msgspec.field(default_factory=Durations)
    near_expiry_rounds: int = 0
    """Questions to the ring about users near expiry."""
    claims: int = 0
    """Users that this director has claimed through the shared store."""
    ring_members: dict[str, int] = msgspec.field(default_factory=dict)
    """state -> directors: `in_ring` and `missing`."""
    false_departures: int = 0
    """Departures that other directors reported although the director was reachable."""
    ring_synced: bool = False
    ring_syncs: Durations = msgspec.field(default_factory=Durations)
    ring_messages: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    """(type, direction) -> messages; direction is `in` or `out`."""
    ring_forged: dict[str, int] = msgspec.field(default_factory=dict)
    """`frame` -> frames without a valid seal; `proof` -> proofs that were refused."""
    certificate_ends: dict[str, float] = msgspec.field(default_factory=dict)
    """file -> Unix seconds when the first certificate in it ends."""
    secrets_readable: int = 0
    """Files with secrets that every user can read."""
    files_unusable: int = 0
    """Files with secrets or certificates with which a restart would fail, or would leave the ring."""
    differences: dict[str, int] = msgspec.field(default_factory=dict)
    """setting or version -> directors that differ from this director in it."""
    store_up: bool = False
    unstored: int = 0
    """Operators' changes that the store does not hold yet."""
    store_queue: int = 0
    """Changed buckets that are not stored yet."""
    store_lag: float = 0.0
    """Seconds since the oldest change of a user that is not stored yet."""
    store_errors: dict[str, int] = msgspec.field(default_factory=dict)
    """operation -> failures."""
    snapshot_up: bool | None = None
    """None: there is no snapshot."""
    snapshot_written: int | None = None
    """Unix seconds."""
    store_swept: dict[str, int] = msgspec.field(default_factory=dict)
    """space -> records that this director has deleted from the store."""
    store_sweeper: bool = False
    """Whether this director sweeps the store now."""
    sockets_kept: bool = False
    """Whether the sockets of login processes, LMTP and doveadm stay open while this director does not run."""
    warm_start_seconds: float = 0.0
    """Seconds from the start of the process until logins were answered."""
    warm_start_users: int = 0
    warm_start_part: float = 1.0
    """Part of the store's content at the start that is in memory, 0 to 1."""
    stamps_clipped: dict[str, int] = msgspec.field(default_factory=dict)
    """source -> rows and users whose times were more than an hour ahead of the own clock."""
    clock_skew: dict[str, float] = msgspec.field(default_factory=dict)
    """member -> seconds by which its clock is ahead of the own clock."""
    internal_errors: int = 0
    """Contained errors in callbacks and in handlers of clients; must stay 0."""
    log_dropped: int = 0
    """Log lines dropped because the log was not read in time."""
    connections: dict[str, int] = msgspec.field(default_factory=dict)
    """listener -> open connections."""
    connections_refused: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    """(listener, limit) -> connections closed because of a limit: `all` or `address`."""
    accept_pauses: dict[str, int] = msgspec.field(default_factory=dict)
    """listener -> pauses for want of descriptors or memory."""
    loop_lag: float = 0.0
    """Longest delay of the event loop since the last scrape, in seconds."""


NUMBERS = (
    "not_remembered",
    "dropped_early",
    "waiting_refused",
    "conflicts",
    "false_departures",
    "sessions_kicked",
    "near_expiry_rounds",
    "claims",
    "internal_errors",
    "log_dropped",
)
NAMED = (
    "moves",
    "kicks",
    "flush_programs",
    "store_errors",
    "store_swept",
    "ring_forged",
    "accept_pauses",
    "stamps_clipped",
)
PAIRED = ("lookups", "ring_messages", "connections_refused")
TIMED = ("kick_durations", "ring_syncs")
"""Fields of `MetricsSample` that only grow, by type."""


class Counted(msgspec.Struct, kw_only=True):
    """The counters of a program, for its successor: so no counter goes back."""

    numbers: dict[str, int] = msgspec.field(default_factory=dict)
    named: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    paired: dict[str, list[tuple[str, str, int]]] = msgspec.field(default_factory=dict)
    timed: dict[str, Durations] = msgspec.field(default_factory=dict)


def counted(snapshot: MetricsSample) -> Counted:
    """Return the counters that a successor continues."""
    return Counted(
        numbers={field: getattr(snapshot, field) for field in NUMBERS},
        named={field: dict(getattr(snapshot, field)) for field in NAMED},
        paired={
            field: [(label, reason, count) for (label, reason), count in getattr(snapshot, field).items()]
            for field in PAIRED
        },
        timed={field: getattr(snapshot, field) for field in TIMED},
    )


def carry_on(snapshot: MetricsSample, before: Counted) -> None:
    """Add the counts of predecessors, so that no counter goes back."""
    for field, number in before.numbers.items():
        setattr(snapshot, field, getattr(snapshot, field) + number)
    for field, numbers in before.named.items():
        values = getattr(snapshot, field)
        values.update({name: values.get(name, 0) + number for name, number in numbers.items()})
    for field, rows in before.paired.items():
        pairs = getattr(snapshot, field)
        pairs.update(
            {(label, reason): pairs.get((label, reason), 0) + number for label, reason, number in rows}
        )
    for field, old in before.timed.items():
        new: Durations = getattr(snapshot, field)
        if new.bounds == old.bounds:
            counts = [own + former for own, former in zip(new.counts, old.counts, strict=True)]
            setattr(snapshot, field, Durations(new.bounds, counts, new.total + old.total))


def render(snapshot: MetricsSample) -> bytes:
    """Return the page in the Prometheus text format, version 0.0.4."""
    from prometheus_client.exposition import generate_latest

    return generate_latest(_Page(snapshot))


class _Page:
    """A collector of one snapshot."""

    def __init__(self, snapshot: MetricsSample) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._users_and_hosts()
        yield from self._moves_and_kicks()
        yield from self._ring()
        yield from self._store()
        yield from self._alarms()
        yield from self._process()

    def _users_and_hosts(self) -> Iterator[Metric]:
        now, hosts = self.snapshot, self.snapshot.hosts
        keys = [(sample.host, sample.tag) for sample in hosts]
        yield _counter(
            "lookups",
            "Answers to logins and look-ups, by result and protocol",
            now.lookups.items(),
            "result",
            "protocol",
        )
        refused = [((), now.waiting_refused)]
        yield _counter(
            "waiting_refused", "Logins that failed at once because too many logins waited", refused
        )
        over = [((), now.not_remembered)]
        yield _counter(
            "users_not_remembered",
            "Unassigned users who got the host of the hash and no assignment: table full",
            over,
        )
        early = [((), now.dropped_early)]
        yield _counter(
            "users_dropped_early",
            "Assignments of users with one login, dropped because the table was full",
            early,
        )
        limit = [((), now.users_limit)]
        yield _gauge("users_limit", "The lowest users.max of the directors in the ring", limit)
        yield _gauge("users", "Assignments that have not expired", _by_one(now.users), "tag")
        columns: list[tuple[str, str, list[float]]] = [
            ("host_users", "Assignments to a host that have not expired", [sample.users for sample in hosts]),
            (
                "host_up",
                "1 while a host gets new users: it is up and has a weight over 0",
                [sample.up for sample in hosts],
            ),
            ("host_weight", "Weight of a host (vhosts)", [sample.weight for sample in hosts]),
        ]
        for name, text, column in columns:
            yield _gauge(name, text, zip(keys, column, strict=True), "host", "tag")
        yield _counter("conflicts", "Users found on two hosts at once; must stay 0", [((), now.conflicts)])

    def _alarms(self) -> Iterator[Metric]:
        now = self.snapshot
        ends = _by_one(now.certificate_ends)
        yield _gauge(
            "certificate_end_seconds", "Unix time when the first certificate in a file expires", ends, "file"
        )
        readable = [((), now.secrets_readable)]
        yield _gauge("secrets_readable", "Files with secrets that every user can read", readable)
        unusable = [((), now.files_unusable)]
        yield _gauge("files_unusable", "Files with which a restart would fail or leave the ring", unusable)
        differ = _by_one(now.differences)
        yield _gauge(
            "directors_differ",
            "Directors that differ from this director, by setting or version",
            differ,
            "what",
        )
        unstored = [((), now.unstored)]
        yield _gauge("unstored_changes", "Operators' changes that the store does not hold yet", unstored)

    def _moves_and_kicks(self) -> Iterator[Metric]:
        now = self.snapshot
        yield _counter("moves", "Moves of users, by result", _by_one(now.moves), "result")
        yield _gauge("moves_in_progress", "Users that are being moved now", [((), now.moves_in_progress)])
        programs = _by_one(now.flush_programs)
        yield _counter("flush_programs", "Flush programs, by result", programs, "result")
        yield _counter(
            "kicks", "Requests to end sessions on this machine, by result", _by_one(now.kicks), "result"
        )
        yield _counter("sessions_kicked", "Sessions ended on this machine", [((), now.sessions_kicked)])
        took = now.kick_durations
        yield _histogram(
            "kick_duration_seconds", "Time until Dovecot answered a request to end sessions", took
        )
        asked = [((), now.near_expiry_rounds)]
        yield _counter("near_expiry_rounds", "Questions to the ring about users near expiry", asked)

        claims = [((), now.claims)]
        yield _counter("claims", "New users claimed through the shared store", claims)

    def _ring(self) -> Iterator[Metric]:
        now = self.snapshot
        yield _gauge("ring_members", "Ring members, by state", _by_one(now.ring_members), "state")
        departures = [((), now.false_departures)]
        yield _counter(
            "ring_false_departures",
            "Reported departures of directors that were reachable; must stay 0",
            departures,
        )
        yield _gauge(
            "ring_synced",
            "1 while all directors in the ring have the same table of hosts",
            [((), now.ring_synced)],
        )
        yield _histogram(
            "ring_sync_duration_seconds", "Time until the ring was in sync again", now.ring_syncs
        )
        messages = now.ring_messages.items()
        yield _counter(
            "ring_messages", "Messages exchanged with other directors", messages, "type", "direction"
        )
        forged = _by_one(now.ring_forged)
        yield _counter(
            "ring_forged", "Frames and proofs that no other director sent; must stay 0", forged, "what"
        )
        skew = _by_one(now.clock_skew)
        yield _gauge(
            "clock_skew_seconds", "Seconds by which the clock of another director is ahead", skew, "member"
        )
        clipped = _by_one(now.stamps_clipped)
        text = "Rows and users whose times were more than an hour ahead, by source"
        yield _counter("stamps_clipped", text, clipped, "source")

    def _store(self) -> Iterator[Metric]:
        now = self.snapshot
        yield _gauge("store_up", "1 while the store is reachable", [((), now.store_up)])
        yield _gauge(
            "store_queue_entries", "Changed buckets that are not stored yet", [((), now.store_queue)]
        )
        lag = [((), now.store_lag)]
        yield _gauge("store_lag_seconds", "Age of the oldest change of a user that is not stored yet", lag)
        failed = _by_one(now.store_errors)
        yield _counter("store_errors", "Failed operations of the store", failed, "operation")
        swept = _by_one(now.store_swept)
        yield _counter(
            "store_swept", "Expired records that this director deleted from the store", swept, "space"
        )
        yield _gauge(
            "store_sweeper",
            "1 at the director that deletes expired records from the store",
            [((), now.store_sweeper)],
        )
        if now.snapshot_up is not None:
            yield _gauge("snapshot_up", "1 while the snapshot can be written", [((), now.snapshot_up)])
            written = [((), now.snapshot_written or 0)]
            yield _gauge(
                "snapshot_written_timestamp_seconds", "Unix time of the last write of the snapshot", written
            )

    def _process(self) -> Iterator[Metric]:
        now = self.snapshot
        warm, lag = [((), now.warm_start_seconds)], [((), now.loop_lag)]
        yield _gauge("warm_start_duration_seconds", "Time from the start until logins were answered", warm)
        yield _gauge(
            "warm_start_users", "Assignments read from the store at the start", [((), now.warm_start_users)]
        )
        yield _gauge(
            "warm_start_ratio", "Part of the store that is read, 0 to 1", [((), now.warm_start_part)]
        )
        kept = [((), now.sockets_kept)]
        yield _gauge("sockets_kept", "1 while the sockets to Dovecot stay open when this process ends", kept)
        yield _gauge("event_loop_lag_seconds", "Longest delay of the event loop since the last scrape", lag)
        yield _counter(
            "internal_errors", "Errors in the program itself; must stay 0", [((), now.internal_errors)]
        )
        yield _counter(
            "log_dropped", "Log lines dropped because the log was not read in time", [((), now.log_dropped)]
        )
        yield _gauge("connections", "Open connections", _by_one(now.connections), "listener")
        refused = now.connections_refused.items()
        yield _counter(
            "connections_refused", "Connections closed because of a limit", refused, "listener", "limit"
        )
        pauses = _by_one(now.accept_pauses)
        yield _counter(
            "accept_pauses", "Pauses of 0.1 s because descriptors or memory had run out", pauses, "listener"
        )
        build = (now.version, now.python, "yes" if now.compiled else "no")
        yield _gauge(
            "build_info",
            "Release, Python version, and whether the compiled hot path is in use",
            [(build, 1)],
            "version",
            "python",
            "compiled",
        )


Values = Iterable[tuple[tuple[str, ...], float]]
"""Label values and the sample's value."""


def _by_one(values: Mapping[str, float]) -> Values:
    return (((label,), value) for label, value in values.items())


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(f"director_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    """Return a counter. The format appends `_total` to its name."""
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(f"director_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, text: str, durations: Durations) -> HistogramMetricFamily:
    from prometheus_client.metrics_core import HistogramMetricFamily

    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*map(str, durations.bounds), "+Inf"), durations.counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    family = HistogramMetricFamily(f"director_{name}", text)
    family.add_metric([], buckets, durations.total)
    return family
