"""What counts as growth in a soak."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from examples.message_service.soak import MAY_GROW, Clock, Cpu, Sample, growth

STEADY = Sample(0.0, 0, 0, memory_mb=70.0, descriptors=30, threads=4, tasks=40, p50_ms=4.0, p99_ms=40.0, cpu_ms=5.0)


def test_what_stays_as_it_was_is_flat() -> None:
    assert growth([STEADY] * 60) == []


def test_growth_while_it_warms_up_is_none() -> None:
    assert growth([replace(STEADY, memory_mb=20.0 + 5 * number) for number in range(10)] + [STEADY] * 50) == []


@pytest.mark.parametrize("name", MAY_GROW)
def test_what_grows_all_along_is_found(name: str) -> None:
    samples = [replace(STEADY, **{name: getattr(STEADY, name) * (1 + number)}) for number in range(60)]
    assert [line.split(":")[0] for line in growth(samples)] == [name]


def test_latencies_are_those_since_the_last_sample() -> None:
    clock = Clock()
    for milliseconds in range(100):
        clock.note(milliseconds / 1000)
    assert clock.take() == (50.0, 99.0)
    assert clock.take() == (0.0, 0.0)
    assert clock.posted == 100


def test_processor_time_is_that_of_the_process_and_of_all_others() -> None:
    cpu = Cpu(os.getpid())
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    mine, others = cpu.take(posted=10)
    assert mine >= 9  # ms a message; the kernel counts in hundredths of a second
    assert others <= (os.cpu_count() or 1) + 0.5
