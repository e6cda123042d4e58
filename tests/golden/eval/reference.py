"""Expected values for tests/unit/test_eval_metrics.c and test_eval_squad.c.

    pip install pytrec-eval-terrier       # wheels of pytrec_eval with trec_eval 9 inside; pytrec_eval itself fetches it while building
    python3 tests/golden/eval/reference.py tests/golden/eval

writes metrics.txt and squad.txt there. The random cases come from a seeded generator that both sides have, so only the expected
numbers are stored. metrics.txt: a line for each of 1,000 random runs: queries judged, queries judged and retrieved, then the sums over
queries of MEASURES by trec_eval. squad.txt: the hash of the normalisation of every code point up to U+10EBF, then for each of 5,000 random pairs
exact match and F1 as SQuAD's evaluate-v2.0 defines them (written down again here from its published definition).
"""
import collections
import hashlib
import re
import string
import sys
from pathlib import Path

RUNS, PAIRS, M64 = 1000, 5000, (1 << 64) - 1
MEASURES = "ndcg ndcg@5 ndcg@10 recall@5 recall@20 map map@10 mrr mrr@5 P@5 P@20 success@1 success@5".split()


class Rand:
    """xorshift64*, as test_rand() in tests/check.h."""

    def __init__(self, seed):
        self.s = seed

    def below(self, n):
        s = self.s
        s ^= s >> 12
        s = (s ^ (s << 25)) & M64
        s ^= s >> 27
        self.s = s
        return (s * 0x2545F4914F6CDD1D & M64) % n


# ---- retrieval ----

FORMS = ["d%u", "D-%u", "%u", "\u00e9%u", "d%u.0", "\U00010400%u"]


def random_case(i):
    r = Rand(0x9E3779B97F4A7C15 + i)
    qrels, run = {}, {}
    for q in range(1 + r.below(4)):
        name = "q%u" % q
        if r.below(10):
            qrels[name] = {}
        if r.below(10):
            run[name] = {}
        for d in range(r.below(60)):
            doc = FORMS[r.below(len(FORMS))] % d
            judged, rel = r.below(3), r.below(6)
            found, score, nudge = r.below(2), r.below(8), r.below(4)
            if name in qrels and judged == 0:
                # trec_eval 9 may not return from a query that has only negative judgements: the first is never one
                qrels[name][doc] = rel - 1 if qrels[name] else max(rel - 1, 0)
            if name in run and found:
                # many are equal. All are exact as floats: this trec_eval compares scores as floats, cairn as doubles
                run[name][doc] = score / 4.0 - 1.0 + (1.0 / 1024 if nudge == 0 else 0.0)
    return {q: d for q, d in qrels.items() if d}, run


def order(docs):
    return sorted(docs, key=lambda d: (docs[d], d.encode()), reverse=True)


def metrics_lines():
    import pytrec_eval

    names = {m: m.replace("mrr", "recip_rank").replace("@", "_") for m in MEASURES}
    for m in ("ndcg@5", "ndcg@10", "map@10"):
        names[m] = m.replace("@", "_cut_")
    want = {"ndcg", "ndcg_cut.5,10", "recall.5,20", "map", "map_cut.10", "recip_rank", "P.5,20", "success.1,5"}
    for i in range(RUNS):
        qrels, run = random_case(i)
        cut = {q: {d: docs[d] for d in order(docs)[:5]} for q, docs in run.items()}  # trec_eval has no mrr@k
        values = pytrec_eval.RelevanceEvaluator(qrels, want).evaluate(run) if qrels else {}
        values5 = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(cut) if qrels else {}
        both = [q for q in qrels if q in run]
        sums = []
        for m in MEASURES:
            source = values5 if m == "mrr@5" else values
            key = "recip_rank" if m == "mrr@5" else names[m]
            sums.append(sum(source[q][key] for q in both if q in source))
        yield "%d %d %s" % (len(qrels), len(both), " ".join(("%.11f" % s).rstrip("0").rstrip(".") for s in sums))


# ---- answers ----


def normalize(s):
    s = s.lower()
    s = "".join(c for c in s if c not in set(string.punctuation))
    s = re.sub(r"\b(a|an|the)\b", " ", s, flags=re.UNICODE)
    return " ".join(s.split())


def f1(gold, answer):
    g, a = normalize(gold).split(), normalize(answer).split()
    if not g or not a:
        return float(g == a)
    same = sum((collections.Counter(g) & collections.Counter(a)).values())
    if same == 0:
        return 0.0
    p, r = same / len(a), same / len(g)
    return 2 * p * r / (p + r)


WORDS = ["Oslo", "oslo", "THEN", "then", "anna", "2,000", "U.S.", "well-known", "it's", "a_b", "x", "Banana"]
ARTICLES = ["a", "an", "the", "A", "An", "THE"]
GREEK = ["\u039f\u0394\u039f\u03a3", "\u03a3", "\u03a3\u0391\u03a3", "\u039f\u03a3.", "\u0391\u03a3'\u0391", "\u03b1\u03a3\u0301"]
GAPS = [" ", "  ", "\u00a0", ".", "", ", ", "\u2003", "\t"]
RANGES = [
    (0x20, 0x7E), (0xA1, 0x17F), (0x180, 0x24F), (0x2B0, 0x36F), (0x370, 0x377), (0x386, 0x3FF), (0x400, 0x52F), (0x531, 0x556),
    (0x5D0, 0x5EA), (0x660, 0x669), (0x10A0, 0x10C5), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2150, 0x218B), (0x2460, 0x24FF),
    (0x3000, 0x30FF), (0x4E00, 0x4EFF), (0xFF01, 0xFF5E), (0x10400, 0x1044F), (0x1F130, 0x1F18F), (0x1F600, 0x1F64F),
]


def token(r):
    kind = r.below(8)
    if kind == 0:
        return ARTICLES[r.below(len(ARTICLES))]
    if kind == 1:
        return "%u" % r.below(30)
    if kind == 2:
        return GREEK[r.below(len(GREEK))]
    if kind < 5:
        out = ""
        for _ in range(1 + r.below(4)):
            lo, hi = RANGES[r.below(len(RANGES))]
            out += chr(lo + r.below(hi - lo + 1))
        return out
    return WORDS[r.below(len(WORDS))]


def random_pair(i):
    r = Rand(0xD1B54A32D192ED03 + i)
    gold = answer = ""
    for _ in range(r.below(7)):
        t = token(r)
        gap = GAPS[r.below(len(GAPS))]
        gold += t + gap
        if r.below(3):
            answer += t + GAPS[r.below(len(GAPS))]
        elif r.below(2):
            answer += token(r) + " "
    return gold, answer


def all_points_hash():
    """Of the code points that Unicode 14 (this Python) and 15 (utf8proc 2.8) know alike."""
    h = hashlib.blake2b(digest_size=32)
    for c in range(1, 0x10EC0):
        if not 0xD800 <= c <= 0xDFFF and c not in (0xCF3, 0xECE):
            h.update(normalize("\u0391%sa \u03a3%s" % (chr(c), chr(c))).encode() + b"\n")
    return h.hexdigest()


def squad_lines():
    yield all_points_hash()
    for i in range(PAIRS):
        gold, answer = random_pair(i)
        yield "%d %s" % (normalize(gold) == normalize(answer), ("%.11f" % f1(gold, answer)).rstrip("0").rstrip("."))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    (out / "squad.txt").write_text("\n".join(squad_lines()) + "\n")
    (out / "metrics.txt").write_text("\n".join(metrics_lines()) + "\n")
