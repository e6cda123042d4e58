/* cairn/eval.h - measures of retrieval and of answers, and the commands `cairn eval`, `cairn train` and
 * `cairn bench`.
 * The measures are pure functions over values given to them; they are equal to trec_eval 9 and to SQuAD's
 * evaluate-v2.0 (tests/golden/eval/reference.py says how that is shown). Threads: everything here may be
 * called from any thread; a struct given to a call belongs to the caller. COPIED / OWNED / BORROWED as in
 * base.h. */
#ifndef CAIRN_EVAL_H
#define CAIRN_EVAL_H

#include <cairn/base.h>

/* ---- judgements and runs ------------------------------------------------------------------------------- */

#define EVAL_ID_MAX 400u /* bytes of a query's or a document's id */
#define EVAL_QUERIES_MAX 1000000u
#define EVAL_ROWS_MAX 50000000u /* judgements of a set, lines of a run */

struct eval_judged { /* a judgement; a relevance below 1 is not relevant */
    char *doc;
    int rel;
};
struct eval_scored { /* a retrieved document; the rank column of a run file is not looked at */
    char *doc;
    double score;
};
struct eval_qrel {
    char *query;
    struct eval_judged *docs;
    size_t n, cap;
};
struct eval_qrels { /* zeroed: empty */
    struct eval_qrel
        *queries; /* in the order of their first row until eval_qrels_finish, then sorted by id */
    size_t n, cap, rows;
};
struct eval_result {
    char *query;
    struct eval_scored *docs;
    size_t n, cap;
};
struct eval_run {
    struct eval_result *queries;
    size_t n, cap, rows;
};
/* Ids are COPIED. A query may come with doc NULL: it is then known and has no documents. */
CAIRN_MUST_USE enum cairn_err eval_qrels_add(struct eval_qrels *q, const char *query, const char *doc,
                                             int rel, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err eval_run_add(struct eval_run *r, const char *query, const char *doc,
                                           double score, struct cairn_why *why);
/* Sorts: queries by id, documents of a query by score descending and then by id descending (strcmp), as
 * trec_eval does. A document twice in one query and a score that is not a number are CAIRN_EINVAL. */
CAIRN_MUST_USE enum cairn_err eval_qrels_finish(struct eval_qrels *q, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err eval_run_finish(struct eval_run *r, struct cairn_why *why);
void eval_qrels_release(struct eval_qrels *q);
void eval_run_release(struct eval_run *r);
const struct eval_qrel *eval_qrels_find(const struct eval_qrels *q, const char *query); /* after finish */
const struct eval_result *eval_run_find(const struct eval_run *r, const char *query);
/* Drops documents whose id is the query's own (BEIR does, for ArguAna and Quora). After finish. */
void eval_run_drop_self(struct eval_run *r);
/* TREC ("query iter doc rel", "query Q0 doc rank score tag") or, for judgements, BEIR's three columns with a
 * heading. Bad lines are CAIRN_EINVAL with their number. Already finished. */
CAIRN_MUST_USE enum cairn_err eval_qrels_read(struct eval_qrels *q, const char *path, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err eval_run_read(struct eval_run *r, const char *path, struct cairn_why *why);

/* ---- measures of a ranking ------------------------------------------------------------------------------
 */

enum eval_kind { EVAL_NDCG, EVAL_RECALL, EVAL_MAP, EVAL_MRR, EVAL_P, EVAL_SUCCESS };
struct eval_measure {
    enum eval_kind kind;
    size_t k; /* 0: no cut */
};
/* "ndcg", "ndcg@10", "recall@100", "map", "map@100", "mrr" or "recip_rank", "mrr@10", "P@5", "success@1". */
CAIRN_MUST_USE enum cairn_err eval_measure_parse(struct eval_measure *out, const char *name,
                                                 struct cairn_why *why);
/* One query. nDCG has linear gain; recall, MAP divide by all relevant documents; P divides by k. result NULL:
 * nothing was retrieved. Both after finish. */
double eval_measure(const struct eval_measure *m, const struct eval_qrel *judged,
                    const struct eval_result *result);

enum eval_queries {
    EVAL_ALL,  /* all queries of the judgements, those without a result count 0: trec_eval -c */
    EVAL_BOTH, /* queries that have a judgement and a result: trec_eval without -c, pytrec_eval */
};
/* Means over queries, mean[n]. *n_queries may be NULL; with no query at all the means are 0. each, when not
 * NULL, gets the values of every query that counts. */
void eval_means(const struct eval_qrels *q, const struct eval_run *r, const struct eval_measure *m, size_t n,
                enum eval_queries which, double *mean, size_t *n_queries,
                void (*each)(void *ctx, const char *query, const double *values), void *ctx);

/* ---- measures of an answer --------------------------------------------------------------------------------
 */

/* As evaluate-v2.0: lower case, ASCII punctuation out, the words a, an, the out, white space squeezed. Lower
 * case is Python's str.lower: the simple mapping of utf8proc, U+0130 as "i" + U+0307, and a capital sigma
 * that ends a word as the final one. Bytes that are not UTF-8 become U+FFFD. OWNED; NULL only without memory.
 */
char *eval_normalize(const char *text, size_t len);
/* F1 of the token multisets; when one side is empty: 1 when both are. */
CAIRN_MUST_USE enum cairn_err eval_f1(const char *gold, const char *answer, double *f1,
                                      struct cairn_why *why);
/* Against several accepted answers, best of each; an answer of "" is the answer "there is none", which is
 * right when n_gold is 0. */
struct eval_answer_score {
    double exact, f1;
    double contains;     /* 1 when an accepted answer stands in the text as whole words, both normalised */
    double token_recall; /* share of an accepted answer's tokens found */
};
CAIRN_MUST_USE enum cairn_err eval_answer(const char *const *gold, size_t n_gold, const char *answer,
                                          struct eval_answer_score *out, struct cairn_why *why);

/* ---- commands
 * ------------------------------------------------------------------------------------------------ */

/* argv[0] is "eval", "train" or "bench". Return the exit code: 0 done, 1 failed, 2 wrong usage, 3 not found.
 */
int eval_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int train_main(int argc, char **argv);

/* The method eval.run (api.h, api_eval_fn): judged queries or questions against a collection of a running
 * service, each asked through the service's own method with the caller's rights. */
struct service;
struct api_caller;
CAIRN_MUST_USE enum cairn_err eval_live(struct service *s, const struct api_caller *me, const void *params,
                                        size_t params_len, const struct cairn_stop *stop,
                                        struct cairn_buf *result, struct cairn_why *why);

#endif
