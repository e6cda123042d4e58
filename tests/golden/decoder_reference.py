#!/usr/bin/env python3
"""A decoder forward in plain numpy over the dequantised weights of a GGUF file: the reference for cairn's decoder. Norms and
softmax are float64, the rest float32. Needs numpy, gguf (reads and dequantises) and tokenizers (ids of the prompts); cairn
itself needs none of them.

    decoder_reference.py MODEL.gguf OUT.txt
    decoder_reference.py tiny OUT.txt       (numpy alone, all float64)

The second writes the logits of a small random model of each architecture (TINY below), 20 positions each; test_decoder_arch.c
makes the same weights from their names. The first writes, as text: five prompts, each with its 64 greedy tokens; one prompt of
256 tokens and, for each of its positions, the length of the vector of logits, its 8 largest entries, and 16 projections on vectors of +1 and -1: bit j of splitmix64(id)
is the sign of entry id in projection j. The root mean square of differences of projections estimates the length of
the difference of two vectors of logits, so a test needs no 100 MB of logits.
"""

import sys

import numpy as np

PROMPTS = [
    "Write one sentence about why the sea is salty.",
    "Using only the passage, answer briefly.\n\nPassage: The travel desk books trains for journeys under six hours. Flights "
    "need the approval of a manager, given in writing at least ten days before the journey.\n\nQuestion: Who approves flights?",
    "List three uses of a rope on a sailing boat.",
    "Explain in two sentences what a checksum is for.",
    "Translate to French: The library opens at nine in the morning.",
]
LONG = """A cairn is a heap of stones that marks a trail. Walkers add a stone as they pass, and so the heap stays tall enough to
be seen in fog and snow. In the high country of the north some cairns are older than the roads below them. The people
who keep the trails repair them in early summer, when the snow has gone and the ground is still soft. A good cairn stands
on rock and not on soil; its lowest stones are wide and flat, and each course leans a little inward. The gaps are filled
with small stones so that frost cannot work them apart. Two walkers can build one as high as a table in about three
hours. Where two trails meet, a long stone laid across the top points the way to the nearest hut. In 1847 a surveyor
counted 214 cairns between the harbour and the pass; in 1998 there were 131, and 20 of those had fallen. The parish now
pays 12 crowns for each cairn that is raised again, and a list of them hangs in the school. Travellers are asked not to
build new ones, because a heap in the wrong place leads people astray, and not to take stones from walls, graves or
the old sheepfolds. Those who lose the trail should wait for the fog to lift, or walk back to the last cairn that they saw.
def area(width, height):
    return width * height
"""
GREEDY, POSITIONS, TOP, PROJECTIONS = 64, 256, 8, 16


class Model:
    real = np.float32

    def __init__(self, path):
        import gguf

        reader = gguf.GGUFReader(path)
        self.dequantize = gguf.quants.dequantize
        self.meta = {name: field for name, field in reader.fields.items()}
        self.tensors = {t.name: t for t in reader.tensors}
        self.setup()

    def setup(self):
        self.arch = self.value("general.architecture")
        get = lambda key, default=None: self.value(f"{self.arch}.{key}", default)
        self.n_layer, self.n_embd, self.n_head = get("block_count"), get("embedding_length"), get("attention.head_count")
        self.n_kv = get("attention.head_count_kv", self.n_head)
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.base = get("rope.freq_base", 10000.0)
        self.head = get("attention.key_length", self.n_embd // self.n_head)
        self.halves = self.arch != "llama"
        self.gemma = self.arch == "gemma3"
        self.window = get("attention.sliding_window", 0)
        self.n_expert, self.n_used = get("expert_count", 0), get("expert_used_count", 0)
        self.cache = {}

    def value(self, key, default=None):
        return self.meta[key].contents() if key in self.meta else default

    def weight(self, name):
        if name not in self.cache:
            if name not in self.tensors:
                self.cache[name] = None
            else:
                t = self.tensors[name]
                self.cache[name] = np.ascontiguousarray(self.dequantize(t.data, t.tensor_type), np.float32).reshape(
                    tuple(int(d) for d in reversed(t.shape))
                )
        return self.cache[name]

    def linear(self, x, name):
        y = x @ self.weight(name + ".weight").T
        bias = self.weight(name + ".bias")
        return y if bias is None else y + bias

    def norm(self, x, name):
        x64 = x.astype(np.float64)
        scale = 1.0 / np.sqrt((x64 * x64).mean(axis=-1, keepdims=True) + self.eps)
        return (x64 * scale).astype(self.real) * self.weight(name + ".weight")

    def local(self, layer):
        """Gemma 3: five layers with a window and the base 10,000, then one without."""
        return self.gemma and (layer + 1) % 6 != 0

    def rope(self, x, positions, layer):
        """x [n, heads, head]"""
        half = self.head // 2
        base = 10000.0 if self.local(layer) else self.base
        step = base ** (-2.0 * np.arange(half) / self.head)
        if self.weight("rope_freqs.weight") is not None:
            step = step / self.weight("rope_freqs.weight")
        angle = positions[:, None].astype(np.float64) * step
        c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        a, b = (x[..., :half], x[..., half:]) if self.halves else (x[..., 0::2], x[..., 1::2])
        out = np.empty(x.shape, np.float64)
        first, second = a * c - b * s, a * s + b * c
        if self.halves:
            out[..., :half], out[..., half:] = first, second
        else:
            out[..., 0::2], out[..., 1::2] = first, second
        return out.astype(self.real)

    def heads(self, h, at, which, n, positions, layer):
        x = self.linear(h, at + f"attn_{which}").reshape(len(h), n, self.head)
        if self.weight(at + f"attn_{which}_norm.weight") is not None:
            x = self.norm(x, at + f"attn_{which}_norm")
        return self.rope(x, positions, layer)

    def add(self, x, y, norm):
        return x + (y if self.weight(norm + ".weight") is None else self.norm(y, norm))

    def act(self, x):
        if self.gemma:
            return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
        return x / (1.0 + np.exp(-x))

    def experts(self, h, at):
        """Each row by itself: softmax over the router's largest logits, then the experts' answers so weighted."""
        router = h @ self.weight(at + "ffn_gate_inp.weight").T
        gate, up, down = (self.weight(at + f"ffn_{k}_exps.weight") for k in ("gate", "up", "down"))
        out = np.zeros_like(h)
        for r, row in enumerate(router):
            order = np.argsort(-row, kind="stable")
            self.margin = min(self.margin, row[order[self.n_used - 1]] - row[order[self.n_used]])
            shares = np.exp(row[order[: self.n_used]] - row.max())
            for e, share in zip(order, shares / shares.sum()):
                out[r] += share * (down[e] @ (self.act(gate[e] @ h[r]) * (up[e] @ h[r])))
        return out

    def step(self, pieces, caches):
        """New tokens of several sequences at once; returns logits of all new positions, one array per sequence."""
        x = np.concatenate([self.weight("token_embd.weight")[np.array(p)] for p in pieces])
        if self.gemma:
            x = x * np.sqrt(float(self.n_embd))
        ends = np.cumsum([len(p) for p in pieces])
        spans = [(e - len(p), e) for p, e in zip(pieces, ends)]
        starts = [c[0][0].shape[0] if c else 0 for c in caches]
        positions = np.concatenate([s + np.arange(len(p)) for s, p in zip(starts, pieces)])
        for i in range(self.n_layer):
            at = f"blk.{i}."
            h = self.norm(x, at + "attn_norm")
            q = self.heads(h, at, "q", self.n_head, positions, i)
            k = self.heads(h, at, "k", self.n_kv, positions, i)
            v = self.linear(h, at + "attn_v").reshape(len(h), self.n_kv, self.head)
            mixed = np.empty((len(h), self.n_head * self.head), self.real)
            for (a, b), cache, start in zip(spans, caches, starts):
                if len(cache) <= i:
                    cache.append((k[a:b], v[a:b]))
                else:
                    cache[i] = (np.concatenate([cache[i][0], k[a:b]]), np.concatenate([cache[i][1], v[a:b]]))
                keys, values = cache[i]
                back = (start + np.arange(b - a))[:, None] - np.arange(len(keys))[None, :]
                window = self.window if self.window and (self.local(i) or not self.gemma) else len(keys)
                for j in range(self.n_head):
                    g = j // (self.n_head // self.n_kv)
                    scores = (q[a:b, j] @ keys[:, g].T).astype(np.float64) / np.sqrt(self.head)
                    scores[(back < 0) | (back >= window)] = -np.inf
                    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
                    scores /= scores.sum(axis=-1, keepdims=True)
                    mixed[a:b, j * self.head : (j + 1) * self.head] = scores.astype(self.real) @ values[:, g]
            x = self.add(x, self.linear(mixed, at + "attn_output"), at + "post_attention_norm")
            h = self.norm(x, at + "ffn_norm")
            if self.n_expert:
                x = x + self.experts(h, at)
                continue
            gate, up = self.linear(h, at + "ffn_gate"), self.linear(h, at + "ffn_up")
            x = self.add(x, self.linear(self.act(gate) * up, at + "ffn_down"), at + "post_ffw_norm")
        h = self.norm(x, "output_norm")
        out = self.weight("output.weight")
        logits = h @ (self.weight("token_embd.weight") if out is None else out).T
        return [logits[a:b] for a, b in spans]


# Sizes of the small random models; test_decoder_arch.c has the same table.
TINY = {
    #          architecture head_dim kv layers ff base     window experts used freqs untied
    "llama3": ("llama", 16, 2, 2, 96, 500000.0, 0, 0, 0, True, True),
    "mistral": ("llama", 16, 1, 2, 96, 10000.0, 7, 0, 0, False, True),
    "mixtral": ("llama", 16, 2, 2, 64, 1000000.0, 0, 4, 2, False, True),
    "qwen3": ("qwen3", 32, 2, 2, 96, 1000000.0, 0, 0, 0, False, False),
    "qwen3moe": ("qwen3moe", 32, 2, 2, 32, 1000000.0, 0, 8, 3, False, True),
    "gemma3": ("gemma3", 32, 1, 7, 96, 1000000.0, 8, 0, 0, False, False),
}
TINY_EMBD, TINY_HEADS, TINY_VOCAB, TINY_TOKENS = 64, 4, 48, 20


def splitmix(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def drawn(name, shape):
    """A weight from its name alone, as float32 has it: test_decoder_arch.c and test_encoder_arch.c draw the same."""
    seed = 0xCBF29CE484222325
    for b in name.encode():
        seed = (seed ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    f = ((splitmix(seed, int(np.prod(shape))) >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32)
    f = f / np.float32(1 << 25)
    if "norm" in name and name.endswith("weight"):
        f = f + np.float32(1)
    if name == "rope_freqs.weight":
        f = np.float32(4.5) + f * np.float32(14)
    return f.reshape(shape).astype(np.float64)


class Tiny(Model):
    """Weights are drawn from the name of their tensor: a quarter of [-1, 1), norms around 1, rope_freqs 1 to 8."""

    real = np.float64

    def __init__(self, name):
        arch, head, kv, layers, ff, base, window, experts, used, freqs, untied = TINY[name]
        self.margin = np.inf
        self.ff, self.freqs, self.untied = ff, freqs, untied
        self.meta = {"general.architecture": arch}
        for key, value in {
            "block_count": layers, "embedding_length": TINY_EMBD, "attention.head_count": TINY_HEADS,
            "attention.head_count_kv": kv, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": base,
            "attention.key_length": head, "attention.sliding_window": window, "expert_count": experts,
            "expert_used_count": used,
        }.items():
            self.meta[f"{arch}.{key}"] = value
        self.setup()

    def value(self, key, default=None):
        return self.meta.get(key, default)

    def shape(self, name):
        q, kv, part = TINY_HEADS * self.head, self.n_kv * self.head, name.split(".", 2)[-1]
        if "norm" in name:
            if "attn_q_norm" in name or "attn_k_norm" in name:
                return (self.head,) if self.arch.startswith(("qwen3", "gemma3")) else None
            return (TINY_EMBD,) if self.gemma or "post_" not in name else None
        fixed = {
            "token_embd.weight": (TINY_VOCAB, TINY_EMBD),
            "output.weight": (TINY_VOCAB, TINY_EMBD) if self.untied else None,
            "rope_freqs.weight": (self.head // 2,) if self.freqs else None,
            "attn_q.weight": (q, TINY_EMBD), "attn_k.weight": (kv, TINY_EMBD), "attn_v.weight": (kv, TINY_EMBD),
            "attn_output.weight": (TINY_EMBD, q), "ffn_gate.weight": (self.ff, TINY_EMBD), "ffn_up.weight": (self.ff, TINY_EMBD),
            "ffn_down.weight": (TINY_EMBD, self.ff), "ffn_gate_inp.weight": (self.n_expert, TINY_EMBD),
            "ffn_gate_exps.weight": (self.n_expert, self.ff, TINY_EMBD), "ffn_up_exps.weight": (self.n_expert, self.ff, TINY_EMBD),
            "ffn_down_exps.weight": (self.n_expert, TINY_EMBD, self.ff),
        }
        return fixed.get(part if name.startswith("blk.") else name)

    def weight(self, name):
        if name not in self.cache:
            shape = self.shape(name)
            self.cache[name] = None if shape is None else drawn(name, shape)
        return self.cache[name]


def tiny(out):
    tokens = [int(z % TINY_VOCAB) for z in splitmix(7, TINY_TOKENS).tolist()]
    with open(out, "w", encoding="ascii") as f:
        for name in TINY:
            model = Tiny(name)
            for row in model.step([tokens], [[]])[0]:
                print(name, *[f"{v:.7g}" for v in row], file=f)
            print(name, "smallest margin of an expert's choice:", model.margin, file=sys.stderr)


def tokenizer(model):
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers

    tokens = model.value("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in model.value("tokenizer.ggml.merges")]
    t = tokenizers.Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    if model.value("tokenizer.ggml.pre") == "qwen2":
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    else:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    t.pre_tokenizer = pre_tokenizers.Sequence(parts)
    t.decoder = decoders.ByteLevel()
    ids = {s: i for i, s in enumerate(tokens)}
    return t, ids


def signs(n):
    with np.errstate(over="ignore"):
        z = np.arange(n, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.stack([1.0 - 2.0 * ((z >> np.uint64(j)) & np.uint64(1)).astype(np.float64) for j in range(PROJECTIONS)])


def main():
    if sys.argv[1] == "tiny":
        return tiny(sys.argv[2])
    model = Model(sys.argv[1])
    t, ids = tokenizer(model)
    start, end = ids["<|im_start|>"], ids["<|im_end|>"]
    plain = lambda s: t.encode(s, add_special_tokens=False).ids

    def chat(text):
        turn = lambda role, s: [start] + plain(role + "\n" + s) + [end] + plain("\n")
        return turn("system", "You are a careful assistant.") + turn("user", text) + [start] + plain("assistant\n")

    with open(sys.argv[2], "w", encoding="ascii") as f:
        print(f"# {PROJECTIONS} projections, top {TOP}", file=f)
        long = plain(LONG)[:POSITIONS]
        assert len(long) == POSITIONS
        sign = signs(model.weight("token_embd.weight").shape[0])
        print("long", *long, file=f)
        logits = model.step([long], [[]])[0].astype(np.float64)
        for row in logits:
            top = np.argsort(-row)[:TOP]
            numbers = [f"{np.linalg.norm(row):.8g}"] + [f"{i} {row[i]:.7g}" for i in top] + [f"{p:.8g}" for p in sign @ row]
            print("position", *numbers, file=f)
        del logits
        prompts = [chat(p) for p in PROMPTS]
        caches = [[] for _ in prompts]
        pieces, made, gaps = prompts, [[] for _ in prompts], []
        for _ in range(GREEDY):
            last = [x[-1] for x in model.step(pieces, caches)]
            for row in last:
                a, b = np.partition(row, -2)[-2:]
                gaps.append(float(abs(a - b)))
            pieces = [[int(np.argmax(row))] for row in last]
            for m, p in zip(made, pieces):
                m += p
        for p, m in zip(prompts, made):
            print("prompt", *p, file=f)
            print("greedy", *m, file=f)
            print(repr(t.decode(m)), file=sys.stderr)
    print("smallest gap between the first and second logit:", min(gaps), file=sys.stderr)


if __name__ == "__main__":
    main()
