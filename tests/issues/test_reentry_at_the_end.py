"""Found by the fuzz: a call that was let in when no task could be started any more woke whoever did not wait for it."""

from __future__ import annotations

import trio
from trio.testing import MockClock

import creche
from tests.core.support import Boom, Probe, asking, settle


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


async def test_nothing_is_let_in_at_the_end_of_an_incarnation(autojump_clock: MockClock) -> None:
    """The call is `NotDelivered`; the outer caller is told of the crash; the next life goes on."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        late = await runtime.start(creche.child(Late, log))
        reply = asking(nursery, late.ask.work)
        assert await reply.settled() == "OutcomeUnknown"
        await settle()
        assert (log, await late.ask.life()) == (["crash"], 2)
