"""Claims: users are claimed through the shared store when the ring cannot order decisions (docs/ring.md, rule
12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from director.core.director import Director
from director.core.placement.users import BUCKET_SHIFT, LATEST, RECORD, User, pack, rounded, unpack
from director.core.protocol.events import Claimed, ClaimFailed, StoredUsers
from director.stored.bucketreader import BucketReader
from director.stored.pace import Portion
from director.stored.storecalls import Pause, Procedure, Signal, SwapBuckets, Tell, Wait
from director.types import Stamp, UserKey
from state.base import SPLIT, SPLIT_VERSION, Bucket, Lost, StoreError, Swap
from state.bucketnumbers import root_of

BATCH = 512
"""Users claimed together, each in at most one bucket."""
TURN = 64
"""Claims answered in one turn of the loop."""


def following(candidate: User, old: User | None) -> User:
    """Return the candidate with stamps that replace `old`, a record that no longer binds."""
    if old is None:
        return candidate
    decided = Stamp(min(max(candidate.decided, old.decided + 1), LATEST))
    return candidate._replace(decided=decided, seen=max(candidate.seen, old.seen))


def with_candidates(blob: bytes, candidates: Iterable[User], expire: int) -> bytes:
    """Return the content of a bucket in which these candidates replace the records of their users.

    The caller has checked that the bucket has no binding record of them. Nothing of this is in memory before
    the store has it: a director that loses the race must take the winner's assignment, not merge its own over
    it.
    """
    records = {blob[at : at + 8]: blob[at : at + RECORD.size] for at in range(0, len(blob), RECORD.size)}
    for candidate in candidates:
        record = pack([candidate._replace(seen=rounded(candidate.seen, expire))])
        records[record[:8]] = record
    return b"".join(records[key] for key in sorted(records))


class Claims:
    """The claims under way. All users that wait at a time are claimed together. The first swap wins.

    Each claim ends with `Claimed` or `ClaimFailed`.
    """

    def __init__(
        self, director: Director, reader: BucketReader, failed: Callable[[str, StoreError], None]
    ) -> None:
        """Begin without claims.

        Args:
            reader: reads buckets of the store.
            failed: called with an operation that the store did not carry out, and the error.
        """
        self._director, self._reader, self._failed = director, reader, failed
        self._users = director.users
        self._waiting: dict[UserKey, User | None] = {}
        self._work = Signal()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: UserKey, record: bytes) -> None:
        """Claim a user.

        Args:
            key: of the user.
            record: is written to the store if no director has claimed the user there; empty: nothing is
                written.
        """
        self._waiting[key] = next(unpack(record), None)
        self._work.set()

    def run(self) -> Procedure[None]:
        """Make claims as they come, until the procedure is ended."""
        while True:
            yield Wait(signals=(self._work,))
            self._work.clear()
            while self._waiting:
                batch = dict(islice(self._waiting.items(), BATCH))
                for key in batch:
                    del self._waiting[key]
                try:
                    yield from self._claim(batch)
                except StoreError as exc:
                    self._failed("claim", exc)
                    yield from self._give_up(batch)

    def _give_up(self, batch: dict[UserKey, User | None]) -> Procedure[None]:
        """Let all claims fail that wait: the store is unreachable."""
        unclaimed = [*batch, *self._waiting]
        self._waiting.clear()
        for number, key in enumerate(unclaimed):
            yield Tell(ClaimFailed(key))
            if number % TURN == TURN - 1:
                yield Pause()

    def _claim(self, batch: dict[UserKey, User | None]) -> Procedure[None]:
        """Claim users: take records that bind from the store, and write the candidates of the other users.

        After a lost race, read again.

        Args:
            batch: the users with their candidates, if any. A claimed user is removed from it.
        """
        tree = self._reader.trees["users"]
        while batch:
            buckets = yield from self._reader.read("users", {key >> BUCKET_SHIFT for key in batch})
            yield from self._report(
                batch, [key for key, user in batch.items() if user is None or self._director.binds(key)]
            )
            candidates: dict[int, list[User]] = {}
            for key, candidate in batch.items():
                assert candidate is not None
                candidates.setdefault(tree.leaf_of(key), []).append(candidate)
            placed: dict[int, list[User]] = {}
            portion = Portion()
            swaps: list[Swap] = []
            for bucket in buckets:
                mine = self._placed(bucket.number, candidates.get(bucket.number, ()))
                if mine:
                    placed[bucket.number] = mine
                    swaps += self._swaps(bucket, mine)
                    if portion.is_full(len(bucket.blob)):
                        yield Pause()
            lost: set[int] = set()
            claimed: list[User] = []
            for swap, result in zip(swaps, (yield SwapBuckets(swaps)), strict=True):
                if isinstance(result, Lost):
                    lost.add(root_of(swap.number))
                elif swap.number in placed and root_of(swap.number) not in lost:
                    self._reader.versions["users"][swap.number] = result.version
                    claimed += placed[swap.number]
            yield Tell(StoredUsers(pack(claimed)))
            yield from self._report(batch, [user.key for user in claimed])

    def _placed(self, number: int, candidates: Iterable[User]) -> list[User]:
        """Return the candidates as they are to be stored in this bucket.

        A user who is bound in memory by now has none. If the bucket is no longer a leaf of the tree, there
        are none at all. In both cases the buckets are read again.
        """
        if number not in self._reader.trees["users"].leaves(root_of(number)):
            return []
        return [
            following(candidate, self._users.get(candidate.key))
            for candidate in candidates
            if not self._director.binds(candidate.key)
        ]

    def _swaps(self, bucket: Bucket, mine: Sequence[User]) -> list[Swap]:
        """Return the swaps that write these candidates into a bucket.

        The first swaps check that the buckets above are still split. Another store, wiped or restored, would
        hold nothing below them that a director could find.
        """
        tree = self._reader.trees["users"]
        swaps = [Swap("users", ancestor, SPLIT_VERSION, SPLIT) for ancestor in tree.path(bucket.number)]
        root = root_of(bucket.number)
        division = tree.divide(root, self._users.stored_bucket(root), may_split=False)
        blob = with_candidates(dict(division.leaves)[bucket.number], mine, self._users.expire)
        return [*swaps, Swap("users", bucket.number, bucket.version, blob)]

    def _report(self, batch: dict[UserKey, User | None], claimed: Sequence[UserKey]) -> Procedure[None]:
        for number, key in enumerate(claimed):
            del batch[key]
            yield Tell(Claimed(key, b""))
            if number % TURN == TURN - 1:
                yield Pause()
