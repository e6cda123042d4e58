/* answer.c - a question and its sources to an answer: relevance, prompt or extraction, decoding with the
 * checker beside it, refusals.
 *
 * One answer: the calling thread decodes and calls on_event; one checker thread, started for the call, takes
 * finished sentences from a bounded queue and leaves verdicts, which the caller's thread hands out between
 * tokens. Tokens come from the schedule's thread (schedule.h). The text lies at one address (stream.h), the
 * checker reads only bytes that are final. */
#include "answer_internal.h"
#include "constrain.h"
#include "phrase.h"
#include "prompt.h"
#include "schedule.h"
#include "stream.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define SENTENCES_MAX 512u /* as generator.answer_sentences_max */
#define QUESTION_BYTES_MAX 16384u
#define RESERVE_TOKENS 192u /* template, system message and borders beside sources and question */
#define RELEVANCE_SOURCES_MAX 4u
#define PHRASE_TOKENS_MAX 48u
#define PHRASE_SOURCES_MAX 2u
#define QUOTE_LOGIT_MIN 3.0f /* of the pair model: a sentence worth quoting when writing failed */

struct generator {
    struct decoder *decoder;
    struct encoder *embedder, *reranker;
    const struct reader *reader;          /* or NULL */
    const struct ground_encoder *encoder; /* or NULL */
    const struct cairn_config *config;
    float baseline;
    size_t weight_bytes;
    struct schedule *schedule; /* NULL without a decoder */
    pthread_mutex_t lock;
    struct constrain_vocab *vocab; /* under lock until it is there: the first answer under a rule makes it */
};

static double conf(const struct generator *g, const char *key)
{
    if (g->config)
        return cairn_config_num(g->config, key);
    for (size_t i = 0; i < generator_conf_len; i++)
        if (strcmp(generator_conf[i].key, key) == 0)
            return generator_conf[i].def;
    CAIRN_CHECK(!"configuration key of the generator");
    return 0;
}

const char *refusal_name(enum refusal r)
{
    static const char *const names[] = {"none", "no_passages", "low_relevance", "unsupported",
                                        "model_refused"};
    return (unsigned)r < sizeof names / sizeof names[0] ? names[r] : "unknown";
}
static const char *refusal_text(enum refusal r)
{
    switch (r) {
    case REFUSAL_NO_PASSAGES:
        return "No document you may read matches this question.";
    case REFUSAL_LOW_RELEVANCE:
        return "The documents found do not speak of this question closely enough to answer it.";
    case REFUSAL_UNSUPPORTED:
        return "An answer was written, but the documents do not support it, so it is withheld.";
    case REFUSAL_MODEL:
        return "The documents found do not contain the answer.";
    default:
        return "";
    }
}

enum cairn_err generator_open(struct generator **out, struct decoder *d, struct encoder *embedder,
                              struct encoder *reranker, const struct cairn_config *config,
                              struct cairn_why *why)
{
    *out = NULL;
    struct generator *g = cairn_calloc(1, sizeof *g);
    if (!g)
        return cairn_fail(why, CAIRN_ENOMEM, "generator");
    (void)pthread_mutex_init(&g->lock, NULL);
    g->decoder = d;
    g->embedder = embedder;
    g->reranker = reranker;
    g->config = config;
    enum cairn_err err = CAIRN_OK;
    if (embedder)
        err = grounding_embed_baseline(embedder, &g->baseline, why);
    if (err)
        err = cairn_wrap(why, err, "embedder for the grounding checker");
    if (!err && d) {
        g->weight_bytes = decoder_weight_bytes(d);
        err = schedule_open(&g->schedule, d,
                            &(struct schedule_opts){.batch_max = (unsigned)conf(g, "generator.batch_max"),
                                                    .queue_max = (unsigned)conf(g, "generator.queue_max"),
                                                    .prompt_rows = (unsigned)conf(g, "generator.prompt_rows"),
                                                    .draft_max = (unsigned)conf(g, "generator.draft_max"),
                                                    .keep_prefixes = conf(g, "generator.keep_prefixes") > 0},
                            why);
    }
    if (err)
        generator_close(g);
    else
        *out = g;
    return err;
}

void generator_use_reader(struct generator *g, const struct reader *r) { g->reader = r; }
void generator_use_encoder(struct generator *g, const struct ground_encoder *e) { g->encoder = e; }

void generator_close(struct generator *g)
{
    if (!g)
        return;
    schedule_close(g->schedule);
    constrain_vocab_close(g->vocab);
    (void)pthread_mutex_destroy(&g->lock);
    cairn_free(g);
}

void generator_stats_get(struct generator *g, struct generator_stats *out)
{
    memset(out, 0, sizeof *out);
    if (g->schedule)
        schedule_stats_get(g->schedule, out);
}

void answer_release(struct answer *a)
{
    if (!a)
        return;
    cairn_free(a->text);
    cairn_free(a->sentences);
    cairn_free(a->refusal_message);
    memset(a, 0, sizeof *a);
}

/* ---- the checker thread
 * ------------------------------------------------------------------------------------------------------ */

struct checker {
    struct grounding *grounding;
    const char *text; /* the stream's: bytes below a queued span's end are final */
    struct cairn_str passages[GROUND_SOURCES_MAX]; /* the sources' texts as far as they are read */
    size_t n_passages;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* guards all below but `told` */
    pthread_cond_t changed;
    struct cairn_span *spans;     /* [max] */
    struct ground_sentence *list; /* [max] */
    size_t queued, done, max;
    bool closed, full; /* full: a sentence had no room */
    float support_min;
    enum cairn_err err;
    struct cairn_why why;
    int64_t busy_us;
    size_t told; /* verdicts handed out; the caller's thread only */
};

static void *checker_main(void *p)
{
    struct checker *c = p;
    (void)pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->done == c->queued && !c->closed)
            (void)pthread_cond_wait(&c->changed, &c->lock);
        if (c->done == c->queued || c->err)
            break;
        struct cairn_span s = c->spans[c->done];
        (void)pthread_mutex_unlock(&c->lock);
        struct cairn_why why = {{0}};
        struct ground_sentence r;
        int64_t t0 = cairn_now_us();
        enum cairn_err err =
            grounding_check(c->grounding, (struct cairn_str){c->text, s.end}, s.start, s.end, &r, &why);
        if (!err)
            withhold_numbers(&r, (struct cairn_str){c->text, s.end}, c->passages, c->n_passages,
                             c->support_min);
        int64_t took = cairn_now_us() - t0;
        (void)pthread_mutex_lock(&c->lock);
        c->busy_us += took;
        if (err) {
            c->err = err;
            c->why = why;
        } else {
            c->list[c->done++] = r;
        }
        (void)pthread_cond_broadcast(&c->changed);
        if (err)
            break;
    }
    (void)pthread_mutex_unlock(&c->lock);
    return NULL;
}

static enum cairn_err checker_start(struct checker *c, const struct generator *gen, struct grounding *g,
                                    const char *text, const struct answer_request *q, const size_t *lens,
                                    size_t n_sources, struct cairn_why *why)
{
    memset(c, 0, sizeof *c);
    c->grounding = g;
    c->support_min = (float)conf(gen, "grounding.support_min");
    c->max = (size_t)conf(gen, "generator.answer_sentences_max");
    c->text = text;
    c->n_passages = n_sources;
    for (size_t i = 0; i < n_sources; i++)
        c->passages[i] = (struct cairn_str){q->sources[i].text.p, lens[i]};
    c->spans = cairn_calloc(c->max, sizeof *c->spans);
    c->list = cairn_calloc(c->max, sizeof *c->list);
    if (!c->spans || !c->list)
        return cairn_fail(why, CAIRN_ENOMEM, "verdicts");
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->changed, NULL);
    int rc = pthread_create(&c->thread, NULL, checker_main, c);
    if (rc != 0) {
        (void)pthread_cond_destroy(&c->changed);
        (void)pthread_mutex_destroy(&c->lock);
        return cairn_fail_errno(why, rc, "checker thread");
    }
    c->started = true;
    return CAIRN_OK;
}

static bool checker_add(struct checker *c, struct cairn_span s)
{
    (void)pthread_mutex_lock(&c->lock);
    bool room = c->queued < c->max;
    if (room)
        c->spans[c->queued++] = s;
    c->full = c->full || !room;
    (void)pthread_cond_broadcast(&c->changed);
    (void)pthread_mutex_unlock(&c->lock);
    return room;
}

/* Hands out verdicts that are ready; wait: until all are. False when the caller's event function said stop.
 */
static bool checker_tell(struct checker *c, const struct answer_request *q, bool wait)
{
    bool go_on = true;
    (void)pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->told < c->done) {
            struct ground_sentence r = c->list[c->told++];
            (void)pthread_mutex_unlock(&c->lock);
            struct answer_event e = {.kind = ANSWER_EVENT_SENTENCE, .sentence = &r};
            if (q->on_event && go_on && !q->on_event(q->ctx, &e))
                go_on = false;
            (void)pthread_mutex_lock(&c->lock);
        }
        if (!wait || c->err || c->done == c->queued)
            break;
        (void)pthread_cond_wait(&c->changed, &c->lock);
    }
    (void)pthread_mutex_unlock(&c->lock);
    return go_on;
}

static void checker_stop(struct checker *c)
{
    if (c->started) {
        (void)pthread_mutex_lock(&c->lock);
        c->closed = true;
        (void)pthread_cond_broadcast(&c->changed);
        (void)pthread_mutex_unlock(&c->lock);
        (void)pthread_join(c->thread, NULL);
        (void)pthread_cond_destroy(&c->changed);
        (void)pthread_mutex_destroy(&c->lock);
        c->started = false;
    }
    cairn_free(c->spans);
    cairn_free(c->list);
    c->spans = NULL;
    c->list = NULL;
}

/* ---- one answer
 * ------------------------------------------------------------------------------------------------------------------
 */

struct work {
    struct generator *g;
    const struct answer_request *q;
    const struct cairn_stop *stop;
    struct answer *a;
    struct grounding *grounding;
    struct stream stream;
    struct checker checker;
    size_t emitted; /* bytes of text sent as deltas */
    bool cancelled;
    struct extract_list list; /* candidate sentences for the question */
    bool scored;
    struct reader_span spans[READER_SPANS_MAX]; /* what the reader found, best first */
    size_t n_spans;
    bool has_read, phrased;                     /* phrased: the answer is complete */
    size_t lens[GROUND_SOURCES_MAX], n_sources; /* bytes of each source that are read */
    float aligned[GF_N];                        /* the question against the sources */
    int64_t start_us;
};

static const char not_found[] = "NOT FOUND";

/* Sends final text as a delta, except while it may still turn out to be the word for a refusal. */
static void emit(struct work *w, bool last)
{
    struct stream *s = &w->stream;
    bool writes = w->a->mode == ANSWER_GENERATE;
    if (w->q->style == ANSWER_PHRASE && writes) /* shown when it has been found in a source */
        return;
    size_t lead = 0;
    while (lead < s->final && strchr(" \n\t\"*", s->text[lead]))
        lead++;
    size_t n = s->final - lead < sizeof not_found - 1 ? s->final - lead : sizeof not_found - 1;
    if (writes && w->emitted == 0 && memcmp(s->text + lead, not_found, n) == 0 &&
        (n == sizeof not_found - 1 || !last))
        return;
    if (s->final > w->emitted && w->q->on_event && !w->cancelled) {
        struct answer_event e = {
            .kind = ANSWER_EVENT_DELTA, .delta = {s->text + w->emitted, s->final - w->emitted}
        };
        if (!w->q->on_event(w->q->ctx, &e))
            w->cancelled = true;
    }
    w->emitted = s->final;
}
static bool says_not_found(const struct stream *s)
{
    size_t lead = 0;
    while (lead < s->final && strchr(" \n\t\"*", s->text[lead]))
        lead++;
    return s->final - lead >= sizeof not_found - 1 &&
           memcmp(s->text + lead, not_found, sizeof not_found - 1) == 0;
}

static enum cairn_err refuse(struct answer *a, enum refusal r, struct cairn_why *why)
{
    cairn_free(a->sentences);
    a->sentences = NULL;
    a->n_sentences = 0;
    cairn_free(a->text);
    a->text = cairn_strdup("");
    a->text_len = 0;
    a->refusal = r;
    a->refusal_message = cairn_strdup(refusal_text(r));
    a->finish = "refused";
    a->support_score = 0;
    return a->text && a->refusal_message ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "refusal");
}

/* The checker over the first n sources, the first of them cut to first_len bytes. */
static enum cairn_err open_grounding(struct work *w, size_t n, size_t first_len, struct cairn_str question,
                                     struct cairn_why *why)
{
    struct ground_source s[GROUND_SOURCES_MAX];
    for (size_t i = 0; i < n; i++) {
        const struct answer_source *a = &w->q->sources[i];
        size_t len = i == 0 && first_len < a->text.len ? first_len : a->text.len;
        len = len < GROUND_SOURCE_BYTES_MAX ? len : GROUND_SOURCE_BYTES_MAX;
        s[i] = (struct ground_source){
            .text = {a->text.p, cairn_utf8_floor(a->text.p, len)},
              .vector = a->vector
        };
        w->lens[i] = s[i].text.len;
    }
    w->n_sources = n;
    grounding_close(w->grounding);
    w->grounding = NULL;
    const struct ground_opts o = {.embedder = w->g->embedder,
                                  .encoder = conf(w->g, "grounding.encoder") < 0.5 ? NULL : w->g->encoder,
                                  .embed_baseline = w->g->baseline,
                                  .language = w->q->language,
                                  .question = question,
                                  .by_hand = conf(w->g, "grounding.trained") < 0.5,
                                  .support_min = (float)conf(w->g, "grounding.support_min")};
    return grounding_open(&w->grounding, s, n, &o, why);
}

/* The rule that this answer is written under; NULL: none. */
static enum cairn_err open_rule(struct work *w, const struct prompt *p, struct constrain **out,
                                struct cairn_why *why)
{
    *out = NULL;
    struct generator *g = w->g;
    enum answer_rule rule = w->q->rule;
    if (rule == ANSWER_RULE_CONFIG)
        rule = conf(g, "generator.citations_constrained") > 0 ? ANSWER_RULE_CITATIONS : ANSWER_RULE_NONE;
    if (rule == ANSWER_RULE_NONE || w->q->style == ANSWER_PHRASE) /* a phrase is found again in the sources */
        return CAIRN_OK;
    (void)pthread_mutex_lock(&g->lock);
    enum cairn_err err =
        g->vocab ? CAIRN_OK : constrain_vocab_open(&g->vocab, decoder_tokenizer(g->decoder), why);
    (void)pthread_mutex_unlock(&g->lock);
    if (err || rule == ANSWER_RULE_CITATIONS)
        return err ? err : constrain_citations(out, g->vocab, p->sources_used, why);
    struct cairn_str passages[GROUND_SOURCES_MAX];
    for (size_t i = 0; i < p->sources_used; i++) {
        passages[i] = w->q->sources[i].text;
        if (i == 0 && p->first_len < passages[i].len)
            passages[i].len = cairn_utf8_floor(passages[i].p, p->first_len);
    }
    return constrain_quote(out, g->vocab, passages, p->sources_used, QUOTE_SENTENCES, why);
}

/* For a phrase the model reads the sources of the reader's best spans only: a prompt a third as long. */
static size_t pick_sources(const struct work *w, struct answer_source *out, size_t max)
{
    size_t n = 0;
    bool taken[GROUND_SOURCES_MAX] = {0};
    for (size_t i = 0; i < w->n_spans && n < max; i++) {
        uint32_t s = w->spans[i].source;
        if (taken[s])
            continue;
        taken[s] = true;
        out[n++] = w->q->sources[s];
    }
    return n;
}

/* Takes what is written for the job into the stream, and finished sentences to the checker, until the answer
 * ends. ids has room for max. */
static enum cairn_err take_tokens(struct work *w, struct schedule_job *job, int32_t *ids, size_t max,
                                  struct cairn_why *why)
{
    struct answer *a = w->a;
    const struct tokenizer *t = decoder_tokenizer(w->g->decoder);
    enum cairn_err err = CAIRN_OK;
    size_t n_ids = 0;
    int64_t t0 = cairn_now_us();
    a->finish = "length";
    while (n_ids < max && !w->cancelled) {
        int32_t id;
        err = schedule_next(job, &id, why);
        if (err)
            break;
        if (n_ids == 0)
            a->first_token_us = cairn_now_us() - w->start_us;
        if (id < 0) {
            a->finish = "end";
            break;
        }
        ids[n_ids++] = id;
        struct cairn_str piece = tokenizer_piece(t, id, false);
        size_t from;
        stream_add(&w->stream, piece.p, piece.len, &from);
        emit(w, false);
        if (says_not_found(&w->stream)) {
            a->finish = "end";
            break;
        }
        struct cairn_span span;
        bool room_left = true;
        while (w->q->style == ANSWER_SENTENCES && stream_sentence(&w->stream, false, &span))
            room_left = checker_add(&w->checker, span) && room_left;
        if (!checker_tell(&w->checker, w->q, false))
            w->cancelled = true;
        if (w->stream.stopped) {
            a->finish = "stop";
            break;
        }
        if (w->stream.full || !room_left)
            break;
        if (stream_looping(ids, n_ids)) {
            a->finish = "repetition";
            break;
        }
    }
    struct schedule_usage usage;
    schedule_usage_get(job, &usage);
    a->prefill_us = usage.prefill_us;
    a->decode_us = cairn_now_us() - t0 - usage.waited_us - usage.prefill_us;
    a->cached_tokens = (uint32_t)usage.cached_tokens;
    a->drafted_tokens = (uint32_t)usage.drafted;
    a->accepted_tokens = (uint32_t)usage.accepted;
    a->completion_tokens = (uint32_t)n_ids;
    if ((err == CAIRN_ESTOPPED || err == CAIRN_EDEADLINE) && w->stream.final > 0) {
        a->finish = err == CAIRN_ESTOPPED ? "cancelled" : "deadline";
        err = CAIRN_OK;
    }
    if (w->cancelled)
        a->finish = "cancelled";
    return err;
}

/* What fits beside max_tokens of answer. */
static void prompt_room(const struct generator *g, uint32_t max_tokens, struct prompt_limits *limits)
{
    *limits = (struct prompt_limits){.context_tokens = (size_t)conf(g, "generator.context_tokens"),
                                     .question_tokens_max = (size_t)conf(g, "generator.question_tokens_max"),
                                     .sources_max = (size_t)conf(g, "generator.sources_max")};
    size_t left = decoder_n_ctx(g->decoder) - max_tokens,
           taken = RESERVE_TOKENS + limits->question_tokens_max, room = left > taken ? left - taken : 64;
    if (limits->context_tokens > room)
        limits->context_tokens = room;
}

static enum cairn_err generate(struct work *w, struct cairn_why *why)
{
    struct generator *g = w->g;
    struct answer *a = w->a;
    const struct answer_request *q = w->q;
    const struct tokenizer *t = decoder_tokenizer(g->decoder);
    uint32_t max_tokens = q->max_tokens               ? q->max_tokens
                          : q->style == ANSWER_PHRASE ? PHRASE_TOKENS_MAX
                                                      : (uint32_t)conf(g, "generator.answer_tokens_max");
    struct prompt_limits limits;
    if (max_tokens > decoder_n_ctx(g->decoder) / 2)
        max_tokens = decoder_n_ctx(g->decoder) / 2;
    prompt_room(g, max_tokens, &limits);
    int64_t t0 = cairn_now_us();
    struct prompt p;
    struct answer_source picked[PHRASE_SOURCES_MAX];
    struct answer_request shown = *q;
    if (q->style == ANSWER_PHRASE && w->n_spans) {
        shown.n_sources = pick_sources(w, picked, PHRASE_SOURCES_MAX);
        shown.sources = picked;
    }
    enum cairn_err err = prompt_build(&p, t, decoder_template(g->decoder), &shown, &limits, why);
    if (err)
        return err;
    /* what the model does not see is no evidence for what it writes; a phrase has to stand in a source word
     * by word, seen or not */
    if (q->style == ANSWER_SENTENCES)
        err = open_grounding(w, p.sources_used, p.first_len, q->question, why);
    if (!err)
        err =
            checker_start(&w->checker, w->g, w->grounding, w->stream.text, w->q, w->lens, w->n_sources, why);
    if (err) {
        prompt_release(&p);
        return err;
    }
    a->prompt_us += cairn_now_us() - t0;
    a->prompt_tokens = (uint32_t)p.n;
    a->sources_used = (uint32_t)p.sources_used;
    a->sources_dropped = (uint32_t)p.sources_dropped;
    a->prompt_hash = cairn_hash_bytes(p.ids, p.n * sizeof *p.ids);
    struct schedule_job *job = NULL;
    struct constrain *rule = NULL;
    int32_t *ids = cairn_malloc((size_t)max_tokens * sizeof *ids);
    if (!ids) {
        err = cairn_fail(why, CAIRN_ENOMEM, "answer of %u tokens", max_tokens);
        goto done;
    }
    err = open_rule(w, &p, &rule, why);
    if (err)
        goto done;
    err = schedule_submit(
        g->schedule,
        &(struct schedule_request){
            .ids = p.ids,
            .n = p.n,
            .share = {.n_public = p.n_fixed, .has_partition = q->has_partition, .partition = q->partition},
            .max_tokens = max_tokens,
            .sampler =
                { .temperature = q->temperature,    .top_p = q->top_p,                 .min_p = q->min_p,          .state = q->seed},
            .choose = rule ? constrain_choose : NULL,
            .ctx = rule,
            .stop = w->stop
    },
        &job, why);
    if (err)
        goto done;
    err = take_tokens(w, job, ids, max_tokens, why);
    schedule_drop(job); /* from here on the rule is ours */
    job = NULL;
    if (!err) {
        size_t from, passage;
        char mark[16];
        if (rule && constrain_source(rule, &passage) && !w->stream.stopped) /* a quote says whose it is */
            stream_add(&w->stream, mark, (size_t)snprintf(mark, sizeof mark, " [%zu]", passage + 1), &from);
        stream_end(&w->stream, &from);
        emit(w, true);
    }
done:
    schedule_drop(job);
    constrain_close(rule);
    cairn_free(ids);
    prompt_release(&p);
    return err;
}

/* The sources' sentences, ordered by how well they answer; once per answer. */
static enum cairn_err candidates(struct work *w, struct cairn_why *why)
{
    if (w->scored)
        return CAIRN_OK;
    enum cairn_err err = grounding_align(w->grounding, w->q->question, w->aligned, why);
    if (!err)
        err = extract_score(w->grounding, w->q, w->g->reranker, w->g->embedder, &w->list, w->stop, why);
    w->scored = !err;
    return err;
}

/* What the reader finds in the sources; once per answer. */
static enum cairn_err read_spans(struct work *w, struct cairn_why *why)
{
    if (!w->g->reader || w->has_read)
        return CAIRN_OK;
    enum cairn_err err =
        reader_read(w->g->reader, w->q, w->lens, w->n_sources, w->spans, &w->n_spans, w->stop, why);
    w->has_read = !err;
    return err;
}

/* The words at a place of a source, cited, are the answer. */
static enum cairn_err put_phrase(struct work *w, const struct phrase_place *p, struct cairn_why *why)
{
    struct answer *a = w->a;
    const struct answer_source *s = &w->q->sources[p->source];
    struct cairn_buf b;
    cairn_buf_init(&b, STREAM_TEXT_BYTES_MAX);
    for (size_t i = p->start; i < p->end; i++) { /* words verbatim; line breaks become spaces */
        char c = strchr("\n\r\t", s->text.p[i]) ? ' ' : s->text.p[i];
        if (c != ' ' || !b.len || b.bytes[b.len - 1] != ' ')
            cairn_buf_put(&b, &c, 1);
    }
    cairn_buf_printf(&b, " [%u]", p->source + 1);
    cairn_free(a->text);
    cairn_free(a->sentences);
    a->text = b.failed ? NULL : cairn_strndup(b.bytes, b.len);
    a->text_len = b.len;
    cairn_buf_release(&b);
    a->sentences = cairn_calloc(1, sizeof *a->sentences);
    if (!a->text || !a->sentences)
        return cairn_fail(why, CAIRN_ENOMEM, "answer");
    a->n_sentences = 1;
    a->sentences[0] = (struct ground_sentence){
        .end = a->text_len,
        .verdict = VERDICT_SUPPORTED,
        .score = 1,
        .evidence = {{.source = p->source, .start = p->from, .end = p->to, .score = 1}},
        .n_evidence = 1,
        .flags = {{.kind = "verbatim", .start = 0, .end = p->end - p->start}},
        .n_flags = 1,
        .cited = {p->source},
        .n_cited = 1,
        .cited_ok = {true}};
    a->sentences[0].flags[0].end = a->text_len - (size_t)snprintf(NULL, 0, " [%u]", p->source + 1);
    a->support_score = 1;
    if (!w->q->on_event || w->cancelled)
        return CAIRN_OK;
    struct answer_event text =
                            {
                                .kind = ANSWER_EVENT_DELTA, .delta = {a->text, a->text_len}
    },
                        verdict = {.kind = ANSWER_EVENT_SENTENCE, .sentence = &a->sentences[0]};
    if (!w->q->on_event(w->q->ctx, &text) || !w->q->on_event(w->q->ctx, &verdict))
        w->cancelled = true;
    return CAIRN_OK;
}

static struct phrase_place place_of(const struct work *w, const struct reader_span *s)
{
    struct cairn_str text = {w->q->sources[s->source].text.p, w->lens[s->source]};
    struct cairn_span in = phrase_sentence(text, s->start, s->end);
    return (struct phrase_place){s->source, s->start, s->end, in.start, in.end};
}

static enum cairn_err extract(struct work *w, size_t n_sources, struct cairn_why *why)
{
    struct extract_pick picks[8];
    size_t max = (size_t)conf(w->g, "generator.extract_sentences_max");
    w->a->sources_used = (uint32_t)n_sources;
    w->a->sources_dropped = (uint32_t)(w->q->n_sources - n_sources);
    w->a->prompt_hash = cairn_hash_bytes(w->q->question.p, w->q->question.len);
    int64_t t0 = cairn_now_us();
    if (w->q->style == ANSWER_PHRASE && w->g->reader) {
        enum cairn_err read = read_spans(w, why);
        w->a->decode_us = cairn_now_us() - t0;
        w->a->finish = "end";
        if (read || !w->n_spans)
            return read;
        struct phrase_place p = place_of(w, &w->spans[0]);
        w->phrased = true;
        return put_phrase(w, &p, why);
    }
    enum cairn_err err = candidates(w, why);
    if (err)
        return err;
    size_t n = extract_choose(&w->list, w->q, max < 8 ? max : 8,
                              (float)conf(w->g, "generator.extract_share_min"), picks);
    err = checker_start(&w->checker, w->g, w->grounding, w->stream.text, w->q, w->lens, w->n_sources, why);
    if (err)
        return err;
    w->a->decode_us = cairn_now_us() - t0;
    w->a->finish = "end";
    for (size_t i = 0; i < n && !w->cancelled; i++) {
        struct stream *s = &w->stream;
        struct cairn_str t = {w->q->sources[picks[i].source].text.p + picks[i].start,
                              picks[i].end - picks[i].start};
        size_t from;
        if (i) {
            char before = s->len >= 5 ? s->text[s->len - 5] : ' '; /* "x. [1]" */
            stream_add(s, strchr(".!?", before) ? " " : "\n\n", strchr(".!?", before) ? 1 : 2, &from);
        }
        size_t start = s->len;
        for (size_t k = 0; k < t.len; k++) { /* words verbatim; line breaks become spaces */
            char c = t.p[k] == '\n' || t.p[k] == '\r' || t.p[k] == '\t' ? ' ' : t.p[k];
            if (c == ' ' && s->len > start && s->text[s->len - 1] == ' ')
                continue;
            stream_add(s, &c, 1, &from);
        }
        char mark[16];
        int m = snprintf(mark, sizeof mark, " [%u]", picks[i].source + 1);
        stream_add(s, mark, (size_t)m, &from);
        stream_end(s, &from);
        if (i == 0)
            w->a->first_token_us = cairn_now_us() - w->start_us;
        emit(w, true);
        if (s->stopped || s->full) /* cut inside the quotation: finish() takes what is left */
            break;
        s->checked = s->final;
        (void)checker_add(&w->checker, (struct cairn_span){start, s->final});
        if (!checker_tell(&w->checker, w->q, false))
            w->cancelled = true;
    }
    if (w->cancelled)
        w->a->finish = "cancelled";
    else if (w->stream.stopped)
        w->a->finish = "stop";
    return CAIRN_OK;
}

/* A stream whose text or sentences are not those of the answer is told again from the start. */
static void tell_again(struct work *w, const char *reason)
{
    const struct answer *a = w->a;
    struct answer_event e = {.kind = ANSWER_EVENT_RESTART, .reason = reason};
    if (!w->emitted || !w->q->on_event || w->cancelled)
        return;
    bool go_on = w->q->on_event(w->q->ctx, &e);
    e = (struct answer_event){
        .kind = ANSWER_EVENT_DELTA, .delta = {a->text, a->text_len}
    };
    if (go_on && a->text_len)
        go_on = w->q->on_event(w->q->ctx, &e);
    for (size_t i = 0; i < a->n_sentences && go_on; i++) {
        e = (struct answer_event){.kind = ANSWER_EVENT_SENTENCE, .sentence = &a->sentences[i]};
        go_on = w->q->on_event(w->q->ctx, &e);
    }
    w->emitted = a->text_len;
    w->cancelled = !go_on;
}

/* Takes back unsupported sentences when they are not wanted, and in any case those with a number that no
 * passage cited by the answer has, and marks of the model's that name a source which does not carry their
 * sentence. */
static enum cairn_err take_back(struct work *w, bool unsupported, struct cairn_why *why)
{
    struct answer *a = w->a;
    const struct checker *c = &w->checker;
    struct cairn_str cited[GROUND_SOURCES_MAX], text = {a->text, a->text_len};
    size_t n_cited = 0;
    bool has[GROUND_SOURCES_MAX] = {0}, drop[SENTENCES_MAX] = {0}, changed;
    for (size_t i = 0; i < a->n_sentences; i++)
        for (size_t k = 0; k < a->sentences[i].n_evidence; k++) {
            uint32_t s = a->sentences[i].evidence[k].source;
            if (!ground_evidence_cited(&a->sentences[i], k) || s >= c->n_passages || has[s])
                continue;
            has[s] = true;
            cited[n_cited++] = c->passages[s];
        }
    for (size_t i = 0; i < a->n_sentences; i++) {
        const struct ground_sentence *s = &a->sentences[i];
        drop[i] =
            (unsupported && s->verdict == VERDICT_UNSUPPORTED) ||
            (s->verdict != VERDICT_SUPPORTED && !phrase_numbers_in(text, s->start, s->end, cited, n_cited));
    }
    /* quoted words stay as they are: the only mark of ours stands behind them */
    bool marks = a->mode == ANSWER_GENERATE && w->q->rule != ANSWER_RULE_QUOTE;
    enum cairn_err err = withhold(a, drop, marks, &changed, why);
    if (!err && (changed || c->full))
        tell_again(w, "checked");
    return err;
}

/* Phrase style: what was written is the answer where a source has those words; else what the reader found. */
static enum cairn_err finish_phrase(struct work *w, struct cairn_why *why)
{
    struct answer *a = w->a;
    struct phrase_place p;
    struct cairn_str wrote = phrase_trim((struct cairn_str){w->stream.text, w->stream.final});
    checker_stop(&w->checker);
    bool refused = says_not_found(&w->stream) || (wrote.len && grounding_is_refusal(wrote));
    if (!refused && phrase_find(wrote, w->q, w->lens, w->n_sources, w->spans, w->n_spans, &p))
        return put_phrase(w, &p, why);
    for (size_t i = 0; i < w->n_spans && !refused; i++)
        if (w->spans[i].source < w->n_sources && w->spans[i].end <= w->lens[w->spans[i].source]) {
            p = place_of(w, &w->spans[i]);
            return put_phrase(w, &p, why);
        }
    return refuse(a, refused ? REFUSAL_MODEL : REFUSAL_UNSUPPORTED, why);
}

static enum cairn_err finish(struct work *w, struct cairn_why *why)
{
    struct answer *a = w->a;
    struct checker *c = &w->checker;
    struct cairn_span span;
    bool refused = says_not_found(&w->stream);
    while (!refused && stream_sentence(&w->stream, true, &span) && checker_add(c, span))
        ;
    (void)checker_tell(c, w->q, true);
    if (c->err)
        return cairn_wrap(why, c->err, "%s", c->why.text);
    a->check_us = c->busy_us;
    if (c->full) { /* text without a verdict is no part of an answer */
        w->stream.final = c->spans[c->queued - 1].end;
        if (strcmp(a->finish, "end") == 0 || strcmp(a->finish, "stop") == 0)
            a->finish = "length";
    }
    a->text = cairn_strndup(w->stream.text, w->stream.final);
    a->text_len = w->stream.final;
    a->n_sentences = c->done;
    a->sentences = cairn_calloc(c->done ? c->done : 1, sizeof *a->sentences);
    if (!a->text || !a->sentences)
        return cairn_fail(why, CAIRN_ENOMEM, "answer");
    memcpy(a->sentences, c->list, c->done * sizeof *a->sentences);
    size_t supported = 0;
    double good = 0, all = 0;
    for (size_t i = 0; i < a->n_sentences; i++) {
        const struct ground_sentence *s = &a->sentences[i];
        supported += s->verdict == VERDICT_SUPPORTED;
        if (s->verdict != VERDICT_NO_CLAIM) {
            all += (double)(s->end - s->start);
            good += s->verdict == VERDICT_SUPPORTED ? (double)(s->end - s->start) : 0;
        } else {
            refused =
                refused || grounding_is_refusal((struct cairn_str){a->text + s->start, s->end - s->start});
        }
        a->citations_dropped += s->citations_dropped;
    }
    a->support_score = all > 0 ? (float)(good / all) : 1;
    /* asked for a number or a date, and no supported sentence has any */
    bool beside = w->a->mode == ANSWER_GENERATE && supported > 0 && a->refusal == REFUSAL_NONE;
    enum asked asks = question_asks(w->q->question);
    beside = beside && asks != ASKED_ANY && asks != ASKED_PERSON;
    for (size_t i = 0; i < a->n_sentences && beside; i++)
        beside = a->sentences[i].verdict != VERDICT_SUPPORTED ||
                 !answer_has(ASKED_VALUE,
                             (struct cairn_str){a->text + a->sentences[i].start,
                                                a->sentences[i].end - a->sentences[i].start},
                             w->q->question);
    if (beside)
        supported = 0;
    bool cut_short = strcmp(a->finish, "cancelled") == 0 || strcmp(a->finish, "deadline") == 0;
    if (!supported && !cut_short)
        return refuse(a, refused ? REFUSAL_MODEL : REFUSAL_UNSUPPORTED, why);
    bool any = false;
    for (size_t i = 0; i < a->n_sentences; i++)
        any = any || a->sentences[i].verdict == VERDICT_UNSUPPORTED;
    if (any && w->q->enforce == ENFORCE_ABSTAIN && !cut_short)
        return refuse(a, REFUSAL_UNSUPPORTED, why);
    /* what was cut short is no refusal, and keeps what is carried */
    return take_back(w, w->q->enforce != ENFORCE_MARK, why);
}

/* Is there a sentence that the pair model takes for an answer, of the kind asked for? */
static bool quotable(const struct work *w)
{
    return w->scored && w->list.n && !w->cancelled && w->list.c[0].logit >= QUOTE_LOGIT_MIN &&
           w->list.c[0].typed;
}

/* Mode auto wrote what no source carries: the answer is a quotation after all. A RESTART event takes back
 * what was sent of the first text, and the quotation is streamed in its place. */
static enum cairn_err quote_instead(struct work *w, size_t n_sources, struct cairn_why *why)
{
    struct answer *a = w->a;
    checker_stop(&w->checker);
    memset(&w->checker, 0, sizeof w->checker);
    bool sent = w->emitted > 0;
    stream_release(&w->stream);
    w->emitted = 0;
    enum cairn_err err = stream_init(&w->stream, w->q->stop, w->q->n_stop, why);
    if (!err)
        err = open_grounding(w, n_sources, SIZE_MAX, (struct cairn_str){0}, why);
    if (err)
        return err;
    struct answer first = *a; /* its numbers */
    answer_release(a);
    a->mode = ANSWER_EXTRACT;
    a->evidence = first.evidence;
    struct answer_event restart = {.kind = ANSWER_EVENT_RESTART, .reason = "quoted"};
    if (sent && w->q->on_event && !w->q->on_event(w->q->ctx, &restart))
        return cairn_fail(why, CAIRN_ESTOPPED, "cancelled by the caller");
    err = extract(w, n_sources, why);
    if (!err)
        err = finish(w, why);
    a->prompt_tokens = first.prompt_tokens;
    a->completion_tokens = first.completion_tokens;
    a->cached_tokens = first.cached_tokens;
    a->drafted_tokens = first.drafted_tokens;
    a->accepted_tokens = first.accepted_tokens;
    a->prompt_hash = first.prompt_hash;
    a->prompt_us = first.prompt_us;
    a->prefill_us = first.prefill_us;
    a->first_token_us = first.first_token_us;
    a->decode_us += first.decode_us;
    return err;
}

float relevance_chance(float rerank, const float f[GF_N])
{
    float z;
    if (!isnan(rerank))
        z = 0.45f * rerank + 1.5f * f[GF_COV2] - 4.5f * f[GF_NUM] - 1.5f * f[GF_NAME] + 0.3f;
    else
        z = 5.0f * f[GF_COV2] + 2.0f * f[GF_CTX] - 2.5f * f[GF_NUM] - 1.0f * f[GF_NAME] - 3.2f;
    return 1 / (1 + expf(-z));
}

static enum cairn_err relevance(struct work *w, size_t n_sources, float *chance, struct cairn_why *why)
{
    const struct answer_request *q = w->q;
    enum cairn_err err = candidates(w, why);
    if (err)
        return err;
    struct answer_evidence e;
    err = evidence_of(q, n_sources, &w->list, &e, why);
    if (!err &&
        q->style == ANSWER_PHRASE) /* the reader looks for a phrase: of whole sentences it knows less */
        err = read_spans(w, why);
    if (!err && w->n_spans)
        e.margin = w->spans[0].margin;
    if (!err && isnan(e.rerank) && w->g->reranker) {
        struct cairn_str texts[RELEVANCE_SOURCES_MAX];
        float logits[RELEVANCE_SOURCES_MAX];
        size_t n = n_sources < RELEVANCE_SOURCES_MAX ? n_sources : RELEVANCE_SOURCES_MAX;
        for (size_t i = 0; i < n; i++)
            texts[i] = q->sources[i].text;
        err = encoder_score_pairs(w->g->reranker, q->question, texts, n, logits, w->stop, why);
        for (size_t i = 0; i < n && !err; i++)
            if (!(e.rerank >= logits[i]))
                e.rerank = logits[i];
    }
    if (err)
        return err;
    float dense = NAN;
    for (size_t i = 0; i < q->n_sources; i++)
        if (!isnan(q->sources[i].dense) && !(dense >= q->sources[i].dense))
            dense = q->sources[i].dense;
    if (!isnan(dense) && w->g->embedder)
        e.dense = (dense - w->g->baseline) / (1 - w->g->baseline);
    bool known = !isnan(e.margin) || (!isnan(e.rerank) && !isnan(e.sentence));
    *chance = known ? evidence_chance(&e) : relevance_chance(e.rerank, w->aligned);
    e.chance = *chance;
    w->a->evidence = e;
    return CAIRN_OK;
}

enum cairn_err generator_answer(struct generator *g, const struct answer_request *q, struct answer *out,
                                const struct cairn_stop *stop, struct cairn_why *why)
{
    memset(out, 0, sizeof *out);
    out->evidence = (struct answer_evidence){.chance = NAN,
                                             .rerank = NAN,
                                             .sentence = NAN,
                                             .dense = NAN,
                                             .margin = NAN,
                                             .cover = NAN,
                                             .lacks = NAN,
                                             .nowhere = NAN,
                                             .plain = NAN,
                                             .typed = NAN};
    struct work w = {.g = g, .q = q, .stop = stop, .a = out, .start_us = cairn_now_us()};
    if (!q->question.len)
        return cairn_fail(why, CAIRN_EINVAL, "the question is empty");
    if (q->question.len > QUESTION_BYTES_MAX ||
        (!g->decoder && q->question.len / 4 > (size_t)conf(g, "generator.question_tokens_max")))
        return cairn_fail(why, CAIRN_EINVAL,
                          "question of %zu bytes: at most %u bytes and generator.question_tokens_max tokens",
                          q->question.len, QUESTION_BYTES_MAX);
    if (cairn_utf8_invalid_at(q->question.p, q->question.len) != q->question.len)
        return cairn_fail(why, CAIRN_EINVAL, "the question is not UTF-8");
    if (q->n_sources > GROUND_SOURCES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "%zu sources for an answer: at most %u, pass the best ones",
                          q->n_sources, GROUND_SOURCES_MAX);
    for (size_t i = 0; i < q->n_sources; i++)
        if (cairn_utf8_invalid_at(q->sources[i].text.p, q->sources[i].text.len) != q->sources[i].text.len ||
            cairn_utf8_invalid_at(q->sources[i].title.p, q->sources[i].title.len) != q->sources[i].title.len)
            return cairn_fail(why, CAIRN_EINVAL, "source %zu is not UTF-8", i + 1);
    enum answer_mode mode = q->mode;
    if (mode == ANSWER_GENERATE && !g->decoder)
        return cairn_fail(
            why, CAIRN_ESTATE,
            "no generator model is loaded: ask with mode extract, or fetch one with scripts/models");
    if (mode == ANSWER_AUTO)
        mode = g->decoder && (double)g->weight_bytes >= conf(g, "generator.auto_weight_bytes_min")
                   ? ANSWER_GENERATE
                   : ANSWER_EXTRACT;
    out->mode = mode;
    if (!q->n_sources)
        return refuse(out, REFUSAL_NO_PASSAGES, why);
    size_t n = (size_t)conf(g, "generator.sources_max");
    n = n < q->n_sources ? n : q->n_sources;
    enum cairn_err err = open_grounding(&w, n, SIZE_MAX, (struct cairn_str){0}, why);
    if (err)
        goto done;
    float floor = (float)conf(g, "generator.relevance_min"), chance = 1;
    if (floor > 0) {
        err = relevance(&w, n, &chance, why);
        if (err)
            goto done;
        if (chance < floor) {
            out->prompt_us = cairn_now_us() - w.start_us;
            out->sources_dropped = (uint32_t)q->n_sources;
            err = refuse(out, REFUSAL_LOW_RELEVANCE, why);
            goto done;
        }
    }
    err = stream_init(&w.stream, q->stop, q->n_stop, why);
    if (err)
        goto done;
    out->prompt_us = cairn_now_us() - w.start_us;
    if (q->style == ANSWER_PHRASE)
        err = read_spans(&w, why);
    if (!err)
        err = mode == ANSWER_GENERATE ? generate(&w, why) : extract(&w, n, why);
    if (!err && !w.phrased)
        err = q->style == ANSWER_PHRASE && mode == ANSWER_GENERATE ? finish_phrase(&w, why) : finish(&w, why);
    if (!err && q->mode == ANSWER_AUTO && q->style == ANSWER_SENTENCES &&
        out->refusal == REFUSAL_UNSUPPORTED && quotable(&w))
        err = quote_instead(&w, n, why);
    if (!err && out->refusal != REFUSAL_NONE)
        tell_again(&w, "refused");
done:
    checker_stop(&w.checker);
    stream_release(&w.stream);
    grounding_close(w.grounding);
    if (err)
        answer_release(out);
    return err;
}
