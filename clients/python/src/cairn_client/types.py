"""Shapes of what goes over the wire. Offsets are bytes into the document's text in UTF-8."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypedDict


class Citation(TypedDict):
    document_id: str
    passage_id: int
    passage_hash: str
    start: int
    end: int
    text: str


class Sentence(TypedDict):
    text: str
    start: int
    end: int
    verdict: str  # "supported", "unsupported" or "no_claim"
    score: float
    citations: List[Citation]


class Refusal(TypedDict):
    reason: str
    message: str


class Answer(TypedDict):
    generation: int
    text: str
    sentences: List[Sentence]
    refusal: Optional[Refusal]
    model: str
    usage: Dict[str, int]
    timings_ms: Dict[str, float]


class AskEvent(TypedDict, total=False):
    kind: str  # "sources", "delta", "sentence", or "restart": forget deltas and sentences so far
    reason: str  # of a restart: "quoted", "checked" (the text comes again) or "refused"
    seq: int
    text: str
    sources: List[Dict[str, Any]]
    verdict: str
    score: float


class Hit(TypedDict):
    document_id: str
    passage_id: int
    score: float
    start: int
    end: int
    text: str
    path: str
    scores: Dict[str, Optional[float]]


class SearchResult(TypedDict):
    generation: int
    hits: List[Hit]


class Document(TypedDict, total=False):
    """What put() takes: an id, and text or content with its mime type."""

    id: str
    title: str
    text: str
    content: bytes
    mime: str
    principals: List[str]


class DocumentInfo(TypedDict, total=False):
    id: str
    title: str
    path: str
    mime: str
    content_hash: str
    generation: int
    n_passages: int
    text: str
    principals: List[str]


class CollectionInfo(TypedDict, total=False):
    name: str
    n_documents: int
    n_passages: int
    language: str
    embedder: str
    dim: int
    is_public: bool


class SyncResult(TypedDict, total=False):
    generation: int
    failed: List[Dict[str, str]]


class GroundCheck(TypedDict, total=False):
    support_score: float
    claims: List[Dict[str, Any]]
