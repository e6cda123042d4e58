/* api/methods_admin.c - methods about models and about the service itself. */
#include "internal.h"

#include <math.h>

#define TEXTS_MAX 4096u

/* ---- hello, rpc.describe, server.* ---- */

void hello_result(struct service *s, struct pk *k, enum api_role role, const char *key_id, bool map_errors,
                  bool events)
{
    static const char *const limits[] = {"message_bytes_max", "depth_max",    "nodes_max",
                                         "str_bytes_max",     "inflight_max", "deadline_ms",
                                         "deadline_ms_max"};
    pk_map(k, 8);
    pk_kcstr(k, "server", "cairn");
    pk_kcstr(k, "version", CAIRN_VERSION);
    pk_kuint(k, "proto", API_PROTO);
    pk_kcstr(k, "role", api_role_name(role));
    pk_kcstr(k, "key_id", key_id && *key_id ? key_id : NULL);
    pk_kcstr(k, "errors", map_errors ? "map" : "string");
    pk_kbool(k, "events", events);
    pk_cstr(k, "limits");
    pk_map(k, sizeof limits / sizeof limits[0]);
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "api.%s", limits[i]);
        pk_kuint(k, limits[i], conf_size(s, key));
    }
}

/* The local form: there is no connection to introduce. The server answers hello itself and does not come
 * here. */
enum cairn_err m_hello(struct call *c)
{
    static const char *const kinds[] = {"string", "map", NULL};
    struct cairn_str s;
    uint64_t proto = API_PROTO;
    int errors = 0;
    bool events = false;
    (void)p_uint(&c->p, "proto", false, 1, API_PROTO, &proto);
    (void)p_str(&c->p, "key", false, 0, 256, &s);
    (void)p_str(&c->p, "client", false, 0, 256, &s);
    (void)p_enum(&c->p, "errors", kinds, &errors);
    (void)p_bool(&c->p, "events", &events);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    hello_result(c->s, &c->out, c->caller->local ? ROLE_ADMIN : c->caller->role, c->caller->key_id,
                 errors == 1, events);
    return CAIRN_OK;
}

enum cairn_err m_describe(struct call *c)
{
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    struct pk *k = &c->out;
    call_map(c, 3);
    pk_kuint(k, "proto", API_PROTO);
    pk_kcstr(k, "version", CAIRN_VERSION);
    pk_cstr(k, "methods");
    pk_array(k, api_method_count());
    for (size_t i = 0; i < api_method_count(); i++) {
        const struct api_method *m = api_method_at(i);
        pk_map(k, 6);
        pk_kcstr(k, "name", m->name);
        pk_kcstr(k, "help", m->help);
        pk_kcstr(k, "role", api_role_name(m->role));
        pk_kbool(k, "writes", m->writes);
        pk_kbool(k, "streams", m->streams);
        pk_kbool(k, "control", m->control);
    }
    call_end(c);
    return CAIRN_OK;
}

enum cairn_err m_server_health(struct call *c)
{
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    call_map(c, 3);
    pk_kcstr(&c->out, "status", atomic_load(&c->s->metrics.draining) ? "draining" : "ok");
    pk_kcstr(&c->out, "version", CAIRN_VERSION);
    pk_knum(&c->out, "uptime_s", (double)(cairn_wall_us() - c->s->started_us) / 1e6);
    call_end(c);
    return CAIRN_OK;
}

static void pack_loaded(struct call *c, const char *key, enum model_role role)
{
    const struct model_card *card = NULL;
    const char *want = c->s->name[role];
    bool none = want && strcmp(want, "none") == 0;
    pk_cstr(&c->out, key);
    if (none || model_registry_find(c->s->registry, role, want, &card, NULL) != CAIRN_OK) {
        pk_nil(&c->out);
        return;
    }
    pk_map(&c->out, 3);
    pk_kcstr(&c->out, "name", card->name);
    pk_kcstr(&c->out, "sha256", card->sha256);
    pk_kbool(&c->out, "loaded", atomic_load(&c->s->loaded) >> role & 1);
}

enum cairn_err m_server_info(struct call *c)
{
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    struct pk *k = &c->out;
    bool admin = c->caller->local || c->caller->role == ROLE_ADMIN;
    size_t n = cairn_config_count(c->s->config);
    call_map(c, 9u + admin);
    pk_kcstr(k, "server", "cairn");
    pk_kcstr(k, "version", CAIRN_VERSION);
    pk_kuint(k, "proto", API_PROTO);
    pk_kcstr(k, "role", api_role_name(c->caller->local ? ROLE_ADMIN : c->caller->role));
    pk_kbool(k, "read_only", c->s->read_only);
    pk_kcstr(k, "backend", model_backend_name(c->s->backend));
    pack_loaded(c, "embedder", MODEL_EMBEDDER);
    pack_loaded(c, "reranker", MODEL_RERANKER);
    pack_loaded(c, "generator", MODEL_GENERATOR);
    if (admin) {
        pk_cstr(k, "config");
        pk_array(k, n);
        for (size_t i = 0; i < n; i++) {
            double value = 0;
            const struct cairn_conf *f = cairn_config_at(c->s->config, i, &value);
            pk_map(k, 7);
            pk_kcstr(k, "key", f->key);
            pk_knum(k, "value", value);
            pk_knum(k, "default", f->def);
            pk_knum(k, "min", f->min);
            pk_knum(k, "max", f->max);
            pk_kbool(k, "live", f->live);
            pk_kcstr(k, "help", f->help);
        }
    }
    call_end(c);
    return CAIRN_OK;
}

enum cairn_err m_server_stats(struct call *c)
{
    struct store_stats st;
    struct api_metrics *m = &c->s->metrics;
    enum cairn_err err = p_close(&c->p, c);
    if (!err)
        err = store_stats_get(c->s->store, &st, c->why);
    if (err)
        return err;
    struct store_merge_state merge;
    store_merge_state_get(c->s->store, &merge);
    struct pk *k = &c->out;
    uint64_t calls = 0, failed = 0;
    for (size_t i = 0; i < api_method_count(); i++) {
        for (unsigned code = 0; code < API_CODES; code++) {
            calls += atomic_load(&m->calls[i][code]);
            failed += code ? atomic_load(&m->calls[i][code]) : 0;
        }
    }
    struct generator_stats g;
    service_generator_stats(c->s, &g);
    call_map(c, 7);
    pk_kuint(k, "generation", st.generation);
    pk_cstr(k, "distributions");
    pk_map(k, SEEN_N);
    for (unsigned i = 0; i < SEEN_N; i++) {
        const struct seen_kind *s = &seen_kinds[i];
        pk_cstr(k, s->name);
        pk_map(k, 2);
        pk_cstr(k, "edges");
        pk_array(k, s->n);
        for (unsigned b = 0; b < s->n; b++)
            pk_num(k, s->edge[b]);
        pk_cstr(k, "counts");
        pk_array(k, s->n + 1);
        for (unsigned b = 0; b <= s->n; b++)
            pk_uint(k, atomic_load(&m->seen[i][b]));
    }
    pk_knum(k, "uptime_s", (double)(cairn_wall_us() - c->s->started_us) / 1e6);
    pk_cstr(k, "store");
    pk_map(k, 11);
    pk_kuint(k, "map_bytes", st.map_bytes);
    pk_kuint(k, "map_used_bytes", st.map_used_bytes);
    pk_kuint(k, "file_bytes", st.file_bytes);
    pk_kuint(k, "n_collections", st.n_collections);
    pk_kuint(k, "n_documents", st.n_documents);
    pk_kuint(k, "n_passages", st.n_passages);
    pk_kuint(k, "n_vectors", st.n_vectors);
    pk_kuint(k, "n_segments", st.n_segments);
    pk_kuint(k, "n_delta", st.n_delta);
    pk_kuint(k, "readers", st.readers);
    pk_kuint(k, "dead_readers_cleared", st.dead_readers_cleared);
    pk_cstr(k, "merge");
    pk_map(k, 4);
    pk_kcstr(k, "phase", merge.phase); /* nil: none runs */
    pk_kuint(k, "done", merge.done);
    pk_kuint(k, "total", merge.total);
    pk_kuint(k, "n_merges", merge.n_merges);
    pk_cstr(k, "requests");
    pk_map(k, 12);
    pk_kuint(k, "total", calls);
    pk_kuint(k, "failed", failed);
    pk_kuint(k, "running", atomic_load(&m->running));
    pk_kuint(k, "waiting", atomic_load(&m->queue));
    pk_kuint(k, "rejected", atomic_load(&m->rejected));
    pk_kuint(k, "connections", atomic_load(&m->connections));
    pk_kuint(k, "protocol_errors", atomic_load(&m->protocol_errors));
    pk_kuint(k, "prompt_tokens", atomic_load(&m->prompt_tokens));
    pk_kuint(k, "completion_tokens", atomic_load(&m->completion_tokens));
    pk_kuint(k, "refusals", atomic_load(&m->refusals));
    pk_kuint(k, "citations", atomic_load(&m->citations));
    pk_kuint(k, "citations_dropped", atomic_load(&m->citations_dropped));
    pk_cstr(k, "generator");
    pk_map(k, 14);
    pk_kuint(k, "steps", g.steps);
    pk_kuint(k, "rows", g.rows);
    pk_kuint(k, "prompt_tokens", g.prompt_tokens);
    pk_kuint(k, "cached_tokens", g.cached_tokens);
    pk_kuint(k, "completion_tokens", g.completion_tokens);
    pk_kuint(k, "drafted_tokens", g.drafted);
    pk_kuint(k, "accepted_tokens", g.accepted);
    pk_kuint(k, "running", g.running);
    pk_kuint(k, "waiting", g.waiting);
    pk_kuint(k, "rejected", g.rejected);
    pk_kuint(k, "kv_pages", g.kv_pages);
    pk_kuint(k, "kv_pages_free", g.kv_pages_free);
    pk_kuint(k, "kv_pages_kept", g.kv_pages_kept);
    pk_kuint(k, "kv_page_bytes", g.kv_page_bytes);
    call_end(c);
    return CAIRN_OK;
}

/* ---- the room above ---- */

static _Atomic(api_eval_fn) eval_fn;

void api_set_eval(api_eval_fn fn) { atomic_store(&eval_fn, fn); }

/* The parameters go on as they came: the calls that it makes check them, each as its own method. */
enum cairn_err m_eval_run(struct call *c)
{
    api_eval_fn run = atomic_load(&eval_fn);
    struct cairn_buf params;
    struct pk k;
    if (!run)
        return cairn_fail(c->why, CAIRN_EUNSUPPORTED, "eval.run: this program was built without eval");
    cairn_buf_init(&params, (size_t)1 << 30);
    pk_init(&k, &params);
    pk_map(&k, c->p.n);
    for (uint32_t i = 0; i < c->p.n; i++) {
        (void)msgpack_pack_object(&k.p, c->p.kv[i].key);
        (void)msgpack_pack_object(&k.p, c->p.kv[i].val);
    }
    enum cairn_err err = params.failed
                             ? cairn_fail(c->why, CAIRN_ENOMEM, "parameters")
                             : run(c->s, c->caller, params.bytes, params.len, c->stop, c->out.b, c->why);
    cairn_buf_release(&params);
    return err;
}

/* ---- models ---- */

enum cairn_err m_model_list(struct call *c)
{
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    struct pk *k = &c->out;
    size_t n = model_registry_count(c->s->registry);
    call_map(c, 2);
    pk_kcstr(k, "backend", model_backend_name(c->s->backend));
    pk_cstr(k, "models");
    pk_array(k, n);
    for (size_t i = 0; i < n; i++) {
        const struct model_card *m = model_registry_at(c->s->registry, i), *chosen = NULL;
        const char *want = c->s->name[m->role];
        bool used = !(want && strcmp(want, "none") == 0) &&
                    model_registry_find(c->s->registry, m->role, want, &chosen, NULL) == CAIRN_OK &&
                    chosen == m;
        pk_map(k, 11);
        pk_kcstr(k, "name", m->name);
        pk_kcstr(k, "role", model_role_name(m->role));
        pk_kcstr(k, "architecture", m->architecture);
        pk_kcstr(k, "profile", m->profile);
        pk_kcstr(k, "licence", m->licence);
        pk_kcstr(k, "source", m->source);
        pk_kcstr(k, "sha256", m->sha256);
        pk_kuint(k, "bytes", m->bytes);
        pk_kuint(k, "max_tokens", m->max_tokens);
        pk_kbool(k, "chosen", used);
        pk_kbool(k, "loaded", used && (atomic_load(&c->s->loaded) >> m->role & 1));
    }
    call_end(c);
    return CAIRN_OK;
}

enum cairn_err m_embed(struct call *c)
{
    static const char *const kinds[] = {"passage", "query", NULL};
    struct cairn_str *texts = NULL;
    char **prefixed = NULL;
    float *out = NULL;
    struct encoder *e = NULL;
    size_t n = 0;
    int kind = 0;
    (void)p_strs(&c->p, "texts", true, TEXTS_MAX, 1u << 20, &texts, &n);
    (void)p_enum(&c->p, "kind", kinds, &kind);
    enum cairn_err err = p_close(&c->p, c);
    if (!err && n == 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param texts: empty; want at least one text");
    if (!err)
        err = service_encoder(c->s, MODEL_EMBEDDER, &e, c->why);
    uint32_t dim = err ? 0 : encoder_dim(e);
    if (!err && kind == 1 && *encoder_query_prefix(e)) {
        prefixed = cairn_calloc(n, sizeof *prefixed);
        for (size_t i = 0; i < n && !err; i++) {
            if (!prefixed || !(prefixed[i] = cairn_asprintf("%s%.*s", encoder_query_prefix(e),
                                                            (int)texts[i].len, texts[i].p)))
                err = cairn_fail(c->why, CAIRN_ENOMEM, "%zu texts", n);
            else
                texts[i] = cairn_str_of(prefixed[i]);
        }
    }
    if (!err && !(out = cairn_reallocarray(NULL, n * dim, sizeof *out)))
        err = cairn_fail(c->why, CAIRN_ENOMEM, "%zu vectors", n);
    for (size_t i = 0; i < n && !err; i += 32)
        err = encoder_embed(e, texts + i, n - i < 32 ? n - i : 32, out + i * dim, c->stop, c->why);
    if (!err) {
        call_map(c, 3);
        pk_kcstr(&c->out, "model", encoder_name(e));
        pk_kuint(&c->out, "dim", dim);
        pk_cstr(&c->out, "vectors"); /* f32, little-endian */
        pk_array(&c->out, n);
        for (size_t i = 0; i < n; i++)
            pk_bin(&c->out, out + i * dim, dim * sizeof *out);
        call_end(c);
    }
    for (size_t i = 0; prefixed && i < n; i++)
        cairn_free(prefixed[i]);
    cairn_free(prefixed);
    cairn_free(texts);
    cairn_free(out);
    return err;
}

enum cairn_err m_rerank(struct call *c)
{
    struct cairn_str query = {NULL, 0}, *texts = NULL;
    struct encoder *e = NULL;
    float *logits = NULL;
    size_t n = 0;
    (void)p_str(&c->p, "query", true, 1, QUERY_BYTES_MAX, &query);
    (void)p_strs(&c->p, "texts", true, TEXTS_MAX, 1u << 20, &texts, &n);
    enum cairn_err err = p_close(&c->p, c);
    if (!err && n == 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param texts: empty; want at least one text");
    if (!err)
        err = service_encoder(c->s, MODEL_RERANKER, &e, c->why);
    if (!err && !(logits = cairn_calloc(n, sizeof *logits)))
        err = cairn_fail(c->why, CAIRN_ENOMEM, "%zu texts", n);
    for (size_t i = 0; i < n && !err; i += 32)
        err = encoder_score_pairs(e, query, texts + i, n - i < 32 ? n - i : 32, logits + i, c->stop, c->why);
    if (!err) {
        call_map(c, 2);
        pk_kcstr(&c->out, "model", encoder_name(e));
        pk_cstr(&c->out, "scores"); /* logits, in the order of texts */
        pk_array(&c->out, n);
        for (size_t i = 0; i < n; i++)
            pk_num(&c->out, (double)logits[i]);
        call_end(c);
    }
    cairn_free(texts);
    cairn_free(logits);
    return err;
}

enum cairn_err m_tokenize(struct call *c)
{
    static const char *const roles[] = {"generator", "embedder", "reranker", NULL};
    struct cairn_str text = {NULL, 0};
    int role = 0;
    bool special = false;
    int32_t *ids = NULL;
    size_t n = 0;
    struct encoder *e;
    struct decoder *d;
    const struct tokenizer *t = NULL;
    const char *model = "";
    (void)p_str(&c->p, "text", true, 0, 1u << 20, &text);
    (void)p_enum(&c->p, "model", roles, &role);
    (void)p_bool(&c->p, "add_special", &special);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    if (role == 0) {
        err = service_decoder(c->s, &d, c->why);
        if (!err) {
            t = decoder_tokenizer(d);
            model = decoder_name(d);
        }
    } else {
        err = service_encoder(c->s, role == 1 ? MODEL_EMBEDDER : MODEL_RERANKER, &e, c->why);
        if (!err) {
            t = encoder_tokenizer(e);
            model = encoder_name(e);
        }
    }
    if (!err)
        err = tokenizer_encode(t, text, special ? TOKENIZE_ADD_SPECIAL : TOKENIZE_PLAIN, &ids, &n, c->why);
    if (err)
        return err;
    call_map(c, 4);
    pk_kcstr(&c->out, "model", model);
    pk_kcstr(&c->out, "tokenizer", tokenizer_kind(t));
    pk_kuint(&c->out, "n", n);
    pk_cstr(&c->out, "ids");
    pk_array(&c->out, n);
    for (size_t i = 0; i < n; i++)
        pk_int(&c->out, ids[i]);
    call_end(c);
    cairn_free(ids);
    return CAIRN_OK;
}
