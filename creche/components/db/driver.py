"""What all connections to one file share, for as long as the component is in the tree: SQLAlchemy's engine.

It is kept across the lives of the actor for the statements that it has compiled: to compile one costs several times
what it costs to execute it, and a successor has everybody waiting. It holds no connection (`NullPool`) and belongs to
no thread.
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
        """A new connection; the config is always the same. Blocks. The first one is made by one thread only."""
        path = Path(config.path)
        if self._engine is None:
            self._engine = _engine(config)
            if self.router is not None:
                refuse_what_is_not_routed(self._engine, self.router)
        if not config.create and not path.exists():
            raise ConfigInvalid("$.path", config.path, "there is no such file, and `create` is off")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions are ours: see `sqlite`.
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _engine(config: Config) -> Engine:
    sa = sqlalchemy()
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=config.path),
        poolclass=sa.NullPool,
        hide_parameters=True,  # its errors are the causes of ours, and are logged: values may be secrets
        # Opening may wait for other processes in the thread; later it is the actor that waits, cancellably.
        connect_args={"check_same_thread": False, "timeout": config.busy_timeout},
    )
    return cast("Engine", engine)


def raw_connection(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection works on."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)
