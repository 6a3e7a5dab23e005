"""The proxy over real connections on loopback."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche import chaos
from creche.chaos import network
from creche.chaos.network import Blackhole, Corrupt, Cut, Fault, HalfOpen, Latency, Reset, Stall
from creche.chaos.network.sockets import reset
from creche.runtime.asgi import Receive, Scope, Send
from tests.core.support import recorded

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
BODY = b"0123456789" * 100


@dataclass
class Bench:
    runtime: creche.Runtime
    proxy: chaos.TcpProxy
    server: tuple[str, int]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*await self.proxy.address())


async def echo(stream: trio.SocketStream) -> None:
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def serving(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncGenerator[tuple[str, int]]:
    """A server, and its address."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener]
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        host, port = listeners[0].socket.getsockname()
        yield host, port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(*faults: Fault, seed: int = 0) -> AsyncGenerator[Bench]:
    """An echo server, and a proxy before it."""
    async with serving(echo) as server, creche.open_runtime("test") as runtime:
        proxy = await runtime.start(chaos.tcp_proxy(server, faults=faults, seed=seed))
        yield Bench(runtime, proxy, server)


async def until(proxy: chaos.TcpProxy, holds: Callable[[network.Statistics], bool]) -> None:
    """Wait until the statistics say so."""
    while not holds(await proxy.statistics()):
        pass


async def exchange(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send, and receive as much; less if the stream ends before."""
    await stream.send_all(data)
    return await receive(stream, len(data))


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    got = b""
    while len(got) < size and (more := await stream.receive_some()):
        got += more
    return got


async def is_refused(address: tuple[str, int]) -> bool:
    connecting = trio.socket.socket()
    try:
        with connecting:
            await connecting.connect(address)
    except ConnectionRefusedError:
        return True
    return False


async def is_reset(stream: trio.SocketStream) -> bool:
    """Whether the next thing that is heard is a reset, not an end."""
    try:
        assert await stream.receive_some() == b""
    except trio.BrokenResourceError as broken:
        return isinstance(broken.__cause__, ConnectionResetError)
    return False


# --- passing bytes on -----------------------------------------------------------------------------


async def test_without_faults_it_passes_everything_on() -> None:
    data = bytes(range(256)) * 4096
    async with proxied() as bench, await bench.connect() as stream:
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            got = await receive(stream, len(data))
        assert got == data
        await stream.send_eof()
        assert await stream.receive_some() == b""
        statistics = await bench.proxy.statistics()
        assert (statistics.upstream, statistics.downstream, statistics.total) == (len(data), len(data), 1)


async def test_a_slow_reader_slows_the_writer() -> None:
    """What is taken is bounded by the buffers, also those of the kernel, however much there is to send."""
    sent = 0

    async def send(stream: trio.SocketStream) -> None:
        nonlocal sent
        while sent < 2**27:
            await stream.send_all(bytes(2**18))
            sent += 2**18

    async def not_read(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(not_read) as server, creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        proxy = await runtime.start(chaos.tcp_proxy(server))
        async with await trio.open_tcp_stream(*await proxy.address()) as stream:
            nursery.start_soon(send, stream)
            await wait_all_tasks_blocked(0.05)
            assert 0 < sent < 2**26
            nursery.cancel_scope.cancel()


# --- faults ---------------------------------------------------------------------------------------


async def test_faults_strike_open_connections_and_new_ones() -> None:
    """From the moment at which the method has returned, and until it is lifted."""
    async with proxied() as bench, await bench.connect() as old:
        assert await exchange(old, b"before") == b"before"
        await bench.proxy.add(Corrupt(1.0, direction="upstream"))
        async with await bench.connect() as new:
            assert await exchange(old, b"during") != b"during"
            assert await exchange(new, b"during") != b"during"
            assert await bench.proxy.remove("corrupt_upstream") == 1
            assert await exchange(old, b"after") == b"after"
            assert await exchange(new, b"after") == b"after"
        assert (await bench.proxy.statistics()).struck == {"corrupt_upstream": 2}


async def test_a_fault_takes_the_place_of_its_namesake() -> None:
    async with proxied(Latency(1.0), Stall(name="x")) as bench:
        await bench.proxy.add(Latency(2.0))
        assert await bench.proxy.faults() == (Latency(2.0), Stall(name="x"))
        await bench.proxy.set_faults(Latency(3.0))
        assert await bench.proxy.faults() == (Latency(3.0),)
        assert await bench.proxy.remove("no such") == 0
        await bench.proxy.clear()
        assert await bench.proxy.faults() == ()


async def test_a_block_is_struck_and_then_as_before() -> None:
    async with proxied(Latency(0.001)) as bench:
        async with bench.proxy.struck_by(Latency(5.0), Stall()):
            assert set(await bench.proxy.faults()) == {Latency(5.0), Stall()}
        assert await bench.proxy.faults() == (Latency(0.001),)


async def test_a_block_that_is_cancelled_lifts_its_faults() -> None:
    async with proxied() as bench:
        with trio.CancelScope() as scope:
            async with bench.proxy.struck_by(Stall()):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await bench.proxy.faults() == ()


async def test_a_stall_holds_what_is_sent_until_it_is_lifted() -> None:
    async with proxied(Stall()) as bench, await bench.connect() as stream:
        await stream.send_all(b"held")
        await until(bench.proxy, lambda statistics: statistics.waiting == 4)
        await bench.proxy.clear()
        assert await receive(stream, 4) == b"held"


async def test_a_blackhole_is_silent_and_its_end_a_reset() -> None:
    async with proxied() as bench, await bench.connect() as stream:
        assert await exchange(stream, b"x") == b"x"
        await bench.proxy.blackhole()
        await stream.send_all(b"lost")
        await until(bench.proxy, lambda statistics: statistics.swallowed == 4)
        await bench.proxy.clear()
        assert await is_reset(stream)


async def test_a_reset_is_a_reset_on_both_sides() -> None:
    """Not an orderly end: RST, not FIN."""
    heard: list[bool] = []
    told = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        assert await stream.receive_some() == b"x"
        heard.append(await is_reset(stream))
        told.set()

    async with serving(serve) as server, creche.open_runtime("test") as runtime:
        proxy = await runtime.start(chaos.tcp_proxy(server))
        async with await trio.open_tcp_stream(*await proxy.address()) as stream:
            await stream.send_all(b"x")
            await until(proxy, lambda statistics: statistics.upstream == 1)
            await proxy.add(Reset())
            assert await is_reset(stream)
            await told.wait()
    assert heard == [True]


async def test_a_reset_by_the_server_reaches_the_client() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await reset(stream)

    async with serving(serve) as server, creche.open_runtime("test") as runtime:
        proxy = await runtime.start(chaos.tcp_proxy(server))
        async with await trio.open_tcp_stream(*await proxy.address()) as stream:
            await stream.send_all(b"x")
            assert await is_reset(stream)


async def test_a_cut_comes_after_its_bytes() -> None:
    async with proxied(Cut(3, how="close", direction="downstream")) as bench, await bench.connect() as stream:
        assert await exchange(stream, b"a frame") == b"a f"
    async with proxied(Cut(3, direction="upstream")) as bench, await bench.connect() as stream:
        await stream.send_all(b"a frame")
        with pytest.raises(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


async def test_cut_ends_all_connections() -> None:
    async with proxied() as bench, await bench.connect() as first, await bench.connect() as second:
        assert await exchange(first, b"x") == await exchange(second, b"x") == b"x"
        assert await bench.proxy.cut() == 2
        assert await is_reset(first)
        assert await is_reset(second)
        async with await bench.connect() as third:
            assert await exchange(third, b"x") == b"x"
            assert await bench.proxy.cut("close") == 1
            assert await third.receive_some() == b""
        name: Any = Stall()
        with pytest.raises(creche.SpecInvalid, match=r"names = Stall.*: names of faults, such as 'latency'"):
            await bench.proxy.remove(name)
        how: Any = "fin"
        with pytest.raises(creche.SpecInvalid, match="how = 'fin': one of 'reset', 'close'"):
            await bench.proxy.cut(how)


async def test_half_open_is_not_heard_of_by_the_client() -> None:
    async with proxied() as bench, await bench.connect() as stream:
        assert await exchange(stream, b"x") == b"x"
        await bench.proxy.add(HalfOpen("server"))
        for n in range(1, 4):
            await stream.send_all(b"hello?")
            await until(bench.proxy, partial(_has_swallowed, 6 * n))
        assert (await bench.proxy.statistics()).open == 1


def _has_swallowed(size: int, statistics: network.Statistics) -> bool:
    return statistics.swallowed == size


async def test_toxicity_is_drawn_from_the_seed() -> None:
    """The n-th connection is struck in one proxy if it is in another of the same seed."""

    async def struck(seed: int) -> list[bool]:
        found: list[bool] = []
        async with proxied(Corrupt(1.0, toxicity=0.5, direction="upstream"), seed=seed) as bench:
            for _ in range(12):
                async with await bench.connect() as stream:
                    found.append(await exchange(stream, b"data") != b"data")
        return found

    first = await struck(7)
    assert await struck(7) == first
    assert await struck(8) != first
    assert set(first) == {True, False}


# --- refusing -------------------------------------------------------------------------------------


async def test_it_refuses_and_comes_back_on_the_same_port() -> None:
    """Connections that are open stay; nobody else gets the port meanwhile."""
    async with proxied() as bench, await bench.connect() as old:
        assert await exchange(old, b"x") == b"x"
        address = await bench.proxy.address()
        await bench.proxy.refuse()
        await bench.proxy.refuse()
        assert await is_refused(address)
        assert not (await bench.proxy.statistics()).listening
        assert await exchange(old, b"still") == b"still"
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(address)
        await bench.proxy.accept()
        await bench.proxy.accept()
        assert await bench.proxy.address() == address
        async with await bench.connect() as new:
            assert await exchange(new, b"new") == b"new"


def listens(address: tuple[str, int]) -> bool:
    """Whether another server, which sets SO_REUSEADDR as servers do, can listen there."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(address)
            other.listen()
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


async def leave_in_time_wait(bench: Bench) -> None:
    """A connection that the proxy's side has closed first: its port is busy for a minute."""
    async with await bench.connect() as stream:
        assert await exchange(stream, b"x") == b"x"
        await bench.proxy.cut("close")
        assert await stream.receive_some() == b""
    await until(bench.proxy, lambda statistics: statistics.open == 0)


async def test_no_server_gets_the_port_while_it_refuses() -> None:
    """Whatever is left of its connections, and also after a crash."""
    async with proxied() as bench:
        address = await bench.proxy.address()
        await leave_in_time_wait(bench)
        async with await bench.connect() as old:
            assert not listens(address)
            await bench.proxy.refuse()
            assert not listens(address)
            assert not listens(("0.0.0.0", address[1]))
            assert await exchange(old, b"still") == b"still"
            await bench.proxy.accept()
            await bench.proxy.refuse()
            assert bench.runtime.kill(bench.proxy, "chaos")
            assert await bench.proxy.address() == address
            assert not listens(address)
        await bench.proxy.accept()
        assert not listens(address)
        async with await bench.connect() as new:
            assert await exchange(new, b"new") == b"new"


@contextmanager
def no_more_files(left: int) -> Iterator[None]:
    """So many more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        free = [opened.enter_context(socket.socket()).fileno() for _ in range(left)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(free, default=0) + 1, hard))
        opened.close()
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1])
async def test_to_accept_may_fail_and_then_it_goes_on_refusing(left: int) -> None:
    """An answer like others, not a crash: connections that are open stay."""
    async with proxied() as bench, await bench.connect() as old:
        assert await exchange(old, b"x") == b"x"
        await bench.proxy.refuse()
        with no_more_files(left), pytest.raises(OSError, match="Too many open files"):
            await bench.proxy.accept()
        assert not (await bench.proxy.statistics()).listening
        assert await is_refused(await bench.proxy.address())
        assert not listens(await bench.proxy.address())
        assert await exchange(old, b"still") == b"still"
        await bench.proxy.accept()
        async with await bench.connect() as new:
            assert await exchange(new, b"new") == b"new"


async def test_a_name_that_cannot_be_looked_up_is_a_server_that_is_not_there() -> None:
    """A name of an older standard than that of the look-up: nobody knows before."""
    async with creche.open_runtime("test") as runtime:
        proxy = await runtime.start(chaos.tcp_proxy(("☃.invalid", 1)))
        for _ in range(5):  # more than crashes are allowed
            async with await trio.open_tcp_stream(*await proxy.address()) as stream:
                assert await is_reset(stream)
        statistics = await proxy.statistics()
        assert (statistics.unreachable, statistics.total) == (5, 5)


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with creche.open_runtime("test") as runtime:
            seen = recorded(runtime)
            proxy = await runtime.start(chaos.tcp_proxy(nobody.getsockname()))
            async with await trio.open_tcp_stream(*await proxy.address()) as stream:
                assert await is_reset(stream)
            assert (await proxy.statistics()).unreachable == 1
        assert [event.number for event in seen if isinstance(event, network.UpstreamUnreachable)] == [1]
        assert [event.how for event in seen if isinstance(event, network.ConnectionClosed)] == ["unreachable"]


# --- its life -------------------------------------------------------------------------------------


async def test_a_crash_closes_connections_and_keeps_port_and_faults() -> None:
    async with proxied() as bench:
        address = await bench.proxy.address()
        await bench.proxy.add(Corrupt(1.0, direction="upstream"))
        async with await bench.connect() as stream:
            assert await exchange(stream, b"x") != b"x"
            assert bench.runtime.kill(bench.proxy, "chaos")
            assert await stream.receive_some() == b""
        async with await trio.open_tcp_stream(*address) as stream:
            assert await exchange(stream, b"x") != b"x"
        assert await bench.proxy.address() == address
        statistics = await bench.proxy.statistics()
        assert (statistics.total, statistics.struck) == (2, {"corrupt_upstream": 2})


async def test_a_proxy_that_refuses_goes_on_refusing_after_a_crash() -> None:
    async with proxied() as bench:
        address = await bench.proxy.address()
        await bench.proxy.refuse()
        assert bench.runtime.kill(bench.proxy, "chaos")
        assert await bench.proxy.address() == address
        assert await is_refused(address)
        await bench.proxy.accept()
        assert not await is_refused(address)


async def test_a_stop_gives_the_port_back() -> None:
    async with proxied(Blackhole()) as bench:
        address = await bench.proxy.address()
        async with await bench.connect() as stream:
            await stream.send_all(b"x")
            await bench.runtime.stop(bench.proxy)
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass  # what it had not read yet makes it a reset
        assert await is_refused(address)
        with socket.socket() as heir:
            heir.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            heir.bind(address)


async def test_a_port_that_is_taken_fails_the_start() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        host, port = owner.getsockname()
        async with creche.open_runtime("test") as runtime:
            with pytest.raises(creche.StartFailed) as failed:
                await runtime.start(chaos.tcp_proxy((host, port), listen=(host, port)))
    assert f"cannot listen on {host}:{port}" in str(failed.value)


async def test_it_tells_what_happens() -> None:
    async with proxied() as bench:
        seen = recorded(bench.runtime)
        async with await bench.connect() as stream:
            assert await exchange(stream, b"abc") == b"abc"
            await bench.proxy.add(Latency(0.0))
            await bench.proxy.refuse()
            await bench.proxy.accept()
            await bench.proxy.cut()
            assert await is_reset(stream)
            await until(bench.proxy, lambda statistics: statistics.open == 0)
    told = [event for event in seen if type(event).__module__.startswith("creche.chaos")]
    assert [(event.kind, event.path) for event in told] == [
        (kind, "root/tcp_proxy")
        for kind in ("ConnectionOpened", "FaultsChanged", "ListenerChanged", "ListenerChanged", "ConnectionClosed")
    ]
    assert isinstance(told[1], network.FaultsChanged)
    assert (told[1].faults, told[1].struck) == (("latency",), 1)
    assert isinstance(told[-1], network.ConnectionClosed)
    assert (told[-1].how, told[-1].upstream, told[-1].downstream) == ("reset", 3, 3)


# --- before a server ------------------------------------------------------------------------------


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("not supported")
    headers = [(b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def test_before_an_http_server() -> None:
    """Whole answers, then half an answer, then none, then whole ones again."""

    async def get() -> bytes:
        async with await trio.open_tcp_stream(*await proxy.address()) as stream:
            await stream.send_all(REQUEST)
            return b"".join([data async for data in stream])

    async with creche.open_runtime("test") as runtime:
        server = await runtime.start(creche.http_server(creche.ServerConfig(port=0), application))
        proxy = await runtime.start(chaos.tcp_proxy(await server.address()))
        whole = await get()
        assert whole.startswith(b"HTTP/1.1 200")
        assert whole.endswith(BODY)
        async with proxy.struck_by(Latency(0.01, jitter=0.005), network.Slicer(100, variation=50)):
            assert (await get()).endswith(BODY)
        async with proxy.struck_by(Cut(len(whole) - 500, how="close", direction="downstream")):
            assert len(await get()) == len(whole) - 500
        await proxy.refuse()
        assert await is_refused(await proxy.address())
        await proxy.accept()
        assert (await get()).endswith(BODY)
