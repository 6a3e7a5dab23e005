"""Found by the fuzz: a call that was let in when no task could be started any more woke whoever did not wait for it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Boom, Probe, asking


class Late(Probe):
    """Calls a reentrant message of its own when its incarnation is ending already."""

    async def work(self) -> None:
        self.context.spawn(self._fail)
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
            me: creche.Handle[Late] = self.context.handle
            try:
                await me.ask.again()
            except creche.NotDelivered as error:
                self.log.append(error.reason)

    @creche.message(reentrant=True)
    async def again(self) -> None:
        self.log.append("ran")

    async def _fail(self) -> None:
        raise Boom("in the background")

    async def linger(self) -> None:
        """Holds up the end of the background work, and with it the news of the crash."""
        self.context.spawn(self._linger)

    async def _linger(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(8)


@pytest.mark.parametrize(("lingers", "outcome"), [(False, "OutcomeUnknown"), (True, "value")])
async def test_nothing_is_let_in_at_the_end_of_an_incarnation(
    autojump_clock: MockClock, lingers: bool, outcome: str
) -> None:
    """The call is `NotDelivered`; the outer caller is told of a crash that comes first; the next life goes on."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        late = await runtime.start(creche.child(Late, log))
        if lingers:
            await late.ask.linger()
        reply = asking(nursery, late.ask.work)
        assert await reply.settled() == outcome
        await trio.sleep(10)
        assert (log, await late.ask.life()) == (["crash"], 2)
