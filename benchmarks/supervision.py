"""Supervision and pools, measured: ``python -m benchmarks.supervision [--json] [--smoke] [--rounds N] [--only ROW]``.

Rows of `benchmarks.core`, `dynamic`, `pool` and `processes`, restarts under load, and what becomes of messages while
actors are killed (`benchmarks.kills`); all interleaved in one run. It exits with 1 if what callers were told of their
messages was not true: a message lost, an effect twice. ``--only`` takes a part of a row's name and may be given several
times.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import _harness as harness
from . import _ours as ours
from . import core, dynamic, kills, pool, processes
from ._erlang import Erlang
from ._harness import Probe, Row

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supervision", description="Measure supervision.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--smoke", action="store_true", help="see that everything runs; the values mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name contains this")
    options = parser.parse_args(arguments)
    size = harness.SMOKE if options.smoke else harness.FULL
    if options.rounds:
        size = dataclasses.replace(size, rounds=options.rounds)
    rows = [row for row in ROWS if not options.only or any(part in row.name for part in options.only)]
    if not rows:
        parser.error(f"no such row; there are {', '.join(row.name for row in ROWS)}")
    logging.getLogger("creche").disabled = True  # nobody listens to crashes, nor to Erlang's
    facts = harness.machine()
    harness.note(facts)
    reports: list[kills.Report] = []
    with tempfile.TemporaryDirectory() as folder, Erlang(Path(folder)) as erlang:
        needed = harness.needed(probes(erlang, reports), rows)
        results = harness.evaluate(rows, harness.measure(needed, size, random.Random()))
    summaries = kills.summaries(reports)
    if options.json:
        harness.print_json(results, size, facts, kills=[dataclasses.asdict(one) for one in summaries])
    else:
        harness.print_table(results)
        kills.print_summaries(summaries)
    return 0 if all(report.audit.clean for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
