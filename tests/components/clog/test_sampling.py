"""Sampling: which of many equal lines are written, and that none is left out unseen."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from creche.components import clog
from creche.components.clog import sampling
from creche.components.clog.sampling import Sampler
from tests.components.clog.support import Clock, log_to


@pytest.mark.parametrize(
    ("first", "thereafter", "admitted"),
    [
        (1, 0, [1]),
        (3, 0, [1, 2, 3]),
        (2, 3, [1, 2, 5, 8]),
        (1, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (100, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_the_first_few_and_then_every_so_manieth(first: int, thereafter: int, admitted: list[int]) -> None:
    """Of ten lines in one tick."""
    sampler = Sampler(clog.Sampling(first=first, thereafter=thereafter))
    assert [number for number in range(1, 11) if sampler.admits(("kind",), 0.5)] == admitted


def test_a_tick_begins_anew() -> None:
    """When it is over, and when the clock was set back before its beginning."""
    sampler = Sampler(clog.Sampling(first=1, thereafter=0, tick=2.0))
    times = [10.0, 11.9, 12.0, 12.1, 5.0, 5.1]
    assert [now for now in times if sampler.admits(("kind",), now)] == [10.0, 12.0, 5.0]


def test_kinds_are_counted_apart() -> None:
    """Another message is another kind."""
    sampler = Sampler(clog.Sampling(first=1, thereafter=0))
    assert [sampler.admits((kind,), 0.0) for kind in "abab"] == [True, True, False, False]


def test_messages_that_are_data_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many kinds in one tick the others count as one; the next tick has room again."""
    monkeypatch.setattr(sampling, "_KINDS", 10)
    sampler = Sampler(clog.Sampling(first=1, thereafter=0))
    admitted = [number for number in range(1000) if sampler.admits((number,), 0.0)]
    assert admitted == list(range(11))
    assert sampler.left_out((999,)) == 989
    assert sampler.admits((999,), 2.0)


@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=60),
    first=st.integers(1, 4),
    thereafter=st.integers(0, 4),
)
def test_what_is_left_out_is_all_told(steps: list[tuple[str, float]], first: int, thereafter: int) -> None:
    """Written lines and the counts that they carry add up to all lines."""
    sampler = Sampler(clog.Sampling(first=first, thereafter=thereafter))
    now, told = 0.0, 0
    for kind, pause in steps:
        now += pause
        if sampler.admits((kind,), now):
            told += 1 + sampler.left_out((kind,))
    assert told + sum(sampler.left_out((kind,)) for kind in "abc") == len(steps)


async def test_a_flood_leaves_a_few_lines_and_a_count(tmp_path: Path) -> None:
    """The next line of the kind that is written says how many were left out; statistics have the sum."""
    clock = Clock()
    async with log_to(tmp_path / "log", clock, sampling=clog.Sampling(first=2, thereafter=0)) as log:
        for number in range(10):
            clog.info("flood", number=number)
            clog.namespace("other").info("flood", number=number)
        clog.error("flood")
        clock.now += 1.0
        clog.info("flood", number=10)
        *_, error, last = entries = await log.entries()
        counts = log.handle.statistics()
    assert [entry.get("number") for entry in entries] == [0, 0, 1, 1, None, 10]
    assert "left_out" not in error
    assert last["left_out"] == 8
    assert (counts.sampled, counts.dropped, counts.written) == (16, 0, 6)


async def test_a_new_config_changes_the_sampling(tmp_path: Path) -> None:
    """On and off again; the sum in the statistics stays."""
    async with log_to(tmp_path / "log", Clock()) as log:
        config = log.handle.config
        await log.handle.apply(msgspec.structs.replace(config, sampling=clog.Sampling(first=1, thereafter=0)))
        clog.info("line")
        clog.info("line")
        await log.handle.apply(config)
        clog.info("line")
        assert len(await log.entries()) == 2
        assert log.handle.statistics().sampled == 1


async def test_threads_are_counted_together(tmp_path: Path) -> None:
    """Lines from several worker threads at once lose no count."""
    barrier = threading.Barrier(4)

    def flood() -> None:
        barrier.wait()
        for _ in range(500):
            clog.info("flood")

    async with log_to(tmp_path / "log", Clock(), sampling=clog.Sampling(first=10, thereafter=0)) as log:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(log.runtime.run_blocking, flood)
        assert len(await log.entries()) == 10
        assert log.handle.statistics().sampled == 1990
