"""Frozen, validated configuration values.

A config is a frozen `msgspec.Struct`. msgspec checks types and constraints only while decoding, so a config that was
built in Python is sent through the same gate by `validated` before anything starts.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from .errors import ConfigInvalid


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all component configs: immutable, keyword-only, unknown keys refused."""

    def check(self) -> None:
        """Rules across fields. Override; raise `ConfigInvalid` with the path to the offending value."""


C = TypeVar("C", bound=Config)


def validated(config: C) -> C:
    """The same config, checked: types and constraints of each field, then `check()`. Raises `ConfigInvalid`."""
    return from_builtins(msgspec.to_builtins(config), type(config))


def from_builtins(data: Any, kind: type[C]) -> C:
    """A config out of plain dicts, lists, strings and numbers.

    Raises `ConfigInvalid` with the path to the offending value.
    """
    try:
        config = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `")
        path = where.rstrip("`") or "$"
        raise ConfigInvalid(path, _at(data, path), reason) from None
    config.check()
    return config


def _at(data: Any, path: str) -> Any:
    """The value that a path such as ``$.server.port`` leads to, for the message; the whole if it leads nowhere."""
    found = data
    for step in path.removeprefix("$").strip(".").split("."):
        if isinstance(found, dict):
            found = cast("dict[str, Any]", found).get(step, found)
    return found
