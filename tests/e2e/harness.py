"""What the end-to-end tests share: the built command, a running server, a temporary data directory."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAIRN = os.environ.get("CAIRN_BIN", str(ROOT / "build/release/cairn"))
NO_MODELS = ["--embedder", "none", "--reranker", "none", "--generator", "none"]
sys.path.insert(0, str(ROOT / "clients/python/src"))


def models_dir():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("CAIRN_MODELS_DIR") or f"{cache}/cairn/models")


def have_model(name):
    return (models_dir() / name / "card.json").exists()


@contextlib.contextmanager
def data_dir():
    path = tempfile.mkdtemp(prefix="cairn-test-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(*args, check=True, timeout=300, env=None):
    done = subprocess.run([CAIRN, *args], capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
    if check and done.returncode != 0:
        raise AssertionError(f"cairn {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Server:
    """`with Server(data) as s:` serves on s.rpc and s.http; ends with SIGTERM and expects exit 0, unless killed before."""

    def __init__(self, data, *options, listen="127.0.0.1:0", http="127.0.0.1:0", env=None):
        command = [CAIRN, "serve", "--data", data, "--listen", listen, "--http", http, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            self.process.wait(10)
            raise AssertionError(f"{' '.join(command)}: exit {self.process.returncode}, said {line!r}")
        fields = dict(part.split("=", 1) for part in line.split()[1:])
        self.rpc, self.http = fields["rpc"], fields.get("http")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(60)
            assert code == 0 or exc[0], f"cairn serve ended with {code} after SIGTERM"
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
