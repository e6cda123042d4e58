/* api/internal.h - what the files of this room share: the service's fields, one call in progress, parameters,
 * metrics. Locks, in the order they may be taken: models_mu (opening a model), keys_mu (the key table),
 * answers_mu (pruning of answer records), the upkeep's own. None is held across a call into a model or a
 * batch of the store, except models_mu across opening a model and answers_mu across the small batch that
 * stores one answer record. */
#ifndef CAIRN_API_INTERNAL_H
#define CAIRN_API_INTERNAL_H

#include "wire.h"

#include <pthread.h>

#define API_PROTO 1u
#define API_METHODS_MAX 48u
#define API_CODES 16u /* CAIRN_OK and one per cairn_err */
#define API_BUCKETS 15u
#define RECALL_BANDS 4u
#define SEEN_EDGES_MAX 20u
#define READER_FILE "reader.safetensors" /* beside the pair model's file */
#define CLAIMS_FILE "claims.safetensors" /* the same */

/* What questions and their results look like, counted in fixed buckets; `cairn eval drift` compares two
 * counts. */
enum seen_what { SEEN_WORDS, SEEN_LEXICAL, SEEN_DENSE, SEEN_RERANK, SEEN_MARGIN, SEEN_CHANCE, SEEN_N };
struct seen_kind {
    const char *name, *help;
    unsigned n; /* edges; value v is in the first bucket whose edge is >= v, else in the last */
    double edge[SEEN_EDGES_MAX];
};
extern const struct seen_kind seen_kinds[SEEN_N];

struct api_metrics {
    atomic_uint_fast64_t seen[SEEN_N][SEEN_EDGES_MAX + 1];
    atomic_uint_fast64_t calls[API_METHODS_MAX][API_CODES];
    atomic_uint_fast64_t bucket[API_METHODS_MAX][API_BUCKETS + 1];
    atomic_uint_fast64_t micros[API_METHODS_MAX];
    atomic_uint_fast64_t prompt_tokens, completion_tokens, sentences[3], citations, citations_dropped,
        refusals, embedded, put, deleted;
    atomic_uint_fast64_t connections, accepted, refused_connections, queue, running, rejected,
        unknown_notifications, protocol_errors, auth_failures;
    /* recall measured on live searches, by the share of rows their filter let through */
    atomic_uint_fast64_t recall_samples[RECALL_BANDS], recall_found[RECALL_BANDS],
        recall_wanted[RECALL_BANDS], recall_dropped, recall_stale, merge_errors;
    atomic_bool draining;
};
extern const char *const recall_band_names[RECALL_BANDS];
extern const double api_bucket_s[API_BUCKETS];

struct key_row {
    struct api_key_info info;
    uint8_t digest[32];
};

struct service {
    struct store *store;
    struct cairn_config *own_config;
    const struct cairn_config *config;
    char *models_dir, *name[MODEL_ROLES],
        *sync_root; /* name: by enum model_role; NULL: the registry's best */
    unsigned n_threads;
    bool read_only;
    enum model_backend backend;
    int64_t started_us;

    pthread_mutex_t models_mu;
    struct model_registry *registry;
    struct cairn_pool *pool;
    struct encoder *encoder[3]; /* EMBEDDER, RERANKER */
    float embed_baseline;       /* of the embedder; 0: not measured yet */
    struct decoder *decoder;
    char decoder_sha256[65];
    struct retriever *retriever[2][2]; /* [embedder][reranker] */
    struct generator *generator[2];    /* [decoder] */
    struct reader *reader;             /* NULL: none on disk */
    struct ground_encoder *claims;     /* NULL: none on disk */
    atomic_uint loaded;                /* bit per enum model_role */

    pthread_mutex_t keys_mu;
    struct key_row *keys;
    size_t n_keys;
    uint64_t keys_commit; /* of the store when the table was read; only a read-only service must look again */
    bool keys_loaded, has_secret;
    uint8_t secret[32];

    pthread_mutex_t answers_mu;
    bool answers_counted;
    uint64_t n_answers, answer_turn;

    atomic_uint in_flight; /* calls of service_call that have not returned */
    struct upkeep *upkeep; /* never NULL once opened */

    struct api_metrics metrics;
};

static inline size_t conf_size(const struct service *s, const char *key)
{
    return cairn_config_size(s->config, key);
}
static inline bool conf_on(const struct service *s, const char *key)
{
    return cairn_config_num(s->config, key) != 0;
}

/* ---- one call ---- */

struct call;
typedef enum cairn_err (*method_fn)(struct call *c);
struct method {
    struct api_method pub;
    method_fn fn;
};
extern const struct method api_methods[];
int api_method_find(struct cairn_str name); /* -1: unknown */

#define PARAMS_MAX 64u
#define WARNINGS_MAX 8u
struct params {
    const msgpack_object_kv *kv;
    uint32_t n;
    uint64_t used;
    enum cairn_err err; /* the first; later reads do nothing */
    char where[48];     /* "param " or "documents[3]." */
    struct cairn_why *why;
};
struct call {
    struct service *s;
    const struct api_caller *caller;
    const struct method *m;
    struct params p;
    const struct api_sink *sink;
    const struct cairn_stop *stop;
    struct pk out;
    char warnings[WARNINGS_MAX][160];
    unsigned n_warnings;
    struct cairn_why *why;
    /* the request's view of the store: its own principals, or the key's */
    struct store_caller who;
    struct cairn_str who_names[PRINCIPALS_MAX];
};

/* Each reads one key; absent or nil leaves *v as it was (so the caller writes the default there first) unless
 * need is set. */
void p_open(struct params *p, const msgpack_object *map, const char *where, struct cairn_why *why);
bool p_str(struct params *p, const char *key, bool need, size_t min, size_t max, struct cairn_str *v);
bool p_uint(struct params *p, const char *key, bool need, uint64_t min, uint64_t max, uint64_t *v);
bool p_num(struct params *p, const char *key, bool need, double min, double max, double *v);
bool p_bool(struct params *p, const char *key, bool *v);
bool p_bin(struct params *p, const char *key, size_t max, struct cairn_str *v);
/* names ends with NULL; *v is the index. */
bool p_enum(struct params *p, const char *key, const char *const *names, int *v);
/* An array of at most max strings; *list OWNED (cairn_free). */
bool p_strs(struct params *p, const char *key, bool need, size_t max, size_t str_max, struct cairn_str **list,
            size_t *n);
bool p_array(struct params *p, const char *key, bool need, size_t max, const msgpack_object_array **v);
/* An array of numbers, or a bin of little-endian f32; out holds VECTOR_DIM_MAX. Every number is finite. */
bool p_vector(struct params *p, const char *key, float *out, uint32_t *dim);
/* exact, index, ef and nprobe. */
void p_how(struct params *p, struct vector_how *how);
bool p_has(const struct params *p, const char *key);
const msgpack_object *p_any(struct params *p, const char *key);
/* Unknown keys: an error for writes (warn NULL), a warning of the call otherwise. Returns p->err. */
enum cairn_err p_close(struct params *p, struct call *warn);
const char *p_type_name(const msgpack_object *o);
/* The collection's name, checked; out holds COLLECTION_NAME_MAX + 1. */
bool p_collection(struct params *p, char *out);

/* Scan, decode and UTF-8 check of one value; *u is to be destroyed in every case. */
enum cairn_err params_decode(msgpack_unpacked *u, const struct wire_limits *limits, const void *bytes,
                             size_t len, struct cairn_why *why);
void call_warn(struct call *c, const char *fmt, ...) CAIRN_PRINTF(2, 3);
/* The result's outer map of n pairs; warnings are added when there are any. call_end writes them. */
void call_map(struct call *c, size_t n);
void call_end(struct call *c);
/* Sends one event; false: the receiver wants to cancel. */
bool call_event(struct call *c, const char *name, const struct cairn_buf *map);

/* ---- models ---- */

bool service_has_model(struct service *s, enum model_role role); /* configured and on disk */
/* The operator chose "none". */
bool service_goes_without(const struct service *s, enum model_role role);
enum cairn_err service_retriever_with(struct service *s, bool embedder, bool reranker, struct retriever **out,
                                      struct cairn_why *why);
enum cairn_err service_generator_with(struct service *s, bool decoder, struct generator **out,
                                      struct cairn_why *why);
/* BORROWED; NULL: none is installed, or none wanted. */
enum cairn_err service_claims(struct service *s, const struct ground_encoder **out, struct cairn_why *why);
void service_generator_stats(struct service *s, struct generator_stats *out); /* zero before the first use */
/* The embedder's name and dim for a new collection; "" and 0 when the service does without. */
enum cairn_err service_embedder_for_new(struct service *s, char name[96], uint32_t *dim,
                                        struct cairn_why *why);
/* The embedder, and the cosine that it gives unrelated sentences: measured once. */
enum cairn_err service_support_embedder(struct service *s, struct encoder **out, float *baseline,
                                        struct cairn_why *why);
/* ESTATE unless the collection's vectors come from the loaded embedder. */
enum cairn_err service_embedder_matches(struct service *s, const struct collection_opts *o,
                                        struct encoder **e, struct cairn_why *why);
enum cairn_err service_models_open(struct service *s, struct cairn_why *why);
void service_models_close(struct service *s);

/* ---- documents to be put ---- */

struct prepared { /* a parsed document with its vectors; OWNED */
    struct loader_document *doc;
    char *id, *title, *path, *mime;
    struct cairn_hash content_hash; /* of the source bytes */
    int64_t modified_us;
    char **principals;
    size_t n_principals;
    bool keep_acl;     /* principals are those of the stored version, filled in under the writer's lock */
    bool brought;      /* vectors came with the request: nothing is embedded */
    float *vectors;    /* [n_passages, dim] or NULL */
    bool *have_vector; /* [n_passages] */
};
struct put_totals {
    uint64_t generation, put, passages, embedded;
    bool refused; /* the last batch failed for what one of its documents is, not for the state of the store */
};
void prepared_free(struct prepared *d);
enum cairn_err prepared_check_id(struct cairn_str id, struct cairn_why *why);
/* The ACL that a put names: none but the caller's own principals, unless it is an admin. COPIED. */
enum cairn_err prepared_principals(struct call *c, const char *where, const struct cairn_str *names, size_t n,
                                   struct prepared *d);
extern const char *const vector_kind_names[], *const vector_metric_names[]; /* by enum, NULL at the end */
/* Copies the vectors of unchanged passages from the store, embeds the rest, and commits all as one batch.
 * want is used when the collection is to be created (NULL: it must exist). */
enum cairn_err put_batch(struct call *c, const char *collection, const struct collection_opts *want,
                         struct prepared **docs, size_t n, struct put_totals *t, struct cairn_why *why);
enum cairn_err collection_defaults(struct call *c, const char *name, bool is_public,
                                   struct collection_opts *o, struct cairn_why *why);
char *str_dup(struct cairn_str s);

/* ---- methods ---- */

enum cairn_err m_collection_create(struct call *c), m_collection_list(struct call *c),
    m_collection_describe(struct call *c), m_collection_drop(struct call *c),
    m_collection_update(struct call *c), m_doc_put(struct call *c), m_doc_get(struct call *c),
    m_doc_list(struct call *c), m_doc_delete(struct call *c), m_doc_sync(struct call *c),
    m_vector_put(struct call *c), m_vector_search(struct call *c), m_search(struct call *c),
    m_ask(struct call *c), m_ground_check(struct call *c), m_embed(struct call *c), m_rerank(struct call *c),
    m_tokenize(struct call *c), m_eval_run(struct call *c), m_model_list(struct call *c),
    m_key_create(struct call *c), m_key_list(struct call *c), m_key_revoke(struct call *c),
    m_server_info(struct call *c), m_server_stats(struct call *c), m_server_health(struct call *c),
    m_hello(struct call *c), m_describe(struct call *c);

/* ---- upkeep: merging and measuring recall, beside the requests ---- */

enum cairn_err upkeep_open(struct upkeep **out, struct service *s, struct cairn_why *why);
void upkeep_close(struct upkeep *u);
/* The thread. start may fail; stop is prompt, and fine without a start. */
enum cairn_err upkeep_start(struct upkeep *u, struct cairn_why *why);
void upkeep_stop(struct upkeep *u);
/* One round of the thread's work, for it and for tests; now_us: what the clock says, for when a failed merge
 * is tried again. The time in ms until the next is wanted. */
int64_t upkeep_round(struct upkeep *u, int64_t now_us);
/* Whether this vector search is one of the sampled share. */
bool upkeep_wants(struct upkeep *u);
/* All COPIED; dropped when the queue is full. */
void upkeep_sample(struct upkeep *u, const char *collection, const struct store_caller *who,
                   const float *query, uint32_t dim, size_t k, const struct store_hit *hits, size_t n_hits,
                   uint64_t generation, double share);
void pack_plan(struct pk *k, const struct vector_plan *p);

/* ---- keys ---- */

enum cairn_err keys_load(struct service *s, struct cairn_why *why);
/* How many key records there are, revoked ones too. */
size_t keys_count(struct service *s);
/* EUNAUTH when the key is gone, revoked or expired by now. */
enum cairn_err keys_look(struct service *s, const char *id, struct api_key_info *out, struct cairn_why *why);
/* The info of api_key_check without its 8 KiB of names: role and id only; cheap enough for the event loop. */
enum cairn_err key_revoke(struct service *s, struct cairn_str id, uint64_t *generation,
                          struct cairn_why *why);
size_t keys_copy(struct service *s, struct api_key_info **out); /* OWNED */

/* ---- metrics, http ---- */

/* NaN is not counted. */
void metrics_seen(struct service *s, enum seen_what what, double v);
void metrics_count(struct service *s, int method, enum cairn_err err, int64_t micros);
enum cairn_err metrics_text(struct service *s, struct cairn_buf *out);
enum cairn_err service_ready(struct service *s, struct cairn_buf *json, struct cairn_why *why);
struct http;
enum cairn_err http_open(struct http **out, struct service *s, const char *addr, bool allow_remote,
                         struct cairn_why *why);
const char *http_addr(const struct http *h);
void http_close(struct http *h);

/* hello's result, shared by the server and the local call. */
void hello_result(struct service *s, struct pk *k, enum api_role role, const char *key_id, bool map_errors,
                  bool events);

#endif
