"""The component: ids through restarts, handles, processes, clock steps and a state file that fails.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

import importlib
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche import testing
from creche.components import uid as u

START = 1_700_000_000_000
FOREVER = 1 << 60
QUICK = creche.Backoff(first=0.001, cap=0.001)
UNDER_FIRE = creche.Intensity(10_000, 60.0)
REPOSITORY = Path(__file__).parents[3]


class Clock:
    """A wall clock set by hand."""

    def __init__(self, ms: int = START) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


class ShiftedClock:
    """The real one, `shift` milliseconds off. `read` is set when somebody reads it."""

    def __init__(self) -> None:
        self.shift = 0
        self.read = trio.Event()

    def __call__(self) -> int:
        self.read.set()
        return time.time_ns() // 1_000_000 + self.shift


@asynccontextmanager
async def running(
    config: u.Config, now_ms: Callable[[], int] | None = None, name: str = "test"
) -> AsyncGenerator[tuple[creche.Runtime, u.Uid]]:
    spec = u.component(config) if now_ms is None else u.component(config, now_ms=now_ms)
    async with creche.open_runtime(name, intensity=UNDER_FIRE) as runtime:
        yield runtime, await runtime.start(spec.options(backoff=QUICK))


@pytest.fixture(params=["file", "memory"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> u.Config:
    return u.Config(state_path=str(tmp_path / "uid.db") if request.param == "file" else None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "uid.db")


async def kill(runtime: creche.Runtime, uid: u.Uid) -> None:
    """Kill the actor, and wait until its successor runs."""
    node = runtime.node_of(uid)
    successor = node.incarnation + 1
    assert runtime.kill(uid, "test")
    while (node.incarnation, node.state.name) != (successor, "RUNNING"):
        await node.wait_for_change()


def rows(path: str) -> list[tuple[int, str, int]]:
    """Worker id, owner and mark of each row of a state file."""
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT id, owner, mark FROM worker_ids ORDER BY id").fetchall()
    finally:
        db.close()


def sql(path: str, statement: str) -> None:
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute(statement)
    finally:
        db.close()


def unix_ms(number: int) -> int:
    return round(u.parse(number).time.timestamp() * 1000)


# --- plain use --------------------------------------------------------------------------------------------------------


async def test_ids_ascend_and_tell_their_time(config: u.Config) -> None:
    """Ids from all methods ascend; an id taken apart gives the present, the worker and its place."""
    async with running(config) as (_, uid):
        ids = [await uid.snowflake(), *await uid.take(5000), await uid.snowflake()]
        assert len(ids) == 5002
        assert all(a < b for a, b in pairwise(ids))
        parts = uid.parse(ids[-1])
        assert abs((datetime.now(UTC) - parts.time).total_seconds()) < 5
        assert parts.worker_id == 0


async def test_take_takes_any_number(config: u.Config) -> None:
    """Zero ids are no ids, and a negative number is the caller's mistake."""
    async with running(config) as (_, uid):
        assert await uid.take(0) == []
        with pytest.raises(ValueError, match="-1"):
            await uid.take(-1)


async def test_the_layout_is_the_components() -> None:
    """A handle makes and parses ids of its own config's layout."""
    config = u.Config(worker_bits=5, sequence_bits=7, max_worker_id=31)
    async with running(config) as (_, uid):
        number = await uid.snowflake()
        assert number < 1 << 53
        assert uid.parse(number).time.year >= 2025
        with pytest.raises(ValueError, match="is no id of"):
            uid.parse(1 << 53)


async def test_not_started_and_stopped(config: u.Config) -> None:
    """Before its start a handle says so, and after the stop too; UUIDs need neither."""
    uid = u.Uid("uid")
    assert u.is_uuid7(str(uid.uuid7()))
    with pytest.raises(creche.NotStarted):
        await uid.snowflake()
    with pytest.raises(creche.NotStarted):
        uid.snowflake_nowait()
    async with running(config) as (runtime, uid):
        await runtime.stop(uid)
        with pytest.raises(creche.ActorStopped):
            await uid.snowflake()
        with pytest.raises(creche.ActorStopped):
            uid.snowflake_nowait()


async def test_it_belongs_to_the_foundation_and_takes_a_name() -> None:
    """An app starts it first; without a config the environment decides where worker ids are leased."""
    spec = u.component(name="orders")
    assert (spec.default_layer, spec.default_name()) == ("foundation", "orders")
    assert u.default_config("development").state_path is None
    assert u.default_config("production").state_path == "~/.local/state/creche/uid.db"
    async with creche.open_runtime("test") as runtime:
        uid = await runtime.start(spec)
        assert uid.path == "root/orders"
        assert await uid.snowflake()


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (u.Config(worker_bits=5), r"\$\.max_worker_id"),
        (u.Config(time_bits=60), r"\$ .*63"),
        (u.Config(tolerance=0.0), r"\$\.tolerance"),
        (u.Config(state_path=""), r"\$\.state_path"),
        (u.Config(lease_ttl=2.0), r"\$\.lease_ttl"),
    ],
)
def test_bad_configs(config: u.Config, where: str) -> None:
    """What cannot work is refused, with its place, before anything starts."""
    with pytest.raises(creche.ConfigInvalid, match=where):
        u.component(config)


# --- the ceiling ------------------------------------------------------------------------------------------------------


async def test_at_the_ceiling_ids_wait_for_the_next_millisecond() -> None:
    """With the millisecond used up, `snowflake` waits until the clock moves, and `snowflake_nowait` will not."""
    clock = Clock()
    later: list[int] = []

    async def one_more(uid: u.Uid) -> None:
        later.append(await uid.snowflake())

    async with running(u.Config(sequence_bits=2), clock) as (_, uid):
        clock.ms += 1
        ids = [uid.snowflake_nowait() for _ in range(3)] + [await uid.snowflake()]
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one_more, uid)
            await wait_all_tasks_blocked()
            assert later == []
            clock.ms += 1
        assert later[0] > ids[-1]


async def test_waiting_at_the_ceiling_can_be_cancelled() -> None:
    """With the clock standing still, whoever waits leaves when cancelled."""
    clock = Clock()
    async with running(u.Config(), clock) as (_, uid):
        with trio.move_on_after(0.01) as scope:
            await uid.snowflake()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await uid.take(1)
        assert scope.cancelled_caught
        clock.ms += 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await uid.snowflake()
        assert scope.cancelled_caught


async def test_a_loop_over_ids_lets_others_run(config: u.Config) -> None:
    """A task that makes ids in a loop does not starve the others, though it need not wait."""
    order: list[str] = []

    async def make(uid: u.Uid, name: str) -> None:
        for _ in range(5000):
            await uid.snowflake()
            order.append(name)

    async with running(config) as (_, uid), trio.open_nursery() as nursery:
        nursery.start_soon(make, uid, "a")
        nursery.start_soon(make, uid, "b")
    changes = sum(x != y for x, y in pairwise(order))
    assert changes > 20


# --- restarts ---------------------------------------------------------------------------------------------------------


async def test_no_duplicates_over_kills(config: u.Config) -> None:
    """Takers in many tasks go on while the actor is killed again and again: all ids differ, and each taker's ascend."""
    taken: list[list[int]] = [[] for _ in range(20)]
    over = False

    async def take(uid: u.Uid, mine: list[int]) -> None:
        while not over:
            if len(mine) % 3:
                mine.append(await uid.snowflake())
            else:
                mine += await uid.take(10)
            await trio.lowlevel.checkpoint()

    async with running(config) as (runtime, uid):
        async with trio.open_nursery() as nursery:
            for mine in taken:
                nursery.start_soon(take, uid, mine)
            kills = 0
            while kills < 50:
                kills += runtime.kill(uid, "chaos")
                await trio.sleep(0.002)
            over = True
        assert runtime.node_of(uid).incarnation == 51
    everything = [number for mine in taken for number in mine]
    assert len(everything) > 1000
    assert len(set(everything)) == len(everything)
    for mine in taken:
        assert mine == sorted(mine)


async def test_a_restart_costs_one_millisecond_not_the_promise(path: str) -> None:
    """A successor has the same worker id and starts in the millisecond after the last one used, without a write."""
    clock = Clock()
    async with running(u.Config(state_path=path), clock) as (runtime, uid):
        clock.ms += 1
        first = await uid.snowflake()
        before = rows(path)
        await kill(runtime, uid)
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 1
        second = await uid.snowflake()
        assert [(unix_ms(number), u.parse(number).worker_id) for number in (first, second)] == [
            (START + 1, 0),
            (START + 2, 0),
        ]
        assert [row[:2] for row in rows(path)] == [row[:2] for row in before]


async def test_nowait_between_two_incarnations(config: u.Config) -> None:
    """While the actor is down there is no id at once, and a call of `snowflake` waits for the successor."""
    async with creche.open_runtime("test", intensity=UNDER_FIRE) as runtime:
        slowly = creche.Backoff(first=0.05, cap=0.05, free=0)
        uid = await runtime.start(u.component(config).options(backoff=slowly))
        runtime.kill(uid, "test")
        node = runtime.node_of(uid)
        while node.state.name != "DOWN":
            await node.wait_for_change()
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        await uid.snowflake()
        assert node.incarnation == 2


async def test_a_clean_stop_gives_the_worker_id_back(path: str) -> None:
    """The next process of the service has the same worker id, and its mark is the last millisecond used."""
    config = u.Config(state_path=path)
    clock = Clock()
    async with running(config, clock) as (_, uid):
        clock.ms += 1
        first = await uid.snowflake()
    assert rows(path) == [(0, "", START + 1)]
    async with running(config, clock) as (_, uid):
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 1
        second = await uid.snowflake()
    assert u.parse(second).worker_id == 0
    assert second > first


async def test_no_id_is_issued_after_the_worker_id_is_given_back(path: str) -> None:
    """A handle that is in use while the actor stops has no id later than the mark it leaves behind."""
    ids: list[int] = []

    async def take_until_the_end(uid: u.Uid) -> None:
        with pytest.raises((creche.CallFailed, u.WorkerIdLost)):
            while True:
                try:
                    ids.append(uid.snowflake_nowait())
                except trio.WouldBlock:
                    pass
                await trio.lowlevel.checkpoint()

    async with running(u.Config(state_path=path)) as (runtime, uid), trio.open_nursery() as nursery:
        nursery.start_soon(take_until_the_end, uid)
        while not ids:
            await trio.lowlevel.checkpoint()
        await runtime.stop(uid)
    assert ids
    assert unix_ms(ids[-1]) == rows(path)[0][2]


async def test_a_process_that_starts_on_an_earlier_clock(path: str) -> None:
    """After a larger step back between two lives, another worker id is used, and goes on at once."""
    config = u.Config(state_path=path)
    async with running(config, Clock()):
        pass
    clock = Clock(START - 60_000)
    async with running(config, clock) as (_, uid):
        clock.ms += 1
        assert u.parse(await uid.snowflake()).worker_id == 1


# --- several handles and processes ------------------------------------------------------------------------------------


async def test_two_components_of_a_process_share_no_worker_id(config: u.Config) -> None:
    """Each has a worker id of its own, with a common file and in memory."""
    async with running(config) as (runtime, uid):
        other = await runtime.start(u.component(config, name="other"))
        ids = await uid.take(1000) + await other.take(1000)
        assert len(set(ids)) == 2000
        assert {u.parse(number).worker_id for number in ids} == {0, 1}


TAKER = """
import sys, trio, creche
from creche.components import uid as u

async def main():
    spec = u.component(u.Config(state_path=sys.argv[1])).options(backoff=creche.Backoff(first=0.001, cap=0.001))
    async with creche.open_runtime("taker", intensity=creche.Intensity(10_000, 60.0)) as runtime:
        uid = await runtime.start(spec)
        sys.stdin.readline()
        for _ in range(40):
            sys.stdout.write("".join(f"{number}\\n" for number in await uid.take(100)))
            runtime.kill(uid, "chaos")
            print(await uid.snowflake())

trio.run(main)
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script, *arguments]  # no -W error: a fork beside threads is what is tested
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_that_share_a_file(path: str) -> None:
    """Two processes at the same time, killed all the while, and a third one afterwards: no id twice."""
    ids: list[int] = []
    processes = [python(TAKER, path) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in [*processes, python(TAKER, path)]:
        ids += map(int, process.communicate("\n")[0].split())
        assert process.returncode == 0
    assert len(ids) == len(set(ids)) == 3 * 40 * 101
    assert {u.parse(number).worker_id for number in ids} <= {0, 1, 2}
    assert len({u.parse(number).worker_id for number in ids}) >= 2


FORK = """
import os, sys, trio, creche
from creche.components import uid as u
from creche.components.uid.handle import _generator_of

async def main():
    async with creche.open_runtime("forking") as runtime:
        uid = await runtime.start(u.component(u.Config(state_path=sys.argv[1])))
        before = await uid.take(10)
        u.uuid7()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                uid.snowflake_nowait()
            except u.WorkerIdLost as lost:
                status = lost.worker_id
            print("child", status, _generator_of.cache_info().currsize, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        after = await uid.take(10)
        print("parent", len({*before, *after}), _generator_of.cache_info().currsize)

trio.run(main)
"""


def test_a_forked_child_issues_no_snowflakes(path: str) -> None:
    """The child's copy of the worker id is revoked at the fork, its UUIDs get new counters; the parent goes on."""
    process = python(FORK, path)
    lines = [line.split() for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0
    assert lines == [["child", "0", "0"], ["parent", "20", "1"]]


# --- clock steps ------------------------------------------------------------------------------------------------------


async def test_a_step_back_within_the_tolerance_is_waited_for() -> None:
    """Ids stop until the clock is past the last one, and go on later than it."""
    clock = Clock()
    async with running(u.Config(sequence_bits=0), clock) as (_, uid):
        clock.ms += 1
        first = await uid.snowflake()
        clock.ms -= 900
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        clock.ms += 901
        assert await uid.snowflake() > first


async def test_a_larger_step_back_is_an_error_that_says_how_long() -> None:
    """The caller is told after how many seconds to come back; the actor lives, and nothing is issued twice."""
    clock = Clock()
    async with running(u.Config(), clock) as (runtime, uid):
        clock.ms += 1
        ids = await uid.take(100)
        clock.ms -= 5000
        for _ in range(2):
            with pytest.raises(u.ClockMovedBack) as caught:
                await uid.snowflake()
            assert caught.value.retry_after == caught.value.by == 5.0
            assert isinstance(caught.value, creche.Unavailable)
        with pytest.raises(u.ClockMovedBack):
            uid.snowflake_nowait()
        statistics = uid.statistics()
        assert statistics is not None
        assert (statistics.high_water, statistics.refused) == (START + 1, 3)
        await kill(runtime, uid)
        with pytest.raises(u.ClockMovedBack):
            await uid.take(1)
        clock.ms += 5001
        ids += await uid.take(100)
        assert len(set(ids)) == 200


async def test_a_step_forward_asks_for_a_new_promise(config: u.Config) -> None:
    """Beyond the mark in the file nothing is issued before a later mark is on disk; the caller just waits for it."""
    clock = Clock()
    async with running(config, clock) as (_, uid):
        clock.ms += 3_600_000
        with pytest.raises(trio.WouldBlock):
            uid.snowflake_nowait()
        number = await uid.snowflake()
        assert unix_ms(number) == clock.ms
        assert uid.snowflake_nowait() > number
        if config.state_path is not None:
            assert rows(config.state_path)[0][2] >= clock.ms


def test_marks_move_on_by_themselves(path: str) -> None:
    """The mark in the file is ahead of every id, although nobody asks for it: `snowflake_nowait` keeps working."""

    async def scenario() -> None:
        def virtual_ms() -> int:
            return START + int(trio.current_time() * 1000)

        async with running(u.Config(state_path=path, tolerance=0.2), virtual_ms) as (_, uid):
            first = rows(path)[0][2]
            while rows(path)[0][2] < first + 3000:
                await trio.sleep(0.01)
                assert unix_ms(uid.snowflake_nowait()) <= rows(path)[0][2]

    testing.run(scenario)


# --- trouble with the file --------------------------------------------------------------------------------------------


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


# --- UUIDv7 -----------------------------------------------------------------------------------------------------------


def test_uuid7_ascends_within_a_thread() -> None:
    """Single ids and batches, from the module and from a handle, are one ascending sequence."""
    uid = u.Uid("uid")
    ids: list[UUID] = []
    for _ in range(200):
        ids += [u.uuid7(), *uid.take_uuid7(5), uid.uuid7()]
    assert ids == sorted(set(ids))
    assert len(ids) == 1400
    assert all(u.is_uuid7(str(one)) and uid.is_uuid7(str(one)) for one in ids)
    assert uid.take_uuid7(0) == []
    with pytest.raises(ValueError, match="-1"):
        uid.take_uuid7(-1)


def test_uuid7_serves_many_threads() -> None:
    """Each thread's ids ascend, and no id is made twice."""
    made: list[list[UUID]] = [[] for _ in range(8)]

    def make(mine: list[UUID]) -> None:
        mine.extend(u.uuid7() for _ in range(2000))

    threads = [threading.Thread(target=partial(make, mine)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 16_000


def test_the_policy_module_does_not_hide_the_function() -> None:
    """`c.uid.uuid7` is the function, although a module of the package has the same name."""
    importlib.import_module("creche.components.uid.uuid7")
    assert u.is_uuid7(str(u.uuid7()))
