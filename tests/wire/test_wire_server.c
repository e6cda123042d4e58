/* The server over real sockets: frames of every shape, cancel, limits, keys, the second port, the drain. */
#include "server_fixture.h"

static void whole_and_byte_by_byte_and_many_at_once(void **state)
{
    UNUSED_STATE(state);
    struct serving v;
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    int fd = dial(v.addr);
    put_request(fd, 0, "server.health", NULL);
    answer_ok(fd, 0);
    put_request(fd, UINT32_MAX, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_ok(fd, UINT32_MAX);
    /* the same request a byte at a time */
    struct cairn_buf b;
    struct pk k;
    TEST_WHY;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    pk_array(&k, 4);
    pk_uint(&k, 0);
    pk_uint(&k, 5);
    pk_cstr(&k, "search");
    pk_array(&k, 1);
    CHECK_OK(api_json_to_msgpack("{\"collection\":\"hr\",\"query\":\"train\"}", 35, &b, &why));
    for (size_t i = 0; i < b.len; i++)
        CHECK(put(fd, b.bytes + i, 1));
    answer_ok(fd, 5);
    /* forty requests in one write: forty answers, each once, in any order */
    struct cairn_buf many;
    cairn_buf_init(&many, 0);
    pk_init(&k, &many);
    for (uint32_t i = 0; i < 40; i++) {
        pk_array(&k, 4);
        pk_uint(&k, 0);
        pk_uint(&k, 1000 + i);
        pk_cstr(&k, i % 3 ? "search" : "collection.list");
        pk_array(&k, 1);
        CHECK_OK(api_json_to_msgpack(i % 3 ? "{\"collection\":\"hr\",\"query\":\"policy\"}" : "{}",
                                     i % 3 ? 36 : 2, &many, &why));
    }
    CHECK(put(fd, many.bytes, many.len));
    bool seen[40] = {false};
    for (int i = 0; i < 40; i++) {
        json_t *j = get(fd, WAIT_MS, NULL);
        CHECK(j && json_is_null(json_array_get(j, 2)));
        int64_t id = json_integer_value(json_array_get(j, 1)) - 1000;
        CHECK(id >= 0 && id < 40 && !seen[id]);
        seen[id] = true;
        json_decref(j);
    }
    /* an empty map that some languages write as an empty array; a response and a notification nobody waits
     * for */
    CHECK(put(fd,
              "\x94\x00\x09\xaf"
              "collection.list\x91\x90",
              21));
    answer_ok(fd, 9);
    CHECK(put(fd, "\x94\x01\x05\xc0\xc0\x93\x02\xb0nvim_error_event\x92\x01\xa1x", 28));
    put_request(fd, 10, "server.health", NULL);
    answer_ok(fd, 10);
    cairn_buf_release(&b);
    cairn_buf_release(&many);
    close(fd);
    serve_end(&v);
}

static void errors_of_content_keep_the_connection(void **state)
{
    UNUSED_STATE(state);
    struct serving v;
    serve_start(&v, NULL, NULL);
    int fd = dial(v.addr);
    put_request(fd, 1, "no.such.method", "{}");
    answer_error(fd, 1, "UNIMPLEMENTED: ");
    put_request(fd, 2, "search", "{\"collection\":\"none\",\"query\":\"x\"}");
    answer_error(fd, 2, "NOT_FOUND: ");
    put_request(fd, 3, "search", "{\"collection\":5,\"query\":\"x\"}");
    answer_error(fd, 3, "INVALID_ARGUMENT: param collection: got an integer, want a string");
    CHECK(put(fd, "\x94\x00\x04\xa6search\x92\x80\x80", 13)); /* two params */
    answer_error(fd, 4, "INVALID_ARGUMENT: params");
    CHECK(put(fd, "\x94\x00\x05\xa6search\x80", 11)); /* params no array */
    answer_error(fd, 5, "INVALID_ARGUMENT: params");
    CHECK(put(fd,
              "\x94\x00\x06\xa6search\x91\x82\xaa"
              "collection\xa2hr\xa5query\xa2\xc3\x28",
              35));
    answer_error(fd, 6, "INVALID_ARGUMENT: a string of 2 bytes is not UTF-8");
    put_request(fd, 7, "hello", "{\"errors\":\"map\"}");
    answer_ok(fd, 7);
    put_request(fd, 8, "no.such", "{}");
    json_t *j = answer(fd, 8);
    CHECK_STR_EQ(j_str(json_array_get(j, 2), "code"), "UNIMPLEMENTED");
    CHECK(j_str(json_array_get(j, 2), "message")[0]);
    json_decref(j);
    /* every method once with nothing at all */
    for (size_t m = 0; m < api_method_count(); m++) {
        put_request(fd, (uint32_t)(100 + m), api_method_at(m)->name, NULL);
        j = answer(fd, (uint32_t)(100 + m));
        CHECK(j);
        json_decref(j);
    }
    close(fd);
    alive(v.addr);
    serve_end(&v);
}

static void errors_of_framing_close_only_their_connection(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *p;
        size_t n;
        bool told; /* it had said a msgid, so it gets an answer first */
    } bad[] = {
        {"\xc1",                                                                                              1,  false},
        {"GET / HTTP/1.1\r\n\r\n",                                                                            18, false},
        {"\x05",                                                                                              1,  false},
        {"\x80",                                                                                              1,  false},
        {"\xdd\xff\xff\xff\xff",                                                                              5,  false},
        {"\x94\x00\x11\xdb\xff\xff\xff\xff",                                                                  8,  true },
        {"\x94\x00\x11\xa1x\xdd\xff\xff\xff\xff",                                                             10, true },
        {"\x94\x00\x11\xa1x\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
         25,                                                                                                      true },
        {"\x94\x00\x11\xa1x\x91\xd4\x01\x01",                                                                 9,  true },
        {"\x94\x07\x11\xa1x\x90",                                                                             6,  false},
        {"\x94\x00\xff\xa1x\x90",                                                                             6,  false},
        {"\x95\x00\x11\xa1x\x90\xc0",                                                                         7,  false},
        {"\x94\x00\x11\x05\x90",                                                                              5,  true },
    };
    struct serving v;
    serve_start(&v, NULL, NULL);
    int good = dial(v.addr);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = dial(v.addr);
        CHECK(put(fd, bad[i].p, bad[i].n));
        if (bad[i].told)
            answer_error(fd, 0x11, "INVALID_ARGUMENT: ");
        closes(fd);
        put_request(good, (uint32_t)i, "server.health", NULL);
        answer_ok(good, (uint32_t)i);
    }
    /* the msgid of a request still in flight */
    int fd = dial(v.addr);
    fix_fill(v.f.s);
    CHECK_I64_EQ(cairn_failpoint_set("", NULL), CAIRN_OK);
    struct cairn_buf b;
    struct pk k;
    TEST_WHY;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    for (int i = 0; i < 2; i++) {
        pk_array(&k, 4);
        pk_uint(&k, 0);
        pk_uint(&k, 3);
        pk_cstr(&k, "search");
        pk_array(&k, 1);
        CHECK_OK(api_json_to_msgpack("{\"collection\":\"hr\",\"query\":\"leave\"}", 35, &b, &why));
    }
    CHECK(put(fd, b.bytes, b.len));
    closes(fd);
    cairn_buf_release(&b);
    CHECK_GE(atomic_load(&v.f.s->metrics.protocol_errors), sizeof bad / sizeof bad[0]);
    put_request(good, 99, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_ok(good, 99);
    close(good);
    serve_end(&v);
}

static void events_come_only_after_they_were_asked_for(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct serving v;
    const char *ask = "{\"collection\":\"hr\",\"question\":\"How many days of annual leave are "
                      "there?\",\"mode\":\"extract\"}";
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    int fd = dial(v.addr);
    put_request(fd, 1, "ask", ask);
    answer_ok(fd, 1); /* the very first message is the response */
    put_request(fd, 2, "hello", "{\"events\":true}");
    answer_ok(fd, 2);
    put_request(fd, 3, "ask", ask);
    size_t events = 0;
    for (;;) {
        json_t *j = get(fd, WAIT_MS, NULL);
        CHECK(j);
        bool event = json_integer_value(json_array_get(j, 0)) == 2;
        if (event) {
            json_t *e = json_array_get(json_array_get(j, 2), 0);
            CHECK_STR_EQ(json_string_value(json_array_get(j, 1)), "ask.event");
            CHECK_I64_EQ(j_int(e, "msgid"), 3);
            CHECK_I64_EQ(j_int(e, "seq"), events);
            CHECK(events > 0 || strcmp(j_str(e, "kind"), "sources") == 0);
            events++;
        } else {
            CHECK(json_is_null(json_array_get(j, 2)));
        }
        json_decref(j);
        if (!event)
            break;
    }
    CHECK_GE(events, 3);
    close(fd);

    /* the same through the client */
    struct api_client *c;
    struct cairn_buf params, result;
    CHECK_OK(api_client_open(&c, v.addr, NULL, true, WAIT_MS, &why));
    cairn_buf_init(&params, 0);
    cairn_buf_init(&result, 0);
    CHECK_OK(api_json_to_msgpack(ask, strlen(ask), &params, &why));
    CHECK_OK(api_client_call(c, "ask", params.bytes, params.len, NULL, &result, &why));
    CHECK_GE(result.len, 100);
    cairn_buf_clear(&params);
    CHECK_OK(api_json_to_msgpack("{\"collection\":\"none\",\"query\":\"x\"}", 33, &params, &why));
    CHECK_ERR(api_client_call(c, "search", params.bytes, params.len, NULL, &result, &why), CAIRN_ENOTFOUND);
    cairn_buf_release(&params);
    cairn_buf_release(&result);
    api_client_close(c);
    serve_end(&v);
}

static void cancelled_and_late_requests_are_answered_once(void **state)
{
    UNUSED_STATE(state);
    static const char *const one[] = {"api.workers=1", "api.inflight_max=8", NULL};
    struct serving v;
    serve_start(&v, one, NULL);
    fix_fill(v.f.s);
    /* a worker is held by a batch that waits for the writer's lock, which this test has */
    TEST_WHY;
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, service_store(v.f.s), &why));
    int fd = dial(v.addr);
    put_request(fd, 1, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"nobody\"]}");
    while (atomic_load(&v.f.s->metrics.running) == 0)
        usleep(1000);
    put_request(fd, 2, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    put_cancel(fd, 2);
    put_cancel(fd, 77); /* unknown: ignored */
    answer_error(fd, 2, "CANCELLED: ");
    put_request(fd, 3, "search", "{\"collection\":\"hr\",\"query\":\"leave\",\"deadline_ms\":50}");
    answer_error(fd, 3, "DEADLINE_EXCEEDED: ");
    /* more than the connection may have in flight */
    for (uint32_t id = 10; id < 18; id++)
        put_request(fd, id, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_error(fd, 17, "RESOURCE_EXHAUSTED: overloaded");
    /* control methods never wait */
    put_request(fd, 30, "server.health", NULL);
    answer_ok(fd, 30);
    /* somebody who vanishes with requests in flight */
    int gone = dial(v.addr);
    put_request(gone, 1, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    usleep(50000);
    close(gone);
    store_batch_abort(b);
    size_t got = 0;
    for (int i = 0; i < 8; i++) { /* 1 and 10..16, each once */
        json_t *j = get(fd, WAIT_MS, NULL);
        CHECK(j);
        CHECK(json_is_null(json_array_get(j, 2)));
        got++;
        json_decref(j);
    }
    CHECK_U64_EQ(got, 8);
    put_request(fd, 50, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_ok(fd, 50);
    close(fd);
    serve_end(&v);
}

static void keys_open_doors_and_revocation_shuts_them(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct serving v;
    char params[256], id[32], secret[80];
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    int before = dial(v.addr); /* open so far: no key exists */
    put_request(before, 1, "collection.list", "{}");
    answer_ok(before, 1);
    json_t *j = fix_call(v.f.s, "key.create", "{\"role\":\"read_only\",\"principals\":[\"finance\"]}");
    snprintf(id, sizeof id, "%s", j_str(j, "id"));
    snprintf(secret, sizeof secret, "%s", j_str(j, "key"));
    json_decref(j);
    put_request(before, 2, "collection.list", "{}");
    answer_error(before, 2, "UNAUTHENTICATED: "); /* the first key ends open access for all at once */
    put_request(before, 3, "server.health", "{}");
    answer_ok(before, 3);
    close(before);
    int fd = dial(v.addr);
    put_request(fd, 1, "no.such", "{}");
    answer_error(fd, 1, "UNAUTHENTICATED: "); /* nothing about what exists */
    snprintf(params, sizeof params, "{\"key\":\"%s\"}", secret);
    put_request(fd, 2, "hello", params);
    j = answer(fd, 2);
    CHECK_STR_EQ(j_str(json_array_get(j, 3), "role"), "read_only");
    json_decref(j);
    put_request(fd, 3, "search", "{\"collection\":\"hr\",\"query\":\"salary band\"}");
    j = answer(fd, 3);
    CHECK_U64_EQ(j_len(json_array_get(j, 3), "hits"), 1);
    json_decref(j);
    put_request(fd, 4, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"pay.md\"]}");
    answer_error(fd, 4, "PERMISSION_DENIED: ");
    snprintf(params, sizeof params, "{\"id\":\"%s\"}", id);
    fix_do(v.f.s, "key.revoke", params);
    put_request(fd, 5, "search", "{\"collection\":\"hr\",\"query\":\"salary band\"}");
    answer_error(fd, 5, "UNAUTHENTICATED: "); /* on the live connection too */
    close(fd);
    fd = dial(v.addr);
    for (uint32_t i = 0; i < 3; i++) {
        put_request(fd, i, "hello", "{\"key\":\"cairn_0000000000000000_guess\"}");
        answer_error(fd, i, "UNAUTHENTICATED: ");
    }
    closes(fd); /* three guesses */
    /* before a key was shown the limits are small */
    fd = dial(v.addr);
    CHECK(put(fd, "\x94\x00\x01\xa5hello\x91\x81\xa3key\xda\x20\x00", 18));
    answer_error(fd, 1, "INVALID_ARGUMENT: ");
    closes(fd);
    struct api_client *c;
    CHECK_ERR(api_client_open(&c, v.addr, "cairn_x", false, WAIT_MS, &why), CAIRN_EUNAUTH);
    serve_end(&v);
}

static void idle_and_slow_and_greedy_connections_do_not_matter(void **state)
{
    UNUSED_STATE(state);
    static const char *const quick[] = {"api.assembly_ms=300", "api.idle_ms=60000", "api.connections_max=260",
                                        "api.output_bytes_high=4k", NULL};
    enum { IDLE = 200 };
    struct serving v;
    int idle[IDLE];
    serve_start(&v, quick, NULL);
    fix_fill(v.f.s);
    for (int i = 0; i < IDLE; i++)
        idle[i] = dial(v.addr);
    for (int i = 0; i < IDLE; i += 4)
        CHECK(put(idle[i], "\x94\x00", 2)); /* half a message, and silence */
    int fd = dial(v.addr);
    for (uint32_t i = 0; i < 50; i++) {
        put_request(fd, i, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
        answer_ok(fd, i);
    }
    closes(idle[0]); /* a message takes too long: told goodbye */
    put_request(idle[1], 1, "server.health", NULL);
    answer_ok(idle[1], 1); /* plain idle ones stay */
    for (int i = 1; i < IDLE; i++)
        close(idle[i]);
    /* a caller that asks and never reads is not read from any more; others go on */
    int greedy = dial(v.addr), small = 4096;
    CHECK(setsockopt(greedy, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    struct timeval tv = {0, 200000};
    CHECK(setsockopt(greedy, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) == 0);
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    size_t sent = 0;
    for (uint32_t i = 0; i < 40000; i++) {
        cairn_buf_clear(&b);
        pk_array(&k, 4);
        pk_uint(&k, 0);
        pk_uint(&k, i);
        pk_cstr(&k, "hello");
        pk_array(&k, 0);
        if (send(greedy, b.bytes, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
            break;
        sent++;
    }
    usleep(500000);
    size_t taken = (size_t)atomic_load(&v.f.s->metrics.calls[api_method_find(cairn_str_of("hello"))][0]);
    print_message("of %zu requests of a caller that does not read, the server took %zu\n", sent, taken);
    CHECK(taken < sent); /* the rest waits in the kernel, not here */
    put_request(fd, 999, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_ok(fd, 999);
    cairn_buf_release(&b);
    close(greedy);
    close(fd);
    serve_end(&v);
}

static void unix_sockets_and_addresses(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), listen[300];
    struct serving v;
    struct server *other;
    snprintf(listen, sizeof listen, "unix:%s/rpc", dir);
    serve_start(&v, NULL, listen);
    CHECK_STR_EQ(v.addr, listen);
    alive(v.addr);
    CHECK_ERR(server_open(&other, v.f.s, &(struct server_opts){.listen = listen}, &why), CAIRN_EBUSY);
    CHECK_ERR(server_open(&other, v.f.s, &(struct server_opts){.listen = "0.0.0.0:0"}, &why), CAIRN_EDENIED);
    CHECK_ERR(
        server_open(&other, v.f.s, &(struct server_opts){.listen = "127.0.0.1:0", .http = "0.0.0.0:0"}, &why),
        CAIRN_EDENIED);
    CHECK_ERR(
        server_open(&other, v.f.s, &(struct server_opts){.listen = "0.0.0.0:0", .allow_remote = true}, &why),
        CAIRN_ESTATE); /* no key */
    CHECK_ERR(
        server_open(&other, v.f.s,
                    &(struct server_opts){.listen = "0.0.0.0:0", .allow_remote = true, .open_access = true},
                    &why),
        CAIRN_EDENIED);
    CHECK_ERR(server_open(&other, v.f.s, &(struct server_opts){.listen = "nonsense"}, &why), CAIRN_EINVAL);
    serve_end(&v);
    CHECK(access(listen + 5, F_OK) != 0); /* cleaned up */
    test_rmdir(dir);
}

static void http_get(const char *addr, const char *request, int want, const char *body)
{
    int fd = dial(addr);
    char text[65536];
    size_t n = 0;
    CHECK(put(fd, request, strlen(request)));
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (n >= sizeof text - 1 || poll(&p, 1, WAIT_MS) <= 0)
            break;
        ssize_t got = recv(fd, text + n, sizeof text - 1 - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = 0;
    char status[32];
    snprintf(status, sizeof status, "HTTP/1.1 %d ", want);
    if (strncmp(text, status, strlen(status)) != 0 || (body && !strstr(text, body)))
        print_error("%s -> %.300s\n", request, text);
    CHECK(strncmp(text, status, strlen(status)) == 0);
    CHECK(!body || strstr(text, body));
    close(fd);
}

static void the_second_port_tells_health_and_numbers(void **state)
{
    UNUSED_STATE(state);
    struct serving v;
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    alive(v.addr);
    http_get(v.http, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, "ok");
    http_get(v.http, "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, "\"ready\":true");
    http_get(v.http, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200,
             "cairn_build_info{version=");
    http_get(v.http, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404, NULL);
    http_get(v.http, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
             405, NULL);
    serve_end(&v);
}

struct stopper {
    struct serving *v;
};
static void *stop_soon(void *ctx)
{
    struct stopper *s = ctx;
    server_stop(s->v->srv);
    return NULL;
}

static void a_drain_answers_what_runs_and_refuses_what_comes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct serving v;
    struct store_batch *b;
    pthread_t t;
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    int fd = dial(v.addr), late = dial(v.addr);
    put_request(late, 1, "server.health", NULL);
    answer_ok(late, 1);
    CHECK_OK(store_batch_begin(&b, service_store(v.f.s), &why));
    put_request(fd, 1, "doc.delete", "{\"collection\":\"hr\",\"ids\":[\"leave.md\"]}");
    while (atomic_load(&v.f.s->metrics.running) == 0)
        usleep(1000);
    struct stopper s = {&v};
    CHECK(pthread_create(&t, NULL, stop_soon, &s) == 0);
    pthread_join(t, NULL);
    while (!atomic_load(&v.f.s->metrics.draining))
        usleep(1000);
    put_request(late, 2, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
    answer_error(late, 2, "UNAVAILABLE: ");
    store_batch_abort(b);
    answer_ok(fd, 1);
    closes(fd);
    close(late);
    serve_end(&v);
}

/* Random pieces of good and bad messages on many connections, for a while; afterwards the server answers as
 * before. */
static void random_traffic_leaves_the_server_as_it_was(void **state)
{
    UNUSED_STATE(state);
    struct serving v;
    uint64_t seed = 4711;
    serve_start(&v, NULL, NULL);
    fix_fill(v.f.s);
    for (int turn = 0; turn < 300; turn++) {
        int fd = dial(v.addr);
        struct timeval tv = {0, 100000};
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        for (uint64_t m = test_rand(&seed) % 5; m-- > 0;) {
            TEST_WHY;
            struct cairn_buf b;
            struct pk k;
            cairn_buf_init(&b, 0);
            pk_init(&k, &b);
            pk_array(&k, 4);
            pk_uint(&k, 0);
            pk_uint(&k, test_rand(&seed) % 4);
            pk_cstr(&k, api_method_at((size_t)(test_rand(&seed) % api_method_count()))->name);
            pk_array(&k, 1);
            CHECK_OK(api_json_to_msgpack("{\"collection\":\"hr\",\"query\":\"leave\",\"id\":\"x\"}", 44, &b,
                                         &why));
            if (test_rand(&seed) % 2)
                b.bytes[test_rand(&seed) % b.len] = (char)test_rand(&seed);
            size_t n = test_rand(&seed) % 4 ? b.len : (size_t)(test_rand(&seed) % b.len);
            (void)send(fd, b.bytes, n, MSG_NOSIGNAL);
            cairn_buf_release(&b);
        }
        if (test_rand(&seed) % 2) {
            struct linger hard = {1, 0}; /* a reset */
            (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        }
        close(fd);
    }
    int fd = dial(v.addr);
    put_request(fd, 1, "search", "{\"collection\":\"hr\",\"query\":\"travel\"}");
    json_t *j = answer(fd, 1);
    CHECK(j);
    if (json_is_null(
            json_array_get(j, 2))) /* a damaged message may still have been a valid collection.drop */
        CHECK_U64_EQ(j_len(json_array_get(j, 3), "hits") > 0, 1);
    json_decref(j);
    close(fd);
    serve_end(&v);
}

/* Put, search, merge and measuring go on side by side; the server ends in the middle of it. */
static void brought_vectors_over_the_wire(void **state)
{
    UNUSED_STATE(state);
    static const char *const settings[] = {"api.recall_sample_pct=100", "api.put_vectors_max=8", NULL};
    struct serving v;
    serve_start(&v, settings, NULL);
    int fd = dial(v.addr);
    put_request(fd, 1, "collection.create", "{\"collection\":\"v\",\"dim\":2,\"metric\":\"l2\"}");
    answer_ok(fd, 1);
    put_request(fd, 2, "vector.put",
                "{\"collection\":\"v\",\"vectors\":[{\"id\":\"a\",\"vector\":[1,0]},"
                "{\"id\":\"b\",\"vector\":[0,4],\"text\":\"bee\"}]}");
    answer_ok(fd, 2);
    put_request(fd, 3, "vector.search",
                "{\"collection\":\"v\",\"vector\":[0,1],\"k\":1,\"with_text\":true,\"explain\":true}");
    json_t *j = answer(fd, 3), *r = json_array_get(j, 3);
    CHECK_U64_EQ(j_len(r, "hits"), 1);
    CHECK_STR_EQ(j_str(json_array_get(json_object_get(r, "hits"), 0), "id"), "a");
    CHECK(j_str(json_object_get(r, "explain"), "path"));
    json_decref(j);
    put_request(fd, 4, "vector.put", "{\"collection\":\"v\",\"vectors\":[{\"id\":\"c\",\"vector\":[1]}]}");
    answer_error(fd, 4, "INVALID_ARGUMENT: ");
    put_request(fd, 5, "doc.delete", "{\"collection\":\"v\",\"ids\":[\"a\"]}");
    answer_ok(fd, 5);
    put_request(fd, 6, "vector.search", "{\"collection\":\"v\",\"vector\":[0,1]}");
    j = answer(fd, 6);
    CHECK_U64_EQ(j_len(json_array_get(j, 3), "hits"), 1);
    json_decref(j);
    /* within a few rounds the idle server measures that search by itself */
    struct api_metrics *m = &v.f.s->metrics;
    uint64_t samples = 0;
    for (int i = 0; i < 1200 && !samples; i++) { /* a minute at most */
        struct timespec ms = {0, 50000000};
        nanosleep(&ms, NULL);
        for (unsigned b = 0; b < RECALL_BANDS; b++)
            samples += atomic_load(&m->recall_samples[b]);
    }
    CHECK_GE(samples, 1);
    put_request(fd, 7, "server.stats", NULL);
    j = answer(fd, 7);
    CHECK(json_is_object(json_object_get(json_array_get(j, 3), "merge")));
    json_decref(j);
    close(fd);
    serve_end(&v);
}

static atomic_bool hold_evals;
static atomic_uint evals_held;
static enum cairn_err slow_eval(struct service *s, const struct api_caller *me, const void *params,
                                size_t params_len, const struct cairn_stop *stop, struct cairn_buf *result,
                                struct cairn_why *why)
{
    UNUSED_STATE(s);
    UNUSED_STATE(me);
    UNUSED_STATE(params);
    UNUSED_STATE(params_len);
    atomic_fetch_add(&evals_held, 1);
    while (atomic_load(&hold_evals) && cairn_stopped(stop, NULL) == CAIRN_OK)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cairn_buf_put(result, "\xc0", 1);
    return cairn_stopped(stop, why);
}

/* Both workers would be taken, and the search never answered, if a measurement counted as a short request. */
static void measurements_leave_a_worker_to_short_requests(void **state)
{
    UNUSED_STATE(state);
    static const char *const two[] = {"api.workers=2", NULL};
    struct serving v;
    serve_start(&v, two, NULL);
    fix_fill(v.f.s);
    atomic_store(&hold_evals, true);
    atomic_store(&evals_held, 0);
    api_set_eval(slow_eval);
    int fd = dial(v.addr), other = dial(v.addr);
    for (uint32_t i = 0; i < 3; i++)
        put_request(fd, i, "eval.run", "{\"collection\":\"hr\"}");
    while (atomic_load(&evals_held) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    for (uint32_t i = 0; i < 20; i++) {
        put_request(other, i, "search", "{\"collection\":\"hr\",\"query\":\"leave\"}");
        answer_ok(other, i);
    }
    CHECK_U64_EQ(atomic_load(&evals_held), 1);
    atomic_store(&hold_evals, false);
    for (uint32_t i = 0; i < 3; i++)
        answer_ok(fd, i);
    api_set_eval(NULL);
    close(fd);
    close(other);
    serve_end(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(whole_and_byte_by_byte_and_many_at_once),
        TEST(errors_of_content_keep_the_connection),
        TEST(errors_of_framing_close_only_their_connection),
        TEST(events_come_only_after_they_were_asked_for),
        TEST(cancelled_and_late_requests_are_answered_once),
        TEST(keys_open_doors_and_revocation_shuts_them),
        TEST(idle_and_slow_and_greedy_connections_do_not_matter),
        TEST(unix_sockets_and_addresses),
        TEST(the_second_port_tells_health_and_numbers),
        TEST(a_drain_answers_what_runs_and_refuses_what_comes),
        TEST(brought_vectors_over_the_wire),
        TEST(measurements_leave_a_worker_to_short_requests),
        TEST(random_traffic_leaves_the_server_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
