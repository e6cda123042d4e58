/* kv.c - the pool of pages: counts, references, and the layout of a page for the CPU. */
#include "kv.h"

#include "quant_rows.h"

#include <math.h>
#include <string.h>

static size_t element_bytes(enum cache_type t) { return t == CACHE_F32 ? 4 : t == CACHE_F16 ? 2 : 1; }

bool kv_shape_init(struct kv_shape *s, enum cache_type type, uint32_t n_layer, uint32_t n_head,
                   uint32_t head_dim)
{
    *s = (struct kv_shape){.type = type, .n_layer = n_layer, .n_head = n_head, .head_dim = head_dim};
    s->values_at = (size_t)KV_PAGE * head_dim * element_bytes(type);
    s->key_scales_at = 2 * s->values_at;
    s->value_scales_at = s->key_scales_at + (type == CACHE_Q8 ? KV_PAGE * sizeof(float) : 0);
    s->block_bytes = s->value_scales_at + (type == CACHE_Q8 ? KV_PAGE * sizeof(float) : 0);
    size_t blocks;
    return cairn_mul(n_layer, n_head, &blocks) && cairn_mul(blocks, s->block_bytes, &s->page_bytes);
}

enum cairn_err kv_pool_open(struct kv_pool **out, const struct kv_shape *shape, uint32_t n_pages,
                            struct cairn_why *why)
{
    *out = NULL;
    size_t bytes;
    if (!n_pages || n_pages > KV_PAGES_MAX || !cairn_mul(n_pages, shape->page_bytes, &bytes))
        return cairn_fail(why, CAIRN_EINVAL, "%u pages of %zu bytes for keys and values: 1..%d pages",
                          n_pages, shape->page_bytes, KV_PAGES_MAX);
    struct kv_pool *p = cairn_calloc(1, sizeof *p);
    if (!p)
        return cairn_fail(why, CAIRN_ENOMEM, "pool of keys and values");
    p->shape = *shape;
    p->half = kv_half;
    p->n_pages = n_pages;
    p->refs = cairn_calloc(n_pages, sizeof *p->refs);
    p->free = cairn_calloc(n_pages, sizeof *p->free);
    p->bytes = cairn_aligned(64, bytes);
    if (!p->refs || !p->free || !p->bytes) {
        kv_pool_close(p);
        return cairn_fail(why, CAIRN_ENOMEM, "%zu MiB of keys and values; ask for fewer", bytes >> 20);
    }
    p->n_free = n_pages;
    for (uint32_t i = 0; i < n_pages; i++) /* low ids first: what was touched is used again */
        p->free[i] = n_pages - 1 - i;
    *out = p;
    return CAIRN_OK;
}

void kv_pool_close(struct kv_pool *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; p->refs && i < p->n_pages; i++)
        CAIRN_CHECK(p->refs[i] == 0);
    cairn_free(p->bytes);
    cairn_free(p->refs);
    cairn_free(p->free);
    cairn_free(p);
}

bool kv_take(struct kv_pool *p, uint32_t *ids, size_t n)
{
    if (n > p->n_free)
        return false;
    for (size_t i = 0; i < n; i++) {
        ids[i] = p->free[--p->n_free];
        p->refs[ids[i]] = 1;
    }
    return true;
}

void kv_ref(struct kv_pool *p, uint32_t id)
{
    CAIRN_CHECK(id < p->n_pages && p->refs[id] > 0);
    p->refs[id]++;
}

void kv_unref(struct kv_pool *p, uint32_t id)
{
    CAIRN_CHECK(id < p->n_pages && p->refs[id] > 0);
    if (--p->refs[id] == 0)
        p->free[p->n_free++] = id;
}

static uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) /* NaN stays one, quiet, with its upper bits */
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x1ff));
    if (bits >= 0x477ff000u) /* rounds to 65536 or is larger */
        return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000u) { /* below 2^-14: a multiple of 2^-24, rounded by the addition */
        float scaled;
        memcpy(&scaled, &bits, 4);
        scaled += 0.5f; /* one unit of the last place of 0.5 is 2^-24 */
        memcpy(&bits, &scaled, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

void kv_half(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = half_of(x[i]);
}

/* Largest size of n values against 127; NaN and infinity carry over into the scale. */
static float q8_scale(const float *x, size_t n)
{
    float top = 0, bad = 0;
    for (size_t i = 0; i < n; i++) {
        top = fmaxf(top, fabsf(x[i]));
        bad += x[i] * 0.0f;
    }
    return top * (1.0f / 127.0f) + bad;
}
static int8_t q8(float x, float inverse)
{
    float r = rintf(x * inverse);
    return (int8_t)(r > 127 ? 127 : r > -127 ? r : -127);
}

/* One head's row: keys scattered over a run, values in line. */
static void put_f32(float *run, float *value, const float *k, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        run[i * KV_RUN] = k[i];
    memcpy(value, v, n * sizeof *v);
}
static void put_f16(const struct kv_pool *p, uint16_t *run, uint16_t *value, const float *k, const float *v,
                    size_t n)
{
    uint16_t some[64];
    p->half(value, v, n);
    for (size_t i = 0; i < n; i += 64) {
        size_t m = n - i < 64 ? n - i : 64;
        p->half(some, k + i, m);
        for (size_t j = 0; j < m; j++)
            run[(i + j) * KV_RUN] = some[j];
    }
}
static void put_q8(int8_t *run, int8_t *value, float *k_scale, float *v_scale, const float *k, const float *v,
                   size_t n)
{
    *k_scale = q8_scale(k, n);
    *v_scale = q8_scale(v, n);
    float k_inverse = *k_scale > 0 && isfinite(*k_scale) ? 1.0f / *k_scale : 0.0f,
          v_inverse = *v_scale > 0 && isfinite(*v_scale) ? 1.0f / *v_scale : 0.0f;
    for (size_t i = 0; i < n; i++) {
        run[i * KV_RUN] =
            k_inverse > 0 ? q8(k[i], k_inverse) : 1; /* 1: a NaN scale must not meet zero alone */
        value[i] = v_inverse > 0 ? q8(v[i], v_inverse) : 1;
    }
}

void kv_write(const struct kv_pool *p, const uint32_t *table, size_t layer, size_t position, const float *k,
              const float *v)
{
    const struct kv_shape *s = &p->shape;
    size_t at = position % KV_PAGE, hd = s->head_dim;
    size_t key_at = at / KV_RUN * KV_RUN * hd + at % KV_RUN, value_at = at * hd;
    char *block = kv_page(p, table[position / KV_PAGE]) + kv_block_at(s, layer, 0);
    for (size_t h = 0; h < s->n_head; h++, block += s->block_bytes, k += hd, v += hd) {
        char *values = block + s->values_at;
        switch (s->type) {
        case CACHE_F32:
            put_f32((float *)(void *)block + key_at, (float *)(void *)values + value_at, k, v, hd);
            break;
        case CACHE_F16:
            put_f16(p, (uint16_t *)(void *)block + key_at, (uint16_t *)(void *)values + value_at, k, v, hd);
            break;
        case CACHE_Q8:
            put_q8((int8_t *)block + key_at, (int8_t *)values + value_at,
                   (float *)(void *)(block + s->key_scales_at) + at,
                   (float *)(void *)(block + s->value_scales_at) + at, k, v, hd);
            break;
        }
    }
}

void kv_copy(const struct kv_pool *p, uint32_t to, uint32_t from, size_t n)
{
    const struct kv_shape *s = &p->shape;
    CAIRN_CHECK(n <= KV_PAGE && to != from);
    if (p->copied) {
        p->copied(p->copied_ctx, to, from);
        return;
    }
    size_t element = element_bytes(s->type), hd = s->head_dim;
    char *out = kv_page(p, to);
    const char *in = kv_page(p, from);
    for (size_t b = 0; b < (size_t)s->n_layer * s->n_head; b++, out += s->block_bytes, in += s->block_bytes) {
        size_t whole = n / KV_RUN * KV_RUN * hd;
        memcpy(out, in, whole * element);
        for (size_t i = 0; i < hd && n % KV_RUN; i++)
            memcpy(out + (whole + i * KV_RUN) * element, in + (whole + i * KV_RUN) * element,
                   n % KV_RUN * element);
        memcpy(out + s->values_at, in + s->values_at, n * hd * element);
        if (s->type == CACHE_Q8) {
            memcpy(out + s->key_scales_at, in + s->key_scales_at, n * sizeof(float));
            memcpy(out + s->value_scales_at, in + s->value_scales_at, n * sizeof(float));
        }
    }
}
