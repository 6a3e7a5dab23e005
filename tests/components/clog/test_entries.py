"""A trace id for whatever begins without a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import creche
from creche import testing
from creche.components import clog
from tests.components.clog.support import Entry, log_to, read

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Worker(creche.Actor):
    def __init__(self, store: creche.Handle[Store] | None = None) -> None:
        self.store = store

    async def work(self, step: str) -> None:
        clog.info(f"{step} begins")
        if self.store is not None:
            await self.store.ask.put(step)
        clog.info(f"{step} ends")

    async def beside(self, done: trio.Event) -> None:
        async def background() -> None:
            clog.info("one")
            clog.info("two")
            done.set()

        self.context.spawn(background)

    async def tick(self, ticks: int, done: trio.Event) -> None:
        self._left = ticks
        self._done = done
        self._alarm = self.context.every(0.001, self._on_tick)

    async def _on_tick(self) -> None:
        await self.work("tick")
        self._left -= 1
        if not self._left:
            self._alarm.cancel()
            self._done.set()


class Store(creche.Actor):
    async def put(self, step: str) -> None:
        clog.info(f"{step} is stored")


def traces(entries: Sequence[Entry]) -> list[str]:
    """The trace ids of the lines, all of which have one."""
    return [entry["trace_id"] for entry in entries]


async def test_casts_carry_the_trace_of_their_sender(tmp_path: Path) -> None:
    """As calls do."""
    async with log_to(tmp_path / "log") as log:
        worker = await log.runtime.start(creche.child(Worker))
        with clog.trace(ID):
            worker.cast_nowait(Worker.work, "cast")
        await worker.ask.work("call")
        entries = await log.entries()
    assert traces(entries)[:2] == [ID, ID]
    assert ID not in traces(entries)[2:]


async def test_a_message_without_a_trace_gets_one_of_its_own(tmp_path: Path) -> None:
    """It holds for all lines of the message and for the calls that it makes, and ends with it."""
    async with log_to(tmp_path / "log") as log:
        store = await log.runtime.start(creche.child(Store))
        worker = await log.runtime.start(creche.child(Worker, store))
        await worker.ask.work("one")
        worker.cast_nowait(Worker.work, "two")
        await worker.ask.work("three")
        found = traces(await log.entries())
    assert found == [found[0]] * 3 + [found[3]] * 3 + [found[6]] * 3
    assert len(set(found)) == 3
    assert all(clog.is_trace_id(one) and len(one) == 32 for one in found)


async def test_each_tick_of_a_timer_is_a_trace(tmp_path: Path) -> None:
    """With what it calls."""
    done = trio.Event()
    async with log_to(tmp_path / "log") as log:
        store = await log.runtime.start(creche.child(Store))
        worker = await log.runtime.start(creche.child(Worker, store))
        await worker.ask.tick(2, done)
        await done.wait()
        found = traces([entry for entry in await log.entries() if entry["msg"].startswith("tick")])
    assert found == [found[0]] * 3 + [found[3]] * 3
    assert found[0] != found[3]


async def test_a_background_task_is_a_trace(tmp_path: Path) -> None:
    """Not that of the message that has started it."""
    done = trio.Event()
    async with log_to(tmp_path / "log") as log:
        worker = await log.runtime.start(creche.child(Worker))
        with clog.trace(ID):
            await worker.ask.beside(done)
        await done.wait()
        one, two = traces(await log.entries())
    assert one == two != ID


async def test_code_outside_of_actors_has_the_trace_that_it_opens(tmp_path: Path) -> None:
    """And none without: nothing would tell where it ends."""
    async with log_to(tmp_path / "log") as log:
        clog.info("none")
        with clog.trace():
            clog.info("one")
        none, one = await log.entries()
    assert "trace_id" not in none
    assert "trace_id" in one


async def test_traced_gives_each_run_a_trace() -> None:
    """A new one, or that of the caller; arguments, value and errors go through."""

    @clog.traced
    async def step(number: int, *, fails: bool = False) -> tuple[int, str | None]:
        await trio.lowlevel.checkpoint()
        if fails:
            raise KeyError(number)
        return number, clog.trace_id()

    (one, first), (two, second) = await step(1), await step(2)
    assert (one, two) == (1, 2)
    assert None not in (first, second)
    assert first != second
    with clog.trace(ID):
        assert await step(3) == (3, ID)
    with pytest.raises(KeyError):
        await step(4, fails=True)
    assert clog.trace_id() is None


async def test_a_line_tells_what_waits(tmp_path: Path) -> None:
    """How many messages wait behind the one in hand; without any the key is left out."""
    async with log_to(tmp_path / "log") as log:
        worker = await log.runtime.start(creche.child(Worker))
        for number in range(3):
            worker.cast_nowait(Worker.work, str(number))
        await worker.ask.work("last")
        waiting = [entry.get("mailbox") for entry in await log.entries()]
    assert waiting == [3, 3, 2, 2, 1, 1, None, None]


async def test_a_line_tells_how_long_the_oldest_has_waited(tmp_path: Path, mock_clock: MockClock) -> None:
    """In seconds; left out, as the depth is, when nothing waits."""

    class Slow(creche.Actor):
        async def begin(self, begun: trio.Event, done: trio.Event) -> None:
            begun.set()
            await done.wait()
            clog.info("begun")

        async def work(self) -> None:
            mock_clock.jump(2)
            clog.info("done")

    async with log_to(tmp_path / "log") as log:
        slow = await log.runtime.start(creche.child(Slow))
        begun, done = trio.Event(), trio.Event()
        slow.cast_nowait(Slow.begin, begun, done)
        await begun.wait()
        for wait in (0.5, 0.25):
            slow.cast_nowait(Slow.work)
            mock_clock.jump(wait)
        done.set()
        await slow.ask.work()
        ages = [(entry.get("mailbox"), entry.get("mailbox_age")) for entry in await log.entries()]
    assert ages == [(3, 0.75), (2, 2.25), (1, 4.0), (None, None)]


async def test_a_line_from_a_thread_tells_no_age(tmp_path: Path) -> None:
    """A thread that an actor started writes in the actor's name, but does not look at how old its mail is."""

    class Threaded(creche.Actor):
        async def work(self) -> None:
            await trio.to_thread.run_sync(clog.info, "from the thread")

    async with log_to(tmp_path / "log") as log:
        threaded = await log.runtime.start(creche.child(Threaded))
        threaded.cast_nowait(Threaded.work)
        await threaded.ask.work()
        first, second = await log.entries()
    assert (first["actor"], first["mailbox"]) == ("root/threaded", 1)
    assert "mailbox_age" not in first
    assert "mailbox" not in second


def test_logging_does_not_change_a_deterministic_run(tmp_path: Path) -> None:
    """A line more or less does not change what else is drawn; and a seed repeats its trace ids."""

    async def story(path: Path, lines: int) -> float:
        async with creche.open_runtime("svc") as runtime:
            await runtime.start(clog.component(clog.Config(output=str(path))))
            worker = await runtime.start(creche.child(Worker))
            for _ in range(lines):
                await worker.ask.work("step")
            return runtime.random.random()

    drawn = [
        testing.run(story, tmp_path / str(place), lines, seed=seed)
        for place, (lines, seed) in enumerate([(1, 7), (5, 7), (5, 7), (5, 8)])
    ]
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
    found = [traces(read(tmp_path / str(place))) for place in range(4)]
    assert found[1] == found[2]
    assert not set(found[1]) & set(found[3])
