"""What is logged, in which form, and where to."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.config_fields import SECRET_NAMES
from ...runtime.errors import ConfigInvalid
from ...runtime.spec import Environment
from .levels import Level

# Endings of field names, compared without regard to case: `token` also hides `access_token` and
# `X-Auth-Token`.
REDACTED = SECRET_NAMES

# What is settled when the component starts; everything else may change while it runs.
FIXED = ("format", "output", "color", "buffer", "rotation", "capture_logging")


class Sampling(BaseConfig, frozen=True, kw_only=True):
    """Which of many equal lines are written. Lines are equal in level, namespace and message.

    Parameters
    ----------
    first
        So many of them are written in each `tick`, and then
    thereafter
        every so-manieth; 0: none.
    tick
        Seconds until the count begins anew.
    """

    first: Annotated[int, Meta(ge=1)] = 100
    thereafter: Annotated[int, Meta(ge=0)] = 100
    tick: PositiveSeconds = 1.0


class Rotation(BaseConfig, frozen=True, kw_only=True):
    """When a file is set aside, and what becomes of those that were. A backup is named by the time, in UTC.

    Parameters
    ----------
    max_size
        In bytes: a line that does not fit any more begins a new file.
    max_backups
        So many are kept; the oldest are deleted. 0: any number.
    max_age
        Seconds after which a backup is deleted. 0: never.
    compress
        Backups are compressed with gzip.
    """

    max_size: Annotated[int, Meta(ge=1024)] = 100 * 1024 * 1024
    max_backups: Annotated[int, Meta(ge=0)] = 3
    max_age: Annotated[Seconds, Meta(ge=0)] = 7 * 86400.0
    compress: bool = False


class Config(BaseConfig, frozen=True, kw_only=True):
    """How a service logs.

    Parameters
    ----------
    level
        The lowest level that is written. ``fatal`` is an alias of ``critical``, ``warn`` of ``warning``.
    levels
        Levels of namespaces, and of all below them, that differ from it: ``{"http": "warning"}``.
    format
        ``json``: one object per line. ``console``: for people; control characters are escaped.
    output
        ``stdout``, ``stderr``, the path of a file to append to, or ``logging``: each line becomes a record of the
        standard library's logging. A file's folder is made when it is missing.
    color
        Of the console format. None: when the output is a terminal.
    add_source
        Add the file and line of the call as ``source``. Costs about half a line more.
    root_path
        Cut off from the front of ``source``.
    redact
        Endings of field names whose values are replaced by ``***``, at any depth, whatever their case.
    full_tracebacks
        Keep the frames of creche and Trio in tracebacks.
    buffer
        How many lines may wait to be written. When they are so many, new ones are dropped and counted.
    sampling
        Leave out some of many equal lines. None: write them all.
    flight_recorder
        So many of the latest lines of each actor that its level or sampling leaves out are kept in memory, and
        written when it crashes. 0: none. Each such line then costs about as much as one that is written.
    rotation
        Of a file. None: it is never set aside, and nothing is ever deleted.
    capture_logging
        Take what the standard library's logging reports, by a handler of its root logger.
    """

    level: Level = "info"
    levels: dict[str, Level] = field(default_factory=dict[str, Level])
    format: Literal["json", "console"] = "json"
    output: Annotated[str, Meta(min_length=1)] = "stdout"
    color: bool | None = None
    add_source: bool = False
    root_path: str = ""
    redact: tuple[str, ...] = REDACTED
    full_tracebacks: bool = False
    buffer: Annotated[int, Meta(ge=1)] = 10_000
    sampling: Sampling | None = None
    flight_recorder: Annotated[int, Meta(ge=0)] = 0
    rotation: Rotation | None = None
    capture_logging: bool = True

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)

    def check(self) -> None:
        """An empty ending would hide every field; only files rotate; a record of the library is made from JSON."""
        if "" in self.redact:
            raise ConfigInvalid("$.redact", self.redact, "an empty name would redact every field: remove it")
        if self.rotation is not None and self.output in ("stdout", "stderr", "logging"):
            raise ConfigInvalid("$.rotation", self.output, "only a file rotates: name one as output, or drop it")
        if self.output == "logging" and self.format != "json":
            raise ConfigInvalid("$.format", self.format, "with output 'logging' it must be 'json'")


def require_changeable(old: Config, new: Config) -> None:
    """Raise `ConfigInvalid` if `new` differs from `old` in what is settled at the start."""
    for name in FIXED:
        if getattr(old, name) != getattr(new, name):
            reason = f"is settled when the component starts, and was {getattr(old, name)!r}: restart the service"
            raise ConfigInvalid(f"$.{name}", getattr(new, name), reason)


def default_config(env: Environment) -> Config:
    """Development: everything, for people, with the source of each line. Production: JSON from `info` up."""
    if env == "production":
        return Config(level="info", format="json", color=False)
    return Config(level="debug", format="console", add_source=True)
