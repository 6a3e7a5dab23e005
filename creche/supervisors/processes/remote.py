"""An actor in another process, seen from the side of its host: one incarnation of it.

Theory of operation
-------------------
The host's lifespan holds a nursery with three tasks beside the messages. The *reader* takes what the process says, and
is the only one to judge its end: whatever it raises crashes the incarnation, as any error in a lifespan does. The
*attendant* sleeps until the incarnation is cancelled. The reader is shielded and ended by the attendant, so that a stop
can still be spoken about with the process. The third waits for the end of the process, with which all that it has
forked is killed: that could hold its side of the connection open.

What is cancelled, and what becomes of it:

* the message in hand, because its caller has gone: CANCEL is sent. The actor's own rules hold over there. Computing
  code does not notice; after `unwind_grace` the process is killed, and the incarnation crashes.
* the incarnation, because it is killed or has crashed: the process is killed at once.
* the incarnation, because its time to drain is over: STOP is sent, and after `shutdown` the process is killed.

Both times are shortened to `HASTE` of what the rules allow: then the end is seen by those who wait for it by the rules.

A message that could not be sent in full has not been handled: `NotDelivered`. What was sent and not answered when the
process ends is lost with the incarnation: `OutcomeUnknown`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from ...runtime.context import BAGGAGE, Baggage, current_deadline
from ...runtime.errors import NotDelivered, NotSendable, ProcessDied, RemoteError
from ...runtime.node import Want
from .link import PeerGone
from .main_module import where_main_is
from .process import Process, open_process
from .wire import Frame, Kind, Packed, Unpicklable, culprit, frame, pack, unpack, unpack_error

if TYPE_CHECKING:
    from ...runtime.context import ActorContext
    from ...runtime.node import Node
    from .host import Order

HASTE = 0.9


class Reply:
    """What becomes of one message."""

    __slots__ = ("came", "frame")

    def __init__(self) -> None:
        self.came = trio.Event()  # or will not come any more: `frame` is None then
        self.frame: Frame | None = None

    def settle(self, frame: Frame | None) -> None:
        """The first one counts: an answer that has come stays one, though the process ends before it is looked at."""
        if not self.came.is_set():
            self.frame = frame
            self.came.set()


class Remote:
    """See above."""

    def __init__(self, context: ActorContext, process: Process) -> None:
        self._context = context
        self._node: Node = context.runtime.node_of(context.handle)
        self._process = process
        self._link = process.link
        self._path = context.path
        self._idents = count(1)
        self._replies: dict[int, Reply] = {}
        self._reading = trio.CancelScope(shield=True)
        self._over = trio.Event()  # nothing will come any more
        self._ended = False  # it has said so: it has answered all that it has read
        self._why_killed = ""
        self._leaving = False  # the incarnation has been cancelled

    # --- the incarnation --------------------------------------------------------------------------

    @classmethod
    @asynccontextmanager
    async def started(cls, context: ActorContext, order: Order, version: str) -> AsyncGenerator[Remote]:
        """The actor in its process, for the length of a block. Raises what its start has failed of."""
        async with open_process(version) as process:
            remote = cls(context, process)
            await remote._start(order)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(remote._read)
                nursery.start_soon(remote._attend)
                nursery.start_soon(process.wait)
                yield remote
                await remote._stop()
                nursery.cancel_scope.cancel("the process has ended")

    async def _start(self, order: Order) -> None:
        here = pack((where_main_is(), self._node.name, self._context.incarnation))
        try:
            await self._link.send(frame(Kind.PREPARE, 0, here))
            await self._link.send(frame(Kind.START, 0, order.packed))
            first = await self._link.receive()
        except PeerGone:
            raise ProcessDied(self._path, self._process.pid, await self._process.end(), "while starting") from None
        if first.kind is not Kind.READY:
            raise unpack_error(first.parts)

    async def _stop(self) -> None:
        """Let it end in order."""
        limit = HASTE * self._node.spec.shutdown
        with trio.move_on_after(limit):
            await self._say(Kind.STOP)
            await self._over.wait()
            await self._process.wait()
            return
        raise await self._killed(f"it did not end within {limit:g} s of being asked to")

    async def _attend(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self._leaving = True
            if self._is_stopped() and not self._over.is_set():
                await self._stop_quickly()
            raise
        finally:
            self._process.kill()
            self._reading.cancel("the incarnation has ended")

    def _is_stopped(self) -> bool:
        """Whether the incarnation is cancelled because it was asked to end, by a stop or for a restart of its group."""
        return self._node.want is not Want.NOTHING and not self._node.condemned

    async def _stop_quickly(self) -> None:
        limit = HASTE * self._node.spec.shutdown
        with trio.CancelScope(deadline=trio.current_time() + limit, shield=True):
            await self._say(Kind.STOP, 1)
            await self._over.wait()
            return
        raise await self._killed(f"it did not end within {limit:g} s of being cancelled")

    async def _killed(self, why: str) -> ProcessDied:
        """Kill it. Returns the error that says why."""
        self._why_killed = why
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()
        return ProcessDied(self._path, self._process.pid, self._process.status, why)

    # --- messages ---------------------------------------------------------------------------------

    async def ask(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Have a message handled, and return or raise what it answers."""
        ident, packed = next(self._idents), self._pack_call(name, args, kwargs)
        if self._over.is_set():
            raise NotDelivered(self._path, "not_sent")
        reply = self._replies[ident] = Reply()
        try:
            await self._link.send(frame(Kind.CALL, ident, packed))
            await reply.came.wait()
        except PeerGone:
            with trio.CancelScope(shield=True):
                await self._over.wait()
            raise NotDelivered(self._path, "not_sent") from None
        except trio.Cancelled:
            await self._recall(ident, reply)
            if reply.frame is None or reply.frame.kind is Kind.UNWOUND:
                raise
        finally:
            del self._replies[ident]
        if reply.frame is None:
            if not self._ended:
                await trio.sleep_forever()  # until the crash, which is on its way
            raise NotDelivered(self._path, "not_sent")  # the actor has ended without having looked at it
        return self._answer_in(name, reply.frame)

    def _pack_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packed:
        deadline = current_deadline()
        left = None if deadline == inf else deadline - trio.current_time()
        try:
            return pack((name, args, kwargs, left, sendable(BAGGAGE.get())))
        except Unpicklable as error:
            what, reason = culprit(args, kwargs)
            raise NotSendable(self._path, name, what, reason, handled=False) from error.__cause__

    def _answer_in(self, name: str, reply: Frame) -> Any:
        if reply.kind is Kind.REFUSED:
            raise NotDelivered(self._path, "not_sent")
        if reply.kind is Kind.UNREADABLE:
            reason: str = unpack(reply.parts)
            raise NotSendable(self._path, name, "an argument", reason, handled=False)
        if reply.kind is Kind.UNSENDABLE:
            what, reason = unpack(reply.parts)
            raise NotSendable(self._path, name, what, reason, handled=True)
        try:
            if reply.kind is Kind.RESULT:
                return unpack(reply.parts)
            error = unpack_error(reply.parts)
        except Unpicklable as unreadable:
            raise NotSendable(self._path, name, "the result", unreadable.reason, handled=True) from unreadable
        if isinstance(error, RemoteError):
            raise NotSendable(self._path, name, "the error", error.error, handled=True) from error
        raise error

    async def _recall(self, ident: int, reply: Reply) -> None:
        """Whoever waited for the reply is being cancelled: wait until the handler has ended, for a limited time."""
        limit = HASTE * self._node.spec.unwind_grace
        with trio.CancelScope(deadline=trio.current_time() + limit, shield=True):
            await self._say(Kind.CANCEL, ident)
            await reply.came.wait()
            return
        if self._leaving:  # the attendant sees to it, whose limit is another one
            with trio.CancelScope(shield=True):
                await reply.came.wait()
            return
        raise await self._killed(f"its handler did not end within {limit:g} s of being cancelled")

    async def _say(self, kind: Kind, ident: int = 0) -> None:
        try:
            await self._link.send(frame(kind, ident))
        except PeerGone:  # the reader sees it too
            pass

    # --- what the process says --------------------------------------------------------------------

    async def _read(self) -> None:
        with self._reading:
            try:
                await self._listen()
            except Exception as error:
                self._node.condemn(error)  # in this step: it takes no further message, which would only be refused
                raise
            finally:
                self._over.set()
                for reply in self._replies.values():
                    reply.settle(None)

    async def _listen(self) -> None:
        try:
            while True:
                self._heed(await self._link.receive())
        except PeerGone:
            if not self._ended and not self._why_killed:  # else it has been judged already
                raise ProcessDied(self._path, self._process.pid, await self._process.end()) from None

    def _heed(self, frame: Frame) -> None:
        if frame.kind is Kind.CRASHED:
            raise unpack_error(frame.parts)
        if frame.kind in (Kind.LEAVING, Kind.ENDED):
            self._ended = frame.kind is Kind.ENDED
            self._context.exit()
            return
        reply = self._replies.get(frame.ident)
        if reply is not None:
            reply.settle(frame)


def sendable(baggage: Baggage) -> dict[str, object] | None:
    """The caller's trace and log context, without what cannot be sent."""
    if not baggage:
        return None
    kept: dict[str, object] = {}
    for name, value in baggage.items():
        try:
            pack(value)
        except Unpicklable:
            continue
        kept[name] = value
    return kept
