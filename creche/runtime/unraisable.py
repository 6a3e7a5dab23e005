"""Errors of somebody's callback, where there is nobody to raise them to."""

from __future__ import annotations

import sys
from typing import cast


def report_unraisable(error: BaseException, message: str, culprit: object) -> None:
    """Hand `error` to `sys.unraisablehook`, which by default prints `message`, the `culprit` and the traceback."""
    sys.unraisablehook(cast("sys.UnraisableHookArgs", _Unraisable(error, message, culprit)))


class _Unraisable:
    """The shape that `sys.unraisablehook` takes; CPython's own type cannot be constructed."""

    def __init__(self, error: BaseException, message: str, culprit: object) -> None:
        self.exc_type: type[BaseException] = type(error)
        self.exc_value: BaseException | None = error
        self.exc_traceback = error.__traceback__
        self.err_msg: str | None = message
        self.object = culprit
