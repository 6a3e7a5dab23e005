"""Loggers, and the module's functions, which are those of a logger without namespace and fields.

A logger is a value: a namespace and some fields. It holds no sink. Each line looks for its own: that of the
runtime that the task belongs to, found through the actor's place or the runtime held open around the code,
else `BOOTSTRAP`. So there is nothing to initialise, nothing to replace, and a logger that was made at import
works in every runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol, Self, cast

from ...runtime.context import current_runtime
from .bootstrap import BOOTSTRAP
from .levels import CRITICAL, DEBUG, ERROR, INFO, WARNING
from .values import safe_text

SERVICE = "clog"  # the key in `runtime.services`
# Where a test takes the lines of code that no running log serves.
CAPTURED: ContextVar[Emitter | None] = ContextVar("creche.clog.captured", default=None)


class Emitter(Protocol):
    """What takes lines."""

    @property
    def level(self) -> int: ...  # the lowest that is worth composing a line for

    def emit(self, level: int, msg: str, namespace: str, fields: Mapping[str, object]) -> None:
        """Take one line. Never blocks for long, never raises."""


class Logger:
    """Writes lines with a namespace and bound fields. Immutable, cheap to make, good in every task and thread.

    Writing never waits. Fields are keyword arguments; ``error=exc`` adds the error's type, text and
    traceback. Made by `logger`, `namespace` and `bind`. It also is an eliot ``ILogger``:
    ``eliot.start_action(log, "payment")`` writes the action into this log.
    """

    __slots__ = ("_fields", "_namespace")

    def __init__(self, namespace: str = "", fields: Mapping[str, object] | None = None) -> None:
        self._namespace = namespace
        self._fields: dict[str, object] = dict(fields or {})

    def __repr__(self) -> str:
        return f"<Logger {self._namespace or '(root)'} {' '.join(self._fields)}>"

    def namespace(self, name: str) -> Self:
        """A logger one level below: ``x`` becomes ``x.name``. Bound fields stay."""
        return type(self)(f"{self._namespace}.{name}" if self._namespace else name, self._fields)

    def bind(self, **fields: object) -> Self:
        """A logger that adds these fields to each of its lines."""
        return type(self)(self._namespace, {**self._fields, **fields})

    def debug(self, msg: str, /, **fields: object) -> None:
        """Write a line for whoever looks for a bug."""
        self._log(DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        """Write a line about what happens as it should."""
        self._log(INFO, msg, fields)

    def warning(self, msg: str, /, **fields: object) -> None:
        """Write a line about what should be looked at."""
        self._log(WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        """Write a line about what failed."""
        self._log(ERROR, msg, fields)

    def critical(self, msg: str, /, **fields: object) -> None:
        """Write a line about what must be seen to now. It ends nothing: raise SystemExit(n) for that."""
        self._log(CRITICAL, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """As `error`, with the exception that is being handled."""
        error = sys.exc_info()[1]
        self._log(ERROR, msg, fields if error is None else {"error": error, **fields})

    def write(self, dictionary: dict[str, Any], serializer: Any = None) -> None:
        """Take a message from eliot, as its ``ILogger``. A failed action is an error, everything else is info."""
        fields = dict(dictionary)
        if serializer is not None:
            serializer.serialize(fields)
        fields.pop("timestamp", None)  # the line has its own time
        msg = fields.get("action_type") or fields.pop("message_type", "")
        self._log(ERROR if fields.get("action_status") == "failed" else INFO, safe_text(msg), fields)

    def _log(self, level: int, msg: str, fields: Mapping[str, object]) -> None:
        sink = current_sink()
        if level >= sink.level:
            bound = self._fields
            sink.emit(level, msg, self._namespace, {**bound, **fields} if bound else fields)


def running_sink() -> Emitter | None:
    """The log of the runtime that this task or thread belongs to; None if it belongs to none, or that has none."""
    runtime = current_runtime()
    return None if runtime is None else cast("Emitter | None", runtime.services.get(SERVICE))


def current_sink() -> Emitter:
    """Where a line of this task goes."""
    runtime = current_runtime()
    if runtime is not None:
        sink = runtime.services.get(SERVICE)
        if sink is not None:
            return cast("Emitter", sink)
    captured = CAPTURED.get()
    return BOOTSTRAP if captured is None else captured


_ROOT = Logger()

debug = _ROOT.debug
info = _ROOT.info
warning = _ROOT.warning
error = _ROOT.error
critical = _ROOT.critical
exception = _ROOT.exception
namespace = _ROOT.namespace


def logger() -> Logger:
    """The logger without namespace and fields."""
    return _ROOT
