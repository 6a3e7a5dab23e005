"""Where worker ids are leased, and what an id looks like."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment
from .snowflake import EPOCH_MS, Layout
from .uuid7 import MAX_DRIFT


class Config(BaseConfig, frozen=True, kw_only=True):
    """Times are in seconds, except `epoch_ms` (Unix milliseconds).

    Parameters
    ----------
    state_path
        The SQLite file from which all processes of this machine lease their worker ids; one file for all services
        whose ids must differ. ``~`` is the home directory, and a missing folder is made. None leases within this
        process only: ids then differ from those of other components of the process, and of no other process.
    max_worker_id
        The greatest worker id; from 0 on.
    epoch_ms, time_bits, worker_bits, sequence_bits
        The layout of an id. Choose it once, for good.
    tolerance
        How far the clock may step back for callers to wait rather than to get `ClockMovedBack`. It is also how far
        ids are promised to the state file ahead of use: every half of it, one small write.
    lease_ttl
        How long the worker id of a process that died stays its own.
    quarantine
        How long a worker id then rests, before another service may have it.
    uuid7_max_drift, uuid7_rollback
        How far the times of UUIDs may be ahead of a clock that was set back, and what happens beyond. ``follow``:
        they start anew from the clock, and order breaks once. ``hold``: they keep the last time. ``raise``:
        `ClockMovedBack`. With other than the defaults, the handle's UUIDs ascend apart from the module's.
    """

    state_path: Annotated[str, Meta(min_length=1)] | None = None
    max_worker_id: Annotated[int, Meta(ge=0)] = 1023
    epoch_ms: Annotated[int, Meta(ge=0)] = EPOCH_MS
    time_bits: Annotated[int, Meta(ge=1)] = 41
    worker_bits: Annotated[int, Meta(ge=0)] = 10
    sequence_bits: Annotated[int, Meta(ge=0)] = 12
    tolerance: Annotated[Seconds, Meta(ge=0.1, le=60)] = 1.0
    lease_ttl: PositiveSeconds = 30.0
    quarantine: Annotated[Seconds, Meta(ge=0)] = 60.0
    uuid7_max_drift: Annotated[Seconds, Meta(ge=0, le=86400)] = MAX_DRIFT
    uuid7_rollback: Literal["follow", "hold", "raise"] = "follow"

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    @property
    def layout(self) -> Layout:
        """How the bits of an id are divided. Raises `ValueError` if they make no sense."""
        return Layout(
            time_bits=self.time_bits,
            worker_bits=self.worker_bits,
            sequence_bits=self.sequence_bits,
            epoch_ms=self.epoch_ms,
        )

    def check(self) -> None:
        """The layout makes sense and holds every worker id; a lease outlives a few renewals."""
        try:
            layout = self.layout
        except ValueError as error:
            raise ConfigInvalid("$", (self.time_bits, self.worker_bits, self.sequence_bits), str(error)) from None
        if self.max_worker_id > layout.max_worker_id:
            reason = (
                f"{self.worker_bits} worker bits hold ids up to {layout.max_worker_id}: lower it, or raise worker_bits"
            )
            raise ConfigInvalid("$.max_worker_id", self.max_worker_id, reason)
        if self.lease_ttl < 3 * self.tolerance:
            reason = f"must be at least 3 times the tolerance of {self.tolerance:g} s"
            raise ConfigInvalid("$.lease_ttl", self.lease_ttl, reason)


def default_config(env: Environment) -> Config:
    """In development, worker ids of this process only.

    In production, those of all processes of this user, in a file of the home directory.
    """
    return Config(state_path="~/.local/state/creche/uid.db" if env == "production" else None)
