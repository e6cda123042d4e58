/* api/client.c - one blocking connection to a server: the command's --server, tests, benchmarks.
 * One thread at a time per client. Requests are answered one by one; what a call does not wait for (late
 * answers of a call that timed out) is read and dropped by msgid. The answer is scanned like any other input:
 * a server is not trusted with this process's memory. */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#define CLIENT_MESSAGE_MAX ((size_t)512 << 20)
#define CLIENT_NODES_MAX ((size_t)16 << 20)

struct api_client {
    int fd;
    int timeout_ms;
    uint32_t next_id;
    struct wire_scan scan;
    struct cairn_buf in;  /* the current message */
    uint8_t ahead[65536]; /* read but not yet scanned */
    size_t ahead_at, ahead_len;
    char *addr;
    bool broken;
};

void api_client_close(struct api_client *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    cairn_buf_release(&c->in);
    cairn_free(c->addr);
    cairn_free(c);
}

/* Waits for events until end_us (0: for ever). */
static enum cairn_err wait_fd(struct api_client *c, short events, int64_t end_us, struct cairn_why *why)
{
    for (;;) {
        int ms = -1;
        if (end_us) {
            int64_t left = end_us - cairn_now_us();
            if (left <= 0)
                return cairn_fail(why, CAIRN_EDEADLINE, "%s did not answer in time", c->addr);
            ms = (int)(left / 1000 + 1);
        }
        struct pollfd p = {.fd = c->fd, .events = events};
        int rc = poll(&p, 1, ms);
        if (rc > 0)
            return CAIRN_OK;
        if (rc < 0 && errno != EINTR)
            return cairn_fail_errno(why, errno, "poll on %s", c->addr);
    }
}

static enum cairn_err send_all(struct api_client *c, const void *bytes, size_t len, int64_t end_us,
                               struct cairn_why *why)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            enum cairn_err err = wait_fd(c, POLLOUT, end_us, why);
            if (err)
                return err;
        } else if (n < 0 && errno != EINTR) {
            return cairn_fail_errno(why, errno, "send to %s", c->addr);
        }
    }
    return CAIRN_OK;
}

/* One whole message into c->in. */
static enum cairn_err receive(struct api_client *c, int64_t end_us, struct cairn_why *why)
{
    cairn_buf_clear(&c->in);
    for (;;) {
        if (c->ahead_at == c->ahead_len) {
            ssize_t n = recv(c->fd, c->ahead, sizeof c->ahead, 0);
            if (n == 0)
                return cairn_fail(why, CAIRN_EIO, "%s closed the connection", c->addr);
            if (n < 0) {
                if (errno == EINTR)
                    continue;
                if (errno != EAGAIN && errno != EWOULDBLOCK)
                    return cairn_fail_errno(why, errno, "receive from %s", c->addr);
                enum cairn_err err = wait_fd(c, POLLIN, end_us, why);
                if (err)
                    return err;
                continue;
            }
            c->ahead_at = 0;
            c->ahead_len = (size_t)n;
        }
        size_t used;
        int rc = wire_scan_feed(&c->scan, c->ahead + c->ahead_at, c->ahead_len - c->ahead_at, &used, why);
        if (!cairn_buf_put(&c->in, c->ahead + c->ahead_at, used))
            return cairn_fail(why, CAIRN_ENOMEM, "answer of %s", c->addr);
        c->ahead_at += used;
        if (rc < 0)
            return cairn_wrap(why, (enum cairn_err)rc, "answer of %s", c->addr);
        if (rc == 1)
            return CAIRN_OK;
    }
}

static enum cairn_err read_error(struct wire_reader *r, struct cairn_why *why)
{
    struct cairn_str s;
    struct wire_reader v;
    if (wire_peek(r) == WIRE_STR && wire_str(r, &s)) {
        const char *colon = memmem(s.p, s.len, ": ", 2);
        struct cairn_str name = {s.p, colon ? (size_t)(colon - s.p) : s.len};
        struct cairn_str text = colon ? (struct cairn_str){colon + 2, s.len - name.len - 2} : s;
        return cairn_fail(why, wire_err_by_name(name), "%.*s", (int)(text.len < 500 ? text.len : 500),
                          text.p);
    }
    struct cairn_str code = {"", 0}, text = {"", 0};
    if (wire_map_find(r, "code", &v))
        (void)wire_str(&v, &code);
    if (wire_map_find(r, "message", &v))
        (void)wire_str(&v, &text);
    if (!code.len)
        return cairn_fail(why, CAIRN_EIO, "the server sent an error of a form this client does not know");
    return cairn_fail(why, wire_err_by_name(code), "%.*s", (int)(text.len < 500 ? text.len : 500), text.p);
}

/* The event's map without msgid; false: it belongs to another request or is no such map. */
static bool event_of(struct wire_reader map, uint32_t msgid, struct cairn_buf *out)
{
    struct wire_reader v, r = map;
    uint64_t n, id;
    if (!wire_map_find(&map, "msgid", &v) || !wire_uint(&v, &id) || id != msgid || !wire_map(&r, &n))
        return false;
    struct pk k;
    pk_init(&k, out);
    pk_map(&k, (size_t)n - 1);
    for (uint64_t i = 0; i < n; i++) {
        size_t from = r.at;
        struct cairn_str key = {NULL, 0};
        if (!wire_str(&r, &key) || !wire_skip(&r))
            return false;
        if (!wire_str_is(key, "msgid"))
            cairn_buf_put(out, r.p + from, r.at - from);
    }
    return !out->failed;
}

enum cairn_err api_client_call(struct api_client *c, const char *method, const void *params,
                               size_t params_len, const struct api_sink *sink, struct cairn_buf *result,
                               struct cairn_why *why)
{
    if (c->broken)
        return cairn_fail(why, CAIRN_EIO, "the connection to %s broke before; open a new one", c->addr);
    uint32_t id = c->next_id++;
    struct cairn_buf out, event;
    cairn_buf_init(&out, CLIENT_MESSAGE_MAX);
    cairn_buf_init(&event, CLIENT_MESSAGE_MAX);
    struct pk k;
    pk_init(&k, &out);
    pk_array(&k, 4);
    pk_uint(&k, 0);
    pk_uint(&k, id);
    pk_cstr(&k, method);
    pk_array(&k, params_len ? 1 : 0);
    if (params_len)
        cairn_buf_put(&out, params, params_len);
    bool timed = c->timeout_ms > 0, cancelled = false;
    int64_t end_us = timed ? cairn_now_us() + (int64_t)c->timeout_ms * 1000 : 0;
    enum cairn_err err = out.failed ? cairn_fail(why, CAIRN_ENOMEM, "request of %zu bytes", params_len)
                                    : send_all(c, out.bytes, out.len, end_us, why);
    if (err == CAIRN_ENOMEM)
        goto done; /* nothing was sent */
    while (!err) {
        err = receive(c, end_us, why);
        if (err)
            break;
        struct wire_reader r = {(const uint8_t *)c->in.bytes, c->in.len, 0}, e;
        uint64_t n, type, got;
        struct cairn_str name;
        if (!wire_array(&r, &n) || !wire_uint(&r, &type)) {
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s does not speak msgpack-RPC", c->addr);
            break;
        }
        if (type == 2 && n == 3 && wire_str(&r, &name) && wire_array(&r, &n) && n == 1) {
            cairn_buf_clear(&event);
            if (!event_of(r, id, &event))
                continue;
            if (timed) /* it is at work: the time-out is for silence */
                end_us = cairn_now_us() + (int64_t)c->timeout_ms * 1000;
            char event_name[WIRE_METHOD_MAX + 1];
            if (name.len >= sizeof event_name)
                continue;
            memcpy(event_name, name.p, name.len);
            event_name[name.len] = 0;
            if (sink && sink->event && !cancelled &&
                !sink->event(sink->ctx, event_name, event.bytes, event.len)) {
                cancelled = true; /* one response still comes */
                cairn_buf_clear(&out);
                pk_array(&k, 3);
                pk_uint(&k, 2);
                pk_cstr(&k, "$/cancel");
                pk_array(&k, 1);
                pk_uint(&k, id);
                err = send_all(c, out.bytes, out.len, end_us, why);
            }
            continue;
        }
        if (type != 1 || n != 4 || !wire_uint(&r, &got) || got != id)
            continue; /* a late answer, or something we do not serve */
        e = r;
        if (!wire_skip(&r)) {
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s sent half a response", c->addr);
            break;
        }
        if (wire_peek(&e) != WIRE_NIL) {
            err = read_error(&e, why);
            goto done; /* an answer: the connection is fine */
        }
        if (!cairn_buf_put(result, r.p + r.at, r.len - r.at))
            err = cairn_fail(why, CAIRN_ENOMEM, "result of %zu bytes", r.len - r.at);
        goto done;
    }
    c->broken = true;
done:
    cairn_buf_release(&out);
    cairn_buf_release(&event);
    return err;
}

enum cairn_err api_client_open(struct api_client **out, const char *addr, const char *key, bool events,
                               int timeout_ms, struct cairn_why *why)
{
    *out = NULL;
    struct wire_addr a;
    enum cairn_err err = wire_addr_parse(&a, addr, why);
    if (err)
        return err;
    struct api_client *c = cairn_calloc(1, sizeof *c);
    if (!c)
        return cairn_fail(why, CAIRN_ENOMEM, "client");
    c->fd = -1;
    c->timeout_ms = timeout_ms;
    c->next_id = 1;
    c->addr = cairn_strdup(addr);
    cairn_buf_init(&c->in, CLIENT_MESSAGE_MAX);
    wire_scan_init(&c->scan, &(struct wire_limits){.message_bytes = CLIENT_MESSAGE_MAX,
                                                   .depth = WIRE_DEPTH_MAX,
                                                   .nodes = CLIENT_NODES_MAX,
                                                   .str_bytes = CLIENT_MESSAGE_MAX,
                                                   .bin_bytes = CLIENT_MESSAGE_MAX});
    struct cairn_buf hello, answer;
    cairn_buf_init(&hello, 4096);
    cairn_buf_init(&answer, CLIENT_MESSAGE_MAX);
    if (!c->addr) {
        err = cairn_fail(why, CAIRN_ENOMEM, "client");
        goto done;
    }
    c->fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        err = cairn_fail_errno(why, errno, "socket");
        goto done;
    }
    int on = 1;
    if (!a.is_unix)
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&a.sa, a.sa_len) != 0) {
        int e = errno;
        if (e == EINPROGRESS) {
            err = wait_fd(c, POLLOUT, timeout_ms > 0 ? cairn_now_us() + (int64_t)timeout_ms * 1000 : 0, why);
            socklen_t len = sizeof e;
            if (!err && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len) != 0)
                e = errno;
        }
        if (!err && e != 0)
            err = cairn_fail_errno(why, e, "connect to %s (is the server running?)", addr);
        if (err)
            goto done;
    }
    struct pk k;
    pk_init(&k, &hello);
    pk_map(&k, key ? 5 : 4);
    pk_kuint(&k, "proto", 1);
    pk_kcstr(&k, "client", "cairn/" CAIRN_VERSION);
    pk_kcstr(&k, "errors", "map");
    pk_kbool(&k, "events", events);
    if (key)
        pk_kcstr(&k, "key", key);
    err = hello.failed ? cairn_fail(why, CAIRN_EINVAL, "key of %zu bytes", strlen(key))
                       : api_client_call(c, "hello", hello.bytes, hello.len, NULL, &answer, why);
done:
    cairn_buf_release(&hello);
    cairn_buf_release(&answer);
    if (err) {
        api_client_close(c);
        return err;
    }
    *out = c;
    return CAIRN_OK;
}
