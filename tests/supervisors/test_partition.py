"""Partition supervisors: children that are alike, found by key."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any, cast

import pytest

import creche
from creche.runtime.stable_hash import stable_hash
from tests.core.support import Probe


async def test_a_key_has_its_partition() -> None:
    """`of(key)` is always the same child's handle, over restarts too; `all()` is each, in order."""
    spec = creche.partition_supervisor("shards", creche.child(Probe), partitions=4)
    async with creche.open_runtime("t") as runtime:
        shards = await runtime.start(spec)
        assert [shard.path for shard in shards.all()] == [f"root/shards/{number}" for number in range(4)]
        assert len(shards) == 4
        chosen = shards.of("ann")
        assert chosen in shards.all()
        await chosen.ask.add()
        with pytest.raises(creche.OutcomeUnknown):
            await chosen.ask.crash()
        runtime.kill(shards, "k")
        assert shards.of("ann") is chosen
        assert await chosen.ask.life() >= 2


async def test_keys_are_spread_over_all_partitions() -> None:
    """Evenly enough, for texts and for numbers."""
    spec = creche.partition_supervisor("shards", creche.child(Probe), partitions=4)
    async with creche.open_runtime("t") as runtime:
        shards = await runtime.start(spec)
        for keys in (range(4000), [f"user-{number}" for number in range(4000)]):
            counts = Counter(shards.of(key).path for key in keys)
            assert len(counts) == 4
            assert all(900 < count < 1100 for count in counts.values()), counts


async def test_partitions_are_made_by_number() -> None:
    """A function makes each one's spec from its number; `key` makes what is hashed; the strategy is the author's."""

    class Shard(Probe):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        async def who(self) -> int:
            return self.number

    def by_id(user: dict[str, str]) -> str:
        return user["id"]

    spec = creche.partition_supervisor(
        "shards",
        lambda number: creche.child(Shard, number),
        partitions=3,
        key=by_id,
        strategy="one_for_all",
    )
    async with creche.open_runtime("t", root=creche.supervisor("root", spec)) as runtime:
        shards = runtime.handle("root/shards", spec)
        assert [await shard.ask.who() for shard in shards.all()] == [0, 1, 2]
        assert shards.of({"id": "ann"}) is shards.all()[stable_hash("ann") % 3]
        with pytest.raises(creche.OutcomeUnknown):
            await shards.all()[0].ask.crash()
        assert [await shard.ask.life() for shard in shards.all()] == [2, 2, 2]


async def test_partitions_in_an_app() -> None:
    """The handle says `NotStarted` until the app runs."""
    app = creche.App("t")
    shards = app.use(creche.partition_supervisor("shards", creche.child(Probe), partitions=2))
    for use in (shards.all, lambda: shards.of("ann")):
        with pytest.raises(creche.NotStarted):
            use()
    async with app.open():
        assert await shards.of("ann").ask.life() == 1
        assert shards.path == "root/service/shards"


def test_a_stable_hash_is_the_same_in_every_process() -> None:
    """Whatever its `PYTHONHASHSEED`; equal keys have one hash."""
    keys = "['ann', b'ann', 1, -1, 2**70, 0.5, None, ('ann', 1), '\\ud800']"
    program = f"from creche.runtime.stable_hash import stable_hash; print([stable_hash(key) for key in {keys}])"
    results = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1
    assert len(set(results.pop().split(","))) == 9
    assert stable_hash("ann") == 0x232094566916E71B  # of all versions: keys stay where they are
    assert stable_hash(1) == stable_hash(1.0) == stable_hash(True)


async def test_wrong_partitions_are_refused() -> None:
    """`SpecInvalid` when the spec is made, or a TypeError for a key that has no stable hash."""
    for wrong in (0, -1, True, 1.5, "4"):
        with pytest.raises(creche.SpecInvalid, match="partitions"):
            creche.partition_supervisor("shards", creche.child(Probe), partitions=cast("Any", wrong))
    with pytest.raises(creche.SpecInvalid, match=r"creche\.child"):
        creche.partition_supervisor("shards", cast("Any", lambda _number: Probe), partitions=1)
    spec = creche.partition_supervisor("shards", creche.child(Probe), partitions=2)
    async with creche.open_runtime("t", root=creche.supervisor("root", spec, creche.child(Probe))) as runtime:
        with pytest.raises(TypeError, match="a key is"):
            runtime.handle("root/shards", spec).of(cast("Any", object()))
        with pytest.raises(creche.SpecInvalid, match="2 partitions"):
            runtime.handle("root/probe", spec)
