"""Every public await, cancelled at each of its checkpoints; each time nothing has leaked. See `tests/cancelling.py`.

The tests of calls are a table: situations that the actor is in × ways to call it. A new way to call is one line of
`OPERATIONS`, with what may become of it; a new situation is one function that brings the stage into it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
from outcome import Error, Outcome

import creche
from creche.runtime.node import State
from tests.cancelling import End, Strike, everywhere, prove_idle
from tests.core.stage import (
    SITUATIONS,
    Body,
    Situation,
    Stage,
    Worker,
    answer_later,
    answer_later_if_wanted,
    answer_out_of_a_group,
    answer_while_unwinding,
    busy,
    come_back,
    come_back_and_give_up,
    crash_while_unwinding,
    cut_short,
    full,
    idle,
    killed,
    note_also,
    unwind_slowly,
    unwind_too_slowly,
    work,
    work_shielded,
    work_when_unstashed,
)
from tests.core.support import LONG, Probe, cell_of, settle

# --- ways to call -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    name: str
    send: Callable[[Stage], Awaitable[object]]
    errors: tuple[str, ...] = ()  # how it may fail by itself
    is_cast: bool = False
    gives_up: bool = False  # the running handler is cancelled with its caller
    loses: bool = False  # whether an accepted message may be lost
    may_finish: bool = False  # although it is: its caller does not wait for it, or it goes on for another one
    ordered: bool = True  # whether it takes its turn among the others
    thorough: bool = False  # whether it is tried in all situations, not only in the main ones


MANY = [(note_also,), (work,)]
LATE = ("DeadlineExceeded",)
FAR = 10 * LONG  # a deadline that does not come, but whose entry in the heap is still there when the call is over


async def many(calls: Awaitable[list[Outcome[str]]]) -> str:
    first, second = await calls
    assert isinstance(first, Error) or first.unwrap() == "also"
    return second.unwrap()


async def after_another(stage: Stage, method: Callable[[Any, Body], Coroutine[Any, Any, str]]) -> str:
    """A call to a message of which another one is under way, or waits ahead of it."""
    stage.ask(stage.probe.call, method, note_also)
    await settle()
    return await stage.probe.call(method, work)


giving_up = partial(Operation, gives_up=True)
casting = partial(Operation, is_cast=True)

OPERATIONS = [
    Operation("call", lambda on: on.probe.call(Probe.run, work), thorough=True),
    giving_up("call that gives up", lambda on: on.probe.call(Probe.run_for_caller, work), thorough=True),
    Operation("ask", lambda on: on.probe.ask.run(work)),
    Operation("call within", lambda on: on.probe.within(FAR).call(Probe.run, work)),
    giving_up("ask within that gives up", lambda on: on.probe.within(FAR).ask.run_for_caller(work), thorough=True),
    Operation("call out of time", lambda on: on.probe.within(0.8).call(Probe.run, work), LATE),
    giving_up("ask out of time that gives up", lambda on: on.probe.within(0.8).ask.run_for_caller(work), LATE),
    Operation("call without time", lambda on: on.probe.within(0).call(Probe.run, work), LATE),
    casting("cast", lambda on: on.probe.cast(Probe.run, work), thorough=True),
    casting("cast within", lambda on: on.probe.within(FAR).cast(Probe.run, work)),
    casting("cast out of time", lambda on: on.probe.within(0.8).cast(Probe.run, work), ("TooSlowError",)),
    casting("cast that expires", lambda on: on.probe.within(expires=0.8).cast(Probe.run, work), loses=True),
    casting("send", lambda on: on.probe.sender(Probe.run).send(work)),
    casting("keyed cast", lambda on: on.probe.cast(Worker.latest, work), thorough=True),
    Operation("many calls", lambda on: many(on.probe.call_many(Probe.run, MANY)), thorough=True),
    giving_up(
        "many calls that give up", lambda on: many(on.probe.call_many(Probe.run_for_caller, MANY)), may_finish=True
    ),
    Operation("many calls out of time", lambda on: many(on.probe.within(0.8).call_many(Probe.run, MANY)), LATE),
    Operation("deferred reply", lambda on: on.probe.ask.run(answer_later), thorough=True),
    Operation("deferred reply out of time", lambda on: on.probe.within(0.8).ask.run(answer_later), LATE),
    Operation("unsent", lambda on: on.probe.ask.run(answer_later_if_wanted), ("NotDelivered",), ordered=False),
    casting("deferred cast", lambda on: on.probe.cast(Probe.run, answer_later)),
    Operation("batch", lambda on: on.probe.ask.batch(work), thorough=True),
    Operation("batch of two", lambda on: after_another(on, Worker.batch)),
    giving_up("batch, giving up", lambda on: on.probe.ask.batch_for_caller(work), may_finish=True),
    giving_up("batch of two, giving up", lambda on: after_another(on, Worker.batch_for_caller), may_finish=True),
    giving_up("batch out of time", lambda on: on.probe.within(0.8).ask.batch_for_caller(work), LATE, may_finish=True),
    casting("batched cast", lambda on: on.probe.cast(Worker.batch, work)),
    Operation("stashed", lambda on: on.probe.ask.run(work_when_unstashed), ordered=False, thorough=True),
    giving_up("stashed, giving up", lambda on: on.probe.ask.run_for_caller(work_when_unstashed), ordered=False),
    Operation(
        "stashed, out of time", lambda on: on.probe.within(0.3).ask.run(work_when_unstashed), LATE, ordered=False
    ),
    casting("stashed cast", lambda on: on.probe.cast(Probe.run, work_when_unstashed), ordered=False),
    Operation("let in", lambda on: on.probe.ask.run(come_back), thorough=True),
    giving_up("let in, giving up", lambda on: on.probe.ask.run_for_caller(come_back_and_give_up), thorough=True),
    giving_up("let in, out of time", lambda on: on.probe.within(0.8).ask.run_for_caller(come_back_and_give_up), LATE),
    Operation("beside", lambda on: on.probe.ask.beside(work), ordered=False),
    Operation("beside another one", lambda on: after_another(on, Worker.beside), ordered=False),
    giving_up("beside, giving up", lambda on: on.probe.ask.beside_for_caller(work), ordered=False, thorough=True),
    giving_up("beside another one, giving up", lambda on: after_another(on, Worker.beside_for_caller), ordered=False),
    giving_up("beside out of time", lambda on: on.probe.within(0.8).ask.beside_for_caller(work), LATE, ordered=False),
    casting("cast beside", lambda on: on.probe.cast(Worker.beside, work), ordered=False),
]

NEVER_RAN = {"NotDelivered", "MailboxFull", "TooSlowError"}


async def call_scenario(strike: Strike, situation: Situation, operation: Operation, *, kill: bool = False) -> None:
    async with creche.open_runtime("t", seed=1) as runtime, trio.open_nursery() as nursery:
        stage = Stage(runtime, nursery)
        await situation.enter(stage)
        blow = partial(runtime.kill, stage.probe, "the test") if kill else None
        end = await strike.hit(blow, operation.send, stage, look=stage.look)
        await trio.sleep(LONG)  # all that was planned has happened
        judge(end, situation, operation, stage.log)
        others = {reply.what for reply in stage.replies}
        assert "pending" not in others, "somebody else waits for ever"
        assert situation.loses or others <= {"value", "Boom", "OutcomeUnknown", *situation.errors}
        if situation.survives:
            assert await stage.probe.ask.add() == 1
        else:
            assert cell_of(stage.probe).state is State.STOPPED
        await prove_idle(runtime)


def judge(end: End, situation: Situation, operation: Operation, log: list[str]) -> None:
    """One outcome, and the effects that go with it."""
    began, ended, unwound = (log.count(word) for word in ("began", "ended", "unwound"))
    loses = situation.loses or operation.loses
    assert end.what in {"value", "cancelled", *situation.errors, *operation.errors}, repr(end.error)
    assert (began, ended + unwound) in ((0, 0), (1, 1)), "it runs once or never, to its end"
    if end.what == "value":
        assert (end.value, began) == (None, 1) if operation.is_cast and not loses else True
        assert (end.value, ended) == ("done", 1) if not operation.is_cast else True
    elif end.what == "cancelled" and (operation.is_cast or "began" not in end.seen):
        assert began == 0, "revoked, and yet it ran"
    elif end.what == "cancelled" and operation.gives_up:
        assert unwound == 1 or (operation.may_finish and ended == 1)
    elif end.what == "cancelled":
        assert ended == 1 or loses
    elif end.what in NEVER_RAN:
        assert began == 0, "not delivered, and yet it ran"
    judge_order(situation, operation, log)
    assert log.count("tick") == log.count("tock"), "a cancel has hit a timer"


def judge_order(situation: Situation, operation: Operation, log: list[str]) -> None:
    order = [word for word in log if word in ("before", "began", "after")]
    assert not operation.ordered or order == sorted(order, key=("before", "began", "after").index)
    if not situation.loses:
        assert tuple(word for word in order if word != "began") == situation.around


MAIN = (idle, busy, full, killed, cut_short)
CASES = [
    pytest.param(situation, operation, id=f"{operation.name}, {situation.enter.__name__}")
    for operation in OPERATIONS
    for situation in SITUATIONS
    if operation.thorough or situation.enter in MAIN
]


@pytest.mark.parametrize(("situation", "operation"), CASES)
def test_calls_and_casts(situation: Situation, operation: Operation) -> None:
    """However the actor stands: one outcome, no effect of what was revoked, order kept, nothing left."""
    ends = everywhere(call_scenario, situation, operation)
    assert ends["cancelled"] > 0 or ends.total() == 2  # a refusal at once is no checkpoint


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_calls_and_casts_to_an_actor_that_is_killed(operation: Operation) -> None:
    """The same when the actor is killed at that moment, instead of its caller being cancelled."""
    everywhere(partial(call_scenario, kill=True), Situation(idle, ("OutcomeUnknown",), loses=True), operation)


UNWINDING: dict[Body, tuple[str, ...]] = {  # and what comes out of it
    work_shielded: (),
    unwind_slowly: (),
    unwind_too_slowly: ("OutcomeUnknown",),
    answer_while_unwinding: ("NoSuchThing",),
    answer_out_of_a_group: ("NoSuchThing",),
    crash_while_unwinding: ("OutcomeUnknown",),
}


@pytest.mark.parametrize("seconds", [float("inf"), 0.8])
@pytest.mark.parametrize("message", [Probe.run_for_caller, Worker.beside_for_caller])
@pytest.mark.parametrize("body", UNWINDING)
def test_handlers_that_unwind_in_their_own_way(body: Body, message: Any, seconds: float) -> None:
    """Handlers that shield themselves, take their time, answer or crash while they unwind."""
    operation = Operation(
        body.__name__,
        lambda on: on.probe.within(seconds).call(message, body),
        (*UNWINDING[body], "DeadlineExceeded"),
        gives_up=True,
    )
    everywhere(call_scenario, Situation(idle), operation)


# --- calls made by handlers -------------------------------------------------------------------------------------------

MANNERS = list(itertools.product(("finish", "cancel"), repeat=3))


async def send(handle: creche.Handle[Probe], manner: str, body: Body, seconds: float = float("inf")) -> str:
    return await handle.within(seconds).call(Probe.run if manner == "finish" else Probe.run_for_caller, body)


async def chain_scenario(strike: Strike, manners: tuple[str, str, str], seconds: float) -> None:
    async with creche.open_runtime("t") as runtime:
        log: list[str] = []
        a, b, c = [await runtime.start(creche.child(Probe, log).options(name=name)) for name in "abc"]

        async def ask_b(_probe: Probe) -> str:
            log.append("at a")
            return await send(b, manners[1], ask_c)

        async def ask_c(_probe: Probe) -> str:
            log.append("at b")
            return await send(c, manners[2], work)

        end = await strike.cancel(send, a, manners[0], ask_b, seconds, look=lambda: tuple(log))
        await trio.sleep(LONG)
        if seconds > 1:
            assert end.what in ("value", "cancelled")
            assert log == what_a_chain_does(end, manners)
        else:
            assert end.what in ("DeadlineExceeded", "cancelled")
            assert log.count("began") == log.count("ended") + log.count("unwound") <= 1
        assert [await handle.ask.add() for handle in (a, b, c)] == [1, 1, 1]
        await prove_idle(runtime)


def what_a_chain_does(end: End, manners: tuple[str, str, str]) -> list[str]:
    """A cancellation goes down the chain as far as messages give up; what it meets queued is revoked."""
    whole = ["at a", "at b", "began", "ended"]
    if end.what == "value":
        return whole
    for manner, word in zip(manners, whole, strict=False):
        if word not in end.seen:
            return whole[: whole.index(word)]
        if manner == "finish":
            return whole
    return ["at a", "at b", "began", "unwound"]


@pytest.mark.parametrize("seconds", [FAR, 0.8], ids=["in time", "out of time"])
@pytest.mark.parametrize("manners", MANNERS, ids="-".join)
def test_chains_of_three(manners: tuple[str, str, str], seconds: float) -> None:
    """A chain of calls through three actors, each of whose messages gives up or goes on when its caller has gone."""
    everywhere(chain_scenario, manners, seconds)


Way = Callable[[creche.Handle[Worker]], Awaitable[object]]


async def cast_work(probe: creche.Handle[Worker]) -> None:
    await probe.cast(Probe.run, work)


async def call_many(probe: creche.Handle[Worker]) -> None:
    await many(probe.call_many(Probe.run, MANY))


async def handler_scenario(strike: Strike, message: Any, way: Way) -> None:
    """A handler sends to an actor that has no room."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        stage = Stage(runtime, nursery)
        await full(stage)
        sender = await runtime.start(creche.child(Worker, stage.log, stage.kept).options(name="sender"))

        async def send_on(probe: Probe) -> str:
            probe.log.append("at the sender")
            await way(stage.probe)
            return "done"

        end = await strike.cancel(sender.call, message, send_on, look=stage.look)
        await trio.sleep(LONG)
        gives_up = message.__name__.endswith("for_caller")
        revoked = end.what == "cancelled" and (gives_up or "at the sender" not in end.seen) and "began" not in end.seen
        assert stage.log.count("began") == (0 if revoked else 1)
        assert [await handle.ask.add() for handle in (sender, stage.probe)] == [1, 1]
        await prove_idle(runtime)


@pytest.mark.parametrize("way", [cast_work, call_many])
@pytest.mark.parametrize("message", [Probe.run, Probe.run_for_caller, Worker.beside_for_caller])
def test_a_handler_that_waits_for_room(message: Any, way: Way) -> None:
    """A handler that is cancelled while it waits for room has sent nothing, and waits for nobody any more."""
    everywhere(handler_scenario, message, way)


class Dependent(Probe):
    """Asks another actor before it is ready."""

    def __init__(self, log: list[str], peer: creche.Handle[Worker], manner: str) -> None:
        super().__init__(log)
        self.peer, self.manner = peer, manner

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.log.append("entered")
        await send(self.peer, self.manner, work)
        yield


async def start_that_asks(strike: Strike, manner: str) -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        stage = Stage(runtime, nursery)
        await busy(stage)
        spec = creche.child(Dependent, stage.log, stage.probe, manner)
        end = await strike.cancel(runtime.start, spec)
        await trio.sleep(LONG)
        if end.what == "value":
            await runtime.stop(end.value)
        assert stage.log.count("began") == stage.log.count("ended") + stage.log.count("unwound")
        assert [node.path for node in runtime.tree()] == ["root", "root/probe"]
        assert await stage.probe.ask.add() == 1
        await prove_idle(runtime)


@pytest.mark.parametrize("manner", ["finish", "cancel"])
def test_a_start_that_asks_others(manner: str) -> None:
    """A start that is cancelled while the lifespan waits for another actor takes its call back."""
    everywhere(start_that_asks, manner)
