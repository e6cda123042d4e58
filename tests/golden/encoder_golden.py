#!/usr/bin/env python3
"""Writes what tests/golden/test_encoder.c compares with, by the float64 forward of bert_reference.py:

    encoder_golden.py MODELS_DIR

tests/golden/encoder/texts.txt      100 texts, one a line (taken from data/kb at the time of writing, and a few odd ones)
tests/golden/encoder/pairs.txt      100 pairs: query, tab, text
tests/golden/encoder/MODEL.f16      the vectors of the texts, little-endian halves, one text after the other
tests/golden/encoder/MODEL.logits   the logits of the pairs, one a line

Existing texts.txt and pairs.txt are kept, so that a change of data/kb does not change the test.
"""

import os
import random
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bert_reference  # noqa: E402

OUT = os.path.join(HERE, "encoder")
ODD = [
    "",
    "a",
    "?!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "L'été, les élèves étudient à l'école.",
    "寒い冬の朝、山の道を歩く。",
    "Съешь же ещё этих мягких французских булок.",
    "x" * 300,
    "1 234,56 EUR on 2024-02-29 at 23:59 (UTC+01:00)",
    "word " * 700,
]


def texts():
    path = os.path.join(OUT, "texts.txt")
    if not os.path.exists(path):
        rng, lines = random.Random(7), []
        for folder, _, files in sorted(os.walk(os.path.join(HERE, "../../data/kb"))):
            for name in sorted(files):
                if name.endswith((".md", ".txt")):
                    with open(os.path.join(folder, name), encoding="utf-8") as f:
                        parts = [" ".join(p.split()) for p in f.read().split("\n\n")]
                    lines += [p for p in parts if len(p) > 20]
        chosen = rng.sample(lines, 80) + [" ".join(rng.sample(lines, rng.randrange(2, 12))) for _ in range(10)] + ODD
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(c + "\n" for c in chosen)
    with open(path, encoding="utf-8") as f:
        return f.read().split("\n")[:-1]


def pairs(all_texts):
    path = os.path.join(OUT, "pairs.txt")
    if not os.path.exists(path):
        rng = random.Random(11)
        with open(path, "w", encoding="utf-8") as f:
            for i in range(100):
                text = all_texts[i]
                words = (text if i % 2 else rng.choice(all_texts[:80])).split()
                start = rng.randrange(max(1, len(words) - 8))
                f.write("What about " + " ".join(words[start : start + 8]) + "?\t" + text + "\n")
    with open(path, encoding="utf-8") as f:
        return [line.split("\t", 1) for line in f.read().split("\n")[:-1]]


def main():
    models = sys.argv[1]
    os.makedirs(OUT, exist_ok=True)
    all_texts = texts()
    assert len(all_texts) == 100
    for name in ("all-minilm-l6-v2", "bge-small-en-v1.5"):
        folder = os.path.join(models, name)
        model, tok = bert_reference.load(folder), bert_reference.wordpiece(folder)
        out = [model.vector(tok.ids(t, limit=model.card["max_tokens"])[0]) for t in all_texts]
        np.stack(out).astype("<f2").tofile(os.path.join(OUT, name + ".f16"))
    name = "ms-marco-minilm-l-12-v2"
    folder = os.path.join(models, name)
    model, tok = bert_reference.load(folder), bert_reference.wordpiece(folder)
    with open(os.path.join(OUT, name + ".logits"), "w", encoding="ascii") as f:
        for query, text in pairs(all_texts):
            print(f"{model.logit(*tok.ids(query, text, limit=model.card['max_tokens'])):.7g}", file=f)


if __name__ == "__main__":
    main()
