"""The actor of a proxy.

Theory of operation
-------------------
What was asked of the proxy, its faults and whether it refuses, and what it has counted, is kept by the cell, and so is
the port: a proxy that crashes comes back as it was, and clients that connect meanwhile wait in the kernel's backlog.
Its connections are of the incarnation: they run in the lifespan's nursery and are closed when it ends.

A change of faults is made between two steps of the scheduler for all connections, and before any further one is
accepted: once the message is answered, no byte comes out under the old faults, and no connection slips through.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from random import Random
from typing import TYPE_CHECKING, final

import trio

from ...runtime.actor import Actor, message
from .connection import Connection, Traffic
from .events import ConnectionClosed, ConnectionOpened, FaultsChanged, ListenerChanged, UpstreamUnreachable
from .faults import Ending, Fault, by_name
from .link import Link
from .port import Address, Port
from .sockets import reset
from .statistics import Statistics

if TYPE_CHECKING:
    from ...runtime.events import Event

_DIAL_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the proxy is told when it is made. Checked by `tcp_proxy`."""

    upstream: Address
    listen: Address
    faults: tuple[Fault, ...]
    buffer: int
    seed: int | None


@final
@dataclass(slots=True)
class _Desk:
    """What outlives incarnations."""

    port: Port
    random: Random
    faults: dict[str, Fault]
    total: int = 0
    unreachable: int = 0
    traffic: Traffic = field(default_factory=Traffic)  # of connections that have ended
    struck: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, names: Sequence[str]) -> None:
        """Faults have struck a connection."""
        for name in names:
            self.struck[name] = self.struck.get(name, 0) + 1


class ProxyActor(Actor):
    """See above."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._desk = self.context.keep("desk", self._new_desk, lambda desk: desk.port.close())
        self._connections: dict[int, Connection] = {}
        self._serving = trio.CancelScope()
        self._served = trio.Event()
        self._nursery: trio.Nursery

    def _new_desk(self) -> _Desk:
        seed = self._plan.seed
        random = Random(self.context.runtime.random.getrandbits(64) if seed is None else seed)
        return _Desk(Port(self._plan.listen), random, by_name(self._plan.faults))

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as self._nursery:
            self._serve()
            yield
            self._nursery.cancel_scope.cancel("the proxy stops")

    # --- messages -------------------------------------------------------------------------------------

    async def address(self) -> Address:
        """Where it listens, also while it refuses."""
        return self._desk.port.address

    async def faults(self) -> tuple[Fault, ...]:
        """Those in force."""
        return tuple(self._desk.faults.values())

    async def set_faults(self, faults: tuple[Fault, ...]) -> None:
        """These and no others."""
        self._put(by_name(faults))

    async def exchange(self, gone: tuple[str, ...], come: tuple[Fault, ...]) -> tuple[Fault, ...]:
        """Those of some names go, others come. Returns those that went or that others have replaced."""
        names = dict.fromkeys([*gone, *by_name(come)])
        before = self._desk.faults
        self._put({name: fault for name, fault in before.items() if name not in gone} | by_name(come))
        return tuple(before[name] for name in names if name in before)

    async def cut(self, how: Ending = "reset") -> int:
        """All connections end. Returns how many there were. The fault `Cut` of a plan calls it without an argument."""
        for connection in self._connections.values():
            connection.cut(how)
        return len(self._connections)

    async def refuse(self) -> None:
        """Accept no connections until told to."""
        if self._desk.port.listener is not None:
            self._serving.cancel("connections are refused")
            await self._served.wait()
            self._desk.port.refuse()
            self._tell(partial(ListenerChanged, listening=False))

    @message(raises=OSError)
    async def accept(self) -> None:
        """Accept connections again, on the same port. Raises OSError, and goes on refusing, if it is taken."""
        if self._desk.port.listener is None:
            self._desk.port.open()
            try:
                self._serve()
            except OSError:  # no descriptor for it
                self._desk.port.refuse()
                raise
            self._tell(partial(ListenerChanged, listening=True))

    async def statistics(self) -> Statistics:
        """At this moment."""
        desk, living = self._desk, self._connections.values()
        traffic = reduce(Traffic.plus, (connection.traffic() for connection in living), desk.traffic)
        return Statistics(
            open=len(living),
            total=desk.total,
            unreachable=desk.unreachable,
            **traffic._asdict(),
            struck=dict(desk.struck),
            listening=desk.port.listener is not None,
        )

    # --- connections ----------------------------------------------------------------------------------

    def _put(self, faults: dict[str, Fault]) -> None:
        self._desk.faults = faults
        struck = [names for connection in self._connections.values() if (names := connection.change(faults))]
        for names in struck:
            self._desk.count(names)
        self._tell(partial(FaultsChanged, faults=tuple(faults), struck=len(struck)))

    def _serve(self) -> None:
        """Accept connections, unless they are refused. What accepts works on a duplicate of the port's socket."""
        listener = self._desk.port.listener
        if listener is not None:
            self._serving, self._served = trio.CancelScope(), trio.Event()
            accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
            self._nursery.start_soon(self._accept, accepting, self._serving, self._served)

    async def _accept(self, listener: trio.SocketListener, scope: trio.CancelScope, done: trio.Event) -> None:
        with scope:
            await trio.serve_listeners(self._connected, [listener], handler_nursery=self._nursery)
        done.set()

    async def _connected(self, client: trio.SocketStream) -> None:
        self._desk.total += 1
        number = self._desk.total
        connection = Connection(Link(Random(self._desk.random.getrandbits(64))), self._plan.buffer)
        names = connection.change(self._desk.faults)
        self._desk.count(names)
        self._connections[number] = connection
        self._tell(partial(ConnectionOpened, number=number, faults=tuple(names)))
        how = "stopped"
        try:
            how = await self._relayed(number, connection, client)
        finally:
            del self._connections[number]
            upstream, downstream, swallowed, _ = connection.traffic()
            self._desk.traffic = self._desk.traffic.plus(Traffic(upstream, downstream, swallowed))
            self._tell(partial(ConnectionClosed, number=number, how=how, upstream=upstream, downstream=downstream))

    async def _relayed(self, number: int, connection: Connection, client: trio.SocketStream) -> str:
        async with client:
            try:
                with trio.fail_after(_DIAL_WITHIN):
                    server = await connection.dialed(partial(trio.open_tcp_stream, *self._plan.upstream))
            except (OSError, ValueError, trio.TooSlowError) as error:  # ValueError: no name that could be looked up
                self._desk.unreachable += 1
                self._tell(partial(UpstreamUnreachable, number=number, error=str(error) or type(error).__name__))
                await reset(client)
                return "unreachable"
            if not isinstance(server, str):
                return await connection.run(client, server)
            if server == "reset":
                await reset(client)
            return server

    def _tell(self, event: Callable[[float, str, int], Event]) -> None:
        """On the runtime's hook, if anybody listens there."""
        events = self.context.runtime.events
        if events.on:
            events.emit(event(self.context.runtime.now(), self.context.path, self.context.incarnation))
