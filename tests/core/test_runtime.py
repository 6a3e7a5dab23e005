"""The block that holds a runtime open: how it is entered, left, and what comes out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.errors import IntensityExceeded, SpecInvalid
from creche.supervisors.spec import supervisor
from tests.core.support import Boom, Gate, Probe, asking, cell_of, reach, recorded, settle


class Leaving(Probe):
    """Notes when its lifespan is left."""

    def __init__(self, log: list[str], name: str, seconds: float = 1) -> None:
        super().__init__(log)
        self.name, self.seconds = name, seconds

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        await trio.sleep(self.seconds)
        self.log.append(self.name)


class Hanging(Probe):
    """Never gets ready, unless it is let go."""

    def __init__(self, gate: Gate | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self.gate.hold()
        yield


@pytest.mark.parametrize("how", ["normally", "error", "cancelled"])
async def test_the_block_stops_the_tree_in_order(how: str, autojump_clock: MockClock) -> None:
    """However the block is left, the tree stops in reverse order first, each with its time, and nothing is
    left running."""
    log: list[str] = []
    runtime = None
    with trio.CancelScope() as scope:
        try:
            async with creche.open_runtime("t") as runtime:
                for name in ("a", "b", "c"):
                    await runtime.start(creche.child(Leaving, log, name))
                if how == "error":
                    raise Boom("of the body")
                if how == "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
        except Boom:
            log.append("raised")
    assert log == ["c", "b", "a", "raised"] if how == "error" else ["c", "b", "a"]
    assert trio.current_time() == 3
    assert scope.cancelled_caught is (how == "cancelled")
    assert runtime is not None
    assert {node.state for node in runtime.tree()} == {"stopped"}


async def test_a_cancelled_body_still_lets_mail_finish(autojump_clock: MockClock) -> None:
    """When the body is cancelled while the tree is busy, messages in hand and waiting are finished in their
    drain time."""
    log: list[str] = []

    async def body(probe: Probe) -> None:
        await trio.sleep(2)
        log.append("finished")

    with trio.move_on_after(1):
        async with creche.open_runtime("t") as runtime:
            probe = await runtime.start(creche.child(Probe, log))
            probe.cast_nowait(Probe.run, body)
            probe.cast_nowait(Probe.note, "and the next")
            await trio.sleep_forever()
    assert log == ["finished", "and the next"]
    assert trio.current_time() == 2


async def test_errors_of_the_body_come_out_as_they_are() -> None:
    """What the block raises leaves it as the same object, groups included; the tree adds no wrapping."""
    for error in (Boom("alone"), ExceptionGroup("of the body", [Boom("in a group")])):
        with pytest.raises(type(error)) as caught:
            async with creche.open_runtime("t"):
                raise error
        assert caught.value is error


async def test_root_giving_up_fails_the_tree(autojump_clock: MockClock) -> None:
    """When the root gives up, the body is cancelled and TreeFailed leaves the block; `__cause__` leads to the
    first cause."""
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("t", intensity=creche.Intensity(0, 5)) as runtime:
            probe = await runtime.start(creche.child(Probe))
            probe.cast_nowait(Probe.crash, "the first cause")
            await trio.sleep_forever()
    exceeded = caught.value.__cause__
    assert isinstance(exceeded, IntensityExceeded)
    assert (exceeded.path, exceeded.restarts, exceeded.window) == ("root", 0, 5)
    assert [line.partition(" s ")[2] for line in exceeded.history] == ["root/probe#1: Boom: the first cause"]
    assert repr(exceeded.__cause__) == "Boom('the first cause')"


@pytest.mark.parametrize("in_a_nursery", [False, True])
async def test_root_giving_up_fails_the_tree_while_the_body_calls(in_a_nursery: bool) -> None:
    """The same, each time, when the body itself waits for a call that fails with the tree: TreeFailed comes out."""
    for _ in range(10):
        with pytest.raises(creche.TreeFailed):
            async with creche.open_runtime("t", intensity=creche.Intensity(0, 5)) as runtime:
                probe = await runtime.start(creche.child(Probe))
                if in_a_nursery:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(probe.ask.crash)
                await probe.ask.crash()


async def test_root_giving_up_does_not_hide_the_bodys_own_error() -> None:
    """An error of the body's own that comes with a failing tree is not lost: both leave the block in a group."""
    with pytest.raises(ExceptionGroup) as caught:
        async with creche.open_runtime("t", intensity=creche.Intensity(0, 5)) as runtime:
            probe = await runtime.start(creche.child(Probe))
            try:
                await probe.ask.crash()
            finally:
                raise Boom("of the body")
    assert {type(error) for error in caught.value.exceptions} == {creche.TreeFailed, Boom}


async def test_a_killed_root_fails_the_tree() -> None:
    """Killing the root is its failure: there is nobody above it."""
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("t") as runtime:
            await runtime.start(creche.child(Probe))
            runtime.kill("root", "everything")
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, creche.Killed)


async def test_a_tree_that_cannot_start_fails() -> None:
    """A static child that fails to start fails the block before its body runs, with StartFailed and its cause."""
    log: list[str] = []

    class Failing(Probe):
        def __init__(self) -> None:
            raise Boom("cannot start")

    root = supervisor("root", creche.child(Leaving, log, "a", 0), creche.child(Failing))
    with pytest.raises(creche.TreeFailed) as caught:
        async with creche.open_runtime("t", root=root):
            raise AssertionError("the body has run")
    assert isinstance(caught.value.__cause__, creche.StartFailed)
    assert isinstance(caught.value.__cause__.__cause__, Boom)
    assert log == ["a"]


async def test_opening_can_be_cancelled(autojump_clock: MockClock) -> None:
    """A tree whose start hangs does not hold its opener: a cancel stops what had started, in order."""
    log: list[str] = []
    gate = Gate()

    async def let_go() -> None:
        await trio.sleep(1000)
        gate.opened.set()

    root = supervisor("root", creche.child(Leaving, log, "a"), creche.child(Hanging, gate))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        with trio.move_on_after(5) as scope:
            async with creche.open_runtime("t", root=root):
                raise AssertionError("the body has run")
        nursery.cancel_scope.cancel()
    assert scope.cancelled_caught
    assert log == ["a"]
    assert trio.current_time() < 20


async def test_stop_within_bounds_the_tree(autojump_clock: MockClock) -> None:
    """After `stop_within` seconds everything that is left is cancelled at once."""

    async def body(probe: Probe) -> None:
        await trio.sleep(1000)

    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("t", stop_within=10) as runtime:
            seen = recorded(runtime)
            replies = []
            for _ in range(5):
                probe = await runtime.start(creche.child(Probe).options(drain=500))
                replies.append(asking(nursery, probe.ask.run, body))
            await settle()
        assert trio.current_time() == 10
        assert [await reply.settled() for reply in replies] == ["OutcomeUnknown"] * 5
    assert not [event for event in seen if isinstance(event, events.Crashed)]


async def test_start_fails_with_start_failed() -> None:
    """`runtime.start` raises StartFailed from the cause, and the child is gone; its name is free again."""

    class Failing(Probe):
        def __init__(self) -> None:
            raise Boom("cannot start")

    async with creche.open_runtime("t") as runtime:
        for _ in range(2):
            with pytest.raises(creche.StartFailed) as caught:
                await runtime.start(creche.child(Failing).options(name="failing"))
            assert caught.value.path == "root/failing"
            assert isinstance(caught.value.__cause__, Boom)
            assert [node.path for node in runtime.tree()] == ["root"]


async def test_start_of_a_taken_name_is_refused() -> None:
    """A name given by hand must be free."""
    async with creche.open_runtime("t") as runtime:
        await runtime.start(creche.child(Probe).options(name="a"))
        with pytest.raises(SpecInvalid, match="has a child of that name"):
            await runtime.start(creche.child(Probe).options(name="a"))


async def test_default_names_never_collide() -> None:
    """A number that is added to a default name gives no name that a child has already."""
    async with creche.open_runtime("t") as runtime:
        named = await runtime.start(creche.child(Probe).options(name="probe-2"))
        handles = [named, *[await runtime.start(creche.child(Probe)) for _ in range(3)]]
        assert len({handle.path for handle in handles}) == 4
        assert [runtime.node_of(handle.path) is runtime.node_of(handle) for handle in handles] == [True] * 4


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("ticks", range(10))
async def test_a_cancelled_start_leaves_nothing(ticks: int, nested: bool, autojump_clock: MockClock) -> None:
    """`runtime.start` can be cancelled at each of its checkpoints; what had started is stopped again."""
    async with creche.open_runtime("t") as runtime:
        child = creche.child(Hanging)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.start, supervisor("sub", child) if nested else child)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await settle()
        assert [node.path for node in runtime.tree()] == ["root"]
        assert trio.current_time() == 0


async def test_a_start_that_is_stopped_is_no_success(autojump_clock: MockClock) -> None:
    """When the tree stops while a child is being started, `runtime.start` raises instead of returning a dead handle."""
    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("t") as runtime:
            reply = asking(nursery, runtime.start, creche.child(Hanging))
            await settle()
        assert await reply.settled() in ("StartFailed", "ActorStopped")


async def test_a_crash_right_after_the_start_is_a_crash() -> None:
    """A child that is ready and crashes before its starter has looked is restarted as at any other time."""

    class Eager(Probe):
        def __init__(self) -> None:
            super().__init__()
            if self.context.incarnation == 1:
                self.context.handle.cast_nowait(Probe.crash)

    async with creche.open_runtime("t") as runtime:
        eager = await runtime.start(creche.child(Eager))
        assert await eager.ask.life() == 2


async def test_stop_is_final() -> None:
    """`runtime.stop` ends an actor for good, a permanent one too; its name is free again."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await runtime.stop(probe)
        with pytest.raises(creche.ActorStopped):
            await probe.ask.life()
        assert [node.path for node in runtime.tree()] == ["root"]
        again = await runtime.start(creche.child(Probe))
        assert again.path == probe.path


async def test_stop_is_idempotent() -> None:
    """Stopping what is stopped, or is being stopped, is fine."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(runtime.stop, probe)
        await runtime.stop(probe)


async def test_the_root_is_stopped_by_leaving_the_block() -> None:
    """`runtime.stop` of the root is refused with a reason."""
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(ValueError, match="block"):
            await runtime.stop("root")


async def test_stop_closes_then_drains(autojump_clock: MockClock) -> None:
    """A stop refuses new messages at once, lets those that wait be handled, and ends the actor then."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        in_hand = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, probe.ask.note, "queued")
        await settle()
        nursery.start_soon(runtime.stop, probe)
        await settle()
        with pytest.raises(creche.NotDelivered) as caught:
            await probe.ask.note("late")
        assert caught.value.reason == "closed"
        gate.opened.set()
        assert [await in_hand.settled(), await queued.settled()] == ["value", "value"]
        assert log == ["held", "queued"]


async def test_drain_deadline_then_cancel(autojump_clock: MockClock) -> None:
    """What is not done after `drain` seconds is cancelled: in hand is OutcomeUnknown, waiting is
    NotDelivered("closed")."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(drain=3))
        in_hand = asking(nursery, probe.ask.hold, Gate())
        await settle()
        queued = asking(nursery, probe.ask.note, "queued")
        await settle()
        await runtime.stop(probe)
        assert trio.current_time() == 3
        assert [await in_hand.settled(), await queued.settled()] == ["OutcomeUnknown", "NotDelivered"]
        assert isinstance(queued.error, creche.NotDelivered)
        assert queued.error.reason == "closed"
        assert [event.kind for event in seen][-1] == "Stopped"


async def test_unstopped_are_named(autojump_clock: MockClock) -> None:
    """Who does not end `drain` + `shutdown` seconds after he was asked is reported with path and stack, and
    waited for."""

    async def stubborn(probe: Probe) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async with trio.open_nursery() as nursery, creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe).options(drain=3, shutdown=4))
        asking(nursery, probe.ask.run, stubborn)
        await settle()
        await runtime.stop(probe)
        assert trio.current_time() == 100
        assert [unstopped.path for unstopped in runtime.unstopped] == ["root/probe"]
        assert "stubborn" in runtime.unstopped[0].stack
        told = [event for event in seen if isinstance(event, events.Unstopped)]
        assert [event.time for event in told] == [7]


async def test_stop_while_down(autojump_clock: MockClock) -> None:
    """A stop does not wait for a backoff: an actor that is down ends at once, and its callers are told."""
    backoff = creche.Backoff(first=50, cap=50, free=0)
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff, down_wait=100))
        runtime.kill(probe, "down")
        await settle()
        waiting = asking(nursery, probe.ask.life)
        await settle()
        await runtime.stop(probe)
        assert await waiting.settled() in ("NotDelivered", "ActorStopped")
        assert trio.current_time() == 0


async def test_stop_during_the_start(autojump_clock: MockClock) -> None:
    """A child that is still starting can be stopped: it is cancelled when its drain time is over."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        reply = asking(nursery, runtime.start, creche.child(Hanging).options(drain=3))
        await settle()
        await runtime.stop("root/hanging")
        assert trio.current_time() == 3
        assert await reply.settled() in ("StartFailed", "ActorStopped")


async def test_stop_that_is_cancelled_still_stops(autojump_clock: MockClock) -> None:
    """If whoever called `runtime.stop` is cancelled, the actor drains and ends all the same."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        in_hand = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        with trio.move_on_after(1):
            await runtime.stop(probe)
        gate.opened.set()
        assert await in_hand.settled() == "value"
        await settle()
        assert cell_of(probe).state.value == "stopped"


async def test_an_actor_may_start_and_stop_others() -> None:
    """`runtime.start` and `runtime.stop` work from handlers; what was started is no part of the message's life."""
    async with creche.open_runtime("t") as runtime:

        async def start(probe: Probe) -> creche.Handle[Probe]:
            return await probe.context.runtime.start(creche.child(Probe).options(name="made"))

        probe = await runtime.start(creche.child(Probe))
        made = await probe.ask.run(start)
        assert await made.ask.life() == 1

        async def stop(probe: Probe) -> None:
            await probe.context.runtime.stop(made)

        await probe.ask.run(stop)
        with pytest.raises(creche.ActorStopped):
            await made.ask.life()


async def test_two_runtimes_do_not_mix() -> None:
    """Two trees in one Trio run are apart: one may fail while the other goes on, and they may call each other."""
    async with creche.open_runtime("one") as one:
        probe = await one.start(creche.child(Probe))
        with pytest.raises(creche.TreeFailed):
            async with creche.open_runtime("two") as two:
                await two.start(creche.child(Probe))
                two.kill("root", "only this one")
                await trio.sleep_forever()
        assert await probe.ask.life() == 1


async def test_tree_is_a_picture(autojump_clock: MockClock) -> None:
    """`runtime.tree()` shows every node with state, incarnation, restarts, waiting messages and last failure."""
    root = supervisor("root", supervisor("sub", creche.child(Probe).options(name="a")), creche.child(Probe))
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        runtime.kill("root/probe", "for the picture")
        await settle()
        gate = Gate()
        probe = reach(runtime, "root/probe", Probe)
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        probe.cast_nowait(Probe.add)
        tree = runtime.tree()
        assert [node.path for node in tree] == ["root", "root/sub", "root/sub/a", "root/probe"]
        picture = tree.find("root/probe")
        assert (picture.state, picture.incarnation, picture.restarts, picture.queued) == ("running", 2, 1, 1)
        assert picture.last_failure.endswith("Killed: killed: for the picture")
        assert str(tree).splitlines() == [
            "root  [running]",
            "├─ sub  [running]",
            "│  └─ a  [running]",
            "└─ probe  [running, 1 restart, 1 waiting]",
        ]
        with pytest.raises(KeyError):
            tree.find("root/nobody")
        gate.opened.set()


@pytest.mark.parametrize("target", ["root/probe", "root"])
async def test_stopping_oneself_is_refused(target: str) -> None:
    """A handler that stops its own actor, or what it stands in, would wait for itself."""

    async def body(probe: Probe) -> None:
        await probe.context.runtime.stop(target)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(body)
        assert isinstance(caught.value.__cause__, creche.CallCycle if target != "root" else creche.SpecInvalid)
        assert await probe.ask.life() == 2
