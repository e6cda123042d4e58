"""The protocol without any I/O: bytes in, messages out. Both clients are thin layers over this."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import msgpack

MESSAGE_BYTES_MAX = 64 << 20  # of one message from the server


class CairnError(Exception):
    """The server refused or failed. `code` is stable ("NOT_FOUND"), `message` is for a person."""

    def __init__(self, code: str, message: str, data: Any = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class ProtocolError(Exception):
    """The other side does not speak msgpack-RPC as we know it."""


class ConnectionLost(ConnectionError):
    """The connection ended before the answer came."""


class Response(NamedTuple):
    msgid: int
    error: Any
    result: Any


class Notification(NamedTuple):
    method: str
    params: List[Any]


def parse_address(address: str) -> Tuple[str, Optional[int]]:
    """("host", port), or (path, None) for "unix:PATH"."""
    if address.startswith("unix:"):
        return address[5:], None
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"address {address!r}: expected HOST:PORT or unix:PATH")
    return host.strip("[]") or "127.0.0.1", int(port)


def to_error(error: Any) -> CairnError:
    if isinstance(error, dict):
        return CairnError(str(error.get("code", "INTERNAL")), str(error.get("message", "")), error.get("data"))
    code, colon, message = str(error).partition(": ")
    return CairnError(code, message) if colon else CairnError("INTERNAL", str(error))


class Protocol:
    """Numbers requests and splits the server's byte stream into messages."""

    def __init__(self) -> None:
        self._next = 0
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=MESSAGE_BYTES_MAX)

    def request(self, method: str, params: Dict[str, Any]) -> Tuple[int, bytes]:
        msgid = self._next
        self._next = (self._next + 1) & 0xFFFFFFFF
        clean = {key: value for key, value in params.items() if value is not None}
        return msgid, msgpack.packb([0, msgid, method, [clean]], use_bin_type=True)

    @staticmethod
    def notification(method: str, params: List[Any]) -> bytes:
        packed: bytes = msgpack.packb([2, method, params], use_bin_type=True)
        return packed

    def feed(self, data: bytes) -> Iterator[Any]:
        """Response and Notification objects that are now complete."""
        self._unpacker.feed(data)
        for message in self._unpacker:
            if not isinstance(message, list) or not message:
                raise ProtocolError(f"expected an array, got {type(message).__name__}")
            if message[0] == 1 and len(message) == 4:
                yield Response(message[1], message[2], message[3])
            elif message[0] == 2 and len(message) == 3:
                yield Notification(message[1], message[2])
            else:
                raise ProtocolError(f"unexpected message of type {message[0]!r}")


def hello_params(key: Optional[str]) -> Dict[str, Any]:
    return {"proto": 1, "client": "cairn-python/0.1.0", "key": key, "errors": "map", "events": True}


def event_of(message: Notification) -> Tuple[Optional[int], Dict[str, Any]]:
    """(msgid, event) of a stream notification; (None, {}) for any other."""
    if message.params and isinstance(message.params[0], dict):
        event = dict(message.params[0])
        return event.pop("msgid", None), event
    return None, {}
