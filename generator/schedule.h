/* schedule.h - one thread that owns a decoder and writes for many requests at once: each step takes a piece
 * of the prompts that wait, one token of every answer that is being written, and drafts to verify, in one
 * pass over the weights. What a request gets does not depend on what others ask for, nor on drafts.
 *
 * Threads: a schedule is shared; a job belongs to the thread that submitted it. Lock order: schedule.lock is
 * never held while the decoder computes; the decoder's locks are taken without it.
 * COPIED / OWNED / BORROWED as in base.h. */
#ifndef CAIRN_GENERATOR_SCHEDULE_H
#define CAIRN_GENERATOR_SCHEDULE_H

#include <cairn/generator.h>

enum {
    SCHEDULE_BATCH_MAX = 16,
    SCHEDULE_QUEUE_MAX = 4096,
    SCHEDULE_PROMPT_ROWS_MAX = DECODER_ROWS_MAX - DECODER_LOGITS_FEW
};

struct schedule_opts {
    unsigned batch_max; /* requests in one step, 1..SCHEDULE_BATCH_MAX */
    unsigned queue_max; /* requests that wait for that, 1..SCHEDULE_QUEUE_MAX */
    /* tokens of prompts in a step that also writes, 1..SCHEDULE_PROMPT_ROWS_MAX: bounds how long a token
     * takes
     */
    unsigned prompt_rows;
    unsigned draft_max; /* tokens guessed for one answer in one step; 0: none */
    bool keep_prefixes;
};
struct schedule_request {
    const int32_t *ids; /* COPIED: the prompt */
    size_t n;
    struct decoder_share share;
    uint32_t max_tokens;
    struct sampler sampler;
    /* NULL: sampler_next(). Else the schedule's thread calls it for each token in turn; logits may be
     * overwritten; left: tokens that the answer may still have, this one counted; -1 ends it. ctx is in use
     * until the end, or until schedule_drop() returns. */
    int32_t (*choose)(void *ctx, struct sampler *s, float *logits, size_t n, float *scratch, size_t left);
    void *ctx;
    const struct cairn_stop *stop; /* BORROWED until schedule_drop(); may be NULL */
};

struct schedule;
struct schedule_job;
/* d is BORROWED; nobody else may compute with it for long. */
CAIRN_MUST_USE enum cairn_err schedule_open(struct schedule **out, struct decoder *d,
                                            const struct schedule_opts *o, struct cairn_why *why);
void schedule_close(struct schedule *s); /* close its jobs first; NULL is fine */

/* CAIRN_EBUSY when the queue is full; CAIRN_EFULL when the request could never fit. */
CAIRN_MUST_USE enum cairn_err schedule_submit(struct schedule *s, const struct schedule_request *q,
                                              struct schedule_job **out, struct cairn_why *why);
/* Waits for the next token. *id is -1 at the end: the model ended, or max_tokens are written. */
CAIRN_MUST_USE enum cairn_err schedule_next(struct schedule_job *j, int32_t *id, struct cairn_why *why);
/* Ends it, finished or not. One that was not taken in yet is gone at once; else its pages are free at the
 * next step, for which only a job with a `choose` waits. NULL is fine. */
void schedule_drop(struct schedule_job *j);

struct schedule_usage {
    size_t cached_tokens;          /* of the prompt, found computed */
    size_t drafted, accepted;      /* tokens */
    int64_t waited_us, prefill_us; /* before it was taken in; from there to its first token */
};
void schedule_usage_get(struct schedule_job *j, struct schedule_usage *out);
void schedule_stats_get(struct schedule *s, struct generator_stats *out);

#endif
