"""One helper for each outcome that a call may have: what is raised in the block must be that one.

    with testing.expect_not_delivered(reason="overflow"):
        await handle.ask.work()

Each gives, as its target, a holder whose ``error`` is the error when the block has ended, and raises AssertionError if
the block ended otherwise: by another error, which is its ``__cause__``, or by none. What cannot be expected at all is
`SpecInvalid` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar, get_args

from ..runtime.errors import (
    ActorStopped,
    CallCycle,
    CallFailed,
    DeadlineExceeded,
    NotDelivered,
    NotDeliveredReason,
    OutcomeUnknown,
    PeerFailed,
    SpecInvalid,
)
from .fakes import is_exception_class
from .journal import outcome_of

E = TypeVar("E", bound=Exception)
Problem = Callable[[E], str | None]


class Expected(Generic[E]):
    """What was expected. `error` is there once the block has ended."""

    def __init__(self) -> None:
        self._error: E | None = None

    @property
    def error(self) -> E:
        """The error that the block raised. AssertionError if it has not ended."""
        assert self._error is not None, "the block has not ended yet"
        return self._error

    def came(self, error: E) -> None:
        """The error has come."""
        self._error = error


@contextmanager
def _expect(kind: type[E], problem_with: Problem[E]) -> Generator[Expected[E]]:
    expected = Expected[E]()
    try:
        yield expected
    except kind as error:
        problem = problem_with(error)
        if problem is not None:
            raise AssertionError(f"{kind.__name__}, but {problem}: {error}") from error
        expected.came(error)
    except Exception as error:
        raise AssertionError(f"expected {kind.__name__}, and it was {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"expected {kind.__name__}, and nothing was raised")


def _unlike(what: str, found: object, wanted: object) -> str | None:
    return None if wanted is None or found == wanted else f"its {what} is {found!r}, not {wanted!r}"


def _require_cause(cause: object) -> None:
    if cause is not None:
        _require_class("cause", cause)


def _require_class(name: str, kind: object) -> None:
    if not is_exception_class(kind):
        raise SpecInvalid(name, kind, "a class of exceptions")


def _not_caused_by(error: Exception, cause: type[BaseException] | None) -> str | None:
    if cause is None or isinstance(error.__cause__, cause):
        return None
    return f"its cause is {error.__cause__!r}, no {cause.__name__}"


def expect_answer(kind: type[E]) -> AbstractContextManager[Expected[E]]:
    """A declared error, `DomainError` or `Unavailable`: the actor answered, and lives.

    No outcome of the runtime is an answer, whatever `kind` it is of: if one is raised in the block, that is a failure.
    """
    _require_class("expect_answer(kind)", kind)
    if issubclass(kind, (CallFailed, CallCycle)):
        raise SpecInvalid(
            "expect_answer(kind)", kind, "an error that actors answer with: this is an outcome, see expect_*"
        )
    return _expect(kind, _no_answer)


def _no_answer(error: Exception) -> str | None:
    outcome = outcome_of(error)
    return None if outcome == "answer" else f"it is an outcome, {type(error).__name__}, no answer: see expect_{outcome}"


def expect_not_delivered(reason: NotDeliveredReason | None = None) -> AbstractContextManager[Expected[NotDelivered]]:
    """The message was never handled: `NotDelivered`, for this `reason` if one is given."""
    if reason is not None and reason not in get_args(NotDeliveredReason):
        raise SpecInvalid("reason", reason, f"one of {', '.join(map(repr, get_args(NotDeliveredReason)))}")
    return _expect(NotDelivered, lambda error: _unlike("reason", error.reason, reason))


def expect_outcome_unknown(
    cause: type[BaseException] | None = None,
) -> AbstractContextManager[Expected[OutcomeUnknown]]:
    """The actor died over the message: `OutcomeUnknown`, of a crash by this type of error if one is given."""
    _require_cause(cause)
    return _expect(OutcomeUnknown, lambda error: _not_caused_by(error, cause))


def expect_actor_stopped(cause: type[BaseException] | None = None) -> AbstractContextManager[Expected[ActorStopped]]:
    """The actor has ended for good: `ActorStopped`, because of this type of error if one is given."""
    _require_cause(cause)
    return _expect(ActorStopped, lambda error: _not_caused_by(error, cause))


def expect_peer_failed(
    origin: str | None = None, cause: type[BaseException] | None = None
) -> AbstractContextManager[Expected[PeerFailed]]:
    """A call that the handler made has failed: `PeerFailed`, from the actor at path `origin` if one is given."""
    _require_cause(cause)
    return _expect(PeerFailed, lambda error: _unlike("origin", error.origin, origin) or _not_caused_by(error, cause))


def expect_deadline_exceeded(delivered: bool | None = None) -> AbstractContextManager[Expected[DeadlineExceeded]]:
    """Out of time: `DeadlineExceeded`, with the message in hand or not if that is given."""
    return _expect(DeadlineExceeded, lambda error: _unlike("`delivered`", error.delivered, delivered))


def expect_call_cycle(*chain: str) -> AbstractContextManager[Expected[CallCycle]]:
    """A call that would have waited for itself: `CallCycle`, through the actors at these paths if any are given."""
    return _expect(CallCycle, lambda error: _unlike("chain", error.chain, chain or None))
