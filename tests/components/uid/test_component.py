"""The component in plain use, and at the ceiling of its format.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche.components import uid as u
from tests.components.uid.support import (
    Clock,
    running,
)


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
