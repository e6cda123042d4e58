/* clock.c - time and stop tokens. */
#include <cairn/base.h>

#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;
    CAIRN_CHECK(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t cairn_now_us(void) { return read_clock(CLOCK_MONOTONIC); }

int64_t cairn_wall_us(void) { return read_clock(CLOCK_REALTIME); }

enum cairn_err cairn_stopped(const struct cairn_stop *stop, struct cairn_why *why)
{
    if (!stop)
        return CAIRN_OK;
    if (atomic_load_explicit(&stop->cancelled, memory_order_relaxed))
        return cairn_fail(why, CAIRN_ESTOPPED, "cancelled by the caller");
    if (stop->deadline_us && cairn_now_us() > stop->deadline_us)
        return cairn_fail(why, CAIRN_EDEADLINE, "the deadline passed; ask for less or give deadline_ms more");
    return CAIRN_OK;
}
