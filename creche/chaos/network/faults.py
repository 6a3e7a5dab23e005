"""What can be wrong with a connection: frozen values, checked when they are made.

They do nothing themselves; `effects` has what each of them does to bytes, `link` what it does to a connection.
"""

from __future__ import annotations

from sys import float_info
from typing import Any, Literal

from msgspec import Struct

from ...runtime.checks import require, require_number, require_one_of
from ...runtime.spec import snake_case

Direction = Literal["upstream", "downstream", "both"]
Ending = Literal["reset", "close"]

DIRECTIONS: tuple[Direction, ...] = ("upstream", "downstream", "both")
ENDINGS: tuple[Ending, ...] = ("reset", "close")


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=snake_case):
    """Base of all faults. Times are in seconds. These fields are keywords; those of a kind may go by position.

    Parameters
    ----------
    direction
        What it strikes: ``upstream``, the bytes from the client to the server; ``downstream``, those from the server to
        the client; or both.
    toxicity
        The probability, from 0 to 1, that a connection is struck. Drawn once for each connection, when the two meet.
    name
        By which it is removed; one of the same name takes its place. Default: its kind, with its direction unless
        that is both: ``latency``, ``latency_upstream``.

    Raises
    ------
    SpecInvalid
        A value is out of range, or of a wrong type.
    """

    direction: Direction = "both"
    toxicity: float = 1.0
    name: str = ""

    @property
    def key(self) -> str:
        """The name that it goes by."""
        kind = snake_case(type(self).__name__)
        return self.name or (kind if self.direction == "both" else f"{kind}_{self.direction}")

    def strikes(self, direction: Direction) -> bool:
        """Whether it concerns the bytes that go in this direction."""
        return self.direction in ("both", direction)

    def __post_init__(self) -> None:
        require_one_of(self, "direction", DIRECTIONS)
        require_number(self, "toxicity")
        require(self, "toxicity", self.toxicity <= 1, "a probability, from 0 to 1")
        require(self, "name", type(self.name) is str, "a text; leave it out for the default")
        self.check()

    def check(self) -> None:
        """Raise `SpecInvalid` if a value of a kind's own is wrong."""


class Latency(Fault, frozen=True):
    """Every byte arrives `seconds` later, give or take up to `jitter`, drawn evenly for what was read together.

    Order is kept, as TCP keeps it: what is drawn a shorter delay waits for what is before it. The throughput of a
    connection is bounded by the proxy's buffer over the delay, as by a TCP window.
    """

    seconds: float
    jitter: float = 0.0

    def check(self) -> None:
        require_finite(self, "seconds")
        require_finite(self, "jitter")
        require(
            self, "jitter", self.jitter <= self.seconds, "not more than `seconds`: nothing arrives before it is sent"
        )


class Rate(Fault, frozen=True):
    """At most `bytes_per_second`, for each connection and each direction, in portions of a 50th of a second's worth."""

    bytes_per_second: float

    def check(self) -> None:
        require_finite(self, "bytes_per_second")
        require(self, "bytes_per_second", self.bytes_per_second > 0, "more than 0; for nothing at all use Stall")


class Stall(Fault, frozen=True):
    """Nothing passes, and nothing is lost: what is sent meanwhile waits and arrives once the fault is lifted.

    As in a partition that heals before anybody gives up. When the proxy's buffer is full, senders meet back-pressure.
    Contrast `Blackhole`, whose bytes are gone.
    """


class Blackhole(Fault, frozen=True):
    """Bytes and ends of streams are taken and go nowhere; both sides believe that they are connected.

    A stream cannot go on after a hole in it: when the fault is lifted, connections that have lost something are reset.
    """


class HalfOpen(Fault, frozen=True):
    """One side vanishes and the other is not told: it may go on sending, and will never hear anything.

    The connection to the `gone` side is reset. The other one stays open until its owner resets it, or has closed it
    altogether, which takes the kernel a minute to find out (on Linux): an end of a stream may be half a close, and is
    not answered. To lift the fault resets it, too. `direction` has no meaning here.
    """

    gone: Literal["server", "client"] = "server"

    def check(self) -> None:
        require_one_of(self, "gone", ("server", "client"))
        require_undirected(self)


class Reset(Fault, frozen=True):
    """The connection is reset (RST, not FIN, to both sides) `after` so many seconds, whatever is under way.

    They are counted from when the fault and the connection meet. `direction` has no meaning here.
    """

    after: float = 0.0

    def check(self) -> None:
        require_finite(self, "after")
        require_undirected(self)


class Cut(Fault, frozen=True):
    """The connection ends when `after` bytes have passed: in the middle of a frame, for instance.

    They are counted from when the fault and the connection meet, for each direction that it strikes; with 0 it ends at
    once. The end is a reset, or an orderly close, of both sides; it waits until the bytes have arrived in the kernel of
    whoever gets them, for as long as that takes any.
    """

    after: int
    how: Ending = "reset"

    def check(self) -> None:
        require_number(self, "after", whole=True)
        require_one_of(self, "how", ENDINGS)


class Corrupt(Fault, frozen=True):
    """Single bits flip: in each byte with `probability`, and in the byte at the offset `at`, if one is given.

    Offsets count the bytes that pass from when the fault and the connection meet, from 0 on.
    """

    probability: float = 0.0
    at: int | None = None

    def check(self) -> None:
        require_number(self, "probability")
        require(self, "probability", self.probability <= 1, "a probability, from 0 to 1")
        if self.at is not None:
            require_number(self, "at", whole=True)
        require(self, "at", self.at is not None or self.probability > 0, "an offset, unless there is a probability")


class Slicer(Fault, frozen=True):
    """Bytes pass in small pieces of about `size` bytes, give or take `variation`, with `pause` seconds between them."""

    size: int
    variation: int = 0
    pause: float = 0.0

    def check(self) -> None:
        require_number(self, "size", at_least=1, whole=True)
        require_number(self, "variation", whole=True)
        require(self, "variation", self.variation < self.size, "less than `size`: no piece is empty")
        require_finite(self, "pause")


class SlowClose(Fault, frozen=True):
    """The end of a stream is passed on `seconds` later than its last byte."""

    seconds: float

    def check(self) -> None:
        require_finite(self, "seconds")


AnyFault = Latency | Rate | Stall | Blackhole | HalfOpen | Reset | Cut | Corrupt | Slicer | SlowClose


def require_finite(fault: Fault, name: str) -> None:
    """Raise `SpecInvalid` unless the field is a number from 0 on, and not infinity."""
    require_number(fault, name)
    value: Any = getattr(fault, name)
    require(fault, name, value <= float_info.max, "a finite number of at least 0")  # an int may be above every float


def require_undirected(fault: Fault) -> None:
    """Raise `SpecInvalid` if a fault of the whole connection is given a direction."""
    require(fault, "direction", fault.direction == "both", "leave it out: this fault strikes the whole connection")


def by_name(faults: tuple[Fault, ...]) -> dict[str, Fault]:
    """In their order, by name; the last of each name counts."""
    return {fault.key: fault for fault in faults}
