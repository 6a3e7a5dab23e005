"""The log before, outside of and after a running clog: warnings and worse, to standard error, in the console format.

It has no state and is configured by nothing, so there is no moment at which it could replace a configured
log: which of the two a line takes is decided at each line, by what the present runtime offers
(`logger.current_sink`). It writes at once and in the caller's task.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from ...runtime.context import current_runtime
from .config import REDACTED
from .entry import Composer
from .formats import console_line
from .levels import WARNING
from .values import Values, encodable, safe_repr


class Bootstrap:
    """See above. A `Sink` in the sense of `logger`."""

    level = WARNING

    def __init__(self) -> None:
        self._composer = Composer(Values(REDACTED, safe_repr), time.time)

    def emit(self, level: int, msg: str, namespace: str, fields: Mapping[str, object]) -> None:
        """Write one line. A standard error that is closed or missing is nobody's business here."""
        runtime = current_runtime()
        service = None if runtime is None else runtime.name
        line = console_line(self._composer.entry(service, level, msg, namespace, fields))
        stream = sys.stderr
        try:
            if stream is not None:  # a process without a console has none
                stream.write(encodable(line))
                stream.flush()
        except (OSError, ValueError):
            pass


BOOTSTRAP = Bootstrap()
