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
    """Connects to the file that the configuration names.

    Parameters
    ----------
    router
        Statements on its tables are refused unless they name one of their shards. None: nothing is sharded.
    """

    def __init__(self, config: Config, router: ShardRouter | None = None) -> None:
        self.config = config
        self.router = router
        self._engine: Engine | None = None

    def connect(self) -> Connection:
        """A new connection. Blocks. The first one must not be made from two threads at once: the writer's is."""
        path = Path(self.config.path)
        if self._engine is None:
            self._engine = self._make_engine()
        if not self.config.create and not path.exists():
            raise ConfigInvalid("$.path", self.config.path, "there is no such file, and `create` is off")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions are ours: see `sqlite`.
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _make_engine(self) -> Engine:
        sa = sqlalchemy()
        engine = cast(
            "Engine",
            sa.create_engine(
                sa.URL.create("sqlite", database=self.config.path),
                poolclass=sa.NullPool,
                hide_parameters=True,  # its errors are the causes of ours, and are logged: values may be secrets
                # Opening may wait for other processes in the thread; later it is the actor that waits, cancellably.
                connect_args={"check_same_thread": False, "timeout": self.config.busy_timeout},
            ),
        )
        if self.router is not None:
            refuse_what_is_not_routed(engine, self.router)
        return engine


def raw_connection(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection works on."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)
