"""The proxy as its users see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast, final

import trio

from ...runtime.component import ComponentHandle, ComponentSpec
from ...runtime.errors import ActorStopped, SpecInvalid
from ...runtime.spec import child
from .actor import Plan, ProxyActor
from .faults import ENDINGS, Blackhole, Direction, Ending, Fault, by_name
from .port import Address
from .statistics import Statistics

BUFFER = 1_048_576


@final
class TcpProxy(ComponentHandle):
    """A proxy. Valid across its restarts; `NotStarted` until it runs.

    A change of faults is in force when the method returns, for connections that are open as for those to come, and for
    bytes that are on their way. All methods may raise `NotDelivered`, `OutcomeUnknown` and `ActorStopped`; those that
    take faults, `SpecInvalid`.
    """

    async def address(self) -> Address:
        """Host and port to connect to. The same for the life of the proxy, also while it refuses connections."""
        return await self._handle(ProxyActor).ask.address()

    async def faults(self) -> tuple[Fault, ...]:
        """Those in force, in the order in which they came."""
        return await self._handle(ProxyActor).ask.faults()

    async def set_faults(self, *faults: Fault) -> None:
        """These are in force from now on, and no others."""
        await self._handle(ProxyActor).ask.set_faults(_checked(faults))

    async def add(self, *faults: Fault) -> None:
        """These, too. One that has the name of another takes its place."""
        await self._handle(ProxyActor).ask.exchange((), _checked(faults))

    async def remove(self, *names: str) -> int:
        """Lift faults, by name. Returns how many of them there were."""
        for name in names:
            if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] # else it lifts nothing
                raise SpecInvalid("names", name, "names of faults, such as 'latency'; see `faults`")
        return len(await self._handle(ProxyActor).ask.exchange(names, ()))

    async def clear(self) -> None:
        """Lift all faults. A proxy that refuses goes on refusing; see `accept`."""
        await self.set_faults()

    async def blackhole(self, direction: Direction = "both") -> None:
        """Short for ``add(Blackhole(direction=direction))``."""
        await self.add(Blackhole(direction=direction))

    @asynccontextmanager
    async def struck_by(self, *faults: Fault) -> AsyncGenerator[None]:
        """Add faults for the length of a block.

        Afterwards, also when it is cancelled, they are lifted, and what they took the place of is put back.
        """
        checked = _checked(faults)
        await trio.lowlevel.checkpoint_if_cancelled()
        replaced: tuple[Fault, ...] = ()
        with trio.CancelScope(shield=True):  # else nobody would know whether there is something to lift
            replaced = await self._handle(ProxyActor).ask.exchange((), checked)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True), suppress(ActorStopped):
                await self._handle(ProxyActor).ask.exchange(tuple(by_name(checked)), replaced)

    async def cut(self, how: Ending = "reset") -> int:
        """End all connections that are open, by a reset or an orderly close. Returns how many there were."""
        if how not in ENDINGS:
            raise SpecInvalid("how", how, f"one of {', '.join(map(repr, ENDINGS))}")
        return await self._handle(ProxyActor).ask.cut(how)

    async def refuse(self) -> None:
        """Refuse connections from now on, as if nobody listened. Those that are open stay; see `cut`.

        The port stays reserved for `accept`; on Linux also against servers that set SO_REUSEADDR.
        """
        await self._handle(ProxyActor).ask.refuse()

    async def accept(self) -> None:
        """Accept connections again, on the same port.

        Raises OSError, and goes on refusing, if it cannot: there are no descriptors left, or another server has got the
        port in the moment in which it was taken back.
        """
        await self._handle(ProxyActor).ask.accept()

    async def statistics(self) -> Statistics:
        """What it has done so far."""
        return await self._handle(ProxyActor).ask.statistics()


def tcp_proxy(
    upstream: Address,
    *,
    listen: Address = ("127.0.0.1", 0),
    faults: Fault | tuple[Fault, ...] = (),
    seed: int | None = None,
    buffer: int = BUFFER,
    name: str = "tcp_proxy",
) -> ComponentSpec[TcpProxy]:
    """A TCP proxy before a server, as a child of any supervisor; without faults it only passes bytes on.

    Parameters
    ----------
    upstream
        Host and port of the server. It is connected to anew for each connection that is accepted.
    listen
        Host and port to listen on. Port 0 lets the kernel choose: ask the handle for the address.
    faults
        Those in force from the start.
    seed
        For all that is drawn: which connections are struck, jitter, flipped bits. The n-th connection has a stream of
        its own. Default: drawn from the runtime's randomness.
    buffer
        The most bytes that wait in each direction of a connection, but for one more read; then the sender is slowed
        down. With a latency it bounds the throughput, as a TCP window does.
    name
        Its name among its siblings.

    Raises
    ------
    SpecInvalid
        A value is wrong.
    """
    plan = Plan(
        _checked_address("upstream", upstream),
        _checked_address("listen", listen, lowest=0),
        _checked((faults,) if isinstance(faults, Fault) else faults),
        buffer,
        seed,
    )
    if type(buffer) is not int or buffer < 1:
        raise SpecInvalid("buffer", buffer, "a whole number of bytes, 1 or more")
    if seed is not None and type(seed) is not int:
        raise SpecInvalid("seed", seed, "a whole number, or None")
    return ComponentSpec(name, child(ProxyActor, plan), TcpProxy)


def _checked(faults: object) -> tuple[Fault, ...]:
    if not isinstance(faults, (tuple, list)):
        raise SpecInvalid("faults", faults, "one fault, or a tuple of them")
    faults = cast("Sequence[object]", faults)
    checked = tuple(fault for fault in faults if isinstance(fault, Fault) and type(fault) is not Fault)
    if len(checked) < len(faults):
        wrong = next(fault for fault in faults if fault not in checked)
        raise SpecInvalid("faults", wrong, "pass faults of creche.chaos.network, such as Latency(0.1)")
    return checked


def _checked_address(name: str, address: object, *, lowest: int = 1) -> Address:
    match address:
        case (str(host), int(port)) if host and port is not True and lowest <= port <= 65535:
            _check_host(name, address, host)
            return host, port
        case _:
            raise SpecInvalid(
                name, address, f"host and port, such as ('127.0.0.1', 6379); ports from {lowest} to 65535"
            )


def _check_host(name: str, address: object, host: str) -> None:
    """What is refused here would be refused by every look-up."""
    try:
        possible = b"\0" not in host.encode("idna")
    except UnicodeError:
        possible = False
    if not possible:
        raise SpecInvalid(
            name, address, "a host whose labels, between single dots, have 1 to 63 characters, or an IP address"
        )
