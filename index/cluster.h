/* cluster.h - k-means over FAISS's C API (libfaiss_c, or faiss_c.c where it is absent). */
#ifndef CAIRN_INDEX_CLUSTER_H
#define CAIRN_INDEX_CLUSTER_H

#include <cairn/base.h>

/* x: [n][dim], finite; centroids: [k][dim] out; n >= k >= 1. */
CAIRN_MUST_USE enum cairn_err cluster_train(const float *x, uint32_t n, uint32_t dim, uint32_t k,
                                            float *centroids, struct cairn_why *why);

#endif
