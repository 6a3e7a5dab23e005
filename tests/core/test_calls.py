"""The outcomes of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.errors import NotStarted, Unavailable
from creche.runtime.handle import Handle
from tests.core.support import Boom, Gate, Probe, asking, cell_of, kinds, recorded, settle


class Relay(Probe):
    """Calls another actor from its handler."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: Handle[Probe] | None = None

    async def meet(self, peer: Handle[Probe]) -> None:
        self.peer = peer

    async def pass_on(self, what: str = "crash") -> object:
        assert self.peer is not None
        return await getattr(self.peer.ask, what)()


async def test_one_outcome_per_call() -> None:
    """A call ends once: a reply that comes after the caller has left is counted and dropped."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        gate = Gate()
        reply = asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        gate.opened.set()
        await probe.ask.life()
        assert cell_of(probe).discarded == 1


async def test_values_come_back() -> None:
    """A call returns what the handler returns, through `ask` and through `call`."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        assert await probe.ask.note("a") == "a"
        assert await probe.call(Probe.note, word="b") == "b"
        assert await probe.within(1).call(Probe.note, "c") == "c"


async def test_declared_errors_are_answers() -> None:
    """Errors named in `raises=` reach the caller as they are, subclasses too, and the actor lives."""

    class Worse(Boom):
        pass

    class Refusing(Probe):
        @creche.message(raises=Boom)
        async def refuse(self, text: str = "no") -> None:
            raise Worse(text)

    async with creche.open_runtime("t") as runtime:
        refusing = await runtime.start(creche.child(Refusing))
        with pytest.raises(Worse, match="never"):
            await refusing.ask.refuse("never")
        assert await refusing.ask.life() == 1


async def test_domain_errors_are_answers() -> None:
    """A DomainError reaches the caller undeclared, with its code, and the actor lives."""

    class Missing(creche.DomainError):
        http_status = 404

    async def body(probe: Probe) -> None:
        raise Missing(1001, "no such user", cause=Boom("row"))

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(Missing) as caught:
            await probe.ask.run(body)
        assert (caught.value.code, caught.value.http_status) == (1001, 404)
        assert await probe.ask.life() == 1


async def test_unavailable_is_an_answer() -> None:
    """Unavailable passes through any chain of actors as it is and crashes none of them: weather, not a bug."""

    async def body(probe: Probe) -> None:
        raise Unavailable("db", "no route", retry_after=3)

    async with creche.open_runtime("t") as runtime:
        db = await runtime.start(creche.child(Probe).options(name="db"))
        service = await runtime.start(creche.child(Probe).options(name="service"))

        async def ask_db(probe: Probe) -> object:
            return await db.ask.run(body)

        with pytest.raises(Unavailable) as caught:
            await service.ask.run(ask_db)
        assert caught.value.retry_after == 3
        assert [await db.ask.life(), await service.ask.life()] == [1, 1]


@pytest.mark.parametrize("error", [Boom, TypeError, AttributeError, trio.TooSlowError, StopIteration])
async def test_undeclared_errors_crash(error: type[Exception]) -> None:
    """Every other exception that leaves a handler crashes the incarnation, a TypeError of its own body included."""

    async def body(probe: Probe) -> None:
        raise error

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.run(body)
        assert await probe.ask.life() == 2


async def test_each_caller_gets_its_own_exception() -> None:
    """No two callers share an exception object; the cause is shared."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        gate = Gate()
        asking(nursery, probe.ask.hold, gate)
        await gate.entered.wait()
        replies = [asking(nursery, probe.ask.note, "x") for _ in range(3)]
        await settle()
        runtime.kill(probe, "all of you")
        for reply in replies:
            await reply.settled()
        errors = [reply.error for reply in replies]
        assert len({id(error) for error in errors}) == 3
        assert len({id(error.__cause__) for error in errors if error is not None}) == 1


async def test_wrong_arguments_are_the_callers() -> None:
    """Arguments that do not fit are a TypeError for the caller; for a cast they are a dead letter. The actor lives."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(TypeError, match="argument"):
            await probe.ask.note()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        probe.cast_nowait(Probe.note, "x", y=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert await probe.ask.life() == 1
        assert "DeadLetter" in kinds(seen, probe.path)


async def test_unknown_messages_are_attribute_errors() -> None:
    """A name that is no message raises an AttributeError that lists the messages, before anything is sent."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(AttributeError, match="its messages are: add, crash"):
            probe.ask.nonsense  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


async def test_not_delivered_means_never_handled(autojump_clock: MockClock) -> None:
    """A message whose caller got NotDelivered never runs, later either."""
    log: list[str] = []
    backoff = creche.Backoff(first=50, cap=50, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log).options(backoff=backoff, down_wait=1))
        runtime.kill(probe, "down for long")
        await settle()
        with pytest.raises(creche.NotDelivered) as caught:
            await probe.ask.note("lost")
        assert caught.value.reason == "crash"
        assert caught.value.retry_after == pytest.approx(49)
        await trio.sleep(60)
        assert await probe.ask.life() == 2
        assert log == []


async def test_peer_failures_are_answers() -> None:
    """A failed call that leaves a handler is PeerFailed for its caller: no crash of the actor in between, no charge."""
    async with creche.open_runtime("t") as runtime:
        peer = await runtime.start(creche.child(Probe).options(name="peer"))
        relay = await runtime.start(creche.child(Relay))
        await relay.ask.meet(peer)
        with pytest.raises(creche.PeerFailed) as caught:
            await relay.ask.pass_on()
        assert (caught.value.path, caught.value.origin) == ("root/relay", "root/peer")
        assert isinstance(caught.value.cause, creche.OutcomeUnknown)
        assert await relay.ask.life() == 1


async def test_peer_failures_name_the_origin() -> None:
    """Through a longer chain PeerFailed still names the actor that failed first."""
    async with creche.open_runtime("t") as runtime:
        peer = await runtime.start(creche.child(Probe).options(name="peer"))
        inner = await runtime.start(creche.child(Relay).options(name="inner"))
        outer = await runtime.start(creche.child(Relay).options(name="outer"))
        await inner.ask.meet(peer)

        async def ask_inner(probe: Probe) -> object:
            return await inner.ask.pass_on()

        with pytest.raises(creche.PeerFailed) as caught:
            await outer.ask.run(ask_inner)
        assert (caught.value.path, caught.value.origin) == ("root/outer", "root/peer")


async def test_not_delivered_is_never_about_somebody_else() -> None:
    """A NotDelivered that a handler got from its peer reaches the caller as PeerFailed: its own message was handled."""
    async with creche.open_runtime("t") as runtime:
        peer = await runtime.start(creche.child(Probe).options(name="peer"))
        relay = await runtime.start(creche.child(Relay))
        await relay.ask.meet(peer)
        await runtime.stop(peer)
        with pytest.raises(creche.PeerFailed) as caught:
            await relay.ask.pass_on("life")
        assert not isinstance(caught.value, creche.NotDelivered)


async def test_actor_stopped_after_the_final_stop() -> None:
    """After the final stop every use of the handle raises ActorStopped, with the failure that ended it as the cause."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash("the last")
        await settle()
        with pytest.raises(creche.ActorStopped) as caught:
            await probe.ask.life()
        assert repr(caught.value.__cause__) == "Boom('the last')"
        with pytest.raises(creche.ActorStopped):
            probe.cast_nowait(Probe.add)
        with pytest.raises(creche.ActorStopped):
            await probe.cast(Probe.add)


async def test_handles_outlive_their_runtime() -> None:
    """When the block has been left, a handle raises ActorStopped and `runtime.start` is refused."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
    with pytest.raises(creche.ActorStopped):
        await probe.ask.life()
    with pytest.raises(creche.ActorStopped):
        await runtime.start(creche.child(Probe))


def test_handles_before_the_start_say_not_started() -> None:
    """A handle that is not bound yet raises NotStarted, which says what to do."""
    handle: Handle[Probe] = creche.child(Probe).new_handle()
    with pytest.raises(NotStarted, match=r"runtime\.start"):
        _ = handle.ask


async def test_order_per_sender() -> None:
    """What one task sends arrives in the order in which it was sent: casts, then the call."""
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe, log).options(mailbox=4))
        for number in range(20):
            await probe.cast(Probe.note, str(number))
        await probe.ask.life()
        assert log == [str(number) for number in range(20)]


async def test_self_calls_are_refused() -> None:
    """A handler that calls its own actor gets CallCycle before it blocks, in a nursery of its own too."""

    async def directly(probe: Probe) -> None:
        await probe.context.handle.ask.life()

    async def in_a_nursery(probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe.context.handle.ask.life)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        for body in (directly, in_a_nursery):
            with pytest.raises(creche.OutcomeUnknown) as caught:
                await probe.ask.run(body)
            cause = caught.value.__cause__
            assert isinstance(cause, creche.CallCycle)
            assert cause.chain == ("root/probe", "root/probe")


async def test_self_calls_from_the_lifespan_are_refused(autojump_clock: MockClock) -> None:
    """An actor that calls itself while it starts would wait for ever: CallCycle instead."""

    class Impatient(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            await self.context.handle.ask.life()
            yield

    async with creche.open_runtime("t") as runtime:
        with trio.move_on_after(100) as limit:
            with pytest.raises(creche.StartFailed) as caught:
                await runtime.start(creche.child(Impatient))
            assert isinstance(caught.value.__cause__, creche.CallCycle)
        assert not limit.cancelled_caught


async def test_call_cycles_are_refused() -> None:
    """A call that would wait for its own caller, over any number of actors, raises CallCycle with the chain."""
    async with creche.open_runtime("t") as runtime:
        names = ("a", "b", "c")
        a, b, c = [await runtime.start(creche.child(Probe).options(name=name)) for name in names]

        async def ask_a(probe: Probe) -> object:
            with pytest.raises(creche.CallCycle) as caught:
                await a.ask.life()
            return caught.value.chain

        async def ask_c(probe: Probe) -> object:
            return await c.ask.run(ask_a)

        async def ask_b(probe: Probe) -> object:
            return await b.ask.run(ask_c)

        chain = ("root/c", "root/a", "root/b", "root/c")
        assert await a.ask.run(ask_b) == chain
        assert await a.ask.life() == 1
        assert [list(cell_of(each).waits_for()) for each in (a, b, c)] == [[], [], []]


async def test_call_cycles_over_a_full_mailbox_are_refused() -> None:
    """A cast that would wait for room at an actor that waits for the sender raises CallCycle."""
    async with creche.open_runtime("t") as runtime:
        a = await runtime.start(creche.child(Probe).options(name="a", mailbox=1))
        b = await runtime.start(creche.child(Probe).options(name="b"))

        async def fill_a(probe: Probe) -> str:
            a.cast_nowait(Probe.add)
            with pytest.raises(creche.CallCycle):
                await a.cast(Probe.add)
            return "refused"

        async def ask_b(probe: Probe) -> object:
            return await b.ask.run(fill_a)

        assert await a.ask.run(ask_b) == "refused"


async def test_background_work_makes_no_cycles(autojump_clock: MockClock) -> None:
    """Nobody's handler waits for background work, of `spawn` or of the lifespan's nursery: it may call its own
    actor."""
    answers: list[object] = []

    class Busy(Probe):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            self.context.spawn(self._ask_myself)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_myself)
                yield
                nursery.cancel_scope.cancel()

        async def _ask_myself(self) -> None:
            answers.append(await self.context.handle.ask.note("me"))

    async with creche.open_runtime("t") as runtime:
        busy = await runtime.start(creche.child(Busy))
        await settle()
        assert answers == ["me", "me"]
        assert await busy.ask.life() == 1


async def test_a_call_before_anything_blocks_no_loop() -> None:
    """Wait-for edges of a handler that died are gone: the next call to the same actor is no cycle."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        a = await runtime.start(creche.child(Probe).options(name="a"))
        b = await runtime.start(creche.child(Probe).options(name="b"))
        gate = Gate()

        async def ask_b(probe: Probe) -> object:
            return await b.ask.hold(gate)

        asking(nursery, a.ask.run, ask_b)
        await gate.entered.wait()
        runtime.kill(a, "waiting")
        assert await a.ask.life() == 2
        gate.opened.set()

        async def ask_a(probe: Probe) -> object:
            return await a.ask.life()

        assert await b.ask.run(ask_a) == 2


@pytest.mark.parametrize("how", ["call", "cast", "call from a handler"])
@pytest.mark.parametrize("why", ["overflow", "stopped"])
async def test_a_refusal_is_a_checkpoint(how: str, why: str) -> None:
    """Whoever tries again at once, for ever, starves nobody and can be cancelled."""

    async def try_again(probe: Probe) -> None:
        while True:
            with suppress(creche.NotDelivered, creche.ActorStopped):
                await (refusing.cast(Probe.add) if how == "cast" else refusing.ask.add())

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        refusing = await runtime.start(creche.child(Probe).options(mailbox=1, overflow="reject", drain=0))
        caller = await runtime.start(creche.child(Probe).options(name="caller"))
        if why == "stopped":
            await runtime.stop(refusing)
        else:
            asking(nursery, refusing.ask.hold, Gate())
            await settle()
            refusing.cast_nowait(Probe.add)
        if how == "call from a handler":
            trying = asking(nursery, caller.ask.run_for_caller, try_again)
        else:
            trying = asking(nursery, try_again, Probe())
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        trying.scope.cancel()
        assert await trying.settled() == "cancelled"
        nursery.cancel_scope.cancel()
