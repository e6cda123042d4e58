/* file.c - whole files and directories, with the syncs that make a rename durable. */
#include <cairn/base.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
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
