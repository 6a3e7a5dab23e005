"""Twisted services that call an actor and say what they see. Which one is the argument."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Generator
from typing import Any

import trio
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.python.failure import Failure

import creche
from creche.runtime.hosting import TwistedHost

from .actors import Greeter, say

reactor: Any = the_reactor
host = TwistedHost()
started: Deferred[creche.Handle[Greeter]] = Deferred()
told: dict[str, Deferred[None]] = {"pondering": Deferred(), "cancelled": Deferred()}


def tell(what: str) -> None:
    """Called by the actor."""
    reactor.callLater(0, told[what].callback, None)


async def main() -> None:
    async with creche.open_runtime("service") as runtime:
        greeter = await runtime.start(creche.child(Greeter, tell))
        reactor.callLater(0, started.callback, greeter)
        await trio.sleep_forever()


def in_trio_task(value: object) -> object:
    say("callback in a Trio task:", trio.lowlevel.in_trio_task())
    return value


@inlineCallbacks
def serve() -> Generator[Deferred[Any], Any, None]:
    early = host.deferred(trio.sleep, 0)
    greeter: creche.Handle[Greeter] = yield started
    yield early
    say((yield host.deferred(greeter.ask.greet, "world").addBoth(in_trio_task)))
    try:
        yield host.deferred(greeter.ask.crash).addBoth(in_trio_task)
    except creche.OutcomeUnknown as error:
        say(f"{type(error).__name__} because of {error.__cause__!r}")
    say((yield host.deferred(greeter.ask.greet, "again")))

    pondering = host.deferred(greeter.ask.ponder)
    yield told["pondering"]
    pondering.cancel()
    try:
        yield pondering
    except CancelledError:
        say("the Deferred is cancelled")
    yield told["cancelled"]
    say("the handler is cancelled")
    say((yield host.deferred(greeter.ask.greet, "after it")))

    left = host.deferred(trio.sleep, 3600)
    left.addErrback(cancelled_at_the_end)
    reactor.stop()


def cancelled_at_the_end(failure: Failure) -> None:
    say("at the end:", type(failure.value).__name__)


def failed(failure: Failure) -> None:
    traceback.print_exception(failure.value)
    reactor.stop()


def call_from_twisted() -> None:
    host.start(main).addCallbacks(lambda value: say("main has ended with", value), failed)
    reactor.callWhenRunning(lambda: serve().addErrback(failed))


def wait_for_a_signal() -> None:
    host.start(main).addCallbacks(lambda value: say("main has ended with", value), failed)
    started.addCallback(lambda _: say("running"))


async def fail() -> None:
    raise LookupError("a bug in main")


@inlineCallbacks
def see_main_fail() -> Generator[Deferred[Any], Any, None]:
    left = host.deferred(trio.sleep, 3600)
    try:
        yield host.start(fail)
    except LookupError as error:
        say(repr(error))
    for call in (left, host.deferred(trio.sleep, 0)):
        try:
            yield call
        except (CancelledError, trio.RunFinishedError) as error:
            say(type(error).__name__)
    try:
        yield host.start(main)
    except RuntimeError as error:
        say(error)
    reactor.stop()


def main_fails() -> None:
    reactor.callWhenRunning(lambda: see_main_fail().addErrback(failed))


{"call": call_from_twisted, "signal": wait_for_a_signal, "main_fails": main_fails}[sys.argv[1]]()
reactor.run()
say("the reactor has ended")
