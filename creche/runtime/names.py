"""Actors by name, and groups of actors: `runtime.names` and `runtime.groups`.

Theory of operation
-------------------
Both are tables of the runtime, in its one thread: a look and a change are one step each. A name, or a place in a group,
belongs to a cell: restarts keep it, and the final stop frees it in the step in which it happens, by an onlooker of the
node (see `onlookers`). So nobody is found who has ended for good.

Who watches gets the present state first and then the changes; both come from the same step, so there is no gap. A slow
reader is never waited for: a name keeps just its latest holder for him, a group adds up what has changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast, overload

import trio

from .actor import Actor
from .cell import Cell
from .errors import ActorStopped, NameTaken, SpecInvalid
from .feeds import Feed
from .handle import Handle, require_messages
from .node import Node, State

A = TypeVar("A", bound=Actor)
AnyHandle = Handle[Any]


class _UntilStopped:
    """An onlooker that undoes something when a node has ended for good."""

    __slots__ = ("_undo", "cell", "handle")

    def __init__(self, cell: Cell, handle: AnyHandle, undo: Callable[[], None]) -> None:
        self._undo = undo
        self.cell = cell
        self.handle = handle
        cell.watch(self)

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """Part of `Onlooker`."""
        if to is State.STOPPED:
            self._undo()

    def end(self) -> None:
        """There is nothing to undo any more."""
        self.cell.unwatch(self)


class Names:
    """Which actor has which name. Names are any texts that are not empty; an actor may have several.

    A name is kept over restarts and is free when its actor has ended for good.
    """

    def __init__(self) -> None:
        self._holders: dict[str, _UntilStopped] = {}
        self._feeds: dict[str, dict[Feed[AnyHandle | None], None]] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def register(self, name: str, handle: AnyHandle) -> None:
        """Give an actor a name. If it has that name already, nothing happens.

        Raises
        ------
        NameTaken
            Another actor has it.
        ActorStopped
            The actor has ended for good.
        NotStarted
            The handle is not bound yet.
        SpecInvalid
            What is given is no name, or no handle of an actor.
        """
        require_label("name", name)
        cell = _cell_of("register", handle)
        holder = self._holders.get(name)
        if holder is None:
            self._holders[name] = _UntilStopped(cell, handle, lambda: self.unregister(name))
            self._tell(name, handle)
        elif holder.cell is not cell:
            raise NameTaken(name, holder.cell.path)

    def unregister(self, name: str) -> None:
        """Free a name. Idempotent."""
        holder = self._holders.pop(name, None)
        if holder is not None:
            holder.end()
            self._tell(name, None)

    @overload
    def whereis(self, name: str) -> AnyHandle | None: ...
    @overload
    def whereis(self, name: str, cls: type[A]) -> Handle[A] | None: ...
    def whereis(self, name: str, cls: type[Actor] = Actor) -> AnyHandle | None:
        """The handle of the actor that has the name; None if nobody has it.

        With `cls` it is typed so, and raises `SpecInvalid` if the actor has not the messages of `cls`.
        """
        holder = self._holders.get(name)
        if holder is None:
            return None
        require_messages("whereis", name, holder.cell, cls)
        return holder.handle

    @asynccontextmanager
    async def watch(self, name: str) -> AsyncGenerator[trio.MemoryReceiveChannel[AnyHandle | None]]:
        """A channel of who has the name: the present holder at once, then each change; None is nobody.

        A slow reader holds up nobody: what he has not read yet is replaced by what is the case now.
        """
        await trio.lowlevel.checkpoint()
        feed = Feed[AnyHandle | None](1)
        feed.put(self.whereis(name))
        feeds = self._feeds.setdefault(name, {})
        feeds[feed] = None
        try:
            yield feed.reader
        finally:
            del feeds[feed]
            if not feeds:
                self._feeds.pop(name, None)
            feed.close()

    def _tell(self, name: str, holder: AnyHandle | None) -> None:
        for feed in self._feeds.get(name, ()):
            feed.put(holder)


class GroupChange:
    """Who has joined a group and who has left it since the change before, each in order.

    The first one that a watch gives names all members as joined. One that waits to be read goes on adding up: who joins
    and leaves meanwhile is in neither.
    """

    __slots__ = ("_joined", "_left")

    def __init__(self, joined: dict[AnyHandle, None], left: dict[AnyHandle, None]) -> None:
        self._joined = joined
        self._left = left

    def __repr__(self) -> str:
        return f"<GroupChange joined={[one.path for one in self._joined]} left={[one.path for one in self._left]}>"

    @property
    def joined(self) -> tuple[AnyHandle, ...]:
        """Handles of those who have come."""
        return tuple(self._joined)

    @property
    def left(self) -> tuple[AnyHandle, ...]:
        """The same handles of those who have gone."""
        return tuple(self._left)

    def _add(self, handle: AnyHandle, came: bool) -> None:
        here, there = (self._joined, self._left) if came else (self._left, self._joined)
        if handle in there:
            del there[handle]
        else:
            here[handle] = None


class _GroupFeed:
    """What one reader is told of a group."""

    def __init__(self, members: dict[AnyHandle, None]) -> None:
        self._feed = Feed[GroupChange](1)
        self._change = GroupChange(members, {})
        self._feed.put(self._change)
        self.reader = self._feed.reader
        self.close = self._feed.close

    def tell(self, handle: AnyHandle, came: bool) -> None:
        """Somebody has come or gone."""
        if not self._feed.has_unread:
            self._change = GroupChange({}, {})
            self._change._add(handle, came)  # pyright: ignore[reportPrivateUsage]
            self._feed.put(self._change)
        else:
            self._change._add(handle, came)  # pyright: ignore[reportPrivateUsage]


class Groups:
    """Actors in groups, as OTP's ``pg`` has them. A group exists while it has members; an actor may be in several.

    Membership is kept over restarts and ends with the actor's final stop.
    """

    def __init__(self) -> None:
        self._members: dict[str, dict[Cell, _UntilStopped]] = {}  # group -> cell -> place, in the order of joining
        self._feeds: dict[str, dict[_GroupFeed, None]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._members))

    def join(self, group: str, handle: AnyHandle) -> None:
        """Make an actor a member. Idempotent.

        Raises `ActorStopped` if it has ended for good, `NotStarted` if the handle is not bound yet, and `SpecInvalid`
        if what is given is no name or no handle of an actor.
        """
        require_label("group", group)
        cell = _cell_of("join", handle)
        members = self._members.setdefault(group, {})
        if cell not in members:
            members[cell] = _UntilStopped(cell, handle, lambda: self.leave(group, handle))
            self._tell(group, handle, came=True)

    def leave(self, group: str, handle: AnyHandle) -> None:
        """End a membership. Idempotent."""
        members = self._members.get(group, {})
        member = members.pop(_any_cell_of("leave", handle), None)
        if member is not None:
            member.end()
            if not members:
                del self._members[group]
            self._tell(group, member.handle, came=False)

    @overload
    def members(self, group: str) -> tuple[AnyHandle, ...]: ...
    @overload
    def members(self, group: str, cls: type[A]) -> tuple[Handle[A], ...]: ...
    def members(self, group: str, cls: type[Actor] = Actor) -> tuple[AnyHandle, ...]:
        """The handles of all members in the order of their joining; with `cls`, typed so, else `SpecInvalid`."""
        members = self._members.get(group, {})
        for cell in members:
            require_messages("members", group, cell, cls)
        return tuple(member.handle for member in members.values())

    @asynccontextmanager
    async def watch(self, group: str) -> AsyncGenerator[trio.MemoryReceiveChannel[GroupChange]]:
        """A channel of who joins and leaves: all present members at once, then the changes.

        A slow reader holds up nobody: what changes before he reads is added up in one `GroupChange`.
        """
        await trio.lowlevel.checkpoint()
        feed = _GroupFeed(dict.fromkeys(self.members(group)))
        feeds = self._feeds.setdefault(group, {})
        feeds[feed] = None
        try:
            yield feed.reader
        finally:
            del feeds[feed]
            if not feeds:
                self._feeds.pop(group, None)
            feed.close()

    def _tell(self, group: str, handle: AnyHandle, came: bool) -> None:
        for feed in self._feeds.get(group, ()):
            feed.tell(handle, came)


def require_label(field: str, label: object) -> None:
    """Raise `SpecInvalid` unless it is a text that is not empty."""
    if not isinstance(label, str) or not label:
        raise SpecInvalid(field, label, "a text that is not empty")


def _any_cell_of(where: str, handle: object) -> Cell:
    if not isinstance(handle, Handle):
        raise SpecInvalid(where, handle, "pass the handle of an actor, as runtime.start(creche.child(...)) returns it")
    cell = handle._bound()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(cell, Cell):
        raise SpecInvalid(where, cast("object", handle), "a pool is reached by its own handle; name its workers")
    return cell


def _cell_of(where: str, handle: object) -> Cell:
    cell = _any_cell_of(where, handle)
    if cell.state is State.STOPPED:
        raise ActorStopped(cell.path)
    return cell
