#!/usr/bin/env python3
"""Turn an int8 ONNX BERT encoder into a safetensors file of plain float32 weights.

cairn's runtime reads one format for encoders: safetensors with the usual BERT names. The encoders that packages
carry are dynamically quantised ONNX graphs, so this reads the graph's own bytes (no onnx package, only numpy),
undoes the quantisation exactly as the graph states it, w = (q - zero_point) * scale in float32, and writes

    embeddings.{word,position,token_type}_embeddings.weight, embeddings.LayerNorm.{weight,bias}
    encoder.layer.N.attention.self.{query,key,value}.{weight,bias}
    encoder.layer.N.attention.output.dense.*, encoder.layer.N.attention.output.LayerNorm.*
    encoder.layer.N.intermediate.dense.*, encoder.layer.N.output.dense.*, encoder.layer.N.output.LayerNorm.*
    pooler.dense.*, classifier.*                               (a pair model only)

Matrices are stored [out, in]. ONNX holds them [in, out] under an anonymous name ("onnx::MatMul_1525"), so the name
is found by following the product to the next Add, whose other input is the bias with its true name.

The output is a function of the input bytes and of the options alone (tensors sorted, header padded so that
every tensor whose size allows it starts at a multiple of 64), so that its sha256 can be pinned.

    convert_encoder.py MODEL.onnx OUT.safetensors [--pooling cls|mean|rank] [--heads N] [--name NAME]
"""

import argparse
import json
import os
import re
import struct
import sys

import numpy as np

TENSOR_MAX = 1 << 31  # bytes of one initializer; a claim above this is a broken file
DIMS_MAX = 4
FOLLOW_MAX = 8  # steps from a product to its Add; graphs written by exporters need at most three
ALIGN = 64


class ConvertError(Exception):
    """What is wrong with the file, where, and how to mend it."""


# ---- protobuf wire format -------------------------------------------------------------------------------------


def read_varint(buf, pos, end):
    value = 0
    for shift in range(0, 70, 7):
        if pos >= end:
            raise ConvertError(f"number cut off at byte {pos}: the file is truncated, fetch it again")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, pos
    raise ConvertError(f"number longer than 10 bytes before byte {pos}: not an ONNX file")


def fields(buf, start, end):
    """Yield (field, wire type, value); for length-delimited fields the value is (start, end) into buf."""
    pos = start
    while pos < end:
        key, pos = read_varint(buf, pos, end)
        field, wire = key >> 3, key & 7
        if field == 0:
            raise ConvertError(f"field number 0 at byte {pos}: not an ONNX file")
        if wire == 0:
            value, pos = read_varint(buf, pos, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if end - pos < size:
                raise ConvertError(f"field {field} cut off at byte {pos}: the file is truncated, fetch it again")
            value, pos = bytes(buf[pos : pos + size]), pos + size
        elif wire == 2:
            size, pos = read_varint(buf, pos, end)
            if size > end - pos:
                raise ConvertError(
                    f"field {field} at byte {pos} claims {size} bytes, {end - pos} remain: "
                    "the file is truncated, fetch it again"
                )
            value, pos = (pos, pos + size), pos + size
        else:
            raise ConvertError(f"wire type {wire} at byte {pos}: not an ONNX file")
        yield field, wire, value


def text(buf, span):
    try:
        return bytes(buf[span[0] : span[1]]).decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConvertError(f"name at byte {span[0]} is not UTF-8: not an ONNX file") from e


def expect(wire, wanted, what):
    if wire != wanted:
        raise ConvertError(f"{what} has wire type {wire}, expected {wanted}: not an ONNX file")


# ---- the part of ONNX that encoders use -----------------------------------------------------------------------

# TensorProto.data_type -> numpy type, little-endian as raw_data is
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}


def read_numbers(buf, wire, value, signed_bits):
    """A repeated varint field, packed or not."""
    out = []
    if wire == 0:
        out.append(value)
    else:
        expect(wire, 2, "a list of numbers")
        pos, end = value
        while pos < end:
            number, pos = read_varint(buf, pos, end)
            out.append(number)
    top = 1 << 63
    return [n - (1 << 64) if signed_bits and n >= top else n for n in out]


def read_tensor(buf, start, end):
    dims, dtype, name, raw, floats, numbers = [], 0, "", None, [], []
    for field, wire, value in fields(buf, start, end):
        if field == 1:
            dims += read_numbers(buf, wire, value, True)
        elif field == 2:
            expect(wire, 0, "data_type")
            dtype = value
        elif field == 4:
            if wire == 5:
                floats.append(value)
            else:
                expect(wire, 2, "float_data")
                floats.append(bytes(buf[value[0] : value[1]]))
        elif field in (5, 7):
            numbers += read_numbers(buf, wire, value, True)
        elif field == 8:
            expect(wire, 2, "name")
            name = text(buf, value)
        elif field == 9:
            expect(wire, 2, "raw_data")
            raw = value
        elif field == 13 or (field == 14 and value != 0):  # data_location 0 is "in this file"
            raise ConvertError(f"tensor {name!r} keeps its data outside the file: use a self-contained ONNX file")
    if dtype not in DTYPES:
        return name, None  # a type no weight has (strings, bools): kept as unknown, refused only if it is needed
    kind = np.dtype(DTYPES[dtype])
    if len(dims) > DIMS_MAX:
        raise ConvertError(f"tensor {name!r} has {len(dims)} dimensions, the limit is {DIMS_MAX}")
    count = 1
    for d in dims:
        if d < 0:
            raise ConvertError(f"tensor {name!r}: dimension {d}")
        count *= d  # Python's own integers: no overflow to fear
        if count * kind.itemsize > TENSOR_MAX:
            raise ConvertError(f"tensor {name!r}: shape {dims} is over the limit of {TENSOR_MAX} bytes")
    if raw is not None:
        if raw[1] - raw[0] != count * kind.itemsize:
            raise ConvertError(
                f"tensor {name!r}: shape {dims} needs {count * kind.itemsize} bytes, {raw[1] - raw[0]} are there: "
                "the file is damaged, fetch it again"
            )
        data = np.frombuffer(buf, dtype=kind, count=count, offset=raw[0]) if count else np.zeros(0, kind)
    elif floats:
        joined = b"".join(floats)
        if len(joined) % 4:
            raise ConvertError(f"tensor {name!r}: {len(joined)} bytes of float_data are no whole numbers")
        data = np.frombuffer(joined, dtype="<f4")
    elif kind == np.dtype("<f2"):  # float16 without raw_data travels as its bits in int32_data
        data = np.array([n & 0xFFFF for n in numbers], dtype="<u2").view("<f2")
    else:
        try:
            data = np.array(numbers, dtype=np.int64)
            info = np.iinfo(kind)
        except (OverflowError, ValueError) as e:
            raise ConvertError(f"tensor {name!r}: numbers do not fit {kind}") from e
        if data.size and (data.min() < info.min or data.max() > info.max):
            raise ConvertError(f"tensor {name!r}: numbers do not fit {kind}")
        data = data.astype(kind)
    if data.size != count:
        raise ConvertError(f"tensor {name!r}: shape {dims} needs {count} numbers, {data.size} are there")
    return name, data.reshape(dims)


class Node:
    __slots__ = ("op", "inputs", "outputs")

    def __init__(self, buf, start, end):
        self.op, self.inputs, self.outputs = "", [], []
        for field, wire, value in fields(buf, start, end):
            if field in (1, 2, 4):
                expect(wire, 2, "a node's name")
                word = text(buf, value)
                if field == 1:
                    self.inputs.append(word)
                elif field == 2:
                    self.outputs.append(word)
                else:
                    self.op = word


class Graph:
    """Nodes and initializers of ModelProto.graph, with who reads what."""

    def __init__(self, buf):
        self.nodes, self.tensors, self.readers = [], {}, {}
        found = False
        for field, wire, value in fields(buf, 0, len(buf)):
            if field != 7:
                continue
            expect(wire, 2, "graph")
            found = True
            for gfield, gwire, gvalue in fields(buf, *value):
                if gfield in (1, 5):
                    expect(gwire, 2, "node or initializer")
                if gfield == 1:
                    self.nodes.append(Node(buf, *gvalue))
                elif gfield == 5:
                    name, data = read_tensor(buf, *gvalue)
                    if name in self.tensors:
                        raise ConvertError(f"initializer {name!r} stands twice in the graph")
                    self.tensors[name] = data
        if not found:
            raise ConvertError("no graph in the file: not an ONNX model")
        self.makers = {}
        for node in self.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
            for name in node.outputs:
                self.makers[name] = node

    def tensor(self, name):
        data = self.tensors.get(name)
        if data is None:
            raise ConvertError(f"initializer {name!r} is missing or of a type no weight has")
        return data

    def weight(self, name):
        """The float32 value of an initializer, dequantised when it is quantised; None when it is not there."""
        if name.endswith("_quantized"):
            base = name[: -len("_quantized")]
            q, scale, zero = self.tensor(name), self.tensor(base + "_scale"), self.tensor(base + "_zero_point")
            if q.dtype not in (np.uint8, np.int8) or zero.dtype != q.dtype or scale.dtype != np.float32:
                raise ConvertError(f"{base!r}: types {q.dtype}, {scale.dtype}, {zero.dtype} are not an int8 weight")
            if scale.size not in (1, q.shape[-1] if q.ndim else 1) or zero.size != scale.size:
                raise ConvertError(f"{base!r}: {scale.size} scales and {zero.size} zero points for shape {q.shape}")
            shifted = q.astype(np.float32) - zero.astype(np.float32).reshape(-1)
            return shifted * scale.reshape(-1)  # one rounding: the difference is exact in float32
        if name in self.tensors:
            data = self.tensor(name)
            if data.dtype not in (np.float32, np.float16):
                raise ConvertError(f"{name!r}: type {data.dtype} is not a weight")
            return data.astype(np.float32)
        return None

    def bias_after(self, node):
        """Follow a product through casts and scalings to its Add; the Add's initializer that ends in .bias."""
        names = list(node.outputs)
        for _ in range(FOLLOW_MAX):
            following = []
            for name in names:
                for reader in self.readers.get(name, []):
                    if reader.op in ("Add", "Gemm"):
                        for other in reader.inputs:
                            if other.endswith(".bias") and other in self.tensors:
                                return other
                    elif reader.op in ("Cast", "Mul", "Identity", "Reshape"):
                        following += reader.outputs
            if not following:
                return None
            names = following
        return None


# ---- names ----------------------------------------------------------------------------------------------------

LAYER = r"encoder\.layer\.\d{1,3}\."
KNOWN = re.compile(
    r"^(embeddings\.(word|position|token_type)_embeddings\.weight"
    r"|(embeddings|" + LAYER + r"(attention\.)?output)\.LayerNorm\.(weight|bias)"
    r"|" + LAYER + r"(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
    r"\.(weight|bias)"
    r"|(pooler\.dense|classifier)\.(weight|bias))$"
)


def canonical(name):
    """The name without the wrapper that exporters leave in front of it."""
    for wrapper in ("model.", "bert."):
        if name.startswith(wrapper):
            name = name[len(wrapper) :]
    return name if KNOWN.match(name) else None


def collect(graph):
    out = {}

    def put(name, data, whence):
        if name in out:
            raise ConvertError(f"{name} is given twice, the second time by {whence!r}")
        out[name] = np.ascontiguousarray(data, dtype=np.float32)

    # Tensors that carry their own name: biases, norms, embedding tables, and Gemm matrices.
    flipped = set()  # Gemm without transB holds [in, out]; with transB (what exporters write) [out, in]
    for name in graph.tensors:
        base = name[: -len("_quantized")] if name.endswith("_quantized") else name
        known = canonical(base)
        if known:
            put(known, graph.weight(name), name)
    # Matrices under anonymous names: found by the bias that follows them.
    for node in graph.nodes:
        if node.op not in ("MatMul", "MatMulInteger", "Gemm"):
            continue
        name = node.inputs[1] if len(node.inputs) > 1 else ""
        if name not in graph.tensors or canonical(name[: -len("_quantized")] if name.endswith("_quantized") else name):
            if name in graph.tensors:
                flipped.add(name)
            continue
        bias = graph.bias_after(node)
        known = canonical(bias) if bias else None
        if not known:
            continue
        matrix = graph.weight(name)
        if matrix.ndim != 2:
            raise ConvertError(f"{known}: its matrix {name!r} has shape {matrix.shape}, expected two dimensions")
        put(known[: -len("bias")] + "weight", matrix.T, name)
    # A MatMul over a named matrix holds it [in, out] too; the bias tells which way round it lies.
    for name in flipped:
        base = name[: -len("_quantized")] if name.endswith("_quantized") else name
        known = canonical(base)
        uses = [n for n in graph.readers.get(name, []) if n.op in ("MatMul", "MatMulInteger")]
        if uses:
            out[known] = np.ascontiguousarray(out[known].T)
    return out


def check(weights):
    """Every tensor of the architecture is there, with shapes that agree. Returns (layers, width, is a pair model)."""
    numbers = {int(m.group(1)) for m in (re.match(r"encoder\.layer\.(\d+)\.", n) for n in weights) if m}
    layers = len(numbers)
    if not layers or numbers != set(range(layers)):
        raise ConvertError(f"layers found: {sorted(numbers)}; expected 0, 1, ... without a gap: not a BERT encoder")

    def need(name, *shape):
        data = weights.get(name)
        if data is None:
            raise ConvertError(f"{name} was not found in the graph: not a BERT encoder, or quantised in another way")
        if shape and data.shape != shape:
            raise ConvertError(f"{name} has shape {data.shape}, expected {shape}")
        if not np.isfinite(data).all():
            raise ConvertError(f"{name} holds a value that is not finite: the file is damaged, fetch it again")
        return data

    words = need("embeddings.word_embeddings.weight")
    if words.ndim != 2:
        raise ConvertError(f"embeddings.word_embeddings.weight has shape {words.shape}, expected two dimensions")
    d = words.shape[1]
    for table in ("position", "token_type"):
        data = need(f"embeddings.{table}_embeddings.weight")
        if data.ndim != 2 or data.shape[1] != d:
            raise ConvertError(f"embeddings.{table}_embeddings.weight has shape {data.shape}, width {d} expected")
    expected = {f"embeddings.{t}_embeddings.weight" for t in ("word", "position", "token_type")}

    def pair(name, *shape):
        need(name + ".weight", *shape)
        need(name + ".bias", shape[0])
        expected.update((name + ".weight", name + ".bias"))

    pair("embeddings.LayerNorm", d)
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            pair(at + "attention.self." + part, d, d)
        pair(at + "attention.output.dense", d, d)
        pair(at + "attention.output.LayerNorm", d)
        inner = need(at + "intermediate.dense.bias").size
        pair(at + "intermediate.dense", inner, d)
        pair(at + "output.dense", d, inner)
        pair(at + "output.LayerNorm", d)
    is_pair_model = "classifier.weight" in weights
    if is_pair_model:
        pair("pooler.dense", d, d)
        pair("classifier", weights["classifier.weight"].size // max(d, 1), d)
    elif "pooler.dense.weight" in weights:
        pair("pooler.dense", d, d)
    extra = set(weights) - expected
    if extra:
        raise ConvertError(f"tensors without a place in the model: {', '.join(sorted(extra))}")
    return layers, d, is_pair_model


# ---- safetensors ----------------------------------------------------------------------------------------------


def write_safetensors(path, weights, metadata):
    header, offset = {"__metadata__": metadata}, 0
    # By name, but a tensor whose size is no multiple of 64 goes last, or it would misalign all that follow it.
    names = sorted(weights, key=lambda n: (weights[n].nbytes % ALIGN != 0, n))
    for name in names:
        data = weights[name]
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text_bytes = json.dumps(header, separators=(",", ":"), sort_keys=True).encode("ascii")
    text_bytes += b" " * (-(8 + len(text_bytes)) % ALIGN)
    tmp = f"{path}.{os.getpid()}.tmp"
    try:
        with open(tmp, "wb") as f:
            f.write(struct.pack("<Q", len(text_bytes)))
            f.write(text_bytes)
            for name in names:
                f.write(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except BaseException:
        if os.path.exists(tmp):
            os.unlink(tmp)
        raise


def convert_bytes(buf):
    weights = collect(Graph(buf))
    return weights, check(weights)


def convert(source, target, pooling=None, heads=12, eps="1e-12", name=None, max_tokens=512):
    try:
        with open(source, "rb") as f:
            buf = f.read()
    except OSError as e:
        raise ConvertError(f"cannot read {source}: {e.strerror}") from e
    try:
        weights, (layers, width, is_pair_model) = convert_bytes(buf)
        if width % heads:
            raise ConvertError(f"width {width} is not a multiple of {heads} heads: give --heads")
    except ConvertError as e:
        raise ConvertError(f"{source}: {e}") from e
    metadata = {
        "format": "pt",
        "general.architecture": "bert",
        "general.name": name or os.path.splitext(os.path.basename(target))[0],
        "bert.block_count": str(layers),
        "bert.embedding_length": str(width),
        "bert.feed_forward_length": str(weights["encoder.layer.0.intermediate.dense.bias"].shape[0]),
        "bert.attention.head_count": str(heads),
        "bert.attention.layer_norm_epsilon": str(eps),
        "bert.context_length": str(max_tokens),
        "bert.pooling_type": pooling or ("rank" if is_pair_model else "cls"),
        "tokenizer.lower_case": "true",
    }
    write_safetensors(target, weights, metadata)
    return layers, width, is_pair_model


def main(argv=None):
    parser = argparse.ArgumentParser(description="Write an int8 (or float) ONNX BERT encoder as float32 safetensors.")
    parser.add_argument("onnx")
    parser.add_argument("safetensors")
    parser.add_argument("--pooling", choices=("cls", "mean", "rank"), help="recorded in the file (default: by shape)")
    parser.add_argument("--heads", type=int, default=12, help="attention heads, which the weights do not tell (12)")
    parser.add_argument("--eps", default="1e-12", help="epsilon of the layer norms (1e-12)")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--name", help="recorded in the file")
    a = parser.parse_args(argv)
    if a.heads < 1 or a.max_tokens < 1:
        parser.error("--heads and --max-tokens take a number above 0")
    try:
        float(a.eps)
    except ValueError:
        parser.error(f"--eps {a.eps!r} is not a number")
    try:
        layers, width, is_pair_model = convert(
            a.onnx, a.safetensors, a.pooling, a.heads, a.eps, a.name, a.max_tokens
        )
    except (ConvertError, OSError) as e:
        print(f"convert_encoder: {e}", file=sys.stderr)
        return 1
    print(f"{a.safetensors}: {layers} layers, width {width}{', pair model' if is_pair_model else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
