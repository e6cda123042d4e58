/* cairn/index.h - the store: one LMDB environment with collections, documents, passages, postings, vectors,
 * ACL, keys and jobs. Threads: one writer at a time in one process (a second process asking to write gets
 * CAIRN_EBUSY); any number of readers, each with its own store_view. A view is used by one thread at a time
 * and must end before control returns to an event loop. Generation: the version of the content; grows by one
 * with every committed batch that changes a collection, and stays with one that holds records only (an
 * answer's record does not make the answer's sources old). A view sees exactly one. A process opens a store
 * once and shares the handle (a second open is CAIRN_EBUSY). End views before committing: when the map must
 * grow, the commit waits for open views, and gives CAIRN_EBUSY after index.growth_wait_ms_max. Stored strings
 * are not NUL-terminated: use their length. COPIED: we keep our own. OWNED: yours to free. BORROWED: ours,
 * valid until the moment named. */
#ifndef CAIRN_INDEX_H
#define CAIRN_INDEX_H

#include <cairn/base.h>

struct store;
struct store_opts {
    const char *dir;                   /* COPIED: the data directory; the environment is DIR/store */
    bool read_only;                    /* never creates, takes no writer lock */
    bool create;                       /* make it when absent */
    const struct cairn_config *config; /* BORROWED; NULL: defaults of index_conf */
};
extern const struct cairn_conf
    index_conf[]; /* index.map_bytes, index.map_bytes_max, index.readers_max, bm25 k1, b, ... */
extern const size_t index_conf_len;
/* Creation is crash-safe: built under a temporary name, committed, synced, renamed. */
CAIRN_MUST_USE enum cairn_err store_open(struct store **out, const struct store_opts *o,
                                         struct cairn_why *why);
void store_close(struct store *s);
const char *store_dir(const struct store *s);

/* ---- collections
 * -------------------------------------------------------------------------------------------------- */

enum vector_metric { METRIC_COSINE, METRIC_DOT, METRIC_L2 };
/* How vectors are searched. AUTO: by the planner, per query. The same rows serve all of them. */
enum vector_kind { VECTOR_AUTO, VECTOR_FLAT, VECTOR_HNSW, VECTOR_IVF };
enum fusion_kind { FUSION_MINMAX, FUSION_RRF, FUSION_ZSCORE };
#define COLLECTION_NAME_MAX 64u /* [a-z0-9_-], starts with a letter or digit */
#define DOCUMENT_ID_MAX 400u    /* bytes of UTF-8, no control characters */
#define PRINCIPAL_MAX 128u
#define PRINCIPALS_MAX 64u /* of one document or one caller */
#define PASSAGE_BYTES_MAX 65536u
#define VECTOR_DIM_MAX 4096u
struct collection_opts {
    char name[COLLECTION_NAME_MAX + 1];
    char language[24]; /* Snowball language, "" = none */
    char embedder[96]; /* model name whose vectors it holds; "" = no vectors */
    uint32_t dim;      /* 0 = no vectors */
    enum vector_metric metric;
    enum vector_kind index; /* what a query uses that does not say */
    bool is_public;         /* documents without an ACL: readable by all when true, by nobody when false */
    enum fusion_kind fusion;
    float dense_weight;  /* 0..1, share of the dense leg in fusion */
    float rerank_weight; /* 0..1, share of the pair model in the final score; 0 = no rerank */
};
struct collection_info {
    uint32_t id;
    struct collection_opts opts;
    uint64_t n_documents, n_passages, n_words; /* of live documents; n_words for BM25's average length */
    uint64_t generation;                       /* last change */
};

/* ---- writing: one batch is one LMDB transaction
 * --------------------------------------------------------------------- */

struct store_passage {
    uint32_t start, end;   /* byte span in the document's text */
    struct cairn_str path; /* headings, "Travel > Hotels"; or page */
    const float
        *vector; /* [dim] or NULL (collection without vectors, or: keep the stored vector of the same hash) */
};
struct store_document {
    struct cairn_str id, title, path, mime; /* path: where the loader found it */
    struct cairn_str text;                  /* extracted UTF-8; passages index into it */
    struct cairn_hash content_hash;         /* of the source bytes, as the loader computed it */
    int64_t modified_us;
    const struct cairn_str *principals; /* allow list; n_principals 0 = no ACL */
    size_t n_principals;
    const struct store_passage *passages;
    size_t n_passages;
};
struct store_batch;
/* Takes the writer's lock (waits for another thread's batch). Map growth is automatic up to
 * index.map_bytes_max. */
CAIRN_MUST_USE enum cairn_err store_batch_begin(struct store_batch **out, struct store *s,
                                                struct cairn_why *why);
/* On any error of a call below the batch stays open but can only be aborted. */
CAIRN_MUST_USE enum cairn_err store_collection_create(struct store_batch *b, const struct collection_opts *o,
                                                      struct cairn_why *why); /* EEXISTS */
CAIRN_MUST_USE enum cairn_err
store_collection_update(struct store_batch *b, const struct collection_opts *o,
                        struct cairn_why *why); /* weights, fusion, index, is_public only */
CAIRN_MUST_USE enum cairn_err store_collection_drop(struct store_batch *b, const char *name,
                                                    struct cairn_why *why);
/* Replaces a document of the same id. A passage whose hash (cairn_hash of its text) already has a vector in
 * the old version may leave vector NULL; a missing vector otherwise is CAIRN_EINVAL, a wrong dimension is not
 * expressible, NaN or infinity is EINVAL. */
CAIRN_MUST_USE enum cairn_err store_put(struct store_batch *b, const char *collection,
                                        const struct store_document *d, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err store_delete(struct store_batch *b, const char *collection, struct cairn_str id,
                                           struct cairn_why *why); /* ENOTFOUND: batch stays usable */
/* Small named records for other rooms (api keys, loader checkpoints), checksummed like all values. space:
 * "key", "job", "answer", "audit", "meta", "usage", "feedback", "model", "cache", "agent", "conversation";
 * key: 1 to 480 bytes; at most 64 MiB. Deleting what is not there is CAIRN_ENOTFOUND and the batch stays
 * usable. */
CAIRN_MUST_USE enum cairn_err store_record_put(struct store_batch *b, const char *space, struct cairn_str key,
                                               const void *bytes, size_t len, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err store_record_delete(struct store_batch *b, const char *space,
                                                  struct cairn_str key, struct cairn_why *why);
/* Ends the batch in every case. On success *generation is the one it left and all of it is on disk. */
CAIRN_MUST_USE enum cairn_err store_batch_commit(struct store_batch *b, uint64_t *generation,
                                                 struct cairn_why *why);
void store_batch_abort(struct store_batch *b);

/* ---- reading
 * -----------------------------------------------------------------------------------------------------------
 */

struct store_view;
CAIRN_MUST_USE enum cairn_err store_view_begin(struct store_view **out, struct store *s,
                                               struct cairn_why *why);
void store_view_end(struct store_view *v);
uint64_t store_view_generation(const struct store_view *v);
/* Grows with every committed batch, of records too: who keeps a copy of records looks here whether it is the
 * latest. */
uint64_t store_view_commit(const struct store_view *v);

CAIRN_MUST_USE enum cairn_err store_collection_get(struct store_view *v, const char *name,
                                                   struct collection_info *out, struct cairn_why *why);
/* *list OWNED. */
CAIRN_MUST_USE enum cairn_err store_collection_list(struct store_view *v, struct collection_info **list,
                                                    size_t *n, struct cairn_why *why);

/* All cairn_str are BORROWED until store_view_end. */
struct document_info {
    struct cairn_str id, title, path, mime;
    struct cairn_hash content_hash;
    int64_t modified_us;
    uint64_t generation; /* that wrote it */
    uint32_t n_passages;
    uint64_t text_bytes;
    const struct cairn_str *principals;
    size_t n_principals;
};
/* Principals of the caller. "everyone" is always held. all: sees every document (admin tools, evaluation
 * oracles). */
struct store_caller {
    const struct cairn_str *principals;
    size_t n_principals;
    bool all;
};
/* A document the caller may not see is CAIRN_ENOTFOUND with the same words as one that does not exist. text
 * may be NULL; *text is BORROWED until the view ends. */
CAIRN_MUST_USE enum cairn_err store_document_get(struct store_view *v, const char *collection,
                                                 struct cairn_str id, const struct store_caller *c,
                                                 struct document_info *out, struct cairn_str *text,
                                                 struct cairn_why *why);
/* Documents in id order after `after` (empty: from the start). *list OWNED, at most max. */
CAIRN_MUST_USE enum cairn_err store_document_list(struct store_view *v, const char *collection,
                                                  const struct store_caller *c, struct cairn_str after,
                                                  size_t max, struct document_info **list, size_t *n,
                                                  struct cairn_why *why);
struct passage_info {
    uint64_t id;
    struct cairn_str document_id, title, document_path, path, text; /* BORROWED until the view ends */
    uint32_t ordinal;                                               /* in the document */
    uint32_t start, end;
    struct cairn_hash hash;
    uint64_t document_generation;
};
CAIRN_MUST_USE enum cairn_err store_passage_get(struct store_view *v, const char *collection, uint64_t id,
                                                struct passage_info *out, struct cairn_why *why);
/* Copies the f32 vector; out holds dim of the collection. */
CAIRN_MUST_USE enum cairn_err store_passage_vector(struct store_view *v, const char *collection, uint64_t id,
                                                   float *out, struct cairn_why *why);
/* Which of the document's stored passages (any version now live) have this hash: fills vector when found,
 * else ENOTFOUND. */
CAIRN_MUST_USE enum cairn_err store_vector_by_hash(struct store_view *v, const char *collection,
                                                   struct cairn_str document_id,
                                                   const struct cairn_hash *hash, float *out,
                                                   struct cairn_why *why);

/* The set of passages a caller may see in a collection, as a bitmap; made once per request and applied before
 * scoring. A search needs one (NULL is CAIRN_EINVAL), opened on the same view and collection. */
struct store_filter;
CAIRN_MUST_USE enum cairn_err store_filter_open(struct store_filter **out, struct store_view *v,
                                                const char *collection, const struct store_caller *c,
                                                struct cairn_why *why);
void store_filter_close(struct store_filter *f);
uint64_t store_filter_count(const struct store_filter *f);
bool store_filter_has(const struct store_filter *f, uint64_t passage_id);

struct store_hit {
    uint64_t passage_id;
    float score; /* larger is better: BM25, or cosine / dot / negative L2 distance */
};
/* BM25 (Robertson and Zaragoza 2009) with block-max skipping (Ding and Suel 2011); hits[] holds k, best
 * first, ties by lower id. */
CAIRN_MUST_USE enum cairn_err store_search_lexical(struct store_view *v, const char *collection,
                                                   struct cairn_str query, const struct store_filter *f,
                                                   size_t k, struct store_hit *hits, size_t *n_hits,
                                                   const struct cairn_stop *stop, struct cairn_why *why);
/* How one query is searched; all zero: as the collection says, with the configured widths. */
struct vector_how {
    enum vector_kind kind;
    bool exact;          /* every row the filter lets through, in f32: the truth that recall is measured by */
    uint32_t ef, nprobe; /* search width of the graph; lists read by IVF; at most VECTOR_WIDTH_MAX */
};
#define VECTOR_WIDTH_MAX 4096u
/* What the planner did, for `explain`. Strings are static. */
struct vector_plan {
    const char *path;   /* exact, scan (of the filter's rows), flat, graph, two_hop, ivf, delta (no segment
                           yet), none */
    const char *reason; /* one clause */
    double share;       /* of the collection's rows that the filter lets through */
    uint32_t n_segments, ef, nprobe;
    uint64_t n_delta, n_scored; /* rows outside segments; codes compared */
};
/* query is [dim]; EINVAL when dim differs. how NULL: defaults. plan may be NULL. Scores are of the f32 rows
 * (Euclidean distance negated), whatever path found them; ties by lower passage id. */
CAIRN_MUST_USE enum cairn_err store_search_vector(struct store_view *v, const char *collection,
                                                  const float *query, uint32_t dim,
                                                  const struct store_filter *f, size_t k,
                                                  const struct vector_how *how, struct store_hit *hits,
                                                  size_t *n_hits, struct vector_plan *plan,
                                                  const struct cairn_stop *stop, struct cairn_why *why);

/* bytes BORROWED until the view ends; ENOTFOUND. */
CAIRN_MUST_USE enum cairn_err store_record_get(struct store_view *v, const char *space, struct cairn_str key,
                                               struct cairn_str *bytes, struct cairn_why *why);
/* In key order, after `after`; fn returns false to stop. */
CAIRN_MUST_USE enum cairn_err
store_record_each(struct store_view *v, const char *space, struct cairn_str prefix,
                  bool (*fn)(void *ctx, struct cairn_str key, struct cairn_str bytes), void *ctx,
                  struct cairn_why *why);

/* ---- operators
 * --------------------------------------------------------------------------------------------------------------
 */

/* Vectors of a collection: rows of the delta (written by documents' transactions) and of merged segments. */
struct vector_info {
    uint64_t n_delta, n_rows, n_dead; /* n_rows: in segments, dead ones included */
    uint32_t n_segments;
    uint64_t hot_bytes, cold_bytes; /* of segments: codes and links; f32 rows, ids and the rest */
};
CAIRN_MUST_USE enum cairn_err store_vector_info(struct store_view *v, const char *collection,
                                                struct vector_info *out, struct cairn_why *why);

/* Moves delta rows into segments and small or half-dead segments into larger ones, where index.merge_rows_min
 * and the tiers ask for it (full: everything into as few segments as allowed). Builds outside any
 * transaction, writes chunk by chunk in transactions of their own, and makes the result visible by one small
 * commit that changes speed and never content. Killed anywhere it leaves at most unreferenced chunks, which
 * the next merge removes; what was flipped stays. Writers and readers go on meanwhile; one merge at a time
 * (CAIRN_EBUSY). collection NULL: all. *n_merged: segments made. */
struct store_merge_opts {
    bool full;
    unsigned threads;  /* 0: 1 */
    uint32_t rest_pct; /* share of the time to sleep between pieces of work, 0..90: the throttle */
};
CAIRN_MUST_USE enum cairn_err store_merge(struct store *s, const char *collection,
                                          const struct store_merge_opts *o, cairn_progress_fn progress,
                                          void *ctx, const struct cairn_stop *stop, uint32_t *n_merged,
                                          struct cairn_why *why);
/* Of the merge that runs in this process now: phase is static, NULL when none runs. */
struct store_merge_state {
    const char *phase;
    uint64_t done, total, n_merges; /* n_merges: segments made since the store was opened */
};
void store_merge_state_get(struct store *s, struct store_merge_state *out);

struct store_stats {
    uint64_t generation, map_bytes, map_used_bytes, file_bytes, n_collections, n_documents, n_passages,
        n_vectors, n_segments, n_delta, readers, dead_readers_cleared;
};
CAIRN_MUST_USE enum cairn_err store_stats_get(struct store *s, struct store_stats *out,
                                              struct cairn_why *why);
/* Frees slots of dead readers; call at start (store_open does) and on a timer. */
CAIRN_MUST_USE enum cairn_err store_readers_clear(struct store *s, unsigned *cleared, struct cairn_why *why);
/* A consistent compacted copy while others read and write; dest must not exist; verified before it gets its
 * name. */
CAIRN_MUST_USE enum cairn_err store_backup(struct store *s, const char *dest_dir, cairn_progress_fn progress,
                                           void *ctx, struct cairn_why *why);
/* Every invariant: checksums, document <-> passage <-> posting <-> vector <-> ACL agreement, counts, sorted
 * postings, block maxima. report is called once per finding; CAIRN_ECORRUPT when there was any. Runs the
 * reading in a child process, because damaged media can kill a reader. */
CAIRN_MUST_USE enum cairn_err store_check(const char *dir, void (*report)(void *ctx, const char *line),
                                          void *ctx, struct cairn_why *why);
/* One JSON line per record, in key order; the same content gives the same bytes. */
CAIRN_MUST_USE enum cairn_err store_dump(struct store_view *v, const char *collection,
                                         bool (*line)(void *ctx, const char *json, size_t len), void *ctx,
                                         struct cairn_why *why);
/* A hash over all live content (not over physical layout), for crash tests and replicas. */
CAIRN_MUST_USE enum cairn_err store_digest(struct store_view *v, struct cairn_hash *out,
                                           struct cairn_why *why);

#endif
