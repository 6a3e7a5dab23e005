"""Nothing grows, and nothing dead is kept."""

from __future__ import annotations

import gc
import weakref

import pytest

import creche
from tests.core.support import Probe, asking, cell_of, settle

MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)


class Payload:
    """Something big that a message carries."""


class Sink(Probe):
    """Takes payloads."""

    async def take(self, payload: object) -> None: ...

    async def crash_with(self, payload: object) -> None:
        local = payload  # noqa: F841  # in the frame that the traceback holds
        raise ValueError("with a payload in the frame")


async def test_a_dead_incarnation_is_not_kept() -> None:
    """After a crash nothing holds the dead actor, its frames or its error, once its callers have let go."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        sink = await runtime.start(creche.child(Sink).options(backoff=AT_ONCE))
        refs: list[weakref.ref[object]] = []

        async def look(probe: Probe) -> None:
            refs.append(weakref.ref(probe))

        await sink.ask.run(look)
        payload = Payload()
        refs.append(weakref.ref(payload))
        with pytest.raises(creche.OutcomeUnknown):
            await sink.ask.crash_with(payload)
        await sink.ask.life()
        del payload
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


async def test_a_handled_message_is_not_kept() -> None:
    """Arguments of calls and casts that have been handled, revoked or refused are not held by the idle actor."""
    import trio

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        sink = await runtime.start(creche.child(Sink))
        refs: list[weakref.ref[object]] = []

        def payload() -> Payload:
            made = Payload()
            refs.append(weakref.ref(made))
            return made

        await sink.ask.take(payload())
        await sink.cast(Sink.take, payload())
        reply = asking(nursery, sink.ask.take, payload())
        reply.scope.cancel()
        await reply.settled()
        del reply
        await settle()
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3


async def test_crash_loops_do_not_grow() -> None:
    """After a hundred more crashes there are no more objects than before, but for a few."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        sink = await runtime.start(creche.child(Sink).options(backoff=AT_ONCE))

        async def crash(times: int) -> int:
            for _ in range(times):
                with pytest.raises(creche.OutcomeUnknown):
                    await sink.ask.crash()
            await sink.ask.life()
            gc.collect()
            return len(gc.get_objects())

        await crash(50)
        before = await crash(1)
        assert await crash(200) - before < 100
        assert len(runtime.deadlines) <= 130


async def test_a_stopped_child_is_not_kept() -> None:
    """A child that was started at run time is gone from the tree when it has stopped; only handles still name it."""
    async with creche.open_runtime("t") as runtime:
        refs = []
        for _ in range(20):
            handle = await runtime.start(creche.child(Probe))
            refs.append(weakref.ref(cell_of(handle).deadlines))
            await runtime.stop(handle)
        assert [node.path for node in runtime.tree()] == ["root"]


async def test_the_last_failure_is_kept_without_its_frames() -> None:
    """A handle to an actor that a crash has ended pins neither the dead object nor the frames of its error."""

    class Odd(Exception):
        def __init__(self, number: int, *, needed: str) -> None:
            super().__init__(f"{number} {needed}")
            self.number = number

    class Dying(Probe):
        async def die(self) -> None:
            try:
                raise KeyError("first")
            except KeyError as cause:
                raise Odd(7, needed="x") from cause

    async with creche.open_runtime("t") as runtime:
        dying = await runtime.start(creche.child(Dying).options(restart="temporary"))
        with pytest.raises(creche.OutcomeUnknown) as in_hand:
            await dying.ask.die()
        assert in_hand.value.__cause__ is not None
        assert in_hand.value.__cause__.__traceback__ is not None  # whoever was there sees it whole
        with pytest.raises(creche.ActorStopped) as later:
            await dying.ask.life()
        last = later.value.__cause__
        assert isinstance(last, Odd)
        assert (str(last), last.number, last.__traceback__) == ("7 x", 7, None)
        assert isinstance(last.__cause__, KeyError)
        assert last.__cause__.__traceback__ is None
