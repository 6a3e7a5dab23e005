"""The configuration of the cache, and the policy of loads."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.checks import require, require_number
from ...runtime.config import Config as BaseConfig
from ...runtime.config import PositiveSeconds, Seconds
from ...runtime.spec import Environment

AtLeastOne = Annotated[int, Meta(ge=1)]

_DAY = 86_400.0


class LoadPolicy(BaseConfig, frozen=True, kw_only=True):
    """How `get_or_load` keeps values fresh, and what it does when a load is slow or fails. Times are in seconds.

    Parameters
    ----------
    jitter
        The part of its `ttl` by which an entry may expire sooner, at random, so that what was stored together does not
        expire together. 0: none.
    early
        How eagerly entries are refreshed before they expire, by one caller at random while all get the present value:
        the beta of *Optimal probabilistic cache stampede prevention* (Vattani, Chierichetti, Lowenstein, VLDB 2015).
        1 is the paper's optimum, more is earlier, 0 is never.
    stale_for
        How long an entry is kept beyond its `ttl`, to be served when a load is slow or fails. 0: not at all.
    soft_timeout
        Where there is a stale value, callers wait so long for a load; then they get that, and the load goes on. None:
        until it is done.
    hard_timeout
        A load is cancelled after so long. None: never.
    retry_after
        After a failed load the stale value is served for so long before another load is tried.

    Raises
    ------
    SpecInvalid
        A value is out of range.
    """

    jitter: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    early: Annotated[float, Meta(ge=0)] = 1.0
    stale_for: Annotated[Seconds, Meta(ge=0)] = 0.0
    soft_timeout: Annotated[Seconds, Meta(ge=0)] | None = None
    hard_timeout: PositiveSeconds | None = 30.0
    retry_after: Annotated[Seconds, Meta(ge=0)] = 30.0

    def __post_init__(self) -> None:
        # A policy is given to a call as it is; only those in a `Config` pass the gate of `validated`.
        require_number(self, "jitter")
        require(self, "jitter", self.jitter < 1, "a fraction, less than 1")
        for name in ("early", "stale_for", "retry_after"):
            require_number(self, name)
        for name in ("soft_timeout", "hard_timeout"):
            if getattr(self, name) is not None:
                require_number(self, name)
        soft, hard = self.soft_timeout, self.hard_timeout
        sensible = hard is None or (hard > 0 and (soft is None or soft < hard))
        require(self, "hard_timeout", sensible, "more than 0, and more than the soft timeout")


class Config(BaseConfig, frozen=True, kw_only=True):
    """Where entries live, how many, and for how long. Times are in seconds.

    Parameters
    ----------
    backend
        ``embedded``: in this process, without a server.
    key_prefix
        Goes before each key, those of locks included, so that several services can share a server. None: the name of
        the app or runtime, and a colon.
    default_ttl
        For whatever is stored without a `ttl` of its own by `set`, `set_many`, `set_if_absent`, `get_and_set` and
        `get_or_load`. None: it never expires.
    max_entries
        The most keys that are kept. A hash, a set or a sorted set is one.
    max_bytes
        If given, what keys and values may take in memory, about; it then bounds the cache instead of `max_entries`.
    codec
        How values that are neither bytes nor text nor whole numbers are stored.
    loading
        The policy of `get_or_load` where a call names no other.
    """

    backend: Literal["embedded"] = "embedded"
    key_prefix: str | None = None
    default_ttl: PositiveSeconds | None = _DAY
    max_entries: AtLeastOne = 10_000
    max_bytes: Annotated[int, Meta(ge=1024)] | None = None
    codec: Literal["json", "msgpack"] = "json"
    loading: LoadPolicy = LoadPolicy()

    @classmethod
    def for_environment(cls, env: Environment) -> Config:
        """See `default_config`."""
        return default_config(env)


def default_config(env: Environment) -> Config:
    """In production memory is bounded by bytes, and loads fall back on values that are up to an hour stale."""
    if env == "production":
        return Config(max_bytes=256 * 2**20, loading=LoadPolicy(stale_for=3600.0))
    return Config(key_prefix="dev:")
