"""Why no id can be issued at the moment.

All of these report the state of the world, not a mistake of the caller; a wrong argument is a plain `ValueError`.
They stand under `Unavailable`: until an id can be issued again, the component is. `retry_after` is set where the end
can be foreseen.
"""

from __future__ import annotations

from datetime import datetime

from ...runtime.errors import Unavailable

_NAME = "uid"


class ClockMovedBack(Unavailable):
    """The wall clock reads `by` seconds before the last timestamp used: more than the generator may bridge.

    Nothing was issued. Ids flow again when the clock has come near enough, after `by` seconds at the latest if it
    runs on evenly; so much is `retry_after`. A smaller step back is bridged: see `held` in the generators'
    statistics, and `Wait`.
    """

    def __init__(self, by: float) -> None:
        super().__init__(_NAME, f"the clock reads {by:.3f} s before the last timestamp used", retry_after=by)
        self.by = by


class WorkerIdLost(Unavailable):
    """The right to `worker_id` is gone, so any further id could be another process's too.

    Final: issuing again takes a new lease and a new generator, which the component sees to by itself.
    Contrast `MarkReached`, where the right still stands and only the promise on disk is used up.
    """

    def __init__(self, worker_id: int) -> None:
        super().__init__(_NAME, f"worker id {worker_id} is no longer ours")
        self.worker_id = worker_id


class MarkReached(Unavailable):
    """The clock has passed `mark`, the last millisecond that the owner has promised to durable storage.

    Ids flow again once the owner has stored a later mark and passed it to `SnowflakeGenerator.extend`. Seeing this in
    normal running means that the storage is slow or down.
    """

    def __init__(self, mark: int) -> None:
        super().__init__(_NAME, f"no promise beyond Unix millisecond {mark}: store a later mark, then extend()")
        self.mark = mark


class LayoutExhausted(Unavailable):
    """The clock is past `end`, the last instant that the layout can hold.

    Either decades have gone by or the clock is wrong.
    """

    def __init__(self, end: datetime) -> None:
        super().__init__(_NAME, f"the layout's timestamps ended at {end.isoformat()}")
        self.end = end


class NoWorkerIdFree(Unavailable):
    """Each worker id from 0 to `max_worker_id` is leased, in quarantine, or was used by a clock ahead of this one.

    `retry_after` says when the first becomes free, if nobody renews it. Contrast `WorkerIdLost`: there was one.
    """

    def __init__(self, max_worker_id: int, retry_after: float) -> None:
        super().__init__(_NAME, f"no worker id from 0 to {max_worker_id} is free", retry_after)
        self.max_worker_id = max_worker_id
