"""Configuration of the log."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment
from .message import MAX_MESSAGE_BYTES

Synchronous = Literal["normal", "full"]
OffsetReset = Literal["earliest", "latest"]
MOST_PARTITIONS = 10_000

_AtLeastOne = Annotated[int, Meta(ge=1)]
_NotNegative = Annotated[Seconds, Meta(ge=0)]


class Config(BaseConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are in seconds, sizes in bytes.

    Parameters
    ----------
    backend
        Where the log lives. ``sqlite``: in one file on this machine.
    path
        The file; its folder is made if it is missing. SQLite keeps two more beside it, ending in ``-wal`` and
        ``-shm``, and each process that has it open keeps one in the folder that ends in ``-sessions``.
    partitions
        Of a topic that is created by its first use.
    synchronous
        What an acknowledgement means. ``normal``: the record survives the death of the process, by ``kill -9`` too; a
        power loss or a crash of the operating system may take the last seconds of acknowledged records and commits
        (never the order or the integrity of what is left). ``full``: it survives those as well, as far as the disk does
        what it says, and each transaction waits for the disk.
    max_batch
        Most records in one transaction.
    linger
        How long the writer waits for more records before it writes fewer than `max_batch`. With 0 it never waits: what
        comes while one transaction is under way shares the next one anyway.
    max_message_bytes
        Most bytes of key, value and headers of one record together.
    max_buffered, max_buffered_bytes
        Most records, and most bytes, that wait to be written; a send beyond that waits.
    busy_timeout
        How long to wait for another process that writes to the file before calls end in `Unavailable`.
    retention_time
        Records older than that are deleted, whether anybody has read them or not. None: never.
    retention_bytes
        The oldest records of a partition are deleted while it has more bytes. None: never.
    retention_interval
        How often that is looked after.
    lag_warning, lag_interval
        An event `GroupLags` tells of each group that has more records than that before it, as often as that is looked
        after. None: never.
    offset_reset
        Where a group begins in a topic that it has never read: with the ``earliest`` record there is, or behind the
        ``latest`` one.
    max_fetched, max_fetched_bytes
        Most records, and most bytes, that a consumer holds in memory (at least one record for each partition).
    poll_interval
        How often a consumer looks for records that came in without waking it: those written by another process.
    commit_every, commit_interval
        A consumer commits when it has done so many records or so long after the first one, whichever is earlier, and
        when it stops or gives a partition away.
    session_timeout
        A consumer that has not been heard of for so long loses its partitions. Those of a process that is known to have
        ended lose them at once. Longer than `busy_timeout` and `heartbeat_interval` together, for so long may a
        heartbeat wait.
    heartbeat_interval
        How often a consumer tells that it lives, and hears of changes in its group that another process made.
    rebalance_timeout
        How long a consumer that is to give a partition away may go on with the handlers that run there.
    """

    backend: Literal["sqlite"] = "sqlite"
    path: str = "data/mq.sqlite3"
    partitions: Annotated[int, Meta(ge=1, le=MOST_PARTITIONS)] = 3
    synchronous: Synchronous = "normal"
    max_batch: _AtLeastOne = 500
    linger: _NotNegative = 0.0
    max_message_bytes: Annotated[int, Meta(ge=1, le=500_000_000)] = MAX_MESSAGE_BYTES
    max_buffered: _AtLeastOne = 1_000
    max_buffered_bytes: _AtLeastOne = 3_355_443
    busy_timeout: _NotNegative = 5.0
    retention_time: PositiveSeconds | None = 604_800.0
    retention_bytes: _AtLeastOne | None = None
    retention_interval: PositiveSeconds = 300.0
    lag_warning: _AtLeastOne | None = None
    lag_interval: PositiveSeconds = 30.0
    offset_reset: OffsetReset = "earliest"
    max_fetched: _AtLeastOne = 500
    max_fetched_bytes: _AtLeastOne = 1_048_576
    poll_interval: PositiveSeconds = 0.5
    commit_every: _AtLeastOne = 100
    commit_interval: PositiveSeconds = 1.0
    session_timeout: PositiveSeconds = 10.0
    heartbeat_interval: PositiveSeconds = 3.0
    rebalance_timeout: PositiveSeconds = 30.0

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    def check(self) -> None:
        """A log that ends with its actor could not keep what it acknowledged; who lives must be heard in time."""
        if self.path in ("", ":memory:"):
            raise ConfigInvalid("$.path", self.path, "name a file: the log outlives its actor")
        if self.heartbeat_interval >= self.session_timeout:
            fix = f"less than session_timeout, which is {self.session_timeout:g}; a third of it is usual"
            raise ConfigInvalid("$.heartbeat_interval", self.heartbeat_interval, fix)


def default_config(env: Environment) -> Config:
    """``"production"``: acknowledged records survive a power loss, and there is more room. Any other: as the fields."""
    if env != "production":
        return Config()
    return Config(
        synchronous="full",
        max_buffered=10_000,
        max_buffered_bytes=33_554_432,
        max_fetched_bytes=10_485_760,
        session_timeout=30.0,
        rebalance_timeout=60.0,
    )
