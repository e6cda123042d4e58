/* combiner.c - the trained combiner's file and its sums.
 * The file is text: "cairn-grounding 3", card lines that begin with "# ", "spans 0|1 words N" and N hashes in
 * hex, most common first; then for tokens, claims, texts: "NAME features F trees T depth D base B" and a line
 * a tree, its splits as FEATURE BIN in four hex digits, heap order, then its leaves; then "calibration NAME
 * N" for claims and texts with N pairs MARGIN P. A file for another number of features is refused: the
 * numbers would mean something else. */
#include "combiner.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "cairn-grounding 3\n"
#define FILE_MAX ((size_t)1 << 20)
#define LEAF_MAX (16 * 65536)
#define MARGIN_MAX (64 * 65536) /* of a forest and what it started from */

static const char *const names[N_FORESTS] = {"tokens", "claims", "texts"};
static const uint32_t widths[N_FORESTS] = {TF_N, CF_N, AF_N};

uint8_t to_byte(float f)
{
    if (!(f > 0))
        return 0;
    return f >= 1 ? 255 : (uint8_t)(f * 255.0f + 0.5f);
}

int32_t tree_leaf(const struct tree *t, uint32_t depth, const uint8_t *x)
{
    uint32_t at = 0, splits = (1u << depth) - 1;
    while (at < splits)
        at = 2 * at + 1 + (x[t->feature[at]] > t->bin[at]);
    return t->leaf[at - splits];
}

static int32_t clamped(int64_t sum)
{
    return (int32_t)(sum > LEAF_MAX ? LEAF_MAX : sum < -LEAF_MAX ? -LEAF_MAX : sum);
}

int32_t forest_margin(const struct forest *f, const uint8_t *x)
{
    int64_t sum = f->base;
    for (size_t i = 0; i < f->n; i++)
        sum += tree_leaf(&f->trees[i], f->depth, x);
    return clamped(sum);
}

void forest_margins(const struct forest *f, const uint8_t *x, size_t width, size_t n, int32_t *out)
{
    /* Eight rows walk a tree together: their loads do not wait for each other. */
    enum { LANES = 8 };
    uint32_t splits = (1u << f->depth) - 1;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        int64_t sum[LANES];
        for (size_t k = 0; k < LANES; k++)
            sum[k] = f->base;
        const uint8_t *row = x + i * width;
        for (size_t t = 0; t < f->n; t++) {
            const struct tree *tree = &f->trees[t];
            uint32_t at[LANES] = {0};
            for (uint32_t d = 0; d < f->depth; d++)
                for (size_t k = 0; k < LANES; k++)
                    at[k] = 2 * at[k] + 1 + (row[k * width + tree->feature[at[k]]] > tree->bin[at[k]]);
            for (size_t k = 0; k < LANES; k++)
                sum[k] += tree->leaf[at[k] - splits];
        }
        for (size_t k = 0; k < LANES; k++)
            out[i + k] = clamped(sum[k]);
    }
    for (; i < n; i++)
        out[i] = forest_margin(f, x + i * width);
}

int32_t logistic_16(int32_t margin)
{
    /* exp(-2^k / 65536), k = 0..20, in 1/2^32: the product over the set bits of |margin| is exp(-|margin|).
     */
    static const uint32_t power[21] = {
        4294901760u, 4294836225u, 4294705159u, 4294443039u, 4293918847u, 4292870655u, 4290775039u,
        4286586874u, 4278222805u, 4261543595u, 4228379999u, 4162825044u, 4034748382u, 3790295335u,
        3344923893u, 2605029347u, 1580030168u, 581260615u,  78665070u,   1440801u,    483u};
    uint32_t a = (uint32_t)(margin < 0 ? -margin : margin);
    uint64_t e = 1ULL << 32;
    for (unsigned k = 0; k < 21; k++)
        if (a >> k & 1)
            e = e * power[k] >> 32;
    int32_t p = (int32_t)((65536ULL << 32) / ((1ULL << 32) + e));
    return margin < 0 ? 65536 - p : p;
}

int32_t calibrated_16(const struct calibration *c, int32_t margin)
{
    if (!c->n)
        return logistic_16(margin);
    if (margin <= c->margin[0])
        return c->p[0];
    for (uint32_t i = 1; i < c->n; i++)
        if (margin <= c->margin[i]) {
            int64_t span = (int64_t)c->margin[i] - c->margin[i - 1];
            return span ? c->p[i - 1] + (int32_t)((int64_t)(c->p[i] - c->p[i - 1]) *
                                                  ((int64_t)margin - c->margin[i - 1]) / span)
                        : c->p[i];
        }
    return c->p[c->n - 1];
}

uint8_t combiner_rarity(const struct ground_combiner *c, uint64_t word_key)
{
    uint32_t h = (uint32_t)word_key, low = 0, high = c->n_words;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (c->word[mid] < h)
            low = mid + 1;
        else
            high = mid;
    }
    return low < c->n_words && c->word[low] == h ? (uint8_t)(c->level[low] * 254 / COMBINER_WORDS_MAX) : 255;
}

/* ---- the file ---- */

static bool forest_write(const struct forest *f, const char *name, uint32_t width, struct cairn_buf *out)
{
    size_t splits = (1u << f->depth) - 1, leaves = 1u << f->depth;
    bool ok = cairn_buf_printf(out, "%s features %u trees %u depth %u base %" PRId32 "\n", name, width, f->n,
                               f->depth, f->base);
    for (size_t i = 0; ok && i < f->n; i++) {
        for (size_t k = 0; ok && k < splits; k++)
            ok = cairn_buf_printf(out, "%02x%02x", f->trees[i].feature[k], f->trees[i].bin[k]);
        for (size_t k = 0; ok && k < leaves; k++)
            ok = cairn_buf_printf(out, " %" PRId32, f->trees[i].leaf[k]);
        ok = ok && cairn_buf_puts(out, "\n");
    }
    return ok;
}

enum cairn_err combiner_write(const struct ground_combiner *c, struct cairn_buf *out, struct cairn_why *why)
{
    bool ok = cairn_buf_puts(out, MAGIC);
    for (const char *p = c->card; ok && *p;) {
        size_t n = strcspn(p, "\n");
        ok = cairn_buf_puts(out, "# ") && cairn_buf_put(out, p, n) && cairn_buf_puts(out, "\n");
        p += n + (p[n] == '\n');
    }
    ok = ok && cairn_buf_printf(out, "spans %u words %u\n", c->word_spans, c->n_words);
    uint32_t by_level[COMBINER_WORDS_MAX];
    for (uint32_t i = 0; i < c->n_words; i++)
        by_level[c->level[i]] = c->word[i];
    for (uint32_t i = 0; ok && i < c->n_words; i++)
        ok = cairn_buf_printf(out, "%08x%s", by_level[i], i % 12 == 11 || i + 1 == c->n_words ? "\n" : " ");
    for (size_t k = 0; ok && k < N_FORESTS; k++)
        ok = forest_write(&c->forest[k], names[k], widths[k], out);
    for (size_t k = FOREST_CLAIMS; ok && k < N_FORESTS; k++) {
        const struct calibration *m = &c->calibration[k];
        ok = cairn_buf_printf(out, "calibration %s %u\n", names[k], m->n);
        for (uint32_t i = 0; ok && i < m->n; i++)
            ok = cairn_buf_printf(out, "%" PRId32 " %" PRId32 "\n", m->margin[i], m->p[i]);
    }
    return ok ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "text of the grounding model");
}

struct cursor {
    const char *p, *end;
    bool bad;
};

static void word(struct cursor *c, const char *want)
{
    size_t n = strlen(want);
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n'))
        c->p++;
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, want, n) != 0)
        c->bad = true;
    else
        c->p += n;
}

static int64_t whole(struct cursor *c, int64_t min, int64_t max)
{
    int64_t v = 0;
    size_t digits = 0;
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n'))
        c->p++;
    bool minus = c->p < c->end && *c->p == '-';
    c->p += minus;
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9' && digits < 10; c->p++, digits++)
        v = 10 * v + (*c->p - '0');
    v = minus ? -v : v;
    if (!digits || v < min || v > max)
        c->bad = true;
    return c->bad ? min : v;
}

static uint32_t hex(struct cursor *c, size_t digits)
{
    uint32_t v = 0;
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n'))
        c->p++;
    for (size_t i = 0; i < digits; i++, c->p++) {
        char x = c->p < c->end ? *c->p : 'x';
        if (x >= '0' && x <= '9')
            v = v * 16 + (uint32_t)(x - '0');
        else if (x >= 'a' && x <= 'f')
            v = v * 16 + (uint32_t)(x - 'a') + 10;
        else {
            c->bad = true;
            return 0;
        }
    }
    return v;
}

static void forest_read(struct cursor *c, struct forest *f, const char *name, uint32_t width)
{
    word(c, name);
    word(c, "features");
    (void)whole(c, width, width);
    word(c, "trees");
    uint32_t n = (uint32_t)whole(c, 0, FOREST_TREES_MAX);
    word(c, "depth");
    f->depth = (uint32_t)whole(c, 1, FOREST_DEPTH_MAX);
    word(c, "base");
    f->base = (int32_t)whole(c, -LEAF_MAX, LEAF_MAX);
    if (c->bad)
        return;
    f->n = n;
    for (size_t i = 0; i < n && !c->bad; i++) {
        for (size_t k = 0; k < (1u << f->depth) - 1; k++) {
            uint32_t v = hex(c, 4);
            f->trees[i].feature[k] = (uint8_t)(v >> 8);
            f->trees[i].bin[k] = (uint8_t)v;
            c->bad = c->bad || v >> 8 >= width;
        }
        for (size_t k = 0; k < 1u << f->depth; k++)
            f->trees[i].leaf[k] = (int32_t)whole(c, -LEAF_MAX, LEAF_MAX);
    }
}

struct hashed {
    uint32_t word, level;
};
static int by_hash(const void *a, const void *b)
{
    const struct hashed *x = a, *y = b;
    if (x->word != y->word)
        return x->word < y->word ? -1 : 1;
    return (x->level > y->level) - (x->level < y->level);
}

static void words_read(struct cursor *c, struct ground_combiner *m)
{
    struct hashed list[COMBINER_WORDS_MAX];
    word(c, "spans");
    m->word_spans = (uint32_t)whole(c, 0, 1);
    word(c, "words");
    uint32_t n = (uint32_t)whole(c, 0, COMBINER_WORDS_MAX);
    for (uint32_t i = 0; i < n && !c->bad; i++)
        list[i] = (struct hashed){hex(c, 8), i};
    if (c->bad)
        return;
    qsort(list, n, sizeof *list, by_hash);
    for (uint32_t i = 0; i < n; i++) {
        m->word[i] = list[i].word;
        m->level[i] = list[i].level;
    }
    m->n_words = n;
}

enum cairn_err combiner_parse(struct ground_combiner *m, const char *text, size_t len, struct cairn_why *why)
{
    size_t magic = strlen(MAGIC), card = 0;
    if (len < magic || memcmp(text, MAGIC, magic) != 0)
        return cairn_fail(why, CAIRN_ECORRUPT, "not a grounding model of version 3");
    struct cursor c = {text + magic, text + len, false};
    while (c.p < c.end && *c.p == '#') {
        const char *line = memchr(c.p, '\n', (size_t)(c.end - c.p));
        const char *stop = line ? line + 1 : c.end,
                   *from = c.p + 1 < stop && c.p[1] == ' ' ? c.p + 2 : c.p + 1;
        if (card + (size_t)(stop - from) >= sizeof m->card)
            c.bad = true;
        else
            memcpy(m->card + card, from, (size_t)(stop - from)), card += (size_t)(stop - from);
        c.p = stop;
    }
    words_read(&c, m);
    for (size_t k = 0; k < N_FORESTS && !c.bad; k++)
        forest_read(&c, &m->forest[k], names[k], widths[k]);
    for (size_t k = FOREST_CLAIMS; k < N_FORESTS && !c.bad; k++) {
        struct calibration *t = &m->calibration[k];
        word(&c, "calibration");
        word(&c, names[k]);
        t->n = (uint32_t)whole(&c, 0, CALIBRATION_MAX);
        for (uint32_t i = 0; i < t->n && !c.bad; i++) {
            t->margin[i] = (int32_t)whole(&c, -MARGIN_MAX, MARGIN_MAX);
            t->p[i] = (int32_t)whole(&c, 0, 65536);
            c.bad = c.bad || (i && (t->margin[i] < t->margin[i - 1] || t->p[i] < t->p[i - 1]));
        }
    }
    while (c.p < c.end && (*c.p == ' ' || *c.p == '\n'))
        c.p++;
    if (c.bad || c.p != c.end)
        return cairn_fail(why, CAIRN_ECORRUPT, "grounding model: byte %zu is not what version 3 has there",
                          (size_t)(c.p - text));
    return CAIRN_OK;
}

enum cairn_err ground_combiner_open(struct ground_combiner **out, const char *path, struct cairn_why *why)
{
    char *text;
    size_t len;
    *out = NULL;
    enum cairn_err err = cairn_read_file(&text, &len, path, FILE_MAX, why);
    if (err)
        return err;
    struct ground_combiner *m = cairn_calloc(1, sizeof *m);
    err = m ? combiner_parse(m, text, len, why) : cairn_fail(why, CAIRN_ENOMEM, "grounding model");
    cairn_free(text);
    if (err) {
        cairn_free(m);
        return cairn_wrap(why, err, "%s", path);
    }
    *out = m;
    return CAIRN_OK;
}

void ground_combiner_close(struct ground_combiner *c) { cairn_free(c); }

/* ---- the one in the program ---- */

/* The file's bytes stand in the program as they stand in the folder. */
__asm__(".section .rodata\n"
        ".global cairn_grounding_model, cairn_grounding_model_end\n"
        "cairn_grounding_model:\n"
        ".incbin \"" GROUNDING_MODEL "\"\n"
        "cairn_grounding_model_end:\n"
        ".byte 0\n"
        ".previous\n");
extern const char cairn_grounding_model[], cairn_grounding_model_end[];

static struct ground_combiner shipped;

static void shipped_read(void)
{
    struct cairn_why why = {0};
    size_t len = (size_t)(cairn_grounding_model_end - cairn_grounding_model);
    CAIRN_CHECK(combiner_parse(&shipped, cairn_grounding_model, len, &why) == CAIRN_OK);
}

const struct ground_combiner *combiner_shipped(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, shipped_read);
    return &shipped;
}
