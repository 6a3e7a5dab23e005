"""Dynamic supervisors: children that come and go, up to tens of thousands."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import LONG, Boom, Gate, Probe, asking, becomes, cell_of, kinds, recorded, settle

MANY = creche.Intensity(100_000, 1)


class Session(Probe):
    """May fail to start, and may take its time to end."""

    def __init__(self, log: list[str] | None = None, start: str = "", end_in: float = 0.0) -> None:
        super().__init__(log)
        self.start = start
        self.end_in = end_in

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        if self.start == "fails":
            raise Boom("no start")
        if self.start == "hangs":
            await trio.sleep_forever()
        yield
        await trio.sleep(self.end_in)
        self.log.append(self.context.path)


@asynccontextmanager
async def crowd(
    max_children: int | None = None, **options: Any
) -> AsyncIterator[tuple[creche.Runtime, creche.DynamicSupervisor]]:
    spec = creche.dynamic_supervisor("sessions", max_children=max_children, intensity=MANY)
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        yield runtime, await runtime.start(spec.options(**options))


async def test_children_come_and_go() -> None:
    """`start` returns when the child is ready, with its typed handle; `stop` when it has ended, by handle or name."""
    async with crowd() as (runtime, sessions):
        assert (len(sessions), bool(sessions), sessions.children()) == (0, True, ())
        first = await sessions.start(creche.child(Probe))
        second = await sessions.start(creche.child(Probe))
        third = await sessions.start(creche.child(Probe).options(name="third"))
        assert [one.path for one in (first, second, third)] == [f"root/sessions/{name}" for name in sessions.children()]
        assert sessions.children() == ("probe", "probe-2", "third")
        found = sessions.get("third", Probe)
        assert found is not None
        assert await found.ask.life() == 1
        assert sessions.get("fourth", Probe) is None
        await sessions.stop(first)
        await sessions.stop("third")
        await sessions.stop(first)
        assert (len(sessions), sessions.children()) == (1, ("probe-2",))
        assert runtime.handle(second.path, Probe).path == second.path


async def test_a_dynamic_child_that_crashes_restarts_alone() -> None:
    """As its own spec says; a temporary or transient one that is done is forgotten."""
    async with crowd() as (_, sessions):
        stays = await sessions.start(creche.child(Probe))
        goes = await sessions.start(creche.child(Probe).options(restart="temporary"))
        for probe in (stays, goes):
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash()
        assert await stays.ask.life() == 2
        await becomes(cell_of(goes), State.STOPPED)
        assert sessions.children() == ("probe",)


async def test_wait_tells_how_a_child_has_ended() -> None:
    """`wait` returns after a stop, and raises `ActorStopped` from the failure that ended the child."""
    async with crowd() as (_, sessions), trio.open_nursery() as nursery:
        stopped = await sessions.start(creche.child(Probe))
        failed = await sessions.start(creche.child(Probe).options(restart="temporary"))
        waits = [asking(nursery, sessions.wait, one) for one in (stopped, failed, "probe-2")]
        await settle()
        await sessions.stop(stopped)
        with pytest.raises(creche.OutcomeUnknown):
            await failed.ask.crash("the end")
        assert [await wait.settled() for wait in waits] == ["value", "ActorStopped", "ActorStopped"]
        for wait in waits[1:]:
            assert wait.error is not None
            assert repr(wait.error.__cause__) == "Boom('the end')"
        await sessions.wait(stopped)  # also afterwards


async def test_waiting_for_a_supervisor_among_the_children() -> None:
    """A child may be a whole supervisor; its final cause is that it gave up."""
    async with crowd() as (runtime, sessions):
        family = creche.supervisor("family", creche.child(Probe), intensity=creche.Intensity(0, 1))
        handle = await sessions.start(family.options(restart="temporary"))
        with pytest.raises(creche.OutcomeUnknown):
            await runtime.handle("root/sessions/family/probe", Probe).ask.crash()
        with pytest.raises(creche.ActorStopped) as caught:
            await sessions.wait(handle)
        assert type(caught.value.__cause__).__name__ == "IntensityExceeded"
        assert "more than 0 restarts" in str(caught.value.__cause__)


async def test_max_children_is_the_limit() -> None:
    """One more is `TooManyChildren(path, limit)`: nothing was started; there is room when one has ended."""
    async with crowd(max_children=2) as (_, sessions):
        assert sessions.max_children == 2
        first = await sessions.start(creche.child(Probe))
        await sessions.start(creche.child(Probe))
        with pytest.raises(creche.TooManyChildren, match="has 2 children") as caught:
            await sessions.start(creche.child(Probe))
        assert (caught.value.path, caught.value.limit, caught.value.reason) == ("root/sessions", 2, "overflow")
        assert isinstance(caught.value, creche.NotDelivered)
        await sessions.stop(first)
        await sessions.start(creche.child(Probe))
        assert len(sessions) == 2


async def test_a_child_that_starts_counts_for_the_limit(autojump_clock: MockClock) -> None:
    """Two starts at once cannot both take the last place."""
    async with crowd(max_children=1) as (_, sessions), trio.open_nursery() as nursery:
        starts = [asking(nursery, sessions.start, creche.child(Session, None, "hangs")) for _ in range(2)]
        await settle()
        assert sorted(start.what for start in starts) == ["TooManyChildren", "pending"]
        for start in starts:
            start.scope.cancel()
        await settle()
        assert len(sessions) == 0


async def test_too_many_children_in_a_handler_is_no_crash() -> None:
    """It is a call error of a peer: the caller gets `PeerFailed`, and the actor lives."""
    async with crowd(max_children=1) as (runtime, sessions):
        await sessions.start(creche.child(Probe))

        async def start_one(_: Probe) -> None:
            await sessions.start(creche.child(Probe))

        gateway = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.PeerFailed):
            await gateway.ask.run(start_one)
        assert await gateway.ask.life() == 1


async def test_a_dynamic_child_that_cannot_start_is_gone() -> None:
    """`StartFailed` from the cause; the supervisor goes on."""
    async with crowd() as (_, sessions):
        with pytest.raises(creche.StartFailed) as caught:
            await sessions.start(creche.child(Session, None, "fails"))
        assert isinstance(caught.value.__cause__, Boom)
        assert len(sessions) == 0
        await sessions.start(creche.child(Probe))


async def test_dynamic_children_stop_all_at_once(autojump_clock: MockClock) -> None:
    """Each has its own drain and shutdown time, and those of all pass together."""
    log: list[str] = []
    async with crowd() as (runtime, sessions):
        for number in range(20):
            await sessions.start(creche.child(Session, log, "", 3.0 - number / 10))
        begun = trio.current_time()
        await runtime.stop(sessions)
        assert trio.current_time() - begun == pytest.approx(3)
        assert log == [f"root/sessions/session-{number}" for number in range(20, 1, -1)] + ["root/sessions/session"]


async def test_each_dynamic_child_has_its_own_time_to_stop(autojump_clock: MockClock) -> None:
    """One that does not drain in time is cancelled, the others finish."""
    async with crowd() as (runtime, sessions), trio.open_nursery() as nursery:
        gates = [Gate(), Gate()]
        quick = await sessions.start(creche.child(Probe).options(drain=1))
        slow = await sessions.start(creche.child(Probe).options(drain=100))
        replies = [asking(nursery, one.ask.hold, gate) for one, gate in zip((quick, slow), gates, strict=True)]
        await settle()
        nursery.start_soon(runtime.stop, sessions)
        assert await replies[0].settled() == "OutcomeUnknown"
        await trio.sleep(50)
        gates[1].opened.set()
        assert await replies[1].settled() == "value"


async def test_dynamic_children_end_with_their_supervisor() -> None:
    """After a crash of its own it is empty and takes new ones; the handle stays valid, those of the children do not."""
    async with crowd() as (runtime, sessions):
        old = await sessions.start(creche.child(Probe))
        runtime.kill(sessions, "k")
        new = await sessions.start(creche.child(Probe).options(name="new"))
        assert sessions.children() == ("new",)
        assert await new.ask.life() == 1
        with pytest.raises(creche.ActorStopped):
            await old.ask.life()


async def test_giving_up_ends_all_dynamic_children(autojump_clock: MockClock) -> None:
    """More crashes than its intensity allows are a crash of the supervisor, which its own supervisor judges."""
    spec = creche.dynamic_supervisor("sessions", intensity=creche.Intensity(2, 10))
    async with creche.open_runtime("t") as runtime:
        sessions = await runtime.start(spec)
        seen = recorded(runtime)
        probes = [await sessions.start(creche.child(Probe)) for _ in range(5)]
        for probe in probes[:3]:
            runtime.kill(probe, "k")
        await probes[4].wait_stopped()
        await settle()
        assert len(sessions) == 0
        assert kinds(seen, sessions.path) == ["Escalated", "Crashed", "Restarting", "Started", "Ready"]


async def test_who_starts_a_child_while_the_supervisor_is_down_waits(autojump_clock: MockClock) -> None:
    """At most `down_wait`, then it is `NotDelivered("crash", retry_after)`; with `while_down="reject"` at once."""
    slow = creche.Backoff(first=3, jitter=0, free=0)
    for while_down, down_wait, outcome in (
        ("wait", 5, "value"),
        ("wait", 1, "NotDelivered"),
        ("reject", 5, "NotDelivered"),
    ):
        options: dict[str, Any] = {"backoff": slow, "while_down": while_down, "down_wait": down_wait}
        async with crowd(**options) as (runtime, sessions), trio.open_nursery() as nursery:
            runtime.kill(sessions, "k")
            await becomes(runtime.node_of(sessions), State.DOWN)
            begun = trio.current_time()
            start = asking(nursery, sessions.start, creche.child(Probe))
            assert await start.settled() == outcome
            waited = 0 if while_down == "reject" else min(3, down_wait)
            assert trio.current_time() - begun == pytest.approx(waited)
            if start.error is not None:
                assert isinstance(start.error, creche.NotDelivered)
                assert start.error.reason == "crash"
                assert start.error.retry_after == pytest.approx(3 - waited)
            await becomes(runtime.node_of(sessions), State.RUNNING)


async def test_a_parked_dynamic_supervisor_refuses_at_once(autojump_clock: MockClock) -> None:
    """`NotDelivered("parked", retry_after)`; it is tried again, and takes children when it is up."""
    spec = creche.dynamic_supervisor("sessions", intensity=creche.Intensity(0, 1))
    probe = creche.Backoff(first=30, jitter=0, free=0)
    async with creche.open_runtime("t") as runtime:
        sessions = await runtime.start(spec.options(on_exhausted="park", probe=probe))
        runtime.kill(await sessions.start(creche.child(Probe)), "k")
        await becomes(runtime.node_of(sessions), State.PARKED)
        with pytest.raises(creche.NotDelivered) as caught:
            await sessions.start(creche.child(Probe))
        assert caught.value.reason == "parked"
        assert caught.value.retry_after == pytest.approx(30)
        await trio.sleep(31)
        await sessions.start(creche.child(Probe))


async def test_a_dynamic_supervisor_that_stops_takes_no_children(autojump_clock: MockClock) -> None:
    """While it stops: `NotDelivered("closed")` at once: a child in its last message must not wait for itself."""
    async with crowd() as (runtime, sessions), trio.open_nursery() as nursery:
        gate = Gate()
        told: list[str] = []

        async def start_another(probe: Probe) -> None:
            await gate.hold()
            try:
                await sessions.start(creche.child(Probe))
            except creche.NotDelivered as error:
                told.append(error.reason)

        probe = await sessions.start(creche.child(Probe))
        reply = asking(nursery, probe.ask.run, start_another)
        await gate.entered.wait()
        nursery.start_soon(runtime.stop, sessions)
        await settle()
        gate.opened.set()
        assert await reply.settled() == "value"
        assert told == ["closed"]
        await becomes(runtime.node_of(sessions), State.STOPPED)
        with pytest.raises(creche.ActorStopped):
            await sessions.start(creche.child(Probe))


async def test_a_child_does_not_wait_for_its_own_supervisor(autojump_clock: MockClock) -> None:
    """Who starts a sibling while their supervisor goes down is refused at once: it waits for the handler that asks."""
    spec = creche.dynamic_supervisor("sessions", intensity=creche.Intensity(0, 1))
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        sessions, gate = await runtime.start(spec), Gate()

        async def start_another(_: Probe) -> str:
            await gate.hold()
            try:
                await sessions.start(creche.child(Probe))
            except creche.NotDelivered as error:
                return error.reason
            return "started"

        probe = await sessions.start(creche.child(Probe))
        reply = asking(nursery, probe.ask.run, start_another)
        await gate.entered.wait()
        begun = trio.current_time()
        runtime.kill(await sessions.start(creche.child(Probe)), "k")  # one too many
        await settle()
        gate.opened.set()
        assert (await reply.settled(), reply.value) == ("value", "crash")
        await sessions.start(creche.child(Probe))  # somebody else waits until it is up again
        assert trio.current_time() == begun


async def test_a_child_cannot_wait_for_its_own_end() -> None:
    """Neither by `stop` nor by `wait`: `CallCycle`."""
    async with crowd() as (_, sessions):
        for wait in (sessions.stop, sessions.wait):
            probe = await sessions.start(creche.child(Probe).options(restart="temporary"))

            async def of_itself(this: Probe, wait: Callable[[object], Awaitable[None]] = wait) -> None:
                await wait(this.context.handle)

            with pytest.raises(creche.OutcomeUnknown) as caught:
                await probe.ask.run(of_itself)
            assert isinstance(caught.value.__cause__, creche.CallCycle)


async def test_what_is_no_child_is_refused() -> None:
    """By name a `KeyError`, by handle `SpecInvalid`; a handle that has not been bound is `NotStarted`."""
    async with crowd() as (runtime, sessions):
        other = await runtime.start(creche.child(Probe))
        for use in (sessions.stop, sessions.wait):
            with pytest.raises(KeyError):
                await use("nobody")
            with pytest.raises(creche.SpecInvalid, match="no child of root/sessions"):
                await use(other)
            with pytest.raises(creche.NotStarted):
                await use(creche.child(Probe).new_handle())
        with pytest.raises(creche.SpecInvalid, match=r"creche\.child"):
            await sessions.start(cast("Any", Probe))
        with pytest.raises(creche.NotStarted):
            len(creche.dynamic_supervisor("x").new_handle())
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(creche.SpecInvalid):
                creche.dynamic_supervisor("x", max_children=cast("Any", wrong))


async def test_a_static_dynamic_supervisor_is_found_by_path() -> None:
    """`runtime.handle(path, spec)` hands out what the spec would; something else there is `SpecInvalid`."""
    sessions = creche.dynamic_supervisor("sessions")
    async with creche.open_runtime("t", root=creche.supervisor("root", sessions, creche.child(Probe))) as runtime:
        handle = runtime.handle("root/sessions", sessions)
        await handle.start(creche.child(Probe))
        assert len(handle) == 1
        with pytest.raises(creche.SpecInvalid, match="no dynamic supervisor"):
            runtime.handle("root/probe", sessions)
        with pytest.raises(KeyError):
            runtime.handle("root/sessions/nobody", sessions)


async def test_a_dynamic_supervisor_in_an_app() -> None:
    """Its handle is given to those who need it, before anything runs."""

    class Gateway(Probe):
        def __init__(self, sessions: creche.DynamicSupervisor) -> None:
            super().__init__()
            self.sessions = sessions

        async def connect(self, name: str) -> creche.Handle[Probe]:
            return await self.sessions.start(creche.child(Probe).options(name=name))

    app = creche.App("t")
    sessions = app.use(creche.dynamic_supervisor("sessions"))
    gateway = app.use(creche.child(Gateway, sessions))
    async with app.open():
        session = await gateway.ask.connect("ann")
        assert session.path == "root/service/sessions/ann"
        assert await session.ask.life() == 1


async def test_tens_of_thousands_of_children() -> None:
    """Starts, stops and crashes do not become dearer, and nothing is left of those that have gone."""

    class Session(Probe):
        """Of this test alone: others' actors may still be referred to."""

    async with crowd() as (_, sessions):
        spec = creche.child(Session).options(restart="temporary")
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(_start_and_end, sessions, spec, 200)
        assert len(sessions) == 10_000
        gc.collect()
        assert sum(isinstance(thing, Session) for thing in gc.get_objects()) == 10_000
    gc.collect()
    assert not any(isinstance(thing, Session) for thing in gc.get_objects())


async def _start_and_end(sessions: creche.DynamicSupervisor, spec: creche.Spec[creche.Handle[Any]], count: int) -> None:
    for number in range(count):
        probe = await sessions.start(spec)
        if number % 4 == 0:
            await sessions.stop(probe)
        elif number % 4 == 1:
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash()


async def test_who_stops_children_one_after_the_other_starves_nobody() -> None:
    """Each stop lets others run."""
    async with crowd() as (_, sessions), trio.open_nursery() as nursery:
        steps: list[int] = []

        async def step() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                steps.append(len(sessions))

        children = [await sessions.start(creche.child(Probe)) for _ in range(20)]
        nursery.start_soon(step)
        for child in children:
            await sessions.stop(child)
        nursery.cancel_scope.cancel()
        assert len(set(steps)) > 5


# --- cancelled everywhere ---------------------------------------------------------------------------------------------


async def _crowd_is_idle(runtime: creche.Runtime, sessions: creche.DynamicSupervisor, expected: int) -> None:
    await settle()
    assert len(sessions) == expected
    await prove_idle(runtime)


def test_the_start_of_a_dynamic_child_is_cancelled_everywhere() -> None:
    """The child is there, or it has been stopped again."""

    async def scenario(strike: Strike) -> None:
        async with crowd() as (runtime, sessions):
            end = await strike.cancel(sessions.start, creche.child(Session))
            assert end.what in ("value", "cancelled")
            await trio.sleep(LONG)
            await _crowd_is_idle(runtime, sessions, int(end.what == "value"))

    everywhere(scenario)


def test_the_stop_and_the_wait_for_a_dynamic_child_are_cancelled_everywhere() -> None:
    """A stop goes on, a wait leaves nothing."""

    async def scenario(strike: Strike, what: str) -> None:
        async with crowd() as (runtime, sessions), trio.open_nursery() as nursery:
            child = await sessions.start(creche.child(Session, None, "", 1.0))
            if what == "wait":
                nursery.start_soon(sessions.stop, child)
            end = await strike.cancel(getattr(sessions, what), child)
            assert end.what in ("value", "cancelled")
            if end.what == "cancelled":
                await trio.sleep(LONG)
            stops = what == "wait" or len(sessions) == 0
            await _crowd_is_idle(runtime, sessions, int(not stops))

    for what in ("stop", "wait"):
        everywhere(scenario, what)


def test_a_start_while_the_supervisor_is_down_is_cancelled_everywhere() -> None:
    """Whoever waits for it can leave at any moment."""

    async def scenario(strike: Strike) -> None:
        async with crowd(backoff=creche.Backoff(first=1, jitter=0, free=0)) as (runtime, sessions):
            runtime.kill(sessions, "k")
            await becomes(runtime.node_of(sessions), State.DOWN)
            end = await strike.cancel(sessions.start, creche.child(Probe))
            assert end.what in ("value", "cancelled")
            await trio.sleep(LONG)
            await _crowd_is_idle(runtime, sessions, int(end.what == "value"))

    everywhere(scenario)


def test_a_kill_hits_the_start_of_a_dynamic_child_everywhere() -> None:
    """A supervisor that crashes while somebody starts a child: an outcome, and nothing is left over."""

    async def scenario(strike: Strike) -> None:
        async with crowd() as (runtime, sessions):
            end = await strike.hit(
                lambda: runtime.kill(sessions, "k"), sessions.start, creche.child(Session, None, "", 0.5)
            )
            assert end.what in ("value", "StartFailed", "NotDelivered"), end.what
            await trio.sleep(LONG)
            await settle()
            assert len(sessions) <= 1
            await prove_idle(runtime)

    everywhere(scenario)
