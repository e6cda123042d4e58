/* tests/wire/server_fixture.h - a server on its own thread, and raw sockets to send it anything. */
#ifndef CAIRN_TESTS_SERVER_FIXTURE_H
#define CAIRN_TESTS_SERVER_FIXTURE_H

#include "api_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

struct serving {
    struct fix f;
    struct server *srv;
    pthread_t thread;
    char addr[128], http[128];
    enum cairn_err ended;
};

static inline void *serving_main(void *ctx)
{
    struct serving *v = ctx;
    struct cairn_why why = {{0}};
    v->ended = server_run(v->srv, &why);
    return NULL;
}

static inline void serve_start(struct serving *v, const char *const *settings, const char *listen)
{
    TEST_WHY;
    *v = (struct serving){.f = fix_open(settings)};
    cairn_log_set_level(CAIRN_LOG_ERROR);
    CHECK_OK(server_open(
        &v->srv, v->f.s,
        &(struct server_opts){.listen = listen ? listen : "127.0.0.1:0", .http = "127.0.0.1:0"}, &why));
    snprintf(v->addr, sizeof v->addr, "%s", server_rpc_addr(v->srv));
    snprintf(v->http, sizeof v->http, "%s", server_http_addr(v->srv));
    CHECK(pthread_create(&v->thread, NULL, serving_main, v) == 0);
}

static inline void serve_end(struct serving *v)
{
    server_stop(v->srv);
    pthread_join(v->thread, NULL);
    CHECK_I64_EQ(v->ended, CAIRN_OK);
    server_close(v->srv);
    fix_close(&v->f);
}

static inline int dial(const char *addr)
{
    TEST_WHY;
    struct wire_addr a;
    CHECK_OK(wire_addr_parse(&a, addr, &why));
    int fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(connect(fd, (struct sockaddr *)&a.sa, a.sa_len) == 0);
    return fd;
}

static inline bool put(int fd, const void *bytes, size_t len)
{
    return send(fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* [0, id, method, [params]] with params in JSON; n_params 0: an empty array. */
static inline void put_request(int fd, uint32_t id, const char *method, const char *params)
{
    TEST_WHY;
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    pk_array(&k, 4);
    pk_uint(&k, 0);
    pk_uint(&k, id);
    pk_cstr(&k, method);
    pk_array(&k, params ? 1 : 0);
    if (params)
        CHECK_OK(api_json_to_msgpack(params, strlen(params), &b, &why));
    CHECK(put(fd, b.bytes, b.len));
    cairn_buf_release(&b);
}

static inline void put_cancel(int fd, uint32_t id)
{
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    pk_array(&k, 3);
    pk_uint(&k, 2);
    pk_cstr(&k, "$/cancel");
    pk_array(&k, 1);
    pk_uint(&k, id);
    CHECK(put(fd, b.bytes, b.len));
    cairn_buf_release(&b);
}

/* The next message as JSON, or NULL when the peer closed or ms passed (*closed tells). Reads byte by byte:
 * slow and simple. */
static inline json_t *get(int fd, int ms, bool *closed)
{
    TEST_WHY;
    struct wire_scan s;
    struct cairn_buf b, text;
    json_t *j = NULL;
    int rc = 0;
    bool eof = false;
    cairn_buf_init(&b, 0);
    cairn_buf_init(&text, 0);
    wire_scan_init(
        &s, &(struct wire_limits){(size_t)1 << 28, 31, (size_t)1 << 24, (size_t)1 << 28, (size_t)1 << 28});
    while (rc == 0) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint8_t ch;
        size_t used;
        if (poll(&p, 1, ms) <= 0)
            break;
        if (recv(fd, &ch, 1, 0) != 1) {
            eof = true;
            break;
        }
        cairn_buf_put(&b, &ch, 1);
        rc = wire_scan_feed(&s, &ch, 1, &used, &why);
        CHECK(rc >= 0);
    }
    if (rc == 1) {
        CHECK_OK(api_msgpack_to_json(b.bytes, b.len, false, &text, &why));
        j = json_loads(text.bytes, 0, NULL);
        CHECK(j);
    }
    if (closed)
        *closed = eof;
    cairn_buf_release(&b);
    cairn_buf_release(&text);
    return j;
}

#define WAIT_MS 20000
/* The response to id; others are an error. NULL: closed. */
static inline json_t *answer(int fd, uint32_t id)
{
    json_t *j = get(fd, WAIT_MS, NULL);
    if (!j)
        return NULL;
    CHECK_I64_EQ(json_integer_value(json_array_get(j, 0)), 1);
    CHECK_I64_EQ(json_integer_value(json_array_get(j, 1)), id);
    return j;
}
static inline void answer_ok(int fd, uint32_t id)
{
    json_t *j = answer(fd, id);
    CHECK(j);
    if (!json_is_null(json_array_get(j, 2)))
        print_error("error: %s\n", json_string_value(json_array_get(j, 2)));
    CHECK(json_is_null(json_array_get(j, 2)));
    json_decref(j);
}
static inline void answer_error(int fd, uint32_t id, const char *starts)
{
    json_t *j = answer(fd, id);
    CHECK(j);
    const char *e = json_string_value(json_array_get(j, 2));
    if (!e || strncmp(e, starts, strlen(starts)) != 0)
        print_error("got %s, want %s...\n", e ? e : "no string", starts);
    CHECK(e && strncmp(e, starts, strlen(starts)) == 0);
    CHECK(json_is_null(json_array_get(j, 3)));
    json_decref(j);
}
/* The peer closes within WAIT_MS, whatever it says before. */
static inline void closes(int fd)
{
    bool closed = false;
    for (int i = 0; i < 8 && !closed; i++) {
        json_t *j = get(fd, WAIT_MS, &closed);
        if (!j)
            break;
        json_decref(j);
    }
    CHECK(closed);
    close(fd);
}
static inline void alive(const char *addr)
{
    int fd = dial(addr);
    put_request(fd, 7, "server.health", NULL);
    answer_ok(fd, 7);
    close(fd);
}

#endif
