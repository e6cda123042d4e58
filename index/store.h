/* store.h - what the files of index/ share. Public contract: cairn/index.h; layout of the databases: store.c.
 */
#ifndef CAIRN_INDEX_STORE_H
#define CAIRN_INDEX_STORE_H

#include "codec.h"
#include "idset.h"
#include "kv.h"
#include "vseg.h"

#include <cairn/index.h>
#include <pthread.h>
#include <sys/types.h>

#define STORE_FORMAT 2u /* 1: without databases graph and chunk; added when it is opened for writing */
#define TEXT_PIECE_BYTES 65536u /* a document's text is compressed in pieces: a passage reads one or two */
#define PASSAGE_IDS_MAX 0xFFFFFFF0u /* of one collection over its life; ids are never used twice */
#define TERM_BYTES_MAX 400u         /* longer words are cut */
#define QUERY_TERMS_MAX 1024u       /* distinct words of a query that count; further ones are ignored */
#define RECORD_KEY_MAX 480u
#define RECORD_BYTES_MAX (64u << 20)
#define COLLECTIONS_MAX 65536u
#define SEARCH_HITS_MAX 100000u
#define DELETE_HEADROOM_BYTES                                                                                \
    ((size_t)64 << 20) /* room beyond map_bytes_max for batches that only delete                             \
                        */
#define ANALYZERS_IDLE_MAX 8

struct store {
    char *dir, *path; /* DIR, DIR/store */
    int lock_fd;
    bool read_only;
    const struct cairn_config *config;
    MDB_env *env;
    MDB_dbi dbi[DB_N];
    dev_t dev;
    ino_t ino;
    struct store *next_open;
    atomic_bool failed; /* a commit met an I/O error: no more writes until reopened */
    atomic_uint_fast64_t dead_readers;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    unsigned n_views; /* read transactions of this process; the map is resized only at zero */
    bool resizing, writing, merging;
    struct store_merge_state merge_state;
    struct {
        char language[24];
        struct cairn_analyzer *a;
    } idle[ANALYZERS_IDLE_MAX];
    struct vcache vcache; /* has a lock of its own, never held across I/O or with another */
};

/* Counters of the whole store: database meta, key "state". */
struct state {
    uint64_t generation;
    uint32_t next_collection, next_principal;
};
/* A collection as stored. */
struct coll_rec {
    uint32_t id;
    struct collection_opts opts;
    uint64_t n_documents, n_passages, n_words, n_vectors, generation, next_docno;
    uint32_t next_passage, next_term;
};
struct doc_rec {
    uint64_t docno, generation;
    int64_t modified_us;
    struct cairn_hash content_hash;
    uint32_t first_passage, n_passages;
    uint64_t text_bytes;
    struct cairn_str title, path, mime; /* BORROWED from the payload */
    uint32_t n_principals;
    struct rd principals; /* n_principals strings follow */
};
struct passage_rec {
    struct cairn_str document_id, path;
    uint32_t ordinal, start, end, n_words;
    struct cairn_hash hash;
};

double store_conf(const struct store *s, const char *key);

/* Read transactions register here so that the map can be resized when none is alive. */
CAIRN_MUST_USE enum cairn_err gate_read_begin(struct store *s, struct kv *kv, struct cairn_why *why);
void gate_read_end(struct store *s, struct kv *kv);
/* Grows (or shrinks back) the map; no transaction of this thread may be alive. */
CAIRN_MUST_USE enum cairn_err gate_resize(struct store *s, size_t bytes, struct cairn_why *why);

/* Runs fn in one write transaction and commits it; the caller holds the writer's turn (an open batch). A full
 * map is grown and fn runs again, so it must not depend on what an earlier run left. may_grow false: it only
 * deletes, and may pass index.map_bytes_max a little. */
typedef enum cairn_err (*store_write_fn)(void *ctx, struct kv *kv, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err store_write(struct store *s, bool may_grow, store_write_fn fn, void *ctx,
                                          struct cairn_why *why);

CAIRN_MUST_USE enum cairn_err state_get(struct kv *kv, struct state *st, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err state_put(struct kv *kv, const struct state *st, struct cairn_why *why);
/* CAIRN_ENOTFOUND with words. */
CAIRN_MUST_USE enum cairn_err coll_get(struct kv *kv, const char *name, struct coll_rec *c,
                                       struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err coll_parse(struct cairn_str key, struct cairn_str payload, struct coll_rec *c,
                                         struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err coll_put(struct kv *kv, const struct coll_rec *c, struct cairn_why *why);
/* CAIRN_ENOTFOUND without words. */
CAIRN_MUST_USE enum cairn_err doc_get(struct kv *kv, uint32_t coll, struct cairn_str id, struct doc_rec *d,
                                      struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err doc_parse(struct cairn_str key, struct cairn_str payload, struct doc_rec *d,
                                        struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err passage_get(struct kv *kv, uint32_t coll, uint32_t id, struct passage_rec *p,
                                          struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err passage_parse(struct cairn_str key, struct cairn_str payload,
                                            struct passage_rec *p, struct cairn_why *why);
/* Id of a principal's set, CAIRN_ENOTFOUND without words. */
CAIRN_MUST_USE enum cairn_err principal_id(struct kv *kv, struct cairn_str name, uint32_t *id,
                                           struct cairn_why *why);

/* Key of a record: space, 0, key; CAIRN_EINVAL for an unknown space or a key out of range. */
CAIRN_MUST_USE enum cairn_err record_key(const char *space, struct cairn_str key, bool may_be_empty,
                                         struct kv_key *k, struct cairn_why *why);
/* Borrowed from a small pool by language; give it back. */
CAIRN_MUST_USE enum cairn_err analyzer_take(struct store *s, const char *language,
                                            struct cairn_analyzer **out, struct cairn_why *why);
void analyzer_give(struct store *s, const char *language, struct cairn_analyzer *a);

/* Opens an environment without writer lock, registry or side effects: for checking. */
CAIRN_MUST_USE enum cairn_err env_open(MDB_env **env, MDB_dbi dbi[DB_N], const char *path, bool read_only,
                                       bool create, size_t map_bytes, unsigned readers,
                                       struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err digest_run(struct kv *kv, struct cairn_hash *out, struct cairn_why *why);
/* Text of a document between two byte offsets; out holds end - start. dctx: a ZSTD_DCtx. */
CAIRN_MUST_USE enum cairn_err text_read(struct kv *kv, uint32_t coll, uint64_t docno, uint64_t text_bytes,
                                        uint64_t start, uint64_t end, char *out, void *dctx, char *piece,
                                        struct cairn_why *why);

/* store_search_lexical with the choice to score every posting: the reference that skipping is tested against.
 */
CAIRN_MUST_USE enum cairn_err store_search_lexical_how(struct store_view *v, const char *collection,
                                                       struct cairn_str query, const struct store_filter *f,
                                                       size_t k, bool exhaustive, struct store_hit *hits,
                                                       size_t *n_hits, const struct cairn_stop *stop,
                                                       struct cairn_why *why);

struct store_view {
    struct store *s;
    struct kv kv;
    uint64_t generation;
    struct cairn_arena *arena;
    void *dctx;
    char *piece; /* TEXT_PIECE_BYTES */
};
struct store_filter {
    struct store *s;
    uint32_t coll;
    uint64_t generation;
    struct idset set;
    struct vfilter *rows; /* of set; filled by searches, so a filter is used by one thread at a time */
};

#endif
