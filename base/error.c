/* error.c - codes and sentences. */
#include <cairn/base.h>

#include <errno.h>
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum cairn_err cairn_fail(struct cairn_why *why, enum cairn_err err, const char *fmt, ...)
{
    if (why) {
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(why->text, sizeof(why->text), fmt, ap);
        va_end(ap);
        why->text[cairn_utf8_floor(why->text, strlen(why->text))] = '\0';
    }
    return err;
}

enum cairn_err cairn_wrap(struct cairn_why *why, enum cairn_err err, const char *fmt, ...)
{
    if (why) {
        char prefix[sizeof(why->text)], old[2 * sizeof(why->text) + 2];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(prefix, sizeof(prefix), fmt, ap);
        va_end(ap);
        (void)snprintf(old, sizeof(old), "%s: %s", prefix, why->text);
        memcpy(why->text, old, sizeof(why->text) - 1);
        why->text[sizeof(why->text) - 1] = '\0';
        why->text[cairn_utf8_floor(why->text, strlen(why->text))] = '\0';
    }
    return err;
}

static enum cairn_err err_from_errno(int errnum)
{
    switch (errnum) {
    case ENOMEM:
        return CAIRN_ENOMEM;
    case ENOENT:
    case ENOTDIR:
        return CAIRN_ENOTFOUND;
    case EEXIST:
        return CAIRN_EEXISTS;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
        return CAIRN_EFULL;
    case EACCES:
    case EPERM:
    case EROFS:
        return CAIRN_EDENIED;
    case EINVAL:
    case EISDIR:
    case ENAMETOOLONG:
        return CAIRN_EINVAL;
    case EADDRINUSE:
    case EAGAIN:
    case EBUSY:
        return CAIRN_EBUSY;
    default:
        return CAIRN_EIO;
    }
}

enum cairn_err cairn_fail_errno(struct cairn_why *why, int errnum, const char *fmt, ...)
{
    if (why) {
        char what[sizeof(why->text)], reason[128];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(what, sizeof(what), fmt, ap);
        va_end(ap);
        (void)cairn_fail(why, CAIRN_EIO, "%s: %s", what, strerror_r(errnum, reason, sizeof(reason)));
    }
    return err_from_errno(errnum);
}

const char *cairn_err_name(enum cairn_err err)
{
    switch (err) {
    case CAIRN_OK:
        return "OK";
    case CAIRN_ENOMEM:
        return "OUT_OF_MEMORY";
    case CAIRN_EINVAL:
        return "INVALID_ARGUMENT";
    case CAIRN_ENOTFOUND:
        return "NOT_FOUND";
    case CAIRN_ECORRUPT:
        return "CORRUPT";
    case CAIRN_EFULL:
        return "RESOURCE_EXHAUSTED";
    case CAIRN_EIO:
        return "IO_ERROR";
    case CAIRN_EDEVICE:
        return "DEVICE_ERROR";
    case CAIRN_ESTOPPED:
        return "CANCELLED";
    case CAIRN_EDEADLINE:
        return "DEADLINE_EXCEEDED";
    case CAIRN_EEXISTS:
        return "ALREADY_EXISTS";
    case CAIRN_EDENIED:
        return "PERMISSION_DENIED";
    case CAIRN_EUNAUTH:
        return "UNAUTHENTICATED";
    case CAIRN_EBUSY:
        return "UNAVAILABLE";
    case CAIRN_EUNSUPPORTED:
        return "UNIMPLEMENTED";
    case CAIRN_ESTATE:
        return "FAILED_PRECONDITION";
    }
    return "INTERNAL";
}

void cairn_check_failed(const char *cond, const char *file, int line)
{
    void *frames[32];
    (void)fprintf(stderr, "cairn: broken state: %s at %s:%d\n", cond, file, line);
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    abort();
}
