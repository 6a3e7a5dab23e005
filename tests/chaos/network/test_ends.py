"""How connections end, over real ones: resets after the last byte, and clients that leave without a word."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche import chaos
from creche.chaos.network import Cut, Fault, HalfOpen, Reset, Stall, connection, sockets
from creche.chaos.network.sockets import on_its_way, reset
from tests.chaos.network.test_proxy import Bench, exchange, proxied, serving, until

MANY = 24_000  # more than a receiver with a small buffer takes, and less than the kernel takes from Trio at once


async def pour(stream: trio.SocketStream) -> None:
    await stream.send_all(bytes(MANY))
    await trio.sleep_forever()


async def pour_and_reset(stream: trio.SocketStream) -> None:
    await stream.send_all(bytes(MANY))
    while on_its_way(stream):
        await trio.lowlevel.checkpoint()
    await reset(stream)


async def connect_to_lag(bench: Bench) -> trio.SocketStream:
    """A client that can take little at once. What it does not take yet is in the proxy's kernel when this returns."""
    connecting = trio.socket.socket()
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    await connecting.connect(await bench.proxy.address())
    await until(bench.proxy, lambda statistics: statistics.downstream == MANY)
    return trio.SocketStream(connecting)


async def give_it_time(bench: Bench) -> None:
    """To throw away what is not read yet."""
    for _ in range(20):
        await bench.proxy.statistics()


async def all_received(stream: trio.SocketStream) -> tuple[int, bool]:
    """How many bytes come, and whether a reset is their end."""
    got = 0
    try:
        while data := await stream.receive_some(4096):
            got += len(data)
    except trio.BrokenResourceError as broken:
        return got, isinstance(broken.__cause__, ConnectionResetError)
    return got, False


@asynccontextmanager
async def lagging(
    handler: Callable[[trio.SocketStream], Awaitable[object]], *faults: Fault
) -> AsyncGenerator[tuple[Bench, trio.SocketStream]]:
    async with serving(handler) as server, creche.open_runtime("test") as runtime:
        bench = Bench(runtime, await runtime.start(chaos.tcp_proxy(server, faults=faults)), server)
        async with await connect_to_lag(bench) as stream:
            yield bench, stream


@pytest.mark.parametrize(
    ("handler", "faults"),
    [(pour, (Cut(MANY, direction="downstream"),)), (pour_and_reset, ())],
    ids=["a cut", "the server"],
)
async def test_a_reset_comes_after_its_bytes_to_a_reader_that_lags(
    handler: Callable[[trio.SocketStream], Awaitable[object]], faults: tuple[Fault, ...]
) -> None:
    async with lagging(handler, *faults) as (bench, stream):
        await give_it_time(bench)
        assert await all_received(stream) == (MANY, True)


async def test_a_cut_in_an_orderly_way_comes_after_its_bytes_to_a_reader_that_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.0)
    async with lagging(pour, Cut(MANY, how="close", direction="downstream")) as (bench, stream):
        await give_it_time(bench)
        await stream.send_all(b"a reset is the answer, if nobody is there to throw it away")
        assert (await all_received(stream))[0] == MANY


@pytest.mark.parametrize("at_once", ["cut", "reset", "left"])
async def test_what_is_to_end_at_once_waits_for_no_reader(at_once: str) -> None:
    """Nor does what would wait for one, if he leaves."""
    async with lagging(pour, Cut(MANY, direction="downstream")) as (bench, stream):
        assert (await bench.proxy.statistics()).open == 1
        if at_once == "cut":
            assert await bench.proxy.cut() == 1
        elif at_once == "reset":
            await bench.proxy.add(Reset())
        else:
            await reset(stream)
        with trio.fail_after(connection.PATIENCE / 2):
            await until(bench.proxy, lambda statistics: statistics.open == 0)
        if at_once != "left":
            assert (await all_received(stream))[0] < MANY


async def test_a_reader_that_takes_nothing_is_reset_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.05)
    async with lagging(pour, Cut(MANY, direction="downstream")) as (bench, _):
        with trio.fail_after(5):
            await until(bench.proxy, lambda statistics: statistics.open == 0)


async def test_a_reset_that_a_writer_meets_first_comes_after_the_bytes_before_it() -> None:
    """The kernel tells only one of the two, and the bytes are not read yet."""
    size = 80_000  # more than one read, and less than the kernel takes before a read
    gone = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(size))
        while on_its_way(stream):
            await trio.lowlevel.checkpoint()
        await reset(stream)
        gone.set()

    async with serving(serve) as server, creche.open_runtime("test") as runtime:
        stalled = Stall(direction="downstream")
        proxy = await runtime.start(chaos.tcp_proxy(server, faults=stalled, buffer=1))
        async with await trio.open_tcp_stream(*await proxy.address()) as stream:
            await gone.wait()
            await stream.send_all(b"x")
            await wait_all_tasks_blocked(0.05)
            await proxy.clear()
            assert await all_received(stream) == (size, True)


@pytest.mark.parametrize("leave", [reset, trio.SocketStream.aclose])
async def test_a_client_that_has_left_a_half_open_connection_leaves_nothing_open(
    leave: Callable[[trio.SocketStream], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has half closed before, so that nobody reads any more."""
    monkeypatch.setattr(sockets, "PROBE_EVERY", 1)
    async with proxied() as bench, await bench.connect() as stream:
        assert await exchange(stream, b"x") == b"x"
        await bench.proxy.add(HalfOpen("server"))
        await stream.send_eof()
        with trio.move_on_after(0.1) as heard:
            await stream.receive_some()
        assert heard.cancelled_caught
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # seconds until the kernel forgets it; default: 60
        await leave(stream)
        await until(bench.proxy, lambda statistics: statistics.open == 0)
