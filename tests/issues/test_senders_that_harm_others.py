"""What one sender said could bring down the log for everybody, or hold up the outbox for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import creche
from creche import components as c
from creche.components import mq as m
from creche.runtime.context import carrying

from ..components.mq.support import HeldClock, Seen, log_at, message

NOBODY_CAN_WRITE = "\ud800"


async def test_what_a_sender_does_to_its_headers_afterwards_is_no_matter(tmp_path: Path) -> None:
    """The record had them as they were when it was written; one that is no text could never be read again."""
    clock, seen = HeldClock(), Seen()
    headers: dict[str, Any] = {"n": "1"}
    async with log_at(tmp_path / "log", clock, partitions=1) as (runtime, mq):
        clock.hold()
        await mq.send(message("first"))
        await clock.reached.wait()
        await mq.send(m.Message("t", b"second", headers=headers))
        headers["n"] = 2
        clock.release()
        await runtime.start(m.consumer(mq, "g", "t", seen))
        await seen.until_done(2)
        assert runtime.node_of(mq).incarnation == 1
    assert seen.done[1].headers == {"n": "1"}


async def test_a_trace_id_that_cannot_be_written_is_refused_when_it_is_sent(tmp_path: Path) -> None:
    """As such a header is; in a transaction, too, where it would hold up all that was published after it."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        db = await runtime.start(c.db.component(c.db.Config(path=str(tmp_path / "db"))))
        with carrying(trace_id=NOBODY_CAN_WRITE):
            with pytest.raises(UnicodeError):
                await mq.send_sync(message(1))
            async with db.transaction() as tx:
                with pytest.raises(UnicodeError):
                    await tx.publish(message(1))
        assert await db.scalar(sa.text("SELECT count(*) FROM creche_outbox")) == 0
        assert runtime.node_of(mq).incarnation == 1


Ask = Callable[[m.Mq], Awaitable[object]]
ASKED: dict[str, tuple[Ask, type[Exception]]] = {
    "delete": (lambda mq: mq.topics.delete(NOBODY_CAN_WRITE), m.TopicInvalid),
    "describe": (lambda mq: mq.topics.describe(NOBODY_CAN_WRITE), m.TopicInvalid),
    "create_partitions": (lambda mq: mq.topics.create_partitions(NOBODY_CAN_WRITE, 2), m.TopicInvalid),
    "set_offsets": (lambda mq: mq.groups.set_offsets("g", {(NOBODY_CAN_WRITE, 0): 0}), m.TopicUnknown),
    "set_offsets of too large a number": (lambda mq: mq.groups.set_offsets("g", {("t", 2**63): 0}), m.TopicUnknown),
    "set_offsets of a negative number": (lambda mq: mq.groups.set_offsets("g", {("t", -1): 0}), m.TopicUnknown),
}


@pytest.mark.parametrize(("ask", "refusal"), ASKED.values(), ids=ASKED)
async def test_names_and_numbers_that_there_cannot_be_are_refused(
    ask: Ask, refusal: type[creche.CrecheError], tmp_path: Path
) -> None:
    """By the handle: the log's actor crashed over some, and took -1 for the first partition."""
    async with log_at(tmp_path / "log") as (runtime, mq):
        await mq.topics.create("t", 1)
        with pytest.raises(refusal):
            await ask(mq)
        assert runtime.node_of(mq).incarnation == 1
        assert await mq.groups.list() == []
