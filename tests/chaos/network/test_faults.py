"""The values: what is refused, and that JSON brings back what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import creche
from creche.chaos.network import (
    Blackhole,
    Corrupt,
    Cut,
    Fault,
    HalfOpen,
    Latency,
    Rate,
    Reset,
    Slicer,
    SlowClose,
    Stall,
    tcp_proxy,
)
from creche.chaos.network.faults import AnyFault

SERVER = ("127.0.0.1", 6379)
WRONG: Any = "wrong"  # for what the type checkers would not let pass


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Latency(-1.0), "Latency.seconds = -1.0: a number of at least 0"),
        (lambda: Latency(float("inf")), "Latency.seconds = inf: a finite number"),
        (lambda: Latency(0.1, jitter=0.2), "Latency.jitter = 0.2: not more than `seconds`"),
        (lambda: Latency(0.1, toxicity=1.5), "Latency.toxicity = 1.5: a probability"),
        (lambda: Latency(0.1, direction=WRONG), "Latency.direction = 'wrong': one of 'upstream'"),
        (lambda: Rate(0), "Rate.bytes_per_second = 0: more than 0; for nothing at all use Stall"),
        (lambda: HalfOpen(WRONG), "HalfOpen.gone = 'wrong': one of 'server'"),
        (lambda: HalfOpen(direction="upstream"), "HalfOpen.direction = 'upstream': leave it out"),
        (lambda: Reset(1, direction="upstream"), "Reset.direction = 'upstream': leave it out"),
        (lambda: Cut(-1), "Cut.after = -1: a whole number of at least 0"),
        (lambda: Cut(1, how=WRONG), "Cut.how = 'wrong': one of 'reset', 'close'"),
        (lambda: Corrupt(), "Corrupt.at = None: an offset, unless there is a probability"),
        (lambda: Corrupt(1.1), "Corrupt.probability = 1.1: a probability"),
        (lambda: Slicer(0), "Slicer.size = 0: a whole number of at least 1"),
        (lambda: Slicer(4, variation=4), "Slicer.variation = 4: less than `size`"),
        (lambda: SlowClose(float("nan")), "SlowClose.seconds = nan: a number of at least 0"),
    ],
)
def test_a_wrong_value_is_refused_when_the_fault_is_made(make: Callable[[], Fault], complaint: str) -> None:
    with pytest.raises(creche.SpecInvalid) as refused:
        make()
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: tcp_proxy(WRONG), "upstream = 'wrong': host and port"),
        (lambda: tcp_proxy(("127.0.0.1", 0)), "upstream = ('127.0.0.1', 0): host and port"),
        (lambda: tcp_proxy(SERVER, listen=("127.0.0.1", 65536)), "listen = ('127.0.0.1', 65536): host and port"),
        (lambda: tcp_proxy(SERVER, faults=(WRONG,)), "faults = 'wrong': pass faults"),
        (lambda: tcp_proxy(SERVER, buffer=0), "buffer = 0: a whole number of bytes"),
        (lambda: tcp_proxy(SERVER, seed=WRONG), "seed = 'wrong': a whole number"),
    ],
)
def test_a_wrong_proxy_is_refused_when_its_spec_is_made(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(creche.SpecInvalid) as refused:
        make()
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        (Latency(0.1, jitter=0.05), "latency"),
        (Rate(1000, direction="upstream"), "rate_upstream"),
        (Stall(toxicity=0.5), "stall"),
        (Blackhole(name="night"), "night"),
        (HalfOpen("client"), "half_open"),
        (Reset(2.0), "reset"),
        (Cut(17, how="close"), "cut"),
        (Corrupt(at=3), "corrupt"),
        (Slicer(4, variation=1, pause=0.01), "slicer"),
        (SlowClose(1.0, direction="downstream"), "slow_close_downstream"),
    ],
)
def test_every_fault_has_a_name_and_goes_through_json(fault: Fault, key: str) -> None:
    assert fault.key == key
    assert msgspec.json.decode(msgspec.json.encode(fault), type=AnyFault) == fault
