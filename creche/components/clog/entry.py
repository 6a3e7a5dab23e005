"""What one line says: when, how grave, what, who wrote it, on whose behalf, and the caller's own fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from trio.lowlevel import in_trio_run

from ...runtime.cell import Cell
from ...runtime.context import PLACE, baggage
from .levels import NAMES
from .trace import REQUEST_ID, TRACE_ID, enter_trace
from .tracebacks import error_fields, shortened
from .values import Values, safe_text

Entry = dict[str, object]  # in the order in which it is written
Who = tuple[str, int]  # path and incarnation of an actor

# Keys that clog itself writes. A field of such a name is written as `name_`: neither may silently replace the
# other.
RESERVED = frozenset(
    {
        *("time", "level", "msg", "service", "namespace"),
        *("actor", "incarnation", "mailbox", "mailbox_age", TRACE_ID, REQUEST_ID, "source"),
    },
)
ERROR_FIELD = "error"
_BETWEEN = (__name__.rpartition(".")[0] + ".", "eliot.")  # modules between the caller and here


class Composer:
    """Composes entries for one sink. `clock` gives seconds since the epoch.

    `new_trace_id` names the trace of an actor's work that has none: None leaves it without.
    """

    def __init__(
        self,
        values: Values,
        clock: Callable[[], float],
        *,
        add_source: bool = False,
        root_path: str = "",
        full_tracebacks: bool = False,
        new_trace_id: Callable[[], str] | None = None,
    ) -> None:
        self._values = values
        self._clock = clock
        self._add_source = add_source
        self._root_path = root_path
        self._full = full_tracebacks
        self._new_trace_id = new_trace_id

    def entry(
        self,
        service: str | None,
        level: int,
        msg: str,
        namespace: str,
        fields: Mapping[str, object],
        who: Who | None = None,
        source: str | None = None,
    ) -> Entry:
        """The entry of one line. `who` is the actor that it is about, when that is not the one that writes it.

        `source` is where it comes from, when that is not the caller.
        """
        entry: Entry = {
            "time": timestamp(self._clock()),
            "level": NAMES[level],
            "msg": msg if type(msg) is str else safe_text(msg),
        }
        if service is not None:
            entry["service"] = service
        if namespace:
            entry["namespace"] = namespace
        self._add_context(entry, who)
        if self._add_source and who is None:
            entry["source"] = self._below_root(_caller() if source is None else source)
        self._add_fields(entry, fields)
        return entry

    def _add_context(self, entry: Entry, who: Who | None) -> None:
        place = PLACE.get()
        if who is not None:
            entry["actor"], entry["incarnation"] = who
        elif place is not None:
            entry["actor"], entry["incarnation"] = place.path, place.incarnation
            if isinstance(place, Cell):  # background work has no mailbox
                _add_mailbox(entry, place)
        carried = baggage()
        if place is not None and who is None and self._new_trace_id is not None and TRACE_ID not in carried:
            carried = enter_trace(self._new_trace_id())
        for key in (TRACE_ID, REQUEST_ID):
            value = carried.get(key)
            if value is not None:
                entry[key] = value if type(value) is str else safe_text(value)

    def _add_fields(self, entry: Entry, fields: Mapping[str, object]) -> None:
        plain = self._values.plain
        for name, value in fields.items():
            if name in RESERVED:
                name += "_"
            if isinstance(value, BaseException) and name == ERROR_FIELD:
                entry.update(error_fields(value, full=self._full))
            else:
                entry[name] = plain(name, value)

    def traceback(self, text: str) -> str:
        """A formatted traceback, as this sink shows them."""
        return text if self._full else shortened(text)

    def _below_root(self, source: str) -> str:
        root = self._root_path
        return source[len(root) :].lstrip("/") if root and source.startswith(root) else source


def _add_mailbox(entry: Entry, cell: Cell) -> None:
    """How many messages wait behind the one in hand, and for how long the oldest of them has."""
    queued = cell.queued
    if queued:
        entry["mailbox"] = queued
        if in_trio_run():  # a worker thread must not look at a queue that changes
            entry["mailbox_age"] = round(cell.oldest_wait, 3)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_to_the_second(whole)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=2)
def _to_the_second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _caller() -> str:
    """File and line of the nearest frame outside of this package."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_BETWEEN):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
