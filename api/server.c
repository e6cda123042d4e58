/* api/server.c - msgpack-RPC over TCP and Unix sockets.
 *
 * Threads: the loop (server_run's caller) owns every connection, the scan, the listener and all writing to
 * sockets. Workers run requests and hand finished bytes to the loop through the outbox; an eventfd wakes it.
 * What both touch is small and locked: the queue (queue_mu), the outbox (out_mu), and of a connection only
 * `closed` and `out_bytes` (conn->mu, with a condition for workers that wait for a slow reader). No two of
 * these locks are held at once.
 *
 * Life of a request: the loop scans bytes, takes the envelope apart, checks role and limits, links the
 * request to its connection and queues it; a worker runs it; its response goes through the outbox; the loop
 * unlinks and frees it. So exactly one response is written for each msgid, whatever happens, and a connection
 * that goes away only marks its requests as cancelled.
 *
 * An error of framing closes its connection after one log line; an error of content answers the request and
 * keeps the connection. */
#include "internal.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TICK_US 100000
#define READ_MAX 65536u
#define AUTH_TRIES_MAX 3u
#define LINGER_US 1000000 /* after a framing error: time for the peer to read why */
#define DRAIN_GRACE_US 10000000
#define LOG_EVERY_US 100000
#define KEEP_MESSAGE_BYTES 16384u

struct request;
struct conn {
    struct server *srv;
    struct bufferevent *bev; /* NULL: closed */
    struct conn *next, *prev;
    atomic_uint refs; /* the list's and one per request and outbox item */
    struct wire_scan scan;
    struct cairn_buf msg;
    size_t partial; /* of srv->partial_bytes */
    int64_t opened_us, last_us, msg_us, linger_us;
    struct request *inflight;
    size_t n_inflight;
    char key_id[17];
    unsigned auth_tries;
    bool authed, map_errors, events, paused;
    pthread_mutex_t mu;
    pthread_cond_t drained;
    bool closed;
    size_t out_bytes; /* handed over and not yet taken by the kernel */
};

struct request {
    struct conn *conn;
    struct request *next, *prev; /* in flight, loop only */
    struct request *queue_next;  /* queue_mu */
    uint32_t msgid;
    int method;
    char *bytes; /* the whole message */
    size_t n_bytes, params_at, params_len;
    struct cairn_stop stop;
    char key_id[17];
    bool open, map_errors, events;
};

struct out_item {
    struct out_item *next;
    struct conn *conn;
    char *bytes;
    size_t len;
    struct request *done; /* not NULL: this is its response */
};

struct server {
    struct service *s;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *tick, *wake_ev, *stop_ev;
    int wake_fd, stop_fd;
    char *rpc_addr, *unix_path;
    struct http *http;
    bool open_access, loopback;
    struct conn *conns;
    size_t n_conns, n_requests, partial_bytes;
    struct wire_limits limits, limits_noauth;
    size_t connections_max, inflight_max, queue_max, queue_bytes_max, partial_max, output_high;
    int64_t idle_us, hello_us, assembly_us, stall_us, drain_us;
    bool draining, cancelled_all;
    int64_t drain_from_us, told_us;

    pthread_mutex_t queue_mu;
    pthread_cond_t queue_cond;
    struct request *head, *tail;
    size_t n_queue, queue_bytes, n_heavy, n_writes, n_workers;
    bool quit;
    pthread_t *threads;
    size_t n_threads;

    pthread_mutex_t out_mu;
    struct out_item *out_head, *out_tail;
};

/* ---- references ---- */

static void conn_unref(struct conn *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    cairn_buf_release(&c->msg);
    pthread_mutex_destroy(&c->mu);
    pthread_cond_destroy(&c->drained);
    cairn_free(c);
}

static void request_free(struct request *r)
{
    if (!r)
        return;
    conn_unref(r->conn);
    cairn_free(r->bytes);
    cairn_free(r);
}

static void free_ref(const void *bytes, size_t len, void *ctx)
{
    (void)len;
    (void)ctx;
    cairn_free((void *)(uintptr_t)bytes);
}

/* ---- closing ---- */

static void partial_set(struct conn *c, size_t n)
{
    c->srv->partial_bytes += n - c->partial;
    c->partial = n;
}

static void conn_close(struct conn *c)
{
    struct server *srv = c->srv;
    if (!c->bev)
        return;
    bufferevent_free(c->bev);
    c->bev = NULL;
    partial_set(c, 0);
    if (c->prev)
        c->prev->next = c->next;
    else
        srv->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    srv->n_conns--;
    atomic_fetch_sub(&srv->s->metrics.connections, 1);
    for (struct request *r = c->inflight; r; r = r->next)
        atomic_store(&r->stop.cancelled, true);
    pthread_mutex_lock(&c->mu);
    c->closed = true;
    pthread_cond_broadcast(&c->drained);
    pthread_mutex_unlock(&c->mu);
    conn_unref(c);
}

static size_t conn_out_bytes(struct conn *c)
{
    pthread_mutex_lock(&c->mu);
    size_t n = c->out_bytes;
    pthread_mutex_unlock(&c->mu);
    return n;
}

/* Nothing more is read; what is queued is still sent, then our half is shut, and the rest is thrown away
 * until the peer closes or LINGER_US pass. A plain close with unread input would send a reset and take the
 * error message with it. */
static void conn_linger(struct conn *c)
{
    if (!c->bev || c->linger_us)
        return;
    c->linger_us = cairn_now_us() + LINGER_US;
    for (struct request *r = c->inflight; r; r = r->next)
        atomic_store(&r->stop.cancelled, true);
    cairn_buf_release(&c->msg);
    partial_set(c, 0);
    if (conn_out_bytes(c) == 0)
        (void)shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    (void)bufferevent_enable(c->bev, EV_READ);
}

/* ---- writing (loop) ---- */

/* bytes become ours. counted: a worker has added them to out_bytes already. */
static void conn_write(struct conn *c, char *bytes, size_t len, bool counted)
{
    if (!c->bev || !bytes) {
        cairn_free(bytes);
        return;
    }
    if (!counted) {
        pthread_mutex_lock(&c->mu);
        c->out_bytes += len;
        pthread_mutex_unlock(&c->mu);
    }
    if (evbuffer_add_reference(bufferevent_get_output(c->bev), bytes, len, free_ref, NULL) != 0) {
        cairn_free(bytes);
        CAIRN_LOG(API, ERROR, "out of memory for a response bytes=%zu", len);
        conn_close(c); /* a response is lost, so the stream is */
    }
}

static char *response_bytes(uint32_t msgid, bool map_errors, enum cairn_err err, const char *text,
                            const struct cairn_buf *result, size_t *len)
{
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, (result ? result->len : 0) + 4096);
    pk_init(&k, &b);
    pk_array(&k, 4);
    pk_uint(&k, WIRE_RESPONSE);
    pk_uint(&k, msgid);
    if (err)
        wire_pack_error(&k, map_errors, err, text);
    else
        pk_nil(&k);
    if (err || !result || !result->len)
        pk_nil(&k);
    else
        cairn_buf_put(&b, result->bytes, result->len);
    *len = b.len;
    char *bytes = cairn_buf_steal(&b);
    if (!bytes)
        cairn_buf_release(&b);
    return bytes;
}

static void respond(struct conn *c, uint32_t msgid, enum cairn_err err, const char *text,
                    const struct cairn_buf *result)
{
    size_t len;
    char *bytes = response_bytes(msgid, c->map_errors, err, text, result, &len);
    if (bytes)
        conn_write(c, bytes, len, false);
    else
        conn_close(c);
}

static void on_output(struct evbuffer *b, const struct evbuffer_cb_info *info, void *ctx)
{
    struct conn *c = ctx;
    (void)b;
    if (!info->n_deleted)
        return;
    pthread_mutex_lock(&c->mu);
    c->out_bytes -= info->n_deleted < c->out_bytes ? info->n_deleted : c->out_bytes;
    if (c->out_bytes <= c->srv->output_high)
        pthread_cond_broadcast(&c->drained);
    pthread_mutex_unlock(&c->mu);
}

/* ---- the outbox ---- */

static void post(struct server *srv, struct conn *c, char *bytes, size_t len, struct request *done)
{
    struct out_item *i = cairn_calloc(1, sizeof *i);
    CAIRN_CHECK(i); /* forty bytes; a response that cannot even be queued would break the promise of one for
                       each request */
    *i = (struct out_item){NULL, c, bytes, len, done};
    atomic_fetch_add(&c->refs, 1);
    pthread_mutex_lock(&srv->out_mu);
    if (srv->out_tail)
        srv->out_tail->next = i;
    else
        srv->out_head = i;
    srv->out_tail = i;
    pthread_mutex_unlock(&srv->out_mu);
    uint64_t one = 1;
    ssize_t n = write(srv->wake_fd, &one, sizeof one);
    (void)n; /* full means it is awake anyway */
}

static void unlink_request(struct request *r)
{
    struct conn *c = r->conn;
    if (r->prev)
        r->prev->next = r->next;
    else
        c->inflight = r->next;
    if (r->next)
        r->next->prev = r->prev;
    c->n_inflight--;
    c->srv->n_requests--;
    c->last_us = cairn_now_us();
}

static void empty_outbox(struct server *srv)
{
    for (;;) {
        pthread_mutex_lock(&srv->out_mu);
        struct out_item *i = srv->out_head;
        if (i) {
            srv->out_head = i->next;
            if (!srv->out_head)
                srv->out_tail = NULL;
        }
        pthread_mutex_unlock(&srv->out_mu);
        if (!i)
            return;
        if (i->done)
            unlink_request(i->done);
        if (i->bytes)
            conn_write(i->conn, i->bytes, i->len, true);
        else
            conn_close(i->conn);
        request_free(i->done);
        conn_unref(i->conn);
        cairn_free(i);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *ctx)
{
    uint64_t n;
    (void)what;
    while (read(fd, &n, sizeof n) > 0)
        ;
    empty_outbox(ctx);
}

/* ---- workers ---- */

struct event_ctx {
    struct server *srv;
    struct request *r;
};

/* [2, name, [{msgid, ...}]]: the event's own map with msgid as its first pair. */
static bool send_event(void *ctx, const char *name, const void *msgpack, size_t len)
{
    struct event_ctx *e = ctx;
    struct conn *c = e->r->conn;
    struct server *srv = e->srv;
    struct wire_reader map = {msgpack, len, 0};
    uint64_t n;
    if (atomic_load(&e->r->stop.cancelled) || !wire_map(&map, &n))
        return false;
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, len + 256);
    pk_init(&k, &b);
    pk_array(&k, 3);
    pk_uint(&k, WIRE_NOTIFICATION);
    pk_cstr(&k, name);
    pk_array(&k, 1);
    pk_map(&k, (size_t)n + 1);
    pk_kuint(&k, "msgid", e->r->msgid);
    cairn_buf_put(&b, map.p + map.at, map.len - map.at);
    size_t total = b.len;
    char *bytes = cairn_buf_steal(&b);
    if (!bytes) {
        cairn_buf_release(&b);
        return false;
    }
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += srv->stall_us / 1000000;
    end.tv_nsec += (srv->stall_us % 1000000) * 1000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    int rc = 0;
    pthread_mutex_lock(&c->mu);
    while (!c->closed && !atomic_load(&e->r->stop.cancelled) && c->out_bytes > srv->output_high && rc == 0)
        rc = pthread_cond_timedwait(&c->drained, &c->mu, &end);
    bool ok = !c->closed && !atomic_load(&e->r->stop.cancelled) && rc == 0;
    if (ok)
        c->out_bytes += total;
    pthread_mutex_unlock(&c->mu);
    if (ok)
        post(srv, c, bytes, total, NULL);
    else
        cairn_free(bytes);
    return ok;
}

static enum cairn_err caller_of(struct server *srv, const char *key_id, bool open, struct api_key_info *info,
                                struct cairn_why *why)
{
    *info = (struct api_key_info){0};
    if (key_id[0])
        return keys_look(srv->s, key_id, info, why);
    info->role = open ? ROLE_ADMIN : ROLE_NONE;
    return CAIRN_OK;
}

static void run_request(struct server *srv, struct request *r)
{
    struct cairn_why why = {{0}};
    struct cairn_buf result;
    struct api_key_info *info = cairn_calloc(1, sizeof *info);
    struct cairn_str names[PRINCIPALS_MAX];
    struct event_ctx ectx = {srv, r};
    struct api_sink sink = {r->events ? send_event : NULL, &ectx};
    cairn_buf_init(&result, conf_size(srv->s, "api.result_bytes_max"));
    /* The key is looked up again: it may have been revoked since it was shown, or while the request waited.
     */
    enum cairn_err err =
        info ? caller_of(srv, r->key_id, r->open, info, &why) : cairn_fail(&why, CAIRN_ENOMEM, "request");
    if (!err) {
        for (size_t i = 0; i < info->n_principals; i++)
            names[i] = cairn_str_of(info->principals[i]);
        struct api_caller caller = {
            .role = info->role, .principals = names, .n_principals = info->n_principals, .key_id = r->key_id};
        err = service_call(srv->s, &caller, api_method_at((size_t)r->method)->name, r->bytes + r->params_at,
                           r->params_len, &sink, &r->stop, &result, &why);
    }
    if (err == CAIRN_ECORRUPT || err == CAIRN_EIO || err == CAIRN_ENOMEM)
        CAIRN_LOG(API, ERROR, "request failed method=%s code=%s why=\"%s\"",
                  api_method_at((size_t)r->method)->name, cairn_err_name(err), why.text);
    size_t len = 0;
    char *bytes = response_bytes(r->msgid, r->map_errors, err, why.text, &result, &len);
    cairn_buf_release(&result);
    cairn_free(info);
    if (bytes) {
        pthread_mutex_lock(&r->conn->mu);
        r->conn->out_bytes += len;
        pthread_mutex_unlock(&r->conn->mu);
    }
    post(srv, r->conn, bytes, len, r);
}

static bool is_heavy(const struct request *r)
{
    const struct api_method *m = api_method_at((size_t)r->method);
    return m->writes || m->streams || m->heavy;
}

/* queue_mu is held. The first that may start: long requests leave one worker to short ones, and writes take
 * at most half. */
static struct request *pick(struct server *srv)
{
    struct request *before = NULL;
    size_t heavy_max = srv->n_workers > 1 ? srv->n_workers - 1 : 1,
           write_max = srv->n_workers > 1 ? srv->n_workers / 2 : 1;
    for (struct request *r = srv->head; r; before = r, r = r->queue_next) {
        if (!srv->quit && is_heavy(r) && srv->n_heavy >= heavy_max)
            continue;
        if (!srv->quit && api_method_at((size_t)r->method)->writes && srv->n_writes >= write_max)
            continue;
        if (before)
            before->queue_next = r->queue_next;
        else
            srv->head = r->queue_next;
        if (srv->tail == r)
            srv->tail = before;
        srv->n_queue--;
        srv->queue_bytes -= r->n_bytes;
        return r;
    }
    return NULL;
}

static void *worker(void *ctx)
{
    struct server *srv = ctx;
    struct api_metrics *m = &srv->s->metrics;
    pthread_mutex_lock(&srv->queue_mu);
    for (;;) {
        struct request *r = pick(srv);
        if (!r && srv->quit)
            break;
        if (!r) {
            pthread_cond_wait(&srv->queue_cond, &srv->queue_mu);
            continue;
        }
        bool heavy = is_heavy(r), writes = api_method_at((size_t)r->method)->writes;
        srv->n_heavy += heavy;
        srv->n_writes += writes;
        atomic_store(&m->queue, srv->n_queue);
        pthread_mutex_unlock(&srv->queue_mu);
        atomic_fetch_add(&m->running, 1);
        run_request(srv, r);
        atomic_fetch_sub(&m->running, 1);
        pthread_mutex_lock(&srv->queue_mu);
        srv->n_heavy -= heavy;
        srv->n_writes -= writes;
        if (heavy)
            pthread_cond_broadcast(&srv->queue_cond); /* another may have waited for this place */
    }
    pthread_mutex_unlock(&srv->queue_mu);
    return NULL;
}

/* ---- messages (loop) ---- */

static bool is_open(struct server *srv)
{
    return srv->open_access || (srv->loopback && keys_count(srv->s) == 0);
}

static void protocol_error(struct conn *c, const char *text)
{
    atomic_fetch_add(&c->srv->s->metrics.protocol_errors, 1);
    int64_t now = cairn_now_us();
    if (now - c->srv->told_us >=
        LOG_EVERY_US) { /* the metric counts them all; a hostile peer must not fill the log */
        c->srv->told_us = now;
        CAIRN_LOG(API, ERROR, "connection closed: %s bytes=%zu", text, c->msg.len);
    }
    /* Half a request may have told its msgid: then somebody waits, and can be told. */
    struct wire_reader r = {(const uint8_t *)c->msg.bytes, c->msg.len, 0};
    uint64_t n, kind, id;
    bool waiting = wire_array(&r, &n) && n == 4 && wire_uint(&r, &kind) && kind == 0 && wire_uint(&r, &id) &&
                   id <= UINT32_MAX;
    for (struct request *q = c->inflight; q && waiting; q = q->next)
        waiting = q->msgid != id;
    if (waiting)
        respond(c, (uint32_t)id, CAIRN_EINVAL, text, NULL);
    conn_linger(c);
}

static void handle_hello(struct conn *c, const struct wire_envelope *e)
{
    static const char *const kinds[] = {"string", "map", NULL};
    static const uint8_t empty_map[] = {0x80};
    struct server *srv = c->srv;
    struct cairn_why why = {{0}};
    struct params p;
    msgpack_unpacked u;
    struct cairn_str key = {NULL, 0}, client = {NULL, 0};
    uint64_t proto = API_PROTO;
    int errors = c->map_errors;
    bool events = c->events;
    msgpack_unpacked_init(&u);
    size_t len = e->params.len - e->params.at;
    enum cairn_err err = params_decode(&u, &c->scan.limits, len ? e->params.p + e->params.at : empty_map,
                                       len ? len : sizeof empty_map, &why);
    if (!err) {
        p_open(&p, &u.data, "param ", &why);
        (void)p_uint(&p, "proto", false, 1, API_PROTO, &proto);
        (void)p_str(&p, "key", false, 1, 256, &key);
        (void)p_str(&p, "client", false, 0, 256, &client);
        (void)p_enum(&p, "errors", kinds, &errors);
        (void)p_bool(&p, "events", &events);
        err = p.err; /* keys of later versions are passed over */
    }
    struct api_key_info *info = cairn_calloc(1, sizeof *info);
    if (!err && !info)
        err = cairn_fail(&why, CAIRN_ENOMEM, "hello");
    bool wrong_key = false;
    if (!err && key.p) {
        err = api_key_check(srv->s, key.p, key.len, info, &why);
        wrong_key = err == CAIRN_EUNAUTH;
        if (!err) {
            memcpy(c->key_id, info->id, sizeof c->key_id);
            c->authed = true;
        }
    } else if (!err) {
        err = caller_of(srv, c->key_id, is_open(srv), info, &why);
    }
    if (!err) {
        struct cairn_buf result;
        struct pk k;
        c->map_errors = errors == 1;
        c->events = events;
        if (info->role != ROLE_NONE)
            c->scan.limits = srv->limits;
        cairn_buf_init(&result, 64u << 10);
        pk_init(&k, &result);
        hello_result(srv->s, &k, info->role, c->key_id, c->map_errors, events);
        respond(c, e->msgid, CAIRN_OK, NULL, &result);
        cairn_buf_release(&result);
    } else {
        respond(c, e->msgid, err, why.text, NULL);
    }
    metrics_count(srv->s, api_method_find(e->method), err, 0);
    cairn_free(info);
    msgpack_unpacked_destroy(&u);
    if (wrong_key) {
        atomic_fetch_add(&srv->s->metrics.auth_failures, 1);
        CAIRN_LOG(API, WARN, "key refused try=%u", c->auth_tries + 1);
        if (++c->auth_tries >= AUTH_TRIES_MAX)
            conn_linger(c);
    }
}

static void handle_control(struct conn *c, const struct wire_envelope *e, const char *method)
{
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    cairn_buf_init(&result, 64u << 10);
    struct api_caller caller = {.role = ROLE_NONE, .key_id = ""};
    enum cairn_err err = service_call(c->srv->s, &caller, method, e->params.p + e->params.at,
                                      e->params.len - e->params.at, NULL, NULL, &result, &why);
    respond(c, e->msgid, err, why.text, &result);
    cairn_buf_release(&result);
}

/* Why a request cannot be queued now; CAIRN_OK: it can. */
static enum cairn_err admit(struct conn *c, const struct wire_envelope *e, int method, bool *open,
                            struct cairn_why *why)
{
    struct server *srv = c->srv;
    struct api_key_info *info = cairn_calloc(1, sizeof *info);
    if (!info)
        return cairn_fail(why, CAIRN_ENOMEM, "request");
    *open = !c->key_id[0] && is_open(srv);
    enum cairn_err err = caller_of(srv, c->key_id, *open, info, why);
    enum api_role role = info->role;
    cairn_free(info);
    if (err)
        return err;
    if (role == ROLE_NONE)
        return cairn_fail(why, CAIRN_EUNAUTH,
                          "call hello {key} first; an admin makes a key with `cairn key create`");
    if (method < 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "no method \"%.*s\"; rpc.describe lists them",
                          (int)cairn_utf8_floor(e->method.p, e->method.len), e->method.p);
    const struct api_method *m = api_method_at((size_t)method);
    if (role < m->role)
        return cairn_fail(why, CAIRN_EDENIED, "%s needs the role %s; this key has %s", m->name,
                          api_role_name(m->role), api_role_name(role));
    if (srv->draining)
        return cairn_fail(why, CAIRN_EBUSY, "the server is shutting down; ask another or later");
    if (c->n_inflight >= srv->inflight_max)
        err = cairn_fail(
            why, CAIRN_EFULL,
            "overloaded: %zu requests of this connection are in flight, its limit (api.inflight_max)",
            c->n_inflight);
    pthread_mutex_lock(&srv->queue_mu);
    if (!err && srv->n_queue >= srv->queue_max)
        err =
            cairn_fail(why, CAIRN_EFULL,
                       "overloaded: %zu requests wait (api.queue_max); try again in a moment", srv->n_queue);
    if (!err && srv->queue_bytes + c->msg.len > srv->queue_bytes_max)
        err =
            cairn_fail(why, CAIRN_EFULL,
                       "overloaded: %zu bytes of requests wait (api.queue_bytes_max); try again in a moment",
                       srv->queue_bytes);
    pthread_mutex_unlock(&srv->queue_mu);
    if (err)
        atomic_fetch_add(&srv->s->metrics.rejected, 1);
    return err;
}

static int64_t deadline_of(struct server *srv, int method, const struct wire_reader *params)
{
    struct wire_reader v;
    uint64_t ms = conf_size(srv->s, "api.deadline_ms"), max = conf_size(srv->s, "api.deadline_ms_max"), asked;
    const struct api_method *m = api_method_at((size_t)method);
    if (m->writes && m->streams)
        ms = max;
    if (params->at < params->len && wire_map_find(params, "deadline_ms", &v) && wire_uint(&v, &asked) &&
        asked > 0)
        ms = asked;
    return cairn_now_us() + (int64_t)(ms < max ? ms : max) * 1000;
}

static void handle_request(struct conn *c, const struct wire_envelope *e)
{
    struct server *srv = c->srv;
    struct cairn_why why = {{0}};
    bool open = false;
    for (struct request *r = c->inflight; r; r = r->next) {
        if (r->msgid == e->msgid) {
            protocol_error(c, "a request with the msgid of one still in flight");
            return;
        }
    }
    int method = api_method_find(e->method);
    if (!e->params_ok) {
        respond(c, e->msgid, CAIRN_EINVAL,
                "params is an array that holds one map of named parameters, or nothing", NULL);
        return;
    }
    if (wire_str_is(e->method, "hello")) {
        handle_hello(c, e);
        return;
    }
    if (method >= 0 && api_method_at((size_t)method)->control) {
        handle_control(c, e, api_method_at((size_t)method)->name);
        return;
    }
    enum cairn_err err = admit(c, e, method, &open, &why);
    if (err) {
        respond(c, e->msgid, err, why.text, NULL);
        return;
    }
    struct request *r = cairn_calloc(1, sizeof *r);
    size_t n_bytes = c->msg.len, max = c->msg.max;
    char *bytes = r ? cairn_buf_steal(&c->msg) : NULL;
    if (!bytes) {
        cairn_free(r);
        respond(c, e->msgid, CAIRN_ENOMEM, "request", NULL);
        return;
    }
    cairn_buf_init(&c->msg, max);
    r->conn = c;
    r->msgid = e->msgid;
    r->method = method;
    r->bytes = bytes;
    r->n_bytes = n_bytes;
    r->params_at = e->params.at;
    r->params_len = e->params.len - e->params.at;
    r->open = open;
    r->map_errors = c->map_errors;
    r->events = c->events;
    memcpy(r->key_id, c->key_id, sizeof r->key_id);
    struct wire_reader params = {(const uint8_t *)bytes, n_bytes, r->params_at};
    r->stop.deadline_us = deadline_of(srv, method, &params);
    atomic_fetch_add(&c->refs, 1);
    r->next = c->inflight;
    if (r->next)
        r->next->prev = r;
    c->inflight = r;
    c->n_inflight++;
    srv->n_requests++;
    pthread_mutex_lock(&srv->queue_mu);
    if (srv->tail)
        srv->tail->queue_next = r;
    else
        srv->head = r;
    srv->tail = r;
    srv->n_queue++;
    srv->queue_bytes += n_bytes;
    atomic_store(&srv->s->metrics.queue, srv->n_queue);
    pthread_cond_signal(&srv->queue_cond);
    pthread_mutex_unlock(&srv->queue_mu);
}

static void handle_notification(struct conn *c, const struct wire_envelope *e)
{
    uint64_t id;
    struct wire_reader v = e->params;
    if (!wire_str_is(e->method, "$/cancel") || !e->params_ok || !wire_uint(&v, &id)) {
        atomic_fetch_add(&c->srv->s->metrics.unknown_notifications, 1); /* never answered, never fatal */
        return;
    }
    for (struct request *r = c->inflight; r; r = r->next) {
        if (r->msgid == id) {
            atomic_store(&r->stop.cancelled, true);
            pthread_mutex_lock(&c->mu);
            pthread_cond_broadcast(&c->drained);
            pthread_mutex_unlock(&c->mu);
        }
    }
}

static void handle_message(struct conn *c)
{
    struct wire_envelope e;
    struct cairn_why why = {{0}};
    if (!wire_envelope(&e, (const uint8_t *)c->msg.bytes, c->msg.len, &why)) {
        protocol_error(c, why.text);
        return;
    }
    if (e.kind == WIRE_REQUEST)
        handle_request(c, &e);
    else if (e.kind == WIRE_NOTIFICATION)
        handle_notification(c, &e);
    /* responses: we asked nothing */
}

static void on_read(struct bufferevent *bev, void *ctx)
{
    struct conn *c = ctx;
    struct server *srv = c->srv;
    struct evbuffer *in = bufferevent_get_input(bev);
    struct cairn_why why = {{0}};
    atomic_fetch_add(&c->refs, 1);
    c->last_us = cairn_now_us();
    while (c->bev && !c->linger_us && evbuffer_get_length(in) > 0) {
        if (conn_out_bytes(c) > srv->output_high) { /* who does not read gets no more work done */
            c->paused = true;
            (void)bufferevent_disable(bev, EV_READ);
            break;
        }
        struct evbuffer_iovec v;
        if (evbuffer_peek(in, (ev_ssize_t)READ_MAX, NULL, &v, 1) < 1)
            break;
        size_t used = 0;
        if (c->msg.len == 0)
            c->msg_us = c->last_us;
        int rc = wire_scan_feed(&c->scan, v.iov_base, v.iov_len, &used, &why);
        bool stored = cairn_buf_put(&c->msg, v.iov_base, used);
        (void)evbuffer_drain(in, used);
        partial_set(c, c->msg.len);
        if (rc < 0)
            protocol_error(c, why.text);
        else if (!stored || srv->partial_bytes > srv->partial_max)
            protocol_error(
                c, "half-received messages fill their limit (api.partial_bytes_max); send it again later");
        else if (rc == 1)
            handle_message(c);
        if (rc == 1 && c->bev && !c->linger_us) {
            if (c->msg.cap > KEEP_MESSAGE_BYTES) {
                size_t max = c->msg.max;
                cairn_buf_release(&c->msg);
                cairn_buf_init(&c->msg, max);
            } else {
                cairn_buf_clear(&c->msg);
            }
            partial_set(c, 0);
        }
    }
    if (c->bev && c->linger_us)
        (void)evbuffer_drain(in, evbuffer_get_length(in));
    conn_unref(c);
}

/* The output is empty. */
static void on_written(struct bufferevent *bev, void *ctx)
{
    struct conn *c = ctx;
    c->last_us = cairn_now_us();
    if (c->linger_us && conn_out_bytes(c) == 0)
        (void)shutdown(bufferevent_getfd(bev), SHUT_WR);
    if (c->paused) {
        c->paused = false;
        (void)bufferevent_enable(bev, EV_READ);
        bufferevent_trigger(bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
    }
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
    struct conn *c = ctx;
    (void)bev;
    if ((what & BEV_EVENT_TIMEOUT) && (what & BEV_EVENT_WRITING))
        CAIRN_LOG(API, WARN, "connection closed: it read nothing for %" PRId64 " ms",
                  c->srv->stall_us / 1000);
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        conn_close(c);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int sa_len,
                      void *ctx)
{
    struct server *srv = ctx;
    (void)l;
    (void)sa_len;
    atomic_fetch_add(&srv->s->metrics.accepted, 1);
    struct conn *c = srv->n_conns < srv->connections_max ? cairn_calloc(1, sizeof *c) : NULL;
    struct bufferevent *bev = c ? bufferevent_socket_new(srv->base, fd, BEV_OPT_CLOSE_ON_FREE) : NULL;
    if (!bev) {
        atomic_fetch_add(&srv->s->metrics.refused_connections, 1);
        CAIRN_LOG(API, WARN, "connection refused connections=%zu", srv->n_conns);
        evutil_closesocket(fd);
        cairn_free(c);
        return;
    }
    if (sa->sa_family != AF_UNIX) {
        int on = 1, idle = 60, every = 10, count = 3, user_ms = 30000;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->drained, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&c->mu, NULL);
    c->srv = srv;
    c->bev = bev;
    atomic_init(&c->refs, 1);
    wire_scan_init(&c->scan, is_open(srv) ? &srv->limits : &srv->limits_noauth);
    cairn_buf_init(&c->msg, srv->limits.message_bytes + 64);
    c->opened_us = c->last_us = cairn_now_us();
    c->next = srv->conns;
    if (c->next)
        c->next->prev = c;
    srv->conns = c;
    srv->n_conns++;
    atomic_fetch_add(&srv->s->metrics.connections, 1);
    struct timeval stall = {srv->stall_us / 1000000, srv->stall_us % 1000000};
    bufferevent_setcb(bev, on_read, on_written, on_event, c);
    bufferevent_set_timeouts(bev, NULL, &stall);
    (void)bufferevent_set_max_single_read(bev, READ_MAX);
    bufferevent_setwatermark(bev, EV_READ, 0, 4 * READ_MAX);
    evbuffer_add_cb(bufferevent_get_output(bev), on_output, c);
    (void)bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static void on_accept_error(struct evconnlistener *l, void *ctx)
{
    int e = EVUTIL_SOCKET_ERROR();
    (void)ctx;
    CAIRN_LOG(API, ERROR, "accept failed why=\"%s\"", evutil_socket_error_to_string(e));
    evconnlistener_disable(l); /* out of descriptors, mostly: the next tick tries again */
}

/* ---- time ---- */

/* Requests that were cancelled or ran out of time before a worker took them. */
static void expire_queue(struct server *srv)
{
    struct request *late = NULL, *before = NULL;
    pthread_mutex_lock(&srv->queue_mu);
    for (struct request *r = srv->head, *next; r; r = next) {
        next = r->queue_next;
        if (cairn_stopped(&r->stop, NULL) == CAIRN_OK) {
            before = r;
            continue;
        }
        if (before)
            before->queue_next = next;
        else
            srv->head = next;
        if (srv->tail == r)
            srv->tail = before;
        srv->n_queue--;
        srv->queue_bytes -= r->n_bytes;
        r->queue_next = late;
        late = r;
    }
    atomic_store(&srv->s->metrics.queue, srv->n_queue);
    pthread_mutex_unlock(&srv->queue_mu);
    while (late) {
        struct request *r = late;
        struct cairn_why why = {{0}};
        late = r->queue_next;
        enum cairn_err err = cairn_stopped(&r->stop, &why);
        unlink_request(r);
        metrics_count(srv->s, r->method, err, 0);
        if (r->conn->bev)
            respond(r->conn, r->msgid, err, why.text, NULL);
        request_free(r);
    }
}

static void cancel_all(struct server *srv)
{
    for (struct conn *c = srv->conns; c; c = c->next)
        for (struct request *r = c->inflight; r; r = r->next)
            atomic_store(&r->stop.cancelled, true);
    srv->cancelled_all = true;
}

static void drain_step(struct server *srv, int64_t now)
{
    bool flushed = srv->n_requests == 0;
    for (struct conn *c = srv->conns; c && flushed; c = c->next)
        flushed = conn_out_bytes(c) == 0;
    if (!flushed && !srv->cancelled_all && now - srv->drain_from_us >= srv->drain_us)
        cancel_all(srv);
    if (flushed || now - srv->drain_from_us >= srv->drain_us + DRAIN_GRACE_US)
        (void)event_base_loopexit(srv->base, NULL);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
    struct server *srv = ctx;
    int64_t now = cairn_now_us();
    bool open = is_open(srv);
    (void)fd;
    (void)what;
    if (srv->listener && !srv->draining)
        (void)evconnlistener_enable(srv->listener);
    for (struct conn *c = srv->conns, *next; c; c = next) {
        next = c->next;
        if (c->linger_us) {
            if (now >= c->linger_us)
                conn_close(c);
        } else if (c->msg.len > 0 &&
                   now - c->msg_us > srv->assembly_us + (int64_t)(c->msg.len / 1024) * 1000000) {
            protocol_error(c, "a message took too long to arrive (api.assembly_ms, then 1 KiB a second)");
        } else if (!c->authed && !open && now - c->opened_us > srv->hello_us) {
            CAIRN_LOG(API, WARN, "connection closed: no key within %" PRId64 " ms", srv->hello_us / 1000);
            conn_close(c);
        } else if (c->n_inflight == 0 && now - c->last_us > srv->idle_us) {
            conn_close(c);
        }
    }
    expire_queue(srv);
    if (srv->draining)
        drain_step(srv, now);
}

static void on_stop(evutil_socket_t fd, short what, void *ctx)
{
    struct server *srv = ctx;
    uint64_t n;
    (void)what;
    while (read(fd, &n, sizeof n) > 0)
        ;
    if (srv->draining)
        return;
    srv->draining = true;
    srv->drain_from_us = cairn_now_us();
    atomic_store(&srv->s->metrics.draining, true);
    evconnlistener_free(srv->listener);
    srv->listener = NULL;
    CAIRN_LOG(API, INFO, "draining requests=%zu connections=%zu", srv->n_requests, srv->n_conns);
    drain_step(srv, srv->drain_from_us);
}

/* ---- open, run, close ---- */

static enum cairn_err listen_on(struct server *srv, const struct wire_addr *a, const char *text,
                                struct cairn_why *why)
{
    struct sockaddr_un un;
    if (a->is_unix) {
        memcpy(&un, &a->sa, sizeof un);
        struct stat st;
        if (lstat(un.sun_path, &st) ==
            0) { /* a socket nobody listens on is a leftover; anything else is not ours to remove */
            int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            bool alive = probe >= 0 && connect(probe, (const struct sockaddr *)&un, sizeof un) == 0;
            bool stale = probe >= 0 && !alive && errno == ECONNREFUSED && S_ISSOCK(st.st_mode);
            if (probe >= 0)
                close(probe);
            if (!stale)
                return cairn_fail(why, CAIRN_EBUSY, "%s: %s", text,
                                  alive ? "another server listens there"
                                        : "the file exists and is no socket of ours");
            (void)unlink(un.sun_path);
        }
    }
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0)
        return cairn_fail_errno(why, errno, "socket for %s", text);
    if (!a->is_unix)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    mode_t mask = a->is_unix ? umask(0177) : 0; /* only this user may connect */
    int rc = bind(fd, (const struct sockaddr *)&a->sa, a->sa_len);
    int e = errno;
    if (a->is_unix)
        (void)umask(mask);
    if (rc == 0 && a->is_unix && !(srv->unix_path = cairn_strdup(un.sun_path))) {
        (void)unlink(un.sun_path);
        rc = -1;
        e = ENOMEM;
    }
    if (rc == 0 && listen(fd, 1024) != 0) {
        rc = -1;
        e = errno;
    }
    if (rc != 0) {
        close(fd);
        return cairn_fail_errno(why, e, "listen on %s", text);
    }
    srv->rpc_addr = wire_addr_text(a, fd);
    srv->listener = evconnlistener_new(
        srv->base, on_accept, srv, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, fd);
    if (!srv->listener)
        close(fd);
    if (!srv->listener || !srv->rpc_addr)
        return cairn_fail(why, CAIRN_ENOMEM, "listener");
    evconnlistener_set_error_cb(srv->listener, on_accept_error);
    return CAIRN_OK;
}

static struct wire_limits limits_of(struct service *s, bool known)
{
    return (struct wire_limits){
        .message_bytes = conf_size(s, known ? "api.message_bytes_max" : "api.message_bytes_max_noauth"),
        .depth = conf_size(s, known ? "api.depth_max" : "api.depth_max_noauth") +
                 (known ? 2 : 0), /* the envelope and its params array */
        .nodes = conf_size(s, known ? "api.nodes_max" : "api.nodes_max_noauth"),
        .str_bytes = conf_size(s, known ? "api.str_bytes_max" : "api.str_bytes_max_noauth"),
        .bin_bytes = conf_size(s, known ? "api.str_bytes_max" : "api.str_bytes_max_noauth"),
    };
}

enum cairn_err server_open(struct server **out, struct service *s, const struct server_opts *o,
                           struct cairn_why *why)
{
    *out = NULL;
    struct wire_addr a;
    enum cairn_err err = wire_addr_parse(&a, o->listen, why);
    if (err)
        return err;
    if (!a.loopback && !o->allow_remote)
        return cairn_fail(
            why, CAIRN_EDENIED,
            "address %.200s is not a loopback address; --allow-remote serves it anyway (with keys)",
            o->listen);
    if (!a.loopback && o->open_access)
        return cairn_fail(why, CAIRN_EDENIED, "open access is only for loopback addresses and Unix sockets");
    if (!a.loopback && keys_count(s) == 0)
        return cairn_fail(why, CAIRN_ESTATE,
                          "a remote address needs a key first: make one with `cairn key create`");
    struct server *srv = cairn_calloc(1, sizeof *srv);
    if (!srv)
        return cairn_fail(why, CAIRN_ENOMEM, "server");
    srv->s = s;
    srv->wake_fd = srv->stop_fd = -1;
    srv->open_access = o->open_access;
    srv->loopback = a.loopback;
    srv->limits = limits_of(s, true);
    srv->limits_noauth = limits_of(s, false);
    srv->connections_max = conf_size(s, "api.connections_max");
    srv->inflight_max = conf_size(s, "api.inflight_max");
    srv->queue_max = conf_size(s, "api.queue_max");
    srv->queue_bytes_max = conf_size(s, "api.queue_bytes_max");
    srv->partial_max = conf_size(s, "api.partial_bytes_max");
    srv->output_high = conf_size(s, "api.output_bytes_high");
    srv->idle_us = (int64_t)conf_size(s, "api.idle_ms") * 1000;
    srv->hello_us = (int64_t)conf_size(s, "api.hello_ms") * 1000;
    srv->assembly_us = (int64_t)conf_size(s, "api.assembly_ms") * 1000;
    srv->stall_us = (int64_t)conf_size(s, "api.output_stall_ms") * 1000;
    srv->drain_us = (int64_t)conf_size(s, "api.drain_ms") * 1000;
    srv->n_workers = conf_size(s, "api.workers");
    pthread_mutex_init(&srv->queue_mu, NULL);
    pthread_cond_init(&srv->queue_cond, NULL);
    pthread_mutex_init(&srv->out_mu, NULL);
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that goes away is an error of a write, not of the process */

    struct timeval tick = {0, TICK_US};
    srv->base = event_base_new();
    srv->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    srv->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (srv->base) {
        srv->tick = event_new(srv->base, -1, EV_PERSIST, on_tick, srv);
        srv->wake_ev = event_new(srv->base, srv->wake_fd, EV_READ | EV_PERSIST, on_wake, srv);
        srv->stop_ev = event_new(srv->base, srv->stop_fd, EV_READ | EV_PERSIST, on_stop, srv);
    }
    if (!srv->base || srv->wake_fd < 0 || srv->stop_fd < 0 || !srv->tick || !srv->wake_ev || !srv->stop_ev ||
        event_add(srv->tick, &tick) != 0 || event_add(srv->wake_ev, NULL) != 0 ||
        event_add(srv->stop_ev, NULL) != 0)
        err = cairn_fail(why, CAIRN_ENOMEM, "event loop");
    if (!err)
        err = listen_on(srv, &a, o->listen, why);
    if (!err && o->http && *o->http)
        err = http_open(&srv->http, s, o->http, o->allow_remote, why);
    if (err) {
        server_close(srv);
        return err;
    }
    *out = srv;
    return CAIRN_OK;
}

const char *server_rpc_addr(const struct server *srv) { return srv->rpc_addr; }

const char *server_http_addr(const struct server *srv) { return http_addr(srv->http); }

static void stop_workers(struct server *srv)
{
    pthread_mutex_lock(&srv->queue_mu);
    srv->quit = true;
    pthread_cond_broadcast(&srv->queue_cond);
    pthread_mutex_unlock(&srv->queue_mu);
    for (size_t i = 0; i < srv->n_threads; i++)
        pthread_join(srv->threads[i], NULL);
    srv->n_threads = 0;
    cairn_free(srv->threads);
    srv->threads = NULL;
}

enum cairn_err server_run(struct server *srv, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    sigset_t all, before;
    srv->threads = cairn_calloc(srv->n_workers, sizeof *srv->threads);
    if (!srv->threads)
        return cairn_fail(why, CAIRN_ENOMEM, "workers");
    sigfillset(&all); /* signals go to the thread that called us */
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    for (; srv->n_threads < srv->n_workers && !err; srv->n_threads += !err) {
        int rc = pthread_create(&srv->threads[srv->n_threads], NULL, worker, srv);
        if (rc != 0)
            err = cairn_fail_errno(why, rc, "worker thread %zu", srv->n_threads);
    }
    if (!err)
        err = upkeep_start(srv->s->upkeep, why);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!err) {
        (void)evconnlistener_enable(srv->listener);
        if (event_base_dispatch(srv->base) < 0)
            err = cairn_fail(why, CAIRN_EIO, "the event loop failed");
    }
    upkeep_stop(srv->s->upkeep);
    cancel_all(srv);
    stop_workers(srv);
    empty_outbox(srv);
    while (srv->conns)
        conn_close(srv->conns);
    (void)event_base_loop(srv->base, EVLOOP_NONBLOCK); /* libevent closes sockets from its loop */
    return err;
}

void server_stop(struct server *srv)
{
    uint64_t one = 1;
    int e = errno;
    ssize_t n = write(srv->stop_fd, &one, sizeof one);
    (void)n;
    errno = e;
}

void server_close(struct server *srv)
{
    if (!srv)
        return;
    http_close(srv->http);
    if (srv->listener)
        evconnlistener_free(srv->listener);
    if (srv->unix_path)
        (void)unlink(srv->unix_path);
    while (srv->conns)
        conn_close(srv->conns);
    if (srv->tick)
        event_free(srv->tick);
    if (srv->wake_ev)
        event_free(srv->wake_ev);
    if (srv->stop_ev)
        event_free(srv->stop_ev);
    if (srv->base)
        event_base_free(srv->base);
    if (srv->wake_fd >= 0)
        close(srv->wake_fd);
    if (srv->stop_fd >= 0)
        close(srv->stop_fd);
    pthread_mutex_destroy(&srv->queue_mu);
    pthread_cond_destroy(&srv->queue_cond);
    pthread_mutex_destroy(&srv->out_mu);
    cairn_free(srv->rpc_addr);
    cairn_free(srv->unix_path);
    cairn_free(srv);
}
