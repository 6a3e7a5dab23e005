"""Ids of several components, processes and a forked child.

The component writes its state file in worker threads, so these tests run in real time.
"""

from __future__ import annotations

from creche.components import uid as u
from tests.components.uid.support import (
    python,
    running,
)


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
