/* api/cli/door.c - where a command's calls go: to a service opened here on the data directory, or over a
 * socket to a server. Both take the same method names and params, so a command is written once. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARAMS_BYTES_MAX ((size_t)128 << 20)
#define TIMEOUT_DEFAULT_S 300u
#define CONFIG_TABLES_NOTE "`cairn serve --help` lists the keys"

/* ---- Ctrl-C
 * -------------------------------------------------------------------------------------------------------------------
 */

static volatile sig_atomic_t interrupts;
static volatile sig_atomic_t behind_socket;
static struct cairn_stop *volatile watched;

static void on_interrupt(int sig)
{
    struct cairn_stop *stop = watched;
    interrupts = 1;
    if (behind_socket) { /* the client may be waiting for bytes; a closed connection cancels its call */
        static const char text[] = "\ncairn: interrupted\n";
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
        _exit(EXIT_FAILED);
    }
    if (stop)
        atomic_store(&stop->cancelled, true); /* lock-free, so allowed here */
    (void)signal(sig, SIG_DFL);               /* the next one ends the process */
}

void interrupt_watch(struct cairn_stop *stop)
{
    watched = stop;
    struct sigaction sa = {.sa_handler = stop ? on_interrupt : SIG_DFL};
    sigemptyset(&sa.sa_mask);
    (void)sigaction(SIGINT, &sa, NULL);
    (void)sigaction(SIGTERM, &sa, NULL);
}

bool interrupted(void) { return interrupts != 0; }

/* ---- params
 * --------------------------------------------------------------------------------------------------------------------
 */

void params_init(struct params *p)
{
    cairn_buf_init(&p->body, PARAMS_BYTES_MAX);
    pk_init(&p->k, &p->body);
    p->n = 0;
}

void params_release(struct params *p) { cairn_buf_release(&p->body); }

void params_str(struct params *p, const char *key, const char *s, size_t len)
{
    pk_kstr(&p->k, key, (struct cairn_str){s, len});
    p->n++;
}

void params_text(struct params *p, const char *key, const char *value)
{
    if (value)
        params_str(p, key, value, strlen(value));
}

void params_uint(struct params *p, const char *key, uint64_t v)
{
    pk_kuint(&p->k, key, v);
    p->n++;
}

void params_whole(struct params *p, const char *key, struct whole v)
{
    if (v.given)
        params_uint(p, key, v.v);
}

void params_number(struct params *p, const char *key, struct number v)
{
    if (!v.given)
        return;
    pk_knum(&p->k, key, v.v);
    p->n++;
}

void params_bool(struct params *p, const char *key, bool v)
{
    pk_kbool(&p->k, key, v);
    p->n++;
}

void params_flag(struct params *p, const char *key, bool v)
{
    if (v)
        params_bool(p, key, true);
}

void params_list(struct params *p, const char *key, const struct list *l)
{
    if (!l->n)
        return;
    pk_cstr(&p->k, key);
    pk_array(&p->k, l->n);
    for (size_t i = 0; i < l->n; i++)
        pk_cstr(&p->k, l->v[i]);
    p->n++;
}

void params_as(struct params *p, const struct args *a)
{
    struct list everyone = {{"everyone"}, 1};
    if (a->as.n)
        params_list(p, "principals", &a->as);
    else if (!a->server)
        params_list(p, "principals", &everyone);
}

/* ---- the data directory
 * ------------------------------------------------------------------------------------------------------------
 */

const char *data_dir(const struct args *a, int *code)
{
    const char *dir = a->data ? a->data : getenv("CAIRN_DATA");
    *code = EXIT_DONE;
    if (!dir || !*dir) {
        *code = fail_usage(a, "say where the data is: --data DIR");
        return NULL;
    }
    return dir;
}

bool store_exists(const char *dir)
{
    struct stat st;
    char *path = cairn_path_join(dir, "store");
    bool found = path && stat(path, &st) == 0;
    cairn_free(path);
    return found;
}

int config_open(struct cairn_config **out, const struct args *a)
{
    struct cairn_why why = {{0}};
    enum cairn_err err = api_config_new(out, &why);
    if (!err && a->config)
        err = cairn_config_load(*out, a->config, &why);
    for (size_t i = 0; i < a->set.n && !err; i++) {
        const char *eq = strchr(a->set.v[i], '=');
        if (!eq) {
            err = cairn_fail(&why, CAIRN_EINVAL, "--set wants KEY=VALUE, not \"%s\"; " CONFIG_TABLES_NOTE,
                             a->set.v[i]);
            break;
        }
        char *key = cairn_strndup(a->set.v[i], (size_t)(eq - a->set.v[i]));
        err = key ? cairn_config_set(*out, key, eq + 1, &why) : cairn_fail(&why, CAIRN_ENOMEM, "--set");
        cairn_free(key);
    }
    if (err) {
        int code = fail_with(a, err, &why);
        cairn_config_free(*out);
        *out = NULL;
        return code;
    }
    return EXIT_DONE;
}

static int no_store(const struct args *a, const char *dir)
{
    struct stat st;
    if (stat(dir, &st) != 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? fail_text(a, EXIT_NOT_FOUND,
                               "no data directory at %s; `cairn ingest --data %s COLLECTION PATH` makes one",
                               dir, dir)
                   : fail_text(a, EXIT_FAILED, "data directory %s: %s", dir, strerror(errno));
    return fail_text(a, EXIT_NOT_FOUND, "no store in %s; `cairn ingest --data %s COLLECTION PATH` makes one",
                     dir, dir);
}

int store_door(struct store **out, struct cairn_config **config, const struct args *a, bool read_only)
{
    int code;
    *out = NULL;
    *config = NULL;
    const char *dir = data_dir(a, &code);
    if (!dir)
        return code;
    if (!store_exists(dir))
        return no_store(a, dir);
    code = config_open(config, a);
    if (code)
        return code;
    struct cairn_why why = {{0}};
    enum cairn_err err =
        store_open(out, &(struct store_opts){.dir = dir, .read_only = read_only, .config = *config}, &why);
    if (!err)
        return EXIT_DONE;
    cairn_config_free(*config);
    *config = NULL;
    return fail_with(a, err, &why);
}

/* ---- the door
 * -----------------------------------------------------------------------------------------------------------------------
 */

int door_open(struct door *d, const struct args *a, enum door_use use, bool events)
{
    struct cairn_why why = {{0}};
    memset(d, 0, sizeof *d);
    if (a->server) {
        if (a->data)
            return fail_usage(a, "--data and --server exclude each other: the server knows its data");
        const char *key = a->key ? a->key : getenv("CAIRN_KEY");
        uint64_t seconds = a->timeout.given ? a->timeout.v : TIMEOUT_DEFAULT_S;
        enum cairn_err err = api_client_open(&d->client, a->server, key && *key ? key : NULL, events,
                                             (int)(seconds * 1000), &why);
        behind_socket = !err;
        return err ? fail_with(a, err, &why) : EXIT_DONE;
    }
    int code;
    if (!a->data && !getenv("CAIRN_DATA"))
        return fail_usage(a, "say where the data is: --data DIR, or --server ADDR to ask a server");
    const char *dir = data_dir(a, &code);
    if (!dir)
        return code;
    if (use != DOOR_CREATE && !store_exists(dir))
        return no_store(a, dir);
    enum model_backend backend = a->backend ? model_backend_by_name(a->backend) : BACKEND_AUTO;
    if (a->backend && backend == BACKEND_AUTO && strcmp(a->backend, "auto") != 0)
        return fail_usage(a, "unknown backend \"%s\"; auto, scalar, blas, avx2, avx512 or cuda", a->backend);
    code = config_open(&d->config, a);
    if (code)
        return code;
    struct service_opts o = {.data_dir = dir,
                             .models_dir = a->models,
                             .embedder = a->embedder,
                             .reranker = a->reranker,
                             .generator = a->generator,
                             .checker = a->checker,
                             .config = d->config,
                             .n_threads = (unsigned)a->threads.v,
                             .read_only = use == DOOR_READ,
                             .create = use == DOOR_CREATE,
                             .backend = backend,
                             .sync_root = a->sync_root};
    enum cairn_err err = service_open(&d->service, &o, &why);
    if (!err)
        return EXIT_DONE;
    door_close(d);
    return fail_with(a, err, &why);
}

void door_close(struct door *d)
{
    api_client_close(d->client);
    if (d->service)
        service_close(d->service);
    cairn_config_free(d->config);
    memset(d, 0, sizeof *d);
}

enum cairn_err door_call(struct door *d, const char *method, struct params *p, const struct api_sink *sink,
                         struct cairn_buf *result, struct cairn_why *why)
{
    struct cairn_buf map;
    struct pk k;
    cairn_buf_init(&map, PARAMS_BYTES_MAX);
    pk_init(&k, &map);
    pk_map(&k, p ? p->n : 0);
    if (p && p->body.len)
        cairn_buf_put(&map, p->body.bytes, p->body.len);
    enum cairn_err err;
    if (map.failed || (p && p->body.failed))
        err = cairn_fail(why, CAIRN_EFULL, "the request is over %zu bytes; send less at once",
                         PARAMS_BYTES_MAX);
    else if (d->client)
        err = api_client_call(d->client, method, map.bytes, map.len, sink, result, why);
    else
        err = service_call(d->service, &(struct api_caller){.role = ROLE_ADMIN, .key_id = "", .local = true},
                           method, map.bytes, map.len, sink, &d->stop, result, why);
    cairn_buf_release(&map);
    return err;
}

int door_run(const struct args *a, enum door_use use, const char *method, struct params *p,
             int (*print)(const struct args *a, json_t *result))
{
    struct door d;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    int code = door_open(&d, a, use, false);
    if (code)
        return code;
    cairn_buf_init(&result, 0);
    enum cairn_err err = door_call(&d, method, p, NULL, &result, &why);
    if (err) {
        code = fail_with(a, err, &why);
    } else if (a->json || !print) {
        code = out_json(a, &result);
    } else {
        json_t *j = out_parse(&result);
        out_warnings(a, j);
        code = j ? print(a, j) : fail_text(a, EXIT_FAILED, "the answer to %s could not be read", method);
        json_decref(j);
    }
    cairn_buf_release(&result);
    door_close(&d);
    return out_finish(a, code);
}
