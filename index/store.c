/* store.c - opening, closing, map and views of the store; records of collections, documents and passages.
 *
 * Layout. One LMDB environment in DIR/store, named databases below. Integers in keys are big-endian so that
 * they sort; values are [u64 checksum][payload] (kv.c), payloads little-endian with LEB128 varints (codec.h).
 *
 *   meta        "format" -> u32; "state" -> u64 generation, u32 next collection, u32 next principal
 *   collection  name -> struct coll_rec
 *   document    coll, id -> docno, generation, times, hash, first passage, count, text bytes, title, path,
 *               mime, principals
 *   text        coll, docno, piece -> zstd of up to 64 KiB of the document's text
 *   hashes      coll, docno -> 32-byte hashes of its passages in order
 *   passage     coll, passage -> document id, ordinal, span, words, hash, path
 *   forward     coll, passage -> words, (term, frequency)...: what postings hold of it, for its delete
 *   term        coll, word -> u32 term
 *   posting     coll, term, 0 -> document frequency, impact front, word
 *               coll, term, bound -> a block of postings (postings.c)
 *   vector      coll, passage -> f32 row
 *   code        coll, first passage -> int8 rows of the delta (vindex.c)
 *   segment     coll, first passage -> rows, dead of such a run
 *   graph       coll, first passage -> record of a merged segment (vseg.h)
 *   chunk       coll, segment, part, number -> rows of a merged segment, with checksums of their own
 *   principal   string -> u32 set
 *   acl         coll, set, chunk -> ids (idset.c)
 *   record      space, 0, key -> bytes of other rooms
 *
 * Passages of one version of a document have consecutive ids; ids grow and are never used twice in a
 * collection.
 *
 * Threads and locks. DIR/writer.lock (flock) keeps a second writing process out. Inside the process
 * store.lock guards the counters of struct store and is never held across I/O: `writing` admits one batch,
 * `n_views` counts read transactions, `resizing` stops new ones while the map is resized (LMDB wants no
 * transaction alive then). open_lock guards the list of open stores. No lock is taken under another. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define GIB 1073741824.0
const struct cairn_conf index_conf[] = {
    {"index.map_bytes",                 16 * GIB,  1 << 20, 1024 * GIB, false,
     "address space of the store's map at open; grows by doubling"                                                                     },
    {"index.map_bytes_max",             256 * GIB, 1 << 20, 4096 * GIB, false,
     "the map never grows past this; then writes get FULL"                                                                             },
    {"index.readers_max",               512,       8,       4096,       false, "read views alive at once, of all processes"            },
    {"index.growth_wait_ms_max",        10000,     1,       600000,     true,  "how long growing the map waits for open views"         },
    {"index.document_bytes_max",        64 << 20,  1,       1 << 30,    true,  "text of one document"                                  },
    {"index.passages_per_document_max", 65536,     1,       1 << 20,    true,  "passages of one document"                              },
    {"index.batch_bytes_max",           GIB,       1 << 20, 64 * GIB,   true,  "memory of one batch before it is committed"            },
    {"index.view_bytes_max",            GIB,       1 << 20, 64 * GIB,   true,  "memory of texts handed out by one view"                },
    {"index.rerank_factor",             4,         1,       100,        true,
     "vector search: candidates by int8 codes per hit, ranked again by f32"                                                            },
    {"index.ef_search",                 100,       1,       4096,       true,  "width of a graph search: higher finds more, costs time"},
    {"index.nprobe",                    16,        1,       4096,       true,  "lists that an IVF search reads"                        },
    {"index.scan_rows_max",             16384,     0,       1000000,    true,  "filters of up to so many rows are scanned, not walked" },
    {"index.links",                     32,        4,       64,         true,  "links per row of segments built from now on"           },
    {"index.build_width",               200,       16,      1000,       true,  "candidates looked at when a row is linked"             },
    {"index.merge_rows_min",            2048,      1,       1000000,    true,  "rows of the delta from which on they are merged"       },
    {"index.segment_rows_max",          1048576,   1024,    16777216,   true,
     "rows of a segment; a merge needs about 7 bytes of memory a row and dimension"                                                    },
    {"store.bm25_k1",                   0.9,       0,       10,         true,  "BM25: how fast repeated words saturate"                },
    {"store.bm25_b",                    0.4,       0,       1,          true,  "BM25: how much long passages are marked down"          },
};
const size_t index_conf_len = sizeof(index_conf) / sizeof(index_conf[0]);

double store_conf(const struct store *s, const char *key)
{
    if (s->config)
        return cairn_config_num(s->config, key);
    for (size_t i = 0; i < index_conf_len; i++)
        if (strcmp(index_conf[i].key, key) == 0)
            return index_conf[i].def;
    CAIRN_CHECK(!"a key of index_conf");
    return 0;
}

/* ---- the environment
 * ------------------------------------------------------------------------------------------ */

static enum cairn_err format_put(MDB_txn *txn, const MDB_dbi *dbi, struct cairn_why *why)
{
    struct kv kv = {.txn = txn, .dbi = dbi};
    struct kv_key k;
    uint8_t format[4] = {STORE_FORMAT, 0, 0, 0};
    return kv_put(&kv, DB_META, key_bytes(key_reset(&k), "format", 6), format, 4, why);
}

/* *upgrade: the store has format 1 and lacks the databases that came with format 2. */
static enum cairn_err format_check(MDB_txn *txn, const MDB_dbi *dbi, bool read_only, bool *upgrade,
                                   struct cairn_why *why)
{
    struct kv kv = {.txn = txn, .dbi = dbi};
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(&kv, DB_META, key_bytes(key_reset(&k), "format", 6), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return cairn_fail(why, CAIRN_ECORRUPT, "the store has no format record; restore a backup");
    if (err)
        return err;
    struct rd r = rd_of(v);
    uint32_t format = rd_u32(&r);
    *upgrade = format == 1;
    if (*upgrade && read_only)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "the store has format 1; open it for writing once (serve or ingest) to bring it to "
                          "format %u",
                          STORE_FORMAT);
    if (*upgrade)
        return format_put(txn, dbi, why);
    if (format != STORE_FORMAT)
        return cairn_fail(
            why, CAIRN_EUNSUPPORTED,
            "the store has format %u, this cairn reads format %u; use the version that wrote it", format,
            STORE_FORMAT);
    return CAIRN_OK;
}

static enum cairn_err dbs_open(MDB_env *env, MDB_dbi *dbi, bool read_only, bool create, struct cairn_why *why)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(env, NULL, read_only ? MDB_RDONLY : 0, &txn);
    if (rc)
        return cairn_err_from_mdb(why, rc, "opening the store");
    enum cairn_err err = CAIRN_OK;
    bool upgrade = false;
    struct kv kv = {.env = env, .txn = txn, .dbi = dbi};
    for (int i = 0; i < DB_N && !err; i++) {
        bool make = create || (upgrade && (i == DB_GRAPH || i == DB_CHUNK));
        rc = mdb_dbi_open(txn, kv_db_name[i], make ? MDB_CREATE : 0, &dbi[i]);
        if (rc == MDB_NOTFOUND)
            err = cairn_fail(why, CAIRN_ECORRUPT, "the store has no database %s; restore a backup",
                             kv_db_name[i]);
        else if (rc)
            err = cairn_err_from_mdb(why, rc, kv_db_name[i]);
        if (!err && i == DB_META && create) {
            err = format_put(txn, dbi, why);
            if (!err)
                err = state_put(&kv, &(struct state){0, 1, SET_PRINCIPAL_FIRST}, why);
        } else if (!err && i == DB_META) {
            err = format_check(txn, dbi, read_only, &upgrade, why);
        }
    }
    if (err) {
        mdb_txn_abort(txn);
        return err;
    }
    rc = mdb_txn_commit(txn);
    return rc ? cairn_err_from_mdb(why, rc, "opening the store") : CAIRN_OK;
}

enum cairn_err env_open(MDB_env **env, MDB_dbi dbi[DB_N], const char *path, bool read_only, bool create,
                        size_t map_bytes, unsigned readers, struct cairn_why *why)
{
    *env = NULL;
    MDB_env *e = NULL;
    int rc = mdb_env_create(&e);
    if (!rc)
        rc = mdb_env_set_maxdbs(e, DB_N);
    if (!rc)
        rc = mdb_env_set_mapsize(e, map_bytes & ~(size_t)65535);
    if (!rc)
        rc = mdb_env_set_maxreaders(e, readers);
    /* The default sync mode only; no writable map: a stray store must not be able to change the file. */
    if (!rc)
        rc = mdb_env_open(e, path, MDB_NOTLS | MDB_NORDAHEAD | (read_only ? MDB_RDONLY : 0u), 0600);
    enum cairn_err err = rc ? cairn_err_from_mdb(why, rc, path) : CAIRN_OK;
    MDB_envinfo info;
    MDB_stat st;
    int fd = -1;
    struct stat file;
    if (!err && !create) { /* a file shorter than its map would answer with SIGBUS */
        if (mdb_env_info(e, &info) || mdb_env_stat(e, &st) || mdb_env_get_fd(e, &fd) || fstat(fd, &file))
            err = cairn_fail(why, CAIRN_EIO, "%s: cannot read the size of data.mdb", path);
        else if ((uint64_t)file.st_size < (uint64_t)(info.me_last_pgno + 1) * st.ms_psize)
            err = cairn_fail(why, CAIRN_ECORRUPT,
                             "%s/data.mdb is cut short: %lld bytes of %llu; restore a backup", path,
                             (long long)file.st_size,
                             (unsigned long long)(info.me_last_pgno + 1) * (unsigned long long)st.ms_psize);
    }
    if (!err)
        err = dbs_open(e, dbi, read_only, create, why);
    if (err && e)
        mdb_env_close(e);
    else
        *env = e;
    return err;
}

/* ---- creation
 * ------------------------------------------------------------------------------------------------- */

static void remove_env(const char *dir) /* a store that never got its name; allocates nothing */
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)unlinkat(fd, "data.mdb", 0);
    (void)unlinkat(fd, "lock.mdb", 0);
    (void)close(fd);
    (void)rmdir(dir);
}

static enum cairn_err create_store(const char *dir, const char *path, size_t map_bytes, struct cairn_why *why)
{
    char *temp = cairn_path_join(dir, "store.creating");
    if (!temp)
        return cairn_fail(why, CAIRN_ENOMEM, "store path");
    remove_env(temp); /* of a creator that was killed; the writer's lock is ours */
    MDB_env *env = NULL;
    MDB_dbi dbi[DB_N];
    enum cairn_err err = CAIRN_OK;
    if (mkdir(temp, 0700) != 0)
        err = cairn_fail_errno(why, errno, "%s", temp);
    if (!err)
        err = env_open(&env, dbi, temp, false, true, map_bytes, 8, why);
    if (env)
        mdb_env_close(env);
    if (!err)
        err = cairn_fsync_dir(temp, why);
    if (!err && CAIRN_FAILPOINT("index.create.before_rename"))
        err = cairn_fail(why, CAIRN_EIO, "%s: failpoint before rename", temp);
    if (!err && rename(temp, path) != 0)
        err = cairn_fail_errno(why, errno, "%s", path);
    if (!err && CAIRN_FAILPOINT("index.create.after_rename"))
        err = cairn_fail(why, CAIRN_EIO, "%s: failpoint after rename", path);
    if (!err)
        err = cairn_fsync_dir(dir, why);
    if (err)
        remove_env(temp);
    cairn_free(temp);
    return err;
}

/* ---- open and close
 * ------------------------------------------------------------------------------------------- */

/* LMDB must not have one environment open twice in a process: closing one drops the file locks of the other.
 */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct store *open_stores;

static enum cairn_err registry_add(struct store *s, struct cairn_why *why)
{
    struct stat st;
    if (stat(s->path, &st) != 0)
        return cairn_fail_errno(why, errno, "%s", s->path);
    enum cairn_err err = CAIRN_OK;
    pthread_mutex_lock(&open_lock);
    for (struct store *o = open_stores; o && !err; o = o->next_open)
        if (o->dev == st.st_dev && o->ino == st.st_ino)
            err =
                cairn_fail(why, CAIRN_EBUSY, "%s is already open in this process; share its handle", s->path);
    if (!err) {
        s->dev = st.st_dev;
        s->ino = st.st_ino;
        s->next_open = open_stores;
        open_stores = s;
    }
    pthread_mutex_unlock(&open_lock);
    return err;
}

static void registry_remove(struct store *s)
{
    pthread_mutex_lock(&open_lock);
    for (struct store **at = &open_stores; *at; at = &(*at)->next_open)
        if (*at == s) {
            *at = s->next_open;
            break;
        }
    pthread_mutex_unlock(&open_lock);
}

static enum cairn_err take_writer_lock(struct store *s, struct cairn_why *why)
{
    char *path = cairn_path_join(s->dir, "writer.lock");
    if (!path)
        return cairn_fail(why, CAIRN_ENOMEM, "store path");
    enum cairn_err err = CAIRN_OK;
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        err = cairn_fail_errno(why, errno, "%s", path);
    else if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        err = errno == EWOULDBLOCK
                  ? cairn_fail(
                        why, CAIRN_EBUSY,
                        "%s is open for writing by another process (or twice in this one); stop it, or talk "
                        "to it as a client",
                        s->dir)
                  : cairn_fail_errno(why, errno, "%s", path);
    cairn_free(path);
    return err;
}

enum cairn_err store_open(struct store **out, const struct store_opts *o, struct cairn_why *why)
{
    *out = NULL;
    if (!o->dir || !*o->dir)
        return cairn_fail(why, CAIRN_EINVAL, "a store needs a data directory");
    struct store *s = cairn_calloc(1, sizeof(*s));
    if (!s)
        return cairn_fail(why, CAIRN_ENOMEM, "store handle");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    vcache_init(&s->vcache);
    s->lock_fd = -1;
    s->read_only = o->read_only;
    s->config = o->config;
    s->dir = cairn_strdup(o->dir);
    s->path = cairn_path_join(o->dir, "store");
    enum cairn_err err = s->dir && s->path ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "store path");
    size_t map_bytes = (size_t)store_conf(s, "index.map_bytes"),
           max = (size_t)store_conf(s, "index.map_bytes_max");
    if (map_bytes > max)
        map_bytes = max;
    struct stat st;
    bool there = !err && stat(s->path, &st) == 0;
    if (!err && !there && (o->read_only || !o->create))
        err = cairn_fail(why, CAIRN_ENOTFOUND, "no store in %s; create it by serving or ingesting there",
                         o->dir);
    if (!err && !o->read_only && o->create)
        err = cairn_mkdirs(o->dir, why);
    if (!err && !o->read_only)
        err = take_writer_lock(s, why);
    if (!err && !there && stat(s->path, &st) != 0) /* looked again under the lock */
        err = create_store(s->dir, s->path, map_bytes, why);
    if (!err)
        err = registry_add(s, why);
    if (!err)
        err = env_open(&s->env, s->dbi, s->path, s->read_only, false, map_bytes,
                       (unsigned)store_conf(s, "index.readers_max"), why);
    unsigned cleared = 0;
    if (!err)
        err = store_readers_clear(s, &cleared, why);
    if (err) {
        store_close(s);
        return err;
    }
    *out = s;
    return CAIRN_OK;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    CAIRN_CHECK(s->n_views == 0); /* a view or batch outlived its store */
    CAIRN_CHECK(!s->writing);
    if (s->env)
        mdb_env_close(s->env);
    registry_remove(s);
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    for (size_t i = 0; i < ANALYZERS_IDLE_MAX; i++)
        cairn_analyzer_close(s->idle[i].a);
    vcache_release(&s->vcache);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    cairn_free(s->dir);
    cairn_free(s->path);
    cairn_free(s);
}

const char *store_dir(const struct store *s) { return s->dir; }

enum cairn_err analyzer_take(struct store *s, const char *language, struct cairn_analyzer **out,
                             struct cairn_why *why)
{
    *out = NULL;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < ANALYZERS_IDLE_MAX && !*out; i++)
        if (s->idle[i].a && strcmp(s->idle[i].language, language) == 0) {
            *out = s->idle[i].a;
            s->idle[i].a = NULL;
        }
    pthread_mutex_unlock(&s->lock);
    return *out ? CAIRN_OK
                : cairn_analyzer_open(out, &(struct cairn_analyzer_opts){.language = language}, why);
}

void analyzer_give(struct store *s, const char *language, struct cairn_analyzer *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < ANALYZERS_IDLE_MAX && a; i++)
        if (!s->idle[i].a) {
            s->idle[i].a = a;
            (void)snprintf(s->idle[i].language, sizeof(s->idle[i].language), "%s", language);
            a = NULL;
        }
    pthread_mutex_unlock(&s->lock);
    cairn_analyzer_close(a);
}

/* ---- map and views
 * -------------------------------------------------------------------------------------------- */

static enum cairn_err gate_enter(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->resizing)
        pthread_cond_wait(&s->changed, &s->lock);
    s->n_views++;
    pthread_mutex_unlock(&s->lock);
    return CAIRN_OK;
}

static void gate_leave(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    CAIRN_CHECK(s->n_views > 0);
    s->n_views--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

enum cairn_err gate_resize(struct store *s, size_t bytes, struct cairn_why *why)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ms = (uint64_t)store_conf(s, "index.growth_wait_ms_max");
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    enum cairn_err err = CAIRN_OK;
    pthread_mutex_lock(&s->lock);
    while (s->resizing)
        pthread_cond_wait(&s->changed, &s->lock);
    s->resizing = true;
    while (s->n_views > 0 && !err)
        if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT && s->n_views > 0)
            err = cairn_fail(
                why, CAIRN_EBUSY,
                "the store's map must grow but %u views stayed open for %llu ms; end views early, or "
                "raise index.map_bytes and reopen",
                s->n_views, (unsigned long long)ms);
    pthread_mutex_unlock(&s->lock);
    if (!err) {
        int rc = CAIRN_FAILPOINT("index.grow") ? ENOMEM : mdb_env_set_mapsize(s->env, bytes & ~(size_t)65535);
        err = rc ? cairn_err_from_mdb(why, rc, "resizing the store's map") : CAIRN_OK;
        vcache_stale(&s->vcache);
    }
    pthread_mutex_lock(&s->lock);
    s->resizing = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return err;
}

enum cairn_err gate_read_begin(struct store *s, struct kv *kv, struct cairn_why *why)
{
    for (int attempt = 0;; attempt++) {
        enum cairn_err err = gate_enter(s);
        if (err)
            return err;
        *kv = (struct kv){.env = s->env, .dbi = s->dbi, .vcache = &s->vcache};
        int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &kv->txn);
        if (rc == 0)
            return CAIRN_OK;
        gate_leave(s);
        kv->txn = NULL;
        if (rc == MDB_MAP_RESIZED && attempt < 3) { /* another process grew it: take over its size */
            err = gate_resize(s, 0, why);
            if (err)
                return err;
            continue;
        }
        if (rc == MDB_READERS_FULL && attempt == 0) {
            unsigned cleared = 0;
            if (!store_readers_clear(s, &cleared, NULL) && cleared)
                continue;
        }
        return cairn_err_from_mdb(why, rc, "opening a view of the store");
    }
}

void gate_read_end(struct store *s, struct kv *kv)
{
    if (!kv->txn)
        return;
    vsets_release(kv);
    mdb_txn_abort(kv->txn);
    kv->txn = NULL;
    gate_leave(s);
}

enum cairn_err store_view_begin(struct store_view **out, struct store *s, struct cairn_why *why)
{
    *out = NULL;
    struct store_view *v = cairn_calloc(1, sizeof(*v));
    if (!v)
        return cairn_fail(why, CAIRN_ENOMEM, "view of the store");
    v->s = s;
    enum cairn_err err = gate_read_begin(s, &v->kv, why);
    struct state st = {0};
    if (!err)
        err = state_get(&v->kv, &st, why);
    v->generation = st.generation;
    if (err) {
        store_view_end(v);
        return err;
    }
    *out = v;
    return CAIRN_OK;
}

void store_view_end(struct store_view *v)
{
    if (!v)
        return;
    gate_read_end(v->s, &v->kv);
    cairn_arena_free(v->arena);
    (void)ZSTD_freeDCtx(v->dctx);
    cairn_free(v->piece);
    cairn_free(v);
}

uint64_t store_view_generation(const struct store_view *v) { return v->generation; }

uint64_t store_view_commit(const struct store_view *v) { return (uint64_t)mdb_txn_id(v->kv.txn); }

/* ---- records
 * -------------------------------------------------------------------------------------------------- */

enum cairn_err state_get(struct kv *kv, struct state *st, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(kv, DB_META, key_bytes(key_reset(&k), "state", 5), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return cairn_fail(why, CAIRN_ECORRUPT, "the store has no state record; restore a backup");
    if (err)
        return err;
    struct rd r = rd_of(v);
    *st = (struct state){.generation = rd_u64(&r)};
    st->next_collection = rd_u32(&r);
    st->next_principal = rd_u32(&r);
    return rd_done(&r) ? CAIRN_OK : kv_corrupt(why, DB_META, k.b, k.len, "not a state record");
}

enum cairn_err state_put(struct kv *kv, const struct state *st, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    cairn_buf_init(&b, 64);
    wr_u64(&b, st->generation);
    wr_u32(&b, st->next_collection);
    wr_u32(&b, st->next_principal);
    enum cairn_err err = kv_put_buf(kv, DB_META, key_bytes(key_reset(&k), "state", 5), &b, why);
    cairn_buf_release(&b);
    return err;
}

static bool copy_text(char *out, size_t cap, struct cairn_str s)
{
    if (s.len >= cap || memchr(s.p, 0, s.len))
        return false;
    memcpy(out, s.p, s.len);
    out[s.len] = '\0';
    return true;
}

enum cairn_err coll_parse(struct cairn_str key, struct cairn_str payload, struct coll_rec *c,
                          struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    *c = (struct coll_rec){.id = rd_u32(&r)};
    bool ok = copy_text(c->opts.name, sizeof(c->opts.name), key);
    ok = copy_text(c->opts.language, sizeof(c->opts.language), rd_str(&r)) && ok;
    ok = copy_text(c->opts.embedder, sizeof(c->opts.embedder), rd_str(&r)) && ok;
    c->opts.dim = rd_u32(&r);
    uint8_t metric = rd_u8(&r), is_public = rd_u8(&r), fusion = rd_u8(&r);
    c->opts.metric = (enum vector_metric)metric;
    c->opts.is_public = is_public == 1;
    c->opts.fusion = (enum fusion_kind)fusion;
    c->opts.dense_weight = rd_f32(&r);
    c->opts.rerank_weight = rd_f32(&r);
    c->n_documents = rd_u64(&r);
    c->n_passages = rd_u64(&r);
    c->n_words = rd_u64(&r);
    c->n_vectors = rd_u64(&r);
    c->generation = rd_u64(&r);
    c->next_docno = rd_u64(&r);
    c->next_passage = rd_u32(&r);
    c->next_term = rd_u32(&r);
    uint8_t index = rd_left(&r) ? rd_u8(&r) : VECTOR_AUTO; /* format 1 has none */
    c->opts.index = (enum vector_kind)index;
    ok = ok && index <= VECTOR_IVF && rd_done(&r) && c->id && metric <= METRIC_L2 && is_public <= 1 &&
         fusion <= FUSION_ZSCORE && c->opts.dim <= VECTOR_DIM_MAX;
    return ok ? CAIRN_OK : kv_corrupt(why, DB_COLLECTION, key.p, key.len, "not a collection record");
}

enum cairn_err coll_get(struct kv *kv, const char *name, struct coll_rec *c, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    size_t len = name ? strlen(name) : 0;
    enum cairn_err err = CAIRN_ENOTFOUND;
    if (len > 0 && len <= COLLECTION_NAME_MAX)
        err = kv_get(kv, DB_COLLECTION, key_bytes(key_reset(&k), name, len), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return cairn_fail(why, CAIRN_ENOTFOUND, "collection %.80s", name ? name : "");
    return err ? err : coll_parse((struct cairn_str){(const char *)k.b, k.len}, v, c, why);
}

enum cairn_err coll_put(struct kv *kv, const struct coll_rec *c, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    cairn_buf_init(&b, 1024);
    wr_u32(&b, c->id);
    wr_str(&b, cairn_str_of(c->opts.language));
    wr_str(&b, cairn_str_of(c->opts.embedder));
    wr_u32(&b, c->opts.dim);
    wr_u8(&b, (uint8_t)c->opts.metric);
    wr_u8(&b, c->opts.is_public);
    wr_u8(&b, (uint8_t)c->opts.fusion);
    wr_f32(&b, c->opts.dense_weight);
    wr_f32(&b, c->opts.rerank_weight);
    wr_u64(&b, c->n_documents);
    wr_u64(&b, c->n_passages);
    wr_u64(&b, c->n_words);
    wr_u64(&b, c->n_vectors);
    wr_u64(&b, c->generation);
    wr_u64(&b, c->next_docno);
    wr_u32(&b, c->next_passage);
    wr_u32(&b, c->next_term);
    wr_u8(&b, (uint8_t)c->opts.index);
    key_bytes(key_reset(&k), c->opts.name, strlen(c->opts.name));
    enum cairn_err err = kv_put_buf(kv, DB_COLLECTION, &k, &b, why);
    cairn_buf_release(&b);
    return err;
}

enum cairn_err doc_parse(struct cairn_str key, struct cairn_str payload, struct doc_rec *d,
                         struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    *d = (struct doc_rec){.docno = rd_u64(&r)};
    d->generation = rd_u64(&r);
    d->modified_us = (int64_t)rd_u64(&r);
    rd_copy(&r, d->content_hash.b, sizeof(d->content_hash.b));
    d->first_passage = rd_u32(&r);
    d->n_passages = rd_u32(&r);
    d->text_bytes = rd_u64(&r);
    d->title = rd_str(&r);
    d->path = rd_str(&r);
    d->mime = rd_str(&r);
    d->n_principals = rd_var32(&r);
    d->principals = r;
    for (uint32_t i = 0; i < d->n_principals && !r.bad; i++)
        (void)rd_str(&r);
    if (!rd_done(&r) || d->n_principals > PRINCIPALS_MAX ||
        d->n_passages > PASSAGE_IDS_MAX - d->first_passage)
        return kv_corrupt(why, DB_DOCUMENT, key.p, key.len, "not a document record");
    return CAIRN_OK;
}

enum cairn_err doc_get(struct kv *kv, uint32_t coll, struct cairn_str id, struct doc_rec *d,
                       struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    if (id.len == 0 || id.len > DOCUMENT_ID_MAX)
        return CAIRN_ENOTFOUND;
    key_bytes(key_u32(key_reset(&k), coll), id.p, id.len);
    enum cairn_err err = kv_get(kv, DB_DOCUMENT, &k, &v, why);
    return err ? err : doc_parse((struct cairn_str){(const char *)k.b, k.len}, v, d, why);
}

enum cairn_err passage_parse(struct cairn_str key, struct cairn_str payload, struct passage_rec *p,
                             struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    *p = (struct passage_rec){.document_id = rd_str(&r)};
    p->ordinal = rd_u32(&r);
    p->start = rd_u32(&r);
    p->end = rd_u32(&r);
    p->n_words = rd_u32(&r);
    rd_copy(&r, p->hash.b, sizeof(p->hash.b));
    p->path = rd_str(&r);
    if (!rd_done(&r) || p->start > p->end || p->end - p->start > PASSAGE_BYTES_MAX)
        return kv_corrupt(why, DB_PASSAGE, key.p, key.len, "not a passage record");
    return CAIRN_OK;
}

enum cairn_err passage_get(struct kv *kv, uint32_t coll, uint32_t id, struct passage_rec *p,
                           struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(kv, DB_PASSAGE, key_u32(key_u32(key_reset(&k), coll), id), &v, why);
    return err ? err : passage_parse((struct cairn_str){(const char *)k.b, k.len}, v, p, why);
}

enum cairn_err principal_id(struct kv *kv, struct cairn_str name, uint32_t *id, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    if (name.len == 8 && memcmp(name.p, "everyone", 8) == 0) {
        *id = SET_EVERYONE;
        return CAIRN_OK;
    }
    if (name.len == 0 || name.len > PRINCIPAL_MAX)
        return CAIRN_ENOTFOUND;
    enum cairn_err err = kv_get(kv, DB_PRINCIPAL, key_bytes(key_reset(&k), name.p, name.len), &v, why);
    if (err)
        return err;
    struct rd r = rd_of(v);
    *id = rd_u32(&r);
    return rd_done(&r) && *id >= SET_PRINCIPAL_FIRST
               ? CAIRN_OK
               : kv_corrupt(why, DB_PRINCIPAL, k.b, k.len, "not a principal record");
}

enum cairn_err text_read(struct kv *kv, uint32_t coll, uint64_t docno, uint64_t text_bytes, uint64_t start,
                         uint64_t end, char *out, void *dctx, char *piece, struct cairn_why *why)
{
    CAIRN_CHECK(start <= end && end <= text_bytes);
    for (uint64_t at = start; at < end;) {
        uint64_t n = at / TEXT_PIECE_BYTES, from = n * TEXT_PIECE_BYTES;
        uint64_t want = text_bytes - from < TEXT_PIECE_BYTES ? text_bytes - from : TEXT_PIECE_BYTES;
        struct kv_key k;
        struct cairn_str v;
        key_u32(key_u64(key_u32(key_reset(&k), coll), docno), (uint32_t)n);
        enum cairn_err err = kv_get(kv, DB_TEXT, &k, &v, why);
        if (err == CAIRN_ENOTFOUND)
            return kv_corrupt(why, DB_TEXT, k.b, k.len, "a piece of a document's text is missing");
        if (err)
            return err;
        size_t got = ZSTD_decompressDCtx(dctx, piece, TEXT_PIECE_BYTES, v.p, v.len);
        if (ZSTD_isError(got) || got != want)
            return kv_corrupt(why, DB_TEXT, k.b, k.len, "a piece of a document's text does not unpack");
        uint64_t take = (end < from + want ? end : from + want) - at;
        memcpy(out + (at - start), piece + (at - from), (size_t)take);
        at += take;
    }
    return CAIRN_OK;
}

/* ---- operators
 * ------------------------------------------------------------------------------------------------ */

enum cairn_err store_readers_clear(struct store *s, unsigned *cleared, struct cairn_why *why)
{
    int dead = 0;
    int rc = mdb_reader_check(s->env, &dead);
    *cleared = (unsigned)dead;
    atomic_fetch_add(&s->dead_readers, (uint64_t)dead);
    if (dead)
        CAIRN_LOG(INDEX, INFO, "dead readers cleared n=%d", dead);
    return rc ? cairn_err_from_mdb(why, rc, "clearing dead readers") : CAIRN_OK;
}

static int count_reader(const char *msg, void *ctx)
{
    if (strstr(msg, "pid") == NULL && strncmp(msg, "(no", 3) != 0) /* a heading, or "(no active readers)" */
        ++*(uint64_t *)ctx;
    return 0;
}

enum cairn_err store_stats_get(struct store *s, struct store_stats *out, struct cairn_why *why)
{
    *out = (struct store_stats){0};
    struct store_view *v;
    enum cairn_err err = store_view_begin(&v, s, why);
    if (err)
        return err;
    MDB_envinfo info;
    MDB_stat st;
    int fd;
    struct stat file;
    if (mdb_env_info(s->env, &info) || mdb_env_stat(s->env, &st) || mdb_env_get_fd(s->env, &fd) ||
        fstat(fd, &file))
        err = cairn_fail(why, CAIRN_EIO, "%s: cannot read the size of data.mdb", s->path);
    struct collection_info *list = NULL;
    size_t n = 0;
    if (!err)
        err = store_collection_list(v, &list, &n, why);
    if (!err) {
        out->generation = v->generation;
        out->map_bytes = info.me_mapsize;
        out->map_used_bytes = (uint64_t)(info.me_last_pgno + 1) * st.ms_psize;
        out->file_bytes = (uint64_t)file.st_size;
        out->n_collections = n;
        for (size_t i = 0; i < n; i++) {
            out->n_documents += list[i].n_documents;
            out->n_passages += list[i].n_passages;
            struct coll_rec c;
            err = err ? err : coll_get(&v->kv, list[i].opts.name, &c, why);
            out->n_vectors += err ? 0 : c.n_vectors;
            struct vector_info vectors = {0};
            err = err ? err : store_vector_info(v, list[i].opts.name, &vectors, why);
            out->n_segments += vectors.n_segments;
            out->n_delta += vectors.n_delta;
        }
        (void)mdb_reader_list(s->env, count_reader, &out->readers);
        out->dead_readers_cleared = atomic_load(&s->dead_readers);
    }
    cairn_free(list);
    store_view_end(v);
    return err;
}

static enum cairn_err digest_at(const char *path, struct cairn_hash *out, struct cairn_why *why)
{
    MDB_env *env;
    MDB_dbi dbi[DB_N];
    enum cairn_err err = env_open(&env, dbi, path, true, false, (size_t)1 << 30, 8, why);
    if (err)
        return err;
    struct kv kv = {.env = env, .dbi = dbi};
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &kv.txn);
    err = rc ? cairn_err_from_mdb(why, rc, path) : CAIRN_OK;
    if (!err)
        err = digest_run(&kv, out, why);
    vsets_release(&kv);
    if (kv.txn)
        mdb_txn_abort(kv.txn);
    mdb_env_close(env);
    return err;
}

static void backup_finding(void *ctx, const char *line)
{
    (void)ctx;
    CAIRN_LOG(INDEX, ERROR, "backup copy finding=\"%s\"", line);
}

/* The copy is verified on its own (every invariant), and against the source when nothing was committed since
 * `commit`, read before the copy was begun. */
static enum cairn_err backup_verify(struct store *s, const char *temp, const char *temp_store,
                                    uint64_t commit, struct cairn_why *why)
{
    enum cairn_err err = store_check(temp, backup_finding, NULL, why);
    if (err)
        return cairn_wrap(why, err, "the copy in %s", temp);
    struct cairn_hash copy, live;
    err = digest_at(temp_store, &copy, why);
    if (err)
        return err;
    struct store_view *v;
    err = store_view_begin(&v, s, why);
    if (err)
        return err;
    if (store_view_commit(v) == commit) {
        err = store_digest(v, &live, why);
        if (!err && memcmp(live.b, copy.b, sizeof(live.b)) != 0)
            err = cairn_fail(why, CAIRN_ECORRUPT, "the copy in %s does not hold what the store holds", temp);
    }
    store_view_end(v);
    return err;
}

static enum cairn_err fsync_file(const char *dir, const char *name, struct cairn_why *why)
{
    char *path = cairn_path_join(dir, name);
    if (!path)
        return cairn_fail(why, CAIRN_ENOMEM, "backup path");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum cairn_err err = fd < 0 || fsync(fd) != 0 ? cairn_fail_errno(why, errno, "%s", path) : CAIRN_OK;
    if (fd >= 0)
        (void)close(fd);
    cairn_free(path);
    return err;
}

enum cairn_err store_backup(struct store *s, const char *dest_dir, cairn_progress_fn progress, void *ctx,
                            struct cairn_why *why)
{
    struct stat st;
    if (!dest_dir || !*dest_dir)
        return cairn_fail(why, CAIRN_EINVAL, "a backup needs a directory to be made");
    if (lstat(dest_dir, &st) == 0)
        return cairn_fail(why, CAIRN_EEXISTS, "%s is there already; name a directory that does not exist",
                          dest_dir);
    size_t len = strlen(dest_dir);
    while (len > 1 && dest_dir[len - 1] == '/')
        len--;
    char *dest = cairn_strndup(dest_dir, len), *parent = cairn_strndup(dest_dir, len);
    struct cairn_workdir work = {0};
    char *temp_store = NULL;
    uint64_t commit = 0;
    enum cairn_err err = dest && parent ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "backup path");
    if (!err) {
        char *slash = strrchr(parent, '/');
        if (!slash)
            (void)snprintf(parent, len + 1, ".");
        else
            slash[slash == parent ? 1 : 0] = '\0';
        err = cairn_mkdirs(parent, why);
    }
    if (!err)
        err = cairn_workdir_open(&work, dest, why);
    if (!err && !(temp_store = cairn_path_join(work.path, "store")))
        err = cairn_fail(why, CAIRN_ENOMEM, "backup path");
    if (!err && mkdir(temp_store, 0700) != 0)
        err = cairn_fail_errno(why, errno, "%s", temp_store);
    if (!err) {
        if (progress)
            progress(ctx, "copy", 0, 3);
        err = gate_enter(s);
    }
    if (!err) {
        MDB_envinfo info;
        int rc = mdb_env_info(s->env, &info);
        commit = rc ? 0 : info.me_last_txnid;
        rc = CAIRN_FAILPOINT("index.backup.copy") ? EIO
             : rc                                 ? rc
                                                  : mdb_env_copy2(s->env, temp_store, MDB_CP_COMPACT);
        gate_leave(s);
        err = rc ? cairn_err_from_mdb(why, rc, temp_store) : CAIRN_OK;
    }
    if (!err) {
        if (progress)
            progress(ctx, "verify", 1, 3);
        err = backup_verify(s, work.path, temp_store, commit, why);
    }
    char *lock = temp_store ? cairn_path_join(temp_store, "lock.mdb") : NULL; /* the verifying reader's */
    if (lock)
        (void)unlink(lock);
    cairn_free(lock);
    if (!err)
        err = fsync_file(temp_store, "data.mdb", why);
    if (!err)
        err = cairn_fsync_dir(temp_store, why);
    if (!err)
        err = cairn_fsync_dir(work.path, why);
    if (!err && CAIRN_FAILPOINT("index.backup.before_rename"))
        err = cairn_fail(why, CAIRN_EIO, "%s: failpoint before rename", work.path);
    if (!err && rename(work.path, dest) != 0)
        err = cairn_fail_errno(why, errno, "%s", dest);
    bool named = !err;
    if (!err)
        err = cairn_fsync_dir(parent, why);
    if (!err && progress)
        progress(ctx, "done", 3, 3);
    cairn_workdir_close(&work, named);
    cairn_free(dest);
    cairn_free(parent);
    cairn_free(temp_store);
    return err;
}
