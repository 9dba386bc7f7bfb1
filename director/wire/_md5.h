/* MD5 (RFC 1321) of names: the first 8 bytes of the digest, as a number. */
#ifndef DIRECTOR_MD5_H
#define DIRECTOR_MD5_H

#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t state[4];
    uint8_t block[64];
    uint64_t size;
} md5_t;

static uint32_t md5_word(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | p[2] << 16 | p[1] << 8 | p[0];
}

#define MD5_F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MD5_G(x, y, z) ((y) ^ ((z) & ((x) ^ (y))))
#define MD5_H(x, y, z) ((x) ^ (y) ^ (z))
#define MD5_I(x, y, z) ((y) ^ ((x) | ~(z)))
#define MD5_STEP(f, a, b, c, d, word, constant, shift) \
    (a) += f((b), (c), (d)) + (word) + (constant); \
    (a) = ((a) << (shift) | (a) >> (32 - (shift))) + (b)
#define MD5_FOUR(f, i, j, k, l, s, t, u, v, p, q, r, o) \
    MD5_STEP(f, a, b, c, d, w[i], p, s); \
    MD5_STEP(f, d, a, b, c, w[j], q, t); \
    MD5_STEP(f, c, d, a, b, w[k], r, u); \
    MD5_STEP(f, b, c, d, a, w[l], o, v)

static void md5_transform(uint32_t state[4], const uint8_t *block)
{
    uint32_t w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    int i;

    for (i = 0; i < 16; i++)
        w[i] = md5_word(block + 4 * i);
    MD5_FOUR(MD5_F, 0, 1, 2, 3, 7, 12, 17, 22, 0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee);
    MD5_FOUR(MD5_F, 4, 5, 6, 7, 7, 12, 17, 22, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501);
    MD5_FOUR(MD5_F, 8, 9, 10, 11, 7, 12, 17, 22, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be);
    MD5_FOUR(MD5_F, 12, 13, 14, 15, 7, 12, 17, 22, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821);
    MD5_FOUR(MD5_G, 1, 6, 11, 0, 5, 9, 14, 20, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa);
    MD5_FOUR(MD5_G, 5, 10, 15, 4, 5, 9, 14, 20, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8);
    MD5_FOUR(MD5_G, 9, 14, 3, 8, 5, 9, 14, 20, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed);
    MD5_FOUR(MD5_G, 13, 2, 7, 12, 5, 9, 14, 20, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a);
    MD5_FOUR(MD5_H, 5, 8, 11, 14, 4, 11, 16, 23, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c);
    MD5_FOUR(MD5_H, 1, 4, 7, 10, 4, 11, 16, 23, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70);
    MD5_FOUR(MD5_H, 13, 0, 3, 6, 4, 11, 16, 23, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05);
    MD5_FOUR(MD5_H, 9, 12, 15, 2, 4, 11, 16, 23, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665);
    MD5_FOUR(MD5_I, 0, 7, 14, 5, 6, 10, 15, 21, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039);
    MD5_FOUR(MD5_I, 12, 3, 10, 1, 6, 10, 15, 21, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1);
    MD5_FOUR(MD5_I, 8, 15, 6, 13, 6, 10, 15, 21, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1);
    MD5_FOUR(MD5_I, 4, 11, 2, 9, 6, 10, 15, 21, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391);
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

static void md5_begin(md5_t *md5)
{
    static const uint32_t start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};

    memcpy(md5->state, start, sizeof(start));
    md5->size = 0;
}

static void md5_add(md5_t *md5, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t used = md5->size % 64, part = 64 - used < size ? 64 - used : size;

        memcpy(md5->block + used, data, part);
        md5->size += part;
        data += part;
        size -= part;
        if (used + part == 64)
            md5_transform(md5->state, md5->block);
    }
}

/* Return the first 8 bytes of the digest as a big endian number. */
static uint64_t md5_end(md5_t *md5)
{
    uint64_t bits = md5->size * 8;
    size_t used = md5->size % 64;
    int i;

    md5->block[used++] = 0x80;
    if (used > 56) {
        memset(md5->block + used, 0, 64 - used);
        md5_transform(md5->state, md5->block);
        used = 0;
    }
    memset(md5->block + used, 0, 56 - used);
    for (i = 0; i < 8; i++)
        md5->block[56 + i] = (uint8_t)(bits >> 8 * i);
    md5_transform(md5->state, md5->block);
    return (uint64_t)__builtin_bswap32(md5->state[0]) << 32 | __builtin_bswap32(md5->state[1]);
}

static uint64_t md5_of(const uint8_t *data, size_t size, int lower)
{
    md5_t md5;

    md5_begin(&md5);
    if (!lower) {
        md5_add(&md5, data, size);
        return md5_end(&md5);
    }
    for (;;) {
        uint8_t folded[64];
        size_t i, part = size < 64 ? size : 64;

        for (i = 0; i < part; i++)
            folded[i] = data[i] >= 'A' && data[i] <= 'Z' ? data[i] | 0x20 : data[i];
        md5_add(&md5, folded, part);
        data += part;
        size -= part;
        if (size == 0)
            return md5_end(&md5);
    }
}

#endif
