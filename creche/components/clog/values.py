"""Field values as plain data: nothing that a caller passes may break a line, or keep it from being written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

HIDDEN = "***"
_PLAIN = frozenset({str, bool, float, type(None)})
_DEEPEST = 32  # containers within one another
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1  # what JSON encoders and log stores take as integers


class Values:
    """Makes values plain, and hides those of secret fields. Pure apart from a bounded memo."""

    def __init__(self, redact: tuple[str, ...], unknown: Callable[[Any], Any]) -> None:
        """`redact` are endings of names; `unknown` makes plain what nothing else here knows, and never raises."""
        self._endings = tuple(ending.lower() for ending in redact)
        self._unknown = unknown
        # Names are mostly constants of the code, so few are ever computed twice; the bound is for those that
        # are data.
        self.hides: Callable[[str], bool] = functools.lru_cache(maxsize=1024)(self._hides)

    def plain(self, name: str, value: object) -> object:
        """`value` as strings, numbers, booleans, None, lists and dicts; ``***`` if the name says that it is secret."""
        if self.hides(name):
            return HIDDEN
        if type(value) in _PLAIN:
            return value
        if type(value) is int:
            return bounded(value)
        return self._converted(value, set(), _DEEPEST)

    def _converted(self, value: object, met: set[int], deepest: int) -> object:
        try:
            return self._redacted(msgspec.to_builtins(value, str_keys=True, enc_hook=self._foreign))
        except Exception:  # a cycle, keys of a strange type, an attribute that raises
            return self._by_parts(value, met, deepest)

    def _redacted(self, value: object) -> object:
        """Inside what has been converted: there are no other containers than these two."""
        if type(value) is dict:
            fields = cast("dict[str, object]", value)
            return {str(key): HIDDEN if self.hides(key) else self._redacted(item) for key, item in fields.items()}
        if type(value) is list or type(value) is tuple:
            return [self._redacted(item) for item in cast("Sequence[object]", value)]
        if type(value) is int:
            return bounded(value)
        return value if type(value) in _PLAIN else safe_text(value)

    def _by_parts(self, value: object, met: set[int], deepest: int) -> object:
        """What can be shown of something that cannot be converted as a whole: its `repr` would tell what is hidden.

        Each such thing is shown once, as in a cycle, so that the work is bounded.
        """
        if id(value) in met or not deepest:
            return "..."
        met.add(id(value))
        try:
            parts = _parts_of(value)
        except Exception as broken:
            return f"<{type(value).__name__}: raised {type(broken).__name__}>"
        if parts is None:
            return safe_repr(value)
        if isinstance(parts, list):
            return [self._converted(item, met, deepest - 1) for item in parts]
        return {
            name: HIDDEN if self.hides(name) else self._converted(item, met, deepest - 1)
            for name, item in parts.items()
        }

    def _foreign(self, value: Any) -> Any:
        """One step towards plain data, for what msgspec does not know. Subclasses of plain types are those types."""
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, (int, float)):
            return int(value) if isinstance(value, int) else float(value)
        if isinstance(value, Mapping):
            return dict(cast("Mapping[object, object]", value))
        return self._unknown(value)

    def _hides(self, name: str) -> bool:
        return name.lower().endswith(self._endings)


def _parts_of(value: object) -> dict[str, object] | list[object] | None:
    """What a container or a record consists of; None if it is neither. May raise anything."""
    if isinstance(value, Mapping):
        return {safe_text(key): item for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("Iterable[object]", value))
    names = _names_of_fields(type(value))
    return None if names is None else {name: _attribute(value, name) for name in names}


def _names_of_fields(kind: type[Any]) -> Sequence[str] | None:
    """Of a dataclass, a msgspec.Struct, or a class of attrs."""
    for fields in ("__dataclass_fields__", "__struct_fields__"):
        if hasattr(kind, fields):
            return tuple(getattr(kind, fields))
    return [field.name for field in kind.__attrs_attrs__] if hasattr(kind, "__attrs_attrs__") else None


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except Exception as broken:
        return f"<raised {type(broken).__name__}>"


def bounded(number: int) -> int | str:
    """An integer that every reader of the line can take; as text if it is larger."""
    return number if _LOWEST <= number <= _HIGHEST else str(number)


def safe_repr(value: object) -> str:
    """`repr`, or the reason why there is none."""
    try:
        return repr(value)
    except Exception as broken:
        return f"<{type(value).__name__}: repr raised {type(broken).__name__}>"


def safe_text(value: object) -> str:
    """`str`, or the reason why there is none."""
    try:
        return str(value)
    except Exception as broken:
        return f"<{type(value).__name__}: str raised {type(broken).__name__}>"


def encodable(text: str) -> str:
    """`text` with lone surrogates escaped, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
