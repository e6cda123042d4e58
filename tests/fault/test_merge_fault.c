/* A merge that fails at its own places, or for memory: an error, nothing lost, the next one succeeds. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(a_merge_stopped_at_any_place_loses_nothing),
                                       TEST(no_allocation_that_fails_harms_a_merge)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
