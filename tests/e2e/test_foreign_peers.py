"""msgpack-RPC clients that know nothing of cairn: Neovim headless, and pynvim's session. They call server.health, search and ask
without a hello, so errors are strings and no notification may reach them."""

import json
import shutil
import subprocess
import unittest

from harness import NO_MODELS, Server, data_dir, run

try:
    from pynvim.msgpack_rpc import tcp_session
except ImportError:
    tcp_session = None

NVIM = shutil.which("nvim")
QUESTION = "How many weeks is parental leave?"
LUA = """
local chan = vim.fn.sockconnect('tcp', '%s', {rpc = true})
local out = {}
out.health = vim.rpcrequest(chan, 'server.health', vim.empty_dict())
out.search = vim.rpcrequest(chan, 'search', {collection = 'handbook', query = 'parental leave'})
out.ask = vim.rpcrequest(chan, 'ask', {collection = 'handbook', question = '%s', mode = 'extract'})
local ok, err = pcall(vim.rpcrequest, chan, 'search', {collection = 'nowhere', query = 'x'})
out.refused, out.error = not ok, tostring(err)
io.stdout:write(vim.fn.json_encode(out))
"""


class ForeignPeers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.data = data_dir()
        cls.path = cls.data.__enter__()
        with open(f"{cls.path}/leave.md", "w", encoding="utf-8") as file:
            file.write("# Leave\n\nParental leave is 20 weeks.\n")
        run("ingest", "--data", f"{cls.path}/store", "handbook", f"{cls.path}/leave.md", *NO_MODELS)
        cls.server = Server(f"{cls.path}/store", *NO_MODELS)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)
        cls.data.__exit__(None, None, None)

    def expect(self, health, search, ask):
        self.assertTrue(health)
        self.assertEqual(search["hits"][0]["document_id"], "leave.md")
        self.assertIn("20 weeks", ask["text"])
        self.assertEqual(ask["sentences"][0]["verdict"], "supported")

    @unittest.skipUnless(NVIM, "SKIP: no nvim")
    def test_neovim(self):
        done = subprocess.run(
            [NVIM, "--headless", "-u", "NONE", "-c", "lua " + (LUA % (self.server.rpc, QUESTION)).replace("\n", " "), "-c", "qa!"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        out = json.loads(done.stdout or "null") or self.fail(done.stderr)
        self.expect(out["health"], out["search"], out["ask"])
        self.assertTrue(out["refused"])
        self.assertIn("NOT_FOUND: ", out["error"])

    @unittest.skipUnless(tcp_session, "SKIP: no pynvim")
    def test_pynvim_session(self):
        host, port = self.server.rpc.rsplit(":", 1)
        session = tcp_session(host, int(port))
        session.error_wrapper = lambda error: RuntimeError(error)  # pynvim's Nvim object sets its own
        try:
            self.expect(
                session.request("server.health", {}),
                session.request("search", {"collection": "handbook", "query": "parental leave"}),
                session.request("ask", {"collection": "handbook", "question": QUESTION, "mode": "extract"}),
            )
            with self.assertRaises(Exception) as raised:
                session.request("search", {"collection": "nowhere", "query": "x"})
            self.assertIn("NOT_FOUND", str(raised.exception))
        finally:
            session.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
