/* eval/lab.c - options, progress, the service under measurement, and calls to it as JSON. */
#include "run.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- options ---- */

static int option_value(struct options *o, const struct option_row *r, const char *value)
{
    char *field = (char *)o + r->at, *end;
    switch (r->kind) {
    case O_FLAG:
        *(bool *)(void *)field = true;
        return DONE;
    case O_TEXT:
        *(const char **)(void *)field = value;
        return DONE;
    case O_CONF:
        if (o->n_conf == CONF_MAX)
            return tell(o, USAGE, "--%s: at most %u of them", r->name, CONF_MAX);
        o->conf[o->n_conf++] = value;
        return DONE;
    case O_LIST: {
        struct name_list *list = (struct name_list *)(void *)field;
        if (list->n == NAMES_MAX)
            return tell(o, USAGE, "--%s: at most %u of them", r->name, NAMES_MAX);
        list->v[list->n++] = value;
        return DONE;
    }
    case O_WHOLE: {
        errno = 0;
        uint64_t v = strtoull(value, &end, 10);
        if (errno || end == value || *end || *value == '-')
            return tell(o, USAGE, "--%s wants a whole number, not \"%s\"", r->name, value);
        *(uint64_t *)(void *)field = v;
        return DONE;
    }
    case O_SHARE: {
        double v = strtod(value, &end);
        if (end == value || *end || !(v >= 0 && v <= 1))
            return tell(o, USAGE, "--%s wants a number from 0 to 1, not \"%s\"", r->name, value);
        *(double *)(void *)field = v;
        return DONE;
    }
    }
    return USAGE;
}

int options_read(struct options *o, const struct option_row *rows, size_t n, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *eq = strchr(word, '=');
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            o->help = true;
            return DONE;
        }
        size_t len = eq ? (size_t)(eq - word) : strlen(word);
        const struct option_row *r = NULL;
        for (size_t k = 0; k < n && !r; k++)
            if (strncmp(word, "--", 2) == 0 && strlen(rows[k].name) == len - 2 &&
                strncmp(word + 2, rows[k].name, len - 2) == 0)
                r = &rows[k];
        if (!r)
            return tell(o, USAGE, "unknown option \"%s\"; --help lists them", word);
        if (r->kind == O_FLAG && eq)
            return tell(o, USAGE, "--%s takes no value", r->name);
        if (r->kind != O_FLAG && !eq && i + 1 >= argc)
            return tell(o, USAGE, "--%s wants a value: %s", r->name, r->arg);
        int code = option_value(o, r, r->kind == O_FLAG ? NULL : eq ? eq + 1 : argv[++i]);
        if (code)
            return code;
    }
    if (o->backend && model_backend_by_name(o->backend) == BACKEND_AUTO && strcmp(o->backend, "auto") != 0)
        return tell(o, USAGE, "unknown backend \"%s\"; auto, scalar, blas, avx2, avx512 or cuda", o->backend);
    for (size_t k = 0; k < n; k++)
        if (strcmp(rows[k].name, "fail-on-drop") == 0 && o->fail_on_drop && !o->baseline)
            return tell(o, USAGE, "--fail-on-drop compares with a baseline; name it");
    return DONE;
}

void options_print(const char *usage, const char *details, const struct option_row *rows, size_t n, FILE *to)
{
    fprintf(to, "usage: cairn %s\n\n%s\n\noptions:\n", usage, details);
    for (size_t i = 0; i < n; i++) {
        char left[64];
        if (!rows[i].help)
            continue;
        snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].arg ? " " : "",
                 rows[i].arg ? rows[i].arg : "");
        fprintf(to, "  %-26s %s\n", left, rows[i].help);
    }
    fputs("  --help                     this text\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 not "
          "found.\n",
          to);
}

int tell(const struct options *o, int code, const char *fmt, ...)
{
    va_list ap;
    progress_clear();
    fprintf(stderr, "cairn: %s: ", o->command);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return code;
}

int tell_err(const struct options *o, enum cairn_err err, const struct cairn_why *why)
{
    return tell(o, err == CAIRN_ENOTFOUND ? NOT_FOUND : FAILED, "%s",
                why->text[0] ? why->text : cairn_err_name(err));
}

/* ---- progress, SIGINT ---- */

struct cairn_stop run_stop;

static void on_interrupt(int sig)
{
    (void)sig;
    if (atomic_exchange(&run_stop.cancelled, true))
        _exit(130);
}

void run_watch(void)
{
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    (void)sigaction(SIGINT, &act, NULL);
}

static bool progress_shown;

void progress_clear(void)
{
    if (progress_shown)
        fputs("\r\033[K", stderr);
    progress_shown = false;
}

void progress(const struct options *o, const char *what, uint64_t done, uint64_t total)
{
    static int64_t shown_us, begun_us;
    static char last[64];
    if (o->quiet || !isatty(STDERR_FILENO))
        return;
    int64_t now = cairn_now_us();
    if (strcmp(last, what) != 0) {
        snprintf(last, sizeof last, "%s", what);
        begun_us = now;
    } else if (now - shown_us < 200000 && done < total) {
        return;
    }
    shown_us = now;
    double rate = now > begun_us ? (double)done * 1e6 / (double)(now - begun_us) : 0;
    fprintf(stderr, "\r\033[K%s %" PRIu64 "/%" PRIu64 "  %.1f/s", what, done, total, rate);
    if (rate > 0 && total > done)
        fprintf(stderr, "  %.0f s left", (double)(total - done) / rate);
    progress_shown = true;
}

/* ---- models and service ---- */

static const enum model_role roles[3] = {MODEL_GENERATOR, MODEL_EMBEDDER, MODEL_RERANKER};

void lab_models_free(char *names[3], char *sums[3])
{
    for (int i = 0; i < 3; i++) {
        cairn_free(names[i]);
        cairn_free(sums[i]);
        names[i] = sums[i] = NULL;
    }
}

enum cairn_err lab_models(const struct options *o, char *names[3], char *sums[3], struct cairn_why *why)
{
    struct model_registry *reg;
    memset(names, 0, 3 * sizeof *names);
    memset(sums, 0, 3 * sizeof *sums);
    enum cairn_err err = model_registry_open(&reg, o->models, why);
    if (err)
        return err;
    const char *asked[3] = {0};
    asked[MODEL_GENERATOR] = o->generator;
    asked[MODEL_EMBEDDER] = o->embedder;
    asked[MODEL_RERANKER] = o->reranker;
    for (int i = 0; i < 3 && !err; i++) {
        enum model_role role = roles[i];
        const struct model_card *card = NULL;
        if (asked[role] && strcmp(asked[role], "none") == 0)
            continue;
        if (!asked[role] && o->profile) {
            for (size_t k = 0; k < model_registry_count(reg) && !card; k++) {
                const struct model_card *c = model_registry_at(reg, k);
                if (c->role == role && c->profile && strcmp(c->profile, o->profile) == 0)
                    card = c;
            }
            if (!card && role == MODEL_EMBEDDER)
                err = cairn_fail(why, CAIRN_ENOTFOUND,
                                 "no embedder of profile %s among the models: scripts/models fetches them",
                                 o->profile);
        } else {
            err = model_registry_find(reg, role, asked[role], &card, why);
            if (err == CAIRN_ESTATE &&
                !asked[role]) /* no model of this role at all: do without, as a service does */
                err = CAIRN_OK;
        }
        if (err || !card)
            continue;
        names[role] = cairn_strdup(card->name);
        sums[role] = cairn_strdup(card->sha256 ? card->sha256 : "");
        if (!names[role] || !sums[role])
            err = cairn_fail(why, CAIRN_ENOMEM, "models");
    }
    model_registry_close(reg);
    if (err)
        lab_models_free(names, sums);
    return err;
}

enum cairn_err lab_open(struct bench_service *b, const struct options *o, const char *dir, bool generator,
                        struct cairn_why *why)
{
    char *sums[3];
    *b = (struct bench_service){0};
    enum cairn_err err = lab_models(o, b->names, sums, why);
    if (err)
        return err;
    for (int i = 0; i < 3; i++)
        cairn_free(sums[i]);
    if (!generator) {
        cairn_free(b->names[MODEL_GENERATOR]);
        b->names[MODEL_GENERATOR] = NULL;
    }
    err = api_config_new(&b->config, why);
    for (size_t i = 0; i < o->n_conf && !err; i++) {
        char key[128];
        const char *eq = strchr(o->conf[i], '=');
        if (!eq || (size_t)(eq - o->conf[i]) >= sizeof key) {
            err = cairn_fail(why, CAIRN_EINVAL, "--conf wants KEY=VALUE, not \"%.100s\"", o->conf[i]);
            break;
        }
        snprintf(key, sizeof key, "%.*s", (int)(eq - o->conf[i]), o->conf[i]);
        err = cairn_config_set(b->config, key, eq + 1, why);
    }
    if (!err)
        err = cairn_mkdirs(dir, why);
    if (!err)
        err = service_open(&b->s,
                           &(struct service_opts){
                               .data_dir = dir,
                               .models_dir = o->models,
                               .embedder = b->names[MODEL_EMBEDDER] ? b->names[MODEL_EMBEDDER] : "none",
                               .reranker = b->names[MODEL_RERANKER] ? b->names[MODEL_RERANKER] : "none",
                               .generator = b->names[MODEL_GENERATOR] ? b->names[MODEL_GENERATOR] : "none",
                               .config = b->config,
                               .n_threads = (unsigned)o->threads,
                               .create = true,
                               .backend = o->backend ? model_backend_by_name(o->backend) : BACKEND_AUTO},
                           why);
    if (err)
        lab_close(b);
    return err;
}

void lab_close(struct bench_service *b)
{
    service_close(b->s);
    cairn_config_free(b->config);
    for (int i = 0; i < 3; i++)
        cairn_free(b->names[i]);
    *b = (struct bench_service){0};
}

char *lab_dir(const struct options *o, const char *name, const char *const *parts)
{
    struct cairn_buf key;
    char hex[65];
    cairn_buf_init(&key, 0);
    cairn_buf_puts(&key, "eval 1 cairn " CAIRN_VERSION);
    for (; *parts; parts++) {
        cairn_buf_put(&key, "\0", 1);
        cairn_buf_puts(&key, *parts);
    }
    if (key.failed) {
        cairn_buf_release(&key);
        return NULL;
    }
    struct cairn_hash h = cairn_hash_bytes(key.bytes, key.len);
    cairn_buf_release(&key);
    cairn_hex(hex, h.b, 32);
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (o->data)
        return cairn_asprintf("%s/%s-%.12s", o->data, name, hex);
    if (cache && *cache)
        return cairn_asprintf("%s/cairn/eval/%s-%.12s", cache, name, hex);
    return cairn_asprintf("%s/.cache/cairn/eval/%s-%.12s", home && *home ? home : ".", name, hex);
}

/* ---- calls ---- */

struct call_events {
    const struct options *o;
    const char *method;
};

static bool on_call_event(void *ctx, const char *name, const void *msgpack, size_t len)
{
    struct call_events *e = ctx;
    struct cairn_buf text;
    (void)name;
    cairn_buf_init(&text, 0);
    if (api_msgpack_to_json(msgpack, len, false, &text, NULL) == CAIRN_OK) {
        json_t *v = json_loadb(text.bytes, text.len, 0, NULL);
        const char *kind = text_of(v, "kind"), *what = text_of(v, "what");
        if (kind && what && strcmp(kind, "progress") == 0)
            progress(e->o, what, (uint64_t)json_integer_value(json_object_get(v, "done")),
                     (uint64_t)json_integer_value(json_object_get(v, "total")));
        json_decref(v);
    }
    cairn_buf_release(&text);
    return !atomic_load(&run_stop.cancelled);
}

enum cairn_err lab_call(struct bench_service *b, const struct options *o, const char *method, json_t *params,
                        bool events, json_t **result, struct cairn_why *why)
{
    struct cairn_buf packed, answer, text;
    struct api_caller me = {.role = ROLE_ADMIN, .key_id = "", .local = true};
    struct call_events ctx = {o, method};
    struct api_sink sink = {on_call_event, &ctx};
    *result = NULL;
    cairn_buf_init(&packed, 0);
    cairn_buf_init(&answer, 0);
    cairn_buf_init(&text, 0);
    char *dumped = params ? json_dumps(params, JSON_COMPACT) : NULL;
    json_decref(params);
    enum cairn_err err = dumped ? api_json_to_msgpack(dumped, strlen(dumped), &packed, why)
                                : cairn_fail(why, CAIRN_ENOMEM, "parameters of %s", method);
    free(dumped); /* jansson's */
    if (!err)
        err = service_call(b->s, &me, method, packed.bytes, packed.len, events ? &sink : NULL, &run_stop,
                           &answer, why);
    if (!err)
        err = api_msgpack_to_json(answer.bytes, answer.len, false, &text, why);
    if (!err && !(*result = json_loadb(text.bytes, text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL)))
        err = cairn_fail(why, CAIRN_ENOMEM, "result of %s", method);
    cairn_buf_release(&packed);
    cairn_buf_release(&answer);
    cairn_buf_release(&text);
    return err;
}

/* ---- files, samples, output ---- */

static enum cairn_err add_question(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct texts *t = ctx;
    const char *q = text_of(o, "question");
    (void)line;
    if (!q)
        return cairn_fail(why, CAIRN_EINVAL, "no \"question\"");
    char *copy = eval_grow((void **)&t->v, &t->cap, t->n + 1, sizeof *t->v) ? cairn_strdup(q) : NULL;
    if (!copy)
        return cairn_fail(why, CAIRN_ENOMEM, "questions");
    t->v[t->n++] = copy;
    return CAIRN_OK;
}

enum cairn_err questions_read(struct texts *t, const char *path, struct cairn_why *why)
{
    enum cairn_err err = each_json(path, add_question, t, why);
    return err || t->n ? err : cairn_fail(why, CAIRN_EINVAL, "%s: no question in it", path);
}

void texts_free(struct texts *t)
{
    for (size_t i = 0; i < t->n; i++)
        cairn_free(t->v[i]);
    cairn_free(t->v);
}

const char *text_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

enum cairn_err each_json(const char *path,
                         enum cairn_err (*fn)(void *ctx, json_t *o, size_t line, struct cairn_why *why),
                         void *ctx, struct cairn_why *why)
{
    char *text;
    size_t len, no = 0;
    if (!file_exists(path))
        return cairn_fail(why, CAIRN_ENOTFOUND, "%s: no such file", path);
    enum cairn_err err = cairn_read_file(&text, &len, path, EVAL_FILE_MAX, why);
    if (err)
        return err;
    for (char *p = text, *next; !err && p < text + len; p = next) {
        char *end = memchr(p, '\n', (size_t)(text + len - p));
        size_t n = end ? (size_t)(end - p) : (size_t)(text + len - p);
        next = p + n + 1;
        no++;
        size_t k = 0;
        while (k < n && (p[k] == ' ' || p[k] == '\r' || p[k] == '\t'))
            k++;
        if (k == n)
            continue;
        json_error_t at;
        json_t *o = json_loadb(p, n, JSON_REJECT_DUPLICATES, &at);
        if (!json_is_object(o))
            err = cairn_fail(why, CAIRN_EINVAL, "%s:%zu: not a JSON object: %s", path, no,
                             o ? "another type" : at.text);
        else if ((err = fn(ctx, o, no, why)) != CAIRN_OK)
            err = cairn_wrap(why, err, "%s:%zu", path, no);
        json_decref(o);
    }
    cairn_free(text);
    return err;
}

static int by_index(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

size_t *sample_of(size_t total, uint64_t n, uint64_t seed, size_t *n_out)
{
    size_t *at = cairn_reallocarray(NULL, total ? total : 1, sizeof *at);
    if (!at)
        return NULL;
    for (size_t i = 0; i < total; i++)
        at[i] = i;
    *n_out = total;
    if (!n || n >= total)
        return at;
    uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 0xD1B54A32D192ED03ULL;
    for (size_t i = 0; i < n; i++) { /* Fisher and Yates, the first n */
        size_t k = i + (size_t)(lab_rand(&state) % (total - i)), x = at[i];
        at[i] = at[k];
        at[k] = x;
    }
    *n_out = (size_t)n;
    qsort(at, *n_out, sizeof *at, by_index);
    return at;
}

void json_put(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_null());
}

double seconds_since(int64_t us) { return (double)(cairn_now_us() - us) / 1e6; }

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
double quantile(double *v, size_t n, double q)
{
    if (!n)
        return NAN;
    qsort(v, n, sizeof *v, by_value);
    size_t k = (size_t)ceil(q * (double)n);
    return v[k ? k - 1 : 0];
}

void remove_tree(const char *path)
{
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", path, (char *)NULL);
        _exit(127);
    }
    if (pid > 0)
        (void)waitpid(pid, NULL, 0);
}

int finish_output(const struct options *o)
{
    if (fflush(stdout) || ferror(stdout))
        return tell(o, FAILED, "writing to standard output: %s", strerror(errno));
    return DONE;
}

int print_json(const struct options *o, json_t *v)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    if (!text)
        return tell(o, FAILED, "out of memory");
    puts(text);
    free(text); /* jansson's */
    return finish_output(o);
}
