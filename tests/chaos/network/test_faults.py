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
WRONG_NAME: Any = 5
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
        (lambda: Latency(10**400), f"Latency.seconds = {10**400}: a finite number"),
        (lambda: Stall(name=WRONG_NAME), "Stall.name = 5: a text"),
        (lambda: Stall(toxicity=WRONG), "Stall.toxicity = 'wrong': a number"),
        (lambda: Stall(toxicity=True), "Stall.toxicity = True: a number"),
        (lambda: Latency(WRONG), "Latency.seconds = 'wrong': a number"),
        (lambda: Cut(WRONG), "Cut.after = 'wrong': a whole number"),
        (lambda: Corrupt(at=WRONG), "Corrupt.at = 'wrong': a whole number"),
        (lambda: Slicer(1, pause=WRONG), "Slicer.pause = 'wrong': a number"),
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
        (lambda: tcp_proxy(SERVER, faults=WRONG), "faults = 'wrong': one fault, or a tuple of them"),
        (lambda: tcp_proxy(("h", True)), "upstream = ('h', True): host and port"),
        (lambda: tcp_proxy(("redis..local", 1)), "upstream = ('redis..local', 1): a host whose labels"),
        (lambda: tcp_proxy(("a" * 64 + ".de", 1)), f"upstream = ('{'a' * 64}.de', 1): a host whose labels"),
        (lambda: tcp_proxy(("a\0b", 1)), "upstream = ('a\\x00b', 1): a host whose labels"),
        (lambda: tcp_proxy(SERVER, listen=("a..b", 0)), "listen = ('a..b', 0): a host whose labels"),
        (lambda: tcp_proxy(SERVER, buffer=0), "buffer = 0: a whole number of bytes"),
        (lambda: tcp_proxy(SERVER, seed=WRONG), "seed = 'wrong': a whole number"),
    ],
)
def test_a_wrong_proxy_is_refused_when_its_spec_is_made(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(creche.SpecInvalid) as refused:
        make()
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize("host", ["::1", "fe80::1%lo", "localhost.", "_service.local", "bücher.de", "a" * 63 + ".de"])
def test_every_host_that_may_exist_is_taken(host: str) -> None:
    tcp_proxy((host, 1), listen=(host, 0))


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
