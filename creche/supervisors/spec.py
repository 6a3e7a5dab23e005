"""The spec of a supervisor: frozen data, validated as a whole when it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from ..runtime.checks import require, require_one_of, require_type
from ..runtime.errors import SpecInvalid
from ..runtime.intensity import Intensity
from ..runtime.spec import NAME_RULE, ChildOptions, Configs, Layer, Spec, is_name, name_of, require_spec
from .handle import SupervisorHandle
from .strategies import STRATEGIES, Strategy
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..runtime.node import Parent
    from ..runtime.runtime import Runtime

AutoShutdown = Literal["never", "any_significant", "all_significant"]
_WHOLE_GROUPS = ("one_for_all", "rest_for_one")


@dataclass(frozen=True)
class SupervisorSpec(Spec[SupervisorHandle]):
    """The spec of a supervisor and, in it, of its children in start order. Made by `supervisor`."""

    name: str
    children: tuple[Spec[Any], ...] = ()
    strategy: Strategy = "one_for_one"
    intensity: Intensity = field(default_factory=Intensity)
    rules: ChildOptions = field(default_factory=ChildOptions)
    auto_shutdown: AutoShutdown = "never"

    def __post_init__(self) -> None:
        require_one_of(self, "strategy", STRATEGIES)
        require(self, "name", is_name(self.name), NAME_RULE)
        require_type(self, "intensity", Intensity)
        if self.rules.register is not None:
            raise SpecInvalid("register", self.rules.register, "names are for actors: give one to a child")
        require_one_of(self, "auto_shutdown", ("never", "any_significant", "all_significant"))
        names: dict[str, None] = {}
        for child in self.children:
            require_spec(f"supervisor({self.name!r}, ...)", child)
            name = name_of(child)
            self.check_child(child, name, names)
            names[name] = None

    def check_child(self, child: Spec[Any], name: str, before: Collection[str]) -> None:
        """Raise `SpecInvalid` if a child cannot live under this supervisor, behind the siblings of these names."""
        rules = child.child_options
        if name in before:
            raise SpecInvalid("name", name, "siblings need different names: use .options(name=...)")
        child.check()
        if rules.significant and self.auto_shutdown == "never":
            fix = f'give supervisor {self.name!r} auto_shutdown="any_significant" or "all_significant"'
            raise SpecInvalid(f"{name}.significant", True, fix)
        if rules.on_exhausted == "park" and self.strategy in _WHOLE_GROUPS:
            fix = f"{self.strategy} restarts a whole group: give on_exhausted to supervisor {self.name!r} itself"
            raise SpecInvalid(f"{name}.on_exhausted", "park", fix)
        if rules.depends_on:
            self._check_depends_on(name, rules.depends_on, before)

    def _check_depends_on(self, name: str, depends_on: tuple[str, ...], before: Collection[str]) -> None:
        if self.strategy != "dependents":
            fix = f'only strategy="dependents" looks at it, supervisor {self.name!r} has {self.strategy!r}'
            raise SpecInvalid(f"{name}.depends_on", depends_on, fix)
        for other in depends_on:
            if other not in before:
                there_are = ", ".join(before) or "none"
                fix = f"no sibling {other!r} stands before it (there are: {there_are}): it has to start first"
                raise SpecInvalid(f"{name}.depends_on", depends_on, fix)

    def check(self) -> None:
        super().check()
        if self.auto_shutdown != "never" and self.rules.restart == "permanent":
            fix = 'what shuts itself down must not be restarted for it: add .options(restart="transient")'
            raise SpecInvalid(f"{name_of(self)}.auto_shutdown", self.auto_shutdown, fix)

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
    auto_shutdown: AutoShutdown = "never",
) -> SupervisorSpec:
    """The spec of a supervisor.

    Parameters
    ----------
    children
        Specs in start order; stopped in reverse.
    strategy
        ``one_for_one``: a crashed child restarts alone. ``one_for_all``: all restart with it. ``rest_for_one``: those
        that were started after it do. ``dependents``: those that depend on it do, and what depends on them: because
        they were given its handle, or name it in their option `depends_on`.
    intensity
        How many restarts are too many; default 3 in 5 seconds. Children with an `intensity` of their own do not count.
    auto_shutdown
        Whether it stops itself, for good and in order, when ``any_significant`` child or ``all_significant`` children
        have ended by themselves. It ends normally then, and must not be a permanent child.

    Raises
    ------
    SpecInvalid
        Something is wrong in it, two children of one name included. Nothing has been started then.
    """
    rates = Intensity() if intensity is None else intensity
    return SupervisorSpec(name, children, strategy, rates, auto_shutdown=auto_shutdown)


def check_spec(spec: Spec[Any]) -> None:
    """See that a spec is right as a whole, and all that it holds, without starting anything.

    `supervisor`, `Runtime.start` and `open_runtime` do it too. Raises `SpecInvalid`, which names the field, the value
    and what to write instead.
    """
    require_spec("check_spec", spec)
    spec.check()


def require_root(where: str, value: object) -> None:
    """Raise `SpecInvalid` unless `value` is the spec of a supervisor that can be the root."""
    if not isinstance(value, SupervisorSpec):
        raise SpecInvalid(where, value, "pass creche.supervisor('root', creche.child(...), ...)")
    rules = value.rules
    for name, given, wrong in (
        ("auto_shutdown", value.auto_shutdown, value.auto_shutdown != "never"),
        ("significant", rules.significant, rules.significant),
        ("on_exhausted", rules.on_exhausted, rules.on_exhausted != "escalate"),
        ("intensity", rules.intensity, rules.intensity is not None),
    ):
        if wrong:
            fix = "the root has nobody above it who could heed this: put such a supervisor under the root"
            raise SpecInvalid(f"{where}.{name}", given, fix)
    value.check()
