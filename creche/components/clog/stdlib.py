"""The bridge to the standard library's logging, in both directions.

`RecordHandler` brings its records into the log. A record belongs to the runtime in whose task or worker thread it was
made, so each of several logs in a process takes its own; what is made elsewhere, in a thread of a library, goes to the
log that was started first.

`RecordOutput` makes records of the log's lines. It is an output like the others: handlers run in the writer's thread,
behind the bounded buffer, so a slow one blocks no actor. These records carry a mark, and no `RecordHandler` takes them.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ...runtime.unraisable import report_unraisable
from .levels import CRITICAL, DEBUG, ERROR, INFO, WARNING
from .logger import running_sink

if TYPE_CHECKING:
    from .sink import Sink

_MARK = "clog"
# What every record has, and what a formatter may have added: the rest came with `extra=`.
_USUAL = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})


class RecordHandler(logging.Handler):
    """See above. Made for one log."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def handle(self, record: logging.LogRecord) -> bool:
        """Not under the handler's lock, which `logging.Handler` takes: the log has its own."""
        if _MARK not in record.__dict__ and self._is_ours() and self.filter(record):
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record: its logger's name is the namespace, what was given as `extra` are the fields."""
        level = nearest_level(record.levelno)
        if level < self._sink.level:
            return
        try:
            msg = record.getMessage()
        except Exception as broken:  # arguments that do not fit: a bug of the caller's, told in the line
            msg = f"{record.msg} {record.args!r} ({broken})"
        fields = {key: value for key, value in record.__dict__.items() if key not in _USUAL}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields["error"] = error
        if record.stack_info:
            fields["stack"] = record.stack_info
        namespace = "" if record.name == "root" else record.name
        source = f"{record.pathname}:{record.lineno}"
        self._sink.emit(level, msg, namespace, fields, None, source)

    def _is_ours(self) -> bool:
        sink = running_sink()
        if sink is not None:
            return sink is self._sink
        first = next((one for one in logging.getLogger().handlers if isinstance(one, RecordHandler)), None)
        return first is self


def nearest_level(number: int) -> int:
    """The level at or below a number of the standard library's."""
    return next((level for level in (CRITICAL, ERROR, WARNING, INFO) if number >= level), DEBUG)


class RecordOutput:
    """See above. An `Output`."""

    terminal = False
    untidy = False

    def write(self, data: memoryview, patience: float) -> int:
        """Make records of whole lines. What a handler raises is reported, and the next line goes on."""
        for line in bytes(data).splitlines():
            record = record_of(msgspec.json.decode(line))
            logger = logging.getLogger(record.name)
            try:
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            except Exception as error:
                report_unraisable(error, "Exception ignored in a handler of logging", logger)
        return len(data)

    def tidy(self) -> None:
        """Nothing is ever to be done."""

    def close(self) -> None:
        """The handlers are not ours."""


def record_of(entry: dict[str, Any]) -> logging.LogRecord:
    """The record of a line: the namespace is the logger's name, `clog` is the whole line as a dict."""
    file, _, number = str(entry.get("source", "")).rpartition(":")
    name = entry.get("namespace") or entry.get("service") or _MARK
    level = logging.getLevelNamesMapping()[entry["level"].upper()]
    record = logging.LogRecord(str(name), level, file, int(number) if number.isdigit() else 0, entry["msg"], (), None)
    record.created = datetime.fromisoformat(entry["time"]).timestamp()
    record.msecs = record.created % 1 * 1000
    record.exc_text = entry.get("traceback")
    record.__dict__[_MARK] = entry
    return record
