/* A merge that fails at its own places, or for memory: an error, nothing lost, the next one succeeds. */
#include "store.h"
#include "test_index_fixture.h"

static void grow(struct fixture *f, unsigned from)
{
    for (unsigned i = from; i < from + 30; i++) {
        char id[24], text[100];
        snprintf(id, sizeof(id), "d%u", i);
        snprintf(text, sizeof(text), "one %u\ntwo %u\nthree %u", i, i, i);
        put_one(f, "c", id, text, NULL, true);
    }
}

static struct fixture merged_fixture(void)
{
    TEST_WHY;
    struct fixture f = fixture_new();
    CHECK_OK(cairn_config_set(f.config, "index.merge_rows_min", "16", &why));
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    grow(&f, 0);
    return f;
}

static enum cairn_err merge(struct fixture *f, struct cairn_why *why)
{
    uint32_t n;
    return store_merge(f->s, "c", &(struct store_merge_opts){.full = true}, NULL, NULL, NULL, &n, why);
}

static void a_merge_stopped_at_any_place_loses_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = merged_fixture();
    static const char *const places[] = {"index.merge.chunk=error@1", "index.merge.chunk=error@2",
                                         "index.merge.before_flip=error", "index.merge.after_flip=error",
                                         "index.merge.cleanup=error@2"};
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        grow(&f, 100 * (i + 1));
        struct cairn_hash before = digest_of(&f);
        CHECK_OK(cairn_failpoint_set(places[i], &why));
        enum cairn_err err = merge(&f, &why);
        CHECK_OK(cairn_failpoint_set(NULL, &why));
        CHECK_I64_EQ(err, CAIRN_EIO);
        struct cairn_hash after = digest_of(&f);
        CHECK(memcmp(before.b, after.b, 32) == 0);
        fixture_check_clean(&f);
        CHECK_OK(merge(&f, &why));
        after = digest_of(&f);
        CHECK(memcmp(before.b, after.b, 32) == 0);
        fixture_check_clean(&f);
    }
    fixture_release(&f);
}

static void no_allocation_that_fails_harms_a_merge(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = merged_fixture();
    struct cairn_hash before = digest_of(&f);
    unsigned failed = 0;
    for (uint64_t nth = 1; nth < 2000; nth++) {
        why.text[0] = '\0';
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = merge(&f, &why);
        cairn_alloc_fail_after(0, false);
        if (!err)
            break;
        CHECK(why.text[0]);
        failed++;
        struct cairn_hash after = digest_of(&f);
        CHECK(memcmp(before.b, after.b, 32) == 0);
    }
    print_message("allocations failed one by one: %u\n", failed);
    CHECK_GE(failed, 5);
    CHECK_LE(failed, 1990);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void no_allocation_that_fails_harms_a_search(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = merged_fixture();
    struct store_hit want[8], hits[8];
    float q[DIM];
    unsigned failed = 0;
    size_t n_want, n;
    text_vector("two 7", 5, DIM, q);
    CHECK_OK(merge(&f, &why));
    for (uint64_t nth = 0; nth < 500; nth++) { /* 0: none fails */
        struct store_view *v = NULL;
        struct store_filter *filter = NULL;
        why.text[0] = '\0';
        if (nth == 1) {
            fixture_close(&f); /* nothing remembered of earlier searches */
            fixture_open(&f);
        }
        if (nth)
            cairn_alloc_fail_after(nth, true);
        enum cairn_err err = store_view_begin(&v, f.s, &why);
        if (!err)
            err = store_filter_open(&filter, v, "c", &caller_all, &why);
        if (!err)
            err = store_search_vector(v, "c", q, DIM, filter, 8, NULL, hits, &n, NULL, NULL, &why);
        cairn_alloc_fail_after(0, false);
        store_filter_close(filter);
        store_view_end(v);
        if (nth == 0) {
            CHECK_OK(err);
            memcpy(want, hits, sizeof(want));
            n_want = n;
            continue;
        }
        if (!err) {
            CHECK_U64_EQ(n, n_want);
            CHECK(memcmp(want, hits, n * sizeof(*hits)) == 0);
            break;
        }
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
        CHECK(why.text[0]);
        failed++;
    }
    print_message("allocations failed one by one: %u\n", failed);
    CHECK_GE(failed, 5);
    CHECK_LE(failed, 490);
    fixture_release(&f);
}

static void a_map_that_is_full_in_a_merge_loses_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    CHECK_OK(cairn_config_set(f.config, "index.merge_rows_min", "16", &why));
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes", "1m", &why));
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes_max", "1m", &why));
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    unsigned full = 0;
    for (unsigned i = 0; i < 400 && full < 20; i++) {
        char id[24], text[100];
        struct store_batch *b;
        snprintf(id, sizeof(id), "d%u", i);
        snprintf(text, sizeof(text), "one %u\ntwo %u\nthree %u", i, i, i);
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        CHECK_OK(put_text(b, "c", id, text, NULL, true, &why));
        enum cairn_err put = store_batch_commit(b, NULL, &why);
        CHECK(put == CAIRN_OK || put == CAIRN_EFULL);
        struct cairn_hash before = digest_of(&f);
        enum cairn_err err = merge(&f, &why);
        CHECK(err == CAIRN_OK || err == CAIRN_EFULL);
        full += err == CAIRN_EFULL;
        struct cairn_hash after = digest_of(&f);
        CHECK(memcmp(before.b, after.b, 32) == 0);
    }
    CHECK_GE(full, 1);
    fixture_check_clean(&f);
    for (unsigned i = 0; i < 20; i++) { /* room again */
        char id[24];
        snprintf(id, sizeof(id), "d%u", i);
        delete_one(&f, "c", id);
    }
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes_max", "64m", &why));
    CHECK_OK(merge(&f, &why));
    fixture_check_clean(&f);
    fixture_release(&f);
}

/* One byte of one chunk is changed, anywhere: a search says CORRUPT or answers as before, the check finds it.
 */
static void a_changed_byte_of_a_chunk_is_met_or_does_no_harm(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = merged_fixture();
    for (unsigned i = 1; i < 8; i++)
        grow(&f, 100 * i);
    CHECK_OK(merge(&f, &why));
    fixture_close(&f);
    char *path = cairn_path_join(f.dir, "store");
    struct store_hit want[8], hits[8];
    uint64_t seed = 2024;
    unsigned met = 0;
    float q[DIM];
    for (int trial = 0; trial < 120; trial++) {
        MDB_env *env;
        MDB_dbi dbi[DB_N];
        MDB_cursor *c;
        MDB_val k, v;
        MDB_txn *txn;
        struct kv_key key = {0};
        char *bytes = NULL;
        size_t at = 0, len = 0, n = 0;
        for (int back = 0; back < 2; back++) {
            if (back) { /* between the two: open, search, check */
                CHECK(store_check(f.dir, NULL, NULL, &why) == CAIRN_ECORRUPT);
                enum cairn_err err = CAIRN_OK;
                fixture_open(&f);
                for (unsigned i = 0; i < 12 && !err; i++) {
                    char text[24];
                    struct store_view *view;
                    struct store_filter *filter;
                    snprintf(text, sizeof(text), "two %u", i * 61);
                    text_vector(text, strlen(text), DIM, q);
                    CHECK_OK(store_view_begin(&view, f.s, &why));
                    CHECK_OK(store_filter_open(&filter, view, "c", &caller_all, &why));
                    for (int kind = VECTOR_FLAT; kind <= VECTOR_IVF && !err; kind++) {
                        struct vector_how how = {.kind = (enum vector_kind)kind, .ef = 300, .nprobe = 64};
                        err = store_search_vector(view, "c", q, DIM, filter, 8, &how, hits, &n, NULL, NULL,
                                                  &why);
                        if (!err) {
                            size_t n_want;
                            struct vector_how exact = {.exact = true};
                            err = store_search_vector(view, "c", q, DIM, filter, 8, &exact, want, &n_want,
                                                      NULL, NULL, &why);
                            if (!err)
                                CHECK(n == n_want && want[0].score == hits[0].score);
                        }
                    }
                    store_filter_close(filter);
                    store_view_end(view);
                }
                CHECK(err == CAIRN_OK || err == CAIRN_ECORRUPT);
                met += err == CAIRN_ECORRUPT;
                fixture_close(&f);
            }
            CHECK_OK(env_open(&env, dbi, path, false, false, 64 << 20, 8, &why));
            CHECK_I64_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
            if (!back) {
                CHECK_I64_EQ(mdb_cursor_open(txn, dbi[DB_CHUNK], &c), 0);
                CHECK_I64_EQ(mdb_cursor_get(c, &k, &v, MDB_FIRST), 0);
                for (uint64_t skip = test_rand(&seed) % PART_N; skip > 0; skip--)
                    CHECK_I64_EQ(mdb_cursor_get(c, &k, &v, MDB_NEXT), 0);
                key_bytes(key_reset(&key), k.mv_data, k.mv_size);
                len = v.mv_size;
                bytes = cairn_malloc(len);
                memcpy(bytes, v.mv_data, len);
                mdb_cursor_close(c);
                at = test_rand(&seed) % len;
            }
            bytes[at] ^= 0x10;
            k = (MDB_val){key.len, key.b};
            v = (MDB_val){len, bytes};
            CHECK_I64_EQ(mdb_put(txn, dbi[DB_CHUNK], &k, &v, 0), 0);
            CHECK_I64_EQ(mdb_txn_commit(txn), 0);
            mdb_env_close(env);
        }
        cairn_free(bytes);
    }
    fixture_check_clean(&f);
    print_message("120 changed bytes, %u met by searches, all found by the check\n", met);
    CHECK_GE(met, 60);
    cairn_free(path);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_merge_stopped_at_any_place_loses_nothing), TEST(no_allocation_that_fails_harms_a_merge),
        TEST(no_allocation_that_fails_harms_a_search), TEST(a_map_that_is_full_in_a_merge_loses_nothing),
        TEST(a_changed_byte_of_a_chunk_is_met_or_does_no_harm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
