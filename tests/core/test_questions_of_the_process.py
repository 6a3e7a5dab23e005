"""The hard questions of the design notes, third part: Q11, Q23 and Q24. See test_questions.py.

They are about what is outside of the tree: the process, its threads and children, time and randomness.
"""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from tests.core.support import Boom, Gate, Probe, Reply, asking, recorded, settle

ROOT = Path(__file__).resolve().parents[2]
MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)


async def failing(error: BaseException) -> None:
    raise error


async def in_a_nursery(*errors: BaseException) -> None:
    """Raises them in one group, together with the cancellation of a task that waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        for error in errors:
            nursery.start_soon(failing, error)


# --- Q11: BaseException ---------------------------------------------------------------------------


class Leaving(Probe):
    """Raises `error` at the place named `where`."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where, self.error = where, error
        self._fail_if("init")

    def _fail_if(self, where: str) -> None:
        if where == self.where:
            raise self.error

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._fail_if("enter")
        if self.where == "lifespan background":
            self.context.spawn(failing, self.error)
        try:
            yield
        finally:
            self._fail_if("exit")

    async def leave(self) -> None:
        self._fail_if("handler")
        if self.where == "nursery":
            await in_a_nursery(self.error)
        if self.where == "mixed group":
            await in_a_nursery(Boom("beside it"), self.error, creche.DomainError(1, "and an answer"))
        if self.where == "background":
            self.context.spawn(in_a_nursery, self.error, Boom("beside it"))
        try:
            await trio.sleep_forever()
        finally:
            self._fail_if("cleanup")

    @creche.message(concurrency=2)
    async def leave_beside(self) -> None:
        self._fail_if("concurrent")


PLACES = ["init", "enter", "lifespan background", "handler", "nursery", "mixed group", "background", "concurrent"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", [*PLACES, "cleanup", "exit"])
async def test_q11_a_request_to_end_the_process_leaves_as_itself(where: str, kind: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt leave the block as the same object, from wherever; nothing restarts."""
    error = kind(3)
    seen: list[events.Event] = []
    replies: list[Reply] = []
    async with trio.open_nursery() as outside:
        with pytest.raises(kind) as caught:
            async with creche.open_runtime("t", intensity=MANY) as runtime:
                runtime.events.subscribe(seen.append)
                other = await runtime.start(creche.child(Probe).options(name="other"))
                gate = Gate()
                replies.append(asking(outside, other.ask.hold, gate))
                await gate.entered.wait()
                leaving = await runtime.start(creche.child(Leaving, where, error).options(backoff=AT_ONCE))
                leaving.cast_nowait(Leaving.leave_beside if where == "concurrent" else Leaving.leave)
                await settle()
                if where in ("cleanup", "exit"):
                    runtime.kill(leaving, "so that it comes to it")
                await trio.sleep_forever()
        assert caught.value is error
        assert [await reply.settled() for reply in replies] == ["OutcomeUnknown"]
        assert [event for event in seen if isinstance(event, events.Restarting) or event.incarnation > 1] == []


PROGRAM = """
import signal, sys, trio, creche
from contextlib import asynccontextmanager

class Ending(creche.Actor):
    @asynccontextmanager
    async def lifespan(self):
        try:
            yield
        finally:
            print("left", flush=True)

    async def end(self, how):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            if how == "interrupt":
                signal.raise_signal(signal.SIGINT)
            sys.exit(3)

async def main():
    async with creche.open_runtime("program") as runtime:
        ending = await runtime.start(creche.child(Ending))
        await ending.ask.end(sys.argv[1])

trio.run(main)
"""


@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("interrupt", -signal.SIGINT)])
def test_q11_the_process_ends_with_the_status_that_was_asked_for(how: str, status: int) -> None:
    """`sys.exit(3)` in a nursery in a handler ends the process with 3, and a SIGINT there ends it as a SIGINT does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (status, "left\n"), done.stderr


# --- Q23: threads and processes of a handler ------------------------------------------------------


class Threading(Probe):
    """Runs a function of the test in a worker thread, and notes its lives."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        log.append(f"life {self.context.incarnation}")

    async def work(self, fn: Callable[[], None]) -> None:
        await self.context.runtime.run_blocking(fn)

    @creche.message(on_caller_gone="cancel")
    async def work_for_caller(self, fn: Callable[[], None]) -> None:
        await self.context.runtime.run_blocking(fn)


class Job:
    """Blocking work that ends when it is let go."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.go = threading.Event()
        self.begun = trio.Event()
        self.token = trio.lowlevel.current_trio_token()

    def __call__(self) -> None:
        self.token.run_sync_soon(self.begun.set)
        assert self.go.wait(10)
        self.log.append("thread done")


@pytest.mark.parametrize("end", ["kill", "cancel and crash", "stop"])
async def test_q23_an_incarnation_does_not_overlap_its_thread(end: str) -> None:
    """A thread outlives a cancel, so its incarnation waits for it: neither a successor nor a stop comes before."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Threading, log).options(drain=0))
        job = Job(log)
        reply = asking(nursery, actor.ask.work_for_caller if end == "cancel and crash" else actor.ask.work, job)
        await job.begun.wait()
        if end == "stop":
            ending = asking(nursery, runtime.stop, actor)
        else:
            if end == "cancel and crash":
                reply.scope.cancel()
            runtime.kill(actor, "now")
            ending = asking(nursery, actor.ask.life)
        await settle()
        assert (log, ending.what) == (["life 1"], "pending")
        job.go.set()
        assert await ending.settled() == "value"
        assert log == ["life 1", "thread done", "life 2"][: 2 if end == "stop" else 3]
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_q23_a_process_ends_with_its_incarnation() -> None:
    """A child process of a handler is killed and reaped before the next incarnation begins."""
    processes: list[trio.Process] = []

    async def body(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-c", "import time; time.sleep(1000)"]
            processes.append(await nursery.start(trio.run_process, command))

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        asking(nursery, probe.ask.run, body)
        while not processes:
            await trio.lowlevel.checkpoint()
        runtime.kill(probe, "now")
        assert await probe.ask.life() == 2
        assert processes[0].returncode is not None


# --- Q24: leaks of determinism --------------------------------------------------------------------


async def delays_of(seed: int) -> list[float]:
    """The backoffs of five crashes."""
    async with creche.open_runtime("t", intensity=MANY, seed=seed) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(free=0), down_wait=100))
        for _ in range(5):
            random.seed(trio.current_time())
            random.random()
            runtime.kill(probe, "again")
            await probe.ask.life()
        return [event.delay for event in seen if isinstance(event, events.Restarting)]


async def test_q24_randomness_comes_from_the_seed_alone(autojump_clock: MockClock) -> None:
    """One seed, one sequence of jitters, whatever else in the process draws random numbers; another seed, another."""
    first, again, other = [await delays_of(seed) for seed in (7, 7, 8)]
    assert first == again
    assert first != other
    assert len(set(first)) == 5


async def test_q24_time_is_trios(autojump_clock: MockClock) -> None:
    """Deadlines, delays, windows and the times in events are Trio's clock: a day of them takes no time."""
    backoff = creche.Backoff(first=3600, cap=3600, free=0, jitter=0)
    async with creche.open_runtime("t", intensity=creche.Intensity(1, 3000)) as runtime:
        seen = recorded(runtime)
        rules = creche.child(Probe).options(backoff=backoff, down_wait=86_400)
        probe = await runtime.start(rules)
        for life in range(1, 25):
            runtime.kill(probe, "every hour")
            assert await probe.ask.life() == life + 1
        assert runtime.now() == trio.current_time() == 24 * 3600
        assert [event.time for event in seen if isinstance(event, events.Ready)] == [
            3600.0 * hour for hour in range(25)
        ]


IMPURE = {"time", "datetime", "uuid", "secrets", "asyncio"}


def names_of_modules(tree: ast.AST) -> set[str]:
    """The first parts of the names of all modules that a file imports, however it does."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


CORE = [
    path
    for path in sorted((ROOT / "creche/runtime").glob("*.py")) + sorted((ROOT / "creche/supervisors").glob("*.py"))
    if path.stem not in {"app", "cli", "hosting", "asyncio_port"}  # the edge: processes, signals, other loops
    and path.stem not in {"scheduling", "simulation", "ambient"}  # the deterministic mode, and the other
]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_q24_the_core_reads_no_clock_and_no_randomness_of_its_own(path: Path) -> None:
    """No module of the core imports a clock, an id source or another loop; `random` only to make the runtime's own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert names_of_modules(tree) & IMPURE == set()
    uses = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    assert uses <= {"Random"}
