/* cursor.h - the only way by which bytes of a model file are read: a position that cannot leave its bounds.
 * Every length that a file states goes through cursor_take(), so it is compared with what is left before it
 * is used. */
#ifndef CAIRN_MODEL_CURSOR_H
#define CAIRN_MODEL_CURSOR_H

#include <cairn/base.h>
#include <stdio.h>
#include <string.h>

struct cursor {
    const uint8_t *bytes;
    size_t len, pos; /* pos <= len, always */
};

static inline size_t cursor_left(const struct cursor *c) { return c->len - c->pos; }

/* The next n bytes, or NULL (and no move) when fewer are left. */
static inline const uint8_t *cursor_take(struct cursor *c, uint64_t n)
{
    if (n > c->len - c->pos)
        return NULL;
    const uint8_t *p = c->bytes + c->pos;
    c->pos += (size_t)n;
    return p;
}

/* Files are little-endian; so is every machine we run on (checked by file.c), hence memcpy. */
static inline bool cursor_u32(struct cursor *c, uint32_t *v)
{
    const uint8_t *p = cursor_take(c, sizeof *v);
    if (p)
        memcpy(v, p, sizeof *v);
    return p != NULL;
}

static inline bool cursor_u64(struct cursor *c, uint64_t *v)
{
    const uint8_t *p = cursor_take(c, sizeof *v);
    if (p)
        memcpy(v, p, sizeof *v);
    return p != NULL;
}

#endif
