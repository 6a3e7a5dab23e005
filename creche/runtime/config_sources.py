"""Where the values of a configuration come from: a file, and environment variables.

Both are read section by section, as the sections are asked for: an app learns only while it is declared which sections
it has. What nobody has asked for in the end is a mistake, and is told with what was probably meant. A source knows for
each of its values where it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from .config import no_such
from .config_fields import (
    MASK,
    Field,
    alternatives,
    fields_of,
    is_seconds,
    item_type,
    parse_duration,
    struct_in,
    value_type,
)
from .config_files import ConfigFile, Keys
from .errors import ConfigInvalid

# What other kits call these sections.
ALIASES: Mapping[str, str] = {
    "database": "db",
    "redis": "cache",
    "kafka": "mq",
    "etcd": "coord",
    "logging": "clog",
    "tracing": "metrics",
}

ENV_VARIABLE = "CRECHE_ENV"
FILE_VARIABLE = "CRECHE_CONFIG"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from. `name` is that of the file or of the variable; `line` is known where it is cheap."""

    kind: Literal["default", "code", "file", "variable"]
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.kind in ("default", "code"):
            return self.kind
        return self.name if self.line is None else f"{self.name}:{self.line}"


class FileSource:
    """The values of a file."""

    def __init__(self, file: ConfigFile) -> None:
        self._file = file
        self._taken: dict[str, str] = {}  # {section: its name in the file}

    def take(self, section: str, others: Container[str] = ()) -> Origin | None:
        """Where the file has the section; None if it has not. It counts as asked for from now on."""
        name = next((name for name in _names_of(section, others) if name in self._file.data), None)
        if name is None:
            return None
        self._taken[section] = name
        return self.origin((section,))

    def read(self, fields: Mapping[str, Field]) -> tuple[dict[str, Any], list[ConfigInvalid]]:
        """What it gives to these fields of the top level, and what is wrong with that."""
        found = [key for key in fields if self.take(key, fields)]
        return {key: self._file.data[self._taken[key]] for key in found}, []

    def left_over(self, known: Sequence[str]) -> Iterator[ConfigInvalid]:
        """What nobody has asked for, or two."""
        taken = list(self._taken.values())
        for name in self._file.data:
            reason = _why_unwanted(name, taken.count(name), known)
            if reason is not None:
                yield ConfigInvalid(f"$.{name}", MASK, reason, str(self._origin((name,))))

    def origin(self, keys: Sequence[str | int]) -> Origin | None:
        """Where it gives the value that the keys lead to; None if it does not."""
        name = self._taken.get(str(keys[0]))
        if name is None or not _leads_somewhere(self._file.data, (name, *keys[1:])):
            return None
        return self._origin((name, *map(str, keys[1:])))

    def _origin(self, keys: Keys) -> Origin:
        lines = (self._file.lines.get(keys[:length]) for length in range(len(keys), 0, -1))
        return Origin("file", self._file.path, next((line for line in lines if line is not None), None))


class VariableSource:
    """The values of environment variables: ``PREFIX_SECTION__FIELD``, two underscores for each step down."""

    def __init__(self, variables: Mapping[str, str], prefix: str) -> None:
        self._prefix = f"{prefix}_"
        self._texts = {
            name: text
            for name, text in sorted(variables.items(), key=lambda item: (item[0].count("__"), item[0]))
            if name.upper().startswith(self._prefix) and name not in (ENV_VARIABLE, FILE_VARIABLE)
        }
        self._taken: dict[str, str] = {}  # {variable: section}
        self._known: list[str] = []  # variables that would have a meaning
        self._origins: dict[tuple[str | int, ...], str] = {}  # {path of a value: variable}

    def take(self, section: str, others: Container[str] = ()) -> Origin | None:
        """As that of a file."""
        found = self._variables_of(section, others)
        self._taken.update(dict.fromkeys(found, section))
        return Origin("variable", found[0]) if found else None

    def read(self, fields: Mapping[str, Field]) -> tuple[dict[str, Any], list[ConfigInvalid]]:
        """As that of a file; texts become what the fields' types say."""
        values: dict[str, Any] = {}
        problems: list[ConfigInvalid] = []
        for field in fields.values():
            self._known += self._names_below(field, self._prefix)
            for name in self._variables_of(field.key, fields):
                self._taken[name] = field.key
                try:
                    self._read_variable(name, field, values)
                except ConfigInvalid as problem:
                    problems.append(problem)
        return values, problems

    def left_over(self, known: Sequence[str]) -> Iterator[ConfigInvalid]:
        """As that of a file. A variable without two underscores is somebody else's, unless it looks like a slip."""
        meant = {_squeezed(name): name for name in self._known}
        for name in self._texts:
            if name in self._taken:
                continue
            section = self._section_part(name)
            target = ALIASES.get(section.lower(), "")
            near = meant.get(_squeezed(name))
            if target in known:
                reason = f"{section} is another name for {_part(target)}, which is there too: keep one of the two"
                yield self._refused(name, reason)
            elif near is not None:
                yield self._refused(name, f"write {near!r}")
            elif "__" in name:
                yield self._refused(name, no_such("variable", name, self._known, self._prefix))

    def origin(self, keys: Sequence[str | int]) -> Origin | None:
        """As that of a file."""
        names = (self._origins.get(tuple(keys[:length])) for length in range(len(keys), 0, -1))
        name = next((name for name in names if name is not None), None)
        return None if name is None else Origin("variable", name)

    def _variables_of(self, section: str, others: Container[str]) -> list[str]:
        """Those of the first of the section's names that has any."""
        for spelling in _names_of(section, others):
            found = [name for name in self._texts if self._section_part(name) == _part(spelling)]
            if found:
                return found
        return []

    def _section_part(self, variable: str) -> str:
        return variable[len(self._prefix) :].partition("__")[0]

    def _read_variable(self, name: str, field: Field, values: dict[str, Any]) -> None:
        """Put the value of a variable to its place below `values`. Raises `ConfigInvalid`."""
        keys = [field.key]
        for part in name[len(self._prefix) :].split("__")[1:]:
            inner = {} if field.struct is None else fields_of(field.struct)
            found = next((candidate for candidate in inner.values() if _part(candidate.key) == part), None)
            if found is None:
                section = [known for known in self._known if self._section_part(known) == self._section_part(name)]
                raise self._refused(name, no_such("variable", name, section, self._prefix))
            values = _table_in(values, field.key)
            field = found
            keys.append(field.key)
        values[field.key] = _from_text(self._texts[name], field, ".".join(("$", *keys)), name)
        self._origins[tuple(keys)] = name

    def _refused(self, name: str, reason: str) -> ConfigInvalid:
        path = name[len(self._prefix) :].lower().replace("__", ".")
        return ConfigInvalid(f"$.{path}", MASK, reason, name)

    def _names_below(self, field: Field, before: str) -> Iterator[str]:
        name = before + _part(field.key)
        if field.struct is None:
            yield name
            return
        for inner in fields_of(field.struct).values():
            yield from self._names_below(inner, f"{name}__")


# --- names ----------------------------------------------------------------------------------------


def _names_of(section: str, others: Container[str]) -> list[str]:
    """The names under which a section may be given, its own first. One that is a section of its own is no alias."""
    return [section, *(alias for alias, target in ALIASES.items() if target == section and alias not in others)]


def _why_unwanted(name: str, times_taken: int, known: Sequence[str]) -> str | None:
    target = ALIASES.get(name)
    if times_taken == 1:
        return None
    if times_taken > 1:
        return f"both {name!r} and {target!r} would read this section: write the latter as [{target}]"
    if target in known:
        return f"another name for {target!r}, which is there too: keep one of the two"
    return no_such("name", name, known)


def _table_in(values: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(values.get(key), dict):
        values[key] = {}
    return cast("dict[str, Any]", values[key])


def _part(key: str) -> str:
    """A key as a part of a variable's name."""
    return re.sub(r"\W", "_", key).upper()


def _squeezed(name: str) -> str:
    return name.upper().replace("__", "_")


def _leads_somewhere(data: Any, keys: Iterable[str | int]) -> bool:
    for key in keys:
        try:
            data = data[key]
        except (LookupError, TypeError):
            return False
    return True


# --- texts of variables ---------------------------------------------------------------------------


def _from_text(text: str, field: Field, path: str, variable: str) -> Any:
    """The value that a text stands for where the type is that of the field. Raises `ConfigInvalid`."""
    try:
        if text.lstrip()[:1] in ("[", "{") and _may_be_json(field.type):
            return json.loads(text)
        return _plain_from_text(text, field.type)
    except (ValueError, msgspec.ValidationError) as error:
        reason = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error).partition(" - at `")[0]
        value = MASK if field.secret else text
        told = field.secret and text in reason
        raise ConfigInvalid(path, value, "not a valid value" if told else reason, variable) from None


def _may_be_json(kind: Any) -> bool:
    """Whether a list or a table may stand in the place of this type, and no text."""
    takes_container = struct_in(kind) or item_type(kind) is not None or value_type(kind) is not None
    return bool(takes_container) and str not in alternatives(kind)


def _plain_from_text(text: str, kind: Any) -> Any:
    items = None if str in alternatives(kind) else item_type(kind)
    value: Any = text
    if items is not None:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        value = [parse_duration(part) for part in parts] if is_seconds(items) else parts
    elif is_seconds(kind) and text != "null":
        value = parse_duration(text)
    return msgspec.to_builtins(msgspec.convert(value, kind, strict=False))
