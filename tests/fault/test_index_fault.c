/* What the store does when something fails: memory, the map, the disk, media, and inconsistencies planted by
 * hand. */
#include "store.h"
#include "test_index_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void fill(struct fixture *f)
{
    static const char *const hr[] = {"group:hr", NULL};
    make_collection(f, "c", DIM, true);
    for (int i = 0; i < 12; i++) {
        char id[24], text[200];
        snprintf(id, sizeof(id), "d%d", i);
        snprintf(text, sizeof(text), "alpha beta%d gamma\ndelta%d epsilon alpha\nzeta eta%d", i % 3, i, i);
        put_one(f, "c", id, text, i % 2 ? hr : NULL, true);
    }
}

/* ---- memory ---- */

/* put, commit, search, read: everything that allocates, in one go. */
static enum cairn_err whole_story(struct fixture *f, int round, bool *committed, struct cairn_why *why)
{
    struct store_batch *b = NULL;
    struct store_view *v = NULL;
    struct store_filter *filter = NULL;
    struct store_hit hits[8];
    struct document_info *list = NULL, d;
    struct collection_info *colls = NULL;
    struct cairn_str text;
    struct cairn_hash digest;
    size_t n;
    float q[DIM];
    char body[64];
    *committed = false;
    snprintf(body, sizeof(body), "alpha round%d\nbeta kappa", round);
    text_vector("x", 1, DIM, q);
    enum cairn_err err = store_batch_begin(&b, f->s, why);
    if (err)
        return err;
    err = put_text(b, "c", "new", body, NULL, true, why);
    if (!err)
        err = put_text(b, "c", "d1", body, NULL, true, why);
    if (!err)
        err = store_delete(b, "c", STR("d2"), why) == CAIRN_ENOMEM ? CAIRN_ENOMEM : CAIRN_OK;
    if (!err)
        err = store_record_put(b, "job", STR("k"), body, strlen(body), why);
    if (err) {
        store_batch_abort(b);
        return err;
    }
    err = store_batch_commit(b, NULL, why);
    *committed = !err;
    if (!err)
        err = store_view_begin(&v, f->s, why);
    if (!err)
        err = store_filter_open(&filter, v, "c", &caller_all, why);
    if (!err)
        err = store_search_lexical(v, "c", STR("alpha kappa"), filter, 8, hits, &n, NULL, why);
    if (!err)
        err = store_search_vector(v, "c", q, DIM, filter, 8, NULL, hits, &n, NULL, NULL, why);
    if (!err)
        err = store_search_vector(v, "c", q, DIM, filter, 8, &(struct vector_how){.exact = true}, hits, &n,
                                  NULL, NULL, why);
    if (!err)
        err = store_document_list(v, "c", &caller_all, STR(""), 100, &list, &n, why);
    if (!err)
        err = store_document_get(v, "c", STR("d3"), &caller_all, &d, &text, why);
    if (!err)
        err = store_collection_list(v, &colls, &n, why);
    if (!err)
        err = store_digest(v, &digest, why);
    cairn_free(list);
    cairn_free(colls);
    store_filter_close(filter);
    store_view_end(v);
    return err;
}

static void no_allocation_that_fails_does_harm(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    for (int once = 0; once < 2; once++) {
        struct fixture f = fixture_new();
        fixture_open(&f);
        fill(&f);
        unsigned failed = 0;
        for (uint64_t nth = 1; nth < 5000; nth++) {
            struct cairn_hash before = digest_of(&f);
            bool committed;
            why.text[0] = '\0';
            cairn_alloc_fail_after(nth, once);
            enum cairn_err err = whole_story(&f, (int)nth, &committed, &why);
            cairn_alloc_fail_after(0, false);
            if (!err)
                break;
            if (err != CAIRN_ENOMEM || !why.text[0])
                print_error("allocation %llu: %s %s\n", (unsigned long long)nth, cairn_err_name(err),
                            why.text);
            CHECK_I64_EQ(err, CAIRN_ENOMEM);
            CHECK(why.text[0]);
            failed++;
            struct cairn_hash after = digest_of(&f);
            CHECK(committed ||
                  memcmp(before.b, after.b, 32) == 0); /* a batch that failed left nothing behind */
            if (nth % 25 == 0)
                fixture_check_clean(&f);
        }
        print_message("allocations failed one by one: %u\n", failed);
        CHECK_GE(failed, 40);
        CHECK(failed < 4990);
        fixture_check_clean(&f);
        fixture_release(&f);
    }
}

static void opening_survives_failed_allocations(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    unsigned failed = 0;
    for (uint64_t nth = 1; nth < 200; nth++) {
        struct store_opts o = {.dir = f.dir, .create = true, .config = f.config};
        cairn_alloc_fail_after(nth, false);
        enum cairn_err err = store_open(&f.s, &o, &why);
        cairn_alloc_fail_after(0, false);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
        CHECK(!f.s);
        failed++;
    }
    CHECK_GE(failed, 3);
    CHECK(f.s);
    fill(&f);
    fixture_check_clean(&f);
    fixture_release(&f);
}

/* ---- the map ---- */

static void the_map_grows_while_documents_come(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    struct store_stats st;
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes", "1m", &why));
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes_max", "64m", &why));
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    struct store_view *held;
    CHECK_OK(store_view_begin(&held, f.s, &why)); /* held for one batch only: growing waits for it */
    store_view_end(held);
    for (int i = 0; i < 60; i++) {
        char id[24], text[6000];
        size_t at = 0;
        uint64_t seed = (uint64_t)i * 77 + 1;
        snprintf(id, sizeof(id), "d%d", i);
        while (at < sizeof(text) - 40)
            at += (size_t)snprintf(text + at, sizeof(text) - at, "w%llux%c",
                                   (unsigned long long)(test_rand(&seed) % 5000),
                                   test_rand(&seed) % 9 ? ' ' : '\n');
        put_one(&f, "c", id, text, NULL, true);
    }
    CHECK_OK(store_stats_get(f.s, &st, &why));
    CHECK_GE(st.map_bytes, 2 << 20);
    CHECK_U64_EQ(st.n_documents, 60);
    fixture_check_clean(&f);
    fixture_close(&f);
    fixture_open(&f); /* with the small map of the configuration: LMDB takes what the file needs */
    CHECK_OK(store_stats_get(f.s, &st, &why));
    CHECK_U64_EQ(st.n_documents, 60);
    put_one(&f, "c", "more", "words", NULL, true);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void growing_waits_for_views_but_not_for_ever(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes", "1m", &why));
    CHECK_OK(cairn_config_set(f.config, "index.growth_wait_ms_max", "50", &why));
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    struct store_view *held;
    CHECK_OK(store_view_begin(&held, f.s, &why));
    char *big = cairn_malloc(2 << 20);
    memset(big, 'x', 2 << 20);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_put(b, "job", STR("big"), big, 2 << 20, &why));
    uint64_t g;
    CHECK_ERR(store_batch_commit(b, &g, &why), CAIRN_EBUSY);
    CHECK_STR_EQ(search_ids(held, "c", "x", &caller_all), ""); /* the view still works */
    store_view_end(held);
    CHECK_OK(cairn_failpoint_set("index.grow=error", &why));
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_put(b, "job", STR("big"), big, 2 << 20, &why));
    CHECK_ERR(store_batch_commit(b, &g, &why), CAIRN_ENOMEM);
    CHECK_OK(cairn_failpoint_set(NULL, &why));
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_put(b, "job", STR("big"), big, 2 << 20, &why));
    CHECK_OK(store_batch_commit(b, &g, &why));
    cairn_free(big);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void a_full_map_refuses_puts_keeps_all_and_still_deletes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes", "1m", &why));
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes_max", "2m", &why));
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    int n = 0;
    enum cairn_err err = CAIRN_OK;
    for (; !err && n < 2000; n++) {
        struct store_batch *b;
        char id[24], text[2000];
        size_t at = 0;
        uint64_t seed = (uint64_t)n * 91 + 1;
        snprintf(id, sizeof(id), "d%04d", n);
        while (at < sizeof(text) - 40)
            at += (size_t)snprintf(text + at, sizeof(text) - at, "w%llux%c",
                                   (unsigned long long)(test_rand(&seed) % 900),
                                   test_rand(&seed) % 9 ? ' ' : '\n');
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        CHECK_OK(put_text(b, "c", id, text, NULL, true, &why));
        err = store_batch_commit(b, NULL, &why);
    }
    n--;
    CHECK_I64_EQ(err, CAIRN_EFULL);
    CHECK(strstr(why.text, "index.map_bytes_max"));
    CHECK_GE(n, 10);
    struct store_stats st;
    CHECK_OK(store_stats_get(f.s, &st, &why));
    CHECK_U64_EQ(st.n_documents, n);
    fixture_check_clean(&f);
    for (int i = 0; i < n; i++) { /* every one of them can be deleted, one commit each */
        char id[24];
        snprintf(id, sizeof(id), "d%04d", i);
        delete_one(&f, "c", id);
    }
    CHECK_OK(store_stats_get(f.s, &st, &why));
    CHECK_U64_EQ(st.n_documents, 0);
    CHECK_LE(st.map_bytes, 8 << 20); /* the headroom was given back, but for what the file came to need */
    fixture_check_clean(&f);
    put_one(&f, "c", "again", "room for words again", NULL, true);
    fixture_check_clean(&f);
    fixture_release(&f);
}

/* ---- commits that fail ---- */

static void a_commit_that_fails_leaves_the_old_state(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    struct cairn_hash before = digest_of(&f);
    static const struct {
        const char *at;
        enum cairn_err want;
    } rows[] = {
        {"index.commit.before=error", CAIRN_EIO  },
        {"index.apply.middle=error",  CAIRN_EIO  },
        {"index.commit.enospc=error", CAIRN_EFULL},
    };
    struct store_batch *b;
    uint64_t g;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        CHECK_OK(cairn_failpoint_set(rows[i].at, &why));
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        CHECK_OK(put_text(b, "c", "d1", "other words", NULL, true, &why));
        CHECK_ERR(store_batch_commit(b, &g, &why), rows[i].want);
        CHECK_OK(cairn_failpoint_set(NULL, &why));
        struct cairn_hash after = digest_of(&f);
        CHECK(memcmp(before.b, after.b, 32) == 0);
    }
    put_one(&f, "c", "d1", "goes on", NULL, true);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void an_io_error_at_commit_stops_writing_until_reopened(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    struct cairn_hash before = digest_of(&f);
    struct store_batch *b;
    uint64_t g;
    CHECK_OK(cairn_failpoint_set("index.commit.eio=error", &why));
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(put_text(b, "c", "d1", "other words", NULL, true, &why));
    CHECK_ERR(store_batch_commit(b, &g, &why), CAIRN_EIO);
    CHECK(strstr(why.text, "open it again"));
    CHECK_OK(cairn_failpoint_set(NULL, &why));
    CHECK_ERR(store_batch_begin(&b, f.s, &why), CAIRN_ESTATE);
    struct store_view *v; /* readers go on */
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_GE(strlen(search_ids(v, "c", "alpha", &caller_all)), 10);
    store_view_end(v);
    fixture_close(&f);
    fixture_open(&f);
    struct cairn_hash after = digest_of(&f);
    CHECK(memcmp(before.b, after.b, 32) == 0);
    put_one(&f, "c", "d1", "goes on", NULL, true);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void creation_that_fails_leaves_nothing_or_a_store(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    struct store_opts o = {.dir = f.dir, .create = true, .config = f.config};
    CHECK_OK(cairn_failpoint_set("index.create.before_rename=error", &why));
    CHECK_ERR(store_open(&f.s, &o, &why), CAIRN_EIO);
    CHECK_OK(cairn_failpoint_set("index.create.after_rename=error", &why));
    CHECK_ERR(store_open(&f.s, &o, &why), CAIRN_EIO);
    CHECK_OK(cairn_failpoint_set(NULL, &why));
    fixture_open(&f);
    fill(&f);
    fixture_check_clean(&f);
    fixture_release(&f);
}

/* ---- reader slots ---- */

static void a_full_reader_table_says_so(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    CHECK_OK(cairn_config_set(f.config, "index.readers_max", "8", &why));
    fixture_open(&f);
    struct store_view *views[200];
    size_t n = 0;
    enum cairn_err err = CAIRN_OK;
    while (n < 200 && !(err = store_view_begin(&views[n], f.s, &why)))
        n++;
    CHECK_I64_EQ(err, CAIRN_EBUSY);
    CHECK(strstr(why.text, "index.readers_max"));
    for (size_t i = 0; i < n; i++)
        store_view_end(views[i]);
    CHECK_OK(store_view_begin(&views[0], f.s, &why));
    store_view_end(views[0]);
    fixture_release(&f);
}

/* ---- damage ---- */

/* Opens the environment behind the store's back. */
struct raw {
    MDB_env *env;
    MDB_dbi dbi[DB_N];
    struct kv kv;
};
static void raw_open(struct raw *r, const struct fixture *f)
{
    char *path = cairn_path_join(f->dir, "store");
    CHECK_I64_EQ(mdb_env_create(&r->env), 0);
    CHECK_I64_EQ(mdb_env_set_maxdbs(r->env, DB_N), 0);
    CHECK_I64_EQ(mdb_env_set_mapsize(r->env, 64 << 20), 0);
    CHECK_I64_EQ(mdb_env_open(r->env, path, 0, 0600), 0);
    cairn_free(path);
    r->kv = (struct kv){.env = r->env, .dbi = r->dbi};
    CHECK_I64_EQ(mdb_txn_begin(r->env, NULL, 0, &r->kv.txn), 0);
    for (int i = 0; i < DB_N; i++)
        CHECK_I64_EQ(mdb_dbi_open(r->kv.txn, kv_db_name[i], 0, &r->dbi[i]), 0);
}
static void raw_commit(struct raw *r)
{
    CHECK_I64_EQ(mdb_txn_commit(r->kv.txn), 0);
    mdb_env_close(r->env);
}

/* Entry number nth of a database, copied. */
static bool raw_entry(struct raw *r, enum kv_db db, size_t nth, struct kv_key *key, struct cairn_buf *value)
{
    MDB_cursor *c;
    MDB_val k, v;
    bool there = mdb_cursor_open(r->kv.txn, r->dbi[db], &c) == 0 && mdb_cursor_get(c, &k, &v, MDB_FIRST) == 0;
    for (size_t i = 0; i < nth && there; i++)
        there = mdb_cursor_get(c, &k, &v, MDB_NEXT) == 0;
    cairn_buf_init(value, 0);
    if (there) {
        key_bytes(key_reset(key), k.mv_data, k.mv_size);
        there = cairn_buf_put(value, v.mv_data, v.mv_size);
    }
    mdb_cursor_close(c);
    return there;
}

static void raw_put(struct raw *r, enum kv_db db, const struct kv_key *key, const void *bytes, size_t len)
{
    MDB_val k = {key->len, (void *)(uintptr_t)key->b}, v = {len, (void *)(uintptr_t)bytes};
    CHECK_I64_EQ(mdb_put(r->kv.txn, r->dbi[db], &k, &v, 0), 0);
}

struct findings {
    unsigned n;
    char first[512];
};
static void count_finding(void *ctx, const char *line)
{
    struct findings *f = ctx;
    if (f->n++ == 0)
        snprintf(f->first, sizeof(f->first), "%s", line);
}

/* Everything a reader may do; every answer must be right or CAIRN_ECORRUPT. Returns whether it met
 * corruption. */
static bool read_all(struct fixture *f)
{
    struct cairn_why why = {{0}};
    struct store_view *v;
    struct store_filter *filter = NULL;
    struct store_hit hits[64];
    struct document_info d;
    struct cairn_str text;
    float q[DIM];
    size_t n;
    bool corrupt = false;
    text_vector("alpha", 5, DIM, q);
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        enum cairn_err e_ = (call);                                                                          \
        if (e_ == CAIRN_ECORRUPT) {                                                                          \
            corrupt = true;                                                                                  \
            CHECK(why.text[0]);                                                                              \
        } else if (e_) {                                                                                     \
            print_error("%s: %s %s\n", #call, cairn_err_name(e_), why.text);                                 \
            CHECK(e_ == CAIRN_OK);                                                                           \
        }                                                                                                    \
    } while (0)
    TRY(store_view_begin(&v, f->s, &why));
    if (!v)
        return corrupt;
    TRY(store_filter_open(&filter, v, "c", &caller_all, &why));
    if (filter) {
        for (int i = 0; i < 3; i++) {
            TRY(i == 0
                    ? store_search_lexical(v, "c", STR("alpha epsilon beta1"), filter, 64, hits, &n, NULL,
                                           &why)
                    : store_search_vector(v, "c", q, DIM, filter, 64, &(struct vector_how){.exact = i == 1},
                                          hits, &n, NULL, NULL, &why));
            for (size_t j = 0; j < n; j++) {
                struct passage_info p;
                float row[DIM];
                TRY(store_passage_get(v, "c", hits[j].passage_id, &p, &why));
                TRY(store_passage_vector(v, "c", hits[j].passage_id, row, &why));
            }
        }
        store_filter_close(filter);
    }
    filter = NULL;
    struct cairn_str hr = STR("group:hr");
    TRY(store_filter_open(&filter, v, "c", &(struct store_caller){&hr, 1, false}, &why));
    store_filter_close(filter);
    for (int i = 0; i < 12; i++) {
        char id[24];
        struct cairn_hash h = cairn_hash_bytes("zeta eta0", 9);
        snprintf(id, sizeof(id), "d%d", i);
        TRY(store_document_get(v, "c", STR(id), &caller_all, &d, &text, &why));
        h.b[0] ^= (uint8_t)(i + 1); /* most documents do not have it */
        enum cairn_err err = store_vector_by_hash(v, "c", STR(id), &h, q, &why);
        CHECK(err == CAIRN_ENOTFOUND || err == CAIRN_ECORRUPT);
        corrupt = corrupt || err == CAIRN_ECORRUPT;
    }
    struct cairn_hash digest;
    TRY(store_digest(v, &digest, &why));
    TRY(store_record_get(v, "job", STR("r"), &text, &why));
    store_view_end(v);
    return corrupt;
}

/* One byte of one value is changed, in every database; then a value is put under its neighbour's key. Nobody
 * may crash, readers that touch it say so, and the check finds it. */
static void damaged_values_are_found_not_believed(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_put(b, "job", STR("r"), "value", 5, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    uint32_t merged;
    CHECK_OK(
        store_merge(f.s, "c", &(struct store_merge_opts){.full = true}, NULL, NULL, NULL, &merged, &why));
    CHECK_U64_EQ(merged, 1);
    put_one(&f, "c", "after", "alpha theta\niota kappa", NULL, true); /* a delta beside the segment */
    fixture_close(&f);
    unsigned trials = 0, met = 0;
    uint64_t seed = 99;
    for (int db = 0; db < DB_N; db++)
        for (int kind = 0; kind < 4; kind++) {
            struct raw r;
            struct kv_key key, other;
            struct cairn_buf value, second;
            raw_open(&r, &f);
            CHECK(raw_entry(&r, (enum kv_db)db, 0, &key, &value));
            bool two = raw_entry(&r, (enum kv_db)db, 1, &other, &second);
            if (kind == 3 && !two) { /* misplaced needs two entries */
                mdb_txn_abort(r.kv.txn);
                mdb_env_close(r.env);
                cairn_buf_release(&value);
                cairn_buf_release(&second);
                continue;
            }
            char *bad = cairn_malloc(value.len + 1);
            memcpy(bad, value.bytes, value.len);
            size_t len = value.len;
            if (kind == 0)
                bad[test_rand(&seed) % len] ^= (char)(1 << test_rand(&seed) % 8);
            else if (kind == 1)
                len = len / 2;
            else if (kind == 2)
                len = 3;
            if (kind == 3)
                raw_put(&r, (enum kv_db)db, &key, second.bytes, second.len);
            else
                raw_put(&r, (enum kv_db)db, &key, bad, len);
            raw_commit(&r);
            struct findings found = {0};
            enum cairn_err checked = store_check(f.dir, count_finding, &found, &why);
            CHECK(checked == CAIRN_ECORRUPT);
            CHECK_GE(found.n, 1);
            CHECK(strstr(found.first, kv_db_name[db]) || db == DB_META);
            enum cairn_err opened =
                store_open(&f.s, &(struct store_opts){.dir = f.dir, .config = f.config}, &why);
            if (opened) {
                CHECK_I64_EQ(opened, CAIRN_ECORRUPT);
                CHECK_I64_EQ(db, DB_META);
                met++;
            } else {
                met += read_all(&f);
                fixture_close(&f);
            }
            trials++;
            raw_open(&r, &f); /* as it was */
            raw_put(&r, (enum kv_db)db, &key, value.bytes, value.len);
            raw_commit(&r);
            CHECK_OK(store_check(f.dir, print_finding, NULL, &why));
            cairn_free(bad);
            cairn_buf_release(&value);
            cairn_buf_release(&second);
        }
    print_message("%u damaged values, %u met by readers, all found by the check\n", trials, met);
    CHECK_GE(trials, 3 * DB_N);
    CHECK_GE(met, trials / 2);
    fixture_release(&f);
}

/* Values that verify but do not agree with the rest: what a bug of ours would leave. */
static void check_finds_what_does_not_agree(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    fixture_close(&f);
    unsigned planted = 0;
    static const enum kv_db dbs[] = {DB_DOCUMENT, DB_TEXT,   DB_HASHES, DB_PASSAGE, DB_FORWARD, DB_TERM,
                                     DB_POSTING,  DB_VECTOR, DB_CODE,   DB_SEGMENT, DB_ACL,     DB_PRINCIPAL};
    for (size_t i = 0; i < sizeof(dbs) / sizeof(dbs[0]); i++)
        for (int kind = 0; kind < 3; kind++) { /* an entry is lost; is there twice; is that of another */
            struct raw r;
            struct kv_key key, other;
            struct cairn_buf value, second = {0};
            raw_open(&r, &f);
            CHECK(raw_entry(&r, dbs[i], 0, &key, &value));
            const char *payload = value.bytes + KV_CHECKSUM_BYTES;
            size_t len = value.len - KV_CHECKSUM_BYTES;
            bool done = true;
            other = key;
            if (kind == 0) {
                CHECK_OK(kv_del(&r.kv, dbs[i], &key, &why));
            } else if (kind == 1) {
                other.b[other.len - 1] = (uint8_t)(other.b[other.len - 1] + 77);
                struct cairn_str v;
                done = kv_get(&r.kv, dbs[i], &other, &v, NULL) == CAIRN_ENOTFOUND;
                if (done)
                    CHECK_OK(kv_put(&r.kv, dbs[i], &other, payload, len, &why));
            } else {
                done = raw_entry(&r, dbs[i], 1, &other, &second) && dbs[i] != DB_TEXT;
                if (done)
                    CHECK_OK(kv_put(&r.kv, dbs[i], &key, second.bytes + KV_CHECKSUM_BYTES,
                                    second.len - KV_CHECKSUM_BYTES, &why));
            }
            raw_commit(&r);
            struct findings found = {0};
            enum cairn_err err = store_check(f.dir, count_finding, &found, &why);
            if (done && err != CAIRN_ECORRUPT)
                print_error("database %s, kind %d: %s\n", kv_db_name[dbs[i]], kind, cairn_err_name(err));
            CHECK(!done || err == CAIRN_ECORRUPT);
            planted += done;
            raw_open(&r, &f);
            if (kind == 1 && done)
                CHECK_OK(kv_del(&r.kv, dbs[i], &other, &why));
            raw_put(&r, dbs[i], &key, value.bytes, value.len);
            raw_commit(&r);
            CHECK_OK(store_check(f.dir, print_finding, NULL, &why));
            cairn_buf_release(&value);
            cairn_buf_release(&second);
        }
    /* wrong counts of a collection */
    struct raw r;
    raw_open(&r, &f);
    struct coll_rec c;
    CHECK_OK(coll_get(&r.kv, "c", &c, &why));
    c.n_words++;
    CHECK_OK(coll_put(&r.kv, &c, &why));
    raw_commit(&r);
    CHECK_ERR(store_check(f.dir, NULL, NULL, &why), CAIRN_ECORRUPT);
    print_message("%u inconsistencies planted, all found\n", planted);
    CHECK_GE(planted, 28);
    fixture_release(&f);
}

/* ---- bad media: the file itself ---- */

static char *data_path(const struct fixture *f) { return cairn_path_join(f->dir, "store/data.mdb"); }

static void a_file_cut_short_or_from_the_future_does_not_open(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    fixture_close(&f);
    char *path = data_path(&f), *bytes;
    size_t len;
    CHECK_OK(cairn_read_file(&bytes, &len, path, 1 << 28, &why));
    CHECK_I64_EQ(truncate(path, (off_t)len / 2), 0);
    CHECK_ERR(store_open(&f.s, &(struct store_opts){.dir = f.dir, .config = f.config}, &why), CAIRN_ECORRUPT);
    CHECK(strstr(why.text, "cut short"));
    CHECK_ERR(store_check(f.dir, NULL, NULL, &why), CAIRN_ECORRUPT);
    CHECK_OK(cairn_write_file(path, bytes, len, &why));
    struct raw r;
    struct kv_key k;
    uint8_t format[4] = {STORE_FORMAT + 1, 0, 0, 0};
    raw_open(&r, &f);
    CHECK_OK(kv_put(&r.kv, DB_META, key_bytes(key_reset(&k), "format", 6), format, 4, &why));
    raw_commit(&r);
    CHECK_ERR(store_open(&f.s, &(struct store_opts){.dir = f.dir, .config = f.config}, &why),
              CAIRN_EUNSUPPORTED);
    CHECK_ERR(store_check(f.dir, NULL, NULL, &why), CAIRN_EUNSUPPORTED);
    CHECK_OK(cairn_write_file(path, "not a store at all", 18, &why));
    enum cairn_err err = store_open(&f.s, &(struct store_opts){.dir = f.dir, .config = f.config}, &why);
    CHECK(err == CAIRN_ECORRUPT || err == CAIRN_EIO);
    CHECK_OK(cairn_write_file(path, bytes, len, &why));
    fixture_open(&f);
    fixture_check_clean(&f);
    cairn_free(bytes);
    cairn_free(path);
    fixture_release(&f);
}

/* Random damage to pages of the file. The check, whatever LMDB does in its child, comes back with words. */
static void damaged_pages_never_end_the_one_who_asks(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    fill(&f);
    struct cairn_hash want = digest_of(&f);
    fixture_close(&f);
    char *path = data_path(&f), *bytes;
    size_t len;
    unsigned found = 0, by_signal = 0, quiet = 0;
    uint64_t seed = 12;
    CHECK_OK(cairn_read_file(&bytes, &len, path, 1 << 28, &why));
    for (int trial = 0; trial < 60; trial++) {
        char *bad = cairn_malloc(len);
        size_t page = 2 + test_rand(&seed) % (len / 4096 - 2);
        memcpy(bad, bytes, len);
        if (trial % 3 == 0)
            memset(bad + page * 4096, 0, 4096);
        else if (trial % 3 == 1)
            memcpy(bad + page * 4096, bytes + (2 + test_rand(&seed) % (len / 4096 - 2)) * 4096, 4096);
        else
            bad[page * 4096 + test_rand(&seed) % 4096] ^= (char)(1 << test_rand(&seed) % 8);
        CHECK_OK(cairn_write_file(path, bad, len, &why));
        struct findings n = {0};
        enum cairn_err err = store_check(f.dir, count_finding, &n, &why);
        CHECK(err == CAIRN_OK || err == CAIRN_ECORRUPT);
        found += err == CAIRN_ECORRUPT;
        if (!err) { /* a page nobody reads, or a byte of free space: then all must be as it was */
            fixture_open(&f);
            struct cairn_hash got = digest_of(&f);
            CHECK(memcmp(want.b, got.b, 32) == 0);
            fixture_close(&f);
            quiet++;
        }
        by_signal += err && strstr(why.text, "signal") != NULL;
        cairn_free(bad);
    }
    print_message("60 damaged pages: %u found, %u of them by a signal, %u in free space\n", found, by_signal,
                  quiet);
    CHECK_GE(found, 10);
    CHECK_OK(cairn_write_file(path, bytes, len, &why));
    fixture_check_clean(&f);
    cairn_free(bytes);
    cairn_free(path);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(no_allocation_that_fails_does_harm),
        TEST(opening_survives_failed_allocations),
        TEST(the_map_grows_while_documents_come),
        TEST(growing_waits_for_views_but_not_for_ever),
        TEST(a_full_map_refuses_puts_keeps_all_and_still_deletes),
        TEST(a_commit_that_fails_leaves_the_old_state),
        TEST(an_io_error_at_commit_stops_writing_until_reopened),
        TEST(creation_that_fails_leaves_nothing_or_a_store),
        TEST(a_full_reader_table_says_so),
        TEST(damaged_values_are_found_not_believed),
        TEST(check_finds_what_does_not_agree),
        TEST(a_file_cut_short_or_from_the_future_does_not_open),
        TEST(damaged_pages_never_end_the_one_who_asks),
    };
    cairn_log_set_level(CAIRN_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
