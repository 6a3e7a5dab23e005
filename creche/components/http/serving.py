"""Connections: accepted, given to Hypercorn, and ended in time.

Theory of operation
-------------------
Each connection is a `TCPServer` of Hypercorn in a task of its own, all of them in one nursery. `serve` takes the place
of `hypercorn.trio.serve`, which lets connections harm each other in two ways:

* An error that leaves a connection's protocol there ends all connections, and some errors are the client's to make: a
  header that is no base64 is enough. Here it ends its own connection (`_serve_connection`), and no other.
* Hypercorn shields its writes from cancellation, so a peer that never reads holds whatever waits for it. Here a write
  has a deadline of its own, which a shield does not keep out (`Connection.send_all`); and one task closes all sockets
  when it is cancelled with the connections, at a kill and when the time to drain is over: a write to a socket that has
  been closed ends at once (`_close_all_when_cancelled`).

Hypercorn calls `TCPServer` an internal matter. What is used of it: the order of its five arguments; that a stream
without `do_handshake` is taken for plain TCP; that of a stream it needs `socket`, `send_all`, `receive_some`,
`send_eof` and `aclose`; that Trio's BrokenResourceError and ClosedResourceError end a connection in silence; and that
setting the context's `terminated` ends each connection after the request that it is at.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from ...runtime.asgi import ASGIApp
from .app import request_deadline


class Server:
    """Serves `app` on a duplicate of a listening socket, once.

    Parameters
    ----------
    write_timeout
        In seconds, of one write to a connection that no request bounds otherwise.
    broken
        Called with each error that has ended a connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        *,
        write_timeout: float,
        broken: Callable[[ExceptionGroup[Exception]], object],
    ) -> None:
        self._app = ASGIWrapper(cast("Any", app))
        self._config = config
        self._write_timeout = write_timeout
        self._broken = broken
        self._context = WorkerContext(max_requests=None)
        self._open: dict[Connection, None] = {}

    async def serve(
        self,
        listener: socket.socket,
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until `stop` is set; then connections have the config's `graceful_timeout` to end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_all_when_cancelled)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    await accepting.start(partial(self._accept, listener, connections))
                    task_status.started()
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                await self._context.terminated.set()
                nursery.cancel_scope.deadline = trio.current_time() + self._config.graceful_timeout
            nursery.cancel_scope.cancel()

    async def _accept(
        self, listener: socket.socket, connections: trio.Nursery, *, task_status: trio.TaskStatus[Any]
    ) -> None:
        async with trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup())) as duplicate:
            await trio.serve_listeners(
                self._serve_connection, [duplicate], handler_nursery=connections, task_status=task_status
            )

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        connection = Connection(stream, self._write_timeout)
        self._open[connection] = None
        try:
            await TCPServer(self._app, self._config, self._context, ConnectionState({}), cast("Any", connection)).run()
        except* Exception as errors:  # of a group that holds cancellations too they go on
            self._broken(errors)
        finally:
            del self._open[connection]

    async def _close_all_when_cancelled(self) -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            for connection in self._open:
                connection.socket.close()


class Connection:
    """A stream that has an end to its writes, in Hypercorn's eyes a plain one."""

    def __init__(self, stream: trio.SocketStream, write_timeout: float) -> None:
        self._stream = stream
        self._write_timeout = write_timeout
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def send_all(self, data: bytes) -> None:
        """Raises BrokenResourceError if the peer has not taken it in time; the connection is closed then."""
        deadline = min(request_deadline.get(), trio.current_time() + self._write_timeout)
        with trio.CancelScope(deadline=deadline) as limit:
            await self._stream.send_all(data)
        if limit.cancelled_caught:
            self.socket.close()  # which tells the task that reads from it
            raise trio.BrokenResourceError("the peer does not read")
