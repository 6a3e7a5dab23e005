"""Dead letters of one group behind those of another, and letters that come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from creche.components import mq as m

from ..components.mq.support import Boom, Seen, log_at, send


async def test_letters_are_listed_behind_any_number_of_another_groups(tmp_path: Path) -> None:
    """The first ones of each partition were looked at and no more: there seemed to be none."""
    async with log_at(tmp_path / "log", partitions=1) as (_, mq):
        for group, count in (("others", 150), ("g", 2), ("others", 150), ("g", 1)):
            headers = {"creche-group": group}
            await mq.send_batch([m.Message("t.dead_letter", b"%d" % n, headers=headers) for n in range(count)])
        assert [letter.value for letter in await mq.dead_letters.list("t", "g")] == [b"0", b"1", b"0"]
        assert [letter.offset for letter in await mq.dead_letters.list("t", "g", limit=2)] == [150, 151]
        assert len(await mq.dead_letters.list("t", "others", limit=1000)) == 300


async def test_a_replay_ends_though_its_letters_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the handler still fails at once, each of them is a letter again: it went on with those for ever."""

    async def fail(_record: m.Received) -> None:
        raise Boom

    replays: list[m.Message] = []
    async with log_at(tmp_path / "log") as (runtime, mq):

        async def until_letters(count: int) -> None:
            while len(await mq.dead_letters.list("t", "g")) < count:
                await trio.lowlevel.checkpoint()

        async def send_and_see_them_fail(messages: Sequence[m.Message]) -> list[m.Ack | m.NotSent]:
            replays.extend(messages)
            assert len(replays) == 3
            results = await send_batch(messages)
            await until_letters(6)
            return results

        await runtime.start(m.consumer(mq, "g", "t", Seen(fail), retry=m.RetryPolicy(attempts=1)))
        await send(mq, 1, 2, 3)
        await until_letters(3)
        send_batch = mq.send_batch
        monkeypatch.setattr(mq, "send_batch", send_and_see_them_fail)
        assert await mq.dead_letters.replay("t", "g") == 3
