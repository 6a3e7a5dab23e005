"""Frozen, validated configuration values.

A config is a frozen `msgspec.Struct`. msgspec checks types and constraints only while decoding, so a config that was
built in Python is sent through the same gate by `validated` before anything starts. The gate goes field by field, where
msgspec would stop at the first error, so that people see all that is wrong at once. It never tells a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec

from .config_fields import (
    MASK,
    Field,
    fields_of,
    is_seconds,
    is_secret_name,
    item_type,
    parse_duration,
    shown,
    struct_in,
    value_type,
)
from .config_fields import PositiveSeconds as PositiveSeconds
from .config_fields import Seconds as Seconds
from .config_fields import Secret as Secret
from .errors import ConfigInvalid

if TYPE_CHECKING:
    from .spec import Environment


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all component configs: immutable, keyword-only, unknown keys refused, secrets left out of its `repr`."""

    def check(self) -> None:
        """Rules across fields. Override; raise `ConfigInvalid` with the path to the offending value."""

    @classmethod
    def for_environment(cls, env: Environment) -> Self | None:
        """The defaults of an environment. Override where they differ from the fields' own, which None stands for."""
        return None

    def __repr__(self) -> str:
        fields = fields_of(type(self)).values()
        values = (f"{field.name}={_shown_in_repr(field, getattr(self, field.name))!r}" for field in fields)
        return f"{type(self).__name__}({', '.join(values)})"


C = TypeVar("C", bound=Config)


def _shown_in_repr(field: Field, value: Any) -> Any:
    return value if isinstance(value, Config) else shown(field, value)


def validated(config: C) -> C:
    """The same config, checked: types and constraints of each field, then `check()`. Raises `ConfigInvalid`."""
    return from_builtins(msgspec.to_builtins(config), type(config))


def from_builtins(data: Any, kind: type[C]) -> C:
    """A config out of plain dicts, lists, strings and numbers.

    Raises `ConfigInvalid` with the path to the offending value; its `problems` are all that were found.
    """
    config, problems = decode(data, kind)
    if config is None:
        raise joined(problems)
    return config


def decode(data: Any, kind: type[C], path: str = "$") -> tuple[C | None, list[ConfigInvalid]]:
    """A config, or what is wrong with `data`: never both. Paths begin with `path`."""
    decoder = _Decoder()
    plain = decoder.section(data, kind, path)
    if decoder.problems:
        return None, decoder.problems
    try:
        config = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:  # its `__post_init__` refused
        return None, [ConfigInvalid(path, plain, str(error).partition(" - at `$")[0])]
    problems = [_secrets_masked(problem, kind, path) for problem in _rules_broken(config)]
    return (None, problems) if problems else (config, [])


def default_config(kind: type[C], env: Environment) -> C:
    """The config that an environment has when nothing is configured. Raises `ConfigInvalid` for required fields."""
    return from_builtins(default_values(kind, env), kind)


def default_values(kind: type[msgspec.Struct], env: Environment) -> dict[str, Any]:
    """The defaults of an environment as plain data, required fields left out.

    A section without a default of its own has those of its type.
    """
    own = kind.for_environment(env) if issubclass(kind, Config) else None
    if own is not None:
        return cast("dict[str, Any]", msgspec.to_builtins(own))
    values: dict[str, Any] = {}
    for info in msgspec.structs.fields(kind):
        section = info.type if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct) else None
        if info.default is not msgspec.NODEFAULT:
            values[info.encode_name] = msgspec.to_builtins(info.default)
        elif info.default_factory is not msgspec.NODEFAULT:
            values[info.encode_name] = msgspec.to_builtins(info.default_factory())
        elif section is not None:
            values[info.encode_name] = default_values(section, env)
    return values


def joined(problems: Sequence[ConfigInvalid]) -> ConfigInvalid:
    """One error that tells several."""
    first, *others = problems
    return ConfigInvalid(first.path, first.value, first.reason, first.origin, others)


def no_such(what: str, name: str, known: Sequence[str], prefix: str = "") -> str:
    """The reason for refusing a name, with the one that was probably meant; `prefix` is common to all of them."""
    start = len(prefix)  # left out of the comparison: it would make any two look alike
    near = get_close_matches(name[start:], [other[start:] for other in known], n=1, cutoff=0.7)
    if near:
        return f"no such {what}; did you mean {prefix + near[0]!r}?"
    few = len(known) <= 20
    return f"no such {what}; there are {', '.join(known) or 'none'}" if few else f"no such {what}"


# --- the gate -------------------------------------------------------------------------------------


class _Decoder:
    """Plain data in, plain data out that msgspec will take; what it would not take is gathered in `problems`."""

    def __init__(self) -> None:
        self.problems: list[ConfigInvalid] = []

    def section(self, data: Any, kind: type[msgspec.Struct], path: str) -> Any:
        if not isinstance(data, Mapping):
            self.problems.append(ConfigInvalid(path, MASK, f"a section with settings is needed, not {_noun(data)}"))
            return None
        values = cast("Mapping[str, Any]", data)
        fields = fields_of(kind)
        self._refuse_unknown(values, [*fields, kind.__struct_config__.tag_field], path)
        plain = {key: value for key, value in values.items() if key not in fields}
        for field in fields.values():
            if field.key in values:
                plain[field.key] = self._field(values[field.key], field, f"{path}.{field.key}")
            elif field.required:
                self.problems.append(ConfigInvalid(f"{path}.{field.key}", None, "a value is required"))
        return plain

    def _refuse_unknown(self, values: Mapping[Any, Any], known: Sequence[str | None], path: str) -> None:
        names = [name for name in known if name is not None]
        for key in values:
            if key not in names:  # its value is not shown: it may be a secret under a mistyped name
                self.problems.append(ConfigInvalid(f"{path}.{key}", MASK, no_such("setting", str(key), names)))

    def _field(self, value: Any, field: Field, path: str) -> Any:
        before = len(self.problems)
        plain: Any = self._value(value, field.type, path)
        if len(self.problems) == before:
            try:
                msgspec.convert(plain, field.type)
            except msgspec.ValidationError as error:
                reason, _, where = str(error).partition(" - at `$")
                where = where.rstrip("`")
                self.problems.append(ConfigInvalid(path + where, _at(plain, where), reason))
        if field.secret:
            self.problems[before:] = map(_masked, self.problems[before:])
        return plain

    def _value(self, value: Any, kind: Any, path: str) -> Any:
        """The value with the durations in it as numbers and the sections in it examined."""
        if isinstance(value, str) and is_seconds(kind):
            return self._seconds(value, path)
        if isinstance(value, Mapping):
            return self._mapping(cast("Mapping[str, Any]", value), kind, path)
        if isinstance(value, (list, tuple)):
            return self._list(cast("Sequence[Any]", value), item_type(kind), path)
        return value

    def _list(self, value: Sequence[Any], items: Any | None, path: str) -> Any:
        if items is None:
            return value
        return [self._value(item, items, f"{path}[{index}]") for index, item in enumerate(value)]

    def _mapping(self, value: Mapping[Any, Any], kind: Any, path: str) -> Any:
        section, values = struct_in(kind), value_type(kind)
        if section is not None:
            return self.section(value, section, path)
        if values is not None:
            return {key: self._value(item, values, f"{path}.{key}") for key, item in value.items()}
        return value

    def _seconds(self, text: str, path: str) -> Any:
        try:
            return parse_duration(text)
        except ValueError as error:
            self.problems.append(ConfigInvalid(path, text, str(error)))
            return text


def _noun(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


# --- rules across fields --------------------------------------------------------------------------


def _rules_broken(value: Any, path: str = "$") -> Iterator[ConfigInvalid]:
    """What `check()` has against a config and the configs in it, inner ones first. Paths begin at the outermost."""
    inner = [problem for step, item in _inside(value) for problem in _rules_broken(item, path + step)]
    yield from inner
    if isinstance(value, Config) and not inner:  # its rules may rely on those of its parts
        try:
            value.check()
        except ConfigInvalid as found:
            for problem in found.problems:
                yield ConfigInvalid(path + problem.path.removeprefix("$"), problem.value, problem.reason)


def _inside(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        return [(f".{key}", getattr(value, field.name)) for key, field in fields_of(type(value)).items()]
    if isinstance(value, Mapping):
        return [(f".{key}", item) for key, item in cast("Mapping[str, Any]", value).items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(cast("Sequence[object]", value))]
    return []


# --- paths and secrets ----------------------------------------------------------------------------


def steps_of(path: str) -> list[str | int]:
    """``$.brokers[0].host`` -> ``["brokers", 0, "host"]``."""
    found = re.findall(r"\.?([^.\[\]]+)|\[(\d+)\]", path.removeprefix("$"))
    return [int(index) if index else key for key, index in found]


def _at(data: Any, path: str) -> Any:
    """The value that a path leads to, for the message; as far as it can be followed."""
    for step in steps_of(path):
        try:
            data = data[step]
        except (LookupError, TypeError):
            break
    return data


def _secrets_masked(problem: ConfigInvalid, kind: type[msgspec.Struct], root: str) -> ConfigInvalid:
    """The problem with its path from `root`, and masked if it leads to a secret."""
    secret = _leads_to_secret(problem.path, kind)
    moved = ConfigInvalid(root + problem.path.removeprefix("$"), problem.value, problem.reason)
    return _masked(moved) if secret else moved


def _leads_to_secret(path: str, kind: Any) -> bool:
    for step in steps_of(path):
        section = struct_in(kind)
        if isinstance(step, str) and is_secret_name(step):
            return True
        if section is not None and step in fields_of(section):
            field = fields_of(section)[str(step)]
            if field.secret:
                return True
            kind = field.type
        else:
            kind = item_type(kind) or value_type(kind)
    return False


def _masked(problem: ConfigInvalid) -> ConfigInvalid:
    """The same without the value, in the reason too."""
    if problem.value is None:
        return problem
    told = str(problem.value) in problem.reason
    return ConfigInvalid(problem.path, MASK, "not a valid value" if told else problem.reason, problem.origin)
