"""A relational database: SQLAlchemy 2 statements, transactions that survive cancels and crashes, an outbox.

::

    db = app.use(db.component(metadata=metadata))
    app.use(db.relay(db, mq))

    async with db.transaction() as tx:
        await tx.execute(insert(orders).values(id=1))
        await tx.publish(mq.Message("orders.new", b"1"))

Needs the extra ``creche[db]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.component import ComponentSpec, by_config
from ...runtime.config import validated
from ...runtime.errors import SpecInvalid
from ...runtime.spec import ActorSpec, child
from .actor import DbActor
from .backup import Backup, check_backup, restore
from .config import Config, default_config
from .driver import Driver
from .errors import (
    BackupDamaged,
    Busy,
    CheckViolation,
    Conflict,
    ForeignKeyViolation,
    MigrationFailed,
    MigrationInvalid,
    MigrationsDiffer,
    MultipleRows,
    NotNullViolation,
    RowNotFound,
    ShardKeyMissing,
    StatementInvalid,
    TransactionLost,
    TransactionNested,
    UniqueViolation,
)
from .events import OutboxStalled, SlowStatement
from .handle import Db, Reader, Shard, Shards, Statistics, Transaction
from .migrations import Migration, MigrationSource, load
from .outbox import MessageLog, OutboxRelay
from .session import Session
from .sharding import Sharding, ShardRouter, shard_index
from .sync import SyncTransaction
from .work import Result

if TYPE_CHECKING:
    from sqlalchemy import MetaData

__all__ = [
    "Backup",
    "BackupDamaged",
    "Busy",
    "CheckViolation",
    "Config",
    "Conflict",
    "Db",
    "ForeignKeyViolation",
    "Migration",
    "MigrationFailed",
    "MigrationInvalid",
    "MigrationsDiffer",
    "MultipleRows",
    "NotNullViolation",
    "OutboxRelay",
    "OutboxStalled",
    "Reader",
    "Result",
    "RowNotFound",
    "Session",
    "Shard",
    "ShardKeyMissing",
    "ShardRouter",
    "Sharding",
    "Shards",
    "SlowStatement",
    "StatementInvalid",
    "Statistics",
    "SyncTransaction",
    "Transaction",
    "TransactionLost",
    "TransactionNested",
    "UniqueViolation",
    "check_backup",
    "component",
    "default_config",
    "relay",
    "restore",
    "shard_index",
]


def component(
    config: Config | None = None,
    *,
    name: str = "db",
    metadata: MetaData | None = None,
    migrations: MigrationSource | None = None,
    sharding: ShardRouter | None = None,
) -> ComponentSpec[Db]:
    """A database.

    Parameters
    ----------
    config
        None takes the section of the app's configuration that is called as the component, over `default_config` of its
        environment; outside of an app `default_config("development")`.
    name
        Of the actor in the tree.
    metadata
        Tables to create at the start if they are missing, after the migrations. Existing ones are left as they are. Of
        sharded tables all parts are created.
    migrations
        A folder with files such as ``0001_create_users.sql``, or a sequence of `Migration`: applied at the start, in
        the order of their numbers, each once. A start with other ones than were applied is refused.
    sharding
        Which tables are sharded, and how.

    Raises
    ------
    ConfigInvalid
        A value is wrong. A file that cannot be opened is found out at the start, which then fails.
    MigrationInvalid
        The migrations themselves are wrong.
    """
    steps = None if migrations is None else load(migrations)
    if config is None:
        return by_config(
            Config,
            lambda chosen: component(chosen, name=name, metadata=metadata, migrations=steps, sharding=sharding),
        )
    actor = child(DbActor, validated(config), metadata, steps, Driver(sharding))
    return ComponentSpec(name, actor, lambda handle_name: Db(handle_name, sharding))


def relay(db: Db, mq: MessageLog, *, poll: float = 0.5, batch: int = 256) -> ActorSpec[OutboxRelay]:
    """A child that sends what transactions have published: each message once, in the order of the commits.

    Start one per database.

    Parameters
    ----------
    db, mq
        The handles of the database and of the message log.
    poll
        It is woken by commits; this is how often, in seconds, it looks all the same, for those of other processes.
    batch
        How many messages it sends at a time.

    Raises
    ------
    SpecInvalid
        `poll` or `batch` cannot be.
    """
    if not poll > 0:
        raise SpecInvalid("poll", poll, "seconds, more than 0")
    if batch < 1:
        raise SpecInvalid("batch", batch, "an int of at least 1")
    return child(OutboxRelay, db, mq, poll, batch).options(layer="infrastructure")
