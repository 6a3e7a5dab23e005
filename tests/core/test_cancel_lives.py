"""Starts, stops, kills and whole runtimes, struck at each of their checkpoints; each time nothing has leaked.

See `tests/cancelling.py`. Calls are in `test_cancel_everywhere.py`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import creche
from creche.runtime.hosting import AsyncioHost
from creche.runtime.node import State, unwrap
from creche.runtime.spec import Spec
from creche.supervisors.spec import SupervisorSpec
from tests.cancelling import Strike, everywhere, in_each_run, prove_idle
from tests.core.residents import (
    Make,
    Resident,
    component,
    plain,
    prove_balanced,
    resident,
    slow,
    team,
    team_in_trouble,
    troubled,
)
from tests.core.support import LONG, Boom, Probe, asking, reach, settle

SOON = 20.0  # seconds of virtual time in which whatever was cancelled has ended


# --- runtime.start ----------------------------------------------------------------------------------------------------


async def start_scenario(strike: Strike, make: Make, sound: str, by_handler: bool) -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        courier = await runtime.start(creche.child(Probe).options(name="courier"))
        log: list[str] = []
        spec = make(log)

        async def start(*_: object) -> Any:
            return await runtime.start(spec)

        end = await strike.cancel(courier.ask.run_for_caller if by_handler else start, start)
        await trio.sleep(SOON)
        if end.what == "value":
            await prove_lives(runtime, end.value)
            await runtime.stop(end.value)
        prove_gone(runtime, log)
        again = asking(nursery, runtime.start, spec)
        assert await again.settled() == sound
        if again.what == "value":
            await prove_lives(runtime, again.value)
            await runtime.stop(again.value)
        prove_gone(runtime, log)
        await prove_idle(runtime)


async def prove_lives(runtime: creche.Runtime, handle: Any) -> None:
    for node in runtime.tree().find(handle.path):
        assert (node.state, node.incarnation) == ("running", 1)
    if isinstance(handle, creche.Handle):
        assert await handle.ask.add() == 1


def prove_gone(runtime: creche.Runtime, log: list[str]) -> None:
    assert [node.path for node in runtime.tree()] == ["root", "root/courier"]
    prove_balanced(log)


@pytest.mark.parametrize("by_handler", [False, True], ids=["by the body", "by a handler"])
@pytest.mark.parametrize("make", [plain, resident, slow, team, component])
def test_a_start(make: Make, by_handler: bool) -> None:
    """A start that is cancelled leaves nothing, and its name is free again."""
    ends = everywhere(start_scenario, make, "value", by_handler)
    assert ends["cancelled"] > 2
    assert set(ends) == {"cancelled", "value"}


@pytest.mark.parametrize("make", [*map(troubled, ("init", "enter", "background")), team_in_trouble])
def test_a_start_that_fails(make: Make) -> None:
    """The same for a child that cannot start."""
    ends = everywhere(start_scenario, make, "StartFailed", False)
    assert set(ends) == {"cancelled", "StartFailed"}


# --- runtime.stop -----------------------------------------------------------------------------------------------------

Arrange = Callable[[creche.Runtime, trio.Nursery, list[str]], Awaitable[Any]]


async def idle(runtime: creche.Runtime, _nursery: trio.Nursery, log: list[str]) -> Any:
    return await runtime.start(resident(log))


async def busy(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    probe = await runtime.start(resident(log, mailbox=1))
    for word in ("1", "2", "3"):
        asking(nursery, probe.ask.run, sleep_and_note(1, word))
        await settle()
    return probe


async def too_busy(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    probe = await runtime.start(resident(log, mailbox=1, drain=1.5))
    for word in ("1", "2", "3"):
        asking(nursery, probe.ask.run, sleep_and_note(1, word))
        await settle()
    return probe


async def hanging(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    probe = await runtime.start(resident(log, drain=0.5))
    asking(nursery, probe.ask.run, sleep_and_note(float("inf"), "never"))
    await settle()
    return probe


async def shielded(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    async def hold_out(_probe: Probe) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    probe = await runtime.start(resident(log, drain=0.5, shutdown=0.5))
    asking(nursery, probe.ask.run, hold_out)
    await settle()
    return probe


async def down(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    probe = await runtime.start(resident(log))
    await asking(nursery, probe.ask.crash).settled()
    asking(nursery, probe.ask.note, "waits")
    await trio.sleep(0.5)
    return probe


async def starting(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    asking(nursery, runtime.start, resident(log))
    await trio.sleep(0.5)
    return runtime.node_of("root/resident")


async def leaving_badly(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    return await runtime.start(troubled("leave")(log))


async def stopped_by_another(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    probe = await busy(runtime, nursery, log)
    asking(nursery, runtime.stop, probe)
    await settle()
    return probe


async def whole_team(runtime: creche.Runtime, nursery: trio.Nursery, log: list[str]) -> Any:
    handle = await runtime.start(team(log, resident(log, "three", drain=0.5)))
    three: creche.Handle[Probe] = creche.Handle("three")
    three._bind(runtime.node_of("root/team/three"))
    asking(nursery, three.ask.run, sleep_and_note(float("inf"), "never"))
    await settle()
    return handle


def sleep_and_note(seconds: float, word: str) -> Callable[[Probe], Awaitable[None]]:
    async def body(probe: Probe) -> None:
        await trio.sleep(seconds)
        probe.log.append(word)

    return body


async def stop_scenario(strike: Strike, arrange: Arrange, by_handler: bool) -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        courier = await runtime.start(creche.child(Probe).options(name="courier"))
        log: list[str] = []
        target = await arrange(runtime, nursery, log)
        node = runtime.node_of(target)

        begun: list[str] = []

        async def stop(*_: object) -> None:
            begun.append("stop")
            await runtime.stop(target)

        end = await strike.cancel(courier.ask.run_for_caller if by_handler else stop, stop, look=begun.copy)
        await trio.sleep(LONG)
        assert end.what in ("value", "cancelled")
        if end.what == "value" or "stop" in end.seen:
            assert node.state is State.STOPPED, "a stop that is cancelled still stops"
        await runtime.stop(target)
        prove_gone(runtime, log)
        await prove_idle(runtime, unstopped=("root/resident",) if arrange is shielded else ())


STOPS: list[Arrange] = [
    idle,
    busy,
    too_busy,
    hanging,
    shielded,
    down,
    starting,
    leaving_badly,
    stopped_by_another,
    whole_team,
]


@pytest.mark.parametrize("by_handler", [False, True], ids=["by the body", "by a handler"])
@pytest.mark.parametrize("arrange", STOPS)
def test_a_stop(arrange: Arrange, by_handler: bool) -> None:
    """A stop that is cancelled goes on, whatever its target is doing; all that was held is given back."""
    ends = everywhere(stop_scenario, arrange, by_handler)
    assert ends["cancelled"] > 0


# --- an actor's own awaits, killed at each of them --------------------------------------------------------------------


async def kill_scenario(strike: Strike, path: str) -> None:
    """A team starts, works and stops; one of it is killed on the way."""
    async with creche.open_runtime("t") as runtime:
        await runtime.start(creche.child(Probe).options(name="courier"))
        log: list[str] = []

        async def live() -> Any:
            handle = await runtime.start(team(log))
            for name in ("one", "inner/two", "inner/probe"):
                await reach(runtime, f"root/team/{name}", Probe).ask.run(sleep_and_note(0.1, name))
            await runtime.stop(handle)

        def kill() -> None:
            if path in [node.path for node in runtime.tree()]:
                runtime.kill(path, "the test")

        end = await strike.hit(kill, live)
        assert end.what in ("value", "StartFailed", "OutcomeUnknown")
        await trio.sleep(LONG)
        if end.what == "OutcomeUnknown":
            assert {node.state for node in runtime.tree()} == {"running"}
            await live_on(runtime)
            await runtime.stop("root/team")
        prove_gone(runtime, log)
        await prove_idle(runtime)


async def live_on(runtime: creche.Runtime) -> None:
    for name in ("one", "inner/two", "inner/probe"):
        assert await reach(runtime, f"root/team/{name}", Probe).ask.add() == 1


TEAM = ("team", "team/one", "team/inner", "team/inner/two", "team/inner/probe")


@pytest.mark.parametrize("path", TEAM)
def test_a_kill_while_starting_working_and_stopping(path: str) -> None:
    """Killed at any moment, an actor leaves its lifespan, its background work ends, its lease is revoked, and its
    successor comes only then; a supervisor takes all of its children along."""
    ends = everywhere(kill_scenario, f"root/{path}")
    assert set(ends) >= {"value", "OutcomeUnknown"}


# --- whole runtimes ---------------------------------------------------------------------------------------------------

Block = Callable[[list[str]], Awaitable[str | None]]


def tree(log: list[str], *more: Spec[Any], restarts: int = 3, pause: float = 1.0) -> SupervisorSpec:
    """The spec of a root: a team, one more actor, and what else is to be in it."""
    members = team(log, pause=pause), resident(log, "last", pause), *more
    return creche.supervisor("root", *members, intensity=creche.Intensity(restarts, 5))


async def quiet(log: list[str], pause: float = 1.0) -> str:
    async with creche.open_runtime("t", root=tree(log, pause=pause)) as runtime:
        log.append("open")
        await live_on(runtime)
        return await last(runtime).ask.note("done")


async def left_in_the_middle(log: list[str]) -> str:
    """The block is left while one child starts and another one works."""
    async with trio.open_nursery() as nursery, creche.open_runtime("t", root=tree(log)) as runtime:
        asking(nursery, runtime.start, resident(log, "more"))
        asking(nursery, last(runtime).ask.run, sleep_and_note(1, "slow"))
        await trio.sleep(0.5)
    return "done"


async def left_in_a_hurry(log: list[str]) -> str:
    async with trio.open_nursery() as nursery, creche.open_runtime("t", root=tree(log), stop_within=0.5) as runtime:
        asking(nursery, last(runtime).ask.run, sleep_and_note(1e6, "never"))
        await trio.sleep(0.5)
    return "done"


async def body_fails(log: list[str]) -> None:
    async with creche.open_runtime("t", root=tree(log)):
        log.append("open")
        await trio.sleep(0.5)
        raise Boom


async def tree_fails(log: list[str]) -> None:
    """The root gives up while the body waits for a call."""
    async with creche.open_runtime("t", root=tree(log, restarts=0)) as runtime:
        await last(runtime).ask.crash()


async def slow_to_open(log: list[str]) -> str:
    async with creche.open_runtime("t", root=tree(log, slow(log))):
        return "done"


async def tree_cannot_start(log: list[str]) -> None:
    async with creche.open_runtime("t", root=tree(log, troubled("enter")(log))):
        raise AssertionError("not reached")


async def app_opens(log: list[str]) -> str:
    app = creche.App("service", env="development")
    first, second = app.use(component(log)), app.use(resident(log, "last"))
    async with app.open() as running:
        log.append("open")
        assert first.path in str([node.path for node in running.tree()])
        return await second.ask.note("done")


def last(runtime: creche.Runtime) -> creche.Handle[Probe]:
    return reach(runtime, "root/last", Probe)


async def block_scenario(strike: Strike, block: Block, what: str) -> None:
    log: list[str] = []
    end = await strike.cancel(block, log, look=trio.current_time)
    failure = end.error if end.error is None else unwrap(end.error)  # beside a cancellation, Trio groups it
    assert end.what in ("value", "cancelled") if failure is None else type(failure).__name__ == what
    assert end.value in ("done", None)
    assert trio.current_time() - end.seen < (1 if block is left_in_a_hurry else SOON)
    prove_balanced(log)
    if "open" in log:
        prove_order(log)


def prove_order(log: list[str]) -> None:
    entered, left = ([line.split()[1] for line in log if line.startswith(word)] for word in ("enter", "leave"))
    assert left == entered[::-1], "they have not ended from right to left"


@pytest.mark.parametrize(
    ("block", "what"),
    [
        (quiet, "value"),
        (left_in_the_middle, "value"),
        (left_in_a_hurry, "value"),
        (body_fails, "Boom"),
        (tree_fails, "TreeFailed"),
        (slow_to_open, "value"),
        (tree_cannot_start, "TreeFailed"),
        (app_opens, "value"),
    ],
)
def test_a_whole_runtime(block: Block, what: str) -> None:
    """Cancelled while it opens, in its body, or while it stops: the tree is stopped, in order, to its end."""
    ends = everywhere(block_scenario, block, what)
    assert ends[what] > 0 < ends["cancelled"]


def test_what_had_started_ends_from_right_to_left() -> None:
    """An opening that is cancelled is undone in reverse: none loses what it was started on top of."""

    async def scenario(strike: Strike) -> None:
        log: list[str] = []
        await strike.cancel(quiet, log)
        prove_order(log)

    everywhere(scenario)


class StruckWhileItLeaves(creche.Actor):
    """Takes some steps to leave, during which the strike may come."""

    def __init__(self, strike: Strike, blow: Callable[[], object]) -> None:
        self.strike = strike
        self.blow = blow

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        with self.strike.armed(self.blow):
            for _ in range(10):
                await trio.lowlevel.checkpoint()


def app_that_is_told_to_stop(strike: Strike, *, while_it_stops: bool) -> None:
    log: list[str] = []
    app = creche.App("service", env="development")
    handle = app.use(creche.child(Resident, log, pause=0.0))
    tell = partial(signal.raise_signal, signal.SIGTERM)
    if while_it_stops:
        app.use(creche.child(StruckWhileItLeaves, strike, tell))

    async def serve(_running: creche.Running) -> None:
        await (ask_ten_times() if while_it_stops else strike.hit(tell, ask_ten_times))

    async def ask_ten_times() -> None:  # a signal takes some passes of the scheduler to arrive
        for _ in range(10):
            await handle.ask.add()

    assert app.run_until_complete(serve) == 0
    prove_balanced(log)


@pytest.mark.parametrize("while_it_stops", [False, True], ids=["in the body", "while it stops"])
def test_a_signal_at_each_moment_of_an_app(while_it_stops: bool) -> None:
    """SIGTERM at any moment, in the body of `app.run` or while it stops already, stops the tree in order."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ends = in_each_run(partial(app_that_is_told_to_stop, while_it_stops=while_it_stops))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ends["pending"] > 0


# --- threads ----------------------------------------------------------------------------------------------------------


class Blocking:
    """Blocking work that is at work, in a thread, until it is let go."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self._begun = trio.Event()
        self._go = threading.Event()

    def in_thread(self) -> None:
        self.log.append("began")
        trio.from_thread.run_sync(self._begun.set)
        self._go.wait(10)
        self.log.append("ended")

    def inline(self) -> None:
        self.log.extend(["began", "ended"])

    async def let_go(self) -> None:
        """When it has begun, and after some moments at which it may be struck."""
        try:
            await self._begun.wait()
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        finally:
            self._go.set()


async def blocking_scenario(strike: Strike, by_handler: bool, crowded: bool, inline: bool) -> None:
    async with creche.open_runtime("t") as runtime:
        courier = await runtime.start(creche.child(Probe).options(name="courier"))
        limiter = trio.CapacityLimiter(1)
        log: list[str] = []
        work = Blocking(log)

        async def block(*_: object) -> None:
            await runtime.run_blocking(work.inline if inline else work.in_thread, limiter=limiter)

        async with trio.open_nursery() as crowd:
            crowd.start_soon(work.let_go)
            if crowded:
                limiter.acquire_on_behalf_of_nowait(crowd)
                crowd.start_soon(leave_when_awaited, limiter, crowd)
            end = await strike.cancel(courier.ask.run_for_caller if by_handler else block, block)
            assert log == ["began", "ended"] if end.what == "value" else log in ([], ["began", "ended"])
            await settle()
            crowd.cancel_scope.cancel()
        assert (limiter.borrowed_tokens, limiter.statistics().tasks_waiting) == (0, 0)
        assert await courier.ask.add() == 1
        await prove_idle(runtime)


async def leave_when_awaited(limiter: trio.CapacityLimiter, borrower: object) -> None:
    await settle()
    limiter.release_on_behalf_of(borrower)


@pytest.mark.parametrize("virtual", [False, True], ids=["thread", "simulated"])
@pytest.mark.parametrize("crowded", [False, True], ids=["room", "crowded"])
@pytest.mark.parametrize("by_handler", [False, True], ids=["by the body", "by a handler"])
def test_blocking_work(by_handler: bool, crowded: bool, virtual: bool) -> None:
    """A cancel waits for the thread; a turn that was waited for is given back."""
    everywhere(blocking_scenario, by_handler, crowded, virtual, virtual=virtual)


# --- guests of asyncio ------------------------------------------------------------------------------------------------


def in_asyncio(scenario: Callable[[Strike], Coroutine[Any, Any, None]], strike: Strike) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # whatever has become of `asyncio.run`
        runner.run(scenario(strike))


async def call_of_a_guest(logs: list[list[str]], strike: Strike) -> None:
    log: list[str] = []
    logs.append(log)
    host = AsyncioHost()
    opened = asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with creche.open_runtime("t") as runtime:
            opened.set_result((runtime, await runtime.start(creche.child(Probe, log))))
            await trio.sleep_forever()

    running = asyncio.ensure_future(host.run(main))
    runtime, probe = await opened
    future = host.future(probe.ask.run_for_caller, take_steps)
    with strike.armed(future.cancel) as end:
        await asyncio.wait([future])
        end.what = "cancelled" if future.cancelled() else "value"
    await host.future(prove_idle, runtime)
    assert await host.future(probe.ask.add) == 1
    assert log == ["began", "ended"] or end.what == "cancelled"
    host.stop()
    await running


async def take_steps(probe: Probe) -> None:
    probe.log.append("began")
    try:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
    except trio.Cancelled:
        probe.log.append("unwound")
        raise
    probe.log.append("ended")


async def guest_itself(strike: Strike) -> None:
    log: list[str] = []

    async def main() -> str:
        with strike.armed(running.cancel) as end:
            end.what = await quiet(log, 0.0)
        return end.what

    running = asyncio.ensure_future(AsyncioHost().run(main))
    await asyncio.wait([running])
    assert running.cancelled() or running.result() == "done"
    prove_balanced(log)


def test_a_call_out_of_asyncio() -> None:
    """A Future that is cancelled cancels its call; the guest, its actor and its host go on."""
    logs: list[list[str]] = []
    assert in_each_run(partial(in_asyncio, partial(call_of_a_guest, logs))).keys() == {"cancelled", "value"}
    assert {tuple(log) for log in logs} == {(), ("began", "unwound"), ("began", "ended")}


def test_a_guest_that_is_cancelled() -> None:
    """A host that is cancelled at any moment of its guest waits until the guest has stopped in order."""
    assert in_each_run(partial(in_asyncio, guest_itself)).keys() == {"pending", "done"}
