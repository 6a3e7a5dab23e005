"""Sends and flushes beside the end of a log."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import mq as m

from ..components.mq.support import HeldClock, log_at, message, values_in


async def test_what_a_log_accepts_while_it_stops_is_written(tmp_path: Path) -> None:
    """It accepted what came while it wrote the last of what it had, and then told most of it that it was not sent."""
    clock, accepted = HeldClock(), [b"first"]
    async with log_at(tmp_path / "log", clock, max_batch=1) as (runtime, mq):
        clock.hold()
        await mq.send(message("first"))

        async def send_late(value: str) -> None:
            try:
                delivery = await mq.send(message(value))
            except creche.CallFailed:
                return
            accepted.append(value.encode())
            assert isinstance(await delivery.wait(), m.Ack)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.stop, mq)
            await clock.reached.wait()
            await wait_all_tasks_blocked()
            for value in ("late", "later", "too late"):
                nursery.start_soon(send_late, value)
            await wait_all_tasks_blocked()
            clock.release()
    assert sorted(values_in(tmp_path / "log")) == sorted(accepted)


async def test_a_flush_waits_for_what_is_being_written_while_the_log_dies(tmp_path: Path) -> None:
    """What was accepted behind it, and is not sent, counted for what was accepted before."""
    clock, flushed = HeldClock(), trio.Event()
    async with log_at(tmp_path / "log", clock) as (runtime, mq):
        clock.hold()
        first = await mq.send(message("first"))
        await clock.reached.wait()

        async def flush() -> None:
            await mq.flush()
            flushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            await mq.send(message("behind"))
            runtime.kill(mq, "test")
            await wait_all_tasks_blocked()
            assert not flushed.is_set()
            clock.release()
        assert (await first.wait()).offset == 0
