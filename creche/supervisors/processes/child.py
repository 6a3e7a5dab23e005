"""The other process: a runtime of its own with one actor, which handles what comes over the connection.

Theory of operation
-------------------
The actor is an ordinary one, temporary, in an ordinary runtime: what it can do in the program it can do here. Each
message has a task that sends it to the actor and the answer back. When the actor has ended, in whatever way, the
process says so and ends.

SIGINT and SIGTERM are left to the process that started this one, whose orderly stop ends this one too: a container that
signals everybody must not tear the handlers out of its hand. They are caught, not ignored, so that programs which the
actor starts have the usual ones; and so have processes that it forks.

The end of the other process is the end of this one, at once and also in the middle of a computation. On Linux the
kernel sees to it; a thread does elsewhere, which has to wait for code that does not let go of Python's lock.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from ...runtime import events
from ...runtime.cell import Cell
from ...runtime.context import BAGGAGE
from ...runtime.envelope import NEVER, Request
from ...runtime.errors import ActorStopped, NotDelivered, OutcomeUnknown, RemoteError, StartFailed
from ...runtime.handling import EXIT
from ...runtime.node import Node, Parent, Want
from ...runtime.runtime import Runtime
from ...runtime.slots import ReplySlot
from ...runtime.spec import ActorSpec, ChildOptions
from ..opening import open_runtime
from .host import must_be_answered
from .link import Link, PeerGone
from .main_module import MainFinder
from .version import VERSION
from .wire import Buffer, Frame, Kind, Unpicklable, frame, pack, pack_error, unpack

FOREVER = 1e9  # seconds: all limits are those of the other process
OPTIONS = ChildOptions(restart="temporary", drain=FOREVER, shutdown=FOREVER, unwind_grace=FOREVER, down_wait=FOREVER)


def main() -> None:
    """Run one actor for the process that started this one."""
    try:
        connection, lifeline = int(sys.argv[1]), int(sys.argv[2])
        version = sys.argv[3]
    except (IndexError, ValueError):
        sys.exit("creche.worker is started by creche, for an actor of `creche.process_child`")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_to_the_other_process)
    os.register_at_fork(after_in_child=_obey_signals)
    for descriptor in (connection, lifeline):
        os.set_inheritable(descriptor, False)
    _be_killed_with(lifeline)
    threading.Thread(target=_die_with, args=(lifeline,), name="creche lifeline", daemon=True).start()
    if version != VERSION:
        sys.exit(f"creche.worker: the installed version speaks {VERSION}, the program {version}: restart the program")
    trio.run(_serve, socket.socket(fileno=connection))


def _leave_to_the_other_process(_number: int, _frame: FrameType | None) -> None:
    pass


def _obey_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _be_killed_with(lifeline: int) -> None:
    """Let the kernel kill this process and its family when there is something to read."""
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def _die_with(lifeline: int) -> None:
    """Nobody ever writes to it: when there is something to read, the other process has ended."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)  # the session is ours: what the actor has started ends too


async def _serve(connection: socket.socket) -> None:
    link = Link(connection)
    try:
        main_is, name, incarnation = unpack((await link.receive()).parts)
        if main_is is not None:
            sys.meta_path.append(MainFinder(*main_is))
        await _Service(link).run(name, incarnation, await link.receive())
    except* PeerGone:
        pass
    finally:
        link.close()


class _Service:
    """What comes over the connection, and what becomes of it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._scopes: dict[int, trio.CancelScope] = {}  # {ident of a message: of the task that waits for its answer}
        self._answered = trio.Event()
        self._stopping = False  # the other process has asked for it
        self._path = ""  # of the actor
        self._trouble: tuple[str, str] | None = None  # its last error: one line, and its full text

    async def run(self, name: str, incarnation: int, order: Frame) -> None:
        """Start the actor, serve it, say how it has ended."""
        try:
            cls, args, kwargs = unpack(order.parts)
        except Unpicklable as error:
            await self._link.send(_could_not_start(error))
            return
        async with open_runtime("worker", stop_within=FOREVER) as runtime:
            self._path = f"{runtime.root.path}/{name}"
            runtime.events.subscribe(self._note)
            try:
                spec = _Served(cls, args, kwargs, OPTIONS, incarnation - 1).options(name=name)
                handle = await runtime.start(spec)
            except StartFailed as failed:
                await self._link.send(_could_not_start(failed))
                return
            async with trio.open_nursery() as nursery:
                cell = cast("_ServedCell", runtime.node_of(handle))
                nursery.start_soon(self._listen, nursery, runtime, cell)
                await self._link.send(frame(Kind.READY))
                failure = await handle.wait_stopped()
                while self._scopes:
                    self._answered = trio.Event()
                    await self._answered.wait()
                if self._trouble is None and not (self._stopping or cell.leaves):
                    await trio.sleep_forever()  # a SystemExit is on its way, which says more
                await self._link.send(self._farewell(failure))
                nursery.cancel_scope.cancel("the actor has ended")

    def _note(self, event: events.Event) -> None:
        if isinstance(event, (events.Crashed, events.BadStop)) and event.path == self._path:
            self._trouble = (event.error, event.detail)

    def _farewell(self, failure: Exception | None) -> list[Buffer]:
        if self._trouble is None:
            return frame(Kind.ENDED)
        line, text = self._trouble
        return frame(Kind.CRASHED, 0, pack_error(RemoteError(line, text) if failure is None else failure, text))

    async def _listen(self, nursery: trio.Nursery, runtime: Runtime, cell: _ServedCell) -> None:
        while True:
            came = await self._link.receive()
            if came.kind is Kind.CALL:
                self._scopes[came.ident] = trio.CancelScope()
                nursery.start_soon(self._serve, cell, came)
            elif came.kind is Kind.CANCEL:
                scope = self._scopes.get(came.ident)
                if scope is not None:
                    scope.cancel("its caller has gone")
            else:
                self._stopping = True
                if came.ident:
                    cell.ask_to(Want.DRAIN)
                    cell.cancel("the actor is being stopped")
                else:
                    nursery.start_soon(runtime.stop, cell)

    async def _serve(self, cell: _ServedCell, call: Frame) -> None:
        reply: list[Buffer] | None = frame(Kind.UNWOUND, call.ident)
        with self._scopes[call.ident]:
            reply = await self._outcome(cell, call)
        if cell.leaves:
            await self._link.send(frame(Kind.LEAVING))
        if reply is not None:
            await self._link.send(reply)
        del self._scopes[call.ident]
        self._answered.set()

    async def _outcome(self, cell: _ServedCell, call: Frame) -> list[Buffer] | None:
        """The answer to a message. None: the end of the actor, which will be told, is the answer."""
        try:
            name, args, kwargs, left, baggage = unpack(call.parts)
        except Unpicklable as error:
            return frame(Kind.UNREADABLE, call.ident, pack(error.reason))
        if baggage is not None:
            BAGGAGE.set(baggage)
        try:
            value = await cell.serve(name, args, kwargs, left)
        except (OutcomeUnknown, NotDelivered, ActorStopped) as error:
            if error.path != cell.path:
                return frame(Kind.ANSWER, call.ident, pack_error(error))
            return None if isinstance(error, OutcomeUnknown) else frame(Kind.REFUSED, call.ident)
        except Exception as error:
            return frame(Kind.ANSWER, call.ident, pack_error(error))
        try:
            return frame(Kind.RESULT, call.ident, pack(value))
        except Unpicklable as error:
            what = f"the result ({type(value).__qualname__})"
            return frame(Kind.UNSENDABLE, call.ident, pack((what, error.reason)))


def _could_not_start(error: Exception) -> list[Buffer]:
    cause = error.__cause__
    return frame(Kind.CRASHED, 0, pack_error(cause if isinstance(cause, Exception) else error))


class _ServedCell(Cell):
    """The cell of the actor."""

    async def serve(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], left: float | None) -> Any:
        """A call. Its trace and log context has been set by the task that makes it.

        Its deadline can be read by the handler and ends nothing here: the caller's own process sees to that.
        """
        if self.refusal is not None:
            raise self.refusal()
        request = Request(self, self.messages[name], args, kwargs, BAGGAGE.get(), current_task())
        self._submit(request, NEVER)
        if left is not None:
            request.deadline = trio.current_time() + left
            self.deadlines.push(NEVER, request)
        return await wait_task_rescheduled(request.abort)

    @property
    def leaves(self) -> bool:
        """Whether the actor has decided to end."""
        return self._exiting == EXIT

    def _has_successor(self) -> bool:
        return False  # the other process has the message, and its next attempts

    def defer(self) -> ReplySlot[Any]:
        must_be_answered(self, "defer")
        return super().defer()

    def check_stash(self) -> None:
        must_be_answered(self, "stash")
        super().check_stash()


@dataclass(frozen=True)
class _Served(ActorSpec[Any]):
    """The spec of the actor, which has had so many incarnations before, in other processes."""

    before: int = 0

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        cell = _ServedCell(runtime, parent, name, self.rules, self, self.cls)
        cell.incarnation = self.before
        return cell
