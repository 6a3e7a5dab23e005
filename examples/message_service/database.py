"""A database with users and sessions in it, made without the service: for runs that begin with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import URL, NullPool, create_engine

from . import statements
from .model import Session, User, metadata


def make_database(path: Path, users: Iterable[User], sessions: Iterable[Session]) -> None:
    """Make the file. Blocks."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(statements.SAVE_USER, [{"id": user.user_id, "name": user.name} for user in users])
        for session in sessions:
            connection.execute(statements.SAVE_SESSION, {"id": session.session_id, "kind": session.kind})
            rows = [{"session_id": session.session_id, "user_id": user} for user in session.members]
            if rows:
                connection.execute(statements.ADD_MEMBER, rows)
