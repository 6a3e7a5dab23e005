"""The pool: a supervisor whose children are workers of one actor class, and the front where their messages come in.

Theory of operation
-------------------
A pool is a one_for_one supervisor like any other: it starts its workers, restarts them, gives up when they crash too
often. The front and the backlog belong to it as a mailbox belongs to a cell: they outlive its incarnations.

A drain asks all workers at once, so that they finish the queue together; each ends when there is nothing left for it.
To shrink, workers are retired, the last ones first: they finish what is in their hand and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import trio
from outcome import Error, Outcome, Value

from ...runtime import events
from ...runtime.actor import Actor
from ...runtime.context import PLACE
from ...runtime.errors import ActorStopped, CallCycle, SpecInvalid, StartFailed
from ...runtime.handle import message_of
from ...runtime.intensity import Intensity
from ...runtime.interposition import intake_class
from ...runtime.mailbox import Queued
from ...runtime.node import Node, Parent, State, Want
from ...runtime.spec import NAME_RULE, ActorSpec, ChildOptions, Spec, is_name
from ...runtime.waits import give_up_on
from ..spec import SupervisorSpec
from ..supervisor import Supervisor, handler_that_waits
from .admission import Admission, Admitting
from .autoscale import Autoscale, Autoscaler
from .backlog import Backlog
from .front import Front, RoutedFront
from .handle import Pool, PoolStatistics
from .keyed import KeyedBacklog, RoutedBacklog
from .line import Line, PriorityLine, arguments_of
from .routing import ByKey, Routing, Sticky, policy_of
from .shared import SharedBacklog
from .worker import WorkerCell

if TYPE_CHECKING:
    from ...runtime.runtime import Runtime

A = TypeVar("A", bound=Actor)

ROUTINGS = ("shared", "round_robin", "least_loaded")
CRASHES_PER_WORKER = 3  # OTP's usual number for one child; workers of one class share what makes them crash
WINDOW = 5.0
_ADMISSION = Admission()
_OF_THE_POOL = ("mailbox", "overflow", "drain")


@dataclass(frozen=True, slots=True)
class Priority:
    """See `by_priority`."""

    rank: Callable[..., int]
    classes: int

    def checked(self, item: Queued) -> int:
        """The class of a message. Raises what the function raises, and `SpecInvalid` for what is no class."""
        args, kwargs = arguments_of(item)
        rank = self.rank(*args, **kwargs)
        if not (type(rank) is int and 0 <= rank < self.classes):
            raise SpecInvalid("priority", rank, f"a whole number from 0 (most urgent) to {self.classes - 1}")
        return rank

    def of(self, item: Queued) -> int:
        """The class of a message that was looked at when it was sent."""
        try:
            return self.checked(item)
        except Exception:  # it is not what it was then: nobody is there to be told
            return self.classes - 1


def by_priority(rank: Callable[..., int], *, classes: int = 3) -> Priority:
    """The priority of a pool's messages.

    Parameters
    ----------
    rank
        Takes the message's arguments and returns its class: 0 is the most urgent. It must depend on nothing else.
    classes
        How many there are. One message in eight that are taken is the oldest of all, whatever its class, so that none
        waits for ever.

    Raises
    ------
    SpecInvalid
        A value is out of range.
    """
    if not callable(rank):
        raise SpecInvalid("by_priority", rank, "pass a function that takes the message's arguments")
    if not (type(classes) is int and classes >= 2):
        raise SpecInvalid("by_priority(classes=...)", classes, "a whole number, 2 or more")
    return Priority(rank, classes)


@dataclass(frozen=True)
class PoolSpec(Spec[Pool[A]], Generic[A]):
    """The spec of a pool. Made by `pool`."""

    name: str
    worker: ActorSpec[A]
    size: int
    routing: Routing
    priority: Priority | None
    admission: Admission | None
    autoscale: Autoscale | None
    intensity: Intensity
    rules: ChildOptions

    @property
    def child_options(self) -> ChildOptions:
        return self.rules

    def default_name(self) -> str:
        return self.name

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        return PoolNode(runtime, parent, name, self)

    def new_handle(self) -> Pool[A]:
        return Pool(self.rules.name or self.name)

    def with_options(self, options: ChildOptions) -> Self:
        if options.overflow == "latest_by_key":
            raise SpecInvalid("overflow", options.overflow, "a pool lets wait, rejects or drops: it replaces nothing")
        return replace(self, rules=options)

    def dependencies(self) -> Iterator[object]:
        yield from self.worker.dependencies()

    # --- what the node is made of -----------------------------------------------------------------

    def new_line(self) -> Line:
        """A line of the backlog."""
        admission = None if self.admission is None else Admitting(self.admission)
        if self.priority is None:
            return Line(admission)
        return PriorityLine(self.priority.of, self.priority.classes, admission)

    def key_of(self, item: Queued) -> Any:
        """The key of a message."""
        args, kwargs = arguments_of(item)
        return cast("ByKey | Sticky", self.routing).key(*args, **kwargs)

    def new_backlog(self, front: Front) -> Backlog:
        """Where the messages wait."""
        if self.routing == "shared":
            return (SharedBacklog if self.priority is None else Backlog)(front, self.new_line)
        policy = policy_of(self.routing)
        if not isinstance(self.routing, (ByKey, Sticky)):
            return RoutedBacklog(front, self.new_line, policy)
        stays = isinstance(self.routing, ByKey)
        return KeyedBacklog(front, self.new_line, policy, self.key_of, waits_for_its_worker=stays)

    def new_front(self, runtime: Runtime, parent: Parent, name: str) -> Front:
        """Where they come in."""
        if self.routing == "shared" and self.priority is None:
            return intake_class(runtime, Front)(runtime, parent, name, self.rules, self.worker.cls, self.new_backlog)
        front = intake_class(runtime, RoutedFront)(runtime, parent, name, self.rules, self.worker.cls, self.new_backlog)
        checks = () if self.priority is None else (self.priority.checked,)
        front.check_with(checks, keyed=isinstance(self.routing, (ByKey, Sticky)))
        return front

    def as_supervisor(self) -> SupervisorSpec:
        """The pool as the supervisor of its first workers."""
        workers = tuple(WorkerSpec(self.worker, self.rules, number) for number in range(1, self.size + 1))
        return SupervisorSpec(self.name, workers, "one_for_one", self.intensity, self.rules)


@dataclass(frozen=True)
class WorkerSpec(Spec[Any]):
    """One worker of a pool: the actor's spec, under a name of its own, with the pool's rules for the queue."""

    actor: ActorSpec[Any]
    pool: ChildOptions
    number: int

    @property
    def child_options(self) -> ChildOptions:
        pool = self.pool
        return replace(
            self.actor.rules,
            name=f"worker-{self.number}",
            mailbox=pool.mailbox,
            overflow=pool.overflow,
            drain=pool.drain,
        )

    def default_name(self) -> str:
        return f"worker-{self.number}"

    def build(self, runtime: Runtime, parent: Parent, name: str) -> Node:
        cell = intake_class(runtime, WorkerCell)(runtime, parent, name, self.child_options, self.actor, self.actor.cls)
        cast("PoolNode", parent).front.add(cell)
        return cell

    def new_handle(self) -> Any:
        return self.actor.new_handle()

    def with_options(self, options: ChildOptions) -> Self:
        return replace(self, actor=self.actor.with_options(options))


class PoolNode(Supervisor):
    """See above. Users hold a `Pool` and never see it."""

    __slots__ = ("_drain_by", "_resizing", "front", "pool")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, pool: PoolSpec[Any]) -> None:
        self.pool = pool
        self.front = pool.new_front(runtime, parent, name)
        super().__init__(runtime, parent, name, pool.as_supervisor())
        self._drain_by: float | None = None
        self._resizing = trio.Lock()

    def __repr__(self) -> str:
        return f"<pool {self.path} {self.state.value}, {self.size} workers, {self.queued} waiting>"

    @property
    def size(self) -> int:
        """How many workers there are; those that retire do not count."""
        return len(self.front.workers)

    @property
    def busy(self) -> int:
        """How many of them have something in hand."""
        return sum(worker.seat.busy for worker in self.front.workers)

    def _not_idle(self) -> int:
        return sum(worker.seat.busy or not worker.takes for worker in self.front.workers)

    @property
    def queued(self) -> int:
        """See `Node`."""
        return self.front.queued

    @property
    def intake(self) -> Front:
        """See `Node`."""
        return self.front

    def statistics(self) -> PoolStatistics:
        """See `Pool.statistics`."""
        workers = tuple(worker.statistics() for worker in self.front.workers)
        past = self.front.past
        return PoolStatistics(
            path=self.path,
            state=self.state.value,
            incarnation=self.incarnation,
            restarts=past.restarts + sum(worker.restarts for worker in workers),
            queued=self.queued,
            stashed=0,
            oldest_wait=self.front.oldest_wait,
            in_flight=sum(worker.in_flight for worker in workers),
            handled=past.handled + sum(worker.handled for worker in workers),
            revoked=self.front.revoked,
            discarded=past.discarded + sum(worker.discarded for worker in workers),
            size=self.size,
            busy=self.busy,
            shed=self.front.shed_calls,
            workers=workers,
        )

    # --- messages to all --------------------------------------------------------------------------

    async def broadcast(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Outcome[Any]]:
        """See `Pool.broadcast`."""
        spec = message_of(self.front, name)
        if self.front.refusal is not None and self.front.draining:
            raise self.front.refusal()
        outcomes: dict[WorkerCell, Outcome[Any]] = {}

        async def call(worker: WorkerCell) -> None:
            try:
                outcomes[worker] = Value(await worker.call(spec, args, kwargs))
            except Exception as error:
                outcomes[worker] = Error(error)

        workers = list(self.front.workers)
        place = PLACE.get()
        if place is not None and place.serial is not None and place.serial in workers:
            raise CallCycle((place.path, self.path, place.path))
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(call, worker)
        return [outcomes[worker] for worker in workers]

    # --- its size ---------------------------------------------------------------------------------

    async def resize(self, size: int) -> None:
        """See `Pool.resize`."""
        require_size("resize", size)
        place = PLACE.get()
        if place is not None and place.serial is not None and f"{place.path}/".startswith(f"{self.path}/"):
            raise CallCycle((place.path, self.path))
        async with self._resizing:
            if self.state is not State.RUNNING or self.front.draining:
                raise ActorStopped(self.path)
            self._may_end(self.front.workers[size:])
            before = self.size
            if size != before and self.runtime.events.on:
                self.emit(events.Resized, before, size)
            while self.size < size:
                await self._add_worker()
            too_many = self.front.workers[size:][::-1]
            for worker in too_many:
                self.front.retire(worker)
        async with trio.open_nursery() as nursery:  # others may resize it meanwhile
            for worker in too_many:
                nursery.start_soon(self.stop_child, worker)

    def _may_end(self, workers: list[WorkerCell]) -> None:
        """Raise `CallCycle` if one of them waits for the handler that would wait for its end."""
        waiter = handler_that_waits()
        if waiter is not None:
            give_up_on(waiter, *workers)

    async def _add_worker(self) -> None:
        number = next(n for n in range(1, len(self._nodes) + 2) if f"worker-{n}" not in self._nodes)
        node = await self.start_child(WorkerSpec(self.pool.worker, self.pool.rules, number))
        self._dynamic.discard(node.name)  # from now on it is as the first ones: it comes back with the pool

    def child_stopped(self, child: Node) -> None:
        """See `Children`: a worker that has ended for good leaves no place behind."""
        self._dynamic.discard(child.name)
        if self._nodes.get(child.name) is child:
            del self._nodes[child.name]

    async def _supervise(self) -> None:
        scaler = trio.CancelScope()
        if self.pool.autoscale is not None:
            self.runtime.clean_context.run(self.nursery.start_soon, self._scale, self.pool.autoscale, scaler)
        try:
            await super()._supervise()
        finally:
            scaler.cancel("the pool is ending")

    async def _scale(self, rule: Autoscale, scope: trio.CancelScope) -> None:
        scaler = Autoscaler(rule)
        with scope:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(rule.every)
                    size = scaler.size(trio.current_time(), self.size, self._not_idle(), self.front.oldest_wait)
                    if size > self.size:
                        await self._resize_by_load(size)
                    elif size < self.size:  # which takes as long as the handler of whoever retires
                        nursery.start_soon(self._resize_by_load, size)

    async def _resize_by_load(self, size: int) -> None:
        try:
            await self.resize(size)
        except (StartFailed, ActorStopped):
            pass  # told by the events of the worker; the next look decides anew

    # --- its end ----------------------------------------------------------------------------------

    def ask_to(self, want: Want) -> None:
        """See `Node`."""
        if want is Want.DRAIN and self.state is not State.STOPPED:
            self.front.close()
        super().ask_to(want)

    def move(self, to: State) -> None:
        """See `Node`."""
        super().move(to)
        self.front.follow(self._held, self._restart_at)

    async def _stop_all(self) -> None:
        if self.want is Want.DRAIN:
            self._drain_by = trio.current_time() + self.spec.drain
            for worker in reversed(self.children()):
                worker.ask_to(Want.DRAIN)
        await super()._stop_all()

    def _patience_with(self, node: Node) -> float:
        if self._drain_by is not None:
            return max(0.0, min(self._drain_by, self.runtime.stop_by) - trio.current_time())
        if not self._leaving() and cast("WorkerCell", node).seat.retired:
            return inf  # to finish what it has in hand, for as long as the pool runs
        return super()._patience_with(node)

    def _ended(self, cause: Exception | None) -> None:
        self.front.end(cause)
        super()._ended(cause)


def pool(
    name: str,
    worker: ActorSpec[A],
    *,
    size: int | None = None,
    routing: Routing = "shared",
    priority: Priority | None = None,
    admission: Admission | None = _ADMISSION,
    autoscale: Autoscale | None = None,
    intensity: Intensity | None = None,
) -> PoolSpec[A]:
    """The spec of a pool of workers behind one handle, which is used as that of a single actor.

    ``creche.pool("thumbs", creche.child(Thumbnailer, store), size=8)``. Rules for the queue (``mailbox``, ``overflow``,
    ``drain``), and name and layer, are set by ``.options(...)`` of the pool; all others, such as ``restart`` and
    ``down_wait``, by those of the worker.

    Parameters
    ----------
    worker
        How each worker is made.
    size
        How many there are at the beginning. Default: 4, or the least that `autoscale` allows.
    routing
        Who gets a message. ``"shared"``: whoever is free first takes from one queue, so nothing waits behind a slow
        message while a worker is idle. ``"round_robin"``, ``"least_loaded"``: assigned as it comes. `by_key`: one key,
        one worker. `sticky`: a key stays with the worker that has it in hand or queued.
    priority
        See `by_priority`. Default: first come, first served.
    admission
        Calls that have waited too long while the pool is overloaded are refused: ``NotDelivered("overload")``, see
        `Admission`. On by default; None: never. Casts that were accepted and parts of a ``call_many`` are not refused.
    autoscale
        See `Autoscale`. Default: the size stays as it is.
    intensity
        How many restarts of workers are too many. Default: 3 for each of the first workers, in 5 seconds.

    Raises
    ------
    SpecInvalid
        Something is wrong in it. Nothing has been started then.
    """
    _require_worker(worker)
    if not is_name(name):
        raise SpecInvalid("pool(name)", name, NAME_RULE)
    if size is None:
        size = 4 if autoscale is None else autoscale.min
    require_size("pool(size=...)", size)
    if autoscale is not None and not autoscale.min <= size <= autoscale.max:
        raise SpecInvalid("pool(size=...)", size, f"autoscale keeps it between {autoscale.min} and {autoscale.max}")
    _require_kinds(routing, priority, admission, autoscale)
    limit = Intensity(CRASHES_PER_WORKER * size, WINDOW) if intensity is None else intensity
    return PoolSpec(name, worker, size, routing, priority, admission, autoscale, limit, ChildOptions())


def _require_worker(worker: object) -> None:
    if not isinstance(worker, ActorSpec):
        raise SpecInvalid("pool(worker)", worker, "pass the spec of an actor: creche.child(Thumbnailer, ...)")
    default = ChildOptions()
    rules = worker.rules
    if rules.register is not None:
        raise SpecInvalid("register", rules.register, "workers share what they are: reach them by the pool's handle")
    for name in _OF_THE_POOL:
        if getattr(rules, name) != getattr(default, name):
            raise SpecInvalid(name, getattr(rules, name), f"set it on the pool: creche.pool(...).options({name}=...)")


def _require_kinds(routing: object, priority: object, admission: object, autoscale: object) -> None:
    if not (isinstance(routing, (ByKey, Sticky)) or routing in ROUTINGS):
        raise SpecInvalid("routing", routing, f"one of {', '.join(map(repr, ROUTINGS))}, by_key(...) or sticky(...)")
    for name, value, kind, make in (
        ("priority", priority, Priority, "creche.by_priority(...)"),
        ("admission", admission, Admission, "creche.Admission(...)"),
        ("autoscale", autoscale, Autoscale, "creche.Autoscale(...)"),
    ):
        if value is not None and not isinstance(value, kind):
            raise SpecInvalid(name, value, f"a {make}")


def require_size(where: str, size: object) -> None:
    """Raise `SpecInvalid` unless it is a number of workers."""
    if not (type(size) is int and size >= 1):
        raise SpecInvalid(where, size, "a whole number of workers, 1 or more")
