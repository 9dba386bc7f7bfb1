/* The parts of _fast.pyx: growing buffers, the user table in packed blocks, and the fields of an auth line.
 *
 * Nothing here uses Python. A function that gets no memory returns -1 and has changed nothing.
 * The readable reference is director/core/placement/users.py and director/wire/auth.py; both pass the same tests.
 */
#ifndef DIRECTOR_FAST_H
#define DIRECTOR_FAST_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_md5.h"

#undef unix /* GNU C defines it as 1; here it is a name for Unix seconds */

typedef struct {
    uint8_t *data;
    size_t used, room;
} buffer_t;

static int buffer_reserve(buffer_t *buffer, size_t more)
{
    size_t room = buffer->room;
    uint8_t *data;

    if (buffer->room - buffer->used >= more)
        return 0;
    room += room / 2 + more + 64;
    data = realloc(buffer->data, room);
    if (data == NULL)
        return -1;
    buffer->data = data;
    buffer->room = room;
    return 0;
}

static int buffer_append(buffer_t *buffer, const void *data, size_t size)
{
    if (buffer_reserve(buffer, size) < 0)
        return -1;
    if (size > 0)
        memcpy(buffer->data + buffer->used, data, size);
    buffer->used += size;
    return 0;
}

/* A compiler makes one instruction of each of these functions. */
static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t get32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }
static void put16(uint8_t *p, uint16_t v) { p[0] = v >> 8; p[1] = (uint8_t)v; }
static void put32(uint8_t *p, uint32_t v) { p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = (uint8_t)v; }
static void put64(uint8_t *p, uint64_t v) { put32(p, v >> 32); put32(p + 4, (uint32_t)v); }

static uint64_t user_key(const uint8_t *name, size_t size, int lower, const uint8_t *tag, size_t tag_size)
{
    uint64_t key = md5_of(name, size, lower);

    if (key >> 32 == 0)
        key |= (uint64_t)1 << 32;
    return tag_size > 0 ? key ^ md5_of(tag, tag_size, 0) >> 32 : key;
}

/* The user table */

enum { RECORD = 22, BUCKETS = 4096, BUCKET_SHIFT = 52, MOVING = 1, PINNED = 4, ONE_LOGIN = 8 };
enum { AT_HOST = 8, AT_DECIDED = 12, AT_SEEN = 16, AT_FLAGS = 20 };
enum { SUMMARY_ENTRY = 6 };
enum { LONGEST_NAME = 255 }; /* core.placement.names.LONGEST_NAME */
#define LATEST 0xffffffffu

typedef struct {
    uint8_t *records; /* sorted by key */
    uint32_t used, room;
    uint64_t digest; /* valid for these records from `digest_from` until before `digest_until`, in Unix seconds */
    int64_t digest_from, digest_until;
} block_t;

/* A spot on the circle of a tag: the host `id` gets the hashes above the value of the spot before, up to `value`. */
typedef struct {
    uint32_t value, id;
} spot_t;

/* A host, and the spots of its tag. Records with a stamp before `since` do not count for it. */
typedef struct {
    uint32_t id, since, first, count;
} home_t;

/* The hosts that the hash selects, for records that may be dropped early; empty until an assigner has set them. */
typedef struct {
    home_t *homes; /* by id */
    uint32_t home_count;
    spot_t *spots; /* the spots of each tag in turn, by value */
} homes_t;

typedef struct {
    block_t blocks[BUCKETS];
    uint64_t used;
    uint32_t expire, margin, earliest_drop;
    buffer_t changes, displaced;
    uint8_t dirty[BUCKETS];
    uint32_t dirty_count;
    homes_t homes;
    int early; /* whether a record is or was a ONE_LOGIN: then digests depend on the homes */
} table_t;

static void table_free(table_t *table)
{
    int number;

    for (number = 0; number < BUCKETS; number++)
        free(table->blocks[number].records);
    free(table->changes.data);
    free(table->displaced.data);
    free(table->homes.homes);
    free(table->homes.spots);
}

/* Take over the arrays of `homes`. Stored digests become invalid if they depend on the homes. */
static void table_set_homes(table_t *table, homes_t homes)
{
    int number;

    free(table->homes.homes);
    free(table->homes.spots);
    table->homes = homes;
    for (number = 0; table->early && number < BUCKETS; number++)
        table->blocks[number].digest_until = 0;
}

static void table_dirty(table_t *table, uint32_t number)
{
    table->dirty_count += !table->dirty[number];
    table->dirty[number] = 1;
    table->blocks[number].digest_until = 0;
}

static uint8_t *block_at(const block_t *block, uint32_t index)
{
    return block->records + (size_t)index * RECORD;
}

/* Return the index of the first record whose key is not below `key`. Keys are evenly spread: guess, then search near
 * the guess. */
static uint32_t block_search(const block_t *block, uint64_t key)
{
    uint32_t low = 0, high = block->used, step = 4, guess;

    if (high == 0)
        return 0;
    guess = (uint32_t)((key << (64 - BUCKET_SHIFT) >> 32) * high >> 32);
    if (get64(block_at(block, guess)) < key) {
        for (low = guess + 1; low + step < high; step *= 2) {
            if (get64(block_at(block, low + step)) >= key) {
                high = low + step;
                break;
            }
            low += step + 1;
        }
    } else {
        for (high = guess; low + step < high; step *= 2) {
            if (get64(block_at(block, high - step)) < key) {
                low = high - step + 1;
                break;
            }
            high -= step;
        }
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (get64(block_at(block, middle)) < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Return the record of a key; NULL: there is none, and it would be inserted at `index`. */
static uint8_t *table_locate(const table_t *table, uint64_t key, uint32_t *index)
{
    const block_t *block = &table->blocks[key >> BUCKET_SHIFT];

    *index = block_search(block, key);
    return *index < block->used && get64(block_at(block, *index)) == key ? block_at(block, *index) : NULL;
}

static uint8_t *table_find(const table_t *table, uint64_t key)
{
    uint32_t index;

    return table_locate(table, key, &index);
}

/* Insert a record at the place that table_locate returned, and set its key. Returns NULL if there is no memory. */
static uint8_t *table_insert(table_t *table, uint64_t key, uint32_t index)
{
    block_t *block = &table->blocks[key >> BUCKET_SHIFT];
    uint8_t *record;

    if (block->used == block->room) {
        uint32_t room = block->room + block->room / 16 + 4;
        uint8_t *records = realloc(block->records, (size_t)room * RECORD);

        if (records == NULL)
            return NULL;
        block->records = records;
        block->room = room;
    }
    record = block_at(block, index);
    memmove(record + RECORD, record, (size_t)(block->used - index) * RECORD);
    put64(record, key);
    block->used++;
    table->used++;
    return record;
}

static uint32_t table_rounded(const table_t *table, uint32_t seen)
{
    uint64_t step = table->expire / 3, up = (seen + step - 1) / step * step;

    return up > LATEST ? LATEST : (uint32_t)up;
}

static int table_announce(table_t *table, const uint8_t *record)
{
    table_dirty(table, (uint32_t)(get64(record) >> BUCKET_SHIFT));
    return buffer_append(&table->changes, record, RECORD);
}

static int table_put(table_t *table, uint64_t key, uint32_t host, uint32_t decided, uint32_t seen, uint16_t flags)
{
    uint32_t index;
    uint8_t *record = table_locate(table, key, &index);

    if (buffer_reserve(&table->changes, RECORD) < 0)
        return -1;
    if (record == NULL && (record = table_insert(table, key, index)) == NULL)
        return -1;
    put32(record + AT_HOST, host);
    put32(record + AT_DECIDED, decided);
    put32(record + AT_SEEN, seen);
    put16(record + AT_FLAGS, flags);
    table->early |= flags & ONE_LOGIN;
    return table_announce(table, record);
}

static int table_touch(table_t *table, uint8_t *record, uint32_t seen)
{
    uint32_t old = get32(record + AT_SEEN);
    uint16_t flags = get16(record + AT_FLAGS);

    if (seen <= old && !(flags & ONE_LOGIN))
        return 0;
    if (buffer_reserve(&table->changes, RECORD) < 0)
        return -1;
    if (seen > old)
        put32(record + AT_SEEN, seen);
    if (flags & ONE_LOGIN)
        put16(record + AT_FLAGS, flags & ~ONE_LOGIN);
    else if (table_rounded(table, seen) == table_rounded(table, old))
        return 0;
    return table_announce(table, record) < 0 ? -1 : 1;
}

/* Whether the decision in `record` wins over that in `other`: the first field that differs decides. */
static int record_wins(const uint8_t *record, const uint8_t *other)
{
    uint32_t decided = get32(record + AT_DECIDED), other_decided = get32(other + AT_DECIDED);
    uint32_t host = get32(record + AT_HOST), other_host = get32(other + AT_HOST);
    uint16_t flags = get16(record + AT_FLAGS), other_flags = get16(other + AT_FLAGS);

    if (decided != other_decided)
        return decided > other_decided;
    if (host != other_host)
        return host < other_host;
    if ((flags & MOVING) != (other_flags & MOVING))
        return (flags & MOVING) == 0;
    return flags < other_flags;
}

/* Whether the user of `record` has another host or MOVING flag in `other`, or another move. */
static int record_displaced(const uint8_t *record, const uint8_t *other)
{
    uint16_t flags = get16(other + AT_FLAGS);

    return get32(record + AT_HOST) != get32(other + AT_HOST) ||
           ((get16(record + AT_FLAGS) ^ flags) & MOVING) != 0 ||
           ((flags & MOVING) != 0 && get32(record + AT_DECIDED) != get32(other + AT_DECIDED));
}

/* Merge one record. If it brought something new, the merged record is appended to `news`. */
static int table_merge(table_t *table, const uint8_t *incoming, buffer_t *news)
{
    uint64_t key = get64(incoming);
    uint32_t index, old, seen;
    uint8_t *record = table_locate(table, key, &index), empty[RECORD] = {0};
    int new;

    if (buffer_reserve(news, RECORD) < 0 || buffer_reserve(&table->displaced, RECORD) < 0)
        return -1;
    if (record == NULL) {
        if ((record = table_insert(table, key, index)) == NULL)
            return -1;
        memcpy(record, incoming, RECORD);
        new = 1;
        put64(empty, key);
        if (get16(record + AT_FLAGS) & MOVING)
            buffer_append(&table->displaced, empty, RECORD);
    } else {
        old = get32(record + AT_SEEN);
        seen = get32(incoming + AT_SEEN) > old ? get32(incoming + AT_SEEN) : old;
        if ((new = record_wins(incoming, record))) {
            if (record_displaced(record, incoming))
                buffer_append(&table->displaced, record, RECORD);
            memcpy(record, incoming, RECORD);
        }
        put32(record + AT_SEEN, seen);
        new = new || table_rounded(table, seen) > table_rounded(table, old);
    }
    if (!new)
        return 0;
    table->early |= get16(record + AT_FLAGS) & ONE_LOGIN;
    table_dirty(table, (uint32_t)(key >> BUCKET_SHIFT));
    return buffer_append(news, record, RECORD);
}

static int record_ahead(const uint8_t *record, uint32_t decided, uint32_t seen)
{
    return get32(record + AT_DECIDED) > decided || get32(record + AT_SEEN) > seen;
}

static void record_clip(uint8_t *record, uint32_t decided, uint32_t seen, uint32_t latest)
{
    if (get32(record + AT_DECIDED) > decided)
        put32(record + AT_DECIDED, latest);
    if (get32(record + AT_SEEN) > seen)
        put32(record + AT_SEEN, latest);
}

/* core.placement.users.UserTable.clip */
static int table_clip(
    table_t *table, uint32_t number, uint32_t decided, uint32_t seen, uint32_t latest, buffer_t *changed)
{
    const block_t *block = &table->blocks[number];
    uint32_t index;

    for (index = 0; index < block->used; index++) {
        uint8_t *record = block_at(block, index);

        if (!record_ahead(record, decided, seen))
            continue;
        if (buffer_reserve(changed, RECORD) < 0)
            return -1;
        record_clip(record, decided, seen, latest);
        buffer_append(changed, record, RECORD);
        table_dirty(table, number);
    }
    return 0;
}

static int record_unexpired(const table_t *table, const uint8_t *record, int64_t now)
{
    return get16(record + AT_FLAGS) & PINNED || (int64_t)get32(record + AT_SEEN) + table->expire > now;
}

/* core.placement.users.is_near_expiry */
static int record_near(const table_t *table, const uint8_t *record, int64_t now)
{
    int64_t margin = table->margin, since = now - table->expire;
    uint32_t seen = get32(record + AT_SEEN);

    return (int64_t)seen - margin <= since && since < (int64_t)table_rounded(table, seen) + margin &&
           !(get16(record + AT_FLAGS) & PINNED);
}

/* Return the Unix second from which on the record is deleted: see has_long_expired in core/placement/users.py. */
static int64_t record_long_expired_at(const table_t *table, const uint8_t *record)
{
    if (get16(record + AT_FLAGS) & PINNED)
        return INT64_MAX;
    return (int64_t)table_rounded(table, get32(record + AT_SEEN)) + 2 * (int64_t)table->expire;
}

static int record_long_expired(const table_t *table, const uint8_t *record, int64_t now)
{
    return record_long_expired_at(table, record) <= now;
}

/* Return the index of the first spot at or after `value`; after the last spot comes the first. Values are evenly
 * spread. */
static uint32_t spots_search(const spot_t *spots, uint32_t count, uint32_t value)
{
    uint32_t low = 0, high = count, guess = (uint32_t)((uint64_t)value * count >> 32), step = 4;

    if (spots[guess].value < value) {
        for (low = guess + 1; low + step < high; low += step + 1, step *= 2) {
            if (spots[low + step].value >= value) {
                high = low + step;
                break;
            }
        }
    } else {
        for (high = guess; low + step < high; high -= step, step *= 2) {
            if (spots[high - step].value < value) {
                low = high - step + 1;
                break;
            }
        }
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (spots[middle].value < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count ? low : 0;
}

/* Whether the hash selects the host of the record. */
static int record_at_home(const table_t *table, const uint8_t *record)
{
    uint32_t id = get32(record + AT_HOST), low = 0, high = table->homes.home_count;
    const home_t *home;
    const spot_t *spots;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (table->homes.homes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    home = table->homes.homes + low;
    if (low == table->homes.home_count || home->id != id || home->count == 0 ||
        get32(record + AT_DECIDED) < home->since)
        return 0;
    spots = table->homes.spots + home->first;
    return spots[spots_search(spots, home->count, get32(record))].id == id;
}

/* Return the Unix second from which on the record may be dropped early: see UserTable._idle in
 * core/placement/users.py. */
static int64_t record_idle_at(const table_t *table, const uint8_t *record)
{
    if (get16(record + AT_FLAGS) != ONE_LOGIN || !record_at_home(table, record))
        return INT64_MAX;
    return (int64_t)get32(record + AT_DECIDED) + table->earliest_drop;
}

/* Return the Unix second from which on the record no longer counts in digests. */
static int64_t record_counts_until(const table_t *table, const uint8_t *record)
{
    int64_t long_expired_at = record_long_expired_at(table, record), idle_at = record_idle_at(table, record);

    return long_expired_at < idle_at ? long_expired_at : idle_at;
}

static int record_counts(const table_t *table, const uint8_t *record, int64_t now)
{
    return record_counts_until(table, record) > now;
}

static void table_stored(const table_t *table, const uint8_t *record, uint8_t *stored)
{
    memcpy(stored, record, RECORD);
    put32(stored + AT_SEEN, table_rounded(table, get32(record + AT_SEEN)));
}

/* core.placement.users.record_mix of the record as it is stored */
static uint64_t table_mix(const table_t *table, const uint8_t *record)
{
    uint64_t words[3] = {get64(record), get64(record + AT_HOST), 0}, mixed = 0;
    int i;

    words[2] = (uint64_t)table_rounded(table, get32(record + AT_SEEN)) << 16 | get16(record + AT_FLAGS);
    for (i = 0; i < 3; i++) {
        mixed = (mixed ^ words[i]) + 0x9e3779b97f4a7c15u;
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
        mixed ^= mixed >> 31;
    }
    return mixed;
}

static uint64_t table_hash(const table_t *table, const uint8_t *record) { return table_mix(table, record) >> 16; }

/* Return the digest of a bucket. It is kept until a record changes or no longer counts, because neighbours compare
 * digests often. */
static uint64_t table_digest(table_t *table, uint32_t number, int64_t now)
{
    block_t *block = &table->blocks[number];
    uint64_t sum = 0;
    uint32_t index, kept = 0;
    int64_t until = INT64_MAX;

    if (block->digest_from <= now && now < block->digest_until)
        return block->digest;
    for (index = 0; index < block->used; index++) {
        const uint8_t *record = block_at(block, index);
        int64_t counts_until = record_counts_until(table, record);

        if (counts_until <= now)
            continue;
        if (counts_until < until)
            until = counts_until;
        sum += table_mix(table, record);
        kept++;
    }
    block->digest = kept && !sum ? 1 : sum;
    block->digest_from = now;
    block->digest_until = until;
    return block->digest;
}

static uint64_t get48(const uint8_t *p) { return (uint64_t)get32(p) << 16 | get16(p + 4); }

/* Append the hashes of the records of a bucket that count. */
static int table_summary(const table_t *table, uint32_t number, int64_t now, buffer_t *summary)
{
    const block_t *block = &table->blocks[number];
    uint32_t index;

    if (buffer_reserve(summary, (size_t)block->used * SUMMARY_ENTRY) < 0)
        return -1;
    for (index = 0; index < block->used; index++) {
        uint8_t entry[8];

        if (!record_counts(table, block_at(block, index), now))
            continue;
        put64(entry, table_hash(table, block_at(block, index)) << 16);
        buffer_append(summary, entry, SUMMARY_ENTRY);
    }
    return 0;
}

/* Return the slot of a hash in a set of `mask` + 1 slots, or the free slot for it; free slots are 0. */
static size_t hash_slot(const uint64_t *set, size_t mask, uint64_t marked)
{
    size_t slot = marked & mask;

    while (set[slot] != 0 && set[slot] != marked)
        slot = (slot + 1) & mask;
    return slot;
}

/* Append the records of a bucket that count and are not among the `count` hashes of a summary. */
static int table_missing(
    const table_t *table, uint32_t number, const uint8_t *summary, size_t count, int64_t now, buffer_t *missing)
{
    const uint64_t mark = 1ull << 63; /* so that no hash, of 48 bits, looks like an empty slot */
    const block_t *block = &table->blocks[number];
    size_t at, slots = 16;
    uint64_t *known;
    uint32_t index;
    int result = 0;

    while (slots < 2 * count)
        slots *= 2;
    if ((known = calloc(slots, sizeof(*known))) == NULL)
        return -1;
    for (at = 0; at < count; at++) {
        uint64_t marked = get48(summary + at * SUMMARY_ENTRY) | mark;

        known[hash_slot(known, slots - 1, marked)] = marked;
    }
    for (index = 0; index < block->used && result == 0; index++) {
        const uint8_t *record = block_at(block, index);
        uint64_t marked;

        if (!record_counts(table, record, now))
            continue;
        marked = table_hash(table, record) | mark;
        if (known[hash_slot(known, slots - 1, marked)] == 0)
            result = buffer_append(missing, record, RECORD);
    }
    free(known);
    return result;
}

/* Drop the records of a bucket that have long expired and, with `early`, those that may be dropped early. Returns how
 * many. */
static uint32_t table_drop(table_t *table, uint32_t number, int64_t now, int early)
{
    block_t *block = &table->blocks[number];
    uint32_t index, kept = 0, dropped;

    for (index = 0; index < block->used; index++) {
        const uint8_t *record = block_at(block, index);

        if (early ? !record_counts(table, record, now) : record_long_expired(table, record, now))
            continue;
        if (kept != index)
            memcpy(block_at(block, kept), record, RECORD);
        kept++;
    }
    dropped = block->used - kept;
    if (dropped == 0)
        return 0;
    block->used = kept;
    table->used -= dropped;
    table_dirty(table, number);
    if (kept < block->room / 2) {
        uint8_t *records = realloc(block->records, (size_t)(kept + 2) * RECORD);

        if (records != NULL) {
            block->records = records;
            block->room = kept + 2;
        }
    }
    return dropped;
}

/* Take ONE_LOGIN off the records of a bucket for which the hash selects another host, and announce them. Returns how
 * many, or -1. */
static int table_confirm(table_t *table, uint32_t number)
{
    block_t *block = &table->blocks[number];
    uint32_t index;
    int confirmed = 0;

    if (!table->early)
        return 0;
    for (index = 0; index < block->used; index++) {
        uint8_t *record = block_at(block, index);

        if (get16(record + AT_FLAGS) != ONE_LOGIN || record_at_home(table, record))
            continue;
        if (buffer_reserve(&table->changes, RECORD) < 0)
            return -1;
        put16(record + AT_FLAGS, 0);
        table_announce(table, record);
        confirmed++;
    }
    return confirmed;
}

/* Auth lines */

typedef struct {
    const uint8_t *data;
    size_t size;
} slice_t;

typedef struct {
    slice_t id, name, tag;
    int maybe; /* whether the line has director_proxy_maybe */
} asked_t;

#define FIELD_IS(field, text) ((field).size == sizeof(text) - 1 && memcmp((field).data, text, sizeof(text) - 1) == 0)
#define FIELD_STARTS(field, text) \
    ((field).size >= sizeof(text) - 1 && memcmp((field).data, text, sizeof(text) - 1) == 0)

static slice_t field_value(slice_t field, size_t name)
{
    slice_t value = {field.data + name, field.size - name};

    return value;
}

static slice_t field_unescaped(slice_t field, uint8_t *to)
{
    slice_t value = {to, 0};
    size_t i;

    for (i = 0; i < field.size; i++) {
        uint8_t c = field.data[i];

        if (c == 1) {
            if (++i == field.size)
                break;
            c = field.data[i];
            c = c == '0' ? 0 : c == '1' ? 1 : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'n' ? '\n' : c;
        }
        to[value.size++] = c;
    }
    return value;
}

/* Find the user to be proxied. Returns 0 if the line stays unchanged. `line` starts after `OK<TAB>` and has no LF.
 * `scratch` has room for `line`; the results may point into it. */
static int line_asks(slice_t line, uint8_t *scratch, asked_t *asked)
{
    const uint8_t *end = line.data + line.size, *tab = memchr(line.data, '\t', line.size);
    int escaped = memchr(line.data, 1, line.size) != NULL, proxy = 0, user = 0, destuser = 0;

    asked->id.data = line.data;
    asked->id.size = tab == NULL ? line.size : (size_t)(tab - line.data);
    asked->tag.data = line.data;
    asked->tag.size = 0;
    asked->maybe = 0;
    while (tab != NULL) {
        slice_t field = {tab + 1, 0};

        tab = memchr(field.data, '\t', (size_t)(end - field.data));
        field.size = (size_t)((tab == NULL ? end : tab) - field.data);
        if (escaped && memchr(field.data, 1, field.size) != NULL) {
            field = field_unescaped(field, scratch);
            scratch += field.size;
        }
        if (FIELD_IS(field, "proxy") || FIELD_STARTS(field, "proxy=")) {
            proxy = 1;
        } else if (FIELD_STARTS(field, "host=")) {
            return 0;
        } else if (FIELD_STARTS(field, "user=")) {
            if (!user && !destuser)
                asked->name = field_value(field, 5);
            user = 1;
        } else if (FIELD_STARTS(field, "destuser=")) {
            asked->name = field_value(field, 9);
            destuser = 1;
        } else if (FIELD_STARTS(field, "director_tag=")) {
            asked->tag = field_value(field, 13);
        } else if (FIELD_IS(field, "director_proxy_maybe") || FIELD_STARTS(field, "director_proxy_maybe=")) {
            asked->maybe = 1;
        }
    }
    return (proxy || asked->maybe) && (user || destuser);
}

#endif
