"""kill -9 at random moments of put, delete and sync, N cycles: after each, nothing acknowledged is lost, nothing is half visible, and
`cairn debug check` is clean.
    python3 tests/crash/kill_cycles.py [CYCLES] [SEED]

The oracle: for each document the version last acknowledged, and the version (or deletion) that was on its way when the process
died; after the restart a document must be exactly one of the two, in the store, in its text and in search."""

import os
import random
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import NO_MODELS, Server, data_dir, run  # noqa: E402

from cairn_client import CairnError, Client, ConnectionLost  # noqa: E402

GONE = None


def text_of(name, version, rng):
    """Several passages, each with a word that no other document and version has."""
    paragraphs = [
        f"## Part {part}\n\nThe marker of this part is {mark(name, version)}p{part}. "
        + " ".join(f"word{rng.randrange(500)}" for _ in range(120))
        + "."
        for part in range(rng.randrange(1, 5))
    ]
    return f"# {name}\n\n" + "\n\n".join(paragraphs) + "\n"


def mark(name, version):
    return f"mark{name}v{version}"


class Oracle:
    def __init__(self):
        self.acked = {}  # name -> (version, text) or GONE
        self.pending = {}  # name -> the state on its way when the process died


def work(address, oracle, rng, names, versions):
    """Puts and deletes until the connection dies."""
    try:
        with Client(address, timeout=30) as cairn:
            while True:
                batch = rng.sample(names, rng.randrange(1, 6))
                if rng.random() < 0.7:
                    documents = []
                    for name in batch:
                        versions[name] += 1
                        text = text_of(name, versions[name], rng)
                        oracle.pending[name] = (versions[name], text)
                        documents.append({"id": name, "text": text, "mime": "text/markdown"})
                    cairn.put("c", documents, create=True)
                else:
                    there = [name for name in batch if oracle.acked.get(name)]
                    if not there:
                        continue
                    for name in there:
                        oracle.pending[name] = GONE
                    cairn.delete("c", there)
                for name in list(oracle.pending):
                    oracle.acked[name] = oracle.pending.pop(name)
    except (ConnectionLost, OSError, socket.timeout):
        return


def verify(cairn, oracle, names):
    findings = []
    applied = set()
    for name in names:
        wanted = [oracle.acked.get(name, GONE)]
        if name in oracle.pending:
            wanted.append(oracle.pending[name])
        try:
            found = cairn.get("c", name)["text"]
        except CairnError as error:
            if error.code != "NOT_FOUND":
                raise
            found = None
        states = [state for state in wanted if (state[1] if state else None) == found]
        if not states:
            findings.append(f"{name}: lost or wrong")
            continue
        state = states[-1]
        if name in oracle.pending and state is oracle.pending[name]:
            applied.add(name)
        elif name in oracle.pending:
            applied.add("-" + name)
        for version in {s[0] for s in wanted if s}:
            hits = [
                hit
                for hit in cairn.search("c", " ".join(f"{mark(name, version)}p{part}" for part in range(4)), k=50)["hits"]
                if mark(name, version) + "p" in hit["text"]
            ]
            parts = state[1].count("The marker of this part") if state and state[0] == version else 0
            seen = sum(hit["text"].count(mark(name, version) + "p") for hit in hits)
            if seen != parts:
                findings.append(f"{name} v{version}: {seen} of {parts} parts in search")
        oracle.acked[name] = state
    kept, dropped = {n for n in applied if not n.startswith("-")}, {n for n in applied if n.startswith("-")}
    if kept and dropped:
        findings.append(f"a batch was half applied: {sorted(applied)}")
    oracle.pending.clear()
    return findings


def main():
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(40)]
    versions = dict.fromkeys(names, 0)
    oracle = Oracle()
    started, acknowledged, bad = time.monotonic(), 0, 0
    with data_dir() as path:
        with Server(path, *NO_MODELS) as server, Client(server.rpc) as cairn:
            cairn.put("c", [{"id": "seed", "text": "the first document"}], create=True)
        for cycle in range(cycles):
            server = Server(path, *NO_MODELS)
            before = sum(versions.values())
            worker = threading.Thread(target=work, args=(server.rpc, oracle, rng, names, versions))
            worker.start()
            time.sleep(random.Random(seed * 100003 + cycle).uniform(0.02, 0.6))
            server.kill()
            worker.join()
            server.process.stdout.close()
            acknowledged += sum(versions.values()) - before - sum(1 for state in oracle.pending.values() if state)
            check = run("debug", "check", "--data", path, check=False)
            findings = [] if check.returncode == 0 else [f"debug check: {check.stdout} {check.stderr}"]
            with Server(path, *NO_MODELS) as server, Client(server.rpc) as cairn:
                findings += verify(cairn, oracle, names)
            for finding in findings:
                print(f"cycle {cycle}: {finding}")
            bad += len(findings)
    print(
        f"{cycles} kills (seed {seed}) in {time.monotonic() - started:.0f} s: {acknowledged} documents acknowledged, {bad} findings"
        " (lost, half visible, or not clean)"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
