"""One side of the connection between two processes: whole frames over a socket pair.

A frame that has been begun must be finished, or the other side could make nothing of what follows: whoever is cancelled
while it sends one leaves the rest to whoever sends next. The end of the other process is the end of the connection,
`PeerGone`, in whatever way it came.
"""

from __future__ import annotations

import socket
from collections import deque

import trio

from .wire import HEADER_SIZE, Buffer, Frame, read_header, read_sizes, sizes_size

CHUNK = 64 * 1024
KERNEL_BUFFER = 1024 * 1024  # asked for: the usual 200 KB make a large message stop and go


class PeerGone(Exception):
    """The other process has closed the connection, or has ended."""


class Link:
    """See above."""

    def __init__(self, sock: socket.socket) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._at_once = sock.send  # Trio has made it non-blocking
        self._sending = trio.StrictFIFOLock()
        self._outbox = deque[memoryview]()  # the rest of what is to be sent
        self._put = self._sent = 0  # bytes that were ever put into the outbox, and that have gone over
        self._came = bytearray()  # and has not been looked at

    def close(self) -> None:
        """Close this side. Idempotent."""
        self._socket.close()

    async def send(self, chunks: list[Buffer]) -> None:
        """Send one frame; a checkpoint only if it has to wait. Raises `PeerGone`: not all of it has gone over.

        Cancelled, it goes over with the next one. Most frames are small, and the kernel takes them at once: two steps
        of the event loop less on either side.
        """
        self._outbox.extend(memoryview(chunk) for chunk in chunks if len(chunk))
        self._put += sum(map(len, chunks))
        end = self._put
        try:
            if not self._sending.locked():
                self._send_at_once()
            if self._sent < end:
                async with self._sending:
                    while self._sent < end:
                        self._gone_over(await self._socket.send(self._outbox[0]))
        except OSError:
            raise PeerGone from None

    def _send_at_once(self) -> None:
        try:
            self._gone_over(self._at_once(self._outbox[0]))
        except BlockingIOError:
            pass

    def _gone_over(self, size: int) -> None:
        self._sent += size
        first = self._outbox.popleft()
        if size < len(first):
            self._outbox.appendleft(first[size:])

    async def receive(self) -> Frame:
        """The next frame. Raises `PeerGone`."""
        try:
            kind, ident, parts = read_header(await self._take(HEADER_SIZE))
            sizes = read_sizes(await self._take(sizes_size(parts))) if parts else []
            return Frame(kind, ident, [await self._take(size) for size in sizes])
        except OSError:  # reset
            raise PeerGone from None

    async def _take(self, size: int) -> bytearray:
        came = self._came
        if len(came) < size <= CHUNK:
            await self._fill(size)
        if len(came) >= size:
            taken = came[:size]
            del came[:size]
            return taken
        return await self._take_large(size)

    async def _fill(self, size: int) -> None:
        while len(self._came) < size:
            data = await self._socket.recv(CHUNK)
            if not data:
                raise PeerGone
            self._came += data

    async def _take_large(self, size: int) -> bytearray:
        """Into its final place, without a copy."""
        taken, have = bytearray(size), len(self._came)
        taken[:have] = self._came
        self._came.clear()
        with memoryview(taken) as view:
            while have < size:
                got = await self._socket.recv_into(view[have:])
                if not got:
                    raise PeerGone
                have += got
        return taken
