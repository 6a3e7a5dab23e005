"""Configs that the tests load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

import creche
from creche.runtime.config import Config, Seconds, Secret
from creche.runtime.config_files import ConfigFile, Lines
from creche.runtime.configuration import Configuration
from creche.runtime.spec import Environment

NO_VARIABLES: Mapping[str, str] = {}


class Pool(Config, frozen=True, kw_only=True):
    size: Annotated[int, Meta(ge=1)] = 5
    max_age: Seconds | None = None


class Store(Config, frozen=True, kw_only=True):
    """A component's config: in production it is careful."""

    path: str = "store.db"
    mode: Literal["fast", "safe"] = "fast"
    timeout: Seconds = 5.0
    password: Secret = ""
    pool: Pool = Pool()
    hosts: tuple[str, ...] = ("localhost",)
    limits: dict[str, int] = msgspec.field(default_factory=dict)

    @classmethod
    def for_environment(cls, env: Environment) -> Store:
        return Store(mode="safe", pool=Pool(size=20)) if env == "production" else Store()

    def check(self) -> None:
        if self.pool.max_age is not None and self.pool.max_age < self.timeout:
            raise creche.ConfigInvalid("$.pool.max_age", self.pool.max_age, "must be at least the timeout")


class Settings(Config, frozen=True, kw_only=True):
    """A service's config: sections, and settings of its own."""

    db: Store
    cache: Store
    server: creche.ServerConfig
    name: str = "service"
    debug: bool = False


def configuration(
    data: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] = NO_VARIABLES,
    env: Environment = "development",
    prefix: str = "CRECHE",
) -> Configuration:
    """A configuration out of what a file would say, and of variables. The lines are those of the top-level keys."""
    lines: Lines = {(key,): number for number, key in enumerate(data or {}, 1)}
    file = None if data is None else ConfigFile("c.toml", data, lines)
    return Configuration(env, file, variables, prefix)


def problems_of(made: Configuration) -> list[str]:
    """All that is wrong with it as `Settings`, a line for each."""
    try:
        made.load(type=Settings)
    except creche.ConfigInvalid as invalid:
        return _lines_of(invalid)
    return []


def _lines_of(invalid: creche.ConfigInvalid) -> list[str]:
    lines = str(invalid).splitlines()
    assert "hunter2" not in str(invalid)
    assert lines[1:] == [str(problem) for problem in invalid.problems[1:]]
    return lines


def write(folder: Path, text: str, name: str = "config.toml") -> str:
    """The path of a file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)
