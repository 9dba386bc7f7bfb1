"""From memory into the store, behind everybody's back: which buckets are to be written, and how.

Every write is compare-and-swap: who loses the race merges what the other wrote and tries again, so any
director may write any bucket. To save work each bucket has one usual writer among the members of the ring
(ring-rules 30-32). What is queued is a set of bucket numbers, so an outage cannot make it grow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio.lowlevel

from director.core.director import Director
from director.core.events import Event, Persisted
from director.core.names import NameTable
from director.core.users import BUCKETS, UserTable
from director.service.asking import Questions
from director.service.reading import Reading
from director.service.share import Share
from state.base import EMPTY_VERSION, SPACES, Bucket, Lost, Space, StateStore, Swap, Swapped, version_of

PREPARED = 32
"""Buckets made ready in one turn of the loop."""
WRITE_BUCKETS = 128
"""Buckets of one write."""


class Writing:
    def __init__(
        self,
        store: StateStore,
        director: Director,
        reading: Reading,
        share: Share,
        handle: Callable[[Event], None],
        between: Callable[[], Awaitable[None]],
    ) -> None:
        """between: what is awaited after every write of some buckets, because an operator waits for it."""
        self.questions = Questions()
        self._store, self._reading, self._share = store, reading, share
        self._handle, self._between = handle, between
        self._users: UserTable = director.users
        self._names: NameTable = director.names
        self._queued: set[int] = set()
        self._queued_names: set[int] = set()
        self._under_way = 0
        """Buckets of users on their way into the store."""

    @property
    def queued(self) -> int:
        """Buckets of users that have changed and are not known to be stored."""
        return len(self._queued) + self._under_way + self._users.dirty_count

    @property
    def has_work(self) -> bool:
        """Whether anything is known to be written; what has only just changed is not looked at."""
        return bool(self._queued or self.questions) or self._share.has_changed()

    def ask(self, number: int, buckets: Sequence[int] | None) -> None:
        """Write these buckets of users, or all that have changed; `Persisted` follows when they are stored.

        Ours or not: a move in progress must be in the store before its round starts."""
        if buckets is None:
            self._queued.update(self._users.take_dirty())
            buckets = tuple(self._queued)
        self._queued.update(buckets)
        self.questions.ask(number, buckets)

    def collect(self) -> None:
        """Move what has become dirty to the queue, or leave it to its usual writer."""
        for number in self._users.take_dirty():
            if self._share.is_ours(number):
                self._queued.add(number)
            else:
                self._share.leave(number)

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
        versions = self._reading.versions["users"]
        for number in range(BUCKETS):
            if number % WRITE_BUCKETS == 0:
                await anyio.lowlevel.checkpoint()
            if self._share.is_ours(number):
                blob = self._users.stored_bucket(number)
                if version_of(blob) != versions.get(number, EMPTY_VERSION):
                    self._queued.add(number)
                if self._names.bucket(number):
                    self._queued_names.add(number)

    async def write_users(self) -> None:
        """Write what is queued now; what becomes dirty meanwhile, or is lost, is for the next time."""
        self.collect()
        await self._swap_all("users", self._users.stored_bucket, self._queued)
        for question in self.questions.take_answered():
            self._handle(Persisted(question))

    async def write_names(self) -> None:
        """The same for names."""
        self._queued_names.update(n for n in self._names.take_dirty() if self._share.is_ours(n))
        await self._swap_all("names", self._names.bucket, self._queued_names)

    async def write_the_rest(self) -> None:
        """Until nothing is left to write.

        What was left to its usual writer of late is written too: he may be stopping as well, and have written
        for the last time before he heard of it.
        """
        self.collect()
        self._queued.update(self._share.lately_left())
        await self.write_users()
        await self.write_names()
        while self._queued:
            await self.write_users()

    async def _swap_all(self, space: Space, blob_of: Callable[[int], bytes], queue: set[int]) -> None:
        numbers = sorted(queue)
        for at in range(0, len(numbers), WRITE_BUCKETS):
            await self._swap(space, numbers[at : at + WRITE_BUCKETS], blob_of, queue)
            await self._between()
            await anyio.lowlevel.checkpoint()

    async def _swap(
        self, space: Space, numbers: Sequence[int], blob_of: Callable[[int], bytes], queue: set[int]
    ) -> None:
        known = self._reading.versions[space]
        swaps: list[Swap] = []
        prepared: dict[int, int] = {}
        self._under_way = len(numbers) if space == "users" else 0
        try:
            for position, number in enumerate(numbers, start=1):
                blob = blob_of(number)
                queue.discard(number)
                prepared[number] = self.questions.count
                if version_of(blob) == known.get(number, EMPTY_VERSION):
                    self._is_stored(space, number, prepared[number])
                else:
                    swaps.append(Swap(space, number, known.get(number, EMPTY_VERSION), blob))
                if position % PREPARED == 0:
                    await anyio.lowlevel.checkpoint()
            results = await self._store.swap_buckets(swaps) if swaps else []
        except BaseException:
            queue.update(numbers)
            raise
        finally:
            self._under_way = 0
        for swap, result in zip(swaps, results, strict=True):
            match result:
                case Swapped(version):
                    known[swap.number] = version
                    self._is_stored(space, swap.number, prepared[swap.number])
                case Lost(version, blob):
                    self._reading.take(space, [Bucket(space, swap.number, version, blob)])
                    queue.add(swap.number)

    def _is_stored(self, space: Space, number: int, asked: int) -> None:
        """A bucket, as it was when so many had asked, is in the store."""
        if space == "users":
            self.questions.stored(number, asked)
