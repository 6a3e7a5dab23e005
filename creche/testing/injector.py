"""The injector: stands between a runtime and its actors, and lets faults strike there.

Theory of operation
-------------------
A fault in a handler is *armed* for a path and strikes when the `nth` message from then on is about to be handled by
that actor; each item of a batch is one. The injector learns of each handling because it puts a function in front of
each message of each incarnation, on the object, when it has been constructed; the actor's class and the core know
nothing of it.

A handler that hangs is held until `disarm`, which ends the chaos: what would never end by itself could not be told from
what is lost. Cells are made of a subclass that writes the outcome of each call into the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import trio
from outcome import Outcome

from ..runtime.actor import Actor, MessageSpec
from ..runtime.envelope import NEVER
from ..runtime.errors import CrecheError
from ..runtime.events import Event
from ..runtime.intake import Intake
from .faults import Crash, Delay, Hang, InHandler, RefuseStart
from .journal import Journal

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime

I = TypeVar("I", bound=Intake)  # noqa: E741  # an intake
Handler = Callable[..., Coroutine[Any, Any, Any]]


class FaultInjected(CrecheError):
    """Raised in a handler, or while an actor is being constructed, because a plan says so. Nobody's fault."""


class _Armed:
    """A fault that waits for its moment."""

    __slots__ = ("fault", "left")

    def __init__(self, fault: InHandler) -> None:
        self.fault = fault
        self.left = fault.nth

    def strikes(self, message: str, times: int) -> bool:
        """Count so many messages, which are handled together: whether it is time to strike."""
        if self.fault.message not in (None, message):
            return False
        self.left -= times
        return self.left <= 0


class Injector:
    """See the theory of operation above. An `Interposer`."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.runtimes: list[Runtime] = []
        self._armed: dict[str, list[_Armed]] = {}  # path -> faults, in the order in which they were armed
        self._refusals: dict[str, int] = {}  # path -> incarnations that are yet to be refused
        self._over = trio.Event()
        self.onlooker: Callable[[str], object] | None = None
        """Told the path of each event, and of each message that is about to be handled."""

    # --- the interposer ---------------------------------------------------------------------------

    def opened(self, runtime: Runtime) -> None:
        """See `Interposer`."""
        self.runtimes.append(runtime)
        runtime.events.subscribe(self.journal.record)
        if self.onlooker is not None:
            runtime.events.subscribe(self._tell)

    def intake_class(self, cls: type[I]) -> type[I]:
        """See `Interposer`."""
        return _recorded(cls)

    def constructed(self, actor: Actor) -> None:
        """See `Interposer`."""
        path = actor.context.path
        if self._refusals.get(path, 0):
            self._refusals[path] -= 1
            self.struck(RefuseStart())
            raise FaultInjected(f"chaos: {path} is refused a start")
        self.in_front_of(actor, actor.__messages__)

    def in_front_of(self, actor: Actor, names: Iterable[str]) -> None:
        """See `Interposer`."""
        for name in names:
            batched = actor.__messages__[name].batch > 0
            setattr(actor, name, self._in_front(actor.context.path, name, getattr(actor, name), batched))

    # --- faults -----------------------------------------------------------------------------------

    def arm(self, path: str, fault: InHandler | RefuseStart) -> None:
        """Let a fault strike at the actor at `path` when its moment comes."""
        if isinstance(fault, RefuseStart):
            self._refusals[path] = self._refusals.get(path, 0) + fault.times
        else:
            self.arm_together((path,), fault)

    def arm_together(self, paths: Iterable[str], fault: InHandler) -> None:
        """Let a fault strike once, at one of several actors: their messages are counted together."""
        armed = _Armed(fault)
        for path in paths:
            self._armed.setdefault(path, []).append(armed)

    def disarm(self) -> None:
        """The chaos is over: what has not struck never will, and what hangs goes on."""
        self._armed.clear()
        self._refusals.clear()
        self._over.set()
        self._over = trio.Event()

    def struck(self, fault: msgspec.Struct) -> None:
        """Count a fault."""
        self.journal.faults[cast("str", fault.__struct_config__.tag)] += 1

    def _tell(self, event: Event) -> None:
        if self.onlooker is not None:
            self.onlooker(event.path)

    def _in_front(self, path: str, name: str, handler: Handler, batched: bool) -> Handler:
        def handle(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            if self.onlooker is not None:
                self.onlooker(path)
            coroutine = handler(*args, **kwargs)  # raises TypeError for wrong arguments, as it would without us
            armed = self._armed.get(path)
            if not armed:
                return coroutine
            fault = self._due(armed, name, len(args[0]) if batched else 1)
            return coroutine if fault is None else self._suffer(fault, path, coroutine)

        return handle

    def _due(self, armed: Sequence[_Armed], message: str, times: int) -> InHandler | None:
        """The fault that strikes at this handling. One handling suffers one: if two are due, the later one waits."""
        due = [one for one in armed if one.strikes(message, times)]  # each of them counts
        if not due:
            return None
        for waiting in self._armed.values():
            if due[0] in waiting:
                waiting.remove(due[0])
        self.struck(due[0].fault)
        return due[0].fault

    async def _suffer(self, fault: InHandler, path: str, handler: Coroutine[Any, Any, Any]) -> Any:
        try:
            if isinstance(fault, Delay):
                await trio.sleep(fault.seconds)
            elif isinstance(fault, Hang):
                with trio.move_on_after(fault.seconds):
                    await self._over.wait()
            elif not fault.after:
                raise FaultInjected(f"chaos: a crash in {path}, before its handler")
            value = await handler
        finally:
            handler.close()  # of one that has not begun; else there is nothing left to close
        if isinstance(fault, Crash):
            raise FaultInjected(f"chaos: a crash in {path}, after its handler")
        return value


def _recorded(cls: type[I]) -> type[I]:
    """The class that takes the place of a class of intakes.

    Kept in that class: Python remembers for each place in the code which class it met there last, and would have to
    learn anew in each run.
    """
    made = cls.__dict__.get("__creche_recorded__")
    if made is None:
        made = type(f"Recorded{cls.__name__}", (_Recorded, cls), {"__slots__": ()})
        type.__setattr__(cls, "__creche_recorded__", made)
    return cast("type[I]", made)


class _Recorded(Intake):
    """One whose calls are written into the journal."""

    __slots__ = ()

    @property
    def _journal(self) -> Journal:
        return cast("Injector", self.runtime.interposer).journal

    async def call(
        self, spec: MessageSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: float = NEVER
    ) -> Any:
        self._journal.begun()
        try:
            value = await super().call(spec, args, kwargs, deadline)
        except BaseException as error:
            self._journal.ended(error)
            raise
        self._journal.ended(None)
        return value

    async def call_many(
        self, spec: MessageSpec, calls: Iterable[tuple[Any, ...]], deadline: float = NEVER
    ) -> list[Outcome[Any]]:
        arguments = list(calls)
        for _ in arguments:
            self._journal.begun()
        try:
            outcomes = await super().call_many(spec, arguments, deadline)
        except BaseException as error:
            for _ in arguments:
                self._journal.ended(error)
            raise
        for one in outcomes:
            self._journal.ended(getattr(one, "error", None))
        return outcomes
