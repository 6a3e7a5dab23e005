"""Reading a config file: plain data, and the line of each value as far as it is cheap to know.

TOML comes with Python, but its parser keeps no lines: they are found by a second look at the text. YAML's parser knows
them. JSON's does not, and a JSON file is rarely written by hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .errors import ConfigInvalid

Keys = tuple[str, ...]
Lines = dict[Keys, int]


@dataclass(frozen=True)
class ConfigFile:
    """What a file says. `lines` are those of its keys, counted from 1; not all of them need be known."""

    path: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lines: Lines = field(default_factory=Lines)


class _Unreadable(ValueError):
    """The text is not of its format. The reason quotes nothing of it: it may hold secrets."""


def read_config_file(path: str, origin: str | None = None) -> ConfigFile:
    """Read a ``.toml``, ``.yaml``, ``.yml`` or ``.json`` file. `origin` is where its name comes from, for errors.

    Raises
    ------
    ConfigInvalid
        There is no such file, it cannot be read, or it is not what its name says.
    ImportError
        A YAML file, and the extra ``creche[yaml]`` is not installed.
    """
    parse = _PARSERS.get(Path(path).suffix.lower())
    try:
        if parse is None:
            raise _Unreadable(f"its name must end in {', '.join(_PARSERS)}")
        data, lines = parse(Path(path).read_text(encoding="utf-8-sig"))
        if not isinstance(data, dict):
            raise _Unreadable("sections with settings are needed at the top")
    except OSError as error:
        raise ConfigInvalid("config", path, f"cannot be read: {error.strerror}", origin) from None
    except UnicodeDecodeError as error:
        raise ConfigInvalid("config", path, f"not UTF-8 at byte {error.start}", origin) from None
    except _Unreadable as error:
        raise ConfigInvalid("config", path, str(error), origin) from None
    return ConfigFile(path, cast("dict[str, Any]", data), lines)


# --- TOML -----------------------------------------------------------------------------------------

_KEY = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def _parse_toml(text: str) -> tuple[Any, Lines]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _Unreadable(f"not TOML: {error}") from None
    return data, _first_of_each(_toml_lines(text, data))


def _toml_lines(text: str, data: Mapping[str, Any]) -> Iterator[tuple[Keys, int]]:
    """The keys that begin a line. In an array of tables only its first header is found."""
    table: Keys = ()
    for number, line in _outside_of_long_strings(text):
        header, assignment = _HEADER.match(line), _ASSIGNMENT.match(line)
        if header and _is_in(data, found := _keys(header[1])):
            table = found
            yield table, number
        elif assignment and _is_in(data, found := (*table, *_keys(assignment[1]))):
            yield found, number


def _outside_of_long_strings(text: str) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if not inside:
            yield number, line
        inside ^= (line.count('"""') + line.count("'''")) % 2 == 1


def _keys(dotted: str) -> Keys:
    return tuple(key.strip("\"'") for key in re.findall(_KEY, dotted))


def _is_in(data: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = cast("dict[str, Any]", data)[key]
    return True


# --- JSON -----------------------------------------------------------------------------------------


def _parse_json(text: str) -> tuple[Any, Lines]:
    """With the standard library rather than msgspec: it tells the line of an error, and of two equal keys."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles), {}
    except json.JSONDecodeError as error:
        raise _Unreadable(f"not JSON: {error}") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    double = _first_double(key for key, _ in pairs)
    if double is not None:
        raise _Unreadable(f"a key is there twice: {double!r}")
    return dict(pairs)


# --- YAML -----------------------------------------------------------------------------------------

_MERGE = "tag:yaml.org,2002:merge"  # the key `<<`


def _parse_yaml(text: str) -> tuple[Any, Lines]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("a config file in YAML needs PyYAML: pip install 'creche[yaml]'") from error
    try:
        loader: Any = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        lines = _first_of_each(_yaml_lines(root, set()))  # first: what is constructed has its merges carried out
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as error:  # its own text would quote the line
        line = "" if error.problem_mark is None else f" (at line {error.problem_mark.line + 1})"
        raise _Unreadable(f"not YAML: {error.problem}{line}") from None
    except _Unreadable:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-13-01 is a ValueError
        raise _Unreadable(f"not YAML: {type(error).__name__}") from None


def _yaml_lines(node: Any, seen: set[int], keys: Keys = ()) -> Iterator[tuple[Keys, int]]:
    """The keys of a mapping and of those in it; one that aliases repeat is looked at once.

    What a merge brings in may be written anew, and has the line of the mapping that it is brought into.
    """
    if node.id == "scalar" or id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            yield from _yaml_lines(item, seen, (*keys, str(index)))
        return
    own = [(key, value) for key, value in node.value if key.tag != _MERGE]
    double = _first_double(str(key.value) for key, _ in own)
    if double is not None:
        raise _Unreadable(f"a key is there twice: {double!r} (at line {node.start_mark.line + 1} and after it)")
    for key, value in own:
        here = (*keys, str(key.value))
        yield here, key.start_mark.line + 1
        yield from _yaml_lines(value, seen, here)


# --- both -----------------------------------------------------------------------------------------


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _first_of_each(found: Iterable[tuple[Keys, int]]) -> Lines:
    lines: Lines = {}
    for keys, line in found:
        lines.setdefault(keys, line)
    return lines


_PARSERS: Mapping[str, Callable[[str], tuple[Any, Lines]]] = {
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": _parse_json,
}
