"""Open a runtime: the root supervisor and the host that holds it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ..runtime.checks import require_seconds
from ..runtime.intensity import Intensity
from ..runtime.runtime import Runtime, opened
from ..runtime.watchdog import Watchdog, require_watchdog
from .spec import SupervisorSpec, require_root, supervisor

STOP_WITHIN = 30.0  # seconds; what container platforms grant by default


def open_runtime(
    name: str,
    *,
    root: SupervisorSpec | None = None,
    intensity: Intensity | None = None,
    stop_within: float = STOP_WITHIN,
    seed: int | None = None,
    watchdog: Watchdog | None = None,
) -> AbstractAsyncContextManager[Runtime]:
    """A supervision tree for the length of an ``async with`` block.

    Parameters
    ----------
    root
        The spec of the root supervisor with its static children; default: an empty one_for_one named ``root``.
    intensity
        Of the default root.
    stop_within
        Seconds that the whole tree has for its stop; then everything left is cancelled.
    seed
        For the runtime's randomness (jitter of backoffs). Default: drawn from the deterministic run
        (`creche.testing.run`) that this is called in; outside of one, from the system.
    watchdog
        How to notice that something does not come to a checkpoint, by a thread; None: not at all. There is none in a
        deterministic run.

    Raises
    ------
    TreeFailed
        Out of the block, when the root gives up: the body is cancelled, and `__cause__` leads to the first cause.
    """
    spec = supervisor("root", intensity=intensity) if root is None else root
    require_seconds("stop_within", stop_within, or_never=True)
    require_root("open_runtime(root=...)", spec)
    require_watchdog(watchdog)
    return opened(Runtime(name, spec, seed=seed, watchdog=watchdog), stop_within)
