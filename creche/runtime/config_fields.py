"""What the type of a config says about its fields: sections inside it, durations, secrets.

A config file, an environment variable and an error message all need to know it, and none of them has the config at hand
that msgspec would make in the end. The annotations are the one place where it is written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as AbstractSequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta

_MARK = "creche"

Seconds = Annotated[float, Meta(extra={_MARK: "seconds"})]
"""A number of seconds. Files and environment variables may also say "30s", "1m30s" or "24h"."""

PositiveSeconds = Annotated[Seconds, Meta(gt=0)]
"""`Seconds`, more than 0."""

Secret = Annotated[str, Meta(extra={_MARK: "secret"})]
"""A text that is never printed, whatever its field is called; see `is_secret_name`."""

MASK = "***"

# Endings of field names, in lower case.
SECRET_NAMES = (
    *("password", "passwd", "passphrase", "secret", "token", "credentials", "authorization", "dsn"),
    *("api_key", "apikey", "access_key", "private_key", "secret_key"),
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")

_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_PLAIN_NUMBER = re.compile(r"\d+(\.\d+)?")

_SEQUENCES = (list, tuple, set, frozenset, AbstractSequence, AbstractSet)
_MAPPINGS = (dict, Mapping)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a config.

    `key` is its name in files, `name` that of the attribute. `struct` is the type of the section that it holds, or None
    when it holds a plain value. A `secret` one is never printed.
    """

    key: str
    name: str
    type: Any
    struct: type[msgspec.Struct] | None
    secret: bool
    required: bool


@cache
def fields_of(kind: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a struct by their names in files.

    Found out once, for it is most of what checking a config costs: not to be changed by who gets it.
    """
    return {
        info.encode_name: Field(
            key=info.encode_name,
            name=info.name,
            type=info.type,
            struct=struct_in(info.type),
            secret=is_secret_name(info.encode_name) or "secret" in set(_marks(info.type, deep=True)),
            required=info.required,
        )
        for info in msgspec.structs.fields(kind)
    }


# --- types ----------------------------------------------------------------------------------------


def is_struct(kind: Any) -> bool:
    """Whether a type is a struct."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a table stands for where the type is `kind`: itself, or the only one of its alternatives."""
    structs = [member for member in alternatives(kind) if is_struct(member)]
    return structs[0] if len(structs) == 1 else None


def alternatives(kind: Any) -> list[Any]:
    """The types that a value may have, without annotations: ``Annotated[float, ...] | None`` -> float, NoneType."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for option in get_args(kind) for member in alternatives(option)]
    return [kind]


def item_type(kind: Any) -> Any | None:
    """The type of the items where a value of the type `kind` may be a list; None where it may not."""
    for member in alternatives(kind):
        if (get_origin(member) or member) in _SEQUENCES:
            items = get_args(member) or (Any,)
            several = get_origin(member) is tuple and items[-1] is not Ellipsis
            return Any if several else items[0]
    return None


def value_type(kind: Any) -> Any | None:
    """The type of the values where a value of the type `kind` may be a mapping; None where it may not."""
    for member in alternatives(kind):
        if (get_origin(member) or member) in _MAPPINGS:
            return (*get_args(member), Any, Any)[1]
    return None


def is_seconds(kind: Any) -> bool:
    """Whether a text in the place of this type is a duration."""
    return str not in alternatives(kind) and "seconds" in set(_marks(kind))


def _marks(kind: Any, *, deep: bool = False) -> Iterator[str]:
    """The marks on a type and on its alternatives; `deep`: those on the items of a container too."""
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        for note in notes:
            if isinstance(note, Meta) and note.extra and _MARK in note.extra:
                yield cast("str", note.extra[_MARK])
        yield from _marks(inner, deep=deep)
    elif deep or get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _marks(part, deep=deep)


# --- durations ------------------------------------------------------------------------------------


def parse_duration(text: str) -> float:
    """``"1m30s"`` -> 90.0. Units are ms, s, m, h and d; a plain number is one of seconds.

    Raises ValueError when the text is no duration.
    """
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration: write seconds, or a number with ms, s, m, h or d such as '30s' or '1m30s'")
    return float(sum(Decimal(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)))


# --- secrets --------------------------------------------------------------------------------------


def is_secret_name(name: str) -> bool:
    """Whether the value of a field of this name is taken for a secret: ``password``, ``access_token``, ``dsn`` ..."""
    return name.lower().replace("-", "_").endswith(SECRET_NAMES)


def masked(value: Any) -> Any:
    """`value` for people: user names and passwords in URLs are masked, and what a table holds is not shown."""
    if isinstance(value, str):
        return _URL_CREDENTIALS.sub(MASK, value)
    if isinstance(value, Mapping):
        return "{...}"
    if isinstance(value, list):
        return [masked(item) for item in cast("list[object]", value)]
    if isinstance(value, tuple):
        return tuple(masked(item) for item in cast("tuple[object, ...]", value))
    return value


def shown(field: Field, value: Any) -> Any:
    """The value of a field for people. A secret one only shows whether it is set."""
    if field.secret:
        return MASK if value else value
    return _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {field.key: shown(field, getattr(value, field.name)) for field in fields_of(type(value)).values()}
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: MASK if item and is_secret_name(str(key)) else _shown(item) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_shown(item) for item in cast("AbstractSequence[object]", value)]
    return masked(value)
