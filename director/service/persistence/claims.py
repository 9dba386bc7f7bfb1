"""Claims: new users of a partial ring are settled in the shared store, all that wait at a time in one go.

The first swap wins (architecture, section 5). Nobody but the users concerned waits for the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import anyio
import anyio.lowlevel

from director.core.director import Director
from director.core.placement.users import BUCKET_SHIFT, User, pack, unpack
from director.core.protocol.events import Claimed, ClaimFailed, Event, StoredUsers
from director.service.persistence.reader import Reading
from director.stored.claims import following, with_candidates
from director.types import UserKey
from state.base import SPLIT, SPLIT_VERSION, Bucket, Lost, StateStore, StoreError, Swap
from state.bucketnumbers import root_of

BATCH = 512
"""Users settled in one go; a bucket each at most."""
TURN = 64
"""Of these, the answered in one turn of the loop."""


class Claims:
    """The claims under way. Each ends with `Claimed` or `ClaimFailed`."""

    def __init__(
        self,
        store: StateStore,
        director: Director,
        handle: Callable[[Event], None],
        reading: Reading,
        failed: Callable[[str, StoreError], None],
    ) -> None:
        """failed: is told where the store did not do it."""
        self._store, self._director, self._handle = store, director, handle
        self._reading, self._failed = reading, failed
        self._users = director.users
        self._waiting: dict[UserKey, User | None] = {}
        self._work = anyio.Event()

    def add(self, key: UserKey, record: bytes) -> None:
        """Settle this user; `record` is put into the store if nobody else has settled the user, unless it is
        empty."""
        self._waiting[key] = next(unpack(record), None)
        self._work.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            while self._waiting:
                batch = dict(islice(self._waiting.items(), BATCH))
                for key in batch:
                    del self._waiting[key]
                try:
                    await self._settle(batch)
                except StoreError as exc:
                    self._failed("claim", exc)
                    self._give_up(batch)

    def _give_up(self, batch: dict[UserKey, User | None]) -> None:
        """The store is away: what waits would fail too."""
        unsettled = [*batch, *self._waiting]
        self._waiting.clear()
        for key in unsettled:
            self._handle(ClaimFailed(key))

    async def _settle(self, batch: dict[UserKey, User | None]) -> None:
        """Take whatever binds in the store, put the candidates of the others there; who loses looks again.

        batch: candidates, if any; who is settled is taken out.
        """
        tree = self._reading.trees["users"]
        while batch:
            buckets = await self._reading.read("users", {key >> BUCKET_SHIFT for key in batch})
            await self._report(
                batch, [key for key, user in batch.items() if user is None or self._director.binds(key)]
            )
            placed: dict[int, list[User]] = {}
            for key, candidate in batch.items():
                assert candidate is not None
                placed.setdefault(tree.leaf_of(key), []).append(following(candidate, self._users.get(key)))
            swaps = [
                swap
                for bucket in buckets
                if bucket.number in placed
                for swap in self._swaps(bucket, placed[bucket.number])
            ]
            lost: set[int] = set()
            settled: list[User] = []
            for swap, result in zip(swaps, await self._store.swap_buckets(swaps), strict=True):
                if isinstance(result, Lost):
                    lost.add(root_of(swap.number))
                elif swap.number in placed and root_of(swap.number) not in lost:
                    self._reading.versions["users"][swap.number] = result.version
                    settled += placed[swap.number]
            self._handle(StoredUsers(pack(settled)))
            await self._report(batch, [user.key for user in settled])

    def _swaps(self, bucket: Bucket, mine: Sequence[User]) -> list[Swap]:
        """A bucket with these candidates. First, that those above it are still split: another store, wiped or
        restored, has nothing below them that anybody would find."""
        tree = self._reading.trees["users"]
        swaps = [Swap("users", one, SPLIT_VERSION, SPLIT) for one in tree.path(bucket.number)]
        root = root_of(bucket.number)
        division = tree.divide(root, self._users.stored_bucket(root), may_split=False)
        blob = with_candidates(dict(division.leaves)[bucket.number], mine, self._users.expire)
        return [*swaps, Swap("users", bucket.number, bucket.version, blob)]

    async def _report(self, batch: dict[UserKey, User | None], settled: Sequence[UserKey]) -> None:
        for number, key in enumerate(settled):
            del batch[key]
            self._handle(Claimed(key, b""))
            if number % TURN == TURN - 1:
                await anyio.lowlevel.checkpoint()
