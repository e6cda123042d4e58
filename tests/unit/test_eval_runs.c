/* `cairn eval` over small sets written here, without models: what is counted, what is refused, what leaks,
 * exit codes. */
#include "check.h"

#include <cairn/api.h>
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

/* COVID-QA's layout: whole documents, answers by code point; MTRAG's: the last turn of a conversation asks.
 */
static void documents_are_cut_and_conversations_end_in_a_question(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    struct cairn_buf long_text;
    char *out;
    cairn_buf_init(&long_text, 1 << 20);
    cairn_buf_puts(&long_text, "{\"_id\": \"d\", \"title\": \"Caf\u00e9s\", \"text\": \"");
    size_t at = 0; /* code points before the answer */
    for (int i = 0; i < 120; i++) {
        cairn_buf_puts(&long_text,
                       "Le caf\xc3\xa9 num\xc3\xa9ro dort encore un peu plus longtemps aujourd'hui. ");
        at += 62;
    }
    cairn_buf_puts(&long_text, "The zeppelin landed at noon.\"}\n");
    cairn_buf_put(&long_text, "", 1);
    write_to(&p, "covid/documents.jsonl", long_text.bytes);
    cairn_buf_release(&long_text);
    char *question =
        cairn_asprintf("{\"id\": 7, \"question\": \"When did the zeppelin land?\", \"doc_id\": \"d\", "
                       "\"answers\": [{\"text\": \"noon\", \"start\": %zu}]}\n",
                       at + 4);
    write_to(&p, "covid/questions.jsonl", question);
    cairn_free(question);
    const char *argv[] = {"eval",       "retrieval", "--set",      "covid", "--data", "cache",
                          "--embedder", "none",      "--reranker", "none",  "--json", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK(number(v, "settings", "n_documents", NULL) > 1);
    CHECK_NEAR(number(v, "metrics", "lexical", "mrr@10"), 1, 1e-12);
    json_decref(v);
    cairn_free(out);
    write_to(&p, "mt/passages.jsonl", corpus);
    write_to(&p, "mt/tasks.jsonl",
             "{\"id\": \"t<::>1\", \"conversation\": [{\"speaker\": \"user\", \"text\": \"lighthouses\"}, "
             "{\"speaker\": \"user\", \"text\": \"what points north?\"}]}\n");
    write_to(&p, "mt/qrels.tsv", "query-id\tcorpus-id\tscore\nt<::>1\t3\t1\n");
    argv[3] = "mt";
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "metrics", "lexical", "mrr@10"), 1, 1e-12);
    json_decref(v);
    cairn_free(out);
    test_rmdir(p.dir);
}

/* Halves share no query and together are all; a run is compared with an earlier one query by query. */
static void halves_and_baselines(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    struct cairn_buf docs, queries, good, bad;
    char *out;
    cairn_buf_init(&docs, 1 << 20);
    cairn_buf_init(&queries, 1 << 20);
    cairn_buf_init(&good, 1 << 20);
    cairn_buf_init(&bad, 1 << 20);
    cairn_buf_puts(&good, "query-id\tcorpus-id\tscore\n");
    for (int i = 0; i < 40; i++) {
        cairn_buf_printf(&docs, "{\"_id\": \"d%d\", \"text\": \"word%d stands here\"}\n", i, i);
        cairn_buf_printf(&queries, "{\"_id\": \"q%d\", \"text\": \"word%d\"}\n", i, i);
        cairn_buf_printf(&good, "q%d\td%d\t1\n", i, i);
        cairn_buf_printf(&bad, "q%d Q0 d%d 1 1 x\n", i, i % 4 ? i : i + 1); /* ten queries miss */
    }
    struct cairn_buf *const all[] = {&docs, &queries, &good, &bad};
    const char *const names[] = {"set/corpus.jsonl", "set/queries.jsonl", "set/qrels.tsv", "run"};
    for (int i = 0; i < 4; i++) {
        cairn_buf_put(all[i], "", 1);
        write_to(&p, names[i], all[i]->bytes);
        cairn_buf_release(all[i]);
    }
    const char *half[] = {"eval",       "retrieval", "--set",      "set",  "--data", "cache",
                          "--embedder", "none",      "--reranker", "none", "--json", "--half",
                          "1",          "--out",     "half1",      NULL};
    double n = 0;
    for (int i = 0; i < 2; i++) {
        half[12] = i ? "2" : "1";
        half[14] = i ? "half2" : "half1";
        CHECK_I64_EQ(run(&p, eval_main, N_WORDS(half), half, &out), 0);
        json_t *v = json_loads(out, 0, NULL);
        CHECK(number(v, "n_queries", NULL, NULL) >= 8);
        n += number(v, "n_queries", NULL, NULL);
        CHECK_NEAR(number(v, "metrics", "lexical", "mrr@10"), 1, 1e-12);
        json_decref(v);
        cairn_free(out);
    }
    CHECK_NEAR(n, 40, 0);
    const char *apart[] = {"eval", "compare", "--before", "half1", "--now", "half2", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(apart), apart, &out), 1); /* nothing in common */
    cairn_free(out);
    const char *base[] = {"eval",          "retrieval", "--run",  "run", "--qrels",
                          "set/qrels.tsv", "--out",     "before", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(base), base, &out), 0);
    cairn_free(out);
    const char *same[] = {"eval",   "compare",        "--before", "before", "--now",
                          "before", "--fail-on-drop", "--json",   NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(same), same, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "baseline", "run mrr@10", "difference"), 0, 0);
    CHECK_NEAR(number(v, "baseline", "run mrr@10", "p"), 1, 1e-12);
    CHECK_NEAR(number(v, "baseline", "run mrr@10", "n"), 40, 0);
    json_decref(v);
    cairn_free(out);
    const char *all_right[] = {"eval", "retrieval",  "--set", "set",    "--data",    "cache", "--embedder",
                               "none", "--reranker", "none",  "--json", "--run-out", "fine",  NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(all_right), all_right, &out), 0);
    cairn_free(out);
    const char *fine[] = {"eval",          "retrieval",      "--run", "fine.lexical", "--qrels",
                          "set/qrels.tsv", "--out",          "good",  "--json",       "--baseline",
                          "before",        "--fail-on-drop", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(fine), fine, &out), 0); /* better is no drop */
    v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "baseline", "run mrr@10", "difference"), 0.25, 1e-12);
    CHECK(number(v, "baseline", "run mrr@10", "low") > 0 && number(v, "baseline", "run mrr@10", "p") < 0.01);
    const json_t *x = json_object_get(json_object_get(v, "intervals"), "run mrr@10");
    CHECK_NEAR(json_number_value(json_array_get(x, 0)), 1, 0);
    json_decref(v);
    cairn_free(out);
    const char *none[] = {"eval",          "retrieval", "--run", "fine.lexical", "--qrels",
                          "set/qrels.tsv", "--draws",   "0",     "--json",       NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(none), none, &out), 0);
    v = json_loads(out, 0, NULL);
    CHECK_U64_EQ(json_object_size(json_object_get(v, "intervals")), 0); /* none asked for, none told */
    json_decref(v);
    cairn_free(out);
    const char *drop[] = {"eval", "compare", "--before", "good", "--now", "before", "--fail-on-drop", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(drop), drop, &out), 1);
    cairn_free(out);
    test_rmdir(p.dir);
}

static void an_index_is_compared_with_its_earlier_run(void **state)
{
    UNUSED_STATE(state);
    if (!test_model_file("all-minilm-l6-v2", "model.safetensors"))
        skip();
    struct place p = {test_tmpdir()};
    char *out;
    write_to(&p, "set/corpus.jsonl", corpus);
    write_to(&p, "set/queries.jsonl", "{\"_id\": \"q1\", \"text\": \"cairns\"}\n");
    write_to(&p, "set/qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n");
    const char *argv[] = {"eval",
                          "ann",
                          "--set",
                          "set",
                          "--data",
                          "cache",
                          "--embedder",
                          "all-minilm-l6-v2",
                          "--json",
                          "--out",
                          "records",
                          "--models",
                          test_models_dir(),
                          "--baseline",
                          "records",
                          "--fail-on-drop",
                          NULL};
    CHECK_I64_EQ(run(&p, eval_main, 13, argv, &out), 0);
    cairn_free(out);
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "baseline", "recall", "difference"), 0, 0);
    CHECK_NEAR(number(v, "baseline", "recall", "n"), 1, 0);
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
    write_to(&p, "empty/kb/a.txt", "A document.\n");
    write_to(&p, "empty/questions.jsonl", "");
    static const struct {
        const char *argv[8];
        int argc, code;
    } cases[] = {
        {{"eval"},                                                                      1, 2},
        {{"eval", "frobnicate"},                                                        2, 2},
        {{"eval", "retrieval"},                                                         2, 2},
        {{"eval", "retrieval", "--set"},                                                3, 2},
        {{"eval", "retrieval", "--set", "bad", "--sample", "-3"},                       6, 2},
        {{"eval", "retrieval", "--set", "bad", "--dense-weight", "2"},                  6, 2},
        {{"eval", "retrieval", "--set", "bad", "--legs", "magic"},                      6, 2},
        {{"eval", "retrieval", "--set", "bad", "--measures", "ndcg@x"},                 6, 2},
        {{"eval", "retrieval", "--set", "absent", "--embedder", "none"},                6, 3},
        {{"eval", "retrieval", "--set", "bad", "--embedder", "none"},                   6, 1},
        {{"eval", "retrieval", "--run", "absent", "--qrels", "absent"},                 6, 3},
        {{"eval", "answers", "--set", "absent"},                                        4, 3},
        {{"eval", "answers", "--json"},                                                 3, 2},
        {{"eval", "retrieval", "--help"},                                               3, 0},
        {{"eval", "answers", "--help"},                                                 3, 0},
        {{"eval", "retrieval", "--set", "bad", "--half", "3"},                          6, 2},
        {{"eval", "retrieval", "--set", "bad", "--backend", "abacus"},                  6, 2},
        {{"bench", "--backend", "abacus"},                                              3, 2},
        {{"bench", "model", "--backend", "abacus"},                                     4, 2},
        {{"eval", "retrieval", "--set", "bad", "--fail-on-drop"},                       5, 2},
        {{"eval", "all", "--sets", ".", "--fail-on-drop"},                              5, 2},
        {{"eval", "all", "--sets", ".", "--only", "retrieval", "--baseline", "absent"}, 8, 3},
        {{"eval", "all", "--sets", ".", "--only", "nothing", "--baseline", "bad"},      8, 1},
        {{"eval", "retrieval", "--run", "r", "--qrels", "q", "--sample", "5"},          8, 2},
        {{"eval", "retrieval", "--run", "r", "--qrels", "q", "--half", "1"},            8, 2},
        {{"eval", "retrieval", "--run", "r", "--qrels", "q", "--legs", "lexical"},      8, 2},
        {{"eval", "retrieval", "--run", "r", "--qrels", "q", "--k", "100"},             8, 2},
        {{"bench", "--kb", "empty/kb", "--data", "."},                                  5, 1},
        {{"bench", "answers", "--kb", "empty/kb", "--data", "."},                       6, 1},
        {{"eval", "retrieval", "--set", "bad", "--fusion", "magic"},                    6, 2},
        {{"eval", "compare", "--before", "absent"},                                     4, 2},
        {{"eval", "compare", "--before", "absent", "--now", "absent"},                  6, 3},
        {{"eval", "compare", "--help"},                                                 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_I64_EQ(run(&p, strcmp(cases[i].argv[0], "bench") == 0 ? bench_main : eval_main, cases[i].argc,
                         (const char **)(uintptr_t)cases[i].argv, &out),
                     cases[i].code);
        cairn_free(out);
    }
    const char *bench[] = {"bench", "--kb", "absent", "--data", ".", NULL};
    CHECK_I64_EQ(run(&p, bench_main, N_WORDS(bench), bench, &out), 3);
    cairn_free(out);
    test_rmdir(p.dir);
}

static json_t *call(struct service *s, const struct api_caller *me, const char *method, const char *params,
                    int want)
{
    struct cairn_why why = {{0}};
    struct cairn_buf in, out, text;
    cairn_buf_init(&in, 0);
    cairn_buf_init(&out, 0);
    cairn_buf_init(&text, 0);
    CHECK_OK(api_json_to_msgpack(params, strlen(params), &in, &why));
    enum cairn_err err = service_call(s, me, method, in.bytes, in.len, NULL, NULL, &out, &why);
    if ((int)err != want)
        fail_msg("%s: %s: %s", method, cairn_err_name(err), why.text);
    json_t *v = NULL;
    if (!err) {
        CHECK_OK(api_msgpack_to_json(out.bytes, out.len, false, &text, &why));
        v = json_loadb(text.bytes, text.len, 0, NULL);
        CHECK(v != NULL);
    }
    cairn_buf_release(&in);
    cairn_buf_release(&out);
    cairn_buf_release(&text);
    return v;
}

static bool count(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    (void)key;
    (void)bytes;
    ++*(size_t *)ctx;
    return true;
}
static size_t answers_kept(struct service *s)
{
    TEST_WHY;
    size_t n = 0;
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, service_store(s), &why));
    CHECK_OK(store_record_each(v, "answer", (struct cairn_str){"", 0}, count, &n, &why));
    store_view_end(v);
    return n;
}
/* Questions and queries that the distributions know. */
static size_t seen_words(struct service *s, const struct api_caller *me)
{
    json_t *v = call(s, me, "server.stats", "{}", 0), *d, *x;
    const char *name;
    size_t i, n = 0;
    json_object_foreach(json_object_get(v, "distributions"), name, d)
    {
        if (strstr(name, "words"))
            json_array_foreach(json_object_get(d, "counts"), i, x) n += (size_t)json_integer_value(x);
    }
    json_decref(v);
    return n;
}

static void a_running_service_is_judged_with_the_rights_of_the_caller(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *models = cairn_path_join(dir, "none");
    struct service *s;
    const struct api_caller local = {.role = ROLE_ADMIN, .key_id = "", .local = true};
    const struct cairn_str hr = cairn_str_of("hr");
    const struct api_caller user = {.role = ROLE_USER, .key_id = "u", .principals = &hr, .n_principals = 1},
                            other = {.role = ROLE_USER, .key_id = "o"},
                            nobody = {.role = ROLE_NONE, .key_id = ""};
    CHECK_OK(cairn_mkdirs(models, &why));
    CHECK_OK(service_open(&s,
                          &(struct service_opts){.data_dir = dir,
                                                 .models_dir = models,
                                                 .embedder = "none",
                                                 .reranker = "none",
                                                 .generator = "none",
                                                 .create = true},
                          &why));
    json_decref(call(s, &local, "doc.put",
                     "{\"collection\":\"c\",\"create\":true,\"documents\":["
                     "{\"id\":\"a\",\"text\":\"Cats sleep all day.\",\"principals\":[\"hr\"]},"
                     "{\"id\":\"b\",\"text\":\"Dogs bark at 7 in the morning.\",\"principals\":[\"hr\"]}]}",
                     0));
    static const char queries[] =
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"sleeping cats\",\"relevant\":[\"a\"]},"
        "{\"query\":\"dogs\",\"relevant\":{\"b\":2,\"a\":0}},"
        "{\"query\":\"fish\",\"relevant\":[\"b\"]}],\"measures\":[\"mrr@10\"],\"k\":5}";
    api_set_eval(NULL);
    call(s, &local, "eval.run", queries, CAIRN_EUNSUPPORTED);
    api_set_eval(eval_live);
    call(s, &nobody, "eval.run", queries, CAIRN_EUNAUTH);
    const struct {
        const struct api_caller *who;
        double mrr;
    } rows[] = {
        {&local, 2.0 / 3},
        {&user,  2.0 / 3},
        {&other, 0      }
    };
    for (size_t i = 0; i < 3; i++) {
        json_t *v = call(s, rows[i].who, "eval.run", queries, 0);
        CHECK_NEAR(number(v, "n", NULL, NULL), 3, 0);
        CHECK_NEAR(number(v, "metrics", "mrr@10", NULL), rows[i].mrr, 1e-12);
        json_decref(v);
    }
    json_t *v = call(
        s, &user, "eval.run",
        "{\"collection\":\"c\",\"mode\":\"extract\",\"questions\":[{\"question\":\"When do dogs bark in the "
        "morning?\",\"answers\":[\"7\"]},{\"question\":\"Which zeppelin landed?\",\"answers\":[]}]}",
        0);
    CHECK_NEAR(number(v, "metrics", "contains", NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "refusal_accuracy", NULL), 1, 0);
    CHECK_NEAR(number(v, "metrics", "wrong_refusals", NULL), 0, 0);
    CHECK(!json_object_get(v, "warnings"));
    json_decref(v);
    v = call(s, &user, "eval.run",
             "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\",\"relevant\":[\"a\"]},{\"query\":\"y\","
             "\"relevant\":[\"a\"]}],\"colour\":\"red\"}",
             0);
    CHECK_U64_EQ(json_array_size(json_object_get(v, "warnings")), 1); /* of two calls, the same */
    CHECK(strstr(json_string_value(json_array_get(json_object_get(v, "warnings"), 0)), "colour"));
    json_decref(v);
    CHECK_U64_EQ(answers_kept(s), 0);
    CHECK_U64_EQ(seen_words(s, &local), 0);
    json_decref(call(s, &user, "ask",
                     "{\"collection\":\"c\",\"mode\":\"extract\",\"question\":\"When do dogs bark?\"}", 0));
    CHECK_U64_EQ(answers_kept(s), 1); /* of those that somebody asked */
    CHECK_U64_EQ(seen_words(s, &local), 1);
    static const char *const bad[] = {
        "{\"collection\":\"c\"}",
        "{\"collection\":\"c\",\"queries\":[]}",
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\"}]}",
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\",\"relevant\":[3]}]}",
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\",\"relevant\":[\"a\"]}],\"k\":0}",
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\",\"relevant\":[\"a\"]}],\"measures\":\"ndcg@5\"}",
        "{\"collection\":\"c\",\"queries\":[{\"query\":\"x\",\"relevant\":[\"a\"]}],\"measures\":[]}",
        "{\"collection\":\"c\",\"questions\":[{\"question\":\"x\",\"answers\":[]}],\"measures\":[\"f1\"]}",
        "{\"collection\":\"c\",\"questions\":[{\"question\":\"x\",\"answerable\":true}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        call(s, &local, "eval.run", bad[i], CAIRN_EINVAL);
    service_close(s);
    cairn_free(models);
    test_rmdir(dir);
}

static void a_moved_distribution_is_told_from_chance(void **state)
{
    UNUSED_STATE(state);
    struct place p = {test_tmpdir()};
    char *out;
    write_to(&p, "before",
             "{\"distributions\": {\"w\": {\"edges\": [1, 2, 3], \"counts\": [100, 300, 300, 100]}, "
             "\"few\": {\"edges\": [1, 2, 3], \"counts\": [100, 300, 300, 100]}}}");
    write_to(&p, "now",
             "{\"distributions\": {\"w\": {\"edges\": [1, 2, 3], \"counts\": [300, 100, 100, 300]}, "
             "\"few\": {\"edges\": [1, 2, 3], \"counts\": [1, 1, 3, 1]}}}");
    write_to(&p, "other", "{\"distributions\": {\"w\": {\"edges\": [1, 2], \"counts\": [300, 100, 100]}}}");
    const char *argv[] = {"eval", "drift",  "--reference",     "before", "--live",
                          "now",  "--json", "--fail-on-drift", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 1);
    json_t *v = json_loads(out, 0, NULL);
    CHECK_NEAR(number(v, "w", "psi", NULL), 1.0986 - 3 * (1 / 800.0 + 1 / 800.0),
               0.02); /* sum of .25 ln 3, four times */
    CHECK(json_is_true(json_object_get(json_object_get(v, "w"), "moved")));
    CHECK(!json_is_true(json_object_get(json_object_get(v, "few"), "moved")));
    json_decref(v);
    cairn_free(out);
    argv[5] = "before";
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    cairn_free(out);
    argv[5] = "other";
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 1);
    cairn_free(out);
    test_rmdir(p.dir);
}

static void results_become_a_page_that_stands_alone(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct place p = {test_tmpdir()};
    char *out, *page, *path = cairn_path_join(p.dir, "page.html");
    size_t len;
    write_to(
        &p, "in",
        "{\"set\": \"<b>&\", \"metrics\": {\"fused\": {\"ndcg@10\": 0.875}}, \"intervals\": {\"fused "
        "ndcg@10\": "
        "[0.85, 0.9]}}\n{\"command\": \"answers\", \"result\": {\"set\": \"s\", \"metrics\": {\"f1\": 0.5}, "
        "\"curve\": [[0.1, 0.9], [1.0, 0.5]]}}\n{\"command\": \"grounding\", \"result\": {\"set\": \"g\", "
        "\"auc\": 0.75, \"ece\": null, \"interval95\": {\"auc\": [0.6, 0.9], \"ece\": null}}}\n");
    const char *argv[] = {"eval", "report", "--in", "in", "--out", "page.html", NULL};
    CHECK_I64_EQ(run(&p, eval_main, N_WORDS(argv), argv, &out), 0);
    cairn_free(out);
    CHECK_OK(cairn_read_file(&page, &len, path, 1 << 20, &why));
    CHECK(strstr(page, "fused ndcg@10") && strstr(page, "0.875") && strstr(page, "<polyline") &&
          strstr(page, "&lt;b&gt;&amp;"));
    size_t whiskers = 0;
    for (const char *at = page; (at = strstr(at, "<path d=\"M")) != NULL; at++)
        whiskers += strncmp(at, "<path d=\"M40 10V210H400", 23) != 0; /* but for the curve's axes */
    CHECK_U64_EQ(whiskers, 2);                                        /* fused ndcg@10 and auc */
    CHECK(!strstr(page, "http") && !strstr(page, "<script") && !strstr(page, "src="));
    cairn_free(page);
    cairn_free(path);
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
        TEST(documents_are_cut_and_conversations_end_in_a_question),
        TEST(halves_and_baselines),
        TEST(an_index_is_compared_with_its_earlier_run),
        TEST(a_running_service_is_judged_with_the_rights_of_the_caller),
        TEST(a_moved_distribution_is_told_from_chance),
        TEST(results_become_a_page_that_stands_alone),
        TEST(answers_are_judged_and_a_closed_document_does_not_leak),
        TEST(a_leak_is_counted),
        TEST(the_vector_index_is_measured_on_a_small_set),
        TEST(wrong_use_and_absent_files_have_their_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
