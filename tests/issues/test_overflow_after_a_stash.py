"""Found by the fuzz: a mailbox that came to hold more than its capacity lost what an overflow let in."""

from __future__ import annotations

import trio
from trio.testing import MockClock

import creche
from tests.core.support import Gate, Probe, asking, settle


class Aside(Probe):
    """Puts aside what it is asked until it is told not to."""

    ready = False

    async def take(self, word: str) -> str:
        if not self.ready:
            self.context.stash()
        return word

    async def go(self, gate: Gate) -> None:
        self.ready = True
        self.context.unstash_all()
        await gate.hold()


async def test_drop_oldest_lets_in_what_comes_after_an_unstash(autojump_clock: MockClock) -> None:
    """One goes and one comes, however many are back from the stash."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Aside).options(mailbox=1, overflow="drop_oldest"))
        replies = []
        for word in "abc":
            replies.append(asking(nursery, actor.ask.take, word))
            await settle()
        gate = Gate()
        asking(nursery, actor.ask.go, gate)
        await settle()
        late = asking(nursery, actor.ask.take, "d")
        await settle()
        assert actor.statistics().queued == 3
        gate.opened.set()
        await settle()
        assert [reply.what for reply in [*replies, late]] == ["NotDelivered", "value", "value", "value"]
