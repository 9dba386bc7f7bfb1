# Declarations of _fast.h. _fast.pyx uses these names without an import.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "_fast.h" nogil:
    enum:
        RECORD
        BUCKETS
        BUCKET_SHIFT
        MOVING
        ONE_LOGIN
        AT_HOST
        AT_DECIDED
        AT_SEEN
        AT_FLAGS
        SUMMARY_ENTRY
        LONGEST_NAME
    const uint32_t LATEST

    ctypedef struct buffer_t:
        uint8_t *data
        size_t used
        size_t room
    int buffer_reserve(buffer_t *buffer, size_t more)
    int buffer_append(buffer_t *buffer, const void *data, size_t size)
    uint16_t get16(const uint8_t *p)
    uint32_t get32(const uint8_t *p)
    uint64_t get64(const uint8_t *p)
    void put16(uint8_t *p, uint16_t v)
    void put64(uint8_t *p, uint64_t v)
    uint64_t md5_of(const uint8_t *data, size_t size, bint lower)
    uint64_t user_key(const uint8_t *name, size_t size, bint lower, const uint8_t *tag, size_t tag_size)

    ctypedef struct block_t:
        uint8_t *records
        uint32_t used
    ctypedef struct spot_t:
        uint32_t value
        uint32_t id
    ctypedef struct home_t:
        uint32_t id
        uint32_t since
        uint32_t first
        uint32_t count
    ctypedef struct homes_t:
        home_t *homes
        uint32_t home_count
        spot_t *spots
    ctypedef struct table_t:
        block_t *blocks
        uint64_t used
        uint32_t expire
        uint32_t margin
        uint32_t earliest_drop
        buffer_t changes
        buffer_t displaced
        uint8_t *dirty
        uint32_t dirty_count
    void table_free(table_t *table)
    void table_set_homes(table_t *table, homes_t homes)
    void table_dirty(table_t *table, uint32_t number)
    uint32_t block_search(const block_t *block, uint64_t key)
    uint8_t *table_find(const table_t *table, uint64_t key)
    int table_put(table_t *table, uint64_t key, uint32_t host, uint32_t decided, uint32_t seen, uint16_t flags)
    int table_touch(table_t *table, uint8_t *record, uint32_t seen)
    int table_merge(table_t *table, const uint8_t *incoming, buffer_t *news)
    bint record_ahead(const uint8_t *record, uint32_t decided, uint32_t seen)
    void record_clip(uint8_t *record, uint32_t decided, uint32_t seen, uint32_t latest)
    int table_clip(table_t *table, uint32_t number, uint32_t decided, uint32_t seen, uint32_t latest, \
                   buffer_t *changed)
    bint record_unexpired(const table_t *table, const uint8_t *record, int64_t now)
    bint record_near(const table_t *table, const uint8_t *record, int64_t now)
    void table_stored(const table_t *table, const uint8_t *record, uint8_t *stored)
    uint64_t table_digest(table_t *table, uint32_t number, int64_t now)
    int table_summary(const table_t *table, uint32_t number, int64_t now, buffer_t *summary)
    int table_missing(const table_t *table, uint32_t number, const uint8_t *summary, size_t count, int64_t now, \
                      buffer_t *missing)
    int table_confirm(table_t *table, uint32_t number)
    uint32_t table_drop(table_t *table, uint32_t number, int64_t now, bint early)

    ctypedef struct slice_t:
        const uint8_t *data
        size_t size
    ctypedef struct asked_t:
        slice_t id
        slice_t name
        slice_t tag
        bint maybe
    bint line_asks(slice_t line, uint8_t *scratch, asked_t *asked)
