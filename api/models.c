/* api/models.c - models of a service: opened on first use, each once, under models_mu. A pool of compute
 * threads is shared by all. A retriever and a generator exist per combination of models that they have,
 * because a lexical collection must be searchable when no embedder is on disk. They are cheap; the models are
 * shared. */
#include "internal.h"

#include <sys/stat.h>

enum cairn_err service_models_open(struct service *s, struct cairn_why *why)
{
    return model_registry_open(&s->registry, s->models_dir, why);
}

void service_models_close(struct service *s)
{
    for (int d = 0; d < 2; d++)
        generator_close(s->generator[d]);
    for (int e = 0; e < 2; e++)
        for (int r = 0; r < 2; r++)
            retriever_close(s->retriever[e][r]);
    reader_close(s->reader);
    ground_encoder_close(s->claims);
    decoder_close(s->decoder);
    encoder_close(s->encoder[MODEL_EMBEDDER]);
    encoder_close(s->encoder[MODEL_RERANKER]);
    cairn_pool_close(s->pool);
    model_registry_close(s->registry);
}

bool service_goes_without(const struct service *s, enum model_role role)
{
    return s->name[role] && strcmp(s->name[role], "none") == 0;
}

static enum cairn_err card_of(struct service *s, enum model_role role, const struct model_card **card,
                              struct cairn_why *why)
{
    if (service_goes_without(s, role))
        return cairn_fail(why, CAIRN_ESTATE, "this service runs without a %s (--%s none)",
                          model_role_name(role), model_role_name(role));
    return model_registry_find(s->registry, role, s->name[role], card, why);
}

bool service_has_model(struct service *s, enum model_role role)
{
    const struct model_card *card;
    return card_of(s, role, &card, NULL) == CAIRN_OK;
}

static enum cairn_err pool_locked(struct service *s, struct cairn_why *why)
{
    return s->pool ? CAIRN_OK : cairn_pool_open(&s->pool, s->n_threads, why);
}

static enum cairn_err encoder_locked(struct service *s, enum model_role role, struct encoder **out,
                                     struct cairn_why *why)
{
    *out = s->encoder[role];
    if (*out)
        return CAIRN_OK;
    const struct model_card *card;
    enum cairn_err err = card_of(s, role, &card, why);
    if (!err)
        err = pool_locked(s, why);
    if (!err)
        err = encoder_open(&s->encoder[role], card,
                           &(struct model_opts){.pool = s->pool, .backend = s->backend}, why);
    if (err)
        return err;
    atomic_fetch_or(&s->loaded, 1u << role);
    *out = s->encoder[role];
    return CAIRN_OK;
}

enum cairn_err service_encoder(struct service *s, enum model_role role, struct encoder **out,
                               struct cairn_why *why)
{
    *out = NULL;
    if (role != MODEL_EMBEDDER && role != MODEL_RERANKER)
        return cairn_fail(why, CAIRN_EINVAL, "a %s is not an encoder", model_role_name(role));
    pthread_mutex_lock(&s->models_mu);
    enum cairn_err err = encoder_locked(s, role, out, why);
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

enum cairn_err service_support_embedder(struct service *s, struct encoder **out, float *baseline,
                                        struct cairn_why *why)
{
    pthread_mutex_lock(&s->models_mu);
    enum cairn_err err = encoder_locked(s, MODEL_EMBEDDER, out, why);
    if (!err && s->embed_baseline <= 0)
        err = grounding_embed_baseline(*out, &s->embed_baseline, why);
    *baseline = s->embed_baseline;
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

static enum cairn_err decoder_locked(struct service *s, struct decoder **out, struct cairn_why *why)
{
    *out = s->decoder;
    if (*out)
        return CAIRN_OK;
    const struct model_card *card;
    enum cairn_err err = card_of(s, MODEL_GENERATOR, &card, why);
    if (!err)
        err = pool_locked(s, why);
    if (!err)
        err =
            decoder_open(&s->decoder, card,
                         &(struct model_opts){
                             .pool = s->pool,
                             .backend = s->backend,
                             .kv_bytes = cairn_config_size(s->config, "generator.kv_bytes"),
                             .cache_type = (enum cache_type)cairn_config_num(s->config, "generator.kv_type"),
                             .exact = conf_size(s, "generator.exact") != 0},
                         why);
    if (err)
        return err;
    snprintf(s->decoder_sha256, sizeof s->decoder_sha256, "%s", card->sha256 ? card->sha256 : "");
    atomic_fetch_or(&s->loaded, 1u << MODEL_GENERATOR);
    *out = s->decoder;
    return CAIRN_OK;
}

/* The path of an overlay beside the pair model's file; *out NULL: there is none, and that is no error. OWNED.
 */
static enum cairn_err overlay_of(const struct model_card *card, const char *name, char **out,
                                 struct cairn_why *why)
{
    const char *slash = strrchr(card->path, '/');
    struct stat st;
    *out = cairn_asprintf("%.*s%s", slash ? (int)(slash - card->path + 1) : 0, card->path, name);
    if (!*out)
        return cairn_fail(why, CAIRN_ENOMEM, "%s", name);
    if (stat(*out, &st) != 0) {
        cairn_free(*out);
        *out = NULL;
    }
    return CAIRN_OK;
}

static enum cairn_err reader_locked(struct service *s, struct cairn_why *why)
{
    const struct model_card *card;
    char *path = NULL;
    if (s->reader || conf_size(s, "api.reader") == 0)
        return CAIRN_OK;
    enum cairn_err err = card_of(s, MODEL_RERANKER, &card, why);
    if (!err)
        err = overlay_of(card, READER_FILE, &path, why);
    if (!err && path)
        err = pool_locked(s, why);
    if (!err && path)
        err = reader_open(&s->reader, card, path,
                          &(struct model_opts){.pool = s->pool, .backend = s->backend}, why);
    cairn_free(path);
    return err;
}

/* A checker that is installed, else the overlay over the pair model; *out NULL: neither, or not wanted. */
static enum cairn_err claims_locked(struct service *s, const struct ground_encoder **out,
                                    struct cairn_why *why)
{
    const struct model_card *card;
    char *path = NULL;
    enum cairn_err err = CAIRN_OK;
    *out = NULL;
    if (!conf_on(s, "grounding.encoder") || service_goes_without(s, MODEL_CHECKER))
        return CAIRN_OK;
    bool whole = s->name[MODEL_CHECKER] || card_of(s, MODEL_CHECKER, &card, NULL) == CAIRN_OK;
    if (!s->claims && whole)
        err = card_of(s, MODEL_CHECKER, &card, why);
    else if (!s->claims && card_of(s, MODEL_RERANKER, &card, NULL) == CAIRN_OK)
        err = overlay_of(card, CLAIMS_FILE, &path, why);
    if (!err && !s->claims && (whole || path))
        err = pool_locked(s, why);
    if (!err && !s->claims && (whole || path))
        err = ground_encoder_open(&s->claims, card, path,
                                  &(struct model_opts){.pool = s->pool, .backend = s->backend}, why);
    cairn_free(path);
    *out = s->claims;
    return err;
}

enum cairn_err service_claims(struct service *s, const struct ground_encoder **out, struct cairn_why *why)
{
    pthread_mutex_lock(&s->models_mu);
    enum cairn_err err = claims_locked(s, out, why);
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

enum cairn_err service_decoder(struct service *s, struct decoder **out, struct cairn_why *why)
{
    pthread_mutex_lock(&s->models_mu);
    enum cairn_err err = decoder_locked(s, out, why);
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

enum cairn_err service_retriever_with(struct service *s, bool embedder, bool reranker, struct retriever **out,
                                      struct cairn_why *why)
{
    struct encoder *e = NULL, *r = NULL;
    enum cairn_err err = CAIRN_OK;
    *out = NULL;
    pthread_mutex_lock(&s->models_mu);
    struct retriever **slot = &s->retriever[embedder][reranker];
    if (!*slot) {
        if (embedder)
            err = encoder_locked(s, MODEL_EMBEDDER, &e, why);
        if (!err && reranker)
            err = encoder_locked(s, MODEL_RERANKER, &r, why);
        if (!err)
            err = retriever_open(slot, s->store, e, r, s->config, why);
    }
    *out = err ? NULL : *slot;
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

enum cairn_err service_retriever(struct service *s, struct retriever **out, struct cairn_why *why)
{
    return service_retriever_with(s, service_has_model(s, MODEL_EMBEDDER),
                                  service_has_model(s, MODEL_RERANKER), out, why);
}

enum cairn_err service_generator_with(struct service *s, bool decoder, struct generator **out,
                                      struct cairn_why *why)
{
    struct encoder *e = NULL, *r = NULL;
    struct decoder *d = NULL;
    const struct ground_encoder *claims = NULL;
    enum cairn_err err = CAIRN_OK;
    *out = NULL;
    bool has_e = service_has_model(s, MODEL_EMBEDDER), has_r = service_has_model(s, MODEL_RERANKER);
    pthread_mutex_lock(&s->models_mu);
    struct generator **slot = &s->generator[decoder];
    if (!*slot) {
        if (decoder)
            err = decoder_locked(s, &d, why);
        if (!err && has_e)
            err = encoder_locked(s, MODEL_EMBEDDER, &e, why);
        if (!err && has_r)
            err = encoder_locked(s, MODEL_RERANKER, &r, why);
        if (!err && has_r)
            err = reader_locked(s, why);
        if (!err)
            err = claims_locked(s, &claims, why);
        if (!err)
            err = generator_open(slot, d, e, r, s->config, why);
        if (!err) {
            generator_use_reader(*slot, s->reader);
            generator_use_encoder(*slot, claims);
        }
    }
    *out = err ? NULL : *slot;
    pthread_mutex_unlock(&s->models_mu);
    return err;
}

enum cairn_err service_generator(struct service *s, struct generator **out, struct cairn_why *why)
{
    return service_generator_with(s, !service_goes_without(s, MODEL_GENERATOR), out, why);
}

void service_generator_stats(struct service *s, struct generator_stats *out)
{
    pthread_mutex_lock(&s->models_mu);
    struct generator *g = s->generator[1];
    pthread_mutex_unlock(&s->models_mu);
    memset(out, 0, sizeof *out);
    if (g)
        generator_stats_get(g, out);
}

enum cairn_err service_embedder_for_new(struct service *s, char name[96], uint32_t *dim,
                                        struct cairn_why *why)
{
    name[0] = 0;
    *dim = 0;
    if (service_goes_without(s, MODEL_EMBEDDER))
        return CAIRN_OK;
    struct encoder *e;
    enum cairn_err err = service_encoder(s, MODEL_EMBEDDER, &e, why);
    if (err)
        return cairn_wrap(why, err,
                          "the new collection would hold vectors (embedder \"none\" makes one without)");
    snprintf(name, 96, "%s", encoder_name(e));
    *dim = encoder_dim(e);
    return CAIRN_OK;
}

enum cairn_err service_embedder_matches(struct service *s, const struct collection_opts *o,
                                        struct encoder **out, struct cairn_why *why)
{
    enum cairn_err err = service_encoder(s, MODEL_EMBEDDER, out, why);
    if (err)
        return cairn_wrap(why, err, "collection %s holds vectors of %s", o->name, o->embedder);
    if (strcmp(encoder_name(*out), o->embedder) != 0 || encoder_dim(*out) != o->dim)
        return cairn_fail(why, CAIRN_ESTATE,
                          "collection %s holds vectors of %s (%u dimensions), but this service embeds with "
                          "%s (%u): start it with "
                          "--embedder %s, or make a new collection",
                          o->name, o->embedder, o->dim, encoder_name(*out), encoder_dim(*out), o->embedder);
    return CAIRN_OK;
}

enum cairn_err service_ready(struct service *s, struct cairn_buf *json, struct cairn_why *why)
{
    struct store_view *v = NULL;
    enum cairn_err err = store_view_begin(&v, s->store, why);
    uint64_t generation = err ? 0 : store_view_generation(v);
    store_view_end(v);
    cairn_buf_printf(json, "{\"store\":%s,\"generation\":%" PRIu64, err ? "false" : "true", generation);
    for (int role = 0; role < 3; role++) {
        const struct model_card *card;
        const char *state = "present";
        if (service_goes_without(s, (enum model_role)role)) {
            state = "none";
        } else if (card_of(s, (enum model_role)role, &card, err ? NULL : why) != CAIRN_OK) {
            state = "missing";
            err = err ? err : CAIRN_ESTATE;
        }
        cairn_buf_printf(json, ",\"%s\":\"%s\"", model_role_name((enum model_role)role), state);
    }
    bool draining = atomic_load(&s->metrics.draining);
    if (draining && !err)
        err = cairn_fail(why, CAIRN_EBUSY, "draining");
    cairn_buf_printf(json, ",\"ready\":%s}\n", err ? "false" : "true");
    return err;
}
