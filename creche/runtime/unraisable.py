"""Errors that there is nobody to raise to: of somebody's callback, or of a crash that nobody is told of."""

from __future__ import annotations

import logging
import sys
from typing import cast

_log = logging.getLogger("creche")


def report_unraisable(error: BaseException, message: str, culprit: object) -> None:
    """Hand `error` to `sys.unraisablehook`, which by default prints `message`, the `culprit` and the traceback."""
    sys.unraisablehook(cast("sys.UnraisableHookArgs", _Unraisable(error, message, culprit)))


def log_unseen_crash(path: str, incarnation: int, failure: BaseException) -> None:
    """Log a crash to the standard library's logger ``creche``, which by default prints it."""
    _log.error("%s#%d has crashed: %r", path, incarnation, failure, exc_info=failure)


def log_failed_handover(path: str, incarnation: int, failure: BaseException) -> None:
    """Log to the same logger that an actor could not hand over."""
    _log.error("%s#%d could not hand over: %r", path, incarnation, failure, exc_info=failure)


def log_slow_handler(path: str, incarnation: int, message: str, seconds: float, stack: str) -> None:
    """Log to the same logger that a handler is slow."""
    _log.warning("%s#%d: the handler of %s has been at work for %.3g s\n%s", path, incarnation, message, seconds, stack)


class _Unraisable:
    """The shape that `sys.unraisablehook` takes; CPython's own type cannot be constructed."""

    def __init__(self, error: BaseException, message: str, culprit: object) -> None:
        self.exc_type: type[BaseException] = type(error)
        self.exc_value: BaseException | None = error
        self.exc_traceback = error.__traceback__
        self.err_msg: str | None = message
        self.object = culprit
