"""Found by a newcomer: a group restart waited for a member that waited for the crashed one, until time was over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.supervisors.strategies import Strategy
from tests.core.support import Gate, Probe, asking, settle

Call = Callable[[creche.Handle[Probe]], Awaitable[Any]]


async def ask(store: creche.Handle[Probe]) -> Any:
    return await store.ask.add()


async def ask_many(store: creche.Handle[Probe]) -> Any:
    return [result.unwrap() for result in await store.call_many(Probe.add, [(), ()])]


async def wait_for_room(store: creche.Handle[Probe]) -> Any:
    store.cast_nowait(Probe.add)
    return await store.cast(Probe.add)


class Shop(creche.Actor):
    """Calls the store from its handlers."""

    def __init__(self, find: Callable[[], creche.Handle[Probe]]) -> None:
        self.find = find

    async def sell(self, call: Call, gate: Gate) -> Any:
        await gate.hold()
        return await call(self.find())

    @creche.message(concurrency=2)
    async def sell_beside(self, call: Call, gate: Gate) -> Any:
        await gate.hold()
        return await call(self.find())


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
@pytest.mark.parametrize("call", [ask, ask_many, wait_for_room])
@pytest.mark.parametrize("when", ["before the pause", "during the pause"])
@pytest.mark.parametrize("message", [Shop.sell, Shop.sell_beside])
async def test_a_group_restart_does_not_wait_for_itself(
    autojump_clock: MockClock, strategy: Strategy, call: Call, when: str, message: Any
) -> None:
    """What a member that is being paused asks of one that is down is refused at once: it would wait for itself."""
    handles: list[creche.Handle[Probe]] = []
    store = creche.child(Probe).options(name="store", backoff=creche.Backoff(first=1, free=0, jitter=0), mailbox=1)
    shop = creche.child(Shop, lambda: handles[0]).options(name="shop")
    nested = creche.supervisor("nested", shop)  # a member of the group that is a supervisor is paused as a whole
    root = creche.supervisor("root", store, nested, strategy=strategy)
    async with creche.open_runtime("test", root=root) as runtime, trio.open_nursery() as nursery:
        handles.append(runtime.handle("root/store", Probe))
        gate = Gate()
        reply = asking(nursery, runtime.handle("root/nested/shop", Shop).call, message, call, gate)
        await gate.entered.wait()
        before = trio.current_time()
        if when == "before the pause":
            runtime.kill("root/store", "now")
            gate.opened.set()
        else:
            runtime.kill("root/store", "now")
            await settle()
            gate.opened.set()
        assert await reply.settled() == "PeerFailed"
        assert isinstance(reply.error, creche.PeerFailed)
        assert isinstance(reply.error.cause, creche.NotDelivered)
        assert trio.current_time() == before
        assert await handles[0].ask.life() == 2
        assert trio.current_time() == before + 1


@pytest.mark.parametrize("call", [ask, ask_many, wait_for_room])
async def test_what_a_group_restart_refuses_is_a_checkpoint(autojump_clock: MockClock, call: Call) -> None:
    """As all refusals are: whoever tries again at once, for ever, would keep even its own cancellation out."""

    async def is_cancelled(store: creche.Handle[Probe]) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await call(store)
        return scope.cancelled_caught

    handles: list[creche.Handle[Probe]] = []
    store = creche.child(Probe).options(name="store", backoff=creche.Backoff(first=1, free=0, jitter=0), mailbox=1)
    shop = creche.child(Shop, lambda: handles[0]).options(name="shop")
    root = creche.supervisor("root", store, shop, strategy="rest_for_one")
    async with creche.open_runtime("test", root=root) as runtime, trio.open_nursery() as nursery:
        handles.append(runtime.handle("root/store", Probe))
        gate = Gate()
        reply = asking(nursery, runtime.handle("root/shop", Shop).ask.sell, is_cancelled, gate)
        await gate.entered.wait()
        runtime.kill("root/store", "now")
        await settle()
        gate.opened.set()
        assert (await reply.settled(), reply.value) == ("value", True)
