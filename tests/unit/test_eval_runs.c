/* `cairn eval` over small sets written here, without models: what is counted, what is refused, what leaks,
 * exit codes. */
#include "check.h"

#include <cairn/eval.h>
#include <fcntl.h>
#include <jansson.h>

#define N_WORDS(w) ((int)(sizeof(w) / sizeof(w)[0]) - 1)

struct place {
    char *dir;
};

static void write_to(const struct place *p, const char *name, const char *text)
{
    TEST_WHY;
    char *path = cairn_path_join(p->dir, name), *slash = strrchr(path, '/');
    *slash = 0;
    CHECK_OK(cairn_mkdirs(path, &why));
    *slash = '/';
    CHECK_OK(cairn_write_file(path, text, strlen(text), &why));
    cairn_free(path);
}

/* Runs the command in p->dir with stdout in a file; *out OWNED. */
static int run(const struct place *p, int (*command)(int, char **), int argc, const char **argv, char **out)
{
    TEST_WHY;
    size_t len;
    char *path = cairn_path_join(p->dir, "stdout");
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), saved = dup(STDOUT_FILENO),
        saved_err = dup(STDERR_FILENO), file = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600),
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(here >= 0 && saved >= 0 && file >= 0 && null >= 0);
    fflush(stdout);
    CHECK(dup2(file, STDOUT_FILENO) >= 0 && dup2(null, STDERR_FILENO) >= 0 && chdir(p->dir) == 0);
    int code = command(argc, (char **)(uintptr_t)argv);
    fflush(stdout);
    CHECK(dup2(saved, STDOUT_FILENO) >= 0 && dup2(saved_err, STDERR_FILENO) >= 0 && fchdir(here) == 0);
    close(here);
    close(saved);
    close(saved_err);
    close(file);
    close(null);
    CHECK_OK(cairn_read_file(out, &len, path, 1 << 20, &why));
    cairn_free(path);
    return code;
}

static double number(const json_t *v, const char *a, const char *b, const char *c)
{
    v = json_object_get(v, a);
    v = b ? json_object_get(v, b) : v;
    v = c ? json_object_get(v, c) : v;
    CHECK(json_is_number(v));
    return json_number_value(v);
}

static const char corpus[] =
    "{\"_id\": \"d1\", \"title\": \"Cairns\", \"text\": \"A heap of stones marks the trail.\"}\n"
    "{\"_id\": \"d2\", \"title\": \"\", \"text\": \"Lighthouses guide ships along the coast.\"}\n"
    "{\"_id\": 3, \"text\": \"A compass points north.\"}\n";

static void a_beir_set_is_searched_and_scored(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    char *out;
    write_to(&p, "set/corpus.jsonl", corpus);
    write_to(&p, "set/queries.jsonl",
             "{\"_id\": \"q1\", \"text\": \"cairns\"}\n{\"_id\": \"q2\", \"text\": \"which way is north\"}\n"
             "{\"_id\": \"q3\", \"text\": \"zeppelin\"}\n{\"_id\": \"unjudged\", \"text\": \"ships\"}\n");
    write_to(&p, "set/qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\t3\t1\nq3\td2\t1\nq4\td2\t1\n");
    const char *argv[] = {"eval", "retrieval",  "--set", "set/",   "--data",    "cache", "--embedder",
                          "none", "--reranker", "none",  "--json", "--run-out", "run",   NULL};
    for (int turn = 0; turn < 2; turn++) { /* the second time from the store of the first */
        CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
        json_t *v = json_loads(out, 0, NULL);
        CHECK(v != NULL);
        CHECK_STR_EQ(json_string_value(json_object_get(v, "set")), "set");
        CHECK_NEAR(number(v, "n_queries", NULL, NULL), 3, 0);
        CHECK_NEAR(number(v, "timings", "documents_built", NULL), turn ? 0 : 3, 0);
        CHECK_NEAR(number(v, "metrics", "lexical", "ndcg@10"), 0.5,
                   1e-12); /* q4 is judged and absent: it counts */
        CHECK_NEAR(number(v, "metrics", "lexical", "recall@100"), 0.5, 1e-12);
        CHECK(!json_object_get(json_object_get(v, "metrics"), "dense"));
        CHECK(number(v, "generation", NULL, NULL) > 0);
        json_decref(v);
        cairn_free(out);
    }
    const char *score[] = {"eval",          "retrieval", "--run",  "run.lexical", "--qrels",
                           "set/qrels.tsv", "--json",    "--both", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(score), score, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "n_queries", NULL, NULL), 2, 0);
    CHECK_NEAR(number(v, "metrics", "run", "mrr@10"), 1, 1e-12);
    json_decref(v);
    cairn_free(out);
    test_rmdir(p.dir);
}

static void passages_with_questions_are_a_set_too(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    char *out;
    write_to(&p, "squad/passages.jsonl", corpus);
    write_to(&p, "squad/questions.jsonl",
             "{\"id\": \"a\", \"question\": \"What marks the trail?\", \"passage_id\": \"d1\", \"answers\": "
             "[\"stones\"], \"is_impossible\": false}\n"
             "{\"id\": \"b\", \"question\": \"What marks the sea?\", \"passage_id\": \"d1\", \"answers\": "
             "[], \"is_impossible\": true}\n"
             "{\"id\": \"c\", \"question\": \"What do lighthouses guide?\", \"passage_id\": \"d2\", "
             "\"answers\": [\"ships\"], \"is_impossible\": false}\n");
    const char *argv[] = {"eval",       "retrieval", "--set",      "squad", "--data", "cache",
                          "--embedder", "none",      "--reranker", "none",  "--json", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "n_queries", NULL, NULL), 2, 0);
    CHECK_NEAR(number(v, "metrics", "lexical", "mrr@10"), 1, 1e-12);
    json_decref(v);
    cairn_free(out);
    const char *one[] = {"eval",       "retrieval",  "--set", "squad",      "--data",
                         "cache",      "--embedder", "none",  "--reranker", "none",
                         "--sample=1", "--seed",     "5",     "--json",     NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(one), one, &out), 0);
    v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "n_queries", NULL, NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "lexical", "mrr@10"), 1, 1e-12); /* scored over the sample alone */
    json_decref(v);
    cairn_free(out);
    test_rmdir(p.dir);
}

static const char questions[] =
    "{\"id\": \"fact-1\", \"question\": \"How many days of leave does Ondola give?\", \"answers\": [\"28 "
    "days\"], \"spans\": [{\"document\": "
    "\"leave.md\", \"start\": 9, \"end\": 44}], \"groups\": [\"everyone\"], \"answerable\": true}\n"
    "{\"id\": \"fact-2\", \"question\": \"Which colour has the Ondola logo?\", \"answers\": [\"deep teal\"], "
    "\"spans\": [{\"document\": "
    "\"logo.html\", \"start\": 42, \"end\": 93}], \"groups\": [\"everyone\"], \"answerable\": true}\n"
    "{\"id\": \"group-hr-1\", \"question\": \"What is the salary of the Ondola gardener?\", \"answers\": "
    "[\"41,200 euros\"], \"spans\": "
    "[{\"document\": \"secret/pay.txt\", \"start\": 0, \"end\": 48}], \"groups\": [\"everyone\", \"hr\"], "
    "\"answerable\": true}\n";

static void write_answers_set(const struct place *p, const char *acl)
{
    write_to(p, "kb/leave.md", "# Leave\n\nOndola gives 28 days of leave a year.\n");
    write_to(p, "kb/logo.html",
             "<html><head><title>Logo</title></head><p>The Ondola logo&#32;has the colour <b>deep "
             "teal</b>.</p></html>\n");
    write_to(p, "kb/secret/pay.txt", "The salary of the Ondola gardener is 41,200 euros.\n");
    write_to(p, "kb/acl.json", acl);
    write_to(p, "questions.jsonl", questions);
}
static const char *const ask[] = {"eval",        "answers",       "--set",  "questions.jsonl", "--data",
                                  "cache",       "--embedder",    "none",   "--reranker",      "none",
                                  "--generator", "none",          "--mode", "extract",         "--json",
                                  "--out",       "records.jsonl", NULL};

static void answers_are_judged_and_a_closed_document_does_not_leak(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct place p = {test_tmpdir()};
    char *out;
    size_t len;
    write_answers_set(&p, "{\"groups\": [\"everyone\", \"hr\"], \"rules\": [{\"path\": \"secret/*\", "
                          "\"allow\": [\"hr\"]}, {\"path\": \"*\", "
                          "\"allow\": [\"everyone\"]}]}");
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(ask), (const char **)(uintptr_t)ask, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK(v != NULL);
    CHECK_NEAR(number(v, "n", NULL, NULL), 3, 0);
    CHECK_NEAR(number(v, "metrics", "contains", NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "token_recall", NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "verdict_share", NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "wrong_refusals", NULL), 0, 0);
    CHECK_GE(number(v, "by_kind", "fact", "citation_precision"),
             0.5); /* the span of the page is found behind its markup */
    CHECK_NEAR(number(v, "by_kind", "group-hr", "leak_questions"), 1, 0);
    CHECK_NEAR(number(v, "metrics", "leaks", NULL), 0, 0);
    json_decref(v);
    cairn_free(out);
    char *path = cairn_path_join(p.dir, "records.jsonl");
    CHECK_OK(cairn_read_file(&out, &len, path, 1 << 20, &why));
    CHECK(strstr(out, "\"id\":\"group-hr-1\"") && strstr(out, "\"without_group\""));
    cairn_free(out);
    cairn_free(path);
    test_rmdir(p.dir);
}

/* The detector must be able to find a leak: the same question, when everyone may read the document. */
static void a_leak_is_counted(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    char *out;
    write_answers_set(
        &p,
        "{\"groups\": [\"everyone\", \"hr\"], \"rules\": [{\"path\": \"*\", \"allow\": [\"everyone\"]}]}");
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(ask), (const char **)(uintptr_t)ask, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "metrics", "leaks", NULL), 1, 0);
    json_decref(v);
    cairn_free(out);
    test_rmdir(p.dir);
}

static void wrong_use_and_absent_files_have_their_codes(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    char *out;
    write_to(&p, "bad/corpus.jsonl", "{\"_id\": \"a\"}\n");
    write_to(&p, "bad/queries.jsonl", "[]\n");
    static const struct {
        const char *argv[8];
        int argc, code;
    } cases[] = {
        {{"eval"},                                                       1, 2},
        {{"eval", "frobnicate"},                                         2, 2},
        {{"eval", "retrieval"},                                          2, 2},
        {{"eval", "retrieval", "--set"},                                 3, 2},
        {{"eval", "retrieval", "--set", "bad", "--sample", "-3"},        6, 2},
        {{"eval", "retrieval", "--set", "bad", "--dense-weight", "2"},   6, 2},
        {{"eval", "retrieval", "--set", "bad", "--legs", "magic"},       6, 2},
        {{"eval", "retrieval", "--set", "bad", "--measures", "ndcg@x"},  6, 2},
        {{"eval", "retrieval", "--set", "absent", "--embedder", "none"}, 6, 3},
        {{"eval", "retrieval", "--set", "bad", "--embedder", "none"},    6, 1},
        {{"eval", "retrieval", "--run", "absent", "--qrels", "absent"},  6, 3},
        {{"eval", "answers", "--set", "absent"},                         4, 3},
        {{"eval", "answers", "--json"},                                  3, 2},
        {{"eval", "retrieval", "--help"},                                3, 0},
        {{"eval", "answers", "--help"},                                  3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_I64_EQ(run(&p, eval_main, cases[i].argc, (const char **)(uintptr_t)cases[i].argv, &out),
                     cases[i].code);
        cairn_free(out);
    }
    const char *bench[] = {"bench", "--kb", "absent", "--data", ".", NULL};
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(bench), bench, &out), 3);
    cairn_free(out);
    test_rmdir(p.dir);
}

static void the_vector_index_is_measured_on_a_small_set(void **state)
{
    (void)state;
    TEST_WHY;
    struct place p = {test_tmpdir()};
    char *out, *svg;
    size_t len;
    const char *index[] = {"bench", "index",    "--quick",   "--json",    "--work", "w",
                           "--svg", "here.svg", "--filters", "--deletes", NULL};
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(index), index, &out), 0);
    json_t *v = json_loads(out, 0, NULL), *runs = json_object_get(v, "runs"), *r;
    size_t i;
    double best = 0;
    CHECK(json_array_size(runs) > 0 && json_object_get(v, "ratios"));
    json_array_foreach(runs, i, r)
    {
        CHECK_STR_EQ(json_string_value(json_object_get(r, "engine")), "cairn");
        CHECK(number(r, "qps", NULL, NULL) > 0 && number(r, "p99_us", NULL, NULL) > 0);
        best = number(r, "recall", NULL, NULL) > best ? number(r, "recall", NULL, NULL) : best;
    }
    CHECK_GE(best, 0.99);
    CHECK_U64_EQ(json_array_size(json_object_get(v, "filters")), 25); /* five shares, five widths */
    json_array_foreach(json_object_get(v, "filters"), i, r) CHECK_GE(number(r, "recall", NULL, NULL), 0.9);
    CHECK_U64_EQ(json_array_size(json_object_get(v, "deletes")), 14); /* seven states, two widths */
    json_array_foreach(json_object_get(v, "deletes"), i, r) CHECK_GE(number(r, "recall", NULL, NULL), 0.9);
    json_decref(v);
    cairn_free(out);
    char *path = cairn_path_join(p.dir, "here.svg");
    CHECK_OK(cairn_read_file(&svg, &len, path, 1 << 20, &why));
    CHECK(strncmp(svg, "<svg ", 5) == 0);
    cairn_free(svg);
    cairn_free(path);
    const char *half[] = {"bench", "index", "--base", "absent.npy", NULL},
               *absent[] = {"bench",   "index", "--base", "absent.npy", "--query", "absent.npy",
                            "--peers", "none",  "--work", "w",          NULL},
               *unknown[] = {"bench", "index", "--set", "nothing", "--peers", "none", "--work", "w", NULL};
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(half), half, &out), 2);
    cairn_free(out);
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(absent), absent, &out), 3);
    cairn_free(out);
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(unknown), unknown, &out), 1);
    cairn_free(out);
    test_rmdir(p.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_beir_set_is_searched_and_scored),
        TEST(passages_with_questions_are_a_set_too),
        TEST(answers_are_judged_and_a_closed_document_does_not_leak),
        TEST(a_leak_is_counted),
        TEST(the_vector_index_is_measured_on_a_small_set),
        TEST(wrong_use_and_absent_files_have_their_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
