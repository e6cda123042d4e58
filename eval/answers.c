/* eval/answers.c - `cairn eval answers`: judged questions asked through the service, as a caller with the
 * question's groups.
 *
 * Counted:
 * - em, f1: SQuAD's, over answerable questions; a refusal is the empty answer. Answers are sentences and gold
 * is short, so f1 is low by length; contains (gold as whole words in the answer) and token_recall (share of
 * gold's tokens in it) do not punish that. em_all, f1_all: over all questions, an unanswerable one being
 * right when it is refused.
 * - refusal_accuracy: unanswerable questions refused. wrong_refusals: answerable ones refused.
 * - leaks: of a question that names a group besides "everyone", asked again as "everyone" alone: answers that
 * hold a gold answer, or sources, citations or search hits of a document that acl.json does not let
 * "everyone" read.
 * - citation_precision: a citation counts when its document holds gold and its span overlaps the gold span;
 * per answer citations that count / citations, mean over answerable questions with a citation (0 of none is
 * left out, and counted by citation_recall). Gold spans of HTML are bytes of the raw file and citations are
 * bytes of the extracted text, so there the texts are compared: the gold span goes through the same parser,
 * and half of the shorter one's words must be in the other. citation_document_precision: the document alone.
 * - citation_recall: sentences with a claim that are supported and cited / sentences with a claim, mean over
 * answered questions.
 * - numbers_cited: of the answers with a digit outside citation marks, those whose numbers all stand in a
 * passage that the answer cites: the same digits, commas between them aside, or up to 20 the English word.
 * - verdict_share: sentences with a verdict / sentences. */
#include "records.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KINDS_MAX 64u
#define TIMES_MAX 24u
#define PUT_DOCUMENTS 128u

struct span {
    char *document;
    size_t start, end;
};
struct question {
    json_t *o; /* the line */
    char *id, *kind, *text;
    const char **answers, **groups;
    size_t n_answers, n_groups, n_spans;
    struct span *spans;
    bool answerable, whole; /* whole: any place in the gold document will do */
};
struct judged_set {
    const struct options *o;
    char *dir, *kb, *name;
    struct question *q;
    size_t n, cap;
    bool squad, inside; /* inside: passages stand in the questions */
    struct loader_acl *acl;
};

struct tally {
    char name[64];
    size_t n, answerable, unanswerable, refused_right, refused_wrong, with_citations, answered, claims_in;
    double em, f1, contains, token_recall, em_all, f1_all, precision, document_precision, recall;
    size_t citations, sentences, with_verdict, supported, unsupported, no_claim;
    size_t leak_asked, leaks, leak_refused, with_numbers, numbers_cited;
};
struct times {
    char name[24];
    double sum;
    size_t n;
};

static void question_release(struct question *q)
{
    for (size_t i = 0; i < q->n_spans; i++)
        cairn_free(q->spans[i].document);
    cairn_free(q->spans);
    cairn_free(q->answers);
    cairn_free(q->groups);
    cairn_free(q->id);
    cairn_free(q->kind);
    cairn_free(q->text);
    json_decref(q->o);
}

static void set_release(struct judged_set *s)
{
    for (size_t i = 0; i < s->n; i++)
        question_release(&s->q[i]);
    cairn_free(s->q);
    cairn_free(s->dir);
    cairn_free(s->kb);
    cairn_free(s->name);
    loader_acl_close(s->acl);
}

/* The texts of an array, BORROWED from the line. */
static bool texts_of(const json_t *o, const char *key, const char ***list, size_t *n)
{
    const json_t *a = json_object_get(o, key);
    *list = cairn_calloc(json_array_size(a), sizeof **list);
    if (!*list)
        return false;
    for (size_t i = 0; i < json_array_size(a); i++) {
        const char *s = json_string_value(json_array_get(a, i));
        if (s)
            (*list)[(*n)++] = s;
    }
    return true;
}

/* "group-hr-012" is of kind "group-hr"; an id without "-NUMBER" of none. */
static char *kind_of(const char *id, bool answerable)
{
    size_t len = strlen(id), at = len;
    while (at > 0 && isdigit((unsigned char)id[at - 1]))
        at--;
    if (at < len && at > 1 && id[at - 1] == '-')
        return cairn_strndup(id, at - 1);
    return cairn_strdup(answerable ? "answerable" : "unanswerable");
}

static enum cairn_err add_question(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct judged_set *s = ctx;
    struct question q = {.o = json_incref(o)};
    const char *id = text_of(o, "id"), *text = text_of(o, "question"), *passage = text_of(o, "passage_id"),
               *inside = text_of(o, "passage"), *carries = text_of(o, "supporting_sentence");
    if (inside && !passage) /* QED: each question brings its passage */
        passage = id;
    const json_t *spans = json_object_get(o, "spans");
    (void)line;
    enum cairn_err err = CAIRN_OK;
    if (!id || !*id || !text || !*text || !json_is_array(json_object_get(o, "answers"))) {
        err = cairn_fail(why, CAIRN_EINVAL, "a question wants \"id\", \"question\" and \"answers\"");
    } else {
        q.whole = passage != NULL;
        q.answerable = passage ? !json_is_true(json_object_get(o, "is_impossible"))
                               : json_is_true(json_object_get(o, "answerable"));
        s->squad |= passage != NULL;
        s->inside |= inside != NULL;
        q.id = cairn_strdup(id);
        q.text = cairn_strdup(text);
        q.kind = kind_of(id, q.answerable);
        q.n_spans = passage ? 1 : json_array_size(spans);
        q.spans = cairn_calloc(q.n_spans, sizeof *q.spans);
        if (!q.id || !q.text || !q.kind || !q.spans || !texts_of(o, "answers", &q.answers, &q.n_answers) ||
            !texts_of(o, "groups", &q.groups, &q.n_groups))
            err = cairn_fail(why, CAIRN_ENOMEM, "questions");
        const char *at = inside && carries && *carries ? strstr(inside, carries) : NULL;
        q.whole = q.whole && !at;
        for (size_t i = 0; i < q.n_spans && !err; i++) {
            const json_t *x = json_array_get(spans, i);
            const char *doc = passage ? passage : text_of(x, "document");
            q.spans[i].start = passage ? 0 : (size_t)json_integer_value(json_object_get(x, "start"));
            q.spans[i].end = passage ? SIZE_MAX : (size_t)json_integer_value(json_object_get(x, "end"));
            if (at) {
                q.spans[i].start = (size_t)(at - inside);
                q.spans[i].end = q.spans[i].start + strlen(carries);
            }
            if (!doc || q.spans[i].start >= q.spans[i].end)
                err = cairn_fail(why, CAIRN_EINVAL,
                                 "span %zu wants \"document\", \"start\" and \"end\", start < end", i);
            else if (!(q.spans[i].document = cairn_strdup(doc)))
                err = cairn_fail(why, CAIRN_ENOMEM, "questions");
        }
    }
    if (!err && !eval_grow((void **)&s->q, &s->cap, s->n + 1, sizeof *s->q))
        err = cairn_fail(why, CAIRN_ENOMEM, "questions");
    if (err)
        question_release(&q);
    else
        s->q[s->n++] = q;
    return err;
}

/* Questions on the documents that --only names (lines of a file, each the beginning of a document's id up to
 * '#'), then one half of them by their ids. */
static enum cairn_err keep_questions(struct judged_set *s, struct cairn_why *why)
{
    const struct options *o = s->o;
    char *text = NULL;
    size_t len = 0, n = 0;
    enum cairn_err err = CAIRN_OK;
    if (o->only)
        err = cairn_read_file(&text, &len, o->only, EVAL_FILE_MAX, why);
    for (size_t i = 0; i < s->n && !err; i++) {
        struct question *q = &s->q[i];
        bool stays = !o->half || 1 + (cairn_hash_bytes(q->id, strlen(q->id)).b[0] & 1u) == o->half,
             named = !o->only;
        const char *doc = q->n_spans ? q->spans[0].document : "";
        size_t base = strcspn(doc, "#");
        for (const char *p = text; p && p < text + len && !named;) {
            const char *nl = memchr(p, '\n', (size_t)(text + len - p)), *end = nl ? nl : text + len;
            named = base && (size_t)(end - p) == base && memcmp(p, doc, base) == 0;
            p = end + 1;
        }
        if (stays && named) {
            struct question x = s->q[n];
            s->q[n++] = *q;
            *q = x;
        }
    }
    for (size_t i = n; i < s->n && !err; i++)
        question_release(&s->q[i]);
    if (!err)
        s->n = n;
    cairn_free(text);
    return err;
}

static enum cairn_err set_read(struct judged_set *s, struct cairn_why *why)
{
    const struct options *o = s->o;
    const char *slash = strrchr(o->set, '/');
    s->dir = slash ? cairn_strndup(o->set, (size_t)(slash - o->set) + (slash == o->set)) : cairn_strdup(".");
    if (!s->dir)
        return cairn_fail(why, CAIRN_ENOMEM, "set");
    enum cairn_err err = each_json(o->set, add_question, s, why);
    if (!err)
        err = keep_questions(s, why);
    if (!err && !s->n)
        err = cairn_fail(why, CAIRN_EINVAL, "%s: no questions%s", o->set,
                         o->only || o->half ? " are left by --only and --half" : "");
    if (err)
        return err;
    s->kb = o->kb       ? cairn_strdup(o->kb)
            : s->inside ? cairn_strdup(o->set)
                        : cairn_path_join(s->dir, s->squad ? "passages.jsonl" : "kb");
    const char *base = strrchr(s->dir, '/');
    s->name = cairn_strdup(base && base[1] ? base + 1 : s->dir);
    if (!s->kb || !s->name)
        return cairn_fail(why, CAIRN_ENOMEM, "set");
    if (!file_exists(s->kb))
        return cairn_fail(why, CAIRN_ENOTFOUND, "%s: no such file or directory; --kb names the documents",
                          s->kb);
    char *acl = s->squad ? NULL : cairn_path_join(s->kb, "acl.json");
    if (acl && file_exists(acl))
        err = loader_acl_open(&s->acl, acl, why);
    cairn_free(acl);
    return err;
}

/* ---- documents into the store ---- */

struct putting {
    struct bench_service *b;
    const struct options *o;
    const char *collection;
    json_t *documents;
    size_t n;
};

static enum cairn_err put_flush(struct putting *p, struct cairn_why *why)
{
    json_t *result = NULL;
    if (!json_array_size(p->documents))
        return CAIRN_OK;
    progress(p->o, "documents", p->n, p->n);
    enum cairn_err err = lab_call(
        p->b, p->o, "doc.put",
        json_pack("{s:s, s:O, s:b}", "collection", p->collection, "documents", p->documents, "create", 1),
        false, &result, why);
    json_decref(result);
    json_array_clear(p->documents);
    return err;
}

static enum cairn_err put_passage(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct putting *p = ctx;
    const char *id = text_of(o, "_id"), *title = text_of(o, "title"), *text = text_of(o, "text");
    (void)line;
    if (!text)
        text = text_of(o, "passage");
    if (!id)
        id = text_of(o, "passage_id");
    if (!id)
        id = text_of(o, "id");
    if (!id || !text)
        return cairn_fail(why, CAIRN_EINVAL, "a passage wants \"_id\" and \"text\"");
    json_array_append_new(p->documents,
                          json_pack("{s:s, s:s, s:s}", "id", id, "title", title ? title : "", "text", text));
    p->n++;
    return json_array_size(p->documents) >= PUT_DOCUMENTS ? put_flush(p, why) : CAIRN_OK;
}

static enum cairn_err ingest(struct judged_set *s, struct bench_service *b, const char *collection,
                             json_t **report, struct cairn_why *why)
{
    json_t *found = NULL;
    *report = NULL;
    enum cairn_err fresh = lab_call(b, s->o, "collection.update",
                                    json_pack("{s:s, s:s, s:f, s:f}", "collection", collection, "fusion",
                                              "zscore", "dense_weight", (double)RETRIEVE_DENSE_WEIGHT,
                                              "rerank_weight", (double)RETRIEVE_RERANK_WEIGHT),
                                    false, &found, why); /* a store of an earlier default */
    json_decref(found);
    found = NULL;
    if (fresh && fresh != CAIRN_ENOTFOUND)
        return fresh;
    if (!s->squad)
        return lab_call(b, s->o, "doc.sync",
                        json_pack("{s:s, s:s, s:b}", "collection", collection, "path", s->kb, "create", 1),
                        true, report, why);
    /* the store's directory is named by the hash of the passages: a collection that is whole is the right one
     */
    struct putting p = {b, s->o, collection, json_array(), 0};
    enum cairn_err err =
        lab_call(b, s->o, "collection.describe", json_pack("{s:s}", "name", collection), false, &found, why);
    size_t have = err ? 0 : (size_t)json_integer_value(json_object_get(found, "n_documents")), lines = 0;
    json_decref(found);
    err = CAIRN_OK;
    char *text;
    size_t len;
    if (have) {
        err = cairn_read_file(&text, &len, s->kb, EVAL_FILE_MAX, why);
        for (size_t i = 0; !err && i < len; i++)
            lines += text[i] == '\n';
        if (!err)
            cairn_free(text);
    }
    if (!err && (!have || have < lines)) {
        err = each_json(s->kb, put_passage, &p, why);
        if (!err)
            err = put_flush(&p, why);
    }
    json_decref(p.documents);
    *report = json_pack("{s:I}", "put", (json_int_t)p.n);
    return err;
}

/* ---- judging ---- */

char *answer_without_marks(const char *text)
{
    char *out = cairn_strdup(text), *to = out;
    if (!out)
        return NULL;
    for (const char *p = text; *p;) {
        const char *q = p;
        if (*q == '[') {
            q++;
            while (isdigit((unsigned char)*q) || ((*q == ',' || *q == ' ') && q > p + 1))
                q++;
        }
        if (q > p + 1 && *q == ']')
            p = q + 1;
        else
            *to++ = *p++;
    }
    *to = 0;
    return out;
}

static bool is_html(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".html") == 0 || strcmp(dot, ".htm") == 0);
}

/* Half of the shorter text's words are in the other. */
static enum cairn_err same_place(const char *a, const char *b, bool *same, struct cairn_why *why)
{
    double f1;
    char *x = eval_normalize(a, strlen(a)), *y = eval_normalize(b, strlen(b));
    enum cairn_err err = x && y ? eval_f1(x, y, &f1, why) : cairn_fail(why, CAIRN_ENOMEM, "comparing spans");
    *same = false;
    if (!err && *x && *y) {
        double na = 1, nb = 1; /* words, from the spaces */
        for (const char *p = x; *p; p++)
            na += *p == ' ';
        for (const char *p = y; *p; p++)
            nb += *p == ' ';
        double shared = f1 * (na + nb) / 2; /* f1 = 2 shared / (na + nb) */
        *same = eval_has_words(x, y) || eval_has_words(y, x) || shared >= 0.5 * (na < nb ? na : nb);
    }
    cairn_free(x);
    cairn_free(y);
    return err;
}

/* The visible text of the gold span of an HTML file; OWNED. */
static enum cairn_err gold_text(const struct judged_set *s, const struct span *g, char **out,
                                struct cairn_why *why)
{
    char *path = cairn_path_join(s->kb, g->document), *bytes = NULL, *page = NULL;
    size_t len = 0;
    struct loader_document *d = NULL;
    *out = NULL;
    enum cairn_err err = path ? cairn_read_file(&bytes, &len, path, EVAL_FILE_MAX, why)
                              : cairn_fail(why, CAIRN_ENOMEM, "path");
    if (!err && g->end > len)
        err =
            cairn_fail(why, CAIRN_EINVAL, "%s: a span ends at %zu, behind its %zu bytes", path, g->end, len);
    if (!err) {
        page = cairn_asprintf("<html><body><p>%.*s</p></body></html>", (int)(g->end - g->start),
                              bytes + g->start);
        err = page ? loader_parse(&d, "span.html", page, strlen(page), LOADER_HTML, NULL, why)
                   : cairn_fail(why, CAIRN_ENOMEM, "span");
    }
    if (!err && !(*out = cairn_strndup(d->text, d->text_len)))
        err = cairn_fail(why, CAIRN_ENOMEM, "span");
    loader_document_free(d);
    cairn_free(page);
    cairn_free(bytes);
    cairn_free(path);
    return err;
}

static enum cairn_err judge_citation(const struct judged_set *s, const struct question *q, const json_t *c,
                                     bool *document, bool *place, struct cairn_why *why)
{
    const char *doc = text_of(c, "document_id"), *text = text_of(c, "text");
    size_t start = (size_t)json_integer_value(json_object_get(c, "start")),
           end = (size_t)json_integer_value(json_object_get(c, "end"));
    enum cairn_err err = CAIRN_OK;
    *document = *place = false;
    for (size_t i = 0; i < q->n_spans && doc && !*place && !err; i++) {
        const struct span *g = &q->spans[i];
        if (strcmp(g->document, doc) != 0)
            continue;
        *document = true;
        if (q->whole || !is_html(doc)) {
            *place = q->whole || (start < g->end && g->start < end);
        } else {
            char *gold;
            err = gold_text(s, g, &gold, why);
            if (!err && text)
                err = same_place(gold, text, place, why);
            cairn_free(gold);
        }
    }
    return err;
}

static bool may_read(const struct judged_set *s, const char *doc, const char *const *groups, size_t n)
{
    const struct cairn_str *allow;
    size_t n_allow;
    if (!s->acl)
        return true;
    loader_acl_find(s->acl, doc, &allow, &n_allow);
    for (size_t i = 0; i < n_allow; i++)
        for (size_t k = 0; k < n; k++)
            if (allow[i].len == strlen(groups[k]) && memcmp(allow[i].p, groups[k], allow[i].len) == 0)
                return true;
    return false;
}

static bool forbidden_in(const struct judged_set *s, const json_t *list, const char *const *groups, size_t n)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *x = json_array_get(list, i);
        const char *doc = text_of(x, "document_id");
        if (doc && !may_read(s, doc, groups, n))
            return true;
        if (forbidden_in(s, json_object_get(x, "citations"), groups, n))
            return true;
    }
    return false;
}

/* Gold answers of SQuAD's layout are short phrases. */
static const char *style_of(const struct judged_set *s)
{
    return s->o->style ? s->o->style : s->squad ? "phrase" : NULL;
}

static json_t *ask_params(const struct judged_set *s, const char *collection, const struct question *q,
                          const char *const *groups, size_t n)
{
    const struct options *o = s->o;
    json_t *p = json_pack("{s:s, s:s, s:I}", "collection", collection, "question", q->text, "seed",
                          (json_int_t)o->seed),
           *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_string(groups[i]));
    if (o->mode)
        json_object_set_new(p, "mode", json_string(o->mode));
    json_object_set_new(p, "explain", json_true()); /* for the chance of each answer */
    if (style_of(s))
        json_object_set_new(p, "style", json_string(style_of(s)));
    if (o->k)
        json_object_set_new(p, "k", json_integer((json_int_t)o->k));
    if (o->max_tokens)
        json_object_set_new(p, "max_tokens", json_integer((json_int_t)o->max_tokens));
    if (o->rerank_weight >= 0)
        json_object_set_new(p, "rerank_weight", json_real(o->rerank_weight));
    if (n)
        json_object_set(p, "principals", list);
    json_decref(list);
    return p;
}

static bool number_at(const char **p, char *digits, size_t max)
{
    const char *s = *p + strcspn(*p, "0123456789");
    size_t n = 0;
    for (; isdigit((unsigned char)*s) || ((*s == ',' || *s == '.') && n && isdigit((unsigned char)s[1])); s++)
        if (*s != ',' && n + 1 < max)
            digits[n++] = *s;
    digits[n] = 0;
    *p = s;
    return n > 0;
}

static bool number_in(const char *digits, const char *passage)
{
    static const char *const words[] = {"zero",     "one",      "two",      "three",   "four",    "five",
                                        "six",      "seven",    "eight",    "nine",    "ten",     "eleven",
                                        "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
                                        "eighteen", "nineteen", "twenty"};
    char other[64];
    for (const char *p = passage; number_at(&p, other, sizeof other);)
        if (strcmp(other, digits) == 0)
            return true;
    long v = strlen(digits) < 3 ? strtol(digits, NULL, 10) : -1;
    if (v < 0 || v > 20)
        return false;
    char *plain = eval_normalize(passage, strlen(passage));
    bool found = plain && eval_has_words(plain, words[v]);
    cairn_free(plain);
    return found;
}

/* Do all numbers of the answer stand in the passages that it cites? Passages as the store has them. */
static enum cairn_err judge_numbers(const struct judged_set *s, struct bench_service *b,
                                    const char *collection, const json_t *a, bool *has, bool *cited,
                                    struct cairn_why *why)
{
    const char *text = text_of(a, "text");
    const json_t *sources = json_object_get(a, "sources"), *sentences = json_object_get(a, "sentences");
    char *passages[64], digits[64];
    size_t n = 0;
    enum cairn_err err = CAIRN_OK;
    char *plain = answer_without_marks(text ? text : "");
    if (!plain)
        return cairn_fail(why, CAIRN_ENOMEM, "answer");
    *has = plain[strcspn(plain, "0123456789")] != 0;
    *cited = true;
    for (size_t i = 0; *has && i < json_array_size(sources) && n < 64 && !err; i++) {
        const json_t *source = json_array_get(sources, i);
        json_int_t number = json_integer_value(json_object_get(source, "n"));
        bool used = false;
        for (size_t k = 0; k < json_array_size(sentences); k++) {
            const json_t *c = json_object_get(json_array_get(sentences, k), "citations");
            for (size_t m = 0; m < json_array_size(c); m++)
                used = used || json_integer_value(json_object_get(json_array_get(c, m), "n")) == number;
        }
        if (!used)
            continue;
        json_t *d = NULL;
        err =
            lab_call(b, s->o, "doc.get",
                     json_pack("{s:s, s:s}", "collection", collection, "id", text_of(source, "document_id")),
                     false, &d, why);
        const char *body = text_of(d, "text");
        size_t len = body ? strlen(body) : 0,
               from = (size_t)json_integer_value(json_object_get(source, "start")),
               to = (size_t)json_integer_value(json_object_get(source, "end"));
        if (!err && (from > to || to > len))
            err = cairn_fail(why, CAIRN_ECORRUPT, "source %d lies outside its document", (int)number);
        if (!err && !(passages[n] = cairn_strndup(body + from, to - from)))
            err = cairn_fail(why, CAIRN_ENOMEM, "source");
        n += !err;
        json_decref(d);
    }
    for (const char *p = plain; !err && *cited && number_at(&p, digits, sizeof digits);) {
        bool found = false;
        for (size_t i = 0; i < n && !found; i++)
            found = number_in(digits, passages[i]);
        *cited = found;
    }
    for (size_t i = 0; i < n; i++)
        cairn_free(passages[i]);
    cairn_free(plain);
    return err;
}

/* Adds one judged answer to each of the two tallies. */
static enum cairn_err judge(const struct judged_set *s, struct bench_service *b, const char *collection,
                            const struct question *q, const json_t *a, struct tally *const to[2],
                            json_t *record, struct records *rec, struct cairn_why *why)
{
    const char *text = text_of(a, "text");
    bool refused = json_is_object(json_object_get(a, "refusal"));
    char *plain = answer_without_marks(refused || !text ? "" : text);
    struct eval_answer_score score = {0};
    enum cairn_err err = plain ? eval_answer(q->answerable ? q->answers : NULL,
                                             q->answerable ? q->n_answers : 0, plain, &score, why)
                               : cairn_fail(why, CAIRN_ENOMEM, "answer");
    cairn_free(plain);
    const json_t *sentences = json_object_get(a, "sentences");
    size_t n_sentences = refused ? 0 : json_array_size(sentences), citations = 0, right_document = 0,
           right_place = 0, claims = 0, carried = 0;
    size_t verdicts[4] = {0};
    for (size_t i = 0; i < n_sentences && !err; i++) {
        const json_t *x = json_array_get(sentences, i), *cites = json_object_get(x, "citations");
        const char *verdict = text_of(x, "verdict");
        size_t k = !verdict                              ? 3
                   : strcmp(verdict, "supported") == 0   ? 0
                   : strcmp(verdict, "unsupported") == 0 ? 1
                   : strcmp(verdict, "no_claim") == 0    ? 2
                                                         : 3;
        verdicts[k]++;
        claims += k != 2;
        carried += k == 0 && json_array_size(cites) > 0;
        for (size_t c = 0; c < json_array_size(cites) && !err; c++) {
            bool document, place;
            err = judge_citation(s, q, json_array_get(cites, c), &document, &place, why);
            citations++;
            right_document += document;
            right_place += place;
        }
    }
    bool numbers = false, numbers_cited = false;
    size_t first = rec->n;
    if (!err && !refused)
        err = judge_numbers(s, b, collection, a, &numbers, &numbers_cited, why);
    if (!err)
        err = records_add(rec, q->id, "f1_all", score.f1, why);
    if (!err && q->answerable) {
        if (!(err = records_add(rec, q->id, "f1", score.f1, why)) &&
            !(err = records_add(rec, q->id, "em", score.exact, why)) &&
            !(err = records_add(rec, q->id, "contains", score.contains, why)))
            err = records_add(rec, q->id, "wrong_refusals", refused, why);
    } else if (!err) {
        err = records_add(rec, q->id, "refusal_accuracy", refused, why);
    }
    if (!err && q->answerable && citations)
        err = records_add(rec, q->id, "citation_precision", (double)right_place / (double)citations, why);
    if (!err && claims)
        err = records_add(rec, q->id, "citation_recall", (double)carried / (double)claims, why);
    if (!err && numbers)
        err = records_add(rec, q->id, "numbers_cited", numbers_cited, why);
    if (err)
        return err;
    for (int i = 0; i < 2; i++) {
        struct tally *t = to[i];
        t->n++;
        t->with_numbers += numbers;
        t->numbers_cited += numbers && numbers_cited;
        t->answerable += q->answerable;
        t->unanswerable += !q->answerable;
        t->refused_right += refused && !q->answerable;
        t->refused_wrong += refused && q->answerable;
        t->em_all += score.exact;
        t->f1_all += score.f1;
        if (q->answerable) {
            t->em += score.exact;
            t->f1 += score.f1;
            t->contains += score.contains;
            t->token_recall += score.token_recall;
            if (citations) {
                t->with_citations++;
                t->precision += (double)right_place / (double)citations;
                t->document_precision += (double)right_document / (double)citations;
            }
        }
        t->answered += !refused;
        if (claims) {
            t->claims_in++;
            t->recall += (double)carried / (double)claims;
        }
        t->citations += citations;
        t->sentences += n_sentences;
        t->with_verdict += n_sentences - verdicts[3];
        t->supported += verdicts[0];
        t->unsupported += verdicts[1];
        t->no_claim += verdicts[2];
    }
    if (record) {
        json_object_set_new(record, "unit", json_string(q->id));
        json_t *values = json_object();
        for (size_t i = first; i < rec->n; i++)
            json_object_set_new(values, rec->rows[i].name, json_real(rec->rows[i].value));
        json_object_set_new(record, "values", values);
        json_object_set_new(record, "refused", json_boolean(refused));
        json_object_set_new(record, "em", json_real(score.exact));
        json_object_set_new(record, "f1", json_real(score.f1));
        json_object_set_new(record, "contains", json_real(score.contains));
        json_object_set_new(record, "token_recall", json_real(score.token_recall));
        json_object_set_new(record, "citations", json_integer((json_int_t)citations));
        json_object_set_new(record, "citations_right", json_integer((json_int_t)right_place));
        json_object_set_new(record, "citations_right_document", json_integer((json_int_t)right_document));
    }
    return CAIRN_OK;
}

/* The same question without its group: nothing of a document the caller may not read may show. */
static enum cairn_err ask_without(const struct judged_set *s, struct bench_service *b, const char *collection,
                                  const struct question *q, struct tally *const to[2], json_t *record,
                                  struct cairn_why *why)
{
    static const char *const everyone[] = {"everyone"};
    json_t *a = NULL, *found = NULL;
    struct eval_answer_score score = {0};
    enum cairn_err err = lab_call(b, s->o, "ask", ask_params(s, collection, q, everyone, 1), false, &a, why);
    if (!err)
        err = lab_call(b, s->o, "search",
                       json_pack("{s:s, s:s, s:i, s:[s]}", "collection", collection, "query", q->text, "k",
                                 50, "principals", "everyone"),
                       false, &found, why);
    const char *text = text_of(a, "text");
    if (!err && text && *text)
        err = eval_answer(q->answers, q->n_answers, text, &score, why);
    if (!err) {
        bool refused = json_is_object(json_object_get(a, "refusal"));
        bool leak = (q->n_answers && score.contains > 0) ||
                    forbidden_in(s, json_object_get(a, "sources"), everyone, 1) ||
                    forbidden_in(s, json_object_get(a, "sentences"), everyone, 1) ||
                    forbidden_in(s, json_object_get(found, "hits"), everyone, 1);
        for (int i = 0; i < 2; i++) {
            to[i]->leak_asked++;
            to[i]->leaks += leak;
            to[i]->leak_refused += refused;
        }
        if (record) {
            json_object_set_new(record, "without_group",
                                json_pack("{s:b, s:b, s:O}", "leak", leak, "refused", refused, "answer", a));
        }
    }
    json_decref(a);
    json_decref(found);
    return err;
}

static double ratio(double a, size_t b) { return b ? a / (double)b : NAN; }

static void put_ratio(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, isnan(v) ? json_null() : json_real(v));
}
static void put_count(json_t *o, const char *key, size_t n)
{
    json_object_set_new(o, key, json_integer((json_int_t)n));
}

static json_t *tally_json(const struct tally *t)
{
    json_t *o = json_object();
    put_count(o, "n", t->n);
    put_count(o, "answerable", t->answerable);
    put_ratio(o, "em", ratio(t->em, t->answerable));
    put_ratio(o, "f1", ratio(t->f1, t->answerable));
    put_ratio(o, "contains", ratio(t->contains, t->answerable));
    put_ratio(o, "token_recall", ratio(t->token_recall, t->answerable));
    put_ratio(o, "em_all", ratio(t->em_all, t->n));
    put_ratio(o, "f1_all", ratio(t->f1_all, t->n));
    put_ratio(o, "refusal_accuracy", ratio((double)t->refused_right, t->unanswerable));
    put_count(o, "unanswerable", t->unanswerable);
    put_count(o, "wrong_refusals", t->refused_wrong);
    put_ratio(o, "wrong_refusal_rate", ratio((double)t->refused_wrong, t->answerable));
    put_ratio(o, "citation_precision", ratio(t->precision, t->with_citations));
    put_ratio(o, "citation_document_precision", ratio(t->document_precision, t->with_citations));
    put_ratio(o, "citation_recall", ratio(t->recall, t->claims_in));
    put_count(o, "citations", t->citations);
    put_count(o, "sentences", t->sentences);
    put_ratio(o, "verdict_share", ratio((double)t->with_verdict, t->sentences));
    put_count(o, "supported", t->supported);
    put_count(o, "unsupported", t->unsupported);
    put_count(o, "no_claim", t->no_claim);
    put_count(o, "with_numbers", t->with_numbers);
    put_ratio(o, "numbers_cited", ratio((double)t->numbers_cited, t->with_numbers));
    put_count(o, "leak_questions", t->leak_asked);
    put_count(o, "leaks", t->leaks);
    put_ratio(o, "refused_without_group", ratio((double)t->leak_refused, t->leak_asked));
    return o;
}

static void print_tally(const struct tally *t)
{
#define COL(v) ((v) != (v) ? "-" : (snprintf(cell, sizeof cell, "%.3f", (v)), cell))
    char cell[32];
    printf("%-14s %5zu", t->name, t->n);
    printf(" %6s", COL(ratio(t->em, t->answerable)));
    printf(" %6s", COL(ratio(t->f1, t->answerable)));
    printf(" %8s", COL(ratio(t->contains, t->answerable)));
    printf(" %6s", COL(ratio(t->token_recall, t->answerable)));
    printf(" %7s", COL(ratio((double)t->refused_right, t->unanswerable)));
    printf(" %6s", COL(ratio((double)t->refused_wrong, t->answerable)));
    printf(" %6s", COL(ratio(t->precision, t->with_citations)));
    printf(" %6s", COL(ratio(t->document_precision, t->with_citations)));
    printf(" %6s", COL(ratio(t->recall, t->claims_in)));
    printf(" %8s", COL(ratio((double)t->with_verdict, t->sentences)));
    printf(" %7s", COL(ratio((double)t->numbers_cited, t->with_numbers)));
    if (t->leak_asked)
        printf(" %3zu/%zu", t->leaks, t->leak_asked);
    putchar('\n');
#undef COL
}

static void add_times(struct times *times, size_t *n, const json_t *a)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(a, "timings_ms"), key, v)
    {
        size_t i = 0;
        while (i < *n && strcmp(times[i].name, key) != 0)
            i++;
        if (i == *n) {
            if (*n == TIMES_MAX || strlen(key) >= sizeof times[0].name)
                continue;
            memcpy(times[(*n)++].name, key, strlen(key) + 1);
        }
        times[i].sum += json_number_value(v);
        times[i].n++;
    }
}

/* ---- the command ---- */

static const struct option_row rows[] = {
    {"set",           "FILE",
     "questions: {id, question, answers, spans, groups, answerable}, QED's {id, question, passage, answers, "
     "supporting_sentence} or SQuAD's {id, question, passage_id, "
     "answers, is_impossible}",                                                                                    O_TEXT,  offsetof(struct options, set)          },
    {"kb",            "DIR",   "the documents (default: kb, or passages.jsonl, beside FILE)",                      O_TEXT,
     offsetof(struct options,                                                                                                                        kb)           },
    {"collection",    "NAME",  "of the store (default: eval)",                                                     O_TEXT,  offsetof(struct options, collection)   },
    {"data",          "DIR",   "where stores are kept (default ~/.cache/cairn/eval)",                              O_TEXT,
     offsetof(struct options,                                                                                                                        data)         },
    {"mode",          "MODE",  "auto, generate or extract (default auto)",                                         O_TEXT,  offsetof(struct options, mode)         },
    {"style",         "STYLE", "sentences or phrase (default: the service's; phrase for SQuAD's layout)",          O_TEXT,
     offsetof(struct options,                                                                                                                        style)        },
    {"k",             "N",     "passages for each question (default: the service's)",                              O_WHOLE, offsetof(struct options, k)            },
    {"max-tokens",    "N",     "tokens of an answer (default: the service's)",                                     O_WHOLE,
     offsetof(struct options,                                                                                                                        max_tokens)   },
    {"rerank-weight", "X",     "share of the pair model (default: the collection's)",                              O_SHARE,
     offsetof(struct options,                                                                                                                        rerank_weight)},
    {"only",          "FILE",  "only questions on documents whose ids, up to '#', are lines of FILE",              O_TEXT,
     offsetof(struct options,                                                                                                                        only)         },
    {"half",          "1|2",   "only one half of the questions, split by their ids: one to fit on, one to report",
     O_WHOLE,                                                                                                               offsetof(struct options, half)         },
    OPTIONS_BASELINE,
    {"sample",        "N",     "only N of the questions, drawn by --seed",                                         O_WHOLE, offsetof(struct options, sample)       },
    {"seed",          "S",     "of the sample and of the answers (default 0)",                                     O_WHOLE, offsetof(struct options, seed)         },
    {"out",           "FILE",  "one JSON line for each question: the answer and how it was judged",                O_TEXT,
     offsetof(struct options,                                                                                                                        out)          },
    OPTIONS_MODELS,
    OPTIONS_RERANKER,
    OPTIONS_GENERATOR,
    OPTIONS_RUN,
};
#define N_ROWS (sizeof rows / sizeof rows[0])

struct state {
    struct judged_set set;
    struct bench_service b;
    struct tally all, kinds[KINDS_MAX];
    size_t n_kinds, n_times;
    struct times times[TIMES_MAX];
    struct records rec;
    struct point {
        double chance, f1;
    } * points; /* of the answers given */
    size_t n_points, cap_points;
    struct cairn_buf records;
    json_t *report;
    uint64_t generation;
};

static struct tally *kind_tally(struct state *x, const char *name)
{
    for (size_t i = 0; i < x->n_kinds; i++)
        if (strcmp(x->kinds[i].name, name) == 0)
            return &x->kinds[i];
    struct tally *t = &x->kinds[x->n_kinds < KINDS_MAX ? x->n_kinds++ : KINDS_MAX - 1];
    if (!t->name[0])
        snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static bool is_group_question(const struct question *q)
{
    for (size_t i = 0; i < q->n_groups; i++)
        if (strcmp(q->groups[i], "everyone") != 0)
            return q->answerable;
    return false;
}

static enum cairn_err one_question(struct state *x, const char *collection, const struct question *q,
                                   struct cairn_why *why)
{
    const struct options *o = x->set.o;
    json_t *a = NULL, *record = o->out ? json_object() : NULL;
    struct tally *const to[2] = {&x->all, kind_tally(x, q->kind)};
    enum cairn_err err =
        lab_call(&x->b, o, "ask", ask_params(&x->set, collection, q, q->groups, q->n_groups), false, &a, why);
    if (!err) {
        x->generation = (uint64_t)json_integer_value(json_object_get(a, "generation"));
        add_times(x->times, &x->n_times, a);
        if (record) {
            json_object_set_new(record, "id", json_string(q->id));
            json_object_set(record, "question", json_object_get(q->o, "question"));
            json_object_set(record, "answers", json_object_get(q->o, "answers"));
            json_object_set_new(record, "answerable", json_boolean(q->answerable));
            json_object_set(record, "answer", a);
        }
        size_t before = x->rec.n;
        err = judge(&x->set, &x->b, collection, q, a, to, record, &x->rec, why);
        const json_t *chance = json_object_get(json_object_get(a, "evidence"), "chance");
        if (!err && !json_is_object(json_object_get(a, "refusal")) && json_is_number(chance)) {
            if (!eval_grow((void **)&x->points, &x->cap_points, x->n_points + 1, sizeof *x->points))
                err = cairn_fail(why, CAIRN_ENOMEM, "answers");
            else /* f1_all is the first value of a question */
                x->points[x->n_points++] =
                    (struct point){json_number_value(chance), q->answerable ? x->rec.rows[before].value : 0};
        }
    }
    if (!err && is_group_question(q))
        err = ask_without(&x->set, &x->b, collection, q, to, record, why);
    if (!err && record) {
        char *line = json_dumps(record, JSON_COMPACT | JSON_REAL_PRECISION(6));
        if (!line || !cairn_buf_puts(&x->records, line) || !cairn_buf_puts(&x->records, "\n"))
            err = cairn_fail(why, CAIRN_ENOMEM, "records");
        free(line); /* jansson's own */
    }
    json_decref(record);
    json_decref(a);
    return err ? cairn_wrap(why, err, "question %s", q->id) : CAIRN_OK;
}

static int by_chance(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    return x->chance < y->chance ? 1 : x->chance > y->chance ? -1 : (x->f1 < y->f1) - (x->f1 > y->f1);
}

/* [[share of the questions answered, mean F1 of those answers], ...], most certain first; an answer to an
 * unanswerable question has 0. */
static json_t *curve_json(struct state *x)
{
    enum { STEPS = 20 };
    json_t *list = json_array();
    double sum = 0;
    if (x->n_points)
        qsort(x->points, x->n_points, sizeof *x->points, by_chance);
    for (size_t i = 0, step = 1; i < x->n_points; i++) {
        sum += x->points[i].f1;
        if ((i + 1) * STEPS >= step * x->n_points) {
            json_array_append_new(
                list, json_pack("[f, f]", (double)(i + 1) / (double)x->all.n, sum / (double)(i + 1)));
            step = (i + 1) * STEPS / x->n_points + 1;
        }
    }
    return list;
}

static int print_result(struct state *x, const struct options *o, double seconds, json_t *intervals,
                        json_t *baseline)
{
    if (o->json) {
        json_t *by = json_object(), *t = json_object();
        for (size_t i = 0; i < x->n_kinds; i++)
            json_object_set_new(by, x->kinds[i].name, tally_json(&x->kinds[i]));
        for (size_t i = 0; i < x->n_times; i++)
            json_object_set_new(t, x->times[i].name, json_real(x->times[i].sum / (double)x->times[i].n));
        json_t *v = json_pack(
            "{s:s, s:I, s:I, s:o, s:O, s:o, s:O?, s:o, s:o, s:f, s:o}", "set", x->set.name, "n",
            (json_int_t)x->all.n, "generation", (json_int_t)x->generation, "metrics", tally_json(&x->all),
            "intervals", intervals, "curve", curve_json(x), "baseline", baseline, "by_kind", by, "timings_ms",
            t, "seconds", seconds, "settings",
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "mode", o->mode ? o->mode : "auto", "style",
                      style_of(&x->set) ? style_of(&x->set) : "sentences", "embedder",
                      x->b.names[MODEL_EMBEDDER] ? x->b.names[MODEL_EMBEDDER] : "none", "reranker",
                      x->b.names[MODEL_RERANKER] ? x->b.names[MODEL_RERANKER] : "none", "generator",
                      x->b.names[MODEL_GENERATOR] ? x->b.names[MODEL_GENERATOR] : "none", "sample",
                      (json_int_t)o->sample, "half", (json_int_t)o->half, "seed", (json_int_t)o->seed));
        int code = print_json(o, v);
        json_decref(v);
        return code;
    }
    printf("%s: %zu questions in %.0f s, generation %" PRIu64 "\n", x->set.name, x->all.n, seconds,
           x->generation);
    printf("%-14s %5s %6s %6s %8s %6s %7s %6s %6s %6s %6s %8s %7s %s\n", "", "n", "em", "f1", "contains",
           "tokens", "refused", "wrong", "cite", "citdoc", "citrec", "verdicts", "numbers", "leaks");
    snprintf(x->all.name, sizeof x->all.name, "all");
    for (size_t i = 0; i < x->n_kinds; i++)
        print_tally(&x->kinds[i]);
    print_tally(&x->all);
    const char *name;
    json_t *at;
    if (json_object_size(intervals))
        printf("95 %% intervals:");
    json_object_foreach(intervals, name, at)
        printf(" %s [%.3f, %.3f]", name, json_real_value(json_array_get(at, 0)),
               json_real_value(json_array_get(at, 1)));
    printf("\nmean ms:");
    for (size_t i = 0; i < x->n_times; i++)
        printf(" %s %.3g", x->times[i].name, x->times[i].sum / (double)x->times[i].n);
    putchar('\n');
    return finish_output(o);
}

/* Intervals, the comparison with --baseline and the table or JSON. */
static int print_answers(struct state *x, const struct options *o, double seconds)
{
    struct cairn_why why = {{0}};
    json_t *intervals = NULL, *result = json_object();
    int code = DONE;
    enum cairn_err err = records_finish(&x->rec, &why);
    if (!err)
        err = records_intervals(&x->rec, (size_t)o->draws, o->seed, &intervals, &why);
    if (!err)
        err = records_against(o, &x->rec, result, &code, &why);
    int printed = err ? tell_err(o, err, &why)
                      : print_result(x, o, seconds, intervals, json_object_get(result, "baseline"));
    json_decref(intervals);
    json_decref(result);
    return code ? code : printed;
}

static int answers_run(const struct options *o)
{
    struct state *x = cairn_calloc(1, sizeof *x);
    struct cairn_why why = {{0}};
    char *dir = NULL, *names[3] = {0}, *sums[3] = {0}, sum[65] = "";
    const char *collection = o->collection ? o->collection : "eval";
    size_t *at = NULL, n_at = 0;
    if (!x)
        return tell(o, FAILED, "out of memory");
    x->set.o = o;
    cairn_buf_init(&x->records, (size_t)1 << 30);
    run_watch();
    int64_t from = cairn_now_us();
    enum cairn_err err =
        file_exists(o->set) ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOTFOUND, "--set %s: no such file", o->set);
    if (!err)
        err = set_read(&x->set, &why);
    if (!err)
        err = lab_models(o, names, sums, &why);
    if (!err && x->set.squad) {
        uint8_t raw[32];
        err = cairn_sha256_file(raw, x->set.kb, NULL, NULL, &why);
        if (!err)
            cairn_hex(sum, raw, 32);
    }
    if (!err) { /* a directory of documents is synced at every run, so its store is named by its path */
        const char *parts[] = {"answers", x->set.squad ? sum : x->set.kb,
                               names[MODEL_EMBEDDER] ? names[MODEL_EMBEDDER] : "none",
                               sums[MODEL_EMBEDDER] ? sums[MODEL_EMBEDDER] : "", NULL};
        dir = lab_dir(o, x->set.name[0] == '.' ? "answers" : x->set.name, parts);
        err = dir ? lab_open(&x->b, o, dir, true, &why) : cairn_fail(&why, CAIRN_ENOMEM, "directory");
    }
    if (!err)
        err = ingest(&x->set, &x->b, collection, &x->report, &why);
    if (!err && json_integer_value(json_object_get(x->report, "n_failed")) > 0)
        (void)tell(o, FAILED, "%d documents could not be read; the questions on them will fail",
                   (int)json_integer_value(json_object_get(x->report, "n_failed")));
    if (!err) {
        at = sample_of(x->set.n, o->sample, o->seed, &n_at);
        err = at ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "sample");
    }
    for (size_t i = 0; i < n_at && !err; i++) {
        progress(o, "questions", i, n_at);
        err = one_question(x, collection, &x->set.q[at[i]], &why);
    }
    progress_clear();
    if (o->out && x->records.len) { /* what was asked before an error is worth keeping too */
        struct cairn_why other = {{0}};
        enum cairn_err e = cairn_write_file(o->out, x->records.bytes, x->records.len, &other);
        if (e && !err)
            err = cairn_fail(&why, e, "%s", other.text);
    }
    int code = err ? tell_err(o, err, &why) : print_answers(x, o, (double)(cairn_now_us() - from) / 1e6);
    json_decref(x->report);
    cairn_buf_release(&x->records);
    records_release(&x->rec);
    cairn_free(x->points);
    lab_close(&x->b);
    lab_models_free(names, sums);
    set_release(&x->set);
    cairn_free(at);
    cairn_free(dir);
    cairn_free(x);
    return code;
}

int eval_answers(int argc, char **argv)
{
    struct options o = {.command = "eval answers", .rerank_weight = -1, .draws = 1000};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval answers --set FILE [options]",
                      "Asks judged questions with their groups and counts right answers, right and wrong "
                      "refusals, right citations and leaks.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set)
        return tell(&o, USAGE, "want --set FILE; --help says more");
    if (o.half > 2)
        return tell(&o, USAGE, "--half wants 1 or 2");
    if (o.draws > STATS_DRAWS_MAX)
        return tell(&o, USAGE, "--draws wants at most %u", STATS_DRAWS_MAX);
    return answers_run(&o);
}
