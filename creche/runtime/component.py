"""The seam between the runtime and the components: a spec that hands out a typed handle of its own.

A component is a package with a `Config`, `default_config(env)`, `component(config=None, **dependencies)`, its handle,
its errors, and actors that nobody outside sees. Its handle's plain async methods send the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar, Unpack

from .actor import Actor
from .cell import Cell
from .config import Config, default_config
from .errors import NotStarted
from .handle import Handle
from .node import Node, Parent
from .runtime import Runtime
from .spec import ChildOptions, Configs, Layer, OptionValues, Spec

A = TypeVar("A", bound=Actor)
C = TypeVar("C", bound="ComponentHandle")
K = TypeVar("K", bound=Config)


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
    was given. `section` is its section in the app's configuration; when it is empty or the component was renamed, the
    section is called as the component. `unconfigured` makes it anew from a config, when none was given; see
    `by_config`. `chosen` are the options that hold for what is made anew, too.
    """

    name: str
    inner: Spec[Any]
    make_handle: Callable[[str], C]
    layer: Layer = "infrastructure"
    needs: tuple[object, ...] = ()
    section: str = ""
    unconfigured: Unconfigured[Any, C] | None = None
    chosen: OptionValues = field(default_factory=OptionValues)

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

    def options(self, **values: Unpack[OptionValues]) -> Self:
        return replace(super().options(**values), chosen={**self.chosen, **values})

    def dependencies(self) -> Iterator[object]:
        yield from self.needs
        yield from self.inner.dependencies()

    def check(self) -> None:
        self.inner.check()

    def configured(self, configs: Configs) -> Self:
        own_name = self.child_options.name or self.name
        section = self.section if self.section and own_name == self.name else own_name
        if self.unconfigured is None:
            for given in self.dependencies():
                if isinstance(given, Config):
                    configs.given(section, given)
            return self
        made = self.unconfigured.make(configs.config(section, self.unconfigured.kind))
        return replace(
            self,  # all of it: a handle, too, may be made from the config
            inner=made.inner.options(**self.chosen),
            make_handle=made.make_handle,
            needs=made.needs,
            unconfigured=None,
        )


@dataclass(frozen=True)
class Unconfigured(Generic[K, C]):
    """What makes a component from a config, and the type of the config."""

    kind: type[K]
    make: Callable[[K], ComponentSpec[C]]


def by_config(kind: type[K], make: Callable[[K], ComponentSpec[C]]) -> ComponentSpec[C]:
    """A component without a config of its own.

    In an app it takes its section of the app's file and environment variables, over the defaults of the app's
    environment; outside of apps it takes the defaults of development.
    """
    return replace(make(default_config(kind, "development")), unconfigured=Unconfigured(kind, make))
