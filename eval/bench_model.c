/* eval/bench_model.c - `cairn bench model`: generators, embedders and pair models beside llama.cpp and ONNX
 * Runtime in the same run. Engines take turns, a pass each, the best of every test kept, with the machine's
 * read bandwidth measured in between: on a shared machine a number says nothing without the limit of the same
 * minutes. Peers first try all their settings on short tests, then run with what was best. This file: the
 * command, decoders, results; bench_encoder.c: encoders. */
#include "bench_model.h"

#include "bench_index.h"

#include <cairn/model.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    STEP_ROWS_MAX = 16,
    PROMPT_MAX = 1000,
    KEPT = PROMPT_MAX / DECODER_PAGE * DECODER_PAGE,
    N_CTX = 2048,
    DEVICE_PROBE_MIB = 1024
};

/* ---- shared with the encoders ---- */

/* CPU time of the process: what one thread's work costs on a machine that others use too. */
static int64_t cpu_us(void)
{
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

enum cairn_err bench_best(const struct model_bench *x, double seconds, bench_call fn, void *ctx, double *best,
                          struct cairn_why *why)
{
    int64_t begun = x->clock_us();
    *best = INFINITY;
    do {
        int64_t from = x->clock_us();
        enum cairn_err err = fn(ctx, why);
        if (err)
            return err;
        double s = (double)(x->clock_us() - from) / 1e6;
        *best = s < *best ? s : *best;
    } while ((double)(x->clock_us() - begun) / 1e6 < seconds);
    return CAIRN_OK;
}

enum cairn_err bench_add(struct model_bench *x, const char *engine, const char *model, const char *test,
                         const char *setting, unsigned threads, int source, double value,
                         struct cairn_why *why)
{
    struct model_run r = {.threads = threads, .source = source, .value = value};
    snprintf(r.engine, sizeof r.engine, "%s", engine);
    snprintf(r.model, sizeof r.model, "%s", model);
    snprintf(r.test, sizeof r.test, "%s", test);
    snprintf(r.setting, sizeof r.setting, "%s", setting);
    return model_runs_add(&x->runs, &r, why);
}

/* A name of a comma-separated list. */
static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, n) == 0 && (p[n] == ',' || !p[n]))
            return true;
    }
    return false;
}
bool bench_wants(const struct model_bench *x, const char *test)
{
    return !x->o->tests || listed(x->o->tests, test);
}

json_t *bench_model_info(struct model_bench *x, const char *model, const char *role)
{
    json_t *all = json_object_get(x->info, "models"), *m = json_object_get(all, model);
    if (m)
        return m;
    json_object_set_new(all, model, json_pack("{s:s}", "role", role));
    return json_object_get(all, model);
}

/* ---- peers ---- */

static enum cairn_err call_script(struct model_bench *x, const char *python, const json_t *cfg, json_t **out,
                                  struct cairn_why *why)
{
    const char *script = x->o->peers_script ? x->o->peers_script : "eval/peers_model.py";
    char *config = cairn_path_join(x->tmp, "config.json"), *answer = cairn_path_join(x->tmp, "answer.json"),
         *log = cairn_path_join(x->work, "peers_model.log"), *text = json_dumps(cfg, JSON_COMPACT),
         *read = NULL;
    size_t len = 0;
    enum cairn_err err =
        config && answer && log && text ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "configuration of a peer");
    *out = NULL;
    if (!err && !file_exists(script))
        err = cairn_fail(why, CAIRN_ENOTFOUND, "%s: not there; --peers-script names it", script);
    if (!err)
        err = cairn_write_file(config, text, strlen(text), why);
    if (!err && file_exists(answer))
        (void)unlink(answer);
    const char *argv[] = {python, script, config, answer, NULL};
    if (!err)
        err = peers_exec(argv, log, why);
    if (!err)
        err = cairn_read_file(&read, &len, answer, 64 << 20, why);
    if (!err && !json_is_object(*out = json_loadb(read, len, 0, NULL)))
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: not what peers_model.py writes", answer);
    if (err) {
        json_decref(*out);
        *out = NULL;
    }
    cairn_free(config);
    cairn_free(answer);
    cairn_free(log);
    cairn_free(read);
    free(text); /* jansson's */
    return err;
}

enum cairn_err bench_peer(struct model_bench *x, size_t peer, const char *engine, const char *model,
                          unsigned threads, json_t *cfg, json_t **result, struct cairn_why *why)
{
    struct cairn_why own_why = {{0}};
    json_t *v = NULL, *run;
    size_t i;
    json_object_set_new(cfg, "engine", json_string(engine));
    json_object_set_new(cfg, "threads", json_integer((json_int_t)threads));
    json_object_set_new(cfg, "cpu_time", json_boolean(x->o->cpu_time));
    json_object_set_new(cfg, "seconds", json_real(SECONDS_EACH(x)));
    progress(x->o, engine, 0, 0);
    enum cairn_err err = call_script(x, x->peers[peer].python, cfg, &v, &own_why);
    progress_clear();
    json_decref(cfg);
    *result = NULL;
    if (err == CAIRN_ESTOPPED)
        return cairn_fail(why, err, "%s", own_why.text);
    json_t *notes = json_object_get(x->info, "peers");
    char key[512];
    snprintf(key, sizeof key, "%s %s", engine, x->peers[peer].python);
    if (err) {
        (void)tell(x->o, FAILED, "%s on %s: %s; going on without this pass of it", key, model, own_why.text);
        json_object_set_new(notes, key, json_string(own_why.text));
        return CAIRN_OK;
    }
    const char *version = text_of(v, "version");
    if (version)
        json_object_set_new(notes, key, json_string(version));
    json_array_foreach(json_object_get(v, "runs"), i, run)
    {
        const char *test = text_of(run, "test"), *setting = text_of(run, "setting");
        if (!err && test && setting)
            err = bench_add(x, engine, model, test, setting, threads, (int)peer,
                            json_number_value(json_object_get(run, "value")), why);
    }
    if (!err)
        *result = v;
    else
        json_decref(v);
    return err;
}

static enum cairn_err add_peer(struct model_bench *x, const char *python, struct cairn_why *why)
{
    json_t *cfg = json_pack("{s:s}", "engine", "which"), *has = NULL;
    if (strchr(python, '/') && access(python, X_OK)) {
        json_decref(cfg);
        return cairn_fail(why, CAIRN_ENOTFOUND,
                          "%s: %s; --peers names the python of an environment with llama_cpp or onnxruntime",
                          python, strerror(errno));
    }
    enum cairn_err err = call_script(x, python, cfg, &has, why);
    struct peer *p = &x->peers[x->n_peers];
    *p = (struct peer){python, json_is_true(json_object_get(has, "llama.cpp")),
                       json_is_true(json_object_get(has, "onnxruntime"))};
    if (!err && !p->llama && !p->onnx)
        err =
            cairn_fail(why, CAIRN_EINVAL,
                       "%s has neither llama_cpp nor onnxruntime with onnx and numpy; install what is to be "
                       "compared with: pip install llama-cpp-python onnxruntime onnx numpy",
                       python);
    else if (err && err != CAIRN_ESTOPPED)
        err = cairn_wrap(why, err, "%s", python);
    x->n_peers += !err;
    json_decref(cfg);
    json_decref(has);
    return err;
}

static enum cairn_err find_peers(struct model_bench *x, struct cairn_why *why)
{
    static const char *const packages[] = {"llama-cpp-python", "onnxruntime", "onnx", "numpy", NULL};
    const struct name_list *asked = &x->o->pythons;
    if (asked->n) {
        enum cairn_err err = CAIRN_OK;
        for (size_t i = 0; i < asked->n && !err; i++)
            if (strcmp(asked->v[i], "none") != 0)
                err = add_peer(x, asked->v[i], why);
        return err;
    }
    if (x->o->quick)
        return CAIRN_OK;
    enum cairn_err err = peers_python(x->o, x->work, "py-model", packages, &x->own_python, why);
    if (!err)
        err = add_peer(x, x->own_python, why);
    if (err && err != CAIRN_ESTOPPED) { /* cairn alone is still worth its numbers */
        (void)tell(x->o, FAILED, "%s; going on without peers", why->text);
        json_object_set_new(x->info, "without_peers", json_string(why->text));
        err = CAIRN_OK;
    }
    return err;
}

/* ---- decoders ---- */

static const struct decoder_test {
    const char *name;
    enum { PREFILL, DECODE, STEP, FIRST, HIT } kind;
    uint32_t n;
    bool quick;
} decoder_tests[] = {
    {"pp128",    PREFILL, 128,        true },
    {"pp512",    PREFILL, 512,        false},
    {"tg@0",     DECODE,  0,          true },
    {"tg@512",   DECODE,  512,        false},
    {"step1",    STEP,    1,          true },
    {"step2",    STEP,    2,          false},
    {"step4",    STEP,    4,          false},
    {"step8",    STEP,    8,          true },
    {"step16",   STEP,    16,         false},
    {"ttft1000", FIRST,   PROMPT_MAX, false},
    {"hit1000",  HIT,     PROMPT_MAX, false},
};
#define N_DECODER_TESTS (sizeof decoder_tests / sizeof decoder_tests[0])

struct decoder_side {
    struct decoder *d;
    struct decoder_seq *seq, *rows[STEP_ROWS_MAX];
    float *logits;
    int32_t ids[N_CTX];
    const struct decoder_test *test;
    uint32_t n_tokens; /* of a decode */
};

/* The next token is chosen, as whoever asks would: the first token is there only then. */
static int32_t greedy(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static const struct decoder_share to_all = {.n_public = KEPT};

static enum cairn_err decoder_once(void *ctx, struct cairn_why *why)
{
    struct decoder_side *m = ctx;
    uint32_t n = m->test->n;
    struct decoder_item items[STEP_ROWS_MAX];
    struct decoder_seq *s = NULL;
    enum cairn_err err = CAIRN_OK;
    switch (m->test->kind) {
    case PREFILL:
        decoder_seq_truncate(m->seq, 0);
        return decoder_eval(m->seq, m->ids, n, false, m->logits, &run_stop, why);
    case STEP:
        for (uint32_t i = 0; i < n; i++) {
            decoder_seq_truncate(m->rows[i], 0);
            items[i] = (struct decoder_item){.seq = m->rows[i], .tokens = m->ids + i, .n = 1, .n_logits = 1};
        }
        return decoder_step(m->d, items, n, m->logits, why);
    case DECODE:
        decoder_seq_truncate(m->seq, n);
        for (uint32_t i = 0; i < m->n_tokens && !err; i++)
            err = decoder_eval(m->seq, m->ids + n + i, 1, false, m->logits, &run_stop, why);
        return err;
    case FIRST:
        decoder_seq_truncate(m->seq, 0);
        err = decoder_eval(m->seq, m->ids, n, false, m->logits, &run_stop, why);
        break;
    case HIT:
        err = decoder_seq_open(&s, m->d, N_CTX, why);
        if (!err && decoder_prefix_find(s, m->ids, n, &to_all) != KEPT)
            err = cairn_fail(why, CAIRN_ESTATE, "the beginning of the prompt was not kept");
        if (!err)
            err = decoder_eval(s, m->ids + KEPT, n - KEPT, false, m->logits, &run_stop, why);
        decoder_seq_close(s);
        break;
    }
    if (!err && greedy(m->logits, decoder_n_vocab(m->d)) < 0)
        err = cairn_fail(why, CAIRN_ECORRUPT, "no token follows");
    return err;
}

/* What must stand in the sequence, or be kept, before the clock runs. The ids are always the same, so what is
 * there already will do. */
static enum cairn_err decoder_ready(struct decoder_side *m, struct cairn_why *why)
{
    uint32_t before = m->test->kind == DECODE ? m->test->n : m->test->kind == HIT ? (uint32_t)KEPT : 0;
    enum cairn_err err = CAIRN_OK;
    if (before && decoder_seq_len(m->seq) < before) {
        decoder_seq_truncate(m->seq, 0);
        err = decoder_eval(m->seq, m->ids, before, false, m->logits, &run_stop, why);
    }
    if (!err && m->test->kind == HIT)
        decoder_prefix_keep(m->seq, m->ids, KEPT, &to_all);
    return err;
}

static enum cairn_err decoder_pass(struct model_bench *x, struct decoder_side *m, const char *model,
                                   unsigned threads, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < N_DECODER_TESTS && !err; i++) {
        double s, value;
        m->test = &decoder_tests[i];
        if (!bench_wants(x, m->test->name) || (x->o->quick && !m->test->quick))
            continue;
        progress(x->o, m->test->name, i, N_DECODER_TESTS);
        err = decoder_ready(m, why);
        if (!err)
            err = bench_best(x, m->test->kind == FIRST ? 0 : SECONDS_EACH(x), decoder_once, m, &s, why);
        if (err)
            break;
        value = m->test->kind == PREFILL  ? m->test->n / s
                : m->test->kind == DECODE ? m->n_tokens / s
                                          : s * 1e3;
        err =
            bench_add(x, "cairn", model, m->test->name, decoder_backend_name(m->d), threads, -1, value, why);
    }
    progress_clear();
    return err;
}

/* The best of the short tests decides what the long ones run with. */
static const struct model_run *scanned(const struct model_bench *x, const char *model,
                                       const struct decoder_test *t, unsigned threads)
{
    bool prompt = t->kind != DECODE && t->kind != STEP;
    return model_runs_best(&x->runs, "llama.cpp", model, prompt ? "pp128" : "tg@0", threads);
}

static enum cairn_err llama_pass(struct model_bench *x, size_t peer, bool scan, const char *path,
                                 const char *model, unsigned threads, uint32_t n_tokens,
                                 struct cairn_why *why)
{
    json_t *tests = json_array(), *keep = json_object(), *result = NULL;
    for (size_t i = 0; i < N_DECODER_TESTS; i++) {
        const struct decoder_test *t = &decoder_tests[i];
        const struct model_run *best = scanned(x, model, t, threads);
        if (scan ? strcmp(t->name, "pp128") != 0 && strcmp(t->name, "tg@0") != 0
                 : !bench_wants(x, t->name) || (x->o->quick && !t->quick))
            continue;
        if (!scan && best && best->source != (int)peer) /* another build is better at it */
            continue;
        json_array_append_new(tests, json_string(t->name));
        if (!scan && best)
            json_object_set_new(keep, t->name, json_pack("[s]", best->setting));
    }
    json_t *cfg =
        json_pack("{s:s,s:i,s:o,s:o}", "model", path, "tokens", (int)n_tokens, "tests", tests, "keep", keep);
    if (!cfg || !json_array_size(tests)) {
        json_decref(cfg);
        return cfg ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "tests of a peer");
    }
    enum cairn_err err = bench_peer(x, peer, "llama.cpp", model, threads, cfg, &result, why);
    json_decref(result);
    return err;
}

/* Of the memory that the decoder's weights lie in. */
static enum cairn_err probe(struct model_bench *x, struct bandwidth *b, const struct decoder *d,
                            struct cairn_pool *pool, const char *model, unsigned threads,
                            struct cairn_why *why)
{
    const char *way = model_device_name();
    double gb_s = 0;
    enum cairn_err err = CAIRN_OK;
    progress(x->o, "reading memory", 0, 0);
    if (strcmp(decoder_backend_name(d), model_backend_name(BACKEND_CUDA)) == 0) {
        err = model_device_bandwidth((size_t)DEVICE_PROBE_MIB << 20, &gb_s, why);
        gb_s /= 1e9;
    } else {
        gb_s = bandwidth_measure(b, pool, x->clock_us, &way);
    }
    progress_clear();
    if (err)
        return err;
    return bench_add(x, "machine", model, "read", way, threads, -1, gb_s, why);
}

static enum cairn_err decoder_at(struct model_bench *x, struct bandwidth *b, const char *path,
                                 const char *model, unsigned threads, struct cairn_why *why)
{
    struct cairn_pool *pool = NULL;
    struct decoder_side *m = cairn_calloc(1, sizeof *m);
    enum cairn_err err = m ? cairn_pool_open(&pool, threads, why) : cairn_fail(why, CAIRN_ENOMEM, "decoder");
    if (err) {
        cairn_free(m);
        return err;
    }
    m->n_tokens = x->o->quick ? 8 : 32;
    struct model_opts opts = {.pool = pool,
                              .n_ctx = N_CTX,
                              .backend = x->o->backend ? model_backend_by_name(x->o->backend) : BACKEND_AUTO};
    int64_t from = cairn_now_us();
    err = decoder_open_file(&m->d, path, &opts, why);
    if (!err)
        err = bench_add(x, "cairn", model, "open", decoder_backend_name(m->d), threads, -1,
                        seconds_since(from) * 1e3, why);
    if (!err)
        err = decoder_seq_open(&m->seq, m->d, N_CTX, why);
    if (!err && !(m->logits = cairn_calloc((size_t)STEP_ROWS_MAX * decoder_n_vocab(m->d), sizeof(float))))
        err = cairn_fail(why, CAIRN_ENOMEM, "logits");
    for (size_t i = 0; i < STEP_ROWS_MAX && !err; i++)
        err = decoder_seq_open(&m->rows[i], m->d, DECODER_PAGE, why);
    for (uint32_t i = 0; i < N_CTX && !err; i++)
        m->ids[i] = (int32_t)(100 + (uint64_t)i * 7919 % (decoder_n_vocab(m->d) - 200));
    if (!err)
        err = decoder_eval(m->seq, m->ids, 8, false, m->logits, &run_stop, why); /* warm */
    for (size_t i = 0; i < x->n_peers && !err; i++)
        if (x->peers[i].llama)
            err = llama_pass(x, i, true, path, model, threads, m->n_tokens, why);
    for (uint64_t pass = 0; pass < x->o->passes && !err; pass++) {
        err = probe(x, b, m->d, pool, model, threads, why);
        if (!err)
            err = decoder_pass(x, m, model, threads, why);
        for (size_t i = 0; i < x->n_peers && !err; i++)
            if (x->peers[i].llama)
                err = llama_pass(x, i, false, path, model, threads, m->n_tokens, why);
    }
    for (size_t i = 0; i < STEP_ROWS_MAX; i++)
        decoder_seq_close(m->rows[i]);
    decoder_seq_close(m->seq);
    decoder_close(m->d);
    cairn_free(m->logits);
    cairn_free(m);
    cairn_pool_close(pool);
    return err;
}

/* Bytes of weights that one decoded token must read: of the token embedding one row, unless it is also the
 * output. */
static enum cairn_err step_bytes(const char *path, uint64_t *bytes, struct cairn_why *why)
{
    struct model_file *f;
    enum cairn_err err = model_file_open(&f, path, why);
    if (err)
        return err;
    bool tied = !model_file_tensor(f, "output.weight");
    *bytes = 0;
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct model_tensor *t = model_file_tensor_at(f, i);
        if (tied || strcmp(t->name, "token_embd.weight") != 0)
            *bytes += t->n_bytes;
    }
    model_file_close(f);
    return CAIRN_OK;
}

static enum cairn_err bench_decoder(struct model_bench *x, const char *path, const char *model,
                                    struct cairn_why *why)
{
    struct bandwidth *b = NULL;
    uint64_t bytes;
    enum cairn_err err = step_bytes(path, &bytes, why);
    if (!err)
        err = bandwidth_open(&b, bytes, why);
    if (!err)
        json_object_set_new(bench_model_info(x, model, "generator"), "step_bytes",
                            json_integer((json_int_t)bytes));
    for (size_t i = 0; i < x->n_threads && !err; i++)
        err = decoder_at(x, b, path, model, x->threads[i], why);
    bandwidth_close(b);
    return err;
}

/* ---- results ---- */

static void ratio(json_t *to, const struct model_bench *x, const char *what, const char *than,
                  const char *model, const char *test)
{
    char key[MODEL_TEXT_MAX + 32];
    double r = model_runs_ratio(&x->runs, "cairn", than, model, test, x->threads[x->n_threads - 1]);
    snprintf(key, sizeof key, "%s %s", what, model);
    if (isfinite(r) && !json_object_get(to, key))
        json_put(to, key, r);
}

static json_t *ratios(const struct model_bench *x)
{
    static const struct {
        const char *what, *than, *test;
    } each[] = {
        {"decode",            "llama.cpp",   "tg@512"  },
        {"decode",            "llama.cpp",   "tg@0"    }, /* where depth was not measured */
        {"decode from empty", "llama.cpp",   "tg@0"    },
        {"prefill",           "llama.cpp",   "pp512"   },
        {"prefill",           "llama.cpp",   "pp128"   },
        {"step of 8",         "llama.cpp",   "step8"   },
        {"first token",       "llama.cpp",   "ttft1000"},
        {"embed",             "onnxruntime", "texts128"},
        {"embed mixed",       "onnxruntime", "mixed"   },
        {"embed query",       "onnxruntime", "query16" },
        {"pair",              "onnxruntime", "pairs128"},
    };
    json_t *to = json_object(), *m;
    const char *model;
    json_object_foreach(json_object_get(x->info, "models"), model, m)
    {
        unsigned t = x->threads[x->n_threads - 1];
        const struct model_run *one = model_runs_best(&x->runs, "cairn", model, "step1", t),
                               *eight = model_runs_best(&x->runs, "cairn", model, "step8", t);
        for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
            ratio(to, x, each[i].what, each[i].than, model, each[i].test);
        if (one && eight) {
            char key[MODEL_TEXT_MAX + 32];
            snprintf(key, sizeof key, "8 rows to 1 %s", model);
            json_put(to, key, eight->value / one->value);
        }
    }
    return to;
}

/* Decoding from an empty context reads the weights and nothing else worth counting. */
static json_t *bandwidth_shares(const struct model_bench *x)
{
    static const char *const engines[] = {"cairn", "llama.cpp"};
    json_t *to = json_object(), *m;
    const char *model;
    json_object_foreach(json_object_get(x->info, "models"), model, m)
    {
        double bytes = json_number_value(json_object_get(m, "step_bytes"));
        for (size_t i = 0; i < x->n_threads; i++) {
            unsigned t = x->threads[i];
            const struct model_run *read = model_runs_best(&x->runs, "machine", model, "read", t);
            char key[MODEL_TEXT_MAX + 32];
            snprintf(key, sizeof key, i + 1 == x->n_threads ? "decode %s" : "decode %s, 1 thread", model);
            if (!read || !(bytes > 0))
                continue;
            json_t *o = json_object();
            json_put(o, "threads", t);
            json_put(o, "read_gb_s", read->value);
            for (size_t e = 0; e < 2; e++) {
                const struct model_run *run = model_runs_best(&x->runs, engines[e], model, "tg@0", t);
                if (run)
                    json_put(o, engines[e], run->value * bytes / 1e9 / read->value);
            }
            json_object_set_new(to, key, o);
        }
    }
    return to;
}

static const char *unit_of(const char *test)
{
    return model_test_is_time(test)         ? "ms"
           : strcmp(test, "read") == 0      ? "GB/s"
           : strncmp(test, "pairs", 5) == 0 ? "pairs/s"
           : strncmp(test, "texts", 5) == 0 ? "texts/s"
           : strncmp(test, "mixed", 5) == 0 ? "texts/s"
                                            : "tokens/s";
}

static json_t *run_json(const struct model_run *r)
{
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:s,s:i,s:s}", "engine", r->engine, "model", r->model, "test", r->test,
                  "setting", r->setting, "threads", (int)r->threads, "unit", unit_of(r->test));
    json_put(o, "value", r->value);
    return o;
}

/* The runs of earlier results count as passes of this one: a long measurement can be taken in pieces. */
static enum cairn_err join(struct model_bench *x, const char *path, struct cairn_why *why)
{
    char *text = NULL;
    size_t len, i;
    json_t *v = NULL, *run;
    enum cairn_err err = cairn_read_file(&text, &len, path, 16 << 20, why);
    if (!err && (!(v = json_loadb(text, len, 0, NULL)) || !json_is_array(json_object_get(v, "runs"))))
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: not what --json prints", path);
    json_array_foreach(json_object_get(v, "runs"), i, run)
    {
        const char *engine = text_of(run, "engine"), *model = text_of(run, "model"),
                   *test = text_of(run, "test"), *setting = text_of(run, "setting");
        if (err)
            break;
        if (engine && model && test && setting)
            err = bench_add(x, engine, model, test, setting,
                            (unsigned)json_integer_value(json_object_get(run, "threads")), -1,
                            json_number_value(json_object_get(run, "value")), why);
        else
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: run %zu is not one of this command", path, i);
    }
    if (!err) {
        json_object_update_missing(json_object_get(x->info, "models"), json_object_get(v, "models"));
        json_object_update_missing(json_object_get(x->info, "peers"), json_object_get(v, "peers"));
    }
    json_decref(v);
    cairn_free(text);
    return err;
}

/* Share of the machine that others used meanwhile: what makes numbers of a shared machine low. */
struct machine {
    double busy, all, own; /* seconds of all cores */
};
static struct machine machine_now(void)
{
    struct machine m = {0};
    struct rusage own = {0}, children = {0};
    char line[256] = "";
    FILE *f = fopen("/proc/stat", "re");
    if (f && fgets(line, sizeof line, f)) {
        char *at = line + 3;
        for (int i = 0; i < 8; i++) { /* user nice system idle iowait irq softirq steal */
            double ticks = strtod(at, &at);
            m.all += ticks;
            m.busy += i == 3 || i == 4 ? 0 : ticks;
        }
    }
    if (f)
        (void)fclose(f);
    double hz = (double)sysconf(_SC_CLK_TCK);
    m.all /= hz;
    m.busy /= hz;
    (void)getrusage(RUSAGE_SELF, &own);
    (void)getrusage(RUSAGE_CHILDREN, &children);
    const struct timeval each[] = {own.ru_utime, own.ru_stime, children.ru_utime, children.ru_stime};
    for (size_t i = 0; i < 4; i++)
        m.own += (double)each[i].tv_sec + 1e-6 * (double)each[i].tv_usec;
    return m;
}

static void print_result(const struct model_bench *x, const json_t *o)
{
    const char *key;
    json_t *v;
    printf("%-40s %-9s %-12s %8s %12s %-9s %s\n", "model", "test", "engine", "threads", "value", "",
           "setting");
    for (size_t i = 0; i < x->runs.n; i++) {
        const struct model_run *r = &x->runs.v[i];
        if (model_runs_best(&x->runs, r->engine, r->model, r->test, r->threads) == r)
            printf("%-40s %-9s %-12s %8u %12.2f %-9s %s\n", r->model, r->test, r->engine, r->threads,
                   r->value, unit_of(r->test), r->setting);
    }
    json_object_foreach(json_object_get(o, "models"), key, v)
    {
        char *text = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n%s %s", key, text ? text : "");
        free(text); /* jansson's */
    }
    printf("\n\n%-60s %8s\n", "times the peer", "ratio");
    json_object_foreach(json_object_get(o, "ratios"), key, v)
        printf("%-60s %8.2f\n", key, json_number_value(v));
    printf("\n%-60s %8s %8s %10s\n", "share of the read bandwidth", "GB/s", "cairn", "llama.cpp");
    json_object_foreach(json_object_get(o, "bandwidth_share"), key, v) printf(
        "%-60s %8.1f %8.2f %10.2f\n", key, json_number_value(json_object_get(v, "read_gb_s")),
        json_number_value(json_object_get(v, "cairn")), json_number_value(json_object_get(v, "llama.cpp")));
    printf("\nothers used %.0f %% of the machine meanwhile\n",
           100 * json_number_value(json_object_get(o, "others_cpu_share")));
}

/* ---- the command ---- */

static bool none(const struct name_list *l) { return l->n == 1 && strcmp(l->v[0], "none") == 0; }

/* Models of a role: those that were named, or all that are installed. A generator may be a file. */
static enum cairn_err each_model(struct model_bench *x, const struct model_registry *reg,
                                 enum model_role role, const struct name_list *asked, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    if (none(asked))
        return CAIRN_OK;
    for (size_t i = 0; i < asked->n && !err; i++) {
        const struct model_card *card = NULL;
        const char *name = asked->v[i], *slash = strrchr(name, '/');
        if (role == MODEL_GENERATOR && file_exists(name)) {
            err = bench_decoder(x, name, slash ? slash + 1 : name, why);
            continue;
        }
        err = model_registry_find(reg, role, name, &card, why);
        if (!err)
            err = role == MODEL_GENERATOR ? bench_decoder(x, card->path, card->name, why)
                                          : bench_encoder(x, card, why);
    }
    for (size_t i = 0; !asked->n && i < model_registry_count(reg) && !err; i++) {
        const struct model_card *card = model_registry_at(reg, i);
        if (card->role == role)
            err = role == MODEL_GENERATOR ? bench_decoder(x, card->path, card->name, why)
                                          : bench_encoder(x, card, why);
    }
    return err;
}

static enum cairn_err bench_run(struct model_bench *x, struct cairn_why *why)
{
    const struct options *o = x->o;
    struct model_registry *reg = NULL;
    enum cairn_err err = find_peers(x, why);
    if (!err)
        err = model_registry_open(&reg, o->models, why);
    for (size_t i = 0; i < o->shapes.n && !err; i++) {
        char *path = cairn_asprintf("%s/%s.gguf", x->tmp, "shape");
        err = path ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "path");
        progress(o, "writing a file of random weights", 0, 0);
        if (!err)
            err = shape_write(o->shapes.v[i], path, &run_stop, why);
        progress_clear();
        if (!err)
            err = bench_decoder(x, path, o->shapes.v[i], why);
        if (path)
            (void)unlink(path);
        cairn_free(path);
    }
    if (!err)
        err = each_model(x, reg, MODEL_GENERATOR, &o->generators, why);
    if (!err)
        err = each_model(x, reg, MODEL_EMBEDDER, &o->embedders, why);
    if (!err)
        err = each_model(x, reg, MODEL_RERANKER, &o->pairs, why);
    for (size_t i = 0; i < o->joins.n && !err; i++)
        err = join(x, o->joins.v[i], why);
    model_registry_close(reg);
    return err;
}

#define LIST(name, arg, help, field)                                                                         \
    {                                                                                                        \
        name, arg, help, O_LIST, offsetof(struct options, field)                                             \
    }
#define ROW(name, arg, help, kind, field)                                                                    \
    {                                                                                                        \
        name, arg, help, kind, offsetof(struct options, field)                                               \
    }
static const struct option_row rows[] = {
    LIST("generator", "NAME|FILE", "a decoder; may be repeated; none (default: all that are installed)",
         generators),
    LIST("embedder", "NAME", "an embedding model; may be repeated; none (default: all)", embedders),
    LIST("pair", "NAME", "a pair model; may be repeated; none (default: all)", pairs),
    LIST("shape", "NAME",
         "random weights in a known shape, as smollm2-135m-q8_0, mistral-7b-q4_0; may be repeated", shapes),
    LIST("peers", "PYTHON",
         "with llama_cpp or onnxruntime; may be repeated; none (default: one made in --work)", pythons),
    ROW("peers-script", "FILE", "runs the peers (default eval/peers_model.py)", O_TEXT, peers_script),
    ROW("tests", "LIST", "only these, as pp512,tg@0", O_TEXT, tests),
    ROW("passes", "P", "of every engine in turn, the best kept (default 3)", O_WHOLE, passes),
    ROW("threads", "N", "this many (default: 1, and all cores)", O_WHOLE, threads),
    ROW("backend", "NAME", "auto, scalar, blas, avx2, avx512 or cuda", O_TEXT, backend),
    ROW("models", "DIR", "directory of models (default: $CAIRN_MODELS_DIR, else ~/.cache/cairn/models)",
        O_TEXT, models),
    ROW("work", "DIR", "where the peers' environment and files are kept (default var/bench)", O_TEXT, work),
    ROW("data", "DIR", "where files of random weights are made, and removed (default: $TMPDIR or /tmp)",
        O_TEXT, data),
    LIST("join", "FILE", "an earlier --json: its runs count as further passes; may be repeated", joins),
    ROW("cpu-time", NULL, "CPU time of one thread instead of time: for a machine that others use", O_FLAG,
        cpu_time),
    ROW("quick", NULL, "short tests, one pass, all cores, peers only if named", O_FLAG, quick),
    ROW("json", NULL, "one JSON object on stdout", O_FLAG, json),
    ROW("quiet", NULL, "no progress on stderr", O_FLAG, quiet),
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static int finish(struct model_bench *x, struct machine before)
{
    struct machine now = machine_now();
    json_t *runs = json_array();
    double others = now.busy - before.busy - (now.own - before.own), all = now.all - before.all;
    for (size_t i = 0; i < x->runs.n; i++)
        json_array_append_new(runs, run_json(&x->runs.v[i]));
    json_object_set_new(x->info, "runs", runs);
    json_object_set_new(x->info, "ratios", ratios(x));
    json_object_set_new(x->info, "bandwidth_share", bandwidth_shares(x));
    json_put(x->info, "others_cpu_share", all > 0 ? (others > 0 ? others / all : 0) : NAN);
    if (x->o->json)
        return print_json(x->o, x->info);
    print_result(x, x->info);
    return finish_output(x->o);
}

int bench_model(int argc, char **argv)
{
    struct options o = {.command = "bench model", .passes = 3};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("bench model [options]",
                      "The models beside llama.cpp and ONNX Runtime, taking turns: prefill, decode, steps of "
                      "several rows, first token; texts, queries and pairs a second; with the machine's read "
                      "bandwidth and the share of it that decoding reaches.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (o.quick)
        o.passes = 1;
    if (o.passes < 1 || o.passes > 100 || o.threads > 256)
        return tell(&o, USAGE, "--passes 1 to 100, --threads at most 256");
    const char *tmp = getenv("TMPDIR");
    unsigned n = o.cpu_time ? 1 : o.threads ? (unsigned)o.threads : (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    struct model_bench x = {.o = &o,
                            .work = o.work ? o.work : "var/bench",
                            .info = json_object(),
                            .clock_us = o.cpu_time ? cpu_us : cairn_now_us};
    if (n > 1 && !o.threads && !o.quick)
        x.threads[x.n_threads++] = 1;
    x.threads[x.n_threads++] = n;
    json_object_set_new(x.info, "models", json_object());
    json_object_set_new(x.info, "peers", json_object());
    json_put(x.info, "cores", (double)sysconf(_SC_NPROCESSORS_ONLN));
    json_put(x.info, "threads", n);
    json_object_set_new(x.info, "clock", json_string(o.cpu_time ? "cpu" : "wall"));
    run_watch();
    struct machine before = machine_now();
    enum cairn_err err = cairn_mkdirs(x.work, &why);
    x.tmp = cairn_asprintf("%s/cairn-bench-XXXXXX", o.data ? o.data : tmp && *tmp ? tmp : "/tmp");
    if (!err && !x.tmp)
        err = cairn_fail(&why, CAIRN_ENOMEM, "paths");
    bool made = !err && mkdtemp(x.tmp);
    if (!err && !made)
        err = cairn_fail_errno(&why, errno, "%s", x.tmp);
    if (!err)
        err = bench_run(&x, &why);
    code = err ? tell_err(&o, err, &why) : DONE;
    if (!err || (err == CAIRN_ESTOPPED && x.runs.n)) { /* what was measured until then is worth having */
        int printed = finish(&x, before);
        code = code ? code : printed;
    }
    if (made)
        remove_tree(x.tmp);
    cairn_free(x.tmp);
    cairn_free(x.own_python);
    cairn_free(x.runs.v);
    json_decref(x.info);
    return code;
}
