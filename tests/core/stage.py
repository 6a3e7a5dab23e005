"""The stage of the tests that cancel calls: an actor with every kind of message, and situations that it may be in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

import creche
from creche.runtime.spec import ActorSpec
from creche.supervisors.strategies import Strategy
from tests.core.support import Boom, Gate, Probe, Reply, asking, cell_of, reach, settle

LATER = creche.Backoff(first=1, factor=1, jitter=0, free=0)  # restarts come a second after the crash

Body = Callable[[Probe], Awaitable[str]]
Item = creche.BatchItem[Body, str]


class NoSuchThing(creche.DomainError):
    """An answer."""


class Worker(Probe):
    """Takes bodies to run, as `Probe` does, by every kind of message. `kept` outlives it."""

    def __init__(self, log: list[str], kept: list[object]) -> None:
        super().__init__(log)
        self.kept = kept
        self.has_put_it_aside = False

    @creche.batched(limit=3)
    async def batch(self, items: Sequence[Item]) -> None:
        for item in items:
            item.reply(await item.value(self))

    @creche.batched(limit=3, on_caller_gone="cancel")
    async def batch_for_caller(self, items: Sequence[Item]) -> None:
        for item in items:
            item.reply(await item.value(self))

    @creche.message(concurrency=1)
    async def beside(self, body: Body) -> str:
        return await body(self)

    @creche.message(concurrency=1, on_caller_gone="cancel")
    async def beside_for_caller(self, body: Body) -> str:
        return await body(self)

    @creche.message(reentrant=True)
    async def again(self, body: Body) -> str:
        return await body(self)

    @creche.message(reentrant=True, on_caller_gone="cancel")
    async def again_for_caller(self, body: Body) -> str:
        return await body(self)

    @creche.message(key=lambda _body: "the one key")
    async def latest(self, body: Body) -> str:
        return await body(self)


@dataclass
class Stage:
    """A runtime with one actor that matters. All that its handlers do goes to `log`."""

    runtime: creche.Runtime
    nursery: trio.Nursery
    log: list[str] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)  # of the calls of others
    probe: creche.Handle[Worker] = field(default_factory=lambda: creche.Handle("probe"))

    def spec(self, **options: Any) -> ActorSpec[Worker]:
        return creche.child(Worker, self.log, self.kept).options(name="probe", **options)

    async def start(self, **options: Any) -> None:
        self.probe = await self.runtime.start(self.spec(**options))

    def ask(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Reply:
        """Somebody else's call."""
        self.replies.append(reply := asking(self.nursery, fn, *args))
        return reply

    def later(self, seconds: float, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Await `fn(*args)` in so many seconds, whatever becomes of it."""

        async def wait_first() -> None:
            await trio.sleep(seconds)
            await fn(*args)

        self.ask(wait_first)

    async def occupy(self) -> None:
        """The actor is busy for a second; one message waits before the operation's, one is sent after it."""
        gate = Gate()
        self.ask(self.probe.ask.hold, gate)
        await gate.entered.wait()
        await self.surround()
        self.later(1.0, open_gate, gate)

    async def surround(self) -> None:
        self.ask(self.probe.ask.run, note("before"))
        await settle()
        self.later(0.5, self.probe.ask.run, note("after"))

    async def kill(self) -> None:
        self.runtime.kill(self.probe, "the test")

    def look(self) -> list[str]:
        """The log, and "began" also if the operation has been taken by a handler that has not come to it yet."""
        companion = cell_of(self.probe)._companion
        flights = None if companion is None else companion.flights
        taken = [] if flights is None else [one.request for one in (*flights.running, *(flights.batch or ()))]
        bodies = [request.args[0] for request in taken if request is not None]
        return [*self.log, *("began" for body in bodies if body is not note_also)]


async def open_gate(gate: Gate) -> None:
    gate.opened.set()


# --- what a handler does ----------------------------------------------------------------------------------------------


async def work(probe: Probe) -> str:
    probe.log.append("began")
    return await finish(probe)


async def finish(probe: Probe) -> str:
    try:
        await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        await trio.lowlevel.cancel_shielded_checkpoint()  # a cancel that comes here is too late
    except trio.Cancelled:
        probe.log.append("unwound")
        raise
    probe.log.append("ended")
    return "done"


def note(word: str) -> Body:
    """A body that a cancel which was not meant for it would hit."""

    async def checkpoint_and_note(probe: Probe) -> str:
        await trio.lowlevel.checkpoint()
        probe.log.append(word)
        return word

    return checkpoint_and_note


async def note_also(probe: Probe) -> str:
    await trio.sleep(0.1)
    probe.log.append("also")
    return "also"


async def answer_later(probe: Probe) -> str:
    slot: creche.ReplySlot[str] = probe.context.defer()
    if isinstance(probe, Worker):
        probe.kept.append(slot)  # else it would be given up when the incarnation's last reference to it goes
    probe.log.append("began")
    probe.context.spawn(finish_and_answer, probe, slot)
    return slot.later()


async def finish_and_answer(probe: Probe, slot: creche.ReplySlot[str]) -> None:
    slot.reply(await finish(probe))


async def work_when_unstashed(probe: Probe) -> str:
    if isinstance(probe, Worker) and not probe.has_put_it_aside:
        probe.has_put_it_aside = True
        probe.context.timers.start("unstash", 0.5, unstash, probe)
        probe.context.stash()
    return await work(probe)


async def unstash(probe: Probe) -> None:
    probe.context.unstash_all()


async def come_back(probe: Probe) -> str:
    me: creche.Handle[Worker] = probe.context.handle
    return await me.ask.again(work)


async def come_back_and_give_up(probe: Probe) -> str:
    me: creche.Handle[Worker] = probe.context.handle
    return await me.ask.again_for_caller(work)


async def answer_later_if_wanted(probe: Probe) -> str:
    slot: creche.ReplySlot[str] = probe.context.defer()
    slot.unsent()
    probe.context.spawn(work_if_wanted, probe, slot)
    await trio.lowlevel.checkpoint()
    return slot.later()


async def work_if_wanted(probe: Probe, slot: creche.ReplySlot[str]) -> None:
    await trio.sleep(0.1)
    if slot.begin():
        slot.reply(await work(probe))


async def work_shielded(probe: Probe) -> str:
    done = ""
    with trio.CancelScope(shield=True):
        done = await work(probe)
    return done


async def answer_while_unwinding(probe: Probe) -> str:
    try:
        return await work(probe)
    except trio.Cancelled:
        raise NoSuchThing(1, "gone") from None


async def answer_out_of_a_group(probe: Probe) -> str:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_while_unwinding, Probe())
        return await work(probe)
    raise AssertionError("not reached")


async def crash_while_unwinding(probe: Probe) -> str:
    try:
        return await work(probe)
    finally:
        if "unwound" in probe.log:
            raise Boom("while unwinding")


async def unwind_slowly(probe: Probe) -> str:
    try:
        return await work(probe)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)


async def unwind_too_slowly(probe: Probe) -> str:
    try:
        return await work(probe)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)


# --- situations -------------------------------------------------------------------------------------------------------


async def idle(stage: Stage) -> None:
    await stage.start()


async def busy(stage: Stage) -> None:
    await stage.start()
    await stage.occupy()


async def full(stage: Stage) -> None:
    await stage.start(mailbox=1)
    await stage.occupy()


async def full_and_rejecting(stage: Stage) -> None:
    await stage.start(mailbox=1, overflow="reject")
    await stage.occupy()


async def full_and_dropping_oldest(stage: Stage) -> None:
    await stage.start(mailbox=1, overflow="drop_oldest")
    await stage.occupy()


async def full_and_dropping_newest(stage: Stage) -> None:
    await stage.start(mailbox=1, overflow="drop_newest")
    await stage.occupy()


async def full_and_keeping_the_latest(stage: Stage) -> None:
    await stage.start(mailbox=2, overflow="latest_by_key")  # full with the operation
    await stage.occupy()


async def ticking(stage: Stage) -> None:
    """Timers come due before, during and after the operation."""

    async def set_timers(probe: Probe) -> None:
        for seconds in (0, 0.5, 1.5):
            probe.context.after(seconds, tick, probe)

    await stage.start()
    await stage.probe.ask.run(set_timers)


async def tick(probe: Probe) -> None:
    probe.log.append("tick")
    await trio.lowlevel.checkpoint()
    await trio.sleep(0.1)
    probe.log.append("tock")


async def down(stage: Stage) -> None:
    await stage.start(backoff=LATER)
    await stage.ask(stage.probe.ask.crash).settled()
    await stage.surround()


async def down_for_too_long(stage: Stage) -> None:
    await stage.start(backoff=LATER, down_wait=0.2)
    await stage.ask(stage.probe.ask.crash).settled()


async def down_and_rejecting(stage: Stage) -> None:
    await stage.start(backoff=LATER, while_down="reject")
    await stage.ask(stage.probe.ask.crash).settled()


async def crash_ahead(stage: Stage) -> None:
    """What is handled before it crashes the actor."""
    await stage.start(backoff=LATER)
    gate = Gate()

    async def crash(_probe: Probe) -> None:
        await gate.hold()
        raise Boom

    stage.ask(stage.probe.ask.run, crash)
    await gate.entered.wait()
    await stage.surround()
    stage.later(1.0, open_gate, gate)


async def killed(stage: Stage) -> None:
    """It is killed with the operation's message in hand."""
    await stage.start(backoff=LATER)
    stage.later(0.5, stage.kill)


async def cut_short(stage: Stage) -> None:
    """It is stopped with the operation's message in hand, and has no time for it."""
    await stage.start(drain=0.1)
    stage.later(0.5, stage.runtime.stop, stage.probe)


async def stopping(stage: Stage) -> None:
    await stage.start()
    await stage.occupy()
    stage.ask(stage.runtime.stop, stage.probe)
    await settle()


async def stopped_meanwhile(stage: Stage) -> None:
    await stage.start()
    await stage.occupy()
    stage.later(0.7, stage.runtime.stop, stage.probe)


async def stopped_impatiently(stage: Stage) -> None:
    await stage.start(drain=0.1)
    await stage.occupy()
    stage.later(0.7, stage.runtime.stop, stage.probe)


async def group_restart(stage: Stage) -> None:
    """A sibling's crash takes the actor with it."""
    await start_team(stage, creche.Intensity())


async def restart_of_all(stage: Stage) -> None:
    await start_team(stage, creche.Intensity(), "one_for_all")


async def escalation(stage: Stage) -> None:
    """A sibling's crash makes the supervisor of both give up and restart."""
    await start_team(stage, creche.Intensity(0, 1))


async def start_team(stage: Stage, intensity: creche.Intensity, strategy: Strategy = "rest_for_one") -> None:
    leader = creche.child(Probe).options(name="leader", backoff=LATER)
    team = creche.supervisor("team", leader, stage.spec(), strategy=strategy, intensity=intensity)
    await stage.runtime.start(team)
    stage.probe = reach(stage.runtime, "root/team/probe", Worker)
    await stage.occupy()
    stage.later(0.7, reach(stage.runtime, "root/team/leader", Probe).ask.crash)


@dataclass(frozen=True)
class Situation:
    enter: Callable[[Stage], Awaitable[None]]
    errors: tuple[str, ...] = ()  # how a call may fail in it
    around: tuple[str, ...] = ()  # what others have the actor note, in order; the operation belongs after the first
    loses: bool = False  # whether an accepted message may be lost
    survives: bool = True


AROUND = ("before", "after")
SITUATIONS = [
    Situation(idle),
    Situation(busy, around=AROUND),
    Situation(full, around=AROUND),
    Situation(full_and_rejecting, ("NotDelivered", "MailboxFull"), around=("before",)),
    Situation(full_and_dropping_oldest, ("NotDelivered",), around=("after",), loses=True),
    Situation(full_and_dropping_newest, ("NotDelivered",), around=("before",), loses=True),
    Situation(full_and_keeping_the_latest, ("NotDelivered", "MailboxFull"), loses=True),
    Situation(ticking),
    Situation(down, around=AROUND),
    Situation(down_for_too_long, ("NotDelivered",)),
    Situation(down_and_rejecting, ("NotDelivered",)),
    Situation(crash_ahead, around=AROUND),
    Situation(killed, ("OutcomeUnknown",), loses=True),
    Situation(cut_short, ("OutcomeUnknown",), loses=True, survives=False),
    Situation(stopping, ("NotDelivered",), around=("before",), survives=False),
    Situation(stopped_meanwhile, around=AROUND, survives=False),
    Situation(stopped_impatiently, ("NotDelivered",), survives=False, loses=True),
    Situation(group_restart, around=AROUND),
    Situation(restart_of_all, around=AROUND),
    Situation(escalation, around=AROUND),
]
