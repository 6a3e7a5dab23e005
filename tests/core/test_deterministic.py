"""Deterministic runs: one seed, one story, in this process and in any other."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import creche
from creche import testing
from creche.runtime.scheduling import Order, find_trios_random, random_of, trios_hook
from creche.supervisors.spec import SupervisorSpec, supervisor
from tests.core.support import Boom, Reply, asking, reach

R = TypeVar("R")

ROOT = Path(__file__).parents[2]
CALLERS, ROUNDS = 8, 8
WORKERS = ("root/team/w0", "root/team/w1", "root/pair/w2", "root/pair/w3")


# --- a story in which much happens at once ----------------------------------------------------------


class Worker(creche.Actor):
    """Does what the runtime's dice say, so that each change of the order changes all that follows."""

    async def work(self, number: int) -> int:
        return await self._work(number)

    @creche.message(on_caller_gone="cancel")
    async def work_for_caller(self, number: int) -> int:
        return await self._work(number)

    async def _work(self, number: int) -> int:
        dice = self.context.runtime.random
        match dice.choice(("return", "sleep", "sleep", "block", "block", "background", "crash")):
            case "sleep":
                await trio.sleep(dice.random())
            case "block":
                return await self.context.runtime.run_blocking(abs, -number)
            case "background":
                self.context.spawn(self._step, dice.random() < 0.3)
            case "crash":
                raise Boom(f"{number} in {self!r}")  # a text with an address, as careless errors have it
        return number

    async def _step(self, then_crash: bool) -> None:
        await trio.lowlevel.checkpoint()
        if then_crash:
            raise Boom("in the background")


def tree() -> SupervisorSpec:
    backoff = creche.Backoff(first=0.1, cap=1, jitter=0.5)
    w0, w1, w2, w3 = (creche.child(Worker).options(name=f"w{n}", backoff=backoff) for n in range(4))
    team = supervisor("team", w0, w1, intensity=creche.Intensity(4, 1))
    pair = supervisor("pair", w2, w3, strategy="rest_for_one", intensity=creche.Intensity(4, 1))
    return supervisor("root", team, pair, intensity=creche.Intensity(1000, 1))


async def outcome_of(handle: creche.Handle[Worker], number: int) -> str:
    method = random.choice((Worker.work, Worker.work_for_caller))  # the module's own: it is seeded, too
    try:
        with trio.move_on_after(random.choice((0.05, 0.3, 5))):
            return repr(await handle.within(random.choice((0.1, 1, 10))).call(method, number))
    except creche.CallFailed as error:
        return str(error)
    return "cancelled"


async def story(trace: testing.Trace) -> None:
    """Supervisors, crashes, backoff with jitter, kills, timeouts, background work, blocking code."""
    async with creche.open_runtime("story", root=tree()) as runtime, trio.open_nursery() as nursery:
        handles = [reach(runtime, path, Worker) for path in WORKERS]

        async def caller(me: int) -> None:
            for number in range(ROUNDS):
                handle = handles[runtime.random.randrange(len(handles))]
                trace.note(f"caller {me}, {handle.path}: {await outcome_of(handle, number)}")
                await trio.sleep(random.choice((0, 0.1)))

        async def chaos() -> None:
            while True:
                await trio.sleep(runtime.random.random())
                runtime.kill(runtime.random.choice(("root/pair", *WORKERS)), "chaos")

        nursery.start_soon(chaos)
        async with trio.open_nursery() as callers:
            for me in range(CALLERS):
                callers.start_soon(caller, me)
        nursery.cancel_scope.cancel()


def told(seed: int) -> list[str]:
    """The story of a seed, down to the single step of a task."""
    trace = testing.Trace(steps=True)
    testing.run(story, trace, seed=seed, trace=trace)
    return trace.lines


def test_a_seed_gives_one_trace() -> None:
    """Two runs of a seed have the same events at the same times in the same order, and the same steps of tasks."""
    assert told(3) == told(3)


SIGNS = (
    "Killed: killed: chaos",
    "Boom: in the background",
    r"Restarting delay=0\.\d+[1-9]",
    "GroupRestart",
    "Escalated",
    "outcome unknown",
    "deadline exceeded",
    ": cancelled",
)


def test_another_seed_gives_another_trace() -> None:
    """Seeds differ in what happens and in which order; and these stories do have in them what may go wrong."""
    stories = {"\n".join(told(seed)) for seed in range(6)}
    assert len(stories) == 6
    together = "\n".join(stories)
    assert [sign for sign in SIGNS if not re.search(sign, together)] == []


TELL = "import sys; from tests.core.test_deterministic import told; sys.stdout.write('\\n'.join(told(3)))"


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_a_seed_gives_one_trace_in_every_process(hash_seed: str) -> None:
    """Another process, with strings hashed otherwise and without pytest's plugins, tells the same story."""
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == told(3)


# --- what Trio leaves open --------------------------------------------------------------------------


class Slow(creche.Actor):
    @creche.message(on_caller_gone="cancel")
    async def hang_on(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async def take(self) -> None:
        pass


def test_callers_of_one_scope_are_given_up_in_a_fixed_order() -> None:
    """Trio cancels the tasks of a scope in no fixed order; what their graces end with comes in that of the paths."""

    async def main() -> None:
        async with creche.open_runtime("slow") as runtime:
            spec = creche.child(Slow).options(unwind_grace=1, shutdown=200)
            slow = [await runtime.start(spec.options(name=f"s{n:02}")) for n in range(12)]
            with trio.move_on_after(1):
                async with trio.open_nursery() as nursery:
                    for handle in slow:
                        asking(nursery, handle.ask.hang_on)

    trace = testing.Trace()
    testing.run(main, trace=trace)
    assert [line.split()[1] for line in trace.lines if "Stuck" in line] == [f"slow:root/s{n:02}#1" for n in range(12)]


def test_who_is_cancelled_in_the_same_moment_is_not_let_in() -> None:
    """A call that waits and a cast that waits for its room, cancelled at one time: the cast is never handled, whichever
    of the two Trio has cancelled first."""

    async def main() -> None:
        async with creche.open_runtime("full") as runtime, trio.open_nursery() as nursery:
            full = [await runtime.start(creche.child(Slow).options(mailbox=1, unwind_grace=200)) for _ in range(20)]
            for handle in full:
                asking(nursery, handle.ask.hang_on)
            await wait_all_tasks_blocked()
            cast: list[Reply] = []
            for handle in full:
                waits = asking(nursery, handle.call, Slow.take)
                await wait_all_tasks_blocked()
                cast.append(asking(nursery, handle.cast, Slow.take))
                await wait_all_tasks_blocked()
                waits.scope.deadline = cast[-1].scope.deadline = 50
            await trio.sleep(60)
            assert [reply.what for reply in cast] == ["cancelled"] * 20

    testing.run(main)


# --- what a run is ----------------------------------------------------------------------------------


def run_in_both(fn: Callable[[], Awaitable[R]]) -> list[R]:
    """Twice, from one seed."""
    return [testing.run(fn, seed=5) for _ in range(2)]


def test_virtual_time_begins_at_zero_and_jumps() -> None:
    """No time passes while anybody can run; when nobody can, the next deadline is now."""

    async def sleeps() -> tuple[float, float]:
        begin = trio.current_time()
        await trio.sleep(80_000)
        return begin, trio.current_time()

    assert testing.run(sleeps) == (0.0, 80_000.0)


def test_the_value_and_the_error_of_a_run_come_out_as_they_are() -> None:
    """`run` returns what its function returns, and raises what it raises."""
    error = Boom("here")

    async def returns(word: str) -> str:
        return word

    async def raises() -> None:
        raise error

    assert testing.run(returns, "value") == "value"
    with pytest.raises(Boom) as caught:
        testing.run(raises)
    assert caught.value is error


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    """Of all tasks, with or without a runtime around them."""

    async def race() -> tuple[int, ...]:
        order: list[int] = []

        async def step(number: int) -> None:
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(step, number)
        return tuple(order)

    first, again = run_in_both(race)
    assert first == again
    assert len({testing.run(race, seed=seed) for seed in range(5)}) == 5


def test_runtimes_inside_draw_from_the_seed() -> None:
    """Each has a stream of its own, the same ones each time; one with a seed of its own draws from that."""

    async def draws() -> tuple[float, float, float]:
        async with creche.open_runtime("a") as a, creche.open_runtime("b") as b:
            async with creche.open_runtime("c", seed=7) as c:
                return a.random.random(), b.random.random(), c.random.random()

    first, again = run_in_both(draws)
    assert first == again
    assert len(set(first)) == 3
    assert first[2] == random.Random(7).random()
    assert testing.run(draws, seed=6)[0] != first[0]


def test_apps_and_runtimes_of_actors_are_in_the_run_too() -> None:
    """However deep a runtime is opened, it draws from the seed."""

    class Host(creche.Actor):
        async def inner(self) -> float:
            async with creche.open_runtime("inner") as inner:
                return inner.random.random()

    async def draws() -> tuple[float, float]:
        app = creche.App("app", env="development")
        host = app.use(creche.child(Host))
        async with app.open() as running:
            return await host.ask.inner(), running.runtime.random.random()

    first, again = run_in_both(draws)
    assert first == again


def test_outside_of_a_run_nothing_is_seeded() -> None:
    """A run leaves nothing behind that a later runtime could find."""

    async def draws() -> float:
        async with creche.open_runtime("a") as runtime:
            return runtime.random.random()

    assert testing.run(draws) == testing.run(draws)
    assert trio.run(draws) != trio.run(draws)


def test_randomness_is_given_back() -> None:
    """Trio's Random and the module `random` are after a run as they were before it, also one that failed."""
    of_trio = find_trios_random()

    async def fails() -> None:
        random.random()
        raise Boom

    before = of_trio.getstate(), random.getstate()
    with pytest.raises(Boom):
        testing.run(fails)
    assert (of_trio.getstate(), random.getstate()) == before


# --- refusals ---------------------------------------------------------------------------------------


async def never() -> None:
    raise AssertionError("this must not run")


def test_a_run_inside_of_a_trio_run_is_refused() -> None:
    """Also inside of another deterministic run, which goes on."""

    async def outer() -> str:
        with pytest.raises(testing.NotDeterministic, match="inside a Trio run"):
            testing.run(never)
        return "went on"

    assert trio.run(outer) == "went on"
    assert testing.run(outer) == "went on"


def test_a_second_run_in_another_thread_is_refused() -> None:
    """Trio has one Random for all threads."""
    refusals: list[BaseException] = []

    def second() -> None:
        try:
            testing.run(never)
        except testing.NotDeterministic as error:
            refusals.append(error)

    async def first() -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    testing.run(first)
    assert "another thread" in str(refusals[0])


def test_without_influence_on_the_order_a_run_is_refused() -> None:
    """The self-test sees that the Random it was given is not the one that Trio's order comes from."""
    with pytest.raises(testing.NotDeterministic, match="in two orders from one seed"):
        Order(random.Random)


class Deaf:
    """Passes on to Trio's Random that it is to be seeded, but not with what."""

    def __init__(self) -> None:
        self._of_trio = find_trios_random()
        self.getstate, self.setstate = self._of_trio.getstate, self._of_trio.setstate

    def seed(self, _seed: str) -> None:
        self._of_trio.seed("always the same")


def test_an_order_that_is_the_same_for_all_seeds_is_refused() -> None:
    """Where the seed changes nothing there is nothing to be found by other seeds."""
    with pytest.raises(testing.NotDeterministic, match="in one order from two seeds"):
        Order(lambda: cast("random.Random", Deaf()))


SWITCHED_OFF = """
from creche.runtime.scheduling import NotDeterministic, Order, random_of, trios_hook
of_trio = random_of(trios_hook())
before = of_trio.getstate()
try:
    Order(lambda: of_trio)
    print("accepted")
except NotDeterministic as error:
    print(error.reason)
print("given back" if of_trio.getstate() == before else "changed")
"""


def test_an_order_that_only_looks_seeded_is_refused() -> None:
    """Trio's Random without Trio's sorted batches: repeatable until something becomes runnable in another order."""
    command = [sys.executable, "-c", SWITCHED_OFF]  # of its own: pytest-trio has switched it on in this process
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reason, state = done.stdout.splitlines()
    assert reason.endswith("its deterministic scheduling is not switched on")
    assert state == "given back"


def test_without_hypothesis_a_run_says_what_to_install() -> None:
    """Trio's hook needs it; the error names the extra that brings it."""
    program = """
import sys
sys.modules["hypothesis"] = None  # as if it were not installed
from creche import testing
try:
    testing.run(None)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'creche[testing]'" in done.stdout


def test_a_hook_without_one_random_is_refused() -> None:
    """If Trio's hook has become another one, that is said."""
    assert isinstance(random_of(trios_hook()), random.Random)
    with pytest.raises(testing.NotDeterministic, match="refers to not one Random"):
        random_of(test_a_hook_without_one_random_is_refused)


@pytest.mark.parametrize("seed", ["1", 1.0, None, True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    """Anything else might not be the same in the next process."""
    with pytest.raises(creche.SpecInvalid, match="a whole number"):
        testing.run(never, seed=seed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- traces -----------------------------------------------------------------------------------------


class Failing(creche.Actor):
    async def fail(self) -> None:
        raise Boom(f"in {self!r}")


async def fails_once() -> None:
    async with creche.open_runtime("once") as runtime:
        failing = await runtime.start(creche.child(Failing))
        async with trio.open_nursery() as nursery:
            asking(nursery, failing.ask.fail)
        await wait_all_tasks_blocked()


def test_a_trace_has_all_events_from_the_first_on() -> None:
    """One line for each event of each runtime, without tracebacks and addresses."""
    trace = testing.Trace()
    testing.run(fails_once, trace=trace)
    assert trace.lines[0] == "0.000000 once:root#1 Started"
    (crash,) = (line for line in trace.lines if "Crashed" in line)
    assert crash.endswith("Failing object at 0x?>' queued=0")
    assert str(trace).split("\n") == trace.lines


def test_digests_tell_traces_apart() -> None:
    """Equal lines, equal digest; one more, another one."""
    one, two = testing.Trace(), testing.Trace()
    testing.run(fails_once, trace=one)
    testing.run(fails_once, trace=two)
    assert one.digest == two.digest
    two.lines.append("more")
    assert one.digest != two.digest


async def test_a_trace_follows_a_runtime_outside_of_runs_too() -> None:
    """From the call of `follow` until what it returned is called."""
    trace = testing.Trace()
    async with creche.open_runtime("plain") as runtime:
        stop = trace.follow(runtime)
        await runtime.start(creche.child(Failing))
        before = list(trace.lines)
        stop()
        await runtime.start(creche.child(Failing))
    assert before[0].split()[1:] == ["plain:root/failing#1", "Started"]
    assert trace.lines == before


# --- beside Hypothesis ------------------------------------------------------------------------------


def test_hypothesis_and_deterministic_runs_share_a_process() -> None:
    """A run inside of an example gives what it gives outside, and the examples keep their own seeds."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    of_trio = find_trios_random()
    plain = {seed: testing.run(one_draw, seed=seed) for seed in range(3)}
    states: set[object] = set()

    @settings(max_examples=20, database=None, deadline=None)
    @given(st.integers(0, 2))
    def example(seed: int) -> None:
        states.add(of_trio.getstate())
        assert testing.run(one_draw, seed=seed) == plain[seed]
        states.add(of_trio.getstate())

    example()
    assert len(states) == 1, "Hypothesis seeds Trio's Random for each example, and finds it as it left it"


async def one_draw() -> float:
    async with creche.open_runtime("draw") as runtime:
        return runtime.random.random()
