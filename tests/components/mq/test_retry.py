"""The retry policy: what follows which failure, and after how long."""

from __future__ import annotations

import random
from typing import Any

import pytest

import creche
from creche.components import mq as m
from creche.components.mq.retry import Action


class Poison(Exception):
    retry_after: Any = None


class WorsePoison(Poison):
    pass


DOWN = m.Unavailable("db", "down", retry_after=7.0)
LOST = creche.OutcomeUnknown("root/db")


@pytest.mark.parametrize(
    ("error", "failures", "action"),
    [
        (ValueError(), 1, "retry"),
        (ValueError(), 2, "retry"),
        (ValueError(), 3, "dead_letter"),
        (Poison(), 1, "dead_letter"),
        (WorsePoison(), 1, "drop"),
        (DOWN, 0, "retry"),
        (DOWN, 99, "retry"),
        (LOST, 99, "retry"),
        (creche.DomainError(1, "no"), 1, "retry"),
        (creche.ActorStopped("root/x"), 1, "drop"),
        (KeyError(), 99, "dead_letter"),
    ],
)
def test_what_follows_a_failure(error: Exception, failures: int, action: Action) -> None:
    """The nearest class in `on` decides; else retry up to the attempts, and weather for ever."""
    policy = m.RetryPolicy(
        attempts=3,
        on={Poison: "dead_letter", WorsePoison: "drop", creche.ActorStopped: "drop", LookupError: "retry"},
    )
    assert policy.action(error, failures) == action


def test_weather_does_not_count() -> None:
    """Failed calls and `Unavailable` are nobody's poison."""
    policy = m.RetryPolicy()
    assert policy.counts(ValueError())
    assert not policy.counts(DOWN)
    assert not policy.counts(LOST)
    assert not policy.counts(ExceptionGroup("of a nursery", [LOST, ExceptionGroup("of another", [DOWN, LOST])]))
    assert policy.counts(ExceptionGroup("of a nursery", [LOST, ValueError()]))


def test_delays_grow_and_heed_the_hint() -> None:
    """As the backoff says, but not before the error says that it is worth it; the cap holds for hints too."""
    policy = m.RetryPolicy(backoff=creche.Backoff(first=1.0, factor=2.0, cap=5.0, jitter=0.0, free=0))
    rng = random.Random(1)
    assert [policy.delay(ValueError(), tries, rng) for tries in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]
    assert policy.delay(DOWN, 1, rng) == 5.0
    assert policy.delay(m.Unavailable("db", "down", retry_after=3.0), 1, rng) == 3.0
    assert policy.delay(creche.NotDelivered("root/x", "crash", 2.5), 1, rng) == 2.5


@pytest.mark.parametrize(
    ("hint", "delay"),
    [(3, 3.0), (0.5, 1.0), (99.0, 5.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), ("3", 1.0), (True, 1.0)],
)
def test_an_error_of_the_handlers_own_may_say_when(hint: Any, delay: float) -> None:
    """As one of a limiter or of a remote service does; nonsense is no hint."""
    policy = m.RetryPolicy(backoff=creche.Backoff(first=1.0, factor=2.0, cap=5.0, jitter=0.0, free=0))
    error = Poison()
    error.retry_after = hint
    assert policy.delay(error, 1, random.Random(1)) == delay
