# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The hot path in C: the user table, the assigner and the rewriting of auth lines.

Their readable twins say what each of them does: core/placement/users.py, core/placement/assign.py and
wire/auth.py. Both pass the same tests. No Python object is made for a line that is answered at once.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memchr, memcmp, memcpy

from director.core.placement.addresses import address_order
from director.core.placement.assign import NO_LIMIT, Gate, Wait
from director.core.placement.users import EARLIEST_DROP, User, margin
from director.wire.auth import HeldRequest, perhaps


cdef bytes taken(buffer_t *buffer):
    """Return the contents of a buffer, and empty the buffer."""
    cdef bytes data = PyBytes_FromStringAndSize(<char *>buffer.data, buffer.used)
    free(buffer.data)
    buffer[0] = buffer_t(NULL, 0, 0)
    return data


cdef slice_t slice_of(bytes data):
    """Return the slice that is `data`. It is valid as long as `data` is referenced."""
    return slice_t(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef bytes bytes_of(slice_t slice):
    return PyBytes_FromStringAndSize(<const char *>slice.data, slice.size)


cdef int checked(int result) except -1:
    if result < 0:
        raise MemoryError
    return result


cdef int add_count(dict counts, uint32_t host, uint64_t found) except -1:
    if found:
        counts[host] = counts.get(host, 0) + found
    return 0


cdef class UserTable:
    """`core.placement.users.UserTable` as 4096 sorted blocks of packed records: about 25 bytes a user."""

    cdef table_t *table

    def __cinit__(self, uint32_t expire, uint32_t earliest_drop=EARLIEST_DROP):
        if expire < 10:
            raise ValueError(f"users.expire is {expire} s; it must be at least 10 s")
        self.table = <table_t *>calloc(1, sizeof(table_t))
        if self.table == NULL:
            raise MemoryError
        self.table.expire, self.table.margin, self.table.earliest_drop = expire, margin(expire), earliest_drop

    def __dealloc__(self):
        if self.table != NULL:
            table_free(self.table)
            free(self.table)

    @property
    def expire(self):
        return self.table.expire

    def __len__(self):
        return self.table.used

    def get(self, uint64_t key):
        cdef const uint8_t *record = table_find(self.table, key)
        if record == NULL:
            return None
        return User(
            key,
            get32(record + AT_HOST),
            get32(record + AT_DECIDED),
            get32(record + AT_SEEN),
            get16(record + AT_FLAGS),
        )

    def put(self, user):
        key, host, decided, seen, flags = user
        checked(table_put(self.table, key, host, decided, seen, flags))

    def touch(self, uint64_t key, uint32_t seen):
        cdef uint8_t *record = table_find(self.table, key)
        if record == NULL:
            return False
        return checked(table_touch(self.table, record, seen)) > 0

    def merge(self, bytes records not None):
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(records)
        cdef size_t size = PyBytes_GET_SIZE(records), at
        cdef buffer_t news = buffer_t(NULL, 0, 0)
        if size % RECORD:
            raise ValueError(f"{size} bytes of user records are no multiple of {RECORD}")
        try:
            for at in range(0, size, RECORD):
                checked(table_merge(self.table, data + at, &news))
            return PyBytes_FromStringAndSize(<char *>news.data, news.used)
        finally:
            free(news.data)

    def ahead(self, bytes records not None, uint32_t decided, uint32_t seen):
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(records)
        cdef size_t size = PyBytes_GET_SIZE(records), at
        cdef buffer_t ahead = buffer_t(NULL, 0, 0)
        if size % RECORD:
            raise ValueError(f"{size} bytes of user records are no multiple of {RECORD}")
        try:
            for at in range(0, size, RECORD):
                if record_ahead(data + at, decided, seen):
                    checked(buffer_append(&ahead, data + at, RECORD))
            return PyBytes_FromStringAndSize(<char *>ahead.data, ahead.used)
        finally:
            free(ahead.data)

    def clipped(self, bytes records not None, uint32_t decided, uint32_t seen, uint32_t latest):
        cdef size_t size = PyBytes_GET_SIZE(records), at
        cdef bytes clipped = PyBytes_FromStringAndSize(PyBytes_AS_STRING(records), size)
        cdef uint8_t *data = <uint8_t *>PyBytes_AS_STRING(clipped)
        if size % RECORD:
            raise ValueError(f"{size} bytes of user records are no multiple of {RECORD}")
        for at in range(0, size, RECORD):
            record_clip(data + at, decided, seen, latest)
        return clipped

    def clip(self, uint32_t number, uint32_t decided, uint32_t seen, uint32_t latest):
        cdef buffer_t changed = buffer_t(NULL, 0, 0)
        self.block(number)
        try:
            checked(table_clip(self.table, number, decided, seen, latest, &changed))
            return PyBytes_FromStringAndSize(<char *>changed.data, changed.used)
        finally:
            free(changed.data)

    def bucket(self, uint32_t number):
        cdef block_t *block = self.block(number)
        return PyBytes_FromStringAndSize(<char *>block.records, <size_t>block.used * RECORD)

    def with_hash(self, uint32_t hash32):
        cdef uint64_t least = <uint64_t>hash32 << 32
        cdef block_t *block = self.block(<uint32_t>(least >> BUCKET_SHIFT))
        cdef uint32_t first = block_search(block, least), end = first
        while end < block.used and get64(block.records + <size_t>end * RECORD) >> 32 == hash32:
            end += 1
        return PyBytes_FromStringAndSize(
            <char *>block.records + <size_t>first * RECORD, <size_t>(end - first) * RECORD
        )

    def stored_bucket(self, uint32_t number):
        cdef block_t *block = self.block(number)
        cdef bytes stored = PyBytes_FromStringAndSize(NULL, <size_t>block.used * RECORD)
        cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(stored)
        cdef size_t at
        for at in range(0, <size_t>block.used * RECORD, RECORD):
            table_stored(self.table, block.records + at, to + at)
        return stored

    def digest(self, uint32_t number, int64_t unix):
        cdef uint8_t digest[8]
        self.block(number)
        put64(digest, table_digest(self.table, number, unix))
        return PyBytes_FromStringAndSize(<char *>digest, 8)

    def summary(self, uint32_t number, int64_t unix):
        cdef buffer_t summary = buffer_t(NULL, 0, 0)
        self.block(number)
        try:
            checked(table_summary(self.table, number, unix, &summary))
            return PyBytes_FromStringAndSize(<char *>summary.data, summary.used)
        finally:
            free(summary.data)

    def missing(self, uint32_t number, bytes summary not None, int64_t unix):
        cdef slice_t known = slice_of(summary)
        cdef buffer_t missing = buffer_t(NULL, 0, 0)
        self.block(number)
        if known.size % SUMMARY_ENTRY:
            raise ValueError(f"{known.size} bytes of a summary are no multiple of {SUMMARY_ENTRY}")
        try:
            checked(table_missing(self.table, number, known.data, known.size // SUMMARY_ENTRY, unix, &missing))
            return PyBytes_FromStringAndSize(<char *>missing.data, missing.used)
        finally:
            free(missing.data)

    def digests(self, int64_t unix):
        cdef bytes digests = PyBytes_FromStringAndSize(NULL, 8 * BUCKETS)
        cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(digests)
        cdef uint32_t number
        for number in range(<uint32_t>BUCKETS):
            put64(to + 8 * number, table_digest(self.table, number, unix))
        return digests

    @property
    def has_changes(self):
        return self.table.changes.used > 0

    def take_changes(self):
        return taken(&self.table.changes)

    @property
    def has_displaced(self):
        return self.table.displaced.used > 0

    def take_displaced(self):
        return taken(&self.table.displaced)

    @property
    def dirty_count(self):
        return self.table.dirty_count

    def take_dirty(self):
        cdef uint32_t number
        cdef list dirty = [number for number in range(<uint32_t>BUCKETS) if self.table.dirty[number]]
        for number in dirty:
            self.table.dirty[number] = 0
        self.table.dirty_count = 0
        return dirty

    def mark_dirty(self, uint32_t number):
        self.block(number)
        table_dirty(self.table, number)

    def sweep(self, uint32_t number, int64_t unix):
        self.block(number)
        return table_drop(self.table, number, unix, False)

    def shed(self, uint32_t number, int64_t unix):
        self.block(number)
        return table_drop(self.table, number, unix, True)

    def confirm(self, uint32_t first, uint32_t last):
        cdef uint32_t number
        cdef int confirmed = 0
        for number in range(first, min(last, <uint32_t>BUCKETS)):
            confirmed += checked(table_confirm(self.table, number))
        return confirmed

    def counts(self, uint32_t first, uint32_t last, int64_t unix, dict since):
        cdef dict counts = {}
        cdef block_t *block
        cdef uint32_t number, host, slot
        cdef uint32_t hosts[64]  # recently seen hosts, in slots by a hash of the id; `found`: users not in `counts` yet
        cdef uint64_t found[64]
        cdef uint32_t earliest[64]
        cdef size_t at
        for slot in range(64):
            hosts[slot], found[slot], earliest[slot] = 0, 0, since.get(0, 0)
        for number in range(first, min(last, <uint32_t>BUCKETS)):
            block = self.table.blocks + number
            for at in range(0, <size_t>block.used * RECORD, RECORD):
                if record_unexpired(self.table, block.records + at, unix):
                    host = get32(block.records + at + AT_HOST)
                    slot = (host * <uint32_t>0x9E3779B9) >> 26
                    if hosts[slot] != host:
                        add_count(counts, hosts[slot], found[slot])
                        hosts[slot], found[slot], earliest[slot] = host, 0, since.get(host, 0)
                    found[slot] += get32(block.records + at + AT_DECIDED) >= earliest[slot]
        for slot in range(64):
            add_count(counts, hosts[slot], found[slot])
        return counts

    cdef block_t *block(self, uint32_t number) except NULL:
        if number >= BUCKETS:
            raise IndexError(f"there is no bucket {number}")
        return self.table.blocks + number


cdef struct point_t:
    uint32_t value
    uint32_t host  # index in the circle's `hosts`, which are in the order of addresses


cdef int by_value(const void *one, const void *other) noexcept nogil:
    cdef const point_t *a = <const point_t *>one
    cdef const point_t *b = <const point_t *>other
    if a.value != b.value:
        return -1 if a.value < b.value else 1
    return -1 if a.host < b.host else a.host > b.host


cdef uint32_t NOT_KEPT = 0xFFFFFFFF


cdef class Circle:
    """`core.placement.vhosts.Circle`, which returns the index of a host in the assigner's table."""

    cdef readonly list hosts  # (address, weight), by address
    cdef point_t *points
    cdef uint32_t count
    cdef uint32_t *backends  # for each of `hosts`: its index in the assigner's table

    def __cinit__(self, list hosts, Circle old=None):
        """Make the circle.

        Args:
            hosts: (address, weight) of each host, by address.
            old: a circle that may have some of the hosts. Their points are copied, and only the points of new
                hosts are made and sorted: a pool may have half a million points.
        """
        cdef uint32_t host, total = sum(weight for _, weight in hosts)
        self.hosts = hosts
        self.points = <point_t *>malloc(max(total, 1) * sizeof(point_t))
        self.backends = <uint32_t *>malloc(max(len(hosts), 1) * sizeof(uint32_t))
        if self.points == NULL or self.backends == NULL:
            raise MemoryError
        cdef dict before = {one: at for at, one in enumerate(old.hosts)} if old is not None else {}
        cdef dict kept = {before[one]: at for at, one in enumerate(hosts) if one in before}
        for host in range(<uint32_t>len(hosts)):
            if hosts[host] not in before:
                self.add(host, hosts[host][0], hosts[host][1])
        qsort(self.points, self.count, sizeof(point_t), by_value)
        if kept:
            self.merge(old, kept, total)

    cdef int add(self, uint32_t host, str text, uint32_t weight) except -1:
        """Append the points of a host, unsorted."""
        cdef char buffer[80]  # an address, a dash and ten digits
        cdef uint32_t number
        cdef int size
        cdef bytes address = text.encode()
        if len(address) > 64:
            raise ValueError(f"a backend's address cannot be {text!r}")
        for number in range(weight):
            size = snprintf(buffer, sizeof(buffer), "%s-%u", <const char *>address, number)
            self.points[self.count] = point_t(md5_of(<uint8_t *>buffer, size, False) >> 32, host)
            self.count += 1
        return 0

    cdef int merge(self, Circle old, dict kept, uint32_t total) except -1:
        """Merge points of an old circle into the sorted points of this circle.

        Args:
            old: the old circle.
            kept: for each host that both circles have, its index in `old.hosts` and its index in `hosts`.
            total: the number of points of the merged circle.
        """
        cdef uint32_t *places = <uint32_t *>malloc(max(len(old.hosts), 1) * sizeof(uint32_t))
        cdef point_t *points = <point_t *>malloc(max(total, 1) * sizeof(point_t))
        cdef uint32_t at, mine = 0, count = 0
        cdef point_t point
        if places == NULL or points == NULL:
            free(places)
            free(points)
            raise MemoryError
        for at in range(<uint32_t>len(old.hosts)):
            places[at] = kept.get(at, NOT_KEPT)
        for at in range(old.count):
            point = old.points[at]
            point.host = places[point.host]
            if point.host == NOT_KEPT:
                continue
            while mine < self.count and by_value(&self.points[mine], &point) < 0:
                points[count] = self.points[mine]
                count += 1
                mine += 1
            points[count] = point
            count += 1
        while mine < self.count:
            points[count] = self.points[mine]
            count += 1
            mine += 1
        free(places)
        free(self.points)
        self.points, self.count = points, count
        return 0

    def __dealloc__(self):
        free(self.points)
        free(self.backends)

    cdef int find(self, uint32_t hash32) noexcept nogil:
        """Return the index of a hash's host in the assigner's table; -1: the circle has no points."""
        cdef uint32_t low = 0, high = self.count, middle
        if self.count == 0:
            return -1
        while low < high:
            middle = low + (high - low) // 2
            if self.points[middle].value < hash32:
                low = middle + 1
            else:
                high = middle
        return self.backends[self.points[low if low < self.count else 0].host]


cdef struct backend_t:
    uint32_t id
    uint32_t since
    uint32_t retagged
    uint32_t index  # in the list of backends
    bint readdressed


cdef int by_host_id(const void *one, const void *other) noexcept nogil:
    cdef uint32_t a = (<const backend_t *>one).id, b = (<const backend_t *>other).id
    return -1 if a < b else a > b


cdef enum:
    GATE_CLOSED = 0
    GATE_OPEN = 2

    WAIT_UNVERIFIED = -1
    WAIT_RING = -2
    WAIT_NO_HOST = -3
    WAIT_MOVING = -4
    WAIT_NEAR = -5
    WAIT_RETAGGED = -6
    WAIT_HELD = -7
    WAIT_UNREAD = -8
    WAIT_READDRESSED = -9

    NOT_KNOWN = -10  # the user is assigned anew

cdef list WAITS = [
    Wait.UNVERIFIED, Wait.RING, Wait.NO_HOST, Wait.MOVING, Wait.NEAR, Wait.RETAGGED, Wait.HELD, Wait.UNREAD,
    Wait.READDRESSED,
]


cdef object waited(int index):
    cdef int number = WAIT_UNVERIFIED - index
    return WAITS[number]


cdef class Assigner:
    """`core.placement.assign.Assigner` on the packed table."""

    cdef readonly UserTable users
    cdef readonly object user_hash
    cdef public uint32_t unix
    cdef public bint remember_names
    cdef public uint64_t limit
    cdef public uint64_t not_remembered
    cdef int _gate
    cdef int fast_mode
    cdef int separator  # a byte, or -1
    cdef list backends
    cdef list texts  # for each backend (head, tail): appended to a line before and after the hash
    cdef list circles  # (tag, Circle) of each tag that has hosts
    cdef Circle untagged
    cdef backend_t *by_id
    cdef uint32_t *ids  # of each backend, by its index
    cdef size_t backend_count
    cdef set held_users
    cdef set unread_buckets
    cdef buffer_t names
    cdef buffer_t refreshed
    cdef buffer_t output
    cdef buffer_t scratch

    def __cinit__(self, UserTable users not None, user_hash):
        self.users = users
        self.user_hash = user_hash
        self.fast_mode = user_hash.fast_mode
        self.separator = user_hash.separator[0] if user_hash.separator else -1
        self.backends, self.texts, self.circles = [], [], []
        self.held_users, self.unread_buckets = set(), set()
        self.limit = NO_LIMIT
        table_set_homes(users.table, homes_t(NULL, 0, NULL))

    def __dealloc__(self):
        free(self.by_id)
        free(self.ids)
        free(self.names.data)
        free(self.refreshed.data)
        free(self.output.data)
        free(self.scratch.data)

    @property
    def gate(self):
        return Gate(self._gate)

    @gate.setter
    def gate(self, gate):
        self._gate = Gate(gate)

    def set_backends(self, backends):
        cdef list table = list(backends)
        cdef dict before = dict(zip(map(id, self.backends), self.texts))  # ids stay valid: the old backends are kept
        cdef list texts = [before.get(id(backend)) or self.parts(backend) for backend in table]
        cdef list circles = self.new_circles(table)
        cdef size_t count = len(table), index
        cdef backend_t *by_id = <backend_t *>malloc(max(count, <size_t>1) * sizeof(backend_t))
        cdef uint32_t *ids = <uint32_t *>malloc(max(count, <size_t>1) * sizeof(uint32_t))
        if by_id == NULL or ids == NULL:
            free(by_id)
            free(ids)
            raise MemoryError
        for index in range(count):
            backend = table[index]
            ids[index] = backend.id
            by_id[index] = backend_t(backend.id, backend.since, backend.retagged, index, backend.readdressed)
        qsort(by_id, count, sizeof(backend_t), by_host_id)
        free(self.by_id)
        free(self.ids)
        self.by_id, self.ids, self.backend_count = by_id, ids, count
        self.backends, self.texts, self.circles = table, texts, circles
        self.untagged = dict(circles).get(b"")
        self.tell_homes()

    cdef int tell_homes(self) except -1:
        """Tell the table which host the hash selects for each user."""
        cdef homes_t homes
        cdef size_t total = 0, index, at, first = 0
        cdef dict parts = {}
        cdef Circle circle
        for _, circle in self.circles:
            total += circle.count
        homes.homes = <home_t *>calloc(self.backend_count + 1, sizeof(home_t))
        homes.spots = <spot_t *>malloc((total + 1) * sizeof(spot_t))
        if homes.homes == NULL or homes.spots == NULL:
            free(homes.homes)
            free(homes.spots)
            raise MemoryError
        for tag, circle in self.circles:
            parts[tag] = first, circle.count
            for at in range(circle.count):
                homes.spots[first + at].value = circle.points[at].value
                homes.spots[first + at].id = self.ids[circle.backends[circle.points[at].host]]
            first += circle.count
        for index in range(self.backend_count):
            backend = self.backends[self.by_id[index].index]
            homes.homes[index].id = self.by_id[index].id
            homes.homes[index].since = max(self.by_id[index].since, self.by_id[index].retagged)
            homes.homes[index].first, homes.homes[index].count = parts.get(backend.tag.encode(), (0, 0))
        homes.home_count = self.backend_count
        table_set_homes(self.users.table, homes)
        return 0

    cdef list new_circles(self, list table):
        """Return the circle of each tag that has usable hosts.

        A circle whose hosts have not changed is kept, and only its indexes are updated.
        """
        cdef dict old = dict(self.circles), tags = {}
        cdef list circles = []
        cdef Circle circle
        cdef size_t index
        for index in range(<size_t>len(table)):
            backend = table[index]
            if backend.up and backend.weight:
                tags.setdefault(backend.tag.encode(), []).append((backend.address, backend.weight, index))
        for tag, members in tags.items():
            members.sort(key=lambda member: address_order(member[0]))
            hosts = [member[:2] for member in members]
            circle = old.get(tag)
            if circle is None or circle.hosts != hosts:
                circle = Circle(hosts, circle)
            for index in range(<size_t>len(members)):
                circle.backends[index] = members[index][2]
            circles.append((tag, circle))
        return circles

    def place(self, uint32_t hash32, bytes tag not None):
        cdef int index = self.placed(hash32, slice_of(tag))
        return None if index < 0 else self.backends[index]

    def assign(self, uint64_t key, bytes tag not None):
        return self.answer(self.assigned(key, slice_of(tag), slice_t(NULL, 0)))

    def assign_named(self, uint64_t key, bytes tag not None, bytes name not None):
        return self.answer(self.assigned(key, slice_of(tag), slice_of(name)))

    def choose(self, uint64_t key, bytes tag not None):
        cdef uint8_t *record = table_find(self.users.table, key)
        return self.answer(self.chosen(key, slice_of(tag), record))

    def hold(self, uint64_t key):
        self.held_users.add(key)

    def release(self, uint64_t key):
        self.held_users.discard(key)

    @property
    def full(self):
        return self.users.table.used >= self.limit

    @property
    def users_held(self):
        return len(self.held_users)

    def await_store(self, buckets):
        self.unread_buckets.update(buckets)

    def have_read(self, buckets):
        self.unread_buckets.difference_update(buckets)

    @property
    def unread(self):
        return len(self.unread_buckets)

    def take_names(self):
        return taken(&self.names)

    def take_refreshed(self):
        return taken(&self.refreshed)

    def suffix(self, backend, uint64_t key):
        head, tail = self.parts(backend)
        return head + b"%d" % (key >> 32) + tail.removesuffix(b"\n")

    cdef tuple parts(self, backend):
        """Return the two parts that are appended to a user's line: before the hash, and after it with the LF."""
        host = f"{backend.hostname}\thostip={backend.address}" if backend.hostname else backend.address
        head = f"\tproxy_refresh={self.users.table.expire // 3}\thost={host}\tuser_dirkey="
        return head.encode(), f"@{backend.address}\n".encode()

    cdef object answer(self, int index):
        return self.backends[index] if index >= 0 else waited(index)

    cdef const backend_t *host(self, uint32_t id) noexcept nogil:
        cdef size_t low = 0, high = self.backend_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.by_id[middle].id < id:
                low = middle + 1
            else:
                high = middle
        return &self.by_id[low] if low < self.backend_count and self.by_id[low].id == id else NULL

    cdef int placed(self, uint32_t hash32, slice_t tag) except -100:
        """Return the index of the backend that the circle of a tag selects for a hash; -1: none."""
        cdef bytes name
        cdef Circle circle
        if tag.size == 0:
            return self.untagged.find(hash32) if self.untagged is not None else -1
        for name, circle in self.circles:
            if <size_t>len(name) == tag.size and not memcmp(PyBytes_AS_STRING(name), tag.data, tag.size):
                return circle.find(hash32)
        return -1

    cdef int assigned(self, uint64_t key, slice_t tag, slice_t name) except -100:
        """Return the index of the user's backend, or a WAIT. The name is kept if the user is assigned anew.

        A name whose data is NULL is not kept.
        """
        cdef uint8_t *record
        cdef int index
        cdef uint64_t before
        if self._gate == GATE_CLOSED:
            return WAIT_UNVERIFIED
        if self.held_users and key in self.held_users:
            return WAIT_HELD
        record = table_find(self.users.table, key)
        if record != NULL:
            index = self.known(key, tag, name, record)
            if index != NOT_KNOWN:
                return index
        elif self.unread_buckets and <uint32_t>(key >> BUCKET_SHIFT) in self.unread_buckets:
            return WAIT_UNREAD
        before = self.not_remembered
        index = self.chosen(key, tag, record)
        if index >= 0 and self.remember_names and name.data != NULL and self.not_remembered == before:
            self.remember(&self.names, key, name)
        return index

    cdef int known(self, uint64_t key, slice_t tag, slice_t name, uint8_t *record) except -100:
        """Return what a record says about its user: the index of the backend, a WAIT, or NOT_KNOWN."""
        cdef table_t *table = self.users.table
        cdef uint32_t id = get32(record + AT_HOST), decided = get32(record + AT_DECIDED)
        cdef const backend_t *host = self.host(id)
        cdef bint unexpired
        cdef int fresh
        if host != NULL and decided < host.since:
            if host.readdressed:
                return WAIT_READDRESSED
            host = NULL
        if get16(record + AT_FLAGS) & MOVING:
            return WAIT_MOVING  # even if the target was removed: the old sessions have not ended yet
        if host == NULL:
            return NOT_KNOWN
        unexpired = record_unexpired(table, record, self.unix)
        if unexpired and decided < host.retagged:
            return WAIT_RETAGGED
        if record_near(table, record, self.unix):
            fresh = self.placed(key >> 32, tag)
            if fresh >= 0 and <uint32_t>fresh != host.index:
                return WAIT_NEAR if self._gate == GATE_OPEN else WAIT_RING
        if not unexpired:
            return NOT_KNOWN
        if checked(table_touch(table, record, self.unix)) and self.remember_names and name.data != NULL:
            self.remember(&self.refreshed, key, name)
        return host.index

    cdef int chosen(self, uint64_t key, slice_t tag, const uint8_t *record) except -100:
        """Assign a user, and return the index of the backend, or a WAIT.

        Args:
            key: of the user.
            tag: of the pool.
            record: the user's record; NULL: there is none.
        """
        cdef uint64_t decided = self.unix
        cdef uint32_t seen = self.unix
        cdef uint16_t flags = 0
        cdef const backend_t *host
        cdef int index
        if self._gate < GATE_OPEN:
            return WAIT_RING
        index = self.placed(key >> 32, tag)
        if index < 0:
            return WAIT_NO_HOST
        host = self.host(self.backends[index].id)
        decided = max(decided, host.since, host.retagged)
        if record != NULL:
            decided = min(max(decided, <uint64_t>get32(record + AT_DECIDED) + 1), <uint64_t>LATEST)
            seen = max(seen, get32(record + AT_SEEN))
        elif self.users.table.used >= self.limit:
            self.not_remembered += 1
            return index
        elif 2 * (self.users.table.used + 1) > self.limit:
            flags = ONE_LOGIN
        checked(table_put(self.users.table, key, host.id, decided, seen, flags))
        return index

    cdef int remember(self, buffer_t *names, uint64_t key, slice_t name) except -1:
        cdef uint8_t head[10]
        if name.size > LONGEST_NAME:
            return 0
        put64(head, key)
        put16(head + 8, name.size)
        checked(buffer_append(names, head, sizeof(head)))
        return checked(buffer_append(names, name.data, name.size))

    cdef uint64_t key_of(self, slice_t name, slice_t tag) except? 0:
        if self.fast_mode:
            return user_key(name.data, name.size, self.fast_mode == 1, tag.data, tag.size)
        return self.user_hash.key(bytes_of(name), bytes_of(tag))

    cdef int append(self, const uint8_t *data, size_t size) except -1:
        return checked(buffer_append(&self.output, data, size))

    cdef int append_host(self, int index, uint64_t key) except -1:
        """Append what follows an answered line, including its LF."""
        cdef tuple parts = self.texts[index]
        cdef bytes head = parts[0], tail = parts[1]
        cdef uint8_t digits[10]
        cdef uint32_t hash32 = key >> 32
        cdef int at = 10
        while hash32:
            at -= 1
            digits[at] = 48 + hash32 % 10
            hash32 //= 10
        self.append(<const uint8_t *>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        self.append(digits + at, 10 - at)
        return self.append(<const uint8_t *>PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))


def rewrite(Assigner assigner not None, bytes data not None, bint passlines):
    cdef const uint8_t *line = <const uint8_t *>PyBytes_AS_STRING(data)  # the line that is being examined
    cdef const uint8_t *end = line + PyBytes_GET_SIZE(data)
    cdef const uint8_t *pending = line  # the beginning of the unchanged bytes that are not in the output yet
    cdef const uint8_t *stop
    cdef const char *prefix = "PASS\t" if passlines else "OK\t"
    cdef size_t prefix_size = 5 if passlines else 3, size
    cdef const uint8_t *separator
    cdef slice_t fields
    cdef asked_t asked
    cdef uint64_t key
    cdef int index
    cdef bytes lacks
    cdef list held_requests = []
    assigner.output.used = 0
    while True:
        stop = <const uint8_t *>memchr(line, 10, end - line)
        if stop == NULL:
            break
        size = stop - line
        fields = slice_t(line + prefix_size, size - prefix_size)
        if size < prefix_size or memcmp(line, prefix, prefix_size) or not asks(assigner, fields, &asked):
            line = stop + 1
            continue
        if assigner.separator >= 0:
            separator = <const uint8_t *>memchr(asked.name.data, assigner.separator, asked.name.size)
            if separator != NULL:
                asked.name.size = separator - asked.name.data
        key = assigner.key_of(asked.name, asked.tag)
        index = assigner.assigned(key, asked.tag, asked.name)
        if index < 0:
            assigner.append(pending, line - pending)
            pending = stop + 1
            held_requests.append(held_request(slice_t(line, size), &asked, key, waited(index)))
        else:
            lacks = perhaps(bytes_of(slice_t(line, size)), assigner.backends[index].address) if asked.maybe else b""
            if lacks is not None:
                assigner.append(pending, stop - pending)
                pending = stop + 1
                assigner.append(<const uint8_t *>PyBytes_AS_STRING(lacks), PyBytes_GET_SIZE(lacks))
                assigner.append_host(index, key)
        line = stop + 1
    if assigner.output.used == 0 and not held_requests and line == end:
        return data, held_requests
    assigner.append(pending, line - pending)
    return PyBytes_FromStringAndSize(<char *>assigner.output.data, assigner.output.used), held_requests


cdef bint asks(Assigner assigner, slice_t fields, asked_t *asked) except -1:
    checked(buffer_reserve(&assigner.scratch, fields.size))
    return line_asks(fields, assigner.scratch.data, asked)


cdef object held_request(slice_t line, asked_t *asked, uint64_t key, wait):
    return HeldRequest(bytes_of(line), bytes_of(asked.id), key, bytes_of(asked.tag), bytes_of(asked.name), wait)
