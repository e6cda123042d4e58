/* test_base.c - errors, memory, buffers, arenas, configuration, pool, failpoints, hashes, files, stop tokens.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void an_error_carries_its_sentence_and_its_context(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    CHECK_I64_EQ(cairn_fail(&why, CAIRN_EFULL, "queue of %d", 8), CAIRN_EFULL);
    CHECK_STR_EQ(why.text, "queue of 8");
    CHECK_I64_EQ(cairn_wrap(&why, CAIRN_EFULL, "request %d", 3), CAIRN_EFULL);
    CHECK_STR_EQ(why.text, "request 3: queue of 8");
    CHECK_I64_EQ(cairn_fail(NULL, CAIRN_EIO, "nobody listens"), CAIRN_EIO);
    CHECK_I64_EQ(cairn_fail_errno(&why, ENOSPC, "store/data.mdb"), CAIRN_EFULL);
    CHECK(strncmp(why.text, "store/data.mdb: ", 16) == 0);
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    (void)cairn_fail(&why, CAIRN_EIO, "%s\xc3\xa9", longer);
    CHECK_I64_EQ(cairn_utf8_invalid_at(why.text, strlen(why.text)), strlen(why.text));
    (void)cairn_wrap(&why, CAIRN_EIO, "%s", longer);
    CHECK(strlen(why.text) < sizeof why.text);
}

static void every_code_has_a_name_of_its_own(void **state)
{
    UNUSED_STATE(state);
    for (int a = 0; a >= CAIRN_ESTATE; a--) {
        CHECK(strcmp(cairn_err_name((enum cairn_err)a), "INTERNAL") != 0);
        for (int b = 0; b > a; b--)
            CHECK(strcmp(cairn_err_name((enum cairn_err)a), cairn_err_name((enum cairn_err)b)) != 0);
    }
}

static void the_nth_allocation_fails_once_or_from_then_on(void **state)
{
    UNUSED_STATE(state);
    cairn_alloc_fail_after(2, true);
    void *a = cairn_malloc(8), *b = cairn_malloc(8), *c = cairn_malloc(8);
    CHECK(a && !b && c);
    cairn_free(a);
    cairn_free(c);
    cairn_alloc_fail_after(1, false);
    CHECK(!cairn_calloc(1, 1) && !cairn_strdup("x") && !cairn_asprintf("%d", 1) && !cairn_aligned(64, 64));
    cairn_alloc_fail_after(0, false);
    CHECK(!cairn_reallocarray(NULL, SIZE_MAX / 2, 3));
    size_t r = 7;
    CHECK(!cairn_mul(SIZE_MAX, 2, &r) && !cairn_add(SIZE_MAX, 1, &r) && r == 7);
}

static void a_buffer_grows_to_its_maximum_and_says_so_once(void **state)
{
    UNUSED_STATE(state);
    struct cairn_buf b;
    cairn_buf_init(&b, 100);
    for (int i = 0; i < 9; i++)
        CHECK(cairn_buf_printf(&b, "%09d|", i));
    CHECK_U64_EQ(b.len, 90);
    CHECK(!cairn_buf_put(&b, "0123456789x", 11) && b.failed);
    CHECK(!cairn_buf_puts(&b, "a")); /* stays failed, so a writer may check once */
    CHECK(cairn_buf_steal(&b) == NULL);
    CHECK(cairn_buf_puts(&b, "again"));
    char *s = cairn_buf_steal(&b);
    CHECK_STR_EQ(s, "again");
    cairn_free(s);
    CHECK(!cairn_buf_put(&b, NULL, SIZE_MAX));
    cairn_buf_release(&b);
}

static void an_arena_zeroes_aligns_and_stops_at_its_maximum(void **state)
{
    UNUSED_STATE(state);
    struct cairn_arena *a = cairn_arena_new(100000);
    CHECK(a != NULL);
    size_t total = 0;
    for (;;) {
        uint8_t *p = cairn_arena_alloc(a, 1000);
        if (!p)
            break;
        CHECK(((uintptr_t)p & 15) == 0);
        for (int i = 0; i < 1000; i++)
            CHECK(p[i] == 0);
        memset(p, 0xAA, 1000);
        total += 1000;
    }
    CHECK(total > 50000 && total <= 100000);
    CHECK(!cairn_arena_alloc(a, SIZE_MAX));
    cairn_arena_free(a);
}

static const struct cairn_conf rows[] = {
    {"t.width", 16,   4, 128,  false, "how wide"},
    {"t.bytes", 1024, 0, 1e12, true,  "how many"},
};

static void configuration_is_checked_against_its_table(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_config *c = cairn_config_new();
    CHECK_OK(cairn_config_add_table(c, rows, 2, &why));
    CHECK_U64_EQ(cairn_config_size(c, "t.width"), 16);
    CHECK_OK(cairn_config_set(c, "t.bytes", "3m", &why));
    CHECK_U64_EQ(cairn_config_size(c, "t.bytes"), 3 << 20);
    CHECK_ERR(cairn_config_set(c, "t.width", "3", &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "4 .. 128") != NULL);
    CHECK_ERR(cairn_config_set(c, "t.width", "nan", &why), CAIRN_EINVAL);
    CHECK_ERR(cairn_config_set(c, "t.width", "12 apples", &why), CAIRN_EINVAL);
    CHECK_ERR(cairn_config_set(c, "t.none", "1", &why), CAIRN_EINVAL);
    char *dir = test_tmpdir(), *path = cairn_path_join(dir, "cairn.conf");
    const char text[] = "# a comment\n\n t.width = 32 # more\nt.bytes=2k\r\n";
    CHECK_OK(cairn_write_file(path, text, sizeof text - 1, &why));
    CHECK_OK(cairn_config_load(c, path, &why));
    CHECK_U64_EQ(cairn_config_size(c, "t.width"), 32);
    CHECK_U64_EQ(cairn_config_size(c, "t.bytes"), 2048);
    CHECK_OK(cairn_write_file(path, "t.width 3\n", 10, &why));
    CHECK_ERR(cairn_config_load(c, path, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "line 1") != NULL);
    double v;
    CHECK_U64_EQ(cairn_config_count(c), 2);
    CHECK_STR_EQ(cairn_config_at(c, 1, &v)->key, "t.bytes");
    CHECK(cairn_config_at(c, 2, &v) == NULL);
    cairn_config_free(c);
    cairn_free(path);
    test_rmdir(dir);
}

struct count_ctx {
    atomic_uint seen[10000];
    atomic_uint calls;
};
static void count(void *ctx, size_t begin, size_t end, unsigned worker)
{
    struct count_ctx *c = ctx;
    CHECK(worker < 4);
    atomic_fetch_add(&c->calls, 1);
    for (size_t i = begin; i < end; i++)
        atomic_fetch_add(&c->seen[i], 1);
}
static void *run_many(void *pool)
{
    for (int round = 0; round < 200; round++) {
        static _Thread_local struct count_ctx c;
        memset(&c, 0, sizeof c);
        cairn_pool_run(pool, 1 + (size_t)round * 7, 3, count, &c);
        for (size_t i = 0; i < 10000; i++)
            if (atomic_load(&c.seen[i]) != (i < 1 + (size_t)round * 7))
                return (void *)1;
    }
    return NULL;
}

static void a_pool_covers_each_index_once_for_all_callers(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_pool *p;
    CHECK_OK(cairn_pool_open(&p, 4, &why));
    CHECK_U64_EQ(cairn_pool_threads(p), 4);
    CHECK_U64_EQ(cairn_pool_threads(NULL), 1);
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&t[i], NULL, run_many, p) == 0);
    for (int i = 0; i < 3; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        CHECK(bad == NULL);
    }
    usleep(20000); /* let the workers fall asleep, then wake them */
    CHECK(run_many(p) == NULL);
    cairn_pool_close(p);
    CHECK(run_many(NULL) == NULL);
    CHECK_ERR(cairn_pool_open(&p, 100000, &why), CAIRN_EINVAL);
    CHECK(p == NULL);
}

/* Jobs and pauses of all lengths about those after which workers stop to spin and the caller falls asleep,
 * more threads than cores: a lost wake-up would hang, a job given out twice would count twice. */
struct pause_ctx {
    atomic_uint done;
    unsigned work_us;
};
static void work(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    struct pause_ctx *c = ctx;
    if (c->work_us && begin % 5 == 0)
        usleep(c->work_us);
    atomic_fetch_add(&c->done, (unsigned)(end - begin));
}
static void *run_with_pauses(void *pool)
{
    uint64_t seed = cairn_pool_threads(pool);
    for (unsigned round = 0; round < 1500; round++) {
        struct pause_ctx c = {.work_us = test_rand(&seed) % 4 ? 0 : (unsigned)(test_rand(&seed) % 80)};
        unsigned n = 2 + (unsigned)(test_rand(&seed) % 30);
        cairn_pool_run(pool, n, 1 + test_rand(&seed) % 4, work, &c);
        if (atomic_load(&c.done) != n)
            return (void *)1;
        if (test_rand(&seed) % 3 == 0)
            usleep((unsigned)(test_rand(&seed) % 150));
    }
    return NULL;
}
static void a_pool_loses_no_wake_up(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_pool *p[3];
    pthread_t t[3];
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(cairn_pool_open(&p[i], 2 + i, &why));
        CHECK(pthread_create(&t[i], NULL, run_with_pauses, p[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        CHECK(bad == NULL);
        cairn_pool_close(p[i]);
    }
    for (int i = 0; i < 200; i++) { /* closed while workers start, spin or sleep */
        CHECK_OK(cairn_pool_open(&p[0], 3, &why));
        struct pause_ctx c = {0};
        cairn_pool_run(p[0], 7, 1, work, &c);
        CHECK_U64_EQ(atomic_load(&c.done), 7);
        if (i % 2)
            usleep((unsigned)i);
        cairn_pool_close(p[0]);
    }
}

static void failpoints_act_on_the_nth_pass_only(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    CHECK(!CAIRN_FAILPOINT("t.one"));
    CHECK_OK(cairn_failpoint_set("t.one=error@2,t.two=error", &why));
    CHECK(!CAIRN_FAILPOINT("t.one"));
    CHECK(CAIRN_FAILPOINT("t.one"));
    CHECK(!CAIRN_FAILPOINT("t.one"));
    CHECK(CAIRN_FAILPOINT("t.two") && CAIRN_FAILPOINT("t.two"));
    CHECK_ERR(cairn_failpoint_set("t.one=explode", &why), CAIRN_EINVAL);
    CHECK(!CAIRN_FAILPOINT("t.two"));
    CHECK_ERR(cairn_failpoint_set("nonsense", &why), CAIRN_EINVAL);
    pid_t pid = fork();
    if (pid == 0) {
        if (cairn_failpoint_set("t.kill=kill", NULL) == CAIRN_OK)
            (void)CAIRN_FAILPOINT("t.kill");
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == 9);
    CHECK_OK(cairn_failpoint_set(NULL, &why));
}

static void hashes_equal_their_published_values(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char hex[65];
    cairn_hex(hex, cairn_hash_bytes("abc", 3).b, 32);
    CHECK_STR_EQ(hex, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
    uint8_t back[32];
    CHECK(cairn_unhex(back, 32, hex, 64) && memcmp(back, cairn_hash_bytes("abc", 3).b, 32) == 0);
    CHECK(!cairn_unhex(back, 32, hex, 63) && !cairn_unhex(back, 1, "G0", 2));
    CHECK(cairn_xxh64("abc", 3, 1) != cairn_xxh64("abc", 3, 2));
    char *dir = test_tmpdir(), *path = cairn_path_join(dir, "f");
    CHECK_OK(cairn_write_file(path, "abc", 3, &why));
    CHECK_OK(cairn_sha256_file(back, path, NULL, NULL, &why));
    cairn_hex(hex, back, 32);
    CHECK_STR_EQ(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cairn_free(path);
    test_rmdir(dir);
}

static void files_are_read_whole_within_their_limit(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *sub = cairn_path_join(dir, "a/b//c"), *path = cairn_path_join(sub, "f"),
         *bytes;
    size_t len;
    CHECK_OK(cairn_mkdirs(sub, &why));
    CHECK_OK(cairn_mkdirs(sub, &why));
    CHECK_OK(cairn_write_file(path, "hello", 5, &why));
    CHECK_OK(cairn_read_file(&bytes, &len, path, 5, &why));
    CHECK_STR_EQ(bytes, "hello");
    cairn_free(bytes);
    CHECK_ERR(cairn_read_file(&bytes, &len, path, 4, &why), CAIRN_EFULL);
    CHECK_ERR(cairn_read_file(&bytes, &len, sub, 4, &why), CAIRN_EINVAL);
    CHECK_ERR(cairn_read_file(&bytes, &len, "/none/such", 4, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(cairn_mkdirs(path, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(cairn_write_file("/none/such", "x", 1, &why), CAIRN_ENOTFOUND);
    cairn_free(path);
    cairn_free(sub);
    test_rmdir(dir);
}

static void a_stop_token_tells_cancel_from_deadline(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_stop stop = {0};
    CHECK_OK(cairn_stopped(NULL, &why));
    CHECK_OK(cairn_stopped(&stop, &why));
    stop.deadline_us = cairn_now_us() - 1;
    CHECK_ERR(cairn_stopped(&stop, &why), CAIRN_EDEADLINE);
    atomic_store(&stop.cancelled, true);
    CHECK_ERR(cairn_stopped(&stop, &why), CAIRN_ESTOPPED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_error_carries_its_sentence_and_its_context),
        TEST(every_code_has_a_name_of_its_own),
        TEST(the_nth_allocation_fails_once_or_from_then_on),
        TEST(a_buffer_grows_to_its_maximum_and_says_so_once),
        TEST(an_arena_zeroes_aligns_and_stops_at_its_maximum),
        TEST(configuration_is_checked_against_its_table),
        TEST(a_pool_covers_each_index_once_for_all_callers),
        TEST(a_pool_loses_no_wake_up),
        TEST(failpoints_act_on_the_nth_pass_only),
        TEST(hashes_equal_their_published_values),
        TEST(files_are_read_whole_within_their_limit),
        TEST(a_stop_token_tells_cancel_from_deadline),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
