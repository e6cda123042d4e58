/* api/cli/serve.c - `cairn serve`: a service and its server until a signal. */
#include "cli.h"

#include <math.h>
#include <unistd.h>

#define LISTEN_DEFAULT "127.0.0.1:7420"
#define HTTP_DEFAULT "127.0.0.1:7421"

static struct server *volatile serving;
static volatile sig_atomic_t signals;

/* The first signal drains, the second ends the process at once. */
static void on_signal(int sig)
{
    (void)sig;
    struct server *s = serving;
    if (signals++ || !s)
        _exit(EXIT_FAILED);
    server_stop(s);
}

static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigemptyset(&sa.sa_mask);
    (void)sigaction(SIGTERM, &sa, NULL);
    (void)sigaction(SIGINT, &sa, NULL);
    sa.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &sa, NULL);
}

static int serve(struct args *a)
{
    struct door d;
    struct cairn_why why = {{0}};
    int code = door_open(&d, a, DOOR_CREATE, false);
    if (code)
        return code;
    bool no_http = a->http && (strcmp(a->http, "none") == 0 || !*a->http);
    struct server_opts o = {.listen = a->listen ? a->listen : LISTEN_DEFAULT,
                            .http = no_http   ? NULL
                                    : a->http ? a->http
                                              : HTTP_DEFAULT,
                            .allow_remote = a->allow_remote,
                            .open_access = a->open_access};
    struct server *s = NULL;
    enum cairn_err err = server_open(&s, d.service, &o, &why);
    if (!err) {
        serving = s;
        catch_signals();
        const char *http = server_http_addr(s);
        printf("ready rpc=%s http=%s\n", server_rpc_addr(s), http && *http ? http : "none");
        code = out_finish(a, EXIT_DONE);
        if (!code)
            err = server_run(s, &why);
    }
    if (err)
        code = fail_with(a, err, &why);
    serving = NULL; /* a signal from here on ends the process; what was acknowledged is on disk */
    server_close(s);
    door_close(&d);
    return code;
}

/* As --set reads it: whole numbers without an exponent, sizes with the largest suffix that is exact. */
static void number_text(char out[32], double v, bool bytes)
{
    static const char suffix[] = "gmk";
    double unit = 1024.0 * 1024.0 * 1024.0;
    for (size_t i = 0; bytes && suffix[i]; i++, unit /= 1024.0)
        if (v >= unit && fmod(v, unit) == 0 && v / unit < 1e5) {
            (void)snprintf(out, 32, "%.0f%c", v / unit, suffix[i]);
            return;
        }
    (void)snprintf(out, 32, v == floor(v) && fabs(v) < 1e15 ? "%.0f" : "%.10g", v);
}

static void settings_help(FILE *to)
{
    struct cairn_config *c;
    if (api_config_new(&c, NULL))
        return;
    fputs("\nSettings, for --config and --set (sizes take k, m, g):\n", to);
    for (size_t i = 0; i < cairn_config_count(c); i++) {
        const struct cairn_conf *row = cairn_config_at(c, i, NULL);
        bool bytes = strstr(row->key, "bytes") != NULL;
        char def[32], min[32], max[32];
        number_text(def, row->def, bytes);
        number_text(min, row->min, bytes);
        number_text(max, row->max, bytes);
        fprintf(to, "  %-34s %s  (%s .. %s)%s\n      %s\n", row->key, def, min, max,
                row->live ? ", live" : "", row->help);
    }
    cairn_config_free(c);
}

static const struct opt serve_opts[] = {
    OPT_TITLE("Serving"),
    OPTS_DATA,
    OPT(TEXT, "listen", "ADDR", listen,
        "msgpack-RPC at HOST:PORT or unix:PATH; port 0 picks one (default " LISTEN_DEFAULT ")"),
    OPT(TEXT, "http", "ADDR", http, "health and metrics at HOST:PORT, or none (default " HTTP_DEFAULT ")"),
    OPT(FLAG, "allow-remote", NULL, allow_remote, "accept an address that other machines can reach"),
    OPT(FLAG, "open", NULL, open_access,
        "ask nobody for a key, though the store has keys; only on loopback and Unix sockets"),
    OPT(TEXT, "sync-root", "DIR", sync_root,
        "directory below which remote admins may call doc.sync (default: none)"),
    OPTS_SERVICE,
    OPT_TITLE("Output"),
    OPTS_LOG,
    OPT(FLAG, "help", NULL, help, "this text"),
};
static const struct command commands[] = {
    {"serve", "", "answer over msgpack-RPC and HTTP",
     "Prints one line, \"ready rpc=ADDR http=ADDR\", when it serves. SIGTERM or SIGINT drains: running "
     "requests are finished, new ones "
     "refused; a second signal ends at once. Only this machine can connect unless --allow-remote is given. A "
     "store without any key, on "
     "loopback or a Unix socket, is open; with the first `cairn key create` every caller needs a key.", serve_opts, sizeof serve_opts / sizeof serve_opts[0], 0, 0, serve, settings_help}
};
const struct command_group serve_commands = {commands, sizeof commands / sizeof commands[0]};
