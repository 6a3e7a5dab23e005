"""Found in review: exceptions of a strange shape failed the whole tree, lost their text, or grew and pinned frames."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

import creche
from creche.runtime.events import Crashed
from tests.core.support import Boom, Probe, recorded, settle


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False


class NeitherTrueNorFalse(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no truth value")


def circle() -> Exception:
    """Two errors, each of which is the cause of the other."""
    first, last = Boom("first"), Boom("last")
    first.__cause__, last.__cause__ = last, first
    return last


def deep() -> Exception:
    """An error at the end of thousands of causes."""
    last = Boom("0")
    for number in range(5000):
        outer = Boom(str(number))
        outer.__cause__ = last
        last = outer
    return last


async def crash_with(probe: creche.Handle[Probe], make: Callable[[], Exception]) -> BaseException | None:
    """Crash an incarnation with what `make` returns; the cause that its caller is told."""

    async def body(_probe: Probe) -> None:
        raise make()

    with pytest.raises(creche.OutcomeUnknown) as caught:
        await probe.ask.run(body)
    return caught.value.__cause__


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("make", [circle, deep])
async def test_a_strange_chain_of_causes_crashes_only_its_actor(make: Callable[[], Exception], listening: bool) -> None:
    """A circle of causes, or thousands of them, is a crash like any other, whether or not it is told as an event."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime) if listening else []
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        other = await runtime.start(creche.child(Probe).options(name="other"))
        await crash_with(probe, make)
        await settle()
        assert await other.ask.life() == 1
        with pytest.raises(creche.ActorStopped):
            await probe.ask.life()
        assert len([event for event in seen if isinstance(event, Crashed)]) == listening


@pytest.mark.parametrize("odd", [Falsy, NeitherTrueNorFalse])
async def test_an_exception_without_truth_is_the_crash(odd: type[Exception]) -> None:
    """Whether there was an error is not asked of the error."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        assert isinstance(await crash_with(probe, odd), odd)
        assert await probe.ask.life() == 2
        assert [event.error for event in seen if isinstance(event, Crashed)] == [odd.__name__]


class Held:
    """Something in a frame that an error came through."""


def raised() -> Boom:
    """An error with a traceback, in the frame of which something is held."""
    held = Held()
    try:
        raise Boom(type(held).__name__)
    except Boom as error:
        return error


async def test_the_last_failure_keeps_no_frames_of_a_group_either() -> None:
    """What is kept of a group for later callers has no tracebacks in its parts."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        await crash_with(probe, lambda: ExceptionGroup("two", [raised(), raised()]))
        await settle()
        gc.collect()
        assert [thing for thing in gc.get_objects() if isinstance(thing, Held)] == []
        with pytest.raises(creche.ActorStopped) as caught:
            await probe.ask.life()
        kept = caught.value.__cause__
        assert isinstance(kept, ExceptionGroup)
        assert [repr(part) for part in kept.exceptions] == ["Boom('Held')"] * 2


async def test_the_last_failure_keeps_its_text() -> None:
    """Also where the text is not in `args` but in what the constructor has set."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(restart="temporary"))
        first = await crash_with(probe, lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
        with pytest.raises(creche.ActorStopped) as caught:
            await probe.ask.life()
        assert str(caught.value.__cause__) == str(first)
        assert "can't decode byte 0xff" in str(first)


class Degraded(creche.Actor):
    """Raises one and the same object for everybody."""

    def __init__(self) -> None:
        self.state = creche.Unavailable("redis", "down", 1)

    async def get(self) -> None:
        raise self.state


def frames_of(error: BaseException) -> int:
    entry, count = error.__traceback__, 0
    while entry is not None:
        entry, count = entry.tb_next, count + 1
    return count


async def test_an_answer_that_is_raised_again_and_again_does_not_grow() -> None:
    """Each caller gets an object of its own, with the frames of its own call only."""
    async with creche.open_runtime("t") as runtime:
        degraded = await runtime.start(creche.child(Degraded))
        errors: list[creche.Unavailable] = []
        for _ in range(100):
            with pytest.raises(creche.Unavailable) as caught:
                await degraded.ask.get()
            errors.append(caught.value)
        assert frames_of(errors[-1]) <= frames_of(errors[1])
        assert len({id(error) for error in errors}) == 100
        assert {(error.name, error.reason, error.retry_after) for error in errors} == {("redis", "down", 1)}
