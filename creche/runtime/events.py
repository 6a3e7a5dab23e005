"""What happened in a tree, as typed values on one hook.

Logs, metrics, traces, the observer and tests are adapters that subscribe here. With no subscriber an event is not even
constructed: every place that emits asks `if events.on:` first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .unraisable import report_unraisable


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `time` is in seconds of the runtime's clock; `path` names the actor or supervisor."""

    time: float
    path: str
    incarnation: int

    @property
    def kind(self) -> str:
        """The event's name, for logs and metrics."""
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Started(Event):
    """An incarnation begins: construction is next."""


@dataclass(frozen=True, slots=True)
class Ready(Event):
    """The incarnation takes messages. `after` is seconds since it started."""

    after: float


@dataclass(frozen=True, slots=True)
class Crashed(Event):
    """An incarnation died.

    `error` is one line, `detail` the formatted traceback; `queued` messages wait for the successor.
    """

    error: str
    detail: str
    queued: int


@dataclass(frozen=True, slots=True)
class Restarting(Event):
    """A successor will start in `delay` seconds. `restarts` counts all so far."""

    delay: float
    restarts: int


@dataclass(frozen=True, slots=True)
class Parked(Event):
    """It has crashed too often, or failed a trial: its callers are refused, and it is tried in `delay` seconds.

    `restarts` counts all so far, the coming one included.
    """

    delay: float
    restarts: int


@dataclass(frozen=True, slots=True)
class Unparked(Event):
    """What had been parked has been healthy for long enough, and is an ordinary child again."""


@dataclass(frozen=True, slots=True)
class AutoShutdown(Event):
    """A supervisor stops itself because its significant children have ended; `child` is the path of the last one."""

    child: str


@dataclass(frozen=True, slots=True)
class Replaced(Event):
    """The next incarnation, and all after it, are made from another spec, which is of the class `cls`."""

    cls: str


@dataclass(frozen=True, slots=True)
class GroupRestart(Event):
    """A supervisor restarts children together, because one of them crashed or changes. `children` in start order."""

    children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Escalated(Event):
    """A supervisor gave up and hands the failure to its parent."""

    error: str


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The end, for good. `error` is the last failure when it was one that ended it, else empty."""

    error: str


@dataclass(frozen=True, slots=True)
class BadStop(Event):
    """An error while being stopped: logged, no crash, no restart."""

    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class HandoverFailed(Event):
    """The method `handover` has raised: the successor starts with nothing. `error` is one line, `detail` has it all."""

    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class DeadLetter(Event):
    """A message that nobody will ever handle: a cast that was lost, or one whose every attempt has died.

    `reason` as in `LostMessage`; or ``"replaced"``: a later cast of the same key has taken its place.
    """

    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overflowed(Event):
    """A full mailbox refused or dropped a message."""

    message: str
    policy: str


@dataclass(frozen=True, slots=True)
class Shed(Event):
    """A call of a pool, or a request of a server, was refused: under overload it had waited too long.

    `waited` is in seconds.
    """

    message: str
    waited: float


@dataclass(frozen=True, slots=True)
class Resized(Event):
    """A pool has another number of workers, or will have when those that retire have ended."""

    before: int
    size: int


@dataclass(frozen=True, slots=True)
class Stuck(Event):
    """A cancelled handler did not unwind within its grace. `stack` shows where it stands."""

    stack: str


@dataclass(frozen=True, slots=True)
class HandlerSlow(Event):
    """A handler has been at work for `seconds`, longer than its `slow_after`. `stack` shows where it stands."""

    message: str
    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class LoopStalled(Event):
    """Nothing came to a checkpoint for `seconds`; emitted when the loop had come back.

    `path` is empty, and `incarnation` 0, if it was no actor that held it up, and `message` if it was no handler.
    `stack` is that of the loop's thread when the watchdog looked.
    """

    message: str
    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class Unstopped(Event):
    """An actor was told to stop, then cancelled, and is still there. `stack` shows where it stands."""

    stack: str


Hook = Callable[[Event], None]


class EventHub:
    """Hands each event to every subscriber, in the emitter's task, synchronously.

    A hook that raises is reported on `sys.unraisablehook` and stays subscribed: observing must never change what is
    observed.
    """

    def __init__(self) -> None:
        self._hooks: dict[object, Hook] = {}  # one entry a subscription: the same hook may be subscribed twice
        self.on = False

    def subscribe(self, hook: Hook) -> Callable[[], None]:
        """Call `hook(event)` for each event from now on. Returns a function that ends it (idempotent)."""
        subscription = object()
        self._hooks = {**self._hooks, subscription: hook}
        self.on = True

        def unsubscribe() -> None:
            self._hooks = {key: other for key, other in self._hooks.items() if key is not subscription}
            self.on = bool(self._hooks)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Deliver one event."""
        for hook in self._hooks.values():
            try:
                hook(event)
            except Exception as error:
                report_unraisable(error, "Exception ignored in a creche event hook", hook)
