/* After doc.delete has answered, no search, answer or citation that begins later shows the document; tested
 * while others search and ask without pause. Each document carries a word of its own. */
#include "server_fixture.h"

enum { DOCS = 24, READERS = 3 };

struct shared {
    const char *addr;
    atomic_llong deleted_at[DOCS]; /* monotonic time at which the delete's answer had come; 0: not yet */
    atomic_bool stop;
    atomic_size_t searches, asks, shown, leaks;
};

/* Does the reply name document i or hold its word? */
static bool shows(json_t *j, size_t i)
{
    char id[32], word[32];
    snprintf(id, sizeof id, "\"doc%zu.txt\"", i);
    snprintf(word, sizeof word, "zebu%zux", i);
    char *text = json_dumps(j, JSON_ENCODE_ANY);
    CHECK(text);
    bool found = strstr(text, id) || strstr(text, word);
    free(text); /* jansson's */
    return found;
}

static void *reader(void *ctx)
{
    struct shared *s = ctx;
    uint64_t seed = 99 + (uint64_t)(uintptr_t)&seed;
    int fd = dial(s->addr);
    for (uint32_t id = 1; !atomic_load(&s->stop); id++) {
        size_t i = (size_t)(test_rand(&seed) % DOCS);
        char params[256];
        bool ask = id % 4 == 0;
        if (ask)
            snprintf(params, sizeof params,
                     "{\"collection\":\"herd\",\"question\":\"Where does the animal zebu%zux of the herd "
                     "graze?\",\"mode\":\"extract\"}",
                     i);
        else
            snprintf(params, sizeof params,
                     "{\"collection\":\"herd\",\"query\":\"animal grazes near the river\",\"k\":50}");
        int64_t begun = cairn_now_us();
        put_request(fd, id, ask ? "ask" : "search", params);
        json_t *j = answer(fd, id);
        if (!j)
            break;
        json_t *r = json_array_get(j, 3);
        if (json_is_null(json_array_get(j, 2))) {
            for (size_t d = 0; d < DOCS; d++) {
                int64_t gone = atomic_load(&s->deleted_at[d]);
                if (shows(r, d)) {
                    atomic_fetch_add(&s->shown, 1);
                    if (gone && gone < begun)
                        atomic_fetch_add(&s->leaks, 1);
                }
            }
        }
        atomic_fetch_add(ask ? &s->asks : &s->searches, 1);
        json_decref(j);
    }
    close(fd);
    return NULL;
}

static void a_deleted_document_is_gone_for_every_later_request(void **state)
{
    UNUSED_STATE(state);
    struct serving v;
    struct shared s = {.searches = 0};
    pthread_t t[READERS];
    char params[512];
    serve_start(&v, NULL, NULL);
    s.addr = v.addr;
    fix_do(v.f.s, "collection.create", "{\"collection\":\"herd\",\"embedder\":\"none\"}");
    for (size_t i = 0; i < DOCS; i++) {
        snprintf(params, sizeof params,
                 "{\"collection\":\"herd\",\"documents\":[{\"id\":\"doc%zu.txt\",\"text\":\"The animal "
                 "zebu%zux of the herd grazes near the river in the valley.\"}]}",
                 i, i);
        fix_do(v.f.s, "doc.put", params);
    }
    for (int i = 0; i < READERS; i++)
        CHECK(pthread_create(&t[i], NULL, reader, &s) == 0);
    int fd = dial(v.addr);
    for (size_t i = 0; i < DOCS; i++) {
        size_t before = atomic_load(&s.searches) + atomic_load(&s.asks);
        snprintf(params, sizeof params, "{\"collection\":\"herd\",\"ids\":[\"doc%zu.txt\"]}", i);
        put_request(fd, (uint32_t)i, "doc.delete", params);
        json_t *j = answer(fd, (uint32_t)i);
        CHECK(j && json_is_null(json_array_get(j, 2)));
        CHECK_I64_EQ(j_int(json_array_get(j, 3), "deleted"), 1);
        json_decref(j);
        atomic_store(&s.deleted_at[i], cairn_now_us());
        put_request(fd, (uint32_t)(1000 + i), "search",
                    "{\"collection\":\"herd\",\"query\":\"animal grazes\",\"k\":50}");
        j = answer(fd, (uint32_t)(1000 + i));
        CHECK(j && !shows(json_array_get(j, 3), i));
        CHECK_U64_EQ(j_len(json_array_get(j, 3), "hits"), DOCS - 1 - i);
        json_decref(j);
        while (atomic_load(&s.searches) + atomic_load(&s.asks) < before + 12)
            usleep(500);
    }
    atomic_store(&s.stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(t[i], NULL);
    put_request(fd, 9000, "doc.list", "{\"collection\":\"herd\"}");
    json_t *j = answer(fd, 9000);
    CHECK_U64_EQ(j_len(json_array_get(j, 3), "documents"), 0);
    json_decref(j);
    close(fd);
    print_message("%zu searches, %zu asks, documents shown %zu times, after their delete %zu\n",
                  (size_t)atomic_load(&s.searches), (size_t)atomic_load(&s.asks),
                  (size_t)atomic_load(&s.shown), (size_t)atomic_load(&s.leaks));
    CHECK_GE(atomic_load(&s.shown), DOCS); /* the readers did see documents while they lived */
    CHECK_U64_EQ(atomic_load(&s.leaks), 0);
    serve_end(&v);
}

/* A source that goes while its answer streams: the answer fails, and nothing of the document comes after the
 * delete. */
struct during {
    struct service *s;
    size_t events;
};
static bool delete_after_sources(void *ctx, const char *name, const void *p, size_t len)
{
    struct during *d = ctx;
    (void)name;
    (void)p;
    (void)len;
    if (d->events++ == 0)
        fix_do(d->s, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"leave.md\"]}");
    return true;
}
static void an_answer_whose_source_goes_is_not_given(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    fix_fill(f.s);
    struct during d = {f.s, 0};
    struct api_sink sink = {delete_after_sources, &d};
    enum cairn_err err;
    json_t *j = fix_try(f.s, &fix_local, "ask",
                        "{\"collection\":\"hr\",\"question\":\"How many days of annual leave are "
                        "there?\",\"mode\":\"extract\"}",
                        &sink, &err, &why);
    CHECK(!j);
    CHECK_I64_EQ(err, CAIRN_ESTATE);
    CHECK(strstr(why.text, "ask again"));
    CHECK_U64_EQ(d.events, 1); /* only the sources, from before */
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_deleted_document_is_gone_for_every_later_request),
        TEST(an_answer_whose_source_goes_is_not_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
