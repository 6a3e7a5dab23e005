"""Monitors and links: how one learns that an actor has died, and how one dies with it.

Theory of operation
-------------------
OTP's words and meanings, but that they name actors, not incarnations: a crash that its supervisor mends is news, the
final stop is the end. All of them are onlookers of a node (see `onlookers`), told in the step in which it moves.

* A `Monitor` feeds a channel. It is for tasks, and lives as long as a block.
* A `Watch` puts a job into the lane of an actor's incarnation, as a timer does, and ends with that incarnation.
* A `Link` is two ties, one at either end. The tie by which its maker dies is held by the maker's incarnation. The tie
  by which the other dies stands at the maker's node: it must still hold in the moment in which the maker's last
  incarnation has ended, and it is dissolved when a next one begins.

A link kills as `runtime.kill` does, with `LinkedStopped` as the crash; so the supervisor decides what comes next. It
lets alone who is ending anyway or stands below somebody who is: when a tree or a part of it is stopped in order, its
actors must not be crashed by the stops of their neighbours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import trio

from .agenda import Job
from .errors import LinkedStopped
from .feeds import Feed
from .node import Node, State, without_frames

if TYPE_CHECKING:
    from .agenda import Agenda

What = Literal["up", "down", "stopped"]
Told = Callable[[str, Exception | None], Awaitable[object]]

ROOM = 16  # events that wait for a slow reader
_SEEN_AS: dict[State, What] = {State.RUNNING: "up", State.STOPPING: "up", State.STOPPED: "stopped"}  # else "down"
_PASSING = (State.STARTING, State.STOPPING)  # what comes of it is the news


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """What has become of a monitored actor.

    Parameters
    ----------
    path
        Of the actor.
    what
        ``"up"``: it takes messages. ``"down"``: its incarnation has ended and another one is due, or the first one is
        still starting. ``"stopped"``: it has ended for good; the last event.
    incarnation
        The number of the present incarnation, or of the one that has ended: a gap means that events were missed.
    cause
        The error that the incarnation died of, without traceback; for ``"stopped"`` the failure that ended the actor
        for good. None if there was none, or if it came before the monitor.
    """

    path: str
    what: What
    incarnation: int
    cause: Exception | None = None


class Monitor:
    """An onlooker that feeds a channel."""

    __slots__ = ("_feed", "_last")

    def __init__(self, node: Node, feed: Feed[MonitorEvent]) -> None:
        self._feed = feed
        self._last: tuple[What, int] | None = None
        self._tell(node, node.final_cause)

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        if to not in _PASSING:
            self._tell(node, cause)

    def _tell(self, node: Node, cause: Exception | None) -> None:
        seen = _SEEN_AS.get(node.state, "down"), node.incarnation
        if seen != self._last:
            self._last = seen
            self._feed.put(MonitorEvent(node.path, *seen, _own(cause)))
        if node.state is State.STOPPED:
            self._feed.end()


@asynccontextmanager
async def monitoring(node: Node) -> AsyncGenerator[trio.MemoryReceiveChannel[MonitorEvent]]:
    """See `Handle.monitor`."""
    await trio.lowlevel.checkpoint()
    feed = Feed[MonitorEvent](ROOM)
    monitor = Monitor(node, feed)
    node.watch(monitor)
    try:
        yield feed.reader
    finally:
        node.unwatch(monitor)
        feed.close()


async def wait_stopped(node: Node) -> Exception | None:
    """See `Handle.wait_stopped`."""
    if node.state is State.STOPPED:
        await trio.lowlevel.checkpoint()
    else:
        await node.wait_for(State.STOPPED)
    return _own(node.final_cause)


class Watch(Job):
    """An actor's monitor of another one; made by `ActorContext.monitor`."""

    __slots__ = ("_agenda", "_node")

    def __init__(self, agenda: Agenda, node: Node, fn: Told) -> None:
        super().__init__(fn, ())
        self._agenda: Agenda | None = agenda
        self._node = node
        agenda.hold(self)
        if node.state is State.STOPPED:
            self._put(node.final_cause)
        else:
            node.watch(self)

    @property
    def active(self) -> bool:
        """Whether it will still tell."""
        return self._agenda is not None

    def cancel(self) -> None:
        """Never tell, not even if the actor has stopped already. Idempotent."""
        agenda, self._agenda = self._agenda, None
        if agenda is not None:
            agenda.forget(self)
            self._node.unwatch(self)

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        if to is State.STOPPED:
            node.unwatch(self)
            self._put(cause)

    def _put(self, cause: Exception | None) -> None:
        if self._agenda is not None:
            self.args = (self._node.path, _own(cause))
            self._agenda.put(self)

    async def run(self) -> None:
        """See `Job`."""
        if self._agenda is not None:
            self.cancel()
            await super().run()


class Link:
    """A tie between two actors; made by `ActorContext.link`."""

    __slots__ = ("_back", "_forth")

    def __init__(self, agenda: Agenda, maker: Node, other: Node, *, one_way: bool, crashes: bool) -> None:
        self._forth = _Tie(self, other, maker, crashes)
        self._back = None if one_way else _BackTie(self, maker, other, crashes)
        self._forth.agenda = agenda
        agenda.hold(self._forth)

    @property
    def active(self) -> bool:
        """Whether it still holds, in one direction at least."""
        return self._forth.holds or (self._back is not None and self._back.holds)

    def cancel(self) -> None:
        """Dissolve it, in both directions. Idempotent."""
        self._forth.cancel()
        if self._back is not None:
            self._back.cancel()


class _Tie:
    """When `watched` ends, `tied` dies of it."""

    __slots__ = ("_crashes", "_link", "_tied", "_watched", "agenda", "holds")

    def __init__(self, link: Link, watched: Node, tied: Node, crashes: bool) -> None:
        self._link = link
        self._watched = watched
        self._tied = tied
        self._crashes = crashes
        self.holds = True
        self.agenda: Agenda | None = None  # that it ends with
        watched.watch(self)

    def cancel(self) -> None:
        """Part of `Held`."""
        if self.holds:
            self.holds = False
            self._watched.unwatch(self)
            if self.agenda is not None:
                self.agenda.forget(self)

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        final = to is State.STOPPED
        if final or (self._crashes and cause is not None):
            self._link.cancel()
            if not _ends_anyway(self._tied):
                self._tied.condemn(linked_stopped(node, cause, final))


class _BackTie(_Tie):
    """The tie at the maker's own node."""

    __slots__ = ()

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        if to is State.STARTING:
            self.cancel()  # the incarnation that made it has a successor
        else:
            super().moved(node, to, cause)


def linked_stopped(node: Node, cause: Exception | None, final: bool = True) -> LinkedStopped:
    """The error that somebody who is linked to `node` dies of."""
    error = LinkedStopped(node.path, _own(cause), final)
    error.__cause__ = error.cause
    return error


def _ends_anyway(node: Node) -> bool:
    """Whether a node, or what it stands in, is being stopped or going down already."""
    one: object = node
    while isinstance(one, Node):
        if one.leaves_anyway:
            return True
        one = one.parent
    return False


def _own(cause: Exception | None) -> Exception | None:
    """A copy: whoever gets it may raise it, or hang something on it."""
    return cast("Exception | None", without_frames(cause))
