/* cairn/api.h - the service behind every door: methods over msgpack, the msgpack-RPC and HTTP servers, keys
 * and roles, the client. Threads: a service is shared; service_call may run on any worker thread. The server
 * owns one event-loop thread and a worker pool; no model or store work runs on the loop. COPIED / OWNED /
 * BORROWED as in base.h. */
#ifndef CAIRN_API_H
#define CAIRN_API_H

#include <cairn/base.h>
#include <cairn/generator.h>
#include <cairn/index.h>
#include <cairn/loaders.h>
#include <cairn/model.h>
#include <cairn/retriever.h>

extern const struct cairn_conf
    api_conf[]; /* api.message_bytes_max, api.connections_max, api.workers, api.deadline_ms, ... */
extern const size_t api_conf_len;
/* A config with every room's table registered. */
CAIRN_MUST_USE enum cairn_err api_config_new(struct cairn_config **out, struct cairn_why *why);

/* ---- service
 * -------------------------------------------------------------------------------------------------------- */

struct service;
struct service_opts {
    const char *data_dir,
        *models_dir; /* COPIED; models_dir NULL: DIR/models when it exists, else the registry's default */
    const char *embedder, *reranker, *generator,
        *checker;                      /* model names; NULL: the registry's best; "none": do without */
    const struct cairn_config *config; /* BORROWED; NULL: defaults */
    unsigned n_threads;                /* compute threads; 0: cores */
    bool read_only, create;
    enum model_backend backend;
    const char *sync_root; /* COPIED: directory below which a remote admin may doc.sync; NULL: only local
                              callers may */
};
/* Models are opened on first use, each once; a missing model is an error of the call that needs it, never of
 * the service. */
CAIRN_MUST_USE enum cairn_err service_open(struct service **out, const struct service_opts *o,
                                           struct cairn_why *why);
void service_close(struct service *s);
struct store *service_store(struct service *s);
CAIRN_MUST_USE enum cairn_err service_retriever(struct service *s, struct retriever **out,
                                                struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err service_generator(struct service *s, struct generator **out,
                                                struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err service_encoder(struct service *s, enum model_role role, struct encoder **out,
                                              struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err service_decoder(struct service *s, struct decoder **out, struct cairn_why *why);

enum api_role { ROLE_NONE, ROLE_READ_ONLY, ROLE_USER, ROLE_ADMIN };
const char *api_role_name(enum api_role r);
struct api_caller {
    enum api_role role;
    const struct cairn_str *principals; /* of the key. A request may name "principals": admin any, others only
                                           a subset of these */
    size_t n_principals;
    const char *key_id; /* "" = local or open */
    bool local;   /* the command line on the data directory: all rights, may name file paths for doc.sync */
    bool judging; /* a question of eval.run: leaves no answer record, and nothing in the distributions */
};
struct api_sink { /* where a call's notifications go */
    /* event: one msgpack map without msgid; BORROWED for the call. Returns false to cancel the call. NULL: no
     * events wanted. */
    bool (*event)(void *ctx, const char *name, const void *msgpack, size_t len);
    void *ctx;
};
/* params: one msgpack map (the options map inside the wire's params array). On success appends one msgpack
 * value to result. */
CAIRN_MUST_USE enum cairn_err service_call(struct service *s, const struct api_caller *c, const char *method,
                                           const void *params, size_t params_len, const struct api_sink *sink,
                                           const struct cairn_stop *stop, struct cairn_buf *result,
                                           struct cairn_why *why);
/* eval.run is done by the room above, which sets this before the first service opens; else it is unsupported.
 * params and result as in service_call. */
typedef enum cairn_err (*api_eval_fn)(struct service *s, const struct api_caller *me, const void *params,
                                      size_t params_len, const struct cairn_stop *stop,
                                      struct cairn_buf *result, struct cairn_why *why);
void api_set_eval(api_eval_fn fn);
/* The table behind rpc.describe, the role check and the tests' matrix. */
struct api_method {
    const char *name, *help;
    enum api_role role; /* least role */
    bool writes, streams,
        control, /* control: answered on the loop thread before any queue (hello, server.health, $/cancel) */
        heavy;   /* may run long, as what writes or streams may: leaves a worker to short requests */
};
size_t api_method_count(void);
const struct api_method *api_method_at(size_t i);

/* ---- msgpack <-> JSON (the command's --json, logs)
 * --------------------------------------------------------------------- */

/* bin becomes base64; NaN and infinity null. Pretty: indent 2. */
CAIRN_MUST_USE enum cairn_err api_msgpack_to_json(const void *msgpack, size_t len, bool pretty,
                                                  struct cairn_buf *out, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err api_json_to_msgpack(const char *json, size_t len, struct cairn_buf *out,
                                                  struct cairn_why *why);

/* ---- pre-scan: looks at a byte stream before anything is allocated for it
 * ------------------------------------------------- */

struct wire_limits {
    size_t message_bytes, depth, nodes, str_bytes, bin_bytes;
};
/* Incremental: feed what has arrived; state is kept, so total work is linear in bytes. */
struct wire_scan {
    struct wire_limits limits;
    size_t offset, nodes; /* bytes consumed of the current value; values seen */
    uint32_t depth;
    uint64_t pending[32]; /* values still to come per open container */
    uint64_t skip;        /* payload bytes still to pass */
    uint64_t owed;        /* values declared by headers so far and not yet begun */
    uint8_t header[9], header_len, header_need;
};
void wire_scan_init(struct wire_scan *s, const struct wire_limits *l);
/* 1: a whole value ends at *used bytes of this feed; 0: more is needed; negative cairn_err: the stream breaks
 * a limit or the format (EFULL: a limit, ECORRUPT: not msgpack), why says which, and the connection must be
 * closed. */
int wire_scan_feed(struct wire_scan *s, const uint8_t *bytes, size_t len, size_t *used,
                   struct cairn_why *why);

/* ---- keys
 * --------------------------------------------------------------------------------------------------------------------
 */

struct api_key_info {
    char id[17]; /* hex */
    char name[65];
    enum api_role role;
    int64_t created_us, expires_us; /* 0: never */
    char principals[PRINCIPALS_MAX][PRINCIPAL_MAX + 1];
    size_t n_principals;
    bool revoked;
};
/* secret receives "cairn_<id>_<43 chars>_<8 hex of a checksum>" (at most 80 bytes with NUL); it is stored
 * only as keyed BLAKE2b. */
CAIRN_MUST_USE enum cairn_err api_key_create(struct service *s, const struct api_key_info *want,
                                             char secret[80], struct api_key_info *out,
                                             struct cairn_why *why);
/* Constant-time; EUNAUTH for unknown, revoked, expired alike (why tells them apart only for expired). */
CAIRN_MUST_USE enum cairn_err api_key_check(struct service *s, const char *secret, size_t len,
                                            struct api_key_info *out, struct cairn_why *why);

/* ---- server
 * -------------------------------------------------------------------------------------------------------------------
 */

struct server;
struct server_opts {
    const char *listen; /* "127.0.0.1:7420", "[::1]:0", "unix:PATH" */
    const char *http;   /* NULL or "": none */
    bool allow_remote;  /* without it a non-loopback address is refused */
    bool open_access;   /* no keys wanted: every caller is admin; only on loopback or unix */
};
/* Serves until server_stop. rpc_addr and http_addr tell what was bound. A store without any key on loopback
 * is open_access by default. */
CAIRN_MUST_USE enum cairn_err server_open(struct server **out, struct service *s, const struct server_opts *o,
                                          struct cairn_why *why);
const char *server_rpc_addr(const struct server *s);
const char *server_http_addr(const struct server *s);
CAIRN_MUST_USE enum cairn_err server_run(struct server *s,
                                         struct cairn_why *why); /* the loop; returns after the drain */
void server_stop(struct server *s);                              /* async-signal-safe */
void server_close(struct server *s);

/* ---- client (blocking; the command line's --server, tests, bench)
 * ---------------------------------------------------------------- */

struct api_client;
CAIRN_MUST_USE enum cairn_err api_client_open(struct api_client **out, const char *addr, const char *key,
                                              bool events, int timeout_ms, struct cairn_why *why);
void api_client_close(struct api_client *c);
/* Same shape as service_call. The server's error comes back as its cairn_err and message. */
CAIRN_MUST_USE enum cairn_err api_client_call(struct api_client *c, const char *method, const void *params,
                                              size_t params_len, const struct api_sink *sink,
                                              struct cairn_buf *result, struct cairn_why *why);

#endif
