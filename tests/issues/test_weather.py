"""Found in review: an outage of a backend that a lifespan opens used up the restart budget and failed the tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Restarting, Started
from tests.core.support import LONG, Boom, Probe, recorded, settle

ONE = creche.Intensity(restarts=1, window=LONG)
EVERY_SECOND = creche.Backoff(first=1, factor=1, jitter=0, free=0)


class Service(Probe):
    """Opens a backend that fails for some lives, after the first."""

    def __init__(self, failures: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.failures, self.error = failures, error

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        if 1 < self.context.incarnation <= 1 + self.failures:
            raise self.error()
        yield


class Watcher(Probe):
    """Looks at its backend in the background; it is down for some lives."""

    def __init__(self, failures: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.failures, self.error = failures, error

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.context.spawn(self._watch)
        yield

    async def _watch(self) -> None:
        if 1 < self.context.incarnation <= 1 + self.failures:
            raise self.error()


def refused(retry_after: float | None = None) -> Callable[[], Exception]:
    return lambda: creche.Unavailable("redis", "connection refused", retry_after)


@pytest.mark.parametrize("cls", [Service, Watcher])
async def test_weather_costs_nothing(autojump_clock: MockClock, cls: type[Service] | type[Watcher]) -> None:
    """Out of a lifespan or of background work, however often: only the crash that came before it is charged."""
    async with creche.open_runtime("t", intensity=ONE) as runtime:
        spec = creche.child(cls, 30, refused(1)).options(backoff=EVERY_SECOND, down_wait=LONG)
        service = await runtime.start(spec)
        runtime.kill(service, "the one that is charged")
        await trio.sleep(100)
        assert await service.ask.life() == 32


@pytest.mark.parametrize(("retry_after", "delay"), [(None, 1), (0.25, 1), (40, 40)])
async def test_weather_is_waited_out(autojump_clock: MockClock, retry_after: float | None, delay: float) -> None:
    """The restart comes after the backoff, and not before `retry_after`."""
    async with creche.open_runtime("t", intensity=ONE) as runtime:
        spec = creche.child(Service, 1, refused(retry_after)).options(backoff=EVERY_SECOND, down_wait=LONG)
        service = await runtime.start(spec)
        seen = recorded(runtime)
        runtime.kill(service, "now")
        assert await service.ask.life() == 3
        assert [event.delay for event in seen if isinstance(event, Restarting)] == [1, delay]
        second, third = [event.time for event in seen if isinstance(event, Started)]
        assert third - second == delay


@pytest.mark.parametrize("cls", [Service, Watcher])
async def test_an_ordinary_error_of_a_lifespan_is_charged(
    autojump_clock: MockClock, cls: type[Service] | type[Watcher]
) -> None:
    """What is no weather fails the tree when the budget is used up."""
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", intensity=ONE) as runtime:
            spec = creche.child(cls, 1, lambda: Boom("a bug")).options(backoff=EVERY_SECOND)
            runtime.kill(await runtime.start(spec), "the first charge")
            await trio.sleep_forever()


async def test_weather_of_a_first_start_is_the_starters(autojump_clock: MockClock) -> None:
    """Who starts a child while its backend is down is told at once, and nothing is left."""

    class Down(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            if self.context.incarnation:
                raise creche.Unavailable("redis", "connection refused", 1)
            yield

    async with creche.open_runtime("t", intensity=ONE) as runtime:
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(creche.child(Down))
        await settle()
        assert isinstance(caught.value.__cause__, creche.Unavailable)
        assert runtime.tree().children == ()
