"""Found in review: callers waited in silence for an incarnation that was doomed but did not unwind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Stuck
from tests.core.support import Probe, Reply, asking, recorded, settle

HANGS_FOR = 100.0


class Deaf(Probe):
    """Stands behind a shield that no cancellation gets through."""

    async def hang(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(HANGS_FOR)

    @creche.message(concurrency=2)
    async def hang_beside(self) -> None:
        await self.hang()

    async def hang_in_background(self) -> None:
        self.context.spawn(self.hang)


Doom = Callable[[creche.Runtime, creche.Handle[Deaf], trio.Nursery], Awaitable[Reply]]


async def kill_its_handler(runtime: creche.Runtime, actor: creche.Handle[Deaf], nursery: trio.Nursery) -> Reply:
    reply = asking(nursery, actor.ask.hang)
    await settle()
    assert runtime.kill(actor, "it hangs")
    return reply


async def kill_a_concurrent_handler(
    runtime: creche.Runtime, actor: creche.Handle[Deaf], nursery: trio.Nursery
) -> Reply:
    reply = asking(nursery, actor.ask.hang_beside)
    await settle()
    assert runtime.kill(actor, "it hangs")
    return reply


async def crash_beside_background_work(
    _runtime: creche.Runtime, actor: creche.Handle[Deaf], nursery: trio.Nursery
) -> Reply:
    await actor.ask.hang_in_background()
    await settle()
    reply = asking(nursery, actor.ask.crash)
    await settle()
    return reply


@pytest.mark.parametrize("doom", [kill_its_handler, kill_a_concurrent_handler, crash_beside_background_work])
async def test_who_waits_for_an_end_that_hangs_is_told(autojump_clock: MockClock, doom: Doom) -> None:
    """In hand: OutcomeUnknown after `unwind_grace`, and an event; waiting: NotDelivered after `down_wait`."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        deaf = await runtime.start(creche.child(Deaf).options(unwind_grace=2, down_wait=5))
        begun = trio.current_time()
        in_hand = await doom(runtime, deaf, nursery)
        waiting = asking(nursery, deaf.ask.life)
        assert (await in_hand.settled(), trio.current_time() - begun) == ("OutcomeUnknown", 2)
        (stuck,) = [event for event in seen if isinstance(event, Stuck)]
        assert (stuck.path, stuck.time - begun) == (deaf.path, 2)
        assert ", in hang\n" in stuck.stack, "it shows where what hangs stands"
        assert (await waiting.settled(), trio.current_time() - begun) == ("NotDelivered", 5)
        await trio.sleep(HANGS_FOR)
        assert await deaf.ask.life() == 2
