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


class Beside(Aside):
    @creche.message(concurrency=1)
    async def go_beside(self, gate: Gate, end: Gate) -> None:
        await gate.hold()
        await self.go(end)


async def test_what_is_unstashed_does_not_wait_behind_a_concurrent_message(autojump_clock: MockClock) -> None:
    """It comes to the head of the mailbox, in front of one that has to wait for another of its kind."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Beside))
        gates = [Gate(), Gate(), Gate(), Gate()]
        stashed = asking(nursery, actor.ask.take, "a")
        await settle()
        first = asking(nursery, actor.ask.go_beside, *gates[:2])
        await settle()
        second = asking(nursery, actor.ask.go_beside, *gates[2:])
        await settle()
        gates[0].opened.set()
        await settle()
        assert (stashed.what, first.what, second.what) == ("value", "pending", "pending")
        for gate in gates:
            gate.opened.set()
