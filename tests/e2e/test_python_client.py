"""The Python client against a real server: blocking, asyncio, streaming, errors, cancel."""

import asyncio
import struct
import unittest

from harness import NO_MODELS, Server, data_dir, run

from cairn_client import AsyncClient, CairnError, Client, ConnectionLost

DOCUMENTS = [
    {"id": "leave.md", "title": "Leave", "text": "# Leave\n\nParental leave is 20 weeks. It is paid for 14 weeks.\n"},
    {"id": "travel.md", "title": "Travel", "text": "# Travel\n\nA hotel may cost 140 euros a night in Zürich.\n"},
]


class PythonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.data = data_dir()
        cls.path = cls.data.__enter__()
        cls.server = Server(cls.path, *NO_MODELS)
        with Client(cls.server.rpc) as cairn:
            put = cairn.put("handbook", DOCUMENTS, create=True)
            assert put["put"] == 2, put

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)
        cls.data.__exit__(None, None, None)

    def test_search_finds_what_was_put(self):
        with Client(self.server.rpc) as cairn:
            hits = cairn.search("handbook", "hotel in Zürich", k=1)["hits"]
            self.assertEqual(hits[0]["document_id"], "travel.md")
            text = cairn.get("handbook", "travel.md")["text"].encode()
            self.assertEqual(text[hits[0]["start"] : hits[0]["end"]].decode(), hits[0]["text"])

    def test_an_answer_is_quoted_cited_and_judged(self):
        with Client(self.server.rpc) as cairn:
            answer = cairn.ask("handbook", "How many weeks is parental leave?", mode="extract")
            self.assertIsNone(answer["refusal"])
            self.assertIn("20 weeks", answer["text"])
            for sentence in answer["sentences"]:
                self.assertEqual(sentence["verdict"], "supported")
                for citation in sentence["citations"]:
                    text = cairn.get("handbook", citation["document_id"])["text"].encode()
                    self.assertEqual(text[citation["start"] : citation["end"]].decode(), citation["text"])

    def test_a_stream_gives_sources_text_verdicts_then_the_answer(self):
        with Client(self.server.rpc) as cairn:
            stream = cairn.ask_stream("handbook", "How many weeks is parental leave?", mode="extract")
            events = list(stream)
            self.assertEqual(events[0]["kind"], "sources")
            self.assertEqual([event["seq"] for event in events], list(range(len(events))))
            text = "".join(event["text"] for event in events if event["kind"] == "delta")
            self.assertEqual(text, stream.answer["text"])
            verdicts = [event for event in events if event["kind"] == "sentence"]
            self.assertEqual(len(verdicts), len(stream.answer["sentences"]))

    def test_errors_have_a_code_and_a_sentence(self):
        with Client(self.server.rpc) as cairn:
            for call, code in [
                (lambda: cairn.search("nowhere", "x"), "NOT_FOUND"),
                (lambda: cairn.search("handbook", ""), "INVALID_ARGUMENT"),
                (lambda: cairn.call("no.such.method"), "UNIMPLEMENTED"),
                (lambda: cairn.call("search", collection=7, query="x"), "INVALID_ARGUMENT"),
                (lambda: cairn.get("handbook", "none.md"), "NOT_FOUND"),
            ]:
                with self.assertRaises(CairnError) as raised:
                    call()
                self.assertEqual(raised.exception.code, code, raised.exception)
                self.assertGreater(len(raised.exception.message), 8)
            self.assertTrue(cairn.health())

    def test_many_tasks_share_one_connection(self):
        async def main():
            async with AsyncClient(self.server.rpc) as cairn:
                results = await asyncio.gather(*(cairn.search("handbook", f"weeks of leave {i}") for i in range(40)))
                for result in results:
                    self.assertEqual(result["hits"][0]["document_id"], "leave.md")
                stream = await cairn.ask_stream("handbook", "How many weeks is parental leave?", mode="extract")
                kinds = [event["kind"] async for event in stream]
                self.assertIn("sentence", kinds)
                self.assertIn("20 weeks", stream.answer["text"])
                with self.assertRaises(CairnError):
                    await cairn.search("nowhere", "x")

        asyncio.run(main())

    def test_a_lost_server_is_an_error_and_not_a_hang(self):
        with data_dir() as path:
            server = Server(path, *NO_MODELS)
            cairn = Client(server.rpc)
            server.kill()
            server.process.stdout.close()
            with self.assertRaises((ConnectionLost, OSError)):
                cairn.health()
            cairn.close()

    def test_a_deleted_document_is_gone_when_delete_returns(self):
        with Client(self.server.rpc) as cairn:
            cairn.put("handbook", [{"id": "gone.md", "text": "The zanzibar protocol applies on Fridays."}])
            self.assertEqual(cairn.search("handbook", "zanzibar")["hits"][0]["document_id"], "gone.md")
            self.assertEqual(cairn.delete("handbook", ["gone.md"])["deleted"], 1)
            self.assertNotIn("gone.md", [hit["document_id"] for hit in cairn.search("handbook", "zanzibar")["hits"]])

    def test_brought_vectors_are_found_and_deleted(self):
        with Client(self.server.rpc) as cairn:
            made = cairn.collection_create("vectors", dim=3, metric="cosine", index="auto")
            self.assertEqual(made["dim"], 3)
            put = cairn.vector_put(
                "vectors",
                [
                    {"id": "a", "vector": [1.0, 0.0, 0.0], "text": "alpha", "title": "A"},
                    {"id": "b", "vector": [0, 1, 0]},
                    {"id": "c", "vector": struct.pack("<3f", 0, 0, 1), "principals": ["staff"]},
                ],
            )
            self.assertEqual(put["put"], 3)
            for exact in (False, True):
                found = cairn.vector_search("vectors", [0.9, 0.1, 0], k=2, exact=exact, with_text=True, explain=True)
                self.assertEqual([hit["id"] for hit in found["hits"]], ["a", "b"])
                self.assertEqual(found["hits"][0]["text"], "alpha")
                self.assertIn("path", found["explain"])
            self.assertEqual(len(cairn.vector_search("vectors", [0, 0, 1], principals=[])["hits"]), 2)
            with self.assertRaises(CairnError) as raised:
                cairn.vector_put("vectors", [{"id": "d", "vector": [1, 1, 1]}, {"id": "e", "vector": [1, float("nan"), 1]}])
            self.assertEqual(raised.exception.code, "INVALID_ARGUMENT")
            self.assertIn("vectors[1]", raised.exception.message)
            self.assertEqual(len(cairn.vector_search("vectors", [1, 1, 1])["hits"]), 3)
            cairn.delete("vectors", ["a"])
            self.assertEqual(cairn.vector_search("vectors", [1, 0, 0], k=1)["hits"][0]["id"], "b")
            self.assertIn("merge", cairn.stats())

            async def main():
                async with AsyncClient(self.server.rpc) as also:
                    return await also.vector_search("vectors", [0, 0, 1], k=1)

            self.assertEqual(asyncio.run(main())["hits"][0]["id"], "c")
        done = run("index", "merge", "--data", self.path, check=False)
        self.assertNotEqual(done.returncode, 0)  # the server holds the writer's lock
        self.assertIn("vectors", run("index", "info", "--data", self.path).stdout)
        self.assertIn("clean", run("debug", "check", "--data", self.path).stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
