# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The name table in C. `core.placement.names.NameTable` says what each method does.

A bucket is one block of entries in the order in which they came. Names of logins on this director are appended
without a search, since nearly all are new. Repetitions are removed when the bucket is read or has doubled.
Methods that read all entries of a bucket make an index of it first: without an index, a bucket of 1500 names
would take milliseconds.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

DEF BUCKETS = 4096
DEF HEAD = 10
DEF SLACK = 1024
DEF RECORD = 22
DEF LONGEST_NAME = 255
DEF USUAL = 32  # bytes of an entry
DEF RUN = 8  # with so many successive entries of one bucket, an index saves time


cdef struct block:
    uint8_t *data
    size_t used
    size_t room
    size_t tidy


cdef struct spot:
    uint64_t key
    size_t place  # the offset of its entry plus one; 0: the spot is free


cdef struct index:
    spot *spots
    size_t mask


cdef inline size_t size_of(const uint8_t *entry) noexcept nogil:
    return HEAD + (<size_t> entry[8] << 8 | entry[9])


cdef inline bint is_kept(const uint8_t *entry) noexcept nogil:
    return size_of(entry) <= HEAD + LONGEST_NAME


cdef inline int number_of(const uint8_t *entry) noexcept nogil:
    return <int> entry[0] << 4 | entry[1] >> 4


cdef uint8_t *find(uint8_t *at, const uint8_t *end, const uint8_t *entry) noexcept nogil:
    """Return the first entry of the same key from `at` on; NULL: none."""
    while at < end:
        if memcmp(at, entry, 8) == 0:
            return at
        at += size_of(at)
    return NULL


cdef inline spot *spot_of(index found, const uint8_t *entry) noexcept nogil:
    """Return the spot of an entry's key, or the free spot where the key belongs."""
    cdef uint64_t key
    cdef size_t at
    memcpy(&key, entry, 8)
    at = (key * <uint64_t> 0x9E3779B97F4A7C15) >> 32 & found.mask
    while found.spots[at].place and found.spots[at].key != key:
        at = at + 1 & found.mask
    found.spots[at].key = key
    return found.spots + at


cdef bint greater(const uint8_t *entry, const uint8_t *other) noexcept nogil:
    """Whether the name of `entry` is greater than that of `other`, compared as bytes."""
    cdef size_t mine = size_of(entry) - HEAD
    cdef size_t theirs = size_of(other) - HEAD
    cdef int order = memcmp(entry + HEAD, other + HEAD, mine if mine < theirs else theirs)
    return order > 0 or (order == 0 and mine > theirs)


cdef bint among(const uint8_t *records, size_t count, const uint8_t *key) noexcept nogil:
    """Whether one of these user records, which are in order, has this key."""
    cdef size_t low = 0, high = count, middle
    cdef int order
    while low < high:
        middle = low + (high - low) // 2
        order = memcmp(records + middle * RECORD, key, 8)
        if order == 0:
            return True
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return False


cdef class NameTable:
    cdef block buckets[BUCKETS]
    cdef uint8_t dirty[BUCKETS]
    cdef readonly int dirty_count
    cdef size_t used
    cdef size_t looked_at

    def __dealloc__(self):
        cdef int number
        for number in range(BUCKETS):
            free(self.buckets[number].data)

    def __len__(self):
        return self.used

    cdef int check(self, const uint8_t *data, size_t length) except -1:
        cdef size_t at = 0
        while at < length:
            if length - at < HEAD or length - at < size_of(data + at):
                raise ValueError(f"names: {length} bytes of entries end in the middle of one")
            at += size_of(data + at)
        return 0

    cdef void mark(self, int number) noexcept nogil:
        if not self.dirty[number]:
            self.dirty[number] = 1
            self.dirty_count += 1

    cdef void drop(self, block *bucket, uint8_t *at) noexcept nogil:
        cdef size_t size = size_of(at)
        memmove(at, at + size, bucket.data + bucket.used - at - size)
        bucket.used -= size
        self.used -= size

    cdef index indexed(self, block *bucket, size_t more) except *:
        """Return an index of the last entry of each key, with room for `more` keys. The caller frees its spots."""
        cdef size_t at = 0, count = more, room = 16
        cdef index found
        while at < bucket.used:
            at += size_of(bucket.data + at)
            count += 1
        self.looked_at += count
        while room < 2 * count:
            room *= 2
        found.mask = room - 1
        found.spots = <spot *> calloc(room, sizeof(spot))
        if found.spots == NULL:
            raise MemoryError
        at = 0
        while at < bucket.used:
            spot_of(found, bucket.data + at).place = at + 1
            at += size_of(bucket.data + at)
        return found

    cdef void keep(self, block *bucket, index found) noexcept:
        """Drop all entries that are not in the index."""
        cdef size_t at = 0, kept = 0, size
        while at < bucket.used:
            size = size_of(bucket.data + at)
            if spot_of(found, bucket.data + at).place == at + 1:
                memmove(bucket.data + kept, bucket.data + at, size)
                kept += size
            at += size
        self.used -= bucket.used - kept
        bucket.used = kept

    cdef int tidied(self, block *bucket) except -1:
        """Keep the last entry of each key."""
        cdef index found = self.indexed(bucket, 0)
        self.keep(bucket, found)
        free(found.spots)
        bucket.tidy = bucket.used
        return 0

    cdef uint8_t *known(self, block *bucket, const uint8_t *entry) except? NULL:
        """Return the only entry of the same key, after removing repetitions; NULL: none."""
        if bucket.tidy != bucket.used:
            self.tidied(bucket)
        return find(bucket.data, bucket.data + bucket.used, entry)

    cdef int append(self, block *bucket, const uint8_t *entry) except -1:
        cdef size_t size = size_of(entry)
        cdef size_t room
        cdef uint8_t *data
        if bucket.used + size > bucket.room:
            room = bucket.used + size + bucket.used // 4 + 32
            data = <uint8_t *> realloc(bucket.data, room)
            if data == NULL:
                raise MemoryError
            bucket.data, bucket.room = data, room
        memcpy(bucket.data + bucket.used, entry, size)
        bucket.used += size
        self.used += size
        return 0

    def add(self, bytes entries not None):
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(entries)
        cdef size_t length = PyBytes_GET_SIZE(entries)
        cdef size_t at = 0
        cdef int number
        cdef block *bucket
        self.check(data, length)
        while at < length:
            if is_kept(data + at):
                number = number_of(data + at)
                bucket = &self.buckets[number]
                self.append(bucket, data + at)
                self.looked_at += 1
                if bucket.used > 2 * bucket.tidy + SLACK:
                    self.tidied(bucket)
                self.mark(number)
            at += size_of(data + at)

    def take_looked_at(self):
        cdef size_t looked_at = self.looked_at
        self.looked_at = 0
        return looked_at

    def missing(self, bytes entries not None, int most):
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(entries)
        cdef size_t length = PyBytes_GET_SIZE(entries)
        cdef size_t at = 0
        cdef bytearray found = bytearray()
        cdef block *bucket
        self.check(data, length)
        while at < length and most > 0:
            most -= 1
            bucket = &self.buckets[number_of(data + at)]
            # repetitions are not removed here: every login asks for a name, and most buckets have new entries
            if is_kept(data + at) and find(bucket.data, bucket.data + bucket.used, data + at) == NULL:
                found += (<char *> data + at)[: size_of(data + at)]
            at += size_of(data + at)
        return bytes(found)

    def merge(self, bytes entries not None):
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(entries)
        cdef size_t length = PyBytes_GET_SIZE(entries)
        cdef size_t at = 0, end, count
        cdef int number
        cdef bint anything = False
        self.check(data, length)
        while at < length:
            number = number_of(data + at)
            end, count = at, 0
            while end < length and number_of(data + end) == number:
                end += size_of(data + end)
                count += 1
            if self.merge_run(number, data + at, end - at, count):
                self.mark(number)
                anything = True
            at = end
        return anything

    cdef bint merge_run(self, int number, const uint8_t *data, size_t length, size_t count) except -1:
        """Merge entries of one bucket. Returns whether any name was new."""
        cdef block *bucket = &self.buckets[number]
        cdef size_t at = 0
        cdef bint anything = False, replaced = False
        cdef index found
        cdef spot *spot
        if count < RUN:
            return self.merge_few(bucket, data, length)
        if bucket.tidy != bucket.used:
            self.tidied(bucket)
        found = self.indexed(bucket, count)
        try:
            while at < length:
                if is_kept(data + at):
                    spot = spot_of(found, data + at)
                    if not spot.place or greater(data + at, bucket.data + spot.place - 1):
                        replaced = replaced or spot.place != 0
                        self.append(bucket, data + at)
                        spot.place = bucket.used - size_of(data + at) + 1
                        anything = True
                at += size_of(data + at)
        finally:
            if replaced:
                self.keep(bucket, found)
            free(found.spots)
            bucket.tidy = bucket.used
        return anything

    cdef bint merge_few(self, block *bucket, const uint8_t *data, size_t length) except -1:
        cdef size_t at = 0
        cdef bint anything = False
        cdef uint8_t *known
        while at < length:
            if is_kept(data + at):
                known = self.known(bucket, data + at)
                self.looked_at += 1 + bucket.used // USUAL
                if known == NULL or greater(data + at, known):
                    if known != NULL:
                        self.drop(bucket, known)
                    self.append(bucket, data + at)
                    bucket.tidy = bucket.used
                    anything = True
            at += size_of(data + at)
        return anything

    cdef list entries(self, int number):
        if not 0 <= number < BUCKETS:
            raise IndexError(f"bucket {number}: must be 0 to {BUCKETS - 1}")
        cdef block *bucket = &self.buckets[number]
        cdef size_t at = 0
        cdef list found = []
        if bucket.tidy != bucket.used:
            self.tidied(bucket)
        while at < bucket.used:
            found.append(PyBytes_FromStringAndSize(<char *> bucket.data + at, size_of(bucket.data + at)))
            at += size_of(bucket.data + at)
        found.sort()
        return found

    def bucket(self, int number):
        return b"".join(self.entries(number))

    def raw(self, int number):
        if not 0 <= number < BUCKETS:
            raise IndexError(f"bucket {number}: must be 0 to {BUCKETS - 1}")
        cdef block *bucket = &self.buckets[number]
        return PyBytes_FromStringAndSize(<char *> bucket.data, bucket.used) if bucket.used else b""

    def entries_of(self, int number, bytes records not None):
        cdef const uint8_t *first = <const uint8_t *> PyBytes_AS_STRING(records)
        cdef size_t count = PyBytes_GET_SIZE(records) // RECORD
        cdef bytearray found = bytearray()
        cdef block *bucket
        cdef uint8_t *at
        if not 0 <= number < BUCKETS:
            raise IndexError(f"bucket {number}: must be 0 to {BUCKETS - 1}")
        bucket = &self.buckets[number]
        if bucket.tidy != bucket.used:
            self.tidied(bucket)
        at = bucket.data
        while at < bucket.data + bucket.used:
            if among(first, count, at):
                found += PyBytes_FromStringAndSize(<char *> at, size_of(at))
            at += size_of(at)
        return bytes(found)

    def names(self, int number):
        return {
            int.from_bytes(entry[:8], "big"): entry[HEAD:].decode(errors="replace")
            for entry in self.entries(number)
        }

    def sweep(self, int number, bytes records not None):
        cdef const uint8_t *first = <const uint8_t *> PyBytes_AS_STRING(records)
        cdef size_t count = PyBytes_GET_SIZE(records) // RECORD
        cdef size_t at = 0, kept = 0, size
        cdef block *bucket
        if not 0 <= number < BUCKETS:
            raise IndexError(f"bucket {number}: must be 0 to {BUCKETS - 1}")
        bucket = &self.buckets[number]
        while at < bucket.used:
            size = size_of(bucket.data + at)
            if among(first, count, bucket.data + at):
                memmove(bucket.data + kept, bucket.data + at, size)
                kept += size
            at += size
        if kept < bucket.used:
            bucket.tidy = kept if bucket.tidy == bucket.used else 0
            self.used -= bucket.used - kept
            bucket.used = kept
            self.shrink(bucket)
            self.mark(number)
            return True
        return False

    cdef void shrink(self, block *bucket) noexcept nogil:
        """Release memory if a bucket uses less than half of its block."""
        cdef uint8_t *data
        if bucket.used < bucket.room // 2:
            data = <uint8_t *> realloc(bucket.data, bucket.used + 32)
            if data != NULL:
                bucket.data, bucket.room = data, bucket.used + 32

    def take_dirty(self):
        cdef int number
        cdef list taken = []
        if self.dirty_count:
            for number in range(BUCKETS):
                if self.dirty[number]:
                    self.dirty[number] = 0
                    taken.append(number)
            self.dirty_count = 0
        return taken

    def mark_dirty(self, int number):
        if not 0 <= number < BUCKETS:
            raise IndexError(f"bucket {number}: must be 0 to {BUCKETS - 1}")
        self.mark(number)
