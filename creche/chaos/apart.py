"""Runs in processes of their own: nothing carries over from one to the next.

An app is an object of a module, and so is much of what its actors and its load work with. Once a fault has broken that,
every further run in the same process would seem to fail, however small its plan.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from ..runtime.node import one_line
from ..testing.deterministic import Trace
from ..testing.journal import Journal, Summary
from .explore import FailedApart, Run, kind_of_failure
from .plan import Plan
from .world import Violated

Under = Callable[[Plan], Run]
Told = tuple[str, str, str, Summary]
"""The kind of the failure, its name if something was violated, its text, and what else came of the run."""


def run_apart(under: Under, plan: Plan) -> Run:
    """``under(plan)`` in a new process, which imports anew what `under` names. Its output goes to our standard error.

    A process that dies is a failure like any other. However this is left, the process has ended.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_tell, args=(there, under, plan))
    process.start()
    there.close()
    try:
        return _as_run(here.recv(), plan)
    except EOFError:
        process.join()
        died = FailedApart("died", f"its process has died, with status {process.exitcode}")
        return Run(plan.seed, plan, died, Journal().summary(), Trace())
    finally:
        process.terminate()
        process.join()


def _tell(there: Connection, under: Under, plan: Plan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for whoever waits for us, and ends us, too
    os.dup2(2, 1)
    one = under(plan)
    failure = one.failure
    if isinstance(failure, Violated):
        name, text = failure.name, failure.detail
    else:
        name, text = "", "" if failure is None else one_line(failure)
    there.send((kind_of_failure(failure), name, text, one.summary))


def _as_run(told: Told, plan: Plan) -> Run:
    kind, name, text, summary = told
    failure: Exception | None = None
    if name:
        failure = Violated(name, text, plan)
    elif kind:
        failure = FailedApart(kind, text)
    return Run(plan.seed, plan, failure, summary, Trace())
