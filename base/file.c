/* file.c - whole files and directories, with the syncs that make a rename durable. */
#include <cairn/base.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum cairn_err cairn_read_file(char **out, size_t *len, const char *path, size_t max, struct cairn_why *why)
{
    *out = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cairn_fail_errno(why, errno, "%s", path);
    struct stat st;
    enum cairn_err err = CAIRN_OK;
    char *bytes = NULL;
    size_t n = 0;
    if (fstat(fd, &st) != 0) {
        err = cairn_fail_errno(why, errno, "%s", path);
    } else if (S_ISDIR(st.st_mode)) {
        err = cairn_fail(why, CAIRN_EINVAL, "%s is a directory", path);
    } else if (st.st_size > 0 && (uint64_t)st.st_size > max) {
        err = cairn_fail(why, CAIRN_EFULL, "%s has %lld bytes, the limit is %zu", path, (long long)st.st_size,
                         max);
    }
    size_t cap = 0;
    while (!err) {
        if (n == cap) {
            size_t want = cap ? cap * 2 : (size_t)(st.st_size > 0 ? st.st_size : 4096) + 1;
            char *more = cairn_realloc(bytes, want + 1);
            if (!more) {
                err = cairn_fail(why, CAIRN_ENOMEM, "%s: %zu bytes", path, want);
                break;
            }
            bytes = more;
            cap = want;
        }
        ssize_t got = read(fd, bytes + n, cap - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            err = cairn_fail_errno(why, errno, "%s", path);
        if (got <= 0)
            break;
        n += (size_t)got;
        if (n > max)
            err = cairn_fail(why, CAIRN_EFULL, "%s is longer than the limit of %zu bytes", path, max);
    }
    close(fd);
    if (err) {
        cairn_free(bytes);
        return err;
    }
    bytes[n] = '\0';
    *out = bytes;
    *len = n;
    return CAIRN_OK;
}

enum cairn_err cairn_fsync_dir(const char *path, struct cairn_why *why)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return cairn_fail_errno(why, errno, "%s", path);
    int rc = fsync(fd), e = errno;
    close(fd);
    return rc == 0 ? CAIRN_OK : cairn_fail_errno(why, e, "sync of %s", path);
}

static enum cairn_err write_all(int fd, const char *bytes, size_t len, const char *path,
                                struct cairn_why *why)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return cairn_fail_errno(why, errno, "writing %s", path);
        bytes += n;
        len -= (size_t)n;
    }
    return fsync(fd) == 0 ? CAIRN_OK : cairn_fail_errno(why, errno, "sync of %s", path);
}

enum cairn_err cairn_write_file(const char *path, const void *bytes, size_t len, struct cairn_why *why)
{
    char *tmp = cairn_asprintf("%s.tmp.%d", path, (int)getpid());
    char *dir = cairn_strdup(path);
    if (!tmp || !dir) {
        cairn_free(tmp);
        cairn_free(dir);
        return cairn_fail(why, CAIRN_ENOMEM, "%s", path);
    }
    enum cairn_err err = CAIRN_OK;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        err = cairn_fail_errno(why, errno, "%s", tmp);
    } else {
        err = write_all(fd, bytes, len, path, why);
        close(fd);
        if (!err && rename(tmp, path) != 0)
            err = cairn_fail_errno(why, errno, "rename to %s", path);
        if (err)
            (void)unlink(tmp);
    }
    if (!err) {
        char *slash = strrchr(dir, '/');
        if (slash)
            slash[slash == dir ? 1 : 0] = '\0';
        err = cairn_fsync_dir(slash ? dir : ".", why);
    }
    cairn_free(tmp);
    cairn_free(dir);
    return err;
}

enum cairn_err cairn_mkdirs(const char *path, struct cairn_why *why)
{
    char *copy = cairn_strdup(path);
    if (!copy)
        return cairn_fail(why, CAIRN_ENOMEM, "%s", path);
    enum cairn_err err = CAIRN_OK;
    for (char *p = copy + 1; !err; p++) {
        bool last = *p == '\0';
        if (*p != '/' && !last)
            continue;
        *p = '\0';
        struct stat st;
        if (mkdir(copy, 0777) != 0 && (errno != EEXIST || stat(copy, &st) != 0 || !S_ISDIR(st.st_mode)))
            err = cairn_fail_errno(why, errno == EEXIST ? ENOTDIR : errno, "directory %s", copy);
        if (last)
            break;
        *p = '/';
    }
    cairn_free(copy);
    return err;
}

#define WORKDIR_MARK ".partial-"
#define WORKDIR_LEVELS 2u

/* Best effort; follows no link. */
static void remove_tree(int parent, const char *name, unsigned levels)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (fd >= 0 && !d)
        (void)close(fd);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) != 0 && levels > 1)
            remove_tree(dirfd(d), e->d_name, levels - 1);
    }
    if (d)
        (void)closedir(d);
    (void)unlinkat(parent, name, AT_REMOVEDIR);
}

/* A work directory of this base name whose maker is gone. */
static bool is_stale(const char *name, const char *base)
{
    size_t n = strlen(base), mark = strlen(WORKDIR_MARK);
    if (strncmp(name, base, n) != 0 || strncmp(name + n, WORKDIR_MARK, mark) != 0)
        return false;
    const char *digits = name + n + mark;
    size_t len = strlen(digits);
    if (len == 0 || len > 9 || strspn(digits, "0123456789") != len)
        return false;
    pid_t pid = (pid_t)strtol(digits, NULL, 10);
    return pid > 0 && (pid == getpid() || (kill(pid, 0) != 0 && errno == ESRCH));
}

static void remove_stale(const char *dir, const char *base)
{
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if (!is_stale(e->d_name, base))
            continue;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        /* a process of another PID namespace, or another thread, may still be at work in it */
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            CAIRN_LOG(BASE, INFO, "removing what a killed process left dir=\"%s\" name=\"%s\"", dir,
                      e->d_name);
            remove_tree(dirfd(d), e->d_name, WORKDIR_LEVELS);
        }
        (void)close(fd);
    }
    if (d)
        (void)closedir(d);
}

enum cairn_err cairn_workdir_open(struct cairn_workdir *w, const char *prefix, struct cairn_why *why)
{
    *w = (struct cairn_workdir){.lock = -1};
    char *dir = cairn_strdup(prefix), *path = cairn_asprintf("%s" WORKDIR_MARK "%ld", prefix, (long)getpid());
    if (!dir || !path) {
        cairn_free(dir);
        cairn_free(path);
        return cairn_fail(why, CAIRN_ENOMEM, "%s", prefix);
    }
    char *slash = strrchr(dir, '/');
    const char *base = slash ? prefix + (slash - dir) + 1 : prefix;
    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    remove_stale(slash ? dir : ".", base);
    cairn_free(dir);
    if (mkdir(path, 0700) != 0) {
        enum cairn_err err = cairn_fail_errno(why, errno, "%s", path);
        cairn_free(path);
        return err;
    }
    w->path = path;
    w->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock >= 0 && flock(w->lock, LOCK_EX | LOCK_NB) == 0)
        return CAIRN_OK;
    enum cairn_err err = cairn_fail_errno(why, errno, "lock of %s", path);
    cairn_workdir_close(w, false);
    return err;
}

void cairn_workdir_close(struct cairn_workdir *w, bool renamed)
{
    if (w->path && !renamed)
        remove_tree(AT_FDCWD, w->path, WORKDIR_LEVELS);
    if (w->path && w->lock >= 0)
        (void)close(w->lock);
    cairn_free(w->path);
    *w = (struct cairn_workdir){.lock = -1};
}
