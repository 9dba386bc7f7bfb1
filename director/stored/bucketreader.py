"""Reads buckets from the store into memory: at the start, when the store is reachable again, and what other
directors have written.

At the start, users come in while logins are answered already. Buckets that logins wait for are read first.
Buckets are merged a few at a time, so that the loop does not stop for long. A split bucket leads to the
buckets below it. A damaged bucket is logged and ignored: it is written again from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from director.core.checks import wrong_records
from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS
from director.core.protocol.effects import Level, LogEvent
from director.core.protocol.events import STORE, BucketsRead, StoredUsers
from director.stored.buckettree import BucketTree, names_tree, users_tree
from director.stored.pace import TURN_BYTES
from director.stored.storecalls import (
    LoadBuckets,
    Note,
    Pause,
    Procedure,
    ReadBuckets,
    ReadVersions,
    Signal,
    Tell,
    Wait,
)
from state.base import EMPTY_VERSION, SPLIT, SPLIT_VERSION, Bucket, Space, version_of
from state.bucketnumbers import below

IGNORED = "the bucket is ignored and written again from memory; check the disk and other writers"
READ_BUCKETS = 128
"""Buckets in one request."""


def in_parts(buckets: Sequence[Bucket]) -> Iterator[Sequence[Bucket]]:
    """Divide buckets into parts, each of which is merged in one turn of the loop."""
    size = first = 0
    for at, bucket in enumerate(buckets, start=1):
        size += len(bucket.blob)
        if size >= TURN_BYTES or at == len(buckets):
            yield buckets[first:at]
            size, first = 0, at


class BucketReader:
    def __init__(
        self,
        names: NameTable,
        source: str = STORE,
        fill: Callable[[Space, Sequence[int]], Procedure[None]] | None = None,
    ) -> None:
        """Begin with nothing read.

        Args:
            names: the names of users, into which those of the store are merged.
            source: the store's name in events to the director.
            fill: merges what damaged buckets lack from another place; None: there is no other place.
        """
        self.versions: dict[Space, dict[int, bytes]] = {"users": {}, "names": {}}
        """For each bucket of the store, the version that was merged into memory or written from it."""
        self.trees: dict[Space, BucketTree] = {"users": users_tree(), "names": names_tree()}
        """The buckets that are split in the store."""
        self.damaged: dict[Space, set[int]] = {"users": set(), "names": set()}
        """Buckets whose content cannot be right, whatever their versions say."""
        self.progress = 0.0
        """How much of the users' buckets was read at the start, 0 to 1."""
        self._names, self._source, self._fill = names, source, fill
        self._wanted: set[int] = set()
        self._wait_for_wanted = Signal()

    def load(self) -> Procedure[None]:
        """Read all users of the store, then all names. `BucketsRead` tells the director which were read."""
        read = 0
        begins = True
        while (batch := (yield LoadBuckets("users", begins))) is not None:
            begins = False
            yield from self._take_slowly("users", batch)
            numbers = tuple(bucket.number for bucket in batch if bucket.number < BUCKETS)
            read += len(numbers)
            self.progress = read / BUCKETS
            yield Tell(BucketsRead(numbers))
        self.progress = 1.0
        self._wait_for_wanted.set()
        yield Tell(BucketsRead(None))
        begins = True
        while (batch := (yield LoadBuckets("names", begins))) is not None:
            begins = False
            yield from self._take_slowly("names", batch)

    def want(self, buckets: Iterable[int]) -> None:
        """Have these buckets of users read soon: logins wait for them."""
        self._wanted.update(buckets)
        self._wait_for_wanted.set()

    def load_wanted(self) -> Procedure[None]:
        """Read the buckets that logins wait for, beside `load`, until that has read all users."""
        while self.progress < 1.0:
            yield Wait(signals=(self._wait_for_wanted,))
            self._wait_for_wanted.clear()
            numbers, self._wanted = sorted(self._wanted), set()
            for at in range(0, len(numbers), READ_BUCKETS):
                part = numbers[at : at + READ_BUCKETS]
                yield from self.read("users", part)
                yield Tell(BucketsRead(tuple(part)))

    def changed(self, space: Space) -> Procedure[None]:
        """Read the buckets that other directors have written since the last time, and learn again which are
        split."""
        known, tree = self.versions[space], self.trees[space]
        stored: dict[int, bytes] = yield ReadVersions(space)
        for number in [n for n in known if n not in stored]:
            known[number] = EMPTY_VERSION
        for number in [n for n in tree if stored.get(n) != SPLIT_VERSION]:
            tree.learn(number, split=False)
        changed = []
        for number, version in stored.items():
            if known.get(number) == version and (version != SPLIT_VERSION or number in tree):
                continue
            if version == SPLIT_VERSION:
                known[number] = version
                tree.learn(number, split=True)
            else:
                changed.append(number)
        for at in range(0, len(changed), READ_BUCKETS):
            yield from self._read_stored(space, changed[at : at + READ_BUCKETS])

    def read(self, space: Space, numbers: Iterable[int]) -> Procedure[list[Bucket]]:
        """Read buckets of the table.

        Returns:
            The buckets of the store that hold them, and those above them.
        """
        tree = self.trees[space]
        leaves = {leaf for number in numbers for leaf in tree.leaves(number)}
        return (yield from self._read_stored(space, leaves.union(*map(tree.path, leaves))))

    def _read_stored(self, space: Space, numbers: Iterable[int]) -> Procedure[list[Bucket]]:
        """Read buckets of the store, and the buckets below those that turn out to be split.

        If a bucket turns out not to be split, the buckets below it are ignored. Other directors do not read
        them either, so a claim in one of them would be unknown to all others.
        """
        tree = self.trees[space]
        found: list[Bucket] = []
        level = sorted(numbers)
        while level:
            known = [number for number in level if number in tree]
            stored: list[Bucket] = yield ReadBuckets(space, level)
            for bucket in stored:
                if bucket.blob != SPLIT:
                    tree.learn(bucket.number, split=False)
            buckets = [bucket for bucket in stored if all(one in tree for one in tree.path(bucket.number))]
            yield from self._take_slowly(space, buckets)
            found += buckets
            level = [n for one in level if one in tree and one not in known for n in below(one)]
        return found

    def _take_slowly(self, space: Space, buckets: Sequence[Bucket]) -> Procedure[None]:
        for part in in_parts(buckets):
            yield from self.take(space, part)
            yield Pause()
        damaged = self.damaged[space].intersection(bucket.number for bucket in buckets)
        if damaged and self._fill is not None:
            yield from self._fill(space, sorted(damaged))

    def take(self, space: Space, buckets: Iterable[Bucket]) -> Procedure[None]:
        """Merge buckets as they are stored into memory."""
        records: list[bytes] = []
        problems: list[LogEvent] = []
        tree, damaged = self.trees[space], self.damaged[space]
        for bucket in buckets:
            self.versions[space][bucket.number] = bucket.version
            is_split = bucket.blob == SPLIT
            if is_split or bucket.number in tree:
                tree.learn(bucket.number, split=is_split)
            damaged.discard(bucket.number)
            problem = None if is_split else self._problem(space, bucket)
            if problem is not None:
                damaged.add(bucket.number)
                fields = {"space": space, "bucket": bucket.number, "reason": problem, "note": IGNORED}
                problems.append(LogEvent(Level.ERROR, "store_bucket_damaged", fields))
            elif space == "users" and not is_split:
                records.append(bucket.blob)
        merged = b"".join(records)
        if merged:
            # Before anything else, the log included: by `versions` memory holds these records already, and a
            # writer that runs meanwhile would write their buckets without them.
            yield Tell(StoredUsers(merged, self._source))
        for line in problems:
            yield Note(line)

    def _problem(self, space: Space, bucket: Bucket) -> str | None:
        if version_of(bucket.blob) != bucket.version:
            return "its content does not fit its version: a program other than a director has changed it"
        return wrong_records(bucket.blob) if space == "users" else self._wrong_names(bucket.blob)

    def _wrong_names(self, entries: bytes) -> str | None:
        """Merge names into memory. Returns the text of an error; None: none."""
        try:
            self._names.merge(entries)
        except ValueError as exc:
            return str(exc)
        return None
