"""The I/O of a connection, on streams in memory and in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

import creche.testing
from creche.chaos.network import Blackhole, Cut, Fault, HalfOpen, Latency, Rate, Reset, Slicer, SlowClose, Stall
from creche.chaos.network.connection import LINGER, Connection
from creche.chaos.network.faults import by_name
from creche.chaos.network.link import Link
from creche.chaos.network.sockets import Stream
from tests.cancelling import Strike, everywhere
from tests.core.support import settle

HARMLESS: tuple[tuple[Fault, ...], ...] = (
    (),
    (Latency(0.5, jitter=0.5),),
    (Rate(50),),
    (Slicer(3, variation=2, pause=0.1), Latency(0.2)),
    (Stall(direction="upstream"),),
    (Stall(),),
)


@dataclass
class Bench:
    """A connection between a client and a server."""

    client: Stream
    server: Stream
    connection: Connection
    ends: list[str] = field(default_factory=list[str])
    ended: trio.Event = field(default_factory=trio.Event)

    def change(self, *faults: Fault) -> None:
        self.connection.change(by_name(faults))

    async def run(self, near: Stream, far: Stream) -> None:
        self.ends.append(await self.connection.run(near, far))
        self.ended.set()


@asynccontextmanager
async def relayed(*faults: Fault, seed: int = 0, buffer: int = 1000, lockstep: bool = False) -> AsyncGenerator[Bench]:
    make = lockstep_stream_pair if lockstep else memory_stream_pair
    (client, near), (far, server) = make(), make()
    bench = Bench(client, server, Connection(Link(Random(seed)), buffer))
    bench.change(*faults)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, near, far)
        yield bench
        nursery.cancel_scope.cancel()


async def test_bytes_pass_both_ways() -> None:
    async with relayed() as bench:
        await bench.client.send_all(b"request")
        assert await bench.server.receive_some() == b"request"
        await bench.server.send_all(b"answer!!")
        assert await bench.client.receive_some() == b"answer!!"
        assert bench.connection.traffic() == (7, 8, 0, 0)


async def test_an_end_is_passed_on_as_a_half_close() -> None:
    """The other direction goes on; with both ended the connection is done."""
    async with relayed() as bench:
        await bench.client.send_all(b"request")
        await bench.client.send_eof()
        assert await bench.server.receive_some() == b"request"
        assert await bench.server.receive_some() == b""
        await bench.server.send_all(b"answer")
        assert await bench.client.receive_some() == b"answer"
        assert bench.ends == []
        await bench.server.send_eof()
        await bench.ended.wait()
        assert bench.ends == ["done"]
        assert await bench.client.receive_some() == b""


async def test_latency_takes_its_time(autojump_clock: MockClock) -> None:
    async with relayed(Latency(2.0, direction="upstream")) as bench:
        await bench.client.send_all(b"x")
        assert await bench.server.receive_some() == b"x"
        assert trio.current_time() == pytest.approx(2.0)
        await bench.server.send_all(b"y")
        assert await bench.client.receive_some() == b"y"
        assert trio.current_time() == pytest.approx(2.0)


async def test_a_change_wakes_what_waits(autojump_clock: MockClock) -> None:
    """Lift a latency of an hour, and the byte is there."""
    async with relayed(Latency(3600.0)) as bench:
        await bench.client.send_all(b"x")
        await trio.sleep(1)
        bench.change()
        assert await bench.server.receive_some() == b"x"
        assert trio.current_time() == pytest.approx(1.0)


async def test_a_slow_close_keeps_the_connection(autojump_clock: MockClock) -> None:
    async with relayed(SlowClose(5.0)) as bench:
        await bench.client.send_eof()
        assert await bench.server.receive_some() == b""
        assert trio.current_time() == pytest.approx(5.0)


async def test_a_stalled_connection_slows_its_sender() -> None:
    """No more than the buffer is taken from a client whose server does not read, and nothing is lost."""
    async with relayed(Stall(), buffer=10, lockstep=True) as bench:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(30):
                await bench.client.send_all(b"x")
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settle()
            assert 10 <= sent <= 11
            bench.change()
            got = b""
            while len(got) < 30:
                got += await bench.server.receive_some()
        assert sent == 30


async def test_a_server_that_does_not_read_slows_the_client() -> None:
    async with relayed(buffer=5, lockstep=True) as bench:
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await bench.client.send_all(b"x")
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settle()
            assert sent <= 5 + 2  # the buffer, the one in the writer's hand, one more read
            nursery.cancel_scope.cancel()


async def test_a_server_that_is_gone_resets_the_client() -> None:
    async with relayed() as bench:
        await bench.server.aclose()
        await bench.client.send_all(b"anybody?")
        await bench.ended.wait()
        assert bench.ends == ["reset"]


async def test_a_blackhole_tells_neither_side_anything() -> None:
    async with relayed(Blackhole()) as bench:
        await bench.client.send_all(b"swallowed")
        await bench.server.aclose()
        await settle()
        assert bench.ends == []
        bench.change()
        await bench.ended.wait()
        assert bench.ends == ["reset"]


async def test_half_open_leaves_the_client_alone(autojump_clock: MockClock) -> None:
    """The server sees the connection end; the client does not, also when it has sent its last byte."""
    async with relayed() as bench:
        bench.change(HalfOpen("server"))
        assert await bench.server.receive_some() == b""
        await bench.client.send_all(b"hello?")
        await bench.client.send_eof()
        with trio.move_on_after(3600.0) as heard:
            await bench.client.receive_some()
        assert heard.cancelled_caught
        assert bench.ends == []
        bench.change()
        await bench.ended.wait()
        assert bench.ends == ["reset"]


async def test_half_open_the_other_way_round() -> None:
    async with relayed() as bench:
        bench.change(HalfOpen("client"))
        assert await bench.client.receive_some() == b""
        await bench.server.send_all(b"hello?")
        await settle()
        assert bench.ends == []
        bench.change()
        await bench.ended.wait()
        assert bench.ends == ["reset"]


async def test_a_cut_lets_its_bytes_through_and_ends_in_an_orderly_way(autojump_clock: MockClock) -> None:
    """What is sent afterwards is thrown away for a moment, so that no reset overtakes the bytes."""
    async with relayed(Cut(3, how="close", direction="downstream")) as bench:
        await bench.server.send_all(b"a frame")
        assert await bench.client.receive_some() == b"a f"
        assert await bench.client.receive_some() == b""
        await bench.client.send_all(b"too late")
        await bench.ended.wait()
        assert bench.ends == ["close"]
        assert trio.current_time() == pytest.approx(LINGER)


async def test_a_reset_comes_while_bytes_flow(autojump_clock: MockClock) -> None:
    """A connection that is never idle is reset in its time, too."""
    async with relayed(Reset(1.0)) as bench:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            while True:
                await bench.client.send_all(b"tick")
                await trio.sleep(0.1)
        assert trio.current_time() == pytest.approx(1.0, abs=0.11)
        assert bench.ends == ["reset"]


async def test_a_cut_while_the_sink_is_stuck() -> None:
    """Nobody reads, and a writer waits for ever: it ends all the same."""
    for how in ("reset", "close"):
        async with relayed(buffer=1, lockstep=True) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.client.send_all, b"x")
            await settle()
            bench.connection.cut("reset" if how == "reset" else "close")
            with trio.fail_after(5):
                await bench.ended.wait()
            assert bench.ends == [how]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_changes_on_the_way_all_bytes_arrive_in_order(seed: int) -> None:
    async def story() -> None:
        random = Random(seed)
        with trio.fail_after(1e5):
            async with relayed(seed=seed, buffer=random.choice([1, 20, 1000])) as bench:
                got = await _echoed(bench, random)
        assert got == bytes(range(256)) * 2
        assert bench.ends == ["done"]

    creche.testing.run(story, seed=seed)


async def _echoed(bench: Bench, random: Random) -> bytes:
    got = bytearray()

    async def send() -> None:
        left = bytes(range(256)) * 2
        while left:
            size = random.randint(1, 60)
            await bench.client.send_all(left[:size])
            left = left[size:]
            await trio.sleep(random.choice([0, 0.1, 1]))
        await bench.client.send_eof()

    async def echo() -> None:
        while data := await bench.server.receive_some(random.randint(1, 50)):
            await bench.server.send_all(data)
        await bench.server.send_eof()

    async def disturb() -> None:
        for _ in range(20):
            bench.change(*random.choice(HARMLESS))
            await trio.sleep(random.random())
        bench.change()

    async def receive() -> None:
        while data := await bench.client.receive_some():
            got.extend(data)

    async with trio.open_nursery() as nursery:
        for task in (send, echo, disturb, receive):
            nursery.start_soon(task)
    await bench.ended.wait()
    return bytes(got)


def test_a_connection_that_is_cancelled_anywhere_closes_both_sides() -> None:
    async def scenario(strike: Strike) -> None:
        (client, near), (far, server) = memory_stream_pair(), memory_stream_pair()
        connection = Connection(Link(Random(0)), 10)
        connection.change(by_name((Latency(0.1), Cut(6, how="close", direction="downstream"))))

        async def converse() -> None:
            await client.send_all(b"ping")
            if await server.receive_some():
                await server.send_all(b"pong and more")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse)
            end = await strike.cancel(connection.run, near, far)
            assert end.what in ("value", "cancelled")
        for stream in (near, far):
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
        assert end.what == "cancelled" or end.value == "close"

    everywhere(scenario)
