/* eval/bench_peers.c - other libraries, run by eval/peers_ann.py in a Python environment of their own. A peer
 * is one process a pass: its memory and threads are gone before the next engine is measured. */
#include "bench_index.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

bool made_after(const char *path, const char *base_path)
{
    struct stat a, b;
    if (stat(path, &a) || stat(base_path, &b))
        return false;
    return a.st_mtim.tv_sec != b.st_mtim.tv_sec ? a.st_mtim.tv_sec > b.st_mtim.tv_sec
                                                : a.st_mtim.tv_nsec >= b.st_mtim.tv_nsec;
}

enum cairn_err peers_exec(const char *const *argv, const char *log, struct cairn_why *why)
{
    int status = 0, fd = open(log, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return cairn_fail_errno(why, errno, "%s", log);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(fd, STDOUT_FILENO);
        (void)dup2(fd, STDERR_FILENO);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(fd);
    if (pid < 0)
        return cairn_fail_errno(why, errno, "%s", argv[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    enum cairn_err err = cairn_stopped(&run_stop, why);
    if (err)
        return err;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return CAIRN_OK;
    char *text = NULL, *last;
    size_t len;
    if (cairn_read_file(&text, &len, log, 16 << 20, NULL))
        return cairn_fail(why, CAIRN_ESTATE, "%s failed; see %s", argv[0], log);
    while (len && text[len - 1] == '\n')
        text[--len] = 0;
    last = strrchr(text, '\n');
    err = cairn_fail(why, CAIRN_ESTATE, "%s (%s)",
                     *text ? (last ? last + 1 : text) : "it could not be started", log);
    cairn_free(text);
    return err;
}

enum cairn_err peers_python(const struct options *o, const char *work, const char *name,
                            const char *const *packages, char **out, struct cairn_why *why)
{
    char *venv = cairn_path_join(work, name), *python = cairn_asprintf("%s/%s/bin/python", work, name),
         *ready = cairn_asprintf("%s/%s/ready", work, name), *log = cairn_asprintf("%s/%s.log", work, name);
    enum cairn_err err = venv && python && ready && log ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "paths");
    if (!err && !file_exists(ready)) {
        const char *make[] = {"python3", "-m", "venv", venv, NULL},
                   *fill[PEER_PACKAGES_MAX + 6] = {python, "-m", "pip", "install", "--quiet"};
        for (size_t i = 0; packages[i] && i < PEER_PACKAGES_MAX; i++)
            fill[5 + i] = packages[i];
        progress(o, "installing peers", 0, 0);
        err = peers_exec(make, log, why);
        if (!err)
            err = peers_exec(fill, log, why);
        if (err && err != CAIRN_ESTOPPED)
            err = cairn_wrap(why, err,
                             "the Python packages of the peers could not be installed (is PyPI reachable?)");
        if (!err)
            err = cairn_write_file(ready, "", 0, why);
        progress_clear();
    }
    if (!err) {
        *out = python;
        python = NULL;
    }
    cairn_free(venv);
    cairn_free(python);
    cairn_free(ready);
    cairn_free(log);
    return err;
}

static double num(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

enum cairn_err peers_pass(struct index_bench *x, const char *name, struct cairn_why *why)
{
    const char *script = x->o->peers_script ? x->o->peers_script : "eval/peers_ann.py";
    char *index = cairn_asprintf("%s.%s", x->stem, name), *out = cairn_asprintf("%s.%s.runs", x->stem, name),
         *log = cairn_asprintf("%s.%s.log", x->stem, name), *text = NULL;
    size_t len, i;
    json_t *v = NULL, *run;
    enum cairn_err err = index && out && log ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "paths");
    if (!err && !file_exists(script))
        err = cairn_fail(why, CAIRN_ENOTFOUND, "%s: not there; --peers-script names it", script);
    const char *argv[] = {x->python,     script,        "run", name, x->base_path,
                          x->query_path, x->truth_path, index, out,  NULL};
    if (!err && !made_after(index, x->base_path))
        (void)unlink(index);
    progress(x->o, name, 0, 0);
    if (!err)
        err = peers_exec(argv, log, why);
    progress_clear();
    if (!err)
        err = cairn_read_file(&text, &len, out, 1 << 20, why);
    if (!err && (!(v = json_loads(text, 0, NULL)) || !json_is_array(json_object_get(v, "runs"))))
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: not what peers_ann.py writes", out);
    json_array_foreach(json_object_get(v, "runs"), i, run)
    {
        struct ann_run r = {.recall = num(run, "recall"),
                            .qps = num(run, "qps"),
                            .mean_qps = num(run, "mean_qps"),
                            .p50_us = num(run, "p50_us"),
                            .p99_us = num(run, "p99_us")};
        const char *setting = json_string_value(json_object_get(run, "setting"));
        snprintf(r.engine, sizeof r.engine, "%s", name);
        snprintf(r.set, sizeof r.set, "%s", x->label);
        snprintf(r.setting, sizeof r.setting, "%s", setting ? setting : "");
        if (!err)
            err = ann_runs_add(&x->runs, &r, why);
    }
    if (!err) {
        json_object_del(v, "runs");
        json_object_set(json_object_get(x->info, "peers"), name, v);
    }
    json_decref(v);
    cairn_free(text);
    cairn_free(index);
    cairn_free(out);
    cairn_free(log);
    return err;
}
