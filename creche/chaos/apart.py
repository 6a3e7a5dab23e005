"""Runs in processes of their own: nothing carries over from one to the next.

An app is an object of a module, and so is much of what its actors and its load work with. Once a fault has broken that,
every further run in the same process would seem to fail, however small its plan.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import cast

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
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import report; report()"
    # Not `multiprocessing`: it leaves a helper process behind.
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            told, _ = process.communicate(pickle.dumps((under, plan)))
        finally:
            process.kill()
    if told:
        return _as_run(cast("Told", pickle.loads(told)), plan)
    died = FailedApart("died", f"its process has died, with status {process.returncode}")
    return Run(plan.seed, plan, died, Journal().summary(), Trace())


def report() -> None:
    """In the new process: what is to be done comes from standard input, what came of it goes to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for whoever waits for us, and ends us, too
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever else is written is not for there
        under, plan = cast("tuple[Under, Plan]", pickle.load(sys.stdin.buffer))
        out.write(pickle.dumps(_told(under(plan))))


def _told(one: Run) -> Told:
    failure = one.failure
    if isinstance(failure, Violated):
        return kind_of_failure(failure), failure.name, failure.detail, one.summary
    return kind_of_failure(failure), "", "" if failure is None else one_line(failure), one.summary


def _as_run(told: Told, plan: Plan) -> Run:
    kind, name, text, summary = told
    failure: Exception | None = None
    if name:
        failure = Violated(name, text, plan)
    elif kind:
        failure = FailedApart(kind, text)
    return Run(plan.seed, plan, failure, summary, Trace())
