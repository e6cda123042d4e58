/* crash_merge.c - `crash_merge [CYCLES [SEED]]`: a child process puts, replaces and deletes documents with
 * vectors and merges in between or in a second thread; the parent kills it with SIGKILL at a random moment,
 * or at a named place of the merge, opens the store again and compares every document, passage and vector
 * with a model, exact search with plain loops, and asks the check and approximate search.
 *
 * Batch n follows from n alone and writes a record "last" = n, so one number read back tells which state this
 * is; the child tells each number after its commit was acknowledged. Merges change nothing that the model
 * knows. */
#include "test_index_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define SLOTS 500u
#define PASSAGES_MAX 3u
#define OPS 24u /* of one batch */
#define SAMPLE 20u

struct model {
    uint32_t n;              /* batches applied */
    uint32_t version[SLOTS]; /* the batch that wrote it; 0: absent */
};

/* The i-th operation of batch n: which slot, and whether it deletes. */
static uint32_t operation(uint32_t n, uint32_t i, bool *deletes)
{
    uint64_t r = ((uint64_t)n << 20 | i << 4) + 0x9E3779B97F4A7C15ULL;
    (void)test_rand(&r);
    uint64_t draw = test_rand(&r);
    *deletes = (draw >> 40) % 100 < (n % 16 == 0 ? 90 : 25); /* now and then a batch that empties */
    return (uint32_t)(draw % SLOTS);
}

static void model_apply(struct model *m, uint32_t upto)
{
    while (m->n < upto) {
        m->n++;
        for (uint32_t i = 0; i < OPS; i++) {
            bool deletes;
            uint32_t slot = operation(m->n, i, &deletes);
            m->version[slot] = deletes ? 0 : m->n;
        }
    }
}

static uint32_t slot_passages(uint32_t version, uint32_t slot) { return 1 + (version + slot) % PASSAGES_MAX; }

static void passage_text(uint32_t version, uint32_t slot, uint32_t ordinal, char *text, size_t cap)
{
    if ((slot + ordinal) % 11 == 0) /* kept from version to version, and the same in many documents */
        (void)snprintf(text, cap, "common passage %u", slot % 7);
    else
        (void)snprintf(text, cap, "slot%u version%u passage%u", slot, version, ordinal);
}

static void slot_text(uint32_t version, uint32_t slot, char *text, size_t cap)
{
    size_t at = 0;
    for (uint32_t i = 0; i < slot_passages(version, slot); i++) {
        char passage[100];
        passage_text(version, slot, i, passage, sizeof(passage));
        at += (size_t)snprintf(text + at, cap - at, "%s%s", i ? "\n" : "", passage);
    }
}

static struct cairn_config *config(void)
{
    struct cairn_why why = {{0}};
    struct cairn_config *c = cairn_config_new();
    if (cairn_config_add_table(c, index_conf, index_conf_len, &why) ||
        cairn_config_set(c, "index.map_bytes", "64m", &why) ||
        cairn_config_set(c, "index.merge_rows_min", "64", &why) ||
        cairn_config_set(c, "index.segment_rows_max", "1024", &why)) {
        fprintf(stderr, "config: %s\n", why.text);
        exit(2);
    }
    return c;
}

/* ---- the child ---- */

static enum cairn_err run_batch(struct store *s, uint32_t n, struct cairn_why *why)
{
    static const char *const groups[] = {"group:a", NULL};
    struct store_batch *b;
    char last[24];
    enum cairn_err err = store_batch_begin(&b, s, why);
    if (err)
        return err;
    for (uint32_t i = 0; i < OPS && !err; i++) {
        char id[24], text[512];
        bool deletes;
        uint32_t slot = operation(n, i, &deletes);
        (void)snprintf(id, sizeof(id), "slot%03u", slot);
        slot_text(n, slot, text, sizeof(text));
        if (deletes) {
            err = store_delete(b, "c", STR(id), why);
            err = err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
        } else {
            err = put_text(b, "c", id, text, slot % 2 ? groups : NULL, true, why);
        }
    }
    (void)snprintf(last, sizeof(last), "%u", n);
    if (!err)
        err = store_record_put(b, "job", STR("last"), last, strlen(last), why);
    if (err) {
        store_batch_abort(b);
        return err;
    }
    return store_batch_commit(b, NULL, why);
}

static enum cairn_err merge_once(struct store *s, unsigned turn, struct cairn_why *why)
{
    uint32_t n;
    struct store_merge_opts o = {.full = turn % 5 == 4, .threads = 1 + turn % 2};
    return store_merge(s, turn % 3 ? "c" : NULL, &o, NULL, NULL, NULL, &n, why);
}

static void *merger(void *arg)
{
    struct cairn_why why = {{0}};
    for (unsigned turn = 0;; turn++) {
        enum cairn_err err = merge_once(arg, turn, &why);
        if (err) {
            fprintf(stderr, "child: merge: %s: %s\n", cairn_err_name(err), why.text);
            _exit(23);
        }
        usleep(500);
    }
    return NULL;
}

static int child(const char *dir, int out, const char *failpoints, uint32_t n, bool thread, unsigned turn)
{
    struct cairn_why why = {{0}};
    struct store *s;
    struct store_view *v;
    struct collection_info info;
    enum cairn_err err =
        store_open(&s, &(struct store_opts){.dir = dir, .create = true, .config = config()}, &why);
    if (!err)
        err = store_view_begin(&v, s, &why);
    if (!err) {
        bool has = store_collection_get(v, "c", &info, &why) == CAIRN_OK;
        store_view_end(v);
        if (!has) {
            struct store_batch *b;
            struct collection_opts o = {.name = "c", .dim = DIM, .metric = METRIC_L2, .is_public = true};
            err = store_batch_begin(&b, s, &why);
            if (!err && (err = store_collection_create(b, &o, &why)))
                store_batch_abort(b);
            else if (!err)
                err = store_batch_commit(b, NULL, &why);
        }
    }
    if (!err)
        err = cairn_failpoint_set(failpoints, &why);
    pthread_t id;
    if (!err && thread && pthread_create(&id, NULL, merger, s) != 0)
        return 24;
    for (; !err; n++) {
        err = run_batch(s, n + 1, &why);
        uint32_t told = n + 1;
        if (!err && write(out, &told, sizeof(told)) != sizeof(told))
            return 21;
        if (!err && !thread && n % 3 == 0)
            err = merge_once(s, turn++, &why);
    }
    fprintf(stderr, "child: %s: %s\n", cairn_err_name(err), why.text);
    return 22;
}

/* ---- the verdict ---- */

static void finding(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "finding: %s\n", line);
}

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #cond, why.text);              \
            return false;                                                                                    \
        }                                                                                                    \
    } while (0)

struct totals {
    uint64_t kills, states, sampled, missed, segments, dead;
};

static float distance(const float *a, const float *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < DIM; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return (float)sqrt(sum);
}

/* Every passage of the model is there once, with its text and its vector bit for bit, and nothing else;
 * exact search gives all of them in the order that plain loops give. */
static bool content_is(struct store_view *v, const struct model *m, const struct store_filter *f,
                       struct totals *t)
{
    static struct store_hit hits[SLOTS * PASSAGES_MAX + 8];
    static bool seen[SLOTS][PASSAGES_MAX];
    struct cairn_why why = {{0}};
    struct document_info d;
    struct cairn_str got;
    char id[24], text[512];
    float query[DIM], have[DIM], want[DIM];
    size_t n_want = 0, n;
    uint64_t n_documents = 0;
    struct collection_info info;
    memset(seen, 0, sizeof(seen));
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        (void)snprintf(id, sizeof(id), "slot%03u", slot);
        enum cairn_err err = store_document_get(v, "c", STR(id), &caller_all, &d, &got, &why);
        if (!m->version[slot]) {
            MUST(err == CAIRN_ENOTFOUND);
            continue;
        }
        MUST(err == CAIRN_OK);
        slot_text(m->version[slot], slot, text, sizeof(text));
        MUST(got.len == strlen(text) && memcmp(got.p, text, got.len) == 0);
        n_want += slot_passages(m->version[slot], slot);
        n_documents++;
    }
    MUST(store_collection_get(v, "c", &info, &why) == CAIRN_OK);
    MUST(info.n_documents == n_documents && info.n_passages == n_want);
    text_vector("query", 5, DIM, query);
    MUST(store_search_vector(v, "c", query, DIM, f, sizeof(hits) / sizeof(hits[0]),
                             &(struct vector_how){.exact = true}, hits, &n, NULL, NULL, &why) == CAIRN_OK);
    MUST(n == n_want);
    for (size_t i = 0; i < n; i++) {
        struct passage_info p;
        MUST(store_passage_get(v, "c", hits[i].passage_id, &p, &why) == CAIRN_OK);
        MUST(store_passage_vector(v, "c", hits[i].passage_id, have, &why) == CAIRN_OK);
        MUST(p.document_id.len == 7);
        uint32_t slot = (uint32_t)(p.document_id.p[4] - '0') * 100 +
                        (uint32_t)(p.document_id.p[5] - '0') * 10 + (uint32_t)(p.document_id.p[6] - '0');
        MUST(slot < SLOTS && p.ordinal < PASSAGES_MAX && !seen[slot][p.ordinal]);
        seen[slot][p.ordinal] = true;
        passage_text(m->version[slot], slot, p.ordinal, text, sizeof(text));
        MUST(p.text.len == strlen(text) && memcmp(p.text.p, text, p.text.len) == 0);
        text_vector(text, strlen(text), DIM, want);
        MUST(memcmp(want, have, sizeof(want)) == 0);
        MUST(fabsf(-hits[i].score - distance(query, want)) < 1e-4f);
        MUST(i == 0 || hits[i - 1].score > hits[i].score ||
             (hits[i - 1].score == hits[i].score && hits[i - 1].passage_id < hits[i].passage_id));
    }
    size_t misses = 0, sampled = n < SAMPLE ? n : SAMPLE;
    for (size_t i = 0; i < sampled; i++) {
        struct store_hit top[5];
        size_t n_top, at = (i * 7919 + m->n) % n;
        MUST(store_passage_vector(v, "c", hits[at].passage_id, have, &why) == CAIRN_OK);
        MUST(store_search_vector(v, "c", have, DIM, f, 5,
                                 &(struct vector_how){.kind = VECTOR_HNSW, .ef = 400}, top, &n_top, NULL,
                                 NULL, &why) == CAIRN_OK);
        misses += n_top == 0 || top[0].score < -1e-3f;
    }
    t->sampled += sampled;
    t->missed += misses;
    MUST(misses <= 1); /* approximate by design; with so wide a search one in a sample is much */
    return true;
}

/* m: the model of what was acknowledged; comes out as what the store holds. */
static bool verify(const char *dir, uint32_t acked, struct model *m, struct totals *t)
{
    struct cairn_why why = {{0}};
    struct cairn_config *c = config();
    struct store *s;
    struct store_view *v;
    struct store_filter *f;
    struct collection_info info;
    struct vector_info facts;
    struct cairn_str got;
    uint32_t state = 0;
    enum cairn_err err = store_open(&s, &(struct store_opts){.dir = dir, .config = c}, &why);
    if (err == CAIRN_ENOTFOUND) { /* killed before there was a store */
        cairn_config_free(c);
        MUST(acked == 0);
        return true;
    }
    MUST(err == CAIRN_OK);
    MUST(store_check(dir, finding, NULL, &why) == CAIRN_OK);
    MUST(store_view_begin(&v, s, &why) == CAIRN_OK);
    if (!store_record_get(v, "job", STR("last"), &got, &why))
        for (size_t i = 0; i < got.len; i++)
            state = state * 10 + (uint32_t)(got.p[i] - '0');
    if (state != acked && state != acked + 1)
        fprintf(stderr, "acknowledged %u, found %u\n", acked, state);
    MUST(state == acked || state == acked + 1); /* at most the batch in flight, and that whole */
    model_apply(m, state);
    bool ok = true;
    if (store_collection_get(v, "c", &info, &why) == CAIRN_OK) {
        MUST(store_filter_open(&f, v, "c", &caller_all, &why) == CAIRN_OK);
        ok = content_is(v, m, f, t);
        store_filter_close(f);
        MUST(store_vector_info(v, "c", &facts, &why) == CAIRN_OK);
        t->segments += facts.n_segments;
        t->dead += facts.n_dead;
        t->states++;
    } else {
        MUST(state == 0);
    }
    store_view_end(v);
    store_close(s);
    cairn_config_free(c);
    return ok;
}

static bool cycle(const char *dir, const char *failpoints, unsigned delay_us, unsigned turn, struct model *m,
                  struct totals *t)
{
    int fds[2];
    uint32_t told, acked = m->n;
    ssize_t got;
    int status = 0;
    if (pipe(fds) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fds[0]);
        _exit(child(dir, fds[1], failpoints, m->n, turn % 2, turn));
    }
    (void)close(fds[1]);
    if (delay_us) {
        usleep(delay_us);
        (void)kill(pid, SIGKILL);
    }
    while ((got = read(fds[0], &told, sizeof(told))) == sizeof(told) || (got < 0 && errno == EINTR))
        if (got == sizeof(told))
            acked = told;
    (void)close(fds[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "the child ended by itself: status %d, failpoints %s\n", status, failpoints);
        return false;
    }
    t->kills++;
    return verify(dir, acked, m, t);
}

int main(int argc, char **argv)
{
    unsigned cycles = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 25;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : 4711;
    unsigned long long given = seed;
    static struct model m;
    struct totals t = {0};
    char *dir = test_tmpdir();
    static const char *const places[] = {
        "index.merge.chunk=kill@1",       "index.merge.chunk=kill@4",      "index.merge.before_flip=kill@1",
        "index.merge.before_flip=kill@2", "index.merge.after_flip=kill@1", "index.merge.after_flip=kill@2",
        "index.merge.cleanup=kill@2",     "index.merge.cleanup=kill@5",    "index.commit.before=kill@7",
    };
    printf("crash_merge: %u cycles, seed %llu\n", cycles, given);
    (void)fflush(stdout);
    for (unsigned i = 0; i < 2 * sizeof(places) / sizeof(places[0]); i++)
        if (!cycle(dir, places[i / 2], 0, i, &m, &t)) { /* in between, and from a second thread */
            printf("FAILED at %s, seed %llu, kept in %s\n", places[i / 2], given, dir);
            return 1;
        }
    uint32_t before = m.n;
    for (unsigned i = 0; i < cycles; i++) {
        unsigned delay = 5000 + (unsigned)(test_rand(&seed) % 350000);
        if (!cycle(dir, "", delay, (unsigned)(test_rand(&seed) % 1000), &m, &t)) {
            printf("FAILED in cycle %u, seed %llu, kept in %s\n", i, given, dir);
            return 1;
        }
    }
    printf(
        "crash_merge: %llu kills, %u batches, content equal every time, every check clean; %.1f segments and "
        "%.0f dead rows on average, %llu of %llu sampled vectors not found by the graph\n",
        (unsigned long long)t.kills, m.n, (double)t.segments / (double)t.states,
        (double)t.dead / (double)t.states, (unsigned long long)t.missed, (unsigned long long)t.sampled);
    bool worked = (m.n > before || cycles == 0) && t.segments > 0 && t.missed * 100 <= t.sampled;
    test_rmdir(dir);
    return worked ? 0 : 1;
}
