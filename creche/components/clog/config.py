"""What is logged, in which form, and where to."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.config import Config as BaseConfig
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment
from .levels import Level

# Endings of field names, compared without regard to case: `token` also hides `access_token` and
# `X-Auth-Token`.
REDACTED = ("password", "token", "secret", "authorization")


class Config(BaseConfig, frozen=True, kw_only=True):
    """How a service logs.

    Parameters
    ----------
    level
        The lowest level that is written. ``fatal`` is an alias of ``critical``, ``warn`` of ``warning``.
    format
        ``json``: one object per line. ``console``: for people; control characters are escaped.
    output
        ``stdout``, ``stderr``, or the path of a file to append to. Its folder is made when it is missing.
        Nothing is ever deleted.
    color
        Of the console format. None: when the output is a terminal.
    add_source
        Add the file and line of the call as ``source``. Costs about half a line more.
    root_path
        Cut off from the front of ``source``.
    redact
        Endings of field names whose values are replaced by ``***``, at any depth, whatever their case.
    buffer
        How many lines may wait to be written. When they are so many, new ones are dropped and counted.
    """

    level: Level = "info"
    format: Literal["json", "console"] = "json"
    output: Annotated[str, Meta(min_length=1)] = "stdout"
    color: bool | None = None
    add_source: bool = False
    root_path: str = ""
    redact: tuple[str, ...] = REDACTED
    buffer: Annotated[int, Meta(ge=1)] = 10_000

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    def check(self) -> None:
        """An empty ending would hide every field."""
        if "" in self.redact:
            raise ConfigInvalid("$.redact", self.redact, "an empty name would redact every field: remove it")


def default_config(env: Environment) -> Config:
    """Development: everything, for people, with the source of each line. Production: JSON from `info` up."""
    if env == "production":
        return Config(level="info", format="json", color=False)
    return Config(level="debug", format="console", add_source=True)
