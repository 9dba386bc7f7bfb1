"""Writes buckets from memory into the store, write-behind: which buckets are written, and how.

Every write is compare-and-swap. A director that loses the race merges what the other has written and tries
again. So every director may write every bucket. To save work, each bucket has a usual writer among the
directors of the ring (docs/ring.md, rules 30-32). The queue is a set of bucket numbers, so an outage cannot
make it grow without limit.

A bucket that has grown large is split in the store (docs/ring.md, rule 33): first everything below it is
written, then the marker in its place, from the bottom up. If another director was faster, something else is
there: it is merged, and everything is written again. If a split is interrupted, the buckets below have no
marker above them, and no director reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from director.core.director import Director
from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS, UserTable
from director.core.protocol.events import Persisted
from director.stored.bucketreader import BucketReader
from director.stored.pace import TURN_BYTES, Age, Clock, Portion
from director.stored.questions import Questions
from director.stored.storecalls import Pause, Procedure, SwapBuckets, Tell
from director.stored.usualwriter import UsualWriter
from state.base import (
    EMPTY_VERSION,
    SPACES,
    SPLIT,
    SPLIT_VERSION,
    Bucket,
    Lost,
    Space,
    Swap,
    version_of,
)
from state.bucketnumbers import level, root_of

WRITE_BUCKETS = 128
"""Buckets in one write."""
NAMES_AT_ONCE = 512
"""Buckets of names that are written before it is the users' turn again."""


class Plan(NamedTuple):
    """The writes that bring a bucket of the table into the store."""

    swaps: list[Swap]
    marks: list[Swap]
    """Markers of buckets to be split, to be written after all swaps."""


class BucketWriter:
    def __init__(
        self,
        director: Director,
        clock: Clock,
        reader: BucketReader,
        usual: UsualWriter,
        *,
        shared: bool,
        may_split: Callable[[], bool],
        between: Callable[[], Procedure[None]],
        noted: Callable[[Space, list[int]], None],
    ) -> None:
        """Begin with nothing to write.

        Args:
            director: its users and names are written.
            reader: knows what the store holds.
            usual: knows which buckets this director has to write.
            shared: whether other directors write to this store too.
            may_split: returns whether the store's schema has split buckets.
            between: runs after each write of some buckets, because an operator waits for it.
            noted: called with the buckets that have changed, whichever director writes them.
        """
        self.questions = Questions()
        self._clock, self._reader, self._usual, self._shared = clock, reader, usual, shared
        self._may_split, self._between, self._noted = may_split, between, noted
        self._users: UserTable = director.users
        self._names: NameTable = director.names
        self._queued: set[int] = set()
        self._queued_names: set[int] = set()
        self._under_way: set[int] = set()
        """Buckets of users on their way into the store."""
        self._age = Age()

    @property
    def queued(self) -> int:
        """Buckets of users that have changed and are not known to be stored."""
        return len(self._queued | self._under_way) + self._users.dirty_count

    @property
    def lag(self) -> float:
        """Return the seconds since the oldest change of a user that is not known to be stored."""
        return self._age.seconds(self._clock.mono)

    def note_changes(self) -> None:
        """Note when users have changed."""
        if self._users.dirty_count:
            self._age.changed(self._clock.mono)

    @property
    def has_noted_changes(self) -> bool:
        return self._age.has_changed

    @property
    def has_work(self) -> bool:
        """Whether there is something to write. The latest changes are not looked at."""
        return bool(self._queued or self.questions) or self._usual.has_changed()

    def ask(self, number: int, buckets: Sequence[int] | None) -> None:
        """Have these buckets of users written, or all that have changed (None).

        `Persisted` follows when they are stored.

        Buckets of other directors are written too: a move must be in the store before its round begins.
        """
        if buckets is None:
            self._queued.update(self._take_dirty(), self._under_way)  # writes under way may still lose a race
            buckets = tuple(self._queued)
        self._queued.update(buckets)
        self.questions.ask(number, buckets)

    def collect(self) -> None:
        """Queue the buckets that have changed, or leave them to their usual writers."""
        for number in self._take_dirty():
            if self._usual.is_ours(number):
                self._queued.add(number)
            else:
                self._usual.defer(number)

    def collect_names(self) -> None:
        """Queue the buckets of names that have changed.

        Buckets that other directors usually write are left out: these directors have the names too.
        """
        numbers = self._names.take_dirty()
        self._noted("names", numbers)
        self._queued_names.update(n for n in numbers if self._usual.is_ours(n))

    def _take_dirty(self) -> list[int]:
        numbers = self._users.take_dirty()
        self._noted("users", numbers)
        return numbers

    def new_ring(self) -> Procedure[None]:
        """Take over buckets that no other director writes now, after the ring has changed (docs/ring.md,
        rules 32, 39)."""
        if not self._usual.has_changed():
            return
        was_alone_or_new = not self._usual.ring
        before = self._usual.ring, self._usual.partial
        self._usual.take_ring()
        if not self._shared or was_alone_or_new:
            return
        if self._usual.partial:
            self._queued.update(self._usual.recently_deferred())
        self._usual.forget_deferred()
        try:
            yield from self.catch_up()
        except BaseException:
            # so that it is begun again, at the latest when the director stops
            self._usual.ring, self._usual.partial = before
            raise

    def catch_up(self) -> Procedure[None]:
        """Read and merge what other directors have written, then queue what the store lacks (docs/ring.md,
        rule 31)."""
        for space in SPACES:
            yield from self._reader.changed(space)
        yield from self.queue_differences()

    def queue_differences(self) -> Procedure[None]:
        """Queue every bucket that this director has to write and that differs from the store."""
        portion = Portion()
        known = self._reader.versions["users"]
        for number in range(BUCKETS):
            blob = self._users.stored_bucket(number)
            differs = bool(blob or number in known) and bool(self._plan("users", number, blob).swaps)
            has_names = bool(self._names.raw(number))
            if (differs or has_names) and self._usual.is_ours(number):
                if differs:
                    self._queued.add(number)
                if has_names:
                    self._queued_names.add(number)
            if portion.is_full(len(blob)):
                yield Pause()

    def write_users(self) -> Procedure[None]:
        """Write the queued buckets.

        A bucket that changes meanwhile, or that another director has written first, is queued again.
        """
        self._age.collected()
        self.collect()
        self._queued.update(map(root_of, self._reader.damaged["users"]))
        yield from self._swap_all("users", self._users.stored_bucket, self._queued)
        self._age.written(everything=not self._queued)
        for question in self.questions.take_answered():
            yield Tell(Persisted(question))

    def write_names(self) -> Procedure[bool]:
        """Write queued names, some buckets at a time, so that users do not wait for them.

        Returns:
            True: no queued names are left. False: more names are written at the next call.
        """
        if not self._queued_names:
            self.collect_names()
            self._queued_names.update(map(root_of, self._reader.damaged["names"]))
        yield from self._swap_all("names", self._names.bucket, self._queued_names, at_most=NAMES_AT_ONCE)
        return not self._queued_names

    def write_the_rest(self) -> Procedure[None]:
        """Write until nothing is left.

        Buckets that were recently left to their usual writers are written too. The usual writer may be
        stopping as well, and may have written for the last time before it heard of the change.
        """
        self.collect()
        self._queued.update(self._usual.recently_deferred())
        yield from self.write_users()
        while self._queued:
            yield from self.write_users()
        self.collect_names()
        while not (yield from self.write_names()):
            pass

    def _swap_all(
        self, space: Space, blob_of: Callable[[int], bytes], queue: set[int], at_most: int = BUCKETS
    ) -> Procedure[None]:
        numbers = sorted(queue)[:at_most]
        for at in range(0, len(numbers), WRITE_BUCKETS):
            yield from self._swap(space, numbers[at : at + WRITE_BUCKETS], blob_of, queue)
            yield from self._between()
            yield Pause()

    def _swap(
        self, space: Space, numbers: Sequence[int], blob_of: Callable[[int], bytes], queue: set[int]
    ) -> Procedure[None]:
        plans: dict[int, Plan] = {}
        prepared: dict[int, int] = {}
        self._under_way = set(numbers) if space == "users" else set()
        try:
            portion = Portion()
            for number in numbers:
                blob = blob_of(number)
                plans[number] = self._plan(space, number, blob)
                queue.discard(number)
                prepared[number] = self.questions.count
                if portion.is_full(len(blob)):
                    yield Pause()
            lost = yield from self._swap_each(space, [swap for plan in plans.values() for swap in plan.swaps])
            lost |= yield from self._mark(
                space, [mark for plan in plans.values() for mark in plan.marks], lost
            )
        except BaseException:
            queue.update(numbers)
            raise
        finally:
            self._under_way = set()
        queue.update(lost)
        for number in numbers:
            if number not in lost:
                self._is_stored(space, number, prepared[number])

    def _plan(self, space: Space, number: int, blob: bytes) -> Plan:
        """Return the writes that a bucket of the table needs, with its present content."""
        known, damaged = self._reader.versions[space], self._reader.damaged[space]
        tree = self._reader.trees[space]
        if number not in tree and len(blob) <= tree.split_above and not damaged:
            stored = known.get(number, EMPTY_VERSION)
            swap = Swap(space, number, stored, blob)
            return Plan([swap] if swap.becomes != stored else [], [])
        may_split = self._may_split()
        division = tree.divide(number, blob, may_split=may_split)
        new = set(division.splits)
        swaps: list[Swap] = []
        guards: dict[int, None] = {}
        for leaf, part in division.leaves:
            path = tree.path(leaf)
            stored = known.get(leaf, EMPTY_VERSION)
            if leaf in damaged:
                if not part:
                    continue  # `director state verify --fix` may restore more than memory has
                # The damaged bucket may have the version of the right content, and would then pass for
                # stored.
                swaps.append(Swap(space, leaf, stored, b""))
                stored = EMPTY_VERSION
            elif version_of(part) == stored and new.isdisjoint(path):
                continue  # below a new marker, nothing counts as stored
            swaps.append(Swap(space, leaf, stored, part))
            guards.update(dict.fromkeys(parent for parent in path if parent in tree))
        # Each of these swaps changes nothing. It fails if the store is another one now, without the split.
        swaps += [Swap(space, parent, SPLIT_VERSION, SPLIT) for parent in guards]
        marks = [Swap(space, parent, known.get(parent, EMPTY_VERSION), SPLIT) for parent in division.splits]
        return Plan(swaps, marks)

    def _mark(self, space: Space, marks: Iterable[Swap], lost: set[int]) -> Procedure[set[int]]:
        """Write markers of split buckets, from the bottom up, because a marker vouches for everything below
        it.

        Args:
            space: users or names.
            lost: buckets of the table in which other content was found.

        Returns:
            `lost`, and the buckets of the table in which a marker was refused.
        """
        lost = set(lost)
        by_level = groupby(sorted(marks, key=lambda mark: -mark.number), key=lambda mark: level(mark.number))
        for _, together in by_level:
            good = [mark for mark in together if root_of(mark.number) not in lost]
            lost |= yield from self._swap_each(space, good)
        return lost

    def _swap_each(self, space: Space, swaps: Sequence[Swap]) -> Procedure[set[int]]:
        """Do these swaps, and merge other content that they find.

        Returns:
            The buckets of the table in which there was any.
        """
        known, tree = self._reader.versions[space], self._reader.trees[space]
        lost = set()
        taken = 0
        results = (yield SwapBuckets(swaps)) if swaps else []
        for swap, result in zip(swaps, results, strict=True):
            if isinstance(result, Lost):
                if taken >= TURN_BYTES:
                    taken = 0
                    yield Pause()
                yield from self._reader.take(space, [Bucket(space, swap.number, result.version, result.blob)])
                taken += len(result.blob)
                lost.add(root_of(swap.number))
                continue
            known[swap.number] = result.version
            self._reader.damaged[space].discard(swap.number)
            if swap.blob == SPLIT:
                tree.learn(swap.number, split=True)
        return lost

    def _is_stored(self, space: Space, number: int, asked: int) -> None:
        """Note that a bucket is stored as it was when this many questions had been asked."""
        if space == "users":
            self.questions.stored(number, asked)
