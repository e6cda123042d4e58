/* device_host.h - the program's side of device.h: finding the module, and a decoder whose steps run on it. */
#ifndef CAIRN_MODEL_DEVICE_HOST_H
#define CAIRN_MODEL_DEVICE_HOST_H

#include "device.h"
#include "ops.h"

/* The module of this process, looked for once: $CAIRN_CUDA_MODULE, beside the program, in ../lib/cairn from
 * there, then where libraries are found. It stays loaded. NULL: none, and why says what is missing. */
const struct device_api *device_find(struct cairn_why *why);
/* The same from one file, each time anew (tests). */
CAIRN_MUST_USE enum cairn_err device_load(const struct device_api **out, const char *path,
                                          struct cairn_why *why);
/* NULL when the options do not ask for a device, or none is there: logged once. */
const struct device_api *device_wanted(const struct model_opts *o, const char *model);
/* A model that was to run on the device runs on the CPU: the log's line. */
void device_refused(const char *model, const char *reason);

static inline struct device_matrix device_matrix_of(const struct weight *w)
{
    return (struct device_matrix){
        .type = (uint32_t)w->type, .n = (uint32_t)w->n, .k = (uint32_t)w->k, .bytes = w->bytes};
}

struct decoder;
/* Gives the decoder a device, or logs why it has none. Its weights, pages and rooms are there already. */
void decoder_device_open(struct decoder *d, const struct model_opts *o);
void decoder_device_close(struct decoder *d);
bool decoder_on_device(const struct decoder *d);
/* A checked step whose pages are taken; the decoder's lock is held. False: the device failed and is given up;
 * its sequences' keys and values are gone, and whoever steps one computes it again. */
CAIRN_MUST_USE bool decoder_device_step(struct decoder *d, const struct decoder_item *items, size_t n_items,
                                        float *logits);

#endif
