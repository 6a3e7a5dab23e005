"""The seam between the runtime and the components: a spec that hands out a typed handle of its own.

A component is a package with a `Config`, `default_config(env)`, `component(config=None, **dependencies)`, its handle,
its errors, and actors that nobody outside sees. Its handle's plain async methods send the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from .actor import Actor
from .cell import Cell
from .errors import NotStarted
from .handle import Handle
from .node import Node, Parent
from .runtime import Runtime
from .spec import ChildOptions, Environment, Layer, Spec

A = TypeVar("A", bound=Actor)
C = TypeVar("C", bound="ComponentHandle")


class ComponentHandle:
    """Base of all component handles. Valid across restarts; `NotStarted` until its component runs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._node: Node | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name if self._node is None else self._node.path}>"

    @property
    def path(self) -> str:
        """Where the component stands in its tree."""
        return self._running().path

    def _running(self) -> Node:
        if self._node is None:
            raise NotStarted(self._name)
        return self._node

    def _cell(self, *names: str) -> Cell:
        """The cell at a path below the component's node; the node itself without names."""
        node = self._running()
        for name in names:
            node = next(child for child in node.children() if child.name == name)
        assert isinstance(node, Cell)
        return node

    def _handle(self, cls: type[A], *names: str) -> Handle[A]:
        """A handle to the component's actor at a path below its node. `cls` is for the type checkers."""
        cell = self._cell(*names)
        return Handle(cell.name, cell)

    def _bind(self, node: Node) -> None:
        self._node = node
        self._started()

    def _unbind(self) -> None:
        self._node = None

    def _started(self) -> None:
        """Called when the component's node exists. Override to look up actors once."""


@dataclass(frozen=True)
class ComponentSpec(Spec[C], Generic[C]):
    """A component, ready to be started or used by an app.

    `inner` is its actor or its small supervisor; `make_handle` makes its handle from a name; `needs` are the handles it
    was given. `for_env` makes it anew for an environment, when no config was given; see `by_environment`.
    """

    name: str
    inner: Spec[Any]
    make_handle: Callable[[str], C]
    layer: Layer = "infrastructure"
    needs: tuple[object, ...] = ()
    for_env: Callable[[Environment], ComponentSpec[C]] | None = None

    def default_name(self) -> str:
        return self.name

    @property
    def child_options(self) -> ChildOptions:
        return self.inner.child_options

    @property
    def default_layer(self) -> Layer:
        return self.layer

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        return self.inner.build(runtime, parent, name)

    def new_handle(self) -> C:
        return self.make_handle(self.name)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, inner=self.inner.with_options(options))

    def dependencies(self) -> Iterator[object]:
        yield from self.needs
        yield from self.inner.dependencies()

    def in_environment(self, env: Environment) -> Self:
        if self.for_env is None:
            return self
        made = self.for_env(env)  # all of it: a handle may be made from the config too
        return replace(
            self,
            inner=made.inner.with_options(self.child_options),
            make_handle=made.make_handle,
            needs=made.needs,
            for_env=None,
        )


def by_environment(make: Callable[[Environment], ComponentSpec[C]]) -> ComponentSpec[C]:
    """A component without a config of its own.

    It takes the defaults of the app's environment; outside of apps those of development.
    """
    return replace(make("development"), for_env=make)
