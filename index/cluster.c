/* cluster.c - the border to FAISS: the only file that sees its names beside faiss_c.c (both have a
 * METRIC_L2).
 */
#include "cluster.h"

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/error_c.h>

enum cairn_err cluster_train(const float *x, uint32_t n, uint32_t dim, uint32_t k, float *centroids,
                             struct cairn_why *why)
{
    float error;
    int rc = faiss_kmeans_clustering(dim, n, k, x, centroids, &error);
    if (rc !=
        0) /* -4: what FAISS's wrapper gives for a C++ exception of the library, std::bad_alloc among them */
        return cairn_fail(why, rc == -4 ? CAIRN_ENOMEM : CAIRN_ESTATE, "clustering %u vectors into %u: %s", n,
                          k, faiss_get_last_error());
    return CAIRN_OK;
}
