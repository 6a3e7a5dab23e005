"""An actor for functions that compute: what `concurrent.futures.ProcessPoolExecutor.submit` is used for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from ...runtime.actor import Actor, message

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class ProcessWorker(Actor):
    """Runs functions that compute, above all in a pool of processes.

    ::

        workers = creche.pool("workers", creche.process_child(creche.ProcessWorker), size=4)
        ...
        digest = await workers.ask.run(crunch, data)
    """

    @message(raises=Exception, on_caller_gone="cancel")
    async def run(self, fn: Callable[[*Ts], R], *args: *Ts) -> R:
        """Return ``fn(*args)``, or raise what it raises, as an answer: the process lives on.

        `fn` is found by its name: it must be defined at the top of a module. A caller that goes away revokes what still
        waits; what runs is stopped by killing the process, after `unwind_grace`, for a function cannot be told to stop.
        So `fn` should be one that may be repeated.
        """
        return fn(*args)
