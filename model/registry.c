/* registry.c - a directory of models, one directory each: NAME/card.json and the files that it names.
 *
 * card.json (written by scripts/models and by model_registry_add, read here; unknown keys are ignored):
 *   name, role "generator|embedder|reranker|checker", format "gguf|safetensors", file, vocab, bytes, sha256,
 * licence, source, profile, architecture, pooling "cls|mean|none|rank", normalize, query_prefix, max_tokens,
 * n_head, layer_norm_eps, lower_case, template
 *
 * A card may come with a model from anywhere, so: "name" is the directory's own name; "file" and "vocab" are
 * plain names inside it; numbers have ranges. A directory whose card breaks a rule is left out with a
 * warning, and asking for it by name tells what is wrong. Cards are read once, at open: a registry is
 * immutable, but for model_registry_add. */
#include "decoder_arch.h"
#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CARD_BYTES_MAX = 1 << 20,
    CARD_TEXT_MAX = 4096, /* of one string */
    CARD_NAME_MAX = 128,
    REGISTRY_MODELS_MAX = 4096,
    CARD_TOKENS_MAX = 1 << 20,
    CARD_HEADS_MAX = 4096,
    COPY_PIECE = 1 << 20,
    NOMIC_TOKENS = 2048, /* what nomic-bert was trained on */
    ENCODER_TOKENS_MIN = 4,
    FINITE_STEP = 4096, /* a multiple of every type's block */
};

struct entry {
    struct model_card card;
    char *bad; /* why it is left out; then only card.name stands */
};
struct model_registry {
    char *dir;
    struct entry *
        *entries; /* good ones first, by name; then bad ones; cards stay where they are when one is added */
    size_t n, n_good, cap;
};

static enum cairn_err no_memory(struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOMEM, "no memory for the model registry");
}

static const char *const role_names[MODEL_ROLES] = {"generator", "embedder", "reranker", "checker"};

const char *model_role_name(enum model_role r) { return role_names[r]; }

static void card_release(struct model_card *c)
{
    char *texts[] = {c->name,    c->path,   c->vocab,  c->architecture, c->profile,
                     c->licence, c->source, c->sha256, c->query_prefix, c->template_name};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        cairn_free(texts[i]);
    memset(c, 0, sizeof *c);
}

/* A name that stays where it is put: no separators, no leading dot, printable ASCII. */
static bool plain_name(const char *s)
{
    size_t len = strlen(s);
    if (len == 0 || len > CARD_NAME_MAX || s[0] == '.' || s[0] == '-')
        return false;
    for (size_t i = 0; i < len; i++)
        if (s[i] <= ' ' || s[i] >= 127 || s[i] == '/' || s[i] == '\\')
            return false;
    return true;
}

/* ---- reading a card
 * ---------------------------------------------------------------------------------------------------- */

static enum cairn_err bad_card(struct cairn_why *why, const char *key, const char *rule)
{
    return cairn_fail(why, CAIRN_ECORRUPT, "card.json: \"%s\" %s; mend it or run scripts/models again", key,
                      rule);
}

/* COPIED into *out; absent leaves NULL. */
static enum cairn_err card_text(const json_t *card, const char *key, char **out, struct cairn_why *why)
{
    const json_t *v = json_object_get(card, key);
    if (!v || json_is_null(v))
        return CAIRN_OK;
    if (!json_is_string(v) || json_string_length(v) > CARD_TEXT_MAX)
        return bad_card(why, key, "is a string of at most 4096 bytes");
    *out = cairn_strndup(json_string_value(v), json_string_length(v));
    return *out ? CAIRN_OK : no_memory(why);
}

static enum cairn_err card_uint(const json_t *card, const char *key, uint64_t max, uint64_t *out,
                                struct cairn_why *why)
{
    const json_t *v = json_object_get(card, key);
    if (!v || json_is_null(v))
        return CAIRN_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
        return bad_card(why, key, "is a whole number in range");
    *out = (uint64_t)json_integer_value(v);
    return CAIRN_OK;
}

static enum cairn_err card_bool(const json_t *card, const char *key, bool *out, struct cairn_why *why)
{
    const json_t *v = json_object_get(card, key);
    if (v && !json_is_boolean(v))
        return bad_card(why, key, "is true or false");
    if (v)
        *out = json_is_true(v);
    return CAIRN_OK;
}

/* One of the names, as its place; absent leaves *out. */
static enum cairn_err card_choice(const json_t *card, const char *key, const char *const *names, size_t n,
                                  int *out, struct cairn_why *why)
{
    const json_t *v = json_object_get(card, key);
    if (!v)
        return CAIRN_OK;
    for (size_t i = 0; i < n; i++) {
        if (json_is_string(v) && strcmp(json_string_value(v), names[i]) == 0) {
            *out = (int)i;
            return CAIRN_OK;
        }
    }
    return bad_card(why, key, "has a value that is not known");
}

/* "file" or "vocab" as a path inside the model's directory. */
static enum cairn_err card_path(const json_t *card, const char *key, const char *dir, char **out,
                                struct cairn_why *why)
{
    char *name = NULL;
    enum cairn_err err = card_text(card, key, &name, why);
    if (!err && name && !plain_name(name))
        err = bad_card(why, key, "is a plain file name inside the model's directory");
    if (!err && name) {
        *out = cairn_path_join(dir, name);
        if (!*out)
            err = no_memory(why);
        else if (access(*out, R_OK) != 0)
            err = cairn_fail(why, CAIRN_ESTATE,
                             "card.json names %.200s, which cannot be read (%s); run scripts/models again",
                             *out, strerror(errno));
    }
    cairn_free(name);
    return err;
}

static const char *const pooling_names[] = {"none", "mean", "cls", "rank"}; /* as enum encoder_pooling */

static enum cairn_err card_from_json(struct model_card *c, const json_t *card, const char *dir,
                                     struct cairn_why *why)
{
    enum cairn_err err;
    int role = -1;
    uint64_t max_tokens = 0, n_head = 0;
    char *name = NULL;
    if ((err = card_text(card, "name", &name, why)))
        return err;
    bool same = name && strcmp(name, c->name) == 0;
    cairn_free(name);
    if (!same)
        return bad_card(why, "name", "is the name of its directory");
    const struct {
        const char *key;
        char **out;
    } texts[] = {
        {"architecture", &c->architecture },
        {"profile",      &c->profile      },
        {"licence",      &c->licence      },
        {"source",       &c->source       },
        {"sha256",       &c->sha256       },
        {"query_prefix", &c->query_prefix },
        {"template",     &c->template_name}
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if ((err = card_text(card, texts[i].key, texts[i].out, why)))
            return err;
    if ((err = card_choice(card, "role", role_names, MODEL_ROLES, &role, why)) ||
        (err = card_choice(card, "pooling", pooling_names, 4, &c->pooling, why)) ||
        (err = card_path(card, "file", dir, &c->path, why)) ||
        (err = card_path(card, "vocab", dir, &c->vocab, why)) ||
        (err = card_uint(card, "bytes", INT64_MAX, &c->bytes, why)) ||
        (err = card_uint(card, "max_tokens", CARD_TOKENS_MAX, &max_tokens, why)) ||
        (err = card_uint(card, "n_head", CARD_HEADS_MAX, &n_head, why)) ||
        (err = card_bool(card, "normalize", &c->normalize, why)) ||
        (err = card_bool(card, "lower_case", &c->lower_case, why)))
        return err;
    if (role < 0)
        return bad_card(why, "role", "is generator, embedder, reranker or checker");
    if (!c->path)
        return bad_card(why, "file", "names the model file");
    if (c->template_name && chat_template_by_name(c->template_name) == CHAT_NONE)
        return bad_card(why, "template", "is chatml, mistral-v1, mistral-v3, qwen3, llama-3 or gemma");
    const json_t *eps = json_object_get(card, "layer_norm_eps");
    if (eps && (!json_is_number(eps) || !(json_number_value(eps) > 0 && json_number_value(eps) < 1)))
        return bad_card(why, "layer_norm_eps", "is a number between 0 and 1");
    c->layer_norm_eps = eps ? json_number_value(eps) : 0;
    c->role = (enum model_role)role;
    c->max_tokens = (uint32_t)max_tokens;
    c->n_head = (uint32_t)n_head;
    if (c->role == MODEL_RERANKER) /* a pair model scores; older cards say "none" */
        c->pooling = POOL_RANK;
    return CAIRN_OK;
}

static enum cairn_err card_load(struct model_card *c, const char *dir, struct cairn_why *why)
{
    char *path = cairn_path_join(dir, "card.json"), *text = NULL;
    size_t len = 0;
    enum cairn_err err = path ? cairn_read_file(&text, &len, path, CARD_BYTES_MAX, why) : no_memory(why);
    cairn_free(path);
    if (err)
        return err;
    json_error_t jerr;
    json_t *card = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);
    cairn_free(text);
    if (!card)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "card.json: %.150s at line %d; mend it or run scripts/models again",
                          file_shown(jerr.text, strlen(jerr.text)).text, jerr.line);
    err = json_is_object(card) ? card_from_json(c, card, dir, why) : bad_card(why, "{}", "is an object");
    json_decref(card);
    return err;
}

/* ---- the registry
 * -------------------------------------------------------------------------------------------------------- */

static char *default_dir(void)
{
    const char *env = getenv("CAIRN_MODELS_DIR"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (env && *env)
        return cairn_strdup(env);
    if (cache && *cache)
        return cairn_path_join(cache, "cairn/models");
    return cairn_path_join(home && *home ? home : "/", ".cache/cairn/models");
}

static void entry_free(struct entry *e)
{
    if (!e)
        return;
    card_release(&e->card);
    cairn_free(e->bad);
    cairn_free(e);
}

static enum cairn_err add_entry(struct model_registry *r, const char *name, struct cairn_why *why)
{
    if (r->n >= REGISTRY_MODELS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "%.200s has more than %d models; move some elsewhere", r->dir,
                          REGISTRY_MODELS_MAX);
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        struct entry **entries = cairn_reallocarray(r->entries, cap, sizeof(*entries));
        if (!entries)
            return no_memory(why);
        r->entries = entries;
        r->cap = cap;
    }
    struct entry *e = cairn_calloc(1, sizeof *e);
    char *dir = cairn_path_join(r->dir, name);
    if (e)
        e->card.name = cairn_strdup(name);
    if (!e || !dir || !e->card.name) {
        entry_free(e);
        cairn_free(dir);
        return no_memory(why);
    }
    struct cairn_why what = {{0}};
    enum cairn_err err = card_load(&e->card, dir, &what);
    cairn_free(dir);
    if (err && err != CAIRN_ENOMEM) {
        card_release(&e->card);
        e->card.name = cairn_strdup(name);
        e->bad = cairn_strdup(what.text);
    }
    if (err == CAIRN_ENOMEM || !e->card.name || (err && !e->bad)) {
        entry_free(e);
        return no_memory(why);
    }
    r->entries[r->n++] = e;
    if (err)
        CAIRN_LOG(MODEL, WARN, "model left out name=%s reason=\"%s\"", name, what.text);
    return CAIRN_OK;
}

static int good_then_name(const void *a, const void *b)
{
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    if (!x->bad != !y->bad)
        return x->bad ? 1 : -1;
    return strcmp(x->card.name, y->card.name);
}

static void sort_entries(struct model_registry *r)
{
    if (r->n)
        qsort(r->entries, r->n, sizeof *r->entries, good_then_name);
    r->n_good = 0;
    while (r->n_good < r->n && !r->entries[r->n_good]->bad)
        r->n_good++;
}

static enum cairn_err scan(struct model_registry *r, struct cairn_why *why)
{
    DIR *d = opendir(r->dir);
    if (!d)
        return errno == ENOENT ? CAIRN_OK
                               : cairn_fail_errno(why, errno, "read the models' directory %s", r->dir);
    enum cairn_err err = CAIRN_OK;
    for (struct dirent *de; !err && (de = readdir(d));) {
        struct stat st;
        char card[272];
        if (!plain_name(de->d_name))
            continue; /* ., .., .work and the like */
        snprintf(card, sizeof card, "%s/card.json", de->d_name);
        if (fstatat(dirfd(d), card, &st, 0) == 0) /* no card: not a whole model yet */
            err = add_entry(r, de->d_name, why);
    }
    closedir(d);
    sort_entries(r);
    return err;
}

enum cairn_err model_registry_open(struct model_registry **out, const char *dir, struct cairn_why *why)
{
    *out = NULL;
    struct model_registry *r = cairn_calloc(1, sizeof *r);
    if (!r)
        return no_memory(why);
    r->dir = dir ? cairn_strdup(dir) : default_dir();
    enum cairn_err err = r->dir ? scan(r, why) : no_memory(why);
    if (err) {
        model_registry_close(r);
        return err;
    }
    *out = r;
    return CAIRN_OK;
}

void model_registry_close(struct model_registry *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        entry_free(r->entries[i]);
    cairn_free(r->entries);
    cairn_free(r->dir);
    cairn_free(r);
}

size_t model_registry_count(const struct model_registry *r) { return r->n_good; }

const struct model_card *model_registry_at(const struct model_registry *r, size_t i)
{
    CAIRN_CHECK(i < r->n_good);
    return &r->entries[i]->card;
}

static int profile_rank(const char *profile)
{
    if (profile && strcmp(profile, "standard") == 0)
        return 0;
    return profile && strcmp(profile, "small") == 0 ? 1 : 2;
}

static enum cairn_err find_named(const struct model_registry *r, enum model_role role, const char *name,
                                 const struct model_card **card, struct cairn_why *why)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct entry *e = r->entries[i];
        if (strcmp(e->card.name, name) != 0)
            continue;
        if (e->bad)
            return cairn_fail(why, CAIRN_ESTATE, "model %s in %.150s is left out: %.250s", e->card.name,
                              r->dir, e->bad);
        if (e->card.role != role)
            return cairn_fail(why, CAIRN_EINVAL,
                              "model %s is a %s, and a %s is asked for; cairn model list shows the roles",
                              e->card.name, model_role_name(e->card.role), model_role_name(role));
        *card = &e->card;
        return CAIRN_OK;
    }
    return cairn_fail(
        why, CAIRN_ESTATE,
        "no model %.128s in %.200s; fetch models with scripts/models or add one with cairn model add FILE",
        name, r->dir);
}

enum cairn_err model_registry_find(const struct model_registry *r, enum model_role role, const char *name,
                                   const struct model_card **card, struct cairn_why *why)
{
    *card = NULL;
    if (name)
        return find_named(r, role, name, card, why);
    for (size_t i = 0; i < r->n_good; i++) { /* by name, so the choice is stable */
        const struct model_card *c = &r->entries[i]->card;
        if (c->role == role && (!*card || profile_rank(c->profile) < profile_rank((*card)->profile)))
            *card = c;
    }
    if (*card)
        return CAIRN_OK;
    return cairn_fail(why, CAIRN_ESTATE,
                      "no %s in %.200s; fetch one with scripts/models or add one with cairn model add FILE",
                      model_role_name(role), r->dir);
}

/* ---- adding a model
 * -------------------------------------------------------------------------------------------------------- */

struct adding {
    const char *file, *name;
    enum model_role role;
    bool gguf;
    char *vocab;  /* beside FILE; safetensors */
    char *folder; /* dir/NAME while it is made: dir/.add-NAME */
    json_t *card;
};

static void put_json(struct adding *a, const char *key, json_t *value)
{
    (void)json_object_set_new(a->card, key, value);
}

static bool string_is(const struct model_file *f, const char *key, const char *want)
{
    struct cairn_str s;
    return model_file_string(f, key, &s) && s.len == strlen(want) && memcmp(s.p, want, s.len) == 0;
}

static enum cairn_err check_gguf(struct adding *a, const struct model_file *f, struct cairn_why *why)
{
    struct tokenizer *t;
    struct cairn_str arch;
    char name[65];
    if (a->role != MODEL_GENERATOR)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "a %s is a safetensors file with vocab.txt beside it: %.200s is GGUF",
                          model_role_name(a->role), a->file);
    bool stated = model_file_string(f, "general.architecture", &arch) && arch.len < sizeof name;
    snprintf(name, sizeof name, "%.*s", stated ? (int)arch.len : 0, stated ? arch.p : "");
    if (!decoder_arch_find(cairn_str_of(name)))
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "generators are %s: %.200s says general.architecture '%s'",
                          decoder_arch_names(), a->file, name);
    if (!model_file_tensor(f, "token_embd.weight"))
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "a generator has token_embd.weight: %.200s has not (a vocabulary only?)", a->file);
    enum cairn_err err = tokenizer_from_gguf(&t, f, why);
    if (err)
        return err;
    size_t n_vocab = tokenizer_n_vocab(t);
    tokenizer_close(t);
    if (model_file_tensor(f, "token_embd.weight")->dims[1] != n_vocab)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "the embedding has a row for each token: token_embd.weight has %" PRIu64
                          " for %zu; fetch the file again",
                          model_file_tensor(f, "token_embd.weight")->dims[1], n_vocab);
    int64_t heads;
    char key[96];
    snprintf(key, sizeof key, "%s.attention.head_count", name);
    put_json(a, "architecture", json_string(name));
    put_json(a, "pooling", json_string("none"));
    if (model_file_int(f, key, &heads))
        put_json(a, "n_head", json_integer(heads));
    enum chat_template tmpl = chat_template_detect(f);
    if (tmpl != CHAT_NONE)
        put_json(a, "template", json_string(chat_template_name(tmpl)));
    return CAIRN_OK;
}

/* Encoders: what the converter wrote into __metadata__, else what the tensors tell, else BERT's usual values.
 */
static enum cairn_err check_safetensors(struct adding *a, const struct model_file *f, struct cairn_why *why)
{
    if (a->role == MODEL_GENERATOR)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "a generator is a GGUF file: %.200s is safetensors",
                          a->file);
    const struct model_tensor *word = model_file_tensor(f, "embeddings.word_embeddings.weight"),
                              *pos = model_file_tensor(f, "embeddings.position_embeddings.weight");
    if (!word)
        word = model_file_tensor(f, "bert.embeddings.word_embeddings.weight");
    if (!pos)
        pos = model_file_tensor(f, "bert.embeddings.position_embeddings.weight");
    bool nomic = !pos && model_file_tensor(f, "encoder.layers.0.attn.Wqkv.weight");
    if (!word || (!pos && !nomic))
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "an encoder has BERT's embeddings, or nomic-bert's: %.200s has not", a->file);
    int64_t longest = pos ? (int64_t)pos->dims[1] : NOMIC_TOKENS;
    const struct model_tensor *head = model_file_tensor(f, "classifier.weight");
    uint64_t outputs = !head ? 0 : head->n_dims < 2 ? 1 : head->dims[1];
    if (outputs > 2 || outputs != (a->role == MODEL_RERANKER ? 1 : a->role == MODEL_CHECKER ? 2 : 0))
        return cairn_fail(
            why, CAIRN_EINVAL,
            "%.200s has a classifier of %" PRIu64
            " outputs: a reranker has one, a checker two, an embedder none; add it with that role",
            a->file, outputs);
    bool lower = true;
    (void)model_file_bool(f, "tokenizer.lower_case", &lower);
    struct tokenizer *t;
    enum cairn_err err = tokenizer_from_wordpiece(&t, a->vocab, lower, why);
    if (err)
        return cairn_wrap(why, err, "the vocabulary beside the file");
    size_t n_vocab = tokenizer_n_vocab(t);
    tokenizer_close(t);
    if (word->dims[1] < n_vocab)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "the embedding has a row for each token: %" PRIu64 " rows for %zu lines of %.200s",
                          word->dims[1], n_vocab, a->vocab);
    int64_t heads = (int64_t)(word->dims[0] / 64), context = longest;
    double eps = 1e-12;
    if (word->dims[0] == 384)
        heads = 12; /* MiniLM and bge-small: heads of 32 */
    (void)model_file_int(f, "bert.attention.head_count", &heads);
    (void)model_file_int(f, "bert.context_length", &context);
    (void)model_file_float(f, "bert.attention.layer_norm_epsilon", &eps);
    const char *pooling = a->role == MODEL_RERANKER                  ? "rank"
                          : a->role == MODEL_CHECKER                 ? "none"
                          : string_is(f, "bert.pooling_type", "cls") ? "cls"
                                                                     : "mean";
    if (context < ENCODER_TOKENS_MIN)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "an encoder reads at least %d tokens: bert.context_length is %" PRId64 " in %.200s",
                          ENCODER_TOKENS_MIN, context, a->file);
    if (heads < 1 || heads > CARD_HEADS_MAX || word->dims[0] % (uint64_t)heads != 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "heads divide the width: %" PRId64 " and %" PRIu64 " in %.200s", heads,
                          word->dims[0], a->file);
    put_json(a, "vocab", json_string("vocab.txt"));
    put_json(a, "architecture", json_string(nomic ? "nomic-bert" : "bert"));
    put_json(a, "pooling", json_string(pooling));
    put_json(a, "normalize", json_boolean(a->role == MODEL_EMBEDDER));
    put_json(a, "query_prefix", json_string(""));
    put_json(a, "max_tokens", json_integer(context < longest ? context : longest));
    put_json(a, "n_head", json_integer(heads));
    put_json(a, "layer_norm_eps", json_real(eps));
    put_json(a, "lower_case", json_boolean(lower));
    return CAIRN_OK;
}

/* A scale or weight that is NaN or infinite makes every answer NaN: found here, once, rather than in each
 * load. */
static enum cairn_err check_finite(const struct model_file *f, struct cairn_why *why)
{
    float values[FINITE_STEP];
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct model_tensor *t = model_file_tensor_at(f, i);
        size_t n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]); /* 63 bits: rule G9 */
        for (size_t at = 0; at < n; at += FINITE_STEP) {
            size_t step = n - at < FINITE_STEP ? n - at : FINITE_STEP;
            tensor_dequantize(t->type, (const uint8_t *)t->bytes + tensor_type_bytes(t->type, at), values,
                              step);
            for (size_t k = 0; k < step; k++)
                if (!isfinite(values[k]))
                    return cairn_fail(
                        why, CAIRN_ECORRUPT,
                        "weights are finite numbers: '%s' has another at element %zu; fetch the file again",
                        file_shown(t->name, strlen(t->name)).text, at + k);
        }
    }
    return CAIRN_OK;
}

static enum cairn_err inspect(struct adding *a, struct cairn_why *why)
{
    struct model_file *f;
    enum cairn_err err = model_file_open(&f, a->file, why);
    if (err)
        return err;
    a->gguf = f->format == FORMAT_GGUF;
    const char *slash = strrchr(a->file, '/');
    char *beside = slash ? cairn_strndup(a->file, (size_t)(slash - a->file) + 1) : cairn_strdup("./");
    a->vocab = beside ? cairn_asprintf("%svocab.txt", beside) : NULL;
    cairn_free(beside);
    a->card = json_object();
    if (!a->vocab || !a->card) {
        err = no_memory(why);
    } else {
        put_json(a, "name", json_string(a->name));
        put_json(a, "role", json_string(model_role_name(a->role)));
        put_json(a, "format", json_string(a->gguf ? "gguf" : "safetensors"));
        put_json(a, "file", json_string(a->gguf ? "model.gguf" : "model.safetensors"));
        put_json(a, "bytes", json_integer((json_int_t)f->len));
        put_json(a, "source", json_string("added by hand"));
        put_json(a, "profile", json_string("added"));
        err = a->gguf ? check_gguf(a, f, why) : check_safetensors(a, f, why);
    }
    if (!err)
        err = check_finite(f, why);
    model_file_close(f);
    return err;
}

static enum cairn_err write_all(int fd, const char *p, size_t n, const char *path, struct cairn_why *why)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return cairn_fail_errno(why, errno, "write %s", path);
        p += done;
        n -= (size_t)done;
    }
    return CAIRN_OK;
}

static enum cairn_err copy_file(const char *from, const char *to, struct cairn_why *why)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return cairn_fail_errno(why, errno, "open %s", from);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    char *piece = cairn_malloc(COPY_PIECE);
    enum cairn_err err = out < 0 ? cairn_fail_errno(why, errno, "create %s", to)
                         : piece ? CAIRN_OK
                                 : no_memory(why);
    while (!err) {
        ssize_t n = read(in, piece, COPY_PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = cairn_fail_errno(why, errno, "read %s", from);
        if (n <= 0)
            break;
        err = write_all(out, piece, (size_t)n, to, why);
    }
    if (!err && fsync(out) != 0)
        err = cairn_fail_errno(why, errno, "sync %s", to);
    cairn_free(piece);
    if (out >= 0)
        close(out);
    close(in);
    return err;
}

/* One file into the folder: a copy, or a symbolic link to where it really lies. */
static enum cairn_err place_file(const struct adding *a, const char *from, const char *name, bool copy,
                                 struct cairn_why *why)
{
    char *to = cairn_path_join(a->folder, name);
    if (!to)
        return no_memory(why);
    enum cairn_err err;
    if (copy) {
        err = copy_file(from, to, why);
    } else {
        char *real = realpath(from, NULL);
        err = !real || symlink(real, to) != 0 ? cairn_fail_errno(why, errno, "link %s to %s", to, from)
                                              : CAIRN_OK;
        free(real); /* realpath's own */
    }
    cairn_free(to);
    return err;
}

static int put_card(const char *bytes, size_t len, void *buf)
{
    return cairn_buf_put(buf, bytes, len) ? 0 : -1;
}

static enum cairn_err write_card(const struct adding *a, struct cairn_why *why)
{
    uint8_t sha[32];
    char hex[65];
    enum cairn_err err = cairn_sha256_file(sha, a->file, NULL, NULL, why);
    if (err)
        return err;
    cairn_hex(hex, sha, sizeof sha);
    if (json_object_set_new(a->card, "sha256", json_string(hex)) != 0)
        return no_memory(why);
    struct cairn_buf b;
    cairn_buf_init(&b, CARD_BYTES_MAX);
    char *path = cairn_path_join(a->folder, "card.json");
    if (!path || json_dump_callback(a->card, put_card, &b, JSON_INDENT(2) | JSON_PRESERVE_ORDER) != 0 ||
        !cairn_buf_puts(&b, "\n"))
        err = no_memory(why);
    else
        err = cairn_write_file(path, b.bytes, b.len, why);
    cairn_free(path);
    cairn_buf_release(&b);
    if (err)
        return err;
    struct model_card c = {.name = cairn_strdup(a->name)}; /* what the file says must make a good card */
    err = c.name ? card_load(&c, a->folder, why) : no_memory(why);
    card_release(&c);
    return err;
}

static void remove_folder(const char *folder)
{
    static const char *const names[] = {"model.gguf", "model.safetensors", "vocab.txt", "card.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = cairn_path_join(folder, names[i]);
        if (path)
            (void)unlink(path);
        cairn_free(path);
    }
    (void)rmdir(folder);
}

/* The folder is made under another name and renamed when whole: a crash leaves nothing that looks like a
 * model. */
static enum cairn_err place(struct model_registry *r, struct adding *a, bool copy, struct cairn_why *why)
{
    char *final = cairn_path_join(r->dir, a->name);
    a->folder = cairn_asprintf("%s/.add-%s", r->dir, a->name);
    enum cairn_err err = final && a->folder ? cairn_mkdirs(r->dir, why) : no_memory(why);
    if (!err)
        remove_folder(a->folder); /* of a run that was cut short */
    if (!err && mkdir(a->folder, 0755) != 0)
        err = cairn_fail_errno(why, errno, "make %s", a->folder);
    bool made = !err;
    if (!err)
        err = place_file(a, a->file, a->gguf ? "model.gguf" : "model.safetensors", copy, why);
    if (!err && !a->gguf)
        err = place_file(a, a->vocab, "vocab.txt", copy, why);
    if (!err)
        err = write_card(a, why);
    if (!err && rename(a->folder, final) != 0)
        err = errno == ENOTEMPTY || errno == EEXIST
                  ? cairn_fail(why, CAIRN_EEXISTS, "model %s is there already; choose another name", a->name)
                  : cairn_fail_errno(why, errno, "rename %s", a->folder);
    if (!err)
        err = cairn_fsync_dir(r->dir, why);
    else if (made)
        remove_folder(a->folder);
    cairn_free(final);
    return err;
}

enum cairn_err model_registry_add(struct model_registry *r, const char *file, const char *name,
                                  enum model_role role, bool copy, struct cairn_why *why)
{
    if (!plain_name(name))
        return cairn_fail(
            why, CAIRN_EINVAL,
            "a model's name has 1 to %d printable characters, no slash, no leading dot or dash: '%.64s'",
            CARD_NAME_MAX, name);
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->entries[i]->card.name, name) == 0)
            return cairn_fail(why, CAIRN_EEXISTS,
                              "model %s is there already; choose another name or remove %.200s/%s", name,
                              r->dir, name);
    struct adding a = {.file = file, .name = name, .role = role};
    enum cairn_err err = inspect(&a, why);
    if (!err)
        err = place(r, &a, copy, why);
    if (!err) {
        err = add_entry(r, name, why);
        sort_entries(r);
    }
    json_decref(a.card);
    cairn_free(a.vocab);
    cairn_free(a.folder);
    return err;
}
