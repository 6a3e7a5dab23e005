"""Found by an example: a message published in the database's thread lost the trace of the request that published it."""

from __future__ import annotations

import json
from pathlib import Path

import sqlalchemy as sa

import creche
from creche import components as c
from creche.components import mq as m
from creche.runtime.context import carrying


async def test_what_is_published_in_the_databases_thread_has_its_callers_trace(tmp_path: Path) -> None:
    """In a transaction of its own, and inside of another one."""

    async with creche.open_runtime("t") as runtime:
        db = await runtime.start(c.db.component(c.db.Config(path=str(tmp_path / "db"))))
        with carrying(trace_id="t" * 32):
            await db.transact_sync(lambda tx: tx.publish(m.Message("topic", b"1")))
            async with db.transaction() as tx:
                await tx.run_sync(lambda sync: sync.publish(m.Message("topic", b"2")))
        rows = await db.all(sa.text("SELECT headers FROM creche_outbox"))
        assert [json.loads(row[0]) for row in rows] == [{"X-Trace-ID": "t" * 32}] * 2
