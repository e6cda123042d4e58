/* crash_store.c - `crash_store [CYCLES [SEED]]`: a child process puts, replaces and deletes documents and
 * tells each commit after it was acknowledged, while another thread of it merges vectors into segments
 * without a pause; the parent kills it with SIGKILL at a random moment, or at a named place, opens the store
 * again and asks: is everything acknowledged there, is what was not acknowledged there whole or not at all,
 * is the store sound?
 *
 * Every batch is numbered. Batch n writes three documents that all say n, and a record "last" = n, and now
 * and then deletes a document; so the state after n batches follows from n alone, and one number read back
 * tells which state this is. */
#include "test_index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define SLOTS 12

/* Which batch wrote slot i last, after n batches; 0: absent. Batch k writes slots k, k+1, k+2 and deletes
 * slot k+7 (mod). */
static uint32_t slot_after(uint32_t n, uint32_t slot)
{
    for (uint32_t k = n; k > 0; k--) {
        if ((k + 7) % SLOTS == slot)
            return 0;
        if (k % SLOTS == slot || (k + 1) % SLOTS == slot || (k + 2) % SLOTS == slot)
            return k;
    }
    return 0;
}

static void slot_text(uint32_t batch, uint32_t slot, char *text, size_t cap)
{
    size_t at = (size_t)snprintf(text, cap, "batch%u slot%u", batch, slot);
    for (uint32_t i = 0; i < 9 + batch % 9; i++)
        at += (size_t)snprintf(text + at, cap - at, "\npassage %u of batch%u with some words more", i, batch);
}

static enum cairn_err run_batch(struct store *s, uint32_t n, struct cairn_why *why)
{
    struct store_batch *b;
    static const char *const groups[] = {"group:a", NULL};
    enum cairn_err err = store_batch_begin(&b, s, why);
    if (err)
        return err;
    for (uint32_t i = 0; i < 3 && !err; i++) {
        char id[24], text[4096];
        uint32_t slot = (n + i) % SLOTS;
        snprintf(id, sizeof(id), "slot%02u", slot);
        slot_text(n, slot, text, sizeof(text));
        err = put_text(b, "c", id, text, slot % 2 ? groups : NULL, true, why);
    }
    char id[24], last[24];
    snprintf(id, sizeof(id), "slot%02u", (n + 7) % SLOTS);
    if (!err) {
        err = store_delete(b, "c", STR(id), why);
        err = err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
    }
    snprintf(last, sizeof(last), "%u", n);
    if (!err)
        err = store_record_put(b, "job", STR("last"), last, strlen(last), why);
    if (err) {
        store_batch_abort(b);
        return err;
    }
    return store_batch_commit(b, NULL, why);
}

static uint32_t number(struct cairn_str s) /* stored bytes have no end mark */
{
    uint32_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n = n * 10 + (uint32_t)(s.p[i] - '0');
    return n;
}

/* Segments as fast as they can be made: small ones, and all in one by turns. */
static void *merger(void *arg)
{
    struct store *s = arg;
    struct cairn_why why = {{0}};
    uint32_t n;
    for (unsigned turn = 0;; turn++) {
        struct store_merge_opts o = {.full = turn % 3 == 2};
        enum cairn_err err = store_merge(s, NULL, &o, NULL, NULL, NULL, &n, &why);
        if (err) {
            fprintf(stderr, "merger: %s: %s\n", cairn_err_name(err), why.text);
            _exit(23);
        }
        usleep(500);
    }
    return NULL;
}

/* Opens (creating when absent), then batches for ever; each acknowledged number goes to the pipe. */
static int child(const char *dir, int out, const char *failpoints, bool backup)
{
    struct cairn_why why = {{0}};
    struct store *s;
    uint32_t n = 0;
    struct cairn_config *config = cairn_config_new();
    if (cairn_failpoint_set(failpoints, &why) ||
        cairn_config_add_table(config, index_conf, index_conf_len, &why) ||
        cairn_config_set(config, "index.merge_rows_min", "16", &why))
        return 20;
    enum cairn_err err =
        store_open(&s, &(struct store_opts){.dir = dir, .create = true, .config = config}, &why);
    if (err)
        goto failed;
    struct store_view *v;
    struct cairn_str got;
    struct collection_info info;
    err = store_view_begin(&v, s, &why);
    if (err)
        goto failed;
    if (!store_record_get(v, "job", STR("last"), &got, &why))
        n = number(got);
    bool has = store_collection_get(v, "c", &info, &why) == CAIRN_OK;
    store_view_end(v);
    if (!has) {
        struct store_batch *b;
        struct collection_opts o = {.name = "c", .dim = DIM, .is_public = true};
        err = store_batch_begin(&b, s, &why);
        if (!err && (err = store_collection_create(b, &o, &why)))
            store_batch_abort(b);
        else if (!err)
            err = store_batch_commit(b, NULL, &why);
    }
    pthread_t thread;
    if (!err && pthread_create(&thread, NULL, merger, s) != 0)
        return 24;
    for (; !err; n++) {
        err = run_batch(s, n + 1, &why);
        uint32_t told = n + 1;
        if (!err && write(out, &told, sizeof(told)) != sizeof(told))
            return 21;
        if (!err && backup && n % 4 == 3) {
            char dest[4096];
            snprintf(dest, sizeof(dest), "%s/copy-%u", dir, n);
            err = store_backup(s, dest, NULL, NULL, &why);
        }
    }
failed:
    fprintf(stderr, "child: %s: %s\n", cairn_err_name(err), why.text);
    return 22;
}

static unsigned with_segments; /* kills after which the store had segments */

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

static bool slot_is_whole(struct store_view *v, uint32_t state, uint32_t slot)
{
    struct cairn_why why = {{0}};
    char id[24], text[4096], word[24];
    struct document_info d;
    struct cairn_str got;
    uint32_t batch = slot_after(state, slot);
    snprintf(id, sizeof(id), "slot%02u", slot);
    snprintf(word, sizeof(word), "slot%u", slot);
    enum cairn_err err = store_document_get(v, "c", STR(id), &caller_all, &d, &got, &why);
    const char *found = search_ids(v, "c", word, &caller_all);
    if (batch == 0) {
        MUST(err == CAIRN_ENOTFOUND);
        MUST(found[0] == '\0');
        return true;
    }
    MUST(err == CAIRN_OK);
    slot_text(batch, slot, text, sizeof(text));
    MUST(got.len == strlen(text) && memcmp(got.p, text, got.len) == 0);
    MUST(strcmp(found, id) == 0);
    for (size_t at = 0; at < got.len;) {
        size_t end = at + strcspn(text + at, "\n");
        struct cairn_hash h = cairn_hash_bytes(text + at, end - at);
        float want[DIM], have[DIM];
        text_vector(text + at, end - at, DIM, want);
        MUST(store_vector_by_hash(v, "c", STR(id), &h, have, &why) == CAIRN_OK);
        MUST(memcmp(want, have, sizeof(want)) == 0);
        struct store_filter *f;
        struct store_hit hit;
        size_t n;
        MUST(store_filter_open(&f, v, "c", &caller_all, &why) == CAIRN_OK);
        MUST(store_search_vector(v, "c", want, DIM, f, 1, NULL, &hit, &n, NULL, NULL, &why) == CAIRN_OK);
        store_filter_close(f);
        MUST(n == 1 && hit.score > 0.99999f);
        at = end + 1;
    }
    return true;
}

/* acked: the last number the child told; 0: none. *state: what the store says. */
static bool verify(const char *dir, uint32_t acked, uint32_t *state)
{
    struct cairn_why why = {{0}};
    struct store *s;
    struct store_view *v;
    struct collection_info info;
    struct vector_info vectors;
    struct cairn_str got;
    *state = 0;
    enum cairn_err err = store_open(&s, &(struct store_opts){.dir = dir}, &why);
    if (err == CAIRN_ENOTFOUND) { /* killed before there was a store */
        MUST(acked == 0);
        return true;
    }
    MUST(err == CAIRN_OK);
    MUST(store_check(dir, finding, NULL, &why) == CAIRN_OK);
    MUST(store_view_begin(&v, s, &why) == CAIRN_OK);
    if (!store_record_get(v, "job", STR("last"), &got, &why))
        *state = number(got);
    if (*state != acked && *state != acked + 1)
        fprintf(stderr, "acknowledged %u, found %u\n", acked, *state);
    MUST(*state == acked || *state == acked + 1); /* at most the batch in flight, and that whole */
    bool ok = true;
    if (store_collection_get(v, "c", &info, &why) == CAIRN_OK) {
        MUST(store_vector_info(v, "c", &vectors, &why) == CAIRN_OK);
        with_segments += vectors.n_segments > 0;
        for (uint32_t slot = 0; slot < SLOTS && ok; slot++)
            ok = slot_is_whole(v, *state, slot);
    } else {
        MUST(*state == 0);
    }
    store_view_end(v);
    store_close(s);
    return ok;
}

/* One cycle; *acked goes in as the state before and comes out as the state after. */
static bool cycle(const char *dir, const char *failpoints, bool backup, unsigned delay_us, uint32_t *acked,
                  bool *killed)
{
    int fds[2];
    if (pipe(fds) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fds[0]);
        _exit(child(dir, fds[1], failpoints, backup));
    }
    (void)close(fds[1]);
    if (delay_us) {
        usleep(delay_us);
        (void)kill(pid, SIGKILL);
    }
    uint32_t told;
    ssize_t got;
    while ((got = read(fds[0], &told, sizeof(told))) == sizeof(told) || (got < 0 && errno == EINTR))
        if (got == sizeof(told))
            *acked = told;
    (void)close(fds[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!*killed)
        fprintf(stderr, "the child ended by itself: status %d, failpoints %s\n", status, failpoints);
    return *killed && verify(dir, *acked, acked);
}

int main(int argc, char **argv)
{
    unsigned cycles = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 25;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : 4711;
    uint32_t acked = 0, at_places = 0;
    bool killed;
    char *dir = test_tmpdir();
    printf("crash_store: %u cycles, seed %llu\n", cycles, (unsigned long long)seed);
    static const char *const places[] = {
        "index.create.before_rename=kill", "index.create.after_rename=kill",
        "index.commit.before=kill@2",      "index.commit.after=kill@1",
        "index.commit.after=kill@3",       "index.apply.middle=kill@2",
        "index.backup.copy=kill",          "index.backup.before_rename=kill",
        "index.merge.chunk=kill@1",        "index.merge.chunk=kill@4",
        "index.merge.chunk=kill@11",       "index.merge.before_flip=kill@1",
        "index.merge.before_flip=kill@3",  "index.merge.after_flip=kill@1",
        "index.merge.after_flip=kill@2",   "index.merge.cleanup=kill@1",
        "index.merge.cleanup=kill@5",      "index.check.child=kill@9999,index.commit.before=kill@9",
    };
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++, at_places++)
        if (!cycle(dir, places[i], strstr(places[i], "backup") != NULL, 0, &acked, &killed)) {
            printf("FAILED at %s, seed %llu, kept in %s\n", places[i], (unsigned long long)seed, dir);
            return 1;
        }
    uint32_t before = acked;
    for (unsigned i = 0; i < cycles; i++) {
        unsigned delay = 2000 + (unsigned)(test_rand(&seed) % 250000);
        if (!cycle(dir, "", false, delay, &acked, &killed)) {
            printf("FAILED in cycle %u, seed %llu, kept in %s\n", i, (unsigned long long)seed, dir);
            return 1;
        }
    }
    printf("crash_store: %u named places, %u random kills, %u batches acknowledged, 0 lost, 0 partly there, "
           "every check clean; %u of the stores had segments\n",
           at_places, cycles, acked, with_segments);
    bool worked = (acked > before && with_segments > cycles / 2) || cycles == 0;
    test_rmdir(dir);
    return worked ? 0 : 1;
}
