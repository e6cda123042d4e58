/* device.c - finds libcairn_cuda.so at run time; the program itself links no driver. */
#include "device_host.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE "libcairn_cuda.so"
enum { PATH_MAX_BYTES = 4096 };

enum cairn_err device_load(const struct device_api **out, const char *path, struct cairn_why *why)
{
    *out = NULL;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        const char *text = dlerror();
        return cairn_fail(why, CAIRN_ENOTFOUND, "%s", text ? text : path);
    }
    const struct device_api *(*entry)(uint32_t, char *, size_t) = NULL;
    void *symbol = dlsym(module, "cairn_device_open");
    char reason[256] = "";
    if (!symbol) {
        (void)dlclose(module);
        return cairn_fail(why, CAIRN_EDEVICE, "%s has no cairn_device_open; install the module of this build",
                          path);
    }
    memcpy(&entry, &symbol, sizeof entry);
    const struct device_api *api = entry(DEVICE_ABI, reason, sizeof reason);
    if (!api || api->abi != DEVICE_ABI) {
        /* not dlclose()d: a CUDA runtime that was asked once may have threads */
        return cairn_fail(why, CAIRN_EDEVICE, "%s: %s", path, api ? "another version of the seam" : reason);
    }
    *out = api;
    return CAIRN_OK;
}

/* "DIR/../lib/cairn/libcairn_cuda.so" and the like; false when it does not fit. */
static bool beside_program(char *out, size_t size, const char *below)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0)
        return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash || (size_t)(slash - out) + strlen(below) + sizeof MODULE + 1 > size)
        return false;
    (void)snprintf(slash + 1, size - (size_t)(slash + 1 - out), "%s%s", below, MODULE);
    return access(out, R_OK) == 0;
}

static struct {
    const struct device_api *api;
    struct cairn_why why;
} found;

static void find_once(void)
{
    char path[PATH_MAX_BYTES];
    const char *set = secure_getenv("CAIRN_CUDA_MODULE");
    enum cairn_err err;
    if (set && *set)
        err = device_load(&found.api, set, &found.why);
    else if (beside_program(path, sizeof path, "") || beside_program(path, sizeof path, "../lib/cairn/"))
        err = device_load(&found.api, path, &found.why);
    else
        err = device_load(&found.api, MODULE, &found.why);
    if (!err)
        CAIRN_LOG(MODEL, INFO, "device found backend=%s device=\"%s\"", found.api->backend,
                  found.api->device);
}

const struct device_api *device_find(struct cairn_why *why)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, find_once);
    if (!found.api && why)
        *why = found.why;
    return found.api;
}

const char *model_device_name(void)
{
    const struct device_api *api = device_find(NULL);
    return api ? api->device : NULL;
}

enum cairn_err model_device_bandwidth(size_t bytes, double *bytes_per_s, struct cairn_why *why)
{
    const struct device_api *api = device_find(why);
    *bytes_per_s = 0;
    if (!api)
        return CAIRN_EDEVICE;
    int err = api->bandwidth(bytes, bytes_per_s);
    return !err ? CAIRN_OK
                : cairn_fail(why, err == DEVICE_NO_MEMORY ? CAIRN_ENOMEM : CAIRN_EDEVICE,
                             "bandwidth of the device: %s", api->error());
}

void device_refused(const char *model, const char *reason)
{
    CAIRN_LOG(MODEL, WARN, "device not used, the CPU computes model=%s reason=\"%s\"", model, reason);
}

const struct device_api *device_wanted(const struct model_opts *o, const char *model)
{
    struct cairn_why why = {{0}};
    if (o->backend != BACKEND_CUDA && o->backend != BACKEND_AUTO)
        return NULL;
    const struct device_api *api = device_find(&why);
    if (!api && o->backend == BACKEND_CUDA)
        device_refused(model, why.text);
    else if (!api)
        CAIRN_LOG(MODEL, DEBUG, "no device reason=\"%s\"", why.text);
    return api;
}
