"""Overlays: a BERT encoder with frozen lower layers, low-rank changes above and two outputs for each token; what the
scripts that train one share. Needs torch and tokenizers. The C side is model/encoder.c and generator/token_head.c."""

import json
import math
import os
import random
import struct
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer

CLS, SEP = 101, 102
LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def say(*x):
    print(time.strftime("%H:%M:%S"), *x, flush=True)


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f]


class Texts:
    """Texts as tokens with their places, each text read once."""

    def __init__(self, vocab):
        self.tokenizer = BertWordPieceTokenizer(vocab, lowercase=True)
        self.known = {}

    def encode(self, text):
        if text not in self.known:
            e = self.tokenizer.encode(text, add_special_tokens=False)
            self.known[text] = (e.ids, e.offsets)
        return self.known[text]


class Model:
    """The base with low-rank changes, biases and norms of its own from layer `freeze` on, and two outputs for each
    token, NAME.weight and NAME.bias in the overlay."""

    def __init__(self, path, name, n_head, freeze, rank):
        self.name = name
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
        x, mask = torch.zeros(len(batch), n, self.dim), attention_mask(lens, n)
        for j, e in enumerate(batch):
            x[j, : lens[j]] = torch.from_numpy(states[e["at"] : e["at"] + lens[j]].astype(np.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for i in range(self.freeze, self.layers):
                x = self.layer(x, i, mask)
        return x.float() @ self.head.t() + self.bias

    def fit(self, examples, states, loss, epochs, rate, batch, after_epoch):
        """AdamW; the rate rises for 6 % of the steps and falls to nothing. loss(batch, logits)."""
        body = list(self.own.values()) + [x for pair in self.low.values() for x in pair]
        head = [self.head, self.bias]
        say(sum(x.numel() for x in body + head), "parameters")
        optimizer = torch.optim.AdamW([{"params": body}, {"params": head}], lr=rate, weight_decay=0.01)
        total, step, epoch = int(math.ceil(len(examples) / batch) * epochs), 0, 0
        while step < total:
            order = batches(examples, batch, random.Random(epoch))
            random.Random(epoch).shuffle(order)
            epoch += 1
            for part in order[: total - step]:
                rise = min(1, (step + 1) / (0.06 * total)) * max(0.02, 1 - step / total)
                for group, peak in zip(optimizer.param_groups, (rate, 1e-3)):
                    group["lr"] = peak * rise
                value = loss(part, self.logits(part, states))
                optimizer.zero_grad()
                value.backward()
                torch.nn.utils.clip_grad_norm_(body + head, 1.0)
                optimizer.step()
                step += 1
                if step % 50 == 0:
                    say(f"step {step}/{total} loss {value.item():.3f}")
            after_epoch()

    def tensors(self):
        out = dict(self.own)
        for p, (a, b) in self.low.items():
            out[p + ".a"], out[p + ".b"] = a, b
        out[self.name + ".weight"], out[self.name + ".bias"] = self.head, self.bias
        return out

    def write(self, path, base_sha256, facts, more=None):
        header, parts, at = {"__metadata__": {"base_sha256": base_sha256, **facts}}, [], 0
        for name, t in sorted({**self.tensors(), **(more or {})}.items()):
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
