"""The trace id: one name for all that is done on behalf of one request, carried from actor to actor by the runtime."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from ...runtime.context import BAGGAGE, baggage, carrying, current_runtime

P = ParamSpec("P")
R = TypeVar("R")

TRACE_ID = "trace_id"
REQUEST_ID = "request_id"

_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields, version ff is
# forbidden.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_id() -> str | None:
    """The trace id that this task works under, or None."""
    value = baggage().get(TRACE_ID)
    return value if isinstance(value, str) else None


def new_trace_id() -> str:
    """A new id as W3C Trace Context wants it: 32 lower-case hexadecimal digits, not all zero.

    Drawn from the runtime's randomness, so a seeded runtime repeats its ids; outside of runtimes from the
    system's.
    """
    runtime = current_runtime()
    number = secrets.randbits(128) if runtime is None else runtime.random.getrandbits(128)
    return hexadecimal(number)


def hexadecimal(number: int) -> str:
    """A trace id from 128 random bits."""
    return f"{number or 1:032x}"


@contextmanager
def trace(id: str | None = None) -> Generator[str]:
    """Work under a trace id inside the block, in this task and in every actor that it calls. Gives the id.

    Parameters
    ----------
    id
        1 to 64 letters, digits, ``.``, ``_`` or ``-``. None makes a new one.

    Raises
    ------
    ValueError
        `id` is something else. Check ids that come from outside with `is_trace_id`.
    """
    chosen = new_trace_id() if id is None else id
    if not is_trace_id(chosen):
        raise ValueError(f"trace id {chosen!r}: use 1 to 64 letters, digits, '.', '_' or '-', or None for a new one")
    with carrying(**{TRACE_ID: chosen}):
        yield chosen


def traced(fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """`fn`, each run of it in a trace: that of its caller, or a new one where there is none.

    For what begins without a request: timers, background loops, consumers' handlers.
    ``self.context.every(60, clog.traced(self._sweep))``.
    """

    @wraps(fn)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if trace_id() is not None:
            return await fn(*args, **kwargs)
        with trace():
            return await fn(*args, **kwargs)

    return run


def enter_trace(new: str) -> Mapping[str, object]:
    """Put all that is left of this message, timer or background task into a trace. Returns the new baggage.

    It needs no undoing: an actor sets the baggage of each message and timer anew, and a task's ends with it.
    """
    carried = {**baggage(), TRACE_ID: new}
    BAGGAGE.set(carried)
    return carried


def is_trace_id(text: str) -> bool:
    """Whether `text` may serve as a trace id."""
    return _VALID.fullmatch(text) is not None


def from_traceparent(header: str) -> str | None:
    """The trace id in a W3C ``traceparent`` header, or None if the header is not valid."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None or (match[1] == "00" and match[3] is not None):
        return None
    return match[2]
