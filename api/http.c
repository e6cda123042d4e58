/* api/http.c - the second port: /healthz, /readyz, /metrics, and nothing else. libmicrohttpd runs its own
 * epoll thread with a connection limit, a memory limit per connection and a time-out, so nothing that happens
 * here reaches the RPC loop. */
#include "internal.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>

struct http {
    struct service *s;
    struct MHD_Daemon *d;
    char *addr;
};

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, const char *type,
                             struct cairn_buf *body)
{
    static const char none[] = "";
    struct MHD_Response *r = MHD_create_response_from_buffer(
        body->failed ? 0 : body->len,
        body->len && !body->failed ? (void *)body->bytes : (void *)(uintptr_t)none, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO;
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result ok = MHD_queue_response(c, body->failed ? MHD_HTTP_INTERNAL_SERVER_ERROR : status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **state)
{
    struct http *h = ctx;
    static int seen;
    (void)version;
    (void)upload;
    if (!*state) { /* headers only so far */
        *state = &seen;
        return MHD_YES;
    }
    if (*upload_size) { /* a body nobody wants */
        *upload_size = 0;
        return MHD_YES;
    }
    struct cairn_buf body;
    cairn_buf_init(&body, 4u << 20);
    unsigned status = MHD_HTTP_OK;
    const char *type = "text/plain; charset=utf-8";
    struct cairn_why why = {{0}};
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        status = MHD_HTTP_METHOD_NOT_ALLOWED;
        cairn_buf_puts(&body, "only GET\n");
    } else if (strcmp(url, "/healthz") == 0) {
        cairn_buf_puts(&body, "ok\n");
    } else if (strcmp(url, "/readyz") == 0) {
        type = "application/json";
        status = service_ready(h->s, &body, &why) == CAIRN_OK ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    } else if (strcmp(url, "/metrics") == 0) {
        type = "text/plain; version=0.0.4; charset=utf-8";
        (void)metrics_text(h->s, &body);
    } else {
        status = MHD_HTTP_NOT_FOUND;
        cairn_buf_puts(&body, "only /healthz, /readyz and /metrics\n");
    }
    enum MHD_Result ok = reply(c, status, type, &body);
    cairn_buf_release(&body);
    return ok;
}

enum cairn_err http_open(struct http **out, struct service *s, const char *addr, bool allow_remote,
                         struct cairn_why *why)
{
    struct wire_addr a;
    *out = NULL;
    enum cairn_err err = wire_addr_parse(&a, addr, why);
    if (err)
        return err;
    if (a.is_unix)
        return cairn_fail(why, CAIRN_EINVAL, "http address \"%.200s\": want HOST:PORT", addr);
    if (!a.loopback && !allow_remote)
        return cairn_fail(why, CAIRN_EDENIED,
                          "http address %.200s is not a loopback address; --allow-remote serves it anyway",
                          addr);
    struct http *h = cairn_calloc(1, sizeof *h);
    if (!h)
        return cairn_fail(why, CAIRN_ENOMEM, "http");
    h->s = s;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | (a.sa.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0u);
    h->d = MHD_start_daemon(flags, 0, NULL, NULL, handle, h, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&a.sa,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)conf_size(s, "api.http_connections_max"),
                            MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)32768, MHD_OPTION_END);
    const union MHD_DaemonInfo *info = h->d ? MHD_get_daemon_info(h->d, MHD_DAEMON_INFO_LISTEN_FD) : NULL;
    h->addr = info ? wire_addr_text(&a, info->listen_fd) : NULL;
    if (!h->addr) {
        http_close(h);
        return cairn_fail(why, CAIRN_EBUSY, "http address %.200s could not be opened; is the port taken?",
                          addr);
    }
    *out = h;
    return CAIRN_OK;
}

const char *http_addr(const struct http *h) { return h ? h->addr : ""; }

void http_close(struct http *h)
{
    if (!h)
        return;
    if (h->d)
        MHD_stop_daemon(h->d);
    cairn_free(h->addr);
    cairn_free(h);
}
