"""Configuration of the log."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment

Synchronous = Literal["normal", "full"]
MOST_PARTITIONS = 10_000

_AtLeastOne = Annotated[int, Meta(ge=1)]


class Config(BaseConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are in seconds.

    Parameters
    ----------
    backend
        Where the log lives. ``sqlite``: in one file on this machine.
    path
        The file; its folder is made if it is missing. SQLite keeps two more beside it, ending in ``-wal`` and ``-shm``.
    partitions
        Of a topic that is created by its first use.
    synchronous
        What an acknowledgement means. ``normal``: the record survives the death of the process, by ``kill -9`` too; a
        power loss or a crash of the operating system may take the last seconds of acknowledged records and commits
        (never the order or the integrity of what is left). ``full``: it survives those as well, as far as the disk does
        what it says, and each transaction waits for the disk.
    max_batch
        Most records in one transaction, and most that a consumer holds in memory.
    max_buffered
        Most records that wait to be written; a send beyond that waits.
    busy_timeout
        How long to wait for another process that writes to the file before calls end in `Unavailable`.
    poll_interval
        How often a consumer looks for records that came in without waking it: those written by another process.
    commit_every, commit_interval
        A consumer commits when it has done so many records or so long after the first one, whichever is earlier, and
        when it stops.
    """

    backend: Literal["sqlite"] = "sqlite"
    path: str = "data/mq.sqlite3"
    partitions: Annotated[int, Meta(ge=1, le=MOST_PARTITIONS)] = 3
    synchronous: Synchronous = "normal"
    max_batch: _AtLeastOne = 500
    max_buffered: _AtLeastOne = 10_000
    busy_timeout: Annotated[Seconds, Meta(ge=0)] = 5.0
    poll_interval: PositiveSeconds = 0.5
    commit_every: _AtLeastOne = 100
    commit_interval: PositiveSeconds = 1.0

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    def check(self) -> None:
        """A log that ends with its actor could not keep what it acknowledged."""
        if self.path in ("", ":memory:"):
            raise ConfigInvalid("$.path", self.path, "name a file: the log outlives its actor")


def default_config(env: Environment) -> Config:
    """``"production"``: acknowledged records survive a power loss. Any other: they survive the process."""
    return Config(synchronous="full" if env == "production" else "normal")
