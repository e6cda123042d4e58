"""AsyncClient: one connection shared by any number of tasks of one event loop."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Awaitable, Dict, Optional

from . import wire
from .methods import Methods
from .types import Answer, AskEvent


class AsyncAskStream:
    """`async for event in stream`; `answer` is there when the iteration has ended."""

    def __init__(self, client: "AsyncClient", msgid: int) -> None:
        self._client = client
        self._msgid = msgid
        self.answer: Optional[Answer] = None

    async def __aiter__(self) -> AsyncIterator[AskEvent]:
        try:
            while True:
                item = await self._client._next_for(self._msgid)
                if isinstance(item, wire.Response):
                    if item.error is not None:
                        raise wire.to_error(item.error)
                    self.answer = item.result
                    return
                yield item
        finally:
            self._client._inbox.pop(self._msgid, None)

    async def cancel(self) -> None:
        await self._client._send(wire.Protocol.notification("$/cancel", [self._msgid]))


class AsyncClient(Methods):
    """`async with AsyncClient("127.0.0.1:7420") as c: await c.search("handbook", "...")`"""

    def __init__(self, address: str, *, key: Optional[str] = None, timeout: Optional[float] = 120.0) -> None:
        self._address = address
        self._key = key
        self._timeout = timeout
        self._protocol = wire.Protocol()
        self._inbox: Dict[int, "asyncio.Queue[Any]"] = {}
        self._reader_task: Optional["asyncio.Task[None]"] = None
        self._writer: Optional[asyncio.StreamWriter] = None
        self.server: Any = None

    async def connect(self) -> "AsyncClient":
        host, port = wire.parse_address(self._address)
        opening = asyncio.open_unix_connection(host) if port is None else asyncio.open_connection(host, port)
        reader, self._writer = await asyncio.wait_for(opening, self._timeout)
        self._reader_task = asyncio.create_task(self._read(reader))
        try:
            self.server = await self._call("hello", wire.hello_params(self._key))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aenter__(self) -> "AsyncClient":
        return await self.connect()

    async def __aexit__(self, *exc: Any) -> None:
        await self.close()

    async def close(self) -> None:
        if self._reader_task:
            self._reader_task.cancel()
            try:
                await self._reader_task
            except asyncio.CancelledError:
                pass
        if self._writer:
            self._writer.close()
            try:
                await self._writer.wait_closed()
            except OSError:
                pass

    async def ask_stream(self, collection: str, question: str, **options: Any) -> AsyncAskStream:
        msgid = await self._start("ask", {"collection": collection, "question": question, **options})
        return AsyncAskStream(self, msgid)

    def sync(self, collection: str, path: str, **options: Any) -> Awaitable[Any]:
        """Makes the collection equal to a directory on the server's machine; only new and changed files cost work."""
        return self._call("doc.sync", {"collection": collection, "path": path, **options})

    async def _call(self, method: str, params: Dict[str, Any]) -> Any:
        msgid = await self._start(method, params)
        try:
            while True:
                item = await self._next_for(msgid)
                if isinstance(item, wire.Response):
                    if item.error is not None:
                        raise wire.to_error(item.error)
                    return item.result
        finally:
            self._inbox.pop(msgid, None)

    async def _start(self, method: str, params: Dict[str, Any]) -> int:
        msgid, data = self._protocol.request(method, params)
        self._inbox[msgid] = asyncio.Queue()
        await self._send(data)
        return msgid

    async def _send(self, data: bytes) -> None:
        if self._writer is None or self._reader_task is None or self._reader_task.done():
            raise wire.ConnectionLost("not connected")
        self._writer.write(data)
        await self._writer.drain()

    async def _next_for(self, msgid: int) -> Any:
        item = await asyncio.wait_for(self._inbox[msgid].get(), self._timeout)
        if isinstance(item, BaseException):
            raise item
        return item

    def _deliver(self, msgid: Optional[int], item: Any) -> None:
        if msgid in self._inbox:
            self._inbox[msgid].put_nowait(item)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        end: BaseException = wire.ConnectionLost("the server closed the connection before the answer came")
        try:
            while True:
                data = await reader.read(1 << 16)
                if not data:
                    break
                for message in self._protocol.feed(data):
                    if isinstance(message, wire.Response):
                        self._deliver(message.msgid, message)
                    else:
                        self._deliver(*wire.event_of(message))
        except (OSError, wire.ProtocolError) as error:
            end = error
        finally:
            for queue in self._inbox.values():
                queue.put_nowait(end)
