#!/usr/bin/env python3
"""Train the encoder for claims: an overlay over the pair model that says which tokens of a claim its evidence does not
support, and whether the claim is.

Reads the claims that `cairn train grounding --claims FILE` writes (fold 0 is never trained on and is what is
measured) and, with --squad, questions of SQuAD 2.0 and their answers as statements: right answers, answers of other
questions, and questions without an answer. The articles in scripts/reader_heldout.txt are left out there. What the
encoder weighs beside the combiner is fitted on fold 0, so the rows "with" are read on the half of its texts that the
weights were not fitted on. Needs torch and tokenizers; seeded, so that the same machine gives the same file. On two
cores an epoch takes about a quarter of an hour.

    cairn train grounding --set DIR ... --edits DIR --n N --out FILE --claims claims.jsonl
    scripts/train_claims.py --claims claims.jsonl --squad DIR --model DIR --out claims.safetensors
"""

import argparse
import collections
import json
import os
import random
import re
import sys

import numpy as np
import torch
import torch.nn.functional as F

import overlay
from overlay import CLS, SEP, batches, lines, say

TOKENS_MAX = 256  # as generator/grey.c
CLAIM_TOKENS_MAX = 100
EVIDENCE_BYTES = 720
CLAIMS_MAX = 12  # of a text, as cairn/generator.h
MARKED_WEIGHT = 2.0
QUESTION = re.compile(
    r"^(in |on |at |by |for |from |to |with |of )?(what|which|who|whom|whose|when|where|why|how many|how much|how)\b(.*)$",
    re.I,
)
AUXILIARY = set("is are was were do does did has have had can could will would should".split())
DO = {"do", "does", "did"}
OWN_PREPOSITION = re.compile(r"(in|on|at|by|because|from|during|after|before|since|to)\b", re.I)


def statement(question, answer):
    """A question and its answer as a statement, roughly; None where no rule fits."""
    m = QUESTION.match(question.strip().rstrip("?").strip())
    if not m or not m.group(3).split():
        return None
    preposition, wh, rest = (m.group(1) or "").strip(), m.group(2).lower(), m.group(3).split()
    first = next((i for i, w in enumerate(rest[:5]) if w.lower() in AUXILIARY), None)
    text = None
    if wh in ("who", "what", "whom") and not preposition and first != 0:
        text = [answer, *rest]
    elif wh in ("who", "what") and not preposition and rest[0].lower() in ("is", "are", "was", "were"):
        text = [*rest[1:], rest[0], answer]
    elif wh in ("which", "what", "how many", "how much") and not preposition:
        counted = rest[:first] if wh.startswith("how") else []
        if first:
            text = [*rest[first + 1 :], "" if rest[first].lower() in DO else rest[first], answer, *counted]
        else:
            text = [answer, *(rest if wh.startswith("how") else rest[1:])]
    elif first is not None:
        before = preposition or {"why": "because", "how": "by"}.get(wh, "in")
        before = "" if OWN_PREPOSITION.match(answer) else before
        text = [*rest[first + 1 :], "" if rest[first].lower() in DO else rest[first], before, answer]
    text = " ".join(w for w in text or [] if w)
    return text[:1].upper() + text[1:] + "." if text else None


def kind(question):
    return next((k for k in ("who", "when", "where", "how many", "how much", "why", "how") if k in question.lower()), "")


def statements(a):
    """Claims from questions: a third supported by the passage, about."""
    passages = {p["_id"]: p["text"] for p in lines(os.path.join(a.squad, "passages.jsonl"))}
    questions = lines(os.path.join(a.squad, "questions.jsonl"))
    with open(a.heldout, encoding="utf-8") as f:
        heldout = set(f.read().split("\n")) - {""}
    by, rng, out = collections.defaultdict(list), random.Random(9), []
    for q in questions:
        by[q["passage_id"]].append(q)
    rng.shuffle(questions)
    for q in questions:
        if len(out) >= a.statements:
            break
        if q["passage_id"].rsplit("#", 1)[0] in heldout:
            continue
        right = bool(q["answers"]) and rng.random() < 0.7
        answer = q["answers"][0] if right else None
        if not right:
            true = {x.lower() for x in q["answers"]}
            others = [x for x in by[q["passage_id"]] if x["answers"] and x is not q]
            near = [x["answers"][0] for x in others if kind(x["question"]) == kind(q["question"])]
            near = [x for x in near or [x["answers"][0] for x in others] if not any(x.lower() in t or t in x.lower() for t in true)]
            answer = rng.choice(near) if near else None
        text = statement(q["question"], answer) if answer and len(answer) <= 80 else None
        if not text:
            continue
        at = text.find(answer)
        wrong = [[at, at + len(answer)]] if q["answers"] and at >= 0 else None
        out.append(
            {"set": "statements", "fold": 1, "claim": text, "evidence": passages[q["passage_id"]][:EVIDENCE_BYTES],
             "marks": [] if right else wrong, "label": int(not right)}
        )
    return out


def example(texts, row):
    ids, offsets = texts.encode(row["claim"])
    ids, offsets = ids[:CLAIM_TOKENS_MAX], offsets[:CLAIM_TOKENS_MAX]
    evidence = texts.encode(row["evidence"])[0][: TOKENS_MAX - 3 - len(ids)]
    y = np.array([any(s < e and t > b for b, e in row["marks"] or []) for s, t in offsets], np.float32)
    return {
        **row,
        "ids": [CLS] + ids + [SEP] + evidence + [SEP],
        "types": [0] * (len(ids) + 2) + [1] * (len(evidence) + 1),
        "n": len(ids),
        "y": y,
    }


def loss(batch, logits):
    tokens = []
    for j, e in enumerate(batch):
        if e["marks"] is not None and e["n"]:
            y = torch.from_numpy(e["y"])
            tokens.append(
                F.binary_cross_entropy_with_logits(
                    logits[j, 1 : 1 + e["n"], 0], y, weight=1 + (MARKED_WEIGHT - 1) * y
                )
            )
    label = torch.tensor([float(e["label"]) for e in batch])
    whole = F.binary_cross_entropy_with_logits(
        logits[:, 0, 1], label, weight=torch.tensor([e["weight"] for e in batch])
    )
    return whole + (2 * sum(tokens) / len(tokens) if tokens else 0)


# ---- beside the combiner


def log_odds(p):
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def auc(score, label):
    _, at, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[at]
    n = label.sum()
    return (rank[label == 1].sum() - n * (n + 1) / 2) / (n * (len(label) - n))


def fit(x, y, weight):
    """Logistic weights, the constant last; a little ridge on all but it. None may turn its sign."""
    x, w = np.c_[x, np.ones(len(x))], np.zeros(x.shape[1] + 1)
    free = np.ones(len(w), bool)
    for _ in range(len(w)):
        w[:] = 0
        for _ in range(30):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            ridge = np.r_[np.full(len(w) - 1, 1e-3 * weight.sum()), 0]
            slope = x.T @ (weight * (p - y)) + ridge * w
            curve = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-9)
            w[free] -= np.linalg.solve(curve[np.ix_(free, free)], slope[free])
        bad = (w < 0) & np.r_[np.ones(len(w) - 1, bool), False]
        if not bad.any():
            break
        free &= ~bad
        w[bad] = 0
    return w


def balanced(rows, y):
    count = collections.Counter((r["set"], v) for r, v in zip(rows, y))
    return np.array([1 / count[r["set"], v] for r, v in zip(rows, y)])


class Mix:
    """The sums of generator/grey.c. A claim keeps the combiner's chance: among sentences that people wrote as they
    liked, what the encoder adds to single claims cost more false alarms than it found. A text's sum is fitted."""

    def __init__(self, a, rows):
        self.low, self.high, self.cap = a.low, a.high, a.cap
        texts = [t for t in self.texts(rows) if t["seen"] is not None]
        y = np.array([int(t["positive"]) for t in texts])
        self.text = fit(np.array([[log_odds(t["chance"]), t["seen"]] for t in texts]), y, balanced(texts, y))

    def grey(self, r):
        return self.low <= r["p"] <= self.high

    def texts(self, rows):
        out, looked = {}, collections.Counter()
        for r in rows:
            if "p" not in r or r.get("whole"):
                continue
            key = (r["set"], r["text"])
            t = out.setdefault(key, {"set": r["set"], "chance": r["chance"], "positive": r["positive"], "seen": None})
            if self.grey(r) and looked[key] < CLAIMS_MAX:
                looked[key] += 1
                seen = min(r["by_cls"], self.cap)
                t["seen"] = seen if t["seen"] is None else max(t["seen"], seen)
        return list(out.values())

    def chance(self, t):
        z = log_odds(t["chance"])
        return z if t["seen"] is None else self.text[0] * z + self.text[1] * t["seen"] + self.text[2]

    def numbers(self):
        return torch.tensor([1, 0, 0, *self.text, self.low, self.high, self.cap], dtype=torch.float32)


def predict(model, rows, states):
    for batch in batches(rows, 16):
        with torch.no_grad():
            logits = model.logits(batch, states)
        for j, e in enumerate(batch):
            e["by_cls"] = float(logits[j, 0, 1])


def measure(a, test):
    """AUC by set: texts by the combiner, the encoder's largest claim, and both; weights from the other half."""
    halves = [[r for r in test if r["text"] % 2 == h] for h in (0, 1)]
    mixes = [Mix(a, halves[1 - h]) for h in (0, 1)]
    rows = collections.defaultdict(list)
    for h in (0, 1):
        for t in mixes[h].texts(halves[h]):
            rows[t["set"]].append((t["chance"], t["seen"] if t["seen"] is not None else -9, mixes[h].chance(t), t["positive"]))
    for name, x in sorted(rows.items()):
        x = np.array(x, float)
        grey = np.mean([mixes[0].grey(r) for r in test if r["set"] == name])
        say(
            f"{name}: {len(x)} texts, {100 * grey:.0f} % of claims grey; AUC combiner {auc(x[:, 0], x[:, 3]):.3f}, "
            f"encoder {auc(x[:, 1], x[:, 3]):.3f}, with {auc(x[:, 2], x[:, 3]):.3f}"
        )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("--claims", required=True, help="what cairn train grounding --claims wrote")
    p.add_argument("--squad", help="directory of SQuAD's passages.jsonl and questions.jsonl")
    p.add_argument("--model", required=True, help="directory of the pair model: card.json, model.safetensors, vocab.txt")
    p.add_argument("--out", required=True)
    p.add_argument("--resume", help="go on from this overlay; with --epochs 0 only its weights beside the combiner are fitted")
    p.add_argument("--heldout", default=os.path.join(here, "reader_heldout.txt"), help="articles of --squad left out")
    p.add_argument("--statements", type=int, default=2500)
    p.add_argument("--trained-on", default="not stated", help="sets and licences, for the file")
    p.add_argument("--freeze", type=int, default=8, help="lower layers left as they are")
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--low", type=float, default=0.05, help="claims of a lower chance to be unsupported are not looked at")
    p.add_argument("--high", type=float, default=0.95)
    p.add_argument("--cap", type=float, default=1.5, help="the most that the encoder's log-odds of a claim count")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    with open(os.path.join(a.model, "card.json"), encoding="utf-8") as f:
        card = json.load(f)
    texts, rows = overlay.Texts(os.path.join(a.model, "vocab.txt")), lines(a.claims)
    test = [example(texts, r) for r in rows if r["fold"] == 0]
    rows = [r for r in rows if r["fold"] != 0 and r["label"] is not None] + (statements(a) if a.squad else [])
    train = [e for e in (example(texts, r) for r in rows) if e["n"]] if a.epochs else []
    count = collections.Counter((e["set"], e["label"]) for e in train)
    for e in train:
        e["weight"] = min(2.5, 0.5 * (count[e["set"], 0] + count[e["set"], 1]) / count[e["set"], e["label"]])
    say(len(train), "claims to train on,", len(test), "to test;", sorted(count.items()))
    model = overlay.Model(a.model, "claims", card["n_head"], a.freeze, a.rank)
    if a.resume:
        model.read(a.resume)
    states, test_states = model.frozen(train), model.frozen(test)

    def after_epoch():
        predict(model, test, test_states)
        measure(a, test)
        mix = Mix(a, test)
        say("claims.mix", [round(x, 3) for x in mix.numbers().tolist()])
        model.write(
            a.out, card["sha256"], {"task": "claims", "trained_on": a.trained_on}, {"claims.mix": mix.numbers()}
        )

    if a.epochs:
        model.fit(train, states, loss, a.epochs, a.rate, a.batch, after_epoch)
    else:
        after_epoch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
