/* list.c - the files of a source directory. Folders are walked with a stack of their own, each opened below
 * its parent's descriptor without following links, so a link swapped in meanwhile leads nowhere. A symbolic
 * link to a file counts when it ends inside the root; one to a folder never does (it could make a circle). */
#include "loaders_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID_BYTES_MAX 400u /* of a document in the store */
#define NOTES_MAX 8u
#define NOTE_BYTES_MAX 2048u
#define SNIFF_BYTES 4096u

struct folder {
    DIR *dir;
    size_t id_len; /* of its own id, "" for the root */
};
struct lister {
    struct loader_listing *out;
    const char *root;
    char real_root[PATH_MAX];
    size_t cap, cap_held, files_max, bytes_max, depth_max;
    struct folder *folders;
    size_t depth;
    struct cairn_buf id; /* of the open folder, with a '/' at its end */
    struct cairn_buf note;
    struct cairn_why *why;
};

static void skip(struct lister *l, const char *id, const char *reason)
{
    if (l->out->n_skipped++ < NOTES_MAX)
        cairn_buf_printf(&l->note, "%s%.200s: %s", l->note.len ? "; " : "",
                         cairn_utf8_invalid_at(id, strlen(id)) == strlen(id) ? id : "(name)", reason);
}

/* Skips what is there all the same: whoever keeps documents in step with the listing must not take it for
 * gone. */
static enum cairn_err hold(struct lister *l, const char *id, const char *reason)
{
    struct loader_listing *out = l->out;
    skip(l, id, reason);
    if (out->n_held >= l->files_max)
        return cairn_fail(l->why, CAIRN_EFULL,
                          "%.300s holds more than loaders.files_max = %zu files that are skipped", l->root,
                          l->files_max);
    if (out->n_held == l->cap_held) {
        size_t cap = l->cap_held ? l->cap_held * 2 : 16;
        struct loader_held *held = cairn_reallocarray(out->held, cap, sizeof(*held));
        if (!held)
            return cairn_fail(l->why, CAIRN_ENOMEM, "list of %zu skipped files", cap);
        out->held = held;
        l->cap_held = cap;
    }
    struct loader_held h = {cairn_strdup(id), cairn_strdup(reason)};
    if (!h.id || !h.reason) {
        cairn_free(h.id);
        cairn_free(h.reason);
        return cairn_fail(l->why, CAIRN_ENOMEM, "name of a skipped file");
    }
    out->held[out->n_held++] = h;
    return CAIRN_OK;
}

/* As hold, for what stat, open or readdir says: a name that is gone by now is gone. */
static enum cairn_err hold_errno(struct lister *l, const char *id, int saved)
{
    if (saved != ENOENT)
        return hold(l, id, strerror(saved));
    skip(l, id, strerror(saved));
    return CAIRN_OK;
}

static bool id_good(const char *id)
{
    size_t len = strlen(id);
    if (len == 0 || len > ID_BYTES_MAX || cairn_utf8_invalid_at(id, len) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)id[i] < 0x20 || id[i] == 0x7F)
            return false;
    return true;
}

/* The start of the file says what its name does not. */
static enum loader_format sniff(int dir, const char *name)
{
    enum loader_format f = loader_detect(name, NULL, 0);
    int fd = f == LOADER_UNKNOWN ? openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (fd < 0)
        return f;
    char head[SNIFF_BYTES];
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n > 0 ? loader_detect(name, head, (size_t)n) : LOADER_UNKNOWN;
}

static enum cairn_err add_file(struct lister *l, const char *path, const char *id, const struct stat *st)
{
    if (l->out->n >= l->files_max)
        return cairn_fail(l->why, CAIRN_EFULL, "%.300s holds more than loaders.files_max = %zu files",
                          l->root, l->files_max);
    if (l->out->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct loader_file *files = cairn_reallocarray(l->out->files, cap, sizeof(*files));
        if (!files)
            return cairn_fail(l->why, CAIRN_ENOMEM, "list of %zu files", cap);
        l->out->files = files;
        l->cap = cap;
    }
    struct loader_file f = {.path = cairn_strdup(path),
                            .id = cairn_strdup(id),
                            .bytes = (uint64_t)st->st_size,
                            .modified_us =
                                (int64_t)st->st_mtim.tv_sec * 1000000 + st->st_mtim.tv_nsec / 1000};
    if (!f.path || !f.id) {
        cairn_free(f.path);
        cairn_free(f.id);
        return cairn_fail(l->why, CAIRN_ENOMEM, "name of a file");
    }
    l->out->files[l->out->n++] = f;
    return CAIRN_OK;
}

/* A regular file, or a link to one inside the root; counts what it skips. */
static enum cairn_err consider(struct lister *l, int dir, const char *name, const char *path, const char *id,
                               bool link)
{
    struct stat st;
    if (fstatat(dir, name, &st, 0) != 0)
        return link ? hold(l, id, "a link that leads nowhere") : hold_errno(l, id, errno);
    if (link) {
        char real[PATH_MAX];
        size_t n = strlen(l->real_root);
        if (!realpath(path, real) || strncmp(real, l->real_root, n) != 0 || (real[n] != '/' && n > 1))
            return hold(l, id, "a link that leaves the folder");
        if (S_ISDIR(st.st_mode))
            return hold(l, id, "a link to a folder");
    }
    if (!S_ISREG(st.st_mode))
        return hold(l, id, "not a regular file");
    const char *reason = NULL;
    if (!id_good(id))
        reason = "its name is too long, or not UTF-8, or holds control characters";
    else if ((uint64_t)st.st_size > l->bytes_max)
        reason = "larger than loaders.file_bytes_max";
    else if (faccessat(dir, name, R_OK, 0) != 0)
        reason = "not readable";
    else if (sniff(dir, name) == LOADER_UNKNOWN)
        reason = st.st_size == 0 ? "empty" : "not a format we read";
    return reason ? hold(l, id, reason) : add_file(l, path, id, &st);
}

/* The folder whose id l->id holds; one that cannot be read is held as a whole. */
static enum cairn_err folder_open(struct lister *l, int parent, const char *name)
{
    if (l->depth == l->depth_max)
        return hold(l, l->id.bytes ? l->id.bytes : "", "deeper than loaders.depth_max");
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (l->depth ? O_NOFOLLOW : 0));
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        if (l->depth == 0)
            return cairn_fail_errno(l->why, saved, "%.300s", l->root);
        return hold_errno(l, l->id.bytes ? l->id.bytes : "", saved);
    }
    l->folders[l->depth++] = (struct folder){dir, l->id.len};
    return CAIRN_OK;
}

static enum cairn_err entry(struct lister *l, const struct dirent *e)
{
    struct folder *f = &l->folders[l->depth - 1];
    int dir = dirfd(f->dir);
    if (e->d_name[0] == '.') {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            l->out->n_skipped++;
        return CAIRN_OK;
    }
    if (l->depth == 1 && strcmp(e->d_name, "acl.json") == 0) {
        l->out->n_skipped++;
        return CAIRN_OK;
    }
    l->id.len = f->id_len;
    cairn_buf_puts(&l->id, e->d_name);
    char *path = l->id.failed ? NULL : cairn_path_join(l->root, l->id.bytes);
    if (!path)
        return cairn_fail(l->why, CAIRN_ENOMEM, "name of a file");
    struct stat st;
    enum cairn_err err = CAIRN_OK;
    if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        err = hold_errno(l, l->id.bytes, errno);
    else if (S_ISDIR(st.st_mode)) {
        cairn_buf_puts(&l->id, "/");
        if (l->id.failed)
            err = cairn_fail(l->why, CAIRN_ENOMEM, "name of a folder");
        else
            err = folder_open(l, dir, e->d_name);
    } else
        err = consider(l, dir, e->d_name, path, l->id.bytes, S_ISLNK(st.st_mode));
    cairn_free(path);
    return err;
}

static int held_by_id(const void *a, const void *b)
{
    return strcmp(((const struct loader_held *)a)->id, ((const struct loader_held *)b)->id);
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct loader_file *)a)->id, ((const struct loader_file *)b)->id);
}

static enum cairn_err walk(struct lister *l)
{
    enum cairn_err err = folder_open(l, AT_FDCWD, l->root);
    while (!err && l->depth) {
        struct folder *f = &l->folders[l->depth - 1];
        errno = 0;
        const struct dirent *e = readdir(f->dir);
        if (e)
            err = entry(l, e);
        else {
            if (errno) { /* what else is in the folder nobody knows */
                int saved = errno;
                l->id.len = f->id_len;
                cairn_buf_puts(&l->id, ""); /* ends it there */
                err = hold(l, l->id.bytes ? l->id.bytes : "", strerror(saved));
            }
            closedir(f->dir);
            l->depth--;
        }
    }
    while (l->depth)
        closedir(l->folders[--l->depth].dir);
    return err;
}

enum cairn_err loader_list(struct loader_listing *out, const char *root, const struct cairn_config *config,
                           struct cairn_why *why)
{
    *out = (struct loader_listing){0};
    struct lister *l = cairn_calloc(1, sizeof(*l));
    if (!l)
        return cairn_fail(why, CAIRN_ENOMEM, "list of files");
    l->out = out;
    l->root = root;
    l->why = why;
    l->files_max = loaders_size(config, "loaders.files_max");
    l->bytes_max = loaders_size(config, "loaders.file_bytes_max");
    l->depth_max = loaders_size(config, "loaders.depth_max");
    cairn_buf_init(&l->id, 1 << 16);
    cairn_buf_init(&l->note, NOTE_BYTES_MAX * 2);
    l->folders = cairn_calloc(l->depth_max, sizeof(*l->folders));
    enum cairn_err err = CAIRN_OK;
    struct stat st;
    if (!l->folders)
        err = cairn_fail(why, CAIRN_ENOMEM, "list of files");
    else if (stat(root, &st) != 0 || !realpath(root, l->real_root))
        err = errno == ENOENT ? cairn_fail(why, CAIRN_ENOTFOUND, "%.300s: no such file or folder", root)
                              : cairn_fail_errno(why, errno, "%.300s", root);
    else if (S_ISDIR(st.st_mode))
        err = walk(l);
    else { /* a file that was named is wanted, whatever its place */
        const char *slash = strrchr(root, '/');
        err = consider(l, AT_FDCWD, root, root, slash ? slash + 1 : root, false);
    }
    if (!err && l->note.len) {
        out->skipped_note = l->note.failed ? NULL : cairn_buf_steal(&l->note);
        if (!out->skipped_note)
            err = cairn_fail(why, CAIRN_ENOMEM, "note on skipped files");
    }
    if (out->n)
        qsort(out->files, out->n, sizeof(*out->files), by_id);
    if (out->n_held)
        qsort(out->held, out->n_held, sizeof(*out->held), held_by_id);
    cairn_buf_release(&l->id);
    cairn_buf_release(&l->note);
    cairn_free(l->folders);
    cairn_free(l);
    if (err)
        loader_listing_release(out);
    return err;
}

void loader_listing_release(struct loader_listing *l)
{
    for (size_t i = 0; i < l->n; i++) {
        cairn_free(l->files[i].path);
        cairn_free(l->files[i].id);
    }
    cairn_free(l->files);
    for (size_t i = 0; i < l->n_held; i++) {
        cairn_free(l->held[i].id);
        cairn_free(l->held[i].reason);
    }
    cairn_free(l->held);
    cairn_free(l->skipped_note);
    *l = (struct loader_listing){0};
}

static const char *held_exactly(const struct loader_listing *l, const char *id, size_t len)
{
    size_t low = 0, high = l->n_held;
    while (low < high) {
        size_t at = low + (high - low) / 2;
        int order = strncmp(l->held[at].id, id, len);
        if (order == 0 && l->held[at].id[len] == 0)
            return l->held[at].reason;
        if (order < 0)
            low = at + 1;
        else
            high = at; /* one of which the id is only the beginning stands behind it */
    }
    return NULL;
}

const char *loader_listing_holds(const struct loader_listing *l, struct cairn_str id)
{
    const char *reason = l->n_held ? held_exactly(l, id.p, id.len) : NULL;
    if (l->n_held && !reason)
        reason = held_exactly(l, "", 0);
    for (size_t i = 0; i < id.len && l->n_held && !reason; i++)
        if (id.p[i] == '/')
            reason = held_exactly(l, id.p, i + 1);
    return reason;
}
