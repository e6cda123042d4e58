/* decoder.c - the architectures of decoder_arch.c from a GGUF file: sequences, and the step that computes
 * rows of several of them in one pass over the weights.
 *
 * Owns the file, its tokenizer, one set of activations and scratch, and the pool of pages that hold the keys
 * and values of all sequences; a sequence owns references to its pages.
 * Threads: decoder.lock is held by every computing call. It is taken before kv_lock and before the pool's own
 * lock, never after. A sequence's fields belong to its caller's thread.
 * Memory: everything is allocated at open and at seq_open; a step allocates nothing.
 * Rows of a step: prompts go through the kernels for many rows and all others through those for few, however
 * many there are of each. So a row's results depend on its sequence alone.
 * A sequence's length moves only when a call has succeeded: what a stopped call wrote behind it is
 * overwritten later. A page with a second owner is copied before it is written. */
#include "decoder_internal.h"
#include "device_host.h"

#include <math.h>
#include <string.h>

_Static_assert((int)DECODER_PAGE == (int)KV_PAGE, "the public name of a page");

enum { ROWS_ALONE = 4 }; /* fewer rows are not worth waking the pool for norms and the like */

const char *decoder_name(const struct decoder *d) { return d->name; }
const char *decoder_backend_name(const struct decoder *d)
{
    return decoder_on_device(d) ? model_backend_name(BACKEND_CUDA) : d->compute.ops->name;
}
const struct tokenizer *decoder_tokenizer(const struct decoder *d) { return d->tokenizer; }
enum chat_template decoder_template(const struct decoder *d) { return d->template; }
uint32_t decoder_n_ctx(const struct decoder *d) { return d->n_ctx; }
uint32_t decoder_n_vocab(const struct decoder *d) { return d->n_vocab; }
size_t decoder_weight_bytes(const struct decoder *d) { return d->weight_bytes; }

/* ---- sequences
 * -------------------------------------------------------------------------------------------------- */

enum cairn_err decoder_kv_open(struct decoder *d, const struct model_opts *o, struct cairn_why *why)
{
    struct kv_shape shape;
    if (!kv_shape_init(&shape, o->cache_type, d->n_layer, d->n_kv_head, d->head_dim))
        return cairn_fail(why, CAIRN_ECORRUPT, "%u layers of %u heads of %u: too large", d->n_layer,
                          d->n_kv_head, d->head_dim);
    size_t pages = 2 * kv_pages_for(d->n_ctx);
    if (o->kv_bytes) {
        pages = o->kv_bytes / shape.page_bytes;
        pages = pages < KV_PAGES_MAX ? pages : KV_PAGES_MAX;
        if (!pages)
            return cairn_fail(
                why, CAIRN_EINVAL,
                "%zu bytes for keys and values hold no page: this model needs %zu for %d tokens", o->kv_bytes,
                shape.page_bytes, KV_PAGE);
        if (pages * KV_PAGE < o->n_ctx)
            return cairn_fail(
                why, CAIRN_EINVAL,
                "%zu bytes for keys and values hold %zu tokens, not the %u of n_ctx; ask for %zu",
                o->kv_bytes, pages * KV_PAGE, o->n_ctx, kv_pages_for(o->n_ctx) * shape.page_bytes);
        if (pages * KV_PAGE < d->n_ctx) {
            CAIRN_LOG(MODEL, WARN, "context cut to what kv_bytes hold n_ctx=%u now=%zu kv_bytes=%zu",
                      d->n_ctx, pages * KV_PAGE, o->kv_bytes);
            d->n_ctx = (uint32_t)(pages * KV_PAGE);
        }
    }
    enum cairn_err err = kv_pool_open(&d->kv, &shape, (uint32_t)pages, why);
    return err ? err : prefix_open(&d->prefix, d->kv, why);
}

enum cairn_err decoder_seq_open(struct decoder_seq **out, struct decoder *d, uint32_t n_ctx,
                                struct cairn_why *why)
{
    *out = NULL;
    if (n_ctx > d->n_ctx)
        return cairn_fail(why, CAIRN_EINVAL, "a sequence of %u: the decoder was opened for %u", n_ctx,
                          d->n_ctx);
    n_ctx = n_ctx ? n_ctx : d->n_ctx;
    size_t pages = kv_pages_for(n_ctx), tokens = d->device ? n_ctx : 0;
    struct decoder_seq *s =
        cairn_calloc(1, sizeof *s + pages * sizeof *s->table + tokens * sizeof *s->tokens);
    if (!s)
        return cairn_fail(why, CAIRN_ENOMEM, "sequence handle");
    s->d = d;
    s->tokens = tokens ? (int32_t *)(s->table + pages) : NULL;
    s->elsewhere = decoder_on_device(d);
    s->n_ctx = n_ctx;
    *out = s;
    return CAIRN_OK;
}

/* Gives back the pages behind those of n positions. */
static void shrink(struct decoder_seq *s, size_t n)
{
    (void)pthread_mutex_lock(&s->d->kv_lock);
    while (s->n_pages > kv_pages_for(n))
        kv_unref(s->d->kv, s->table[--s->n_pages]);
    (void)pthread_mutex_unlock(&s->d->kv_lock);
}

/* Positions whose pages it keeps. */
static size_t held(const struct decoder_seq *s) { return s->len > s->reserved ? s->len : s->reserved; }

/* Pages for n positions, of which those from `from` on may be written: a shared page among them becomes one
 * of the sequence's own. kv_lock is held. */
static enum cairn_err grow(struct decoder_seq *s, size_t from, size_t n, struct cairn_why *why)
{
    struct kv_pool *kv = s->d->kv;
    size_t want = kv_pages_for(n), more = want > s->n_pages ? want - s->n_pages : 0, first = from / KV_PAGE,
           shared = 0;
    for (size_t i = first; i < want && i < s->n_pages; i++)
        shared += kv->refs[s->table[i]] > 1;
    if (!more && !shared)
        return CAIRN_OK;
    if (!prefix_evict(s->d->prefix, more + shared))
        return cairn_fail(why, CAIRN_EFULL,
                          "keys and values: %zu pages of %d tokens wanted, %u of %u are free; ask for fewer "
                          "tokens, wait for other requests to end, or raise generator.kv_bytes",
                          more + shared, KV_PAGE, kv->n_free, kv->n_pages);
    for (size_t i = first; shared && i < s->n_pages; i++) {
        uint32_t old = s->table[i];
        if (i >= want || kv->refs[old] == 1)
            continue;
        CAIRN_CHECK(kv_take(kv, &s->table[i], 1));
        if (i == first && from % KV_PAGE)
            kv_copy(kv, s->table[i], old, from % KV_PAGE);
        kv_unref(kv, old);
        shared--;
    }
    CAIRN_CHECK(kv_take(kv, s->table + s->n_pages, more));
    s->n_pages += (uint32_t)more;
    return CAIRN_OK;
}

enum cairn_err decoder_seq_reserve(struct decoder_seq *s, uint32_t n, struct cairn_why *why)
{
    if (n > s->n_ctx)
        return cairn_fail(why, CAIRN_EFULL, "%u tokens do not fit in a context of %u; shorten the prompt", n,
                          s->n_ctx);
    (void)pthread_mutex_lock(&s->d->kv_lock);
    enum cairn_err err = grow(s, s->len, n, why);
    (void)pthread_mutex_unlock(&s->d->kv_lock);
    if (!err && n > s->reserved)
        s->reserved = n;
    return err;
}

void decoder_seq_close(struct decoder_seq *s)
{
    if (s)
        shrink(s, 0);
    cairn_free(s);
}

uint32_t decoder_seq_len(const struct decoder_seq *s) { return s->len; }

void decoder_seq_truncate(struct decoder_seq *s, uint32_t len)
{
    if (len >= s->len)
        return;
    s->len = len;
    shrink(s, held(s));
}

uint32_t decoder_prefix_find(struct decoder_seq *s, const int32_t *ids, size_t n,
                             const struct decoder_share *share)
{
    struct decoder *d = s->d;
    size_t n_tail = 0, max = n > s->n_ctx ? s->n_ctx : n;
    uint32_t tail = 0;
    if (s->len || s->reserved || max < 2)
        return s->len;
    shrink(s, 0);
    (void)pthread_mutex_lock(&d->kv_lock);
    s->n_pages = (uint32_t)prefix_find(d->prefix, ids, max - 1, share, s->table, &tail, &n_tail);
    s->len = s->n_pages * KV_PAGE;
    if (n_tail) {
        if (prefix_evict(d->prefix, 1) && kv_take(d->kv, &s->table[s->n_pages], 1)) {
            kv_copy(d->kv, s->table[s->n_pages++], tail, n_tail);
            s->len += (uint32_t)n_tail;
        }
        kv_unref(d->kv, tail);
    }
    s->elsewhere = decoder_on_device(d);
    if (s->tokens)
        memcpy(s->tokens, ids, s->len * sizeof *ids);
    (void)pthread_mutex_unlock(&d->kv_lock);
    return s->len;
}

void decoder_prefix_keep(struct decoder_seq *s, const int32_t *ids, size_t n,
                         const struct decoder_share *share)
{
    (void)pthread_mutex_lock(&s->d->kv_lock);
    if (s->elsewhere == decoder_on_device(s->d)) /* else the pages hold nothing yet */
        prefix_keep(s->d->prefix, ids, n < s->len ? n : s->len, share, s->table);
    (void)pthread_mutex_unlock(&s->d->kv_lock);
}

void decoder_kv_get(struct decoder *d, struct decoder_kv *out)
{
    (void)pthread_mutex_lock(&d->kv_lock);
    *out = (struct decoder_kv){.type = d->kv->shape.type,
                               .page_bytes = d->kv->shape.page_bytes,
                               .n_pages = d->kv->n_pages,
                               .n_free = d->kv->n_free + prefix_idle(d->prefix),
                               .n_kept = prefix_pages(d->prefix)};
    (void)pthread_mutex_unlock(&d->kv_lock);
}

/* ---- a step
 * ----------------------------------------------------------------------------------------------------- */

struct step {
    struct decoder *d;
    size_t n_few, n_many; /* rows */
    uint32_t layer;
    const float *norm;
};

static void each_row(const struct step *st, size_t n, cairn_range_fn fn)
{
    if (n < ROWS_ALONE)
        fn((void *)(uintptr_t)st, 0, n, 0);
    else
        cairn_pool_run(st->d->compute.pool, n, n < OPS_ROWS_FEW ? 1 : 8, fn, (void *)(uintptr_t)st);
}

static void matmul(const struct step *st, const float *x, const struct matmul_job *jobs, size_t n_jobs)
{
    ops_matmul_mixed(&st->d->compute, x, st->n_few, st->n_many, jobs, n_jobs);
}

static void rows_embed(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++) {
        weight_row(&d->embedding, (size_t)d->rows[r].token, d->x + r * d->n_embd);
        for (uint32_t i = 0; i < d->n_embd && d->arch->scale_embedding; i++)
            d->x[r * d->n_embd + i] *= sqrtf((float)d->n_embd);
        size_t n_angles = d->n_rope / 2 * rope_sets(d);
        for (size_t i = 0; i < n_angles; i++) {
            double angle = (double)d->rows[r].position * d->rope_step[i];
            d->cosine[r * n_angles + i] = (float)cos(angle);
            d->sine[r * n_angles + i] = (float)sin(angle);
        }
    }
}

static void rows_norm(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++)
        d->compute.ops->rmsnorm(d->h + r * d->n_embd, d->x + r * d->n_embd, st->norm, d->n_embd, d->eps);
}

/* Adds d->h, normed by itself, to d->x. */
static void rows_add_normed(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++) {
        float *h = d->h + r * d->n_embd;
        d->compute.ops->rmsnorm(h, h, st->norm, d->n_embd, d->eps);
        d->compute.ops->add(d->x + r * d->n_embd, h, d->n_embd);
    }
}

/* x += w in + bias, what is added normed first where the architecture says so. */
static void add_product(struct step *st, const struct weight *w, const float *bias, const float *in,
                        const float *post_norm)
{
    struct decoder *d = st->d;
    matmul(st, in,
           &(struct matmul_job){
               .w = w, .bias = bias, .y = post_norm ? d->h : d->x, .ld = d->n_embd, .add = !post_norm},
           1);
    st->norm = post_norm;
    if (post_norm)
        each_row(st, st->n_few + st->n_many, rows_add_normed);
}

/* One head of queries or keys. */
static void turn_head(const struct decoder *d, float *x, const float *norm, const float *c, const float *s)
{
    if (norm)
        d->compute.ops->rmsnorm(x, x, norm, d->head_dim, d->eps);
    d->compute.ops->rope(x, c, s, d->n_rope / 2, d->arch->halves);
}

static void rows_rope(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    const struct layer *l = &d->layers[st->layer];
    size_t half = d->n_rope / 2, stride = half * rope_sets(d), set = layer_is_local(d, st->layer) ? half : 0;
    for (size_t r = begin; r < end; r++) {
        const float *c = d->cosine + r * stride + set, *s = d->sine + r * stride + set;
        float *q = d->q + r * d->n_head * d->head_dim, *k = d->k + r * d->n_kv_head * d->head_dim;
        for (uint32_t h = 0; h < d->n_head; h++)
            turn_head(d, q + h * d->head_dim, l->q_norm, c, s);
        for (uint32_t h = 0; h < d->n_kv_head; h++)
            turn_head(d, k + h * d->head_dim, l->k_norm, c, s);
        kv_write(d->kv, d->rows[r].table, st->layer, d->rows[r].position, k,
                 d->v + r * d->n_kv_head * d->head_dim);
    }
}

static void rows_gate(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++)
        (d->arch->gelu ? d->compute.ops->geglu : d->compute.ops->swiglu)(d->gate + r * d->n_ff,
                                                                         d->up + r * d->n_ff, d->n_ff);
}

static void run_layers(struct step *st, size_t n_items)
{
    struct decoder *d = st->d;
    size_t n = st->n_few + st->n_many, q_dim = (size_t)d->n_head * d->head_dim,
           kv_dim = (size_t)d->n_kv_head * d->head_dim;
    each_row(st, n, rows_embed);
    for (st->layer = 0; st->layer < d->n_layer; st->layer++) {
        const struct layer *l = &d->layers[st->layer];
        st->norm = l->attn_norm;
        each_row(st, n, rows_norm);
        matmul(st, d->h,
               (struct matmul_job[]){
                   {.w = &l->q, .bias = l->q_bias, .y = d->q, .ld = q_dim },
                   {.w = &l->k, .bias = l->k_bias, .y = d->k, .ld = kv_dim},
                   {.w = &l->v, .bias = l->v_bias, .y = d->v, .ld = kv_dim}
        },
               3);
        each_row(st, n, rows_rope);
        ops_attention(&d->compute, &(struct attention){.kv = d->kv,
                                                       .layer = st->layer,
                                                       .n_head = d->n_head,
                                                       .window = layer_window(d, st->layer),
                                                       .items = d->items,
                                                       .n_items = n_items,
                                                       .q = d->q,
                                                       .out = d->mixed});
        add_product(st, &l->o, l->o_bias, d->mixed, l->attn_post_norm);
        st->norm = l->ffn_norm;
        each_row(st, n, rows_norm);
        if (l->experts) {
            decoder_experts(d, l, st->n_few, st->n_many);
            continue;
        }
        matmul(st, d->h,
               (struct matmul_job[]){
                   {.w = &l->gate, .y = d->gate, .ld = d->n_ff},
                   {.w = &l->up,   .y = d->up,   .ld = d->n_ff}
        },
               2);
        each_row(st, n, rows_gate);
        add_product(st, &l->down, NULL, d->gate, l->ffn_post_norm);
    }
}

/* A prompt's last few rows are not worth the kernels for many. */
static bool logits_by_few(const struct decoder_item *i)
{
    return !i->prompt || i->n_logits <= DECODER_LOGITS_FEW;
}

/* The rows that want logits move to the front of h, in the order of items, and neighbours of one kind go
 * through the output matrix together. */
static void run_logits(struct step *st, const struct decoder_item *items, size_t n_items, float *logits)
{
    struct decoder *d = st->d;
    size_t n = 0;
    for (size_t i = 0; i < n_items; i++)
        for (size_t j = items[i].n - items[i].n_logits; j < items[i].n; j++, n++)
            d->compute.ops->rmsnorm(d->h + n * d->n_embd, d->x + (d->items[i].row + j) * d->n_embd,
                                    d->output_norm, d->n_embd, d->eps);
    const float *x = d->h;
    for (size_t i = 0; i < n_items;) {
        bool few = logits_by_few(&items[i]);
        size_t rows = 0;
        for (; i < n_items && (!items[i].n_logits || logits_by_few(&items[i]) == few); i++)
            rows += items[i].n_logits;
        ops_matmul_mixed(&d->compute, x, few ? rows : 0, few ? 0 : rows,
                         &(struct matmul_job){.w = &d->output, .y = logits, .ld = d->n_vocab}, 1);
        x += rows * d->n_embd;
        logits += rows * d->n_vocab;
    }
}

static enum cairn_err check_items(const struct decoder *d, const struct decoder_item *items, size_t n_items,
                                  struct cairn_why *why)
{
    size_t rows = 0;
    if (!n_items || n_items > DECODER_ITEMS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a step of %zu sequences: 1..%d", n_items, DECODER_ITEMS_MAX);
    for (size_t i = 0; i < n_items; i++) {
        const struct decoder_item *t = &items[i];
        if (!t->n || t->n_logits > t->n)
            return cairn_fail(why, CAIRN_EINVAL, "item %zu of a step: %zu tokens, %zu rows of logits", i,
                              t->n, t->n_logits);
        if (t->n > t->seq->n_ctx - t->seq->len)
            return cairn_fail(why, CAIRN_EFULL,
                              "%zu tokens after %u do not fit in a context of %u; shorten the prompt", t->n,
                              t->seq->len, t->seq->n_ctx);
        rows += t->n;
        for (size_t j = 0; j < t->n; j++)
            if (t->tokens[j] < 0 || (uint32_t)t->tokens[j] >= d->n_vocab)
                return cairn_fail(why, CAIRN_EINVAL, "token %" PRId32 " at %zu is not in 0..%u", t->tokens[j],
                                  j, d->n_vocab - 1);
    }
    if (rows > DECODER_ROWS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a step of %zu tokens: at most %d", rows, DECODER_ROWS_MAX);
    return CAIRN_OK;
}

/* A sequence whose keys and values a device took with it, from its tokens. */
static void compute_again(struct decoder *d, struct decoder_seq *s)
{
    for (size_t done = 0, n; done < s->len; done += n) {
        n = s->len - done < DECODER_ROWS_MAX ? s->len - done : DECODER_ROWS_MAX;
        d->items[0] = (struct attention_item){.table = s->table, .row = 0, .rows = n, .first = done};
        for (size_t j = 0; j < n; j++)
            d->rows[j] = (struct row){
                .token = s->tokens[done + j], .position = (uint32_t)(done + j), .table = s->table};
        run_layers(&(struct step){.d = d, .n_many = n}, 1);
    }
    s->elsewhere = false;
}

/* The decoder's lock is held and the items were checked. */
static enum cairn_err run_step(struct decoder *d, const struct decoder_item *items, size_t n_items,
                               float *logits, struct cairn_why *why)
{
    struct step st = {.d = d};
    enum cairn_err err = CAIRN_OK;
    (void)pthread_mutex_lock(&d->kv_lock);
    for (size_t i = 0; i < n_items && !err; i++)
        err = grow(items[i].seq, items[i].seq->len, items[i].seq->len + items[i].n, why);
    (void)pthread_mutex_unlock(&d->kv_lock);
    if (err) {
        for (size_t i = 0; i < n_items; i++)
            shrink(items[i].seq, held(items[i].seq));
        return err;
    }
    if (decoder_on_device(d) && decoder_device_step(d, items, n_items, logits))
        goto done;
    for (size_t i = 0; i < n_items; i++)
        if (items[i].seq->elsewhere)
            compute_again(d, items[i].seq);
    for (int many = 0; many < 2; many++)
        for (size_t i = 0; i < n_items; i++) {
            const struct decoder_item *t = &items[i];
            if (t->prompt != many)
                continue;
            size_t row = st.n_few + st.n_many;
            d->items[i] = (struct attention_item){
                .table = t->seq->table, .row = row, .rows = t->n, .first = t->seq->len};
            for (size_t j = 0; j < t->n; j++)
                d->rows[row + j] = (struct row){
                    .token = t->tokens[j], .position = t->seq->len + (uint32_t)j, .table = t->seq->table};
            *(many ? &st.n_many : &st.n_few) += t->n;
        }
    run_layers(&st, n_items);
    if (logits)
        run_logits(&st, items, n_items, logits);
done:
    for (size_t i = 0; i < n_items; i++) {
        struct decoder_seq *s = items[i].seq;
        if (s->tokens)
            memcpy(s->tokens + s->len, items[i].tokens, items[i].n * sizeof *s->tokens);
        s->len += (uint32_t)items[i].n;
    }
    return CAIRN_OK;
}

enum cairn_err decoder_step(struct decoder *d, const struct decoder_item *items, size_t n_items,
                            float *logits, struct cairn_why *why)
{
    enum cairn_err err = check_items(d, items, n_items, why);
    if (err)
        return err;
    (void)pthread_mutex_lock(&d->lock);
    err = run_step(d, items, n_items, logits, why);
    (void)pthread_mutex_unlock(&d->lock);
    return err;
}

enum cairn_err decoder_eval(struct decoder_seq *s, const int32_t *tokens, size_t n, bool all_logits,
                            float *logits, const struct cairn_stop *stop, struct cairn_why *why)
{
    uint32_t before = s->len;
    if (!n)
        return cairn_fail(why, CAIRN_EINVAL, "decoder_eval: no tokens");
    if (n > s->n_ctx - s->len)
        return cairn_fail(why, CAIRN_EFULL,
                          "%zu tokens after %u do not fit in a context of %u; shorten the prompt", n, s->len,
                          s->n_ctx);
    enum cairn_err err = CAIRN_OK;
    for (size_t done = 0; done < n && !err;) {
        size_t rows = n - done < DECODER_ROWS_MAX ? n - done : DECODER_ROWS_MAX;
        bool last = done + rows == n;
        struct decoder_item item = {.seq = s,
                                    .tokens = tokens + done,
                                    .n = rows,
                                    .n_logits = !logits      ? 0
                                                : all_logits ? rows
                                                             : last,
                                    .prompt = n >= OPS_ROWS_FEW};
        err = cairn_stopped(stop, why);
        if (!err)
            err = decoder_step(s->d, &item, 1, logits && all_logits ? logits + done * s->d->n_vocab : logits,
                               why);
        done += rows;
    }
    if (err)
        decoder_seq_truncate(s, before);
    return err;
}
