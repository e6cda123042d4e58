/* api/cli/models.c - models on disk (list, add, inspect), and the single steps a model does: tokenize, embed,
 * rerank. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DESCRIBE_BYTES_MAX ((size_t)64 << 20)
#define NAME_BYTES_MAX 95u
#define STDIN_BYTES_MAX ((size_t)64 << 20)

/* ---- model list
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* --models, else DIR/models of a data directory that has it, else the registry's own default. */
static enum cairn_err registry(struct model_registry **out, const struct args *a, struct cairn_why *why)
{
    const char *data = a->data ? a->data : getenv("CAIRN_DATA");
    struct stat st;
    char *dir = NULL;
    if (!a->models && data && (dir = cairn_path_join(data, "models")) &&
        (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))) {
        cairn_free(dir);
        dir = NULL;
    }
    enum cairn_err err = model_registry_open(out, a->models ? a->models : dir, why);
    cairn_free(dir);
    return err;
}

static int print_models(const struct args *a, json_t *j)
{
    static const char *const headings[] = {"NAME", "ROLE", "ARCHITECTURE", "PROFILE", "SIZE>", "LICENCE"};
    json_t *list = json_is_array(j) ? j : json_object_get(j, "models"), *m;
    size_t i;
    (void)a;
    if (!json_array_size(list)) {
        puts("no models; scripts/models fetches some, `cairn model add FILE` adds one");
        return EXIT_DONE;
    }
    struct table *t = table_new(6, headings);
    json_array_foreach(list, i, m)
    {
        char size[32];
        format_bytes(size, j_whole(m, "bytes"));
        table_cell(t, "%s", j_text(m, "name"));
        table_cell(t, "%s", j_text(m, "role"));
        table_cell(t, "%s", j_text(m, "architecture"));
        table_cell(t, "%s", j_text(m, "profile"));
        table_cell(t, "%s", size);
        table_cell(t, "%s", j_text(m, "licence"));
    }
    table_print_free(t);
    return EXIT_DONE;
}

static int model_list(struct args *a)
{
    if (a->server)
        return door_run(a, DOOR_READ, "model.list", NULL, print_models);
    struct model_registry *r;
    struct cairn_why why = {{0}};
    enum cairn_err err = registry(&r, a, &why);
    if (err)
        return fail_with(a, err, &why);
    json_t *list = json_array();
    for (size_t i = 0; list && i < model_registry_count(r); i++) {
        const struct model_card *c = model_registry_at(r, i);
        json_array_append_new(list,
                              json_pack("{s:s,s:s,s:s*,s:s*,s:s*,s:s*,s:s*,s:s*,s:I}", "name", c->name,
                                        "role", model_role_name(c->role), "architecture", c->architecture,
                                        "profile", c->profile, "licence", c->licence, "source", c->source,
                                        "sha256", c->sha256, "path", c->path, "bytes", (json_int_t)c->bytes));
    }
    model_registry_close(r);
    json_t *j = json_pack("{s:o}", "models", list);
    if (!j)
        return fail_text(a, EXIT_FAILED, "out of memory");
    if (a->json) {
        json_dumpf(j, stdout, isatty(STDOUT_FILENO) == 1 ? JSON_INDENT(2) : JSON_COMPACT);
        fputc('\n', stdout);
    } else {
        (void)print_models(a, j);
    }
    json_decref(j);
    return out_finish(a, EXIT_DONE);
}

/* ---- model add
 * ---------------------------------------------------------------------------------------------------------------------------
 */

static int model_add(struct args *a)
{
    static const enum model_role roles[] = {MODEL_GENERATOR, MODEL_EMBEDDER, MODEL_RERANKER, MODEL_CHECKER};
    const char *file = a->pos[0];
    struct cairn_why why = {{0}};
    struct stat st;
    int role = -1;
    for (size_t i = 0; i < MODEL_ROLES; i++)
        if (a->role && strcmp(a->role, model_role_name(roles[i])) == 0)
            role = (int)roles[i];
    if (a->role && role < 0)
        return fail_usage(a, "--role wants generator, embedder, reranker or checker, not \"%s\"", a->role);
    if (stat(file, &st) != 0)
        return fail_text(a, errno == ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED, "%s: %s", file, strerror(errno));
    const char *base = strrchr(file, '/');
    base = base ? base + 1 : file;
    const char *dot = strrchr(base, '.');
    char *name = a->name ? cairn_strdup(a->name)
                         : cairn_strndup(base, dot && dot > base ? (size_t)(dot - base) : strlen(base));
    if (!name)
        return fail_text(a, EXIT_FAILED, "out of memory");
    if (!a->name) /* from the file's name: what the registry takes as a name */
        for (char *c = name; *c; c++)
            *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
    if (role < 0) /* a GGUF file with a decoder is a generator; for encoders there is more than one use */
        role = dot && strcmp(dot, ".gguf") == 0 ? (int)MODEL_GENERATOR : -1;
    struct model_registry *r = NULL;
    int code = EXIT_DONE;
    enum cairn_err err = CAIRN_OK;
    if (role < 0)
        code = fail_usage(a, "say what the model is for: --role generator, embedder, reranker or checker");
    else if (strlen(name) > NAME_BYTES_MAX)
        code = fail_usage(a, "the name is over %u bytes; give a shorter --name", NAME_BYTES_MAX);
    if (code) {
        cairn_free(name);
        return code;
    }
    err = registry(&r, a, &why);
    if (!err && !a->quiet) {
        char size[32];
        format_bytes(size, (uint64_t)st.st_size);
        fprintf(stderr, "checking%s %s, %s\n", a->copy ? " and copying" : "", base, size);
    }
    if (!err)
        err = model_registry_add(r, file, name, (enum model_role)role, a->copy, &why);
    model_registry_close(r);
    if (err) {
        code = fail_with(a, err, &why);
    } else if (a->json) {
        json_t *j = json_pack("{s:s,s:s}", "name", name, "role", model_role_name((enum model_role)role));
        if (j)
            json_dumpf(j, stdout, JSON_COMPACT);
        json_decref(j);
        fputc('\n', stdout);
    } else {
        printf("added %s %s\n", model_role_name((enum model_role)role), name);
    }
    cairn_free(name);
    return out_finish(a, code);
}

/* ---- model inspect
 * --------------------------------------------------------------------------------------------------------------------------
 */

static void print_tree(const json_t *j, int indent)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)j, key, v)
    {
        printf("%*s%-*s ", indent, "", 28 - indent, key);
        if (json_is_object(v)) {
            fputc('\n', stdout);
            print_tree(v, indent + 2);
            continue;
        }
        char *text = json_dumps(v, JSON_ENCODE_ANY);
        if (json_is_string(v))
            out_line(json_string_value(v), json_string_length(v), 200);
        else if (text)
            out_line(text, strlen(text), 0);
        fputc('\n', stdout);
        free(text); /* jansson's own */
    }
}

static void print_tensors(json_t *tensors)
{
    static const char *const headings[] = {"TENSOR", "TYPE", "SHAPE", "BYTES>"};
    struct table *t = table_new(4, headings);
    json_t *v;
    size_t i;
    json_array_foreach(tensors, i, v)
    {
        json_t *shape = json_object_get(v, "dims") ? json_object_get(v, "dims") : json_object_get(v, "shape");
        char *text = json_dumps(shape, JSON_ENCODE_ANY | JSON_COMPACT);
        table_cell(t, "%s", j_text(v, "name"));
        table_cell(t, "%s", j_text(v, "type"));
        table_cell(t, "%s", text ? text : "");
        table_cell(t, "%" PRIu64, j_whole(v, "bytes") ? j_whole(v, "bytes") : j_whole(v, "n_bytes"));
        free(text); /* jansson's own */
    }
    table_print_free(t);
}

/* What a process needs that computes with this model; NULL: it cannot be said, and why is told on stderr. */
static json_t *memory_needed(const struct args *a, const struct model_file *f, const char *path,
                             const struct model_card *card)
{
    struct cairn_pool *pool = NULL;
    struct model_need need;
    struct cairn_why why = {{0}};
    enum cairn_err err = cairn_pool_open(&pool, 0, &why);
    struct model_opts opts = {.pool = pool};
    if (!err)
        err = model_need_of(&need, f, path, card, &opts, &why);
    json_t *j = NULL;
    if (!err)
        j = json_pack("{s:I,s:I,s:I,s:I,s:I,s:i}", "mapped_bytes", (json_int_t)need.mapped, "held_bytes",
                      (json_int_t)need.held, "kv_bytes", (json_int_t)need.kv, "total_bytes",
                      (json_int_t)(need.mapped + need.held + need.kv), "n_ctx", (json_int_t)need.n_ctx,
                      "threads", (int)cairn_pool_threads(pool));
    else if (!a->quiet)
        fprintf(stderr, "memory needed: %s\n", why.text);
    cairn_pool_close(pool);
    return j;
}

static int model_inspect(struct args *a)
{
    const char *what = a->pos[0];
    struct cairn_why why = {{0}};
    struct model_registry *r = NULL;
    struct model_file *f = NULL;
    struct cairn_buf b;
    enum cairn_err err = CAIRN_OK;
    const char *path = NULL;
    const struct model_card *card = NULL;
    if (access(what, F_OK) == 0 && strchr(what, '/'))
        path = what;
    if (!path) {
        err = registry(&r, a, &why);
        for (size_t i = 0; !err && !card && i < model_registry_count(r); i++)
            if (strcmp(model_registry_at(r, i)->name, what) == 0)
                card = model_registry_at(r, i);
        path = card ? card->path : NULL;
    }
    if (!path && !err && access(what, F_OK) == 0)
        path = what;
    if (!path && !err) {
        model_registry_close(r);
        return fail_text(a, EXIT_NOT_FOUND,
                         "no file and no installed model \"%s\"; `cairn model list` shows the installed ones",
                         what);
    }
    cairn_buf_init(&b, DESCRIBE_BYTES_MAX);
    if (!err)
        err = model_file_open(&f, path, &why);
    if (!err)
        err = model_file_describe(f, a->tensors, &b, &why);
    int code = err ? fail_with(a, err, &why) : EXIT_DONE;
    json_t *j = err ? NULL : json_loadb(b.bytes, b.len, JSON_ALLOW_NUL, NULL);
    json_t *need = j ? memory_needed(a, f, path, card) : NULL;
    if (need)
        (void)json_object_update(json_object_get(j, "memory"), need);
    json_decref(need);
    if (!err && !j) {
        code = fail_text(a, EXIT_FAILED, "the description of %s could not be read", what);
    } else if (!err && a->json) {
        json_dumpf(j, stdout, isatty(STDOUT_FILENO) == 1 ? JSON_INDENT(2) : JSON_COMPACT);
        fputc('\n', stdout);
    } else if (!err) {
        json_t *tensors = json_incref(json_object_get(j, "tensors"));
        bool listed = json_is_array(tensors);
        if (listed)
            (void)json_object_del(j, "tensors");
        print_tree(j, 0);
        if (listed)
            print_tensors(tensors);
        json_decref(tensors);
    }
    json_decref(j);
    cairn_buf_release(&b);
    if (f)
        model_file_close(f);
    if (r)
        model_registry_close(r);
    return out_finish(a, code);
}

/* ---- tokenize, embed, rerank
 * -------------------------------------------------------------------------------------------------------------------
 */

static int print_tokens(const struct args *a, json_t *j)
{
    json_t *ids = json_object_get(j, "ids"), *v;
    size_t i;
    (void)a;
    json_array_foreach(ids, i, v) printf("%s%" JSON_INTEGER_FORMAT, i ? " " : "", json_integer_value(v));
    printf("\n%zu tokens, %s of %s\n", json_array_size(ids), j_text(j, "tokenizer"), j_text(j, "model"));
    return EXIT_DONE;
}

static int tokenize(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "text", a->pos[0]);
    params_text(&p, "model", a->model);
    params_flag(&p, "add_special", a->special);
    int code = door_run(a, DOOR_READ, "tokenize", &p, print_tokens);
    params_release(&p);
    return code;
}

/* One vector a line, as a JSON array of numbers; the wire has them as little-endian float32. */
static int print_vectors(const struct args *a, const struct cairn_buf *result)
{
    struct wire_reader r = {(const uint8_t *)result->bytes, result->len, 0}, v;
    struct cairn_str bytes;
    uint64_t n;
    if (!wire_map_find(&r, "vectors", &v) || !wire_array(&v, &n))
        return fail_text(a, EXIT_FAILED, "the answer to embed could not be read");
    for (uint64_t i = 0; i < n; i++) {
        if (!wire_bin(&v, &bytes) || bytes.len % 4 != 0)
            return fail_text(a, EXIT_FAILED, "the answer to embed could not be read");
        for (size_t k = 0; k + 4 <= bytes.len; k += 4) {
            const unsigned char *b = (const unsigned char *)bytes.p + k;
            uint32_t bits = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
            float x;
            memcpy(&x, &bits, sizeof x);
            printf("%s%.9g", k ? "," : "[", (double)x);
        }
        puts("]");
    }
    return EXIT_DONE;
}

static int embed(struct args *a)
{
    struct door d;
    struct params p;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    struct list texts = {.n = a->n_pos};
    for (size_t i = 0; i < a->n_pos; i++)
        texts.v[i] = a->pos[i];
    int code = door_open(&d, a, DOOR_READ, false);
    if (code)
        return code;
    params_init(&p);
    cairn_buf_init(&result, 0);
    params_list(&p, "texts", &texts);
    if (a->query)
        params_text(&p, "kind", "query");
    enum cairn_err err = door_call(&d, "embed", &p, NULL, &result, &why);
    code = err ? fail_with(a, err, &why) : a->json ? out_json(a, &result) : print_vectors(a, &result);
    params_release(&p);
    cairn_buf_release(&result);
    door_close(&d);
    return out_finish(a, code);
}

static int print_scores(const struct args *a, json_t *j)
{
    json_t *list = json_object_get(j, "scores"), *v;
    size_t i;
    json_array_foreach(list, i, v)
    {
        printf("%9.4f  ", json_number_value(v));
        if (i + 1 < a->n_pos)
            out_line(a->pos[i + 1], strlen(a->pos[i + 1]), out_columns() - 12);
        fputc('\n', stdout);
    }
    return EXIT_DONE;
}

static int rerank(struct args *a)
{
    struct params p;
    struct list texts = {.n = a->n_pos - 1};
    params_init(&p);
    params_text(&p, "query", a->pos[0]);
    for (size_t i = 1; i < a->n_pos; i++)
        texts.v[i - 1] = a->pos[i];
    params_list(&p, "texts", &texts);
    int code = door_run(a, DOOR_READ, "rerank", &p, print_scores);
    params_release(&p);
    return code;
}

/* ---- tables
 * ----------------------------------------------------------------------------------------------------------------------------------------
 */

static const struct opt list_opts[] = {OPTS_MODELS, OPTS_WHERE, OPTS_OUTPUT};
static const struct opt add_opts[] = {
    OPT(TEXT, "name", "NAME", name, "the name to use it by (default: from the file's name)"),
    OPT(TEXT, "role", "ROLE", role,
        "generator, embedder, reranker or checker (default for .gguf: generator)"),
    OPT(FLAG, "copy", NULL, copy, "copy the file; without it a link is made"),
    OPTS_MODELS,
    OPTS_DATA,
    OPTS_OUTPUT};
static const struct opt inspect_opts[] = {OPT(FLAG, "tensors", NULL, tensors, "list every tensor"),
                                          OPTS_MODELS, OPTS_DATA, OPTS_OUTPUT};
static const struct opt tokenize_opts[] = {
    OPT(TEXT, "model", "ROLE", model, "whose tokenizer: generator, embedder or reranker (default generator)"),
    OPT(FLAG, "special", NULL, special, "add the special tokens the model wants around a text"), OPTS_ACROSS};
static const struct opt embed_opts[] = {
    OPT(FLAG, "query", NULL, query, "embed as a question (with the model's query prefix), not as a passage"),
    OPTS_ACROSS};
static const struct opt rerank_opts[] = {OPTS_ACROSS};

static const struct command commands[] = {
    COMMAND("model list", "", "the models on disk", NULL, list_opts, 0, 0, model_list),
    COMMAND(
        "model add", "FILE", "make a GGUF or safetensors file usable by name",
        "Opens and checks the whole file before it gets a name. scripts/models fetches the default models.",
        add_opts, 1, 1, model_add),
    COMMAND(
        "model inspect", "FILE|NAME", "what a model file holds, and the memory it needs",
        "The memory is that of a process at its peak: pages of the file that computing reads, what is held "
        "beside them (tables, tokenizer, packed weights, activations), and keys and values when all of them "
        "are used. "
        "It is found by opening the model, so a file that cannot be opened has none.",
        inspect_opts, 1, 1, model_inspect),
    COMMAND("tokenize", "TEXT", "the tokens of a text", NULL, tokenize_opts, 1, 1, tokenize),
    COMMAND("embed", "TEXT...", "the vectors of texts",
            "Prints one JSON array of numbers per text. --json prints the whole result, where a vector is "
            "base64 of "
            "little-endian float32.",
            embed_opts, 1, LIST_MAX, embed),
    COMMAND("rerank", "QUERY TEXT...", "score texts against a question with the pair model", NULL,
            rerank_opts, 2, LIST_MAX, rerank),
};
const struct command_group model_commands = {commands, sizeof commands / sizeof commands[0]};
