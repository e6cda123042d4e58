/* api/cli/main.c - the `cairn` command: finds the command, reads its options, runs it. The only file that
 * knows of the room above
 * (`eval`, `train`, `bench`). */
#include "cli.h"

#include <stdlib.h>
#ifdef CAIRN_HAVE_EVAL
#include <cairn/eval.h>
#endif

static const struct command_group *const groups[] = {&serve_commands,      &ingest_commands, &query_commands,
                                                     &collection_commands, &model_commands,  &store_commands};
#define GROUPS (sizeof groups / sizeof groups[0])

#ifdef CAIRN_HAVE_EVAL
static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} above[] = {
    {"eval",  "judge retrieval, answers or the grounding checker against a set",   eval_main },
    {"train", "fit the grounding checker to judged sets",                          train_main},
    {"bench", "measure this machine; `bench index`, `bench model`: beside others", bench_main}
};
#endif

static void help(FILE *to)
{
    fputs("cairn answers questions from your own documents, with citations and a verdict per sentence.\n\n"
          "usage: cairn COMMAND [options] ...\n\n",
          to);
    for (size_t g = 0; g < GROUPS; g++) {
        for (size_t i = 0; i < groups[g]->n; i++)
            fprintf(to, "  %-20s %s\n", groups[g]->commands[i].name, groups[g]->commands[i].summary);
        fputc('\n', to);
    }
#ifdef CAIRN_HAVE_EVAL
    for (size_t i = 0; i < sizeof above / sizeof above[0]; i++)
        fprintf(to, "  %-20s %s\n", above[i].name, above[i].summary);
    fputc('\n', to);
#endif
    fputs("`cairn COMMAND --help` says more of each; `cairn version` prints the version.\n"
          "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the answer was refused.\n",
          to);
}

/* Two words ("key create") before one ("search"). *words: how many of argv it took. */
static const struct command *find(int argc, char **argv, int *words)
{
    for (*words = 2; *words > 0; --*words) {
        char name[64];
        if (argc < *words)
            continue;
        snprintf(name, sizeof name, *words == 2 ? "%s %s" : "%s", argv[0], *words == 2 ? argv[1] : "");
        for (size_t g = 0; g < GROUPS; g++)
            for (size_t i = 0; i < groups[g]->n; i++)
                if (strcmp(groups[g]->commands[i].name, name) == 0)
                    return &groups[g]->commands[i];
    }
    return NULL;
}

/* The commands that begin with this word; their number. */
static size_t list_family(const char *word, FILE *to)
{
    size_t n = 0, len = strlen(word);
    for (size_t g = 0; g < GROUPS; g++)
        for (size_t i = 0; i < groups[g]->n; i++) {
            const struct command *c = &groups[g]->commands[i];
            if (strncmp(c->name, word, len) != 0 || c->name[len] != ' ')
                continue;
            if (to)
                fprintf(to, "  %-20s %s\n", c->name, c->summary);
            n++;
        }
    return n;
}

static int family(const char *word, int argc, char **argv)
{
    struct args none = {0};
    bool asked = argc < 1 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0;
    FILE *to = argc >= 1 && asked ? stdout : stderr;
    if (!asked)
        (void)fail_text(&none, EXIT_USAGE, "%s: unknown command \"%s %s\"", word, word, argv[0]);
    else if (argc < 1)
        (void)fail_text(&none, EXIT_USAGE, "%s: say which", word);
    fprintf(to, "The commands of `cairn %s`, each with --help:\n\n", word);
    (void)list_family(word, to);
    return argc >= 1 && asked ? out_finish(&none, EXIT_DONE) : EXIT_USAGE;
}

static bool log_level(const char *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0) {
            cairn_log_set_level((enum cairn_log_level)i);
            return true;
        }
    return false;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct args *a = cairn_calloc(1, sizeof *a);
    if (!a) {
        fputs("cairn: out of memory\n", stderr);
        return EXIT_FAILED;
    }
    a->command = c;
    int code = options_parse(a, argc, argv);
    if (!code && a->help) {
        options_help(c, stdout);
        code = out_finish(a, EXIT_DONE);
    } else if (!code && a->log_level && !log_level(a->log_level)) {
        code = fail_usage(a, "--log-level wants error, warn, info or debug, not \"%s\"", a->log_level);
    } else if (!code) {
        code = c->run(a);
    }
    cairn_free(a);
    return code;
}

int main(int argc, char **argv)
{
    struct args none = {0};
    const struct command *c;
    int words;
    cairn_failpoints_from_env();
#ifdef CAIRN_HAVE_EVAL
    api_set_eval(eval_live);
#endif
    argc--;
    argv++;
    if (argc < 1) {
        help(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[0];
    if (strcmp(word, "version") == 0 || strcmp(word, "--version") == 0) {
        puts("cairn " CAIRN_VERSION);
        return out_finish(&none, EXIT_DONE);
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (strcmp(word, "help") == 0 && argc == 1)) {
        help(stdout);
        return out_finish(&none, EXIT_DONE);
    }
    static char help_option[] = "--help";
    bool helping = strcmp(word, "help") == 0;
    if (helping) {
        argc--;
        argv++;
        word = argv[0];
    }
    c = find(argc, argv, &words);
    if (c && helping) {
        options_help(c, stdout);
        return out_finish(&none, EXIT_DONE);
    }
    if (c) /* argv of the command begins with the last word of its name */
        return run(c, argc - words + 1, argv + words - 1);
#ifdef CAIRN_HAVE_EVAL
    for (size_t i = 0; i < sizeof above / sizeof above[0]; i++)
        if (strcmp(above[i].name, word) == 0) {
            char *ask[] = {argv[0], help_option, NULL};
            return helping ? above[i].run(2, ask) : above[i].run(argc, argv);
        }
#endif
    if (list_family(word, NULL)) {
        char *ask[] = {help_option, NULL};
        return helping && argc == 1 ? family(word, 1, ask) : family(word, argc - 1, argv + 1);
    }
    fprintf(stderr, "cairn: unknown command \"%s\"; `cairn help` lists them\n", word);
    return EXIT_USAGE;
}
