"""Supervision and pools, measured: ``python -m benchmarks.supervision``.

Rows of `benchmarks.core`, `dynamic`, `pool` and `processes`, restarts under load, and what becomes of messages while
actors are killed (`benchmarks.kills`); all interleaved in one run. It exits with 1 if what callers were told of their
messages was not true: a message lost, an effect twice.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from . import _harness as harness
from . import _ours as ours
from . import core, dynamic, kills, pool, processes
from ._erlang import Erlang
from ._harness import Probe, Row, Size

LOAD = 64  # callers of other actors

# What these names begin with, of the core's rows.
CORE = (
    *("restart_", "crash_and_ask", "crash_erlang", "group_restart", "shutdown"),
    *("spawn_ready", "memory_idle", "memory_static", "memory_erlang"),
)

ROWS = [
    *(row for row in core.ROWS if row.name.startswith(CORE)),
    # In asks of an actor that is alone: under the load, one ask takes as long as all the others together.
    Row("restart_loaded", "loaded_restart", "one_ask", 1.2, f"raise -> next handler beside {LOAD} callers vs one ask"),
    Row("restart_loaded_p99", "loaded_restart_p99", "one_ask", 2.0, "the same, 99th percentile"),
    Row("crash_loaded", "loaded_crash_and_ask", "loaded_ask", None, "crash and ask vs one ask, both under that load"),
    *dynamic.ROWS,
    *pool.ROWS,
    *(row.of("processes") for row in processes.ROWS),
    *kills.ROWS,
]


def probes(erlang: Erlang, reports: list[kills.Report]) -> list[Probe]:
    """All of this page."""
    return [
        *core.probes_of_ours(),
        *core.probes_of_rivals(),
        *core.probes_of_erlang(erlang),
        Probe(
            ("loaded_restart", "loaded_restart_p99", "loaded_crash_and_ask", "loaded_ask"),
            lambda size: ours.restart(size.share(20), LOAD),
        ),
        *dynamic.PROBES,
        *pool.probes(),
        *(probe.of("processes") for probe in processes.probes()),
        *kills.probes(reports),
    ]


def run(reports: list[kills.Report], rows: Sequence[Row], size: Size) -> list[harness.Result | harness.Blank]:
    """Measure what the rows need."""
    with tempfile.TemporaryDirectory() as folder, Erlang(Path(folder)) as erlang:
        return harness.evaluate(probes(erlang, reports), rows, size)


def summed_up(reports: Sequence[kills.Report]) -> dict[str, harness.Records]:
    return {"kills": [dataclasses.asdict(one) for one in kills.summaries(reports)]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    logging.getLogger("creche").disabled = True  # nobody listens to crashes, nor to Erlang's
    reports: list[kills.Report] = []
    harness.command("supervision", "supervision", ROWS, partial(run, reports), arguments, lambda _: summed_up(reports))
    return 0 if all(report.audit.clean for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
