"""The store of dead letters: what nobody will handle, to be looked at and sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Boom, Gate, asking, settle

MANY = creche.Intensity(99, 1)


class Clerk(creche.Actor):
    """Dies of what it is given until it has been mended."""

    def __init__(self, broken: list[bool], log: list[str]) -> None:
        self.broken = broken
        self.log = log

    async def file(self, word: str, *, twice: bool = False) -> None:
        if self.broken:
            raise Boom(word)
        self.log.append(word + word if twice else word)

    @creche.message(idempotent=True, attempts=2)
    async def copy(self, word: str) -> None:
        await self.file(word)

    @creche.message(concurrency=2)
    async def beside(self, word: str) -> None:
        await self.file(word)

    @creche.batched(limit=9)
    async def many(self, items: Sequence[creche.BatchItem[str, None]]) -> None:
        await self.file(items[0].value)
        items[0].reply(None)

    async def later(self, word: str) -> Any:
        slot = self.context.defer()
        await self.file(word)
        slot.reply(None)
        return slot.later()

    async def hold(self, gate: Gate) -> None:
        await gate.hold()


async def test_no_dead_letters_are_kept_unless_asked_for() -> None:
    """Then there is no store at all."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        clerk = await runtime.start(creche.child(Clerk, [True], []))
        clerk.cast_nowait(Clerk.file, "a")
        await settle()
        assert runtime.dead_letters is None


@pytest.mark.parametrize("name", ["file", "beside", "many", "later"])
async def test_lost_casts_are_kept_with_what_they_died_of(name: str) -> None:
    """Whatever kind of message it is."""
    log: list[str] = []
    broken = [True]
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        letters = runtime.keep_dead_letters()
        clerk = await runtime.start(creche.child(Clerk, broken, log))
        clerk.cast_nowait(getattr(Clerk, name), "a")
        await settle()
        (letter,) = letters.list()
        assert (letter.path, letter.message, letter.args, letter.kwargs) == ("root/clerk", name, ("a",), {})
        assert (letter.reason, letter.attempts, letter.causes) == ("crash", 1, ("Boom: a",))
        assert abs(letter.time - runtime.wall_clock()) < 3600
        broken.clear()
        assert letters.replay(letter) == 1
        await clerk.ask.file("b")
        await settle()
        assert sorted(log) == ["a", "b"]
        assert letters.list() == []


async def test_what_was_never_handled_is_kept_without_attempts(autojump_clock: MockClock) -> None:
    """Casts that the actor's mailbox held when it ended, that had expired, found no room, or did not fit."""
    async with creche.open_runtime("t", intensity=MANY) as runtime, trio.open_nursery() as nursery:
        letters = runtime.keep_dead_letters()
        spec = creche.child(Clerk, [], []).options(mailbox=3, overflow="drop_newest", drain=1, shutdown=1)
        clerk = await runtime.start(spec)
        gate = Gate()
        asking(nursery, clerk.ask.hold, gate)
        await gate.entered.wait()
        clerk.cast_nowait(Clerk.file, "a", twice=True)
        await clerk.within(expires=1).cast(Clerk.file, "expired")
        clerk.cast_nowait(Clerk.file)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        clerk.cast_nowait(Clerk.file, "no room")
        await trio.sleep(2)
        gate.opened.set()
        await settle()
        found = [(letter.reason, letter.args, letter.attempts, letter.causes) for letter in letters.list()]
        assert found == [
            ("overflow", ("no room",), 0, ()),
            ("expired", ("expired",), 0, ()),
            ("wrong arguments", (), 0, ()),
        ]

        gate = Gate()
        asking(nursery, clerk.ask.hold, gate)
        await gate.entered.wait()
        clerk.cast_nowait(Clerk.file, "late", twice=True)
        await runtime.stop(clerk)
        (letter,) = letters.list(reason="closed")
        assert (letter.args, letter.kwargs) == (("late",), {"twice": True})


async def test_a_cast_that_was_replaced_is_no_letter() -> None:
    """What it said is out of date."""

    class Latest(Clerk):
        @creche.message(key=lambda word: "one")
        async def file(self, word: str, *, twice: bool = False) -> None:
            self.log.append(word)

    async with creche.open_runtime("t", intensity=MANY) as runtime:
        letters = runtime.keep_dead_letters()
        log: list[str] = []
        actor = await runtime.start(creche.child(Latest, [], log).options(overflow="latest_by_key"))
        for word in "abc":
            actor.cast_nowait(Latest.file, word)
        await settle()
        assert log == ["c"]
        assert letters.list() == []


async def test_a_poison_call_can_be_replayed() -> None:
    """As a cast: its caller has been told. Its attempts are counted anew."""
    log: list[str] = []
    broken = [True]
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        letters = runtime.keep_dead_letters()
        clerk = await runtime.start(creche.child(Clerk, broken, log).options(backoff=creche.Backoff(free=9)))
        with pytest.raises(creche.OutcomeUnknown):
            await clerk.ask.copy("a")
        assert [(letter.reason, letter.attempts) for letter in letters.list()] == [("poison", 2)]
        assert letters.replay(reason="poison") == 1
        await settle()
        assert [(letter.reason, letter.attempts, letter.number) for letter in letters.list()] == [("poison", 2, 2)]
        broken.clear()
        assert letters.replay() == 1
        await settle()
        assert log == ["a"]


async def test_what_is_refused_stays_in_the_store() -> None:
    """Because its actor is gone, or has no room; the others go."""
    async with creche.open_runtime("t", intensity=MANY) as runtime, trio.open_nursery() as nursery:
        letters = runtime.keep_dead_letters()
        broken = [True]
        for name in ("one", "two"):
            clerk = await runtime.start(
                creche.child(Clerk, broken, []).options(name=name, mailbox=1, backoff=creche.Backoff(free=9))
            )
            for word in "ab":
                await clerk.cast(Clerk.file, word)
                await settle()
        one = runtime.handle("root/one", Clerk)
        await runtime.stop(runtime.handle("root/two", Clerk))
        broken.clear()
        gate = Gate()
        asking(nursery, one.ask.hold, gate)
        await gate.entered.wait()
        assert letters.replay(path="root") == 1
        assert [(letter.path, letter.args) for letter in letters.list()] == [
            ("root/one", ("b",)),
            ("root/two", ("a",)),
            ("root/two", ("b",)),
        ]
        gate.opened.set()
        await settle()
        assert letters.replay(*letters.list(path="root/one"), *letters.list(path="root/two")) == 1
        assert letters.discard(path="root/tw") == 0
        assert letters.discard(path="root/two", reason="crash") == 2
        assert len(letters) == 0


async def test_the_store_is_bounded_and_counts() -> None:
    """The oldest goes; the figures tell what became of each."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        letters = runtime.keep_dead_letters(2)
        spec = creche.child(Clerk, [True], []).options(backoff=creche.Backoff(free=9))
        clerk = await runtime.start(spec)
        for word in "abcd":
            clerk.cast_nowait(Clerk.file, word)
        clerk.cast_nowait(Clerk.file)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await settle()
        assert [letter.number for letter in letters.list()] == [4, 5]
        assert letters.discard(letters.list()[0]) == 1
        now = letters.statistics()
        assert (now.waiting, now.capacity, now.evicted, now.replayed, now.discarded) == (1, 2, 3, 0, 1)
        assert now.kept == {"crash": 4, "wrong arguments": 1}
        assert runtime.keep_dead_letters(1) is letters is runtime.dead_letters
        assert repr(letters) == "<DeadLetters 1 of 1>"


@pytest.mark.parametrize("capacity", [0, 1.5, True, "9"])
async def test_wrong_capacities_are_refused(capacity: Any) -> None:
    """Nothing has changed then."""
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        with pytest.raises(creche.SpecInvalid, match="1 or more"):
            runtime.keep_dead_letters(capacity)
        assert runtime.dead_letters is None
        letters = runtime.keep_dead_letters()
        with pytest.raises(creche.SpecInvalid, match="by path and reason"):
            letters.discard(creche.LostMessage(1, 0, "root/x", "file", (), {}, "crash", 1, ()), path="root/x")
