"""Reply slots: how a handler answers later, or answers many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from .context import Baggage
    from .flights import Flight

R = TypeVar("R")
T = TypeVar("T")


class ReplySlot(Generic[R]):
    """The place where the answer to one message goes. Made by `ActorContext.defer`, or for each item of a batch.

    The first answer counts; later ones, and answers for a caller that has gone, are counted and dropped, never errors.
    A slot belongs to its incarnation: if that dies, the caller gets `OutcomeUnknown`, or ``NotDelivered("not_sent")``
    where `unsent` had been said. A slot that is forgotten, so that nobody can ever answer, is given up by itself.
    """

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight) -> None:
        self._flight = flight

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._flight!r}>"

    @property
    def wanted(self) -> bool:
        """Whether an answer would still reach its caller. For a cast: whether it is still to be dealt with."""
        return self._flight.wanted

    @property
    def deadline(self) -> float:
        """The deadline that is stamped on the message, in seconds of `trio.current_time()`; infinity without one."""
        return self._flight.deadline

    @property
    def baggage(self) -> Baggage:
        """The trace and log context of its sender."""
        return self._flight.baggage

    def reply(self, value: R) -> None:
        """Answer with a value."""
        self._flight.reply(value)

    def fail(self, error: Exception) -> None:
        """Answer with an error.

        The caller gets a copy of its own: one object may be given to many slots. A `CallFailed` of a call that the
        actor made becomes `PeerFailed`, as if it had left a handler.
        """
        self._flight.answer(error)

    def give_up(self, cause: Exception | None = None) -> None:
        """Say that it will not be answered: `OutcomeUnknown`, or ``NotDelivered("not_sent")`` after `unsent`."""
        self._flight.give_up(cause)

    def unsent(self) -> None:
        """Note that nothing has been done for this message yet, so that a crash leaves it safe to retry. See `begin`.

        Without this a crash means `OutcomeUnknown`, for the actor may have begun.
        """
        self._flight.begun = False

    def begin(self) -> bool:
        """Note that from now on the outcome is unknown if the incarnation dies; call it right before sending.

        False: its caller has gone, and has been told that it was not delivered where `unsent` had been said. Do not
        send it.
        """
        if not self._flight.wanted:
            return False
        self._flight.begun = True
        return True

    def later(self) -> R:
        """What a handler that has taken its slot returns. Nobody sees this value."""
        return cast("R", None)

    def __del__(self) -> None:
        # Nobody can answer any more: else its caller would wait for ever. May run in any thread, at any moment.
        if self._flight.open:
            self._flight.forget()


class BatchItem(ReplySlot[R], Generic[T, R]):
    """One message of a batch: its argument, and its reply slot."""

    __slots__ = ("value",)

    def __init__(self, flight: Flight, value: Any) -> None:
        super().__init__(flight)
        self.value: T = value
