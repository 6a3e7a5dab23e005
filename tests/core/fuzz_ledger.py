"""What is known of each message of the fuzz, and what must hold at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection


class Ledger:
    """Of each message, by its number."""

    def __init__(self) -> None:
        self._last = 0
        self._begun: Counter[int] = Counter()
        self._finished: set[int] = set()
        self._outcomes: dict[int, str] = {}
        self._stashed: set[int] = set()
        self._must_not_run: dict[int, str] = {}  # known not to have run, and not to run later
        self._interrupted: dict[int, float] = {}
        self._left_at: dict[int, float] = {}
        self._order: dict[tuple[int, str], list[int]] = defaultdict(list)  # (sender, path) -> as they were taken

    def number(self) -> int:
        """Of a new message."""
        self._last += 1
        return self._last

    # --- told by the actors -----------------------------------------------------------------------

    def taken(self, number: int, sender: int, path: str) -> None:
        """The actor has taken the message, in turn."""
        self._order[sender, path].append(number)

    def stashed(self, number: int) -> None:
        """The actor has put the message aside: it comes in no order any more."""
        self._stashed.add(number)

    def begins(self, number: int) -> None:
        """Its work begins. Nothing is asserted in an actor, where it would be one crash more."""
        self._begun[number] += 1

    def interrupted(self, number: int, now: float) -> None:
        """Its handler has been cancelled though its incarnation goes on."""
        self._interrupted[number] = now

    def finishes(self, number: int) -> None:
        """Its work is done."""
        self._finished.add(number)

    # --- told by the senders ----------------------------------------------------------------------

    def settle(self, number: int, outcome: str, *, ran: bool | None) -> None:
        """A call has ended; `ran`: what it says about the work."""
        assert number not in self._outcomes, f"two outcomes: {self._outcomes[number]}, {outcome}"
        self._outcomes[number] = outcome
        if ran is False:
            assert not self._begun[number], f"{outcome}, but it ran"
            self._must_not_run[number] = outcome
        elif ran is True:
            assert number in self._finished, f"{outcome}, but it did not finish"

    def accepted(self, number: int) -> None:
        """A cast has been accepted: it may run at any time."""
        assert number not in self._outcomes, "two outcomes"
        self._outcomes[number] = "accepted"

    def left(self, number: int, since: float) -> None:
        """Its sender was cancelled, unless it was settled before (when several were sent one after the other)."""
        self._left_at[number] = since
        if number not in self._outcomes:
            self.settle(number, "cancelled", ran=None if self._begun[number] else False)

    # --- at the end -------------------------------------------------------------------------------

    def check(self, unordered: Collection[str]) -> None:
        """What must hold whatever has happened. At the paths in `unordered` a message may take the place of another."""
        assert max(self._begun.values(), default=0) <= 1, "something ran twice"
        ran = {number: why for number, why in self._must_not_run.items() if self._begun[number]}
        assert not ran, f"something revoked ran: {ran}"
        for number, when in self._interrupted.items():
            outcome = self._outcomes.get(number, "late")  # those that actors send have none here
            gone = outcome in ("late", "OutcomeUnknown") or self._left_at.get(number, float("inf")) <= when
            assert gone, f"the handler of {number} ({outcome}) was cancelled though its caller still waited"
        for (_, path), taken in self._order.items():
            numbers = [number for number in taken if number not in self._stashed]
            assert path in unordered or numbers == sorted(numbers), "a sender's messages were reordered"
