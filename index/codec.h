/* codec.h - bytes of stored values: little-endian fixed integers, LEB128 varints, length-prefixed strings.
 * A reader never passes its end: after the first violation `bad` stays set and every read gives zero. */
#ifndef CAIRN_INDEX_CODEC_H
#define CAIRN_INDEX_CODEC_H

#include <cairn/base.h>
#include <string.h>

struct rd {
    const uint8_t *p, *end;
    bool bad;
};

static inline struct rd rd_of(struct cairn_str s)
{
    const uint8_t *p = (const uint8_t *)s.p;
    return (struct rd){p, p + s.len, false};
}
static inline size_t rd_left(const struct rd *r) { return r->bad ? 0 : (size_t)(r->end - r->p); }
static inline bool rd_done(const struct rd *r) { return !r->bad && r->p == r->end; }
static inline const uint8_t *rd_bytes(struct rd *r, size_t n)
{
    if (r->bad || (size_t)(r->end - r->p) < n) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}
static inline void rd_copy(struct rd *r, void *out, size_t n)
{
    const uint8_t *p = rd_bytes(r, n);
    if (p)
        memcpy(out, p, n);
    else
        memset(out, 0, n);
}
static inline uint8_t rd_u8(struct rd *r)
{
    uint8_t v;
    rd_copy(r, &v, 1);
    return v;
}
static inline uint32_t rd_u32(struct rd *r)
{
    uint8_t b[4];
    rd_copy(r, b, 4);
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t rd_u64(struct rd *r)
{
    uint64_t lo = rd_u32(r), hi = rd_u32(r);
    return lo | hi << 32;
}
static inline float rd_f32(struct rd *r)
{
    uint32_t u = rd_u32(r);
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint64_t rd_varint(struct rd *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->bad || r->p == r->end)
            break;
        uint8_t b = *r->p++;
        if (shift == 63 && b > 1)
            break;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return v;
    }
    r->bad = true;
    return 0;
}
static inline uint32_t rd_var32(struct rd *r)
{
    uint64_t v = rd_varint(r);
    if (v > UINT32_MAX) {
        r->bad = true;
        return 0;
    }
    return (uint32_t)v;
}
static inline struct cairn_str rd_str(struct rd *r)
{
    uint64_t n = rd_varint(r);
    if (n > rd_left(r)) {
        r->bad = true;
        return (struct cairn_str){"", 0};
    }
    const uint8_t *p = rd_bytes(r, (size_t)n);
    return p ? (struct cairn_str){(const char *)p, (size_t)n} : (struct cairn_str){"", 0};
}

static inline void wr_u8(struct cairn_buf *b, uint8_t v) { (void)cairn_buf_put(b, &v, 1); }
static inline void wr_u32(struct cairn_buf *b, uint32_t v)
{
    uint8_t x[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    (void)cairn_buf_put(b, x, 4);
}
static inline void wr_u64(struct cairn_buf *b, uint64_t v)
{
    wr_u32(b, (uint32_t)v);
    wr_u32(b, (uint32_t)(v >> 32));
}
static inline void wr_f32(struct cairn_buf *b, float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    wr_u32(b, u);
}
static inline void wr_varint(struct cairn_buf *b, uint64_t v)
{
    uint8_t x[10];
    size_t n = 0;
    while (v >= 0x80) {
        x[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    x[n++] = (uint8_t)v;
    (void)cairn_buf_put(b, x, n);
}
static inline void wr_str(struct cairn_buf *b, struct cairn_str s)
{
    wr_varint(b, s.len);
    (void)cairn_buf_put(b, s.p, s.len);
}

#endif
