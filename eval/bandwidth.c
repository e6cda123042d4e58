/* eval/bandwidth.c - how fast this machine reads memory. One walk per piece of 4 MiB, pieces handed out as a
 * model's kernels hand out theirs, so that a slow thread does not hold up the other. No single way of walking
 * is the fastest on all machines, so several are tried and the best is the bar. */
#include "model_runs.h"

#include <string.h>
#include <sys/mman.h>

enum { PIECE = 4 << 20, WALKS = 3 };

typedef uint64_t lanes __attribute__((vector_size(64)));

/* Wide loads where the machine has them. Sanitizers and resolvers at load time do not go together. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

static inline __attribute__((always_inline)) uint64_t walk(const char *p, size_t n, size_t streams,
                                                           size_t ahead)
{
    size_t part = n / streams;
    lanes sum[4] = {{0}, {0}, {0}, {0}};
    for (size_t i = 0; i < part; i += sizeof sum)
        for (size_t s = 0; s < streams; s++) {
            const char *at = p + s * part + i;
            for (size_t j = 0; j < 4; j++) {
                if (ahead)
                    __builtin_prefetch(at + ahead + j * sizeof(lanes), 0, 3);
                sum[j] += *(const lanes *)(const void *)(at + j * sizeof(lanes));
            }
        }
    lanes all = sum[0] + sum[1] + sum[2] + sum[3];
    uint64_t total = 0;
    for (size_t i = 0; i < 8; i++)
        total += all[i];
    return total;
}
#define WAY(name, streams, ahead)                                                                            \
    WIDE static uint64_t name(const char *p, size_t n) { return walk(p, n, streams, ahead); }
WAY(walk_1, 1, 0)
WAY(walk_1_near, 1, 1024)
WAY(walk_1_far, 1, 4096)
WAY(walk_2, 2, 0)
WAY(walk_4, 4, 0)
WAY(walk_4_near, 4, 1024)
WAY(walk_8, 8, 0)

static const struct {
    const char *name;
    uint64_t (*fn)(const char *, size_t);
} ways[] = {
    {"1 stream",               walk_1     },
    {"1 stream, 1 KiB ahead",  walk_1_near},
    {"1 stream, 4 KiB ahead",  walk_1_far },
    {"2 streams",              walk_2     },
    {"4 streams",              walk_4     },
    {"4 streams, 1 KiB ahead", walk_4_near},
    {"8 streams",              walk_8     },
};

struct bandwidth {
    char *bytes; /* OWNED: n_pieces, and what prefetching may touch behind them */
    size_t n_pieces, way;
    atomic_uint_fast64_t sink; /* the sums, so that no walk can be left out */
};

enum cairn_err bandwidth_open(struct bandwidth **out, size_t bytes, struct cairn_why *why)
{
    *out = NULL;
    struct bandwidth *b = cairn_calloc(1, sizeof *b);
    if (!b)
        return cairn_fail(why, CAIRN_ENOMEM, "bandwidth probe");
    b->n_pieces = bytes / PIECE ? bytes / PIECE : 1;
    size_t size = (b->n_pieces + 1) * PIECE;
    b->bytes = cairn_aligned(PIECE, size);
    if (!b->bytes) {
        bandwidth_close(b);
        return cairn_fail(why, CAIRN_ENOMEM, "%zu MiB to read for the bandwidth probe", size >> 20);
    }
    (void)madvise(b->bytes, size, MADV_HUGEPAGE);
    memset(b->bytes, 1, size);
    *out = b;
    return CAIRN_OK;
}

void bandwidth_close(struct bandwidth *b)
{
    if (!b)
        return;
    cairn_free(b->bytes);
    cairn_free(b);
}

static void walk_pieces(void *ctx, size_t begin, size_t end, unsigned worker)
{
    struct bandwidth *b = ctx;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        atomic_fetch_add_explicit(&b->sink, ways[b->way].fn(b->bytes + i * PIECE, PIECE),
                                  memory_order_relaxed);
}

double bandwidth_measure(struct bandwidth *b, struct cairn_pool *pool, int64_t (*clock_us)(void),
                         const char **way)
{
    double best = 0;
    for (b->way = 0; b->way < sizeof ways / sizeof ways[0]; b->way++)
        for (int i = 0; i < WALKS; i++) {
            int64_t from = clock_us();
            cairn_pool_run(pool, b->n_pieces, 1, walk_pieces, b);
            double us = (double)(clock_us() - from);
            double gb_s = us > 0 ? (double)b->n_pieces * PIECE / us / 1e3 : 0;
            if (gb_s > best) {
                best = gb_s;
                *way = ways[b->way].name;
            }
        }
    return best;
}
