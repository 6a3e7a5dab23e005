"""The faults that a plan is made of. Plain data: they can be printed, stored, compared, and pasted into a test."""

from __future__ import annotations

import msgspec


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """The target's incarnation dies, whatever it is doing. Of a supervisor: it and all below it."""

    reason: str = "chaos"


class Crash(msgspec.Struct, frozen=True, tag="crash"):
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


class Delay(msgspec.Struct, frozen=True, tag="delay"):
    """A handler of the target begins `seconds` late. `message` and `nth` as in `Crash`."""

    seconds: float
    message: str | None = None
    nth: int = 1


class Hang(msgspec.Struct, frozen=True, tag="hang"):
    """A handler of the target does not begin for so many `seconds`, or until the chaos is over. Else as `Crash`."""

    seconds: float = 30.0
    message: str | None = None
    nth: int = 1


class RefuseStart(msgspec.Struct, frozen=True, tag="refuse_start"):
    """The target's next incarnations, so many, fail to start. It shows when the target is restarted."""

    times: int = 1


class StepClock(msgspec.Struct, frozen=True, tag="step_clock"):
    """The wall clock of the runtime steps by so many seconds. It has no target."""

    by: float


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """All connections through the target are closed: a `TcpProxy`, or another actor with a message ``cut``."""


class Act(msgspec.Struct, frozen=True, tag="act"):
    """What the scenario has registered under this name is done: a config that flaps, a node that is drained."""

    name: str


Fault = Kill | Crash | Delay | Hang | RefuseStart | StepClock | Cut | Act
InHandler = Crash | Delay | Hang
