/* alloc.c - memory with a fault seam, growable buffers, arenas. No locks: the fault counters are atomics. */
#include <cairn/base.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t n_allocations;
static atomic_uint_fast64_t fail_at; /* value of n_allocations at which to fail; 0 = never */
static atomic_bool fail_once;

static bool must_fail(void)
{
    uint64_t n = atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed) + 1;
    uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (at == 0 || n < at)
        return false;
    return n == at || !atomic_load_explicit(&fail_once, memory_order_relaxed);
}

void cairn_alloc_fail_after(uint64_t nth, bool once)
{
    atomic_store(&fail_once, once);
    atomic_store(&fail_at, nth ? atomic_load(&n_allocations) + nth : 0);
}

uint64_t cairn_alloc_count(void) { return atomic_load_explicit(&n_allocations, memory_order_relaxed); }

size_t cairn_heap_bytes(void)
{
#ifdef __GLIBC__
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#else
    return 0;
#endif
}

void *cairn_malloc(size_t size) { return must_fail() ? NULL : malloc(size ? size : 1); }

void *cairn_calloc(size_t n, size_t size) { return must_fail() ? NULL : calloc(n ? n : 1, size ? size : 1); }

void *cairn_realloc(void *p, size_t size) { return must_fail() ? NULL : realloc(p, size ? size : 1); }

void *cairn_reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    return cairn_mul(n, size, &bytes) ? cairn_realloc(p, bytes) : NULL;
}

void *cairn_aligned(size_t align, size_t size)
{
    void *p = NULL;
    if (must_fail() ||
        posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size ? size : 1) != 0)
        return NULL;
    return p;
}

void cairn_free(void *p) { free(p); }

char *cairn_strndup(const char *s, size_t len)
{
    char *copy = cairn_malloc(len + 1);
    if (!copy)
        return NULL;
    if (len)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *cairn_strdup(const char *s) { return s ? cairn_strndup(s, strlen(s)) : NULL; }

char *cairn_asprintf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = len < 0 ? NULL : cairn_malloc((size_t)len + 1);
    if (!s)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(s, (size_t)len + 1, fmt, ap);
    va_end(ap);
    return s;
}

char *cairn_path_join(const char *a, const char *b)
{
    size_t n = strlen(a);
    return cairn_asprintf("%s%s%s", a, n > 0 && a[n - 1] == '/' ? "" : "/", b);
}

/* ---- buffers ---- */

void cairn_buf_init(struct cairn_buf *b, size_t max)
{
    *b = (struct cairn_buf){.max = max ? max : (size_t)256 << 20};
}

void cairn_buf_release(struct cairn_buf *b)
{
    cairn_free(b->bytes);
    b->bytes = NULL;
    b->len = b->cap = 0;
}

void cairn_buf_clear(struct cairn_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->bytes)
        b->bytes[0] = '\0';
}

static bool buf_reserve(struct cairn_buf *b, size_t more)
{
    size_t max = b->max ? b->max : (size_t)256 << 20;
    if (b->failed || more > max || b->len > max - more) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + more + 1;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap *= 2;
    char *bytes = cairn_realloc(b->bytes, cap);
    if (!bytes) {
        b->failed = true;
        return false;
    }
    b->bytes = bytes;
    b->cap = cap;
    return true;
}

bool cairn_buf_put(struct cairn_buf *b, const void *bytes, size_t len)
{
    if (!buf_reserve(b, len))
        return false;
    if (len)
        memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    b->bytes[b->len] = '\0';
    return true;
}

bool cairn_buf_puts(struct cairn_buf *b, const char *s) { return cairn_buf_put(b, s, strlen(s)); }

bool cairn_buf_printf(struct cairn_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (len < 0 || !buf_reserve(b, (size_t)len))
        return false;
    va_start(ap, fmt);
    (void)vsnprintf(b->bytes + b->len, (size_t)len + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)len;
    return true;
}

char *cairn_buf_steal(struct cairn_buf *b)
{
    char *bytes = NULL;
    if (!b->failed && buf_reserve(b, 0)) {
        bytes = b->bytes;
        bytes[b->len] = '\0';
        b->bytes = NULL;
    }
    size_t max = b->max;
    cairn_buf_release(b);
    cairn_buf_init(b, max);
    return bytes;
}

/* ---- arenas ---- */

struct arena_slab {
    struct arena_slab *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};
struct cairn_arena {
    struct arena_slab *slabs;
    size_t total, max;
};

struct cairn_arena *cairn_arena_new(size_t max)
{
    struct cairn_arena *a = cairn_calloc(1, sizeof(*a));
    if (a)
        a->max = max ? max : (size_t)1 << 30;
    return a;
}

void cairn_arena_free(struct cairn_arena *a)
{
    while (a && a->slabs) {
        struct arena_slab *next = a->slabs->next;
        cairn_free(a->slabs);
        a->slabs = next;
    }
    cairn_free(a);
}

void *cairn_arena_alloc(struct cairn_arena *a, size_t size)
{
    if (size > a->max)
        return NULL;
    size = (size + 15) & ~(size_t)15;
    struct arena_slab *s = a->slabs;
    if (!s || s->cap - s->used < size) {
        size_t cap = size > 16384 - sizeof(*s) ? size : 16384 - sizeof(*s);
        if (cap > a->max - a->total)
            return NULL;
        s = cairn_malloc(sizeof(*s) + cap);
        if (!s)
            return NULL;
        *s = (struct arena_slab){.next = a->slabs, .cap = cap};
        a->slabs = s;
        a->total += cap;
    }
    void *p = s->bytes + s->used;
    s->used += size;
    memset(p, 0, size);
    return p;
}

char *cairn_arena_strndup(struct cairn_arena *a, const char *s, size_t len)
{
    char *copy = cairn_arena_alloc(a, len + 1);
    if (copy && len)
        memcpy(copy, s, len);
    return copy;
}
