/* log.c - one line a call on stderr, written by one write so that lines of threads do not mix. */
#include <cairn/base.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static atomic_int level_now = -1;

static int level_from_env(void)
{
    const char *s = getenv("CAIRN_LOG_LEVEL");
    for (int i = 0; s && i < 4; i++)
        if (strcasecmp(s, level_names[i]) == 0)
            return i;
    return CAIRN_LOG_WARN;
}

void cairn_log_set_level(enum cairn_log_level level) { atomic_store(&level_now, (int)level); }

void cairn_log(enum cairn_log_level level, const char *room, const char *fmt, ...)
{
    int now = atomic_load_explicit(&level_now, memory_order_relaxed);
    if (now < 0) {
        now = level_from_env();
        atomic_store(&level_now, now);
    }
    if ((int)level > now)
        return;
    char line[2048];
    int64_t us = cairn_wall_us();
    time_t sec = (time_t)(us / 1000000);
    struct tm tm;
    gmtime_r(&sec, &tm);
    size_t n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03dZ %s %s ", (int)(us / 1000 % 1000),
                          level_names[level], room);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
    va_end(ap);
    n += m < 0 ? 0 : (size_t)m;
    if (n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nowhere left to say so */
}
