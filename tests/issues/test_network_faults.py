"""Found in review: ends of connections that came too early."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import chaos
from creche.chaos.network import Cut, HalfOpen, Reset
from creche.chaos.network.line import Mark
from tests.chaos.network.test_connection import relayed
from tests.chaos.network.test_policy import linked
from tests.chaos.network.test_proxy import is_reset
from tests.core.support import settle


async def test_a_cut_waits_until_its_last_bytes_have_passed(autojump_clock: MockClock) -> None:
    """Whatever comes the other way while nobody reads them."""
    async with (
        relayed(Cut(3, how="close", direction="downstream"), lockstep=True) as bench,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(bench.server.send_all, b"a frame")
        await settle()
        nursery.start_soon(bench.client.send_all, b"x")
        assert await bench.server.receive_some() == b"x"
        assert await bench.client.receive_some() == b"a f"
        assert await bench.client.receive_some() == b""


def test_the_end_of_the_side_that_has_vanished_is_not_told() -> None:
    """It may come in the moment in which the side vanishes."""
    for gone in ("server", "client"):
        link = linked(0, HalfOpen("server" if gone == "server" else "client"))
        vanished, left = link.downstream, link.upstream
        if gone == "client":
            vanished, left = left, vanished
        for mark in Mark:
            link.ended(vanished, mark, 1.0)
            assert link.verdict(1.0) is None
        link.ended(left, Mark.RESET, 2.0)
        assert link.verdict(2.0) == "done"


@pytest.mark.parametrize("how", ["reset after", "reset", "close"])
async def test_a_connection_ends_although_its_server_does_not_answer(how: str) -> None:
    """It is open as soon as the client has connected."""
    with socket.socket() as full, socket.socket() as filling:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # takes one connection, and lets the next one wait
        filling.connect(full.getsockname())
        async with creche.open_runtime("test") as runtime:
            proxy = await runtime.start(chaos.tcp_proxy(full.getsockname()))
            async with await trio.open_tcp_stream(*await proxy.address()) as client:
                while not (await proxy.statistics()).open:
                    pass
                if how == "reset after":
                    await proxy.add(Reset(0.1))
                else:
                    assert await proxy.cut("reset" if how == "reset" else "close") == 1
                with trio.fail_after(5):
                    assert await is_reset(client) == (how != "close")
            statistics = await proxy.statistics()
            assert (statistics.open, statistics.unreachable) == (0, 0)
