"""Those who are told what becomes of a node.

Theory of operation
-------------------
A node has one place for all of them, made for the first and dropped with the last: a node that nobody looks at pays
nothing. They are told synchronously, in the very step in which the node moves (`Node.move`), so nothing can fall
between a look at the state and the next change of it. Who only waits for the next state needs none of this: see
`Node.wait_for_change`.

A node holds its onlookers, and they hold what they tell: a channel, an actor's lane. Nobody here holds an incarnation,
its frames, or a live error, so to look at the dead keeps nothing of them. Whoever stops looking takes himself out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .node import Node, State


class Onlooker(Protocol):
    """Is told of each change of a node's state. Compared by identity."""

    def moved(self, node: Node, to: State, cause: Exception | None) -> None:
        """The node is in another state.

        `cause` is the crash that brought it there, if one did, without traceback; all onlookers get the same object.
        Synchronous; must not raise.
        """


class Onlookers:
    """All that look at one node."""

    __slots__ = ("_all", "cause")

    def __init__(self) -> None:
        self._all: dict[Onlooker, None] = {}  # in the order in which they came
        self.cause: Exception | None = None  # of the next move

    def __len__(self) -> int:
        return len(self._all)

    def add(self, onlooker: Onlooker) -> None:
        """Tell it of each move from now on."""
        self._all[onlooker] = None

    def remove(self, onlooker: Onlooker) -> None:
        """Tell it no more. Idempotent."""
        self._all.pop(onlooker, None)

    def tell(self, node: Node, to: State) -> None:
        """The node has moved."""
        cause, self.cause = self.cause, None
        for onlooker in list(self._all):
            if onlooker in self._all:  # one may take another out
                onlooker.moved(node, to, cause)
