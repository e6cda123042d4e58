/* eval/main.c - `cairn eval`: which of its commands. */
#include "run.h"

#include <string.h>

int eval_main(int argc, char **argv)
{
    static const char help[] = "usage: cairn eval retrieval|answers|grounding [options]\n\n"
                               "  retrieval   search a judged set and print trec_eval's measures\n"
                               "  answers     ask judged questions: answers, refusals, citations, leaks\n"
                               "  grounding   the checker against what people marked in answers\n\n"
                               "`cairn eval COMMAND --help` says more of each.\n";
    if (argc >= 2 && strcmp(argv[1], "retrieval") == 0)
        return eval_retrieval(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "answers") == 0)
        return eval_answers(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "grounding") == 0)
        return eval_grounding(argc - 1, argv + 1);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(help, stdout);
        return DONE;
    }
    if (argc >= 2)
        fprintf(stderr, "cairn: eval: unknown command \"%s\"\n", argv[1]);
    fputs(help, stderr);
    return USAGE;
}
