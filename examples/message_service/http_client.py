"""A small HTTP/1.1 client on Trio and h11: one kept-alive connection that is opened anew when it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import h11
import trio


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client(Protocol):
    """What a client of the service needs: one request at a time."""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """Send a request and read the whole response."""
        ...

    async def close(self) -> None:
        """Drop the connection."""


class HttpClient:
    """One connection, for one task.

    Raises OSError, `trio.BrokenResourceError` or `h11.RemoteProtocolError` when the exchange broke: its outcome is
    unknown.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._stream: trio.SocketStream | None = None
        self._protocol = h11.Connection(h11.CLIENT)

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """Send a request and read the whole response."""
        try:
            return await self._exchange(method, path, headers or {}, body)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Drop the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        stream = await self._connected()
        all_headers = {"Host": f"{self._host}:{self._port}", "Content-Length": str(len(body)), **headers}
        request = h11.Request(method=method, target=path, headers=list(all_headers.items()))
        data = b"".join(
            self._protocol.send(event) or b"" for event in (request, h11.Data(data=body), h11.EndOfMessage())
        )
        await stream.send_all(data)
        reply = await self._read(stream)
        if self._protocol.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._protocol.start_next_cycle()
        else:
            await self.close()
        return reply

    async def _connected(self) -> trio.SocketStream:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream(self._host, self._port)
            self._protocol = h11.Connection(h11.CLIENT)
        return self._stream

    async def _read(self, stream: trio.SocketStream) -> Reply:
        status, headers, body = 0, {}, bytearray()
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("the server closed the connection")
