"""Messages that may be handled more than once, because they are declared idempotent: how often they have been tried.

Theory of operation
-------------------
An attempt is a handler that began and whose incarnation died before it had ended. How many there were is kept with the
message: of a call in its request, among what most requests never have; of a cast by a `TriedCast` that takes the place
of the bare tuple after the first attempt. A message that is not declared so never comes here.

After an attempt the message waits at the head of the mailbox, as any other does. But it is never again one of which can
be said that it was not handled: whatever ends it then without an answer is told as an unknown outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from .actor import MessageSpec
from .context import Baggage
from .errors import CallCycle, CallFailed, DeadlineExceeded, NotDelivered, OutcomeUnknown
from .node import one_line, without_frames

if TYPE_CHECKING:
    from .envelope import Cast

Causes = tuple[Exception, ...]


class TriedCast(tuple[MessageSpec, tuple[Any, ...], Mapping[str, Any], Baggage, float]):
    """A cast that has been tried. `causes` says what its attempts died of, oldest first."""

    causes: Causes


def causes_of(cast: Cast) -> Causes:
    """What the attempts at a cast died of so far."""
    return cast.causes if isinstance(cast, TriedCast) else ()


def one_more(causes: Causes, failure: Exception) -> Causes:
    """With that of the latest attempt. The frames of the dead incarnation are not kept."""
    return (*causes, cast("Exception", without_frames(failure)))


def is_last(spec: MessageSpec, causes: Causes) -> bool:
    """Whether the attempt that follows these must succeed."""
    return len(causes) + 1 >= spec.attempts


def tried(item: Cast, failure: Exception) -> TriedCast:
    """The cast after one more attempt."""
    made = TriedCast(item)
    made.causes = one_more(causes_of(item), failure)
    return made


def given_up(error: CallFailed | CallCycle, cause: BaseException | None, causes: Causes) -> CallFailed:
    """What the caller of a message that was tried is told, where a message that was not is told `error`."""
    path = error.chain[1] if isinstance(error, CallCycle) else error.path
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(path, delivered=True)
    why = ""
    if isinstance(error, OutcomeUnknown):
        causes = one_more(causes, cause) if isinstance(cause, Exception) else causes
    else:
        why = f"; it was not tried again ({_refused_because(error)})"
    attempts = "1 attempt" if len(causes) == 1 else f"{len(causes)} attempts"
    told = OutcomeUnknown(path, f"outcome unknown after {attempts}{why}", causes)
    for number, each in enumerate(causes, 1):
        told.add_note(f"attempt {number}: {one_line(each)}")
    return told


def _refused_because(error: CallFailed | CallCycle) -> str:
    if isinstance(error, CallCycle):
        return "call cycle"
    return error.reason if isinstance(error, NotDelivered) else "closed"
