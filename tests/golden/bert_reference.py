#!/usr/bin/env python3
"""A BERT forward in plain numpy, the float reference for cairn's encoder: no batching, no tricks, float64 inside
unless told otherwise, so that what differs from it is the other side's rounding.

    encode(model_dir, ids, types=None)       pooled vectors, by the card's pooling and normalisation
    pair_logits(model_dir, ids, types)       one logit per pair, through pooler and classifier
    wordpiece(model_dir)                     a tokenizer: .ids(text, pair=None, limit=None) -> (ids, types)

Command line: JSON lines of {"ids": [...], "types": [...]}, or {"text": "..."}, or {"text": "...", "pair": "..."} on
stdin; one JSON line each on stdout: {"vector": [...]} or {"logit": x}, and the ids when they were made here.

    bert_reference.py MODEL_DIR [--float32] < lines
    bert_reference.py tiny-nomic > tests/golden/encoder/tiny-nomic.txt

The second prints the last layer's rows of a small random nomic-bert, for three texts of TINY_LENS tokens; test_encoder_arch.c
draws the same weights from their names (in GGUF).
"""

import argparse
import functools
import json
import math
import os
import struct
import sys
import unicodedata

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


def read_safetensors(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        body = f.read()
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        start, end = t["data_offsets"]
        out[name.removeprefix("bert.")] = np.frombuffer(body[start:end], DTYPES[t["dtype"]]).reshape(t["shape"])
    return out


ERF = np.frompyfunc(math.erf, 1, 1)


def gelu(x):
    return 0.5 * x * (1.0 + ERF(x.astype(np.float64) / math.sqrt(2.0)).astype(np.float64)).astype(x.dtype)


def layer_norm(x, weight, bias, eps):
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + x.dtype.type(eps)) * weight + bias


class Bert:
    def __init__(self, model_dir, dtype=np.float64):
        with open(os.path.join(model_dir, "card.json"), encoding="utf-8") as f:
            self.card = json.load(f)
        tensors = read_safetensors(os.path.join(model_dir, self.card["file"]))
        self.w = {k: v.astype(dtype) for k, v in tensors.items() if v.dtype.kind == "f"}
        self.dtype, self.eps, self.n_head = dtype, self.card["layer_norm_eps"], self.card["n_head"]
        self.n_layer = len({k.split(".")[2] for k in self.w if k.startswith("encoder.layer.")})

    def dense(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        return layer_norm(x, self.w[name + ".weight"], self.w[name + ".bias"], self.eps)

    def hidden(self, ids, types=None):
        """The last layer's output, one row per token."""
        n = len(ids)
        types = [0] * n if types is None else types
        if len(types) != n:
            raise ValueError(f"{n} ids and {len(types)} types")
        x = self.w["embeddings.word_embeddings.weight"][ids]
        x = x + self.w["embeddings.position_embeddings.weight"][:n]
        x = x + self.w["embeddings.token_type_embeddings.weight"][types]
        x = self.norm(x, "embeddings.LayerNorm")
        for i in range(self.n_layer):
            at = f"encoder.layer.{i}."
            heads = (n, self.n_head, -1)
            q = self.dense(x, at + "attention.self.query").reshape(heads).transpose(1, 0, 2)
            k = self.dense(x, at + "attention.self.key").reshape(heads).transpose(1, 2, 0)
            v = self.dense(x, at + "attention.self.value").reshape(heads).transpose(1, 0, 2)
            scores = (q @ k) / self.dtype(math.sqrt(q.shape[-1]))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed = (scores @ v).transpose(1, 0, 2).reshape(n, -1)
            x = self.norm(x + self.dense(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
            inner = gelu(self.dense(x, at + "intermediate.dense"))
            x = self.norm(x + self.dense(inner, at + "output.dense"), at + "output.LayerNorm")
        return x

    def vector(self, ids, types=None):
        x = self.hidden(ids, types)
        pooled = x.mean(axis=0) if self.card["pooling"] == "mean" else x[0]
        return pooled / np.linalg.norm(pooled) if self.card.get("normalize") else pooled

    def logit(self, ids, types):
        pooled = np.tanh(self.dense(self.hidden(ids, types)[0], "pooler.dense"))
        return float(self.dense(pooled, "classifier")[0])


TINY_DIM, TINY_HEADS, TINY_FF, TINY_LAYERS, TINY_VOCAB, TINY_LENS = 64, 2, 96, 2, 48, (7, 1, 12)


def tiny_nomic(ids):
    """Rotated queries and keys (halves, base 1000) instead of positions, a SiLU gate, no biases, norms behind."""
    from decoder_reference import drawn

    def norm(x, name):
        return layer_norm(x, drawn(name + ".weight", (TINY_DIM,)), drawn(name + ".bias", (TINY_DIM,)), 1e-12)

    def turn(x):
        half = x.shape[-1] // 2
        angle = np.arange(len(x))[:, None] * 1000.0 ** (-np.arange(half) / half)
        c, s, a, b = np.cos(angle), np.sin(angle), x[:, :half], x[:, half:]
        return np.concatenate([a * c - b * s, a * s + b * c], axis=1)

    x = drawn("token_embd.weight", (TINY_VOCAB, TINY_DIM))[ids] + drawn("token_types.weight", (2, TINY_DIM))[0]
    x, head = norm(x, "token_embd_norm"), TINY_DIM // TINY_HEADS
    for i in range(TINY_LAYERS):
        q, k, v = np.split(x @ drawn(f"blk.{i}.attn_qkv.weight", (3 * TINY_DIM, TINY_DIM)).T, 3, axis=1)
        mixed = np.empty_like(x)
        for h in range(TINY_HEADS):
            at = slice(h * head, (h + 1) * head)
            scores = turn(q[:, at]) @ turn(k[:, at]).T / math.sqrt(head)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, at] = scores / scores.sum(axis=-1, keepdims=True) @ v[:, at]
        x = norm(x + mixed @ drawn(f"blk.{i}.attn_output.weight", (TINY_DIM, TINY_DIM)).T, f"blk.{i}.attn_output_norm")
        gate, up = (x @ drawn(f"blk.{i}.ffn_{name}.weight", (TINY_FF, TINY_DIM)).T for name in ("gate", "up"))
        inner = gate / (1.0 + np.exp(-gate)) * up
        x = norm(x + inner @ drawn(f"blk.{i}.ffn_down.weight", (TINY_DIM, TINY_FF)).T, f"blk.{i}.layer_output_norm")
    return x


def print_tiny_nomic():
    from decoder_reference import splitmix

    ids = [int(z % TINY_VOCAB) for z in splitmix(7, sum(TINY_LENS)).tolist()]
    for n in TINY_LENS:
        for row in tiny_nomic(ids[:n]):
            print(*[f"{v:.7g}" for v in row])
        ids = ids[n:]


@functools.lru_cache(maxsize=4)
def load(model_dir, dtype=np.float64):
    return Bert(model_dir, dtype)


def encode(model_dir, ids, types=None, dtype=np.float64):
    model = load(model_dir, dtype)
    return np.stack([model.vector(x, types[i] if types else None) for i, x in enumerate(ids)])


def pair_logits(model_dir, ids, types, dtype=np.float64):
    model = load(model_dir, dtype)
    return np.array([model.logit(x, t) for x, t in zip(ids, types)])


# ---- WordPiece, written from the description of BERT's uncased tokenizer ----------------------------------------


def is_punctuation(c):
    return "!" <= c <= "/" or ":" <= c <= "@" or "[" <= c <= "`" or "{" <= c <= "~" or unicodedata.category(c)[0] == "P"


def is_ideograph(c):
    o = ord(c)
    return (
        0x4E00 <= o <= 0x9FFF
        or 0x3400 <= o <= 0x4DBF
        or 0x20000 <= o <= 0x2A6DF
        or 0x2A700 <= o <= 0x2CEAF
        or 0xF900 <= o <= 0xFAFF
        or 0x2F800 <= o <= 0x2FA1F
    )


class WordPiece:
    WORD_MAX = 100

    def __init__(self, path, lower_case=True):
        with open(path, encoding="utf-8", newline="\n") as f:
            self.vocab = {line.rstrip("\r\n"): i for i, line in enumerate(f)}
        self.lower_case = lower_case
        self.unk, self.cls, self.sep = (self.vocab[t] for t in ("[UNK]", "[CLS]", "[SEP]"))

    def words(self, text):
        clean = []
        for c in text:
            if c in " \t\n\r" or unicodedata.category(c) == "Zs":
                clean.append(" ")
            elif c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn"):
                continue
            elif is_ideograph(c):
                clean.append(f" {c} ")
            else:
                clean.append(c)
        text = "".join(clean)
        if self.lower_case:
            decomposed = unicodedata.normalize("NFD", text)
            # Letter by letter: a final sigma stays like any other, as in the tokenizers that made the vocabulary's ids.
            text = "".join(c.lower() for c in decomposed if unicodedata.category(c) != "Mn")
        for word in text.split():
            run = ""
            for c in word:
                if is_punctuation(c):
                    if run:
                        yield run
                    yield c
                    run = ""
                else:
                    run += c
            if run:
                yield run

    def pieces(self, text):
        out = []
        for word in self.words(text):
            if len(word) > self.WORD_MAX:
                out.append(self.unk)
                continue
            start, ids = 0, []
            while start < len(word):
                end = len(word)
                while end > start and ("##" if start else "") + word[start:end] not in self.vocab:
                    end -= 1
                if end == start:
                    ids = [self.unk]
                    break
                ids.append(self.vocab[("##" if start else "") + word[start:end]])
                start = end
            out += ids
        return out

    def ids(self, text, pair=None, limit=None):
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; the last text is cut so that at most limit ids remain."""
        first = self.pieces(text)
        second = self.pieces(pair) if pair is not None else None
        if limit is not None:
            if second is None:
                first = first[: limit - 2]
            else:
                first = first[: limit - 3]
                second = second[: limit - 3 - len(first)]
        ids = [self.cls, *first, self.sep]
        types = [0] * len(ids)
        if second is not None:
            ids += [*second, self.sep]
            types += [1] * (len(second) + 1)
        return ids, types


def wordpiece(model_dir):
    with open(os.path.join(model_dir, "card.json"), encoding="utf-8") as f:
        card = json.load(f)
    return WordPiece(os.path.join(model_dir, card["vocab"]), card["lower_case"])


def main():
    if sys.argv[1:] == ["tiny-nomic"]:
        return print_tiny_nomic()
    parser = argparse.ArgumentParser(description="Float reference of a BERT encoder or pair model.")
    parser.add_argument("model_dir")
    parser.add_argument("--float32", action="store_true", help="compute in float32 instead of float64")
    a = parser.parse_args()
    model = load(a.model_dir, np.float32 if a.float32 else np.float64)
    tokenizer = wordpiece(a.model_dir)
    for line in sys.stdin:
        if not line.strip():
            continue
        ask, reply = json.loads(line), {}
        if "ids" in ask:
            ids, types = ask["ids"], ask.get("types")
        else:
            ids, types = tokenizer.ids(ask["text"], ask.get("pair"), model.card["max_tokens"])
            reply = {"ids": ids, "types": types}
        if model.card["role"] == "reranker":
            reply["logit"] = model.logit(ids, types)
        else:
            reply["vector"] = [float(x) for x in model.vector(ids, types)]
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
