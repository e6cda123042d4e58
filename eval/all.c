/* eval/all.c - `cairn eval all`: every set of a directory through the command that fits it, each in a process
 * of its own (a failed part leaves the others standing, and memory goes back). What fits: qrels.tsv,
 * passages.jsonl or documents.jsonl: retrieval, and ann on the first of them; questions with gold answers
 * (SQuAD's layout, or kb beside questions.jsonl): answers; responses, claims or summaries with labels:
 * grounding. */
#include "run.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARTS_MAX 256u
#define ARGS_MAX 64u

struct part {
    const char *kind; /* retrieval, ann, answers, grounding */
    char *set, *name;
};
struct parts {
    struct part at[PARTS_MAX];
    size_t n;
};

static bool holds(const char *dir, const char *name)
{
    char *path = cairn_path_join(dir, name);
    bool there = path && file_exists(path);
    cairn_free(path);
    return there;
}

static void add_part(struct parts *p, const char *kind, const char *dir, const char *file, const char *name)
{
    if (p->n == PARTS_MAX)
        return;
    struct part *x = &p->at[p->n];
    *x = (struct part){kind, file ? cairn_path_join(dir, file) : cairn_strdup(dir),
                       cairn_asprintf("%s-%s", kind, name)};
    p->n += x->set && x->name;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void find_parts(struct parts *p, const char *root, bool vectors)
{
    struct dirent **list = NULL;
    int n = scandir(root, &list, NULL, by_name);
    bool ann = false;
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        char *dir = name[0] == '.' ? NULL : cairn_path_join(root, name);
        if (dir) {
            bool corpus = holds(dir, "corpus.jsonl") || holds(dir, "passages.jsonl") ||
                          holds(dir, "documents.jsonl"),
                 asks = holds(dir, "queries.jsonl") || holds(dir, "questions.jsonl") ||
                        holds(dir, "tasks.jsonl"),
                 squad = holds(dir, "passages.jsonl") && holds(dir, "questions.jsonl") &&
                         !holds(dir, "qrels.tsv");
            if (corpus && asks) {
                add_part(p, "retrieval", dir, NULL, name);
                if (!ann && vectors)
                    add_part(p, "ann", dir, NULL, name);
                ann = true;
            }
            if (squad || (holds(dir, "kb") && holds(dir, "questions.jsonl")))
                add_part(p, "answers", dir, "questions.jsonl", name);
            if ((holds(dir, "responses.jsonl") && holds(dir, "sources.jsonl")) ||
                holds(dir, "begin_dev_wow.jsonl") || holds(dir, "sales_email.summaries.jsonl") ||
                holds(dir, "stance.jsonl") || (holds(dir, "claims.jsonl") && !corpus))
                add_part(p, "grounding", dir, NULL, name);
        }
        cairn_free(dir);
        free(list[i]); /* scandir's */
    }
    free(list); /* scandir's */
}

struct args {
    char *at[ARGS_MAX];
    size_t n;
    bool failed;
};
static void add_arg(struct args *a, char *owned)
{
    if (!owned || a->n + 1 >= ARGS_MAX) {
        cairn_free(owned);
        a->failed = true;
        return;
    }
    a->at[a->n++] = owned;
    a->at[a->n] = NULL;
}
static void add_option(struct args *a, const char *name, const char *value)
{
    if (value) {
        add_arg(a, cairn_asprintf("--%s", name));
        add_arg(a, cairn_strdup(value));
    }
}
static void add_number(struct args *a, const char *name, uint64_t value)
{
    if (value) {
        add_arg(a, cairn_asprintf("--%s", name));
        add_arg(a, cairn_asprintf("%" PRIu64, value));
    }
}

/* DIR/KIND-SET.jsonl; NULL without DIR. OWNED. */
static char *records_path(const char *dir, const struct part *p)
{
    return dir ? cairn_asprintf("%s/%s.jsonl", dir, p->name) : NULL;
}

static bool wanted(const struct options *o, const struct part *p)
{
    return !o->only || strncmp(p->name, o->only, strlen(o->only)) == 0;
}

/* What is to be compared is there before anything is measured: a comparison of nothing finds no drop. */
static enum cairn_err baseline_is_whole(const struct options *o, const struct parts *p, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    size_t n = 0;
    if (!o->baseline)
        return CAIRN_OK;
    for (size_t i = 0; i < p->n && !err; i++) {
        if (!wanted(o, &p->at[i]) || strcmp(p->at[i].kind, "grounding") == 0)
            continue;
        char *path = records_path(o->baseline, &p->at[i]);
        n++;
        if (!path)
            err = cairn_fail(why, CAIRN_ENOMEM, "path of a baseline");
        else if (!file_exists(path))
            err = cairn_fail(why, CAIRN_ENOTFOUND,
                             "--baseline: no %s; make it by --out over the same sets, or leave the part out "
                             "with --only",
                             path);
        cairn_free(path);
    }
    return err || n ? err : cairn_fail(why, CAIRN_EINVAL, "--baseline: no part here can be compared");
}

static void arguments(struct args *a, const struct options *o, const struct part *p)
{
    bool grounding = strcmp(p->kind, "grounding") == 0, answers = strcmp(p->kind, "answers") == 0,
         ann = strcmp(p->kind, "ann") == 0;
    const char *const words[] = {"cairn", "eval", p->kind, "--json", "--set", p->set};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        add_arg(a, cairn_strdup(words[i]));
    add_number(a, "seed", o->seed);
    if (grounding)
        return;
    add_arg(a, cairn_strdup("--quiet"));
    add_number(a, "sample", o->sample);
    add_number(a, "threads", o->threads);
    add_option(a, "data", o->data);
    add_option(a, "models", o->models);
    add_option(a, "profile", o->profile);
    add_option(a, "embedder", o->embedder);
    if (!ann)
        add_option(a, "reranker", o->reranker);
    if (answers) {
        add_option(a, "generator", o->generator);
        add_option(a, "mode", o->mode);
    }
    for (size_t i = 0; i < o->n_conf; i++)
        add_option(a, "conf", o->conf[i]);
    char *file = records_path(o->out, p), *before = records_path(o->baseline, p);
    a->failed = a->failed || !file != !o->out || !before != !o->baseline;
    add_option(a, "out", file);
    add_option(a, "baseline", before);
    if (before && o->fail_on_drop)
        add_arg(a, cairn_strdup("--fail-on-drop"));
    cairn_free(file);
    cairn_free(before);
}

/* The command's one line of JSON; *code its exit code. */
static enum cairn_err run_part(const struct options *o, const struct part *p, json_t **result, int *code,
                               struct cairn_why *why)
{
    struct args a = {.n = 0};
    struct cairn_buf text;
    int ends[2] = {-1, -1}, status = 0;
    *result = NULL;
    cairn_buf_init(&text, (size_t)256 << 20);
    arguments(&a, o, p);
    enum cairn_err err = CAIRN_OK;
    if (a.failed)
        err = cairn_fail(why, CAIRN_ENOMEM, "arguments of %s", p->name);
    else if (pipe(ends))
        err = cairn_fail_errno(why, errno, "pipe");
    pid_t child = err ? -1 : fork();
    if (!err && child < 0)
        err = cairn_fail_errno(why, errno, "process for %s", p->name);
    if (child == 0) {
        if (dup2(ends[1], STDOUT_FILENO) >= 0) {
            close(ends[0]);
            close(ends[1]);
            execv("/proc/self/exe", a.at);
        }
        _exit(FAILED);
    }
    if (ends[1] >= 0)
        close(ends[1]);
    while (!err) {
        char part[65536];
        ssize_t n = read(ends[0], part, sizeof part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if (!cairn_buf_put(&text, part, (size_t)n))
            err = cairn_fail(why, CAIRN_ENOMEM, "output of %s", p->name);
    }
    if (ends[0] >= 0)
        close(ends[0]);
    if (child > 0) {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        *code = WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
    }
    if (!err && text.len)
        *result = json_loadb(text.bytes, text.len, 0, NULL);
    for (size_t i = 0; i < a.n; i++)
        cairn_free(a.at[i]);
    cairn_buf_release(&text);
    return err;
}

static const struct option_row rows[] = {
    {"sets",         "DIR",                       "directory of sets, each a directory",                                           O_TEXT,                  offsetof(struct options, set)         },
    {"only",         "NAME",                      "only parts whose names (KIND-SET) begin so",                                    O_TEXT,                  offsetof(struct options, only)        },
    {"report",       "FILE",                      "write an HTML page of all results",                                             O_TEXT,                  offsetof(struct options, svg)         },
    {"out",          "DIR",                       "records of each part but grounding, DIR/KIND-SET.jsonl, and DIR/results.jsonl", O_TEXT,
     offsetof(struct options,                                                                                                                                                        out)         },
    {"baseline",     "DIR",                       "compare retrieval, ann and answers with the --out of an earlier run",           O_TEXT,
     offsetof(struct options,                                                                                                                                                        baseline)    },
    {"fail-on-drop", NULL,
     "with --baseline: exit 1 when a measure of a part fell and its interval is below 0",                                          O_FLAG,
     offsetof(struct options,                                                                                                                                                        fail_on_drop)},
    {"sample",       "N",                         "at most N queries or questions of each set, drawn by --seed",                   O_WHOLE,
     offsetof(struct options,                                                                                                                                                        sample)      },
    {"seed",         "S",                         "of samples and intervals",                                                      O_WHOLE,                 offsetof(struct options, seed)        },
    {"mode",         "MODE",                      "of answers: auto, generate or extract",                                         O_TEXT,                  offsetof(struct options, mode)        },
    {"data",         "DIR",                       "where stores are kept (default ~/.cache/cairn/eval)",                           O_TEXT,
     offsetof(struct options,                                                                                                                                                        data)        },
    {"models",       "DIR",                       "directory of models",                                                           O_TEXT,                  offsetof(struct options, models)      },
    {"profile",      "NAME",                      "standard or small: take this profile's models",                                 O_TEXT,
     offsetof(struct options,                                                                                                                                                        profile)     },
    {"embedder",     "NAME",                      "embedding model, or none",                                                      O_TEXT,                  offsetof(struct options, embedder)    },
    {"reranker",     "NAME",                      "pair model, or none",                                                           O_TEXT,                  offsetof(struct options, reranker)    },
    {"generator",    "NAME",                      "generator, or none",                                                            O_TEXT,                  offsetof(struct options, generator)   },
    {"threads",      "N",                         "compute threads (default: cores)",                                              O_WHOLE,                 offsetof(struct options, threads)     },
    {"conf",         "KEY=VALUE",                 "a setting; may be repeated",                                                    O_CONF,                  0                      },
    {"json",          NULL, "one JSON object on stdout",                                                                          O_FLAG, offsetof(struct options,                   json)             },
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static void print_part(const struct part *p, json_t *result, int code)
{
    json_t *m = json_object_get(result, "metrics"), *v;
    const char *name;
    printf("%-28s %s\n", p->name, code ? "failed" : "");
    if (!m)
        m = result;
    json_object_foreach(m, name, v)
    {
        if (json_is_object(v) && json_object_get(v, "ndcg@10"))
            printf("    %-22s ndcg@10 %.4f\n", name, json_number_value(json_object_get(v, "ndcg@10")));
        else if (json_is_real(v))
            printf("    %-22s %.4f\n", name, json_real_value(v));
    }
}

int eval_all(int argc, char **argv)
{
    struct options o = {.command = "eval all"};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval all --sets DIR [options]",
                      "Retrieval, ann, answers and grounding on every set of a directory that fits.", rows,
                      N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set)
        return tell(&o, USAGE, "want --sets DIR; --help says more");
    if (!file_exists(o.set))
        return tell(&o, NOT_FOUND, "--sets %s: no such directory", o.set);
    struct parts *p = cairn_calloc(1, sizeof *p);
    json_t *all = json_array();
    enum cairn_err err = p ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "parts");
    if (!err && o.out)
        err = cairn_mkdirs(o.out, &why);
    if (!err)
        find_parts(p, o.set, !o.embedder || strcmp(o.embedder, "none") != 0);
    if (!err && !p->n)
        err = cairn_fail(&why, CAIRN_ENOTFOUND, "--sets %s: holds no set that is known", o.set);
    if (!err)
        err = baseline_is_whole(&o, p, &why);
    for (size_t i = 0; !err && i < p->n; i++) {
        json_t *result;
        int part = FAILED;
        if (!wanted(&o, &p->at[i]))
            continue;
        err = run_part(&o, &p->at[i], &result, &part, &why);
        if (err)
            break;
        code = part ? FAILED : code;
        if (!o.json)
            print_part(&p->at[i], result, part);
        fflush(stdout);
        json_array_append_new(all, json_pack("{s:s, s:s, s:i, s:o?}", "command", p->at[i].kind, "part",
                                             p->at[i].name, "code", part, "result", result));
    }
    if (!err && o.svg)
        err = report_write(o.svg, all, &why);
    if (!err && o.out) {
        char *path = cairn_asprintf("%s/results.jsonl", o.out);
        struct cairn_buf b;
        cairn_buf_init(&b, (size_t)256 << 20);
        for (size_t i = 0; i < json_array_size(all); i++) {
            char *line = json_dumps(json_array_get(all, i), JSON_COMPACT | JSON_REAL_PRECISION(8));
            cairn_buf_puts(&b, line ? line : "");
            cairn_buf_puts(&b, "\n");
            free(line); /* jansson's */
        }
        err = path && !b.failed ? cairn_write_file(path, b.bytes, b.len, &why)
                                : cairn_fail(&why, CAIRN_ENOMEM, "results");
        cairn_buf_release(&b);
        cairn_free(path);
    }
    if (err) {
        code = tell_err(&o, err, &why);
    } else if (o.json) {
        json_t *v = json_pack("{s:O}", "parts", all);
        int printed = print_json(&o, v);
        code = code ? code : printed;
        json_decref(v);
    }
    for (size_t i = 0; p && i < p->n; i++) {
        cairn_free(p->at[i].set);
        cairn_free(p->at[i].name);
    }
    cairn_free(p);
    json_decref(all);
    return code;
}
