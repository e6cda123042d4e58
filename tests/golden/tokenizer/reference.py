#!/usr/bin/env python3
"""Reference token ids for make_lines.py's lines (and for real questions and passages of xquad).

    reference.py llama.cpp MODEL.gguf LINES OUT     llama.cpp's tokenizer, by the package xllamacpp's server
    reference.py chat MODEL.gguf LINES OUT          the same with special tokens on, for chat.bin
    reference.py wordpiece VOCAB.txt LINES OUT      Hugging Face tokenizers, BertWordPieceTokenizer, lower case
    reference.py bpe MODEL.gguf LINES OUT           Hugging Face tokenizers over the vocabulary, merges and expressions of the file
    reference.py spm VOCAB.gguf LINES OUT           Google's sentencepiece over the pieces and scores of the file
    reference.py xquad DIR OUT                      the lines of that set in make_lines.py's format, every 8th record

LINES end in NUL. OUT has one line for each: number of ids, FNV-1a 64 over them as little-endian int32, and, for short ones of the first 50,
the ids themselves. Packages: xllamacpp 2026.10.11549, tokenizers 0.23.3, gguf 0.19.0, sentencepiece 0.2.3.
How the committed files came about, with the models of scripts/models and the SentencePiece
vocabulary of Llama 2 (vocab-llama-spm.gguf):
    make_lines.py > lines.bin
    reference.py llama.cpp qwen2.5-coder-0.5b-instruct-q4_k_m/model.gguf lines.bin qwen2.ids
    reference.py llama.cpp smollm2-135m-instruct-q4_1/model.gguf lines.bin smollm.ids
    reference.py wordpiece bge-small-en-v1.5/vocab.txt lines.bin wordpiece.ids
    reference.py spm vocab-llama-spm.gguf lines.bin spm.ids
    reference.py chat MODEL.gguf chat.bin chat-qwen2.ids; chat-smollm.ids likewise
    reference.py xquad DIR xquad.bin, DIR holding the XQuAD set; then bpe and wordpiece over xquad.bin to xquad-*.ids
"""

import glob
import json
import os
import struct
import sys
import urllib.request

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama_cpp(path, special=False):
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = path
    p.n_ctx, p.warmup, p.n_parallel = 256, False, 1
    p.no_extra_bufts = True
    server = xllamacpp.Server(p)

    def encode(text):
        body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        url = server.listening_address + "/tokenize"
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as r:
            return json.load(r)["tokens"]

    return encode


def chat(path):
    return llama_cpp(path, True)


def wordpiece(path):
    from tokenizers import BertWordPieceTokenizer

    t = BertWordPieceTokenizer(path, lowercase=True)
    return lambda text: t.encode(text, add_special_tokens=False).ids


def bpe(path):
    import gguf
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    fields = gguf.GGUFReader(path).fields
    vocab = {s: i for i, s in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    pre = fields["tokenizer.ggml.pre"].contents()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre != "qwen2")
    first = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated")],
    }[pre]
    t.pre_tokenizer = pre_tokenizers.Sequence(first + [byte_level])
    return lambda text: t.encode(text, add_special_tokens=False).ids


def spm(path):
    import gguf
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    fields = gguf.GGUFReader(path).fields
    tokens, scores, types = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "scores", "token_type"))
    model = pb.ModelProto()
    for token, score, kind in zip(tokens, scores, types):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = pb.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()).encode


def fnv1a(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def write_ids(path, lists):
    with open(path, "w") as f:
        for i, ids in enumerate(lists):
            h = fnv1a(struct.pack(f"<{len(ids)}i", *ids))
            f.write(" ".join([str(len(ids)), f"{h:016x}"] + (list(map(str, ids)) if i < 50 and len(ids) <= 100 else [])) + "\n")


def xquad(folder, out):
    lines = []
    for path in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
        for i, record in enumerate(open(path, encoding="utf-8")):
            if i % 8 == 0:
                record = json.loads(record)
                lines += [record["question"], record["passage"]]
    with open(out, "wb") as f:
        f.write(b"".join(s.encode() + b"\0" for s in lines))


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "xquad":
        return xquad(*sys.argv[2:])
    if len(sys.argv) != 5 or sys.argv[1] not in ("llama.cpp", "chat", "wordpiece", "bpe", "spm"):
        sys.exit(__doc__)
    encode = {"llama.cpp": llama_cpp, "chat": chat, "wordpiece": wordpiece, "bpe": bpe, "spm": spm}[sys.argv[1]](sys.argv[2])
    lines = open(sys.argv[3], "rb").read().split(b"\0")[:-1]
    write_ids(sys.argv[4], [encode(s.decode()) for s in lines])
    sys.stdout.flush()
    os._exit(0)  # a server thread need not be waited for


main()
