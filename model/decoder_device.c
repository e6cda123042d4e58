/* decoder_device.c - a decoder's steps on a device, and the way back to the CPU.
 *
 * The device keeps a pool of pages under the ids of d->kv, whose own bytes are not touched meanwhile; copies
 * that happen between steps are noted and done before the next step. A device that fails is given up for
 * good: sequences remember their tokens, so the next step of each computes it again on the CPU.
 * Threads: the handle belongs to d->lock, what is noted to d->kv_lock. */
#include "decoder_internal.h"
#include "device_host.h"

#include <stdatomic.h>
#include <string.h>

struct copy {
    uint32_t to, from;
};
struct decoder_device {
    const struct device_api *api;
    struct device_decoder *handle;
    atomic_bool lost;
    uint32_t *from, *readers; /* [n_pages] whose bytes each page gets before the next step, its own when it
                                 names itself; how many pages get this one's */
    struct copy *work;        /* [2 * n_pages] */
    bool noted;
    uint32_t tables_ld;
    int32_t *tables; /* [DECODER_ITEMS_MAX][tables_ld] */
    int32_t tokens[DECODER_ROWS_MAX], positions[DECODER_ROWS_MAX], slots[DECODER_ROWS_MAX];
    uint32_t wanted[DECODER_ROWS_MAX],
        place[DECODER_ROWS_MAX]; /* place: of each wanted row in the caller's */
};

bool decoder_on_device(const struct decoder *d) { return d->device && !atomic_load(&d->device->lost); }

/* kv_lock is held. Between steps nothing but copies writes to a page, so all that counts is which page's
 * bytes, as the last step left them, each page has by now. */
static void note_copy(void *ctx, uint32_t to, uint32_t from)
{
    struct decoder_device *v = ctx;
    v->from[to] = v->from[from];
    v->noted = true;
}

/* The noted copies into v->work, each page read before it is written: pages that nobody reads first, then
 * what they leave free, then rings, by way of the page behind the pool's. Returns how many; kv_lock is held.
 */
static size_t order_copies(struct decoder_device *v, const struct kv_pool *kv)
{
    size_t n = 0;
    if (!v->noted)
        return 0;
    memset(v->readers, 0, kv->n_pages * sizeof *v->readers);
    for (uint32_t p = 0; p < kv->n_pages; p++)
        if (kv->refs[p] == 0) /* given back since */
            v->from[p] = p;
        else if (v->from[p] != p)
            v->readers[v->from[p]]++;
    for (int rings = 0; rings < 2; rings++)
        for (uint32_t p = 0; p < kv->n_pages; p++) {
            if (v->from[p] == p || (v->readers[p] && !rings))
                continue;
            if (rings)
                v->work[n++] = (struct copy){.to = kv->n_pages, .from = p};
            for (uint32_t to = p, from; (from = v->from[to]) != to; to = from) {
                v->from[to] = to;
                v->work[n++] = (struct copy){.to = to, .from = rings && from == p ? kv->n_pages : from};
                if (--v->readers[from])
                    break;
            }
        }
    v->noted = false;
    return n;
}

static const char *why_not(const struct decoder *d)
{
    const struct decoder_arch *a = d->arch;
    return d->kv->shape.type != CACHE_F16 ? "the device keeps keys and values as f16 only"
           : d->n_expert || a->qk_norm || a->post_norms || a->scale_embedding || a->gelu || a->local_every
               ? "the device computes llama and qwen2 without experts"
               : NULL;
}

static void release(struct decoder_device *v)
{
    if (!v)
        return;
    if (v->handle)
        v->api->decoder_close(v->handle);
    cairn_free(v->from);
    cairn_free(v->readers);
    cairn_free(v->work);
    cairn_free(v->tables);
    cairn_free(v);
}

void decoder_device_open(struct decoder *d, const struct model_opts *o)
{
    const struct device_api *api = device_wanted(o, d->name);
    const char *reason = api ? why_not(d) : NULL;
    if (!api)
        return;
    struct device_layer *layers = cairn_calloc(d->n_layer, sizeof *layers);
    struct decoder_device *v = cairn_calloc(1, sizeof *v);
    if (layers && v && !reason) {
        v->api = api;
        v->tables_ld = (uint32_t)kv_pages_for(d->n_ctx);
        v->from = cairn_calloc(d->kv->n_pages, sizeof *v->from);
        v->readers = cairn_calloc(d->kv->n_pages, sizeof *v->readers);
        v->work = cairn_calloc(d->kv->n_pages, 2 * sizeof *v->work);
        v->tables = cairn_calloc((size_t)DECODER_ITEMS_MAX * v->tables_ld, sizeof *v->tables);
    }
    if (!reason && (!layers || !v || !v->from || !v->readers || !v->work || !v->tables))
        reason = "no memory";
    for (uint32_t i = 0; !reason && i < d->n_layer; i++) {
        const struct layer *l = &d->layers[i];
        layers[i] = (struct device_layer){.q = device_matrix_of(&l->q),
                                          .k = device_matrix_of(&l->k),
                                          .v = device_matrix_of(&l->v),
                                          .o = device_matrix_of(&l->o),
                                          .gate = device_matrix_of(&l->gate),
                                          .up = device_matrix_of(&l->up),
                                          .down = device_matrix_of(&l->down),
                                          .attn_norm = l->attn_norm,
                                          .ffn_norm = l->ffn_norm,
                                          .q_bias = l->q_bias,
                                          .k_bias = l->k_bias,
                                          .v_bias = l->v_bias,
                                          .o_bias = l->o_bias};
    }
    if (!reason && api->decoder_open(&v->handle, &(struct device_decoder_desc){
                                                     .n_layer = d->n_layer,
                                                     .n_embd = d->n_embd,
                                                     .n_head = d->n_head,
                                                     .n_kv_head = d->n_kv_head,
                                                     .head_dim = d->head_dim,
                                                     .n_ff = d->n_ff,
                                                     .n_vocab = d->n_vocab,
                                                     .n_ctx = d->n_ctx,
                                                     .n_rope = d->n_rope,
                                                     .window = d->window,
                                                     .halves = d->arch->halves,
                                                     .rows_many = DECODER_ROWS_MAX,
                                                     .slots_max = DECODER_ITEMS_MAX,
                                                     .n_pages = d->kv->n_pages + 1, /* see order_copies */
                                                     .eps = d->eps,
                                                     .rope_step = d->rope_step,
                                                     .layers = layers,
                                                     .embedding = device_matrix_of(&d->embedding),
                                                     .output = device_matrix_of(&d->output),
                                                     .output_norm = d->output_norm}))
        reason = api->error();
    cairn_free(layers);
    if (reason) {
        device_refused(d->name, reason);
        release(v);
        return;
    }
    for (uint32_t p = 0; p < d->kv->n_pages; p++)
        v->from[p] = p;
    d->device = v;
    d->kv->copied = note_copy;
    d->kv->copied_ctx = v;
}

void decoder_device_close(struct decoder *d)
{
    release(d->device);
    d->device = NULL;
}

/* What the device held is gone with it: kept beginnings are forgotten. */
static void lose(struct decoder *d, const char *reason)
{
    struct decoder_device *v = d->device;
    CAIRN_LOG(MODEL, WARN, "device failed, the CPU goes on model=%s reason=\"%s\"", d->name, reason);
    (void)pthread_mutex_lock(&d->kv_lock);
    atomic_store(&v->lost, true);
    d->kv->copied = NULL;
    prefix_clear(d->prefix);
    (void)pthread_mutex_unlock(&d->kv_lock);
    v->api->decoder_close(v->handle);
    v->handle = NULL;
}

static bool do_copies(struct decoder *d)
{
    struct decoder_device *v = d->device;
    (void)pthread_mutex_lock(&d->kv_lock);
    size_t n = order_copies(v, d->kv);
    (void)pthread_mutex_unlock(&d->kv_lock);
    for (size_t i = 0; i < n; i++)
        if (v->api->decoder_copy(v->handle, v->work[i].to, v->work[i].from))
            return false;
    return true;
}

/* Each of n rows to its place, a permutation that this uses up. */
static void rows_to_places(float *rows, size_t row_len, uint32_t *place, uint32_t n)
{
    for (uint32_t r = 0; r < n; r++)
        while (place[r] != r) {
            uint32_t to = place[r];
            float *a = rows + r * row_len, *b = rows + to * row_len;
            for (size_t i = 0; i < row_len; i++) {
                float x = a[i];
                a[i] = b[i];
                b[i] = x;
            }
            place[r] = place[to];
            place[to] = to;
        }
}

bool decoder_device_step(struct decoder *d, const struct decoder_item *items, size_t n_items, float *logits)
{
    struct decoder_device *v = d->device;
    struct device_step step = {.tokens = v->tokens,
                               .positions = v->positions,
                               .slots = v->slots,
                               .tables = v->tables,
                               .n_slots = (uint32_t)n_items,
                               .tables_ld = v->tables_ld,
                               .wanted = v->wanted};
    for (size_t i = 0; i < n_items; i++)
        for (uint32_t p = 0; p < v->tables_ld; p++)
            v->tables[i * v->tables_ld + p] =
                p < items[i].seq->n_pages ? (int32_t)items[i].seq->table[p] : -1;
    for (int many = 0; many < 2; many++)
        for (size_t i = 0, behind = 0; i < n_items;
             i++) { /* behind: the item's rows of the caller's logits */
            const struct decoder_item *t = &items[i];
            behind += t->n_logits;
            if (t->prompt != many)
                continue;
            for (size_t j = 0; j < t->n; j++) {
                uint32_t r = step.n_rows++;
                v->tokens[r] = t->tokens[j];
                v->positions[r] = (int32_t)(t->seq->len + j);
                v->slots[r] = (int32_t)i;
                if (logits && j + t->n_logits >= t->n) {
                    v->place[step.n_wanted] = (uint32_t)(behind - (t->n - j));
                    v->wanted[step.n_wanted++] = r;
                }
            }
            step.n_many += many ? (uint32_t)t->n : 0;
        }
    step.logits = step.n_wanted ? logits : NULL;
    int32_t nothing;
    if (!step.logits) /* waits all the same: an error belongs to the step that made it */
        step.chosen = &nothing;
    if (!do_copies(d) || v->api->decoder_step(v->handle, &step)) {
        lose(d, v->api->error());
        return false;
    }
    if (step.logits) /* which lie there with those of few rows first */
        rows_to_places(logits, d->n_vocab, v->place, step.n_wanted);
    return true;
}
