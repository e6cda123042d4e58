/* schedule.c - continuous batching.
 *
 * The list `active` and what is in a job but its lock's fields belong to the schedule's thread. A job is
 * allocated once, at submit: its tokens lie in one array, the prompt, then what was written, then the draft
 * that is being verified; all pages it may need are taken before its first step, so that what was begun can
 * be finished. Jobs are taken in as they came; one that must wait for pages holds back those behind it. One
 * that is dropped while it waits leaves the queue there and then: its place is somebody else's, and its
 * caller does not wait for the answers before it.
 *
 * A draft is verified by the rows that single tokens take, so the logits at each position are the same bits
 * with and without it, and each position is sampled from its own logits in order: the text is the same. */
#include "schedule.h"
#include "draft.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum {
    ROWS_FEW = DECODER_LOGITS_FEW, /* room for logits of tokens and drafts */
    ROWS_GUESSED = 8, /* tokens and drafts of a step that guesses: the kernels take eight rows at once */
    WAIT_MS = 20,     /* how often a waiting caller looks whether it was cancelled */
};

struct schedule_job {
    struct schedule *s;
    struct schedule_job *next; /* in the queue */
    struct decoder_seq *seq;
    struct decoder_share share;
    struct sampler sampler;
    int32_t (*choose)(void *, struct sampler *, float *, size_t, float *, size_t);
    void *ctx;
    size_t draft_length;           /* at most this many guesses */
    size_t n_prompt, n_ids, n_end; /* known tokens; room */
    size_t n_draft;                /* behind n_ids in the step that runs */
    bool ended;                    /* nothing more will be computed */
    enum cairn_err failed;         /* and why, in failed_why; the thread's until done */
    struct cairn_why failed_why;
    int64_t submitted_us, begun_us;

    pthread_cond_t changed; /* the rest: under schedule.lock */
    const struct cairn_stop *stop;
    size_t n_shown, n_read; /* tokens published, tokens taken */
    bool queued, done;
    bool unwanted, abandoned; /* unwanted: by its caller; abandoned: the thread is to free it */
    enum cairn_err err;
    struct cairn_why why;
    struct schedule_usage usage;

    int32_t ids[]; /* [n_end] */
};

struct schedule {
    struct decoder *d;
    struct schedule_opts o;
    size_t n_vocab;
    pthread_t thread;
    bool started;
    float *logits, *scratch; /* [ROWS_FEW + batch_max, n_vocab]; [n_vocab] */

    struct schedule_job *active[SCHEDULE_BATCH_MAX]; /* the thread's */
    size_t n_active, turn;

    pthread_mutex_t lock; /* guards the rest, and what jobs say */
    pthread_cond_t work;
    struct schedule_job *first, *last;
    size_t n_queued;
    bool starved; /* the head of the queue waits for pages of an active one */
    bool closing;
    struct generator_stats stats;
};

/* ---- what callers do
 * -------------------------------------------------------------------------------------------------------- */

enum cairn_err schedule_submit(struct schedule *s, const struct schedule_request *q,
                               struct schedule_job **out, struct cairn_why *why)
{
    *out = NULL;
    size_t n_ctx = decoder_n_ctx(s->d);
    if (!q->n || !q->max_tokens)
        return cairn_fail(why, CAIRN_EINVAL, "a prompt of %zu tokens for %u: both must be more than none",
                          q->n, q->max_tokens);
    if (q->n > n_ctx || q->max_tokens > n_ctx - q->n)
        return cairn_fail(
            why, CAIRN_EFULL,
            "a prompt of %zu tokens and %u to write do not fit in a context of %zu; shorten the "
            "prompt or ask for fewer",
            q->n, q->max_tokens, n_ctx);
    size_t room = q->n + q->max_tokens + DRAFT_MAX;
    struct schedule_job *j = cairn_calloc(1, sizeof *j + room * sizeof *j->ids);
    if (!j)
        return cairn_fail(why, CAIRN_ENOMEM, "request of %zu tokens", q->n);
    j->s = s;
    j->share = q->share;
    j->sampler = q->sampler;
    j->choose = q->choose;
    j->ctx = q->ctx;
    j->draft_length = DRAFT_START;
    j->n_prompt = j->n_ids = q->n;
    j->n_end = q->n + q->max_tokens;
    j->stop = q->stop;
    j->submitted_us = cairn_now_us();
    memcpy(j->ids, q->ids, q->n * sizeof *j->ids);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&j->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (rc) {
        cairn_free(j);
        return cairn_fail_errno(why, rc, "request");
    }
    (void)pthread_mutex_lock(&s->lock);
    bool room_left = s->n_queued < s->o.queue_max && !s->closing;
    if (room_left) {
        *(s->last ? &s->last->next : &s->first) = j;
        s->last = j;
        s->n_queued++;
        j->queued = true;
        (void)pthread_cond_signal(&s->work);
    } else {
        s->stats.rejected++;
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!room_left) {
        (void)pthread_cond_destroy(&j->changed);
        cairn_free(j);
        return cairn_fail(why, CAIRN_EBUSY,
                          "%u requests wait for the generator already; try again, or raise "
                          "generator.queue_max",
                          s->o.queue_max);
    }
    *out = j;
    return CAIRN_OK;
}

enum cairn_err schedule_next(struct schedule_job *j, int32_t *id, struct cairn_why *why)
{
    struct schedule *s = j->s;
    enum cairn_err err = CAIRN_OK;
    *id = -1;
    (void)pthread_mutex_lock(&s->lock);
    for (;;) {
        err = cairn_stopped(j->stop, why);
        if (err)
            break;
        if (j->n_read < j->n_shown) {
            *id = j->ids[j->n_prompt + j->n_read++];
            break;
        }
        if (j->done) {
            err = j->err;
            if (err && why)
                *why = j->why;
            break;
        }
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WAIT_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        (void)pthread_cond_timedwait(&j->changed, &s->lock, &until);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return err;
}

static void job_free(struct schedule_job *j)
{
    (void)pthread_cond_destroy(&j->changed);
    cairn_free(j);
}

static void leave_queue(struct schedule *s, struct schedule_job *j) /* under the lock */
{
    struct schedule_job **link = &s->first, *before = NULL;
    while (*link != j) {
        before = *link;
        link = &before->next;
    }
    *link = j->next;
    if (s->last == j)
        s->last = before;
    s->n_queued--;
    j->queued = false;
    if (!before) /* whoever is first now may need fewer pages */
        s->starved = false;
}

void schedule_drop(struct schedule_job *j)
{
    if (!j)
        return;
    struct schedule *s = j->s;
    (void)pthread_mutex_lock(&s->lock);
    if (j->queued) { /* the thread knows nothing of it, and may be long in looking */
        leave_queue(s, j);
        (void)pthread_mutex_unlock(&s->lock);
        job_free(j);
        return;
    }
    j->unwanted = true;
    (void)pthread_cond_signal(&s->work);
    while (j->choose && !j->done)
        (void)pthread_cond_wait(&j->changed, &s->lock);
    bool done = j->done;
    j->abandoned = !done;
    (void)pthread_mutex_unlock(&s->lock);
    if (done)
        job_free(j);
}

void schedule_usage_get(struct schedule_job *j, struct schedule_usage *out)
{
    (void)pthread_mutex_lock(&j->s->lock);
    *out = j->usage;
    (void)pthread_mutex_unlock(&j->s->lock);
}

void schedule_stats_get(struct schedule *s, struct generator_stats *out)
{
    struct decoder_kv kv;
    decoder_kv_get(s->d, &kv);
    (void)pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->waiting = s->n_queued;
    (void)pthread_mutex_unlock(&s->lock);
    out->kv_pages = kv.n_pages;
    out->kv_pages_free = kv.n_free;
    out->kv_pages_kept = kv.n_kept;
    out->kv_page_bytes = kv.page_bytes;
}

/* ---- the thread
 * -----------------------------------------------------------------------------------------------------------
 */

/* The job's end, as the caller will see it; the thread does not look at it again. */
static void let_go(struct schedule *s, struct schedule_job *j)
{
    if (j->seq) {
        if (s->o.keep_prefixes) /* with the page that is not full, now that nothing more is written to it */
            decoder_prefix_keep(j->seq, j->ids, j->n_prompt, &j->share);
        decoder_seq_close(j->seq);
        j->seq = NULL;
    }
    (void)pthread_mutex_lock(&s->lock);
    j->done = true;
    j->err = j->failed;
    j->why = j->failed_why;
    s->starved = false;
    bool abandoned = j->abandoned;
    (void)pthread_cond_broadcast(&j->changed);
    (void)pthread_mutex_unlock(&s->lock);
    if (abandoned)
        job_free(j);
}

/* Back to wait for pages; false: its caller has dropped it meanwhile. */
static bool put_first(struct schedule *s, struct schedule_job *j)
{
    (void)pthread_mutex_lock(&s->lock);
    bool wanted = !j->unwanted;
    if (wanted) {
        j->next = s->first;
        s->first = j;
        if (!s->last)
            s->last = j;
        s->n_queued++;
        j->queued = true;
        s->starved = true;
    }
    (void)pthread_mutex_unlock(&s->lock);
    return wanted;
}

/* A sequence with all its pages, its beginning found if it is known. */
static enum cairn_err begin(struct schedule *s, struct schedule_job *j, struct cairn_why *why)
{
    enum cairn_err err = decoder_seq_open(&j->seq, s->d, (uint32_t)j->n_end, why);
    uint32_t cached = 0;
    if (!err && s->o.keep_prefixes)
        cached = decoder_prefix_find(j->seq, j->ids, j->n_prompt, &j->share);
    if (!err)
        err = decoder_seq_reserve(j->seq, (uint32_t)j->n_end, why);
    if (err) {
        decoder_seq_close(j->seq);
        j->seq = NULL;
        return err;
    }
    j->begun_us = cairn_now_us();
    (void)pthread_mutex_lock(&s->lock);
    j->usage.waited_us = j->begun_us - j->submitted_us;
    j->usage.cached_tokens = cached;
    s->stats.prompt_tokens += j->n_prompt;
    s->stats.cached_tokens += cached;
    (void)pthread_mutex_unlock(&s->lock);
    return CAIRN_OK;
}

static void take_in(struct schedule *s)
{
    for (;;) {
        (void)pthread_mutex_lock(&s->lock);
        bool room = s->n_active < s->o.batch_max && !(s->starved && s->n_active);
        struct schedule_job *j = room ? s->first : NULL;
        if (j) {
            leave_queue(s, j);
            j->failed = cairn_stopped(j->stop, &j->failed_why);
        }
        (void)pthread_mutex_unlock(&s->lock);
        if (!j)
            return;
        if (!j->failed)
            j->failed = begin(s, j, &j->failed_why);
        if (j->failed == CAIRN_EFULL && s->n_active) { /* pages will come free */
            j->failed = CAIRN_OK;
            if (put_first(s, j))
                return;
            let_go(s, j);
        } else if (j->failed) {
            let_go(s, j);
        } else {
            s->active[s->n_active++] = j;
        }
    }
}

/* Lets go of what has ended or is not wanted any more. */
static void reap(struct schedule *s)
{
    (void)pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_active; i++) {
        struct schedule_job *j = s->active[i];
        if (!j->ended && j->unwanted)
            j->ended = true;
        else if (!j->ended && (j->failed = cairn_stopped(j->stop, &j->failed_why)) != CAIRN_OK)
            j->ended = true;
    }
    (void)pthread_mutex_unlock(&s->lock);
    size_t kept = 0;
    for (size_t i = 0; i < s->n_active; i++)
        if (s->active[i]->ended) {
            let_go(s, s->active[i]);
        } else {
            s->active[kept++] = s->active[i];
        }
    s->n_active = kept;
}

static size_t unread(const struct schedule_job *j) /* of the prompt */
{
    size_t len = decoder_seq_len(j->seq);
    return len < j->n_prompt ? j->n_prompt - len : 0;
}

/* Guesses for one answer, when `most` of them fit in the step. */
static size_t guess(struct schedule *s, struct schedule_job *j, size_t most)
{
    size_t left = j->n_end - j->n_ids - 1; /* the step writes one token more than it drafts */
    most = most < left ? most : left;
    most = most < j->draft_length ? most : j->draft_length;
    most = most < s->o.draft_max ? most : s->o.draft_max;
    if (!most)
        return 0;
    return draft_find(j->ids, j->n_ids, j->share.n_public, j->n_prompt, j->ids + j->n_ids, most);
}

/* Each answer's next token and drafts, and an even share of rows for each prompt, the one whose turn it is
 * first. */
static void make_step(struct schedule *s, struct decoder_item *items)
{
    size_t writing = 0, reading = 0;
    for (size_t i = 0; i < s->n_active; i++)
        *(unread(s->active[i]) ? &reading : &writing) += 1;
    size_t rows = writing ? s->o.prompt_rows : DECODER_ROWS_MAX;
    s->turn++;
    for (size_t i = 0; i < s->n_active; i++) {
        struct schedule_job *j = s->active[(i + s->turn) % s->n_active];
        struct decoder_item *t = &items[(i + s->turn) % s->n_active];
        size_t want = unread(j);
        j->n_draft = 0;
        if (want) {
            size_t share = (rows + reading - 1) / reading;
            want = want < share ? want : share;
            rows -= want;
            reading--;
            *t = (struct decoder_item){.seq = j->seq,
                                       .tokens = j->ids + decoder_seq_len(j->seq),
                                       .n = want,
                                       .n_logits = want == unread(j),
                                       .prompt = true};
        } else {
            j->n_draft = guess(s, j, writing < ROWS_GUESSED ? (ROWS_GUESSED - writing) / writing : 0);
            *t = (struct decoder_item){.seq = j->seq,
                                       .tokens = j->ids + j->n_ids - 1,
                                       .n = 1 + j->n_draft,
                                       .n_logits = 1 + j->n_draft};
        }
    }
}

/* Samples the rows of one job; a draft's token counts as long as it is what was sampled. */
static void read_logits(struct schedule *s, struct schedule_job *j, float *logits, size_t n)
{
    const struct tokenizer *t = decoder_tokenizer(s->d);
    size_t n_valid = t ? tokenizer_n_vocab(t) : s->n_vocab, accepted = 0;
    for (size_t i = 0; i < n && !j->ended; i++) {
        float *row = logits + i * s->n_vocab;
        int32_t id = j->choose ? j->choose(j->ctx, &j->sampler, row, n_valid, s->scratch, j->n_end - j->n_ids)
                               : sampler_next(&j->sampler, row, s->n_vocab, n_valid, s->scratch);
        bool guessed = i < j->n_draft && j->ids[j->n_ids] == id;
        if (id < 0 || (t && tokenizer_is_end(t, id))) {
            j->ended = true;
            break;
        }
        j->ids[j->n_ids++] = id;
        j->ended = j->n_ids == j->n_end;
        accepted += guessed;
        if (!guessed)
            break;
    }
    if (!j->ended && decoder_seq_len(j->seq) >= j->n_ids) /* of a draft, what did not come true */
        decoder_seq_truncate(j->seq, (uint32_t)j->n_ids - 1);
    j->draft_length = draft_length(j->draft_length, j->n_draft, accepted);
    (void)pthread_mutex_lock(&s->lock);
    if (j->n_shown == 0)
        j->usage.prefill_us = cairn_now_us() - j->begun_us;
    s->stats.drafted += j->n_draft;
    s->stats.accepted += accepted;
    s->stats.completion_tokens += j->n_ids - j->n_prompt - j->n_shown;
    j->usage.drafted += j->n_draft;
    j->usage.accepted += accepted;
    j->n_shown = j->n_ids - j->n_prompt;
    (void)pthread_cond_broadcast(&j->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

static void step(struct schedule *s)
{
    struct decoder_item all[SCHEDULE_BATCH_MAX] = {0}, items[SCHEDULE_BATCH_MAX];
    struct schedule_job *who[SCHEDULE_BATCH_MAX];
    struct cairn_why why = {{0}};
    size_t n = 0, row = 0;
    make_step(s, all);
    for (size_t i = 0; i < s->n_active; i++)
        if (all[i].n) { /* else a prompt that got no row this time */
            items[n] = all[i];
            who[n++] = s->active[i];
        }
    enum cairn_err err = decoder_step(s->d, items, n, s->logits, &why);
    if (err) { /* a device that failed: pages and limits were checked */
        for (size_t i = 0; i < n; i++) {
            who[i]->ended = true;
            who[i]->failed = err;
            who[i]->failed_why = why;
        }
        return;
    }
    (void)pthread_mutex_lock(&s->lock);
    s->stats.steps++;
    for (size_t i = 0; i < n; i++)
        s->stats.rows += items[i].n;
    (void)pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        if (items[i].prompt && items[i].n_logits && s->o.keep_prefixes) /* for those who ask the like now */
            decoder_prefix_keep(who[i]->seq, who[i]->ids, who[i]->n_prompt / DECODER_PAGE * DECODER_PAGE,
                                &who[i]->share);
        if (items[i].n_logits)
            read_logits(s, who[i], s->logits + row * s->n_vocab, items[i].n_logits);
        row += items[i].n_logits;
    }
}

static void *schedule_main(void *p)
{
    struct schedule *s = p;
    for (;;) {
        (void)pthread_mutex_lock(&s->lock);
        while (!s->closing && !s->first && !s->n_active) {
            s->stats.running = 0;
            (void)pthread_cond_wait(&s->work, &s->lock);
        }
        bool closing = s->closing;
        (void)pthread_mutex_unlock(&s->lock);
        if (closing)
            break;
        reap(s);
        take_in(s);
        (void)pthread_mutex_lock(&s->lock);
        s->stats.running = s->n_active;
        (void)pthread_mutex_unlock(&s->lock);
        if (s->n_active)
            step(s);
    }
    for (size_t i = 0; i < s->n_active; i++) {
        s->active[i]->failed = cairn_fail(&s->active[i]->failed_why, CAIRN_ESTOPPED, "the generator closes");
        let_go(s, s->active[i]);
    }
    return NULL;
}

enum cairn_err schedule_open(struct schedule **out, struct decoder *d, const struct schedule_opts *o,
                             struct cairn_why *why)
{
    *out = NULL;
    if (!o->batch_max || o->batch_max > SCHEDULE_BATCH_MAX || !o->queue_max ||
        o->queue_max > SCHEDULE_QUEUE_MAX || !o->prompt_rows || o->prompt_rows > SCHEDULE_PROMPT_ROWS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "schedule: batch_max 1..%d, queue_max 1..%d, prompt_rows 1..%d",
                          SCHEDULE_BATCH_MAX, SCHEDULE_QUEUE_MAX, SCHEDULE_PROMPT_ROWS_MAX);
    struct schedule *s = cairn_calloc(1, sizeof *s);
    if (!s)
        return cairn_fail(why, CAIRN_ENOMEM, "schedule");
    s->d = d;
    s->o = *o;
    s->n_vocab = decoder_n_vocab(d);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    s->logits = cairn_reallocarray(NULL, (ROWS_FEW + o->batch_max) * sizeof(float), s->n_vocab);
    s->scratch = cairn_reallocarray(NULL, sizeof(float), s->n_vocab);
    enum cairn_err err = CAIRN_OK;
    if (!s->logits || !s->scratch)
        err = cairn_fail(why, CAIRN_ENOMEM, "logits of %zu entries", s->n_vocab);
    int rc = err ? 0 : pthread_create(&s->thread, NULL, schedule_main, s);
    if (rc)
        err = cairn_fail_errno(why, rc, "thread of the generator");
    s->started = !err;
    if (err)
        schedule_close(s);
    else
        *out = s;
    return err;
}

void schedule_close(struct schedule *s)
{
    if (!s)
        return;
    if (s->started) {
        (void)pthread_mutex_lock(&s->lock);
        s->closing = true;
        (void)pthread_cond_signal(&s->work);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
        while (s->first) {
            struct schedule_job *j = s->first;
            leave_queue(s, j);
            j->failed = cairn_fail(&j->failed_why, CAIRN_ESTOPPED, "the generator closes");
            let_go(s, j);
        }
    }
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->work);
    cairn_free(s->logits);
    cairn_free(s->scratch);
    cairn_free(s);
}
