#!/usr/bin/env python3
"""scripts/convert_encoder.py on ONNX files built here byte by byte: what it reads, writes and refuses."""

import json
import os
import random
import struct
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("SKIP: python3 has no numpy (apt-get install python3-numpy)")
    sys.exit(77)

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts"))
import convert_encoder as ce  # noqa: E402

FLOAT, UINT8, INT8 = 1, 2, 3


# ---- a protobuf writer of our own, so that reader and writer cannot share a mistake -----------------------------


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n % 128 + 128)
        n //= 128
    return bytes(out) + bytes([n])


def chunk(field, payload):
    return varint(field * 8 + 2) + varint(len(payload)) + payload


def number(field, n):
    return varint(field * 8) + varint(n)


def tensor(name, kind, dims, payload, packed_dims=False, as_floats=False):
    out = chunk(1, b"".join(map(varint, dims))) if packed_dims else b"".join(number(1, d) for d in dims)
    out += number(2, kind)
    out += chunk(4, payload) if as_floats else b""
    out += chunk(8, name.encode())
    out += b"" if as_floats else chunk(9, payload)
    return chunk(5, out + number(14, 0))


def node(op, inputs, outputs):
    out = b"".join(chunk(1, i.encode()) for i in inputs) + b"".join(chunk(2, o.encode()) for o in outputs)
    return chunk(1, out + chunk(4, op.encode()))


def model(*parts):
    return number(1, 8) + chunk(2, b"a test") + chunk(7, b"".join(parts) + chunk(2, b"main"))


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


class Builder:
    """A BERT of any small size; keeps what each weight must come out as, worked out number by number."""

    def __init__(self, layers=2, d=4, inner=8, vocab=7, wrapper="", per_column=True, signed=True, head=False, seed=1):
        self.rng = random.Random(seed)
        self.parts, self.want, self.wrapper = [], {}, wrapper
        self.per_column, self.signed, self.d = per_column, signed, d
        self.table("embeddings.word_embeddings", vocab, d)
        self.table("embeddings.position_embeddings", 5, d)
        self.table("embeddings.token_type_embeddings", 2, d)
        self.norm("embeddings.LayerNorm", d)
        for i in range(layers):
            at = f"encoder.layer.{i}."
            for part in ("query", "key", "value"):
                self.dense(at + "attention.self." + part, d, d)
            self.dense(at + "attention.output.dense", d, d)
            self.norm(at + "attention.output.LayerNorm", d)
            self.dense(at + "intermediate.dense", d, inner)
            self.dense(at + "output.dense", inner, d)
            self.norm(at + "output.LayerNorm", d)
        if head:
            self.dense("pooler.dense", d, d, named=True)
            self.dense("classifier", d, 1, named=True)

    def floats(self, name, dims, as_floats=False):
        n = int(np.prod(dims))
        values = [struct.unpack("<f", f32([self.rng.uniform(-2, 2)]))[0] for _ in range(n)]
        self.parts.append(tensor(self.wrapper + name, FLOAT, dims, f32(values), as_floats=as_floats))
        self.want[name] = np.array(values, dtype=np.float32).reshape(dims)

    def norm(self, name, n):
        self.floats(name + ".weight", [n])
        self.floats(name + ".bias", [n], as_floats=True)

    def quantised(self, name, rows, columns, per_column, signed):
        low = -128 if signed else 0
        scales = [self.rng.uniform(0.001, 0.2) for _ in range(columns if per_column else 1)]
        scales = list(struct.unpack(f"<{len(scales)}f", f32(scales)))
        zeros = [self.rng.randint(low, low + 255) for _ in scales]
        q = [[self.rng.randint(low, low + 255) for _ in range(columns)] for _ in range(rows)]
        code = "b" if signed else "B"
        kind, dims = (INT8 if signed else UINT8), [columns] if per_column else []
        self.parts += [
            tensor(name + "_scale", FLOAT, dims, f32(scales)),
            tensor(name + "_zero_point", kind, dims, struct.pack(f"{len(zeros)}{code}", *zeros)),
            tensor(name + "_quantized", kind, [rows, columns], struct.pack(f"{rows * columns}{code}", *sum(q, [])),
                   packed_dims=True),
        ]  # fmt: skip
        out = np.zeros((rows, columns), dtype=np.float32)
        for r in range(rows):
            for c in range(columns):
                s, z = (scales[c], zeros[c]) if per_column else (scales[0], zeros[0])
                out[r, c] = np.float32((q[r][c] - z) * s)  # exact in double, then one rounding
        return out

    def table(self, name, rows, columns):
        self.want[name + ".weight"] = self.quantised(self.wrapper + name + ".weight", rows, columns, False, False)

    def dense(self, name, n_in, n_out, named=False):
        matrix = self.wrapper + name + ".weight" if named else f"onnx::MatMul_{len(self.parts) + 1000}"
        held = self.quantised(matrix, n_in, n_out, self.per_column, self.signed)
        self.want[name + ".weight"] = held.T
        self.floats(name + ".bias", [n_out])
        at = f"/{name}/"
        inputs = [at + "x_quantized", matrix + "_quantized", at + "x_zero", matrix + "_zero_point"]
        steps = [
            node("MatMulInteger", inputs, [at + "whole"]),
            node("Cast", [at + "whole"], [at + "cast"]),
            node("Mul", [at + "x_scale", matrix + "_scale"], [at + "scales"]),
            node("Mul", [at + "cast", at + "scales"], [at + "product"]),
            node("Add", [self.wrapper + name + ".bias", at + "product"], [at + "out"]),
        ]
        self.parts += steps

    def bytes(self, without=None, extra=b""):
        parts = [p for p in self.parts if not (without and without.encode() in p)]
        return model(*parts, extra)


def read_back(path):
    with open(path, "rb") as f:
        whole = f.read()
    (n,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + n])
    body, out = whole[8 + n :], {}
    meta = header.pop("__metadata__")
    spans = sorted(t["data_offsets"] for t in header.values())
    assert spans[0][0] == 0 and spans[-1][1] == len(body), "data has a hole at an end"
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:])), "data has a hole or an overlap"
    for name, t in header.items():
        assert t["dtype"] == "F32"
        start, end = t["data_offsets"]
        out[name] = np.frombuffer(body[start:end], "<f4").reshape(t["shape"])
    return n, header, meta, out


class Convert(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def convert(self, data, **options):
        with open(self.path("in.onnx"), "wb") as f:
            f.write(data)
        options.setdefault("heads", 2)
        ce.convert(self.path("in.onnx"), self.path("out.safetensors"), **options)
        return read_back(self.path("out.safetensors"))

    def refused(self, data, words):
        with self.assertRaises(ce.ConvertError) as caught:
            self.convert(data)
        self.assertIn(words, str(caught.exception))
        self.assertIn("in.onnx", str(caught.exception))
        self.assertEqual(os.listdir(self.folder.name), ["in.onnx"])  # nothing half written

    def same(self, want, got):
        self.assertEqual(sorted(want), sorted(got))
        for name in want:
            self.assertEqual(want[name].shape, got[name].shape, name)
            self.assertEqual(want[name].tobytes(), got[name].tobytes(), name)

    def test_each_weight_is_dequantised_exactly_and_turned_to_out_in(self):
        for per_column in (True, False):
            for signed in (True, False):
                with self.subTest(per_column=per_column, signed=signed):
                    b = Builder(per_column=per_column, signed=signed, seed=per_column * 2 + signed)
                    _, _, meta, got = self.convert(b.bytes())
                    self.same(b.want, got)
                    self.assertEqual(meta["bert.pooling_type"], "cls")

    def test_a_pair_model_keeps_its_head_and_loses_its_wrapper(self):
        b = Builder(layers=1, wrapper="bert.", per_column=False, head=True)
        _, _, meta, got = self.convert(b.bytes(), name="a name")
        self.same(b.want, got)
        self.assertEqual(got["classifier.weight"].shape, (1, 4))
        self.assertEqual(meta["bert.pooling_type"], "rank")
        self.assertEqual(meta["general.name"], "a name")
        self.assertEqual(meta["bert.attention.head_count"], "2")
        self.assertEqual(meta["bert.block_count"], "1")

    def test_plain_float_matrices_are_read_too(self):
        b = Builder(layers=1)
        values = np.arange(16, dtype=np.float32).reshape(4, 4)
        parts = [p for p in b.parts if b"/encoder.layer.0.attention.self.query/" not in p]
        parts.append(tensor("onnx::MatMul_9", FLOAT, [4, 4], values.tobytes()))
        parts.append(node("MatMul", ["x", "onnx::MatMul_9"], ["y"]))
        parts.append(node("Add", ["encoder.layer.0.attention.self.query.bias", "y"], ["z"]))
        b.want["encoder.layer.0.attention.self.query.weight"] = values.T
        self.same(b.want, self.convert(model(*parts))[3])

    def test_the_same_input_gives_the_same_bytes_with_the_weights_aligned(self):
        b = Builder(layers=2, d=16, inner=32, head=True)
        out = []
        for _ in range(2):
            n, header, _, _ = self.convert(b.bytes(), name="x")
            with open(self.path("out.safetensors"), "rb") as f:
                out.append(f.read())
            self.assertEqual((8 + n) % 64, 0)
            for name, t in header.items():
                if name != "classifier.bias":
                    self.assertEqual(t["data_offsets"][0] % 64, 0, name)
        self.assertEqual(out[0], out[1])
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["in.onnx", "out.safetensors"])

    def test_a_weight_that_is_missing_is_named(self):
        b = Builder()
        self.refused(b.bytes(without="encoder.layer.1.output.LayerNorm.bias"), "encoder.layer.1.output.LayerNorm.bias")
        self.refused(b.bytes(without="/encoder.layer.0.attention.self.key/"), "encoder.layer.0.attention.self.key.weight")
        self.refused(b.bytes(without="_zero_point"), "_zero_point")
        self.refused(b.bytes(without="encoder.layer.0."), "without a gap")

    def test_a_file_that_contradicts_itself_is_refused(self):
        b = Builder(layers=1)
        name = "embeddings.LayerNorm.weight"
        self.refused(b.bytes(extra=tensor(name, FLOAT, [4], f32([1] * 4))), "twice")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [4], f32([1] * 3))), "needs 16 bytes, 12 are there")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [3], f32([1] * 3))), "expected (4,)")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [1 << 20] * 3, b"")), "over the limit")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [1] * 40, f32([1]))), "40 dimensions")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [(1 << 64) - 4], f32([1]))), "dimension -4")
        self.refused(b.bytes(without=name, extra=tensor(name, FLOAT, [4], f32([1, 1, 1, float("nan")]))), "not finite")
        self.refused(b.bytes(without=name, extra=tensor(name, 8, [4], b"")), "of a type no weight has")
        elsewhere = number(1, 4) + number(2, FLOAT) + chunk(8, name.encode()) + number(14, 1)
        self.refused(b.bytes(without=name, extra=chunk(5, elsewhere)), "outside the file")

    def test_what_is_no_onnx_file_is_refused(self):
        for data in (b"", b"\0", b"GGUF" * 20, b"\xff" * 64, b"PK\x03\x04" + bytes(60), number(1, 8)):
            with self.subTest(data=data[:8]):
                with self.assertRaises(ce.ConvertError):
                    self.convert(data)

    def test_a_file_cut_anywhere_is_refused(self):
        whole = Builder(layers=1, d=2, inner=2, vocab=2).bytes()
        for cut in range(len(whole)):
            with self.assertRaises(ce.ConvertError, msg=f"cut at {cut}"):
                ce.convert_bytes(whole[:cut])

    def test_a_file_with_any_byte_changed_is_read_or_refused_never_worse(self):
        whole = Builder(layers=1, d=2, inner=2, vocab=2, head=True).bytes()
        rng, read = random.Random(7), 0
        with np.errstate(all="ignore"):
            for _ in range(4000):
                data = bytearray(whole)
                for _ in range(rng.randint(1, 3)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                try:
                    weights, _ = ce.convert_bytes(bytes(data))
                    read += 1
                    self.assertTrue(all(np.isfinite(w).all() for w in weights.values()))
                except ce.ConvertError:
                    pass
        self.assertGreater(read, 0)  # a change inside a weight's numbers is still a file

    def test_the_command_says_what_is_wrong_and_exits_1(self):
        self.assertEqual(ce.main([self.path("absent.onnx"), self.path("out")]), 1)
        with open(self.path("in.onnx"), "wb") as f:
            f.write(Builder().bytes())
        self.assertEqual(ce.main([self.path("in.onnx"), self.path("out"), "--heads", "3"]), 1)
        self.assertEqual(ce.main([self.path("in.onnx"), self.path("out"), "--heads", "2"]), 0)
        self.assertTrue(os.path.exists(self.path("out")))


if __name__ == "__main__":
    unittest.main()
