"""The faults that a plan is made of. Plain data: they can be printed, stored, compared, and pasted into a test."""

from __future__ import annotations

import math

import msgspec

from ..runtime.checks import require, require_number, require_seconds


class _Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all have in common: `SpecInvalid` for a value that makes no sense, when they are made."""

    def _require_moment(self) -> None:
        require_number(self, "nth", at_least=1, whole=True)
        message = getattr(self, "message", None)
        require(self, "message", message is None or bool(message), "the name of a message; None: any")


class Kill(_Fault, frozen=True, tag="kill"):
    """The target's incarnation dies, whatever it is doing. Of a supervisor: it and all below it."""

    reason: str = "chaos"


class Crash(_Fault, frozen=True, tag="crash"):
    """A handler of the target raises.

    Parameters
    ----------
    message
        In handlers of this message only; None: of any.
    nth
        1: the next time that it is handled, 2: the time after that, and so on.
    after
        Raise when the handler has done its work, not before it begins: what it did stays, its answer is lost.
    """

    message: str | None = None
    nth: int = 1
    after: bool = False

    def __post_init__(self) -> None:
        self._require_moment()


class Delay(_Fault, frozen=True, tag="delay"):
    """A handler of the target begins `seconds` late. `message` and `nth` as in `Crash`."""

    seconds: float
    message: str | None = None
    nth: int = 1

    def __post_init__(self) -> None:
        require_seconds("Delay.seconds", self.seconds)
        self._require_moment()


class Hang(_Fault, frozen=True, tag="hang"):
    """A handler of the target does not begin for so many `seconds`, or until the chaos is over. Else as `Crash`."""

    seconds: float = 30.0
    message: str | None = None
    nth: int = 1

    def __post_init__(self) -> None:
        require_seconds("Hang.seconds", self.seconds, or_never=True)
        self._require_moment()


class RefuseStart(_Fault, frozen=True, tag="refuse_start"):
    """The target's next incarnations, so many, fail to start. It shows when the target is restarted."""

    times: int = 1

    def __post_init__(self) -> None:
        require_number(self, "times", at_least=1, whole=True)


class StepClock(_Fault, frozen=True, tag="step_clock"):
    """The wall clock of the runtime steps by so many seconds. It has no target."""

    by: float

    def __post_init__(self) -> None:
        require(self, "by", math.isfinite(self.by), "a finite number of seconds")


class Cut(_Fault, frozen=True, tag="cut"):
    """All connections through the target are reset: a `TcpProxy`; or another actor gets its message ``cut``."""


class Act(_Fault, frozen=True, tag="act"):
    """What the scenario has registered under this name is done: a config that flaps, a node that is drained."""

    name: str


Fault = Kill | Crash | Delay | Hang | RefuseStart | StepClock | Cut | Act
InHandler = Crash | Delay | Hang
