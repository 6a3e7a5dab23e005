"""Cancels at every checkpoint, and kills in between: no id twice, nothing held, and the next call works.

The runs are deterministic (`creche.testing`), so a seed that fails fails again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio

import creche
from creche import testing
from creche.components import uid as u

SEEDS = range(6)
START = 1_800_000_000_000
AT_ONCE = creche.Backoff(first=0.0, cap=0.0)
UNDER_FIRE = creche.Intensity(restarts=100_000, window=1.0)

Use = Callable[[u.Uid], Awaitable[list[int]]]


def virtual_ms() -> int:
    """A wall clock that follows the run's virtual time."""
    return START + int(trio.current_time() * 1000)


def configs(tmp_path: Path) -> dict[str, u.Config]:
    """One for each backend."""
    return {"file": u.Config(state_path=str(tmp_path / "uid.db")), "memory": u.Config()}


async def one(uid: u.Uid) -> list[int]:
    return [await uid.snowflake()]


async def many(uid: u.Uid) -> list[int]:
    """More than two milliseconds hold, so that it waits."""
    return await uid.take(10_000)


def owners(path: str) -> list[str]:
    """The tokens of the worker ids that are leased."""
    db = sqlite3.connect(path)
    try:
        return [owner for (owner,) in db.execute("SELECT owner FROM worker_ids WHERE owner != ''")]
    finally:
        db.close()


async def cut(fn: Callable[[], Awaitable[object]], steps: int) -> None:
    """Run `fn`, and cancel it after so many checkpoints."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fn)
        for _ in range(steps):
            await trio.sleep(0.0007)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("use", [one, many])
@pytest.mark.parametrize("backend", ["file", "memory"])
def test_a_call_that_is_cancelled_costs_ids_at_most(backend: str, use: Use, seed: int, tmp_path: Path) -> None:
    """Wherever it is cancelled, also while the actor is down: later ids are new, in order, and had at once."""
    config = configs(tmp_path)[backend]

    async def scenario() -> None:
        async with creche.open_runtime("test", intensity=UNDER_FIRE) as runtime:
            uid = await runtime.start(u.component(config, now_ms=virtual_ms).options(backoff=AT_ONCE))
            seen: list[int] = []

            async def take() -> None:
                seen.extend(await use(uid))

            for steps in range(12):
                if steps % 3 == 2:
                    runtime.kill(uid, "chaos")
                await cut(take, steps)
                with trio.fail_after(1):
                    seen += await use(uid)
            assert all(a < b for a, b in pairwise(seen))

    testing.run(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_start_that_is_cancelled_can_be_tried_again(seed: int, tmp_path: Path) -> None:
    """Wherever it is cancelled: each later start gives ids that are greater than all before."""
    config = configs(tmp_path)["file"]

    async def scenario() -> None:
        seen: list[int] = []
        for steps in range(20):
            async with creche.open_runtime("test") as runtime:
                spec = u.component(config, now_ms=virtual_ms)
                await cut(partial(runtime.start, spec), steps)
                uid = await runtime.start(spec.options(name="second"))
                seen += await uid.take(3)
        assert all(a < b for a, b in pairwise(seen))

    testing.run(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stop_that_is_cancelled_gives_the_worker_id_back(seed: int, tmp_path: Path) -> None:
    """The stop goes on without its caller; nothing is leased afterwards, and no id comes after it."""
    config = configs(tmp_path)["file"]
    assert config.state_path is not None
    path = config.state_path

    async def scenario() -> None:
        async with creche.open_runtime("test") as runtime:
            for steps in range(8):
                uid = await runtime.start(u.component(config, now_ms=virtual_ms, name=f"uid{steps}"))
                await uid.snowflake()
                await cut(partial(runtime.stop, uid), steps)
                await runtime.stop(uid)
                assert owners(path) == []
                with pytest.raises(creche.ActorStopped):
                    uid.snowflake_nowait()

    testing.run(scenario, seed=seed)


def test_a_seed_repeats_the_ids(tmp_path: Path) -> None:
    """Snowflakes, UUIDs and the tokens in the state file: all follow from the seed and the clock."""

    async def scenario(config: u.Config) -> list[object]:
        async with creche.open_runtime("test", intensity=UNDER_FIRE) as runtime:
            uid = await runtime.start(u.component(config, now_ms=virtual_ms).options(backoff=AT_ONCE))
            made: list[object] = [await uid.snowflake(), uid.uuid7(), *uid.take_uuid7(3)]
            runtime.kill(uid, "chaos")
            made += await uid.take(3)
            assert config.state_path is not None
            return made + owners(config.state_path)

    def story(seed: int, name: str) -> list[object]:
        return testing.run(scenario, u.Config(state_path=str(tmp_path / name)), seed=seed)

    assert story(1, "a") == story(1, "b")
    assert not set(story(1, "c")[-1:]) & set(story(2, "d")[-1:])


async def test_a_seed_outside_of_a_run_is_no_identity(tmp_path: Path) -> None:
    """Two processes may be given the same seed: their tokens and UUIDs differ all the same."""
    path = str(tmp_path / "uid.db")
    tokens: list[str] = []
    for name in ("one", "two"):
        async with creche.open_runtime(name, seed=7) as runtime:
            uid = await runtime.start(u.component(u.Config(state_path=path)))
            tokens += [*owners(path), str(uid.uuid7())]
    assert len(set(tokens)) == 4
