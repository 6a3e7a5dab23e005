"""The hard questions of the design notes about supervision, Q9 and Q15 to Q20, each with our answer as tests.

The others stand in tests/core/test_questions*.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.backoff import Jitter
from creche.runtime.node import Node, State
from creche.runtime.spec import Restart
from creche.supervisors.spec import SupervisorSpec, supervisor
from creche.supervisors.strategies import Strategy
from tests.core.support import Boom, Gate, Probe, Reply, asking, cell_of, kinds, reach, recorded, settle

MANY = creche.Intensity(10_000, 1)
NEVER = creche.Intensity(0, 1000)  # the first crash is one too many
DOWN = creche.Backoff(first=10, free=0, jitter=0)  # ten seconds down after each crash


async def ticks(count: int) -> None:
    """Let `count` passes of the scheduler go by."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


class Named(Probe):
    """Notes its lives; takes its time to leave; fails where it is told to."""

    def __init__(self, log: list[str], name: str, leaving: float = 0, fails: str = "", in_life: int = 0) -> None:
        super().__init__(log)
        self.name, self.leaving = name, leaving
        self.fails = fails if self.context.incarnation == in_life or not in_life else ""
        self._fail_if("init")
        if self.fails == "background":
            self.context.spawn(self._fail)

    def _fail_if(self, where: str) -> None:
        if where == self.fails:
            raise Boom(where)

    async def _fail(self) -> None:
        raise Boom("background")

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._fail_if("enter")
        async with trio.open_nursery() as nursery:
            if self.fails == "nursery":
                nursery.start_soon(self._fail)
            await ticks(3)
            self.log.append(f"+{self.name}{self.context.incarnation}")
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.leaving)
                self.log.append(f"-{self.name}{self.context.incarnation}")


def tree(log: list[str], names: str, strategy: Strategy = "one_for_one", leaving: float = 0) -> SupervisorSpec:
    """A root with named children that restart at once."""
    children = [creche.child(Named, log, name, leaving).options(name=name) for name in names]
    return supervisor("root", *children, strategy=strategy, intensity=MANY)


def all_nodes(node: Node) -> list[Node]:
    return [node, *(below for child in node.children() for below in all_nodes(child))]


# --- Q9: graceful drain against a nursery's cancel ------------------------------------------------


async def test_q09_a_nursery_cancel_stops_the_tree_in_order(autojump_clock: MockClock) -> None:
    """A cancel around the block does not hit all actors in one tick: they leave one by one, last to first."""
    log: list[str] = []
    async with trio.open_nursery() as nursery:

        async def service() -> None:
            async with creche.open_runtime("t", root=tree(log, "abc", leaving=1)) as runtime:
                for name in "abc":
                    reach(runtime, f"root/{name}", Named).cast_nowait(Named.note, f"mail of {name}")
                nursery.cancel_scope.cancel()
                await trio.sleep_forever()

        nursery.start_soon(service)
    assert trio.current_time() == 3
    assert log[:3] == ["+a1", "+b1", "+c1"]
    assert [line for line in log if line.startswith("-")] == ["-c1", "-b1", "-a1"]
    assert sorted(log[3:]) == sorted(["-a1", "-b1", "-c1", "mail of a", "mail of b", "mail of c"])


async def test_q09_drain_then_cancel_then_report(autojump_clock: MockClock) -> None:
    """Each child has its drain time, is cancelled then, and named when it does not unwind; the others still stop."""

    async def slow(probe: Probe) -> None:
        await trio.sleep(5)

    async def deaf(probe: Probe) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        for name, body in (("first", slow), ("deaf", deaf), ("slow", slow)):
            spec = creche.child(Named, log, name).options(name=name, drain=1, shutdown=1)
            probe = await runtime.start(spec)
            probe.cast_nowait(Probe.run, body)
        await settle()
        began = trio.current_time()
    assert log[3:] == ["-slow1", "-deaf1", "-first1"]
    assert [unstopped.path for unstopped in runtime.unstopped] == ["root/deaf"]
    assert trio.current_time() - began == 5  # slow: 1, deaf: 5 from the beginning, first is done by then


@pytest.mark.parametrize("cancelled", [False, True])
async def test_q09_one_deadline_holds_for_all(cancelled: bool, autojump_clock: MockClock) -> None:
    """However patient each child is, the tree has its one time budget; what is left then is cancelled together."""
    log: list[str] = []

    async def endless(probe: Probe) -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with creche.open_runtime("t", stop_within=3) as runtime:
            for name in "abcd":
                probe = await runtime.start(creche.child(Named, log, name).options(name=name, drain=1000))
                probe.cast_nowait(Probe.run, endless)
            await settle()
            if cancelled:
                scope.cancel()
    assert trio.current_time() == 3
    assert sorted(log[4:]) == ["-a1", "-b1", "-c1", "-d1"]


# --- Q15: the supervisor itself is cancelled or crashes -------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["kill", "gives up"])
async def test_q15_children_never_outlive_their_supervisor(how: str, nested: bool, autojump_clock: MockClock) -> None:
    """A supervisor that crashes has ended all its children before its next incarnation starts them, in order."""
    log: list[str] = []
    children = [creche.child(Named, log, name, 1).options(name=name) for name in "abc"]
    below = supervisor("deeper", *children, intensity=NEVER)
    sub = supervisor("sub", *([below] if nested else children), intensity=NEVER)
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime:
        assert runtime.kill("root/sub" if how == "kill" else "root/sub/deeper/b" if nested else "root/sub/b", "now")
        await trio.sleep(10)
        assert log[:3] == ["+a1", "+b1", "+c1"]
        assert sorted(log[3:6]) == ["-a1", "-b1", "-c1"]
        assert log[6:] == ["+a2", "+b2", "+c2"]
        if how == "gives up":  # a kill hits all of it at once
            assert log.index("-c1") < log.index("-a1")


@pytest.mark.parametrize("pause", range(8))
@pytest.mark.parametrize("victim", ["root/sub/a", "root/sub"])
async def test_q15_a_cancel_at_any_moment_of_a_restart_leaves_nothing(
    victim: str, pause: int, autojump_clock: MockClock
) -> None:
    """A cancel around the block that lands in a restart, of an actor or a supervisor, still ends in an orderly stop."""
    log: list[str] = []
    children = [creche.child(Named, log, name, 1).options(name=name) for name in "ab"]
    root = supervisor("root", supervisor("sub", *children, strategy="rest_for_one"))
    nodes: list[Node] = []
    with trio.CancelScope() as scope:
        async with creche.open_runtime("t", root=root) as runtime:
            nodes = all_nodes(runtime.root)
            runtime.kill(victim, "now")
            await ticks(pause)
            scope.cancel()
            await trio.sleep_forever()
    assert [(node.state, node.task) for node in nodes] == [(State.STOPPED, None)] * 4
    assert sorted(line[1:] for line in log if line[0] == "+") == sorted(line[1:] for line in log if line[0] == "-")


async def test_q15_a_bug_of_the_supervisor_is_never_restarted() -> None:
    """An error in a restart decision is not a crash of the child: it ends the tree, and all callers get an outcome."""

    class Buggy(creche.Backoff):
        def delay(self, consecutive: int, rng: Jitter) -> float:
            raise ZeroDivisionError("a bug in a policy")

    replies: list[Reply] = []
    seen: list[events.Event] = []
    async with trio.open_nursery() as outside:
        with pytest.raises(ZeroDivisionError):
            async with creche.open_runtime("t", intensity=MANY) as runtime:
                runtime.events.subscribe(seen.append)
                other = await runtime.start(creche.child(Probe).options(name="other"))
                gate = Gate()
                replies.append(asking(outside, other.ask.hold, gate))
                await gate.entered.wait()
                replies.append(asking(outside, other.ask.life))
                await settle()
                probe = await runtime.start(creche.child(Probe).options(backoff=Buggy()))
                runtime.kill(probe, "now")
                await trio.sleep_forever()
        assert [await reply.settled() for reply in replies] == ["OutcomeUnknown", "NotDelivered"]
        assert max(event.incarnation for event in seen) == 1


async def test_q15_the_verdict_comes_in_the_step_of_the_crash() -> None:
    """No step of another task lies between the end of an incarnation and the record of what comes next."""
    between: list[str] = []

    class Watching(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if crashed and kinds(seen, "root/probe")[-1] == "Crashed":
                between.append(task.name)

    crashed: list[events.Event] = []
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        runtime.events.subscribe(lambda event: crashed.append(event) if isinstance(event, events.Crashed) else None)
        probe = await runtime.start(creche.child(Probe).options(backoff=DOWN))
        instrument = Watching()
        trio.lowlevel.add_instrument(instrument)
        try:
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash()
            await settle()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        assert crashed
        assert between == []


# --- Q16: a restart during a shutdown -------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "crash", "background", "exit", "swallow"])
@pytest.mark.parametrize("whole_tree", [False, True])
async def test_q16_who_ends_while_stopping_stays_ended(how: str, whole_tree: bool, autojump_clock: MockClock) -> None:
    """An incarnation that dies in any way after the stop has begun is not restarted, and not charged."""

    async def body(probe: Probe) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            if how != "swallow":
                raise
        if how == "crash":
            raise Boom("while draining")
        if how == "exit":
            probe.context.exit()
        if how == "background":
            probe.context.spawn(failing)
            await trio.sleep(1)

    async def failing() -> None:
        raise Boom("while draining")

    async with trio.open_nursery() as outside:
        async with creche.open_runtime("t", intensity=NEVER) as runtime:
            seen = recorded(runtime)
            probe = await runtime.start(creche.child(Probe).options(drain=0.5 if how == "swallow" else 5))
            probe.cast_nowait(Probe.run, body)
            await settle()

            async def kill_later() -> None:
                await trio.sleep(0.5)
                assert runtime.kill(probe, "while draining")

            if how == "kill":
                outside.start_soon(kill_later)
            if not whole_tree:
                await runtime.stop(probe)
    told = kinds(seen, probe.path)
    assert told.count("Started") == told.count("Stopped") == 1
    assert not {"Crashed", "Restarting"} & set(told)


@pytest.mark.parametrize("stop_first", [False, True])
@pytest.mark.parametrize("pause", [0, 1, 2, 3])
@pytest.mark.parametrize("whole_tree", [False, True])
async def test_q16_a_crash_in_the_tick_of_the_stop(whole_tree: bool, pause: int, stop_first: bool) -> None:
    """A kill and a stop at one moment, in both orders: the end is stopped, and nothing begins after the stop."""
    seen: list[events.Event] = []
    async with creche.open_runtime("t") as runtime:
        runtime.events.subscribe(seen.append)
        probe = await runtime.start(creche.child(Probe))
        async with trio.open_nursery() as nursery:
            if not stop_first:
                runtime.kill(probe, "at that moment")
                await ticks(pause)
            if not whole_tree:
                nursery.start_soon(runtime.stop, probe)
            if stop_first:
                await ticks(pause)
                runtime.kill(probe, "at that moment")
    assert kinds(seen, probe.path)[-1] == "Stopped"
    assert kinds(seen, probe.path).count("Stopped") == 1
    assert cell_of(probe).state is State.STOPPED


async def test_q16_a_sibling_that_crashes_before_its_turn(autojump_clock: MockClock) -> None:
    """While the tree stops from the right, a child further left that crashes is not restarted for the rest of it."""
    log: list[str] = []
    async with trio.open_nursery() as outside:
        async with creche.open_runtime("t", root=tree(log, "abc", leaving=2)) as runtime:

            async def crash_later() -> None:
                await trio.sleep(1)
                assert log == ["+a1", "+b1", "+c1"]
                assert runtime.kill("root/a", "while c takes its time to leave")

            outside.start_soon(crash_later)
    assert log[:3] == ["+a1", "+b1", "+c1"]
    assert sorted(log[3:]) == ["-a1", "-b1", "-c1"]


async def test_q16_a_pending_restart_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    """A tree that is left while children sit out a backoff or wait for their group ends at once; none starts again."""
    log: list[str] = []
    children = [creche.child(Named, log, name).options(name=name, backoff=DOWN) for name in "abc"]
    sub = supervisor("sub", *children, strategy="rest_for_one")
    lonely = creche.child(Named, log, "l").options(name="l", backoff=DOWN)
    async with creche.open_runtime("t", root=supervisor("root", sub, lonely)) as runtime:
        for victim in ("root/sub/b", "root/l"):
            runtime.kill(victim, "down for ten seconds")
        await settle()
        assert [runtime.node_of(path).state for path in ("root/sub/b", "root/l")] == [State.WAITING, State.DOWN]
    assert trio.current_time() == 0
    assert [line for line in log if line.endswith("2")] == []


# --- Q17: stopping a permanent child --------------------------------------------------------------


class SlowToReturn(Named):
    """Gets ready at once in its first life, and takes five seconds in later ones."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        if self.context.incarnation > 1:
            await trio.sleep(5)
        async with super().lifespan():
            yield


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one"])
@pytest.mark.parametrize("when", ["idle", "busy", "dying", "down", "starting", "starting anew"])
async def test_q17_an_explicit_stop_is_final(when: str, strategy: Strategy, autojump_clock: MockClock) -> None:
    """A permanent child that is stopped stays stopped, whatever it was doing, and also when its supervisor restarts."""
    log: list[str] = []
    spec = creche.child(SlowToReturn, log, "x", 1).options(name="x", backoff=DOWN, drain=1, shutdown=2)
    sub = supervisor("sub", creche.child(Probe), spec, strategy=strategy, intensity=MANY)
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime, trio.open_nursery() as nursery:
        actor = reach(runtime, "root/sub/x", Named)
        if when == "busy":
            asking(nursery, actor.ask.hold, Gate())
            await settle()
        elif when == "starting anew":
            runtime.kill("root/sub", "so that all starts anew")
            await cell_of(actor).wait_for(State.STARTING)
        elif when != "idle":
            runtime.kill(actor, "down")
            reached = {"dying": State.RUNNING, "starting": State.STARTING}
            await cell_of(actor).wait_for(reached.get(when, State.DOWN), State.WAITING)
        await runtime.stop(actor)
        assert cell_of(actor).state is State.STOPPED
        with pytest.raises(creche.ActorStopped):
            await actor.ask.life()
        runtime.kill("root/sub", "with what is left in it")
        await trio.sleep(100)
        assert cell_of(actor).state is State.STOPPED
        assert log == ["+x1", "-x1"]


# --- Q18: start order and readiness ---------------------------------------------------------------


@pytest.mark.parametrize("where", ["init", "enter", "nursery"])
@pytest.mark.parametrize("at_run_time", [False, True])
async def test_q18_a_child_that_fails_to_start_takes_back_those_before_it(where: str, at_run_time: bool) -> None:
    """However a child fails before it is ready, the start raises from that error, and what had started has stopped."""
    log: list[str] = []
    good = [creche.child(Named, log, name).options(name=name) for name in "ab"]
    sub = supervisor("sub", *good, creche.child(Named, log, "c", 0, where))
    if at_run_time:
        async with creche.open_runtime("t", intensity=NEVER) as runtime:
            with pytest.raises(creche.StartFailed) as caught:
                await runtime.start(sub)
            assert runtime.tree().children == ()
        error: BaseException | None = caught.value
    else:
        with pytest.raises(creche.TreeFailed) as failed:
            async with creche.open_runtime("t", root=supervisor("root", sub)):
                raise AssertionError("not reached")
        error = failed.value
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, Boom)
    assert log == ["+a1", "+b1", "-b1", "-a1"]


@pytest.mark.parametrize("where", ["init", "enter", "nursery"])
async def test_q18_a_failed_start_of_a_successor_is_a_crash(where: str, autojump_clock: MockClock) -> None:
    """What a restarted child raises before it is ready counts as a crash: charged, delayed, tried again."""
    seen: list[events.Event] = []
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", intensity=creche.Intensity(2, 1000)) as runtime:
            runtime.events.subscribe(seen.append)
            actor = await runtime.start(creche.child(Named, [], "x", 0, where, 2).options(name="x"))
            runtime.kill(actor, "once")
            assert await actor.ask.life() == 3
            assert [event.delay > 0 for event in seen if isinstance(event, events.Restarting)] == [False, True]
            actor.cast_nowait(Probe.crash, "one too many")
            await trio.sleep_forever()
    assert kinds(seen, "root/x").count("Crashed") == 3


@pytest.mark.parametrize("shielded", [False, True])
@pytest.mark.parametrize("pause", [0, 1, 2, 3])
async def test_q18_a_start_into_a_cancelled_nursery(pause: int, shielded: bool, autojump_clock: MockClock) -> None:
    """A start whose caller's nursery is cancelled, before or meanwhile, neither hangs nor leaves anything behind."""
    log: list[str] = []

    class Slow(Named):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            with trio.CancelScope(shield=shielded):
                await trio.sleep(3)
            async with super().lifespan():
                yield

    async with creche.open_runtime("t") as runtime:
        async with trio.open_nursery() as nursery:
            if not pause:
                nursery.cancel_scope.cancel()
            nursery.start_soon(runtime.start, creche.child(Slow, log, "x"))
            nursery.start_soon(runtime.start, supervisor("sub", creche.child(Slow, log, "y")))
            await ticks(pause)
            nursery.cancel_scope.cancel()
        await trio.sleep(10)
        assert runtime.tree().children == ()
        assert sorted(line[1:] for line in log if line[0] == "+") == sorted(line[1:] for line in log if line[0] == "-")


async def test_q18_a_mailbox_that_is_full_before_the_start_is_ready() -> None:
    """Mail that fills the mailbox while the actor starts, its own included, does not block the start."""
    log: list[str] = []

    class Eager(Probe):
        def __init__(self, log: list[str]) -> None:
            super().__init__(log)
            self.context.handle.cast_nowait(Probe.note, "from init")

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            async with trio.open_nursery() as nursery:
                asking(nursery, self.context.handle.cast, Probe.note, "waits for room")
                await settle()
                yield

    async with creche.open_runtime("t") as runtime:
        eager = await runtime.start(creche.child(Eager, log).options(mailbox=1))
        await eager.ask.life()
        assert log == ["from init", "waits for room"]


# --- Q19: dependencies ----------------------------------------------------------------------------


async def test_q19_weather_costs_no_budget(autojump_clock: MockClock) -> None:
    """A backend that is down is Unavailable for everybody along the chain, as often as they ask; nobody restarts."""

    async def down(probe: Probe) -> None:
        raise creche.Unavailable("redis", "connection refused", 1)

    async with creche.open_runtime("t", intensity=NEVER) as runtime:
        backend = await runtime.start(creche.child(Probe).options(name="backend"))

        async def through(probe: Probe) -> None:
            await backend.ask.run(down)

        service = await runtime.start(creche.child(Probe).options(name="service"))
        for _ in range(50):
            with pytest.raises(creche.Unavailable) as caught:
                await service.ask.run(through)
            assert caught.value.retry_after == 1
            service.cast_nowait(Probe.run, through)
        assert [await backend.ask.life(), await service.ask.life()] == [1, 1]


async def test_q19_those_that_were_started_after_it_restart_with_it(autojump_clock: MockClock) -> None:
    """Under rest_for_one what may hold something of the crashed child ends before it restarts, last to first."""
    log: list[str] = []
    async with creche.open_runtime("t", root=tree(log, "abcd", "rest_for_one", 1)) as runtime:
        runtime.kill("root/b", "now")
        await trio.sleep(10)
    first, restart, _ = log[:4], log[4:10], log[10:]
    assert first == ["+a1", "+b1", "+c1", "+d1"]
    assert sorted(restart[:3]) == ["-b1", "-c1", "-d1"]
    assert restart.index("-d1") < restart.index("-c1")
    assert restart[3:] == ["+b2", "+c2", "+d2"]


# --- Q20: the arithmetic of budgets ---------------------------------------------------------------


@pytest.mark.parametrize(("inner", "outer", "crashes"), [(0, 0, 1), (1, 0, 2), (1, 1, 4), (2, 1, 6), (1, 2, 6)])
async def test_q20_budgets_multiply_down_the_tree(
    inner: int, outer: int, crashes: int, autojump_clock: MockClock
) -> None:
    """A crash loop is stopped after (inner + 1) * (outer + 1) crashes: the product of what the levels allow."""
    window = 1000.0
    spec = creche.child(Named, [], "x", 0, "background").options(name="x")
    sub = supervisor("sub", spec, intensity=creche.Intensity(inner, window))
    root = supervisor("root", sub, intensity=creche.Intensity(outer, window))
    seen: list[events.Event] = []
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("t", root=root) as runtime:
            runtime.events.subscribe(seen.append)
            await trio.sleep_forever()
    assert kinds(seen, "root/sub/x").count("Crashed") == crashes


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
async def test_q20_a_group_restart_is_one_event(strategy: Strategy, autojump_clock: MockClock) -> None:
    """A crash that takes five others with it is charged once (an older runtime charged each, and gave up at once)."""
    log: list[str] = []
    children = [creche.child(Named, log, name).options(name=name) for name in "abcdef"]
    root = supervisor("root", *children, strategy=strategy, intensity=creche.Intensity(3, 1000))
    async with creche.open_runtime("t", root=root) as runtime:
        for life in (2, 3, 4):
            runtime.kill("root/a", "and so all")
            await trio.sleep(10)
            assert [node.incarnation for node in runtime.root.children()] == [life] * 6
        assert runtime.ready


async def test_q20_the_window_is_of_virtual_time(autojump_clock: MockClock) -> None:
    """Crashes spread over more than the window are never too many, however little real time they take."""
    async with creche.open_runtime("t", intensity=creche.Intensity(1, 60)) as runtime:
        probe = await runtime.start(creche.child(Probe))
        for life in range(1, 50):
            runtime.kill(probe, "once a minute")
            assert await probe.ask.life() == life + 1
            await trio.sleep(60)


@pytest.mark.parametrize(("healthy", "delays"), [(9.0, [1.0, 2.0, 4.0]), (11.0, [1.0, 1.0, 1.0])])
async def test_q20_health_resets_the_backoff(healthy: float, delays: list[float], autojump_clock: MockClock) -> None:
    """Only an incarnation that has been up for `reset_after` begins the row of delays anew."""
    backoff = creche.Backoff(first=1, factor=2, free=0, jitter=0, reset_after=10)
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff))
        for _ in delays:
            await trio.sleep(healthy)
            runtime.kill(probe, "again")
            await probe.ask.life()
        assert [event.delay for event in seen if isinstance(event, events.Restarting)] == delays


@pytest.mark.parametrize(("restart", "charged"), [("permanent", True), ("transient", True), ("temporary", False)])
async def test_q20_only_restarts_are_charged(restart: Restart, charged: bool) -> None:
    """What is not restarted costs nothing; what is, costs one, whatever ended it."""
    async with creche.open_runtime("t", intensity=creche.Intensity(1, 1000)) as runtime:
        seen = recorded(runtime)
        for number in range(1 if charged else 5):
            probe = await runtime.start(creche.child(Probe).options(name=f"n{number}", restart=restart))
            runtime.kill(probe, "now")
            await settle()
        assert ("Restarting" in [event.kind for event in seen]) is charged
        assert runtime.ready
