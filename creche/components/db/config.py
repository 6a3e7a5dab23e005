"""The configuration of the db component."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment


class Config(BaseConfig, frozen=True, kw_only=True):
    """Where the data is, and how careful to be with it. Times are in seconds.

    Parameters
    ----------
    backend
        ``sqlite``: one file, no server.
    path
        The database file; its folder is made if it is missing. In-memory databases are refused: a crash of the
        actor would lose them.
    synchronous
        What a commit means. ``FULL``: it is on disk, as far as the disk does what it says. ``NORMAL``: it survives
        the death of the process, by ``kill -9`` too; a power loss or a crash of the operating system may take the
        last ones, but never damages the file.
    create
        Whether a missing file is made. Off: the start fails, where a mistyped path would begin an empty database.
    pool_size
        Connections that only read, each with a thread of its own while it reads: `Db.reader`. 0: the one that writes
        does that, too.
    busy_timeout
        How long a statement waits while another process has the file locked; then `Busy`.
    transaction_timeout
        How long a transaction may stay open, counted from when it was its turn. A longer one is rolled back, so that a
        forgotten one cannot block the others for ever.
    slow_after
        A statement that takes longer than this is reported by a `SlowStatement` event.
    """

    backend: Literal["sqlite"] = "sqlite"
    path: str = "db.sqlite3"
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    create: bool = True
    pool_size: Annotated[int, Meta(ge=0, le=64)] = 2
    busy_timeout: Annotated[Seconds, Meta(ge=0)] = 5.0
    transaction_timeout: PositiveSeconds = 30.0
    slow_after: PositiveSeconds = 0.1

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    def check(self) -> None:
        """See `creche.runtime.config.Config`."""
        if not self.path or self.path == ":memory:":
            raise ConfigInvalid("$.path", self.path, "a database in memory would not survive a crash: name a file")
        if self.path.startswith("file:"):
            raise ConfigInvalid("$.path", self.path, "name a file by its path, not by a URI")


def default_config(env: Environment) -> Config:
    """The defaults of an environment: in production commits are on disk when they are reported."""
    if env == "production":
        return Config(synchronous="FULL", pool_size=4, slow_after=0.5)
    return Config()
