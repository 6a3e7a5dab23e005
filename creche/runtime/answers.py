"""Which errors that leave a handler are answers, and which are crashes: pure policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from .actor import MessageSpec
from .errors import CallFailed, DomainError, NotDelivered, NotSendable, PeerFailed, ProcessDied, Unavailable
from .node import unwrap


def as_answer(path: str, spec: MessageSpec, error: Exception) -> Exception | None:
    """What the caller of the actor at `path` gets for an error that is no crash; None for a crash.

    Answers are declared errors, as they are, and failed calls that the handler has made, as `PeerFailed`. A group is an
    answer if all that is in it would be: the failed call counts, for then the outcome is unknown, else the first one.
    """
    error = unwrap(error)
    if isinstance(error, ProcessDied):
        return None  # the process of this very actor, whatever the message declares
    if isinstance(error, (DomainError, Unavailable)) or (spec.raises and isinstance(error, spec.raises)):
        return error
    if isinstance(error, CallFailed):
        answer = PeerFailed(path, error.origin if isinstance(error, PeerFailed) else error.path, error)
        answer.__cause__ = error
        return answer
    if isinstance(error, ExceptionGroup):
        return _of_group(path, spec, cast("ExceptionGroup[Exception]", error))
    return None


def _of_group(path: str, spec: MessageSpec, group: ExceptionGroup[Exception]) -> Exception | None:
    answers: Sequence[Exception | None] = [as_answer(path, spec, inner) for inner in group.exceptions]
    failed = next((answer for answer in answers if isinstance(answer, PeerFailed)), None)
    if None in answers or failed is None:
        return None if None in answers else answers[0]
    failed.__cause__ = group  # nothing of it is lost
    return failed


def was_not_handled(path: str, answer: Exception) -> bool:
    """Whether an answer says that the message, sent to the actor at `path`, has not reached its process."""
    if isinstance(answer, NotSendable):
        return answer.path == path and not answer.handled
    return isinstance(answer, NotDelivered) and answer.path == path
