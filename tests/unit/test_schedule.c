/* test_schedule.c - many requests at one decoder: each gets what it would get alone, drafts or not, kept
 * beginnings or not; those that stop give their pages back; limits are errors. */
#include "draft.h"
#include "schedule.h"
#include "tiny_decoder.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { PROMPT = 150, WRITE = 100, PAGES = 64 };

static char *dir, path[512];
static struct decoder *d;
static size_t page_bytes;

static struct decoder *open_with(size_t pages)
{
    TEST_WHY;
    struct decoder *o = NULL;
    CHECK_OK(decoder_open_file(&o, path, &(struct model_opts){.kv_bytes = pages * page_bytes}, &why));
    return o;
}
static int setup(void **state)
{
    UNUSED_STATE(state);
    struct cairn_why why = {{0}};
    struct decoder_kv kv;
    dir = test_tmpdir();
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    tiny_decoder_write(path);
    if (decoder_open_file(&d, path, NULL, &why))
        return 1;
    decoder_kv_get(d, &kv);
    page_bytes = kv.page_bytes;
    decoder_close(d);
    d = open_with(PAGES);
    return 0;
}
static int teardown(void **state)
{
    UNUSED_STATE(state);
    struct decoder_kv kv;
    decoder_kv_get(d, &kv);
    CHECK_U64_EQ(kv.n_free, PAGES);
    decoder_close(d);
    test_rmdir(dir);
    return 0;
}

static const struct schedule_opts usual = {
    .batch_max = 8, .queue_max = 64, .prompt_rows = 32, .draft_max = DRAFT_MAX, .keep_prefixes = true};

/* Prompts that share a beginning in pairs and repeat themselves, so that lookup finds something. */
static void prompt_of(int32_t *ids, size_t who)
{
    uint64_t seed = 1000 + who / 2;
    for (size_t i = 0; i < PROMPT; i++)
        ids[i] = i >= 40 && i < 80 ? ids[i - 40] : (int32_t)(test_rand(&seed) % TINY_VOCAB);
    if (who % 2)
        ids[PROMPT - 10] = (ids[PROMPT - 10] + 1) % TINY_VOCAB;
}
static struct sampler sampler_of(size_t who)
{
    return (struct sampler){.temperature = who % 3 == 2 ? 0.8f : 0, .top_p = 0.9f, .state = who};
}

/* The plainest way: the prompt, then a token at a time. */
static void write_plainly(struct decoder *o, size_t who, int32_t *out)
{
    TEST_WHY;
    struct decoder_seq *s = NULL;
    int32_t ids[PROMPT];
    float logits[TINY_VOCAB], scratch[TINY_VOCAB];
    struct sampler sampler = sampler_of(who);
    prompt_of(ids, who);
    CHECK_OK(decoder_seq_open(&s, o, 0, &why));
    CHECK_OK(decoder_eval(s, ids, PROMPT, false, logits, NULL, &why));
    for (size_t i = 0; i < WRITE; i++) {
        out[i] = sampler_next(&sampler, logits, TINY_VOCAB, 0, scratch);
        CHECK_OK(decoder_eval(s, &out[i], 1, false, logits, NULL, &why));
    }
    decoder_seq_close(s);
}

static struct schedule_job *submit(struct schedule *s, size_t who, const struct cairn_stop *stop)
{
    TEST_WHY;
    int32_t ids[PROMPT];
    struct schedule_job *j = NULL;
    struct schedule_request q = {
        .ids = ids,
        .n = PROMPT,
        .share = {.n_public = 20, .has_partition = true},
        .max_tokens = WRITE,
        .sampler = sampler_of(who),
        .stop = stop
    };
    q.share.partition.b[0] = (uint8_t)(who / 4);
    prompt_of(ids, who);
    CHECK_OK(schedule_submit(s, &q, &j, &why));
    return j;
}
static void check_same(struct schedule_job *j, const int32_t *want, struct schedule_usage *usage)
{
    TEST_WHY;
    int32_t id;
    for (size_t i = 0; i < WRITE; i++) {
        CHECK_OK(schedule_next(j, &id, &why));
        if (id != want[i])
            print_error("token %zu\n", i);
        CHECK_I64_EQ(id, want[i]);
    }
    CHECK_OK(schedule_next(j, &id, &why));
    CHECK_I64_EQ(id, -1);
    if (usage)
        schedule_usage_get(j, usage);
}

static void drafts_and_kept_beginnings_change_nothing_but_time(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    size_t drafted = 0, accepted = 0, cached = 0;
    for (size_t who = 0; who < 12; who++) {
        int32_t want[WRITE];
        write_plainly(d, who, want);
        for (int way = 0; way < 4; way++) {
            struct schedule *s = NULL;
            struct schedule_opts o = usual;
            struct schedule_usage u[2];
            o.draft_max = way & 1 ? DRAFT_MAX : 0;
            o.keep_prefixes = way & 2;
            CHECK_OK(schedule_open(&s, d, &o, &why));
            for (int again = 0; again < 2; again++) {
                struct schedule_job *j = submit(s, who, NULL);
                check_same(j, want, &u[again]);
                schedule_drop(j);
            }
            CHECK(way & 1 || u[0].drafted + u[1].drafted == 0);
            CHECK(u[0].accepted <= u[0].drafted && (way & 2 || u[1].cached_tokens == 0));
            if (way & 2)
                CHECK_U64_EQ(u[1].cached_tokens, PROMPT - 1);
            drafted += u[0].drafted;
            accepted += u[0].accepted;
            cached += u[1].cached_tokens;
            schedule_close(s);
        }
    }
    CHECK(accepted > 50 && accepted < drafted && cached > 0);
}

struct asker {
    struct schedule *s;
    size_t who;
    const int32_t *want;
    bool cancels;
};
static void *ask(void *p)
{
    struct asker *a = p;
    TEST_WHY;
    struct cairn_stop stop = {.deadline_us = 0};
    atomic_init(&stop.cancelled, false);
    struct schedule_job *j = submit(a->s, a->who, &stop);
    if (!a->cancels) {
        check_same(j, a->want, NULL);
    } else {
        int32_t id = 0;
        for (size_t i = 0; i < a->who * 5; i++) {
            CHECK_OK(schedule_next(j, &id, &why));
            CHECK_I64_EQ(id, a->want[i]);
        }
        if (a->who % 2) { /* some say so, some only go */
            atomic_store(&stop.cancelled, true);
            CHECK_ERR(schedule_next(j, &id, &why), CAIRN_ESTOPPED);
        }
    }
    schedule_drop(j);
    return NULL;
}

static void every_request_gets_in_company_what_it_gets_alone(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 12, ROUNDS = 4 };
    static int32_t want[N][WRITE];
    for (size_t i = 0; i < N; i++)
        write_plainly(d, i, want[i]);
    for (unsigned batch = 1; batch <= 16; batch = batch * 2 + 1) {
        struct schedule *s = NULL;
        struct schedule_opts o = usual;
        o.batch_max = batch < 16 ? batch : 16;
        CHECK_OK(schedule_open(&s, d, &o, &why));
        for (int round = 0; round < ROUNDS; round++) {
            pthread_t threads[N];
            struct asker a[N];
            for (size_t i = 0; i < N; i++) {
                a[i] = (struct asker){
                    .s = s, .who = i, .want = want[i], .cancels = (i + (size_t)round) % 4 == 0};
                CHECK(pthread_create(&threads[i], NULL, ask, &a[i]) == 0);
            }
            for (size_t i = 0; i < N; i++)
                CHECK(pthread_join(threads[i], NULL) == 0);
        }
        struct generator_stats st;
        schedule_stats_get(s, &st);
        CHECK(st.rejected == 0 && st.cached_tokens > 0 && (batch > 1 || st.drafted > 0));
        schedule_close(s);
    }
}

struct rule {
    size_t n, ends_at;
    atomic_bool over; /* nobody may call any more */
};
/* Odd tokens only, and an end; the rule is told of each token in turn. */
static int32_t odd_ones(void *ctx, struct sampler *s, float *logits, size_t n, float *scratch, size_t left)
{
    struct rule *r = ctx;
    CHECK(!atomic_load(&r->over) && n == TINY_VOCAB && left == WRITE - r->n);
    for (size_t i = 0; i < n; i += 2)
        logits[i] = -INFINITY;
    return r->n++ == r->ends_at ? -1 : sampler_next(s, logits, n, n, scratch);
}

static void a_rule_chooses_each_token_in_turn_and_ends_with_its_job(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    int32_t ids[PROMPT], text[2][WRITE], id;
    prompt_of(ids, 3);
    for (int drafts = 0; drafts < 2; drafts++) {
        struct schedule *s = NULL;
        struct schedule_opts o = usual;
        struct rule r = {.ends_at = 60};
        struct schedule_job *j = NULL;
        struct schedule_request q = {
            .ids = ids, .n = PROMPT, .max_tokens = WRITE, .choose = odd_ones, .ctx = &r};
        o.draft_max = drafts ? DRAFT_MAX : 0;
        CHECK_OK(schedule_open(&s, d, &o, &why));
        CHECK_OK(schedule_submit(s, &q, &j, &why));
        size_t n = 0;
        for (;; n++) {
            CHECK_OK(schedule_next(j, &id, &why));
            if (id < 0)
                break;
            CHECK(id % 2 == 1);
            text[drafts][n] = id;
        }
        CHECK(n == 60 && r.n == 61);
        schedule_drop(j);
        for (int i = 0; i < 20; i++) { /* dropped in the midst of it: never called again */
            struct rule one = {.ends_at = WRITE};
            q.ctx = &one;
            CHECK_OK(schedule_submit(s, &q, &j, &why));
            for (int k = 0; k < i; k++)
                CHECK_OK(schedule_next(j, &id, &why));
            schedule_drop(j);
            atomic_store(&one.over, true);
        }
        schedule_close(s);
    }
    CHECK(memcmp(text[0], text[1], 60 * sizeof id) == 0);
}

static void pages_that_are_short_make_requests_wait_and_not_fail(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 8 };
    static int32_t want[N][WRITE];
    struct decoder *small = open_with(9); /* two requests of four pages, and one over */
    struct schedule *s = NULL;
    pthread_t threads[N];
    struct asker a[N];
    for (size_t i = 0; i < N; i++)
        write_plainly(d, i, want[i]);
    CHECK_OK(schedule_open(&s, small, &usual, &why));
    for (size_t i = 0; i < N; i++) {
        a[i] = (struct asker){.s = s, .who = i, .want = want[i], .cancels = i % 4 == 2};
        CHECK(pthread_create(&threads[i], NULL, ask, &a[i]) == 0);
    }
    for (size_t i = 0; i < N; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    /* pages that somebody else holds for good are an error, with words */
    struct decoder_seq *other = NULL;
    int32_t id;
    CHECK_OK(decoder_seq_open(&other, small, 6 * DECODER_PAGE, &why));
    enum cairn_err err = CAIRN_EFULL; /* until the job that was dropped last has given its pages back */
    for (int i = 0; err && i < 10000; i++) {
        err = decoder_seq_reserve(other, 6 * DECODER_PAGE, &why);
        if (err)
            usleep(1000);
    }
    CHECK_OK(err);
    struct schedule_job *j = submit(s, 0, NULL);
    CHECK_ERR(schedule_next(j, &id, &why), CAIRN_EFULL);
    CHECK(strstr(why.text, "generator.kv_bytes") != NULL);
    schedule_drop(j);
    decoder_seq_close(other);
    j = submit(s, 0, NULL);
    check_same(j, want[0], NULL);
    schedule_drop(j);
    schedule_close(s);
    decoder_close(small);
}

static void limits_deadlines_and_cancellation_are_errors(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct schedule *s = NULL;
    struct schedule_opts o = usual;
    int32_t ids[PROMPT] = {0}, id;
    struct schedule_job *j = NULL, *more[3];
    o.batch_max = 0;
    CHECK_ERR(schedule_open(&s, d, &o, &why), CAIRN_EINVAL);
    o.batch_max = 1;
    o.queue_max = 2;
    CHECK_OK(schedule_open(&s, d, &o, &why));
    struct schedule_request bad = {.ids = ids, .n = PROMPT, .max_tokens = TINY_CTX};
    CHECK_ERR(schedule_submit(s, &bad, &j, &why), CAIRN_EFULL);
    bad.max_tokens = 0;
    CHECK_ERR(schedule_submit(s, &bad, &j, &why), CAIRN_EINVAL);
    CHECK(j == NULL);
    struct cairn_stop late = {.deadline_us = 1};
    j = submit(s, 0, &late);
    CHECK_ERR(schedule_next(j, &id, &why), CAIRN_EDEADLINE);
    schedule_drop(j);
    /* one runs and is not read, two wait, the next is refused */
    struct generator_stats st;
    struct cairn_stop stop = {.deadline_us = 0};
    for (int i = 0; i < 3; i++)
        more[i] = NULL;
    size_t refused = 0;
    for (int i = 0; i < 200 && !refused;
         i++) { /* the first may end before the next is there: try until full */
        struct schedule_request q = {.ids = ids, .n = PROMPT, .max_tokens = 800, .stop = &stop};
        struct schedule_job **slot = more[0] ? more[1] ? &more[2] : &more[1] : &more[0];
        if (*slot) {
            schedule_drop(more[0]);
            more[0] = more[1];
            more[1] = more[2];
            more[2] = NULL;
            slot = &more[2];
        }
        enum cairn_err err = schedule_submit(s, &q, slot, &why);
        CHECK(err == CAIRN_OK || err == CAIRN_EBUSY);
        refused += err == CAIRN_EBUSY;
    }
    schedule_stats_get(s, &st);
    CHECK(refused == 1 && st.rejected == 1 && strstr(why.text, "generator.queue_max"));
    atomic_store(&stop.cancelled, true);
    for (int i = 0; i < 3; i++)
        if (more[i]) {
            CHECK_ERR(schedule_next(more[i], &id, &why), CAIRN_ESTOPPED);
            schedule_drop(more[i]);
        }
    schedule_close(s);
}

/* A rule that writes a token for each permit; the schedule's thread stands still in it without one. */
struct gate {
    atomic_size_t asked, permits;
    atomic_bool ends;
};
static int32_t by_permit(void *ctx, struct sampler *s, float *logits, size_t n, float *scratch, size_t left)
{
    struct gate *g = ctx;
    (void)s, (void)logits, (void)n, (void)scratch, (void)left;
    size_t mine = atomic_fetch_add(&g->asked, 1);
    while (atomic_load(&g->permits) <= mine && !atomic_load(&g->ends))
        usleep(500);
    return atomic_load(&g->ends) ? -1 : 1;
}
static void wait_asked(struct gate *g, size_t n)
{
    for (int i = 0; i < 20000 && atomic_load(&g->asked) < n; i++)
        usleep(500);
    CHECK(atomic_load(&g->asked) >= n);
}
struct dropping {
    struct schedule_job *j[2];
    atomic_bool done;
};
static void *drop_both(void *p)
{
    struct dropping *d2 = p;
    for (int i = 0; i < 2; i++)
        schedule_drop(d2->j[i]);
    atomic_store(&d2->done, true);
    return NULL;
}

static void what_is_dropped_while_it_waits_is_gone_at_once(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct schedule *s = NULL;
    struct schedule_opts o = usual;
    int32_t ids[PROMPT];
    struct gate gate = {.permits = 0};
    struct rule rule = {.ends_at = 0};
    struct schedule_job *j = NULL, *last = NULL, *more[2];
    struct dropping dropped = {.done = false};
    struct schedule_request q = {.ids = ids, .n = PROMPT, .max_tokens = WRITE, .choose = by_permit};
    prompt_of(ids, 0);
    o.batch_max = 1;
    o.queue_max = 3;
    CHECK_OK(schedule_open(&s, d, &o, &why));
    q.ctx = &gate;
    CHECK_OK(schedule_submit(s, &q, &j, &why));
    wait_asked(&gate, 1);
    q.choose = odd_ones; /* whoever drops a job with a rule waits until the rule is not in use */
    q.ctx = &rule;
    for (int i = 0; i < 2; i++)
        CHECK_OK(schedule_submit(s, &q, &dropped.j[i], &why));
    q.choose = NULL;
    CHECK_OK(schedule_submit(s, &q, &last, &why));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, drop_both, &dropped) == 0);
    for (int i = 0; i < 20000 && !atomic_load(&dropped.done); i++)
        usleep(500);
    bool done = atomic_load(&dropped.done); /* while the thread computes for somebody else */
    struct generator_stats st;
    schedule_stats_get(s, &st);
    enum cairn_err err[2];
    for (int i = 0; i < 2; i++)
        err[i] = schedule_submit(s, &q, &more[i], &why);
    atomic_store(&gate.ends, true);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(done);
    CHECK_U64_EQ(st.waiting, 1);
    for (int i = 0; i < 2; i++)
        CHECK_OK(err[i]);
    schedule_drop(more[1]); /* the last, or already taken in: its place is found either way */
    int32_t id;
    CHECK_OK(schedule_next(last, &id, &why));
    CHECK_OK(schedule_next(more[0], &id, &why));
    schedule_drop(j);
    schedule_drop(last);
    schedule_drop(more[0]);
    schedule_close(s);
}

static void who_waits_behind_one_that_is_dropped_is_looked_at(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct decoder *small = open_with(9);
    struct schedule *s = NULL;
    int32_t ids[PROMPT], id;
    struct gate gate = {.permits = 1};
    struct schedule_job *writes = NULL, *large = NULL, *behind = NULL;
    struct schedule_request q = {
        .ids = ids, .n = PROMPT, .max_tokens = WRITE, .choose = by_permit, .ctx = &gate};
    struct cairn_stop stop = {.deadline_us = cairn_now_us() + 10 * INT64_C(1000000)};
    prompt_of(ids, 0);
    CHECK_OK(schedule_open(&s, small, &usual, &why));
    CHECK_OK(schedule_submit(s, &q, &writes, &why)); /* four pages */
    q.choose = NULL;
    q.max_tokens = 400; /* nine: not beside the first */
    CHECK_OK(schedule_submit(s, &q, &large, &why));
    wait_asked(&gate, 2);
    q.max_tokens = WRITE;
    q.stop = &stop;
    CHECK_OK(schedule_submit(s, &q, &behind, &why));
    atomic_store(&gate.permits, 3);
    wait_asked(&gate, 4);
    struct generator_stats st;
    schedule_stats_get(s, &st);
    CHECK(st.running == 1 && st.waiting == 2);
    schedule_drop(large);
    atomic_store(&gate.permits, WRITE - 1); /* the first never ends */
    enum cairn_err err = schedule_next(behind, &id, &why);
    atomic_store(&gate.ends, true);
    CHECK_OK(err);
    schedule_drop(writes);
    schedule_drop(behind);
    schedule_close(s);
    decoder_close(small);
}

static void writing_allocates_nothing_and_no_memory_is_an_error(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    int32_t want[WRITE], ids[PROMPT], id;
    write_plainly(d, 1, want);
    prompt_of(ids, 1);
    for (uint64_t nth = 1;; nth++) {
        struct schedule *s = NULL;
        struct schedule_job *j = NULL;
        struct schedule_request q = {.ids = ids, .n = PROMPT, .max_tokens = WRITE, .sampler = sampler_of(1)};
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = schedule_open(&s, d, &usual, &why);
        if (!err)
            err = schedule_submit(s, &q, &j, &why);
        if (!err)
            err = schedule_next(j, &id, &why); /* the sequence is opened by the thread */
        uint64_t before = cairn_alloc_count();
        cairn_alloc_fail_after(0, false);
        for (size_t i = 1; !err && i < WRITE; i++) {
            CHECK_OK(schedule_next(j, &id, &why));
            CHECK_I64_EQ(id, want[i]);
        }
        if (!err)
            CHECK_U64_EQ(cairn_alloc_count(), before);
        schedule_drop(j);
        schedule_close(s);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
}

static void lookup_takes_the_longest_then_the_sources_then_the_latest(void **state)
{
    UNUSED_STATE(state);
    int32_t out[8];
    const int32_t none[] = {1, 2, 3, 4, 5};
    CHECK_U64_EQ(draft_find(none, 5, 0, 5, out, 8), 0);
    CHECK_U64_EQ(draft_find(none, 0, 0, 0, out, 8), 0);
    const int32_t one[] = {7, 2, 9, 8, 5, 4, 2}; /* one token alike: two guesses; two: four */
    CHECK_U64_EQ(draft_find(one, 7, 0, 7, out, 8), 2);
    CHECK(out[0] == 9 && out[1] == 8);
    const int32_t two[] = {7, 1, 2, 9, 8, 5, 4, 3, 1, 2};
    CHECK_U64_EQ(draft_find(two, 10, 0, 10, out, 8), 4);
    CHECK(out[0] == 9 && out[1] == 8 && out[2] == 5 && out[3] == 4);
    CHECK_U64_EQ(draft_find(two, 10, 0, 10, out, 3), 3);
    const int32_t longer[] = {3, 1, 2, 40, 4, 1, 2, 50, 3, 1, 2}; /* 3 1 2 beats the later 1 2 */
    CHECK_U64_EQ(draft_find(longer, 11, 0, 0, out, 1), 1);
    CHECK_I64_EQ(out[0], 40);
    const int32_t inside[] = {1, 2, 40, 1, 2, 50, 1, 2}; /* equal: the sources', else the latest */
    CHECK_U64_EQ(draft_find(inside, 8, 0, 3, out, 1), 1);
    CHECK_I64_EQ(out[0], 40);
    CHECK_U64_EQ(draft_find(inside, 8, 0, 0, out, 1), 1);
    CHECK_I64_EQ(out[0], 50);
    CHECK_U64_EQ(draft_find(inside, 8, 0, 8, out, 8), 3); /* as far as there is something */
    size_t length = DRAFT_START;
    for (int i = 0; i < 10; i++)
        length = draft_length(length, length, length);
    CHECK_U64_EQ(length, DRAFT_MAX);
    CHECK_U64_EQ(draft_length(7, 7, 2), 3);
    CHECK_U64_EQ(draft_length(7, 7, 5), 5);
    CHECK_U64_EQ(draft_length(3, 2, 2), 5);
    for (int i = 0; i < 5; i++)
        length = draft_length(length, length, 0);
    CHECK_U64_EQ(length, 1);
    CHECK_U64_EQ(draft_length(4, 0, 0), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lookup_takes_the_longest_then_the_sources_then_the_latest),
        TEST(drafts_and_kept_beginnings_change_nothing_but_time),
        TEST(every_request_gets_in_company_what_it_gets_alone),
        TEST(a_rule_chooses_each_token_in_turn_and_ends_with_its_job),
        TEST(pages_that_are_short_make_requests_wait_and_not_fail),
        TEST(limits_deadlines_and_cancellation_are_errors),
        TEST(what_is_dropped_while_it_waits_is_gone_at_once),
        TEST(who_waits_behind_one_that_is_dropped_is_looked_at),
        TEST(writing_allocates_nothing_and_no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
