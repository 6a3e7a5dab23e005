"""The hard questions of the design notes about calls, mailboxes and lives, each with our answer as tests.

Q1 to Q7 stand here; Q8, Q10, Q12 to Q14, Q21 and Q22 in test_questions_of_lives.py; Q11, Q23 and Q24 in
test_questions_of_the_process.py; Q9 and Q15 to Q20, on supervision, in tests/supervisors/test_questions.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime import events
from creche.runtime.spec import Overflow
from creche.supervisors.spec import supervisor
from creche.supervisors.strategies import Strategy
from tests.core.support import Boom, Gate, Probe, Reply, asking, cell_of, kinds, reach, recorded, settle

MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)
DOWN = creche.Backoff(first=10, free=0, jitter=0)  # ten seconds down after each crash


class Declared(creche.DomainError):
    """An answer."""


class Ledger(Probe):
    """Notes each message when it begins to handle it."""

    async def enter(self, number: int, gate: Gate | None = None) -> int:
        self.log.append(str(number))
        if gate is not None:
            await gate.hold()
        return number

    @creche.message(on_caller_gone="cancel")
    async def enter_for_caller(self, number: int, gate: Gate | None = None) -> int:
        return await self.enter(number, gate)

    async def die(self, number: int) -> None:
        self.log.append(str(number))
        raise Boom(str(number))


async def ticks(count: int) -> None:
    """Let `count` passes of the scheduler go by."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def failing(error: BaseException) -> None:
    raise error


async def in_a_nursery(error: BaseException) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing, error)


# --- Q1: a caller awaits, the actor crashes -------------------------------------------------------


class Fragile(Probe):
    """Dies in each of the ways in which an incarnation can, with a message in hand."""

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
        raise Boom("in the lifespan's nursery")

    async def die(self, where: str) -> None:
        error = Boom(where)
        if where == "handler":
            raise error
        if where == "nursery":
            await in_a_nursery(error)
        if where == "background":
            self.context.spawn(failing, error)
        if where == "lifespan":
            self.lost.set()
        if where == "kill":
            self.context.runtime.kill(self.context.handle, "by itself")
        await trio.sleep_forever()

    @creche.message(concurrency=2)
    async def die_beside(self, where: str) -> None:
        await self.die(where)


@pytest.mark.parametrize("message", ["die", "die_beside"])
@pytest.mark.parametrize("where", ["handler", "nursery", "background", "lifespan", "kill"])
async def test_q01_a_crash_wakes_its_caller_at_once(where: str, message: str, autojump_clock: MockClock) -> None:
    """Whoever awaits a message in hand gets OutcomeUnknown, with the crash as cause, in the moment of the crash."""
    async with creche.open_runtime("t") as runtime:
        fragile = await runtime.start(creche.child(Fragile))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await getattr(fragile.ask, message)(where)
        assert isinstance(caught.value.__cause__, creche.Killed if where == "kill" else Boom)
        assert await fragile.ask.life() == 2
        assert trio.current_time() == 0


async def test_q01_the_outcome_says_whether_a_retry_is_safe() -> None:
    """At the end for good: unknown for the message in hand, not delivered for those that wait, then stopped."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger, log).options(restart="temporary", mailbox=1))
        replies = []
        for number in range(3):  # in hand, in the mailbox, waiting for room
            replies.append(asking(nursery, actor.ask.enter, number, Gate()))
            await settle()
        runtime.kill(actor, "for good")
        assert [await reply.settled() for reply in replies] == ["OutcomeUnknown", "NotDelivered", "NotDelivered"]
        with pytest.raises(creche.ActorStopped) as caught:
            await actor.ask.enter(4)
        errors = [caught.value, *(reply.error for reply in replies)]
        assert all(error is not None and isinstance(error.__cause__, creche.Killed) for error in errors)
        assert log == ["0"]


@pytest.mark.parametrize("how", ["crash", "kill"])
async def test_q01_outcomes_are_honest_at_every_moment_around_a_crash(how: str) -> None:
    """Sent before, in or after the tick of a crash: what has a value was handled once, not delivered means never."""
    log: list[str] = []
    replies: list[Reply] = []
    async with creche.open_runtime("t", intensity=MANY) as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger, log).options(backoff=AT_ONCE, mailbox=3))
        for number in range(60):
            if how == "kill" and number % 3 == 0:
                runtime.kill(actor, "again")
            send = actor.ask.die if how == "crash" and number % 3 == 0 else actor.ask.enter
            replies.append(asking(nursery, send, number))
            await ticks(number % 4)
        for number, reply in enumerate(replies):
            times = {"value": 1, "OutcomeUnknown": 1, "NotDelivered": 0}[await reply.settled()]
            assert log.count(str(number)) == times


# --- Q2: should an exception of a handler crash the actor? ----------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "outcome", "lives"),
    [
        (Declared(1, "no"), Declared, True),
        (creche.Unavailable("db", "down"), creche.Unavailable, True),
        (creche.ActorStopped("peer"), creche.PeerFailed, True),
        (Boom("a defect"), creche.OutcomeUnknown, False),
        (trio.TooSlowError(), creche.OutcomeUnknown, False),
        (creche.Killed("only by name"), creche.OutcomeUnknown, False),
        (creche.StartFailed("child", "no"), creche.OutcomeUnknown, False),
    ],
)
async def test_q02_declared_errors_answer_and_all_others_crash(
    error: Exception, outcome: type[Exception], lives: bool, wrapped: bool
) -> None:
    """What the vocabulary declares is an answer; any other error is a defect, and a crash."""

    async def body(probe: Probe) -> None:
        await (in_a_nursery if wrapped else failing)(error)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(outcome):
            await probe.ask.run(body)
        assert await probe.ask.life() == (1 if lives else 2)


async def test_q02_a_declaration_holds_for_its_message_and_for_subclasses() -> None:
    """`raises=` covers subclasses of what it names, and no other message of the actor."""

    class Worse(Boom):
        pass

    class Declaring(Probe):
        @creche.message(raises=Boom)
        async def worse(self) -> None:
            raise Worse

    async with creche.open_runtime("t") as runtime:
        declaring = await runtime.start(creche.child(Declaring))
        with pytest.raises(Worse):
            await declaring.ask.worse()
        assert await declaring.ask.life() == 1
        with pytest.raises(creche.OutcomeUnknown):
            await declaring.ask.crash()


async def test_q02_every_crash_is_told() -> None:
    """A crash is an event with its traceback, and stands in the history even when nobody had subscribed."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        probe.cast_nowait(Probe.crash, "unseen")
        await probe.ask.life()
        seen = recorded(runtime)
        probe.cast_nowait(Probe.crash, "seen")
        await probe.ask.life()
        told = [line.partition(" s ")[2] for _, line in cell_of(probe).crashes()]
        assert told == ["root/probe#1: Boom: unseen", "root/probe#2: Boom: seen"]
        [crash] = [event for event in seen if isinstance(event, events.Crashed)]
        assert "raise Boom(text)" in crash.detail


# --- Q3: the caller is cancelled or out of time ---------------------------------------------------


async def test_q03_a_late_reply_is_a_counted_no_op(autojump_clock: MockClock) -> None:
    """Replies to callers that have gone are counted; they neither crash the actor nor cost any budget."""
    async with creche.open_runtime("t", intensity=creche.Intensity(0, 1)) as runtime:
        actor = await runtime.start(creche.child(Ledger))
        for _ in range(5):
            gate = Gate()
            with pytest.raises(creche.DeadlineExceeded):
                await actor.within(1).ask.enter(1, gate)
            gate.opened.set()
        assert await actor.ask.life() == 1
        assert cell_of(actor).discarded == 5


@pytest.mark.parametrize("message", ["enter", "enter_for_caller"])
@pytest.mark.parametrize("gone", ["cancelled", "DeadlineExceeded"])
async def test_q03_gone_while_queued_never_runs(gone: str, message: str, autojump_clock: MockClock) -> None:
    """A request that still waits is revoked, whatever its message declares."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger, log))
        gate = Gate()
        asking(nursery, actor.ask.hold, gate)
        await gate.entered.wait()
        waiting = asking(nursery, getattr(actor.within(1).ask, message), 1)
        await settle()
        if gone == "cancelled":
            waiting.scope.cancel()
        assert await waiting.settled() == gone
        gate.opened.set()
        await actor.ask.life()
        assert log == ["held"]


@pytest.mark.parametrize(("message", "goes_on"), [("enter", True), ("enter_for_caller", False)])
async def test_q03_gone_while_running_as_declared(message: str, goes_on: bool) -> None:
    """A running handler goes on for "finish", the default, and is cancelled for "cancel"; the actor lives."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger))
        gate = Gate()
        reply = asking(nursery, getattr(actor.ask, message), 1, gate)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        behind = asking(nursery, actor.ask.life)
        await settle()
        assert (behind.what == "pending") is goes_on
        gate.opened.set()
        await behind.settled()
        assert behind.value == 1


ENDS = {  # what may become of a caller that is cancelled in the tick of ...
    "reply": {"value", "cancelled"},
    "crash": {"OutcomeUnknown", "cancelled"},
    "kill": {"OutcomeUnknown", "cancelled", "value"},
    "exit": {"value", "cancelled"},
    "stop": {"value", "cancelled"},
}


class Busy(Probe):
    """A probe with concurrent messages too."""

    @creche.message(concurrency=2)
    async def run_beside(self, body: Callable[[Probe], Awaitable[None]]) -> None:
        await body(self)

    @creche.message(concurrency=2, on_caller_gone="cancel")
    async def run_beside_for_caller(self, body: Callable[[Probe], Awaitable[None]]) -> None:
        await body(self)


@pytest.mark.parametrize("pause", [0, 1, 2])
@pytest.mark.parametrize("cancel_first", [False, True])
@pytest.mark.parametrize("message", ["run", "run_for_caller", "run_beside", "run_beside_for_caller"])
@pytest.mark.parametrize("end", list(ENDS))
async def test_q03_a_cancel_in_the_tick_of_something_else(
    end: str, message: str, cancel_first: bool, pause: int
) -> None:
    """A cancel in the tick of a reply, a crash, a kill, an exit or a stop: one outcome, and nobody else is hit."""
    gate = Gate()

    async def body(probe: Probe) -> None:
        await gate.hold()
        if end == "crash":
            raise Boom("in the same tick")

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Busy))
        first = asking(nursery, getattr(probe.ask, message), body)
        await gate.entered.wait()
        behind = asking(nursery, probe.ask.life)
        await settle()
        if cancel_first:
            first.scope.cancel()
            await ticks(pause)
        if end == "kill":
            runtime.kill(probe, "in the same tick")
        elif end == "exit":
            cell_of(probe).exit()
        elif end == "stop":
            nursery.start_soon(runtime.stop, probe)
        gate.opened.set()
        if not cancel_first:
            await ticks(pause)
            first.scope.cancel()
        assert await first.settled() in ENDS[end]
        assert await behind.settled() == "value"


# --- Q4: is a message in flight retried, and who decides? -----------------------------------------


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("end", ["crash", "kill", "group", "supervisor"])
async def test_q04_nothing_is_retried_by_itself(end: str, cast: bool, autojump_clock: MockClock) -> None:
    """A message that was in hand is never handled again, whatever ended its incarnation: the caller decides."""
    log: list[str] = []
    children = (creche.child(Probe).options(name="first"), creche.child(Ledger, log))
    sub = supervisor("sub", *children, strategy="rest_for_one")
    async with creche.open_runtime("t", root=supervisor("root", sub)) as runtime, trio.open_nursery() as nursery:
        actor = reach(runtime, "root/sub/ledger", Ledger)
        method, args = (Ledger.die, (1,)) if end == "crash" else (Ledger.enter, (1, Gate()))
        asking(nursery, actor.cast if cast else actor.call, method, *args)
        await settle()
        victim = {"kill": actor.path, "group": "root/sub/first", "supervisor": "root/sub"}.get(end)
        assert victim is None or runtime.kill(victim, "now")
        assert await actor.ask.life() == 2
        assert log == ["1"]


async def test_q04_a_poison_message_costs_one_restart() -> None:
    """A message that kills whoever handles it is gone with its first victim."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        probe.cast_nowait(Probe.crash, "poison")
        assert await probe.ask.life() == 2
        assert kinds(seen, probe.path).count("Crashed") == 1
        assert [event.reason for event in seen if isinstance(event, events.DeadLetter)] == ["crash"]


# --- Q5: the mailbox across a restart -------------------------------------------------------------


async def test_q05_mail_is_kept_in_order_through_failed_starts() -> None:
    """Calls, casts, and those that wait for room keep their order through a crash and two starts that fail."""
    log: list[str] = []

    class Reluctant(Ledger):
        def __init__(self, log: list[str]) -> None:
            super().__init__(log)
            if self.context.incarnation in (2, 3):
                raise Boom("cannot start")

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Reluctant, log).options(mailbox=3, backoff=AT_ONCE))
        gate = Gate()
        asking(nursery, actor.ask.hold, gate)
        await gate.entered.wait()
        for number in range(8):
            asking(nursery, actor.cast if number % 2 else actor.call, Ledger.enter, number)
            await settle()
        runtime.kill(actor, "with all that mail")
        assert await actor.ask.life() == 4
        assert log == [str(number) for number in range(8)]


async def test_q05_the_deadline_of_who_waits_runs_on(autojump_clock: MockClock) -> None:
    """A call waits through the time down, but no longer than its own deadline; those behind it are not affected."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger, log).options(backoff=DOWN, down_wait=100))
        runtime.kill(actor, "down for ten seconds")
        short = asking(nursery, actor.within(3).ask.enter, 1)
        await settle()
        long = asking(nursery, actor.ask.enter, 2)
        assert await short.settled() == "DeadlineExceeded"
        assert trio.current_time() == 3
        assert await long.settled() == "value"
        assert trio.current_time() == 10
        assert log == ["2"]


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
async def test_q05_a_group_restart_keeps_the_mail_of_each(strategy: Strategy) -> None:
    """Children that restart because of another one finish what they have in hand, and keep their mail in order."""
    logs: dict[str, list[str]] = {name: [] for name in "abc"}
    children = [creche.child(Ledger, log).options(name=name) for name, log in logs.items()]
    root = supervisor("root", *children, strategy=strategy)
    async with creche.open_runtime("t", root=root) as runtime, trio.open_nursery() as nursery:
        gates = []
        for name in logs:
            actor, gate = reach(runtime, f"root/{name}", Ledger), Gate()
            asking(nursery, actor.ask.hold, gate)
            await gate.entered.wait()
            gates.append(gate)
            for number in range(3):
                actor.cast_nowait(Ledger.enter, number)
        runtime.kill("root/a", "and so the others")
        for gate in gates:
            gate.opened.set()
        assert [await reach(runtime, f"root/{name}", Ledger).ask.life() for name in logs] == [2, 2, 2]
        mail = ["0", "1", "2"]
        assert logs == {"a": mail, "b": ["held", *mail], "c": ["held", *mail]}


@pytest.mark.parametrize(
    ("overflow", "kept", "lost"),
    [("wait", "01", None), ("reject", "01", None), ("drop_oldest", "12", "enter"), ("drop_newest", "01", "enter")],
)
async def test_q05_an_actor_that_is_down_overflows_as_it_always_does(
    overflow: Overflow, kept: str, lost: str | None, autojump_clock: MockClock
) -> None:
    """While it is down the mailbox has its bound and its policy: what is lost is refused or told, never silent."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        rules = creche.child(Ledger, log).options(backoff=DOWN, mailbox=2, overflow=overflow, down_wait=100)
        actor = await runtime.start(rules)
        runtime.kill(actor, "down")
        await settle()
        for number in range(2):
            actor.cast_nowait(Ledger.enter, number)
        if lost is None:
            with pytest.raises(creche.MailboxFull):
                actor.cast_nowait(Ledger.enter, 2)
        else:
            actor.cast_nowait(Ledger.enter, 2)
        await trio.sleep(20)
        assert "".join(log) == kept
        assert [event.message for event in seen if isinstance(event, events.DeadLetter)] == ([lost] if lost else [])


async def test_q05_nobody_waits_for_an_actor_that_will_not_come_back(autojump_clock: MockClock) -> None:
    """Senders that wait for room in the mailbox of an actor that ends for good are answered, and later ones refused."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        actor = await runtime.start(creche.child(Ledger).options(mailbox=1, restart="temporary"))
        asking(nursery, actor.ask.enter, 0, Gate())
        await settle()
        actor.cast_nowait(Ledger.enter, 1)
        waiting = [asking(nursery, send, Ledger.enter, 2) for send in (actor.cast, actor.call)]
        await settle()
        runtime.kill(actor, "for good")
        assert [await reply.settled() for reply in waiting] == ["NotDelivered"] * 2
        for send in (actor.cast, actor.call):
            with pytest.raises(creche.ActorStopped):
                await send(Ledger.enter, 3)


# --- Q6: a handle across a restart ----------------------------------------------------------------


async def test_q06_kill_through_an_old_handle_hits_the_present_incarnation() -> None:
    """A handle reaches the cell: one taken before a restart controls the incarnation after it. Reports number them."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        for life in (1, 2, 3):
            assert await probe.ask.life() == life
            assert runtime.kill(probe, f"number {life}")
        assert await probe.ask.life() == 4
        crashes = [(event.incarnation, event.error) for event in seen if isinstance(event, events.Crashed)]
        assert crashes == [(life, f"Killed: killed: number {life}") for life in (1, 2, 3)]


async def test_q06_a_new_actor_of_the_same_name_is_a_stranger_to_old_handles() -> None:
    """After the final stop a handle says ActorStopped for ever, and cannot be used to reach, stop or kill another."""
    log: list[str] = []
    spec = creche.child(Ledger, log).options(name="one", restart="temporary")
    async with creche.open_runtime("t") as runtime:
        old = await runtime.start(spec)
        with pytest.raises(creche.OutcomeUnknown):
            await old.ask.die(1)
        new = await runtime.start(spec)
        assert new.path == old.path
        with pytest.raises(creche.ActorStopped) as caught:
            await old.ask.enter(2)
        assert isinstance(caught.value.__cause__, Boom)
        with pytest.raises(creche.ActorStopped):
            old.cast_nowait(Ledger.enter, 3)
        assert not runtime.kill(old, "not the new one")
        await runtime.stop(old)
        assert await new.ask.life() == 1
        assert log == ["1"]


# --- Q7: call cycles ------------------------------------------------------------------------------


class Link(Probe):
    """One of a ring; passes a message on to the next, from its handler or from a nursery in it."""

    def __init__(self) -> None:
        super().__init__()
        self.next: creche.Handle[Link] | None = None

    async def follow(self, following: creche.Handle[Link]) -> None:
        self.next = following

    async def go(self, how: str) -> None:
        assert self.next is not None
        if how == "call":
            await self.next.ask.go(how)
        elif how == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.next.ask.go, how)
        else:
            for _ in range(2):  # the second one finds the mailbox full
                await self.next.cast(Link.go, how)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("how", ["call", "nursery", "cast"])
async def test_q07_a_ring_is_refused_before_it_blocks(how: str, length: int) -> None:
    """A call, or a cast that waits for room, that would close a ring of waiting actors raises CallCycle at once."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        seen = recorded(runtime)
        ring = [await runtime.start(creche.child(Link).options(mailbox=1, backoff=AT_ONCE)) for _ in range(length)]
        for link, following in zip(ring, [*ring[1:], ring[0]], strict=True):
            await link.ask.follow(following)
        ring[0].cast_nowait(Link.go, how)
        await settle()
        first = next(event.error for event in seen if isinstance(event, events.Crashed))
        assert first.startswith("CallCycle: ")
        assert all(link.path in first for link in ring)
        assert [await link.ask.note("alive") for link in ring] == ["alive"] * length


async def test_q07_paths_that_meet_are_no_cycle() -> None:
    """Two actors that wait for a third, or one that waits for two which wait for one, may."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        bottom = await runtime.start(creche.child(Probe))

        async def ask_bottom(probe: Probe) -> str:
            return await bottom.ask.hold(gate)

        middle = [await runtime.start(creche.child(Probe)) for _ in range(2)]

        async def ask_middle(probe: Probe) -> None:
            async with trio.open_nursery() as both:
                for one in middle:
                    both.start_soon(one.ask.run, ask_bottom)

        top = await runtime.start(creche.child(Probe))
        reply = asking(nursery, top.ask.run, ask_middle)
        await gate.entered.wait()
        gate.opened.set()
        assert await reply.settled() == "value"
