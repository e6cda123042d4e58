/* grounding.c - is a sentence carried by the sources? Tier 0 splits and aligns, tier 1 proves what can be
 * proved, a small logistic joins them (and the cosine of an embedder, when there is one) into a score.
 *
 * Sources are read once at open: words folded and stemmed, interned to ids, with document frequency over
 * source sentences; typed values per sentence (typed.h); pairs of neighbouring stems, initials of capitalised
 * runs and word beginnings in one hash table that maps to a bitmap of sources; chains of exact word triples
 * for copied runs. A check streams once over all source words and sets, per source sentence, a bitmap of the
 * claim's content words and values found there. Everything after works on these bitmaps. A check allocates
 * nothing but what the analyzer and the encoder need.
 *
 * Threads: one at a time per struct grounding. Everything is deterministic: no clocks, no addresses, fixed
 * orders. */
#include "grey.h"
#include "grounding_state.h"
#include "grounding_weights.h"
#include "tokens.h"
#include "words.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

/* ---- small things
 * --------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t h = a * 0x9E3779B97F4A7C15ULL ^ (b + 0x517CC1B727220A95ULL) * 0xBF58476D1CE4E5B9ULL ^
                 (c + 1) * 0x94D049BB133111EBULL;
    h ^= h >> 31;
    h *= 0xD6E8FEB86659FD93ULL;
    h ^= h >> 32;
    return h ? h : 1;
}
enum { MARK_PAIR = 1, MARK_INITIALS, MARK_ACRONYM, MARK_BEGINNING };

static struct map_slot *map_find(struct map_slot *m, size_t cap, uint64_t key)
{
    size_t i = key & (cap - 1);
    while (m[i].key && m[i].key != key)
        i = (i + 1) & (cap - 1);
    return &m[i];
}
static uint64_t mark_get(const struct grounding *g, uint64_t key)
{
    return g->marks_cap ? map_find(g->marks, g->marks_cap, key)->value : 0;
}
static void mark_set(struct grounding *g, uint64_t key, uint32_t source)
{
    struct map_slot *m = map_find(g->marks, g->marks_cap, key);
    m->key = key;
    m->value |= 1ULL << source;
}
static size_t pow2_over(size_t n)
{
    size_t c = 16;
    while (c < n)
        c *= 2;
    return c;
}
static bool set_has(const struct set *s, size_t i) { return (s->b[i / 64] >> (i % 64)) & 1; }
static void set_add(struct set *s, size_t i) { s->b[i / 64] |= 1ULL << (i % 64); }
static void set_or(struct set *s, const struct set *o)
{
    for (size_t i = 0; i < SLOTS_MAX / 64; i++)
        s->b[i] |= o->b[i];
}
static float set_weight(const struct claim *c, const struct set *s, const struct set *only)
{
    float w = 0;
    for (size_t k = 0; k * 64 < c->n_slots; k++) {
        uint64_t b = s->b[k] & (only ? only->b[k] : ~0ULL);
        while (b) {
            w += c->weight[k * 64 + (size_t)__builtin_ctzll(b)];
            b &= b - 1;
        }
    }
    return w;
}
const char *verdict_name(enum verdict v)
{
    return v == VERDICT_SUPPORTED ? "supported" : v == VERDICT_UNSUPPORTED ? "unsupported" : "no_claim";
}

/* Grows *p to hold n + 1 elements of `size`. */
static bool grow(void *p, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return true;
    size_t want = *cap ? *cap * 2 : 256;
    void *old;
    memcpy(&old, p, sizeof old);
    void *q = cairn_reallocarray(old, want, size);
    if (!q)
        return false;
    memcpy(p, &q, sizeof q);
    *cap = want;
    return true;
}

/* ---- reading words
 * ---------------------------------------------------------------------------------------------------- */

static bool capital(const char *s, size_t len)
{
    uint32_t cp = 0;
    if (!len || !cairn_utf8_next(s, len, &cp))
        return false;
    return (cp >= 'A' && cp <= 'Z') || (cp >= 0xC0 && cp <= 0xDE && cp != 0xD7) ||
           (cp >= 0x391 && cp <= 0x3A9) || (cp >= 0x400 && cp <= 0x42F) ||
           (cp >= 0x100 && cp < 0x180 && !(cp & 1));
}

uint64_t grounding_word_key(struct cairn_str stem)
{
    if (stem.len > 2 && memcmp(stem.p + stem.len - 2, "'s", 2) == 0)
        stem.len -= 2;
    return cairn_xxh64(stem.p, stem.len, 0);
}

static void fill_word(struct gword *out, const struct cairn_word *w, struct cairn_str text, size_t base)
{
    const char *p = text.p + w->start;
    size_t n = w->end - w->start;
    *out = (struct gword){.key = grounding_word_key(w->text),
                          .id = NONE,
                          .start = (uint32_t)(base + w->start),
                          .end = (uint32_t)(base + w->end)};
    char low[20];
    size_t m = 0, upper = 0, digits = 0;
    bool ascii = true;
    uint64_t raw = 1469598103934665603ULL;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)p[i];
        bool up = b >= 'A' && b <= 'Z';
        upper += up;
        digits += b >= '0' && b <= '9';
        ascii = ascii && b < 0x80;
        unsigned char l = up ? (unsigned char)(b + 32) : b;
        if (b == 0xE2 && i + 2 < n && (unsigned char)p[i + 1] == 0x80 && (unsigned char)p[i + 2] == 0x99) {
            l = '\'';
            i += 2;
            ascii = true;
        }
        raw = (raw ^ l) * 1099511628211ULL;
        if (m < sizeof low)
            low[m] = (char)l;
        m++;
    }
    out->raw = (uint32_t)(raw ^ (raw >> 32));
    unsigned kind = m <= sizeof low ? word_classes(low, m) : 0;
    out->classes = (uint8_t)kind;
    out->level = (uint8_t)(kind >> 8);
    if (capital(p, n))
        out->flags |= W_CAP;
    if (ascii && n >= 2 && n <= 6 && upper == n)
        out->flags |= W_ACRONYM;
    if (digits)
        out->flags |= W_DIGIT;
    bool letter = n == 1 && ascii && !digits;
    if (!(out->classes & WORD_FUNCTION) && !letter)
        out->flags |= W_CONTENT;
}

/* Negation, quantity and modality reach over the next content word of their clause; over the few after it a
 * negation may or may not reach, so nothing is concluded there. "avoid", "prevent" and the like give only
 * that doubt. */
static void mark_scopes(struct gword *w, size_t n, struct cairn_str text)
{
    unsigned neg = 0, unsure = 0, all = 0, some = 0, must = 0, may = 0;
    for (size_t i = 0; i < n; i++) {
        if (i) {
            bool broken = false;
            for (uint32_t p = w[i - 1].end; p < w[i].start && p - w[i - 1].end < 16; p++)
                broken = broken || strchr(",;:.!?()", text.p[p]) != NULL;
            if (broken)
                neg = unsure = all = some = must = may = 0;
        }
        uint8_t c = w[i].classes;
        if (c & WORD_NEGATOR) {
            bool idle = i + 1 < n && (w[i + 1].classes & WORD_COMPARATIVE); /* "no later than", "not only" */
            if (!idle) {
                neg = 1;
                unsure = 4;
            }
            continue;
        }
        if (c & WORD_SOFT_NEGATOR)
            unsure = 4;
        if (c & WORD_UNIVERSAL) {
            all = 1;
            some = 0;
        }
        if (c & WORD_PARTIAL) {
            some = 1;
            all = 0;
        }
        if (c & WORD_MUST) {
            must = 1;
            may = 0;
        }
        if (c & WORD_MAY) {
            may = 1;
            must = 0;
        }
        if (!(w[i].flags & W_CONTENT))
            continue;
        w[i].scope = (uint8_t)((neg ? SCOPE_NEGATED : 0) | (all ? SCOPE_ALL : 0) | (some ? SCOPE_SOME : 0) |
                               (must ? SCOPE_MUST : 0) | (may ? SCOPE_MAY : 0) | (unsure ? SCOPE_UNSURE : 0));
        neg = 0;
        if (unsure)
            unsure--;
        all = some = must = may = 0;
    }
}

/* ---- opening
 * ------------------------------------------------------------------------------------------------------------
 */

static bool add_id(struct grounding *g, uint64_t key, uint32_t *id)
{
    if ((g->n_ids + 1) * 2 > g->ids_cap) {
        size_t cap = g->ids_cap ? g->ids_cap * 2 : 1024;
        struct map_slot *m = cairn_calloc(cap, sizeof *m);
        if (!m)
            return false;
        for (size_t i = 0; i < g->ids_cap; i++)
            if (g->ids[i].key)
                *map_find(m, cap, g->ids[i].key) = g->ids[i];
        cairn_free(g->ids);
        g->ids = m;
        g->ids_cap = cap;
    }
    if (!key)
        key = 1;
    struct map_slot *s = map_find(g->ids, g->ids_cap, key);
    if (!s->key)
        *s = (struct map_slot){key, g->n_ids++};
    *id = (uint32_t)s->value;
    return true;
}
static uint32_t get_id(const struct grounding *g, uint64_t key)
{
    if (!g->ids_cap)
        return NONE;
    const struct map_slot *s = map_find(g->ids, g->ids_cap, key ? key : 1);
    return s->key ? (uint32_t)s->value : NONE;
}

static enum cairn_err read_source(struct grounding *g, uint32_t si, struct cairn_why *why)
{
    struct gsource *s = &g->sources[si];
    s->w0 = (uint32_t)g->n_words;
    s->s0 = (uint32_t)g->n_sents;
    const struct cairn_word *w = NULL;
    size_t n = 0;
    enum cairn_err err = cairn_analyze(g->analyzer, s->text, &w, &n, why);
    if (err)
        return err;
    for (size_t i = 0; i < n; i++) {
        if (!grow(&g->words, &g->cap_words, g->n_words, sizeof *g->words))
            return cairn_fail(why, CAIRN_ENOMEM, "words of source %u", si + 1);
        struct gword *x = &g->words[g->n_words++];
        fill_word(x, &w[i], s->text, 0);
        if (!add_id(g, x->key, &x->id))
            return cairn_fail(why, CAIRN_ENOMEM, "vocabulary of the sources");
    }
    s->w1 = (uint32_t)g->n_words;
    mark_scopes(g->words + s->w0, s->w1 - s->w0, s->text);
    size_t found = cairn_sentences(s->text, g->spans, g->cap_spans);
    if (found > g->cap_spans) {
        size_t cap = found;
        struct cairn_span *p = cairn_reallocarray(g->spans, cap, sizeof *p);
        if (!p)
            return cairn_fail(why, CAIRN_ENOMEM, "sentences of source %u", si + 1);
        g->spans = p;
        g->cap_spans = cap;
        found = cairn_sentences(s->text, g->spans, g->cap_spans);
    }
    uint32_t at = s->w0;
    for (size_t i = 0; i < found; i++) {
        if (!grow(&g->sents, &g->cap_sents, g->n_sents, sizeof *g->sents))
            return cairn_fail(why, CAIRN_ENOMEM, "sentences of source %u", si + 1);
        struct gsent *t = &g->sents[g->n_sents++];
        *t = (struct gsent){.start = g->spans[i].start, .end = g->spans[i].end, .source = si, .vector = NONE};
        t->w0 = at;
        while (at < s->w1 && g->words[at].start < t->end)
            at++;
        t->w1 = at;
        t->t0 = (uint32_t)g->n_typed;
        struct typed found_typed[SENT_TYPED_MAX];
        size_t nt = typed_scan(s->text, t->start, t->end, found_typed, SENT_TYPED_MAX, NULL);
        for (size_t k = 0; k < nt; k++) {
            if (!grow(&g->typed, &g->cap_typed, g->n_typed, sizeof *g->typed))
                return cairn_fail(why, CAIRN_ENOMEM, "values of source %u", si + 1);
            g->typed[g->n_typed++] = found_typed[k];
        }
        t->t1 = (uint32_t)g->n_typed;
    }
    s->s1 = (uint32_t)g->n_sents;
    return CAIRN_OK;
}

static uint64_t letter_key(uint64_t h, struct cairn_str text, const struct gword *w)
{
    unsigned char b = (unsigned char)text.p[w->start];
    return mix(h, b >= 'A' && b <= 'Z' ? (uint64_t)b + 32 : b, MARK_INITIALS);
}
/* Key of a word's first five letters, 0 when it is shorter than six. */
static uint64_t beginning_key(struct cairn_str text, const struct gword *w)
{
    if (w->end - w->start < 6)
        return 0;
    uint64_t v = 0;
    for (uint32_t i = 0; i < 5; i++) {
        unsigned char b = (unsigned char)text.p[w->start + i];
        v = v << 8 | (b >= 'A' && b <= 'Z' ? b + 32u : b);
    }
    return mix(v, 0, MARK_BEGINNING);
}
/* Key of the initials of the capitalised words in w[0, n), or 0 for fewer than two. */
static uint64_t initials_key(struct cairn_str text, const struct gword *w, size_t n)
{
    uint64_t h = 7;
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (w[i].flags & W_CAP) {
            h = letter_key(h, text, &w[i]);
            count++;
        }
    return count >= 2 ? h : 0;
}
static uint64_t acronym_initials_key(struct cairn_str text, const struct gword *w)
{
    uint64_t h = 7;
    for (uint32_t i = w->start; i < w->end; i++) {
        unsigned char b = (unsigned char)text.p[i];
        h = mix(h, b >= 'A' && b <= 'Z' ? (uint64_t)b + 32 : b, MARK_INITIALS);
    }
    return h;
}

static enum cairn_err build_tables(struct grounding *g, struct cairn_why *why)
{
    size_t n = g->n_words ? g->n_words : 1, ns = g->n_sents ? g->n_sents : 1, ni = g->n_ids ? g->n_ids : 1;
    g->idf = cairn_calloc(ni, sizeof *g->idf);
    g->slot_of = cairn_calloc(ni, sizeof *g->slot_of);
    g->hit = cairn_calloc(ns, sizeof *g->hit);
    g->cover = cairn_calloc(ns, sizeof *g->cover);
    g->anchors = cairn_calloc(ns, sizeof *g->anchors);
    g->marks_cap = pow2_over(n * 8);
    g->marks = cairn_calloc(g->marks_cap, sizeof *g->marks);
    g->chain_cap = pow2_over(n * 2);
    g->chain_head = cairn_malloc(g->chain_cap * sizeof *g->chain_head);
    g->chain_next = cairn_malloc(n * sizeof *g->chain_next);
    g->at_head = cairn_malloc(ni * sizeof *g->at_head);
    g->at_next = cairn_malloc(n * sizeof *g->at_next);
    g->run = cairn_calloc(n, sizeof *g->run);
    g->run_step = cairn_calloc(n, sizeof *g->run_step);
    g->hit_list = cairn_malloc(ns * sizeof *g->hit_list);
    uint32_t *last = cairn_malloc(ni * sizeof *last);
    if (!g->idf || !g->slot_of || !g->hit || !g->cover || !g->anchors || !g->marks || !g->chain_head ||
        !g->chain_next || !g->at_head || !g->at_next || !g->run || !g->run_step || !g->hit_list || !last) {
        cairn_free(last);
        return cairn_fail(why, CAIRN_ENOMEM, "tables over %zu words of the sources", g->n_words);
    }
    memset(last, 0xFF, ni * sizeof *last);
    memset(g->at_head, 0xFF, ni * sizeof *g->at_head);
    g->step = 1; /* 0 marks a place never reached */
    memset(g->chain_head, 0xFF, g->chain_cap * sizeof *g->chain_head);
    for (size_t s = 0; s < g->n_sents; s++)
        for (uint32_t i = g->sents[s].w0; i < g->sents[s].w1; i++)
            if (last[g->words[i].id] != s) {
                last[g->words[i].id] = (uint32_t)s;
                g->idf[g->words[i].id] += 1;
            }
    cairn_free(last);
    for (size_t i = 0; i < g->n_ids; i++)
        g->idf[i] = fmaxf(IDF_MIN, logf(((float)g->n_sents + 1) / (g->idf[i] + 0.5f)));
    for (uint32_t s = 0; s < g->n_sources; s++) {
        const struct gsource *src = &g->sources[s];
        for (uint32_t i = src->w0; i < src->w1; i++) {
            struct gword *w = &g->words[i];
            g->chain_next[i] = NONE;
            g->at_next[i] = g->at_head[w->id];
            g->at_head[w->id] = i;
            if (i == src->w0)
                w->flags |= W_SOURCE_START;
            if (i + 1 < src->w1)
                mark_set(g, mix(w->id, g->words[i + 1].id, MARK_PAIR), s);
            if (i + 2 < src->w1) {
                size_t h = mix(w->raw, g->words[i + 1].raw, g->words[i + 2].raw) & (g->chain_cap - 1);
                g->chain_next[i] = g->chain_head[h];
                g->chain_head[h] = i;
            }
            uint64_t b = beginning_key(src->text, w);
            if (b)
                mark_set(g, b, s);
            if (w->flags & W_ACRONYM)
                mark_set(g, mix(acronym_initials_key(src->text, w), 0, MARK_ACRONYM), s);
            /* capitalised runs that start here: "Organization of the Petroleum Exporting Countries" */
            if ((w->flags & W_CAP) && (i == src->w0 || !(g->words[i - 1].flags & W_CAP))) {
                uint32_t e = i;
                while (e < src->w1 && e - i < 10 &&
                       ((g->words[e].flags & W_CAP) || (g->words[e].classes & WORD_FUNCTION))) {
                    e++;
                    uint64_t k = initials_key(src->text, w, e - i);
                    if (k)
                        mark_set(g, k, s);
                    /* and the run without its first word ("The European Union") */
                    if ((w->classes & WORD_FUNCTION) && (k = initials_key(src->text, w + 1, e - i - 1)) != 0)
                        mark_set(g, k, s);
                }
            }
        }
    }
    return CAIRN_OK;
}

/* The list is stemmed once in a process: it costs as much as a passage. */
static uint64_t opposites[OPPOSITES_MAX];
static size_t n_opposites;
static pthread_mutex_t opposites_mu = PTHREAD_MUTEX_INITIALIZER;

static enum cairn_err read_opposites(struct grounding *g, struct cairn_why *why)
{
    const struct cairn_word *w = NULL;
    size_t n = 0;
    enum cairn_err err = CAIRN_OK;
    pthread_mutex_lock(&opposites_mu);
    if (!n_opposites) {
        err = cairn_analyze(g->analyzer, cairn_str_of(word_opposites), &w, &n, why);
        CAIRN_CHECK(n <= OPPOSITES_MAX);
        for (size_t i = 0; i < n && !err; i++)
            opposites[i] = cairn_xxh64(w[i].text.p, w[i].text.len, 0);
        n_opposites = err ? 0 : n & ~(size_t)1;
    }
    g->opposite_keys = opposites;
    g->n_opposites = n_opposites;
    pthread_mutex_unlock(&opposites_mu);
    return err;
}

static enum cairn_err read_question(struct grounding *g, struct cairn_str q, struct cairn_why *why)
{
    if (!q.len)
        return CAIRN_OK;
    const struct cairn_word *w = NULL;
    size_t n = 0;
    enum cairn_err err = cairn_analyze(g->analyzer, q, &w, &n, why);
    if (err)
        return err;
    for (size_t i = 0; i < n && g->n_question < QUESTION_WORDS_MAX; i++) {
        struct gword x;
        fill_word(&x, &w[i], q, 0);
        g->question_content[g->n_question] = (x.flags & W_CONTENT) != 0;
        g->question_keys[g->n_question++] = x.key;
    }
    g->question = cairn_strndup(q.p, q.len);
    if (!g->question)
        return cairn_fail(why, CAIRN_ENOMEM, "question");
    g->n_question_typed = typed_scan(q, 0, q.len, g->question_typed, CLAIM_TYPED_MAX, NULL);
    return CAIRN_OK;
}
static bool in_question(const struct grounding *g, uint64_t key)
{
    for (size_t i = 0; i < g->n_question; i++)
        if (g->question_keys[i] == key)
            return true;
    return false;
}

enum cairn_err grounding_open(struct grounding **out, const struct ground_source *sources, size_t n,
                              const struct ground_opts *o, struct cairn_why *why)
{
    *out = NULL;
    if (n > GROUND_SOURCES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "%zu sources to check against: at most %u, pass the best ones", n,
                          GROUND_SOURCES_MAX);
    for (size_t i = 0; i < n; i++) {
        if (sources[i].text.len > GROUND_SOURCE_BYTES_MAX)
            return cairn_fail(why, CAIRN_EFULL, "source %zu has %zu bytes: at most %u, split it", i + 1,
                              sources[i].text.len, GROUND_SOURCE_BYTES_MAX);
        size_t bad = cairn_utf8_invalid_at(sources[i].text.p, sources[i].text.len);
        if (bad != sources[i].text.len)
            return cairn_fail(why, CAIRN_EINVAL, "source %zu is not UTF-8 at byte %zu", i + 1, bad);
    }
    struct cairn_str question = o ? o->question : (struct cairn_str){0};
    if (question.len > GROUND_SOURCE_BYTES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "question of %zu bytes: at most %u", question.len,
                          GROUND_SOURCE_BYTES_MAX);
    if (cairn_utf8_invalid_at(question.p, question.len) != question.len)
        return cairn_fail(why, CAIRN_EINVAL, "the question is not UTF-8");
    struct grounding *g = cairn_calloc(1, sizeof *g);
    if (!g)
        return cairn_fail(why, CAIRN_ENOMEM, "grounding checker");
    const char *language = o && o->language ? o->language : "english";
    g->english = strcmp(language, "english") == 0 || strcmp(language, "en") == 0;
    g->support_min = o && o->support_min > 0 ? o->support_min : GROUND_SUPPORT_MIN;
    g->embedder = o ? o->embedder : NULL;
    g->baseline = o ? o->embed_baseline : 0;
    g->combiner = o && o->by_hand ? NULL : o && o->combiner ? o->combiner : combiner_shipped();
    g->stop = o ? o->stop : NULL;
    g->encoder = o && g->combiner ? o->encoder : NULL;
    g->looked_max = o && o->encoder_claims_max ? o->encoder_claims_max : GROUND_ENCODER_CLAIMS_MAX;
    g->n_sources = n;
    enum cairn_err err = cairn_analyzer_open(
        &g->analyzer, &(struct cairn_analyzer_opts){.language = language, .keep_stopwords = true}, why);
    if (err)
        goto done;
    g->cap_spans = 256;
    g->spans = cairn_malloc(g->cap_spans * sizeof *g->spans);
    g->sources = cairn_calloc(n ? n : 1, sizeof *g->sources);
    if (!g->spans || !g->sources) {
        err = cairn_fail(why, CAIRN_ENOMEM, "grounding checker for %zu sources", n);
        goto done;
    }
    if (!grow(&g->words, &g->cap_words, 0, sizeof *g->words) || /* there even when no source has a word */
        !grow(&g->sents, &g->cap_sents, 0, sizeof *g->sents) ||
        !grow(&g->typed, &g->cap_typed, 0, sizeof *g->typed)) {
        err = cairn_fail(why, CAIRN_ENOMEM, "grounding checker for %zu sources", n);
        goto done;
    }
    for (size_t i = 0; i < n && !err; i++) {
        g->sources[i].text = sources[i].text;
        g->sources[i].vector = sources[i].vector;
        err = cairn_stopped(g->stop, why);
        if (!err)
            err = read_source(g, (uint32_t)i, why);
    }
    if (!err)
        err = read_question(g, question, why);
    if (!err && g->english)
        err = read_opposites(g, why);
    if (!err)
        err = build_tables(g, why);
    if (!err && g->embedder) {
        g->dim = encoder_dim(g->embedder);
        g->scratch = cairn_malloc((CANDIDATES_MAX + 1) * (size_t)g->dim * sizeof(float));
        if (!g->scratch)
            err = cairn_fail(why, CAIRN_ENOMEM, "vectors of %u dimensions", g->dim);
    }
    if (err)
        goto done;
    *out = g;
    g = NULL;
done:
    grounding_close(g);
    return err;
}

void grounding_close(struct grounding *g)
{
    if (!g)
        return;
    cairn_analyzer_close(g->analyzer);
    cairn_free(g->sources);
    cairn_free(g->words);
    cairn_free(g->sents);
    cairn_free(g->typed);
    cairn_free(g->ids);
    cairn_free(g->idf);
    cairn_free(g->slot_of);
    cairn_free(g->marks);
    cairn_free(g->chain_head);
    cairn_free(g->chain_next);
    cairn_free(g->at_head);
    cairn_free(g->at_next);
    cairn_free(g->run);
    cairn_free(g->run_step);
    cairn_free(g->hit_list);
    cairn_free(g->hit);
    cairn_free(g->cover);
    cairn_free(g->anchors);
    cairn_free(g->vectors);
    cairn_free(g->scratch);
    cairn_free(g->question);
    cairn_free(g->spans);
    cairn_free(g);
}

enum cairn_err grounding_embed_baseline(struct encoder *e, float *out, struct cairn_why *why)
{
    static const char *const lines[6] = {
        "The printer on the second floor needs new toner.",
        "Glaciers move slowly under their own weight.",
        "Invoices are paid within thirty days of receipt.",
        "She learned to play the cello at the age of nine.",
        "The database is backed up every night.",
        "Tomatoes need plenty of sun and water.",
    };
    struct cairn_str texts[6];
    for (size_t i = 0; i < 6; i++)
        texts[i] = cairn_str_of(lines[i]);
    size_t dim = encoder_dim(e);
    float *v = cairn_malloc(6 * dim * sizeof *v);
    if (!v)
        return cairn_fail(why, CAIRN_ENOMEM, "vectors for the similarity baseline");
    enum cairn_err err = encoder_embed(e, texts, 6, v, NULL, why);
    if (!err) {
        double sum = 0;
        for (size_t i = 0; i < 6; i++)
            for (size_t j = i + 1; j < 6; j++) {
                double dot = 0, a = 0, b = 0;
                for (size_t k = 0; k < dim; k++) {
                    dot += (double)v[i * dim + k] * (double)v[j * dim + k];
                    a += (double)v[i * dim + k] * (double)v[i * dim + k];
                    b += (double)v[j * dim + k] * (double)v[j * dim + k];
                }
                sum += dot / fmax(sqrt(a * b), 1e-9);
            }
        *out = (float)fmin(fmax(sum / 15, 1e-4), 0.9);
    }
    cairn_free(v);
    return err;
}

/* ---- what is a claim
 * ---------------------------------------------------------------------------------------------------- */

static bool has_any(const char *s, const char *const *list)
{
    for (; *list; list++)
        if (strstr(s, *list))
            return true;
    return false;
}
static bool starts_any(const char *s, const char *const *list)
{
    for (; *list; list++)
        if (strncmp(s, *list, strlen(*list)) == 0)
            return true;
    return false;
}
/* Lower-case ASCII copy of the first bytes, citation marks and leading list or emphasis marks left out,
 * spaces joined. */
static size_t plain_start(struct cairn_str s, char *out, size_t max)
{
    size_t n = 0;
    bool space = true;
    for (size_t i = 0; i < s.len && n + 1 < max; i++) {
        uint32_t ids[1];
        size_t got, m = s.p[i] == '[' ? typed_citation(s, i, s.len, ids, 1, &got) : 0;
        if (m) {
            i += m - 1;
            continue;
        }
        unsigned char c = (unsigned char)s.p[i];
        if (c == 0xE2 && i + 2 < s.len && (unsigned char)s.p[i + 1] == 0x80 &&
            (unsigned char)s.p[i + 2] == 0x99) {
            c = '\'';
            i += 2;
        }
        if (c == ' ' || (c >= '\t' && c <= '\r')) {
            if (!space)
                out[n++] = ' ';
            space = true;
            continue;
        }
        if (n == 0 && strchr("*-_>\"'", c))
            continue;
        space = false;
        out[n++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : (char)c;
    }
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
    return n;
}

bool grounding_is_refusal(struct cairn_str sentence)
{
    static const char *const whole[] = {"not found",    "no answer",     "i don't know", "i do not know",
                                        "unanswerable", "not available", "n/a",          NULL};
    static const char *const inside[] = {"unable to answer",
                                         "cannot answer",
                                         "can't answer",
                                         "cannot be answered",
                                         "can't be answered",
                                         "cannot be determined",
                                         "not possible to answer",
                                         "cannot find",
                                         "can't find",
                                         "could not find",
                                         "couldn't find",
                                         "unable to find",
                                         "not found in the",
                                         "no information",
                                         "not enough information",
                                         "insufficient information",
                                         "do not have enough",
                                         "don't have enough",
                                         "do not have access",
                                         "don't have access",
                                         "do not have information",
                                         "don't have information",
                                         "unable to determine",
                                         "unable to provide",
                                         "cannot provide",
                                         NULL};
    static const char *const who[] = {
        "source",  "passage", "document", "context", "text", "information provided", "provided information",
        "excerpt", NULL};
    static const char *const fails[] = {"do not contain",   "does not contain", "don't contain",
                                        "doesn't contain",  "do not mention",   "does not mention",
                                        "don't mention",    "doesn't mention",  "do not provide",
                                        "does not provide", "don't provide",    "doesn't provide",
                                        "do not specify",   "does not specify", "doesn't specify",
                                        "not specified in", "do not say",       "does not say",
                                        "doesn't say",      "do not state",     "does not state",
                                        "doesn't state",    "do not include",   "does not include",
                                        "not mentioned in", "not stated in",    "not provided in",
                                        "no mention",       "do not address",   "does not address",
                                        "do not give",      "does not give",    NULL};
    char s[400];
    size_t n = plain_start(sentence, s, sizeof s);
    while (n && strchr(".!*\"'", s[n - 1]))
        s[--n] = '\0';
    for (size_t i = 0; whole[i]; i++)
        if (strcmp(s, whole[i]) == 0)
            return true;
    if (strncmp(s, "not found", 9) == 0 && (n < 40 || strchr(":;.-", s[9])))
        return true;
    return has_any(s, inside) || (has_any(s, who) && has_any(s, fails));
}

static const char *const greetings[] = {"hello",
                                        "hi!",
                                        "hi,",
                                        "hi there",
                                        "hey",
                                        "dear ",
                                        "thank you",
                                        "thanks",
                                        "sure",
                                        "certainly",
                                        "of course!",
                                        "absolutely!",
                                        "great question",
                                        "good question",
                                        "you're welcome",
                                        "best regards",
                                        "kind regards",
                                        "sincerely",
                                        NULL};
static const char *const meta[] = {"i hope this",
                                   "hope this helps",
                                   "let me know",
                                   "feel free to",
                                   "please let me",
                                   "if you have any",
                                   "if you need ",
                                   "i'd be happy",
                                   "i would be happy",
                                   "here is the answer",
                                   "here's the answer",
                                   "please note that this answer",
                                   "is there anything else",
                                   "here are the ",
                                   "here is a summary",
                                   "in summary:",
                                   "answer:",
                                   "sources:",
                                   "note:",
                                   "references:",
                                   NULL};

static size_t plain_words(const char *s, size_t n)
{
    size_t words = 0;
    bool in_word = false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool a = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80;
        words += a && !in_word;
        in_word = a || (in_word && c == '\'');
    }
    return words;
}

bool grounding_is_claim(struct cairn_str sentence)
{
    char s[400];
    size_t n = plain_start(sentence, s, sizeof s);
    if (!n)
        return false;
    size_t words = plain_words(s, n);
    if (!words)
        return false;
    bool digits = strpbrk(s, "0123456789") != NULL;
    if (sentence.len < sizeof s && s[n - 1] == '?')
        return false;
    if (s[0] == '#' && words <= 16)
        return false;
    if (sentence.len < sizeof s && s[n - 1] == ':' && !digits && words <= 40)
        return false; /* introduces a list; the items are the claims */
    if (n >= 3 && s[n - 1] == '*' && s[n - 2] == '*' && s[n - 3] == ':' && !digits)
        return false;
    if (words <= 2 && !digits &&
        starts_any(s, (const char *const[]){"yes", "no.", "no,", "ok", "okay", NULL}))
        return false;
    if (strcmp(s, "no") == 0)
        return false;
    if (words <= 14 && !digits && starts_any(s, greetings) && (words <= 4 || n < 48))
        return false;
    if (starts_any(s, meta) && (s[n - 1] == ':' || words <= 24) && !digits)
        return false;
    return !grounding_is_refusal(sentence);
}

/* ---- reading the claim
 * ---------------------------------------------------------------------------------------------------- */

static enum cairn_err read_claim(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                                 struct cairn_why *why)
{
    struct claim *c = &g->c;
    memset(c, 0, sizeof *c);
    g->n_doubts = 0;
    for (size_t i = start; i < end; i++) {
        uint32_t ids[8];
        size_t n = 0, m = text.p[i] == '[' ? typed_citation(text, i, end, ids, 8, &n) : 0;
        for (size_t k = 0; k < n; k++) {
            bool twice = false;
            for (size_t j = 0; j < c->n_cited; j++)
                twice = twice || c->cited[j] + 1 == ids[k];
            if (ids[k] == 0 || ids[k] > g->n_sources)
                c->cited_bad++;
            else if (!twice && c->n_cited < 8)
                c->cited[c->n_cited++] = ids[k] - 1;
        }
        i += m ? m - 1 : 0;
    }
    const struct cairn_word *w = NULL;
    size_t n = 0;
    struct cairn_str part = {text.p + start, end - start};
    enum cairn_err err = cairn_analyze(g->analyzer, part, &w, &n, why);
    if (err)
        return err;
    size_t skip_to = 0, at = start;
    for (size_t i = 0; i < n; i++) {
        size_t ws = start + w[i].start;
        for (; at < ws; at++) { /* words inside citation marks are not words of the claim */
            uint32_t ids[1];
            size_t got, m = text.p[at] == '[' ? typed_citation(text, at, end, ids, 1, &got) : 0;
            if (m) {
                skip_to = at + m;
                at = skip_to > ws ? ws : skip_to - 1;
                if (at >= ws)
                    break;
            }
        }
        if (ws < skip_to)
            continue;
        if (c->n_words == GROUND_CLAIM_WORDS_MAX) {
            c->cut = true;
            break;
        }
        struct gword *x = &c->words[c->n_words++];
        fill_word(x, &w[i], part, start);
        x->id = get_id(g, x->key);
    }
    mark_scopes(c->words, c->n_words, text);
    bool cut = false;
    c->n_typed = typed_scan(text, start, end, c->typed, CLAIM_TYPED_MAX, &cut);
    c->cut = c->cut || cut;

    /* slots: one per distinct content word outside values, then one per value */
    float absent = logf(((float)g->n_sents + 1) / 0.5f);
    for (size_t i = 0; i < c->n_words; i++) {
        struct gword *x = &c->words[i];
        if (!(x->flags & W_CONTENT))
            continue;
        bool inside = false;
        for (size_t k = 0; k < c->n_typed && !inside; k++)
            inside = c->typed[k].kind != TYPED_QUOTE && !(c->typed[k].flags & TYPED_WEAK) &&
                     x->start < c->typed[k].end && x->end > c->typed[k].start;
        if (inside)
            continue;
        size_t slot = SIZE_MAX;
        if (x->id != NONE && g->slot_of[x->id]) {
            slot = g->slot_of[x->id] - 1u;
        } else if (x->id == NONE) {
            for (size_t k = 0; k < i && slot == SIZE_MAX; k++)
                if (c->words[k].key == x->key && c->word_slot[k])
                    slot = c->word_slot[k] - 1u;
        }
        if (slot == SIZE_MAX) {
            if (c->n_slots == SLOTS_MAX) {
                c->cut = true;
                continue;
            }
            slot = c->n_slots++;
            c->weight[slot] = x->id == NONE ? absent : g->idf[x->id];
            c->slot_word[slot] = i;
            if (x->id != NONE)
                g->slot_of[x->id] = (uint16_t)(slot + 1);
            if (!in_question(g, x->key))
                set_add(&c->novel, slot);
        }
        c->word_slot[i] = (uint16_t)(slot + 1);
    }
    c->n_word_slots = c->n_slots;
    for (size_t k = 0; k < c->n_typed; k++) {
        if (c->typed[k].kind == TYPED_QUOTE || (c->typed[k].flags & TYPED_WEAK) || c->n_slots == SLOTS_MAX)
            continue;
        c->slot_word[c->n_slots] = SIZE_MAX;
        c->weight[c->n_slots] = TYPED_WEIGHT;
        set_add(&c->novel, c->n_slots);
        c->typed_slot[k] = (uint16_t)(++c->n_slots);
    }
    for (size_t i = 0; i < c->n_slots; i++) {
        c->total += c->weight[i];
        if (set_has(&c->novel, i))
            c->total_novel += c->weight[i];
    }
    /* names: capitalised runs; a capital at the start of the sentence proves nothing by itself */
    size_t caps = 0, contents = 0;
    for (size_t i = 0; i < c->n_words; i++)
        if (c->words[i].flags & W_CONTENT) {
            contents++;
            caps += (c->words[i].flags & W_CAP) != 0;
        }
    bool title_case = contents >= 4 && caps * 10 >= contents * 8;
    for (size_t i = 0; i < c->n_words && !title_case && c->n_names < CLAIM_NAMES_MAX;) {
        if (!(c->words[i].flags & W_CAP) || !c->word_slot[i]) {
            i++;
            continue;
        }
        size_t e = i + 1;
        while (e < c->n_words && (c->words[e].flags & W_CAP) && c->word_slot[e] &&
               c->words[e].start - c->words[e - 1].end <= 2 &&
               !memchr(text.p + c->words[e - 1].end, ',', c->words[e].start - c->words[e - 1].end) &&
               !memchr(text.p + c->words[e - 1].end, '\n', c->words[e].start - c->words[e - 1].end))
            e++;
        bool first = i == 0;
        if (!first) { /* after a list marker, a colon or an opening quote it is a sentence start too */
            uint32_t p = c->words[i].start;
            while (p > c->words[i - 1].end && (text.p[p - 1] == ' ' || text.p[p - 1] == '*'))
                p--;
            char b = p > 0 ? text.p[p - 1] : '\0';
            first =
                b == ':' || b == '\n' || b == '"' || b == '.' || b == '-' || b == '(' || b == ')' || b == '/';
        }
        if (!first || e - i > 1 || (c->words[i].flags & W_ACRONYM))
            c->names[c->n_names++] = (struct name){(uint32_t)i, (uint32_t)e};
        i = e;
    }
    return CAIRN_OK;
}

static bool typed_match(const struct typed *a, struct cairn_str claim_text, const struct typed *b,
                        struct cairn_str text)
{
    switch (a->kind) {
    case TYPED_NUMBER:
        return typed_number_match(a, b);
    case TYPED_DATE:
        return typed_date_match(a, b);
    case TYPED_TIME:
        return typed_time_match(a, b);
    case TYPED_IDENT: {
        size_t at;
        if (b->kind == TYPED_QUOTE)
            return false;
        return typed_find_ident((struct cairn_str){text.p + b->start, b->end - b->start},
                                (struct cairn_str){claim_text.p + a->start, a->end - a->start}, &at);
    }
    default:
        return false;
    }
}

/* Sets hit[] and cover[] for every source sentence. */
static void align(struct grounding *g, struct cairn_str text)
{
    struct claim *c = &g->c;
    g->n_hit = 0;
    for (size_t s = 0; s < g->n_sents; s++) {
        struct gsent *t = &g->sents[s];
        struct set hit = {{0}};
        bool any = false;
        for (uint32_t i = t->w0; i < t->w1; i++) {
            uint16_t slot = g->slot_of[g->words[i].id];
            if (slot) {
                set_add(&hit, slot - 1u);
                any = true;
            }
        }
        struct cairn_str whole = g->sources[t->source].text;
        for (size_t k = 0; k < c->n_typed; k++) {
            if (!c->typed_slot[k])
                continue;
            if (c->typed[k].kind == TYPED_IDENT) {
                size_t at;
                if (typed_find_ident(
                        (struct cairn_str){whole.p + t->start, t->end - t->start},
                        (struct cairn_str){text.p + c->typed[k].start, c->typed[k].end - c->typed[k].start},
                        &at)) {
                    set_add(&hit, c->typed_slot[k] - 1u);
                    any = true;
                }
                continue;
            }
            for (uint32_t j = t->t0; j < t->t1; j++)
                if (typed_match(&c->typed[k], text, &g->typed[j], whole)) {
                    set_add(&hit, c->typed_slot[k] - 1u);
                    any = true;
                    break;
                }
        }
        g->hit[s] = hit;
        if (any)
            g->hit_list[g->n_hit++] = (uint32_t)s;
        g->cover[s] = any && c->total > 0 ? set_weight(c, &hit, NULL) / c->total : 0;
    }
    for (size_t i = 0; i < c->n_words; i++)
        if (c->words[i].id != NONE)
            g->slot_of[c->words[i].id] = 0;
}

/* ---- features
 * -------------------------------------------------------------------------------------------------------------
 */

static void flag(struct finding *d, const char *kind, size_t start, size_t end, bool contradiction)
{
    for (size_t i = 0; i < d->n_flags; i++)
        if (d->flags[i].kind == kind && d->flags[i].start == start)
            return;
    if (d->n_flags < GROUND_FLAGS_MAX)
        d->flags[d->n_flags++] = (struct ground_flag){kind, start, end, contradiction, 1};
}
static const char *typed_flag_kind(const struct typed *t)
{
    switch (t->kind) {
    case TYPED_DATE:
        return "date";
    case TYPED_TIME:
        return "time";
    case TYPED_IDENT:
        return "identifier";
    case TYPED_QUOTE:
        return "quote";
    default:
        return t->flags & TYPED_YEAR ? "date" : "number";
    }
}

/* Copied runs: words of the claim found in the same order, exactly (case apart). */
static void copied_runs(const struct grounding *g, uint64_t mask, struct finding *d)
{
    const struct claim *c = &g->c;
    size_t n = c->n_words, longest = 0;
    bool in3[GROUND_CLAIM_WORDS_MAX] = {0}, in8[GROUND_CLAIM_WORDS_MAX] = {0};
    d->run_source = NONE;
    for (size_t i = 0; i + 2 < n; i++) {
        size_t h = mix(c->words[i].raw, c->words[i + 1].raw, c->words[i + 2].raw) & (g->chain_cap - 1);
        uint32_t p = g->chain_head[h];
        for (unsigned steps = 0; p != NONE && steps < CHAIN_STEPS_MAX; steps++, p = g->chain_next[p]) {
            uint32_t s = 0;
            while (s + 1 < g->n_sources && g->sources[s].w1 <= p)
                s++;
            if (!((mask >> s) & 1) || g->words[p].raw != c->words[i].raw)
                continue;
            const struct gsource *src = &g->sources[s];
            if (i && p > src->w0 && g->words[p - 1].raw == c->words[i - 1].raw)
                continue; /* seen from an earlier start */
            size_t len = 0;
            while (i + len < n && p + len < src->w1 && g->words[p + len].raw == c->words[i + len].raw)
                len++;
            for (size_t k = 0; k < len; k++) {
                in3[i + k] = in3[i + k] || len >= 3;
                in8[i + k] = in8[i + k] || len >= 8;
            }
            if (len > longest) {
                longest = len;
                d->run_source = s;
                d->run_start = g->words[p].start;
                d->run_end = g->words[p + len - 1].end;
                /* a copy that leaves out the negation before it is no proof */
                bool negated = false;
                for (uint32_t b = p; b > src->w0 && p - b < 4; b--) {
                    uint32_t from = g->words[b - 1].end, to = g->words[b].start;
                    bool over = false; /* a sentence or line that ended before reaches no further */
                    for (uint32_t k = from; k < to; k++)
                        over = over || strchr(".!?\n", src->text.p[k]) != NULL;
                    if (over)
                        break;
                    negated = negated || (g->words[b - 1].classes & WORD_NEGATOR) != 0;
                }
                d->verbatim = len == n && n >= 3 && !negated;
            }
        }
    }
    size_t n3 = 0, n8 = 0;
    for (size_t i = 0; i < n; i++) {
        n3 += in3[i];
        n8 += in8[i];
    }
    d->f[GF_RUN3] = n ? (float)n3 / (float)n : 0;
    d->f[GF_RUN8] = n ? (float)n8 / (float)n : 0;
}

/* Too short for a run of words ("Questions: help@example.org"): is it in a source to the byte? */
static void copied_bytes(const struct grounding *g, uint64_t mask, struct cairn_str text, size_t start,
                         size_t end, struct finding *d)
{
    while (start < end && (unsigned char)text.p[start] <= ' ')
        start++;
    while (end > start && (unsigned char)text.p[end - 1] <= ' ')
        end--;
    if (g->c.n_words >= 3 || end - start < COPIED_BYTES_MIN)
        return;
    for (uint32_t s = 0; s < g->n_sources && !d->verbatim; s++) {
        const char *p =
            (mask >> s) & 1 && g->sources[s].text.len
                ? memmem(g->sources[s].text.p, g->sources[s].text.len, text.p + start, end - start)
                : NULL;
        if (!p)
            continue;
        d->verbatim = true;
        d->run_source = s;
        d->run_start = (size_t)(p - g->sources[s].text.p);
        d->run_end = d->run_start + (end - start);
    }
}

/* Sums, differences and ratios of two values of the evidence: "5 more", "in total 12". */
static bool derived(const struct grounding *g, const struct typed *t, uint32_t lo, uint32_t hi)
{
    const struct claim *c = &g->c;
    static const char *const words[] = {"total", "sum",   "together", "combined", "difference", "more",
                                        "fewer", "less",  "twice",    "double",   "half",       "longer",
                                        "older", "later", "after",    "between"};
    bool said = false;
    for (size_t i = 0; i < c->n_words && !said; i++)
        for (size_t k = 0; k < sizeof words / sizeof words[0] && !said; k++) {
            uint64_t raw = 1469598103934665603ULL;
            for (const char *p = words[k]; *p; p++)
                raw = (raw ^ (unsigned char)*p) * 1099511628211ULL;
            said = c->words[i].raw == (uint32_t)(raw ^ (raw >> 32));
        }
    if (!said || t->kind != TYPED_NUMBER || lo == NONE)
        return false;
    for (uint32_t a = g->sents[lo].t0; a < g->sents[hi].t1; a++)
        for (uint32_t b = g->sents[lo].t0; b < g->sents[hi].t1; b++) {
            const struct typed *x = &g->typed[a], *y = &g->typed[b];
            if (a == b || x->kind != TYPED_NUMBER || y->kind != TYPED_NUMBER)
                continue;
            struct typed r = *x;
            r.alt = NAN;
            const double v[3] = {x->value + y->value, fabs(x->value - y->value),
                                 y->value != 0 ? x->value / y->value : x->value};
            for (int k = 0; k < 3; k++) {
                r.value = v[k];
                if (k == 2)
                    r.dim = DIM_NONE;
                if (typed_number_match(t, &r))
                    return true;
            }
        }
    return false;
}

static bool in_range(const struct grounding *g, uint32_t sent, uint64_t mask)
{
    return (mask >> g->sents[sent].source) & 1;
}

/* [*s0, *s1) has every sentence of the sources in mask: one source's own, else all. */
static void sents_of(const struct grounding *g, uint64_t mask, uint32_t *s0, uint32_t *s1)
{
    *s0 = 0;
    *s1 = (uint32_t)g->n_sents;
    if (mask && !(mask & (mask - 1))) {
        const struct gsource *src = &g->sources[__builtin_ctzll(mask)];
        *s0 = src->s0;
        *s1 = src->s1;
    }
}
static bool same_kind(const struct typed *t, const struct typed *b)
{
    if (t->kind == TYPED_NUMBER)
        return typed_number_comparable(t, b);
    if (t->kind == TYPED_DATE)
        return b->kind == TYPED_DATE && !t->weekday == !b->weekday && !t->month == !b->month;
    return t->kind == b->kind;
}
static bool claimed(const struct grounding *g, struct cairn_str text, const struct typed *b,
                    struct cairn_str source)
{
    for (size_t m = 0; m < g->c.n_typed; m++)
        if (typed_match(&g->c.typed[m], text, b, source))
            return true;
    return false;
}

/* A value that stands with other words in the sources: some word of the claim occurs only in sentences that
 * give a value of this kind, and never this one ("part-time ... 25 days" where the part-time sentence says
 * 15). */
static bool swapped(const struct grounding *g, uint64_t mask, const struct set *everywhere,
                    struct cairn_str text, struct finding *d)
{
    const struct claim *c = &g->c;
    bool any = false;
    uint32_t s0, s1;
    sents_of(g, mask, &s0, &s1);
    for (size_t k = 0; k < c->n_typed; k++) {
        const struct typed *t = &c->typed[k];
        if (!c->typed_slot[k] || t->kind == TYPED_IDENT || !set_has(everywhere, c->typed_slot[k] - 1u))
            continue;
        for (size_t w = 0; w < c->n_word_slots; w++) {
            if (!set_has(everywhere, w))
                continue;
            size_t with = 0, against = 0;
            for (uint32_t s = s0; s < s1 && with <= SWAPPED_SENTENCES_MAX && with == against; s++) {
                if (!in_range(g, s, mask) || !set_has(&g->hit[s], w))
                    continue;
                with++;
                bool other = false;
                for (uint32_t j = g->sents[s].t0;
                     j < g->sents[s].t1 && !set_has(&g->hit[s], c->typed_slot[k] - 1u); j++) {
                    const struct typed *b = &g->typed[j];
                    other = other || (same_kind(t, b) && !(b->flags & TYPED_WEAK) &&
                                      !claimed(g, text, b, g->sources[g->sents[s].source].text));
                }
                against += other && g->cover[s] >= SWAPPED_COVER_MIN;
            }
            if (with && with == against && with <= SWAPPED_SENTENCES_MAX) {
                flag(d, typed_flag_kind(t), t->start, t->end, true);
                flag(d, "binding", c->words[c->slot_word[w]].start, c->words[c->slot_word[w]].end, true);
                d->contradiction = fmaxf(d->contradiction, 0.6f);
                any = true;
                break;
            }
        }
    }
    return any;
}

/* Does y stand among w0..w1 where word i stands in the claim: beside the same content word, not just
 * somewhere in a sentence that speaks of much? */
static bool same_place(const struct claim *c, size_t i, const struct gword *w0, const struct gword *y,
                       const struct gword *w1)
{
    for (int side = -1; side <= 1; side += 2) {
        const struct gword *a = NULL, *b = NULL;
        for (size_t k = i; side < 0 ? k-- > 0 : ++k < c->n_words;)
            if (c->words[k].flags & W_CONTENT) {
                a = &c->words[k];
                break;
            }
        for (const struct gword *z = y; side < 0 ? z-- > w0 : ++z < w1;)
            if (z->flags & W_CONTENT) {
                b = z;
                break;
            }
        if (a && b && a->key == b->key)
            return true;
    }
    return false;
}

struct polarity {
    int negation, quantity, direction; /* word of the claim + 1, or 0 */
};
static struct polarity compare_polarity(struct grounding *g, uint32_t lo, uint32_t hi)
{
    struct claim *c = &g->c;
    struct polarity r = {0, 0, 0};
    const struct gword *w0 = &g->words[g->sents[lo].w0], *w1 = &g->words[g->sents[hi].w1];
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *x = &c->words[i];
        if (!(x->flags & W_CONTENT) || (x->flags & W_DIGIT))
            continue;
        bool here = false, same_neg = false, all = false, some = false, must = false, may = false,
             plain = false;
        for (const struct gword *y = w0; x->id != NONE && y < w1; y++) {
            if (y->id != x->id)
                continue;
            here = true;
            same_neg = same_neg || ((y->scope ^ x->scope) & SCOPE_NEGATED) == 0 ||
                       ((x->scope & SCOPE_NEGATED ? y : x)->scope & SCOPE_UNSURE);
            all = all || (y->scope & SCOPE_ALL);
            some = some || (y->scope & SCOPE_SOME);
            must = must || (y->scope & SCOPE_MUST);
            may = may || (y->scope & SCOPE_MAY);
            plain = plain || !(y->scope & (SCOPE_ALL | SCOPE_SOME | SCOPE_MUST | SCOPE_MAY));
        }
        if (here && !same_neg && !r.negation)
            r.negation = (int)i + 1;
        if (here && !plain && !r.quantity &&
            (((x->scope & SCOPE_ALL) && some && !all) || ((x->scope & SCOPE_SOME) && all && !some) ||
             ((x->scope & SCOPE_MUST) && may && !must) || ((x->scope & SCOPE_MAY) && must && !may)))
            r.quantity = (int)i + 1;
    }
    /* opposites: the claim's side is missing in the evidence and the other side is there */
    for (size_t i = 0; i < c->n_words && !r.direction; i++) {
        uint64_t key = c->words[i].key;
        for (size_t k = 0; k < g->n_opposites && !r.direction; k++) {
            if (g->opposite_keys[k] != key)
                continue;
            uint64_t other = g->opposite_keys[k ^ 1];
            if (other == key)
                continue;
            bool mine = false, theirs = false, both = false;
            uint32_t other_id = get_id(g, other);
            if (other_id == NONE)
                continue;
            const struct gword *y_other = NULL;
            for (const struct gword *y = w0; y < w1; y++) {
                mine = mine || y->key == key;
                if (y->id == other_id && same_place(c, i, w0, y, w1)) {
                    theirs = true;
                    y_other = y;
                }
            }
            for (size_t j = 0; j < c->n_words; j++)
                both = both || c->words[j].key == other;
            /* "not allowed" against "forbidden" is agreement */
            if (theirs && !mine && !both && ((y_other->scope ^ c->words[i].scope) & SCOPE_NEGATED) == 0)
                r.direction = (int)i + 1;
        }
    }
    return r;
}

/* How much of a source sentence the claim repeats. Close to 1 the claim is that sentence, perhaps with a word
 * changed; far below, the two may differ in a word because they say different things. */
static float repeated(const struct grounding *g, uint32_t sent)
{
    const struct claim *c = &g->c;
    size_t n = 0, both = 0;
    for (uint32_t w = g->sents[sent].w0; w < g->sents[sent].w1; w++) {
        if (!(g->words[w].flags & W_CONTENT))
            continue;
        bool in = false;
        for (size_t i = 0; i < c->n_words && !in; i++)
            in = c->words[i].id == g->words[w].id;
        n++;
        both += in;
    }
    return n ? (float)both / (float)n : 0;
}

/* One look of a claim at a set of sources. */
struct look {
    struct grounding *g;
    const struct claim *c;
    struct cairn_str text;
    uint64_t mask;
    struct finding *d;
    uint32_t s0, s1; /* the sentences of these sources, and perhaps others: see in_range */
    float best;      /* cover of the best sentence, `at` */
    uint32_t at;
};

/* The best sentence, the best two neighbours, and what stands anywhere. */
static void find_windows(struct look *l)
{
    const struct grounding *g = l->g;
    const struct claim *c = l->c;
    float *f = l->d->f, best2 = 0, novel = 0;
    uint32_t at2 = NONE;
    l->at = NONE;
    for (uint32_t s = l->s0; s < l->s1; s++) {
        if (!in_range(g, s, l->mask) || g->cover[s] <= 0)
            continue;
        set_or(&l->d->everywhere, &g->hit[s]);
        if (g->cover[s] > l->best) {
            l->best = g->cover[s];
            l->at = s;
        }
        struct set pair = g->hit[s];
        bool two = s + 1 < g->n_sents && g->sents[s + 1].source == g->sents[s].source;
        if (two)
            set_or(&pair, &g->hit[s + 1]);
        float v = set_weight(c, &pair, NULL) / c->total;
        if (v > best2 + 1e-6f) {
            best2 = v;
            at2 = s;
        }
        if (c->total_novel > 0)
            novel = fmaxf(novel, set_weight(c, &pair, &c->novel) / c->total_novel);
    }
    if (l->at != NONE) {
        l->d->lo = l->d->hi = l->at;
        if (best2 > l->best + 0.1f && at2 != NONE) {
            l->d->lo = at2;
            l->d->hi =
                at2 + 1 < g->n_sents && g->sents[at2 + 1].source == g->sents[at2].source ? at2 + 1 : at2;
        }
    }
    f[GF_COV1] = l->best;
    f[GF_COV2] = fmaxf(best2, l->best);
    f[GF_NOVEL] = c->total_novel > 0 ? novel : f[GF_COV2];
    f[GF_CTX] = c->total > 0 ? set_weight(c, &l->d->everywhere, NULL) / c->total : 0;
    f[GF_LENGTH] = 1 - expf(-(float)c->n_slots / 10);
}

static void find_pairs(struct look *l)
{
    const struct claim *c = l->c;
    size_t pairs = 0, found = 0;
    for (size_t i = 0; i + 1 < c->n_words; i++) {
        pairs++;
        if (c->words[i].id != NONE && c->words[i + 1].id != NONE)
            found += (mark_get(l->g, mix(c->words[i].id, c->words[i + 1].id, MARK_PAIR)) & l->mask) != 0;
    }
    l->d->f[GF_BIGRAM] = pairs ? (float)found / (float)pairs : l->d->f[GF_COV1];
}

/* Content words that the sources lack; one that begins like a word of theirs is half there. */
static void find_lacking(struct look *l)
{
    const struct claim *c = l->c;
    float absent = logf(((float)l->g->n_sents + 1) / 0.5f), unc = 0, unc_max = 0;
    for (size_t k = 0; k < c->n_word_slots; k++) {
        if (set_has(&l->d->everywhere, k) || !set_has(&c->novel, k))
            continue;
        uint64_t b = beginning_key(l->text, &c->words[c->slot_word[k]]);
        bool near = b && (mark_get(l->g, b) & l->mask);
        if (near)
            set_add(&l->d->near, k);
        unc += near ? 0.4f : 1;
        unc_max = fmaxf(unc_max, (near ? 0.4f : 1) * c->weight[k] / absent);
    }
    l->d->f[GF_UNC_MAX] = unc_max;
    l->d->f[GF_UNC_N] = 1 - expf(-unc / 3);
}

static void check_quote(struct look *l, const struct typed *t)
{
    const struct grounding *g = l->g;
    struct cairn_str quote = {l->text.p + t->start, t->end - t->start};
    size_t start, end;
    bool ok = g->question && typed_find_quote(cairn_str_of(g->question), quote, &start, &end);
    for (uint32_t s = 0; s < g->n_sources && !ok; s++)
        ok = ((l->mask >> s) & 1) && typed_find_quote(g->sources[s].text, quote, &start, &end);
    if (!ok) {
        l->d->f[GF_QUOTE] = 1;
        flag(l->d, "quote", t->start, t->end, false);
    }
}

/* The day in one place, the year in another. */
static bool date_in_parts(const struct look *l, const struct typed *t)
{
    const struct grounding *g = l->g;
    struct typed day = *t, year = *t;
    day.year = 0;
    year.month = year.day = year.alt_month = year.alt_day = 0;
    bool a = false, b = false;
    for (uint32_t s = l->s0; s < l->s1 && !(a && b); s++)
        for (uint32_t j = g->sents[s].t0; in_range(g, s, l->mask) && j < g->sents[s].t1; j++) {
            a = a ||
                (g->typed[j].kind == TYPED_DATE && !g->typed[j].year && typed_date_match(&day, &g->typed[j]));
            b = b || typed_date_match(&year, &g->typed[j]);
        }
    return a && b;
}

/* The evidence has a value of this kind that the claim does not give. */
static bool another_there(const struct look *l, const struct typed *t)
{
    const struct grounding *g = l->g;
    if (l->d->lo == NONE)
        return false;
    struct cairn_str source = g->sources[g->sents[l->d->lo].source].text;
    for (uint32_t j = g->sents[l->d->lo].t0; j < g->sents[l->d->hi].t1; j++) {
        const struct typed *b = &g->typed[j];
        if (same_kind(t, b) && !(b->flags & TYPED_WEAK) && !claimed(g, l->text, b, source))
            return true;
    }
    return false;
}

/* lo, hi: the evidence and its neighbours. */
static void check_value(struct look *l, size_t k, uint32_t lo, uint32_t hi)
{
    const struct grounding *g = l->g;
    const struct typed *t = &l->c->typed[k];
    size_t slot = l->c->typed_slot[k] - 1u;
    bool here = set_has(&l->d->everywhere, slot), close = false;
    for (uint32_t s = lo; l->d->lo != NONE && s <= hi; s++)
        close = close || set_has(&g->hit[s], slot);
    if (!here && t->kind == TYPED_DATE && t->year && t->month)
        here = close = date_in_parts(l, t);
    bool asked = false;
    for (size_t j = 0; j < g->n_question_typed && !here; j++)
        asked = asked || typed_match(t, l->text, &g->question_typed[j], cairn_str_of(g->question));
    if (!here && (asked || derived(g, t, l->d->lo, l->d->hi)))
        return;
    bool conflict = !close && l->best >= EDIT_COVER_MIN && another_there(l, t);
    if (!here) {
        l->d->f[GF_NUM] = 1;
        flag(l->d, typed_flag_kind(t), t->start, t->end, conflict);
    } else if (!close) {
        l->d->f[GF_NUM_AWAY] = 1;
        if (conflict)
            flag(l->d, typed_flag_kind(t), t->start, t->end, true);
    }
    if (conflict) {
        l->d->f[GF_CONFLICT] = 1;
        l->d->contradiction = fmaxf(l->d->contradiction, here ? 0.5f : 0.4f + 0.5f * l->best);
    }
}

static void check_values(struct look *l)
{
    const struct grounding *g = l->g;
    uint32_t lo = l->d->lo, hi = l->d->hi;
    if (lo != NONE) {
        if (lo > 0 && g->sents[lo - 1].source == g->sents[lo].source)
            lo--;
        if (hi + 1 < g->n_sents && g->sents[hi + 1].source == g->sents[hi].source)
            hi++;
    }
    for (size_t k = 0; k < l->c->n_typed; k++) {
        if (l->c->typed[k].kind == TYPED_QUOTE)
            check_quote(l, &l->c->typed[k]);
        else if (l->c->typed_slot[k])
            check_value(l, k, lo, hi);
    }
    l->d->f[GF_SWAPPED] = swapped(l->g, l->mask, &l->d->everywhere, l->text, l->d) ? 1 : 0;
}

static void check_names(struct look *l)
{
    const struct grounding *g = l->g;
    const struct claim *c = l->c;
    for (size_t k = 0; k < c->n_names; k++) {
        const struct name *m = &c->names[k];
        size_t missing = 0, n = m->w1 - m->w0;
        bool last_missing = false, alias = false;
        for (uint32_t i = m->w0; i < m->w1; i++) {
            const struct gword *w = &c->words[i];
            bool there = set_has(&l->d->everywhere, c->word_slot[i] - 1u) || in_question(g, w->key);
            uint64_t b = beginning_key(l->text, w);
            if (!there && b && (mark_get(g, b) & l->mask))
                there = true; /* German, Germany */
            if (!there && (w->flags & W_ACRONYM))
                there = (mark_get(g, acronym_initials_key(l->text, w)) & l->mask) != 0;
            missing += !there;
            last_missing = !there;
        }
        uint64_t ik = initials_key(l->text, &c->words[m->w0], n);
        if (ik)
            alias = (mark_get(g, mix(ik, 0, MARK_ACRONYM)) & l->mask) != 0;
        if (!alias && (missing * 2 > n || (last_missing && missing))) {
            l->d->f[GF_NAME] = 1;
            flag(l->d, "name", c->words[m->w0].start, c->words[m->w1 - 1].end, false);
        }
    }
}

/* Against every near-best evidence sentence: one that agrees is enough. */
static void check_polarity(struct look *l)
{
    struct grounding *g = l->g;
    struct polarity worst = compare_polarity(g, l->at, l->at);
    unsigned looked = 0;
    for (uint32_t s = l->s0;
         s < l->s1 && looked < CANDIDATES_MAX && (worst.negation || worst.quantity || worst.direction); s++) {
        if (!in_range(g, s, l->mask) || g->cover[s] < 0.85f * l->best || s == l->at)
            continue;
        looked++;
        struct polarity p = compare_polarity(g, s, s);
        if (!p.negation)
            worst.negation = 0;
        if (!p.quantity)
            worst.quantity = 0;
        if (!p.direction)
            worst.direction = 0;
    }
    const struct {
        const char *kind;
        int word; /* + 1; 0: none */
        enum ground_feature feature;
        float from, by_cover; /* of the contradiction */
    } list[] = {
        {"negation",   worst.negation,  GF_POLARITY,  0.3f, 0.6f},
        {"quantifier", worst.quantity,  GF_QUANT,     0.2f, 0.5f},
        {"direction",  worst.direction, GF_DIRECTION, 0.2f, 0.6f}
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        if (!list[i].word)
            continue;
        const struct gword *w = &l->c->words[list[i].word - 1];
        l->d->f[list[i].feature] = 1;
        flag(l->d, list[i].kind, w->start, w->end, true);
        l->d->contradiction = fmaxf(l->d->contradiction, list[i].from + list[i].by_cover * l->best);
    }
}

static void find_repeated(struct look *l)
{
    const struct grounding *g = l->g;
    unsigned compared = 0;
    for (uint32_t s = l->s0; s < l->s1 && compared < 2 * CANDIDATES_MAX; s++)
        if (in_range(g, s, l->mask) && g->cover[s] >= EDIT_COVER_MIN) {
            l->d->edit = fmaxf(l->d->edit, repeated(g, s));
            compared++;
        }
}

/* Do anchors a and b stand in one sentence or in neighbours? */
static bool bound(const struct look *l, size_t a, size_t b)
{
    const struct grounding *g = l->g;
    for (uint32_t s = l->s0; s < l->s1; s++) {
        uint32_t m = g->anchors[s];
        if (s && g->sents[s - 1].source == g->sents[s].source)
            m |= g->anchors[s - 1];
        if (s + 1 < g->n_sents && g->sents[s + 1].source == g->sents[s].source)
            m |= g->anchors[s + 1];
        if (((g->anchors[s] >> a) & 1) && ((m >> b) & 1))
            return true;
    }
    return false;
}

/* Values and names that the sources have, but never together. */
static void check_binding(struct look *l)
{
    struct grounding *g = l->g;
    const struct claim *c = l->c;
    size_t slots[32], spans[32], n = 0, values;
    for (size_t k = 0; k < c->n_typed && n < 16; k++)
        if (c->typed_slot[k] && set_has(&l->d->everywhere, c->typed_slot[k] - 1u)) {
            spans[n] = k;
            slots[n++] = c->typed_slot[k] - 1u;
        }
    values = n;
    for (size_t k = 0; k < c->n_names && n < 32; k++) {
        size_t slot = c->word_slot[c->names[k].w1 - 1] - 1u;
        if (set_has(&l->d->everywhere, slot))
            slots[n++] = slot;
    }
    if (n < 2 || !values)
        return;
    for (uint32_t s = l->s0; s < l->s1; s++) {
        uint32_t m = 0;
        for (size_t k = 0; k < n && in_range(g, s, l->mask); k++)
            m |= (uint32_t)set_has(&g->hit[s], slots[k]) << k;
        g->anchors[s] = m;
    }
    for (size_t a = 0; a < values; a++)
        for (size_t b = a + 1; b < n; b++)
            if (slots[a] != slots[b] && !bound(l, a, b)) {
                l->d->f[GF_BINDING] = 1;
                flag(l->d, "binding", c->typed[spans[a]].start, c->typed[spans[a]].end, false);
                return;
            }
}

static void find(struct grounding *g, struct cairn_str text, size_t start, size_t end, uint64_t mask,
                 struct finding *d)
{
    struct look l = {.g = g, .c = &g->c, .text = text, .mask = mask, .d = d};
    memset(d, 0, sizeof *d);
    d->lo = d->hi = NONE;
    sents_of(g, mask, &l.s0, &l.s1);
    find_windows(&l);
    find_pairs(&l);
    copied_runs(g, mask, d);
    if (!d->verbatim)
        copied_bytes(g, mask, text, start, end, d);
    find_lacking(&l);
    check_values(&l);
    check_names(&l);
    if (d->lo != NONE && g->english && l.best >= POLARITY_COVER_MIN)
        check_polarity(&l);
    find_repeated(&l);
    check_binding(&l);
    if (d->verbatim)
        flag(d, "verbatim", start, end, false);
}

/* ---- embedding support
 * -------------------------------------------------------------------------------------------------------- */

/* Cosines of the claim with the sentences of the best lexical cover; cosine[source] the best per source, -1
 * unknown. */
static enum cairn_err embed_support(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                                    float cosine[GROUND_SOURCES_MAX], struct cairn_why *why)
{
    for (size_t i = 0; i < GROUND_SOURCES_MAX; i++)
        cosine[i] = -1;
    if (!g->embedder || !g->n_sents)
        return CAIRN_OK;
    enum cairn_err err;
    if (g->baseline <= 0) {
        err = grounding_embed_baseline(g->embedder, &g->baseline, why);
        if (err)
            return err;
    }
    uint32_t best[CANDIDATES_MAX];
    size_t n = 0;
    for (uint32_t s = 0; s < g->n_sents; s++) {
        if (g->sents[s].w1 - g->sents[s].w0 < 3)
            continue;
        size_t k = n < CANDIDATES_MAX ? n++ : CANDIDATES_MAX;
        if (k == CANDIDATES_MAX) {
            if (g->cover[s] <= g->cover[best[CANDIDATES_MAX - 1]])
                continue;
            k--;
        }
        while (k && g->cover[best[k - 1]] < g->cover[s]) {
            best[k] = best[k - 1];
            k--;
        }
        best[k] = s;
    }
    struct cairn_str texts[CANDIDATES_MAX + 1];
    uint32_t which[CANDIDATES_MAX];
    size_t m = 0;
    texts[0] = (struct cairn_str){text.p + start, end - start};
    for (size_t i = 0; i < n; i++) {
        const struct gsent *t = &g->sents[best[i]];
        if (t->vector == NONE && g->n_vectors + m < VECTORS_MAX) {
            which[m++] = best[i];
            texts[m] = (struct cairn_str){g->sources[t->source].text.p + t->start, t->end - t->start};
        }
    }
    err = encoder_embed(g->embedder, texts, m + 1, g->scratch, g->stop, why);
    if (err)
        return err;
    size_t dim = g->dim;
    for (size_t i = 0; i <= m; i++) {
        float *v = g->scratch + i * dim;
        double sum = 0;
        for (size_t k = 0; k < dim; k++)
            sum += (double)v[k] * (double)v[k];
        float scale = (float)(1 / fmax(sqrt(sum), 1e-9));
        for (size_t k = 0; k < dim; k++)
            v[k] *= scale;
    }
    for (size_t i = 0; i < m; i++) {
        if (g->n_vectors == g->cap_vectors) {
            size_t cap = g->cap_vectors ? g->cap_vectors * 2 : 64;
            float *p = cairn_reallocarray(g->vectors, cap * dim, sizeof *p);
            if (!p)
                return cairn_fail(why, CAIRN_ENOMEM, "vectors of %zu source sentences", cap);
            g->vectors = p;
            g->cap_vectors = cap;
        }
        memcpy(g->vectors + g->n_vectors * dim, g->scratch + (i + 1) * dim, dim * sizeof(float));
        g->sents[which[i]].vector = (uint32_t)g->n_vectors++;
    }
    for (size_t i = 0; i < n; i++) {
        const struct gsent *t = &g->sents[best[i]];
        if (t->vector == NONE)
            continue;
        const float *v = g->vectors + t->vector * dim;
        double dot = 0;
        for (size_t k = 0; k < dim; k++)
            dot += (double)v[k] * (double)g->scratch[k];
        cosine[t->source] = fmaxf(cosine[t->source], (float)dot);
    }
    for (size_t s = 0; s < g->n_sources; s++)
        if (cosine[s] < -0.5f && g->sources[s].vector) {
            const float *v = g->sources[s].vector;
            double dot = 0, sum = 0;
            for (size_t k = 0; k < dim; k++) {
                dot += (double)v[k] * (double)g->scratch[k];
                sum += (double)v[k] * (double)v[k];
            }
            cosine[s] = (float)(dot / fmax(sqrt(sum), 1e-9));
        }
    return CAIRN_OK;
}
static float scaled_cosine(const struct grounding *g, const float cosine[GROUND_SOURCES_MAX], uint64_t mask)
{
    float best = -1;
    for (size_t s = 0; s < g->n_sources; s++)
        if ((mask >> s) & 1)
            best = fmaxf(best, cosine[s]);
    if (best < -0.5f)
        return 0;
    return fminf(1, fmaxf(0, (best - g->baseline) / (1 - g->baseline)));
}

/* ---- the combiner
 * ----------------------------------------------------------------------------------------------------------------
 */

static float combine(const float f[GF_N], bool with_cosine)
{
    const float *w = with_cosine ? weights_cosine : weights_plain;
    float z = w[GF_N];
    for (size_t i = 0; i < GF_N; i++)
        z += w[i] * f[i];
    return 1 / (1 + expf(-z));
}

/* "32" stands somewhere in most sources. A claim of one or two words or values is an answer only where the
 * question's words stand too: near the place, or (at half weight) elsewhere in that source. */
static bool fragment_answers(const struct grounding *g, const struct finding *d)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n_question; i++)
        n += g->question_content[i];
    if (!n || d->lo == NONE)
        return n == 0;
    const struct gsource *src = &g->sources[g->sents[d->lo].source];
    float best = 0, all = g->cover[d->lo];
    for (uint32_t s = src->s0; s < src->s1; s++) {
        if (g->cover[s] + 1e-6f < all)
            continue;
        uint32_t lo = s > src->s0 + FRAGMENT_NEAR ? s - FRAGMENT_NEAR : src->s0;
        uint32_t hi = s + FRAGMENT_NEAR < src->s1 ? s + FRAGMENT_NEAR : src->s1 - 1;
        float sum = 0;
        for (size_t i = 0; i < g->n_question; i++) {
            if (!g->question_content[i])
                continue;
            float v = 0;
            for (uint32_t w = src->w0; w < src->w1 && v < 1; w++)
                if (g->words[w].key == g->question_keys[i])
                    v = w >= g->sents[lo].w0 && w < g->sents[hi].w1 ? 1 : 0.5f;
            sum += v;
        }
        best = fmaxf(best, sum / (float)n);
    }
    return best >= FRAGMENT_QUESTION_MIN;
}

/* What a proof has decided stands above the sum: support is at most *high, or certain. */
static bool proved(const struct grounding *g, const struct finding *d, float *high)
{
    *high = 1;
    if (d->verbatim && !g->c.cut)
        return true;
    if (g->c.cut || d->f[GF_NUM] > 0 || d->f[GF_QUOTE] > 0 ||
        (g->n_question && g->c.n_slots <= FRAGMENT_SLOTS_MAX && !fragment_answers(g, d))) {
        *high = PROOF_ABSENT_MAX;
        return false;
    }
    bool opposed = d->f[GF_POLARITY] > 0 || d->f[GF_QUANT] > 0 || d->f[GF_DIRECTION] > 0;
    bool displaced = d->f[GF_CONFLICT] > 0 && d->f[GF_COV1] >= 0.6f;
    if ((opposed || displaced || d->f[GF_SWAPPED] > 0) && d->edit >= EDIT_MIN)
        *high = PROOF_CONTRADICTED_MAX;
    return false;
}
static float judge(const struct grounding *g, const struct finding *d, float p)
{
    float high;
    return proved(g, d, &high) ? PROOF_VERBATIM : fminf(p, high);
}
/* The weights set by hand and the proofs, as log-odds of "unsupported": what the trained forests start from.
 */
static int32_t by_hand(const struct grounding *g, const struct finding *d)
{
    float high, z = weights_plain[GF_N];
    if (proved(g, d, &high))
        return PROOF_VERBATIM_MARGIN;
    for (size_t i = 0; i < GF_N; i++)
        z += weights_plain[i] * d->f[i];
    int32_t margin = (int32_t)(-65536 * z), least = high <= PROOF_ABSENT_MAX ? PROOF_ABSENT_MARGIN
                                                    : high <= PROOF_CONTRADICTED_MAX
                                                        ? PROOF_CONTRADICTED_MARGIN
                                                        : INT32_MIN;
    return margin < least ? least : margin;
}

static uint64_t mask_all(const struct grounding *g)
{
    return g->n_sources >= 64 ? ~0ULL : (1ULL << g->n_sources) - 1;
}

static enum cairn_err check_span(const struct grounding *g, struct cairn_str text, size_t start, size_t end,
                                 struct cairn_why *why)
{
    (void)g;
    if (text.len > GROUND_TEXT_BYTES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "text of %zu bytes to check: at most %u, send it in parts",
                          text.len, GROUND_TEXT_BYTES_MAX);
    if (start > end || end > text.len)
        return cairn_fail(why, CAIRN_EINVAL, "span %zu..%zu is not inside a text of %zu bytes", start, end,
                          text.len);
    if (cairn_utf8_invalid_at(text.p + start, end - start) != end - start)
        return cairn_fail(why, CAIRN_EINVAL, "the text to check is not UTF-8 between bytes %zu and %zu",
                          start, end);
    return CAIRN_OK;
}

enum cairn_err grounding_align(struct grounding *g, struct cairn_str text, float f[GF_N],
                               struct cairn_why *why)
{
    enum cairn_err err = check_span(g, text, 0, text.len, why);
    if (err)
        return err;
    err = read_claim(g, text, 0, text.len, why);
    if (err)
        return err;
    align(g, text);
    struct finding d;
    find(g, text, 0, text.len, mask_all(g), &d);
    memcpy(f, d.f, sizeof d.f);
    return CAIRN_OK;
}
size_t grounding_n_sentences(const struct grounding *g) { return g->n_sents; }
struct ground_evidence grounding_sentence(const struct grounding *g, size_t i)
{
    const struct gsent *t = &g->sents[i];
    return (struct ground_evidence){
        .source = t->source, .start = t->start, .end = t->end, .score = g->cover[i]};
}

static void add_evidence(const struct grounding *g, struct ground_sentence *out, uint32_t source,
                         const struct finding *d, float score)
{
    if (d->lo == NONE && d->run_source == NONE)
        return;
    struct ground_evidence e = {.source = source, .score = score};
    if (d->verbatim) {
        e.start = d->run_start;
        e.end = d->run_end;
    } else if (d->lo != NONE) {
        e.start = g->sents[d->lo].start;
        e.end = g->sents[d->hi].end;
    } else {
        return;
    }
    size_t k = out->n_evidence < GROUND_EVIDENCE_MAX ? out->n_evidence++ : GROUND_EVIDENCE_MAX;
    if (k == GROUND_EVIDENCE_MAX) {
        if (out->evidence[--k].score >= score)
            return;
    }
    while (k && out->evidence[k - 1].score < score) {
        out->evidence[k] = out->evidence[k - 1];
        k--;
    }
    out->evidence[k] = e;
}

/* The trained chance that the sentence is unsupported; its words and the text's sums on the way. */
static float combine_words(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                           const struct finding *d, bool claim)
{
    const struct ground_combiner *m = g->combiner;
    size_t n = g->c.n_words;
    uint8_t f[GF_N], x[CF_N];
    tokens_read(g, text, start, end, d, g->x);
    forest_margins(&m->forest[FOREST_TOKENS], g->x[0], TF_N, n, g->margin);
    for (size_t i = 0; i < GF_N; i++)
        f[i] = to_byte(d->f[i]);
    claim_features(f, claim, n, g->margin, n ? g->x[0] : NULL, x);
    int32_t hand = by_hand(g, d), margin = claim_margin(hand, forest_margin(&m->forest[FOREST_CLAIMS], x), x),
            p = calibrated_16(&m->calibration[FOREST_CLAIMS], margin);
    text_add(&g->sums, x, hand, p, n, g->margin);
    return (float)p / 65536;
}

float grounding_text_chance(const struct grounding *g)
{
    if (!g->combiner || !g->combiner->forest[FOREST_TEXTS].n)
        return NAN;
    if (!g->sums.n_claims && g->sums.refusals)
        return 0; /* an honest "the sources do not say": nothing to support */
    uint8_t x[AF_N];
    text_features(&g->sums, x);
    const struct ground_combiner *m = g->combiner;
    int32_t p = calibrated_16(&m->calibration[FOREST_TEXTS],
                              text_margin(g->sums.max_margin, forest_margin(&m->forest[FOREST_TEXTS], x)));
    return grey_text(g, (float)p / 65536);
}

float grounding_chance(const struct grounding *g)
{
    float p = grounding_text_chance(g);
    return !g->any_claim ? 0 : isnan(p) ? 1 - g->lowest : p;
}

enum cairn_err grounding_words(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                               struct ground_words *out, struct cairn_why *why)
{
    *out = (struct ground_words){0};
    enum cairn_err err = check_span(g, text, start, end, why);
    if (!err)
        err = read_claim(g, text, start, end, why);
    if (err)
        return err;
    align(g, text);
    struct finding d;
    find(g, text, start, end, mask_all(g), &d);
    doubts_find(g, text, &d);
    tokens_read(g, text, start, end, &d, g->x);
    if (g->combiner)
        forest_margins(&g->combiner->forest[FOREST_TOKENS], g->x[0], TF_N, g->c.n_words, g->margin);
    else
        memset(g->margin, 0, g->c.n_words * sizeof *g->margin);
    out->n = g->c.n_words;
    out->x = g->x[0];
    out->margin = g->margin;
    for (size_t i = 0; i < out->n; i++) {
        g->word_spans[2 * i] = g->c.words[i].start;
        g->word_spans[2 * i + 1] = g->c.words[i].end;
    }
    out->spans = g->word_spans;
    out->by_hand = by_hand(g, &d);
    for (size_t i = 0; i < GF_N; i++)
        out->f[i] = to_byte(d.f[i]);
    out->claim = g->c.n_slots > 0 && grounding_is_claim((struct cairn_str){text.p + start, end - start});
    return CAIRN_OK;
}

enum cairn_err grounding_check(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                               struct ground_sentence *out, struct cairn_why *why)
{
    memset(out, 0, sizeof *out);
    enum cairn_err err = cairn_stopped(g->stop, why);
    if (!err)
        err = check_span(g, text, start, end, why);
    if (err)
        return err;
    out->start = start;
    out->end = end;
    err = read_claim(g, text, start, end, why);
    if (err)
        return err;
    struct claim *c = &g->c;
    out->n_cited = c->n_cited;
    memcpy(out->cited, c->cited, sizeof out->cited);
    out->citations_dropped = c->cited_bad;
    bool claim = grounding_is_claim((struct cairn_str){text.p + start, end - start});
    align(g, text); /* also takes the claim's slots off the words again */
    if (!claim || !c->n_slots) {
        out->verdict = VERDICT_NO_CLAIM;
        if (g->combiner) {
            struct finding d;
            find(g, text, start, end, mask_all(g), &d);
            doubts_find(g, text, &d);
            (void)combine_words(g, text, start, end, &d, false);
        }
        out->citations_dropped += (uint32_t)c->n_cited;
        return CAIRN_OK;
    }
    float cosine[GROUND_SOURCES_MAX];
    struct finding all;
    find(g, text, start, end, mask_all(g), &all);
    doubts_find(g, text, &all);
    bool with_cosine = g->embedder != NULL && g->n_sents > 0 && !all.verbatim;
    if (with_cosine) {
        err = embed_support(g, text, start, end, cosine, why);
        if (err)
            return err;
        all.f[GF_COSINE] = scaled_cosine(g, cosine, mask_all(g));
    }
    float score = combine(all.f, with_cosine);
    if (g->combiner) {
        float p = combine_words(g, text, start, end, &all, true);
        if (!all.verbatim && (err = grey_weigh(g, text, start, end, &p, why)) != CAIRN_OK)
            return err;
        score = 1 - p;
    }
    score = g->n_sources ? judge(g, &all, score) : 0;
    const struct finding *told = &all;
    struct finding one[2]; /* the present source, and the best so far */
    unsigned turn = 0;
    float best_single = -1, single[GROUND_SOURCES_MAX] = {0};
    uint32_t best_source = NONE;
    for (uint32_t s = 0; s < g->n_sources; s++) {
        struct finding *d = &one[turn];
        if (g->n_sources == 1)
            *d = all;
        else
            find(g, text, start, end, 1ULL << s, d);
        if (with_cosine)
            d->f[GF_COSINE] = scaled_cosine(g, cosine, 1ULL << s);
        float p = judge(g, d, combine(d->f, with_cosine));
        single[s] = p;
        if (d->lo != NONE && (p >= g->support_min || d->f[GF_COV2] > 0.3f))
            add_evidence(g, out, s, d, p);
        if (p > best_single) {
            best_single = p;
            best_source = s;
            turn ^= 1;
        }
    }
    if (best_source != NONE && best_single > score && !g->combiner) {
        score = best_single;
        told = &one[turn ^ 1];
    }
    out->score = score;
    out->contradiction = told->contradiction;
    out->verdict = score >= g->support_min ? VERDICT_SUPPORTED : VERDICT_UNSUPPORTED;
    out->n_flags = told->n_flags;
    memcpy(out->flags, told->flags, sizeof out->flags);
    if (out->verdict == VERDICT_SUPPORTED) {
        /* joint support without a single carrier keeps its best parts; otherwise only carriers */
        size_t keep = 0;
        for (size_t i = 0; i < out->n_evidence; i++)
            if (out->evidence[i].score >= g->support_min || (best_single < g->support_min && i < 2))
                out->evidence[keep++] = out->evidence[i];
        out->n_evidence = keep;
        out->contradiction = fminf(out->contradiction, 1 - score);
    } else {
        if (out->contradiction <= 0)
            out->n_evidence = 0;
        else if (out->n_evidence > 1)
            out->n_evidence = 1;
        struct finding f = *told;
        if (!f.n_flags || f.f[GF_COV2] < 0.5f)
            flag(&f, "coverage", start, end, false);
        if (with_cosine && f.f[GF_COSINE] < 0.3f)
            flag(&f, "similarity", start, end, false);
        out->n_flags = f.n_flags;
        memcpy(out->flags, f.flags, sizeof out->flags);
    }
    for (size_t i = 0; i < out->n_cited; i++) {
        bool ok = out->verdict == VERDICT_SUPPORTED && single[out->cited[i]] >= g->support_min;
        if (!ok && out->verdict == VERDICT_SUPPORTED &&
            best_single < g->support_min) /* carried jointly: a part counts */
            for (size_t k = 0; k < out->n_evidence; k++)
                ok = ok || out->evidence[k].source == out->cited[i];
        out->cited_ok[i] = ok;
        out->citations_dropped += !ok;
    }
    if (out->citations_dropped && out->n_flags < GROUND_FLAGS_MAX)
        out->flags[out->n_flags++] = (struct ground_flag){"citation", start, end, false, 1};
    return CAIRN_OK;
}

enum cairn_err grounding_check_text(struct grounding *g, struct cairn_str text, struct ground_sentence **list,
                                    size_t *n, float *support_score, struct cairn_why *why)
{
    *list = NULL;
    *n = 0;
    if (support_score)
        *support_score = 1;
    enum cairn_err err = check_span(g, text, 0, text.len, why);
    if (err)
        return err;
    size_t found = cairn_sentences(text, g->spans, g->cap_spans);
    if (found > g->cap_spans) {
        struct cairn_span *p = cairn_reallocarray(g->spans, found, sizeof *p);
        if (!p)
            return cairn_fail(why, CAIRN_ENOMEM, "%zu sentences to check", found);
        g->spans = p;
        g->cap_spans = found;
        (void)cairn_sentences(text, g->spans, found);
    }
    struct ground_sentence *l = cairn_calloc(found ? found : 1, sizeof *l);
    if (!l)
        return cairn_fail(why, CAIRN_ENOMEM, "verdicts of %zu sentences", found);
    double good = 0, all = 0;
    g->sums = (struct text_sums){0};
    g->n_looked = 0;
    g->any_claim = false;
    g->lowest = 1;
    for (size_t i = 0; i < found; i++) {
        err = grounding_check(g, text, g->spans[i].start, g->spans[i].end, &l[i], why);
        if (err) {
            cairn_free(l);
            return err;
        }
        if (l[i].verdict != VERDICT_NO_CLAIM) {
            g->any_claim = true;
            g->lowest = fminf(g->lowest, l[i].score);
            all += (double)(l[i].end - l[i].start);
            good += l[i].verdict == VERDICT_SUPPORTED ? (double)(l[i].end - l[i].start) : 0;
        }
    }
    if (support_score && all > 0)
        *support_score = (float)(good / all);
    *list = l;
    *n = found;
    return CAIRN_OK;
}
