/* The service without a socket: methods, roles, parameters, what callers may see. No model files are needed.
 */
#include "wire/api_fixture.h"

#include <sys/stat.h>

static void documents_go_in_and_come_back(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    json_t *j = fix_call(f.s, "doc.put",
                         "{\"collection\":\"hr\",\"create\":true,\"documents\":[{\"id\":\"a.txt\",\"text\":"
                         "\"Cats sleep all day.\",\"title\":\"Cats\"}]}");
    CHECK_I64_EQ(j_int(j, "put"), 1);
    CHECK_I64_EQ(j_int(j, "passages"), 1);
    CHECK_I64_EQ(j_int(j, "embedded"), 0);
    int64_t generation = j_int(j, "generation");
    json_decref(j);
    j = fix_call(f.s, "doc.get", "{\"collection\":\"hr\",\"id\":\"a.txt\"}");
    CHECK_STR_EQ(j_str(j, "text"), "Cats sleep all day.");
    CHECK_STR_EQ(j_str(j, "title"), "Cats");
    CHECK_I64_EQ(j_int(j, "document_generation"), generation);
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"hr\",\"query\":\"sleeping cats\",\"explain\":true}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    json_t *h = json_array_get(json_object_get(j, "hits"), 0);
    CHECK_STR_EQ(j_str(h, "document_id"), "a.txt");
    CHECK_STR_EQ(j_str(h, "text"), "Cats sleep all day.");
    CHECK_I64_EQ(j_int(h, "end"), 19);
    CHECK(json_is_number(json_object_get(json_object_get(h, "scores"), "lexical")));
    CHECK(json_is_null(json_object_get(json_object_get(h, "scores"), "dense")));
    CHECK_I64_EQ(j_int(json_object_get(j, "explain"), "n_allowed"), 1);
    CHECK_I64_EQ(j_int(j, "generation"), generation);
    json_decref(j);
    fix_do(f.s, "doc.put",
           "{\"collection\":\"hr\",\"documents\":[{\"id\":\"a.txt\",\"text\":\"Dogs bark at night.\"}]}");
    j = fix_call(f.s, "search", "{\"collection\":\"hr\",\"query\":\"cats\"}");
    CHECK_U64_EQ(j_len(j, "hits"), 0);
    json_decref(j);
    j = fix_call(f.s, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"a.txt\",\"b.txt\"]}");
    CHECK_I64_EQ(j_int(j, "deleted"), 1);
    CHECK_I64_EQ(j_int(j, "missing"), 1);
    json_decref(j);
    fix_fails(f.s, &fix_local, "doc.get", "{\"collection\":\"hr\",\"id\":\"a.txt\"}", CAIRN_ENOTFOUND, NULL);
    j = fix_call(f.s, "doc.list", "{\"collection\":\"hr\"}");
    CHECK_U64_EQ(j_len(j, "documents"), 0);
    json_decref(j);
    fix_do(f.s, "collection.drop", "{\"collection\":\"hr\"}");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"hr\",\"query\":\"x\"}", CAIRN_ENOTFOUND, "hr");
    fix_close(&f);
}

static void an_extract_answer_quotes_its_sources(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    fix_fill(f.s);
    json_t *j = fix_call(f.s, "ask",
                         "{\"collection\":\"hr\",\"question\":\"How many days of annual leave does an "
                         "employee have?\",\"mode\":\"extract\"}");
    static const char *const keys[] = {
        "generation", "text", "sentences",     "refusal",           "model",  "usage",
        "timings_ms", "mode", "support_score", "citations_dropped", "sources"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        CHECK(json_object_get(j, keys[i]));
    print_message("answer: %s refusal: %s\n", j_str(j, "text"),
                  json_is_null(json_object_get(j, "refusal"))
                      ? "none"
                      : j_str(json_object_get(j, "refusal"), "reason"));
    CHECK(json_is_null(json_object_get(j, "refusal")));
    CHECK(strstr(j_str(j, "text"), "28 days"));
    json_t *doc = fix_call(f.s, "doc.get", "{\"collection\":\"hr\",\"id\":\"leave.md\"}");
    const char *text = j_str(doc, "text");
    size_t cited = 0, i, k;
    json_t *s, *c;
    json_array_foreach(json_object_get(j, "sentences"), i, s)
    {
        size_t start = (size_t)j_int(s, "start"), end = (size_t)j_int(s, "end");
        CHECK(end <= strlen(j_str(j, "text")) &&
              strncmp(j_str(j, "text") + start, j_str(s, "text"), end - start) == 0);
        json_array_foreach(json_object_get(s, "citations"), k, c)
        {
            cited++;
            CHECK_STR_EQ(j_str(s, "verdict"), "supported");
            if (strcmp(j_str(c, "document_id"), "leave.md") != 0)
                continue;
            start = (size_t)j_int(c, "start");
            end = (size_t)j_int(c, "end");
            CHECK(end <= strlen(text) && strlen(j_str(c, "text")) == end - start);
            CHECK(strncmp(text + start, j_str(c, "text"), end - start) == 0); /* offsets are the document's */
            CHECK_U64_EQ(strlen(j_str(c, "passage_hash")), 64);
        }
    }
    CHECK_GE(cited, 1);
    json_decref(doc);
    json_decref(j);
    j = fix_call(f.s, "ask",
                 "{\"collection\":\"hr\",\"question\":\"What is the boiling point of "
                 "tungsten?\",\"mode\":\"extract\"}");
    CHECK(json_is_object(json_object_get(j, "refusal")));
    CHECK_STR_EQ(j_str(j, "text"), "");
    json_decref(j);
    fix_fails(f.s, &fix_local, "ask", "{\"collection\":\"hr\",\"question\":\"x\",\"mode\":\"generate\"}",
              CAIRN_ESTATE, "generator");
    fix_close(&f);
}

struct seen {
    char kinds[64][16];
    size_t n, bad_seq, stop_at;
};
static bool see(void *ctx, const char *name, const void *p, size_t len)
{
    struct seen *s = ctx;
    struct wire_reader map = {p, len, 0}, v;
    struct cairn_str kind = {"", 0};
    uint64_t seq = 99;
    if (strcmp(name, "ask.event") != 0 || !wire_map_find(&map, "kind", &v) || !wire_str(&v, &kind) ||
        !wire_map_find(&map, "seq", &v) || !wire_uint(&v, &seq))
        return false;
    s->bad_seq += seq != s->n;
    snprintf(s->kinds[s->n % 64], 16, "%.*s", (int)kind.len, kind.p);
    s->n++;
    return s->stop_at == 0 || s->n < s->stop_at;
}

static void an_answer_streams_sources_first(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    enum cairn_err err;
    struct seen seen = {.n = 0};
    struct api_sink sink = {see, &seen};
    fix_fill(f.s);
    const char *params = "{\"collection\":\"hr\",\"question\":\"How many days of annual leave are "
                         "there?\",\"mode\":\"extract\"}";
    json_t *j = fix_try(f.s, &fix_local, "ask", params, &sink, &err, &why);
    CHECK(j);
    CHECK_GE(seen.n, 3);
    CHECK_U64_EQ(seen.bad_seq, 0);
    CHECK_STR_EQ(seen.kinds[0], "sources");
    bool delta = false, sentence = false;
    for (size_t i = 1; i < seen.n; i++) {
        delta |= strcmp(seen.kinds[i], "delta") == 0;
        sentence |= strcmp(seen.kinds[i], "sentence") == 0;
    }
    CHECK(delta && sentence);
    json_decref(j);
    seen = (struct seen){.stop_at = 1}; /* the receiver has enough after the sources */
    j = fix_try(f.s, &fix_local, "ask", params, &sink, &err, &why);
    CHECK(!j && err == CAIRN_ESTOPPED);
    fix_close(&f);
}

static void callers_see_what_their_principals_allow(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    enum cairn_err err;
    fix_fill(f.s);
    struct cairn_str finance = cairn_str_of("finance"), legal = cairn_str_of("legal");
    struct api_caller of_finance = {.role = ROLE_USER,
                                    .principals = &finance,
                                    .n_principals = 1,
                                    .key_id = "k1"},
                      of_legal = {.role = ROLE_USER, .principals = &legal, .n_principals = 1, .key_id = "k2"},
                      nobody = {
                          .role = ROLE_READ_ONLY, .principals = NULL, .n_principals = 0, .key_id = "k3"};
    const char *q = "{\"collection\":\"hr\",\"query\":\"salary band four\"}";
    json_t *j = fix_try(f.s, &of_finance, "search", q, NULL, &err, &why);
    CHECK(j && j_len(j, "hits") == 1);
    json_decref(j);
    const struct api_caller *blind[] = {&of_legal, &nobody};
    for (size_t i = 0; i < 2; i++) {
        j = fix_try(f.s, blind[i], "search", q, NULL, &err, &why);
        CHECK(j && j_len(j, "hits") == 0);
        json_decref(j);
        fix_fails(f.s, blind[i], "doc.get", "{\"collection\":\"hr\",\"id\":\"pay.md\"}", CAIRN_ENOTFOUND,
                  NULL);
        j = fix_try(f.s, blind[i], "doc.list", "{\"collection\":\"hr\"}", NULL, &err, &why);
        CHECK(j && j_len(j, "documents") == 2);
        json_decref(j);
        j = fix_try(f.s, blind[i], "collection.describe", "{\"collection\":\"hr\"}", NULL, &err, &why);
        CHECK(j && j_int(j, "n_passages") == 2 && !json_object_get(j, "n_documents"));
        json_decref(j);
    }
    /* naming principals one does not hold */
    fix_fails(f.s, &of_legal, "search",
              "{\"collection\":\"hr\",\"query\":\"salary\",\"principals\":[\"finance\"]}", CAIRN_EDENIED,
              "principals[0]");
    j = fix_try(f.s, &of_finance, "search", "{\"collection\":\"hr\",\"query\":\"salary\",\"principals\":[]}",
                NULL, &err, &why);
    CHECK(j && j_len(j, "hits") == 0); /* fewer is fine */
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"hr\",\"query\":\"salary\",\"principals\":[\"legal\"]}");
    CHECK_U64_EQ(j_len(j, "hits"), 0); /* an admin as somebody else */
    json_decref(j);
    /* writing past one's eyes */
    fix_fails(f.s, &of_legal, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"pay.md\",\"text\":\"All bands are zero.\"}]}",
              CAIRN_EDENIED, "pay.md");
    fix_fails(f.s, &of_legal, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"n\",\"text\":\"x "
              "y\",\"principals\":[\"finance\"]}]}",
              CAIRN_EDENIED, "principals[0]");
    fix_fails(f.s, &of_legal, "doc.put",
              "{\"collection\":\"new\",\"create\":true,\"documents\":[{\"id\":\"n\",\"text\":\"x y\"}]}",
              CAIRN_EDENIED, "create");
    j = fix_try(f.s, &of_legal, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"pay.md\"]}", NULL, &err,
                &why);
    CHECK(j && j_int(j, "deleted") == 0 && j_int(j, "missing") == 1);
    json_decref(j);
    j = fix_call(f.s, "doc.get", "{\"collection\":\"hr\",\"id\":\"pay.md\"}");
    CHECK(strstr(j_str(j, "text"), "61000"));
    json_decref(j);
    fix_close(&f);
}

/* Every method for every role: the matrix comes from the table, so a new method is in it at once. */
static void every_method_asks_for_its_role(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    for (size_t m = 0; m < api_method_count(); m++) {
        const struct api_method *t = api_method_at(m);
        for (int role = ROLE_NONE; role <= ROLE_ADMIN; role++) {
            TEST_WHY;
            struct api_caller c = {.role = (enum api_role)role, .key_id = "k"};
            enum cairn_err err;
            json_t *j = fix_try(f.s, &c, t->name, "{\"collection\":\"none-such\"}", NULL, &err, &why);
            bool denied = err == CAIRN_EUNAUTH || err == CAIRN_EDENIED;
            bool want = role < (int)t->role;
            if (denied != want)
                print_error("%s as %s: %s %s\n", t->name, api_role_name((enum api_role)role),
                            cairn_err_name(err), why.text);
            CHECK(denied == want ||
                  strcmp(t->name, "doc.sync") == 0); /* doc.sync may also be denied for its path */
            if (want)
                CHECK_I64_EQ(err, role == ROLE_NONE ? CAIRN_EUNAUTH : CAIRN_EDENIED);
            json_decref(j);
        }
    }
    fix_close(&f);
}

/* Each parameter of each method with each wrong type: an error that names the parameter, and a service that
 * goes on. */
static void wrong_types_name_the_parameter(void **state)
{
    UNUSED_STATE(state);
    /* method, parameters, and what it needs besides */
    static const char *const table[][3] = {
        {"collection.create",
         "collection language embedder dim metric index public fusion dense_weight rerank_weight",        "collection=\"x\""                                 },
        {"collection.update",   "collection index public fusion dense_weight rerank_weight",
         "collection=\"hr\""                                                                                                                                 },
        {"collection.describe", "collection",                                                             ""                                                 },
        {"collection.drop",     "collection",                                                             ""                                                 },
        {"doc.put",             "collection documents create",
         "collection=\"hr\" documents=[{\"id\":\"a\",\"text\":\"b\"}]"                                                                                       },
        {"doc.get",             "collection id with_text",                                                "collection=\"hr\" id=\"leave.md\""                },
        {"doc.list",            "collection after limit",                                                 "collection=\"hr\""                                },
        {"doc.delete",          "collection ids",                                                         "collection=\"hr\" ids=[\"none\"]"                 },
        {"doc.sync",            "collection path paths acl delete_missing create batch_bytes",
         "collection=\"hr\" path=\"/nonexistent\""                                                                                                           },
        {"search",
         "collection query k legs fusion dense_weight rerank_weight mmr_lambda per_document_max exact index "
         "ef nprobe explain principals deadline_ms",                                                      "collection=\"hr\" query=\"x\""                    },
        {"ask",
         "collection question k mode max_tokens temperature top_p min_p seed stop enforce legs "
         "explain",                                                                                       "collection=\"hr\" question=\"x\" mode=\"extract\""},
        {"vector.put",          "collection vectors",
         "collection=\"vec\" vectors=[{\"id\":\"a\",\"vector\":[1,0,0]}]"                                                                                    },
        {"vector.search",       "collection vector k exact index ef nprobe with_text explain principals",
         "collection=\"vec\" vector=[1,0,0]"                                                                                                                 },
        {"ground.check",        "text sources question language support_min",                             "text=\"x\" sources=[\"x\"]"                       },
        {"embed",               "texts kind",                                                             "texts=[\"x\"]"                                    },
        {"rerank",              "query texts",                                                            "query=\"x\" texts=[\"x\"]"                        },
        {"tokenize",            "text model add_special",                                                 "text=\"x\""                                       },
        {"key.create",          "name role principals expires_s",                                         "role=\"user\""                                    },
        {"key.revoke",          "id",                                                                     ""                                                 },
    };
    static const char *const values[] = {"-5",    "1.5e300",   "\"\\u0007\"", "true",
                                         "[[1]]", "{\"a\":1}", "[1,2]"};
    struct fix f = fix_open(NULL);
    fix_fill(f.s);
    fix_do(f.s, "collection.create", "{\"collection\":\"vec\",\"dim\":3}");
    size_t named = 0, passed = 0, elsewhere = 0;
    for (size_t m = 0; m < sizeof table / sizeof table[0]; m++) {
        char names[256], *save = NULL;
        snprintf(names, sizeof names, "%s", table[m][1]);
        for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
            for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
                TEST_WHY;
                char params[1024], base[256], *save2 = NULL;
                enum cairn_err err;
                size_t n = (size_t)snprintf(params, sizeof params, "{\"%s\":%s", name, values[v]);
                snprintf(base, sizeof base, "%s", table[m][2]);
                for (char *pair = strtok_r(base, " ", &save2); pair; pair = strtok_r(NULL, " ", &save2)) {
                    char *eq = strchr(pair, '=');
                    *eq = 0;
                    if (strcmp(pair, name) != 0)
                        n += (size_t)snprintf(params + n, sizeof params - n, ",\"%s\":%s", pair, eq + 1);
                }
                snprintf(params + n, sizeof params - n, "}");
                json_t *j = fix_try(f.s, &fix_local, table[m][0], params, NULL, &err, &why);
                if (j) /* a valid value after all: a boolean or a free string */
                    CHECK(v == 2 || v == 3);
                else if (err == CAIRN_EINVAL && !strstr(why.text, name))
                    print_error("%s %s: %s\n", table[m][0], params, why.text);
                CHECK(j || err != CAIRN_EINVAL || strstr(why.text, name) || strstr(why.text, "the id"));
                CHECK(j || err == CAIRN_EINVAL || v == 2 ||
                      v == 3); /* right type, and something else is missing */
                passed += j != NULL;
                named += !j && err == CAIRN_EINVAL;
                elsewhere += !j && err != CAIRN_EINVAL;
                json_decref(j);
            }
        }
    }
    print_message("%zu refused by name, %zu valid, %zu stopped by something else\n", named, passed,
                  elsewhere);
    CHECK_GE(named, 350);
    fix_do(f.s, "collection.list", "{}");
    fix_close(&f);
}

static void bad_params_are_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    struct cairn_buf out;
    fix_fill(f.s);
    fix_fails(f.s, &fix_local, "no.such", "{}", CAIRN_EUNSUPPORTED, "no.such");
    fix_fails(f.s, &fix_local, "search", "[1]", CAIRN_EINVAL, "map");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"hr\"}", CAIRN_EINVAL, "query is missing");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"HR\",\"query\":\"x\"}", CAIRN_EINVAL,
              "collection");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"hr\",\"query\":\"x\",\"k\":0}", CAIRN_EINVAL,
              "1..1000");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"hr\",\"query\":\"x\",\"legs\":\"dense\"}",
              CAIRN_ESTATE, "no vectors");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"hr\",\"query\":\"x\",\"legs\":\"all\"}",
              CAIRN_EINVAL, "both, lexical, dense");
    fix_fails(f.s, &fix_local, "doc.put", "{\"collection\":\"hr\",\"documents\":[]}", CAIRN_EINVAL, "empty");
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\",\"text\":\"\"}]}", CAIRN_EINVAL, NULL);
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\\u0001\",\"text\":\"a b\"}]}", CAIRN_EINVAL,
              "control");
    fix_fails(f.s, &fix_local, "doc.put", "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\"}]}",
              CAIRN_EINVAL, "text");
    fix_fails(
        f.s, &fix_local, "doc.put",
        "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\",\"text\":\"a b\",\"mime\":\"image/png\"}]}",
        CAIRN_EINVAL, "mime");
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\",\"text\":\"a "
              "b\"},{\"id\":\"x\",\"text\":\"c d\"}]}",
              CAIRN_EINVAL, "the same as");
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"hr\",\"documents\":[{\"id\":\"x\",\"text\":\"a b\",\"colour\":1}]}",
              CAIRN_EINVAL, "colour");
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"gone\",\"documents\":[{\"id\":\"x\",\"text\":\"a b\"}]}", CAIRN_ENOTFOUND,
              "gone");
    fix_fails(f.s, &fix_local, "collection.create", "{\"collection\":\"hr\"}", CAIRN_EEXISTS, "hr");
    fix_fails(f.s, &fix_local, "collection.create", "{\"collection\":\"x\",\"language\":\"klingon\"}",
              CAIRN_EINVAL, "language");
    fix_fails(f.s, &fix_local, "collection.create", "{\"collection\":\"x\",\"embedder\":\"bge\"}",
              CAIRN_ESTATE, "embedder");
    fix_fails(f.s, &fix_local, "embed", "{\"texts\":[\"x\"]}", CAIRN_ESTATE, "embedder");
    fix_fails(f.s, &fix_local, "rerank", "{\"query\":\"q\",\"texts\":[\"x\"]}", CAIRN_ESTATE, "reranker");
    fix_fails(f.s, &fix_local, "tokenize", "{\"text\":\"x\"}", CAIRN_ESTATE, "generator");
    fix_fails(f.s, &fix_local, "key.revoke", "{\"id\":\"0000\"}", CAIRN_ENOTFOUND, "0000");
    /* unknown keys: a warning of a read, an error of a write */
    json_t *j = fix_call(f.s, "search", "{\"collection\":\"hr\",\"query\":\"leave\",\"colour\":\"red\"}");
    CHECK(strstr(json_string_value(json_array_get(json_object_get(j, "warnings"), 0)), "colour"));
    json_decref(j);
    fix_fails(f.s, &fix_local, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"x\"],\"force\":true}",
              CAIRN_EINVAL, "force");
    /* bytes that JSON cannot say */
    static const struct {
        const char *p;
        size_t n;
    } raw[] = {
        {"\x82\xaa"
         "collection\xa2hr\xa5query\xa2\xc3\x28",                                    25}, /* invalid UTF-8 */
        {"\x82\xa5query\xa1x\xa5query\xa1y",                                                  17}, /* a key twice */
        {"\x81\x01\x02",                                                                      3 }, /* a key that is no string */
        {"\x81\xa5query",                                                                     7 }, /* cut */
        {"\x80\x80",                                                                          2 }, /* two values */
        {"\xdf\xff\xff\xff\xff",                                                              5 }, /* a bomb */
        {"\x81\xa1k\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01",
         21                                                                                     }, /* too deep */
        {"\x81\xa1k\xc7\x01\x01\x00",                                                         7 },
    };
    for (size_t i = 0; i < sizeof raw / sizeof raw[0]; i++) {
        cairn_buf_init(&out, 0);
        why.text[0] = 0;
        enum cairn_err err =
            service_call(f.s, &fix_local, "search", raw[i].p, raw[i].n, NULL, NULL, &out, &why);
        if (err != CAIRN_EINVAL && err != CAIRN_EFULL)
            print_error("raw %zu: %s %s\n", i, cairn_err_name(err), why.text);
        CHECK(err == CAIRN_EINVAL || err == CAIRN_EFULL);
        CHECK(why.text[0]);
        cairn_buf_release(&out);
    }
    struct cairn_stop late = {.deadline_us = 1};
    cairn_buf_init(&out, 0);
    CHECK_ERR(service_call(f.s, &fix_local, "collection.list", NULL, 0, NULL, &late, &out, &why),
              CAIRN_EDEADLINE);
    cairn_buf_release(&out);
    fix_close(&f);
}

static void put_file(const char *dir, const char *name, const void *bytes, size_t len)
{
    TEST_WHY;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK_OK(cairn_write_file(path, bytes, len, &why));
}

static size_t hits_of(struct service *s, const char *principals)
{
    char params[256];
    snprintf(params, sizeof params, "{\"collection\":\"hr\",\"query\":\"band\",\"principals\":%s}",
             principals);
    json_t *j = fix_call(s, "search", params);
    size_t n = j_len(j, "hits");
    CHECK(!json_object_get(j, "warnings")); /* no reranker was chosen: nothing to warn of */
    json_decref(j);
    return n;
}

static void a_put_without_principals_keeps_the_acl(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    fix_fill(f.s);
    CHECK_U64_EQ(hits_of(f.s, "[]"), 0);
    fix_do(f.s, "doc.put",
           "{\"collection\":\"hr\",\"documents\":[{\"id\":\"pay.md\",\"text\":\"Band five is new.\"}]}");
    CHECK_U64_EQ(hits_of(f.s, "[]"), 0);
    CHECK_U64_EQ(hits_of(f.s, "[\"finance\"]"), 1);
    fix_do(f.s, "doc.put",
           "{\"collection\":\"hr\",\"documents\":[{\"id\":\"pay.md\",\"text\":\"Band five is new.\","
           "\"principals\":[]}]}");
    CHECK_U64_EQ(hits_of(f.s, "[]"), 1);
    fix_close(&f);
}

static void sync_makes_the_collection_what_the_directory_is(void **state)
{
    UNUSED_STATE(state);
    static const char *const small[] = {"api.sync_batch_documents=2", "index.document_bytes_max=2000", NULL};
    struct fix f = fix_open(small);
    char *src = test_tmpdir(), params[512], sub[300];
    snprintf(sub, sizeof sub, "%s/secret", src);
    CHECK(mkdir(sub, 0755) == 0);
    put_file(src, "a.md", "# A\n\nThe harbour opens at nine.\n", 30);
    put_file(src, "b.txt", "The lighthouse is white.\n", 25);
    put_file(src, "secret/c.txt", "The vault code is blue.\n", 24);
    put_file(src, "bad.txt", "caf\xe9 au lait, latin one\n", 24);
    {
        const char *acl = "{\"groups\":[\"board\"],\"rules\":[{\"path\":\"secret/"
                          "*\",\"allow\":[\"board\"]},{\"path\":\"*\",\"allow\":[\"everyone\"]}]}";
        put_file(src, "acl.json", acl, strlen(acl));
    }
    snprintf(params, sizeof params, "{\"collection\":\"port\",\"path\":\"%s\",\"create\":true}", src);
    json_t *j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "put"), 3);
    CHECK_I64_EQ(j_int(j, "n_failed"), 1);
    CHECK_STR_EQ(j_str(json_array_get(json_object_get(j, "failed"), 0), "id"), "bad.txt");
    int64_t generation = j_int(j, "generation");
    json_decref(j);
    j = fix_call(f.s, "doc.sync", params); /* again: nothing to do */
    CHECK_I64_EQ(j_int(j, "put"), 0);
    CHECK_I64_EQ(j_int(j, "deleted"), 0);
    CHECK_I64_EQ(j_int(j, "unchanged"), 3);
    CHECK_I64_EQ(j_int(j, "generation"), generation);
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"port\",\"query\":\"vault code\",\"principals\":[]}");
    CHECK_U64_EQ(j_len(j, "hits"), 0);
    json_decref(j);
    j = fix_call(f.s, "search",
                 "{\"collection\":\"port\",\"query\":\"vault code\",\"principals\":[\"board\"]}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"port\",\"query\":\"lighthouse\",\"principals\":[]}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    json_decref(j);
    /* one changed, one gone, the ACL opened for one */
    put_file(src, "a.md", "# A\n\nThe harbour opens at noon.\n", 30);
    char gone[300];
    snprintf(gone, sizeof gone, "%s/b.txt", src);
    CHECK(unlink(gone) == 0);
    const char *open_acl = "{\"rules\":[{\"path\":\"*\",\"allow\":[\"everyone\"]}]}";
    put_file(src, "acl.json", open_acl, strlen(open_acl));
    j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "put"), 2);
    CHECK_I64_EQ(j_int(j, "deleted"), 1);
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"port\",\"query\":\"vault code\",\"principals\":[]}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    json_decref(j);
    j = fix_call(f.s, "search", "{\"collection\":\"port\",\"query\":\"harbour noon\"}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    json_decref(j);
    /* more than the store takes: named, and the others go on */
    char *long_text = cairn_calloc(1, 3001);
    CHECK(long_text);
    memset(long_text, 'x', 3000);
    for (size_t i = 7; i < 3000; i += 8)
        long_text[i] = ' ';
    put_file(src, "long.txt", long_text, 3000);
    put_file(src, "next.txt", "The next file is small.\n", 24);
    j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "put"), 1);
    CHECK_I64_EQ(j_int(j, "n_failed"), 2);
    json_decref(j);
    for (int i = 0; i < 2; i++) {
        snprintf(gone, sizeof gone, "%s/%s", src, i ? "next.txt" : "long.txt");
        CHECK(unlink(gone) == 0);
    }
    j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "deleted"), 1);
    json_decref(j);
    cairn_free(long_text);
    /* a document whose file is there, but cannot be read as one now, is kept and named */
    put_file(src, "a.md", "", 0);
    put_file(src, "secret/c.txt", "\0\1\2\3", 4);
    j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "deleted"), 0);
    CHECK_I64_EQ(j_int(j, "n_failed"), 3); /* and bad.txt, as ever */
    json_decref(j);
    j = fix_call(f.s, "doc.list", "{\"collection\":\"port\"}");
    CHECK_U64_EQ(j_len(j, "documents"), 2);
    json_decref(j);
    put_file(src, "a.md", "# A\n\nThe harbour opens at noon.\n", 30);
    put_file(src, "secret/c.txt", "The vault code is blue.\n", 24);
    j = fix_call(f.s, "doc.sync", params);
    CHECK_I64_EQ(j_int(j, "unchanged"), 2);
    json_decref(j);
    /* one file says nothing about the others */
    snprintf(gone, sizeof gone, "{\"collection\":\"port\",\"path\":\"%s/a.md\"}", src);
    j = fix_call(f.s, "doc.sync", gone);
    CHECK_I64_EQ(j_int(j, "deleted"), 0);
    json_decref(j);
    fix_fails(f.s, &fix_local, "doc.sync", "{\"collection\":\"port\",\"path\":\"/nonexistent/x\"}",
              CAIRN_ENOTFOUND, NULL);
    struct api_caller remote = {.role = ROLE_ADMIN, .key_id = "k"};
    fix_fails(f.s, &remote, "doc.sync", params, CAIRN_EDENIED, "doc.put");
    /* a lost mount must not empty the collection */
    char *empty = test_tmpdir();
    snprintf(params, sizeof params, "{\"collection\":\"port\",\"path\":\"%s\"}", empty);
    fix_fails(f.s, &fix_local, "doc.sync", params, CAIRN_ESTATE, "mounted");
    test_rmdir(empty);
    test_rmdir(src);
    fix_close(&f);
}

static bool count_answers(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    size_t *n = ctx;
    (void)key;
    struct wire_reader map = {(const uint8_t *)bytes.p, bytes.len, 0}, v;
    *n += wire_map_find(&map, "prompt_hash", &v) && wire_map_find(&map, "verdicts", &v) &&
          wire_map_find(&map, "generation", &v);
    return true;
}

static void answers_leave_a_record_and_old_ones_go(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const three[] = {"api.answers_max=3", NULL};
    struct fix f = fix_open(three);
    fix_fill(f.s);
    for (int i = 0; i < 6; i++) {
        json_t *j = fix_call(f.s, "ask",
                             "{\"collection\":\"hr\",\"question\":\"When do unused days of leave "
                             "expire?\",\"mode\":\"extract\"}");
        CHECK(j_str(j, "answer_id")[0]);
        json_decref(j);
    }
    struct store_view *v;
    size_t n = 0;
    CHECK_OK(store_view_begin(&v, service_store(f.s), &why));
    CHECK_OK(store_record_each(v, "answer", cairn_str_of(""), count_answers, &n, &why));
    store_view_end(v);
    CHECK_GE(n, 1);
    CHECK_LE(n, 3);
    fix_close(&f);
}

static void the_table_and_the_numbers_are_told(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    fix_fill(f.s);
    json_t *j = fix_call(f.s, "rpc.describe", "{}");
    CHECK_U64_EQ(j_len(j, "methods"), api_method_count());
    json_decref(j);
    j = fix_call(f.s, "server.info", "{}");
    CHECK_U64_EQ(j_len(j, "config"), cairn_config_count(f.config));
    json_decref(j);
    j = fix_call(f.s, "server.stats", "{}");
    CHECK_I64_EQ(j_int(json_object_get(j, "store"), "n_documents"), 3);
    json_decref(j);
    j = fix_call(f.s, "collection.list", "{}");
    CHECK_U64_EQ(j_len(j, "collections"), 1);
    json_decref(j);
    j = fix_call(f.s, "ground.check",
                 "{\"text\":\"Every employee has 28 days of annual leave.\",\"sources\":[\"Every employee "
                 "has 28 days of annual leave.\"]}");
    json_t *c = json_array_get(json_object_get(j, "claims"), 0);
    CHECK_STR_EQ(j_str(c, "verdict"), "supported");
    CHECK_U64_EQ(j_len(c, "citation_indices"), 1);
    json_decref(j);
    j = fix_call(f.s, "model.list", "{}");
    CHECK_U64_EQ(j_len(j, "models"), 0);
    json_decref(j);
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_I64_EQ(metrics_text(f.s, &b), CAIRN_OK);
    CHECK(strstr(b.bytes, "cairn_requests_total{method=\"doc.put\",code=\"OK\"} 1\n"));
    CHECK(strstr(b.bytes, "cairn_documents 3\n"));
    cairn_buf_release(&b);
    fix_close(&f);
}

/* The verdict and score of one claim about leave, under the settings and with the parameter (or NULL). */
static bool leave_is_supported(const char *setting, const char *param, double *score)
{
    const char *settings[] = {setting, NULL};
    struct fix f = fix_open(settings);
    char params[300];
    snprintf(params, sizeof params,
             "{\"text\":\"An employee may take 28 days as leave.\",\"sources\":[\"Every employee has 28 days "
             "of annual leave.\"]%s%s}",
             param ? ",\"support_min\":" : "", param ? param : "");
    json_t *j = fix_call(f.s, "ground.check", params);
    json_t *c = json_array_get(json_object_get(j, "claims"), 0);
    bool supported = strcmp(j_str(c, "verdict"), "supported") == 0;
    *score = json_number_value(json_object_get(c, "score"));
    json_decref(j);
    fix_close(&f);
    return supported;
}

static void ground_check_asks_for_the_configured_support(void **state)
{
    UNUSED_STATE(state);
    double score;
    CHECK(leave_is_supported("grounding.support_min=0.05", NULL, &score));
    CHECK(score > 0.05 && score < 0.99);
    CHECK(!leave_is_supported("grounding.support_min=0.99", NULL, &score));
    CHECK(leave_is_supported("grounding.support_min=0.99", "0.05", &score));
}

/* A minute of work, far more than the deadline leaves. */
static void ground_check_ends_at_its_deadline(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { SENTENCES = 3000, SOURCES = 40 };
    struct fix f = fix_open(NULL);
    struct cairn_buf text, params, in, out;
    cairn_buf_init(&text, 0);
    cairn_buf_init(&params, 0);
    cairn_buf_init(&in, 0);
    cairn_buf_init(&out, 0);
    for (int i = 0; i < SENTENCES; i++)
        cairn_buf_printf(&text, "Box %d holds %d pumps of 2019. ", i, 7 * i);
    cairn_buf_printf(&params, "{\"text\":\"%.*s\",\"sources\":[", (int)text.len, text.bytes);
    for (int i = 0; i < SOURCES; i++)
        cairn_buf_printf(&params, "%s\"%.*s\"", i ? "," : "", 60000, text.bytes);
    cairn_buf_printf(&params, "]}");
    CHECK_OK(api_json_to_msgpack(params.bytes, params.len, &in, &why));
    struct cairn_stop stop = {.deadline_us = cairn_now_us() + 300000};
    CHECK_ERR(service_call(f.s, &fix_local, "ground.check", in.bytes, in.len, NULL, &stop, &out, &why),
              CAIRN_EDEADLINE);
    cairn_buf_release(&text);
    cairn_buf_release(&params);
    cairn_buf_release(&in);
    cairn_buf_release(&out);
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(documents_go_in_and_come_back),
        TEST(an_extract_answer_quotes_its_sources),
        TEST(an_answer_streams_sources_first),
        TEST(callers_see_what_their_principals_allow),
        TEST(every_method_asks_for_its_role),
        TEST(wrong_types_name_the_parameter),
        TEST(bad_params_are_refused),
        TEST(a_put_without_principals_keeps_the_acl),
        TEST(sync_makes_the_collection_what_the_directory_is),
        TEST(answers_leave_a_record_and_old_ones_go),
        TEST(the_table_and_the_numbers_are_told),
        TEST(ground_check_asks_for_the_configured_support),
        TEST(ground_check_ends_at_its_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
