/* cairn/base.h - what every room stands on: errors, memory, buffers, log, configuration, time, stop tokens,
 * threads, failpoints, hashes, files and text. Threads: every function may be called from any thread unless
 * its comment says otherwise; a struct given to a call belongs to the caller and is not locked here. COPIED:
 * we keep our own. OWNED: yours to free. BORROWED: ours, valid until the moment named. */
#ifndef CAIRN_BASE_H
#define CAIRN_BASE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAIRN_VERSION "0.1.0"

#define CAIRN_MUST_USE __attribute__((warn_unused_result))
#define CAIRN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* ---- errors
 * -------------------------------------------------------------------------------------------------- */

enum cairn_err {
    CAIRN_OK = 0,
    CAIRN_ENOMEM = -1,
    CAIRN_EINVAL = -2,    /* the caller broke a stated rule: arguments, types, ranges, options */
    CAIRN_ENOTFOUND = -3, /* a normal outcome, never logged as an error */
    CAIRN_ECORRUPT = -4,  /* bytes from disk, wire or a model file break a stated rule */
    CAIRN_EFULL = -5,     /* a map, queue, disk or limit is full */
    CAIRN_EIO = -6,
    CAIRN_EDEVICE = -7,       /* the GPU said no; the CPU path may still work */
    CAIRN_ESTOPPED = -8,      /* cancelled by the caller */
    CAIRN_EDEADLINE = -9,     /* the deadline passed */
    CAIRN_EEXISTS = -10,      /* already there */
    CAIRN_EDENIED = -11,      /* known caller, not allowed */
    CAIRN_EUNAUTH = -12,      /* unknown caller: no key, bad key, expired key */
    CAIRN_EBUSY = -13,        /* another process holds it, or too much in flight: try again */
    CAIRN_EUNSUPPORTED = -14, /* valid, but not something this build or model does */
    CAIRN_ESTATE = -15, /* right call, wrong moment: model missing, store read-only, dimension mismatch */
};

/* One sentence for a person: what, where, how to mend it. `why` may be NULL everywhere. */
struct cairn_why {
    char text[512];
};

/* Fills why->text (when why is not NULL) and returns err, so that `return cairn_fail(why, CAIRN_EINVAL,
 * "...")` reads well. */
enum cairn_err cairn_fail(struct cairn_why *why, enum cairn_err err, const char *fmt, ...) CAIRN_PRINTF(3, 4);
/* Puts "prefix: " before an existing text; keeps err. */
enum cairn_err cairn_wrap(struct cairn_why *why, enum cairn_err err, const char *fmt, ...) CAIRN_PRINTF(3, 4);
/* errno -> code, "what: strerror" in why->text. */
enum cairn_err cairn_fail_errno(struct cairn_why *why, int errnum, const char *fmt, ...) CAIRN_PRINTF(3, 4);
/* "NOT_FOUND", "INVALID_ARGUMENT", ...: the wire's names, stable. */
const char *cairn_err_name(enum cairn_err err);

/* Our own state is broken: report and abort. Never for input. */
#define CAIRN_CHECK(cond) ((cond) ? (void)0 : cairn_check_failed(#cond, __FILE__, __LINE__))
_Noreturn void cairn_check_failed(const char *cond, const char *file, int line);
#ifdef CAIRN_DEBUG
#define CAIRN_DASSERT(cond) CAIRN_CHECK(cond)
#else
#define CAIRN_DASSERT(cond) ((void)0)
#endif

/* ---- memory
 * -------------------------------------------------------------------------------------------------- */

/* All allocation goes through these, so that tests can fail the Nth one (cairn_alloc_fail_after). Zero sizes
 * give a unique pointer. Free with cairn_free; NULL is fine. */
void *cairn_malloc(size_t size);
void *cairn_calloc(size_t n, size_t size); /* checked multiply */
void *cairn_realloc(void *p, size_t size);
void *cairn_reallocarray(void *p, size_t n, size_t size); /* checked multiply */
void *cairn_aligned(size_t align, size_t size);           /* align: power of two; contents undefined */
void cairn_free(void *p);
char *cairn_strdup(const char *s);              /* NULL in, NULL out */
char *cairn_strndup(const char *s, size_t len); /* copies len bytes, adds NUL */
char *cairn_asprintf(const char *fmt, ...) CAIRN_PRINTF(1, 2);
/* Tests: the nth allocation from now (1 = the next) fails; 0 = never. once: only that one, else all after it
 * too. */
void cairn_alloc_fail_after(uint64_t nth, bool once);
uint64_t cairn_alloc_count(void); /* allocations since start */
size_t cairn_heap_bytes(void); /* allocated now, by all of the process; 0 where the C library does not say */

/* False on overflow; *out is written only on success. */
static inline bool cairn_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}
static inline bool cairn_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* Growable bytes with a maximum. After a failed append `failed` stays set and later appends do nothing, so a
 * writer may check once at the end. `bytes` is always NUL-terminated when not NULL (the NUL is not counted in
 * len). */
struct cairn_buf {
    char *bytes;
    size_t len, cap, max;
    bool failed;
};
void cairn_buf_init(struct cairn_buf *b, size_t max); /* max 0: 256 MiB */
void cairn_buf_release(struct cairn_buf *b);
void cairn_buf_clear(struct cairn_buf *b); /* keeps the memory */
bool cairn_buf_put(struct cairn_buf *b, const void *bytes, size_t len);
bool cairn_buf_puts(struct cairn_buf *b, const char *s);
bool cairn_buf_printf(struct cairn_buf *b, const char *fmt, ...) CAIRN_PRINTF(2, 3);
char *cairn_buf_steal(struct cairn_buf *b); /* OWNED by the caller; NULL if failed; b is empty again */

/* Bump allocator: one release frees all. Returns NULL past max. Memory is 16-byte aligned and zeroed. */
struct cairn_arena;
struct cairn_arena *cairn_arena_new(size_t max); /* max 0: 1 GiB */
void cairn_arena_free(struct cairn_arena *a);
void *cairn_arena_alloc(struct cairn_arena *a, size_t size);
char *cairn_arena_strndup(struct cairn_arena *a, const char *s, size_t len);

/* A view of bytes that somebody else owns. */
struct cairn_str {
    const char *p;
    size_t len;
};
static inline struct cairn_str cairn_str_of(const char *s)
{
    return (struct cairn_str){s, s ? __builtin_strlen(s) : 0};
}

/* ---- log
 * ------------------------------------------------------------------------------------------------------ */

enum cairn_log_level { CAIRN_LOG_ERROR, CAIRN_LOG_WARN, CAIRN_LOG_INFO, CAIRN_LOG_DEBUG };
/* One line on stderr: time, level, room, event, key=value. Of user text log the length, never the text.
 * CAIRN_LOG(INDEX, WARN, "map grown old_bytes=%zu new_bytes=%zu", a, b); the level comes from
 * CAIRN_LOG_LEVEL=error|warn| info|debug or cairn_log_set_level (default: warn). */
#define CAIRN_LOG(room, level, ...) cairn_log(CAIRN_LOG_##level, #room, __VA_ARGS__)
void cairn_log(enum cairn_log_level level, const char *room, const char *fmt, ...) CAIRN_PRINTF(3, 4);
void cairn_log_set_level(enum cairn_log_level level);

/* ---- configuration
 * -------------------------------------------------------------------------------------------- */

/* A table per room (key, default, min, max, live, help) feeds the parser, --help, README and server.info. All
 * values are numbers; a boolean is 0..1. Strings (paths, addresses) are command options, not configuration.
 */
struct cairn_conf {
    const char *key; /* "index.map_bytes" */
    double def, min, max;
    bool live; /* may change while serving */
    const char *help;
};
struct cairn_config; /* values of all registered tables */
struct cairn_config *cairn_config_new(void);
void cairn_config_free(struct cairn_config *c);
/* tables are BORROWED for the life of c (static const arrays). */
CAIRN_MUST_USE enum cairn_err cairn_config_add_table(struct cairn_config *c, const struct cairn_conf *table,
                                                     size_t n, struct cairn_why *why);
/* "key=value"; unknown key or out of range is CAIRN_EINVAL naming the key and its range. Sizes take k, m, g
 * suffixes (powers of 1024). */
CAIRN_MUST_USE enum cairn_err cairn_config_set(struct cairn_config *c, const char *key, const char *value,
                                               struct cairn_why *why);
/* Lines "key = value", '#' comments. */
CAIRN_MUST_USE enum cairn_err cairn_config_load(struct cairn_config *c, const char *path,
                                                struct cairn_why *why);
/* The key must be registered (CAIRN_CHECK). */
double cairn_config_num(const struct cairn_config *c, const char *key);
size_t cairn_config_size(const struct cairn_config *c, const char *key);
size_t cairn_config_count(const struct cairn_config *c);
const struct cairn_conf *cairn_config_at(const struct cairn_config *c, size_t i, double *value);

/* ---- time, stop tokens
 * ---------------------------------------------------------------------------------------- */

int64_t cairn_now_us(void);  /* monotonic */
int64_t cairn_wall_us(void); /* since the epoch, UTC */

/* Carried down every long call. `cancelled` may be set from any thread; deadline_us is on the monotonic
 * clock, 0 = none. */
struct cairn_stop {
    atomic_bool cancelled;
    int64_t deadline_us;
};
/* CAIRN_OK, CAIRN_ESTOPPED or CAIRN_EDEADLINE; stop may be NULL. Cheap enough for once a token or once a
 * thousand rows. */
enum cairn_err cairn_stopped(const struct cairn_stop *stop, struct cairn_why *why);

/* Called now and then on long work, from the thread that does the work; total 0 = unknown. */
typedef void (*cairn_progress_fn)(void *ctx, const char *what, uint64_t done, uint64_t total);

/* ---- threads
 * --------------------------------------------------------------------------------------------------- */

/* A fixed pool for data-parallel work inside one model step. One caller at a time per pool (an internal lock
 * queues others). fn(ctx, begin, end, worker) covers [0, n) in pieces of about `grain`; worker is
 * 0..n_threads-1, 0 being the caller's own thread. Returns when all pieces are done. Workers spin briefly,
 * then sleep. */
struct cairn_pool;
typedef void (*cairn_range_fn)(void *ctx, size_t begin, size_t end, unsigned worker);
CAIRN_MUST_USE enum cairn_err cairn_pool_open(struct cairn_pool **out, unsigned n_threads,
                                              struct cairn_why *why); /* 0: cores */
void cairn_pool_close(struct cairn_pool *p);
unsigned cairn_pool_threads(const struct cairn_pool *p); /* NULL: 1 */
void cairn_pool_run(struct cairn_pool *p, size_t n, size_t grain, cairn_range_fn fn,
                    void *ctx); /* p NULL: inline */

/* ---- failpoints
 * ------------------------------------------------------------------------------------------------ */

/* A named place that tests can make fail. CAIRN_FAILPOINTS="name=kill@3,other=error" in the environment, or
 * cairn_failpoint_set(). Actions: error (the place fails as its own code does), kill (SIGKILL to this
 * process), sleep:MS;
 * "@N" acts on the Nth pass only. Free when nothing is armed: one relaxed load. */
#define CAIRN_FAILPOINT(name)                                                                                \
    (atomic_load_explicit(&cairn_failpoints_armed, memory_order_relaxed) && cairn_failpoint_hit(name))
extern atomic_bool cairn_failpoints_armed;
bool cairn_failpoint_hit(const char *name); /* true: act as if the operation failed */
CAIRN_MUST_USE enum cairn_err cairn_failpoint_set(const char *spec,
                                                  struct cairn_why *why); /* NULL or "": disarm all */
void cairn_failpoints_from_env(void);                                     /* main() calls it once */

/* ---- hashes and bytes
 * -------------------------------------------------------------------------------------------- */

struct cairn_hash {
    uint8_t b[32];
};
struct cairn_hash cairn_hash_bytes(const void *bytes, size_t len);           /* BLAKE2b-256 (RFC 7693) */
uint64_t cairn_xxh64(const void *bytes, size_t len, uint64_t seed);          /* XXH3 64, for checksums */
void cairn_hex(char *out, const uint8_t *bytes, size_t len);                 /* writes 2 * len + 1 chars */
bool cairn_unhex(uint8_t *out, size_t len, const char *hex, size_t hex_len); /* exact length, 0-9a-f */
/* sha256 of a whole file, with progress; for model files. */
CAIRN_MUST_USE enum cairn_err cairn_sha256_file(uint8_t out[32], const char *path, cairn_progress_fn progress,
                                                void *ctx, struct cairn_why *why);

/* ---- files
 * ------------------------------------------------------------------------------------------------------- */

/* Whole file; *out is OWNED and NUL-terminated. A file over max is CAIRN_EFULL. */
CAIRN_MUST_USE enum cairn_err cairn_read_file(char **out, size_t *len, const char *path, size_t max,
                                              struct cairn_why *why);
/* Writes beside, fsyncs, renames, fsyncs the directory. */
CAIRN_MUST_USE enum cairn_err cairn_write_file(const char *path, const void *bytes, size_t len,
                                               struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err cairn_mkdirs(const char *path, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err cairn_fsync_dir(const char *path, struct cairn_why *why);
/* A directory PREFIX.partial-PID that is filled and then renamed, or removed. It is locked while its maker
 * lives; making one removes those of the same prefix that a killed process left behind (its PID is gone and
 * the lock free). */
struct cairn_workdir {
    char *path; /* NULL: none */
    int lock;
};
CAIRN_MUST_USE enum cairn_err cairn_workdir_open(struct cairn_workdir *w, const char *prefix,
                                                 struct cairn_why *why);
/* Removes what is still there under its path, two levels deep, unless it was renamed. */
void cairn_workdir_close(struct cairn_workdir *w, bool renamed);
/* "a" + "/" + "b"; OWNED; NULL on no memory. */
char *cairn_path_join(const char *a, const char *b);

/* ---- text
 * -----------------------------------------------------------------------------------------------------------
 */

/* Byte offset of the first invalid UTF-8 sequence, or len when all is valid (RFC 3629: no surrogates, no
 * overlong). */
size_t cairn_utf8_invalid_at(const char *s, size_t len);
/* Decodes one code point at s (len > 0); returns its length in bytes, or 0 when invalid. */
size_t cairn_utf8_next(const char *s, size_t len, uint32_t *cp);
/* Largest n <= len that does not cut a code point. */
size_t cairn_utf8_floor(const char *s, size_t len);

/* Words of a text for search and for checking: Unicode word segmentation with case and width folding
 * (NFKC_Casefold by utf8proc, accents kept unless strip_marks), then optional Snowball stemming. CJK runs
 * give overlapping bigrams. Threads: one analyzer per thread at a time. */
struct cairn_analyzer;
struct cairn_analyzer_opts {
    const char *language; /* Snowball name or ISO code, "en", "german", ...; NULL or "" = no stemming */
    bool strip_marks;     /* fold é to e */
    bool keep_stopwords;  /* true: emit all words; false: drop the language's small stop list (English, German
                             only) */
};
struct cairn_word {
    struct cairn_str
        text;            /* folded (and stemmed); BORROWED: valid until the next call on the same analyzer */
    uint32_t start, end; /* byte span in the input */
    uint32_t position;   /* word number, counting dropped stop words */
};
CAIRN_MUST_USE enum cairn_err cairn_analyzer_open(struct cairn_analyzer **out,
                                                  const struct cairn_analyzer_opts *o, struct cairn_why *why);
void cairn_analyzer_close(struct cairn_analyzer *a);
/* All words of text (valid UTF-8, < 4 GiB). *words is BORROWED until the next call. */
CAIRN_MUST_USE enum cairn_err cairn_analyze(struct cairn_analyzer *a, struct cairn_str text,
                                            const struct cairn_word **words, size_t *n,
                                            struct cairn_why *why);

/* Sentences: half-open byte spans that cover all non-space text, in order. A period after a known
 * abbreviation, an initial, a digit before a digit, or inside brackets of a citation does not end one; a
 * newline that starts a list item, a blank line, a heading or a table row does. Returns the number found;
 * writes at most max spans. */
struct cairn_span {
    size_t start, end;
};
size_t cairn_sentences(struct cairn_str text, struct cairn_span *spans, size_t max);

#endif
