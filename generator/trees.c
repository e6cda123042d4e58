/* trees.c - the trained combiner's file and its sum.
 * The file is text: "cairn-grounding-trees 1", card lines that begin with "# ", then
 * "features N trees T depth D base B" and a line a tree: its splits as FEATURE BIN, heap order, then its
 * leaves. A file for another number of features is refused: the numbers would mean something else. */
#include "trees.h"

#include <string.h>

#define TREES_MAGIC "cairn-grounding-trees 1\n"
#define TREES_FILE_MAX ((size_t)1 << 20)
#define LEAF_MAX (16 * 65536)

uint8_t trees_bin(float f)
{
    if (!(f > 0))
        return 0;
    return f >= 1 ? 255 : (uint8_t)(f * 255.0f + 0.5f);
}

int32_t tree_leaf(const struct ground_tree *t, const uint8_t x[GF_N])
{
    size_t at = 0;
    while (at < TREE_SPLITS)
        at = 2 * at + 1 + (x[t->feature[at]] > t->bin[at]);
    return t->leaf[at - TREE_SPLITS];
}

int32_t trees_margin(const struct ground_trees *t, const uint8_t x[GF_N])
{
    int64_t sum = t->base;
    for (size_t i = 0; i < t->n; i++)
        sum += tree_leaf(&t->trees[i], x);
    return (int32_t)(sum > LEAF_MAX ? LEAF_MAX : sum < -LEAF_MAX ? -LEAF_MAX : sum);
}

int32_t trees_logistic(int32_t margin)
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

float trees_support(const struct ground_trees *t, const float f[GF_N])
{
    uint8_t x[GF_N];
    for (size_t i = 0; i < GF_N; i++)
        x[i] = trees_bin(f[i]);
    return (float)(65536 - trees_logistic(trees_margin(t, x))) / 65536.0f;
}

enum cairn_err trees_write(const struct ground_trees *t, struct cairn_buf *out, struct cairn_why *why)
{
    bool ok = cairn_buf_puts(out, TREES_MAGIC);
    for (const char *p = t->card; ok && *p;) {
        size_t n = strcspn(p, "\n");
        ok = cairn_buf_puts(out, "# ") && cairn_buf_put(out, p, n) && cairn_buf_puts(out, "\n");
        p += n + (p[n] == '\n');
    }
    ok = ok && cairn_buf_printf(out, "features %u trees %zu depth %u base %" PRId32 "\n", (unsigned)GF_N,
                                t->n, TREE_DEPTH, t->base);
    for (size_t i = 0; ok && i < t->n; i++) {
        for (size_t k = 0; ok && k < TREE_SPLITS; k++)
            ok = cairn_buf_printf(out, "%u %u ", t->trees[i].feature[k], t->trees[i].bin[k]);
        for (size_t k = 0; ok && k < TREE_LEAVES; k++)
            ok =
                cairn_buf_printf(out, "%" PRId32 "%s", t->trees[i].leaf[k], k + 1 < TREE_LEAVES ? " " : "\n");
    }
    return ok ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "text of %zu trees", t->n);
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

enum cairn_err trees_parse(struct ground_trees **out, const char *text, size_t len, struct cairn_why *why)
{
    size_t magic = strlen(TREES_MAGIC), card = 0;
    *out = NULL;
    if (len < magic || memcmp(text, TREES_MAGIC, magic) != 0)
        return cairn_fail(why, CAIRN_ECORRUPT, "not a grounding model of version 1");
    struct ground_trees *t = cairn_calloc(1, sizeof *t);
    if (!t)
        return cairn_fail(why, CAIRN_ENOMEM, "grounding model");
    struct cursor c = {text + magic, text + len, false};
    while (c.p < c.end && *c.p == '#') {
        const char *line = memchr(c.p, '\n', (size_t)(c.end - c.p));
        const char *stop = line ? line + 1 : c.end,
                   *from = c.p + 1 < stop && c.p[1] == ' ' ? c.p + 2 : c.p + 1;
        if (card + (size_t)(stop - from) >= sizeof t->card)
            c.bad = true;
        else
            memcpy(t->card + card, from, (size_t)(stop - from)), card += (size_t)(stop - from);
        c.p = stop;
    }
    word(&c, "features");
    (void)whole(&c, GF_N, GF_N);
    word(&c, "trees");
    t->n = (size_t)whole(&c, 0, TREES_MAX);
    word(&c, "depth");
    (void)whole(&c, TREE_DEPTH, TREE_DEPTH);
    word(&c, "base");
    t->base = (int32_t)whole(&c, -LEAF_MAX, LEAF_MAX);
    for (size_t i = 0; i < t->n && !c.bad; i++) {
        for (size_t k = 0; k < TREE_SPLITS; k++) {
            t->trees[i].feature[k] = (uint8_t)whole(&c, 0, GF_N - 1);
            t->trees[i].bin[k] = (uint8_t)whole(&c, 0, 255);
        }
        for (size_t k = 0; k < TREE_LEAVES; k++)
            t->trees[i].leaf[k] = (int32_t)whole(&c, -LEAF_MAX, LEAF_MAX);
    }
    while (c.p < c.end && (*c.p == ' ' || *c.p == '\n'))
        c.p++;
    if (c.bad || c.p != c.end) {
        size_t at = (size_t)(c.p - text);
        cairn_free(t);
        return cairn_fail(why, CAIRN_ECORRUPT, "grounding model: byte %zu is not what version 1 has there",
                          at);
    }
    *out = t;
    return CAIRN_OK;
}

enum cairn_err ground_trees_open(struct ground_trees **out, const char *path, struct cairn_why *why)
{
    char *text;
    size_t len;
    *out = NULL;
    enum cairn_err err = cairn_read_file(&text, &len, path, TREES_FILE_MAX, why);
    if (err)
        return err;
    err = trees_parse(out, text, len, why);
    cairn_free(text);
    return err ? cairn_wrap(why, err, "%s", path) : CAIRN_OK;
}

void ground_trees_close(struct ground_trees *t) { cairn_free(t); }
