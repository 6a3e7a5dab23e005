"""Found in review: callers waited in silence for an incarnation that was doomed but did not unwind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Stuck
from tests.core.support import Boom, Gate, Probe, Reply, asking, recorded, settle

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


class Leaving(Probe):
    """Handles some messages beside the others."""

    @creche.message(concurrency=2)
    async def beside(self, gate: Gate) -> None:
        await gate.hold()
        raise Boom("beside")

    async def leave(self) -> None:
        self.context.exit()


@pytest.mark.parametrize("end", ["exit", "stop", "group"])
async def test_a_crash_of_what_an_end_waits_for(autojump_clock: MockClock, end: str) -> None:
    """A concurrent handler crashes while its actor waits for it in order to end: there is nothing to wait for."""
    leaving = creche.child(Leaving).options(restart="transient")
    root = creche.supervisor("root", creche.child(Probe), leaving, strategy="rest_for_one")
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        actor, gates = runtime.handle("root/leaving", Leaving), [Gate(), Gate()]
        replies = [asking(nursery, actor.ask.beside, gate) for gate in gates]
        await settle()
        if end == "exit":
            await actor.ask.leave()
        elif end == "stop":
            nursery.start_soon(runtime.stop, actor)
        else:
            runtime.kill("root/probe", "now")
        await settle()
        gates[0].opened.set()
        await settle()
        assert [reply.what for reply in replies] == ["OutcomeUnknown", "OutcomeUnknown"]
        assert isinstance(replies[0].error and replies[0].error.__cause__, Boom)
        assert trio.current_time() == 0
        if end != "stop":
            assert await actor.ask.life() == 2


class Ringing(Probe):
    """Waits for a timer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = trio.Event()

    @creche.message(concurrency=2)
    async def beside(self) -> str:
        self.context.after(1, self._ring)
        await self.rung.wait()
        return "rung"

    async def deferred(self) -> str:
        slot: creche.ReplySlot[str] = self.context.defer()
        self.context.after(1, self._answer, slot)
        return slot.later()

    async def leave(self) -> None:
        self.context.exit()

    async def _ring(self) -> None:
        self.rung.set()

    async def _answer(self, slot: creche.ReplySlot[str]) -> None:
        slot.reply("rung")


@pytest.mark.parametrize(("message", "end"), [("beside", "exit"), ("beside", "group"), ("deferred", "group")])
async def test_timers_go_on_while_an_end_waits(autojump_clock: MockClock, message: str, end: str) -> None:
    """For what is in flight, and that may wait for a timer: in an exit and in a group restart as in a stop."""
    root = creche.supervisor("root", creche.child(Probe), creche.child(Ringing), strategy="rest_for_one")
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        actor = runtime.handle("root/ringing", Ringing)
        reply = asking(nursery, getattr(actor.ask, message))
        await settle()
        if end == "exit":
            await actor.ask.leave()
        else:
            runtime.kill("root/probe", "now")
        await trio.sleep(2)
        assert (reply.what, reply.value) == ("value", "rung")
        assert await actor.ask.life() == 2


@pytest.mark.parametrize("cut", [False, True])
async def test_a_timer_that_runs_while_an_end_waits_is_cut_with_it(autojump_clock: MockClock, cut: bool) -> None:
    """When the drain time is over, as a message is; its crash is one of the incarnation."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ringing).options(drain=3))

        async def hang_or_crash() -> None:
            await trio.sleep(100 if cut else 1)
            raise Boom

        async def prepare(ringing: Probe) -> None:
            ringing.context.after(0.5, hang_or_crash)

        reply = asking(nursery, actor.ask.beside)
        await actor.ask.run(prepare)
        if cut:
            await actor.ask.leave()
            await trio.sleep(0.6)
            await runtime.stop(actor)
            assert trio.current_time() == 3.6
        else:
            await actor.ask.leave()
        assert await reply.settled() == "OutcomeUnknown"


@pytest.mark.parametrize("kill", [False, True])
async def test_who_was_stuck_and_has_crashed_is_only_down(autojump_clock: MockClock, kill: bool) -> None:
    """Callers wait for its successor: it is not stuck any more."""

    async def hang_and_crash(_: Probe) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        raise Boom("at last")

    backoff = creche.Backoff(first=2, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(unwind_grace=1, down_wait=20, backoff=backoff))
        assert await asking(nursery, probe.within(1).ask.run_for_caller, hang_and_crash).settled() == "OutcomeUnknown"
        with pytest.raises(creche.NotDelivered, match="stuck"):
            await probe.ask.life()
        if kill:
            runtime.kill(probe, "it is stuck")
        await trio.sleep(9)
        assert (probe.statistics().state, await probe.ask.life()) == ("down", 2)
        assert trio.current_time() == 12
