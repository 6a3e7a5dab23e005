"""Records on their way from `send` to the log: what waits to be written, and who waits for that.

Theory of operation
-------------------
The `Accumulator` (Kafka's word) belongs to one incarnation of the log actor, which lends it to its handles: while there
is room, a send is a synchronous append to it and needs no message. One background task takes what is there, writes it
in one transaction and settles it. So the more callers wait while a transaction is under way, the more share the next
one.

    QUEUED ──taken──▶ WRITING ──acknowledged, or failed──▶ SETTLED
       ├──one before it failed, or the incarnation ends──────▲
       └──revoked: its only waiter has gone, it is skipped───▲

Everything that is accepted is settled exactly once, and after `close` nothing is accepted. None of these methods awaits
between testing a state and changing it; all of it runs in one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

import msgspec
import trio
from trio.lowlevel import ParkingLot

from ...runtime.unraisable import report_unraisable
from .errors import MessageTooLarge
from .message import Ack, Letter, Message

Refusal = Callable[[], Exception]
OnDelivery = Callable[[Ack | Exception], object]

QUEUED, WRITING, SETTLED = range(3)


@final
class Delivery:
    """A message that was accepted, and what becomes of it. Made by `Mq.send`."""

    __slots__ = ("_lot", "_on_delivery", "_result", "accepted_at", "message", "size", "state")

    def __init__(self, message: Message, accepted_at: float, on_delivery: OnDelivery | None = None) -> None:
        self.message: Final = message
        self.accepted_at: Final = accepted_at  # in Trio's time
        self.size: Final = message.size
        self.state = QUEUED
        self._on_delivery = on_delivery
        self._result: Ack | Refusal | None = None
        self._lot = ParkingLot()

    def __repr__(self) -> str:
        return f"<Delivery to {self.message.topic}: {self._result if self.settled else 'under way'}>"

    @property
    def settled(self) -> bool:
        """Whether `wait` would return or raise at once."""
        return self.state == SETTLED

    async def wait(self) -> Ack:
        """Wait until the log has the message. May be called often, and by many tasks; a cancel of it changes nothing.

        Raises
        ------
        NotDelivered
            It was not written: the log's actor died before.
        OutcomeUnknown
            It may have been written: the log's actor died over it.
        Unavailable
            It was not written: SQLite could not, for instance because the disk is full.
        """
        if self.settled:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.park()
        return self.result()

    async def settlement(self) -> None:
        """Return when it is settled, whichever way; at once, and without a checkpoint, if it is."""
        if not self.settled:
            await self._lot.park()

    def result(self) -> Ack:
        """What `wait` returns or raises, of a delivery that is settled."""
        if isinstance(self._result, Ack):
            return self._result
        assert self._result is not None, "not settled"
        raise self._result()

    # --- for the log's actor ------------------------------------------------------------------------------------------

    def withdraw(self) -> None:
        """It will not be written, and nobody is left to hear of it but who waits for a flush."""
        self.state = SETTLED
        self._lot.unpark_all()

    def settle(self, result: Ack | Refusal) -> None:
        """Tell everybody. A failure is a function, so that each waiter raises an exception of its own."""
        self.state = SETTLED
        self._result = result
        self._lot.unpark_all()
        if self._on_delivery is not None:
            self._call_back(self._on_delivery, result if isinstance(result, Ack) else result())

    @staticmethod
    def _call_back(on_delivery: OnDelivery, result: Ack | Exception) -> None:
        try:
            on_delivery(result)
        except Exception as error:  # a sender's bug must not bring down the log for everybody
            report_unraisable(error, "Exception ignored in on_delivery", on_delivery)


class Statistics(msgspec.Struct, frozen=True):
    """Of one incarnation of the log: what it has written so far, and what waits.

    `failed` counts records that were accepted and not acknowledged, revoked ones left out. `average_latency` is how
    long it took from a record's acceptance to its acknowledgement, in seconds.
    """

    sent: int
    sent_bytes: int
    failed: int
    transactions: int
    waiting: int
    waiting_bytes: int
    average_latency: float


class Accumulator:
    """Accepted records, oldest first. See the theory of operation above."""

    def __init__(self, limit: int, limit_bytes: int, largest: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._largest = largest
        self._queue: deque[Delivery] = deque()  # those that were revoked stay in it until they are taken
        self._writing: set[Delivery] = set()  # taken and not finished
        self._waiting = 0  # live ones in the queue
        self._waiting_bytes = 0  # of them
        self._sent = self._sent_bytes = self._failed = self._transactions = 0
        self._latency = 0.0  # seconds, of all that were sent together
        self._refusal: Refusal | None = None  # closed
        self._ending = False
        self._changed = ParkingLot()

    def __len__(self) -> int:
        """Records that wait to be written."""
        return self._waiting

    # --- for handles --------------------------------------------------------------------------------------------------

    def accept(self, messages: Sequence[Message], on_delivery: OnDelivery | None = None) -> list[Delivery] | None:
        """Take the messages, beyond the room if there is any; None if there is none, or no more is taken.

        Raises `MessageTooLarge`.
        """
        if self._is_full() or self._ending:
            return None
        now = trio.current_time()
        deliveries = [Delivery(message, now, on_delivery) for message in messages]
        for delivery in deliveries:
            if delivery.size > self._largest and not isinstance(delivery.message, Letter):
                raise MessageTooLarge(delivery.message.topic, delivery.size, self._largest)
        self._queue.extend(deliveries)
        self._waiting += len(deliveries)
        self._waiting_bytes += sum([delivery.size for delivery in deliveries])
        self._changed.unpark_all()
        return deliveries

    def revoke(self, delivery: Delivery) -> bool:
        """Take a message back if it is not being written yet. Whether that was so."""
        if delivery.state != QUEUED:
            return False
        delivery.withdraw()
        self._waiting -= 1
        self._waiting_bytes -= delivery.size
        self._changed.unpark_all()
        return True

    async def flushed(self) -> None:
        """Wait until all that has been accepted so far is settled. Later ones do not matter."""
        for delivery in [*self._writing, *self._queue]:
            await delivery.settlement()

    # --- for the log's actor ------------------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Take no more, and wait until all that has been accepted is settled."""
        self._ending = True
        self._changed.unpark_all()
        await self.flushed()

    def statistics(self) -> Statistics:
        """What has been written so far, and what waits."""
        written = (self._sent, self._sent_bytes, self._failed, self._transactions)
        latency = self._latency / self._sent if self._sent else 0.0
        return Statistics(*written, self._waiting, self._waiting_bytes, latency)

    async def wait_for_room(self) -> None:
        """Return when there is room or no more is taken."""
        while self._is_full() and not self._ending:
            await self._changed.park()

    async def take(self, limit: int, linger: float = 0.0) -> list[Delivery]:
        """Wait for records and take up to `limit`, marked as being written. Nothing when it is closed.

        `linger`: having less than `limit`, and room for more, wait so many seconds for it, unless no more is taken.
        """
        while True:
            while not self._waiting:
                if self._refusal is not None:
                    return []
                self._queue.clear()  # of those that were revoked
                await self._changed.park()
            if linger:
                await self._more(limit, linger)
            if batch := self._taken(limit):  # else all of it was revoked meanwhile
                return batch

    def finish(self, batch: Sequence[Delivery], results: Iterable[Ack | Refusal]) -> None:
        """Settle what was taken."""
        now = trio.current_time()
        self._writing.difference_update(batch)
        self._transactions += 1
        for delivery, result in zip(batch, results, strict=False):  # one for each, or the same for all, repeated
            if isinstance(result, Ack):
                self._sent += 1
                self._latency += now - delivery.accepted_at
                self._sent_bytes += delivery.size
            else:
                self._failed += 1
            delivery.settle(result)
        self._changed.unpark_all()

    def close(self, refusal: Refusal) -> None:
        """Take no more, and fail what has not been taken. Idempotent."""
        self._ending = True
        if self._refusal is None:
            self._refusal = refusal
        self.refuse_waiting(self._refusal)

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Fail what has not been taken, so that nothing overtakes what was taken before it and failed."""
        queue, self._queue = self._queue, deque()
        self._failed += self._waiting
        self._waiting = self._waiting_bytes = 0
        for delivery in queue:
            if delivery.state == QUEUED:
                delivery.settle(refusal)
        self._changed.unpark_all()

    def _is_full(self) -> bool:
        return self._waiting >= self._limit or self._waiting_bytes >= self._limit_bytes

    async def _more(self, limit: int, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while 0 < self._waiting < limit and not self._is_full() and not self._ending:
                await self._changed.park()

    def _taken(self, limit: int) -> list[Delivery]:
        batch: list[Delivery] = []
        while self._queue and len(batch) < limit:
            delivery = self._queue.popleft()
            if delivery.state == QUEUED:
                delivery.state = WRITING
                batch.append(delivery)
        self._writing.update(batch)
        self._waiting -= len(batch)
        self._waiting_bytes -= sum([delivery.size for delivery in batch])
        self._changed.unpark_all()
        return batch
