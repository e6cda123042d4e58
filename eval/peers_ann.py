"""Peers of `cairn bench index`: hnswlib, faiss-cpu and usearch as PyPI gives them, and the set of real text.

    peers_ann.py lsa BASE.npy QUERY.npy
    peers_ann.py run PEER BASE.npy QUERY.npy TRUTH.npy INDEX_FILE OUT.json

`run` builds the index with two threads when INDEX_FILE is not there (build_cpu_s, build_wall_s), opens it
(open_ms, with a first answer) and sweeps its search width on one thread. A setting is timed two ways: one query a
call, three passes, each query's least time; and one call with all queries, the best of three. The faster of the
two is the peer's QPS, so that Python's cost of a call is not held against it. p50 and p99 are of single calls.
"""
import json
import os
import re
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import numpy as np

WIDTHS = [10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 200, 320, 640]
PROBES = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
K, LINKS, EF_BUILD, PASSES, ENOUGH = 10, 16, 200, 3, 0.9965
TIME_MAX_S = 100.0  # of one sweep: a slow peer stops here


def cpu_s():
    t = os.times()
    return t.user + t.system


class Hnswlib:
    widths = WIDTHS

    def __init__(self, dim, n):
        import hnswlib
        self.dim, self.n = dim, n
        self.ix = hnswlib.Index(space="ip", dim=dim)

    def build(self, base, path):
        self.ix.init_index(max_elements=self.n, M=LINKS, ef_construction=EF_BUILD, random_seed=100)
        self.ix.add_items(base, np.arange(self.n), num_threads=2)
        self.ix.save_index(path)

    def open(self, path):
        self.ix.load_index(path, max_elements=self.n)
        self.ix.set_num_threads(1)

    def width(self, w):
        self.ix.set_ef(w)
        return f"ef={w}"

    def one(self, q):
        return self.ix.knn_query(q, k=K, num_threads=1)[0]

    many = one


class Faiss:
    def __init__(self, dim, n, factory):
        import faiss
        self.faiss, self.dim, self.n, self.factory = faiss, dim, n, factory
        self.widths = PROBES if "IVF" in factory else WIDTHS
        self.name = "nprobe" if "IVF" in factory else "efSearch"
        self.refine = 10 if "PQ" in factory else 4

    def build(self, base, path):
        f = self.faiss
        f.omp_set_num_threads(2)
        ix = f.index_factory(self.dim, self.factory, f.METRIC_INNER_PRODUCT)
        if "HNSW" in self.factory:
            f.ParameterSpace().set_index_parameter(ix, "efConstruction", EF_BUILD)
        ix.train(base)
        ix.add(base)
        f.write_index(ix, path)

    def open(self, path):
        self.faiss.omp_set_num_threads(1)
        self.ix = self.faiss.read_index(path)
        self.space = self.faiss.ParameterSpace()
        if "RFlat" in self.factory:
            self.space.set_index_parameter(self.ix, "k_factor_rf", self.refine)

    def width(self, w):
        self.space.set_index_parameter(self.ix, self.name, w)
        return f"{self.name}={w}"

    def one(self, q):
        return self.ix.search(q, K)[1]

    many = one


class Usearch:
    widths = WIDTHS

    def __init__(self, dim, n, dtype):
        from usearch.index import Index
        self.n = n
        self.ix = Index(ndim=dim, metric="ip" if dtype == "f32" else "cos", dtype=dtype, connectivity=LINKS,
                        expansion_add=EF_BUILD)

    def build(self, base, path):
        self.ix.add(np.arange(self.n, dtype=np.uint64), base, threads=2)
        self.ix.save(path)

    def open(self, path):
        self.ix.load(path)

    def width(self, w):
        self.ix.expansion_search = w
        return f"ef={w}"

    def one(self, q):
        return self.ix.search(q[0], K, threads=1).keys[None, :]

    def many(self, q):
        return self.ix.search(q, K, threads=1).keys


def peer(name, dim, n):
    lists = 1024 if n >= 150000 else 256
    parts = dim // 4  # four values a sub-quantizer
    known = {
        "hnswlib": lambda: Hnswlib(dim, n),
        "faiss-hnsw": lambda: Faiss(dim, n, f"HNSW{LINKS},Flat"),
        "faiss-hnsw-sq8": lambda: Faiss(dim, n, f"HNSW{LINKS}_SQ8,RFlat"),
        "faiss-ivf-pq": lambda: Faiss(dim, n, f"IVF{lists},PQ{parts}x4fs,RFlat"),
        "usearch-f32": lambda: Usearch(dim, n, "f32"),
        "usearch-i8": lambda: Usearch(dim, n, "i8"),
    }
    if name not in known:
        sys.exit(f"unknown peer {name}; one of {', '.join(known)}")
    return known[name]()


def recall(truth, got):
    """Missing answers come back as huge or negative ids and match nothing."""
    got = np.asarray(got).astype(np.int64)
    return float((truth[:, :, None] == got[:, None, :]).any(axis=2).sum() / truth.size)


def sweep(p, query, truth):
    runs, begun = [], time.monotonic()
    rows = [np.ascontiguousarray(query[i:i + 1]) for i in range(len(query))]
    clock = time.perf_counter_ns
    for w in p.widths:
        setting = p.width(w)
        least = np.full(len(rows), 1 << 62, np.int64)
        total, got, batch = 0, [], 1 << 62
        for i in range(PASSES):
            got = []
            for j, q in enumerate(rows):
                a = clock()
                r = p.one(q)
                t = clock() - a
                total += t
                if t < least[j]:
                    least[j] = t
                got.append(r[0])
            a = clock()
            p.many(query)
            batch = min(batch, clock() - a)
        wide = np.full((len(rows), K), -1, np.int64)
        for j, r in enumerate(got):
            wide[j, :len(r)] = r[:K]
        single = len(rows) * 1e9 / float(least.sum())
        runs.append({
            "setting": setting,
            "recall": recall(truth, wide),
            "qps": max(single, len(rows) * 1e9 / batch),
            "single_qps": single,
            "mean_qps": PASSES * len(rows) * 1e9 / total,
            "p50_us": float(np.percentile(least, 50)) / 1e3,
            "p99_us": float(np.percentile(least, 99)) / 1e3,
        })
        if runs[-1]["recall"] > ENOUGH or time.monotonic() - begun > TIME_MAX_S:
            break
    return runs


def run(name, base_path, query_path, truth_path, index_path, out_path):
    base = np.load(base_path, mmap_mode="r")
    query, truth = np.load(query_path), np.load(truth_path)
    query = np.ascontiguousarray(query[:len(truth)])
    note = index_path + ".json"
    if not (os.path.exists(index_path) and os.path.exists(note)):
        p = peer(name, base.shape[1], base.shape[0])
        rows = np.ascontiguousarray(base)
        wall, cpu = time.monotonic(), cpu_s()
        p.build(rows, index_path)
        built = {"build_cpu_s": cpu_s() - cpu, "build_wall_s": time.monotonic() - wall}
        del p, rows
        with open(note, "w") as f:
            json.dump(built, f)
    with open(note) as f:
        result = json.load(f)
    begun = time.monotonic()
    p = peer(name, base.shape[1], base.shape[0])
    p.open(index_path)
    p.width(10)
    p.one(np.ascontiguousarray(query[:1]))
    result["open_ms"] = (time.monotonic() - begun) * 1e3
    result["bytes_per_vector"] = os.path.getsize(index_path) / base.shape[0]
    result["runs"] = sweep(p, query, truth)
    with open(out_path, "w") as f:
        json.dump(result, f)


def lsa(base_path, query_path):
    """TF-IDF and SVD of the descriptions of all packages the system's lists know; held-out packages ask."""
    try:
        text = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        sys.exit("the set lsa needs apt-cache (Debian): it is made of the packages' descriptions")
    docs = {}
    for block in text.split("\n\n"):
        name = re.search(r"^Package: (.*)$", block, re.M)
        words = re.search(r"^Description(?:-en)?: (.*(?:\n .*)*)", block, re.M)
        if name and words:
            docs[name.group(1)] = words.group(1)
    if len(docs) < 20000:
        sys.exit(f"the set lsa needs the package lists: apt-cache knows {len(docs)} descriptions; run `apt-get update`")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd
    keys = sorted(docs)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.2, max_features=120000,
                            token_pattern=r"[A-Za-z][A-Za-z0-9+]{1,}")
    x = words.fit_transform([docs[k] + " " + k.replace("-", " ") for k in keys])
    _, _, v = randomized_svd(x, 384, n_iter=3, random_state=1)
    e = (x @ v.T).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True) + 1e-12
    e = e[np.linalg.norm(e, axis=1) > 0.5]
    _, first = np.unique(np.round(e, 5), axis=0, return_index=True)
    e = e[np.sort(first)]
    order = np.random.default_rng(3).permutation(len(e))
    for path, part in ((query_path, order[:2000]), (base_path, order[2000:])):
        np.save(path + ".partial.npy", np.ascontiguousarray(e[part]))
        os.replace(path + ".partial.npy", path)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "lsa":
        lsa(*sys.argv[2:])
    elif len(sys.argv) == 8 and sys.argv[1] == "run":
        run(*sys.argv[2:])
    else:
        sys.exit(__doc__)
