#!/usr/bin/env python3
"""The built `cairn` command, used as scripts and people use it: files on disk, a server on a socket, signals, exit codes.

usage: test_cli.py PATH/TO/cairn [--models] [unittest arguments]
"""
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

CAIRN = None
DONE, FAILED, USAGE, NOT_FOUND, REFUSED = 0, 1, 2, 3, 4
NONE = ["--embedder", "none", "--reranker", "none", "--generator", "none"]
WAIT_S = 120  # for a step that hangs; nothing here measures speed

DOCUMENTS = {
    "hr/leave.md": "# Annual leave\n\nEvery employee has 30 days of paid leave per year.\n\n"
                   "## Carry over\n\nUp to 5 days may be carried over until 31 March.\n",
    "hr/secret/salaries.md": "# Salary bands\n\nThe salary band of a senior engineer is 84000 euros.\n",
    "it/vpn.txt": "The VPN client connects to the gateway with a certificate.\nPasswords are not accepted.\n",
    "it/guide.html": "<html><head><title>Printer guide</title></head><body><h1>Printers</h1>"
                     "<p>The blue printer stands on the third floor.</p></body></html>\n",
}
ACL = {"groups": ["everyone", "hr"],
       "rules": [{"path": "hr/secret/*", "allow": ["hr"]}, {"path": "*", "allow": ["everyone"]}]}


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CAIRN_") or k == "CAIRN_MODELS_DIR"}
    env.update(more)
    return env


def cairn(*args, stdin=None, env=None):
    r = subprocess.run([CAIRN, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=WAIT_S,
                       stdin=subprocess.DEVNULL if stdin is None else None, env=env or environment())
    if "runtime error:" in r.stderr or "Sanitizer" in r.stderr or r.returncode < 0:  # whatever a test expects, never this
        raise AssertionError("cairn %s: exit %d\n%s" % (" ".join(map(str, args)), r.returncode, r.stderr))
    return r


def write_tree(root, documents, acl=None):
    for name, text in documents.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    if acl is not None:
        with open(os.path.join(root, "acl.json"), "w", encoding="utf-8") as f:
            json.dump(acl, f)


class Server:
    """`cairn serve`, ready when the constructor returns."""

    def __init__(self, data, *more, listen="127.0.0.1:0", http="127.0.0.1:0", models=False):
        self.errors = tempfile.TemporaryFile(mode="w+")
        self.p = subprocess.Popen([CAIRN, "serve", "--data", data, "--listen", listen, "--http", http,
                                   *([] if models else NONE), *more],
                                  stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment())
        self.line = self.p.stdout.readline()
        m = re.fullmatch(r"ready rpc=(\S+) http=(\S+)\n", self.line)
        if not m:
            self.p.kill()
            self.p.wait()
            self.errors.seek(0)
            raise AssertionError("no ready line: %r; stderr: %s" % (self.line, self.errors.read()))
        self.rpc, self.http = m.groups()

    def stop(self, sig=signal.SIGTERM):
        """Exit code and what else came on stdout."""
        if self.p.poll() is None:
            self.p.send_signal(sig)
        rest, _ = self.p.communicate(timeout=WAIT_S)
        if not self.errors.closed:
            self.errors.seek(0)
            errors = self.errors.read()
            self.errors.close()
            if "runtime error:" in errors or "Sanitizer" in errors:
                raise AssertionError("the server: " + errors)
        return self.p.returncode, rest


class Case(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        temp = tempfile.TemporaryDirectory(prefix="cairn-cli-")
        self.addCleanup(temp.cleanup)
        self.root = temp.name
        self.data = os.path.join(self.root, "data")
        self.source = os.path.join(self.root, "source")

    def run_ok(self, *args, code=DONE, **kw):
        r = cairn(*args, **kw)
        self.assertEqual(r.returncode, code, "cairn %s\nstdout: %s\nstderr: %s" % (" ".join(map(str, args)), r.stdout, r.stderr))
        return r

    def run_json(self, *args, code=DONE, **kw):
        out = self.run_ok(*args, "--json", code=code, **kw).stdout
        self.assertEqual(out.count("\n"), 1, "one line of JSON: %r" % out[:400])
        return json.loads(out)

    def serve(self, *more, **kw):
        s = Server(self.data, *more, **kw)
        self.addCleanup(s.stop, signal.SIGKILL)
        return s

    def ingest(self, acl=ACL, documents=DOCUMENTS):
        write_tree(self.source, documents, acl)
        return self.run_json("ingest", "--data", self.data, *NONE, "kb", self.source)


class Usage(Case):
    def commands(self):
        found = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", self.run_ok("help").stdout, re.M)
        self.assertGreater(len(found), 25)
        return found

    def test_every_command_explains_itself(self):
        for command in self.commands():
            with self.subTest(command):
                direct = self.run_ok(*command.split(), "--help")
                self.assertIn("usage: cairn " + command, direct.stdout)
                self.assertEqual(direct.stderr, "")
                self.assertEqual(self.run_ok("help", *command.split()).stdout, direct.stdout)

    def test_the_issue_names_are_there(self):
        have = {c.split()[0] for c in self.commands()}
        want = {"serve", "ingest", "search", "ask", "check", "key", "model", "backup", "restore", "debug"}
        self.assertEqual(want - have, set())

    def test_help_of_serve_lists_every_setting(self):
        text = self.run_ok("serve", "--help").stdout
        for key in ("api.message_bytes_max", "index.map_bytes", "loaders.file_bytes_max"):
            self.assertRegex(text, r"%s +\S+ +\(\S+ \.\. \S+\)" % re.escape(key))

    def test_families_list_their_members(self):
        r = self.run_ok("key", "--help")
        for member in ("key create", "key list", "key revoke"):
            self.assertIn(member, r.stdout)
        self.assertIn("key create", self.run_ok("help", "key").stdout)
        self.assertIn("key create", self.run_ok("key", code=USAGE).stderr)
        self.assertIn("key nonsense", self.run_ok("key", "nonsense", code=USAGE).stderr)

    def test_wrong_usage_is_named_and_exits_2(self):
        for args, says in [
            ([], "usage:"),
            (["frobnicate"], 'unknown command "frobnicate"'),
            (["search", "--frob", "kb", "x"], "unknown option --frob"),
            (["search", "--exp", "kb", "x"], "unknown option --exp (is --explain meant?)"),
            (["search", "-x", "kb", "y"], "unknown option -x"),
            (["search", "--json=1", "kb", "y"], "option --json takes no value"),
            (["search", "kb", "x", "--k"], "option --k wants a value"),
            (["search", "--k", "ten", "kb", "x"], '--k wants a whole number, not "ten"'),
            (["search", "--k", "0", "kb", "x"], "--k 0 is outside"),
            (["search", "--k", "-3", "kb", "x"], '--k wants a whole number, not "-3"'),
            (["ask", "--temperature", "warm", "kb", "x"], '--temperature wants a number, not "warm"'),
            (["ask", "--temperature", "nan", "kb", "x"], "--temperature wants a number"),
            (["ask", "--mode", "guess", "--data", "d", "kb", "x"], "--mode wants auto, generate or extract"),
            (["search", "kb", "x"], "--data DIR, or --server ADDR"),
            (["search", "--data", "d", "--server", "127.0.0.1:1", "kb", "x"], "exclude each other"),
            (["search", "--data", "d"], "expected COLLECTION"),
            (["search", "--data", "d", "kb", "x", "y"], 'too many words, from "y" on'),
            (["collection", "list", "--data", "d", "x"], 'expected no words, got "x"'),
            (["backup", "--data", "d"], "expected DEST"),
            (["check", "some text", "--data", "d"], "--sources FILE, or --collection NAME"),
            (["ingest", "--data", "d", "--public", "--private", "kb", "/"], "exclude each other"),
            (["serve", "--data", "d", "--log-level", "loud"], "--log-level wants"),
            (["serve", "--data", self.data, "--set", "api.workers"], "--set wants KEY=VALUE"),
            (["serve", "--data", self.data, "--set", "api.workers=100000"], "outside"),
            (["serve", "--data", self.data, "--set", "no.such.key=1"], "no.such.key"),
            (["serve", "--data", self.data, "--backend", "abacus"], "abacus"),
            (["model", "add", "--role", "poet", "f.gguf"], "--role wants"),
        ]:
            with self.subTest(args):
                r = cairn(*args)
                self.assertEqual(r.returncode, USAGE, r.stderr)
                self.assertEqual(r.stdout, "")
                self.assertIn(says, r.stderr)

    def test_messages_name_the_command_and_point_to_help(self):
        r = self.run_ok("debug", "stat", "--frob", code=USAGE)
        self.assertRegex(r.stderr, r"\Acairn: debug stat: unknown option --frob\n`cairn debug stat --help`")

    def test_no_data_exits_3(self):
        for args in (["search", "kb", "x"], ["ask", "kb", "x"], ["debug", "check"], ["debug", "stat"],
                     ["doc", "list", "kb"], ["backup", os.path.join(self.root, "b")], ["collection", "list"]):
            with self.subTest(args):
                r = self.run_ok(*args, "--data", os.path.join(self.root, "absent"), code=NOT_FOUND)
                self.assertIn("absent", r.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.root, "absent")), "reading makes nothing")
        r = self.run_ok("ingest", "--data", self.data, "kb", os.path.join(self.root, "nothing"), code=NOT_FOUND)
        self.assertIn("nothing", r.stderr)
        self.run_ok("restore", os.path.join(self.root, "nothing"), "--data", self.data, code=NOT_FOUND)

    def test_version(self):
        self.assertRegex(self.run_ok("version").stdout, r"\Acairn \d+\.\d+\.\d+\n\Z")


class Local(Case):
    def test_ingest_search_and_their_shapes(self):
        r = self.ingest()
        self.assertEqual((r["put"], r["unchanged"], r["deleted"], r["n_failed"]), (4, 0, 0, 0))
        self.assertGreaterEqual(r["passages"], 4)
        s = self.run_json("search", "--data", self.data, *NONE, "kb", "days of paid leave")
        self.assertIsInstance(s["generation"], int)
        self.assertTrue(s["hits"])
        hit = s["hits"][0]
        self.assertEqual(hit["document_id"], "hr/leave.md")
        for key, kind in {"document_id": str, "passage_id": int, "score": (int, float), "start": int, "end": int,
                          "text": str, "path": str, "scores": dict}.items():
            self.assertIsInstance(hit[key], kind, key)
        raw = DOCUMENTS["hr/leave.md"].encode()
        for h in s["hits"]:
            if h["document_id"] == "hr/leave.md":
                self.assertEqual(raw[h["start"]:h["end"]].decode(), h["text"], "offsets are bytes of the document")
        one = self.run_json("search", "--data", self.data, *NONE, "--k", 1, "kb", "leave")
        self.assertEqual(len(one["hits"]), 1)

    def test_human_search_and_explain(self):
        self.ingest()
        out = self.run_ok("search", "--data", self.data, *NONE, "--explain", "kb", "VPN certificate").stdout
        self.assertIn("it/vpn.txt", out)
        self.assertIn("lexical", out)
        self.assertIn("nothing found", self.run_ok("search", "--data", self.data, *NONE, "kb", "xylophone").stdout)
        self.assertEqual(self.run_json("search", "--data", self.data, *NONE, "kb", "-", stdin="printer floor")["hits"][0]["document_id"],
                         "it/guide.html")

    def test_eval_all_takes_each_set_to_its_command_and_stops_a_drop(self):
        texts = {"d%d" % i: "word%d stands alone here" % i for i in range(12)}
        lines = lambda rows: "".join(json.dumps(r) + "\n" for r in rows)  # noqa: E731
        passages = lines({"_id": k, "title": "", "text": v} for k, v in texts.items())
        asked = [{"id": "q%d" % i, "question": "Where does word%d stand?" % i, "passage_id": "d%d" % i, "answers": ["alone"],
                  "is_impossible": False} for i in range(12)]
        judged = "query-id\tcorpus-id\tscore\n" + "".join("q%d\td%d\t1\n" % (i, i) for i in range(12))
        sets = os.path.join(self.root, "sets")
        write_tree(sets, {"beir/corpus.jsonl": passages, "beir/qrels.tsv": judged,
                          "beir/queries.jsonl": lines({"_id": q["id"], "text": q["question"]} for q in asked),
                          "squad/passages.jsonl": passages, "squad/questions.jsonl": lines(asked), "other/readme.txt": "nothing"}, None)
        page, one = os.path.join(self.root, "page.html"), os.path.join(self.root, "one")
        options = ["eval", "all", "--sets", sets, "--data", self.data, *NONE]
        parts = self.run_json(*options, "--out", one, "--report", page)["parts"]
        self.assertEqual([p["part"] for p in parts], ["retrieval-beir", "retrieval-squad", "answers-squad"])
        self.assertTrue(all(p["code"] == DONE for p in parts), parts)
        self.assertEqual(parts[0]["result"]["metrics"]["lexical"]["ndcg@10"], 1)
        with open(page, encoding="utf-8") as f:
            text = f.read()
        self.assertIn("retrieval: beir", text)
        self.assertNotIn("http", text)
        again = ["--baseline", one, "--fail-on-drop", "--only", "retrieval-beir"]
        self.run_json(*options, *again)
        write_tree(sets, {"beir/qrels.tsv": judged.replace("\td1\t", "\td2\t").replace("\td3\t", "\td4\t").replace("\td5\t", "\td6\t")
                          .replace("\td7\t", "\td8\t").replace("\td9\t", "\td10\t")}, None)
        self.assertEqual(self.run_json(*options, *again, code=FAILED)["parts"][0]["code"], FAILED)

    def test_ask_extract_has_the_promised_shape(self):
        self.ingest()
        a = self.run_json("ask", "--data", self.data, *NONE, "--mode", "extract", "kb", "How many days of paid leave per year?")
        self.assertEqual({"generation", "text", "sentences", "refusal", "model", "usage", "timings_ms"} - set(a), set())
        self.assertIsNone(a["refusal"])
        self.assertIn("30 days", a["text"])
        self.assertEqual({"prompt_tokens", "completion_tokens"} - set(a["usage"]), set())
        raw = a["text"].encode()
        self.assertTrue(a["sentences"])
        cited = 0
        for s in a["sentences"]:
            self.assertEqual(raw[s["start"]:s["end"]].decode(), s["text"])
            self.assertIn(s["verdict"], ("supported", "unsupported", "no_claim"))
            for c in s["citations"]:
                cited += 1
                self.assertEqual({"document_id", "passage_id", "passage_hash", "start", "end", "text"} - set(c), set())
                source = DOCUMENTS[c["document_id"]].encode()
                self.assertEqual(source[c["start"]:c["end"]].decode(), c["text"])
        self.assertGreater(cited, 0)
        human = self.run_ok("ask", "--data", self.data, *NONE, "--mode", "extract", "kb", "How many days of paid leave per year?").stdout
        self.assertIn("30 days", human)
        self.assertIn("\u2713", human)
        self.assertIn("hr/leave.md", human)
        waited = self.run_ok("ask", "--data", self.data, *NONE, "--mode", "extract", "--no-stream", "kb",
                             "How many days of paid leave per year?").stdout
        self.assertEqual(waited.split("\n\n")[0], human.split("\n\n")[0], "streamed or not, the text is the same")

    def test_a_refusal_exits_4(self):
        self.ingest()
        for more in ([], ["--json"]):
            r = self.run_ok("ask", "--data", self.data, *NONE, "--mode", "extract", *more, "kb", "xylophone quartet?", code=REFUSED)
            self.assertNotEqual(r.stdout, "")
        a = self.run_json("ask", "--data", self.data, *NONE, "--mode", "extract", "kb", "xylophone quartet?", code=REFUSED)
        self.assertEqual(set(a["refusal"]), {"reason", "message"})
        self.assertRegex(a["refusal"]["reason"], r"\A[a-z_]+\Z")

    def test_sync_is_idempotent_and_follows_the_directory(self):
        self.ingest()
        again = self.run_json("ingest", "--data", self.data, *NONE, "kb", self.source)
        self.assertEqual((again["put"], again["unchanged"], again["deleted"]), (0, 4, 0))
        os.remove(os.path.join(self.source, "it/vpn.txt"))
        write_tree(self.source, {"hr/leave.md": "# Annual leave\n\nEvery employee has 31 days of paid leave.\n"})
        third = self.run_json("ingest", "--data", self.data, *NONE, "kb", self.source)
        self.assertEqual((third["put"], third["unchanged"], third["deleted"]), (1, 2, 1))
        ids = [d["id"] for d in self.run_json("doc", "list", "--data", self.data, *NONE, "kb")["documents"]]
        self.assertEqual(ids, ["hr/leave.md", "hr/secret/salaries.md", "it/guide.html"])
        os.remove(os.path.join(self.source, "it/guide.html"))
        kept = self.run_json("ingest", "--data", self.data, *NONE, "--no-delete", "kb", self.source)
        self.assertEqual(kept["deleted"], 0)
        single = self.run_json("ingest", "--data", self.data, *NONE, "--acl", "none", "kb", os.path.join(self.source, "hr/leave.md"))
        self.assertEqual(single["deleted"], 0, "one file says nothing about the others")

    def test_delete_takes_a_document_out_of_everything(self):
        self.ingest()
        out = self.run_ok("doc", "delete", "--data", self.data, *NONE, "kb", "it/vpn.txt", "it/none.txt")
        self.assertIn("deleted 1", out.stdout)
        self.assertIn("1 of 2 were not there", out.stderr)
        hits = self.run_json("search", "--data", self.data, *NONE, "kb", "VPN gateway certificate")["hits"]
        self.assertNotIn("it/vpn.txt", [h["document_id"] for h in hits])
        self.run_ok("doc", "get", "--data", self.data, *NONE, "kb", "it/vpn.txt", code=NOT_FOUND)
        self.assertNotIn("certificate", self.run_ok("debug", "dump", "--data", self.data, "kb").stdout)
        for more in ([], ["--json"]):
            self.run_ok("doc", "delete", "--data", self.data, *NONE, *more, "kb", "it/vpn.txt", code=NOT_FOUND)

    def test_acl_decides_who_sees_what(self):
        self.ingest()
        question = "salary band of a senior engineer"

        def seen(*who):
            return {h["document_id"] for h in self.run_json("search", "--data", self.data, *NONE, *who, "kb", question)["hits"]}
        self.assertNotIn("hr/secret/salaries.md", seen())
        self.assertNotIn("hr/secret/salaries.md", seen("--as", "it"))
        self.assertIn("hr/secret/salaries.md", seen("--as", "hr"))
        self.assertIn("hr/secret/salaries.md", seen("--as", "it", "--as", "hr"))
        a = cairn("ask", "--data", self.data, *NONE, "--mode", "extract", "--json", "kb", question)
        self.assertNotIn("84000", a.stdout)
        self.assertIn("84000", cairn("ask", "--data", self.data, *NONE, "--mode", "extract", "--json", "--as", "hr", "kb", question).stdout)
        hidden = self.run_ok("doc", "get", "--data", self.data, *NONE, "--as", "it", "kb", "hr/secret/salaries.md", code=NOT_FOUND)
        absent = self.run_ok("doc", "get", "--data", self.data, *NONE, "--as", "it", "kb", "hr/secret/salarie5.md", code=NOT_FOUND)
        self.assertEqual(hidden.stderr.replace("salaries", "X"), absent.stderr.replace("salarie5", "X"), "hidden and absent read the same")
        self.run_ok("doc", "get", "--data", self.data, *NONE, "--as", "hr", "kb", "hr/secret/salaries.md")

    def test_collections(self):
        self.run_ok("collection", "create", "--data", self.data, *NONE, "--language", "german", "--private", "texte")
        c = self.run_json("collection", "describe", "--data", self.data, *NONE, "texte")
        self.assertEqual((c["collection"], c["language"], c["public"], c["dim"]), ("texte", "german", False, 0))
        self.assertIn("already", self.run_ok("collection", "create", "--data", self.data, *NONE, "texte", code=FAILED).stderr)
        self.run_ok("collection", "create", "--data", self.data, *NONE, "No Such Name!", code=USAGE)
        self.run_ok("collection", "update", "--data", self.data, *NONE, "--public", "texte")
        table = self.run_ok("collection", "list", "--data", self.data, *NONE).stdout.splitlines()
        self.assertEqual(len(table), 2)
        self.assertIn("public", table[1])
        self.run_ok("collection", "drop", "--data", self.data, *NONE, "texte")
        self.run_ok("collection", "describe", "--data", self.data, *NONE, "texte", code=NOT_FOUND)
        self.run_ok("search", "--data", self.data, *NONE, "texte", "x", code=NOT_FOUND)

    def test_index_of_brought_vectors(self):
        make = ("collection", "create", "--data", self.data, *NONE)
        self.assertIn("vectors of 3", self.run_ok(*make, "v", "--dim", 3, "--metric", "dot", "--index", "hnsw").stdout)
        self.run_ok(*make, "w", "--dim", 5000, code=USAGE)
        self.assertIn("metric", self.run_ok(*make, "w", "--metric", "dot", code=USAGE).stderr)
        self.run_ok("collection", "update", "--data", self.data, *NONE, "v", "--index", "ivf")
        info = self.run_json("index", "info", "--data", self.data)
        self.assertEqual([(c["collection"], c["dim"], c["metric"]) for c in info], [("v", 3, "dot")])
        for option in ([], ["--full"], ["v"]):
            self.assertGreaterEqual(self.run_json("index", "merge", *option, "--data", self.data)["n_merged"], 0)
        self.assertIn("DELTA", self.run_ok("index", "info", "--data", self.data).stdout)

    def test_documents_one_by_one(self):
        text = "Die Brücke wurde 1907 gebaut.\n"
        self.run_ok("doc", "put", "--data", self.data, *NONE, "kb", "note.txt", stdin=text)
        got = self.run_ok("doc", "get", "--data", self.data, *NONE, "--text", "kb", "note.txt")
        self.assertEqual(got.stdout, text)
        path = os.path.join(self.root, "f.md")
        with open(path, "w", encoding="utf-8") as f:
            f.write("# Kraniche\n\nKraniche ziehen im Oktober.\n")
        self.run_ok("doc", "put", "--data", self.data, *NONE, "--title", "Cranes", "--allow", "bird watchers", "kb", "f.md", path)
        d = self.run_json("doc", "get", "--data", self.data, *NONE, "kb", "f.md")
        self.assertEqual((d["title"], d["principals"], d["mime"]), ("Cranes", ["bird watchers"], "text/markdown"))
        page = self.run_json("doc", "list", "--data", self.data, *NONE, "--limit", 1, "kb")
        self.assertEqual(([x["id"] for x in page["documents"]], page["next"]), (["f.md"], "f.md"))
        rest = self.run_json("doc", "list", "--data", self.data, *NONE, "--limit", 1, "--after", "f.md", "kb")
        self.assertEqual([x["id"] for x in rest["documents"]], ["note.txt"])

    def test_files_that_are_no_documents_are_named_and_do_not_stop_the_others(self):
        write_tree(self.source, DOCUMENTS)
        with open(os.path.join(self.source, "broken.txt"), "wb") as f:
            f.write(b"valid until here \xff\xfe and not after\n")
        open(os.path.join(self.source, "empty.md"), "w").close()
        r = self.run_ok("ingest", "--data", self.data, *NONE, "kb", self.source, code=FAILED)
        self.assertIn("broken.txt", r.stderr)
        self.assertIn("put 4", r.stdout)
        j = self.run_json("ingest", "--data", self.data, *NONE, "kb", self.source, code=FAILED)
        self.assertIn("broken.txt", [f["id"] for f in j["failed"]])

    def test_an_empty_mount_empties_nothing(self):
        self.ingest()
        empty = os.path.join(self.root, "empty")
        os.mkdir(empty)
        self.run_ok("ingest", "--data", self.data, *NONE, "kb", empty, code=FAILED)
        self.assertEqual(len(self.run_json("doc", "list", "--data", self.data, *NONE, "kb")["documents"]), 4)

    def test_check_gives_each_sentence_a_verdict(self):
        self.ingest()
        source = os.path.join(self.source, "hr/leave.md")
        text = "Every employee has 30 days of paid leave per year. Every employee has 99 days of paid leave per year."
        for args, stdin in (([text], None), (["-"], text)):
            c = self.run_json("check", "--data", self.data, *NONE, "--sources", source, *args, stdin=stdin)
            self.assertEqual([s["verdict"] for s in c["claims"]], ["supported", "unsupported"])
            self.assertTrue(0 < c["support_score"] < 1)
        human = self.run_ok("check", "--data", self.data, *NONE, "--sources", source, text).stdout
        self.assertIn("\u2713", human)
        self.assertIn("\u2717", human)
        by_search = self.run_json("check", "--data", self.data, *NONE, "--collection", "kb", text)
        self.assertEqual(by_search["claims"][0]["verdict"], "supported")

    def test_what_a_document_holds_cannot_drive_the_terminal(self):
        write_tree(self.source, {"evil.txt": "The bell \x1b]0;owned\x07 rings at \x1b[31mnoon\x1b[0m in the old tower.\n"})
        r = cairn("ingest", "--data", self.data, *NONE, "kb", self.source)
        if r.returncode == DONE:  # a loader may refuse it as no text, which is as well
            for command in (["search"], ["ask", "--mode", "extract"]):
                out = cairn(*command, "--data", self.data, *NONE, "kb", "When does the bell in the old tower ring?").stdout
                self.assertNotIn("\x1b", out)
                self.assertNotIn("\x07", out)

    def test_settings_come_from_file_and_option(self):
        config = os.path.join(self.root, "cairn.conf")
        with open(config, "w", encoding="utf-8") as f:
            f.write("# ours\napi.workers = 3\napi.inflight_max = 7\n")
        self.ingest()
        rows = self.run_json("info", "--data", self.data, *NONE, "--config", config, "--set", "api.workers=5")["config"]
        values = {r["key"]: r["value"] for r in rows}
        self.assertEqual((values["api.workers"], values["api.inflight_max"]), (5, 7))
        with open(config, "w", encoding="utf-8") as f:
            f.write("api.worker = 3\n")
        self.assertIn("api.worker", self.run_ok("info", "--data", self.data, "--config", config, code=USAGE).stderr)

    def test_missing_models_are_named(self):
        nowhere = os.path.join(self.root, "no-models")
        self.ingest()
        r = cairn("ask", "--data", self.data, "--models", nowhere, "--mode", "generate", "kb", "How many days of leave?")
        self.assertEqual(r.returncode, FAILED, r.stderr)
        self.assertIn("generator", r.stderr)
        self.assertIn("no models", self.run_ok("model", "list", "--models", nowhere).stdout)
        self.assertEqual(self.run_json("model", "list", "--models", nowhere), {"models": []})
        self.run_ok("model", "inspect", "--models", nowhere, "nothing", code=NOT_FOUND)
        junk = os.path.join(self.root, "junk.gguf")
        with open(junk, "wb") as f:
            f.write(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
        self.run_ok("model", "inspect", junk, code=FAILED)
        self.run_ok("model", "add", "--models", nowhere, junk, code=FAILED)

    def test_closed_stdout_is_a_failure(self):
        self.ingest()
        with open("/dev/full", "w") as full:
            p = subprocess.run([CAIRN, "doc", "list", "--data", self.data, *NONE, "kb"], stdout=full, stderr=subprocess.PIPE, text=True,
                               timeout=WAIT_S, env=environment())
        self.assertEqual(p.returncode, FAILED)
        self.assertIn("stdout", p.stderr)

    def test_progress_draws_only_on_a_terminal(self):
        write_tree(self.source, DOCUMENTS)
        try:
            main, side = pty.openpty()
        except OSError as error:
            self.skipTest(f"SKIP: no terminal to draw on: {error}")
        p = subprocess.Popen([CAIRN, "ingest", "--data", self.data, *NONE, "kb", self.source], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=side, env=environment())
        os.close(side)
        seen = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        os.close(main)
        p.stdout.close()
        self.assertEqual(p.wait(timeout=WAIT_S), DONE)
        self.assertIn(b"\r", seen)
        self.assertIn(b"files", seen)
        quiet = self.run_ok("ingest", "--data", self.data, *NONE, "--quiet", "kb", self.source)
        self.assertEqual(quiet.stderr, "")


class Operators(Case):
    def digest(self, data):
        return self.run_ok("debug", "digest", "--data", data).stdout

    def test_backup_and_restore_give_the_same_store(self):
        self.ingest()
        backup, again = os.path.join(self.root, "backup"), os.path.join(self.root, "again")
        self.run_ok("backup", "--data", self.data, backup)
        self.run_ok("restore", backup, "--data", again)
        self.assertRegex(self.digest(self.data), r"\A[0-9a-f]{64}\n\Z")
        self.assertEqual(self.digest(again), self.digest(self.data))
        self.assertEqual(self.run_ok("debug", "check", "--data", again).stdout, "clean\n")
        self.assertEqual(os.listdir(again), ["store"], "nothing is left beside it")
        hits = self.run_json("search", "--data", again, *NONE, "kb", "paid leave")["hits"]
        self.assertEqual(hits[0]["document_id"], "hr/leave.md")
        self.run_ok("backup", "--data", self.data, backup, code=FAILED)  # it exists

    def test_restore_overwrites_nothing(self):
        self.ingest()
        backup = os.path.join(self.root, "backup")
        self.run_ok("backup", "--data", self.data, backup)
        self.run_ok("doc", "delete", "--data", self.data, *NONE, "kb", "it/vpn.txt")
        before = self.digest(self.data)
        r = self.run_ok("restore", backup, "--data", self.data, code=FAILED)
        self.assertIn("already holds a store", r.stderr)
        self.assertEqual(self.digest(self.data), before)

    def damage(self, directory):
        """Changes one letter of a stored value. The store is a compacted copy, so that no page in it is an old one."""
        paths = [os.path.join(d, n) for d, _, names in os.walk(directory) for n in names if n == "data.mdb"]
        self.assertEqual(len(paths), 1)
        with open(paths[0], "r+b") as f:
            at = f.read().index(b"Annual leave")
            f.seek(at)
            f.write(b"B")

    def test_restore_refuses_a_damaged_backup(self):
        self.ingest()
        backup, again = os.path.join(self.root, "backup"), os.path.join(self.root, "again")
        self.run_ok("backup", "--data", self.data, backup)
        self.damage(backup)
        r = self.run_ok("restore", backup, "--data", again, code=FAILED)
        self.assertIn("nothing was restored", r.stderr)
        self.assertEqual(os.listdir(again), [], "nothing is left behind")

    def test_a_failed_rename_leaves_nothing(self):
        self.ingest()
        backup, again = os.path.join(self.root, "backup"), os.path.join(self.root, "again")
        self.run_ok("backup", "--data", self.data, backup)
        self.run_ok("restore", backup, "--data", again, code=FAILED, env=environment(CAIRN_FAILPOINTS="cli.restore_rename=error"))
        self.assertEqual(os.listdir(again), [])
        self.run_ok("restore", backup, "--data", again)

    def test_a_killed_restore_is_none(self):
        self.ingest()
        backup, again = os.path.join(self.root, "backup"), os.path.join(self.root, "again")
        self.run_ok("backup", "--data", self.data, backup)
        p = subprocess.run([CAIRN, "restore", backup, "--data", again], capture_output=True, timeout=WAIT_S,
                           env=environment(CAIRN_FAILPOINTS="cli.restore_rename=kill"))
        self.assertEqual(p.returncode, -signal.SIGKILL)
        self.run_ok("search", "--data", again, "kb", "leave", code=NOT_FOUND)
        left = os.listdir(again)
        self.assertEqual(len(left), 1, left)
        self.run_ok("restore", backup, "--data", again)
        self.assertFalse(set(left) & set(os.listdir(again)))
        self.assertEqual(self.digest(again), self.digest(self.data))

    def test_check_finds_a_flipped_byte(self):
        self.ingest()
        copy = os.path.join(self.root, "copy")
        self.run_ok("backup", "--data", self.data, copy)
        self.assertEqual(self.run_json("debug", "check", "--data", copy), {"clean": True, "findings": []})
        self.damage(copy)
        r = self.run_ok("debug", "check", "--data", copy, code=FAILED)
        self.assertNotEqual(r.stdout, "")
        j = self.run_json("debug", "check", "--data", copy, code=FAILED)
        self.assertFalse(j["clean"])
        self.assertTrue(j["findings"])

    def test_stat_and_dump(self):
        self.ingest()
        st = self.run_json("debug", "stat", "--data", self.data)
        self.assertEqual((st["n_collections"], st["n_documents"]), (1, 4))
        lines = self.run_ok("debug", "dump", "--data", self.data).stdout.splitlines()
        self.assertTrue(lines)
        for line in lines:
            json.loads(line)
        self.assertEqual(self.run_ok("debug", "dump", "--data", self.data, "kb").stdout.splitlines(), lines)
        self.run_ok("debug", "dump", "--data", self.data, "absent", code=NOT_FOUND)

    def test_the_same_documents_give_the_same_digest(self):
        self.ingest()
        first = self.digest(self.data)
        self.run_ok("ingest", "--data", self.data, *NONE, "kb", self.source)
        self.assertEqual(self.digest(self.data), first)
        self.run_ok("doc", "delete", "--data", self.data, *NONE, "kb", "it/vpn.txt")
        self.assertNotEqual(self.digest(self.data), first)


class Served(Case):
    def test_ready_line_round_trip_and_drain_over_tcp(self):
        self.ingest()
        s = self.serve()
        self.assertRegex(s.rpc, r"\A127\.0\.0\.1:[1-9]\d*\Z")
        self.assertRegex(s.http, r"\A127\.0\.0\.1:[1-9]\d*\Z")
        here = self.run_json("search", "--data", self.data, *NONE, "kb", "paid leave")
        there = self.run_json("search", "--server", s.rpc, "--as", "everyone", "kb", "paid leave")
        self.assertEqual([(h["document_id"], h["start"], h["score"]) for h in there["hits"]],
                         [(h["document_id"], h["start"], h["score"]) for h in here["hits"]])
        a = self.run_json("ask", "--server", s.rpc, "--as", "everyone", "--mode", "extract", "kb", "How many days of paid leave per year?")
        self.assertIn("30 days", a["text"])
        streamed = self.run_ok("ask", "--server", s.rpc, "--as", "everyone", "--mode", "extract", "kb", "How many days of paid leave per year?")
        self.assertTrue(streamed.stdout.startswith(a["text"].split("\n")[0][:20]), streamed.stdout)
        self.run_ok("search", "--server", s.rpc, "absent", "x", code=NOT_FOUND)
        self.assertEqual(self.run_json("debug", "stat", "--server", s.rpc)["store"]["n_documents"], 4)
        self.assertIn("0.1.0", self.run_ok("info", "--server", s.rpc).stdout)
        code, rest = s.stop()
        self.assertEqual((code, rest), (DONE, ""), "one line on stdout, and exit 0 after the drain")
        r = self.run_ok("search", "--server", s.rpc, "kb", "x", code=FAILED)
        self.assertIn("is the server running", r.stderr)

    def test_unix_socket(self):
        self.ingest()
        path = os.path.join(self.root, "s")
        s = self.serve(listen="unix:" + path, http="none")
        self.assertEqual((s.rpc, s.http), ("unix:" + path, "none"))
        self.assertTrue(self.run_json("search", "--server", s.rpc, "kb", "paid leave")["hits"])
        self.assertEqual(s.stop(signal.SIGINT)[0], DONE)
        self.assertFalse(os.path.exists(path), "the socket's name goes with the server")

    def test_http_port_answers(self):
        import http.client
        s = self.serve()
        host, port = s.http.rsplit(":", 1)
        for path, says in (("/healthz", b""), ("/metrics", b"cairn_")):
            c = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
            c.request("GET", path)
            r = c.getresponse()
            self.assertEqual(r.status, 200, path)
            self.assertIn(says, r.read())
            c.close()

    def test_a_second_writer_is_told_who_holds_the_store(self):
        self.ingest()
        s = self.serve()
        for args in (["ingest", "--data", self.data, *NONE, "kb", self.source], ["doc", "delete", "--data", self.data, *NONE, "kb", "it/vpn.txt"],
                     ["serve", "--data", self.data, "--listen", "127.0.0.1:0", "--http", "none", *NONE]):
            with self.subTest(args[0]):
                r = self.run_ok(*args, code=FAILED)
                self.assertRegex(r.stderr, r"process|running|holds|in use|open")
        self.run_ok("debug", "check", "--data", self.data)  # readers are welcome
        self.run_json("search", "--data", self.data, *NONE, "kb", "paid leave")
        self.run_ok("backup", "--data", self.data, os.path.join(self.root, "hot"))
        self.assertEqual(s.stop()[0], DONE)
        self.run_ok("doc", "delete", "--data", self.data, *NONE, "kb", "it/vpn.txt")

    def test_ingest_through_a_server_is_the_same_sync(self):
        write_tree(self.source, DOCUMENTS, ACL)
        s = self.serve()
        first = self.run_json("ingest", "--server", s.rpc, "kb", self.source)
        self.assertEqual((first["put"], first["deleted"], first["n_failed"]), (4, 0, 0))
        again = self.run_json("ingest", "--server", s.rpc, "kb", self.source)
        self.assertEqual((again["put"], again["unchanged"], again["deleted"]), (0, 4, 0))
        self.assertEqual(set(again), set(first))
        os.remove(os.path.join(self.source, "it/vpn.txt"))
        write_tree(self.source, {"new.md": "# New\n\nA new page about herons.\n"},
                   {"groups": ["everyone", "hr", "it"], "rules": [{"path": "hr/secret/*", "allow": ["hr"]}, {"path": "it/*", "allow": ["it"]},
                                                                  {"path": "*", "allow": ["everyone"]}]})
        third = self.run_json("ingest", "--server", s.rpc, "kb", self.source)
        self.assertEqual((third["put"], third["unchanged"], third["deleted"]), (2, 2, 1), "a new ACL is a change too")
        self.assertEqual(s.stop()[0], DONE)
        other = os.path.join(self.root, "other")
        self.run_json("ingest", "--data", other, *NONE, "kb", self.source)
        local = self.run_json("doc", "list", "--data", other, *NONE, "kb")["documents"]
        remote = self.run_json("doc", "list", "--data", self.data, *NONE, "kb")["documents"]
        drop = ("document_generation",)
        self.assertEqual([{k: v for k, v in d.items() if k not in drop} for d in remote],
                         [{k: v for k, v in d.items() if k not in drop} for d in local])

    def test_keys_open_exactly_what_their_role_allows(self):
        self.ingest()
        secret = {}
        for role, who in (("admin", []), ("read_only", ["--as", "hr"]), ("user", [])):
            r = self.run_ok("key", "create", "--data", self.data, *NONE, "--role", role, "--name", role, *who)
            self.assertRegex(r.stdout, r"\Acairn_[0-9a-f]{16}_\S+\n\Z")
            secret[role] = r.stdout.strip()
        listed = self.run_ok("key", "list", "--data", self.data, *NONE).stdout
        self.assertEqual(len(listed.splitlines()), 4)
        for s in secret.values():
            self.assertNotIn(s[23:66], listed)  # after "cairn_", the id and "_"; the secret itself may hold a "_"
        server = self.serve()
        at = ["--server", server.rpc]
        self.run_ok("search", *at, "kb", "paid leave", code=FAILED)  # no key
        bad = self.run_ok("search", *at, "--key", secret["user"][:-1] + "x", "kb", "paid leave", code=FAILED)
        self.assertIn("key", bad.stderr)
        question = "salary band of a senior engineer"
        for role, sees in (("read_only", True), ("user", False)):
            hits = self.run_json("search", *at, "kb", question, env=environment(CAIRN_KEY=secret[role]))["hits"]
            self.assertEqual("hr/secret/salaries.md" in [h["document_id"] for h in hits], sees, role)
        self.run_ok("search", *at, "--key", secret["user"], "--as", "hr", "kb", question, code=FAILED)
        self.run_ok("doc", "delete", *at, "--key", secret["read_only"], "kb", "it/vpn.txt", code=FAILED)
        self.run_ok("key", "list", *at, "--key", secret["user"], code=FAILED)
        self.run_ok("doc", "delete", *at, "--key", secret["user"], "kb", "it/vpn.txt")
        self.run_ok("key", "revoke", *at, "--key", secret["admin"], secret["user"].split("_")[1])
        self.run_ok("search", *at, "--key", secret["user"], "kb", "paid leave", code=FAILED)
        self.run_ok("key", "revoke", *at, "--key", secret["admin"], "0" * 16, code=NOT_FOUND)

    def test_remote_addresses_need_a_word(self):
        r = cairn("serve", "--data", self.data, *NONE, "--listen", "0.0.0.0:0", "--http", "none")
        self.assertIn(r.returncode, (FAILED, USAGE))
        self.assertIn("--allow-remote", r.stderr)

    def test_a_second_signal_ends_at_once(self):
        s = self.serve()
        s.p.send_signal(signal.SIGTERM)
        s.p.send_signal(signal.SIGTERM)
        self.assertIn(s.stop()[0], (DONE, FAILED))


class WithModels(Case):
    """The small profile: real answers of a real generator."""
    MODELS = ["--embedder", "all-minilm-l6-v2", "--reranker", "none", "--generator", "smollm2-135m-instruct-q4_1"]

    def setUp(self):
        super().setUp()
        names = {m["name"]: m for m in self.run_json("model", "list")["models"]}
        for name in self.MODELS[1::2]:
            if name != "none" and name not in names:
                self.skipTest("model %s is absent" % name)
        write_tree(self.source, DOCUMENTS, ACL)
        r = self.run_json("ingest", "--data", self.data, *self.MODELS, "kb", self.source)
        self.assertEqual((r["put"], r["n_failed"]), (4, 0))
        self.assertEqual(r["embedded"], r["passages"])

    def test_a_generated_answer_has_a_verdict_per_sentence(self):
        args = ["ask", "--data", self.data, *self.MODELS, "--mode", "generate", "--max-tokens", 48, "--seed", 1, "kb",
                "How many days of paid leave does every employee have?"]
        r = cairn(*args, "--json")
        self.assertIn(r.returncode, (DONE, REFUSED), r.stderr)
        a = json.loads(r.stdout)
        if a["refusal"] is None:
            self.assertEqual(a["model"], "smollm2-135m-instruct-q4_1")
            self.assertGreater(a["usage"]["prompt_tokens"], 0)
            self.assertGreater(a["usage"]["completion_tokens"], 0)
            self.assertTrue(a["sentences"])
            raw = a["text"].encode()
            for s in a["sentences"]:
                self.assertIn(s["verdict"], ("supported", "unsupported", "no_claim"))
                self.assertEqual(raw[s["start"]:s["end"]].decode(), s["text"])
        else:
            self.assertEqual(r.returncode, REFUSED)
        self.assertEqual(json.loads(cairn(*args, "--json").stdout)["text"], a["text"], "the same seed gives the same answer")

    def test_vectors_find_what_words_do_not(self):
        hits = self.run_json("search", "--data", self.data, *self.MODELS, "--dense", "--k", 1, "kb", "How long is my holiday?")["hits"]
        self.assertEqual(hits[0]["document_id"], "hr/leave.md")
        again = self.run_json("ingest", "--data", self.data, *self.MODELS, "kb", self.source)
        self.assertEqual((again["unchanged"], again["embedded"]), (4, 0))

    def test_a_search_tells_its_plan_and_is_measured_when_idle(self):
        import urllib.request
        s = self.serve(*self.MODELS, "--set", "api.recall_sample_pct=100", models=True)
        found = self.run_json("search", "--server", s.rpc, "--explain", "--ef", 50, "--index", "hnsw", "kb", "How long is my holiday?")
        self.assertTrue(found["explain"]["plan"]["path"])
        self.assertGreaterEqual(found["explain"]["plan"]["n_scored"], 0)
        exact = self.run_json("search", "--server", s.rpc, "--exact", "--explain", "kb", "How long is my holiday?")
        self.assertEqual([h["passage_id"] for h in exact["hits"]], [h["passage_id"] for h in found["hits"]])
        self.assertNotIn("plan", self.run_json("search", "--server", s.rpc, "--lexical", "--explain", "kb", "holiday")["explain"])
        for _ in range(100):
            text = urllib.request.urlopen("http://%s/metrics" % s.http, timeout=WAIT_S).read().decode()
            samples = sum(int(n) for n in re.findall(r"^cairn_ann_recall_samples_total\{.*\} (\d+)$", text, re.M))
            if samples:
                break
            time.sleep(0.1)
        self.assertEqual(samples, 1, "the exact one and the one by words need no measuring")
        self.assertRegex(text, r'cairn_ann_recall_ratio\{band="\w+"\} 1\.0')

    def test_single_steps(self):
        out = self.run_ok("tokenize", "--data", self.data, *self.MODELS, "paid leave").stdout
        self.assertRegex(out, r"\A[\d ]+\n\d+ tokens")
        lines = self.run_ok("embed", "--data", self.data, *self.MODELS, "paid leave", "printer").stdout.splitlines()
        vectors = [json.loads(line) for line in lines]
        self.assertEqual([len(v) for v in vectors], [384, 384])
        self.assertAlmostEqual(sum(x * x for x in vectors[0]), 1, places=4)
        info = self.run_json("model", "inspect", "smollm2-135m-instruct-q4_1")
        self.assertIn("llama", json.dumps(info))
        memory = info["memory"]
        if "total_bytes" in memory:  # a build under a sanitizer cannot count
            self.assertEqual(memory["total_bytes"], memory["mapped_bytes"] + memory["held_bytes"] + memory["kv_bytes"])
            self.assertGreater(memory["held_bytes"], 1 << 20)

    def test_ctrl_c_cancels_an_answer(self):
        p = subprocess.Popen([CAIRN, "ask", "--data", self.data, *self.MODELS, "--mode", "generate", "--max-tokens", "400", "--temperature", "1",
                              "kb", "How many days of paid leave does every employee have?"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        first = p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        _, errors = p.communicate(timeout=WAIT_S)
        self.assertNotEqual(first, "")
        if p.returncode == FAILED:
            self.assertIn("interrupted", errors)
        else:  # it was done before the signal came
            self.assertIn(p.returncode, (DONE, REFUSED), errors)


    def test_computed_prompts_are_shared_by_those_who_may_read_the_same(self):
        import urllib.request
        s = self.serve(*self.MODELS, "--set", "generator.relevance_min=0", models=True)

        def usage(*who):
            flags = [f for w in who for f in ("--as", w)]
            r = cairn("ask", "--server", s.rpc, "--mode", "generate", "--max-tokens", "8", *flags, "--json", "kb",
                      "How many days of paid leave does every employee have?")
            self.assertIn(r.returncode, (DONE, REFUSED), r.stderr)
            return json.loads(r.stdout)["usage"]
        first, again, other = usage("it", "everyone"), usage("everyone", "it"), usage("everyone")
        self.assertEqual(first["prompt_tokens"], other["prompt_tokens"], "the same question, sources and prompt")
        self.assertEqual(first["cached_tokens"], 0)
        self.assertEqual(again["cached_tokens"], again["prompt_tokens"] - 1)
        self.assertGreater(other["cached_tokens"], 0, "the system message is everybody's")
        self.assertLess(other["cached_tokens"], 80, "and nothing else")
        self.assertEqual(usage("everyone")["cached_tokens"], again["cached_tokens"])
        stats = self.run_json("debug", "stat", "--server", s.rpc)["generator"]
        self.assertEqual(stats["cached_tokens"], 2 * again["cached_tokens"] + other["cached_tokens"])
        self.assertEqual(stats["kv_pages_free"], stats["kv_pages"], "kept pages are free for the asking")
        text = urllib.request.urlopen("http://%s/metrics" % s.http, timeout=WAIT_S).read().decode()
        self.assertIn("cairn_generator_cached_tokens_total %d\n" % stats["cached_tokens"], text)

    def test_a_drain_lets_the_answer_finish(self):
        s = self.serve(*self.MODELS, models=True)
        p = subprocess.Popen([CAIRN, "ask", "--server", s.rpc, "--mode", "generate", "--max-tokens", "24", "--seed", "1", "--as", "everyone",
                              "--json", "kb", "How many days of paid leave does every employee have?"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        until = time.monotonic() + WAIT_S
        while self.run_json("debug", "stat", "--server", s.rpc)["requests"]["running"] < 2 and p.poll() is None:
            self.assertLess(time.monotonic(), until)
        code, _ = s.stop()
        out, errors = p.communicate(timeout=WAIT_S)
        self.assertEqual(code, DONE)
        self.assertIn(p.returncode, (DONE, REFUSED), errors)
        self.assertIn("sentences", json.loads(out))

    def test_ctrl_c_of_a_client_frees_the_server(self):
        s = self.serve(*self.MODELS, models=True)
        p = subprocess.Popen([CAIRN, "ask", "--server", s.rpc, "--mode", "generate", "--max-tokens", "400", "--temperature", "1", "--as",
                              "everyone", "kb", "How many days of paid leave does every employee have?"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=WAIT_S)
        until = time.monotonic() + WAIT_S
        while True:  # the question is dropped, and the server goes on
            requests = self.run_json("debug", "stat", "--server", s.rpc)["requests"]
            if requests["running"] <= 1 and requests["waiting"] == 0:  # this very call is running
                break
            self.assertLess(time.monotonic(), until, requests)
            time.sleep(0.1)
        self.assertTrue(self.run_json("search", "--server", s.rpc, "kb", "paid leave")["hits"])
        self.assertEqual(s.stop()[0], DONE)


def main():
    global CAIRN
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    CAIRN = os.path.abspath(sys.argv[1])
    rest = sys.argv[2:]
    with_models = "--models" in rest
    rest = [a for a in rest if a != "--models"]
    if rest:
        suite = unittest.defaultTestLoader.loadTestsFromNames(rest, sys.modules[__name__])
    else:
        classes = [WithModels] if with_models else [Usage, Local, Operators, Served]
        suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(c) for c in classes)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        return 1
    if result.testsRun and len(result.skipped) == result.testsRun:
        print("SKIP: model files are absent; scripts/models fetches them")
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main())
