"""What the actors are compared with: the least that Trio allows, what one writes by hand, and asyncio.

None of these has a supervisor, restarts, deadlines, revocation or a graceful stop.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from typing import Any, NoReturn

import outcome
import trio
import trio.testing
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ._harness import Stopwatch

BUFFER = 256
BURST = 256
MAILBOX = 1024  # messages, as creche's default


async def echo(value: int) -> int:
    return value


async def trio_crowd(callers: int, each: int, ask_in_turn: Callable[[int], Awaitable[None]]) -> float:
    """Let so many tasks ask so many times each; microseconds per ask."""
    with Stopwatch() as watch:
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(ask_in_turn, each)
    return watch.elapsed / (each * callers)


# --- the raw rendezvous ---------------------------------------------------------------------------------------


class Floor:
    """One wake for all that wait, one wake for each answer; no mailbox, no dispatch, no value."""

    def __init__(self) -> None:
        self._waiting: list[Task] = []
        self._server: Task | None = None

    def _abort(self, _raise_cancel: Callable[[], NoReturn]) -> Abort:
        self._server = None
        return Abort.SUCCEEDED

    def answer(self, caller: Task) -> None:
        reschedule(caller)

    async def serve(self) -> None:
        task = current_task()
        while True:
            waiting, self._waiting = self._waiting, []
            for caller in waiting:
                self.answer(caller)
            self._server = task
            await wait_task_rescheduled(self._abort)

    async def ask(self, _value: int) -> None:
        self._waiting.append(current_task())
        if self._server is not None:
            server, self._server = self._server, None
            reschedule(server)
        await wait_task_rescheduled(self._abort)


class Nothing(outcome.Outcome[None]):
    """An outcome that may be unwrapped again and again."""

    __slots__ = ()

    def unwrap(self) -> None:
        return None

    def send(self, gen: Generator[Any, None, object]) -> Any:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[Any, None]) -> Any:
        return await agen.asend(None)


NOTHING = Nothing()


class LeanFloor(Floor):
    """The same with one outcome for all answers.

    `reschedule` makes a new `outcome.Value` when it is given none, which is a fifth of the whole. An actor that brings
    an outcome of its own, as creche's do, is compared with too high a floor otherwise.
    """

    def answer(self, caller: Task) -> None:
        reschedule(caller, NOTHING)


async def floor_ask(kind: type[Floor], callers: int, each: int) -> float:
    floor = kind()

    async def ask_in_turn(asks: int) -> None:
        for number in range(asks):
            await floor.ask(number)

    return await _beside(floor.serve, partial(trio_crowd, callers, each, ask_in_turn))


async def _beside(serve: Callable[[], Awaitable[None]], measure: Callable[[], Awaitable[float]]) -> float:
    """Measure while a server runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        elapsed = await measure()
        nursery.cancel_scope.cancel()
    return elapsed


# --- by hand, with memory channels ----------------------------------------------------------------------------

_Message = tuple[Callable[[int], Awaitable[int]], int, list[int], trio.Event]


class ChannelActor:
    """A task that reads a memory channel; a reply is an Event and a slot."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[_Message](BUFFER)

    async def serve(self) -> None:
        async for method, value, slot, done in self._receive:
            slot.append(await method(value))
            done.set()

    async def ask(self, value: int) -> int:
        slot: list[int] = []
        done = trio.Event()
        await self._send.send((echo, value, slot, done))
        await done.wait()
        return slot[0]


async def channel_ask(callers: int, each: int) -> float:
    actor = ChannelActor()

    async def ask_in_turn(asks: int) -> None:
        for number in range(asks):
            await actor.ask(number)

    return await _beside(actor.serve, partial(trio_crowd, callers, each, ask_in_turn))


async def channel_stream(operations: int) -> float:
    """One producer, one consumer, both awaiting; microseconds per message."""
    send, receive = trio.open_memory_channel[int](BUFFER)

    async def consume() -> None:
        async for value in receive:
            await echo(value)

    with Stopwatch() as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            async with send:
                for number in range(operations):
                    await send.send(number)
    return watch.elapsed / operations


async def channel_drain(operations: int) -> float:
    """The same with all that is known to make it quick: neither side awaits while there is room, or something there."""
    send, receive = trio.open_memory_channel[int](BUFFER)

    async def consume() -> None:
        async for value in receive:
            await echo(value)
            while True:
                try:
                    waiting = receive.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
                await echo(waiting)

    with Stopwatch() as watch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            async with send:
                for number in range(operations):
                    try:
                        send.send_nowait(number)
                    except trio.WouldBlock:
                        await send.send(number)
    return watch.elapsed / operations


async def bare_spawn(count: int) -> tuple[float, float]:
    """Start so many parked tasks, then cancel them all; microseconds per task of each."""
    with Stopwatch() as stopping:
        async with trio.open_nursery() as nursery:
            with Stopwatch() as starting:
                for _ in range(count):
                    nursery.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    return starting.elapsed / count, (stopping.elapsed - starting.elapsed) / count


async def bare_start(count: int) -> list[float]:
    """`nursery.start` of so many tasks, one after the other; microseconds for each."""

    async def park(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with Stopwatch() as watch:
            for _ in range(count):
                await nursery.start(park)
        nursery.cancel_scope.cancel()
    return [watch.elapsed / count]


# --- memory ---------------------------------------------------------------------------------------------------


class Scale:
    """Bytes that Python has allocated since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._before = tracemalloc.get_traced_memory()[0]

    def each(self, count: int) -> float:
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - self._before) / count


async def bare_memory(count: int) -> list[float]:
    """Bytes of each parked task."""
    scale = Scale()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        each = scale.each(count)
        nursery.cancel_scope.cancel()
    return [each]


async def channel_memory(count: int) -> list[float]:
    """Bytes of each actor with a memory channel that was asked once."""
    scale = Scale()
    async with trio.open_nursery() as nursery:
        actors = [ChannelActor() for _ in range(count)]
        for actor in actors:
            nursery.start_soon(actor.serve)
        for actor in actors:
            await actor.ask(1)
        each = scale.each(count)
        nursery.cancel_scope.cancel()
    return [each]


# --- asyncio --------------------------------------------------------------------------------------------------

_Asked = tuple[str, tuple[int, ...], dict[str, int], "asyncio.Future[int] | None"]


class AioActor:
    """The usual actor on asyncio: a Queue, dispatch by name, a Future for the reply or the error.

    As lean as one can write it: the queue has no bound, so that nothing has to be awaited to send.
    """

    capacity = 0

    def __init__(self) -> None:
        self.queue: asyncio.Queue[_Asked] = asyncio.Queue(self.capacity)
        self.loop = asyncio.get_running_loop()

    async def echo(self, value: int) -> int:
        return value

    async def serve(self) -> None:
        while True:
            name, args, kwargs, reply = await self.queue.get()
            try:
                result = await getattr(self, name)(*args, **kwargs)
            except Exception as error:
                if reply is not None and not reply.done():
                    reply.set_exception(error)
            else:
                if reply is not None and not reply.done():
                    reply.set_result(result)

    async def call(self, name: str, *args: int, **kwargs: int) -> int:
        reply: asyncio.Future[int] = self.loop.create_future()
        self.queue.put_nowait((name, args, kwargs, reply))
        return await reply

    def cast_nowait(self, name: str, *args: int, **kwargs: int) -> None:
        self.queue.put_nowait((name, args, kwargs, None))


class BoundedAioActor(AioActor):
    """The same with the bound that creche's mailboxes have, and callers that wait for room.

    With `asyncio.get_running_loop()` in each call it takes as long as the actor that the goals were set against.
    """

    capacity = MAILBOX

    async def call(self, name: str, *args: int, **kwargs: int) -> int:
        reply: asyncio.Future[int] = self.loop.create_future()
        await self.queue.put((name, args, kwargs, reply))
        return await reply


async def aio_ask(kind: type[AioActor], callers: int, each: int) -> float:
    actor = kind()

    async def caller() -> None:
        for number in range(each):
            await actor.call("echo", number)

    server = asyncio.create_task(actor.serve())
    await asyncio.sleep(0)
    with Stopwatch() as watch:
        await asyncio.gather(*(caller() for _ in range(callers)))
    await _aio_end(server)
    return watch.elapsed / (each * callers)


async def aio_cast(kind: type[AioActor], operations: int) -> float:
    """Bursts of messages, each ended by an ask; microseconds per message."""
    actor = kind()
    server = asyncio.create_task(actor.serve())
    await asyncio.sleep(0)
    bursts = max(operations // BURST, 1)
    with Stopwatch() as watch:
        for _ in range(bursts):
            for number in range(BURST):
                actor.cast_nowait("echo", number)
            await actor.call("echo", 0)
    await _aio_end(server)
    return watch.elapsed / (bursts * BURST)


async def _aio_end(server: asyncio.Task[None]) -> None:
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
