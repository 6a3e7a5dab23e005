"""Found in review: the callers of a batch that was killed waited for ever, if the actor had no lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import asking, settle


class Plain(creche.Actor):
    @creche.batched(limit=10, on_caller_gone="cancel")
    async def get(self, items: Sequence[creche.BatchItem[str, str]]) -> None:
        await trio.sleep_forever()


class Held(Plain):
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield


@pytest.mark.parametrize("cls", [Plain, Held])
async def test_a_killed_batch_is_answered_for(autojump_clock: MockClock, cls: type[Plain]) -> None:
    """Each of its callers gets OutcomeUnknown; the one who had gone is not waited for."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(cls))
        replies = [asking(nursery, actor.ask.get, key) for key in "abc"]
        await settle()
        replies[0].scope.cancel()
        await settle()
        runtime.kill(actor, "now")
        assert [await reply.settled() for reply in replies] == ["cancelled", "OutcomeUnknown", "OutcomeUnknown"]
