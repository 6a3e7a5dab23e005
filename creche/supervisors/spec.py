"""The spec of a supervisor: frozen data, validated as a whole when it is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from ..runtime.checks import require, require_one_of, require_type
from ..runtime.errors import SpecInvalid
from ..runtime.spec import NAME_RULE, ChildOptions, Configs, Layer, Spec, is_name, name_of, require_spec
from .budget import Intensity
from .handle import SupervisorHandle
from .strategies import STRATEGIES, Strategy
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..runtime.node import Parent
    from ..runtime.runtime import Runtime


@dataclass(frozen=True)
class SupervisorSpec(Spec[SupervisorHandle]):
    """The spec of a supervisor and, in it, of its children in start order. Made by `supervisor`."""

    name: str
    children: tuple[Spec[Any], ...] = ()
    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(default_factory=Intensity)
    rules: ChildOptions = field(default_factory=ChildOptions)

    def __post_init__(self) -> None:
        require_one_of(self, "strategy", STRATEGIES)
        require(self, "name", is_name(self.name), NAME_RULE)
        require_type(self, "intensity", Intensity)
        if self.rules.register is not None:
            raise SpecInvalid("register", self.rules.register, "names are for actors: give one to a child")
        for child in self.children:
            require_spec(f"supervisor({self.name!r}, ...)", child)
        check_names(self.children)

    @property
    def child_options(self) -> ChildOptions:
        return self.rules

    def default_name(self) -> str:
        return self.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Supervisor:
        return Supervisor(runtime, parent, name, self)

    def new_handle(self) -> SupervisorHandle:
        return SupervisorHandle(self.name)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, rules=options)

    def configured(self, configs: Configs) -> Self:
        return replace(self, children=tuple(child.configured(configs) for child in self.children))

    def dependencies(self) -> Iterator[object]:
        for child in self.children:
            yield from child.dependencies()

    @property
    def default_layer(self) -> Layer:
        return self.children[0].default_layer if self.children else "service"


def supervisor(
    name: str,
    *children: Spec[Any],
    strategy: Strategy = "one_for_one",
    intensity: Intensity | None = None,
) -> SupervisorSpec:
    """The spec of a supervisor.

    Parameters
    ----------
    children
        Specs in start order; stopped in reverse.
    strategy
        ``one_for_one``: a crashed child restarts alone. ``one_for_all``: all restart with it. ``rest_for_one``: those
        that were started after it do.
    intensity
        How many restarts are too many; default 3 in 5 seconds.

    Raises
    ------
    SpecInvalid
        Something is wrong in it, two children of one name included. Nothing has been started then.
    """
    return SupervisorSpec(name, children, strategy, Intensity() if intensity is None else intensity)


def require_supervisor(where: str, value: object) -> None:
    """Raise `SpecInvalid` unless `value` is the spec of a supervisor."""
    if not isinstance(value, SupervisorSpec):
        raise SpecInvalid(where, value, "pass creche.supervisor('root', creche.child(...), ...)")


def check_names(specs: Sequence[Spec[Any]]) -> None:
    """Raise `SpecInvalid` if two siblings have one name."""
    taken: set[str] = set()
    for spec in specs:
        name = name_of(spec)
        if name in taken:
            raise SpecInvalid("name", name, "siblings need different names: use .options(name=...)")
        taken.add(name)
