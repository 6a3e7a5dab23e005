"""How many restarts are too many, as an option."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import require, require_number


@dataclass(frozen=True, slots=True)
class Intensity:
    """At most `restarts` restarts in `window` seconds; one more is too many. OTP's word and meaning.

    Raises `SpecInvalid` for a value out of range.
    """

    restarts: int = 3
    window: float = 5.0

    def __post_init__(self) -> None:
        require_number(self, "restarts", whole=True)
        require_number(self, "window")
        require(self, "window", self.window > 0, "seconds, more than 0")
