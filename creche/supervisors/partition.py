"""The partition supervisor: a fixed number of children that are alike, each responsible for its part of the keys.

One actor is one task, and handles one message at a time. Where that is the bottleneck and the state falls apart by some
key, several actors share the work, and what concerns one key always goes to the same: Elixir's ``PartitionSupervisor``.
The number is fixed, so the place of a key is its hash modulo that number. A pool, whose workers come and go, needs a
consistent hash instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from ..runtime.errors import NotStarted, SpecInvalid
from ..runtime.intensity import Intensity
from ..runtime.spec import Bindable, ChildOptions, Configs, Layer, Spec, require_spec
from ..runtime.stable_hash import StableKey, stable_hash
from .handle import SupervisorHandle
from .spec import SupervisorSpec
from .strategies import Strategy
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..runtime.node import Node, Parent
    from ..runtime.runtime import Runtime

H = TypeVar("H")
K = TypeVar("K")
K_contra = TypeVar("K_contra", contravariant=True)
H_co = TypeVar("H_co", covariant=True)


class PartitionSupervisor(SupervisorHandle, Generic[K_contra, H_co]):
    """The handle of a partition supervisor; made by `partition_supervisor`. Valid across all restarts."""

    __slots__ = ("_handles", "_key", "_new_handles")

    def __init__(
        self, name: str, new_handles: tuple[Callable[[], H_co], ...], key: Callable[[K_contra], StableKey]
    ) -> None:
        super().__init__(name)
        self._new_handles = new_handles
        self._key = key
        self._handles: tuple[H_co, ...] = ()

    def __len__(self) -> int:
        """How many partitions there are."""
        return len(self._new_handles)

    def of(self, key: K_contra) -> H_co:
        """The handle of the partition that a key belongs to, the same in every process and after every restart.

        Raises TypeError if the key, or what the spec's `key` makes of it, has no stable hash; `NotStarted`.
        """
        return self.all()[stable_hash(self._key(key)) % len(self._new_handles)]

    def all(self) -> tuple[H_co, ...]:
        """The handles of all partitions, in order. Raises `NotStarted`."""
        if not self._handles:
            raise NotStarted(self._name)
        return self._handles

    def _bind(self, node: Node) -> None:
        nodes = node.children()
        if len(nodes) != len(self._new_handles):
            raise SpecInvalid("handle", node.path, f"it is {node!r}, which has not {len(self)} partitions")
        handles = tuple(make() for make in self._new_handles)
        for handle, child in zip(handles, nodes, strict=True):
            cast("Bindable", handle)._bind(child)  # pyright: ignore[reportPrivateUsage]
        super()._bind(node)
        self._handles = handles

    def _unbind(self) -> None:
        super()._unbind()
        self._handles = ()


@dataclass(frozen=True)
class PartitionSpec(Spec[PartitionSupervisor[K, H]], Generic[K, H]):
    """The spec of a partition supervisor and of its children; made by `partition_supervisor`."""

    inner: SupervisorSpec
    key: Callable[[K], StableKey]

    @property
    def child_options(self) -> ChildOptions:
        return self.inner.rules

    @property
    def default_layer(self) -> Layer:
        return self.inner.default_layer

    def default_name(self) -> str:
        return self.inner.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Supervisor:
        return self.inner.build(runtime, parent, name)

    def new_handle(self) -> PartitionSupervisor[K, H]:
        makers = tuple(cast("Spec[H]", child).new_handle for child in self.inner.children)
        return PartitionSupervisor(self.inner.name, makers, self.key)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, inner=self.inner.with_options(options))

    def check(self) -> None:
        self.inner.check()

    def configured(self, configs: Configs) -> Self:
        return replace(self, inner=self.inner.configured(configs))

    def dependencies(self) -> Iterator[object]:
        return self.inner.dependencies()


@overload
def partition_supervisor(
    name: str,
    each: Spec[H] | Callable[[int], Spec[H]],
    *,
    partitions: int,
    strategy: Strategy = ...,
    intensity: Intensity | None = ...,
) -> PartitionSpec[StableKey, H]: ...
@overload
def partition_supervisor(
    name: str,
    each: Spec[H] | Callable[[int], Spec[H]],
    *,
    partitions: int,
    key: Callable[[K], StableKey],
    strategy: Strategy = ...,
    intensity: Intensity | None = ...,
) -> PartitionSpec[K, H]: ...
def partition_supervisor(
    name: str,
    each: Spec[H] | Callable[[int], Spec[H]],
    *,
    partitions: int,
    key: Callable[[Any], StableKey] | None = None,
    strategy: Strategy = "one_for_one",
    intensity: Intensity | None = None,
) -> PartitionSpec[Any, H]:
    """The spec of a supervisor of `partitions` children that are alike, named ``"0"``, ``"1"``, … and found by key.

    Parameters
    ----------
    each
        The spec of every child, or a function that makes the spec of the child of a number, counted from 0.
    partitions
        How many; 1 or more. Whoever changes it moves keys to other partitions.
    key
        Makes of what `PartitionSupervisor.of` is given the key that is hashed: text, bytes, a number, None, or a tuple
        of these. Default: what is given is the key. The hash is BLAKE2b, the same in every process.
    strategy, intensity
        As in `supervisor`.

    Raises
    ------
    SpecInvalid
        Something is wrong in it. Nothing has been started then.
    """
    spec = SupervisorSpec(
        name,
        _children(each, partitions),
        strategy,
        Intensity() if intensity is None else intensity,
    )
    return PartitionSpec(spec, _itself if key is None else key)


def _children(each: Spec[H] | Callable[[int], Spec[H]], partitions: object) -> tuple[Spec[H], ...]:
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise SpecInvalid("partitions", partitions, "a whole number of at least 1")
    made: list[Spec[H]] = []
    for number in range(partitions):
        spec = each(number) if callable(each) else each
        require_spec("partition_supervisor", spec)
        made.append(spec.options(name=str(number)))
    return tuple(made)


def _itself(key: StableKey) -> StableKey:
    return key
