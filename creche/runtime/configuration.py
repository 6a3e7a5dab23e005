"""The configuration of a service: defaults of the environment < file < environment variables, as typed configs.

::

    settings = load_config("config.toml", type=Settings)

`load_config` makes one config out of everything. An app asks section by section instead, while it is declared, and
shows what was wrong in all of them before anything starts. Either way each value's origin can be asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec

from .config import Config, decode, default_config, default_values, joined, no_such, steps_of
from .config_fields import MASK, Field, fields_of, shown
from .config_files import ConfigFile, read_config_file
from .config_sources import ENV_VARIABLE, FILE_VARIABLE, FileSource, Origin, VariableSource
from .errors import ConfigInvalid
from .spec import Environment

C = TypeVar("C", bound=Config)

PREFIX = "CRECHE"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of a configuration: where it stands in it (``db.path``), and where it comes from. Secrets are masked."""

    path: str
    value: Any
    origin: Origin

    def __str__(self) -> str:
        return f"{self.path} = {_as_text(self.value)}  # {self.origin}"


class Configuration:
    """A file and environment variables, read once, over the defaults of an environment. See `read_configuration`.

    `path` is that of the file, None without one.
    """

    def __init__(
        self, env: Environment, file: ConfigFile | None, variables: Mapping[str, str], prefix: str = PREFIX
    ) -> None:
        self.env: Environment = env
        self.path = None if file is None else file.path
        self._variables = VariableSource(variables, prefix)
        self._file = FileSource(file or ConfigFile(""))
        self._sources = (self._file, self._variables)  # a later one wins
        self._made: dict[str, Config | None] = {}  # {section: its config; None: it is wrong}; "" is the whole
        self._in_code: set[str] = set()  # sections
        self._problems: dict[str, Sequence[ConfigInvalid]] = {}  # {section: what is wrong in it}

    # --- making configs ---------------------------------------------------------------------------

    def load(self, *, type: type[C]) -> C:
        """The whole as one config, whose fields are the sections.

        Raises `ConfigInvalid`, with all that was found wrong as its `problems`.
        """
        values, problems = self._values(fields_of(type), default_values(type, self.env))
        config, found = decode(values, type)
        problems = [*problems, *map(self._located, found), *self._left_over(list(fields_of(type)))]
        if config is None or problems:
            raise joined(problems)
        self._made[""] = config
        return config

    def section(self, name: str, *, type: type[C]) -> C:
        """One section. Raises `ConfigInvalid`, with all that was found wrong in it as its `problems`."""
        field = Field(key=name, name=name, type=type, struct=type, secret=False, required=False)
        values, problems = self._values({name: field}, {name: default_values(type, self.env)})
        config, found = decode(values[name], type, f"$.{name}")
        problems = [*problems, *map(self._located, found)]
        self._made[name] = config
        self._in_code.discard(name)
        if config is None or problems:
            raise joined(problems)
        return config

    def config(self, section: str, kind: type[C]) -> C:
        """As `section`, but what is wrong is kept for `check`; what is returned then is the default."""
        try:
            config = self.section(section, type=kind)
        except ConfigInvalid as invalid:
            self._problems[section] = invalid.problems
            return default_config(kind, self.env)
        self._problems.pop(section, None)
        return config

    def given(self, section: str, config: Config) -> None:
        """The code gives this section's component a config of its own: a second one, from here, would be ambiguous.

        A config that replaces another one, as in a test, is not.
        """
        known = section in self._made
        self._made[section] = config
        self._in_code.add(section)
        origins = [origin for source in self._sources if (origin := source.take(section))]
        if origins and not known:
            reason = "the code gives this component a config of its own: drop this one, or that one"
            self._problems[section] = [ConfigInvalid(f"$.{section}", MASK, reason, str(origin)) for origin in origins]

    def has(self, section: str) -> bool:
        """Whether the file or a variable gives anything to a section."""
        return any(source.take(section) for source in self._sources)

    def check(self, known: Sequence[str] = ()) -> None:
        """Raise `ConfigInvalid` for all that is wrong in the sections asked for, and for what nobody asked for.

        `known` are further sections that could have been meant.
        """
        problems = [problem for section in self._problems.values() for problem in section]
        problems += self._left_over(list(dict.fromkeys([*self._made, *known])))
        if problems:
            raise joined(problems)

    def _values(
        self, fields: Mapping[str, Field], defaults: dict[str, Any]
    ) -> tuple[dict[str, Any], list[ConfigInvalid]]:
        values, problems = defaults, list[ConfigInvalid]()
        for source in self._sources:
            given, found = source.read(fields)
            values = _merged(values, given, fields)
            problems += found
        return values, problems

    def _left_over(self, known: Sequence[str]) -> list[ConfigInvalid]:
        return [problem for source in self._sources for problem in source.left_over(known)]

    def _located(self, problem: ConfigInvalid) -> ConfigInvalid:
        """With its origin, or that of its section if the value itself was not given."""
        keys = steps_of(problem.path)
        origins = (self._origin(keys[:length]) for length in range(len(keys), 0, -1))
        origin = next((origin for origin in origins if origin is not None), None)
        return ConfigInvalid(problem.path, problem.value, problem.reason, None if origin is None else str(origin))

    def _origin(self, keys: Sequence[str | int]) -> Origin | None:
        origins = (source.origin(keys) for source in reversed(self._sources))
        return next((origin for origin in origins if origin is not None), None)

    # --- asking -----------------------------------------------------------------------------------

    def settings(self) -> list[Setting]:
        """Every value of the configs made so far, secrets masked."""
        return [setting for section, config in self._made.items() for setting in self._settings_of(section, config)]

    def origin(self, path: str) -> Origin:
        """Where the value at a path such as ``db.path`` comes from. Raises LookupError if there is none."""
        origins = {setting.path: setting.origin for setting in self.settings()}
        if path not in origins:
            raise LookupError(f"{path}: {no_such('setting', path, list(origins))}")
        return origins[path]

    def __str__(self) -> str:
        """Every value, one a line, with its origin."""
        return "\n".join(map(str, self.settings()))

    def _settings_of(self, section: str, config: Config | None) -> Iterator[Setting]:
        keys = (section,) if section else ()
        for path, value in () if config is None else _leaves(config, keys):
            origin = Origin("code") if section in self._in_code else self._origin(path) or Origin("default")
            yield Setting(".".join(path), value, origin)


def load_config(
    path: str | os.PathLike[str] | None,
    *,
    type: type[C],
    env: Environment | None = None,
    variables: Mapping[str, str] | None = None,
    prefix: str = PREFIX,
) -> C:
    """The config of a file and of environment variables, over the defaults of an environment.

    `read_configuration` takes the same, and can tell where each value comes from.

    Parameters
    ----------
    path
        A ``.toml``, ``.yaml``, ``.yml`` or ``.json`` file; None: the one that the variable ``CRECHE_CONFIG`` names, if
        any.
    type
        A `Config` whose fields are the sections, and settings of the service's own.
    env
        Whose defaults; None: that of the variable ``CRECHE_ENV``, else development.
    variables
        None: those of the process.
    prefix
        That the names of variables begin with, before the first underscore.

    Raises
    ------
    ConfigInvalid
        Something is wrong; its `problems` are all that was found.
    ImportError
        A YAML file, and the extra ``creche[yaml]`` is not installed.
    """
    return read_configuration(path, env=env, variables=variables, prefix=prefix).load(type=type)


def read_configuration(
    path: str | os.PathLike[str] | None = None,
    *,
    env: Environment | None = None,
    variables: Mapping[str, str] | None = None,
    prefix: str = PREFIX,
) -> Configuration:
    """Read the file and look at the variables. Parameters and errors are those of `load_config`."""
    given = os.environ if variables is None else variables
    chosen = environment(env, given)
    named = given.get(FILE_VARIABLE) if path is None else os.fspath(path)
    file = read_config_file(named, FILE_VARIABLE if path is None else None) if named else None
    return Configuration(chosen, file, given, prefix)


def environment(env: str | None, variables: Mapping[str, str]) -> Environment:
    """The environment: `env`, else that of ``CRECHE_ENV``, else development. Raises `ConfigInvalid`."""
    name = env or variables.get(ENV_VARIABLE) or "development"
    if name not in ("development", "production"):
        raise ConfigInvalid("env", name, "use 'development' or 'production'", None if env else ENV_VARIABLE)
    return cast("Environment", name)  # pyright: ignore[reportUnnecessaryCast]  # mypy does not narrow by `in`


def _merged(base: Mapping[str, Any], over: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Sections are merged field by field; everything else, lists and mappings too, is replaced."""
    result = dict(base)
    for key, value in over.items():
        below, struct = result.get(key), fields[key].struct if key in fields else None
        if struct is not None and isinstance(below, Mapping) and isinstance(value, Mapping):
            tables = cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value)
            result[key] = _merged(*tables, fields_of(struct))
        else:
            result[key] = value
    return result


def _leaves(config: msgspec.Struct, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in fields_of(type(config)).values():
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct) and not field.secret:
            yield from _leaves(value, (*keys, field.key))
        else:
            yield (*keys, field.key), shown(field, value)


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
