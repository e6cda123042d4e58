/* eval/ann_files.c - npy, fvecs and ivecs. npy: numpy.lib.format, versions 1 to 3; fvecs and ivecs (Jegou et
 * al., the TEXMEX corpora): every row is an int32 length and that many values. Little-endian machines only,
 * as the rest of the store. */
#include "ann.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NPY_HEADER_MAX 4096u

void ann_floats_release(struct ann_floats *f)
{
    cairn_free(f->v);
    *f = (struct ann_floats){0};
}
void ann_ids_release(struct ann_ids *f)
{
    cairn_free(f->v);
    *f = (struct ann_ids){0};
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* A whole number of the header text after `at`; moves at behind it. */
static bool number_at(const char **at, uint64_t *out)
{
    char *end;
    while (**at == ' ')
        ++*at;
    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    *out = strtoull(*at, &end, 10);
    *at = end;
    return errno == 0;
}

/* Reads the header; f stands at the first value after it. */
static enum cairn_err npy_header(FILE *f, const char *path, const char *type, uint64_t *n, uint64_t *width,
                                 uint64_t *offset, struct cairn_why *why)
{
    unsigned char head[12];
    char text[NPY_HEADER_MAX + 1];
    if (fread(head, 1, 10, f) != 10 || memcmp(head, "\x93NUMPY", 6) != 0)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: not an npy file", path);
    size_t len = head[8] | (size_t)head[9] << 8, start = 10;
    if (head[6] < 1 || head[6] > 3)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s: npy version %u", path, head[6]);
    if (head[6] > 1) {
        if (fread(head + 10, 1, 2, f) != 2)
            return cairn_fail(why, CAIRN_ECORRUPT, "%s: cut short in its header", path);
        len |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
        start = 12;
    }
    if (len > NPY_HEADER_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: a header of %zu bytes, at most %u", path, len,
                          NPY_HEADER_MAX);
    if (fread(text, 1, len, f) != len)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: cut short in its header", path);
    text[len] = 0;
    const char *descr = strstr(text, "'descr':"), *order = strstr(text, "'fortran_order':"),
               *shape = strstr(text, "'shape':");
    if (!descr || !order || !shape || strlen(text) != len)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: its header is no dictionary of an array", path);
    descr += strlen("'descr':");
    descr += strspn(descr, " ");
    if (strncmp(descr, type, strlen(type)) != 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s: values of type %.8s, want %s", path, descr, type);
    order += strlen("'fortran_order':");
    order += strspn(order, " ");
    if (strncmp(order, "False", 5) != 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s: stored by columns; want rows", path);
    shape += strlen("'shape':");
    shape += strspn(shape, " ");
    bool two = *shape++ == '(' && number_at(&shape, n) && *shape++ == ',' && number_at(&shape, width);
    shape += two && *shape == ',';
    if (!two || *shape != ')')
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s: want an array with two axes", path);
    *offset = start + len;
    return CAIRN_OK;
}

/* values: 4 bytes each, what the caller's type says. */
static enum cairn_err rows_read(void **out, uint32_t *n_out, uint32_t *width_out, const char *path,
                                const char *npy_type, const char *vecs_end, uint32_t n_max,
                                struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    uint64_t n = 0, width = 0, offset = 0, row_head = 0;
    size_t bytes = 0, row;
    char *v = NULL;
    struct stat st;
    FILE *f = fopen(path, "rbe");
    if (!f || fstat(fileno(f), &st)) {
        err = cairn_fail_errno(why, errno, "%s", path);
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        err = cairn_fail(why, CAIRN_EINVAL, "%s: not a regular file", path);
        goto done;
    }
    if (ends_with(path, ".npy")) {
        err = npy_header(f, path, npy_type, &n, &width, &offset, why);
    } else if (ends_with(path, vecs_end)) {
        int32_t d = 0;
        row_head = 4;
        if (fread(&d, 4, 1, f) != 1)
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: empty", path);
        width = d > 0 ? (uint64_t)d : 0;
        if (!err && fseeko(f, 0, SEEK_SET))
            err = cairn_fail_errno(why, errno, "%s", path);
    } else {
        err = cairn_fail(why, CAIRN_EINVAL, "%s: want a name that ends in .npy or %s", path, vecs_end);
    }
    if (err)
        goto done;
    if (width == 0 || width > ANN_DIM_MAX) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: rows of %" PRIu64 " values, want 1 to %u", path, width,
                         ANN_DIM_MAX);
        goto done;
    }
    row = row_head + width * 4;
    if (row_head && (uint64_t)st.st_size % row) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: cut short, or its rows differ in length", path);
        goto done;
    }
    if (row_head)
        n = (uint64_t)st.st_size / row;
    if (n == 0 || n > ANN_ROWS_MAX) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: %" PRIu64 " rows, want 1 to %u", path, n, ANN_ROWS_MAX);
        goto done;
    }
    if (offset + n * row > (uint64_t)st.st_size) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: cut short: it promises %" PRIu64 " rows of %" PRIu64, path,
                         n, width);
        goto done;
    }
    n = n_max && n > n_max ? n_max : n;
    if (!cairn_mul((size_t)n, (size_t)width * 4, &bytes) || !(v = cairn_malloc(bytes))) {
        err = cairn_fail(why, CAIRN_ENOMEM, "%s", path);
        goto done;
    }
    for (uint64_t i = 0; i < (row_head ? n : 1) && !err; i++) {
        int32_t d;
        if (row_head && (fread(&d, 4, 1, f) != 1 || d < 0 || (uint64_t)d != width))
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: row %" PRIu64 " has another length", path, i);
        size_t want = row_head ? (size_t)width * 4 : bytes;
        if (!err && fread(v + i * width * 4, 1, want, f) != want)
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: cut short", path);
    }
    if (err)
        goto done;
    *out = v;
    v = NULL;
    *n_out = (uint32_t)n;
    *width_out = (uint32_t)width;
done:
    cairn_free(v);
    if (f)
        (void)fclose(f);
    return err;
}

enum cairn_err ann_floats_read(struct ann_floats *out, const char *path, uint32_t n_max,
                               struct cairn_why *why)
{
    void *v = NULL;
    *out = (struct ann_floats){0};
    enum cairn_err err = rows_read(&v, &out->n, &out->dim, path, "'<f4'", ".fvecs", n_max, why);
    out->v = v;
    for (size_t i = 0; !err && i < (size_t)out->n * out->dim; i++)
        if (!__builtin_isfinite(out->v[i]))
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: row %zu holds a value that is no number", path,
                             i / out->dim);
    if (err)
        ann_floats_release(out);
    return err;
}

enum cairn_err ann_ids_read(struct ann_ids *out, const char *path, uint32_t n_max, struct cairn_why *why)
{
    void *v = NULL;
    *out = (struct ann_ids){0};
    enum cairn_err err = rows_read(&v, &out->n, &out->k, path, "'<i4'", ".ivecs", n_max, why);
    out->v = v;
    return err;
}

static enum cairn_err npy_write(const char *path, const char *type, const void *v, uint32_t n, uint32_t width,
                                struct cairn_why *why)
{
    char head[128], *beside = cairn_asprintf("%s.partial", path);
    size_t bytes = (size_t)n * width * 4;
    FILE *f = beside ? fopen(beside, "wbe") : NULL;
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\1\0\x76\0", 10); /* 118 bytes of text: values start at 128 */
    int len = snprintf(head + 10, sizeof head - 10,
                       "{'descr': %s, 'fortran_order': False, 'shape': (%u, %u)}", type, n, width);
    head[10 + len] = ' ';
    head[127] = '\n';
    bool good = f && fwrite(head, 1, sizeof head, f) == sizeof head && fwrite(v, 1, bytes, f) == bytes;
    if (f && fclose(f))
        good = false;
    if (good && rename(beside, path))
        good = false;
    enum cairn_err err = good ? CAIRN_OK : cairn_fail_errno(why, errno, "%s", path);
    if (!good && beside)
        (void)unlink(beside);
    cairn_free(beside);
    return err;
}
enum cairn_err ann_floats_write(const char *path, const struct ann_floats *f, struct cairn_why *why)
{
    return npy_write(path, "'<f4'", f->v, f->n, f->dim, why);
}
enum cairn_err ann_ids_write(const char *path, const struct ann_ids *f, struct cairn_why *why)
{
    return npy_write(path, "'<i4'", f->v, f->n, f->k, why);
}
