"""Found by reading: what a handler had left running in a nursery of the lifespan took the reply slot of a later
message, or put that message aside; that of a concurrent message, those of a message that had been answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Gate, Probe, asking


class Host(Probe):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self.nursery:
            yield
            self.nursery.cancel_scope.cancel()

    async def leave_behind(self, what: Literal["defer", "stash"]) -> None:
        self.nursery.start_soon(self._meddle, what)

    @creche.message(concurrency=2)
    async def leave_behind_beside(self, what: Literal["defer", "stash"]) -> None:
        self.nursery.start_soon(self._meddle, what)

    async def _meddle(self, what: Literal["defer", "stash"]) -> None:
        await trio.sleep(1)
        with pytest.raises(RuntimeError, match="there is no message in hand"):
            if what == "defer":
                self.context.defer()
            else:
                self.context.stash()
        self.log.append("refused")


@pytest.mark.parametrize("message", ["leave_behind", "leave_behind_beside"])
@pytest.mark.parametrize("what", ["defer", "stash"])
async def test_what_a_handler_leaves_running_has_no_message_in_hand(
    autojump_clock: MockClock, what: Literal["defer", "stash"], message: str
) -> None:
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        host = await runtime.start(creche.child(Host, log))
        await getattr(host.ask, message)(what)
        gate = Gate()
        later = asking(nursery, host.ask.hold, gate)
        await trio.sleep(2)
        gate.opened.set()
        assert await later.settled() == "value"
    assert log[0] == "refused"
