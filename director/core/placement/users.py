"""The user table: each user's host, the stamp of the assignment, and the user's last login.

A record is (key, host, decided, seen, flags), 22 bytes. Records of one key merge by a rule that does not
depend on order, grouping or the time. All records whose key has the same upper 12 bits are one bucket.
Buckets are compared with neighbours, and stored, as one unit.

This is the readable reference; `wire/_fast.pyx` holds the table in packed blocks. Both pass the same tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from struct import Struct
from typing import NamedTuple

from director.types import HostId, Stamp, UserKey

RECORD = Struct(">QIIIH")
"""key, host, decided, seen, flags. Big endian, so that packed records sort like their keys."""

BUCKETS = 4096
BUCKET_SHIFT = 52
"""key >> BUCKET_SHIFT is the number of the key's bucket."""

MOVING = 1
"""Flag: the old sessions have not all ended, as far as is known. Logins wait."""
BY_HAND = 2
"""Flag: an operator chose the host."""
PINNED = 4
"""Flag: the assignment never expires."""
ONE_LOGIN = 8
"""Flag: a login made this record while the table was more than half full, and no login followed. Once the
table is full, the record may be dropped early (docs/ring.md, rule 49)."""
EARLIEST_DROP = 60
"""Seconds from the login during which a ONE_LOGIN record is kept."""
BY_HAND_AHEAD = 3
"""Seconds by which the stamp of a move is ahead of the clock. It must be later than the stamp of an
assignment made in the same moment, by a clock that is ahead, on a director that has not heard of the move
(docs/ring.md, rules 3, 25)."""

LATEST = 0xFFFFFFFF
"""The last Unix second that a record can hold."""

MOST_USERS = 1_000_000_000
"""The highest `users.max`."""

SUMMARY_ENTRY = 6
"""Bytes of one record in `UserTable.summary`."""

_KEYS = Struct(">Q14x")
_WORD = 0xFFFFFFFFFFFFFFFF


class User(NamedTuple):
    """One record of the user table."""

    key: UserKey
    host: HostId
    decided: Stamp
    seen: int
    """Unix seconds of the last login or refresh."""
    flags: int


def merged(first: User, second: User) -> User:
    """Merge two records of one key: the later assignment, with the later `seen`.

    Of two assignments with the same stamp the lower host wins, then a record without MOVING, then the lower
    flags.
    """
    wins = min(first, second, key=lambda user: (-user.decided, user.host, user.flags & MOVING, user.flags))
    return wins._replace(seen=max(first.seen, second.seen))


def rounded(seen: int, expire: int) -> int:
    """Return `seen` as it is stored and compared: rounded up to a multiple of a third of `expire`."""
    step = expire // 3
    return min(-(-seen // step) * step, LATEST)


def margin(expire: int) -> int:
    """Return the seconds before and after expiry in which directors may disagree whether an assignment has
    expired.

    The margin is the last tenth of `expire`, as in Dovecot 2.3's director, but at most 30 s and at least 5 s:
    twice the allowed difference of two clocks, and a second for the ring (docs/ring.md, rule 21).
    """
    return min(30, max(5, expire // 10))


def record_hash(user: User) -> int:
    """Return the 48 bits by which directors tell each other which records they have: the upper bits of
    `record_mix`."""
    return record_mix(user) >> 16


def record_mix(user: User) -> int:
    """Return the 64 bits that stand for a record wherever directors compare records.

    They are the same in every version.

    Three words (the key; host and decided; seen and flags) are mixed in one after the other, each with the
    last steps of splitmix64. The hash need not resist an attacker: only the holder of the ring's secret can
    send records.
    """
    mixed = 0
    for word in (user.key, user.host << 32 | user.decided, user.seen << 16 | user.flags):
        mixed = (mixed ^ word) + 0x9E3779B97F4A7C15 & _WORD
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
        mixed ^= mixed >> 31
    return mixed


def pack(users: Iterable[User]) -> bytes:
    """Return records as they are sent to directors and stores."""
    return b"".join(RECORD.pack(*user) for user in users)


def unpack(records: bytes | memoryview) -> Iterator[User]:
    """Iterate over the users of packed records.

    Raises:
        ValueError: the length is no multiple of the record size.
    """
    if len(records) % RECORD.size:
        raise ValueError(f"{len(records)} bytes of user records are no multiple of {RECORD.size}")
    return (User(*fields) for fields in RECORD.iter_unpack(records))


def keys_of(records: bytes) -> Iterator[UserKey]:
    """Iterate over the keys of packed records. Several times as fast as `unpack`."""
    return (UserKey(key) for (key,) in _KEYS.iter_unpack(records))


def decision_of(record: bytes) -> bytes:
    """Return the key, host, stamp and flags of one record: everything but `seen`."""
    return record[:16] + record[20:]


class UserTable:
    """The records of all users, in 4096 buckets.

    The table also keeps three lists. *Changes* are records that were decided or refreshed here and are not
    announced yet. *Displaced* are the former records of users whose host a merge has changed. *Dirty* are the
    buckets whose stored form differs from memory.
    """

    def __init__(self, expire: int, earliest_drop: int = EARLIEST_DROP) -> None:
        """Make an empty table.

        Args:
            expire: seconds after which an assignment without logins expires, at least 10.
            earliest_drop: seconds after which a ONE_LOGIN record may be dropped early.

        Raises:
            ValueError: `expire` is below 10.
        """
        if expire < 10:
            raise ValueError(f"users.expire is {expire} s; it must be at least 10 s")
        self.expire, self._earliest_drop = expire, earliest_drop
        self._buckets: list[dict[UserKey, User]] = [{} for _ in range(BUCKETS)]
        self._changes: list[User] = []
        self._displaced: list[User] = []
        self._dirty: set[int] = set()
        self._used = 0
        self.at_home: Callable[[User], bool] = lambda user: False
        """Whether the hash would put a user on the host of the record. The assigner sets this function."""

    def __len__(self) -> int:
        """Return the number of all records, expired assignments included."""
        return self._used

    def get(self, key: UserKey) -> User | None:
        """Return the record of a user, expired or not."""
        return self._buckets[key >> BUCKET_SHIFT].get(key)

    def put(self, user: User) -> None:
        """Store an assignment made here. It replaces any other record of the user, and is announced."""
        self._store(user)
        self._changed(user)

    def touch(self, key: UserKey, seen: int) -> bool:
        """Raise `seen` of a user.

        Args:
            key: of the user. A user without a record gets none.
            seen: Unix seconds.

        Returns:
            Whether that is announced: the first time for a ONE_LOGIN record, then once in a third of
            `expire`.
        """
        old = self.get(key)
        if old is None or (seen <= old.seen and not old.flags & ONE_LOGIN):
            return False
        new = old._replace(seen=max(seen, old.seen), flags=old.flags & ~ONE_LOGIN)
        self._store(new)
        if new.flags == old.flags and self._rounded(seen) == self._rounded(old.seen):
            return False
        self._changed(new)
        return True

    def merge(self, records: bytes) -> bytes:
        """Merge records from elsewhere, in any order.

        Returns:
            The records that brought something new, packed, as they are now. New is another host, stamp or
            flags, or a later rounded `seen`. They are not announced: the caller passes them on.

        Raises:
            ValueError: the length is no multiple of the record size; nothing was merged.
        """
        news = []
        for user in unpack(records):
            old = self.get(user.key)
            new = user if old is None else merged(old, user)
            if new == old:
                continue
            self._store(new)
            before = old or User(new.key, HostId(0), Stamp(0), 0, 0)
            if _displaced(before, new) if old else new.flags & MOVING:
                self._displaced.append(before)
            if old is None or self._stored(new) != self._stored(old):
                self._dirty.add(new.key >> BUCKET_SHIFT)
                news.append(new)
        return pack(news)

    def ahead(self, records: bytes, decided: int, seen: int) -> bytes:
        """Return those of some records whose times are too late.

        Args:
            records: packed.
            decided: Unix seconds; a later stamp is too late.
            seen: Unix seconds; a later last login is too late.
        """
        return pack(user for user in unpack(records) if user.decided > decided or user.seen > seen)

    def clipped(self, records: bytes, decided: int, seen: int, latest: int) -> bytes:
        """Return some records with the times that are too late replaced.

        Args:
            records: packed.
            decided: Unix seconds; a later stamp is replaced.
            seen: Unix seconds; a later last login is replaced.
            latest: Unix seconds that replace either.
        """
        return pack(_clipped(user, decided, seen, latest) for user in unpack(records))

    def clip(self, number: int, decided: int, seen: int, latest: int) -> bytes:
        """Replace the times in a bucket that are too late, as `clipped` does.

        Returns:
            The records that were changed, packed, as they are now, by key. They are not announced.
        """
        changed = []
        for user in self._sorted(number):
            new = _clipped(user, decided, seen, latest)
            if new != user:
                self._store(new)
                self._dirty.add(number)
                changed.append(new)
        return pack(changed)

    def bucket(self, number: int) -> bytes:
        """Return the records of a bucket, packed, by key."""
        return pack(self._sorted(number))

    def with_hash(self, hash32: int) -> bytes:
        """Return the records of all users with this hash, packed, by key.

        The hash is the upper half of a key.
        """
        number = (hash32 << 32) >> BUCKET_SHIFT
        return pack(sorted(user for user in self._buckets[number].values() if user.key >> 32 == hash32))

    def stored_bucket(self, number: int) -> bytes:
        """Return a bucket as it is stored and compared: like `bucket`, with `seen` rounded up."""
        return pack(map(self._stored, self._sorted(number)))

    def digest(self, number: int, unix: int) -> bytes:
        """Return the digest of a bucket. It is equal on directors with the same records.

        It is the sum of `record_mix` of the stored records. Records that have expired, or that may be dropped
        early, do not count: some directors have dropped them already.

        Args:
            number: of the bucket.
            unix: Unix seconds, by which records have expired.

        Returns:
            8 bytes. They are zeros if no record counts, and only then.
        """
        kept = [record_mix(self._stored(user)) for user in self._kept(number, unix)]
        total = sum(kept) & _WORD
        return (total or int(bool(kept))).to_bytes(8)

    def summary(self, number: int, unix: int) -> bytes:
        """Return the hashes of the records of a bucket.

        Returns:
            The `record_hash` (6 bytes, big endian) of each stored record, by key. A record that does not
            count in the digest is not in the summary.
        """
        return b"".join(self._hash(user) for user in self._kept(number, unix))

    def missing(self, number: int, summary: bytes, unix: int) -> bytes:
        """Return the records of a bucket that another director lacks.

        Args:
            number: of the bucket.
            summary: the other director's summary, in any order.
            unix: Unix seconds, by which records have expired.

        Returns:
            The records, packed, by key.

        Raises:
            ValueError: the length of `summary` is no multiple of the entry size.
        """
        if len(summary) % SUMMARY_ENTRY:
            raise ValueError(f"{len(summary)} bytes of a summary are no multiple of {SUMMARY_ENTRY}")
        starts = range(0, len(summary), SUMMARY_ENTRY)
        known = {summary[start : start + SUMMARY_ENTRY] for start in starts}
        return pack(user for user in self._kept(number, unix) if self._hash(user) not in known)

    def digests(self, unix: int) -> bytes:
        """Return the digests of all buckets, one after the other.

        With many users this takes long: use `digest` for a range of buckets in each turn of the loop.
        """
        empty = bytes(8)
        return b"".join(
            [self.digest(number, unix) if users else empty for number, users in enumerate(self._buckets)]
        )

    @property
    def has_changes(self) -> bool:
        return bool(self._changes)

    def take_changes(self) -> bytes:
        """Return the records to announce since the last call. A user may be among them twice."""
        changes, self._changes = self._changes, []
        return pack(changes)

    @property
    def has_displaced(self) -> bool:
        return bool(self._displaced)

    def take_displaced(self) -> bytes:
        """Return the former records of users whose host, MOVING flag or move a merge has changed.

        Returns:
            The records since the last call, packed. A user may be among them twice. A user who had no record
            and came in MOVING is among them on host 0, with zeros. Other users who had no record are not
            among them.
        """
        displaced, self._displaced = self._displaced, []
        return pack(displaced)

    @property
    def dirty_count(self) -> int:
        return len(self._dirty)

    def take_dirty(self) -> list[int]:
        """Return the buckets that have to be written since the last call, in order."""
        dirty, self._dirty = self._dirty, set()
        return sorted(dirty)

    def mark_dirty(self, number: int) -> None:
        """Have a bucket written (again)."""
        self._dirty.add(number)

    def sweep(self, number: int, unix: int) -> int:
        """Delete the records of a bucket that have long expired. Returns how many were deleted."""
        users = self._buckets[number].values()
        if not users:
            return 0
        return self._keep(number, [user for user in users if not self._long_expired(user, unix)])

    def shed(self, number: int, unix: int) -> int:
        """Delete the records of a bucket that have long expired or may be dropped early.

        Returns:
            How many were deleted.
        """
        return self._keep(number, list(self._kept(number, unix)))

    def confirm(self, first: int, last: int) -> int:
        """Clear the flag ONE_LOGIN of the users in buckets `first` to `last - 1` whose host is not the host
        that the hash selects.

        Their records are announced: directors that have dropped them early need them again.

        Returns:
            How many users there were.
        """
        elsewhere = [
            user
            for number in range(first, min(last, BUCKETS))
            if self._buckets[number]
            for user in self._sorted(number)
            if user.flags == ONE_LOGIN and not self.at_home(user)
        ]
        for user in elsewhere:
            self.put(user._replace(flags=0))
        return len(elsewhere)

    def counts(self, first: int, last: int, unix: int, since: Mapping[HostId, int]) -> dict[HostId, int]:
        """Return how many users each host has in the buckets `first` to `last - 1`.

        Args:
            first: the first bucket.
            last: the bucket after the last.
            unix: Unix seconds. Assignments that have expired by then do not count.
            since: the stamp of each host's last appearance. Earlier assignments to it do not count.
        """
        return dict(
            Counter(
                user.host
                for bucket in self._buckets[first:last]
                for user in bucket.values()
                if is_unexpired(user, unix, self.expire) and user.decided >= since.get(user.host, 0)
            )
        )

    def _store(self, user: User) -> None:
        bucket = self._buckets[user.key >> BUCKET_SHIFT]
        self._used += user.key not in bucket
        bucket[user.key] = user

    def _changed(self, user: User) -> None:
        self._changes.append(user)
        self._dirty.add(user.key >> BUCKET_SHIFT)

    def _keep(self, number: int, users: list[User]) -> int:
        dropped = len(self._buckets[number]) - len(users)
        if dropped:
            self._buckets[number] = {user.key: user for user in users}
            self._used -= dropped
            self._dirty.add(number)
        return dropped

    def _kept(self, number: int, unix: int) -> Iterator[User]:
        """Iterate over the records of a bucket by key, without records that have long expired or may be
        dropped early."""
        return (
            user
            for user in self._sorted(number)
            if not self._long_expired(user, unix) and not self._idle(user, unix)
        )

    def _sorted(self, number: int) -> list[User]:
        return sorted(self._buckets[number].values())

    def _rounded(self, seen: int) -> int:
        return rounded(seen, self.expire)

    def _stored(self, user: User) -> User:
        return user._replace(seen=self._rounded(user.seen))

    def _hash(self, user: User) -> bytes:
        return record_hash(self._stored(user)).to_bytes(SUMMARY_ENTRY)

    def _long_expired(self, user: User, unix: int) -> bool:
        return has_long_expired(user, unix, self.expire)

    def _idle(self, user: User, unix: int) -> bool:
        """Whether the record may be dropped early. All directors decide this alike."""
        if user.flags != ONE_LOGIN or user.decided + self._earliest_drop > unix:
            return False
        return self.at_home(user)


def _clipped(user: User, decided: int, seen: int, latest: int) -> User:
    return user._replace(
        decided=Stamp(latest) if user.decided > decided else user.decided,
        seen=latest if user.seen > seen else user.seen,
    )


def _displaced(before: User, new: User) -> bool:
    """Whether a merge has changed the user's host or MOVING flag, or has begun another move."""
    same_move = before.decided == new.decided or not new.flags & MOVING
    return before.host != new.host or (before.flags ^ new.flags) & MOVING != 0 or not same_move


def is_unexpired(user: User, unix: int, expire: int) -> bool:
    """Whether the assignment has not expired: it is pinned, or its user was seen less than `expire` seconds
    ago."""
    return bool(user.flags & PINNED) or user.seen + expire > unix


def has_long_expired(user: User, unix: int, expire: int) -> bool:
    """Whether the assignment expired so long ago that its record is deleted (docs/ring.md, rule 18).

    Until then the record is kept, so that an older record from another director does not replace it.
    """
    # Only the rounded `seen` is the same on all directors. By the exact one, digests would differ for a third
    # of `expire` each time a user who was refreshed on one director goes.
    return not user.flags & PINNED and rounded(user.seen, expire) + 2 * expire <= unix


def is_near_expiry(user: User, unix: int, expire: int) -> bool:
    """Whether directors may disagree about `is_unexpired`: their clocks differ, or a director has seen the
    user since.

    The latest `seen` that any director may have is the rounded one.
    """
    first, last = user.seen - margin(expire), rounded(user.seen, expire) + margin(expire)
    return not user.flags & PINNED and first <= unix - expire < last
