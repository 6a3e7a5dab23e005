"""Every await of a pool, cancelled at each of its checkpoints: nothing is lost, held or left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import creche
from creche.supervisors.pools.pool import PoolNode
from creche.supervisors.pools.routing import Routing
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Gate, Probe, asking, settle


def last(*args: str) -> str:
    """The key of a message."""
    return args[-1]


ROUTINGS: dict[str, Routing] = {
    "shared": "shared",
    "round_robin": "round_robin",
    "least_loaded": "least_loaded",
    "by_key": creche.by_key(last),
    "sticky": creche.sticky(last),
}


class Worker(Probe):
    async def nap(self, key: object) -> str:
        await trio.sleep(0.1)
        return self.context.path

    @creche.message(on_caller_gone="cancel")
    async def nap_for_caller(self, key: object) -> str:
        await trio.sleep(0.1)
        return self.context.path


OPERATIONS: dict[str, Callable[[creche.Pool[Worker]], Awaitable[object]]] = {
    "call": lambda pool: pool.ask.nap("k"),
    "call for its caller": lambda pool: pool.ask.nap_for_caller("k"),
    "call_many": lambda pool: pool.call_many(Worker.nap, [("k",), ("l",), ("m",)]),
    "cast": lambda pool: pool.cast(Worker.nap, "k"),
    "broadcast": lambda pool: pool.broadcast(Worker.nap, "k"),
    "grow": lambda pool: pool.resize(4),
    "shrink": lambda pool: pool.resize(1),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ROUTINGS)
def test_a_pool_is_cancelled_everywhere(name: str, operation: str) -> None:
    """While one worker is busy and messages wait; afterwards the pool works, and all that was accepted is done."""
    routing = ROUTINGS[name]

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            spec = creche.pool("p", creche.child(Worker), size=2, routing=routing).options(mailbox=4)
            pool = await runtime.start(spec)
            async with trio.open_nursery() as nursery:
                gate = Gate()
                busy = [asking(nursery, pool.call, Worker.hold, gate, "k"), asking(nursery, pool.ask.nap, "k")]
                await gate.entered.wait()
                nursery.start_soon(_open_soon, gate)
                end = await strike.cancel(OPERATIONS[operation], pool)
                assert end.what in ("value", "cancelled"), end.error
                assert [await reply.settled() for reply in busy] == ["value", "value"]
            await pool.resize(2)
            assert await pool.ask.nap("x") in ("root/p/worker-1", "root/p/worker-2")
            await settle()
            prove_empty(runtime.node_of(pool))
            await prove_idle(runtime)

    everywhere(scenario)


async def _open_soon(gate: Gate) -> None:
    await trio.sleep(0.05)
    gate.opened.set()


def prove_empty(node: Any) -> None:
    """Nothing waits, nothing is bound, everybody is idle."""
    assert isinstance(node, PoolNode)
    backlog: Any = node.front.backlog
    assert (node.queued, len(backlog), backlog._woken, len(backlog._idle)) == (0, 0, {}, node.size)
    assert all(seat.hand is None and not seat.retired for seat in backlog.seats)
    for name in ("_bound", "_unbound", "_held"):
        assert not getattr(backlog, name, None), name


def test_a_drain_that_is_cancelled_goes_on() -> None:
    """As a stop does."""

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            pool = await runtime.start(creche.pool("p", creche.child(Worker), size=2))
            async with trio.open_nursery() as nursery:
                replies = [asking(nursery, pool.ask.nap, n) for n in range(4)]
                await settle()
                end = await strike.cancel(pool.drain)
                assert [await reply.settled() for reply in replies] == ["value"] * 4
                if end.what == "value":
                    assert pool.size == 0
            await settle()
            await prove_idle(runtime)

    everywhere(scenario)
