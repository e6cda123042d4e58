"""Each method's parameters, once for both clients. `_call` is blocking or returns an awaitable; so do these."""

from __future__ import annotations

import struct
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

from .types import Document


class Methods:
    def _call(self, method: str, params: Dict[str, Any]) -> Any:
        raise NotImplementedError

    def call(self, method: str, **params: Any) -> Any:
        """Any method by its wire name, for what has no function here."""
        return self._call(method, params)

    def health(self) -> Any:
        return self._call("server.health", {})

    def info(self) -> Any:
        return self._call("server.info", {})

    def stats(self) -> Any:
        return self._call("server.stats", {})

    def describe(self) -> Any:
        return self._call("rpc.describe", {})

    def collection_create(self, name: str, **options: Any) -> Any:
        return self._call("collection.create", {"collection": name, **options})

    def collection_list(self) -> Any:
        return self._call("collection.list", {})

    def collection_describe(self, name: str) -> Any:
        return self._call("collection.describe", {"collection": name})

    def collection_drop(self, name: str) -> Any:
        return self._call("collection.drop", {"collection": name})

    def put(self, collection: str, documents: Sequence[Document], *, create: Optional[bool] = None) -> Any:
        """On return the documents are on disk and in every search."""
        return self._call("doc.put", {"collection": collection, "documents": list(documents), "create": create})

    def get(self, collection: str, id: str) -> Any:
        return self._call("doc.get", {"collection": collection, "id": id})

    def list(self, collection: str, *, after: Optional[str] = None, limit: Optional[int] = None) -> Any:
        return self._call("doc.list", {"collection": collection, "after": after, "limit": limit})

    def delete(self, collection: str, ids: Sequence[str]) -> Any:
        """On return no search, answer or citation shows the documents."""
        return self._call("doc.delete", {"collection": collection, "ids": list_of(ids)})

    def search(
        self,
        collection: str,
        query: str,
        *,
        k: Optional[int] = None,
        principals: Optional[Sequence[str]] = None,
        **options: Any,
    ) -> Any:
        return self._call(
            "search", {"collection": collection, "query": query, "k": k, "principals": list_of(principals), **options}
        )

    def vector_put(self, collection: str, vectors: Sequence[Dict[str, Any]]) -> Any:
        """[{id, vector, text?, title?, principals?}], all or none. The collection is made by collection_create(name, dim=...)."""
        return self._call(
            "vector.put",
            {"collection": collection, "vectors": [{**vector, "vector": f32_bytes(vector["vector"])} for vector in list_of(vectors) or []]},
        )

    def vector_search(
        self,
        collection: str,
        vector: Union[bytes, Iterable[float]],
        *,
        k: Optional[int] = None,
        principals: Optional[Sequence[str]] = None,
        **options: Any,
    ) -> Any:
        """Options: exact, index, ef, nprobe, with_text, explain."""
        return self._call(
            "vector.search",
            {"collection": collection, "vector": f32_bytes(vector), "k": k, "principals": list_of(principals), **options},
        )

    def ask(
        self,
        collection: str,
        question: str,
        *,
        mode: Optional[str] = None,
        principals: Optional[Sequence[str]] = None,
        **options: Any,
    ) -> Any:
        """The whole answer at once; ask_stream() gives it piece by piece."""
        return self._call(
            "ask",
            {"collection": collection, "question": question, "mode": mode, "principals": list_of(principals), **options},
        )

    def ground_check(self, text: str, sources: Sequence[str], **options: Any) -> Any:
        return self._call("ground.check", {"text": text, "sources": [{"text": source} for source in list_of(sources) or []], **options})

    def eval_run(self, collection: str, **options: Any) -> Any:
        """queries or questions, as docs/wire.md says."""
        return self._call("eval.run", {"collection": collection, **options})

    def embed(self, texts: Sequence[str], **options: Any) -> Any:
        return self._call("embed", {"texts": list_of(texts), **options})

    def rerank(self, query: str, texts: Sequence[str]) -> Any:
        return self._call("rerank", {"query": query, "texts": list_of(texts)})

    def models(self) -> Any:
        return self._call("model.list", {})


def f32_bytes(vector: Union[bytes, Iterable[float]]) -> bytes:
    """Little-endian f32, as the wire takes it; bytes go as they are."""
    if isinstance(vector, (bytes, bytearray, memoryview)):
        return bytes(vector)
    numbers = [float(number) for number in vector]
    return struct.pack(f"<{len(numbers)}f", *numbers)


def list_of(values: Optional[Sequence[Any]]) -> Optional[List[Any]]:
    if isinstance(values, (str, bytes)):
        raise TypeError("expected a sequence of values, not one string")
    return None if values is None else [*values]
