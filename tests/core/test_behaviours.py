"""`become`: other handlers for an actor's messages, for as long as it is in a certain state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.interposition import interposed
from creche.testing.faults import Delay
from creche.testing.injector import Injector
from tests.core.support import Boom, Gate, Probe, asking, settle


class Line(creche.Actor):
    """A connection as a state machine: down, dialling, up. What comes too early waits in the stash."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def send(self, data: str) -> str:
        self.context.spawn(self._dial)
        creche.become(self, Dialling(self))
        self.context.stash()

    async def hang_up(self) -> bool:
        return False

    @creche.message(concurrency=2)
    async def beside(self) -> str:
        return "own"

    @creche.batched(limit=3)
    async def together(self, items: Sequence[creche.BatchItem[int, int]]) -> None:
        for item in items:
            item.reply(item.value)

    async def put_up(self) -> None:
        creche.become(self, Up(self))
        self.context.unstash_all()

    async def crash(self) -> None:
        raise Boom("line")

    async def wrong(self, behaviour: object) -> None:
        creche.become(self, behaviour)

    async def _dial(self) -> None:
        await trio.sleep(3)
        me: creche.Handle[Line] = self.context.handle
        await me.cast(Line.put_up)


class Dialling:
    def __init__(self, line: Line) -> None:
        self.line = line

    async def send(self, data: str) -> str:
        self.line.context.stash()


class Up:
    """Handles a message of each kind."""

    def __init__(self, line: Line) -> None:
        self.line = line

    async def send(self, data: str) -> str:
        self.line.log.append(data)
        return f"sent {data}"

    async def hang_up(self) -> bool:
        creche.unbecome(self.line)
        return True

    async def beside(self) -> str:
        return "up"

    async def together(self, items: Sequence[creche.BatchItem[int, int]]) -> None:
        for item in items:
            item.reply(item.value * 2)

    def _private(self) -> None:
        """Of no concern."""


async def test_a_behaviour_handles_the_messages_that_it_has_methods_for(autojump_clock: MockClock) -> None:
    """From the next message on; the others stay with the actor, and callers see no difference."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        log: list[str] = []
        line = await runtime.start(creche.child(Line, log))
        replies = [asking(nursery, line.ask.send, "a")]
        await settle()
        replies.append(asking(nursery, line.ask.send, "b"))
        await settle()
        assert (line.statistics().stashed, await line.ask.hang_up()) == (2, False)
        await trio.sleep(4)
        assert ([reply.value for reply in replies], log) == (["sent a", "sent b"], ["a", "b"])
        assert await line.ask.send("c") == "sent c"
        assert (await line.ask.beside(), await line.ask.together(4)) == ("up", 8)
        assert (await line.ask.hang_up(), await line.ask.hang_up()) == (True, False)
        assert (await line.ask.beside(), await line.ask.together(4)) == ("own", 4)


async def test_a_behaviour_ends_with_its_incarnation(autojump_clock: MockClock) -> None:
    """A successor begins with its own handlers; a dead actor becomes nothing any more."""
    async with creche.open_runtime("test") as runtime:
        line = await runtime.start(creche.child(Line, []))
        await line.ask.put_up()
        with pytest.raises(creche.OutcomeUnknown):
            await line.ask.crash()
        assert await line.ask.beside() == "own"

        dead: list[Probe] = []

        async def keep(actor: Probe) -> None:
            dead.append(actor)

        probe = await runtime.start(creche.child(Probe))
        await probe.ask.run(keep)
        runtime.kill(probe, "to see")
        await settle()
        with pytest.raises(RuntimeError, match="this incarnation has ended"):
            creche.unbecome(dead[0])


async def test_the_handler_that_is_running_goes_on_after_become(autojump_clock: MockClock) -> None:
    """The behaviour counts from the next message on."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:

        class Loud:
            async def note(self, word: str) -> str:
                return word.upper()

        async def change(actor: Probe) -> str:
            creche.become(actor, Loud())
            return await actor.note("as it is called")

        gate = Gate()
        probe = await runtime.start(creche.child(Probe))
        asking(nursery, probe.ask.hold, gate)
        await settle()
        changed = asking(nursery, probe.ask.run, change)
        await settle()
        after = asking(nursery, probe.ask.note, "word")
        gate.opened.set()
        await settle()
        assert (changed.value, after.value) == ("AS IT IS CALLED", "WORD")


class Unknown:
    async def hang(self) -> None: ...


class OtherParameters:
    async def send(self, text: str) -> str:
        return text


class Synchronous:
    def send(self, data: str) -> str:
        return data


class Nothing:
    async def _send(self, data: str) -> str:
        return data


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        (Unknown(), "it is no message of Line"),
        (OtherParameters(), r"the message has the parameters \['data'\]"),
        (Synchronous(), "a handler is an `async def` method"),
        (Nothing(), "no `async def` method named as a message"),
    ],
)
async def test_wrong_behaviours_are_refused(autojump_clock: MockClock, behaviour: object, complaint: str) -> None:
    """`SpecInvalid`, and the actor's behaviour is as it was before."""
    async with creche.open_runtime("test") as runtime:
        line = await runtime.start(creche.child(Line, []))
        with pytest.raises(creche.OutcomeUnknown) as caught:
            await line.ask.wrong(behaviour)
        assert isinstance(caught.value.__cause__, creche.SpecInvalid)
        with pytest.raises(creche.SpecInvalid, match=complaint):
            raise caught.value.__cause__
        assert await line.ask.hang_up() is False


async def test_what_stands_in_front_of_handlers_stands_in_front_of_behaviours(autojump_clock: MockClock) -> None:
    """Faults on purpose strike them, too."""
    injector = Injector()
    with interposed(injector):
        opening = creche.open_runtime("test")
    async with opening as runtime:
        line = await runtime.start(creche.child(Line, []))
        await line.ask.put_up()
        for answer in ("up", "own"):
            injector.arm("root/line", Delay(5, "beside"))
            began = trio.current_time()
            assert (await line.ask.beside(), trio.current_time() - began) == (answer, 5)
            await line.ask.hang_up()
