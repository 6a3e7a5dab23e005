"""What all connections of one component share, for as long as its spec is there: SQLAlchemy's engine.

It is kept across the lives of the actor for the statements that it has compiled: to compile one costs several times
what it costs to execute it, and a successor has everybody waiting. It holds no connection (`NullPool`) and belongs to
no thread. Where two threads make it at once, both have a whole one, and one of the two is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, final

from ...runtime.errors import ConfigInvalid
from .config import Config
from .sharding import ShardRouter, refuse_what_is_not_routed

if TYPE_CHECKING:
    import sqlite3
    from types import ModuleType

    from sqlalchemy.engine import Connection, Engine


def sqlalchemy() -> ModuleType:
    """The package, imported when a database is opened and not before."""
    try:
        import sqlalchemy as package
    except ImportError as error:
        raise ImportError("creche.components.db needs SQLAlchemy 2: pip install 'creche[db]'") from error
    return package


@final
class Driver:
    """Connects to the file of one component.

    Parameters
    ----------
    router
        Statements on its tables are refused unless they name one of their shards. None: nothing is sharded.
    """

    def __init__(self, router: ShardRouter | None = None) -> None:
        self.router = router
        self._engine: Engine | None = None

    def connect(self, config: Config) -> Connection:
        """A new connection. Blocks. The config is always the same."""
        path = Path(config.path)
        engine = self._engine = self._engine or _engine(config, self.router)
        if not config.create and not path.exists():
            raise ConfigInvalid("$.path", config.path, "there is no such file, and `create` is off")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions are ours: see `sqlite`.
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _engine(config: Config, router: ShardRouter | None) -> Engine:
    sa = sqlalchemy()
    made = sa.create_engine(
        sa.URL.create("sqlite", database=config.path),
        poolclass=sa.NullPool,
        hide_parameters=True,  # its errors are the causes of ours, and are logged: values may be secrets
        # Opening may wait for other processes in the thread; later it is the actor that waits, cancellably.
        connect_args={"check_same_thread": False, "timeout": config.busy_timeout},
    )
    engine = cast("Engine", made)
    if router is not None:
        refuse_what_is_not_routed(engine, router)
    return engine


def raw_connection(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection works on."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)
