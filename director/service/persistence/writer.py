"""From memory into the store, behind everybody's back: which buckets are to be written, and how.

Every write is compare-and-swap: who loses the race merges what the other wrote and tries again, so any
director may write any bucket. To save work each bucket has one usual writer among the members of the ring
(ring-rules 30-32). What is queued is a set of bucket numbers, so an outage cannot make it grow.

A bucket that has grown large is split in the store (ring-rules 33): first everything below it is written,
then the marker in its place, from the bottom up. Whoever was faster has left something else there: that is
merged, and all of it written again. Interrupted in between, what is below has no marker above it, and nobody
sees it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import anyio.lowlevel

from director.core.director import Director
from director.core.placement.names import NameTable
from director.core.placement.users import BUCKETS, UserTable
from director.core.protocol.events import Event, Persisted
from director.service.persistence.buckets import Share
from director.service.persistence.questions import Questions
from director.service.persistence.reader import MERGE_BYTES, Reading
from state.base import (
    EMPTY_VERSION,
    SPACES,
    SPLIT,
    SPLIT_SCHEMA,
    SPLIT_VERSION,
    Bucket,
    Lost,
    Space,
    StateStore,
    Swap,
    version_of,
)
from state.bucketnumbers import level, root_of

TURN = 0.002
"""Seconds in which buckets are made ready in one turn of the loop."""
WRITE_BUCKETS = 128
"""Buckets of one write."""
NAMES_AT_ONCE = 512
"""Buckets of names written before users have their turn again."""


class Age:
    """Since when something waits to be written. Its oldest part counts, until a pass has written all."""

    def __init__(self) -> None:
        self._changed: float | None = None
        """Of what no pass has begun to write."""
        self._queued: float | None = None
        """Of what the last pass was to write."""

    def changed(self, now: float) -> None:
        if self._changed is None:
            self._changed = now

    def collected(self) -> None:
        """A pass begins: it writes all that has changed so far."""
        if self._queued is None:
            self._queued = self._changed
        self._changed = None

    def written(self, *, everything: bool) -> None:
        """The pass has ended. everything: nothing is left of what it was to write."""
        if everything:
            self._queued = None

    def seconds(self, now: float) -> float:
        oldest = self._changed if self._queued is None else self._queued
        return 0.0 if oldest is None else now - oldest


class Plan(NamedTuple):
    """How a bucket of the table gets into the store."""

    swaps: list[Swap]
    marks: list[Swap]
    """Those to be split, when all swaps are done."""


class Writing:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        reading: Reading,
        share: Share,
        handle: Callable[[Event], None],
        between: Callable[[], Awaitable[None]],
        noted: Callable[[Space, list[int]], None],
    ) -> None:
        """between: what is awaited after every write of some buckets, because an operator waits for it.
        noted: is told of every bucket that has changed, whoever writes it."""
        self.questions = Questions()
        self._store, self._reading, self._share = store, reading, share
        self._handle, self._between, self._noted = handle, between, noted
        self._users: UserTable = director.users
        self._names: NameTable = director.names
        self._queued: set[int] = set()
        self._queued_names: set[int] = set()
        self._under_way = 0
        """Buckets of users on their way into the store."""
        self._age = Age()

    @property
    def queued(self) -> int:
        """Buckets of users that have changed and are not known to be stored."""
        return len(self._queued) + self._under_way + self._users.dirty_count

    @property
    def lag(self) -> float:
        """Seconds since the oldest change of a user that is not known to be stored."""
        return self._age.seconds(time.monotonic())

    def look(self) -> None:
        """Users may have changed."""
        if self._users.dirty_count:
            self._age.changed(time.monotonic())

    @property
    def has_work(self) -> bool:
        """Whether anything is known to be written; what has only just changed is not looked at."""
        return bool(self._queued or self.questions) or self._share.has_changed()

    def ask(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users, or all that have changed; `Persisted` follows when they are stored.

        Ours or not: a move in progress must be in the store before its round starts."""
        if buckets is None:
            self._queued.update(self._take_dirty())
            buckets = tuple(self._queued)
        self._queued.update(buckets)
        self.questions.ask(number, buckets)

    def collect(self) -> None:
        """Move what has become dirty to the queue, or leave it to its usual writer."""
        for number in self._take_dirty():
            if self._share.is_ours(number):
                self._queued.add(number)
            else:
                self._share.leave(number)

    def collect_names(self) -> None:
        """The same for names, whose usual writer has them too."""
        numbers = self._names.take_dirty()
        self._noted("names", numbers)
        self._queued_names.update(n for n in numbers if self._share.is_ours(n))

    def _take_dirty(self) -> list[int]:
        numbers = self._users.take_dirty()
        self._noted("users", numbers)
        return numbers

    async def new_ring(self) -> None:
        """Other members, other writers: take over what nobody else writes now (ring-rules 32, 39)."""
        if not self._share.has_changed():
            return
        was_alone_or_new = not self._share.ring
        before = self._share.ring, self._share.partial
        self._share.take_ring()
        if not self._store.shared or was_alone_or_new:
            return
        if self._share.partial:
            self._queued.update(self._share.lately_left())
        self._share.forget_left()
        try:
            for space in SPACES:
                await self._reading.changed(space)
            await self.queue_differences()
        except BaseException:
            self._share.ring, self._share.partial = before  # so that it is begun again, if only by a stop
            raise

    async def queue_differences(self) -> None:
        """Queue every bucket that is ours to write and differs from what the store holds."""
        begun = time.monotonic()
        for number in range(BUCKETS):
            if time.monotonic() - begun > TURN:
                await anyio.lowlevel.checkpoint()
                begun = time.monotonic()
            if self._share.is_ours(number):
                if self._plan("users", number, self._users.stored_bucket(number)).swaps:
                    self._queued.add(number)
                if self._names.bucket(number):
                    self._queued_names.add(number)

    async def write_users(self) -> None:
        """Write what is queued now; what becomes dirty meanwhile, or is lost, is for the next time."""
        self._age.collected()
        self.collect()
        self._queued.update(map(root_of, self._reading.damaged["users"]))
        await self._swap_all("users", self._users.stored_bucket, self._queued)
        self._age.written(everything=not self._queued)
        for question in self.questions.take_answered():
            self._handle(Persisted(question))

    async def write_names(self) -> bool:
        """The same for names, some buckets at a time, so that users never wait for them. Returns whether all
        are written that had changed when the first of them were."""
        if not self._queued_names:
            self.collect_names()
            self._queued_names.update(map(root_of, self._reading.damaged["names"]))
        await self._swap_all("names", self._names.bucket, self._queued_names, at_most=NAMES_AT_ONCE)
        return not self._queued_names

    async def write_the_rest(self) -> None:
        """Until nothing is left to write.

        What was left to its usual writer of late is written too: he may be stopping as well, and have written
        for the last time before he heard of it.
        """
        self.collect()
        self._queued.update(self._share.lately_left())
        await self.write_users()
        while self._queued:
            await self.write_users()
        self.collect_names()
        while not await self.write_names():
            pass

    async def _swap_all(
        self, space: Space, blob_of: Callable[[int], bytes], queue: set[int], at_most: int = BUCKETS
    ) -> None:
        numbers = sorted(queue)[:at_most]
        for at in range(0, len(numbers), WRITE_BUCKETS):
            await self._swap(space, numbers[at : at + WRITE_BUCKETS], blob_of, queue)
            await self._between()
            await anyio.lowlevel.checkpoint()

    async def _swap(
        self, space: Space, numbers: Sequence[int], blob_of: Callable[[int], bytes], queue: set[int]
    ) -> None:
        plans: dict[int, Plan] = {}
        prepared: dict[int, int] = {}
        self._under_way = len(numbers) if space == "users" else 0
        try:
            begun = time.monotonic()
            for number in numbers:
                plans[number] = self._plan(space, number, blob_of(number))
                queue.discard(number)
                prepared[number] = self.questions.count
                if time.monotonic() - begun > TURN:
                    await anyio.lowlevel.checkpoint()
                    begun = time.monotonic()
            lost = await self._swap_each(space, [swap for plan in plans.values() for swap in plan.swaps])
            lost |= await self._mark(space, [mark for plan in plans.values() for mark in plan.marks], lost)
        except BaseException:
            queue.update(numbers)
            raise
        finally:
            self._under_way = 0
        queue.update(lost)
        for number in numbers:
            if number not in lost:
                self._is_stored(space, number, prepared[number])

    def _plan(self, space: Space, number: int, blob: bytes) -> Plan:
        """What has to be written of a bucket of the table, which holds this now."""
        known, damaged = self._reading.versions[space], self._reading.damaged[space]
        tree = self._reading.trees[space]
        if number not in tree and len(blob) <= tree.split_above and not damaged:
            stored = known.get(number, EMPTY_VERSION)
            swap = Swap(space, number, stored, blob)
            return Plan([swap] if swap.becomes != stored else [], [])
        may_split = self._store.schema >= SPLIT_SCHEMA
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
            guards.update(dict.fromkeys(one for one in path if one in tree))
        # That is no change: it is lost where the store is another one by now, that knows of no split here.
        swaps += [Swap(space, one, SPLIT_VERSION, SPLIT) for one in guards]
        marks = [Swap(space, one, known.get(one, EMPTY_VERSION), SPLIT) for one in division.splits]
        return Plan(swaps, marks)

    async def _mark(self, space: Space, marks: Iterable[Swap], lost: set[int]) -> set[int]:
        """Mark buckets as split, from the bottom up: a mark is worth what is below it.

        lost: buckets of the table where something else was stored; given with those where a mark was refused.
        """
        lost = set(lost)
        by_level = groupby(sorted(marks, key=lambda mark: -mark.number), key=lambda mark: level(mark.number))
        for _, together in by_level:
            good = [mark for mark in together if root_of(mark.number) not in lost]
            lost |= await self._swap_each(space, good)
        return lost

    async def _swap_each(self, space: Space, swaps: Sequence[Swap]) -> set[int]:
        """Swap, and merge whatever else is there; gives the buckets of the table where there was anything."""
        known, tree = self._reading.versions[space], self._reading.trees[space]
        lost = set()
        taken = 0
        results = await self._store.swap_buckets(swaps) if swaps else []
        for swap, result in zip(swaps, results, strict=True):
            if isinstance(result, Lost):
                if taken >= MERGE_BYTES:
                    taken = 0
                    await anyio.lowlevel.checkpoint()
                self._reading.take(space, [Bucket(space, swap.number, result.version, result.blob)])
                taken += len(result.blob)
                lost.add(root_of(swap.number))
                continue
            known[swap.number] = result.version
            self._reading.damaged[space].discard(swap.number)
            if swap.blob == SPLIT:
                tree.learn(swap.number, split=True)
        return lost

    def _is_stored(self, space: Space, number: int, asked: int) -> None:
        """A bucket, as it was when so many had asked, is in the store."""
        if space == "users":
            self.questions.stored(number, asked)
