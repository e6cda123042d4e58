/* api/service.c - opening a service, the method table, and the one way every call takes: scan, decode, check
 * role and parameters, run. Nothing here knows about sockets. */
#include "internal.h"

#include <sodium.h>
#include <sys/stat.h>

const struct method api_methods[] = {
    {{"hello", "introduces the caller: {proto, key, client, errors: string|map, events}", ROLE_NONE, false,
      false, true, false},
     m_hello                                                                                                                 },
    {{"server.health", "is the process alive", ROLE_NONE, false, false, true, false},                       m_server_health  },
    {{"rpc.describe", "this table", ROLE_READ_ONLY, false, false, false, false},                            m_describe       },
    {{"server.info", "version, models, limits, configuration", ROLE_READ_ONLY, false, false, false, false},
     m_server_info                                                                                                           },
    {{"server.stats", "store and request counters", ROLE_ADMIN, false, false, false, false},                m_server_stats   },
    {{"collection.create",
      "{collection, language, embedder | dim + metric, index, public, fusion, dense_weight, rerank_weight}",
      ROLE_ADMIN, true, false, false, false},
     m_collection_create                                                                                                     },
    {{"collection.update", "{collection, index, public, fusion, dense_weight, rerank_weight}", ROLE_ADMIN,
      true, false, false, false},
     m_collection_update                                                                                                     },
    {{"collection.list", "all collections", ROLE_READ_ONLY, false, false, false, false},                    m_collection_list},
    {{"collection.describe", "{collection}", ROLE_READ_ONLY, false, false, false, false},
     m_collection_describe                                                                                                   },
    {{"collection.drop", "{collection}", ROLE_ADMIN, true, false, false, false},                            m_collection_drop},
    {{"doc.put",
      "{collection, documents: [{id, title, text | content + mime, path, principals}], create}: one batch, "
      "one commit",
      ROLE_USER, true, true, false, false},
     m_doc_put                                                                                                               },
    {{"doc.get", "{collection, id, with_text}", ROLE_READ_ONLY, false, false, false, false},                m_doc_get        },
    {{"doc.list", "{collection, after, limit}", ROLE_READ_ONLY, false, false, false, false},                m_doc_list       },
    {{"doc.delete", "{collection, ids}", ROLE_USER, true, false, false, false},                             m_doc_delete     },
    {{"doc.sync",
      "{collection, path, acl, delete_missing, batch_bytes, create}: makes the collection hold what a "
      "directory holds",
      ROLE_ADMIN, true, true, false, false},
     m_doc_sync                                                                                                              },
    {{"vector.put",
      "{collection, vectors: [{id, vector: numbers | bin of f32, text, title, principals}]}: one batch, one "
      "commit",
      ROLE_USER, true, false, false, false},
     m_vector_put                                                                                                            },
    {{"vector.search", "{collection, vector, k, exact, index, ef, nprobe, with_text, explain, principals}",
      ROLE_READ_ONLY, false, false, false, false},
     m_vector_search                                                                                                         },
    {{"search",
      "{collection, query, k, legs, fusion, dense_weight, rerank_weight, mmr_lambda, per_document_max, "
      "exact, index, ef, nprobe, explain, principals}",
      ROLE_READ_ONLY, false, false, false, false},
     m_search                                                                                                                },
    {{"ask",
      "{collection, question, k, mode, rule, style, max_tokens, temperature, top_p, min_p, seed, stop, "
      "enforce, "
      "exact, index, ef, nprobe, explain, principals}",
      ROLE_READ_ONLY, false, true, false, false},
     m_ask                                                                                                                   },
    {{"ground.check", "{text, sources: [{text}], question, language, support_min}", ROLE_READ_ONLY, false,
      false, false, true},
     m_ground_check                                                                                                          },
    {{"embed", "{texts, kind: passage|query}", ROLE_READ_ONLY, false, false, false, false},                 m_embed          },
    {{"rerank", "{query, texts}", ROLE_READ_ONLY, false, false, false, false},                              m_rerank         },
    {{"tokenize", "{text, model: generator|embedder|reranker, add_special}", ROLE_READ_ONLY, false, false,
      false, false},
     m_tokenize                                                                                                              },
    {{"model.list", "models on disk", ROLE_READ_ONLY, false, false, false, false},                          m_model_list     },
    {{"eval.run",
      "{collection, queries: [{query, relevant: {ID: grade}}] | questions: [{question, answers, "
      "answerable}], "
      "measures, k, legs, mode, style, ...}: measures with 95 % intervals, by the caller's own rights",
      ROLE_USER, false, false, false, true},
     m_eval_run                                                                                                              },
    {{"key.create", "{name, role, principals, expires_s}: the answer is the only time the key is shown",
      ROLE_ADMIN, true, false, false, false},
     m_key_create                                                                                                            },
    {{"key.list", "all keys, without their secrets", ROLE_ADMIN, false, false, false, false},               m_key_list       },
    {{"key.revoke", "{id}", ROLE_ADMIN, true, false, false, false},                                         m_key_revoke     },
};
#define N_METHODS (sizeof api_methods / sizeof api_methods[0])
_Static_assert(N_METHODS <= API_METHODS_MAX, "metrics has a row for each method");

size_t api_method_count(void) { return N_METHODS; }
const struct api_method *api_method_at(size_t i) { return i < N_METHODS ? &api_methods[i].pub : NULL; }
int api_method_find(struct cairn_str name)
{
    for (size_t i = 0; i < N_METHODS; i++)
        if (wire_str_is(name, api_methods[i].pub.name))
            return (int)i;
    return -1;
}

char *str_dup(struct cairn_str s) { return cairn_strndup(s.p ? s.p : "", s.len); }

/* ---- open, close ---- */

enum cairn_err service_open(struct service **out, const struct service_opts *o, struct cairn_why *why)
{
    *out = NULL;
    if (!o->data_dir || !*o->data_dir)
        return cairn_fail(why, CAIRN_EINVAL, "no data directory; name one with --data DIR");
    if (sodium_init() < 0)
        return cairn_fail(why, CAIRN_EIO, "no random numbers from the system");
    struct service *s = cairn_calloc(1, sizeof *s);
    if (!s)
        return cairn_fail(why, CAIRN_ENOMEM, "service");
    pthread_mutex_init(&s->models_mu, NULL);
    pthread_mutex_init(&s->keys_mu, NULL);
    pthread_mutex_init(&s->answers_mu, NULL);
    s->started_us = cairn_wall_us();
    s->n_threads = o->n_threads;
    s->read_only = o->read_only;
    s->backend = o->backend;
    enum cairn_err err = CAIRN_OK;
    s->config = o->config;
    if (!s->config) {
        err = api_config_new(&s->own_config, why);
        s->config = s->own_config;
    }
    const char *names[MODEL_ROLES];
    names[MODEL_EMBEDDER] = o->embedder;
    names[MODEL_RERANKER] = o->reranker;
    names[MODEL_GENERATOR] = o->generator;
    names[MODEL_CHECKER] = o->checker;
    for (size_t i = 0; i < MODEL_ROLES && !err; i++) {
        s->name[i] = cairn_strdup(names[i]);
        if (names[i] && !s->name[i])
            err = cairn_fail(why, CAIRN_ENOMEM, "service");
    }
    if (!err && o->sync_root && !(s->sync_root = cairn_strdup(o->sync_root)))
        err = cairn_fail(why, CAIRN_ENOMEM, "service");
    if (!err)
        err = store_open(
            &s->store,
            &(struct store_opts){
                .dir = o->data_dir, .read_only = o->read_only, .create = o->create, .config = s->config},
            why);
    if (!err && o->models_dir) {
        s->models_dir = cairn_strdup(o->models_dir);
        if (!s->models_dir)
            err = cairn_fail(why, CAIRN_ENOMEM, "service");
    } else if (!err) {
        struct stat st;
        s->models_dir = cairn_path_join(o->data_dir, "models");
        if (!s->models_dir)
            err = cairn_fail(why, CAIRN_ENOMEM, "service");
        else if (stat(s->models_dir, &st) != 0 || !S_ISDIR(st.st_mode)) {
            cairn_free(s->models_dir);
            s->models_dir = NULL;
        }
    }
    if (!err)
        err = service_models_open(s, why);
    if (!err)
        err = keys_load(s, why);
    if (!err)
        err = upkeep_open(&s->upkeep, s, why);
    if (err) {
        service_close(s);
        return err;
    }
    *out = s;
    return CAIRN_OK;
}

void service_close(struct service *s)
{
    if (!s)
        return;
    upkeep_close(s->upkeep);
    service_models_close(s);
    store_close(s->store);
    sodium_memzero(s->secret, sizeof s->secret);
    cairn_free(s->keys);
    for (int i = 0; i < 3; i++)
        cairn_free(s->name[i]);
    cairn_free(s->models_dir);
    cairn_free(s->sync_root);
    cairn_config_free(s->own_config);
    pthread_mutex_destroy(&s->models_mu);
    pthread_mutex_destroy(&s->keys_mu);
    pthread_mutex_destroy(&s->answers_mu);
    cairn_free(s);
}

struct store *service_store(struct service *s) { return s->store; }

/* ---- a call ---- */

/* Every string is UTF-8, or the call ends here: past this point no method looks again. */
static enum cairn_err check_utf8(const msgpack_object *o, unsigned depth, struct cairn_why *why)
{
    if (depth > WIRE_DEPTH_MAX)
        return cairn_fail(why, CAIRN_EFULL, "nested deeper than %u", WIRE_DEPTH_MAX);
    enum cairn_err err = CAIRN_OK;
    switch (o->type) {
    case MSGPACK_OBJECT_STR: {
        size_t bad = cairn_utf8_invalid_at(o->via.str.ptr, o->via.str.size);
        if (bad < o->via.str.size)
            return cairn_fail(
                why, CAIRN_EINVAL,
                "a string of %u bytes is not UTF-8 at byte %zu; send raw bytes as bin, or convert them",
                o->via.str.size, bad);
        return CAIRN_OK;
    }
    case MSGPACK_OBJECT_ARRAY:
        for (uint32_t i = 0; i < o->via.array.size && !err; i++)
            err = check_utf8(&o->via.array.ptr[i], depth + 1, why);
        return err;
    case MSGPACK_OBJECT_MAP:
        for (uint32_t i = 0; i < o->via.map.size && !err; i++) {
            err = check_utf8(&o->via.map.ptr[i].key, depth + 1, why);
            if (!err)
                err = check_utf8(&o->via.map.ptr[i].val, depth + 1, why);
        }
        return err;
    default:
        return CAIRN_OK;
    }
}

enum cairn_err params_decode(msgpack_unpacked *u, const struct wire_limits *limits, const void *bytes,
                             size_t len, struct cairn_why *why)
{
    struct wire_scan scan;
    size_t used, off = 0;
    wire_scan_init(&scan, limits);
    int rc = wire_scan_feed(&scan, bytes, len, &used, why);
    if (rc < 0)
        return rc == (int)CAIRN_EFULL ? CAIRN_EFULL : CAIRN_EINVAL;
    if (rc == 0 || used != len)
        return cairn_fail(why, CAIRN_EINVAL, "params: not one whole msgpack value");
    msgpack_unpack_return got = msgpack_unpack_next(u, bytes, len, &off);
    if (got == MSGPACK_UNPACK_NOMEM_ERROR)
        return cairn_fail(why, CAIRN_ENOMEM, "params of %zu bytes", len);
    if (got != MSGPACK_UNPACK_SUCCESS || off != len)
        return cairn_fail(why, CAIRN_EINVAL, "params: not one whole msgpack value");
    return check_utf8(&u->data, 0, why);
}

/* Whose eyes the call has. Admins may name any principals; others only their own, or fewer. */
static enum cairn_err resolve_caller(struct call *c, struct cairn_str **asked)
{
    const struct api_caller *caller = c->caller;
    size_t n = 0;
    bool admin = caller->local || caller->role == ROLE_ADMIN, given = p_has(&c->p, "principals");
    if (!given || strncmp(c->m->pub.name, "key.", 4) ==
                      0) { /* key.create has a parameter of this name with another meaning */
        c->who = (struct store_caller){caller->principals, caller->n_principals,
                                       admin && caller->n_principals == 0};
        return CAIRN_OK;
    }
    if (!p_strs(&c->p, "principals", false, PRINCIPALS_MAX, PRINCIPAL_MAX, asked, &n))
        return c->p.err;
    for (size_t i = 0; i < n; i++) {
        bool held = admin || wire_str_is((*asked)[i], "everyone");
        for (size_t j = 0; j < caller->n_principals && !held; j++)
            held = (*asked)[i].len == caller->principals[j].len &&
                   memcmp((*asked)[i].p, caller->principals[j].p, (*asked)[i].len) == 0;
        if (!held)
            return cairn_fail(c->why, CAIRN_EDENIED,
                              "param principals[%zu]: the key does not hold this principal", i);
        c->who_names[i] = (*asked)[i];
    }
    c->who = (struct store_caller){c->who_names, n, false};
    return CAIRN_OK;
}

enum cairn_err service_call(struct service *s, const struct api_caller *caller, const char *method,
                            const void *params, size_t params_len, const struct api_sink *sink,
                            const struct cairn_stop *stop, struct cairn_buf *result, struct cairn_why *why)
{
    int64_t from = cairn_now_us();
    int index = api_method_find(cairn_str_of(method));
    if (index < 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "no method \"%.64s\"; rpc.describe lists them", method);
    const struct method *m = &api_methods[index];
    enum cairn_err err = CAIRN_OK;
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    struct cairn_str *asked = NULL;
    atomic_fetch_add(&s->in_flight, 1);
    struct call *c = cairn_calloc(1, sizeof *c);
    size_t before = result->len;
    if (!c) {
        err = cairn_fail(why, CAIRN_ENOMEM, "request");
        goto done;
    }
    *c = (struct call){.s = s, .caller = caller, .m = m, .sink = sink, .stop = stop, .why = why};
    pk_init(&c->out, result);
    if (!caller->local && caller->role < m->pub.role) {
        err = caller->role == ROLE_NONE
                  ? cairn_fail(why, CAIRN_EUNAUTH, "%s needs a key: call hello {key} first", method)
                  : cairn_fail(why, CAIRN_EDENIED, "%s needs the role %s; this key has %s", method,
                               api_role_name(m->pub.role), api_role_name(caller->role));
        goto done;
    }
    if (m->pub.writes && s->read_only) {
        err = cairn_fail(why, CAIRN_ESTATE, "%s writes, and the store is open for reading only", method);
        goto done;
    }
    err = cairn_stopped(stop, why);
    if (err)
        goto done;

    static const uint8_t empty_map[] = {0x80};
    if (params_len == 0) {
        params = empty_map;
        params_len = sizeof empty_map;
    }
    struct wire_limits limits = {
        .message_bytes = conf_size(s, "api.message_bytes_max"),
        .depth = conf_size(s, "api.depth_max"),
        .nodes = conf_size(s, "api.nodes_max"),
        .str_bytes = conf_size(s, "api.str_bytes_max"),
        .bin_bytes = conf_size(s, "api.str_bytes_max"),
    };
    if (caller->local) { /* the user's own process: files are larger than messages, and only memory is at
                            stake */
        limits.message_bytes = limits.str_bytes = limits.bin_bytes = (size_t)1 << 30;
        limits.nodes = (size_t)4 << 20;
    }
    err = params_decode(&u, &limits, params, params_len, why);
    if (err)
        goto done;
    p_open(&c->p, &u.data, "param ", why);
    uint64_t ignored = 0;
    (void)p_uint(&c->p, "deadline_ms", false, 1, 86400000,
                 &ignored); /* the server made it a stop token already */
    err = c->p.err;
    if (!err)
        err = resolve_caller(c, &asked);
    if (!err)
        err = m->fn(c);
    if (!err && result->failed)
        err = cairn_fail(why, CAIRN_EFULL,
                         "the result is over the limit of %zu bytes; ask for less at a time", result->max);
done:
    if (err && !result->failed)
        result->len = before; /* half a result is none */
    msgpack_unpacked_destroy(&u);
    cairn_free(asked);
    cairn_free(c);
    metrics_count(s, index, err, cairn_now_us() - from);
    atomic_fetch_sub(&s->in_flight, 1);
    return err;
}
