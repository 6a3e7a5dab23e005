"""Sharding by an explicit router: which of a table's parts a key belongs to. Pure policy.

A sharded table exists as ``name_00``, ``name_01`` ... in the file. Statements are written on the table itself and
executed on a shard, which puts the part in its place; a statement on the table itself that comes past a shard is
refused, for nobody could say which part is meant, and to ask all of them is a decision (`Db.shards`).

The key's number is a number itself, or a text of digits as that number; any other text is ``h = h * 31 + code point``,
in 64 bits. The part is that number's absolute value modulo the number of parts. So doubling the parts moves each row
either nowhere or from part i to part i + n: that is the plan for growing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

from ...runtime.errors import SpecInvalid
from .errors import ShardKeyMissing, StatementInvalid

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData, Table
    from sqlalchemy.sql import Executable

ShardKey = int | str
_DIGITS = re.compile(r"-?[0-9]+")


def shard_index(key: ShardKey, shards: int) -> int:
    """The part that a key belongs to, from 0. The same for ever, in every process."""
    return abs(_number(key)) % shards


def _number(key: Any) -> int:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if not isinstance(key, str):
        raise TypeError(f"a shard key is an int or a str, not {key!r}")
    if _DIGITS.fullmatch(key):
        return int(key)
    number = 0
    for character in key:
        number = (number * 31 + ord(character)) & 0xFFFF_FFFF_FFFF_FFFF
    return number


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one table is divided: by the values of the column `key`, into so many `shards`.

    Take a power of two, and more than today needs: 16 empty tables cost nothing.
    """

    key: str
    shards: int

    def __post_init__(self) -> None:
        if not (type(self.shards) is int and 1 <= self.shards <= 100):
            raise SpecInvalid("shards", self.shards, "a whole number from 1 to 100")


@final
class ShardRouter:
    """Which tables are sharded, and how: ``ShardRouter({messages: Sharding("session_id", 16)})``.

    Each table has its own number of parts. Raises `SpecInvalid` for what cannot be divided so.
    """

    def __init__(self, tables: Mapping[Table, Sharding]) -> None:
        self._tables = dict(tables)
        self._parts: dict[Table, list[Table]] = {}
        for table, sharding in self._tables.items():
            if sharding.key not in table.c:
                raise SpecInvalid(f"sharding of {table.name}", sharding.key, "the key must be one of its columns")
            if table.foreign_keys:
                raise SpecInvalid(f"sharding of {table.name}", sharding.key, "a sharded table has no foreign keys")
        names = "|".join(re.escape(table.name) for table in self._tables)
        self._names = re.compile(rf"\b({names})\b", re.IGNORECASE) if names else None

    def shards_of(self, table: Table) -> int:
        """Into how many parts a table is divided."""
        return self._tables[table].shards

    def counts(self) -> Iterator[tuple[str, int]]:
        """Each sharded table's name and its number of parts."""
        for table, sharding in self._tables.items():
            yield table.name, sharding.shards

    def part(self, table: Table, index: int) -> Table:
        """One part of a table."""
        return self._parts_of(table)[index]

    def _parts_of(self, table: Table) -> list[Table]:
        parts = self._parts.get(table)
        if parts is None:
            from sqlalchemy import MetaData

            metadata = MetaData()
            parts = [_part(table, metadata, index) for index in range(self._tables[table].shards)]
            self._parts[table] = parts
        return parts

    def physical(self, metadata: MetaData) -> MetaData:
        """The tables as they are in the file: the sharded ones in their parts, the others as they are."""
        from sqlalchemy import MetaData

        physical = MetaData()
        for table in metadata.tables.values():
            if table in self._tables:
                for index in range(self._tables[table].shards):
                    _part(table, physical, index)
            else:
                table.to_metadata(physical)
        return physical

    # --- statements ---------------------------------------------------------------------------------------------------

    def check(self, statement: Any) -> None:
        """Raise `ShardKeyMissing` if it names a sharded table itself: a statement of any kind, or SQL as text."""
        from sqlalchemy import ColumnClause, TableClause, TextClause
        from sqlalchemy.sql import visitors

        if isinstance(statement, str):
            self._check_text(statement)
        if not isinstance(statement, visitors.Visitable):
            return  # no statement at all: the database refuses it
        for element in visitors.iterate(cast("Any", statement)):
            if isinstance(element, TableClause):
                self._check_text(element.name)
            elif isinstance(element, TextClause):
                self._check_text(element.text)
            elif isinstance(element, ColumnClause) and element.is_literal:
                self._check_text(element.name)

    def _check_text(self, text: str) -> None:
        found = self._names.search(text) if self._names is not None else None
        if found is not None:
            raise ShardKeyMissing(found[1])

    def named(self, statement: Executable) -> list[Table]:
        """The sharded tables that a statement names."""
        from sqlalchemy.sql import visitors

        if not isinstance(statement, visitors.Visitable):
            return []
        elements = {id(element) for element in visitors.iterate(cast("Any", statement))}
        return [table for table in self._tables if id(table) in elements]

    def routed(self, statement: Executable, key: ShardKey) -> Executable:
        """The statement on the parts that the key belongs to."""
        return self._replaced(
            statement, {table: self.part(table, shard_index(key, self.shards_of(table))) for table in self._tables}
        )

    def routed_to(self, statement: Executable, index: int) -> Executable:
        """The statement on the parts of that number."""
        return self._replaced(statement, {table: self.part(table, index) for table in self.named(statement)})

    def _replaced(self, statement: Executable, parts: Mapping[Table, Table]) -> Executable:
        from sqlalchemy import Column
        from sqlalchemy.sql import visitors

        by_identity = {id(table): part for table, part in parts.items()}

        def replacement(element: Any, **_kw: Any) -> Any:
            if isinstance(element, Column):
                part = by_identity.get(id(element.table))
                return None if part is None else part.c[element.key]
            return by_identity.get(id(element))

        if not isinstance(statement, visitors.ExternallyTraversible):
            return statement
        return cast("Executable", visitors.replacement_traverse(statement, {}, replacement))

    def common_count(self, statement: Executable) -> int:
        """The number of parts of the tables that a statement names, which must be the same for all of them."""
        counts = {self.shards_of(table) for table in self.named(statement)}
        if len(counts) != 1:
            what = "tables with different numbers of shards" if counts else "no sharded table"
            raise StatementInvalid(f"the statement names {what}: it cannot be executed on all shards")
        return counts.pop()


def refuse_what_is_not_routed(engine: Engine, router: ShardRouter) -> None:
    """Check whatever goes through an engine, by whichever way: Core, the ORM's own statements, and SQL as text."""
    from sqlalchemy import event
    from sqlalchemy.schema import DDL, ExecutableDDLElement

    def statement(_connection: Any, element: Any, *_rest: Any) -> None:
        if isinstance(element, DDL):
            router.check(element.statement)
        elif not isinstance(element, ExecutableDDLElement):  # those make the parts themselves
            router.check(element)

    def text(_connection: Any, _cursor: Any, sql: str, _parameters: Any, context: Any, _many: bool) -> None:
        if context is not None and context.compiled is None:
            router.check(sql)

    event.listen(engine, "before_execute", statement)
    event.listen(engine, "before_cursor_execute", text)


def _part(table: Table, metadata: MetaData, index: int) -> Table:
    from sqlalchemy.sql import quoted_name

    part = table.to_metadata(metadata, name=f"{table.name}_{index:02d}")
    for copied in part.indexes:  # the names of indexes are unique in a file
        name = str(copied.name)
        if part.name not in name:
            copied.name = quoted_name(f"{name}_{index:02d}", quote=None)
    return part
