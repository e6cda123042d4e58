/* api/address.c - listening and connecting addresses as text. Only numeric hosts and "localhost": nothing
 * here asks a name server. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

static bool is_loopback(const struct sockaddr_storage *sa)
{
    if (sa->ss_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, sa, sizeof v4);
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, sa, sizeof v6);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

enum cairn_err wire_addr_parse(struct wire_addr *out, const char *text, struct cairn_why *why)
{
    static const char how[] = "want HOST:PORT with a numeric host or localhost, [V6]:PORT, or unix:PATH";
    *out = (struct wire_addr){0};
    if (!text || !*text)
        return cairn_fail(why, CAIRN_EINVAL, "empty address: %s", how);
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        size_t n = strlen(text + 5);
        if (n == 0 || n >= sizeof un.sun_path)
            return cairn_fail(why, CAIRN_EINVAL, "address \"%s\": a socket path has 1..%zu bytes", text,
                              sizeof un.sun_path - 1);
        memcpy(un.sun_path, text + 5, n + 1);
        memcpy(&out->sa, &un, sizeof un);
        out->sa_len = (socklen_t)sizeof un;
        out->is_unix = out->loopback = true;
        return CAIRN_OK;
    }
    const char *colon = strrchr(text, ':'), *host = text;
    size_t host_len = colon ? (size_t)(colon - text) : 0;
    if (host_len >= 2 && text[0] == '[' && text[host_len - 1] == ']') {
        host++;
        host_len -= 2;
    } else if (memchr(text, ':', host_len)) {
        return cairn_fail(why, CAIRN_EINVAL, "address \"%.200s\": write an IPv6 host in brackets; %s", text,
                          how);
    }
    char h[64];
    if (!colon || host_len == 0 || host_len >= sizeof h || !colon[1])
        return cairn_fail(why, CAIRN_EINVAL, "address \"%.200s\": %s", text, how);
    memcpy(h, host, host_len);
    h[host_len] = 0;
    if (strcmp(h, "localhost") == 0)
        memcpy(h, "127.0.0.1", sizeof "127.0.0.1");
    unsigned port = 0;
    for (const char *p = colon + 1; *p; p++) {
        if (*p < '0' || *p > '9' || (port = port * 10 + (unsigned)(*p - '0')) > 65535)
            return cairn_fail(why, CAIRN_EINVAL,
                              "address \"%.200s\": the port is a number 0..65535 (0 picks one)", text);
    }
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo want = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                    *got = NULL;
    int rc = getaddrinfo(h, service, &want, &got);
    if (rc != 0)
        return cairn_fail(why, CAIRN_EINVAL, "address \"%.200s\": %s; %s", text, gai_strerror(rc), how);
    memcpy(&out->sa, got->ai_addr, got->ai_addrlen);
    out->sa_len = got->ai_addrlen;
    freeaddrinfo(got);
    out->loopback = is_loopback(&out->sa);
    return CAIRN_OK;
}

char *wire_addr_text(const struct wire_addr *a, int fd)
{
    if (a->is_unix) {
        struct sockaddr_un un;
        memcpy(&un, &a->sa, sizeof un);
        return cairn_asprintf("unix:%s", un.sun_path);
    }
    struct sockaddr_storage sa = a->sa;
    socklen_t len = sizeof sa;
    if (fd >= 0 && getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return NULL;
    char host[64], port[8];
    if (getnameinfo((struct sockaddr *)&sa, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return NULL;
    return sa.ss_family == AF_INET6 ? cairn_asprintf("[%s]:%s", host, port)
                                    : cairn_asprintf("%s:%s", host, port);
}
