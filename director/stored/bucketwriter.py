"""From memory into the store, behind everybody's back: which buckets are to be written, and how.

Every write is compare-and-swap: who loses the race merges what the other wrote and tries again, so any
director may write any bucket. To save work each bucket has one usual writer among the members of the ring
(docs/ring.md, rules 30-32). What is queued is a set of bucket numbers, so an outage cannot make it grow.

A bucket that has grown large is split in the store (docs/ring.md, rule 33): first everything below it is
written, then the marker in its place, from the bottom up. Whoever was faster has left something else there:
that is merged, and all of it written again. Interrupted in between, what is below has no marker above it, and
nobody sees it.
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
"""Buckets of one write."""
NAMES_AT_ONCE = 512
"""Buckets of names written before users have their turn again."""


class Plan(NamedTuple):
    """How a bucket of the table gets into the store."""

    swaps: list[Swap]
    marks: list[Swap]
    """Those to be split, when all swaps are done."""


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
            director: what it decides is written.
            clock: the time.
            reader: knows what the store holds.
            usual: knows which buckets are this director's to write.
            shared: whether other directors write to this store too.
            may_split: whether the store's layout knows of split buckets.
            between: what is done after every write of some buckets, because an operator waits for it.
            noted: is told of every bucket that has changed, whichever director writes it.
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
        """Seconds since the oldest change of a user that is not known to be stored."""
        return self._age.seconds(self._clock.mono)

    def note_changes(self) -> None:
        """Users may have changed."""
        if self._users.dirty_count:
            self._age.changed(self._clock.mono)

    @property
    def has_noted_changes(self) -> bool:
        return self._age.has_changed

    @property
    def has_work(self) -> bool:
        """Whether anything is known to be written; what has only just changed is not looked at."""
        return bool(self._queued or self.questions) or self._usual.has_changed()

    def ask(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users, or all that have changed; `Persisted` follows when they are stored.

        Ours or not: a move in progress must be in the store before its round starts."""
        if buckets is None:
            self._queued.update(self._take_dirty(), self._under_way)  # these may be lost yet
            buckets = tuple(self._queued)
        self._queued.update(buckets)
        self.questions.ask(number, buckets)

    def collect(self) -> None:
        """Move what has become dirty to the queue, or leave it to its usual writer."""
        for number in self._take_dirty():
            if self._usual.is_ours(number):
                self._queued.add(number)
            else:
                self._usual.defer(number)

    def collect_names(self) -> None:
        """The same for names, whose usual writer has them too."""
        numbers = self._names.take_dirty()
        self._noted("names", numbers)
        self._queued_names.update(n for n in numbers if self._usual.is_ours(n))

    def _take_dirty(self) -> list[int]:
        numbers = self._users.take_dirty()
        self._noted("users", numbers)
        return numbers

    def new_ring(self) -> Procedure[None]:
        """Other members, other writers: take over what no other director writes now (docs/ring.md, rules 32,
        39)."""
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
            self._usual.ring, self._usual.partial = before  # so that it is begun again, if only by a stop
            raise

    def catch_up(self) -> Procedure[None]:
        """Read and merge what others have written, and queue what the store lacks then (docs/ring.md, rule
        31)."""
        for space in SPACES:
            yield from self._reader.changed(space)
        yield from self.queue_differences()

    def queue_differences(self) -> Procedure[None]:
        """Queue every bucket that is ours to write and differs from what the store holds."""
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
        """Write what is queued now; what becomes dirty meanwhile, or is lost, is for the next time."""
        self._age.collected()
        self.collect()
        self._queued.update(map(root_of, self._reader.damaged["users"]))
        yield from self._swap_all("users", self._users.stored_bucket, self._queued)
        self._age.written(everything=not self._queued)
        for question in self.questions.take_answered():
            yield Tell(Persisted(question))

    def write_names(self) -> Procedure[bool]:
        """The same for names, some buckets at a time, so that users never wait for them. Returns whether all
        are written that had changed when the first of them were."""
        if not self._queued_names:
            self.collect_names()
            self._queued_names.update(map(root_of, self._reader.damaged["names"]))
        yield from self._swap_all("names", self._names.bucket, self._queued_names, at_most=NAMES_AT_ONCE)
        return not self._queued_names

    def write_the_rest(self) -> Procedure[None]:
        """Until nothing is left to write.

        What was left to its usual writer of late is written too: he may be stopping as well, and have written
        for the last time before he heard of it.
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
        """What has to be written of a bucket of the table, which holds this now."""
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
                    continue  # `director state verify --fix` may save more than we know
                # It may have the version of what it should be, and pass for stored already.
                swaps.append(Swap(space, leaf, stored, b""))
                stored = EMPTY_VERSION
            elif version_of(part) == stored and new.isdisjoint(path):
                continue  # below a new mark nothing is taken for granted
            swaps.append(Swap(space, leaf, stored, part))
            guards.update(dict.fromkeys(parent for parent in path if parent in tree))
        # That is no change: it is lost where the store is another one by now, that knows of no split here.
        swaps += [Swap(space, parent, SPLIT_VERSION, SPLIT) for parent in guards]
        marks = [Swap(space, parent, known.get(parent, EMPTY_VERSION), SPLIT) for parent in division.splits]
        return Plan(swaps, marks)

    def _mark(self, space: Space, marks: Iterable[Swap], lost: set[int]) -> Procedure[set[int]]:
        """Mark buckets as split, from the bottom up: a mark is worth what is below it.

        lost: buckets of the table where something else was stored; given with those where a mark was refused.
        """
        lost = set(lost)
        by_level = groupby(sorted(marks, key=lambda mark: -mark.number), key=lambda mark: level(mark.number))
        for _, together in by_level:
            good = [mark for mark in together if root_of(mark.number) not in lost]
            lost |= yield from self._swap_each(space, good)
        return lost

    def _swap_each(self, space: Space, swaps: Sequence[Swap]) -> Procedure[set[int]]:
        """Swap, and merge whatever else is there; gives the buckets of the table where there was anything."""
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
        """A bucket, as it was when so many had asked, is in the store."""
        if space == "users":
            self.questions.stored(number, asked)
