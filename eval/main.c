/* eval/main.c - `cairn eval`: which of its commands. */
#include "run.h"

#include <string.h>

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"retrieval", "search a judged set and print trec_eval's measures",        eval_retrieval},
    {"answers",   "ask judged questions: answers, refusals, citations, leaks", eval_answers  },
    {"grounding", "the checker against what people marked in answers",         eval_grounding},
    {"ann",       "the vector index against exact search",                     eval_ann      },
    {"all",       "all of these on a directory of sets",                       eval_all      },
    {"compare",   "two runs, query by query",                                  eval_compare  },
    {"report",    "results as an HTML page",                                   eval_report   },
    {"drift",     "questions and scores of a service against an earlier time", eval_drift    },
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void help(FILE *to)
{
    fputs("usage: cairn eval COMMAND [options]\n\n", to);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fputs("\n`cairn eval COMMAND --help` says more of each.\n", to);
}

int eval_main(int argc, char **argv)
{
    for (size_t i = 0; argc >= 2 && i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        help(stdout);
        return DONE;
    }
    if (argc >= 2)
        fprintf(stderr, "cairn: eval: unknown command \"%s\"\n", argv[1]);
    help(stderr);
    return USAGE;
}
