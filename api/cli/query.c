/* api/cli/query.c - search, ask, check. An answer's text is printed as it is decoded; its sources, verdicts
 * and times follow. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define QUERY_FILE_MAX ((size_t)16 << 20)
#define MARK_SUPPORTED "\xe2\x9c\x93"   /* check mark */
#define MARK_UNSUPPORTED "\xe2\x9c\x97" /* ballot x */
#define MARK_NO_CLAIM "\xe2\x80\x93"    /* dash */

static const char *color(const char *code)
{
    return isatty(STDOUT_FILENO) == 1 && !getenv("NO_COLOR") ? code : "";
}

/* The words, "-" for stdin, or --file. OWNED. */
static int read_words(char **out, size_t *len, const struct args *a, size_t at)
{
    struct cairn_why why = {{0}};
    const char *word = at < a->n_pos ? a->pos[at] : NULL;
    if (a->file && word)
        return fail_usage(a, "give the text or --file, not both");
    if (!a->file && !word)
        return fail_usage(a, "expected %s", a->command->args);
    if (!a->file && strcmp(word, "-") != 0) {
        *out = cairn_strdup(word);
        *len = strlen(word);
        return *out ? EXIT_DONE : fail_text(a, EXIT_FAILED, "out of memory");
    }
    enum cairn_err err = cairn_read_file(
        out, len, a->file && strcmp(a->file, "-") != 0 ? a->file : "/dev/stdin", QUERY_FILE_MAX, &why);
    return err ? fail_with(a, err, &why) : EXIT_DONE;
}

/* ---- search
 * ------------------------------------------------------------------------------------------------------------------------
 */

static void print_explain(json_t *j, const char *title)
{
    const char *key;
    json_t *v;
    bool first = true;
    if (!json_is_object(j))
        return;
    printf("%s%s:", color("\x1b[2m"), title);
    json_object_foreach(j, key, v)
    {
        if (json_is_number(v)) {
            double x = json_number_value(v);
            printf(fabs(x) >= 1000 ? "%s %s %.0f" : "%s %s %.4g", first ? "" : ",", key, x);
            first = false;
        }
    }
    printf("%s\n", color("\x1b[0m"));
}

static int print_hits(const struct args *a, json_t *j)
{
    json_t *hits = json_object_get(j, "hits"), *h;
    size_t i, width = out_columns();
    json_array_foreach(hits, i, h)
    {
        printf("%s%2zu  %.4f%s  ", color("\x1b[1m"), i + 1, j_num(h, "score"), color("\x1b[0m"));
        const char *path = j_text(h, "path"), *text = j_text(h, "text");
        out_line(j_text(h, "document_id"), strlen(j_text(h, "document_id")), width - 12);
        printf("  %" PRIu64 "-%" PRIu64 "\n", j_whole(h, "start"), j_whole(h, "end"));
        if (*path) {
            printf("    %s", color("\x1b[2m"));
            out_line(path, strlen(path), width - 4);
            printf("%s\n", color("\x1b[0m"));
        }
        fputs("    ", stdout);
        out_line(text, strlen(text), a->explain ? 0 : 2 * width);
        fputc('\n', stdout);
        if (a->explain) {
            fputs("    ", stdout);
            print_explain(json_object_get(h, "scores"), "scores");
        }
    }
    if (!json_array_size(hits))
        puts("nothing found");
    if (a->explain) {
        json_t *explain = json_object_get(j, "explain");
        print_explain(explain, "search");
        print_explain(json_object_get(explain, "plan"), "vectors");
        print_explain(json_object_get(explain, "timings_ms"), "ms");
    }
    return EXIT_DONE;
}

static void retrieval_params(struct params *p, const struct args *a)
{
    params_whole(p, "k", a->k);
    if (a->lexical != a->dense)
        params_text(p, "legs", a->lexical ? "lexical" : "dense");
    params_text(p, "fusion", a->fusion);
    params_number(p, "dense_weight", a->dense_weight);
    params_number(p, "rerank_weight", a->rerank_weight);
    params_number(p, "mmr_lambda", a->mmr_lambda);
    params_flag(p, "exact", a->exact);
    params_text(p, "index", a->index);
    params_whole(p, "ef", a->ef);
    params_whole(p, "nprobe", a->nprobe);
    params_flag(p, "explain", a->explain);
    params_as(p, a);
}

static void deadline_params(struct params *p, const struct args *a)
{
    if (a->server && a->timeout.given)
        params_uint(p, "deadline_ms", a->timeout.v * 1000);
}

static int search(struct args *a)
{
    char *text = NULL;
    size_t len = 0;
    struct params p;
    int code = read_words(&text, &len, a, 1);
    if (code)
        return code;
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_str(&p, "query", text, len);
    retrieval_params(&p, a);
    deadline_params(&p, a);
    code = door_run(a, DOOR_READ, "search", &p, print_hits);
    params_release(&p);
    cairn_free(text);
    return code;
}

/* ---- ask
 * ------------------------------------------------------------------------------------------------------------------------------
 */

struct listening {
    bool to_screen, began;
    size_t printed; /* bytes of text */
};

static bool on_event(void *ctx, const char *name, const void *msgpack, size_t len)
{
    struct listening *l = ctx;
    struct wire_reader r = {msgpack, len, 0}, v;
    struct cairn_str s;
    (void)name;
    if (l->to_screen && wire_map_find(&r, "kind", &v) && wire_str(&v, &s)) {
        if (wire_str_is(s, "delta") && wire_map_find(&r, "text", &v) && wire_str(&v, &s)) {
            out_text(s.p, s.len);
            l->printed += s.len;
        } else if (wire_str_is(s, "restart")) {
            if (!wire_map_find(&r, "reason", &v) || !wire_str(&v, &s))
                s = (struct cairn_str){"", 0};
            printf("\n\n%s", wire_str_is(s, "quoted")    ? "That is not in the documents. What they say:\n\n"
                             : wire_str_is(s, "checked") ? "Checked against the documents:\n\n"
                                                         : "");
            l->printed = 0;
        }
        fflush(stdout);
    }
    return !interrupted() && !ferror(stdout);
}

static const char *mark_of(const char *verdict, const char **paint)
{
    if (strcmp(verdict, "supported") == 0) {
        *paint = "\x1b[32m";
        return MARK_SUPPORTED;
    }
    *paint = strcmp(verdict, "unsupported") == 0 ? "\x1b[31m" : "\x1b[2m";
    return strcmp(verdict, "unsupported") == 0 ? MARK_UNSUPPORTED : MARK_NO_CLAIM;
}

static void print_sentence(json_t *s, const char *text, size_t len, size_t width)
{
    const char *verdict = j_text(s, "verdict"), *paint;
    const char *mark = mark_of(verdict, &paint);
    printf("  %s%s%s ", color(paint), mark, color("\x1b[0m"));
    out_line(text, len, width - 24);
    if (strcmp(verdict, "no_claim") != 0 && !isnan(j_num(s, "score")))
        printf("  %s%s %.2f%s", color("\x1b[2m"), verdict, j_num(s, "score"), color("\x1b[0m"));
    fputc('\n', stdout);
}

/* Each document once, in the order of its first citation. */
static void print_sources(json_t *sentences, size_t width)
{
    json_t *seen = json_object(), *s, *c;
    size_t i, k, n = 0;
    json_array_foreach(sentences, i, s)
    {
        json_array_foreach(json_object_get(s, "citations"), k, c)
        {
            char key[64];
            snprintf(key, sizeof key, "%" PRIu64, j_whole(c, "passage_id"));
            if (json_object_get(seen, key))
                continue;
            (void)json_object_set_new(seen, key, json_true());
            if (!n++)
                printf("\n%sSources%s\n", color("\x1b[1m"), color("\x1b[0m"));
            printf("  [%" PRIu64 "] ", j_whole(c, "n")); /* the number that the text's marks name */
            out_line(j_text(c, "document_id"), strlen(j_text(c, "document_id")), width - 8);
            printf("  %" PRIu64 "-%" PRIu64 "\n      %s", j_whole(c, "start"), j_whole(c, "end"),
                   color("\x1b[2m"));
            out_line(j_text(c, "text"), strlen(j_text(c, "text")), width - 6);
            printf("%s\n", color("\x1b[0m"));
        }
    }
    json_decref(seen);
}

static int print_answer(const struct args *a, json_t *j, const struct listening *l)
{
    json_t *sentences = json_object_get(j, "sentences"), *refusal = json_object_get(j, "refusal"), *s,
           *usage = json_object_get(j, "usage");
    const char *text = j_text(j, "text");
    size_t len = strlen(text), i, width = out_columns();
    out_warnings(a, j);
    if (l->printed) {
        fputc('\n', stdout);
    } else if (len) {
        out_text(text, len);
        fputc('\n', stdout);
    }
    if (json_is_object(refusal)) {
        printf("%s%sNo answer%s (%s): ", l->printed ? "\n" : "", color("\x1b[1m"), color("\x1b[0m"),
               j_text(refusal, "reason"));
        out_line(j_text(refusal, "message"), strlen(j_text(refusal, "message")), 0);
        fputc('\n', stdout);
    } else if (json_array_size(sentences)) {
        print_sources(sentences, width);
        printf("\n%sSentences%s\n", color("\x1b[1m"), color("\x1b[0m"));
        json_array_foreach(sentences, i, s)
            print_sentence(s, j_text(s, "text"), strlen(j_text(s, "text")), width);
    }
    fputc('\n', stdout);
    printf("%s", color("\x1b[2m"));
    printf("%s, ", *j_text(j, "model") ? j_text(j, "model") : "quoted");
    printf("%" PRIu64 " + %" PRIu64 " tokens, generation %" PRIu64 "%s\n", j_whole(usage, "prompt_tokens"),
           j_whole(usage, "completion_tokens"), j_whole(j, "generation"), color("\x1b[0m"));
    print_explain(json_object_get(j, "timings_ms"), "ms");
    return json_is_object(refusal) ? EXIT_REFUSED : EXIT_DONE;
}

static int ask(struct args *a)
{
    static const char *const modes[] = {"auto", "generate", "extract"};
    char *text = NULL;
    size_t len = 0;
    struct door d;
    struct params p;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    bool known = !a->mode;
    for (size_t i = 0; i < 3; i++)
        known |= a->mode && strcmp(a->mode, modes[i]) == 0;
    if (!known)
        return fail_usage(a, "--mode wants auto, generate or extract, not \"%s\"", a->mode);
    if (a->style && strcmp(a->style, "sentences") != 0 && strcmp(a->style, "phrase") != 0)
        return fail_usage(a, "--style wants sentences or phrase, not \"%s\"", a->style);
    int code = read_words(&text, &len, a, 1);
    if (code)
        return code;
    struct listening l = {.to_screen = !a->json && !a->no_stream};
    code = door_open(&d, a, DOOR_READ, true);
    if (code) {
        cairn_free(text);
        return code;
    }
    params_init(&p);
    params_text(&p, "collection", a->pos[0]);
    params_str(&p, "question", text, len);
    params_text(&p, "mode", a->mode);
    params_text(&p, "rule", a->rule);
    params_text(&p, "style", a->style);
    params_whole(&p, "max_tokens", a->max_tokens);
    params_number(&p, "temperature", a->temperature);
    params_number(&p, "top_p", a->top_p);
    params_number(&p, "min_p", a->min_p);
    params_whole(&p, "seed", a->seed);
    params_list(&p, "stop", &a->stop_strings);
    params_text(&p, "enforce", a->enforce);
    params_whole(&p, "k", a->k);
    params_flag(&p, "explain", a->explain);
    params_as(&p, a);
    deadline_params(&p, a);
    cairn_buf_init(&result, 0);
    interrupt_watch(&d.stop);
    enum cairn_err err = door_call(&d, "ask", &p, &(struct api_sink){on_event, &l}, &result, &why);
    interrupt_watch(NULL);
    json_t *j = err ? NULL : out_parse(&result);
    if (err && l.printed)
        fputc('\n', stdout);
    if (err && interrupted())
        code = fail_text(a, EXIT_FAILED, "interrupted");
    else if (err)
        code = fail_with(a, err, &why);
    else if (!j)
        code = fail_text(a, EXIT_FAILED, "the answer could not be read");
    else if (!a->json)
        code = print_answer(a, j, &l);
    else if ((code = out_json(a, &result)) == EXIT_DONE && json_is_object(json_object_get(j, "refusal")))
        code = EXIT_REFUSED;
    json_decref(j);
    cairn_buf_release(&result);
    params_release(&p);
    door_close(&d);
    cairn_free(text);
    return out_finish(a, code);
}

/* ---- check
 * --------------------------------------------------------------------------------------------------------------------------------
 */

/* The passages that a search for the text finds become its sources. */
static enum cairn_err sources_of_search(struct door *d, const struct args *a, const char *text, size_t len,
                                        json_t **hits, struct cairn_why *why)
{
    struct params p;
    struct cairn_buf result;
    *hits = NULL;
    params_init(&p);
    params_text(&p, "collection", a->collection);
    params_str(&p, "query", text, cairn_utf8_floor(text, len < QUERY_BYTES_MAX ? len : QUERY_BYTES_MAX));
    params_whole(&p, "k", a->k);
    params_as(&p, a);
    cairn_buf_init(&result, 0);
    enum cairn_err err = door_call(d, "search", &p, NULL, &result, why);
    json_t *j = err ? NULL : out_parse(&result);
    *hits = json_incref(json_object_get(j, "hits"));
    json_decref(j);
    if (!err && !json_is_array(*hits))
        err = cairn_fail(why, CAIRN_ECORRUPT, "the answer to search could not be read");
    cairn_buf_release(&result);
    params_release(&p);
    return err;
}

static int print_check(const struct args *a, json_t *j, const char *text, size_t len)
{
    json_t *claims = json_object_get(j, "claims"), *s;
    size_t i, width = out_columns();
    (void)a;
    json_array_foreach(claims, i, s)
    {
        size_t from = (size_t)j_whole(s, "start_pos"), to = (size_t)j_whole(s, "end_pos");
        if (from <= to && to <= len)
            print_sentence(s, text + from, to - from, width);
    }
    if (!isnan(j_num(j, "support_score")))
        printf("support %.3f\n", j_num(j, "support_score"));
    return EXIT_DONE;
}

static int check(struct args *a)
{
    char *text = NULL;
    size_t len = 0;
    struct door d;
    struct params p;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    json_t *hits = NULL, *h, *j = NULL;
    char *files[LIST_MAX] = {0};
    size_t lens[LIST_MAX], i;
    if (!a->sources.n == !a->collection)
        return fail_usage(a, "say what to check against: --sources FILE, or --collection NAME");
    int code = read_words(&text, &len, a, 0);
    if (code)
        return code;
    enum cairn_err err = CAIRN_OK;
    for (i = 0; i < a->sources.n && !err; i++)
        err = cairn_read_file(&files[i], &lens[i], a->sources.v[i], QUERY_FILE_MAX, &why);
    params_init(&p);
    cairn_buf_init(&result, 0);
    code = err ? fail_with(a, err, &why) : door_open(&d, a, DOOR_READ, false);
    bool opened = !code;
    if (opened && a->collection)
        err = sources_of_search(&d, a, text, len, &hits, &why);
    if (opened && !err) {
        params_str(&p, "text", text, len);
        params_text(&p, "language", a->language);
        pk_cstr(&p.k, "sources");
        p.n++;
        pk_array(&p.k, hits ? json_array_size(hits) : a->sources.n);
        json_array_foreach(hits, i, h)
        {
            json_t *t = json_object_get(h, "text");
            pk_map(&p.k, 1);
            pk_kstr(&p.k, "text", (struct cairn_str){json_string_value(t), json_string_length(t)});
        }
        for (i = 0; i < a->sources.n; i++) {
            pk_map(&p.k, 1);
            pk_kstr(&p.k, "text", (struct cairn_str){files[i], lens[i]});
        }
        err = door_call(&d, "ground.check", &p, NULL, &result, &why);
    }
    if (opened && err)
        code = fail_with(a, err, &why);
    else if (opened && a->json)
        code = out_json(a, &result);
    else if (opened)
        code = (j = out_parse(&result)) ? print_check(a, j, text, len)
                                        : fail_text(a, EXIT_FAILED, "the answer could not be read");
    json_decref(j);
    json_decref(hits);
    for (i = 0; i < LIST_MAX; i++)
        cairn_free(files[i]);
    params_release(&p);
    cairn_buf_release(&result);
    cairn_free(text);
    if (opened)
        door_close(&d);
    return out_finish(a, code);
}

/* ---- tables
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

static const struct opt search_opts[] = {
    OPT_IN(WHOLE, "k", "N", k, 1, RETRIEVE_K_MAX, "how many passages (default 10)"),
    OPTS_AS,
    OPT(FLAG, "explain", NULL, explain, "all sub-scores and the time of each stage"),
    OPT(FLAG, "lexical", NULL, lexical, "words only"),
    OPT(FLAG, "dense", NULL, dense, "vectors only"),
    OPT(TEXT, "fusion", "KIND", fusion, "zscore, minmax or rrf (default: the collection's)"),
    OPT_IN(NUMBER, "dense-weight", "X", dense_weight, 0, 1,
           "share of the vector search (default: the collection's)"),
    OPT_IN(NUMBER, "rerank-weight", "X", rerank_weight, 0, 1,
           "share of the pair model, 0: off (default: the collection's)"),
    OPT_IN(NUMBER, "mmr-lambda", "X", mmr_lambda, 0, 1, "1: no diversity (default: the setting)"),
    OPT(FLAG, "exact", NULL, exact, "exact vector search"),
    OPT(TEXT, "index", "KIND", index, "auto, flat, hnsw or ivf (default: the collection's)"),
    OPT_IN(WHOLE, "ef", "N", ef, 1, VECTOR_WIDTH_MAX, "search width of the graph (default: the setting)"),
    OPT_IN(WHOLE, "nprobe", "N", nprobe, 1, VECTOR_WIDTH_MAX, "lists read by ivf (default: the setting)"),
    OPT(TEXT, "file", "FILE", file, "read the question from a file, - for stdin"),
    OPTS_ACROSS};
static const struct opt ask_opts[] = {
    OPT_IN(WHOLE, "k", "N", k, 1, 64, "how many passages to read (default 5)"),
    OPTS_AS,
    OPT(TEXT, "mode", "MODE", mode, "auto, generate (the model writes) or extract (quoted sentences only)"),
    OPT(TEXT, "rule", "RULE", rule,
        "what the model may write: citations (only marks of sources that there are), quote (sentences "
        "of a source) or none"),
    OPT(TEXT, "style", "STYLE", style,
        "sentences (default) or phrase (the shortest words of a source that answer)"),
    OPT_IN(WHOLE, "max-tokens", "N", max_tokens, 1, 1e6, "longest answer (default: the setting)"),
    OPT_IN(NUMBER, "temperature", "X", temperature, 0, 10, "0: always the likeliest token (default 0)"),
    OPT_IN(NUMBER, "top-p", "X", top_p, 0, 1,
           "sample from the likeliest tokens of this probability together"),
    OPT_IN(NUMBER, "min-p", "X", min_p, 0, 1, "leave out tokens below this share of the likeliest one"),
    OPT(WHOLE, "seed", "N", seed, "the same seed gives the same answer"),
    OPT(LIST, "stop", "TEXT", stop_strings, "end the answer at this text; may be repeated"),
    OPT(TEXT, "enforce", "HOW", enforce,
        "unsupported sentences: mark (default), drop, or abstain from the answer"),
    OPT(FLAG, "no-stream", NULL, no_stream, "print the answer when it is complete"),
    OPT(FLAG, "explain", NULL, explain, "all sub-scores of the passages"),
    OPT(TEXT, "file", "FILE", file, "read the question from a file, - for stdin"),
    OPTS_ACROSS};
static const struct opt check_opts[] = {
    OPT(LIST, "sources", "FILE", sources, "a text to check against; may be repeated"),
    OPT(TEXT, "collection", "NAME", collection,
        "check against the passages that a search for the text finds"),
    OPT_IN(WHOLE, "k", "N", k, 1, RETRIEVE_K_MAX, "with --collection: how many passages (default 10)"),
    OPTS_AS,
    OPT(TEXT, "language", "L", language, "of the text, for stemming (default english)"),
    OPT(TEXT, "file", "FILE", file, "read the text from a file, - for stdin"),
    OPTS_ACROSS};

static const struct command commands[] = {
    COMMAND("search", "COLLECTION \"TEXT\"|-", "find passages", "Prints the best passages, first the best.",
            search_opts, 1, 2, search),
    COMMAND("ask", "COLLECTION \"TEXT\"|-", "answer a question with citations and a verdict per sentence",
            "The answer is printed while it is written; then its sources and, per sentence, " MARK_SUPPORTED
            " supported, " MARK_UNSUPPORTED " unsupported or " MARK_NO_CLAIM
            " no claim. Exits 4 when there is not evidence enough to answer. Ctrl-C stops it.",
            ask_opts, 1, 2, ask),
    COMMAND("check", "\"TEXT\"|-", "is a text supported by its sources?",
            "Gives each sentence a verdict and the text a support score.", check_opts, 0, 1, check),
};
const struct command_group query_commands = {commands, sizeof commands / sizeof commands[0]};
