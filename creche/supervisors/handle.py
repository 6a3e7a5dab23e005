"""A handle to a supervisor: it takes no user messages, so there is only what to look at, stop or kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.errors import NotStarted

if TYPE_CHECKING:
    from ..runtime.node import Node


class SupervisorHandle:
    """Names a supervisor for `runtime.stop` and `runtime.kill`."""

    __slots__ = ("_name", "_node")

    def __init__(self, name: str) -> None:
        self._name = name
        self._node: Node | None = None

    def __repr__(self) -> str:
        return f"<SupervisorHandle {self._name}>"

    @property
    def path(self) -> str:
        """Where the supervisor stands in its tree."""
        if self._node is None:
            raise NotStarted(self._name)
        return self._node.path

    def _bind(self, node: Node) -> None:
        self._node = node

    def _unbind(self) -> None:
        self._node = None
