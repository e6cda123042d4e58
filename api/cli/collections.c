/* api/cli/collections.c - collections, documents, keys and the server's facts: one call each. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>

#define LIST_PAGE 1000u
#define FILE_MAX ((size_t)1 << 30)

/* ---- collection
 * --------------------------------------------------------------------------------------------------------------------
 */

static void collection_settings(struct params *p, const struct args *a)
{
    if (a->is_public || a->is_private)
        params_bool(p, "public", a->is_public);
    params_text(p, "index", a->index);
    params_text(p, "fusion", a->fusion);
    params_number(p, "dense_weight", a->dense_weight);
    params_number(p, "rerank_weight", a->rerank_weight);
}

static int print_created(const struct args *a, json_t *j)
{
    (void)a;
    const char *embedder = j_text(j, "embedder");
    printf("created %s", j_text(j, "collection"));
    if (!*embedder && j_whole(j, "dim"))
        printf(", for vectors of %" PRIu64 " numbers (vector.put)\n", j_whole(j, "dim"));
    else if (*embedder)
        printf(", vectors of %" PRIu64 " numbers by %s\n", j_whole(j, "dim"), embedder);
    else
        puts(", without vectors");
    return EXIT_DONE;
}

static int collection_create(struct args *a)
{
    if (a->is_public && a->is_private)
        return fail_usage(a, "--public and --private exclude each other");
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_text(&p, "language", a->language);
    params_whole(&p, "dim", a->dim);
    params_text(&p, "metric", a->metric);
    if (a->server)
        params_text(&p, "embedder", a->embedder);
    collection_settings(&p, a);
    int code = door_run(a, DOOR_CREATE, "collection.create", &p, print_created);
    params_release(&p);
    return code;
}

static int print_updated(const struct args *a, json_t *j)
{
    (void)a;
    printf("updated %s\n", j_text(j, "collection"));
    return EXIT_DONE;
}

static int collection_update(struct args *a)
{
    if (a->is_public && a->is_private)
        return fail_usage(a, "--public and --private exclude each other");
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    collection_settings(&p, a);
    int code = p.n == 1 ? fail_usage(a, "nothing to change; give --public, --private, --index, --fusion, "
                                        "--dense-weight or --rerank-weight")
                        : door_run(a, DOOR_WRITE, "collection.update", &p, print_updated);
    params_release(&p);
    return code;
}

static int print_collections(const struct args *a, json_t *j)
{
    static const char *const headings[] = {"COLLECTION", "DOCUMENTS>", "PASSAGES>", "LANGUAGE",
                                           "EMBEDDER",   "DIM>",       "READABLE",  "GENERATION>"};
    json_t *list = json_object_get(j, "collections"), *c;
    size_t i;
    (void)a;
    if (!json_array_size(list)) {
        puts("no collections; `cairn ingest` makes one");
        return EXIT_DONE;
    }
    struct table *t = table_new(8, headings);
    json_array_foreach(list, i, c)
    {
        table_cell(t, "%s", j_text(c, "collection"));
        if (json_object_get(c, "n_documents"))
            table_cell(t, "%" PRIu64, j_whole(c, "n_documents"));
        else
            table_cell(t, "-"); /* only admins are told */
        table_cell(t, "%" PRIu64, j_whole(c, "n_passages"));
        table_cell(t, "%s", *j_text(c, "language") ? j_text(c, "language") : "-");
        table_cell(t, "%s", *j_text(c, "embedder") ? j_text(c, "embedder") : "-");
        table_cell(t, "%" PRIu64, j_whole(c, "dim"));
        table_cell(t, "%s", j_true(c, "public") ? "public" : "by ACL");
        table_cell(t, "%" PRIu64, j_whole(c, "generation"));
    }
    table_print_free(t);
    return EXIT_DONE;
}

static int collection_list(struct args *a)
{
    return door_run(a, DOOR_READ, "collection.list", NULL, print_collections);
}

/* "key  value" lines. */
static int print_facts(const struct args *a, json_t *j)
{
    const char *key;
    json_t *v;
    (void)a;
    json_object_foreach(j, key, v)
    {
        if (strcmp(key, "config") == 0 && json_is_array(v)) { /* rows of {key, value, ...} */
            json_t *row;
            size_t i;
            json_array_foreach(v, i, row) printf("%-34s %.10g\n", j_text(row, "key"), j_num(row, "value"));
            continue;
        }
        if (json_is_object(v)) {
            const char *inner;
            json_t *w;
            json_object_foreach(v, inner, w)
            {
                char *text = json_is_string(w)
                                 ? NULL
                                 : json_dumps(w, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(10));
                char name[96];
                snprintf(name, sizeof name, "%s.%s", key, inner);
                printf("%-34s ", name);
                out_line(text ? text : json_string_value(w), text ? strlen(text) : json_string_length(w), 0);
                fputc('\n', stdout);
                free(text); /* jansson's own */
            }
            continue;
        }
        char *text = json_is_string(v)
                         ? NULL
                         : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(10));
        printf("%-34s ", key);
        if (text || json_is_string(v))
            out_line(text ? text : json_string_value(v), text ? strlen(text) : json_string_length(v), 0);
        fputc('\n', stdout);
        free(text); /* jansson's own */
    }
    return EXIT_DONE;
}

static int collection_describe(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    int code = door_run(a, DOOR_READ, "collection.describe", &p, print_facts);
    params_release(&p);
    return code;
}

static int print_dropped(const struct args *a, json_t *j)
{
    (void)a;
    printf("dropped %s, generation %" PRIu64 "\n", j_text(j, "collection"), j_whole(j, "generation"));
    return EXIT_DONE;
}

static int collection_drop(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    int code = door_run(a, DOOR_WRITE, "collection.drop", &p, print_dropped);
    params_release(&p);
    return code;
}

/* ---- doc
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static int print_document(const struct args *a, json_t *j)
{
    json_t *text = json_object_get(j, "text"), *principals = json_object_get(j, "principals"), *v;
    char time[32];
    size_t i;
    if (a->text) {
        out_text(json_string_value(text) ? json_string_value(text) : "", json_string_length(text));
        return EXIT_DONE;
    }
    format_time(time, (int64_t)j_whole(j, "modified_us"));
    static const char *const keys[] = {"id", "title", "path", "mime", "content_hash"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        printf("%-14s ", keys[k]);
        out_line(j_text(j, keys[k]), strlen(j_text(j, keys[k])), 0);
        fputc('\n', stdout);
    }
    printf("%-14s %s\n%-14s %" PRIu64 "\n%-14s %" PRIu64 "\n", "modified", time, "passages",
           j_whole(j, "n_passages"), "text bytes", j_whole(j, "text_bytes"));
    if (json_is_array(principals)) {
        printf("%-14s", "readable by");
        json_array_foreach(principals, i, v)
        {
            fputs(i ? ", " : " ", stdout);
            out_line(json_string_value(v), json_string_length(v), 0);
        }
        puts(json_array_size(principals) ? "" : " (no ACL: as the collection says)");
    }
    return EXIT_DONE;
}

static int doc_get(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_text(&p, "id", a->pos[1]);
    params_bool(&p, "with_text", a->text || a->json);
    params_list(&p, "principals", &a->as);
    int code = door_run(a, DOOR_READ, "doc.get", &p, print_document);
    params_release(&p);
    return code;
}

/* All pages, or one when --limit or --after is given. */
static int doc_list(struct args *a)
{
    static const char *const headings[] = {"ID", "PASSAGES>", "BYTES>", "MODIFIED", "TITLE"};
    struct door d;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    int code = door_open(&d, a, DOOR_READ, false);
    if (code)
        return code;
    cairn_buf_init(&result, 0);
    bool one_page = a->limit.given || a->after, more = true;
    char *after = cairn_strdup(a->after);
    json_t *all = NULL, *documents = NULL;
    while (more && !code) {
        struct params p;
        params_init(&p);
        params_text(&p, "collection", a->pos[0]);
        params_text(&p, "after", after);
        params_uint(&p, "limit", a->limit.given ? a->limit.v : LIST_PAGE);
        params_list(&p, "principals", &a->as);
        cairn_buf_clear(&result);
        enum cairn_err err = door_call(&d, "doc.list", &p, NULL, &result, &why);
        params_release(&p);
        json_t *j = err ? NULL : out_parse(&result), *next, *page;
        if (err) {
            code = fail_with(a, err, &why);
        } else if (!j || !json_is_array(page = json_object_get(j, "documents"))) {
            code = fail_text(a, EXIT_FAILED, "the list of documents could not be read");
        } else {
            next = json_object_get(j, "next");
            cairn_free(after);
            after = cairn_strdup(json_string_value(next));
            more = !one_page && after;
            if (!all) {
                all = json_incref(j);
                documents = page;
            } else {
                (void)json_array_extend(documents, page);
                (void)json_object_set(all, "next", json_null());
            }
        }
        json_decref(j);
    }
    if (!code && a->json) {
        json_dumpf(all, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else if (!code) {
        struct table *t = table_new(5, headings);
        json_t *v;
        size_t i;
        json_array_foreach(documents, i, v)
        {
            char time[32];
            format_time(time, (int64_t)j_whole(v, "modified_us"));
            table_cell(t, "%s", j_text(v, "id"));
            table_cell(t, "%" PRIu64, j_whole(v, "n_passages"));
            table_cell(t, "%" PRIu64, j_whole(v, "text_bytes"));
            table_cell(t, "%s", time);
            table_cell(t, "%.60s", j_text(v, "title"));
        }
        table_print_free(t);
        if (one_page && after) {
            fputs("more: --after ", stdout);
            out_line(after, strlen(after), 0);
            fputc('\n', stdout);
        }
    }
    json_decref(all);
    cairn_free(after);
    cairn_buf_release(&result);
    door_close(&d);
    return out_finish(a, code);
}

static int doc_delete(struct args *a)
{
    struct door d;
    struct params p;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    struct list ids = {.n = a->n_pos - 1};
    for (size_t i = 1; i < a->n_pos; i++)
        ids.v[i - 1] = a->pos[i];
    int code = door_open(&d, a, DOOR_WRITE, false);
    if (code)
        return code;
    cairn_buf_init(&result, 0);
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_list(&p, "ids", &ids);
    params_list(&p, "principals", &a->as);
    enum cairn_err err = door_call(&d, "doc.delete", &p, NULL, &result, &why);
    json_t *j = err ? NULL : out_parse(&result);
    if (err)
        code = fail_with(a, err, &why);
    else if (a->json)
        code = out_json(a, &result);
    else
        printf("deleted %" PRIu64 ", generation %" PRIu64 "\n", j_whole(j, "deleted"),
               j_whole(j, "generation"));
    if (!err && j_whole(j, "missing"))
        (void)fail_text(a, 0, "%" PRIu64 " of %zu were not there", j_whole(j, "missing"), ids.n);
    if (!err && !code && !j_whole(j, "deleted"))
        code = EXIT_NOT_FOUND;
    json_decref(j);
    params_release(&p);
    cairn_buf_release(&result);
    door_close(&d);
    return out_finish(a, code);
}

static int print_put(const struct args *a, json_t *j)
{
    printf("put %s, %" PRIu64 " passages, generation %" PRIu64 "\n", a->pos[1], j_whole(j, "passages"),
           j_whole(j, "generation"));
    return EXIT_DONE;
}

static int doc_put(struct args *a)
{
    char *bytes = NULL;
    size_t len = 0;
    struct cairn_why why = {{0}};
    bool from_stdin = a->n_pos < 3 || strcmp(a->pos[2], "-") == 0;
    enum cairn_err err = cairn_read_file(&bytes, &len, from_stdin ? "/dev/stdin" : a->pos[2], FILE_MAX, &why);
    if (err)
        return fail_with(a, err, &why);
    struct params p;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_bool(&p, "create", true);
    pk_cstr(&p.k, "documents");
    pk_array(&p.k, 1);
    pk_map(&p.k, 2 + (a->title ? 1 : 0) + (a->format ? 1 : 0) + (from_stdin ? 0 : 1) + (a->allow.n ? 1 : 0));
    pk_kcstr(&p.k, "id", a->pos[1]);
    pk_cstr(&p.k, "content");
    pk_bin(&p.k, bytes, len);
    if (a->title)
        pk_kcstr(&p.k, "title", a->title);
    if (a->format)
        pk_kcstr(&p.k, "mime", a->format);
    if (!from_stdin)
        pk_kcstr(&p.k, "path", a->pos[2]);
    if (a->allow.n) {
        pk_cstr(&p.k, "principals");
        pk_array(&p.k, a->allow.n);
        for (size_t i = 0; i < a->allow.n; i++)
            pk_cstr(&p.k, a->allow.v[i]);
    }
    p.n++;
    cairn_free(bytes);
    int code = door_run(a, DOOR_CREATE, "doc.put", &p, print_put);
    params_release(&p);
    return code;
}

/* ---- key
 * ---------------------------------------------------------------------------------------------------------------------------------
 */

static int print_key(const struct args *a, json_t *j)
{
    (void)a;
    printf("%s\n", j_text(j, "key"));
    fflush(stdout);
    fprintf(stderr, "key %s, role %s. It is shown this once; the store keeps only its hash.\n",
            j_text(j, "id"), j_text(j, "role"));
    return EXIT_DONE;
}

static int key_create(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "name", a->name);
    params_text(&p, "role", a->role ? a->role : "read_only");
    params_list(&p, "principals", &a->as);
    if (a->expires_days.given)
        params_uint(&p, "expires_s", a->expires_days.v * 86400);
    int code = door_run(a, DOOR_CREATE, "key.create", &p, print_key);
    params_release(&p);
    return code;
}

static int print_keys(const struct args *a, json_t *j)
{
    static const char *const headings[] = {"ID", "ROLE", "NAME", "PRINCIPALS", "CREATED", "EXPIRES", "STATE"};
    struct table *t = table_new(7, headings);
    json_t *list = json_object_get(j, "keys"), *k, *v;
    size_t i, n;
    (void)a;
    json_array_foreach(list, i, k)
    {
        char made[32], ends[32], names[256] = "";
        size_t at = 0;
        int64_t expires = (int64_t)j_whole(k, "expires_us");
        format_time(made, (int64_t)j_whole(k, "created_us"));
        format_time(ends, expires);
        json_array_foreach(json_object_get(k, "principals"), n, v)
        {
            int w = snprintf(names + at, sizeof names - at, "%s%s", n ? "," : "",
                             json_string_value(v) ? json_string_value(v) : "");
            at = w > 0 && at + (size_t)w < sizeof names ? at + (size_t)w : sizeof names - 1;
        }
        table_cell(t, "%s", j_text(k, "id"));
        table_cell(t, "%s", j_text(k, "role"));
        table_cell(t, "%s", *j_text(k, "name") ? j_text(k, "name") : "-");
        table_cell(t, "%s", *names ? names : "-");
        table_cell(t, "%s", made);
        table_cell(t, "%s", expires ? ends : "never");
        table_cell(t, "%s",
                   j_true(k, "revoked")                   ? "revoked"
                   : expires && expires < cairn_wall_us() ? "expired"
                                                          : "good");
    }
    table_print_free(t);
    return EXIT_DONE;
}

static int key_list(struct args *a) { return door_run(a, DOOR_READ, "key.list", NULL, print_keys); }

static int print_revoked(const struct args *a, json_t *j)
{
    (void)j;
    printf("revoked %s\n", a->pos[0]);
    return EXIT_DONE;
}

static int key_revoke(struct args *a)
{
    struct params p;
    params_init(&p);
    params_text(&p, "id", a->pos[0]);
    int code = door_run(a, DOOR_WRITE, "key.revoke", &p, print_revoked);
    params_release(&p);
    return code;
}

/* ---- info
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

static int info(struct args *a) { return door_run(a, DOOR_READ, "server.info", NULL, print_facts); }

/* ---- tables
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

#define OPTS_COLLECTION                                                                                      \
    OPT(FLAG, "public", NULL, is_public, "documents without an ACL are readable by all"),                    \
        OPT(FLAG, "private", NULL, is_private, "documents without an ACL are readable by nobody"),           \
        OPT(TEXT, "index", "KIND", index,                                                                    \
            "how its vectors are searched: auto, flat, hnsw or ivf (default auto)"),                         \
        OPT(TEXT, "fusion", "KIND", fusion, "zscore, minmax or rrf"),                                        \
        OPT_IN(NUMBER, "dense-weight", "X", dense_weight, 0, 1,                                              \
               "share of the vector search in the fused score"),                                             \
        OPT_IN(NUMBER, "rerank-weight", "X", rerank_weight, 0, 1,                                            \
               "share of the pair model in the final score; 0: off")
static const struct opt plain_opts[] = {OPTS_ACROSS};
static const struct opt create_opts[] = {
    OPTS_COLLECTION,
    OPT(TEXT, "language", "L", language, "of its documents, for stemming; \"\": none (default english)"),
    OPT_IN(WHOLE, "dim", "N", dim, 1, VECTOR_DIM_MAX,
           "for vectors of N numbers that clients bring (vector.put); nothing is embedded"),
    OPT(TEXT, "metric", "METRIC", metric, "with --dim: cosine, dot or l2 (default cosine)"), OPTS_ACROSS};
static const struct opt update_opts[] = {OPTS_COLLECTION, OPTS_ACROSS};
static const struct opt as_opts[] = {
    OPT(LIST, "as", "PRINCIPAL", as,
        "only what this principal may see; may be repeated (default: everything)"),
    OPTS_ACROSS};
static const struct opt get_opts[] = {
    OPT(FLAG, "text", NULL, text, "print the text and nothing else"),
    OPT(LIST, "as", "PRINCIPAL", as, "as this principal sees it; may be repeated (default: everything)"),
    OPTS_ACROSS};
static const struct opt doc_list_opts[] = {
    OPT_IN(WHOLE, "limit", "N", limit, 1, LIST_PAGE, "one page of at most N (default: all of them)"),
    OPT(TEXT, "after", "ID", after, "one page, of the ids after this one"),
    OPT(LIST, "as", "PRINCIPAL", as, "only what this principal may see; may be repeated"), OPTS_ACROSS};
static const struct opt put_opts[] = {
    OPT(TEXT, "title", "TEXT", title, "(default: the first heading, or the file's name)"),
    OPT(TEXT, "mime", "TYPE", format,
        "text/plain, text/markdown or text/html (default: by name and content)"),
    OPT(LIST, "allow", "PRINCIPAL", allow,
        "who may read it; may be repeated (default: as stored; a new document: as the collection says)"),
    OPTS_ACROSS};
static const struct opt key_opts[] = {
    OPT(TEXT, "name", "NAME", name, "a note for `key list`"),
    OPT(TEXT, "role", "ROLE", role, "read_only, user or admin (default read_only)"),
    OPT(LIST, "as", "PRINCIPAL", as, "what its holder is, for documents with an ACL; may be repeated"),
    OPT_IN(WHOLE, "expires-days", "N", expires_days, 1, 36500, "when it ends (default: never)"), OPTS_ACROSS};

static const struct command commands[] = {
    COMMAND("collection create", "NAME", "make an empty collection", NULL, create_opts, 1, 1,
            collection_create),
    COMMAND("collection update", "NAME", "change who may read it and how it is searched", NULL, update_opts,
            1, 1, collection_update),
    COMMAND("collection list", "", "all collections", NULL, plain_opts, 0, 0, collection_list),
    COMMAND("collection describe", "NAME", "one collection", NULL, plain_opts, 1, 1, collection_describe),
    COMMAND("collection drop", "NAME", "delete a collection and all its documents", NULL, plain_opts, 1, 1,
            collection_drop),
    COMMAND("doc list", "COLLECTION", "documents in the order of their ids", NULL, doc_list_opts, 1, 1,
            doc_list),
    COMMAND("doc get", "COLLECTION ID", "one document", NULL, get_opts, 2, 2, doc_get),
    COMMAND("doc put", "COLLECTION ID [FILE|-]", "put one document, from a file or stdin",
            "Replaces a document of the same id; makes the collection when it is not there.", put_opts, 2, 3,
            doc_put),
    COMMAND(
        "doc delete", "COLLECTION ID...", "delete documents",
        "When it returns, no search, answer or citation shows them. Exits 3 when none of the ids was there.",
        as_opts, 2, LIST_MAX, doc_delete),
    COMMAND("key create", "", "make an API key; it is printed once",
            "With the first key the store stops being open: every caller of a server needs one.", key_opts, 0,
            0, key_create),
    COMMAND("key list", "", "all keys, without their secrets", NULL, plain_opts, 0, 0, key_list),
    COMMAND("key revoke", "ID", "make a key useless at once", NULL, plain_opts, 1, 1, key_revoke),
    COMMAND("info", "", "version, models, limits and settings of a service", NULL, plain_opts, 0, 0, info),
};
const struct command_group collection_commands = {commands, sizeof commands / sizeof commands[0]};
