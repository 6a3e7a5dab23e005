"""Where random bits come from."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...runtime.simulation import SIMULATION

if TYPE_CHECKING:
    from ...runtime.runtime import Runtime


def randbits_of(runtime: Runtime) -> Callable[[int], int]:
    """The system's randomness; in a deterministic run the runtime's, so that the run can be repeated.

    Not the runtime's in any other: two processes may have been given the same seed, and randomness is what keeps them
    apart.
    """
    return secrets.randbits if SIMULATION.get() is None else runtime.random.getrandbits
