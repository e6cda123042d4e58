/* api/cli/store.c - operators' commands on a data directory: backup, restore, debug. They work on the store
 * itself, without models and, reading only, beside a running server. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES ((size_t)1 << 20)
#define STORE_FILES_MAX 64u

/* ---- backup
 * ------------------------------------------------------------------------------------------------------------------------
 */

static int backup(struct args *a)
{
    struct store *s;
    struct cairn_config *config;
    struct progress p;
    struct cairn_why why = {{0}};
    int code = store_door(&s, &config, a, true);
    if (code)
        return code;
    progress_begin(&p, a);
    enum cairn_err err = store_backup(s, a->pos[0], progress_update, &p, &why);
    progress_end(&p);
    store_close(s);
    cairn_config_free(config);
    if (err)
        return fail_with(a, err, &why);
    if (a->json) {
        json_t *j = json_pack("{s:s}", "backup", a->pos[0]);
        if (j)
            json_dumpf(j, stdout, JSON_COMPACT);
        json_decref(j);
        fputc('\n', stdout);
    } else {
        fputs("backed up and verified: ", stdout);
        out_line(a->pos[0], strlen(a->pos[0]), 0);
        fputc('\n', stdout);
    }
    return out_finish(a, EXIT_DONE);
}

/* ---- restore: copy beside, verify, rename
 * ---------------------------------------------------------------------------------------------- */

struct copying {
    struct progress *progress;
    uint64_t done, total;
};

static enum cairn_err copy_file(const char *from, const char *to, struct copying *c, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    char *bytes = cairn_malloc(COPY_BYTES);
    if (!bytes)
        err = cairn_fail(why, CAIRN_ENOMEM, "copy of %s", from);
    else if (in < 0)
        err = cairn_fail_errno(why, errno, "%s", from);
    else if ((out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0)
        err = cairn_fail_errno(why, errno, "%s", to);
    while (!err) {
        ssize_t n = read(in, bytes, COPY_BYTES);
        if (n == 0)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err = cairn_fail_errno(why, errno, "reading %s", from);
            break;
        }
        for (ssize_t at = 0; at < n && !err;) {
            ssize_t w = write(out, bytes + at, (size_t)(n - at));
            if (w < 0 && errno != EINTR)
                err = cairn_fail_errno(why, errno, "writing %s", to);
            at += w > 0 ? w : 0;
        }
        c->done += (uint64_t)n;
        progress_update(c->progress, "copying", c->done, c->total);
        if (!err && interrupted())
            err = cairn_fail(why, CAIRN_ESTOPPED, "interrupted; nothing was restored");
    }
    if (!err && fsync(out) != 0)
        err = cairn_fail_errno(why, errno, "fsync %s", to);
    if (out >= 0 && close(out) != 0 && !err)
        err = cairn_fail_errno(why, errno, "closing %s", to);
    if (in >= 0)
        (void)close(in);
    cairn_free(bytes);
    return err;
}

/* Calls fn for each plain file of the environment but its lock table, which belongs to the processes of
 * another time. */
static enum cairn_err each_file(const char *env,
                                enum cairn_err (*fn)(void *ctx, const char *path, const char *name,
                                                     struct cairn_why *why),
                                void *ctx, struct cairn_why *why)
{
    DIR *d = opendir(env);
    if (!d)
        return cairn_fail_errno(why, errno, "%s", env);
    enum cairn_err err = CAIRN_OK;
    unsigned n = 0;
    for (struct dirent *e; !err && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || strcmp(e->d_name, "lock.mdb") == 0)
            continue;
        char *path = cairn_path_join(env, e->d_name);
        if (!path)
            err = cairn_fail(why, CAIRN_ENOMEM, "%s", env);
        else if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
            err = ++n > STORE_FILES_MAX
                      ? cairn_fail(why, CAIRN_ECORRUPT, "%s holds more than %u files; it is no store", env,
                                   STORE_FILES_MAX)
                      : fn(ctx, path, e->d_name, why);
        cairn_free(path);
    }
    (void)closedir(d);
    return err;
}

static enum cairn_err add_size(void *ctx, const char *path, const char *name, struct cairn_why *why)
{
    struct stat st;
    (void)name;
    if (stat(path, &st) != 0)
        return cairn_fail_errno(why, errno, "%s", path);
    ((struct copying *)ctx)->total += (uint64_t)st.st_size;
    return CAIRN_OK;
}

struct copy_to {
    const char *dir;
    struct copying *c;
};

static enum cairn_err copy_one(void *ctx, const char *path, const char *name, struct cairn_why *why)
{
    struct copy_to *t = ctx;
    char *to = cairn_path_join(t->dir, name);
    enum cairn_err err = to ? copy_file(path, to, t->c, why) : cairn_fail(why, CAIRN_ENOMEM, "%s", path);
    cairn_free(to);
    return err;
}

static void finding(void *ctx, const char *line)
{
    struct progress *p = ctx;
    progress_end(p);
    fprintf(stderr, "%s\n", line);
}

/* SRC is a data directory (or a backup of one), or the environment itself. OWNED; NULL: neither. */
static char *environment_of(const char *src)
{
    static const char *const inside[] = {"store", "."};
    for (size_t i = 0; i < 2; i++) {
        struct stat st;
        char *env = cairn_path_join(src, inside[i]), *data = env ? cairn_path_join(env, "data.mdb") : NULL;
        bool found = data && stat(data, &st) == 0 && S_ISREG(st.st_mode);
        cairn_free(data);
        if (found)
            return env;
        cairn_free(env);
    }
    return NULL;
}

static int restore(struct args *a)
{
    int code;
    const char *dir = data_dir(a, &code), *src = a->pos[0];
    if (!dir)
        return code;
    char *env = environment_of(src);
    if (!env)
        return fail_text(a, EXIT_NOT_FOUND, "no store in %s; name what `cairn backup` wrote", src);
    struct cairn_why why = {{0}};
    struct progress p;
    struct copying c = {.progress = &p};
    struct cairn_stop stop = {0};
    struct cairn_workdir work = {0};
    char *prefix = cairn_path_join(dir, "restore"), *temp_env = NULL, *final = cairn_path_join(dir, "store"),
         *lock = NULL;
    progress_begin(&p, a);
    interrupt_watch(&stop);
    enum cairn_err err = final && prefix ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "restore");
    if (!err && store_exists(dir))
        err = cairn_fail(&why, CAIRN_EEXISTS,
                         "%s already holds a store; restore into a new directory, or move %s away first", dir,
                         final);
    if (!err)
        err = cairn_mkdirs(dir, &why);
    if (!err)
        err = cairn_workdir_open(&work, prefix, &why);
    if (!err && (!(temp_env = cairn_path_join(work.path, "store")) ||
                 !(lock = cairn_path_join(temp_env, "lock.mdb"))))
        err = cairn_fail(&why, CAIRN_ENOMEM, "restore");
    if (!err && mkdir(temp_env, 0700) != 0)
        err = cairn_fail_errno(&why, errno, "%s", temp_env);
    if (!err)
        err = each_file(env, add_size, &c, &why);
    if (!err)
        err = each_file(env, copy_one, &(struct copy_to){temp_env, &c}, &why);
    if (!err) {
        progress_update(&p, "verifying", 0, 0);
        err = store_check(work.path, finding, &p, &why);
        if (err)
            err = cairn_wrap(&why, err, "%s does not verify, nothing was restored", src);
    }
    if (!err) {
        (void)unlink(lock);
        err = cairn_fsync_dir(temp_env, &why);
    }
    if (!err && CAIRN_FAILPOINT("cli.restore_rename"))
        err = cairn_fail(&why, CAIRN_EIO, "%s: failpoint", final);
    if (!err && renameat2(AT_FDCWD, temp_env, AT_FDCWD, final, RENAME_NOREPLACE) != 0)
        err = cairn_fail_errno(&why, errno, "naming the restored store %s", final);
    if (!err)
        err = cairn_fsync_dir(dir, &why);
    cairn_workdir_close(&work, false); /* empty, once the store has its name */
    interrupt_watch(NULL);
    progress_end(&p);
    code = err ? fail_with(a, err, &why) : EXIT_DONE;
    if (!err && a->json) {
        printf("{\"restored_bytes\":%" PRIu64 "}\n", c.done);
    } else if (!err) {
        char size[32];
        format_bytes(size, c.done);
        printf("restored and verified: %s in ", size);
        out_line(dir, strlen(dir), 0);
        fputc('\n', stdout);
    }
    cairn_free(env);
    cairn_free(prefix);
    cairn_free(temp_env);
    cairn_free(lock);
    cairn_free(final);
    return out_finish(a, code);
}

/* ---- debug
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static int print_object(const struct args *a, json_t *j)
{
    const char *key;
    json_t *v;
    (void)a;
    json_object_foreach(j, key, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%-28s ", key);
        if (json_is_string(v))
            out_line(json_string_value(v), json_string_length(v), 0);
        else if (text)
            out_line(text, strlen(text), 0);
        fputc('\n', stdout);
        free(text); /* jansson's own */
    }
    return EXIT_DONE;
}

static int debug_stat(struct args *a)
{
    if (a->server)
        return door_run(a, DOOR_READ, "server.stats", NULL, print_object);
    struct store *s;
    struct cairn_config *config;
    struct store_stats st;
    struct cairn_why why = {{0}};
    int code = store_door(&s, &config, a, true);
    if (code)
        return code;
    enum cairn_err err = store_stats_get(s, &st, &why);
    store_close(s);
    cairn_config_free(config);
    if (err)
        return fail_with(a, err, &why);
    json_t *j = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "generation", (json_int_t)st.generation,
        "n_collections", (json_int_t)st.n_collections, "n_documents", (json_int_t)st.n_documents,
        "n_passages", (json_int_t)st.n_passages, "n_vectors", (json_int_t)st.n_vectors, "n_segments",
        (json_int_t)st.n_segments, "n_delta", (json_int_t)st.n_delta, "map_bytes", (json_int_t)st.map_bytes,
        "map_used_bytes", (json_int_t)st.map_used_bytes, "file_bytes", (json_int_t)st.file_bytes, "readers",
        (json_int_t)st.readers, "dead_readers_cleared", (json_int_t)st.dead_readers_cleared);
    if (!j)
        return fail_text(a, EXIT_FAILED, "out of memory");
    if (a->json) {
        json_dumpf(j, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else {
        (void)print_object(a, j);
    }
    json_decref(j);
    return out_finish(a, EXIT_DONE);
}

static void to_array(void *ctx, const char *line)
{
    if (line)
        (void)json_array_append_new(ctx, json_string(line));
}

static int debug_check(struct args *a)
{
    int code;
    struct cairn_why why = {{0}};
    const char *dir = data_dir(a, &code);
    if (!dir)
        return code;
    if (!store_exists(dir))
        return fail_text(a, EXIT_NOT_FOUND, "no store in %s", dir);
    json_t *found = json_array();
    if (!found)
        return fail_text(a, EXIT_FAILED, "out of memory");
    enum cairn_err err = store_check(dir, to_array, found, &why);
    size_t n = json_array_size(found), i;
    if (a->json) {
        json_t *j = json_pack("{s:b,s:O}", "clean", err == CAIRN_OK && n == 0, "findings", found);
        if (j)
            json_dumpf(j, stdout, JSON_COMPACT);
        json_decref(j);
        fputc('\n', stdout);
    } else {
        json_t *line;
        json_array_foreach(found, i, line)
        {
            out_line(json_string_value(line), json_string_length(line), 0);
            fputc('\n', stdout);
        }
        if (!err && !n)
            puts("clean");
    }
    json_decref(found);
    if (err || n)
        return out_finish(a,
                          fail_text(a, EXIT_FAILED, "%s", why.text[0] ? why.text : "the store has findings"));
    return out_finish(a, EXIT_DONE);
}

static bool to_stdout(void *ctx, const char *json, size_t len)
{
    (void)ctx;
    fwrite(json, 1, len, stdout);
    if (!len || json[len - 1] != '\n')
        fputc('\n', stdout);
    return !ferror(stdout);
}

static int debug_dump(struct args *a)
{
    struct store *s;
    struct cairn_config *config;
    struct store_view *v = NULL;
    struct collection_info *list = NULL;
    struct cairn_why why = {{0}};
    size_t n = 0;
    int code = store_door(&s, &config, a, true);
    if (code)
        return code;
    enum cairn_err err = store_view_begin(&v, s, &why);
    if (!err && a->n_pos) {
        err = store_dump(v, a->pos[0], to_stdout, NULL, &why);
    } else if (!err) {
        err = store_collection_list(v, &list, &n, &why);
        for (size_t i = 0; i < n && !err; i++)
            err = store_dump(v, list[i].opts.name, to_stdout, NULL, &why);
    }
    cairn_free(list);
    if (v)
        store_view_end(v);
    store_close(s);
    cairn_config_free(config);
    return out_finish(a, err ? fail_with(a, err, &why) : EXIT_DONE);
}

static int debug_digest(struct args *a)
{
    struct store *s;
    struct cairn_config *config;
    struct store_view *v = NULL;
    struct cairn_hash h;
    struct cairn_why why = {{0}};
    char hex[2 * sizeof h.b + 1];
    int code = store_door(&s, &config, a, true);
    if (code)
        return code;
    enum cairn_err err = store_view_begin(&v, s, &why);
    uint64_t generation = err ? 0 : store_view_generation(v);
    if (!err)
        err = store_digest(v, &h, &why);
    if (v)
        store_view_end(v);
    store_close(s);
    cairn_config_free(config);
    if (err)
        return fail_with(a, err, &why);
    cairn_hex(hex, h.b, sizeof h.b);
    if (a->json)
        printf("{\"generation\":%" PRIu64 ",\"digest\":\"%s\"}\n", generation, hex);
    else
        puts(hex);
    return out_finish(a, EXIT_DONE);
}

/* ---- index
 * ------------------------------------------------------------------------------------------------------------------------------
 */

static int index_merge(struct args *a)
{
    struct store *s;
    struct cairn_config *config;
    struct cairn_stop stop = {0};
    struct progress p;
    struct cairn_why why = {{0}};
    uint32_t n = 0;
    int code = store_door(&s, &config, a, false);
    if (code)
        return code;
    progress_begin(&p, a);
    interrupt_watch(&stop);
    enum cairn_err err =
        store_merge(s, a->n_pos ? a->pos[0] : NULL,
                    &(struct store_merge_opts){.full = a->full, .threads = (unsigned)a->threads.v},
                    progress_update, &p, &stop, &n, &why);
    interrupt_watch(NULL);
    progress_end(&p);
    store_close(s);
    cairn_config_free(config);
    if (err && interrupted())
        return out_finish(
            a, fail_text(a, EXIT_FAILED, "interrupted; what was merged stays, and the next run goes on"));
    if (err)
        return fail_with(a, err, &why);
    if (a->json)
        printf("{\"n_merged\":%" PRIu32 "}\n", n);
    else
        printf("merged: %" PRIu32 " segment%s made\n", n, n == 1 ? "" : "s");
    return out_finish(a, EXIT_DONE);
}

static int print_index(const struct args *a, const json_t *list)
{
    static const char *const headings[] = {"COLLECTION", "INDEX", "METRIC", "DIM>", "DELTA>",
                                           "SEGMENTS>",  "ROWS>", "DEAD>",  "HOT>", "COLD>"};
    size_t i;
    json_t *o;
    (void)a;
    struct table *t = table_new(sizeof headings / sizeof headings[0], headings);
    json_array_foreach(list, i, o)
    {
        char hot[32], cold[32];
        format_bytes(hot, j_whole(o, "hot_bytes"));
        format_bytes(cold, j_whole(o, "cold_bytes"));
        table_cell(t, "%s", j_text(o, "collection"));
        table_cell(t, "%s", j_text(o, "index"));
        table_cell(t, "%s", j_text(o, "metric"));
        static const char *const counts[] = {"dim", "n_delta", "n_segments", "n_rows", "n_dead"};
        for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++)
            table_cell(t, "%" PRIu64, j_whole(o, counts[k]));
        table_cell(t, "%s", hot);
        table_cell(t, "%s", cold);
    }
    table_print_free(t);
    return EXIT_DONE;
}

static int index_info(struct args *a)
{
    static const char *const kinds[] = {"auto", "flat", "hnsw", "ivf"}, *const metrics[] = {"cosine", "dot",
                                                                                            "l2"};
    struct store *s;
    struct cairn_config *config;
    struct store_view *v = NULL;
    struct collection_info *list = NULL;
    struct vector_info x;
    struct cairn_why why = {{0}};
    size_t n = 0;
    int code = store_door(&s, &config, a, true);
    if (code)
        return code;
    json_t *out = json_array();
    enum cairn_err err = out ? store_view_begin(&v, s, &why) : cairn_fail(&why, CAIRN_ENOMEM, "index info");
    if (!err)
        err = store_collection_list(v, &list, &n, &why);
    for (size_t i = 0; i < n && !err; i++) {
        const struct collection_opts *o = &list[i].opts;
        if (!o->dim)
            continue;
        err = store_vector_info(v, o->name, &x, &why);
        if (!err && json_array_append_new(
                        out, json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "collection", o->name,
                                       "index", kinds[o->index <= VECTOR_IVF ? o->index : VECTOR_AUTO],
                                       "metric", metrics[o->metric <= METRIC_L2 ? o->metric : METRIC_COSINE],
                                       "dim", (json_int_t)o->dim, "n_delta", (json_int_t)x.n_delta,
                                       "n_segments", (json_int_t)x.n_segments, "n_rows", (json_int_t)x.n_rows,
                                       "n_dead", (json_int_t)x.n_dead, "hot_bytes", (json_int_t)x.hot_bytes,
                                       "cold_bytes", (json_int_t)x.cold_bytes)) != 0)
            err = cairn_fail(&why, CAIRN_ENOMEM, "index info");
    }
    cairn_free(list);
    if (v)
        store_view_end(v);
    store_close(s);
    cairn_config_free(config);
    if (!err && a->json) {
        json_dumpf(out, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else if (!err) {
        (void)print_index(a, out);
    }
    json_decref(out);
    return out_finish(a, err ? fail_with(a, err, &why) : EXIT_DONE);
}

/* ---- tables
 * -------------------------------------------------------------------------------------------------------------------------------
 */

#define OPTS_STORE                                                                                           \
    OPTS_DATA,                                                                                               \
        OPT(TEXT, "config", "FILE", config, "settings, lines of key = value; keys: cairn serve --help"),     \
        OPT(LIST, "set", "KEY=VALUE", set, "one setting, over the file; may be repeated"), OPTS_OUTPUT
static const struct opt store_opts[] = {OPTS_STORE};
static const struct opt stat_opts[] = {
    OPTS_WHERE, OPT_TITLE("Settings"),
    OPT(TEXT, "config", "FILE", config, "settings, lines of key = value; keys: cairn serve --help"),
    OPT(LIST, "set", "KEY=VALUE", set, "one setting, over the file; may be repeated"), OPTS_OUTPUT};

static const struct opt merge_opts[] = {
    OPT(FLAG, "full", NULL, full, "everything into as few segments as allowed, not only what is due"),
    OPT_IN(WHOLE, "threads", "N", threads, 1, 1024, "threads (default 1)"), OPTS_STORE};

static const struct command commands[] = {
    COMMAND("index merge", "[COLLECTION]", "merge new vectors into segments",
            "What `cairn serve` does beside its requests and `cairn ingest` at its end. Content stays the "
            "same; killed "
            "anywhere, the next run goes on.",
            merge_opts, 0, 1, index_merge),
    COMMAND("index info", "", "vectors of each collection: segments, delta, bytes", NULL, store_opts, 0, 0,
            index_info),
    COMMAND("backup", "DEST", "copy the store while it is in use",
            "Writes a consistent, compacted and verified copy of the store to DEST, which must not exist. A "
            "server may go on serving and "
            "writing.",
            store_opts, 1, 1, backup),
    COMMAND("restore", "SRC", "make a data directory from a backup",
            "Copies the store in SRC beside its place in --data DIR, verifies it, then gives it its name. A "
            "DIR that already holds a "
            "store is left as it is.",
            store_opts, 1, 1, restore),
    COMMAND("debug stat", "", "sizes and counts of the store", NULL, stat_opts, 0, 0, debug_stat),
    COMMAND("debug check", "", "verify every invariant of the store",
            "Prints one line per finding and exits 1 if there is any; prints \"clean\" otherwise. It only "
            "reads, so a server may be "
            "running.",
            store_opts, 0, 0, debug_check),
    COMMAND("debug dump", "[COLLECTION]", "all content as JSON lines, in key order", NULL, store_opts, 0, 1,
            debug_dump),
    COMMAND("debug digest", "", "a hash over all live content",
            "Two stores with the same content print the same digest.", store_opts, 0, 0, debug_digest),
};
const struct command_group store_commands = {commands, sizeof commands / sizeof commands[0]};
