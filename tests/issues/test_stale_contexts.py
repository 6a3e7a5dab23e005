"""Found in review: the context of an ended incarnation acted on its successor, or started what nobody would end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.context import ActorContext
from tests.core.support import Flag, Probe, settle

Use = Callable[[ActorContext, list[str]], None]


async def context_of(probe: creche.Handle[Probe]) -> ActorContext:
    """The context of the present incarnation, taken out of its actor."""

    async def taken(actor: Probe) -> ActorContext:
        return actor.context

    return await probe.ask.run(taken)


def haunting(log: list[str]) -> Callable[[], Awaitable[None]]:
    async def haunt() -> None:
        log.append("a ghost")

    return haunt


def spawn(context: ActorContext, log: list[str]) -> None:
    context.spawn(haunting(log))


def after(context: ActorContext, log: list[str]) -> None:
    context.after(0, haunting(log))


def every(context: ActorContext, log: list[str]) -> None:
    context.every(1, haunting(log))


def grant(context: ActorContext, log: list[str]) -> None:
    context.grant(Flag(log, "stale"))


def keep(context: ActorContext, log: list[str]) -> None:
    context.keep("socket", lambda: log.append("made"), lambda _: None)


def leave(context: ActorContext, _log: list[str]) -> None:
    context.exit()


def defer(context: ActorContext, _log: list[str]) -> None:
    context.defer()


USES: list[Use] = [spawn, after, every, grant, keep, leave, defer]


@pytest.mark.parametrize("use", USES)
async def test_a_stale_context_has_no_power_over_the_successor(autojump_clock: MockClock, use: Use) -> None:
    """What would change something is a RuntimeError, and the next incarnation goes on as if nothing had been tried."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        stale = await context_of(probe)
        runtime.kill(probe, "now")
        lease = Flag(log, "fresh")
        (await context_of(probe)).grant(lease)
        with pytest.raises(RuntimeError, match="#1: this incarnation has ended"):
            use(stale, log)
        await settle()
        await trio.sleep(2)
        assert (await probe.ask.life(), lease.valid, log) == (2, True, [])


@pytest.mark.parametrize("use", USES)
async def test_a_context_has_no_power_after_the_stop(autojump_clock: MockClock, use: Use) -> None:
    """Nothing is begun that nobody would end: the block is left as ever."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        context = await context_of(probe)
        await runtime.stop(probe)
        with pytest.raises(RuntimeError, match="#1: this incarnation has ended"):
            use(context, log)
        await trio.sleep(2)
    assert log == []


async def test_a_stale_context_keeps_its_own_number() -> None:
    """It can still be looked at: it tells the incarnation that it belonged to."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        stale = await context_of(probe)
        runtime.kill(probe, "now")
        assert await probe.ask.life() == 2
        assert (stale.incarnation, stale.path) == (1, probe.path)
