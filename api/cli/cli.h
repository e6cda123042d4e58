/* api/cli/cli.h - the `cairn` command, private to it: options, the door to a service (in process or behind a
 * socket), output. One thread; signal handlers only set flags. A command is a function of struct args; it
 * returns the exit code. */
#ifndef CAIRN_CLI_H
#define CAIRN_CLI_H

#include "wire.h"

#include <cairn/api.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>

/* What scripts may rely on; docs/cli.md says the same. */
enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NOT_FOUND = 3, EXIT_REFUSED = 4 };

/* ---- options
 * ------------------------------------------------------------------------------------------------------------
 */

#define LIST_MAX 64u
struct list {
    const char *v[LIST_MAX];
    size_t n;
};
struct whole { /* a whole number, or not given */
    bool given;
    uint64_t v;
};
struct number {
    bool given;
    double v;
};
/* Every option of every command has its place here; a command's table says which of them it takes. */
struct args {
    const struct command *command;
    const char *data, *server, *key, *models, *config, *embedder, *reranker, *generator, *checker, *backend,
        *log_level;
    const char *listen, *http, *sync_root;
    const char *acl, *language, *mode, *rule, *style, *role, *name, *fusion, *collection, *file, *title,
        *path, *format, *model, *after, *file_list, *metric, *index, *enforce;
    struct list set, as, sources, allow, stop_strings;
    struct whole dim, ef, nprobe, threads, k, max_tokens, seed, limit, timeout, expires_days;
    struct number temperature, top_p, min_p, dense_weight, rerank_weight, mmr_lambda;
    bool json, quiet, explain, no_stream, no_delete, is_public, is_private, allow_remote, open_access, copy,
        tensors, text, special, query, exact, lexical, dense, vectors, full, help;
    const char **pos;
    size_t n_pos;
};
enum opt_kind { OPT_HEADING, OPT_FLAG, OPT_TEXT, OPT_LIST, OPT_WHOLE, OPT_NUMBER };
struct opt {
    enum opt_kind kind;
    const char *name, *arg, *help; /* a heading has only help */
    size_t at;                     /* offset in struct args */
    double min, max;               /* of numbers; both 0: no bounds */
};
#define OPT(kind_, name_, arg_, field, help_)                                                                \
    {                                                                                                        \
        OPT_##kind_, name_, arg_, help_, offsetof(struct args, field), 0, 0                                  \
    }
#define OPT_IN(kind_, name_, arg_, field, min_, max_, help_)                                                 \
    {                                                                                                        \
        OPT_##kind_, name_, arg_, help_, offsetof(struct args, field), min_, max_                            \
    }
#define OPT_TITLE(text_)                                                                                     \
    {                                                                                                        \
        OPT_HEADING, NULL, NULL, text_, 0, 0, 0                                                              \
    }

/* clang-format off */
#define OPTS_DATA OPT(TEXT, "data", "DIR", data, "the data directory (default: $CAIRN_DATA)")
#define OPTS_MODELS OPT(TEXT, "models", "DIR", models, "directory of models (default: DIR/models, else $CAIRN_MODELS_DIR, else ~/.cache/cairn/models)")
#define OPTS_SERVICE                                                                                                                 \
    OPT_TITLE("Models and settings, with --data"),                                                                                   \
    OPTS_MODELS,                                                                                                                     \
    OPT(TEXT, "embedder", "NAME", embedder, "embedding model, or none (default: the best installed)"),                               \
    OPT(TEXT, "reranker", "NAME", reranker, "pair model, or none (default: the best installed)"),                                    \
    OPT(TEXT, "generator", "NAME", generator, "generator, or none (default: the best installed)"),                                   \
    OPT(TEXT, "checker", "NAME", checker, "encoder that looks at unsure claims again, or none (default: the best installed)"),        \
    OPT(TEXT, "backend", "NAME", backend, "auto, scalar, blas, avx2 or avx512 (default auto)"),                                      \
    OPT_IN(WHOLE, "threads", "N", threads, 1, 1024, "compute threads (default: cores)"),                                             \
    OPT(TEXT, "config", "FILE", config, "settings, lines of key = value; keys: cairn serve --help"),                                 \
    OPT(LIST, "set", "KEY=VALUE", set, "one setting, over the file; may be repeated")
#define OPTS_WHERE                                                                                                                   \
    OPT_TITLE("Where"),                                                                                                              \
    OPTS_DATA,                                                                                                                       \
    OPT(TEXT, "server", "ADDR", server, "be a client of a server at HOST:PORT or unix:PATH instead"),                                \
    OPT(TEXT, "key", "KEY", key, "API key for --server (default: $CAIRN_KEY, which does not show in ps)"),                           \
    OPT_IN(WHOLE, "timeout", "SECONDS", timeout, 1, 86400, "how long a server may be silent (default 300)")
#define OPTS_LOG OPT(TEXT, "log-level", "LEVEL", log_level, "error, warn, info or debug (default: $CAIRN_LOG_LEVEL, else warn)")
#define OPTS_OUTPUT                                                                                                                  \
    OPT_TITLE("Output"),                                                                                                             \
    OPT(FLAG, "json", NULL, json, "one JSON value on stdout instead of text"),                                                       \
    OPT(FLAG, "quiet", NULL, quiet, "no progress on stderr"),                                                                        \
    OPTS_LOG,                                                                                                                        \
    OPT(FLAG, "help", NULL, help, "this text")
#define OPTS_AS OPT(LIST, "as", "PRINCIPAL", as, "read as a holder of this principal; may be repeated (default: everyone; with --server: the key's)")
#define OPTS_ACROSS OPTS_WHERE, OPTS_SERVICE, OPTS_OUTPUT
/* clang-format on */

struct command {
    const char *name, *args, *summary, *details; /* name: one or two words; details may be NULL */
    const struct opt *opts;
    size_t n_opts;
    size_t min_pos, max_pos; /* words after the options */
    int (*run)(struct args *a);
    void (*more_help)(FILE *to); /* may be NULL */
};
#define COMMAND(name_, args_, summary_, details_, opts_, min_, max_, run_)                                   \
    {                                                                                                        \
        name_, args_, summary_, details_, opts_, sizeof(opts_) / sizeof(opts_)[0], min_, max_, run_, NULL    \
    }
struct command_group {
    const struct command *commands;
    size_t n;
};
extern const struct command_group serve_commands, ingest_commands, query_commands, collection_commands,
    model_commands, store_commands;

/* argv[0] is the last word of the command's name. EXIT_DONE, or EXIT_USAGE after a message. */
int options_parse(struct args *a, int argc, char **argv);
void options_help(const struct command *c, FILE *to);

/* ---- output
 * ----------------------------------------------------------------------------------------------------------------
 */

/* "cairn: COMMAND: message" on stderr; returns the code to exit with. */
int fail_with(const struct args *a, enum cairn_err err, const struct cairn_why *why);
int fail_usage(const struct args *a, const char *fmt, ...) CAIRN_PRINTF(2, 3);
int fail_text(const struct args *a, int code, const char *fmt, ...) CAIRN_PRINTF(3, 4);
int exit_code_of(enum cairn_err err);

/* Documents and models are not trusted with a terminal: control characters other than newline and tab are
 * written as U+FFFD. */
void out_text(const char *s, size_t len);
/* On one line, at most `columns` wide (0: all of it), white space squeezed. */
void out_line(const char *s, size_t len, size_t columns);
size_t out_columns(void); /* of the terminal; 100 when stdout is not one */
/* Aligned columns. Cells are COPIED; a heading is the first row; columns whose heading ends in '>' are
 * right-aligned. */
struct table;
struct table *table_new(size_t n_columns, const char *const *headings);
void table_cell(struct table *t, const char *fmt, ...) CAIRN_PRINTF(2, 3);
void table_print_free(struct table *t);
/* Prints a msgpack value as JSON, one line when stdout is not a terminal. */
int out_json(const struct args *a, const struct cairn_buf *msgpack);
json_t *out_parse(const struct cairn_buf *msgpack); /* NULL: out of memory or not JSON-like; json_decref it */
/* Reading what a server sent: absent or of another type gives the fallback. */
const char *j_text(const json_t *o, const char *key); /* "" */
double j_num(const json_t *o, const char *key);       /* NaN */
uint64_t j_whole(const json_t *o, const char *key);   /* 0 */
bool j_true(const json_t *o, const char *key);
void out_warnings(const struct args *a, const json_t *result); /* on stderr */
void format_bytes(char out[32], uint64_t bytes);
void format_time(char out[32], int64_t wall_us); /* UTC */
/* Where all of a command's result goes to stdout: a full disk or closed pipe is a failure. */
int out_finish(const struct args *a, int code);

struct progress {
    bool off, tty;
    int64_t shown_us, begun_us;
    bool dirty;
    char what[64];
};
void progress_begin(struct progress *p, const struct args *a);
void progress_update(void *p, const char *what, uint64_t done, uint64_t total); /* a cairn_progress_fn */
void progress_end(struct progress *p);

/* ---- params: one msgpack map, written key by key
 * ----------------------------------------------------------------------------- */

struct params {
    struct cairn_buf body;
    struct pk k;
    size_t n;
};
void params_init(struct params *p);
void params_release(struct params *p);
void params_text(struct params *p, const char *key, const char *value); /* NULL: left out */
void params_str(struct params *p, const char *key, const char *s, size_t len);
void params_whole(struct params *p, const char *key, struct whole v); /* not given: left out */
void params_uint(struct params *p, const char *key, uint64_t v);
void params_number(struct params *p, const char *key, struct number v);
void params_flag(struct params *p, const char *key, bool v); /* false: left out */
void params_bool(struct params *p, const char *key, bool v);
void params_list(struct params *p, const char *key, const struct list *l); /* empty: left out */

/* ---- the door: a service in this process, or a server's connection
 * ------------------------------------------------------------ */

enum door_use { DOOR_READ, DOOR_WRITE, DOOR_CREATE };
struct door {
    struct service *service;
    struct api_client *client;
    struct cairn_config *config;
    struct cairn_stop stop;
};
/* EXIT_DONE, or another exit code after a message; then nothing is left to close. */
int door_open(struct door *d, const struct args *a, enum door_use use, bool events);
void door_close(struct door *d);
/* Same codes both ways. result must be initialised. */
enum cairn_err door_call(struct door *d, const char *method, struct params *p, const struct api_sink *sink,
                         struct cairn_buf *result, struct cairn_why *why);
/* open, call, print as JSON or by `print`, close: what most commands are. print may be NULL: JSON always. */
int door_run(const struct args *a, enum door_use use, const char *method, struct params *p,
             int (*print)(const struct args *a, json_t *result));
/* Adds principals: --as, else "everyone" for a data directory and nothing for a server (then the key
 * decides). */
void params_as(struct params *p, const struct args *a);
/* From the first Ctrl-C on; the second one ends the process. */
bool interrupted(void);
void interrupt_watch(struct cairn_stop *stop); /* NULL: stop watching */

/* Settings: config file, then --set. OWNED. */
int config_open(struct cairn_config **out, const struct args *a);
/* The data directory of --data or $CAIRN_DATA; NULL after a message when neither is given. */
const char *data_dir(const struct args *a, int *code);
/* Opens a store without models. */
int store_door(struct store **out, struct cairn_config **config, const struct args *a, bool read_only);
bool store_exists(const char *dir);

#endif
