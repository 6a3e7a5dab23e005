"""A picture of a tree at one moment: `runtime.tree()`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .node import Node


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One node.

    `queued` counts waiting messages; `last_failure` is one line, empty without one. ``str()`` renders the tree.
    """

    name: str
    path: str
    state: str
    incarnation: int
    restarts: int
    queued: int
    stuck: bool
    last_failure: str
    children: tuple[TreeNode, ...]

    def __iter__(self) -> Iterator[TreeNode]:
        """This node and all below it, in start order."""
        yield self
        for child in self.children:
            yield from child

    def __str__(self) -> str:
        return "\n".join(self._lines("", "", ""))

    def find(self, path: str) -> TreeNode:
        """The node at `path`. Raises KeyError."""
        for node in self:
            if node.path == path:
                return node
        raise KeyError(path)

    def _lines(self, lead: str, branch: str, indent: str) -> Iterator[str]:
        yield f"{lead}{branch}{self._label()}"
        for child in self.children:
            last = child is self.children[-1]
            yield from child._lines(lead + indent, "└─ " if last else "├─ ", "   " if last else "│  ")

    def _label(self) -> str:
        facts = [self.state]
        if self.restarts:
            facts.append(f"{self.restarts} restart{'s' if self.restarts > 1 else ''}")
        if self.queued:
            facts.append(f"{self.queued} waiting")
        if self.stuck:
            facts.append("STUCK")
        return f"{self.name}  [{', '.join(facts)}]"


def picture(node: Node) -> TreeNode:
    """Take the picture of a node and all below it."""
    return TreeNode(
        name=node.name,
        path=node.path,
        state=node.state.value,
        incarnation=node.incarnation,
        restarts=node.restarts,
        queued=node.queued,
        stuck=getattr(node, "stuck", False),
        last_failure=next((line for _, line in reversed(list(node.crashes()))), ""),
        children=tuple(picture(child) for child in node.children()),
    )
