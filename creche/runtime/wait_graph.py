"""Who waits for whom at this moment, to be looked at: `runtime.wait_for_graph()`.

It shows the edges that `waits` walks to find circles. They exist only while a handler waits, so to look costs nothing
until somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .envelope import DEFERRED, RUNNING, SETTLED, SPILLED, Request, Together
from .waits import Change

if TYPE_CHECKING:
    from .node import Node
    from .waits import Edge

WaitsUntil = Literal["room", "taken", "handled", "answered", "started", "stopped"]


@dataclass(frozen=True, slots=True)
class Wait:
    """One edge: a handler at work waits for another actor.

    Parameters
    ----------
    waiter
        The path of the actor whose handler waits.
    message
        What it has sent; empty if it waits for the start or the end of an actor.
    target
        The path of the actor, or of the child, that it waits for.
    until
        What it waits for: ``room`` in the mailbox; ``taken``: the message waits in the mailbox or is stashed;
        ``handled``: its handler is at work; ``answered``: its reply is deferred; ``started``: a child, or the successor
        of one, comes up; ``stopped``: it ends for good.
    """

    waiter: str
    message: str
    target: str
    until: WaitsUntil

    def __str__(self) -> str:
        return f"{self.waiter} --{_what(self)}--> {self.target}  [{self.until}]"


@dataclass(frozen=True, slots=True)
class WaitForGraph:
    """The waits of one moment, in the order of the tree. ``str()`` is text for people, `dot` is for Graphviz."""

    waits: tuple[Wait, ...]

    def __iter__(self) -> Iterator[Wait]:
        return iter(self.waits)

    def __len__(self) -> int:
        return len(self.waits)

    def __str__(self) -> str:
        return "\n".join(map(str, self.waits))

    def behind(self, path: str) -> tuple[str, ...]:
        """The paths of all whose handlers wait for the actor at `path`, directly or through others, nearest first."""
        found = [path]
        for target in found:  # it grows meanwhile
            found += dict.fromkeys(w.waiter for w in self.waits if w.target == target and w.waiter not in found)
        return tuple(found[1:])

    def dot(self) -> str:
        """A directed graph in Graphviz's language."""
        arrows = (f"  {_quoted(w.waiter)} -> {_quoted(w.target)} [label={_quoted(_label(w))}];" for w in self.waits)
        return "\n".join(["digraph waits {", *arrows, "}"])


def wait_for_graph(root: Node) -> WaitForGraph:
    """All waits at and below a node."""
    return WaitForGraph(
        tuple(wait for waiter in root.waiters() for edge in waiter.waits_for() for wait in _waits(waiter.path, edge))
    )


def _waits(waiter: str, edge: Edge) -> Iterator[Wait]:
    if isinstance(edge, Change):
        yield Wait(waiter, "", edge.node.path, edge.until)
    elif isinstance(edge, Together):
        for part in edge.parts:
            yield from _waits(waiter, part)
    elif edge.state != SETTLED:
        spec = edge.spec if isinstance(edge, Request) else edge.cast[0]
        yield Wait(waiter, spec.name, edge.cell.path, _until(edge.state))


def _until(state: int) -> WaitsUntil:
    if state == SPILLED:
        return "room"
    if state < RUNNING:
        return "taken"
    return "answered" if state == DEFERRED else "handled"


def _label(wait: Wait) -> str:
    return f"{_what(wait)} ({wait.until})"


def _what(wait: Wait) -> str:
    return wait.message or ("start" if wait.until == "started" else "stop")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
