"""The pipeline: a supervisor whose children are pools, one for each stage, and the way in and out.

The stages start from the last to the first, so that they stop from the first to the last. A drain lets in nothing new
and waits until all items that are on their way have come to their end, before it stops the first stage.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import trio

from ...runtime.actor import Actor
from ...runtime.errors import NotStarted, SpecInvalid
from ...runtime.intensity import Intensity
from ...runtime.node import State, Want
from ...runtime.spec import NAME_RULE, ActorSpec, ChildOptions, Configs, Spec, is_name, name_of
from ..handle import SupervisorHandle
from ..pools.pool import PoolNode, pool, require_size
from ..spec import SupervisorSpec
from ..supervisor import Supervisor
from .flow import Flow, ItemOutcome, Source, StageFlow, StageStatistics, Stream

if TYPE_CHECKING:
    from ...runtime.node import Node, Parent
    from ...runtime.runtime import Runtime

A = TypeVar("A", bound=Actor)
MAILBOX = ChildOptions().mailbox


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """A pipeline at this moment: items of sources that are on their way, that have come through, that have failed."""

    path: str
    in_flight: int
    done: int
    failed: int
    stages: tuple[StageStatistics, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline. Made by `stage`."""

    name: str
    worker: ActorSpec[Any]
    message: str
    size: int
    buffer: int
    many: bool

    def as_pool(self) -> Spec[Any]:
        """The workers. Nothing is refused for its age: the room bounds what waits."""
        spec = pool(self.name, self.worker, size=self.size, admission=None)
        return spec.options(mailbox=max(MAILBOX, self.size + self.buffer))

    def flow_through(self, node: PoolNode) -> StageFlow:
        """The stage, as the items see it."""
        message = node.front.messages[self.message]
        return StageFlow(self.name, node.front, message, self.size + self.buffer, self.many)


class Pipeline(SupervisorHandle):
    """The handle of a pipeline. Valid across restarts of workers, stages and the pipeline."""

    __slots__ = ()

    async def submit(self, item: Any) -> ItemOutcome:
        """Send one item through, and wait for its end. Waits for room first.

        Cancelled, the item is taken back where it waits; a worker that has it in hand does what its message says
        (`on_caller_gone`).

        Returns
        -------
        ItemOutcome
            What became of it. An item that fails does not raise: see `ItemOutcome.unwrap`.
        """
        flow = self._flow()
        await flow.admit()
        return await flow.carry(item)

    @asynccontextmanager
    async def process(self, source: Source, *, ordered: bool = False) -> AsyncGenerator[Stream]:
        """Send all items of a source through, for the length of a block, which iterates over their outcomes.

        ::

            async with pipeline.process(read_lines(file)) as outcomes:
                async for outcome in outcomes:
                    ...

        Each item that is taken from the source has exactly one outcome. The source is asked for no more than there is
        room for, and outcomes that nobody takes hold it up, too. When the block is left before the end, in whatever
        way, the source is closed and what is on its way is cancelled.

        Parameters
        ----------
        source
            An iterable or an async iterable: a list, an async generator, a memory channel. If it is closed by
            ``aclose()`` it is closed at the end. What it raises comes out of the iteration, after the outcomes of all
            items before it; so does `NotDelivered` when the pipeline is stopped before it has ended.
        ordered
            Outcomes come in the order of the source. A slow item then holds up those behind it.
        """
        stream = Stream(self._flow(), source, ordered=ordered)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.feed)
            try:
                yield stream
            except Exception as error:
                failure = error  # not through the nursery, which would wrap it
            nursery.cancel_scope.cancel("the block has been left")
        if failure is not None:
            try:
                raise failure
            finally:
                del failure

    async def run(self, source: Source) -> list[ItemOutcome]:
        """Send all items of a source through, and return their outcomes, in order. See `process`."""
        async with self.process(source, ordered=True) as outcomes:
            return [outcome async for outcome in outcomes]

    async def drain(self) -> None:
        """Stop for good: let nothing in, bring what is on its way to its end, within the `drain` seconds of its spec.

        The same as ``runtime.stop(pipeline)``.
        """
        node = self._pipeline()
        await node.runtime.stop(node)

    def statistics(self) -> PipelineStatistics:
        """What is on its way, and in which stage; what has come through."""
        flow = self._flow()
        stages = tuple(stage.statistics() for stage in flow.stages)
        return PipelineStatistics(self.path, flow.in_flight, flow.done, flow.failed, stages)

    def _flow(self) -> Flow:
        return self._pipeline().flow

    def _pipeline(self) -> PipelineNode:
        if self._node is None:
            raise NotStarted(self._name)
        return cast("PipelineNode", self._node)

    def _bind(self, node: Node) -> None:
        if not isinstance(node, PipelineNode):
            raise SpecInvalid("handle", node.path, f"it is {node!r}, no pipeline")
        super()._bind(node)


@dataclass(frozen=True)
class PipelineSpec(Spec[Pipeline]):
    """The spec of a pipeline. Made by `pipeline`."""

    inner: SupervisorSpec
    stages: tuple[Stage, ...]

    @property
    def child_options(self) -> ChildOptions:
        return self.inner.rules

    def default_name(self) -> str:
        return self.inner.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        return PipelineNode(runtime, parent, name, self)

    def new_handle(self) -> Pipeline:
        return Pipeline(self.inner.name)

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, inner=self.inner.with_options(options))

    def check(self) -> None:
        self.inner.check()

    def configured(self, configs: Configs) -> Self:
        return replace(self, inner=self.inner.configured(configs))

    def dependencies(self) -> Iterator[object]:
        return self.inner.dependencies()


class PipelineNode(Supervisor):
    """See above. Users hold a `Pipeline` and never see it."""

    __slots__ = ("_drain_by", "flow")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, spec: PipelineSpec) -> None:
        super().__init__(runtime, parent, name, spec.inner)
        self._drain_by: float | None = None
        pools = [cast("PoolNode", self._nodes[stage.name]) for stage in spec.stages]
        self.flow = Flow(self.path, [stage.flow_through(node) for stage, node in zip(spec.stages, pools, strict=True)])

    def __repr__(self) -> str:
        return f"<pipeline {self.path} {self.state.value}, {self.flow.in_flight} items on their way>"

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if want is Want.DRAIN and self.state is not State.STOPPED:
            self.flow.close()
        super().ask_to(want)

    async def _stop_all(self) -> None:
        if self.want is Want.DRAIN:
            self._drain_by = trio.current_time() + self.spec.drain
            with trio.move_on_at(min(self._drain_by, self.runtime.stop_by)):
                await self.flow.emptied()
        await super()._stop_all()

    def _patience_with(self, node: Node) -> float:
        if self._drain_by is None:
            return super()._patience_with(node)
        return max(0.0, min(self._drain_by, self.runtime.stop_by) - trio.current_time())

    def _ended(self, cause: Exception | None) -> None:
        self.flow.close()
        super()._ended(cause)


def stage(
    worker: ActorSpec[A],
    message: Callable[[A, Any], Awaitable[Any]] | None = None,
    *,
    size: int = 1,
    buffer: int = 0,
    many: bool = False,
    name: str | None = None,
) -> Stage:
    """One stage of a pipeline: workers of an actor class, each of which handles one item at a time.

    Parameters
    ----------
    worker
        How each worker is made: ``creche.child(Fetcher, client)``.
    message
        What handles an item: a method that takes one argument, and returns what goes on to the next stage; None drops
        the item. Default: the only message of the class. Declare it ``idempotent=True`` if an item whose worker dies is
        to be handled again; else it fails with `OutcomeUnknown`.
    size
        How many workers.
    buffer
        How many items may wait here, beside those that workers have in hand.
    many
        The method returns an iterable, each item of which goes on by itself.
    name
        Default: that of the worker's spec.

    Raises
    ------
    SpecInvalid
        A value is out of range, or there is no such message.
    """
    _require("stage(worker)", worker, ActorSpec, "pass the spec of an actor: creche.child(Fetcher, ...)")
    require_size("stage(size=...)", size)
    if not (type(buffer) is int and buffer >= 0):
        raise SpecInvalid("stage(buffer=...)", buffer, "a whole number of items, 0 or more")
    if type(many) is not bool:
        raise SpecInvalid("stage(many=...)", many, "True or False")
    named = name_of(worker) if name is None else name
    if not is_name(named):
        raise SpecInvalid("stage(name=...)", named, NAME_RULE)
    return Stage(named, worker, _message_of(worker.cls, message), size, buffer, many)


def _require(where: str, value: object, kind: type, fix: str) -> None:
    if not isinstance(value, kind):
        raise SpecInvalid(where, value, fix)


def _message_of(cls: type[Actor], message: Callable[..., object] | None) -> str:
    table = cls.__messages__
    if message is None:
        if len(table) != 1:
            raise SpecInvalid("stage(message)", None, f"say which: {cls.__qualname__} has {', '.join(table) or 'none'}")
        return next(iter(table))
    name = getattr(message, "__name__", "")
    if name not in table:
        raise SpecInvalid("stage(message)", message, f"pass a method of {cls.__qualname__} that is a message")
    return name


def pipeline(name: str, *stages: Stage, intensity: Intensity | None = None) -> PipelineSpec:
    """The spec of a pipeline: items go through its stages in turn, and no faster than the slowest lets them.

    ``creche.pipeline("index", creche.stage(creche.child(Fetcher), size=8), creche.stage(creche.child(Parser)))``.

    Parameters
    ----------
    stages
        From the first to the last. Each is a pool of workers, supervised by the pipeline.
    intensity
        How many restarts of stages are too many; each restarts its own workers. Default 3 in 5 seconds.

    Raises
    ------
    SpecInvalid
        Something is wrong in it, two stages of one name included. Nothing has been started then.
    """
    if not stages:
        raise SpecInvalid(f"pipeline({name!r})", stages, "give it a stage: creche.stage(creche.child(Fetcher))")
    for one in stages:
        _require(f"pipeline({name!r})", one, Stage, "pass creche.stage(...) for each stage")
    pools = tuple(one.as_pool() for one in reversed(stages))
    rates = Intensity() if intensity is None else intensity
    return PipelineSpec(SupervisorSpec(name, pools, "one_for_one", rates), stages)
