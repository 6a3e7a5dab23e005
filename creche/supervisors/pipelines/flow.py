"""How items go through a pipeline.

Theory of operation
-------------------
A stage is a pool, and to let it handle an item is an ordinary call. So what a crash, a restart or a cancel means for an
item is what it means for a call, and nothing is handed from worker to worker that could get lost between them: the task
that carries an item from stage to stage is there from its beginning to its end, and knows its outcome.

Demand flows backwards by *room*. A stage has room for as many items as it has workers, and its buffer. An item takes
room when it enters, and gives it back only when it has entered the next stage, or has come to its end. So where a stage
is slow its own room fills up, then that of the stage before it, and in the end the source is not asked for the next
item: it is asked only when the first stage has room. Room is taken in the order of the stages, and the last one gives
it back unconditionally: that is why they cannot wait for each other in a circle.

One item may become several, or none. The item from the source has come to its end when all that it became has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from ...runtime.errors import CallFailed, NotDelivered

if TYPE_CHECKING:
    from ...runtime.actor import MessageSpec
    from ..pools.front import Front

Source = AsyncIterable[Any] | Iterable[Any]
_END = object()


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of an item.

    Parameters
    ----------
    item
        As it came from the source.
    results
        What left the last stage for it: one, several where a stage makes many of one, none where one dropped it.
    error, stage
        Why and in which stage it has failed, or the first of what it became; None and ``""`` if nothing has. What else
        it became is in `results`.
    """

    item: Any
    results: tuple[Any, ...]
    error: Exception | None = None
    stage: str = ""

    def unwrap(self) -> tuple[Any, ...]:
        """The results. Raises `error` if there is one."""
        if self.error is not None:
            raise self.error
        return self.results


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """A stage at this moment.

    Parameters
    ----------
    inside, room
        Items in it, those included that wait for room in the next one; how many more it would take.
    entered, passed, dropped, failed
        Items that came in, and what became of them.
    """

    name: str
    inside: int
    room: int
    entered: int
    passed: int
    dropped: int
    failed: int


class StageFlow:
    """One stage, as the items see it."""

    def __init__(self, name: str, front: Front, message: MessageSpec, capacity: int, many: bool) -> None:
        self.name = name
        self._front = front
        self._message = message
        self._many = many
        self.capacity = capacity
        self.room = trio.Semaphore(capacity)
        self._entered = self._passed = self._dropped = self._failed = 0

    async def handle(self, item: Any) -> Sequence[Any]:
        """Let a worker handle it. Returns what it became. Raises what the call does."""
        self._entered += 1
        try:
            value = await self._front.call(self._message, (item,), {})
            items = () if value is None else tuple(value) if self._many else (value,)
        except Exception:
            self._failed += 1
            raise
        if items:
            self._passed += 1
        else:
            self._dropped += 1
        return items

    def statistics(self) -> StageStatistics:
        """See there."""
        room = self.room.value
        inside = self.capacity - room
        return StageStatistics(self.name, inside, room, self._entered, self._passed, self._dropped, self._failed)


class _Journey:
    """An item from the source on its way."""

    __slots__ = ("error", "stage")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.stage = ""

    def failed(self, stage: str, error: Exception) -> None:
        """It, or something that it became."""
        if self.error is None:
            self.error, self.stage = error, stage


class Flow:
    """All items of a pipeline."""

    def __init__(self, path: str, stages: Sequence[StageFlow]) -> None:
        self._path = path
        self.stages = stages
        self.in_flight = 0
        self.done = self.failed = 0
        self.closed = False
        self._empty = trio.Event()
        self._asking: dict[trio.CancelScope, None] = {}  # of those who wait for a source

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let no more items in, and ask no source for more."""
        self.closed = True
        for asking in self._asking:
            asking.cancel("the pipeline is being stopped")

    async def emptied(self) -> None:
        """Wait until nothing is on its way."""
        while self.in_flight:
            await self._empty.wait()

    def refusal(self) -> CallFailed | None:
        """Why nothing is let in."""
        return NotDelivered(self._path, "closed") if self.closed else None

    # --- one item ---------------------------------------------------------------------------------

    async def ask(self, source: AsyncIterator[Any]) -> Any:
        """The next item of a source, or `_END`, when there is room in the first stage.

        The room is not kept meanwhile: a source may have nothing for a long time, and others come in.
        """
        room = self.stages[0].room
        await room.acquire()
        room.release()
        if self.closed:
            return _END
        with trio.CancelScope() as asking:
            self._asking[asking] = None
            try:
                return await anext(source, _END)
            finally:
                del self._asking[asking]
        return _END

    async def admit(self) -> None:
        """Wait for room in the first stage. Whoever has it calls `carry`."""
        await self.stages[0].room.acquire()

    async def carry(self, item: Any) -> ItemOutcome:
        """Carry an item, which has been admitted, to its end."""
        refusal = self.refusal()
        if refusal is not None:
            self.stages[0].room.release()
            await trio.lowlevel.checkpoint()
            return ItemOutcome(item, (), refusal)
        journey = _Journey()
        results: list[Any] = []
        if not self.in_flight:
            self._empty = trio.Event()
        self.in_flight += 1
        try:
            await self._pass(0, item, journey, results)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._empty.set()
        if journey.error is None:
            self.done += 1
        else:
            self.failed += 1
        return ItemOutcome(item, tuple(results), journey.error, journey.stage)

    async def _pass(self, number: int, item: Any, journey: _Journey, results: list[Any]) -> None:
        """Through a stage in which it has room, and those after it."""
        stage = self.stages[number]
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                stage.room.release()

        try:
            items = await stage.handle(item)
            if number == len(self.stages) - 1:
                results.extend(items)
            elif items:
                await self._pass_on(number + 1, items, journey, results, leave)
        except Exception as error:
            journey.failed(stage.name, error)
        finally:
            leave()

    async def _pass_on(
        self, number: int, items: Sequence[Any], journey: _Journey, results: list[Any], leave: Callable[[], None]
    ) -> None:
        """Through the next stage, each as soon as there is room; when all have entered it the one before is left."""
        room = self.stages[number].room
        if len(items) == 1:
            await room.acquire()
            leave()
            await self._pass(number, items[0], journey, results)
            return
        parts: list[list[Any]] = []
        async with trio.open_nursery() as nursery:
            for item in items:
                await room.acquire()
                parts.append([])
                nursery.start_soon(self._pass, number, item, journey, parts[-1])
            leave()
        for part in parts:
            results.extend(part)


class Stream:
    """The outcomes of the items of one source, as they come. Made by `Pipeline.process`.

    An error that the source raises comes out of the iteration when all items before it have come to their end.
    """

    def __init__(self, flow: Flow, source: Source, *, ordered: bool) -> None:
        self._flow = flow
        self._source = source
        self._ordered = ordered
        self._failure: Exception | None = None
        self._out, self._outcomes = trio.open_memory_channel[ItemOutcome](0)
        # What has come to its end and has not been taken holds up the source, too.
        self._window = trio.Semaphore(sum(stage.capacity for stage in flow.stages))

    def __aiter__(self) -> AsyncIterator[ItemOutcome]:
        return self

    async def __anext__(self) -> ItemOutcome:
        try:
            return await self._outcomes.receive()
        except trio.EndOfChannel:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure from failure.__cause__
            raise StopAsyncIteration from None

    async def feed(self) -> None:
        """Take from the source what the pipeline has room for, until it ends; then close it."""
        source = _each(self._source)
        before = trio.Event()
        before.set()
        async with self._out:
            try:
                async with trio.open_nursery() as nursery:
                    while (item := await self._next(source)) is not _END:
                        after = trio.Event()
                        nursery.start_soon(self._carry, item, before, after)
                        before = after
            finally:
                if isinstance(source, AsyncGenerator | trio.abc.AsyncResource):
                    await source.aclose()

    async def _next(self, source: AsyncIterator[Any]) -> Any:
        """The next item, admitted, or `_END`. The source is not asked before there is room."""
        await self._window.acquire()
        try:
            item = await self._flow.ask(source)
        except Exception as error:
            self._failure = error
            return _END
        if item is _END:
            self._failure = self._flow.refusal()
        else:
            await self._flow.admit()
        return item

    async def _carry(self, item: Any, before: trio.Event, after: trio.Event) -> None:
        outcome = await self._flow.carry(item)
        if self._ordered:
            await before.wait()
        await self._out.send(outcome)
        after.set()
        self._window.release()


def _each(source: Source) -> AsyncIterator[Any]:
    return aiter(source) if isinstance(source, AsyncIterable) else _of(source)


async def _of(source: Iterable[Any]) -> AsyncIterator[Any]:
    for item in source:
        await trio.lowlevel.checkpoint()
        yield item
