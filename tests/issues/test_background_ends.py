"""Found in review: background work outlived the lifespan that it used, and failed of that, in place of the bug."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Boom, Probe, asking, kinds, recorded, settle


class Connection(Probe):
    """Closes its stream when the lifespan is left; its reader takes a closed stream for a failure."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        send, receive = trio.open_memory_channel[None](0)
        self.context.spawn(self._read, receive)
        try:
            yield
        finally:
            self.log.append("closing")
            send.close()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)  # flush

    async def leave(self) -> None:
        self.context.exit()

    async def _read(self, receive: trio.MemoryReceiveChannel[None]) -> None:
        try:
            async for _ in receive:
                pass
            raise Boom("the stream was closed under the reader")
        finally:
            self.log.append("reader ended")


@pytest.mark.parametrize("end", ["stop", "exit", "crash", "kill"])
async def test_background_work_ends_before_its_lifespan(autojump_clock: MockClock, end: str) -> None:
    """However an incarnation ends: what the lifespan holds is still there when the background work is cancelled."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Connection, log).options(restart="temporary"))
        await settle()
        if end == "stop":
            await runtime.stop(actor)
        elif end == "exit":
            await actor.ask.leave()
        elif end == "crash":
            actor.cast_nowait(Connection.crash)
        else:
            runtime.kill(actor, "now")
        await trio.sleep(5)
        assert log == ["reader ended", "closing"]


async def test_a_reader_does_not_hide_the_bug(autojump_clock: MockClock) -> None:
    """The caller in hand gets the handler's error as the cause, not what the reader makes of the closed stream."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Connection))
        await settle()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await actor.ask.crash("the bug")
        assert str(caught.value.__cause__) == "the bug"


async def test_a_stop_that_closes_a_readers_stream_is_no_bad_stop(autojump_clock: MockClock) -> None:
    """A graceful stop of an actor with a reader is just that."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Connection))
        await settle()
        seen = recorded(runtime)
        await runtime.stop(actor)
        assert kinds(seen, actor.path) == ["Stopped"]


async def test_an_exit_that_closes_a_readers_stream_is_no_crash(autojump_clock: MockClock) -> None:
    """A transient actor with a reader that ends itself is done, and is not started anew."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Connection).options(restart="transient"))
        await settle()
        seen = recorded(runtime)
        await actor.ask.leave()
        await trio.sleep(5)
        assert kinds(seen, actor.path) == ["Stopped"]


class Untidy(Probe):
    """Fails once more while it ends: in the cleanup of background work, or in the exit of the lifespan."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.context.spawn(self._work)
        try:
            yield
        finally:
            if self.where == "lifespan":
                raise ValueError("the exit failed, too")

    async def _work(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self.where == "background":
                raise ValueError("the cleanup failed, too")


@pytest.mark.parametrize("where", ["background", "lifespan"])
async def test_the_first_failure_is_the_cause_whatever_its_end_brings(where: str) -> None:
    """An error in the cleanup that a crash causes does not take the place of that crash."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Untidy, where))
        await settle()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await actor.ask.crash("the bug")
        assert repr(caught.value.__cause__) == "Boom('the bug')"


async def tarry() -> None:
    """Takes its time to end, and holds nothing of the actor."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)


class Deferring(Probe):
    """Holds the reply slots itself: they go when it goes."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.context.spawn(tarry)
        yield

    async def answer_later(self, then: str) -> None:
        self.slot = self.context.defer()
        if then == "background work fails":
            self.context.spawn(self.crash, "the bug")
        self.slot.later()


@pytest.mark.parametrize("then", ["background work fails", "a handler fails", "a kill"])
async def test_the_crash_is_the_cause_for_deferred_callers_too(autojump_clock: MockClock, then: str) -> None:
    """However long background work takes to end: that its slot went with the actor is not what the caller is told."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Deferring))
        reply = asking(nursery, actor.ask.answer_later, then)
        await settle()
        if then == "a handler fails":
            actor.cast_nowait(Deferring.crash, "the bug")
        elif then == "a kill":
            runtime.kill(actor, "the bug")
        assert await reply.settled() == "OutcomeUnknown"
        assert reply.error is not None
        assert "the bug" in str(reply.error.__cause__)
