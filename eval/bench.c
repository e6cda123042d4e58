/* eval/bench.c - `cairn bench`: what this machine does. Every number is measured in this process with the
 * service's own code, on the documents and questions of data/ and on a larger set from a seeded generator;
 * memory is that of fresh processes. Nothing here compares with other programs. A figure is given with the
 * size of what it was measured on. */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COLLECTION "bench"

struct bench {
    const struct options *o;
    char *tmp; /* OWNED directory, removed at the end */
    json_t *out;
};

/* ---- documents of a seeded generator ---- */

/* Words with the frequencies of a language, roughly: rank r is drawn with a chance of about 1/r. */
static void synthetic_text(uint64_t *state, struct cairn_buf *b, size_t n_words)
{
    static const char *const syllables[] = {"ba", "ne", "ro",  "ti",  "lu",  "ka",  "so",  "mi",
                                            "de", "va", "pol", "gan", "ter", "sen", "mar", "lin"};
    static const char *const common[] = {"the",  "of",  "and", "to", "in", "is",   "for", "that",
                                         "with", "are", "be",  "by", "or", "from", "as",  "must"};
    size_t in_sentence = 0;
    for (size_t i = 0; i < n_words; i++) {
        double u = (double)(lab_rand(state) >> 11) / 9007199254740992.0;
        size_t rank = (size_t)exp(u * log(20000.0));
        const char *gap = in_sentence ? " " : i ? "\n\n" : "";
        if (in_sentence == 0 || lab_rand(state) % 14 != 0) {
            in_sentence++;
        } else {
            gap = lab_rand(state) % 5 ? ". " : ".\n\n";
            in_sentence = 1;
        }
        cairn_buf_puts(b, gap);
        if (rank <= 16) {
            cairn_buf_puts(b, common[rank - 1]);
            continue;
        }
        for (size_t r = rank; r; r /= 16)
            cairn_buf_puts(b, syllables[r % 16]);
    }
    cairn_buf_puts(b, ".\n");
}

/* ---- ingest ---- */

static enum cairn_err bench_sync(struct bench *x, struct bench_service *b, const char *kb, json_t *ingest,
                                 struct cairn_why *why)
{
    json_t *r = NULL, *o = json_object();
    int64_t from = cairn_now_us();
    enum cairn_err err = lab_call(
        b, x->o, "doc.sync", json_pack("{s:s, s:s, s:b}", "collection", COLLECTION, "path", kb, "create", 1),
        true, &r, why);
    double s = seconds_since(from), docs = json_number_value(json_object_get(r, "put")),
           bytes = json_number_value(json_object_get(r, "bytes"));
    json_put(o, "documents", docs);
    json_put(o, "passages", json_number_value(json_object_get(r, "passages")));
    json_put(o, "bytes", bytes);
    json_put(o, "seconds", s);
    json_put(o, "documents_per_s", docs / s);
    json_put(o, "mb_per_s", bytes / 1e6 / s);
    json_decref(r);
    from = cairn_now_us();
    if (!err) /* nothing has changed: what a loader's every later run costs */
        err = lab_call(b, x->o, "doc.sync", json_pack("{s:s, s:s}", "collection", COLLECTION, "path", kb),
                       false, &r, why);
    json_put(o, "again_unchanged_s", seconds_since(from));
    json_object_set_new(ingest, "knowledge_base", o);
    if (!err)
        json_decref(r);
    return err;
}

static enum cairn_err bench_put(struct bench *x, struct bench_service *b, const char *collection,
                                const char *name, size_t n_documents, json_t *ingest, struct cairn_why *why)
{
    uint64_t state = 0x1234567 + x->o->seed, bytes = 0, passages = 0;
    int64_t us = 0;
    enum cairn_err err = CAIRN_OK;
    size_t n = 0;
    while (n < n_documents && !err) {
        json_t *docs = json_array(), *r = NULL;
        for (size_t i = 0; i < 128 && n < n_documents; i++, n++) {
            struct cairn_buf text;
            char id[64];
            cairn_buf_init(&text, 0);
            snprintf(id, sizeof id, "%s/%06zu.txt", name, n);
            synthetic_text(&state, &text, 150 + lab_rand(&state) % 300);
            bytes += text.len;
            json_array_append_new(docs,
                                  json_pack("{s:s, s:s}", "id", id, "text", text.bytes ? text.bytes : ""));
            cairn_buf_release(&text);
        }
        progress(x->o, name, n, n_documents);
        int64_t from = cairn_now_us();
        err = lab_call(b, x->o, "doc.put",
                       json_pack("{s:s, s:o, s:b}", "collection", collection, "documents", docs, "create", 1),
                       false, &r, why);
        us += cairn_now_us() - from;
        passages += (uint64_t)json_integer_value(json_object_get(r, "passages"));
        json_decref(r);
    }
    progress_clear();
    json_t *o = json_object();
    double s = (double)us / 1e6;
    json_put(o, "documents", (double)n);
    json_put(o, "passages", (double)passages);
    json_put(o, "bytes", (double)bytes);
    json_put(o, "seconds", s);
    json_put(o, "documents_per_s", (double)n / s);
    json_put(o, "mb_per_s", (double)bytes / 1e6 / s);
    json_object_set_new(ingest, name, o);
    return err;
}

/* ---- search ---- */

/* Questions in the words of the synthetic documents: 8 words, common ones among them. */
static enum cairn_err synthetic_queries(struct texts *t, uint64_t seed, struct cairn_why *why)
{
    uint64_t state = 0x7654321 + seed;
    for (size_t i = 0; i < 500; i++) {
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        synthetic_text(&state, &b, 8);
        char *text = eval_grow((void **)&t->v, &t->cap, t->n + 1, sizeof *t->v) ? cairn_buf_steal(&b) : NULL;
        cairn_buf_release(&b);
        if (!text)
            return cairn_fail(why, CAIRN_ENOMEM, "queries");
        t->v[t->n++] = text;
    }
    return CAIRN_OK;
}

static enum cairn_err bench_search(struct bench *x, struct bench_service *b, const char *collection,
                                   const struct texts *q, size_t n_rerank, json_t *to, struct cairn_why *why)
{
    static const char *const names[] = {"lexical", "dense", "fused", "reranked"};
    struct retriever *r;
    enum cairn_err err = service_retriever(b->s, &r, why);
    double *ms = cairn_calloc(q->n, sizeof *ms);
    if (!err && !ms)
        err = cairn_fail(why, CAIRN_ENOMEM, "times");
    for (int leg = 0; leg < 4 && !err; leg++) {
        size_t n = leg == 3 && n_rerank < q->n ? n_rerank : q->n;
        uint64_t allowed = 0;
        if ((leg > 0 && !b->names[MODEL_EMBEDDER]) || (leg == 3 && !b->names[MODEL_RERANKER]))
            continue;
        for (size_t i = 0; i < n + 1 && !err; i++) { /* the first one warms up */
            struct retrieval hits = {0};
            struct retrieve_request want = {.collection = collection,
                                            .query = cairn_str_of(q->v[i ? i - 1 : 0]),
                                            .caller = {.all = true},
                                            .k = 10,
                                            .legs = leg == 0   ? LEG_LEXICAL
                                                    : leg == 1 ? LEG_DENSE
                                                               : LEG_BOTH,
                                            .fusion = -1,
                                            .dense_weight = RETRIEVE_DEFAULT,
                                            .rerank_weight = leg < 3 ? 0 : 0.5f,
                                            .mmr_lambda = RETRIEVE_DEFAULT};
            progress(x->o, names[leg], i, n);
            int64_t from = cairn_now_us();
            err = retrieve(r, &want, &hits, &run_stop, why);
            if (i)
                ms[i - 1] = (double)(cairn_now_us() - from) / 1e3;
            allowed = hits.n_allowed;
            retrieval_release(&hits);
        }
        json_t *o = json_object();
        json_put(o, "queries", (double)n);
        json_put(o, "passages", (double)allowed);
        json_put(o, "p50_ms", quantile(ms, n, 0.5));
        json_put(o, "p99_ms", quantile(ms, n, 0.99));
        json_object_set_new(to, names[leg], o);
    }
    progress_clear();
    cairn_free(ms);
    return err;
}

/* ---- models ---- */

static enum cairn_err bench_models(struct bench *x, struct bench_service *b, json_t *to,
                                   struct cairn_why *why)
{
    json_t *load = json_object();
    struct encoder *e = NULL;
    struct decoder *d = NULL;
    enum cairn_err err = CAIRN_OK;
    int64_t from = cairn_now_us();
    if (b->names[MODEL_EMBEDDER])
        err = service_encoder(b->s, MODEL_EMBEDDER, &e, why);
    json_put(load, "embedder_s", e ? seconds_since(from) : NAN);
    from = cairn_now_us();
    struct encoder *pair = NULL;
    if (!err && b->names[MODEL_RERANKER])
        err = service_encoder(b->s, MODEL_RERANKER, &pair, why);
    json_put(load, "reranker_s", pair ? seconds_since(from) : NAN);
    from = cairn_now_us();
    if (!err && b->names[MODEL_GENERATOR])
        err = service_decoder(b->s, &d, why);
    json_put(load, "generator_s", d ? seconds_since(from) : NAN);
    json_object_set_new(to, "model_load", load);
    if (err)
        return err;
    if (e) {
        enum { N = 64 };
        struct cairn_buf text[N];
        struct cairn_str texts[N];
        uint64_t state = 99 + x->o->seed;
        size_t rounds = x->o->quick ? 1 : 4, tokens = 0;
        float *out = cairn_calloc((size_t)N * encoder_dim(e), sizeof *out);
        for (int i = 0; i < N; i++) {
            cairn_buf_init(&text[i], 0);
            synthetic_text(&state, &text[i], 60);
            texts[i] = (struct cairn_str){text[i].bytes, text[i].len};
            int32_t *ids = NULL;
            size_t n = 0;
            if (!err)
                err = tokenizer_encode(encoder_tokenizer(e), texts[i], TOKENIZE_ADD_SPECIAL, &ids, &n, why);
            cairn_free(ids);
            tokens += n;
        }
        if (!err && !out)
            err = cairn_fail(why, CAIRN_ENOMEM, "vectors");
        if (!err)
            err = encoder_embed(e, texts, 8, out, &run_stop, why); /* warm */
        from = cairn_now_us();
        for (size_t i = 0; i < rounds && !err; i++) {
            progress(x->o, "embedding", i * N, rounds * N);
            err = encoder_embed(e, texts, N, out, &run_stop, why);
        }
        double s = seconds_since(from);
        json_t *o = json_object();
        json_object_set_new(o, "model", json_string(encoder_name(e)));
        json_object_set_new(o, "backend", json_string(encoder_backend_name(e)));
        json_put(o, "passages", (double)(rounds * N));
        json_put(o, "tokens_each", (double)tokens / N);
        json_put(o, "passages_per_s", (double)(rounds * N) / s);
        json_put(o, "tokens_per_s", (double)(rounds * tokens) / s);
        json_object_set_new(to, "embedding", o);
        for (int i = 0; i < N; i++)
            cairn_buf_release(&text[i]);
        cairn_free(out);
    }
    if (!err && d) {
        size_t n_prompt = x->o->quick ? 128 : 512, n_decode = x->o->quick ? 16 : 64;
        struct decoder_seq *seq = NULL;
        int32_t *ids = cairn_calloc(n_prompt, sizeof *ids);
        float *logits = cairn_calloc(decoder_n_vocab(d), sizeof *logits);
        uint64_t state = 7;
        err = ids && logits ? decoder_seq_open(&seq, d, (uint32_t)(n_prompt + n_decode + 8), why)
                            : cairn_fail(why, CAIRN_ENOMEM, "prompt");
        for (size_t i = 0; i < n_prompt && !err; i++)
            ids[i] = (int32_t)(1000 + lab_rand(&state) % 20000 % (decoder_n_vocab(d) - 2000));
        progress(x->o, "prefill", 0, n_prompt);
        if (!err)
            err = decoder_eval(seq, ids, 8, false, logits, &run_stop, why); /* warm: pages of the weights */
        if (!err)
            decoder_seq_truncate(seq, 0);
        from = cairn_now_us();
        if (!err)
            err = decoder_eval(seq, ids, n_prompt, false, logits, &run_stop, why);
        double prefill = seconds_since(from);
        from = cairn_now_us();
        for (size_t i = 0; i < n_decode && !err; i++) {
            progress(x->o, "decode", i, n_decode);
            err = decoder_eval(seq, &ids[i], 1, false, logits, &run_stop, why);
        }
        double decode = seconds_since(from);
        json_t *o = json_object();
        json_object_set_new(o, "model", json_string(decoder_name(d)));
        json_object_set_new(o, "backend", json_string(decoder_backend_name(d)));
        json_put(o, "prompt_tokens", (double)n_prompt);
        json_put(o, "prefill_tokens_per_s", (double)n_prompt / prefill);
        json_put(o, "decoded_tokens", (double)n_decode);
        json_put(o, "decode_tokens_per_s", (double)n_decode / decode);
        json_put(o, "weights_mb", (double)decoder_weight_bytes(d) / 1e6);
        json_object_set_new(to, "generator", o);
        decoder_seq_close(seq);
        cairn_free(ids);
        cairn_free(logits);
    }
    progress_clear();
    return err;
}

static enum cairn_err bench_ask(struct bench *x, struct bench_service *b, const struct texts *q, size_t n,
                                json_t *to, struct cairn_why *why)
{
    double first[16], total[16], prompt = 0, written = 0;
    size_t answered = 0, asked = 0;
    enum cairn_err err = CAIRN_OK;
    if (n > 16)
        n = 16;
    /* refusals take no time worth measuring: ask until n were answered, or too many were not */
    for (size_t i = 0; i < 4 * n && answered < n && !err; i++) {
        json_t *a = NULL;
        progress(x->o, "answers", answered, n);
        err = lab_call(b, x->o, "ask",
                       json_pack("{s:s, s:s, s:s, s:[s], s:i}", "collection", COLLECTION, "question",
                                 q->v[i * 37 % q->n], "mode", "generate", "principals", "everyone",
                                 "max_tokens", 64),
                       false, &a, why);
        asked += !err;
        const json_t *t = json_object_get(a, "timings_ms"), *u = json_object_get(a, "usage");
        if (!err && !json_is_object(json_object_get(a, "refusal"))) {
            first[answered] = json_number_value(json_object_get(t, "retrieve")) +
                              json_number_value(json_object_get(t, "first_token"));
            total[answered++] = json_number_value(json_object_get(t, "total"));
            prompt += json_number_value(json_object_get(u, "prompt_tokens"));
            written += json_number_value(json_object_get(u, "completion_tokens"));
        }
        json_decref(a);
    }
    progress_clear();
    json_t *o = json_object();
    json_put(o, "asked", (double)asked);
    json_put(o, "answered", (double)answered);
    json_put(o, "first_token_ms_p50",
             quantile(first, answered, 0.5)); /* from the question: search included */
    json_put(o, "total_ms_p50", quantile(total, answered, 0.5));
    json_put(o, "prompt_tokens_mean", prompt / (double)answered);
    json_put(o, "completion_tokens_mean", written / (double)answered);
    json_object_set_new(to, "answers", o);
    return err;
}

/* ---- memory of fresh processes ---- */

static double rss_mb(pid_t pid)
{
    char path[64], *text, *at;
    size_t len;
    double kb = NAN;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re"); /* a file of /proc has no length to read by */
    text = cairn_calloc(8192, 1);
    if (f && text) {
        len = fread(text, 1, 8191, f);
        text[len] = 0;
        if ((at = strstr(text, "VmRSS:")))
            kb = strtod(at + 6, NULL);
    }
    if (f)
        (void)fclose(f);
    cairn_free(text);
    return kb / 1e3;
}

/* Runs this command with other words, waits for a line on its stdout, and gives its memory. NaN when it does
 * not come. */
static double rss_of_child(char *const argv[])
{
    int fd[2];
    double mb = NAN;
    if (pipe2(fd, O_CLOEXEC))
        return NAN;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(fd[1], STDOUT_FILENO);
        (void)dup2(null, STDIN_FILENO);
        (void)dup2(null, STDERR_FILENO);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    (void)close(fd[1]);
    char line[256];
    ssize_t n = pid > 0 ? read(fd[0], line, sizeof line) : 0;
    if (n > 0) {
        struct timespec settle = {0, 300000000};
        (void)nanosleep(&settle, NULL);
        mb = rss_mb(pid);
    }
    if (pid > 0) {
        (void)kill(pid, SIGTERM);
        (void)waitpid(pid, NULL, 0);
    }
    (void)close(fd[0]);
    return mb;
}

/* The child of the idle measurement: a store that is open and nothing else. Waits to be ended. */
int bench_probe(const struct options *o)
{
    struct bench_service b;
    struct cairn_why why = {{0}};
    enum cairn_err err = lab_open(&b, o, o->probe, true, &why);
    if (err)
        return tell_err(o, err, &why);
    puts("open");
    (void)fflush(stdout);
    pause();
    return DONE;
}

static void bench_memory(struct bench *x, const char *dir, json_t *to)
{
    char *copy = cairn_strdup(dir), bench_word[] = "bench", probe[] = "--probe", serve[] = "serve",
         data[] = "--data", listen[] = "--listen", any[] = "127.0.0.1:0", http[] = "--http", name[] = "cairn";
    json_t *o = json_object();
    char *const idle[] = {name, bench_word, probe, copy, NULL}, *const server[] = {name, serve,  data,
                                                                                   copy, listen, any,
                                                                                   http, any,    NULL};
    (void)x;
    json_put(o, "open_store_mb", rss_of_child(idle));
    json_put(o, "serve_idle_mb", rss_of_child(server));
    json_put(o, "this_process_with_models_mb", rss_mb(getpid()));
    json_object_set_new(to, "memory", o);
    cairn_free(copy);
}

/* ---- the command ---- */

static void print_tree(const json_t *v, int depth)
{
    const char *key;
    json_t *x;
    json_object_foreach((json_t *)(uintptr_t)v, key, x)
    {
        if (json_is_object(x)) {
            printf("%*s%s\n", depth * 2, "", key);
            print_tree(x, depth + 1);
        } else if (json_is_string(x)) {
            printf("%*s%-*s %s\n", depth * 2, "", 30 - depth * 2, key, json_string_value(x));
        } else if (json_is_number(x)) {
            double d = json_number_value(x);
            printf("%*s%-*s %12.*f\n", depth * 2, "", 30 - depth * 2, key,
                   d == floor(d) ? 0
                   : d < 10      ? 3
                                 : 1,
                   d);
        } else {
            printf("%*s%-*s %12s\n", depth * 2, "", 30 - depth * 2, key, "-");
        }
    }
}

static const struct option_row rows[] = {
    {"kb",    "DIR", "documents to ingest, questions.jsonl beside it (default data/kb)",              O_TEXT,
     offsetof(struct options,                                                                                                           kb)   },
    {"data",  "DIR", "where the stores of this run are made, and removed (default: $TMPDIR or /tmp)", O_TEXT,
     offsetof(struct options,                                                                                                           data) },
    {"quick", NULL,  "a tenth of the work, rougher numbers",                                          O_FLAG,  offsetof(struct options, quick)},
    {"seed",  "S",   "of the synthetic documents (default 0)",                                        O_WHOLE, offsetof(struct options, seed) },
    OPTIONS_MODELS,
    OPTIONS_RERANKER,
    OPTIONS_GENERATOR,
    OPTIONS_RUN,
    {"probe", "DIR", NULL,                                                                            O_TEXT,  offsetof(struct options, probe)},
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static enum cairn_err bench_run(struct bench *x, struct cairn_why *why)
{
    const struct options *o = x->o;
    const char *kb = o->kb ? o->kb : "data/kb";
    char *dir = cairn_path_join(x->tmp, "main"), *bare_dir = cairn_path_join(x->tmp, "lexical"),
         *questions = cairn_asprintf("%s/../questions.jsonl", kb);
    struct bench_service b = {0}, bare = {0};
    struct texts q = {0}, made = {0};
    json_t *ingest = json_object(), *search = json_object(), *large = json_object();
    struct options without = *o;
    without.embedder = without.reranker = without.generator = "none";
    enum cairn_err err = dir && bare_dir && questions ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "paths");
    if (!err && (!file_exists(kb) || !file_exists(questions)))
        err =
            cairn_fail(why, CAIRN_ENOTFOUND, "%s or %s: not there; --kb names the documents", kb, questions);
    if (!err)
        err = questions_read(&q, questions, why);
    if (!err)
        err = lab_open(&b, o, dir, true, why);
    if (!err)
        err = bench_models(x, &b, x->out, why);
    if (!err)
        err = bench_sync(x, &b, kb, ingest, why);
    if (!err)
        err = bench_search(x, &b, COLLECTION, &q, o->quick ? 10 : 40, search, why);
    if (!err && b.names[MODEL_GENERATOR])
        err = bench_ask(x, &b, &q, o->quick ? 2 : 8, x->out, why);
    if (!err)
        err = bench_put(x, &b, "synthetic", "synthetic", o->quick ? 64 : 512, ingest, why);
    if (!err)
        err = lab_open(&bare, &without, bare_dir, false, why);
    if (!err)
        err = bench_put(x, &bare, "synthetic", "synthetic_without_vectors", o->quick ? 1000 : 20000, ingest,
                        why);
    if (!err)
        err = synthetic_queries(&made, o->seed, why);
    if (!err)
        err = bench_search(x, &bare, "synthetic", &made, 0, large, why);
    json_object_set_new(x->out, "ingest", ingest);
    json_object_set_new(x->out, "search_knowledge_base", search);
    json_object_set_new(x->out, "search_synthetic_without_vectors", large);
    lab_close(&bare);
    if (!err) {
        struct bench_service closed = b;
        double here = rss_mb(getpid());
        b = (struct bench_service){0};
        lab_close(&closed); /* one process at a time has a store open for writing */
        bench_memory(x, dir, x->out);
        json_put(json_object_get(x->out, "memory"), "this_process_with_models_mb", here);
    }
    lab_close(&b);
    texts_free(&q);
    texts_free(&made);
    cairn_free(dir);
    cairn_free(bare_dir);
    cairn_free(questions);
    return err;
}

/* `cairn bench tokenizer VOCAB TEXT`: megabytes of TEXT per second of one core, in pieces of a passage's
 * size, the best of five rounds. */
static int bench_tokenizer(int argc, char **argv)
{
    enum { PASSAGE = 1000, ROUNDS = 5 };
    struct options o = {.command = "bench tokenizer"};
    struct cairn_why why = {{0}};
    if (argc != 3)
        return tell(&o, USAGE, "give a vocabulary (vocab.txt or a GGUF file) and a text file");
    struct tokenizer *t = NULL;
    struct model_file *f = NULL;
    char *text = NULL;
    size_t len = 0, tokens = 0, vocab_len = strlen(argv[1]);
    double best = INFINITY;
    enum cairn_err err = cairn_read_file(&text, &len, argv[2], 256u << 20, &why);
    if (!err && !len)
        err = cairn_fail(&why, CAIRN_EINVAL, "%s is empty; give a text of a few hundred kilobytes", argv[2]);
    if (!err && vocab_len > 4 && strcmp(argv[1] + vocab_len - 4, ".txt") == 0)
        err = tokenizer_from_wordpiece(&t, argv[1], true, &why);
    else if (!err && !(err = model_file_open(&f, argv[1], &why)))
        err = tokenizer_from_gguf(&t, f, &why);
    for (int round = 0; round < ROUNDS && !err; round++) {
        clock_t from = clock();
        tokens = 0;
        for (size_t at = 0, take; at < len && !err; at += take) {
            int32_t *ids = NULL;
            size_t n = 0;
            take = len - at <= PASSAGE ? len - at : cairn_utf8_floor(text + at, PASSAGE);
            take += take == 0;
            err = tokenizer_encode(t, (struct cairn_str){text + at, take}, TOKENIZE_PLAIN, &ids, &n, &why);
            cairn_free(ids);
            tokens += n;
        }
        double s = (double)(clock() - from) / CLOCKS_PER_SEC;
        best = s < best ? s : best;
    }
    int code = err ? tell_err(&o, err, &why)
                   : print_json(&o, json_pack("{s:s, s:f, s:I, s:I}", "tokenizer", tokenizer_kind(t),
                                              "mb_per_s", (double)len / best / 1e6, "bytes", (json_int_t)len,
                                              "tokens", (json_int_t)tokens));
    tokenizer_close(t);
    model_file_close(f);
    cairn_free(text);
    return code;
}

int bench_main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "tokenizer") == 0)
        return bench_tokenizer(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "index") == 0)
        return bench_index(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "answers") == 0)
        return bench_answers(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "model") == 0)
        return bench_model(argc - 1, argv + 1);
    struct options o = {.command = "bench", .rerank_weight = -1};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("bench [options]",
                      "Measures this machine: ingest, embedding, search, answers, memory. Nothing else "
                      "should run beside it. `cairn bench index --help`: the vector index, `cairn bench "
                      "model --help`: the models, beside other libraries; `cairn bench answers --help`: "
                      "first tokens, kept prompts, drafts; `cairn bench tokenizer VOCAB TEXT`: one "
                      "tokenizer, MB/s.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (o.probe)
        return bench_probe(&o);
    const char *tmp = getenv("TMPDIR");
    struct bench x = {.o = &o, .out = json_object()};
    x.tmp = cairn_asprintf("%s/cairn-bench-XXXXXX", o.data ? o.data : tmp && *tmp ? tmp : "/tmp");
    if (!x.tmp)
        return tell(&o, FAILED, "out of memory");
    if (!mkdtemp(x.tmp)) {
        code = tell(&o, FAILED, "%s: %s", x.tmp, strerror(errno));
        cairn_free(x.tmp);
        json_decref(x.out);
        return code;
    }
    run_watch();
    json_put(x.out, "cores", (double)sysconf(_SC_NPROCESSORS_ONLN));
    json_put(x.out, "threads", o.threads ? (double)o.threads : (double)sysconf(_SC_NPROCESSORS_ONLN));
    enum cairn_err err = bench_run(&x, &why);
    if (err) {
        code = tell_err(&o, err, &why);
    } else if (o.json) {
        code = print_json(&o, x.out);
    } else {
        print_tree(x.out, 0);
        code = finish_output(&o);
    }
    remove_tree(x.tmp);
    cairn_free(x.tmp);
    json_decref(x.out);
    return code;
}
