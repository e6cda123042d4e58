/* api/cli/options.c - one table per command feeds the parser and the help text.
 * Options may stand anywhere before "--"; they have only long names, and only their whole names: what a
 * script writes today must not become ambiguous when an option is added. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>

#define OPTIONS_MAX 64u
#define HELP_INDENT 26
#define HELP_COLUMNS 100

static int set_value(struct args *a, const struct opt *o, const char *text)
{
    void *at = (char *)a + o->at;
    char *end = NULL;
    double v = 0;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)at = true;
        return EXIT_DONE;
    case OPT_TEXT:
        *(const char **)at = text;
        return EXIT_DONE;
    case OPT_LIST: {
        struct list *l = at;
        if (l->n == LIST_MAX)
            return fail_usage(a, "--%s may be given at most %u times", o->name, LIST_MAX);
        l->v[l->n++] = text;
        return EXIT_DONE;
    }
    case OPT_WHOLE: {
        struct whole *w = at;
        errno = 0;
        if (text[0] >= '0' && text[0] <= '9')
            w->v = strtoull(text, &end, 10);
        if (!end || *end || errno)
            return fail_usage(a, "--%s wants a whole number, not \"%s\"", o->name, text);
        w->given = true;
        v = (double)w->v;
        break;
    }
    case OPT_NUMBER: {
        struct number *x = at;
        x->v = v = strtod(text, &end);
        if (end == text || *end || !isfinite(v))
            return fail_usage(a, "--%s wants a number, not \"%s\"", o->name, text);
        x->given = true;
        break;
    }
    case OPT_HEADING:
        break;
    }
    if ((o->min != 0 || o->max != 0) && !(v >= o->min && v <= o->max))
        return fail_usage(a, "--%s %s is outside %g .. %g", o->name, text, o->min, o->max);
    return EXIT_DONE;
}

int options_parse(struct args *a, int argc, char **argv)
{
    const struct command *c = a->command;
    struct option longs[OPTIONS_MAX + 1] = {0};
    const struct opt *of[OPTIONS_MAX] = {0};
    size_t n = 0;
    for (size_t i = 0; i < c->n_opts; i++) {
        if (c->opts[i].kind == OPT_HEADING)
            continue;
        CAIRN_CHECK(n < OPTIONS_MAX);
        of[n] = &c->opts[i];
        longs[n++] = (struct option){c->opts[i].name,
                                     c->opts[i].kind == OPT_FLAG ? no_argument : required_argument, NULL, 0};
    }
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (;;) {
        int index = -1;
        int got = getopt_long(argc, argv, ":h", longs, &index);
        if (got == -1)
            break;
        const char *word = argv[optind - 1];
        if (got == 'h') {
            a->help = true;
            return EXIT_DONE;
        }
        if (got == ':')
            return fail_usage(a, "option %s wants a value", word);
        if (got != 0 || index < 0) {
            if (optopt && optopt != 'h' && strncmp(word, "--", 2) != 0)
                return fail_usage(a, "unknown option -%c (options have long names)", optopt);
            size_t len = strncmp(word, "--", 2) == 0 ? strcspn(word + 2, "=") : 0;
            for (size_t i = 0; i < n; i++)
                if (len && word[2 + len] == '=' && strlen(longs[i].name) == len &&
                    strncmp(longs[i].name, word + 2, len) == 0)
                    return fail_usage(a, "option --%s takes no value", longs[i].name);
            return fail_usage(a, "unknown option %s", word);
        }
        if (optarg && optarg == word) /* the value is a word of its own */
            word = argv[optind - 2];
        if (strncmp(word + 2, longs[index].name, strcspn(word + 2, "=")) != 0 ||
            strcspn(word + 2, "=") != strlen(longs[index].name))
            return fail_usage(a, "unknown option %s (is --%s meant?)", word, longs[index].name);
        int code = set_value(a, of[index], optarg);
        if (code)
            return code;
        if (a->help)
            return EXIT_DONE;
    }
    a->pos = (const char **)&argv[optind];
    a->n_pos = (size_t)(argc - optind);
    if (a->n_pos < c->min_pos)
        return fail_usage(a, "expected %s", c->args);
    if (a->n_pos > c->max_pos)
        return fail_usage(
            a, c->max_pos ? "too many words, from \"%s\" on; expected %s" : "expected no words, got \"%s\"",
            a->pos[c->max_pos], c->args);
    return EXIT_DONE;
}

/* Text from column `at`, wrapped. */
static void wrapped(FILE *to, const char *text, size_t indent, size_t at)
{
    while (*text) {
        size_t word = strcspn(text, " \n");
        if (at > indent && at + 1 + word > HELP_COLUMNS) {
            fprintf(to, "\n%*s", (int)indent, "");
            at = indent;
        }
        fprintf(to, "%.*s", (int)word, text);
        at += word;
        text += word;
        if (*text == '\n') {
            fprintf(to, "\n%*s", (int)indent, "");
            at = indent;
            text++;
        } else if (*text == ' ') {
            text++;
            if (at + 1 + strcspn(text, " \n") <= HELP_COLUMNS) {
                fputc(' ', to);
                at++;
            } else {
                fprintf(to, "\n%*s", (int)indent, "");
                at = indent;
            }
        }
    }
    fputc('\n', to);
}

void options_help(const struct command *c, FILE *to)
{
    fprintf(to, "cairn %s - %s\n\nusage: cairn %s [options]%s%s\n", c->name, c->summary, c->name,
            *c->args ? " " : "", c->args);
    if (c->details) {
        fputc('\n', to);
        wrapped(to, c->details, 0, 0);
    }
    bool headed = false;
    for (size_t i = 0; i < c->n_opts; i++) {
        const struct opt *o = &c->opts[i];
        if (o->kind == OPT_HEADING || !headed)
            fprintf(to, "\n%s:\n", o->kind == OPT_HEADING ? o->help : "Options");
        headed = true;
        if (o->kind == OPT_HEADING)
            continue;
        int n = fprintf(to, "  --%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        if (n + 1 >= HELP_INDENT) {
            fputc('\n', to);
            n = 0;
        }
        fprintf(to, "%*s", HELP_INDENT - n, "");
        wrapped(to, o->help, HELP_INDENT, HELP_INDENT);
    }
    if (c->more_help)
        c->more_help(to);
}
