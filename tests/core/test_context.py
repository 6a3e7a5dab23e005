"""What travels with a message, and background work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.context import BAGGAGE, PLACE, actor_path, baggage, carrying, current_runtime
from creche.runtime.node import State
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, recorded, settle

VAR: ContextVar[str] = ContextVar("var", default="unset")


class Carrier(Probe):
    """Tells what it was given to carry."""

    async def carried(self) -> dict[str, object]:
        return dict(baggage())

    async def remember(self) -> None:
        self.log.append(str(dict(baggage())))

    async def recall(self) -> list[str]:
        return self.log


async def test_baggage_rides_along() -> None:
    """The caller's baggage is the handler's, for calls and casts, and goes on to the calls that the handler makes."""
    async with creche.open_runtime("t") as runtime:
        last = await runtime.start(creche.child(Carrier).options(name="last"))
        first = await runtime.start(creche.child(Probe).options(name="first"))

        async def ask_last(probe: Probe) -> dict[str, object]:
            with carrying(step="two"):
                return await last.ask.carried()

        with carrying(trace="abc"):
            assert await last.ask.carried() == {"trace": "abc"}
            last.cast_nowait(Carrier.remember)
            await last.cast(Carrier.remember)
            assert await first.ask.run(ask_last) == {"trace": "abc", "step": "two"}
        assert await last.ask.carried() == {}
        assert await last.ask.recall() == ["{'trace': 'abc'}"] * 2


async def test_baggage_ends_with_its_message() -> None:
    """What one message carried, or its handler added, is not seen by the next message."""

    async def forgetful(probe: Probe) -> None:
        BAGGAGE.set({"forgotten": "me"})

    async with creche.open_runtime("t") as runtime:
        carrier = await runtime.start(creche.child(Carrier))
        await carrier.ask.carried()
        await carrier.ask.run(forgetful)
        assert await carrier.ask.carried() == {}


async def test_baggage_does_not_reach_the_next_life() -> None:
    """What the message carried that crashed one incarnation is not seen while the next one is constructed and left."""
    seen: list[dict[str, object]] = []

    class Looking(Probe):
        def __init__(self) -> None:
            super().__init__()
            seen.append(dict(baggage()))

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            seen.append(dict(baggage()))
            try:
                yield
            finally:
                seen.append(dict(baggage()))

    async with creche.open_runtime("t") as runtime:
        looking = await runtime.start(creche.child(Looking))
        with carrying(trace="abc"), pytest.raises(creche.OutcomeUnknown):
            await looking.ask.crash()
        await looking.ask.life()
    assert seen == [{}] * 6


async def test_nothing_else_rides_along() -> None:
    """Other context variables of the caller do not reach the handler, nor those of whoever started the actor."""

    class Reader(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.log.append(VAR.get())

        async def read(self) -> list[str]:
            return [*self.log, VAR.get()]

    async with creche.open_runtime("t") as runtime:
        token = VAR.set("the caller's")
        with carrying(trace="abc"):
            reader = await runtime.start(creche.child(Reader))
            assert await reader.ask.read() == ["unset", "unset"]
        VAR.reset(token)


async def test_place_is_known() -> None:
    """`actor_path()` and `current_runtime()` tell where code runs, in handlers, background work and the block
    itself."""
    told: list[object] = []

    async def tell(probe: Probe) -> None:
        async def work() -> None:
            told.extend([actor_path(), current_runtime()])

        told.extend([actor_path(), current_runtime()])
        probe.context.spawn(work)

    async with creche.open_runtime("t") as runtime:
        assert (actor_path(), current_runtime()) == (None, runtime)
        probe = await runtime.start(creche.child(Probe))
        await probe.ask.run(tell)
        await settle()
        assert told == ["root/probe", runtime] * 2
        assert probe.path == "root/probe"
    assert current_runtime() is None


# --- background work ------------------------------------------------------------------------------


class Worker(Probe):
    """Runs what it is given in the background."""

    def __init__(self, log: list[str] | None = None) -> None:
        super().__init__(log)
        self.lost = trio.Event()

    async def work(self, error: type[BaseException] | None = None) -> None:
        self.context.spawn(self._work, error)

    async def lose(self) -> None:
        self.lost.set()

    async def _work(self, error: type[BaseException] | None) -> None:
        life = self.context.incarnation
        self.log.append(f"begin {life}")
        try:
            await self.lost.wait()
            if error is not None:
                raise error
        finally:
            self.log.append(f"end {life}")


async def test_background_work_ends_with_its_incarnation() -> None:
    """Background work goes on between messages, is cancelled when the incarnation ends, and has ended before
    the next."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        worker = await runtime.start(creche.child(Worker, log))
        await worker.ask.work()
        await settle()
        assert log == ["begin 1"]
        runtime.kill(worker, "now")
        assert await worker.ask.life() == 2
        assert log == ["begin 1", "end 1"]
        await worker.ask.work()
        await runtime.stop(worker)
        assert log[2:] in ([], ["begin 2", "end 2"])


async def test_background_work_outlives_its_message() -> None:
    """Work that a handler spawned is not cancelled with the caller of that handler."""
    log: list[str] = []

    async def body(probe: Probe) -> None:
        assert isinstance(probe, Worker)
        await probe.work()
        await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        worker = await runtime.start(creche.child(Worker, log))
        reply = asking(nursery, worker.ask.run_for_caller, body)
        await settle()
        reply.scope.cancel()
        await reply.settled()
        await settle()
        assert log == ["begin 1"]


@pytest.mark.parametrize("busy", [False, True])
async def test_background_failure_crashes(busy: bool) -> None:
    """An error in background work crashes the incarnation, idle or in the middle of a message, with that error."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        worker = await runtime.start(creche.child(Worker))
        await worker.ask.work(Boom)
        if busy:

            async def body(probe: Probe) -> None:
                assert isinstance(probe, Worker)
                await probe.lose()
                await trio.sleep_forever()

            reply = asking(nursery, worker.ask.run, body)
            assert await reply.settled() == "OutcomeUnknown"
            assert reply.error is not None
            assert isinstance(reply.error.__cause__, Boom)
        else:
            await worker.ask.lose()
        await settle()
        assert await worker.ask.life() == 2
        assert kinds(seen, worker.path).count("Crashed") == 1


async def test_background_failure_while_stopping_is_a_bad_stop() -> None:
    """Background work that fails when it is cancelled for a stop is a BadStop, not a crash."""

    async def body(probe: Probe) -> None:
        async def work() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise Boom("in cleanup")

        probe.context.spawn(work)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await probe.ask.run(body)
        await settle()
        seen = recorded(runtime)
        await runtime.stop(probe)
        assert kinds(seen, probe.path) == ["BadStop", "Stopped"]


async def test_background_work_before_ready() -> None:
    """Work may be spawned in `__init__` and in the lifespan, before the actor is ready; its failure there
    fails the start."""
    log: list[str] = []

    class Early(Worker):
        def __init__(self, error: type[Exception] | None) -> None:
            super().__init__(log)
            self.context.spawn(self._work, None)
            self.error = error

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.context.spawn(self._work, self.error)
            if self.error is not None:
                self.lost.set()
                await trio.sleep_forever()
            yield

    async with creche.open_runtime("t") as runtime:
        early = await runtime.start(creche.child(Early, None))
        await settle()
        assert log == ["begin 1", "begin 1"]
        await runtime.stop(early)
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(creche.child(Early, Boom))
        assert isinstance(caught.value.__cause__, Boom)


async def test_background_work_spawned_in_cleanup_still_ends(autojump_clock: MockClock) -> None:
    """What background work spawns while it is being cancelled ends with the same incarnation, too."""
    log: list[str] = []

    class Flushing(Probe):
        def __init__(self) -> None:
            super().__init__(log)
            self.context.spawn(self._work)

        async def _work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.context.spawn(self._flush, self.context.incarnation)

        async def _flush(self, life: int) -> None:
            try:
                await trio.sleep(1000)
            finally:
                log.append(f"{life} ended in {self.context.incarnation}")

    async with creche.open_runtime("t") as runtime:
        flushing = await runtime.start(creche.child(Flushing))
        await settle()
        runtime.kill(flushing, "now")
        assert await flushing.ask.life() == 2
        assert log in ([], ["1 ended in 1"])
    assert trio.current_time() < 100


async def test_background_work_has_a_clean_context() -> None:
    """Background work has neither the baggage of the message that spawned it nor any other context variable."""
    seen: list[object] = []

    async def body(probe: Probe) -> None:
        async def work() -> None:
            seen.extend([dict(baggage()), VAR.get()])

        VAR.set("the handler's")
        probe.context.spawn(work)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with carrying(trace="abc"):
            await probe.ask.run(body)
        await settle()
        assert seen == [{}, "unset"]


async def test_background_work_that_will_not_end_holds_up_the_restart(autojump_clock: MockClock) -> None:
    """Two incarnations never overlap, even if the work of the first shields itself for long."""

    async def body(probe: Probe) -> None:
        async def work() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)

        probe.context.spawn(work)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(down_wait=100))
        await probe.ask.run(body)
        await settle()
        runtime.kill(probe, "now")
        assert await probe.ask.life() == 2
        assert trio.current_time() == 30


async def test_two_background_failures_are_one_crash() -> None:
    """Errors of several background tasks at once are one crash with a group as its cause."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        worker = await runtime.start(creche.child(Worker))
        for _ in range(2):
            await worker.ask.work(Boom)
        await worker.ask.lose()
        await settle()
        assert await worker.ask.life() == 2
        crashes = [event for event in seen if isinstance(event, events.Crashed)]
        assert len(crashes) == 1
        assert crashes[0].error.startswith(("ExceptionGroup", "Boom"))


async def test_spawn_nobody_waits_at_the_stop(autojump_clock: MockClock) -> None:
    """A stop does not wait for background work to finish by itself: it is cancelled after the mail."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        worker = await runtime.start(creche.child(Worker))
        await worker.ask.work()
        gate = Gate()
        last = asking(nursery, worker.ask.hold, gate)
        await gate.entered.wait()
        gate.opened.set()
        await runtime.stop(worker)
        assert await last.settled() == "value"
        assert cell_of(worker).state is State.STOPPED
        assert trio.current_time() == 0


async def test_everything_of_a_life_knows_its_number() -> None:
    """The place of a task tells path and incarnation, for logs: in handlers, in the lifespan, and in what it starts."""
    seen: set[tuple[str, str, int]] = set()

    async def look(where: str) -> None:
        place = PLACE.get()
        assert place is not None
        seen.add((where, place.path, place.incarnation))

    class Looking(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            await look("lifespan")
            self.context.spawn(look, "background")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, "its nursery")
                yield

        async def handler(self) -> None:
            await look("handler")

    async with creche.open_runtime("t") as runtime:
        looking = await runtime.start(creche.child(Looking).options(name="a"))
        await looking.ask.handler()
        runtime.kill(looking, "again")
        await looking.ask.handler()
        await settle()
    places = ("lifespan", "background", "its nursery", "handler")
    assert seen == {(where, "root/a", life) for where in places for life in (1, 2)}
