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
from .config import Config, default_config
from .errors import Busy, Conflict, MultipleRows, RowNotFound, StatementInvalid, TransactionLost, TransactionNested
from .events import OutboxStalled, SlowStatement
from .handle import Db, Transaction
from .outbox import MessageLog, OutboxRelay
from .work import Result

if TYPE_CHECKING:
    from sqlalchemy import MetaData

__all__ = [
    "Busy",
    "Config",
    "Conflict",
    "Db",
    "MultipleRows",
    "OutboxRelay",
    "OutboxStalled",
    "Result",
    "RowNotFound",
    "SlowStatement",
    "StatementInvalid",
    "Transaction",
    "TransactionLost",
    "TransactionNested",
    "component",
    "default_config",
    "relay",
]


def component(config: Config | None = None, *, name: str = "db", metadata: MetaData | None = None) -> ComponentSpec[Db]:
    """A database.

    Parameters
    ----------
    config
        None takes `default_config` of the app's environment; outside of an app that of development.
    name
        Of the actor in the tree.
    metadata
        Tables to create at the start if they are missing. Existing ones are left as they are.

    Raises
    ------
    ConfigInvalid
        A value is wrong. A file that cannot be opened is found out at the start, which then fails.
    """
    if config is None:
        return by_config(Config, lambda chosen: component(chosen, name=name, metadata=metadata))
    return ComponentSpec(name, child(DbActor, validated(config), metadata), Db)


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
