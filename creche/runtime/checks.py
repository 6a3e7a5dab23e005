"""Validation of frozen option values, one predicate a line."""

from __future__ import annotations

import inspect
import math
from typing import cast

from .errors import SpecInvalid


def require(owner: object, name: str, holds: bool, fix: str) -> None:
    """Raise `SpecInvalid` for the field `name` of `owner` unless it `holds`; `fix` says what it should be."""
    if not holds:
        raise SpecInvalid(f"{type(owner).__name__}.{name}", getattr(owner, name), fix)


def require_one_of(owner: object, name: str, choices: tuple[object, ...]) -> None:
    """Raise `SpecInvalid` unless the field `name` of `owner` is one of `choices`."""
    if getattr(owner, name) not in choices:
        require(owner, name, False, f"one of {', '.join(map(repr, choices))}")


def require_number(owner: object, name: str, *, at_least: float = 0.0, whole: bool = False) -> None:
    """Raise `SpecInvalid` unless the field `name` of `owner` is a number (`whole` if asked) of at least `at_least`."""
    value: object = getattr(owner, name)
    kinds = int if whole else (int, float)
    holds = isinstance(value, kinds) and not isinstance(value, bool) and value >= at_least  # False for NaN
    if not holds:
        require(owner, name, False, f"a {'whole ' if whole else ''}number of at least {at_least:g}")


def require_seconds(name: str, value: object, *, above_zero: bool = False, or_never: bool = False) -> None:
    """Raise `SpecInvalid` unless `value` is a number of seconds, not negative; above zero, or infinite, as asked."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not (number >= 0 and (number or not above_zero) and (or_never or math.isfinite(number))):
        raise SpecInvalid(name, value, f"a number of seconds, {'above 0' if above_zero else '0 or more'}")


def require_type(owner: object, name: str, kind: type[object]) -> None:
    """Raise `SpecInvalid` unless the field `name` of `owner` is a `kind`."""
    require(owner, name, isinstance(getattr(owner, name), kind), f"a creche.{kind.__name__}")


def require_texts(owner: object, name: str, fix: str) -> None:
    """Raise `SpecInvalid` unless the field `name` of `owner` is a tuple of texts."""
    values: object = getattr(owner, name)
    texts = isinstance(values, tuple) and all(isinstance(value, str) for value in cast("tuple[object, ...]", values))
    require(owner, name, texts, fix)


def require_function(where: str, fn: object) -> None:
    """Raise TypeError, with what to write instead, unless `fn` can be called."""
    if inspect.iscoroutine(fn):
        fn.close()  # else Python warns later that it was never awaited
        raise TypeError(f"{where} takes an async function and its arguments, not a call of it: write (fn, *args)")
    if not callable(fn):
        raise TypeError(f"{where} takes an async function, not {fn!r}")
