"""Client for cairn: blocking (Client) and asyncio (AsyncClient), msgpack-RPC over TCP or a Unix socket."""

from .aio import AsyncAskStream, AsyncClient
from .blocking import AskStream, Client
from .wire import CairnError, ConnectionLost, ProtocolError
from .types import (
    Answer,
    AskEvent,
    Citation,
    CollectionInfo,
    Document,
    DocumentInfo,
    GroundCheck,
    Hit,
    Refusal,
    SearchResult,
    Sentence,
    SyncResult,
)

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AskEvent",
    "AskStream",
    "AsyncAskStream",
    "AsyncClient",
    "CairnError",
    "Citation",
    "Client",
    "CollectionInfo",
    "ConnectionLost",
    "Document",
    "DocumentInfo",
    "GroundCheck",
    "Hit",
    "ProtocolError",
    "Refusal",
    "SearchResult",
    "Sentence",
    "SyncResult",
]
