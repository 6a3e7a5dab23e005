"""Messages that are declared idempotent: handled once more when their incarnation dies over them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.node import State
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Boom, Gate, Probe, asking, cell_of, recorded, settle

MINUTE = creche.Backoff(first=60, cap=60, free=0, jitter=0)


class Repeats(Probe):
    """What it does may be done twice."""

    @creche.message(idempotent=True)
    async def again(self, body: Callable[[Repeats], Awaitable[Any]]) -> Any:
        return await body(self)

    @creche.message(idempotent=True, attempts=2, on_caller_gone="cancel", raises=KeyError)
    async def twice(self, body: Callable[[Repeats], Awaitable[Any]]) -> Any:
        return await body(self)


class Dies:
    """A body of a handler that crashes so many times, and tells then in which life it came through."""

    def __init__(self, times: int, log: list[str] | None = None) -> None:
        self.left = times
        self.log = [] if log is None else log
        self.lives: list[int] = []

    async def __call__(self, actor: Repeats) -> int:
        self.lives.append(actor.context.incarnation)
        self.log.append(f"life {actor.context.incarnation}")
        if self.left:
            self.left -= 1
            raise Boom(f"crash {len(self.lives)}")
        return actor.context.incarnation


class Holds:
    """A body that stands in each attempt until it is let go or dies."""

    def __init__(self) -> None:
        self.gates: list[Gate] = []

    async def __call__(self, actor: Repeats) -> int:
        gate = Gate()
        self.gates.append(gate)
        await gate.hold()
        return len(self.gates)


async def test_an_idempotent_message_is_handled_by_the_next_incarnation() -> None:
    """The caller of a message whose incarnation died gets the answer of the next one."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Repeats))
        dies = Dies(1)
        assert await actor.ask.again(dies) == 2
        assert dies.lives == [1, 2]
        assert await actor.ask.life() == 2
        assert actor.statistics().handled == 2


async def test_the_next_attempt_comes_before_what_waits() -> None:
    """It is first, also before what had been stashed; the others keep their order."""
    log: list[str] = []

    class Stashes(Repeats):
        async def aside(self) -> None:
            self.context.stash()

        async def note(self, word: str) -> str:
            self.log.append(word)
            return word

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Stashes, log))
        gate = Gate()
        asking(nursery, actor.ask.hold, gate)
        await gate.entered.wait()
        for fn, arg in ((actor.ask.again, Dies(1, log)), (actor.ask.note, "a"), (actor.ask.note, "b")):
            asking(nursery, fn, arg)
            await settle()
        gate.opened.set()
        await settle()
    assert log == ["held", "life 1", "life 2", "a", "b"]


class Lives(Repeats):
    """The same with a lifespan: its crashes are judged outside of it."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        yield


BOTH = pytest.mark.parametrize("cls", [Repeats, Lives])


@BOTH
async def test_casts_are_tried_again(cls: type[Repeats], autojump_clock: MockClock) -> None:
    """As calls are; also by an actor with a lifespan."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(cls))
        dies = Dies(2)
        actor.cast_nowait(Repeats.again, dies)
        await trio.sleep(60)
        assert dies.lives == [1, 2, 3]
        assert actor.statistics().restarts == 2
        assert actor.statistics().handled == 1


@BOTH
async def test_poison_is_told_with_all_causes(cls: type[Repeats], autojump_clock: MockClock) -> None:
    """When the last attempt has died the caller gets OutcomeUnknown with what each attempt died of."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        actor = await runtime.start(creche.child(cls))
        dies = Dies(99)
        with pytest.raises(creche.OutcomeUnknown, match="after 3 attempts") as told:
            await actor.ask.again(dies)
        assert dies.lives == [1, 2, 3]
        assert [str(cause) for cause in told.value.causes] == ["crash 1", "crash 2", "crash 3"]
        assert all(type(cause) is Boom and cause.__traceback__ is None for cause in told.value.causes)
        assert isinstance(told.value.__cause__, Boom)
        assert told.value.__cause__.__traceback__ is not None
        assert told.value.__notes__ == [f"attempt {n}: Boom: crash {n}" for n in (1, 2, 3)]
        letters = [event for event in seen if isinstance(event, events.DeadLetter)]
        assert [(letter.message, letter.reason) for letter in letters] == [("again", "poison")]
        assert await actor.ask.life() == 4


async def test_a_poison_cast_is_a_dead_letter() -> None:
    """With the causes of all its attempts; `attempts` says how many there are."""
    async with creche.open_runtime("t") as runtime:
        letters = runtime.keep_dead_letters()
        actor = await runtime.start(creche.child(Repeats))
        dies = Dies(99)
        actor.cast_nowait(Repeats.twice, dies)
        await settle()
        (letter,) = letters.list()
        assert dies.lives == [1, 2]
        assert (letter.path, letter.message, letter.args) == ("root/repeats", "twice", (dies,))
        assert (letter.reason, letter.attempts) == ("poison", 2)
        assert letter.causes == ("Boom: crash 1", "Boom: crash 2")


async def test_only_what_is_declared_idempotent_is_tried_again() -> None:
    """Everything else is lost with its incarnation, as ever."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Repeats))
        with pytest.raises(creche.OutcomeUnknown) as told:
            await actor.ask.crash()
        assert told.value.causes == ()
        assert await actor.ask.life() == 2


async def test_only_attempts_that_reached_the_handler_count(autojump_clock: MockClock) -> None:
    """Starts that fail in between are none."""
    starts: list[int] = []

    class Unlucky(Repeats):
        def __init__(self) -> None:
            super().__init__()
            starts.append(self.context.incarnation)
            if 1 < len(starts) < 5:
                raise Boom("cannot start")

    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Unlucky).options(intensity=creche.Intensity(99, 1)))
        dies = Dies(1)
        assert await actor.ask.twice(dies) == 5
        assert starts == [1, 2, 3, 4, 5]
        assert dies.lives == [1, 5]


async def test_a_kill_ends_an_attempt(autojump_clock: MockClock) -> None:
    """As any crash does; so does one of background work, of which the message in hand is innocent."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        holds = Holds()
        reply = asking(nursery, actor.ask.again, holds)
        for number in range(3):
            await trio.sleep(60)
            assert len(holds.gates) == number + 1
            runtime.kill(actor, f"{number}")
        assert await reply.settled() == "OutcomeUnknown"
        assert isinstance(reply.error, creche.OutcomeUnknown)
        assert [str(cause) for cause in reply.error.causes] == ["killed: 0", "killed: 1", "killed: 2"]


async def test_answers_end_the_attempts() -> None:
    """A declared error of the second attempt is the answer."""

    async def body(actor: Repeats) -> None:
        raise Boom if actor.context.incarnation == 1 else KeyError("declared")

    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Repeats))
        with pytest.raises(KeyError):
            await actor.ask.twice(body)
        assert await actor.ask.life() == 2
        with pytest.raises(TypeError):
            await actor.ask.again()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert await actor.ask.life() == 2


async def test_a_caller_that_leaves_between_two_attempts(autojump_clock: MockClock) -> None:
    """Its message waits like any other: it is revoked, and never runs again."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats).options(backoff=MINUTE, down_wait=100))
        dies = Dies(1)
        reply = asking(nursery, actor.ask.again, dies)
        await settle()
        assert dies.lives == [1]
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        assert actor.statistics().revoked == 1
        assert await actor.ask.life() == 2
        assert dies.lives == [1]


async def test_a_caller_that_has_left_during_an_attempt() -> None:
    """A handler that finishes for nobody is not tried again when it dies."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        holds = Holds()
        reply = asking(nursery, actor.ask.again, holds)
        await settle()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        runtime.kill(actor, "test")
        assert await actor.ask.life() == 2
        assert len(holds.gates) == 1


async def test_a_caller_that_leaves_in_the_second_attempt(autojump_clock: MockClock) -> None:
    """With on_caller_gone="cancel" the handler is cancelled, as in a first one; the actor lives."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        holds = Holds()
        reply = asking(nursery, actor.ask.twice, holds)
        await settle()
        runtime.kill(actor, "test")
        await settle()
        assert len(holds.gates) == 2
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        assert await actor.ask.life() == 2
        dies = asking(nursery, actor.within(1).ask.twice, holds)
        assert await dies.settled() == "DeadlineExceeded"
        assert await actor.ask.life() == 2


async def test_a_deadline_between_two_attempts(autojump_clock: MockClock) -> None:
    """It has been delivered, so it is not safe to repeat what is not idempotent."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Repeats).options(backoff=MINUTE, down_wait=100))
        dies = Dies(1)
        with pytest.raises(creche.DeadlineExceeded) as told:
            await actor.within(10).ask.again(dies)
        assert told.value.delivered
        assert trio.current_time() == pytest.approx(10)
        assert await actor.ask.life() == 2
        assert dies.lives == [1]


async def test_a_cast_that_expires_between_two_attempts(autojump_clock: MockClock) -> None:
    """It is a dead letter, with its attempt."""
    async with creche.open_runtime("t") as runtime:
        letters = runtime.keep_dead_letters()
        actor = await runtime.start(creche.child(Repeats).options(backoff=MINUTE, down_wait=100))
        dies = Dies(1)
        await actor.within(expires=10).cast(Repeats.again, dies)
        assert await actor.ask.life() == 2
        assert [(letter.reason, letter.attempts) for letter in letters.list()] == [("expired", 1)]
        assert dies.lives == [1]


async def test_who_was_tried_is_never_told_that_it_was_not_delivered(autojump_clock: MockClock) -> None:
    """An actor that is down for too long, or does not come back, gives OutcomeUnknown to who had an attempt."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        down = await runtime.start(creche.child(Repeats).options(backoff=MINUTE, down_wait=5))
        waits = asking(nursery, down.ask.again, Dies(1))
        await settle()
        behind = asking(nursery, down.ask.life)
        assert await waits.settled() == "OutcomeUnknown"
        assert await behind.settled() == "NotDelivered"
        assert "1 attempt; it was not tried again (crash)" in str(waits.error)
        assert isinstance(waits.error, creche.OutcomeUnknown)
        assert [str(cause) for cause in waits.error.causes] == ["crash 1"]
        assert waits.error.__cause__ is waits.error.causes[0]

        once = await runtime.start(creche.child(Repeats).options(name="once", restart="temporary"))
        with pytest.raises(creche.OutcomeUnknown, match="not tried again") as told:
            await once.ask.again(Dies(1))
        assert isinstance(told.value.__cause__, Boom)
        assert cell_of(once).state is State.STOPPED


async def test_a_stop_between_two_attempts(autojump_clock: MockClock) -> None:
    """The caller is told that the outcome is unknown; a cast is a dead letter."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        letters = runtime.keep_dead_letters()
        actor = await runtime.start(creche.child(Repeats).options(backoff=MINUTE, down_wait=100))
        dies = Dies(1)
        call = asking(nursery, actor.ask.again, dies)
        await settle()
        await runtime.stop(actor)
        assert await call.settled() == "OutcomeUnknown"
        assert dies.lives == [1]

        other = await runtime.start(creche.child(Repeats).options(name="other", backoff=MINUTE))
        await other.cast(Repeats.again, Dies(1))
        await settle()
        await runtime.stop(other)
        assert [(letter.reason, letter.attempts) for letter in letters.list()] == [("closed", 1)]


async def test_a_crash_while_stopping_is_the_last_attempt() -> None:
    """There is no successor: the caller is told at once, with the crash as the cause."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        gate = Gate()

        async def body(_: Repeats) -> None:
            await gate.hold()
            raise Boom

        call = asking(nursery, actor.ask.again, body)
        await gate.entered.wait()
        nursery.start_soon(runtime.stop, actor)
        await settle()
        gate.opened.set()
        assert await call.settled() == "OutcomeUnknown"
        assert isinstance(call.error, creche.OutcomeUnknown)
        assert isinstance(call.error.__cause__, Boom)


async def test_attempts_survive_a_restart_of_the_supervisor() -> None:
    """They are mail: a static child keeps it."""
    pair = creche.supervisor("pair", creche.child(Repeats), intensity=creche.Intensity(0, 1))
    async with creche.open_runtime("t", root=creche.supervisor("root", pair)) as runtime:
        actor = runtime.handle("root/pair/repeats", Repeats)
        dies = Dies(1)
        assert await actor.ask.again(dies) == 2
        assert dies.lives == [1, 2]
        assert [child.restarts for child in runtime.root.children()] == [1]


async def test_many_calls_are_tried_again_each_for_itself(autojump_clock: MockClock) -> None:
    """Parts of a call_many have attempts of their own."""
    async with creche.open_runtime("t") as runtime:
        actor = await runtime.start(creche.child(Repeats).options(intensity=creche.Intensity(99, 1)))
        outcomes = await actor.call_many(Repeats.twice, [(Dies(0),), (Dies(1),), (Dies(9),), (Dies(0),)])
        assert [outcome.unwrap() for outcome in (*outcomes[:2], outcomes[3])] == [1, 2, 4]
        with pytest.raises(creche.OutcomeUnknown):
            outcomes[2].unwrap()


async def test_a_deferred_reply_is_not_tried_again() -> None:
    """Once the reply slot has been taken, what becomes of the message is the actor's business."""

    async def body(actor: Repeats) -> object:
        slot = actor.context.defer()
        return slot.later()

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        reply = asking(nursery, actor.ask.again, body)
        await settle()
        runtime.kill(actor, "test")
        assert await reply.settled() == "OutcomeUnknown"


async def test_an_attempt_that_stashes_does_not_count() -> None:
    """Nor is what an attempt has put aside lost: it comes back as ever."""

    async def body(actor: Repeats) -> int:
        if actor.context.incarnation == 2:
            actor.context.stash()
        if actor.context.incarnation == 1:
            raise Boom
        return actor.context.incarnation

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Repeats))
        reply = asking(nursery, actor.ask.twice, body)
        await settle()
        assert actor.statistics().stashed == 1
        runtime.kill(actor, "test")
        await reply.settled()
        assert reply.value == 3


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"attempts": 3}, "idempotent=True"),
        ({"idempotent": True, "attempts": 1}, "2 or more"),
        ({"idempotent": True, "attempts": True}, "2 or more"),
        ({"idempotent": 1}, "True or False"),
        ({"idempotent": True, "concurrency": 2}, "leave out concurrency"),
        ({"idempotent": True, "reentrant": True}, "leave out reentrant"),
    ],
)
def test_wrong_attempts_are_refused(options: dict[str, Any], fix: str) -> None:
    """When the message is declared."""
    with pytest.raises(creche.SpecInvalid, match=fix):
        creche.message(**options)


def test_a_call_with_attempts_is_cancelled_everywhere() -> None:
    """At each moment of two attempts: nothing leaks, and it is one outcome."""

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            actor = await runtime.start(creche.child(Lives))
            end = await strike.cancel(actor.ask.again, Dies(1))
            assert end.what == "cancelled" or end.value == 2
            assert await actor.ask.add() == 1
            await prove_idle(runtime)

    everywhere(scenario)


def test_an_actor_with_attempts_is_killed_everywhere() -> None:
    """One kill more than the crashes of the message itself: the third attempt comes through."""

    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            actor = await runtime.start(creche.child(Lives).options(intensity=creche.Intensity(99, 1)))
            dies = Dies(1)
            end = await strike.hit(lambda: runtime.kill(actor, "test"), actor.ask.again, dies)
            assert end.what == "value", end.error
            assert len(dies.lives) in (2, 3)
            assert await actor.ask.add() == 1
            await prove_idle(runtime)

    everywhere(scenario)
