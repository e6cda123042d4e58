/* eval/grounding.c - `cairn eval grounding`: the checker against what people marked.
 *
 * Layouts, told apart by the files: RAGTruth (sources.jsonl, responses.jsonl), WiCE (claims.jsonl), BEGIN
 * (begin_dev_*.jsonl), Factcheck-GPT (stance.jsonl), SummEdits (*.documents.jsonl,
 * *.summaries.jsonl). Positive is "something here is not
 * supported": any marked span; a claim not fully supported; a reply not fully attributable (generic ones
 * too, as TRUE counts them); a summary with label 0. The unit of splitting and drawing is the source: the
 * passages of a question, the cited page, the knowledge, the document.
 *
 * An answer's score is 1 - support of its weakest claim, 0 without a claim; a flagged span is a whole
 * sentence, with the marks of people united first. Beside it stand the same measures of three things that
 * know nothing: flag everything; the answer's length; the checker with another source's passages (half the
 * sources further on, never its own), which shows how much of a score is style. One thread. */
#include "ground_metrics.h"
#include "ground_set.h"

#include "edits.h"

#include "../generator/combiner.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SOURCES_MAX 1000000u
#define PIECE_MAX 60000u /* bytes of one passage given to the checker, below GROUND_SOURCE_BYTES_MAX */

void ground_set_release(struct ground_set *s)
{
    for (size_t i = 0; i < s->n_sources; i++) {
        for (size_t k = 0; k < s->sources[i].n; k++)
            cairn_free(s->sources[i].pieces[k]);
        cairn_free(s->sources[i].pieces);
        cairn_free(s->sources[i].key);
    }
    for (size_t i = 0; i < s->n_texts; i++) {
        cairn_free(s->texts[i].question);
        cairn_free(s->texts[i].text);
        cairn_free(s->texts[i].marks);
    }
    cairn_free(s->sources);
    cairn_free(s->texts);
    cairn_free(s->table);
    *s = (struct ground_set){0};
}

static uint64_t key_hash(const char *key)
{
    uint64_t h = 0xCBF29CE484222325ULL;
    for (; *key; key++)
        h = (h ^ (uint8_t)*key) * 0x100000001B3ULL;
    return h ^ h >> 29;
}

static size_t key_slot(const struct ground_set *s, const char *key)
{
    size_t at = (size_t)key_hash(key) & (s->n_table - 1);
    while (s->table[at] && strcmp(s->sources[s->table[at] - 1].key, key) != 0)
        at = (at + 1) & (s->n_table - 1);
    return at;
}

/* The source of this key, added when new. */
static enum cairn_err source_of(struct ground_set *s, const char *key, uint32_t *out, bool *added,
                                struct cairn_why *why)
{
    if (2 * (s->n_sources + 1) > s->n_table) {
        size_t n = s->n_table ? 2 * s->n_table : 1024;
        uint32_t *t = cairn_calloc(n, sizeof *t);
        if (!t)
            return cairn_fail(why, CAIRN_ENOMEM, "table of sources");
        cairn_free(s->table);
        s->table = t;
        s->n_table = n;
        for (size_t i = 0; i < s->n_sources; i++)
            s->table[key_slot(s, s->sources[i].key)] = (uint32_t)i + 1;
    }
    size_t at = key_slot(s, key);
    *added = !s->table[at];
    if (*added) {
        if (s->n_sources == SOURCES_MAX)
            return cairn_fail(why, CAIRN_EFULL, "more than %u sources", SOURCES_MAX);
        if (!eval_grow((void **)&s->sources, &s->cap_sources, s->n_sources + 1, sizeof *s->sources))
            return cairn_fail(why, CAIRN_ENOMEM, "sources");
        char *copy = cairn_strdup(key);
        if (!copy)
            return cairn_fail(why, CAIRN_ENOMEM, "sources");
        s->sources[s->n_sources] = (struct text_source){.key = copy};
        s->table[at] = (uint32_t)++s->n_sources;
    }
    *out = s->table[at] - 1;
    return CAIRN_OK;
}

static enum cairn_err piece_add(struct text_source *t, const char *p, size_t len, struct cairn_why *why)
{
    if (len >= GROUND_SOURCE_BYTES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "a passage of %zu bytes; the checker takes %u", len,
                          GROUND_SOURCE_BYTES_MAX);
    if (!eval_grow((void **)&t->pieces, &t->cap, t->n + 1, sizeof *t->pieces) ||
        !(t->pieces[t->n] = cairn_malloc(len + 1)))
        return cairn_fail(why, CAIRN_ENOMEM, "passage of %zu bytes", len);
    memcpy(t->pieces[t->n], p, len);
    t->pieces[t->n++][len] = 0;
    return CAIRN_OK;
}

enum cairn_err ground_set_text(struct ground_set *s, uint32_t source, const char *question, const char *text,
                               bool positive, struct cairn_why *why)
{
    if (!eval_grow((void **)&s->texts, &s->cap_texts, s->n_texts + 1, sizeof *s->texts))
        return cairn_fail(why, CAIRN_ENOMEM, "texts");
    struct judged_text *t = &s->texts[s->n_texts++];
    *t = (struct judged_text){.source = source, .positive = positive};
    t->question = cairn_strdup(question);
    t->text = cairn_strdup(text);
    return t->text && (t->question || !question) ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "texts");
}

enum cairn_err ground_set_source(struct ground_set *s, const char *key, const char *text, uint32_t *out,
                                 struct cairn_why *why)
{
    bool added;
    enum cairn_err err = source_of(s, key, out, &added, why);
    return err || !added ? err : piece_add(&s->sources[*out], text, strlen(text), why);
}

enum cairn_err ground_set_mark(struct ground_set *s, size_t start, size_t end, struct cairn_why *why)
{
    struct judged_text *t = &s->texts[s->n_texts - 1];
    if (!eval_grow((void **)&t->marks, &t->cap_marks, t->n_marks + 1, sizeof *t->marks))
        return cairn_fail(why, CAIRN_ENOMEM, "labels");
    t->marks[t->n_marks++] = (struct mark){start, end};
    return CAIRN_OK;
}

static enum cairn_err lacks(struct cairn_why *why, const char *what)
{
    return cairn_fail(why, CAIRN_EINVAL, "needs %s", what);
}

/* ---- RAGTruth ---- */

struct questions { /* of source i; BORROWED by nobody: freed after reading */
    struct ground_set *set;
    char **of;
    size_t n, cap;
};

/* "passage 1:TEXT\n\npassage 2:TEXT": the marks are the set's, not the passages'. */
static enum cairn_err split_passages(struct text_source *t, const char *p, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (unsigned no = 1; !err && *p; no++) {
        char mark[32], after[32];
        int n = snprintf(mark, sizeof mark, "passage %u:", no);
        snprintf(after, sizeof after, "\n\npassage %u:", no + 1);
        if (strncmp(p, mark, (size_t)n) == 0)
            p += n;
        const char *end = strstr(p, after);
        size_t len = end ? (size_t)(end - p) : strlen(p);
        err = piece_add(t, p, len, why);
        p += len + (end ? 2 : 0);
    }
    return err;
}

static enum cairn_err ragtruth_source(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct questions *q = ctx;
    const char *id = text_of(o, "source_id"), *question = text_of(o, "question"), *p = text_of(o, "passages");
    uint32_t at;
    bool added;
    if (!id || !question || !p)
        return lacks(why, "source_id, question, passages");
    enum cairn_err err = source_of(q->set, id, &at, &added, why);
    if (err)
        return err;
    if (!added)
        return cairn_fail(why, CAIRN_EINVAL, "source %s comes twice", id);
    if (!eval_grow((void **)&q->of, &q->cap, (size_t)at + 1, sizeof *q->of) ||
        !(q->of[at] = cairn_strdup(question)))
        return cairn_fail(why, CAIRN_ENOMEM, "question");
    q->n = (size_t)at + 1;
    return split_passages(&q->set->sources[at], p, why);
}

static enum cairn_err ragtruth_response(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct questions *q = ctx;
    const char *id = text_of(o, "source_id"), *response = text_of(o, "response");
    json_t *labels = json_object_get(o, "labels"), *label;
    uint32_t at;
    bool added;
    size_t i;
    if (!id || !response || !json_is_array(labels))
        return lacks(why, "source_id, response, labels");
    size_t known = q->set->n_sources;
    enum cairn_err err = source_of(q->set, id, &at, &added, why);
    if (!err && at >= known)
        err = cairn_fail(why, CAIRN_EINVAL, "source %s is not in sources.jsonl", id);
    if (!err)
        err = ground_set_text(q->set, at, q->of[at], response, json_array_size(labels) > 0, why);
    json_array_foreach(labels, i, label)
    {
        if (err)
            break;
        json_int_t start = json_integer_value(json_object_get(label, "start")),
                   end = json_integer_value(json_object_get(label, "end"));
        if (start < 0 || end < start)
            return cairn_fail(why, CAIRN_EINVAL, "label %zu: start and end do not make a span", i);
        err = ground_set_mark(q->set, (size_t)start, (size_t)end, why);
    }
    return err;
}

/* ---- WiCE, BEGIN, SummEdits ---- */

static enum cairn_err wice_claim(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct ground_set *s = ctx;
    const char *claim = text_of(o, "claim"), *label = text_of(o, "label");
    json_t *evidence = json_object_get(o, "evidence"), *v;
    struct cairn_buf b;
    char key[32];
    uint32_t at;
    bool added;
    size_t i;
    if (!claim || !label || !json_is_array(evidence))
        return lacks(why, "claim, label, evidence");
    cairn_buf_init(&b, 0);
    enum cairn_err err = CAIRN_OK;
    /* The text of the page is the source's key: claims that cite the same one are never split. */
    json_array_foreach(evidence, i, v) if (!json_is_string(v) || !cairn_buf_puts(&b, json_string_value(v)) ||
                                           !cairn_buf_puts(&b, "\n")) err = lacks(why, "evidence as texts");
    if (!err)
        err = b.len ? source_of(s, (const char *)b.bytes, &at, &added, why) : CAIRN_OK;
    if (!err && !b.len) {
        snprintf(key, sizeof key, "line %zu", line);
        err = source_of(s, key, &at, &added, why);
    }
    for (size_t from = 0, end = 0; !err && added && from < b.len; from = end) {
        end = from + PIECE_MAX < b.len ? from + PIECE_MAX : b.len;
        while (end < b.len && end > from && b.bytes[end - 1] != '\n')
            end--;
        if (end == from)
            err = cairn_fail(why, CAIRN_EFULL, "an evidence sentence of over %u bytes", PIECE_MAX);
        else
            err = piece_add(&s->sources[at], (const char *)b.bytes + from, end - from, why);
    }
    cairn_buf_release(&b);
    return err ? err : ground_set_text(s, at, NULL, claim, strcmp(label, "supported") != 0, why);
}

static enum cairn_err begin_reply(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct ground_set *s = ctx;
    const char *k = text_of(o, "knowledge"), *reply = text_of(o, "response"),
               *label = text_of(o, "begin_label");
    uint32_t at;
    bool added;
    if (!k || !reply || !label)
        return lacks(why, "knowledge, response, begin_label");
    enum cairn_err err = source_of(s, k, &at, &added, why);
    if (!err && added)
        err = piece_add(&s->sources[at], k, strlen(k), why);
    return err ? err : ground_set_text(s, at, NULL, reply, strcmp(label, "Fully attributable") != 0, why);
}

static enum cairn_err summedits_document(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct ground_set *s = ctx;
    const char *id = text_of(o, "_id"), *text = text_of(o, "text");
    uint32_t at;
    bool added;
    if (!id || !text)
        return lacks(why, "_id, text");
    enum cairn_err err = source_of(s, id, &at, &added, why);
    if (!err && !added)
        err = cairn_fail(why, CAIRN_EINVAL, "document %s comes twice", id);
    return err ? err : piece_add(&s->sources[at], text, strlen(text), why);
}

/* Marks the words of `after` that are not in the longest common subsequence with `before`; where words were
 * only taken out, the one after them. */
static enum cairn_err mark_changes(struct ground_set *s, const char *before, const char *after,
                                   struct cairn_why *why)
{
    enum { MAX = 400 };
    struct cairn_span a[MAX], b[MAX];
    size_t n[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        const char *p = k ? after : before;
        struct cairn_span *w = k ? b : a;
        for (size_t i = 0; p[i] && n[k] < MAX;) {
            while (p[i] && strchr(" \t\n", p[i]))
                i++;
            size_t from = i;
            while (p[i] && !strchr(" \t\n", p[i]))
                i++;
            if (i > from)
                w[n[k]++] = (struct cairn_span){from, i};
        }
    }
    uint16_t(*common)[MAX + 1] = cairn_calloc(MAX + 1, sizeof *common);
    if (!common)
        return cairn_fail(why, CAIRN_ENOMEM, "changes of a summary");
    for (size_t i = n[0]; i-- > 0;)
        for (size_t j = n[1]; j-- > 0;) {
            size_t len = a[i].end - a[i].start;
            bool same =
                len == b[j].end - b[j].start && memcmp(before + a[i].start, after + b[j].start, len) == 0;
            uint16_t skip = common[i + 1][j] > common[i][j + 1] ? common[i + 1][j] : common[i][j + 1];
            common[i][j] = same ? (uint16_t)(common[i + 1][j + 1] + 1) : skip;
        }
    enum cairn_err err = CAIRN_OK;
    bool gone = false;
    for (size_t i = 0, j = 0; j < n[1] && !err;) {
        size_t len = i < n[0] ? a[i].end - a[i].start : 0;
        bool same = i < n[0] && len == b[j].end - b[j].start &&
                    memcmp(before + a[i].start, after + b[j].start, len) == 0;
        if (!same && i < n[0] && common[i + 1][j] >= common[i][j + 1]) {
            gone = true;
            i++;
            continue;
        }
        if (!same || gone) {
            size_t at = 0, point = 0;
            for (; at < b[j].start; at++)
                point += ((unsigned char)after[at] & 0xC0) != 0x80;
            size_t from = point;
            for (; at < b[j].end; at++)
                point += ((unsigned char)after[at] & 0xC0) != 0x80;
            err = ground_set_mark(s, from, point, why);
        }
        gone = false;
        i += same;
        j++;
    }
    cairn_free(common);
    return err;
}

static enum cairn_err summedits_summary(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct ground_set *s = ctx;
    const char *id = text_of(o, "doc_id"), *text = text_of(o, "summary");
    json_t *label = json_object_get(o, "label");
    size_t known = s->n_sources;
    uint32_t at;
    bool added;
    if (!id || !text || !json_is_integer(label))
        return lacks(why, "doc_id, summary, label");
    enum cairn_err err = source_of(s, id, &at, &added, why);
    if (!err && at >= known)
        err = cairn_fail(why, CAIRN_EINVAL, "document %s is not among the documents", id);
    bool bad = json_integer_value(label) == 0;
    const char *before = text_of(o, "original_summary");
    if (!err)
        err = ground_set_text(s, at, NULL, text, bad, why);
    return err || !bad || !before ? err : mark_changes(s, before, text, why);
}

static enum cairn_err factcheck_claim(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct ground_set *s = ctx;
    const char *claim = text_of(o, "claim"), *evidence = text_of(o, "evidence"),
               *stance = text_of(o, "stance");
    uint32_t at;
    if (!claim || !evidence || !stance)
        return lacks(why, "claim, evidence, stance");
    enum cairn_err err = ground_set_source(s, evidence, evidence, &at, why);
    return err ? err : ground_set_text(s, at, NULL, claim, strcmp(stance, "completely-support") != 0, why);
}

void ground_set_half(struct ground_set *s, uint64_t half)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_texts; i++) {
        struct judged_text *t = &s->texts[i];
        const char *key = s->sources[t->source].key;
        if (1 + (cairn_hash_bytes(key, strlen(key)).b[0] & 1u) == half) {
            s->texts[n++] = *t;
            continue;
        }
        cairn_free(t->question);
        cairn_free(t->text);
        cairn_free(t->marks);
    }
    s->n_texts = n;
}

typedef enum cairn_err (*reader)(void *ctx, json_t *o, size_t line, struct cairn_why *why);

/* Reads DIR/pattern, names in order; *n how many files. */
static enum cairn_err each_file(const char *dir, const char *pattern, reader fn, void *ctx, size_t *n,
                                struct cairn_why *why)
{
    glob_t found = {0};
    struct cairn_buf path;
    cairn_buf_init(&path, 0);
    enum cairn_err err =
        cairn_buf_printf(&path, "%s/%s", dir, pattern) ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "path");
    *n = 0;
    if (!err && glob((const char *)path.bytes, 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !err; i++, ++*n)
            err = each_json(found.gl_pathv[i], fn, ctx, why);
    globfree(&found);
    cairn_buf_release(&path);
    return err;
}

enum cairn_err ground_set_read(struct ground_set *s, const char *dir, struct cairn_why *why)
{
    struct questions q = {.set = s};
    size_t n, m = 0;
    enum cairn_err err = each_file(dir, "sources.jsonl", ragtruth_source, &q, &n, why);
    if (!err && n) {
        s->has_spans = true;
        err = each_file(dir, "responses.jsonl", ragtruth_response, &q, &m, why);
    }
    for (size_t i = 0; i < q.n; i++)
        cairn_free(q.of[i]);
    cairn_free(q.of);
    if (err || n)
        goto done;
    err = each_file(dir, "claims.jsonl", wice_claim, s, &m, why);
    if (err || m)
        goto done;
    err = each_file(dir, "begin_dev_*.jsonl", begin_reply, s, &m, why);
    s->claimless_is_bad = m > 0;
    if (err || m)
        goto done;
    err = each_file(dir, "stance.jsonl", factcheck_claim, s, &m, why);
    if (err || m)
        goto done;
    err = each_file(dir, "*.documents.jsonl", summedits_document, s, &n, why);
    s->marks_are_changes = n > 0;
    if (!err)
        err = each_file(dir, "*.summaries.jsonl", summedits_summary, s, &m, why);
done:
    if (!err && !m)
        err =
            cairn_fail(why, CAIRN_ENOTFOUND,
                       "%s: no set of a known layout (RAGTruth, WiCE, BEGIN, Factcheck-GPT, SummEdits)", dir);
    if (!err && !s->n_texts)
        err = cairn_fail(why, CAIRN_EINVAL, "%s: nothing to judge", dir);
    return err;
}

/* ---- running the checker ---- */

enum cairn_err ground_set_open(struct grounding **g, const struct ground_set *s, size_t text, uint32_t source,
                               const struct ground_combiner *combiner, struct cairn_why *why)
{
    const struct text_source *src = &s->sources[source];
    struct ground_source given[GROUND_SOURCES_MAX];
    *g = NULL;
    if (src->n > GROUND_SOURCES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "%zu passages; the checker takes %u", src->n, GROUND_SOURCES_MAX);
    for (size_t k = 0; k < src->n; k++)
        given[k] = (struct ground_source){.text = cairn_str_of(src->pieces[k])};
    struct ground_opts opts = {.question = cairn_str_of(s->texts[text].question),
                               .combiner = combiner,
                               .by_hand = !combiner,
                               .encoder = s->encoder,
                               .encoder_claims_max = s->encoder_claims_max};
    return grounding_open(g, given, src->n, &opts, why);
}

struct verdicts { /* of one way to score */
    struct gm_answer *answers;
    struct gm_span *spans;
    size_t n_spans, cap_spans;
    uint64_t *marked; /* [n_sources] */
    size_t claims, flagged;
    int64_t *took_us; /* [n_texts] */
};

static void verdicts_release(struct verdicts *v)
{
    cairn_free(v->answers);
    cairn_free(v->spans);
    cairn_free(v->marked);
    cairn_free(v->took_us);
    *v = (struct verdicts){0};
}

size_t marks_unite(const struct judged_text *t, bool *on, size_t bytes)
{
    size_t n = 0, point = 0;
    for (size_t b = 0; b < bytes; b++) {
        if (((unsigned char)t->text[b] & 0xC0) == 0x80) {
            on[b] = b && on[b - 1];
            continue;
        }
        on[b] = false;
        for (size_t i = 0; i < t->n_marks && !on[b]; i++)
            on[b] = point >= t->marks[i].start && point < t->marks[i].end;
        n += on[b];
        point++;
    }
    return n;
}

enum way { CHECKER, LENGTH, SHUFFLED };

static enum cairn_err add_span(const struct judged_text *t, size_t start, size_t end, double score,
                               const bool *on, struct verdicts *v, struct cairn_why *why)
{
    struct gm_span span = {.source = t->source, .score = score};
    for (size_t b = start; b < end; b++)
        if (((unsigned char)t->text[b] & 0xC0) != 0x80) {
            span.len++;
            span.marked += on[b];
        }
    if (!eval_grow((void **)&v->spans, &v->cap_spans, v->n_spans + 1, sizeof *v->spans))
        return cairn_fail(why, CAIRN_ENOMEM, "spans");
    v->spans[v->n_spans++] = span;
    return CAIRN_OK;
}

/* A whole sentence; or its words, each by the mean over itself and its neighbours, and what lies between two
 * words by the lower of them, so that it is flagged when both are. */
static enum cairn_err add_spans(const struct judged_text *t, struct grounding *g, bool words, bool by_length,
                                const struct ground_sentence *s, double score, const bool *on,
                                struct verdicts *v, struct cairn_why *why)
{
    if (!words)
        return add_span(t, s->start, s->end, by_length ? (double)(s->end - s->start) : score, on, v, why);
    struct ground_words r;
    enum cairn_err err = grounding_words(g, cairn_str_of(t->text), s->start, s->end, &r, why);
    double before = 0;
    for (size_t i = 0; i < r.n && !err; i++) {
        double sum = 0;
        for (size_t k = 0; k < 3; k++) {
            size_t at = i + k < 1 ? 0 : i + k - 1 < r.n ? i + k - 1 : r.n - 1;
            sum += logistic_16(r.margin[at]) / 65536.0;
        }
        sum /= 3;
        if (i)
            err = add_span(t, r.spans[2 * i - 1], r.spans[2 * i], fmin(sum, before), on, v, why);
        if (!err)
            err = add_span(t, r.spans[2 * i], r.spans[2 * i + 1], sum, on, v, why);
        before = sum;
    }
    return err;
}

static enum cairn_err check_one(const struct ground_set *s, size_t i, enum way way,
                                const struct ground_combiner *combiner, struct verdicts *v, bool *on,
                                struct cairn_why *why)
{
    const struct judged_text *t = &s->texts[i];
    size_t len = strlen(t->text), n = 0;
    uint32_t from = t->source;
    if (way == SHUFFLED)
        from = (uint32_t)((from + (s->n_sources + 1) / 2) % s->n_sources);
    struct grounding *g = NULL;
    struct ground_sentence *list = NULL;
    int64_t begun = cairn_now_us();
    enum cairn_err err = ground_set_open(&g, s, i, from, combiner, why);
    if (!err)
        err = grounding_check_text(g, (struct cairn_str){t->text, len}, &list, &n, NULL, why);
    v->took_us[i] = cairn_now_us() - begun;
    double worst = 0, chance = err ? 0 : (double)grounding_text_chance(g);
    size_t claims = 0;
    v->marked[t->source] += marks_unite(t, on, len);
    for (size_t k = 0; k < n && !err; k++) {
        double score = list[k].verdict == VERDICT_NO_CLAIM ? 0 : 1 - (double)list[k].score;
        claims += list[k].verdict != VERDICT_NO_CLAIM;
        v->flagged += list[k].verdict == VERDICT_UNSUPPORTED;
        worst = fmax(worst, score);
        if (s->has_spans)
            err = add_spans(t, g, combiner && combiner->word_spans && way != LENGTH, way == LENGTH, &list[k],
                            score, on, v, why);
    }
    v->claims += claims;
    if (!isnan(chance))
        worst = chance;
    else if (s->claimless_is_bad && !claims)
        worst = 1;
    grounding_close(g);
    cairn_free(list);
    v->answers[i] = (struct gm_answer){
        .score = way == LENGTH ? (double)len : worst, .positive = t->positive, .source = t->source};
    return err;
}

static enum cairn_err check_all(const struct ground_set *s, enum way way, const struct options *o,
                                const uint8_t *fold, const struct ground_combiner *const of_fold[GM_FOLDS],
                                struct verdicts *v, struct cairn_why *why)
{
    static const char *const what[] = {"checking", "by length", "with other passages"};
    size_t longest = 0;
    for (size_t i = 0; i < s->n_texts; i++)
        longest = strlen(s->texts[i].text) > longest ? strlen(s->texts[i].text) : longest;
    bool *on = cairn_calloc(longest + 1, sizeof *on);
    v->answers = cairn_calloc(s->n_texts, sizeof *v->answers);
    v->took_us = cairn_calloc(s->n_texts, sizeof *v->took_us);
    v->marked = cairn_calloc(s->n_sources, sizeof *v->marked);
    enum cairn_err err =
        on && v->answers && v->took_us && v->marked ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "verdicts");
    for (size_t i = 0; i < s->n_texts && !err; i++) {
        err = cairn_stopped(&run_stop, why);
        if (!err)
            err = check_one(s, i, way, of_fold[fold[s->texts[i].source]], v, on, why);
        progress(o, what[way], i + 1, s->n_texts);
    }
    progress_clear();
    cairn_free(on);
    return err;
}

/* ---- printing ---- */

static const char *const names[GM_N] = {"auc", "answer_f1", "span_f1", "bacc", "ece", "ece_calibrated"};

static json_t *number(double v) { return isnan(v) ? json_null() : json_real(v); }

static json_t *result_json(const struct gm_result *r)
{
    json_t *out = json_object(), *ci = json_object();
    for (size_t m = 0; m < GM_N; m++) {
        json_object_set_new(out, names[m], number(r->value[m]));
        json_object_set_new(ci, names[m],
                            isnan(r->low[m]) ? json_null() : json_pack("[ff]", r->low[m], r->high[m]));
    }
    json_object_set_new(out, "interval95", ci);
    return out;
}

static void result_print(const char *name, const struct gm_result *r)
{
    printf("%-18s", name);
    for (size_t m = 0; m < GM_N; m++) {
        bool percent = m == GM_ANSWER_F1 || m == GM_SPAN_F1 || m == GM_BACC;
        char text[48] = "-";
        if (!isnan(r->value[m]) && isnan(r->low[m]))
            snprintf(text, sizeof text, percent ? "%.1f" : "%.3f", r->value[m]);
        else if (!isnan(r->value[m]))
            snprintf(text, sizeof text, percent ? "%.1f [%.1f, %.1f]" : "%.3f [%.3f, %.3f]", r->value[m],
                     r->low[m], r->high[m]);
        printf(" %-22s", text);
    }
    putchar('\n');
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

const char *ground_set_name(const char *path, size_t *len)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t at = end;
    while (at && path[at - 1] != '/')
        at--;
    *len = end - at;
    return path + at;
}

/* 0 checker, 1 flag everything, 2 length, 3 shuffled */
#define N_WAYS 4u
static const char *const way_names[N_WAYS] = {"checker", "flag_everything", "length_only",
                                              "shuffled_context"};

static enum cairn_err score_all(struct ground_set *s, const struct options *o,
                                const struct ground_combiner *const of_fold[GM_FOLDS],
                                struct gm_result r[N_WAYS], struct verdicts *first, double flagged[N_WAYS],
                                struct cairn_why *why)
{
    static const enum way ways[N_WAYS] = {CHECKER, CHECKER, LENGTH, SHUFFLED};
    uint8_t *fold = cairn_calloc(s->n_sources, sizeof *fold);
    enum cairn_err err =
        fold ? gm_folds(fold, s->n_sources, o->seed, why) : cairn_fail(why, CAIRN_ENOMEM, "folds");
    for (size_t w = 0; w < N_WAYS && !err; w++) {
        struct verdicts v = {0}, *use = w <= 1 ? first : &v;
        if (w != 1)
            err = check_all(s, ways[w], o, fold, of_fold, use, why);
        struct gm_set set = {.answers = use->answers,
                             .spans = use->spans,
                             .n_answers = s->n_texts,
                             .n_spans = use->n_spans,
                             .n_sources = s->n_sources,
                             .marked = use->marked};
        if (w == 1) {
            for (size_t i = 0; i < s->n_texts; i++)
                use->answers[i].score = 1;
            for (size_t i = 0; i < use->n_spans; i++)
                use->spans[i].score = 1;
        }
        if (!err)
            err = gm_decide(&set, fold, why);
        if (!err && w == 1) {
            /* by definition, whatever the folds would choose */
            for (size_t i = 0; i < s->n_texts; i++)
                use->answers[i].f1_says = use->answers[i].bacc_says = true;
            for (size_t i = 0; i < use->n_spans; i++)
                use->spans[i].says = true;
        }
        if (!err)
            err = gm_measure(&set, w != 2, o->k, o->seed, &r[w], why);
        flagged[w] = w == 0 || w == 3 ? (double)use->flagged / (double)(use->claims ? use->claims : 1) : NAN;
        verdicts_release(&v);
    }
    cairn_free(fold);
    return err;
}

static int report(const struct options *o, const struct ground_set *s, const struct gm_result r[N_WAYS],
                  struct verdicts *v, const double flagged[N_WAYS])
{
    size_t len, positives = 0, n = s->n_texts;
    const char *name = ground_set_name(o->set, &len);
    for (size_t i = 0; i < n; i++)
        positives += s->texts[i].positive;
    qsort(v->took_us, n, sizeof *v->took_us, by_time);
    int64_t p50 = v->took_us[n / 2], p99 = v->took_us[n * 99 / 100];
    if (o->json) {
        json_t *out = result_json(&r[0]), *others = json_object();
        for (size_t w = 1; w < N_WAYS; w++) {
            json_t *x = result_json(&r[w]);
            json_object_set_new(x, "claims_flagged", number(flagged[w]));
            json_object_set_new(others, way_names[w], x);
        }
        json_object_set_new(out, "set", json_stringn(name, len));
        json_object_set_new(out, "n", json_integer((json_int_t)n));
        json_object_set_new(out, "sources", json_integer((json_int_t)s->n_sources));
        json_object_set_new(out, "positives", json_integer((json_int_t)positives));
        json_object_set_new(out, "claims_flagged", number(flagged[0]));
        json_object_set_new(out, "took_us_p50", json_integer((json_int_t)p50));
        json_object_set_new(out, "took_us_p99", json_integer((json_int_t)p99));
        json_object_set_new(out, "baselines", others);
        int code = print_json(o, out);
        json_decref(out);
        return code;
    }
    printf("%.*s: %zu answers, %zu with something unsupported, %zu sources; cut-offs from the other four "
           "folds\n\n",
           (int)len, name, n, positives, s->n_sources);
    printf("%-18s", "");
    for (size_t m = 0; m < GM_N; m++)
        printf(" %-22s", names[m]);
    putchar('\n');
    for (size_t w = 0; w < N_WAYS; w++)
        result_print(way_names[w], &r[w]);
    printf("\nclaims flagged: %.1f %%, with another source's passages %.1f %%. An answer took %" PRId64
           " us (p99 %" PRId64 " us), sources prepared anew each time.\n",
           100 * flagged[0], 100 * flagged[3], p50, p99);
    return finish_output(o);
}

int ground_set_report(const struct options *o, struct ground_set *s,
                      const struct ground_combiner *const of_fold[GM_FOLDS])
{
    struct cairn_why why = {0};
    struct verdicts v = {0};
    struct gm_result r[N_WAYS];
    double flagged[N_WAYS];
    enum cairn_err err = score_all(s, o, of_fold, r, &v, flagged, &why);
    int code = err ? tell_err(o, err, &why) : report(o, s, r, &v, flagged);
    verdicts_release(&v);
    return code;
}

static const struct option_row rows[] = {
    {"set",     "DIR",  "RAGTruth, WiCE, BEGIN, Factcheck-GPT or SummEdits files",                         O_TEXT,
     offsetof(struct options,                                                                                                                set)      },
    {"suite",   "NAME", "edits: single edits in the set's clean texts; extracts: copies; time",            O_TEXT,
     offsetof(struct options,                                                                                                                mode)     },
    {"edits",   "DIR",  "with --suite: sentences of these passages, reworded, in place of a set",          O_TEXT,
     offsetof(struct options,                                                                                                                base)     },
    {"n",       "N",    "of such texts (default 4000)",                                                    O_WHOLE, offsetof(struct options, n)        },
    {"half",    "1|2",  "only one half of the sources, split by their ids: one to work on, one to report",
     O_WHOLE,                                                                                                       offsetof(struct options, half)     },
    {"out",     "FILE", "with --suite edits: a line a claim, edited and untouched",                        O_TEXT,
     offsetof(struct options,                                                                                                                out)      },
    {"by-hand", NULL,   "the weights set by hand alone",                                                   O_FLAG,  offsetof(struct options, both)     },
    {"model",   "FILE", "a trained combiner (default: the shipped one)",                                   O_TEXT,
     offsetof(struct options,                                                                                                                models)   },
    {"encoder", "NAME", "look at unsure claims again: a checker, or FILE.safetensors over the pair model",
     O_TEXT,                                                                                                        offsetof(struct options, generator)},
    {"threads", "N",    "of the encoder (default 1)",                                                      O_WHOLE, offsetof(struct options, threads)  },
    {"seed",    "N",    "of the folds and the bootstrap (default 1)",                                      O_WHOLE, offsetof(struct options, seed)     },
    {"draws",   "N",    "of the bootstrap over sources (default 1000; 0: no intervals)",                   O_WHOLE,
     offsetof(struct options,                                                                                                                k)        },
    {"json",    NULL,   "one JSON object",                                                                 O_FLAG,  offsetof(struct options, json)     },
    {"quiet",   NULL,   "no progress",                                                                     O_FLAG,  offsetof(struct options, quiet)    },
};
#define N_ROWS (sizeof rows / sizeof *rows)

struct encoder_slot {
    struct model_registry *registry;
    struct cairn_pool *pool;
    struct ground_encoder *encoder;
};
static void encoder_slot_release(struct encoder_slot *s)
{
    ground_encoder_close(s->encoder);
    cairn_pool_close(s->pool);
    model_registry_close(s->registry);
}
/* o->generator: an overlay over the pair model, by its ending, or the name of a checker. */
static enum cairn_err encoder_slot_open(struct encoder_slot *s, const struct options *o,
                                        struct cairn_why *why)
{
    static const char ending[] = ".safetensors";
    const char *name = o->generator;
    size_t n = strlen(name), m = sizeof ending - 1;
    bool overlay = n > m && strcmp(name + n - m, ending) == 0;
    const struct model_card *card;
    enum cairn_err err = model_registry_open(&s->registry, NULL, why);
    if (!err)
        err = model_registry_find(s->registry, overlay ? MODEL_RERANKER : MODEL_CHECKER,
                                  overlay ? NULL : name, &card, why);
    if (!err)
        err = cairn_pool_open(&s->pool, (unsigned)o->threads, why);
    return err ? err
               : ground_encoder_open(&s->encoder, card, overlay ? name : NULL,
                                     &(struct model_opts){.pool = s->pool}, why);
}

int eval_grounding(int argc, char **argv)
{
    struct options o = {.command = "eval grounding", .seed = 1, .k = 1000, .n = 4000, .threads = 1};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval grounding --set DIR [options]",
                      "Judges the grounding checker by what people marked, beside three lines that know "
                      "nothing.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    int (*suite)(const struct options *, struct ground_set *, const struct ground_combiner *) = NULL;
    if (o.mode) {
        suite = strcmp(o.mode, "edits") == 0      ? edit_suite
                : strcmp(o.mode, "extracts") == 0 ? extract_suite
                : strcmp(o.mode, "time") == 0     ? ground_time
                                                  : NULL;
        if (!suite)
            return tell(&o, USAGE, "--suite: edits, extracts or time");
    }
    if (o.both && o.models)
        return tell(&o, USAGE, "--by-hand is without a model");
    if (o.half > 2)
        return tell(&o, USAGE, "--half wants 1 or 2");
    if (o.out && suite != edit_suite)
        return tell(&o, USAGE, "--out wants --suite edits");
    if (!o.set == !(o.base && suite))
        return tell(&o, USAGE, "--set DIR says what to judge, or --suite with --edits DIR; --help says more");
    if (o.k > 100000 || !o.threads || o.threads > 64)
        return tell(&o, USAGE, "--draws: at most 100000; --threads: 1 to 64");
    if (o.both && o.generator)
        return tell(&o, USAGE, "--encoder goes with a combiner, not --by-hand");
    run_watch();
    struct cairn_why why = {0};
    struct ground_set s = {0};
    struct ground_combiner *model = NULL;
    struct encoder_slot slot = {0};
    enum cairn_err err = o.models ? ground_combiner_open(&model, o.models, &why) : CAIRN_OK;
    if (!err)
        err = o.set ? ground_set_read(&s, o.set, &why) : edits_of_passages(&s, o.base, o.n, o.seed, &why);
    if (!err && o.half)
        ground_set_half(&s, o.half);
    if (!err && !s.n_texts)
        err = cairn_fail(&why, CAIRN_ENOTFOUND, "half %" PRIu64 " has no text", o.half);
    if (!err && o.generator)
        err = encoder_slot_open(&slot, &o, &why);
    s.encoder = slot.encoder;
    const struct ground_combiner *of_fold[GM_FOLDS], *use = o.both  ? NULL
                                                            : model ? model
                                                                    : combiner_shipped();
    for (size_t f = 0; f < GM_FOLDS; f++)
        of_fold[f] = use;
    code = err ? tell_err(&o, err, &why) : suite ? suite(&o, &s, use) : ground_set_report(&o, &s, of_fold);
    ground_set_release(&s);
    ground_combiner_close(model);
    encoder_slot_release(&slot);
    return code;
}
