"""The vocabulary of what can go wrong, sorted by who is to blame.

* The **outcomes of a call** (`CallFailed` and its subclasses) say what became of one message, and so whether a retry is
  safe.
* **Refusals** of the caller's own doing (`CallCycle`, `NotStarted`, `NameTaken`, `NotSendable`, `ConfigInvalid`,
  `SpecInvalid`) are raised before anything has happened.
* **Causes of a crash** (`Killed`, `LinkedStopped`, `IncarnationEnded`, `ProcessDied`, `IntensityExceeded`) appear as
  `__cause__` and in events.
* `DomainError` is the author's own vocabulary: an answer, never a crash.

Errors are named for the state they report, carry machine-readable fields, and are made fresh for each caller: one
exception object raised in a thousand tasks grows a traceback of three thousand entries and pins all their frames.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import trio

from .config_fields import masked

if TYPE_CHECKING:
    from .intensity import Intensity

NotDeliveredReason = Literal["crash", "overflow", "expired", "parked", "stuck", "closed", "not_sent", "overload"]


class CrecheError(Exception):
    """Root of every error that creche itself raises."""


# --- outcomes of a call ---------------------------------------------------------------------------


class CallFailed(CrecheError):
    """A call ended without a value and without a declared error. `path` names the actor that was called."""

    def __init__(self, path: str, detail: str = "") -> None:
        super().__init__(f"{path}: {detail or self.__class__.__name__}")
        self.path = path


class NotDelivered(CallFailed):
    """The message was never handled, so a retry is safe, whatever the message does.

    `reason` says why; `retry_after` (seconds, or None when nothing is known) says when a retry has a chance.
    Contrast `OutcomeUnknown`, where the handler had begun.
    """

    def __init__(self, path: str, reason: NotDeliveredReason, retry_after: float | None = None) -> None:
        hint = "" if retry_after is None else f", retry after {retry_after:.3g} s"
        super().__init__(path, f"not delivered ({reason}{hint})")
        self.reason: NotDeliveredReason = reason
        self.retry_after = retry_after


class MailboxFull(NotDelivered, trio.WouldBlock):
    """`cast_nowait` found no room. Awaiting `cast` waits for room instead."""

    def __init__(self, path: str, capacity: int) -> None:
        super().__init__(path, "overflow")
        self.args = (f"{path}: the mailbox is full ({capacity} messages); an awaited cast waits for room",)
        self.capacity = capacity


class StashFull(NotDelivered):
    """The handler wanted to put the message aside, and the stash has no room. Nothing has been done about it."""

    def __init__(self, path: str, capacity: int) -> None:
        super().__init__(path, "overflow")
        self.capacity = capacity


class Stashed(Exception):
    """Leaves a handler that has put its message aside. Not an error: whoever catches it has handled the message."""


class TooManyChildren(NotDelivered):
    """A dynamic supervisor at `path` has as many children as it may, `limit`: nothing was started.

    It may take another one when one of them has ended.
    """

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(path, "overflow")
        self.args = (f"{path}: has {limit} children, and may have no more (max_children)",)
        self.limit = limit


class OutcomeUnknown(CallFailed):
    """The handler had begun when its incarnation died: the effect may or may not have happened.

    `__cause__` is the crash. Retry only what is idempotent. Contrast `NotDelivered`.

    Of a message that is declared idempotent and has been tried more than once, or was to be, `causes` says what each
    attempt died of, oldest first and without tracebacks; else it is empty.
    """

    def __init__(
        self,
        path: str,
        detail: str = "outcome unknown: the actor died while handling the message",
        causes: tuple[Exception, ...] = (),
    ) -> None:
        super().__init__(path, detail)
        self.causes = causes


class ActorStopped(CallFailed):
    """The actor has ended for good.

    Its handle will never answer again. `__cause__` is the last failure, if one ended it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, "the actor has stopped for good")


class PeerFailed(CallFailed):
    """The actor that was called lives, but one that it called in turn failed.

    As unknown as `OutcomeUnknown`: the handler had begun. `origin` is the path of the actor that failed; `cause` its
    error.
    """

    def __init__(self, path: str, origin: str, cause: CallFailed) -> None:
        super().__init__(path, f"a call made by the handler failed: {cause}")
        self.origin = origin
        self.cause = cause


class DeadlineExceeded(CallFailed, trio.TooSlowError):
    """The time given with `within()` ran out.

    `delivered` False: never handled (retry is safe); True: the handler had begun.
    """

    def __init__(self, path: str, delivered: bool) -> None:
        super().__init__(path, f"deadline exceeded ({'while being handled' if delivered else 'before it was handled'})")
        self.delivered = delivered


# --- the caller's own mistakes --------------------------------------------------------------------


class CallCycle(CrecheError):
    """The call would wait for itself. `chain` lists the paths, from the caller round to the caller again."""

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__("call cycle: " + " -> ".join(chain) + "; use cast, or give one of them the data it asks for")
        self.chain = chain


class NotStarted(CrecheError):
    """The handle is not bound to a running actor yet: its app or runtime has not started it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is not running: enter `app.open()` / `app.run()`, or await `runtime.start(...)` first"
        )
        self.name = name


class NameTaken(CrecheError):
    """Another actor has the name; `path` says which. It is free when that one has ended for good."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(f"the name {name!r} is taken by {path}: choose another one, or stop that actor first")
        self.name = name
        self.path = path


class NotSendable(CrecheError, TypeError):
    """A value cannot go from one process to the other: `what` (an argument, the result) of `message`, and why not.

    `handled` False: nothing was sent to the process, so nothing has happened. True: the handler has run, and what it
    returned, or answered with, is lost.
    """

    def __init__(self, path: str, message: str, what: str, reason: str, *, handled: bool) -> None:
        consequence = "the handler has run, and its outcome is lost" if handled else "nothing was sent"
        super().__init__(f"{path}: {what} of {message!r} cannot be sent to another process: {reason} ({consequence})")
        self.path = path
        self.message = message
        self.what = what
        self.reason = reason
        self.handled = handled


class SpecInvalid(CrecheError, ValueError):
    """A child spec, an actor class or an option is wrong. Raised before anything has started."""

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(f"{field} = {value!r}: {fix}")
        self.field = field
        self.value = value


class ConfigInvalid(CrecheError, ValueError):
    """A configuration value is wrong. `path` leads to it (`$.pool_size`).

    `origin` says where it, or else its section, was given: a file with its line, or an environment variable; None: in
    the code, or nowhere.
    When several values were found wrong together, `problems` holds an error for each, and this one speaks of the first.
    No secret is told: then `value` is a mask, as it is for whole tables and in place of the credentials in URLs.
    """

    def __init__(
        self,
        path: str,
        value: object,
        reason: str,
        origin: str | None = None,
        others: Iterable[ConfigInvalid] = (),
    ) -> None:
        self.path = path
        self.value = masked(value)
        self.reason = reason
        self.origin = origin
        self._others = tuple(others)
        super().__init__("\n".join([self._line(), *(other._line() for other in self._others)]))

    @property
    def problems(self) -> tuple[ConfigInvalid, ...]:
        """All that were found together, this one first."""
        return (self, *self._others)

    def _line(self) -> str:
        where = "" if self.origin is None else f"{self.origin}: "
        return f"{where}{self.path} = {self.value!r}: {self.reason}"


# --- causes of crashes and ends -------------------------------------------------------------------


class Killed(CrecheError):
    """The incarnation was killed on purpose. `reason` is what the killer said."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"killed: {reason}")
        self.reason = reason


class LinkedStopped(CrecheError):
    """An actor died because one that it is linked to has ended. `path` names that one.

    `cause` is the failure that it ended of, without traceback, also as `__cause__`; None if it was stopped in order.
    `final` False: it has crashed and may come back, which counts for links with ``crashes=True`` only.
    """

    def __init__(self, path: str, cause: Exception | None, final: bool = True) -> None:
        what = "has stopped for good" if final else "has crashed"
        super().__init__(f"{path}, to which it is linked, {what}{'' if cause is None else f': {cause}'}")
        self.path = path
        self.cause = cause
        self.final = final


class IncarnationEnded(CrecheError):
    """An actor's `lifespan` returned or swallowed an error, though nobody had asked the actor to stop."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: the incarnation ended without an error and without being stopped")
        self.path = path


class ProcessDied(CrecheError):
    """The process of an actor has ended, though the actor was not asked to stop, or it had to be killed.

    `status` is its exit status; negative: the number of the signal that killed it; None: not known. `reason` says why
    it was killed if it was this side that did it.
    """

    def __init__(self, path: str, pid: int, status: int | None, reason: str = "") -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(f"{path}: its process {pid} {_end_of_process(status)}{why}")
        self.path = path
        self.pid = pid
        self.status = status
        self.reason = reason


def _end_of_process(status: int | None) -> str:
    if status is None:
        return "has closed its connection"
    if status >= 0:
        return f"has exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class RemoteError(CrecheError):
    """An error of another process as text: its traceback there.

    It is the `__cause__` of an error that came over, and stands in for one that cannot. `error` is its first line.
    """

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{error}\n\n{text}")
        self.error = error
        self.text = text


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often the actor or supervisor at `path` died of the same: `error`, one line. At most 16 are remembered."""

    path: str
    error: str
    times: int


class IntensityExceeded(CrecheError):
    """A supervisor gave up: its children crashed more than `restarts` times in `window` seconds.

    `child` is the path of the one whose own budget was spent; None if it was the supervisor's. `history` holds one line
    per crash, oldest first, with the seconds since the runtime was opened; `crashes` counts them by child and error, in
    start order; `last` is the path of the child that crashed last, `__cause__` what it died of.
    """

    def __init__(
        self,
        path: str,
        intensity: Intensity,
        history: tuple[str, ...],
        *,
        child: str | None = None,
        last: str = "",
        crashes: tuple[Crashes, ...] = (),
    ) -> None:
        self.path = path
        self.restarts = intensity.restarts
        self.window = intensity.window
        self.history = history
        self.child = child
        self.last = last
        self.crashes = crashes
        super().__init__("".join([f"{path}: {self.reason}", *(f"\n  {line}" for line in history)]))

    @property
    def reason(self) -> str:
        """Which budget was spent, as text."""
        whose = "" if self.child is None else f" of {self.child}"
        return f"more than {self.restarts} restart{'' if self.restarts == 1 else 's'}{whose} in {self.window:g} s"


class StartFailed(CrecheError):
    """A child could not start, so whatever had started before it was stopped again. `__cause__` is the reason."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: failed to start: {detail}")
        self.path = path


class TreeFailed(CrecheError):
    """The supervision tree as a whole has failed: the root gave up. `name` is that of the runtime.

    `__cause__` is the chain of failures that led there; `cause_tree` draws it.
    """

    def __init__(self, name: str, failure: BaseException) -> None:
        super().__init__(f"{name}: {failure}")
        self.name = name


class Unavailable(CrecheError):
    """A component's backend is down at the moment: weather, not a bug. `retry_after` is in seconds.

    Always a declared error, as `DomainError` is: it reaches the caller and crashes no actor on its way, for weather
    must not spend anybody's restart budget.
    """

    def __init__(self, name: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(f"{name} is unavailable: {reason}")
        self.name = name
        self.reason = reason
        self.retry_after = retry_after


class InternalError(CrecheError):
    """creche broke one of its own rules. Please report it."""


# --- the author's vocabulary ----------------------------------------------------------------------


class DomainError(CrecheError):
    """An error that is an answer: it reaches the caller as it is and never crashes the actor that raised it.

    Subclass it for each error of your domain and set the class attributes. `code` is your own number, `message` is safe
    to show to the client; `cause` is kept as `__cause__` for the logs and its text never leaves the process.
    """

    http_status: ClassVar[int] = 400
    grpc_status: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(self, code: int, message: str, cause: BaseException | None = None) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code
        self.message = message
        self.__cause__ = cause
