"""An asyncio service that calls an actor; it says what it sees."""

from __future__ import annotations

import asyncio

import trio

import creche
from creche.runtime.hosting import AsyncioHost

from .actors import Greeter, say


async def hold_runtime(started: asyncio.Future[creche.Handle[Greeter]], tell: asyncio.Queue[str]) -> None:
    """The guest's main function."""
    async with creche.open_runtime("service") as runtime:
        started.set_result(await runtime.start(creche.child(Greeter, tell.put_nowait)))
        await trio.sleep_forever()


def in_trio_task(_future: object) -> None:
    say("callback in a Trio task:", trio.lowlevel.in_trio_task())


async def serve(host: AsyncioHost, greeter: creche.Handle[Greeter], told: asyncio.Queue[str]) -> None:
    greeting = host.future(greeter.ask.greet, "world")
    greeting.add_done_callback(in_trio_task)
    say(await greeting)
    try:
        await host.future(greeter.ask.crash)
    except creche.OutcomeUnknown as error:
        say(f"{type(error).__name__} because of {error.__cause__!r}")
    say(await host.future(greeter.ask.greet, "again"))

    pondering = host.future(greeter.ask.ponder)
    assert await told.get() == "pondering"
    pondering.cancel()
    assert await told.get() == "cancelled"
    say("the handler is cancelled")
    say(await host.future(greeter.ask.greet, "after it"))


async def main() -> None:
    host = AsyncioHost()
    started: asyncio.Future[creche.Handle[Greeter]] = asyncio.get_running_loop().create_future()
    told: asyncio.Queue[str] = asyncio.Queue()
    early = host.future(trio.sleep, 0)
    guest = asyncio.create_task(host.run(hold_runtime, started, told))
    await serve(host, await started, told)
    await early

    left = host.future(trio.sleep_forever)
    left.add_done_callback(lambda future: say("at the end: cancelled", future.cancelled()))
    guest.cancel()
    try:
        await guest
    except asyncio.CancelledError:
        say("the guest is cancelled and has ended")
    try:
        await host.future(trio.sleep, 0)
    except trio.RunFinishedError:
        say("after the end: RunFinishedError")


asyncio.run(main())
say("the loop has ended")
