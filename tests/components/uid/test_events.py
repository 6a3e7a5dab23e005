"""What uid tells on the runtime's event hook."""

from __future__ import annotations

import pytest
import trio

import creche
from creche.components import uid as u
from creche.runtime.events import Event
from tests.components.uid.support import FOREVER, QUICK, ShiftedClock, kill, running, sql


class Heard:
    """The component's events so far, and a way to wait for more of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = trio.Event()

    def __call__(self, event: Event) -> None:
        if type(event).__module__ == u.WorkerIdLeased.__module__:
            self.events.append(event)
            self._news.set()

    async def wait_for(self, kind: type[Event]) -> Event:
        """The next event of that kind."""
        with trio.fail_after(20):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        self.events.remove(event)
                        return event
                self._news = trio.Event()
                await self._news.wait()


@pytest.mark.parametrize("backend", ["file", "memory"])
async def test_a_worker_id_that_is_leased_is_told_once(path: str, backend: str) -> None:
    """With the mark that its ids come after; a restart goes on with it and leases nothing."""
    heard = Heard()
    async with creche.open_runtime("t") as runtime:
        runtime.events.subscribe(heard)
        config = u.Config(state_path=path if backend == "file" else None)
        ids = await runtime.start(u.component(config).options(backoff=QUICK))
        await kill(runtime, ids)
        await ids.snowflake()
        (leased,) = heard.events
        assert isinstance(leased, u.WorkerIdLeased)
        assert (leased.path, leased.incarnation, leased.worker_id) == ("root/uid", 1, 0)
        statistics = ids.statistics()
        assert statistics is not None
        assert leased.mark < statistics.high_water


async def test_a_worker_id_that_is_lost_and_replaced_is_told(path: str) -> None:
    """Which one was lost, and which one came in its place."""
    heard = Heard()
    async with running(u.Config(state_path=path, tolerance=0.1)) as (runtime, _):
        runtime.events.subscribe(heard)
        sql(path, f"UPDATE worker_ids SET owner = 'thief', expires_ms = {FOREVER}")
        lost = await heard.wait_for(u.WorkerIdWasLost)
        leased = await heard.wait_for(u.WorkerIdLeased)
    assert isinstance(lost, u.WorkerIdWasLost)
    assert isinstance(leased, u.WorkerIdLeased)
    assert (lost.worker_id, leased.worker_id) == (0, 1)


async def test_a_file_that_fails_and_works_again_is_told_once_each(path: str) -> None:
    """However often it is tried in between."""
    heard = Heard()
    clock = ShiftedClock()
    async with running(u.Config(state_path=path, tolerance=0.1), clock) as (runtime, _):
        runtime.events.subscribe(heard)
        sql(path, "ALTER TABLE worker_ids RENAME TO elsewhere")
        failed = await heard.wait_for(u.IdsUnavailable)
        assert isinstance(failed, u.IdsUnavailable)
        assert "no such table" in failed.error
        for _ in range(3):
            clock.read = trio.Event()
            await clock.read.wait()
        sql(path, "ALTER TABLE elsewhere RENAME TO worker_ids")
        await heard.wait_for(u.IdsAvailable)
    assert heard.events == []
