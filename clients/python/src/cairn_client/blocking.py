"""Client: one connection, one thread at a time. Responses of other requests that arrive in between are kept for them."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, Deque, Dict, Iterator, Optional

from . import wire
from .methods import Methods
from .types import Answer, AskEvent


class AskStream:
    """Iterate for the events; `answer` is there when the iteration has ended. `cancel()` stops the server's work."""

    def __init__(self, client: "Client", msgid: int) -> None:
        self._client = client
        self._msgid = msgid
        self.answer: Optional[Answer] = None

    def __iter__(self) -> Iterator[AskEvent]:
        while True:
            item = self._client._next_for(self._msgid)
            if isinstance(item, wire.Response):
                if item.error is not None:
                    raise wire.to_error(item.error)
                self.answer = item.result
                return
            yield item

    def cancel(self) -> None:
        self._client._send(wire.Protocol.notification("$/cancel", [self._msgid]))


class Client(Methods):
    """`with Client("127.0.0.1:7420", key="cairn_...") as c: c.ask("handbook", "...")`"""

    def __init__(self, address: str, *, key: Optional[str] = None, timeout: Optional[float] = 120.0) -> None:
        self._protocol = wire.Protocol()
        self._inbox: Dict[int, Deque[Any]] = {}
        host, port = wire.parse_address(address)
        if port is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(timeout)
            self._socket.connect(host)
        else:
            self._socket = socket.create_connection((host, port), timeout=timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.server = self._call("hello", wire.hello_params(key))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask_stream(self, collection: str, question: str, **options: Any) -> AskStream:
        msgid = self._start("ask", {"collection": collection, "question": question, **options})
        return AskStream(self, msgid)

    def sync(self, collection: str, path: str, **options: Any) -> Any:
        """Makes the collection equal to a directory on the server's machine; only new and changed files cost work."""
        return self._call("doc.sync", {"collection": collection, "path": path, **options})

    def _call(self, method: str, params: Dict[str, Any]) -> Any:
        msgid = self._start(method, params)
        while True:
            item = self._next_for(msgid)
            if isinstance(item, wire.Response):
                if item.error is not None:
                    raise wire.to_error(item.error)
                return item.result

    def _start(self, method: str, params: Dict[str, Any]) -> int:
        msgid, data = self._protocol.request(method, params)
        self._inbox[msgid] = deque()
        self._send(data)
        return msgid

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _next_for(self, msgid: int) -> Any:
        """The next event or the response of one request."""
        if msgid not in self._inbox:
            raise wire.ProtocolError(f"request {msgid} has already ended")
        while not self._inbox[msgid]:
            data = self._socket.recv(1 << 16)
            if not data:
                raise wire.ConnectionLost("the server closed the connection before the answer came")
            for message in self._protocol.feed(data):
                if isinstance(message, wire.Response):
                    if message.msgid in self._inbox:
                        self._inbox[message.msgid].append(message)
                else:
                    of, event = wire.event_of(message)
                    if of in self._inbox:
                        self._inbox[of].append(event)
        item = self._inbox[msgid].popleft()
        if isinstance(item, wire.Response):
            del self._inbox[msgid]
        return item
