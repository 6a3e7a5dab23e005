"""What is asked of the kernel about a TCP connection, beyond sending and receiving.

Linux answers. For other systems, and for streams that are no sockets, there is nothing to wait for: nothing is on its
way, and nobody is known to have left.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from contextlib import suppress

import trio

if sys.platform == "linux":
    import fcntl
    import termios

Stream = trio.abc.HalfCloseableStream

PROBE_EVERY = 15
"""Seconds of silence after which a peer is asked whether it is there, and again."""
_CLOSED = 7  # TCP_CLOSE of <netinet/tcp.h>


async def reset(stream: Stream) -> None:
    """Close with a reset (RST) where there is such a thing: what waits to be sent is thrown away."""
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError, trio.ClosedResourceError):
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    else:
        await trio.aclose_forcefully(stream)


def on_its_way(stream: Stream) -> int:
    """How many bytes were sent that have not arrived in the peer's kernel yet, and still may."""
    if sys.platform != "linux" or not isinstance(stream, trio.SocketStream) or is_over(stream):
        return 0
    size = array.array("i", [0])
    fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, size)
    return size[0]


def is_over(stream: Stream) -> bool:
    """Whether the connection is known to exist no more: it was reset, or nobody answered for long."""
    if sys.platform != "linux" or not isinstance(stream, trio.SocketStream):
        return False
    if stream.socket.fileno() == -1:
        return True
    state, *_ = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state == _CLOSED


def probe(stream: Stream) -> None:
    """From now on the kernel asks a silent peer whether it is there; its program does not notice.

    One that has only half closed answers that it is. One that has closed is forgotten by its kernel, after a minute by
    default, which then answers with a reset: the connection `is_over`.
    """
    if sys.platform == "linux" and isinstance(stream, trio.SocketStream) and not is_over(stream):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_EVERY)
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
