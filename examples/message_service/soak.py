"""``make soak``: the live service under its killer for as long as it is told, and a look at whether it stays as it was.

``python -m examples.message_service.soak --for 3600`` posts at a steady rate, and takes samples: memory, descriptors,
threads and tasks of the service's process, and for what was posted since the last sample its latency and the service's
CPU time a message. At the end the audit of the demo must hold, and the last third of the samples must look like the
first, after a time to warm up. Latency says nothing on a machine that others use: how many cores they took is told too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

import h11
import msgspec
import trio

from .audit import audit, counted_so_far, receipts_in
from .client import Poster, Receipt, lines_of_text
from .demo import Plan, ServiceProcess, service_process
from .http_client import HttpClient

SAMPLES = 60
WARM_UP = 0.2  # the share of the samples that is not looked at
LINES = 2000  # of text, posted over and over
SETTLE_WITHIN = 60.0


@dataclass(frozen=True)
class Sample:
    """The service at one moment, and what was posted since the last one. Latencies are in milliseconds.

    `cpu_ms` is the service's processor time a message; `others` the cores that neither the service nor we kept busy.
    """

    seconds: float
    posted: int
    restarts: int
    memory_mb: float
    descriptors: int
    threads: int
    tasks: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    others: float = 0.0


# What may grow from the first third to the last, as a factor and beyond that: else there is a leak.
MAY_GROW: dict[str, tuple[float, float]] = {
    "memory_mb": (1.10, 8.0),
    "descriptors": (1.0, 6.0),
    "threads": (1.0, 3.0),
    "tasks": (1.0, 8.0),
    "p50_ms": (1.5, 2.0),
    "p99_ms": (2.0, 20.0),
    "cpu_ms": (1.2, 1.0),
}


def growth(samples: Sequence[Sample]) -> list[str]:
    """What has grown by more than it may, a line each: medians of the first third, after the warm-up, and the last."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(warm) // 3)
    found: list[str] = []
    for name, (factor, more) in MAY_GROW.items():
        first, last = (
            statistics.median(getattr(sample, name) for sample in some) for some in (warm[:third], warm[-third:])
        )
        if last > first * factor + more:
            found.append(f"{name}: from {first:g} to {last:g}")
    return found


class Clock:
    """Latencies since the last sample."""

    def __init__(self) -> None:
        self.posted = 0
        self._latencies: list[float] = []

    def note(self, seconds: float) -> None:
        """One message has been accepted, after so long, retries included."""
        self.posted += 1
        self._latencies.append(seconds * 1000)

    def take(self) -> tuple[float, float]:
        """p50 and p99 since the last time, in milliseconds."""
        some, self._latencies = sorted(self._latencies) or [0.0], []
        return some[len(some) // 2], some[min(len(some) - 1, int(len(some) * 0.99))]


class Cpu:
    """Processor time since the last sample: of the service, and of all that is neither it nor this process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._read()

    def take(self, posted: int) -> tuple[float, float]:
        """The service's milliseconds a message, if `posted` were posted since the last time; cores others kept busy."""
        before, self._before = self._before, self._read()
        seconds, ours, *ticks = (now - then for now, then in zip(self._before, before, strict=True))
        service, all_ = (count / os.sysconf("SC_CLK_TCK") for count in ticks)  # differences of whole ticks are exact
        return service * 1000 / max(posted, 1), max(0.0, all_ - service - ours) / seconds

    def _read(self) -> tuple[float, float, int, int]:
        """The time, what this process has used, in seconds; then in ticks what the service has, and all together."""
        # What stands behind the name, which may hold anything: utime and stime are fields 14 and 15.
        own = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        # user, nice and system, then irq, softirq and steal; not idle and iowait.
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (
            time.monotonic(),
            time.process_time(),
            int(own[11]) + int(own[12]),
            user + nice + system + sum(rest),
        )


async def soak(options: argparse.Namespace, data: Path) -> tuple[list[Sample], list[str]]:
    """Run it; the samples, and what is wrong."""
    plan = Plan(seed=options.seed, kill_every=options.kill_every)
    clock, samples, receipts = Clock(), list[Sample](), data / "receipts.jsonl"
    with receipts.open("wb", buffering=0) as file:
        async with service_process(plan, data) as service:
            began = trio.current_time()
            poster = Poster(lambda: HttpClient(service.url), partial(_write, file), options.seed)
            await poster.set_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_samples, service, clock, samples, options.seconds / SAMPLES)
                await post_steadily(poster, service, clock, options, file, began + options.seconds)
                nursery.cancel_scope.cancel()
            await _settle(data, clock)
            status = await service.stop()
    findings = audit(data, receipts_in(receipts))
    wrong = [*growth(samples), *findings.problems]
    print(f"accepted={findings.accepted} duplicates={findings.duplicates} lost={findings.lost}", flush=True)
    return samples, wrong if status == 0 else [*wrong, f"the service stopped with exit status {status}"]


def _write(file: IO[bytes], receipt: Receipt) -> None:
    file.write(msgspec.json.encode(receipt) + b"\n")


async def post_steadily(
    poster: Poster, service: ServiceProcess, clock: Clock, options: argparse.Namespace, file: IO[bytes], until: float
) -> None:
    """So many messages a second in all, by some clients that each wait for the answer."""
    lines, numbers = lines_of_text(LINES), count()

    async def client(numbers: Iterator[int]) -> None:
        http = HttpClient(service.url)
        due = trio.current_time()
        while due < until:
            await trio.sleep_until(due)
            number, began = next(numbers), trio.current_time()
            _write(file, await poster.post_one(http, number, lines[number % LINES]))
            clock.note(trio.current_time() - began)
            due = max(due + options.clients / options.rate, trio.current_time())
        await http.close()

    async with trio.open_nursery() as nursery:
        for _ in range(options.clients):
            nursery.start_soon(client, numbers)


async def take_samples(service: ServiceProcess, clock: Clock, samples: list[Sample], every: float) -> None:
    """One each `every` seconds, and a line of it."""
    http, began = HttpClient(service.url), trio.current_time()
    cpu, before = Cpu(service.process.pid), 0
    print("  ".join(f"{field.name:>11}" for field in fields(Sample)))
    for number in count(1):
        await trio.sleep_until(began + number * every)
        await service.look()
        sample = Sample(
            round(trio.current_time() - began, 1),
            clock.posted,
            service.restarts,
            *process_of(service.process.pid),
            await tasks_of(http),
            *(round(figure, 2) for figure in (*clock.take(), *cpu.take(clock.posted - before))),
        )
        before = clock.posted
        samples.append(sample)
        print("  ".join(f"{getattr(sample, field.name):>11}" for field in fields(Sample)), flush=True)


def process_of(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, open file descriptors, threads. Needs a Linux."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory = int(status["VmRSS"].split()[0]) / 1024
    return round(memory, 1), len(os.listdir(folder / "fd")), int(status["Threads"])


async def tasks_of(http: HttpClient) -> int:
    """Trio's tasks in the service. It is being killed, so it takes some tries."""
    while True:
        try:
            with trio.fail_after(5):
                reply = await http.request("GET", "/stats")
            if reply.status == 200:
                return int(json.loads(reply.body)["tasks"])
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError):
            pass
        await trio.sleep(0.05)


async def _settle(data: Path, clock: Clock) -> None:
    with trio.move_on_after(SETTLE_WITHIN):
        while counted_so_far(data) < clock.posted:  # noqa: ASYNC110  # another process: its files are all there is
            await trio.sleep(0.2)


def main() -> int:
    """Soak; 0 if all stayed as it was and nothing was lost."""
    parser = argparse.ArgumentParser(prog="message_service.soak", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=600.0, help="seconds")
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=0.5, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="creche-soak-"))
    samples, wrong = trio.run(soak, options, data)
    for problem in wrong:
        print(f"PROBLEM {problem}")
    print(f"samples={len(samples)} flat={not wrong}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
