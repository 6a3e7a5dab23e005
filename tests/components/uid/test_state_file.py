"""Ids while the state file fails, or the worker id is lost.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import uid as u
from tests.components.uid.support import (
    FOREVER,
    Clock,
    ShiftedClock,
    kill,
    rows,
    running,
    sql,
    unix_ms,
)


async def test_a_lost_worker_id_is_replaced(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """When somebody else owns the id, callers get ids of a new one; the ids until then were covered by the old mark."""
    clock = ShiftedClock()
    async with running(u.Config(state_path=path), clock) as (_, uid):
        ids = await uid.take(10)
        sql(path, f"UPDATE worker_ids SET owner = 'thief', expires_ms = {FOREVER}")
        mark = rows(path)[0][2]
        clock.shift = 5000
        with caplog.at_level(logging.WARNING):
            ids.append(await uid.snowflake())
        assert [u.parse(number).worker_id for number in ids] == [0] * 10 + [1]
        assert all(unix_ms(number) <= mark for number in ids[:10])
        assert [row[0] for row in rows(path)] == [0, 1]
        assert "worker id 0 is no longer ours" in caplog.text
        assert ids == sorted(ids)


async def test_a_lost_worker_id_is_noticed_in_the_background(path: str) -> None:
    """Without any caller, the next renewal finds out, and the handle goes over to the new id."""
    async with running(u.Config(state_path=path, tolerance=0.1)) as (_, uid):
        await uid.snowflake()
        sql(path, f"UPDATE worker_ids SET owner = 'thief', expires_ms = {FOREVER}")
        with trio.fail_after(10):
            seen: set[int] = set()
            while 1 not in seen:
                seen.add(u.parse(await uid.snowflake()).worker_id)


class Ear(logging.Handler):
    """Hears the component's first warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warning = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.warning.set()


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    logger = logging.getLogger("creche.components.uid")
    logger.addHandler(ear)
    yield ear
    logger.removeHandler(ear)


async def test_a_file_that_fails_is_weather(path: str, ear: Ear) -> None:
    """Ids flow up to the mark, then callers get `Unavailable`, without a restart; with the file back ids flow again."""
    clock = Clock()
    async with running(u.Config(state_path=path, tolerance=0.1), clock) as (runtime, uid):
        clock.ms += 1
        first = await uid.snowflake()
        sql(path, "ALTER TABLE worker_ids RENAME TO elsewhere")
        clock.ms += 1
        assert await uid.snowflake() > first
        clock.ms += 10_000
        with pytest.raises(creche.Unavailable, match="no such table") as caught:
            await uid.snowflake()
        assert caught.value.retry_after == 1.0
        await ear.warning.wait()
        sql(path, "ALTER TABLE elsewhere RENAME TO worker_ids")
        assert u.parse(await uid.snowflake()).worker_id == 0
        assert runtime.node_of(uid).restarts == 0


async def test_a_restart_while_the_file_fails_and_the_id_is_lost(path: str) -> None:
    """The successor of an actor that lost its worker id starts without one, and gets one when the file works."""
    clock = ShiftedClock()
    async with running(u.Config(state_path=path, tolerance=0.1), clock) as (runtime, uid):
        sql(path, f"UPDATE worker_ids SET owner = 'thief', expires_ms = {FOREVER}")
        sql(path, "CREATE TRIGGER full BEFORE INSERT ON worker_ids BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        clock.shift = 10_000
        with pytest.raises(creche.Unavailable, match="disk full"):
            await uid.snowflake()
        with pytest.raises(u.WorkerIdLost):
            uid.snowflake_nowait()
        for call in (uid.snowflake, partial(uid.take, 1)):
            with pytest.raises(creche.Unavailable, match="disk full"):
                await call()
        await kill(runtime, uid)
        with pytest.raises(creche.Unavailable, match="disk full"):
            await uid.take(1)
        sql(path, "DROP TRIGGER full")
        assert u.parse(await uid.snowflake()).worker_id == 1
        assert runtime.node_of(uid).restarts == 1


async def test_a_kill_while_the_mark_is_being_moved(path: str) -> None:
    """Whoever waits for a later mark when the actor dies asks its successor, and gets an id."""
    clock = ShiftedClock()
    ids: list[int] = []

    async def one(uid: u.Uid) -> None:
        ids.append(await uid.snowflake())

    async with running(u.Config(state_path=path, tolerance=0.1), clock) as (runtime, uid):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        clock.read = trio.Event()
        await clock.read.wait()  # by the renewal, whose write now waits for the other connection
        clock.shift = 10_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, uid)
            await wait_all_tasks_blocked()
            assert runtime.kill(uid, "while it writes")
            await wait_all_tasks_blocked()
            assert ids == []
            other.execute("ROLLBACK")
        other.close()
        assert runtime.node_of(uid).incarnation == 2
        assert u.parse(ids[0]).worker_id == 0


async def test_a_wrong_path_fails_the_start(tmp_path: Path) -> None:
    """A file that cannot be opened shows at once, not at the first id."""
    async with creche.open_runtime("test") as runtime:
        with pytest.raises(creche.StartFailed, match="worker ids in") as caught:
            await runtime.start(u.component(u.Config(state_path=str(tmp_path))))
        assert isinstance(caught.value.__cause__, creche.Unavailable)


async def test_no_worker_id_left_fails_the_start(path: str) -> None:
    """The second of two components with a single worker id does not start, and says when it could."""
    config = u.Config(state_path=path, max_worker_id=0)
    async with running(config) as (runtime, _):
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(u.component(config, name="second"))
        assert isinstance(caught.value.__cause__, u.NoWorkerIdFree)
        assert caught.value.__cause__.retry_after is not None
        assert 0 < caught.value.__cause__.retry_after <= 91
