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
import struct
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer

RUN_TOKENS = 96  # as generator/reader.c
QUESTION_TOKENS_MAX = 60
TOKENS_MAX = 320
ANSWER_TOKENS_MAX = 20
CLS, SEP = 101, 102
LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
STOP = set(
    "what who when where which how did does do was were is are the a an of in to for and on at by with that from as it "
    "its his her their be been has have had".split()
)
WORD = re.compile(r"[a-z0-9]+")
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])|\n+")


def say(*x):
    print(time.strftime("%H:%M:%S"), *x, flush=True)


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f]


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


class Texts:
    def __init__(self, vocab):
        self.tokenizer = BertWordPieceTokenizer(vocab, lowercase=True)
        self.known = {}

    def encode(self, text):
        if text not in self.known:
            e = self.tokenizer.encode(text, add_special_tokens=False)
            self.known[text] = (e.ids, e.offsets)
        return self.known[text]

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


class Model:
    def __init__(self, path, n_head, freeze, rank):
        self.base, self.n_head = self.load(os.path.join(path, "model.safetensors")), n_head
        self.dim = self.base["embeddings.LayerNorm.weight"].shape[0]
        self.layers = 0
        while f"encoder.layer.{self.layers}.output.dense.weight" in self.base:
            self.layers += 1
        self.freeze, self.own, self.low = freeze, {}, {}
        g = torch.Generator().manual_seed(3)
        for i in range(freeze, self.layers):
            p = f"encoder.layer.{i}."
            for n in LINEAR:
                w = self.base[p + n + ".weight"]
                self.low[p + n] = (
                    torch.nn.Parameter(torch.randn(rank, w.shape[1], generator=g) / w.shape[1] ** 0.5),
                    torch.nn.Parameter(torch.zeros(w.shape[0], rank)),
                )
                self.own[p + n + ".bias"] = torch.nn.Parameter(self.base[p + n + ".bias"].clone())
            for n in ("attention.output.LayerNorm", "output.LayerNorm"):
                for part in (".weight", ".bias"):
                    self.own[p + n + part] = torch.nn.Parameter(self.base[p + n + part].clone())
        self.head = torch.nn.Parameter(torch.randn(2, self.dim, generator=g) * 0.02)
        self.bias = torch.nn.Parameter(torch.zeros(2))

    @staticmethod
    def load(path):
        with open(path, "rb") as f:
            (n,) = struct.unpack("<Q", f.read(8))
            header, body = json.loads(f.read(n)), f.read()
        out = {}
        for k, v in header.items():
            if k != "__metadata__":
                b, e = v["data_offsets"]
                t = torch.frombuffer(bytearray(body[b:e]), dtype=torch.float32).reshape(v["shape"])
                out[k.removeprefix("bert.")] = t
        return out

    def at(self, name):
        return self.own.get(name, self.base.get(name))

    def linear(self, x, p):
        w = self.at(p + ".weight")
        if p in self.low:
            a, b = self.low[p]
            w = w + b @ a
        return F.linear(x, w, self.at(p + ".bias"))

    def norm(self, x, p):
        return F.layer_norm(x.float(), (self.dim,), self.at(p + ".weight"), self.at(p + ".bias"), 1e-12)

    def layer(self, x, i, mask):
        p, (rows, n, _) = f"encoder.layer.{i}.", x.shape
        q, k, v = (
            self.linear(x, p + "attention.self." + part).view(rows, n, self.n_head, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        o = o.transpose(1, 2).reshape(rows, n, self.dim)
        x = self.norm(x + self.linear(o, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        inner = F.gelu(self.linear(x, p + "intermediate.dense"))
        return self.norm(x + self.linear(inner, p + "output.dense"), p + "output.LayerNorm")

    def frozen(self, examples):
        """Outputs of the lower layers, once: float16 rows of all tokens."""
        for at, e in zip(np.cumsum([0] + [len(e["ids"]) for e in examples]), examples):
            e["at"] = int(at)
        out = np.zeros((sum(len(e["ids"]) for e in examples), self.dim), np.float16)
        for batch in batches(examples, 32):
            lens = [len(e["ids"]) for e in batch]
            n = max(lens)
            ids = torch.tensor([e["ids"] + [0] * (n - len(e["ids"])) for e in batch])
            types = torch.tensor([e["types"] + [0] * (n - len(e["types"])) for e in batch])
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.base["embeddings.word_embeddings.weight"][ids]
                x = x + self.base["embeddings.position_embeddings.weight"][:n]
                x = self.norm(x + self.base["embeddings.token_type_embeddings.weight"][types], "embeddings.LayerNorm")
                mask = attention_mask(lens, n)
                for i in range(self.freeze):
                    x = self.layer(x, i, mask)
            for j, e in enumerate(batch):
                out[e["at"] : e["at"] + lens[j]] = x[j, : lens[j]].float().numpy()
        return out

    def logits(self, batch, states):
        lens = [len(e["ids"]) for e in batch]
        n = max(lens)
        x, known = torch.zeros(len(batch), n, self.dim), torch.zeros(len(batch), n, dtype=torch.bool)
        known[:, 0] = True
        for j, e in enumerate(batch):
            x[j, : lens[j]] = torch.from_numpy(states[e["at"] : e["at"] + lens[j]].astype(np.float32))
            known[j, e["first"] : lens[j] - 1] = True
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for i in range(self.freeze, self.layers):
                x = self.layer(x, i, attention_mask(lens, n))
        return (x.float() @ self.head.t() + self.bias).masked_fill(~known[:, :, None], -1e4)

    def tensors(self):
        out = dict(self.own)
        for p, (a, b) in self.low.items():
            out[p + ".a"], out[p + ".b"] = a, b
        out["reader.weight"], out["reader.bias"] = self.head, self.bias
        return out

    def write(self, path, base_sha256, facts):
        header, parts, at = {"__metadata__": {"base_sha256": base_sha256, **facts}}, [], 0
        for name, t in sorted(self.tensors().items()):
            half = name.endswith((".a", ".b"))
            raw = t.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
            header[name] = {
                "dtype": "F16" if half else "F32",
                "shape": list(t.shape),
                "data_offsets": [at, at + len(raw)],
            }
            parts.append(raw)
            at += len(raw)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))

    def read(self, path):
        """Goes on from an overlay: its numbers, to the precision of the file."""
        with open(path, "rb") as f:
            (n,) = struct.unpack("<Q", f.read(8))
            header, body = json.loads(f.read(n)), f.read()
        mine = self.tensors()
        with torch.no_grad():
            for name, t in mine.items():
                v = header[name]
                raw = body[v["data_offsets"][0] : v["data_offsets"][1]]
                t.copy_(torch.from_numpy(np.frombuffer(raw, np.float16 if v["dtype"] == "F16" else np.float32)
                                         .astype(np.float32).reshape(v["shape"])))


def attention_mask(lens, n):
    return torch.where(torch.arange(n)[None] < torch.tensor(lens)[:, None], 0.0, -1e4)[:, None, None, :]


def batches(examples, size, jitter=None):
    key = {id(e): len(e["ids"]) + (jitter.random() * 20 if jitter else 0) for e in examples}
    order = sorted(examples, key=lambda e: key[id(e)])
    return [order[i : i + size] for i in range(0, len(order), size)]


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
    model = Model(a.model, card["n_head"], a.freeze, a.rank)
    if a.resume:
        model.read(a.resume)
    states, test_states = model.frozen(train), model.frozen(test)
    body = list(model.own.values()) + [x for pair in model.low.values() for x in pair]
    head = [model.head, model.bias]
    say(sum(x.numel() for x in body + head), "parameters")
    optimizer = torch.optim.AdamW([{"params": body}, {"params": head}], lr=a.rate, weight_decay=0.01)
    total, step, epoch = int(math.ceil(len(train) / a.batch) * a.epochs), 0, 0
    while step < total:
        order = batches(train, a.batch, random.Random(epoch))
        random.Random(epoch).shuffle(order)
        epoch += 1
        for batch in order[: total - step]:
            rise = min(1, (step + 1) / (0.06 * total)) * max(0.02, 1 - step / total)
            for group, rate in zip(optimizer.param_groups, (a.rate, 1e-3)):
                group["lr"] = rate * rise
            logits = model.logits(batch, states)
            span = torch.tensor([e["span"] for e in batch])
            loss = (F.cross_entropy(logits[:, :, 0], span[:, 0]) + F.cross_entropy(logits[:, :, 1], span[:, 1])) / 2
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(body + head, 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                say(f"step {step}/{total} loss {loss.item():.3f}")
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
