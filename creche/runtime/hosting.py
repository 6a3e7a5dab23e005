"""Trio as the guest of another event loop, so that Twisted code and asyncio code call actors.

Theory of operation
-------------------
A guest run (Trio's "guest mode") shares the host's thread: Trio's scheduler runs in callbacks of the host's loop, and
while it has nothing to do, a worker thread waits for its I/O. Host code and Trio code never run at the same time, and
host code may call Trio's synchronous functions directly. `Guest.call` does: it starts a task in a nursery that the
guest's main task holds, and its cancel is the cancel of that task's scope. There is no queue and no lock.

    host code ──call──▶ a Trio task ──settle, scheduled in the host's loop──▶ host code

* Results go back through the host's loop, never directly: the callbacks of a Deferred would otherwise run inside the
  Trio task, where one that takes its time, or raises, would be in Trio's way.
* Each call is settled once: with its value, with its error, or with None when it was cancelled. Calls that come before
  the nursery is open wait in `_early`; those that come after its end are settled with `trio.RunFinishedError`.
* The nursery lies around the main function and is cancelled when that has ended: a runtime that the main function
  holds open has stopped in order before the calls that are left are cancelled.
* Of the caller's context only the baggage travels, as with every message.

Trio wants its run finished before the host's loop ends, and the hosts below see to it: `TwistedHost` holds up the
reactor's shutdown, `AsyncioHost.run` waits also when it is cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import outcome
import trio

from .context import BAGGAGE, baggage
from .runtime import raise_single

if TYPE_CHECKING:
    import asyncio

    from twisted.internet.defer import Deferred

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# An idle Trio waits in a thread, and back from there cost a call that comes alone two thirds of its time (measured). A
# caller in the host asks again at most so many passes of its loop after it was settled.
LINGER = 2

# Has the host's loop run a function soon.
Soon = Callable[[Callable[[], object]], object]
# Takes the end of a call: its value or error, or None if it was cancelled. Runs in the host's loop.
Settle = Callable[["outcome.Outcome[T] | None"], object]


class _Call(Generic[T]):
    """One call from the host, under way."""

    __slots__ = ("args", "baggage", "fn", "scope", "settle")

    def __init__(self, settle: Settle[T], fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self.settle = settle
        self.fn = fn
        self.args = args
        self.scope = trio.CancelScope()
        self.baggage = baggage()


class Guest:
    """A Trio run inside a host's event loop. All of it is for use in the host's thread.

    Parameters
    ----------
    run_sync_soon_threadsafe
        Has the host's loop run a function soon; may be called from any thread.
    run_sync_soon_not_threadsafe
        The same from the host's thread only, for hosts that have a cheaper way then.
    host_uses_signal_set_wakeup_fd
        Whether the host's loop calls `signal.set_wakeup_fd`. Then Trio does not.
    clock
        As in `trio.run`.
    """

    def __init__(
        self,
        *,
        run_sync_soon_threadsafe: Soon,
        run_sync_soon_not_threadsafe: Soon | None = None,
        host_uses_signal_set_wakeup_fd: bool = False,
        clock: trio.abc.Clock | None = None,
    ) -> None:
        self._soon_from_any_thread = run_sync_soon_threadsafe
        self._soon = run_sync_soon_not_threadsafe or run_sync_soon_threadsafe
        self._host_uses_wakeup_fd = host_uses_signal_set_wakeup_fd
        self._clock = clock
        self._main_scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._early: list[_Call[Any]] = []
        self._started = self._over = False

    def start(
        self,
        done_callback: Callable[[outcome.Outcome[T | None]], object],
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
    ) -> None:
        """Start the Trio run with `fn(*args)` as its main function. Once, while the host's loop runs.

        `done_callback` runs in the host's loop when the run has ended: with the value or the error of `fn`, or with
        the value None if `stop` has cancelled it. The host's loop has to run on until then.

        Raises RuntimeError if it has been started before, or if Trio runs in this thread already.
        """
        if self._started:
            raise RuntimeError("a guest starts once: make another one")
        self._started = True
        trio.lowlevel.start_guest_run(
            self._hold,
            fn,
            args,
            run_sync_soon_threadsafe=self._soon_from_any_thread,
            run_sync_soon_not_threadsafe=self._soon,
            done_callback=lambda result: self._soon(partial(done_callback, result)),
            host_uses_signal_set_wakeup_fd=self._host_uses_wakeup_fd,
            clock=self._clock,
        )

    def stop(self) -> None:
        """Cancel the main function; a runtime that it holds open stops in order. Idempotent. Does not wait."""
        self._main_scope.cancel("the host stops its guest")

    def call(self, settle: Settle[T], fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Callable[[], None]:
        """Run `fn(*args)` in the Trio run and give its end to `settle`, once, from the host's loop.

        Returns a function that cancels the call. It is idempotent, and without effect when the call has ended.
        """
        call = _Call(settle, fn, args)
        if self._over:
            self._soon(partial(settle, outcome.Error(trio.RunFinishedError("the guest run has ended"))))
        elif self._nursery is None:
            self._early.append(call)
        else:
            self._spawn(self._nursery, call)
        return partial(call.scope.cancel, "its caller in the host has cancelled it")

    async def _hold(self, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T | None:
        """The main task: `fn(*args)`, and around it the calls from the host."""
        value: T | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._open(nursery)
                try:
                    with self._main_scope:
                        value = await fn(*args)
                finally:
                    self._over = True
                    nursery.cancel_scope.cancel("the guest's main function has ended")
        except BaseExceptionGroup as group:
            error = group
        else:
            return value
        raise_single(error)

    def _open(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        for call in self._early:
            self._spawn(nursery, call)
        self._early.clear()

    def _spawn(self, nursery: trio.Nursery, call: _Call[Any]) -> None:
        # A clean context: the call must not inherit an actor's place, or the host's idea of a current loop.
        Context().run(nursery.start_soon, self._run, call)

    async def _run(self, call: _Call[Any]) -> None:
        BAGGAGE.set(call.baggage)
        result: outcome.Outcome[Any] | None = None
        try:
            with call.scope:
                result = outcome.Value(await call.fn(*call.args))
        except Exception as error:
            result = outcome.Error(error)
        finally:
            self._soon(partial(call.settle, result))
            del result  # an error's traceback holds this frame: without a way back there is no cycle
        await self._linger()

    async def _linger(self) -> None:
        """After the last call under way, stay awake until the host has had the chance to make the next one."""
        assert self._nursery is not None
        if len(self._nursery.child_tasks) == 1:
            for _ in range(LINGER):
                await trio.lowlevel.checkpoint()


class TwistedHost:
    """Trio as the guest of Twisted's reactor, and a Deferred for each call. Use it in the reactor's thread.

    Needs the extra ``creche[twisted]``. `reactor` is the global one unless another is given. A reactor has at most one
    guest at a time.
    """

    def __init__(self, reactor: Any = None) -> None:
        self._reactor: Any = _global_reactor() if reactor is None else reactor
        self._stopping = False
        self._guest = Guest(
            run_sync_soon_threadsafe=self._reactor.callFromThread,
            run_sync_soon_not_threadsafe=partial(self._reactor.callLater, 0),
            host_uses_signal_set_wakeup_fd=True,
        )

    def start(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Deferred[T | None]:
        """Start the Trio run with the main function `fn(*args)`, as soon as the reactor runs. Once.

        The Deferred fires when the Trio run has ended: with the value or the error of `fn`, or with None if it was
        stopped. Cancelling it stops the run, as does the reactor's shutdown, which waits for its end.
        """
        from twisted.internet.defer import Deferred

        finished: Deferred[T | None] = Deferred(lambda _: self.stop())
        gone: Deferred[None] = Deferred()
        trigger: Any = None

        def begin() -> None:
            nonlocal trigger
            try:
                self._guest.start(ended, fn, *args)
            except Exception as error:
                finished.errback(error)
            else:
                trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down, gone)

        def ended(result: outcome.Outcome[T | None]) -> None:
            if not self._stopping:
                self._reactor.removeSystemEventTrigger(trigger)
            _settle_deferred(finished, result)
            gone.callback(None)

        self._reactor.callWhenRunning(begin)
        return finished

    def deferred(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Deferred[T]:
        """Run `fn(*args)` in the Trio run, such as ``host.deferred(greeter.ask.greet, "world")``.

        The Deferred fires from the reactor with the value or the error of `fn`. Cancelling it cancels `fn`; what that
        means for a message that is being handled is said by the message's ``on_caller_gone``. The Deferred does not
        wait for it. Calls made before the run has started wait for it; after its end they fail with
        `trio.RunFinishedError`; those under way at its end fail with Twisted's ``CancelledError``.
        """
        from twisted.internet.defer import Deferred

        result: Deferred[T] = Deferred(lambda _: cancel())
        cancel = self._guest.call(partial(_settle_deferred, result), fn, *args)
        return result

    def stop(self) -> None:
        """Cancel the main function; a runtime that it holds open stops in order. Idempotent. Does not wait."""
        self._guest.stop()

    def _shut_down(self, gone: Deferred[None]) -> Deferred[None]:
        self._stopping = True
        self.stop()
        return gone


class AsyncioHost:
    """Trio as the guest of an asyncio loop, and a Future for each call. Make and use it in the loop's thread.

    A loop has at most one guest at a time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._guest = Guest(
            run_sync_soon_threadsafe=self._loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self._loop.call_soon,
            host_uses_signal_set_wakeup_fd=True,
        )

    async def run(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T | None:
        """Be the host of a Trio run with the main function `fn(*args)`, until it has ended. Once.

        Returns the value of `fn` or raises its error; None if it was stopped. If cancelled, it stops the run and waits
        for its end all the same.
        """
        import asyncio

        ended: asyncio.Future[outcome.Outcome[T | None]] = self._loop.create_future()
        self._guest.start(ended.set_result, fn, *args)
        cancelled: asyncio.CancelledError | None = None
        while not ended.done():
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError as error:
                cancelled = error
                self.stop()
        value = ended.result().unwrap()
        if cancelled is not None:
            raise cancelled
        return value

    def future(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run `fn(*args)` in the Trio run. As `TwistedHost.deferred`; a call under way at the end is cancelled."""
        result: asyncio.Future[T] = self._loop.create_future()
        cancel = self._guest.call(partial(_settle_future, result), fn, *args)
        result.add_done_callback(lambda future: cancel() if future.cancelled() else None)
        return result

    def stop(self) -> None:
        """Cancel the main function; a runtime that it holds open stops in order. Idempotent. Does not wait."""
        self._guest.stop()


def _global_reactor() -> Any:
    try:
        from twisted.internet import reactor
    except ImportError as error:
        raise ImportError("hosting in Twisted needs Twisted: pip install 'creche[twisted]'") from error
    return reactor


def _settle_deferred(deferred: Deferred[T], result: outcome.Outcome[T] | None) -> None:
    from twisted.internet.defer import CancelledError

    if deferred.called:  # cancelled meanwhile
        return
    if result is None:
        deferred.errback(CancelledError())
    elif isinstance(result, outcome.Error):
        deferred.errback(result.error)
    else:
        deferred.callback(result.unwrap())


def _settle_future(future: asyncio.Future[T], result: outcome.Outcome[T] | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if result is None:
        future.cancel()
    elif isinstance(result, outcome.Error):
        future.set_exception(result.error)
    else:
        future.set_result(result.unwrap())
