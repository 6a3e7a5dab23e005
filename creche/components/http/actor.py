"""The actor that serves.

Theory of operation
-------------------
The listening socket is made once and kept by the cell. Each incarnation serves a duplicate of it, which is closed at
its end; the original, and with it the kernel's backlog, stays. Connections run in the lifespan's nursery (see
`serving`): an error of the application is answered 500, an error in the protocol of a connection closes that
connection, and an error of the server itself is a crash of this actor. A kill drops the connections that are open. At a
stop the listener closes first, and open requests have `drain` seconds.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, cast

import trio

from ...runtime.actor import Actor, message
from ...runtime.asgi import ASGIApp
from ...runtime.events import Shed
from ...supervisors.pools.admission import Admission
from .admission import Gate, admitted
from .app import attended, limited
from .config import ServerConfig

if TYPE_CHECKING:
    from .serving import Server

logger = logging.getLogger("hypercorn.error")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A server at this moment.

    Parameters
    ----------
    running, waiting, shed
        Requests that are being handled; that wait in line; that were refused by this incarnation for having waited too
        long.
    broken
        Connections that this incarnation has closed because of an error in their protocol.
    """

    running: int
    waiting: int
    shed: int
    broken: int


class HttpActor(Actor):
    """See above."""

    def __init__(self, config: ServerConfig, app: ASGIApp) -> None:
        self._config = config
        self._gate = Gate(config.requests, Admission(config.wait_target, config.wait_interval), self._tell_shed)
        self._app = attended(admitted(limited(app, config.write_timeout), self._gate), config.read_timeout)
        self._broken = 0
        self._socket = self.context.keep("socket", partial(listening_socket, config), socket.socket.close)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        server = _hypercorn(self._app, self._config, self._tell_broken)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, self._socket, stop)
            yield
            stop.set()

    @message(on_caller_gone="cancel")
    async def address(self) -> tuple[str, int]:
        """Where the server listens."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    @message(on_caller_gone="cancel")
    async def statistics(self) -> ServerStatistics:
        """What is being handled, what waits, what was refused, and what broke."""
        return ServerStatistics(self._gate.running, self._gate.waiting, self._gate.shed, self._broken)

    def _tell_shed(self, waited: float) -> None:
        hub = self.context.runtime.events
        if hub.on:
            hub.emit(Shed(trio.current_time(), self.context.path, self.context.incarnation, "request", waited))

    def _tell_broken(self, errors: ExceptionGroup[Exception]) -> None:
        self._broken += 1
        told = ", ".join(repr(error) for error in leaves(errors))
        logger.warning("a connection was closed because of an error in its protocol: %s", told)


def listening_socket(config: ServerConfig) -> socket.socket:
    """Bind and listen. Raises OSError, which fails the actor's start with the address in its text."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # of its connections: some are WebSockets
        listener.bind((config.host, config.port))
        listener.listen(config.backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {config.host}:{config.port}: {error.strerror}") from None
    return listener


def leaves(errors: ExceptionGroup[Exception]) -> Iterator[Exception]:
    """The errors themselves, from groups in groups."""
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from leaves(cast("ExceptionGroup[Exception]", error))
        else:
            yield error


def _hypercorn(app: ASGIApp, config: ServerConfig, broken: Callable[[ExceptionGroup[Exception]], object]) -> Server:
    """Imported here so that a service without HTTP needs no HTTP packages."""
    try:
        from hypercorn.config import Config

        from .serving import Server
    except ImportError as error:
        raise ImportError("the HTTP server needs Hypercorn: pip install 'creche[http]'") from error
    inner = Config()
    inner.errorlog = logger
    inner.loglevel = "WARNING"
    inner.graceful_timeout = config.drain
    inner.keep_alive_timeout = ceil(config.idle_timeout)
    inner.include_server_header = False
    return Server(app, inner, write_timeout=config.write_timeout, broken=broken)
