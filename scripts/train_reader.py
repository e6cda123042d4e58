#!/usr/bin/env python3
"""Train the span reader: an overlay over the pair model that finds the short answer in a run of sentences.

Reads SQuAD 2.0 (passages.jsonl, questions.jsonl) and QED (qed.jsonl); the articles named in
scripts/reader_heldout.txt are never trained on and are what is measured. The lower layers stay as they are, the
upper ones get low-rank changes, biases and norms of their own; the two output rows are new. Needs torch and
tokenizers; seeded, so that the same machine gives the same file. On two cores an epoch takes some minutes.

    scripts/train_reader.py --squad DIR --qed DIR --model DIR --out reader.safetensors
"""

import argparse
import collections
import json
import math
import os
import random
import re
import sys

import numpy as np
import torch
import torch.nn.functional as F

import overlay
from overlay import CLS, SEP, batches, lines, say

RUN_TOKENS = 96  # as generator/reader.c
QUESTION_TOKENS_MAX = 60
TOKENS_MAX = 320
ANSWER_TOKENS_MAX = 20
STOP = set(
    "what who when where which how did does do was were is are the a an of in to for and on at by with that from as it "
    "its his her their be been has have had".split()
)
WORD = re.compile(r"[a-z0-9]+")
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])|\n+")


def words(text):
    return WORD.findall(text.lower())


def stems(text):
    return {w[:6] for w in words(text)}


class Lexical:
    """BM25 over passages, for passages that look right and are wrong."""

    def __init__(self, passages):
        self.ids = list(passages)
        self.tf = [
            collections.Counter(w[:6] for w in words(passages[i]["title"] + " " + passages[i]["text"])) for i in self.ids
        ]
        self.df = collections.Counter()
        self.inverted = collections.defaultdict(list)
        for i, tf in enumerate(self.tf):
            self.df.update(tf.keys())
            for w, c in tf.items():
                self.inverted[w].append((i, c))
        self.length = [sum(tf.values()) for tf in self.tf]
        self.average = sum(self.length) / len(self.length)

    def top(self, question, k):
        score = collections.Counter()
        n = len(self.ids)
        for w in sorted(stems(question)):
            if w in self.df:
                idf = math.log(1 + (n - self.df[w] + 0.5) / (self.df[w] + 0.5))
                for i, c in self.inverted[w]:
                    score[i] += idf * c * 1.9 / (c + 0.9 * (0.6 + 0.4 * self.length[i] / self.average))
        return [self.ids[i] for i, _ in score.most_common(k)]


class Texts(overlay.Texts):
    def runs(self, text):
        """Runs of whole sentences of at most RUN_TOKENS tokens, as generator/reader.c cuts them."""
        at, cuts = 0, []
        for m in SENTENCE.finditer(text):
            cuts.append((at, m.start()))
            at = m.end()
        if at < len(text):
            cuts.append((at, len(text)))
        cuts = [c for c in cuts if text[c[0] : c[1]].strip()]
        n = [len(self.encode(text[b:e])[0]) for b, e in cuts]
        out, i = [], 0
        while i < len(cuts):
            j, total = i, 0
            while j < len(cuts) and (j == i or total + n[j] <= RUN_TOKENS):
                total += n[j]
                j += 1
            out.append(text[cuts[i][0] : cuts[j - 1][1]])
            if j >= len(cuts):
                break
            i = j - 1 if j - 1 > i and n[j - 1] + n[j] <= RUN_TOKENS else j
        return out

    def example(self, question, text, answers):
        q = self.encode(question)[0][:QUESTION_TOKENS_MAX]
        ids, offsets = self.encode(text)
        room = TOKENS_MAX - len(q) - 3
        ids, offsets = ids[:room], offsets[:room]
        first = len(q) + 2
        span, best, asked = (0, 0), None, set(words(question))
        for a in answers:
            start = text.find(a)
            while start >= 0:
                near = text[max(0, start - 120) : start + len(a) + 120]
                score = len(asked & set(words(near))) - 0.001 * len(a)
                if best is None or score > best[0]:
                    best = (score, start, start + len(a))
                start = text.find(a, start + 1)
        if best:
            begin = [i for i, (_, e) in enumerate(offsets) if e > best[1]]
            end = [i for i, (b, _) in enumerate(offsets) if b < best[2]]
            if begin and end and end[-1] >= begin[0]:
                span = (first + begin[0], first + end[-1])
        return {
            "ids": [CLS] + q + [SEP] + ids + [SEP],
            "types": [0] * first + [1] * (len(ids) + 1),
            "first": first,
            "span": span,
            "offsets": offsets,
            "text": text,
            "answers": answers,
        }


def gather(a, texts, heldout):
    passages = {p["_id"]: p for p in lines(os.path.join(a.squad, "passages.jsonl"))}
    questions = lines(os.path.join(a.squad, "questions.jsonl"))
    lexical, rng = Lexical(passages), random.Random(2)
    rng.shuffle(questions)
    train, test, asked = [], [], 0
    for q in questions:
        text, answers = q["question"], q["answers"]
        runs = texts.runs(passages[q["passage_id"]]["text"])
        overlap = [sum(w[:6] in stems(r) for w in set(words(text)) - STOP) for r in runs]
        order = sorted(range(len(runs)), key=lambda i: -overlap[i])
        if q["passage_id"].rsplit("#", 1)[0] in heldout:
            if asked < a.test:
                test += [dict(texts.example(text, r, answers), question=asked) for r in runs]
                asked += 1
            continue
        if not answers:
            train.append(texts.example(text, runs[order[0]], []))
            continue
        has = [i for i in order if any(x in runs[i] for x in answers)]
        if not has:
            continue
        train.append(texts.example(text, runs[has[0]], answers))
        draw, rest = rng.random(), [i for i in order if i not in has]
        if draw < a.wrong_runs / 2 and rest:  # another run of the same passage
            train.append(texts.example(text, runs[rest[0]], []))
        elif draw < a.wrong_runs:  # a run of a passage that retrieval would bring
            others = [x for x in lexical.top(text, 5) if x != q["passage_id"]]
            if others:
                other = texts.runs(passages[rng.choice(others[:3])]["text"])
                other = [r for r in other if not any(x in r for x in answers)]
                if other:
                    near = max(other, key=lambda r: sum(w[:6] in stems(r) for w in set(words(text)) - STOP))
                    train.append(texts.example(text, near, []))
    for d in lines(os.path.join(a.qed, "qed.jsonl"))[: a.qed_records]:
        answers = [x if isinstance(x, str) else x.get("text", "") for x in d["answers"]]
        has = [r for r in texts.runs(d["passage"]) if any(x in r for x in answers)] if answers else []
        e = texts.example(d["question"], has[0], answers) if has else None
        if e and e["span"] != (0, 0):
            train.append(e)
    return train, test


class Reader(overlay.Model):
    def logits(self, batch, states):
        """Only [CLS] and the run can be chosen."""
        x = super().logits(batch, states)
        known = torch.zeros(x.shape[:2], dtype=torch.bool)
        known[:, 0] = True
        for j, e in enumerate(batch):
            known[j, e["first"] : len(e["ids"]) - 1] = True
        return x.masked_fill(~known[:, :, None], -1e4)


def loss(batch, logits):
    span = torch.tensor([e["span"] for e in batch])
    return (F.cross_entropy(logits[:, :, 0], span[:, 0]) + F.cross_entropy(logits[:, :, 1], span[:, 1])) / 2


def tokens_of(text):
    text = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(gold, answer):
    x, y = tokens_of(gold), tokens_of(answer)
    if not x or not y:
        return float(x == y)
    same = sum((collections.Counter(x) & collections.Counter(y)).values())
    return 2 * same / (len(x) + len(y))


def measure(model, test, states):
    """Runs of the right passage: F1 when forced to answer; at the margin that refuses 15 % of the answerable
    questions, F1 and the share of the unanswerable that are refused; AUC of the margin."""
    best = {}
    for batch in batches(test, 32):
        with torch.no_grad():
            logits = model.logits(batch, states).numpy()
        for e, lo in zip(batch, logits):
            begin, end = (lo[e["first"] : len(e["ids"]) - 1, k] for k in (0, 1))
            pairs = [
                (begin[i] + end[j], i, j)
                for i in np.argsort(-begin)[:20]
                for j in range(i, min(i + ANSWER_TOKENS_MAX, len(end)))
            ]
            score, i, j = max(pairs)
            miss = float(lo[0, 0] + lo[0, 1] - score)
            if e["question"] not in best or miss < best[e["question"]][0]:
                text = e["text"][e["offsets"][i][0] : e["offsets"][j][1]]
                best[e["question"]] = (miss, max((f1(g, text) for g in e["answers"]), default=None))
    yes = [x for x in best.values() if x[1] is not None]
    no = [x[0] for x in best.values() if x[1] is None]
    cut = sorted(x[0] for x in yes)[int(0.85 * len(yes))]
    auc = np.mean([(n > y[0]) + 0.5 * (n == y[0]) for n in no for y in yes])
    say(
        f"{len(best)} questions: F1 {np.mean([x[1] for x in yes]):.3f}; refusing 15 %: "
        f"F1 {np.mean([x[1] if x[0] < cut else 0 for x in yes]):.3f}, right refusals {np.mean([n >= cut for n in no]):.3f}; "
        f"AUC {auc:.3f}"
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("--squad", required=True, help="directory of SQuAD's passages.jsonl and questions.jsonl")
    p.add_argument("--qed", required=True, help="directory of qed.jsonl")
    p.add_argument("--model", required=True, help="directory of the pair model: card.json, model.safetensors, vocab.txt")
    p.add_argument("--out", required=True)
    p.add_argument("--resume", help="go on from this overlay")
    p.add_argument("--heldout", default=os.path.join(here, "reader_heldout.txt"), help="articles left out, one a line")
    p.add_argument("--freeze", type=int, default=8, help="lower layers left as they are")
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--epochs", type=float, default=2)
    p.add_argument("--rate", type=float, default=8e-4)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--wrong-runs", type=float, default=0.6, help="runs without the answer for each question with one")
    p.add_argument("--qed-records", type=int, default=400)
    p.add_argument("--test", type=int, default=400, help="questions of the articles left out that are measured")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    with open(os.path.join(a.model, "card.json"), encoding="utf-8") as f:
        card = json.load(f)
    with open(a.heldout, encoding="utf-8") as f:
        heldout = set(f.read().split("\n")) - {""}
    train, test = gather(a, Texts(os.path.join(a.model, "vocab.txt")), heldout)
    say(len(train), "runs to train on,", sum(e["span"] == (0, 0) for e in train), "without an answer;", len(test), "to test")
    model = Reader(a.model, "reader", card["n_head"], a.freeze, a.rank)
    if a.resume:
        model.read(a.resume)
    states, test_states = model.frozen(train), model.frozen(test)

    def after_epoch():
        measure(model, test, test_states)
        model.write(
            a.out,
            card["sha256"],
            {
                "task": "span reader",
                "trained_on": "SQuAD 2.0 (CC BY-SA 4.0) but for the articles left out; QED, first "
                f"{a.qed_records} records (CC BY-SA 3.0, GFDL)",
                "left_out": ", ".join(sorted(heldout)),
            },
        )

    model.fit(train, states, loss, a.epochs, a.rate, a.batch, after_epoch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
