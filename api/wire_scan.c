/* api/wire_scan.c - looks at a msgpack byte stream before anything is allocated for it.
 * msgpack-c trusts counts: five bytes (dd ff ff ff ff) ask it for gigabytes. So every header is judged here
 * first, from what it declares: `owed` is the number of values declared but not yet begun, and each of them
 * costs at least one byte and one node, so a count that cannot fit the message or node limit is refused at
 * the header, not after the body. No allocation, no recursion; each byte is looked at once (payload bytes of
 * str and bin are only counted), so a message that comes byte by byte costs as much as one that comes whole.
 * UTF-8 of str is checked when the message is decoded. */
#include "wire.h"

#include <cairn/api.h>

_Static_assert(sizeof((struct wire_scan *)0)->pending / sizeof(uint64_t) > WIRE_DEPTH_MAX,
               "pending holds every depth");

void wire_scan_init(struct wire_scan *s, const struct wire_limits *l)
{
    *s = (struct wire_scan){.limits = *l, .owed = 1};
    if (s->limits.depth > WIRE_DEPTH_MAX)
        s->limits.depth = WIRE_DEPTH_MAX;
}

static void scan_restart(struct wire_scan *s)
{
    s->offset = s->nodes = 0;
    s->depth = 0;
    s->skip = 0;
    s->owed = 1;
    s->header_len = s->header_need = 0;
}

/* Bytes of the header that starts with b: the tag, and the length field of str, bin, array and map. 0: not
 * ours. */
static uint8_t header_size(uint8_t b)
{
    switch (b) {
    case 0xc4: /* bin 8 */
    case 0xd9: /* str 8 */
        return 2;
    case 0xc5:
    case 0xda:
    case 0xdc: /* array 16 */
    case 0xde: /* map 16 */
        return 3;
    case 0xc6:
    case 0xdb:
    case 0xdd:
    case 0xdf:
        return 5;
    default:
        return 1;
    }
}

static uint64_t length_field(const struct wire_scan *s)
{
    uint64_t v = 0;
    for (uint8_t i = 1; i < s->header_need; i++)
        v = v << 8 | s->header[i];
    return v;
}

enum shape { SHAPE_SCALAR, SHAPE_STR, SHAPE_BIN, SHAPE_ARRAY, SHAPE_MAP, SHAPE_EXT, SHAPE_BAD };

static enum shape shape_of(const struct wire_scan *s, uint64_t *n)
{
    uint8_t b = s->header[0];
    *n = 0;
    if (b <= 0x7f || b >= 0xe0)
        return SHAPE_SCALAR;
    if (b <= 0x8f)
        return *n = b & 15u, SHAPE_MAP;
    if (b <= 0x9f)
        return *n = b & 15u, SHAPE_ARRAY;
    if (b <= 0xbf)
        return *n = b & 31u, SHAPE_STR;
    *n = length_field(s);
    switch (b) {
    case 0xc0:
    case 0xc2:
    case 0xc3:
        return SHAPE_SCALAR;
    case 0xc1:
        return SHAPE_BAD;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return SHAPE_BIN;
    case 0xcc:
    case 0xd0:
        return *n = 1, SHAPE_SCALAR;
    case 0xcd:
    case 0xd1:
        return *n = 2, SHAPE_SCALAR;
    case 0xca:
    case 0xce:
    case 0xd2:
        return *n = 4, SHAPE_SCALAR;
    case 0xcb:
    case 0xcf:
    case 0xd3:
        return *n = 8, SHAPE_SCALAR;
    case 0xd9:
    case 0xda:
    case 0xdb:
        return SHAPE_STR;
    case 0xdc:
    case 0xdd:
        return SHAPE_ARRAY;
    case 0xde:
    case 0xdf:
        return SHAPE_MAP;
    default: /* c7-c9, d4-d8 */
        return SHAPE_EXT;
    }
}

/* A value is whole: closes every container that it was the last of. True when the outermost value is whole.
 */
static bool value_done(struct wire_scan *s)
{
    while (s->depth > 0) {
        if (--s->pending[s->depth - 1] > 0)
            return false;
        s->depth--;
    }
    return true;
}

static int refuse(struct wire_scan *s, enum cairn_err err)
{
    s->header_need = UINT8_MAX; /* a stream once refused stays refused */
    return (int)err;
}

static int judge_header(struct wire_scan *s, struct cairn_why *why)
{
    uint64_t n;
    enum shape shape = shape_of(s, &n);
    const struct wire_limits *l = &s->limits;
    s->owed--;
    s->nodes++;
    switch (shape) {
    case SHAPE_BAD:
        return refuse(
            s, cairn_fail(why, CAIRN_ECORRUPT, "byte 0xc1 at offset %zu is not msgpack", s->offset - 1));
    case SHAPE_EXT:
        return refuse(s, cairn_fail(why, CAIRN_ECORRUPT,
                                    "an extension type (0x%02x) at offset %zu; none is used here",
                                    s->header[0], s->offset - s->header_need));
    case SHAPE_STR:
        if (n > l->str_bytes)
            return refuse(s, cairn_fail(why, CAIRN_EFULL,
                                        "a string of %" PRIu64 " bytes is over the limit of %zu", n,
                                        l->str_bytes));
        s->skip = n;
        break;
    case SHAPE_BIN:
        if (n > l->bin_bytes)
            return refuse(s,
                          cairn_fail(why, CAIRN_EFULL, "a bin of %" PRIu64 " bytes is over the limit of %zu",
                                     n, l->bin_bytes));
        s->skip = n;
        break;
    case SHAPE_SCALAR:
        s->skip = n;
        break;
    case SHAPE_MAP:
        n *= 2;
        __attribute__((fallthrough));
    case SHAPE_ARRAY:
        if (s->depth >= l->depth)
            return refuse(s, cairn_fail(why, CAIRN_EFULL, "nested deeper than the limit of %zu", l->depth));
        s->owed += n;
        break;
    }
    if (s->owed > l->nodes || s->nodes > l->nodes - s->owed)
        return refuse(s, cairn_fail(why, CAIRN_EFULL,
                                    "declares %" PRIu64 " more values after %zu; the limit is %zu in all",
                                    s->owed, s->nodes, l->nodes));
    /* n and owed are bounded by limits here, so the sum cannot wrap */
    if (s->offset + s->skip + s->owed > l->message_bytes)
        return refuse(s, cairn_fail(why, CAIRN_EFULL,
                                    "a message of at least %" PRIu64 " bytes is over the limit of %zu",
                                    (uint64_t)s->offset + s->skip + s->owed, l->message_bytes));
    if ((shape == SHAPE_MAP || shape == SHAPE_ARRAY) && n > 0) {
        s->pending[s->depth++] = n;
        return 0;
    }
    if (s->skip > 0)
        return 0;
    return value_done(s);
}

int wire_scan_feed(struct wire_scan *s, const uint8_t *bytes, size_t len, size_t *used, struct cairn_why *why)
{
    size_t at = 0;
    *used = 0;
    if (s->header_need == UINT8_MAX)
        return (int)cairn_fail(why, CAIRN_ECORRUPT, "the stream was refused before");
    while (at < len) {
        int done = 0;
        if (s->skip > 0) {
            size_t n = len - at < s->skip ? len - at : (size_t)s->skip;
            s->skip -= n;
            s->offset += n;
            at += n;
            if (s->skip > 0)
                break;
            done = value_done(s);
        } else {
            s->header[s->header_len++] = bytes[at++];
            s->offset++;
            if (s->header_len == 1)
                s->header_need = header_size(s->header[0]);
            if (s->header_len < s->header_need)
                continue;
            done = judge_header(s, why);
            if (done < 0) {
                *used = at;
                return done;
            }
            s->header_len = s->header_need = 0;
        }
        if (done) {
            *used = at;
            scan_restart(s);
            return 1;
        }
    }
    *used = at;
    return 0;
}
