"""Problems of a bucket, and the bucket after a repair. Pure: bytes in, bytes and findings out.

A repair keeps all complete records and names: it sorts them, merges two of the same key, and puts them into
the bucket where they belong. A complete record of an operator (a pin, a move) is never dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from director.core.placement.names import LONGEST_NAME
from director.core.placement.users import (
    BY_HAND,
    LATEST,
    MOVING,
    ONE_LOGIN,
    PINNED,
    RECORD,
    User,
    merged,
    pack,
)
from director.core.protocol.stamps import AHEAD
from director.statetools.buckets import Names, Records, pack_names
from director.stored.buckettree import belongs
from director.types import HostId, Stamp, UserKey
from state.base import Bucket, version_of

KNOWN_FLAGS = MOVING | BY_HAND | PINNED | ONE_LOGIN
NAME_HEAD = 10
"""Bytes before a name: its key and its length."""


class Finding(msgspec.Struct, kw_only=True):
    """One problem: its place, the problem, its effect, and its repair."""

    where: str
    problem: str
    meaning: str
    remedy: str
    fixed: bool = False
    outcome: str = ""
    """The result of the repair: what it kept and what it dropped."""


class TimeLimits(msgspec.Struct, frozen=True):
    """The latest times that a record may have when it is checked, in Unix seconds."""

    now: int
    decided: int
    seen: int

    @classmethod
    def at(cls, now: float, expire: int) -> TimeLimits:
        """The limits at a time.

        Args:
            now: Unix seconds.
            expire: users.expire in seconds. `seen` is stored up to a third of it ahead.
        """
        latest = int(now) + AHEAD
        return cls(int(now), min(LATEST, latest), min(LATEST, latest + max(expire, 86400)))


class CheckedStore(msgspec.Struct, kw_only=True):
    """The result of checking a bucket."""

    findings: list[Finding]
    blob: bytes
    """The bucket after the repair. Records that belong to other buckets are still in it."""
    records: Records = {}
    """The records in `blob`."""
    names: Names = {}
    strays: Finding | None = None
    """The finding about records that belong to other buckets."""
    unknown: Counter[HostId] = msgspec.field(default_factory=Counter)
    """Numbers of records by host, for hosts that the hosts' document does not have."""
    kept: Counter[HostId] = msgspec.field(default_factory=Counter)
    """The part of `unknown` that an operator wrote: these records stay."""


def check_users(bucket: Bucket, hosts: frozenset[HostId] | None, limits: TimeLimits) -> CheckedStore:
    """Check a bucket of users.

    Args:
        hosts: ids of all present and removed hosts. None: they are not known, so each host is accepted.
    """
    checked = CheckedStore(findings=[], blob=bucket.blob)
    report = _Report(bucket, checked.findings)
    report.version()
    whole = len(bucket.blob) - len(bucket.blob) % RECORD.size
    if rest := len(bucket.blob) - whole:
        report.add(
            f"{rest} bytes after the last whole record",
            "it was truncated, or another program wrote it; directors ignore the whole bucket",
            "the whole records are kept, the rest is dropped",
        )
    users = [User(*fields) for fields in RECORD.iter_unpack(bucket.blob[:whole])]
    keys = [user.key for user in users]
    impossible = strays = late = odd = 0
    for user in users:
        if not user.key >> 32 or not (user.host or user.flags & BY_HAND):
            impossible += 1
            continue
        if hosts is not None and user.host and user.host not in hosts:
            by_hand = bool(user.flags & (BY_HAND | PINNED)) and not user.flags & ~KNOWN_FLAGS
            checked.unknown[user.host] += 1
            if not by_hand:
                continue
            checked.kept[user.host] += 1
        odd += bool(user.flags & ~KNOWN_FLAGS)
        clipped = user._replace(
            decided=user.decided if user.decided <= limits.decided else Stamp(limits.now),
            seen=user.seen if user.seen <= limits.seen else limits.now,
            flags=user.flags & KNOWN_FLAGS,
        )
        late += clipped.decided != user.decided or clipped.seen != user.seen
        strays += not belongs(user.key, bucket.number)
        known = checked.records.get(user.key)
        checked.records[user.key] = merged(known, clipped) if known else clipped
    report.count(
        impossible,
        "without a user hash or without a host",
        "no director writes such records, and no login can be answered from them",
        "they are dropped",
    )
    report.count(
        late,
        "with a time in the far future",
        "directors use the current time instead when they read it, and write it again and again",
        "the time is set to now; host and flags stay",
    )
    report.count(
        odd,
        "with flags that do not exist",
        "another program than a director of this release wrote them",
        "these flags are removed",
    )
    report.order(keys)
    if checked.findings or checked.unknown:
        checked.blob = pack(sorted(checked.records.values()))
    if strays:
        checked.strays = report.strays(strays)
    return checked


def check_names(bucket: Bucket) -> CheckedStore:
    """Check a bucket of names."""
    checked = CheckedStore(findings=[], blob=bucket.blob)
    report = _Report(bucket, checked.findings)
    report.version()
    entries = list(_entries(bucket.blob))
    if rest := len(bucket.blob) - sum(NAME_HEAD + len(name) for _, name in entries):
        report.add(
            f"{rest} bytes after the last whole name",
            "it was truncated, or another program wrote it; directors ignore the whole bucket",
            "the whole names are kept, the rest is dropped; a name returns with the user's next login",
        )
    bad = long = strays = 0
    for key, name in entries:
        if len(name) > LONGEST_NAME:
            long += 1
            continue
        if not key >> 32 or not name or any(byte < 0x20 or byte == 0x7F for byte in name):
            bad += 1
            continue
        strays += not belongs(key, bucket.number)
        checked.names[key] = max(name, checked.names.get(key, b""))
    report.count(
        bad,
        "that are empty, have control characters, or have no user hash",
        "no login can have had such a name, and lists of users would show it",
        "they are dropped; a name returns with the user's next login",
    )
    report.count(
        long,
        f"of more than {LONGEST_NAME} bytes",
        "directors do not keep such names, and list these users by the hash",
        "they are dropped",
    )
    report.order([key for key, _ in entries])
    if checked.findings:
        checked.blob = pack_names(checked.names)
    if strays:
        checked.strays = report.strays(strays)
    return checked


class _Report:
    """Adds findings about one bucket."""

    def __init__(self, bucket: Bucket, findings: list[Finding]) -> None:
        self._bucket, self._findings = bucket, findings
        self._thing = "records" if bucket.space == "users" else "names"

    def add(self, problem: str, meaning: str, remedy: str) -> None:
        self._findings.append(self._finding(problem, meaning, remedy))

    def strays(self, number: int) -> Finding:
        return self._finding(
            f"{self._thing} that belong to other buckets: {number}",
            "directors look for them in the other buckets and do not find them",
            "they are merged into the bucket where they belong",
        )

    def _finding(self, problem: str, meaning: str, remedy: str) -> Finding:
        where = f"{self._bucket.space}, bucket {self._bucket.number}"
        return Finding(where=where, problem=problem, meaning=meaning, remedy=remedy)

    def count(self, number: int, problem: str, meaning: str, remedy: str) -> None:
        if number:
            self.add(f"{self._thing} {problem}: {number}", meaning, remedy)

    def version(self) -> None:
        if self._bucket.version != version_of(self._bucket.blob):
            self.add(
                "the version is not that of the content",
                "another program than a director changed it, or the disk is faulty",
                "the content is kept and gets its version",
            )

    def order(self, keys: list[UserKey]) -> None:
        twice = len(keys) - len(set(keys))
        self.count(
            twice,
            "of a key that has one already",
            "it depends on the reader which of the two is used",
            "they are merged by the rule of the ring: the later decision is kept",
        )
        if keys != sorted(keys):
            self.add(
                f"the {self._thing} are not in the order of their keys",
                "directors write it again; their answers are right",
                "they are sorted",
            )


def _entries(blob: bytes) -> Iterator[tuple[UserKey, bytes]]:
    """The complete names at the beginning of a bucket."""
    at = 0
    while at + NAME_HEAD <= len(blob):
        key, length = int.from_bytes(blob[at : at + 8]), int.from_bytes(blob[at + 8 : at + NAME_HEAD])
        end = at + NAME_HEAD + length
        if end > len(blob):
            return
        yield UserKey(key), blob[at + NAME_HEAD : end]
        at = end


def unknown_hosts(
    unknown: Counter[HostId], kept: Counter[HostId], dropped: Counter[HostId] | None
) -> Iterable[Finding]:
    """A finding for each host that is not in the hosts' document.

    Args:
        unknown: numbers of records by host.
        kept: numbers of these records that an operator wrote.
        dropped: numbers of records that a repair dropped; None: there was no repair.
    """
    for host, number in sorted(unknown.items()):
        finding = Finding(
            where=f"users, host id {host}",
            problem=f"records of a host that is not in the hosts' document, not even as removed: {number}",
            meaning="these users are assigned again at their next login, as unassigned users are",
            remedy=f"dropped: {number - kept[host]}; kept, because an operator wrote them: {kept[host]}",
        )
        if dropped is not None:
            finding.fixed = not kept[host]
            finding.outcome = f"dropped: {dropped[host]}"
            if kept[host]:
                finding.outcome += (
                    f", kept: {kept[host]}; `director add` the host, or `unpin` or move the users"
                )
        yield finding
