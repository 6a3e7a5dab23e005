"""What one line says: when, how grave, what, who wrote it, on whose behalf, and the caller's own fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ...runtime.context import PLACE, baggage
from .levels import NAMES
from .trace import REQUEST_ID, TRACE_ID
from .values import Values, error_fields, safe_text

Entry = dict[str, object]  # in the order in which it is written
Who = tuple[str, int]  # path and incarnation of an actor

# Keys that clog itself writes. A field of such a name is written as `name_`: neither may silently replace the
# other.
RESERVED = frozenset(
    {"time", "level", "msg", "service", "namespace", "actor", "incarnation", TRACE_ID, REQUEST_ID, "source"},
)
ERROR_FIELD = "error"
_BETWEEN = (__name__.rpartition(".")[0] + ".", "eliot.")  # modules between the caller and here


class Composer:
    """Composes entries for one sink. `clock` gives seconds since the epoch."""

    def __init__(
        self, values: Values, clock: Callable[[], float], *, add_source: bool = False, root_path: str = ""
    ) -> None:
        self._values = values
        self._clock = clock
        self._add_source = add_source
        self._root_path = root_path

    def entry(
        self,
        service: str | None,
        level: int,
        msg: str,
        namespace: str,
        fields: Mapping[str, object],
        who: Who | None = None,
    ) -> Entry:
        """The entry of one line. `who` is the actor that it is about, when that is not the one that writes it."""
        entry: Entry = {
            "time": timestamp(self._clock()),
            "level": NAMES[level],
            "msg": msg if type(msg) is str else safe_text(msg),
        }
        if service is not None:
            entry["service"] = service
        if namespace:
            entry["namespace"] = namespace
        _add_context(entry, who)
        if self._add_source and who is None:
            entry["source"] = _caller(self._root_path)
        self._add_fields(entry, fields)
        return entry

    def _add_fields(self, entry: Entry, fields: Mapping[str, object]) -> None:
        plain = self._values.plain
        for name, value in fields.items():
            if name in RESERVED:
                name += "_"
            if isinstance(value, BaseException) and name == ERROR_FIELD:
                entry.update(error_fields(value))
            else:
                entry[name] = plain(name, value)


def _add_context(entry: Entry, who: Who | None) -> None:
    place = PLACE.get()
    if who is not None:
        entry["actor"], entry["incarnation"] = who
    elif place is not None:
        entry["actor"], entry["incarnation"] = place.path, place.incarnation
    carried = baggage()
    for key in (TRACE_ID, REQUEST_ID):
        value = carried.get(key)
        if value is not None:
            entry[key] = value if type(value) is str else safe_text(value)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_to_the_second(whole)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=2)
def _to_the_second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _caller(root_path: str) -> str:
    """File and line of the nearest frame outside of this package; the file below `root_path` if it is there."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_BETWEEN):
        frame = frame.f_back
    if frame is None:
        return ""
    file = frame.f_code.co_filename
    if root_path and file.startswith(root_path):
        file = file[len(root_path) :].lstrip("/")
    return f"{file}:{frame.f_lineno}"
