"""Incarnations: how they begin, what they leave behind, what ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.errors import IncarnationEnded
from creche.runtime.node import State
from creche.runtime.spec import Restart
from creche.supervisors.spec import supervisor
from tests.core.support import Boom, Flag, Gate, Probe, Reply, asking, cell_of, kinds, reach, recorded, settle


class Held(Probe):
    """Tells when its lifespan is entered and left."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        life = self.context.incarnation
        self.log.append(f"enter {life}")
        try:
            yield
        finally:
            self.log.append(f"leave {life}")


async def test_fresh_construction_each_life() -> None:
    """The next incarnation is constructed anew: nothing of the crashed object is seen again."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        assert [await probe.ask.add(), await probe.ask.add()] == [1, 2]
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash()
        assert await probe.ask.add() == 1


async def test_context_is_there_before_init() -> None:
    """`self.context` can be used in `__init__`."""
    seen: list[tuple[str, int]] = []

    class Early(creche.Actor):
        def __init__(self) -> None:
            seen.append((self.context.path, self.context.incarnation))

    async with creche.open_runtime("t") as runtime:
        await runtime.start(creche.child(Early))
        assert seen == [("root/early", 1)]


async def test_incarnations_are_counted_from_one() -> None:
    """`context.incarnation` is 1 for the first life and one more for each restart."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        assert await probe.ask.life() == 1
        runtime.kill(probe, "once")
        assert await probe.ask.life() == 2


async def test_mail_survives_a_crash_in_order() -> None:
    """Messages that wait are kept, calls and casts alike, and handled in order by the next incarnation."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe, log))
        gate = Gate()
        in_hand = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        for word in ("1", "2"):
            probe.cast_nowait(Probe.note, word)
            await settle()
        third = asking(nursery, probe.ask.note, "3")
        await settle()
        runtime.kill(probe, "now")
        assert await in_hand.settled() == "OutcomeUnknown"
        assert await third.settled() == "value"
        assert log == ["1", "2", "3"]


async def test_message_in_hand_dies_with_its_incarnation() -> None:
    """The caller whose message was being handled gets OutcomeUnknown; the crash is its cause; the message is
    not retried."""
    log: list[str] = []

    async def body(probe: Probe) -> None:
        log.append("begun")
        raise Boom("in hand")

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(body)
        assert isinstance(caught.value.__cause__, Boom)
        assert caught.value.path == "root/probe"
        assert await probe.ask.life() == 2
        assert log == ["begun"]


async def test_handles_stay_valid_across_restarts() -> None:
    """One handle, and one `ask` proxy, reach every incarnation."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        ask = probe.ask
        for life in (1, 2, 3):
            assert await ask.life() == life
            runtime.kill(probe, "again")


async def test_incarnations_never_overlap(autojump_clock: MockClock) -> None:
    """The next incarnation is not constructed before the lifespan and the background work of the last have ended."""
    log: list[str] = []

    class Slow(Probe):
        def __init__(self) -> None:
            super().__init__(log)
            self.log.append(f"init {self.context.incarnation}")
            self.context.spawn(self._work)

        async def _work(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                self.log.append(f"work ended {self.context.incarnation}")

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                self.log.append(f"left {self.context.incarnation}")

    async with creche.open_runtime("t") as runtime:
        slow = await runtime.start(creche.child(Slow))
        await settle()
        runtime.kill(slow, "now")
        await slow.ask.life()
        assert log == ["init 1", "work ended 1", "left 1", "init 2"]


async def test_serial_handlers_never_interleave(autojump_clock: MockClock) -> None:
    """A handler that awaits is not interrupted by the next message."""
    log: list[str] = []

    async def body(probe: Probe) -> None:
        log.append("in")
        await trio.sleep(1)
        log.append("out")

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(probe.ask.run, body)
        assert log == ["in", "out"] * 3


async def test_ready_when_the_lifespan_is_entered(autojump_clock: MockClock) -> None:
    """`runtime.start` returns when the lifespan has been entered, and no message is handled earlier."""

    class Slow(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.context.handle.cast_nowait(Probe.note, "message")
            await trio.sleep(3)
            self.log.append("entered")
            yield

    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        began = trio.current_time()
        slow = await runtime.start(creche.child(Slow, log))
        assert trio.current_time() - began == 3
        await slow.ask.life()
        assert log == ["entered", "message"]


async def test_lifespan_is_left_after_every_life() -> None:
    """The lifespan is left after a crash, a kill and a stop."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        held = await runtime.start(creche.child(Held, log))
        with pytest.raises(creche.OutcomeUnknown):
            await held.ask.crash()
        await held.ask.life()
        runtime.kill(held, "now")
        await held.ask.life()
        await runtime.stop(held)
    assert log == [f"{what} {life}" for life in (1, 2, 3) for what in ("enter", "leave")]


async def test_lifespan_exit_has_the_shutdown_time(autojump_clock: MockClock) -> None:
    """An exit that hangs is cancelled after `shutdown` seconds, and the first error stays the cause."""

    class Hanging(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                if self.context.incarnation == 1:
                    await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        hanging = await runtime.start(creche.child(Hanging).options(shutdown=3, down_wait=100))
        began = trio.current_time()
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await hanging.ask.crash("first")
        assert trio.current_time() - began == 3
        assert str(caught.value.__cause__) == "first"
        assert await hanging.ask.life() == 2


async def test_kill_cancels_the_lifespan_exit(autojump_clock: MockClock) -> None:
    """On a kill the exit runs cancelled: only what it shields is awaited."""
    log: list[str] = []

    class Exiting(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                    log.append("shielded")
                await trio.sleep(1)
                log.append("not reached")

    async with creche.open_runtime("t") as runtime:
        exiting = await runtime.start(creche.child(Exiting))
        runtime.kill(exiting, "now")
        await exiting.ask.life()
        assert log == ["shielded"]
        runtime.kill(exiting, "again")


async def test_crash_is_judged_outside_the_lifespan() -> None:
    """A task of the lifespan's own nursery that fails is the crash, not the Cancelled that the handler sees."""

    class Reading(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.lost = trio.Event()

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                yield
                nursery.cancel_scope.cancel()

        async def _read(self) -> None:
            await self.lost.wait()
            raise Boom("connection lost")

        async def lose(self) -> None:
            self.lost.set()
            await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        reading = await runtime.start(creche.child(Reading))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await reading.ask.lose()
        assert repr(caught.value.__cause__) == "Boom('connection lost')"
        assert await reading.ask.life() == 2


async def test_one_leaf_groups_are_unwrapped() -> None:
    """A single error that a nursery wrapped is judged as itself: as a crash, and as an answer."""

    class Answer(creche.DomainError):
        pass

    async def wrapped(error: Exception) -> None:
        raise ExceptionGroup("nursery", [ExceptionGroup("inner", [error])])

    async def crash(probe: Probe) -> None:
        await wrapped(Boom("leaf"))

    async def answer(probe: Probe) -> None:
        await wrapped(Answer(7, "leaf"))

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(Answer):
            await probe.ask.run(answer)
        assert await probe.ask.life() == 1
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await probe.ask.run(crash)
        assert isinstance(caught.value.__cause__, Boom)


async def test_groups_of_several_errors_crash() -> None:
    """Two errors at once are a crash if one of them alone would be."""

    async def body(probe: Probe) -> None:
        raise ExceptionGroup("two", [creche.DomainError(1, "a"), Boom()])

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.run(body)
        assert await probe.ask.life() == 2


async def test_groups_of_answers_are_answers() -> None:
    """A failed call among them says that the outcome is unknown; else the first answer is it."""
    first, second = creche.DomainError(1, "a"), creche.DomainError(2, "b")
    failed = creche.NotDelivered("root/other", "overflow")

    async def answers(probe: Probe) -> None:
        raise ExceptionGroup("two", [ExceptionGroup("inner", [first]), second])

    async def with_failed_call(probe: Probe) -> None:
        raise ExceptionGroup("two", [first, failed])

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.DomainError) as answer:
            await probe.ask.run(answers)
        assert answer.value is first
        with pytest.raises(creche.PeerFailed) as caught:
            await probe.ask.run(with_failed_call)
        assert caught.value.cause is failed
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert await probe.ask.life() == 1


async def test_ended_without_a_reason_is_a_crash() -> None:
    """A lifespan that swallows what ends it, unasked, is a crash IncarnationEnded; an error that it swallows
    still counts."""

    class Swallowing(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            with trio.CancelScope() as self.scope:
                try:
                    yield
                except Boom:
                    pass

        async def give_up(self) -> None:
            self.scope.cancel()
            await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        swallowing = await runtime.start(creche.child(Swallowing))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await swallowing.ask.give_up()
        assert isinstance(caught.value.__cause__, IncarnationEnded)
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await swallowing.ask.crash()
        assert isinstance(caught.value.__cause__, Boom)
        assert await swallowing.ask.life() == 3


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_exit_ends_after_the_message_in_hand(restart: Restart) -> None:
    """`context.exit()` ends the incarnation when the message in hand is done: a permanent actor starts anew,
    others are done."""

    async def leave(probe: Probe) -> str:
        probe.context.exit()
        await trio.lowlevel.checkpoint()
        return "answered"

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(restart=restart))
        leaving = asking(nursery, probe.ask.run, leave)
        await settle()
        assert leaving.value == "answered"
        if restart == "permanent":
            assert await probe.ask.life() == 2
        else:
            with pytest.raises(creche.ActorStopped):
                await probe.ask.life()


@pytest.mark.parametrize("where", ["init", "lifespan", "background"])
async def test_exit_from_anywhere(where: str) -> None:
    """`context.exit()` also works in `__init__`, in the lifespan, and from background work of an idle actor."""

    class Leaving(Probe):
        def __init__(self) -> None:
            super().__init__()
            if where == "init":
                self.context.exit()

        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            if where == "lifespan":
                self.context.exit()
            if where == "background":
                self.context.spawn(self._leave)
            yield

        async def _leave(self) -> None:
            self.context.exit()

    async with creche.open_runtime("t") as runtime:
        leaving = await runtime.start(creche.child(Leaving).options(restart="transient"))
        await cell_of(leaving).wait_for(State.STOPPED)
        assert cell_of(leaving).incarnation == 1
        assert cell_of(leaving).history is None


async def test_error_while_stopping_is_a_bad_stop() -> None:
    """An error on the way to a stop is told as BadStop: no crash, no restart, and the stop is reached."""

    class Failing(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            yield
            raise Boom("while leaving")

    async with creche.open_runtime("t") as runtime:
        failing = await runtime.start(creche.child(Failing))
        seen = recorded(runtime)
        await runtime.stop(failing)
        assert kinds(seen, failing.path) == ["BadStop", "Stopped"]


@pytest.mark.parametrize("where", ["call", "cast", "background"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_only_exceptions_restart(error: type[BaseException], where: str, autojump_clock: MockClock) -> None:
    """KeyboardInterrupt and SystemExit end the whole tree at once and leave the block as themselves; nobody
    restarts."""

    async def leave(probe: Probe) -> None:
        raise error

    async def leave_in_background(probe: Probe) -> None:
        async def raising() -> None:
            raise error

        probe.context.spawn(raising)

    began = trio.current_time()
    starts: list[events.Event] = []
    closed: list[str] = []
    replies: list[Reply] = []
    lease = Flag([], "lease")
    async with trio.open_nursery() as outside:
        with pytest.raises(error):
            async with creche.open_runtime("t") as runtime:
                probe = await runtime.start(creche.child(Probe))
                other = await runtime.start(creche.child(Probe).options(name="other"))
                gate = Gate()
                replies.append(asking(outside, other.ask.hold, gate))
                await gate.entered.wait()
                replies.append(asking(outside, other.ask.note, "queued"))
                cell_of(other).keep("port", lambda: "port", closed.append)
                cell_of(other).grant(lease)
                await settle()
                starts = recorded(runtime)
                body = leave_in_background if where == "background" else leave
                if where == "call":
                    asking(outside, probe.ask.run, body)
                else:
                    probe.cast_nowait(Probe.run, body)
                await trio.sleep_forever()
        assert trio.current_time() - began < 1
        in_hand, queued = replies
        assert await in_hand.settled() == "OutcomeUnknown"
        assert await queued.settled() in ("ActorStopped", "NotDelivered")
        assert closed == ["port"]
        assert not lease.valid
        assert not [event for event in starts if isinstance(event, events.Started)]


async def test_history_is_bounded_text() -> None:
    """A node remembers its last 16 crashes, as text: no live exception, no frame."""
    async with creche.open_runtime("t", intensity=creche.Intensity(100, 5)) as runtime:
        backoff = creche.Backoff(free=100)
        probe = await runtime.start(creche.child(Probe).options(backoff=backoff))
        for number in range(20):
            with pytest.raises(creche.OutcomeUnknown):
                await probe.ask.crash(f"number {number}")
        await probe.ask.life()
        crashes = list(cell_of(probe).crashes())
        assert len(crashes) == 16
        assert crashes[-1][1].endswith("root/probe#20: Boom: number 19")
        kept = [fact for crash in cell_of(probe).history or () for fact in crash]
        assert {type(fact) for fact in kept} == {float, int, str}, "nothing that would hold frames"


async def test_an_error_that_cannot_be_told_is_a_crash_like_any_other() -> None:
    """An exception whose text cannot be made crashes its actor, not the tree."""

    class Untellable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def body(probe: Probe) -> None:
        raise Untellable

    async with creche.open_runtime("t") as runtime:
        recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.run(body)
        assert await probe.ask.life() == 2


async def test_a_static_cell_keeps_its_identity_while_its_supervisor_restarts() -> None:
    """Handle, identity and mail of a static child outlive a restart of its supervisor."""
    log: list[str] = []
    child = creche.child(Probe, log)
    async with (
        creche.open_runtime("t", root=supervisor("root", supervisor("sub", child))) as runtime,
        trio.open_nursery() as nursery,
    ):
        cell = runtime.node_of("root/sub/probe")
        probe = reach(runtime, "root/sub/probe", Probe)
        gate = Gate()
        in_hand = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        queued = asking(nursery, probe.ask.note, "kept")
        await settle()
        assert runtime.kill("root/sub", "the supervisor")
        assert await in_hand.settled() == "OutcomeUnknown"
        assert await queued.settled() == "value"
        assert runtime.node_of("root/sub/probe") is cell
        assert log == ["kept"]
