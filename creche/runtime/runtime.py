"""The runtime: one supervision tree with its clock, randomness, deadlines and events.

Theory of operation
-------------------
The user's nursery is outside; the tree lives in a *host* task inside it, under a shielded scope. So a cancel of the
user's code does not reach the tree directly, which would hit all of it in one tick: it makes `opened` ask the root to
stop, and children stop in reverse order under their deadlines. The user's own body is not shielded. When the root gives
up, the host raises `TreeFailed`, which cancels the user's body.

The runtime is the root's parent. It calls no `trio.run`, touches no signal and assumes no main thread, so it also runs
as a guest.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, TypeVarTuple, cast, overload

import trio
from outcome import Outcome

from . import events
from .actor import Actor
from .ambient import Ambient, System
from .context import RUNTIME
from .dead_letters import DeadLetters
from .deadlines import Deadlines
from .errors import CallFailed, Killed, NotStarted, SpecInvalid, TreeFailed
from .handle import Handle, must_not_wait_for_itself, require_messages
from .interposition import INTERPOSER
from .names import Groups, Names
from .node import Group, Node, State, Verdict, Want, stack_of
from .simulation import SIMULATION
from .spec import Bindable, Spec, require_spec
from .tree import TreeNode, picture
from .wait_graph import WaitForGraph, wait_for_graph
from .watchdog import Watchdog, WatchdogThread

if TYPE_CHECKING:
    from .cell import Cell

A = TypeVar("A", bound=Actor)
H = TypeVar("H")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class UnstoppedReport:
    """A node that did not end although it was asked to and then cancelled.

    `stack` shows where it stood at that moment.
    """

    path: str
    stack: str


class Runtime:
    """Made by `creche.open_runtime`. Everything in it is for use from its own Trio run.

    `random` is its randomness, for whatever shall be the same when a test runs a second time. `names` and `groups` say
    which actors are called how, and which belong together.
    `dead_letters` is None until `keep_dead_letters` is called.
    """

    def __init__(
        self, name: str, root: Spec[Any], *, seed: int | None = None, watchdog: Watchdog | None = None
    ) -> None:
        self.name = name
        self._simulation = SIMULATION.get()
        self._ambient: Ambient = System() if self._simulation is None else self._simulation
        self.interposer = INTERPOSER.get()
        self.random = random.Random(seed) if self._simulation is None else self._simulation.next_random(seed)
        self.deadlines = Deadlines()
        self.events = events.EventHub()
        self.names = Names()
        self.groups = Groups()
        self.services: dict[str, object] = {}  # what components offer to all of the runtime's code, by component name
        self.unstopped: list[UnstoppedReport] = []
        self.dead_letters: DeadLetters | None = None
        self.path = ""  # it is the root's parent
        # What every task of the tree starts with: its runtime, and nothing of whoever happens to start it.
        self.clean_context = Context()
        self.clean_context.run(RUNTIME.set, self)
        self.clean_context.run(SIMULATION.set, self._simulation)
        self.stop_by = float("inf")
        self.opened_at = 0.0
        self._wall_clock_steps = 0.0
        self.token: trio.lowlevel.TrioToken | None = None  # for what may come from another thread
        self._nursery: trio.Nursery | None = None
        self._failure: Exception | None = None
        self._watchdog = watchdog
        self.root: Node = root.build(self, self, root.child_options.name or root.default_name())
        if self._simulation is not None:
            self._simulation.adopt(self)
        if self.interposer is not None:
            self.interposer.opened(self)

    def __repr__(self) -> str:
        return f"<Runtime {self.name}: {self.root!r}>"

    # --- for users --------------------------------------------------------------------------------

    async def start(self, spec: Spec[H]) -> H:
        """Start a child of the root and wait until it is ready.

        Raises `StartFailed` if it cannot start, `SpecInvalid` for a spec that is wrong or a name among siblings that is
        taken, `NameTaken` for a registered one, `ActorStopped` when the tree is stopping or has ended. If cancelled,
        what had started is stopped again.
        """
        require_spec("start", spec)
        return await self.start_with(spec, spec.new_handle())

    async def start_with(self, spec: Spec[H], handle: H) -> H:
        """As `start`, for a handle that has been handed out already."""
        require_spec("start", spec)
        node = await cast("Group", self.root).start_child(spec)
        cast("Bindable", handle)._bind(node)  # pyright: ignore[reportPrivateUsage]
        return handle

    async def stop(self, target: object) -> None:
        """Stop an actor or component for good: close it to new work, drain, then cancel; and wait until it has ended.

        `target` is its handle or its path. Idempotent. If the caller is cancelled the stop goes on. While a handler
        waits here, a call from what is being stopped to that handler's actor is refused with `CallCycle`.

        Raises
        ------
        CallCycle
            A handler that asks for this would wait for itself: it is of that actor, or of one below it, or at work for
            it. Use `ActorContext.exit`.
        SpecInvalid
            It is the root, which stops when its block is left.
        NotStarted, KeyError
            The handle is not bound yet; there is nothing at the path.
        """
        node = self.node_of(target)
        if node is self.root:
            raise SpecInvalid("stop", node.path, "the root stops when the block that holds the runtime open is left")
        must_not_wait_for_itself(node)
        if node.state is not State.STOPPED:
            await cast("Group", node.parent).stop_child(node)

    async def replace(self, target: object, spec: Spec[Any], *, when: Literal["next", "now"] = "next") -> None:
        """Make an actor from another spec, under the same path, handles and mail: another version, other options.

        The new class must have all messages of the old one, declared in the same way, as a subclass has them; options
        of its mailbox and its registered name stay. The change is not undone when it turns out to crash.

        Parameters
        ----------
        target
            The actor's handle, or its path.
        when
            ``"next"``: from its next incarnation on, whatever brings that about. ``"now"``: the present one ends as it
            does for a group restart: it finishes the message in hand within its `drain` time, its mail is kept, nobody
            is charged. Then this returns when its successor is ready. If cancelled, the change is made all the same.

        Raises
        ------
        SpecInvalid
            The spec cannot take the place of the present one, by itself or among its siblings; nothing has changed.
        StartFailed
            The successor has crashed at once. It is restarted, or not, as after any crash.
        ActorStopped
            It has ended for good, or it does before the successor is there.
        CallCycle
            ``when="now"`` from a handler of that very actor, or of one whose answer it waits for.
        """
        require_spec("replace", spec)
        if when not in ("next", "now"):
            raise SpecInvalid("when", when, "use 'next' or 'now'")
        node = self.node_of(target)
        if node is self.root:
            raise SpecInvalid("replace", node.path, "only an actor can be replaced")
        if when == "now":
            must_not_wait_for_itself(node)
        await cast("Group", node.parent).replace_child(node, spec, now=when == "now")

    def kill(self, target: object, reason: str) -> bool:
        """Crash the present incarnation of `target` (a handle or a path) with `Killed(reason)`.

        Its supervisor decides what comes next, as for any crash. False if there was nothing to kill: it is down or
        already dying. Raises `NotStarted` for a handle that is not bound yet, KeyError for a path that leads nowhere.
        """
        return self.node_of(target).condemn(Killed(reason))

    @overload
    def handle(self, path: str, kind: type[A]) -> Handle[A]: ...
    @overload
    def handle(self, path: str, kind: Spec[H]) -> H: ...
    def handle(self, path: str, kind: type[A] | Spec[Any]) -> Any:
        """A handle to the node at `path`, for instance ``"root/service/greeter"``: to static children, above all.

        Parameters
        ----------
        kind
            The actor's class, or the spec that the node was made from.

        Raises KeyError if there is no such node, and `SpecInvalid` if it is none of that kind.
        """
        node = self.node_of(path)
        if isinstance(kind, Spec):
            handle = kind.new_handle()
            cast("Bindable", handle)._bind(node)  # pyright: ignore[reportPrivateUsage]
            return handle
        require_messages("handle", path, node, kind)
        actor: Handle[Any] = Handle(node.name, cast("Cell", node))
        return actor

    @overload
    def whereis(self, name: str) -> Handle[Any] | None: ...
    @overload
    def whereis(self, name: str, cls: type[A]) -> Handle[A] | None: ...
    def whereis(self, name: str, cls: type[Actor] = Actor) -> Handle[Any] | None:
        """The actor that has a name, or None: short for `Names.whereis` of `names`."""
        return self.names.whereis(name, cls)

    def keep_dead_letters(self, capacity: int = 1000) -> DeadLetters:
        """Keep messages that nobody will handle, from now on, to be looked at and sent again: see `DeadLetters`.

        In memory: they are gone with this runtime. A second call returns the same store, with the new capacity.

        Parameters
        ----------
        capacity
            How many are kept; for each one more the oldest one goes.

        Raises
        ------
        SpecInvalid
            It is no whole number, 1 or more.
        """
        if self.dead_letters is None:
            self.dead_letters = DeadLetters(self.node_of, self.wall_clock, capacity)
        else:
            self.dead_letters.resize(capacity)
        return self.dead_letters

    def tree(self) -> TreeNode:
        """A picture of the whole tree at this moment. ``str()`` of it is text for people."""
        return picture(self.root)

    def wait_for_graph(self) -> WaitForGraph:
        """Which handlers wait for which actors at this moment, and on what. ``str()`` of it is text for people."""
        return wait_for_graph(self.root)

    async def run_blocking(self, fn: Callable[[*Ts], R], *args: *Ts, limiter: trio.CapacityLimiter | None = None) -> R:
        """Run blocking code in a worker thread and wait for it.

        It is always a checkpoint, and runs `fn` in a copy of the caller's context. A cancel that comes before `fn` has
        begun is obeyed, and `fn` does not run. One that comes later waits for `fn` to end, whose value or error comes
        out: make `fn` interruptible. In a deterministic run (`creche.testing.run`) there is no thread: `fn` runs
        inline, at one moment of a simulated delay, and all of the above holds. There `trio.from_thread` raises
        RuntimeError, and nothing else runs while `fn` does: it must not wait for another thread.

        Parameters
        ----------
        limiter
            How many may run at once; a token is held from before `fn` begins until it has ended, in both modes.
            Default: Trio's own limiter for threads.
        """
        if self._simulation is not None:
            return await self._simulation.run_blocking(fn, args, limiter)
        return await trio.to_thread.run_sync(fn, *args, limiter=limiter)

    def start_blocking(self, fn: Callable[[], R], deliver: Callable[[Outcome[R]], object]) -> None:
        """Run blocking code in a worker thread; then call ``deliver(outcome)`` in the thread of this runtime.

        As `run_blocking`, for who has no task to spare: it does not wait, and a cancel does not reach it. Two steps of
        the event loop cheaper. `deliver` must not raise, and who starts this must live until it is called.
        """
        context = copy_context()
        if self._simulation is not None:
            self._simulation.start_blocking(partial(context.run, fn), deliver)
            return
        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.start_thread_soon(partial(context.run, fn), lambda outcome: token.run_sync_soon(deliver, outcome))

    @property
    def ready(self) -> bool:
        """Whether the whole tree has started and has not been asked to stop: what a readiness probe should say."""
        return self.root.state is State.RUNNING

    def now(self) -> float:
        """Seconds of the runtime's clock."""
        return trio.current_time()

    def wall_clock(self) -> float:
        """Seconds since 1970: what goes into ids and records, and never decides how long something takes.

        It may step in either direction, as the system's does. In a deterministic run (`creche.testing.run`) it follows
        the virtual clock from a fixed date on; `step_wall_clock` steps it on purpose.
        """
        return self._ambient.wall_clock() + self._wall_clock_steps

    def wall_clock_ms(self) -> int:
        """The wall clock in whole milliseconds."""
        return int((self._ambient.wall_clock() + self._wall_clock_steps) * 1000)

    def randbits(self, k: int) -> int:
        """`k` random bits that keep this process apart from others: the system's, whatever the seed.

        In a deterministic run they follow from its seed.
        """
        return self._ambient.randbits(k)

    @property
    def deterministic(self) -> bool:
        """Whether this is a deterministic run (`creche.testing.run`): no threads, virtual time, all from its seed."""
        return self._simulation is not None

    def stopwatch(self) -> float:
        """Seconds that only go forward, for how long code takes; in any thread. A deterministic run takes none."""
        return self._ambient.stopwatch()

    def step_wall_clock(self, by: float) -> None:
        """Let the wall clock of this runtime step, as the system's does when it is set: `by` seconds, backwards too."""
        if not math.isfinite(by):
            raise SpecInvalid("step_wall_clock", by, "a finite number of seconds")
        self._wall_clock_steps += by

    def node_of(self, target: object) -> Node:
        """The node that a handle or a path names. Raises `NotStarted` or KeyError."""
        if isinstance(target, Node):
            return target
        if isinstance(target, str):
            return _find(self.root, target)
        node: Node | None = getattr(target, "_node", None)
        if node is None:
            raise NotStarted(repr(target))
        return node

    # --- the root's parent ------------------------------------------------------------------------

    @property
    def nursery(self) -> trio.Nursery:
        """The tree's nursery."""
        assert self._nursery is not None
        return self._nursery

    def child_crashed(self, child: Node, failure: Exception, now: float) -> tuple[Verdict, float]:
        """The root gave up, and there is nobody above it."""
        self._failure = failure
        return Verdict.STOP, 0.0

    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """Noted at once: if the block is left in the meantime, the tree has failed all the same."""
        self._failure = failure

    def child_is_ready(self, child: Node) -> None:
        """Nothing to do: the host waits for the root's states itself."""

    def child_stopped(self, child: Node) -> None:
        """Nothing to do, for the same reason."""

    def report_unstopped(self, node: Node) -> None:
        """A node was asked to stop, then cancelled, and is still there."""
        stack = stack_of(node.task)
        self.unstopped.append(UnstoppedReport(node.path, stack))
        if self.events.on:
            node.emit(events.Unstopped, stack)

    # --- opening and closing ----------------------------------------------------------------------

    async def host(self) -> None:
        """Hold the tree until its root has ended."""
        self.token = trio.lowlevel.current_trio_token()
        self.opened_at = trio.current_time()
        thread = None if self._watchdog is None or self.deterministic else WatchdogThread(self, self._watchdog)
        try:
            with trio.CancelScope(shield=True):
                await self._hold_tree()
        finally:
            if thread is not None:
                thread.stop()
            # Also when a KeyboardInterrupt or a SystemExit took the tree down: whoever still waits gets an answer.
            self.root.finalize(self._failure)
        if self._failure is not None:
            self._raise_failure(self._failure)

    async def _hold_tree(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.deadlines.run)
            self.root.revive()
            self.clean_context.run(self._nursery.start_soon, self.root.run)
            await self.root.wait_for(State.STOPPED, State.SUSPENDED)
            self._nursery.cancel_scope.cancel("the tree has ended")

    def _raise_failure(self, failure: Exception) -> NoReturn:
        self._failure = None
        raise TreeFailed(self.name, failure) from failure

    async def wait_until_open(self) -> None:
        """Wait until the tree has started. If it cannot, wait for the cancellation that its failure brings."""
        # Not by `nursery.start`: cancelled, it would leave a shielded host that reports to a nursery that has closed.
        if await self.root.wait_for(State.RUNNING, State.STOPPED, State.SUSPENDED) is not State.RUNNING:
            await trio.sleep_forever()

    async def close(self, within: float) -> None:
        """Stop the tree: politely, and after `within` seconds by cancelling all of it. Waits until it has ended."""
        self.stop_by = trio.current_time() + within
        self.root.ask_to(Want.DRAIN)
        with trio.move_on_after(within):
            await self.root.wait_for(State.STOPPED)
        if self.root.state is not State.STOPPED:
            self.root.cancel(f"the runtime did not stop within {within:g} s")
            await self.root.wait_for(State.STOPPED, State.SUSPENDED)


@asynccontextmanager
async def opened(runtime: Runtime, stop_within: float) -> AsyncGenerator[Runtime]:
    """Hold a runtime open for the length of a block.

    What the block raises comes out as the same object. If the tree fails too, a call error of the block was its echo
    and goes under; any other error of the block comes out together with the tree's, in a group.
    """
    token = RUNTIME.set(runtime)
    from_body: BaseException | None = None
    from_tree: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.host)
            try:
                await runtime.wait_until_open()
                yield runtime
            except BaseException as error:
                if any(isinstance(leaf, trio.Cancelled) for leaf in _leaves(error)):
                    raise
                from_body = error
            finally:
                with trio.CancelScope(shield=True):
                    await runtime.close(stop_within)
    except BaseExceptionGroup as group:
        from_tree = group
    finally:
        RUNTIME.reset(token)
    _raise_what_counts(from_body, from_tree)


def _raise_what_counts(from_body: BaseException | None, from_tree: BaseException | None) -> None:
    if from_body is None:
        if from_tree is not None:
            raise_single(from_tree)
    elif from_tree is None:
        raise from_body
    elif all(isinstance(leaf, CallFailed) for leaf in _leaves(from_body)):
        raise_single(from_tree)
    else:
        raise_single(BaseExceptionGroup("the body and the tree have failed", [from_body, *_leaves(from_tree)]))


def raise_single(error: BaseException) -> NoReturn:
    """Raise what a nursery wrapped.

    A request to end the process goes first; then the only leaf, if there is just one; else the group itself.
    """
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, (KeyboardInterrupt, SystemExit)):
            raise leaf from leaf.__cause__
    leaves = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)] or leaves  # an error takes its place
    if len(leaves) == 1:
        raise leaves[0] from leaves[0].__cause__
    raise error


def _leaves(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return [leaf for one in inner for leaf in _leaves(one)]
    return [error]


def _find(root: Node, path: str) -> Node:
    first, *names = path.split("/")
    node = root if first == root.name else None
    for name in names:
        node = None if node is None else node.child(name)
    if node is None:
        raise KeyError(path)
    return node
