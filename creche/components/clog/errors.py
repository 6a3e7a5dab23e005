"""What can go wrong with the log itself."""

from __future__ import annotations

from ...runtime.errors import Unavailable


class OutputFailed(Unavailable):
    """The log's output refuses lines at the moment: a full disk, a closed pipe.

    The lines wait in the buffer and are tried again, in `retry_after` seconds. Contrast `Clog.dropped`, which
    counts lines that found no room in it.
    """
