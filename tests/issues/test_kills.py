"""Found in review: a kill that came too late took the place of the crash, or said that it had killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.events import Crashed, Event
from tests.core.support import Probe, asking, settle


class Slow(Probe):
    """Takes its time to leave the lifespan."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(2)


async def test_a_kill_of_who_is_dying_already_is_false(autojump_clock: MockClock) -> None:
    """The crash that came first stays the cause."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        slow = await runtime.start(creche.child(Slow))
        reply = asking(nursery, slow.ask.crash, "the bug")
        await settle()
        assert not runtime.kill(slow, "too late")
        assert await reply.settled() == "OutcomeUnknown"
        assert reply.error is not None
        assert repr(reply.error.__cause__) == "Boom('the bug')"


async def test_a_kill_out_of_the_event_of_the_crash_is_false() -> None:
    """The incarnation that the event tells of is dead already: there is one crash, and the next life is the second."""
    said: list[bool] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))

        def kill_at_the_first_crash(event: Event) -> None:
            if isinstance(event, Crashed) and not said:
                said.append(runtime.kill(probe, "from the hook"))

        runtime.events.subscribe(kill_at_the_first_crash)
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash()
        assert (said, await probe.ask.life()) == ([False], 2)
