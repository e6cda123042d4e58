/* cairn/generator.h - passages and a question -> a cited answer with a verdict per sentence, or a refusal
 * with a reason; and the grounding checker on any text. Threads: a generator is shared; each answer runs on
 * the calling thread, its tokens come from the generator's own thread, which writes for all answers at once,
 * the checker of a finished sentence runs beside the decode of the next one on a thread of its own; on_event
 * is called from the calling thread only. COPIED / OWNED / BORROWED
 * as in base.h. Offsets are bytes. */
#ifndef CAIRN_GENERATOR_H
#define CAIRN_GENERATOR_H

#include <cairn/base.h>
#include <cairn/model.h>

extern const struct cairn_conf generator_conf[]; /* generator.context_tokens, generator.answer_tokens_max,
                                                    grounding.support_min, refusal thresholds ... */
extern const size_t generator_conf_len;

/* ---- grounding checker
 * -------------------------------------------------------------------------------------------- */

enum verdict { VERDICT_SUPPORTED, VERDICT_UNSUPPORTED, VERDICT_NO_CLAIM };
const char *verdict_name(enum verdict v); /* "supported", "unsupported", "no_claim" */
struct ground_source {
    struct cairn_str text;
    const float *vector; /* [dim] of the whole source or NULL */
};
struct ground_evidence {
    uint32_t source;   /* index into sources */
    size_t start, end; /* byte span in that source's text that carries the claim */
    float score;       /* support of the claim by this source alone, 0..1 */
};
#define GROUND_EVIDENCE_MAX 4u
#define GROUND_FLAGS_MAX 8u
struct ground_flag { /* why a claim is not supported, what was proved, or (of a supported one) where to look
                      */
    /* "number", "date", "time", "name", "quote", "identifier", "negation", "quantifier", "direction",
     * "binding", "coverage", "similarity", "citation"; or what was proved: "verbatim" */
    const char *kind;
    size_t start, end;  /* byte span in the checked text */
    bool contradiction; /* a source says otherwise, rather than nothing */
    float confidence;   /* 0..1: the chance that the claim was changed here, where one of two was; where a
                           source   says otherwise at least 0.5 */
};
struct ground_sentence {
    size_t start, end; /* byte span in the checked text, citation marks included */
    enum verdict verdict;
    float score;         /* support, 0..1; 0 for no_claim */
    float contradiction; /* 0..1 */
    struct ground_evidence evidence[GROUND_EVIDENCE_MAX];
    size_t n_evidence; /* best first; of an unsupported sentence only what contradicts it */
    struct ground_flag flags[GROUND_FLAGS_MAX];
    size_t n_flags;
    uint32_t cited[8]; /* source numbers (0-based) the sentence's [n] marks name */
    size_t n_cited;
    bool cited_ok[8]; /* the source named by cited[i] supports the sentence by itself: an answer keeps the
                         mark, and takes the others out of its text and of cited */
    uint32_t citations_dropped; /* marks that named no source, or one that does not support the sentence */
};
/* Is evidence i of a supported sentence cited: the best, and what is nearly as good? */
bool ground_evidence_cited(const struct ground_sentence *s, size_t i);
struct grounding; /* sources prepared once, sentences checked one by one */
/* Limits; beyond one of the first three is CAIRN_EFULL, naming it. */
#define GROUND_SOURCES_MAX 64u
#define GROUND_SOURCE_BYTES_MAX (64u * 1024u)
#define GROUND_TEXT_BYTES_MAX (256u * 1024u)
#define GROUND_CLAIM_WORDS_MAX                                                                               \
    512u                /* a longer sentence is unsupported: what is not read is not vouched for */
struct ground_combiner; /* trained, from `cairn train grounding`; read-only, shared by any threads */
CAIRN_MUST_USE enum cairn_err ground_combiner_open(struct ground_combiner **out, const char *path,
                                                   struct cairn_why *why);
void ground_combiner_close(struct ground_combiner *c);
/* A second look at claims that the combiner is unsure of: an encoder of the BERT family that says of each
 * token of a claim, read with its evidence, whether it is supported. Read-only, shared by any threads; calls
 * queue at the encoder. overlay NULL: the card's model is a token classifier of two outputs ("classifier",
 * the second is "not supported"); else what scripts/train_claims.py made over it. */
/* Looked at are the first ones of a text; each is one pass of at most 256 tokens. */
#define GROUND_ENCODER_CLAIMS_MAX 12u
struct ground_encoder;
CAIRN_MUST_USE enum cairn_err ground_encoder_open(struct ground_encoder **out, const struct model_card *card,
                                                  const char *overlay, const struct model_opts *o,
                                                  struct cairn_why *why);
void ground_encoder_close(struct ground_encoder *e);
struct ground_opts {
    struct encoder *embedder;  /* BORROWED; NULL: no embedding support signal */
    const char *language;      /* stemming; NULL: english */
    struct cairn_str question; /* words of the question are not evidence; may be empty */
    float support_min;         /* 0: 0.5; what grounding.support_min says is the caller's to pass */
    float embed_baseline; /* cosine of unrelated sentences under the embedder (grounding_embed_baseline); 0:
                             measured on first use */
    const struct ground_combiner *combiner; /* BORROWED until close; NULL: the shipped one */
    bool by_hand;                           /* none: the weights set by hand alone */
    const struct cairn_stop
        *stop; /* BORROWED until close, may be NULL: looked at once a source, once a sentence */
    const struct ground_encoder *encoder; /* BORROWED until close; NULL: none. With a combiner only */
    size_t encoder_claims_max;            /* in a text, or by grounding_check since open; 0: as above */
};
/* Mean cosine of a few unrelated sentences: what "no similarity" looks like under this model. */
CAIRN_MUST_USE enum cairn_err grounding_embed_baseline(struct encoder *e, float *out, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err grounding_open(struct grounding **out, const struct ground_source *sources,
                                             size_t n, const struct ground_opts *o, struct cairn_why *why);
void grounding_close(struct grounding *g);
/* One sentence: span [start, end) of text (the whole answer so far, so that offsets are final). */
CAIRN_MUST_USE enum cairn_err grounding_check(struct grounding *g, struct cairn_str text, size_t start,
                                              size_t end, struct ground_sentence *out, struct cairn_why *why);
/* Splits text and checks all. *list OWNED. support_score: share of claims supported, weighted by length,
 * 0..1; 1 when there is no claim. */
CAIRN_MUST_USE enum cairn_err grounding_check_text(struct grounding *g, struct cairn_str text,
                                                   struct ground_sentence **list, size_t *n,
                                                   float *support_score, struct cairn_why *why);

/* Chance that the text last given to grounding_check_text has something unsupported, 0..1; 0 when it made no
 * claim. */
float grounding_chance(const struct grounding *g);

/* ---- answers
 * ----------------------------------------------------------------------------------------------------------
 */

enum answer_mode { ANSWER_AUTO, ANSWER_GENERATE, ANSWER_EXTRACT };
/* What a model may write. Citations: after '[' the number of a source and ']'. Quote: sentences of one source
 * that follow each other, word for word, and its mark. */
enum answer_rule { ANSWER_RULE_CONFIG, ANSWER_RULE_NONE, ANSWER_RULE_CITATIONS, ANSWER_RULE_QUOTE };
/* Why there is no answer. Decided from evidence, not by asking the model. */
enum refusal { REFUSAL_NONE, REFUSAL_NO_PASSAGES, REFUSAL_LOW_RELEVANCE, REFUSAL_UNSUPPORTED, REFUSAL_MODEL };
const char *
refusal_name(enum refusal r); /* "none", "no_passages", "low_relevance", "unsupported", "model_refused" */

/* What an answer is: cited sentences, or the shortest phrase that answers (a name, a date, a number). */
enum answer_style { ANSWER_SENTENCES, ANSWER_PHRASE };

struct answer_source {
    struct cairn_str title, path, text; /* BORROWED for the call */
    float score, dense, rerank;         /* NaN = unknown */
    const float *vector;
};
/* RESTART: forget all deltas and sentences so far. "quoted": mode auto quotes, because what the model wrote
 * is not in the sources; "checked": the text comes again, without the sentences and marks that were taken
 * back; "refused": nothing comes, the answer is a refusal. The deltas since the last RESTART are the answer's
 * text. */
enum answer_event_kind { ANSWER_EVENT_DELTA, ANSWER_EVENT_SENTENCE, ANSWER_EVENT_RESTART };
struct answer_event {
    enum answer_event_kind kind;
    struct cairn_str delta;                 /* DELTA: text to append, whole code points, final */
    const struct ground_sentence *sentence; /* SENTENCE: a verdict; offsets into the text so far */
    const char *reason;                     /* RESTART */
};
/* What is done about a sentence that is judged unsupported: its verdict says so; it is left out of the final
 * text; or the answer is a refusal ("unsupported"). */
enum answer_enforce { ENFORCE_MARK, ENFORCE_DROP, ENFORCE_ABSTAIN };
struct answer_request {
    struct cairn_str question;
    const struct answer_source *sources; /* best first */
    size_t n_sources;
    enum answer_mode mode;
    enum answer_rule rule; /* for what is generated */
    enum answer_style style;
    uint32_t max_tokens;             /* 0: config */
    float temperature, top_p, min_p; /* temperature 0 = greedy; top_p 0 or 1 = off; min_p 0 = off */
    uint64_t seed;
    const char *const *stop; /* stop strings */
    size_t n_stop;
    const char *language;
    /* What the caller may read, as a hash: prompts of requests with the same one share what was computed for
     * their common beginning. Without it only our own words are shared. */
    bool has_partition;
    struct cairn_hash partition;
    enum answer_enforce enforce;
    /* Returns false to cancel. May be NULL. */
    bool (*on_event)(void *ctx, const struct answer_event *e);
    void *ctx;
};
/* What was known of question and sources before anything was written; what a refusal for low relevance rests
 * on. NaN: not known. */
struct answer_evidence {
    float chance;   /* that the sources hold the answer; refused below generator.relevance_min */
    float rerank;   /* pair model on the best passage */
    float sentence; /* on the best sentence */
    float dense;    /* best cosine of a source, 0 at that of unrelated texts, 1 for the same */
    float margin;   /* of the reader's best span over "no answer"; style phrase only */
    float cover;    /* share of the question's words in the best sentence */
    float lacks;    /* names, numbers and versions of the question that its passage lacks: 1 - exp(-n) */
    float nowhere;  /* those that no source has */
    float plain;    /* share of the other words that the passage lacks */
    float typed;    /* 1: the best sentence has a value of the kind asked for */
};
struct answer {
    struct answer_evidence evidence; /* all NaN: not looked at */
    char *text;                      /* OWNED by the answer; "" when refused */
    size_t text_len;
    struct ground_sentence *sentences;
    size_t n_sentences;
    enum refusal refusal;
    char *refusal_message; /* for a person; NULL when none */
    enum answer_mode mode; /* the one used */
    /* "end", "length" (of tokens, bytes or sentences), "stop", "cancelled", "deadline", "repetition",
     * "refused" */
    const char *finish;
    uint32_t prompt_tokens, completion_tokens, sources_used,
        sources_dropped;                      /* dropped: did not fit the budget */
    uint32_t cached_tokens;                   /* of the prompt, computed for an earlier one */
    uint32_t drafted_tokens, accepted_tokens; /* guessed by lookup, and come true */
    uint32_t citations_dropped;
    float support_score;
    struct cairn_hash prompt_hash;
    int64_t prompt_us, prefill_us, first_token_us, decode_us,
        check_us; /* first_token_us counts from the call's start */
};
/* The span reader: an overlay (model.h, encoder_open_over) over a pair model's file. */
struct reader;
CAIRN_MUST_USE enum cairn_err reader_open(struct reader **out, const struct model_card *base,
                                          const char *overlay, const struct model_opts *o,
                                          struct cairn_why *why);
void reader_close(struct reader *r);

struct generator;
/* All BORROWED; decoder NULL: extract mode only. embedder, reranker may be NULL. */
CAIRN_MUST_USE enum cairn_err generator_open(struct generator **out, struct decoder *d,
                                             struct encoder *embedder, struct encoder *reranker,
                                             const struct cairn_config *config, struct cairn_why *why);
void generator_close(struct generator *g);
/* BORROWED; before the first answer. With it extraction finds phrases and refusals know more. */
void generator_use_reader(struct generator *g, const struct reader *r);
/* The same: the second look at claims. */
void generator_use_encoder(struct generator *g, const struct ground_encoder *e);
/* Cancelled or past its deadline with text already written: CAIRN_OK with that text, its verdicts and finish
 * "cancelled" or "deadline"; with none: CAIRN_ESTOPPED or CAIRN_EDEADLINE. A refusal is CAIRN_OK. On failure
 * *out needs no release. */
CAIRN_MUST_USE enum cairn_err generator_answer(struct generator *g, const struct answer_request *q,
                                               struct answer *out, const struct cairn_stop *stop,
                                               struct cairn_why *why);
void answer_release(struct answer *a);

/* Since generator_open; zero without a decoder. */
struct generator_stats {
    uint64_t steps, rows; /* passes over the weights, and rows computed by them */
    uint64_t prompt_tokens, cached_tokens, completion_tokens, drafted, accepted;
    uint64_t rejected;         /* requests that the queue had no room for */
    uint64_t running, waiting; /* now */
    uint64_t kv_pages, kv_pages_free, kv_pages_kept, kv_page_bytes;
};
void generator_stats_get(struct generator *g, struct generator_stats *out);

/* ---- sampler (also for tests and bench)
 * ----------------------------------------------------------------------------------- */

struct sampler {
    float temperature, top_p, min_p;
    uint64_t state; /* seed it */
};
/* logits [n] are not changed; scratch is [n]. Greedy ties go to the lower id. Ids >= n_valid are never
 * chosen. */
int32_t sampler_next(struct sampler *s, const float *logits, size_t n, size_t n_valid, float *scratch);

#endif
